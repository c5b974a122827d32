"""The owner's own recordings as trials: who is enrolled, who is tested, and the product's scores of everybody with all.

Voiceprints live in memory while they are scored; nothing of them is written or logged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.errors import InvalidAudio
from embeddings.extract import Decoder, Encoder, Voiceprint, embed_file
from registry import scoring
from registry.condense import condense_windows
from registry.crowding import Between, NearLevels, artist_crowding, score_between, track_crowding
from registry.errors import ManifestError
from registry.llr import LlrModel, llr_of, measures
from registry.manifest import MANIFEST_SUFFIXES, bad_row, find_recordings, manifest_rows
from registry.records import Unusable, path_of, path_text, storable
from registry.scoring import CohortModel
from registry.verdict import MIN_VOICE_S

#: What a manifest may say of a recording's kind.
KINDS = ("voice", "clone")


@dataclass(frozen=True)
class Recording:
    """A file, and whose voice it is said to carry.

    Attributes
    ----------
    path : str
        As `registry.records.path_text` gives it.
    person : str
        One spelling per human being; of a clone the person it imitates.
    is_clone : bool
    recording : str
        Files of one recording are enrolled together or tested together.
    source : str or None
        Where it comes from (a site, a label, a microphone), where that is known.
    """

    path: str
    person: str
    is_clone: bool = False
    recording: str = ""
    source: str | None = None


@dataclass(frozen=True)
class Heard:
    """A recording and its voice."""

    recording: Recording
    voice: Voiceprint

    @property
    def abstains(self) -> bool:
        """Whether the product says nothing about it."""
        return self.voice.voiced_s < MIN_VOICE_S or len(self.voice.vectors) == 0


# --- reading ----------------------------------------------------------------------------------------------------------


def list_trials(given: Path) -> tuple[list[Recording], list[Unusable]]:
    """The recordings in a folder or manifest, and what in it is not one.

    Parameters
    ----------
    given : Path
        A folder with one folder per person, audio at any depth in it: each file is a recording. Or a manifest, CSV with
        a header or JSON lines, with columns `path` and `person` and, where known, `kind` (voice or clone), `recording`
        (clips of one recording share it) and `source`. A relative path is taken from the manifest's folder.

    Raises
    ------
    ManifestError
        It is neither, or a row cannot be read; the message names file and line.
    """
    if given.is_dir():
        return _list_folder(given)
    if given.suffix.lower() in MANIFEST_SUFFIXES:
        return _list_manifest(given)
    if not given.exists():
        raise ManifestError(f"{given}: there is no such folder or manifest")
    raise ManifestError(
        f"{given}: neither a folder, with one folder per person in it, nor a manifest ({', '.join(MANIFEST_SUFFIXES)})"
    )


def _list_folder(folder: Path) -> tuple[list[Recording], list[Unusable]]:
    recordings, unusable = [], []
    for path in find_recordings(folder):
        within = path.relative_to(folder)
        if len(within.parts) < 2:
            reason = "lies in no person's folder; each person has one folder, named after the person"
            unusable.append(Unusable(path_text(path), "no_person", reason))
        else:
            recordings.append(Recording(path_text(path), storable(within.parts[0]), recording=storable(str(within))))
    return recordings, unusable


def _list_manifest(manifest: Path) -> tuple[list[Recording], list[Unusable]]:
    recordings, unusable = [], []
    for number, row in manifest_rows(manifest):

        def text(name: str, row: dict[str, Any] = row, number: int = number) -> str:
            value = row.get(name)
            if value is not None and not isinstance(value, str):
                raise bad_row(manifest, number, f"`{name}` is {value!r}, not text")
            return storable((value or "").strip())

        kind = text("kind") or KINDS[0]
        if kind not in KINDS:
            raise bad_row(manifest, number, f"`kind` is {kind!r}; {' or '.join(KINDS)} is meant")
        if not (person := text("person")):
            raise bad_row(manifest, number, "no `person`; whose voice the recording carries or imitates is needed")
        if not (path := row.get("path") or ""):
            unusable.append(Unusable(f"{path_text(manifest)}, line {number}", "missing", "this row has no `path`"))
        elif not isinstance(path, str):
            raise bad_row(manifest, number, f"`path` is {path!r}, not text")
        else:
            recordings.append(
                Recording(
                    path=path_text(manifest.parent / path_of(path)),
                    person=person,
                    is_clone=kind == "clone",
                    recording=text("recording") or storable(path),
                    source=text("source") or None,
                )
            )
    return recordings, unusable


def hear(
    recordings: Iterable[Recording],
    encoder: Encoder,
    *,
    decoder: Decoder | None = None,
    on_recording: Callable[[], None] = lambda: None,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[list[Heard], list[Unusable]]:
    """Embed recordings; those that cannot be used, or hold the sound of another one, come back with the reason.

    Parameters
    ----------
    decoder, on_progress
        As `embed_file` takes them.
    on_recording : callable
        Called after each recording.
    """
    heard: list[Heard] = []
    unusable: list[Unusable] = []
    first: dict[str, Recording] = {}
    for recording in recordings:
        try:
            voice = embed_file(path_of(recording.path), encoder, decoder=decoder, on_progress=on_progress)
        except InvalidAudio as error:
            unusable.append(Unusable(recording.path, error.kind, error.reason))
        else:
            # Enrolled and tested with the same sound everybody would be found; as two persons nobody could be.
            other = first.setdefault(voice.content_id, recording)
            if other is recording:
                heard.append(Heard(recording, voice))
            else:
                whose = "" if other.person == recording.person else f" of {other.person}; whose voice is it?"
                reason = f"the same sound as {other.path}{whose or ', which is used'}"
                unusable.append(Unusable(recording.path, "duplicate", reason))
        on_recording()
    return heard, unusable


def enrolled_half(recordings: Sequence[Recording]) -> set[tuple[str, str]]:
    """Which recordings are enrolled, as (person, recording): half of each person's, rounded down, by a hash.

    Clones are never enrolled; who has one recording is a stranger to the others and nothing else.
    """
    by_person: dict[str, set[str]] = {}
    for item in recordings:
        if not item.is_clone:
            by_person.setdefault(item.person, set()).add(item.recording)
    chosen: set[tuple[str, str]] = set()
    for person, names in by_person.items():
        ordered = sorted(names, key=lambda name: hashlib.sha256(f"{person}\0{name}".encode()).hexdigest())
        chosen.update((person, name) for name in ordered[: len(names) // 2])
    return chosen


# --- scoring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrialScores:
    """Everybody against everybody, scored as the product scores.

    A track longer than `scoring.SECTION_S` is scored by sections, as it is matched; each is a row.

    Attributes
    ----------
    persons : tuple of str
        All of them; numbers below are places in it.
    model_person : (n_models,) int
        Who is enrolled, rising.
    track_person : (n_tracks,) int
        Whose voice each track carries or imitates.
    is_clone : (n_tracks,) bool
    is_enrolled : (n_tracks,) bool
        The person's model is made of it, if it has enough voice: it is tried with the others only.
    is_new_source : (n_tracks,) bool
        It comes from a known source that nothing of the person's model comes from.
    abstains : (n_tracks,) bool
    n_sections : (n_tracks,) int
        At least 1.
    row_track : (n_rows,) int
        The track of each row, rising.
    norm : (n_rows, n_models) float32
        norm_scores.
    accompaniment : (n_rows,) float64
    between : Between
        The models' voices with one another, -inf with oneself.
    paths : tuple of str
        Of the tracks.
    """

    persons: tuple[str, ...]
    model_person: np.ndarray
    track_person: np.ndarray
    is_clone: np.ndarray
    is_enrolled: np.ndarray
    is_new_source: np.ndarray
    abstains: np.ndarray
    n_sections: np.ndarray
    row_track: np.ndarray
    norm: np.ndarray
    accompaniment: np.ndarray
    between: Between
    paths: tuple[str, ...]

    @property
    def own_model(self) -> np.ndarray:
        """(n_tracks,) int: the column of each track's person, -1 where that person is not enrolled."""
        column = np.full(len(self.persons), -1)
        column[self.model_person] = np.arange(len(self.model_person))
        own: np.ndarray = column[self.track_person]
        return own

    def targets(self, *, clones: bool) -> np.ndarray:
        """Tracks that are tried with their own person's model."""
        mask = (self.is_clone == clones) & ~self.is_enrolled & (self.own_model >= 0)
        return np.flatnonzero(mask)

    def strangers(self) -> np.ndarray:
        """Tracks that are tried with all models but their own person's: genuine ones, also those that were enrolled.

        Not clones: a converted voice keeps something of who sang it, who may be enrolled.
        """
        return np.flatnonzero(~self.is_clone)

    def compared(self) -> np.ndarray:
        """(n_tracks, n_models) bool: where a track is another person's than the model."""
        apart: np.ndarray = self.track_person[:, None] != self.model_person[None, :]
        return apart

    def measured(self, model: LlrModel, near: NearLevels) -> np.ndarray:
        """(n_rows, n_models, 4) float64, as `registry.llr.measures` gives them with all models enrolled.

        The model of the person who is heard tells nothing of the others: as if a stranger were heard. All models crowd,
        where `registry.match` takes `registry.crowding.MOST_VOICES` of more.
        """
        own = self.own_model[self.row_track]
        of_artists = artist_crowding(self.between, near, own)
        of_tracks = track_crowding(self.plain_llr_rows(model), near.track, without=own)
        return measures(self.norm, self.accompaniment[:, None], of_artists, of_tracks)

    def plain_llr_rows(self, model: LlrModel) -> np.ndarray:
        """(n_rows, n_models) float64 log10 likelihood ratios before crowding is taken off, and before rounding."""
        return llr_of(measures(self.norm, self.accompaniment[:, None]), model)

    def llr_rows(self, model: LlrModel, near: NearLevels) -> np.ndarray:
        """(n_rows, n_models) float64 log10 likelihood ratios, rounded as what is decided on."""
        llrs: np.ndarray = np.round(llr_of(self.measured(model, near), model), 2)
        return llrs

    def of_tracks(self, rows: np.ndarray) -> np.ndarray:
        """Best row of each track, (n_tracks, n_models); -inf where a track abstains."""
        best = np.full((len(self.track_person), rows.shape[1]), -np.inf)
        if len(rows):
            tracks, first = np.unique(self.row_track, return_index=True)
            best[tracks] = np.maximum.reduceat(rows, first, axis=0)
        return best

    def llr(self, model: LlrModel, near: NearLevels) -> np.ndarray:
        """(n_tracks, n_models) float64: llr of each track's best section; -inf where it abstains."""
        return self.of_tracks(self.llr_rows(model, near))


