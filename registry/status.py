"""How a registry is, at a glance: nothing here reads more than a few rows, so it may be asked every minute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry import audit
from registry.config import SETTINGS, value_of, value_text
from registry.erasure import STEP_NAMES
from registry.index import INDEX_FORMAT, MAX_HEADER_BYTES
from registry.kept_audio import KEPT_AUDIO
from registry.match import index_path
from registry.records import path_of
from registry.reembed import Preparation, preparation
from registry.store import Store, now


@dataclass(frozen=True)
class UnfinishedRun:
    """A batch that was stopped, or is at work."""

    run_id: int
    started_at: str
    n_tracks: int
    n_left: int


@dataclass(frozen=True)
class PendingRemoval:
    """A removal of which steps are left; the next command goes on with it."""

    erasure_id: int
    kind: str
    requested_at: str
    next_step: str


@dataclass(frozen=True)
class LastBackup:
    """The newest backup; `is_there` says whether its file is where it was written."""

    path: str
    made_at: str
    age_s: float
    is_there: bool


@dataclass(frozen=True)
class Status:
    """How a registry is.

    Attributes
    ----------
    n_artists_active, n_artists_pending, n_artists_waiting, n_artists_not_matched : int
        Those who are matched; those of whom no reference is approved yet; those of whom every reference waits for its
        recording; those without a consent in force.
    preparation : Preparation or None
        Another encoder, if the registry is going over to one.
    index : {"fresh", "stale", "missing", "damaged", "not needed"}
        By its header alone: whether its content is whole is seen when it is used. Not needed while nobody is enrolled.
    last_finished_run : int or None
    settings : dict
        Those of `likeness config`.
    database_bytes : int
        With its log.
    free_bytes : int
        On the home's file system.
    """

    home: str
    encoder: str | None
    encoder_id: str | None
    encrypted: bool
    revision: int
    n_artists_active: int
    n_artists_pending: int
    n_artists_waiting: int
    n_artists_not_matched: int
    n_references: int
    n_references_pending: int
    n_references_waiting: int
    n_templates: int
    preparation: Preparation | None
    index: str
    last_finished_run: int | None
    last_finished_at: str | None
    unfinished_runs: tuple[UnfinishedRun, ...]
    pending_removals: tuple[PendingRemoval, ...]
    last_backup: LastBackup | None
    settings: dict[str, bool | int | None]
    database_bytes: int
    index_bytes: int
    kept_audio_bytes: int
    free_bytes: int
    audit_seq: int
    audit_hash: str


def registry_status(store: Store) -> Status:
    """How the registry is; needs no key, and is of one moment."""
    with store.reading():
        encoder, head = store.encoder() or {}, audit.head_of(store)
        encoder_id = encoder.get("encoder_id")
        finished = store.rows(
            "SELECT run_id, finished_at FROM runs WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1"
        )
        return Status(
            home=str(store.home),
            encoder=encoder.get("source"),
            encoder_id=encoder_id,
            encrypted=store.encryption is not None,
            revision=store.revision,
            **_artist_counts(store),
            n_references=_count(store, "artist_references"),
            n_references_pending=_count(
                store, "artist_references WHERE status = 'pending' AND encoder_id = ?", encoder_id
            ),
            n_references_waiting=_count(store, "artist_references WHERE encoder_id != ?", encoder_id),
            n_templates=_count(store, "templates"),
            preparation=preparation(store),
            index=_index_state(store),
            last_finished_run=finished[0]["run_id"] if finished else None,
            last_finished_at=finished[0]["finished_at"] if finished else None,
            unfinished_runs=_unfinished_runs(store),
            pending_removals=_pending_removals(store),
            last_backup=_last_backup(store),
            settings={key: value_of(store, setting) for key, setting in SETTINGS.items()},
            database_bytes=_size([store.path, store.path.with_name(f"{store.path.name}-wal")]),
            index_bytes=_size([index_path(store.home)]),
            kept_audio_bytes=_size((store.home / KEPT_AUDIO).glob("*")),
            free_bytes=shutil.disk_usage(store.home).free,
            audit_seq=head.seq,
            audit_hash=head.hash,
        )


def status_lines(status: Status) -> list[tuple[str, str]]:
    """A status for a person, as (what, state)."""
    backup = status.last_backup
    finished = status.last_finished_run
    waiting = f"{status.n_artists_waiting} waiting for their recordings, " if status.n_artists_waiting else ""
    artists = (
        f"{status.n_artists_active} active, {status.n_artists_pending} pending, {waiting}"
        f"{status.n_artists_not_matched} not matched for want of a consent"
    )
    n_waiting = {"approval": status.n_references_pending, "their recordings": status.n_references_waiting}
    waits = ", ".join(f"{n} wait for {what}" for what, n in n_waiting.items() if n)
    last_backup = "none; `likeness backup` makes one"
    if backup is not None:
        gone = "" if backup.is_there else ", and is not there any more"
        last_backup = f"{backup.path}, made {age_text(backup.age_s)} ago{gone}"
    encoder = "none yet" if status.encoder is None else f"{status.encoder}, {(status.encoder_id or '')[:12]}"
    return [
        ("home", status.home),
        ("artists", artists),
        ("references", f"{status.n_references}{waits and f' ({waits})'}, {status.n_templates} templates"),
        ("revision", str(status.revision)),
        ("encoder", encoder),
        *(
            (
                "going over to",
                f"{one.source}, {one.encoder_id[:12]}: {one.n_left} of {one.n_made + one.n_left} references left",
            )
            for one in [status.preparation]
            if one is not None
        ),
        ("encrypted", "yes" if status.encrypted else "no"),
        ("index", status.index),
        ("last finished run", "none" if finished is None else f"{finished}, at {status.last_finished_at}"),
        *(
            ("unfinished run", f"{run.run_id}, begun at {run.started_at}: {run.n_left} of {run.n_tracks} tracks left")
            for run in status.unfinished_runs
        ),
        *(
            ("pending removal", f"{one.erasure_id}, of {one.requested_at}: {one.next_step}")
            for one in status.pending_removals
        ),
        ("last backup", last_backup),
        *((key, value_text(value)) for key, value in status.settings.items()),
        (
            "disk",
            f"database {size_text(status.database_bytes)}, index {size_text(status.index_bytes)}, "
            f"kept audio {size_text(status.kept_audio_bytes)}; {size_text(status.free_bytes)} free",
        ),
        ("audit", f"entry {status.audit_seq}, {status.audit_hash}"),
    ]


def size_text(n_bytes: int) -> str:
    """Bytes for a person, in powers of 1000: ``3.2 MB``."""
    for exponent, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if n_bytes >= 1000**exponent:
            return f"{n_bytes / 1000**exponent:.1f} {unit}"
    return f"{n_bytes} bytes"


def age_text(age_s: float) -> str:
    """A length of time for a person: ``5 hours``."""
    for unit, length_s in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if age_s >= 2 * length_s:
            return f"{age_s / length_s:.0f} {unit}"
    return f"{age_s:.0f} seconds"


def _count(store: Store, table: str, *given: str | None) -> int:
    return int(store.rows(f"SELECT COUNT(*) AS n FROM {table}", given)[0]["n"])


def _artist_counts(store: Store) -> dict[str, int]:
    not_matched = set(store.without_consent())
    rows = store.rows(
        "SELECT artist_id, EXISTS (SELECT 1 FROM artist_references r WHERE r.artist_id = a.artist_id "
        "AND r.status = 'active' AND r.encoder_id = e.value) AS is_active, "
        "EXISTS (SELECT 1 FROM artist_references r WHERE r.artist_id = a.artist_id AND r.encoder_id != e.value) "
        "AS has_waiting FROM artists a LEFT JOIN meta e ON e.key = 'encoder_id' WHERE merged_into IS NULL"
    )
    rows = [row for row in rows if row["artist_id"] not in not_matched]
    n_active = sum(row["is_active"] for row in rows)
    n_waiting = sum(row["has_waiting"] and not row["is_active"] for row in rows)
    return {
        "n_artists_active": n_active,
        "n_artists_pending": len(rows) - n_active - n_waiting,
        "n_artists_waiting": n_waiting,
        "n_artists_not_matched": len(not_matched),
    }


def _index_state(store: Store) -> str:
    if store.encoder_id is None:
        return "not needed"
    try:
        with index_path(store.home).open("rb") as file:
            header: Any = json.loads(file.readline(MAX_HEADER_BYTES))
        state = header["format"], header["store_revision"], header["encoder_id"]
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"
    return "fresh" if state == (INDEX_FORMAT, store.revision, store.encoder_id) else "stale"


def _unfinished_runs(store: Store) -> tuple[UnfinishedRun, ...]:
    rows = store.rows(
        "SELECT run_id, started_at, COUNT(t.position) AS n_tracks, COUNT(t.position) - COUNT(t.outcome) AS n_left "
        "FROM runs LEFT JOIN run_tracks t USING (run_id) WHERE finished_at IS NULL GROUP BY run_id ORDER BY run_id"
    )
    return tuple(UnfinishedRun(**row) for row in rows)


def _pending_removals(store: Store) -> tuple[PendingRemoval, ...]:
    rows = store.rows(
        "SELECT erasure_id, kind, requested_at, pending FROM erasures WHERE finished_at IS NULL ORDER BY 1"
    )
    removals = []
    for row in rows:
        steps = json.loads(row.pop("pending")).get("steps", [])
        removals.append(PendingRemoval(**row, next_step=STEP_NAMES[steps[0]] if steps else "writing the receipt"))
    return tuple(removals)


def _last_backup(store: Store) -> LastBackup | None:
    rows = store.rows("SELECT path, made_at FROM backups ORDER BY made_at DESC, rowid DESC LIMIT 1")
    if not rows:
        return None
    path, made_at = rows[0]["path"], rows[0]["made_at"]
    age_s = (_time(now()) - _time(made_at)).total_seconds()
    return LastBackup(path, made_at, age_s, path_of(path).is_file())


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
