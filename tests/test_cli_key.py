from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli_fakes import Cli
from tests.fakes import files_holding

pytest_plugins = ["tests.cli_fixtures", "tests.key_fixtures"]
pytestmark = pytest.mark.usefixtures("no_key_of_the_user")

LOUD = [
    "warning: BACK UP the new key, `likeness key backup FILE`: without it everything enrolled is lost",
    "warning: backups that were made before open only with the old key, kept beside the new one (.old-TIME); make new "
    "ones",
]


@pytest.fixture
def key_path(tmp_path) -> Path:
    return tmp_path / "my.key"


@pytest.fixture
def encrypted(cli, model, key_path) -> Cli:
    """An encrypted registry with Ada in it, and her recordings kept."""
    assert cli("init", "--encrypt", "--key-file", key_path, "--encoder", model).exit_code == 0
    cli.enroll("Ada", 1)
    return cli


def answers(cli: Cli) -> list[str]:
    """What the registry says of its artists and of a song of Ada's."""
    suspect = cli.sing("suspect.wav", 1, song=5)
    results = [cli("artists", "list", "--json"), cli("query", suspect), cli("check")]
    assert [result.exit_code for result in results] == [0, 0, 0], [result.stderr for result in results]
    return [result.stdout for result in results[:2]]


def test_a_rotation_changes_the_key_and_nothing_else(encrypted, key_path):
    before, key = answers(encrypted), key_path.read_text()

    result = encrypted("key", "rotate")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [f"{encrypted.home}: has a new key, in {key_path}", *LOUD]
    assert key_path.read_text() != key
    assert answers(encrypted) == before


def test_a_rotation_to_another_file_says_what_to_do_with_the_old_key(encrypted, key_path, tmp_path):
    result = encrypted("key", "rotate", "--to", tmp_path / "new.key")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        f"{encrypted.home}: has a new key, in {tmp_path}/new.key",
        *LOUD,
        f"{key_path}: the old key, not needed any more but for those backups",
    ]
    key_path.unlink()
    answers(encrypted)


def test_a_rotation_of_a_key_in_the_environment_prints_the_command_that_takes_the_new_one(
    encrypted, key_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("LIKENESS_KEY", key_path.read_text().strip())
    new = tmp_path / "new key"

    refused = encrypted("key", "rotate")
    result = encrypted("key", "rotate", "--to", new)

    assert (refused.exit_code, result.exit_code) == (1, 0)
    assert "where none can be written; name a file for the new one, --to FILE" in refused.stderr
    command = f"""export LIKENESS_KEY="$(cat '{new}')\""""
    assert result.stderr.splitlines()[-1] == f"warning: before the next command: {command}"
    printed = subprocess.run(["sh", "-c", f'{command}; printf %s "$LIKENESS_KEY"'], capture_output=True, check=True)
    monkeypatch.setenv("LIKENESS_KEY", printed.stdout.decode())
    answers(encrypted)


def test_a_rotation_away_from_the_file_that_the_environment_names_says_so(encrypted, key_path, tmp_path, monkeypatch):
    monkeypatch.setenv("LIKENESS_KEY_FILE", str(key_path))

    result = encrypted("key", "rotate", "--to", tmp_path / "new.key")

    said = f"warning: before the next command: export LIKENESS_KEY_FILE={tmp_path}/new.key"
    assert said in result.stderr.splitlines()
    refused = encrypted("artists", "list")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"encrypted, and not with the key in {key_path}; put the right one there" in refused.stderr
    monkeypatch.setenv("LIKENESS_KEY_FILE", str(tmp_path / "new.key"))
    answers(encrypted)


def test_a_copy_of_the_key_is_private_and_opens_the_registry(encrypted, key_path, tmp_path, monkeypatch):
    copy = tmp_path / "safe" / "copy.key"

    result = encrypted("key", "backup", copy)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{copy}: a copy of the key of {encrypted.home}\n"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    key_path.unlink()
    monkeypatch.setenv("LIKENESS_KEY_FILE", str(copy))
    answers(encrypted)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("home/copy.key", "a key beside what it opens protects nothing"),
        ("my.key", "there already, and keys are not written over"),
        ("", "there already, and keys are not written over"),
    ],
)
def test_a_copy_goes_neither_into_the_home_nor_over_anything(encrypted, key_path, tmp_path, file, reason):
    before = key_path.read_text()

    result = encrypted("key", "backup", tmp_path / file)

    assert (result.exit_code, result.stdout) == (1, "")
    assert reason in result.stderr
    assert key_path.read_text() == before
    assert not (encrypted.home / "copy.key").exists()


@pytest.mark.parametrize("command", [["rotate"], ["backup", "copy.key"]])
def test_a_registry_that_is_not_encrypted_has_no_key(cli, command, monkeypatch):
    monkeypatch.chdir(cli.folder)

    result = cli("key", *command)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "not encrypted, so it has no key; `likeness init --encrypt` makes a registry that is" in result.stderr
    assert not (cli.folder / "copy.key").exists()


def test_no_command_prints_the_key(encrypted, key_path, tmp_path):
    secrets = [key_path.read_text().split()[1]]
    said = []
    for command in (["key", "rotate"], ["key", "backup", tmp_path / "copy"], ["audit", "show"], ["status"], ["export"]):
        result = encrypted(*command)
        said.append(result.stdout + result.stderr)
    secrets.append(key_path.read_text().split()[1])

    assert not [secret for secret in secrets if any(secret in text for text in said)]
    assert [files_holding(encrypted.home, secret.encode()) for secret in secrets] == [[], []]
