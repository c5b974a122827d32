"""Do the references of an artist hold one voice? Checked before a recording is enrolled; pure numpy.

Somebody may enroll another person's recording under an artist, or one with two voices in it, by mistake or to make
innocent songs match. Both checks ask of two groups of windows whether they are of one voice: one group is scored as a
track is, against templates made of the other, and refused where the score is far below what one voice gives.

Both find what is plainly another voice; whoever picks a similar one mostly passes. The figures at each function are of
fold B of the development recordings, by `scripts/bench_enroll_checks.py`, with the built-in encoder and cohort, which
the floors belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from registry import scoring
from registry.condense import condense_windows

#: Windows from which a group counts as long (14 s of unbroken voice). Few windows average out less of what is sung and
#: how, so that one voice scores lower with itself; one floor for all would let more long foreign recordings pass.
LONG_WINDOWS = 6


@dataclass(frozen=True)
class Floor:
    """The norm_score below which two groups of windows are refused as one voice, by windows of the smaller group.

    Attributes
    ----------
    short, long : float
        For less than `LONG_WINDOWS`, and from there on.
    """

    short: float
    long: float

    def at(self, n_windows: int) -> float:
        """The floor for a group of this many windows."""
        return self.long if n_windows >= LONG_WINDOWS else self.short


#: Of a reference against the artist's others. 1 % of honest third references of fold A, persons counting alike, lie
#: below 1.1 and 2.5 (`scripts/bench_enroll_checks.py --fit`). The long one is lowered to where 1 %, not 13 %, of those
#: are refused that differ in style from both others (spoken among sung).
REFERENCE_FLOOR = Floor(short=1.1, long=2.2)

#: Of the two parts of one recording: 1 % of honest ones of fold A lie below 0.95 and 1.87, by the same script.
SECOND_VOICE_FLOOR = Floor(short=0.9, long=1.9)

#: Windows that each voice of a recording must have to itself: 8 s in one stretch. Two and four found no more (fold A).
MIN_PART_WINDOWS = 3

#: Passes after which 2-means stops if it has not settled; it settles in about five.
MAX_PASSES = 50


# --- a reference against the others -----------------------------------------------------------------------------------


def own_norm_scores(references: Sequence[np.ndarray], cohort: scoring.CohortModel) -> np.ndarray:
    """Score each reference of an artist, averaged, against templates of the artist's other references.

    With `reference_floors`, of honest third references 2.5 % are refused where long and 1.7 % where short (at 4 and 6
    references up to 1.7 %); of those spoken among sung ones or the reverse, 47 and 20 %. Of foreign third references
    73 and 52 % are refused where they are of the same corpus, 38 and 23 % where also of the same kind of voice (high
    or low), 94 and 75 % where of another corpus. Beside a foreign one, an honest one is refused too in 9 %: the one
    offered last is not always the wrong one.

    Parameters
    ----------
    references : sequence of (n_windows, dim) float32
        Unit rows in time order, at least one each; two references at least.
    cohort : CohortModel
        From `registry.scoring.prepare_cohort`.

    Returns
    -------
    (n_references,) float32
        norm_score of each; to be compared with `reference_floors`.

    Raises
    ------
    ValueError
        Fewer than two references, or one without windows.
    """
    _check_several(references)
    return np.array(
        [
            own_norm_score(own, [other for j, other in enumerate(references) if j != i], cohort)
            for i, own in enumerate(references)
        ],
        np.float32,
    )


def own_norm_score(reference: np.ndarray, others: Sequence[np.ndarray], cohort: scoring.CohortModel) -> float:
    """One of `own_norm_scores`: a reference against an artist's other references, one at least."""
    return _norm_score(reference, np.concatenate(others), cohort)


def reference_floors(references: Sequence[np.ndarray], floor: Floor = REFERENCE_FLOOR) -> np.ndarray:
    """The norm_score that each reference of an artist must reach with the others: (n_references,) float32.

    Takes what `own_norm_scores` takes. Where all the others together are short, that counts as a short reference does.
    """
    _check_several(references)
    n_windows = np.array([len(reference) for reference in references])
    return np.array([floor.at(n) for n in np.minimum(n_windows, n_windows.sum() - n_windows)], np.float32)


def _check_several(references: Sequence[np.ndarray]) -> None:
    if len(references) < 2:
        raise ValueError(f"{len(references)} references; a reference is scored against others, so 2 are needed")
    for i, reference in enumerate(references):
        if len(reference) == 0:
            raise ValueError(f"reference {i} has no windows; leave it out")


