from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from registry.cli import COMMANDS, main
from registry.errors import EncoderMismatch, StoreDamaged
from tests.cli_fakes import REPO

pytest_plugins = ["tests.cli_fixtures"]


def each_command() -> Iterator[tuple[str, ...]]:
    """Every command that does something, by its words: ("enroll",), ("artists", "list"), ..."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.commands)
        else:
            yield (name,)


COMMAND_WORDS = list(each_command())


def run(*arguments: str) -> click.testing.Result:
    return CliRunner().invoke(main, arguments, prog_name="likeness")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads(name):
    command = main.get_command(click.Context(main), name)

    assert command is not None
    assert command.name == name


@pytest.mark.parametrize("words", COMMAND_WORDS, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(words):
    result = run(*words, "--help")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: likeness {' '.join(words)} [OPTIONS]")
    examples = result.stdout.split("Example", 1)[1].split("Options:")[0]
    assert f"\n    likeness {' '.join(words)}" in examples
    assert "--home" in result.stdout


@pytest.mark.parametrize("words", COMMAND_WORDS, ids=" ".join)
def test_every_option_is_explained(words):
    context = click.Context(main)
    command = main.get_command(context, words[0])
    for word in words[1:]:
        command = command.commands[word]

    options = [option for option in command.params if isinstance(option, click.Option)]

    assert [option.name for option in options if not option.help or not option.help.endswith((".", "stdout"))] == []


def test_the_overview_names_every_command_and_exit_code():
    result = run("-h")

    assert (result.exit_code, result.stderr) == (0, "")
    for name, (_, about) in COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert about.split(",")[0][:30] in result.stdout
    for code in ("0 done", "1 refused", "2 wrong usage", "3 finished", "4 the", "5 flagged", "130 stopped"):
        assert code in " ".join(result.stdout.split())


@pytest.mark.parametrize("arguments", [["--help"], ["batch", "--help"], ["artists", "list", "--help"]])
def test_help_does_not_wait_for_anything_heavy(arguments):
    heavy = "{'torch', 'speechbrain', 'numpy', 'faiss', 'sqlite_utils', 'rich', 'soundfile'}"
    code = f"import sys; from registry.cli import main; main({arguments}, standalone_mode=False)"
    code += f"; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"

    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_the_module_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "registry", "--version"], cwd=REPO, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0
    assert result.stdout.split()[-1] == run("--version").stdout.split()[-1]


def test_an_unknown_command_is_wrong_usage():
    result = run("enrol")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such command 'enrol'" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EncoderMismatch("this encoder is another"), 1, "Error: this encoder is another\n"),
        (StoreDamaged("a page is torn"), 4, "Error: a page is torn; run `likeness check`\n"),
        (EncoderMismatch("\x1b[2Jgone\u202e\nnext"), 1, "Error: \\x1b[2Jgone\\u202e\\nnext\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
    ],
)
def test_what_is_refused_or_stopped_is_one_message_and_an_exit_code(cli, monkeypatch, error, code, message):
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("registry.store.Store.artists", refuse)
    result = cli("artists", "list")

    assert (result.exit_code, result.stdout, result.stderr) == (code, "", message)


def test_a_bug_keeps_its_traceback(cli, monkeypatch):
    monkeypatch.setattr("registry.store.Store.artists", lambda self: 1 / 0)

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        cli("artists", "list")


@pytest.mark.parametrize("arguments", [["--format", "json"], ["--json"], ["--format", "jsonl", "--json"]])
def test_json_is_short_for_format_json(cli, arguments):
    assert cli("artists", "list", *arguments).stdout == "[]\n"


@pytest.mark.parametrize(("value", "code"), [("nan", 2), ("inf", 2), ("-1.5", 3)])
def test_a_threshold_is_a_number(cli, value, code):
    result = cli("query", "nothing.wav", "--threshold", value)

    assert result.exit_code == code
    assert code == 3 or "is not a number that a score can reach" in result.stderr


@pytest.mark.parametrize(("value", "code"), [("0", 2), ("100%", 2), ("1%", 3)])
def test_a_budget_is_a_share(cli, value, code):
    result = cli("query", "nothing.wav", "--budget", value)

    assert result.exit_code == code
    assert code == 3 or f"a budget is a share above 0 and below 1, such as 0.01, 1e-2 or 1%, not {value}" in " ".join(
        result.stderr.split()
    )
