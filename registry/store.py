"""The registry's truth: what is on record of artists, their references and templates, as SQL on one SQLite database.

Tracks and scans are in `scans`, runs in `runs`, consents in `rights`, the audit in `audit`, what is being removed in
`erasure`. What says who an artist is (names, paths, releases, vectors) passes through `seal` on its way in and through
`unseal` on its way out, which change nothing unless the registry is encrypted.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from registry.database import BUSY_TIMEOUT_MS, DATABASE, RegistryDatabase, now
from registry.errors import AlreadyEnrolled, RegistryError, StoreDamaged, UnknownArtist
from registry.records import ArtistSummary, Gallery, NewTemplate, Reference, storable
from registry.schema import fold_name

__all__ = ["BUSY_TIMEOUT_MS", "DATABASE", "Store", "now"]


class Store(RegistryDatabase):
    """The registry, open; parameters and errors are those of `RegistryDatabase`."""

    # -- artists ---------------------------------------------------------------------------------------------------

    def artists(self) -> list[ArtistSummary]:
        """Every artist, by name, but for those merged into another."""
        self.load_artist_keys()
        rows = self.rows(_ARTISTS + " WHERE a.merged_into IS NULL", [now()])
        return sorted((self._summary(row) for row in rows), key=lambda artist: artist.name)

    def artist(self, name: str) -> ArtistSummary:
        """The artist called `name`, by whichever of its names; `UnknownArtist` names the nearest spellings."""
        artist_id = self.find_artist(name)
        if artist_id is None:
            raise UnknownArtist(_unknown(name, [artist.name for artist in self.artists()]))
        return self._summary(self.rows(_ARTISTS + " WHERE a.artist_id = ?", [now(), artist_id])[0])

    def _summary(self, row: dict[str, Any]) -> ArtistSummary:
        return ArtistSummary(**{**row, "name": self.unseal_text(row["artist_id"], row["name"], "name")})

    def name_keys(self, name: str) -> tuple[str, str]:
        """What a name is found by: as it is, and without regard to case."""
        name = storable(name)  # one that is not UTF-8 is nobody's, and no reason to stop
        keys = name, fold_name(name)
        return keys if self.vault is None else (self.vault.blind(keys[0]), self.vault.blind(keys[1]))

    def find_artist(self, name: str) -> int | None:
        """The id of the artist called so, exactly or else but for case; None if there is none, or more than one."""
        name_key, fold_key = self.name_keys(name)
        rows = self.rows("SELECT artist_id FROM names WHERE name_key = ?", [name_key])
        rows = rows or self.rows("SELECT artist_id FROM names WHERE fold_key = ?", [fold_key])
        found = {self._merged(row["artist_id"]) for row in rows}
        return found.pop() if len(found) == 1 else None

    def _merged(self, artist_id: int) -> int:
        """The artist that this one was merged into, or itself."""
        while row := self.rows("SELECT merged_into AS into_id FROM artists WHERE artist_id = ?", [artist_id]):
            if row[0]["into_id"] is None:
                break
            artist_id = row[0]["into_id"]
        return artist_id

    def with_merged(self, artist_id: int) -> list[int]:
        """An artist and all who were merged into it."""
        rows = self.rows(
            "WITH RECURSIVE merged (artist_id) AS (SELECT ? UNION ALL SELECT a.artist_id FROM artists a "
            "JOIN merged m ON a.merged_into = m.artist_id) SELECT artist_id FROM merged",
            [artist_id],
        )
        return [row["artist_id"] for row in rows]

    def add_artist(self, name: str) -> int:
        """The id of the artist called `name`, added if new; call inside `writing`."""
        found = self.find_artist(name)
        if found is not None:
            return found
        # In two steps, for the key that seals the name is bound to the id.
        artist_id = self.insert("artists", {"name": "", "created_at": now(), "uid": _new_uid()})
        self.add_artist_key(artist_id)
        self.set_name(artist_id, name)
        return artist_id

    def set_name(self, artist_id: int, name: str) -> None:
        """Call an artist `name`, instead of as before; call inside `writing`. It may have been an alias."""
        self.db.execute(
            "DELETE FROM names WHERE artist_id = ? AND (alias IS NULL OR name_key = ?)",
            [artist_id, self.name_keys(name)[0]],
        )
        self.add_name(artist_id, name, alias=None)
        sealed = self.seal_text(artist_id, name, "name")
        self.db.execute("UPDATE artists SET name = ? WHERE artist_id = ?", [sealed, artist_id])

    def add_name(self, artist_id: int, name: str, *, alias: str | None) -> None:
        """Let a name lead to an artist; refused when it leads to another; call inside `writing`."""
        name_key, fold_key = self.name_keys(name)
        if self.rows("SELECT 1 FROM names WHERE name_key = ?", [name_key]):
            raise RegistryError(f"{name}: is enrolled already; two artists cannot share a name")
        sealed = None if alias is None else self.seal_text(artist_id, alias, "name")
        self.insert("names", {"name_key": name_key, "fold_key": fold_key, "artist_id": artist_id, "alias": sealed})

    def aliases(self, artist_id: int) -> list[str]:
        """The other names that lead to an artist, those of artists who were merged into it among them."""
        rows = self.rows(
            "SELECT artist_id, COALESCE(n.alias, a.name) AS name FROM names n JOIN artists a USING (artist_id) "
            "WHERE artist_id IN (SELECT value FROM json_each(?)) AND NOT (artist_id = ? AND n.alias IS NULL)",
            [json.dumps(self.with_merged(artist_id)), artist_id],
        )
        return sorted(self.unseal_text(row["artist_id"], row["name"], "name") for row in rows)

    def artist_names(self) -> dict[int, str]:
        """Every artist's name by artist_id; of one that was merged into another, that one's."""
        self.load_artist_keys()
        rows = {row["artist_id"]: row for row in self.rows("SELECT artist_id, name, merged_into FROM artists")}
        names = {}
        for artist_id, row in rows.items():
            while row["merged_into"] is not None:
                row = rows[row["merged_into"]]
            names[artist_id] = self.unseal_text(row["artist_id"], row["name"], "name")
        return names

    def name_of(self, artist_id: int) -> str:
        """One artist's name; of one that was merged into another, that one's."""
        return self.artist_name(self._merged(artist_id))

    def artist_name(self, artist_id: int) -> str:
        """One artist's own name."""
        row = self.rows("SELECT name FROM artists WHERE artist_id = ?", [artist_id])[0]
        return self.unseal_text(artist_id, row["name"], "name")

    def present(self, artist_ids: Iterable[int]) -> set[int]:
        """Those of some artists who are on record."""
        rows = self.rows(
            "SELECT artist_id FROM artists WHERE artist_id IN (SELECT value FROM json_each(?))",
            [json.dumps(list(artist_ids))],
        )
        return {row["artist_id"] for row in rows}

    # -- references ------------------------------------------------------------------------------------------------

    def holders(self, content_id: str) -> list[str]:
        """Names of the artists that this very recording is enrolled for."""
        rows = self.rows("SELECT artist_id FROM artist_references WHERE content_id = ?", [content_id])
        return sorted(self.name_of(row["artist_id"]) for row in rows)

    def add_reference(
        self,
        reference: Reference,
        consent_id: int,
        vectors: np.ndarray,
        times: np.ndarray,
        *,
        kept_key: bytes | None = None,
    ) -> int:
        """Store a reference and its window vectors; call inside `writing`, then make the templates anew.

        Parameters
        ----------
        reference : Reference
            Its `reference_id`, `artist`, `consent` and `added_at` are not looked at.
        consent_id : int
            The consent that it rests on; names the artist.
        vectors : (n_windows, dim) float32
            Unit rows.
        times : (n_windows, 2) float
            Start and end of each window in seconds.
        kept_key : bytes, optional
            What the kept copy is sealed with.

        Raises
        ------
        AlreadyEnrolled
            The artist has this content already.
        """
        artist_id = self.rows("SELECT artist_id FROM consents WHERE consent_id = ?", [consent_id])[0]["artist_id"]
        row = {name: getattr(reference, name) for name in _REFERENCE_COLUMNS}
        row |= {
            "artist_id": artist_id,
            "consent_id": consent_id,
            "encoder_id": self.encoder_id,
            "forced": int(reference.force_reason is not None),
            "added_at": now(),
            "n_windows": len(vectors),
            "vectors": self.seal(artist_id, _blob(vectors), "windows"),
            "times": _blob(times),
            "kept_key": None if kept_key is None else self.seal(artist_id, kept_key, "audio key"),
        }
        for name in ("path", "force_reason"):
            if row[name] is not None:
                row[name] = self.seal_text(artist_id, row[name], name)
        try:
            return self.insert("artist_references", row)
        except sqlite3.IntegrityError as error:
            raise AlreadyEnrolled(f"{reference.path}: enrolled already") from error

    def references(self, artist: str | None = None) -> list[Reference]:
        """The references of one artist, or of all, oldest first."""
        if artist is None:
            self.load_artist_keys()
            names, where, parameters = self.artist_names(), "", []
        else:
            summary = self.artist(artist)
            names = {summary.artist_id: summary.name}
            where, parameters = " WHERE r.artist_id = ?", [summary.artist_id]
        rows = self.rows(_REFERENCES + where + " ORDER BY r.reference_id", parameters)
        return [self._reference(row, names) for row in rows]

    def reference(self, reference_id: int) -> Reference | None:
        """One reference by its number; None where there is none."""
        rows = self.rows(_REFERENCES + " WHERE r.reference_id = ?", [reference_id])
        return self._reference(rows[0], {rows[0]["artist_id"]: self.name_of(rows[0]["artist_id"])}) if rows else None

    def _reference(self, row: dict[str, Any], names: dict[int, str]) -> Reference:
        artist_id = row.pop("artist_id")
        for column, what in (("path", "path"), ("force_reason", "force_reason"), ("consent", "consent")):
            if row[column] is not None:
                row[column] = self.unseal_text(artist_id, row[column], what)
        return Reference(**row, artist=names[artist_id])

    def reference_windows(
        self, artist_id: int, *, status: str | None = "active", staged_for: str | None = None
    ) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(reference_id, vectors (n, dim), times (n, 2)) of an artist's references of a status, or all, in order.

        They are all of one encoder: the registry's, or the one with the id `staged_for`, as they are once the registry
        goes over to that. Those that wait for their audio are left out.
        """
        current = self.current_encoder()
        encoder_id = staged_for or (current and current["encoder_id"])
        rows = self.rows(
            f"SELECT * FROM ({_WINDOWS}) WHERE artist_id = ? AND status = COALESCE(?, status) AND encoder_id = ? "
            "AND is_staged <= ? ORDER BY reference_id",
            [artist_id, status, encoder_id, staged_for is not None],
        )
        return [(row["reference_id"], *self._windows(row)) for row in rows]

    def windows_on_record(self, artist_id: int) -> list[dict[str, Any]]:
        """Every window vector that is kept of an artist, whichever encoder made it: not for comparing.

        Rows of reference_id, encoder_id, is_staged (0 or 1), vectors (n, dim) and times (n, 2).
        """
        rows = self.rows(f"SELECT * FROM ({_WINDOWS}) WHERE artist_id = ? ORDER BY is_staged, 1", [artist_id])
        names = ("reference_id", "encoder_id", "is_staged")
        return [
            {**{name: row[name] for name in names}, "vectors": vectors, "times": times}
            for row in rows
            for vectors, times in [self._windows(row)]
        ]

    def _windows(self, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        vectors = self.unseal(row["artist_id"], row["vectors"], "windows")
        return _array(vectors, row["n_windows"], row["dim"]), _array(row["times"], row["n_windows"], 2)

    def reference_ids(self, artist_id: int) -> list[int]:
        """The numbers of all of an artist's references, those among them that are not matched."""
        rows = self.rows("SELECT reference_id FROM artist_references WHERE artist_id = ? ORDER BY 1", [artist_id])
        return [row["reference_id"] for row in rows]

    def stage_reference(
        self,
        reference_id: int,
        encoder_id: str,
        vectors: np.ndarray,
        times: np.ndarray,
        *,
        voiced_s: float,
        own_norm_score: float | None,
    ) -> None:
        """Keep what a recorded encoder makes of a reference beside what it is; call inside `writing`."""
        (row,) = self.rows("SELECT artist_id FROM artist_references WHERE reference_id = ?", [reference_id])
        self.insert(
            "staged_references",
            {
                "reference_id": reference_id,
                "encoder_id": encoder_id,
                "voiced_s": voiced_s,
                "own_norm_score": own_norm_score,
                "n_windows": len(vectors),
                # As in artist_references, so that it can take its place as it is.
                "vectors": self.seal(row["artist_id"], _blob(vectors), "windows"),
                "times": _blob(times),
            },
        )

    def move_reference(self, reference_id: int, artist_id: int, consent_id: int) -> None:
        """Make a reference another artist's; call inside `writing`, then make both artists' templates anew."""
        (row,) = self.rows("SELECT * FROM artist_references WHERE reference_id = ?", [reference_id])
        moved: dict[str, Any] = {"artist_id": artist_id, "consent_id": consent_id}
        for name, what in (("vectors", "windows"), ("kept_key", "audio key")):
            if row[name] is not None:
                moved[name] = self.seal(artist_id, self.unseal(row["artist_id"], row[name], what), what)
        for name in ("path", "force_reason"):
            if row[name] is not None:
                text = self.unseal_text(row["artist_id"], row[name], name)
                moved[name] = self.seal_text(artist_id, text, name)
        self.db.execute("DELETE FROM templates WHERE reference_id = ?", [reference_id])
        try:
            self.db.table("artist_references").update(reference_id, moved)
        except sqlite3.IntegrityError as error:
            raise AlreadyEnrolled(
                f"reference {reference_id}: the same recording is enrolled for {self.artist_name(artist_id)} too; "
                "remove one of the two first (`likeness artists remove ARTIST --reference ID`)"
            ) from error

    def reference_owners(self) -> dict[int, int]:
        """Whose each reference is: artist_id by reference_id."""
        rows = self.rows("SELECT reference_id, artist_id FROM artist_references")
        return {row["reference_id"]: row["artist_id"] for row in rows}

    def reference_paths(self, reference_ids: Iterable[int]) -> dict[int, str]:
        """Paths by reference_id."""
        # One JSON parameter: no limit on the number of values, and no SQL made of data.
        rows = self.rows(
            "SELECT reference_id, artist_id, path FROM artist_references "
            "WHERE reference_id IN (SELECT value FROM json_each(?))",
            [json.dumps(list(reference_ids))],
        )
        return {row["reference_id"]: self.unseal_text(row["artist_id"], row["path"], "path") for row in rows}

    # -- templates -------------------------------------------------------------------------------------------------

    def replace_templates(self, artist_id: int, templates: Sequence[NewTemplate]) -> None:
        """Put `templates` in the place of the artist's present ones; call inside `writing`."""
        self.db.execute("DELETE FROM templates WHERE artist_id = ?", [artist_id])
        self.db.table("templates").insert_all(
            {
                "artist_id": artist_id,
                "reference_id": template.reference_id,
                "start_s": template.start_s,
                "end_s": template.end_s,
                "n_windows": template.n_windows,
                "vector": self.seal(artist_id, _blob(template.vector), "template"),
            }
            for template in templates
        )
        self.bump_revision()

    def template_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Every template for the index: ids (n,) int64 and vectors (n, dim) float32."""
        rows = self.rows("SELECT template_id, artist_id, vector FROM templates ORDER BY template_id")
        return np.array([row["template_id"] for row in rows], np.int64), self._vectors(rows)

    def gallery(self, *, without: Sequence[int] = ()) -> Gallery:
        """Every template, grouped by artist, but for the artists with these ids."""
        rows = self.rows(
            "SELECT * FROM templates WHERE artist_id NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY artist_id, template_id",
            [json.dumps(list(without))],
        )

        def column(name: str, dtype: Any) -> np.ndarray:
            return np.array([row[name] for row in rows], dtype)

        return Gallery(
            vectors=self._vectors(rows),
            artist_id=column("artist_id", np.int64),
            template_id=column("template_id", np.int64),
            reference_id=column("reference_id", np.int64),
            start_s=column("start_s", np.float64),
            end_s=column("end_s", np.float64),
        )

    def _vectors(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        self.load_artist_keys()
        record = self.current_encoder()
        blobs = b"".join(self.unseal(row["artist_id"], row["vector"], "template") for row in rows)
        return _array(blobs, len(rows), record["dim"] if record else 0)

    @property
    def rights(self) -> int:
        """Counts changes of consents and removals of artists."""
        return int(self.rows("SELECT value FROM meta WHERE key = 'rights'")[0]["value"])

    def next_expiry(self) -> str:
        """When the next consent ends; empty if none will."""
        rows = self.rows("SELECT MIN(expires_at) AS at FROM consents WHERE expires_at > ?", [now()])
        return rows[0]["at"] or ""

    def without_consent(self) -> dict[int, str]:
        """Why by artist_id of those whose consents are all over: they are on record, but not matched.

        One who was merged into another rests on that one's consents.
        """
        rows = self.rows(
            "SELECT artist_id, MAX(expires_at) AS expired, MAX(withdrawn_at) AS withdrawn FROM artists a "
            "LEFT JOIN consents c USING (artist_id) WHERE a.merged_into IS NULL GROUP BY artist_id "
            "HAVING NOT MAX(consent_id IS NOT NULL AND withdrawn_at IS NULL "
            "AND (expires_at IS NULL OR expires_at > ?))",
            [now()],
        )
        return {
            artist_id: f"the consent on record was withdrawn on {row['withdrawn']}"
            if row["withdrawn"]
            else f"the consent on record expired on {row['expired']}"
            if row["expired"]
            else "there is no consent on record"
            for row in rows
            for artist_id in self.with_merged(row["artist_id"])
        }


_REFERENCE_COLUMNS = (
    *("path", "kept_path", "content_id", "duration_s", "voiced_s"),
    *("status", "enrolled_by", "approved_by", "force_reason", "own_norm_score"),
)

_ARTISTS = """
    SELECT a.artist_id, a.uid, a.name, a.created_at,
        CASE
            WHEN NOT EXISTS (SELECT 1 FROM consents c WHERE c.artist_id = a.artist_id AND c.withdrawn_at IS NULL
                AND (c.expires_at IS NULL OR c.expires_at > ?)) THEN 'no consent'
            WHEN EXISTS (SELECT 1 FROM artist_references r WHERE r.artist_id = a.artist_id AND r.status = 'active'
                AND r.encoder_id = e.value) THEN 'active'
            WHEN EXISTS (SELECT 1 FROM artist_references r WHERE r.artist_id = a.artist_id AND r.encoder_id != e.value)
                THEN 'waiting'
            ELSE 'pending'
        END AS status,
        (SELECT COUNT(*) FROM artist_references r WHERE r.artist_id = a.artist_id) AS n_references,
        (SELECT COUNT(*) FROM artist_references r WHERE r.artist_id = a.artist_id AND r.status = 'pending'
            AND r.encoder_id = e.value) AS n_pending,
        (SELECT COUNT(*) FROM templates t WHERE t.artist_id = a.artist_id) AS n_templates,
        (SELECT COALESCE(SUM(voiced_s), 0.0) FROM artist_references r WHERE r.artist_id = a.artist_id) AS voiced_s
    FROM artists a LEFT JOIN meta e ON e.key = 'encoder_id'"""

#: What `Reference.status` is: a reference that another encoder made waits for its audio, approved or not.
_STATUS = "CASE WHEN r.encoder_id = (SELECT value FROM meta WHERE key = 'encoder_id') THEN r.status ELSE 'waiting' END"

_REFERENCES = f"""
    SELECT r.reference_id, r.artist_id, {", ".join(f"r.{name}" for name in _REFERENCE_COLUMNS if name != "status")},
        {_STATUS} AS status, r.n_windows, c.ref AS consent, c.expires_at AS consent_expires_at, r.added_at
    FROM artist_references r JOIN consents c USING (consent_id)"""

_WINDOWS = """
    SELECT r.reference_id, r.artist_id, r.status, r.encoder_id, r.n_windows, r.vectors, r.times, e.dim, 0 AS is_staged
    FROM artist_references r JOIN encoders e USING (encoder_id)
    UNION ALL
    SELECT r.reference_id, r.artist_id, r.status, s.encoder_id, s.n_windows, s.vectors, s.times, e.dim, 1
    FROM artist_references r JOIN staged_references s USING (reference_id) JOIN encoders e
    ON e.encoder_id = s.encoder_id"""


def _new_uid() -> str:
    return secrets.token_hex(8)


def _blob(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, "<f4").tobytes()


def _array(blob: bytes, n_rows: int, n_columns: int) -> np.ndarray:
    if len(blob) != 4 * n_rows * n_columns:
        raise StoreDamaged(
            f"vectors of the registry take {len(blob)} bytes, {n_rows} of {n_columns} numbers would take "
            f"{4 * n_rows * n_columns}; run `likeness check`"
        )
    return np.frombuffer(blob, "<f4").reshape(n_rows, n_columns).astype(np.float32)


def _unknown(name: str, names: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `likeness artists list` shows who is"
    return f"{name}: not enrolled{hint}"
