"""How far a figure would move with other persons: bootstrap intervals, averages over groups, balanced weights.

Persons are resampled, not trials: the trials of one person stand and fall together, and intervals over trials come out
far too narrow (Bolle et al. 2004, Error analysis of pattern recognition systems: the subsets bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from registry.llr_metrics import cllr, llr_costs
from registry.metrics import (
    FloatArray,
    IntArray,
    OpenSetSearch,
    Roc,
    Trials,
    auc,
    checked_scores,
    checked_share,
    checked_weights,
    eer,
    min_dcf,
    roc,
)

#: Resamples when none are asked for: the ends of a 95 % interval are then the 8th value from either side.
DEFAULT_RESAMPLES = 300


@dataclass(frozen=True)
class Estimate:
    """A figure with its bootstrap interval.

    Attributes
    ----------
    value : float
        From all trials, each counted as given.
    low, high : float
        Ends of the percentile interval; NaN when fewer than two resamples were usable.
    level : float
        Of the interval, for instance 0.95.
    n_resamples : int
        Usable ones.
    n_unusable : int
        Resamples that drew no target or no impostor, left out. Many of them mean too few persons for an interval.
    replicates : (n_resamples + n_unusable,) float64
        The figure of each resample, in the order drawn; NaN where unusable.
    """

    value: float
    low: float
    high: float
    level: float
    n_resamples: int
    n_unusable: int
    replicates: FloatArray = field(repr=False, compare=False)


#: The figures of a verification benchmark, by the name they are reported under.
VERIFICATION_METRICS: dict[str, Callable[[Roc], float]] = {
    "eer": eer,
    "auc": auc,
    "min_dcf_0.01": lambda curve: min_dcf(curve, 0.01),
    "min_dcf_0.001": lambda curve: min_dcf(curve, 0.001),
}


def bootstrap_verification(
    scores: ArrayLike,
    is_target: ArrayLike,
    enroll_person: ArrayLike,
    test_person: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    metrics: Mapping[str, Callable[[Roc], float]] | None = None,
    n_resamples: int = DEFAULT_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Verification figures with intervals from resampling persons.

    Parameters
    ----------
    scores, is_target : (n_trials,)
        As for `roc`.
    enroll_person, test_person : (n_trials,) int or str
        Person of the model and person of the track, in one spelling; equal on target trials. For a clone the track's
        person is the one it imitates. Integers are faster.
    weights : (n_trials,) float, optional
        How much each trial counts before resampling, >= 0; see `balanced_weights`.
    metrics : dict of str to function of Roc, optional
        By default `VERIFICATION_METRICS`.
    n_resamples : int
        > 0. A resample of 500,000 trials takes about 10 ms.
    level : float
        In (0, 1).
    seed : int

    Returns
    -------
    dict of str to Estimate

    Notes
    -----
    Trials of one person stand or fall together, so an interval over trials is far too narrow. Persons are drawn with
    replacement, enrolled ones and those who are only ever impostors apart. A target trial then counts as often as its
    person was drawn; an impostor trial as often as its model's person was, times as often as the track's person was:
    both sides vary, and two copies of one person never meet as impostors. With fewer than about ten persons a
    percentile interval is too narrow itself; what is then reported is a lower bound on the doubt.

    References
    ----------
    Bolle, Ratha and Pankanti 2004, Error analysis of pattern recognition systems: the subsets bootstrap, CVIU 93(1).
    Poh, Martin and Bengio 2007, Performance generalization in biometric authentication, IEEE TPAMI 29(3).
    """
    chosen = VERIFICATION_METRICS if metrics is None else metrics
    trials = Trials(scores, is_target)
    base = np.ones(trials.size) if weights is None else checked_weights(weights, trials.size)
    enroll, test = np.asarray(enroll_person), np.asarray(test_person)
    for name, persons in (("enroll_person", enroll), ("test_person", test)):
        if persons.shape != (trials.size,):
            raise ValueError(f"{name} has shape {persons.shape}; one person for each of {trials.size} trials is needed")
    people, person_of = np.unique(np.concatenate([enroll, test]), return_inverse=True)
    enroll_index, test_index = person_of[: trials.size], person_of[trials.size :]
    at = trials.target_at
    strays = np.flatnonzero(enroll_index[at] != test_index[at])
    if strays.size:
        trial = int(at[strays[0]])
        raise ValueError(
            f"trial {trial} is a target, but its model is of {enroll[trial]} and its track of {test[trial]}; "
            "both must name one person"
        )
    enrolled = np.zeros(people.size, dtype=np.bool_)
    enrolled[enroll_index] = True
    drawn = _draw_persons(n_resamples, [np.flatnonzero(enrolled), np.flatnonzero(~enrolled)], people.size, seed)

    target_person, target_base = enroll_index[trials.target_at], base[trials.target_at]
    # int32 halves the memory read by the two look-ups below, which are most of the time.
    model_person = enroll_index[trials.nontarget_at].astype(np.int32)
    track_person = test_index[trials.nontarget_at].astype(np.int32)
    nontarget_base = None if weights is None else base[trials.nontarget_at]

    curve = trials.roc(target_base, np.ones(model_person.size) if nontarget_base is None else nontarget_base)
    if curve is None:
        raise ValueError("all targets or all nontargets have weight 0; at least one of each must count")
    values = {name: metric(curve) for name, metric in chosen.items()}
    replicates = {name: np.full(n_resamples, np.nan) for name in chosen}
    for i in range(n_resamples):
        nontarget_weights = drawn[i][model_person] * drawn[i][track_person]
        if nontarget_base is not None:
            nontarget_weights *= nontarget_base
        curve = trials.roc(drawn[i][target_person] * target_base, nontarget_weights)
        if curve is not None:
            for name, metric in chosen.items():
                replicates[name][i] = metric(curve)
    return {name: _estimate(values[name], replicates[name], level) for name in chosen}


