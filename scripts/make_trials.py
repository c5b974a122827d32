"""Write the trials every benchmark uses: who is enrolled from what, what is tried, and under which music.

    python scripts/make_trials.py --out DIR

Ids and rules only, never audio; the same manifests and seed give the same bytes. Choose on fold A, report on fold B:
persons, pieces of music and instrumentals are all divided between the two.

    from make_trials import load_trials              # or build_trials(audio_root, "A")["speech"]
    trials = load_trials(DIR, "speech", "A")
    vectors = {key: embed(render(audio_root, item)) for key, item in trials.audio_items().items()}
    pairs = trials.pairs()                           # integer and bool arrays, one entry per trial

Sets
----
=====================  =============================================================================================
sung-CORPUS            ravdess, nus, gtsinger, mir1k: each clip of dev/singing against each clip of another recording
                       of the corpus; target where the person is the same. Both orders, so that +music is the same
                       trials. RAVDESS: everybody has the same text and melody. NUS, GTSinger: some songs in common.
sung-CORPUS+6db, +0db  the same trials, music under the test side only, voice 6 or 0 dB above it. A clip has the same
                       piece and offset at both levels and in every set.
sung-mir1k+mix         clean clip against the clip with its real karaoke accompaniment, of another song
mix-mir1k              enrolled from the clean voice of three songs (every choice of three is a model), tried with
                       dev/mixes of the songs left
speech                 as sung-CORPUS, over dev/speech: impostors from the same corpus; corpora with one person left out
cross-style            enrolled speaking, tried singing: those who do both, all of GTSinger and of one site. A model is
                       all a person says. Most impostors sing in another language than the model speaks, targets never
                       do, and what is said may be the words of what is sung: both flatter every encoder.
clone-singing          converted or synthesised clips against every enrolled voice of the fold. A model is one person
clone-speech           from one site (singing where there is any, else speech; for clone-speech, speech), so that
                       `same_site` is a property of the pair: report same-site and other-site apart, and average over
                       targets. The source of a conversion is neither target nor impostor: see `source_pairs`.
strangers-spoken       open set. The gallery: every singer of the fold with two recordings or more (RAVDESS apart),
strangers-sung         enrolled from half of them; mates are the other half. Strangers: dev/strangers who speak; or
strangers-sung+6db ..  singing and recitation of everybody, each without their own model (leave one out), so all
strangers-mixes        impostors of the same corpus stay in; or JamendoLyrics songs and MIR-1K mixes; or instrumentals.
instrumentals          +6db, +0db: music under mates and strangers.
=====================  =============================================================================================

Rules that hold in every set: no person of the other fold; never the same `recording` on both sides of a pair.

Format
------
DIR/NAME.FOLD.json, one JSON object: `format`, `name`, `fold`, `seed`, `scope`, `rule` (words), `mixing` (words),
`manifests` (sha256 of each CSV read), then three tables, one row a line. Rows refer to each other by number from 0.

clips   [path, person_id, corpus, recording, site, duration_s]
models  [model_id, [clip, ...]]                  all clips of a model are of one person
tests   [clip, role, music_path, music_offset_s, level_db, source_person, barred_person]
        role: real, clone, mate, stranger, instrumental; the rest null where it does not apply

Pairs are not stored, they follow: model x test, except where they share a recording, where the model's person is the
test's barred_person, and, with scope "corpus", where the corpora differ. A pair is a target when the persons are the
same. Of an instrumental the "person" is its piece of music, so that intervals resample pieces.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from trial_audio import DEFAULT_AUDIO, MIXING_RULE, AudioItem

FORMAT = 1
SEED = 1
FOLDS = ("A", "B")

SUNG_CORPORA = ("ravdess", "nus", "gtsinger", "mir1k")
SPEECH_CORPORA = ("libri", "vctk", "gtsinger", "mls", "valle", "yourtts", "ljspeech")
#: RAVDESS actors all sing the same two sentences to the same melody: in a gallery they would measure the song.
NOT_IN_GALLERY = ("ravdess",)
#: Corpora of dev/strangers that are sung or chanted; the others speak.
SUNG_STRANGER_CORPORA = ("recitation", "georgian-folk")
#: dB of the voice over the music.
LEVELS_DB = (6.0, 0.0)
SONGS_ENROLLED = 3
#: Shorter pieces of dev/music are jingles that end before the voice has begun, and one drum break.
MIN_MUSIC_S = 10.0


@dataclass(frozen=True)
class Clip:
    """One recording of a manifest.

    Attributes
    ----------
    path : str
        Below the folder of recordings.
    person_id, corpus : str
        For a clone the person imitated; for an instrumental its piece of music.
    recording : str
        Clips with the same value are copies or cuts of one recording.
    site : str
        Where it comes from; clips of one site share codec, rate and loudness.
    duration_s : float
    """

    path: str
    person_id: str
    corpus: str
    recording: str
    site: str
    duration_s: float


@dataclass(frozen=True)
class Model:
    """An enrolled person: the clips (numbers in `TrialSet.clips`) whose embeddings are averaged."""

    model_id: str
    clips: tuple[int, ...]


@dataclass(frozen=True)
class Test:
    """A track that is tried against the models.

    Attributes
    ----------
    clip : int
        Number in `TrialSet.clips`.
    role : str
        real, clone, mate, stranger or instrumental.
    item : AudioItem
        What is heard.
    source_person : str or None
        Who sang or spoke the original of a conversion.
    barred_person : str or None
        The person this test is never compared with: the source; a stranger who is enrolled for other tests.
    """

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    clip: int
    role: str
    item: AudioItem
    source_person: str | None = None
    barred_person: str | None = None


@dataclass(frozen=True)
class Pairs:
    """Trials as arrays, one entry each, ordered by test and then by model.

    Attributes
    ----------
    enroll_index, test_index : (n,) int64
        Rows of `TrialSet.models` and `TrialSet.tests`.
    is_target : (n,) bool
        The track carries the model's person, or an imitation of that person.
    same_site, same_corpus : (n,) bool
        Any clip of the model is from the test's site; model and test are of one corpus.
    enroll_person, test_person : (n,) int64
        Numbers in `persons`, for the bootstrap.
    persons : tuple of str
        In order.
    """

    enroll_index: np.ndarray
    test_index: np.ndarray
    is_target: np.ndarray
    same_site: np.ndarray
    same_corpus: np.ndarray
    enroll_person: np.ndarray
    test_person: np.ndarray
    persons: tuple[str, ...]


@dataclass(frozen=True)
class TrialSet:
    """One set of trials of one fold; see the top of this file."""

    name: str
    fold: str
    seed: int
    scope: str
    rule: str
    manifests: dict[str, str]
    clips: tuple[Clip, ...]
    models: tuple[Model, ...]
    tests: tuple[Test, ...]

    def audio_items(self) -> dict[str, AudioItem]:
        """Every distinct sound of the set by its key, clips of models first: embed each once."""
        heard = [AudioItem(self.clips[clip].path) for model in self.models for clip in model.clips]
        return {item.key: item for item in [*heard, *(test.item for test in self.tests)]}

    def audio_keys(self) -> list[str]:
        """Keys of `audio_items`, in order."""
        return list(self.audio_items())

    def model_keys(self) -> list[list[str]]:
        """Keys of the clips of each model."""
        return [[self.clips[clip].path for clip in model.clips] for model in self.models]

    def test_keys(self) -> list[str]:
        """Key of each test."""
        return [test.item.key for test in self.tests]

    def model_persons(self) -> list[str]:
        """Person of each model."""
        return [self.clips[model.clips[0]].person_id for model in self.models]

    def test_persons(self) -> list[str]:
        """Person of each test: for a clone the one imitated, for an instrumental its piece."""
        return [self.clips[test.clip].person_id for test in self.tests]

    def test_corpora(self) -> list[str]:
        """Corpus of each test, for averages over corpora."""
        return [self.clips[test.clip].corpus for test in self.tests]

    def test_roles(self) -> np.ndarray:
        """(n_tests,) str."""
        return np.array([test.role for test in self.tests])

    def test_durations_s(self) -> np.ndarray:
        """(n_tests,) float64, from the manifest."""
        return np.array([self.clips[test.clip].duration_s for test in self.tests])

    def pairs(self) -> Pairs:
        """All trials of the set."""
        model_person, model_corpus = self.model_persons(), [self.clips[m.clips[0]].corpus for m in self.models]
        allowed = ~self._any_clip_agrees("recording")
        allowed &= _differ([test.barred_person for test in self.tests], model_person)
        same_corpus = ~_differ(self.test_corpora(), model_corpus)
        if self.scope == "corpus":
            allowed &= same_corpus
        same_person = ~_differ(self.test_persons(), model_person)
        at = np.nonzero(allowed)
        test_index, enroll_index = at
        persons = tuple(sorted({*model_person, *self.test_persons()}))
        number = {person: i for i, person in enumerate(persons)}
        return Pairs(
            enroll_index=enroll_index,
            test_index=test_index,
            is_target=same_person[at],
            same_site=self._any_clip_agrees("site")[at],
            same_corpus=same_corpus[at],
            enroll_person=np.array([number[p] for p in model_person], dtype=np.int64)[enroll_index],
            test_person=np.array([number[p] for p in self.test_persons()], dtype=np.int64)[test_index],
            persons=persons,
        )

    def source_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(enroll_index, test_index) of conversions with models of the one who sang the original, if in this fold.

        Not trials: a score beyond the threshold here names the source, which is to be counted, not an error.
        """
        model_person = self.model_persons()
        source = ~_differ([test.source_person for test in self.tests], model_person)
        test_index, enroll_index = np.nonzero(source)
        return enroll_index, test_index

    def score_table(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of `pairs` as (n_tests, n_models), -inf where not compared, and each test's own model or -1.

        For `registry.metrics.open_set_scores`; in sets where a person has one model.
        """
        pairs = self.pairs()
        if scores.shape != pairs.is_target.shape:
            raise ValueError(f"scores has shape {scores.shape}, {self.name} has {pairs.is_target.size} pairs")
        table = np.full((len(self.tests), len(self.models)), -np.inf)
        table[pairs.test_index, pairs.enroll_index] = scores
        own = np.full(len(self.tests), -1)
        targets = pairs.test_index[pairs.is_target]
        if np.unique(targets).size != targets.size:
            raise ValueError(f"{self.name}: a test has more than one model of its own; use pairs() instead")
        own[targets] = pairs.enroll_index[pairs.is_target]
        return table, own

    def _any_clip_agrees(self, field: str) -> np.ndarray:
        """(n_tests, n_models) bool: some clip of the model has the test's value of a field of `Clip`."""
        of_test: dict[str, list[int]] = defaultdict(list)
        for i, test in enumerate(self.tests):
            of_test[getattr(self.clips[test.clip], field)].append(i)
        agrees = np.zeros((len(self.tests), len(self.models)), dtype=bool)
        for j, model in enumerate(self.models):
            for value in {getattr(self.clips[clip], field) for clip in model.clips}:
                agrees[of_test.get(value, []), j] = True
        return agrees


def _differ(rows: Sequence[str | None], columns: Sequence[str]) -> np.ndarray:
    """(n_rows, n_columns) bool; None differs from everything."""
    number = {value: i for i, value in enumerate(sorted(set(columns)))}
    left = np.array([-1 if value is None else number.get(value, -1) for value in rows], dtype=np.int64)
    right = np.array([number[value] for value in columns], dtype=np.int64)
    return left[:, None] != right[None, :]


# --- reading the manifests --------------------------------------------------------------------------------------------

MANIFESTS = ("dev/voices.csv", "dev/strangers.csv", "dev/music.csv", "dev/instrumental.csv")


@dataclass(frozen=True)
class Material:
    """What one fold has to offer."""

    fold: str
    seed: int
    manifests: dict[str, str]
    singing: list[Clip]
    speech: list[Clip]
    mixes: list[Clip]
    clones: list[tuple[Clip, str, str | None]]  # clip, vocal (singing or speech), source person
    spoken_strangers: list[Clip]
    sung_strangers: list[Clip]
    instrumentals: list[Clip]
    music: dict[str, list[tuple[str, float]]]  # piece: [(path, duration_s), ...]


def read_material(audio_root: Path, fold: str, seed: int) -> Material:
    """Read the manifests of `audio_root` for one fold."""
    if fold not in FOLDS:
        raise ValueError(f"fold is {fold!r}; A or B")
    rows, digests = {}, {}
    for name in MANIFESTS:
        content = (audio_root / name).read_bytes()
        digests[name] = hashlib.sha256(content).hexdigest()
        rows[name] = list(csv.DictReader(content.decode("utf-8").splitlines()))
    voices = [row for row in rows["dev/voices.csv"] if row["fold"] == fold]
    strangers = [row for row in rows["dev/strangers.csv"] if row["fold"] == fold]
    of_kind: dict[str, list[Clip]] = defaultdict(list)
    clones = []
    for row in voices:
        clip = _voice_clip(row)
        of_kind[row["kind"]].append(clip)
        if row["kind"] == "clones":
            clones.append((clip, row["vocal"], row["source_person"] or None))
    stranger_clips = [
        # The manifest has no recordings for strangers: nobody of them is enrolled, so each clip is its own.
        Clip(row["path"], row["person_id"], row["corpus"], row["path"], row["site"], float(row["duration_s"]))
        for row in strangers
    ]
    music: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in _pieces_of_fold(rows["dev/music.csv"], fold):
        if float(row["duration_s"]) >= MIN_MUSIC_S:
            music[row["track"]].append((row["path"], float(row["duration_s"])))
    instrumentals = [
        Clip(
            path=row["path"],
            person_id=f"instrumental:{row['track']}",
            corpus="instrumental",
            recording=row["track"],
            site=row["source"],
            duration_s=float(row["duration_s"]),
        )
        for row in _pieces_of_fold(rows["dev/instrumental.csv"], fold)
    ]
    return Material(
        fold=fold,
        seed=seed,
        manifests=digests,
        singing=of_kind["singing"],
        speech=of_kind["speech"],
        mixes=of_kind["mixes"],
        clones=clones,
        spoken_strangers=[clip for clip in stranger_clips if clip.corpus not in SUNG_STRANGER_CORPORA],
        sung_strangers=[clip for clip in stranger_clips if clip.corpus in SUNG_STRANGER_CORPORA],
        instrumentals=instrumentals,
        music=dict(music),
    )


def _voice_clip(row: dict[str, str]) -> Clip:
    person = row["person_id"]
    return Clip(row["path"], person, person.split("-")[0], row["recording"], row["site"], float(row["duration_s"]))


def _pieces_of_fold(rows: list[dict[str, str]], fold: str) -> list[dict[str, str]]:
    """Divide music by piece (its reverse with it), most clips first, each piece to the fold that has fewer clips."""
    clips_of: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        clips_of[row["track"].removesuffix("_reverse")].append(row)
    totals = dict.fromkeys(FOLDS, 0)
    chosen = []
    for _, clips in sorted(clips_of.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        taker = min(FOLDS, key=lambda name: totals[name])
        totals[taker] += len(clips)
        if taker == fold:
            chosen += clips
    return sorted(chosen, key=lambda row: row["path"])


def rng_of(seed: int, *labels: str) -> np.random.Generator:
    """A generator of its own for each thing drawn, so that a new clip changes no other clip's draw."""
    digest = hashlib.sha256("\0".join([str(seed), *labels]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


# --- building the sets ------------------------------------------------------------------------------------------------


class _Builder:
    """Collects clips, models and tests of one set; a clip gets one number however often it is used."""

    def __init__(self, material: Material, name: str, scope: str, rule: str) -> None:
        self.material, self.name, self.scope, self.rule = material, name, scope, rule
        self._number: dict[Clip, int] = {}
        self._models: list[Model] = []
        self._tests: list[Test] = []

    def _clip(self, clip: Clip) -> int:
        return self._number.setdefault(clip, len(self._number))

    def model(self, model_id: str, clips: Iterable[Clip]) -> None:
        self._models.append(Model(model_id, tuple(self._clip(clip) for clip in clips)))

    def test(self, clip: Clip, role: str, *, source: str | None = None, barred: str | None = None) -> None:
        self._tests.append(Test(self._clip(clip), role, AudioItem(clip.path), source, barred))

    def build(self) -> TrialSet:
        return TrialSet(
            name=self.name,
            fold=self.material.fold,
            seed=self.material.seed,
            scope=self.scope,
            rule=self.rule,
            manifests=self.material.manifests,
            clips=tuple(self._number),
            models=tuple(self._models),
            tests=tuple(self._tests),
        )


def build_trials(audio_root: Path, fold: str, seed: int = SEED) -> dict[str, TrialSet]:
    """Build every set of a fold.

    Parameters
    ----------
    audio_root : Path
        Folder of recordings; only its manifests are read.
    fold : str
        A (to choose) or B (to report).
    seed : int
        Decides the music under each clip and which recordings are enrolled.

    Returns
    -------
    dict of str to TrialSet
        By name, in the order of the table at the top.
    """
    material = read_material(audio_root, fold, seed)
    sets = []
    for corpus in SUNG_CORPORA:
        clean = _all_pairs(material, f"sung-{corpus}", [c for c in material.singing if c.corpus == corpus])
        sets += [clean, *_with_music(material, clean)]
    sets += [
        _karaoke_pairs(material),
        _karaoke_three_songs(material),
        _all_pairs(material, "speech", [c for c in material.speech if c.corpus in SPEECH_CORPORA]),
        _cross_style(material),
        _clones(material, "singing"),
        _clones(material, "speech"),
        _open_set(material, "strangers-spoken", material.spoken_strangers),
    ]
    sung = _open_set(material, "strangers-sung", [*material.singing, *material.sung_strangers])
    mixes = _open_set(material, "strangers-mixes", material.mixes, mates=material.mixes)
    sets += [sung, *_with_music(material, sung), mixes]
    sets.append(_open_set(material, "instrumentals", material.instrumentals, role="instrumental"))
    return {trials.name: trials for trials in sets}


def _all_pairs(material: Material, name: str, clips: list[Clip]) -> TrialSet:
    builder = _Builder(
        material, name, "corpus", "each clip against each clip of another recording of its corpus, both orders"
    )
    persons: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        persons[clip.corpus].add(clip.person_id)
    # A corpus with one person has targets and no impostors: pooled, they would be judged by other corpora's impostors.
    for clip in sorted((c for c in clips if len(persons[c.corpus]) > 1), key=lambda c: c.path):
        builder.model(clip.path, [clip])
        builder.test(clip, "real")
    return builder.build()


def _karaoke_pairs(material: Material) -> TrialSet:
    builder = _Builder(
        material,
        "sung-mir1k+mix",
        "corpus",
        "each clean clip against each clip with its accompaniment, of another song",
    )
    for clip in _of_corpus(material.singing, "mir1k"):
        builder.model(clip.path, [clip])
    for clip in _of_corpus(material.mixes, "mir1k"):
        builder.test(clip, "real")
    return builder.build()


def _karaoke_three_songs(material: Material) -> TrialSet:
    builder = _Builder(
        material,
        "mix-mir1k",
        "corpus",
        f"every choice of {SONGS_ENROLLED} songs of a singer (clean voice) against clips with accompaniment of "
        "the songs left",
    )
    for person, clips in by_person(_of_corpus(material.singing, "mir1k")).items():
        for songs in itertools.combinations(sorted({clip.recording for clip in clips}), SONGS_ENROLLED):
            builder.model("+".join([person, *songs]), [clip for clip in clips if clip.recording in songs])
    for clip in _of_corpus(material.mixes, "mir1k"):
        builder.test(clip, "real")
    return builder.build()


def _cross_style(material: Material) -> TrialSet:
    builder = _Builder(
        material,
        "cross-style",
        "corpus",
        "everybody with speech and singing: a model of all the speech of a person against each clip of singing",
    )
    spoken, sung = by_person(material.speech), by_person(material.singing)
    for person in sorted(spoken.keys() & sung.keys()):
        builder.model(person, spoken[person])
        for clip in sung[person]:
            builder.test(clip, "real")
    return builder.build()


def _clones(material: Material, vocal: str) -> TrialSet:
    builder = _Builder(
        material,
        f"clone-{vocal}",
        "all",
        "each clone against each person of the fold, a model per person and site; the source of a conversion left out",
    )
    speech = by_person(material.speech)
    voices = {**speech, **by_person(material.singing)} if vocal == "singing" else speech
    for person, clips in sorted(voices.items()):
        for site, of_site in itertools.groupby(sorted(clips, key=lambda c: (c.site, c.path)), key=lambda c: c.site):
            builder.model(f"{person}@{site}", of_site)
    # A clone whose target has no reference here can only be compared with others: it would be an impostor for ever.
    for clip, clone_vocal, source in sorted(material.clones, key=lambda entry: entry[0].path):
        if clone_vocal == vocal and clip.person_id in voices:
            builder.test(clip, "clone", source=source, barred=source)
    return builder.build()


def _open_set(
    material: Material, name: str, strangers: list[Clip], *, mates: list[Clip] | None = None, role: str = "stranger"
) -> TrialSet:
    builder = _Builder(
        material,
        name,
        "all",
        "gallery: singers of the fold with two recordings or more, RAVDESS apart, enrolled from half of them; mates: "
        "the recordings left; strangers: everybody else, and the enrolled each without their own model",
    )
    enrolled = _gallery_recordings(material)
    for person, clips in by_person(material.singing).items():
        if person in enrolled:
            builder.model(person, [clip for clip in clips if clip.recording in enrolled[person]])
    for clip in sorted(material.singing if mates is None else mates, key=lambda c: c.path):
        if clip.person_id in enrolled and clip.recording not in enrolled[clip.person_id]:
            builder.test(clip, "mate")
    for clip in sorted(strangers, key=lambda c: c.path):
        builder.test(clip, role, barred=clip.person_id if clip.person_id in enrolled else None)
    return builder.build()


def _gallery_recordings(material: Material) -> dict[str, set[str]]:
    """Recordings each singer of the gallery is enrolled from: half of them, rounded up."""
    enrolled = {}
    for person, clips in by_person(material.singing).items():
        recordings = sorted({clip.recording for clip in clips})
        if len(recordings) > 1 and clips[0].corpus not in NOT_IN_GALLERY:
            order = rng_of(material.seed, "gallery", person).permutation(len(recordings))
            enrolled[person] = {recordings[i] for i in order[: (len(recordings) + 1) // 2]}
    return enrolled


def _with_music(material: Material, clean: TrialSet) -> list[TrialSet]:
    """The same trials with music under the tests, at each level."""
    return [
        replace(
            clean,
            name=f"{clean.name}+{level_db:g}db",
            rule=f"{clean.rule}; music of dev/music under the test side, {level_db:+g} dB",
            tests=tuple(replace(test, item=under_music(material, test.item.path, level_db)) for test in clean.tests),
        )
        for level_db in LEVELS_DB
    ]


def under_music(material: Material, path: str, level_db: float) -> AudioItem:
    """A clip over a piece of the fold's music, always the same one at the same offset for the same path."""
    # By piece first: one of them has seven clips, and would otherwise be under a quarter of the voices.
    rng = rng_of(material.seed, "music", path)
    pieces = sorted(material.music)
    clips = sorted(material.music[pieces[rng.integers(len(pieces))]])
    music_path, duration_s = clips[rng.integers(len(clips))]
    return AudioItem(path, music_path, round(float(rng.uniform(0, duration_s)), 2), level_db)


def _of_corpus(clips: list[Clip], corpus: str) -> list[Clip]:
    return sorted((clip for clip in clips if clip.corpus == corpus), key=lambda clip: clip.path)


def by_person(clips: list[Clip]) -> dict[str, list[Clip]]:
    """Clips of each person, in order."""
    of_person: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: (clip.person_id, clip.path)):
        of_person[clip.person_id].append(clip)
    return dict(of_person)


# --- files ------------------------------------------------------------------------------------------------------------


def write_trials(trials: TrialSet, out_dir: Path) -> Path:
    """Write one set to OUT_DIR/NAME.FOLD.json; the same set gives the same bytes."""
    head = {
        "format": FORMAT,
        "name": trials.name,
        "fold": trials.fold,
        "seed": trials.seed,
        "scope": trials.scope,
        "rule": trials.rule,
        "mixing": MIXING_RULE,
        "manifests": trials.manifests,
    }
    tables = {
        "clips": [[c.path, c.person_id, c.corpus, c.recording, c.site, c.duration_s] for c in trials.clips],
        "models": [[model.model_id, list(model.clips)] for model in trials.models],
        "tests": [_test_row(test) for test in trials.tests],
    }
    lines = [f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in head.items()]
    for key, rows in tables.items():
        body = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
        lines.append(f'"{key}": [\n{body}\n]')
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / f"{trials.name}.{trials.fold}.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def _test_row(test: Test) -> list[object]:
    item = test.item
    music = [None, None, None] if item.music_path is None else [item.music_path, item.music_offset_s, item.level_db]
    return [test.clip, test.role, *music, test.source_person, test.barred_person]


def load_trials(trials_dir: Path, name: str, fold: str, audio_root: Path | None = None) -> TrialSet:
    """Read one set back.

    Parameters
    ----------
    trials_dir : Path
        Where `write_trials` put it.
    name, fold : str
        For instance ``sung-nus+6db`` and ``A``.
    audio_root : Path, optional
        When given, its manifests must be those the trials were made from.

    Raises
    ------
    ValueError
        If the file is of another format, or the manifests have changed since.
    """
    path = trials_dir / f"{name}.{fold}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["format"] != FORMAT:
        raise ValueError(f"{path}: format {stored['format']}, {FORMAT} is needed; run scripts/make_trials.py again")
    if audio_root is not None:
        for manifest, digest in stored["manifests"].items():
            if hashlib.sha256((audio_root / manifest).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{path}: {manifest} has changed since; run scripts/make_trials.py again")
    clips = tuple(Clip(*row) for row in stored["clips"])
    tests = []
    for clip, role, music_path, offset_s, level_db, source, barred in stored["tests"]:
        item = AudioItem(clips[clip].path)
        if music_path is not None:
            item = AudioItem(clips[clip].path, music_path, offset_s, level_db)
        tests.append(Test(clip, role, item, source, barred))
    return TrialSet(
        **{key: stored[key] for key in ("name", "fold", "seed", "scope", "rule", "manifests")},
        clips=clips,
        models=tuple(Model(model_id, tuple(numbers)) for model_id, numbers in stored["models"]),
        tests=tuple(tests),
    )


# --- command line -----------------------------------------------------------------------------------------------------


def count_line(trials: TrialSet) -> str:
    """Counts of a set, as a row of the table that is printed."""
    pairs = trials.pairs()
    target = pairs.is_target
    target_persons = np.unique(pairs.test_person[target]).size
    roles = trials.test_roles()
    numbers = [
        len(trials.models),
        len(trials.tests),
        len(set(trials.model_persons())),
        target_persons,
        int(target.sum()),
        int((~target).sum()),
        int((target & pairs.same_site).sum()),
        int((~target & pairs.same_site).sum()),
        int(np.isin(roles, ["stranger", "instrumental"]).sum()),
        len(trials.audio_items()),
    ]
    return f"{trials.name:20} {trials.fold:4}" + "".join(f"{number:>9,}" for number in numbers)


COUNT_HEAD = f"{'set':20} {'fold':4}" + "".join(
    f"{name:>9}"
    for name in (
        "models",
        "tests",
        "enrolled",
        "target p",
        "targets",
        "nontarg",
        "t site",
        "n site",
        "stranger",
        "sounds",
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trials")
    parser.add_argument("--fold", choices=FOLDS, help="only this fold")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    print(COUNT_HEAD)
    for fold in [options.fold] if options.fold else FOLDS:
        for trials in build_trials(options.audio, fold, options.seed).values():
            write_trials(trials, options.out)
            print(count_line(trials))
    return 0


if __name__ == "__main__":
    sys.exit(main())
