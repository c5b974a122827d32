"""Scans on record, as far as it takes to decide them again: SQL on an open `Store` that reads no evidence."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from operator import itemgetter
from typing import Any

from registry.records import Decision, KeptMatch, KeptScan
from registry.scans import SCAN_COLUMNS
from registry.store import Store

#: Columns of a scan that another threshold changes; it is of the same scores, and of the same moment.
_DECIDED_COLUMNS = ("verdict", "reason", "threshold", "threshold_source", "budget")
_COPIED_COLUMNS = tuple(name for name in SCAN_COLUMNS if name not in ("run_id", *_DECIDED_COLUMNS))

_KEPT_FIELDS = tuple(field.name for field in fields(KeptScan) if field.name != "matches")

#: Scans that a person asks about: since a time, of a run or of all.
_ASKED = "scanned_at >= ? AND (? IS NULL OR run_id = ?)"


def run_scans(store: Store, run_id: int, *, without: Collection[int]) -> Iterator[KeptScan]:
    """The scans of a run, without the matches of the artists with these ids."""
    return _kept(store, "s.run_id = ?", [run_id], without)


def latest_scans(
    store: Store, calibration_id: str, *, since: str = "", run_id: int | None = None, without: Collection[int]
) -> Iterator[KeptScan]:
    """The newest scan of each track with a calibration.

    Parameters
    ----------
    since : str
        Time as it is stored; only tracks examined then or later.
    run_id : int, optional
        Only tracks of this run.
    without : collection of int
        Ids of artists whose matches are left out.
    """
    newest = f"SELECT MAX(scan_id) FROM scans WHERE calibration_id = ? AND {_ASKED} GROUP BY track_id"
    return _kept(store, f"s.scan_id IN ({newest})", [calibration_id, since, run_id, run_id], without)


def tracks_of_others(
    store: Store, calibration_id: str, *, since: str = "", run_id: int | None = None
) -> dict[str | None, int]:
    """How many tracks were only examined with other calibrations, by the newest of these; None where there was none."""
    rows = store.rows(
        "SELECT calibration_id, COUNT(*) AS n FROM scans WHERE scan_id IN ("
        f"SELECT MAX(scan_id) FROM scans WHERE {_ASKED} GROUP BY track_id HAVING NOT MAX(calibration_id IS ?)) "
        "GROUP BY calibration_id ORDER BY MAX(scan_id)",
        [since, run_id, run_id, calibration_id],
    )
    return {row["calibration_id"]: row["n"] for row in rows}


def matched_artists(store: Store, run_id: int | None = None) -> set[int]:
    """Ids of the artists whom scans name among their matches: of one run, or all."""
    rows = store.rows(
        "SELECT DISTINCT artist_id FROM matches JOIN scans USING (scan_id) WHERE (? IS NULL OR run_id = ?)",
        [run_id, run_id],
    )
    return {row["artist_id"] for row in rows}


def copy_scans(store: Store, run_id: int, decisions: Iterable[Decision], *, without: Collection[int]) -> dict[int, int]:
    """Copy scans into a run, with what was decided anew; call inside `store.writing`.

    Parameters
    ----------
    without : collection of int
        Ids of artists whose matches are not copied.

    Returns
    -------
    dict of int to int
        scan_id of each copy, by the scan_id of what it is a copy of.
    """
    newest = store.rows("SELECT COALESCE(MAX(seq), 0) AS scan_id FROM sqlite_sequence WHERE name = 'scans'")
    # All at once, for nobody else can write meanwhile.
    store.db.execute(
        f"CREATE TEMP TABLE decided (scan_id INTEGER PRIMARY KEY, copy_id, flagged, {', '.join(_DECIDED_COLUMNS)})"
    )
    rows = [
        (
            decision.scan_id,
            copy_id,
            json.dumps(list(decision.flagged)),
            *(getattr(decision, name) for name in _DECIDED_COLUMNS),
        )
        for copy_id, decision in enumerate(decisions, start=newest[0]["scan_id"] + 1)
    ]
    places = ", ".join("?" for _ in range(3 + len(_DECIDED_COLUMNS)))
    store.db.conn.executemany(f"INSERT INTO temp.decided VALUES ({places})", rows)
    store.db.execute(
        f"INSERT INTO scans (scan_id, track_id, run_id, {', '.join((*_COPIED_COLUMNS, *_DECIDED_COLUMNS))}) "
        f"SELECT d.copy_id, s.track_id, ?, {', '.join(f's.{name}' for name in _COPIED_COLUMNS)}, "
        f"{', '.join(f'd.{name}' for name in _DECIDED_COLUMNS)} FROM temp.decided d JOIN scans s USING (scan_id)",
        [run_id],
    )
    store.db.execute(
        "INSERT INTO matches (scan_id, rank, artist_id, score, norm_score, llr, taken_off, evidence, flagged) "
        # Ranks anew: somebody may be left out.
        "SELECT d.copy_id, ROW_NUMBER() OVER (PARTITION BY scan_id ORDER BY m.rank), "
        "m.artist_id, m.score, m.norm_score, m.llr, m.taken_off, m.evidence, "
        "m.rank IN (SELECT value FROM json_each(d.flagged)) FROM temp.decided d JOIN matches m USING (scan_id) "
        "WHERE m.artist_id NOT IN (SELECT value FROM json_each(?))",
        [json.dumps(list(without))],
    )
    store.db.execute("DROP TABLE temp.decided")
    return {row[0]: row[1] for row in rows}


def _kept(store: Store, condition: str, parameters: Sequence[Any], without: Collection[int]) -> Iterator[KeptScan]:
    # As plain rows, in the order of the record's fields: there may be 100,000 scans of five matches.
    rows = store.db.execute(
        "SELECT s.scan_id, s.run_id, s.path, t.content_id, t.duration_s, s.voiced_s, s.n_artists, s.threshold, "
        "s.verdict, s.reason, s.calibration_id, m.rank, m.artist_id, m.llr, m.flagged "
        "FROM scans s JOIN tracks t USING (track_id) LEFT JOIN matches m ON m.scan_id = s.scan_id "
        f"AND m.artist_id NOT IN (SELECT value FROM json_each(?)) WHERE {condition} ORDER BY s.scan_id, m.rank",
        [json.dumps(list(without)), *parameters],
    )
    for _, group in groupby(rows, itemgetter(0)):
        first, *others = group
        matches = (KeptMatch(row[11], row[12], row[13], bool(row[14])) for row in (first, *others))
        values: dict[str, Any] = dict(zip(_KEPT_FIELDS, first, strict=False))
        yield KeptScan(**values, matches=tuple(match for match in matches if match.rank is not None))
