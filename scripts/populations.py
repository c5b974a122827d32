"""Who may be enrolled and who is a stranger, and strangers' tracks of any length: for thresholds and their proof.

The sets of `make_trials` answer whether a voice is found. How often a stranger is flagged wants more voices and more
tracks than they have: here everybody of a fold can be enrolled, and a stranger is heard for minutes, alone and over
music. A person's clips follow one another, again and again in the same order, as the music does, so that a long track
holds no more voice than the clips do; `cut_tracks` cuts shorter ones out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from make_trials import NOT_IN_GALLERY, SEED, Clip, by_person, read_material, rng_of, under_music
from trial_audio import AudioItem
from trial_vectors import House, ItemVectors, embed_items

from registry import scoring, tail
from registry.calibration import together
from registry.condense import condense_windows
from registry.crowding import Between, NearLevels, score_between
from registry.llr import LlrModel, llr_of, measures
from registry.scoring import CohortModel

#: How a stranger's track is heard: name -> dB of the voice over the music, None for no music.
LEVELS = {"alone": None, "+6db": 6.0, "+0db": 0.0}
#: Seconds of the tracks that are cut out of a long one.
LENGTHS_S = (10.0, 60.0, 240.0)


@dataclass(frozen=True)
class Persons:
    """Everybody of a fold: person -> clips. Of a person who sings only the singing.

    Attributes
    ----------
    singers, speakers : dict of str to list of Clip
        Of dev/singing and dev/speech.
    strangers : dict of str to list of Clip
        Of dev/strangers, singing and reciting ones too.
    """

    singers: dict[str, list[Clip]]
    speakers: dict[str, list[Clip]]
    strangers: dict[str, list[Clip]]

    @property
    def everybody(self) -> dict[str, list[Clip]]:
        """All of them."""
        return {**self.strangers, **self.speakers, **self.singers}


@dataclass(frozen=True)
class LongTrack:
    """A stranger's track: who, how, and what is heard."""

    person: str
    condition: str
    item: AudioItem


def read_persons(audio_root: Path, fold: str, seed: int = SEED) -> Persons:
    """The persons of a fold."""
    material = read_material(audio_root, fold, seed)
    singers = by_person(material.singing)
    speakers = {person: clips for person, clips in by_person(material.speech).items() if person not in singers}
    return Persons(singers, speakers, by_person([*material.spoken_strangers, *material.sung_strangers]))


