from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from registry import store as store_module
from registry.errors import (
    AlreadyEnrolled,
    EncoderMismatch,
    RegistryError,
    StoreBusy,
    StoreDamaged,
    StoreTooNew,
    UnknownArtist,
)
from registry.records import ArtistSummary, Consent, NewTemplate, Reference
from registry.store import DATABASE, Store, now
from tests.fakes import DIM, ENCODER_ID, FakeEncoder, enroll_vectors, singer, table_counts, unit

TIMES = np.array([[0.0, 4.0], [2.0, 6.0]])


def add_reference(store: Store, artist: str, content_id: str = "a" * 64, *, consent: Consent | None = None) -> int:
    """Add a reference of two windows and one template, in the transaction that is open; returns the artist's id."""
    store.bind_encoder(FakeEncoder())
    artist_id = store.add_artist(artist)
    vectors = singer(artist_id % DIM, 2, seed=artist_id)
    reference_id = store.add_reference(
        artist_id,
        store.add_consent(artist_id, consent or Consent("release-1")),
        path=f"/music/{artist}.wav",
        kept_path=None,
        content_id=content_id,
        duration_s=8.0,
        voiced_s=6.0,
        vectors=vectors,
        times=TIMES,
        forced=False,
    )
    store.replace_templates(artist_id, [NewTemplate(vectors[0], reference_id, 0.0, 4.0, 2)])
    return artist_id


@pytest.fixture
def ada(store) -> int:
    with store.writing():
        return add_reference(store, "Ada")


@pytest.fixture
def brief_patience(monkeypatch) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_MS", 50)


# --- the files ---


def test_home_and_database_are_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        with Store(tmp_path / "home", create=True) as store, store.writing():
            add_reference(store, "Ada")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.home.iterdir()}
            home_mode = stat.S_IMODE(store.home.stat().st_mode)
    finally:
        os.umask(old)

    assert home_mode == 0o700
    assert modes == {DATABASE: 0o600, f"{DATABASE}-wal": 0o600, f"{DATABASE}-shm": 0o600}


