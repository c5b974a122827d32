from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import keyring.backends.fail
import pytest

from registry.store import Store
from tests.cli_fakes import CONSENT, Cli
from tests.fakes import files_holding

pytest_plugins = ["tests.cli_fixtures", "tests.key_fixtures"]
pytestmark = pytest.mark.usefixtures("no_key_of_the_user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_makes_a_private_registry_with_the_built_in_encoder(cli):
    home = cli.folder / "deep" / "er"

    result = cli("init", "--home", home)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{home}: a registry with encoder house\n"
    assert (mode(home), mode(home / "registry.db")) == (0o700, 0o600)
    assert cli("artists", "list", "--home", home, "--json").stdout == "[]\n"


def test_the_home_is_the_option_then_the_environment_then_in_the_users_folder(cli, monkeypatch):
    monkeypatch.setenv("HOME", str(cli.folder))
    monkeypatch.setattr(Cli, "_home", lambda self, arguments: [])

    cli("init")
    monkeypatch.setenv("LIKENESS_HOME", "~/from-env")
    cli("init")
    cli("init", "--home", "~/from-option")

    homes = [".likeness", "from-env", "from-option"]
    assert [(cli.folder / home / "registry.db").is_file() for home in homes] == [True, True, True]


def test_a_home_that_is_a_file_is_wrong_usage(cli):
    (cli.folder / "file").touch()

    result = cli("init", "--home", cli.folder / "file")

    assert result.exit_code == 2
    assert "is a file" in result.stderr


def test_a_model_directory_must_be_allowed_once(cli, model):
    home = cli.folder / "other"

    refused = cli("init", "--home", home, "--encoder", model)
    allowed = cli("init", "--home", home, "--encoder", model, "--trust-model")
    again = cli("init", "--home", home, "--encoder", model)

    assert (refused.exit_code, allowed.exit_code, again.exit_code) == (1, 0, 0)
    assert "a model directory is code" in refused.stderr
    assert "--trust-model" in refused.stderr
    with Store(home) as store:
        assert store.setting("encoder_source") == str(model)


def test_a_model_that_changed_since_it_was_allowed_is_refused(cli, model):
    changed = shutil.copytree(model, cli.folder / "model")
    cli("init", "--encoder", changed, "--trust-model")
    (changed / "hyperparams.yaml").write_text("!!python/object: os.system\n", encoding="ascii")

    result = cli("init", "--encoder", changed)

    assert result.exit_code == 1
    assert "--trust-model" in result.stderr


def test_what_is_no_model_is_named(cli):
    result = cli("init", "--encoder", "no-such-folder")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "no-such-folder: neither a directory nor a hub id" in result.stderr


def test_a_registry_with_voices_keeps_its_encoder(enrolled, model):
    refused = enrolled("init", "--encoder", "house")
    same = enrolled("init", "--encoder", model)

    assert (refused.exit_code, same.exit_code) == (1, 0)
    assert f"holds voices enrolled with encoder {model}; choose another home for house" in refused.stderr


def test_the_same_encoder_by_a_relative_path_is_the_same(enrolled, model, monkeypatch):
    monkeypatch.chdir(model.parent)

    assert enrolled("init", "--encoder", model.name).exit_code == 0


@pytest.mark.parametrize("command", [["query", "x.wav"], ["batch", "."], ["artists", "list"], ["check"], ["export"]])
def test_commands_that_need_a_registry_say_how_to_make_one(cli, command):
    result = cli(*command, "--home", cli.folder / "nowhere")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "no registry here; `likeness enroll` or `likeness init` makes one" in result.stderr
    assert not (cli.folder / "nowhere").exists()


# --- nothing is left behind ---


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--encoder", "no-such-folder"], "neither a directory nor a hub id"),
        (["--encrypt", "--key-file", "taken"], "there already, and keys are not written over"),
        (["--encrypt", "--key-file", "taken/key"], "the key cannot be written (Not a directory)"),
        (["--encrypt", "--key-file", "deep/er/key"], "a key beside what it opens protects nothing"),
        (["--encrypt", "--key-file", "safe/key", "--encoder", "no-such-folder"], "neither a directory nor a hub id"),
        (["--encrypt", "--key-env"], "the environment variable LIKENESS_KEY is not set"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(cli, tmp_path_factory, monkeypatch, arguments, reason):
    folder = tmp_path_factory.mktemp("folder")
    monkeypatch.chdir(folder)
    (folder / "taken").write_text("mine")

    result = cli("init", "--home", "deep/er", *arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert reason in result.stderr
    assert below(folder) == ["taken"]


def test_a_refusal_takes_nothing_away_that_was_there(cli):
    before = below(cli.home)

    for arguments in (["--encoder", "no-such-folder"], ["--encrypt", "--key-file", cli.home / "key"]):
        assert cli("init", *arguments).exit_code == 1

    assert below(cli.home) == before
    assert cli("artists", "list", "--json").stdout == "[]\n"


# --- encrypted ---


LOUD = "warning: BACK UP the key, `likeness key backup FILE`: without it everything enrolled is lost\n"


def test_an_encrypted_registry_has_its_key_in_the_users_configuration(cli):
    home = cli.folder / "other"

    result = cli("init", "--home", home, "--encrypt")

    (key_path,) = (cli.folder / "user/.config/likeness").iterdir()
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{home}: a registry with encoder house, encrypted; its key is in {key_path}\n{LOUD}"
    assert (mode(key_path), mode(key_path.parent)) == (0o600, 0o700)
    with Store(home) as store:
        assert (store.encryption["source"], store.encryption["version"]) == (f"file:{key_path}", 1)
        assert key_path.name == f"{store.encryption['home_id']}.key"


def test_the_key_goes_where_it_is_told(cli, monkeypatch):
    monkeypatch.chdir(cli.folder)

    result = cli("init", "--home", "other", "--encrypt", "--key-file", "safe/my.key")

    assert result.exit_code == 0
    assert f"its key is in {cli.folder}/safe/my.key\n" in result.stderr
    with Store(cli.folder / "other") as store:
        assert store.encryption["source"] == f"file:{cli.folder}/safe/my.key"


def test_the_key_is_taken_from_the_environment(cli, monkeypatch):
    home = cli.folder / "other"
    monkeypatch.setenv("LIKENESS_KEY", "A" * 43)

    result = cli("init", "--home", home, "--encrypt", "--key-env")
    listed = cli("artists", "list", "--home", home, "--json")
    monkeypatch.setenv("LIKENESS_KEY", "B" * 42 + "A")
    refused = cli("init", "--home", home, "--encrypt")

    assert (result.exit_code, listed.exit_code, refused.exit_code) == (0, 0, 1)
    assert "its key is in the environment variable LIKENESS_KEY\n" in result.stderr
    assert "A" * 43 not in result.stderr
    assert "LIKENESS_KEY or LIKENESS_KEY_FILE is set, and goes before" in refused.stderr


def test_the_key_is_kept_in_the_keyring(cli, memory_keyring):
    home = cli.folder / "other"

    result = cli("init", "--home", home, "--encrypt", "--key-keyring")

    ((service, home_id),) = memory_keyring.entries
    assert (result.exit_code, service) == (0, "likeness")
    assert f"encrypted; its key is in the keyring's entry likeness/{home_id}\n" in result.stderr
    assert cli("artists", "list", "--home", home, "--json").stdout == "[]\n"


def test_without_a_keyring_the_choice_of_one_says_what_to_do(cli, use_keyring):
    use_keyring(keyring.backends.fail.Keyring())
    home = cli.folder / "other"

    result = cli("init", "--home", home, "--encrypt", "--key-keyring")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no keyring on this system; keep the key in a file, named with LIKENESS_KEY_FILE" in result.stderr
    assert not home.exists()


def test_a_registry_that_nobody_is_in_yet_can_be_encrypted(cli, model):
    result = cli("init", "--encrypt", "--encoder", model)

    assert result.exit_code == 0
    assert cli.rows("SELECT COUNT(*) AS n FROM meta WHERE key = 'encryption'") == [{"n": 1}]


def test_a_registry_with_voices_stays_as_it_is(enrolled, model):
    result = enrolled("init", "--encrypt", "--encoder", model)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "holds artists, and what is on record of them would stay as it is; make an encrypted" in result.stderr
    assert not (enrolled.folder / "user").exists()


def test_an_encrypted_registry_keeps_its_key(cli):
    home = cli.folder / "other"
    cli("init", "--home", home, "--encrypt", "--key-file", cli.folder / "one.key")

    again = cli("init", "--home", home, "--encrypt", "--key-file", cli.folder / "other.key")
    plain = cli("init", "--home", home)

    assert (again.exit_code, plain.exit_code) == (1, 0)
    assert "encrypted already; `likeness key rotate` gives it another key" in again.stderr
    assert not (cli.folder / "other.key").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--encrypt", "--key-env", "--key-keyring"], "the key lies in one place; give one of them"),
        (["--encrypt", "--key-file", "key", "--key-env"], "the key lies in one place; give one of them"),
        (["--key-file", "key"], "the place of a key is for --encrypt; give that too"),
        (["--key-env"], "the place of a key is for --encrypt; give that too"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(cli, arguments, reason):
    result = cli("init", "--home", cli.folder / "other", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr
    assert not (cli.folder / "other").exists()


def test_an_encrypted_registry_works_and_shows_nothing(cli, model):
    """From enrolling to a flag; nobody who has the home alone finds a name, a path or a voice in it."""
    cli("init", "--encrypt", "--encoder", model)

    cli.enroll("Ada Vale", 1)
    flagged = cli("query", cli.sing("suspect.wav", 1, song=5), "--format", "jsonl")

    match = json.loads(flagged.stdout)["matches"][0]
    assert (flagged.exit_code, match["artist"]) == (0, "Ada Vale")
    assert match["evidence"][0]["reference"].startswith(f"{cli.folder}/Ada Vale/song-")
    with cli.store() as store:
        vectors = store.template_vectors()[1]
    for needle in (b"Ada Vale", b"song-0.wav", CONSENT.encode(), *(vector.tobytes()[:16] for vector in vectors)):
        assert files_holding(cli.home, needle) == []
    (key_path,) = (cli.folder / "user/.config/likeness").iterdir()
    key_path.unlink()
    refused = cli("artists", "list")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "encrypted, and its key cannot be had" in refused.stderr
