"""Who is enrolled, who is heard as a stranger, and who is compared with whom: on made-up manifests and vectors."""

from __future__ import annotations

import csv
import sys
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

import populations
from make_trials import Clip, read_material, under_music
from populations import (
    LEVELS,
    Persons,
    Population,
    corpus_of,
    cut_tracks,
    enroll_persons,
    halves,
    long_tracks,
    read_persons,
    score_population,
)
from trial_audio import AudioItem
from trial_vectors import ItemVectors

from registry import scoring, tail
from registry.calibration import together
from registry.condense import condense_windows
from registry.crowding import Between, NearLevels, artist_crowding, score_between, track_crowding
from registry.llr import LlrModel
from tests.fakes import DIM, fake_cohort, unit

HOP_S = 2.0
SINGERS = ("nus-ada", "nus-bo", "ravdess-01")
SPEAKERS = ("libri-7", "vctk-9")
STRANGERS = ("libri-70", "libri-71", "georgian-folk-1")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def audio_root(tmp_path_factory) -> Path:
    """Manifests of fold A, without a single recording; of everybody two clips, and one person of fold B."""
    root = tmp_path_factory.mktemp("recordings")

    def voice(kind: str, person: str, i: int, fold: str = "A") -> dict[str, Any]:
        return {
            **{"path": f"dev/{kind}/{person}-{i}.ogg", "kind": kind, "person_id": person, "fold": fold},
            **{"recording": f"{kind}-{person}-{i}", "source_person": "", "vocal": kind, "duration_s": "8", "site": "s"},
        }

    rows = [voice("singing", person, i) for person in SINGERS for i in range(2)]
    rows += [voice("speech", person, i) for person in (*SPEAKERS, "nus-bo") for i in range(2)]  # Bo does both
    rows += [voice("clones", "nus-ada", 0), voice("mixes", "nus-ada", 0), voice("singing", "nus-cy", 0, fold="B")]
    write_csv(root / "dev/voices.csv", rows)
    strangers = [
        {
            **{"path": f"dev/strangers/{person}-{i}.ogg", "person_id": person, "fold": "A"},
            **{"corpus": person.rpartition("-")[0], "duration_s": "8", "site": "s"},
        }
        for person in STRANGERS
        for i in range(2)
    ]
    write_csv(root / "dev/strangers.csv", [*strangers, {**strangers[0], "person_id": "libri-72", "fold": "B"}])
    for kind in ("music", "instrumental"):
        pieces = [
            {"path": f"dev/{kind}/{k}.ogg", "track": f"piece {k}", "duration_s": "30", "source": "s"} for k in range(8)
        ]
        write_csv(root / f"dev/{kind}.csv", pieces)
    return root


@pytest.fixture(scope="module")
def persons(audio_root) -> Persons:
    return read_persons(audio_root, "A")


# --- who is who ---


def test_everybody_of_the_fold_is_one_thing_and_of_those_who_sing_the_singing_counts(persons):
    assert tuple(persons.singers) == SINGERS
    assert tuple(persons.speakers) == SPEAKERS
    assert sorted(persons.strangers) == sorted(STRANGERS)
    assert sorted(persons.everybody) == sorted((*SINGERS, *SPEAKERS, *STRANGERS))
    assert {clip.path for clip in persons.everybody["nus-bo"]} == {f"dev/singing/nus-bo-{i}.ogg" for i in range(2)}


def test_halves_have_nobody_in_common_and_leave_nobody_out():
    def some(kind: str, n: int) -> dict[str, list[Clip]]:
        return {f"{kind}-{i}": [] for i in range(n)}

    crowd = Persons(some("singer", 20), some("speaker", 6), some("stranger", 31))

    enrolled, heard = halves(crowd)

    assert not set(enrolled) & set(heard)
    assert {*enrolled, *heard} == set(crowd.everybody)
    assert {name for name in enrolled if name.startswith("speaker")} == set(crowd.speakers)
    assert [sum(name.startswith(kind) for name in enrolled) for kind in ("singer", "stranger")] == [10, 15]
    assert (sorted(enrolled), sorted(heard)) == tuple(map(sorted, halves(crowd)))
    assert set(halves(crowd, seed=2)[0]) != set(enrolled)


# --- tracks ---


