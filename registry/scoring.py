"""From window vectors to how much a track sounds like each artist: pooled score and AS-norm. Pure numpy.

An artist, or a person of the cohort, is a group of rows in a matrix of templates; groups lie one after the other and
`starts` holds the first row of each. Everything works on all groups at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Windows averaged into one stretch (16 s of unbroken voice): the average steadies windows with music in them, and the
#: best stretch finds a voice that is in a part of the track only. What was compared: README, "What each step gives".
STRETCH_WINDOWS = 8

#: Seconds of a track that are scored as a whole: a song. Longer tracks, such as mixes of many songs, are scored in
#: sections that share the false-flag budget.
SECTION_S = 300.0

#: Persons of the cohort, the most similar ones, that a score is centred on: all of the built-in cohort's. With fewer
#: fold A shows no clear difference, in the table of `scripts/fit_builtin.py`.
COHORT_TOP = 150

#: A cohort person this much above the cohort's mean (in its standard deviations) for an artist may be the artist, or a
#: twin; left out for that artist.
COHORT_TWIN_SDS = 4.0

#: Part of what a calibration is of (`registry.calibration.CONSTANTS`).
CONSTANTS = {"cohort_top": COHORT_TOP, "stretch_windows": STRETCH_WINDOWS, "section_s": SECTION_S}


def group_starts(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each run of equal values in (n,) sorted `group`, and those values."""
    values, starts = np.unique(group, return_index=True)
    return starts, values


def n_sections(duration_s: float) -> int:
    """Into how many sections of at most `SECTION_S` a track is divided; at least 1."""
    # To the millisecond, as lengths are kept: a kept scan has as many as its track had.
    return max(1, math.ceil(round(duration_s, 3) / SECTION_S))


def section_times(duration_s: float) -> np.ndarray:
    """Where the sections of a track begin and end, in seconds: (n_sections + 1,) float64."""
    times: np.ndarray = np.linspace(0, duration_s, n_sections(duration_s) + 1)
    return times


def section_edges(start_s: np.ndarray, duration_s: float) -> np.ndarray:
    """Where the sections of a track begin and end among its windows.

    Parameters
    ----------
    start_s : (n,) float
        Where each window begins, rising.
    duration_s : float
        Of the track.

    Returns
    -------
    (n_sections + 1,) int64
        The windows of section i are those from the i-th to before the next; a section may have none.
    """
    times = section_times(duration_s)
    times[-1] = np.inf
    edges: np.ndarray = np.searchsorted(start_s, times)
    return edges


