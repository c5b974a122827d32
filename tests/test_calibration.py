"""A calibration is read and checked, and a threshold follows from it, a budget and a number of artists."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from registry import crowding, scoring
from registry.calibration import CONSTANTS, DEFAULT_BUDGET, LEAST_LLR, Calibration, Rule, Threshold, together
from registry.crowding import Between, NearLevels
from registry.errors import NoThreshold
from registry.llr import LlrModel
from registry.tail import REFUSED_BEYOND, SAID_BEYOND, Tail, decades_beyond, threshold_for
from tests.fakes import COHORT_ID, ENCODER_ID, fake_calibration, up


def content(**changes: Any) -> dict[str, Any]:
    """As of `tests.fakes`, but with a tail in which every voice counts whole."""
    made_up = fake_calibration(COHORT_ID)
    tail = {**made_up["tail"], "sizes": [1, 1000], "galleries": [1.0, 1000.0]}
    return {**made_up, "tail": tail, **changes}


CALIBRATION = Calibration.from_dict(content())


# --- reading ---


def test_a_calibration_is_read_as_it_was_written():
    found = {"clean": [None, -0.5, 1.0, 2.0], "clones": [1.0]}
    written = content(found=found, near={"artist": 0.5, "track": -0.25, "cohort": 0.75}, made_at="2026-01-02T03:04:05Z")

    calibration = Calibration.from_dict(json.loads(json.dumps(written)))

    assert calibration == Calibration(
        calibration_id=calibration.calibration_id,
        encoder_id=ENCODER_ID,
        cohort_id=COHORT_ID,
        constants=CONSTANTS,
        llr=LlrModel((1.0, 0.0, 0.0, 0.0), 0.0),
        near=NearLevels(0.5, -0.25, 0.75),
        tail=Tail.from_dict(written["tail"]),
        source="made up for tests",
        found={"clean": (-math.inf, -0.5, 1.0, 2.0), "clones": (1.0,)},
        content=written,
    )
    assert CALIBRATION.found == {}
    assert CONSTANTS == {**scoring.CONSTANTS, **crowding.CONSTANTS}


def test_where_a_calibration_does_not_say_what_is_near_nobody_is():
    assert CALIBRATION.near == NearLevels(math.inf, math.inf, math.inf)


def test_its_id_is_of_all_of_its_content_in_whatever_order():
    backwards = dict(reversed(content().items()))

    assert len(CALIBRATION.calibration_id) == 64
    assert Calibration.from_dict(backwards).calibration_id == CALIBRATION.calibration_id
    others = [content(source="other"), content(note="x"), content(llr={**content()["llr"], "intercept": 0.001})]
    assert len({CALIBRATION.calibration_id, *(Calibration.from_dict(other).calibration_id for other in others)}) == 4


def test_what_is_missed_is_the_share_below_a_threshold_with_those_that_abstained():
    calibration = Calibration.from_dict(
        content(found={"clean": [None, -0.5, 1.0, 2.0], "clones": [1.0], "nobody heard": []})
    )

    assert calibration.missed(1.0) == {"clean": 0.5, "clones": 0.0}
    assert calibration.missed(1.001) == {"clean": 0.75, "clones": 1.0}
    assert calibration.missed(-99.0) == {"clean": 0.25, "clones": 0.0}


@pytest.mark.parametrize("name", ["encoder_id", "cohort_id", "scoring", "llr", "tail", "source"])
def test_a_calibration_that_lacks_something_is_refused(name):
    lacking = content()
    del lacking[name]

    with pytest.raises(ValueError, match=f"it has no {name}"):
        Calibration.from_dict(lacking)


def test_a_calibration_of_the_release_before_is_refused():
    earlier = {"encoder_id": "e", "cohort_id": "c", "scoring": {}, "threshold": 4.4, "threshold_source": "s", "llr": {}}

    with pytest.raises(ValueError, match="it has no source, tail"):
        Calibration.from_dict(earlier)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tail": {"start": 1.0}}, "its tail is not one: 'levels'"),
        ({"tail": 3}, "its tail is not one: "),
        ({"tail": {**content()["tail"], "growth": 0.5}}, "its tail is not one: .*growth"),
        ({"tail": {**content()["tail"], "scale": 0.0}}, "scale not above 0"),
        ({"llr": {"slope": 1.0, "intercept": 0.0}}, "llr needs an intercept and weights of norm_score, accompaniment"),
        ({"llr": [1.0]}, "scoring, llr, near and found are not objects"),
        ({"scoring": 150}, "scoring, llr, near and found are not objects"),
        ({"found": [1.0]}, "scoring, llr, near and found are not objects"),
        ({"near": 2.5}, "scoring, llr, near and found are not objects"),
        ({"near": None}, "scoring, llr, near and found are not objects"),
        ({"near": {}}, r"near is {}, not the levels of artist, track and cohort"),
        ({"near": {"artist": 2.5}}, r"near is {'artist': 2.5}, not the levels of artist, track and cohort"),
        ({"near": {"artist": 2.5, "track": "1"}}, "not the levels of artist, track and cohort"),
        ({"near": {"artist": 2.5, "track": math.nan}}, "not the levels of artist, track and cohort"),
        ({"found": {"clean": ["high"]}}, "could not convert string to float: 'high'"),
    ],
)
def test_a_calibration_that_is_broken_is_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        Calibration.from_dict(content(**changes))


def test_what_it_was_fitted_for_instead_is_named():
    assert CALIBRATION.misfit(ENCODER_ID, COHORT_ID) is None
    assert CALIBRATION.misfit("0" * 64, COHORT_ID) == "encoder (ffffffffffff, this is 000000000000)"
    assert CALIBRATION.misfit(ENCODER_ID, "0" * 64) == "cohort (cccccccccccc, this is 000000000000)"
    earlier = Calibration.from_dict(content(scoring={"cohort_top": 1}))
    assert earlier.misfit(ENCODER_ID, COHORT_ID) == (f"way of scoring ({{'cohort_top': 1}}, this is {CONSTANTS})")


@pytest.mark.parametrize("name", CONSTANTS)
def test_one_of_another_number_near_or_of_another_way_of_scoring_does_not_fit(name):
    other = Calibration.from_dict(content(scoring={**CONSTANTS, name: 2 * CONSTANTS[name]}))

    assert other.misfit(ENCODER_ID, COHORT_ID).startswith("way of scoring (")


# --- crowding ---


def test_with_voices_enrolled_together_is_taken_off_what_crowding_says_in_hundredths():
    """By hand, for the third, first and last of five voices: those near of the two others, and of the three."""
    inf = math.inf
    others = np.array(
        [  # of the voice in a row with the artist in a column
            [-inf, 9.0, 0.0, 9.0, 3.0],
            [9.0, -inf, 9.0, 9.0, 9.0],
            [2.0, 9.0, -inf, 9.0, 1.9],
            [9.0, 9.0, 9.0, -inf, 9.0],
            [2.5, 9.0, 0.5, 9.0, -inf],
        ]
    )
    between = Between(others, np.where(np.arange(30)[:, None] < [3, 0, 0, 0, 12], 5.0, 0.0))
    model, near = LlrModel((1.0, 0.0, -0.5, -2.0), 0.0), NearLevels(artist=2.0, track=1.0, cohort=4.0)
    llrs = np.array([[0.504, 1.0, 3.0], [-inf, 1.504, 0.996], [-inf, -inf, -inf], [0.504, 1.0, 3.0]])

    found = together(between, model, near)(llrs, np.array([2, 0, 4]), np.array([-1, 0, -1, 2]))

    def times(n_near: int, n_compared: int, of_cohort: int | None = None) -> float:
        missing = (
            0 if of_cohort is None else 30 - n_compared
        )  # of the cohort of 30 so many count, near ones in proportion
        n_near_with = n_near + missing / 30 * (of_cohort or 0)
        return max(0.0, math.log10((n_near_with + 2.0) / (0.01 * (n_compared + missing) + 2.0)))

    # Of the artists 2, 0 and 4 these are near: nobody; 2 and 4; 0. And of the cohort nobody, three, twelve.
    assert found[0].tolist() == [
        round(0.504 - 2.0 * times(2, 2), 2),
        round(1.0 - 0.5 * times(2, 2, 3) - 2.0 * times(1, 2), 2),
        round(3.0 - 0.5 * times(1, 2, 12) - 2.0 * times(1, 2), 2),
    ]
    # The second track is the third voice's own, which then tells nothing of the others.
    assert found[1].tolist() == [
        -inf,
        round(1.504 - 0.5 * times(1, 1, 3), 2),
        round(0.996 - 0.5 * times(1, 1, 12) - 2.0 * times(1, 1), 2),
    ]
    assert found[2].tolist() == [-inf] * 3
    # The last is the fifth voice's own, of which nothing is known of the others although it has a score itself.
    assert found[3].tolist() == [
        round(0.504 - 2.0 * times(1, 1), 2),
        round(1.0 - 0.5 * times(1, 1, 3), 2),
        round(3.0 - 0.5 * times(1, 2, 12) - 2.0 * times(1, 2), 2),
    ]


def test_where_nobody_is_near_llrs_together_are_only_rounded():
    between = Between(np.where(np.eye(3, dtype=bool), -np.inf, 9.0), np.full((5, 3), 9.0))
    llrs = np.array([[3.0049, -1.0, -np.inf]])
    voices, own = np.arange(3), np.array([-1])

    for model, near in (
        (LlrModel((1.0, 0.0, -1.0, -1.0), 0.0), NearLevels()),
        (LlrModel((1.0, 0.0, 0.0, 0.0), 0.0), NearLevels(0.0, -2.0, 0.0)),
    ):
        assert together(between, model, near)(llrs, voices, own).tolist() == [[3.0, -1.0, -np.inf]]


# --- thresholds ---


def test_a_threshold_follows_from_budget_and_artists():
    tail = CALIBRATION.tail

    found = [Rule(CALIBRATION, budget, n).threshold(1) for budget, n in ((0.03, 1), (0.03, 40), (0.003, 40))]

    assert found == [
        Threshold(2.0, "false-flag budget 3 % over 1 artists; made up for tests", 0.03, 0.0),
        Threshold(
            up(threshold_for(tail, 0.03, 40)),
            "false-flag budget 3 % over 40 artists; made up for tests",
            0.03,
            round(decades_beyond(tail, 0.03, 40), 2),
        ),
        Threshold(
            up(threshold_for(tail, 0.003, 40)),
            "false-flag budget 0.3 % over 40 artists; threshold extrapolated 1.1 powers of ten beyond 1000 strangers; "
            "made up for tests",
            0.003,
            1.12,
        ),
    ]
    assert [threshold.llr for threshold in found] == sorted(threshold.llr for threshold in found)
    assert [threshold.is_extrapolated for threshold in found] == [False, False, True]


def test_sections_share_the_budget():
    """Each of three has a third of it, as a registry of the same artists with a third of the budget would."""
    rule = Rule(CALIBRATION, 0.03, 10)

    threshold = rule.threshold(3)

    assert threshold == Threshold(
        Rule(CALIBRATION, 0.01, 10).threshold(1).llr,
        "false-flag budget 3 % over 10 artists, shared by 3 sections; made up for tests",
        0.03,
        0.0,
    )
    assert threshold.llr == pytest.approx(rule.threshold(1).llr + 0.5 * math.log(3), abs=0.01)
    assert Rule(CALIBRATION, 0.03, 10, llr=1.5).threshold(3).llr == 1.5


@pytest.mark.parametrize(("exact", "decided"), [(1.65, 1.65), (1.6500001, 1.66), (1.6549, 1.66), (1.66, 1.66)])
def test_a_threshold_is_up_to_the_hundredth_in_which_llrs_are_reported(exact, decided):
    """Rounded down, 1.65 would be flagged at 1.6549 and break the budget; to more digits it would look equal."""
    calibration = Calibration.from_dict(fake_calibration(COHORT_ID, threshold=exact))

    threshold = Rule(calibration, DEFAULT_BUDGET, 1).threshold(1)

    assert threshold.llr == decided
    assert threshold.is_reached(1.65) == (exact == 1.65)


def test_before_anybody_is_enrolled_it_is_that_of_one_artist():
    assert Rule(CALIBRATION, 0.03, 0).threshold(1) == Rule(CALIBRATION, 0.03, 1).threshold(1)


@pytest.mark.parametrize("budget", [0.4, 0.9])
def test_nothing_is_flagged_that_is_not_slightly_more_probable_whatever_the_budget(budget):
    """Of this tail half of strangers' tracks reach 0; at two to one the words begin to say that it is likelier."""
    assert pytest.approx(math.log10(2)) == LEAST_LLR
    assert threshold_for(CALIBRATION.tail, budget, 1) < LEAST_LLR
    assert Rule(CALIBRATION, budget, 1).threshold(1).llr == up(LEAST_LLR) == 0.31

    assert Rule(CALIBRATION, budget, 1, llr=-1.0).threshold(1).llr == -1.0  # who asks for less by hand gets it


