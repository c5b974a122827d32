"""All pools that a training wants, made once: what is there already, whole, is left alone; cut, it goes on.

Of the 9 hours of speech of `train/`: two minutes for the recorded pools, an hour of one core for singing and copies, a
quarter of an hour for 300 songs of accompaniment, ten minutes for the targets of a teacher.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from training.pools import LIMITS_S, build_recorded

#: Rendered songs of 45 s; of other seeds there are as many more as wanted.
SONGS = 300

#: Pools made of others by `training.singing`: of which, what it is told.
MADE = {
    "voice": ["--sung", "voice_sung", "--copies", "voice_copy"],
    "sung": ["--copies", "sung_copy", "--highest-hz", "1000"],
}


def prepare(folder: Path, audio_root: Path, names: Collection[str], teacher: str | None, *, workers: int = 1) -> None:
    """Make the pools `names` and the targets of a teacher in `folder`; progress on stderr.

    Parameters
    ----------
    folder : Path
        Made when needed.
    audio_root : Path
        Recordings; ``train/`` of it is read.
    names : collection of str
        Of `training.pools.LIMITS_S`, of the pools in `MADE`, and ``accompaniment``.
    teacher : str or None
        ``resemblyzer``, or the name of a model directory beside the pools or built in (``house``).
    workers : int
        Processes.

    Raises
    ------
    ValueError
        A pool of no such name.
    """
    made = {option for options in MADE.values() for option in options if "_" in option}
    known = {*LIMITS_S, *made, "accompaniment"}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"{', '.join(unknown)}: no such pool; there are {', '.join(sorted(known))}")
    build_recorded(audio_root, folder)
    if "accompaniment" in names:
        from training import accompaniment

        out = ["--out", str(folder / "accompaniment"), "--songs", str(SONGS)]
        accompaniment.main([*out, "--workers", str(workers)])
    for pool, options in MADE.items():
        if set(names) & set(options):
            from training import singing

            paths = [str(folder / option) if option in made else option for option in options]
            singing.main(["--pool", str(folder / pool), *paths, "--workers", str(workers)])
    if teacher is not None:
        _make_targets(folder, teacher)


def _make_targets(folder: Path, teacher: str) -> None:
    from training import teachers

    missing = [name for name in ("voice", "sung") if not (folder / f"{name}.{teacher}.npz").is_file()]
    if not missing:
        return
    if teacher == "resemblyzer":
        embed = teachers.resemblyzer()
    else:
        embed = teachers.model_directory("house" if teacher == "house" else str(folder / teacher))
    for name in missing:
        teachers.make_targets(folder / name, teacher, embed)
