"""Are false-flag budgets kept? Strangers' tracks of fold B against voices of fold B, at thresholds from fold A.

    python scripts/bench_budgets.py --json scripts/results/bench_budgets.json
    python scripts/bench_budgets.py --quick

Half of the singers and half of the strangers of fold B are heard and do nothing else; the others, and everybody who
only speaks, can be enrolled: `populations.halves`. Each is heard for 10, 60 and 240 seconds, alone and over music at +6
and 0 dB. Galleries are of 1, 5, 50, 100 and all voices, singers first, 20 drawn at random; a rate is over all tracks
and galleries, kinds of track alike, and its interval is over strangers (bootstrap, 95 %) or, narrower than is true,
over tracks (binomial). Below one stranger in all a rate is only a bound: the rule of three, "extrapolated".

Beside it what is missed of enrolled voices (FNIR) at the same thresholds in the same galleries (`probes`): clips, and
songs of one and of four minutes put together of them; and plain budget / N in the place of the tail: the threshold
that so many single comparisons with strangers reach on fold A. Both ways are also tried within fold A, half of the
artists and half of the strangers left out, twenty times.

Last, the same with up to a million artists, whose voices are simulated from the means of real voices in three ways:
one Gaussian with their mean and covariance; a mixture of Gaussians, one for each corpus (a language, mostly) and where
it is known each sex, with one covariance within; the real means with a small difference, 0.3 % of them near-twins of
another; ``real`` is the same with as many real voices as there are. An artist has one template there, and strangers are
heard without music, which flags more. SIMULATED is what it says: nobody knows how alike a million voices are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_real import Row
from fit_builtin import PROBES, probe_weights
from make_trials import NOT_IN_GALLERY, build_trials
from populations import Population, halves, read_persons, score_population
from probes import LENGTHS, ProbeTracks, score_probes
from trial_audio import DEFAULT_AUDIO, AudioItem
from trial_vectors import DEFAULT_CACHE, House, embed_items

from embeddings.model_dir import HOUSE
from registry import crowding, scoring, tail
from registry.calibration import Calibration
from registry.llr import llr_of, measures
from registry.match import encoder_calibration

BUDGETS = (0.03, 0.01, 0.003)
SIZES = (1, 5, 50, 100)
N_GALLERIES = 20
#: Voices, in so many galleries together, whose single comparisons budget / N is found by.
N_COMPARED = 1000
N_RESAMPLES = 1000
N_SPLITS = 20
SIMULATED_SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
TWIN_SHARE = 0.003
#: Cosine of the small difference that a resampled voice has from the real one, and of a near-twin from its twin.
ALIKE, TWIN = 0.9, 0.98
SEED = 1


@dataclass(frozen=True)
class Rate:
    """A false positive identification rate with its intervals, as shares; `n_flags` tracks, on average of galleries."""

    value: float
    low: float
    high: float
    binomial_low: float
    binomial_high: float
    n_strangers: int
    n_tracks: int
    n_flags: float


def false_flags(calibration: Calibration, population: Population, threshold: float, size: int) -> Rate:
    """Share of tracks that reach a threshold with the best of random galleries, singers first."""
    stranger, condition = population.codes()
    weights = tail.stranger_weights(stranger, condition)
    best = population.maxima(calibration.llr, calibration.near, size, N_GALLERIES, seed=SEED)
    hits = (best >= threshold).mean(axis=0)
    n = int(stranger.max()) + 1
    hit, total = np.bincount(stranger, hits * weights, n), np.bincount(stranger, weights, n)
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), N_RESAMPLES)
    low, high = np.quantile((drawn @ hit) / (drawn @ total), [0.025, 0.975])
    value = float(hits @ weights)
    spread = 1.96 * np.sqrt(max(value * (1 - value), 1e-12) / len(hits))
    return Rate(value, float(low), float(high), max(0.0, value - spread), value + spread, n, len(hits), hits.sum())


def plain_threshold(comparisons: Sequence[np.ndarray], population: Population, budget: float, n_artists: int) -> float:
    """What budget / N of the single comparisons reach: the field's usual way (Bonferroni).

    `comparisons` : llrs of the tracks of the population with the voices of some galleries, (n_tracks, size) each.
    """
    flat = np.concatenate([scores.ravel() for scores in comparisons])
    weights = tail.stranger_weights(*population.codes())
    weights = np.concatenate([np.repeat(weights, scores.shape[1]) for scores in comparisons])
    judged = np.isfinite(flat)
    order = np.argsort(-flat[judged])
    share = np.cumsum(weights[judged][order]) / weights[judged].sum()
    return float(flat[judged][order][min(np.searchsorted(share, budget / n_artists - 1e-12), len(order) - 1)])


def single_comparisons(calibration: Calibration, population: Population, size: int) -> list[np.ndarray]:
    """Llrs of strangers with the artists of galleries of a size, as these crowd one another; for `plain_threshold`."""
    enrolled = population.enrolled(calibration.llr, calibration.near)
    n_galleries = max(1, min(N_GALLERIES, N_COMPARED // size))
    llrs = population.llr(calibration.llr)
    return [*tail.gallery_scores(llrs, size, n_galleries, first=population.sings, seed=SEED, **enrolled)]


# --- within fold A ----------------------------------------------------------------------------------------------------


def held_out(calibration: Calibration, population: Population) -> list[Row]:
    """How far each way's rate lies from the budget on artists and strangers it has not seen, as a factor."""
    model, near = calibration.llr, calibration.near
    stranger = population.codes()[0]
    n_voices = len(population.voices)
    off: dict[tuple[str, float], list[float]] = {}
    for split in range(N_SPLITS):
        rng = np.random.default_rng([SEED, split])
        # Half of the singers and half of the others, so that both halves are alike.
        order = np.lexsort([rng.random(n_voices), ~population.sings])
        known_voices = np.zeros(n_voices, bool)
        known_voices[order[::2]] = True
        known = rng.permutation(int(stranger.max()) + 1) % 2 == 0
        rows = known[stranger]
        part, unseen = population.select(rows, known_voices), population.select(~rows, ~known_voices)
        fitted = part.fit_tail(model, near)
        size = min(100, len(unseen.voices))
        maxima = unseen.maxima(model, near, size, N_GALLERIES, seed=split)
        weights = tail.stranger_weights(*unseen.codes())
        for budget in BUDGETS:
            ways = {
                "tail": tail.threshold_for(fitted, budget, size),
                "tail, no margin": tail.threshold_for(replace(fitted, margin=1.0), budget, size),
                "budget / N": plain_threshold([part.llr_of_all(model, near)], part, budget, size),
            }
            for way, threshold in ways.items():
                rate = float((maxima >= threshold).mean(axis=0) @ weights)
                off.setdefault((way, budget), []).append(rate)
    found = []
    for (way, budget), rates in off.items():
        factor = float(np.exp(np.mean(np.abs(np.log(np.maximum(rates, 1e-4) / budget)))))
        name = f"held-out@{budget:g}"
        low, high = np.quantile(rates, [0.1, 0.9])
        found.append(
            Row(name, way, "fpir_pct", *(round(100 * x, 3) for x in (float(np.mean(rates)), low, high)), N_SPLITS)
        )
        found.append(Row(name, way, "factor_off", round(factor, 2), None, None, N_SPLITS))
        kept = 100 * float(np.mean(np.array(rates) <= budget))
        found.append(Row(name, way, "kept_pct", round(kept, 1), None, None, N_SPLITS))
    return found


