"""Kill the processes of batches and enrolments, and see whether anything is lost, doubled or unsound afterwards.

`Trial` is a registry with tracks to examine and singers to enroll; its methods give one command again and again, each
time with a kill, until it has done its work, and check what is on record. `kill_driver` is what kills.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from registry.check import find_problems
from registry.store import Store
from tests.cli_fakes import CONSENT, RATE_HZ, REPO, write_model
from tests.kill_driver import COMMIT_S, HANG_S, is_running

sys.path.insert(0, str(REPO / "scripts"))  # scripts import each other by bare name

import synth_voices as voices

#: Where a batch or an enrolment is killed, and the share of the kills: many are cheap where children are killed, and
#: each costs a start of the command where the parent is.
BATCH_POINTS = {
    "decoder, any time": 25,
    "encoder, any time": 15,
    "parent, any time": 12,
    "parent, after embed": 8,
    "parent, before write": 8,
    "parent, inside commit": 10,
    "parent, after commit": 8,
    "parent, while another shares the run": 2,
}
ENROLL_POINTS = {
    "enrolling decoder, any time": 1,
    "enrolling parent, any time": 3,
    "enrolling parent, after embed": 1,
    "enrolling parent, before write": 1,
    "enrolling parent, inside commit": 2,
    "enrolling parent, after commit": 1,
    "enrolling parent, during index write": 3,
}
POINTS = {**BATCH_POINTS, **ENROLL_POINTS}


@dataclass
class Tally:
    """What came of the kills at one point.

    Attributes
    ----------
    n_lost : int
        Tracks without an outcome, outcomes without their scan, and what a command had said was done and was not there.
    n_doubled : int
        Scans or lines too many of a track, references too many of a recording.
    n_unsound : int
        Other outcomes than undisturbed, tracks blamed without cause, processes left behind, and what `check` finds.
    n_hit_twice : int
        Tracks that failed because two of the kills hit them; with kills at random some must.
    """

    n_kills: int = 0
    n_sequences: int = 0
    n_lost: int = 0
    n_doubled: int = 0
    n_unsound: int = 0
    n_hit_twice: int = 0
    problems: list[str] = field(default_factory=list)

    def lost(self, what: str, n: int = 1) -> None:
        self.n_lost += n
        self.problems.append(f"lost: {what}")

    def doubled(self, what: str, n: int = 1) -> None:
        self.n_doubled += n
        self.problems.append(f"doubled: {what}")

    def unsound(self, what: str) -> None:
        self.n_unsound += 1
        self.problems.append(f"unsound: {what}")


def sing(singer: voices.Singer, name: str, duration_s: float) -> np.ndarray:
    rng = voices.rng_for(name)
    return voices.render_song(singer, voices.compose(singer, rng, duration_s), rng)


@dataclass
class Started:
    """A command that was begun."""

    process: subprocess.Popen[str]
    log: Path
    command: str
    begun_s: float


class Trial:
    """A registry with two artists, and tracks to examine.

    Parameters
    ----------
    folder : Path
        An empty one.
    n_tracks : int
        Tracks of a few seconds; beside them lie one of a minute and a half, one that is silent and one that is text.
    seed : int
        Of the moments at which processes are killed.
    is_real : bool
        With the built-in encoder, not a fake.
    keep_audio : bool
        Every second enrolment copies its recordings into the registry.
    """

    def __init__(
        self, folder: Path, *, n_tracks: int, seed: int, is_real: bool = False, keep_audio: bool = True
    ) -> None:
        self.folder, self.home, self.tracks = folder, folder / "home", folder / "tracks"
        self._n_tracks, self._rng = n_tracks, random.Random(seed)
        self._is_real, self._keep_audio = is_real, keep_audio
        self._n_commands, self._n_artists = 0, 0
        self._usual_s: dict[str, float] = {}  # how long each command took when it was last left in peace
        self._songs = [sing(singer, singer.name, 12.0) for singer in voices.ENROLLED]
        if not is_real:
            names = [f"stranger {number}" for number in range(20)]
            greta = voices.STRANGERS[0]
            strangers = [sing(greta.imitated(voices.rng_for(name), 0.2), name, 4.0) for name in names]
            model = write_model(folder / "model", lambda s, *, f0_hz, seed: strangers[seed - 1000][: int(s * RATE_HZ)])
            self._succeed("init", "--encoder", model, "--trust-model")
        for number in range(2):
            path = self._write_piece(folder / f"artist-{number}.wav", number, 0.0, 9.0)
            self._succeed("enroll", f"Artist {number}", path, "--consent", CONSENT)
        for number in range(n_tracks):
            self._write_piece(self.tracks / f"{number:03d}.wav", number, 0.37 * number, 2.5 + number % 4)
        self._write_piece(self.tracks / "long.wav", 1, 0.0, 90.0)
        voices.sf.write(self.tracks / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
        (self.tracks / "text.wav").write_text("not audio")
        self._succeed("batch", self.tracks, "--workers", "2", "--output", folder / "undisturbed.jsonl", exit_code=3)
        self._expected = self._outcomes(self._latest_run())

    def _write_piece(self, path: Path, who: int, start_s: float, duration_s: float) -> Path:
        """Write a piece of the song of a singer, which goes round and round."""
        song = self._songs[who % len(self._songs)]
        start, n = round(start_s * voices.RATE_HZ), round(duration_s * voices.RATE_HZ)
        voices.write_wav(path, np.resize(np.roll(song, -start), n))
        return path

    # -- commands ------------------------------------------------------------------------------------------------------

    def start(self, plan: dict[str, Any], *command: object) -> Started:
        """Begin a command."""
        self._n_commands += 1
        log = self.folder / f"command-{self._n_commands}.log"
        # Where children are to be killed, there must be some time to do it in.
        encoder = "" if self._is_real else "UnhurriedEncoder" if "victim" in plan else "FakeEncoder"
        plan = {**plan, "encoder": encoder, "log": str(log), "seed": self._rng.randrange(2**32)}
        arguments = ["-m", "tests.kill_driver", json.dumps(plan), *map(str, command), "--home", str(self.home)]
        pipe, begun_s = subprocess.PIPE, time.time()
        process = subprocess.Popen([sys.executable, *arguments], cwd=REPO, text=True, stdout=pipe, stderr=pipe)
        return Started(process, log, str(command[0]), begun_s)

    def finish(self, started: Started, tally: Tally) -> tuple[int, str, str]:
        """Wait for a command to end, and its children with it; count the kills. Gives exit code, stdout and stderr."""
        stdout, stderr = started.process.communicate(timeout=HANG_S)
        code, log = started.process.returncode, started.log
        if code in (0, 3):
            self._usual_s[started.command] = time.time() - started.begun_s
        events = log.read_text().splitlines() if log.exists() else []
        tally.n_kills += events.count("killed") + (code == -signal.SIGKILL)
        give_up_s = time.monotonic() + 30
        left = {int(event.split()[1]) for event in events if event.startswith("started")}
        while left := {pid for pid in left if is_running(pid)}:
            if time.monotonic() > give_up_s:
                tally.unsound(f"processes {left} were left behind")
                break
            time.sleep(0.01)
        return code, stdout, stderr

    def _succeed(self, *command: object, exit_code: int = 0) -> None:
        code, stdout, stderr = self.finish(self.start({}, *command), Tally())
        if code != exit_code:
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {code}:\n{stdout}{stderr}")

    def _plan(self, point: str, n_kills: int, command: str, n_calls: int) -> dict[str, Any]:
        """Draw when and where a command is to be killed."""
        victim, place = point.removeprefix("enrolling ").split(", ")
        if victim in ("decoder", "encoder"):
            every_s = 0.5 if victim == "decoder" else 1.0
            return {"victim": victim, "n_kills": n_kills, "every_s": 4 * every_s if self._is_real else every_s}
        if place in ("any time", "while another shares the run"):
            return {"place": "any time", "at_s": time.time() + self._rng.uniform(0, self._usual_s[command])}
        return {"place": place, "call": self._rng.randint(1, n_calls), "delay_s": self._rng.uniform(0, COMMIT_S)}

    # -- batches -------------------------------------------------------------------------------------------------------

    def kill_batch(self, point: str, max_kills: int, tally: Tally) -> None:
        """One run from its beginning to its end, killed at most `max_kills` times, and what is on record of it then."""
        goal, before = tally.n_kills + max_kills, self._latest_run()
        command = ("batch", self.tracks, "--workers", "2", "--output")
        output = self.folder / "outcomes.jsonl"
        for number in itertools.count():
            left = max(0, goal - tally.n_kills)
            plan = self._plan(point, left, "batch", self._n_tracks // 5) if left else {}
            victim = self.start(plan, *command, output)
            if left and "shares" in point:
                self._check_end(self.finish(self.start({}, *command, self.folder / "other.jsonl"), tally), tally)
            code = self._check_end(self.finish(victim, tally), tally)
            run_id = self._latest_run()
            if run_id != before and self._rows("SELECT 1 FROM runs WHERE run_id = ? AND finished_at > ''", run_id):
                break
            if number == 10 * max_kills + 10:
                tally.unsound(f"run {run_id} comes to no end")
                break
        tally.n_sequences += 1
        # Only a command that came to its end has written every line, and only one that had the run to itself.
        lines = output.read_text().splitlines() if code in (0, 3) and "shares" not in point else None
        self._check_run(point, run_id, lines, tally)

    def _check_end(self, end: tuple[int, str, str], tally: Tally) -> int:
        code, _, stderr = end
        # A run may stop because the encoder was killed again and again, or while it was loading.
        if code not in (0, 3, -signal.SIGKILL) and not (code == 1 and "the process that runs the encoder" in stderr):
            tally.unsound(f"a batch ended with {code}: {stderr}")
        return code

    def _check_run(self, point: str, run_id: int, lines: list[str] | None, tally: Tally) -> None:
        """Count what is wrong with a run that is finished."""
        tracks = self._rows("SELECT * FROM run_tracks WHERE run_id = ? ORDER BY position", run_id)
        scans = Counter(row["path"] for row in self._rows("SELECT path FROM scans WHERE run_id = ?", run_id))
        outcomes, n_blamed = self._outcomes(run_id), sum(track["attempts"] for track in tracks)
        for path in self._expected.keys() - outcomes.keys():
            tally.lost(f"run {run_id}: {path} is not in it")
        for track in tracks:
            what = f"run {run_id}: {track['path']}: {outcomes[track['path']]}, attempts {track['attempts']}"
            if track["outcome"] is None:
                tally.lost(what)
            elif track["outcome"] != "failed" and scans[track["path"]] == 0:
                tally.lost(f"{what}, without its scan")
            elif scans[track["path"]] > (track["outcome"] != "failed"):
                tally.doubled(f"{what}, {scans[track['path']]} scans")
            if track["kind"] == "crashed" and track["attempts"] == 2:
                tally.n_hit_twice += 1
            elif outcomes[track["path"]] != self._expected[track["path"]]:
                tally.unsound(f"{what}, undisturbed {self._expected[track['path']]}")
            if track["lease_owner"] is not None:
                tally.unsound(f"{what}, has a lease still")
        if n_blamed and "parent" in point:
            tally.unsound(f"run {run_id}: tracks were blamed {n_blamed} times although no child was killed")
        if lines is not None:
            written = Counter(json.loads(line)["path"] for line in lines)
            if missing := self._expected.keys() - written.keys():
                tally.lost(f"run {run_id}: no line of {sorted(missing)}", len(missing))
            if extra := written.total() - len(written):
                tally.doubled(f"run {run_id}: {extra} lines too many", extra)
        self._check_store(tally)

    def _outcomes(self, run_id: int) -> dict[str, tuple[Any, ...]]:
        """Outcome by path; with the fake encoder also the reason, in which the best score stands."""
        # Windows travel in other company each time, which moves the last bits of the real encoder's scores.
        names = ("outcome", "kind") if self._is_real else ("outcome", "kind", "reason")
        rows = self._rows("SELECT * FROM run_tracks WHERE run_id = ?", run_id)
        return {row["path"]: tuple(row[name] for name in names) for row in rows}

    def _latest_run(self) -> int:
        return int(self._rows("SELECT COALESCE(MAX(run_id), 0) AS run_id FROM runs")[0]["run_id"])

    # -- enrolments ----------------------------------------------------------------------------------------------------

    def kill_enrolment(self, point: str, max_kills: int, tally: Tally) -> None:
        """Enroll a new artist with two recordings, however often it takes, and see what is on record of it then."""
        goal = tally.n_kills + max_kills
        number, self._n_artists = self._n_artists, self._n_artists + 1
        name = f"New artist {number}"
        paths = [
            str(self._write_piece(self.folder / name / f"{i}.wav", number, 0.71 * number + 3.0 * i, 9.5))
            for i in range(2)
        ]
        command = ["enroll", name, *paths, "--consent", CONSENT, "--json"]
        if self._keep_audio and number % 2:
            command.append("--keep-audio")
        acknowledged: dict[str, int] = {}
        code = None
        while code != 0:  # a command that was left in peace and ended otherwise ends this too
            left = max(0, goal - tally.n_kills)
            # Both recordings are read, embedded and written; the index is written once.
            n_calls = 1 if "index" in point else 2
            plan = self._plan(point, left, "enroll", n_calls) if left else {}
            n_kills = tally.n_kills
            code, stdout, stderr = self.finish(self.start(plan, *command), tally)
            outcomes = json.loads(stdout) if stdout.endswith("]\n") else []
            acknowledged |= {o["path"]: o["reference_id"] for o in outcomes if o["outcome"] == "enrolled"}
            was_hit = tally.n_kills > n_kills and "decoder" in point
            if code not in (0, 3, -signal.SIGKILL) or (code == 3 and not was_hit):
                tally.unsound(f"an enrolment ended with {code}: {stdout}{stderr}")
                break
        tally.n_sequences += 1
        self._check_artist(name, paths, acknowledged, tally)

    def _check_artist(self, name: str, paths: list[str], acknowledged: dict[str, int], tally: Tally) -> None:
        with Store(self.home) as store:
            references = store.references(name)
            n_templates = store.artist(name).n_templates
        on_record = {reference.reference_id: reference.path for reference in references}
        for path, reference_id in acknowledged.items():
            if on_record.get(reference_id) != path:
                tally.lost(f"{name}: {path} was acknowledged as reference {reference_id}")
        for path in paths:
            if (n := [*on_record.values()].count(path)) != 1:
                (tally.doubled if n else tally.lost)(f"{name}: {path} has {n} references")
        if not n_templates:
            tally.lost(f"{name}: no templates")
        self._check_store(tally)

    def _check_store(self, tally: Tally) -> None:
        with Store(self.home) as store:
            for where, what in find_problems(store):
                tally.unsound(f"{where}: {what}")

    def _rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        with Store(self.home) as store:
            return store.rows(sql, parameters)


def kill_at_point(trial: Trial, point: str, n_kills: int, on_progress: Callable[[Tally], None] | None = None) -> Tally:
    """Kill at one point until there were about `n_kills` kills."""
    tally = Tally()
    # So many to a run as leave it some progress in between, and most tracks that were hit the chance of a second try.
    at_once = {"decoder": 8, "encoder": 4}.get(point.split(",")[0], 1 if "shares" in point else 8)
    while (left := n_kills - tally.n_kills) > 0 and tally.n_sequences < 10 * n_kills + 10:
        if point in ENROLL_POINTS:
            trial.kill_enrolment(point, min(left, 2), tally)
        else:
            trial.kill_batch(point, min(left, at_once), tally)
        if on_progress is not None:
            on_progress(tally)
    return tally