def test_an_llr_at_the_threshold_reaches_it():
    threshold = Threshold(1.65, "made up")

    assert [threshold.is_reached(llr) for llr in (1.64, 1.65, 1.66)] == [False, True, True]


def test_the_callers_own_threshold_has_no_budget_and_is_never_extrapolated():
    rule = Rule(CALIBRATION, 1e-9, 10_000, llr=3.25)

    assert rule.threshold(1) == Threshold(3.25, "set by the caller", None, 0.0)
    assert not rule.threshold(1).is_extrapolated


@pytest.mark.parametrize("llr", [math.nan, math.inf, -math.inf])
def test_a_threshold_that_is_no_number_is_refused(llr):
    """Nothing is at or above NaN: every track would be clear."""
    with pytest.raises(NoThreshold, match=f"threshold {llr}: a finite number is needed"):
        Rule(CALIBRATION, DEFAULT_BUDGET, 1, llr=llr)


def test_a_threshold_is_said_to_be_extrapolated_beyond_one_power_of_ten():
    """One of a thousand strangers is a budget of 1e-3 for one artist."""
    assert (SAID_BEYOND, REFUSED_BEYOND) == (1.0, 2.0)

    within, beyond = (Rule(CALIBRATION, budget, 1).threshold(1) for budget in (1.02e-4, 0.9e-4))

    assert (within.decades_beyond, within.is_extrapolated) == (0.99, False)
    assert "extrapolated" not in within.source
    assert (beyond.decades_beyond, beyond.is_extrapolated) == (1.05, True)
    assert beyond.source == (
        "false-flag budget 0.009 % over 1 artists; threshold extrapolated 1.0 powers of ten beyond 1000 strangers; "
        "made up for tests"
    )


