from __future__ import annotations

import base64
import os
import stat
import sys
from pathlib import Path

import keyring
import keyring.backends.fail
import keyring.backends.null
import keyring.errors
import pytest

from registry import keys
from registry.errors import KeyMissing, StoreTooNew, WrongKey
from registry.vault import Vault

pytest_plugins = ["tests.key_fixtures"]
pytestmark = pytest.mark.usefixtures("no_key_of_the_user")

KEY = bytes(range(32))
LINE = "likeness-key-1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8 00cfe688\n"
HOME = Path("/srv/likeness")
ENTRY = "keyring:likeness/1234"


class LockedKeyring(keyring.backends.null.Keyring):
    priority = -2

    def get_password(self, service: str, username: str) -> str | None:
        raise keyring.errors.KeyringLocked("the collection is locked")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "registry.key"


@pytest.fixture
def written(path) -> Path:
    """A key file."""
    keys.write_key(f"file:{path}", KEY)
    return path


def encryption(key: bytes, source: str) -> dict[str, object]:
    """What a registry has on record that this key opens."""
    wrapped = Vault.create(key)[1]
    return {"version": 1, "home_id": "1234", "source": source, "registry_key": base64.b64encode(wrapped).decode()}


def names_in(folder: Path) -> list[str]:
    """Names of files but for keys that were replaced and are kept."""
    return sorted(entry.name for entry in folder.iterdir() if ".old-" not in entry.name)


# --- a key file ---


def test_a_key_file_is_one_private_line(written):
    assert written.read_text() == LINE
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert keys.read_key(f"file:{written}") == KEY


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_key_file_and_its_folder_are_private_whatever_the_umask(tmp_path, umask):
    previous = os.umask(umask)
    try:
        keys.write_key(f"file:{tmp_path}/new/key", KEY)
    finally:
        os.umask(previous)

    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new/key").stat().st_mode) == 0o600


def test_a_key_is_never_written_over(written):
    with pytest.raises(
        KeyMissing, match=r"registry\.key: there already, and keys are not written over; choose another"
    ):
        keys.write_key(f"file:{written}", bytes(32))

    assert written.read_text() == LINE


def test_a_key_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(KeyMissing, match=r"file/below/key: the key cannot be written \(Not a directory\); choose"):
        keys.write_key(f"file:{tmp_path}/file/below/key", KEY)

    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o602])
def test_a_key_that_others_may_read_is_refused_with_the_command_that_mends_it(written, mode):
    written.chmod(mode)

    with pytest.raises(
        KeyMissing, match=rf"others may read this key \(its mode is {mode:03o}\); run `chmod 600 {written}`"
    ):
        keys.read_key(f"file:{written}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no key, which would begin with likeness-key-1"),
        ("-----BEGIN PRIVATE KEY-----\n", "holds no key, which would begin with likeness-key-1"),
        ("\x00\xff" * 4000, "holds no key, which would begin with likeness-key-1"),
        (LINE.split()[1], "holds no key, which would begin with likeness-key-1"),
        ("likeness-key-1", "the key is not whole, or was mistyped"),
        (LINE[:40], "the key is not whole, or was mistyped"),
        (LINE[:-2], "the key is not whole, or was mistyped"),
        (LINE[:-10], "the key is not whole, or was mistyped"),
        (LINE.replace("CAwQ", "CAvQ"), "the key is not whole, or was mistyped"),
        (LINE.replace("CAwQ", "CA*Q"), "the key is not whole, or was mistyped"),
        (LINE.replace("00cf", "0000"), "the key is not whole, or was mistyped"),
        (LINE.strip() + " more", "the key is not whole, or was mistyped"),
    ],
)
def test_what_is_no_whole_key_is_told_from_a_wrong_one_and_not_shown(written, text, reason):
    written.write_text(text, encoding="latin-1")

    with pytest.raises(KeyMissing, match=rf"registry\.key: {reason}") as refused:
        keys.read_key(f"file:{written}")

    assert "AAECAw" not in str(refused.value)


def test_a_key_file_that_is_not_there_says_what_to_do(path):
    with pytest.raises(
        KeyMissing, match=r"registry\.key: there is no such file; put back the key that you backed up, or"
    ):
        keys.read_key(f"file:{path}")


def test_a_key_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(KeyMissing, match=r"cannot be read \(Is a directory\); is this the user that made it\?"):
        keys.read_key(f"file:{tmp_path}")


@pytest.mark.parametrize("inside", ["key", "deep/er/key", "../home/key"])
def test_a_key_in_the_registrys_folder_is_refused(tmp_path, inside):
    home = tmp_path / "home"

    with pytest.raises(KeyMissing, match=r"a key beside what it opens protects nothing\. Choose a place elsewhere"):
        keys.check_outside(home, keys.key_file(home / inside))


def test_a_key_in_the_registrys_folder_is_refused_behind_a_link_too(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "safe").symlink_to("home")

    with pytest.raises(KeyMissing, match="protects nothing"):
        keys.check_outside(tmp_path / "home", f"file:{tmp_path}/safe/key")


