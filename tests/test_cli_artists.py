from __future__ import annotations

import json
import re
import shutil

import pytest

from embeddings.model_dir import CALIBRATION
from registry import erasure
from tests.cli_fakes import CONSENT, Cli, check_units, json_lines, write_model

pytest_plugins = ["tests.cli_fixtures"]


def enroll_songs(cli, artist: str, *songs: int) -> None:
    """Enroll songs of singer 1 for an artist."""
    paths = [cli.sing(f"{artist}/{song}.wav", 1, song) for song in songs]
    assert cli("enroll", artist, *paths, "--consent", CONSENT).exit_code == 0


def names(cli) -> list[str]:
    return [artist["name"] for artist in json.loads(cli("artists", "list", "--json").stdout)]


def test_list_shows_who_is_enrolled_with_how_much(enrolled):
    result = enrolled("artists", "list", "--json")

    artists = json.loads(result.stdout)
    check_units(artists)
    assert (result.exit_code, result.stderr) == (0, "")
    shown = ("name", "status", "n_references", "n_pending", "n_templates", "voiced_s")
    assert [tuple(artist[name] for name in shown) for artist in artists] == [
        ("Ada", "active", 2, 0, 1, pytest.approx(12, abs=1)),
        ("Bo", "active", 2, 0, 1, pytest.approx(12, abs=1)),
    ]
    table = enrolled("artists", "list").stdout.splitlines()
    columns = ["name", "status", "n_references", "n_pending", "n_templates", "voiced_s", "created_at"]
    assert table[0].split() == columns
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
    assert table.stdout.split("\n")[0].split() == [
        *("reference_id", "status", "path", "voiced_s", "own_norm_score", "force_reason", "enrolled_by"),
        *("consent", "consent_expires_at", "added_at"),
    ]
    assert re.fullmatch(r"Ada: active, enrolled 20\S+Z, 1 templates\n", table.stderr)


def test_show_names_the_nearest_neighbours_and_what_would_help(enrolled):
    enroll_songs(enrolled, "Cy", 5, 6)  # Ada's voice

    shown = enrolled("artists", "show", "Ada")
    (artist,) = json.loads(enrolled("artists", "show", "Ada", "--json").stdout)

    check_units(artist)
    assert [(one["rank"], one["artist"], one["reaches_threshold"]) for one in artist["neighbours"]] == [
        (1, "Cy", True),
        (2, "Bo", False),
    ]
    assert artist["neighbours_threshold"]["source"] == (
        "false-flag budget 3 % over 3 artists, shared by 2 sections; made up for tests"
    )
    first, second = (one["llr"] for one in artist["neighbours"])
    assert first >= artist["neighbours_threshold"]["llr"] > second
    lines = shown.stdout.split("\n\n")[1].splitlines()
    assert lines[0].startswith("Nearest enrolled neighbours, nothing taken off; * reaches the threshold 1.")
    assert lines[1].startswith(f" *1. Cy: log10 likelihood ratio {first:+.2f}, norm score ")
    assert lines[2] == f"     {artist['neighbours'][0]['likeness']}"
    assert lines[3].startswith(f"  2. Bo: log10 likelihood ratio {second:+.2f}, ")
    assert shown.stdout.split("\n\n")[2].splitlines() == [
        "What more references would help:",
        *(f"  {advice}" for advice in artist["what_would_help"]),
    ]
    assert artist["what_would_help"][0].startswith("whether they are all of one voice is checked from the third")
    assert "neighbours" not in shown.stderr and artist["neighbours_missing"] is None


def test_show_says_what_share_of_tracks_may_be_found(cli, voice_like):
    """Where the calibration says what was found: shares in whole percent, which say so in their key."""
    model = write_model(cli.folder / "models/fake", voice_like)
    calibration = json.loads((model / CALIBRATION).read_text())
    (model / CALIBRATION).write_text(json.dumps({**calibration, "found": {"clean": [0.5, 1.0, 4.0]}}))
    telling = Cli(cli.folder / "telling", model, voice_like)
    telling.init()
    telling.enroll("Ada", 1, n_songs=1)

    shown = telling("artists", "show", "Ada")
    (artist,) = json.loads(telling("artists", "show", "Ada", "--json").stdout)

    check_units(artist)
    assert artist["expected_found"] == {
        "threshold": {"llr": 1.0, "source": "false-flag budget 3 % over 1 artists; made up for tests"},
        "measured_on": "made up for tests",
        "shares": [{"probe": "clean", "heard": "singing alone", "found_percent": 67}],
    }
    assert (
        "\n\nShare of tracks that the present threshold 1.00 found, measured on other voices (made up for tests), no "
        "promise for this one:\n   67 %  singing alone\n\n"
    ) in shown.stdout


