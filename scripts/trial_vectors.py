"""The sounds of trials as vectors, each embedded once and kept on disk, and the trials scored with them.

    house = House(SpeechBrainEncoder("house"))
    vectors = embed_items(audio_root, trials.audio_items(), house, cache_dir)     # {key: ItemVectors}
    pairs = trials.pairs()
    scores = mean_scores(trials, vectors)[pairs.test_index, pairs.enroll_index]    # (n_pairs,)

What is kept is vectors of research recordings, never sound, in files named by a hash over the encoder, the sound and
the rule of mixing: whatever changes a vector makes another name, and old files may be deleted at any time.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from make_trials import TrialSet
from trial_audio import MIXING_RULE, RATE_HZ, AudioItem, render

from embeddings import vocals
from embeddings.extract import Encoder
from registry import scoring
from registry.condense import condense_windows
from registry.crowding import Between, NearLevels, artist_crowding, score_between, track_crowding
from registry.llr import LlrModel, llr_of, measures
from registry.verdict import MIN_VOICE_S

DEFAULT_CACHE = Path.home() / ".cache" / "likeness-bench"

_FORMAT = "2"  # of kept vectors

#: Windows waiting before those of one length are embedded together: about 130 MB of sound.
WINDOWS_AT_ONCE = 512

#: The set whose artists are enrolled beside those of sets with fewer.
SEARCHED = "strangers-sung"


@dataclass(frozen=True)
class ItemVectors:
    """One sound as a system hears it.

    Attributes
    ----------
    vectors : (n, dim) float32
        Unit rows in time order, at least one.
    presence : (n,) float32
        Share of each window in which voice was found; 1 for a system that does not say.
    voiced_s, duration_s : float
        Seconds in which the system found voice, and seconds in all.
    fell_back : bool
        No voice was found: the vectors are of the whole sound, so that every system is scored on the same trials.
    """

    vectors: np.ndarray
    presence: np.ndarray
    voiced_s: float
    duration_s: float
    fell_back: bool

    @property
    def abstains(self) -> bool:
        """Whether the product says nothing about this sound."""
        return self.voiced_s < MIN_VOICE_S


class System(Protocol):
    """What turns sounds into vectors."""

    cache_id: str

    def embed(self, sounds: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, ItemVectors]]:
        """Embed (key, (n,) float32 at `RATE_HZ`) pairs; yields them in order."""


class House:
    """The shipped front end: `VocalWindows`, then an encoder. Windows of one length are embedded together.

    Parameters
    ----------
    encoder : Encoder
    """

    def __init__(self, encoder: Encoder) -> None:
        if encoder.rate_hz != RATE_HZ:
            raise ValueError(f"the encoder wants {encoder.rate_hz} Hz, the sounds of trials have {RATE_HZ} Hz")
        self._encoder = encoder
        self.hop_s = encoder.hop_s
        # The code of the window selection too: while one is being tried, its version is still the old one.
        self.cache_id = _sha256(encoder.encoder_id, code_without_words(Path(vocals.__file__).read_text("utf-8")))

    def embed(self, sounds: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, ItemVectors]]:
        """Embed sounds; see `System`."""
        waiting: list[_Waiting] = []
        n_windows = 0
        for key, samples in sounds:
            chosen = vocals.VocalWindows([samples], RATE_HZ, self._encoder.window_s, self._encoder.hop_s)
            kept = [(windows.samples, windows.presence) for windows in chosen]
            fell_back = not kept
            if fell_back:
                windows = all_windows(samples, self._encoder.window_s, self._encoder.hop_s)
                kept = [(windows, np.zeros(len(windows), np.float32))]
            waiting.append(_Waiting(key, kept, chosen, fell_back))
            n_windows += sum(len(windows) for windows, _ in kept)
            if n_windows >= WINDOWS_AT_ONCE:
                yield from self._embed_together(waiting)
                waiting, n_windows = [], 0
        yield from self._embed_together(waiting)

    def _embed_together(self, waiting: list[_Waiting]) -> Iterator[tuple[str, ItemVectors]]:
        rows = [row for sound in waiting for windows, _ in sound.kept for row in windows]
        of_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            of_length.setdefault(len(row), []).append(i)
        vectors: dict[int, np.ndarray] = {}
        for numbers in of_length.values():
            embedded = self._encoder.embed_windows(np.stack([rows[i] for i in numbers]))
            vectors.update(zip(numbers, embedded, strict=True))
        at = 0
        for sound in waiting:
            presence = np.concatenate([presence for _, presence in sound.kept])
            own = np.stack([vectors[i] for i in range(at, at + len(presence))])
            at += len(presence)
            seconds = float(sound.chosen.voiced_s), float(sound.chosen.duration_s)
            yield sound.key, ItemVectors(own, presence, *seconds, sound.fell_back)


class _Waiting(NamedTuple):
    """A sound that waits to be embedded: its windows with the voice in them, and what chose them."""

    key: str
    kept: list[tuple[np.ndarray, np.ndarray]]
    chosen: vocals.VocalWindows
    fell_back: bool


class Resemblyzer:
    """Resemblyzer 0.1.4 as its README has it used: volume and silences by `preprocess_wav`, then `embed_utterance`.

    Raises
    ------
    ImportError
        Not installed; it is the extra ``[bench]``.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pkg_resources, scipy.ndimage.morphology: its own imports
            from importlib.metadata import version

            from resemblyzer import VoiceEncoder, preprocess_wav  # type: ignore[import-untyped]

        self._preprocess: Callable[..., np.ndarray] = preprocess_wav
        self._encoder: Any = VoiceEncoder("cpu", verbose=False)
        self.cache_id = _sha256("resemblyzer", version("resemblyzer"))

    def embed(self, sounds: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, ItemVectors]]:
        """Embed sounds; see `System`. One vector a sound."""
        for key, samples in sounds:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # loud sounds overflow its int16, silence divides by zero
                speech = self._preprocess(samples, source_sr=RATE_HZ)
            fell_back = len(speech) == 0
            vector = self._encoder.embed_utterance(samples if fell_back else speech)[None].astype(np.float32)
            seconds = len(speech) / RATE_HZ, len(samples) / RATE_HZ
            yield key, ItemVectors(vector, np.ones(1, np.float32), *seconds, fell_back)


