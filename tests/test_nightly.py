"""`scripts/nightly`, run as cron runs it: `likeness` on PATH is the command with the fake encoder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli_fakes import REPO, Cli, json_lines

pytest_plugins = ["tests.cli_fixtures"]

NIGHTLY = REPO / "scripts" / "nightly"
UNITS = REPO / "scripts" / "systemd"

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="flock of util-linux is not on this system")


class Night:
    """Folders of a distributor, and the script on them."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli, self.folder = cli, folder
        self.outcomes, self.backups, self.deliveries = folder / "outcomes", folder / "backups", folder / "tonight"
        for path in (self.outcomes, self.backups, self.deliveries, folder / "bin"):
            path.mkdir()
        self.use_encoder("FakeEncoder")

    def use_encoder(self, name: str) -> None:
        likeness = self.folder / "bin" / "likeness"
        likeness.write_text(f'#!/bin/sh\ncd {REPO} && exec {sys.executable} -m tests.cli_fakes {name} "$@"\n')
        likeness.chmod(0o755)

    def start(self, *arguments: object, **variables: object) -> subprocess.Popen[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        known = {"LIKENESS_HOME": self.cli.home, "LIKENESS_OUTCOMES": self.outcomes, "LIKENESS_BACKUPS": self.backups}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS")}
        environment |= {name: str(value) for name, value in {**known, "PATH": path, **variables}.items()}
        return subprocess.Popen(
            [NIGHTLY, *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: object, **variables: object) -> tuple[int, str, list[dict[str, Any]]]:
        """The exit code, stdout and the log."""
        process = self.start(*arguments, **variables)
        printed, log = process.communicate(timeout=300)
        return process.returncode, printed, json_lines(log)


@pytest.fixture
def night(enrolled: Cli, tmp_path: Path) -> Night:
    return Night(enrolled, tmp_path)


def messages(log: list[dict[str, Any]], command: str = "nightly") -> list[str]:
    return [line["message"] for line in log if line.get("command") == command]


def test_a_night_mends_the_index_examines_backs_up_and_says_how_the_registry_is(night):
    (night.cli.home / "index.faiss").unlink()
    night.cli.sing("tonight/one.wav", 1, song=3)
    (night.deliveries / "broken.wav").write_bytes(b"RIFF, and nothing more")

    code, printed, log = night(night.deliveries, "--", "--workers", "1")

    assert code == 3, log  # one track could not be used
    assert messages(log) == [
        "check: begins",
        "purge: no retention is set, what is on record of tracks stays",
        "batch: begins",
        "backup: begins",
        "audit verify: begins",
        "done, with code 3",
    ]
    assert all({"at", "level", "command", "message"} <= set(line) for line in log if "command" in line)
    (outcomes,) = night.outcomes.iterdir()
    assert sorted(line["outcome"] for line in json_lines(outcomes.read_text())) == ["failed", "flagged"]
    (backup,) = night.backups.iterdir()
    (status,) = json.loads(printed)
    assert status["last_backup"]["path"] == str(backup)
    assert (status["unfinished_runs"], status["n_artists_active"], status["index"]) == ([], 2, "fresh")
    assert [line["where"] for line in log if "where" in line] == ["index"]  # once: it was made anew
    (verified,) = [line for line in log if "n_entries" in line]
    assert verified["problems"] == []


def test_a_night_that_was_stopped_goes_on_the_next_time(night):
    for number in range(4):
        night.cli.sing(f"tonight/{number}.wav", 3, song=number)
    night.use_encoder("SlowEncoder")
    process = night.start(night.deliveries, "--", "--workers", "1")
    while not night.cli.rows("SELECT 1 FROM run_tracks WHERE outcome IS NOT NULL"):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, 2)  # as a terminal and the systemd unit do
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert "batch: stopped; started again, the night goes on from here" in log
    assert list(night.backups.iterdir()) == []
    night.cli.enroll("Cy", 5)  # the registry changes in between
    night.use_encoder("FakeEncoder")

    code, _, again = night(night.deliveries, "--", "--workers", "1")

    assert code == 0, again
    assert any("going on" in message for message in messages(again, "batch"))
    last = max(night.outcomes.iterdir())
    assert sorted(Path(line["path"]).name for line in json_lines(last.read_text())) == [f"{n}.wav" for n in range(4)]
    assert len(night.cli.rows("SELECT * FROM runs")) == 1


def test_two_nights_at_once_are_one(night):
    night.cli.sing("tonight/one.wav", 3)
    night.use_encoder("StuckEncoder")
    first = night.start(night.deliveries)
    while not lock_is_held(night.cli.home / "nightly.lock"):
        assert first.poll() is None
        time.sleep(0.02)

    code, printed, log = night(night.deliveries)
    os.killpg(first.pid, 9)
    first.communicate(timeout=60)

    assert (code, printed) == (75, "")
    assert messages(log) == [f"{night.cli.home}: another night is at work on this registry; this one did nothing"]


def lock_is_held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_over_a_damaged_registry_nothing_is_examined_and_no_backup_pushes_a_sound_one_out(night):
    night.cli.sing("tonight/one.wav", 3)
    with night.cli.store() as store, store.writing():
        store.db.execute("UPDATE templates SET vector = zeroblob(length(vector))")

    code, printed, log = night(night.deliveries)

    assert (code, printed) == (4, "")
    assert messages(log)[-1] == "nothing was examined or backed up; see the problems above"
    assert any("not a unit vector" in line.get("problem", "") for line in log)
    assert list(night.backups.iterdir()) == list(night.outcomes.iterdir()) == []


def test_a_step_that_fails_is_the_code_of_the_night_and_those_after_it_are_done(night):
    """Here there is no delivery; the rest is as on every night: purge where a retention is set, backup, and so on."""
    night.cli("config", "set", "retention-days", "30")
    for name in ("one.db", "two.db"):
        night.cli("backup", night.backups / name)

    code, printed, log = night(night.folder / "no such delivery", "--keep", "2")

    assert code == 2
    assert messages(log) == [
        "check: begins",
        "purge: begins",
        "batch: begins",
        "batch: failed with code 2",
        "backup: begins",
        "audit verify: begins",
        "done, with code 2",
    ]
    assert [line for line in log if "run_tracks" in line] == [{"tracks": 0, "scans": 0, "run_tracks": 0}]
    assert [path.name for path in sorted(night.backups.iterdir())][1:] == ["two.db"]
    assert json.loads(printed)[0]["last_backup"]["path"] == str(min(night.backups.iterdir()))


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "no INPUT is given: tonight's folder or manifest"),
        (["x", "--keep"], {}, "--keep needs a value; --help says how"),
        (["x", "--keep", "0"], {}, "--keep 0: a number of backups is needed"),
        (["x"], {"LIKENESS_HOME": ""}, "no --home is given"),
        (["x", "--backups", '/no/such "folder"'], {}, '--backups /no/such "folder": there is no such folder'),
        (["x", "--wokers", "1"], {}, "there is no option --wokers; options of batch stand after --"),
    ],
)
def test_wrong_usage_is_said_at_once_and_does_nothing(night, arguments, variables, message):
    code, printed, log = night(*arguments, **variables)

    assert (code, printed, len(log)) == (2, "", 1)
    assert log[0]["message"].startswith(message)


def test_help_names_every_option_and_exit_code():
    result = subprocess.run([NIGHTLY, "--help"], capture_output=True, text=True, check=True)

    for word in ("--home", "--outcomes", "--backups", "--keep", "LIKENESS_HOME", "  75 ", "  130 ", "  3 ", "Example:"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this system")
def test_the_systemd_units_are_sound_and_shut(tmp_path):
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/likeness", str(REPO)))
    service = tmp_path / "likeness-nightly.service"

    verified = subprocess.run(
        ["systemd-analyze", "verify", service, service.with_suffix(".timer")],
        capture_output=True,
        text=True,
        check=False,
    )
    exposed = subprocess.run(
        # The threshold is in tenths of a point, of 100: the lower, the less a service can do that it need not.
        ["systemd-analyze", "security", "--offline=yes", "--threshold=10", "--no-pager", service],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (verified.returncode, verified.stderr) == (0, "")
    assert exposed.returncode == 0, exposed.stdout.splitlines()[-1]