def test_two_powers_of_ten_beyond_the_strangers_a_threshold_is_refused_unless_accepted():
    message = (
        r"false-flag budget 9e-06 over 1 artists: the threshold would lie 2\.0 powers of ten beyond what 1000 "
        r"strangers can show; a larger budget, more strangers \(`likeness calibrate`\), or --accept-extrapolation"
    )

    assert Rule(CALIBRATION, 1.02e-5, 1).threshold(1).decades_beyond == 1.99
    with pytest.raises(NoThreshold, match=message):
        Rule(CALIBRATION, 0.9e-5, 1)
    accepted = Rule(CALIBRATION, 0.9e-5, 1, accept_extrapolation=True).threshold(1)

    assert accepted.decades_beyond == 2.05
    assert accepted.llr == up(threshold_for(CALIBRATION.tail, 0.9e-5, 1))
    assert accepted.is_extrapolated


def test_sections_that_share_a_budget_are_not_refused_and_say_how_far_out_they_are():
    """A night's batch must not stop at a mix of ten hours."""
    threshold = Rule(CALIBRATION, 1.02e-5, 1).threshold(120)

    assert threshold.decades_beyond == pytest.approx(1.99 + math.log10(120), abs=0.01)
    assert ", shared by 120 sections; threshold extrapolated 4.1 powers of ten" in threshold.source


def test_more_artists_lead_further_beyond():
    """Ten thousand artists have a ten-thousandth of the budget each."""
    with pytest.raises(NoThreshold, match=r"false-flag budget 0\.03 over 10000 artists: .* 2\.5 powers of ten beyond"):
        Rule(CALIBRATION, 0.03, 10_000)
    assert Rule(CALIBRATION, 0.03, 1000).threshold(1).decades_beyond == pytest.approx(1.52, abs=0.01)


def test_what_was_asked_for_is_the_same_whoever_is_enrolled():
    """By it a batch that was stopped is found again."""
    assert Rule(CALIBRATION, 0.01, 3).asked == Rule(CALIBRATION, 0.01, 300).asked == ["budget", 0.01]
    assert Rule(CALIBRATION, 0.01, 3, llr=2.0).asked == Rule(CALIBRATION, 0.5, 9, llr=2.0).asked == ["llr", 2.0]


@pytest.mark.parametrize("budget", [0.0, 1.0, -0.1])
def test_a_budget_that_is_no_share_is_a_mistake_of_the_caller(budget):
    with pytest.raises(ValueError, match="a false-flag budget is a share above 0 and below 1"):
        Rule(CALIBRATION, budget, 1)
