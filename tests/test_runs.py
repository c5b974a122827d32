from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from registry import runs
from registry.errors import RegistryError, StoreBusy
from registry.records import BatchItem, Run, Scan
from registry.runs import (
    LEASE_S,
    fail_track,
    finish_run,
    finish_track,
    lease_owners,
    release_leases,
    renew_leases,
    retry_track,
    run_outcomes,
    run_tracks,
    start_run,
    take_leases,
)
from registry.scans import add_scan, find_scans, get_scan
from registry.store import Store
from tests.batches import other_process
from tests.fakes import ENCODER_ID, enroll_vectors, make_matcher, make_voiceprint, singer, table_counts

RUN = {
    "inputs_key": "k" * 64,
    "store_revision": 2,
    "encoder_id": ENCODER_ID,
    "cohort_id": "c" * 64,
    "threshold": 2.0,
    "threshold_source": "made up for tests",
    "version": "0.1.0",
}
ITEMS = [
    BatchItem("in/a.wav", title="A", isrc="X1", uploader="u", extra={"note": "1", "n": 2}),
    BatchItem("in/b.wav"),
    BatchItem("in/b.wav"),
]
#: Of another host, so that nothing is known of it but what its leases say.
ELSEWHERE = "elsewhere 7 1"


@pytest.fixture
def matcher(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    return make_matcher(store, encoder)[0]


@pytest.fixture
def run(store) -> Run:
    return start_run(store, RUN, ITEMS)


@pytest.fixture
def scan(matcher, run):
    return matcher.scan("in/a.wav", make_voiceprint(singer(0, 10, seed=5), "a"), run_id=run.run_id)


def take(store: Store, owner: str = ELSEWHERE, n_tracks: int = 10, *, tried: bool = False) -> list[int]:
    with store.writing():
        return [item["position"] for item in take_leases(store, 1, owner, n_tracks, tried=tried)]


def finish(store: Store, position: int, scan: Scan) -> int | None:
    with store.writing():
        return finish_track(store, 1, position, ELSEWHERE, scan=scan)


def fail(store: Store, position: int, **why: Any) -> bool:
    with store.writing():
        return fail_track(store, 1, position, ELSEWHERE, **why)


def retry(store: Store, position: int, attempts: int) -> None:
    with store.writing():
        retry_track(store, 1, position, ELSEWHERE, attempts=attempts)


def state(store: Store, *names: str) -> list[tuple[Any, ...]]:
    """These columns of the run's tracks, in order."""
    return [tuple(row[name] for name in names) for row in store.rows("SELECT * FROM run_tracks ORDER BY position")]


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_lists_what_it_is_to_examine_in_order(store, run):
    assert run == Run(run_id=1, started_at=run.started_at, finished_at=None, **RUN)
    rows = run_tracks(store, run.run_id, done=False)
    assert rows[0] == {
        "run_id": 1,
        "position": 0,
        "path": "in/a.wav",
        "title": "A",
        "isrc": "X1",
        "uploader": "u",
        "extra": {"note": "1", "n": 2},
        "outcome": None,
        "reason": None,
        "kind": None,
        "scan_id": None,
        "attempts": 0,
        "lease_owner": None,
        "lease_expires_s": None,
    }
    assert [(row["position"], row["path"], row["extra"]) for row in rows[1:]] == [
        (1, "in/b.wav", {}),
        (2, "in/b.wav", {}),
    ]
    assert run_tracks(store, run.run_id, done=True) == []
    assert runs.run_paths(store, run.run_id) == {"in/a.wav", "in/b.wav"}


def test_a_run_that_cannot_be_written_whole_is_not_begun(store):
    items = [*ITEMS, BatchItem("in/c.wav", extra={"not JSON": object()})]

    with pytest.raises(TypeError, match="not JSON serializable"):
        start_run(store, RUN, items)

    assert table_counts(store) == {}


def test_a_run_that_another_process_began_a_moment_ago_is_not_begun_twice(store, run):
    assert start_run(store, RUN, ITEMS) == run
    assert len(run_tracks(store, run.run_id, done=False)) == 3


def test_an_unfinished_run_is_found_by_what_was_asked_for(store, run):
    assert runs.open_run(store, "k" * 64) == run
    assert (runs.open_run(store, "x" * 64), runs.finished_run(store, "k" * 64)) == (None, None)

    store.db.execute("UPDATE run_tracks SET outcome = 'clear'")
    finish_run(store, run.run_id)

    finished = runs.get_run(store, run.run_id)
    assert (finished.finished_at is not None, runs.open_run(store, "k" * 64)) == (True, None)
    assert runs.finished_run(store, "k" * 64) == finished


def test_a_run_is_finished_once_and_only_when_every_track_has_an_outcome(store, run):
    store.db.execute("UPDATE run_tracks SET outcome = 'clear' WHERE position < 2")
    assert finish_run(store, run.run_id) == 1
    assert runs.get_run(store, run.run_id) == run

    store.db.execute("UPDATE run_tracks SET outcome = 'clear'")
    assert finish_run(store, run.run_id) == 0
    store.db.execute("UPDATE runs SET finished_at = '2026-01-01T00:00:00Z'")
    assert finish_run(store, run.run_id) == 0

    assert runs.get_run(store, run.run_id).finished_at == "2026-01-01T00:00:00Z"


def test_a_run_can_be_pinned_to_another_state(store, run):
    runs.pin_run(store, run.run_id, {"store_revision": 9, "threshold": 3.0})

    assert runs.get_run(store, run.run_id) == replace(run, store_revision=9, threshold=3.0)


def test_a_run_that_is_forgotten_takes_its_scans_along_and_no_others(store, run, scan):
    with store.writing():
        add_scan(store, replace(scan, run_id=None))
    take(store)
    finish(store, 0, scan)

    runs.drop_run(store, run.run_id)

    assert [found.run_id for found in find_scans(store)] == [None]
    assert {"runs", "run_tracks"}.isdisjoint(table_counts(store))
    with pytest.raises(RegistryError, match="run 1: there is no such run here"):
        runs.get_run(store, 1)


# -- leases ------------------------------------------------------------------------------------------------------------


def test_tracks_are_taken_a_few_at_a_time_and_by_one_process_each(store, run):
    with other_process() as (first, _), other_process() as (second, _):
        assert take(store, first, 2) == [0, 1]
        assert take(store, second, 2) == [2]
        assert take(store, first, 2) == []

        assert state(store, "lease_owner") == [(first,), (first,), (second,)]
        assert lease_owners(store, 1) == [first, second]
    assert all(0 < row[0] - time.time() <= LEASE_S for row in state(store, "lease_expires_s"))


def test_what_is_taken_is_given_as_it_was_listed(store, run):
    with store.writing():
        (item,) = take_leases(store, 1, ELSEWHERE, 1, tried=False)

    assert (item["path"], item["title"], item["extra"], item["attempts"]) == ("in/a.wav", "A", {"note": "1", "n": 2}, 0)


def test_leases_of_a_process_that_has_ended_are_void_at_once(store, run):
    with other_process() as (owner, _):
        take(store, owner)
        assert take(store, ELSEWHERE) == []

    assert lease_owners(store, 1) == []
    assert take(store, ELSEWHERE) == [0, 1, 2]


def test_leases_of_another_host_are_void_when_they_expire(store, run):
    take(store, ELSEWHERE, 2)
    assert (take(store, "here 1 1"), lease_owners(store, 1)) == ([2], [ELSEWHERE, "here 1 1"])

    store.db.execute("UPDATE run_tracks SET lease_expires_s = ? WHERE position = 1", [time.time() - 1])

    assert take(store, "here 1 1") == [1]


def test_a_process_renews_what_it_has_and_no_more(store, run):
    take(store, ELSEWHERE, 2)
    take(store, "here 1 1")
    store.db.execute("UPDATE run_tracks SET lease_expires_s = 1000")

    renew_leases(store, 1, ELSEWHERE)

    assert [row[0] > time.time() for row in state(store, "lease_expires_s")] == [True, True, False]


def test_a_process_puts_back_what_it_has_and_no_more(store, run, scan):
    take(store, ELSEWHERE, 2)
    take(store, "here 1 1")
    finish(store, 0, scan)

    release_leases(store, 1, ELSEWHERE)

    assert state(store, "outcome", "lease_owner", "attempts") == [
        ("flagged", None, 0),
        (None, None, 0),
        (None, "here 1 1", 0),
    ]
    assert take(store, "here 1 1") == [1]


def test_a_track_that_took_a_process_with_it_is_taken_only_by_who_asks_for_such(store, run):
    take(store)
    retry(store, 1, attempts=1)

    assert state(store, "attempts", "lease_owner") == [(0, ELSEWHERE), (1, None), (0, ELSEWHERE)]
    assert take(store) == []
    assert take(store, tried=True) == [1]


def test_every_track_of_a_run_ends_once(store, run, scan):
    take(store)

    assert finish(store, 0, scan) == 1
    assert fail(store, 1, kind="crashed", reason="it died", attempts=2)
    assert finish(store, 0, scan) is None
    assert not fail(store, 1, kind="empty", reason="0 bytes")
    assert finish(store, 77, scan) is None

    assert run_outcomes(store, run.run_id) == {"flagged": 1, "failed": 1, "open": 1}
    assert state(store, "outcome", "reason", "kind", "scan_id", "attempts", "lease_owner", "lease_expires_s")[:2] == [
        ("flagged", scan.reason, None, 1, 0, None, None),
        ("failed", "it died", "crashed", None, 2, None, None),
    ]
    assert list(find_scans(store)) == [get_scan(store, 1)]  # those that came too late left no scan either


def test_nothing_that_a_process_finds_counts_once_another_has_its_lease(store, run, scan):
    take(store)
    store.db.execute("UPDATE run_tracks SET lease_owner = 'here 1 1', attempts = 1")
    before = state(store, "outcome", "attempts", "lease_owner", "lease_expires_s")

    assert finish(store, 0, scan) is None
    assert not fail(store, 1, kind="empty", reason="0 bytes")
    retry(store, 2, attempts=9)
    renew_leases(store, 1, ELSEWHERE)
    release_leases(store, 1, ELSEWHERE)

    assert state(store, "outcome", "attempts", "lease_owner", "lease_expires_s") == before
    assert list(find_scans(store)) == []


def test_a_track_whose_outcome_cannot_be_written_stays_open(store, run, scan, monkeypatch):
    take(store)

    def refuse(*_: object) -> None:
        raise StoreBusy("somebody writes")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "add_scan", refuse)
        with pytest.raises(StoreBusy, match="somebody writes"):
            finish(store, 0, scan)

    assert run_outcomes(store, run.run_id) == {"open": 3}
    assert list(find_scans(store)) == []
    assert finish(store, 0, scan) == 1


# -- reports -----------------------------------------------------------------------------------------------------------


def test_the_file_that_outcomes_are_written_to_is_known_with_the_run_that_wrote_it_last(store, run, tmp_path):
    store.insert("runs", {**RUN, "started_at": "2026-01-01T00:00:00Z"})
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "out.jsonl")

    runs.add_report(store, 1, tmp_path / "out.jsonl")
    runs.add_report(store, 2, tmp_path / "link.jsonl")

    rows = store.rows("SELECT path, run_id, written_at >= '2026' AS is_dated FROM reports")
    assert rows == [{"path": str(tmp_path / "out.jsonl"), "run_id": 2, "is_dated": 1}]
