from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from registry import audit, keys
from registry.encryption import backup_key, encrypt_registry, rotate_key
from registry.errors import KeyMissing, RegistryError, StoreDamaged, WrongKey
from registry.keys import read_key
from registry.store import Store
from tests.fakes import files_holding

pytest_plugins = ["tests.key_fixtures"]
pytestmark = pytest.mark.usefixtures("no_key_of_the_user")

REPO = Path(__file__).parent.parent
ENTRY = "keyring:likeness/1234"


def names_in(folder: Path) -> list[str]:
    """Names of files but for keys that were replaced and are kept."""
    return sorted(entry.name for entry in folder.iterdir() if ".old-" not in entry.name)


@pytest.fixture
def key_path(tmp_path) -> Path:
    return tmp_path / "keys" / "my.key"


@pytest.fixture
def encrypted(home, key_path) -> Path:
    """The home of an encrypted registry with Ada in it."""
    make_encrypted(home, f"file:{key_path}")
    return home


def make_encrypted(home: Path, source: str) -> None:
    with Store(home, create=True) as store:
        encrypt_registry(store, "1234", source)
        with store.writing():
            store.add_artist("Ada Vale")


def names_of(home: Path) -> list[str]:
    with Store(home) as store:
        return [artist.name for artist in store.artists()]


def record_of(home: Path) -> dict[str, object]:
    with Store(home) as store:
        assert store.encryption is not None
        return store.encryption


# --- turning it on ---


def test_an_encrypted_registry_says_so_and_holds_no_name_in_plain(encrypted, key_path):
    record = record_of(encrypted)

    assert {**record, "registry_key": ""} == {
        "version": 1,
        "home_id": "1234",
        "source": f"file:{key_path}",
        "registry_key": "",
    }
    assert names_of(encrypted) == ["Ada Vale"]
    assert files_holding(encrypted, b"Ada Vale") == []
    assert files_holding(encrypted, read_key(f"file:{key_path}")) == []
    with Store(encrypted) as store:
        assert [(entry.action, entry.payload) for entry in audit.entries(store)][:1] == [
            ("registry.encrypt", {"by": "", "source": f"file:{key_path}"})
        ]


def test_without_its_key_nobody_reads_an_encrypted_registry(encrypted, key_path):
    key_path.rename(key_path.with_name("elsewhere"))

    with pytest.raises(
        KeyMissing, match=r"home: encrypted, and its key cannot be had: .*my\.key: there is no such file"
    ):
        names_of(encrypted)


def test_encryption_is_refused_once_somebody_is_enrolled_and_leaves_no_key(store, key_path):
    with store.writing():
        store.add_artist("Ada Vale")

    with pytest.raises(RegistryError, match=r"holds artists, .*; make an encrypted registry in another home"):
        encrypt_registry(store, "1234", f"file:{key_path}")

    assert store.encryption is None
    assert not key_path.parent.exists()


def test_encryption_is_turned_on_once(encrypted, key_path, tmp_path):
    with (
        Store(encrypted) as store,
        pytest.raises(RegistryError, match="encrypted already; `likeness key rotate` gives"),
    ):
        encrypt_registry(store, "5678", f"file:{tmp_path}/other.key")

    assert not (tmp_path / "other.key").exists()


