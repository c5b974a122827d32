"""Another calibration from the owner's recordings: what it fits, what it takes over, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from registry.calibrate import (
    MIN_PERSONS,
    MIN_STRANGER_TRACKS,
    N_RANKS,
    check_enough,
    check_listed,
    check_usable,
    effects,
    fit_calibration,
    without_each,
)
from registry.calibration import CONSTANTS, Calibration, Rule
from registry.calibrations import active_calibration, add_calibration, roll_back
from registry.crowding import Between, NearLevels
from registry.errors import NoThreshold, TooFewRecordings
from registry.evaluate import CLONES, GENUINE
from registry.evaluation_report import CHANGE_COLUMNS, change_rows
from registry.llr import llr_of
from registry.llr_metrics import cllr
from registry.tail import share_above, threshold_for
from registry.trials import TrialScores
from tests.fakes import COHORT_ID, ENCODER_ID, crowded
from tests.trial_fakes import calibration, level_tail, make_scores, recording


@pytest.fixture(scope="module")
def scores() -> TrialScores:
    return make_scores(40, 6)


def fit(scores, before=None, only=None) -> Calibration:
    return fit_calibration(scores, ENCODER_ID, COHORT_ID, before, only)


@pytest.fixture(scope="module")
def fitted(scores) -> Calibration:
    return fit(scores)


def cost(scores, llrs):
    at = scores.targets(clones=False)
    strangers = scores.strangers()
    return cllr(llrs[at, scores.own_model[at]], llrs[strangers][scores.compared()[strangers]])


# --- what is fitted ---------------------------------------------------------------------------------------------------


def test_llrs_come_to_mean_what_they_say(scores, fitted):
    assert cost(scores, scores.llr(fitted.llr, fitted.near)) < cost(
        scores, scores.llr(calibration().llr, calibration().near)
    )
    # Of Gaussians 4 apart with one spread the llr is known: 4 x - 8, in natural logarithms.
    assert fitted.llr.weights[0] == pytest.approx(4 / math.log(10), rel=0.15)
    assert -fitted.llr.intercept / fitted.llr.weights[0] == pytest.approx(2, abs=0.15)


def test_thresholds_keep_their_budget_on_these_strangers(scores, fitted):
    strangers = np.where(scores.compared(), scores.llr(fitted.llr, fitted.near), -np.inf).max(axis=1)

    for budget in (0.1, 0.03):
        threshold = Rule(fitted, budget, 40).threshold(1).llr
        assert np.mean(strangers >= threshold) <= 1.5 * budget
    assert fitted.tail.n_strangers == 40
    assert share_above(fitted.tail, Rule(fitted, 0.1, 40).threshold(1).llr, 40) <= 0.1


def test_the_tail_is_of_what_is_decided_on_with_crowding_taken_off_in_hundredths(scores, fitted):
    """Forty persons are one gallery: the share at or above each level is that of strangers' tracks, to the last one."""
    llrs = scores.llr(fitted.llr, fitted.near)
    best = np.where(scores.compared(), llrs, -np.inf).max(axis=1)

    assert fitted.tail.n_voices == 40 and (scores.measured(fitted.llr, fitted.near)[..., 2:] > 0).mean() > 0.1
    assert fitted.tail.shares == pytest.approx(
        [np.mean(best >= level - 1e-6) for level in fitted.tail.levels], abs=1e-6
    )


def test_one_in_a_hundred_of_what_strangers_score_is_near(scores, fitted):
    """Of voices with one another, and of tracks before crowding is taken off, as the llrs that come out have it."""
    strangers = scores.plain_llr_rows(fitted.llr)[scores.compared()]

    between = scores.between
    assert np.mean(between.others[np.isfinite(between.others)] >= fitted.near.artist) == pytest.approx(0.01, abs=1e-3)
    assert np.mean(between.cohort >= fitted.near.cohort) == pytest.approx(0.01, abs=1e-3)
    assert np.mean(strangers >= fitted.near.track) == pytest.approx(0.01, abs=1e-4)
    assert fitted.llr.weights[2] == fitted.llr.weights[3] < 0
    near = fitted.near
    assert fitted.content["near"] == {"artist": near.artist, "track": near.track, "cohort": near.cohort}


