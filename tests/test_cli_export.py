from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.cli_fakes import DIM, check_units, json_lines

pytest_plugins = ["tests.cli_fixtures"]


@pytest.fixture
def used(enrolled):
    """A registry in which two tracks were examined."""
    enrolled("query", enrolled.sing("t.wav", 1, song=3), enrolled.sing("u.wav", 3))
    return enrolled


def test_export_is_one_json_object_a_line_for_everything_but_vectors(used):
    result = used("export")

    records = json_lines(result.stdout)
    check_units(records)
    assert (result.exit_code, result.stderr) == (0, "")
    assert Counter(record["type"] for record in records) == {"artist": 2, "reference": 4, "scan": 2}
    assert "vector" not in result.stdout
    assert [(r["verdict"], r["matches"][0]["artist"]) for r in records if r["type"] == "scan"] == [
        ("flagged", "Ada"),
        ("clear", "Ada"),
    ]


def test_vectors_are_exported_only_when_asked_for(used):
    templates = [record for record in json_lines(used("export", "--vectors").stdout) if record["type"] == "template"]

    with used.store() as store:
        ids, vectors = store.template_vectors()
    assert [record["template_id"] for record in templates] == ids.tolist()
    np.testing.assert_array_equal(np.array([record["vector"] for record in templates], np.float32), vectors)
    assert vectors.shape == (2, DIM)


def test_export_to_a_file_writes_what_stdout_would_get(used):
    path = used.folder / "registry.jsonl"

    result = used("export", "--output", path)

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert path.read_text(encoding="utf-8") == used("export").stdout
    assert path.stat().st_mode & 0o777 == 0o600


def test_export_into_a_folder_that_is_not_there_is_refused(used):
    result = used("export", "--output", used.folder / "no/registry.jsonl")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {used.folder}/no/registry.jsonl: cannot be written (No such file or directory)\n"


def test_an_export_that_fails_leaves_the_earlier_file(used, monkeypatch):
    path = used.folder / "registry.jsonl"
    path.write_text("earlier")
    monkeypatch.setattr("registry.scans.find_scans", lambda store: 1 / 0)

    with pytest.raises(ZeroDivisionError, match="division"):
        used("export", "--output", path)

    assert path.read_text() == "earlier"
    assert not path.with_name("registry.jsonl.part").exists()


def test_what_is_no_file_is_written_to_and_never_replaced(used):
    fifo = used.folder / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    result = used("export", "--output", fifo)

    received = os.read(reader, 1 << 20).decode()
    os.close(reader)
    assert (result.exit_code, result.output) == (0, "")
    assert received == used("export").stdout
    assert fifo.is_fifo()
    assert not fifo.with_name("fifo.part").exists()


def test_an_export_that_a_full_device_refuses_is_refused(used):
    """`/dev/full` takes nothing; root could replace it by a file."""
    result = used("export", "--output", "/dev/full")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: /dev/full: cannot be written (No space left on device)\n"
    assert Path("/dev/full").is_char_device()


def test_a_name_too_long_for_a_part_beside_it_is_refused(used):
    path = used.folder / ("x" * 253)

    result = used("export", "--output", path)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {path}: cannot be written (File name too long)\n"


def test_an_empty_registry_exports_nothing(cli):
    result = cli("export", "--vectors")

    assert (result.exit_code, result.stdout) == (0, "")