def test_a_place_that_the_environment_would_go_before_is_refused(store, key_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_KEY", "something")

    with pytest.raises(KeyMissing, match=rf"is set, and goes before {key_path}; unset it, or take that place"):
        encrypt_registry(store, "1234", f"file:{key_path}")


def test_a_key_in_the_home_is_refused(store):
    with pytest.raises(KeyMissing, match="a key beside what it opens protects nothing"):
        encrypt_registry(store, "1234", f"file:{store.home}/my.key")

    assert store.encryption is None


# --- rotating ---


def test_after_a_rotation_the_new_key_opens_and_the_old_one_does_not(encrypted, key_path, tmp_path):
    old, old_record = read_key(f"file:{key_path}"), record_of(encrypted)
    with Store(encrypted) as store:
        assert rotate_key(store) == (f"file:{key_path}", f"file:{key_path}")
        assert [artist.name for artist in store.artists()] == ["Ada Vale"]
        assert audit.entries(store)[-1].action == "key.rotate"

    assert names_of(encrypted) == ["Ada Vale"]
    assert names_in(key_path.parent) == ["my.key"]
    assert read_key(f"file:{key_path}") != old
    (kept,) = key_path.parent.glob("my.key.old-*")  # backups from before open with nothing else
    assert (read_key(f"file:{kept}"), kept.stat().st_mode & 0o777) == (old, 0o600)
    with pytest.raises(WrongKey, match="not with the key in"):
        keys.write_key(f"file:{tmp_path}/old.key", old)
        keys.find_master(encrypted, {**record_of(encrypted), "source": f"file:{tmp_path}/old.key"})
    assert files_holding(encrypted, str(old_record["registry_key"]).encode()) == []


def test_what_the_old_key_wrapped_is_gone_from_the_databases_files(encrypted):
    """Who has the old key and the home of today finds nothing to open with it."""
    with Store(encrypted) as store:
        old = [*store.wrapped_keys().values(), store.encryption["registry_key"].encode()]

        rotate_key(store)

        assert [files_holding(encrypted, wrapped) for wrapped in old] == [[], []]


def test_a_rotation_to_another_file_leaves_the_old_key_alone(encrypted, key_path, tmp_path):
    before = key_path.read_text()

    with Store(encrypted) as store:
        assert rotate_key(store, tmp_path / "new.key") == (f"file:{key_path}", f"file:{tmp_path}/new.key")

    assert record_of(encrypted)["source"] == f"file:{tmp_path}/new.key"
    assert names_of(encrypted) == ["Ada Vale"]
    assert key_path.read_text() == before


@pytest.mark.parametrize(
    ("to", "reason"), [("home/new.key", "protects nothing"), ("taken", "there already, and keys are not written over")]
)
def test_a_place_that_cannot_take_the_new_key_leaves_all_as_it_was(encrypted, key_path, tmp_path, to, reason):
    (tmp_path / "taken").write_text("mine")
    before = record_of(encrypted), key_path.read_text()

    with Store(encrypted) as store, pytest.raises(KeyMissing, match=reason):
        rotate_key(store, tmp_path / to)

    assert (record_of(encrypted), key_path.read_text()) == before
    assert (tmp_path / "taken").read_text() == "mine"
    assert not (encrypted / "new.key").exists()


def test_a_key_in_the_environment_is_rotated_to_a_file(home, monkeypatch, tmp_path):
    monkeypatch.setenv("LIKENESS_KEY", base64.b64encode(bytes(32)).decode())
    make_encrypted(home, "env:LIKENESS_KEY")
    with Store(home) as store:
        with pytest.raises(KeyMissing, match="where none can be written; name a file for the new one, --to FILE"):
            rotate_key(store)
        assert rotate_key(store, tmp_path / "new.key") == ("env:LIKENESS_KEY", f"file:{tmp_path}/new.key")

    assert record_of(home)["source"] == "env:LIKENESS_KEY"
    with pytest.raises(WrongKey, match="the environment variable LIKENESS_KEY; unset it, or set it to the right one"):
        names_of(home)
    monkeypatch.setenv("LIKENESS_KEY", (tmp_path / "new.key").read_text())
    assert names_of(home) == ["Ada Vale"]


def test_a_key_in_the_keyring_is_rotated_there(home, memory_keyring):
    make_encrypted(home, ENTRY)
    before = dict(memory_keyring.entries)

    with Store(home) as store:
        assert rotate_key(store) == (ENTRY, ENTRY)

    assert names_of(home) == ["Ada Vale"]
    assert list(memory_keyring.entries) == [("likeness", "1234")]
    assert memory_keyring.entries != before


def test_a_registry_that_is_not_encrypted_has_no_key(store, tmp_path):
    with pytest.raises(RegistryError, match="not encrypted, so it has no key; `likeness init --encrypt` makes"):
        rotate_key(store)
    with pytest.raises(RegistryError, match="not encrypted, so it has no key"):
        backup_key(store, tmp_path / "copy.key")


def test_an_artists_key_that_does_not_open_stops_a_rotation(encrypted, key_path):
    with Store(encrypted) as store:
        with store.writing():
            store.replace_wrapped_keys({1: bytes(60)})
        before = record_of(encrypted), key_path.read_text()

        with pytest.raises(StoreDamaged, match="artist 1: its key does not open"):
            rotate_key(store)

    assert (record_of(encrypted), key_path.read_text()) == before
    assert names_in(key_path.parent) == ["my.key"]


# --- cut off ---

#: Where a rotation is cut off: what is replaced by the end of the process.
STEPS = {
    "before the new key is written": "registry.encryption.new_master",
    "while the new key is written": "registry.files.os.fsync",
    "before the registry changes": "registry.encryption.audit.append",
    "after the registry has changed": "registry.encryption.move_key",
    "after the new key took its place": "registry.store.Store.empty_log",
}
KILLED = """
import importlib, os, sys
from pathlib import Path
from registry.encryption import rotate_key
from registry.store import Store

def stop(*arguments):
    if step.endswith("fsync"):
        os.ftruncate(arguments[0], 30)
    os._exit(9)

home, step, to = sys.argv[1:]
names = step.split(".")
thing = importlib.import_module(".".join(names[:2]))
for name in names[2:-1]:
    thing = getattr(thing, name)
with Store(Path(home)) as store:
    store.vault
    setattr(thing, names[-1], stop)
    rotate_key(store, Path(to) if to else None)
"""


def kill_rotation(home: Path, step: str, to: str = "") -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(home), step, to], cwd=REPO, check=False)
    assert done.returncode == 9


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_rotation_that_is_killed_leaves_a_registry_that_opens_and_rotates(encrypted, key_path, step):
    kill_rotation(encrypted, step)

    assert names_of(encrypted) == ["Ada Vale"]
    with Store(encrypted) as store:
        rotate_key(store)
    assert names_of(encrypted) == ["Ada Vale"]
    assert names_in(key_path.parent) == ["my.key"]


