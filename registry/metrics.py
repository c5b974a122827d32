"""How well scores tell artists apart: error rates and costs.

Two kinds of trial are measured. *Verification*: one model against one track, is it this artist (`roc` and what reads
it). *Open-set identification*: one track against all N artists, is any flag raised and is it the right one
(`open_set_scores`, `fnir_at_fpir`). Everywhere a trial is accepted when ``score >= threshold``; higher is more alike.
Whether log10 likelihood ratios mean what they say is `registry.llr_metrics`'s.

A trial that abstained has the score ``-inf``: never accepted at a finite threshold, so a target counts as missed and an
impostor as not flagged. NaN is refused, because dropping it would flatter the encoder that produced it.

References
----------
ISO/IEC 19795-1:2021, Biometric performance testing and reporting, part 1 (FMR, FNMR, FPIR, FNIR, DET).
NIST 2010 and 2012 Speaker Recognition Evaluation plans (detection cost, normalised; P_target 0.001 and 0.01).
Fawcett 2006, An introduction to ROC analysis, Pattern Recognition Letters 27(8) (ties, area, convex hull).
Martin et al. 1997, The DET curve in assessment of detection task performance, Eurospeech.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]

# --- verification: the curve ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roc:
    """Every operating point that matters, from "accept nothing" to "accept everything".

    Attributes
    ----------
    threshold : (n,) float64
        Never rising, from +inf to -inf; a trial is accepted when its score is >= this.
    p_fa : (n,) float64
        Share of nontarget weight accepted (false match rate), in [0, 1], never falling.
    p_miss : (n,) float64
        Share of target weight rejected (false non-match rate), in [0, 1], never rising.

    Notes
    -----
    Only thresholds at, and just above, a distinct target score are kept: between them the curve is level, and no cost
    or error rate is better there. A straight line between two neighbours is exact: level, or a tie of targets and
    nontargets at one score, where accepting a share of the tied trials by lot gives the points between.
    """

    threshold: FloatArray
    p_fa: FloatArray
    p_miss: FloatArray


class Trials:
    """Trials sorted once, so that each set of weights costs one pass and no sort."""

    def __init__(self, scores: ArrayLike, is_target: ArrayLike) -> None:
        scores = checked_scores("scores", scores)
        mask = np.asarray(is_target)
        if mask.dtype != np.bool_:
            raise TypeError(f"is_target has dtype {mask.dtype}; bool is needed")
        if mask.shape != scores.shape:
            raise ValueError(f"is_target has shape {mask.shape}, scores {scores.shape}; one entry per trial is needed")
        if not mask.any() or mask.all():
            raise ValueError(
                f"{int(mask.sum())} target and {int((~mask).sum())} nontarget trials; at least one of each is needed"
            )
        self.size = scores.size
        self.target_at: IntArray = np.flatnonzero(mask)
        nontarget_at: IntArray = np.flatnonzero(~mask)
        descending = np.argsort(-scores[nontarget_at], kind="stable")
        #: Positions of nontargets among all trials, best score first.
        self.nontarget_at: IntArray = nontarget_at[descending]
        ascending_targets, rank = np.unique(scores[self.target_at], return_inverse=True)
        self.target_scores: FloatArray = ascending_targets[::-1]
        #: For each target its place among the distinct target scores, 0 the best.
        self.target_rank: IntArray = ascending_targets.size - 1 - rank
        ascending_nontargets = scores[self.nontarget_at][::-1]
        n = ascending_nontargets.size
        self.n_above: IntArray = n - np.searchsorted(ascending_nontargets, self.target_scores, side="right")
        self.n_at_or_above: IntArray = n - np.searchsorted(ascending_nontargets, self.target_scores, side="left")
        thresholds = np.empty(2 * self.target_scores.size + 2)
        thresholds[0], thresholds[-1] = np.inf, -np.inf
        thresholds[1:-1:2] = np.nextafter(self.target_scores, np.inf)
        thresholds[2:-1:2] = self.target_scores
        self.thresholds: FloatArray = thresholds

    def roc(self, target_weights: FloatArray | None = None, nontarget_weights: FloatArray | None = None) -> Roc | None:
        """Curve under weights in the order of `target_at` and `nontarget_at`; None if either side weighs nothing."""
        n_scores = self.target_scores.size
        in_score = np.bincount(self.target_rank, weights=target_weights, minlength=n_scores).astype(np.float64)
        accepted = np.cumsum(in_score)
        if nontarget_weights is None:
            above, at_or_above = self.n_above.astype(np.float64), self.n_at_or_above.astype(np.float64)
            total = float(self.nontarget_at.size)
        else:
            weight = np.concatenate([[0.0], np.cumsum(nontarget_weights)])
            above, at_or_above, total = weight[self.n_above], weight[self.n_at_or_above], float(weight[-1])
        if accepted[-1] <= 0 or total <= 0:
            return None
        p_miss = np.ones(2 * n_scores + 2)
        p_miss[2:-1:2] = p_miss[3::2] = np.maximum(1.0 - accepted / accepted[-1], 0.0)
        p_miss[-2:] = 0.0
        p_fa = np.zeros(2 * n_scores + 2)
        p_fa[1:-1:2], p_fa[2:-1:2], p_fa[-1] = above / total, at_or_above / total, 1.0
        return Roc(self.thresholds, p_fa, p_miss)


def roc(scores: ArrayLike, is_target: ArrayLike, weights: ArrayLike | None = None) -> Roc:
    """Trade false accepts against misses, over all thresholds.

    Parameters
    ----------
    scores : (n_trials,) float
        Higher is more alike; -inf where the track abstained.
    is_target : (n_trials,) bool
        True where the track carries the model's person.
    weights : (n_trials,) float, optional
        How much each trial counts, >= 0. By default all alike.

    Returns
    -------
    Roc

    Raises
    ------
    ValueError
        If a score is NaN, if there are no targets or no nontargets, or if either side weighs nothing.

    Examples
    --------
    >>> curve = roc([0.9, 0.8, 0.4, 0.1], [True, False, True, False])
    >>> eer(curve), auc(curve)
    (0.5, 0.75)
    """
    trials = Trials(scores, is_target)
    if weights is None:
        curve = trials.roc()
    else:
        weights = checked_weights(weights, trials.size)
        curve = trials.roc(weights[trials.target_at], weights[trials.nontarget_at])
    if curve is None:
        raise ValueError("all targets or all nontargets have weight 0; at least one of each must count")
    return curve


def eer(curve: Roc) -> float:
    """Equal error rate: where misses equal false accepts, by linear interpolation of the curve.

    Parameters
    ----------
    curve : Roc

    Returns
    -------
    float
        In [0, 1]; 0 is perfect, 0.5 is chance, above it the scores point the wrong way.

    Notes
    -----
    The curve without ties is a staircase, so this is the exact rate at its step across the diagonal; among tied scores
    it is the point reached by accepting a share of them by lot. Tools that average p_fa and p_miss at the nearest
    threshold differ by at most half a step, 1 / (2 min(n_targets, n_nontargets)). `eer_hull` is never higher.
    """
    gap = curve.p_miss - curve.p_fa  # falls from 1 to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(curve.p_fa[after - 1] + share * (curve.p_fa[after] - curve.p_fa[after - 1]))


def eer_hull(curve: Roc) -> float:
    """Equal error rate on the convex hull of the curve (ROCCH-EER).

    Returns
    -------
    float
        In [0, 0.5]: the hull always contains the two trivial decisions.

    Notes
    -----
    The worst Bayes error rate over all priors after the best monotone recalibration of the scores. Never above `eer`;
    the gap is small with thousands of targets and large with a handful, where it is optimistic: one target beaten by
    30 % of the nontargets has `eer` 0.30 and `eer_hull` 0.23. Compare hull with hull only.

    References
    ----------
    Brümmer and de Villiers 2013, The BOSARIS Toolkit: theory, algorithms and code for surviving the new DCF.
    """
    gap = curve.p_miss - curve.p_fa
    # The ends of the hull's edge across the diagonal, found by always moving one end to the point farthest below
    # the edge: a few passes over the arrays instead of a loop over all points.
    x, y = curve.p_fa, curve.p_miss
    first, last = 0, x.size - 1
    while last - first > 1:
        below = (x[last] - x[first]) * (y[first : last + 1] - y[first]) - (y[last] - y[first]) * (
            x[first : last + 1] - x[first]
        )
        farthest = first + int(np.argmin(below))
        if below[farthest - first] >= -1e-15 or farthest in (first, last):
            break
        if gap[farthest] > 0:
            first = farthest
        else:
            last = farthest
    share = gap[first] / (gap[first] - gap[last])
    return float(x[first] + share * (x[last] - x[first]))


def auc(curve: Roc) -> float:
    """Area under the curve of accepted targets over accepted nontargets.

    Returns
    -------
    float
        In [0, 1]: the chance that a target scores above a nontarget, ties counting one half (Mann-Whitney).
    """
    return float(np.trapezoid(1.0 - curve.p_miss, curve.p_fa))


def min_dcf(curve: Roc, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Detection cost at the best threshold for these very trials, normalised.

    Parameters
    ----------
    curve : Roc
    p_target : float
        Prior that a trial is a target, in (0, 1). NIST used 0.01 and 0.001.
    c_miss, c_fa : float
        Cost of a miss and of a false accept, > 0.

    Returns
    -------
    float
        In [0, 1]; 1 is no better than accepting nothing (or, for a p_target above a half, everything).

    Notes
    -----
    ``(c_miss P_miss P_target + c_fa P_fa (1 - P_target)) / min(c_miss P_target, c_fa (1 - P_target))``, as NIST SRE
    2010 and later define it. With p_target 0.001 a single false accept among fewer than 1,000 nontargets already costs
    more than every target: then it only counts the targets above the best nontarget.
    """
    if not 0 < p_target < 1:
        raise ValueError(f"p_target is {p_target}; it must lie above 0 and below 1")
    if c_miss <= 0 or c_fa <= 0:
        raise ValueError(f"c_miss is {c_miss}, c_fa {c_fa}; both must be above 0")
    cost = c_miss * p_target * curve.p_miss + c_fa * (1 - p_target) * curve.p_fa
    return float(cost.min() / min(c_miss * p_target, c_fa * (1 - p_target)))