def all_windows(samples: np.ndarray, window_s: float, hop_s: float) -> np.ndarray:
    """Cut (n,) samples into windows as `VocalWindows` does, voice or not: (n_windows, n_samples) float32.

    The last window ends with the sound; a sound shorter than a window is one shorter window.
    """
    window, hop = round(window_s * RATE_HZ), round(hop_s * RATE_HZ)
    if len(samples) <= window:
        return samples[None]
    starts = list(range(0, len(samples) - window + 1, hop))
    if starts[-1] + window < len(samples):
        starts.append(len(samples) - window)
    return np.stack([samples[start : start + window] for start in starts])


def code_without_words(source: str) -> str:
    """Python source as a text that comments, layout and docstrings do not change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


# --- embedding once ---------------------------------------------------------------------------------------------------


def embed_items(
    audio_root: Path,
    items: Mapping[str, AudioItem],
    system: System,
    cache_dir: Path = DEFAULT_CACHE,
    *,
    label: str = "sounds",
) -> dict[str, ItemVectors]:
    """Embed sounds, or read what an earlier run kept of them; progress on stderr.

    Parameters
    ----------
    audio_root : Path
        Folder of recordings.
    items : mapping of str to AudioItem
        As `TrialSet.audio_items` gives them.
    system : System
    cache_dir : Path
        Made when needed.
    label : str
        What to call them on stderr.

    Returns
    -------
    dict of str to ItemVectors
        The keys of `items`.
    """
    folder = cache_dir / system.cache_id[:16]
    folder.mkdir(parents=True, exist_ok=True)
    paths = {key: folder / f"{_sha256(_FORMAT, key, MIXING_RULE)[:32]}.npz" for key in items}
    found = {key: _read(path) for key, path in paths.items() if path.is_file()}
    missing = [key for key in items if key not in found]
    started, heard_s = time.perf_counter(), 0.0
    said = 0.0
    sounds = ((key, render(audio_root, items[key])) for key in missing)
    for n, (key, item_vectors) in enumerate(system.embed(sounds), start=1):
        _write(paths[key], item_vectors)
        found[key] = item_vectors
        heard_s += item_vectors.duration_s
        now = time.perf_counter()
        if n == len(missing) or now - said > 15:
            said = now
            speed = heard_s / (now - started)
            print(f"{label}: {n:,} of {len(missing):,} embedded, {speed:.0f} x real time", file=sys.stderr, flush=True)
    return {key: found[key] for key in items}


def _read(path: Path) -> ItemVectors:
    with np.load(path, allow_pickle=False) as kept:
        voiced_s, duration_s, fell_back = kept["measures"].tolist()
        return ItemVectors(kept["vectors"], kept["presence"], voiced_s, duration_s, bool(fell_back))


def _write(path: Path, item: ItemVectors) -> None:
    body = io.BytesIO()
    measures = np.array([item.voiced_s, item.duration_s, item.fell_back])
    np.savez(body, vectors=item.vectors, presence=item.presence, measures=measures)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # two benches may run at once
    try:
        partial.write_bytes(body.getvalue())
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


# --- scoring ----------------------------------------------------------------------------------------------------------


def mean_scores(trials: TrialSet, vectors: Mapping[str, ItemVectors]) -> np.ndarray:
    """Cosines of mean vectors: of a sound the mean of its windows, of a model the mean of its sounds.

    Returns
    -------
    (n_tests, n_models) float32
        Also where `TrialSet.pairs` has no trial.
    """
    mean = {key: _unit(vectors[key].vectors.mean(axis=0)) for key in trials.audio_items()}
    tests = np.stack([mean[key] for key in trials.test_keys()])
    models = np.stack([_unit(np.mean([mean[key] for key in keys], axis=0)) for keys in trials.model_keys()])
    scores: np.ndarray = tests @ models.T
    return scores


@dataclass(frozen=True)
class Templates:
    """The models of a set as the registry keeps artists: grouped templates, see `registry.scoring`.

    Attributes
    ----------
    vectors : (n, dim) float32
    starts : (n_models,) int64
    n_voiceless : int
        Models that the registry would not have enrolled, for too little voice; here they are enrolled all the same.
    """

    vectors: np.ndarray
    starts: np.ndarray
    n_voiceless: int

    def groups(self) -> list[np.ndarray]:
        """The templates of each model: (n, dim) float32 each."""
        return np.split(self.vectors, self.starts[1:])


def enroll_models(trials: TrialSet, vectors: Mapping[str, ItemVectors]) -> Templates:
    """Condense each model's windows into templates, clips with too little voice left out, as enrolling does."""
    groups, n_voiceless = [], 0
    for keys in trials.model_keys():
        usable = [key for key in keys if not vectors[key].abstains]
        n_voiceless += not usable
        groups.append(condense_windows(np.concatenate([vectors[key].vectors for key in usable or keys]))[0])
    starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    return Templates(np.concatenate(groups), starts, n_voiceless)


