"""From normalised scores, and how well there was to hear, to calibrated log10 likelihood ratios. Pure numpy.

The same norm_score means more for a voice under music than for a clean one, for strangers' voices under music score
lower too. So how much music there is, is weighed with the score (a quality measure), by logistic regression. How
crowded it is around the artist and the track (`registry.crowding`) is taken off as it is: where ten times as many
strangers reach a score, it is ten times less telling.

References
----------
Brummer and du Preez 2006, Application-independent evaluation of speaker detection, section 6 (linear calibration).
Brummer and Doddington 2013, Likelihood-ratio calibration using prior-weighted proper scoring rules, sections 3 and 4.
Mandasari et al. 2013, Quality measure functions for calibration of speaker recognition systems, section III.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

#: What is weighed, in the order of the columns. Seconds of voice, number of templates and vocal presence are left out:
#: `scripts/try_scoring.py` shows what they would do.
MEASURES = ("norm_score", "accompaniment", "artist_crowding", "track_crowding")

#: Weight of both crowdings before slope and intercept are fitted, which scale it as the rest: a likelihood ratio is a
#: tenth where ten times as many strangers reach a score.
CROWDING_WEIGHT = -1.0

#: Prior of the artist's voice that the fit is for: the one that Cllr is of.
PRIOR = 0.5

#: Of the mean loss, on standardised columns. With 1e-3 llrs of voices far apart would come out a tenth too small.
_RIDGE = 4e-5
_NOTHING = "targets do not score above nontargets: there is nothing to calibrate"


@dataclass(frozen=True)
class LlrModel:
    """Weights of `MEASURES`, and what is added."""

    weights: tuple[float, ...]
    intercept: float

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> LlrModel:
        """Read what `as_dict` gave; `ValueError` where it is not that."""
        weights = values.get("weights")
        intercept = values.get("intercept")
        if isinstance(weights, Mapping):
            weights = {"artist_crowding": 0.0, "track_crowding": 0.0, **weights}  # earlier ones have none
        if not isinstance(weights, Mapping) or set(weights) != set(MEASURES) or not isinstance(intercept, int | float):
            raise ValueError(f"llr needs an intercept and weights of {', '.join(MEASURES)}")
        numbers = [*(weights[name] for name in MEASURES), intercept]
        if not all(isinstance(x, int | float) and np.isfinite(x) for x in numbers):
            raise ValueError("a weight of llr is not a number")
        if weights["norm_score"] <= 0:
            raise ValueError("llr would fall with the score")
        if max(weights["artist_crowding"], weights["track_crowding"]) > 0:
            raise ValueError("llr would rise with the number of other voices that come near")
        return cls(tuple(float(weights[name]) for name in MEASURES), float(intercept))

    def as_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return {"weights": dict(zip(MEASURES, self.weights, strict=True)), "intercept": self.intercept}


def measures(
    norm_scores: np.ndarray,
    accompaniment: np.ndarray | float,
    artist_crowding: np.ndarray | float = 0.0,
    track_crowding: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Put scores and what is weighed with them side by side.

    Parameters
    ----------
    norm_scores : (...) float
        From `registry.scoring.normalise`.
    accompaniment : float or (...)
        From `registry.scoring.accompaniment`.
    artist_crowding, track_crowding : float or (...)
        From `registry.crowding`.

    Returns
    -------
    (..., 4) float64
        Columns as in `MEASURES`.
    """
    columns = norm_scores, accompaniment, artist_crowding, track_crowding
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float64)


def llr_of(measured: np.ndarray, model: LlrModel) -> np.ndarray:
    """log10 likelihood ratio of each row of (..., 4) `measures`."""
    llrs: np.ndarray = measured @ np.array(model.weights) + model.intercept
    return llrs


