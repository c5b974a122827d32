"""Training sound as pools: one flat file of samples each, so that any crop is a read from memory.

A pool is STEM.i16 (16 kHz mono int16, clips end to end) and STEM.json (a row [offset, n_samples, label, corpus, path] a
clip; the label is a person_id, or "x" where nobody is heard). Pools are made again from the recordings at any time and
are never part of the project.

    build_recorded(audio_root, folder)      # voice, sung, music, noise, rir from audio_root/train
    pool = Pool(folder / "voice")
    pool.clip(3), pool.crop(3, 40_960, rng)
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embeddings.audio import open_audio
from embeddings.errors import InvalidAudio
from training.overlap import is_left_out

RATE_HZ = 16_000
PEAK = 0.9  #: of full scale, to which every clip is brought

#: Silence is cut from voices: frames this far below the loud ones (the 95th percentile of frame levels).
SILENCE_DB = 40.0
SILENCE_FRAME = 400  #: samples
SILENCE_KEPT_FRAMES = 9  #: around what is loud: 0.2 s, so that words do not run together

#: Seconds taken of a clip, seconds taken of a person, and the shortest clip used.
LIMITS_S = {
    "voice": (20.0, 150.0, 0.8),
    "sung": (20.0, 150.0, 0.8),
    "music": (120.0, None, 0.05),
    "noise": (10.0, None, 0.05),
    "rir": (3.0, None, 0.05),
}

#: Terms, as the manifests word them, that a model which anybody may use cannot rest on. They are those of nearly all
#: recorded noises.
NOT_FREE = re.compile(r"\bNC\b|^research|^no explicit|^see repo")

#: Noises made here in their place, and their length in seconds.
SYNTHETIC_NOISES, NOISE_S = 300, 8.0


class Clip(NamedTuple):
    """Where a clip lies in its pool, and whose it is."""

    offset: int
    n_samples: int
    label: str
    corpus: str
    path: str


class Pool:
    """A pool, opened for reading.

    Parameters
    ----------
    stem : Path
        Without ``.i16``.

    Attributes
    ----------
    clips : list of Clip
    samples : (n,) int16
        Of all clips, end to end; read-only and mapped from the file.
    """

    def __init__(self, stem: Path | str) -> None:
        self.name = Path(stem).name
        self.samples = np.memmap(f"{stem}.i16", np.int16, "r")
        self.clips = [Clip(*row) for row in json.loads(Path(f"{stem}.json").read_text("utf-8"))]

    def clip(self, number: int) -> np.ndarray:
        """(n_samples,) int16 of one clip."""
        offset, n_samples = self.clips[number][:2]
        return self.samples[offset : offset + n_samples]

    def crop(self, number: int, n_samples: int, rng: np.random.Generator) -> np.ndarray:
        """(n_samples,) float32 in [-1, 1] from anywhere in a clip; one that is shorter is repeated."""
        clip = self.clip(number)
        if len(clip) <= n_samples:
            clip = np.tile(clip, -(-n_samples // len(clip)))[:n_samples]
        else:
            start = int(rng.integers(len(clip) - n_samples))
            clip = clip[start : start + n_samples]
        crop: np.ndarray = clip.astype(np.float32) / 32768
        return crop

    @property
    def hours(self) -> float:
        """Length of all clips."""
        return len(self.samples) / RATE_HZ / 3600


def write_pool(stem: Path, clips: Iterable[tuple[np.ndarray, str, str, str]]) -> int:
    """Write a pool from (samples int16, label, corpus, path) tuples; returns how many clips it has.

    The index is written last and put in place at once: a pool with an index is whole.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    index, offset = [], 0
    with stem.with_suffix(".i16").open("wb") as file:
        for samples, label, corpus, path in clips:
            file.write(np.ascontiguousarray(samples, "<i2").tobytes())
            index.append(Clip(offset, len(samples), label, corpus, path))
            offset += len(samples)
    partial = stem.with_suffix(".json.part")
    partial.write_text(json.dumps(index), "utf-8")
    partial.replace(stem.with_suffix(".json"))
    return len(index)


def read_clip(path: Path, longest_s: float) -> np.ndarray:
    """(n,) int16 of a recording at `RATE_HZ`, mono, its peak at `PEAK`; raises `InvalidAudio` where it is silent."""
    blocks, n_samples = [], 0
    with open_audio(path, RATE_HZ) as stream:
        for block in stream:
            blocks.append(block)
            n_samples += len(block)
            if n_samples >= longest_s * RATE_HZ:
                break
    samples = np.concatenate(blocks)[: round(longest_s * RATE_HZ)] if blocks else np.empty(0, np.float32)
    peak = float(np.abs(samples).max(initial=0))
    if peak < 1e-4:
        raise InvalidAudio("empty", "silent", path)
    return np.round(samples * (PEAK * 32767 / peak)).astype(np.int16)


