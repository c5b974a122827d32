from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from registry import scoring
from registry.calibration import Threshold
from registry.llr import LlrModel, llr_of, measures
from registry.neighbours import CANDIDATES, N_NEIGHBOURS, nearest_neighbours, voice_sections
from registry.records import Gallery
from tests.fakes import DIM, THRESHOLD, fake_cohort, singer, unit

COHORT = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person)
#: The llr is the norm_score.
MODEL = LlrModel((1.0, 0.0, -1.0, -1.0), 0.0)
AT = Threshold(THRESHOLD, "made up for tests")


def gallery(*artists: np.ndarray) -> Gallery:
    """Templates of artists 1, 2, ... in order."""
    owner = np.repeat(np.arange(1, len(artists) + 1), [len(templates) for templates in artists])
    n = len(owner)
    return Gallery(np.concatenate(artists), owner, np.arange(n), owner, np.zeros(n), np.full(n, 4.0))


def reference(number: int, vectors: np.ndarray, every_s: float = 2.0) -> tuple[int, np.ndarray, np.ndarray]:
    """As `Store.reference_windows` gives it: windows of 4 s."""
    start_s = every_s * np.arange(len(vectors))
    return number, vectors, np.column_stack([start_s, start_s + 4.0]).astype(np.float32)


def nearest(sections: list[np.ndarray], others: Gallery, threshold: Threshold = AT):
    names = {int(i): f"artist {i}" for i in np.unique(others.artist_id)}
    return nearest_neighbours(sections, others, COHORT, MODEL, threshold, names)


# --- sections ---


def test_each_reference_is_a_section():
    one, two = singer(0, 5), singer(1, 3)

    sections = voice_sections([reference(1, one), reference(2, two)])

    assert [section.tolist() for section in sections] == [one.tolist(), two.tolist()]


def test_a_long_reference_is_several_as_a_track_of_its_length():
    vectors = singer(0, 400)  # 802 s
    _, _, times_s = reference(1, vectors)

    sections = voice_sections([reference(1, vectors)])

    edges = scoring.section_edges(times_s[:, 0], 802.0)
    assert [len(section) for section in sections] == [end - first for first, end in pairwise(edges)] == [134, 134, 132]


def test_a_stretch_without_voice_and_a_reference_without_windows_are_none():
    gap = reference(1, singer(0, 2), every_s=700.0)  # silence for 11 minutes between two windows

    assert [len(section) for section in voice_sections([gap, reference(2, singer(0, 0))])] == [1, 1]


# --- neighbours ---


def test_neighbours_come_nearest_first_with_all_that_speaks_for_them():
    voice = singer(0, 8)
    towards = [unit(np.eye(DIM)[:1] + tilt * np.eye(DIM)[1:2]) for tilt in (0.2, 1.0, 3.0)]
    others = gallery(towards[1], towards[2], towards[0])

    found = nearest([voice], others)

    assert [(one.rank, one.artist_id, one.artist) for one in found] == [
        (1, 3, "artist 3"),
        (2, 1, "artist 1"),
        (3, 2, "artist 2"),
    ]
    assert [one.reaches_threshold for one in found] == [one.llr >= THRESHOLD for one in found] == [True, False, False]
    assert found[0].likeness == (
        "appreciably more probable if the track carries this voice or an imitation of it than if it carries another "
        "singer's"
    )
    assert found[0].score == pytest.approx(float(np.max(scoring.stretch_vectors(voice) @ towards[0].T)), abs=1e-4)
    assert not any(one.is_lookalike for one in found)


def test_a_neighbour_scores_as_a_track_with_one_reference_would():
    """Pooled, normalised and calibrated by the very functions that tracks are."""
    voice = singer(0, 20, spread=0.3)
    others = gallery(singer(0, 3, spread=0.5, seed=4), singer(2, 1), singer(5, 8))
    starts, _ = scoring.group_starts(others.artist_id)
    scores = scoring.pool_scores(voice, others.vectors, starts)
    norm_scores = scoring.normalise(scores, voice, others.vectors, starts, COHORT)
    llrs = llr_of(measures(norm_scores, scoring.accompaniment(voice, COHORT)), MODEL)

    found = {one.artist_id: one for one in nearest([voice], others)}

    for i, artist_id in enumerate((1, 2, 3)):
        assert found[artist_id].score == round(float(scores[i]), 4)
        assert found[artist_id].norm_score == round(float(norm_scores[i]), 3)
        assert found[artist_id].llr == round(float(llrs[i]), 2)


def test_an_artist_has_the_scores_of_its_best_section():
    """One reference that is like the other is enough to find it."""
    own, strange = singer(3, 8), singer(0, 8)
    others = gallery(singer(0, 1, spread=0.0), singer(6, 1))

    together = {one.artist_id: one for one in nearest([own, strange], others)}

    apart = [{one.artist_id: one for one in nearest([section], others)} for section in (own, strange)]
    assert together[1].llr == apart[1][1].llr > apart[0][1].llr
    assert together[2].llr == max(apart[0][2].llr, apart[1][2].llr)


def test_no_more_are_named_than_a_person_will_look_at():
    others = gallery(*(singer(axis % DIM, 2, seed=axis) for axis in range(12)))

    found = nearest([singer(0, 8)], others)

    assert [one.rank for one in found] == list(range(1, N_NEIGHBOURS + 1))
    assert [one.llr for one in found] == sorted((one.llr for one in found), reverse=True)


def test_among_very_many_the_same_ones_are_found():
    """Only the artists with the highest cosines are normalised; the nearest are among them."""
    rng = np.random.default_rng(3)
    vectors = unit(rng.standard_normal((3 * CANDIDATES, DIM)))
    others = gallery(*vectors[:, None, :])
    voice = singer(0, 8)
    starts, ids = scoring.group_starts(others.artist_id)
    scores = scoring.pool_scores(voice, others.vectors, starts)
    everybody = scoring.normalise(scores, voice, others.vectors, starts, COHORT)

    found = nearest([voice], others)

    assert [one.artist_id for one in found] == ids[np.argsort(-everybody)][:N_NEIGHBOURS].tolist()
    assert [one.norm_score for one in found] == pytest.approx(np.sort(everybody)[::-1][:N_NEIGHBOURS], abs=1e-3)


def test_the_threshold_itself_is_reached():
    others = gallery(singer(0, 1, spread=0.0))
    (one,) = nearest([singer(0, 8)], others)

    (same,) = nearest([singer(0, 8)], others, Threshold(one.llr, "the same"))
    (above,) = nearest([singer(0, 8)], others, Threshold(one.llr + 0.001, "a little more"))

    assert (same.reaches_threshold, above.reaches_threshold) == (True, False)


def test_nobody_has_no_neighbours():
    nobody = gallery(singer(0, 1)).select(np.zeros(1, bool))

    assert nearest([singer(0, 8)], nobody) == ()
    assert nearest([], gallery(singer(0, 1))) == ()
