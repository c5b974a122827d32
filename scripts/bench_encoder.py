"""Encoders side by side on real recordings: voices told apart, speed and size, ours against the one it replaces.

    python scripts/bench_encoder.py                            # fold B, to report
    python scripts/bench_encoder.py --fold A --quick           # fold A, to choose; a minute
    python scripts/bench_encoder.py --model mine=DIR           # another model directory beside them

house-v1            the baseline (--baseline DIR): every change is against it
house               the built-in encoder
resemblyzer         Resemblyzer 0.1.4 as its README has it used (extra [bench]; left out where it is not installed)
speechbrain-ecapa   spkrec-ecapa-voxceleb where it lies on disk (--ecapa DIR or LIKENESS_ECAPA; else left out)

Model directories hear the windows that the product's front end keeps, 4 s every 2 s; scores are cosines of mean
vectors. The trials are those of `make_trials.py`. 95 % intervals by bootstrap over persons; a change is the relative
change of the EER in percent, below 0 where it is lower than the baseline's, its interval from the same resamples.

Names of rows
-------------
.../mean            plain mean over the four sung corpora
.../by-target       clones: every person imitated counts alike, not every clip; /same-site, /other-sites: models of the
                    clone's own site (same codec, rate and loudness), or of others
.../SYSTEM          clones made by one system (column `system` of dev/voices.csv), persons imitated alike; systems with
                    fewer than SYSTEM_CLIPS clips or SYSTEM_TARGETS persons are pooled as `others`, and of what is left
                    by site there is a row where it has as many. Few persons each: look at the intervals.
speech-unseen       speech without VCTK and LibriSpeech. The weights that house-v1 began from had heard 42 of their
                    speakers; which, is not recorded, so all are left out. Among clones of speech most persons are
                    theirs, which flatters house-v1 and whatever is trained on from it.

Speed is seconds of sound per second of work: from decoded sound to vectors, front end included, and of the encoder
alone. The systems take turns on every piece of sound, and of each piece the best of some repeats counts. Compare within
a run only. Size is that of the files of weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_real import (
    CLONE_SETS,
    LEVELS,
    QUICK_PERSONS,
    QUICK_RESAMPLES,
    QUICK_SPEED_S,
    SPEED_S,
    Row,
    thin_out,
    verification,
)
from make_trials import FOLDS, SUNG_CORPORA, TrialSet, build_trials
from training.package import find_weights, mask_weights
from trial_audio import DEFAULT_AUDIO, RATE_HZ, AudioItem, render
from trial_vectors import DEFAULT_CACHE, House, Resemblyzer, System, count_fallbacks, embed_items, mean_scores

from embeddings import vocals
from embeddings.extract import Encoder
from embeddings.model_dir import HOUSE, HOUSE_DIR, model_digest
from registry import intervals

BASELINE_DIR = Path(__file__).resolve().parents[2] / "shared" / "models" / "house-v1"
RESEMBLYZER = "resemblyzer"
ECAPA = "speechbrain-ecapa"
ECAPA_VARIABLE = "LIKENESS_ECAPA"

SUNG_SETS = tuple(f"sung-{corpus}{level}" for level in LEVELS for corpus in SUNG_CORPORA)
SETS = (*SUNG_SETS, "sung-mir1k+mix", "mix-mir1k", "cross-style", "speech", *CLONE_SETS)
#: Corpora whose speakers were in the training of house-v0, and so of house-v1.
SEEN_CORPORA = ("vctk", "libri")
#: A system with fewer clips or persons imitated has no row of its own.
SYSTEM_CLIPS = 5
SYSTEM_TARGETS = 2
#: Threads that the speed is measured with, how often, and the seconds of sound that are given at once.
SPEED_THREADS = (1, 2)
SPEED_REPEATS = 5
SPEED_PIECE_S = 30.0
#: Buffers, which are no parameters, by the last part of their names.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Candidate:
    """One encoder that is measured.

    Attributes
    ----------
    name : str
    system : System
    encoder : Encoder or None
        Alone, for its speed; None where there is nothing that takes windows.
    weights : sequence of Path
        The files of weights.
    """

    name: str
    system: System
    encoder: Encoder | None
    weights: Sequence[Path]


@dataclass(frozen=True)
class Part:
    """Trials that one figure is taken over: some pairs of a set."""

    name: str
    set_name: str
    chosen: np.ndarray
    by_target: bool = False


@dataclass(frozen=True)
class Figures:
    """The figures of one system on one part, or on an average of parts."""

    estimates: Mapping[str, intervals.Estimate]
    n_trials: int


# --- what is measured -------------------------------------------------------------------------------------------------


def read_systems(audio_root: Path) -> dict[str, str]:
    """Which system made each clone: path of the clip -> column `system` of dev/voices.csv."""
    with (audio_root / "dev/voices.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["system"] for row in csv.DictReader(file) if row["kind"] == "clones"}


def parts_of(sets: Mapping[str, TrialSet], made_by: Mapping[str, str]) -> list[Part]:
    """Every part of the table in its order; those without targets or without impostors are left out.

    Parameters
    ----------
    sets : mapping of str to TrialSet
        Those of `SETS`.
    made_by : mapping of str to str
        From `read_systems`.
    """
    parts = []
    for name in SETS:
        trials, pairs = sets[name], sets[name].pairs()
        everything = np.ones(len(pairs.is_target), dtype=bool)
        parts.append(Part(name, name, everything))
        if name == "speech":
            seen = np.isin(trials.test_corpora(), SEEN_CORPORA)
            parts.append(Part("speech-unseen", name, ~seen[pairs.test_index]))
        if name in CLONE_SETS:
            sites = {"": everything, "/same-site": pairs.same_site, "/other-sites": ~pairs.same_site}
            parts += [Part(f"{name}{site}/by-target", name, some, by_target=True) for site, some in sites.items()]
            groups = group_systems(trials, made_by)
            for system in dict.fromkeys([*sorted(set(groups) - {"others"}, key=str.lower), "others"]):
                own = np.array([group == system for group in groups], dtype=bool)[pairs.test_index]
                parts += [
                    Part(f"{name}{site}/{system}", name, own & some, by_target=True)
                    for site, some in sites.items()
                    if _is_enough(trials, own & some)
                ]
    return [part for part in parts if _has_both(sets[part.set_name], part.chosen)]


def group_systems(trials: TrialSet, made_by: Mapping[str, str]) -> list[str]:
    """The system of each test of a clone set, or `others` where it made too few clips."""
    made = [made_by[trials.clips[test.clip].path] for test in trials.tests]
    targets = defaultdict(list)
    for system, person in zip(made, trials.test_persons(), strict=True):
        targets[system].append(person)
    large = {s for s, own in targets.items() if len(own) >= SYSTEM_CLIPS and len(set(own)) >= SYSTEM_TARGETS}
    return [system if system in large else "others" for system in made]


def _is_enough(trials: TrialSet, chosen: np.ndarray) -> bool:
    """Whether these trials of a clone set deserve a row: clips and persons as for a system."""
    pairs = trials.pairs()
    own = pairs.is_target & chosen
    n_clips, n_persons = (np.unique(numbers[own]).size for numbers in (pairs.test_index, pairs.test_person))
    return bool(n_clips >= SYSTEM_CLIPS and n_persons >= SYSTEM_TARGETS)


def _has_both(trials: TrialSet, chosen: np.ndarray) -> bool:
    targets = trials.pairs().is_target[chosen]
    return bool(targets.any() and not targets.all())


def measure_parts(
    sets: Mapping[str, TrialSet], parts: Sequence[Part], tables: Mapping[str, np.ndarray], n_resamples: int
) -> dict[str, Figures]:
    """Figures of one system: of every part, and the averages over sung corpora behind the last of each level.

    Parameters
    ----------
    sets : mapping of str to TrialSet
    parts : sequence of Part
    tables : mapping of str to (n_tests, n_models) float
        Scores of each set.
    n_resamples : int
    """
    all_pairs = {name: sets[name].pairs() for name in {part.set_name for part in parts}}
    found: dict[str, Figures] = {}
    for part in parts:
        pairs = all_pairs[part.set_name]
        scores = tables[part.set_name][pairs.test_index, pairs.enroll_index]
        estimates = verification(part.name, pairs, scores, part.chosen, n_resamples, by_target=part.by_target)
        found[part.name] = Figures(estimates, int(part.chosen.sum()))
        for level in LEVELS:
            if part.name == f"sung-{SUNG_CORPORA[-1]}{level}":
                corpora = [found[f"sung-{corpus}{level}"] for corpus in SUNG_CORPORA]
                mean = {
                    metric: intervals.macro_estimate([figures.estimates[metric] for figures in corpora])
                    for metric in estimates
                }
                found[f"sung{level}/mean"] = Figures(mean, sum(figures.n_trials for figures in corpora))
    return found


def relative_change(new: intervals.Estimate, base: intervals.Estimate) -> intervals.Estimate | None:
    """Relative change in percent, its interval from resamples of the same persons for both; None from nothing.

    Parameters
    ----------
    new, base : Estimate
        Over the same trials with the same seed, so that their replicates are pairs.
    """
    if base.value == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = 100 * (new.replicates / base.replicates - 1)
    # A resample in which the baseline makes no error says nothing of a ratio, like one without impostors.
    usable = replicates[np.isfinite(replicates)]
    tail = (1 - base.level) / 2
    low, high = np.quantile(usable, [tail, 1 - tail]).tolist() if usable.size >= 2 else (math.nan, math.nan)
    return intervals.Estimate(
        value=100 * (new.value / base.value - 1),
        low=low,
        high=high,
        level=base.level,
        n_resamples=int(usable.size),
        n_unusable=int(replicates.size - usable.size),
        replicates=replicates,
    )


def make_rows(figures: Mapping[str, Mapping[str, Figures]], baseline: str | None) -> list[Row]:
    """All figures as rows: EER, AUC and minDCF of each system, and the change of the EER against the baseline."""
    rows = []
    for system, of_system in figures.items():
        for name, found in of_system.items():
            for metric, estimate in found.estimates.items():
                is_share = metric in ("eer", "auc")
                reported = f"{metric}_pct" if is_share else metric
                rows.append(_row(name, system, reported, estimate, 100 if is_share else 1, found.n_trials))
            if baseline is not None and system != baseline:
                change = relative_change(found.estimates["eer"], figures[baseline][name].estimates["eer"])
                if change is not None:
                    rows.append(_row(name, system, "eer_change_pct", change, 1, found.n_trials))
    return rows


def _row(name: str, system: str, metric: str, estimate: intervals.Estimate, scale: int, n: int) -> Row:
    low, high = (None if math.isnan(end) else round(scale * end, 4) for end in (estimate.low, estimate.high))
    return Row(name, system, metric, round(scale * estimate.value, 4), low, high, n)


# --- speed and size ---------------------------------------------------------------------------------------------------


def speed_rows(candidates: Sequence[Candidate], pieces: Sequence[np.ndarray]) -> list[Row]:
    """Times real time of each candidate on each number of threads, and that of its slowest repeat as the lower end.

    Parameters
    ----------
    candidates : sequence of Candidate
    pieces : sequence of (n,) float32
        Decoded sound, at `RATE_HZ`.

    Notes
    -----
    The candidates take turns on every piece, and what counts is the sum of each piece's best: the machine may be busy
    with something else. The first repeat warms up and is not counted.
    """
    import torch  # slow to import

    spent: dict[tuple[str, int, str], list[list[float]]] = defaultdict(list)
    before = torch.get_num_threads()
    try:
        for repeat in range(1 + SPEED_REPEATS):
            of_repeat: dict[tuple[str, int, str], list[float]] = defaultdict(list)
            for piece in pieces:
                for n_threads in SPEED_THREADS:
                    torch.set_num_threads(n_threads)
                    for candidate in candidates:
                        of_repeat[candidate.name, n_threads, "speed"].append(_time_system(candidate.system, piece))
                        if candidate.encoder is not None:
                            seconds = _time_encoder(candidate.encoder, piece)
                            of_repeat[candidate.name, n_threads, "speed_encoder"].append(seconds)
            for key, times in of_repeat.items() if repeat else ():
                spent[key].append(times)
    finally:
        torch.set_num_threads(before)
    sound_s = sum(map(len, pieces)) / RATE_HZ
    rows = []
    for (system, n_threads, metric), repeats in sorted(spent.items(), key=lambda entry: entry[0][1]):
        best = round(sound_s / float(np.min(repeats, axis=0).sum()), 1)
        slowest = round(sound_s / float(np.sum(repeats, axis=1).max()), 1)
        rows.append(Row(f"threads-{n_threads}", system, f"{metric}_x_real_time", best, slowest, best, len(repeats)))
    return rows


def _time_system(system: System, samples: np.ndarray) -> float:
    started = time.perf_counter()
    for _ in system.embed([("", samples)]):
        pass
    return time.perf_counter() - started


def _time_encoder(encoder: Encoder, samples: np.ndarray) -> float:
    chosen = vocals.VocalWindows([samples], encoder.rate_hz, encoder.window_s, encoder.hop_s)
    all_kept = [windows.samples for windows in chosen]
    started = time.perf_counter()
    for samples in all_kept:
        encoder.embed_windows(samples)
    return time.perf_counter() - started


def speed_pieces(audio_root: Path, fold: str, wanted_s: float) -> list[np.ndarray]:
    """Karaoke mixes of a fold, decoded, one after the other: `wanted_s` seconds in pieces of `SPEED_PIECE_S`."""
    clips: list[np.ndarray] = []
    for test in build_trials(audio_root, fold)["mix-mir1k"].tests:
        if sum(map(len, clips)) < wanted_s * RATE_HZ:
            clips.append(render(audio_root, test.item))
    joined = np.concatenate(clips)[: round(wanted_s * RATE_HZ)]
    piece = round(SPEED_PIECE_S * RATE_HZ)
    return np.split(joined, range(piece, len(joined), piece))


def size_rows(candidates: Sequence[Candidate]) -> list[Row]:
    """Millions of bytes of the weights and millions of parameters."""
    rows = []
    for candidate in candidates:
        n_bytes = sum(path.stat().st_size for path in candidate.weights)
        rows.append(Row("size", candidate.name, "weights_mb", round(n_bytes / 1e6, 3), None, None, 1))
        n_parameters = sum(map(count_parameters, candidate.weights))
        rows.append(Row("size", candidate.name, "parameters_million", round(n_parameters / 1e6, 3), None, None, 1))
    return rows


def count_parameters(path: Path) -> int:
    """Numbers in a file of weights that training has set: all but `BUFFERS`."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:  # the length of its header, then the header: JSON, a tensor a name
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}
    else:
        import torch

        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model_state", state)  # Resemblyzer's file holds the state of the optimiser too
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return sum(math.prod(shape) for name, shape in shapes.items() if name.rpartition(".")[2] not in BUFFERS)