def stretch_edges(n_windows: int) -> np.ndarray:
    """Where the stretches of `n_windows` windows begin and end among them: (n_stretches + 1,) int64."""
    edges: np.ndarray = np.linspace(0, n_windows, -(-n_windows // STRETCH_WINDOWS) + 1).astype(int)
    return edges


def stretch_vectors(windows: np.ndarray) -> np.ndarray:
    """Average neighbouring windows into stretches of up to `STRETCH_WINDOWS`.

    Parameters
    ----------
    windows : (n_windows, dim) float32
        Unit rows in time order, at least one.

    Returns
    -------
    (n_stretches, dim) float32
        Unit rows; 0 where windows cancel out, which have no direction and score 0 with everybody.
    """
    if len(windows) == 0:
        raise ValueError("a track without windows has no score")
    return _unit(np.add.reduceat(windows, stretch_edges(len(windows))[:-1], axis=0))


def stretch_scores(windows: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Cosine of each stretch of a track with each template: (n_stretches, n_templates) float32."""
    scores: np.ndarray = stretch_vectors(windows) @ templates.T
    return scores


def pool_scores(windows: np.ndarray, templates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Score a track against groups of templates: the cosine of its best stretch with the group's nearest template.

    The best of many drifts upwards with the length of a track and with the number of templates; `normalise` centres it
    on what the cohort's voices reach in the same way, with the same track and the same templates.

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
    if len(starts) == 0:
        return np.empty(0, np.float32)
    scores: np.ndarray = np.maximum.reduceat(stretch_scores(windows, templates).max(axis=0), starts)
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
    towards_music : (dim,) float32
        From the mean of the rows that are voice alone to the mean of those over music; 0 where the cohort does not say
        which are which.
    """

    vectors: np.ndarray
    starts: np.ndarray
    spread: float
    towards_music: np.ndarray


def prepare_cohort(vectors: np.ndarray, person: np.ndarray, condition: np.ndarray | None = None) -> CohortModel:
    """Group a cohort by person and measure its spread.

    Parameters
    ----------
    vectors : (n, dim) float32
        Unit rows.
    person : (n,) int
        Whose each row is; at least three persons.
    condition : (n,) str, optional
        How each row was heard; ``music`` is in the name where it was over music.
    """
    order = np.argsort(person, kind="stable")
    vectors = np.ascontiguousarray(vectors[order])
    starts, persons = group_starts(person[order])
    if len(persons) < 3:
        raise ValueError(f"a cohort needs at least 3 persons, this one has {len(persons)}")
    scores = _pool_groups(vectors, starts, vectors, starts)
    off_diagonal = scores[~np.eye(len(persons), dtype=bool)]
    towards_music = np.zeros(vectors.shape[1], np.float32)
    if condition is not None:
        over_music = np.char.find(condition[order].astype(str), "music") >= 0
        if over_music.any() and not over_music.all():
            towards_music = vectors[over_music].mean(axis=0) - vectors[~over_music].mean(axis=0)
    return CohortModel(vectors, starts, float(off_diagonal.std()), towards_music)


def normalise(
    scores: np.ndarray,
    windows: np.ndarray,
    templates: np.ndarray,
    starts: np.ndarray,
    cohort: CohortModel,
    *,
    centres: np.ndarray | None = None,
) -> np.ndarray:
    """AS-norm with a common spread: how many of the cohort's standard deviations a score lies above strangers.

    As in adaptive symmetric normalisation, each score is centred twice, on what the nearest `COHORT_TOP` persons of the
    cohort score with the artist and on what they score with the track, and the two are averaged. Unlike there, both
    are divided by one spread, that of the whole cohort: with each artist's and each track's own spread, artists
    unlike the cohort get small spreads and huge scores, and far more is missed. The table of `scripts/fit_builtin.py`
    has both.

    Parameters
    ----------
    scores : (n_groups,) float32
        What `pool_scores` gave for the same track and templates.
    windows, templates, starts
        As for `pool_scores`.
    cohort : CohortModel
        From `prepare_cohort`.
    centres : (n_groups,) float32, optional
        From `artist_centres` for the same templates, where many tracks are scored with them.

    Returns
    -------
    (n_groups,) float32

    References
    ----------
    Matejka et al. 2017, Analysis of score normalization in multilingual speaker recognition, section 2.
    """
    if len(starts) == 0:
        return np.empty(0, np.float32)
    if centres is None:
        centres = artist_centres(templates, starts, cohort)
    norm_scores: np.ndarray = (scores - (centres + track_centre(windows, cohort)) / 2) / cohort.spread
    return norm_scores.astype(np.float32)


def track_centre(windows: np.ndarray, cohort: CohortModel) -> float:
    """What the nearest persons of the cohort score with the track on average."""
    return float(mean_of_nearest(pool_scores(windows, cohort.vectors, cohort.starts)[None, :])[0])


def artist_centres(templates: np.ndarray, starts: np.ndarray, cohort: CohortModel) -> np.ndarray:
    """What the nearest persons of the cohort score with each artist on average: (n_groups,) float32."""
    return mean_of_nearest(_pool_groups(templates, starts, cohort.vectors, cohort.starts))


def accompaniment(windows: np.ndarray, cohort: CohortModel) -> float:
    """How much a track sounds like the cohort over music rather than like the cohort alone: an estimate of the music.

    Parameters
    ----------
    windows : (n_windows, dim) float32
        Unit rows, at least one.
    cohort : CohortModel

    Returns
    -------
    float
        Mean cosine with the cohort's rows over music less that with its others, which rises with the music; 0 where the
        cohort does not say which rows are over music.
    """
    return float(_unit(windows.mean(axis=0)[None])[0] @ cohort.towards_music)


def best_of_groups(
    vectors: np.ndarray, vector_starts: np.ndarray, templates: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Best of all pairs of rows of two groups, for all groups: (n_first, n_second)."""
    by_row = np.maximum.reduceat(vectors @ templates.T, starts, axis=1)
    scores: np.ndarray = np.maximum.reduceat(by_row, vector_starts, axis=0)
    return scores


def mean_of_nearest(cohort_scores: np.ndarray) -> np.ndarray:
    """Mean of the highest `COHORT_TOP` of each row, twins left out: (n_rows, n_persons) to (n_rows,)."""
    mean = cohort_scores.mean(axis=1, keepdims=True)
    twin = cohort_scores > mean + COHORT_TWIN_SDS * cohort_scores.std(axis=1, keepdims=True)
    ranked = np.sort(np.where(twin, mean, cohort_scores), axis=1)
    centre: np.ndarray = ranked[:, -COHORT_TOP:].mean(axis=1)
    return centre


def _pool_groups(
    vectors: np.ndarray, vector_starts: np.ndarray, templates: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Score groups against groups, each of the first as if its rows were one stretch: (n_first, n_second)."""
    means = _unit(np.add.reduceat(vectors, vector_starts, axis=0))
    return best_of_groups(means, np.arange(len(means)), templates, starts)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.where(norms > 1e-6, norms, np.inf)
    return unit
