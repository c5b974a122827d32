"""Trials to figures: how well the registry tells these persons apart, and what its thresholds do to them.

Arrays in, records out. Every figure has a 95 % interval over persons and says of how many persons and tracks it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from registry import intervals, llr_metrics, metrics
from registry.calibration import Calibration, Rule, Threshold, beside, together
from registry.intervals import Estimate
from registry.tail import N_GALLERIES, gallery_maxima, random_galleries
from registry.trials import TrialScores

#: Persons below which no rate is given: an interval over so few says nothing, and one person moves a rate by 20 %.
MIN_PERSONS = 5
#: False-flag budgets that are looked at unless others are asked for.
BUDGETS = (0.03, 0.01, 0.003)
#: Sizes of gallery that FNIR is given for; those beyond the persons there are have no FPIR that could be counted.
SIZES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
#: NIST's two priors of a target are 0.01 and 0.001; with the few thousand nontargets of an owner 0.001 says little.
P_TARGET = 0.01
#: Tracks of strangers beyond the threshold that are named.
NAMED_FLAGS = 50

#: What each kind of target is, in the order of the reports.
GENUINE, NEW_SOURCE, CLONES = "genuine", "genuine, new source", "clones"


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, and what it stands on.

    Attributes
    ----------
    value, low, high : float
        Ends of the 95 % interval over persons; NaN where too few resamples could be used.
    n_persons, n_tracks : int
        Of error rates and costs those of the targets; of FPIR those of the strangers.
    """

    value: float
    low: float
    high: float
    n_persons: int
    n_tracks: int


@dataclass(frozen=True)
class Targets:
    """How well tracks of one kind are told from strangers, whatever the threshold.

    Attributes
    ----------
    kind : {"genuine", "genuine, new source", "clones"}
    n_persons, n_tracks, n_abstained : int
        Abstentions count as missed in `eer`, `auc` and `min_dcf`, and are left out of `cllr` and `cllr_min`.
    n_nontarget_trials : int
        Pairs of a genuine track and another person's model.
    too_few : str or None
        Why there are no figures.
    figures : dict of str to Figure
        ``eer``, ``auc``, ``min_dcf`` (at a target prior of 0.01), ``cllr`` and ``cllr_min`` (bits).
    det, tippett, reliability
        Points of the plots; None where there are no figures.
    """

    kind: str
    n_persons: int
    n_tracks: int
    n_abstained: int
    n_nontarget_trials: int
    too_few: str | None
    figures: dict[str, Figure]
    det: metrics.Det | None = None
    tippett: llr_metrics.Tippett | None = None
    reliability: llr_metrics.Reliability | None = None


@dataclass(frozen=True)
class Point:
    """What one threshold does.

    Attributes
    ----------
    budget : float
        The false-flag budget.
    n_artists : int
        That the threshold is for.
    threshold : float
        log10 likelihood ratio, of a track of one section.
    decades_beyond : float
        How far it lies beyond what the calibration's strangers can show, in powers of ten.
    fpir : Figure or None
        Share of strangers' tracks flagged, abstentions in the denominator; None where there are fewer voices.
    fnir : dict of str to Figure
        Share of the tracks of each kind of target that are not flagged for their person, abstentions included.
    """

    budget: float
    n_artists: int
    threshold: float
    decades_beyond: float
    fpir: Figure | None
    fnir: dict[str, Figure]


@dataclass(frozen=True)
class PersonRow:
    """One person at the first budget's threshold.

    Attributes
    ----------
    n_enrolled, n_tested, n_clones : int
        Recordings: files.
    n_missed, n_clones_missed : int
        Not flagged for this person.
    n_flagged : int
        This person's genuine tracks that are flagged for somebody else.
    flagged_as : list of str
        For whom, most often first.
    """

    person: str
    n_enrolled: int
    n_tested: int
    n_missed: int
    n_clones: int
    n_clones_missed: int
    n_flagged: int
    flagged_as: list[str]


@dataclass(frozen=True)
class FalseFlag:
    """A track that is flagged for somebody whose voice it does not carry."""

    path: str
    person: str
    flagged_as: str
    llr: float


