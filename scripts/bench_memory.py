"""Measure the peak memory of embedding a recording, against its length: it should not depend on it.

    python scripts/bench_memory.py            # 10 minutes, 2 hours, 10 hours: 1 GB of disk, a quarter of an hour
    python scripts/bench_memory.py --quick    # 5 and 15 minutes, about a minute

Each recording is made of synthetic songs (scripts/synth_voices.py), one after the other, as FLAC at 24 kHz, so that
decoder, resampler, voice detector and the built-in encoder all have work to do. Each is embedded in a process of its
own by `embed_file`, as `likeness enroll` and `likeness query` do; the peak is what the kernel says of that process at
its end (getrusage, ru_maxrss: all that was resident, shared libraries too). Exits 1 if a peak is more than 10 % from
the first.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile

FULL_MINUTES = (10.0, 120.0, 600.0)
#: Not shorter: the peak climbs a little in the first minutes, while the allocator finds its size.
QUICK_MINUTES = (5.0, 15.0)
SONG_S = 20.0
#: The most that a peak may differ from the first, relative.
TOLERANCE = 0.10


def write_recording(path: Path, songs: list[np.ndarray], rate_hz: int, duration_s: float) -> None:
    """Write songs one after the other until `duration_s`, never holding more than one of them."""
    n_left = round(duration_s * rate_hz)
    with soundfile.SoundFile(path, "w", rate_hz, 1, format="FLAC", subtype="PCM_16") as file:
        for song in cycle(songs):
            file.write(song[:n_left])
            n_left -= len(song[:n_left])
            if n_left == 0:
                return


def synthesise_songs() -> tuple[list[np.ndarray], int]:
    """Give one song of each enrolled synthetic singer, (n,) int16, and their rate in Hz."""
    import synth_voices as voices

    songs = []
    for singer in voices.ENROLLED:
        rng = voices.rng_for(f"bench_memory {singer.name}")
        song = voices.render_song(singer, voices.compose(singer, rng, SONG_S), rng)
        songs.append((song / np.abs(song).max() * 0.9 * 32767).astype(np.int16))
    return songs, voices.RATE_HZ


def embed_and_report(path: Path) -> None:
    """Embed a recording in this process, and print what it took as JSON."""
    from embeddings.encoder import SpeechBrainEncoder
    from embeddings.extract import embed_file

    encoder = SpeechBrainEncoder()
    loaded_mib = peak_mib()
    start_s = time.perf_counter()
    voiceprint = embed_file(path, encoder)
    embed_s = time.perf_counter() - start_s
    figures = {"n_windows": len(voiceprint.vectors), "duration_s": voiceprint.duration_s, "embed_s": embed_s}
    print(json.dumps({"loaded_mib": loaded_mib, "peak_mib": peak_mib(), **figures}))


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def measure(path: Path) -> dict[str, float]:
    """Embed a recording in a process of its own."""
    # This process stays small (no torch): after fork and exec, Linux counts the parent's pages into the child's peak.
    command = [sys.executable, __file__, "--measure", str(path)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def row(minutes: float, metric: str, values: list[float]) -> dict[str, str | float]:
    trials = f"synthetic singing, {minutes:g} min, FLAC 24 kHz"
    figures: dict[str, str | float] = {"value": float(np.median(values)), "low": min(values), "high": max(values)}
    return {"trials": trials, "system": "house", "metric": metric, **figures, "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 and 15 minutes of audio; about a minute")
    parser.add_argument("--minutes", type=float, nargs="+", metavar="M", help="these lengths instead")
    parser.add_argument("--repeats", type=int, default=1, help="processes for each length (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, help="where to write the recordings (default: the system's, for a while)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    parser.add_argument("--measure", type=Path, metavar="RECORDING", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        embed_and_report(arguments.measure)
        return

    lengths = arguments.minutes or (QUICK_MINUTES if arguments.quick else FULL_MINUTES)
    songs, rate_hz = synthesise_songs()
    print("peak resident memory of one process; low - high over its repeats")
    print(f"{'audio':>8}  {'peak MiB':>22}  {'model loaded':>12}  {'of the first':>12}  {'x real time':>11}  windows")
    rows, first_mib, is_level = [], 0.0, True
    for minutes in lengths:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = Path(folder) / "recording.flac"
            write_recording(path, songs, rate_hz, 60 * minutes)
            runs = [measure(path) for _ in range(arguments.repeats)]
        peaks_mib = [run["peak_mib"] for run in runs]
        first_mib = first_mib or float(np.median(peaks_mib))
        ratios = [peak_mib / first_mib for peak_mib in peaks_mib]
        speeds = [run["duration_s"] / run["embed_s"] for run in runs]
        is_level = is_level and all(abs(ratio - 1) <= TOLERANCE for ratio in ratios)
        rows += [
            row(minutes, "peak_rss_mib", peaks_mib),
            row(minutes, "peak_rss_times_first", ratios),
            row(minutes, "times_real_time", speeds),
        ]
        peak_text = f"{np.median(peaks_mib):.0f} ({min(peaks_mib):.0f} - {max(peaks_mib):.0f})"
        print(
            f"{minutes:>4g} min  {peak_text:>22}  {runs[0]['loaded_mib']:>12.0f}  {np.median(ratios):>12.3f}  "
            f"{np.median(speeds):>11.0f}  {runs[0]['n_windows']}",
            flush=True,
        )
    print(f"within {TOLERANCE:.0%} of the first: {'yes' if is_level else 'NO'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(not is_level)


if __name__ == "__main__":
    main()
