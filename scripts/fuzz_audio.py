"""Damage recordings in every way we can think of, and let `DecoderProcess` read them: each must end with a name.

    python scripts/fuzz_audio.py                    # 500 files, a few minutes
    python scripts/fuzz_audio.py --quick            # 60 files
    python scripts/fuzz_audio.py --seed 7 --json scripts/results/fuzz_audio.json

For each format that soundfile and PyAV can write here there is one sound file, which must be read as it is. Then copies
are damaged: bits flipped, ranges zeroed, cut out, doubled or replaced, numbers in the header made absurd, pieces of
other formats put in. A file that ends its decoding process ("crashed") or exhausts it ("timeout") is kept. Exits 1 if
a sound file was not read, if a file came to no outcome, or if an outcome says that the mistake was ours.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from embeddings.errors import InvalidAudio
from embeddings.limits import DEFAULT_LIMITS
from embeddings.workers import DecoderProcess, End, WorkerDied

RATE_HZ = 48_000  # the one that every format has
SOUND_S = 3.0
QUICK_FILES = 60
#: (container, codec) as soundfile calls them.
SOUNDFILE_FORMATS = [
    *(("WAV", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")),
    *((container, "PCM_16") for container in ("AIFF", "AU", "CAF", "W64", "RF64", "FLAC")),
    ("CAF", "ALAC_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
#: (ending, codec) as FFmpeg calls them.
FFMPEG_FORMATS = [
    *(("m4a", codec) for codec in ("aac", "alac")),
    *(("mov", codec) for codec in ("pcm_s16le", "aac")),
    *(("mka", codec) for codec in ("aac", "libopus", "flac", "pcm_s16le", "ac3")),
    ("webm", "libopus"),
    ("wma", "wmav2"),
    ("aac", "aac"),
    ("mp3", "libmp3lame"),
    ("wv", "wavpack"),
]
#: What nobody expects of a size, a rate or a count.
ABSURD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
#: Kinds after which there is another process.
ENDED_PROCESS = {"crashed", "timeout"}

Damage = Callable[[np.random.Generator, bytes, bytes], bytes]


def sing() -> np.ndarray:
    """Give `SOUND_S` of something like a voice in two channels, (n, 2) float32."""
    time_s = np.arange(round(SOUND_S * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * 180 * time_s + 2 * np.sin(2 * np.pi * 5 * time_s)
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * np.clip(0.5 + 0.6 * np.sin(6 * np.pi * time_s), 0, 1)
    hiss = np.random.default_rng(0).standard_normal((len(voice), 2))
    return (0.2 * voice[:, None] * [1.0, 0.6] + 0.001 * hiss).astype(np.float32)


def write_ffmpeg(sound: np.ndarray, ending: str, codec: str) -> bytes:
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sound.{ending}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=RATE_HZ, layout="stereo")
            stream.bit_rate = 128_000  # WMA has no default
            resampler = av.AudioResampler(stream.format, "stereo", RATE_HZ, frame_size=stream.frame_size or 1024)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
                for packet in stream.encode(piece):
                    container.mux(packet)
        return path.read_bytes()


def sound_files() -> dict[str, bytes]:
    """Give the bytes of one good file of every format that can be written here."""
    sound, files = sing(), {}
    for container, codec in SOUNDFILE_FORMATS:
        if codec in soundfile.available_subtypes(container):
            file = io.BytesIO()
            soundfile.write(file, sound, RATE_HZ, format=container, subtype=codec)
            files[f"{container}/{codec}"] = file.getvalue()
    try:
        import av
    except ImportError:
        return files
    for ending, codec in FFMPEG_FORMATS:
        if codec in av.codecs_available:
            files[f"{ending}/{codec}"] = write_ffmpeg(sound, ending, codec)
    return files


# --- damage: (random numbers, the file, a file of any format) -> bytes ---


def _place(rng: np.random.Generator, data: bytes) -> int:
    """A position; half of the time in the header, where it tells."""
    return int(rng.integers(min(len(data), 512) if rng.random() < 0.5 else len(data)))


def _stretch(rng: np.random.Generator, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, min(len(data), start + int(2 ** rng.uniform(0, np.log2(len(data)))))


def flip_bits(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(int(2 ** rng.uniform(0, 8))):
        damaged[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut_end(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: 1 + _place(rng, data)]


def cut_out(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, end = _stretch(rng, data)
    return data[:start] + data[end:] or data[:1]


def zero(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, end = _stretch(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def double(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    start, end = _stretch(rng, data)
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


def double_chunk(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Double what looks like a chunk of RIFF, AIFF, CAF or MP4: a name, and a size beside it."""
    starts = [i for i in range(min(len(data), 4096)) if data[i : i + 4].isalnum()]
    if not starts:
        return double(rng, data, other)
    start = starts[int(rng.integers(len(starts)))]
    size = int.from_bytes(data[start + 4 : start + 8], "little" if rng.random() < 0.5 else "big") % len(data)
    return data[: start + 8 + size] + data[start:]


