"""The registry as one file that is kept elsewhere, and the way back, in which nobody who was removed comes along.

A backup is a copy of the database as it was at one moment, with the kept audio in table `kept_audio_parts`. A restore
prepares the whole registry in a scratch folder, removes from it again what was removed since, and only then puts it in
the place of the present one, in one transaction: there is no moment at which somebody sees the one without the other.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from registry import audit
from registry.erasure import replay
from registry.errors import RegistryError, StoreBusy, StoreDamaged, StoreTooNew
from registry.files import sync_directory
from registry.kept_audio import KEPT_AUDIO, audio_locked
from registry.records import path_of, path_text
from registry.schema import MIGRATION_NAMES
from registry.scratch import delete_abandoned, scratch_folder
from registry.store import DATABASE, Store, now

#: Bytes of a kept recording in each row: SQLite holds a whole row in memory.
PART_BYTES = 8 * 2**20
#: Pages between two looks at Ctrl-C and the bar; fewer than any registry has, so that there is always a first look.
PAGES_AT_ONCE = 16
#: How long a restore waits for readers before it leaves the emptying of the database's log to a later command.
LOG_WAIT_S = 1.0

#: Takes pages copied and pages in all.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Backup:
    """A backup that was made.

    Attributes
    ----------
    n_missing : int
        Kept recordings that the database names and the home does not have.
    dropped : tuple of str
        Older backups that were deleted.
    """

    path: str
    made_at: str
    n_bytes: int
    n_kept_audio: int
    n_missing: int
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What a restore changes, counted once everything removed is out of the backup.

    Attributes
    ----------
    made_at : str or None
        When the backup was made; None of a bare copy of a database.
    n_erased_again : int
        What was removed since, and was in the backup.
    n_artists_lost, n_scans_lost : int
        On record now and not in the backup.
    n_artists_back, n_scans_back : int
        In the backup and not on record now.
    loses_encryption : bool
        The registry is encrypted and the backup is not.
    """

    made_at: str | None
    n_artists: int
    n_scans: int
    n_erased_again: int
    n_missing_audio: int
    n_artists_lost: int
    n_artists_back: int
    n_scans_lost: int
    n_scans_back: int
    loses_encryption: bool


