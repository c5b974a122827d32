"""Figures of made-up trials: what they are against slow counting, what they stand on, and where none are given."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from registry import llr_metrics, metrics
from registry.calibration import Calibration, Rule
from registry.evaluate import BUDGETS, CLONES, GENUINE, NEW_SOURCE, SIZES, FalseFlag, PersonRow, evaluate
from registry.evaluation_report import FIGURE_COLUMNS, evaluation_text, figure_rows, figure_text
from registry.records import Unusable
from registry.tail import N_GALLERIES, random_galleries
from registry.trials import TrialScores
from tests.fakes import crowded
from tests.trial_fakes import calibration, level_tail, make_scores


def targets_of(evaluation, kind):
    (found,) = [targets for targets in evaluation.targets if targets.kind == kind]
    return found


def trials(scores: TrialScores, *, clones: bool = False):
    """llr and label of every trial, one by one."""
    llrs = scores.llr(calibration().llr, calibration().near)
    at = scores.targets(clones=clones)
    own = [llrs[i, scores.track_person[i]] for i in at]
    others = [
        llrs[i, j]
        for i in range(len(llrs))
        if not scores.is_clone[i]
        for j in range(llrs.shape[1])
        if scores.model_person[j] != scores.track_person[i]
    ]
    return np.array(own), np.array(others)


@pytest.fixture(scope="module")
def scores():
    return make_scores(12, 6, 2)


@pytest.fixture(scope="module")
def found(scores):
    return evaluate(scores, calibration())


@pytest.mark.parametrize("kind", [GENUINE, CLONES])
def test_figures_whatever_the_threshold_are_those_of_the_trials(scores, found, kind):
    own, others = trials(scores, clones=kind == CLONES)
    curve = metrics.roc(np.concatenate([own, others]), np.arange(len(own) + len(others)) < len(own))

    targets = targets_of(found, kind)

    assert {name: figure.value for name, figure in targets.figures.items()} == pytest.approx(
        {
            "eer": metrics.eer(curve),
            "auc": metrics.auc(curve),
            "min_dcf": metrics.min_dcf(curve, 0.01),
            "cllr": llr_metrics.cllr(own, others),
            "cllr_min": llr_metrics.cllr_min(own, others),
        }
    )
    n_tracks = 36 if kind == GENUINE else 24
    assert (targets.n_persons, targets.n_tracks, targets.n_abstained) == (12, n_tracks, 0)
    assert targets.n_nontarget_trials == len(others) == 72 * 11
    for figure in targets.figures.values():
        assert figure.low <= figure.value <= figure.high
        assert (figure.n_persons, figure.n_tracks) == (12, n_tracks)


def test_rates_at_thresholds_are_counted(scores, found):
    llrs = scores.llr(calibration().llr, calibration().near)
    own, _ = trials(scores)
    for point in found.budgets:
        threshold = Rule(calibration(), point.budget, 12).threshold(1).llr
        flagged = [
            any(llrs[i, j] >= threshold for j in range(12) if j != scores.track_person[i])
            for i in np.flatnonzero(~scores.is_clone)
        ]
        assert point.threshold == threshold
        assert point.fpir.value == pytest.approx(np.mean(flagged))
        assert (point.fpir.n_persons, point.fpir.n_tracks) == (12, 72)
        assert point.fnir[GENUINE].value == pytest.approx(np.mean(own < threshold))
        assert list(point.fnir) == [GENUINE, CLONES]
    assert [point.budget for point in found.budgets] == list(BUDGETS)


def test_galleries_grow_and_what_cannot_be_counted_is_left_out(scores):
    tail = {**level_tail(), "sizes": [1, 10**4], "galleries": [1.0, 1e4]}

    found = evaluate(scores, calibration(tail=tail), [0.01, 0.1])

    assert [point.n_artists for point in found.sizes] == sorted({*SIZES, 12})
    assert {point.budget for point in found.sizes} == {0.01}
    thresholds = [point.threshold for point in found.sizes]
    assert thresholds == sorted(thresholds) and thresholds[0] < thresholds[-1]
    missed = [point.fnir[GENUINE].value for point in found.sizes]
    assert missed == sorted(missed) and missed[0] < missed[-1]
    assert [point.n_artists for point in found.sizes if point.fpir is not None] == [1, 3, 10, 12]
    assert found.sizes[-1].decades_beyond > 1
    whole = next(point for point in found.sizes if point.n_artists == 12)
    assert whole == found.budgets[0]


def crowded_calibration(**changed):
    """One in six voices is near a voice, and one in six artists a track."""
    content = calibration(**changed).content
    return Calibration.from_dict(crowded(content, artist=1.0, track=1.0, cohort=2.0))


def times(near: list[bool], of_cohort: list[bool]) -> float:
    """log10 of how many times as many are near as are expected."""
    share = 1 - len(near) / 30  # of the cohort, which stands in for those who are missing to 30
    n_near, n_compared = sum(near) + share * sum(of_cohort), len(near) + share * len(of_cohort)
    return max(0.0, np.log10((n_near + 2.0) / (0.01 * n_compared + 2.0)))


def by_hand(scores: TrialScores) -> np.ndarray:
    """llr of each row with each model, one by one, by `crowded_calibration`; the model of who is heard is not there."""
    rows = np.empty(scores.norm.shape)
    for row, track in enumerate(scores.row_track):
        heard = int(scores.track_person[track])
        for j in range(rows.shape[1]):
            others = [k for k in range(rows.shape[1]) if k not in (j, heard)]
            with_cohort = [score >= 2.0 for score in scores.between.cohort[:, j]]
            of_artist = times([scores.between.others[k, j] >= 1.0 for k in others], with_cohort)
            of_track = times([scores.norm[row, k] >= 1.0 for k in others], [])
            rows[row, j] = round(float(scores.norm[row, j]) - of_artist - of_track, 2)
    return rows


def test_others_who_come_near_are_taken_off_with_everybody_enrolled_and_with_some():
    """Of all persons as one gallery the rates are those of the thresholds, to the last flag."""
    scores = make_scores(12, 6, 2, own=1.5)
    llrs = by_hand(scores)
    own = scores.track_person

    found = evaluate(scores, crowded_calibration(tail=level_tail(1.0)), [0.03])

    strangers = np.flatnonzero(~scores.is_clone)
    flagged = [max(llrs[i, j] for j in range(12) if j != own[i]) >= 1.0 for i in strangers]
    missed = [llrs[i, own[i]] < 1.0 for i in scores.targets(clones=False)]
    assert found.budgets[0].fpir.value == pytest.approx(np.mean(flagged)) and 0.05 < np.mean(flagged) < 0.95
    assert found.budgets[0].fnir[GENUINE].value == pytest.approx(np.mean(missed)) and np.mean(missed) > 0.0
    whole = next(point for point in found.sizes if point.n_artists == 12)
    assert whole == found.budgets[0]
    alone = next(point for point in found.sizes if point.n_artists == 1)
    plain = evaluate(scores, calibration(tail=level_tail(1.0)), [0.03])
    # Nobody else is there, but of the cohort some are near.
    assert alone.fpir.value < next(point for point in plain.sizes if point.n_artists == 1).fpir.value
    assert found.budgets[0].fpir.value < plain.budgets[0].fpir.value


@pytest.mark.parametrize("size", [1, 3, 10])
def test_with_fewer_artists_fewer_others_are_beside_a_tracks_own(size):
    """FNIR counted by hand: the artist stands in the place of the last of a gallery, if it is not among them."""
    scores = make_scores(12, 6, 2, own=1.5)

    found = evaluate(scores, crowded_calibration(tail=level_tail(1.0)), [0.03])

    missed = []
    for track in scores.targets(clones=False):
        (row,), own = np.flatnonzero(scores.row_track == track), int(scores.track_person[track])
        for gallery in random_galleries(12, size, N_GALLERIES).tolist():
            others = [voice for voice in gallery if voice != own][: size - 1]
            with_cohort = [score >= 2.0 for score in scores.between.cohort[:, own]]
            off = times([scores.between.others[voice, own] >= 1.0 for voice in others], with_cohort)
            off += times([scores.norm[row, voice] >= 1.0 for voice in others], [])
            missed.append(round(float(scores.norm[row, own]) - off, 2) < 1.0)
    (point,) = (point for point in found.sizes if point.n_artists == size)
    assert point.fnir[GENUINE].value == pytest.approx(np.mean(missed)) and 0.0 < np.mean(missed) < 1.0
    assert point.fnir[GENUINE].value < found.budgets[0].fnir[GENUINE].value


@pytest.mark.parametrize(("seed", "threshold"), [(1, 0.6), (29, 0.8), (29, 1.2), (29, 1.4), (29, 1.6)])
def test_of_everybody_as_one_gallery_the_rate_is_that_of_everybody(seed, threshold):
    """Of 29 some llrs reach the threshold only, or not at all, where they are rounded before crowding is taken off."""
    scores = make_scores(12, 6, seed=seed)

    found = evaluate(scores, crowded_calibration(tail=level_tail(threshold)), [0.03])

    assert next(point for point in found.sizes if point.n_artists == 12) == found.budgets[0]


def test_of_a_track_of_several_sections_each_is_crowded_by_itself(scores):
    """Others who come near another section than the best one take nothing off; rates are to the last flag."""
    sections = dataclasses.replace(
        scores,
        row_track=np.repeat(np.arange(96), 3),
        norm=np.random.default_rng(3).normal(0, 1, (288, 12)).astype(np.float32),
        accompaniment=np.zeros(288),
        n_sections=np.full(96, 3),
    )
    llrs = by_hand(sections).reshape(96, 3, 12).max(axis=1)
    own = scores.track_person

    found = evaluate(sections, crowded_calibration(tail=level_tail(1.0)), [0.03])

    threshold = Rule(calibration(tail=level_tail(1.0)), 0.03, 12).threshold(3).llr
    flagged = [max(llrs[i, j] for j in range(12) if j != own[i]) >= threshold for i in np.flatnonzero(~scores.is_clone)]
    assert found.budgets[0].fpir.value == pytest.approx(np.mean(flagged)) and 0.05 < np.mean(flagged) < 0.95
    assert next(point for point in found.sizes if point.n_artists == 12) == found.budgets[0]


def test_a_track_of_several_sections_has_to_reach_more():
    scores = make_scores(8, 4, own=2.3, spread=0.1)
    divided = dataclasses.replace(scores, n_sections=np.full(len(scores.paths), 50))

    once, often = evaluate(scores, calibration(), [0.03]), evaluate(divided, calibration(), [0.03])

    assert once.budgets[0].fnir[GENUINE].value < 0.1
    assert often.budgets[0].fnir[GENUINE].value == 1.0
    assert once.budgets[0].threshold == often.budgets[0].threshold  # that of a track of one section


def test_abstentions_are_missed_and_left_out_of_the_cost_of_llrs():
    scores = make_scores(10, 6)
    silent = scores.targets(clones=False)[::3]
    abstains = np.isin(np.arange(len(scores.paths)), silent)
    judged = dataclasses.replace(
        scores,
        abstains=abstains,
        row_track=np.flatnonzero(~abstains),
        norm=scores.norm[~abstains],
        accompaniment=scores.accompaniment[~abstains],
    )

    before, after = evaluate(scores, calibration(), [0.03]), evaluate(judged, calibration(), [0.03])

    targets = targets_of(after, GENUINE)
    assert (targets.n_abstained, targets.n_tracks, after.n_abstained) == (10, 30, 10)
    assert after.budgets[0].fnir[GENUINE].value >= 1 / 3 > before.budgets[0].fnir[GENUINE].value
    assert targets.figures["eer"].value > 0.3
    own, others = trials(judged)
    assert targets.figures["cllr"].value == pytest.approx(llr_metrics.cllr(own, others))
    assert targets.tippett.targets[0] == pytest.approx(2 / 3)


def test_all_that_abstain_give_no_figures():
    scores = make_scores(6, 4)
    nothing = np.ones(len(scores.paths), bool)
    silent = dataclasses.replace(
        scores, abstains=nothing, row_track=np.empty(0, int), norm=np.empty((0, 6)), accompaniment=np.empty(0)
    )

    found = evaluate(silent, calibration())

    assert (targets_of(found, GENUINE).too_few, targets_of(found, GENUINE).figures) == ("every track abstained", {})
    assert found.budgets[0].fnir[GENUINE].value == 1.0
    assert found.budgets[0].fpir.value == 0.0


def test_too_few_persons_get_no_rates():
    found = evaluate(make_scores(4, 6), calibration())

    assert found.too_few == "4 of at least 5 persons with recordings to enroll and others to test"
    assert (found.targets, found.budgets, found.sizes, found.persons, found.false_flags) == ([], [], [], [], [])
    assert (found.n_persons, found.n_tracks, found.n_stranger_tracks) == (4, 24, 24)
    assert (found.n_enrolled_tracks, found.n_tested) == (12, 12)
    assert "enrolled from 12 recordings, 12 other recordings of theirs tested" in evaluation_text(found)
    assert evaluation_text(found).endswith("no rates are given: " + found.too_few)


def test_a_kind_with_too_few_persons_has_only_its_counts():
    scores = make_scores(8, 4)
    is_clone = np.zeros(len(scores.paths), bool)
    is_clone[scores.targets(clones=False)[:3]] = True

    found = evaluate(dataclasses.replace(scores, is_clone=is_clone), calibration())

    clones = targets_of(found, CLONES)
    assert (clones.n_persons, clones.n_tracks, clones.figures) == (2, 3, {})
    assert clones.too_few == "2 of at least 5 persons with tracks of this kind (clones)"
    assert list(found.budgets[0].fnir) == [GENUINE]
    assert "no figures of clones: 2 of at least 5" in evaluation_text(found)


def test_recordings_from_a_source_that_is_new_are_also_a_kind_of_their_own():
    scores = make_scores(8, 6)
    new = np.zeros(len(scores.paths), bool)
    new[scores.targets(clones=False)[::2]] = True

    found = evaluate(dataclasses.replace(scores, is_new_source=new), calibration())

    assert [(each.kind, each.n_tracks) for each in found.targets] == [(GENUINE, 24), (NEW_SOURCE, 12)]


def test_persons_and_false_flags_are_named_the_worst_first():
    scores = make_scores(6, 4, own=9.0, spread=0.1)
    norm = scores.norm.copy()
    norm[2, 0] = 0.0  # a test of person 0 that is not found
    norm[4, [0, 5]] = 5.0, 6.0  # a recording of person 1 that was enrolled
    found = evaluate(dataclasses.replace(scores, norm=norm), calibration(), [0.03])

    assert found.false_flags == [FalseFlag("/music/4.wav", "person 001", "person 005", 6.0)]
    assert found.persons[:3] == [
        PersonRow("person 000", 2, 2, 1, 0, 0, 0, []),
        PersonRow("person 001", 2, 2, 0, 0, 0, 1, ["person 000", "person 005"]),
        PersonRow("person 002", 2, 2, 0, 0, 0, 0, []),
    ]


def test_the_record_is_json_without_what_json_has_no_word_for(found):
    record = found.as_dict()

    text = json.dumps(record, allow_nan=False)
    assert json.loads(text) == record
    assert record["targets"][0]["figures"]["eer"]["n_persons"] == 12
    assert None in record["targets"][0]["reliability"]["low"]  # minus infinity


# --- as text and rows -------------------------------------------------------------------------------------------------


def test_text_has_every_table_with_what_it_stands_on(found):
    lines = evaluation_text(found, [Unusable("/music/x\x1b.wav", "not_audio", "no decoder knows it")]).splitlines()

    assert lines[0] == (
        "12 persons, 96 recordings: 12 persons enrolled from 36 recordings, 36 other recordings of theirs tested, "
        "24 clones; 72 recordings of 12 persons tried with everybody else"
    )
    assert any(line.startswith("EER %") and line.count(" to ") == 2 for line in lines)
    counts = (
        "(FPIR of 12 persons, 72 tracks; FNIR genuine of 12 persons, 36 tracks; FNIR clones of 12 persons, 24 tracks)"
    )
    assert f"With more and more artists {counts}" in lines
    assert any(line.split()[:4] == ["3", "%", "12", "2.00"] for line in lines)
    assert "In brackets 95 % intervals over persons." in lines[-4]
    assert lines[-2:] == ["Not used:", "  /music/x\\x1b.wav: no decoder knows it"]


def test_rows_have_numbers_for_a_spreadsheet(found):
    rows = figure_rows(found)

    assert all(tuple(row) == FIGURE_COLUMNS for row in rows)
    first = rows[0]
    assert (first["figure"], first["of"], first["n_persons"], first["n_tracks"]) == ("EER %", GENUINE, 12, 36)
    assert first["value"] == pytest.approx(100 * targets_of(found, GENUINE).figures["eer"].value, abs=1e-4)
    assert {row["figure"] for row in rows} >= {"FPIR %", "FNIR %", "Cllr, bits", "minDCF (0.01)"}
    assert rows[-1]["at"] == "budget 3 %, 10,000 artists, llr 2.00"


def test_a_figure_without_an_interval_is_a_number():
    scores = make_scores(6, 4)
    figure = dataclasses.replace(evaluate(scores, calibration()).budgets[0].fpir, low=np.nan, high=np.nan, value=0.25)

    assert (figure_text(figure, 100.0, 1), figure_text(None, 100.0, 1)) == ("25.0", "")
