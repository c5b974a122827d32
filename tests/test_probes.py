"""What `scripts/probes.py` computes: tracks with an enrolled voice among voices of a population."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

import probes
from make_trials import Clip, Model, Test, TrialSet
from probes import ProbeTracks, _repeat, score_probes
from trial_audio import AudioItem
from trial_vectors import ItemVectors

from registry import scoring
from registry.calibration import Calibration
from registry.condense import condense_windows
from registry.crowding import CREDIT, NEAR_SHARE, Between, NearLevels, voice_scores
from registry.llr import LlrModel
from tests.fakes import COHORT_ID, fake_calibration, fake_cohort, singer

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


@pytest.mark.parametrize(("own_place", "n_near"), [(None, 5), (0, 4), (5, 5)])
def test_an_artist_stands_in_the_place_of_its_own_voice_or_of_the_last(own_place, n_near):
    """The first five voices of six are near the track, and beside the artist there are five of the six."""
    heard = tracks([2.0 + taken_off(n_near, 5) + x for x in (-0.01, 0.01)], near_track=5)
    if own_place is not None:
        heard = replace(heard, others=np.where(np.arange(N_VOICES) == own_place, -np.inf, heard.others))

    assert heard.missed(CALIBRATION, 2.0, ALL).tolist() == [1.0, 0.0]


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


def _clip(path: str, person: str) -> Clip:
    return Clip(path, person, "songs", path, "a site", 10.0)


def _item(vectors: np.ndarray) -> ItemVectors:
    return ItemVectors(vectors, np.ones(len(vectors), np.float32), 20.0, 20.0, fell_back=False)


def test_probes_are_scored_with_the_voices_of_a_population_and_with_the_cohort(monkeypatch):
    """Each track with its own model, of which one is of a person whose voice is among the population's."""
    everybody = {name: [_clip(f"{name}.wav", name)] for name in ("a-ada", "b-bo", "c-cy")}
    vectors = {f"{name}.wav": _item(singer(axis, 12, seed=axis)) for axis, name in enumerate(everybody)}
    # Models in another order than their tests, and than the voices.
    models, tests = ["x-di", "b-bo"], ["b-bo", "x-di", "b-bo"]
    vectors |= {f"model {name}.wav": _item(singer(3 + i, 9, spread=0.5, seed=i)) for i, name in enumerate(models)}
    vectors |= {f"test {i}.wav": _item(singer(5, 9, spread=0.6, seed=20 + i)) for i in range(3)}
    clips = [_clip(f"model {name}.wav", name) for name in models]
    clips += [_clip(f"test {i}.wav", name) for i, name in enumerate(tests)]
    trials = TrialSet(
        *("set", "A", 1, "all", "", {}, tuple(clips)),
        models=tuple(Model(name, (i,)) for i, name in enumerate(models)),
        tests=tuple(Test(2 + i, "mate", AudioItem(f"test {i}.wav")) for i in range(3)),
    )
    monkeypatch.setattr(probes, "read_persons", lambda *_: SimpleNamespace(everybody=everybody))
    monkeypatch.setattr(probes, "embed_items", lambda _, items, *__, **___: {key: vectors[key] for key in items})
    cohort = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person)
    population = SimpleNamespace(voices=[*everybody])

    found = score_probes(Path(), "A", {"set": trials}, vectors, population, None, cohort, Path())["set", "clip"]

    voices, artists = (
        [condense_windows(vectors[path].vectors)[0] for path in paths]
        for paths in ([f"{name}.wav" for name in everybody], [f"model {name}.wav" for name in tests])
    )
    assert found.person.tolist() == tests
    for track, artist in enumerate(artists):
        one = artist, np.zeros(1, np.int64), cohort
        for row, voice in enumerate(voices):
            score = voice_scores(voice, np.zeros(1, np.int64), *one)[0, 0]
            is_own = (tests[track], row) == ("b-bo", 1)
            expected = -np.inf if is_own else pytest.approx(score, abs=1e-4)
            assert found.between.others[row, track] == expected
            assert np.isneginf(found.others[track, row]) == is_own
        of_cohort = voice_scores(cohort.vectors, cohort.starts, *one)[:, 0]
        assert found.between.cohort[:, track] == pytest.approx(of_cohort, abs=1e-4)
