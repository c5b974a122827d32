"""Backups, and restores in which nobody who was removed comes back, whenever they are cut off."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry import audit, backup, erasure, rights, scans
from registry.backup import Comparison, back_up, prepared_restore, put_in_place, read_receipts
from registry.check import find_problems
from registry.config import RETENTION_DAYS, change_setting, retention_days
from registry.encryption import encrypt_registry
from registry.enroll import enroll_recording
from registry.errors import KeyMissing, RegistryError, StoreBusy, StoreDamaged, StoreTooNew
from registry.match import index_path, write_store_index
from registry.scratch import SCRATCH, scratch_folder
from registry.store import Store
from tests.cli_fakes import REPO
from tests.fakes import CONSENT, FakeEncoder, enroll_vectors, files_holding, make_matcher, make_voiceprint, singer

AUDIO = b"RIFF" + bytes(range(256)) * 400


def quiet(_: str) -> None:
    """Nobody listens."""


def enroll_kept(store: Store, folder: Path, artist: str, axis: int, content: str) -> str:
    """Enroll a recording and keep a copy of it; returns the copy's path in the home."""
    recording = folder / f"{content}.wav"
    recording.write_bytes(AUDIO + content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry.enroll.embed_file", lambda *_, **__: make_voiceprint(singer(axis), content))
        outcome = enroll_recording(store, FakeEncoder(), artist, recording, CONSENT, keep_audio=True)
    assert outcome.outcome == "enrolled"
    rows = store.rows("SELECT kept_path FROM artist_references WHERE reference_id = ?", [outcome.reference_id])
    return str(rows[0]["kept_path"])


def scan_track(store: Store, path: str, axis: int, content: str) -> None:
    matcher, _ = make_matcher(store, FakeEncoder())
    with store.writing():
        scans.add_scan(store, matcher.scan(path, make_voiceprint(singer(axis, seed=7), content)))


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    """A folder for backups."""
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder


@pytest.fixture
def filled(store: Store, encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A registry with two artists, of whom one recording each is kept, and two tracks."""
    monkeypatch.setattr(erasure, "WAIT_S", 0.2)
    enroll_kept(store, tmp_path, "Ada", 1, "ada one")
    enroll_vectors(store, encoder, "Ada", singer(1, seed=3), content="ada two.wav")
    enroll_kept(store, tmp_path, "Bo", 5, "bo one")
    scan_track(store, "/in/one.wav", 1, "track one")
    scan_track(store, "/in/two.wav", 3, "track two")
    write_store_index(store, quiet)
    return store


def content_of(home: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, but for what a backup and a restore say of themselves."""
    with closing(sqlite3.connect(home / "registry.db")) as connection:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        tables = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names}
    for name in ("audit", "audit_payloads", "backups", "meta", "sqlite_sequence", "sqlite_stat1"):
        tables.pop(name, None)
    return tables


def audio_of(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((home / "audio").glob("*"))}


def restore(home: Path, path: Path, receipts: list[dict[str, Any]] | None = None) -> Comparison:
    """Restore a backup into a home as the command does."""
    with (
        Store(home, create=True, actor="ines") as store,
        prepared_restore(store, path, receipts or []) as prepared,
    ):
        put_in_place(store, prepared)
    with Store(home) as store:
        write_store_index(store, quiet)
        assert find_problems(store) == []
    assert not list(home.glob(f"{SCRATCH}*"))
    return prepared.comparison


def names_in(home: Path) -> list[str]:
    with Store(home) as store:
        return [artist.name for artist in store.artists()]


# -- backup ------------------------------------------------------------------------------------------------------------


def test_a_backup_is_one_private_file_with_everything(filled, backups, monkeypatch):
    monkeypatch.setattr(backup, "PART_BYTES", 10_000)
    path = backups / "likeness.db"

    made = back_up(filled, path)

    assert list(backups.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made == backup.Backup(str(path), made.made_at, path.stat().st_size, 2, 0, ())
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        parts = copy.execute("SELECT kept_path, part, bytes FROM kept_audio_parts ORDER BY 1, 2").fetchall()
        copy.execute("DROP TABLE kept_audio_parts")
    assert max(len(part[2]) for part in parts) == 10_000
    assert {
        name: b"".join(part[2] for part in parts if part[0] == f"audio/{name}") for name in audio_of(filled.home)
    } == audio_of(filled.home)
    copied = path.rename(backups / "registry.db").parent
    assert content_of(copied) == content_of(filled.home)
    assert filled.rows("SELECT * FROM backups") == [{"path": str(path), "made_at": made.made_at}]
    assert audit.entries(filled, last=1)[0].payload == {"path": str(path), "made_at": made.made_at, "by": ""}


def test_a_backup_is_of_one_moment_and_ends_although_others_write_all_the_while(filled, backups, monkeypatch):
    """A copy that began again with every commit of a batch would never end."""
    monkeypatch.setattr(backup, "PAGES_AT_ONCE", 1)
    n_steps = 0

    def write_meanwhile(done: int, total: int) -> None:
        nonlocal n_steps
        n_steps += 1
        assert n_steps <= total
        with Store(filled.home) as other, other.writing():
            other.set_setting("one", n_steps)
            other.set_setting("two", n_steps)

    back_up(filled, backups / "likeness.db", on_progress=write_meanwhile)

    with closing(sqlite3.connect(backups / "likeness.db")) as copy:
        assert copy.execute("SELECT * FROM settings").fetchall() == []
    assert (filled.setting("one"), filled.setting("two")) == (n_steps, n_steps)
    assert n_steps > 20


@pytest.mark.parametrize("way", ["path", "link"])
def test_a_backup_inside_the_home_is_refused(filled, backups, way):
    folder = filled.home
    if way == "link":
        folder = backups / "link"
        folder.symlink_to(filled.home)

    with pytest.raises(RegistryError, match="lies in the registry's folder, and would be lost with it"):
        back_up(filled, folder / "likeness.db")

    assert filled.rows("SELECT * FROM backups") == []


def test_a_backup_is_not_written_over_unless_by_force(filled, backups):
    path = backups / "likeness.db"
    path.write_text("something else")

    with pytest.raises(RegistryError, match="is there already; choose another name, or --force"):
        back_up(filled, path)
    assert path.read_text() == "something else"
    back_up(filled, path, force=True)
    made = back_up(filled, path, force=True)

    assert path.stat().st_size == made.n_bytes
    assert filled.rows("SELECT * FROM backups") == [{"path": str(path), "made_at": made.made_at}]


@pytest.mark.parametrize(("name", "match"), [("a/b.db", "there is no folder"), ("folder", "is there already")])
def test_a_place_where_no_file_can_be_is_refused(filled, backups, name, match):
    (backups / "folder").mkdir()

    with pytest.raises(RegistryError, match=match):
        back_up(filled, backups / name, force=True)

    assert [path.name for path in backups.iterdir()] == ["folder"]
    assert filled.rows("SELECT * FROM backups") == []


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_backup_that_is_interrupted_leaves_nothing(filled, backups, monkeypatch, n_steps):
    monkeypatch.setattr(backup, "PAGES_AT_ONCE", 4)
    left = n_steps

    def interrupt(done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(filled, backups / "likeness.db", on_progress=interrupt)

    assert list(backups.iterdir()) == []
    assert filled.rows("SELECT * FROM backups") == []


@contextmanager
def no_file_larger_than(n_bytes: int) -> Iterator[None]:
    """Writing beyond so many bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_backup_that_does_not_fit_leaves_nothing_and_says_so(filled, backups):
    filled.empty_log(1.0)

    with (
        no_file_larger_than(300_000),
        pytest.raises(RegistryError, match=r"likeness\.db: no backup was written \(.*\); nothing was changed"),
    ):
        back_up(filled, backups / "likeness.db")

    assert list(backups.iterdir()) == []
    assert filled.rows("SELECT * FROM backups") == []


def test_a_damaged_registry_is_not_backed_up_over_a_sound_backup(filled, backups):
    path = backups / "likeness.db"
    back_up(filled, path)
    sound = path.read_bytes()
    filled.db.execute("PRAGMA foreign_keys = OFF")
    with filled.writing():
        filled.db.execute("DELETE FROM consents")

    with pytest.raises(StoreDamaged, match="that is gone; no backup was made of it"):
        back_up(filled, path, force=True)

    assert path.read_bytes() == sound
    assert len(filled.rows("SELECT * FROM backups")) == 1


def test_a_removal_that_comes_in_between_names_the_backup(filled, backups):
    receipt: dict[str, Any] = {}

    def remove_bo(done: int, total: int) -> None:
        if not receipt:
            with Store(filled.home) as other:
                receipt.update(erasure.erase_artist(other, "Bo", quiet))

    back_up(filled, backups / "likeness.db", on_progress=remove_bo)

    assert f"backup {backups / 'likeness.db'} of" in receipt["not_reached"][0]
    assert files_holding(backups, b"bo one") == ["likeness.db"]


def test_the_oldest_backups_are_deleted_and_only_those_that_this_registry_made_there(filled, backups, tmp_path):
    (backups / "mine.db").write_text("not a backup of this registry")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    back_up(filled, elsewhere / "0.db")
    for number in range(3):
        back_up(filled, backups / f"{number}.db")
    (backups / "1.db").unlink()

    made = back_up(filled, backups / "3.db", keep=2)

    assert made.dropped == (str(backups / "0.db"),)
    assert sorted(path.name for path in backups.iterdir()) == ["2.db", "3.db", "mine.db"]
    assert [Path(row["path"]).name for row in filled.rows("SELECT path FROM backups")] == [
        *("0.db", "1.db", "2.db", "3.db")  # one of another folder, and one that somebody may have moved away
    ]


def test_kept_audio_that_is_missing_is_counted(filled, backups):
    next((filled.home / "audio").iterdir()).unlink()

    made = back_up(filled, backups / "likeness.db")

    assert (made.n_kept_audio, made.n_missing) == (1, 1)


def test_what_a_killed_backup_left_is_gone_with_the_next_one_but_not_what_another_is_at_work_on(filled, backups):
    killed = backups / f"{SCRATCH}killed"
    killed.mkdir()
    (killed / "likeness.db").write_text("voiceprints")

    with scratch_folder(backups) as at_work:
        assert not killed.exists()
        back_up(filled, backups / "likeness.db")
        assert at_work.is_dir()

    assert [path.name for path in backups.iterdir()] == ["likeness.db"]


def test_a_backup_of_an_encrypted_registry_is_encrypted(home, encoder, tmp_path, backups):
    with Store(home, create=True) as store:
        encrypt_registry(store, "h" * 16, f"file:{tmp_path / 'key'}")
        enroll_kept(store, tmp_path, "Zaubernuss", 1, "zauber one")
        back_up(store, backups / "likeness.db")

    assert files_holding(backups, b"Zaubernuss") == []
    assert files_holding(backups, AUDIO[:100]) == []


# -- restore -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(filled: Store, backups: Path) -> Path:
    """A backup of the filled registry."""
    path = backups / "likeness.db"
    back_up(filled, path)
    return path


def test_a_restore_where_nothing_is_gives_everything_back(filled, saved, tmp_path):
    new = tmp_path / "new"

    found = restore(new, saved)

    assert content_of(new) == content_of(filled.home)
    assert audio_of(new) == audio_of(filled.home)
    assert {stat.S_IMODE(path.stat().st_mode) for path in new.rglob("*") if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (new, new / "audio")} == {0o700}
    assert found == Comparison(
        made_at=found.made_at,
        n_artists=2,
        n_scans=2,
        n_erased_again=0,
        n_missing_audio=0,
        n_artists_lost=0,
        n_artists_back=2,
        n_scans_lost=0,
        n_scans_back=2,
        loses_encryption=False,
    )
    with Store(new) as store:
        assert store.revision > filled.revision


def test_a_restore_replaces_what_came_since_and_gives_no_number_out_again(filled, saved, tmp_path, encoder):
    before = content_of(filled.home), audio_of(filled.home)
    change_setting(filled, RETENTION_DAYS, 30)
    enroll_kept(filled, tmp_path, "Cy", 6, "cy one")
    scan_track(filled, "/in/three.wav", 6, "track three")
    cy, revision = filled.artist("Cy"), filled.revision
    erasure.erase_track(filled, "/in/two.wav", quiet)
    replaced = audit.head_of(filled)

    found = restore(filled.home, saved)

    assert (found.n_artists_lost, found.n_artists_back, found.n_scans_lost, found.n_scans_back) == (1, 0, 1, 0)
    assert found.n_erased_again == 1
    assert audio_of(filled.home) == before[1]
    with Store(filled.home) as store:
        assert names_in(store.home) == ["Ada", "Bo"]
        assert retention_days(store) is None
        assert store.revision > revision
        assert audit.verify(store).problems == ()
        (entry,) = audit.entries(store, last=1)
        assert (entry.action, entry.payload) == (
            "registry.restore",
            {"backup": str(saved), "replaced": vars(replaced), "removed_again": 1, "by": "ines"},
        )
        enroll_vectors(store, encoder, "Dee", singer(7))
        assert store.artist("Dee").artist_id > cy.artist_id


def test_records_of_removals_and_backups_outlast_a_restore(filled, saved, backups):
    back_up(filled, backups / "later.db")
    erasure.erase_artist(filled, "Bo", quiet)
    receipts = erasure.receipts(filled)

    restore(filled.home, saved)

    with Store(filled.home) as store:
        assert erasure.receipts(store) == receipts
        paths = [row["path"] for row in store.rows("SELECT path FROM backups ORDER BY made_at, rowid")]
    assert paths == [str(saved), str(backups / "later.db")]


def remove_bo(store: Store) -> dict[str, Any]:
    return erasure.erase_artist(store, "Bo", quiet)


def remove_reference(store: Store) -> dict[str, Any]:
    return erasure.erase_reference(store, "Ada", store.references("Ada")[0].reference_id, quiet)


def remove_track(store: Store) -> dict[str, Any]:
    return erasure.erase_track(store, "/in/one.wav", quiet)


def is_there(home: Path, what: Any) -> bool:
    """Whether what a function above removes is on record."""
    with Store(home) as store:
        if what is remove_bo:
            return "Bo" in names_in(home)
        table, column, content = {
            remove_reference: ("artist_references", "content_id", "ada one"),
            remove_track: ("tracks", "content_id", "track one"),
        }[what]
        content_id = make_voiceprint(singer(1), content).content_id
        return bool(store.rows(f"SELECT 1 FROM {table} WHERE {column} = ?", [content_id]))


@pytest.mark.parametrize("remove", [remove_bo, remove_reference, remove_track])
@pytest.mark.parametrize("way", ["on record", "receipt"])
def test_what_was_removed_does_not_come_back(filled, saved, tmp_path, remove, way):
    """Neither over the registry that it was removed from, nor from its receipt alone where that registry is lost."""
    assert is_there(filled.home, remove)
    receipt = remove(filled)
    kept = audio_of(filled.home)
    home = filled.home
    receipts = []
    if way == "receipt":
        home = tmp_path / "new"
        file = tmp_path / "receipt.json"
        file.write_text(json.dumps(receipt))
        receipts = read_receipts(file)

    found = restore(home, saved, receipts)

    assert found.n_erased_again == 1
    assert not is_there(home, remove)
    assert audio_of(home) == kept
    with Store(home) as store:  # a later restore must know of it too
        (row,) = [row for row in erasure.receipts(store) if row["subject"] == receipt["subject"]]
        assert {name: row[name] for name in ("kind", "salt", "requested_at", "removed", "finished_at")} == {
            name: receipt[name] for name in ("kind", "salt", "requested_at", "removed", "finished_at")
        }
        assert audit.verify(store).problems == ()


@pytest.mark.parametrize("remove", [remove_reference, remove_track])
def test_what_was_removed_and_came_again_before_the_backup_stays(filled, backups, tmp_path, remove):
    receipt = remove(filled)
    if remove is remove_track:
        scan_track(filled, "/in/one.wav", 1, "track one")
    else:
        enroll_kept(filled, tmp_path, "Ada", 1, "ada one")
    write_store_index(filled, quiet)
    back_up(filled, backups / "likeness.db")
    before = content_of(filled.home)

    found = [restore(home, backups / "likeness.db", [receipt]) for home in (filled.home, tmp_path / "new")]

    assert [comparison.n_erased_again for comparison in found] == [0, 0]
    assert content_of(filled.home) == content_of(tmp_path / "new") == before


def test_a_receipt_of_what_this_backup_does_not_hold_is_kept_for_the_next_one(filled, saved, tmp_path, encoder):
    enroll_vectors(filled, encoder, "Cy", singer(6))
    receipt = erasure.erase_artist(filled, "Cy", quiet)

    found = restore(tmp_path / "new", saved, [receipt, receipt])

    assert found.n_erased_again == 0
    with Store(tmp_path / "new") as store:
        assert [row["subject"] for row in erasure.receipts(store)] == [receipt["subject"]]


def test_a_consent_that_was_withdrawn_stays_withdrawn(filled, saved):
    rights.withdraw_consent(filled, "Bo")
    withdrawn = [(record.consent_id, record.withdrawn_at) for record in rights.consents(filled)]

    restore(filled.home, saved)

    with Store(filled.home) as store:
        assert [(record.consent_id, record.withdrawn_at) for record in rights.consents(store)] == withdrawn
        assert [artist.status for artist in store.artists()] == ["active", "no consent"]


def test_an_index_or_a_run_of_either_registry_is_not_taken_for_the_restored_one(filled, saved):
    with filled.writing():
        for _ in range(5):
            filled.bump_revision()
    revision, rights_before = filled.revision, filled.rows("SELECT value FROM meta WHERE key = 'rights'")
    write_store_index(filled, quiet)
    assert f'"store_revision": {revision}'.encode() in index_path(filled.home).read_bytes()

    restore(filled.home, saved)

    with Store(filled.home) as store:
        assert store.revision == revision + 1
        assert int(store.rows("SELECT value FROM meta WHERE key = 'rights'")[0]["value"]) > int(
            rights_before[0]["value"]
        )


def test_a_process_that_has_the_registry_open_goes_on_with_the_restored_one(filled, saved, encoder):
    enroll_vectors(filled, encoder, "Cy", singer(6))
    with Store(filled.home) as other:
        assert len(other.artists()) == 3

        restore(filled.home, saved)

        assert [artist.name for artist in other.artists()] == ["Ada", "Bo"]
        with other.writing():
            other.set_setting("x", 1)
    assert names_in(filled.home) == ["Ada", "Bo"]


def test_a_restore_under_a_reader_is_not_seen_by_it(filled, saved, encoder):
    enroll_vectors(filled, encoder, "Cy", singer(6))
    with Store(filled.home) as reader, reader.reading():
        assert len(reader.rows("SELECT * FROM artists")) == 3

        with (
            Store(filled.home) as store,
            prepared_restore(store, saved) as prepared,
        ):
            put_in_place(store, prepared)

        assert len(reader.rows("SELECT * FROM artists")) == 3
    assert names_in(filled.home) == ["Ada", "Bo"]


def test_a_registry_that_changes_while_a_restore_is_prepared_is_left_alone(filled, saved):
    """What was withdrawn in that time would be in force again."""
    with (
        Store(filled.home) as store,
        prepared_restore(store, saved) as prepared,
    ):
        with Store(filled.home) as other:
            rights.withdraw_consent(other, "Bo")
        before = content_of(filled.home), audio_of(filled.home)

        with pytest.raises(StoreBusy, match="another command wrote to the registry while the restore was prepared"):
            put_in_place(store, prepared)

    assert (content_of(filled.home), audio_of(filled.home)) == before


def test_a_restore_waits_for_who_writes_and_then_gives_up(filled, saved):
    before = content_of(filled.home), audio_of(filled.home)
    with (
        Store(filled.home) as store,
        prepared_restore(store, saved) as prepared,
    ):
        store.db.execute("PRAGMA busy_timeout = 100").fetchone()
        with (
            closing(sqlite3.connect(store.path)) as writer,
            pytest.raises(StoreBusy, match="another command is writing; nothing was changed"),
        ):
            writer.execute("BEGIN IMMEDIATE")
            put_in_place(store, prepared)

    assert (content_of(filled.home), audio_of(filled.home)) == before


def write_over(path: Path, harm: str) -> None:
    """Make something else of a backup."""
    with closing(sqlite3.connect(path)) as connection, connection:
        if harm == "newer":
            connection.execute("INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('likeness', 'm999_x')")
        elif harm == "older":
            connection.execute("DELETE FROM _sqlite_migrations WHERE name != 'm001_registry'")
        elif harm == "elsewhere":
            connection.execute("UPDATE kept_audio_parts SET kept_path = 'audio/../../escaped' WHERE rowid = 1")
        elif harm == "reference elsewhere":
            connection.execute("UPDATE artist_references SET kept_path = '/etc/passwd' WHERE reference_id = 1")
        elif harm == "broken":
            connection.execute("DELETE FROM consents")
        elif harm == "another database":
            connection.execute("DROP TABLE _sqlite_migrations")
    if harm == "torn":
        content = bytearray(path.read_bytes())
        content[3 * 4096 : 9 * 4096] = b"\xff" * 6 * 4096
        path.write_bytes(content)
    elif harm == "text":
        path.write_bytes(b"this is no database, but it is as long as the header of one would be" * 99)
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif harm == "absent":
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "error", "match"),
    [
        ("newer", StoreTooNew, r"likeness\.db: written by a newer Likeness \(it has m999_x\)"),
        ("older", RegistryError, "of a Likeness that had no backups"),
        ("elsewhere", RegistryError, "names a kept recording that lies elsewhere"),
        ("reference elsewhere", RegistryError, "names a kept recording that lies elsewhere"),
        ("broken", RegistryError, r"damaged \(.* points at a consents that is gone\); nothing was changed"),
        ("torn", RegistryError, "likeness.db"),
        ("text", RegistryError, r"likeness\.db: is not the backup of a registry \(file is not a database\)"),
        ("another database", RegistryError, "is not the backup of a registry"),
        ("empty", RegistryError, "is not the backup of a registry"),
        ("pipe", RegistryError, "is not a file"),
        ("absent", RegistryError, "is not a file"),
    ],
)
def test_what_is_not_a_sound_backup_of_this_release_is_refused_and_nothing_changes(filled, saved, harm, error, match):
    before = content_of(filled.home), audio_of(filled.home)
    write_over(saved, harm)

    with pytest.raises(error, match=match), prepared_restore(filled, saved):
        pass

    assert (content_of(filled.home), audio_of(filled.home)) == before
    assert not list(filled.home.glob(f"{SCRATCH}*"))
    assert not (filled.home.parent / "escaped").exists()


def test_a_bare_copy_of_a_database_can_be_restored(filled, tmp_path):
    filled.empty_log(1.0)
    copy = tmp_path / "copy.db"
    shutil.copy(filled.path, copy)
    copy.chmod(0o400)

    with Store(tmp_path / "new", create=True) as store, prepared_restore(store, copy) as prepared:
        put_in_place(store, prepared)

    assert (prepared.comparison.made_at, prepared.comparison.n_missing_audio) == (None, 2)
    assert content_of(tmp_path / "new") == content_of(filled.home)
    assert not copy.with_name("copy.db-wal").exists()


def test_a_restore_that_does_not_fit_changes_nothing(filled, saved):
    filled.empty_log(1.0)
    before = content_of(filled.home), audio_of(filled.home)

    with (
        no_file_larger_than(300_000),
        pytest.raises(RegistryError, match=r"not restored into .* nothing was changed"),
        prepared_restore(filled, saved),
    ):
        pass

    assert (content_of(filled.home), audio_of(filled.home)) == before
    assert not list(filled.home.glob(f"{SCRATCH}*"))


def test_an_encrypted_backup_needs_its_key_and_removes_again_with_it(home, encoder, tmp_path, backups, monkeypatch):
    monkeypatch.setattr(erasure, "WAIT_S", 0.2)
    key, path = tmp_path / "key", backups / "likeness.db"
    with Store(home, create=True) as store:
        encrypt_registry(store, "h" * 16, f"file:{key}")
        enroll_kept(store, tmp_path, "Ada", 1, "ada one")
        enroll_kept(store, tmp_path, "Bo", 5, "bo one")
        back_up(store, path)
        kept = audio_of(home)
        erasure.erase_artist(store, "Bo", quiet)
    shutil.move(key, tmp_path / "away")

    with (
        Store(home) as store,
        pytest.raises(KeyMissing, match=rf"^{home}: encrypted, and its key cannot be had"),
        prepared_restore(store, path),
    ):
        pass
    shutil.move(tmp_path / "away", key)
    restore(home, path)

    assert names_in(home) == ["Ada"]
    assert len(audio_of(home)) == 1
    assert audio_of(home).items() < kept.items()


def test_a_restore_that_takes_the_encryption_away_says_so(filled, saved, tmp_path):
    with Store(tmp_path / "new", create=True) as store:
        encrypt_registry(store, "h" * 16, f"file:{tmp_path / 'key'}")

    assert restore(tmp_path / "new", saved).loses_encryption


@pytest.mark.parametrize(
    "text", ["", "null", "[1]", '{"kind": "artist"}', "not json", '[{"kind": "artist", "subject": 3, "salt": ""}]']
)
def test_a_file_that_holds_no_receipts_is_refused(tmp_path, text):
    path = tmp_path / "receipts.json"
    path.write_text(text)

    if text == "":
        assert read_receipts(path) == []
    else:
        with pytest.raises(RegistryError, match=r"receipts\.json: holds no receipts of removals"):
            read_receipts(path)


def test_receipts_are_read_as_they_are_written_one_many_or_a_line_each(filled, tmp_path):
    one, two = remove_bo(filled), remove_track(filled)
    path = tmp_path / "receipts"

    for text, receipts in [
        (json.dumps(one, indent=2), [one]),
        (json.dumps([one, two], indent=2), [one, two]),
        (f"{json.dumps(one)}\n{json.dumps(two)}\n", [one, two]),
    ]:
        path.write_text(text)
        assert read_receipts(path) == receipts
    with pytest.raises(RegistryError, match=r"cannot be read \(No such file or directory\)"):
        read_receipts(tmp_path / "absent")


@pytest.mark.parametrize("when", ["preparing", "putting in place"])
def test_a_restore_that_is_interrupted_changes_nothing_and_leaves_nothing(filled, saved, tmp_path, when):
    enroll_kept(filled, tmp_path, "Cy", 6, "cy one")
    before = content_of(filled.home), audio_of(filled.home), sorted(path.name for path in filled.home.iterdir())

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    def go_on(done: int, total: int) -> None:
        pass

    steps = (interrupt, go_on) if when == "preparing" else (go_on, interrupt)
    with (
        pytest.raises(KeyboardInterrupt),
        prepared_restore(filled, saved, on_progress=steps[0]) as prepared,
    ):
        put_in_place(filled, prepared, on_progress=steps[1])

    assert before == (
        content_of(filled.home),
        audio_of(filled.home),
        sorted(path.name for path in filled.home.iterdir()),
    )


# -- cut off at every moment -------------------------------------------------------------------------------------------

#: Lines of `registry/backup.py` between two moments at which a restore is cut off below; with 1 it takes minutes.
EVERY = 25
#: Restores into copies of a home, each time cut off so many lines later than the time before.
CUT_OFF = """
import os, shutil, signal, sys
from pathlib import Path
from registry import backup, erasure
from registry.store import Store

way, home, saved, target, every = sys.argv[1], *map(Path, sys.argv[2:5]), int(sys.argv[5])
erasure.WAIT_S = 0.2
code = backup.__file__

def restore(home, n_lines):
    def count(frame, event, argument):
        nonlocal n_lines
        if frame.f_code.co_filename != code:
            return None
        if event == "line":
            n_lines -= 1
            if n_lines == 0:
                if way == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise KeyboardInterrupt
        return count

    with Store(home, create=True) as store:
        sys.settrace(count)
        try:
            with backup.prepared_restore(store, saved) as prepared:
                backup.put_in_place(store, prepared)
        finally:
            sys.settrace(None)
    os._exit(0)

n_lines, status = 1, None
while status != 0:
    copy = target / str(n_lines)
    shutil.copytree(home, copy)
    child = os.fork()
    if child == 0:
        try:
            restore(copy, n_lines)
        except KeyboardInterrupt:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    n_lines += every
"""


@pytest.mark.parametrize("way", ["kill", "interrupt"])
def test_a_restore_that_is_cut_off_leaves_the_old_registry_or_the_new_one_and_nobody_who_was_removed(
    filled, saved, tmp_path, encoder, way
):
    enroll_kept(filled, tmp_path, "Cy", 6, "cy one")
    erasure.erase_artist(filled, "Bo", quiet)
    write_store_index(filled, quiet)
    home, target = filled.home, tmp_path / "cut off"
    filled.close()

    done = subprocess.run(
        [sys.executable, "-c", CUT_OFF, way, home, saved, target, str(EVERY)],
        cwd=REPO,
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    states = []
    for copy in sorted(target.iterdir(), key=lambda path: int(path.name)):
        names = names_in(copy)
        states.append(names)
        with Store(copy) as store:
            assert audit.verify(store).problems == ()
            # What may be left to do, other commands do or `check` names: a stale index, audio of nobody.
            problems = find_problems(store)
            assert {where for where, _ in problems} <= {"index", "kept audio"}
            assert not [problem for _, problem in problems if "missing" in problem]
        restore_again(copy, saved)
    assert states == sorted(states, reverse=True)  # ["Ada", "Cy"] until it is done, then ["Ada"]
    assert {tuple(names) for names in states} == {("Ada", "Cy"), ("Ada",)}
    assert len(states) > 10


def restore_again(home: Path, saved: Path) -> None:
    """The same command ends what was cut off, and leaves nothing of the first try."""
    with Store(home) as store, prepared_restore(store, saved) as prepared:
        put_in_place(store, prepared)
    assert names_in(home) == ["Ada"]
    assert not list(home.glob(f"{SCRATCH}*"))


def test_what_a_killed_restore_left_is_gone_with_the_next_backup_too(filled, saved, backups):
    """It holds who was removed."""
    killed = filled.home / f"{SCRATCH}killed"
    killed.mkdir()
    (killed / "registry.db").write_text("Bo")

    back_up(filled, backups / "next.db")

    assert not killed.exists()