# --- the table --------------------------------------------------------------------------------------------------------


def print_tables(rows: Sequence[Row], systems: Sequence[str], baseline: str | None, suffix: str) -> None:
    """EER with its changes, then AUC, then speed and size; rows in the order measured."""
    by_key = {(row.trials, row.metric, row.system): row for row in rows}

    def print_table(title: str, metric: str, columns: Sequence[tuple[str, str, str]]) -> None:
        """Columns: metric, system, heading."""
        names = list(dict.fromkeys(row.trials for row in rows if row.metric == metric))
        width = max(len(title), *(len(name) - len(suffix) for name in names)) + 1
        print(f"{title:{width}}{'trials':>8}" + "".join(f"  {heading:>22}" for _, _, heading in columns))
        for name in names:
            n = next(row.n for row in rows if (row.trials, row.metric) == (name, metric))
            cells = "".join(f"  {_cell(by_key.get((name, what, system)))}" for what, system, _ in columns)
            print(f"{name.removesuffix(suffix):{width}}{n:>8,}{cells}")

    columns = []
    for system in systems:
        columns.append(("eer_pct", system, system))
        if baseline is not None and system != baseline:
            columns.append(("eer_change_pct", system, "change %"))
    print_table("EER %", "eer_pct", columns)
    print()
    print_table("AUC %", "auc_pct", [("auc_pct", system, system) for system in systems])
    plain = [row for row in rows if row.metric.endswith("_x_real_time") or row.trials == f"size{suffix}"]
    width = max(len(system) for system in systems) + 2
    print()
    for trials, metric in dict.fromkeys((row.trials, row.metric) for row in plain):
        values = {
            system: by_key[trials, metric, system].value for system in systems if (trials, metric, system) in by_key
        }
        told = "".join(f"  {system} {value:g}".ljust(width + 9) for system, value in values.items())
        print(f"{trials.removesuffix(suffix):10}{metric:28}{told.rstrip()}")


