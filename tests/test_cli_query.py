from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli_fakes import (
    CONSENT,
    ENCODER_ID,
    RATE_HZ,
    THRESHOLD,
    Cli,
    FakeEncoder,
    check_units,
    json_lines,
    synth_voices,
)
from tests.fakes import up

pytest_plugins = ["tests.cli_fixtures"]


class OtherEncoder(FakeEncoder):
    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.encoder_id = "b" * 64


def noise(folder: Path) -> Path:
    path = folder / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 6 * RATE_HZ), RATE_HZ)
    return path


def test_a_flag_carries_evidence_that_can_be_checked_by_ear(enrolled):
    track = enrolled.sing("suspect.wav", 1, song=3, duration_s=12.0)

    result = enrolled("query", track)

    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"FLAGGED  {track}"
    assert "1.00" in lines[1]
    assert re.fullmatch(r"  1[12]\.\d s of voice in 12\.0 s; 2 artists matched", lines[2])
    assert lines[3].startswith(" *1. Ada: log10 likelihood ratio +")
    listen = [line for line in lines if line.startswith("     listen: track ")]
    assert len(listen) == 3
    assert all(f"{enrolled.folder}/Ada/song-" in line for line in listen)
    assert any(line.startswith("  2. Bo: log10 likelihood ratio -") for line in lines)
    assert any(f"encoder {ENCODER_ID[:12]}, cohort " in line and "made up for tests" in line for line in lines)
    assert lines[-1].startswith("  A flag is a lead: listen")


def test_json_is_the_record_with_units_in_its_keys(enrolled):
    track = enrolled.sing("suspect.wav", 1, song=3)

    result = enrolled("query", track, "--json")

    (scan,) = json.loads(result.stdout)
    check_units(scan)
    match = scan["matches"][0]
    evidence = match["evidence"][0]
    assert (scan["path"], scan["verdict"], scan["scan_id"], scan["run_id"]) == (str(track), "flagged", 1, None)
    assert (scan["threshold"], scan["threshold_source"], scan["encoder_id"]) == (
        THRESHOLD,
        "false-flag budget 3 % over 2 artists; made up for tests",
        ENCODER_ID,
    )
    assert (scan["budget"], re.fullmatch("[0-9a-f]{64}", scan["calibration_id"]) is None) == (0.03, False)
    assert (match["rank"], match["artist"], match["taken_off"]) == (1, "Ada", 0.0)
    assert match["llr"] >= THRESHOLD > scan["matches"][1]["llr"]
    assert [match["flagged"] for match in scan["matches"]] == [True, False]
    assert set(evidence) == {
        *("track_start_s", "track_end_s", "reference_id", "reference"),
        *("reference_start_s", "reference_end_s", "score"),
    }
    assert evidence["track_end_s"] - evidence["track_start_s"] == 4.0
    assert json_lines(enrolled("query", track, "--format", "jsonl").stdout)[0]["matches"] == scan["matches"]


def test_several_tracks_come_out_in_the_order_in_which_they_were_given(enrolled):
    bo, nobody = enrolled.sing("bo.wav", 2, song=3), enrolled.sing("nobody.wav", 3)

    result = enrolled("query", nobody, bo, noise(enrolled.folder), "--json")

    assert result.exit_code == 0
    assert [(Path(s["path"]).name, s["verdict"]) for s in json.loads(result.stdout)] == [
        ("nobody.wav", "clear"),
        ("bo.wav", "flagged"),
        ("noise.wav", "abstained"),
    ]


def test_a_track_that_cannot_be_used_is_in_the_output_with_its_reason(enrolled):
    song = enrolled.sing("song.wav", 3)
    gone = enrolled.folder / "gone.wav"

    as_json = enrolled("query", gone, song, enrolled.folder, "--json")
    as_text = enrolled("query", gone)

    assert (as_json.exit_code, as_text.exit_code) == (3, 3)
    first, scan, last = json.loads(as_json.stdout)
    assert first == {"path": str(gone), "kind": "missing", "reason": "there is no such file", "verdict": None}
    assert (scan["verdict"], last["kind"]) == ("clear", "not_a_file")
    assert last["reason"] == "a folder, not a regular file; `likeness batch` examines whole folders"
    assert as_json.stderr == "2 of 3 tracks could not be used\n"
    assert as_text.stdout == f"FAILED  {gone}\n  there is no such file\n"


