"""Do training, cohort and development recordings meet: the same persons, recordings, or sound?

    python scripts/training/overlap.py                                    # exits 1 and says which, where they do
    python scripts/training/overlap.py --nearest 20 --model MODEL_DIR     # whom an encoder takes for one another

A figure of somebody who was trained on says nothing, so nobody and nothing of dev/ may be in train/ or cohort/, and
nobody of cohort/ in train/. Three looks, each at what the others cannot see:

- Persons, by `canonical` ids: corpora spell them differently, and one reader has the same number in two of them.
- Recordings, by the manifests' ``recording`` and ``track``, and by the bytes of files.
- Sound, by sketches of each file's beginning and, of long files, middle, which survive another codec, rate, level,
  equaliser, some noise, and a cut of up to half a second. What was cut from far within a file is not found, nor what
  has less than `PATCH_S` of sound: of such the nearest persons tell.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import itertools
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own folder is there and not scripts/

from trial_audio import DEFAULT_AUDIO, AudioItem

if TYPE_CHECKING:
    from trial_vectors import System

#: Manifests of each group, below the folder of recordings.
GROUPS = {
    "train": ("train/voice", "train/sung", "train/music", "train/noise"),
    "cohort": ("cohort/voice",),
    "dev": ("dev/voices", "dev/strangers", "dev/music", "dev/instrumental"),
}

#: Rows of the manifests of train/ that nothing may be trained on, by column, as this check found them in dev/ too:
LEFT_OUT = {
    # Readers of Multilingual LibriSpeech, in dev/ as mls-pt-NUMBER, with the very recordings (sketches 0.98 and more).
    "person_id": frozenset(
        f"libri-{number}" for number in (3050, 4367, 5677, 7925, 9351, 11995, 12249, 12287, 12710, 13069)
    ),
    # In dev/music/ as another mix (0.89).
    "track": frozenset({"Tuxemon/Tuxemon/Come_and_Find_Me"}),
    # What is between the words of persons of dev/strangers/, who may be faintly heard (0.84).
    "source": frozenset({"kolesov93/lt_speech_commands"}),
}

#: Sketches: bands of equal width in mel within what a telephone passes, a frame every `STEP_S`.
LOWEST_HZ, HIGHEST_HZ, N_BANDS = 150.0, 3400.0, 16
FRAME_S, STEP_S = 0.05, 0.025
PATCH_S = 1.5
#: What is sketched of a file at once: patches at every step, so that one of them fits a copy's, though it was cut.
STRETCH_S = 2.0
#: Files longer than this are heard in the middle too.
MIDDLE_FROM_S = 6.0
#: Below the loudest band of a stretch nothing is told apart: codecs and noise differ there.
FLOOR_DB = 40.0
#: A patch that changes by less (standard deviation over time and bands), or with less of its bands and frames over the
#: floor, is a hum, silence, or one word in silence, and like many others.
LEAST_CHANGE_DB, LEAST_HEARD = 3.0, 0.2
#: Cosine transform of a patch: changes over time of up to 6 a second, and differences between bands but the finest.
N_TIME, N_COARSE = 18, 12
#: Cosine of sketches from which two sounds are one. The nearest unrelated ones of 32 million pairs reach 0.80 (one
#: wake-up word, said alike), copies 0.94 (`tests/test_training_data.py`).
SAME_SOUND = 0.87

#: Clips of a person that are embedded for `nearest_persons`, evenly spaced by path.
CLIPS_A_PERSON = 4


@dataclass(frozen=True)
class Clip:
    """A row of a manifest.

    Attributes
    ----------
    path : str
        Below the folder of recordings.
    persons : tuple of str
        Who is heard; of a conversion also whose voice it was made from. None of music.
    recordings : tuple of str
        What the manifest says it is a copy or a cut of.
    is_real : bool
        Not made by a machine.
    """

    path: str
    persons: tuple[str, ...]
    recordings: tuple[str, ...]
    is_real: bool = True


def is_left_out(row: Mapping[str, str]) -> bool:
    """Whether a row of a manifest of train/ is in `LEFT_OUT`."""
    return any(row.get(column) in values for column, values in LEFT_OUT.items())


def read_clips(audio_root: Path, group: str) -> list[Clip]:
    """Read the manifests of one of `GROUPS`; of train/ what is not left out."""
    clips = []
    for name in GROUPS[group]:
        with (audio_root / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if group == "train" and is_left_out(row):
                    continue
                persons = tuple(filter(None, (row.get("person_id"), row.get("source_person"))))
                recordings = tuple(filter(None, (row.get("recording"), row.get("track"))))
                clips.append(Clip(row["path"], persons, recordings, row.get("kind") != "clones"))
    return clips


# --- persons and recordings -------------------------------------------------------------------------------------------


def canonical(name: str) -> str:
    """One spelling of an id: small letters, ``-`` between parts, LibriVox readers by their number there.

    LibriSpeech, LibriTTS and Multilingual LibriSpeech all number readers as LibriVox does.
    """
    name = re.sub(r"[\s_-]+", "-", name.strip().lower())
    return re.sub(r"^(librispeech|libritts|libri|mls-[a-z]+|mls)-", "libri-", name)


def common_persons(first: Sequence[Clip], second: Sequence[Clip]) -> list[tuple[str, str]]:
    """Persons of two groups who are one: their ids in both."""
    return _meeting(
        {p: {canonical(p)} for c in first for p in c.persons}, {p: {canonical(p)} for c in second for p in c.persons}
    )


def common_recordings(audio_root: Path, first: Sequence[Clip], second: Sequence[Clip]) -> list[tuple[str, str]]:
    """Clips of two groups that are of one recording, by their manifests or by the bytes of the files: their paths."""

    def marks(clips: Sequence[Clip]) -> dict[str, set[str]]:
        return {
            clip.path: {
                *map(canonical, clip.recordings),
                hashlib.sha256((audio_root / clip.path).read_bytes()).hexdigest(),
            }
            for clip in clips
        }

    return _meeting(marks(first), marks(second))


def _meeting(first: dict[str, set[str]], second: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Names of the first and of the second that have a mark in common."""
    holders: defaultdict[str, list[str]] = defaultdict(list)
    for name, marks in second.items():
        for mark in marks:
            holders[mark].append(name)
    return sorted({(name, other) for name, marks in first.items() for mark in marks for other in holders.get(mark, ())})


