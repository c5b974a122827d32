from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from registry import audit, erasure, identity, lookalikes, rights, scans
from registry.check import find_problems
from registry.enroll import enroll_recording
from registry.errors import RegistryError, UnknownArtist, UnknownTrack
from registry.match import index_path, open_store_index, write_store_index
from registry.records import Consent
from registry.store import Store
from tests.fakes import FakeEncoder, enroll_vectors, files_holding, make_matcher, make_voiceprint, singer

MARK = "Zaubernuss"
TRACK = make_voiceprint(singer(2, seed=77), "a track")


def mark(where: str) -> str:
    """A text that stands nowhere else, for one field."""
    return f"{MARK} {where}"


@pytest.fixture
def marked(store: Store, encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A registry with one artist who left a mark in every field, and another one, who left none."""
    monkeypatch.setattr(erasure, "WAIT_S", 0.2)
    enroll_vectors(store, encoder, "Bo", singer(5))
    name = mark("name")
    for number in range(3):
        recording = tmp_path / mark(f"path {number}")
        recording.write_bytes(b"RIFF" + mark("audio").encode() * 50)
        monkeypatch.setattr(
            "registry.enroll.embed_file", lambda *_, n=number, **__: make_voiceprint(singer(2, seed=n), f"{n}")
        )

        consent = Consent(mark("consent"))
        outcome = enroll_recording(
            store, encoder, name, recording, consent, keep_audio=True, force_reason=mark("force")
        )
        assert outcome.outcome == "enrolled"
    with store.writing():  # nothing spoke against them, so no reason would be kept
        store.db.execute("UPDATE artist_references SET force_reason = ? WHERE reference_id > 1", [mark("force")])
    identity.add_alias(store, name, mark("alias"))
    enroll_vectors(store, encoder, mark("other name"), singer(2, seed=8), content=mark("other.wav"))
    identity.merge_artists(store, name, mark("other name"))
    identity.rename_artist(store, name, mark("new name"))
    lookalikes.note_lookalike(store, mark("new name"), "Bo", mark("lookalike"))
    rights.withdraw_consent(store, mark("new name"), mark("consent"))
    matcher, _ = make_matcher(store, encoder)
    scan = matcher.scan("/in/a-track.wav", TRACK)
    assert scan.verdict == "flagged" and scan.matches[0].artist == mark("new name")
    items = [{"path": "/in/a-track.wav", "title": None, "isrc": None, "uploader": None, "extra": "{}"}]
    with store.writing():
        run = {"inputs_key": "k", "store_revision": 1, "encoder_id": "e", "threshold": 1.0, "threshold_source": "s"}
        run_id = store.insert("runs", {**run, "version": "0", "started_at": "2026-01-01T00:00:00Z"})
        scan_id = scans.add_scan(store, replace(scan, run_id=run_id))
        row = {"run_id": run_id, "position": 0, "outcome": "flagged", "scan_id": scan_id, **items[0]}
        store.insert("run_tracks", row)
        report = tmp_path / "outcomes.jsonl"
        store.insert("reports", {"path": str(report), "run_id": run_id, "written_at": "2026-01-01T00:00:00Z"})
    lines = [
        {"path": "/in/a-track.wav", "scan": scans.get_scan(store, scan_id).as_dict()},
        {"path": "/in/broken.wav", "scan": None},
    ]
    report.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_store_index(store, lambda _: None)
    # What a process that was killed while it wrote an index leaves behind.
    abandoned = store.home / f".{index_path(store.home).name}.killed.tmp"
    abandoned.write_bytes(index_path(store.home).read_bytes())
    store.db.execute("PRAGMA wal_checkpoint").fetchone()  # into the database, and still in its log
    return store


def vector_bytes(store: Store, artist: str) -> list[bytes]:
    """Every vector of an artist as it lies in the files: templates, and the windows of references."""
    artist_id = store.artist(artist).artist_id
    gallery = store.gallery()
    templates = [vector.tobytes()[: erasure.MARK_BYTES] for vector in gallery.vectors[gallery.artist_id == artist_id]]
    windows = [
        row.tobytes()[: erasure.MARK_BYTES]
        for _, rows, _ in store.reference_windows(artist_id, status=None)
        for row in rows
    ]
    assert len(templates) >= 4 and len(windows) >= 32
    return templates + windows


def traces(store: Store, vectors: list[bytes]) -> dict[str, list[str]]:
    """Files under the home that hold a mark or a vector."""
    found = {"marks": files_holding(store.home, MARK.encode())}
    found["vectors"] = sorted({name for vector in vectors for name in files_holding(store.home, vector)})
    return found


@contextmanager
def reader(store: Store) -> Iterator[None]:
    """Somebody who has begun to read and has not ended."""
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT COUNT(*) FROM templates").fetchone()
        yield


def test_a_removed_artist_is_in_no_byte_under_the_home(marked):
    vectors = vector_bytes(marked, mark("new name"))
    before = traces(marked, vectors)
    assert "registry.db" in before["marks"] and "registry.db-wal" in before["marks"]
    assert {"registry.db", "index.faiss", ".index.faiss.killed.tmp"} <= set(before["vectors"])
    assert any(name.startswith("audio/") for name in before["marks"])

    receipt = erasure.erase_artist(marked, mark("new name"), lambda _: None)

    assert receipt["finished_at"] and receipt["pending"] == []
    assert traces(marked, vectors) == {"marks": [], "vectors": []}
    assert MARK not in json.dumps(receipt)
    assert list((marked.home / "audio").iterdir()) == []
    assert [artist.name for artist in marked.artists()] == ["Bo"]
    assert find_problems(marked) == []


def test_the_receipt_says_what_when_and_how_it_was_verified(marked, tmp_path):
    marked.db.execute("INSERT INTO backups VALUES ('/backups/monday.db', '2026-01-01T00:00:00Z')")
    uid = marked.artist(mark("name")).uid if marked.find_artist(mark("name")) else marked.artist(mark("alias")).uid

    receipt = erasure.erase_artist(marked, mark("alias"), lambda _: None)

    assert receipt["kind"] == "artist" and receipt["subject"] == uid
    assert receipt["removed"] == {
        "consents": 3,
        "references": 4,
        "templates": 8,
        "matches": 1,
        "names": 3,
        "identity_changes": 2,
        "audit_payloads": receipt["removed"]["audit_payloads"],
        "lookalikes": 1,
        "kept_audio": 3,
    }
    assert receipt["removed"]["audit_payloads"] >= 7
    assert [text.split(":")[0] for text in receipt["not_reached"]] == [
        "backup /backups/monday.db of 2026-01-01T00",
        "copies that were made by hand, exports, logs, and blocks that the file system has let go of",
    ]
    assert receipt["verified"][-1].endswith("none found") and "vectors searched for in" in receipt["verified"][-1]
    assert erasure.receipts(marked, receipt["erasure_id"]) == [receipt]


def test_the_audit_still_verifies_and_says_that_something_was_removed(marked):
    erasure.erase_artist(marked, mark("new name"), lambda _: None)

    found = audit.verify(marked)
    assert found.problems == () and found.n_erased >= 7
    assert audit.entries(marked)[-1].action == "artist.remove"


def test_reports_that_a_batch_wrote_hold_nothing_of_a_removed_artist(marked, tmp_path):
    report = tmp_path / "outcomes.jsonl"
    report.chmod(0o640)

    erasure.erase_artist(marked, mark("new name"), lambda _: None)

    first, second = map(json.loads, report.read_text(encoding="utf-8").splitlines())
    assert [match["artist"] for match in first["scan"]["matches"]] == ["Bo"]
    assert second == {"path": "/in/broken.wav", "scan": None}
    assert MARK not in report.read_text(encoding="utf-8")
    assert report.stat().st_mode & 0o777 == 0o640
    assert not report.with_name("outcomes.jsonl.part").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "is not there any more"), ("my shopping list\n", "is not what was written"), ('{"a": 1}\n', "is not what")],
)
def test_a_report_that_is_not_what_was_written_is_left_alone_and_named(marked, tmp_path, content, reason):
    report = tmp_path / "outcomes.jsonl"
    report.unlink() if content is None else report.write_text(content, encoding="utf-8")

    receipt = erasure.erase_artist(marked, mark("new name"), lambda _: None)

    assert [text for text in receipt["not_reached"] if text.startswith(f"{report}: {reason}")]
    assert content is None or report.read_text(encoding="utf-8") == content


def test_a_report_that_a_batch_is_writing_is_cleaned_once_the_batch_has_ended(marked, tmp_path):
    report = tmp_path / "outcomes.jsonl"
    said: list[str] = []

    with report.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        receipt = erasure.erase_artist(marked, mark("new name"), said.append)
        assert receipt["pending"][0] == "taking it out of reports"
        assert said[0].startswith(f"removal 1: taking it out of reports waits for the batch that writes {report}; ")
        file.write(json.dumps({"path": "/in/late.wav", "scan": None}) + "\n")

    erasure.finish_pending(marked, said.append)

    assert [json.loads(line)["path"] for line in report.read_text(encoding="utf-8").splitlines()] == [
        "/in/a-track.wav",
        "/in/broken.wav",
        "/in/late.wav",
    ]
    assert MARK not in report.read_text(encoding="utf-8")
    assert not marked.has_pending_erasures()


def test_a_removal_that_a_reader_holds_up_says_so_and_the_next_command_finishes_it(marked):
    vectors = vector_bytes(marked, mark("new name"))
    said: list[str] = []

    with reader(marked):
        receipt = erasure.erase_artist(marked, mark("new name"), said.append)
        assert receipt["finished_at"] is None
        assert receipt["pending"][0] == "emptying the database's log"
        assert said == [
            "removal 1: emptying the database's log waits for somebody who reads the database; the rows are gone, "
            "copies may stand in files until then. The next command goes on with it, and `likeness receipts 1` says "
            "how far"
        ]
        with pytest.raises(UnknownArtist, match="not enrolled"):
            marked.artist(mark("new name"))
        assert traces(marked, vectors)["vectors"] != []  # what has to wait is really there
        assert marked.has_pending_erasures()

    said.clear()
    erasure.finish_pending(marked, said.append)

    assert said == ["removal 1: finished; `likeness receipts 1` shows the receipt"]
    assert traces(marked, vectors) == {"marks": [], "vectors": []}
    (receipt,) = erasure.receipts(marked)
    assert receipt["finished_at"] and receipt["pending"] == []


@pytest.mark.parametrize("n_done", range(len(erasure.STEPS)))
def test_a_removal_that_is_interrupted_at_any_step_is_finished_later(marked, monkeypatch, n_done):
    vectors = vector_bytes(marked, mark("new name"))
    real = erasure._do
    n_calls = 0

    def interrupted(*arguments: object) -> object:
        nonlocal n_calls
        n_calls += 1
        if n_calls > n_done:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(erasure, "_do", interrupted)
    with pytest.raises(KeyboardInterrupt):
        erasure.erase_artist(marked, mark("new name"), lambda _: None)
    monkeypatch.setattr(erasure, "_do", real)
    assert marked.find_artist(mark("new name")) is None

    with Store(marked.home) as again:
        assert again.has_pending_erasures()
        erasure.finish_pending(again, lambda _: None)
        assert not again.has_pending_erasures()
    assert traces(marked, vectors) == {"marks": [], "vectors": []}


def test_what_other_artists_have_stays_as_it_was(marked, encoder):
    gallery = marked.gallery()
    bo = marked.artist("Bo").artist_id
    before = gallery.select(gallery.artist_id == bo)

    erasure.erase_artist(marked, mark("new name"), lambda _: None)

    after = marked.gallery()
    np.testing.assert_array_equal(after.vectors, before.vectors)
    np.testing.assert_array_equal(after.template_id, before.template_id)
    matcher, said = make_matcher(marked, encoder)
    assert (matcher.n_artists, said) == (1, [])  # the index is fresh


def test_a_batch_that_runs_does_not_match_an_artist_who_is_removed_meanwhile(marked, encoder):
    matcher, _ = make_matcher(marked, encoder)
    with Store(marked.home) as other:
        erasure.erase_artist(other, mark("new name"), lambda _: None)

    matcher.refresh()
    scan = matcher.scan("/in/again.wav", TRACK)

    assert [match.artist for match in scan.matches] == ["Bo"]
    assert (scan.n_artists, scan.n_not_matched) == (1, 0)


def test_one_reference_can_be_removed_and_the_templates_follow(marked, encoder):
    name = mark("new name")
    artist_id = marked.artist(name).artist_id
    (number, windows, _), *others = marked.reference_windows(artist_id, status=None)
    kept = [reference.kept_path for reference in marked.references(name)]

    receipt = erasure.erase_reference(marked, name, number, lambda _: None)

    assert receipt["removed"]["references"] == 1 and receipt["removed"]["kept_audio"] == 1
    assert [row[0] for row in marked.reference_windows(artist_id, status=None)] == [row[0] for row in others]
    assert sorted({name for row in windows for name in files_holding(marked.home, row.tobytes())}) == []
    assert not (marked.home / kept[0]).exists() and (marked.home / kept[1]).exists()
    assert find_problems(marked) == []
    with pytest.raises(RegistryError, match=f"reference {number}: is not {name}'s"):
        erasure.erase_reference(marked, name, number, lambda _: None)


def test_a_removed_track_is_in_no_byte_under_the_home(marked, tmp_path):
    content_id = TRACK.content_id
    assert files_holding(marked.home, content_id.encode()) != []

    receipt = erasure.erase_track(marked, content_id[:12], lambda _: None)

    assert receipt["removed"] == {"scans": 1, "matches": 2, "run_tracks": 1, "audit_payloads": 0}
    assert files_holding(marked.home, content_id.encode()) == []
    assert files_holding(marked.home, b"/in/a-track.wav") == []
    assert (tmp_path / "outcomes.jsonl").read_text(encoding="utf-8") == '{"path": "/in/broken.wav", "scan": null}\n'
    assert content_id not in json.dumps(receipt)
    with pytest.raises(UnknownTrack, match="no track with this path"):
        erasure.erase_track(marked, content_id[:12], lambda _: None)


def test_an_ambiguous_beginning_removes_nothing(marked):
    with marked.writing():
        for ending in "ab":
            track = {"content_id": f"77{ending}", "duration_s": 1.0, "first_seen_at": "2026-01-01T00:00:00Z"}
            marked.insert("tracks", track)

    with pytest.raises(UnknownTrack, match=r"77: names 2 tracks \(77a, 77b"):
        erasure.erase_track(marked, "77", lambda _: None)
    with pytest.raises(UnknownTrack, match="no track with this path"):
        erasure.erase_track(marked, "", lambda _: None)


def test_replay_removes_again_what_an_older_copy_still_has(marked, encoder, tmp_path):
    (number, *_), *_ = marked.reference_windows(marked.artist("Bo").artist_id, status=None)
    copy_home = copy_of(marked, tmp_path)
    erasure.erase_artist(marked, mark("new name"), lambda _: None)
    erasure.erase_track(marked, TRACK.content_id, lambda _: None)
    erasure.erase_reference(marked, "Bo", number, lambda _: None)

    with Store(copy_home) as copy:
        assert erasure.replay(copy, erasure.receipts(marked)) == 3
        assert copy.artist("Bo").n_references == 0
        assert files_holding(copy_home, MARK.encode()) == []
        assert files_holding(copy_home, TRACK.content_id.encode()) == []
        assert erasure.replay(copy, erasure.receipts(marked)) == 0


def test_a_search_that_cannot_be_done_is_said_and_the_next_command_ends_the_removal_without(marked, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(RegistryError, match="removed, and not verified"):
        patched.setattr("registry.byte_search.sys.executable", "/bin/false")
        erasure.erase_artist(marked, mark("new name"), lambda _: None)
    assert marked.has_pending_erasures()

    erasure.finish_pending(marked, lambda _: None)

    assert not marked.has_pending_erasures()
    assert erasure.receipts(marked)[-1]["verified"][-1].startswith("no search of the files' bytes")
    assert files_holding(marked.home, mark("new name").encode()) == []


def test_whoever_reads_an_earlier_moment_does_not_put_its_index_in_place(marked, encoder):
    """A reader whose moment is before a removal finds the index of after it stale, and makes its own in memory."""
    vectors = vector_bytes(marked, mark("new name"))
    with Store(marked.home) as late, late.reading():
        assert late.revision == marked.revision
        with Store(marked.home) as other:
            erasure.erase_artist(other, mark("new name"), lambda _: None)
        said: list[str] = []
        index = open_store_index(late, encoder.encoder_id, encoder.dim, said.append)
        assert len(index) > 8  # of the moment that it reads
        assert [line.split("; ")[-1] for line in said] == ["rebuilding the index from the store"]
    assert {name for vector in vectors for name in files_holding(marked.home, vector)} <= {
        "registry.db",
        "registry.db-wal",
    }
    erasure.finish_pending(marked, lambda _: None)
    assert traces(marked, vectors) == {"marks": [], "vectors": []}


def test_replay_also_removes_who_was_merged_into_the_removed_artist_since(marked, encoder, tmp_path):
    enroll_vectors(marked, encoder, "Cy", singer(4))
    enroll_vectors(marked, encoder, "Dee", singer(4, seed=3))
    copy_home = copy_of(marked, tmp_path)
    identity.merge_artists(marked, "Cy", "Dee")
    erasure.erase_artist(marked, "Cy", lambda _: None)

    with Store(copy_home) as copy:
        assert erasure.replay(copy, erasure.receipts(marked)) == 2
        assert (copy.find_artist("Cy"), copy.find_artist("Dee")) == (None, None)


def test_replay_also_removes_references_that_were_split_off_since(marked, encoder, tmp_path):
    first = enroll_vectors(marked, encoder, "Cy", singer(4), content="one.wav").reference_id
    second = enroll_vectors(marked, encoder, "Cy", singer(4, seed=3), content="two.wav").reference_id
    copy_home = copy_of(marked, tmp_path)
    identity.split_artist(marked, "Cy", [second], "Dee")
    erasure.erase_artist(marked, "Dee", lambda _: None)

    with Store(copy_home) as copy:
        assert erasure.replay(copy, erasure.receipts(marked)) == 1
        assert [reference.reference_id for reference in copy.references("Cy")] == [first]


def test_a_recording_that_two_artists_have_stays_with_the_other(marked, encoder, tmp_path):
    for name in ("Cy", "Dee"):
        enroll_vectors(marked, encoder, name, singer(4), content="duet.wav", force_reason="a duet")
    copy_home = copy_of(marked, tmp_path)

    receipt = erasure.erase_artist(marked, "Cy", lambda _: None)

    assert receipt["finished_at"] and len(marked.references("Dee")) == 1
    with Store(copy_home) as copy:
        assert erasure.replay(copy, erasure.receipts(marked)) == 1
        assert [artist.name for artist in copy.artists()] == ["Bo", "Dee", mark("new name")]


def test_a_track_that_is_also_a_reference_is_removed_as_a_track_only(marked, encoder):
    enroll_vectors(marked, encoder, "Cy", singer(4), content="a track")  # the very content of TRACK

    receipt = erasure.erase_track(marked, TRACK.content_id, lambda _: None)

    assert receipt["finished_at"] and receipt["removed"]["scans"] == 1
    assert marked.artist("Cy").n_references == 1
    assert find_problems(marked) == []


def copy_of(store: Store, folder: Path) -> Path:
    """A copy of a registry's database, as a backup has it."""
    home = folder / "copy"
    home.mkdir()
    with closing(sqlite3.connect(home / "registry.db")) as target:
        store.db.conn.backup(target)
    return home


def test_removals_at_once_leave_a_report_whole(marked, tmp_path):
    """Whoever finds a report being written anew by another removal waits for its turn."""
    report = tmp_path / "outcomes.jsonl"
    with report.open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        receipt = erasure.erase_artist(marked, mark("new name"), lambda _: None)
        assert receipt["pending"][0] == "taking it out of reports"
    users_own = tmp_path / "outcomes.jsonl.part"
    users_own.write_text("mine", encoding="utf-8")
    erasure.finish_pending(marked, lambda _: None)
    assert MARK not in report.read_text(encoding="utf-8")
    assert users_own.read_text(encoding="utf-8") == "mine"


def test_a_line_that_was_cut_off_when_a_batch_was_killed_does_not_keep_a_report_from_being_cleaned(marked, tmp_path):
    report = tmp_path / "outcomes.jsonl"
    with report.open("a", encoding="utf-8") as file:
        file.write('{"path": "/in/half.wav", "sc')

    receipt = erasure.erase_artist(marked, mark("new name"), lambda _: None)

    assert len(report.read_text(encoding="utf-8").splitlines()) == 2
    assert MARK not in report.read_text(encoding="utf-8")
    assert not [text for text in receipt["not_reached"] if text.startswith(str(report))]


def test_a_report_of_a_run_that_was_purged_is_cleaned_too(marked, tmp_path):
    with marked.writing():
        marked.db.execute("DELETE FROM runs")

    erasure.erase_artist(marked, mark("new name"), lambda _: None)

    assert MARK not in (tmp_path / "outcomes.jsonl").read_text(encoding="utf-8")


def test_removing_one_reference_takes_it_out_of_reports_and_of_the_audit_wherever_it_was(marked, encoder, tmp_path):
    second = enroll_vectors(marked, encoder, "Cy", singer(4), content="of-cy.wav").reference_id
    identity.merge_artists(marked, "Bo", "Cy")
    report = tmp_path / "outcomes.jsonl"
    evidence = {"reference_id": second, "reference": "/music/of-cy.wav"}
    match = {"artist_id": 1, "evidence": [evidence, {"reference_id": 1, "reference": "/music/Bo.wav"}]}
    line = {"path": "/in/a.wav", "scan": {"content_id": "c", "matches": [match]}}
    report.write_text(json.dumps(line) + "\n", encoding="utf-8")

    erasure.erase_reference(marked, "Bo", second, lambda _: None)

    (left,) = json.loads(report.read_text(encoding="utf-8"))["scan"]["matches"]
    assert [item["reference_id"] for item in left["evidence"]] == [1]
    assert files_holding(marked.home, b"of-cy.wav") == []


def test_a_removed_artist_is_in_a_report_no_lookalike_of_another(marked, tmp_path):
    """Reports of earlier releases, which say nothing of lookalikes, are left as they are."""
    report, other = tmp_path / "outcomes.jsonl", marked.artist(mark("new name")).artist_id
    matches = [{"artist_id": 1, "evidence": [], "lookalike_ids": [other, 77]}, {"artist_id": 1, "evidence": []}]
    line = {"path": "/in/a.wav", "scan": {"content_id": "c", "matches": matches}}
    report.write_text(json.dumps(line) + "\n", encoding="utf-8")

    erasure.erase_artist(marked, mark("new name"), lambda _: None)

    assert json.loads(report.read_text(encoding="utf-8"))["scan"]["matches"] == [
        {"artist_id": 1, "evidence": [], "lookalike_ids": [77]},
        {"artist_id": 1, "evidence": []},
    ]


def test_what_is_split_off_and_removed_is_not_in_the_audit_of_whom_it_was_split_from(marked, encoder):
    second = enroll_vectors(marked, encoder, "Bo", singer(4), content="of-bea.wav").reference_id
    identity.split_artist(marked, "Bo", [second], "Bea")

    erasure.erase_artist(marked, "Bea", lambda _: None)

    assert files_holding(marked.home, b"of-bea.wav") == []
    assert audit.verify(marked).problems == ()


def test_a_reference_removed_from_one_artist_stays_with_another_after_a_restore(marked, encoder, tmp_path):
    numbers = [
        enroll_vectors(marked, encoder, name, singer(4), content="duet.wav", force_reason="a duet").reference_id
        for name in ("Cy", "Dee")
    ]
    copy_home = copy_of(marked, tmp_path)
    erasure.erase_reference(marked, "Cy", numbers[0], lambda _: None)

    with Store(copy_home) as copy:
        assert erasure.replay(copy, erasure.receipts(marked)) == 1
        assert [reference.reference_id for reference in copy.references("Dee")] == [numbers[1]]


def test_a_track_that_could_not_be_read_does_not_come_back_with_a_restore(marked, tmp_path):
    with marked.writing():
        row = {"run_id": 1, "position": 7, "path": "/in/bad.wav", "title": "T", "uploader": "jane@x", "extra": "{}"}
        marked.insert("run_tracks", {**row, "outcome": "failed", "kind": "truncated", "reason": "it ends"})
    copy_home = copy_of(marked, tmp_path)
    erasure.erase_track(marked, "/in/bad.wav", lambda _: None)

    with Store(copy_home) as copy:
        assert erasure.replay(copy, erasure.receipts(marked)) == 1
        assert files_holding(copy_home, b"jane@x") == []


def test_a_step_that_fails_does_not_keep_other_commands_from_their_work(marked, monkeypatch):
    def fail(*_: object) -> None:
        raise RegistryError("registry.db: database or disk is full")

    monkeypatch.setattr(Store, "compact", fail)
    said: list[str] = []

    receipt = erasure.erase_artist(marked, mark("new name"), said.append)

    assert receipt["pending"][0] == "writing the database anew"
    assert "waits for what is wrong to end: registry.db: database or disk is full" in said[0]
    erasure.finish_pending(marked, said.append)  # nor does it raise


def test_a_take_that_begins_like_another_ones_does_not_stand_in_the_way(marked, encoder):
    whole = singer(4)
    enroll_vectors(marked, encoder, "Cy", whole, content="whole.wav")
    enroll_vectors(marked, encoder, "Dee", whole[:5], content="trimmed.wav")

    assert erasure.erase_artist(marked, "Dee", lambda _: None)["finished_at"]
