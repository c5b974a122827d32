from __future__ import annotations

import csv
import fcntl
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from registry.calibration import Calibration
from registry.calibrations import add_calibration
from tests.cli_fakes import REPO, THRESHOLD, Cli, json_lines, use_encoder

pytest_plugins = ["tests.cli_fixtures"]

#: Below the llr of other songs of Ada and Bo (1.3 to 2.0) lies what 3 % gives; above lies what 0.01 % gives.
SMALL = "0.01%"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Path, voice_like: Callable[..., np.ndarray]) -> Cli:
    """One track each of Ada, Bo and nobody, in run 1, with a file that is no audio."""
    cli = Cli(tmp_path_factory.mktemp("examined"), model, voice_like)
    with pytest.MonkeyPatch.context() as patch:
        use_encoder(patch, "FakeEncoder")
        cli.init()
        cli.enroll("Ada", 1)
        cli.enroll("Bo", 2)
    for name, who in (("a.wav", 1), ("b.wav", 2), ("c.wav", 3)):
        cli.sing(f"in/{name}", who, song=3)
    (cli.folder / "in" / "text.wav").write_text("no audio", encoding="ascii")
    with cli.start("batch", cli.folder / "in", "--workers", "1") as process:
        process.communicate(timeout=120)
    assert process.returncode == 3
    return cli


@pytest.fixture
def examined(made: Cli, cli: Cli) -> Cli:
    """A copy of that registry, which takes less time than to make it."""
    shutil.rmtree(cli.home)
    shutil.copytree(made.home, cli.home)
    cli.folder = made.folder
    return cli


def test_the_table_has_a_row_for_each_budget(examined):
    result = examined("budget", "preview", "3%", SMALL)

    assert result.exit_code == 0
    header, _, usual, small = (re.split(r"  +", line.strip()) for line in result.stdout.splitlines())
    assert header == ["budget", "threshold", "flagged", "come", "go", "fpir", "extrapolated"]
    assert usual == ["3 %", f"{THRESHOLD:.2f}", "2", "0", "0", "3 %", "no"]
    assert (small[0], *small[2:5]) == ("0.01 %", "0", "0", "2")
    assert re.fullmatch(
        r"thresholds over 2 artists; 3 tracks on record were examined with the calibration in force "
        r"\([0-9a-f]{12}: made up for tests\)\n",
        result.stderr,
    )


def test_details_name_the_tracks_whose_flag_comes_or_goes(examined):
    result = examined("budget", "preview", SMALL, "--details")

    table = result.stdout.split("\n\n")[1].splitlines()
    assert table[0].split() == ["budget", "flag", "path", "artist", "llr", "threshold", "threshold_before"]
    assert [(line.split()[2], *line.split()[3:5]) for line in table[2:]] == [
        ("goes", str(examined.folder / "in" / "a.wav"), "Ada"),
        ("goes", str(examined.folder / "in" / "b.wav"), "Bo"),
    ]
    assert examined("budget", "preview", "3%", "--details").stdout.count("\n") == 3


def test_json_has_the_changes_always(examined):
    (found,) = json.loads(examined("budget", "preview", SMALL, "--json").stdout)
    (line,) = examined("budget", "preview", SMALL, "--format", "jsonl").stdout.splitlines()

    assert json.loads(line) == found
    assert (found["budget"], found["n_scans"], found["n_flagged"], found["n_go"]) == (0.0001, 3, 0, 2)
    assert [(change["flag"], change["artist"]) for change in found["changes"]] == [("goes", "Ada"), ("goes", "Bo")]
    assert found["fnir"] == {}


def test_csv_has_the_counts_or_with_details_the_tracks(examined):
    counts, tracks = (
        list(csv.DictReader(io.StringIO(examined("budget", "preview", SMALL, "3%", "--format", "csv", *more).stdout)))
        for more in ([], ["--details"])
    )

    assert [(row["budget"], row["n_flagged"], row["n_go"]) for row in counts] == [
        ("0.0001", "0", "2"),
        ("0.03", "2", "0"),
    ]
    assert [(row["budget"], row["flag"], row["artist"]) for row in tracks] == [
        ("0.0001", "goes", "Ada"),
        ("0.0001", "goes", "Bo"),
    ]