def test_show_of_an_encoder_without_calibration_leaves_out_what_it_cannot_know(enrolled, model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / CALIBRATION).unlink()
    with enrolled.store() as store, store.writing():
        store.set_setting("encoder_source", str(bare))

    result = enrolled("artists", "show", "Ada")
    (artist,) = json.loads(enrolled("artists", "show", "Ada", "--json").stdout)

    assert result.exit_code == 0
    assert str(enrolled.folder / "Ada/song-1.wav") in result.stdout
    assert "neighbours" not in result.stdout
    assert "nearest neighbours and what share of tracks may be found are left out: encoder " in result.stderr
    assert f"{bare}: has no calibration, so its scores are no evidence yet" in result.stderr
    assert artist["neighbours"] is None and "has no calibration" in artist["neighbours_missing"]


def test_show_as_csv_is_the_references_alone(enrolled):
    result = enrolled("artists", "show", "Ada", "--format", "csv")

    assert [row.split(",")[0] for row in result.stdout.splitlines()] == ["reference_id", "1", "2"]


def test_show_does_not_load_the_encoder(enrolled, monkeypatch):
    monkeypatch.setattr("registry.config.load_encoder", lambda *_, **__: pytest.fail("the encoder was loaded"))

    assert enrolled("artists", "show", "Ada").exit_code == 0


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


def receipt_of(result) -> dict[str, object]:
    """What a removal printed on stdout."""
    receipt: dict[str, object] = json.loads(result.stdout)
    return receipt


def test_remove_leaves_nothing_of_an_artist_and_prints_a_receipt(cli):
    cli.enroll("Ada", 1, n_songs=1)
    cli.enroll("Bo", 2)
    cli("enroll", "Ada", cli.sing("kept.wav", 1, song=3), "--consent", CONSENT, "--keep-audio")
    track = cli.sing("t.wav", 1, song=4)
    cli("query", track)
    assert len(list((cli.home / "audio").iterdir())) == 1

    result = cli("artists", "remove", "Ada", "--as", "maria", stdin="y\n")

    assert result.exit_code == 0
    receipt = receipt_of(result)
    assert {name: receipt[name] for name in ("receipt", "erasure_id", "kind", "pending", "by")} == {
        **{"receipt": 1, "erasure_id": 1, "kind": "artist", "pending": [], "by": "maria"},
    }
    assert receipt["removed"] == {
        **{"consents": 1, "references": 2, "templates": 1, "matches": 1, "names": 1, "identity_changes": 0},
        **{"audit_payloads": 3, "lookalikes": 0, "kept_audio": 1},
    }
    assert receipt["finished_at"] is not None
    assert result.stderr.endswith("Ada, 2 references and 1 templates: removed\n")
    assert names(cli) == ["Bo"]
    assert list((cli.home / "audio").iterdir()) == []
    (scan,) = json.loads(cli("tracks", "show", track, "--json").stdout)
    assert [match["artist"] for match in scan["matches"]] == ["Bo"]
    (again,) = json.loads(cli("query", track, "--json").stdout)
    assert again["verdict"] == "clear"
    check = cli("check")
    assert (check.exit_code, check.stdout) == (0, "")


def test_the_receipt_is_written_to_a_file_too_and_shown_again(enrolled):
    path = enrolled.folder / "removal.json"

    result = enrolled("artists", "remove", "Ada", "--yes", "--receipt", path)

    assert path.read_text() == result.stdout
    shown = json.loads(enrolled("receipts", "1").stdout)
    assert shown == receipt_of(result)
    assert "Ada" not in path.read_text()  # a receipt names nobody
    assert json.loads(enrolled("receipts").stdout) == [shown]


def test_a_receipt_that_cannot_be_written_is_not_lost(enrolled):
    result = enrolled("artists", "remove", "Ada", "--yes", "--receipt", "/dev/full")

    assert (result.exit_code, receipt_of(result)["kind"]) == (1, "artist")
    assert result.stderr == (
        "Error: /dev/full: the receipt could not be written (No space left on device); `likeness receipts 1` shows it "
        "again\n"
    )
    assert names(enrolled) == ["Bo"]


def test_a_place_where_no_receipt_can_be_is_refused_before_anything_is_removed(enrolled):
    result = enrolled("artists", "remove", "Ada", "--yes", "--receipt", enrolled.folder / "none/removal.json")

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"folder {enrolled.folder / 'none'} is not there" in result.stderr
    assert names(enrolled) == ["Ada", "Bo"]