def test_a_stranger_is_heard_alone_and_over_other_music_at_each_level(audio_root, persons):
    tracks = long_tracks(audio_root, "A", {"nus-ada": persons.singers["nus-ada"]}, 240.0)

    voice = {"then": ("dev/singing/nus-ada-1.ogg",), "length_s": 240.0}
    material = read_material(audio_root, "A", 1)
    under = {c: under_music(material, f"nus-ada {c}", 0.0) for c in ("+6db", "+0db")}
    assert LEVELS == {"alone": None, "+6db": 6.0, "+0db": 0.0}
    assert [(track.person, track.condition) for track in tracks] == [("nus-ada", level) for level in LEVELS]
    assert [track.item for track in tracks] == [
        AudioItem("dev/singing/nus-ada-0.ogg", **voice),
        *(
            AudioItem("dev/singing/nus-ada-0.ogg", music.music_path, music.music_offset_s, LEVELS[level], **voice)
            for level, music in under.items()
        ),
    ]
    assert len({(music.music_path, music.music_offset_s) for music in under.values()}) == 2


def track_of(n_windows: int, length_s: float, presence: float | np.ndarray = 1.0) -> ItemVectors:
    vectors = np.arange(n_windows, dtype=np.float32)[:, None]
    shares = np.broadcast_to(np.float32(presence), n_windows).copy()
    return ItemVectors(vectors, shares, HOP_S * float(shares.sum()), length_s, fell_back=False)


def test_a_long_track_is_cut_into_all_pieces_of_each_length_that_it_holds():
    pieces = cut_tracks(track_of(120, 240.0), 240.0, HOP_S, (10.0, 60.0, 240.0))

    assert [piece.duration_s for piece in pieces] == [10.0] * 24 + [60.0] * 4 + [240.0]
    for of_length, n_windows in ((pieces[:24], 5), (pieces[24:28], 30), (pieces[28:], 120)):
        assert {len(piece.vectors) for piece in of_length} == {n_windows}
        windows = np.concatenate([piece.vectors for piece in of_length])[:, 0]
        assert windows.tolist() == list(range(120))  # each once, in order
    assert [piece.voiced_s for piece in pieces] == [piece.duration_s for piece in pieces]
    assert not any(piece.abstains or piece.fell_back for piece in pieces)


def test_what_is_left_over_at_the_end_is_in_no_piece():
    pieces = cut_tracks(track_of(100, 200.0), 200.0, HOP_S, (60.0,))

    assert [piece.vectors[:, 0].tolist() for piece in pieces] == [[*range(30 * k, 30 * k + 30)] for k in range(3)]


def test_a_piece_has_the_voice_of_its_own_windows_and_no_more_than_its_length():
    half = cut_tracks(track_of(10, 20.0, np.repeat([1.0, 0.25], 5)), 20.0, HOP_S, (10.0,))
    overlapping = cut_tracks(track_of(20, 20.0), 20.0, HOP_S, (10.0,))

    assert [piece.voiced_s for piece in half] == [10.0, 2.5]
    assert [piece.presence.tolist() for piece in half] == [[1.0] * 5, [0.25] * 5]
    assert [piece.voiced_s for piece in overlapping] == [10.0, 10.0]


def test_pieces_without_enough_voice_abstain():
    """Of a track of four minutes with two windows of voice two pieces of ten seconds have one; the others none."""
    pieces = cut_tracks(track_of(2, 240.0, 0.5), 240.0, HOP_S, (10.0, 240.0))

    assert [len(piece.vectors) for piece in pieces] == [1] * 24 + [2]
    assert [piece.abstains for piece in pieces] == [True] * 24 + [False]
    assert sorted({piece.voiced_s for piece in pieces}) == [0.0, 1.0, 2.0]
    assert sum(piece.fell_back for piece in pieces) == 22


# --- enrolling ---


def test_persons_are_enrolled_from_clips_with_voice_and_who_has_none_is_not():
    def clip(name: str) -> Clip:
        return Clip(name, name[:-1], "c", name, "s", 8.0)

    def item(seed: int, voiced_s: float = 8.0) -> ItemVectors:
        vectors = unit(np.random.default_rng(seed).standard_normal((6, DIM)))
        return ItemVectors(vectors, np.ones(6, np.float32), voiced_s, 8.0, fell_back=False)

    vectors = {"bo1": item(1), "bo2": item(2, 1.0), "cy1": item(3, 1.4), "ada1": item(4), "ada2": item(5)}
    clips = {"bo": [clip("bo1"), clip("bo2")], "cy": [clip("cy1")], "ada": [clip("ada1"), clip("ada2")]}

    templates, starts, names = enroll_persons(clips, vectors)

    ada = condense_windows(np.concatenate([vectors["ada1"].vectors, vectors["ada2"].vectors]))[0]
    bo = condense_windows(vectors["bo1"].vectors)[0]
    assert (names, starts.tolist()) == (["ada", "bo"], [0, len(ada)])
    np.testing.assert_array_equal(templates, np.concatenate([ada, bo]))