# --- simulated --------------------------------------------------------------------------------------------------------


def simulate(means: np.ndarray, groups: Sequence[str], way: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, dim) unit vectors of artists who do not exist."""
    dim = means.shape[1]
    if way == "gaussian":
        voices = rng.multivariate_normal(means.mean(axis=0), np.cov(means.T) + 1e-6 * np.eye(dim), n, method="cholesky")
    elif way == "mixture":
        names, group = np.unique(groups, return_inverse=True)
        centres = np.stack([means[group == i].mean(axis=0) for i in range(len(names))])
        within = np.cov((means - centres[group]).T) * len(means) / max(1, len(means) - len(names))
        chosen = rng.choice(group, n)  # groups as often as real voices are of them
        spread = rng.multivariate_normal(np.zeros(dim), within + 1e-6 * np.eye(dim), n, method="cholesky")
        voices = centres[chosen] + spread
    else:
        base = means[rng.integers(len(means), size=n)]
        voices = moved(base, ALIKE, rng)
        twins = rng.random(n) < TWIN_SHARE
        voices[twins] = moved(voices[rng.integers(n, size=int(twins.sum()))], TWIN, rng)
    unit: np.ndarray = (voices / np.linalg.norm(voices, axis=1, keepdims=True)).astype(np.float32)
    return unit


def moved(vectors: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors at a given cosine from others, in random directions."""
    noise = rng.standard_normal(vectors.shape)
    noise -= (noise * vectors).sum(axis=1, keepdims=True) * vectors
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    away: np.ndarray = cosine * vectors + np.sqrt(1 - cosine**2) * noise
    return away


