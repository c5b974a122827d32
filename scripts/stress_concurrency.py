"""Readers and a writer on one registry at once: is anything read that was never there, and does anybody see a lock?

    python scripts/stress_concurrency.py            # 32 readers and a writer, two minutes
    python scripts/stress_concurrency.py --quick    # 8 readers, 15 seconds

The writer, a process of its own, enrolls, enrolls again, renames, withdraws consents, removes and adds artists as fast
as it can, and after each change writes the index. Every template of a generation of an artist has that generation's
number in it, so a reader can tell a mixture. Readers are processes too; each opens the registry anew time and again,
as commands do, and checks of every artist that all its templates are of one generation, that the index holds exactly
what the database holds at its revision, that the revision never goes back, and that a match finds the voice of an
artist who is there. Whatever a user would see as an error is counted with its text.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from large_registry import TEMPLATES, MadeUpEncoder, add_artist, fill, name_of, unit_vectors

from embeddings.extract import Voiceprint
from registry import erasure, identity, rights
from registry.errors import RegistryError
from registry.match import Matcher, write_store_index
from registry.records import NewTemplate
from registry.store import Store

N_ARTISTS = 40
#: An artist who is never changed: every reader must find it every time.
STEADY = name_of(0)
#: What there must be none of.
BAD, LEFT = "torn, stale or an error", "removals not finished afterwards"


def quiet(_: str) -> None:
    """Say nothing: an index that a reader finds stale and rebuilds is as it should be."""


def generation_of(vectors: np.ndarray) -> np.ndarray:
    """The generation that a template is of, from the sign pattern of its first numbers."""
    return (vectors[:, :16] > 0) @ (1 << np.arange(16))


def mark(store: Store, name: str, generation: int, rng: np.random.Generator) -> None:
    """Give an artist templates that say of which generation they are; call inside `store.writing`."""
    (reference, *_) = store.references(name)
    vectors = unit_vectors(rng, TEMPLATES)
    signs = np.where((generation >> np.arange(16)) & 1, 1.0, -1.0)
    vectors[:, :16] = (np.abs(vectors[:, :16]) + 1e-3) * signs
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    templates = [NewTemplate(vector, reference.reference_id, 0.0, 4.0, 1) for vector in vectors]
    store.replace_templates(store.artist(name).artist_id, templates)


def write(home: Path, until_s: float, results: Any) -> None:
    """Change the registry until the time is over."""
    rng = np.random.default_rng(5)
    encoder = MadeUpEncoder(rng)
    counts: Counter[str] = Counter()
    generation = 1
    while time.time() < until_s:
        generation += 1
        what = ("again", "again", "rename", "withdraw", "replace")[rng.integers(5)]
        try:
            with Store(home, actor="writer") as store:
                names = sorted({artist.name for artist in store.artists()} - {STEADY})
                name = names[rng.integers(len(names))]
                if what == "again":
                    with store.writing():
                        mark(store, name, generation, rng)
                elif what == "rename":
                    identity.rename_artist(store, name, f"{name.split(' =')[0]} ={generation}")
                elif what == "withdraw":
                    if store.artist(name).status == "active":
                        rights.withdraw_consent(store, name)
                else:
                    erasure.WAIT_S = 0.2
                    erasure.erase_artist(store, name, quiet)
                    name = f"{name.split(' =')[0]} ={generation}"
                    with store.writing():
                        add_artist(store, encoder, name, unit_vectors(rng, TEMPLATES))
                        mark(store, name, generation, rng)
                write_store_index(store, quiet)
            counts[what] += 1
        except RegistryError as error:
            counts[f"ERROR {type(error).__name__}: {error}"] += 1
    results.put(("writer", counts))


def read(home: Path, until_s: float, results: Any) -> None:
    """Open and check the registry until the time is over."""
    encoder = MadeUpEncoder(np.random.default_rng(7))
    counts: Counter[str] = Counter()
    revision = -1
    while time.time() < until_s:
        try:
            with Store(home, actor="reader") as store:
                matcher = Matcher(store, encoder, quiet, threshold=5.0)
                with store.reading():
                    seen, gallery = store.revision, store.gallery()
                    names = store.artist_names()
                    (row,) = store.rows("SELECT COUNT(*) AS n FROM artists")
                problems = []
                if seen < revision:
                    problems.append("STALE: the revision went back")
                revision = seen
                if len(names) != row["n"] or set(gallery.artist_id.tolist()) - set(names):
                    problems.append("TORN: templates of an artist who is not there")
                for artist_id in np.unique(gallery.artist_id):
                    rows = gallery.vectors[gallery.artist_id == artist_id]
                    if len(rows) != TEMPLATES or len(np.unique(generation_of(rows))) != 1:
                        problems.append("TORN: templates of more than one generation")
                pinned = matcher._pinned
                ids = np.sort(matcher._index.ids)
                if not np.array_equal(ids, np.sort(pinned.template_id)):
                    problems.append("TORN: the index holds other templates than the gallery of its revision")
                elif (matcher._index.reconstruct(pinned.template_id) != pinned.vectors).any():
                    problems.append("TORN: a vector of the index is not the database's")
                steady = next(artist_id for artist_id, name in matcher._names.items() if name == STEADY)
                voice = pinned.vectors[pinned.artist_id == steady]
                best = matcher.match(voiceprint(voice))[0]
                if best.artist != STEADY:
                    problems.append("STALE: the steady artist was not found")
                counts.update(problems or ["sound"])
        except RegistryError as error:
            counts[f"ERROR {type(error).__name__}: {error}"] += 1
    results.put(("reader", counts))


def voiceprint(vectors: np.ndarray) -> Voiceprint:
    start_s = 2.0 * np.arange(len(vectors))
    presence = np.ones(len(vectors), np.float32)
    return Voiceprint(vectors, start_s, start_s + 4.0, presence, 20.0, 20.0, "f" * 64)


def stress(n_readers: int, duration_s: float) -> list[dict]:
    """Let readers and a writer work on one registry for so long; returns what was counted."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with Store(home, create=True, actor="stress") as store:
            rng = np.random.default_rng(1)
            vectors = unit_vectors(rng, N_ARTISTS * TEMPLATES).reshape(N_ARTISTS, TEMPLATES, -1)
            fill(store, MadeUpEncoder(rng), vectors)
            with store.writing():
                for artist in store.artists():
                    mark(store, artist.name, 0, np.random.default_rng(artist.artist_id))
            write_store_index(store, quiet)
        results = spawn.Queue()
        until_s = time.time() + duration_s
        processes = [spawn.Process(target=write, args=(home, until_s, results))]
        processes += [spawn.Process(target=read, args=(home, until_s, results)) for _ in range(n_readers)]
        for process in processes:
            process.start()
        reports = [results.get(timeout=duration_s + 120) for _ in processes]
        for process in processes:
            process.join()
        with Store(home, actor="stress") as store:
            erasure.finish_pending(store, quiet)
            n_pending = int(store.has_pending_erasures())
    totals: dict[str, Counter[str]] = {"writer": Counter(), "reader": Counter()}
    for who, counts in reports:
        totals[who].update(counts)
    trials = f"{n_readers} readers, 1 writer, {duration_s:g} s"
    rows = [
        {"trials": trials, "system": who, "metric": what, "value": n}
        for who, counts in totals.items()
        for what, n in sorted(counts.items())
    ]
    n_bad = sum(row["value"] for row in rows if row["metric"].startswith(("TORN", "STALE", "ERROR")))
    return [
        *rows,
        {"trials": trials, "system": "both", "metric": BAD, "value": n_bad},
        {"trials": trials, "system": "both", "metric": LEFT, "value": n_pending},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 readers, 15 seconds")
    parser.add_argument("--readers", type=int, help="so many readers")
    parser.add_argument("--seconds", type=float, help="so long")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    rows = stress(args.readers or (8 if args.quick else 32), args.seconds or (15.0 if args.quick else 120.0))
    print(rows[0]["trials"])
    for row in rows:
        print(f"  {row['system']:8}{row['metric']:60}{row['value']:>8}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="ascii")
    if any(row["value"] for row in rows if row["metric"] in (BAD, LEFT)):
        raise SystemExit("the registry was seen in a state that never was")


if __name__ == "__main__":
    main()
