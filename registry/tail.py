"""How high a stranger's best score gets, and the threshold that keeps a false-flag budget. Pure numpy.

What is controlled is the score of a stranger's track with the *best* of all N artists matched. It is measured on random
galleries of n voices, for several n. For one of the sizes the tail of such maxima is fitted by a generalised Pareto
distribution (peaks over threshold); the other sizes tell how many such galleries N voices count as.

References
----------
Coles 2001, An Introduction to Statistical Modeling of Extreme Values, sections 4.2 (peaks over threshold), 5.3
(declustering: one exceedance of what hangs together) and 5.4 (extremal index: effective number).
Hosking and Wallis 1987, Parameter and quantile estimation for the generalized Pareto distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: Share of strangers' tracks that the fitted part of the tail begins at. Below it the counted shares are used.
TAIL_SHARE = 0.15
#: Shapes that a tail is allowed: beyond them the fit follows a handful of scores, and moments do not exist.
SHAPES = (-0.5, 0.5)
#: Sizes of the random galleries, as far as there are voices, and how many of each; all voices are one more size. The
#: tail is fitted to the largest that is no larger than `FITTED_SIZE`: of much larger ones a threshold for a handful of
#: artists could not be read.
GALLERY_SIZES = (1, 3, 10, 30, 100, 300)
FITTED_SIZE = 100
N_GALLERIES = 30
#: Resamples of strangers behind the interval of the shape and the margin.
N_RESAMPLES = 200
#: How sure a threshold is to keep its budget, as far as the choice of strangers and of their sources goes.
CONFIDENCE = 0.9
#: Share of strangers' tracks that the margin is found at.
MARGIN_SHARE = 0.01
#: Decades beyond what the strangers can show at which a threshold is said to be extrapolated, and refused.
SAID_BEYOND, REFUSED_BEYOND = 1.0, 2.0

#: What becomes of scores, (n_tracks, n_voices) float, with some voices enrolled together (`registry.crowding`): called
#: with their columns, with their places among all, and with the place among them that is each track's own, -1 for none.
Together = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_N_LEVELS = 25  # of the counted part that are kept


@dataclass(frozen=True)
class Tail:
    """The upper end of strangers' best scores against `n_voices` voices, and how it grows with more of them.

    Attributes
    ----------
    n_voices : int
        Voices in the galleries that `levels` and the fit are of.
    levels, shares : tuple of float
        Scores, rising, and the share of strangers' tracks at or above each; the last are `start` and its share.
    start : float
        Score that the fitted part begins at.
    scale, shape : float
        Of the generalised Pareto distribution of what scores exceed `start` by.
    shape_low, shape_high : float
        95 % interval of the shape over strangers.
    sizes, galleries : tuple of int, of float
        Sizes of gallery that were measured, and how many independent galleries of `n_voices` each counts as. Beyond
        the largest size every voice counts whole: nobody has measured otherwise.
    n_strangers, n_exceedances : int
        Distinct strangers, and those pairs of stranger and condition that the fit has an exceedance of.
    margin : float
        At least 1. So many times as many strangers may reach a high score as were counted, with `CONFIDENCE`, had
        others been drawn, or from other sources: thresholds are made for a budget so much smaller.
    """

    n_voices: int
    levels: tuple[float, ...]
    shares: tuple[float, ...]
    start: float
    scale: float
    shape: float
    shape_low: float
    shape_high: float
    sizes: tuple[int, ...]
    galleries: tuple[float, ...]
    n_strangers: int
    n_exceedances: int
    margin: float = 1.0

    @property
    def end_point(self) -> float:
        """The score that no stranger exceeds, if the fit is right; infinite where the shape is not negative."""
        return self.start - self.scale / self.shape if self.shape < 0 else math.inf

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tail:
        """Read what `as_dict` gave; `KeyError`, `TypeError` or `ValueError` where it is not that."""
        rows = ("levels", "shares", "sizes", "galleries")
        tail = cls(**{**values, **{name: tuple(values[name]) for name in rows}})
        numbers = [x for name in rows for x in values[name]]
        numbers += [tail.start, tail.scale, tail.shape, tail.margin]
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers) or tail.scale <= 0:
            raise ValueError("a number of the tail is not finite, or its scale not above 0")
        if len(tail.levels) != len(tail.shares) or len(tail.levels) < 2 or min(tail.shares) <= 0:
            raise ValueError("levels and shares of the tail do not fit together")
        if np.any(np.diff(tail.levels) <= 0) or np.any(np.diff(tail.shares) > 0) or tail.n_strangers < 1:
            raise ValueError("levels of the tail must rise, shares fall, and there must be strangers")
        if len(tail.sizes) != len(tail.galleries) or not tail.sizes or min(tail.galleries) <= 0:
            raise ValueError("sizes and galleries of the tail do not fit together")
        if tail.margin < 1:
            raise ValueError(f"the margin of the tail is {tail.margin}, it must be at least 1")
        return tail


def random_galleries(
    n_voices: int, size: int, n_galleries: int, *, first: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Places of voices that are enrolled together: (n_galleries, size) int; with `n_voices` there is one gallery.

    `first` : voices that a gallery has before it has any other.
    """
    if not 1 <= size <= n_voices:
        raise ValueError(f"galleries of {size} out of {n_voices} voices")
    rng = np.random.default_rng([seed, size])
    later = 0.0 if first is None else np.where(first, 0.0, 1.0)
    order = np.argsort(rng.random((1 if size == n_voices else n_galleries, n_voices)) + later, axis=1)
    chosen: np.ndarray = order[:, :size]
    return chosen


