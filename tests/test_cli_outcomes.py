from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from registry import erasure
from registry.cli.outcomes import outcome_file, write_done
from registry.erasure import erase_track, finish_pending
from registry.redecide import decide_run
from registry.store import Store
from tests.cli_fakes import json_lines
from tests.fakes import enroll_vectors, singer
from tests.kept_runs import CALIBRATION, TRACKS, examine


@pytest.fixture
def artists(any_store, encoder) -> Store:
    """Ada, Bo and Cy, and a run over the tracks of `kept_runs`."""
    for axis, name in enumerate(["Ada", "Bo", "Cy"]):
        enroll_vectors(any_store, encoder, name, singer(axis, 12, seed=axis))
    examine(any_store, encoder)
    return any_store


def written(store: Store, run_id: int, path: Path) -> list[dict[str, Any]]:
    with outcome_file(path) as write:
        write_done(store, run_id, path, write)
    return json_lines(path.read_text(encoding="utf-8"))


def test_a_run_that_was_decided_again_has_the_rows_of_the_first_with_its_own_outcomes(artists, tmp_path):
    decided = decide_run(artists, 1, CALIBRATION, 0.001, lambda _: None)

    before, after = (written(artists, run_id, tmp_path / f"{run_id}.jsonl") for run_id in (1, decided.run_id))

    assert [list(line) for line in after] == [list(line) for line in before]
    given = ("position", "path", "title", "isrc", "uploader", "extra", "kind")
    assert [[line[name] for name in given] for line in after] == [[line[name] for name in given] for line in before]
    names = [*TRACKS, "ada.wav", "text.wav"]
    assert [(line["title"], line["extra"]) for line in after] == [(f"title of {name}", {"row": name}) for name in names]
    assert [line["outcome"] for line in before] == ["flagged", "clear", "clear", "abstained", "flagged", "failed"]
    assert [line["outcome"] for line in after] == ["clear", "clear", "clear", "abstained", "clear", "failed"]
    assert {line["scan"]["run_id"] for line in after[:-1]} == {decided.run_id}
    assert (after[-1]["reason"], after[-1]["scan"]) == ("not audio", None)


def test_a_file_is_private_and_keeps_what_it_held_until_there_is_something_to_write(artists, tmp_path):
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    old.write_text("of another day\n" * 1000, encoding="ascii")

    with outcome_file(old), outcome_file(new):
        pass

    assert old.read_text(encoding="ascii") == "of another day\n" * 1000
    assert new.stat().st_mode & 0o777 == 0o600
    assert artists.rows("SELECT * FROM reports") == []
    assert len(written(artists, 1, old)) == 6
    assert artists.rows("SELECT path, run_id FROM reports") == [{"path": str(old), "run_id": 1}]


def test_a_pipe_is_written_to_and_not_put_on_record(artists, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    with outcome_file(path) as write, os.fdopen(reader, encoding="utf-8") as file:
        write_done(artists, 1, path, write)
        lines = [json.loads(file.readline()) for _ in range(6)]

    assert [line["path"] for line in lines] == [*TRACKS, "ada.wav", "text.wav"]
    assert artists.rows("SELECT * FROM reports") == []


def test_what_is_removed_while_outcomes_are_written_is_taken_out_once_they_are(artists, tmp_path, monkeypatch):
    monkeypatch.setattr(erasure, "WAIT_S", 0.1)
    path, pending = tmp_path / "o.jsonl", []

    with outcome_file(path) as write, Store(artists.home) as other:

        def write_and_remove(line: dict[str, Any]) -> None:
            write(line)
            if not pending:
                pending.extend(erase_track(other, "mix.wav", lambda _: None)["pending"])

        write_done(artists, 1, path, write_and_remove)

    assert "taking it out of reports" in pending
    assert len(json_lines(path.read_text(encoding="utf-8"))) == 6
    finish_pending(artists, lambda _: None)
    assert [line["path"] for line in json_lines(path.read_text(encoding="utf-8"))] == [
        *("ada.wav", "nobody.wav", "short.wav", "ada.wav", "text.wav")
    ]
