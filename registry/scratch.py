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


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A private folder in `folder` that is gone afterwards, as are those that killed processes left there."""
    with ExitStack() as at_end:
        with _guarded(folder):  # or another process could take the new one for abandoned before it is locked
            _delete_abandoned(folder)
            scratch = folder / f"{SCRATCH}{secrets.token_hex(8)}"
            at_end.callback(shutil.rmtree, scratch, ignore_errors=True)
            scratch.mkdir(mode=0o700)
            at_end.enter_context(_guarded(scratch))
        yield scratch


def delete_abandoned(folder: Path) -> None:
    """Delete the scratch folders that killed processes left in a folder."""
    with _guarded(folder):
        _delete_abandoned(folder)


def _delete_abandoned(folder: Path) -> None:
    for abandoned in folder.glob(f"{SCRATCH}*"):
        with suppress(OSError), _opened(abandoned) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the process that made it lives
            shutil.rmtree(abandoned)


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """A folder, locked."""
    with _opened(folder) as descriptor:
        with suppress(OSError):  # not every file system has locks; where there are none, nothing is deleted either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