def test_an_unknown_receipt_is_refused(enrolled):
    result = enrolled("receipts", "7")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: removal 7: there is none of that number\n"
    assert enrolled("receipts").stdout == "[]\n"


def test_remove_waits_for_a_reader_says_so_and_the_next_command_finishes_it(enrolled, monkeypatch):
    monkeypatch.setattr(erasure, "WAIT_S", 0.1)
    with enrolled.store() as reader, reader.reading():
        assert len(reader.artists()) == 2
        held_up = enrolled("artists", "remove", "Ada", "--yes")
    pending = receipt_of(held_up)["pending"]

    next_command = enrolled("artists", "list")

    assert (held_up.exit_code, pending[0]) == (3, "emptying the database's log")
    assert "waits for somebody who reads the database" in held_up.stderr
    assert next_command.exit_code == 0
    assert next_command.stderr == "removal 1: finished; `likeness receipts 1` shows the receipt\n"
    assert json.loads(enrolled("receipts", "1").stdout)["pending"] == []


def test_one_reference_can_be_removed(enrolled):
    result = enrolled("artists", "remove", "Ada", "--reference", "1", "--yes")

    assert (result.exit_code, receipt_of(result)["kind"]) == (0, "reference")
    assert result.stderr == f"reference 1 of Ada ({enrolled.folder / 'Ada/song-0.wav'}): removed\n"
    (artist,) = json.loads(enrolled("artists", "show", "Ada", "--json").stdout)
    assert [reference["reference_id"] for reference in artist["references"]] == [2]
    assert enrolled("check").exit_code == 0


def test_a_reference_of_somebody_else_is_not_removed(enrolled):
    result = enrolled("artists", "remove", "Ada", "--reference", "3", "--yes")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: reference 3: is not Ada's; `likeness artists show` lists them\n"


def test_audio_kept_for_two_artists_outlives_the_first(enrolled):
    duet = enrolled.sing("duet.wav", 3)
    enrolled("enroll", "Cy", duet, "--consent", CONSENT, "--keep-audio")
    enrolled("enroll", "Di", duet, "--consent", CONSENT, "--keep-audio", "--force", "sung by both")

    assert enrolled("artists", "remove", "Cy", "--yes").exit_code == 0

    assert enrolled("check").exit_code == 0
    assert len(list((enrolled.home / "audio").iterdir())) == 1
    assert enrolled("artists", "remove", "Di", "--yes").exit_code == 0
    assert list((enrolled.home / "audio").iterdir()) == []


# --- two persons ---


def best_artist(cli, track) -> tuple[str, str | None]:
    """The verdict on a track and the artist that it is most like."""
    (scan,) = json.loads(cli("query", track, "--no-save", "--json").stdout)
    return scan["verdict"], scan["matches"][0]["artist"] if scan["matches"] else None


def test_references_are_approved_by_somebody_else(enrolled):
    enrolled("config", "set", "require-two-persons", "on")
    song, track = enrolled.sing("cy.wav", 3), enrolled.sing("t.wav", 3, song=1)
    enroll = enrolled("enroll", "Cy", song, "--consent", CONSENT, "--as", "ida")
    before = best_artist(enrolled, track)

    by_herself = enrolled("artists", "approve", "Cy", "--as", "ida")
    by_another = enrolled("artists", "approve", "Cy", "--as", "max")
    again = enrolled("artists", "approve", "Cy", "--as", "max")

    assert enroll.stderr.endswith(
        '1 references are pending and not matched until somebody else approves them: `likeness artists approve "Cy"`\n'
    )
    assert before[1] != "Cy"
    assert (by_herself.exit_code, by_herself.stderr) == (
        1,
        "Error: Cy: its 1 pending references were enrolled by ida, who cannot approve them too; somebody else has to "
        "(--as NAME says who is at work)\n",
    )
    assert (by_another.exit_code, by_another.stdout, by_another.stderr) == (0, "", "Cy: 1 references approved\n")
    assert best_artist(enrolled, track)[1] == "Cy"
    assert (again.exit_code, again.stderr) == (1, "Error: Cy: no reference is pending; nothing to approve\n")
    (artist,) = json.loads(enrolled("artists", "show", "Cy", "--json").stdout)
    assert [(r["status"], r["enrolled_by"], r["approved_by"]) for r in artist["references"]] == [
        ("active", "ida", "max")
    ]
    assert enrolled("check").exit_code == 0


