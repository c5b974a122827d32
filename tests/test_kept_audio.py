from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path

import pytest

from registry.check import find_problems
from registry.enroll import enroll_recording
from registry.errors import RegistryError, StoreDamaged
from registry.identity import merge_artists, split_artist, undo_change
from registry.kept_audio import KEPT_AUDIO, RecordingChanged, kept_copy, read_copy
from registry.match import write_store_index
from registry.store import Store
from registry.vault import CHUNK_BYTES, sealed_size
from tests.fakes import CONSENT, files_holding, make_voiceprint, singer

MARK = b"what is sung in this recording "


@pytest.fixture
def store(any_store) -> Store:
    return any_store


@pytest.fixture
def recording(tmp_path) -> Path:
    """More than two chunks of a sealed stream, and not a whole number of them."""
    path = tmp_path / "Ada's song.WAV"
    path.write_bytes(MARK * (2 * CHUNK_BYTES // len(MARK) + 100))
    return path


@pytest.fixture
def enroll(store, encoder, monkeypatch):
    """A function that enrolls a file that need not be audio, keeping a copy, and gives the reference's number."""

    def enroll_kept(artist: str, path: Path, song: int) -> int:
        monkeypatch.setattr(
            "registry.enroll.embed_file", lambda *_, **__: make_voiceprint(singer(0, seed=song), f"{song}")
        )
        outcome = enroll_recording(store, encoder, artist, path, CONSENT, keep_audio=True)
        assert outcome.reference_id is not None
        return outcome.reference_id

    return enroll_kept


def read(store: Store, reference_id: int) -> bytes:
    target = io.BytesIO()
    read_copy(store, reference_id, target)
    return target.getvalue()


def kept_file(store: Store, reference_id: int = 1) -> Path:
    kept_paths = {reference.reference_id: reference.kept_path for reference in store.references()}
    return store.home / kept_paths[reference_id]


def test_a_copy_comes_back_byte_for_byte(store, enroll, recording):
    number = enroll("Ada", recording, 0)

    assert read(store, number) == recording.read_bytes()


def test_a_copy_is_private_and_its_name_says_nothing(store, enroll, recording):
    recording.chmod(0o666)
    old = os.umask(0)
    try:
        enroll("Ada", recording, 0)
    finally:
        os.umask(old)

    kept = kept_file(store)
    assert re.fullmatch(r"[0-9a-f]{32}\.wav", kept.name)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (kept, kept.parent)] == [0o600, 0o700]
    assert list(kept.parent.iterdir()) == [kept]


def test_a_copy_is_sealed_where_the_registry_is_encrypted(store, enroll, recording):
    enroll("Ada", recording, 0)

    kept, n_bytes = kept_file(store), recording.stat().st_size
    if store.encryption is None:
        assert kept.read_bytes() == recording.read_bytes()
    else:
        assert kept.stat().st_size == sealed_size(n_bytes)
        assert files_holding(store.home, MARK) == []


@pytest.mark.parametrize("content", [b"", b"x"])
def test_the_smallest_files_come_back(store, enroll, tmp_path, content):
    path = tmp_path / "small.wav"
    path.write_bytes(content)

    assert read(store, enroll("Ada", path, 0)) == content


def test_copies_move_with_their_references(store, enroll, recording):
    """The key of a copy is sealed with its artist's, who is another one after a merge or split."""
    for song, artist in enumerate(("Ada", "Ada", "Bo")):
        enroll(artist, recording, song)
    content = recording.read_bytes()

    merge = merge_artists(store, "Ada", "Bo")
    after_merge = [read(store, number) == content for number in (1, 2, 3)]
    undo_change(store, merge)
    split_artist(store, "Ada", [2], "Cy")
    after_split = [read(store, number) == content for number in (1, 2, 3)]

    assert (after_merge, after_split) == ([True] * 3, [True] * 3)
    write_store_index(store, print)
    assert find_problems(store) == []


@pytest.mark.parametrize("harm", ["flip", "cut", "swap"])
def test_a_sealed_copy_that_was_changed_does_not_open(encrypted_store, encoder, monkeypatch, tmp_path, harm):
    songs = [tmp_path / "0.wav", tmp_path / "1.wav"]
    for k, path in enumerate(songs):
        path.write_bytes(MARK * (k + 1))
        monkeypatch.setattr("registry.enroll.embed_file", lambda *_, n=k, **__: make_voiceprint(singer(n), f"{n}"))
        enroll_recording(encrypted_store, encoder, "Ada", path, CONSENT, keep_audio=True)
    kept = kept_file(encrypted_store)
    content = bytearray(kept.read_bytes())
    if harm == "flip":
        content[40] ^= 1
    kept.write_bytes({"flip": content, "cut": content[:-1], "swap": kept_file(encrypted_store, 2).read_bytes()}[harm])

    with pytest.raises(StoreDamaged, match=rf"{re.escape(str(kept))}: is not what was enrolled as reference 1"):
        read(encrypted_store, 1)


def test_a_copy_that_is_gone_is_named(store, enroll, recording):
    number = enroll("Ada", recording, 0)
    kept = kept_file(store)
    kept.unlink()

    with pytest.raises(
        StoreDamaged, match=rf"{re.escape(str(kept))}: the copy of reference 1 cannot be read \(No such file"
    ):
        read(store, number)


def test_what_fails_afterwards_takes_the_copy_away(store, recording):
    with (
        pytest.raises(KeyboardInterrupt, match="later"),
        kept_copy(store, recording, recording.stat()) as (kept_path, key),
    ):
        assert (store.home / kept_path).is_file()
        assert (key is None) == (store.encryption is None)
        raise KeyboardInterrupt("later")

    assert list((store.home / KEPT_AUDIO).iterdir()) == []


@pytest.mark.parametrize("fault", ["the disk is full", "the recording is gone"])
def test_a_copy_that_cannot_be_made_is_said_and_leaves_nothing(store, recording, monkeypatch, fault):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if fault == "the disk is full":
        monkeypatch.setattr("registry.kept_audio.os.fsync", fail)
        reason = "No space left on device"
    seen = recording.stat()
    if fault == "the recording is gone":
        recording.unlink()
        reason = "No such file or directory"

    refused = pytest.raises(
        RegistryError, match=rf"song\.WAV: could not be copied into .*audio \({reason}\); it is not"
    )
    with refused, kept_copy(store, recording, seen):
        pass

    assert list((store.home / KEPT_AUDIO).iterdir()) == []


def test_a_recording_that_was_swapped_meanwhile_is_not_kept(store, recording):
    seen = recording.stat()
    recording.write_bytes(recording.read_bytes() + b"more")

    with pytest.raises(RecordingChanged, match="was changed while it was read"), kept_copy(store, recording, seen):
        pass

    assert list((store.home / KEPT_AUDIO).iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_copy(store, recording, enroll):
    enroll("Ada", recording, 0)
    left = store.home / KEPT_AUDIO / "left-by-a-killed-process.wav"
    left.write_bytes(b"a voice")

    with kept_copy(store, recording, recording.stat()) as (kept_path, _):
        assert sorted(path.name for path in left.parent.iterdir()) == sorted(
            [kept_file(store).name, kept_path.split("/")[1]]
        )
