from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from registry.store import Store
from tests.cli_fakes import Cli

pytest_plugins = ["tests.cli_fixtures"]


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
