from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli_fakes import check_units, json_lines

pytest_plugins = ["tests.cli_fixtures"]


def test_show_gives_every_examination_of_a_track_oldest_first(enrolled):
    track = enrolled.sing("t.wav", 1, song=3)
    enrolled("query", track)
    enrolled("query", track, "--threshold", "99")
    enrolled("batch", track)

    result = enrolled("tracks", "show", track, "--json")

    scans = json.loads(result.stdout)
    check_units(scans)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [(s["scan_id"], s["run_id"], s["verdict"]) for s in scans] == [
        (1, None, "flagged"),
        (2, None, "clear"),
        (3, 1, "flagged"),
    ]
    assert scans[0]["matches"] == scans[2]["matches"]
    assert json_lines(enrolled("tracks", "show", track, "--format", "jsonl").stdout) == scans
    text = enrolled("tracks", "show", track).stdout
    assert [line.split()[0] for line in text.splitlines() if line.endswith("t.wav")] == ["FLAGGED", "CLEAR", "FLAGGED"]
    assert [line for line in text.splitlines() if "scanned" in line] == [
        f"  scanned {scan['scanned_at']}, {by}" for scan, by in zip(scans, ["by a query"] * 2 + ["run 1"], strict=True)
    ]


def test_a_track_is_found_by_its_content_whatever_it_was_called(enrolled):
    track = enrolled.sing("t.wav", 1, song=3)
    (scan,) = json.loads(enrolled("query", track, "--json").stdout)
    enrolled("query", track.rename(enrolled.folder / "again.wav"))

    result = enrolled("tracks", "show", scan["content_id"][:12], "--json")

    assert [Path(found["path"]).name for found in json.loads(result.stdout)] == ["t.wav", "again.wav"]


def test_a_path_is_found_however_it_is_spelt(enrolled, monkeypatch):
    enrolled.sing("t.wav", 1)
    monkeypatch.chdir(enrolled.folder)
    enrolled("query", "./t.wav")

    assert enrolled("tracks", "show", "t.wav").exit_code == 0
    assert enrolled("tracks", "show", "./t.wav").exit_code == 0


def test_a_name_that_is_not_utf_8_is_found_as_given_and_as_shown(enrolled):
    path = Path(os.fsdecode(os.fsencode(enrolled.folder) + b"/caf\xe9.wav"))
    enrolled.sing("t.wav", 1).rename(path)
    (scan,) = json.loads(enrolled("query", path, "--json").stdout)

    assert scan["path"] == f"file://{enrolled.folder}/caf%E9.wav"
    assert enrolled("tracks", "show", path).exit_code == 0
    assert enrolled("tracks", "show", scan["path"]).exit_code == 0


@pytest.mark.parametrize("track", ["never.wav", "", "%"])
def test_a_track_that_was_never_examined_is_refused(enrolled, track):
    enrolled("query", enrolled.sing("t.wav", 1))

    result = enrolled("tracks", "show", track)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "no track with this path or content_id has been scanned here" in result.stderr


@pytest.mark.parametrize("named_by", ["path", "content_id"])
def test_a_track_is_removed_with_a_receipt(enrolled, named_by):
    track, other = enrolled.sing("t.wav", 1, song=3), enrolled.sing("other.wav", 2, song=3)
    enrolled("query", other)
    (scan,) = json.loads(enrolled("query", track, "--json").stdout)

    result = enrolled("tracks", "remove", scan[named_by], "--yes", "--as", "maria")

    receipt = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, f"{scan[named_by]}: removed\n")
    assert (receipt["kind"], receipt["by"], receipt["pending"]) == ("track", "maria", [])
    assert receipt["removed"] == {"scans": 1, "matches": 2, "run_tracks": 0, "audit_payloads": 1}
    assert scan["content_id"] not in result.stdout
    assert enrolled("tracks", "show", scan[named_by]).exit_code == 1
    assert enrolled("tracks", "show", other).exit_code == 0


def test_a_track_that_is_an_enrolled_recording_too_can_be_removed(enrolled):
    """What stays on record of its sound is the reference's."""
    song = enrolled.folder / "Ada/song-0.wav"
    (scan,) = json.loads(enrolled("query", song, "--json").stdout)

    result = enrolled("tracks", "remove", song, "--yes")

    assert (result.exit_code, json.loads(result.stdout)["pending"]) == (0, [])
    (artist,) = json.loads(enrolled("artists", "show", "Ada", "--json").stdout)
    assert artist["references"][0]["content_id"] == scan["content_id"]


def test_a_track_that_could_not_be_read_can_be_removed(enrolled):
    """Also where its path is a part of another one's."""
    for name in ("text.wav", "also-text.wav"):
        (enrolled.folder / "in").mkdir(exist_ok=True)
        (enrolled.folder / "in" / name).write_text("not audio")
    enrolled("batch", enrolled.folder / "in")

    result = enrolled("tracks", "remove", enrolled.folder / "in/text.wav", "--yes")

    assert (result.exit_code, json.loads(result.stdout)["removed"]["run_tracks"]) == (0, 1)
    assert [Path(row["path"]).name for row in enrolled.rows("SELECT path FROM run_tracks")] == ["also-text.wav"]


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_a_track_is_not_removed_without_a_yes(enrolled, answer):
    track = enrolled.sing("t.wav", 1, song=3)
    enrolled("query", track)

    result = enrolled("tracks", "remove", track, stdin=answer)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Remove all that is on record of track {track}?" in result.stderr
    assert enrolled("tracks", "show", track).exit_code == 0


def test_a_track_that_was_never_examined_cannot_be_removed(enrolled):
    result = enrolled("tracks", "remove", "never.wav", "--yes")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: never.wav: no track with this path or content_id has been scanned here\n"
