"""`likeness` that kills itself or its children, as a plan says: ``python -m tests.kill_driver PLAN COMMAND ...``.

Little is imported at the top: every child of a command imports this file again.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds after which a thread kills that was started at the beginning of a commit, or of the writing of an index.
COMMIT_S = 0.002
#: A command that takes longer than this hangs.
HANG_S = 180.0


def run_command(plan: dict[str, Any], command: list[str]) -> None:
    """Run a command of `likeness` in this process, armed.

    Parameters
    ----------
    plan : dict
        encoder: a class of `tests.batches`, or "" for the real one. log: file for what is started and killed.
        place: where this process kills itself, at the call number `call`, `delay_s` after it; or "any time", at the
        Unix time `at_s`. victim: children to kill instead, `n_kills` of them, every `every_s` seconds on average.
    """
    import embeddings.encoder
    from embeddings import workers
    from registry.cli import main
    from tests import batches

    faulthandler.dump_traceback_later(HANG_S - 10, exit=True)
    if plan["encoder"]:
        embeddings.encoder.SpeechBrainEncoder = getattr(batches, plan["encoder"])  # type: ignore[misc]
    log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    children: list[tuple[str, int]] = []
    start_child = workers._Child.__init__

    def start_and_note(child: Any, *arguments: Any) -> None:
        start_child(child, *arguments)
        children.append(("encoder" if isinstance(child, workers.EncoderProcess) else "decoder", child.pid))
        os.write(log, f"started {child.pid}\n".encode())

    workers._Child.__init__ = start_and_note  # type: ignore[method-assign]
    if plan.get("place") == "any time":
        kill_soon(max(0.0, plan["at_s"] - time.time()))
    elif "place" in plan:
        kill_at(plan["place"], plan["call"], plan["delay_s"], is_batch=command[0] == "batch")
    if "victim" in plan:
        threading.Thread(target=hunt, args=(plan, children, log), daemon=True).start()
    main(command, prog_name="likeness")


def kill_soon(delay_s: float) -> None:
    def kill() -> None:
        time.sleep(delay_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def kill_at(place: str, call: int, delay_s: float, *, is_batch: bool) -> None:
    """Let this process kill itself when it comes to a place for the `call`-th time."""
    import sqlite_utils

    from embeddings.workers import EncoderProcess
    from registry import enroll, match, pipeline

    numbers = itertools.count(1)
    owner, name = {
        "after embed": (EncoderProcess, "receive") if is_batch else (enroll, "embed_file"),
        "before write": (pipeline.runs, "finish_track") if is_batch else (enroll, "_write"),
        "inside commit": (sqlite_utils.Database, "execute"),
        "after commit": (sqlite_utils.Database, "execute"),
        "during index write": (match, "write_index"),
    }[place]
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if "commit" in place and arguments[1:] != ("COMMIT",):
            return original(*arguments, **options)
        is_last = next(numbers) == call
        if is_last and place == "before write":
            os.kill(os.getpid(), signal.SIGKILL)
        if is_last and place in ("inside commit", "during index write"):
            kill_soon(delay_s)
        result = original(*arguments, **options)
        if is_last and place.startswith("after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def hunt(plan: dict[str, Any], children: list[tuple[str, int]], log: int) -> None:
    """Kill a child now and then."""
    rng, n_left = random.Random(plan["seed"]), plan["n_kills"]
    while n_left:
        time.sleep(rng.uniform(0, 2 * plan["every_s"]))
        if pids := [pid for kind, pid in children if kind == plan["victim"] and is_running(pid)]:
            os.kill(rng.choice(pids), signal.SIGKILL)
            os.write(log, b"killed\n")
            n_left -= 1


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


if __name__ == "__main__":
    run_command(json.loads(sys.argv[1]), sys.argv[2:])