# --- scoring ---


@pytest.fixture
def embedded(monkeypatch) -> list[AudioItem]:
    """What was asked to be embedded. Everybody has a direction; libri-71 is hardly heard, music turns all a little."""
    asked: list[AudioItem] = []

    def direction(name: str) -> np.ndarray:
        return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(DIM)

    def embed_items(_: Path, items: Mapping[str, AudioItem], *__: Any, **___: Any) -> dict[str, ItemVectors]:
        asked.extend(items.values())
        found = {}
        for key, item in items.items():
            person = Path(item.path).stem.rpartition("-")[0]
            n = 4 if item.length_s is None else round(item.length_s / HOP_S)
            noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal((n, DIM))
            music = 0.0 if item.music_path is None else direction("music")
            presence = np.full(n, 0.05 if (person, item.music_path is None) == ("libri-71", False) else 1.0, np.float32)
            voiced_s = HOP_S * float(presence.sum())
            rows = unit(direction(person) + 0.3 * noise + 0.5 * music)
            found[key] = ItemVectors(rows, presence, voiced_s, n * HOP_S, fell_back=False)
        return found

    monkeypatch.setattr(populations, "embed_items", embed_items)
    return asked


@pytest.fixture
def cohort() -> scoring.CohortModel:
    condition = np.where(np.arange(48) % 2 == 0, "sung", "sung+music")
    return scoring.prepare_cohort(fake_cohort().vectors, fake_cohort().person, condition)


def population(audio_root: Path, cohort: scoring.CohortModel, **options: Any) -> Population:
    system = SimpleNamespace(hop_s=HOP_S)
    return score_population(audio_root, "A", system, cohort, Path("unused"), lengths_s=(20.0, 40.0), **options)


@pytest.mark.usefixtures("embedded")
def test_everybody_is_enrolled_but_ravdess_and_singers_and_strangers_are_heard(audio_root, cohort):
    found = population(audio_root, cohort)

    enrolled = {*SINGERS, *SPEAKERS, *STRANGERS} - {"ravdess-01"}
    assert found.voices == sorted(enrolled)
    assert [voice for voice, sings in zip(found.voices, found.sings, strict=True) if sings] == ["nus-ada", "nus-bo"]
    assert set(found.person) == {*SINGERS, *STRANGERS}
    # Each alone and over music at two levels, cut into two tracks of 20 s and one of 40 s.
    per_person = [f"{level} {seconds} s" for level in LEVELS for seconds in ("20", "20", "40")]
    for person in sorted({*SINGERS, *STRANGERS}):
        how = "sung" if person in SINGERS else "spoken"
        assert found.condition[found.person == person].tolist() == [f"{how} {condition}" for condition in per_person]
    assert found.norm.shape == found.compared.shape == (len(found.person), len(found.voices)) == (54, 7)


@pytest.mark.usefixtures("embedded")
def test_nobody_is_compared_with_oneself_nor_strangers_with_others_of_their_corpus(audio_root, cohort):
    """One telephone and the same words make recordings alike, not voices; singers of a corpus are compared."""
    found = population(audio_root, cohort)

    compared: dict[str, set[str]] = {}
    for person, row in zip(found.person, found.compared, strict=True):
        voices = {voice for voice, yes in zip(found.voices, row, strict=True) if yes}
        assert compared.setdefault(person, voices) == voices  # the same however they are heard
    everybody = set(found.voices)
    libri = {"libri-7", "libri-70", "libri-71"}  # one of them reads for dev/speech
    assert compared == {
        "nus-ada": everybody - {"nus-ada"},
        "nus-bo": everybody - {"nus-bo"},
        "ravdess-01": everybody,
        "libri-70": everybody - libri,
        "libri-71": everybody - libri,
        "georgian-folk-1": everybody - {"georgian-folk-1"},
    }


