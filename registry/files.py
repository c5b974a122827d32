"""Files that are private to their owner, whole or not there, and still there after a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600, in a folder that is made where it is absent.

    Raises
    ------
    FileExistsError
        Something is there already; it is left alone.
    OSError
        It cannot be written; nothing is left of it.
    """
    with folders_undone_on_failure(path):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:  # of the folder, not of the file
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            sync_directory(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextmanager
def folders_undone_on_failure(path: Path) -> Iterator[None]:
    """On an error inside, the folders above `path` that came to be in it go again, unless something else is in them."""
    absent = [folder for folder in path.parents if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in absent:
            with suppress(OSError):
                folder.rmdir()
        raise


def sync_directory(directory: Path) -> None:
    """Make what was made or renamed in a directory outlast a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot; the file itself is written all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
