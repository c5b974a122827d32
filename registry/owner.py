"""Who has a lease: a process, by a name that no later process can have, and whether it is gone."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
#: In place of the start time where the system does not say it.
_UNKNOWN = "-"


def this_process() -> str:
    """This process by its host, pid and start time: a pid alone may be given to another process once it has ended."""
    pid = os.getpid()
    return f"{_host()} {pid} {_start_of(pid)}"


def is_gone(owner: str) -> bool:
    """Whether the process that `this_process` named so has ended; False where that cannot be known, on other hosts."""
    host, pid, start = owner.rsplit(" ", 2)
    if host != _host():
        return False
    start_now = _start_of(int(pid))
    return start_now is None or (_UNKNOWN not in (start, start_now) and start != start_now)


def owner_text(owner: str) -> str:
    """An owner for a person: ``process 4711 on box``."""
    host, pid, _ = owner.rsplit(" ", 2)
    return f"process {pid} on {host.partition('/')[0]}"


def _host() -> str:
    # Containers on one host share its name if told to, but not their pids.
    try:
        return f"{os.uname().nodename}/{(_PROC / 'self/ns/pid').readlink()}"  # pid:[4026531836]
    except OSError:
        return os.uname().nodename


def _start_of(pid: int) -> str | None:
    """When a process began, in clock ticks since the system did; None if it has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # somebody else's
        pass
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # macOS has no /proc
        return _UNKNOWN
    # The second field is the command's name in brackets, which may hold anything; proc_pid_stat(5).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # a zombie only waits to be noticed
