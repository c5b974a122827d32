"""Is a registry sound? Reads everything, changes nothing."""

from __future__ import annotations

import numpy as np

from registry import audit
from registry.errors import IndexUnusable, StoreDamaged
from registry.index import load_index
from registry.kept_audio import KEPT_AUDIO
from registry.match import index_key, index_path
from registry.store import Store


def find_problems(store: Store) -> list[tuple[str, str]]:
    """What is wrong, as (where, what): nothing for a sound registry."""
    return [
        *(("database", f"{problem}; restore your last backup") for problem in database_problems(store)),
        *(("audit", problem) for problem in audit.verify(store).problems),
        *(("index", problem) for problem in _index_problems(store)),
        *(("kept audio", problem) for problem in _audio_problems(store)),
    ]


def _index_problems(store: Store) -> list[str]:
    if store.encoder_id is None:
        return []
    try:
        index = load_index(index_path(store.home), store.revision, store.encoder_id, index_key(store))
    except IndexUnusable as error:
        return [str(error)]
    try:
        ids, vectors = store.template_vectors()
    except StoreDamaged:
        return []  # named among the database's problems
    if sorted(index.ids.tolist()) != ids.tolist() or (index.reconstruct(ids) != vectors).any():
        return ["it does not hold what the database holds; run `likeness rebuild-index`"]
    return []


def _audio_problems(store: Store) -> list[str]:
    rows = store.rows("SELECT kept_path FROM artist_references WHERE kept_path IS NOT NULL")
    kept = {row["kept_path"] for row in rows}
    present = {str(path.relative_to(store.home)) for path in (store.home / KEPT_AUDIO).glob("*")}
    return [f"{path}: missing" for path in sorted(kept - present)] + [
        f"{path}: belongs to no reference; delete it" for path in sorted(present - kept)
    ]


def database_problems(store: Store) -> list[str]:
    """What is wrong with the database: SQLite's own checks, then every vector's size and length."""
    found = [row["integrity_check"] for row in store.rows("PRAGMA integrity_check")]
    found = [] if found == ["ok"] else found
    found += [
        f"{row['table']} row {row['rowid']}: points at a {row['parent']} that is gone"
        for row in store.rows("PRAGMA foreign_key_check")
    ]
    record = store.encoder()
    if record is None:
        return found
    dim = record["dim"]  # of the encoder that the templates are of; a reference that waits is of another
    for row in store.each("SELECT template_id, artist_id, vector FROM templates"):
        blob = _unsealed(store, row["artist_id"], row["vector"], "template")
        vector = np.frombuffer(blob, "<f4") if len(blob) == 4 * dim else None
        if vector is None or not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
            found.append(f"template {row['template_id']}: not a unit vector of {dim} numbers")
    for row in store.each(
        "SELECT reference_id, artist_id, dim, n_windows, vectors, length(times) AS t, '' AS what "
        "FROM artist_references JOIN encoders USING (encoder_id) "
        "UNION ALL SELECT s.reference_id, artist_id, dim, s.n_windows, s.vectors, "
        "length(s.times), ' (prepared)' FROM staged_references s JOIN artist_references r USING (reference_id) "
        "JOIN encoders e ON e.encoder_id = s.encoder_id"
    ):
        blob = _unsealed(store, row["artist_id"], row["vectors"], "windows")
        if len(blob) != 4 * row["dim"] * row["n_windows"] or row["t"] != 8 * row["n_windows"]:
            found.append(
                f"reference {row['reference_id']}{row['what']}: its vectors are not {row['n_windows']} windows of "
                f"{row['dim']}"
            )
    found += [
        f"artist {store.name_of(row['artist_id'])}: references but no templates"
        for row in store.rows(
            "SELECT DISTINCT artist_id FROM artist_references r WHERE status = 'active' AND encoder_id = ? "
            "AND NOT EXISTS (SELECT 1 FROM templates t WHERE t.artist_id = r.artist_id)",
            [record["encoder_id"]],
        )
    ]
    return found


def _unsealed(store: Store, artist_id: int, blob: bytes, what: str) -> bytes:
    """A vector's bytes; nothing where they are sealed and do not open."""
    try:
        return store.unseal(artist_id, blob, what)
    except StoreDamaged:
        return b""
