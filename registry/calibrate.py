"""Another calibration from the owner's recordings: llr and tail fitted anew, and what that changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from registry import llr
from registry.calibration import CONSTANTS, Calibration, Rule, together
from registry.crowding import NearLevels
from registry.errors import NoThreshold, TooFewRecordings
from registry.evaluate import (
    CLONES,
    GENUINE,
    Figure,
    Point,
    cllr_of,
    fnir_of,
    fpir_of,
    own_llrs,
    plain,
    point,
    target_kinds,
    thresholds_of,
)
from registry.llr import LlrModel, fit_line, fit_llr, line_between, measures
from registry.tail import Tail, fit_tail
from registry.trials import Recording, TrialScores, enrolled_half

#: What a calibration needs. Of 20 persons the interval over persons of a rate of one half is 30 to 70 %; of 100
#: strangers' tracks 15 are in the part of the tail that is fitted.
MIN_PERSONS = 20
MIN_STRANGER_TRACKS = 100
#: Parts that persons are divided into: each is judged by a calibration that was fitted without it.
N_FOLDS = 5
#: llrs of enrolled voices that are kept, for what other thresholds would miss.
N_RANKS = 50

Part = Literal["llr", "tail"]


@dataclass(frozen=True)
class Effect:
    """What a calibration makes of the owner's recordings.

    Attributes
    ----------
    cllr : dict of str to Figure
        Of genuine tracks and of clones, in bits.
    present : list of Point
        Thresholds of budgets at the registry's present number of artists, and FNIR of these recordings at them.
    here : list of Point
        Thresholds for as many artists as persons were enrolled for this, with FPIR too.
    """

    cllr: dict[str, Figure]
    present: list[Point]
    here: list[Point]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def check_listed(recordings: Sequence[Recording]) -> None:
    """Raise `TooFewRecordings` where even if all can be used there is too little to fit anything to."""
    n_persons = len({person for person, _ in enrolled_half(recordings)})
    _check_counts(n_persons, sum(not recording.is_clone for recording in recordings))


def check_enough(scores: TrialScores) -> None:
    """Raise `TooFewRecordings` where there is too little to fit anything to."""
    n_persons = len(np.unique(scores.track_person[_judged(scores, scores.targets(clones=False))]))
    _check_counts(n_persons, len(_judged(scores, scores.strangers())))


def _check_counts(n_persons: int, n_strangers: int) -> None:
    if n_persons < MIN_PERSONS:
        raise TooFewRecordings(
            f"{n_persons} persons with a recording to enroll and another to test, at least {MIN_PERSONS} are needed: "
            "what follows from fewer is about those few; add persons, with two recordings or more each"
        )
    if n_strangers < MIN_STRANGER_TRACKS:
        raise TooFewRecordings(
            f"{n_strangers} recordings with voice to try with everybody else, at least {MIN_STRANGER_TRACKS} are "
            "needed: how high strangers score is read from the highest of them; add recordings"
        )


def fit_calibration(
    scores: TrialScores, encoder_id: str, cohort_id: str, before: Calibration | None, only: Part | None = None
) -> Calibration:
    """Fit llr and tail to the owner's recordings.

    Parameters
    ----------
    scores : TrialScores
    before : Calibration or None
        The one in force. What is not fitted is taken from it.
    only : {"llr", "tail"}, optional
        Fit one part. Of llr then only slope and intercept: the tail is of llrs, and can be carried over to others that
        rise with them. Budgets are kept as before, and the same tracks are flagged, but for those that
        `registry.calibration.LEAST_LLR` holds back.

    Returns
    -------
    Calibration

    Raises
    ------
    TooFewRecordings
        See `check_enough`.
    NoThreshold
        One part is asked for and no calibration is in force; or there is nothing to fit, for own persons do not score
        above others.
    """
    check_enough(scores)
    if only is not None and before is None:
        raise NoThreshold(
            f"only {only} is to be fitted, and no calibration is in force to take the other part from; leave out --only"
        )
    try:
        content = _content(scores, before, only)
    except ValueError as error:
        raise NoThreshold(f"nothing can be calibrated on these recordings: {error}") from error
    content = {
        "encoder_id": encoder_id,
        "cohort_id": cohort_id,
        # Another of these makes other scores, and the calibration is no longer one.
        "scoring": CONSTANTS,
        **content,
        "likeness_version": version("likeness"),
        "made_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return Calibration.from_dict(json.loads(json.dumps(content)))  # as it will be read


def effects(
    scores: TrialScores,
    after: Calibration,
    before: Calibration | None,
    only: Part | None,
    budgets: Sequence[float],
    n_artists: int,
) -> tuple[Effect | None, Effect]:
    """What the calibration before makes of these recordings, if there is one, and what the one fitted to them makes.

    In the second each person is judged by llrs and thresholds that were fitted as `after` was, but without this person;
    the thresholds shown are those of `after`.
    """
    nobody = np.zeros(len(scores.persons), np.int64)
    was = None if before is None else _effect(scores, before, [before], nobody, budgets, n_artists)
    return was, _effect(scores, after, without_each(scores, after, before, only), _folds(scores), budgets, n_artists)


def without_each(
    scores: TrialScores, after: Calibration, before: Calibration | None, only: Part | None
) -> list[Calibration]:
    """`after`, fitted without each part of the persons; where the others are too few for that, as it is."""
    fitted = []
    for part in range(N_FOLDS):
        try:
            model, near, tail = _fit(scores, before, only, leave_out=part)
        except ValueError:
            model, near, tail = after.llr, after.near, after.tail
        fitted.append(replace(after, llr=model, near=near, tail=tail))
    return fitted


def _effect(
    scores: TrialScores,
    shown: Calibration,
    judges: Sequence[Calibration],
    judge_of_person: np.ndarray,
    budgets: Sequence[float],
    n_artists: int,
) -> Effect:
    """What calibrations make of the tracks of the persons that each judges."""
    judge = judge_of_person[scores.track_person]
    llrs = np.select(
        [(judge == i)[:, None] for i in range(len(judges))],
        [scores.llr(each.llr, each.near) for each in judges],
    )

    def rates(budget: float, n: int, *, with_fpir: bool) -> Point:
        by_judge = [thresholds_of(scores, each, budget, n)[1] for each in judges]
        thresholds = np.stack(by_judge)[judge, np.arange(len(judge))]
        fpir = fpir_of(scores, llrs, thresholds) if with_fpir else None
        rule, _ = thresholds_of(scores, shown, budget, n)
        return point(rule, budget, n, fpir, fnir_of(scores, llrs, thresholds))

    cllrs = {}
    for kind in (GENUINE, CLONES):
        at = target_kinds(scores).get(kind, np.empty(0, np.int64))
        if len(_judged(scores, at)):
            cost, n_persons = cllr_of(scores, llrs, at), len(np.unique(scores.track_person[at]))
            cllrs[kind] = Figure(cost.value, cost.low, cost.high, n_persons, len(at))
    return Effect(
        cllr=cllrs,
        # Without FPIR: of these voices it would be for another number than the threshold is for.
        present=[rates(budget, n_artists, with_fpir=False) for budget in budgets],
        here=[rates(budget, len(scores.model_person), with_fpir=True) for budget in budgets],
    )


def check_usable(calibration: Calibration, budget: float, n_artists: int) -> None:
    """Raise `NoThreshold` where a calibration has no threshold for the registry as it is."""
    try:
        Rule(calibration, budget, n_artists)
    except NoThreshold as error:
        raise NoThreshold(
            f"with this calibration nothing could be decided any more, so it is not kept ({error})"
        ) from error


def _content(scores: TrialScores, before: Calibration | None, only: Part | None) -> dict[str, Any]:
    kept = {} if before is None else before.content
    genuine, clones = scores.targets(clones=False), scores.targets(clones=True)
    clones_too = f", and {len(clones)} clones" if len(clones) else ""
    about = f"{len(scores.persons)} persons, {len(scores.strangers())} recordings{clones_too}"
    content: dict[str, Any] = {"source": f"calibrated on the owner's recordings ({about})"}
    if only is not None:
        content["source"] = f"{only} {content['source']}; the rest: {kept['source']}"
    model, near, tail = _fit(scores, before, only)
    content["llr"] = kept["llr"] if only == "tail" else _told(scores, model)
    content["near"] = near.as_dict()
    content["tail"] = tail.as_dict()
    content["tail_population"] = (
        f"the owner's recordings as they are, persons alike; galleries of up to {len(scores.model_person)} persons"
    )
    if only == "llr":
        content["tail_population"] = kept.get("tail_population", "not said")
    llrs = scores.llr(model, near)
    content["found"] = {
        kind: _ranks(own_llrs(scores, llrs, at), scores.track_person[at])
        for kind, at in (("genuine", genuine), ("clones", clones))
        if len(at)
    }
    return content


def _told(scores: TrialScores, model: LlrModel) -> dict[str, Any]:
    """An llr model with what it was fitted to, as content of a calibration."""
    n_persons = len(np.unique(scores.track_person[scores.targets(clones=False)]))
    clones = ", and clones, persons imitated alike, half each" if len(scores.targets(clones=True)) else ""
    return {
        **model.as_dict(),
        "prior": llr.PRIOR,
        "positives": f"recordings of {n_persons} persons with their own other recordings, persons alike{clones}",
        "negatives": "recordings with every single other person, persons alike",
    }


# --- fitting ----------------------------------------------------------------------------------------------------------


def _fit(
    scores: TrialScores, before: Calibration | None, only: Part | None, leave_out: int | None = None
) -> tuple[LlrModel, NearLevels, Tail]:
    """Fit llr, near levels and tail to all persons, or to all but one part of them; what is not asked for stays."""
    used = np.ones(len(scores.persons), bool) if leave_out is None else _folds(scores) != leave_out
    if only == "llr" and before is not None:
        model = fit_line(before.llr, *_measured(scores, used, before.llr, before.near))
        return model, *_carried_over(before.llr, model, before.near, before.tail)
    if only == "tail" and before is not None:
        return before.llr, before.near, _fit_tail(scores, before.llr, before.near, used)
    model, near = _fit_model(scores, used)
    return model, near, _fit_tail(scores, model, near, used)


def _fit_model(scores: TrialScores, used: np.ndarray) -> tuple[LlrModel, NearLevels]:
    """Weights, then from where on others are near, then slope and intercept with crowding taken off."""
    model = fit_llr(*_measured(scores, used, None, NearLevels()))
    columns = used[scores.model_person]
    rows = np.flatnonzero(~scores.is_clone[scores.row_track] & used[scores.track_person[scores.row_track]])
    strangers = scores.compared()[scores.row_track[rows]]
    plain = np.where(strangers, scores.plain_llr_rows(model)[rows], -np.inf)[:, columns]
    weights = _alike(scores.track_person[scores.row_track[rows]])
    near = NearLevels.of(scores.between.select(columns, columns), plain, weights)
    fitted = fit_line(model, *_measured(scores, used, model, near))
    slope, offset = line_between(model, fitted)
    return fitted, replace(near, track=slope * near.track + offset)


def _measured(
    scores: TrialScores, used: np.ndarray, model: LlrModel | None, near: NearLevels
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`registry.llr.measures` of targets and nontargets among the persons that are used, and how much each counts.

    Of a track of several sections the one with the highest norm_score stands for it.
    """
    # Whoever is left out is not enrolled either, and crowds nobody.
    columns = used[scores.model_person]
    scores = replace(
        scores,
        model_person=scores.model_person[columns],
        norm=scores.norm[:, columns],
        between=scores.between.select(columns, columns),
    )
    plain = measures(scores.norm, scores.accompaniment[:, None])
    measured_rows = plain if model is None else scores.measured(model, near)
    best_row = _best_rows(scores)

    def measured(tracks: np.ndarray, columns: np.ndarray) -> np.ndarray:
        found: np.ndarray = measured_rows[best_row[tracks, columns], columns]
        return found

    genuine, clones = (_judged(scores, scores.targets(clones=clones)) for clones in (False, True))
    target_parts = [at[used[scores.track_person[at]]] for at in (genuine, clones)]
    target_parts = [at for at in target_parts if len(at)]
    target_weights = [_alike(scores.track_person[at]) / len(target_parts) for at in target_parts]
    target_at = np.concatenate(target_parts) if target_parts else np.empty(0, np.int64)
    strangers = _judged(scores, scores.strangers())
    strangers = strangers[used[scores.track_person[strangers]]]
    track, column = np.nonzero(scores.compared()[strangers])
    target = measured(target_at, scores.own_model[target_at])
    nontarget = measured(strangers[track], column)
    weights = np.concatenate(target_weights or [np.empty(0)]), _alike(scores.track_person[strangers[track]])
    return target, nontarget, *weights


