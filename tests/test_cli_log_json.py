"""`likeness --log-json`: stderr as JSON objects, for the machines that collect logs."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
import warnings
from typing import Any

import pytest
from click.testing import Result

from registry.errors import StoreDamaged
from tests.cli_fakes import CONSENT, REPO, Cli, json_lines

pytest_plugins = ["tests.cli_fixtures"]

KEYS = {"at", "level", "command", "message", "exit_code", "traceback"}


def said(result: Result) -> list[dict[str, Any]]:
    """What a command said, without the time, which is checked here."""
    lines = json_lines(result.stderr)
    assert result.stderr.isascii()
    for line in lines:
        assert set(line) <= KEYS
        assert line.pop("at").endswith("Z")
    return lines


def logged(cli: Cli, *arguments: object, **options: Any) -> Result:
    return cli("--log-json", *arguments, **options)


def test_notes_of_a_batch_are_objects_and_results_are_as_without(enrolled):
    folder = enrolled.sing("in/a.wav", 1, song=3).parent

    plain, log = enrolled("batch", folder, "--workers", "1"), logged(enrolled, "batch", folder, "--workers", "1")

    assert (plain.exit_code, log.exit_code) == (0, 0)
    lines = said(log)
    assert {(line["level"], line["command"]) for line in lines} == {("info", "batch")}
    assert any("begins anew" in line["message"] for line in lines)
    assert any("1 flagged" in line["message"] for line in lines)
    assert [line["outcome"] for line in json_lines(log.stdout)] == ["flagged"]


def test_a_warning_has_its_level(enrolled):
    result = logged(enrolled, "enroll", "Cy", enrolled.sing("cy.wav", 1, song=3), "--consent", CONSENT)

    assert result.exit_code == 0
    (warning,) = [line for line in said(result) if "sounds like Ada" in line["message"]]
    assert (warning["level"], warning["command"]) == ("warning", "enroll")
    assert not warning["message"].startswith("warning")


def test_a_refusal_has_its_exit_code_and_the_exact_text(enrolled):
    result = logged(enrolled, "artists", "show", "\x1b[2J\nAda\u202e")

    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = said(result)
    assert line["message"].startswith("\x1b[2J\nAda\u202e: not enrolled")
    assert (line["level"], line["command"], line["exit_code"]) == ("error", "artists", 1)


@pytest.mark.parametrize(
    ("arguments", "command", "message"),
    [
        (["query", "--bogus"], "query", "No such option '--bogus'."),
        (["artists", "show"], "artists", "Missing argument 'ARTIST'."),
        (["artists"], "artists", "Missing command."),
        (["enrol\x1b"], None, r"No such command 'enrol\x1b'."),
        (["--bogus"], None, "No such option '--bogus'."),
        ([], None, "Missing command."),
    ],
)
def test_wrong_usage_is_one_object(cli, monkeypatch, arguments, command, message):
    monkeypatch.setattr(Cli, "_home", lambda self, arguments: [])

    result = logged(cli, *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = said(result)
    assert (line["level"], line["command"], line["exit_code"]) == ("error", command, 2)
    assert line["message"].startswith(message.rstrip("."))


@pytest.mark.parametrize(
    ("error", "code", "level", "message"),
    [
        (StoreDamaged("a page is torn"), 4, "error", "a page is torn; run `likeness check`"),
        (KeyboardInterrupt(), 130, "info", "stopped by Ctrl-C"),
    ],
)
def test_damage_and_ctrl_c_are_one_object_with_their_exit_code(cli, monkeypatch, error, code, level, message):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("registry.store.Store.artists", fail)
    result = logged(cli, "artists", "list")

    assert (result.exit_code, result.stdout) == (code, "")
    assert said(result) == [{"level": level, "command": "artists", "message": message, "exit_code": code}]


def test_a_bug_is_one_critical_object_with_its_traceback(cli, monkeypatch):
    monkeypatch.setattr("registry.store.Store.artists", lambda self: 1 / 0)

    result = logged(cli, "artists", "list")

    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = said(result)
    trace = line.pop("traceback")
    assert line == {
        "level": "critical",
        "command": "artists",
        "message": "ZeroDivisionError: division by zero",
        "exit_code": 1,
    }
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("ZeroDivisionError: division by zero\n")


def test_what_libraries_warn_of_is_an_object_too(cli, monkeypatch):
    def chatter(_: object) -> list[Any]:
        warnings.warn("old", FutureWarning, stacklevel=1)
        logging.getLogger("library").error("no %s", "luck")
        return []

    monkeypatch.setattr("registry.store.Store.artists", chatter)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = logged(cli, "artists", "list", "--json")

    lines = said(result)
    assert [line["level"] for line in lines[:2]] == ["warning", "error"]
    assert "FutureWarning: old" in lines[0]["message"]
    assert lines[1]["message"] == "no luck"
    assert warnings.showwarning.__module__ == "warnings"


def test_nobody_is_asked(enrolled):
    result = logged(enrolled, "artists", "remove", "Ada", stdin="y\n")

    assert (result.exit_code, result.stdout) == (1, "")
    assert [line["message"] for line in said(result)] == [
        "not confirmed, nothing was changed; --yes goes ahead without asking"
    ]
    assert len(enrolled.rows("SELECT * FROM artists")) == 2


def test_no_voiceprint_is_ever_in_the_log(enrolled, monkeypatch):
    """Not even where the code that has them in its hands fails."""
    track = enrolled.sing("t.wav", 1, song=3)
    monkeypatch.setattr("registry.scans.add_scan", lambda store, scan: [][1])
    with enrolled.store() as store:
        vector = store.template_vectors()[1][0]

    result = logged(enrolled, "query", track)

    (line,) = said(result)
    assert (line["level"], result.exit_code) == ("critical", 1)
    assert not any(f"{value:.4f}"[1:] in result.stderr for value in vector)


def test_without_the_option_a_bug_keeps_its_traceback_and_messages_are_text(cli, monkeypatch):
    assert cli("artists", "list").stderr == "nobody is enrolled yet; `likeness enroll` does that\n"
    monkeypatch.setattr("registry.store.Store.artists", lambda self: 1 / 0)

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        cli("artists", "list")


@pytest.mark.parametrize(
    ("value", "is_json"), [("1", True), ("true", True), ("0", False), ("", False)], ids=["1", "true", "0", "empty"]
)
def test_the_environment_asks_for_it_too_in_a_process(cli, value, is_json):
    process = cli.start(
        *("tracks", "show", "never.wav"),
        env={**os.environ, "LIKENESS_LOG_JSON": value},
    )
    stdout, stderr = process.communicate(timeout=60)

    assert (process.returncode, stdout, stderr.count("\n")) == (1, "", 1)
    if is_json:
        line = json.loads(stderr)
        assert line["message"] == "never.wav: no track with this path or content_id has been scanned here"
        assert (line["level"], line["command"], line["exit_code"]) == ("error", "tracks", 1)
    else:
        assert stderr.startswith("Error: never.wav: ")


def test_there_is_no_progress_bar_on_a_terminal(enrolled):
    shown, terminal = pty.openpty()
    process = enrolled.start(
        *("--log-json", "query", enrolled.sing("t.wav", 1, song=3), enrolled.folder / "gone.wav", "--json"),
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    stdout, _ = process.communicate(timeout=60)
    text = os.read(shown, 65536).decode()
    os.close(shown)

    assert process.returncode == 3
    assert len(json.loads(stdout)) == 2
    assert [json.loads(line)["message"] for line in text.splitlines()] == ["1 of 2 tracks could not be used"]


def test_help_names_the_option_and_its_variable():
    command = [sys.executable, "-m", "registry", "--log-json", "--help"]

    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)

    assert "--log-json" in done.stdout
    assert "LIKENESS_LOG_JSON" in done.stdout
    assert done.stderr == ""