def test_what_the_calibration_measured_of_enrolled_voices_is_shown(examined):
    """Also of a calibration of the registry's own, which is in force as soon as it is kept."""
    with examined.store() as store:
        content = json.loads((examined._model / "calibration.json").read_text())
        content |= {"found": {"clean": [None, 0.5, 3.0, 4.0], "clones": [0.0, 9.9]}, "source": "ours"}
        add_calibration(store, Calibration.from_dict(content))

    result = examined("budget", "preview", "3%")

    header, _, row = (re.split(r"  +", line.strip()) for line in result.stdout.splitlines())
    shown = dict(zip(header, row, strict=True))
    assert (shown["fnir clean"], shown["fnir clones"], shown["flagged"]) == ("50 %", "50 %", "0")
    assert "not counted: 3 tracks, examined with calibration " in result.stderr
    assert "0 tracks on record were examined with the calibration in force" in result.stderr
    as_csv = examined("budget", "preview", "3%", "--format", "csv").stdout.splitlines()[0]
    assert "fnir clean,fnir clones" in as_csv


@pytest.mark.parametrize(
    ("since", "n_scans"), [("1h", 3), ("7d", 3), ("2020-01-01", 3), ("2999-01-01", 0), ("2999-01-01T10:00+02:00", 0)]
)
def test_since_takes_some_time_ago_or_a_date(examined, since, n_scans):
    (found,) = json.loads(examined("budget", "preview", "3%", "--since", since, "--json").stdout)

    assert found["n_scans"] == n_scans


def test_since_some_days_ago_leaves_out_what_is_older(examined):
    before = (datetime.now(UTC) - timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    with examined.store() as store, store.writing():
        store.db.execute("UPDATE scans SET scanned_at = ? WHERE scan_id = 1", [before])

    for since, n_scans in (("3d", 3), ("49h", 3), ("1d", 2)):
        (found,) = json.loads(examined("budget", "preview", "3%", "--since", since, "--json").stdout)
        assert found["n_scans"] == n_scans


@pytest.mark.parametrize("since", ["yesterday", "7", "7w", "-7d", "2026-13-01", "999999999d"])
def test_a_time_that_is_none_is_wrong_usage(cli, since):
    result = cli("budget", "preview", "3%", f"--since={since}")

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{since}: neither a time ago such as 7d or 12h, nor a date such as 2026-11-30" in result.stderr


def test_a_budget_that_is_none_is_wrong_usage(cli):
    for command in (["budget", "preview", "0.01", "3"], ["decide", "--run", "1", "--budget", "3"]):
        result = cli(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "a budget is a share above 0 and below 1, such as 0.01, 1e-2 or 1%, not 3" in result.stderr


def test_a_threshold_that_would_be_refused_is_said_to_be(examined):
    result = examined("budget", "preview", "5e-5", "1e-7")

    assert [re.split(r"  +", line)[-1] for line in result.stdout.splitlines()[2:]] == [
        "1.3 powers of ten",
        "4.0 powers of ten, refused",
    ]


def test_a_registry_with_nobody_in_it_has_thresholds_too(cli):
    result = cli("budget", "preview", "3%")

    assert (result.exit_code, result.stdout.split()[-8:-4]) == (0, ["%", f"{THRESHOLD:.2f}", "0", "0"])
    assert result.stderr.startswith("thresholds over 0 artists; 0 tracks on record")


def test_it_needs_neither_torch_nor_the_encoder(examined, monkeypatch):
    """The encoder of the fakes cannot even be loaded in that process."""
    code = "import atexit, sys; from registry.cli import main; "
    code += "atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr)); main(prog_name='likeness')"
    command = [sys.executable, "-c", code, "budget", "preview", "3%", "--json", "--home", str(examined.home)]

    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)[0]["n_flagged"] == 2
    assert not {"torch", "speechbrain", "faiss", "embeddings.encoder"} & set(done.stderr.split())


# -- decide ------------------------------------------------------------------------------------------------------------


def test_decide_prints_the_counts_before_and_after(examined):
    result = examined("decide", "--run", "1", "--budget", SMALL, "--as", "ines")

    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["outcome", "before", "after"],
        ["---------", "------", "-----"],
        ["flagged", "2", "0"],
        ["clear", "1", "3"],
        ["abstained", "0", "0"],
        ["failed", "1", "1"],
    ]
    first, head = result.stderr.splitlines()
    assert re.fullmatch(
        r"run 2: run 1 decided again with a budget of 0\.01 %; 0 flags come, 2 go; threshold \d\.\d\d: false-flag "
        r"budget 0\.01 % over 2 artists; .*",
        first,
    )
    assert re.fullmatch(r"audit head \d+ [0-9a-f]{64}", head)
    entries = json.loads(examined("audit", "show", "--json", "--last", "2").stdout)
    assert [(entry["action"], entry["payload"]["by"]) for entry in entries] == [
        ("run.decide", "ines"),
        ("run.finish", "ines"),
    ]
    assert examined("audit", "verify").exit_code == 0
    assert examined("config", "get", "false-flag-budget").stdout == "0.03\n"


