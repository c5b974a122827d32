"""Measure what encryption costs: an encrypted and a plain registry of the same made-up voices, side by side in one run.

    python scripts/bench_encryption.py --quick --json figures.json

12,500 artists with a reference of 8 windows and 8 templates each, 100,000 templates in all (--quick: a tenth), written
through the functions that `likeness enroll` uses, without the audio and the model. Then, in turn and in an order that
changes, for each of the two:

enroll   one more artist: a reference of 119 windows (four minutes), 8 templates, consent and audit, one transaction.
         It ends with the disk's sync, which is most of it.
open     a new `Store` and its `Matcher`: keys, templates, names, and the index file.
query    one four-minute track (119 windows) against all.
rotate   a new key (encrypted only): every artist's key is wrapped anew.

Milliseconds that passed, and those of the processor, which other work on the machine disturbs less.

At last a byte search, with no knowledge of the format: of 100 artists the name, the path, the consent and 16 bytes of a
template are looked for in every file of both homes. The plain one must hold all of them, the encrypted one none.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from large_registry import (
    DIM,
    TEMPLATES,
    MadeUpEncoder,
    add_artist,
    consent_of,
    fill,
    name_of,
    path_of,
    unit_vectors,
)

from embeddings.extract import Voiceprint
from registry.encryption import encrypt_registry, rotate_key
from registry.match import Matcher, write_store_index
from registry.store import Store

N_ARTISTS = 12_500
#: Windows of four minutes, 4 s every 2 s.
N_WINDOWS = 119
N_SEARCHED = 100
SYSTEMS = ("plain", "encrypted")

Row = dict[str, str | float]


def make_registry(home: Path, key_path: Path | None, encoder: MadeUpEncoder, vectors: np.ndarray) -> None:
    """Write a registry of the artists whose templates are `vectors`, (n_artists, TEMPLATES, DIM)."""
    with Store(home, create=True) as store:
        if key_path is not None:
            encrypt_registry(store, "bench", f"file:{key_path}")
        fill(store, encoder, vectors)


@contextmanager
def timed(times_s: list[tuple[float, float]]) -> Iterator[None]:
    """Add the seconds that passed and those that the processor worked on this process."""
    start_s, cpu_start_s = time.perf_counter(), time.process_time()
    yield
    times_s.append((time.perf_counter() - start_s, time.process_time() - cpu_start_s))


def measure(homes: dict[str, Path], encoder: Any, n_rounds: int, rng: np.random.Generator) -> dict[str, Any]:
    """Seconds of each measure and system, (n_rounds, 2) as of `timed`; round 0 warms up and is not counted."""
    times_s: dict[str, dict[str, list[tuple[float, float]]]] = {
        measure: {system: [] for system in SYSTEMS} for measure in ("open", "query", "enroll")
    }
    n_enrolled = dict.fromkeys(SYSTEMS, 0)
    for number in range(n_rounds + 1):
        windows, added = unit_vectors(rng, N_WINDOWS), unit_vectors(rng, N_WINDOWS)
        answers = {}
        for system in np.roll(SYSTEMS, number).tolist():
            with timed(times_s["open"][system]):
                store = Store(homes[system])
                matcher = Matcher(store, encoder, no_note, threshold=3.0)
            with store:
                with timed(times_s["query"][system]):
                    matches = matcher.match(voiceprint_of(windows))
                answers[system] = [(match.artist, match.score, match.evidence) for match in matches]
                n_enrolled[system] += 1
                with timed(times_s["enroll"][system]), store.writing():
                    add_artist(store, encoder, name_of(900_000 + n_enrolled[system]), added)
                write_store_index(store, print)
        if answers["plain"] != answers["encrypted"]:
            raise SystemExit("the two registries answer differently")
    return {name: {system: np.array(values[1:]) for system, values in of.items()} for name, of in times_s.items()}


def no_note(line: str) -> None:
    """Nothing is to be said: an index that had to be rebuilt would make "open" mean something else."""
    raise SystemExit(f"unexpected: {line}")


def voiceprint_of(windows: np.ndarray) -> Voiceprint:
    start_s = 2.0 * np.arange(len(windows))
    presence = np.ones(len(windows), np.float32)
    return Voiceprint(windows, start_s, start_s + 4.0, presence, 240.0, 240.0, "d" * 64)


def measure_rotation(home: Path, n_rounds: int) -> np.ndarray:
    times_s: list[tuple[float, float]] = []
    for _ in range(n_rounds):
        with Store(home) as store, timed(times_s):
            rotate_key(store)
    return np.array(times_s)


def size_of(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


def search_homes(homes: dict[str, Path], vectors: np.ndarray, rng: np.random.Generator) -> list[Row]:
    """How many of each kind of secret a byte search finds in each home; stops where that is not all and none."""
    chosen = rng.choice(len(vectors), N_SEARCHED, replace=False).tolist()
    secrets: dict[str, Callable[[int], bytes]] = {
        "name": lambda number: name_of(number).encode(),
        "path": lambda number: path_of(name_of(number)).encode(),
        "consent": lambda number: consent_of(name_of(number)).encode(),
        "vector": lambda number: vectors[number, 0].astype("<f4").tobytes()[:16],
    }
    rows: list[Row] = []
    for what, secret in secrets.items():
        for system, expected in (("plain", N_SEARCHED), ("encrypted", 0)):
            n_found = sum(holds(homes[system], secret(number)) for number in chosen)
            rows.append({"trials": f"{N_SEARCHED} {what}s", "system": system, "metric": "found", "value": n_found})
            print(f"{what:<10}{system:<12}{n_found:>4} of {N_SEARCHED} found")
            if n_found != expected:
                raise SystemExit(f"{expected} should have been found")
    return rows


def holds(home: Path, needle: bytes) -> bool:
    """Do these bytes stand in any file of the home?"""
    for path in home.rglob("*"):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(needle) >= 0:
                    return True
    return False


def timing_row(trials: str, system: str, metric: str, values: np.ndarray) -> Row:
    """Print and return a figure."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    print(f"{metric:<28}{system:<12}{median:>10.2f} ({low:.2f} - {high:.2f})", flush=True)
    figures: Row = {"value": median, "low": low, "high": high, "n": len(values)}
    return {"trials": trials, "system": system, "metric": metric, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 templates and 5 rounds rather than 100,000 and 10")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    parser.add_argument("--seed", type=int, default=0, help="of the vectors (default: %(default)s)")
    arguments = parser.parse_args()
    for name in ("LIKENESS_KEY", "LIKENESS_KEY_FILE"):
        os.environ.pop(name, None)

    n_artists, n_rounds = (N_ARTISTS // 10, 5) if arguments.quick else (N_ARTISTS, 10)
    rng = np.random.default_rng(arguments.seed)
    vectors = unit_vectors(rng, n_artists * TEMPLATES).reshape(n_artists, TEMPLATES, DIM)
    encoder = MadeUpEncoder(rng)
    trials = f"random, artists={n_artists}, templates={n_artists * TEMPLATES}, dim={DIM}"
    print(f"{trials}, {n_rounds} rounds; median (5 % and 95 %); ratio: times the plain one, same round")
    with tempfile.TemporaryDirectory() as folder:
        homes = {system: Path(folder) / system for system in SYSTEMS}
        make_registry(homes["plain"], None, encoder, vectors)
        make_registry(homes["encrypted"], Path(folder) / "bench.key", encoder, vectors)
        sizes = {system: size_of(home) for system, home in homes.items()}
        rows: list[Row] = [
            {"trials": trials, "system": system, "metric": "bytes", "value": size} for system, size in sizes.items()
        ]
        ratio = sizes["encrypted"] / sizes["plain"]
        rows.append({"trials": trials, "system": "encrypted", "metric": "bytes, times plain", "value": ratio})
        print(
            f"size      {sizes['plain'] / 1e6:.1f} MB plain, {sizes['encrypted'] / 1e6:.1f} MB encrypted, {ratio:.3f}"
        )
        rows += search_homes(homes, vectors, rng)
        for name, of in measure(homes, encoder, n_rounds, rng).items():
            ratios = of["encrypted"] / of["plain"]
            for column, unit in enumerate(("ms", "cpu_ms")):
                for system in SYSTEMS:
                    rows.append(timing_row(trials, system, f"{name}_{unit}", 1000 * of[system][:, column]))
                rows.append(timing_row(trials, "encrypted", f"{name}_{unit}, times plain", ratios[:, column]))
        rotations_ms = 1000 * measure_rotation(homes["encrypted"], n_rounds)
        rows.append(timing_row(trials, "encrypted", "rotate_ms", rotations_ms[:, 0]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
