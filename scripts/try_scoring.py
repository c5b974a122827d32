"""Ways to make one score of a track's windows, and what to weigh beside it, compared on fold A.

    python scripts/try_scoring.py                     # about 8 minutes once the vectors are kept
    python scripts/try_scoring.py --quick --json FILE

Upper table: ways of pooling, each with its own threshold at which `FPIR` of strangers' tracks of all lengths is
flagged, singing and spoken, alone and over music alike. By length and by number of templates of an artist: flagged
strangers, in %, at that one threshold. Found: tracks of enrolled singers of 1, 4 and 15 minutes in which the voice has
all, 50, 30 or 15 % of the windows in one piece, a stranger the others. Tracks are put together of the windows of a
person's clips, again and again, so that an hour holds no more voice than the clips do.

Every way is normalised against the cohort pooled in the same way. A way is some windows averaged into a stretch, each
stretch with the nearest template, and the mean over the best share of the stretches; or the log-sum-exp over windows
and templates, less the logarithm of their number.

Lower table: what is weighed beside norm_score, by the fit of `registry.llr` and its Cllr on persons left out (log2;
clones a fifth of the targets), and FNIR at FPIR 1 % of the sets of trials as in `scripts/fit_builtin.py`.

Last, crowding (`registry.crowding`): what is missed, mean of the five kinds, clips and songs of four minutes, with
nothing taken off, with that of artists, of tracks, both, and both without the cohort that stands in for others while
artists are few, each at its own threshold at which so many strangers are flagged in galleries of a size. Half of the
singers and half of the strangers are heard and do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from fit_builtin import (
    COMPARED_FPIR,
    FOLD,
    PROBES,
    STRANGER_SETS,
    FoldScores,
    budget_point,
    missed_everywhere,
    probe_weights,
)
from make_trials import TrialSet, build_trials
from populations import Population, halves, read_persons, score_population
from probes import ProbeTracks, score_probes
from trial_audio import DEFAULT_AUDIO
from trial_vectors import DEFAULT_CACHE, House, ItemVectors, ShippedScores, embed_items, score_sets

from embeddings.model_dir import HOUSE
from registry import condense, llr, metrics, scoring, tail
from registry.calibration import Calibration
from registry.crowding import ENOUGH_OTHERS, Between
from registry.llr_metrics import cllr
from registry.match import encoder_calibration
from registry.report import table_text

#: Share of strangers' tracks that may be flagged.
FPIR = 0.03
#: Windows, 2 s apart, of tracks of so many seconds.
LENGTHS_S = (10, 30, 60, 240, 900, 3600)
FOUND_S = (60, 240, 900)
VOICE_SHARES = (1.0, 0.5, 0.3, 0.15)
TEMPLATES = (1, 2, 4, 8)
HOP_S = 2.0
SEED = 1
#: What is taken off: of artists, of tracks; and whether the cohort stands in.
CROWDING = {
    "nothing": (0.0, 0.0, True),
    "artists": (1.0, 0.0, True),
    "tracks": (0.0, 1.0, True),
    "both, no cohort": (1.0, 1.0, False),
    "both (shipped)": (1.0, 1.0, True),
}
CROWDED_SIZES = (1, 2, 5, 20, 50, 100)

Pool = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def best_stretches(stretch: int | None, share: float) -> Pool:
    """Mean over the best share of stretches (at least one), each with its nearest template; None: all one stretch."""

    def pool(windows: np.ndarray, templates: np.ndarray, starts: np.ndarray) -> np.ndarray:
        n = 1 if stretch is None else -(-len(windows) // stretch)
        edges = np.linspace(0, len(windows), n + 1).astype(int)[:-1]
        sums = np.add.reduceat(windows, edges, axis=0)
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
        by_stretch = np.maximum.reduceat(sums @ templates.T, starts, axis=1)
        n_best = max(1, int(np.ceil(share * n)))
        scores: np.ndarray = np.partition(by_stretch, n - n_best, axis=0)[-n_best:].mean(axis=0)
        return scores

    return pool


def log_sum_exp(slope: float) -> Pool:
    """Log-sum-exp over windows and templates, less the logarithm of how many there are."""

    def pool(windows: np.ndarray, templates: np.ndarray, starts: np.ndarray) -> np.ndarray:
        summed = np.exp(slope * (windows @ templates.T)).mean(axis=0)
        counts = np.diff(np.append(starts, len(templates)))
        scores: np.ndarray = np.log(np.add.reduceat(summed, starts) / counts) / slope
        return scores

    return pool


POOLINGS: dict[str, Pool] = {
    "mean of all windows": best_stretches(None, 1.0),
    "stretches of 30, best half (before)": best_stretches(30, 0.5),
    "stretches of 8, all": best_stretches(8, 1.0),
    "stretches of 8, best quarter": best_stretches(8, 0.25),
    "stretches of 8, best (shipped)": best_stretches(scoring.STRETCH_WINDOWS, 0.0),
    "stretches of 15, best": best_stretches(15, 0.0),
    "stretches of 30, best": best_stretches(30, 0.0),
    "windows, best half": best_stretches(1, 0.5),
    "windows, best quarter": best_stretches(1, 0.25),
    "log-sum-exp, slope 10": log_sum_exp(10),
    "log-sum-exp, slope 30": log_sum_exp(30),
}


@dataclass(frozen=True)
class Gallery:
    """Templates of artists, side by side."""

    vectors: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Track:
    """A track put together: who it belongs to, how it is heard, how long it is, how much of it is the person's."""

    person: str
    condition: str
    length_s: int
    share: float
    windows: np.ndarray


