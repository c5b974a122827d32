"""Measure the removal of one artist from registries of several sizes, plain and encrypted, and search every byte after.

    python scripts/bench_removal.py            # 1,000 and 100,000 templates, about four minutes
    python scripts/bench_removal.py --quick    # 1,000 and 8,000 templates

The artists are made up (scripts/large_registry.py), 8 templates and 24 windows each. The search is this script's own,
over every file under the home, for all vectors of the artist, the name, the path and the release. "Held up" removes
while somebody reads, then lets the reader go and times the command that finishes it; the waiting itself is cut short.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from large_registry import TEMPLATES, MadeUpEncoder, consent_of, fill, name_of, path_of, unit_vectors

from registry import encryption, erasure
from registry.store import Store

WINDOWS = 24  # of each artist's one reference


def quiet(_: str) -> None:
    """Say nothing."""


def marks_of(store: Store, name: str) -> list[bytes]:
    """Everything that says who an artist is, as bytes."""
    artist_id = store.artist(name).artist_id
    gallery = store.gallery()
    vectors = [*gallery.vectors[gallery.artist_id == artist_id], *store.reference_windows(artist_id)[0][1]]
    unique = {np.ascontiguousarray(vector, "<f4").tobytes()[: erasure.MARK_BYTES] for vector in vectors}
    return [*unique, name.encode(), path_of(name).encode(), consent_of(name).encode()]


def n_found(home: Path, marks: list[bytes]) -> int:
    """How many marks stand in any file under a folder."""
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    return sum(any(mark in content for content in files) for mark in marks)


def measure(n_templates: int, sealed: bool) -> list[dict]:
    """Rows for one size: a removal nobody disturbs, and one that a reader holds up."""
    system = "encrypted" if sealed else "plain"
    trials = f"{n_templates} templates"
    rows: list[dict] = []

    def row(metric: str, value: float) -> None:
        rows.append({"trials": trials, "system": system, "metric": metric, "value": round(value, 3)})

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with Store(home, create=True, actor="bench") as store:
            if sealed:
                os.environ.pop("LIKENESS_KEY", None)
                encryption.encrypt_registry(store, "bench", f"file:{folder}/master.key")
            rng = np.random.default_rng(1)
            n_artists = n_templates // TEMPLATES
            fill(store, MadeUpEncoder(rng), unit_vectors(rng, n_artists * WINDOWS).reshape(n_artists, WINDOWS, -1))
            row("home_mib", sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) / 2**20)

            marks = marks_of(store, name_of(7))
            row("marks_before", n_found(home, marks))
            start_s = time.perf_counter()
            receipt = erasure.erase_artist(store, name_of(7), quiet)
            row("removal_s", time.perf_counter() - start_s)
            row("marks_after", n_found(home, marks))
            row("steps_pending", len(receipt["pending"]))

            marks = marks_of(store, name_of(8))
            with closing(sqlite3.connect(store.path)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT COUNT(*) FROM templates").fetchone()
                erasure.WAIT_S = 0.5
                receipt = erasure.erase_artist(store, name_of(8), quiet)
                row("held_up_steps_pending", len(receipt["pending"]))
                row("held_up_marks_while_read", n_found(home, marks))
            start_s = time.perf_counter()
            erasure.finish_pending(store, quiet)
            row("held_up_finish_s", time.perf_counter() - start_s)
            row("held_up_marks_after", n_found(home, marks))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1,000 and 8,000 templates")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    rows = [
        row
        for n_templates in (1_000, 8_000 if args.quick else 100_000)
        for sealed in (False, True)
        for row in measure(n_templates, sealed)
    ]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    columns = list(dict.fromkeys((row["trials"], row["system"]) for row in rows))
    value = {(row["trials"], row["system"], row["metric"]): row["value"] for row in rows}
    print(f"{'':26}" + "".join(f"{f'{trials}, {system}':>30}" for trials, system in columns))
    for metric in metrics:
        print(f"{metric:26}" + "".join(f"{value[trials, system, metric]:>30g}" for trials, system in columns))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="ascii")
    left = [row for row in rows if row["metric"] in ("marks_after", "held_up_marks_after") and row["value"]]
    if left:
        raise SystemExit("something of a removed artist was found")


if __name__ == "__main__":
    main()