def _fit_tail(scores: TrialScores, model: LlrModel, near: NearLevels, used: np.ndarray) -> Tail:
    """Fit the tail of strangers' sections, which share a track's budget, with the voices of the persons that are used.

    Abstaining tracks are among them: they are never flagged, and count.
    """
    genuine = ~scores.is_clone & used[scores.track_person]
    columns = used[scores.model_person]
    rows = np.flatnonzero(genuine[scores.row_track])
    track = scores.row_track[rows]
    judged = np.where(scores.compared()[track], scores.plain_llr_rows(model)[rows], -np.inf)[:, columns]
    silent = scores.track_person[scores.abstains & genuine]
    table = np.concatenate([judged, np.full((len(silent), judged.shape[1]), -np.inf)])
    person = np.concatenate([scores.track_person[track], silent])
    with_others = together(scores.between.select(columns, columns), model, near)
    place = np.full(len(scores.persons), -1)
    place[scores.model_person[columns]] = np.arange(columns.sum())
    return fit_tail(table, person, np.zeros(len(person), np.int64), together=with_others, own=place[person])


def _carried_over(before: LlrModel, after: LlrModel, near: NearLevels, tail: Tail) -> tuple[NearLevels, Tail]:
    """Near levels and tail on the scale of llrs that are a straight line of those before."""
    slope, offset = line_between(before, after)
    return replace(near, track=slope * near.track + offset), replace(
        tail,
        levels=tuple(slope * level + offset for level in tail.levels),
        start=slope * tail.start + offset,
        scale=slope * tail.scale,
    )