def fnmr_at_fmr(curve: Roc, fmr: float) -> float:
    """Share of targets missed at the lowest threshold that accepts at most `fmr` of the nontargets.

    No interpolation: a threshold that keeps the promise exists. `fmr` is in [0, 1].
    """
    if not 0 <= fmr <= 1:
        raise ValueError(f"fmr is {fmr}; it must lie in [0, 1]")
    # Rates are sums of weights: a hair of slack, so that 3 of 300 is not above 0.01.
    return float(curve.p_miss[np.flatnonzero(curve.p_fa <= fmr + 1e-12)[-1]])


@dataclass(frozen=True)
class Det:
    """Points of a detection error trade-off curve, ready to plot.

    Attributes
    ----------
    threshold, p_fa, p_miss : (n,) float64
        Operating points, best threshold first.
    probit_fa, probit_miss : (n,) float64
        The same rates on the axes of a DET plot: quantiles of the standard normal distribution.
    """

    threshold: FloatArray
    p_fa: FloatArray
    p_miss: FloatArray
    probit_fa: FloatArray
    probit_miss: FloatArray


def det_points(curve: Roc, max_points: int = 200) -> Det:
    """Thin a curve for a DET plot.

    Points with a rate of 0 or 1 have no place on the axes and are left out, so perfect scores give no points at all. At
    most `max_points` (>= 2) are kept, spread evenly along the plotted curve and always with its two ends.
    """
    if max_points < 2:
        raise ValueError(f"max_points is {max_points}; at least 2 are needed")
    on_axes = np.flatnonzero((curve.p_fa > 0) & (curve.p_fa < 1) & (curve.p_miss > 0) & (curve.p_miss < 1))
    probit_fa, probit_miss = _probit(curve.p_fa[on_axes]), _probit(curve.p_miss[on_axes])
    if on_axes.size > max_points:
        along = probit_fa - probit_miss  # never falls along the curve
        wanted = np.linspace(along[0], along[-1], max_points)
        keep = np.unique(np.minimum(np.searchsorted(along, wanted), along.size - 1))
        on_axes, probit_fa, probit_miss = on_axes[keep], probit_fa[keep], probit_miss[keep]
    return Det(curve.threshold[on_axes], curve.p_fa[on_axes], curve.p_miss[on_axes], probit_fa, probit_miss)


