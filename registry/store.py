"""The registry's truth: one SQLite database in the home folder. All SQL but the schema is here."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from sqlite_utils import Database

from registry.errors import (
    AlreadyEnrolled,
    EncoderMismatch,
    RegistryError,
    StoreBusy,
    StoreDamaged,
    StoreTooNew,
    UnknownArtist,
)
from registry.records import (
    ArtistSummary,
    Consent,
    Gallery,
    NewTemplate,
    Reference,
)
from registry.schema import MIGRATION_NAMES, migrations

DATABASE = "registry.db"
#: How long a command waits for another one that is writing, in milliseconds.
BUSY_TIMEOUT_MS = 30_000


def now() -> str:
    """The time as it is stored: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """The registry's database, open.

    Parameters
    ----------
    home : Path
        The registry's folder (mode 0700); the database is `registry.db` in it.
    create : bool
        Make the folder and the database if they are not there.

    Raises
    ------
    RegistryError
        No registry there and `create` is false.
    StoreDamaged, StoreTooNew
        The file is not a database, or was written by a newer Likeness.
    """

    def __init__(self, home: Path, *, create: bool = False) -> None:
        self.home = home
        self.path = home / DATABASE
        if create:
            _make_private(home, self.path)
        elif not self.path.is_file():
            raise RegistryError(f"{home}: no registry here; `likeness enroll` or `likeness init` makes one")
        self.read_only = not os.access(home, os.W_OK)
        try:
            with ExitStack() as on_failure:
                connection = sqlite3.connect(self._uri(), uri=True, timeout=BUSY_TIMEOUT_MS / 1000)
                on_failure.callback(connection.close)
                self.db = Database(connection)
                for pragma in ("foreign_keys = ON", "secure_delete = ON"):
                    self.db.execute(f"PRAGMA {pragma}").fetchone()
                self._migrate(create)
                if not self.read_only:
                    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                        self.db.execute(f"PRAGMA {pragma}").fetchone()
                on_failure.pop_all()
        except sqlite3.DatabaseError as error:
            raise _translate(error, self.path) from error

    def _uri(self) -> str:
        """How SQLite is to open the file: as one that cannot change where the folder cannot be written to."""
        uri = self.path.resolve().as_uri()
        if not self.read_only:
            return uri
        log = self.path.with_name(DATABASE + "-wal")
        if log.exists():  # in use by somebody who can write, or not closed: what is read could change underneath
            raise RegistryError(
                f"{self.home}: cannot be written to, and its log ({log.name}) is open; ask its owner, or copy the "
                "folder to where you can write"
            )
        return f"{uri}?mode=ro&immutable=1"

    def _migrate(self, create: bool) -> None:
        tables = self.db.table_names()
        applied = {migration.name for migration in migrations.applied(self.db)}
        if not applied and (tables or not create):
            raise StoreDamaged(
                f"{self.path}: holds no registry; restore your last backup, or move this file away to begin anew "
                "(`likeness check` cannot mend it)"
            )
        if newer := sorted(applied - MIGRATION_NAMES):
            raise StoreTooNew(
                f"{self.path}: written by a newer Likeness (it has {newer[-1]}); upgrade with "
                "`pip install --upgrade likeness`"
            )
        if migrations.pending(self.db):
            with self.writing():
                migrations.apply(self.db)

    def close(self) -> None:
        """Close the database; what was committed is on disk."""
        self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, the only writer from its first statement on; undone whole if anything fails.

        sqlite-utils' own `atomic()` begins deferred, and a reader that turns writer while another wrote is refused
        at once instead of waiting for its turn.
        """
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.db.rollback()
                raise
            self.db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if self.db.conn.in_transaction:
                self.db.rollback()
            raise _translate(error, self.path) from error

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Everything read inside is from one moment, whatever others write meanwhile."""
        self.db.execute("BEGIN")
        try:
            yield
        finally:
            self.db.rollback()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a query as dicts."""
        try:
            return list(self.db.query(sql, parameters))
        except sqlite3.DatabaseError as error:
            raise _translate(error, self.path) from error

    def insert(self, table: str, row: dict[str, Any]) -> int:
        """Insert a row and return its id; call inside `writing`."""
        return int(cast(int, self.db.table(table).insert(row).last_pk))

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Counts changes of the templates; the index file and every run name the one they belong to."""
        return int(self.rows("SELECT value FROM meta WHERE key = 'revision'")[0]["value"])

    def _bump_revision(self) -> None:
        self.db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")

    @property
    def encoder_id(self) -> str | None:
        """The encoder that every vector in here was made with; None before the first."""
        rows = self.rows("SELECT value FROM meta WHERE key = 'encoder_id'")
        return rows[0]["value"] if rows else None

    def encoder(self) -> dict[str, Any] | None:
        """What is on record of the registry's encoder: source, dim, rate_hz, window_s, hop_s."""
        rows = self.rows("SELECT * FROM encoders WHERE encoder_id = ?", [self.encoder_id])
        return rows[0] if rows else None

    def check_encoder(self, encoder_id: str) -> None:
        """Raise `EncoderMismatch` if the registry's vectors were made with another encoder."""
        if self.encoder_id is not None and self.encoder_id != encoder_id:
            record = self.encoder()
            raise EncoderMismatch(
                f"{self.home}: enrolled with encoder {self.encoder_id[:12]} ({record and record['source']}), "
                f"this one is {encoder_id[:12]}; vectors of different encoders cannot be compared. Use the encoder it "
                "was enrolled with, or enroll from the recordings again into another home"
            )

    def bind_encoder(self, encoder: Any) -> None:
        """Record `encoder` (an `embeddings` encoder) as the one of this registry; call inside `writing`."""
        self.check_encoder(encoder.encoder_id)
        self.db.table("encoders").insert(
            {
                "encoder_id": encoder.encoder_id,
                "source": str(getattr(encoder, "source", "")),
                "dim": encoder.dim,
                "rate_hz": encoder.rate_hz,
                "window_s": encoder.window_s,
                "hop_s": encoder.hop_s,
                "first_used_at": now(),
            },
            ignore=True,
        )
        self.db.table("meta").insert({"key": "encoder_id", "value": encoder.encoder_id}, replace=True)

    def setting(self, key: str, default: Any = None) -> Any:
        """A value the owner has set, or `default`."""
        rows = self.rows("SELECT value FROM settings WHERE key = ?", [key])
        return json.loads(rows[0]["value"]) if rows else default

    def set_setting(self, key: str, value: Any) -> None:
        """Set a value (anything JSON holds); call inside `writing`."""
        self.db.table("settings").insert({"key": key, "value": json.dumps(value)}, replace=True)

    # -- artists and references ------------------------------------------------------------------------------------

    def artists(self) -> list[ArtistSummary]:
        """Every artist, by name."""
        return [ArtistSummary(**row) for row in self.rows(_ARTISTS + " ORDER BY a.name")]

    def artist(self, name: str) -> ArtistSummary:
        """The artist called `name`; `UnknownArtist` names the nearest spellings."""
        rows = self.rows(_ARTISTS + " WHERE a.name = ?", [name])
        if not rows:
            raise UnknownArtist(_unknown(name, [artist.name for artist in self.artists()]))
        return ArtistSummary(**rows[0])

    def add_artist(self, name: str) -> int:
        """The id of the artist called `name`, added if new; call inside `writing`."""
        rows = self.rows("SELECT artist_id FROM artists WHERE name = ?", [name])
        if rows:
            return int(rows[0]["artist_id"])
        return self.insert("artists", {"name": name, "created_at": now()})

    def rename_artist(self, name: str, new_name: str) -> None:
        """Give an artist another name; refused when that one is taken."""
        with self.writing():
            artist = self.artist(name)
            if self.rows("SELECT 1 FROM artists WHERE name = ? AND artist_id != ?", [new_name, artist.artist_id]):
                raise RegistryError(f"{new_name}: is enrolled already; two artists cannot share a name")
            self.db.execute("UPDATE artists SET name = ? WHERE artist_id = ?", [new_name, artist.artist_id])

    def remove_artist(self, name: str) -> list[str]:
        """Delete an artist and everything that hangs on it; returns the kept audio files that the caller is to delete.

        Rows are overwritten (secure_delete), the write-ahead log is emptied and the file compacted, so that no copy
        of a template stays in the database's files.
        """
        with self.writing():
            artist = self.artist(name)
            kept = self.rows(
                # A recording that was forced on two artists has one copy.
                "SELECT kept_path FROM artist_references GROUP BY kept_path "
                "HAVING kept_path IS NOT NULL AND MIN(artist_id = ?)",
                [artist.artist_id],
            )
            self.db.execute("DELETE FROM artists WHERE artist_id = ?", [artist.artist_id])
            self._bump_revision()
        self.compact()
        return [row["kept_path"] for row in kept]

    def compact(self) -> None:
        """Write the database anew without free pages and empty its log."""
        try:
            self.db.execute("VACUUM")
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.DatabaseError as error:
            raise _translate(error, self.path) from error

    def add_consent(self, artist_id: int, consent: Consent) -> int:
        """Record a consent, or find the same one again; call inside `writing`."""
        rows = self.rows(
            "SELECT consent_id FROM consents WHERE artist_id = ? AND ref = ? AND expires_at IS ?",
            [artist_id, consent.ref, consent.expires_at],
        )
        if rows:
            return int(rows[0]["consent_id"])
        row = {"artist_id": artist_id, **asdict(consent), "recorded_at": now()}
        return self.insert("consents", row)

    def holders(self, content_id: str) -> list[str]:
        """Names of the artists that this very recording is enrolled for."""
        rows = self.rows(
            "SELECT a.name FROM artist_references r JOIN artists a USING (artist_id) WHERE r.content_id = ? "
            "ORDER BY a.name",
            [content_id],
        )
        return [row["name"] for row in rows]

    def add_reference(
        self,
        artist_id: int,
        consent_id: int,
        *,
        path: str,
        kept_path: str | None,
        content_id: str,
        duration_s: float,
        voiced_s: float,
        vectors: np.ndarray,
        times: np.ndarray,
        forced: bool,
    ) -> int:
        """Store a reference and its window vectors; call inside `writing`, then `replace_templates`.

        Parameters
        ----------
        vectors : (n_windows, dim) float32
            Unit rows.
        times : (n_windows, 2) float
            Start and end of each window in seconds.
        kept_path : str or None
            Where the copy of the audio lies, relative to the home.

        Raises
        ------
        AlreadyEnrolled
            The artist has this content already.
        """
        row = {
            "artist_id": artist_id,
            "consent_id": consent_id,
            "encoder_id": self.encoder_id,
            "path": path,
            "kept_path": kept_path,
            "content_id": content_id,
            "duration_s": duration_s,
            "voiced_s": voiced_s,
            "forced": int(forced),
            "added_at": now(),
            "n_windows": len(vectors),
            "vectors": _blob(vectors),
            "times": _blob(times),
        }
        try:
            return self.insert("artist_references", row)
        except sqlite3.IntegrityError as error:
            raise AlreadyEnrolled(f"{path}: enrolled already") from error

    def references(self, artist: str | None = None) -> list[Reference]:
        """The references of one artist, or of all, oldest first."""
        where = "" if artist is None else " WHERE a.name = ?"
        rows = self.rows(_REFERENCES + where + " ORDER BY r.reference_id", [] if artist is None else [artist])
        return [Reference(**{**row, "forced": bool(row["forced"])}) for row in rows]

    def reference_windows(self, artist_id: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(reference_id, vectors (n, dim), times (n, 2)) of each of an artist's references, oldest first."""
        rows = self.rows(
            "SELECT reference_id, n_windows, vectors, times, dim FROM artist_references "
            "JOIN encoders USING (encoder_id) WHERE artist_id = ? ORDER BY reference_id",
            [artist_id],
        )
        return [
            (
                row["reference_id"],
                _array(row["vectors"], row["n_windows"], row["dim"]),
                _array(row["times"], row["n_windows"], 2),
            )
            for row in rows
        ]

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
                "vector": _blob(template.vector),
            }
            for template in templates
        )
        self._bump_revision()

    def template_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Every template for the index: ids (n,) int64 and vectors (n, dim) float32."""
        rows = self.rows("SELECT template_id, vector FROM templates ORDER BY template_id")
        record = self.encoder()
        dim = record["dim"] if record else 0
        ids = np.array([row["template_id"] for row in rows], np.int64)
        return ids, _array(b"".join(row["vector"] for row in rows), len(rows), dim)

    def gallery(self, *, without: Sequence[int] = ()) -> Gallery:
        """Every template, grouped by artist, but for the artists with these ids."""
        rows = self.rows(
            "SELECT * FROM templates WHERE artist_id NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY artist_id, template_id",
            [json.dumps(list(without))],
        )
        record = self.encoder()

        def column(name: str, dtype: Any) -> np.ndarray:
            return np.array([row[name] for row in rows], dtype)

        return Gallery(
            vectors=_array(b"".join(row["vector"] for row in rows), len(rows), record["dim"] if record else 0),
            artist_id=column("artist_id", np.int64),
            template_id=column("template_id", np.int64),
            reference_id=column("reference_id", np.int64),
            start_s=column("start_s", np.float64),
            end_s=column("end_s", np.float64),
        )

    def artist_names(self) -> dict[int, str]:
        """Every artist's name by artist_id."""
        return {row["artist_id"]: row["name"] for row in self.rows("SELECT artist_id, name FROM artists")}

    def expired_artists(self) -> dict[int, str]:
        """Names by artist_id of those whose consents have all expired: they are on record, but not matched."""
        rows = self.rows(
            "SELECT artist_id, name FROM artists a WHERE NOT EXISTS "
            "(SELECT 1 FROM consents c WHERE c.artist_id = a.artist_id AND (expires_at IS NULL OR expires_at > ?))",
            [now()],
        )
        return {row["artist_id"]: row["name"] for row in rows}

    def reference_paths(self, reference_ids: Iterable[int]) -> dict[int, str]:
        """Paths by reference_id."""
        # One JSON parameter: no limit on the number of values, and no SQL made of data.
        rows = self.rows(
            "SELECT reference_id, path FROM artist_references WHERE reference_id IN (SELECT value FROM json_each(?))",
            [json.dumps(list(reference_ids))],
        )
        return {row["reference_id"]: row["path"] for row in rows}

    # -- soundness -------------------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What is wrong with the database: SQLite's own checks, then every vector's size and length."""
        found = [row["integrity_check"] for row in self.rows("PRAGMA integrity_check")]
        found = [] if found == ["ok"] else found
        found += [
            f"{row['table']} row {row['rowid']}: points at a {row['parent']} that is gone"
            for row in self.rows("PRAGMA foreign_key_check")
        ]
        record = self.encoder()
        if record is None:
            return found
        dim = record["dim"]
        for row in self.rows("SELECT template_id, vector FROM templates"):
            vector = np.frombuffer(row["vector"], "<f4") if len(row["vector"]) == 4 * dim else None
            if vector is None or not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
                found.append(f"template {row['template_id']}: not a unit vector of {dim} numbers")
        for row in self.rows(
            "SELECT reference_id, n_windows, length(vectors) AS v, length(times) AS t FROM artist_references"
        ):
            if row["v"] != 4 * dim * row["n_windows"] or row["t"] != 8 * row["n_windows"]:
                found.append(
                    f"reference {row['reference_id']}: its vectors are not {row['n_windows']} windows of {dim}"
                )
        found += [
            f"artist {row['name']}: references but no templates"
            for row in self.rows(
                "SELECT name FROM artists a WHERE EXISTS (SELECT 1 FROM artist_references r WHERE r.artist_id = "
                "a.artist_id) AND NOT EXISTS (SELECT 1 FROM templates t WHERE t.artist_id = a.artist_id)"
            )
        ]
        return found