@pytest.mark.parametrize("step", [step for step in STEPS.values() if "move_key" not in step])
def test_a_rotation_to_another_file_that_is_killed_leaves_a_registry_that_opens(encrypted, tmp_path, step):
    kill_rotation(encrypted, step, str(tmp_path / "new.key"))

    assert names_of(encrypted) == ["Ada Vale"]
    with Store(encrypted) as store:
        rotate_key(store)
    assert names_of(encrypted) == ["Ada Vale"]


@pytest.mark.parametrize("source", ["file", "keyring"])
@pytest.mark.parametrize("step", [step for step in STEPS.values() if "fsync" not in step])
def test_ctrl_c_in_a_rotation_leaves_a_registry_that_opens(home, key_path, memory_keyring, monkeypatch, source, step):
    make_encrypted(home, f"file:{key_path}" if source == "file" else ENTRY)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("Ctrl-C")

    with monkeypatch.context() as patch, Store(home) as store:
        patch.setattr(step, stop)
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
            rotate_key(store)

    assert names_of(home) == ["Ada Vale"]
    with Store(home) as store:
        rotate_key(store)
    assert names_of(home) == ["Ada Vale"]
    assert len(memory_keyring.entries) == (source == "keyring")


def test_a_key_that_waits_because_it_could_not_be_moved_is_not_written_over(encrypted, key_path, monkeypatch):
    """It is the only one that opens the registry."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("registry.keys.Path.replace", refuse)
    with Store(encrypted) as store:
        with pytest.raises(
            KeyMissing, match=r"my\.key\.new: could not be moved to .*; it serves where it is, and the next"
        ):
            rotate_key(store)
        with pytest.raises(KeyMissing, match=r"my\.key\.new: holds the key in use, which could not be moved to"):
            rotate_key(store)
    assert names_of(encrypted) == ["Ada Vale"]
    monkeypatch.undo()

    assert names_of(encrypted) == ["Ada Vale"]
    assert names_in(key_path.parent) == ["my.key"]


def test_who_had_the_registry_open_reads_and_enrolls_after_another_process_rotated(encrypted):
    with Store(encrypted) as store:
        assert [artist.name for artist in store.artists()] == ["Ada Vale"]
        with Store(encrypted) as other:
            rotate_key(other)
            with other.writing():
                other.add_artist("Bo")

        assert [artist.name for artist in store.artists()] == ["Ada Vale", "Bo"]
        with Store(encrypted) as other:
            rotate_key(other)
        with store.writing():
            store.add_artist("Cy")

    assert names_of(encrypted) == ["Ada Vale", "Bo", "Cy"]


def test_who_had_the_registry_open_enrolls_sealed_after_another_process_encrypted_it(store, key_path):
    assert store.artists() == []
    with Store(store.home) as other:
        encrypt_registry(other, "1234", f"file:{key_path}")

    with store.writing():
        store.add_artist("Ada Vale")

    assert names_of(store.home) == ["Ada Vale"]
    assert files_holding(store.home, b"Ada Vale") == []


# --- a copy of the key ---


def test_a_copy_of_the_key_opens_the_registry(encrypted, key_path, tmp_path, monkeypatch):
    with Store(encrypted) as store:
        backup_key(store, tmp_path / "safe" / "copy.key")
    key_path.unlink()
    monkeypatch.setenv("LIKENESS_KEY_FILE", str(tmp_path / "safe" / "copy.key"))

    assert names_of(encrypted) == ["Ada Vale"]
    assert (tmp_path / "safe" / "copy.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("copy", "reason"),
    [("home/copy.key", "protects nothing"), ("taken", "there already, and keys are not written over")],
)
def test_a_copy_goes_neither_into_the_home_nor_over_anything(encrypted, tmp_path, copy, reason):
    (tmp_path / "taken").write_text("mine")

    with Store(encrypted) as store, pytest.raises(KeyMissing, match=reason):
        backup_key(store, tmp_path / copy)

    assert (tmp_path / "taken").read_text() == "mine"
    assert not (encrypted / "copy.key").exists()