def score_trials(heard: Sequence[Heard], cohort: CohortModel) -> TrialScores:
    """Enroll half of each person's recordings, and score everything with everybody."""
    chosen = enrolled_half([item.recording for item in heard])
    persons = tuple(sorted({item.recording.person for item in heard}))
    number = {person: i for i, person in enumerate(persons)}
    in_half = [(item.recording.person, item.recording.recording) in chosen for item in heard]
    # As enrolling does: a recording with too little voice is no part of anybody, and then not enrolled.
    is_enrolled = np.array(
        [half and not item.recording.is_clone for item, half in zip(heard, in_half, strict=True)], bool
    )
    abstains = np.array([item.abstains for item in heard], bool)
    track_person = np.array([number[item.recording.person] for item in heard], np.int64)
    groups, model_person = [], []
    sources: dict[int, set[str | None]] = {}
    for person in range(len(persons)):
        usable = np.flatnonzero(is_enrolled & ~abstains & (track_person == person)).tolist()
        if usable:
            groups.append(condense_windows(np.concatenate([heard[i].voice.vectors for i in usable]))[0])
            model_person.append(person)
            sources[person] = {heard[i].recording.source for i in usable}
    is_new_source = [
        item.recording.source is not None and not sources.get(person, {None}) & {item.recording.source, None}
        for item, person in zip(heard, track_person.tolist(), strict=True)
    ]
    templates = np.concatenate(groups) if groups else np.empty((0, cohort.vectors.shape[1]), np.float32)
    starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
    centres = scoring.artist_centres(templates, starts, cohort) if groups else None
    between = score_between(templates, starts, templates, starts, cohort, centres=centres)
    np.fill_diagonal(between.others, -np.inf)
    row_track, norm, accompaniment = [], [], []
    for i, item in enumerate(heard):
        voice = item.voice
        if item.abstains:
            continue
        for first, end in pairwise(scoring.section_edges(voice.start_s, voice.duration_s)):
            if end > first:
                windows = voice.vectors[first:end]
                scores = scoring.pool_scores(windows, templates, starts)
                row_track.append(i)
                norm.append(scoring.normalise(scores, windows, templates, starts, cohort, centres=centres))
                accompaniment.append(scoring.accompaniment(windows, cohort))
    return TrialScores(
        persons=persons,
        model_person=np.array(model_person, np.int64),
        track_person=track_person,
        is_clone=np.array([item.recording.is_clone for item in heard], bool),
        is_enrolled=is_enrolled,
        is_new_source=np.array(is_new_source, bool),
        abstains=abstains,
        n_sections=np.array([scoring.n_sections(item.voice.duration_s) for item in heard], np.int64),
        row_track=np.array(row_track, np.int64),
        norm=np.array(norm, np.float32).reshape(len(norm), len(model_person)),
        accompaniment=np.array(accompaniment, np.float64),
        between=between,
        paths=tuple(item.recording.path for item in heard),
    )
