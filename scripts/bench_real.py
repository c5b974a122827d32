"""How well voices are told apart and found, on real recordings: one table, ours beside Resemblyzer, in one run.

    python scripts/bench_real.py                      # fold B, to report
    python scripts/bench_real.py --fold A --quick     # fold A, to choose; a minute

Upper part: is it this voice? EER and AUC in percent, 95 % intervals by bootstrap over persons.

house         cosine of mean window vectors, as in the card of the encoder
house+pool    the pooled cosine of `registry.scoring`, against templates as enrolling makes them (not shown by default)
house+norm    the score that the product decides by: house+pool, normalised against the cohort
resemblyzer   Resemblyzer 0.1.4 as its README has it used (extra [bench]; left out where it is not installed)

Lower part: what the product (`house` there) says at its shipped threshold. Flagged: of tracks of enrolled singers
(mates) and of clones, as that voice; of all others, as anybody. Tracks with too little voice abstain: counted, and
never flagged. A clone counts once for each site that the person imitated has recordings from, enrolled from that site
alone.
Where nobody or everybody is flagged a bootstrap says nothing: the interval is then the exact binomial one over persons.

Sounds in which no voice is found keep their place in the upper part by being embedded whole; how many, is said below.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from make_trials import FOLDS, SUNG_CORPORA, Pairs, TrialSet, build_trials
from trial_audio import DEFAULT_AUDIO, load_mono
from trial_vectors import (
    DEFAULT_CACHE,
    House,
    ItemVectors,
    Resemblyzer,
    ShippedScores,
    System,
    count_fallbacks,
    embed_items,
    enroll_models,
    mean_scores,
    score_sets,
)

from embeddings import vocals
from embeddings.audio import open_audio
from embeddings.model_dir import HOUSE, model_digest
from registry import intervals, scoring
from registry.calibration import DEFAULT_BUDGET, Rule
from registry.match import encoder_calibration

SYSTEMS = ("house", "house+pool", "house+norm", "resemblyzer")
DEFAULT_SYSTEMS = ("house", "house+norm", "resemblyzer")
LEVELS = ("", "+6db", "+0db")
CLONE_SETS = ("clone-singing", "clone-speech")
#: Open-set searches.
SEARCHES = (
    "strangers-spoken",
    "strangers-sung",
    "strangers-sung+6db",
    "strangers-sung+0db",
    "strangers-mixes",
    "instrumentals",
)
MATES = ("strangers-sung", "strangers-sung+6db", "strangers-sung+0db", "strangers-mixes")

#: --quick: of each set this many persons (pieces), and this many tracks and models of each.
QUICK_PERSONS = 2
QUICK_CLIPS = 2
QUICK_RESAMPLES = 50

#: Sound that the speed is measured on, in seconds, and how often; the first pass warms up and is not counted.
SPEED_S = 120.0
SPEED_REPEATS = 3
QUICK_SPEED_S = 20.0


@dataclass(frozen=True)
class Row:
    """One figure; the keys of the JSON."""

    trials: str
    system: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int


# --- is it this voice? ------------------------------------------------------------------------------------------------


def verification(
    name: str, pairs: Pairs, scores: np.ndarray, chosen: np.ndarray, n_resamples: int, *, by_target: bool = False
) -> dict[str, intervals.Estimate]:
    """Figures of some of a set's pairs; `by_target`: every person imitated counts alike, not every clip."""
    target, test_person = pairs.is_target[chosen], pairs.test_person[chosen]
    return intervals.bootstrap_verification(
        scores[chosen],
        target,
        pairs.enroll_person[chosen],
        test_person,
        weights=intervals.balanced_weights(target, test_person) if by_target else None,
        n_resamples=n_resamples,
        # Corpora are averaged: their resamples must be independent. The same for every system, which pairs them.
        seed=zlib.crc32(name.encode()),
    )


