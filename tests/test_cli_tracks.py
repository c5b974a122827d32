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