# --- sound ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sketches:
    """Sketches of some clips.

    Attributes
    ----------
    patches : (n, `N_TIME` * `N_COARSE`) float32
        Unit rows: every patch of every stretch.
    clip : (n,) int64
        Which clip each is of.
    is_anchor : (n,) bool
        The first or the last patch of its stretch. One side of a comparison needs no others: where a copy begins up
        to half a second later, the last is in it, and where it begins earlier, the first.
    """

    patches: np.ndarray
    clip: np.ndarray
    is_anchor: np.ndarray


def sketch_clips(audio_root: Path, clips: Sequence[Clip]) -> Sketches:
    """Sketch the beginning and the middle of clips.

    A clip shorter than `PATCH_S`, and one that is silent or does not change, has no sketch.
    """

    def sketch(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        rows, anchors = [np.empty((0, N_TIME * N_COARSE), np.float32)], [np.empty(0, bool)]
        for samples, rate_hz in read_stretches(audio_root / clip.path):
            patches, says_something = sketch_stretch(samples, rate_hz)
            rows.append(patches[says_something])
            anchors.append(np.isin(np.arange(len(patches)), (0, len(patches) - 1))[says_something])
        return np.concatenate(rows), np.concatenate(anchors)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        parts = list(threads.map(sketch, clips))
    return Sketches(
        np.concatenate([rows for rows, _ in parts]),
        np.repeat(np.arange(len(clips)), [len(rows) for rows, _ in parts]),
        np.concatenate([anchors for _, anchors in parts]),
    )


def read_stretches(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Decode a file's first `STRETCH_S`, and its middle where it is long: (n,) float32 and the rate in Hz."""
    with soundfile.SoundFile(path) as file:
        length = round(STRETCH_S * file.samplerate)
        is_long = file.frames > MIDDLE_FROM_S * file.samplerate
        for start in (0, (file.frames - length) // 2) if is_long else (0,):
            file.seek(start)
            yield file.read(length, dtype="float32", always_2d=True).mean(axis=1), file.samplerate


def sketch_stretch(samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Sketch every patch of a stretch of sound.

    Parameters
    ----------
    samples : (n,) float32
    rate_hz : int
        Any from 7 kHz up.

    Returns
    -------
    (n_patches, `N_TIME` * `N_COARSE`) float32
        Unit rows, a patch every `STEP_S`; no rows where the sound is shorter than `PATCH_S`.
    (n_patches,) bool
        Whether a patch says anything: see `LEAST_CHANGE_DB`.
    """
    window, weights = _filters(rate_hz)
    n_frames = 1 + round((PATCH_S - FRAME_S) / STEP_S)
    starts = np.round(np.arange(0, len(samples) - len(window) + 1, STEP_S * rate_hz)).astype(int)
    if len(starts) < n_frames:
        return np.empty((0, N_TIME * N_COARSE), np.float32), np.empty(0, bool)
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[starts] * window
    level_db = 10 * np.log10(np.abs(np.fft.rfft(frames)) ** 2 @ weights.T + 1e-9)
    floor_db = level_db.max() - FLOOR_DB
    heard = np.lib.stride_tricks.sliding_window_view((level_db > floor_db).mean(axis=1), n_frames).mean(axis=1)
    level_db = np.maximum(level_db, floor_db)
    over_time, over_bands, emphasis = _transform(n_frames)
    sliding = np.lib.stride_tricks.sliding_window_view(level_db @ over_bands, n_frames, axis=0)
    coefficients = (sliding @ over_time).swapaxes(1, 2)
    changes = np.sqrt((coefficients**2).sum(axis=(1, 2)) / (n_frames * N_BANDS))
    rows = (coefficients * emphasis).reshape(len(coefficients), -1)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows.astype(np.float32), (changes >= LEAST_CHANGE_DB) & (heard >= LEAST_HEARD)


@functools.cache
def _filters(rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """A Hann window of `FRAME_S`, and (`N_BANDS`, n_bins) triangles over the power spectrum."""
    n = round(FRAME_S * rate_hz)
    hz = np.arange(n // 2 + 1) * rate_hz / n
    lowest, highest = (2595 * np.log10(1 + limit_hz / 700) for limit_hz in (LOWEST_HZ, HIGHEST_HZ))
    corners_hz = 700 * (10 ** (np.linspace(lowest, highest, N_BANDS + 2) / 2595) - 1)
    rising = (hz - corners_hz[:-2, None]) / np.diff(corners_hz)[:-1, None]
    falling = (corners_hz[2:, None] - hz) / np.diff(corners_hz)[1:, None]
    return np.hanning(n + 1)[:-1].astype(np.float32), np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


@functools.cache
def _transform(n_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine transforms over time (n_frames, `N_TIME`) and bands (`N_BANDS`, `N_COARSE`), and how coefficients weigh.

    Over time without the constant, which is the channel's equaliser and the level. Weights undo how speech falls off,
    in proportion to the number of the coefficient over bands, and over time from 2 a second on, so that many
    coefficients matter: with the plain transform unrelated speech reached 0.95.
    """
    over_time = np.cos(np.pi * np.outer(np.arange(n_frames) + 0.5, np.arange(1, N_TIME + 1)) / n_frames)
    over_bands = np.cos(np.pi * np.outer(np.arange(N_BANDS) + 0.5, np.arange(N_COARSE)) / N_BANDS)
    over_bands[:, 0] /= np.sqrt(2)
    emphasis = np.outer(1 + np.arange(N_COARSE), np.sqrt(1 + (np.arange(1, N_TIME + 1) / 6) ** 2)).T
    return over_time * np.sqrt(2 / n_frames), over_bands * np.sqrt(2 / N_BANDS), emphasis


def common_sounds(first: Sketches, second: Sketches, least: float = SAME_SOUND) -> list[tuple[float, int, int]]:
    """Clips of two groups that sound the same.

    Returns
    -------
    list of (score, clip, clip)
        Highest first: the best cosine of an anchor of the first group with a patch of the second, where it is `least`
        or more, and the numbers of the two clips.
    """
    anchors, of_clip = first.patches[first.is_anchor], first.clip[first.is_anchor]
    best: dict[tuple[int, int], float] = {}
    block = 2048
    for start in range(0, len(second.patches), block):
        scores = anchors @ second.patches[start : start + block].T
        for row, column in zip(*np.nonzero(scores >= least), strict=True):
            pair = int(of_clip[row]), int(second.clip[start + column])
            best[pair] = max(best.get(pair, -1.0), float(scores[row, column]))
    return sorted(((score, *pair) for pair, score in best.items()), reverse=True)


# --- persons that an encoder takes for one another --------------------------------------------------------------------


def nearest_persons(audio_root: Path, system: System, cache_dir: Path, n: int = 20) -> list[tuple[float, str, str]]:
    """The pairs of a person of train/ and one of dev/ whose mean vectors are nearest: (cosine, person_id, person_id).

    Parameters
    ----------
    audio_root : Path
    system : System
        Of `trial_vectors`: what turns sounds into vectors.
    cache_dir : Path
        Where vectors are kept, as by `trial_vectors.embed_items`.
    n : int

    Notes
    -----
    At most `CLIPS_A_PERSON` clips of a person, converted ones left out. A person's vector is the mean of their clips'.
    """
    from trial_vectors import embed_items

    names, means = [], []
    for group in ("train", "dev"):
        paths: defaultdict[str, list[str]] = defaultdict(list)
        for clip in read_clips(audio_root, group):
            if clip.persons and clip.is_real:
                paths[clip.persons[0]].append(clip.path)
        chosen = {person: _spread(sorted(some), CLIPS_A_PERSON) for person, some in sorted(paths.items())}
        items = {path: AudioItem(path) for some in chosen.values() for path in some}
        vectors = embed_items(audio_root, items, system, cache_dir, label=f"persons of {group}")
        means.append(np.stack([sum(_mean(vectors[path].vectors) for path in some) for some in chosen.values()]))
        names.append(list(chosen))
    trained, measured = (mean / np.linalg.norm(mean, axis=1, keepdims=True) for mean in means)
    scores = trained @ measured.T
    order = np.argsort(-scores, axis=None, kind="stable")[:n]
    return [(float(scores.flat[i]), names[0][i // len(names[1])], names[1][i % len(names[1])]) for i in order]


def opaque(person_id: str) -> str:
    """An id to be published: as it is where a number tells persons of a corpus apart, a hash where a name does."""
    corpus, _, person = person_id.partition("-")
    if not person or re.search(r"\d", person):
        return person_id
    return f"{corpus}-#{hashlib.sha256(person_id.encode()).hexdigest()[:6]}"


def _mean(rows: np.ndarray) -> np.ndarray:
    mean = rows.mean(axis=0)
    unit: np.ndarray = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return unit


def _spread(names: Sequence[str], limit: int) -> list[str]:
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), limit)).round().astype(int))]


# --- the report -------------------------------------------------------------------------------------------------------


def find_overlaps(audio_root: Path) -> list[str]:
    """All that two groups have in common, a line for each."""
    clips = {group: read_clips(audio_root, group) for group in GROUPS}
    sketches = {group: sketch_clips(audio_root, some) for group, some in clips.items()}
    lines = []
    for one, other in itertools.combinations(GROUPS, 2):
        lines += [f"person: {a} of {one}/ is {b} of {other}/" for a, b in common_persons(clips[one], clips[other])]
        lines += [f"recording: {a} and {b}" for a, b in common_recordings(audio_root, clips[one], clips[other])]
        lines += [
            f"sound ({score:.2f}): {clips[one][a].path} and {clips[other][b].path}"
            for score, a, b in common_sounds(sketches[one], sketches[other])
        ]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument(
        "--nearest", type=int, metavar="N", help="instead, list the N nearest persons of train/ and dev/"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="encoder for --nearest (the built-in one)")
    options = parser.parse_args(arguments)
    if not options.nearest:
        left_out = ", ".join(f"{len(values)} by {column}" for column, values in LEFT_OUT.items())
        print(f"rows of train/ that are left out already, see LEFT_OUT: {left_out}", file=sys.stderr)
        lines = find_overlaps(options.audio)
        print("\n".join(lines) or "nothing in common")
        return 1 if lines else 0

    from trial_vectors import DEFAULT_CACHE, House

    from embeddings.encoder import SpeechBrainEncoder  # slow to import
    from embeddings.model_dir import HOUSE, model_digest

    trusted = {model_digest(options.model)} if options.model else ()
    system = House(SpeechBrainEncoder(options.model or HOUSE, trusted=trusted))
    for score, trained, measured in nearest_persons(options.audio, system, DEFAULT_CACHE, options.nearest):
        print(f"{score:.3f}  {opaque(trained)}  {opaque(measured)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
