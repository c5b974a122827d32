"""References of another voice score far below an artist's own, and a second voice is found with its seconds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from registry import scoring
from registry.condense import condense_windows
from registry.consistency import (
    LONG_WINDOWS,
    MIN_PART_WINDOWS,
    REFERENCE_FLOOR,
    SECOND_VOICE_FLOOR,
    Floor,
    SecondVoice,
    find_second_voice,
    own_norm_scores,
    reference_floors,
)
from tests.fakes import enroll_vectors, fake_cohort, make_matcher, make_voiceprint, singer, unit

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

import bench_enroll_checks as bench

WIDE = 48  #: dimensions, so that strangers have little in common and the shipped floors apply
EVERY_SCORE = Floor(np.inf, np.inf)


@pytest.fixture(scope="module")
def cohort() -> scoring.CohortModel:
    """Eighty strangers in all directions, two templates each."""
    vectors = np.random.default_rng(99).standard_normal((160, WIDE))
    vectors[1::2] = vectors[::2] + 0.3 * vectors[1::2]
    return scoring.prepare_cohort(unit(vectors), np.repeat(np.arange(80), 2))


def voice(person: int, n_windows: int, *, seed: int = 0, register: float = 0.0, spread: float = 0.08) -> np.ndarray:
    """(n_windows, WIDE) vectors of a person; `register` moves them to another way of singing, the person's own."""
    own, other_register = np.random.default_rng(1000 + person).standard_normal((2, WIDE))
    windows = np.random.default_rng([person, seed]).standard_normal((n_windows, WIDE))
    return unit(unit(own) + register * unit(other_register) + spread * windows)


def recording(*stretches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches one after the other as windows of 4 s every 2 s: vectors, starts, ends."""
    vectors = np.concatenate(stretches)
    start_s = 2.0 * np.arange(len(vectors))
    return vectors, start_s, start_s + 4.0


def average(windows: np.ndarray) -> np.ndarray:
    """All windows as one: (1, dim)."""
    return unit(windows.mean(axis=0, dtype=np.float64)[None])


# --- a reference against the others -----------------------------------------------------------------------------------


def test_each_reference_scores_as_the_matcher_would_score_its_average_against_the_others(store, encoder):
    """A track is scored by its best stretch; all of a reference has to be of the artist's voice."""
    references = [singer(0, 9, spread=0.3, seed=1), singer(1, 40, spread=0.5, seed=2), singer(0, 5, seed=3)]
    cohort = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person)
    for i in range(3):
        for j in range(3):
            if j != i:
                enroll_vectors(store, encoder, f"all but {i}", references[j], content=f"{i} {j}.wav")
    matcher, _ = make_matcher(store, encoder)

    scores = own_norm_scores(references, cohort)

    assert (scores.dtype, scores.shape) == (np.float32, (3,))
    for i, reference in enumerate(references):
        matches = {match.artist: match.norm_score for match in matcher.match(make_voiceprint(average(reference)))}
        assert round(float(scores[i]), 3) == matches[f"all but {i}"]


def test_a_foreign_reference_is_below_the_floor_and_the_artists_own_are_not(cohort):
    references = [voice(1, 20, seed=1), voice(2, 20), voice(1, 8, seed=2), voice(1, 3, seed=3)]

    refused = own_norm_scores(references, cohort) < reference_floors(references)

    assert refused.tolist() == [False, True, False, False]


def test_another_register_of_the_same_voice_is_above_the_floor(cohort):
    references = [voice(1, 20, seed=1), voice(1, 20, seed=2), voice(1, 20, seed=3, register=0.8)]

    assert (own_norm_scores(references, cohort) >= reference_floors(references)).all()


def test_two_references_are_enough_and_score_with_each_other(cohort):
    references = [voice(1, 1), voice(1, 4, seed=1)]

    scores = own_norm_scores(references, cohort)

    for score, own, other in zip(scores, references, references[::-1], strict=True):
        templates = condense_windows(other)[0]
        pooled = scoring.pool_scores(average(own), templates, np.zeros(1, int))
        expected = scoring.normalise(pooled, average(own), templates, np.zeros(1, int), cohort)[0]
        assert score == pytest.approx(expected, abs=1e-5)


def test_the_same_recording_again_scores_no_less_than_another_one(cohort):
    windows = voice(1, 10, seed=1)

    copies = own_norm_scores([windows, windows], cohort)
    others = own_norm_scores([windows, voice(1, 10, seed=2)], cohort)

    assert copies[0] == copies[1]
    assert (copies > others).all()


@pytest.mark.parametrize("function", [lambda refs, _: reference_floors(refs), own_norm_scores])
def test_fewer_than_two_references_or_an_empty_one_are_mistakes_of_the_caller(function, cohort):
    with pytest.raises(ValueError, match="0 references; a reference is scored against others, so 2 are needed"):
        function([], cohort)
    with pytest.raises(ValueError, match="1 references; a reference is scored against others, so 2 are needed"):
        function([voice(1, 5)], cohort)
    with pytest.raises(ValueError, match="reference 1 has no windows; leave it out"):
        function([voice(1, 5), np.empty((0, WIDE), np.float32), voice(1, 5)], cohort)


