"""Search every byte under a folder, in a process of its own: the last check of a removal.

Closing any descriptor of a file drops every lock that the process holds on it (https://sqlite.org/howtocorrupt.html,
2.2). A command that read the database's files by itself would lose SQLite's own locks without knowing; another command,
taking itself for the last one there, would then delete the log and its shared memory from under the first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: Bytes read at a time.
PIECE = 2**24


class Found(NamedTuple):
    """How many files and bytes were searched, and the files, as paths below the folder, that hold a mark."""

    n_files: int
    n_bytes: int
    paths: list[str]


def find_bytes(folder: Path, marks: Sequence[bytes]) -> Found:
    """Search every regular file below `folder` for any of `marks`, also for one that lies across two pieces.

    Raises
    ------
    OSError
        A file cannot be read. One that is deleted meanwhile is passed over.
    """
    # The marks are bits of voiceprints: they go by a pipe, never by arguments, which every user of the machine can see.
    task = json.dumps({"folder": str(folder), "marks": [mark.hex() for mark in marks]})
    # -I: nothing but the standard library is needed, and nothing of the working folder is to be imported.
    command = [sys.executable, "-I", __file__]
    done = subprocess.run(command, input=task, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        raise OSError(f"{folder}: its files cannot be searched ({reason[0]})")
    return Found(*json.loads(done.stdout))


def _search(folder: Path, marks: Sequence[bytes]) -> Found:
    n_files, n_bytes, paths = 0, 0, []
    overlap = max(map(len, marks), default=1) - 1
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        n_files += 1
        with suppress(FileNotFoundError), path.open("rb") as file:  # of another command, gone meanwhile
            tail = b""
            while piece := file.read(PIECE):
                n_bytes += len(piece)
                if any(mark in tail + piece for mark in marks):
                    paths.append(str(path.relative_to(folder)))
                    break
                tail = piece[-overlap:] if overlap else b""
    return Found(n_files, n_bytes, paths)


if __name__ == "__main__":
    task = json.load(sys.stdin)
    print(json.dumps(_search(Path(task["folder"]), [bytes.fromhex(mark) for mark in task["marks"]])))