@dataclass(frozen=True)
class Evaluation:
    """All of it.

    Attributes
    ----------
    n_models : int
        Persons enrolled.
    n_enrolled_tracks, n_tested, n_abstained : int
        Files that models were to be made of, other genuine files of the same persons, and files with too little voice
        among all.
    n_stranger_persons, n_stranger_tracks : int
        Genuine tracks, each tried with all persons but its own.
    too_few : str or None
        Why there are no rates at all.
    budgets, sizes : list of Point
        The thresholds of some budgets for all models, and of the first budget for galleries of growing size: as many
        artists enrolled, drawn at random, or all models where there are fewer.
    persons, false_flags
        At the first budget's threshold, the worst first.
    """

    n_persons: int
    n_models: int
    n_tracks: int
    n_enrolled_tracks: int
    n_tested: int
    n_clones: int
    n_abstained: int
    n_stranger_persons: int
    n_stranger_tracks: int
    encoder_id: str
    cohort_id: str
    calibration_id: str
    calibration_source: str
    too_few: str | None
    targets: list[Targets]
    budgets: list[Point]
    sizes: list[Point]
    persons: list[PersonRow]
    false_flags: list[FalseFlag]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is not a finite number is None."""
        record: dict[str, Any] = plain(asdict(self))
        return record


def evaluate(scores: TrialScores, calibration: Calibration, budgets: Sequence[float] = BUDGETS) -> Evaluation:
    """Figures of the trials, by a calibration.

    Parameters
    ----------
    budgets : sequence of float
        False-flag budgets, in (0, 1), at least one. The first is the one that persons and galleries of growing size
        are looked at with.
    """
    llrs = scores.llr(calibration.llr, calibration.near)
    kinds = target_kinds(scores)
    n_models = len(scores.model_person)
    strangers = scores.strangers()
    too_few = _too_few(scores, kinds[GENUINE], "with recordings to enroll and others to test")
    return Evaluation(
        n_persons=len(scores.persons),
        n_models=n_models,
        n_tracks=len(scores.track_person),
        n_enrolled_tracks=int(scores.is_enrolled.sum()),
        n_tested=len(scores.targets(clones=False)),
        n_clones=int(scores.is_clone.sum()),
        n_abstained=int(scores.abstains.sum()),
        n_stranger_persons=len(np.unique(scores.track_person[strangers])),
        n_stranger_tracks=len(strangers),
        encoder_id=calibration.encoder_id,
        cohort_id=calibration.cohort_id,
        calibration_id=calibration.calibration_id,
        calibration_source=calibration.source,
        too_few=too_few,
        targets=[] if too_few else [_targets(scores, llrs, kind, at) for kind, at in kinds.items()],
        budgets=[] if too_few else [budget_point(scores, llrs, calibration, budget, n_models) for budget in budgets],
        sizes=[] if too_few else _growth(scores, llrs, calibration, budgets[0]),
        persons=[] if too_few else _persons(scores, llrs, calibration, budgets[0]),
        false_flags=[] if too_few else _false_flags(scores, llrs, calibration, budgets[0]),
    )


def target_kinds(scores: TrialScores) -> dict[str, np.ndarray]:
    """Tracks of each kind that are tried with their own person's model; kinds without any are left out, but genuine."""
    genuine, clones = scores.targets(clones=False), scores.targets(clones=True)
    kinds = {GENUINE: genuine, NEW_SOURCE: genuine[scores.is_new_source[genuine]], CLONES: clones}
    return {kind: at for kind, at in kinds.items() if kind == GENUINE or len(at)}


