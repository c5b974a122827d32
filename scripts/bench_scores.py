"""What each step from cosine to likelihood ratio gives or costs, on fold B; constants are of fold A.

    python scripts/bench_scores.py --json scripts/results/bench_scores.json
    python scripts/bench_scores.py --quick

raw          cosine of mean window vectors with the artist's mean
pooled       cosine of the best stretch with the nearest template
as-norm      that, normalised against the cohort (norm_score)
calibrated   the shipped llr: as-norm with the music under the voice, and how crowded it is around artist and track

EER and minDCF (P_target 0.01) of single comparisons; Cllr and its minimum (log2) of their likelihood ratios, which for
raw, pooled and as-norm are made as the shipped ones are, by a straight line fitted on fold A. ``mixture`` is what the
fit is for: six kinds of targets alike, five kinds of nontargets alike. ``cllr_loss`` is what calibration loses, Cllr
less its minimum; the system ``own line`` is what a straight line would lose that is fitted on fold A to the very kind
that it is measured on, on fold B or, as ``own line, fold A``, on the trials it was fitted to; ``right ones, simulated``
what llrs without any fault would lose with as many targets, were they independent. FNIR: enrolled voices
missed at the one threshold at which 1 % of strangers' tracks are flagged, speaking, singing and singing over music at
+6 and +0 dB alike; trials ``NAME@1e-2``. Clones count by person imitated. 95 % intervals by bootstrap over persons.

Last: one track of four minutes against 100,000 templates of 12,500 artists, by `registry.scoring` and by a loop over
artists that does the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from bench_real import Row, verification
from fit_builtin import PROBES, STRANGER_SETS, FoldScores, budget_point, missed_everywhere, mixture
from make_trials import TrialSet, build_trials
from trial_audio import DEFAULT_AUDIO
from trial_vectors import DEFAULT_CACHE, House, embed_items, mean_scores, score_sets

from embeddings.model_dir import HOUSE
from registry import intervals, llr, scoring
from registry.calibration import Calibration
from registry.llr_metrics import cllr, cllr_min
from registry.match import encoder_calibration

SYSTEMS = ("raw", "pooled", "as-norm", "calibrated")
#: What is held against what the shipped llrs lose.
LOSSES = ("calibrated", "own line", "own line, fold A", "right ones, simulated")
N_SIMULATED = 50
#: Name in the table -> set of trials.
GROUPS = {
    "singing": "strangers-sung",
    "over music +6 dB": "strangers-sung+6db",
    "over music 0 dB": "strangers-sung+0db",
    "karaoke mixes": "mix-mir1k",
    "speech": "speech",
    "clones of singing": "clone-singing",
    "clones of speech": "clone-speech",
}
BY_TARGET = ("clone-singing", "clone-speech")
BUDGET = 0.01
N_RESAMPLES = 200

SPEED_TEMPLATES, SPEED_PER_ARTIST, SPEED_WINDOWS = 100_000, 8, 120


@dataclass(frozen=True)
class Fold:
    """The sets of a fold, scored in every way: system -> set -> (n_tests, n_models)."""

    sets: dict[str, TrialSet]
    abstains: dict[str, np.ndarray]
    scores: dict[str, dict[str, np.ndarray]]


def score_fold(options: argparse.Namespace, fold: str, encoder: Any, calibration: Calibration) -> Fold:
    """Embed what is not kept, and score."""
    model, near = calibration.llr, calibration.near
    needed = {*GROUPS.values(), *STRANGER_SETS, *PROBES.values()}
    sets = {name: trials for name, trials in build_trials(options.audio, fold).items() if name in needed}
    items = {key: item for trials in sets.values() for key, item in trials.audio_items().items()}
    vectors = embed_items(options.audio, items, House(encoder), options.cache, label=f"fold {fold}")
    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    shipped = score_sets(sets, vectors, cohort)
    return Fold(
        sets,
        {name: scores.abstains for name, scores in shipped.items()},
        {
            "raw": {name: mean_scores(trials, vectors).astype(float) for name, trials in sets.items()},
            "pooled": {name: scores.pooled for name, scores in shipped.items()},
            "as-norm": {name: scores.norm for name, scores in shipped.items()},
            "calibrated": {name: scores.llr(model, near) for name, scores in shipped.items()},
        },
    )


def fitted_trials(fold: Fold, system: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores of the targets and nontargets that slope and intercept are fitted to, and how much each counts."""
    return mixture(FoldScores(fold.sets, fold.abstains), fold.scores[system], speech=True)


def straight_line(fold: Fold, system: str) -> tuple[float, float]:
    """Slope and intercept that make likelihood ratios of one system's scores, by the shipped fit and mixture."""
    target, others, weights, other_weights = fitted_trials(fold, system)
    slope, intercept = llr.fit_weights(target[:, None], others[:, None], weights, other_weights)
    return float(slope[0]), intercept


