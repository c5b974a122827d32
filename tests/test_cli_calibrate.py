from __future__ import annotations

import json

import pytest

from registry.calibrations import active_calibration
from tests.cli_fakes import ENCODER_ID, write_csv
from tests.fakes import table_counts
from tests.trial_fakes import Choir, write_choir

pytest_plugins = ["tests.cli_fixtures"]


@pytest.fixture
def choir(monkeypatch) -> Choir:
    choir = Choir(noise=0.6)
    monkeypatch.setattr("registry.trials.embed_file", choir.embed_file)
    return choir


@pytest.fixture
def singers(cli, choir):
    return write_choir(cli.folder / "singers", 21, 5)


def counts(cli):
    with cli.store() as store:
        return table_counts(store), store.revision


def in_force(cli) -> str:
    """What the calibration is that an evaluation is judged by."""
    return json.loads(cli("evaluate", cli.folder / "singers", "--json").stdout)[0]["calibration_source"]


def test_a_calibration_is_fitted_counts_and_can_be_gone_back_from(cli, singers):
    result = cli("calibrate", singers, "--as", "Ann")

    assert result.exit_code == 0
    own = "calibrated on the owner's recordings (21 persons, 105 recordings)"
    figures = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert figures[2:] == ["Cllr, bits", *["threshold, llr", "FNIR %"] * 3, *["FPIR %"] * 3]
    assert "calibration 1 (" in result.stderr and "counts from now on" in result.stderr
    assert in_force(cli) == own
    (row,) = json.loads(cli("calibrate", "--list", "--json").stdout)
    assert (row["version"], row["active"], row["made_by"], row["source"]) == (1, True, "Ann", own)
    assert cli.rows("SELECT action FROM audit ORDER BY rowid DESC LIMIT 1") == [{"action": "calibration.add"}]

    back = cli("calibrate", "--rollback")

    assert (back.exit_code, back.stdout) == (0, "")
    assert back.stderr.endswith("calibration 1 is retired, the encoder's own counts from now on\n")
    assert in_force(cli) == "made up for tests"
    assert [line.split()[:2] for line in cli("calibrate", "--list").stdout.splitlines()[2:]] == [["1", "no"]]


def test_what_a_query_flags_at_follows(cli, singers):
    track = cli.sing("track.wav", 1)
    cli("calibrate", singers)

    (scan,) = json.loads(cli("query", track, "--json").stdout)

    with cli.store() as store:
        cohort_id = store.rows("SELECT cohort_id FROM calibrations")[0]["cohort_id"]
        calibration = active_calibration(store, ENCODER_ID, cohort_id)
    assert scan["calibration_id"] == calibration.calibration_id
    assert "calibrated on the owner's recordings" in scan["threshold_source"]


def test_a_dry_run_tells_the_same_and_changes_nothing(cli, singers):
    before = counts(cli)

    dry = cli("calibrate", singers, "--dry-run", "--json")
    after_dry = counts(cli)
    real = cli("calibrate", singers, "--json")

    assert (dry.exit_code, after_dry) == (0, before)
    assert "nothing was changed (--dry-run)" in dry.stderr
    (told,), (done,) = json.loads(dry.stdout), json.loads(real.stdout)
    assert (told["version"], done["version"]) == (None, 1)
    assert {name: told[name] for name in ("before", "after", "source")} == {
        name: done[name] for name in ("before", "after", "source")
    }
    assert (told["n_persons"], told["n_recordings"], told["n_artists"]) == (21, 105, 1)
    assert set(told["after"]) == {"cllr", "present", "here"}


def test_thresholds_are_for_the_present_number_of_artists(cli, singers):
    cli.enroll("Ada", 1)
    cli.enroll("Bo", 2)

    result = cli("calibrate", singers, "--dry-run")

    assert "budget 3 %, 2 artists" in result.stdout
    assert "budget 3 %, 21 persons here" in result.stdout


def test_clones_of_a_manifest_are_targets(cli, choir):
    rows = [["path", "person", "kind"]]
    for who in range(25):
        rows += [[f"p{who}-{i}.wav", f"P{who}", "voice"] for i in range(4)]
        rows += [[f"p{who}-clone-0.wav", f"P{who}", "clone"]]

    result = cli("calibrate", write_csv(cli.folder / "trials.csv", rows), "--json")

    (record,) = json.loads(result.stdout)
    assert list(record["after"]["cllr"]) == ["genuine", "clones"]
    assert record["source"] == "calibrated on the owner's recordings (25 persons, 100 recordings, and 25 clones)"
    content = json.loads(cli.rows("SELECT content FROM calibrations")[0]["content"])
    assert list(content["found"]) == ["genuine", "clones"]
    assert "half each" in content["llr"]["positives"]
    assert "p1-0" not in json.dumps(content) and "P1" not in json.dumps(content)


