"""Measure exact search: many vectors in one call, one vector a call, and plain numpy, side by side in one run.

"batch, scanned" is many vectors in one call as faiss 1.15 does it when left to itself; `registry/index.py` has it
multiply matrices instead, and says from what size.

    OMP_NUM_THREADS=1 PYTHONPATH=. python scripts/bench_index.py --quick

Every round gives all systems the same vectors in turn, in an order that changes, so that a machine that slows
down slows all of them; a ratio is taken within a round. Vectors are random directions: exact search does the same work
whatever they are. `VectorIndex` is measured as it is used, checks of its input included. numpy does the least that
answers the question (matrix product, partial sort, sort of the best), and must name the same ids.

Where batch is far behind numpy, the BLAS in the faiss wheel may not know the processor (`OPENBLAS_VERBOSE=2` prints
"Core: Prescott"): `OPENBLAS_CORETYPE=SkylakeX` with AVX-512, or `Haswell` with AVX2, tells it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from registry import index as index_module
from registry.index import VectorIndex

DIM = 192
K = 10
SIZES = (1_000, 10_000, 100_000)

#: How many vectors a round searches for: about the windows of a four-minute track that carry voice.
N_QUERIES = 100

#: System that the others are compared with.
BASE = "batch"

Answer = tuple[np.ndarray, np.ndarray]


def unit_vectors(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.standard_normal((n, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def search_numpy(ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray) -> Answer:
    scores = queries @ vectors.T
    best = np.argpartition(scores, -K, axis=1)[:, -K:]
    best_scores = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-best_scores, axis=1)
    return np.take_along_axis(best_scores, order, axis=1), ids[np.take_along_axis(best, order, axis=1)]


def search_singly(index: VectorIndex, queries: np.ndarray) -> Answer:
    answers = [index.search(queries[i : i + 1], K) for i in range(len(queries))]
    return np.concatenate([scores for scores, _ in answers]), np.concatenate([ids for _, ids in answers])


def search_scanned(index: VectorIndex, queries: np.ndarray) -> Answer:
    kept = index_module.BLAS_FROM_VALUES_PER_THREAD
    index_module.BLAS_FROM_VALUES_PER_THREAD = 2**31
    try:
        return index.search(queries, K)
    finally:
        index_module.BLAS_FROM_VALUES_PER_THREAD = kept


def check_same(system: str, found: Answer, expected: Answer) -> None:
    """Stop unless two answers agree; two templates may change places only where their scores differ by rounding."""
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-6, err_msg=f"{system}: other scores than {BASE}")
    differs = found[1] != expected[1]
    gaps = np.abs(np.diff(expected[0], axis=1, append=-np.inf))
    near = np.minimum(gaps, np.roll(gaps, 1, axis=1)) <= 1e-6
    if (differs & ~near).any():
        raise SystemExit(f"{system}: other ids than {BASE}")


def measure(n: int, n_rounds: int, seed: int) -> dict[str, np.ndarray]:
    """Return the milliseconds per vector of each system, (n_rounds,) float64, in rounds that match."""
    rng = np.random.default_rng(seed)
    ids, vectors = rng.permutation(n).astype(np.int64), unit_vectors(rng, n)
    index = VectorIndex(DIM)
    index.add(ids, vectors)
    systems: dict[str, Callable[[np.ndarray], Answer]] = {
        BASE: lambda queries: index.search(queries, K),
        "batch, scanned": lambda queries: search_scanned(index, queries),
        "one at a time": lambda queries: search_singly(index, queries),
        "numpy": lambda queries: search_numpy(ids, vectors, queries),
    }
    names = list(systems)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    # Round 0 warms up the caches and is not counted.
    for round_number in range(n_rounds + 1):
        queries = unit_vectors(rng, N_QUERIES)
        answers: dict[str, Answer] = {}
        for name in np.roll(names, round_number).tolist():
            start_s = time.perf_counter()
            answers[name] = systems[name](queries)
            duration_s = time.perf_counter() - start_s
            if round_number:
                times_ms[name].append(1000 * duration_s / N_QUERIES)
        for name in names:
            check_same(name, answers[name], answers[BASE])
    return {name: np.array(values) for name, values in times_ms.items()}


def row(trials: str, system: str, metric: str, values: np.ndarray) -> dict[str, str | float]:
    value, low, high = summarise(values)
    figures: dict[str, str | float] = {"value": value, "low": low, "high": high, "n": len(values)}
    return {"trials": trials, "system": system, "metric": metric, **figures}


def summarise(values: np.ndarray) -> tuple[float, float, float]:
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return median, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds for each size rather than 30; under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    parser.add_argument("--seed", type=int, default=0, help="of the vectors (default: %(default)s)")
    arguments = parser.parse_args()

    n_rounds = 5 if arguments.quick else 30
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"{DIM} dimensions, k={K}, {N_QUERIES} vectors a round, {n_rounds} rounds, OMP_NUM_THREADS {threads}")
    print("median milliseconds per vector (5 % and 95 % of the rounds); ratio: times as long as batch, same round")
    print(f"{'templates':>9}  {'system':<14}  {'ms per vector':>24}  {'ratio':>22}")
    rows = []
    for n in SIZES:
        times_ms = measure(n, n_rounds, arguments.seed)
        trials = f"random, N={n}, dim={DIM}, k={K}, batch={N_QUERIES}"
        for system, values_ms in times_ms.items():
            ratios = values_ms / times_ms[BASE]
            rows.append(row(trials, system, "ms_per_vector", values_ms))
            rows.append(row(trials, system, "times_as_long_as_batch", ratios))
            time_text = "{:.4f} ({:.4f} - {:.4f})".format(*summarise(values_ms))
            ratio_text = "{:.2f} ({:.2f} - {:.2f})".format(*summarise(ratios))
            print(f"{n:>9,}  {system:<14}  {time_text:>24}  {ratio_text:>22}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
