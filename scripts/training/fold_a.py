"""A quick figure for choosing among training experiments: fold A, thinned, the same windows every time.

    python scripts/training/fold_a.py --cache DIR --model MODEL_DIR      # prepares DIR the first time

    fold = open_fold(DIR)
    figures = evaluate(fold, embed)         # EER in percent of each set, and the averages of `AVERAGES`

The trials are those of `make_trials.py`, fold A, thinned by `thin`; the sound is what the product's window selection
kept on the day that DIR was prepared, at most `WINDOWS_A_SOUND` windows of a sound. Vectors are compared as
`trial_vectors.mean_scores` does. Lower figures here are worth a run of `bench_encoder.py`, and are not to be reported:
an experiment that was chosen by them is flattered by them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own folder is there and not scripts/

from make_trials import SUNG_CORPORA, TrialSet, build_trials
from trial_audio import DEFAULT_AUDIO, MIXING_RULE, RATE_HZ, AudioItem, render
from trial_vectors import ItemVectors, all_windows, mean_scores

from embeddings.model_dir import HOUSE
from embeddings.vocals import WINDOW_SELECTION, VocalWindows
from registry.intervals import balanced_weights
from registry.metrics import eer, roc

WINDOW_S, HOP_S = 4.0, 2.0
#: Evenly spaced among those that the window selection keeps; more of them move no figure by as much as a clip more.
WINDOWS_A_SOUND = 3
#: Clips of a person at most, evenly spaced by path; of other sets all. Every person stays.
CLIPS_A_PERSON = {"sung-ravdess": 8, "sung-nus": 8, "sung-gtsinger": 7, "speech": 4}
#: Of the clone sets: clips that a model is made of, and clones of one target.
CLIPS_A_MODEL = 3
CLONES_A_TARGET = 12
#: Windows given to `evaluate`'s embed at once at most; all of one length.
MAX_BATCH = 64

CLONE_SETS = ("clone-singing", "clone-speech")
#: What is averaged, plainly: the four that an experiment is chosen by, speech beside them.
AVERAGES = {
    "sung": tuple(f"sung-{corpus}" for corpus in SUNG_CORPORA),
    "sung+0db": tuple(f"sung-{corpus}+0db" for corpus in SUNG_CORPORA),
    "mixes": ("mix-mir1k", "sung-mir1k+mix"),
    "clones": CLONE_SETS,
    "macro": ("sung", "sung+0db", "mixes", "clones"),
}
SETS = (*AVERAGES["sung"], *AVERAGES["sung+0db"], *AVERAGES["mixes"], *CLONE_SETS, "speech")

_T = TypeVar("_T")
Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fold:
    """What is kept of fold A.

    Attributes
    ----------
    sets : dict of str to TrialSet
        By name, thinned.
    samples : (n,) int16
        Memory-mapped: all windows, one after the other, at `RATE_HZ`.
    starts, lengths : (n_rows,) int64
        Of each window in `samples`.
    first_row : dict of str to int
        Of each sound; in order, so that its rows end where those of the next begin.
    digest : str
        Which windows these are: figures of two folds are compared only where it is the same.
    """

    sets: dict[str, TrialSet]
    samples: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    first_row: dict[str, int]
    digest: str

    @property
    def sound_s(self) -> float:
        """Seconds of all windows."""
        return len(self.samples) / RATE_HZ


# --- what is heard ----------------------------------------------------------------------------------------------------


def thin(trials: TrialSet) -> TrialSet:
    """Keep some clips of each person of a set, and every person; the same ones with music and without."""
    if trials.name in CLONE_SETS:
        models = tuple(
            replace(model, clips=tuple(model.clips[i] for i in _spread(len(model.clips), CLIPS_A_MODEL)))
            for model in trials.models
        )
        return replace(trials, models=models, tests=_of_each(trials.tests, trials.test_persons(), CLONES_A_TARGET))
    limit = CLIPS_A_PERSON.get(trials.name.partition("+")[0])
    if limit is None:
        return trials
    return replace(
        trials,
        models=_of_each(trials.models, trials.model_persons(), limit),
        tests=_of_each(trials.tests, trials.test_persons(), limit),
    )


def _of_each(entries: Sequence[_T], persons: Sequence[str], limit: int) -> tuple[_T, ...]:
    of_person: dict[str, list[int]] = defaultdict(list)
    for i, person in enumerate(persons):
        of_person[person].append(i)
    return tuple(entries[i] for i in sorted(own[j] for own in of_person.values() for j in _spread(len(own), limit)))


def _spread(n: int, limit: int) -> list[int]:
    """At most `limit` of the numbers below n, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, limit)).round().astype(int)).tolist()