def test_a_key_elsewhere_is_fine(tmp_path):
    keys.check_outside(tmp_path / "home", f"file:{tmp_path}/home.key")
    keys.check_outside(tmp_path / "home", "env:LIKENESS_KEY")


# --- the environment ---


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (LINE, KEY),
        (LINE.strip(), KEY),
        (base64.b64encode(KEY).decode(), KEY),
        (base64.b64encode(b"\xff" * 32).decode(), b"\xff" * 32),
        (base64.urlsafe_b64encode(b"\xff" * 32).decode(), b"\xff" * 32),
        (base64.urlsafe_b64encode(KEY).decode().rstrip("="), KEY),
    ],
)
def test_the_environment_holds_a_keys_line_or_32_bytes_in_base64(monkeypatch, text, key):
    monkeypatch.setenv("LIKENESS_KEY", text)

    assert keys.read_key("env:LIKENESS_KEY") == key


@pytest.mark.parametrize("text", ["secret", base64.b64encode(bytes(31)).decode(), "ключ", LINE[:-3], "*" * 43])
def test_what_is_no_key_in_the_environment_is_refused_and_not_shown(monkeypatch, text):
    monkeypatch.setenv("LIKENESS_KEY", text)

    with pytest.raises(KeyMissing, match="the environment variable LIKENESS_KEY: the key is not whole, or") as refused:
        keys.read_key("env:LIKENESS_KEY")

    assert text.strip() not in str(refused.value)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_says_what_to_do(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("LIKENESS_KEY", value)

    with pytest.raises(
        KeyMissing, match="LIKENESS_KEY is not set; set it to the key, or LIKENESS_KEY_FILE to the file"
    ):
        keys.read_key("env:LIKENESS_KEY")


# --- the keyring ---


def test_the_keyring_holds_the_same_line(memory_keyring):
    keys.write_key(ENTRY, KEY)

    assert memory_keyring.entries == {("likeness", "1234"): LINE}
    assert keys.read_key(ENTRY) == KEY
    keys.delete_key(ENTRY)
    keys.delete_key(ENTRY)
    with pytest.raises(KeyMissing, match="the keyring has no entry likeness/1234; is this the user that made it"):
        keys.read_key(ENTRY)


@pytest.mark.usefixtures("memory_keyring")
def test_an_entry_of_the_keyring_is_never_written_over():
    keys.write_key(ENTRY, KEY)

    with pytest.raises(KeyMissing, match="the keyring's entry likeness/1234: there already; a key belongs to one"):
        keys.write_key(ENTRY, bytes(32))

    assert keys.read_key(ENTRY) == KEY


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (keyring.backends.fail.Keyring, "there is no keyring on this system; keep the key in a file, named with"),
        (keyring.backends.null.Keyring, "the keyring did not keep the key; choose another place for it"),
        (LockedKeyring, r"the keyring refused \(KeyringLocked: the collection is locked\); unlock it and try again"),
    ],
)
def test_a_keyring_that_does_not_work_says_why(use_keyring, backend, reason):
    use_keyring(backend())

    with pytest.raises(KeyMissing, match=reason):
        keys.write_key(ENTRY, KEY)


@pytest.mark.parametrize("call", [keys.read_key, lambda source: keys.write_key(source, KEY)])
def test_without_the_package_the_keyring_says_how_to_install_it(monkeypatch, call):
    monkeypatch.setitem(sys.modules, "keyring", None)

    with pytest.raises(
        KeyMissing, match=r"a package that is not installed; run `pip install 'likeness\[keyring\]'`, or"
    ):
        call(ENTRY)


# --- where a key is looked for ---


def test_a_new_key_goes_to_the_users_configuration_or_where_the_environment_says(monkeypatch, tmp_path):
    said = [keys.default_source("1234")]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    said.append(keys.default_source("1234"))
    monkeypatch.setenv("LIKENESS_KEY_FILE", "~/safe.key")
    said.append(keys.default_source("1234"))

    assert said == [
        f"file:{tmp_path}/user/.config/likeness/1234.key",
        f"file:{tmp_path}/xdg/likeness/1234.key",
        f"file:{tmp_path}/user/safe.key",
    ]


def test_the_environment_goes_before_the_place_on_record_and_the_key_before_the_file(monkeypatch):
    said = [keys.source_in_use("file:/on/record")]
    monkeypatch.setenv("LIKENESS_KEY_FILE", "/from/env")
    said.append(keys.source_in_use("file:/on/record"))
    monkeypatch.setenv("LIKENESS_KEY", LINE)
    said.append(keys.source_in_use("file:/on/record"))

    assert said == ["file:/on/record", "file:/from/env", "env:LIKENESS_KEY"]


def test_a_relative_key_file_is_recorded_by_its_absolute_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert keys.key_file(Path("my.key")) == f"file:{tmp_path}/my.key"


# --- finding the key of a registry ---