def group_rows(fold: Fold, system: str, line: tuple[float, float], n_resamples: int) -> list[Row]:
    """EER, minDCF, Cllr and its minimum of every group. Comparisons with a track that abstains are left out."""
    rows = []
    for group, name in GROUPS.items():
        pairs = fold.sets[name].pairs()
        chosen = np.flatnonzero(~fold.abstains[name][pairs.test_index])
        scores = fold.scores[system][name][pairs.test_index, pairs.enroll_index]
        figures = verification(group, pairs, scores, chosen, n_resamples, by_target=name in BY_TARGET)
        eer, dcf = figures["eer"], figures["min_dcf_0.01"]
        n = len(chosen)
        rows.append(Row(group, system, "eer_pct", *(round(100 * x, 2) for x in (eer.value, eer.low, eer.high)), n))
        rows.append(Row(group, system, "min_dcf", *(round(x, 4) for x in (dcf.value, dcf.low, dcf.high)), n))
        llrs = line[0] * scores[chosen] + line[1]
        target, persons = pairs.is_target[chosen], (pairs.enroll_person[chosen], pairs.test_person[chosen])
        weights = trial_weights(name, target, persons[1])
        cost = intervals.bootstrap_cllr(llrs, target, *persons, weights=weights, n_resamples=n_resamples)
        least = cllr_min(llrs[target], llrs[~target], weights[target], weights[~target])
        rows.append(Row(group, system, "cllr", *(round(x, 4) for x in (cost.value, cost.low, cost.high)), n))
        # No intervals: the least possible cost of resampled trials is lower still, for many of them are there twice.
        rows.append(Row(group, system, "cllr_min", round(least, 4), None, None, n))
        rows.append(Row(group, system, "cllr_loss", round(cost.value - least, 4), None, None, n))
    target, others, weights, other_weights = fitted_trials(fold, system)
    parts = line[0] * target + line[1], line[0] * others + line[1], weights, other_weights
    n = len(target) + len(others)
    cost, least = cllr(*parts), cllr_min(*parts)
    for metric, value in (("cllr", cost), ("cllr_min", least), ("cllr_loss", cost - least)):
        rows.append(Row("mixture", system, metric, round(value, 4), None, None, n))
    return rows


def trial_weights(name: str, target: np.ndarray, test_person: np.ndarray) -> np.ndarray:
    """How much each trial of a set counts: all alike, or with clones the persons imitated alike."""
    return intervals.balanced_weights(target, test_person) if name in BY_TARGET else np.ones(len(target))


def own_line_rows(chosen: Fold, reported: Fold) -> list[Row]:
    """What a line loses that is fitted to the shipped llrs of one kind alone on fold A, on fold B and on fold A."""
    rows = []
    for group, name in GROUPS.items():
        target, other, *weights = judged(chosen, name)
        slope, intercept = llr.fit_weights(target[:, None], other[:, None], *weights)
        for system, fold in (("own line", reported), ("own line, fold A", chosen)):
            target, other, *weights = judged(fold, name)
            lined = slope[0] * target + intercept, slope[0] * other + intercept, *weights
            loss = cllr(*lined) - cllr_min(*lined)
            rows.append(Row(group, system, "cllr_loss", round(loss, 4), None, None, len(target) + len(other)))
    return rows


def right_rows(rows: Sequence[Row], reported: Fold, seed: int = 1) -> list[Row]:
    """What llrs lose that are right, on as many trials with the same EER: Gaussians, each trial independent.

    The least possible cost is fitted to the trials, so that it is lower than the best that is possible on others.
    Clones are left out: there are 30 and more of a person, which tell less than as many of others would.
    """
    rng = np.random.default_rng(seed)
    eers = {row.trials: row.value / 100 for row in rows if (row.system, row.metric) == ("calibrated", "eer_pct")}
    found = []
    for group, name in GROUPS.items():
        if name in BY_TARGET:
            continue
        n_targets, n_others = (len(part) for part in judged(reported, name)[:2])
        # Natural llrs with the variance s2 have the means s2 / 2 and -s2 / 2; the EER is the share beyond 0.
        spread = -2 * NormalDist().inv_cdf(max(eers[group], 0.001))
        losses = []
        for _ in range(N_SIMULATED):
            target, other = (
                (mean + spread * rng.standard_normal(n)) / np.log(10)
                for mean, n in ((spread**2 / 2, n_targets), (-(spread**2) / 2, n_others))
            )
            losses.append(cllr(target, other) - cllr_min(target, other))
        figures = (round(float(x), 4) for x in (np.mean(losses), *np.quantile(losses, [0.025, 0.975])))
        found.append(Row(group, LOSSES[-1], "cllr_loss", *figures, n_targets + n_others))
    return found


