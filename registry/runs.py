"""Batches and their tracks: the SQL of runs, run_tracks and reports, as functions on an open `Store`.

The tracks of a run are a queue. A process takes a lease on those that it is about to examine, and only while it has the
lease does what it finds count: a track ends once, however many processes go on with the same run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from registry import audit
from registry.errors import RegistryError
from registry.kept_scans import copy_scans
from registry.owner import is_gone
from registry.records import BatchItem, Decision, Run, Scan, path_text
from registry.scans import add_scan
from registry.store import Store, now

#: Seconds that a lease lasts unless it is renewed. Where the owner is known to have ended, it is void before.
LEASE_S = 300.0


def open_run(store: Store, inputs_key: str) -> Run | None:
    """The unfinished run that was started with the same inputs, if there is one."""
    rows = store.rows(
        "SELECT * FROM runs WHERE inputs_key = ? AND finished_at IS NULL ORDER BY run_id DESC LIMIT 1", [inputs_key]
    )
    return Run(**rows[0]) if rows else None


def finished_run(store: Store, inputs_key: str) -> Run | None:
    """The latest finished run that was started with the same inputs, if there is one."""
    rows = store.rows(
        "SELECT * FROM runs WHERE inputs_key = ? AND finished_at IS NOT NULL ORDER BY run_id DESC LIMIT 1", [inputs_key]
    )
    return Run(**rows[0]) if rows else None


def get_run(store: Store, run_id: int) -> Run:
    """One run by its id."""
    rows = store.rows("SELECT * FROM runs WHERE run_id = ?", [run_id])
    if not rows:
        raise RegistryError(f"run {run_id}: there is no such run here")
    return Run(**rows[0])


def start_run(store: Store, run: dict[str, Any], items: Sequence[BatchItem]) -> Run:
    """Write down a new run and everything that it is to examine, in one transaction.

    Where another process has just started one with the same inputs, that one is returned.
    """
    with store.writing():
        if same := open_run(store, run["inputs_key"]):
            return same
        run_id = store.insert("runs", {**run, "started_at": now()})
        store.db.table("run_tracks").insert_all(
            {"run_id": run_id, "position": position, **asdict(item), "extra": json.dumps(item.extra or {})}
            for position, item in enumerate(items)
        )
        audit.append(store, "run.start", {"run_id": run_id, "n_tracks": len(items), **run})
    return get_run(store, run_id)


def pin_run(store: Store, run_id: int, pins: dict[str, Any]) -> None:
    """Pin an unfinished run to another state of the registry."""
    with store.writing():
        store.db.table("runs").update(run_id, pins)


def drop_run(store: Store, run_id: int) -> None:
    """Forget a run and what it decided."""
    with store.writing():
        store.db.execute("DELETE FROM runs WHERE run_id = ?", [run_id])
        audit.append(store, "run.drop", {"run_id": run_id})


def finish_run(store: Store, run_id: int) -> int:
    """Mark a run as done if each of its tracks has an outcome; returns how many have none."""
    with store.writing():
        n_open = run_outcomes(store, run_id).get("open", 0)
        if n_open == 0 and get_run(store, run_id).finished_at is None:
            _finish(store, run_id)
    return n_open


def _finish(store: Store, run_id: int) -> None:
    store.db.table("runs").update(run_id, {"finished_at": now()})
    told = {"run_id": run_id, "outcomes": run_outcomes(store, run_id), "sha256": outcomes_sha256(store, run_id)}
    audit.append(store, "run.finish", told)


def add_decided_run(
    store: Store, run: dict[str, Any], decisions: Sequence[Decision], *, without: Collection[int]
) -> int:
    """Write down a run whose tracks were decided again, and return its id; call inside `store.writing`.

    Its tracks are those of the run that it is decided from, in order; of those that failed nothing is decided, and they
    are copied. That run stays as it is. `finish_decided_run` is to follow.

    Parameters
    ----------
    run : dict
        Columns of `runs` but for its times, `decided_from` among them.
    decisions : sequence of Decision
        One for each scan of that run.
    without : collection of int
        Ids of artists whose matches are not copied.
    """
    run_id = store.insert("runs", {**run, "started_at": now()})
    copied = "position, path, title, isrc, uploader, extra, outcome, reason, kind, scan_id, attempts"
    store.db.execute(
        f"INSERT INTO run_tracks (run_id, {copied}) SELECT ?, {copied} FROM run_tracks WHERE run_id = ?",
        [run_id, run["decided_from"]],
    )
    copies = copy_scans(store, run_id, decisions, without=without)
    store.db.conn.executemany(
        "UPDATE run_tracks SET outcome = ?, reason = ?, scan_id = ? WHERE run_id = ? AND scan_id = ?",
        [(each.verdict, each.reason, copies[each.scan_id], run_id, each.scan_id) for each in decisions],
    )
    return run_id


def finish_decided_run(store: Store, run_id: int, told: dict[str, Any]) -> None:
    """Mark a run that was decided again as done, and say so in the audit; call inside `store.writing`."""
    audit.append(store, "run.decide", {"run_id": run_id, **told})
    _finish(store, run_id)


def outcomes_sha256(store: Store, run_id: int) -> str:
    """One hash over what a run found, for the audit: outcome and reason of every track, in order."""
    digest = hashlib.sha256()
    for row in store.each(
        "SELECT position, outcome, reason, kind FROM run_tracks WHERE run_id = ? ORDER BY position", [run_id]
    ):
        digest.update(json.dumps(list(row.values())).encode())
    return digest.hexdigest()


def run_paths(store: Store, run_id: int) -> set[str]:
    """Paths of everything that a run is to examine."""
    return {row["path"] for row in store.rows("SELECT path FROM run_tracks WHERE run_id = ?", [run_id])}


def run_tracks(store: Store, run_id: int, *, done: bool) -> list[dict[str, Any]]:
    """What a run has examined (`done`), or has left to examine, in order."""
    condition = "IS NOT NULL" if done else "IS NULL"
    rows = store.rows(f"SELECT * FROM run_tracks WHERE run_id = ? AND outcome {condition} ORDER BY position", [run_id])
    return [_item(row) for row in rows]


def run_outcomes(store: Store, run_id: int) -> dict[str, int]:
    """How many tracks of a run ended how; those left are counted as ``open``."""
    rows = store.rows(
        "SELECT COALESCE(outcome, 'open') AS outcome, COUNT(*) AS n FROM run_tracks WHERE run_id = ? GROUP BY 1",
        [run_id],
    )
    return {row["outcome"]: row["n"] for row in rows}


# -- leases ------------------------------------------------------------------------------------------------------------


def take_leases(store: Store, run_id: int, owner: str, n_tracks: int, *, tried: bool) -> list[dict[str, Any]]:
    """Take tracks of a run that have no outcome and that no living process has; call inside `store.writing`.

    Parameters
    ----------
    owner : str
        As `registry.owner.this_process` names one.
    n_tracks : int
        How many at most; the first ones.
    tried : bool
        Take tracks that took a process with them before; otherwise only such that did not.
    """
    store.db.register_function(is_gone)  # for SQLite, so that no more tracks are looked at than are taken
    now_s = time.time()
    rows = store.rows(
        "SELECT * FROM run_tracks WHERE run_id = ? AND outcome IS NULL AND (attempts > 0) = ? "
        "AND (lease_owner IS NULL OR lease_expires_s < ? OR is_gone(lease_owner)) "
        "ORDER BY rowid LIMIT ?",  # as they were listed, and as the index has the open ones
        [run_id, tried, now_s, n_tracks],
    )
    store.db.execute(
        "UPDATE run_tracks SET lease_owner = ?, lease_expires_s = ? "
        "WHERE run_id = ? AND position IN (SELECT value FROM json_each(?))",
        [owner, now_s + LEASE_S, run_id, json.dumps([row["position"] for row in rows])],
    )
    return [_item(row) for row in rows]


def renew_leases(store: Store, run_id: int, owner: str) -> None:
    """Let the leases of a process last from now; those that others have taken over stay theirs."""
    with store.writing():
        store.db.execute(
            "UPDATE run_tracks SET lease_expires_s = ? WHERE run_id = ? AND outcome IS NULL AND lease_owner = ?",
            [time.time() + LEASE_S, run_id, owner],
        )


def release_leases(store: Store, run_id: int, owner: str) -> None:
    """Put back what a process has taken and not finished."""
    with store.writing():
        store.db.execute(
            "UPDATE run_tracks SET lease_owner = NULL, lease_expires_s = NULL "
            "WHERE run_id = ? AND outcome IS NULL AND lease_owner = ?",
            [run_id, owner],
        )


def lease_owners(store: Store, run_id: int) -> list[str]:
    """The processes that are at work on a run."""
    rows = store.rows(
        "SELECT DISTINCT lease_owner FROM run_tracks WHERE run_id = ? AND outcome IS NULL AND lease_expires_s >= ?",
        [run_id, time.time()],
    )
    return [row["lease_owner"] for row in rows if not is_gone(row["lease_owner"])]


def finish_track(store: Store, run_id: int, position: int, owner: str, *, scan: Scan) -> int | None:
    """Record what was decided of a track and return the scan_id; call inside `store.writing`.

    None where `owner` has the track no more: nothing is recorded then, for its outcome is another's to find.
    """
    if not _has_lease(store, run_id, position, owner):
        return None
    scan_id = add_scan(store, scan)
    store.db.execute(
        "UPDATE run_tracks SET outcome = ?, reason = ?, scan_id = ?, lease_owner = NULL, lease_expires_s = NULL "
        "WHERE run_id = ? AND position = ?",
        [scan.verdict, scan.reason, scan_id, run_id, position],
    )
    return scan_id


def fail_track(
    store: Store, run_id: int, position: int, owner: str, *, kind: str, reason: str, attempts: int = 0
) -> bool:
    """Record why a track could not be examined; call inside `store.writing`.

    False, and nothing is recorded, where `owner` has the track no more. `attempts` is how often it took a process with
    it.
    """
    if not _has_lease(store, run_id, position, owner):
        return False
    store.db.execute(
        "UPDATE run_tracks SET outcome = 'failed', reason = ?, kind = ?, attempts = ?, "
        "lease_owner = NULL, lease_expires_s = NULL WHERE run_id = ? AND position = ?",
        [reason, kind, attempts, run_id, position],
    )
    return True


def retry_track(store: Store, run_id: int, position: int, owner: str, *, attempts: int) -> None:
    """Put a track that took a process with it back into the queue; call inside `store.writing`.

    Nothing happens where `owner` has the track no more.
    """
    if _has_lease(store, run_id, position, owner):
        store.db.execute(
            "UPDATE run_tracks SET attempts = ?, lease_owner = NULL, lease_expires_s = NULL "
            "WHERE run_id = ? AND position = ?",
            [attempts, run_id, position],
        )


def _has_lease(store: Store, run_id: int, position: int, owner: str) -> bool:
    return bool(
        store.rows(
            "SELECT 1 FROM run_tracks WHERE run_id = ? AND position = ? AND outcome IS NULL AND lease_owner = ?",
            [run_id, position, owner],
        )
    )


# -- reports -----------------------------------------------------------------------------------------------------------


def add_report(store: Store, run_id: int, path: Path) -> None:
    """Remember that outcomes of a run are written to a file, so that what is removed later can be removed there too."""
    with store.writing():
        row = {"path": path_text(path.resolve()), "run_id": run_id, "written_at": now()}
        store.db.table("reports").insert(row, replace=True)


def _item(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "extra": json.loads(row["extra"])}