@pytest.mark.parametrize("only", ["tail", "llr"])
def test_one_part_can_be_fitted_alone(cli, singers, only):
    cli("calibrate", singers)
    first = json.loads(cli.rows("SELECT content FROM calibrations WHERE version = 1")[0]["content"])

    result = cli("calibrate", singers, "--only", only)

    second = json.loads(cli.rows("SELECT content FROM calibrations WHERE version = 2")[0]["content"])
    assert result.exit_code == 0
    assert second["source"].startswith(f"{only} calibrated on the owner's recordings")
    # The same recordings again: what is fitted comes out as it was.
    assert second["llr"]["weights"] == pytest.approx(first["llr"]["weights"], rel=1e-3)
    assert second["tail"]["start"] == pytest.approx(first["tail"]["start"], rel=1e-3)
    assert cli("calibrate", "--rollback").stderr.endswith(
        "calibration 2 is retired, calibration 1 counts from now on\n"
    )


def test_too_few_persons_are_refused_before_anything_is_heard(cli, choir):
    few = write_choir(cli.folder / "few", 19, 6)
    before = counts(cli)

    result = cli("calibrate", few)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: 19 persons with a recording to enroll and another to test, at least 20 are needed: what follows from "
        "fewer is about those few; add persons, with two recordings or more each\n"
    )
    assert choir.n_heard == 0
    assert counts(cli) == before


def test_too_few_that_can_be_used_are_refused_and_the_bad_ones_named(cli, choir):
    folder = write_choir(cli.folder / "singers", 20, 5)
    (folder / "person 00" / "p00-0.wav").rename(folder / "person 00" / "broken.wav")

    result = cli("calibrate", folder)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "broken.wav: no decoder knows it" in result.stderr
    assert "99 recordings with voice to try with everybody else, at least 100" in result.stderr


def test_bad_files_are_named_and_the_rest_is_fitted(cli, singers):
    (singers / "person 00" / "broken.wav").touch()

    result = cli("calibrate", singers, "--json")

    assert result.exit_code == 3
    assert [each["kind"] for each in json.loads(result.stdout)[0]["unusable"]] == ["not_audio"]
    assert result.stderr.endswith("1 of 106 recordings could not be used\n")
    assert cli.rows("SELECT COUNT(*) AS n FROM calibrations") == [{"n": 1}]


def test_an_encoder_without_a_calibration_gets_one(cli, singers, monkeypatch):
    monkeypatch.setattr("tests.cli_fakes.load_calibration", lambda directory: None)

    part, whole = cli("calibrate", singers, "--only", "tail"), cli("calibrate", singers, "--json")

    assert part.exit_code == 1 and "has no calibration" in part.stderr
    assert whole.exit_code == 0
    assert whole.stderr.startswith("no calibration is in force: encoder ")
    (record,) = json.loads(whole.stdout)
    assert (record["before"], record["version"]) == (None, 1)
    assert in_force(cli).startswith("calibrated on the owner's recordings")


def test_a_calibration_by_which_nothing_could_be_decided_is_not_kept(cli, singers):
    cli("config", "set", "false-flag-budget", "1e-7")

    real, dry = cli("calibrate", singers), cli("calibrate", singers, "--dry-run")

    assert (real.exit_code, dry.exit_code) == (1, 0)
    assert "nothing could be decided any more, so it is not kept" in real.stderr
    assert "warning: with this calibration nothing could be decided" in dry.stderr
    assert cli.rows("SELECT COUNT(*) AS n FROM calibrations") == [{"n": 0}]


def test_rollback_without_one_of_its_own_is_refused(cli):
    result = cli("calibrate", "--rollback")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "the encoder's own counts already" in result.stderr
    assert cli("calibrate", "--list").stderr.endswith("no calibration of its own; that of the encoder counts\n")
    assert cli("calibrate", "--list", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give DIR or MANIFEST to calibrate on, or --list, or --rollback: one of them"),
        (["--list", "--rollback"], "one of them"),
        ([".", "--rollback"], "one of them"),
        (["--rollback", "--dry-run"], "--dry-run and --only are for calibrating on DIR or MANIFEST"),
        (["--list", "--only", "llr"], "--dry-run and --only are for calibrating on DIR or MANIFEST"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(cli, arguments, message):
    result = cli("calibrate", *arguments)

    assert result.exit_code == 2
    assert message in result.stderr