class Normaliser:
    """AS-norm with a common spread, as `registry.scoring`, for any way of pooling."""

    def __init__(self, pool: Pool, cohort: scoring.CohortModel) -> None:
        self._pool, self._cohort = pool, cohort
        groups = np.split(cohort.vectors, cohort.starts[1:])
        scores = np.stack([pool(self._mean(group), cohort.vectors, cohort.starts) for group in groups])
        self._spread = float(scores[~np.eye(len(groups), dtype=bool)].std())

    @staticmethod
    def _mean(group: np.ndarray) -> np.ndarray:
        mean = group.mean(axis=0, keepdims=True)
        unit: np.ndarray = mean / np.linalg.norm(mean)
        return unit

    def centres(self, gallery: Gallery) -> np.ndarray:
        """What the cohort scores with each artist on average."""
        groups = np.split(gallery.vectors, gallery.starts[1:])
        cohort = self._cohort
        return np.array([self._pool(self._mean(group), cohort.vectors, cohort.starts).mean() for group in groups])

    def norm_scores(self, windows: np.ndarray, galleries: Sequence[tuple[Gallery, np.ndarray]]) -> list[np.ndarray]:
        """(n_artists,) of a track for each gallery with its `centres`."""
        own = self._pool(windows, self._cohort.vectors, self._cohort.starts).mean()
        return [
            (self._pool(windows, gallery.vectors, gallery.starts) - (centres + own) / 2) / self._spread
            for gallery, centres in galleries
        ]


def windows_by_person(
    sets: Mapping[str, TrialSet], vectors: Mapping[str, ItemVectors], *, mates: bool
) -> dict[tuple[str, str], list[np.ndarray]]:
    """Windows of the judged tests of strangers, or of mates: (person, set) -> clips."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for name in STRANGER_SETS:
        trials = sets[name]
        for test, key, person in zip(trials.tests, trials.test_keys(), trials.test_persons(), strict=True):
            item = vectors[key]
            if (test.role == "mate") == mates and not item.abstains and not item.fell_back:
                found.setdefault((person, name), []).append(item.vectors)
    return found


def draw(clips: Sequence[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """n windows of clips in random order, again and again."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < n:
        parts += [clips[i] for i in rng.permutation(len(clips))]
    return np.concatenate(parts)[:n]


def make_tracks(sets: Mapping[str, TrialSet], vectors: Mapping[str, ItemVectors]) -> tuple[list[Track], list[Track]]:
    """Strangers' tracks of all lengths, and tracks of enrolled singers with shares of their voice."""
    rng = np.random.default_rng(SEED)
    strangers, mates = (windows_by_person(sets, vectors, mates=mates) for mates in (False, True))
    enrolled = set(sets["strangers-sung"].model_persons())
    heard = [
        Track(person, name, length_s, 1.0, draw(clips, round(length_s / HOP_S), rng))
        for (person, name), clips in sorted(strangers.items())
        for length_s in LENGTHS_S
    ]
    partly = []
    for (person, name), clips in sorted(mates.items()):
        others = [who for who, where in sorted(strangers) if where == name and who not in enrolled]
        for length_s in FOUND_S:
            for share in VOICE_SHARES:
                n = round(length_s / HOP_S)
                own = draw(clips, max(1, round(share * n)), rng)
                other = others[int(rng.integers(len(others)))]
                rest = draw(strangers[other, name], n - len(own), rng) if n > len(own) else own[:0]
                cut = int(rng.integers(len(rest) + 1))
                partly.append(Track(person, name, length_s, share, np.concatenate([rest[:cut], own, rest[cut:]])))
    return heard, partly