# --- two voices in one recording --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SecondVoice:
    """A recording that holds two voices.

    Attributes
    ----------
    stretches : tuple of (start_s, end_s)
        Where the voice that has less of the recording is heard alone, in seconds, in order.
    n_windows : int
        Windows in those stretches.
    norm_score : float
        Of these windows against the other voice's.
    floor : float
        What one voice would have reached.
    """

    stretches: tuple[tuple[float, float], ...]
    n_windows: int
    norm_score: float
    floor: float


def find_second_voice(
    vectors: np.ndarray,
    start_s: np.ndarray,
    end_s: np.ndarray,
    cohort: scoring.CohortModel,
    floor: Floor = SECOND_VOICE_FLOOR,
) -> SecondVoice | None:
    """Find two voices in one recording.

    The windows are divided in two by spherical 2-means. Those that overlap one of the other part may hold both voices
    and are left out (averaging neighbours first did no better). The smaller part is then scored against the larger.

    Of honest recordings of 24 to 90 s in one style 1.0 % are refused, of those both sung and spoken 7 %, of 12 with
    accompaniment 1. Of recordings of two persons of one corpus 65 % are refused where they share 40 s half and half,
    59 % where they alternate every 10 s, 44 % where the second has the last 10 s of 50 and 32 % where 10 s in the
    middle, 64 % where the last 15 s of 105; half and half, 29 % where they also are of the same kind of voice, 86 %
    where of different corpora. People who sing together all the time were not tried.

    Parameters
    ----------
    vectors : (n, dim) float32
        Unit rows in time order.
    start_s, end_s : (n,) float64
        Where each window lies in the recording.
    cohort : CohortModel
        From `registry.scoring.prepare_cohort`.
    floor : Floor
        What the parts must reach with each other.

    Returns
    -------
    SecondVoice or None
        None also where a part has fewer than `MIN_PART_WINDOWS` windows.

    References
    ----------
    Dhillon and Modha 2001, Concept decompositions for large sparse text data using clustering, section 3.
    """
    if not len(vectors) == len(start_s) == len(end_s):
        raise ValueError(f"{len(vectors)} vectors, {len(start_s)} starts, {len(end_s)} ends; one of each per window")
    if len(vectors) < 2 * MIN_PART_WINDOWS:
        return None
    overlaps = start_s[1:] < end_s[:-1]
    label = _two_means(vectors)
    straddles = overlaps & (label[1:] != label[:-1])
    pure = ~(np.append(straddles, False) | np.append(False, straddles))
    smaller, larger = sorted((np.flatnonzero(pure & (label == k)) for k in (0, 1)), key=len)
    if len(smaller) < MIN_PART_WINDOWS:
        return None
    norm_score = _norm_score(vectors[smaller], vectors[larger], cohort)
    if norm_score >= floor.at(len(smaller)):
        return None
    runs = np.split(smaller, np.flatnonzero(np.diff(smaller) > 1) + 1)
    stretches = tuple((float(start_s[run[0]]), float(end_s[run[-1]])) for run in runs)
    return SecondVoice(stretches, len(smaller), norm_score, floor.at(len(smaller)))


def _two_means(vectors: np.ndarray) -> np.ndarray:
    """Divide (n, dim) unit rows in two: (n,) int labels 0 and 1, or all 0 where there is nothing to divide.

    The first centre is the row farthest from the mean, the second the one farthest from that.
    """
    first = int(np.argmin(vectors @ vectors.mean(axis=0)))
    second = int(np.argmin(vectors @ vectors[first]))
    centres = vectors[[first, second]]
    label = np.full(len(vectors), -1)
    for _ in range(MAX_PASSES):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        if np.array_equal(nearest, label):
            break
        label = nearest
        centres = _unit(np.stack([vectors[label == k].sum(axis=0) for k in (0, 1)]))
    return label


def _norm_score(windows: np.ndarray, others: np.ndarray, cohort: scoring.CohortModel) -> float:
    """norm_score of some windows, all of them averaged, with an artist whose templates are made of other windows.

    A track is scored by its best stretch; here all of a recording has to be of one voice.
    """
    templates, starts = condense_windows(others)[0], np.zeros(1, np.int64)
    average = _unit(windows.mean(axis=0)[None])
    scores = scoring.pool_scores(average, templates, starts)
    return float(scoring.normalise(scores, average, templates, starts, cohort)[0])


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit
