from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.batches import HopelessEncoder
from tests.cli_fakes import RATE_HZ, Cli, check_units, json_lines, write_csv

pytest_plugins = ["tests.cli_fixtures"]


@pytest.fixture
def no_encoder(monkeypatch):
    """Starting the encoder fails the test: what is refused is refused before anything slow."""

    def start(*_: object) -> None:
        raise AssertionError("the encoder was started")

    monkeypatch.setattr("embeddings.workers.EncoderProcess", start)


def fill(cli: Cli, n_songs: int = 2, *, broken: bool = True, folder: str = "in") -> Path:
    """Songs of Ada (or a stranger, every third) in a folder, and a file that is not audio."""
    for number in range(n_songs):
        cli.sing(f"{folder}/{number}.wav", 3 if number % 3 == 2 else 1, song=number % 4)
    if broken:
        (cli.folder / folder / "broken.wav").write_text("not audio")
    return cli.folder / folder


def outcomes(lines: list[dict[str, Any]]) -> dict[str, str]:
    """Outcome by file name; each track was reported once."""
    assert max(Counter(line["position"] for line in lines).values()) == 1
    return {Path(line["path"]).name: line["outcome"] for line in lines}


def notes(stderr: str) -> list[str]:
    """What was said, but for the head of the audit, which is said once behind the summary."""
    lines = stderr.splitlines()
    heads = [line for line in lines if re.fullmatch(r"audit head \d+ [0-9a-f]{64}", line)]
    assert len(heads) == 1
    assert "registry revision" in lines[lines.index(heads[0]) - 1]
    lines.remove(heads[0])
    return lines


def wait_for_lines(path: Path, n_lines: int, process: subprocess.Popen[str]) -> None:
    give_up_s = time.monotonic() + 60
    while not (path.exists() and len(path.read_text().splitlines()) >= n_lines):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


def test_one_line_per_track_on_stdout_and_a_summary_beside_it(enrolled):
    result = enrolled("batch", fill(enrolled, 3), "--workers", "1")

    lines = json_lines(result.stdout)
    check_units(lines)
    assert result.exit_code == 3
    assert outcomes(lines) == {"0.wav": "flagged", "1.wav": "flagged", "2.wav": "clear", "broken.wav": "failed"}
    assert notes(result.stderr) == ["run 1: 2 flagged, 1 clear, 1 failed; threshold 1.00, registry revision 4"]
    failed = next(line for line in lines if line["outcome"] == "failed")
    assert failed == {
        "position": 3,
        "path": str(enrolled.folder / "in/broken.wav"),
        "title": None,
        "isrc": None,
        "uploader": None,
        "extra": {},
        "outcome": "failed",
        "kind": "not_audio",
        "reason": "not audio, or of a format that Likeness cannot read; no decoder recognises it",
        "scan": None,
    }


def test_a_line_holds_the_manifests_columns_and_what_a_query_would_say(enrolled):
    track = enrolled.sing("in/suspect.wav", 1, song=3)
    rows = [["path", "title", "isrc", "uploader", "label"], ["suspect.wav", "Übung, 1", "ZZSYN2600001", "u9", "Blue"]]
    manifest = write_csv(enrolled.folder / "in/tonight.csv", rows, encoding="utf-8-sig")
    output = enrolled.folder / "outcomes.jsonl"

    result = enrolled("batch", manifest, "--workers", "1", "--output", output, "--fail-on", "flagged")

    assert (result.exit_code, result.stdout) == (5, "")
    (line,) = json_lines(output.read_text())
    assert [line[name] for name in ("path", "title", "isrc", "uploader", "extra", "outcome", "kind")] == [
        *(str(track), "Übung, 1", "ZZSYN2600001", "u9", {"label": "Blue"}, "flagged", None)
    ]
    (queried,) = json.loads(enrolled("query", track, "--json").stdout)
    different = {"scan_id", "run_id", "scanned_at"}
    assert {k: v for k, v in line["scan"].items() if k not in different} == {
        k: v for k, v in queried.items() if k not in different
    }
    assert line["scan"]["run_id"] == 1