def _probit(rates: FloatArray) -> FloatArray:
    distinct, back = np.unique(rates, return_inverse=True)
    inverse = NormalDist().inv_cdf
    return np.array([inverse(float(rate)) for rate in distinct], dtype=np.float64)[back]


# --- open-set identification ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenSetScores:
    """What an open-set search keeps of a table of scores.

    Attributes
    ----------
    mate_scores : (n_mates,) float64
        Score of the right artist, one per track of an enrolled person; -inf where the track abstained.
    mate_ranks : (n_mates,) int
        Artists scoring at or above the right one, itself included: 1 is first. 0 where the track abstained.
    stranger_scores : (n_strangers,) float64
        Best score over all artists, one per track of a person who is not enrolled; -inf where it abstained.
    mate_at, stranger_at : (n_mates,) and (n_strangers,) int
        Rows of the table they come from.
    """

    mate_scores: FloatArray
    mate_ranks: IntArray
    stranger_scores: FloatArray
    mate_at: IntArray
    stranger_at: IntArray


def open_set_scores(scores: ArrayLike, artist: ArrayLike, abstained: ArrayLike | None = None) -> OpenSetScores:
    """Reduce tracks x artists to the right artist's score of each mate and the best of each stranger.

    Parameters
    ----------
    scores : (n_tracks, n_artists) float
        One column per artist. -inf where the two are not compared (a stranger who is enrolled for other trials).
    artist : (n_tracks,) int
        Column of the artist whose voice the track carries, -1 for a stranger.
    abstained : (n_tracks,) bool, optional
        Tracks that could not be judged; their scores are not looked at and may be NaN.

    Returns
    -------
    OpenSetScores

    Raises
    ------
    ValueError
        If shapes disagree, a column does not exist, or a track that was judged has a NaN.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"scores has shape {table.shape}; (n_tracks, n_artists) with at least one artist is needed")
    columns = np.asarray(artist)
    if columns.shape != table.shape[:1]:
        raise ValueError(f"artist has shape {columns.shape}, scores {table.shape}; one entry per track is needed")
    if columns.size and (columns.min() < -1 or columns.max() >= table.shape[1]):
        raise ValueError(f"artist runs from {columns.min()} to {columns.max()}; -1 to {table.shape[1] - 1} is allowed")
    silent = np.zeros(columns.size, dtype=np.bool_) if abstained is None else np.asarray(abstained, dtype=np.bool_)
    if silent.shape != columns.shape:
        raise ValueError(f"abstained has shape {silent.shape}, scores {table.shape}; one entry per track is needed")
    table = np.where(silent[:, None], -np.inf, table)
    if np.isnan(table).any():
        row = int(np.flatnonzero(np.isnan(table).any(axis=1))[0])
        raise ValueError(f"track {row} has a NaN score; mark it as abstained, or give -inf where it is not compared")
    mate_at, stranger_at = np.flatnonzero(columns >= 0), np.flatnonzero(columns < 0)
    right = table[mate_at, columns[mate_at]]
    ranks = np.where(silent[mate_at], 0, (table[mate_at] >= right[:, None]).sum(axis=1)).astype(np.intp)
    return OpenSetScores(right, ranks, table[stranger_at].max(axis=1), mate_at, stranger_at)


@dataclass(frozen=True)
class OpenSetPoint:
    """One operating point of an open-set search.

    Attributes
    ----------
    fpir_asked : float
        The false-flag budget.
    fpir : float
        Share of strangers' tracks flagged at `threshold`, abstentions in the denominator; <= fpir_asked.
    fnir : float
        Share of enrolled persons' tracks whose right artist is not flagged, abstentions included.
    threshold : float
        A track is flagged for an artist when its score is >= this.
    resolved : bool
        Whether a single flagged stranger would have kept the budget. If not, the threshold is only the best stranger
        seen, and what it really promises is no better than about 3 / n_strangers (rule of three, 95 %).
    n_mates, n_strangers : int
        Tracks.
    """

    fpir_asked: float
    fpir: float
    fnir: float
    threshold: float
    resolved: bool
    n_mates: int
    n_strangers: int


def fnir_at_fpir(
    mate_scores: ArrayLike,
    stranger_scores: ArrayLike,
    fpir: float,
    mate_weights: ArrayLike | None = None,
    stranger_weights: ArrayLike | None = None,
) -> OpenSetPoint:
    """Share of enrolled voices missed, at the lowest threshold that flags at most `fpir` of the strangers.

    Parameters
    ----------
    mate_scores : (n_mates,) float
        Score of the right artist; -inf where the track abstained, which counts as missed. That another artist scored
        higher still does not make it a miss: every artist beyond the threshold is flagged.
    stranger_scores : (n_strangers,) float
        Best score over the N artists searched, so the rate is for that N; -inf where the track abstained.
    fpir : float
        In [0, 1]. NIST reports 0.003.
    mate_weights, stranger_weights : (n,) float, optional
        How much each track counts, >= 0.

    Returns
    -------
    OpenSetPoint

    References
    ----------
    ISO/IEC 19795-1:2021, open-set identification: false-positive and false-negative identification rate.
    """
    search = OpenSetSearch(mate_scores, stranger_scores)
    weights_m = np.ones(search.n_mates) if mate_weights is None else checked_weights(mate_weights, search.n_mates)
    weights_s = (
        np.ones(search.n_strangers)
        if stranger_weights is None
        else checked_weights(stranger_weights, search.n_strangers)
    )
    if weights_m.sum() <= 0 or weights_s.sum() <= 0:
        raise ValueError("all mates or all strangers have weight 0; at least one of each must count")
    point = search.points(checked_share(fpir), weights_m[None], weights_s[None])
    return OpenSetPoint(
        fpir_asked=float(fpir),
        fpir=float(point.fpir[0]),
        fnir=float(point.fnir[0]),
        threshold=float(point.threshold[0]),
        resolved=fpir * search.n_strangers >= 1 - 1e-9,
        n_mates=search.n_mates,
        n_strangers=search.n_strangers,
    )


@dataclass(frozen=True)
class _Points:
    fpir: FloatArray
    fnir: FloatArray
    threshold: FloatArray


class OpenSetSearch:
    """Tracks sorted once; `points` then answers for many sets of weights together."""

    def __init__(self, mate_scores: ArrayLike, stranger_scores: ArrayLike) -> None:
        mates = checked_scores("mate_scores", mate_scores)
        strangers = checked_scores("stranger_scores", stranger_scores)
        if not mates.size or not strangers.size:
            raise ValueError(f"{mates.size} mate and {strangers.size} stranger tracks; at least one of each is needed")
        self.n_mates, self.n_strangers = mates.size, strangers.size
        self.mate_order: IntArray = np.argsort(-mates, kind="stable")
        self.stranger_order: IntArray = np.argsort(-strangers, kind="stable")
        ascending, counts = np.unique(strangers, return_counts=True)
        levels = ascending[::-1]
        # Thresholds worth having lie just above a distinct stranger score, or below all of them; at the k-th of them
        # the strangers before `first_at[k]` in descending order are flagged.
        self.first_at: IntArray = np.concatenate([[0], np.cumsum(counts[::-1])]).astype(np.intp)
        self.thresholds: FloatArray = np.concatenate([np.nextafter(levels, np.inf), [-np.inf]])
        if np.isneginf(levels[-1]):
            # Abstained strangers are never flagged, whatever the threshold.
            self.first_at, self.thresholds = self.first_at[:-1], self.thresholds[:-1]
            self.thresholds[-1] = -np.inf
        # Finite scores only: an abstained mate is missed even at the threshold -inf.
        descending_mates = mates[self.mate_order]
        n_judged = int((descending_mates > -np.inf).sum())
        ascending_mates = descending_mates[:n_judged][::-1]
        self.n_found: IntArray = n_judged - np.searchsorted(ascending_mates, self.thresholds, side="left")

    def points(self, fpir: float, mate_weights: FloatArray, stranger_weights: FloatArray) -> _Points:
        """One point per row of (n_sets, n_mates) and (n_sets, n_strangers) weights; NaN where a side weighs nothing."""
        rows = np.arange(mate_weights.shape[0])
        flagged = _cumulated(stranger_weights[:, self.stranger_order])
        found = _cumulated(mate_weights[:, self.mate_order])
        with np.errstate(invalid="ignore"):  # 0 / 0 where a resample holds no such person
            rate = flagged[:, self.first_at] / flagged[:, -1:]
            # Rates are sums of weights: a hair of slack, so that 3 of 300 is not above 0.01.
            chosen = (rate <= fpir + 1e-12).sum(axis=1) - 1
            fnir = 1.0 - found[rows, self.n_found[chosen]] / found[:, -1]
        empty = np.isnan(rate[:, 0]) | np.isnan(fnir)
        return _Points(
            fpir=np.where(empty, np.nan, rate[rows, chosen]),
            fnir=np.where(empty, np.nan, np.maximum(fnir, 0.0)),
            threshold=np.where(empty, np.nan, self.thresholds[chosen]),
        )


def _cumulated(weights: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((weights.shape[0], 1)), np.cumsum(weights, axis=1)], axis=1)


# --- what is refused -------------------------------------------------------------------------------------------------


def checked_scores(name: str, values: ArrayLike) -> FloatArray:
    """Scores as (n,) float64; ValueError for another shape or NaN."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; one dimension is needed")
    bad = np.flatnonzero(np.isnan(array))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is NaN ({bad.size} in all); give -inf to a track that abstained")
    return array


def checked_weights(values: ArrayLike, n: int) -> FloatArray:
    """Weights as (n,) float64; ValueError for another shape or a negative or infinite one."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,):
        raise ValueError(f"weights has shape {array.shape}; ({n},) is needed")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("a weight is negative or not finite; all must be >= 0")
    return array


def checked_share(value: float) -> float:
    """A share as it is; ValueError outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"fpir is {value}; it must lie in [0, 1]")
    return float(value)