def test_decide_gives_the_record_as_json(examined):
    (found,) = json.loads(examined("decide", "--run", "1", "--budget", SMALL, "--json").stdout)

    assert {name: value for name, value in found.items() if not name.startswith("threshold")} == {
        "run_id": 2,
        "decided_from": 1,
        "budget": 0.0001,
        "n_tracks": 4,
        "outcomes": {"clear": 3, "failed": 1},
        "outcomes_before": {"clear": 1, "failed": 1, "flagged": 2},
        "came": 0,
        "went": 2,
    }
    assert examined.rows("SELECT threshold FROM runs WHERE run_id = 2") == [{"threshold": found["threshold"]}]


def test_the_preview_and_the_decision_agree(examined):
    (preview,) = json.loads(examined("budget", "preview", SMALL, "--json").stdout)

    (found,) = json.loads(examined("decide", "--run", "1", "--budget", SMALL, "--json").stdout)

    assert (preview["threshold"], preview["n_come"], preview["n_go"]) == (
        found["threshold"],
        found["came"],
        found["went"],
    )
    shown = json.loads(examined("tracks", "show", examined.folder / "in" / "a.wav", "--json").stdout)
    assert [(scan["run_id"], scan["verdict"]) for scan in shown] == [(1, "flagged"), (2, "clear")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "9", "--budget", "1%"], "Error: run 9: there is no such run here\n"),
        (["--run", "1", "--budget", "1e-7"], "or --accept-extrapolation\n"),
    ],
)
def test_what_cannot_be_decided_is_refused(examined, arguments, message):
    result = examined("decide", *arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(message)
    assert examined.rows("SELECT COUNT(*) AS n FROM runs") == [{"n": 1}]


def test_an_extrapolated_threshold_can_be_accepted(examined):
    result = examined("decide", "--run", "1", "--budget", "1e-7", "--accept-extrapolation", "--json")

    assert result.exit_code == 0
    assert "threshold extrapolated 4.0 powers of ten" in json.loads(result.stdout)[0]["threshold_source"]


def test_scores_of_another_calibration_are_refused(examined):
    with examined.store() as store:
        content = json.loads((examined._model / "calibration.json").read_text())
        add_calibration(store, Calibration.from_dict({**content, "source": "ours"}))

    result = examined("decide", "--run", "1", "--budget", "1%")

    assert (result.exit_code, result.stdout) == (1, "")
    assert re.search(r"run 1: its likelihood ratios are of calibration \w{12}, in force is \w{12}; exam", result.stderr)


# -- the outcomes of what was decided ----------------------------------------------------------------------------------


def test_the_outcomes_are_those_that_a_batch_with_that_budget_writes(examined, tmp_path):
    decided, batch = tmp_path / "decided.jsonl", tmp_path / "batch.jsonl"
    decided.write_text("of another day\n", encoding="ascii")

    result = examined("decide", "--run", "1", "--budget", SMALL, "--output", decided)

    examined("batch", examined.folder / "in", "--workers", "1", "--budget", SMALL, "--output", batch)
    lines, expected = json_lines(decided.read_text()), json_lines(batch.read_text())
    assert (result.exit_code, result.stdout.split()[:3]) == (0, ["outcome", "before", "after"])
    assert [line["outcome"] for line in lines] == ["clear", "clear", "clear", "failed"]
    assert {line["scan"]["run_id"] for line in lines[:3]} == {2}
    own = ("scan_id", "run_id", "scanned_at")
    for line in lines + expected:
        line["scan"] = line["scan"] and {name: value for name, value in line["scan"].items() if name not in own}
    assert lines == sorted(expected, key=lambda line: line["position"])
    assert examined.rows("SELECT path, run_id FROM reports ORDER BY run_id") == [
        {"path": str(decided), "run_id": 2},
        {"path": str(batch), "run_id": 3},
    ]


def test_an_artist_who_is_removed_is_taken_out_of_the_outcomes(examined, tmp_path):
    output = tmp_path / "decided.jsonl"
    examined("decide", "--run", "1", "--budget", SMALL, "--output", output)
    assert '"artist": "Ada"' in output.read_text()

    result = examined("artists", "remove", "Ada", "--yes")

    assert (result.exit_code, json.loads(result.stdout)["pending"]) == (0, [])
    assert [line["scan"] and len(line["scan"]["matches"]) for line in json_lines(output.read_text())] == [1, 1, 1, None]
    assert '"artist": "Ada"' not in output.read_text()


@pytest.mark.parametrize("before", [None, "of another day\n"])
def test_what_is_refused_leaves_the_output_as_it_was(examined, tmp_path, before):
    output = tmp_path / "decided.jsonl"
    if before is not None:
        output.write_text(before, encoding="ascii")

    result = examined("decide", "--run", "9", "--budget", "1%", "--output", output)

    assert (result.exit_code, result.stdout) == (1, "")
    assert (output.read_text() if output.exists() else None) == before
    assert examined.rows("SELECT * FROM reports") == []


def test_where_the_output_cannot_be_written_nothing_is_decided(examined, tmp_path):
    taken = tmp_path / "taken.jsonl"
    taken.write_text("of a batch\n", encoding="ascii")
    command = ["decide", "--run", "1", "--budget", "1%", "--output"]

    nowhere = examined(*command, tmp_path / "no" / "o.jsonl")
    too_long = examined(*command, tmp_path / ("o" * 300))
    with taken.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        locked = examined(*command, taken)

    assert (nowhere.exit_code, too_long.exit_code, locked.exit_code) == (2, 1, 1)
    assert "is not there" in nowhere.stderr
    assert too_long.stderr.endswith("cannot be written (File name too long); nothing was examined or decided\n")
    assert locked.stderr == f"Error: {taken}: another process writes to it; give this one another --output\n"
    assert taken.read_text() == "of a batch\n"
    assert examined.rows("SELECT run_id FROM runs") == [{"run_id": 1}]


def test_a_disk_that_is_full_is_said_after_what_was_decided(examined):
    """`/dev/full` takes nothing."""
    result = examined("decide", "--run", "1", "--budget", SMALL, "--output", "/dev/full")

    decided, error = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (1, "")
    assert decided.startswith("run 2: run 1 decided again")
    assert error == "Error: /dev/full: cannot be written (No space left on device); free some space"
    assert examined.rows("SELECT path FROM reports") == []