def group_of(person: str) -> str:
    """Corpus, which is a language mostly, and for RAVDESS and GTSinger, whose names tell it, sex."""
    corpus, *rest = person.split("-")
    if corpus == "ravdess":
        return f"ravdess {int(''.join(c for c in rest[-1] if c.isdigit())) % 2}"
    if corpus == "gtsinger":
        return f"gtsinger {rest[0]} {'high' if rest[1] in ('soprano', 'alto') else 'low'}"
    return corpus


@dataclass(frozen=True)
class HeardStrangers:
    """Stretches of strangers' tracks, one track a stranger, and what of their scores does not depend on artists."""

    stretches: np.ndarray
    starts: np.ndarray
    centres: np.ndarray
    accompaniment: np.ndarray


def simulated_rows(
    calibration: Calibration,
    cohort: scoring.CohortModel,
    means: np.ndarray,
    groups: Sequence[str],
    heard: HeardStrangers,
    sizes: Sequence[int],
) -> list[Row]:
    """FPIR of the heard strangers at the thresholds for 1 %, by number of simulated artists and way."""
    rows = []
    n_strangers = len(heard.starts)
    for way in ("real", "gaussian", "mixture", "resampled"):
        rng = np.random.default_rng([SEED, len(way)])
        real = rng.permutation(means).astype(np.float32)
        enough = crowding.MOST_VOICES
        # The first are the voices that all are compared with; with fewer artists, those there are.
        first = real[:enough] if way == "real" else simulate(means, groups, way, enough, rng)
        crowd, best, n = first[:0], np.full(n_strangers, -np.inf), 0
        for size in sizes if way != "real" else [size for size in sizes if size <= len(real)]:
            if len(crowd) < min(size, len(first)):
                crowd, best, n = first[:size], np.full(n_strangers, -np.inf), 0
                alone = np.arange(len(crowd))
            while n < size:
                chunk = len(crowd) if n == 0 else min(50_000, size - n)
                if n == 0 or way == "real":
                    voices = (first if n == 0 else real[n:])[:chunk]
                else:
                    voices = simulate(means, groups, way, chunk, rng)
                each = np.arange(chunk)
                centres = scoring.artist_centres(voices, each, cohort)
                raw = np.maximum.reduceat(heard.stretches @ voices.T, heard.starts, axis=0)
                norm = (raw - (centres[None, :] + heard.centres[:, None]) / 2) / cohort.spread
                if n == 0:
                    near = llr_of(measures(norm, heard.accompaniment[:, None]), calibration.llr)
                own = np.where(n + each < len(crowd), n + each, -1)
                between = crowding.score_between(crowd, alone, voices, each, cohort, centres=centres)
                between.others[own[own >= 0], np.flatnonzero(own >= 0)] = -np.inf
                measured = measures(
                    norm,
                    heard.accompaniment[:, None],
                    crowding.artist_crowding(between, calibration.near),
                    crowding.track_crowding(near, calibration.near.track, own),
                )
                llrs = llr_of(measured, calibration.llr)
                best = np.maximum(best, llrs.max(axis=1))
                n += chunk
            threshold = tail.threshold_for(calibration.tail, 0.01, size)
            beyond = tail.decades_beyond(calibration.tail, 0.01, size)
            value = round(100 * float((best >= threshold).mean()), 2)
            rows.append(Row(f"simulated-{size}@1e-2", way, "fpir_pct", value, None, None, n_strangers))
            rows.append(Row(f"simulated-{size}@1e-2", "tail", "threshold_llr", round(threshold, 3), None, None, size))
            rows.append(Row(f"simulated-{size}@1e-2", "tail", "decades_beyond", round(beyond, 2), None, None, size))
    return rows


