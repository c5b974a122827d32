"""Trials without audio: scores made up from a seed, and recordings that `registry.trials` hears without a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.errors import InvalidAudio
from embeddings.extract import Voiceprint
from registry.calibration import Calibration
from registry.crowding import Between
from registry.trials import Heard, Recording, TrialScores
from tests.fakes import COHORT_ID, THRESHOLD, FakeEncoder, fake_calibration, fake_tail, make_voiceprint, unit

#: Persons of the cohort that voices are scored with.
N_COHORT = 40


def make_scores(
    n_persons: int = 30,
    n_genuine: int = 6,
    n_clones: int = 0,
    *,
    own: float = 4.0,
    clone: float = 3.0,
    spread: float = 1.0,
    seed: int = 0,
    **changed: Any,
) -> TrialScores:
    """Everybody enrolled from half of `n_genuine` recordings; norm_scores are Gaussian, around 0 for strangers.

    So are those of the voices with one another, in both directions, and with a cohort.
    """
    rng = np.random.default_rng(seed)
    n_each = n_genuine + n_clones
    person, number = np.repeat(np.arange(n_persons), n_each), np.tile(np.arange(n_each), n_persons)
    is_clone = number >= n_genuine
    norm = rng.normal(0, spread, (len(person), n_persons))
    norm[np.arange(len(person)), person] += np.where(is_clone, clone, own)
    voices = np.random.default_rng([seed, 1])
    between = Between(*(voices.normal(0, 1, (n, n_persons)).astype(np.float32) for n in (n_persons, N_COHORT)))
    np.fill_diagonal(between.others, -np.inf)
    fields = {
        "persons": tuple(f"person {i:03d}" for i in range(n_persons)),
        "model_person": np.arange(n_persons),
        "track_person": person,
        "is_clone": is_clone,
        "is_enrolled": number < n_genuine // 2,
        "is_new_source": np.zeros(len(person), bool),
        "abstains": np.zeros(len(person), bool),
        "n_sections": np.ones(len(person), np.int64),
        "row_track": np.arange(len(person)),
        "norm": norm.astype(np.float32),
        "accompaniment": np.zeros(len(person)),
        "between": between,
        "paths": tuple(f"/music/{i}.wav" for i in range(len(person))),
    }
    return TrialScores(**{**fields, **changed})


def level_tail(threshold: float = THRESHOLD) -> dict[str, Any]:
    """`fake_tail`, with one threshold for up to a million artists."""
    return {**fake_tail(threshold), "sizes": [1, 10**6], "galleries": [1.0, 1.0]}


def calibration(**changed: Any) -> Calibration:
    """The fake encoder's: llr is the norm_score."""
    return Calibration.from_dict({**fake_calibration(COHORT_ID), "tail": level_tail(), **changed})


def recording(name: str, person: str, **more: Any) -> Recording:
    return Recording(f"/music/{name}", person, **{"recording": name, **more})


def heard(name: str, person: str, vectors: np.ndarray, *, voiced_s: float | None = None, **more: Any) -> Heard:
    return Heard(recording(name, person, **more), make_voiceprint(vectors, name, voiced_s=voiced_s))


class Ears:
    """`embed_file` as `registry.trials` calls it: what was put in here, by the file's name; other names are damaged."""

    def __init__(self) -> None:
        self.voices: dict[str, Voiceprint] = {}

    def add(self, name: str, vectors: np.ndarray, content: str | None = None) -> None:
        self.voices[name] = make_voiceprint(vectors, content or name)

    def embed_file(self, path: Path, encoder: FakeEncoder, **_: Any) -> Voiceprint:
        if path.name not in self.voices:
            raise InvalidAudio("not_audio", "not audio", path)
        return self.voices[path.name]


class Choir:
    """Recordings of made-up persons that need no audio: `embed_file` for `registry.trials`, for any encoder.

    A file is called ``PERSON-NUMBER.wav``, or ``PERSON-clone-NUMBER.wav``; any other is damaged. Persons have random
    directions, recordings of one are near it and clones farther off.
    """

    def __init__(self, noise: float = 0.25) -> None:
        self._noise = noise
        self.n_heard = 0

    def embed_file(self, path: Path, encoder: Any, **_: Any) -> Voiceprint:
        self.n_heard += 1
        person, *rest = path.stem.split("-")
        if not rest or not rest[-1].isdigit():
            raise InvalidAudio("not_audio", "no decoder knows it", path)
        voice = np.random.default_rng(_seed(person)).normal(0, 1, encoder.dim)
        noise = self._noise * (2 if rest[0] == "clone" else 1)
        own = np.random.default_rng(_seed(path.stem)).normal(0, noise, encoder.dim)
        windows = np.random.default_rng(_seed(path.stem + "windows")).normal(0, 0.2, (6, encoder.dim))
        return make_voiceprint(unit(voice + own + windows), str(path))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def write_choir(folder: Path, n_persons: int, n_recordings: int) -> Path:
    """A folder for `Choir`, with a folder for each person."""
    for who in range(n_persons):
        for number in range(n_recordings):
            path = folder / f"person {who:02d}" / f"p{who:02d}-{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return folder
