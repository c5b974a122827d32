"""Find a model directory's threshold and score calibration on fold A, and write them beside the model.

    python scripts/fit_builtin.py                     # the built-in encoder
    python scripts/fit_builtin.py MODEL_DIR --dry-run
    python scripts/fit_builtin.py MODEL_DIR --cohort --nearest      # a newly trained encoder, and its whole card

The last step whenever an encoder, its cohort or the front end has changed. It prints how variants of normalising do,
fits the llr and the tail of strangers' best scores, from which the registry takes its thresholds, and writes
calibration.json, golden.json, a section of the card README.md, and last SHA256SUMS, against which
the built-in directory is checked whenever it is loaded. A model directory without cohort.npz gets one first, and with
--cohort another: the persons of cohort/, spoken and made into singing, alone and over music. That needs pyworld.

Scores are those of `registry.scoring` and `registry.llr`, as `registry.match` uses them. A track is flagged when its
best artist reaches the threshold; strangers include enrolled singers, each matched against the others. Tracks with too
little voice abstain: they are never flagged, and missed where an enrolled voice sings. The tail is of
`populations.score_population`: more voices, and longer tracks, than the sets of trials have.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from make_trials import TrialSet, build_trials
from populations import Population, score_population
from training.overlap import nearest_persons, opaque
from trial_audio import DEFAULT_AUDIO, active_samples, load_mono, loop_from, mix_at_level, trim_silence
from trial_vectors import (
    DEFAULT_CACHE,
    House,
    ItemVectors,
    ShippedScores,
    count_fallbacks,
    embed_items,
    enroll_models,
    score_sets,
    shipped_scores,
)

from embeddings.model_dir import CALIBRATION, CARD, COHORT, HOUSE_DIR, Cohort, load_cohort, model_digest, write_sums
from embeddings.selftest import write_golden
from registry import llr, metrics, scoring, tail
from registry.calibration import CONSTANTS, DEFAULT_BUDGET, LEAST_LLR, Calibration
from registry.condense import MAX_TEMPLATES, condense_windows
from registry.crowding import NearLevels
from registry.tail import Tail

FOLD = "A"
#: Share of strangers' tracks that the ways of normalising are compared at.
COMPARED_FPIR = 0.01
#: What is kept in calibration.json and the card, so that an owner can choose a budget.
BUDGETS_FPIR = (0.003, 0.01, 0.03, 0.1)
#: Scores of each probe that are kept, for what other thresholds would miss.
N_RANKS = 50
#: Numbers of artists that the card has thresholds for.
N_ARTISTS = (1, 5, 30, 100, 1000, 10_000)
#: Strangers of the sets of trials; each set weighs the same.
STRANGER_SETS = ("strangers-spoken", "strangers-sung", "strangers-sung+6db", "strangers-sung+0db")
#: Where enrolled voices are heard: name in the tables -> set.
PROBES = {
    "clean": "strangers-sung",
    "+6 dB": "strangers-sung+6db",
    "+0 dB": "strangers-sung+0db",
    "mixes": "mix-mir1k",
    "clones": "clone-singing",
}
#: Also part of what slope and intercept of the llr are fitted to: what is sung is not all that is enrolled.
SPEECH = "speech"
#: Also counted at the threshold, without a say in it.
ONLY_COUNTED = ("strangers-mixes", "instrumentals")

#: How a person of the cohort is heard. Music is 0 to 8 dB under the voice.
COHORT_CONDITIONS = ("spoken", "sung", "spoken+music", "sung+music")
COHORT_MUSIC_DB = (0.0, 8.0)
#: Parts of the cohort that are tried alone.
COHORT_VARIANTS = {"spoken": ("spoken",), "sung": ("sung",), "over music": ("spoken+music", "sung+music")}
COHORT_SEED = 1
#: Songs made of a clip, and pieces of music under it spoken and sung: a clip is one or two windows, and one song or one
#: piece is a poor sample of songs and of music.
COHORT_TAKES = 2
#: A person of the cohort has as many templates at most as an artist.
COHORT_TEMPLATES_PER_CONDITION = MAX_TEMPLATES // len(COHORT_CONDITIONS)

CARD_BEGIN, CARD_END = "<!-- scripts/fit_builtin.py writes from here -->", "<!-- to here -->"

Table = np.ndarray  #: (n_tests, n_models) float64
Score = Callable[[TrialSet], Table]


# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldScores:
    """The sets of the fold, and which of their tests abstain."""

    sets: dict[str, TrialSet]
    abstains: dict[str, np.ndarray]

    def strangers(self, name: str, table: Table, *, with_enrolled: bool = True) -> np.ndarray:
        """Best score of each stranger's track over the artists it is compared with; -inf where it abstains.

        `with_enrolled`: enrolled singers too, each compared with the others.
        """
        pairs = self.sets[name].pairs()
        by_test, own = self.sets[name].score_table(table[pairs.test_index, pairs.enroll_index])
        best: np.ndarray = metrics.open_set_scores(by_test, own, self.abstains[name]).stranger_scores
        if with_enrolled:
            return best
        return best[[self.sets[name].tests[i].barred_person is None for i in self.stranger_rows(name)]]

    def stranger_rows(self, name: str) -> np.ndarray:
        """Tests of a set whose person is not enrolled for them, in the order of `strangers`."""
        pairs = self.sets[name].pairs()
        return np.setdiff1d(np.arange(len(self.sets[name].tests)), pairs.test_index[pairs.is_target])

    def targets(self, name: str, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Scores of tracks with their own models, one per pair, and the person of each; -inf where abstaining."""
        pairs = self.sets[name].pairs()
        own = np.flatnonzero(pairs.is_target)
        scores = table[pairs.test_index[own], pairs.enroll_index[own]]
        return np.where(self.abstains[name][pairs.test_index[own]], -np.inf, scores), pairs.test_person[own]

    def single_artists(self, name: str, table: Table) -> np.ndarray:
        """Scores of strangers' judged tracks with every artist they are compared with, not only the best."""
        pairs = self.sets[name].pairs()
        rows = np.isin(pairs.test_index, self.stranger_rows(name)) & ~self.abstains[name][pairs.test_index]
        scores: np.ndarray = table[pairs.test_index[rows], pairs.enroll_index[rows]]
        return scores