def back_up(
    store: Store,
    path: Path,
    *,
    force: bool = False,
    keep: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Backup:
    """Write the registry to one new file, as it is at one moment, while others go on writing.

    Parameters
    ----------
    path : Path
        The file, outside the home, in a folder that is there.
    force : bool
        Write over a file that is there.
    keep : int, optional
        Delete the oldest backups of this registry in the same folder, so that so many are left.

    Raises
    ------
    RegistryError
        The file is there, lies in the home or cannot be written; nothing is left of it.
    StoreDamaged
        The copy, and so the registry, is not sound.
    """
    path = path.absolute()
    _check_target(store, path, force)
    made_at = now()
    # Before the copy: a removal that comes in between must know of it.
    with store.writing():
        row_id = store.insert("backups", {"path": path_text(path), "made_at": made_at})
    try:
        with _refusals(f"{path}: no backup was written"), scratch_folder(path.parent) as scratch:
            delete_abandoned(store.home)  # what is left of a restore that was killed
            copy = scratch / path.name
            n_kept, n_missing = _write_copy(store, copy, on_progress)
            n_bytes = copy.stat().st_size
            _check_target(store, path, force)
            copy.replace(path)
            sync_directory(path.parent)
    except BaseException:
        with store.writing():
            store.db.execute("DELETE FROM backups WHERE rowid = ?", [row_id])
        raise
    with store.writing():
        store.db.execute("DELETE FROM backups WHERE path = ? AND rowid != ?", [path_text(path), row_id])
        audit.append(store, "registry.backup", {"path": path_text(path), "made_at": made_at})
    dropped = () if keep is None else _drop_oldest(store, path.parent, keep)
    return Backup(path_text(path), made_at, n_bytes, n_kept, n_missing, dropped)


def _check_target(store: Store, path: Path, force: bool) -> None:
    if path.resolve().is_relative_to(store.home.resolve()):
        raise RegistryError(
            f"{path}: lies in the registry's folder, and would be lost with it; choose a place outside {store.home}"
        )
    if not path.parent.is_dir():
        raise RegistryError(f"{path}: there is no folder {path.parent}; make it, with mode 0700")
    if os.path.lexists(path) and not (force and path.is_file()):
        raise RegistryError(f"{path}: is there already; choose another name, or --force to write over it")


def _write_copy(store: Store, copy: Path, on_progress: OnProgress) -> tuple[int, int]:
    """Write the database and the kept audio to a new file; returns how many recordings, and how many are missing."""
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(copy)) as target:
        # Without memory shared between processes, which a network file system has not.
        target.execute("PRAGMA locking_mode = EXCLUSIVE")
        # In a transaction, that is from one moment: without one, SQLite begins again each time that somebody writes,
        # and under a batch never ends.
        with store.reading():
            store.rows("SELECT 1 FROM meta")
            store.db.conn.backup(target, pages=PAGES_AT_ONCE, progress=_follow(on_progress))
        target.execute("PRAGMA journal_mode = DELETE")  # one file, wherever it is opened
        target.execute(
            "CREATE TABLE kept_audio_parts (kept_path TEXT NOT NULL, part INTEGER NOT NULL, bytes BLOB NOT NULL, "
            "PRIMARY KEY (kept_path, part)) STRICT"
        )
        kept_paths = _kept_paths(target)
        n_missing = sum(not _add_audio(target, store.home, kept_path) for kept_path in kept_paths)
        if problem := _first_problem(target):
            raise StoreDamaged(f"{store.path}: {problem}; no backup was made of it. Restore the last sound one")
    _sync(copy)
    return len(kept_paths) - n_missing, n_missing