def chosen_windows(samples: np.ndarray) -> list[np.ndarray]:
    """Some of the windows of (n,) samples that carry voice, of all windows where none does."""
    kept = [row for windows in VocalWindows([samples], RATE_HZ, WINDOW_S, HOP_S) for row in windows.samples]
    kept = kept or list(all_windows(samples, WINDOW_S, HOP_S))
    return [kept[i] for i in _spread(len(kept), WINDOWS_A_SOUND)]


def open_fold(cache_dir: Path, audio_root: Path = DEFAULT_AUDIO) -> Fold:
    """Read what is kept of fold A; the first time, prepare it (a minute or two, progress on stderr).

    Parameters
    ----------
    cache_dir : Path
        Made when needed. Holds sound of recordings that may not be passed on; safe to delete.
    audio_root : Path
        Folder of recordings; only its manifests are read once the fold is kept.

    Notes
    -----
    The files are named by a hash over the manifests and every rule of this module, and not over the window selection:
    experiments stay comparable while that is being worked on. To hear the windows of today, give an empty folder.
    """
    all_sets = build_trials(audio_root, "A")
    sets = {name: thin(all_sets[name]) for name in SETS}
    rules = [WINDOW_S, HOP_S, WINDOWS_A_SOUND, CLIPS_A_PERSON, CLIPS_A_MODEL, CLONES_A_TARGET, MIXING_RULE]
    text = json.dumps([rules, sets["speech"].manifests, sets["speech"].seed], sort_keys=True)
    stem = cache_dir / f"fold_a-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    sound_path, index_path = stem.with_suffix(".int16"), stem.with_suffix(".json")
    if not index_path.is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        _prepare(audio_root, {k: i for s in sets.values() for k, i in s.audio_items().items()}, sound_path, index_path)
    index = json.loads(index_path.read_text(encoding="utf-8"))
    lengths = np.array(index["lengths"], dtype=np.int64)
    return Fold(
        sets=sets,
        samples=np.memmap(sound_path, np.int16, mode="r"),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        first_row=index["first_row"],
        digest=index["sha256"],
    )


def _prepare(audio_root: Path, items: Mapping[str, AudioItem], sound_path: Path, index_path: Path) -> None:
    """Write the windows of all sounds, and last the index, which says that they are complete."""
    lengths: list[int] = []
    first_row: dict[str, int] = {}
    sha256 = hashlib.sha256()
    said = time.perf_counter()
    partial = sound_path.with_suffix(".part")
    with partial.open("wb") as file:
        for n, (key, item) in enumerate(items.items(), start=1):
            first_row[key] = len(lengths)
            for row in chosen_windows(render(audio_root, item)):
                content = np.clip(np.rint(row * 32768), -32768, 32767).astype("<i2").tobytes()
                file.write(content)
                sha256.update(content)
                lengths.append(len(row))
            if n == len(items) or time.perf_counter() - said > 15:
                said = time.perf_counter()
                print(f"fold A: {n:,} of {len(items):,} sounds prepared", file=sys.stderr, flush=True)
    partial.replace(sound_path)
    index = {
        "sha256": sha256.hexdigest(),
        "window_selection": WINDOW_SELECTION,
        "lengths": lengths,
        "first_row": first_row,
    }
    partial = index_path.with_suffix(".part")
    partial.write_text(json.dumps(index), encoding="utf-8")
    partial.replace(index_path)


# --- the figures ------------------------------------------------------------------------------------------------------


