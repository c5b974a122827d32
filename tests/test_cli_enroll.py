from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli_fakes import CONSENT, RATE_HZ, THRESHOLD, check_units, json_lines

pytest_plugins = ["tests.cli_fixtures"]


@pytest.fixture
def no_encoder(monkeypatch):
    """Loading the encoder fails the test: what is refused is refused before anything slow."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr("registry.config.load_encoder", load)


def test_enroll_says_what_became_of_each_recording(cli):
    first, second = cli.sing("ada/1.wav", 1), cli.sing("ada/deep/2.wav", 1, song=1)

    result = cli("enroll", "Ada", cli.folder / "ada", "--consent", CONSENT)

    assert result.exit_code == 0
    head, line, *rows = result.stdout.splitlines()
    assert head.split() == ["outcome", "path", "voiced_s", "duration_s", "n_windows", "reason"]
    assert set(line) == {"-", " "}
    assert [row.split()[:2] for row in rows] == [["enrolled", str(first)], ["enrolled", str(second)]]
    assert result.stderr == (
        "Ada: 2 references, 12 s of voice, 1 templates on record\n"
        "whether they are all of one voice is checked from the third reference on, and there are 2\n"
        "12 s of voice are on record: 30 s are the least to aim at, 60 s and more a good start\n"
        "one template stands for all: recordings in another style or register than these would get their own\n"
        "every reference is short, of less than 6 windows: a longer one can be checked more strictly\n"
    )


def test_enroll_as_json_is_the_records(cli):
    path = cli.sing("ada.wav", 1)

    result = cli("enroll", "Ada", path, "--consent", CONSENT, "--json")

    (record,) = json.loads(result.stdout)
    check_units(record)
    assert record == {
        "path": str(path),
        "outcome": "enrolled",
        "reason": f"{record['voiced_s']:.1f} s of voice in 2 windows",
        "duration_s": 6.0,
        "voiced_s": record["voiced_s"],
        "n_windows": 2,
        "reference_id": 1,
        "status": "active",
        "own_norm_score": None,
        "warnings": [],
        "similar_artist": None,
        "similar_llr": None,
    }
    assert json_lines(cli("enroll", "Ada", path, "--consent", CONSENT, "--format", "jsonl").stdout)


def test_quoted_globs_and_overlapping_arguments_name_each_recording_once(cli):
    one = cli.sing("ada/1.wav", 1)
    cli.sing("ada/2.wav", 1, song=1)

    result = cli("enroll", "Ada", cli.folder / "ada/*.wav", one, cli.folder / "ada", "--consent", CONSENT, "--json")

    assert [Path(record["path"]).name for record in json.loads(result.stdout)] == ["1.wav", "2.wav"]


def test_the_same_recording_again_is_reported_and_not_duplicated(enrolled):
    flac = enrolled.folder / "same.flac"
    samples, rate_hz = soundfile.read(enrolled.folder / "Ada/song-0.wav", dtype="int16")
    soundfile.write(flac, samples, rate_hz)

    result = enrolled("enroll", "Ada", flac, "--consent", CONSENT, "--json")

    assert result.exit_code == 0
    assert [(r["outcome"], r["reason"]) for r in json.loads(result.stdout)] == [
        ("already_enrolled", "this recording is enrolled for Ada already; nothing to do")
    ]
    assert [artist["n_references"] for artist in json.loads(enrolled("artists", "list", "--json").stdout)] == [2, 2]


def test_the_same_recording_under_another_artist_is_refused_unless_forced(enrolled):
    path = enrolled.folder / "Ada/song-0.wav"

    refused = enrolled("enroll", "Cy", path, "--consent", CONSENT, "--json")
    artists = enrolled("artists", "list", "--json")
    forced = enrolled("enroll", "Cy", path, "--consent", CONSENT, "--force", "a duet", "--json")

    assert (refused.exit_code, forced.exit_code) == (3, 0)
    (record,) = json.loads(refused.stdout)
    assert record["outcome"] == "refused"
    assert record["reason"] == "this recording is enrolled for Ada; --force REASON enrolls it for Cy too"
    assert [artist["name"] for artist in json.loads(artists.stdout)] == ["Ada", "Bo"]
    assert json.loads(forced.stdout)[0]["outcome"] == "enrolled"
    (artist,) = json.loads(enrolled("artists", "show", "Cy", "--json").stdout)
    assert [reference["force_reason"] for reference in artist["references"]] == ["a duet"]


@pytest.mark.parametrize("reason", [["--json"], ["--keep-audio"], [""], ["  "]])
def test_force_wants_a_reason(cli, no_encoder, reason):
    """An option that comes next is not taken for one."""
    result = cli("enroll", "Ada", cli.sing("a.wav", 1), "--consent", CONSENT, "--force", *reason)

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{reason[0]!r} is no reason; say in a few words why, such as --force 'a duet'" in result.stderr


def test_a_third_recording_of_another_voice_is_refused_unless_forced_with_a_reason(enrolled):
    other = enrolled.sing("bo.wav", 2, song=3)
    listed = enrolled("artists", "list", "--json").stdout

    refused = enrolled("enroll", "Ada", other, "--consent", CONSENT, "--json")
    unchanged = enrolled("artists", "list", "--json").stdout == listed
    forced = enrolled("enroll", "Ada", other, "--consent", CONSENT, "--force", "her low voice", "--json")

    (record,) = json.loads(refused.stdout)
    assert (refused.exit_code, record["outcome"], record["reference_id"], unchanged) == (3, "refused", None, True)
    assert re.match(r"another voice: norm score -\d\.\d\d with Ada's other references, at least", record["reason"])
    (marked,) = json.loads(forced.stdout)
    check_units(marked)
    assert (forced.exit_code, marked["outcome"]) == (0, "enrolled")
    assert marked["warnings"] == [f"enrolled by force although: {record['reason']}"]
    assert f"warning: {other}: enrolled by force although: another voice" in forced.stderr
    assert "is checked from the third reference on" not in forced.stderr
    shown = enrolled("artists", "show", "Ada").stdout
    assert "her low voice" in shown
    (artist,) = json.loads(enrolled("artists", "show", "Ada", "--json").stdout)
    assert artist["references"][2]["own_norm_score"] == marked["own_norm_score"] < 0


def test_a_recording_of_two_voices_is_refused_with_the_seconds(cli):
    lengths_s = {1: 24.0, 2: 16.0}
    songs = [cli.sing(f"{who}.wav", who, duration_s=length_s) for who, length_s in lengths_s.items()]
    parts = [soundfile.read(song, dtype="int16")[0] for song in songs]
    duet = cli.folder / "duet.wav"
    soundfile.write(duet, np.concatenate(parts), RATE_HZ)

    result = cli("enroll", "Ada", duet, "--consent", CONSENT, "--json")

    assert result.exit_code == 3
    (record,) = json.loads(result.stdout)
    assert record["outcome"] == "refused"
    assert record["reason"].startswith("two voices: the one at 0:24.0 to 0:40.0 has norm score -")
    assert record["reason"].endswith("is expected of one voice. Cut it, or give --force REASON")
    assert json.loads(cli("artists", "list", "--json").stdout) == []


def test_who_enrolled_is_on_record(cli, monkeypatch):
    cli("enroll", "Ada", cli.sing("1.wav", 1), "--consent", CONSENT, "--as", "ida")
    monkeypatch.setenv("LIKENESS_AS", "max")
    cli("enroll", "Ada", cli.sing("2.wav", 1, song=1), "--consent", CONSENT)
    monkeypatch.delenv("LIKENESS_AS")
    monkeypatch.setenv("LOGNAME", "kim")
    cli("enroll", "Bo", cli.sing("3.wav", 2), "--consent", CONSENT)

    (ada,), (bo,) = (json.loads(cli("artists", "show", name, "--json").stdout) for name in ("Ada", "Bo"))
    assert [r["enrolled_by"] for r in ada["references"] + bo["references"]] == ["ida", "max", "kim"]


def test_what_cannot_be_used_is_skipped_and_named(cli):
    good = cli.sing("in/good.wav", 1)
    (cli.folder / "in/text.wav").write_text("not audio")
    soundfile.write(cli.folder / "in/noise.wav", np.random.default_rng(0).normal(0, 0.1, 6 * RATE_HZ), RATE_HZ)

    result = cli("enroll", "Ada", cli.folder / "in", cli.folder / "gone.wav", "--consent", CONSENT, "--json")

    assert result.exit_code == 3
    assert {Path(r["path"]).name: (r["outcome"], r["reason"]) for r in json.loads(result.stdout)} == {
        good.name: ("enrolled", "6.0 s of voice in 2 windows"),
        "text.wav": ("invalid", "not audio, or of a format that Likeness cannot read; no decoder recognises it"),
        "noise.wav": ("too_little_voice", "0.0 s of voice found, at least 1.5 s is needed; is this the vocal stem?"),
        "gone.wav": ("invalid", "there is no such file"),
    }
    assert "Ada: 1 references" in result.stderr


def test_a_voice_like_another_artists_is_enrolled_with_a_warning(enrolled):
    song = enrolled.sing("cover.wav", 1, song=4)

    result = enrolled("enroll", "Cy", song, "--consent", CONSENT, "--json")

    assert result.exit_code == 0
    (record,) = json.loads(result.stdout)
    assert (record["outcome"], record["similar_artist"]) == ("enrolled", "Ada")
    assert f"warning: {song}: sounds like Ada" in result.stderr
    assert f"(log10 likelihood ratio {record['similar_llr']:.2f}, threshold 1.00)" in result.stderr
    assert record["similar_llr"] >= THRESHOLD
    assert result.stderr.count("sounds like Ada") == 1 and "note-lookalike" not in result.stderr  # said once


def test_an_artist_whose_earlier_references_sound_like_another_is_warned_of(enrolled):
    """Also where the new recording does not: the one before was enrolled while the other artist was not matched."""
    enrolled("consents", "withdraw", "Ada")
    first = enrolled("enroll", "Cy", enrolled.sing("1.wav", 1, song=4), "--consent", CONSENT)
    enrolled("consents", "add", "Ada", "release-2")

    second = enrolled("enroll", "Cy", enrolled.sing("2.wav", 3), "--consent", CONSENT)
    again = enrolled("enroll", "Cy", enrolled.folder / "2.wav", "--consent", CONSENT)

    assert "warning: " not in first.stderr
    (warning,) = [line for line in second.stderr.splitlines() if line.startswith("warning: ")]
    assert re.fullmatch(
        r"warning: Cy: what is on record sounds like Ada \(log10 likelihood ratio \d\.\d\d, threshold 1\.\d\d\); "
        r"the same person under two names, or two alike voices\? The latter is noted with `likeness artists "
        r'note-lookalike "Cy" "Ada"`',
        warning,
    )
    assert again.stderr == "Cy: 2 references, 12 s of voice, 1 templates on record\n"  # nothing is new


def test_a_lookalike_is_not_warned_of(enrolled):
    songs = [enrolled.sing(f"{song}.wav", 1, song) for song in (4, 5, 6)]
    first = enrolled("enroll", "Cy", songs[0], "--consent", CONSENT)
    enrolled("artists", "note-lookalike", "Ada", "Cy", "--note", "sisters")

    of_cy = enrolled("enroll", "Cy", songs[1], "--consent", CONSENT, "--json")
    of_ada = enrolled("enroll", "Ada", songs[2], "--consent", CONSENT)

    assert "warning: " in first.stderr
    assert json.loads(of_cy.stdout)[0]["similar_artist"] == "Ada"  # it is still on the record
    assert "warning: " not in of_cy.stderr + of_ada.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs the artist's consent: name the release it rests on, --consent REF"),
        (["--consent", " "], "needs the artist's consent"),
        (["--consent", "r-1", "--consent-expires", "2020-01-31"], "2020-01-31: that has passed; nothing was recorded"),
        (["--consent", "r-1", "--consent-expires", "soon"], "soon: not a date such as 2027-12-31"),
    ],
)
def test_without_a_consent_that_holds_nothing_is_begun(cli, no_encoder, options, message):
    result = cli("enroll", "Ada", cli.sing("a.wav", 1), "--home", cli.folder / "new", *options)

    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert not (cli.folder / "new").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("  ", "is empty"), ("Ada\u202e", "(U+202E RIGHT-TO-LEFT OVERRIDE)"), ("A" * 201, "201 char")]
)
def test_a_name_that_cannot_be_shown_is_refused(cli, no_encoder, name, message):
    result = cli("enroll", name, cli.sing("a.wav", 1), "--consent", CONSENT)

    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_folder_without_recordings_is_wrong_usage(cli, no_encoder):
    (cli.folder / "empty").mkdir()

    result = cli("enroll", "Ada", cli.folder / "empty", "--consent", CONSENT)

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"no recordings in {cli.folder / 'empty'}" in result.stderr


def test_a_consent_is_recorded_with_its_end(cli):
    cli("enroll", "Ada", cli.sing("a.wav", 1), "--consent", "form-7.pdf", "--consent-expires", "2099-12-31")

    (artist,) = json.loads(cli("artists", "show", "Ada", "--json").stdout)
    assert [(r["consent"], r["consent_expires_at"]) for r in artist["references"]] == [
        ("form-7.pdf", "2099-12-31T23:59:59Z")
    ]


def test_kept_audio_is_a_private_copy(cli):
    path = cli.sing("a.wav", 1)

    cli("enroll", "Ada", path, "--consent", CONSENT, "--keep-audio")

    (kept,) = (cli.home / "audio").iterdir()
    assert kept.read_bytes() == path.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert cli("check").exit_code == 0


def test_a_file_name_that_is_not_utf_8_is_enrolled_and_kept(cli):
    path = Path(os.fsdecode(os.fsencode(cli.folder) + b"/caf\xe9.w\xe9v"))
    cli.sing("a.wav", 1).rename(path)

    result = cli("enroll", "Ada", path, "--consent", "caf\udce9.pdf", "--keep-audio", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["path"] == f"file://{cli.folder}/caf%E9.w%E9v"
    (artist,) = json.loads(cli("artists", "show", "Ada", "--json").stdout)
    assert [(r["path"], r["consent"]) for r in artist["references"]] == [
        (f"file://{cli.folder}/caf%E9.w%E9v", "caf\\udce9.pdf")
    ]
    assert cli("check").exit_code == 0