def gallery_scores(
    scores: np.ndarray,
    size: int,
    n_galleries: int,
    *,
    first: np.ndarray | None = None,
    together: Together | None = None,
    own: np.ndarray | None = None,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Scores of all tracks with the voices of random galleries, gallery by gallery: (n_tracks, size) float each.

    Parameters
    ----------
    scores : (n_tracks, n_voices) float
        -inf where the two are not compared.
    size : int
        Voices of a gallery, at most n_voices; with n_voices there is one gallery.
    first : (n_voices,) bool, optional
        Voices that a gallery has before it has any other.
    together : callable, optional
        What becomes of the scores with the voices of a gallery.
    own : (n_tracks,) int, optional
        Which voice is the track's own, -1 where none is.
    """
    n_voices = scores.shape[1]
    own = np.full(len(scores), -1) if own is None else own
    for voices in random_galleries(n_voices, size, n_galleries, first=first, seed=seed):
        found = scores[:, voices]
        if together is not None:
            place = np.full(n_voices + 1, -1)  # the last one is that of -1
            place[voices] = np.arange(size)
            found = together(found, voices, place[own])
        yield found


def gallery_maxima(
    scores: np.ndarray,
    size: int,
    n_galleries: int,
    *,
    first: np.ndarray | None = None,
    together: Together | None = None,
    own: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Best score of each track over random galleries, (n_galleries or 1, n_tracks) float; as `gallery_scores`."""
    tables = gallery_scores(scores, size, n_galleries, first=first, together=together, own=own, seed=seed)
    return np.stack([found.max(axis=1) for found in tables])


def fit_pareto(excesses: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Scale and shape of a generalised Pareto distribution by maximum likelihood, the shape kept within `SHAPES`.

    Parameters
    ----------
    excesses : (n,) float
        Above 0.
    weights : (n,) float
        How much each counts, >= 0.

    Notes
    -----
    With ``theta = shape / scale`` the best shape is the mean of ``log(1 + theta * excess)``, which leaves one number to
    search (Grimshaw 1993); where that leads out of `SHAPES` the scale alone is searched, at the nearest shape allowed.
    """
    if len(excesses) < 2 or weights.sum() <= 0:
        raise ValueError(f"{len(excesses)} exceedances are too few to fit a tail to")
    weights = weights / weights.sum()
    mean, top = float(weights @ excesses), float(excesses.max())

    def costs(scale: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """Negative log likelihood; shape 0 is the exponential distribution."""
        scale, shape = np.broadcast_arrays(scale, shape)
        inside = 1 + shape[:, None] * excesses / scale[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            curved = (1 + 1 / shape) * (np.log(np.maximum(inside, 1e-300)) @ weights)
        body = np.where(np.abs(shape) < 1e-6, mean / scale, curved)
        cost: np.ndarray = np.where((inside <= 0).any(axis=1), np.inf, np.log(scale) + body)
        return cost

    theta = np.concatenate([-np.geomspace(0.999 / top, 1e-3 / top, 120), np.geomspace(1e-3 / mean, 20 / mean, 120)])
    shapes = np.log1p(theta[:, None] * excesses) @ weights
    allowed = (shapes >= SHAPES[0]) & (shapes <= SHAPES[1]) & (np.abs(shapes) > 1e-9)
    candidates = [(shapes[allowed] / theta[allowed], shapes[allowed])]
    for edge in (*SHAPES, 0.0):
        scales = mean * np.geomspace(0.2, 5, 120)
        candidates.append((scales, np.full(len(scales), edge)))
    scale, shape = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
    best = int(np.argmin(costs(scale, shape)))
    return float(scale[best]), float(shape[best])


def fit_tail(
    scores: np.ndarray,
    stranger: np.ndarray,
    condition: np.ndarray,
    *,
    first: np.ndarray | None = None,
    together: Together | None = None,
    own: np.ndarray | None = None,
    source: np.ndarray | None = None,
    seed: int = 0,
) -> Tail:
    """Fit the tail of strangers' best scores.

    Parameters
    ----------
    scores : (n_tracks, n_voices) float
        Strangers' tracks against voices that none of them is, on the scale that is decided on; -inf where the two are
        not compared, and everywhere where a track abstained.
    stranger, condition : (n_tracks,) int
        Who is heard, and how. Conditions weigh the same, in each of them strangers, and of each stranger the tracks.
    first : (n_voices,) bool, optional
        Voices that galleries have first: those of singers, which strangers who sing are likest to.
    together, own
        As `gallery_maxima` takes them.
    source : (n_tracks,) int, optional
        Where each stranger's recordings come from. Strangers from one source share microphones, style and language, and
        may be drawn together only: the margin is over sources too. By default everybody is from another.

    Returns
    -------
    Tail

    Raises
    ------
    ValueError
        Too few exceedances to fit anything to.
    """
    n_voices = scores.shape[1]
    weights = stranger_weights(stranger, condition)
    sizes = sorted({n_voices, *(size for size in GALLERY_SIZES if size <= n_voices)})
    maxima = {
        size: gallery_maxima(scores, size, N_GALLERIES, first=first, together=together, own=own, seed=seed)
        for size in sizes
    }
    size = max(size for size in sizes if size <= FITTED_SIZE)
    flat, spread = maxima[size].ravel(), np.tile(weights / len(maxima[size]), len(maxima[size]))
    levels, shares = _counted(flat, spread)
    start, above = levels[-1], flat > levels[-1]
    if len(levels) < 2 or not above.any():
        raise ValueError("strangers' scores are nearly all the same: there is no tail to fit anything to")
    pairs, pair = np.unique(np.stack([stranger, condition]), axis=1, return_inverse=True)
    pair = np.tile(pair.ravel(), len(maxima[size]))

    # All exceedances of a stranger in a condition together weigh what one would. Thousands of nearly equal ones are
    # put together in steps of a thousandth of the largest: a likelihood of each would take minutes.
    excesses, step = np.unique(np.ceil(1000 * (flat[above] - start) / (flat[above].max() - start)), return_inverse=True)
    excesses *= (flat[above].max() - start) / 1000

    def fitted(weight_of_pair: np.ndarray) -> tuple[float, float]:
        counts = np.bincount(step, weight_of_pair[pair[above]] * spread[above], minlength=len(excesses))
        return fit_pareto(excesses[counts > 0], counts[counts > 0])

    scale, shape = fitted(np.ones(pairs.shape[1]))
    strangers, of_pair = np.unique(pairs[0], return_inverse=True)
    rng = np.random.default_rng(seed)
    shapes = []
    for _ in range(N_RESAMPLES):
        drawn = np.bincount(rng.integers(len(strangers), size=len(strangers)), minlength=len(strangers))
        try:
            shapes.append(fitted(drawn[of_pair].astype(float))[1])
        except ValueError:  # hardly anybody with an exceedance was drawn
            continue
    low, high = np.percentile(shapes, [2.5, 97.5]) if shapes else SHAPES
    return Tail(
        n_voices=size,
        levels=tuple(round(float(x), 5) for x in levels),
        shares=tuple(round(float(x), 6) for x in shares),
        start=round(float(start), 5),
        scale=scale,
        shape=shape,
        shape_low=float(low),
        shape_high=float(high),
        sizes=tuple(sizes),
        galleries=_galleries(maxima, size, weights, levels),
        n_strangers=len(strangers),
        n_exceedances=len(np.unique(pair[above])),
        margin=max(_margin(maxima[size], weights, drawn, rng) for drawn in (stranger, source) if drawn is not None),
    )


def stranger_weights(stranger: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """(n_tracks,) float64, sum 1: conditions weigh the same, in each of them strangers, of each stranger the tracks."""
    pairs, pair, n_of_pair = np.unique(np.stack([condition, stranger]), axis=1, return_inverse=True, return_counts=True)
    _, of_condition, n_of_condition = np.unique(pairs[0], return_inverse=True, return_counts=True)
    of_pair = 1 / (n_of_pair * n_of_condition[of_condition] * len(n_of_condition))
    weights: np.ndarray = of_pair[pair.ravel()]
    return weights


def share_above(tail: Tail, threshold: float, n_voices: int) -> float:
    """Share of strangers' tracks that reach a threshold with the best of `n_voices`, as far as the tail knows."""
    if threshold <= tail.start:
        # On the logarithm of the share, in which the tail is nearly straight.
        share = math.exp(float(np.interp(threshold, tail.levels, np.log(tail.shares))))
    else:
        inside = 1 + tail.shape * (threshold - tail.start) / tail.scale
        excess = (threshold - tail.start) / tail.scale
        beyond = math.exp(-excess) if abs(tail.shape) < 1e-6 else max(inside, 0.0) ** (-1 / tail.shape)
        share = tail.shares[-1] * beyond
    return float(1 - (1 - min(share, 1.0)) ** _times(tail, n_voices))


def threshold_for(tail: Tail, budget: float, n_voices: int) -> float:
    """The score at which a share of `budget` of strangers' tracks, the margin taken off, reach the best of `n_voices`.

    Parameters
    ----------
    budget : float
        In (0, 1).
    n_voices : int
        Artists that are matched, at least 1.
    """
    share = _share_at_size(tail, budget / tail.margin, n_voices)
    if share >= tail.shares[-1]:
        return float(np.interp(-math.log(share), -np.log(tail.shares), tail.levels))
    ratio = share / tail.shares[-1]
    if abs(tail.shape) < 1e-6:
        return tail.start - tail.scale * math.log(ratio)
    return float(tail.start + tail.scale * (ratio**-tail.shape - 1) / tail.shape)


def decades_beyond(tail: Tail, budget: float, n_voices: int) -> float:
    """How many powers of ten the share that is asked for lies beyond one stranger among those measured; at least 0."""
    return max(0.0, -math.log10(_share_at_size(tail, budget / tail.margin, n_voices) * tail.n_strangers))


def _margin(maxima: np.ndarray, weights: np.ndarray, source: np.ndarray, rng: np.random.Generator) -> float:
    """How many times as many tracks may reach the score that `MARGIN_SHARE` of them reach, had others been drawn."""
    flat, spread = maxima.ravel(), np.tile(weights / len(maxima), len(maxima))
    order = np.argsort(-flat, kind="stable")
    level = flat[order][min(int(np.searchsorted(np.cumsum(spread[order]), MARGIN_SHARE)), len(flat) - 1)]
    sources, of_track = np.unique(source, return_inverse=True)
    n = len(sources)
    hits = np.bincount(of_track, (maxima >= level).mean(axis=0) * weights, n)
    total = np.bincount(of_track, weights, n)
    drawn = rng.multinomial(n, np.full(n, 1 / n), 10 * N_RESAMPLES)
    found = (drawn @ hits) / (drawn @ total)
    return max(1.0, float(np.quantile(found, CONFIDENCE) / max(hits.sum(), 1e-12)))


def _share_at_size(tail: Tail, budget: float, n_voices: int) -> float:
    """The share of the galleries that were measured which makes `budget` of `n_voices`."""
    if not 0 < budget < 1:
        raise ValueError(f"a false-flag budget is a share above 0 and below 1, not {budget}")
    return float(1 - (1 - budget) ** (1 / _times(tail, n_voices)))


def _times(tail: Tail, n_voices: int) -> float:
    """How many galleries of the fitted size `n_voices` count as."""
    if n_voices < 1:
        raise ValueError(f"{n_voices} voices; at least 1 is needed")
    within = float(np.interp(math.log(n_voices), np.log(tail.sizes), np.log(tail.galleries)))
    return math.exp(within) * max(1.0, n_voices / tail.sizes[-1])


def _counted(scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and the share at or above each, from nearly all down to `TAIL_SHARE`."""
    order = np.argsort(-scores, kind="stable")
    descending, share = scores[order], np.cumsum(weights[order])
    judged = descending > -np.inf  # who abstained is never flagged and still counts
    if not judged.any() or share[judged][-1] <= TAIL_SHARE:
        raise ValueError("too few strangers' tracks were judged to count how high they score")
    wanted = np.geomspace(0.98 * share[judged][-1], TAIL_SHARE, _N_LEVELS)
    levels = np.unique(descending[judged][np.searchsorted(share[judged], wanted)])
    # Scores are in hundredths, and many are equal: those that are equal to a level are all at or above it.
    return levels, share[judged][np.searchsorted(-descending[judged], -levels, side="right") - 1]


def _galleries(
    maxima: Mapping[int, np.ndarray], fitted_size: int, weights: np.ndarray, levels: np.ndarray
) -> tuple[float, ...]:
    """How many independent galleries of the fitted size each size counts as.

    Of n independent galleries the share that stays below a score is the n-th power of that of one: the ratio of the
    logarithms of the shares, summed over the scores of the upper counted half.
    """

    def log_below(found: np.ndarray) -> np.ndarray:
        above = np.array([float((found >= level).mean(axis=0) @ weights) for level in levels[len(levels) // 2 :]])
        logs: np.ndarray = -np.log1p(-np.clip(above, 1e-9, 1 - 1e-9))
        return logs

    base = log_below(maxima[fitted_size])
    # A ratio of sums: of single voices hardly any score as high, and a mean of ratios would follow the empty counts.
    galleries = np.array([log_below(found).sum() / base.sum() for found in maxima.values()])
    return tuple(float(x) for x in np.maximum.accumulate(galleries))