def _follow(on_progress: OnProgress) -> Callable[[int, int, int], None]:
    """What SQLite calls after each step of a copy from one database to another."""

    def after_step(status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # it has waited for its turn, and would go on so
            raise sqlite3.OperationalError("database is locked")
        on_progress(total - remaining, total)

    return after_step


def _kept_paths(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT DISTINCT kept_path FROM artist_references WHERE kept_path IS NOT NULL ORDER BY 1")
    return [kept_path for (kept_path,) in rows]


def _add_audio(target: sqlite3.Connection, home: Path, kept_path: str) -> bool:
    """Put a kept recording into a backup; False if it is not there."""
    try:
        file = (home / kept_path).open("rb")
    except FileNotFoundError:
        return False
    with file, target:
        part = 0
        while piece := file.read(PART_BYTES):
            target.execute("INSERT INTO kept_audio_parts VALUES (?, ?, ?)", [kept_path, part, piece])
            part += 1
    return True


def _first_problem(connection: sqlite3.Connection) -> str | None:
    """What SQLite's own checks find first."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return str(found)
    broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    return None if broken is None else f"{broken[0]} row {broken[1]} points at a {broken[2]} that is gone"


def _drop_oldest(store: Store, folder: Path, keep: int) -> tuple[str, ...]:
    """Delete this registry's oldest backups in a folder but for so many; only files that are on record as such."""
    rows = store.rows("SELECT rowid, path FROM backups ORDER BY made_at DESC, rowid DESC")
    # Not those that were written down and never made, because the process was killed.
    made = [row for row in rows if path_of(row["path"]).parent == folder and path_of(row["path"]).exists()]
    old = made[keep:]
    for row in old:
        try:
            path_of(row["path"]).unlink(missing_ok=True)
        except OSError as error:
            raise RegistryError(
                f"{row['path']}: cannot be deleted ({error.strerror}); the new backup is made"
            ) from error
        with store.writing():
            store.db.execute("DELETE FROM backups WHERE rowid = ?", [row["rowid"]])
    return tuple(row["path"] for row in old)


# -- restore -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A backup, ready to be put in the place of a registry.

    Attributes
    ----------
    folder : Path
        A home in all but name: database and kept audio.
    revision : int
        Its store revision, which no state of either registry had.
    watch : sqlite3.Connection
        On the present database, with what `data_version` it had before anything was read of it.
    """

    path: Path
    folder: Path
    revision: int
    comparison: Comparison
    watch: sqlite3.Connection
    data_version: int


@contextmanager
def prepared_restore(
    store: Store,
    path: Path,
    receipts: Sequence[dict[str, Any]] = (),
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> Iterator[Prepared]:
    """Make a backup ready to be restored, in a scratch folder of the home that is gone afterwards.

    Parameters
    ----------
    store : Store
        The present registry; nothing of it changes.
    path : Path
        What `back_up` wrote, or a copy of a registry's database.
    receipts : sequence of dict
        Receipts of removals that the present registry does not know of, as `erasure.receipts` gives them.

    Raises
    ------
    RegistryError
        `path` is not the backup of a registry, or is damaged, or cannot be copied here, or its key is not to be had.
    StoreTooNew
        It is from a later Likeness.
    """
    with ExitStack() as at_end:
        with _refusals(f"{path}: not restored into {store.home}"):
            folder = at_end.enter_context(scratch_folder(store.home))
            watch = at_end.enter_context(closing(sqlite3.connect(store.path)))
            data_version = _data_version(watch)
            made_at = _unpack(path, folder, on_progress)
            with Store(folder, actor=store.actor) as copy:
                if copy.encryption is not None:
                    from registry.keys import find_master

                    find_master(store.home, copy.encryption)  # here, so that a refusal names the home
                n_erased, revision = _bring_up_to_date(copy, store, path, receipts)
                n_missing = _sort_audio(copy)
                loses_encryption = store.encryption is not None and copy.encryption is None
            _compact(folder / DATABASE, store)
            comparison = Comparison(
                made_at=made_at,
                n_erased_again=n_erased,
                n_missing_audio=n_missing,
                loses_encryption=loses_encryption,
                **_count_differences(store, folder / DATABASE),
            )
        yield Prepared(path, folder, revision, comparison, watch, data_version)


def put_in_place(store: Store, prepared: Prepared, *, on_progress: OnProgress = lambda done, total: None) -> None:
    """Put a prepared backup in the place of the registry, in one transaction; close `store` afterwards.

    The index is that of the registry before, and unusable: write it anew.

    Raises
    ------
    StoreBusy
        Somebody wrote to the registry since the backup was prepared, or is writing; nothing was changed.
    """
    with audio_locked(store.home):
        _put_in_place(store, prepared, on_progress)
    store.empty_log(LOG_WAIT_S)


def _put_in_place(store: Store, prepared: Prepared, on_progress: OnProgress) -> None:
    replaced = set(_kept_paths(store.db.conn))
    moved: list[Path] = []
    try:
        with _refusals(f"{prepared.path}: not restored into {store.home}"):
            for kept in sorted((prepared.folder / KEPT_AUDIO).glob("*")):
                place = store.home / KEPT_AUDIO / kept.name
                if not place.exists():
                    place.parent.mkdir(mode=0o700, exist_ok=True)
                    moved.append(place)
                    kept.rename(place)
            if moved:
                sync_directory(store.home / KEPT_AUDIO)
            _install(store, prepared, on_progress)
    except BaseException:
        # Also a Ctrl-C that came just after the database was in place; what is in there tells.
        if store.revision != prepared.revision:
            for place in moved:
                place.unlink(missing_ok=True)
        raise
    for kept in (prepared.folder / KEPT_AUDIO).glob("*"):  # of a name that was there: as the backup has it
        kept.replace(store.home / KEPT_AUDIO / kept.name)
    for kept_path in replaced - set(_kept_paths(store.db.conn)):
        (store.home / kept_path).unlink(missing_ok=True)


def read_receipts(path: Path) -> list[dict[str, Any]]:
    """The receipts in a file that `likeness receipts` wrote, as JSON or JSON lines."""
    try:
        text = path.read_text(encoding="utf-8")
        try:
            found = json.loads(text)
        except ValueError:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        receipts = found if isinstance(found, list) else [found]
        for receipt in receipts:
            if not all(isinstance(receipt[name], str) for name in ("kind", "subject", "salt", "requested_at")):
                raise ValueError
    except OSError as error:
        raise RegistryError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError(f"{path}: holds no receipts of removals; `likeness receipts` writes them") from error
    return receipts


def _unpack(path: Path, folder: Path, on_progress: OnProgress) -> str | None:
    """Copy a backup's database and kept audio into a folder, checked; returns when it was made."""
    if not path.is_file():
        raise RegistryError(f"{path}: is not a file")
    # Opened so that nothing is made beside it, unless it is the database of a registry that is in use.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    database = folder / DATABASE
    os.close(os.open(database, os.O_CREAT | os.O_EXCL, 0o600))
    with (
        closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)) as source,
        closing(sqlite3.connect(database)) as copy,
    ):
        _check_migrations(source, path)
        source.backup(copy, pages=PAGES_AT_ONCE, progress=_follow(on_progress))
        copy.execute("PRAGMA journal_mode = DELETE")
        if problem := _first_problem(copy):
            raise RegistryError(f"{path}: damaged ({problem}); nothing was changed. Restore another backup")
        for kept_path in _kept_paths(copy):
            _check_kept_path(path, kept_path)
        if not copy.execute("SELECT 1 FROM sqlite_schema WHERE name = 'kept_audio_parts'").fetchall():
            return None
        _write_audio(copy, path, folder)
        copy.execute("DROP TABLE kept_audio_parts")
        (made_at,) = copy.execute("SELECT MAX(made_at) FROM backups").fetchone()
        return str(made_at)