def test_a_calibration_says_what_it_was_fitted_on_and_names_nobody(scores, fitted):
    content = fitted.content

    assert set(content) == {
        *("encoder_id", "cohort_id", "scoring", "llr", "near", "tail", "source", "found", "tail_population"),
        *("made_at", "likeness_version"),
    }
    assert (content["encoder_id"], content["cohort_id"], content["scoring"]) == (
        ENCODER_ID,
        COHORT_ID,
        CONSTANTS,
    )
    assert content["source"] == "calibrated on the owner's recordings (40 persons, 240 recordings)"
    assert not [name for name in (*scores.persons, *scores.paths) if name in str(content)]
    assert list(fitted.found) == ["genuine"]
    assert len(fitted.found["genuine"]) == N_RANKS
    assert list(fitted.found["genuine"]) == sorted(fitted.found["genuine"])
    assert fitted.misfit(ENCODER_ID, COHORT_ID) is None


def test_clones_weigh_half_however_few_they_are():
    genuine = make_scores(30, 6, own=6.0)
    with_clones = make_scores(30, 6, 1, own=6.0, clone=1.5)

    plain, mixed = fit(genuine), fit(with_clones)

    assert mixed.llr.weights[0] < 0.7 * plain.llr.weights[0]
    assert list(mixed.found) == ["genuine", "clones"]
    assert "half each" in mixed.content["llr"]["positives"]
    assert mixed.source == "calibrated on the owner's recordings (30 persons, 180 recordings, and 30 clones)"


def test_persons_count_alike_however_many_recordings_they_have(scores):
    """A person with many recordings whose own voice scores low must not carry the fit away."""
    extra = 400
    person = np.concatenate([scores.track_person, np.zeros(extra, np.int64)])
    norm = np.concatenate([scores.norm, np.random.default_rng(5).normal(0, 1, (extra, 40)).astype(np.float32)])
    more = dataclasses.replace(
        scores,
        track_person=person,
        norm=norm,
        paths=(*scores.paths, *["/music/more.wav"] * extra),
        row_track=np.arange(len(person)),
        n_sections=np.ones(len(person), int),
        accompaniment=np.zeros(len(person)),
        **{
            name: np.concatenate([getattr(scores, name), np.zeros(extra, bool)])
            for name in ("is_clone", "is_enrolled", "is_new_source", "abstains")
        },
    )

    llr = fit(more).llr

    assert -llr.intercept / llr.weights[0] == pytest.approx(2, abs=0.4)


@pytest.mark.parametrize("n_persons", [20, 40])
def test_each_person_is_judged_by_a_fit_without_that_person(n_persons):
    """Of persons who become like everybody else nothing is in the fit that judges them; with 20 the cohort counts."""
    scores = make_scores(n_persons, 6)
    others = scores.norm.copy()
    own = scores.track_person == 3
    others[np.ix_(own, np.arange(n_persons) != 3)] += 2.0
    others[~own, 3] += 2.0
    between = Between(scores.between.others.copy(), scores.between.cohort.copy())
    between.others[3, :], between.others[:, 3], between.cohort[:, 3] = 9.0, 9.0, 9.0
    between.others[3, 3] = -np.inf
    changed = dataclasses.replace(scores, norm=others, between=between)

    judges, after = (without_each(each, fit(each), None, None) for each in (scores, changed))

    parts = [[(judge.llr, judge.near, judge.tail) for judge in fitted] for fitted in (judges, after)]
    same = [judge == other for judge, other in zip(*parts, strict=True)]
    assert sorted(same) == [False, False, False, False, True]
    assert all(judge.llr != fit(scores).llr for judge in judges)


# --- one part only ----------------------------------------------------------------------------------------------------


def test_only_tail_keeps_what_scores_are_worth(scores):
    before = calibration(tail=level_tail(3.0))

    after = fit(scores, before, "tail")

    assert after.content["llr"] == before.content["llr"]
    assert after.near == before.near == NearLevels()
    assert after.tail != before.tail
    json.dumps(after.content, allow_nan=False)  # also where nobody is near
    assert after.source == (
        "tail calibrated on the owner's recordings (40 persons, 240 recordings); the rest: made up for tests"
    )
    was, becomes = effects(scores, after, before, "tail", [0.03], 40)
    assert becomes.cllr == was.cllr


