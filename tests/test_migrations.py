"""Registries of earlier releases, opened by this one."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlite_utils import Database

from registry import audit, rights, runs, schema
from registry.calibration import DEFAULT_BUDGET
from registry.check import find_problems
from registry.database import DATABASE
from registry.erasure import erase_artist
from registry.errors import RegistryError, StoreTooNew
from registry.kept_audio import read_copy
from registry.match import index_path, write_store_index
from registry.records import ConsentRecord, Evidence, Reference
from registry.scans import add_scan, find_scans, get_scan
from registry.schema import MIGRATION_NAMES, migrations
from registry.store import Store
from tests.fakes import COHORT_ID, DIM, ENCODER_ID, crowded, make_matcher, make_voiceprint, singer, table_counts

OLD = "2026-01-02T03:04:05Z"
#: artist_id, name; reference_id, artist_id, consent_id, path, content_id, forced
ARTISTS = [(1, "Ada Vale"), (2, "Jörg"), (5, "JÖRG")]
REFERENCES = [
    (1, 1, 1, "/music/ada 1.wav", "a" * 64, 0),
    (2, 1, 1, "/music/ada 2.wav", "b" * 64, 0),
    (4, 2, 2, "/music/duet.wav", "c" * 64, 0),
    (7, 5, 3, "/music/duet.wav", "c" * 64, 1),
]


def evidence(path: str, track_start_s: float) -> dict[str, Any]:
    """As the first release wrote it: with the reference's path."""
    return {
        **{"track_start_s": track_start_s, "track_end_s": track_start_s + 4, "reference": path},
        **{"reference_start_s": 2.0, "reference_end_s": 6.0, "score": 0.9},
    }


def write_first_release(home: Path) -> None:
    """A registry as the first release left it: three artists, four references, two scans and a finished batch."""
    home.mkdir(mode=0o700)
    with closing(sqlite3.connect(home / DATABASE)) as connection:
        db = Database(connection, execute_plugins=False)
        db.execute("PRAGMA journal_mode = WAL").fetchone()
        db.execute("PRAGMA foreign_keys = ON").fetchone()
        migrations.apply(db, stop_before="m002_trust")
        with db.atomic():
            db.execute("UPDATE meta SET value = '4' WHERE key = 'revision'")
            db.execute("INSERT INTO meta VALUES ('encoder_id', ?)", [ENCODER_ID])
            db.execute("INSERT INTO encoders VALUES (?, 'fake', ?, 16000, 4.0, 2.0, ?)", [ENCODER_ID, DIM, OLD])
            for artist_id, name in ARTISTS:
                db.execute("INSERT INTO artists VALUES (?, ?, ?)", [artist_id, name, OLD])
            for consent_id, artist_id, expires_at in ((1, 1, None), (2, 2, "2999-01-01T00:00:00Z"), (3, 5, OLD)):
                db.execute(
                    "INSERT INTO consents VALUES (?, ?, ?, ?, ?)",
                    [consent_id, artist_id, f"release-{consent_id}", OLD, expires_at],
                )
            for reference_id, artist_id, consent_id, path, content_id, forced in REFERENCES:
                vectors = singer(artist_id, 2, seed=reference_id)
                times = np.array([[0, 4], [2, 6]], "<f4")
                kept_path = f"audio/{content_id}.wav" if artist_id != 1 else None
                db.execute(
                    f"INSERT INTO artist_references VALUES ({', '.join('?' * 14)})",
                    [
                        *(reference_id, artist_id, consent_id, ENCODER_ID, path, kept_path, content_id),
                        *(8.0, 6.0, forced, OLD, 2, vectors.tobytes(), times.tobytes()),
                    ],
                )
                db.execute(
                    "INSERT INTO templates (artist_id, reference_id, start_s, end_s, n_windows, vector) "
                    "VALUES (?, ?, 0.0, 4.0, 2, ?)",
                    [artist_id, reference_id, vectors[0].tobytes()],
                )
            db.execute(
                "INSERT INTO runs VALUES (1, 'k', ?, ?, 4, ?, ?, 2.0, 'made up', '0.1.0')",
                [OLD, OLD, ENCODER_ID, COHORT_ID],
            )
            for track_id, run_id in ((1, None), (2, 1)):
                db.execute("INSERT INTO tracks VALUES (?, ?, 20.0, ?)", [track_id, f"{track_id:064d}", OLD])
                db.execute(
                    "INSERT INTO scans VALUES (?, ?, ?, ?, ?, 'flagged', 'why', 18.0, 8, 3, 2.0, 'made up', 4, ?, ?)",
                    [track_id, track_id, run_id, f"in/{track_id}.wav", OLD, ENCODER_ID, COHORT_ID],
                )
            for row in (
                (1, 1, 1, [evidence("/music/ada 2.wav", 0.0), evidence("/music/ada 1.wav", 4.0)]),
                (1, 2, 5, [evidence("/music/duet.wav", 0.0)]),
                (2, 1, 2, [evidence("/music/duet.wav", 0.0), evidence("/music/removed since.wav", 4.0)]),
                (2, 2, 1, []),
            ):
                db.execute("INSERT INTO matches VALUES (?, ?, ?, 0.9, 3.5, 2.0, ?)", [*row[:3], json.dumps(row[3])])
            for position, outcome, scan_id in ((0, "flagged", 2), (1, "failed", None)):
                db.execute(
                    "INSERT INTO run_tracks VALUES (1, ?, ?, NULL, 'X1', NULL, '{}', ?, 'why', NULL, ?)",
                    [position, f"in/{position}.wav", outcome, scan_id],
                )
    (home / "audio").mkdir(mode=0o700)
    (home / "audio" / f"{'c' * 64}.wav").write_bytes(b"a duet, kept once for both")


