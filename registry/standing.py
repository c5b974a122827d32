"""How an enrolled artist stands: who sounds alike, what share of tracks may be found, what more references would help.

Scores are made with the cohort and calibration beside the encoder, which itself is not loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from embeddings.errors import ModelError
from embeddings.model_dir import Cohort, load_calibration, load_cohort, locate_model
from registry import scoring
from registry.calibration import Calibration, Rule, Threshold
from registry.config import encoder_source, false_flag_budget
from registry.consistency import LONG_WINDOWS
from registry.crowding import Crowd
from registry.errors import NoThreshold
from registry.llr import MEASURES
from registry.lookalikes import lookalikes_of
from registry.match import find_calibration
from registry.neighbours import nearest_neighbours, voice_sections
from registry.records import ArtistSummary, Lookalike, Neighbour, Reference
from registry.report import printable
from registry.store import Store

#: What the ways are in which enrolled voices were heard for the built-in calibration (`scripts/fit_builtin.py`).
PROBES = {
    "clean": "singing alone",
    "+6 dB": "singing over music 6 dB below it",
    "+0 dB": "singing over music as loud as it",
    "mixes": "karaoke mixes",
    "clones": "good imitations (clones)",
}

#: Seconds of voice on record below which an artist is told so: `likeness enroll --help` asks for a minute.
LITTLE_VOICE_S, GOOD_VOICE_S = 30.0, 60.0
#: References from which on it is checked whether all are of one voice: `registry.enroll`.
CHECKED_REFERENCES = 3


@dataclass(frozen=True)
class EncoderFiles:
    """What lies beside a registry's encoder, named as the loaded encoder names it."""

    source: str
    encoder_id: str | None
    cohort: Cohort | None
    calibration: dict[str, Any] | None


@dataclass(frozen=True)
class ExpectedShare:
    """What share of the tracks of enrolled voices reached a threshold, where that was measured.

    Attributes
    ----------
    probe : str
        How the voices were heard, as the calibration calls it.
    heard : str
        The same for people.
    found_percent : int
    """

    probe: str
    heard: str
    found_percent: int