def test_the_floor_is_the_lower_one_where_the_reference_or_all_the_others_are_short():
    def floors(*n_windows: int) -> list[float]:
        return reference_floors([voice(1, n) for n in n_windows], Floor(short=1.0, long=2.0)).tolist()

    assert LONG_WINDOWS == 6
    assert floors(6, 5, 1) == [2.0, 1.0, 1.0]
    assert floors(6, 2, 2) == [1.0, 1.0, 1.0]
    assert floors(70, 70) == [2.0, 2.0]
    assert reference_floors([voice(1, 6), voice(1, 5)]).tolist() == [np.float32(REFERENCE_FLOOR.short)] * 2
    assert REFERENCE_FLOOR.short < REFERENCE_FLOOR.long
    assert SECOND_VOICE_FLOOR.short < SECOND_VOICE_FLOOR.long


def test_nothing_given_is_changed_and_the_same_again_gives_the_same(cohort):
    references = [voice(1, 12, seed=1), voice(1, 9, seed=2), voice(2, 7)]
    before = [reference.copy() for reference in references]
    vectors, start_s, end_s = recording(voice(1, 12), voice(2, 12))
    vectors_before, vectors_given = vectors.copy(), vectors.copy()

    for _ in range(2):
        np.testing.assert_array_equal(own_norm_scores(references, cohort), own_norm_scores(before, cohort))
        found = find_second_voice(vectors, start_s, end_s, cohort)
        assert found is not None
        assert found == find_second_voice(vectors_given, start_s, end_s, cohort)
    for reference, copy in zip(references, before, strict=True):
        np.testing.assert_array_equal(reference, copy)
    np.testing.assert_array_equal(vectors, vectors_before)


# --- two voices in one recording --------------------------------------------------------------------------------------


def test_a_second_voice_is_found_with_the_seconds_in_which_it_is_alone(cohort):
    """Windows 0 to 19 start at 0 to 38 s; the last of them and the first of the second voice overlap."""
    first, second = voice(1, 20), voice(2, 8)

    found = find_second_voice(*recording(first, second), cohort)

    templates, starts = condense_windows(first[:19])[0], np.zeros(1, int)
    pooled = scoring.pool_scores(average(second[1:]), templates, starts)
    norm_score = float(scoring.normalise(pooled, average(second[1:]), templates, starts, cohort)[0])
    assert norm_score < 1
    assert found is not None and found.norm_score == pytest.approx(norm_score, abs=1e-5)
    assert found == SecondVoice(((42.0, 58.0),), 7, found.norm_score, SECOND_VOICE_FLOOR.long)


def test_a_second_voice_that_comes_and_goes_is_found_in_each_of_its_stretches(cohort):
    found = find_second_voice(
        *recording(voice(1, 6, seed=1), voice(2, 5, seed=1), voice(1, 6, seed=2), voice(2, 5, seed=2)), cohort
    )

    assert found is not None
    assert found.stretches == ((14.0, 22.0), (36.0, 46.0))
    assert (found.n_windows, found.floor) == (7, SECOND_VOICE_FLOOR.long)


def test_windows_that_hold_both_voices_are_in_no_stretch(cohort):
    between = unit(voice(1, 1) + voice(2, 1))

    found = find_second_voice(*recording(voice(1, 12), between, voice(2, 6)), cohort)

    assert found is not None
    assert found.stretches[0][0] >= 26.0  # the one between starts at 24 s


@pytest.mark.parametrize(("pause_s", "stretch"), [(0.0, (26.0, 40.0)), (28.0, (54.0, 68.0))])
def test_voices_whose_windows_do_not_overlap_lose_no_window(pause_s, stretch, cohort):
    """The first voice ends at 26 s."""
    vectors, start_s, _ = recording(voice(1, 12), voice(2, 6))
    start_s[12:] += 2 + pause_s

    found = find_second_voice(vectors, start_s, start_s + 4, cohort)

    assert found is not None
    assert (found.stretches, found.n_windows) == ((stretch,), 6)


def test_one_voice_is_one_voice_also_in_two_registers(cohort):
    one_style = recording(voice(1, 40, spread=0.15))
    two_registers = recording(voice(1, 15), voice(1, 15, seed=1, register=0.8))

    assert find_second_voice(*one_style, cohort) is None
    assert find_second_voice(*two_registers, cohort) is None
    parts = find_second_voice(*two_registers, cohort, EVERY_SCORE)
    assert parts is not None  # they were told apart, and are near enough
    assert parts.n_windows == 14
    assert SECOND_VOICE_FLOOR.long < parts.norm_score