def galleries(trials: TrialSet, vectors: Mapping[str, ItemVectors]) -> dict[int | str, Gallery]:
    """The artists of a set as they are enrolled, and with a fixed number of templates each."""
    windows = []
    for keys in trials.model_keys():
        usable = [key for key in keys if not vectors[key].abstains]
        windows.append(np.concatenate([vectors[key].vectors for key in usable or keys]))
    shipped = condense.MAX_TEMPLATES, condense.WINDOWS_PER_TEMPLATE
    found: dict[int | str, Gallery] = {}
    try:
        for size in ("as enrolled", *TEMPLATES):
            if isinstance(size, int):
                condense.MAX_TEMPLATES, condense.WINDOWS_PER_TEMPLATE = size, 1
            groups = [condense.condense_windows(rows)[0] for rows in windows]
            found[size] = Gallery(np.concatenate(groups), np.cumsum([0, *(len(group) for group in groups[:-1])]))
    finally:
        condense.MAX_TEMPLATES, condense.WINDOWS_PER_TEMPLATE = shipped
    return found


def measure_pooling(
    pool: Pool,
    cohort: scoring.CohortModel,
    artists: Sequence[str],
    sizes: Mapping[int | str, Gallery],
    heard: Sequence[Track],
    partly: Sequence[Track],
) -> dict[str, list[float]]:
    """One row of the upper table: percentages."""
    norm = Normaliser(pool, cohort)
    centred = [(gallery, norm.centres(gallery)) for gallery in sizes.values()]
    number = {artist: i for i, artist in enumerate(artists)}
    best = np.empty((len(heard), len(sizes)))
    for row, track in enumerate(heard):
        for column, scores in enumerate(norm.norm_scores(track.windows, centred)):
            if track.person in number:
                scores[number[track.person]] = -np.inf
            best[row, column] = scores.max()
    conditions = np.array([track.condition for track in heard])
    lengths = np.array([track.length_s for track in heard])
    weights = np.array([1 / np.sum(conditions == condition) for condition in conditions])
    # The threshold is found with tracks of all lengths and the artists as they are enrolled.
    threshold = metrics.fnir_at_fpir(np.zeros(1), best[:, 0], FPIR, stranger_weights=weights).threshold

    def flagged(rows: np.ndarray, column: int) -> float:
        hits = best[rows, column] >= threshold
        return float(100 * np.mean([hits[conditions[rows] == c].mean() for c in STRANGER_SETS]))

    own = {}
    for track in partly:
        (scores,) = norm.norm_scores(track.windows, centred[:1])
        own.setdefault((track.share, track.length_s), []).append(scores[number[track.person]] >= threshold)
    return {
        "by_length": [flagged(np.flatnonzero(lengths == length_s), 0) for length_s in LENGTHS_S],
        "by_templates": [flagged(np.arange(len(heard)), 1 + i) for i in range(len(TEMPLATES))],
        **{
            f"found_{share:g}": [100 * float(np.mean(own[share, length_s])) for length_s in FOUND_S]
            for share in VOICE_SHARES
        },
    }


# --- what is weighed beside the score ---------------------------------------------------------------------------------