@dataclass(frozen=True)
class Standing:
    """How an enrolled artist stands.

    Attributes
    ----------
    lookalikes : tuple of Lookalike
        Who is noted as sounding like the artist.
    what_would_help : tuple of str
        What more references would help, by what is on record.
    neighbours : tuple of Neighbour or None
        Nearest first; None where there is nothing to score with, as `missing` says.
    collision_threshold : Threshold or None
        Of a track of as many sections as the artist's references have: what neighbours are held against.
    song_threshold : Threshold or None
        Of a track of one section, which `expected` belongs to.
    taken_off : float or None
        What is taken off the artist's llrs because other voices come near it (`registry.crowding`); 0 where no more of
        them do than expected.
    expected : tuple of ExpectedShare
        Measured on the recordings of the calibration; no promise for this artist.
    measured_on : str or None
        Those recordings, as the calibration names them.
    missing : str or None
        Why there are no neighbours and nothing to expect.
    """

    lookalikes: tuple[Lookalike, ...]
    what_would_help: tuple[str, ...]
    neighbours: tuple[Neighbour, ...] | None = None
    collision_threshold: Threshold | None = None
    song_threshold: Threshold | None = None
    taken_off: float | None = None
    expected: tuple[ExpectedShare, ...] = ()
    measured_on: str | None = None
    missing: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; thresholds are on the llr."""
        return {
            "neighbours": None if self.neighbours is None else [asdict(neighbour) for neighbour in self.neighbours],
            "neighbours_threshold": _threshold_dict(self.collision_threshold),
            "taken_off": self.taken_off,
            "lookalikes": [asdict(lookalike) for lookalike in self.lookalikes],
            "expected_found": {
                "threshold": _threshold_dict(self.song_threshold),
                "measured_on": self.measured_on,
                "shares": [asdict(share) for share in self.expected],
            },
            "what_would_help": list(self.what_would_help),
            "neighbours_missing": self.missing,
        }


def read_encoder_files(store: Store) -> EncoderFiles:
    """Cohort and calibration of the registry's encoder; nothing of the encoder is run.

    Raises
    ------
    ModelError
        It is not on this machine, or damaged.
    """
    source = encoder_source(store)
    directory = locate_model(source, fetch=False)
    return EncoderFiles(source, store.encoder_id, load_cohort(directory), load_calibration(directory))


def find_standing(store: Store, artist: ArtistSummary, encoder: Any = None) -> Standing:
    """How an artist stands among those who are matched now.

    Parameters
    ----------
    encoder : object, optional
        The registry's, where it is loaded already; what lies beside it is read otherwise.
    """
    missing = None
    if encoder is None:
        try:
            encoder = read_encoder_files(store)
        except ModelError as error:
            missing = str(error)
    with store.reading():  # of one moment: an artist may be removed meanwhile
        standing = Standing(
            lookalikes=tuple(lookalikes_of(store, artist.artist_id)),
            what_would_help=tuple(what_would_help(artist, store.references(artist.name))),
            missing=missing,
        )
        if encoder is None:
            return standing
        try:
            return _with_scores(store, artist, encoder, standing)
        except NoThreshold as error:
            return replace(standing, missing=str(error))


def _with_scores(store: Store, artist: ArtistSummary, encoder: Any, standing: Standing) -> Standing:
    """Add what is scored; raises `NoThreshold` where there is nothing to score with, or the artist is not matched."""
    calibration = find_calibration(store, encoder)
    over = store.without_consent()
    if artist.artist_id in over:
        raise NoThreshold(f"{artist.name}: not matched, {over[artist.artist_id]}")
    matched = store.gallery(without=list(over))
    rule = Rule(calibration, false_flag_budget(store), len(np.unique(matched.artist_id)))
    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    # Also of references that wait for an approval: whoever approves them should see this.
    sections = voice_sections(store.reference_windows(artist.artist_id, status=None))
    threshold, song_threshold = rule.threshold(max(1, len(sections))), rule.threshold(1)
    others = matched.select(matched.artist_id != artist.artist_id)
    found = nearest_neighbours(sections, others, cohort, calibration.llr, threshold, store.artist_names())
    own = matched.select(matched.artist_id == artist.artist_id)
    near = Crowd(matched, cohort, calibration.llr, calibration.near).around_artists(own) if len(own.vectors) else [0.0]
    taken_off = round(abs(calibration.llr.weights[MEASURES.index("artist_crowding")]) * float(near[0]), 2)
    noted = {lookalike.artist_id for lookalike in standing.lookalikes}
    return replace(
        standing,
        neighbours=tuple(replace(one, is_lookalike=one.artist_id in noted) for one in found),
        collision_threshold=threshold,
        song_threshold=song_threshold,
        taken_off=taken_off,
        expected=tuple(expected_shares(calibration, song_threshold.llr + taken_off)),
        measured_on=calibration.source,
    )


def expected_shares(calibration: Calibration, threshold: float) -> list[ExpectedShare]:
    """The share of the tracks of enrolled voices at or above a threshold, by how they were heard."""
    return [
        ExpectedShare(probe, PROBES.get(probe, probe), round(100 * (1 - missed)))
        for probe, missed in calibration.missed(threshold).items()
    ]


def what_would_help(artist: ArtistSummary, references: Sequence[Reference]) -> list[str]:
    """What more references of an artist would help, by rules from what is on record; one sentence each."""
    usable = [reference for reference in references if reference.status != "waiting"]
    voiced_s = sum(reference.voiced_s for reference in usable)
    said = []
    if len(usable) < CHECKED_REFERENCES:
        said.append(
            f"whether they are all of one voice is checked from the third reference on, and there "
            f"{'is' if len(usable) == 1 else 'are'} {len(usable)}"
        )
    if voiced_s < LITTLE_VOICE_S:
        said.append(
            f"{voiced_s:.0f} s of voice are on record: {LITTLE_VOICE_S:.0f} s are the least to aim at, "
            f"{GOOD_VOICE_S:.0f} s and more a good start"
        )
    elif voiced_s < GOOD_VOICE_S:
        said.append(f"{voiced_s:.0f} s of voice are on record: {GOOD_VOICE_S:.0f} s and more are a good start")
    if artist.n_templates == 1:
        said.append(
            "one template stands for all: recordings in another style or register than these would get their own"
        )
    if usable and all(reference.n_windows < LONG_WINDOWS for reference in usable):
        said.append(
            f"every reference is short, of less than {LONG_WINDOWS} windows: a longer one can be checked more strictly"
        )
    return said


def standing_text(standing: Standing) -> str:
    """A standing as text for a person; nothing where there is nothing to say."""
    blocks = [
        _neighbour_lines(standing),
        _crowding_lines(standing),
        _lookalike_lines(standing),
        _expected_lines(standing),
    ]
    if standing.what_would_help:
        blocks.append(["What more references would help:", *(f"  {line}" for line in standing.what_would_help)])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def collision_warnings(name: str, standing: Standing, said: Collection[str | None] = ()) -> list[str]:
    """What to look into: a sentence for each neighbour beyond the threshold who is not noted as sounding alike.

    Parameters
    ----------
    name : str
        The artist's.
    said : collection of str
        Neighbours who were warned of already.
    """
    threshold = standing.collision_threshold
    if threshold is None:
        return []
    return [
        f"{name}: what is on record sounds like {one.artist} (log10 likelihood ratio {one.llr:.2f}, threshold "
        f"{threshold.llr:.2f}); the same person under two names, or two alike voices? The latter is noted with "
        f'`likeness artists note-lookalike "{name}" "{one.artist}"`'
        for one in standing.neighbours or ()
        if one.reaches_threshold and not one.is_lookalike and one.artist not in said
    ]


def expected_text(standing: Standing) -> str:
    """What may be found, in one sentence; empty where that is not known."""
    if standing.song_threshold is None or not standing.expected:
        return ""
    shares = ", ".join(f"{share.found_percent} % of {share.heard}" for share in standing.expected)
    return (
        f"{_threshold_in_words(standing)} found {shares}; measured on other voices "
        f"({standing.measured_on}), no promise for this one"
    )


def _neighbour_lines(standing: Standing) -> list[str]:
    threshold = standing.collision_threshold
    if standing.neighbours is None or threshold is None:
        return []
    if not standing.neighbours:
        return ["Nearest enrolled neighbours: there is nobody to compare with"]
    lines = [
        f"Nearest enrolled neighbours, nothing taken off; * reaches the threshold {threshold.llr:.2f} "
        f"({printable(threshold.source)}):"
    ]
    for one in standing.neighbours:
        mark = "*" if one.reaches_threshold else " "
        noted = "; noted as sounding alike" if one.is_lookalike else ""
        lines.append(
            f" {mark}{one.rank}. {printable(one.artist)}: log10 likelihood ratio {one.llr:+.2f}, norm score "
            f"{one.norm_score:.2f}, cosine {one.score:.3f}{noted}"
        )
        if one.reaches_threshold or one.rank == 1:
            lines.append(f"     {one.likeness}")
    return lines


def _crowding_lines(standing: Standing) -> list[str]:
    if not standing.taken_off:
        return []
    is_alike = any(one.reaches_threshold for one in standing.neighbours or ())
    merge = ". Two names of one person should be merged (`likeness artists merge`)" if is_alike else ""
    return [
        "Other voices, enrolled ones or the cohort's, come near this artist more often than usual: "
        f"{standing.taken_off:.2f} is taken off each of its log10 likelihood ratios, so that no more strangers are "
        f"taken for it than for others{merge}"
    ]


def _lookalike_lines(standing: Standing) -> list[str]:
    if not standing.lookalikes:
        return []
    lines = ["Noted as sounding alike:"]
    for one in standing.lookalikes:
        note = f": {printable(one.note)}" if one.note else ""
        lines.append(f"  {printable(one.artist)}{note} ({printable(one.noted_by)}, {one.noted_at})")
    return lines


def _expected_lines(standing: Standing) -> list[str]:
    if standing.song_threshold is None or not standing.expected:
        return []
    return [
        f"Share of tracks that {_threshold_in_words(standing)} found, measured on other voices "
        f"({printable(str(standing.measured_on))}), no promise for this one:",
        *(f"  {share.found_percent:3d} %  {printable(share.heard)}" for share in standing.expected),
    ]


def _threshold_in_words(standing: Standing) -> str:
    """That which `expected` is at, and what the artist's llrs are lower by before they are held against it."""
    assert standing.song_threshold is not None
    off = f", {standing.taken_off:.2f} taken off first," if standing.taken_off else ""
    return f"the present threshold {standing.song_threshold.llr:.2f}{off}"


def _threshold_dict(threshold: Threshold | None) -> dict[str, Any] | None:
    return None if threshold is None else {"llr": threshold.llr, "source": threshold.source}