def verification_rows(
    sets: Mapping[str, TrialSet], system: str, tables: Mapping[str, np.ndarray], n_resamples: int
) -> list[Row]:
    """EER, AUC and minDCF of every verification set and of the averages over sung corpora."""
    rows: list[Row] = []

    def add(name: str, figures: Mapping[str, intervals.Estimate], n: int) -> None:
        for metric, estimate in figures.items():
            percent = 100 if metric in ("eer", "auc") else 1
            reported = f"{metric}_pct" if percent == 100 else metric
            value, low, high = (round(percent * x, 4) for x in (estimate.value, estimate.low, estimate.high))
            rows.append(Row(name, system, reported, value, low, high, n))

    for level in LEVELS:
        corpora = []
        n_trials = 0
        for name in (f"sung-{corpus}{level}" for corpus in SUNG_CORPORA):
            pairs = sets[name].pairs()
            scores = tables[name][pairs.test_index, pairs.enroll_index]
            figures = verification(name, pairs, scores, np.ones(len(scores), bool), n_resamples)
            add(name, figures, len(scores))
            corpora.append(figures)
            n_trials += len(scores)
        mean = {metric: intervals.macro_estimate([figures[metric] for figures in corpora]) for metric in corpora[0]}
        add(f"sung{level}/mean", mean, n_trials)
    for name in ("sung-mir1k+mix", "mix-mir1k", "speech", *CLONE_SETS):
        pairs = sets[name].pairs()
        scores = tables[name][pairs.test_index, pairs.enroll_index]
        everything = np.ones(len(scores), bool)
        add(name, verification(name, pairs, scores, everything, n_resamples), len(scores))
        if name not in CLONE_SETS:
            continue
        for part, chosen in (("", everything), ("/same-site", pairs.same_site), ("/other-sites", ~pairs.same_site)):
            if pairs.is_target[chosen].any() and not pairs.is_target[chosen].all():
                figures = verification(name, pairs, scores, chosen, n_resamples, by_target=True)
                add(f"{name}{part}/by-target", figures, int(chosen.sum()))
    return rows


# --- what the product says --------------------------------------------------------------------------------------------


def share_estimate(
    flags: np.ndarray, persons: np.ndarray, n_resamples: int, *, by_person: bool = False
) -> tuple[float, float, float]:
    """Share of tracks in percent and its 95 % interval, persons resampled.

    Parameters
    ----------
    flags : (n,) bool
    persons : (n,) int or str
    by_person : bool
        The mean of each person's share, rather than the share of all tracks.

    Returns
    -------
    value, low, high : float
    """
    names, person_of = np.unique(persons, return_inverse=True)
    total = np.bincount(person_of).astype(float)
    hits = np.bincount(person_of, weights=flags)
    if by_person:
        hits, total = hits / total, np.ones_like(total)
    value = hits.sum() / total.sum()
    if value in (0.0, 1.0):  # Clopper and Pearson 1934 at the edge, with as many draws as persons
        reach = 1 - 0.025 ** (1 / len(names))
        low, high = (0.0, reach) if value == 0 else (1 - reach, 1.0)
    else:
        drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), n_resamples)
        low, high = np.quantile((drawn @ hits) / (drawn @ total), [0.025, 0.975])
    return round(100 * float(value), 2), round(100 * float(low), 2), round(100 * float(high), 2)


def decision_rows(
    sets: Mapping[str, TrialSet],
    shipped: Mapping[str, ShippedScores],
    llrs: Mapping[str, np.ndarray],
    threshold: float,
    n_resamples: int,
) -> list[Row]:
    """What is flagged and what abstains at the threshold."""
    rows: list[Row] = []

    def add(name: str, metric: str, flags: np.ndarray, persons: np.ndarray, *, by_person: bool = False) -> None:
        estimate = share_estimate(flags, persons, n_resamples, by_person=by_person)
        rows.append(Row(name, "house", metric, *estimate, len(flags)))

    def judged(name: str) -> tuple[Pairs, np.ndarray, np.ndarray]:
        """Pairs of a set; of each, whether it is flagged; whether its test abstains."""
        pairs = sets[name].pairs()
        abstains = shipped[name].abstains[pairs.test_index]
        return pairs, (llrs[name][pairs.test_index, pairs.enroll_index] >= threshold) & ~abstains, abstains

    for name in (*MATES, "mix-mir1k"):
        pairs, flagged, abstains = judged(name)
        own = pairs.is_target
        label = name.replace("strangers", "mates")
        add(label, "flagged_pct", flagged[own], pairs.test_person[own])
        add(label, "abstained_pct", abstains[own], pairs.test_person[own])
    for name in CLONE_SETS:
        pairs, flagged, abstains = judged(name)
        for part, sites in (
            ("", np.ones(len(flagged), bool)),
            ("/same-site", pairs.same_site),
            ("/other-sites", ~pairs.same_site),
        ):
            own = pairs.is_target & sites
            if own.any():
                label = f"{name}{part}/by-target"
                add(label, "flagged_pct", flagged[own], pairs.test_person[own], by_person=True)
                add(label, "abstained_pct", abstains[own], pairs.test_person[own], by_person=True)
        rows += source_rows(sets[name], shipped[name], llrs[name], threshold, n_resamples)
    for name in SEARCHES:
        trials, (pairs, flagged, _) = sets[name], judged(name)
        at = np.setdiff1d(np.arange(len(trials.tests)), pairs.test_index[pairs.is_target])
        any_flag = np.bincount(pairs.test_index[flagged], minlength=len(trials.tests))[at] > 0
        persons = np.array(trials.test_persons())[at]
        add(name, "flagged_pct", any_flag, persons)
        add(name, "abstained_pct", shipped[name].abstains[at], persons)
    return rows


