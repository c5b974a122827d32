"""Why a track did or did not reach the threshold for one artist: each step from the voice found to the verdict.

Every number is one that `registry.match.Matcher` decides by, or comes of the same functions. Nothing is stored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embeddings.extract import Voiceprint
from registry import scoring
from registry.errors import ConsentMissing, RegistryError
from registry.llr import MEASURES
from registry.match import Matcher, Ranking
from registry.records import Verdict
from registry.report import clock, printable
from registry.store import Store
from registry.verdict import MIN_VOICE_S, lack_of_voice


@dataclass(frozen=True)
class Part:
    """What one measure adds to the llr: its value times its weight."""

    measure: str
    value: float
    weight: float
    adds: float


@dataclass(frozen=True)
class Steps:
    """From the best section of a track to the llr of an artist.

    Attributes
    ----------
    section : int
        From 1; the other sections speak less for the artist.
    stretch_start_s, stretch_end_s, stretch_windows
        The stretch that the cosine is of: windows that are averaged.
    reference_id, reference, reference_start_s, reference_end_s
        What the nearest of the artist's templates stands for.
    score : float
        Cosine of the two.
    track_centre, artist_centre : float
        Mean cosine of the cohort with this section, and with the artist.
    spread : float
        The cohort's. ``norm_score = (score - (track_centre + artist_centre) / 2) / spread``.
    parts : tuple of Part
        What is added up, with `intercept`, to the llr.
    """

    section: int
    section_start_s: float
    section_end_s: float
    stretch_start_s: float
    stretch_end_s: float
    stretch_windows: int
    reference_id: int
    reference: str
    reference_start_s: float
    reference_end_s: float
    score: float
    track_centre: float
    artist_centre: float
    spread: float
    norm_score: float
    parts: tuple[Part, ...]
    intercept: float
    llr: float
    likeness: str | None


@dataclass(frozen=True)
class OtherArtist:
    """The best of the other artists."""

    artist: str
    rank: int
    llr: float
    flagged: bool


@dataclass(frozen=True)
class Explanation:
    """How a track does with one artist.

    Attributes
    ----------
    flagged : bool
        Whether the track reaches the threshold for this artist.
    verdict, reason
        About the track, whoever it is flagged for.
    voiced_percent : int
        Share of the recording in which voice was found.
    is_enough_voice : bool
        Whether there are the `least_voiced_s` seconds of it that a verdict needs.
    steps : Steps or None
        None where nothing is scored, for want of voice.
    llr_beyond : float or None
        The llr less the threshold: what is missing where it is below 0.
    rank : int or None
        Of the artist among those scored; None where it is not one of them.
    n_artists, n_scored : int
        Artists matched; those of them whom the index names for the track are scored, all while they are few.
    best_other : OtherArtist or None
        None where there is no other.
    """

    path: str
    artist: str
    artist_id: int
    flagged: bool
    verdict: Verdict
    reason: str
    duration_s: float
    voiced_s: float
    voiced_percent: int
    least_voiced_s: float
    is_enough_voice: bool
    n_windows: int
    n_sections: int
    steps: Steps | None
    threshold: float
    threshold_source: str
    budget: float | None
    llr_beyond: float | None
    rank: int | None
    n_artists: int
    n_scored: int
    best_other: OtherArtist | None
    encoder_id: str
    cohort_id: str | None
    calibration_id: str | None
    store_revision: int
    content_id: str

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return asdict(self)


def check_matched(store: Store, name: str) -> int:
    """The id of the artist called `name`, if it is matched.

    Raises
    ------
    UnknownArtist
        Nobody is called so.
    ConsentMissing
        The artist's consents are over.
    RegistryError
        None of the artist's references is in use.
    """
    artist = store.artist(name)
    if why := store.without_consent().get(artist.artist_id):
        raise ConsentMissing(f"{artist.name}: not matched, {why}; `likeness consents add` records another")
    if not artist.n_templates:
        waits = {"waiting": "their recordings", "pending": "somebody else's approval"}.get(artist.status)
        raise RegistryError(
            f"{artist.name}: not matched, none of its references is in use"
            f"{f': they wait for {waits}' if waits else ''}; `likeness artists show` says more"
        )
    return artist.artist_id


def explain(store: Store, matcher: Matcher, path: str, voiceprint: Voiceprint, artist_id: int) -> Explanation:
    """Say how a track does with an artist who is matched (`check_matched`)."""
    scan = matcher.scan(path, voiceprint)
    is_enough = scan.verdict != "abstained"
    candidates = matcher.candidates(voiceprint.vectors) if is_enough and scan.n_windows else None
    steps, best_other, rank, n_scored = None, None, None, 0
    if candidates is not None:
        n_scored = len(np.unique(candidates.artist_id))
        is_candidate = artist_id in candidates.artist_id
        ranking = matcher.rank(voiceprint, matcher.candidates(voiceprint.vectors, also=artist_id))
        if ranking is not None:
            steps = _steps(store, matcher, voiceprint, ranking, artist_id)
            in_order = [i for i in ranking.artist_id[ranking.order].tolist() if is_candidate or i != artist_id]
            rank = in_order.index(artist_id) + 1 if is_candidate else None
            best_other = _best_other(matcher, voiceprint, ranking, in_order, artist_id)
    threshold = matcher.threshold_of(voiceprint)
    return Explanation(
        path=path,
        artist=store.name_of(artist_id),
        artist_id=artist_id,
        flagged=rank is not None and steps is not None and threshold.is_reached(steps.llr),
        verdict=scan.verdict,
        reason=scan.reason,
        duration_s=scan.duration_s,
        voiced_s=scan.voiced_s,
        voiced_percent=round(100 * scan.voiced_s / scan.duration_s) if scan.duration_s else 0,
        least_voiced_s=MIN_VOICE_S,
        is_enough_voice=is_enough,
        n_windows=scan.n_windows,
        n_sections=scoring.n_sections(scan.duration_s),
        steps=steps,
        threshold=threshold.llr,
        threshold_source=threshold.source,
        budget=threshold.budget,
        llr_beyond=None if steps is None else round(steps.llr - threshold.llr, 3),
        rank=rank,
        n_artists=scan.n_artists,
        n_scored=n_scored,
        best_other=best_other,
        encoder_id=scan.encoder_id,
        cohort_id=scan.cohort_id,
        calibration_id=scan.calibration_id,
        store_revision=scan.store_revision,
        content_id=scan.content_id,
    )


def _steps(store: Store, matcher: Matcher, voiceprint: Voiceprint, ranking: Ranking, artist_id: int) -> Steps:
    row = int(np.searchsorted(ranking.artist_id, artist_id))
    match = matcher.match_of(voiceprint, ranking, row, rank=0)
    section = int(ranking.section[row])
    first, end = ranking.edges[section], ranking.edges[section + 1]
    windows = voiceprint.vectors[first:end]
    own = ranking.gallery.select(ranking.gallery.artist_id == artist_id)
    cosines = scoring.stretch_scores(windows, own.vectors)
    stretch, template = np.unravel_index(cosines.argmax(), cosines.shape)
    stretch_first, stretch_end = first + scoring.stretch_edges(len(windows))[stretch : stretch + 2]
    times_s = scoring.section_times(voiceprint.duration_s)[section : section + 2]
    reference_id = int(own.reference_id[template])
    weights, measured = matcher.calibration.llr.weights, ranking.measured[row]
    return Steps(
        section=section + 1,
        section_start_s=_seconds(times_s[0]),
        section_end_s=_seconds(times_s[1]),
        stretch_start_s=_seconds(voiceprint.start_s[stretch_first]),
        stretch_end_s=_seconds(voiceprint.end_s[stretch_end - 1]),
        stretch_windows=int(stretch_end - stretch_first),
        reference_id=reference_id,
        reference=store.reference_paths([reference_id]).get(reference_id, "(removed)"),
        reference_start_s=_seconds(own.start_s[template]),
        reference_end_s=_seconds(own.end_s[template]),
        score=match.score,
        track_centre=_number(scoring.track_centre(windows, matcher.cohort)),
        artist_centre=_number(scoring.artist_centres(own.vectors, np.zeros(1, np.int64), matcher.cohort)[0]),
        spread=_number(matcher.cohort.spread),
        norm_score=match.norm_score,
        parts=tuple(
            Part(name, _number(value), _number(weight), _number(value * weight))
            for name, value, weight in zip(MEASURES, measured, weights, strict=True)
        ),
        intercept=_number(matcher.calibration.llr.intercept),
        llr=float(ranking.llrs[row]) if match.llr is None else match.llr,
        likeness=match.likeness,
    )


def _best_other(
    matcher: Matcher, voiceprint: Voiceprint, ranking: Ranking, in_order: list[int], artist_id: int
) -> OtherArtist | None:
    for rank, other_id in enumerate(in_order, start=1):
        if other_id != artist_id:
            row = int(np.searchsorted(ranking.artist_id, other_id))
            other = matcher.match_of(voiceprint, ranking, row, rank)
            return OtherArtist(other.artist, rank, float(other.llr or 0.0), other.flagged)
    return None


def _seconds(value: float) -> float:
    return round(float(value), 2)


def _number(value: float) -> float:
    return round(float(value), 4) + 0.0  # no -0.0, which a weight below 0 makes of 0


# -- for people --------------------------------------------------------------------------------------------------------


def explanation_text(found: Explanation) -> str:
    """An explanation as text for a person."""
    voice = f"{found.voiced_s:.1f} s in {found.duration_s:.1f} s ({found.voiced_percent} %), {found.n_windows} windows"
    lines = [
        f"{printable(found.path)}, and {printable(found.artist)}: {_in_short(found)}",
        "",
        *_block("voice", f"{voice}; at least {found.least_voiced_s:.1f} s is needed"),
    ]
    if found.steps is not None:
        lines += _step_lines(found, found.steps)
    lines += _block("threshold", f"{_llr(found.threshold)}: {printable(found.threshold_source)}")
    if found.steps is not None:
        lines += _block("ranking", *_ranking_lines(found))
    return "\n".join([*lines, *_block("verdict", f"track {found.verdict}: {printable(found.reason)}")])


def _in_short(found: Explanation) -> str:
    if not found.is_enough_voice:
        return f"nothing is said, for {lack_of_voice(found.voiced_s)}"
    if found.steps is None or found.llr_beyond is None:
        return "no stretch of voice to score"
    llr = f"log10 likelihood ratio {found.steps.llr:.2f}"
    if found.rank is None:
        return f"not scored, for the index names {found.n_scored} artists for this track, nearer ones; {llr} otherwise"
    if found.flagged:
        return f"flagged, {llr} is {_llr(abs(found.llr_beyond))} beyond the threshold {_llr(found.threshold)}"
    return f"not flagged, {llr} is {_llr(abs(found.llr_beyond))} below the threshold {_llr(found.threshold)}"


def _step_lines(found: Explanation, steps: Steps) -> list[str]:
    section = f"{clock(steps.section_start_s)} to {clock(steps.section_end_s)}"
    if found.n_sections > 1:
        section += f", the best of {found.n_sections} sections, which share the budget"
    stretch = f"{clock(steps.stretch_start_s)} to {clock(steps.stretch_end_s)}, {steps.stretch_windows} windows"
    reference = f"{clock(steps.reference_start_s)} to {clock(steps.reference_end_s)} of {printable(steps.reference)}"
    numbers = [
        (f"{steps.score:.4f}", "cosine of the two"),
        (f"{steps.track_centre:.4f}", "mean cosine of strangers (the cohort) with this section"),
        (f"{steps.artist_centre:.4f}", "mean cosine of strangers with the artist"),
        (f"{steps.spread:.4f}", "spread of strangers' cosines with one another"),
        (f"{steps.norm_score:.3f}", "norm score: the cosine less the average of the two means, by the spread"),
    ]
    added = [
        *((f"{part.adds:+.2f}", _part_in_words(part)) for part in steps.parts),
        (f"{steps.intercept:+.2f}", "intercept"),
        (f"{steps.llr:+.2f}", "log10 likelihood ratio"),
    ]
    likeness = () if steps.likeness is None else (steps.likeness,)
    return [
        *_block("section", section),
        *_block("stretch", stretch, f"nearest to {reference}"),
        *_block("score", *(f"{number:>8}  {what}" for number, what in numbers)),
        *_block("evidence", *(f"{number:>8}  {what}" for number, what in added), *likeness),
    ]


def _part_in_words(part: Part) -> str:
    text = f"{part.measure} {part.value:.4g} times {part.weight:.4g}"
    whom = {"artist_crowding": "artist", "track_crowding": "track"}.get(part.measure)
    if whom is None:
        return text
    if part.value == 0:
        return f"{part.measure} 0: no more other voices near the {whom} than expected"
    counted = ", the cohort's counted while few are enrolled" if whom == "artist" else ""
    return f"{text}: {10**part.value:.1f} times as many other voices near the {whom} as expected{counted}"


def _ranking_lines(found: Explanation) -> list[str]:
    place = "not among the" if found.rank is None else f"rank {found.rank} of"
    scored = "" if found.n_scored == found.n_artists else f", of {found.n_artists} who are matched"
    lines = [f"{place} {found.n_scored} artists scored{scored}"]
    if found.best_other is None:
        return lines
    other = found.best_other
    flagged = ", flagged" if other.flagged else ""
    return [*lines, f"best other: {printable(other.artist)}, rank {other.rank}, {other.llr:+.2f}{flagged}"]


def _llr(value: float) -> str:
    """Two decimals, and a third where a threshold was given so by hand: what is compared must not look equal."""
    return f"{value:.2f}" if round(value, 2) == round(value, 3) else f"{value:.3f}"


def _block(name: str, *lines: str) -> list[str]:
    return [f"{name if i == 0 else '':<11}{line}" for i, line in enumerate(lines)]
