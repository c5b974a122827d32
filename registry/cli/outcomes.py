"""The file that outcomes of a run are written to, for `likeness batch` and `likeness decide`."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from registry.store import Store


@contextmanager
def outcome_file(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes one outcome to the file, or to stdout, at once; what the file held stays until `write_done`."""
    from registry.errors import RegistryError

    def to_stdout(line: dict[str, Any]) -> None:
        click.echo(json.dumps(line))

    if path is None:
        yield to_stdout
        return

    def to_file(line: dict[str, Any]) -> None:
        try:
            file.write(json.dumps(line) + "\n")
            file.flush()
        except OSError as error:
            with suppress(OSError):  # closing tries to write the rest once more
                file.close()
            raise RegistryError(f"{path}: cannot be written ({error.strerror}); free some space") from error

    try:
        descriptor = _open_alone(path)
    except BlockingIOError as error:
        raise RegistryError(f"{path}: another process writes to it; give this one another --output") from error
    except OSError as error:
        raise RegistryError(f"{path}: cannot be written ({error.strerror}); nothing was examined or decided") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yield to_file


def _open_alone(path: Path) -> int:
    """Open a file for writing at its end; raises `BlockingIOError` if another process writes outcomes to it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        pass
    return descriptor


def write_done(store: Store, run_id: int, path: Path, write: Callable[[dict[str, Any]], None]) -> None:
    """Write what is decided of a run, over what the file held, which is on record before its first line.

    Parameters
    ----------
    path, write
        What `outcome_file` was given, and what it gave.
    """
    from registry.batch import outcome_line
    from registry.runs import add_report, run_tracks
    from registry.scans import get_scan

    if path.is_file():  # not a pipe or a terminal
        add_report(store, run_id, path)
        os.truncate(path, 0)
    with store.reading():  # what is removed meanwhile is taken out of the file once that is closed
        for item in run_tracks(store, run_id, done=True):
            write(outcome_line(item, None if item["scan_id"] is None else get_scan(store, item["scan_id"])))