def source_rows(
    trials: TrialSet, scores: ShippedScores, llrs: np.ndarray, threshold: float, n_resamples: int
) -> list[Row]:
    """Of conversions whose original singer or speaker is enrolled too: how many are flagged as that person."""
    models, tests = trials.source_pairs()
    if not len(tests):
        return []
    flagged = (llrs[tests, models] >= threshold) & ~scores.abstains[tests]
    clips = np.unique(tests)
    named = np.array([flagged[tests == clip].any() for clip in clips])
    sources = np.array([trials.tests[clip].source_person for clip in clips])
    estimate = share_estimate(named, sources, n_resamples)
    return [Row(f"{trials.name}/source-named", "house", "flagged_pct", *estimate, len(clips))]


# --- speed ------------------------------------------------------------------------------------------------------------


def speed_rows(audio_root: Path, fold: str, encoder: Any, other: System | None, wanted_s: float) -> list[Row]:
    """Seconds of sound per second of work, from file to vectors; the best of some repeats, and their range."""
    trials = build_trials(audio_root, fold)["mix-mir1k"]
    paths, sound_s = [], 0.0
    for test in trials.tests:
        if sound_s < wanted_s:
            paths.append(audio_root / test.item.path)
            sound_s += trials.clips[test.clip].duration_s
    stages: dict[str, list[float]] = {}
    for repeat in range(1 + SPEED_REPEATS):
        spent = dict.fromkeys(("audio", "vocals", "encoder"), 0.0)
        for path in paths:
            started = time.perf_counter()
            with open_audio(path, encoder.rate_hz) as stream:
                blocks = list(stream)
            decoded = time.perf_counter()
            kept = list(vocals.VocalWindows(blocks, encoder.rate_hz, encoder.window_s, encoder.hop_s))
            found = time.perf_counter()
            for windows in kept:
                encoder.embed_windows(windows.samples)
            done = time.perf_counter()
            for stage, seconds in zip(spent, (decoded - started, found - decoded, done - found), strict=True):
                spent[stage] += seconds
        if repeat:
            stages.setdefault("speed", []).append(sound_s / sum(spent.values()))
            for stage, seconds in spent.items():
                stages.setdefault(f"speed_{stage}", []).append(sound_s / seconds)
    measured = [("house", metric, values) for metric, values in stages.items()]
    if other is not None:
        values = []
        for _ in range(SPEED_REPEATS):
            started = time.perf_counter()
            for _ in other.embed((str(path), load_mono(path)) for path in paths):
                pass
            values.append(sound_s / (time.perf_counter() - started))
        measured.append(("resemblyzer", "speed", values))
    return [
        Row("speed", system, f"{metric}_x_real_time", round(max(v), 1), round(min(v), 1), round(max(v), 1), len(v))
        for system, metric, v in measured
    ]


# --- the run ----------------------------------------------------------------------------------------------------------


def thin_out(trials: TrialSet) -> TrialSet:
    """The fixed part of a set that --quick measures."""
    test_persons, model_persons, roles = trials.test_persons(), trials.model_persons(), trials.test_roles()
    in_models = set(model_persons)
    keep_persons: set[str] = set()
    for role in np.unique(roles):
        persons = sorted({person for person, own in zip(test_persons, roles, strict=True) if own == role})
        enrolled = [person for person in persons if person in in_models] or persons
        for some in (enrolled, persons):
            # Neighbours by name are of one corpus: where only they are compared, others would meet nobody.
            keep_persons.update(some[:QUICK_PERSONS] if trials.scope == "corpus" else _spread(some, QUICK_PERSONS))
    # Three recordings at least, or nobody of MIR-1K has a song left to be tried with.
    models = tuple(
        replace(trials.models[i], clips=trials.models[i].clips[: 3 * QUICK_CLIPS])
        for i in _first_of_each(model_persons, keep_persons)
    )
    tests = tuple(
        trials.tests[i]
        for role in np.unique(roles)
        for i in _first_of_each(test_persons, keep_persons, among=np.flatnonzero(roles == role))
    )
    return replace(trials, models=models, tests=tests)


