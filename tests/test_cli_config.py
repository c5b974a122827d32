from __future__ import annotations

import json

import pytest

pytest_plugins = ["tests.cli_fixtures"]

KEYS = ["require-two-persons", "retention-days", "flagged-retention-days", "false-flag-budget"]


def test_list_shows_every_setting_with_value_default_and_what_it_does(cli):
    cli("config", "set", "retention-days", "90")

    table = cli("config", "list")
    rows = json.loads(cli("config", "list", "--json").stdout)

    assert (table.exit_code, table.stderr) == (0, "")
    assert table.stdout.splitlines()[0].split() == ["key", "value", "default", "about"]
    assert [line.split()[:3] for line in table.stdout.splitlines()[2:]] == [
        ["require-two-persons", "off", "off"],
        ["retention-days", "90", "none"],
        ["flagged-retention-days", "none", "none"],
        ["false-flag-budget", "0.03", "0.03"],
    ]
    assert [(row["key"], row["value"], row["default"]) for row in rows] == [
        ("require-two-persons", False, False),
        ("retention-days", 90, None),
        ("flagged-retention-days", None, None),
        ("false-flag-budget", 0.03, 0.03),
    ]
    assert all(row["about"].endswith(".") for row in rows)


def test_get_prints_the_value_alone(cli):
    cli("config", "set", "retention-days", "1")  # not taken for True

    assert cli("config", "get", "retention-days").stdout == "1\n"
    assert cli("config", "get", "require-two-persons").stdout == "off\n"
    assert json.loads(cli("config", "get", "retention-days", "--json").stdout)[0]["value"] == 1


def test_set_says_what_is_in_force_now_and_is_audited(cli):
    result = cli("config", "set", "require-two-persons", "on", "--as", "ines")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "require-two-persons: on\n"
    (entry,) = json.loads(cli("audit", "show", "--json").stdout)
    assert (entry["action"], entry["payload"]) == (
        "config.set",
        {"key": "require-two-persons", "from": False, "to": True, "by": "ines"},
    )


def test_a_budget_is_typed_as_a_share_or_in_percent(cli):
    result = cli("config", "set", "false-flag-budget", "0.5%")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "false-flag-budget: 0.005\n")
    assert cli("config", "get", "false-flag-budget").stdout == "0.005\n"
    assert cli("config", "set", "false-flag-budget", "1e-2").stderr == "false-flag-budget: 0.01\n"
    refused = cli("config", "set", "false-flag-budget", "0")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "false-flag-budget is a share above 0 and below 1, such as 0.01, 1e-2 or 1%, not 0" in refused.stderr
    assert cli("config", "get", "false-flag-budget").stdout == "0.01\n"


@pytest.mark.parametrize("arguments", [["get", "two-persons"], ["set", "two-persons", "on"]])
def test_an_unknown_key_is_wrong_usage_and_the_keys_are_named(cli, arguments):
    result = cli("config", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"there is no two-persons; the keys are {', '.join(KEYS)}" in result.stderr


def test_a_value_that_is_not_allowed_is_wrong_usage_and_changes_nothing(cli):
    result = cli("config", "set", "retention-days", "ninety")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "retention-days is a whole number of days from 1 to 36500, or none" in result.stderr
    assert "not ninety" in result.stderr
    assert cli("config", "get", "retention-days").stdout == "none\n"


def test_settings_are_of_a_registry(cli):
    result = cli("config", "list", "--home", cli.folder / "nowhere")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "no registry here" in result.stderr