def test_a_second_voice_shorter_than_three_windows_to_itself_is_not_looked_for(cohort):
    assert MIN_PART_WINDOWS == 3

    assert find_second_voice(*recording(voice(1, 20), voice(2, 3)), cohort, EVERY_SCORE) is None
    found = find_second_voice(*recording(voice(1, 20), voice(2, 4)), cohort)
    assert found is not None
    assert (found.n_windows, found.floor) == (3, SECOND_VOICE_FLOOR.short)


@pytest.mark.parametrize("n_windows", [0, 1, 2, 5])
def test_too_few_windows_for_two_parts_hold_one_voice(n_windows, cohort):
    assert find_second_voice(*recording(voice(1, n_windows)), cohort, EVERY_SCORE) is None


def test_windows_all_alike_hold_one_voice(cohort):
    same = np.repeat(voice(1, 1), 30, axis=0)

    assert find_second_voice(*recording(same), cohort, EVERY_SCORE) is None


def test_windows_that_cancel_out_give_no_nan(cohort):
    one = np.repeat(voice(1, 1), 8, axis=0)

    with np.errstate(all="raise"):
        found = find_second_voice(*recording(one, -one), cohort)
        find_second_voice(*recording(np.concatenate([[w, -w] for w in one])), cohort)

    assert found is not None
    assert np.isfinite(found.norm_score)


def test_vectors_and_times_of_different_lengths_are_a_mistake_of_the_caller(cohort):
    vectors, start_s, end_s = recording(voice(1, 10))

    with pytest.raises(ValueError, match="10 vectors, 9 starts, 10 ends; one of each per window"):
        find_second_voice(vectors, start_s[:9], end_s, cohort)


# --- the benchmark ----------------------------------------------------------------------------------------------------


def test_floors_are_fitted_by_length_with_persons_counting_alike():
    """A has ten times the recordings of B: a quarter of the weight lies below the middle of B's."""
    checked = [bench.Checked("c", "A", 2, 5.0, 0.0) for _ in range(20)]
    checked += [bench.Checked("c", "B", 2, score, 0.0) for score in (1.0, 3.0)]
    checked += [bench.Checked("c", "A", LONG_WINDOWS, score, 0.0) for score in (7.0, 8.0)]

    assert bench.fit_floors(checked, 0.2) == Floor(1.0, 7.0)
    assert bench.fit_floors(checked, 0.3) == Floor(3.0, 7.0)
    assert bench.fit_floors(checked, 0.6) == Floor(5.0, 8.0)


def test_references_keep_recordings_and_styles_apart():
    clips = [
        bench.Clip(f"{kind}{i}", kind, "p", f"{kind}{i // 2}", 9.0) for kind in ("singing", "speech") for i in range(8)
    ]
    vectors = {
        clip.path: bench.ItemVectors(np.full((2, 1), i, np.float32), np.ones(2, np.float32), 8.0, 9.0, fell_back=False)
        for i, clip in enumerate(clips)
    }

    references = bench.make_references(clips, vectors, 8, np.random.default_rng(0))

    assert [kind for _, kind in references] == ["singing", "singing", "speech", "speech"]
    assert sorted(set(np.concatenate([windows for windows, _ in references]).ravel())) == list(range(16))
    for windows, _ in references:
        assert len(windows) == 8
        halves = windows.ravel()[::4]
        assert (halves % 2 == 0).all()  # both clips of a recording


def test_the_seconds_of_a_stretch_are_those_of_the_voice_that_has_more_of_them():
    pieces = (("a", 10.0, 0), ("b", 10.0, 1), ("c", 10.0, 0))

    assert bench.seconds_of_one_voice([(12.0, 18.0)], pieces) == 1
    assert bench.seconds_of_one_voice([(8.0, 16.0)], pieces) == 0.75
    assert bench.seconds_of_one_voice([(0.0, 8.0), (18.0, 22.0)], pieces) == pytest.approx(10 / 12)


def test_the_benchmark_says_why_it_does_nothing_without_recordings(tmp_path, capsys):
    assert bench.main(["--audio", str(tmp_path)]) == 0

    captured = capsys.readouterr()
    assert (
        captured.out
        == f"skipped: no real recordings, {tmp_path} has no dev/voices.csv; set LIKENESS_AUDIO or --audio\n"
    )


def test_every_recording_joined_from_real_ones_is_of_the_persons_it_names(audio_root):
    for fold in ("A", "B"):
        voices = bench.read_voices(audio_root, fold)
        whose = {clip.path: person for person, clips in voices.items() for clip in clips}
        joined = bench.join_recordings(voices, {})

        assert len({recording.key for recording in joined}) > 500
        for one in joined:
            persons = [{whose[path] for path, _, who in one.pieces if who == k} for k in (0, 1)]
            assert persons[0] == {one.person}
            assert len(persons[1] - persons[0]) == int(one.two_voices)
