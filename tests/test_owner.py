from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from registry import owner
from registry.owner import is_gone, owner_text, this_process
from tests.batches import other_process


def renamed(name: str, part: int, value: str) -> str:
    """An owner with another host (0), pid (1) or start time (2)."""
    parts = name.rsplit(" ", 2)
    parts[part] = value
    return " ".join(parts)


def test_a_process_is_there_until_it_ends():
    with other_process() as (name, process):
        assert not is_gone(name)
        assert name != this_process()
        process.kill()
        process.wait()

        assert is_gone(name)
    assert not is_gone(this_process())


def test_a_process_that_was_killed_is_gone_before_anybody_asks_what_became_of_it():
    """Until its parent does, it is a zombie and has its pid still."""
    with other_process() as (name, process):
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert is_gone(name)


def test_a_pid_that_another_process_has_now_is_no_owner():
    assert is_gone(renamed(this_process(), 2, "1"))


def test_nothing_is_known_of_another_host():
    assert not is_gone(renamed(this_process(), 0, "elsewhere"))
    assert not is_gone("elsewhere/pid:[4026531836] 999999999 1")


def test_a_command_whose_name_holds_brackets_has_its_start_time_read_right(tmp_path):
    odd = tmp_path / ") Z 1 ("
    odd.symlink_to(sys.executable)
    code = "from registry.owner import this_process, is_gone; name = this_process(); print(is_gone(name), name)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}

    done = subprocess.run([odd, "-c", code], capture_output=True, text=True, check=True, env=environment)

    gone, name = done.stdout.split(" ", 1)
    assert gone == "False"
    assert int(name.split()[-1]) > 0


def test_where_the_system_does_not_say_when_a_process_began_its_pid_decides(monkeypatch, tmp_path):
    """As on macOS, which has no /proc."""
    monkeypatch.setattr(owner, "_PROC", tmp_path)

    assert this_process().endswith(f" {os.getpid()} -")
    assert not is_gone(this_process())
    assert not is_gone(renamed(this_process(), 2, "1"))
    with other_process() as (name, process):
        unknown = this_process().replace(str(os.getpid()), str(process.pid))
        assert not is_gone(unknown)
        process.kill()
        process.wait()
        assert is_gone(unknown)
    assert not is_gone(name)  # it had another host's name, as it saw its own


def test_an_owner_is_named_for_people():
    host = os.uname().nodename

    assert owner_text(this_process()) == f"process {os.getpid()} on {host}"
    assert owner.owner_text("box 12 -") == "process 12 on box"