@pytest.fixture
def old(home) -> Path:
    write_first_release(home)
    return home


@pytest.fixture
def opened(old):
    with Store(old, actor="ida") as store:
        yield store


def rows_of(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, without what this release makes of it."""
    with closing(sqlite3.connect(home / DATABASE)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def test_the_names_of_all_migrations_are_known():
    """By any other a registry is known to be of a newer release."""
    assert {migration.name for migration in migrations._migrations} == MIGRATION_NAMES


def test_nothing_of_an_old_registry_is_lost(opened):
    assert table_counts(opened) == {
        **{"artists": 3, "names": 3, "consents": 3, "artist_references": 4, "templates": 4},
        **{"runs": 1, "tracks": 2, "scans": 2, "matches": 4, "run_tracks": 2},
    }
    assert opened.revision == 4
    write_store_index(opened, print)
    assert find_problems(opened) == []


def test_names_are_found_as_they_are_and_without_regard_to_case(opened):
    assert [opened.find_artist(name) for name in ("Ada Vale", "ada vale", "Jörg", "JÖRG")] == [1, 1, 2, 5]
    assert opened.find_artist("jörg") is None  # is two
    with pytest.raises(RegistryError, match="JÖRG: is enrolled already"), opened.writing():
        opened.set_name(1, "JÖRG")


def test_every_artist_is_given_a_uid(opened):
    artists = opened.artists()

    assert [(artist.artist_id, artist.name, artist.status) for artist in artists] == [
        *((1, "Ada Vale", "active"), (5, "JÖRG", "no consent"), (2, "Jörg", "active")),
    ]
    assert all(re.fullmatch("[0-9a-f]{16}", artist.uid) for artist in artists)
    assert len({artist.uid for artist in artists}) == 3


def test_references_are_active_and_those_that_were_forced_say_so(opened):
    assert opened.references() == [
        Reference(
            reference_id=reference_id,
            artist=dict(ARTISTS)[artist_id],
            path=path,
            kept_path=None if artist_id == 1 else f"audio/{content_id}.wav",
            content_id=content_id,
            duration_s=8.0,
            voiced_s=6.0,
            n_windows=2,
            consent=f"release-{consent_id}",
            consent_expires_at={1: None, 2: "2999-01-01T00:00:00Z", 3: OLD}[consent_id],
            status="active",
            enrolled_by="",
            approved_by=None,
            force_reason="none was asked for" if forced else None,
            own_norm_score=None,
            added_at=OLD,
        )
        for reference_id, artist_id, consent_id, path, content_id, forced in REFERENCES
    ]


def test_consents_are_kept_and_none_is_withdrawn(opened):
    assert rights.consents(opened) == [
        ConsentRecord(1, "Ada Vale", "release-1", OLD, None, None, True),
        ConsentRecord(2, "Jörg", "release-2", OLD, "2999-01-01T00:00:00Z", None, True),
        ConsentRecord(3, "JÖRG", "release-3", OLD, OLD, None, False),
    ]


def test_evidence_names_its_reference_by_number_and_holds_no_path(opened):
    stored = [json.loads(row["evidence"]) for row in opened.rows("SELECT evidence FROM matches ORDER BY scan_id, rank")]
    assert [[item["reference_id"] for item in items] for items in stored] == [[2, 1], [7], [4, 0], []]
    assert {key for items in stored for item in items for key in item} == {
        *("track_start_s", "track_end_s", "reference_id", "reference_start_s", "reference_end_s", "score"),
    }

    one, two = find_scans(opened)

    assert [
        [(item.reference_id, item.reference) for item in match.evidence] for match in one.matches + two.matches
    ] == [
        [(2, "/music/ada 2.wav"), (1, "/music/ada 1.wav")],
        [(7, "/music/duet.wav")],
        [(4, "/music/duet.wav"), (0, "(removed)")],
        [],
    ]
    assert one.matches[0].evidence[0] == Evidence(0.0, 4.0, 2, "/music/ada 2.wav", 2.0, 6.0, 0.9)
    assert (one.n_not_matched, two.run_id) == (0, 1)


def test_an_old_registry_matches_as_it_did(opened, encoder):
    matcher, _ = make_matcher(opened, encoder)

    assert matcher.match(make_voiceprint(singer(2, seed=9)))[0].artist == "Jörg"
    assert (matcher.n_artists, matcher.n_not_matched) == (2, 1)


def test_a_copy_kept_once_for_two_artists_is_read_for_both_and_goes_with_the_last(opened, tmp_path):
    for reference_id in (4, 7):
        with (tmp_path / "copy.wav").open("wb") as target:
            read_copy(opened, reference_id, target)
        assert (tmp_path / "copy.wav").read_bytes() == b"a duet, kept once for both"
    kept = opened.home / opened.references("Jörg")[0].kept_path

    erase_artist(opened, "Jörg", print)
    assert kept.exists()
    erase_artist(opened, "JÖRG", print)

    assert not kept.exists()


def test_the_audit_of_an_old_registry_begins_with_this_release(opened):
    assert audit.verify(opened).n_entries == 0
    rights.withdraw_consent(opened, "Ada Vale")

    assert [entry.action for entry in audit.entries(opened)] == ["consent.withdraw"]


def test_an_old_index_is_made_anew(old, encoder):
    index_path(old).write_bytes(b'{"format": "likeness-index 1"}\nbytes of an older format')

    with Store(old) as store:
        _, said = make_matcher(store, encoder)
        assert ["rebuilding the index" in line for line in said if "index" in line] == [True]
        assert find_problems(store) == []


def test_opening_it_again_changes_nothing(old):
    Store(old).close()
    before = rows_of(old)

    Store(old).close()

    assert rows_of(old) == before


def _die_in_the_middle(home: Path, step: int) -> None:
    n_left = step

    def fold_name(name: str) -> str:
        nonlocal n_left
        n_left -= 1
        if n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    schema.fold_name = fold_name
    Store(home)


def _die_at_the_end(home: Path, step: int) -> None:
    def record(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    migrations._record_applied = record  # type: ignore[method-assign, assignment]
    Store(home)


@pytest.mark.parametrize(("die", "step"), [(_die_in_the_middle, 1), (_die_in_the_middle, 3), (_die_at_the_end, 0)])
def test_a_migration_that_is_killed_leaves_the_old_registry(old, die: Callable[[Path, int], None], step):
    before = rows_of(old)
    process = multiprocessing.get_context("spawn").Process(target=die, args=(old, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    after = rows_of(old)
    with Store(old) as store:
        names = [artist.name for artist in store.artists()]

    assert after == before
    assert names == ["Ada Vale", "JÖRG", "Jörg"]


def test_the_release_before_refuses_what_this_one_wrote(old, monkeypatch):
    Store(old).close()
    monkeypatch.setattr("registry.database.MIGRATION_NAMES", MIGRATION_NAMES - {"m005_crowding"})

    with pytest.raises(StoreTooNew, match=r"it has m005_crowding\); upgrade with"):
        Store(old)


# --- from thresholds on norm_score to thresholds on llr ---


def add_old_scan(home: Path, scan_id: int, verdict: str, threshold: float, norm_scores: list[float | None]) -> None:
    """A scan as the releases before m004 left it, with its best artists; None: removed since."""
    with closing(sqlite3.connect(home / DATABASE)) as db, db:
        db.execute("INSERT INTO tracks VALUES (?, ?, 20.0, ?)", [scan_id, f"{scan_id:064d}", OLD])
        db.execute(
            "INSERT INTO scans VALUES (?, ?, NULL, 'in/x.wav', ?, ?, 'why', 18.0, 8, 3, ?, 'made up', 4, ?, ?)",
            [scan_id, scan_id, OLD, verdict, threshold, ENCODER_ID, COHORT_ID],
        )
        for rank, norm_score in enumerate(norm_scores, start=1):
            if norm_score is not None:
                artist_id = ARTISTS[rank - 1][0]
                row = [scan_id, rank, artist_id, 0.5, norm_score, None, "[]"]
                db.execute("INSERT INTO matches VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def test_matches_of_old_scans_are_flagged_where_their_norm_score_reached_the_threshold_of_their_scan(old):
    add_old_scan(old, 11, "flagged", 4.4, [4.9, 4.4, 4.399])
    add_old_scan(old, 12, "clear", 4.4, [4.399, 1.0, -2.0])
    add_old_scan(old, 13, "flagged", 1.0, [1.5, 0.9])
    add_old_scan(old, 14, "flagged", 4.4, [None, 1.0])  # whom it was flagged for has been removed since
    add_old_scan(old, 15, "abstained", 4.4, [])

    with Store(old) as store:
        scans = {scan.scan_id: scan for scan in find_scans(store)}
        flags = {scan_id: [match.flagged for match in scan.matches] for scan_id, scan in scans.items()}
        grounds = {(scan.budget, scan.calibration_id) for scan in scans.values()}
        stored = store.rows("SELECT DISTINCT flagged FROM matches ORDER BY flagged")

    assert flags == {
        **{1: [True, True], 2: [True, True]},  # of `write_first_release`: 3.5 at 2.0
        **{11: [True, True, False], 12: [False] * 3, 13: [True, False], 14: [False], 15: []},
    }
    assert grounds == {(None, None)}
    assert [scans[scan_id].threshold for scan_id in (1, 11, 13)] == [2.0, 4.4, 1.0]  # still on norm_score
    assert stored == [{"flagged": 0}, {"flagged": 1}]


def test_an_old_clear_scan_whose_match_is_above_another_threshold_stays_clear(old):
    """A scan's own verdict is what was decided, whatever its numbers were."""
    add_old_scan(old, 11, "clear", 4.4, [4.4])

    with Store(old) as store:
        (scan,) = [scan for scan in find_scans(store) if scan.scan_id == 11]

    assert (scan.verdict, [match.flagged for match in scan.matches]) == ("clear", [False])


def test_old_runs_have_neither_budget_nor_calibration(opened):
    run = runs.get_run(opened, 1)

    assert (run.threshold, run.threshold_source) == (2.0, "made up")
    assert (run.budget, run.calibration_id, run.decided_from) == (None, None, None)


def test_an_old_registry_decides_by_a_budget_and_keeps_what_it_decided_by(opened, encoder):
    matcher, _ = make_matcher(opened, encoder)
    scan = matcher.scan("in/new.wav", make_voiceprint(singer(2, 10, seed=9), "new"))
    with opened.writing():
        scan_id = add_scan(opened, scan)

    kept = get_scan(opened, scan_id)

    assert kept == replace(scan, scan_id=scan_id)
    assert (kept.verdict, kept.budget, kept.calibration_id) == (
        *("flagged", DEFAULT_BUDGET),
        matcher.calibration.calibration_id,
    )
    assert [match.flagged for match in kept.matches] == [True, False]


def test_a_run_that_another_was_decided_from_may_go(opened):
    with opened.writing():
        columns = "inputs_key, started_at, store_revision, encoder_id, cohort_id, threshold, threshold_source, version"
        opened.db.execute(f"INSERT INTO runs ({columns}, decided_from) SELECT {columns}, 1 FROM runs")
        opened.db.execute("DELETE FROM runs WHERE run_id = 1")

    assert opened.rows("SELECT run_id, decided_from FROM runs") == [{"run_id": 2, "decided_from": None}]


def test_lookalikes_are_kept_once_and_go_with_either_artist(opened):
    def note(artist_id: int, other_id: int) -> None:
        with opened.writing():
            opened.db.execute("INSERT INTO lookalikes VALUES (?, ?, 'sisters', ?, 'ida')", [artist_id, other_id, OLD])

    note(1, 2)
    note(2, 5)
    for twice_or_reversed in ((1, 2), (5, 2), (2, 2)):
        with pytest.raises(
            RegistryError, match=r"constraint failed: .*lookalikes|constraint failed: artist_id < other_id"
        ):
            note(*twice_or_reversed)
    erase_artist(opened, "Ada Vale", print)

    assert opened.rows("SELECT artist_id, other_id FROM lookalikes") == [{"artist_id": 2, "other_id": 5}]


# --- what crowding takes off ---


def test_of_the_matches_of_old_scans_nothing_is_said_to_be_taken_off(opened):
    stored = opened.rows("SELECT DISTINCT taken_off, typeof(taken_off) AS type FROM matches")

    assert stored == [{"taken_off": 0.0, "type": "real"}]
    assert {match.taken_off for scan in find_scans(opened) for match in scan.matches} == {0.0}


def test_an_old_registry_keeps_what_crowding_takes_off(opened, encoder):
    encoder.calibration = crowded(encoder.calibration, track=-9.0)
    matcher, _ = make_matcher(opened, encoder)
    scan = matcher.scan("in/new.wav", make_voiceprint(singer(2, 10, seed=9), "new"))
    with opened.writing():
        scan_id = add_scan(opened, scan)

    assert [match.taken_off > 0.1 for match in scan.matches] == [True, True]
    assert get_scan(opened, scan_id) == replace(scan, scan_id=scan_id)