def _check_migrations(source: sqlite3.Connection, path: Path) -> None:
    """Raise for what is not a registry's database, or one that this release cannot take."""
    try:
        applied = {
            name for (name,) in source.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'likeness'")
        }
    except sqlite3.DatabaseError as error:
        raise RegistryError(f"{path}: is not the backup of a registry ({error})") from error
    if newer := sorted(applied - MIGRATION_NAMES):
        raise StoreTooNew(
            f"{path}: written by a newer Likeness (it has {newer[-1]}); upgrade with `pip install --upgrade likeness`"
        )
    if "m002_trust" not in applied:  # its artists have no uid by which they could be removed again
        raise RegistryError(
            f"{path}: of a Likeness that had no backups, and cannot be restored over another registry; put it into a "
            f"folder of its own as {DATABASE} and name that with --home"
        )


def _check_kept_path(path: Path, kept_path: str) -> None:
    """Raise for a path that a made-up backup could write elsewhere with."""
    parts = PurePosixPath(kept_path).parts
    if len(parts) != 2 or parts[0] != KEPT_AUDIO or parts[1] == ".." or str(PurePosixPath(kept_path)) != kept_path:
        raise RegistryError(f"{path}: names a kept recording that lies elsewhere ({kept_path!a}); is it yours?")


