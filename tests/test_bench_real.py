"""The bench scores trials as the registry does, the threshold keeps its budget, and what is written is sound."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

import fit_builtin
import trial_vectors
from bench_real import Row, decision_rows, print_table, share_estimate, thin_out, verification_rows
from make_trials import SUNG_CORPORA, Clip, Model, Test, TrialSet, build_trials
from populations import Population
from trial_audio import RATE_HZ, AudioItem
from trial_vectors import House, ItemVectors, ShippedScores, all_windows, code_without_words, embed_items

from embeddings.model_dir import check_sums, write_sums
from registry import metrics, scoring
from registry.calibration import DEFAULT_BUDGET, Calibration, together
from registry.crowding import Between, NearLevels, artist_crowding, track_crowding
from registry.llr import LlrModel
from registry.tail import fit_tail, threshold_for
from tests.fakes import (
    FakeEncoder,
    crowded,
    enroll_vectors,
    fake_cohort,
    make_matcher,
    make_voiceprint,
    matches_without,
    singer,
)


def _trial_set(name: str, models: dict[str, list[str]], tests: list[tuple[str, str, str]]) -> TrialSet:
    """Models: person -> sounds. Tests: (sound, person, role). Each sound is a recording of its own."""
    clips: dict[str, Clip] = {}
    for person, paths in models.items():
        clips |= {path: Clip(path, person, "songs", path, "a site", 10.0) for path in paths}
    for path, person, _ in tests:
        clips[path] = Clip(path, person, "songs", path, "a site", 10.0)
    number = {path: i for i, path in enumerate(clips)}
    return TrialSet(
        name=name,
        fold="A",
        seed=1,
        scope="all",
        rule="",
        manifests={},
        clips=tuple(clips.values()),
        models=tuple(Model(person, tuple(number[path] for path in paths)) for person, paths in models.items()),
        tests=tuple(Test(number[path], role, AudioItem(path)) for path, _, role in tests),
    )


def _item(vectors: np.ndarray, voiced_s: float = 20.0) -> ItemVectors:
    return ItemVectors(vectors, np.ones(len(vectors), np.float32), voiced_s, 20.0, fell_back=voiced_s == 0)


def _search(name: str = "strangers-sung") -> tuple[TrialSet, dict[str, ItemVectors]]:
    """Five artists with a song enrolled and one to be found; six strangers, and one with hardly any voice."""
    artists = {f"artist {i}": [f"{i}-enrolled.wav"] for i in range(5)}
    tests = [(f"{i}-other.wav", f"artist {i}", "mate") for i in range(5)]
    tests += [(f"stranger-{i}.wav", f"stranger {i}", "stranger") for i in range(6)]
    tests += [("quiet.wav", "stranger 6", "stranger")]
    vectors = {f"{i}-enrolled.wav": _item(singer(i, 20, seed=i)) for i in range(5)}
    vectors |= {f"{i}-other.wav": _item(singer(i, 9, spread=0.4, seed=50 + i)) for i in range(5)}
    vectors |= {f"stranger-{i}.wav": _item(singer(7, 9, spread=1.0, seed=90 + i)) for i in range(6)}
    vectors["quiet.wav"] = _item(singer(0, 1), voiced_s=0.4)
    return _trial_set(name, artists, tests), vectors


# --- scoring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", [NearLevels(), NearLevels(artist=-1.0, track=-0.7)])
def test_shipped_scores_are_what_the_registry_reports(store, encoder, near):
    """With a cohort that says what is over music, and an llr that weighs it; of others as if a stranger were heard."""
    condition = np.where(np.arange(48) % 3 == 0, "sung+music", "sung")
    encoder.cohort = replace(fake_cohort(), condition=condition)
    weights = {"norm_score": 0.8, "accompaniment": 5.0}
    encoder.calibration["llr"] = {"weights": weights, "intercept": -0.7}
    encoder.calibration = crowded(encoder.calibration, near.artist, near.track)
    trials, vectors = _search()
    for person, (path,) in zip(trials.model_persons(), trials.model_keys(), strict=True):
        enroll_vectors(store, encoder, person, vectors[path].vectors)
    matcher, _ = make_matcher(store, encoder)
    cohort = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person, condition)

    scores = trial_vectors.shipped_scores(trials, vectors, cohort)

    model = LlrModel((0.8, 5.0, -1.0, -1.0), -0.7)
    llrs, measured = scores.llr(model, near), scores.measured(model, near)
    assert np.abs(scores.accompaniment).max() > 0.05
    assert measured.shape == scores.plain.shape == (12, 5, 4)
    for i, (path, person) in enumerate(zip(trials.test_keys(), trials.test_persons(), strict=True)):
        voiceprint = make_voiceprint(vectors[path].vectors, path)
        matches = {match.artist: match for match in matcher.match(voiceprint)}
        if person in matches:
            matches = {**matches_without(store, matcher, person, voiceprint), person: matches[person]}
        reported = [matches[artist] for artist in trials.model_persons()]
        assert [match.norm_score for match in reported] == np.round(scores.norm[i], 3).tolist()
        assert [match.llr for match in reported] == llrs[i].tolist()
        plain = [[norm, scores.accompaniment[i], 0.0, 0.0] for norm in scores.norm[i]]
        assert scores.plain[i].tolist() == plain
        assert measured[i, :, :2].tolist() == [row[:2] for row in plain]
    assert (measured[..., 2:] > 0).any(axis=(0, 1)).tolist() == [near != NearLevels()] * 2
    assert scores.abstains.tolist() == [False] * 11 + [True]


def test_nothing_is_known_of_others_by_any_of_the_models_of_who_is_heard():
    """Where a set enrolls somebody in two ways, others are crowded by neither, and neither crowds the other."""
    trials, vectors = _search()
    twice = replace(trials, models=(*trials.models, trials.models[0]))
    near, model = NearLevels(artist=-1.0, track=-1.0, cohort=1.0), LlrModel((1.0, 0.0, -1.0, -1.0), 0.0)
    cohort = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person)

    scores = trial_vectors.shipped_scores(twice, vectors, cohort)

    between, place = scores.between, scores.own_voice.tolist()
    assert len({*place}) == 5 and place[0] == place[5] == scores.heard[0]
    assert scores.heard[:5].tolist() == place[:5] and (scores.heard[5:] == -1).all()
    assert np.isneginf(between.others[scores.own_voice, np.arange(6)]).all() and np.isfinite(between.others).sum() == 24
    assert between.cohort.shape == (24, 6) and (between.cohort >= 1.0).any()
    measured = scores.measured(model, near)
    others = np.arange(1, 5)
    rest = scores.own_voice[others]
    assert measured[0, others, 2] == pytest.approx(artist_crowding(between.select(rest, others), near))
    assert measured[0, others, 3] == pytest.approx(track_crowding(scores.norm[:1, others], -1.0)[0])
    for own in (0, 5):
        of_own = artist_crowding(between.select(rest, np.array([own])), near)
        assert measured[0, own, 2] == pytest.approx(of_own[0])
        near_track = track_crowding(scores.norm[:1, others], -1.0, own=np.array([-1]))[0, 0]
        assert measured[0, own, 3] == pytest.approx(near_track)
    # Of somebody else, the two ways in which one person is enrolled count as one voice.
    assert measured[1, 1, 3] == pytest.approx(track_crowding(scores.norm[1:2, :5], -1.0)[0, 1])
    assert measured[1, 1, 2] == pytest.approx(artist_crowding(between.select(np.arange(5), np.array([1])), near)[0])


def test_artists_of_the_search_are_enrolled_beside_those_of_a_smaller_set():
    """They crowd as if they were models of the set itself, and nothing is compared with them; nobody counts twice."""
    trials, vectors = _search()
    small = replace(trials, name="small", models=trials.models[:2])
    near, model = NearLevels(artist=-1.0, track=-1.0, cohort=1.0), LlrModel((1.0, 0.0, -1.0, -1.0), 0.0)
    cohort = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person)

    found = trial_vectors.score_sets({"strangers-sung": trials, "small": small}, vectors, cohort)

    alone = trial_vectors.shipped_scores(small, vectors, cohort)
    whole = found["strangers-sung"].measured(model, near)
    np.testing.assert_allclose(found["small"].measured(model, near), whole[:, :2], atol=1e-6)
    np.testing.assert_array_equal(found["small"].norm, alone.norm)
    assert found["small"].crowd.shape == found["strangers-sung"].crowd.shape == (12, 5)
    assert alone.crowd.shape == (12, 2)
    assert (
        (found["small"].measured(model, near)[..., 2:] != alone.measured(model, near)[..., 2:]).any(axis=(0, 1)).all()
    )


def test_models_are_enrolled_without_clips_that_have_too_little_voice():
    trials = _trial_set("x", {"a": ["good.wav", "quiet.wav"], "b": ["silent.wav"]}, [("t.wav", "a", "real")])
    vectors = {
        "good.wav": _item(singer(0, 12)),
        "quiet.wav": _item(singer(5, 12), voiced_s=1.0),
        "silent.wav": _item(singer(3, 2), voiced_s=0.0),
        "t.wav": _item(singer(0)),
    }

    gallery = trial_vectors.enroll_models(trials, vectors)

    assert np.abs(gallery.vectors[: gallery.starts[1], 5]).max() < 0.5  # nothing of the quiet clip
    assert gallery.vectors[gallery.starts[1] :, 3].min() > 0.9  # nothing else there, so it is used all the same
    assert gallery.n_voiceless == 1


def test_mean_scores_count_each_sound_of_a_model_alike():
    trials = _trial_set("x", {"a": ["long.wav", "short.wav"]}, [("t.wav", "a", "real")])
    axes = np.eye(8, dtype=np.float32)
    vectors = {"long.wav": _item(axes[[0] * 30]), "short.wav": _item(axes[[1]]), "t.wav": _item(axes[[1]])}

    assert trial_vectors.mean_scores(trials, vectors).tolist() == [[pytest.approx(0.5**0.5)]]


# --- embedding once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path, voice_like):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for i, duration_s in enumerate((3.0, 9.5, 4.0)):
        soundfile.write(folder / f"{i}.wav", voice_like(duration_s, seed=i), RATE_HZ)
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(7 * RATE_HZ)
    soundfile.write(folder / "hiss.wav", hiss, RATE_HZ)
    return folder, {path.name: AudioItem(path.name) for path in sorted(folder.glob("*.wav"))}


def test_sounds_are_embedded_as_files_are_and_only_once(recordings, tmp_path, capsys):
    from embeddings.extract import embed_file

    folder, items = recordings
    encoder = FakeEncoder()
    first = embed_items(folder, items, House(encoder), tmp_path / "cache")
    n_embedded = encoder.n_embedded
    again = embed_items(folder, items, House(encoder), tmp_path / "cache")

    assert encoder.n_embedded == n_embedded
    assert "4 of 4 embedded" in capsys.readouterr().err
    for name in ("0.wav", "1.wav", "2.wav"):
        voiceprint = embed_file(folder / name, encoder)
        np.testing.assert_allclose(first[name].vectors, voiceprint.vectors, atol=1e-3)  # files hold 16 bits
        np.testing.assert_array_equal(again[name].vectors, first[name].vectors)
        assert (first[name].voiced_s, first[name].fell_back) == (voiceprint.voiced_s, False)
    assert first["hiss.wav"].fell_back
    assert first["hiss.wav"].abstains
    assert len(first["hiss.wav"].vectors) == 3  # 0, 2 and 3 s


def test_another_encoder_or_another_mixing_rule_embeds_anew(recordings, tmp_path, monkeypatch):
    folder, items = recordings
    encoder = FakeEncoder()
    embed_items(folder, items, House(encoder), tmp_path / "cache")
    n_once = encoder.n_embedded

    monkeypatch.setattr(trial_vectors, "MIXING_RULE", "another")
    embed_items(folder, items, House(encoder), tmp_path / "cache")
    assert encoder.n_embedded == 2 * n_once
    encoder.encoder_id = "e" * 64
    embed_items(folder, items, House(encoder), tmp_path / "cache")
    assert encoder.n_embedded == 3 * n_once


def test_code_is_the_same_under_other_words_and_another_under_another_number():
    source = '"""What."""\n#: Why.\nA = 1\ndef f():\n    """How."""\n    return A\n'

    assert code_without_words(source) == code_without_words("A = 1\ndef f():\n    return A  # because\n")
    assert code_without_words(source) != code_without_words(source.replace("1", "2"))


def test_all_windows_cover_a_sound_to_its_end():
    windows = all_windows(np.arange(round(9.5 * RATE_HZ), dtype=np.float32), 4.0, 2.0)

    assert (windows[:, 0] / RATE_HZ).tolist() == [0.0, 2.0, 4.0, 5.5]
    assert all_windows(np.zeros(100, np.float32), 4.0, 2.0).shape == (1, 100)


# --- the threshold ----------------------------------------------------------------------------------------------------


def test_groups_of_strangers_weigh_the_same_in_the_budget():
    small, large = np.arange(10) / 10, np.full(1000, -1.0)

    point = fit_builtin.budget_point([small, large], budget=0.1)

    # Two of ten tracks are a tenth of the weight of two equal groups.
    assert point.threshold == np.nextafter(0.7, 1)
    assert point.fpir == pytest.approx(0.1)


def _all_sets() -> tuple[dict[str, TrialSet], dict[str, ItemVectors]]:
    """Every set that `fit` wants; the sounds are the same ones each time."""
    trials, vectors = _search()
    sets = {name: _search(name)[0] for name in (*fit_builtin.STRANGER_SETS, *fit_builtin.ONLY_COUNTED)}
    verified = _trial_set(
        "mix-mir1k",
        dict(zip(trials.model_persons(), trials.model_keys(), strict=True)),
        [(f"{i}-other.wav", f"artist {i}", "real") for i in range(5)],
    )
    return {**sets, **dict.fromkeys(("mix-mir1k", "clone-singing", fit_builtin.SPEECH), verified)}, vectors


def _population() -> Population:
    """Sixty strangers, each heard twice, against twelve voices: norm_scores that are noise."""
    n_strangers, n_voices = 60, 12
    rng = np.random.default_rng(5)
    between = Between(*(rng.normal(0, 1, (n, n_voices)).astype(np.float32) for n in (n_voices, 50)))
    np.fill_diagonal(between.others, -np.inf)
    person = np.repeat([f"stranger {i}" for i in range(n_strangers)], 2)
    return Population(
        voices=[f"voice {k}" for k in range(n_voices)],
        sings=np.arange(n_voices) < 5,
        norm=np.random.default_rng(4).normal(0, 1, (len(person), n_voices)),
        compared=np.ones((len(person), n_voices), bool),
        accompaniment=np.zeros(len(person)),
        between=between,
        abstains=np.zeros(len(person), bool),
        person=person,
        condition=np.tile(["sung alone 10 s", "sung +0db 10 s"], n_strangers),
    )


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    sets, vectors = _all_sets()
    return fit_builtin.fit(sets, vectors, fake_cohort(), _population())


def test_what_is_fitted_is_a_calibration_whose_thresholds_are_those_of_its_tail(fitted):
    calibration = Calibration.from_dict({"encoder_id": "e", "cohort_id": "c", **fitted})

    assert [(point["budget"], point["threshold"]) for point in fitted["operating_points"]] == [
        (budget, round(threshold_for(calibration.tail, budget, 5), 3)) for budget in fit_builtin.BUDGETS_FPIR
    ]
    # Five artists' own tracks, one each: a fifth of the ranks that are kept is of each.
    for point in fitted["operating_points"]:
        missed = {probe: round(100 * share, 1) for probe, share in calibration.missed(point["threshold"]).items()}
        assert missed == point["fnir_pct"]
    assert calibration.misfit("e", "c") is None
    assert calibration.tail == _population().fit_tail(calibration.llr, calibration.near)
    assert calibration.tail == fit_tail(
        _population().llr(calibration.llr),
        *_population().codes(),
        first=_population().sings,
        together=together(_population().between, calibration.llr, calibration.near),
        source=np.zeros(120, np.int64),
    )
    # Of 132 pairs of voices two are one in a hundred, of 600 with the cohort six or seven by floats, of 1,440 of a
    # track and a voice fifteen.
    assert (_population().between.others >= calibration.near.artist).sum() == 2
    assert (_population().between.cohort >= calibration.near.cohort).sum() in (6, 7)
    assert (_population().llr(calibration.llr) >= calibration.near.track).sum() == 15
    json.dumps(fitted)


def test_the_fit_counts_who_is_flagged_and_who_abstains(fitted):
    sets, vectors = _all_sets()
    prepared = scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person)
    scores = trial_vectors.shipped_scores(sets["strangers-sung"], vectors, prepared)
    llrs = scores.llr(LlrModel.from_dict(fitted["llr"]), NearLevels.from_dict(fitted["near"]))
    (threshold,) = [point["threshold"] for point in fitted["operating_points"] if point["budget"] == DEFAULT_BUDGET]
    n_flagged = int((llrs[5:11].max(axis=1) >= threshold).sum())  # the eleventh abstains, and counts

    assert [(row["group"], row["persons"], row["tracks"]) for row in fitted["strangers"]] == [
        (name, 7, 7) for name in (*fit_builtin.STRANGER_SETS, *fit_builtin.ONLY_COUNTED)
    ]
    assert [row["flagged_pct"] for row in fitted["strangers"]] == [round(100 * n_flagged / 7, 2)] * 6
    assert [row["abstained_pct"] for row in fitted["strangers"]] == [14.3] * 6
    assert fitted["llr"]["weights"]["norm_score"] > 0 == fitted["llr"]["weights"]["accompaniment"]
    assert len(fitted["variants"]) == 7


def test_parts_of_a_mixture_and_persons_imitated_weigh_the_same_whatever_their_size():
    """A part three times over, and one person's clones many times over, change nothing but for the ridge's little."""
    sets, _ = _all_sets()
    rng = np.random.default_rng(8)
    between = np.where(np.eye(5, dtype=bool), -np.inf, 0.0)
    between[1:4, 0] = between[4, 2] = 9.0  # three others are near the first, one is near the third
    of_cohort = rng.normal(0, 1, (10, 5))
    shipped = {}
    for k, (name, trials) in enumerate(sets.items()):
        norm, music = rng.normal(k % 3, 1.0, (len(trials.tests), 5)), rng.normal(k % 3, 1.0, len(trials.tests))
        if name in {*fit_builtin.PROBES.values(), fit_builtin.SPEECH}:
            norm[np.arange(5), np.arange(5)] += [2.0] * 4 + [0.5]  # the fifth is hard to tell
            music[:5] += 0.5
        shipped[name] = ShippedScores(
            norm,
            norm,
            music,
            np.zeros(len(trials.tests), bool),
            norm,
            Between(between, of_cohort),
            np.arange(5),
            np.where(np.arange(len(trials.tests)) < 5, np.arange(len(trials.tests)), -1),
        )
    fold = fit_builtin.FoldScores(sets, {name: np.zeros(len(trials.tests), bool) for name, trials in sets.items()})

    def fit_again(name: str, rows: list[int]) -> LlrModel:
        """With these tests of one set in the place of its own."""
        trials = replace(sets[name], tests=tuple(sets[name].tests[row] for row in rows))
        some = fit_builtin.FoldScores({**sets, name: trials}, {**fold.abstains, name: np.zeros(len(rows), dtype=bool)})
        scores = shipped[name]
        part = replace(
            scores,
            norm=scores.norm[rows],
            accompaniment=scores.accompaniment[rows],
            crowd=scores.crowd[rows],
            heard=scores.heard[rows],
            abstains=scores.abstains[rows],
        )
        return fit_builtin.fit_mixture(some, {**shipped, name: part}, _population())[0]

    once, near = fit_builtin.fit_mixture(fold, shipped, _population())
    crowding = np.concatenate([scores.measured(once, near)[..., 2:].reshape(-1, 2) for scores in shipped.values()])
    assert (crowding > 0).any(axis=0).all()
    for name, rows in (
        ("mix-mir1k", [*range(5)] * 3),
        ("strangers-spoken", [*range(12)] * 3),
        ("clone-singing", [*range(5), *[4] * 30]),
        (fit_builtin.SPEECH, [*range(5)] * 3),
    ):
        again = fit_again(name, rows)
        assert (*again.weights, again.intercept) == pytest.approx((*once.weights, once.intercept), rel=2e-3), name
    speech = fit_again(fit_builtin.SPEECH, [*range(5), *[4] * 30])  # in slope and intercept only
    assert abs(speech.weights[0] - once.weights[0]) > 0.01 * once.weights[0]
    assert speech.weights[1] / speech.weights[0] == pytest.approx(once.weights[1] / once.weights[0], rel=1e-9)
    other = fit_again("mix-mir1k", [*range(5), *[4] * 30])  # singers of mixes count by their tracks
    assert abs(other.weights[0] - once.weights[0]) > 0.01 * once.weights[0]


def test_llrs_of_what_is_found_are_kept_at_even_ranks_with_abstentions_lowest():
    trials, _ = _search()
    fold = fit_builtin.FoldScores(dict.fromkeys(fit_builtin.PROBES.values(), trials), {})
    fold.abstains.update({name: np.arange(12) == 1 for name in fold.sets})
    table = np.zeros((12, 5))
    table[np.arange(5), np.arange(5)] = [3.004, 9.0, 1.0, 2.0, 4.0]  # artist 1's own track abstains

    found = fit_builtin.found_llrs(fold, dict.fromkeys(fold.sets, table))

    assert found == {
        probe: [*[None] * 10, *[1.0] * 10, *[2.0] * 10, *[3.0] * 10, *[4.0] * 10] for probe in fit_builtin.PROBES
    }


def test_the_card_holds_one_section_however_often_it_is_written(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# A model\n", encoding="utf-8")
    section = "\n".join([fit_builtin.CARD_BEGIN, "threshold 1", fit_builtin.CARD_END])

    fit_builtin.write_card(card, section)
    card.write_text(card.read_text(encoding="utf-8") + "\nLicence.\n", encoding="utf-8")
    fit_builtin.write_card(card, section.replace("1", "2"))

    assert card.read_text(encoding="utf-8") == f"# A model\n\n{section.replace('1', '2')}\n\nLicence.\n"


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_share_of_none_has_the_exact_interval_over_persons():
    flags, persons = np.zeros(300, bool), np.repeat(np.arange(30), 10)

    value, low, high = share_estimate(flags, persons, 100)

    assert (value, low) == (0.0, 0.0)
    assert high == pytest.approx(100 * (1 - 0.025 ** (1 / 30)), abs=0.01)  # 11.6 %, not the 1.2 % of 300 tracks


def test_a_share_by_person_counts_persons_and_not_tracks():
    flags, persons = np.array([True] * 9 + [False]), np.array(["a"] * 9 + ["b"])

    assert share_estimate(flags, persons, 100)[0] == 90.0
    assert share_estimate(flags, persons, 100, by_person=True)[0] == 50.0


def test_the_lower_part_counts_flags_and_abstentions(capsys):
    trials, _ = _search()
    llrs = np.zeros((12, 5))
    llrs[0, 0], llrs[1, 2], llrs[5, 3], llrs[11, 0] = 9, 9, 9, 9  # found; another's; a stranger; one that abstains
    nothing = np.zeros((12, 5))  # of the scores that the llrs were made of
    shipped = ShippedScores(
        *(nothing, nothing, nothing[:, 0], np.arange(12) == 11),
        *(nothing, Between(nothing[:5], nothing[:5]), np.arange(5), np.full(12, -1)),
    )
    sets = dict.fromkeys((*fit_builtin.STRANGER_SETS, "strangers-mixes", "instrumentals", "mix-mir1k"), trials)
    sets |= dict.fromkeys(("clone-singing", "clone-speech"), trials)

    rows = decision_rows(sets, dict.fromkeys(sets, shipped), dict.fromkeys(sets, llrs), threshold=5.0, n_resamples=50)

    value = {(row.trials, row.metric): (row.value, row.n) for row in rows}
    assert value["mates-sung", "flagged_pct"] == (20.0, 5)
    assert value["strangers-sung", "flagged_pct"] == (pytest.approx(100 / 7, abs=0.01), 7)
    assert value["strangers-sung", "abstained_pct"] == (pytest.approx(100 / 7, abs=0.01), 7)
    assert value["clone-speech/same-site/by-target", "flagged_pct"] == (20.0, 5)
    print_table(rows, ["house+norm"], "")
    assert "mates-sung" in capsys.readouterr().out


@pytest.mark.audio
def test_the_quick_part_of_every_set_still_has_both_kinds_of_trial(audio_root):
    for fold in "AB":
        sets = {name: thin_out(trials) for name, trials in build_trials(audio_root, fold).items()}
        rng = np.random.default_rng(0)
        tables = {name: rng.random((len(t.tests), len(t.models))) for name, t in sets.items()}

        rows = verification_rows(sets, "chance", tables, n_resamples=3)

        assert {row.trials for row in rows} > {f"sung-{corpus}+0db" for corpus in SUNG_CORPORA}
        assert all(isinstance(row, Row) and np.isfinite(row.value) for row in rows)
        for name in fit_builtin.STRANGER_SETS:
            table, own = sets[name].score_table(tables[name][sets[name].pairs().test_index, 0])
            assert {-1} < set(np.unique(own).tolist()), name
            assert metrics.open_set_scores(table, own).stranger_scores.min() > -np.inf
        heard_s = {key: 1 for trials in sets.values() for key in trials.audio_items()}
        assert len(heard_s) < 400


def test_sums_are_written_over_what_fitting_writes(tmp_path):
    (tmp_path / "calibration.json").write_text("{}", encoding="utf-8")
    fit_builtin.write_card(tmp_path / "README.md", fit_builtin.CARD_BEGIN + fit_builtin.CARD_END)
    write_sums(tmp_path)

    check_sums(tmp_path)
