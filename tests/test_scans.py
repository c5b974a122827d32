from __future__ import annotations

from dataclasses import replace

import pytest

from registry import scans
from registry.errors import RegistryError, StoreBusy, UnknownTrack
from registry.records import BatchItem, Run
from registry.scans import add_scan, fail_track, find_scans, finish_track, get_scan, run_outcomes, run_tracks, start_run
from registry.store import Store
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


@pytest.fixture
def matcher(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    return make_matcher(store, encoder)[0]


@pytest.fixture
def scan(matcher):
    return matcher.scan("in/a.wav", make_voiceprint(singer(0, 10, seed=5), "a"))


@pytest.fixture
def run(store) -> Run:
    return start_run(store, RUN, ITEMS)


def save(store: Store, *new: scans.Scan) -> list[scans.Scan]:
    with store.writing():
        return [replace(scan, scan_id=add_scan(store, scan)) for scan in new]


# --- scans ---


def test_a_scan_comes_back_as_it_was_stored(store, scan):
    (saved,) = save(store, scan)

    assert saved.scan_id == 1
    assert get_scan(store, 1) == saved
    assert list(find_scans(store)) == [saved]


def test_a_track_is_known_by_its_content_wherever_it_lies(store, scan):
    saved = save(store, scan, replace(scan, path="elsewhere/b.wav"))

    assert [row["n"] for row in store.rows("SELECT COUNT(*) AS n FROM tracks")] == [1]
    assert list(find_scans(store, track=scan.content_id[:12])) == saved
    assert list(find_scans(store, track="elsewhere/b.wav")) == saved[1:]


@pytest.mark.parametrize("track", ["in/b.wav", "in/%", "in/_.wav", "A.WAV", ""])
def test_an_unknown_track_is_said_to_be(store, scan, track):
    """Neither wildcards nor nothing at all name a track."""
    save(store, scan)

    with pytest.raises(UnknownTrack, match="no track with this path or content_id has been scanned here"):
        list(find_scans(store, track=track))


def test_an_artist_removed_since_the_match_leaves_no_trace_in_a_new_scan(store, scan):
    store.remove_artist("Ada")

    (saved,) = save(store, scan)

    assert [match.artist for match in get_scan(store, saved.scan_id).matches] == ["Bo"]
    assert "Ada" not in "\n".join(store.db.conn.iterdump())


def test_a_renamed_artist_has_the_new_name_in_old_scans(store, scan):
    save(store, scan)
    store.rename_artist("Ada", "Ada Vale")

    assert [match.artist for match in get_scan(store, 1).matches] == ["Ada Vale", "Bo"]
    assert get_scan(store, 1).reason == scan.reason


def test_a_scan_cut_short_leaves_nothing(store, scan, monkeypatch):
    monkeypatch.setattr(store, "artist_names", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        save(store, scan)

    assert {"tracks", "scans", "matches"}.isdisjoint(table_counts(store))


def test_there_is_no_verdict_that_nobody_knows(store, scan):
    with pytest.raises(RegistryError, match="CHECK constraint failed"):
        save(store, replace(scan, verdict="guilty"))


# --- runs ---


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
    }
    assert [(row["position"], row["path"], row["extra"]) for row in rows[1:]] == [
        (1, "in/b.wav", {}),
        (2, "in/b.wav", {}),
    ]
    assert run_tracks(store, run.run_id, done=True) == []
    assert scans.run_paths(store, run.run_id) == {"in/a.wav", "in/b.wav"}


def test_a_run_that_cannot_be_written_whole_is_not_begun(store):
    items = [*ITEMS, BatchItem("in/c.wav", extra={"not JSON": object()})]

    with pytest.raises(TypeError, match="not JSON serializable"):
        start_run(store, RUN, items)

    assert table_counts(store) == {}


def test_every_track_of_a_run_ends_once(store, run, scan):
    scan = replace(scan, run_id=run.run_id)
    finish_track(store, run.run_id, 0, scan=scan)
    fail_track(store, run.run_id, 1, kind="empty", reason="0 bytes")

    for again in (
        lambda: finish_track(store, run.run_id, 0, scan=scan),
        lambda: fail_track(store, run.run_id, 1, kind="empty", reason="0 bytes"),
        lambda: finish_track(store, run.run_id, 77, scan=scan),
    ):
        with pytest.raises(RegistryError, match="has an outcome already; is the same run going on twice"):
            again()

    assert run_outcomes(store, run.run_id) == {"flagged": 1, "failed": 1, "open": 1}
    done = run_tracks(store, run.run_id, done=True)
    assert [(row["position"], row["outcome"], row["kind"], row["reason"], row["scan_id"]) for row in done] == [
        (0, "flagged", None, scan.reason, 1),
        (1, "failed", "empty", "0 bytes", None),
    ]
    assert len(list(find_scans(store, run_id=run.run_id))) == 1  # the refused ones left no scan either


def test_a_track_whose_outcome_cannot_be_written_stays_open(store, run, scan, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise StoreBusy("somebody writes")

    monkeypatch.setattr(scans, "_close_track", fail)
    with pytest.raises(StoreBusy, match="somebody writes"):
        finish_track(store, run.run_id, 0, scan=replace(scan, run_id=run.run_id))

    assert run_outcomes(store, run.run_id) == {"open": 3}
    assert list(find_scans(store)) == []


def test_an_unfinished_run_is_found_by_what_was_asked_for(store, run):
    assert scans.open_run(store, "k" * 64) == run
    assert (scans.open_run(store, "x" * 64), scans.finished_run(store, "k" * 64)) == (None, None)

    scans.finish_run(store, run.run_id)

    finished = scans.get_run(store, run.run_id)
    assert (finished.finished_at is not None, scans.open_run(store, "k" * 64)) == (True, None)
    assert scans.finished_run(store, "k" * 64) == finished


def test_a_run_can_be_pinned_to_another_state(store, run):
    scans.pin_run(store, run.run_id, {"store_revision": 9, "threshold": 3.0})

    assert scans.get_run(store, run.run_id) == replace(run, store_revision=9, threshold=3.0)


def test_a_run_that_is_forgotten_takes_its_scans_along_and_no_others(store, run, scan):
    save(store, scan)
    finish_track(store, run.run_id, 0, scan=replace(scan, run_id=run.run_id))

    scans.drop_run(store, run.run_id)

    assert [found.run_id for found in find_scans(store)] == [None]
    assert {"runs", "run_tracks"}.isdisjoint(table_counts(store))
    with pytest.raises(RegistryError, match="run 1: there is no such run here"):
        scans.get_run(store, 1)