def _cell(row: Row | None) -> str:
    if row is None:
        return "-".rjust(22)
    ends = "" if row.low is None else f" ({row.low:.1f} to {row.high:.1f})"
    return f"{row.value:.1f}{ends}".rjust(22)


# --- the run ----------------------------------------------------------------------------------------------------------


def open_candidates(options: argparse.Namespace, wanted: Sequence[str] | None) -> list[Candidate]:
    """Load what is to be measured, in the order of the table; what is not there is left out and named on stderr."""
    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    def of_directory(name: str, source: str | Path, directory: Path) -> Candidate:
        trusted = () if source == HOUSE else {model_digest(directory)}
        encoder = SpeechBrainEncoder(source, trusted=trusted, n_threads=options.threads)
        return Candidate(name, House(encoder), encoder, [find_weights(directory), *mask_weights(directory)])

    def is_wanted(name: str) -> bool:
        return wanted is None or name in wanted

    def leave_out(name: str, reason: object) -> None:
        print(f"{name} is left out: {reason}", file=sys.stderr)

    found = []
    baseline: Path = options.baseline
    if is_wanted(baseline.name):
        if baseline.is_dir():
            found.append(of_directory(baseline.name, baseline, baseline))
        else:
            leave_out(baseline.name, f"no directory {baseline}; --baseline DIR names another")
    if is_wanted(HOUSE):
        found.append(of_directory(HOUSE, HOUSE, HOUSE_DIR))
    found += [of_directory(name, directory, directory) for name, directory in options.model if is_wanted(name)]
    if is_wanted(RESEMBLYZER):
        try:
            system = Resemblyzer()
            import resemblyzer  # type: ignore[import-untyped]  # after it: the first import warns, which it hides

            found.append(Candidate(RESEMBLYZER, system, None, [Path(resemblyzer.__file__).parent / "pretrained.pt"]))
        except ImportError as error:
            leave_out(RESEMBLYZER, f"{error}; pip install 'likeness[bench]'")
    if is_wanted(ECAPA):
        if options.ecapa is not None and options.ecapa.is_dir():
            found.append(of_directory(ECAPA, options.ecapa, options.ecapa))
        else:
            leave_out(ECAPA, f"no directory {options.ecapa}; --ecapa DIR or {ECAPA_VARIABLE} names it")
    return found


