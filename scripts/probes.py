"""Tracks with an enrolled voice, scored as one of a population's galleries would: what budgets miss, clips and songs.

The sets of `make_trials` have clips of some ten seconds. Songs are put together of them: windows of the clips of one
person in one set, in random order, again and again, so that four minutes hold no more voice than the clips do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from make_trials import NOT_IN_GALLERY, TrialSet
from populations import Population, enroll_persons, read_persons
from trial_audio import AudioItem
from trial_vectors import House, ItemVectors, embed_items, enroll_models

from registry import scoring
from registry.calibration import Calibration, beside
from registry.crowding import Between, score_between
from registry.llr import llr_of, measures
from registry.scoring import CohortModel

#: Windows of the tracks, 2 s apart; None: one clip as it is.
LENGTHS = {"clip": None, "1 min": 30, "4 min": 120}
SEED = 1


@dataclass(frozen=True)
class ProbeTracks:
    """The tracks of one kind and length, each with its own artist and with the voices of a population.

    Attributes
    ----------
    person : (n,) str
        Whose voice it is, or is meant to be.
    abstains : (n,) bool
    own, others : (n,), (n, n_voices) float64
        norm_scores with the artist, and with the voices; -inf with a voice that is the person's own.
    accompaniment : (n,) float64
    between : Between
        The voices with the artist of each track; -inf with the person's own.
    """

    person: np.ndarray
    abstains: np.ndarray
    own: np.ndarray
    others: np.ndarray
    accompaniment: np.ndarray
    between: Between

    def missed(self, calibration: Calibration, threshold: float, galleries: np.ndarray) -> np.ndarray:
        """(n,) share of galleries in which a track stays below a threshold.

        `galleries` : (n_galleries, size) places of voices; the artist stands in the place of the last voice, or of its
        own if that is among them.
        """
        model, near = calibration.llr, calibration.near
        plain = llr_of(measures(self.own, self.accompaniment), model)
        others = llr_of(measures(self.others, self.accompaniment[:, None]), model)
        below, each = np.zeros(len(plain)), np.arange(len(plain))
        for voices in galleries:
            llrs = beside(plain, others[:, voices], self.between.select(voices, each), model, near)
            below += self.abstains | (llrs < threshold)
        share: np.ndarray = below / len(galleries)
        return share


def score_probes(
    audio_root: Path,
    fold: str,
    sets: Mapping[str, TrialSet],
    vectors: Mapping[str, ItemVectors],
    population: Population,
    system: House,
    cohort: CohortModel,
    cache_dir: Path,
) -> dict[tuple[str, str], ProbeTracks]:
    """The target trials of some sets, by set and by name of `LENGTHS`."""
    everybody = read_persons(audio_root, fold).everybody
    gallery = {name: everybody[name] for name in population.voices}
    assert all(clips[0].corpus not in NOT_IN_GALLERY for clips in gallery.values())
    items = {clip.path: AudioItem(clip.path) for clips in gallery.values() for clip in clips}
    templates, starts, voices = enroll_persons(
        gallery, embed_items(audio_root, items, system, cache_dir, label=f"voices of fold {fold}")
    )
    assert voices == population.voices
    centres = scoring.artist_centres(templates, starts, cohort)
    found = {}
    for name, trials in sets.items():
        pairs = trials.pairs()
        tests, models = pairs.test_index[pairs.is_target], pairs.enroll_index[pairs.is_target]
        keys, persons = trials.test_keys(), np.array(trials.test_persons())
        artists = enroll_models(trials, vectors)
        own_rows = np.split(artists.vectors, artists.starts[1:])
        own_centres = scoring.artist_centres(artists.vectors, artists.starts, cohort)
        between = score_between(templates, starts, artists.vectors, artists.starts, cohort, centres=own_centres)
        between = between.select(np.arange(len(voices)), models)
        for length, n_windows in LENGTHS.items():
            rng = np.random.default_rng(SEED)
            own, others, music, abstains = [], [], [], []
            for test, model in zip(tests.tolist(), models.tolist(), strict=True):
                clip = vectors[keys[test]]
                windows, abstains_here = clip.vectors, clip.abstains
                if n_windows is not None:
                    alike = [vectors[keys[i]] for i in tests[models == model].tolist()]
                    judged = [other.vectors for other in alike if not other.abstains]
                    windows = _repeat([] if clip.abstains and judged else [windows], judged, n_windows, rng)
                    abstains_here = not judged
                abstains.append(abstains_here)
                one = np.zeros(1, np.int64)
                scored = own_rows[model], one, own_centres[model : model + 1]
                own.append(_norm(windows, *scored, cohort)[0])
                others.append(_norm(windows, templates, starts, centres, cohort))
                music.append(scoring.accompaniment(windows, cohort))
            is_own = persons[tests][:, None] == np.array(voices)[None, :]
            found[name, length] = ProbeTracks(
                person=persons[tests],
                abstains=np.array(abstains),
                own=np.array(own, np.float64),
                others=np.where(is_own, -np.inf, np.array(others, np.float64)),
                accompaniment=np.array(music),
                between=replace(between, others=np.where(is_own.T, -np.inf, between.others)),
            )
    return found


def _repeat(first: list[np.ndarray], clips: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """n windows: those of a clip, then of others in random order, again and again."""
    parts = list(first)
    while sum(map(len, parts)) < n:
        parts += [clips[i] for i in rng.permutation(len(clips))] if clips else first
    return np.concatenate(parts)[:n]


def _norm(
    windows: np.ndarray, templates: np.ndarray, starts: np.ndarray, centres: np.ndarray, cohort: CohortModel
) -> np.ndarray:
    scores = scoring.pool_scores(windows, templates, starts)
    return scoring.normalise(scores, windows, templates, starts, cohort, centres=centres)
