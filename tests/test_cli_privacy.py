"""`likeness privacy` and `likeness purge`."""

from __future__ import annotations

import json
import stat
import zipfile

import pytest

from tests.cli_fakes import CONSENT, check_units, json_lines

pytest_plugins = ["tests.cli_fixtures"]


def age(cli, days: int) -> None:
    """Date every scan and run back."""
    with cli.store() as store, store.writing():
        then = f"-{days} days"
        store.db.execute("UPDATE scans SET scanned_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?)", [then])
        store.db.execute("UPDATE runs SET finished_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?)", [then])


# --- what is kept ---


def test_privacy_lists_what_is_kept(enrolled):
    enrolled("query", enrolled.sing("t.wav", 1, song=3))

    result = enrolled("privacy")

    head, line, *rows = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert head.split() == ["about", "what", "n", "where", "until"]
    assert set(line) == {"-", " "}
    lines = json.loads(enrolled("privacy", "--json").stdout)
    assert len(rows) == len(lines)
    by_place = {line["where"]: line["n"] for line in lines}
    places = ("registry.db: artist_references", "registry.db: matches", "registry.db: tracks, scans", "audio/")
    assert [by_place[place] for place in places] == [4, 2, 1, 0]
    assert json_lines(enrolled("privacy", "--format", "jsonl").stdout) == lines


# --- all about one artist ---


def test_export_writes_all_that_is_on_record_of_an_artist(cli):
    song = cli.sing("kept.wav", 1)
    cli("enroll", "Ada", song, "--consent", CONSENT, "--keep-audio")
    cli("query", cli.sing("t.wav", 1, song=3))
    path = cli.folder / "ada.zip"

    result = cli("privacy", "export", "Ada", path, "--as", "ida")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (f"{path}: 1 consents, 1 references, 1 templates, 2 audit, 1 matches, 1 kept_audio\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["artist.json", "audio/1.wav"]
        assert archive.read("audio/1.wav") == song.read_bytes()
        record = json.loads(archive.read("artist.json"))
    assert (record["name"], record["references"][0]["path"]) == ("Ada", str(song))
    (entry,) = json.loads(cli("audit", "show", "Ada", "--last", "1", "--json").stdout)
    assert (entry["action"], entry["payload"]) == ("artist.export", {"by": "ida"})


def test_export_asks_to_read_what_was_noted_of_lookalikes(enrolled):
    enrolled("artists", "note-lookalike", "Ada", "Bo", "--note", "Bo's sister")

    result = enrolled("privacy", "export", "Ada", enrolled.folder / "ada.zip")

    assert " 1 lookalikes, " in result.stderr
    assert result.stderr.endswith(
        "what was noted of lookalikes may name them: read `lookalikes` in artist.json before it is handed over\n"
    )


def test_an_export_has_a_place_of_its_own(enrolled):
    path = enrolled.folder / "ada.zip"
    path.write_text("something else")

    there = enrolled("privacy", "export", "Ada", path)
    nobody = enrolled("privacy", "export", "Zuzu", enrolled.folder / "zuzu.zip")

    assert (there.exit_code, there.stdout) == (1, "")
    assert there.stderr == f"Error: {path}: cannot be written (File exists); nothing was exported\n"
    assert path.read_text() == "something else"
    assert nobody.exit_code == 1
    assert not (enrolled.folder / "zuzu.zip").exists()
    actions = [entry["action"] for entry in json.loads(enrolled("audit", "show", "--json").stdout)]
    assert "artist.export" not in actions


def test_a_home_that_would_not_be_looked_at_is_wrong_usage(enrolled):
    result = enrolled("privacy", "--home", enrolled.home, "export", "Ada", enrolled.folder / "ada.zip")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "--home goes behind export; here it would not be looked at" in result.stderr


# --- how long ---


@pytest.fixture
def scanned(enrolled):
    """A flagged track and a clear one by query, and a batch with one that failed, all 40 days ago."""
    enrolled("query", enrolled.sing("like-ada.wav", 1, song=3), enrolled.sing("stranger.wav", 3))
    (enrolled.folder / "in").mkdir()
    (enrolled.folder / "in/text.wav").write_text("not audio")
    enrolled("batch", enrolled.folder / "in")
    age(enrolled, 40)
    return enrolled


def kept_paths(cli) -> list[str]:
    return [
        row["path"].split("/")[-1] for row in cli.rows("SELECT path FROM scans UNION ALL SELECT path FROM run_tracks")
    ]


def test_purge_deletes_what_is_older_than_asked(scanned):
    result = scanned("purge", "--older-than", "30", "--json")

    assert (result.exit_code, result.stderr) == (0, "")
    (counts,) = json.loads(result.stdout)
    check_units(counts)
    assert counts == {"tracks": 1, "scans": 1, "run_tracks": 1}
    assert kept_paths(scanned) == ["like-ada.wav"]
    assert scanned("check").exit_code == 0
    flagged = scanned("purge", "--flagged-older-than", "30")
    assert flagged.stdout.split()[-3:] == ["1", "1", "0"]
    assert kept_paths(scanned) == []


def test_purge_goes_by_the_settings(scanned):
    scanned("config", "set", "retention-days", "90")
    scanned("config", "set", "flagged-retention-days", "30")

    assert json.loads(scanned("purge", "--json").stdout) == [{"tracks": 1, "scans": 1, "run_tracks": 0}]
    assert sorted(kept_paths(scanned)) == ["stranger.wav", "text.wav"]


def test_a_dry_run_only_says_what_would_go(scanned):
    before = kept_paths(scanned)

    result = scanned("purge", "--older-than", "30", "--flagged-older-than", "30", "--dry-run", "--json")

    assert (result.exit_code, result.stderr) == (0, "nothing was deleted: --dry-run\n")
    assert json.loads(result.stdout) == [{"tracks": 2, "scans": 2, "run_tracks": 1}]
    assert kept_paths(scanned) == before


def test_without_a_retention_a_purge_is_refused(scanned):
    before = kept_paths(scanned)

    result = scanned("purge")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: no retention is set, so nothing is deleted; `likeness config set retention-days 90` sets one, "
        "`likeness purge --older-than 90` goes without\n"
    )
    assert kept_paths(scanned) == before


@pytest.mark.parametrize("option", ["--older-than", "--flagged-older-than"])
def test_negative_days_are_wrong_usage(enrolled, option):
    result = enrolled("purge", option, "-1")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "-1 is not in the range x>=0" in result.stderr