def test_tracks_are_scored_as_the_product_does(audio_root, cohort, embedded):
    found = population(audio_root, cohort)

    items = {item.key: item for item in embedded}
    vectors = populations.embed_items(audio_root, items)
    clips = {person: [f"dev/singing/{person}-{i}.ogg" for i in range(2)] for person in ("nus-ada", "nus-bo")}
    templates = [condense_windows(np.concatenate([vectors[path].vectors for path in clips[p]]))[0] for p in clips]
    starts, rows = np.array([0, len(templates[0])]), np.concatenate(templates)
    columns = [found.voices.index(person) for person in clips]
    (track,) = [
        item
        for item in items.values()
        if item.path.startswith("dev/strangers/georgian") and item.then and (item.level_db == 6.0)
    ]
    windows = vectors[track.key].vectors[10:20]  # the second 20 s
    at = np.flatnonzero((found.person == "georgian-folk-1") & (found.condition == "spoken +6db 20 s"))[1]
    scores = scoring.pool_scores(windows, rows, starts)
    expected = scoring.normalise(scores, windows, rows, starts, cohort)
    assert found.norm[at, columns] == pytest.approx(expected, abs=1e-5)
    assert found.accompaniment[at] == scoring.accompaniment(windows, cohort) != 0.0


@pytest.mark.usefixtures("embedded")
def test_who_is_heard_and_who_is_enrolled_can_be_chosen(audio_root, cohort, embedded):
    found = population(audio_root, cohort, heard=["nus-ada", "libri-7"], enrolled=["nus-bo", "ravdess-01", "vctk-9"])

    assert (found.voices, sorted(set(found.person))) == (["nus-bo", "vctk-9"], ["libri-7", "nus-ada"])
    heard = {Path(item.path).stem.rpartition("-")[0] for item in embedded}
    assert heard == {"nus-ada", "libri-7", "nus-bo", "vctk-9"}  # nobody else was embedded
    assert found.compared.all()


@pytest.mark.usefixtures("embedded")
def test_llrs_are_those_before_crowding_and_rounding_and_abstentions_have_none(audio_root, cohort):
    found = population(audio_root, cohort)

    llrs = found.llr(LlrModel((0.5, 10.0, -1.0, -1.0), -1.0))

    # Over music a twentieth of each window is voice: 1 s of 20 s, and of 40 s 2 s, which is enough.
    abstaining = (found.person == "libri-71") & np.isin(found.condition, ["spoken +6db 20 s", "spoken +0db 20 s"])
    assert found.abstains.tolist() == abstaining.tolist() and abstaining.sum() == 4
    counted = found.compared & ~abstaining[:, None]
    plain = 0.5 * found.norm + 10.0 * found.accompaniment[:, None] - 1.0
    assert (np.isneginf(llrs) == ~counted).all()
    assert llrs[counted] == pytest.approx(plain[counted], abs=1e-12)


@pytest.mark.usefixtures("embedded")
def test_voices_are_scored_with_one_another_and_nobody_with_oneself(audio_root, cohort):
    found = population(audio_root, cohort)

    vectors = populations.embed_items(audio_root, _clips_of(found.voices, audio_root))
    rows = [
        condense_windows(np.concatenate([item.vectors for key, item in vectors.items() if f"/{voice}-" in key]))[0]
        for voice in found.voices
    ]
    starts, templates = np.cumsum([0, *map(len, rows)])[:-1], np.concatenate(rows)
    expected = score_between(templates, starts, templates, starts, cohort)
    apart = ~np.eye(7, dtype=bool)
    assert found.between.others[apart] == pytest.approx(expected.others[apart], abs=1e-5)
    assert np.isneginf(found.between.others[~apart]).all()
    assert found.between.cohort == pytest.approx(expected.cohort, abs=1e-5)


def _clips_of(voices: list[str], audio_root: Path) -> dict[str, AudioItem]:
    everybody = read_persons(audio_root, "A").everybody
    return {clip.path: AudioItem(clip.path) for voice in voices for clip in everybody[voice]}


#: By which llr is the norm_score, and one in ten or so of others is near.
PLAIN, NEAR = LlrModel((1.0, 0.0, -1.0, -1.0), 0.0), NearLevels(artist=0.8, track=0.5, cohort=1.0)


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("size", [1, 3, 7])
def test_maxima_are_over_voices_enrolled_together_singers_first(audio_root, cohort, size):
    """Gallery by gallery: crowding is by those in it, and of who is heard and enrolled nothing is known."""
    found = population(audio_root, cohort)
    llrs = found.llr(PLAIN)

    maxima = found.maxima(PLAIN, NEAR, size, 4, seed=5)

    galleries = tail.random_galleries(7, size, 4, first=found.sings, seed=5)
    n_crowded = 0
    for best, voices in zip(maxima, galleries, strict=True):
        assert size == 1 or found.sings[voices].sum() == 2
        for track, person in enumerate(found.person):
            others = [voice for voice in voices if found.voices[voice] != person]
            of_artists = artist_crowding(found.between.select(np.array(others, int), np.array(others, int)), NEAR)
            of_track = track_crowding(llrs[track : track + 1, others], NEAR.track)[0]
            expected = np.round(llrs[track, others] - of_artists - of_track, 2)
            assert best[track] == pytest.approx(expected.max(initial=-np.inf), abs=1e-9)
            n_crowded += int((of_artists + of_track > 0).any())
    assert len(maxima) == (1 if size == 7 else 4)
    assert n_crowded > 0 or size == 1