def test_a_folder_without_a_registry_is_refused_and_stays_as_it_was(tmp_path):
    with pytest.raises(RegistryError, match=r"no registry here; `likeness enroll` or `likeness init` makes one"):
        Store(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "home"
    path.write_text("not a folder")

    with pytest.raises(RegistryError, match=r"home: cannot be made a registry \(.*\); choose another --home"):
        Store(path, create=True)


def test_what_was_written_is_there_when_the_store_is_opened_again(store, ada):
    store.close()

    with Store(store.home) as again:
        assert [artist.name for artist in again.artists()] == ["Ada"]


@pytest.mark.parametrize("content", [b"once upon a time " * 500, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_damage_and_is_left_alone(tmp_path, content):
    (tmp_path / DATABASE).write_bytes(content)

    with pytest.raises(StoreDamaged, match=r"registry\.db: .*run `likeness check`, and restore your last backup"):
        Store(tmp_path)

    assert (tmp_path / DATABASE).read_bytes() == content


def test_a_database_that_was_emptied_is_damage_and_not_a_registry_without_artists(store, ada):
    """Taken for a new one it would clear every track."""
    store.close()
    store.path.write_bytes(b"")

    with pytest.raises(StoreDamaged, match=r"registry\.db: holds no registry; restore your last backup"):
        Store(store.home)


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / DATABASE
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE recipes (name TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()

    with pytest.raises(StoreDamaged, match=r"holds no registry"):
        Store(tmp_path)

    assert path.read_bytes() == before


def test_damage_inside_is_reported_as_damage(store):
    with store.writing():
        for k in range(40):
            add_reference(store, f"artist {k}", f"{k:064d}")
    store.close()
    content = bytearray(store.path.read_bytes())
    content[4096 * 3 :] = b"\xab" * (len(content) - 4096 * 3)
    store.path.write_bytes(content)

    with pytest.raises(StoreDamaged, match="likeness check"), Store(store.home) as again:
        again.artists()
        again.template_vectors()
        again.problems()


def test_a_store_of_a_newer_release_is_refused(store):
    with store.writing():
        store.insert(
            "_sqlite_migrations", {"migration_set": "likeness", "name": "m999_future", "applied_at": "2031-01-01"}
        )
    store.close()

    with pytest.raises(StoreTooNew, match=r"it has m999_future\); upgrade with `pip install --upgrade likeness`"):
        Store(store.home)


def test_a_disk_that_is_full_is_said_and_nothing_is_changed(store, ada):
    store.db.execute(f"PRAGMA max_page_count = {store.rows('PRAGMA page_count')[0]['page_count'] + 2}")

    with pytest.raises(RegistryError, match=r"full; nothing was changed\. Free some space"), store.writing():
        store.insert("settings", {"key": "k", "value": "x" * 100_000})

    assert store.setting("k") is None


# --- settings of every connection ---


def test_every_connection_enforces_foreign_keys_erases_and_waits(store):
    store.close()
    with Store(store.home) as again:
        values = {
            name: next(iter(again.rows(f"PRAGMA {name}")[0].values()))
            for name in ("foreign_keys", "secure_delete", "journal_mode", "synchronous", "busy_timeout")
        }

    assert values == {
        "foreign_keys": 1,
        "secure_delete": 1,
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 30_000,
    }


def test_a_row_that_points_at_nothing_is_refused(store):
    with pytest.raises(RegistryError, match="FOREIGN KEY constraint failed"), store.writing():
        store.add_consent(12345, Consent("release-1"))


# --- transactions ---


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_transaction_that_fails_leaves_nothing(store, error):
    with pytest.raises(error, match="in the middle"), store.writing():
        add_reference(store, "Ada")
        raise error("in the middle")

    assert (table_counts(store), store.revision, store.encoder_id) == ({}, 0, None)


def _die_while_writing(home: Path) -> None:
    with Store(home) as store, store.writing():
        for k in range(200):
            add_reference(store, f"artist {k}", f"{k:064d}")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_is_killed_leaves_nothing(store, ada):
    process = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(store.home,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    with store.writing():  # and holds no lock
        add_reference(store, "Bo", "b" * 64)

    assert [artist.name for artist in store.artists()] == ["Ada", "Bo"]
    assert (store.revision, store.problems()) == (2, [])


def test_readers_see_the_old_state_until_a_transaction_ends(store):
    with Store(store.home) as reader:
        with store.writing():
            add_reference(store, "Ada")
            assert reader.artists() == []

        assert [artist.name for artist in reader.artists()] == ["Ada"]


def test_reading_is_from_one_moment(store, ada):
    with Store(store.home) as reader:
        with reader.reading():
            assert reader.revision == 1
            with store.writing():
                add_reference(store, "Bo", "b" * 64)
            assert (reader.revision, len(reader.gallery().vectors)) == (1, 1)

        assert (reader.revision, len(reader.gallery().vectors)) == (2, 2)


@pytest.mark.usefixtures("brief_patience")
def test_a_second_writer_that_waits_in_vain_is_told_so(store):
    with Store(store.home) as second:
        with store.writing(), pytest.raises(StoreBusy, match="another command has been writing"), second.writing():
            pass

        with second.writing():  # and goes on once the first is done
            add_reference(second, "Ada")


def test_a_second_writer_waits_for_its_turn(store):
    began = threading.Event()

    def write_slowly() -> None:
        with Store(store.home) as first, first.writing():
            began.set()
            add_reference(first, "Ada")
            threading.Event().wait(0.2)

    thread = threading.Thread(target=write_slowly)
    thread.start()
    began.wait()
    with store.writing():
        names = [artist.name for artist in store.artists()]
    thread.join()

    assert names == ["Ada"]


def _write_artists(home: Path, name: str, n_artists: int) -> None:
    for k in range(n_artists):
        with Store(home, create=True) as store, store.writing():
            add_reference(store, f"{name} {k}", f"{name}{k}".rjust(64, "0"))


def _read_until(home: Path, n_artists: int, mistakes: multiprocessing.Queue) -> None:
    """Read in a loop: a reference without its template, or another revision, would be half a transaction."""
    found = 0
    try:
        while found < n_artists:
            with Store(home) as store, store.reading():
                found = len(store.artists())
                seen = (store.revision, len(store.references()), len(store.gallery().vectors))
            if seen != (found, found, found):
                mistakes.put(seen)
    except Exception as error:
        mistakes.put(repr(error))
    mistakes.put("done")


def test_processes_write_and_read_one_store_at_once(store):
    spawn = multiprocessing.get_context("spawn")
    said = spawn.Queue()
    writers = [spawn.Process(target=_write_artists, args=(store.home, name, 8)) for name in ("one", "two")]
    reader = spawn.Process(target=_read_until, args=(store.home, 16, said))
    for process in (*writers, reader):
        process.start()
    for process in (*writers, reader):
        process.join(60)

    assert [process.exitcode for process in (*writers, reader)] == [0, 0, 0]
    assert said.get(timeout=5) == "done"
    assert (store.revision, len(store.artists())) == (16, 16)


def test_many_may_make_the_same_registry_at_once(tmp_path):
    problems: list[BaseException] = []
    gate = threading.Barrier(6)

    def make() -> None:
        try:
            gate.wait()
            with Store(tmp_path / "home", create=True) as store:
                assert store.revision == 0
        except BaseException as error:  # handed to the test
            problems.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []


def test_a_migration_that_is_cut_short_leaves_nothing(tmp_path, monkeypatch):
    """Half a schema could neither be used nor made whole."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr("sqlite_utils.Migrations._record_applied", fail)
        with pytest.raises(KeyboardInterrupt, match="in the middle"):
            Store(tmp_path / "home", create=True)

    with Store(tmp_path / "home", create=True) as store:
        assert (store.revision, store.artists()) == (0, [])


# --- encoder, settings, revision ---


def test_the_first_encoder_is_recorded(store, ada):
    record = store.encoder()

    assert {key: value for key, value in record.items() if key != "first_used_at"} == {
        "encoder_id": ENCODER_ID,
        "source": "fake",
        "dim": DIM,
        "rate_hz": 16000,
        "window_s": 4.0,
        "hop_s": 2.0,
    }


def test_another_encoder_is_refused_and_both_are_named(store, ada):
    other = FakeEncoder()
    other.encoder_id = "0" * 64

    with pytest.raises(EncoderMismatch, match=r"encoder ffffffffffff \(fake\), this one is 000000000000"):
        store.check_encoder(other.encoder_id)
    with pytest.raises(EncoderMismatch, match="cannot be compared"), store.writing():
        store.bind_encoder(other)


def test_a_setting_is_what_was_set_last(store):
    assert store.setting("budget", 0.01) == 0.01

    for value in (1, {"per_year": 12}):
        with store.writing():
            store.set_setting("budget", value)

    assert store.setting("budget") == {"per_year": 12}


def test_every_change_of_templates_makes_a_new_revision_and_nothing_else_does(store):
    revisions = [store.revision]
    with store.writing():
        artist_id = add_reference(store, "Ada")
    revisions.append(store.revision)
    with store.writing():
        store.add_consent(artist_id, Consent("release-2"))
        store.set_setting("k", 1)
    store.rename_artist("Ada", "Ada Vale")
    revisions.append(store.revision)
    store.remove_artist("Ada Vale")
    revisions.append(store.revision)

    assert revisions == [0, 1, 1, 2]


# --- artists ---


def test_artists_are_listed_with_what_is_on_record(store, ada):
    with store.writing():
        add_reference(store, "Ada", "b" * 64)
        store.add_artist("Aaron")

    aaron, ada_on_record = store.artists()

    assert (aaron.name, aaron.n_references, aaron.n_templates, aaron.voiced_s) == ("Aaron", 0, 0, 0.0)
    assert ada_on_record == ArtistSummary(ada, "Ada", 2, 1, 12.0, ada_on_record.created_at)
    assert store.artist("Ada") == ada_on_record


def test_an_unknown_artist_suggests_the_nearest_names(store, ada):
    with store.writing():
        store.add_artist("Adam Vale")

    with pytest.raises(UnknownArtist, match=r"^Adda: not enrolled; did you mean Ada\?$"):
        store.artist("Adda")
    with pytest.raises(UnknownArtist, match=r"^Zuzu: not enrolled; `likeness artists list` shows who is$"):
        store.artist("Zuzu")


def test_names_are_never_taken_for_sql(store):
    name = "Robert'); DROP TABLE artists;--%_"
    with store.writing():
        add_reference(store, name)

    assert [reference.artist for reference in store.references(name)] == [name]
    assert store.artist(name).n_references == 1


def test_rename_keeps_everything_else(store, ada):
    before = store.artist("Ada")

    store.rename_artist("Ada", "Ada Vale")

    after = store.artist("Ada Vale")
    assert after == ArtistSummary(**{**vars(before), "name": "Ada Vale"})
    assert [reference.artist for reference in store.references()] == ["Ada Vale"]


def test_rename_to_a_name_that_is_taken_is_refused(store, ada):
    with store.writing():
        add_reference(store, "Bo", "b" * 64)

    with pytest.raises(RegistryError, match="Bo: is enrolled already; two artists cannot share a name"):
        store.rename_artist("Ada", "Bo")
    with pytest.raises(UnknownArtist, match="Cy: not enrolled"):
        store.rename_artist("Cy", "Di")

    assert [artist.name for artist in store.artists()] == ["Ada", "Bo"]


def test_an_id_is_never_given_twice(store, ada):
    """An old scan or index that names a removed artist must not come to mean another."""
    store.remove_artist("Ada")
    with store.writing():
        bo = add_reference(store, "Bo")

    assert bo > ada
    assert store.template_vectors()[0].tolist() == [2]


# --- references and consents ---


def test_a_reference_is_on_record_as_it_was_given(store, ada):
    (reference,) = store.references("Ada")

    assert reference == Reference(
        reference_id=1,
        artist="Ada",
        path="/music/Ada.wav",
        kept_path=None,
        content_id="a" * 64,
        duration_s=8.0,
        voiced_s=6.0,
        n_windows=2,
        consent="release-1",
        consent_expires_at=None,
        forced=False,
        added_at=reference.added_at,
    )
    ((reference_id, vectors, times),) = store.reference_windows(ada)
    assert reference_id == 1
    np.testing.assert_array_equal(vectors, singer(ada, 2, seed=ada))
    np.testing.assert_array_equal(times, TIMES)


def test_the_same_content_twice_for_one_artist_is_refused_by_the_database_itself(store, ada):
    with pytest.raises(AlreadyEnrolled, match=r"/music/Ada\.wav: enrolled already"), store.writing():
        add_reference(store, "Ada")

    assert len(store.references()) == 1


def test_holders_of_a_recording_are_named(store, ada):
    with store.writing():
        add_reference(store, "Bo")

    assert (store.holders("a" * 64), store.holders("b" * 64)) == (["Ada", "Bo"], [])


def test_the_same_consent_is_recorded_once(store, ada):
    with store.writing():
        ids = [
            store.add_consent(ada, Consent("release-1")),
            store.add_consent(ada, Consent("release-1", "2031-01-01T00:00:00Z")),
            store.add_consent(ada, Consent("release-1", "2031-01-01T00:00:00Z")),
        ]

    assert ids == [1, 2, 2]


def test_an_artist_is_expired_once_every_consent_is_over(store):
    past = (datetime.fromisoformat(now()) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with store.writing():
        over = add_reference(store, "Over", "a" * 64, consent=Consent("r", past))
        renewed = add_reference(store, "Renewed", "b" * 64, consent=Consent("r", past))
        store.add_consent(renewed, Consent("r", "2999-01-01T00:00:00Z"))
        add_reference(store, "Endless", "c" * 64)

    assert store.expired_artists() == {over: "Over"}


# --- templates ---


def test_templates_are_blobs_that_a_stranger_reads_with_one_line(store, ada):
    blob = store.rows("SELECT vector FROM templates")[0]["vector"]

    np.testing.assert_array_equal(np.frombuffer(blob, "<f4"), singer(ada, 2, seed=ada)[0])


def test_the_gallery_lies_grouped_by_artist_however_the_rows_came(store):
    with store.writing():
        ada, bo = add_reference(store, "Ada", "a" * 64), add_reference(store, "Bo", "b" * 64)
        templates = unit(np.eye(DIM)[:3])
        store.replace_templates(ada, [NewTemplate(v, 1, 1.0 * k, 4.0 + k, 1) for k, v in enumerate(templates)])

    gallery = store.gallery()

    assert gallery.artist_id.tolist() == [ada, ada, ada, bo]
    assert gallery.template_id.tolist() == [3, 4, 5, 2]
    assert (gallery.start_s.tolist(), gallery.end_s.tolist()) == ([0.0, 1.0, 2.0, 0.0], [4.0, 5.0, 6.0, 4.0])
    np.testing.assert_array_equal(gallery.vectors[:3], templates)
    assert store.gallery(without=[ada]).artist_id.tolist() == [bo]


def test_a_store_without_templates_has_an_empty_gallery(store):
    ids, vectors = store.template_vectors()

    assert (ids.shape, vectors.shape, store.gallery().vectors.shape) == ((0,), (0, 0), (0, 0))


# --- soundness ---


def test_a_sound_store_has_no_problems(store, ada):
    assert store.problems() == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE templates SET vector = zeroblob(32)", "template 1: not a unit vector of 8 numbers"),
        ("UPDATE templates SET vector = x'00'", "template 1: not a unit vector of 8 numbers"),
        (
            "UPDATE templates SET vector = CAST(x'0000c07f' || zeroblob(28) AS BLOB)",
            "template 1: not a unit vector of 8 numbers",
        ),
        ("UPDATE artist_references SET n_windows = 3", "reference 1: its vectors are not 3 windows of 8"),
        ("DELETE FROM templates", "artist Ada: references but no templates"),
        (
            "UPDATE templates SET reference_id = 77",
            "templates row 1: points at a artist_references that is gone",
        ),
    ],
)
def test_what_is_wrong_is_named(store, ada, damage, problem):
    store.db.execute("PRAGMA foreign_keys = OFF")
    store.db.execute(damage)

    assert store.problems() == [problem]


def test_templates_of_a_wrong_size_are_damage_to_whoever_reads_them(store, ada):
    store.db.execute("UPDATE templates SET vector = x'0000'")

    for read in (store.template_vectors, store.gallery):
        with pytest.raises(StoreDamaged, match=r"take 2 bytes, 1 of 8 numbers would take 32; run `likeness check`"):
            read()


def test_a_home_that_cannot_be_written_to_can_be_read(store, encoder, home, monkeypatch):
    """A backup on read-only media; as root, permissions do not say no, so the answer is given for them."""
    enroll_vectors(store, encoder, "Ada", singer(0))
    store.close()
    monkeypatch.setattr("registry.store.os.access", lambda path, mode: False)

    with Store(home) as read_only:
        assert [artist.name for artist in read_only.artists()] == ["Ada"]
        with pytest.raises(RegistryError, match="cannot be written"), read_only.writing():
            read_only.set_setting("a", 1)


def test_a_home_that_cannot_be_written_to_and_is_in_use_is_refused(store, home, monkeypatch):
    with store.writing():
        store.set_setting("a", 1)
    assert (home / "registry.db-wal").stat().st_size
    monkeypatch.setattr("registry.store.os.access", lambda path, mode: False)

    with pytest.raises(RegistryError, match=r"its log \(registry\.db-wal\) is open"):
        Store(home)
