"""From window vectors to how much a track sounds like each artist: pooled score, AS-norm, llr. Pure numpy.

An artist, or a person of the cohort, is a group of rows in a matrix of templates; groups lie one after the other and
`starts` holds the first row of each. Everything works on all groups at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Windows pooled into one section. Inside a section vectors are averaged, which steadies short tracks and windows with
#: music in them; between sections only the better half counts, so that a voice in half of a long track is still found.
SECTION_WINDOWS = 30

#: Persons of the cohort, the most similar ones, that a score is centred on: all of the built-in cohort's. Fewer did
#: worse on fold A, as the table of `scripts/fit_builtin.py` shows.
COHORT_TOP = 150

#: A cohort person this much above the cohort's mean (in its standard deviations) for an artist may be the artist, or a
#: twin; left out for that artist.
COHORT_TWIN_SDS = 4.0

#: What a threshold belongs to beside encoder and cohort: with other constants scores mean something else.
CONSTANTS = {"cohort_top": COHORT_TOP, "section_windows": SECTION_WINDOWS}


def group_starts(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each run of equal values in (n,) sorted `group`, and those values."""
    values, starts = np.unique(group, return_index=True)
    return starts, values


def pool_scores(windows: np.ndarray, templates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Score a track against groups of templates.

    Each section of a track (`SECTION_WINDOWS` windows) is averaged into one unit vector; its score for a group is the
    cosine with the group's nearest template; the track's score is the mean over the better half of its sections.

    Parameters
    ----------
    windows : (n_windows, dim) float32
        Unit rows in time order, at least one.
    templates : (n_templates, dim) float32
        Unit rows, grouped.
    starts : (n_groups,) int
        First row of each group, rising, the first 0.

    Returns
    -------
    (n_groups,) float32
        In [-1, 1].
    """
    if len(windows) == 0:
        raise ValueError("a track without windows has no score")
    if len(starts) == 0:
        return np.empty(0, np.float32)
    n_sections = -(-len(windows) // SECTION_WINDOWS)
    edges = np.linspace(0, len(windows), n_sections + 1).astype(int)[:-1]
    sections = np.add.reduceat(windows, edges, axis=0)
    norms = np.linalg.norm(sections, axis=1, keepdims=True)
    # Windows that cancel out have no direction; they score 0 with everybody.
    sections = sections / np.where(norms > 1e-6, norms, np.inf)
    by_section = np.maximum.reduceat(sections @ templates.T, starts, axis=1)
    n_best = -(-n_sections // 2)
    scores: np.ndarray = np.partition(by_section, n_sections - n_best, axis=0)[-n_best:].mean(axis=0)
    return scores


@dataclass(frozen=True)
class CohortModel:
    """A cohort made ready for normalising: its rows grouped by person, and the common spread.

    Attributes
    ----------
    vectors : (n, dim) float32
        Unit rows grouped by person.
    starts : (n_persons,) int64
        First row of each person.
    spread : float
        Standard deviation of the scores of cohort persons against one another.
    """

    vectors: np.ndarray
    starts: np.ndarray
    spread: float


def prepare_cohort(vectors: np.ndarray, person: np.ndarray) -> CohortModel:
    """Group a cohort by person and measure its spread.

    Parameters
    ----------
    vectors : (n, dim) float32
        Unit rows.
    person : (n,) int
        Whose each row is; at least three persons.
    """
    order = np.argsort(person, kind="stable")
    vectors = np.ascontiguousarray(vectors[order])
    starts, persons = group_starts(person[order])
    if len(persons) < 3:
        raise ValueError(f"a cohort needs at least 3 persons, this one has {len(persons)}")
    scores = _pool_groups(vectors, starts, vectors, starts)
    off_diagonal = scores[~np.eye(len(persons), dtype=bool)]
    return CohortModel(vectors=vectors, starts=starts, spread=float(off_diagonal.std()))


def normalise(
    scores: np.ndarray, windows: np.ndarray, templates: np.ndarray, starts: np.ndarray, cohort: CohortModel
) -> np.ndarray:
    """AS-norm with a common spread: how many of the cohort's standard deviations a score lies above strangers.

    As in adaptive symmetric normalisation, each score is centred twice, on what the nearest `COHORT_TOP` persons of the
    cohort score with the artist and on what they score with the track, and the two are averaged. Unlike there, both
    are divided by one spread, that of the whole cohort: with each artist's and each track's own spread, artists
    unlike the cohort get small spreads and huge scores, and far more is missed. The table of `scripts/fit_builtin.py`
    has both, and the raw cosine, which on fold A misses a little less than either: the cohort is of short spoken words
    and of singing made from them, unlike most tracks.

    Parameters
    ----------
    scores : (n_groups,) float32
        What `pool_scores` gave for the same track and templates.
    windows, templates, starts
        As for `pool_scores`.
    cohort : CohortModel
        From `prepare_cohort`.

    Returns
    -------
    (n_groups,) float32

    References
    ----------
    Matejka et al. 2017, Analysis of score normalization in multilingual speaker recognition, section 2.
    """
    if len(starts) == 0:
        return np.empty(0, np.float32)
    track_centre = _centre(pool_scores(windows, cohort.vectors, cohort.starts)[None, :])
    artist_centre = _centre(_pool_groups(templates, starts, cohort.vectors, cohort.starts))
    norm_scores: np.ndarray = (scores - (artist_centre + track_centre) / 2) / cohort.spread
    return norm_scores.astype(np.float32)


def llr_of(norm_scores: np.ndarray, calibration: Mapping[str, Any]) -> np.ndarray:
    """log10 likelihood ratio for each `norm_score`: ``slope * norm_score + intercept`` of the calibration."""
    llrs: np.ndarray = calibration["llr"]["slope"] * norm_scores + calibration["llr"]["intercept"]
    return llrs


def fit_llr(target: np.ndarray, nontarget: np.ndarray) -> tuple[float, float]:
    """Fit slope and intercept of `llr_of` by logistic regression, both classes weighing the same.

    Parameters
    ----------
    target, nontarget : (n,) float
        Normalised scores of trials with and without the artist's voice.

    Returns
    -------
    slope, intercept : float
        For log10 likelihood ratios.

    References
    ----------
    Brummer and du Preez 2006, Application-independent evaluation of speaker detection, section 6 (linear calibration).
    """
    scores = np.concatenate([target, nontarget]).astype(float)
    labels = np.concatenate([np.ones(len(target)), np.zeros(len(nontarget))])
    weights = np.concatenate([np.full(len(target), 0.5 / len(target)), np.full(len(nontarget), 0.5 / len(nontarget))])
    design = np.column_stack([scores, np.ones_like(scores)])
    solution = np.zeros(2)
    for _ in range(100):  # Newton's method; settles in about ten steps
        probability = 1 / (1 + np.exp(-design @ solution))
        gradient = design.T @ (weights * (labels - probability)) - 1e-6 * solution
        curvature = (design * (weights * probability * (1 - probability))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        solution += step
        if np.abs(step).max() < 1e-9:
            break
    slope, intercept = solution / np.log(10)
    return float(slope), float(intercept)


def _pool_groups(
    vectors: np.ndarray, vector_starts: np.ndarray, templates: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Score groups against groups, each of the first as if its rows were one section: (n_first, n_second)."""
    means = np.add.reduceat(vectors, vector_starts, axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    scores: np.ndarray = np.maximum.reduceat(means @ templates.T, starts, axis=1)
    return scores


def _centre(cohort_scores: np.ndarray) -> np.ndarray:
    """Mean of the highest `COHORT_TOP` of each row, twins left out: (n_rows, n_persons) to (n_rows,)."""
    mean = cohort_scores.mean(axis=1, keepdims=True)
    twin = cohort_scores > mean + COHORT_TWIN_SDS * cohort_scores.std(axis=1, keepdims=True)
    ranked = np.sort(np.where(twin, mean, cohort_scores), axis=1)
    centre: np.ndarray = ranked[:, -COHORT_TOP:].mean(axis=1)
    return centre