def _write_audio(copy: sqlite3.Connection, path: Path, folder: Path) -> None:
    """Write the kept audio of a backup as files."""
    for (kept_path,) in copy.execute("SELECT DISTINCT kept_path FROM kept_audio_parts ORDER BY 1").fetchall():
        _check_kept_path(path, kept_path)
        kept = folder / kept_path
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        with open(kept, "xb", opener=_private) as file:
            for (piece,) in copy.execute(
                "SELECT bytes FROM kept_audio_parts WHERE kept_path = ? ORDER BY part", [kept_path]
            ):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def _bring_up_to_date(copy: Store, store: Store, path: Path, receipts: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Carry over what must outlast a restore; returns how many removals were replayed, and the restored revision."""
    try:
        erasures, withdrawn, backups, sequences, counters = map(store.rows, _OUTLASTING)
        replaced = audit.head_of(store)
    except StoreDamaged as error:
        raise StoreDamaged(
            f"{error}. To restore all the same, move {DATABASE} and its -wal away and give --receipts, for what was "
            "removed since the backup is on record in neither"
        ) from error
    # What was removed before the backup and is in it was enrolled or scanned again since, and stays.
    done = set(map(_subject_of, copy.rows("SELECT kind, subject FROM erasures")))
    known = done.union(map(_subject_of, erasures))
    erasures += {_subject_of(item): _erasure_of(item) for item in receipts if _subject_of(item) not in known}.values()
    # No number is given out twice, which a process that was at work all the while could take for the other; before the
    # replay, which gives some out.
    with copy.writing():
        _execute_each(copy, _RAISE_SEQUENCE, sequences)
        _execute_each(copy, _ADD_SEQUENCE, sequences)
    n_erased = replay(copy, [row for row in erasures if _subject_of(row) not in done])
    with copy.writing():
        _execute_each(copy, _WITHDRAW, withdrawn)
        _execute_each(copy, _ADD_BACKUP, backups)
        _execute_each(copy, _RAISE_COUNTER, counters)
        _merge_erasures(copy, erasures)
        event = {"backup": path_text(path.absolute()), "replaced": vars(replaced), "removed_again": n_erased}
        audit.append(copy, "registry.restore", event)
    return n_erased, copy.revision


def _execute_each(copy: Store, sql: str, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        copy.db.execute(sql, row)


#: What is read of the present registry, to be carried over into the restored one.
_OUTLASTING = (
    "SELECT * FROM erasures",
    "SELECT withdrawn_at, consent_id, recorded_at, uid FROM consents JOIN artists USING (artist_id) "
    "WHERE withdrawn_at IS NOT NULL",
    "SELECT path, made_at FROM backups",
    "SELECT name, seq FROM sqlite_sequence",
    # What an index file, a run or a process at work may know the registry's state by.
    "SELECT key, CAST(value AS INTEGER) AS value FROM meta WHERE key IN ('revision', 'rights')",
)
_RAISE_SEQUENCE = "UPDATE sqlite_sequence SET seq = MAX(seq, :seq) WHERE name = :name"
_ADD_SEQUENCE = (
    "INSERT INTO sqlite_sequence (name, seq) SELECT :name, :seq "
    "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :name)"
)
_WITHDRAW = (
    "UPDATE consents SET withdrawn_at = :withdrawn_at WHERE withdrawn_at IS NULL AND consent_id = :consent_id "
    "AND recorded_at = :recorded_at AND artist_id IN (SELECT artist_id FROM artists WHERE uid = :uid)"
)
_ADD_BACKUP = (
    "INSERT INTO backups SELECT :path, :made_at "
    "WHERE NOT EXISTS (SELECT 1 FROM backups WHERE path = :path AND made_at = :made_at)"
)
_RAISE_COUNTER = "UPDATE meta SET value = CAST(1 + MAX(CAST(value AS INTEGER), :value) AS TEXT) WHERE key = :key"


def _erasure_of(receipt: dict[str, Any]) -> dict[str, Any]:
    """The row of table `erasures` that a receipt was made from."""
    told = ("removed", "by", "not_reached", "also", "verified", "audit_head")  # nothing else: a name may be in it
    return {
        **{name: receipt[name] for name in ("kind", "subject", "salt", "requested_at")},
        "finished_at": receipt.get("finished_at") or now(),
        "pending": "{}",
        "receipt": json.dumps({key: receipt[key] for key in told if key in receipt}),
    }


def _subject_of(erasure: dict[str, Any]) -> tuple[str, str]:
    return erasure["kind"], erasure["subject"]


def _merge_erasures(copy: Store, erasures: Sequence[dict[str, Any]]) -> None:
    """Put the present records of removals beside the backup's own, in the place of those that the replay made."""
    taken = set(map(_subject_of, erasures))
    others = [row for row in copy.rows("SELECT * FROM erasures") if _subject_of(row) not in taken]
    ids = {row.get("erasure_id") for row in erasures}
    copy.db.execute("DELETE FROM erasures")
    for row in erasures:
        copy.insert("erasures", row)
    for row in others:
        if row["erasure_id"] in ids:
            del row["erasure_id"]  # it gets another
        copy.insert("erasures", row)


def _sort_audio(copy: Store) -> int:
    """Delete kept audio that no reference names; returns how many references lack theirs."""
    named = set(_kept_paths(copy.db.conn))
    present = {str(path.relative_to(copy.home)) for path in (copy.home / KEPT_AUDIO).glob("*")}
    for kept_path in present - named:
        (copy.home / kept_path).unlink()
    return len(named - present)


def _compact(database: Path, store: Store) -> None:
    """Write a prepared database anew without free pages, in pages of the size of those that it is to replace."""
    (page_bytes,) = store.db.execute("PRAGMA page_size").fetchone()
    with closing(sqlite3.connect(database)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute(f"PRAGMA page_size = {page_bytes:d}")
        copy.execute("VACUUM")


def _count_differences(store: Store, database: Path) -> dict[str, int]:
    store.db.execute("ATTACH DATABASE ? AS restored", [str(database)])
    try:
        (row,) = store.rows(
            f"""
            SELECT
                (SELECT COUNT(*) FROM restored.artists WHERE merged_into IS NULL) AS n_artists,
                (SELECT COUNT(*) FROM restored.scans) AS n_scans,
                {_missing_artists("main", "restored")} AS n_artists_lost,
                {_missing_artists("restored", "main")} AS n_artists_back,
                {_missing_scans("main", "restored")} AS n_scans_lost,
                {_missing_scans("restored", "main")} AS n_scans_back
            """
        )
    finally:
        store.db.execute("DETACH DATABASE restored")
    return row


def _missing_artists(there: str, here: str) -> str:
    return (
        f"(SELECT COUNT(*) FROM {there}.artists WHERE merged_into IS NULL "
        f"AND uid NOT IN (SELECT uid FROM {here}.artists))"
    )


def _missing_scans(there: str, here: str) -> str:
    return (
        f"(SELECT COUNT(*) FROM {there}.scans t WHERE NOT EXISTS (SELECT 1 FROM {here}.scans h "
        "WHERE h.scan_id = t.scan_id AND h.scanned_at = t.scanned_at AND h.path = t.path))"
    )


def _install(store: Store, prepared: Prepared, on_progress: OnProgress) -> None:
    """Copy a prepared database over the registry's, in one transaction, unless that has changed since."""
    follow = _follow(on_progress)
    begun = False

    def after_step(status: int, remaining: int, total: int) -> None:
        nonlocal begun
        follow(status, remaining, total)
        # From the first step on SQLite holds the lock to write: what has not changed by now changes no more.
        if not begun and _data_version(prepared.watch) != prepared.data_version:
            raise StoreBusy(
                f"{store.home}: another command wrote to the registry while the restore was prepared; nothing was "
                "changed. Stop it and restore again"
            )
        begun = True

    with closing(sqlite3.connect(prepared.folder / DATABASE)) as source:
        source.backup(store.db.conn, pages=PAGES_AT_ONCE, progress=after_step)


def _data_version(connection: sqlite3.Connection) -> int:
    """A number that changes whenever another connection has written to this one's database."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


# -- shared ------------------------------------------------------------------------------------------------------------


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn what SQLite and the file system refuse into our own error, which begins with `what`."""
    try:
        yield
    except OSError as error:
        raise RegistryError(f"{what} ({error.strerror or error}); nothing was changed") from error
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise StoreBusy(f"{what}: another command is writing; nothing was changed. Try again later") from error
        hint = ". Free some space" if "full" in str(error) or "disk I/O" in str(error) else ""
        raise RegistryError(f"{what} ({error}); nothing was changed{hint}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
