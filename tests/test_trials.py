"""The owner's recordings: what is listed, what is heard, who is enrolled, and that scores are the product's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from registry import scoring
from registry.crowding import NearLevels, artist_crowding, track_crowding
from registry.errors import ManifestError
from registry.llr import LlrModel
from registry.records import Unusable
from registry.scoring import prepare_cohort
from registry.trials import Recording, enrolled_half, hear, list_trials, score_trials
from tests.cli_fakes import write_csv
from tests.fakes import FakeEncoder, crowded, enroll_vectors, make_matcher, matches_without, singer
from tests.trial_fakes import Ears, calibration, heard, recording


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def the_cohort():
    cohort = FakeEncoder().cohort
    return prepare_cohort(cohort.vectors, cohort.person, cohort.condition)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_folder_has_one_folder_per_person(tmp_path):
    touch(tmp_path / "Ada/1.wav", tmp_path / "Ada/live/2.flac", tmp_path / "Bo/1.wav", tmp_path / "Bo/notes.txt")
    touch(tmp_path / "stray.wav")

    recordings, unusable = list_trials(tmp_path)

    assert recordings == [
        Recording(str(tmp_path / "Ada/1.wav"), "Ada", recording="Ada/1.wav"),
        Recording(str(tmp_path / "Ada/live/2.flac"), "Ada", recording="Ada/live/2.flac"),
        Recording(str(tmp_path / "Bo/1.wav"), "Bo", recording="Bo/1.wav"),
    ]
    reason = "lies in no person's folder; each person has one folder, named after the person"
    assert unusable == [Unusable(str(tmp_path / "stray.wav"), "no_person", reason)]


def test_a_manifest_says_whose_voice_what_kind_which_recording_and_where_from(tmp_path):
    rows = [
        ["path", "person", "kind", "recording", "source", "mood"],
        ["a.wav", " Ada ", "", "song 1", "studio", "glad"],
        ["/far/b.wav", "Ada", "voice", "", "", ""],
        ["c.wav", "Ada", "clone", "", "", ""],
        ["", "Bo", "", "", "", ""],
    ]
    as_json = tmp_path / "trials.jsonl"
    as_json.write_text("".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:]))

    recordings, unusable = list_trials(write_csv(tmp_path / "trials.csv", rows))

    assert recordings == [
        Recording(str(tmp_path / "a.wav"), "Ada", False, "song 1", "studio"),
        Recording("/far/b.wav", "Ada", False, "/far/b.wav", None),
        Recording(str(tmp_path / "c.wav"), "Ada", True, "c.wav", None),
    ]
    assert unusable == [Unusable(f"{tmp_path / 'trials.csv'}, line 5", "missing", "this row has no `path`")]
    assert list_trials(as_json)[0] == recordings


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"path": "a.wav"}, "line 1: no `person`; whose voice the recording carries or imitates is needed"),
        ({"path": "a.wav", "person": " "}, "line 1: no `person`"),
        ({"path": "a.wav", "person": 7}, "line 1: `person` is 7, not text"),
        ({"path": 7, "person": "Ada"}, "line 1: `path` is 7, not text"),
        ({"path": "a.wav", "person": "Ada", "kind": "cover"}, "line 1: `kind` is 'cover'; voice or clone is meant"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path, row, reason):
    manifest = tmp_path / "trials.jsonl"
    manifest.write_text(json.dumps(row))

    with pytest.raises(ManifestError, match=reason):
        list_trials(manifest)


def test_what_is_neither_folder_nor_manifest_is_refused(tmp_path):
    touch(tmp_path / "a.wav")

    with pytest.raises(ManifestError, match=r"neither a folder, .* nor a manifest \(.csv, .jsonl, .ndjson\)"):
        list_trials(tmp_path / "a.wav")
    with pytest.raises(ManifestError, match="there is no such folder or manifest"):
        list_trials(tmp_path / "gone")


def test_bad_files_and_sounds_that_are_there_twice_come_back_with_the_reason(monkeypatch):
    ears = Ears()
    ears.add("1.wav", singer(0))
    ears.add("copy.wav", singer(0), content="1.wav")
    ears.add("stolen.wav", singer(0), content="1.wav")
    monkeypatch.setattr("registry.trials.embed_file", ears.embed_file)
    seen = []

    listed = [recording(name, "Ada") for name in ("1.wav", "bad.wav", "copy.wav")]
    used, unusable = hear([*listed, recording("stolen.wav", "Bo")], FakeEncoder(), on_recording=lambda: seen.append(1))

    assert [item.recording.path for item in used] == ["/music/1.wav"]
    assert unusable == [
        Unusable("/music/bad.wav", "not_audio", "not audio"),
        Unusable("/music/copy.wav", "duplicate", "the same sound as /music/1.wav, which is used"),
        Unusable("/music/stolen.wav", "duplicate", "the same sound as /music/1.wav of Ada; whose voice is it?"),
    ]
    assert len(seen) == 4


# --- who is enrolled --------------------------------------------------------------------------------------------------


def test_half_of_the_recordings_are_enrolled_and_always_the_same():
    listed = [recording(f"{i}.wav", person) for person, n in (("Ada", 5), ("Bo", 4), ("Cy", 1)) for i in range(n)]

    chosen = enrolled_half(listed)

    assert chosen == enrolled_half(listed[::-1])
    assert sorted(person for person, _ in chosen) == ["Ada", "Ada", "Bo", "Bo"]


def test_clips_of_one_recording_stay_together_and_clones_are_never_enrolled():
    listed = [recording(f"{i}.wav", "Ada", recording=f"song {i // 3}") for i in range(6)]
    listed += [recording("clone.wav", "Ada", is_clone=True)]

    (chosen,) = enrolled_half(listed)

    assert chosen[1] in {"song 0", "song 1"}


# --- scoring ----------------------------------------------------------------------------------------------------------


def some_heard():
    """Three persons with four songs each, and a clone of the first."""
    items = [
        heard(f"{axis}-{song}.wav", f"person {axis}", singer(axis, spread=0.25, seed=10 * axis + song))
        for axis in range(3)
        for song in range(4)
    ]
    return [*items, heard("clone.wav", "person 0", singer(0, spread=0.5, seed=99), is_clone=True)]


@pytest.mark.parametrize("near", [NearLevels(), NearLevels(artist=-1.0, track=-0.5)])
def test_scores_are_those_that_the_registry_decides_by(store, encoder, near):
    """Own with everybody enrolled; others as if a stranger were heard: as it is without the person who is heard."""
    encoder.calibration = crowded(encoder.calibration, near.artist, near.track)
    items = [*some_heard(), heard("stranger.wav", "Cy", singer(1, spread=0.9, seed=77))]

    scores = score_trials(items, the_cohort())

    for i in np.flatnonzero(scores.is_enrolled):
        enroll_vectors(
            store, encoder, items[i].recording.person, items[i].voice.vectors, content=items[i].recording.path
        )
    matcher, _ = make_matcher(store, encoder)
    llrs = scores.llr(matcher.calibration.llr, matcher.calibration.near)
    for i, item in enumerate(items):
        person = item.recording.person
        matched = {match.artist: match for match in matcher.match(item.voice)}
        if person in matched:
            matched = {**matches_without(store, matcher, person, item.voice), person: matched[person]}
        assert {name: match.llr for name, match in matched.items()} == {
            scores.persons[person]: pytest.approx(llrs[i, column], abs=0.011)
            for column, person in enumerate(scores.model_person)
        }
    crowding = scores.measured(matcher.calibration.llr, near)[..., 2:]
    assert (crowding.any(axis=(0, 1)) == (near != NearLevels())).all()  # there is crowding of either kind, or none


def test_measures_have_crowding_with_all_models_but_that_of_the_person_heard():
    items = [*some_heard(), heard("stranger.wav", "Cy", singer(1, spread=0.9, seed=77))]
    model, near = LlrModel((2.0, 0.0, -1.0, -1.0), 0.5), NearLevels(artist=-1.0, track=-1.0, cohort=1.0)
    scores = score_trials(items, the_cohort())

    measured = scores.measured(model, near)

    assert measured.shape == (14, 3, 4)
    np.testing.assert_array_equal(measured[..., 0], scores.norm)
    np.testing.assert_array_equal(measured[..., 1], np.tile(scores.accompaniment[:, None], 3))
    llrs = 2.0 * scores.norm.astype(float) + 0.5
    for row, own in enumerate(scores.own_model.tolist()):
        others = [column for column in range(3) if column != own]
        between = scores.between.select(np.array(others), np.array(others))
        assert measured[row, others, 2] == pytest.approx(artist_crowding(between, near))
        assert measured[row, others, 3] == pytest.approx(track_crowding(llrs[row : row + 1, others], -1.0)[0])
        if own >= 0:  # and of the own model all others
            assert measured[row, own, 2] == pytest.approx(artist_crowding(scores.between, near)[own])
            assert measured[row, own, 3] == pytest.approx(track_crowding(llrs[row : row + 1], -1.0)[0, own])
    assert np.isneginf(np.diag(scores.between.others)).all() and np.isfinite(scores.between.others).sum() == 6
    assert np.isfinite(scores.between.cohort).all() and (scores.between.cohort >= 1.0).any()
    plain = scores.measured(model, NearLevels())
    assert not plain[..., 2:].any() and measured[..., 2].any() and measured[..., 3].any()


def test_targets_are_tests_with_their_own_and_strangers_all_genuine_recordings():
    scores = score_trials(some_heard(), the_cohort())

    assert scores.persons == ("person 0", "person 1", "person 2")
    assert scores.is_enrolled.sum() == 6
    assert np.array_equal(scores.targets(clones=False), np.flatnonzero(~scores.is_enrolled[:12]))
    assert scores.targets(clones=True).tolist() == [12]
    assert np.array_equal(scores.strangers(), np.arange(12))
    assert np.array_equal(scores.compared()[4], [True, False, True])


def test_who_has_one_recording_is_a_stranger_only():
    scores = score_trials([*some_heard(), heard("cy.wav", "Cy", singer(5))], the_cohort())

    (cy,) = np.flatnonzero(scores.track_person == scores.persons.index("Cy"))
    assert scores.own_model[cy] == -1
    assert cy in scores.strangers()
    assert cy not in scores.targets(clones=False)
    assert scores.compared()[cy].all()


def test_a_recording_with_too_little_voice_is_no_part_of_anybody_and_reaches_nothing():
    quiet = [heard(f"quiet {i}.wav", "Cy", singer(0), voiced_s=1.0) for i in range(4)]

    scores = score_trials([*some_heard(), *quiet], the_cohort())

    assert scores.persons[scores.track_person[-1]] == "Cy"
    assert (scores.own_model[-4:] == -1).all()
    assert np.isneginf(scores.llr(calibration().llr, NearLevels())[scores.abstains]).all()


def test_a_long_recording_is_scored_by_sections_and_has_its_best(monkeypatch):
    monkeypatch.setattr(scoring, "SECTION_S", 40.0)
    both = np.concatenate([singer(0, 17, seed=70), singer(1, 17, seed=71)])  # 70 s: two sections
    items = [*some_heard(), heard("medley.wav", "somebody", both)]

    scores = score_trials(items, the_cohort())

    rows = scores.norm[scores.row_track == 13]
    assert (scores.n_sections[13], len(rows)) == (2, 2)
    llrs = scores.llr(calibration().llr, NearLevels())[13]
    assert np.allclose(llrs, np.round(rows, 2).max(axis=0), atol=1e-6)
    assert (rows[0, 0] > rows[1, 0]) and (rows[0, 1] < rows[1, 1])


def test_a_source_that_nothing_enrolled_comes_from_is_new():
    def song(i, source):
        return heard(f"{i}.wav", "Ada", singer(0, seed=i), source=source, recording=str(i))

    enrolled = {name for _, name in enrolled_half([recording(f"{i}.wav", "Ada", recording=str(i)) for i in range(4)])}
    items = [song(i, "studio" if str(i) in enrolled else "stage") for i in range(4)]
    unknown = [song(i, None) if str(i) in enrolled else song(i, "stage") for i in range(4)]

    assert score_trials(items, the_cohort()).is_new_source.sum() == 2
    assert not score_trials(unknown, the_cohort()).is_new_source.any()  # it may be the same


def test_nothing_heard_is_nothing_to_score():
    scores = score_trials([], the_cohort())

    model, near = calibration().llr, NearLevels(0.0, 0.0)
    assert scores.llr(model, near).shape == (0, 0)
    assert scores.measured(model, near).shape == (0, 0, 4)
    only_one = score_trials([heard("a.wav", "Ada", singer(0))], the_cohort())
    assert only_one.llr(model, near).shape == (1, 0)
