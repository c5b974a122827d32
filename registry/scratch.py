"""Folders for what is half done, beside a backup that is being written and in a home that is being restored.

They hold voiceprints, also of who has been removed since, so none may stay: a folder is locked while its process lives,
and whoever meets one that is not deletes it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SCRATCH = ".likeness-scratch-"
#: In each, locked while its process lives.
_ALIVE = ".alive"


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A private folder in `folder` that is gone afterwards, as are those that killed processes left there."""
    with ExitStack() as at_end:
        with _locked(folder, os.O_DIRECTORY):  # or another process could delete the new one before it is locked
            _delete_abandoned(folder)
            scratch = folder / f"{SCRATCH}{secrets.token_hex(8)}"
            at_end.callback(shutil.rmtree, scratch, ignore_errors=True)
            scratch.mkdir(mode=0o700)
            # A file in it, not the folder itself: that may serve as a home, whose folder is locked for moments.
            at_end.enter_context(_locked(scratch / _ALIVE, os.O_CREAT))
        yield scratch


def delete_abandoned(folder: Path) -> None:
    """Delete the scratch folders that killed processes left in a folder."""
    with _locked(folder, os.O_DIRECTORY):
        _delete_abandoned(folder)


def _delete_abandoned(folder: Path) -> None:
    for abandoned in folder.glob(f"{SCRATCH}*"):
        with suppress(OSError), _opened(abandoned / _ALIVE, os.O_CREAT) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the process that made it lives
            shutil.rmtree(abandoned)


@contextmanager
def _locked(path: Path, flags: int) -> Iterator[None]:
    """A file or folder, locked."""
    with _opened(path, flags) as descriptor:
        with suppress(OSError):  # not every file system has locks; where there are none, nothing is deleted either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