def test_fail_on_flagged_wins_over_a_failed_track(enrolled):
    assert enrolled("batch", fill(enrolled, 1), "--workers", "1", "--fail-on", "flagged").exit_code == 5


def test_a_finished_run_begins_anew_and_says_so(enrolled):
    folder = fill(enrolled, 1, broken=False)
    enrolled("batch", folder, "--workers", "1")

    again = enrolled("batch", folder, "--workers", "1")

    assert again.exit_code == 0
    assert len(json_lines(again.stdout)) == 1
    assert "run 2: begins anew; run 1 examined the same inputs and was finished at 20" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "--output", "no/such/o.jsonl"], "folder no/such is not there"),
        (["in/m.csv", "--output", "in/m.csv"], "in/m.csv is an input too, and would be overwritten"),
        (["in", "--output", "in"], "is a directory"),
        (["in", "--new-run", "--repin"], "choose one"),
        (["nothing"], "'nothing' does not exist"),
        (["in", "--workers", "0"], "--workers"),
        (["in", "--threshold", "nan"], "not a number that a score can reach"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage_is_refused_before_anything_slow(enrolled, no_encoder, monkeypatch, arguments, message):
    write_csv(fill(enrolled, 1) / "m.csv", [["path"], ["0.wav"]])
    monkeypatch.chdir(enrolled.folder)

    result = enrolled("batch", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert enrolled.rows("SELECT * FROM runs") == []


def test_a_manifest_that_cannot_be_used_is_refused_before_anything_slow(enrolled, no_encoder):
    manifest = write_csv(enrolled.folder / "m.csv", [["path", "title"], ["a.wav", "A"], ["b.wav", "B", "C"]])

    result = enrolled("batch", manifest)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {manifest}: line 3: more cells than the header has (2)")
    assert enrolled.rows("SELECT * FROM runs") == []


def test_nothing_to_examine_is_done_at_once(enrolled, no_encoder):
    (enrolled.folder / "quiet").mkdir()
    manifest = write_csv(enrolled.folder / "quiet.csv", [["path", "title"]])

    result = enrolled("batch", enrolled.folder / "quiet", manifest)

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{enrolled.folder}/quiet, {manifest}: no tracks, nothing to do\n"


def test_ctrl_c_stops_a_run_and_the_same_command_does_what_is_left(enrolled):
    folder = fill(enrolled, 10)
    output = enrolled.folder / "outcomes.jsonl"
    command = ["batch", folder, "--workers", "2", "--output", output]
    process = enrolled.start(*command, encoder="SlowEncoder")
    wait_for_lines(output, 3, process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal tells every process of the group
    stdout, stderr = process.communicate(timeout=60)
    n_before = len(output.read_text().splitlines())

    again = enrolled(*command)

    assert (process.returncode, stdout) == (130, "")
    summary, *rest = notes(stderr)
    assert summary.endswith(" open; threshold 1.00, registry revision 4")
    assert rest == [
        "run 1: stopped; what is decided is kept, the same command goes on with what is left",
        "stopped by Ctrl-C",
    ]
    assert 3 <= n_before < 11
    assert again.exit_code == 3
    assert f"run 1: going on, {n_before} tracks are done and {11 - n_before} are left" in again.stderr
    lines = json_lines(output.read_text())
    assert len(outcomes(lines)) == len(lines) == 11
    assert enrolled.rows("SELECT outcome, COUNT(*) AS n FROM run_tracks GROUP BY 1 ORDER BY 1") == [
        {"outcome": "clear", "n": 3},
        {"outcome": "failed", "n": 1},
        {"outcome": "flagged", "n": 7},
    ]
    assert enrolled.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT path) AS paths FROM scans") == [{"n": 10, "paths": 10}]
    assert len(enrolled.rows("SELECT * FROM runs WHERE finished_at IS NOT NULL")) == 1


def test_ctrl_c_while_the_encoder_loads_stops_without_a_traceback(enrolled):
    process = enrolled.start("batch", fill(enrolled, 1), encoder="StuckEncoder")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    give_up_s = time.monotonic() + 60
    while len(children.read_text().split()) < 2:  # the resource tracker and the encoder
        assert time.monotonic() < give_up_s
        time.sleep(0.02)

    os.killpg(process.pid, signal.SIGINT)

    assert process.communicate(timeout=60) == ("", "stopped by Ctrl-C\n")
    assert process.returncode == 130
    assert enrolled.rows("SELECT * FROM runs") == []


def kill_in_the_middle(cli: Cli, *command: object, n_lines: int = 2) -> int:
    """Run a command and take its process away, as `kill -9` or a power cut does; returns how many tracks it did."""
    output = cli.folder / "killed.jsonl"
    process = cli.start(*command, "--output", output, encoder="SlowEncoder")
    wait_for_lines(output, n_lines, process)
    process.kill()
    process.communicate(timeout=60)
    return len(cli.rows("SELECT * FROM run_tracks WHERE outcome IS NOT NULL"))


def test_a_killed_run_goes_on_after_a_choice_if_the_registry_changed(enrolled):
    command = ["batch", fill(enrolled, 6, broken=False), "--workers", "1"]
    output = enrolled.folder / "outcomes.jsonl"
    n_before = kill_in_the_middle(enrolled, *command)
    enrolled.enroll("Cy", 3)

    refused = enrolled(*command, "--output", output)
    repinned = enrolled(*command, "--output", output, "--repin")

    assert (refused.exit_code, repinned.exit_code) == (1, 0)
    assert refused.stderr.startswith("Error: run 1: the registry has changed since it was stopped (store_revision).")
    assert "--repin" in refused.stderr
    assert "--new-run" in refused.stderr
    assert 0 < n_before < 6
    lines = json_lines(output.read_text())
    assert len(outcomes(lines)) == 6
    assert Counter(line["scan"]["store_revision"] for line in lines) == {4: n_before, 6: 6 - n_before}
    # A run that was killed counts against no track.
    assert enrolled.rows("SELECT * FROM run_tracks WHERE attempts > 0 OR lease_owner IS NOT NULL") == []


def test_new_run_forgets_a_stopped_one(enrolled):
    command = ["batch", fill(enrolled, 6, broken=False), "--workers", "1"]
    kill_in_the_middle(enrolled, *command)
    enrolled.enroll("Cy", 3)

    result = enrolled(*command, "--new-run")

    assert result.exit_code == 0
    assert len(outcomes(json_lines(result.stdout))) == 6
    assert len(enrolled.rows("SELECT * FROM runs")) == 1
    assert len(enrolled.rows("SELECT * FROM scans")) == 6


def test_an_encoder_that_always_dies_stops_the_run_with_its_reason(enrolled, monkeypatch):
    monkeypatch.setattr("embeddings.encoder.SpeechBrainEncoder", HopelessEncoder)

    result = enrolled("batch", fill(enrolled, 20, broken=False), "--workers", "1")

    assert (result.exit_code, result.stdout) == (1, "")
    assert notes(result.stderr)[-3:] == [
        "run 1: 20 open; threshold 1.00, registry revision 4",
        "run 1: stopped; what is decided is kept, the same command goes on with what is left",
        "Error: run 1: the encoder died 5 times in a row (the process that runs the encoder was ended by SIGKILL "
        "(out of memory?)); does the machine have the memory that it needs?",
    ]


def test_the_same_command_given_twice_at_once_shares_the_work(enrolled):
    command = ["batch", fill(enrolled, 16), "--workers", "1"]
    first = enrolled.start(*command, encoder="SlowEncoder")
    second = enrolled.start(*command, encoder="SlowEncoder")

    (lines, notes), (other_lines, other_notes) = first.communicate(timeout=120), second.communicate(timeout=120)

    assert (first.returncode, second.returncode) == (3, 3), notes + other_notes
    assert len(outcomes(json_lines(lines) + json_lines(other_lines))) == 17
    assert lines
    assert other_lines
    assert enrolled.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT path) AS paths FROM scans") == [{"n": 16, "paths": 16}]
    assert enrolled.rows("SELECT COUNT(*) AS n, COUNT(finished_at) AS n_finished FROM runs") == [
        {"n": 1, "n_finished": 1}
    ]


def test_a_process_that_finds_the_rest_with_another_says_so_and_leaves_it_the_run(enrolled):
    command = ["batch", fill(enrolled, 2, broken=False), "--workers", "1"]
    first = enrolled.start(*command, encoder="SlowerEncoder")
    give_up_s = time.monotonic() + 60
    while not enrolled.rows("SELECT * FROM run_tracks WHERE lease_owner IS NOT NULL"):
        assert time.monotonic() < give_up_s
        time.sleep(0.02)

    second = enrolled(*command)
    lines, _ = first.communicate(timeout=60)

    assert (second.exit_code, second.stdout) == (0, "")
    said = rf"run 1: [12] tracks are with process {first.pid} on {re.escape(os.uname().nodename)}, which goes on with"
    assert re.search(said, second.stderr)
    assert (first.returncode, len(outcomes(json_lines(lines)))) == (0, 2)
    assert len(enrolled.rows("SELECT * FROM runs WHERE finished_at IS NOT NULL")) == 1


def test_an_output_that_another_batch_is_writing_is_left_alone(enrolled):
    command = ["batch", fill(enrolled, 4, broken=False), "--workers", "1", "--output", enrolled.folder / "o.jsonl"]
    first = enrolled.start(*command, encoder="SlowEncoder")
    wait_for_lines(enrolled.folder / "o.jsonl", 1, first)

    second = enrolled(*command)
    first.communicate(timeout=60)

    assert second.exit_code == 1
    assert f"Error: {enrolled.folder}/o.jsonl: another process writes to it; give this one another" in second.stderr
    assert first.returncode == 0
    assert len(outcomes(json_lines((enrolled.folder / "o.jsonl").read_text()))) == 4


def test_the_file_that_outcomes_went_to_is_on_record_from_its_first_line(enrolled):
    folder = fill(enrolled, 6, broken=False)
    kill_in_the_middle(enrolled, "batch", folder, "--workers", "1", n_lines=1)

    enrolled("batch", folder, "--workers", "1", "--output", "/dev/null")

    assert enrolled.rows("SELECT path, run_id FROM reports") == [
        {"path": str(enrolled.folder / "killed.jsonl"), "run_id": 1}
    ]


def test_a_reader_that_stops_reading_stops_the_run_quietly(enrolled):
    process = enrolled.start("batch", fill(enrolled, 6), "--workers", "1", encoder="SlowEncoder")
    first = json.loads(process.stdout.readline())  # | head -1

    process.stdout.close()
    _, stderr = process.communicate(timeout=60)

    assert first["outcome"] in ("flagged", "failed")
    assert process.returncode == 1
    assert "run 1: stopped; what is decided is kept" in stderr
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


def test_on_a_terminal_a_bar_shows_rate_and_time_left_and_results_stay_apart(enrolled):
    shown, terminal = pty.openpty()
    output = enrolled.folder / "stdout"
    with output.open("w") as stdout:
        process = enrolled.start(
            *("batch", fill(enrolled, 8, broken=False), "--workers", "1"),
            encoder="SlowEncoder",
            stdout=stdout,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        )
    os.close(terminal)
    text = b""
    try:
        while part := os.read(shown, 65536):
            text += part
    except OSError:  # Linux says so when the other side is closed
        pass
    os.close(shown)

    assert process.wait(60) == 0
    bars = text.decode()
    assert "run 1" in bars
    assert "8/8" in bars
    assert re.search(r"\d/8.* tracks \(\d+\.\d a (second|minute)\).*left.*\d:\d\d:\d\d", bars)
    assert len(outcomes(json_lines(output.read_text()))) == 8
    assert notes(bars[bars.rindex("run 1: ") :]) == ["run 1: 6 flagged, 2 clear; threshold 1.00, registry revision 4"]


def test_where_stderr_is_no_terminal_there_is_no_bar(enrolled):
    process = enrolled.start("batch", fill(enrolled, 1, broken=False), "--workers", "1")

    stdout, stderr = process.communicate(timeout=60)

    assert (process.returncode, len(json_lines(stdout))) == (0, 1)
    assert notes(stderr) == ["run 1: 1 flagged; threshold 1.00, registry revision 4"]


def test_a_disk_that_is_full_stops_the_run_with_the_files_name(enrolled):
    """`/dev/full` takes nothing."""
    result = enrolled("batch", fill(enrolled, 1), "--workers", "1", "--output", "/dev/full")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: /dev/full: cannot be written (No space left on device)" in result.stderr
    assert "the same command goes on with what is left" in result.stderr


def test_a_disk_that_fills_up_stops_the_run_and_keeps_what_was_decided(enrolled):
    """The database's log may grow so far and no further, as on a full disk."""
    command = ["batch", fill(enrolled, 40, broken=False), "--workers", "1"]
    limit = (enrolled.home / "registry.db").stat().st_size + 64 * 1024

    process = enrolled.start(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    stdout, stderr = process.communicate(timeout=120)
    done = json_lines(stdout)
    again = enrolled(*command)

    assert process.returncode == 1
    assert f"Error: {enrolled.home}/registry.db: " in stderr
    assert "Free some space and run the command again" in stderr
    assert "run 1: stopped; what is decided is kept, the same command goes on with what is left" in stderr
    assert "Traceback" not in stderr
    assert 0 < len(done) < 40
    assert again.exit_code == 0
    assert f"run 1: going on, {len(done)} tracks are done and {40 - len(done)} are left" in again.stderr
    assert len(outcomes(done + json_lines(again.stdout))) == 40
    assert enrolled.rows("SELECT COUNT(*) AS n, COUNT(DISTINCT path) AS paths FROM scans") == [{"n": 40, "paths": 40}]


def test_a_store_that_another_process_holds_for_a_moment_is_waited_for(enrolled):
    process = enrolled.start("batch", fill(enrolled, 6, broken=False), "--workers", "1", encoder="SlowEncoder")
    first = process.stdout.readline()
    with enrolled.store() as store, store.writing():
        n_before = len(store.rows("SELECT * FROM run_tracks WHERE outcome IS NOT NULL"))
        time.sleep(2)
        n_after = len(store.rows("SELECT * FROM run_tracks WHERE outcome IS NOT NULL"))
    rest, stderr = process.communicate(timeout=60)

    assert n_before == n_after < 6
    assert process.returncode == 0, stderr
    assert len(outcomes(json_lines(first + rest))) == 6


def test_a_recording_that_is_too_long_is_not_examined(enrolled):
    result = enrolled("batch", fill(enrolled, 1, broken=False), "--workers", "1", "--max-hours", "0.001")

    (line,) = json_lines(result.stdout)
    assert (result.exit_code, line["outcome"], line["kind"]) == (3, "failed", "limit")


def test_silence_and_noise_have_reasons(enrolled):
    folder = enrolled.folder / "in"
    folder.mkdir()
    soundfile.write(folder / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    soundfile.write(folder / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 6 * RATE_HZ), RATE_HZ)

    lines = {Path(line["path"]).name: line for line in json_lines(enrolled("batch", folder, "--workers", "1").stdout)}

    assert (lines["silent.wav"]["outcome"], lines["silent.wav"]["kind"]) == ("failed", "silent")
    assert lines["noise.wav"]["outcome"] == "abstained"
    assert lines["noise.wav"]["reason"] == "0.0 s of voice found, at least 1.5 s is needed"