def test_only_tail_takes_off_what_others_near_do_as_the_calibration_before_says(scores):
    before = Calibration.from_dict(crowded(calibration().content, artist=1.5, track=1.0))

    after, uncrowded = fit(scores, before, "tail"), fit(scores, calibration(), "tail")

    assert (after.content["llr"], after.content["near"]) == (before.content["llr"], before.near.as_dict())
    best = np.where(scores.compared(), scores.llr(before.llr, before.near), -np.inf).max(axis=1)
    assert after.tail.shares == pytest.approx([np.mean(best >= level - 1e-6) for level in after.tail.levels], abs=1e-6)
    assert threshold_for(after.tail, 0.1, 40) < threshold_for(uncrowded.tail, 0.1, 40) - 0.1


@pytest.mark.parametrize("is_crowded", [False, True])
def test_only_llr_moves_thresholds_along_so_that_the_same_tracks_are_flagged(scores, is_crowded):
    earlier = make_scores(40, 6, own=3.0, seed=9)
    before = fit(earlier)
    if not is_crowded:
        before = fit(earlier, Calibration.from_dict({**before.content, "near": NearLevels().as_dict()}), "tail")

    after = fit(scores, before, "llr")

    was, becomes = (scores.measured(each.llr, each.near) for each in (before, after))
    assert (was[..., 2:] > 0).any(axis=(0, 1)).tolist() == [is_crowded] * 2
    np.testing.assert_array_equal(becomes, was)  # the same others are near
    assert after.near.artist == before.near.artist
    for n_artists in (40, 500):
        flags = []
        for each, measured in ((before, was), (after, becomes)):
            # To the digits that are rounded away: of two scales hundredths are not the same.
            flags.append(llr_of(measured, each.llr) >= threshold_for(each.tail, 0.03, n_artists))
        np.testing.assert_array_equal(*flags)
        assert 0 < flags[0].sum() < flags[0].size
    assert after.llr != before.llr
    ratio = after.llr.weights[0] / before.llr.weights[0]
    assert after.llr.weights == pytest.approx([ratio * weight for weight in before.llr.weights])
    assert after.tail.shape == before.tail.shape
    for budget, n_artists in ((0.03, 40), (0.1, 40), (0.01, 500)):
        old, new = (Rule(c, budget, n_artists).threshold(1) for c in (before, after))
        assert (old.llr - before.llr.intercept) / before.llr.weights[0] == pytest.approx(
            (new.llr - after.llr.intercept) / after.llr.weights[0],
            abs=0.01 / min(before.llr.weights[0], after.llr.weights[0]),  # both are rounded up to hundredths
        )
        assert old.decades_beyond == new.decades_beyond
    assert cost(scores, scores.llr(after.llr, after.near)) <= cost(scores, scores.llr(before.llr, before.near))


def test_llr_fitted_again_to_the_same_recordings_comes_out_as_it_was(scores, fitted):
    again = fit(scores, fitted, "llr")

    assert again.llr.weights == pytest.approx(fitted.llr.weights, rel=1e-9)
    assert again.llr.intercept == pytest.approx(fitted.llr.intercept, abs=1e-9)
    assert again.near.track == pytest.approx(fitted.near.track, abs=1e-9)
    measured = scores.measured(fitted.llr, fitted.near)
    np.testing.assert_array_equal(scores.measured(again.llr, again.near), measured)


@pytest.mark.parametrize("only", ["tail", "llr"])
def test_one_part_needs_a_calibration_to_take_the_other_from(scores, only):
    with pytest.raises(NoThreshold, match=f"only {only} is to be fitted, and no calibration is in force"):
        fit(scores, None, only)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_too_few_persons_or_recordings_are_refused_with_how_many_there_are():
    with pytest.raises(
        TooFewRecordings, match=r"^19 persons with a recording to enroll and another to test, at least 20"
    ):
        fit(make_scores(19, 6))
    with pytest.raises(TooFewRecordings, match=r"^96 recordings with voice to try with everybody else, at least 100"):
        fit(make_scores(24, 4))
    check_enough(make_scores(25, 4))