def own_llrs(scores: TrialScores, llrs: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(n,) llr of some tracks with their own person's model."""
    own: np.ndarray = llrs[at, scores.own_model[at]]
    return own


def stranger_llrs(scores: TrialScores, llrs: np.ndarray) -> np.ndarray:
    """(n_strangers, n_models) llr of strangers' tracks; -inf with their own person, and where they abstain."""
    at = scores.strangers()
    table: np.ndarray = np.where(scores.compared()[at], llrs[at], -np.inf)
    return table


def nontargets(scores: TrialScores, llrs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """llr, person of the model and person of the track of each pair of a genuine track and another's model."""
    at = scores.strangers()
    track, column = np.nonzero(scores.compared()[at])
    return llrs[at][track, column], scores.model_person[column], scores.track_person[at[track]]


def cllr_of(scores: TrialScores, llrs: np.ndarray, at: np.ndarray) -> Estimate:
    """`cllr` of some target tracks against all nontargets, with its interval over persons."""
    other, model_person, track_person = nontargets(scores, llrs)
    own, person = own_llrs(scores, llrs, at), scores.track_person[at]
    return intervals.bootstrap_cllr(
        np.concatenate([own, other]),
        np.arange(len(own) + len(other)) < len(own),
        np.concatenate([person, model_person]),
        np.concatenate([person, track_person]),
    )


def budget_point(
    scores: TrialScores, llrs: np.ndarray, calibration: Calibration, budget: float, n_artists: int
) -> Point:
    """What the threshold of a budget over `n_artists` does to these tracks, each tried with all models."""
    rule, thresholds = thresholds_of(scores, calibration, budget, n_artists)
    return point(rule, budget, n_artists, fpir_of(scores, llrs, thresholds), fnir_of(scores, llrs, thresholds))


def point(rule: Threshold, budget: float, n_artists: int, fpir: Figure | None, fnir: dict[str, Figure]) -> Point:
    """A point with the threshold of a track of one section."""
    return Point(budget, n_artists, rule.llr, rule.decades_beyond, fpir, fnir)


def thresholds_of(
    scores: TrialScores, calibration: Calibration, budget: float, n_artists: int
) -> tuple[Threshold, np.ndarray]:
    """The threshold of a track of one section, and (n_tracks,) that of each track: sections share the budget."""
    # Also beyond what the calibration can show: the report says how far.
    rule = Rule(calibration, budget, n_artists, accept_extrapolation=True)
    by_number = {n: rule.threshold(n).llr for n in np.unique(scores.n_sections).tolist()}
    return rule.threshold(1), np.array([by_number[n] for n in scores.n_sections.tolist()])


def fpir_of(scores: TrialScores, llrs: np.ndarray, thresholds: np.ndarray) -> Figure:
    """Share of strangers' tracks that reach their threshold with anybody."""
    at = scores.strangers()
    return _share(stranger_llrs(scores, llrs).max(axis=1) >= thresholds[at], scores.track_person[at])


def fnir_of(scores: TrialScores, llrs: np.ndarray, thresholds: np.ndarray) -> dict[str, Figure]:
    """Share of the tracks of each kind of target, with enough persons, that miss their threshold with their person."""
    return _fnir(scores, _every_own_llr(scores, llrs) < thresholds)


def _fnir(scores: TrialScores, missed: np.ndarray) -> dict[str, Figure]:
    """Of how often each of (n_tracks,) is missed."""
    return {
        kind: _share(missed[at], scores.track_person[at])
        for kind, at in target_kinds(scores).items()
        if _too_few(scores, at, "") is None
    }


def _targets(scores: TrialScores, llrs: np.ndarray, kind: str, at: np.ndarray) -> Targets:
    own, person = own_llrs(scores, llrs, at), scores.track_person[at]
    other, model_person, other_person = nontargets(scores, llrs)
    n_persons, n_abstained = len(np.unique(person)), int(np.isneginf(own).sum())
    counts = n_persons, len(at), n_abstained, len(other)
    too_few = _too_few(scores, at, f"with tracks of this kind ({kind})")
    if too_few is None and (n_abstained == len(at) or np.isneginf(other).all()):
        too_few = "every track abstained"
    if too_few is not None:
        return Targets(kind, *counts, too_few, {})
    values = np.concatenate([own, other])
    is_target = np.arange(len(values)) < len(own)
    models, tracks = np.concatenate([person, model_person]), np.concatenate([person, other_person])
    judged = values > -np.inf
    estimates = {
        **intervals.bootstrap_verification(
            values,
            is_target,
            models,
            tracks,
            metrics={
                "eer": metrics.eer,
                "auc": metrics.auc,
                "min_dcf": lambda curve: metrics.min_dcf(curve, P_TARGET),
            },
        ),
        "cllr": cllr_of(scores, llrs, at),
        **intervals.bootstrap_verification(
            values[judged],
            is_target[judged],
            models[judged],
            tracks[judged],
            metrics={"cllr_min": llr_metrics.cllr_min_of},
        ),
    }
    return Targets(
        kind,
        *counts,
        too_few=None,
        figures={name: _figure(estimate, n_persons, len(at)) for name, estimate in estimates.items()},
        det=metrics.det_points(metrics.roc(values, is_target)),
        tippett=llr_metrics.tippett(own, other),
        reliability=llr_metrics.reliability(own, other),
    )


def _growth(scores: TrialScores, llrs: np.ndarray, calibration: Calibration, budget: float) -> list[Point]:
    """FNIR, and FPIR as far as there are voices, with the threshold of each size of gallery."""
    n_models = len(scores.model_person)
    points = []
    for size in sorted({*SIZES, n_models}):
        rule, thresholds = thresholds_of(scores, calibration, budget, size)
        if size > n_models:
            points.append(point(rule, budget, size, None, fnir_of(scores, llrs, thresholds)))
            continue
        strangers = _strangers_in_galleries(scores, calibration, size) >= thresholds[:, None]
        own = _own_in_galleries(scores, calibration, size) >= thresholds[:, None]
        at = scores.strangers()
        fpir = _share(strangers[at].mean(axis=1), scores.track_person[at])
        points.append(point(rule, budget, size, fpir, _fnir(scores, 1 - own.mean(axis=1))))
    return points


def _strangers_in_galleries(scores: TrialScores, calibration: Calibration, size: int) -> np.ndarray:
    """(n_tracks, n_galleries) best llr with the others of each gallery; -inf where a track abstains."""
    table = np.where(scores.compared()[scores.row_track], scores.plain_llr_rows(calibration.llr), -np.inf)
    with_others, own = together(scores.between, calibration.llr, calibration.near), scores.own_model[scores.row_track]
    # By sections, for each has its own crowd; a track has its best one.
    return scores.of_tracks(gallery_maxima(table, size, N_GALLERIES, together=with_others, own=own).T)


def _own_in_galleries(scores: TrialScores, calibration: Calibration, size: int) -> np.ndarray:
    """(n_tracks, n_galleries) llr with the own person, the others of a gallery beside it; -inf where there is none."""
    own = scores.own_model[scores.row_track]
    rows = np.flatnonzero(own >= 0)
    own, llrs = own[rows], scores.plain_llr_rows(calibration.llr)[rows]
    galleries = random_galleries(len(scores.model_person), size, N_GALLERIES)
    found = np.full((len(scores.row_track), len(galleries)), -np.inf)
    for column, voices in enumerate(galleries):
        others = np.where(voices[None, :] == own[:, None], -np.inf, llrs[:, voices])
        between = scores.between.select(voices, own)
        found[rows, column] = beside(llrs[np.arange(len(own)), own], others, between, calibration.llr, calibration.near)
    return scores.of_tracks(found)


def _persons(scores: TrialScores, llrs: np.ndarray, calibration: Calibration, budget: float) -> list[PersonRow]:
    _, thresholds = thresholds_of(scores, calibration, budget, len(scores.model_person))
    missed = _every_own_llr(scores, llrs) < thresholds
    hits = scores.compared() & (llrs >= thresholds[:, None])
    rows = []
    for person, name in enumerate(scores.persons):
        of_person = scores.track_person == person
        genuine, clones = of_person & ~scores.is_clone, of_person & scores.is_clone
        tested = genuine & ~scores.is_enrolled
        as_whom = Counter(scores.model_person[np.nonzero(hits[genuine])[1]].tolist())
        rows.append(
            PersonRow(
                person=name,
                n_enrolled=int((genuine & scores.is_enrolled).sum()),
                n_tested=int(tested.sum()),
                n_missed=int((tested & missed).sum()),
                n_clones=int(clones.sum()),
                n_clones_missed=int((clones & missed).sum()),
                n_flagged=int(hits[genuine].any(axis=1).sum()),
                flagged_as=[scores.persons[other] for other, _ in as_whom.most_common()],
            )
        )
    return sorted(rows, key=lambda row: (-row.n_missed - row.n_flagged, -row.n_clones_missed, row.person))


def _false_flags(scores: TrialScores, llrs: np.ndarray, calibration: Calibration, budget: float) -> list[FalseFlag]:
    at = scores.strangers()
    _, thresholds = thresholds_of(scores, calibration, budget, len(scores.model_person))
    table = stranger_llrs(scores, llrs)
    flagged = np.flatnonzero(table.max(axis=1) >= thresholds[at])
    order = flagged[np.argsort(-table[flagged].max(axis=1), kind="stable")][:NAMED_FLAGS]
    return [
        FalseFlag(
            path=scores.paths[at[i]],
            person=scores.persons[scores.track_person[at[i]]],
            flagged_as=scores.persons[scores.model_person[table[i].argmax()]],
            llr=float(table[i].max()),
        )
        for i in order.tolist()
    ]


def _every_own_llr(scores: TrialScores, llrs: np.ndarray) -> np.ndarray:
    """(n_tracks,) llr of each track with its own person's model; -inf where there is none."""
    own: np.ndarray = np.where(scores.own_model >= 0, llrs[np.arange(len(llrs)), scores.own_model], -np.inf)
    return own


def _too_few(scores: TrialScores, at: np.ndarray, which: str) -> str | None:
    n = len(np.unique(scores.track_person[at]))
    if n >= MIN_PERSONS:
        return None
    return f"{n} of at least {MIN_PERSONS} persons {which}"


def _share(values: np.ndarray, person: np.ndarray) -> Figure:
    return _figure(intervals.bootstrap_share(values, person), len(np.unique(person)), len(values))


def _figure(estimate: Estimate, n_persons: int, n_tracks: int) -> Figure:
    return Figure(estimate.value, estimate.low, estimate.high, n_persons, n_tracks)


def plain(value: Any) -> Any:
    """`value` as plain JSON types; what is not a finite number is None."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