def noise(n_strangers: int = 120, n_voices: int = 20) -> Population:
    """Strangers of six corpora, some of whom are enrolled too, against voices: norm_scores that are noise."""
    rng = np.random.default_rng(4)
    names = [f"corpus{k % 6}-{k}" for k in range(n_strangers)]
    voices = [*names[:5], *(f"voice-{k}" for k in range(n_voices - 5))]
    person = np.repeat(names, 2)
    between = Between(*(rng.normal(0, 1, (n, n_voices)) for n in (n_voices, 50)))
    np.fill_diagonal(between.others, -np.inf)
    return Population(
        voices=voices,
        sings=np.arange(n_voices) % 3 == 0,
        norm=rng.normal(0, 1, (len(person), n_voices)),
        compared=person[:, None] != np.array(voices)[None, :],
        accompaniment=np.zeros(len(person)),
        between=between,
        abstains=np.arange(len(person)) == 7,
        person=person,
        condition=np.tile(["sung alone 10 s", "sung +0db 10 s"], n_strangers),
    )


def test_the_tail_is_of_voices_enrolled_together_and_its_margin_over_corpora_too():
    crowd = noise()

    fitted = crowd.fit_tail(PLAIN, NEAR)

    best = crowd.maxima(PLAIN, NEAR, 20, 1)[0]
    assert fitted.n_voices == 20
    assert fitted.shares == pytest.approx([np.mean(best >= level - 1e-6) for level in fitted.levels], abs=1e-6)
    own = np.array([crowd.voices.index(name) if name in crowd.voices else -1 for name in crowd.person])
    alone = tail.fit_tail(
        crowd.llr(PLAIN),
        *crowd.codes(),
        first=crowd.sings,
        together=together(crowd.between, PLAIN, NEAR),
        own=own,
        source=np.array([int(name[6]) for name in crowd.person]),
    )
    assert fitted == alone
    assert fitted.levels != crowd.fit_tail(PLAIN, NearLevels()).levels


def test_corpora_are_numbered_by_what_ids_begin_with():
    assert [corpus_of(name) for name in ("nus-ada", "libri-70", "georgian-folk-1")] == ["nus", "libri", "georgian"]
    crowd = noise()

    found = crowd.sources()

    pairs = set(zip((name.split("-")[0] for name in crowd.person), found.tolist(), strict=True))
    assert len(pairs) == len(set(found.tolist())) == 6


def test_a_part_of_a_population_has_some_tracks_and_some_voices():
    crowd = noise()
    tracks, voices = np.arange(240) % 5 == 0, np.arange(20) >= 4

    part = crowd.select(tracks, voices)

    assert part.voices == crowd.voices[4:]
    assert (
        part.person.tolist() == crowd.person[::5].tolist() and part.condition.tolist() == crowd.condition[::5].tolist()
    )
    np.testing.assert_array_equal(part.sings, crowd.sings[4:])
    np.testing.assert_array_equal(part.norm, crowd.norm[::5, 4:])
    np.testing.assert_array_equal(part.compared, crowd.compared[::5, 4:])
    np.testing.assert_array_equal(part.accompaniment, crowd.accompaniment[::5])
    np.testing.assert_array_equal(part.between.others, crowd.between.others[4:, 4:])
    np.testing.assert_array_equal(part.between.cohort, crowd.between.cohort[:, 4:])
    np.testing.assert_array_equal(part.abstains, crowd.abstains[::5])


@pytest.mark.usefixtures("embedded")
def test_persons_and_conditions_are_numbered_for_the_tail(audio_root, cohort):
    found = population(audio_root, cohort)

    person, condition = found.codes()

    assert len(set(zip(found.person, person.tolist(), strict=True))) == len(set(person.tolist())) == 6
    assert len(set(zip(found.condition, condition.tolist(), strict=True))) == len(set(condition.tolist())) == 12
    again = replace(found, person=found.person[::-1], condition=found.condition[::-1]).codes()
    assert (again[0][::-1].tolist(), again[1][::-1].tolist()) == (person.tolist(), condition.tolist())
