"""The registry's database, open: transactions, settings, and what of it is sealed when it is encrypted."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from sqlite_utils import Database

from registry.errors import EncoderMismatch, RegistryError, StoreBusy, StoreDamaged, StoreTooNew
from registry.schema import MIGRATION_NAMES, migrations

if TYPE_CHECKING:
    from registry.vault import ArtistKey, Vault

DATABASE = "registry.db"
#: How long a command waits for another one that is writing, in milliseconds.
BUSY_TIMEOUT_MS = 30_000


def now() -> str:
    """The time as it is stored: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RegistryDatabase:
    """The registry's database, open; `registry.store.Store` is this with what it holds.

    Parameters
    ----------
    home : Path
        The registry's folder (mode 0700); the database is `registry.db` in it.
    create : bool
        Make the folder and the database if they are not there.

    actor : str
        Who is at work, for the audit.

    Raises
    ------
    RegistryError
        No registry there and `create` is false.
    StoreDamaged, StoreTooNew
        The file is not a database, or was written by a newer Likeness.
    """

    def __init__(self, home: Path, *, create: bool = False, actor: str = "") -> None:
        self.home = home
        self.actor = actor
        self._artist_keys: dict[int, ArtistKey] = {}
        self._checked_encoder_id: str | None = None
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
                # Plugins of sqlite-utils are strangers' code, and nothing here needs any.
                self.db = Database(connection, execute_plugins=False)
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

    def __enter__(self) -> Self:
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
                self._forget_stale_keys()
                yield
            except BaseException:
                self.db.rollback()
                raise
            self.db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if self.db.conn.in_transaction:
                self.db.rollback()
            raise _translate(error, self.path) from error

    def empty_log(self, wait_s: float) -> bool:
        """Write the log back into the database and empty it; False where a reader held on to it for so long."""
        try:
            self.db.execute(f"PRAGMA busy_timeout = {round(wait_s * 1000)}").fetchone()
            (is_busy, _, _) = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not is_busy
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                return False
            raise _translate(error, self.path) from error
        finally:
            self.db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}").fetchone()

    def compact(self) -> None:
        """Write the database anew, without the pages that were freed."""
        try:
            self.db.execute("VACUUM")
        except sqlite3.DatabaseError as error:
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
        return list(self.each(sql, parameters))

    def each(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
        """Rows of a query as dicts, one after the other, where all at once would be too many."""
        try:
            yield from self.db.query(sql, parameters)
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

    def is_still_at(self, revision: int) -> bool:
        """Whether that is the revision now, also where a transaction of this store's reads an earlier moment."""
        try:
            with closing(sqlite3.connect(self._uri(), uri=True, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
                (value,) = connection.execute("SELECT value FROM meta WHERE key = 'revision'").fetchone()
        except sqlite3.DatabaseError as error:
            raise _translate(error, self.path) from error
        return int(value) == revision

    def bump_revision(self) -> None:
        """Say that the templates have changed; call inside `writing`."""
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
        """Raise `EncoderMismatch` if the registry's vectors were made with another encoder, now or when read later."""
        if self.encoder_id is not None and self.encoder_id != encoder_id:
            record = self.encoder()
            raise EncoderMismatch(
                f"{self.home}: enrolled with encoder {self.encoder_id[:12]} ({record and record['source']}), "
                f"this one is {encoder_id[:12]}; vectors of different encoders cannot be compared. `likeness reembed` "
                "goes over to another encoder (if that was done meanwhile, give this command again)"
            )
        self._checked_encoder_id = encoder_id

    def current_encoder(self) -> dict[str, Any] | None:
        """The registry's `encoder`, for reading vectors: `EncoderMismatch` where it is not any more the one checked.

        Another process may have gone over to another encoder while this one was embedding a track.
        """
        if self._checked_encoder_id is not None:
            self.check_encoder(self._checked_encoder_id)
        return self.encoder()

    def bind_encoder(self, encoder: Any) -> None:
        """Record `encoder` (an `embeddings` encoder) as the one of this registry; call inside `writing`."""
        self.check_encoder(encoder.encoder_id)
        self.record_encoder(encoder)
        self.set_encoder(encoder.encoder_id)

    def record_encoder(self, encoder: Any) -> None:
        """Record what an encoder is like; call inside `writing`."""
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

    def set_encoder(self, encoder_id: str | None) -> None:
        """Say with which recorded encoder the vectors are made from here on; call inside `writing`."""
        self._checked_encoder_id = encoder_id
        self.db.execute("DELETE FROM meta WHERE key = 'encoder_id'")
        if encoder_id is not None:
            self.insert("meta", {"key": "encoder_id", "value": encoder_id})

    def has_pending_erasures(self) -> bool:
        """Whether a removal was held up by a reader or a crash."""
        return bool(self.rows("SELECT 1 FROM erasures WHERE finished_at IS NULL LIMIT 1"))

    def setting(self, key: str, default: Any = None) -> Any:
        """A value the owner has set, or `default`."""
        rows = self.rows("SELECT value FROM settings WHERE key = ?", [key])
        return json.loads(rows[0]["value"]) if rows else default

    def set_setting(self, key: str, value: Any) -> None:
        """Set a value (anything JSON holds); call inside `writing`."""
        self.db.table("settings").insert({"key": key, "value": json.dumps(value)}, replace=True)

    # -- what is sealed when the registry is encrypted --------------------------------------------------------------

    @property
    def encryption(self) -> dict[str, Any] | None:
        """How the registry is encrypted (version, home_id, source of the master key, registry_key), if it is."""
        rows = self.rows("SELECT value FROM meta WHERE key = 'encryption'")
        return json.loads(rows[0]["value"]) if rows else None

    def set_encryption(self, encryption: dict[str, Any]) -> None:
        """Record how the registry is encrypted; call inside `writing`."""
        self.db.table("meta").insert({"key": "encryption", "value": json.dumps(encryption)}, replace=True)
        self.__dict__.pop("vault", None)
        self._artist_keys.clear()

    @cached_property
    def vault(self) -> Vault | None:
        """The keys of an encrypted registry, found when first needed; None where it is not encrypted.

        Raises
        ------
        RegistryError
            The master key cannot be found, or is another registry's.
        """
        encryption = self._encryption = self.encryption
        if encryption is None:
            return None
        from registry.keys import open_vault

        return open_vault(self.home, encryption)

    def _forget_stale_keys(self) -> None:
        """Look for the keys anew if another process encrypted the registry or rotated its key since they were found.

        What is written would otherwise be plain, or sealed with keys that the new master key does not open.
        """
        if "vault" in self.__dict__ and self.encryption != self._encryption:
            del self.vault
            self._artist_keys.clear()

    def wrapped_keys(self) -> dict[int, bytes]:
        """The artists' keys, encrypted, by artist_id."""
        return {row["artist_id"]: row["wrapped"] for row in self.rows("SELECT artist_id, wrapped FROM artist_keys")}

    def replace_wrapped_keys(self, wrapped: dict[int, bytes]) -> None:
        """Put the artists' keys, encrypted anew, in the place of the present ones; call inside `writing`."""
        self.db.table("artist_keys").upsert_all(
            [{"artist_id": artist_id, "wrapped": key} for artist_id, key in wrapped.items()], pk="artist_id"
        )
        self._artist_keys.clear()

    def seal(self, artist_id: int, data: bytes, what: str) -> bytes:
        """`data` as it is stored for an artist: itself, or sealed with the artist's key."""
        key = self.artist_key(artist_id)
        return data if key is None else key.seal(data, what)

    def unseal(self, artist_id: int, data: bytes, what: str) -> bytes:
        """What `seal` was given."""
        key = self.artist_key(artist_id)
        return data if key is None else key.open(data, what)

    def seal_text(self, artist_id: int, text: str, what: str) -> str:
        """`text` as it is stored for an artist."""
        key = self.artist_key(artist_id)
        return text if key is None else key.seal_text(text, what)

    def unseal_text(self, artist_id: int, text: str, what: str) -> str:
        """What `seal_text` was given."""
        key = self.artist_key(artist_id)
        return text if key is None else key.open_text(text, what)

    def artist_key(self, artist_id: int) -> ArtistKey | None:
        """The key of an artist's data; None where the registry is not encrypted."""
        if self.vault is None:
            return None
        if artist_id not in self._artist_keys:
            wrapped = self.rows("SELECT wrapped FROM artist_keys WHERE artist_id = ?", [artist_id])
            if not wrapped:
                raise StoreDamaged(f"{self.path}: artist {artist_id} has no key")
            self._unwrap_keys({artist_id: wrapped[0]["wrapped"]})
        return self._artist_keys[artist_id]

    def load_artist_keys(self) -> None:
        """Fetch every artist's key at once, before many are needed."""
        if self.vault is not None:
            n_artists = self.rows("SELECT COUNT(*) AS n FROM artist_keys")[0]["n"]
            if n_artists > len(self._artist_keys):
                self._unwrap_keys(self.wrapped_keys())

    def _unwrap_keys(self, wrapped: dict[int, bytes]) -> None:
        for artist_id, key in wrapped.items():
            if artist_id in self._artist_keys:
                continue
            assert self.vault is not None
            try:
                self._artist_keys[artist_id] = self.vault.artist_key(artist_id, key)
            except StoreDamaged:
                del self.vault  # the master key may have been rotated since it was found
                self._artist_keys[artist_id] = self.vault.artist_key(artist_id, key)

    def forget_key(self, artist_id: int) -> None:
        """Drop an artist's key from memory; the one on record is a row."""
        self._artist_keys.pop(artist_id, None)

    def add_artist_key(self, artist_id: int) -> None:
        """Make a new artist's key; call inside `writing`."""
        if self.vault is not None:
            wrapped = self.vault.new_artist_key(artist_id)
            self.db.execute("INSERT INTO artist_keys VALUES (?, ?)", [artist_id, wrapped])


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


def _translate(error: sqlite3.DatabaseError, path: Path) -> RegistryError:
    """The registry's own error for one of SQLite's, with the next step."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return StoreBusy(f"{path}: another command has been writing for {BUSY_TIMEOUT_MS // 1000} s; try again")
    if "readonly" in text or "unable to open" in text:
        return RegistryError(f"{path}: cannot be written ({text}); check the folder's owner and mode")
    if "full" in text or "disk I/O" in text:
        kind = f" ({error.sqlite_errorname})" if "disk I/O" in text else ""  # one of some thirty
        return RegistryError(f"{path}: {text}{kind}; nothing was changed. Free some space and run the command again")
    if "malformed" in text or "not a database" in text:
        return StoreDamaged(f"{path}: {text}; run `likeness check`, and restore your last backup if it agrees")
    return RegistryError(f"{path}: {type(error).__name__}: {text}")
