"""How far log10 likelihood ratios mean what they say: their cost, its least, Tippett points, reliability.

References
----------
Brümmer and du Preez 2006, Application-independent evaluation of speaker detection, Computer Speech and Language 20.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from registry.metrics import FloatArray, IntArray, Roc, Trials, checked_scores, checked_weights


def cllr(
    target_llrs: ArrayLike,
    nontarget_llrs: ArrayLike,
    target_weights: ArrayLike | None = None,
    nontarget_weights: ArrayLike | None = None,
) -> float:
    """Cost of log likelihood ratios, over all priors and costs that somebody may decide with.

    Parameters
    ----------
    target_llrs, nontarget_llrs : (n,) float
        log10 likelihood ratios of trials with and without the model's person. -inf: the track abstained.
    target_weights, nontarget_weights : (n,) float, optional
        How much each counts within its class, >= 0. By default all alike.

    Returns
    -------
    float
        In bits, >= 0. 0 is perfect; 1 is what saying nothing costs (llr 0 everywhere), so above it the llrs do harm.
        inf where a nontarget has the llr +inf.

    Raises
    ------
    ValueError
        If an llr is NaN, or no trial of a class is judged or weighs anything.

    Notes
    -----
    Trials that abstained state no llr and are left out, of both classes: count them beside this figure. They are not
    counted as ``llr = -inf``, which would cost infinitely much, nor as 0, which would make the cost a mixture of how
    well is judged and how often.

    Brümmer and du Preez 2006, equation 8, there with natural logarithms.
    """
    targets, target_shares = _judged("target_llrs", target_llrs, target_weights)
    nontargets, nontarget_shares = _judged("nontarget_llrs", nontarget_llrs, nontarget_weights)
    return float(llr_costs(targets, is_target=True) @ target_shares / 2) + float(
        llr_costs(nontargets, is_target=False) @ nontarget_shares / 2
    )


def llr_costs(llrs: FloatArray, *, is_target: bool) -> FloatArray:
    """Bits that each log10 likelihood ratio costs, (n,); `cllr` is half the mean of targets and half of nontargets."""
    costs: FloatArray = np.logaddexp(0, (-llrs if is_target else llrs) * np.log(10)) / np.log(2)
    return costs


def cllr_min(
    target_llrs: ArrayLike,
    nontarget_llrs: ArrayLike,
    target_weights: ArrayLike | None = None,
    nontarget_weights: ArrayLike | None = None,
) -> float:
    """`cllr` after the best monotone recalibration: what is lost because the classes overlap.

    Parameters and abstentions as for `cllr`; any scores will do, for only their order counts.

    Returns
    -------
    float
        In [0, 1], never above `cllr`; the difference is what calibration loses.

    Notes
    -----
    The recalibration is by pooling adjacent violators on these very trials, so with a handful of them it is optimistic.
    Brümmer and du Preez 2006, section 8.
    """
    targets, target_shares = _judged("target_llrs", target_llrs, target_weights)
    nontargets, nontarget_shares = _judged("nontarget_llrs", nontarget_llrs, nontarget_weights)
    trials = Trials(np.concatenate([targets, nontargets]), np.arange(targets.size + nontargets.size) < targets.size)
    # `Trials` has the nontargets by score, best first.
    curve = trials.roc(target_shares, nontarget_shares[trials.nontarget_at - targets.size])
    assert curve is not None  # the shares of either side have the sum 1
    return cllr_min_of(curve)


def cllr_min_of(curve: Roc) -> float:
    """`cllr_min` of the trials behind a curve, for intervals: the classes between corners of its hull are one block."""
    # From the worst score to the best, so that the share of targets is what may not fall.
    targets, nontargets = -np.diff(curve.p_miss)[::-1], np.diff(curve.p_fa)[::-1]
    weight = targets + nontargets
    block = pool_adjacent_violators(
        np.divide(targets, weight, out=np.zeros_like(weight), where=weight > 0), np.maximum(weight, 0)
    )
    both = np.stack([targets, nontargets])
    both = np.add.reduceat(both, np.flatnonzero(np.diff(block, prepend=-1)), axis=1)
    both = np.maximum(both, 0)  # differences of sums that are equal but for rounding
    total = both.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = both * np.log2(total / both)
    return float(np.where(both > 0, bits, 0).sum() / 2)


def pool_adjacent_violators(values: FloatArray, weights: FloatArray) -> IntArray:
    """Divide a sequence into blocks whose weighted means rise: isotonic regression.

    Parameters
    ----------
    values : (n,) float64
    weights : (n,) float64
        >= 0; what weighs nothing joins a neighbour.

    Returns
    -------
    (n,) int
        Number of the block that each entry is in, 0, 1, ...; the fit is the weighted mean of each block.

    References
    ----------
    Barlow et al. 1972, Statistical inference under order restrictions, section 1.2.
    """
    starts = np.flatnonzero(weights > 0)
    if not starts.size:
        return np.zeros(values.size, dtype=np.intp)
    sums, weight = (values * weights)[starts], weights[starts].astype(np.float64)
    starts[0] = 0
    # All falling runs at once, while that is worth a pass over the arrays; what hangs together may be pooled in any
    # order. A million scores leave a few thousand blocks after some ten passes.
    while True:
        means = sums / weight
        rises = np.concatenate([[True], means[1:] > means[:-1]])
        if (kept := int(rises.sum())) == rises.size:
            return _numbered(starts, values.size)
        first = np.flatnonzero(rises)
        starts, sums, weight = starts[first], np.add.reduceat(sums, first), np.add.reduceat(weight, first)
        if kept > 0.95 * rises.size:
            break
    blocks: list[tuple[float, float, int]] = []  # sum, weight, start: each mean above the one before
    for total, heft, start in zip(sums.tolist(), weight.tolist(), starts.tolist(), strict=True):
        while blocks and blocks[-1][0] * heft >= total * blocks[-1][1]:
            before = blocks.pop()
            total, heft, start = total + before[0], heft + before[1], before[2]
        blocks.append((total, heft, start))
    return _numbered(np.array([start for _, _, start in blocks], dtype=np.intp), values.size)


def _numbered(starts: IntArray, n: int) -> IntArray:
    begins = np.zeros(n, dtype=np.intp)
    begins[starts[1:]] = 1
    return np.cumsum(begins)


@dataclass(frozen=True)
class Tippett:
    """How often llrs of either class reach a value, ready to plot.

    Attributes
    ----------
    llr : (n,) float64
        log10 likelihood ratios, rising.
    targets, nontargets : (n,) float64
        Share of each class at or above `llr`, in [0, 1], never rising.
    """

    llr: FloatArray
    targets: FloatArray
    nontargets: FloatArray


def tippett(target_llrs: ArrayLike, nontarget_llrs: ArrayLike, max_points: int = 200) -> Tippett:
    """Points of a Tippett plot, at evenly spread values from the lowest finite llr to the highest.

    Parameters
    ----------
    target_llrs, nontarget_llrs : (n,) float
        log10 likelihood ratios, at least one of each class. -inf (abstained) reaches no value and stays in the
        denominator, so the targets' curve begins below 1 where some abstained.
    max_points : int
        >= 2.

    References
    ----------
    Tippett et al. 1968, The evidential value of the comparison of paint flakes, Journal of the Forensic Science
    Society 8; for likelihood ratios Meuwly and Drygajlo 2001, Odyssey.
    """
    targets, nontargets = checked_scores("target_llrs", target_llrs), checked_scores("nontarget_llrs", nontarget_llrs)
    if not targets.size or not nontargets.size:
        raise ValueError(f"{targets.size} target and {nontargets.size} nontarget llrs; at least one of each is needed")
    if max_points < 2:
        raise ValueError(f"max_points is {max_points}; at least 2 are needed")
    finite = np.concatenate([targets, nontargets])
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        nothing: FloatArray = np.empty(0)
        return Tippett(nothing, nothing, nothing)
    at: FloatArray = np.unique(np.linspace(finite.min(), finite.max(), max_points))

    def reaching(llrs: FloatArray) -> FloatArray:
        shares: FloatArray = 1 - np.searchsorted(np.sort(llrs), at, side="left") / llrs.size
        return shares

    return Tippett(at, reaching(targets), reaching(nontargets))


@dataclass(frozen=True)
class Reliability:
    """What llrs say against what was observed, by bins.

    Attributes
    ----------
    low, high : (n_bins,) float64
        Ends of each bin; an llr is in it when ``low <= llr < high``.
    stated : (n_bins,) float64
        Mean llr of the trials in the bin, each class weighing one half; NaN in an empty bin.
    observed : (n_bins,) float64
        log10 of how much commoner the bin is among targets than among nontargets: what the llr should have been.
        +inf or -inf where only one class is in it, NaN in an empty bin.
    n_targets, n_nontargets : (n_bins,) int
    """

    low: FloatArray
    high: FloatArray
    stated: FloatArray
    observed: FloatArray
    n_targets: IntArray
    n_nontargets: IntArray


#: Ends of the bins of `reliability` unless others are given: half powers of ten, in which ENFSI's words change.
RELIABILITY_EDGES = (-np.inf, *(x / 2 for x in range(-8, 9)), np.inf)


def reliability(
    target_llrs: ArrayLike,
    nontarget_llrs: ArrayLike,
    target_weights: ArrayLike | None = None,
    nontarget_weights: ArrayLike | None = None,
    edges: ArrayLike = RELIABILITY_EDGES,
) -> Reliability:
    """Compare llrs with the log odds observed of trials that have about that llr, at even prior odds.

    Parameters
    ----------
    target_llrs, nontarget_llrs, target_weights, nontarget_weights
        As for `cllr`; abstentions are left out.
    edges : (n_bins + 1,) float
        Rising.

    Notes
    -----
    A bin with few trials of either class says little: look at the counts. Of a likelihood ratio that is one, the
    ratio of how often it comes up in the two classes is the ratio itself (van Leeuwen and Brümmer 2013, The
    distribution of calibrated likelihood-ratios in speaker recognition).
    """
    ends = np.asarray(edges, dtype=np.float64)
    if ends.ndim != 1 or ends.size < 2 or not (np.diff(ends) > 0).all():
        raise ValueError(f"edges {ends.tolist()}; at least two rising ones are needed")
    n_bins = ends.size - 1
    shares, sums, counts = [], [], []
    for name, llrs, weights in (
        ("target_llrs", target_llrs, target_weights),
        ("nontarget_llrs", nontarget_llrs, nontarget_weights),
    ):
        values, share = _judged(name, llrs, weights)
        at = np.searchsorted(ends, values, side="right") - 1
        inside = (at >= 0) & (at < n_bins)
        values, share, at = values[inside], share[inside], at[inside]
        shares.append(np.bincount(at, weights=share, minlength=n_bins))
        sums.append(np.bincount(at, weights=share * values, minlength=n_bins))
        counts.append(np.bincount(at, minlength=n_bins))
    with np.errstate(divide="ignore", invalid="ignore"):
        stated = (sums[0] + sums[1]) / (shares[0] + shares[1])
        observed = np.log10(shares[0]) - np.log10(shares[1])
    return Reliability(ends[:-1], ends[1:], stated, observed, *counts)


def _judged(name: str, llrs: ArrayLike, weights: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """llrs that are not -inf, and the share that each has in its class."""
    values = checked_scores(name, llrs)
    heft = np.ones(values.size) if weights is None else checked_weights(weights, values.size)
    judged = values > -np.inf
    values, heft = values[judged], heft[judged]
    if not values.size or heft.sum() <= 0:
        raise ValueError(f"{name}: {values.size} of {judged.size} are judged; at least one that counts is needed")
    shares: FloatArray = heft / heft.sum()
    return values, shares