# --- the run ----------------------------------------------------------------------------------------------------------


def budget_rows(calibration: Calibration, chosen: Population, reported: Population, sizes: Sequence[int]) -> list[Row]:
    """FPIR by size and budget, of the tail and of plain budget / N."""
    rows = []
    for size in sizes:
        known = single_comparisons(calibration, chosen, size)
        for budget in BUDGETS:
            ways = {
                "tail": tail.threshold_for(calibration.tail, budget, size),
                "budget / N": plain_threshold(known, chosen, budget, size),
            }
            for way, threshold in ways.items():
                rate = false_flags(calibration, reported, threshold, size)
                name = f"strangers-{size}@{budget:g}"
                percent = [round(100 * x, 3) for x in (rate.value, rate.low, rate.high)]
                rows.append(Row(name, way, "fpir_pct", *percent, rate.n_tracks))
                within = [round(100 * x, 3) for x in (rate.value, rate.binomial_low, rate.binomial_high)]
                rows.append(Row(name, way, "fpir_pct_over_tracks", *within, rate.n_tracks))
                rows.append(Row(name, way, "strangers", rate.n_strangers, None, None, rate.n_tracks))
                rows.append(Row(name, way, "flags", round(rate.n_flags, 1), None, None, rate.n_tracks))
                rows.append(Row(name, way, "threshold_llr", round(threshold, 3), None, None, size))
    return rows


def crossed_rows(calibration: Calibration, reported: Population, budget: float = 0.01, n_most: int = 6) -> list[Row]:
    """Who is flagged as whom with all voices enrolled, by corpus: shares of what is flagged, in percent."""
    size = len(reported.voices)
    scores = reported.llr_of_all(calibration.llr, calibration.near)
    threshold = tail.threshold_for(calibration.tail, budget, size)
    weights = tail.stranger_weights(*reported.codes())
    best = scores.argmax(axis=1)
    flagged = np.flatnonzero(scores.max(axis=1) >= threshold)
    shares: dict[str, float] = {}
    for track in flagged:
        who = f"{reported.person[track].split('-')[0]} as {reported.voices[best[track]].split('-')[0]}"
        shares[who] = shares.get(who, 0.0) + weights[track] / weights[flagged].sum()
    most = sorted(shares.items(), key=lambda pair: -pair[1])[:n_most]
    name = f"crossed-{size}@{budget:g}"
    return [Row(name, who, "share_pct", round(100 * share, 1), None, None, len(flagged)) for who, share in most]