def _spread(names: Sequence[str], n: int) -> list[str]:
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(n, len(names))).round().astype(int))]


def _first_of_each(
    persons: Sequence[str], wanted: set[str], among: Sequence[int] | np.ndarray | None = None
) -> list[int]:
    """Of each wanted person the first and last entries, `QUICK_CLIPS` in all."""
    of_person: dict[str, list[int]] = {}
    for i in range(len(persons)) if among is None else among:
        if persons[i] in wanted:
            of_person.setdefault(persons[i], []).append(int(i))
    return sorted(i for numbers in of_person.values() for i in _ends(numbers))


def _ends(numbers: list[int]) -> list[int]:
    return numbers if len(numbers) <= QUICK_CLIPS else [*numbers[: QUICK_CLIPS - 1], numbers[-1]]


def print_table(rows: Sequence[Row], systems: Sequence[str], suffix: str) -> None:
    """The table; rows in the order measured."""
    by_key = {(row.trials, row.metric, row.system): row for row in rows}
    names = list(dict.fromkeys(row.trials for row in rows))
    width = max(len(name) for name in names) - len(suffix) + 2

    def cell(row: Row | None) -> str:
        if row is None:
            return "-".rjust(19)
        return f"{row.value:5.1f} ({row.low:4.1f} to {row.high:5.1f})".rjust(19)

    pairs = [name for name in names if any((name, "eer_pct", system) in by_key for system in systems)]
    if pairs:
        print(f"{'is it this voice?':{width}}{'trials':>8}" + "".join(f"  {system:^40}" for system in systems))
        print(f"{'':{width}}{'':8}" + f"  {'EER %':^20}{'AUC %':^20}" * len(systems))
    for name in pairs:
        n = next(row.n for row in rows if row.trials == name)
        cells = "".join(
            f"  {cell(by_key.get((name, 'eer_pct', system)))} {cell(by_key.get((name, 'auc_pct', system)))}"
            for system in systems
        )
        print(f"{name.removesuffix(suffix):{width}}{n:>8,}{cells}")
    decided = list(dict.fromkeys(row.trials for row in rows if row.metric == "flagged_pct"))
    if decided:
        print(f"\n{'at the shipped threshold':{width}}{'tracks':>8}  {'flagged %':^20}{'abstained %':^20}")
    for name in decided:
        flagged, abstained = (by_key.get((name, f"{what}_pct", "house")) for what in ("flagged", "abstained"))
        n = by_key[name, "flagged_pct", "house"].n
        print(f"{name.removesuffix(suffix):{width}}{n:>8,}  {cell(flagged)} {cell(abstained)}")
    speeds = [row for row in rows if row.metric.startswith("speed")]
    if speeds:
        print("\nspeed, times real time: " + "; ".join(_say_speed(row) for row in speeds))


