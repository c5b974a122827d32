"""`likeness audit`; `likeness receipts` is tested with the removals."""

from __future__ import annotations

import json

import pytest

pytest_plugins = ["tests.cli_fixtures"]


def harm(cli, sql: str) -> None:
    with cli.store() as store:
        store.db.execute("PRAGMA foreign_keys = OFF")
        with store.writing():
            store.db.execute(sql)


def test_show_gives_the_latest_entries_oldest_first(enrolled):
    enrolled("artists", "rename", "Ada", "Ada Vale", "--as", "ida")
    enrolled("config", "set", "retention-days", "90", "--as", "max")

    result = enrolled("audit", "show", "--last", "2")

    head, line, *rows = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert head.split() == ["seq", "at", "by", "action", "artist", "what"]
    assert set(line) == {"-", " "}
    assert [" ".join([*row.split()[:1], *row.split()[2:]]) for row in rows] == [
        "7 ida artist.rename Ada Vale from Ada, to Ada Vale",
        "8 max config.set key retention-days, to 90",
    ]
    entries = json.loads(enrolled("audit", "show", "--json").stdout)
    assert [entry["seq"] for entry in entries] == list(range(1, 9))
    assert entries[-1]["payload"] == {"key": "retention-days", "from": None, "to": 90, "by": "max"}


def test_show_of_one_artist_leaves_out_the_others(enrolled):
    entries = json.loads(enrolled("audit", "show", "bo", "--json").stdout)

    assert [(entry["action"], entry["artist"]) for entry in entries] == [
        ("consent.add", "Bo"),
        ("reference.enroll", "Bo"),
        ("reference.enroll", "Bo"),
    ]
    refused = enrolled("audit", "show", "Zuzu")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: Zuzu: not enrolled")


def test_what_was_erased_is_shown_as_erased(enrolled):
    enrolled("artists", "remove", "Ada", "--yes")

    rows = enrolled("audit", "show").stdout.splitlines()[2:]

    assert [row.split()[2:] for row in rows[:3]] == [
        ["consent.add", "(erased)"],
        ["reference.enroll", "(erased)"],
        ["reference.enroll", "(erased)"],
    ]
    assert "Ada" not in enrolled("audit", "show", "--json").stdout


def test_verify_prints_the_head_and_says_that_the_chain_is_sound(enrolled):
    result = enrolled("audit", "verify")

    (entry,) = json.loads(enrolled("audit", "show", "--last", "1", "--json").stdout)
    assert (result.exit_code, result.stdout) == (0, f"6 {entry['hash']}\n")
    assert result.stderr == "6 entries, 0 of them erased in what they say; sound\n"
    (found,) = json.loads(enrolled("audit", "verify", "--json").stdout)
    assert found == {"head": {"seq": 6, "hash": entry["hash"]}, "n_entries": 6, "n_erased": 0, "problems": []}


def test_verify_of_an_empty_registry_is_sound(cli):
    result = cli("audit", "verify")

    assert (result.exit_code, result.stdout) == (0, f"0 {'0' * 64}\n")


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE audit SET action = 'nothing' WHERE seq = 2", "entry 2 was changed"),
        ("UPDATE audit_payloads SET payload = '{}' WHERE seq = 2", "what entry 2 says was changed"),
        ("DELETE FROM audit WHERE seq = 2", "entry 2 is missing"),
    ],
)
def test_a_broken_chain_exits_4_and_says_where(enrolled, sql, problem):
    harm(enrolled, sql)

    table, as_json = enrolled("audit", "verify"), enrolled("audit", "verify", "--json")

    assert (table.exit_code, as_json.exit_code) == (4, 4)
    assert table.stderr.splitlines()[0] == problem
    assert table.stderr.endswith("BROKEN\n")
    assert json.loads(as_json.stdout)[0]["problems"][0] == problem


def test_an_end_that_was_cut_off_is_found_with_a_head_noted_before(enrolled):
    head = enrolled("audit", "verify").stdout.split()[1]
    for table in ("audit_payloads", "audit"):
        harm(enrolled, f"DELETE FROM {table} WHERE seq > 4")

    alone, noted = enrolled("audit", "verify"), enrolled("audit", "verify", "--head", head[:12])

    assert alone.exit_code == 0
    assert noted.exit_code == 4
    assert noted.stderr.splitlines()[0] == (
        f"head {head[:12]} is not in the chain: entries were cut off, or it is of another registry"
    )


def test_a_head_noted_earlier_is_in_the_chain(enrolled):
    head = enrolled("audit", "verify").stdout.split()[1]
    enrolled("artists", "remove", "Ada", "--yes")

    assert enrolled("audit", "verify", "--head", head.upper(), "--head", head[:8]).exit_code == 0


@pytest.mark.parametrize("head", ["3f9a41c", "release-2026", ""])
def test_a_head_that_is_none_is_wrong_usage(enrolled, head):
    result = enrolled("audit", "verify", "--head", head)

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{head}: at least 8 characters of a hash (0-9, a-f) are needed" in result.stderr