def fit_llr(
    target: np.ndarray, nontarget: np.ndarray, target_weights: np.ndarray, nontarget_weights: np.ndarray
) -> LlrModel:
    """Fit an `LlrModel` by logistic regression at the prior `PRIOR`; crowding has its fixed weight.

    Parameters
    ----------
    target, nontarget : (n, 4) float
        `measures` of trials with and without the artist's voice or an imitation of it.
    target_weights, nontarget_weights : (n,) float
        How much each counts within its class, >= 0.

    Raises
    ------
    ValueError
        A class is empty, or likeness would fall with the score.
    """
    weights, intercept = fit_weights(
        target[:, :2],
        nontarget[:, :2],
        target_weights,
        nontarget_weights,
        known=(CROWDING_WEIGHT * target[:, 2:].sum(axis=1), CROWDING_WEIGHT * nontarget[:, 2:].sum(axis=1)),
    )
    if weights[0] <= 0:
        raise ValueError(_NOTHING)
    return LlrModel((*(float(weight) for weight in weights), CROWDING_WEIGHT, CROWDING_WEIGHT), intercept)


def fit_line(
    model: LlrModel,
    target: np.ndarray,
    nontarget: np.ndarray,
    target_weights: np.ndarray,
    nontarget_weights: np.ndarray,
) -> LlrModel:
    """Another model whose llrs are the slope and intercept on those of `model` that fit best; see `fit_llr`."""
    target_was, nontarget_was = (llr_of(measured, model)[:, None] for measured in (target, nontarget))
    (slope,), intercept = fit_weights(target_was, nontarget_was, target_weights, nontarget_weights)
    if slope <= 0:
        raise ValueError(_NOTHING)
    scaled = tuple(float(slope) * weight for weight in model.weights)
    return LlrModel(scaled, intercept + float(slope) * model.intercept)


def line_between(before: LlrModel, after: LlrModel) -> tuple[float, float]:
    """Slope and intercept that make llrs of one model those of another that `fit_line` made of it."""
    slope = after.weights[0] / before.weights[0]
    return slope, after.intercept - slope * before.intercept


def fit_weights(
    target: np.ndarray,
    nontarget: np.ndarray,
    target_weights: np.ndarray,
    nontarget_weights: np.ndarray,
    *,
    known: tuple[np.ndarray | float, np.ndarray | float] = (0.0, 0.0),
) -> tuple[np.ndarray, float]:
    """Weights (n_columns,) of any columns, and the intercept, for log10 likelihood ratios.

    Parameters
    ----------
    known : pair of (n,) float
        What is part of the log10 likelihood ratios of targets and nontargets already.
    """
    if not len(target) or not len(nontarget):
        raise ValueError(f"{len(target)} target and {len(nontarget)} nontarget trials; both are needed")
    columns = np.concatenate([target, nontarget]).astype(float)
    labels = np.concatenate([np.ones(len(target)), np.zeros(len(nontarget))])
    weights = np.concatenate(
        [PRIOR * target_weights / target_weights.sum(), (1 - PRIOR) * nontarget_weights / nontarget_weights.sum()]
    )
    parts = [np.broadcast_to(part, len(rows)) for part, rows in zip(known, (target, nontarget), strict=True)]
    offset = np.log(10) * np.concatenate(parts) + np.log(PRIOR / (1 - PRIOR))
    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)  # what is the same everywhere weighs nothing
    design = np.column_stack([(columns - mean) / spread, np.ones(len(columns))])
    ridge = _RIDGE * PRIOR * np.diag([*np.ones(columns.shape[1]), 1e-6])
    solution = np.zeros(design.shape[1])
    for _ in range(200):  # Newton's method with short steps; settles in about fifteen
        probability = 1 / (1 + np.exp(-np.clip(design @ solution + offset, -500, 500)))
        gradient = design.T @ (weights * (labels - probability)) - ridge @ solution
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        solution += step * min(1.0, 3.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    scaled = solution[:-1] / spread / np.log(10)
    return scaled, float(solution[-1] / np.log(10) - scaled @ mean)
