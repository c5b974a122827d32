"""A registry of any size with made-up voices, written through the store's own functions; for benchmarks.

with Store(home, create=True) as store:
    fill(store, n_artists=12_500)        # 8 templates each: 100,000
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from registry import rights
from registry.records import Consent, NewTemplate, Reference
from registry.store import Store

DIM = 192
TEMPLATES = 8
WINDOWS = 24  # of each artist's one reference: a minute of voice
ENCODER_ID = "0" * 64


@dataclass(frozen=True)
class MadeUpEncoder:
    """What a registry records of an encoder, and what a `Matcher` asks of one; it embeds nothing."""

    cohort: MadeUpCohort
    encoder_id: str = ENCODER_ID
    source: str = "made up"
    dim: int = DIM
    rate_hz: int = 16000
    window_s: float = 4.0
    hop_s: float = 2.0
    calibration: None = None


@dataclass(frozen=True)
class MadeUpCohort:
    """150 strangers, 8 templates each, as the built-in cohort has."""

    vectors: np.ndarray
    person: np.ndarray
    cohort_id: str = "1" * 64


def made_up_encoder() -> MadeUpEncoder:
    rng = np.random.default_rng(7)
    return MadeUpEncoder(MadeUpCohort(unit_rows(rng, 150 * TEMPLATES), np.repeat(np.arange(150), TEMPLATES)))


def unit_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, DIM) float32 unit rows in all directions."""
    rows = rng.standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(store: Store, n_artists: int, *, seed: int = 1, per_commit: int = 500) -> None:
    """Add artists ``artist 000000``, ..., each with one reference and `TEMPLATES` templates."""
    encoder = made_up_encoder()
    for first in range(0, n_artists, per_commit):
        with store.writing():
            store.bind_encoder(encoder)
            for number in range(first, min(first + per_commit, n_artists)):
                add_artist(store, f"artist {number:06d}", np.random.default_rng([seed, number]))


def add_artist(store: Store, name: str, rng: np.random.Generator) -> int:
    """Add one artist; call inside `store.writing`, once the encoder is bound. Returns the reference_id."""
    windows = unit_rows(rng, WINDOWS)
    artist_id = store.add_artist(name)
    consent_id = rights.add_consent(store, artist_id, Consent(f"release of {name}"))
    reference = Reference(
        reference_id=0,
        artist=name,
        path=f"/references/{name}.wav",
        kept_path=None,
        content_id=windows[0].tobytes().hex()[:64],
        duration_s=60.0,
        voiced_s=50.0,
        n_windows=WINDOWS,
        consent="",
        consent_expires_at=None,
        status="active",
        enrolled_by="large_registry.py",
        approved_by=None,
        force_reason=None,
        own_norm_score=None,
        added_at="",
    )
    starts = 2.0 * np.arange(WINDOWS)
    reference_id = store.add_reference(reference, consent_id, windows, np.column_stack([starts, starts + 4.0]))
    store.replace_templates(artist_id, list(_templates(windows, reference_id)))
    return reference_id


def _templates(windows: np.ndarray, reference_id: int) -> Iterator[NewTemplate]:
    """The first windows as they are: what condensing would make of random windows is no better."""
    for row in range(TEMPLATES):
        yield NewTemplate(windows[row], reference_id, 2.0 * row, 2.0 * row + 4.0, WINDOWS // TEMPLATES)
