"""Pools that are made piece by piece: cut at any moment, they go on where they were.

    grow((Path("pools/voice_sung"),), {"seed": 1, ...}, n_units, make, workers=2)

A unit is a piece of the work: a person, a song. Units are made in order, in as many processes as asked for, and
appended to the pools; every `batch` units the indexes are put in place, so that a pool can be read while it grows, and
STEM.progress.json (of the first pool) says how far it is. What was appended after that is cut off by the next run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from training.pools import RATE_HZ, Clip

Made = tuple[np.ndarray, str, str, str]  #: samples (n,) int16, label, corpus, path
MakeUnit = Callable[[int], Sequence[Sequence[Made]]]  #: the clips of a unit, a sequence for each pool


def grow(
    stems: Sequence[Path], plan: Mapping[str, object], n_units: int, make: MakeUnit, workers: int = 1, batch: int = 5
) -> None:
    """Make the units that `stems` have not yet; a line on stderr after each batch.

    Parameters
    ----------
    stems : sequence of Path
        The pools that the units go into, without ``.i16``.
    plan : mapping
        Everything that the units are made from, to be written as JSON: a run with another plan is refused.
    n_units : int
        Units 0 to `n_units` - 1 are made.
    make : callable
        Of a unit's number alone, to be pickled where there is more than one worker.
    workers : int
        Processes. What is made does not depend on it.
    batch : int
        Units from one time that the indexes are written to the next.

    Raises
    ------
    ValueError
        If the pools were begun with another plan, or are there and nothing says how they were made.
    """
    progress_path = stems[0].with_suffix(".progress.json")
    plan = json.loads(json.dumps({**plan, "n_units": n_units}))
    indexes, done = _resume(stems, plan, progress_path)
    files = [stem.with_suffix(".i16").open("ab") for stem in stems]
    begun_s, n_before, first = time.monotonic(), [_end(index) for index in indexes], done
    try:
        for clips_of_pools in _made(make, range(done, n_units), workers):
            for index, file, clips in zip(indexes, files, clips_of_pools, strict=True):
                for samples, label, corpus, path in clips:
                    index.append(Clip(_end(index), len(samples), label, corpus, path))
                    file.write(np.ascontiguousarray(samples, "<i2").tobytes())
            done += 1
            if done % batch == 0 or done == n_units:
                _put_in_place(stems, files, indexes, {"plan": plan, "done": done}, progress_path)
                taken_s = time.monotonic() - begun_s
                made_s = sum(_end(index) - n for index, n in zip(indexes, n_before, strict=True)) / RATE_HZ
                hours = ", ".join(
                    f"{stem.name} {_end(index) / RATE_HZ / 3600:.2f} h"
                    for stem, index in zip(stems, indexes, strict=True)
                )
                print(
                    f"{done:,} of {n_units:,}: {hours}; {made_s / taken_s:.1f} x real time, "
                    f"{taken_s / 60 * (n_units - done) / (done - first):.0f} min left",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        for file in files:
            file.close()


def _made(make: MakeUnit, numbers: range, workers: int) -> Iterator[Sequence[Sequence[Made]]]:
    if workers == 1:
        yield from map(make, numbers)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        yield from processes.imap(make, numbers)


def _resume(stems: Sequence[Path], plan: dict[str, object], progress_path: Path) -> tuple[list[list[Clip]], int]:
    """The pools' indexes and how many units are in them; files are cut to what the progress file vouches for."""
    progress: dict[str, object] = {"plan": plan, "done": 0, "n_clips": [0] * len(stems)}
    if progress_path.is_file():
        progress = json.loads(progress_path.read_text("utf-8"))
        if progress["plan"] != plan:
            raise ValueError(
                f"{progress_path}: was begun as {progress['plan']}, asked for is {plan}; "
                "give the same, or another place to write to"
            )
    elif there := [stem for stem in stems if stem.with_suffix(".json").exists()]:
        raise ValueError(f"{there[0]}.json: is there without {progress_path.name}; give another place to write to")
    indexes = []
    for stem, n_clips in zip(stems, progress["n_clips"], strict=True):
        stem.parent.mkdir(parents=True, exist_ok=True)
        index = json.loads(stem.with_suffix(".json").read_text("utf-8")) if n_clips else []
        indexes.append([Clip(*row) for row in index[:n_clips]])
        with stem.with_suffix(".i16").open("ab") as file:
            file.truncate(_end(indexes[-1]) * 2)
    return indexes, progress["done"]


def _put_in_place(
    stems: Sequence[Path],
    files: Sequence[object],
    indexes: Sequence[Sequence[Clip]],
    progress: dict[str, object],
    progress_path: Path,
) -> None:
    """Samples first, then what points at them, then what vouches for both."""
    for stem, file, index in zip(stems, files, indexes, strict=True):
        file.flush()
        os.fsync(file.fileno())
        _replace(stem.with_suffix(".json"), index)
    _replace(progress_path, {**progress, "n_clips": [len(index) for index in indexes]})


def _replace(path: Path, value: object) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value), "utf-8")
    partial.replace(path)


def _end(index: Sequence[Clip]) -> int:
    return index[-1].offset + index[-1].n_samples if index else 0
