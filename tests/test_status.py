from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict

import pytest

from registry import audit, erasure, rights
from registry.backup import back_up
from registry.calibration import DEFAULT_BUDGET
from registry.config import REQUIRE_TWO_PERSONS, RETENTION_DAYS, change_setting
from registry.encryption import encrypt_registry
from registry.match import index_path, write_store_index
from registry.status import age_text, registry_status, size_text, status_lines
from registry.store import Store
from tests.fakes import ENCODER_ID, enroll_vectors, singer


def quiet(_: str) -> None:
    """Nobody listens."""


def add_run(store: Store, run_id: int, *, finished_at: str | None, outcomes: list[str | None]) -> None:
    run = {"inputs_key": "k", "store_revision": 1, "encoder_id": "e", "threshold": 1.0, "threshold_source": "s"}
    run |= {"version": "0", "started_at": "2026-01-01T00:00:00Z", "finished_at": finished_at, "run_id": run_id}
    with store.writing():
        store.insert("runs", run)
        for position, outcome in enumerate(outcomes):
            row = {"run_id": run_id, "position": position, "path": "p", "extra": "{}", "outcome": outcome}
            store.insert("run_tracks", row)


def test_the_status_of_a_registry_with_nobody_in_it(store):
    status = asdict(registry_status(store))

    sizes = {name: status.pop(name) for name in ("database_bytes", "free_bytes")}
    assert all(n_bytes > 0 for n_bytes in sizes.values())
    assert status == {
        "home": str(store.home),
        "encoder": None,
        "encoder_id": None,
        "encrypted": False,
        "revision": 0,
        "n_artists_active": 0,
        "n_artists_pending": 0,
        "n_artists_waiting": 0,
        "n_artists_not_matched": 0,
        "n_references": 0,
        "n_references_pending": 0,
        "n_references_waiting": 0,
        "n_templates": 0,
        "preparation": None,
        "index": "not needed",
        "last_finished_run": None,
        "last_finished_at": None,
        "unfinished_runs": (),
        "pending_removals": (),
        "last_backup": None,
        "settings": {
            **{"require-two-persons": False, "retention-days": None, "flagged-retention-days": None},
            **{"false-flag-budget": DEFAULT_BUDGET},
        },
        "index_bytes": 0,
        "kept_audio_bytes": 0,
        "audit_seq": 0,
        "audit_hash": audit.GENESIS,
    }


def test_artists_are_counted_by_whether_they_are_matched(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(1))
    enroll_vectors(store, encoder, "Bo", singer(3))
    rights.withdraw_consent(store, "Bo")
    change_setting(store, REQUIRE_TWO_PERSONS, True)
    enroll_vectors(store, encoder, "Cy", singer(5))

    status = registry_status(store)

    assert [artist.status for artist in store.artists()] == ["active", "no consent", "pending"]
    assert (status.n_artists_active, status.n_artists_not_matched, status.n_artists_pending) == (1, 1, 1)
    assert (status.n_references, status.n_references_pending) == (3, 1)
    assert (status.encoder, status.encoder_id) == ("fake", ENCODER_ID)
    assert status.settings["require-two-persons"] is True
    assert (status.audit_seq, status.audit_hash) == (audit.head_of(store).seq, audit.head_of(store).hash)


@pytest.mark.parametrize("state", ["fresh", "stale", "missing", "damaged", "of an older format"])
def test_the_state_of_the_index_is_told_by_its_header(store, encoder, state):
    enroll_vectors(store, encoder, "Ada", singer(1))
    write_store_index(store, quiet)
    path = index_path(store.home)
    if state == "stale":
        with store.writing():
            store.bump_revision()
    elif state == "missing":
        path.unlink()
    elif state == "damaged":
        path.write_bytes(b"\xff" * 5000)
    elif state == "of an older format":
        path.write_bytes(path.read_bytes().replace(b"likeness-index ", b"likeness-inde0 "))

    assert registry_status(store).index == ("stale" if state == "of an older format" else state)