def test_fail_on_flagged_is_an_exit_code_also_beside_a_failed_track(enrolled):
    flagged, clear = enrolled.sing("f.wav", 1, song=3), enrolled.sing("c.wav", 3)

    codes = [
        enrolled("query", *tracks, "--fail-on", "flagged").exit_code
        for tracks in ([clear], [flagged, clear], [flagged, enrolled.folder / "gone.wav"], [enrolled.folder / "gone"])
    ]

    assert codes == [0, 5, 5, 3]


def test_another_threshold_decides_and_is_named(enrolled):
    result = enrolled("query", enrolled.sing("t.wav", 1, song=3), "--threshold", "9.5", "--json")

    (scan,) = json.loads(result.stdout)
    assert [scan[name] for name in ("verdict", "threshold", "threshold_source", "budget")] == [
        *("clear", 9.5, "set by the caller", None)
    ]


def test_another_budget_decides_and_is_named(enrolled):
    """The made-up tail falls by e every half: a budget of a hundredth of its own is 2.303 further up."""
    track = enrolled.sing("t.wav", 1, song=3)
    enrolled("config", "set", "false-flag-budget", "0.3%")

    (of_registry,) = json.loads(enrolled("query", track, "--json").stdout)
    (of_caller,) = json.loads(enrolled("query", track, "--budget", "0.03%", "--json").stdout)

    budget = "false-flag budget 0.3 % over 2 artists; made up for tests"
    assert [of_registry[name] for name in ("verdict", "threshold", "threshold_source", "budget")] == [
        *("clear", up(THRESHOLD + 0.5 * np.log(10)), budget, 0.003)
    ]
    assert [of_caller[name] for name in ("verdict", "threshold", "threshold_source", "budget")] == [
        *("clear", up(THRESHOLD + 0.5 * np.log(100)), budget.replace("0.3 %", "0.03 %"), 0.0003)
    ]


def test_a_budget_beyond_what_strangers_showed_is_said_and_further_out_refused_unless_accepted(enrolled):
    """The made-up strangers are a thousand: one of them is a budget of 1e-3."""
    track = enrolled.sing("t.wav", 1, song=3)

    said = enrolled("query", track, "--budget", "5e-5")
    refused = enrolled("query", track, "--budget", "5e-6")
    accepted = enrolled("query", track, "--budget", "5e-6", "--accept-extrapolation")

    assert [result.exit_code for result in (said, refused, accepted)] == [0, 1, 0]
    for result, beyond in ((said, "1.3"), (accepted, "2.3")):
        assert result.stdout.splitlines()[1].endswith(" (threshold extrapolated)")
        assert f"; threshold extrapolated {beyond} powers of ten beyond 1000 strangers; made up" in result.stdout
    assert (refused.stdout, refused.stderr) == (
        "",
        "Error: false-flag budget 5e-06 over 2 artists: the threshold would lie 2.3 powers of ten beyond what 1000 "
        "strangers can show; a larger budget, more strangers (`likeness calibrate`), or --accept-extrapolation\n",
    )


@pytest.mark.parametrize("command", ["query", "batch"])
def test_a_budget_and_a_threshold_contradict_each_other(cli, command):
    result = cli(command, cli.sing("t.wav", 1), "--budget", "0.01", "--threshold", "2")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "--budget and --threshold both say when to flag; give one of them" in result.stderr


def test_a_result_is_kept_unless_told_otherwise(enrolled):
    track = enrolled.sing("t.wav", 1, song=3)

    (unsaved,) = json.loads(enrolled("query", track, "--no-save", "--json").stdout)
    (saved,) = json.loads(enrolled("query", track, "--json").stdout)

    assert (unsaved["scan_id"], saved["scan_id"]) == (None, 1)
    assert unsaved["matches"] == saved["matches"]
    assert enrolled.rows("SELECT scan_id FROM scans") == [{"scan_id": 1}]


def test_with_nobody_enrolled_everything_is_clear(cli):
    (scan,) = json.loads(cli("query", cli.sing("t.wav", 1), "--json").stdout)

    assert (scan["verdict"], scan["matches"], scan["n_artists"]) == ("clear", [], 0)
    assert scan["reason"]


def test_an_artist_whose_consent_is_over_is_not_matched_and_that_is_said(enrolled):
    with enrolled.store() as store, store.writing():
        store.db.execute("UPDATE consents SET expires_at = '2020-01-01T00:00:00Z' WHERE artist_id = 1")

    result = enrolled("query", enrolled.sing("t.wav", 1, song=3), "--json")

    (scan,) = json.loads(result.stdout)
    assert (scan["verdict"], [match["artist"] for match in scan["matches"]]) == ("clear", ["Bo"])
    assert "Ada: not matched, the consent on record expired on 2020-01-01T00:00:00Z; `likeness" in result.stderr