def budget_point(groups: Sequence[np.ndarray], budget: float = COMPARED_FPIR) -> metrics.OpenSetPoint:
    """Smallest threshold that flags at most `budget` of strangers, each group weighing the same."""
    scores = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    return metrics.fnir_at_fpir(np.zeros(1), scores, budget, stranger_weights=weights)


def share_missed(scores: np.ndarray, persons: np.ndarray, threshold: float, *, by_person: bool) -> float:
    """Share of target trials below the threshold; with `by_person` the mean of each person's share."""
    missed = scores < threshold
    if not by_person:
        return float(missed.mean())
    return float(np.mean([missed[persons == person].mean() for person in np.unique(persons)]))


def missed_everywhere(fold: FoldScores, tables: Mapping[str, Table], threshold: float) -> dict[str, float]:
    """FNIR in percent by probe; clones averaged over the persons imitated."""
    missed = {}
    for probe, name in PROBES.items():
        scores, persons = fold.targets(name, tables[name])
        missed[probe] = 100 * share_missed(scores, persons, threshold, by_person=probe == "clones")
    return missed


def probe_weights(probe: str, persons: np.ndarray) -> np.ndarray:
    """How much each track of a probe counts, sum 1: all alike, or with clones the persons imitated alike."""
    _, person, n_of_person = np.unique(persons, return_inverse=True, return_counts=True)
    weights: np.ndarray = 1 / n_of_person[person] if probe == "clones" else np.ones(len(persons))
    return weights / weights.sum()


