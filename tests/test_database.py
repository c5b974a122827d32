from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from registry import database, erasure, identity, rights
from registry.check import database_problems
from registry.database import DATABASE
from registry.errors import EncoderMismatch, RegistryError, StoreBusy, StoreDamaged, StoreTooNew
from registry.records import Consent
from registry.store import Store
from tests.fakes import DIM, ENCODER_ID, FakeEncoder, add_reference, enroll_vectors, singer, table_counts

VOICE = singer(1, 2)


@pytest.fixture
def ada(store) -> int:
    with store.writing():
        return add_reference(store, "Ada", VOICE)


@pytest.fixture
def brief_patience(monkeypatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)


# --- the files ---


def test_home_and_database_are_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        with Store(tmp_path / "home", create=True) as store, store.writing():
            add_reference(store, "Ada", VOICE)
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
            add_reference(store, f"artist {k}", VOICE, content_id=f"{k:064d}")
    store.close()
    content = bytearray(store.path.read_bytes())
    content[4096 * 3 :] = b"\xab" * (len(content) - 4096 * 3)
    store.path.write_bytes(content)

    with pytest.raises(StoreDamaged, match="likeness check"), Store(store.home) as again:
        again.artists()
        again.template_vectors()
        database_problems(again)


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


# --- a home that cannot be written to ---


def test_a_home_that_cannot_be_written_to_can_be_read(store, encoder, home, monkeypatch):
    """A backup on read-only media; as root, permissions do not say no, so the answer is given for them."""
    enroll_vectors(store, encoder, "Ada", singer(0))
    store.close()
    monkeypatch.setattr("registry.database.os.access", lambda path, mode: False)

    with Store(home) as read_only:
        assert [artist.name for artist in read_only.artists()] == ["Ada"]
        with pytest.raises(RegistryError, match="cannot be written"), read_only.writing():
            read_only.set_setting("a", 1)


def test_a_home_that_cannot_be_written_to_and_is_in_use_is_refused(store, home, monkeypatch):
    with store.writing():
        store.set_setting("a", 1)
    assert (home / "registry.db-wal").stat().st_size
    monkeypatch.setattr("registry.database.os.access", lambda path, mode: False)

    with pytest.raises(RegistryError, match=r"its log \(registry\.db-wal\) is open"):
        Store(home)


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
        rights.add_consent(store, 12345, Consent("release-1"))


# --- transactions ---


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_transaction_that_fails_leaves_nothing(store, error):
    with pytest.raises(error, match="in the middle"), store.writing():
        add_reference(store, "Ada", VOICE)
        raise error("in the middle")

    assert (table_counts(store), store.revision, store.encoder_id) == ({}, 0, None)


def _die_while_writing(home: Path) -> None:
    with Store(home) as store, store.writing():
        for k in range(200):
            add_reference(store, f"artist {k}", VOICE, content_id=f"{k:064d}")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_is_killed_leaves_nothing(store, ada):
    process = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(store.home,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    with store.writing():  # and holds no lock
        add_reference(store, "Bo", VOICE, content_id="b" * 64)

    assert [artist.name for artist in store.artists()] == ["Ada", "Bo"]
    assert (store.revision, database_problems(store)) == (2, [])


def test_readers_see_the_old_state_until_a_transaction_ends(store):
    with Store(store.home) as reader:
        with store.writing():
            add_reference(store, "Ada", VOICE)
            assert reader.artists() == []

        assert [artist.name for artist in reader.artists()] == ["Ada"]


def test_reading_is_from_one_moment(store, ada):
    with Store(store.home) as reader:
        with reader.reading():
            assert reader.revision == 1
            with store.writing():
                add_reference(store, "Bo", VOICE, content_id="b" * 64)
            assert (reader.revision, len(reader.gallery().vectors)) == (1, 1)

        assert (reader.revision, len(reader.gallery().vectors)) == (2, 2)


@pytest.mark.usefixtures("brief_patience")
def test_a_second_writer_that_waits_in_vain_is_told_so(store):
    with Store(store.home) as second:
        with store.writing(), pytest.raises(StoreBusy, match="another command has been writing"), second.writing():
            pass

        with second.writing():  # and goes on once the first is done
            add_reference(second, "Ada", VOICE)


def test_a_second_writer_waits_for_its_turn(store):
    began = threading.Event()

    def write_slowly() -> None:
        with Store(store.home) as first, first.writing():
            began.set()
            add_reference(first, "Ada", VOICE)
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
            add_reference(store, f"{name} {k}", VOICE, content_id=f"{name}{k}".rjust(64, "0"))


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
        artist_id = add_reference(store, "Ada", VOICE)
    revisions.append(store.revision)
    with store.writing():
        rights.add_consent(store, artist_id, Consent("release-2"))
        store.set_setting("k", 1)
    identity.rename_artist(store, "Ada", "Ada Vale")
    identity.add_alias(store, "Ada Vale", "DJ Vale")
    rights.withdraw_consent(store, "Ada Vale", "release-2")
    revisions.append(store.revision)
    erasure.erase_artist(store, "Ada Vale", print)
    revisions.append(store.revision)

    assert revisions == [0, 1, 1, 2]