def test_runs_are_the_last_that_was_finished_and_all_that_were_not(store):
    add_run(store, 1, finished_at="2026-01-03T00:00:00Z", outcomes=["clear"])
    add_run(store, 2, finished_at="2026-01-02T00:00:00Z", outcomes=["clear"])
    add_run(store, 3, finished_at=None, outcomes=["clear", None, "failed", None])
    add_run(store, 4, finished_at=None, outcomes=[])

    status = registry_status(store)

    assert (status.last_finished_run, status.last_finished_at) == (1, "2026-01-03T00:00:00Z")
    assert [(run.run_id, run.n_tracks, run.n_left) for run in status.unfinished_runs] == [(3, 4, 2), (4, 0, 0)]


def test_a_removal_that_waits_is_named_with_the_step_that_is_left(store, encoder, monkeypatch):
    monkeypatch.setattr(erasure, "WAIT_S", 0.1)
    enroll_vectors(store, encoder, "Ada", singer(1))
    with closing(sqlite3.connect(store.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM artists").fetchall()
        erasure.erase_artist(store, "Ada", quiet)

        (removal,) = registry_status(store).pending_removals

    assert (removal.erasure_id, removal.kind, removal.next_step) == (1, "artist", "emptying the database's log")


def test_the_last_backup_is_told_with_its_age_and_whether_it_is_there(store, tmp_path, monkeypatch):
    path = tmp_path / "backup.db"
    back_up(store, tmp_path / "older.db")
    made = back_up(store, path)
    monkeypatch.setattr("registry.status.now", lambda: made.made_at.replace(made.made_at[:4], "2099", 1))

    backup = registry_status(store).last_backup
    path.unlink()
    gone = registry_status(store).last_backup

    assert backup is not None and gone is not None
    assert (backup.path, backup.made_at, backup.is_there, gone.is_there) == (str(path), made.made_at, True, False)
    assert backup.age_s > 50 * 365 * 86_400


def test_the_status_of_an_encrypted_registry_needs_no_key(home, encoder, tmp_path):
    with Store(home, create=True) as store:
        encrypt_registry(store, "h" * 16, f"file:{tmp_path / 'key'}")
        enroll_vectors(store, encoder, "Ada", singer(1))
        write_store_index(store, quiet)
    (tmp_path / "key").unlink()

    with Store(home) as store:
        status = registry_status(store)

    assert (status.encrypted, status.n_artists_active, status.index) == (True, 1, "fresh")


def test_a_person_reads_one_line_for_each_thing(store, encoder, tmp_path):
    enroll_vectors(store, encoder, "Ada", singer(1))
    change_setting(store, RETENTION_DAYS, 90)
    add_run(store, 7, finished_at=None, outcomes=["clear", None])
    back_up(store, tmp_path / "backup.db")
    status = registry_status(store)

    lines = dict(status_lines(status))

    disk, last_backup = lines.pop("disk"), lines.pop("last backup")
    assert lines == {
        "home": str(store.home),
        "artists": "1 active, 0 pending, 0 not matched for want of a consent",
        "references": f"1, {status.n_templates} templates",
        "revision": "1",
        "encoder": "fake, ffffffffffff",
        "encrypted": "no",
        "index": "missing",
        "last finished run": "none",
        "unfinished run": "7, begun at 2026-01-01T00:00:00Z: 1 of 2 tracks left",
        "require-two-persons": "off",
        "retention-days": "90",
        "flagged-retention-days": "none",
        "false-flag-budget": str(DEFAULT_BUDGET),
        "audit": f"entry {status.audit_seq}, {status.audit_hash}",
    }
    assert last_backup.startswith(f"{tmp_path / 'backup.db'}, made ")
    assert disk.startswith(f"database {size_text(status.database_bytes)}, index 0 bytes, kept audio 0 bytes; ")
    json.dumps(asdict(status))


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (3_240_000, "3.2 MB"),
        (5 * 10**9, "5.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_in_words(n_bytes, text):
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(
    ("age_s", "text"),
    [(0, "0 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (200_000, "2 days")],
)
def test_ages_in_words(age_s, text):
    assert age_text(age_s) == text