def _say_speed(row: Row) -> str:
    stage = row.metric.removeprefix("speed").removesuffix("_x_real_time").strip("_")
    return f"{row.system} {stage or 'file to vectors'} {row.value:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--fold", choices=FOLDS, default="B", help="B to report, A to choose (%(default)s)")
    parser.add_argument("--systems", default=",".join(DEFAULT_SYSTEMS), help=f"of {','.join(SYSTEMS)} (%(default)s)")
    parser.add_argument("--encoder", default=HOUSE, help="a model directory in the place of the built-in one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, minDCF among them")
    parser.add_argument("--quick", action="store_true", help="a fixed small part of each set: does it run? a minute")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoders (%(default)s)")
    options = parser.parse_args(arguments)
    systems = options.systems.split(",")
    if unknown := sorted(set(systems) - set(SYSTEMS)):
        parser.error(f"--systems {','.join(unknown)}: not among {', '.join(SYSTEMS)}")

    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    started = time.perf_counter()
    trusted = () if options.encoder == HOUSE else {model_digest(Path(options.encoder))}
    encoder = SpeechBrainEncoder(options.encoder, trusted=trusted, n_threads=options.threads)
    other: System | None = None
    if "resemblyzer" in systems:
        try:
            other = Resemblyzer()
        except ImportError as error:
            print(f"resemblyzer is left out: {error}; pip install 'likeness[bench]'", file=sys.stderr)
            systems.remove("resemblyzer")
    # What is reported has the plain names; what is for choosing or for trying cannot be taken for it.
    suffix = ("" if options.fold == "B" else f".{options.fold}") + (".quick" if options.quick else "")
    n_resamples = QUICK_RESAMPLES if options.quick else intervals.DEFAULT_RESAMPLES
    sets = build_trials(options.audio, options.fold)
    if options.quick:
        sets = {name: thin_out(trials) for name, trials in sets.items()}
    rows, notes = measure(options, sets, systems, encoder, other, n_resamples)
    wanted_s = QUICK_SPEED_S if options.quick else SPEED_S
    speeds = speed_rows(options.audio, options.fold, encoder, other, wanted_s)
    rows = [replace(row, trials=row.trials + suffix) for row in [*rows, *speeds]]
    print(
        f"dev fold {options.fold}" + (f", --quick: {QUICK_PERSONS} persons a set, no figures" if options.quick else "")
    )
    print_table(rows, systems, suffix)
    load = os.getloadavg()[0]
    print(
        "\n".join(
            [
                f"speed: best of {SPEED_REPEATS} over {wanted_s:.0f} s of songs, {options.threads} threads, "
                f"load {load:.1f} on {os.cpu_count()} cores",
                *notes,
                f"95 % intervals, {n_resamples} resamples of persons; {time.perf_counter() - started:,.0f} s in all",
            ]
        )
    )
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def measure(
    options: argparse.Namespace,
    sets: dict[str, TrialSet],
    systems: Sequence[str],
    encoder: Any,
    other: System | None,
    n_resamples: int,
) -> tuple[list[Row], list[str]]:
    """Every figure but the speed, and what is to be said below the table."""
    items = {key: item for trials in sets.values() for key, item in trials.audio_items().items()}
    vectors: dict[str, dict[str, ItemVectors]] = {
        "house": embed_items(options.audio, items, House(encoder), options.cache, label="house")
    }
    if other is not None:
        # Resemblyzer takes no part in decisions, so the strangers need not go through it.
        compared = {key: item for name in _verified(sets) for key, item in sets[name].audio_items().items()}
        vectors["resemblyzer"] = embed_items(options.audio, compared, other, options.cache, label="resemblyzer")
    notes = [
        f"whole sounds for want of voice: {system} "
        f"{count_fallbacks([sets[name] for name in _verified(sets)], some)} of "
        f"{len({key for name in _verified(sets) for key in sets[name].audio_items()}):,} in the upper part"
        for system, some in vectors.items()
    ]
    tables: dict[str, dict[str, np.ndarray]] = {}
    for system, some in vectors.items():
        tables[system] = {name: mean_scores(sets[name], some) for name in _verified(sets)}
    decisions: list[Row] = []
    if {"house+pool", "house+norm"} & set(systems):
        cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
        shipped = score_sets(sets, vectors["house"], cohort)
        tables["house+pool"] = {name: scores.pooled for name, scores in shipped.items()}
        tables["house+norm"] = {name: scores.norm for name, scores in shipped.items()}
        if "house+norm" in systems:
            calibration, n_artists = encoder_calibration(encoder), len(sets["strangers-sung"].models)
            threshold = Rule(calibration, DEFAULT_BUDGET, n_artists).threshold(1)
            llrs = {name: scores.llr(calibration.llr, calibration.near) for name, scores in shipped.items()}
            decisions = decision_rows(sets, shipped, llrs, threshold.llr, n_resamples)
            flagged = {row.trials: row.value for row in decisions if row.metric == "flagged_pct"}
            voiceless = sum(enroll_models(trials, vectors["house"]).n_voiceless for trials in sets.values())
            notes = [
                f"threshold {threshold.llr:.3f} ({threshold.source}); for clones "
                + " and ".join(str(len(set(sets[name].model_persons()))) for name in CLONE_SETS),
                f"missed at it, in %: {100 - flagged['mates-sung']:.0f} of the tracks of enrolled "
                f"singers, {100 - flagged['clone-singing/by-target']:.0f} of the clones of singing and "
                f"{100 - flagged['clone-speech/by-target']:.0f} of speech (persons imitated alike)",
                f"models that the product would not have enrolled for want of voice: {voiceless} of "
                f"{sum(len(trials.models) for trials in sets.values()):,}",
                *notes,
            ]
    rows = [
        row for system in systems for row in verification_rows(sets, system, tables[system], n_resamples)
    ] + decisions
    return rows, notes


def _verified(sets: Mapping[str, TrialSet]) -> list[str]:
    return [name for name in sets if name not in SEARCHES]


if __name__ == "__main__":
    sys.exit(main())