def _best_rows(scores: TrialScores) -> np.ndarray:
    """(n_tracks, n_models) int: the row with each track's highest norm_score; -1 where a track abstains."""
    best = np.full((len(scores.track_person), len(scores.model_person)), -1)
    tracks, first = np.unique(scores.row_track, return_index=True)
    for track, begin, end in zip(tracks, first, [*first[1:], len(scores.row_track)], strict=True):
        best[track] = begin + scores.norm[begin:end].argmax(axis=0)
    return best


def _judged(scores: TrialScores, tracks: np.ndarray) -> np.ndarray:
    kept: np.ndarray = tracks[~scores.abstains[tracks]]
    return kept


def _alike(person: np.ndarray) -> np.ndarray:
    """Weights with the sum 1 that let every person count alike."""
    _, of_person, counts = np.unique(person, return_inverse=True, return_counts=True)
    weights: np.ndarray = 1 / (counts[of_person] * max(1, len(counts)))
    return weights


def _folds(scores: TrialScores) -> np.ndarray:
    """(n_persons,) int: the part of each person, of even size, by a hash."""
    order = np.argsort([hashlib.sha256(person.encode()).hexdigest() for person in scores.persons])
    fold = np.empty(len(order), np.int64)
    fold[order] = np.arange(len(order)) % N_FOLDS
    return fold


def _ranks(llrs: np.ndarray, person: np.ndarray) -> list[float | None]:
    """llrs at evenly spread ranks, rising, persons alike; None where a track abstained."""
    order = np.argsort(llrs)
    weights = _alike(person)[order]
    ranks = np.cumsum(weights) - weights / 2
    wanted = (np.arange(N_RANKS) + 0.5) / N_RANKS
    chosen = llrs[order][np.searchsorted(ranks, wanted).clip(max=len(order) - 1)]
    return [round(float(value), 2) if np.isfinite(value) else None for value in chosen]