def missed_rows(
    calibration: Calibration,
    reported: Population,
    probes: Mapping[tuple[str, str], ProbeTracks],
    sizes: Sequence[int],
) -> list[Row]:
    """FNIR of enrolled voices at the thresholds: clips, and songs of a minute and of four."""
    names = {name: probe for probe, name in PROBES.items()}
    rows = []
    for size in sizes:
        galleries = tail.random_galleries(len(reported.voices), size, N_GALLERIES, first=reported.sings, seed=SEED)
        for budget in BUDGETS:
            threshold = tail.threshold_for(calibration.tail, budget, size)
            for (name, length), tracks in probes.items():
                missed = tracks.missed(calibration, threshold, galleries)
                share = float(missed @ probe_weights(names[name], tracks.person))
                row = f"{name}-{size}@{budget:g}"
                rows.append(Row(row, length, "fnir_pct", round(100 * share, 2), None, None, len(missed)))
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """FPIR by size and budget, then what is missed, held-out fits, and the simulation."""
    of = {(row.trials, row.system, row.metric): row for row in rows}
    head = f"{'fold B, thresholds of fold A':32}{'threshold':>10}{'FPIR %, over strangers':>46}"
    print(head + f"{'over tracks':>18}  strangers")
    for row in rows:
        if row.metric == "fpir_pct" and row.trials.startswith("strangers-"):
            tracks = of[row.trials, row.system, "fpir_pct_over_tracks"]
            n = of[row.trials, row.system, "strangers"]
            threshold = of[row.trials, row.system, "threshold_llr"].value
            bound = 100 * 3 / n.value
            interval = f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})"
            if row.value * n.value < 100:
                interval += f", < {bound:.1f}, extrapolated"
            over = f"{tracks.low:.2f} to {tracks.high:.2f}"
            line = f"{f'{row.trials} {row.system}':32}{threshold:>10.2f}{interval:>46}{over:>18}"
            flags = of[row.trials, row.system, "flags"].value
            print(f"{line}  {n.value:.0f}; {flags:.0f} of {row.n:,} tracks flagged")
    crossed = ", ".join(f"{row.system} {row.value:.0f} %" for row in rows if row.metric == "share_pct")
    print(f"\nof what is flagged with all voices and 1 %: {crossed}")
    print("\nmissed, FNIR %: " + ", ".join(LENGTHS))
    for row in rows:
        if row.metric == "fnir_pct" and row.system == next(iter(LENGTHS)):
            cells = "".join(f"{of[row.trials, length, 'fnir_pct'].value:8.1f}" for length in LENGTHS)
            print(f"{row.trials:40}{cells}  of {row.n}")
    print("\nwithin fold A, half of artists and strangers left out: mean rate %, 80 % of splits, factor off the budget")
    for row in rows:
        if row.metric == "fpir_pct" and row.trials.startswith("held-out"):
            factor, kept = (of[row.trials, row.system, metric].value for metric in ("factor_off", "kept_pct"))
            print(
                f"{row.trials:20}{row.system:20}{row.value:8.2f} ({row.low:.2f} to {row.high:.2f}){factor:8.2f}"
                f"   kept in {kept:.0f} %"
            )
    print("\nSIMULATED artists: FPIR % at the threshold for 1 %")
    for row in rows:
        if row.metric == "fpir_pct" and row.trials.startswith("simulated"):
            threshold = of[row.trials, "tail", "threshold_llr"].value
            beyond = of[row.trials, "tail", "decades_beyond"].value
            line = f"{row.trials:28}{row.system:12}{row.value:8.2f}"
            print(f"{line}   threshold {threshold:.2f}, {beyond:.1f} decades beyond")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoder (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--quick", action="store_true", help="up to 10,000 simulated artists against cohort persons alone"
    )
    options = parser.parse_args(arguments)

    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    encoder = SpeechBrainEncoder(HOUSE, n_threads=options.threads)
    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    calibration = encoder_calibration(encoder)
    rows: list[Row] = []
    if options.quick:
        # Odd persons of the cohort are heard, even ones are whom artists are made of: does it run?
        groups = np.split(cohort.vectors, cohort.starts[1:])
        means = np.stack([group.mean(axis=0) for group in groups])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        heard = heard_strangers([group[:8] for group in groups[1::2]], cohort)
        rows += simulated_rows(
            calibration, cohort, means[::2], ["cohort"] * len(means[::2]), heard, SIMULATED_SIZES[:3]
        )
    else:
        if not (options.audio / "dev/voices.csv").is_file():
            print(f"skipped: no real recordings, {options.audio} has no dev/voices.csv; set LIKENESS_AUDIO or --audio")
            return 0
        house = House(encoder)
        persons = read_persons(options.audio, "B")
        enrolled, strangers = halves(persons)
        chosen = score_population(options.audio, "A", house, cohort, options.cache)
        reported = score_population(
            options.audio, "B", house, cohort, options.cache, heard=strangers, enrolled=enrolled
        )
        sizes = [*SIZES, len(reported.voices)]
        rows += budget_rows(calibration, chosen, reported, sizes)
        rows += crossed_rows(calibration, reported)
        needed = set(PROBES.values())
        sets = {name: trials for name, trials in build_trials(options.audio, "B").items() if name in needed}
        items = {key: item for trials in sets.values() for key, item in trials.audio_items().items()}
        vectors = embed_items(options.audio, items, house, options.cache, label="fold B")
        probes = score_probes(options.audio, "B", sets, vectors, reported, house, cohort, options.cache)
        rows += missed_rows(calibration, reported, probes, sizes)
        rows += held_out(calibration, chosen)
        means, groups = person_means(options.audio, "A", house, options.cache)
        everybody = persons.everybody
        clips = {clip.path: AudioItem(clip.path) for name in strangers for clip in everybody[name]}
        kept = embed_items(options.audio, clips, house, options.cache, label="strangers of fold B")
        tracks = [
            np.concatenate([kept[clip.path].vectors for clip in everybody[name]])
            for name in strangers
            if any(not kept[clip.path].abstains for clip in everybody[name])
        ]
        rows += simulated_rows(calibration, cohort, means, groups, heard_strangers(tracks, cohort), SIMULATED_SIZES)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def heard_strangers(tracks: Sequence[np.ndarray], cohort: scoring.CohortModel) -> HeardStrangers:
    """Tracks, as windows of each, made ready."""
    stretches = [scoring.stretch_vectors(windows) for windows in tracks]
    return HeardStrangers(
        np.concatenate(stretches),
        np.cumsum([0, *(len(rows) for rows in stretches[:-1])]),
        np.array([scoring.pool_scores(windows, cohort.vectors, cohort.starts).mean() for windows in tracks]),
        np.array([scoring.accompaniment(windows, cohort) for windows in tracks]),
    )


def person_means(audio_root: Path, fold: str, system: House, cache_dir: Path) -> tuple[np.ndarray, list[str]]:
    """Mean vector of each singer and speaker of a fold, and its group.

    Without dev/strangers, of whose corpora the heard strangers are too, and RAVDESS.
    """
    persons = read_persons(audio_root, fold)
    everybody = {
        name: clips
        for name, clips in {**persons.speakers, **persons.singers}.items()
        if clips[0].corpus not in NOT_IN_GALLERY
    }
    items = {clip.path: AudioItem(clip.path) for clips in everybody.values() for clip in clips}
    kept = embed_items(audio_root, items, system, cache_dir, label=f"voices of fold {fold}")
    means, groups = [], []
    for person, clips in sorted(everybody.items()):
        usable = [kept[clip.path].vectors for clip in clips if not kept[clip.path].abstains]
        if usable:
            mean = np.concatenate(usable).mean(axis=0)
            means.append(mean / np.linalg.norm(mean))
            groups.append(group_of(person))
    return np.stack(means), groups


if __name__ == "__main__":
    sys.exit(main())