def test_what_one_enrolled_herself_stays_pending_beside_what_she_approves(enrolled):
    enrolled("config", "set", "require-two-persons", "on")
    for song, who in ((0, "ida"), (1, "max")):
        enrolled("enroll", "Cy", enrolled.sing(f"{song}.wav", 3, song), "--consent", CONSENT, "--as", who)

    result = enrolled("artists", "approve", "Cy", "--as", "max")

    assert (result.exit_code, result.stderr) == (0, "Cy: 1 references approved; 1 wait for somebody else\n")


# --- who is who ---


def test_an_alias_leads_to_the_artist_until_it_is_undone(enrolled):
    alias = enrolled("artists", "alias", "Ada", " DJ  Vale")
    shown = json.loads(enrolled("artists", "show", "dj vale", "--json").stdout)
    undone = enrolled("artists", "undo", "1")

    assert (alias.exit_code, alias.stdout) == (0, "")
    assert alias.stderr == "Ada: also called DJ Vale; `likeness artists undo 1` takes it back\n"
    assert [(artist["name"], artist["aliases"]) for artist in shown] == [("Ada", ["DJ Vale"])]
    assert (undone.exit_code, undone.stderr) == (0, "change 1: the alias of Ada is undone\n")
    assert enrolled("artists", "show", "DJ Vale").exit_code == 1


def test_show_names_the_aliases(enrolled):
    for alias in ("DJ Vale", "A. V."):
        enrolled("artists", "alias", "Ada", alias)

    assert enrolled("artists", "show", "Ada").stderr.startswith("Ada, also called A. V., DJ Vale: active, enrolled 20")


def test_a_merge_makes_two_artists_one_and_is_undone(enrolled):
    track = enrolled.sing("t.wav", 2, song=3)
    listed = enrolled("artists", "list", "--json").stdout
    assert best_artist(enrolled, track) == ("flagged", "Bo")

    merged = enrolled("artists", "merge", "Ada", "Bo")
    while_merged = names(enrolled), best_artist(enrolled, track), enrolled("check").exit_code
    undone = enrolled("artists", "undo", "1")

    assert (merged.exit_code, merged.stdout) == (0, "")
    assert re.fullmatch(
        r"Ada: 4 references, \d templates, Bo among them; `likeness artists undo 1` takes it back\n", merged.stderr
    )
    assert while_merged == (["Ada"], ("flagged", "Ada"), 0)
    assert (undone.exit_code, undone.stderr) == (0, "change 1: the merge of Ada is undone\n")
    assert enrolled("artists", "list", "--json").stdout == listed
    assert best_artist(enrolled, track) == ("flagged", "Bo")
    assert enrolled("check").exit_code == 0


def test_a_split_makes_references_another_artists_and_is_undone(cli):
    songs = [cli.sing(f"{who}.wav", who, duration_s=12.0) for who in (1, 2)]  # of two persons, under one name
    cli("enroll", "Ada", *songs, "--consent", CONSENT)
    track = cli.sing("t.wav", 2, song=3)
    assert best_artist(cli, track) == ("flagged", "Ada")

    split = cli("artists", "split", "Ada", "2", "--into", "Bo")
    while_split = names(cli), best_artist(cli, track), cli("check").exit_code
    undone = cli("artists", "undo", "1")

    assert (split.exit_code, split.stdout) == (0, "")
    assert split.stderr == "Bo: 1 references that were Ada's; `likeness artists undo 1` takes it back\n"
    assert while_split == (["Ada", "Bo"], ("flagged", "Bo"), 0)
    assert (undone.exit_code, undone.stderr) == (0, "change 1: the split of Ada is undone\n")
    assert (names(cli), best_artist(cli, track), cli("check").exit_code) == (["Ada"], ("flagged", "Ada"), 0)


