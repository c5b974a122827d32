from __future__ import annotations

import subprocess
import sys

import pytest

from registry.byte_search import PIECE, find_bytes
from registry.store import Store


def test_what_lies_across_two_pieces_is_found_too(tmp_path):
    needle = b"0123456789"
    (tmp_path / "large").write_bytes(b"x" * (PIECE - 5) + needle + b"x" * 100)
    (tmp_path / "below").mkdir()
    (tmp_path / "below/small").write_bytes(b"nothing")

    assert find_bytes(tmp_path, [needle, b"absent"]) == (2, PIECE + 105 + 7, ["large"])


def test_a_name_that_is_no_text_is_searched_as_any_other(tmp_path):
    (tmp_path / "caf\udce9\n").write_bytes(b"needle")

    assert find_bytes(tmp_path, [b"needle"]) == (1, 6, ["caf\udce9\n"])


def test_a_search_that_was_not_done_is_not_taken_for_one_that_found_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(OSError, match=r"its files cannot be searched \(ended with 1\)"):
        find_bytes(tmp_path, [b"needle"])


def test_a_search_leaves_the_locks_of_an_open_registry(tmp_path):
    """Else the next command to close takes itself for the last one and deletes the log that this one writes to."""
    with Store(tmp_path, create=True) as store:
        with store.writing():
            store.set_setting("before", 1)
        find_bytes(tmp_path, [b"needle"])
        other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM meta'); c.close()"
        subprocess.run([sys.executable, "-c", other, str(store.path)], check=True)

        assert (tmp_path / "registry.db-wal").exists()
        with store.writing():
            store.set_setting("after", 2)
    with Store(tmp_path) as store:
        assert (store.setting("before"), store.setting("after")) == (1, 2)
