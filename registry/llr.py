"""From normalised scores, and how well there was to hear, to calibrated log10 likelihood ratios. Pure numpy.

The same norm_score means more for a voice under music than for a clean one, for strangers' voices under music score
lower too. So how much music there is, is weighed with the score (a quality measure), by logistic regression.

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
MEASURES = ("norm_score", "accompaniment")

#: Prior of the artist's voice that the fit is for: a threshold lies where a likelihood ratio of about 50 is needed, and
#: at a prior of one half the fit would follow scores far below it.
PRIOR = 0.02

_RIDGE = 1e-3  # of the mean loss, on standardised columns


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
        if not isinstance(weights, Mapping) or set(weights) != set(MEASURES) or not isinstance(intercept, int | float):
            raise ValueError(f"llr needs an intercept and weights of {', '.join(MEASURES)}")
        numbers = [*(weights[name] for name in MEASURES), intercept]
        if not all(isinstance(x, int | float) and np.isfinite(x) for x in numbers):
            raise ValueError("a weight of llr is not a number")
        if weights["norm_score"] <= 0:
            raise ValueError("llr would fall with the score")
        return cls(tuple(float(weights[name]) for name in MEASURES), float(intercept))

    def as_dict(self) -> dict[str, object]:
        """Plain JSON types."""
        return {"weights": dict(zip(MEASURES, self.weights, strict=True)), "intercept": self.intercept}


def measures(norm_scores: np.ndarray, accompaniment: np.ndarray | float) -> np.ndarray:
    """Put scores and quality side by side.

    Parameters
    ----------
    norm_scores : (...) float
        From `registry.scoring.normalise`.
    accompaniment : float or (...)
        From `registry.scoring.accompaniment`.

    Returns
    -------
    (..., 2) float64
        Columns as in `MEASURES`.
    """
    return np.stack(np.broadcast_arrays(norm_scores, accompaniment), axis=-1).astype(np.float64)


def llr_of(measured: np.ndarray, model: LlrModel) -> np.ndarray:
    """log10 likelihood ratio of each row of (..., 2) `measures`."""
    llrs: np.ndarray = measured @ np.array(model.weights) + model.intercept
    return llrs


def fit_llr(
    target: np.ndarray, nontarget: np.ndarray, target_weights: np.ndarray, nontarget_weights: np.ndarray
) -> LlrModel:
    """Fit an `LlrModel` by logistic regression at the prior `PRIOR`.

    Parameters
    ----------
    target, nontarget : (n, 2) float
        `measures` of trials with and without the artist's voice or an imitation of it.
    target_weights, nontarget_weights : (n,) float
        How much each counts within its class, >= 0.

    Raises
    ------
    ValueError
        A class is empty, or likeness would fall with the score.
    """
    weights, intercept = fit_weights(target, nontarget, target_weights, nontarget_weights)
    if weights[0] <= 0:
        raise ValueError("targets do not score above nontargets: there is nothing to calibrate")
    return LlrModel(tuple(float(weight) for weight in weights), intercept)


def fit_weights(
    target: np.ndarray, nontarget: np.ndarray, target_weights: np.ndarray, nontarget_weights: np.ndarray
) -> tuple[np.ndarray, float]:
    """`fit_llr` for any columns: (n_columns,) weights and the intercept, for log10 likelihood ratios."""
    if not len(target) or not len(nontarget):
        raise ValueError(f"{len(target)} target and {len(nontarget)} nontarget trials; both are needed")
    columns = np.concatenate([target, nontarget]).astype(float)
    labels = np.concatenate([np.ones(len(target)), np.zeros(len(nontarget))])
    weights = np.concatenate(
        [PRIOR * target_weights / target_weights.sum(), (1 - PRIOR) * nontarget_weights / nontarget_weights.sum()]
    )
    mean, spread = columns.mean(axis=0), columns.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)  # what is the same everywhere weighs nothing
    design = np.column_stack([(columns - mean) / spread, np.ones(len(columns))])
    ridge = _RIDGE * PRIOR * np.diag([*np.ones(columns.shape[1]), 1e-6])
    prior_odds = np.log(PRIOR / (1 - PRIOR))
    solution = np.zeros(design.shape[1])
    for _ in range(200):  # Newton's method with short steps; settles in about fifteen
        probability = 1 / (1 + np.exp(-np.clip(design @ solution + prior_odds, -500, 500)))
        gradient = design.T @ (weights * (labels - probability)) - ridge @ solution
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        solution += step * min(1.0, 3.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    scaled = solution[:-1] / spread / np.log(10)
    return scaled, float(solution[-1] / np.log(10) - scaled @ mean)
