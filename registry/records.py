"""What the registry speaks of, as frozen records. Field names are the JSON keys of the command line."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import numpy as np

Verdict = Literal["clear", "flagged", "abstained"]


def storable(text: str) -> str:
    """`text` with half characters (lone surrogates) as escapes: neither SQLite nor UTF-8 can hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def path_text(path: Path) -> str:
    """A path as text: itself, or a file URI (``file:///in/caf%E9.wav``) where its bytes are not UTF-8."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return path.absolute().as_uri()
        except UnicodeEncodeError:  # no bytes give these characters, so no file has this name
            return storable(text)
    return text


def path_of(text: str) -> Path:
    """The path that `path_text` made a text of."""
    # No path is taken for a URI by mistake: `Path` has made one slash of two.
    return Path(os.fsdecode(unquote_to_bytes(text[7:]))) if text.startswith("file:///") else Path(text)


@dataclass(frozen=True)
class Consent:
    """Leave to keep and match an artist's voice: a reference to the release, and when it ends."""

    ref: str
    expires_at: str | None = None


@dataclass(frozen=True)
class ConsentRecord:
    """A consent on record."""

    consent_id: int
    artist: str
    ref: str
    recorded_at: str
    expires_at: str | None
    withdrawn_at: str | None
    in_force: bool


@dataclass(frozen=True)
class ArtistSummary:
    """An enrolled identity and how much of its voice is on record.

    Attributes
    ----------
    uid : str
        Random; names the artist in receipts, where the name must not stand.
    status : {"active", "pending", "waiting", "no consent"}
        Only active ones are matched: those with an approved reference and a consent in force. Of one that is waiting,
        every reference is.
    """

    artist_id: int
    uid: str
    name: str
    status: str
    n_references: int
    n_pending: int
    n_templates: int
    voiced_s: float
    created_at: str


@dataclass(frozen=True)
class Reference:
    """One enrolled recording, without its vectors.

    Attributes
    ----------
    status : {"pending", "active", "waiting"}
        Only active ones are matched. Waiting ones were left out when the registry went over to another encoder, for
        want of their audio.
    force_reason : str or None
        Why it was enrolled although a check spoke against it.
    own_norm_score : float or None
        Against the artist's other references, when it was enrolled.
    """

    reference_id: int
    artist: str
    path: str
    kept_path: str | None
    content_id: str
    duration_s: float
    voiced_s: float
    n_windows: int
    consent: str
    consent_expires_at: str | None
    status: str
    enrolled_by: str
    approved_by: str | None
    force_reason: str | None
    own_norm_score: float | None
    added_at: str


@dataclass(frozen=True)
class Lookalike:
    """An artist whom somebody noted to sound like another one, with what was said of it."""

    artist_id: int
    artist: str
    note: str
    noted_at: str
    noted_by: str


@dataclass(frozen=True)
class Neighbour:
    """How much an artist's references, taken as a track, sound like another enrolled artist.

    Attributes
    ----------
    score, norm_score, llr, likeness
        As of `Match`.
    reaches_threshold : bool
        Whether such a track would be flagged for the other one.
    is_lookalike : bool
        Whether somebody noted that the two sound alike.
    """

    rank: int
    artist_id: int
    artist: str
    score: float
    norm_score: float
    llr: float
    likeness: str | None
    reaches_threshold: bool
    is_lookalike: bool = False


@dataclass(frozen=True)
class NewTemplate:
    """A template about to be stored: a unit vector and the reference window nearest to it."""

    vector: np.ndarray
    reference_id: int
    start_s: float
    end_s: float
    n_windows: int


