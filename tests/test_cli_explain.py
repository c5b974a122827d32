from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from tests.cli_fakes import RATE_HZ

pytest_plugins = ["tests.cli_fixtures"]


@pytest.mark.parametrize("artist", ["Ada", "bo"])
def test_the_numbers_are_those_of_a_query(enrolled, artist):
    track = enrolled.sing("suspect.wav", 1, song=3, duration_s=12.0)
    (scan,) = json.loads(enrolled("query", track, "--json").stdout)

    result = enrolled("explain", track, "--artist", artist, "--json")

    assert (result.exit_code, result.stderr) == (0, "")
    (found,) = json.loads(result.stdout)
    (match,) = [match for match in scan["matches"] if match["artist"] == artist.capitalize()]
    assert {name: found["steps"][name] for name in ("score", "norm_score", "llr", "likeness")} == {
        name: match[name] for name in ("score", "norm_score", "llr", "likeness")
    }
    same = ("path", "verdict", "reason", "voiced_s", "n_windows", "threshold", "threshold_source", "n_artists")
    assert {name: found[name] for name in same} == {name: scan[name] for name in same}
    assert (found["artist"], found["rank"], found["flagged"]) == (match["artist"], match["rank"], match["flagged"])


def test_it_is_text_for_a_person_and_nothing_is_kept(enrolled):
    track = enrolled.sing("suspect.wav", 1, song=3)

    result = enrolled("explain", track, "--artist", "Ada")

    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{track}, and Ada: flagged, log10 likelihood ratio ")
    assert lines[2] == "voice      6.0 s in 6.0 s (100 %), 2 windows; at least 1.5 s is needed"
    assert any(
        line.startswith("           nearest to 0:0") and f"{enrolled.folder}/Ada/song-" in line for line in lines
    )
    assert lines[-1].startswith("verdict    track flagged: the best of 2 artists has")
    assert enrolled.rows("SELECT * FROM scans") == enrolled.rows("SELECT * FROM tracks") == []


def test_a_budget_or_a_threshold_decides_as_in_a_query(enrolled):
    track = enrolled.sing("suspect.wav", 1, song=3)

    (by_hand,) = json.loads(enrolled("explain", track, "--artist", "Ada", "--threshold", "9.5", "--json").stdout)
    (by_budget,) = json.loads(enrolled("explain", track, "--artist", "Ada", "--budget", "0.1%", "--json").stdout)
    both = enrolled("explain", track, "--artist", "Ada", "--budget", "1%", "--threshold", "2")

    assert (by_hand["flagged"], by_hand["threshold"], by_hand["threshold_source"]) == (False, 9.5, "set by the caller")
    assert by_hand["llr_beyond"] == round(by_hand["steps"]["llr"] - 9.5, 3)
    assert (by_budget["budget"], by_budget["flagged"]) == (0.001, False)
    assert (both.exit_code, "give one of them" in both.stderr) == (2, True)


def test_too_little_voice_is_said(enrolled):
    path = enrolled.folder / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 6 * RATE_HZ), RATE_HZ)

    result = enrolled("explain", path, "--artist", "Ada")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"{path}, and Ada: nothing is said, for 0.0 s of voice found, at least 1.5 s")
    assert result.stdout.splitlines()[-1].startswith("verdict    track abstained: ")


def test_csv_has_one_row(enrolled):
    result = enrolled("explain", enrolled.sing("t.wav", 1, song=3), "--artist", "Ada", "--format", "csv")

    assert result.stdout.splitlines()[0].startswith("path,artist,artist_id,flagged,verdict,reason")
    assert result.stdout.count("\n") == 2


@pytest.mark.parametrize("artist", ["Nobody", "Ada"])
def test_who_is_not_matched_is_refused_before_anything_is_read(enrolled, artist, monkeypatch):
    enrolled("consents", "withdraw", "Ada")
    monkeypatch.setattr("registry.config.load_encoder", lambda _: 1 / 0)

    result = enrolled("explain", enrolled.folder / "gone.wav", "--artist", artist)

    assert (result.exit_code, result.stdout) == (1, "")
    expected = {"Nobody": "Error: Nobody: not enrolled", "Ada": "Error: Ada: not matched, the consent on record was"}
    assert result.stderr.startswith(expected[artist])


def test_a_track_that_cannot_be_used_is_refused(enrolled):
    result = enrolled("explain", enrolled.folder / "gone.wav", "--artist", "Ada")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {enrolled.folder / 'gone.wav'}: there is no such file\n"