def named_directory(text: str) -> tuple[str, Path]:
    """NAME=DIR of the command line."""
    name, separator, directory = text.partition("=")
    if not (separator and name and Path(directory).is_dir()):
        raise argparse.ArgumentTypeError(f"{text}: NAME=DIR with an existing directory is needed")
    return name, Path(directory)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--fold", choices=FOLDS, default="B", help="B to report, A to choose (%(default)s)")
    parser.add_argument("--baseline", type=Path, default=BASELINE_DIR, help="its directory (%(default)s)")
    parser.add_argument(
        "--model",
        type=named_directory,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another; may be repeated",
    )
    ecapa = os.environ.get(ECAPA_VARIABLE)
    parser.add_argument("--ecapa", type=Path, default=ecapa and Path(ecapa), help="directory of speechbrain-ecapa")
    parser.add_argument("--systems", help="only these of the table, comma-separated (all that are there)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, minDCF among them")
    parser.add_argument("--quick", action="store_true", help="a fixed small part of each set: does it run? a minute")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoders (%(default)s)")
    options = parser.parse_args(arguments)
    wanted = None if options.systems is None else options.systems.split(",")
    known = [options.baseline.name, HOUSE, *(name for name, _ in options.model), RESEMBLYZER, ECAPA]
    if len(set(known)) < len(known):
        parser.error(f"two systems have one name: {', '.join(known)}")
    if unknown := sorted(set(wanted or ()) - set(known)):
        parser.error(f"--systems {','.join(unknown)}: not among {', '.join(known)}")

    started = time.perf_counter()
    candidates = open_candidates(options, wanted)
    systems = [candidate.name for candidate in candidates]
    baseline = options.baseline.name if options.baseline.name in systems else None
    # What is reported has the plain names; what is for choosing or for trying cannot be taken for it.
    suffix = ("" if options.fold == "B" else f".{options.fold}") + (".quick" if options.quick else "")
    n_resamples = QUICK_RESAMPLES if options.quick else intervals.DEFAULT_RESAMPLES
    all_sets = build_trials(options.audio, options.fold)
    sets = {name: thin_out(all_sets[name]) if options.quick else all_sets[name] for name in SETS}
    parts = parts_of(sets, read_systems(options.audio))
    items: dict[str, AudioItem] = {key: item for trials in sets.values() for key, item in trials.audio_items().items()}
    figures, notes = {}, []
    for candidate in candidates:
        vectors = embed_items(options.audio, items, candidate.system, options.cache, label=candidate.name)
        tables = {name: mean_scores(trials, vectors) for name, trials in sets.items()}
        figures[candidate.name] = measure_parts(sets, parts, tables, n_resamples)
        n_whole = count_fallbacks(list(sets.values()), vectors)
        notes.append(f"whole sounds for want of voice: {candidate.name} {n_whole} of {len(items):,}")
    wanted_s = QUICK_SPEED_S if options.quick else SPEED_S
    pieces = speed_pieces(options.audio, options.fold, wanted_s)
    rows = [*make_rows(figures, baseline), *speed_rows(candidates, pieces), *size_rows(candidates)]
    rows = [replace(row, trials=row.trials + suffix) for row in rows]
    print(
        f"dev fold {options.fold}" + (f", --quick: {QUICK_PERSONS} persons a set, no figures" if options.quick else "")
    )
    print_tables(rows, systems, baseline, suffix)
    print(
        "\n".join(
            [
                f"speed: best of {SPEED_REPEATS} over {wanted_s:.0f} s of songs, load {os.getloadavg()[0]:.1f} on "
                f"{os.cpu_count()} cores",
                *notes,
                f"95 % intervals, {n_resamples} resamples of persons; {time.perf_counter() - started:,.0f} s in all",
            ]
        )
    )
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