def fit_mixture(
    fold: FoldScores, shipped: Mapping[str, ShippedScores], population: Population
) -> tuple[llr.LlrModel, NearLevels]:
    """Score and music weighed, then from where on others are near, then slope and intercept with crowding taken off.

    The first is fitted to what is sung. Slope and intercept have `SPEECH` as another part of targets and nontargets:
    with its weights music would count for more, and more of what is sung is missed.
    """
    model = llr.fit_llr(*mixture(fold, {name: scores.plain for name, scores in shipped.items()}))
    weights = tail.stranger_weights(*population.codes())
    near = NearLevels.of(population.between, population.llr(model), weights)
    measured = {name: scores.measured(model, near) for name, scores in shipped.items()}
    fitted = llr.fit_line(model, *mixture(fold, measured, speech=True))
    slope, offset = llr.line_between(model, fitted)
    return fitted, replace(near, track=slope * near.track + offset)


def mixture(
    fold: FoldScores, measured: Mapping[str, np.ndarray], *, speech: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores or measures of targets and nontargets, and how much each counts."""
    probes = {**PROBES, "speech": SPEECH} if speech else PROBES
    target, target_weights, nontarget = [], [], []
    for probe, name in probes.items():
        pairs = fold.sets[name].pairs()
        own = np.flatnonzero(pairs.is_target & ~fold.abstains[name][pairs.test_index])
        target.append(measured[name][pairs.test_index[own], pairs.enroll_index[own]])
        target_weights.append(probe_weights(probe, pairs.test_person[own]))
    nontarget = [fold.single_artists(name, measured[name]) for name in STRANGER_SETS]
    if speech:
        pairs = fold.sets[SPEECH].pairs()
        other = np.flatnonzero(~pairs.is_target & ~fold.abstains[SPEECH][pairs.test_index])
        nontarget.append(measured[SPEECH][pairs.test_index[other], pairs.enroll_index[other]])
    weights = [np.full(len(rows), 1 / len(rows)) for rows in nontarget]
    return np.concatenate(target), np.concatenate(nontarget), np.concatenate(target_weights), np.concatenate(weights)


def found_llrs(fold: FoldScores, tables: Mapping[str, Table]) -> dict[str, list[float | None]]:
    """llr of tracks with their own artist, by probe, at `N_RANKS` ranks; persons imitated alike; None: abstaining."""
    found = {}
    for probe, name in PROBES.items():
        scores, persons = fold.targets(name, tables[name])
        order = np.argsort(scores)
        ranks = np.cumsum(probe_weights(probe, persons)[order])
        chosen = scores[order][np.searchsorted(ranks, (np.arange(N_RANKS) + 0.5) / N_RANKS)]
        found[probe] = [round(float(x), 2) if np.isfinite(x) else None for x in chosen]
    return found


# --- variants of normalising ------------------------------------------------------------------------------------------


@contextmanager
def cohort_top(n: int) -> Any:
    shipped = scoring.COHORT_TOP
    scoring.COHORT_TOP = n
    try:
        yield
    finally:
        scoring.COHORT_TOP = shipped


def own_spreads(
    trials: TrialSet, vectors: Mapping[str, ItemVectors], pooled: Table, cohort: scoring.CohortModel, top: int
) -> Table:
    """AS-norm as published (Matejka et al. 2017): each artist's and each track's own mean and spread of the top."""
    gallery = enroll_models(trials, vectors)

    def statistics(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        scores = np.stack([scoring.pool_scores(rows, cohort.vectors, cohort.starts) for rows in groups])
        best = np.sort(scores, axis=1)[:, -top:]
        return best.mean(axis=1), best.std(axis=1)

    artist_mean, artist_sd = statistics(np.split(gallery.vectors, gallery.starts[1:]))
    track_mean, track_sd = statistics([vectors[key].vectors for key in trials.test_keys()])
    by_artist = (pooled - artist_mean[None, :]) / artist_sd[None, :]
    by_track = (pooled - track_mean[:, None]) / track_sd[:, None]
    both: Table = (by_artist + by_track) / 2
    return both


def measure_variants(
    fold: FoldScores,
    shipped: Mapping[str, ShippedScores],
    vectors: Mapping[str, ItemVectors],
    cohort: Cohort,
    model: llr.LlrModel,
    near: NearLevels,
) -> list[dict[str, Any]]:
    """FNIR of every probe at `COMPARED_FPIR`, each variant with its own threshold: rows of the table that is printed.

    Twice: the budget for all strangers, enrolled singers against the other artists among them; and for those only who
    are not enrolled, most of whom are not trained singers.
    """
    needed = list(dict.fromkeys([*STRANGER_SETS, *PROBES.values()]))

    def common_spread(rows: np.ndarray, top: int) -> Score:
        chosen = scoring.prepare_cohort(cohort.vectors[rows], cohort.person[rows])

        def score(trials: TrialSet) -> Table:
            with cohort_top(top):
                return shipped_scores(trials, vectors, chosen).norm

        return score

    def own(top: int) -> Score:
        return lambda trials: own_spreads(trials, vectors, shipped[trials.name].pooled, whole, top)

    whole, every = scoring.prepare_cohort(cohort.vectors, cohort.person), np.ones(len(cohort.person), bool)
    variants: dict[str, Score] = {"raw cosine": lambda trials: shipped[trials.name].pooled}
    for top in (20, 150):
        variants[f"AS-norm, own spreads, top {top}"] = own(top)
    for top in (30, 75):
        variants[f"common spread, top {top}"] = common_spread(every, top)
    if cohort.condition is not None:
        for name, conditions in COHORT_VARIANTS.items():
            if (rows := np.isin(cohort.condition, conditions)).any():
                variants[f"common spread, cohort {name}"] = common_spread(rows, scoring.COHORT_TOP)
    variants["common spread, cohort mixed (shipped)"] = lambda trials: shipped[trials.name].norm
    variants["and calibrated (shipped)"] = lambda trials: shipped[trials.name].llr(model, near)
    rows = []
    for name, score in variants.items():
        tables = {set_name: score(fold.sets[set_name]) for set_name in needed}
        row: dict[str, Any] = {"variant": name}
        for population, with_enrolled in (("all strangers", True), ("nobody enrolled", False)):
            point = budget_point([fold.strangers(s, tables[s], with_enrolled=with_enrolled) for s in STRANGER_SETS])
            missed = missed_everywhere(fold, tables, point.threshold)
            row[population] = {"threshold": round(point.threshold, 3), "fnir_pct": rounded(missed)}
        rows.append(row)
    return rows


# --- a cohort for a model that has none -------------------------------------------------------------------------------


def make_cohort(system: House, audio_root: Path, accompaniment: Path | None = None) -> dict[str, np.ndarray]:
    """The persons of cohort/voice in all of `COHORT_CONDITIONS`: arrays of cohort.npz.

    Parameters
    ----------
    system : House
    audio_root : Path
        Folder of recordings.
    accompaniment : Path, optional
        A pool (`training.pools`) of rendered songs to draw music from; by default from train/music.

    Returns
    -------
    dict of str to ndarray
        ``vectors`` (n, dim) float32 unit rows; ``person`` (n,) int64, numbers that say nothing; ``condition`` (n,) str.

    Notes
    -----
    Sounds in which the front end finds no voice are left out, as it would not embed them in a track either.
    """
    windows: defaultdict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    n_voiceless = 0
    for key, item in system.embed(cohort_sounds(audio_root, accompaniment)):
        person, condition = key.split(" ")
        if item.fell_back:
            n_voiceless += 1
        else:
            windows[person, condition].append(item.vectors)
    if n_voiceless:
        print(f"cohort: {n_voiceless} sounds left out, no voice found in them", file=sys.stderr)
    persons = sorted({person for person, _ in windows})
    vectors, person_numbers, conditions = [], [], []
    for (person, condition), some in sorted(windows.items()):
        templates, _, counts = condense_windows(np.concatenate(some))
        templates = templates[np.argsort(-counts, kind="stable")[:COHORT_TEMPLATES_PER_CONDITION]]
        vectors.append(templates)
        person_numbers += [persons.index(person)] * len(templates)
        conditions += [condition] * len(templates)
    return {
        "vectors": np.concatenate(vectors).astype(np.float32),
        "person": np.array(person_numbers, dtype=np.int64),
        "condition": np.array(conditions),
    }


def cohort_sounds(audio_root: Path, accompaniment: Path | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """("PERSON CONDITION", (n,) float32 at `RATE_HZ`) of every person of cohort/voice; always the same sounds.

    A clip with too little voicing for the vocoder is not sung.
    """
    from training.pools import Pool
    from training.singing import analyse, sing, to_int16  # needs pyworld

    with (audio_root / "cohort/voice.csv").open(encoding="utf-8", newline="") as lines:
        clips = sorted((row["person_id"], row["path"]) for row in csv.DictReader(lines))
    with (audio_root / "train/music.csv").open(encoding="utf-8", newline="") as lines:
        recorded = sorted(row["path"] for row in csv.DictReader(lines))
    rendered = Pool(accompaniment) if accompaniment else None

    def over_music(voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rendered:
            piece = rendered.clip(int(rng.integers(len(rendered.clips)))).astype(np.float32) / 32768
        else:
            piece = load_mono(audio_root / recorded[rng.integers(len(recorded))])
        piece = trim_silence(piece)
        under = loop_from(piece, int(rng.integers(len(piece))), len(voice))
        return mix_at_level(voice, under, float(rng.uniform(*COHORT_MUSIC_DB)), active_samples(voice))

    for number, (person, path) in enumerate(clips):
        rng = np.random.default_rng([COHORT_SEED, number])
        voice = load_mono(audio_root / path)
        whole = to_int16(voice)
        apart = None if whole is None else analyse(whole)
        takes = [] if apart is None else [to_int16(sing(apart, rng)[0]) for _ in range(COHORT_TAKES)]
        sung = [take.astype(np.float32) / 32768 for take in takes if take is not None]
        yield f"{person} spoken", voice
        for take in sung:
            yield f"{person} sung", take
        for _ in range(COHORT_TAKES):
            yield f"{person} spoken+music", over_music(voice, rng)
        for take in sung:
            yield f"{person} sung+music", over_music(take, rng)


# --- telling ----------------------------------------------------------------------------------------------------------


def rounded(percents: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in percents.items()}


def variants_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    probes = list(PROBES)
    head = f"{'threshold':>12}" + "".join(f"{probe:>8}" for probe in probes)
    populations = [key for key in rows[0] if key != "variant"] if rows else []
    lines = [
        f"{f'FNIR % at FPIR {COMPARED_FPIR:.0%}, fold A':38}" + "".join(f"{name:^{len(head)}}" for name in populations),
        f"{'':38}" + head * len(populations),
    ]
    for row in rows:
        cells = "".join(
            f"{row[name]['threshold']:>12.3f}" + "".join(f"{row[name]['fnir_pct'][probe]:>8.1f}" for probe in probes)
            for name in populations
        )
        lines.append(f"{row['variant']:38}{cells}")
    return lines


def group_rows(fold: FoldScores, tables: Mapping[str, Table], threshold: float) -> list[dict[str, Any]]:
    """What the threshold does to each group of strangers, and who crosses it."""
    rows = []
    for name in (*STRANGER_SETS, *ONLY_COUNTED):
        trials, at = fold.sets[name], fold.stranger_rows(name)
        scores = fold.strangers(name, tables[name])
        pairs = trials.pairs()
        compared = np.full(tables[name].shape, -np.inf)
        compared[pairs.test_index, pairs.enroll_index] = tables[name][pairs.test_index, pairs.enroll_index]
        corpora, models = trials.test_corpora(), trials.model_persons()
        flagged = at[scores >= threshold]
        named = [models[int(compared[i].argmax())].split("-")[0] for i in flagged]
        crossed = Counter(f"{corpora[i]} as {artist}" for i, artist in zip(flagged, named, strict=True))
        persons = trials.test_persons()
        rows.append(
            {
                "group": name,
                "persons": len({persons[i] for i in at}),
                "tracks": len(at),
                "flagged_pct": round(100 * float(np.mean(scores >= threshold)), 2),
                "abstained_pct": round(100 * float(fold.abstains[name][at].mean()), 1),
                "threshold_alone": round(float(budget_point([scores], DEFAULT_BUDGET).threshold), 3),
                "crossed": dict(crossed.most_common()),
            }
        )
    return rows


def groups_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{'strangers':20}{'persons':>8}{'tracks':>8}{'flagged %':>11}{'abstained %':>13}{'alone at':>14}  "
        "who crosses the threshold, as whom"
    ]
    for row in rows:
        crossed = ", ".join(f"{who} {n}" for who, n in row["crossed"].items()) or "nobody"
        lines.append(
            f"{row['group']:20}{row['persons']:>8}{row['tracks']:>8}{row['flagged_pct']:>11.2f}"
            f"{row['abstained_pct']:>13.1f}{row['threshold_alone']:>14.3f}  {crossed}"
        )
    return lines


def operating_points_table(points: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["budget", "threshold", *(f"{probe} missed %" for probe in PROBES)]
    rows = [
        [f"{point['budget']:g}", f"{point['threshold']:.2f}", *(f"{v:.1f}" for v in point["fnir_pct"].values())]
        for point in points
    ]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def thresholds_table(strangers: Tail) -> list[str]:
    """Thresholds by number of artists and budget; with how many powers of ten they lie beyond the strangers."""
    head = ["artists", *(f"budget {budget:g}" for budget in BUDGETS_FPIR)]
    rows = []
    for n in N_ARTISTS:
        cells = []
        for budget in BUDGETS_FPIR:
            beyond = tail.decades_beyond(strangers, budget, n)
            threshold = max(LEAST_LLR, tail.threshold_for(strangers, budget, n))
            cells.append(f"{threshold:.2f}" + (f" (+{beyond:.1f})" if beyond >= 0.05 else ""))
        rows.append([f"{n:,}", *cells])
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def cohort_line(directory: Path) -> str:
    """What the cohort beside a model is, in a sentence."""
    with np.load(directory / COHORT, allow_pickle=False) as data:
        persons = data["person"]
        conditions = Counter(data["condition"].tolist() if "condition" in data else ["not said"] * len(persons))
    most = int(np.bincount(persons).max())
    parts = ", ".join(f"{condition} {n}" for condition, n in sorted(conditions.items()))
    return (
        f"`{COHORT}`: {len(persons)} unit vectors of {len(np.unique(persons))} persons who were not trained on, at "
        f"most {most} each ({parts}); the persons are numbers that say nothing."
    )


def nearest_table(nearest: Sequence[tuple[float, str, str]]) -> list[str]:
    """(score, person of train/, person of dev/) as a table of the card."""
    lines = ["| score | trained on | measured on |", "| --- | --- | --- |"]
    return [
        *lines,
        *(f"| {score:.3f} | {opaque(trained)} | {opaque(measured)} |" for score, trained, measured in nearest),
    ]


def card_section(
    calibration: Mapping[str, Any], cohort: str, nearest: Sequence[tuple[float, str, str]] | None = None
) -> str:
    """The section of the card: cohort, threshold, how it was found, what it misses, every figure of it.

    Parameters
    ----------
    calibration : mapping
        What goes into calibration.json.
    cohort : str
        `cohort_line`.
    nearest : sequence of (score, person of train/, person of dev/), optional
        From `training.overlap.nearest_persons`.
    """
    near = calibration["near"]
    fitted = calibration["llr"]
    weights = " ".join(f"{weight:+.3f} {name}" for name, weight in fitted["weights"].items()).lstrip("+")
    strangers = Tail.from_dict(calibration["tail"])
    return "\n".join(
        [
            CARD_BEGIN,
            "## Cohort",
            cohort,
            "",
            "## Calibration",
            f"By `scripts/fit_builtin.py` (likeness {calibration['likeness_version']}, {calibration['made_at'][:10]}), "
            f"{calibration['source']}.",
            "",
            f"llr (log10) = {weights} {fitted['intercept']:+.3f}, others near from a norm_score of "
            f"{near['artist']:.2f} (voices of the cohort: {near['cohort']:.2f}) and an llr of {near['track']:.2f} on. "
            f"Positives: {fitted['positives']}. Negatives: "
            f"{fitted['negatives']}.",
            "",
            f"Thresholds on it follow from the false-flag budget and the number of artists, by the tail of the best "
            f"scores of {strangers.n_strangers} strangers ({calibration['tail_population']}; {strangers.n_exceedances} "
            f"exceedances; shape {strangers.shape:.2f}, {strangers.shape_low:.2f} to {strangers.shape_high:.2f}). In "
            "brackets how many powers of ten beyond one stranger a threshold lies:",
            "",
            *thresholds_table(strangers),
            "",
            f"What that misses with {calibration['n_artists']} artists (FNIR %), on the same fold and so optimistic. "
            "mixes: MIR-1K, enrolled from three songs; clones: of singing, averaged over the persons imitated:",
            "",
            *operating_points_table(calibration["operating_points"]),
            "",
            f"Who is flagged with a budget of {DEFAULT_BUDGET:g}, and each group's own threshold for it:",
            "",
            *fenced(groups_table(calibration["strangers"])),
            "",
            "Ways of normalising, each with its own threshold:",
            "",
            *fenced(variants_table(calibration["variants"])),
            *([] if nearest is None else nearest_section(nearest)),
            CARD_END,
        ]
    )


def fenced(lines: Sequence[str]) -> list[str]:
    return ["```", *(line.rstrip() for line in lines), "```"]


def nearest_section(nearest: Sequence[tuple[float, str, str]]) -> list[str]:
    return [
        "",
        "## Nearest persons of training and development data",
        "Cosine of the mean vectors of persons, the highest of all pairs: somebody who is in both by mistake would be "
        "here. Persons whose id is a name are shown as a hash.",
        "",
        *nearest_table(nearest),
    ]


def write_card(path: Path, section: str) -> None:
    """Put the section into the card: in the place of the last one, or at the end."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = text.partition(CARD_BEGIN)
    if begin:
        after = rest.partition(CARD_END)[2]
        text = before + section + after
    else:
        text = (text.rstrip("\n") + "\n\n" if text else "") + section + "\n"
    path.write_text(text, encoding="utf-8")


# --- fitting ----------------------------------------------------------------------------------------------------------


def fit(
    sets: dict[str, TrialSet],
    vectors: Mapping[str, ItemVectors],
    cohort: Cohort,
    population: Population,
    *,
    with_variants: bool = True,
) -> dict[str, Any]:
    """Fit llr and tail: the content of calibration.json but for ids and dates."""
    prepared = scoring.prepare_cohort(cohort.vectors, cohort.person, cohort.condition)
    shipped = score_sets(sets, vectors, prepared)
    fold = FoldScores(sets, {name: scores.abstains for name, scores in shipped.items()})
    model, near = fit_mixture(fold, shipped, population)
    tables = {name: scores.llr(model, near) for name, scores in shipped.items()}
    strangers = population.fit_tail(model, near)
    n_artists = len(sets[STRANGER_SETS[0]].models)
    # llrs are reported and compared in hundredths.
    thresholds = {budget: round(tail.threshold_for(strangers, budget, n_artists), 3) for budget in BUDGETS_FPIR}
    threshold = thresholds[DEFAULT_BUDGET]
    return {
        "source": f"calibrated on the development recordings, fold {FOLD}",
        # Another of these makes other scores, and the calibration is no longer one.
        "scoring": CONSTANTS,
        "llr": {
            **model.as_dict(),
            "prior": llr.PRIOR,
            "positives": "tracks of enrolled singers as they are, over music at +6 dB and at +0 dB, real karaoke "
            "mixes, clones of singing (the persons imitated weigh the same), and for slope and intercept speech; "
            "each part weighs the same",
            "negatives": "strangers against every single artist: speaking, singing, and singing over music at +6 dB "
            "and at +0 dB, and for slope and intercept speech of others; each part weighs the same",
        },
        "near": near.as_dict(),
        "tail": strangers.as_dict(),
        "tail_population": "sung and spoken, alone and over music at +6 and +0 dB, tracks of 10, 60 and 240 s, alike; "
        f"galleries of up to {len(population.voices)} voices, the {int(population.sings.sum())} singers first",
        "found": found_llrs(fold, tables),
        "n_artists": n_artists,
        "strangers": group_rows(fold, tables, threshold),
        "operating_points": [
            {"budget": budget, "threshold": value, "fnir_pct": rounded(missed_everywhere(fold, tables, value))}
            for budget, value in thresholds.items()
        ],
        "variants": measure_variants(fold, shipped, vectors, cohort, model, near) if with_variants else [],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path, nargs="?", default=HOUSE_DIR, help="(default: %(default)s)")
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoder (%(default)s)")
    parser.add_argument("--cohort", action="store_true", help="make cohort.npz anew; it needs pyworld")
    parser.add_argument("--accompaniment", type=Path, metavar="POOL", help="for the cohort, instead of train/music")
    parser.add_argument(
        "--nearest", action="store_true", help="list the nearest persons of train/ and dev/ in the card"
    )
    parser.add_argument("--dry-run", action="store_true", help="print only; write nothing into MODEL_DIR")
    options = parser.parse_args(arguments)
    directory: Path = options.model_dir

    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    # Loaded as any directory, not as "house": its SHA256SUMS are about to be written, and who runs this trusts it.
    encoder = SpeechBrainEncoder(directory, trusted={model_digest(directory)}, n_threads=options.threads)
    house = House(encoder)
    cohort = None if options.cohort else load_cohort(directory)
    if cohort is None:
        print(f"{directory}: making {COHORT} from cohort/voice", file=sys.stderr)
        arrays = make_cohort(house, options.audio, options.accompaniment)
        cohort = Cohort(arrays["vectors"], arrays["person"], "not written", arrays["condition"])
        if not options.dry_run:
            np.savez(directory / COHORT, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a bool among them
            cohort = load_cohort(directory)
            assert cohort is not None

    sets = {
        name: trials
        for name, trials in build_trials(options.audio, FOLD).items()
        if name in {*STRANGER_SETS, *PROBES.values(), SPEECH, *ONLY_COUNTED}
    }
    items = {key: item for trials in sets.values() for key, item in trials.audio_items().items()}
    vectors = embed_items(options.audio, items, house, options.cache, label=f"fold {FOLD}")
    prepared = scoring.prepare_cohort(cohort.vectors, cohort.person, cohort.condition)
    population = score_population(options.audio, FOLD, house, prepared, options.cache)
    calibration = {
        "encoder_id": encoder.encoder_id,
        "cohort_id": cohort.cohort_id,
        **fit(sets, vectors, cohort, population),
        "likeness_version": version("likeness"),
        "made_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    Calibration.from_dict(calibration)  # what is written can be read
    n_abstaining = sum(item.abstains for item in vectors.values())
    print(
        f"encoder {encoder.encoder_id[:12]}, cohort {cohort.cohort_id[:12]}; {len(items):,} sounds, "
        f"{n_abstaining} with too little voice, {count_fallbacks(list(sets.values()), vectors)} of them with none"
    )
    print("\n".join(["", *variants_table(calibration["variants"]), ""]))
    print("\n".join([*groups_table(calibration["strangers"]), ""]))
    print("\n".join([*thresholds_table(Tail.from_dict(calibration["tail"])), ""]))
    print("\n".join(operating_points_table(calibration["operating_points"])))
    print(f"\nllr: {calibration['llr']['weights']}, {calibration['llr']['intercept']:+.4f}")
    nearest = nearest_persons(options.audio, house, options.cache) if options.nearest else None
    if nearest:
        print("\n".join(["", *nearest_table(nearest)]))
    if options.dry_run:
        return 0
    text = json.dumps(calibration, indent=1, ensure_ascii=False) + "\n"
    (directory / CALIBRATION).write_text(text, encoding="utf-8")
    write_golden(encoder, directory)
    write_card(directory / CARD, card_section(calibration, cohort_line(directory), nearest))
    write_sums(directory)  # last: it is what the others are checked against
    print(f"wrote {CALIBRATION}, golden.json, the card and SHA256SUMS to {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