def test_abstaining_recordings_do_not_count():
    scores = make_scores(25, 4)
    silent = np.arange(len(scores.paths)) == 0

    with pytest.raises(TooFewRecordings, match=r"^99 recordings with voice"):
        check_enough(dataclasses.replace(scores, abstains=silent))


def test_a_list_that_is_too_short_is_refused_before_anything_is_read():
    enough = [recording(f"{who}-{i}.wav", f"{who}") for who in range(MIN_PERSONS) for i in range(5)]
    assert len(enough) == MIN_STRANGER_TRACKS

    check_listed(enough)
    with pytest.raises(TooFewRecordings, match=r"^99 recordings"):
        check_listed(enough[1:])
    with pytest.raises(TooFewRecordings, match=r"^0 persons"):
        check_listed([recording("a.wav", "Ada"), recording("b.wav", "Ada", is_clone=True)])


def test_recordings_that_say_nothing_are_refused():
    with pytest.raises(NoThreshold, match="nothing can be calibrated on these recordings: targets do not score above"):
        fit(make_scores(30, 6, own=-1.0))


def test_a_calibration_by_which_nothing_could_be_decided_is_refused(fitted):
    check_usable(fitted, 0.03, 40)
    with pytest.raises(NoThreshold, match="nothing could be decided any more, so it is not kept"):
        check_usable(fitted, 1e-9, 40)


# --- what it changes, and the store -----------------------------------------------------------------------------------


def test_effects_are_of_these_recordings_before_and_after():
    scores, before = make_scores(30, 6, 2), calibration()
    after = fit(scores, before)

    was, becomes = effects(scores, after, before, None, [0.03, 0.01], 7)

    assert list(was.cllr) == list(becomes.cllr) == [GENUINE, CLONES]
    assert becomes.cllr[GENUINE].value < was.cllr[GENUINE].value
    assert [(p.budget, p.n_artists, p.fpir) for p in becomes.present] == [(0.03, 7, None), (0.01, 7, None)]
    assert [point.threshold for point in becomes.present] == [
        Rule(after, budget, 7).threshold(1).llr for budget in (0.03, 0.01)
    ]
    assert [(p.n_artists, p.fpir.n_persons) for p in becomes.here] == [(30, 30), (30, 30)]
    assert effects(scores, after, None, None, [0.03], 7)[0] is None
    # What is judged by a fit without oneself keeps its budget as nearly as so few persons can tell.
    assert becomes.here[0].fpir.low <= 0.06
    rows = change_rows(was, becomes)
    assert all(tuple(row) == CHANGE_COLUMNS for row in rows if "persons" in row)
    assert [row["figure"] for row in rows] == [
        *("Cllr, bits", "Cllr, bits"),
        *("threshold, llr", "FNIR %", "FNIR %") * 2,
        *("FPIR %", "FPIR %"),
    ]
    assert all(row["before"] and row["after"] for row in rows)
    assert not any(row["before"] for row in change_rows(None, becomes))


def test_sections_of_a_track_each_have_to_keep_their_share_of_the_budget(scores):
    """With two sections per track the tail is of sections, so the threshold of one section stays where it was."""
    sections = dataclasses.replace(
        scores,
        row_track=np.repeat(np.arange(240), 2),
        norm=np.repeat(scores.norm, 2, axis=0),
        accompaniment=np.zeros(480),
        n_sections=np.full(240, 2),
    )

    of_tracks, of_sections = (threshold_for(fit(each).tail, 0.03, 40) for each in (scores, sections))
    assert of_sections == pytest.approx(of_tracks, abs=0.02)


def test_a_new_calibration_counts_until_it_is_rolled_back(store, fitted):
    add_calibration(store, fitted)

    assert active_calibration(store, ENCODER_ID, COHORT_ID) == fitted
    assert roll_back(store) == (1, None)
    assert active_calibration(store, ENCODER_ID, COHORT_ID) is None