def quality_columns(
    trials: TrialSet, vectors: Mapping[str, ItemVectors], scores: ShippedScores
) -> dict[str, np.ndarray]:
    """What could be weighed: (n_tests, n_models) each."""
    items = [vectors[key] for key in trials.test_keys()]
    enrolled = [sum(len(vectors[key].vectors) for key in keys) for keys in trials.model_keys()]
    n_templates = [min(condense.MAX_TEMPLATES, max(1, n // condense.WINDOWS_PER_TEMPLATE)) for n in enrolled]
    by_track = {
        "accompaniment": scores.accompaniment,
        "track voice": np.log10(np.clip([item.voiced_s for item in items], 1.5, 60)),
        "presence": np.array([item.presence.mean() for item in items]),
    }
    by_artist = {
        "enrolled voice": np.log10(np.clip(HOP_S * np.array(enrolled), 2, 240)),
        "templates": np.log10(n_templates),
    }
    shape = scores.norm.shape
    return {
        "norm_score": scores.norm,
        **{name: np.broadcast_to(values[:, None], shape) for name, values in by_track.items()},
        **{name: np.broadcast_to(values[None, :], shape) for name, values in by_artist.items()},
    }


MEASURE_SETS = (
    ("norm_score",),
    ("norm_score", "accompaniment"),
    ("norm_score", "track voice"),
    ("norm_score", "presence"),
    ("norm_score", "enrolled voice"),
    ("norm_score", "templates"),
    ("norm_score", "accompaniment", "track voice"),
    ("norm_score", "accompaniment", "enrolled voice"),
    ("norm_score", "accompaniment", "track voice", "presence", "enrolled voice", "templates"),
)


@dataclass(frozen=True)
class LlrTrials:
    """Trials of the llr: what is measured of each, class, weight within it, and both persons."""

    columns: dict[str, np.ndarray]
    is_target: np.ndarray
    weight: np.ndarray
    persons: np.ndarray


def llr_trials(fold: FoldScores, columns: Mapping[str, Mapping[str, np.ndarray]]) -> LlrTrials:
    """The trials that `scripts/fit_builtin.py` fits the llr on."""
    rows: list[tuple[str, np.ndarray, np.ndarray, bool, np.ndarray]] = []
    for probe, name in PROBES.items():
        pairs = fold.sets[name].pairs()
        own = np.flatnonzero(pairs.is_target & ~fold.abstains[name][pairs.test_index])
        weights = probe_weights(probe, pairs.test_person[own])
        rows.append((name, pairs.test_index[own], pairs.enroll_index[own], True, weights))
    for name in STRANGER_SETS:
        pairs = fold.sets[name].pairs()
        chosen = np.isin(pairs.test_index, fold.stranger_rows(name)) & ~fold.abstains[name][pairs.test_index]
        tests, models = pairs.test_index[chosen], pairs.enroll_index[chosen]
        rows.append((name, tests, models, False, np.full(len(tests), 1 / len(tests))))
    persons = [
        np.stack([np.array(fold.sets[n].test_persons())[t], np.array(fold.sets[n].model_persons())[m]], axis=1)
        for n, t, m, _, _ in rows
    ]
    return LlrTrials(
        columns={
            key: np.concatenate([columns[name][key][tests, models] for name, tests, models, _, _ in rows])
            for key in columns[STRANGER_SETS[0]]
        },
        is_target=np.concatenate([np.full(len(weights), target) for *_, target, weights in rows]),
        weight=np.concatenate([weights for *_, weights in rows]),
        persons=np.concatenate(persons),
    )


def fit_columns(trials: LlrTrials, names: Sequence[str], rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and intercept by the fit of `registry.llr`, whatever the columns."""
    design = np.stack([trials.columns[name] for name in names], axis=1)
    target, other = rows & trials.is_target, rows & ~trials.is_target
    weights, intercept = llr.fit_weights(design[target], design[other], trials.weight[target], trials.weight[other])
    return weights, intercept


def measure_measures(
    fold: FoldScores, columns: Mapping[str, Mapping[str, np.ndarray]], n_parts: int = 5
) -> list[dict[str, Any]]:
    """Rows of the lower table."""
    trials = llr_trials(fold, columns)
    everybody = np.unique(trials.persons)
    part = dict(zip(everybody, np.random.default_rng(SEED).integers(n_parts, size=len(everybody)), strict=True))
    parts = np.vectorize(part.get)(trials.persons)
    rows: list[dict[str, Any]] = []
    for names in MEASURE_SETS:
        design = np.stack([trials.columns[name] for name in names], axis=1)
        llrs, times = np.zeros(len(design)), np.zeros(len(design))
        for left_out in range(n_parts):
            test = (parts == left_out).any(axis=1)
            weights, intercept = fit_columns(trials, names, ~test)
            llrs[test] += design[test] @ weights + intercept
            times[test] += 1
        llrs /= np.maximum(times, 1)
        target = trials.is_target
        cost = cllr(llrs[target], llrs[~target], trials.weight[target], trials.weight[~target])
        weights, intercept = fit_columns(trials, names, np.ones(len(design), bool))
        tables = {
            name: np.stack([columns[name][key] for key in names], axis=-1) @ weights + intercept for name in columns
        }
        point = budget_point([fold.strangers(name, tables[name]) for name in STRANGER_SETS])
        missed = missed_everywhere(fold, tables, point.threshold)
        rows.append({"measures": " + ".join(names), "cllr": round(cost, 4), "fnir_pct": missed})
    return rows


# --- crowding ---------------------------------------------------------------------------------------------------------


def measure_crowding(
    calibration: Calibration, population: Population, probes: Mapping[tuple[str, str], ProbeTracks]
) -> list[dict[str, Any]]:
    """Rows of the last table."""
    weights = tail.stranger_weights(*population.codes())
    names = {name: probe for probe, name in PROBES.items()}
    rows = []
    for size in (*CROWDED_SIZES, len(population.voices)):
        galleries = tail.random_galleries(len(population.voices), size, tail.N_GALLERIES, first=population.sings)
        for way, (of_artists, of_tracks, with_cohort) in CROWDING.items():
            if not with_cohort and size > ENOUGH_OTHERS:
                continue  # it does not count there
            score, music, *off = calibration.llr.weights
            model = llr.LlrModel((score, music, of_artists * off[0], of_tracks * off[1]), calibration.llr.intercept)
            strangers, heard = population, probes
            if not with_cohort:
                strangers = replace(population, between=without_cohort(population.between))
                heard = {key: replace(track, between=without_cohort(track.between)) for key, track in probes.items()}
            maxima = strangers.maxima(model, calibration.near, size, tail.N_GALLERIES)
            row: dict[str, Any] = {"artists": size, "crowding": way}
            for fpir in (FPIR, COMPARED_FPIR):
                each = np.tile(weights / len(maxima), len(maxima))
                point = metrics.fnir_at_fpir(np.zeros(1), maxima.ravel(), fpir, stranger_weights=each)
                for length in ("clip", "4 min"):
                    missed = [
                        tracks.missed(replace(calibration, llr=model), point.threshold, galleries)
                        @ probe_weights(names[name], tracks.person)
                        for (name, how), tracks in heard.items()
                        if how == length
                    ]
                    row[f"{length}@{fpir:g}"] = round(100 * float(np.mean(missed)), 1)
            rows.append(row)
    return rows


def without_cohort(between: Between) -> Between:
    """As if the cohort had nobody."""
    return replace(between, cohort=between.cohort[:0])


# --- the run ----------------------------------------------------------------------------------------------------------


def print_poolings(rows: Sequence[Mapping[str, Any]]) -> None:
    head = f"{'% of tracks; threshold at FPIR ' + format(FPIR, '.0%'):36}"
    head += f"{'flagged, 10 s to 1 h':^36}{'1 2 4 8 templates':^26}"
    print(head + "".join(f"{f'found, voice in {share:.0%}':^22}" for share in VOICE_SHARES))
    for row in rows:
        parts = [row["by_length"], row["by_templates"], *(row[f"found_{share:g}"] for share in VOICE_SHARES)]
        cells = "  ".join("".join(f"{value:6.1f}" for value in part) for part in parts)
        print(f"{row['pooling']:36}{cells}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoder (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="every eighth track, the shipped way and two others")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)

    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    encoder = SpeechBrainEncoder(HOUSE, n_threads=options.threads)
    needed = {*STRANGER_SETS, *PROBES.values()}
    sets = {name: trials for name, trials in build_trials(options.audio, FOLD).items() if name in needed}
    items = {key: item for trials in sets.values() for key, item in trials.audio_items().items()}
    vectors = embed_items(options.audio, items, House(encoder), options.cache, label=f"fold {FOLD}")
    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    heard, partly = make_tracks(sets, vectors)
    poolings = POOLINGS
    if options.quick:
        heard, partly = heard[:: 8 * len(LENGTHS_S) + 1], partly[::13]
        poolings = {name: POOLINGS[name] for name in list(POOLINGS)[:1] + list(POOLINGS)[4:5]}
    sung = sets["strangers-sung"]
    sizes = galleries(sung, vectors)
    rows = []
    for name, pool in poolings.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures = measure_pooling(pool, cohort, sung.model_persons(), sizes, heard, partly)
        rows.append({"pooling": name, **{key: [round(x, 1) for x in values] for key, values in figures.items()}})
    shipped = score_sets(sets, vectors, cohort)
    fold = FoldScores(sets, {name: scores.abstains for name, scores in shipped.items()})
    columns = {name: quality_columns(sets[name], vectors, scores) for name, scores in shipped.items()}
    measured = measure_measures(fold, columns)
    enrolled, heard_only = halves(read_persons(options.audio, FOLD))
    house = House(encoder)
    population = score_population(
        options.audio, FOLD, house, cohort, options.cache, heard=heard_only, enrolled=enrolled
    )
    probed = {name: sets[name] for name in PROBES.values()}
    probes = score_probes(options.audio, FOLD, probed, vectors, population, house, cohort, options.cache)
    crowded = measure_crowding(encoder_calibration(encoder), population, probes)
    print_poolings(rows)
    print(f"\n{'weighed':86}{'Cllr':>8}" + "".join(f"{probe:>8}" for probe in PROBES) + "  FNIR % at FPIR 1 %")
    for row in measured:
        missed = "".join(f"{x:8.1f}" for x in row["fnir_pct"].values())
        print(f"{row['measures']:86}{row['cllr']:8.3f}{missed}")
    print("\n" + table_text(crowded, list(crowded[0])))
    if options.json:
        found = {"poolings": rows, "measures": measured, "crowding": crowded}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
