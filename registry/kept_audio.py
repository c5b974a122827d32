"""Copies of enrolled recordings in the home, private to its owner, and sealed where the registry is encrypted."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from registry.errors import RegistryError, StoreDamaged
from registry.records import storable
from registry.store import Store

KEPT_AUDIO = "audio"
_WHAT = b"kept audio"


class RecordingChanged(RegistryError):
    """A recording is not the file any more that was embedded."""


@contextmanager
def kept_copy(store: Store, path: Path, seen: os.stat_result) -> Iterator[tuple[str, bytes | None]]:
    """Copy a recording into the home under a random name; commit its reference inside, or the copy is deleted again.

    Where a process is killed inside, the copy stays until the next one comes, which deletes what no reference names.

    Parameters
    ----------
    seen : os.stat_result
        Of the file before it was read; what is copied must be the same.

    Yields
    ------
    kept_path : str
        Relative to the home.
    key : bytes or None
        What the copy is sealed with, for `store.seal` with the artist's key; None where nothing is encrypted.

    Raises
    ------
    RecordingChanged
        It is another file by now.
    RegistryError
        It cannot be copied.
    """
    with audio_locked(store.home) as folder:
        delete_orphans(store)
        kept = folder / storable(f"{secrets.token_hex(16)}{path.suffix.lower()}")
        key = None if store.vault is None else secrets.token_bytes(32)
        try:
            _copy(path, kept, seen, key)
            yield str(kept.relative_to(store.home)), key
        except BaseException:
            kept.unlink(missing_ok=True)
            raise


@contextmanager
def audio_locked(home: Path) -> Iterator[Path]:
    """The folder of kept audio, made where it is absent, while nobody else puts copies into it or takes them away."""
    folder = home / KEPT_AUDIO
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)


def delete_orphans(store: Store) -> None:
    """Delete copies that no reference names, left by a process that was killed; call inside `audio_locked`."""
    named = {
        row["kept_path"] for row in store.rows("SELECT kept_path FROM artist_references WHERE kept_path IS NOT NULL")
    }
    for path in (store.home / KEPT_AUDIO).iterdir():
        if str(path.relative_to(store.home)) not in named:
            path.unlink(missing_ok=True)


def _copy(path: Path, kept: Path, seen: os.stat_result, key: bytes | None) -> None:
    try:
        with open(path, "rb", opener=_without_waiting) as source, open(kept, "wb", opener=_private) as target:
            if _identity(os.fstat(source.fileno())) != _identity(seen):
                raise RecordingChanged("it was changed while it was read, so it is not enrolled; enroll it again")
            if key is None:
                shutil.copyfileobj(source, target)
            else:
                from registry.vault import seal_stream

                seal_stream(key, _WHAT, source, target)
            target.flush()
            os.fsync(target.fileno())
    except OSError as error:
        raise RegistryError(
            f"{path}: could not be copied into {kept.parent} ({error.strerror}); it is not enrolled. Free some space, "
            "or go without --keep-audio"
        ) from error


def read_copy(store: Store, reference_id: int, target: BinaryIO) -> None:
    """Write the kept copy of a reference to `target` as it was enrolled.

    Raises
    ------
    StoreDamaged
        The copy is gone, cannot be read, or is not what was sealed; `target` may hold a part of it.
    """
    row = _kept(store, reference_id)
    kept = store.home / row["kept_path"]
    try:
        source = kept.open("rb")
    except OSError as error:
        raise StoreDamaged(f"{kept}: the copy of reference {reference_id} cannot be read ({error.strerror})") from error
    with source:
        if row["kept_key"] is None:
            shutil.copyfileobj(source, target)
            return
        from registry.vault import SealBroken, open_stream

        try:
            open_stream(store.unseal(row["artist_id"], row["kept_key"], "audio key"), _WHAT, source, target)
        except SealBroken as error:
            raise StoreDamaged(f"{kept}: is not what was enrolled as reference {reference_id}") from error


def _kept(store: Store, reference_id: int) -> dict[str, Any]:
    rows = store.rows(
        "SELECT artist_id, kept_path, kept_key FROM artist_references WHERE reference_id = ?", [reference_id]
    )
    if not rows:
        raise StoreDamaged(f"reference {reference_id}: is not on record any more")
    return rows[0]


@contextmanager
def readable_copy(store: Store, reference_id: int) -> Iterator[Path]:
    """A path at which the kept copy of a reference can be read, also by another process, while this is open.

    A copy that is sealed is opened in memory, where no kill leaves it behind.

    Raises
    ------
    StoreDamaged
        As `read_copy` raises it.
    """
    row = _kept(store, reference_id)
    if row["kept_key"] is None:
        yield store.home / row["kept_path"]
        return
    with _in_memory() as (file, path):
        read_copy(store, reference_id, file)
        file.flush()
        yield path


@contextmanager
def _in_memory() -> Iterator[tuple[BinaryIO, Path]]:
    """A file without a name, and a path to it."""
    if sys.platform == "linux":
        with os.fdopen(os.memfd_create("likeness"), "w+b") as file:
            yield file, Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
    else:  # in a folder of the user's own
        with tempfile.NamedTemporaryFile() as file:
            yield cast(BinaryIO, file), Path(file.name)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # for a FIFO that has come into the recording's place


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
