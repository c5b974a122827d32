"""A fake encoder whose vectors a reader can predict, and short ways to voiceprints and enrolled artists.

Everything is importable by name (`tests.fakes.FakeEncoder`), so that spawned processes find it too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.extract import Voiceprint
from embeddings.model_dir import CALIBRATION, COHORT, Cohort, load_calibration, load_cohort
from registry import calibration, rights
from registry.calibration import DEFAULT_BUDGET
from registry.crowding import NearLevels
from registry.enroll import Enrollment, enroll_recording
from registry.match import Matcher
from registry.records import Consent, Match, NewTemplate, Reference
from registry.store import Store

DIM = 8
RATE_HZ = 16000
#: Hz; the fake encoder's vector has one number for each band.
BAND_HZ = 500.0
ENCODER_ID = "f" * 64
COHORT_ID = "c" * 64
#: On the llr, which is the norm_score here. The fake cohort's spread is about 0.3, so a cosine of 1 is some three
#: spreads above strangers.
THRESHOLD = 2.0
CONSENT = Consent("release-2026-014")


class FakeEncoder:
    """An encoder that hears nothing but the spectrum: how much of a window lies in each 500 Hz up to 4 kHz.

    A tone of 1200 Hz gives the unit vector along axis 2. Takes what `SpeechBrainEncoder` takes; where `source` is a
    directory (`write_fake_model`), cohort and calibration are read from it.
    """

    def __init__(
        self, source: str | Path = "fake", *, trusted: Collection[str] = (), n_threads: int | None = None
    ) -> None:
        self.source = str(source)
        self.encoder_id = ENCODER_ID
        self.dim, self.rate_hz, self.window_s, self.hop_s = DIM, RATE_HZ, 4.0, 2.0
        self.cohort: Cohort | None = fake_cohort()
        self.calibration: dict[str, Any] | None = fake_calibration(COHORT_ID)
        if Path(source).is_dir():
            self.cohort, self.calibration = load_cohort(Path(source)), load_calibration(Path(source))
        self.n_embedded = 0

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        """Give (n, DIM) float32 unit rows."""
        self.n_embedded += len(samples)
        spectrum = np.abs(np.fft.rfft(samples))
        band = (np.fft.rfftfreq(samples.shape[1], 1 / RATE_HZ) / BAND_HZ).astype(int)
        vectors = np.stack([spectrum[:, band == k].sum(axis=1) for k in range(DIM)], axis=1)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fake_cohort(n_persons: int = 24, seed: int = 99) -> Cohort:
    """Strangers in all directions, two templates each."""
    vectors = np.random.default_rng(seed).standard_normal((2 * n_persons, DIM)).astype(np.float32)
    vectors[1::2] = vectors[::2] + 0.3 * vectors[1::2]
    return Cohort(unit(vectors), np.repeat(np.arange(n_persons), 2), COHORT_ID)


def fake_calibration(cohort_id: str, threshold: float = THRESHOLD) -> dict[str, Any]:
    return {
        "encoder_id": ENCODER_ID,
        "cohort_id": cohort_id,
        "scoring": calibration.CONSTANTS,
        "source": "made up for tests",
        "llr": {"weights": {"norm_score": 1.0, "accompaniment": 0.0}, "intercept": 0.0},
        "tail": fake_tail(threshold),
    }


def crowded(
    content: dict[str, Any], artist: float = math.inf, track: float = math.inf, cohort: float = math.inf
) -> dict[str, Any]:
    """The content of a calibration by which others are near from these levels on, and take off what they do."""
    llr = content["llr"]
    weights = {**llr["weights"], "artist_crowding": -1.0, "track_crowding": -1.0}
    near = NearLevels(artist, track, cohort).as_dict()
    return {**content, "llr": {**llr, "weights": weights}, "near": near}


def fake_tail(threshold: float = THRESHOLD) -> dict[str, Any]:
    """A tail that has this threshold with the default budget, however many artists there are."""
    return {
        **{"n_voices": 1, "levels": [threshold - 2, threshold], "shares": [0.5, DEFAULT_BUDGET], "start": threshold},
        **{"scale": 0.5, "shape": 0.0, "shape_low": -0.1, "shape_high": 0.1},
        **{"sizes": [1_000_000], "galleries": [1.0], "n_strangers": 1000, "n_exceedances": 100},
    }


def up(llr: float) -> float:
    """A threshold as it is decided by: up to the hundredth, in which llrs are reported."""
    return math.ceil(100 * llr - 1e-6) / 100


def write_fake_model(directory: Path) -> Path:
    """Write a directory that `find_model` finds (once trusted) and `FakeEncoder` and `EncoderProcess` take."""
    directory.mkdir(parents=True)
    (directory / "hyperparams.yaml").write_text("# nothing: the fake encoder needs none\n", encoding="ascii")
    cohort = fake_cohort()
    np.savez(directory / COHORT, vectors=cohort.vectors, person=cohort.person)
    cohort_id = hashlib.sha256((directory / COHORT).read_bytes()).hexdigest()
    (directory / CALIBRATION).write_text(json.dumps(fake_calibration(cohort_id)), encoding="ascii")
    return directory


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` with rows of length 1, as float32."""
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def singer(axis: int, n_windows: int = 8, *, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """(n_windows, DIM) vectors of a voice that lies along one axis, with a little of the others in each window."""
    return unit(np.eye(DIM)[axis] + spread * np.random.default_rng(seed).standard_normal((n_windows, DIM)))


def make_voiceprint(vectors: np.ndarray, content: str = "a song", *, voiced_s: float | None = None) -> Voiceprint:
    """A voiceprint of windows of 4 s every 2 s; the content is whatever `content` names."""
    n_windows = len(vectors)
    start_s = 2.0 * np.arange(n_windows)
    length_s = 2.0 * n_windows + 2.0 if n_windows else 0.0
    return Voiceprint(
        vectors=vectors.astype(np.float32),
        start_s=start_s,
        end_s=start_s + 4.0,
        presence=np.ones(n_windows, np.float32),
        duration_s=length_s,
        voiced_s=length_s if voiced_s is None else voiced_s,
        content_id=hashlib.sha256(content.encode()).hexdigest(),
    )


class Recordings:
    """Recordings that are not there: `embed_file` as `registry.enroll` calls it answers with what was put in here.

    The content of a recording is its file's name, unless said otherwise; its path is `/music/NAME`.
    """

    def __init__(self) -> None:
        self._voiceprints: dict[Path, Voiceprint] = {}

    def add(self, name: str, vectors: np.ndarray, *, content: str | None = None, voiced_s: float | None = None) -> Path:
        path = Path("/music") / name
        self._voiceprints[path] = make_voiceprint(vectors, content or name, voiced_s=voiced_s)
        return path

    def embed_file(self, path: Path, encoder: FakeEncoder, **_: Any) -> Voiceprint:
        return self._voiceprints[path]


def enroll_vectors(
    store: Store,
    encoder: FakeEncoder,
    artist: str,
    vectors: np.ndarray,
    *,
    content: str | None = None,
    consent: Consent = CONSENT,
    **options: Any,
) -> Enrollment:
    """Enroll a made-up recording `/music/CONTENT` for an artist; by default each artist has one, named `ARTIST.wav`."""
    recordings = Recordings()
    path = recordings.add(content or f"{artist}.wav", vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry.enroll.embed_file", recordings.embed_file)
        return enroll_recording(store, encoder, artist, path, consent, **options)


def add_reference(
    store: Store,
    artist: str,
    vectors: np.ndarray,
    *,
    content_id: str = "a" * 64,
    consent: Consent = CONSENT,
    templates: np.ndarray | None = None,
) -> int:
    """Store a reference without the work of enrolling it, inside the transaction that is open; returns the artist's id.

    Windows are 4 s every 2 s; the templates, of one window each, are the first of `vectors` unless given.
    """
    store.bind_encoder(FakeEncoder())
    artist_id = store.add_artist(artist)
    start_s = 2.0 * np.arange(len(vectors))
    reference = Reference(
        reference_id=0,
        artist=artist,
        path=f"/music/{artist}.wav",
        kept_path=None,
        content_id=content_id,
        duration_s=8.0,
        voiced_s=6.0,
        n_windows=len(vectors),
        consent=consent.ref,
        consent_expires_at=consent.expires_at,
        status="active",
        enrolled_by="",
        approved_by=None,
        force_reason=None,
        own_norm_score=None,
        added_at="",
    )
    consent_id = rights.add_consent(store, artist_id, consent)
    reference_id = store.add_reference(reference, consent_id, vectors, np.column_stack([start_s, start_s + 4.0]))
    chosen = vectors[:1] if templates is None else templates
    rows = [NewTemplate(vector, reference_id, 2.0 * k, 2.0 * k + 4, 1) for k, vector in enumerate(chosen)]
    store.replace_templates(artist_id, rows)
    return artist_id


def make_matcher(store: Store, encoder: FakeEncoder, **choice: Any) -> tuple[Matcher, list[str]]:
    """A matcher with a choice of threshold, budget or accept_extrapolation, and what it said."""
    said: list[str] = []
    return Matcher(store, encoder, said.append, **choice), said


def matches_without(store: Store, matcher: Matcher, artist: str, voiceprint: Voiceprint) -> dict[str, Match]:
    """What the others match while an artist's consent is withdrawn: the track is a stranger's then."""
    rights.withdraw_consent(store, artist)
    matcher.refresh()
    found = {match.artist: match for match in matcher.match(voiceprint)}
    with store.writing():
        rights.add_consent(store, store.artist(artist).artist_id, CONSENT, renew=True)
    matcher.refresh()
    return found


def table_counts(store: Store) -> dict[str, int]:
    """How many rows each of our tables has; tables without any are left out."""
    names = [name for name in store.db.table_names() if not name.startswith(("sqlite_", "_sqlite"))]
    counts = {name: store.rows(f"SELECT COUNT(*) AS n FROM {name}")[0]["n"] for name in names}
    return {name: n for name, n in counts.items() if n and name not in ("meta", "settings", "encoders")}


def files_holding(home: Path, needle: bytes) -> list[str]:
    """Files below `home` that hold these bytes."""
    return sorted(
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and needle in path.read_bytes()
    )
