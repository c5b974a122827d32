"""The rules of the trials, on small made-up manifests and on the real ones; and the sound of a mix."""

from __future__ import annotations

import collections
import csv
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

from make_trials import FOLDS, build_trials, load_trials, main, write_trials
from trial_audio import (
    RATE_HZ,
    AudioItem,
    active_samples,
    loop_from,
    mix_at_level,
    render,
    trim_silence,
)

from registry.metrics import open_set_scores

VOICE_FIELDS = [
    "path",
    "kind",
    "person_id",
    "fold",
    "recording",
    "system",
    "source_person",
    "vocal",
    "duration_s",
    "site",
]

SET_NAMES = [
    *(f"sung-{corpus}{music}" for corpus in ("ravdess", "nus", "gtsinger", "mir1k") for music in ("", "+6db", "+0db")),
    "sung-mir1k+mix",
    "mix-mir1k",
    "speech",
    "cross-style",
    "clone-singing",
    "clone-speech",
    "strangers-spoken",
    "strangers-sung",
    "strangers-sung+6db",
    "strangers-sung+0db",
    "strangers-mixes",
    "instrumentals",
]


def _write_csv(path, fields, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _voice_rows():
    """Both folds alike: each corpus has persons 0 and 1 in fold A, 2 and 3 in fold B."""
    rows = []

    def add(kind, person, fold, recording, site="home", vocal="singing", source=""):
        n = sum(row["kind"] == kind and row["person_id"] == person for row in rows)
        rows.append(
            {
                "path": f"dev/{kind}/{person}/{n:03d}.ogg",
                "kind": kind,
                "person_id": person,
                "fold": fold,
                "recording": recording,
                "source_person": source,
                "vocal": vocal,
                "duration_s": "8.00",
                "site": site,
            }
        )

    for number in range(4):
        fold = "AABB"[number]
        for corpus, n_recordings in (("ravdess", 3), ("nus", 3), ("gtsinger", 2)):
            for i in range(n_recordings):
                person = f"{corpus}-{number}"
                site = "labs" if corpus == "nus" and i == 2 else "home"
                add("singing", person, fold, f"{person}-song{i}", site)
                add("singing", person, fold, f"{person}-song{i}", site)  # another cut of it
        for i in range(4):
            add("singing", f"mir1k-{number}", fold, f"mir1k-{number}_{i}")
            add("mixes", f"mir1k-{number}", fold, f"mir1k-{number}_{i}")
        add("singing", f"dsd100-{number}", fold, f"dsd100-{number}-song")
        add("mixes", f"jamendo-{number}", fold, f"jamendo-{number}")
        for i in range(2):
            add("speech", f"vctk-{number}", fold, f"vctk-{number}-{i}", vocal="speech")
            add("speech", f"libri-{number}", fold, f"libri-{number}-{i}", vocal="speech")
            add("speech", f"gtsinger-{number}", fold, f"gtsinger-{number}-said{i}", vocal="speech")
        add("clones", f"nus-{number}", fold, f"clone-nus-{number}", "labs", source=f"gtsinger-{number}")
        add("clones", f"nus-{number}", fold, f"clone2-nus-{number}", "labs")
        add("clones", f"vctk-{number}", fold, f"clone-vctk-{number}", vocal="speech", source=f"vctk-{number ^ 1}")
        add("clones", f"nobody-{number}", fold, f"clone-nobody-{number}", vocal="speech")
    add("speech", "ljspeech", "A", "ljspeech-0", vocal="speech")
    add("speech", "ljspeech", "A", "ljspeech-1", vocal="speech")
    return rows


@pytest.fixture
def manifests(tmp_path):
    """A folder of manifests without a single recording: making trials must not need any."""
    _write_manifests(tmp_path, _voice_rows())
    return tmp_path


def _write_manifests(root, voice_rows):
    _write_csv(root / "dev/voices.csv", VOICE_FIELDS, voice_rows)
    strangers = [
        {
            "path": f"dev/strangers/{corpus}-{number}/000.ogg",
            "person_id": f"{corpus}-{number}",
            "fold": "AABB"[number],
            "corpus": corpus,
            "duration_s": "3.00",
            "site": "far",
        }
        for corpus in ("hyke", "recitation", "georgian-folk")
        for number in range(4)
    ]
    _write_csv(root / "dev/strangers.csv", list(strangers[0]), strangers)
    for kind in ("music", "instrumental"):
        pieces = [
            {"path": f"dev/{kind}/{piece}_{i}.ogg", "track": f"site/{piece}", "duration_s": "30.00", "source": "site"}
            for piece, n in (("long", 3), ("short", 1), ("other", 2), ("other_reverse", 1))
            for i in range(n)
        ]
        pieces.append(
            {"path": f"dev/{kind}/jingle_0.ogg", "track": "site/jingle", "duration_s": "1.68", "source": "site"}
        )
        _write_csv(root / f"dev/{kind}.csv", list(pieces[0]), pieces)


def _both_folds(root):
    return [trials for fold in FOLDS for trials in build_trials(root, fold).values()]


# --- rules of every set -----------------------------------------------------------------------------------------------


def test_all_sets_are_there_and_have_trials(manifests):
    for fold in FOLDS:
        sets = build_trials(manifests, fold)
        assert list(sets) == SET_NAMES
        for name, trials in sets.items():
            assert (trials.name, trials.fold) == (name, fold)
            pairs = trials.pairs()
            assert pairs.is_target.any() and not pairs.is_target.all(), name


def _check_rules(trials, fold_of_person):
    """The rules at the top of make_trials.py, pair by pair, without the arrays that made the pairs."""
    pairs = trials.pairs()
    assert pairs.is_target.size > 0
    seen = set()
    for i, (j, k) in enumerate(zip(pairs.enroll_index.tolist(), pairs.test_index.tolist(), strict=True)):
        assert (j, k) not in seen
        seen.add((j, k))
        model, test = trials.models[j], trials.tests[k]
        enrolled, tried = [trials.clips[c] for c in model.clips], trials.clips[test.clip]
        assert len({clip.person_id for clip in enrolled}) == 1
        assert tried.recording not in {clip.recording for clip in enrolled}
        assert tried.path not in {clip.path for clip in enrolled}
        assert enrolled[0].person_id not in (test.source_person, test.barred_person)
        assert fold_of_person[enrolled[0].person_id] == trials.fold
        if not tried.person_id.startswith("instrumental:"):
            assert fold_of_person[tried.person_id] == trials.fold
        if trials.scope == "corpus":
            assert enrolled[0].corpus == tried.corpus
        assert pairs.is_target[i] == (enrolled[0].person_id == tried.person_id)
        assert pairs.same_site[i] == (tried.site in {clip.site for clip in enrolled})
        assert pairs.same_corpus[i] == (enrolled[0].corpus == tried.corpus)
        assert pairs.persons[pairs.enroll_person[i]] == enrolled[0].person_id
        assert pairs.persons[pairs.test_person[i]] == tried.person_id


def _fold_of_person(root):
    folds = {}
    for name in ("voices", "strangers"):
        with (root / f"dev/{name}.csv").open(encoding="utf-8") as file:
            folds.update({row["person_id"]: row["fold"] for row in csv.DictReader(file)})
    return folds


def test_rules_hold_for_every_pair(manifests):
    for trials in _both_folds(manifests):
        _check_rules(trials, _fold_of_person(manifests))


def test_every_allowed_pair_is_a_trial(manifests):
    """Two persons of three recordings of two cuts: each of 12 clips meets 4 others of its person and 6 of the other."""
    pairs = build_trials(manifests, "A")["sung-nus"].pairs()

    assert int(pairs.is_target.sum()) == 12 * 4
    assert int((~pairs.is_target).sum()) == 12 * 6


def test_both_orders_of_a_pair_are_trials(manifests):
    trials = build_trials(manifests, "A")["sung-nus"]
    paths = trials.model_keys()
    assert [[key] for key in trials.test_keys()] == paths

    pairs = trials.pairs()

    forward = set(zip(pairs.enroll_index.tolist(), pairs.test_index.tolist(), strict=True))
    assert forward == {(k, j) for j, k in forward}


def test_fold_that_does_not_exist_is_refused(manifests):
    with pytest.raises(ValueError, match="fold is 'C'; A or B"):
        build_trials(manifests, "C")


# --- seeds and files --------------------------------------------------------------------------------------------------


def _written(root, out_dir, **options):
    for fold in FOLDS:
        for trials in build_trials(root, fold, **options).values():
            write_trials(trials, out_dir)
    return {path.name: path.read_bytes() for path in out_dir.iterdir()}


def test_same_seed_gives_the_same_bytes_and_another_seed_other_music(manifests, tmp_path):
    first = _written(manifests, tmp_path / "first")
    again = _written(manifests, tmp_path / "again")
    other = _written(manifests, tmp_path / "other", seed=2)

    assert len(first) == 2 * len(SET_NAMES)
    assert first == again
    assert first["sung-nus+6db.A.json"] != other["sung-nus+6db.A.json"]


def test_order_of_the_manifest_does_not_matter(manifests, tmp_path):
    rows = _voice_rows()
    _write_manifests(tmp_path / "turned", rows[::-1])

    for fold in FOLDS:
        turned = build_trials(tmp_path / "turned", fold)
        for name, trials in build_trials(manifests, fold).items():
            assert (trials.models, trials.tests, trials.clips) == (
                turned[name].models,
                turned[name].tests,
                turned[name].clips,
            )


def test_a_new_clip_changes_no_other_clips_music(manifests, tmp_path):
    rows = _voice_rows()
    extra = {**rows[0], "path": "dev/singing/aaa/000.ogg", "person_id": "nus-new", "recording": "new"}
    _write_manifests(tmp_path / "more", [extra, *rows])

    def under(root):
        return {test.item.path: test.item for test in build_trials(root, "A")["sung-nus+6db"].tests}

    before, after = under(manifests), under(tmp_path / "more")
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 1


def test_what_is_loaded_equals_what_was_built(manifests, tmp_path):
    for trials in _both_folds(manifests):
        write_trials(trials, tmp_path / "out")

        loaded = load_trials(tmp_path / "out", trials.name, trials.fold, audio_root=manifests)

        assert loaded == trials
        for name, array in vars(loaded.pairs()).items():
            assert np.array_equal(array, getattr(trials.pairs(), name))


def test_changed_manifest_is_noticed(manifests, tmp_path):
    write_trials(build_trials(manifests, "A")["speech"], tmp_path / "out")
    with (manifests / "dev/music.csv").open("a") as file:
        file.write("dev/music/new.ogg,site/new,30.00,site\n")

    with pytest.raises(ValueError, match=r"dev/music.csv has changed since; run scripts/make_trials.py again"):
        load_trials(tmp_path / "out", "speech", "A", audio_root=manifests)
    assert load_trials(tmp_path / "out", "speech", "A").name == "speech"


def test_file_of_another_format_is_refused(manifests, tmp_path):
    path = write_trials(build_trials(manifests, "A")["speech"], tmp_path / "out")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))

    with pytest.raises(ValueError, match="format 99, 1 is needed"):
        load_trials(tmp_path / "out", "speech", "A")


