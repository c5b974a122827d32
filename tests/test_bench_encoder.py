"""What encoders are compared by: parts of the trials, paired changes, and the quick figure on fold A."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

import bench_encoder
from bench_encoder import (
    Candidate,
    Figures,
    count_parameters,
    find_weights,
    group_systems,
    make_rows,
    measure_parts,
    named_directory,
    parts_of,
    print_tables,
    read_systems,
    relative_change,
    size_rows,
    speed_rows,
)
from bench_real import Row, thin_out, verification
from make_trials import SUNG_CORPORA, Clip, Model, Test, TrialSet, build_trials
from training import fold_a
from trial_audio import RATE_HZ, AudioItem
from trial_vectors import House

from embeddings.model_dir import HOUSE_DIR
from registry import intervals
from tests.fakes import FakeEncoder


def _trial_set(name, persons, *, corpus="vctk", n_tests=2, site_of_test="here", role="real"):
    """Each person has a model from a site `here`, and tests; nothing shares a recording."""
    clips = [Clip(f"{name}/{p}/model.ogg", p, corpus, f"{name}-{p}", "here", 5.0) for p in persons]
    tests = [
        Clip(f"{name}/{p}/{i}.ogg", p, corpus, f"{name}-{p}-{i}", site_of_test, 5.0)
        for p in persons
        for i in range(n_tests)
    ]
    return TrialSet(
        name=name,
        fold="B",
        seed=1,
        scope="all",
        rule="",
        manifests={},
        clips=(*clips, *tests),
        models=tuple(Model(p, (i,)) for i, p in enumerate(persons)),
        tests=tuple(Test(len(clips) + i, role, AudioItem(clip.path)) for i, clip in enumerate(tests)),
    )


@pytest.fixture
def sets():
    """Every set that is measured, of persons a, b and c; eight clones of each person."""
    found = {name: _trial_set(name, "abc") for name in bench_encoder.SETS}
    for name in bench_encoder.CLONE_SETS:
        found[name] = _trial_set(name, "abc", n_tests=8, role="clone")
    unseen = _trial_set("speech", "de", corpus="mls")
    seen = found["speech"]
    shift = len(seen.clips)
    found["speech"] = TrialSet(
        **{
            **vars(seen),
            "scope": "corpus",
            "clips": seen.clips + unseen.clips,
            "models": (*seen.models, *(Model(m.model_id, (m.clips[0] + shift,)) for m in unseen.models)),
            "tests": (*seen.tests, *(Test(t.clip + shift, t.role, t.item) for t in unseen.tests)),
        }
    )
    return found


def _made_by(sets):
    """Of eight clones of each person three are by `big`, two by `tiny` and three by systems with one clip each."""
    return {
        test.item.path: ["big", "big", "big", "tiny", "tiny", f"a{i}", f"a{i}", f"a{i}"][i % 8]
        for name in bench_encoder.CLONE_SETS
        for i, test in enumerate(sets[name].tests)
    }


def _tables(sets, seed):
    rng = np.random.default_rng(seed)
    tables = {}
    for name, trials in sets.items():
        same = np.array(trials.test_persons())[:, None] == np.array(trials.model_persons())
        tables[name] = same + rng.normal(0, 0.6, same.shape)
    return tables


# --- which trials -----------------------------------------------------------------------------------------------------


def test_parts_are_the_sets_then_clones_by_site_and_by_system(sets):
    parts = parts_of(sets, _made_by(sets))

    names = [part.name for part in parts]
    assert names[: len(bench_encoder.SUNG_SETS)] == list(bench_encoder.SUNG_SETS)
    assert names[len(bench_encoder.SUNG_SETS) :] == [
        "sung-mir1k+mix",
        "mix-mir1k",
        "cross-style",
        "speech",
        "speech-unseen",
        "clone-singing",
        "clone-singing/by-target",
        "clone-singing/same-site/by-target",
        "clone-singing/big",
        "clone-singing/same-site/big",
        "clone-singing/tiny",
        "clone-singing/same-site/tiny",
        "clone-singing/others",
        "clone-singing/same-site/others",
        "clone-speech",
        "clone-speech/by-target",
        "clone-speech/same-site/by-target",
        "clone-speech/big",
        "clone-speech/same-site/big",
        "clone-speech/tiny",
        "clone-speech/same-site/tiny",
        "clone-speech/others",
        "clone-speech/same-site/others",
    ]  # nothing comes from other sites
    chosen = {part.name: int(part.chosen.sum()) for part in parts}
    # 24 clones against three models; nine are by `big`, six by `tiny`, and nine by systems that made too few.
    assert [chosen[f"clone-singing/{name}"] for name in ("by-target", "big", "tiny", "others")] == [72, 27, 18, 27]


def test_systems_with_few_clips_or_one_target_are_pooled(sets):
    trials = sets["clone-singing"]
    paths = [test.item.path for test in trials.tests]
    made_by = dict.fromkeys(paths[:6], "one target") | dict.fromkeys(paths[6:10], "few")
    made_by |= dict.fromkeys(paths[10:], "enough")

    assert group_systems(trials, made_by) == ["others"] * 10 + ["enough"] * 14


def test_a_system_has_no_row_of_a_site_that_it_made_little_for(sets):
    sets["clone-singing"] = _trial_set("clone-singing", "abc", n_tests=8, site_of_test="there", role="clone")
    few_here = {test.item.path: "one system" for name in bench_encoder.CLONE_SETS for test in sets[name].tests}

    names = {part.name for part in parts_of(sets, few_here)}

    assert {"clone-singing/one system", "clone-singing/other-sites/one system"} <= names
    assert "clone-singing/same-site/one system" not in names
    assert "clone-speech/same-site/one system" in names


def test_speech_unseen_holds_nobody_of_the_corpora_heard_in_training(sets):
    part = next(part for part in parts_of(sets, _made_by(sets)) if part.name == "speech-unseen")
    pairs = sets["speech"].pairs()

    persons = {pairs.persons[i] for i in pairs.test_person[part.chosen]}
    assert persons == {"d", "e"}
    assert part.chosen.sum() == 8
    assert not part.by_target


def test_systems_are_read_from_the_manifest(tmp_path):
    (tmp_path / "dev").mkdir()
    with (tmp_path / "dev/voices.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["path", "kind", "system"], ["a.ogg", "singing", ""], ["b.ogg", "clones", "A system, new"]]
        )

    assert read_systems(tmp_path) == {"b.ogg": "A system, new"}


# --- figures ----------------------------------------------------------------------------------------------------------


def test_every_part_is_measured_and_the_sung_corpora_are_averaged_at_each_level(sets):
    parts = parts_of(sets, _made_by(sets))
    figures = measure_parts(sets, parts, _tables(sets, seed=0), n_resamples=20)

    assert set(figures) == {part.name for part in parts} | {"sung/mean", "sung+6db/mean", "sung+0db/mean"}
    corpora = [figures[f"sung-{corpus}+0db"] for corpus in SUNG_CORPORA]
    mean = figures["sung+0db/mean"]
    assert mean.n_trials == sum(figure.n_trials for figure in corpora) == 4 * 18
    assert mean.estimates["eer"].value == pytest.approx(np.mean([f.estimates["eer"].value for f in corpora]))
    assert list(figures).index("sung/mean") == len(SUNG_CORPORA)


def test_change_is_zero_to_zero_for_the_same_scores():
    trials = _trial_set("speech", "abcdefgh")
    scores = _tables({"speech": trials}, seed=0)["speech"]
    pairs = trials.pairs()
    chosen = np.ones(len(pairs.is_target), dtype=bool)

    one, other = (
        verification("speech", pairs, scores[pairs.test_index, pairs.enroll_index], chosen, 50)["eer"] for _ in range(2)
    )

    assert one.value > 0
    change = relative_change(one, other)
    assert (change.value, change.low, change.high) == (0, 0, 0)


def _estimate(value, replicates):
    return intervals.Estimate(value, 0.0, 1.0, 0.95, len(replicates), 0, np.array(replicates))


def test_change_is_paired_by_resample():
    base, new = _estimate(0.2, [0.1, 0.2, 0.4]), _estimate(0.15, [0.08, 0.16, 0.32])

    change = relative_change(new, base)

    assert change.value == pytest.approx(-25)
    assert change.replicates.tolist() == pytest.approx([-20, -20, -20])  # each alone varies fourfold
    assert (change.low, change.high) == (pytest.approx(-20), pytest.approx(-20))


def test_change_leaves_out_resamples_in_which_the_baseline_makes_no_error():
    change = relative_change(_estimate(0.1, [0.1, 0.1, np.nan, 0.3]), _estimate(0.2, [0.2, 0.0, 0.1, 0.2]))

    assert (change.n_resamples, change.n_unusable) == (2, 2)
    assert change.replicates[[0, 3]].tolist() == pytest.approx([-50, 50])
    assert relative_change(_estimate(0.1, [0.1]), _estimate(0.0, [0.1])) is None


def test_rows_have_percent_and_changes_against_the_baseline_only():
    def of(value):
        estimates = {
            "eer": _estimate(value, [value, value]),
            "auc": _estimate(1 - value, [1 - value, 1 - value]),
            "min_dcf_0.01": intervals.Estimate(0.5, np.nan, np.nan, 0.95, 0, 2, np.full(2, np.nan)),
        }
        return {"speech": Figures(estimates, 7)}

    rows = make_rows({"old": of(0.2), "new": of(0.1)}, "old")

    assert rows == [
        Row("speech", "old", "eer_pct", 20.0, 0.0, 100.0, 7),
        Row("speech", "old", "auc_pct", 80.0, 0.0, 100.0, 7),
        Row("speech", "old", "min_dcf_0.01", 0.5, None, None, 7),
        Row("speech", "new", "eer_pct", 10.0, 0.0, 100.0, 7),
        Row("speech", "new", "auc_pct", 90.0, 0.0, 100.0, 7),
        Row("speech", "new", "min_dcf_0.01", 0.5, None, None, 7),
        Row("speech", "new", "eer_change_pct", -50.0, -50.0, -50.0, 7),
    ]
    assert [row.metric for row in make_rows({"new": of(0.1)}, None)] == ["eer_pct", "auc_pct", "min_dcf_0.01"]
    json.dumps([vars(row) for row in rows], allow_nan=False)


def test_the_table_has_a_line_for_each_name_and_a_dash_where_there_is_no_figure(capsys):
    rows = [
        Row("speech.A", "old", "eer_pct", 20.0, 10.0, 30.0, 7),
        Row("speech.A", "old", "auc_pct", 80.0, 70.0, 90.0, 7),
        Row("speech.A", "new", "eer_pct", 10.0, None, None, 7),
        Row("speech.A", "new", "auc_pct", 90.0, 80.0, 100.0, 7),
        Row("threads-1.A", "old", "speed_x_real_time", 50.0, 40.0, 50.0, 3),
        Row("size.A", "old", "weights_mb", 8.3, None, None, 1),
        Row("size.A", "new", "weights_mb", 9.0, None, None, 1),
    ]

    print_tables(rows, ["old", "new"], "old", ".A")

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["EER", "%", "trials", "old", "new", "change", "%"],
        ["speech", "7", "20.0", "(10.0", "to", "30.0)", "10.0", "-"],
        [],
        ["AUC", "%", "trials", "old", "new"],
        ["speech", "7", "80.0", "(70.0", "to", "90.0)", "90.0", "(80.0", "to", "100.0)"],
        [],
        ["threads-1", "speed_x_real_time", "old", "50"],
        ["size", "weights_mb", "old", "8.3", "new", "9"],
    ]


@pytest.mark.audio
def test_the_quick_part_has_every_row_that_is_no_systems_own(audio_root):
    for fold in "AB":
        sets = {name: thin_out(build_trials(audio_root, fold)[name]) for name in ("speech", *bench_encoder.CLONE_SETS)}
        sets |= {name: sets["speech"] for name in bench_encoder.SETS if name not in sets}

        names = {part.name for part in parts_of(sets, read_systems(audio_root))}

        assert {"speech", "speech-unseen", "clone-singing/by-target", "clone-speech/by-target"} <= names


# --- speed and size ---------------------------------------------------------------------------------------------------


@pytest.mark.model
def test_speed_and_size_of_each_candidate(voice_like):
    encoder = FakeEncoder()
    weights = find_weights(HOUSE_DIR)
    candidates = [
        Candidate("one", House(encoder), encoder, [weights]),
        Candidate("two", House(encoder), None, [weights]),
    ]

    rows = speed_rows(candidates, [voice_like(5.0), voice_like(4.0, seed=1)])

    assert [(row.trials, row.system, row.metric, row.n) for row in rows] == [
        (f"threads-{n}", system, f"{metric}_x_real_time", bench_encoder.SPEED_REPEATS)
        for n in (1, 2)
        for system, metric in (("one", "speed"), ("one", "speed_encoder"), ("two", "speed"))
    ]
    assert all(0 < row.low <= row.value == row.high for row in rows)
    sizes = {(row.system, row.metric): row.value for row in size_rows(candidates)}
    assert sizes["one", "weights_mb"] == round(weights.stat().st_size / 1e6, 3)
    assert 4 * sizes["one", "parameters_million"] == pytest.approx(sizes["one", "weights_mb"], rel=0.05)


def test_buffers_are_no_parameters(tmp_path):
    header = {
        name: {"dtype": "F32", "shape": [3, 4], "data_offsets": [48 * i, 48 * i + 48]}
        for i, name in enumerate(("a.weight", "a.running_mean", "a.running_var", "b.bias"))
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * 48))

    assert find_weights(tmp_path) == tmp_path / "model.safetensors"
    assert count_parameters(tmp_path / "model.safetensors") == 24


def test_directory_without_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of weights in it; embedding_model.\* or \*.safetensors"):
        find_weights(tmp_path)


def test_a_model_is_named_with_its_directory(tmp_path):
    assert named_directory(f"mine={tmp_path}") == ("mine", tmp_path)
    for wrong in (str(tmp_path), f"={tmp_path}", f"mine={tmp_path}/none"):
        with pytest.raises(bench_encoder.argparse.ArgumentTypeError, match="NAME=DIR with an existing directory"):
            named_directory(wrong)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--systems", "house,mine"], "--systems mine: not among house-v1, house, resemblyzer, speechbrain-ecapa"),
        (["--model", "house=."], "two systems have one name: house-v1, house, house, resemblyzer"),
    ],
)
def test_wrong_systems_are_refused_before_any_work(arguments, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench_encoder.main(arguments)
    assert told in capsys.readouterr().err


# --- the quick figure on fold A ---------------------------------------------------------------------------------------


def test_thinning_keeps_everybody_and_the_same_clips_with_music_and_without():
    persons = [f"nus-{i}" for i in range(3)]
    clean = fold_a.thin(_trial_set("sung-nus", persons, n_tests=20))
    mixed = fold_a.thin(_trial_set("sung-nus+0db", persons, n_tests=20))

    n_kept = fold_a.CLIPS_A_PERSON["sung-nus"]
    assert clean.test_persons() == [person for person in persons for _ in range(n_kept)]
    assert clean.model_persons() == persons
    assert [key.rpartition("/")[2] for key in clean.test_keys()] == [
        key.rpartition("/")[2] for key in mixed.test_keys()
    ]
    assert clean.test_keys()[0] == "sung-nus/nus-0/0.ogg"
    assert clean.test_keys()[n_kept - 1] == "sung-nus/nus-0/19.ogg"


def test_thinning_of_clones_keeps_every_target_and_model():
    trials = _trial_set("clone-speech", ["a", "b"], n_tests=30)
    thinned = fold_a.thin(trials)

    assert thinned.test_persons() == [person for person in "ab" for _ in range(fold_a.CLONES_A_TARGET)]
    assert thinned.models == trials.models
    assert fold_a.thin(_trial_set("mix-mir1k", ["a", "b"], n_tests=30)).test_persons() == ["a"] * 30 + ["b"] * 30


@pytest.fixture
def fold(tmp_path, voice_like, monkeypatch):
    """A fold of one set of three persons, prepared from files: a voice of 3 s and one of 13 s of each."""
    trials = _trial_set("speech", "abc", n_tests=1)
    root = tmp_path / "audio"
    for i, clip in enumerate(trials.clips):
        path = (root / clip.path).with_suffix(".wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice_like(3.0 if i < 3 else 13.0, f0_hz=110 + 60 * (i % 3), seed=i % 3), RATE_HZ)
    clips = tuple(Clip(**{**vars(clip), "path": clip.path.replace(".ogg", ".wav")}) for clip in trials.clips)
    tests = tuple(Test(test.clip, test.role, AudioItem(clips[test.clip].path)) for test in trials.tests)
    trials = TrialSet(**{**vars(trials), "clips": clips, "tests": tests})
    monkeypatch.setattr(fold_a, "build_trials", lambda audio_root, fold: {"speech": trials})
    monkeypatch.setattr(fold_a, "SETS", ("speech",))
    monkeypatch.setattr(fold_a, "AVERAGES", {"macro": ("speech",)})
    return fold_a.open_fold(tmp_path / "cache", root)


def test_windows_are_kept_once_and_read_back(fold, tmp_path, capsys):
    assert sorted(fold.lengths.tolist()) == [3 * RATE_HZ] * 3 + [4 * RATE_HZ] * 9
    assert fold.starts.tolist() == [0, *np.cumsum(fold.lengths)[:-1].tolist()]
    assert fold.sound_s == 3 * 3 + 9 * 4
    (tmp_path / "audio").rename(tmp_path / "gone")  # only manifests are read, and there are none here
    capsys.readouterr()

    again = fold_a.open_fold(tmp_path / "cache", tmp_path / "audio")

    assert (again.digest, again.first_row) == (fold.digest, fold.first_row)
    np.testing.assert_array_equal(again.samples, fold.samples)
    assert capsys.readouterr().err == ""
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".int16", ".json"]


def test_an_encoder_is_given_windows_of_one_length_and_scored(fold):
    encoder = FakeEncoder()
    shapes = []

    def embed(windows):
        assert windows.dtype == np.float32
        assert 0.2 < np.abs(windows).max() <= 1
        shapes.append(windows.shape)
        return 3 * encoder.embed_windows(windows)  # of any length

    figures = fold_a.evaluate(fold, embed)

    assert shapes == [(3, 3 * RATE_HZ), (9, 4 * RATE_HZ)]
    assert figures == {"speech": 0.0, "macro": 0.0}  # the voices differ in pitch by an octave


def test_vectors_come_back_in_the_order_of_the_windows(fold, monkeypatch):
    monkeypatch.setattr(fold_a, "MAX_BATCH", 2)
    encoder = FakeEncoder()

    vectors = fold_a.embed_rows(fold, encoder.embed_windows)

    for start, length, vector in zip(fold.starts, fold.lengths, vectors, strict=True):
        window = fold.samples[start : start + length][None].astype(np.float32) / 32768
        np.testing.assert_allclose(encoder.embed_windows(window)[0], vector, atol=1e-6)


def test_an_encoder_that_gives_nothing_is_refused(fold):
    with pytest.raises(ValueError, match=r"3 windows gave \(3, 8\), or vectors without direction"):
        fold_a.evaluate(fold, lambda windows: np.zeros((len(windows), 8)))


@pytest.mark.audio
def test_fold_a_keeps_every_person_of_the_real_sets(audio_root):
    sets = build_trials(audio_root, "A")
    for name in fold_a.SETS:
        thinned = fold_a.thin(sets[name])
        assert set(thinned.model_persons()) == set(sets[name].model_persons())
        assert set(thinned.test_persons()) == set(sets[name].test_persons())
        pairs = thinned.pairs()
        assert pairs.is_target.sum() >= 100, name