@dataclass(frozen=True)
class ShippedScores:
    """What the registry's own scoring gives for a set.

    Attributes
    ----------
    pooled, norm : (n_tests, n_models) float64
        Pooled cosines and norm_scores.
    accompaniment : (n_tests,) float64
    abstains : (n_tests,) bool
    crowd : (n_tests, n_voices) float64
        norm_scores with everybody who is enrolled: a set may enroll somebody in several ways, and a person crowds once.
    between : Between
        Those voices with the models; -inf with any model of oneself.
    own_voice, heard : (n_models,), (n_tests,) int
        Which of the voices is each model's person, and which is heard, -1 for none.
    """

    pooled: np.ndarray
    norm: np.ndarray
    accompaniment: np.ndarray
    abstains: np.ndarray
    crowd: np.ndarray
    between: Between
    own_voice: np.ndarray
    heard: np.ndarray

    @property
    def plain(self) -> np.ndarray:
        """(n_tests, n_models, 4) float64 `registry.llr.measures` without crowding."""
        return measures(self.norm, self.accompaniment[:, None])

    def measured(self, model: LlrModel, near: NearLevels) -> np.ndarray:
        """(n_tests, n_models, 4) float64 `registry.llr.measures` with everybody enrolled.

        Of the others nothing is known by the voice of the person who is heard: as if a stranger were heard.
        """
        llrs = llr_of(measures(self.crowd, self.accompaniment[:, None]), model)
        of_artists = artist_crowding(self.between, near, self.heard)
        of_tracks = track_crowding(llrs, near.track, self.own_voice, self.heard)
        return measures(self.norm, self.accompaniment[:, None], of_artists, of_tracks)

    def llr(self, model: LlrModel, near: NearLevels) -> np.ndarray:
        """(n_tests, n_models) float64, rounded as `registry.match` reports and decides on them."""
        return np.round(llr_of(self.measured(model, near), model), 2)


