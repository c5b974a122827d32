from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from registry.files import folders_undone_on_failure, write_private


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_private_file_is_synced_and_so_is_its_folder(tmp_path, monkeypatch):
    synced = []
    real_fsync = os.fsync

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real_fsync(descriptor)

    monkeypatch.setattr("registry.files.os.fsync", fsync)

    write_private(tmp_path / "new/file", b"content")

    assert (tmp_path / "new/file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "new/file").stat().st_mode) == 0o600
    assert synced == [False, True]


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")

    with pytest.raises(FileExistsError, match="File exists"):
        write_private(tmp_path / "file", b"content")

    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_file_where_the_folder_would_be_is_named(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError, match=r"Not a directory: '.*/file'"):
        write_private(tmp_path / "file/below", b"content")


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path):
    (tmp_path / "file").symlink_to("elsewhere")

    with pytest.raises(FileExistsError, match="File exists"):
        write_private(tmp_path / "file", b"content")

    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt("Ctrl-C")])
def test_a_write_that_fails_leaves_neither_file_nor_folder(tmp_path, monkeypatch, error):
    def fail(descriptor):
        raise error

    monkeypatch.setattr("registry.files.os.fsync", fail)

    with pytest.raises(type(error), match=error.args[-1]):
        write_private(tmp_path / "deep/er/file", b"content")

    assert names_in(tmp_path) == []


def test_folders_that_were_there_or_that_others_use_stay(tmp_path):
    (tmp_path / "there").mkdir()

    with pytest.raises(RuntimeError, match="no"), folders_undone_on_failure(tmp_path / "there/new/er/file"):
        (tmp_path / "there/new/er").mkdir(parents=True)
        (tmp_path / "there/new/other").touch()
        raise RuntimeError("no")

    assert names_in(tmp_path) == ["there", "there/new", "there/new/other"]


def test_nothing_is_undone_where_all_went_well(tmp_path):
    with folders_undone_on_failure(tmp_path / "new/file"):
        (tmp_path / "new").mkdir()

    assert names_in(tmp_path) == ["new"]
