"""`likeness backup`, `likeness restore` and `likeness status`."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from registry import erasure
from registry.scratch import SCRATCH
from tests.cli_fakes import CONSENT, check_units

pytest_plugins = ["tests.cli_fixtures"]


@pytest.fixture
def saved(enrolled, tmp_path) -> Path:
    """A backup of a registry with Ada and Bo, and one kept recording."""
    recording = enrolled.sing("kept.wav", 1, song=4)
    arguments = ("--consent", CONSENT, "--keep-audio", "--force", "the fake encoder hears another voice at this pitch")
    assert enrolled("enroll", "Ada", recording, *arguments).exit_code == 0
    (tmp_path / "backups").mkdir()
    path = tmp_path / "backups" / "one.db"
    assert enrolled("backup", path).exit_code == 0
    return path


def names(cli, *arguments: object) -> list[str]:
    return [row["name"] for row in json.loads(cli("artists", "list", "--json", *arguments).stdout)]


def test_backup_says_what_it_wrote_and_what_it_is(enrolled, saved):
    result = enrolled("backup", saved.with_name("two.db"))

    size = saved.with_name("two.db").stat().st_size / 1000
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        f"{saved.with_name('two.db')}: {size:.1f} kB, with 1 kept recordings. Removals will name it as a place that "
        "they do not reach\n"
        "not encrypted: whoever has the file has the voiceprints\n"
    )


def test_backup_refuses_the_home_and_what_is_there(enrolled, saved):
    inside = enrolled("backup", enrolled.home / "one.db")
    there = enrolled("backup", saved)
    forced = enrolled("backup", saved, "--force")

    assert (inside.exit_code, there.exit_code, forced.exit_code) == (1, 1, 0)
    assert "lies in the registry's folder" in inside.stderr
    assert "is there already" in there.stderr


def test_backup_keeps_as_many_as_asked_for(enrolled, saved):
    for name in ("two.db", "three.db"):
        result = enrolled("backup", saved.with_name(name), "--keep", "2")

    assert f"{saved}: deleted, the newest 2 are kept" in result.stderr
    assert sorted(path.name for path in saved.parent.iterdir()) == ["three.db", "two.db"]


def test_a_removal_names_the_backups(enrolled, saved):
    result = enrolled("artists", "remove", "Bo", "--yes")

    assert str(saved) in result.stdout


def test_an_encrypted_registry_says_that_its_key_is_elsewhere(cli, tmp_path, model):
    home = tmp_path / "secret"
    key = tmp_path / "key"
    made = cli("init", "--encrypt", "--key-file", key, "--encoder", model, "--trust-model", "--home", home)
    assert made.exit_code == 0, made.stderr

    result = cli("backup", tmp_path / "one.db", "--home", home)

    assert result.exit_code == 0
    assert "encrypted; the key is not in it" in result.stderr


def test_restore_into_a_new_home_asks_nothing(enrolled, saved, tmp_path):
    result = enrolled("restore", saved, "--home", tmp_path / "new")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        f"{tmp_path / 'new'}: restored, with 2 artists and 0 scans; 0 removals made since the backup were repeated\n"
        "warning: whoever was removed since the backup is back: no receipts were given; restore again with --receipts\n"
    )
    assert names(enrolled, "--home", tmp_path / "new") == ["Ada", "Bo"]
    assert enrolled("check", "--home", tmp_path / "new").exit_code == 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_restore_over_a_registry_asks_and_says_what_is_lost(enrolled, saved):
    enrolled.enroll("Cy", 3)
    enrolled("query", enrolled.sing("t.wav", 1, song=3))
    enrolled("artists", "remove", "Bo", "--yes")

    refused = enrolled("restore", saved, stdin="n\n")
    assert names(enrolled) == ["Ada", "Cy"]
    done = enrolled("restore", saved, stdin="y\n")

    assert (refused.exit_code, done.exit_code) == (1, 0)
    assert "1 artists and 1 scans would be lost, 0 artists and 0 scans would come back; 1 removals made since are " in (
        " ".join(refused.stderr.split())
    )
    assert names(enrolled) == ["Ada"]
    assert "the audit goes on from the backup's; its entry" in done.stderr
    assert enrolled("check").exit_code == 0
    assert enrolled("audit", "verify").exit_code == 0


def test_restore_takes_receipts_where_the_registry_is_lost(enrolled, saved, tmp_path):
    receipt = tmp_path / "receipt.json"
    enrolled("artists", "remove", "Bo", "--yes", "--receipt", receipt)

    result = enrolled("restore", saved, "--receipts", receipt, "--home", tmp_path / "new")

    assert result.exit_code == 0, result.stderr
    assert "1 removals made since the backup were repeated" in result.stderr
    assert names(enrolled, "--home", tmp_path / "new") == ["Ada"]


def test_the_restored_registry_finds_its_artists(enrolled, saved, tmp_path):
    track = enrolled.sing("t.wav", 1, song=3)
    before = json.loads(enrolled("query", track, "--no-save", "--json").stdout)[0]

    enrolled("restore", saved, "--home", tmp_path / "new")
    after = json.loads(enrolled("query", track, "--no-save", "--json", "--home", tmp_path / "new").stdout)[0]

    assert before["verdict"] == after["verdict"] == "flagged"
    assert after["matches"] == before["matches"]


def test_a_restore_that_fails_makes_no_home(enrolled, tmp_path):
    (tmp_path / "text.db").write_text("this is not a backup, but it is as long as the header of one" * 9)

    result = enrolled("restore", tmp_path / "text.db", "--home", tmp_path / "a" / "new")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not the backup of a registry" in result.stderr
    assert not (tmp_path / "a").exists()


def test_a_restore_that_fails_leaves_what_lay_in_the_home(enrolled, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")

    result = enrolled("restore", tmp_path / "absent.db", "--home", tmp_path / "new")

    assert result.exit_code == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_ctrl_c_at_the_question_leaves_everything(enrolled, saved):
    process = enrolled.start("restore", saved, stdin=-1)
    while not list(enrolled.home.glob(f"{SCRATCH}*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode in (1, 130), said
    assert not list(enrolled.home.glob(f"{SCRATCH}*"))
    assert names(enrolled) == ["Ada", "Bo"]
    assert enrolled("check").exit_code == 0


def test_status_as_table_and_json(enrolled, saved):
    table = enrolled("status")
    (row,) = json.loads(enrolled("status", "--json").stdout)

    assert (table.exit_code, table.stderr) == (0, "")
    assert table.stdout.splitlines()[0].split() == ["what", "state"]
    assert "artists" in table.stdout and "2 active, 0 pending" in table.stdout
    assert (row["n_artists_active"], row["index"], row["last_backup"]["path"]) == (2, "fresh", str(saved))
    check_units(row)


def test_status_ends_well_although_a_removal_waits(enrolled, monkeypatch):
    monkeypatch.setattr(erasure, "WAIT_S", 0.1)
    monkeypatch.setattr(erasure, "LATER_WAIT_S", 0.1)
    with enrolled.store() as reader, reader.reading():
        reader.rows("SELECT * FROM artists")
        enrolled("artists", "remove", "Bo", "--yes")

        result = enrolled("status", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["pending_removals"][0]["next_step"] == "emptying the database's log"
