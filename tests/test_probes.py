"""What `scripts/probes.py` computes: tracks with an enrolled voice among voices of a population."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

from probes import ProbeTracks, _repeat

from registry.calibration import Calibration
from registry.crowding import CREDIT, NEAR_SHARE, Between, NearLevels
from registry.llr import LlrModel
from tests.fakes import COHORT_ID, fake_calibration

N_VOICES = 6
CALIBRATION = replace(
    Calibration.from_dict(fake_calibration(COHORT_ID)),
    llr=LlrModel((1.0, 0.0, -1.0, -1.0), 0.0),
    near=NearLevels(artist=2.0, track=2.0, cohort=1.0),
)
ALL = np.arange(N_VOICES)[None, :]


def tracks(own: list[float], *, near_track: int = 0, near_artist: int = 0, near_cohort: int = 0) -> ProbeTracks:
    """Tracks with these norm_scores, as many of the first voices near the track and the artist as said.

    The cohort has 30 persons, of whom so many are near the artist.
    """
    shape = len(own), N_VOICES
    return ProbeTracks(
        person=np.array([f"p{i}" for i in range(len(own))]),
        abstains=np.zeros(len(own), bool),
        own=np.array(own),
        others=np.where(np.arange(N_VOICES) < near_track, 3.0, 0.0) + np.zeros(shape),
        accompaniment=np.zeros(len(own)),
        between=Between(
            (np.where(np.arange(N_VOICES) < near_artist, 3.0, 0.0) + np.zeros(shape)).T,
            np.tile(np.where(np.arange(30) < near_cohort, 1.5, 0.0)[:, None], len(own)),
        ),
    )


def taken_off(n_near: float, n_compared: float) -> float:
    return float(np.log10(max(1.0, (n_near + CREDIT) / (NEAR_SHARE * n_compared + CREDIT))))


def test_a_track_is_missed_below_the_threshold_and_not_at_it():
    assert tracks([1.99, 2.0, 2.01]).missed(CALIBRATION, 2.0, ALL).tolist() == [1.0, 0.0, 0.0]


def test_a_track_that_abstains_is_missed():
    heard = replace(tracks([5.0, 5.0]), abstains=np.array([True, False]))

    assert heard.missed(CALIBRATION, 2.0, ALL).tolist() == [1.0, 0.0]


def test_voices_near_the_track_or_the_artist_take_off_what_crowding_says():
    """The artist stands in the place of the last voice, so five are beside it."""
    # For the 25 others that are missing to 30 the cohort of 30 stands in with 25 thirtieths, both near and expected.
    both = taken_off(2, 5) + taken_off(1 + 12 * 25 / 30, 5 + 25)
    heard = tracks([2.0 + both - 0.01, 2.0 + both + 0.01], near_track=2, near_artist=1, near_cohort=12)

    assert heard.missed(CALIBRATION, 2.0, ALL).tolist() == [1.0, 0.0]


def test_the_persons_own_voice_among_them_is_not_counted():
    heard = tracks([2.0, 2.0], near_track=1, near_artist=1)
    own = np.array([[True] + [False] * 5, [False] * 6])
    between = replace(heard.between, others=np.where(own.T, -np.inf, heard.between.others))
    heard = replace(heard, others=np.where(own, -np.inf, heard.others), between=between)

    assert heard.missed(CALIBRATION, 2.0, ALL).tolist() == [0.0, 1.0]


def test_what_is_missed_is_a_share_of_galleries():
    heard = tracks([2.0], near_track=1)
    galleries = np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]])

    assert heard.missed(CALIBRATION, 2.0, galleries).tolist() == [0.25]


def test_songs_begin_with_their_clip_and_hold_only_the_persons_clips():
    rng = np.random.default_rng(0)
    clips = [np.full((2, 3), float(i)) for i in range(3)]

    song = _repeat([clips[1]], clips, 9, rng)

    assert song.shape == (9, 3)
    assert song[:2].tolist() == clips[1].tolist()
    assert set(song[:, 0].tolist()) == {0.0, 1.0, 2.0}
    assert set(_repeat([], clips[:1], 5, rng)[:, 0].tolist()) == {0.0}
    assert _repeat([clips[1]], [], 5, rng)[:, 0].tolist() == [1.0] * 5
