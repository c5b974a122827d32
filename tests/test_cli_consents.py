"""`likeness consents`."""

from __future__ import annotations

import json

import pytest

from tests.cli_fakes import CONSENT, json_lines

pytest_plugins = ["tests.cli_fixtures"]


def listed(cli, *artist: str) -> list[tuple[str, str, bool]]:
    rows = json.loads(cli("consents", "list", *artist, "--json").stdout)
    return [(row["artist"], row["ref"], row["in_force"]) for row in rows]


def statuses(cli) -> dict[str, str]:
    return {artist["name"]: artist["status"] for artist in json.loads(cli("artists", "list", "--json").stdout)}


def test_list_shows_every_consent(enrolled):
    result = enrolled("consents", "list")

    head, line, *rows = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert head.split() == ["artist", "ref", "in_force", "recorded_at", "expires_at", "withdrawn_at"]
    assert set(line) == {"-", " "}
    assert [row.split()[:3] for row in rows] == [["Ada", CONSENT, "True"], ["Bo", CONSENT, "True"]]
    assert listed(enrolled, "bo") == [("Bo", CONSENT, True)]
    assert json_lines(enrolled("consents", "list", "--format", "jsonl").stdout) == json.loads(
        enrolled("consents", "list", "--json").stdout
    )


def test_a_registry_with_nobody_has_no_consents(cli):
    assert cli("consents", "list", "--json").stdout == "[]\n"


def test_a_consent_is_added_with_its_end(enrolled):
    result = enrolled("consents", "add", "ada", " form-7.pdf ", "--expires", "2099-12-31")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "ada: consent form-7.pdf recorded\n")
    (row,) = [row for row in json.loads(enrolled("consents", "list", "--json").stdout) if row["ref"] == "form-7.pdf"]
    assert {name: row[name] for name in ("artist", "expires_at", "withdrawn_at", "in_force")} == {
        **{"artist": "Ada", "expires_at": "2099-12-31T23:59:59Z", "withdrawn_at": None, "in_force": True},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Zuzu", "form-7"], "Zuzu: not enrolled; `likeness artists list` shows who is"),
        (["Ada", "form-7", "--expires", "soon"], "soon: not a date such as 2027-12-31"),
        (["Ada", "form-7", "--expires", "2020-01-31"], "2020-01-31: that has passed"),
        (["Ada", "  "], "needs the artist's consent"),
    ],
)
def test_what_is_no_consent_is_refused(enrolled, arguments, message):
    before = listed(enrolled)

    result = enrolled("consents", "add", *arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert listed(enrolled) == before


def test_withdrawing_ends_the_matching_until_there_is_another_consent(enrolled):
    track = enrolled.sing("t.wav", 1, song=3)

    def verdict() -> tuple[str, int, int]:
        (scan,) = json.loads(enrolled("query", track, "--no-save", "--json").stdout)
        return scan["verdict"], scan["n_artists"], scan["n_not_matched"]

    assert verdict() == ("flagged", 2, 0)
    withdrawn = enrolled("consents", "withdraw", "Ada")
    while_withdrawn = verdict(), statuses(enrolled)
    query = enrolled("query", track, "--no-save")
    enrolled("consents", "add", "Ada", "release-2")

    assert (withdrawn.exit_code, withdrawn.stdout) == (0, "")
    assert withdrawn.stderr == (
        "Ada: 1 consents withdrawn; not matched any more. `likeness artists remove` deletes what is on record\n"
    )
    assert while_withdrawn == (("clear", 1, 1), {"Ada": "no consent", "Bo": "active"})
    assert "Ada: not matched, the consent on record was withdrawn on 20" in query.stderr
    assert "`likeness consents add` records another" in query.stderr
    assert verdict() == ("flagged", 2, 0)
    assert listed(enrolled, "Ada") == [("Ada", CONSENT, False), ("Ada", "release-2", True)]


def test_one_of_two_consents_is_withdrawn(enrolled):
    enrolled("consents", "add", "Ada", "release-2")

    result = enrolled("consents", "withdraw", "Ada", CONSENT)

    assert result.exit_code == 0
    assert "Ada: 1 consents withdrawn; still matched, another consent is in force." in result.stderr
    assert statuses(enrolled)["Ada"] == "active"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Ada", "release-9"], f"Ada: no consent release-9 is in force (in force: {CONSENT}); nothing to withdraw"),
        (["Zuzu"], "Zuzu: not enrolled; `likeness artists list` shows who is"),
    ],
)
def test_what_is_not_there_cannot_be_withdrawn(enrolled, arguments, message):
    result = enrolled("consents", "withdraw", *arguments)

    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {message}\n")
    assert statuses(enrolled) == {"Ada": "active", "Bo": "active"}


def test_who_recorded_and_withdrew_is_in_the_audit(enrolled):
    enrolled("consents", "add", "Ada", "release-2", "--as", "ida")
    enrolled("consents", "withdraw", "Ada", "release-2", "--as", "max")

    entries = json.loads(enrolled("audit", "show", "Ada", "--last", "2", "--json").stdout)
    assert [(entry["action"], entry["payload"]) for entry in entries] == [
        ("consent.add", {"ref": "release-2", "expires_at": None, "by": "ida"}),
        ("consent.withdraw", {"ref": "release-2", "by": "max"}),
    ]