def test_another_encoder_than_the_one_enrolled_with_is_refused(enrolled, monkeypatch):
    monkeypatch.setattr("embeddings.encoder.SpeechBrainEncoder", OtherEncoder)

    for command in (["query"], ["batch", "--workers", "1"], ["enroll", "Cy", "--consent", CONSENT]):
        result = enrolled(*command, enrolled.sing("t.wav", 1))
        assert (result.exit_code, result.stdout) == (1, "")
        assert "vectors of different encoders cannot be compared" in result.stderr


def test_what_a_stranger_named_a_file_does_not_steer_the_terminal(enrolled):
    track = enrolled.folder / "\x1b[2J\u202enothing.wav"
    enrolled.sing("t.wav", 3).rename(track)

    result = enrolled("query", track)

    assert result.stdout.startswith(f"CLEAR  {enrolled.folder}/\\x1b[2J\\u202enothing.wav\n")
    assert "\x1b" not in result.output


# -- the real model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path, monkeypatch) -> Cli:
    """The command line with the built-in encoder, loaded once for all commands of a test."""
    from embeddings.encoder import SpeechBrainEncoder

    encoder = SpeechBrainEncoder()
    monkeypatch.delenv("LIKENESS_HOME", raising=False)
    monkeypatch.setattr("registry.config.load_encoder", lambda store, **_: encoder)
    return Cli(tmp_path, tmp_path, lambda: np.empty(0))


@pytest.mark.model
def test_a_new_song_of_a_synthetic_singer_scores_highest_for_that_singer(real):
    """Other melody, other words, same made-up throat; no recording of a person is needed."""
    voices = synth_voices()
    for singer in voices.ENROLLED:
        for number in range(2):
            rng = np.random.default_rng([1, number])
            song = voices.render_song(singer, voices.compose(singer, rng, 12.0), rng)
            voices.write_wav(real.folder / singer.name / f"{number}.wav", song)
        enrolled = real("enroll", singer.name, real.folder / singer.name, "--consent", CONSENT)
        assert enrolled.exit_code == 0
    for singer in voices.ENROLLED:
        rng = np.random.default_rng([2])
        song = voices.render_song(singer, voices.compose(singer, rng, 12.0), rng)
        voices.write_wav(real.folder / "new" / f"{singer.name}.wav", song)

    result = real("query", *sorted((real.folder / "new").iterdir()), "--json")

    assert result.exit_code == 0
    scans = json.loads(result.stdout)
    assert len(scans) == len(voices.ENROLLED) == 4
    for scan in scans:
        assert [len(scan["matches"]), scan["matches"][0]["artist"]] == [4, Path(scan["path"]).stem]


def dev_songs(audio_root: Path, person_id: str) -> list[Path]:
    """One clip of each recording of a singer of the development recordings."""
    with (audio_root / "dev" / "voices.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["kind"], row["person_id"]) == ("singing", person_id)]
    songs: dict[str, Path] = {}
    for row in rows:
        songs.setdefault(row["recording"], audio_root / row["path"])
    return list(songs.values())


@pytest.mark.model
@pytest.mark.audio
def test_a_real_singer_is_flagged_by_another_song_and_a_stranger_is_clear(real, audio_root):
    """Everything from file to verdict, on singers of fold A who are easy to tell apart.

    That they are is a choice: how often it goes wrong on whoever comes is what `scripts/bench_real.py` measures.
    """
    for person_id in ("nus-samf", "nus-prav"):
        enrolled = real("enroll", person_id, *dev_songs(audio_root, person_id)[:3], "--consent", CONSENT)
        assert enrolled.exit_code == 0
    other_song, stranger = dev_songs(audio_root, "nus-samf")[-1], dev_songs(audio_root, "nus-tsim")[-1]

    result = real("query", other_song, stranger, "--json", "--fail-on", "flagged")

    assert result.exit_code == 5
    flagged, clear = json.loads(result.stdout)
    check_units([flagged, clear])
    assert (flagged["verdict"], clear["verdict"]) == ("flagged", "clear")
    assert [match["artist"] for match in flagged["matches"]] == ["nus-samf", "nus-prav"]
    assert flagged["matches"][1]["llr"] < flagged["threshold"] <= flagged["matches"][0]["llr"]
    references = {song.resolve() for song in dev_songs(audio_root, "nus-samf")[:3]}
    assert {Path(item["reference"]) for item in flagged["matches"][0]["evidence"]} <= references
    assert len(clear["matches"]) == 2
