"""Measure `likeness batch` with one and two decoders against `likeness query` in a new process for every track.

    python scripts/bench_batch.py            # 40 tracks of a minute, 3 rounds
    python scripts/bench_batch.py --quick    # 6 tracks, 1 round, about a minute

The tracks are synthetic songs (scripts/synth_voices.py), one after the other, and so are the four artists who are
enrolled in a registry made for this. Everything is measured as a user would: whole commands, from their start to their
end, with the built-in encoder. "Once started" leaves out what a batch takes before and after its tracks: the time of
the same batch with one track is subtracted. The loop is measured on a few tracks and given per track, because all its
tracks cost the same. Both must give the same verdicts and scores, or this stops.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import synth_voices as voices

REPO = Path(__file__).parent.parent
SONG_S = 20.0
TRACK_S = 60.0
N_LOOP = 3  # tracks that are queried one process at a time
WORKERS = (1, 2)
LOOP = "query, one process a track"
#: Most that two scores of one track may differ: windows travel in other company, which moves the last bits.
SAME_SCORE = 0.01


def likeness(home: Path, *arguments: object) -> tuple[float, str]:
    """Run a command; returns how long it took in seconds, and its stdout."""
    command = [sys.executable, "-m", "registry", *map(str, arguments), "--home", str(home)]
    start_s = time.perf_counter()
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    duration_s = time.perf_counter() - start_s
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
    return duration_s, result.stdout


def render(singer: voices.Singer, name: str) -> np.ndarray:
    rng = voices.rng_for(f"bench_batch {name}")
    return voices.render_song(singer, voices.compose(singer, rng, SONG_S), rng)


def make_registry(folder: Path) -> Path:
    """Enroll the synthetic artists, one song each."""
    home = folder / "home"
    for singer in voices.ENROLLED:
        path = folder / "artists" / f"{singer.name}.wav"
        voices.write_wav(path, render(singer, f"reference {singer.name}"))
        likeness(home, "enroll", singer.name, path, "--consent", "bench_batch: synthetic")
    return home


def make_tracks(folder: Path, n_tracks: int) -> list[Path]:
    """Write tracks of a minute, no two alike: each begins elsewhere in the songs of one singer."""
    singers = [*voices.ENROLLED, *voices.STRANGERS]
    songs = [np.concatenate([render(singer, f"{singer.name} {i}") for i in range(2)]) for singer in singers]
    paths = []
    n_samples = round(TRACK_S * voices.RATE_HZ)
    for number in range(n_tracks):
        song = np.roll(songs[number % len(songs)], -number * voices.RATE_HZ)
        path = folder / "tracks" / f"{number:03d}.flac"
        path.parent.mkdir(exist_ok=True)
        samples = np.resize(song, n_samples)
        soundfile.write(path, samples / np.abs(samples).max() * 0.9, voices.RATE_HZ, subtype="PCM_16")
        paths.append(path)
    return paths


def run_batch(home: Path, tracks: list[Path], n_workers: int) -> tuple[float, dict[str, dict]]:
    """Examine tracks in one batch; returns its seconds and the scans by path."""
    duration_s, stdout = likeness(home, "batch", *tracks, "--workers", n_workers, "--new-run")
    lines = [json.loads(line) for line in stdout.splitlines()]
    if [line["path"] for line in sorted(lines, key=lambda line: line["position"])] != [str(path) for path in tracks]:
        raise SystemExit("a batch did not give every track once")
    return duration_s, {line["path"]: line["scan"] for line in lines}


def run_loop(home: Path, tracks: list[Path]) -> tuple[list[float], dict[str, dict]]:
    """Query tracks one process at a time; returns the seconds of each and the scans by path."""
    durations_s, scans = [], {}
    for path in tracks:
        duration_s, stdout = likeness(home, "query", path, "--json", "--no-save")
        durations_s.append(duration_s)
        (scans[str(path)],) = json.loads(stdout)
    return durations_s, scans


def check_same(batch: dict[str, dict], loop: dict[str, dict]) -> None:
    for path, scan in loop.items():
        other = batch[path]
        scores, other_scores = (
            [(match["artist"], match["norm_score"]) for match in s["matches"]] for s in (scan, other)
        )
        near = all(a[0] == b[0] and abs(a[1] - b[1]) <= SAME_SCORE for a, b in zip(scores, other_scores, strict=True))
        if scan["verdict"] != other["verdict"] or not near:
            raise SystemExit(f"{path}: query says {scan['verdict']} {scores}, batch {other['verdict']} {other_scores}")


def row(trials: str, system: str, metric: str, values: list[float]) -> dict[str, str | float]:
    figures: dict[str, str | float] = {"value": float(np.median(values)), "low": min(values), "high": max(values)}
    return {"trials": trials, "system": system, "metric": metric, **figures, "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 tracks and 1 round; about a minute")
    parser.add_argument("--tracks", type=int, metavar="N", help="tracks in a batch (default: 40)")
    parser.add_argument("--rounds", type=int, help="times that everything is measured (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    arguments = parser.parse_args()
    n_tracks = arguments.tracks or (6 if arguments.quick else 40)
    n_rounds = arguments.rounds or (1 if arguments.quick else 3)
    if n_tracks < 2:
        parser.error("--tracks: at least 2 are needed")

    systems = {f"batch, {n} worker{'s' if n > 1 else ''}": n for n in WORKERS}
    per_track_s: dict[str, list[float]] = {system: [] for system in (LOOP, *systems)}
    started_s: dict[str, list[float]] = {system: [] for system in systems}
    with tempfile.TemporaryDirectory() as name:
        home, tracks = make_registry(Path(name)), make_tracks(Path(name), n_tracks)
        for _ in range(n_rounds):
            durations_s, looped = run_loop(home, tracks[: min(N_LOOP, n_tracks)])
            per_track_s[LOOP].append(float(np.mean(durations_s)))
            for system, n_workers in systems.items():
                one_s, _ = run_batch(home, tracks[:1], n_workers)
                all_s, scans = run_batch(home, tracks, n_workers)
                check_same(scans, looped)
                per_track_s[system].append(all_s / n_tracks)
                started_s[system].append(max(all_s - one_s, 1e-9) / (n_tracks - 1))

    trials = f"{n_tracks} synthetic tracks of {TRACK_S:g} s, 4 artists"
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"{trials}, {n_rounds} rounds (median); {os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
    head = ("system", "s a track", "tracks a second", "x real time", "once started", "times the loop")
    print(f"{head[0]:<26}  " + "  ".join(f"{name:>15}" for name in head[1:]))
    rows = []
    for system, values_s in per_track_s.items():
        speeds, real = [1 / value_s for value_s in values_s], [TRACK_S / value_s for value_s in values_s]
        started = [TRACK_S / value_s for value_s in started_s.get(system, [])]
        ratios = [loop_s / value_s for loop_s, value_s in zip(per_track_s[LOOP], values_s, strict=True)]
        rows += [
            row(trials, system, "tracks_per_s", speeds),
            row(trials, system, "times_real_time", real),
            *([row(trials, system, "times_real_time_once_started", started)] if started else []),
            row(trials, system, "times_as_fast_as_query_loop", ratios),
        ]
        cells = [
            f"{np.median(values_s):.2f}",
            f"{np.median(speeds):.2f}",
            f"{np.median(real):.0f}",
            f"{np.median(started):.0f}" if started else "",
            f"{np.median(ratios):.1f}",
        ]
        print(f"{system:<26}  " + "  ".join(f"{cell:>15}" for cell in cells))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
