"""Finding recordings in folders; what manifests may hold is tested beside batches, in `test_batch`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from embeddings.audio import open_audio
from embeddings.errors import InvalidAudio
from registry.errors import ManifestError
from registry.manifest import MAX_NESTING, find_recordings, list_items


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_recordings(folder)]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def too_deep(folder: Path) -> tuple[Path, Path]:
    """Folders so deep that the innermost cannot be listed by its path, not even by root: (outermost, innermost)."""
    path, descriptor = folder, os.open(folder, os.O_DIRECTORY)
    while len(os.fsencode(path)) <= os.pathconf("/", "PC_PATH_MAX"):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        path, descriptor = path / ("d" * 200), inner
    os.close(descriptor)
    return folder / ("d" * 200), path


def test_recordings_are_found_at_any_depth_in_order(tmp_path):
    for name in ("b.wav", "a.FLAC", "z/y/c.mp3", "notes.txt", "folder.wav/d.ogg"):
        touch(tmp_path / name)

    assert names(tmp_path) == ["a.FLAC", "b.wav", "folder.wav/d.ogg", "z/y/c.mp3"]


def test_links_to_files_are_found_and_links_to_folders_not_followed(tmp_path):
    song = touch(tmp_path / "in/a.wav")
    (tmp_path / "in/link.wav").symlink_to(song)
    (tmp_path / "in/broken.wav").symlink_to("nothing.wav")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "given").symlink_to(tmp_path / "in")

    assert names(tmp_path / "in") == ["a.wav", "broken.wav", "link.wav"]
    assert names(tmp_path / "given") == ["a.wav", "broken.wav", "link.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_without_permission_is_among_the_recordings(tmp_path):
    touch(tmp_path / "a.wav")
    locked = touch(tmp_path / "locked/b.wav").parent
    locked.chmod(0)
    try:
        assert names(tmp_path) == ["a.wav", "locked"]
        assert find_recordings(locked) == [locked]
        with pytest.raises(InvalidAudio, match="cannot be read: Permission denied"):
            open_audio(locked)
    finally:
        locked.chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_among_the_recordings_and_fails_as_one(tmp_path):
    touch(tmp_path / "a.wav")
    _, innermost = too_deep(tmp_path)

    assert find_recordings(tmp_path) == [tmp_path / "a.wav", innermost]
    with pytest.raises(InvalidAudio, match="cannot be read: File name too long") as caught:
        open_audio(innermost)
    assert caught.value.kind == "unreadable"


def test_a_fifo_as_a_manifest_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.csv")

    with pytest.raises(ManifestError, match=r"m\.csv: not a regular file"):
        list_items([tmp_path / "m.csv"])


def test_a_header_without_an_end_is_not_repeated_whole(tmp_path):
    (tmp_path / "m.csv").write_text(", ".join(f"column{i}" for i in range(10_000)) + "\n")

    with pytest.raises(ManifestError, match=r"no column `path` in the header") as caught:
        list_items([tmp_path / "m.csv"])
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


def test_lists_in_lists_are_kept_to_a_depth_that_can_be_read_everywhere(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"path": "a.wav", "x": ' + "[" * (MAX_NESTING - 1) + "]" * (MAX_NESTING - 1) + "}\n")
    assert len(list_items([manifest])) == 1

    for depth in (MAX_NESTING, 500):
        manifest.write_text('{"path": "a.wav", "x": ' + "[" * depth + "]" * depth + "}\n")
        with pytest.raises(ManifestError, match="line 1: lists or objects in each other, at most 50 deep are kept"):
            list_items([manifest])
