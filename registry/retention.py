"""How long what is kept of strangers' tracks stays."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from registry import audit
from registry.config import MAX_DAYS, flagged_retention_days, retention_days
from registry.errors import RegistryError
from registry.store import Store


def purge(
    store: Store, *, days: int | None = None, flagged_days: int | None = None, dry_run: bool = False
) -> dict[str, int]:
    """Delete what is kept of tracks that were examined longer ago than the owner wants it kept.

    Parameters
    ----------
    days, flagged_days : int, optional
        Instead of the settings `retention-days` and `flagged-retention-days`: for tracks that were clear, abstained or
        failed, and for those that were ever flagged.
    dry_run : bool
        Only count.

    Returns
    -------
    dict
        How many tracks, scans and rows of runs go, or went.

    Raises
    ------
    RegistryError
        Neither is set nor given.
    """
    days = retention_days(store) if days is None else days
    flagged_days = flagged_retention_days(store) if flagged_days is None else flagged_days
    if days is None and flagged_days is None:
        raise RegistryError(
            "no retention is set, so nothing is deleted; `likeness config set retention-days 90` sets one, "
            "`likeness purge --older-than 90` goes without"
        )
    with store.writing():
        tracks = [*_old_tracks(store, days, flagged=False), *_old_tracks(store, flagged_days, flagged=True)]
        store.db.execute("CREATE TEMP TABLE old_tracks (track_id INTEGER PRIMARY KEY)")
        store.db.execute("INSERT INTO old_tracks SELECT value FROM json_each(?)", [json.dumps(tracks)])
        old_scans = "SELECT scan_id FROM scans WHERE track_id IN (SELECT track_id FROM old_tracks)"
        # Rows of runs without a scan are tracks that failed; as old as their run, once it is finished, or as the one
        # that it was decided from.
        old_rows = (
            f"run_tracks WHERE scan_id IN ({old_scans}) OR (outcome = 'failed' AND run_id IN ("
            "WITH RECURSIVE old_runs (run_id) AS (SELECT run_id FROM runs WHERE COALESCE(finished_at, started_at) < ? "
            "UNION SELECT r.run_id FROM runs r JOIN old_runs o ON r.decided_from = o.run_id) "
            "SELECT run_id FROM old_runs))"
        )
        before = "" if days is None else _days_ago(days)
        counts = {
            "tracks": len(tracks),
            "scans": store.rows(f"SELECT COUNT(*) AS n FROM ({old_scans})")[0]["n"],
            "run_tracks": store.rows(f"SELECT COUNT(*) AS n FROM {old_rows}", [before])[0]["n"],
        }
        if not dry_run and any(counts.values()):
            store.db.execute(f"DELETE FROM {old_rows}", [before])
            store.db.execute("DELETE FROM tracks WHERE track_id IN (SELECT track_id FROM old_tracks)")
            store.db.execute(
                "DELETE FROM runs WHERE finished_at IS NOT NULL AND NOT EXISTS "
                "(SELECT 1 FROM run_tracks t WHERE t.run_id = runs.run_id) AND NOT EXISTS "
                "(SELECT 1 FROM scans s WHERE s.run_id = runs.run_id) AND finished_at < ?",
                [before],
            )
            audit.append(store, "purge", {**counts, "days": days, "flagged_days": flagged_days})
        store.db.execute("DROP TABLE old_tracks")
    if not dry_run and any(counts.values()):
        store.compact()
        store.empty_log(1.0)
    return counts


def _old_tracks(store: Store, days: int | None, *, flagged: bool) -> list[int]:
    """Tracks that were last examined so long ago, and were ever flagged or never."""
    if days is None:
        return []
    rows = store.rows(
        "SELECT track_id FROM scans GROUP BY track_id HAVING MAX(scanned_at) < ? AND MAX(verdict = 'flagged') = ?",
        [_days_ago(days), int(flagged)],
    )
    return [row["track_id"] for row in rows]


def _days_ago(days: int) -> str:
    # Nothing is older than what a date can hold.
    return (datetime.now(UTC) - timedelta(days=min(days, MAX_DAYS))).strftime("%Y-%m-%dT%H:%M:%SZ")