def test_the_key_that_opens_the_registry_is_found(written):
    record = encryption(KEY, f"file:{written}")

    assert keys.find_master(HOME, record) == KEY
    assert keys.open_vault(HOME, record).index_key == Vault(KEY, keys.registry_key_of(record)).index_key


def test_another_registrys_key_is_refused_with_its_place(written):
    with pytest.raises(
        WrongKey,
        match=rf"/srv/likeness: encrypted, and not with the key in {written}; put the right one there, or name",
    ):
        keys.find_master(HOME, encryption(bytes(32), f"file:{written}"))


def test_another_registrys_key_in_the_environment_is_refused(written, monkeypatch):
    monkeypatch.setenv("LIKENESS_KEY", base64.b64encode(bytes(32)).decode())

    with pytest.raises(WrongKey, match="the environment variable LIKENESS_KEY; unset it, or set it to the right one"):
        keys.find_master(HOME, encryption(KEY, f"file:{written}"))


def test_a_key_that_cannot_be_had_is_refused_with_the_reason(path):
    with pytest.raises(KeyMissing, match=r"/srv/likeness: encrypted, and its key cannot be had: .*no such file"):
        keys.find_master(HOME, encryption(KEY, f"file:{path}"))


def test_a_registry_encrypted_by_a_later_release_is_refused(written):
    with pytest.raises(StoreTooNew, match=r"encrypted by a newer Likeness \(version 2\); upgrade with `pip"):
        keys.find_master(HOME, {**encryption(KEY, f"file:{written}"), "version": 2})


@pytest.mark.parametrize("old", ["another", "absent", "cut"])
def test_a_new_key_that_waits_beside_is_found_and_takes_its_place(path, old):
    if old == "another":
        keys.write_key(f"file:{path}", bytes(32))
    elif old == "cut":
        path.write_text(LINE[:30])
        path.chmod(0o600)
    keys.write_key(f"file:{path}.new", KEY)

    assert keys.find_master(HOME, encryption(KEY, f"file:{path}")) == KEY

    assert path.read_text() == LINE
    assert names_in(path.parent) == ["registry.key"]


def test_a_new_key_that_waits_beside_is_left_alone_while_the_old_one_fits(written):
    keys.write_key(f"file:{written}.new", bytes(32))

    assert keys.find_master(HOME, encryption(KEY, f"file:{written}")) == KEY

    assert names_in(written.parent) == ["registry.key", "registry.key.new"]


def test_a_new_key_that_waits_in_the_keyring_is_found_and_takes_its_place(memory_keyring):
    keys.write_key(ENTRY, bytes(32))
    keys.write_key(keys.staged(ENTRY), KEY)

    assert keys.find_master(HOME, encryption(KEY, ENTRY)) == KEY

    assert memory_keyring.entries == {("likeness", "1234"): LINE}


def test_a_new_key_that_cannot_be_moved_serves_where_it_is(path):
    path.mkdir()
    (path / "something").touch()
    keys.write_key(f"file:{path}.new", KEY)

    assert keys.find_master(HOME, encryption(KEY, f"file:{path}")) == KEY
    assert names_in(path.parent) == ["registry.key", "registry.key.new"]
    with pytest.raises(
        KeyMissing, match=r"registry\.key\.new: could not be moved to .*registry\.key \(Is a directory\)"
    ):
        keys.move_key(f"file:{path}.new", f"file:{path}")


@pytest.mark.parametrize("source", ["file:{}/registry.key", ENTRY])
@pytest.mark.usefixtures("memory_keyring")
def test_a_key_that_another_process_moved_is_no_error(tmp_path, source):
    source = source.format(tmp_path)
    keys.write_key(source, KEY)

    keys.move_key(keys.staged(source), source)

    assert keys.read_key(source) == KEY


# --- a new key ---


def test_a_new_key_is_random_and_read_back_from_its_place(tmp_path):
    made = []
    for name in ("one", "other"):
        with keys.new_master(f"file:{tmp_path}/{name}") as key:
            made.append(key)

    assert [keys.read_key(f"file:{tmp_path}/{name}") for name in ("one", "other")] == made
    assert made[0] != made[1] and len(made[0]) == 32


def test_a_new_key_is_taken_away_again_on_an_error_with_the_folders_made_for_it(tmp_path, memory_keyring):
    for source in (f"file:{tmp_path}/deep/er/key", ENTRY):
        with pytest.raises(RuntimeError, match="no space"), keys.new_master(source):
            raise RuntimeError("no space")

    assert names_in(tmp_path) == []
    assert memory_keyring.entries == {}


def test_a_key_that_was_there_outlasts_the_error(written):
    with pytest.raises(KeyMissing, match="there already"), keys.new_master(f"file:{written}"):
        pass

    assert written.read_text() == LINE


def test_in_the_environment_the_key_that_is_there_is_taken(monkeypatch):
    monkeypatch.setenv("LIKENESS_KEY", LINE)

    with keys.new_master("env:LIKENESS_KEY") as key:
        assert key == KEY