@dataclass(frozen=True)
class Gallery:
    """The templates of some artists, side by side.

    Attributes
    ----------
    vectors : (n, dim) float32
        Unit rows, grouped by artist.
    artist_id, template_id, reference_id : (n,) int64
        Whose each row is, and where it comes from.
    start_s, end_s : (n,) float64
        The seconds of the reference that each row stands for.
    """

    vectors: np.ndarray
    artist_id: np.ndarray
    template_id: np.ndarray
    reference_id: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray

    def select(self, rows: np.ndarray) -> Gallery:
        """The gallery of some rows only: a mask or indices."""
        return Gallery(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Evidence:
    """Two stretches of sound that a person can compare by ear, and their cosine."""

    track_start_s: float
    track_end_s: float
    reference_id: int
    reference: str
    reference_start_s: float
    reference_end_s: float
    score: float


@dataclass(frozen=True)
class Match:
    """How much a track sounds like one artist.

    Attributes
    ----------
    score : float
        Cosine in [-1, 1], pooled over windows.
    norm_score : float
        After AS-norm: standard deviations above strangers.
    llr : float or None
        log10 likelihood ratio; None in scans of releases before 0.2 of an encoder without calibration.
    likeness : str or None
        `llr` in words.
    flagged : bool
        Whether it reached the threshold.
    lookalike_ids : tuple of int
        Those of the same scan's artists who are noted as sounding like this one.
    taken_off : float
        What crowding took off the llr, at least 0 (`registry.crowding`).
    """

    rank: int
    artist_id: int
    artist: str
    score: float
    norm_score: float
    llr: float | None
    likeness: str | None
    flagged: bool
    evidence: tuple[Evidence, ...]
    lookalike_ids: tuple[int, ...] = ()
    taken_off: float = 0.0


@dataclass(frozen=True)
class Scan:
    """One examination of a track: what was decided, on what grounds, with what.

    Attributes
    ----------
    verdict : {"clear", "flagged", "abstained"}
    reason : str
        One sentence for a person.
    threshold : float
        On `llr`; at or above it a match is flagged. In scans of releases before 0.2, which have no calibration_id, on
        `norm_score`.
    threshold_source : str
        Where the threshold came from.
    budget : float or None
        The false-flag budget that the threshold keeps; None where it was set by hand.
    calibration_id : str or None
        What made llr and threshold of the scores.
    n_artists : int
        Artists matched against.
    n_not_matched : int
        Artists on record who were left out, for want of a consent in force.
    matches : tuple of Match
        Best first, at most five, also when the verdict is clear.
    """

    path: str
    verdict: Verdict
    reason: str
    duration_s: float
    voiced_s: float
    n_windows: int
    n_artists: int
    threshold: float
    threshold_source: str
    encoder_id: str
    cohort_id: str | None
    store_revision: int
    content_id: str
    scanned_at: str
    matches: tuple[Match, ...]
    scan_id: int | None = None
    run_id: int | None = None
    n_not_matched: int = 0
    budget: float | None = None
    calibration_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class KeptMatch:
    """Of a match on record what decides: whose it is, its llr, and whether that was flagged."""

    rank: int
    artist_id: int
    llr: float | None
    flagged: bool


@dataclass(frozen=True)
class KeptScan:
    """Of a scan on record what it takes to decide again, without its evidence; `matches` are best first."""

    scan_id: int
    run_id: int | None
    path: str
    content_id: str
    duration_s: float
    voiced_s: float
    n_artists: int
    threshold: float
    verdict: Verdict
    reason: str
    calibration_id: str | None
    matches: tuple[KeptMatch, ...]


@dataclass(frozen=True)
class Decision:
    """What was decided anew about a scan on record.

    Attributes
    ----------
    scan_id : int
        Of the scan as it is on record.
    flagged : frozenset of int
        Ranks of the matches that are flagged.
    verdict, reason, threshold, threshold_source, budget
        As in `Scan`.
    """

    scan_id: int
    flagged: frozenset[int]
    verdict: Verdict
    reason: str
    threshold: float
    threshold_source: str
    budget: float | None


@dataclass(frozen=True)
class Unusable:
    """A track that could not be examined: no verdict, and why."""

    path: str
    kind: str
    reason: str
    verdict: None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """One batch, pinned to one state of the registry; `decided_from` is the run whose kept scores it decided anew."""

    run_id: int
    inputs_key: str
    started_at: str
    finished_at: str | None
    store_revision: int
    encoder_id: str
    cohort_id: str | None
    threshold: float
    threshold_source: str
    version: str
    budget: float | None = None
    calibration_id: str | None = None
    decided_from: int | None = None


@dataclass(frozen=True)
class BatchItem:
    """A track that a batch is to examine; `extra` holds the manifest's other columns as they came."""

    path: str
    title: str | None = None
    isrc: str | None = None
    uploader: str | None = None
    extra: dict[str, Any] | None = None


@dataclass(frozen=True)
class IdentityChange:
    """An alias, merge or split; `detail` holds what it takes to undo it."""

    change_id: int
    artist: str
    action: str
    changed_at: str
    changed_by: str
    detail: dict[str, Any]
    undone_at: str | None