def judged(fold: Fold, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shipped llrs of the targets and nontargets of a set that do not abstain, and how much each counts."""
    pairs = fold.sets[name].pairs()
    at = np.flatnonzero(~fold.abstains[name][pairs.test_index])
    llrs, target = fold.scores["calibrated"][name][pairs.test_index[at], pairs.enroll_index[at]], pairs.is_target[at]
    weights = trial_weights(name, target, pairs.test_person[at])
    return llrs[target], llrs[~target], weights[target], weights[~target]


def search_rows(fold: Fold, system: str) -> list[Row]:
    """FPIR and FNIR at the one threshold that flags `BUDGET` of strangers."""
    search, tables = FoldScores(fold.sets, fold.abstains), fold.scores[system]
    strangers = {name: search.strangers(name, tables[name]) for name in STRANGER_SETS}
    threshold = budget_point(list(strangers.values()), BUDGET).threshold
    rows = [
        Row(f"{name}@1e-2", system, "fpir_pct", round(100 * float((s >= threshold).mean()), 2), None, None, len(s))
        for name, s in strangers.items()
    ]
    missed = missed_everywhere(search, tables, threshold)
    for probe, name in PROBES.items():
        n = len(search.targets(name, tables[name])[0])
        rows.append(Row(f"{name}@1e-2", system, "fnir_pct", round(missed[probe], 2), None, None, n))
    mean = float(np.mean(list(missed.values())))
    rows.append(Row("mean@1e-2", system, "fnir_pct", round(mean, 2), None, None, len(missed)))
    return rows


def speed_rows(cohort: scoring.CohortModel, seed: int = 1) -> list[Row]:
    """Seconds of scoring one track against all templates, in one go and artist by artist."""
    rng = np.random.default_rng(seed)
    dim = cohort.vectors.shape[1]

    def unit(rows: np.ndarray) -> np.ndarray:
        normed: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return normed

    templates = unit(rng.standard_normal((SPEED_TEMPLATES, dim)))
    windows = unit(rng.standard_normal((SPEED_WINDOWS, dim)))
    starts = np.arange(0, SPEED_TEMPLATES, SPEED_PER_ARTIST)
    began = time.perf_counter()
    scores = scoring.pool_scores(windows, templates, starts)
    together = scoring.normalise(scores, windows, templates, starts, cohort)
    vectorised_s = time.perf_counter() - began
    began = time.perf_counter()
    one = np.zeros(1, np.int64)
    apart = []
    for start in starts:
        own = templates[start : start + SPEED_PER_ARTIST]
        apart.append(scoring.normalise(scoring.pool_scores(windows, own, one), windows, own, one, cohort)[0])
    loop_s = time.perf_counter() - began
    if not np.allclose(together, apart, atol=1e-4):
        raise AssertionError("the two ways of scoring differ")
    n = SPEED_TEMPLATES
    return [
        Row("speed", "vectorised", "seconds", round(vectorised_s, 3), None, None, n),
        Row("speed", "loop over artists", "seconds", round(loop_s, 3), None, None, n),
        Row("speed", "vectorised", "times_faster", round(loop_s / vectorised_s, 1), None, None, n),
    ]


def print_table(rows: Sequence[Row]) -> None:
    """One line for each (trials, metric), one column for each system."""
    found: dict[tuple[str, str], Mapping[str, Row]] = {}
    for row in rows:
        found[row.trials, row.metric] = {**found.get((row.trials, row.metric), {}), row.system: row}
    print(f"{'fold B':28}{'':10}" + "".join(f"{system:>24}" for system in SYSTEMS))
    for (trials, metric), cells in found.items():
        if trials == "speed" or not set(SYSTEMS) <= set(cells):
            continue
        texts = []
        for system in SYSTEMS:
            row = cells[system]
            interval = "" if row.low is None else f" ({row.low:.3g} to {row.high:.3g})"
            texts.append(
                f"{f'{row.value:.3f}' if 'dcf' in metric or 'cllr' in metric else f'{row.value:.1f}'}{interval}"
            )
        print(f"{trials:28}{metric:10}" + "".join(f"{text:>24}" for text in texts))
    losses = {group: found[group, "cllr_loss"] for group in GROUPS if (group, "cllr_loss") in found}
    if losses:
        print(f"\n{'what calibration loses':28}" + "".join(f"{name:>24}" for name in LOSSES))
    for group, cells in losses.items():
        texts = [f"{cells[name].value:.3f}" if name in cells else "" for name in LOSSES]
        print(f"{group:28}" + "".join(f"{text:>24}" for text in texts))
    for row in rows:
        if row.trials == "speed":
            print(f"{row.n:,} templates, a track of four minutes: {row.system} {row.value:g} {row.metric}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoder (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="speed alone: a few seconds")
    options = parser.parse_args(arguments)

    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    encoder = SpeechBrainEncoder(HOUSE, n_threads=options.threads)
    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    rows: list[Row] = []
    if not options.quick:
        if not (options.audio / "dev/voices.csv").is_file():
            print(f"skipped: no real recordings, {options.audio} has no dev/voices.csv; set LIKENESS_AUDIO or --audio")
            return 0
        calibration = encoder_calibration(encoder)
        chosen, reported = (score_fold(options, fold, encoder, calibration) for fold in ("A", "B"))
        for system in SYSTEMS:
            # Fold A chose; its mean stands beside for what the choice was made by.
            rows += [replace(row, trials=f"fold A, {row.trials}") for row in search_rows(chosen, system)[-1:]]
            line = (1.0, 0.0) if system == "calibrated" else straight_line(chosen, system)
            rows += group_rows(reported, system, line, N_RESAMPLES)
            rows += search_rows(reported, system)
        rows += own_line_rows(chosen, reported)
        rows += right_rows(rows, reported)
    rows += speed_rows(cohort)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