def score_sets(
    sets: Mapping[str, TrialSet], vectors: Mapping[str, ItemVectors], cohort: scoring.CohortModel
) -> dict[str, ShippedScores]:
    """Every set by `shipped_scores`, `SEARCHED` among them: its artists are enrolled beside those of smaller sets.

    One threshold is held against all of them, and it is for as many artists.
    """
    n_artists = len(sets[SEARCHED].models)
    return {
        name: shipped_scores(
            trials, vectors, cohort, beside=sets[SEARCHED] if len({*trials.model_persons()}) < n_artists else None
        )
        for name, trials in sets.items()
    }


def shipped_scores(
    trials: TrialSet,
    vectors: Mapping[str, ItemVectors],
    cohort: scoring.CohortModel,
    *,
    beside: TrialSet | None = None,
) -> ShippedScores:
    """Score every test of a set against every model as `registry.match` does a track of one section.

    Parameters
    ----------
    trials : TrialSet
    vectors : mapping of str to ItemVectors
        Of the shipped front end.
    cohort : CohortModel
        From `registry.scoring.prepare_cohort`.
    beside : TrialSet, optional
        A set whose artists are enrolled too: no test is compared with them, but they crowd.
    """
    gallery = enroll_models(trials, vectors)
    persons = trials.model_persons()
    # Of several models of a person the first one is the voice that crowds; `beside` only has persons that are new.
    templates_of = dict(zip(reversed(persons), reversed(gallery.groups()), strict=True))
    if beside is not None:
        for person, rows in zip(beside.model_persons(), enroll_models(beside, vectors).groups(), strict=True):
            templates_of.setdefault(person, rows)
    place = {person: i for i, person in enumerate(templates_of)}
    voices = np.concatenate([*templates_of.values()])
    starts = np.cumsum([0, *(len(rows) for rows in templates_of.values())])[:-1]
    own_voice = np.array([place[person] for person in persons])
    centres, voice_centres = (
        scoring.artist_centres(*groups, cohort) for groups in ((gallery.vectors, gallery.starts), (voices, starts))
    )
    between = score_between(voices, starts, gallery.vectors, gallery.starts, cohort, centres=centres)
    between.others[own_voice, np.arange(len(persons))] = -np.inf
    shape = len(trials.tests), len(trials.models)
    pooled, norm, accompaniment = np.empty(shape), np.empty(shape), np.empty(shape[0])
    crowd = np.empty((shape[0], len(place)))
    for i, key in enumerate(trials.test_keys()):
        windows = vectors[key].vectors
        scores = scoring.pool_scores(windows, gallery.vectors, gallery.starts)
        pooled[i] = scores
        norm[i] = scoring.normalise(scores, windows, gallery.vectors, gallery.starts, cohort, centres=centres)
        scores = scoring.pool_scores(windows, voices, starts)
        crowd[i] = scoring.normalise(scores, windows, voices, starts, cohort, centres=voice_centres)
        accompaniment[i] = scoring.accompaniment(windows, cohort)
    heard = np.array([place.get(person, -1) for person in trials.test_persons()])
    return ShippedScores(pooled, norm, accompaniment, abstentions(trials, vectors), crowd, between, own_voice, heard)


def abstentions(trials: TrialSet, vectors: Mapping[str, ItemVectors]) -> np.ndarray:
    """(n_tests,) bool: tests that the product says nothing about."""
    return np.array([vectors[key].abstains for key in trials.test_keys()], dtype=bool)


def count_fallbacks(trial_sets: Sequence[TrialSet], vectors: Mapping[str, ItemVectors]) -> int:
    """Distinct sounds of some sets in which no voice was found."""
    return sum(vectors[key].fell_back for key in {key for trials in trial_sets for key in trials.audio_items()})


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / max(float(np.linalg.norm(vector)), 1e-6)
    return unit