def halves(persons: Persons, seed: int = SEED) -> tuple[list[str], list[str]]:
    """Divide persons into those who may be enrolled and those who are heard as strangers, and do nothing else.

    Of singers and of strangers one half each, by a hash; speakers are enrolled.
    """
    enrolled, heard = list(persons.speakers), []
    for group in (persons.singers, persons.strangers):
        names = sorted(group)
        order = rng_of(seed, "halves", *names).permutation(len(names))
        enrolled += [names[i] for i in order[: len(names) // 2]]
        heard += [names[i] for i in order[len(names) // 2 :]]
    return enrolled, heard


def long_tracks(
    audio_root: Path, fold: str, persons: Mapping[str, Sequence[Clip]], length_s: float, seed: int = SEED
) -> list[LongTrack]:
    """One track of each person for each of `LEVELS`, over another piece of music at each."""
    material = read_material(audio_root, fold, seed)
    tracks = []
    for person, clips in sorted(persons.items()):
        paths = [clip.path for clip in clips]
        for condition, level_db in LEVELS.items():
            item = AudioItem(paths[0], then=tuple(paths[1:]), length_s=length_s)
            if level_db is not None:
                under = under_music(material, f"{person} {condition}", level_db)
                music = under.music_path, under.music_offset_s, level_db
                item = AudioItem(paths[0], *music, then=tuple(paths[1:]), length_s=length_s)
            tracks.append(LongTrack(person, condition, item))
    return tracks


def cut_tracks(vectors: ItemVectors, length_s: float, hop_s: float, lengths_s: Sequence[float]) -> list[ItemVectors]:
    """Cut a long track into shorter ones, by its windows: all of it at each length that it holds.

    A piece of n seconds has the windows that such a share of the track has, and the same share of its voice.
    """
    pieces = []
    n = len(vectors.vectors)
    for piece_s in lengths_s:
        n_pieces = int(length_s // piece_s)
        edges = np.linspace(0, n * n_pieces * piece_s / length_s, n_pieces + 1).round().astype(int)
        for first, end in pairwise(edges):
            presence = vectors.presence[first:end]
            if end > first:
                voiced_s = min(piece_s, float(presence.sum()) * hop_s)
                pieces.append(ItemVectors(vectors.vectors[first:end], presence, voiced_s, piece_s, vectors.fell_back))
            else:
                pieces.append(ItemVectors(vectors.vectors[:1], vectors.presence[:1], 0.0, piece_s, True))
    return pieces


@dataclass(frozen=True)
class Population:
    """Strangers' tracks scored against voices that none of them is.

    Attributes
    ----------
    voices : list of str
        Who is enrolled; RAVDESS is not: its actors all sing the same two sentences to one melody.
    sings : (n_voices,) bool
        Enrolled from singing.
    norm : (n_tracks, n_voices) float64
    compared : (n_tracks, n_voices) bool
        Not with oneself; and who is of dev/strangers not with others of the same corpus: the same telephone and the
        same words make recordings alike, not voices. Singers of a corpus are compared.
    accompaniment : (n_tracks,) float64
    between : Between
        The voices with one another, -inf with oneself. Also of one corpus: a registry has artists from one studio, and
        its tracks are compared with all of them.
    abstains : (n_tracks,) bool
    person, condition : (n_tracks,) str
        Who is heard; sung or spoken, alone or over music, and for how long.
    """

    voices: list[str]
    sings: np.ndarray
    norm: np.ndarray
    compared: np.ndarray
    accompaniment: np.ndarray
    between: Between
    abstains: np.ndarray
    person: np.ndarray
    condition: np.ndarray

    def llr(self, model: LlrModel) -> np.ndarray:
        """(n_tracks, n_voices) float64 before crowding is taken off; -inf where not compared or abstaining."""
        llrs = llr_of(measures(self.norm, self.accompaniment[:, None]), model)
        return np.where(self.compared & ~self.abstains[:, None], llrs, -np.inf)

    def llr_of_all(self, model: LlrModel, near: NearLevels) -> np.ndarray:
        """(n_tracks, n_voices) float64 as decided on with all voices enrolled; -inf as in `llr`."""
        enrolled = self.enrolled(model, near)
        llrs: np.ndarray = enrolled["together"](self.llr(model), np.arange(len(self.voices)), enrolled["own"])
        return llrs

    def maxima(self, model: LlrModel, near: NearLevels, size: int, n_galleries: int, *, seed: int = 0) -> np.ndarray:
        """Best llr of each track over random galleries, singers first: `registry.tail.gallery_maxima`."""
        enrolled = self.enrolled(model, near)
        return tail.gallery_maxima(self.llr(model), size, n_galleries, first=self.sings, seed=seed, **enrolled)

    def fit_tail(self, model: LlrModel, near: NearLevels) -> tail.Tail:
        """`registry.tail.fit_tail`, singers first."""
        enrolled = self.enrolled(model, near)
        return tail.fit_tail(self.llr(model), *self.codes(), first=self.sings, source=self.sources(), **enrolled)

    def enrolled(self, model: LlrModel, near: NearLevels) -> dict[str, Any]:
        """What `registry.tail` asks of voices that are enrolled together."""
        place = {voice: i for i, voice in enumerate(self.voices)}
        own = np.array([place.get(person, -1) for person in self.person], np.int64)
        return {"together": together(self.between, model, near), "own": own}

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """`person` and `condition` as (n_tracks,) int, as `registry.tail` takes them."""
        return np.unique(self.person, return_inverse=True)[1], np.unique(self.condition, return_inverse=True)[1]

    def sources(self) -> np.ndarray:
        """Which corpus each track's voice is from: (n_tracks,) int."""
        return np.unique([corpus_of(person) for person in self.person], return_inverse=True)[1]

    def select(self, tracks: np.ndarray, voices: np.ndarray) -> Population:
        """Some tracks, with some of the voices: both (n,) bool."""
        return Population(
            [voice for voice, chosen in zip(self.voices, voices, strict=True) if chosen],
            self.sings[voices],
            self.norm[np.ix_(tracks, voices)],
            self.compared[np.ix_(tracks, voices)],
            self.accompaniment[tracks],
            self.between.select(voices, voices),
            self.abstains[tracks],
            self.person[tracks],
            self.condition[tracks],
        )


def score_population(
    audio_root: Path,
    fold: str,
    system: House,
    cohort: CohortModel,
    cache_dir: Path,
    *,
    heard: Sequence[str] | None = None,
    enrolled: Sequence[str] | None = None,
    lengths_s: Sequence[float] = LENGTHS_S,
) -> Population:
    """Embed a fold's voices and strangers' tracks, as far as they are not kept, and score them as the product does.

    Parameters
    ----------
    heard : sequence of str, optional
        Who is heard as a stranger; by default every singer and stranger of the fold.
    enrolled : sequence of str, optional
        Whose voices they are compared with; by default everybody's.
    lengths_s : sequence of float
        Of tracks; all are cut from one of the longest.
    """
    persons = read_persons(audio_root, fold)
    everybody = persons.everybody
    chosen = sorted({**persons.singers, **persons.strangers}) if heard is None else sorted(heard)
    tracks = long_tracks(audio_root, fold, {name: everybody[name] for name in chosen}, max(lengths_s))
    gallery = {name: everybody[name] for name in (everybody if enrolled is None else enrolled)}
    gallery = {name: clips for name, clips in gallery.items() if clips[0].corpus not in NOT_IN_GALLERY}
    items = {clip.path: AudioItem(clip.path) for clips in gallery.values() for clip in clips}
    items |= {track.item.key: track.item for track in tracks}
    vectors = embed_items(audio_root, items, system, cache_dir, label=f"voices and strangers of fold {fold}")
    templates, starts, voices = enroll_persons(gallery, vectors)
    centres = scoring.artist_centres(templates, starts, cohort)
    between = score_between(templates, starts, templates, starts, cohort, centres=centres)
    np.fill_diagonal(between.others, -np.inf)
    rows = []
    for track in tracks:
        how = f"{'sung' if track.person in persons.singers else 'spoken'} {track.condition}"
        for piece in cut_tracks(vectors[track.item.key], max(lengths_s), system.hop_s, lengths_s):
            scores = scoring.pool_scores(piece.vectors, templates, starts)
            norm = scoring.normalise(scores, piece.vectors, templates, starts, cohort, centres=centres)
            music = scoring.accompaniment(piece.vectors, cohort)
            rows.append((track.person, f"{how} {piece.duration_s:g} s", piece.abstains, music, norm))
    person, condition, abstains, accompaniment, norm = (list(column) for column in zip(*rows, strict=True))
    stranger = np.array([name in persons.strangers for name in person])
    corpora, own = np.array([corpus_of(name) for name in voices]), np.array([corpus_of(name) for name in person])
    oneself = np.array(person)[:, None] == np.array(voices)[None, :]
    alike = stranger[:, None] & (own[:, None] == corpora[None, :])
    return Population(
        voices=voices,
        sings=np.array([name in persons.singers for name in voices]),
        norm=np.array(norm, np.float64),
        compared=~oneself & ~alike,
        accompaniment=np.array(accompaniment),
        between=between,
        abstains=np.array(abstains),
        person=np.array(person),
        condition=np.array(condition),
    )


def corpus_of(person: str) -> str:
    """What a person's recordings are from, by the id; librispeech and libri are one."""
    return person.split("-")[0]


def enroll_persons(
    persons: Mapping[str, Sequence[Clip]], vectors: Mapping[str, ItemVectors]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Templates of persons as enrolling makes them: rows, first row of each, and whose; without who has no voice."""
    groups, names = [], []
    for person, clips in sorted(persons.items()):
        usable = [vectors[clip.path].vectors for clip in clips if not vectors[clip.path].abstains]
        if usable:
            groups.append(condense_windows(np.concatenate(usable))[0])
            names.append(person)
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    return np.concatenate(groups), starts, names