def test_command_writes_every_set_and_prints_its_counts(manifests, tmp_path, capsys):
    assert main(["--audio", str(manifests), "--out", str(tmp_path / "out"), "--fold", "A"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[name, "A"] for name in SET_NAMES]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(f"{name}.A.json" for name in SET_NAMES)
    nus = dict(
        zip(["models", "tests", "enrolled", "persons", "targets", "nontargets"], lines[4].split()[2:], strict=False)
    )
    assert nus == {
        "models": "12",
        "tests": "12",
        "enrolled": "2",
        "persons": "2",
        "targets": "48",
        "nontargets": "72",
    }


# --- music ------------------------------------------------------------------------------------------------------------


def test_music_is_under_the_test_side_only_and_the_trials_stay_the_same(manifests):
    sets = build_trials(manifests, "A")
    for clean_name in ("sung-nus", "strangers-sung"):
        clean = sets[clean_name]
        for level_db in (6.0, 0.0):
            mixed = sets[f"{clean_name}+{level_db:g}db"]
            assert np.array_equal(mixed.pairs().is_target, clean.pairs().is_target)
            assert mixed.model_keys() == clean.model_keys()
            assert all(test.item.level_db == level_db and test.item.music_path for test in mixed.tests)
            assert not set(mixed.test_keys()) & set(clean.test_keys())


def test_a_clip_has_one_piece_and_offset_at_every_level_and_in_every_set(manifests):
    chosen = collections.defaultdict(set)
    for trials in build_trials(manifests, "A").values():
        for test in trials.tests:
            if test.item.music_path:
                chosen[test.item.path].add((test.item.music_path, test.item.music_offset_s))
                assert 0 <= test.item.music_offset_s <= 30

    assert chosen and all(len(draws) == 1 for draws in chosen.values())
    assert len({draw for draws in chosen.values() for draw in draws}) > 10


def test_music_and_instrumentals_are_divided_between_the_folds_by_piece(manifests):
    pieces = collections.defaultdict(set)
    for trials in _both_folds(manifests):
        for test in trials.tests:
            if test.item.music_path:
                pieces[trials.fold, "music"].add(Path(test.item.music_path).name.split("_")[0])
            if test.role == "instrumental":
                pieces[trials.fold, "instrumental"].add(Path(test.item.path).name.split("_")[0])

    # "other" and its reverse are one piece; the jingle is too short to lie under a voice.
    assert pieces["A", "music"] | pieces["B", "music"] == {"long", "short", "other"}
    assert not pieces["A", "music"] & pieces["B", "music"]
    assert pieces["A", "instrumental"] | pieces["B", "instrumental"] == {"long", "short", "other", "jingle"}
    assert not pieces["A", "instrumental"] & pieces["B", "instrumental"]


# --- single sets ------------------------------------------------------------------------------------------------------


def test_corpus_of_one_speaker_is_left_out(manifests):
    trials = build_trials(manifests, "A")["speech"]

    assert set(trials.test_corpora()) == {"vctk", "libri", "gtsinger"}


def test_those_who_speak_and_sing_are_enrolled_speaking_and_tried_singing(manifests):
    trials = build_trials(manifests, "A")["cross-style"]
    pairs = trials.pairs()

    assert trials.model_persons() == ["gtsinger-0", "gtsinger-1"]
    assert trials.model_keys() == [[f"dev/speech/gtsinger-{n}/{i:03d}.ogg" for i in range(2)] for n in range(2)]
    assert trials.test_keys() == [f"dev/singing/gtsinger-{n}/{i:03d}.ogg" for n in range(2) for i in range(4)]
    assert (int(pairs.is_target.sum()), int((~pairs.is_target).sum())) == (8, 8)


def test_three_songs_are_enrolled_and_the_others_queried_over_their_accompaniment(manifests):
    trials = build_trials(manifests, "A")["mix-mir1k"]
    pairs = trials.pairs()

    # 4 songs: 4 choices of three; each leaves the singer's one other song, and all 4 of the other singer.
    assert len(trials.models) == 2 * 4
    for model in trials.models:
        assert len({trials.clips[clip].recording for clip in model.clips}) == 3
        assert all(trials.clips[clip].path.startswith("dev/singing/") for clip in model.clips)
    assert all(test.item.path.startswith("dev/mixes/mir1k") for test in trials.tests)
    assert int(pairs.is_target.sum()) == 8
    assert int((~pairs.is_target).sum()) == 8 * 4


def test_karaoke_pairs_try_the_mix_of_another_song(manifests):
    trials = build_trials(manifests, "A")["sung-mir1k+mix"]
    pairs = trials.pairs()

    assert {trials.clips[test.clip].path.split("/")[1] for test in trials.tests} == {"mixes"}
    assert int(pairs.is_target.sum()) == 2 * 4 * 3
    assert int((~pairs.is_target).sum()) == 2 * 4 * 4


def test_source_of_a_conversion_is_neither_target_nor_impostor_but_can_be_counted(manifests):
    trials = build_trials(manifests, "A")["clone-singing"]
    pairs = trials.pairs()
    of_test = collections.defaultdict(set)
    for j, k in zip(pairs.enroll_index, pairs.test_index, strict=True):
        of_test[k].add(trials.model_persons()[j])

    converted = next(k for k, test in enumerate(trials.tests) if test.source_person == "gtsinger-0")
    unknown = next(k for k, test in enumerate(trials.tests) if test.source_person is None)
    everybody = {
        f"{corpus}-{n}" for corpus in ("ravdess", "nus", "gtsinger", "mir1k", "dsd100", "vctk", "libri") for n in (0, 1)
    }
    assert of_test[converted] == (everybody | {"ljspeech"}) - {"gtsinger-0"}
    assert of_test[unknown] == everybody | {"ljspeech"}
    enroll_index, test_index = trials.source_pairs()
    named = {
        (trials.tests[k].source_person, trials.model_persons()[j])
        for j, k in zip(enroll_index, test_index, strict=True)
    }
    assert named == {("gtsinger-0", "gtsinger-0"), ("gtsinger-1", "gtsinger-1")}


def test_models_of_clone_sets_are_of_one_site_each_so_that_sites_can_be_told_apart(manifests):
    trials = build_trials(manifests, "A")["clone-singing"]
    pairs = trials.pairs()

    assert all(len({trials.clips[clip].site for clip in model.clips}) == 1 for model in trials.models)
    # A target has one model of the clone's own site, and one of another.
    assert int((pairs.is_target & pairs.same_site).sum()) == int((pairs.is_target & ~pairs.same_site).sum()) == 4


def test_singers_are_enrolled_from_singing_and_others_from_speech(manifests):
    sets = build_trials(manifests, "A")

    kinds = collections.defaultdict(set)
    for person, keys in zip(sets["clone-singing"].model_persons(), sets["clone-singing"].model_keys(), strict=True):
        kinds[person] |= {key.split("/")[1] for key in keys}
    assert kinds["nus-0"] == {"singing"} and kinds["vctk-0"] == {"speech"}
    assert {key.split("/")[1] for keys in sets["clone-speech"].model_keys() for key in keys} == {"speech"}


def test_clone_of_somebody_without_reference_is_left_out(manifests):
    assert "nobody-0" not in build_trials(manifests, "A")["clone-speech"].test_persons()


def test_gallery_is_enrolled_from_half_of_the_recordings_and_the_rest_are_mates(manifests):
    trials = build_trials(manifests, "A")["strangers-sung"]

    assert sorted(trials.model_persons()) == sorted(
        f"{corpus}-{n}" for corpus in ("nus", "gtsinger", "mir1k") for n in (0, 1)
    )
    for person, model in zip(trials.model_persons(), trials.models, strict=True):
        enrolled = {trials.clips[clip].recording for clip in model.clips}
        mates = {
            trials.clips[test.clip].recording
            for test in trials.tests
            if test.role == "mate" and trials.clips[test.clip].person_id == person
        }
        assert not enrolled & mates
        total = {"nus": 3, "gtsinger": 2, "mir1k": 4}[person.split("-")[0]]
        assert (len(enrolled), len(enrolled | mates)) == ((total + 1) // 2, total)


def test_strangers_are_apart_by_kind(manifests):
    sets = build_trials(manifests, "A")

    def strangers(name):
        trials = sets[name]
        return {trials.clips[test.clip].corpus for test in trials.tests if test.role in ("stranger", "instrumental")}

    assert strangers("strangers-spoken") == {"hyke"}
    assert strangers("strangers-sung") == {
        "ravdess",
        "nus",
        "gtsinger",
        "mir1k",
        "dsd100",
        "recitation",
        "georgian-folk",
    }
    assert strangers("strangers-mixes") == {"mir1k", "jamendo"}
    assert strangers("instrumentals") == {"instrumental"}


def test_an_enrolled_singer_is_a_stranger_only_without_their_own_model(manifests):
    trials = build_trials(manifests, "A")["strangers-sung"]
    pairs = trials.pairs()

    enrolled = set(trials.model_persons())
    compared = collections.Counter(pairs.test_index.tolist())
    for k, (test, person) in enumerate(zip(trials.tests, trials.test_persons(), strict=True)):
        own = test.role == "stranger" and person in enrolled
        assert compared[k] == len(trials.models) - own
        assert test.barred_person == (person if own else None)


def test_score_table_feeds_the_open_set_figures(manifests):
    """A scorer that knows the answer: mates score 1 with their own, everything else 0."""
    trials = build_trials(manifests, "A")["strangers-sung"]

    table, own = trials.score_table(trials.pairs().is_target.astype(float))
    kept = open_set_scores(table, own)

    roles = trials.test_roles()
    assert np.array_equal(kept.mate_at, np.flatnonzero(roles == "mate"))
    assert np.array_equal(kept.stranger_at, np.flatnonzero(roles == "stranger"))
    assert (kept.mate_scores == 1).all() and (kept.mate_ranks == 1).all()
    assert (kept.stranger_scores == 0).all()


def test_score_table_is_refused_where_a_person_has_several_models(manifests):
    trials = build_trials(manifests, "A")["clone-singing"]

    with pytest.raises(ValueError, match="more than one model of its own"):
        trials.score_table(np.zeros(trials.pairs().is_target.size))


def test_audio_items_are_distinct_and_complete(manifests):
    for trials in build_trials(manifests, "A").values():
        items = trials.audio_items()
        assert set(items) == set(itertools.chain(*trials.model_keys(), trials.test_keys()))
        assert len(set(items.values())) == len(items)
        assert trials.audio_keys() == list(items)


# --- the sound of a mix -----------------------------------------------------------------------------------------------


def _voice(seconds=2.0, pause=(0.5, 1.0)):
    """A tone with a pause in it, and a faint hiss throughout."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    voice = 0.1 * np.sin(2 * np.pi * 220 * time_s)
    voice[(time_s >= pause[0]) & (time_s < pause[1])] = 0
    return (voice + 1e-5 * np.random.default_rng(0).normal(size=time_s.size)).astype(np.float32)


def _music(seconds=2.0, loud_pause=True):
    """Noise, four times as loud where the voice pauses: a level over all samples would come out wrong."""
    music = 0.02 * np.random.default_rng(1).normal(size=round(seconds * RATE_HZ))
    if loud_pause:
        music[round(0.5 * RATE_HZ) : round(1.0 * RATE_HZ)] *= 4
    return music.astype(np.float32)


def _rms_db(samples):
    return 20 * np.log10(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_active_samples_are_those_that_sound():
    voice = _voice()

    active = active_samples(voice)

    assert active.shape == voice.shape
    assert active[: round(0.5 * RATE_HZ)].all() and active[round(1.0 * RATE_HZ) :].all()
    assert not active[round(0.5 * RATE_HZ) : round(1.0 * RATE_HZ)].any()
    assert not active_samples(np.zeros(1000, np.float32)).any()
    assert active_samples(np.zeros(0, np.float32)).size == 0


@pytest.mark.parametrize("level_db", [-6.0, 0.0, 6.0, 18.0])
def test_mix_has_the_level_asked_for_while_the_voice_sounds(level_db):
    voice, music = 0.2 * _voice(), _music()  # quiet enough that no sum exceeds full scale
    active = active_samples(voice)

    mix = mix_at_level(voice, music, level_db, active)

    under = mix.astype(np.float64) - voice
    assert mix.dtype == np.float32
    assert _rms_db(voice[active]) - _rms_db(under[active]) == pytest.approx(level_db, abs=0.1)
    # One gain for all the music: it is a copy of what was given.
    assert np.corrcoef(under, music)[0, 1] > 0.99999


def test_mix_beyond_full_scale_is_turned_down_as_a_whole():
    voice, music = 5 * _voice(), _music(loud_pause=False)
    active = active_samples(voice)

    mix = mix_at_level(voice, music, -6.0, active)

    assert np.abs(mix).max() == pytest.approx(1, abs=1e-6)
    # Voice and music still have their level: take both out of the sum by least squares.
    (gain_voice, gain_music), *_ = np.linalg.lstsq(np.stack([voice, music], axis=1), mix, rcond=None)
    assert gain_voice < 1
    assert _rms_db(gain_voice * voice[active]) - _rms_db(gain_music * music[active]) == pytest.approx(-6, abs=0.1)


def test_mix_of_silence_is_refused():
    voice = _voice()

    with pytest.raises(ValueError, match=r"music has RMS 0\.0e\+00 under the voice, at least 1e-04 is needed"):
        mix_at_level(voice, np.zeros_like(voice), 0.0, active_samples(voice))
    with pytest.raises(ValueError, match="no active sample of the voice"):
        mix_at_level(voice * 0, voice, 0.0, active_samples(voice * 0))
    with pytest.raises(ValueError, match="must be of one length"):
        mix_at_level(voice, voice[:-1], 0.0, active_samples(voice))


def test_loop_goes_round():
    assert loop_from(np.array([1, 2, 3]), 2, 5).tolist() == [3, 1, 2, 3, 1]
    assert loop_from(np.array([1, 2, 3]), 7, 2).tolist() == [2, 3]
    with pytest.raises(ValueError, match="no samples to loop"):
        loop_from(np.zeros(0), 0, 3)


def test_fade_out_is_trimmed_but_pauses_are_kept():
    voice = _voice()
    silence = np.zeros(RATE_HZ, np.float32)

    assert np.array_equal(trim_silence(np.concatenate([silence, voice, silence])), voice)
    assert trim_silence(silence).size == 0


def test_render_decodes_resamples_mixes_and_repeats_itself(tmp_path):
    voice = _voice()
    soundfile.write(tmp_path / "voice.wav", voice, RATE_HZ, subtype="FLOAT")
    # Stereo at another rate, shorter than the voice, and silent at its end.
    time_s = np.arange(44_100) / 44_100
    tone = 0.3 * np.sin(2 * np.pi * 1000 * time_s) * (time_s < 0.8)
    soundfile.write(tmp_path / "music.wav", np.stack([tone, tone], axis=1), 44_100, subtype="FLOAT")
    item = AudioItem("voice.wav", "music.wav", 0.7, 6.0)

    clean, mix = render(tmp_path, AudioItem("voice.wav")), render(tmp_path, item)

    np.testing.assert_allclose(clean, voice, atol=1e-7)
    assert (mix.dtype, mix.shape) == (np.dtype(np.float32), voice.shape)
    active = active_samples(voice)
    assert _rms_db(voice[active]) - _rms_db((mix - voice)[active]) == pytest.approx(6, abs=0.1)
    # Looped without the silence: no gap in the music anywhere.
    frames = (mix - voice)[: voice.size // 800 * 800].reshape(-1, 800)
    assert np.abs(frames).max(axis=1).min() > 0.5 * np.abs(frames).max()
    assert np.array_equal(mix, render(tmp_path, item))


def test_clips_follow_one_another_without_a_gap_and_again_from_the_first(tmp_path):
    one, other = _voice(), 0.5 * _voice()[: RATE_HZ // 2]
    soundfile.write(tmp_path / "1.wav", one, RATE_HZ, subtype="FLOAT")
    soundfile.write(tmp_path / "2.wav", other, RATE_HZ, subtype="FLOAT")
    joined = np.concatenate([one, other])
    seconds = joined.size / RATE_HZ

    as_long_as_they_are = render(tmp_path, AudioItem("1.wav", then=("2.wav",)))
    in_another_order = render(tmp_path, AudioItem("2.wav", then=("1.wav",)))
    longer = render(tmp_path, AudioItem("1.wav", then=("2.wav",), length_s=2.5 * seconds))
    shorter = render(tmp_path, AudioItem("1.wav", then=("2.wav",), length_s=0.25))
    one_alone = render(tmp_path, AudioItem("1.wav", length_s=2 * one.size / RATE_HZ))

    np.testing.assert_array_equal(as_long_as_they_are, joined)
    np.testing.assert_array_equal(in_another_order, np.concatenate([other, one]))
    assert longer.size == round(2.5 * joined.size)
    np.testing.assert_array_equal(longer, np.tile(joined, 3)[: longer.size])
    np.testing.assert_array_equal(shorter, joined[: RATE_HZ // 4])
    np.testing.assert_array_equal(one_alone, np.tile(one, 2))


def test_music_is_under_all_of_a_track_of_several_clips(tmp_path):
    soundfile.write(tmp_path / "voice.wav", 0.2 * _voice(), RATE_HZ, subtype="FLOAT")
    soundfile.write(tmp_path / "music.wav", _music(loud_pause=False), RATE_HZ, subtype="FLOAT")
    alone = AudioItem("voice.wav", then=("voice.wav",), length_s=7.0)
    item = AudioItem("voice.wav", "music.wav", 0.25, 0.0, then=("voice.wav",), length_s=7.0)

    voice, mix = render(tmp_path, alone), render(tmp_path, item)

    active = active_samples(voice)
    assert mix.shape == voice.shape == (7 * RATE_HZ,)
    assert _rms_db(voice[active]) - _rms_db((mix - voice)[active]) == pytest.approx(0, abs=0.1)
    frames = (mix - voice).reshape(7, RATE_HZ)
    assert np.abs(frames).max(axis=1).min() > 0.5 * np.abs(frames).max()  # to the end, not as long as the clip


def test_render_names_the_item_that_cannot_be_mixed(tmp_path):
    soundfile.write(tmp_path / "voice.wav", np.zeros(RATE_HZ), RATE_HZ)
    soundfile.write(tmp_path / "music.wav", _music(), RATE_HZ)

    with pytest.raises(ValueError, match=r"voice.wav\|music.wav@0.50s\|\+6dB: no active sample"):
        render(tmp_path, AudioItem("voice.wav", "music.wav", 0.5, 6.0))


def test_keys_tell_sounds_apart():
    items = [
        AudioItem("a.ogg"),
        AudioItem("b.ogg"),
        AudioItem("a.ogg", "m.ogg", 0.0, 6.0),
        AudioItem("a.ogg", "m.ogg", 0.0, 0.0),
        AudioItem("a.ogg", "m.ogg", 1.0, 0.0),
        AudioItem("a.ogg", "n.ogg", 0.0, 0.0),
        AudioItem("a.ogg", then=("b.ogg",)),
        AudioItem("b.ogg", then=("a.ogg",)),
        AudioItem("a.ogg", then=("b.ogg", "b.ogg")),
        AudioItem("a.ogg", length_s=10.0),
        AudioItem("a.ogg", length_s=60.0),
        AudioItem("a.ogg", then=("b.ogg",), length_s=60.0),
        AudioItem("a.ogg", "m.ogg", 0.0, 6.0, then=("b.ogg",), length_s=60.0),
    ]

    assert len({item.key for item in items}) == len(items)
    assert items[0].key == "a.ogg"
    assert items[2].key == "a.ogg|m.ogg@0.00s|+6dB"  # by these, vectors are kept on disk
    assert items[-1].key == "a.ogg+b.ogg|60.00s|m.ogg@0.00s|+6dB"


# --- the real manifests -----------------------------------------------------------------------------------------------


@pytest.mark.audio
@pytest.mark.parametrize("fold", FOLDS)
def test_real_sets_keep_the_rules_and_none_is_empty(audio_root, fold):
    sets = build_trials(audio_root, fold)
    folds = _fold_of_person(audio_root)

    assert list(sets) == SET_NAMES
    for trials in sets.values():
        pairs = trials.pairs()
        assert pairs.is_target.sum() >= 20, trials.name
        assert (~pairs.is_target).sum() >= (400 if trials.name == "cross-style" else 1500), trials.name
        if "+" not in trials.name:  # the same pairs as the clean set, checked above
            _check_rules(trials, folds)
    assert len(set(sets["strangers-sung"].model_persons())) >= 25
    for name, at_least in (("strangers-spoken", 700), ("strangers-sung", 350), ("instrumentals", 20)):
        assert np.isin(sets[name].test_roles(), ["stranger", "instrumental"]).sum() >= at_least


@pytest.mark.audio
def test_real_folds_share_nobody_and_no_music(audio_root):
    persons, music = {}, {}
    for fold in FOLDS:
        sets = build_trials(audio_root, fold).values()
        persons[fold] = {person for trials in sets for person in [*trials.model_persons(), *trials.test_persons()]}
        music[fold] = {test.item.music_path for trials in sets for test in trials.tests} - {None}

    assert persons["A"] and persons["B"] and not persons["A"] & persons["B"]
    assert music["A"] and music["B"] and not music["A"] & music["B"]


@pytest.mark.audio
def test_real_mixes_can_be_made(audio_root):
    """Every 40th of them; all 831 of seed 1 were made once, in a minute."""
    for fold in FOLDS:
        for test in build_trials(audio_root, fold)["strangers-sung+0db"].tests[::40]:
            mix = render(audio_root, test.item)
            assert np.isfinite(mix).all() and 0 < np.abs(mix).max() <= 1
            assert mix.size == render(audio_root, AudioItem(test.item.path)).size
