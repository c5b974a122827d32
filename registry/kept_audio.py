"""Copies of enrolled recordings in the home, private to its owner, and sealed where the registry is encrypted."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from registry.errors import RegistryError, StoreDamaged
from registry.records import storable
from registry.store import Store

KEPT_AUDIO = "audio"
_WHAT = b"kept audio"


class RecordingChanged(RegistryError):
    """A recording is not the file any more that was embedded."""


def keep_copy(store: Store, path: Path, seen: os.stat_result, on_failure: ExitStack) -> tuple[str, bytes | None]:
    """Copy a recording into the home under a random name; `on_failure` deletes the copy.

    The copy comes before its reference: a crash between the two leaves a file too many, which `check` names, not too
    few.

    Parameters
    ----------
    seen : os.stat_result
        Of the file before it was read; what is copied must be the same.

    Raises
    ------
    RecordingChanged
        It is another file by now.
    RegistryError
        It cannot be copied.

    Returns
    -------
    kept_path : str
        Relative to the home.
    key : bytes or None
        What the copy is sealed with, for `store.seal` with the artist's key; None where nothing is encrypted.
    """
    folder = store.home / KEPT_AUDIO
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / storable(f"{secrets.token_hex(16)}{path.suffix.lower()}")
    key = None if store.vault is None else secrets.token_bytes(32)
    on_failure.callback(kept.unlink, missing_ok=True)
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
            f"{path}: could not be copied into {folder} ({error.strerror}); it is not enrolled. Free some space, "
            "or go without --keep-audio"
        ) from error
    return str(kept.relative_to(store.home)), key


def read_copy(store: Store, reference_id: int, target: BinaryIO) -> None:
    """Write the kept copy of a reference to `target` as it was enrolled.

    Raises
    ------
    StoreDamaged
        The copy is gone, cannot be read, or is not what was sealed; `target` may hold a part of it.
    """
    (row,) = store.rows(
        "SELECT artist_id, kept_path, kept_key FROM artist_references WHERE reference_id = ?", [reference_id]
    )
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


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # for a FIFO that has come into the recording's place


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
