"""A registry of any size with made-up voices, written through the store's own functions; for benchmarks.

with Store(home, create=True) as store:
    fill(store, encoder, vectors)        # (12_500, 8, DIM): 100,000 templates
"""

from __future__ import annotations

import hashlib

import numpy as np

from embeddings.model_dir import Cohort
from registry import audit, rights
from registry.calibration import CONSTANTS
from registry.llr import LlrModel
from registry.match import write_store_index
from registry.records import Consent, NewTemplate, Reference
from registry.store import Store, now
from registry.tail import Tail

DIM = 192
TEMPLATES = 8
#: Artists that are written in one transaction.
CHUNK = 500


class MadeUpEncoder:
    """What a registry and a `Matcher` ask of an encoder, with a cohort in random directions; it embeds nothing.

    Its llr is the norm_score; a threshold is the caller's to give.
    """

    encoder_id, source = "b" * 64, "made up"
    dim, rate_hz, window_s, hop_s = DIM, 16_000, 4.0, 2.0

    def __init__(self, rng: np.random.Generator) -> None:
        self.cohort = Cohort(unit_vectors(rng, 800), np.repeat(np.arange(400), 2), "c" * 64)
        tail = Tail(1, (0.0, 3.0), (0.5, 0.03), 3.0, 0.5, 0.0, -0.1, 0.1, (1,), (1.0,), 1000, 100)
        self.calibration = {
            **{"encoder_id": self.encoder_id, "cohort_id": self.cohort.cohort_id, "source": self.source},
            **{"scoring": CONSTANTS, "llr": LlrModel((1.0, 0.0, 0.0, 0.0), 0.0).as_dict(), "tail": tail.as_dict()},
        }


def unit_vectors(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, DIM) float32 unit rows in all directions."""
    vectors = rng.standard_normal((n, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def name_of(number: int) -> str:
    return f"Singer {number:06} of the made-up choir"


def path_of(name: str) -> str:
    return f"/music/made-up/{name}/take one.wav"


def consent_of(name: str) -> str:
    return f"release of {name}"


def add_artist(store: Store, encoder: MadeUpEncoder, name: str, windows: np.ndarray) -> int:
    """Enroll an artist whose templates are the first windows; inside `store.writing`, as `registry.enroll` does it.

    Returns the reference_id.
    """
    start_s = 2.0 * np.arange(len(windows))
    reference = Reference(
        reference_id=0,
        artist=name,
        path=path_of(name),
        kept_path=None,
        content_id=hashlib.sha256(name.encode()).hexdigest(),
        duration_s=float(start_s[-1]) + 4.0,
        voiced_s=float(start_s[-1]) + 4.0,
        n_windows=len(windows),
        consent=consent_of(name),
        consent_expires_at=None,
        status="active",
        enrolled_by="large_registry.py",
        approved_by=None,
        force_reason=None,
        own_norm_score=None,
        added_at=now(),
    )
    store.bind_encoder(encoder)
    artist_id = store.add_artist(name)
    consent_id = rights.add_consent(store, artist_id, Consent(reference.consent))
    reference_id = store.add_reference(reference, consent_id, windows, np.column_stack([start_s, start_s + 4.0]))
    payload = {"reference_id": reference_id, "path": reference.path, "content_id": reference.content_id}
    audit.append(store, "reference.enroll", payload, artist_id=artist_id)
    store.replace_templates(
        artist_id,
        [
            NewTemplate(windows[row], reference_id, float(start_s[row]), float(start_s[row]) + 4.0, 1)
            for row in range(min(TEMPLATES, len(windows)))
        ],
    )
    return reference_id


def fill(store: Store, encoder: MadeUpEncoder, vectors: np.ndarray) -> None:
    """Enroll artists 0, 1, ... whose windows are `vectors`, (n_artists, n_windows, DIM), and write the index."""
    for first in range(0, len(vectors), CHUNK):
        with store.writing():
            for number, windows in enumerate(vectors[first : first + CHUNK], start=first):
                add_artist(store, encoder, name_of(number), windows)
    write_store_index(store, print)
    store.compact()
    store.empty_log(30.0)