def test_changes_are_listed_with_who_made_them(enrolled):
    assert enrolled("artists", "changes", "--json").stdout == "[]\n"
    enrolled("artists", "alias", "Ada", "DJ Vale", "--as", "ida")
    enrolled("artists", "alias", "Bo", "B. O.", "--as", "max")
    enrolled("artists", "undo", "1")

    table = enrolled("artists", "changes").stdout.splitlines()
    rows = json.loads(enrolled("artists", "changes", "--json").stdout)
    of_bo = json.loads(enrolled("artists", "changes", "Bo", "--json").stdout)

    assert table[0].split() == ["change_id", "artist", "action", "changed_at", "changed_by", "undone_at"]
    assert [(row["change_id"], row["artist"], row["changed_by"], row["undone_at"] is None) for row in rows] == [
        (1, "Ada", "ida", False),
        (2, "Bo", "max", True),
    ]
    assert of_bo == rows[1:]
    assert rows[1]["detail"] == {"alias": "B. O."}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["alias", "Ada", "Bo"], "Bo: is enrolled already; two artists cannot share a name"),
        (["alias", "Ada", " "], "the artist's name is empty"),
        (["merge", "Ada", "ada"], "ada: is Ada already; nothing to merge"),
        (["merge", "Ada", "Zuzu"], "Zuzu: not enrolled; `likeness artists list` shows who is"),
        (["split", "Ada", "1", "2", "--into", "Cy"], "Ada: all its references would go; rename it instead"),
        (["split", "Ada", "1", "--into", "Bo"], "Bo: is enrolled already; split into a new name, then merge the two"),
        (["split", "Ada", "3", "--into", "Cy"], "reference 3: is not Ada's, whose are 1, 2"),
        (["note-lookalike", "Ada", "ada"], "ada: is Ada itself; lookalikes are two artists"),
        (["note-lookalike", "Ada", "Zuzu"], "Zuzu: not enrolled; `likeness artists list` shows who is"),
        (
            ["note-lookalike", "Ada", "Bo", "--remove"],
            "Ada and Bo are not noted as sounding alike; nothing to take back",
        ),
        (["undo", "5"], "change 5: there is none of that number; `likeness artists changes` lists them"),
        (["approve", "Ada"], "Ada: no reference is pending; nothing to approve"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(enrolled, command, message):
    before = enrolled("export").stdout

    result = enrolled("artists", *command)

    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {message}\n")
    assert enrolled("export").stdout == before


# --- who sounds like whom ---


def test_lookalikes_are_noted_shown_and_taken_back(enrolled):
    noted = enrolled("artists", "note-lookalike", "Ada", "Bo", "--note", "sis\u202eters", "--as", "max")
    again = enrolled("artists", "note-lookalike", "Bo", "Ada", "--json")
    shown = enrolled("artists", "show", "Bo")
    (bo,) = json.loads(enrolled("artists", "show", "Bo", "--json").stdout)
    removed = enrolled("artists", "note-lookalike", "Ada", "Bo", "--remove")

    assert [result.exit_code for result in (noted, again, removed)] == [0, 0, 0]
    assert noted.stderr == "Ada and Bo: noted as sounding alike\n"
    table = noted.stdout.splitlines()
    assert table[0].split() == ["artist", "note", "noted_at", "noted_by"]
    assert re.fullmatch(r"Bo +sis\\u202eters +20\S+Z +max", table[2])
    assert again.stderr == "Bo and Ada: noted as sounding alike already; nothing to do\n"
    (row,) = json.loads(again.stdout)
    assert [row[name] for name in ("artist_id", "artist", "note", "noted_by")] == [1, "Ada", "sis\u202eters", "max"]
    assert bo["lookalikes"] == [row]
    assert "2. " not in shown.stdout and "; noted as sounding alike\n" in shown.stdout
    assert f"Noted as sounding alike:\n  Ada: sis\\u202eters (max, {row['noted_at']})\n" in shown.stdout
    assert (removed.stdout, removed.stderr) == ("", "Ada and Bo: not noted as sounding alike any more\n")
    actions = [entry["action"] for entry in json.loads(enrolled("audit", "show", "--json").stdout)]
    assert actions[-4:] == ["lookalike.note"] * 2 + ["lookalike.remove"] * 2
    assert enrolled("check").exit_code == 0


def test_noting_and_taking_back_at_once_is_wrong_usage(enrolled):
    result = enrolled("artists", "note-lookalike", "Ada", "Bo", "--note", "sisters", "--remove")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "--remove takes back what was noted, --note notes something; give one of them" in result.stderr


def test_a_query_that_flags_two_lookalikes_says_that_they_are(cli):
    """The same voice under two names, so that both are flagged."""
    enroll_songs(cli, "Ada", 1, 2)
    enroll_songs(cli, "Bo", 5, 6)
    track = cli.sing("t.wav", 1, song=3)
    before = cli("query", track, "--no-save").stdout

    cli("artists", "note-lookalike", "Ada", "Bo")

    after = cli("query", track)
    (scan,) = json.loads(cli("tracks", "show", track, "--json").stdout)
    assert "alike" not in before
    assert re.search(r"\n  (Ada and Bo|Bo and Ada) are noted as sounding alike\n", after.stdout)
    assert {match["artist"]: match["lookalike_ids"] for match in scan["matches"]} == {"Ada": [2], "Bo": [1]}
    assert "are noted as sounding alike\n" in cli("tracks", "show", track).stdout
