"""`likeness check` and `likeness rebuild-index`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.cli_fakes import CONSENT

pytest_plugins = ["tests.cli_fixtures"]


def digests(home: Path) -> dict[str, str]:
    """What is in every file of a registry but the log of SQLite, which comes and goes."""
    files = [path for path in home.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)


def test_check_says_what_is_sound_and_changes_nothing(enrolled):
    before = digests(enrolled.home)

    result = enrolled("check")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{enrolled.home}: sound; 2 artists, 2 templates\n"
    assert digests(enrolled.home) == before
    assert enrolled("check", "--json").stdout == "[]\n"


def test_an_empty_registry_is_sound(cli):
    assert (cli("check").exit_code, cli("rebuild-index").exit_code) == (0, 0)


def test_a_damaged_index_is_found_and_rebuilt(enrolled):
    flip(enrolled.home / "index.faiss", -10)

    check = enrolled("check", "--json")
    rebuilt = enrolled("rebuild-index")

    assert check.exit_code == 4
    (problem,) = json.loads(check.stdout)
    assert problem["where"] == "index"
    assert "sha256" in problem["problem"]
    assert problem["problem"].count("run `likeness rebuild-index`") == 1
    assert (rebuilt.exit_code, rebuilt.stdout) == (0, "")
    assert rebuilt.stderr == f"{enrolled.home}: index of 2 templates written\n"
    assert enrolled("check").exit_code == 0


@pytest.mark.parametrize("harm", ["flip", "delete"])
def test_a_query_mends_the_index_by_itself_and_says_so(enrolled, harm):
    index = enrolled.home / "index.faiss"
    if harm == "flip":
        flip(index, -10)
    else:
        index.unlink()

    result = enrolled("query", enrolled.sing("t.wav", 1, song=3), "--json")

    assert (result.exit_code, json.loads(result.stdout)[0]["verdict"]) == (0, "flagged")
    assert "index" in result.stderr
    assert enrolled("check").exit_code == 0


def test_a_damaged_template_is_named(enrolled):
    with enrolled.store() as store, store.writing():
        store.db.execute("UPDATE templates SET vector = zeroblob(length(vector)) WHERE artist_id = 2")
        template_id = store.template_vectors()[0][1]

    result = enrolled("check", "--json")

    assert result.exit_code == 4
    problems = [f"{problem['where']}: {problem['problem']}" for problem in json.loads(result.stdout)]
    assert any(text.startswith(f"database: template {template_id}: not a unit vector of 16") for text in problems)


def test_audio_that_was_kept_and_is_gone_is_named(enrolled):
    enrolled("enroll", "Cy", enrolled.sing("k.wav", 3), "--consent", CONSENT, "--keep-audio")
    (kept,) = (enrolled.home / "audio").iterdir()
    kept.rename(kept.with_name("stray.wav"))

    result = enrolled("check", "--json")

    assert result.exit_code == 4
    assert [(p["where"], p["problem"]) for p in json.loads(result.stdout)] == [
        ("kept audio", f"audio/{kept.name}: missing"),
        ("kept audio", "audio/stray.wav: belongs to no reference; delete it"),
    ]


def test_a_database_with_a_torn_page_is_damaged_not_ours(enrolled):
    with enrolled.store() as store:
        store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    database = enrolled.home / "registry.db"
    content = bytearray(database.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    database.write_bytes(content)

    result = enrolled("check")

    assert result.exit_code == 4
    assert "database" in result.stdout or "likeness check" in result.stderr


def test_a_changed_audit_is_found(enrolled):
    with enrolled.store() as store, store.writing():
        store.db.execute("UPDATE audit SET at = '2020-01-01T00:00:00Z' WHERE seq = 3")

    result = enrolled("check", "--json")

    assert result.exit_code == 4
    assert json.loads(result.stdout) == [{"where": "audit", "problem": "entry 3 was changed"}]


@pytest.mark.parametrize("command", [["check"], ["artists", "list"], ["query", "x.wav"], ["rebuild-index"]])
def test_a_file_that_is_no_database_is_damage(enrolled, command):
    for path in enrolled.home.glob("registry.db*"):
        path.unlink()
    (enrolled.home / "registry.db").write_bytes(b"this is not a database, but it is as long as a header" * 99)

    result = enrolled(*command)

    assert (result.exit_code, result.stdout) == (4, "")
    assert "registry.db" in result.stderr
