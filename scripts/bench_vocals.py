"""Measure how the voice detector behaves on recordings of voices, songs and instruments.

    python scripts/bench_vocals.py                               # the figures to report, fold B
    python scripts/bench_vocals.py --fold A                      # the figures to choose by
    python scripts/bench_vocals.py --fold A --try MIN_EVIDENCE 0.18 0.22 0.26

`--try` repeats the measurement with a constant of `embeddings.vocals` set to each value.

A track abstains when less than 1.5 s of voice is found, the limit under which `likeness` says nothing about it; clips
shorter than 2 s are left out. "voice kept" is the voiced time in the windows that were kept as a share of the voiced
time in all windows: what the choice of windows throws away. Intervals: 95 %, bootstrap over persons, or over pieces of
music, whose clips are cuts of one piece; "0.0 to 0.0" says only that none was met. Pieces have no fold in their
manifests: a hash of the name divides them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from trial_audio import DEFAULT_AUDIO

from embeddings import vocals
from embeddings.audio import open_audio

MIN_VOICED_S = 1.5
MIN_CLIP_S = 2.0
RATE_HZ = 16000
QUICK_CLIPS = 40  # per folder: a minute in all


@dataclass
class Clip:
    """A recording of the bench."""

    group: str
    owner: str  # person or piece: what is resampled for the intervals
    path: Path


@dataclass
class Outcome:
    """What the detector made of a clip."""

    duration_s: float
    n_windows: int
    n_kept: int
    voiced_s: float
    voiced_anyway_s: float  # with every window kept


def list_clips(fold: str) -> Iterator[Clip]:
    with (DEFAULT_AUDIO / "dev/voices.csv").open() as lines:
        for row in csv.DictReader(lines):
            if row["fold"] == fold and row["kind"] != "clones":
                corpus = "" if row["kind"] != "mixes" else f" {row['person_id'].split('-')[0]}"
                yield Clip(row["kind"] + corpus, row["person_id"], DEFAULT_AUDIO / row["path"])
    for folder in ("instrumental", "music"):
        with (DEFAULT_AUDIO / f"dev/{folder}.csv").open() as lines:
            for row in csv.DictReader(lines):
                if "AB"[hashlib.sha256(row["track"].encode()).digest()[0] % 2] == fold:
                    yield Clip(folder, row["track"], DEFAULT_AUDIO / row["path"])


def detect(samples: np.ndarray) -> tuple[int, vocals.VocalWindows]:
    windows = vocals.VocalWindows([samples], RATE_HZ)
    return sum(len(some.start_s) for some in windows), windows


def measure(samples: np.ndarray) -> Outcome:
    n_kept, found = detect(samples)
    chosen = vocals.MIN_EVIDENCE, vocals.MIN_PRESENCE
    vocals.MIN_EVIDENCE = vocals.MIN_PRESENCE = -1.0
    try:
        n_windows, anyway = detect(samples)
    finally:
        vocals.MIN_EVIDENCE, vocals.MIN_PRESENCE = chosen
    return Outcome(found.duration_s, n_windows, n_kept, found.voiced_s, anyway.voiced_s)


def figures(outcomes: list[Outcome]) -> dict[str, float]:
    long_enough = [o for o in outcomes if o.duration_s >= MIN_CLIP_S]
    return {
        "windows kept": sum(o.n_kept for o in outcomes) / max(1, sum(o.n_windows for o in outcomes)),
        "voice kept": sum(o.voiced_s for o in outcomes) / max(1e-9, sum(o.voiced_anyway_s for o in outcomes)),
        "abstaining": float(np.mean([o.voiced_s < MIN_VOICED_S for o in long_enough])) if long_enough else float("nan"),
    }


def report(clips: list[Clip], audio: list[np.ndarray], trials: str, system: str) -> list[dict[str, object]]:
    started = time.perf_counter()
    outcomes = [measure(samples) for samples in audio]
    speed = 2 * sum(o.duration_s for o in outcomes) / (time.perf_counter() - started)  # every clip is looked at twice
    rows: list[dict[str, object]] = []
    print(f"{system}, {trials}, {speed:,.0f} times real time without decoding")
    print(f"{'':20}{'clips':>6}{'owners':>7}{'windows kept %':>24}{'voice kept %':>24}{'abstaining %':>24}")
    for group in dict.fromkeys(clip.group for clip in clips):
        by_owner: dict[str, list[Outcome]] = {}
        for clip, outcome in zip(clips, outcomes, strict=True):
            if clip.group == group:
                by_owner.setdefault(clip.owner, []).append(outcome)
        owners = list(by_owner.values())
        n = sum(map(len, owners))
        rng = np.random.default_rng(0)
        draws = [
            figures([o for i in rng.integers(len(owners), size=len(owners)) for o in owners[i]]) for _ in range(300)
        ]
        cells = []
        for metric, value in figures([o for some in owners for o in some]).items():
            low, high = np.nanquantile([draw[metric] for draw in draws], [0.025, 0.975])
            rows.append({"trials": f"{trials} {group}", "system": system, "metric": metric})
            rows[-1] |= {"value": value, "low": float(low), "high": float(high), "n": n}
            cells.append(f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        print(f"{group:20}{n:>6}{len(owners):>7}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", choices=["A", "B"], default="B", help="B to report, A to choose (default: B)")
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_CLIPS} clips of each folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--try", nargs="+", metavar=("NAME", "VALUE"), dest="trial", help="a constant and its values")
    options = parser.parse_args()

    clips = list(list_clips(options.fold))
    if options.quick:
        rng = np.random.default_rng(0)
        groups = [[c for c in clips if c.group == group] for group in dict.fromkeys(c.group for c in clips)]
        clips = [some[i] for some in groups for i in sorted(rng.permutation(len(some))[:QUICK_CLIPS])]
    audio = []
    for clip in clips:
        with open_audio(clip.path, RATE_HZ) as stream:
            audio.append(np.concatenate(list(stream)))

    trials = f"dev fold {options.fold}" + (" quick" if options.quick else "")
    if options.trial:
        name, *values = options.trial
        rows = []
        for value in values:
            setattr(vocals, name, type(getattr(vocals, name))(float(value)))
            vocals._tables.cache_clear()
            rows += report(clips, audio, trials, f"{vocals.WINDOW_SELECTION} {name}={value}")
    else:
        rows = report(clips, audio, trials, vocals.WINDOW_SELECTION)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