def bootstrap_open_set(
    mate_scores: ArrayLike,
    mate_person: ArrayLike,
    stranger_scores: ArrayLike,
    stranger_person: ArrayLike,
    fpirs: Sequence[float] = (0.01,),
    *,
    n_resamples: int = DEFAULT_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[float, Estimate]:
    """FNIR at each FPIR, with intervals from resampling persons.

    Parameters
    ----------
    mate_scores, stranger_scores : (n_mates,) and (n_strangers,) float
        As for `fnir_at_fpir`.
    mate_person, stranger_person : (n_mates,) and (n_strangers,) int or str
        Person of each track; for an instrumental, its piece of music.
    fpirs : sequence of float
        False-flag budgets, in [0, 1].

    Returns
    -------
    dict of float to Estimate
        Per budget. The threshold is set anew in each resample, so its doubt is in the interval.

    Notes
    -----
    Persons with mate tracks and persons with stranger tracks are drawn each among themselves, except that somebody who
    is in both (enrolled in some trials, a stranger in others) is drawn once for both. The artists searched stay the
    same: the interval is for this registry, not for another of the same size.
    """
    budgets = [checked_share(fpir) for fpir in fpirs]
    search = OpenSetSearch(mate_scores, stranger_scores)
    mates, strangers = np.asarray(mate_person), np.asarray(stranger_person)
    if mates.shape != (search.n_mates,):
        raise ValueError(f"mate_person has shape {mates.shape}; one person for each of {search.n_mates} is needed")
    if strangers.shape != (search.n_strangers,):
        raise ValueError(
            f"stranger_person has shape {strangers.shape}; one person for each of {search.n_strangers} is needed"
        )
    people, person_of = np.unique(np.concatenate([mates, strangers]), return_inverse=True)
    mate_index, stranger_index = person_of[: mates.size], person_of[mates.size :]
    is_mate = np.zeros(people.size, dtype=np.bool_)
    is_mate[mate_index] = True
    drawn = _draw_persons(n_resamples, [np.flatnonzero(is_mate), np.flatnonzero(~is_mate)], people.size, seed)
    ones_m, ones_s = np.ones((1, mates.size)), np.ones((1, strangers.size))
    estimates = {}
    for fpir in budgets:
        value = float(search.points(fpir, ones_m, ones_s).fnir[0])
        replicates = search.points(fpir, drawn[:, mate_index], drawn[:, stranger_index]).fnir
        estimates[fpir] = _estimate(value, replicates, level)
    return estimates


def bootstrap_cllr(
    llrs: ArrayLike,
    is_target: ArrayLike,
    enroll_person: ArrayLike,
    test_person: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    n_resamples: int = DEFAULT_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`registry.llr_metrics.cllr` with an interval from resampling persons, drawn as by `bootstrap_verification`.

    Parameters
    ----------
    llrs, is_target : (n_trials,)
        log10 likelihood ratios, -inf where a track abstained: left out, as by `cllr`.
    enroll_person, test_person : (n_trials,) int or str
        As for `bootstrap_verification`.
    weights : (n_trials,) float, optional
        How much each trial counts before resampling, >= 0.
    """
    values, mask = checked_scores("llrs", llrs), np.asarray(is_target, dtype=np.bool_)
    base = np.ones(values.size) if weights is None else checked_weights(weights, values.size)
    people, person_of = np.unique(np.concatenate([enroll_person, test_person]), return_inverse=True)
    enroll, test = person_of[: values.size], person_of[values.size :]
    enrolled = np.zeros(people.size, dtype=np.bool_)
    enrolled[enroll] = True
    drawn = _draw_persons(n_resamples, [np.flatnonzero(enrolled), np.flatnonzero(~enrolled)], people.size, seed)
    value = cllr(values[mask], values[~mask], base[mask], base[~mask])
    replicates: FloatArray = np.zeros(n_resamples)
    for side in (mask, ~mask):
        at = np.flatnonzero(side & (values > -np.inf))
        costs = base[at] * llr_costs(values[at], is_target=bool(side is mask))
        # Sums over each pair of persons once: weights are of pairs, and a resample is then two small products.
        pair, n = enroll[at] * people.size + test[at], people.size**2
        cost = np.bincount(pair, weights=costs, minlength=n).reshape(people.size, -1)
        count = np.bincount(pair, weights=base[at], minlength=n).reshape(people.size, -1)
        if side is mask:  # model and track are of one person, who counts once
            sums = drawn @ np.diag(cost), drawn @ np.diag(count)
        else:
            sums = ((drawn @ cost) * drawn).sum(axis=1), ((drawn @ count) * drawn).sum(axis=1)
        with np.errstate(invalid="ignore"):  # 0 / 0 where a resample holds no such person
            replicates += sums[0] / sums[1] / 2
    return _estimate(value, replicates, level)


def bootstrap_share(
    values: ArrayLike,
    person: ArrayLike,
    *,
    n_resamples: int = DEFAULT_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Mean of one figure per track, such as whether it was flagged, with an interval from resampling persons.

    Parameters
    ----------
    values : (n_tracks,) float or bool
        In [0, 1], at least one.
    person : (n_tracks,) int or str
        Whose track each is.

    Notes
    -----
    Where all are 0, or all are 1, every resample agrees. The other end of the interval is then the share of persons
    that would be hit by chance in none (or all) of n with a probability of ``1 - level``: about 3 / n (rule of three).
    """
    figures = checked_scores("values", values)
    if not figures.size:
        raise ValueError("no values; a share needs at least one track")
    _, person_of = np.unique(np.asarray(person), return_inverse=True)
    sums, counts = np.bincount(person_of, weights=figures), np.bincount(person_of)
    drawn = _draw_persons(n_resamples, [np.arange(counts.size)], counts.size, seed)
    estimate = _estimate(float(figures.mean()), (drawn @ sums) / (drawn @ counts), level)
    unseen = 1 - (1 - level) ** (1 / counts.size)
    if not figures.any():
        return replace(estimate, low=0.0, high=unseen)
    return replace(estimate, low=1 - unseen, high=1.0) if (figures == 1).all() else estimate


def bootstrap_mean(
    values: ArrayLike, *, n_resamples: int = DEFAULT_RESAMPLES, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean of one figure per person (or clone target), with an interval from resampling those persons.

    Parameters
    ----------
    values : (n_groups,) float
        Not NaN: leave out, and say so, groups that have no figure.
    """
    figures = checked_scores("values", values)
    if not figures.size:
        raise ValueError("no values; a mean needs at least one")
    drawn = _draw_persons(n_resamples, [np.arange(figures.size)], figures.size, seed)
    return _estimate(float(figures.mean()), drawn @ figures / figures.size, level)


def macro_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Plain mean of figures from groups that share no person (corpora), each group counting alike.

    The groups' resamples are independent, so the i-th resample of the mean is the mean of their i-th resamples; give
    each group its own seed. Not for groups with persons in common: their intervals would come out too narrow.
    """
    if not estimates:
        raise ValueError("no estimates; a mean needs at least one")
    sizes = {estimate.replicates.size for estimate in estimates}
    levels = {estimate.level for estimate in estimates}
    if len(sizes) > 1 or len(levels) > 1:
        raise ValueError(f"estimates differ in resamples {sorted(sizes)} or level {sorted(levels)}; make them alike")
    value = float(np.mean([estimate.value for estimate in estimates]))
    return _estimate(value, np.mean([estimate.replicates for estimate in estimates], axis=0), levels.pop())


def by_group(
    scores: ArrayLike, is_target: ArrayLike, groups: ArrayLike, metric: Callable[[Roc], float]
) -> dict[Any, float]:
    """One figure per group of trials: per corpus, or per enrolled person.

    Parameters
    ----------
    scores, is_target : (n_trials,)
        As for `roc`.
    groups : (n_trials,) int or str
        The group of each trial.
    metric : function of Roc

    Returns
    -------
    dict of group to float
        NaN for a group without targets or without nontargets, so that it is seen to be missing.
    """
    values = checked_scores("scores", scores)
    mask, labels = np.asarray(is_target), np.asarray(groups)
    if labels.shape != values.shape or mask.shape != values.shape:
        raise ValueError(
            f"scores {values.shape}, is_target {mask.shape}, groups {labels.shape} differ; one entry per trial"
        )
    names, group_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    figures: dict[Any, float] = {}
    for name, members in zip(
        names.tolist(), np.split(np.argsort(group_of, kind="stable"), np.cumsum(counts)[:-1]), strict=True
    ):
        both = mask[members].any() and not mask[members].all()
        figures[name] = metric(roc(values[members], mask[members])) if both else float("nan")
    return figures


def balanced_weights(is_target: ArrayLike, groups: ArrayLike) -> FloatArray:
    """Weights that let every group count alike, among the targets and among the nontargets.

    Parameters
    ----------
    is_target : (n_trials,) bool
    groups : (n_trials,) int or str
        For instance the person a clone imitates: a dozen of them have most of the clips.

    Returns
    -------
    (n_trials,) float64
        Mean 1 over the targets and over the nontargets; each group present among them has the same sum.
    """
    mask, labels = np.asarray(is_target, dtype=np.bool_), np.asarray(groups)
    if mask.shape != labels.shape or mask.ndim != 1:
        raise ValueError(f"is_target has shape {mask.shape}, groups {labels.shape}; one entry per trial is needed")
    _, group_of = np.unique(labels, return_inverse=True)
    weights = np.zeros(mask.size)
    for side in (mask, ~mask):
        counts = np.bincount(group_of[side])
        present = np.count_nonzero(counts)
        weights[side] = side.sum() / present / counts[group_of[side]] if present else 0.0
    return weights


def _draw_persons(n_resamples: int, strata: Sequence[IntArray], n_persons: int, seed: int) -> FloatArray:
    """How often each person was drawn, (n_resamples, n_persons); every stratum keeps its size."""
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; at least 1 is needed")
    rng = np.random.default_rng(seed)
    drawn = np.zeros((n_resamples, n_persons))
    for members in strata:
        if members.size:
            drawn[:, members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size), n_resamples)
    return drawn


def _estimate(value: float, replicates: FloatArray, level: float) -> Estimate:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie above 0 and below 1")
    usable = replicates[~np.isnan(replicates)]
    low, high = float("nan"), float("nan")
    if usable.size >= 2:
        low, high = (float(end) for end in np.quantile(usable, [(1 - level) / 2, (1 + level) / 2]))
    return Estimate(value, low, high, level, int(usable.size), int(replicates.size - usable.size), replicates)