_ARTISTS = """
    SELECT a.artist_id, a.name, a.created_at,
        (SELECT COUNT(*) FROM artist_references r WHERE r.artist_id = a.artist_id) AS n_references,
        (SELECT COUNT(*) FROM templates t WHERE t.artist_id = a.artist_id) AS n_templates,
        (SELECT COALESCE(SUM(voiced_s), 0.0) FROM artist_references r WHERE r.artist_id = a.artist_id) AS voiced_s
    FROM artists a"""

_REFERENCES = """
    SELECT r.reference_id, a.name AS artist, r.path, r.kept_path, r.content_id, r.duration_s, r.voiced_s, r.n_windows,
        c.ref AS consent, c.expires_at AS consent_expires_at, r.forced, r.added_at
    FROM artist_references r JOIN artists a USING (artist_id) JOIN consents c USING (consent_id)"""


def _make_private(home: Path, path: Path) -> None:
    """Make the registry's folder and an empty database, private from the first byte, where there are none."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives -wal and -shm the same mode. Never opened when present: closing a second descriptor of a
        # database drops the locks that this process holds on it (https://sqlite.org/howtocorrupt.html, 2.2).
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise RegistryError(f"{home}: cannot be made a registry ({error.strerror}); choose another --home") from error


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


def _translate(error: sqlite3.DatabaseError, path: Path) -> RegistryError:
    """The registry's own error for one of SQLite's, with the next step."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreBusy(f"{path}: another command has been writing for {BUSY_TIMEOUT_MS // 1000} s; try again")
    if "readonly" in text or "unable to open" in text:
        return RegistryError(f"{path}: cannot be written ({text}); check the folder's owner and mode")
    if "full" in text or "disk I/O" in text:
        return RegistryError(f"{path}: {text}; nothing was changed. Free some space and run the command again")
    if "malformed" in text or "not a database" in text:
        return StoreDamaged(f"{path}: {text}; run `likeness check`, and restore your last backup if it agrees")
    return RegistryError(f"{path}: {type(error).__name__}: {text}")
