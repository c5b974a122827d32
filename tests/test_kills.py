"""Some two dozen of the kills of ``scripts/kill_test.py``."""

from __future__ import annotations

import pytest

from tests.kills import POINTS, Trial, kill_at_point


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    # A killed enrolment may leave a copy of its recording behind, which `check` names (registry/kept_audio.py).
    return Trial(tmp_path_factory.mktemp("kills"), n_tracks=20, seed=2026)


@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_lost_doubled_or_unsound_after_a_kill(trial, point):
    n_kills = {"decoder, any time": 8, "encoder, any time": 4, "parent, inside commit": 2}.get(point, 1)

    tally = kill_at_point(trial, point, n_kills)

    assert tally.problems == []
    assert tally.n_kills >= n_kills