def evaluate(fold: Fold, embed: Embed) -> dict[str, float]:
    """Score an encoder on the fold.

    Parameters
    ----------
    fold : Fold
    embed : function of (n, n_samples) float32 to (n, dim)
        Windows at `RATE_HZ`, full scale 1, at most `MAX_BATCH` of them and all of one length: 4 s, or less where the
        whole recording is shorter. The vectors need not be of unit length; they must have one.

    Returns
    -------
    dict of str to float
        EER in percent: of each of `SETS` (of the clone sets averaged over targets), then of `AVERAGES`.
    """
    vectors = embed_rows(fold, embed)
    ends = [*list(fold.first_row.values())[1:], len(vectors)]
    items = {}
    for (key, first), end in zip(fold.first_row.items(), ends, strict=True):
        voiced_s = float(fold.lengths[first:end].sum()) / RATE_HZ
        items[key] = ItemVectors(vectors[first:end], np.ones(end - first, np.float32), voiced_s, 0.0, fell_back=False)
    figures = {name: 100 * set_eer(trials, mean_scores(trials, items)) for name, trials in fold.sets.items()}
    for name, parts in AVERAGES.items():
        figures[name] = float(np.mean([figures[part] for part in parts]))
    return figures


def set_eer(trials: TrialSet, scores: np.ndarray) -> float:
    """EER of a set, in [0, 1], from (n_tests, n_models) scores; of a clone set every target counts alike."""
    pairs = trials.pairs()
    weights = balanced_weights(pairs.is_target, pairs.test_person) if trials.name in CLONE_SETS else None
    return eer(roc(scores[pairs.test_index, pairs.enroll_index], pairs.is_target, weights))


def embed_rows(fold: Fold, embed: Embed) -> np.ndarray:
    """Embed every window: (n_rows, dim) float32 unit rows, in order."""
    vectors: np.ndarray | None = None
    for length in np.unique(fold.lengths):
        alike = np.flatnonzero(fold.lengths == length)
        for rows in np.split(alike, np.arange(MAX_BATCH, len(alike), MAX_BATCH)):
            windows = np.stack([fold.samples[fold.starts[i] : fold.starts[i] + length] for i in rows])
            embedded = np.asarray(embed(windows.astype(np.float32) / np.float32(32768)), dtype=np.float32)
            norms = np.linalg.norm(embedded, axis=1, keepdims=True)
            if embedded.shape[:1] != rows.shape or not (np.isfinite(norms).all() and norms.min() > 0):
                raise ValueError(f"{len(rows)} windows gave {embedded.shape}, or vectors without direction")
            if vectors is None:
                vectors = np.empty((len(fold.lengths), embedded.shape[1]), np.float32)
            vectors[rows] = embedded / norms
    if vectors is None:
        raise ValueError("the fold holds no windows")
    return vectors


def print_figures(figures: Mapping[str, float]) -> None:
    """The averages, then the sets."""
    for name in ("macro", *(name for name in AVERAGES if name != "macro"), "speech"):
        print(f"{name:20}{figures[name]:6.2f}")
    print()
    for name in SETS:
        print(f"{name:20}{figures[name]:6.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--cache", type=Path, required=True, help="where the windows are kept")
    parser.add_argument("--model", default=HOUSE, help="a model directory (%(default)s: the built-in encoder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)

    from embeddings.encoder import SpeechBrainEncoder  # slow to import
    from embeddings.model_dir import model_digest

    trusted = () if options.model == HOUSE else {model_digest(Path(options.model))}
    encoder = SpeechBrainEncoder(options.model, trusted=trusted)
    fold = open_fold(options.cache, options.audio)
    started = time.perf_counter()
    figures = evaluate(fold, encoder.embed_windows)
    spent_s = time.perf_counter() - started
    print(f"EER in percent, fold A thinned, windows {fold.digest[:12]}, {options.model}")
    print_figures(figures)
    print(
        f"\n{len(fold.lengths):,} windows, {fold.sound_s / 3600:.2f} h, in {spent_s:.0f} s, "
        f"{fold.sound_s / spent_s:.0f} x real time"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