def insert_noise(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.bytes(int(2 ** rng.uniform(0, 14))) + data[at:]


def write_absurd(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at, n_bytes = _place(rng, data[:2048]), int(rng.choice([1, 2, 3, 4, 8]))
        number = ABSURD[int(rng.integers(len(ABSURD)))] % 2 ** (8 * n_bytes)
        damaged[at : at + n_bytes] = number.to_bytes(n_bytes, "little" if rng.random() < 0.5 else "big")
    return bytes(damaged)


def put_in(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    start, end = _stretch(rng, other)
    return data[:at] + other[start:end] + data[at:]


def swap_halves(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    return data[: len(data) // 2] + other[len(other) // 2 :]


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    cut_end,
    cut_out,
    zero,
    double,
    double_chunk,
    insert_noise,
    write_absurd,
    put_in,
    swap_halves,
)


def damage(files: dict[str, bytes], seed: int, number: int) -> tuple[str, str, bytes]:
    """Make damaged file `number`; returns the format it was, what was done to it, and its bytes."""
    rng = np.random.default_rng([seed, number])
    name = list(files)[number % len(files)]
    data, done = files[name], []
    for _ in range(int(rng.integers(1, 4))):
        how = DAMAGES[int(rng.integers(len(DAMAGES)))]
        data = how(rng, data, list(files.values())[int(rng.integers(len(files)))])
        done.append(how.__name__)
    return name, "+".join(done), data


# --- the run ---


@dataclass(frozen=True)
class Outcome:
    """How one file ended: "decoded", or a kind and its reason."""

    format: str
    damage: str
    kind: str
    reason: str
    took_s: float
    resident_mib: float
    mapped_mib: float  #: address space beyond what the process had when it was ready


def memory_mib(decoder: DecoderProcess) -> tuple[float, float]:
    """Give the highest resident memory of a child, and address space beyond its beginning; 0 where nobody counts."""
    status, limits = Path(f"/proc/{decoder.pid}/status"), Path(f"/proc/{decoder.pid}/limits")
    try:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        allowed = next(line for line in limits.read_text().splitlines() if line.startswith("Max address space"))
        beginning = int(allowed.split()[3]) - DEFAULT_LIMITS.memory_bytes
        return int(fields["VmHWM"].split()[0]) / 2**10, int(fields["VmPeak"].split()[0]) / 2**10 - beginning / 2**20
    except (OSError, KeyError, ValueError):  # not Linux, or it is gone
        return 0.0, 0.0


def read(decoder: DecoderProcess, path: Path) -> tuple[str, str]:
    try:
        decoder.start(path)
        while not isinstance(decoder.receive(), End):
            decoder.ask()
        return "decoded", ""
    except (InvalidAudio, WorkerDied) as error:
        return error.kind, str(error)


def fuzz(n_files: int, seed: int, keep_path: Path) -> list[Outcome]:
    """Read a sound file of every format, then `n_files` damaged ones; keep in `keep_path` what ended its process."""
    files = sound_files()
    todo = [(name, "none", data) for name, data in files.items()]
    outcomes: list[Outcome] = []
    decoder = DecoderProcess(16000, 4.0, 2.0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(len(todo) + n_files):
            n_sound = len(todo)
            name, done, data = todo[number] if number < n_sound else damage(files, seed, number - n_sound)
            path = Path(folder) / f"{number:05}.{name.split('/')[0].lower()}"
            path.write_bytes(data)
            start_s = time.perf_counter()
            kind, reason = read(decoder, path)
            took_s = time.perf_counter() - start_s
            outcomes.append(Outcome(name, done, kind, reason, took_s, *memory_mib(decoder)))
            if kind in ENDED_PROCESS:
                keep_path.mkdir(parents=True, exist_ok=True)
                path.rename(keep_path / f"seed{seed}-{path.name}")
                print(f"{keep_path / f'seed{seed}-{path.name}'}: {name}, {done}: {reason}", file=sys.stderr)
                decoder.close()
                decoder = DecoderProcess(16000, 4.0, 2.0)
            else:
                path.unlink()
    decoder.close()
    return outcomes


def libraries() -> str:
    text = f"libsndfile {soundfile.__libsndfile_version__}"
    try:
        import av
    except ImportError:
        return text
    return f"{text}, PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def print_table(outcomes: list[Outcome]) -> None:
    kinds = sorted({outcome.kind for outcome in outcomes if outcome.damage != "none"} | ENDED_PROCESS)
    print(f"{'format':<20}{'files':>6}" + "".join(f"{kind:>12}" for kind in kinds) + f"{'slowest s':>11}")
    damaged = [outcome for outcome in outcomes if outcome.damage != "none"]
    for name in [*dict.fromkeys(outcome.format for outcome in damaged), "all"]:
        mine = [outcome for outcome in damaged if name in (outcome.format, "all")]
        counts = Counter(outcome.kind for outcome in mine)
        slowest_s = max(outcome.took_s for outcome in mine)
        print(f"{name:<20}{len(mine):>6}" + "".join(f"{counts[kind]:>12}" for kind in kinds) + f"{slowest_s:>11.2f}")


def rows(outcomes: list[Outcome], seed: int) -> list[dict[str, str | float]]:
    damaged = [outcome for outcome in outcomes if outcome.damage != "none"]
    table: list[dict[str, str | float]] = []
    for name in [*dict.fromkeys(outcome.format for outcome in damaged), "all formats"]:
        mine = [outcome for outcome in damaged if name in (outcome.format, "all formats")]
        about = {"trials": f"damaged files, {name}, seed {seed}", "system": libraries()}
        counts = Counter(outcome.kind for outcome in mine)
        kinds = sorted(counts.keys() | ENDED_PROCESS)
        table += [{**about, "metric": kind, "value": counts[kind], "n": len(mine)} for kind in kinds]
        slowest_s = max(outcome.took_s for outcome in mine)
        table.append({**about, "metric": "slowest_s", "value": round(slowest_s, 3), "n": len(mine)})
    for metric in ("resident_mib", "mapped_mib"):
        peak = max(getattr(outcome, metric) for outcome in outcomes)
        table.append({**about, "metric": f"peak_{metric}", "value": round(peak, 1), "n": len(outcomes)})
    return table


def failures(outcomes: list[Outcome]) -> list[str]:
    """What must not be: a sound file that was not read, and mistakes of ours."""
    unread = [outcome for outcome in outcomes if outcome.damage == "none" and outcome.kind != "decoded"]
    ours = [outcome for outcome in outcomes if "mistake in Likeness" in outcome.reason]
    return [f"{outcome.format} ({outcome.damage}): {outcome.kind}: {outcome.reason}" for outcome in [*unread, *ours]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500, help="how many damaged files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the damage (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FILES} files")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-audio", metavar="FOLDER",
                        help="where files go that ended their process (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    arguments = parser.parse_args()
    n_files = QUICK_FILES if arguments.quick else arguments.files

    outcomes = fuzz(n_files, arguments.seed, arguments.keep)
    print_table(outcomes)
    slowest = max(outcomes, key=lambda outcome: outcome.took_s)
    resident_mib, mapped_mib = (max(getattr(o, name) for o in outcomes) for name in ("resident_mib", "mapped_mib"))
    print(f"slowest: {slowest.format}, {slowest.damage}, {slowest.took_s:.2f} s: {slowest.kind}")
    print(f"peak of a child: {resident_mib:.0f} MiB resident, {mapped_mib:.0f} MiB mapped beyond its beginning")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows(outcomes, arguments.seed), indent=1) + "\n")
    wrong = failures(outcomes)
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
