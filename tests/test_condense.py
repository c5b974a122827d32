from __future__ import annotations

import numpy as np
import pytest

from registry.condense import MAX_TEMPLATES, WINDOWS_PER_TEMPLATE, condense_windows
from tests.fakes import DIM, singer, unit


def test_no_windows_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="no windows to condense"):
        condense_windows(np.empty((0, DIM), np.float32))


@pytest.mark.parametrize(("n_windows", "n_templates"), [(1, 1), (3, 1), (7, 1), (8, 2), (20, 5), (500, 8)])
def test_templates_stand_for_at_least_four_windows_on_average_and_are_at_most_eight(n_windows, n_templates):
    assert (MAX_TEMPLATES, WINDOWS_PER_TEMPLATE) == (8, 4)
    windows = singer(0, n_windows, spread=1.0)

    templates, medoids, counts = condense_windows(windows)

    assert (templates.dtype, templates.shape) == (np.float32, (n_templates, DIM))
    assert (medoids.shape, counts.shape, counts.sum()) == ((n_templates,), (n_templates,), n_windows)
    np.testing.assert_allclose(np.linalg.norm(templates, axis=1), 1, atol=1e-6)


def test_few_windows_give_their_mean():
    windows = singer(0, 7, spread=0.5)

    ((template,), medoids, counts) = condense_windows(windows)

    np.testing.assert_allclose(template, unit(windows.sum(axis=0)), atol=1e-6)
    assert medoids.tolist() == [int(np.argmax(windows @ template))]
    assert counts.tolist() == [7]


def test_voices_that_lie_apart_get_a_template_each():
    windows = np.concatenate([singer(k, n, spread=0.05, seed=k) for k, n in enumerate([10, 3, 7])])

    templates, medoids, counts = condense_windows(windows)

    assert len(templates) == 5
    axes = templates.argmax(axis=1)
    np.testing.assert_array_equal(axes, windows[medoids].argmax(axis=1))
    assert [int(counts[axes == k].sum()) for k in range(3)] == [10, 3, 7]


def test_each_medoid_is_the_window_nearest_to_its_template_and_is_one_that_it_stands_for():
    # Found by trying seeds: the window nearest to one of these templates stands for another.
    windows = unit(np.random.default_rng(681).standard_normal((12, 3)))

    templates, medoids, _ = condense_windows(windows)

    nearest = np.argmax(windows @ templates.T, axis=1)
    assert np.argmax(windows @ templates.T, axis=0).tolist() != medoids.tolist()
    for k, medoid in enumerate(medoids):
        own = np.flatnonzero(nearest == k)
        assert medoid == own[np.argmax(windows[own] @ templates[k])]


def test_k_means_has_settled():
    """Each template is the mean of the windows nearest to it."""
    windows = singer(0, 120, spread=1.0)

    templates, _, counts = condense_windows(windows)

    nearest = np.argmax(windows @ templates.T, axis=1)
    for k, template in enumerate(templates):
        np.testing.assert_allclose(template, unit(windows[nearest == k].sum(axis=0)), atol=1e-5)
        assert counts[k] == np.sum(nearest == k)


def test_the_same_windows_always_give_the_same_templates():
    windows = singer(0, 200, spread=1.0)

    for one, other in zip(condense_windows(windows), condense_windows(windows.copy()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_window_many_times_gives_one_template():
    templates, _, counts = condense_windows(np.repeat(singer(0, 1), 40, axis=0))

    assert (len(templates), counts.tolist()) == (1, [40])


def test_windows_in_opposite_directions_give_templates_of_length_one():
    """The mean of all has no direction."""
    windows = np.concatenate([singer(0, 4, spread=0), -singer(0, 4, spread=0)])

    templates, _, counts = condense_windows(windows)

    np.testing.assert_allclose(np.abs(templates @ windows[0]), 1, atol=1e-6)
    assert sorted(counts.tolist()) == [4, 4]


def test_the_windows_given_are_not_changed():
    windows = singer(0, 50, spread=1.0)
    before = windows.copy()

    condense_windows(windows)

    np.testing.assert_array_equal(windows, before)
