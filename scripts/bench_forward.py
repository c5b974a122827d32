"""Ways to run the same encoder on a CPU, side by side in one run: the same vectors? how fast? the same verdicts?

    python scripts/bench_forward.py                        # all but verdicts: some minutes
    python scripts/bench_forward.py --verdicts             # those too, both folds: a quarter of an hour more
    python scripts/bench_forward.py --quick --json FILE    # does it run? within a minute, no error rates

stock           SpeechBrain's own forward, `encode_batch`
fast float32    `embeddings.ecapa`, which the encoder uses
fast bfloat16   the same in bfloat16, which the encoder uses where it is asked to
onnx float32    the stock network in ONNX Runtime (extra [bench]; both left out where it is not installed), features by
                `embeddings.ecapa`
onnx int8       the same, convolutions quantised to 8 bits (weights by channel; ranges from 64 clips of train/)

same vectors    largest |difference| and lowest cosine of unit vectors against stock, over windows of dev/ fold A
speed           seconds of sound by second of work, best of some rounds in which the systems take turns; and how many
                times that of stock; _cpu: by seconds on the CPU, all threads together, which other processes disturb
                less than the clock
error rates     EER of cosines of mean vectors, fold A, and what was lost against stock
verdicts        decisions of the registry at the shipped threshold (flagged or not, of each track and artist) that are
                not stock's, and the largest difference of a norm_score

Vectors are kept in the cache of the other benchmarks under a name of their own: delete them at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from bench_real import Row
from make_trials import TrialSet, build_trials
from training.package import find_weights
from trial_audio import DEFAULT_AUDIO, RATE_HZ, load_mono, render
from trial_vectors import (
    DEFAULT_CACHE,
    SEARCHED,
    House,
    ItemVectors,
    code_without_words,
    embed_items,
    mean_scores,
    score_sets,
)

from embeddings import selftest
from embeddings.model_dir import HOUSE, find_model, model_digest
from registry import metrics, scoring
from registry.calibration import DEFAULT_BUDGET, Rule
from registry.match import encoder_calibration

STOCK = "stock"
EER_SETS = ("speech", "sung-mir1k", "sung-mir1k+0db", "mix-mir1k")
VERDICT_SETS = ("strangers-sung", "strangers-sung+0db", "mix-mir1k", "clone-singing")
WINDOW_S = 4.0
BATCHES = (8, 32)
THREADS = (1, 2)
EQUALITY_WINDOWS, QUICK_EQUALITY_WINDOWS = 512, 32
ROUNDS, QUICK_ROUNDS = 8, 2
LOADS, QUICK_LOADS = 5, 2
CALIBRATION_CLIPS = 64

#: From sound (n, n_samples) to features, and from features to vectors, (n, dim) float32.
Step = Callable[[Any], Any]


class System:
    """One way to run the network; `network` maps features, a tensor, to a numpy array or a tensor."""

    def __init__(self, name: str, features: Step, network: Step, load: Callable[[], Any], path: Path) -> None:
        self.name, self.features, self.network, self.load, self.path = name, features, network, load, path

    def __call__(self, samples: Any) -> Any:
        """Sound to vectors."""
        return self.network(self.features(samples))


# --- systems ----------------------------------------------------------------------------------------------------------


def make_systems(directory: Path, audio_root: Path | None, folder: Path) -> list[System]:
    """Load every system that is installed; `folder` takes the ONNX files."""
    from embeddings import encoder as product
    from embeddings.ecapa import EcapaForward

    def load_fast(precision: str) -> Any:
        return product._choose_forward(product._load(directory)[0], RATE_HZ, precision)[0]

    weights = find_weights(directory)
    model, torch = product._load(directory)
    stock = product._StockForward(model)
    modules = model.mods.compute_features, model.mods.mean_var_norm, model.mods.embedding_model
    systems = [System(STOCK, stock.features, stock.forward, lambda: product._load(directory), weights)]
    for dtype in (torch.float32, torch.bfloat16):
        fast = EcapaForward(*modules, dtype)
        network, load = fast.forward, partial(load_fast, fast.precision)
        systems.append(System(f"fast {fast.precision}", fast.features, network, load, weights))
    features = systems[1].features
    try:
        paths = export_onnx(model, features, audio_root, folder)
    except ImportError as error:
        print(f"onnx is left out: {error}; pip install 'likeness[bench]'", file=sys.stderr)
        return systems
    for name, path in paths.items():
        session = OnnxSession(path)
        systems.append(System(name, features, session, partial(load_onnx, path), path))
    return systems


def load_onnx(path: Path) -> None:
    OnnxSession(path)(np.zeros((1, 100, 80), np.float32))


def export_onnx(model: Any, features: Step, audio_root: Path | None, folder: Path) -> dict[str, Path]:
    """Write the stock network, sentence mean first, as ONNX in float32 and in int8; gives system -> file."""
    import onnx  # noqa: F401  # asked for here, so that the exporter does not fail half way
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Network(torch.nn.Module):
        """`ECAPA_TDNN.forward` without masks, which the exporter would fix to one number of windows."""

        def __init__(self, net: Any) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            net, asp = self.net, self.net.asp
            x = (x - x.mean(1, keepdim=True)).transpose(1, 2)
            outputs = []
            for block in net.blocks:
                x = block(x)
                outputs.append(x)
            x = net.mfa(torch.cat(outputs[1:], 1))
            mean = x.mean(2, keepdim=True)
            std = (x - mean).square().mean(2, keepdim=True).clamp(min=asp.eps).sqrt()
            attention = torch.cat([x, mean.expand_as(x), std.expand_as(x)], 1)
            weights = torch.softmax(asp.conv(asp.tanh(asp.tdnn(attention))), 2)
            mean = (weights * x).sum(2, keepdim=True)
            std = (weights * (x - mean).square()).sum(2, keepdim=True).clamp(min=asp.eps).sqrt()
            return net.fc(net.asp_bn(torch.cat([mean, std], 1)))[:, :, 0]

    class Clips(CalibrationDataReader):
        def __init__(self, windows: np.ndarray) -> None:
            self._rows = iter(torch.from_numpy(windows).split(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {"features": features(row).numpy()}

    plain, prepared, small = folder / "float32.onnx", folder / "prepared.onnx", folder / "int8.onnx"
    windows = calibration_windows(audio_root)
    axes = {"features": {0: "n", 1: "n_frames"}, "vectors": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of itself, and of shapes that tracing fixes
        example = features(torch.from_numpy(windows[:2])).clone()
        torch.onnx.export(
            Network(model.mods.embedding_model).eval(),
            (example,),
            str(plain),
            dynamo=False,  # the other exporter wants a package more
            input_names=["features"],
            output_names=["vectors"],
            dynamic_axes=axes,
            opset_version=17,
        )
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(small),
            Clips(windows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            op_types_to_quantize=["Conv"],
        )
    return {"onnx float32": plain, "onnx int8": small}


class OnnxSession:
    """An ONNX file in ONNX Runtime, with as many threads as torch has."""

    def __init__(self, path: Path) -> None:
        import onnxruntime
        import torch

        self._torch, self._path = torch, path
        self._runtime = onnxruntime
        self._sessions: dict[int, Any] = {}

    def __call__(self, features: Any) -> np.ndarray:
        """(n, n_frames, n_mels) to (n, dim)."""
        n_threads = self._torch.get_num_threads()
        if n_threads not in self._sessions:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
            # As torch waits, see `embeddings.encoder`.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.log_severity_level = 3
            self._sessions[n_threads] = self._runtime.InferenceSession(
                str(self._path), options, providers=["CPUExecutionProvider"]
            )
        vectors: np.ndarray = self._sessions[n_threads].run(None, {"features": np.asarray(features)})[0]
        return vectors


# --- sounds -----------------------------------------------------------------------------------------------------------


def synthetic_windows(n: int) -> np.ndarray:
    """(n, n_samples) float32 of the made-up voice of `embeddings.selftest`, at many places."""
    voice = soxr.resample(selftest.sing().mean(axis=1), 44_100, RATE_HZ).astype(np.float32)
    length = round(WINDOW_S * RATE_HZ)
    starts = np.linspace(0, len(voice) - length, n).astype(int)
    return np.stack([voice[start : start + length] for start in starts])


def calibration_windows(audio_root: Path | None) -> np.ndarray:
    """Windows to find the ranges of activations with: of train/, never of dev/."""
    clips = sorted((audio_root / "train" / "voice").glob("*/*")) if audio_root else []
    if not clips:
        return synthetic_windows(CALIBRATION_CLIPS)
    chosen = clips[:: max(1, len(clips) // CALIBRATION_CLIPS)][:CALIBRATION_CLIPS]
    return np.stack([np.resize(load_mono(path), round(WINDOW_S * RATE_HZ)) for path in chosen])


def real_windows(audio_root: Path, n: int) -> np.ndarray:
    """Windows of dev/ fold A: singing, singing over music, real mixes, speech."""
    sets = build_trials(audio_root, "A")
    items = [list(sets[name].audio_items().values()) for name in EER_SETS]
    # In turn from every set, so that few windows hold all kinds.
    mixed = [part[i] for i in range(max(map(len, items))) for part in items if i < len(part)]
    length = round(WINDOW_S * RATE_HZ)
    windows: list[np.ndarray] = []
    for item in mixed:
        samples = render(audio_root, item)
        windows += [samples[at : at + length] for at in range(0, len(samples) - length + 1, length)][:4]
        if len(windows) >= n:
            break
    return np.stack(windows[:n])


# --- figures ----------------------------------------------------------------------------------------------------------


def embed(system: System, windows: np.ndarray) -> np.ndarray:
    """Unit vectors of windows, eight at a time, as the encoder does."""
    import torch

    with torch.inference_mode():
        parts = [np.asarray(system(torch.from_numpy(part))) for part in _eights(windows)]
    vectors = np.concatenate(parts)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _eights(windows: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(windows[at : at + 8]) for at in range(0, len(windows), 8)]


def equality_rows(systems: Sequence[System], windows: np.ndarray, what: str) -> list[Row]:
    expected = embed(systems[0], windows)
    rows = []
    for system in systems[1:]:
        vectors = embed(system, windows)
        cosines = (vectors * expected).sum(axis=1, dtype=np.float64)
        figures = {"max_abs_difference": np.abs(vectors - expected).max(), "min_cosine": cosines.min()}
        rows += [
            Row(what, system.name, metric, float(value), None, None, len(windows)) for metric, value in figures.items()
        ]
    return rows


def speed_rows(systems: Sequence[System], windows: np.ndarray, n_rounds: int) -> list[Row]:
    """Speed of features, of the network and of both, by batch and threads."""
    import torch

    rows = []
    threads_before = torch.get_num_threads()
    for n_threads in THREADS:
        torch.set_num_threads(n_threads)
        for n in BATCHES:
            samples = torch.from_numpy(np.resize(windows, (n, windows.shape[1])))
            with torch.inference_mode():
                features = systems[0].features(samples)
                work: dict[tuple[str, str], Callable[[], Any]] = {}
                for system in systems:
                    work[system.name, "both"] = partial(system, samples)
                    work[system.name, "network"] = partial(system.network, features)
                for system in systems[:2]:
                    work[system.name, "features"] = partial(system.features, samples)
                seconds = take_turns(work, n_rounds)
            for (name, part), turns in seconds.items():
                what = f"{part}, batch of {n}, {n_threads} thread{'s' if n_threads > 1 else ''}"
                speeds = n * WINDOW_S / turns[:, 0]
                best, low = round(speeds.max(), 1), round(float(np.median(speeds)), 1)
                rows.append(Row(what, name, "x_real_time", best, low, best, n_rounds))
                by_cpu = round(float((n * WINDOW_S / turns[:, 1]).max()), 1)
                rows.append(Row(what, name, "x_real_time_cpu", by_cpu, None, None, n_rounds))
                if name != STOCK:
                    ratio = seconds[STOCK, part].min(axis=0) / turns.min(axis=0)
                    for metric, value in zip(("times_stock", "times_stock_cpu"), ratio, strict=True):
                        rows.append(Row(what, name, metric, round(float(value), 2), None, None, n_rounds))
    torch.set_num_threads(threads_before)
    return rows


def take_turns(work: Mapping[tuple[str, str], Callable[[], Any]], n_rounds: int) -> dict[tuple[str, str], np.ndarray]:
    """Run each in every round; (n_rounds, 2) seconds by the clock and on the CPU. The first round is not counted."""
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(n_rounds + 1):
        for name, run in work.items():
            clock_s, cpu_s = time.perf_counter(), time.process_time()
            run()
            if number:
                seconds[name].append((time.perf_counter() - clock_s, time.process_time() - cpu_s))
    return {name: np.array(turns) for name, turns in seconds.items()}


def cost_rows(systems: Sequence[System], n_loads: int) -> list[Row]:
    """Seconds to load, from files to the first vector that can be had, and bytes of the weights."""
    rows = []
    for system in systems:
        times_s = []
        for _ in range(n_loads):
            started_s = time.perf_counter()
            system.load()
            times_s.append(time.perf_counter() - started_s)
        low, middle, high = (round(float(np.quantile(times_s, q)), 3) for q in (0, 0.5, 1))
        rows.append(Row("loading, torch imported", system.name, "load_s", middle, low, high, n_loads))
        rows.append(Row("weights on disk", system.name, "size_bytes", system.path.stat().st_size, None, None, 1))
    return rows


# --- trials -----------------------------------------------------------------------------------------------------------


class Together:
    """All systems as one encoder, so that a sound is decoded, mixed and searched for voice once.

    Its rows are the unit vectors of the systems one after the other, which `split` takes apart.
    """

    rate_hz, window_s, hop_s = RATE_HZ, WINDOW_S, 2.0

    def __init__(self, systems: Sequence[System], encoder: Any) -> None:
        from embeddings import ecapa

        self._systems, self.dim = systems, encoder.dim * len(systems)
        code = [code_without_words(Path(path).read_text("utf-8")) for path in (ecapa.__file__, __file__)]
        self.encoder_id = "\0".join([encoder.encoder_id, *(system.name for system in systems), *code])

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        """(n, n_samples) float32 to (n, dim)."""
        return np.concatenate([embed(system, samples) for system in self._systems], axis=1)

    def split(self, vectors: Mapping[str, ItemVectors]) -> dict[str, dict[str, ItemVectors]]:
        """{system: {key: its vectors}}."""
        parts = {key: np.split(item.vectors, len(self._systems), axis=1) for key, item in vectors.items()}
        return {
            system.name: {key: replace(item, vectors=parts[key][i]) for key, item in vectors.items()}
            for i, system in enumerate(self._systems)
        }


def eer_rows(sets: Mapping[str, TrialSet], vectors: Mapping[str, Mapping[str, ItemVectors]]) -> list[Row]:
    rows = []
    for name in EER_SETS:
        pairs = sets[name].pairs()
        eer: dict[str, float] = {}
        for system, some in vectors.items():
            scores = mean_scores(sets[name], some)[pairs.test_index, pairs.enroll_index]
            eer[system] = 100 * metrics.eer(metrics.roc(scores, pairs.is_target))
            figures = {"eer_pct": eer[system], "eer_lost_points": eer[system] - eer[STOCK]}
            rows += [
                Row(name, system, metric, round(value, 4), None, None, len(scores)) for metric, value in figures.items()
            ]
    return rows


def verdict_rows(
    fold: str, sets: Mapping[str, TrialSet], vectors: Mapping[str, Mapping[str, ItemVectors]], encoder: Any
) -> list[Row]:
    """How many decisions are not those of stock."""
    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    calibration = encoder_calibration(encoder)
    threshold = Rule(calibration, DEFAULT_BUDGET, len(sets[SEARCHED].models)).threshold(1).llr
    scored = {
        system: score_sets({name: sets[name] for name in VERDICT_SETS}, some, cohort)
        for system, some in vectors.items()
    }
    rows = []
    for name in VERDICT_SETS:
        pairs = sets[name].pairs()
        at = pairs.test_index, pairs.enroll_index
        norms, flags = {}, {}
        for system in vectors:
            scores = scored[system][name]
            norms[system] = scores.norm[at]
            flags[system] = (scores.llr(calibration.llr, calibration.near)[at] >= threshold) & ~scores.abstains[at[0]]
        for system in vectors:
            changed = flags[system] != flags[STOCK]
            figures = {
                "flags": flags[system].sum(),
                "flags_changed": changed.sum(),
                "tracks_changed": len(np.unique(pairs.test_index[changed])),
                "max_norm_difference": round(float(np.abs(norms[system] - norms[STOCK]).max()), 4),
            }
            rows += [
                Row(f"{name}.{fold}", system, metric, float(value), None, None, len(changed))
                for metric, value in figures.items()
            ]
    return rows


# --- the run ----------------------------------------------------------------------------------------------------------


def print_table(rows: Sequence[Row], systems: Sequence[str]) -> None:
    """One line for each (what, figure), one column for each system."""
    table: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        table.setdefault((row.trials, row.metric), {})[row.system] = row
    print(f"{'':<42}{'':<20}" + "".join(f"{name:>15}" for name in systems))
    for (what, metric), found in table.items():
        cells = (f"{found[name].value:.6g}" if name in found else "" for name in systems)
        print(f"{what:<42}{metric:<20}" + "".join(f"{cell:>15}" for cell in cells))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--encoder", default=HOUSE, help="a model directory in the place of the built-in one")
    parser.add_argument("--quick", action="store_true", help="few windows and rounds, no error rates: a minute")
    parser.add_argument("--verdicts", action="store_true", help="compare decisions on both folds too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    options = parser.parse_args(arguments)
    if options.quick and options.verdicts:
        parser.error("--quick and --verdicts do not go together: verdicts take a quarter of an hour")
    audio_root = options.audio if (options.audio / "dev" / "voices.csv").is_file() else None
    if options.verdicts and audio_root is None:
        parser.error(f"--verdicts: no recordings in {options.audio}")

    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    started_s = time.perf_counter()
    trusted = () if options.encoder == HOUSE else {model_digest(Path(options.encoder))}
    encoder = SpeechBrainEncoder(options.encoder, trusted=trusted, precision="auto")
    chosen = f"fast {encoder.precision}" if encoder.is_fast else STOCK
    with tempfile.TemporaryDirectory() as folder:
        systems = make_systems(find_model(options.encoder, trusted=trusted), audio_root, Path(folder))
        n_windows = QUICK_EQUALITY_WINDOWS if options.quick else EQUALITY_WINDOWS
        windows = synthetic_windows(n_windows) if audio_root is None else real_windows(audio_root, n_windows)
        what = f"same vectors, {'synthetic' if audio_root is None else 'dev fold A'}"
        rows = equality_rows(systems, windows, what)
        rows += speed_rows(systems, windows, QUICK_ROUNDS if options.quick else ROUNDS)
        rows += cost_rows(systems, QUICK_LOADS if options.quick else LOADS)
        if audio_root is not None and not options.quick:
            together = Together(systems, encoder)
            for fold in ("A", "B") if options.verdicts else ("A",):
                sets = build_trials(audio_root, fold)
                names = {*(EER_SETS if fold == "A" else ()), *(VERDICT_SETS if options.verdicts else ())}
                items = {key: item for name in sorted(names) for key, item in sets[name].audio_items().items()}
                kept = embed_items(audio_root, items, House(together), options.cache, label=f"fold {fold}")
                vectors = together.split(kept)
                if fold == "A":
                    rows += eer_rows(sets, vectors)
                if options.verdicts:
                    rows += verdict_rows(fold, sets, vectors, encoder)
    print_table(rows, [system.name for system in systems])
    print(
        f"with precision auto the encoder takes {chosen} here; load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {time.perf_counter() - started_s:.0f} s in all"
    )
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