def cut_silence(samples: np.ndarray) -> np.ndarray:
    """(n,) int16 without the frames that are `SILENCE_DB` below the loud ones and not next to louder ones."""
    n_frames = len(samples) // SILENCE_FRAME
    if n_frames < 8:
        return samples
    frames = samples[: n_frames * SILENCE_FRAME].reshape(n_frames, SILENCE_FRAME)
    level_db = 10 * np.log10((frames.astype(np.float32) ** 2).mean(axis=1) + 1)
    loud = level_db > np.percentile(level_db, 95) - SILENCE_DB
    kept = np.convolve(loud, np.ones(SILENCE_KEPT_FRAMES), "same") > 0
    return frames[kept].reshape(-1)


def build_recorded(audio_root: Path, folder: Path) -> None:
    """Make the pools of recordings below `audio_root`/train that `folder` has not yet; what is said, on stderr.

    Left out is what `training.overlap` found in dev/ as well, and what is `NOT_FREE`; noises are made besides.
    """
    for name in LIMITS_S:
        stem = folder / name
        if stem.with_suffix(".json").is_file():
            continue
        n_clips = write_pool(stem, _recorded(audio_root, name))
        pool = Pool(stem)
        labels = len({clip.label for clip in pool.clips})
        print(f"{name}: {n_clips:,} clips, {labels:,} labels, {pool.hours:.2f} h", file=sys.stderr, flush=True)


def _recorded(audio_root: Path, name: str) -> Iterator[tuple[np.ndarray, str, str, str]]:
    longest_s, longest_person_s, shortest_s = LIMITS_S[name]
    taken_s: defaultdict[str, float] = defaultdict(float)
    has_voice = name in ("voice", "sung")
    with (audio_root / f"train/{name}.csv").open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if is_free(row) and not is_left_out(row)]
    for row in rows:
        label = row["person_id"] if has_voice else "x"
        if longest_person_s is not None and taken_s[label] >= longest_person_s:
            continue
        try:
            samples = read_clip(audio_root / row["path"], longest_s)
        except InvalidAudio as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if has_voice:
            samples = cut_silence(samples)
        if len(samples) < shortest_s * RATE_HZ:
            continue
        taken_s[label] += len(samples) / RATE_HZ
        yield samples, label, row.get("corpus") or row["source"], row["path"]
    if name == "noise":
        for number in range(SYNTHETIC_NOISES):
            yield make_noise(np.random.default_rng(number)), "x", "synthetic", ""


def is_free(row: Mapping[str, str]) -> bool:
    """Whether the terms of a row of a manifest let anybody use a model that heard it."""
    return not NOT_FREE.search(row["licence"])


def make_noise(rng: np.random.Generator) -> np.ndarray:
    """(n,) int16 of `NOISE_S`: noise of a random colour that comes and goes, now and then with a hum or clicks."""
    n = round(NOISE_S * RATE_HZ)
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    octaves = np.log2(np.maximum(hz, 20) / 1000)
    knots = np.linspace(octaves[0], octaves[-1], 8)
    colour_db = rng.uniform(-9, 3) * octaves + np.interp(octaves, knots, rng.normal(0, 6, 8))
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * 10 ** (colour_db / 20), n)
    swell = np.interp(np.arange(n), np.linspace(0, n, 17), rng.normal(0, rng.uniform(0, 6), 17))
    sound *= 10 ** (swell / 20) / np.sqrt(np.mean(sound**2))
    if rng.random() < 0.3:  # the mains and its harmonics
        phase = 2 * np.pi * rng.choice([50, 60]) * np.arange(n) / RATE_HZ
        for harmonic in range(1, 12):
            sound += rng.uniform(0, 1) / harmonic * np.sin(phase * harmonic)
    if rng.random() < 0.3:
        clicks = np.zeros(n)
        at = rng.integers(n, size=rng.integers(5, 200))
        clicks[at] = rng.normal(0, 20, len(at))
        sound += np.convolve(clicks, np.exp(-np.arange(200) / rng.uniform(5, 60)), "same")
    noise: np.ndarray = np.round(sound * (PEAK * 32767 / np.abs(sound).max())).astype(np.int16)
    return noise
