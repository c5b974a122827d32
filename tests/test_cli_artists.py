from __future__ import annotations

import json

import pytest

from tests.cli_fakes import CONSENT, check_units, json_lines

pytest_plugins = ["tests.cli_fixtures"]


def names(cli) -> list[str]:
    return [artist["name"] for artist in json.loads(cli("artists", "list", "--json").stdout)]


def test_list_shows_who_is_enrolled_with_how_much(enrolled):
    result = enrolled("artists", "list", "--json")

    artists = json.loads(result.stdout)
    check_units(artists)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [(a["name"], a["n_references"], a["n_templates"], a["voiced_s"]) for a in artists] == [
        ("Ada", 2, 1, pytest.approx(12, abs=1)),
        ("Bo", 2, 1, pytest.approx(12, abs=1)),
    ]
    table = enrolled("artists", "list").stdout.splitlines()
    assert table[0].split() == ["name", "n_references", "n_templates", "voiced_s", "created_at"]
    assert [row.split()[0] for row in table[2:]] == ["Ada", "Bo"]
    assert json_lines(enrolled("artists", "list", "--format", "jsonl").stdout) == artists


def test_an_empty_list_says_so_beside_the_results(cli):
    table, as_json = cli("artists", "list"), cli("artists", "list", "--json")

    assert (table.exit_code, table.stdout) == (0, "")
    assert table.stderr == "nobody is enrolled yet; `likeness enroll` does that\n"
    assert as_json.stdout == "[]\n"


def test_show_lists_references_and_what_they_rest_on(enrolled):
    result = enrolled("artists", "show", "Ada", "--json")

    (artist,) = json.loads(result.stdout)
    check_units(artist)
    assert [reference["path"] for reference in artist["references"]] == [
        str(enrolled.folder / f"Ada/song-{song}.wav") for song in range(2)
    ]
    assert {reference["consent"] for reference in artist["references"]} == {CONSENT}
    table = enrolled("artists", "show", "Ada")
    assert str(enrolled.folder / "Ada/song-1.wav") in table.stdout
    assert table.stderr.startswith("Ada: enrolled 2")


@pytest.mark.parametrize("command", [["show", "Adda"], ["rename", "Adda", "Eve"], ["remove", "Adda", "--yes"]])
def test_an_artist_who_is_not_enrolled_is_refused_with_a_suggestion(enrolled, command):
    result = enrolled("artists", *command)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: Adda: not enrolled; did you mean Ada?\n"
    assert names(enrolled) == ["Ada", "Bo"]


def test_rename_keeps_everything_else(enrolled):
    enrolled("query", enrolled.sing("t.wav", 1, song=3))

    result = enrolled("artists", "rename", "Ada", "  Ada V. ")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Ada: now Ada V.\n")
    assert names(enrolled) == ["Ada V.", "Bo"]
    (scan,) = json.loads(enrolled("tracks", "show", enrolled.folder / "t.wav", "--json").stdout)
    assert scan["matches"][0]["artist"] == "Ada V."


@pytest.mark.parametrize(("new_name", "message"), [("Bo", "two artists cannot share a name"), ("", "name is empty")])
def test_rename_to_a_name_that_cannot_be_is_refused(enrolled, new_name, message):
    result = enrolled("artists", "rename", "Ada", new_name)

    assert result.exit_code == 1
    assert message in result.stderr
    assert names(enrolled) == ["Ada", "Bo"]


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_remove_asks_and_does_nothing_without_a_yes(enrolled, answer):
    result = enrolled("artists", "remove", "Ada", stdin=answer)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Remove Ada, 2 references and 1 templates?" in result.stderr
    assert names(enrolled) == ["Ada", "Bo"]


def test_remove_leaves_nothing_of_an_artist(enrolled):
    kept_path = enrolled.sing("kept.wav", 1, song=3)
    enrolled("enroll", "Ada", kept_path, "--consent", CONSENT, "--keep-audio")
    track = enrolled.sing("t.wav", 1, song=4)
    enrolled("query", track)

    result = enrolled("artists", "remove", "Ada", stdin="y\n")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.endswith("Ada: removed\n")
    assert names(enrolled) == ["Bo"]
    assert list((enrolled.home / "audio").iterdir()) == []
    (scan,) = json.loads(enrolled("tracks", "show", track, "--json").stdout)
    assert [match["artist"] for match in scan["matches"]] == ["Bo"]
    (again,) = json.loads(enrolled("query", track, "--json").stdout)
    assert again["verdict"] == "clear"
    check = enrolled("check")
    assert (check.exit_code, check.stdout) == (0, "")


def test_audio_kept_for_two_artists_outlives_the_first(enrolled):
    duet = enrolled.sing("duet.wav", 1, song=3)
    enrolled("enroll", "Ada", duet, "--consent", CONSENT, "--keep-audio")
    enrolled("enroll", "Bo", duet, "--consent", CONSENT, "--keep-audio", "--force")

    enrolled("artists", "remove", "Ada", "--yes")

    assert enrolled("check").exit_code == 0
    assert len(list((enrolled.home / "audio").iterdir())) == 1
    enrolled("artists", "remove", "Bo", "--yes")
    assert list((enrolled.home / "audio").iterdir()) == []
