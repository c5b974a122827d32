"""Give every command that reads strangers' input what it should not be given, and see what becomes of it.

    python scripts/input_matrix.py                                          # about four minutes on two cores
    python scripts/input_matrix.py --json scripts/results/input_matrix.json

Recordings, artists' names, manifests and homes that are broken, hostile or absent, each for `enroll`, `query` and
`batch` where it applies, in a process of its own with the fake encoder of the tests (no model is needed). Prints one
line each: exit code, whether the registry is as it was, and what was said. Exits 1 if anything ended with a traceback,
with an exit code that README does not know, with a raw control character in its output, not within a minute, or with
another registry than before (but runs and the audit, which are written either way).

Root may read everything, so where root runs this, the commands run without that privilege (by util-linux' `setpriv`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import synth_voices as voices

REPO = Path(__file__).resolve().parent.parent
#: Before a command, where root runs this: root without its leave to read and write whatever the permissions say.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
#: Inputs that root would not notice.
OF_PERMISSIONS = {"mode 000", "folder of mode 000", "home: read-only"}
LIMIT_S = 60.0
EXIT_CODES = {0, 1, 2, 3, 4}
COMMANDS = ("enroll", "query", "batch")
#: Written whatever becomes of the input: what was asked for and when.
RUN_TABLES = {"runs", "run_tracks", "reports", "audit", "audit_payloads"}
#: Written when a track was decided, also when it is too short to say anything.
SCAN_TABLES = {"tracks", "scans", "matches"}


@dataclass(frozen=True)
class Input:
    """Something to give to commands.

    `make` takes a folder of its own, in which the registry lies as ``home`` and a good recording as ``good.wav``, and
    returns what takes the place of the recordings; `artist` is enrolled for. What `enrolls` or is `decided` may leave
    that in the registry.
    """

    name: str
    make: Callable[[Path], str | Path]
    commands: tuple[str, ...] = COMMANDS
    artist: str = "Cy"
    enrolls: bool = False
    decided: bool = False
    mends_index: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one input in one command."""

    input: str
    command: str
    exit_code: int | None
    state: str
    message: str
    faults: tuple[str, ...]


# -- inputs ------------------------------------------------------------------------------------------------------------


def write(name: str, content: bytes | str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
    return path


def sound(name: str, samples: np.ndarray, rate_hz: int, folder: Path, **options: str) -> Path:
    soundfile.write(folder / name, samples, rate_hz, **options)
    return folder / name


def cut_flac(folder: Path) -> Path:
    samples, rate_hz = soundfile.read(folder / "good.wav", dtype="int16")
    whole = sound("whole.flac", samples, rate_hz, folder)
    return write("cut.flac", whole.read_bytes()[: whole.stat().st_size // 2], folder)


def named(name: str | bytes, folder: Path) -> Path:
    return (folder / "good.wav").rename(folder / os.fsdecode(name))


def fifo(folder: Path, name: str = "fifo.wav") -> Path:
    os.mkfifo(folder / name)
    return folder / name


def link(target: str, folder: Path) -> Path:
    path = folder / "link.wav"
    path.symlink_to(target)
    return path


def locked(folder: Path) -> Path:
    (folder / "good.wav").chmod(0)
    return folder / "good.wav"


def locked_folder(folder: Path) -> Path:
    inner = folder / "in" / "locked"
    inner.mkdir(parents=True)
    (folder / "good.wav").rename(inner / "good.wav")
    inner.chmod(0)
    return folder / "in"


def empty_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    return folder / "in"


def good(folder: Path) -> Path:
    return folder / "good.wav"


def with_home(change: Callable[[Path], None], folder: Path) -> Path:
    change(folder / "home")
    return folder / "good.wav"


def no_home(home: Path) -> None:
    shutil.rmtree(home)


def file_for_home(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("a file")


def read_only_home(home: Path) -> None:
    for path in home.iterdir():
        path.chmod(stat.S_IRUSR)
    home.chmod(stat.S_IRUSR | stat.S_IXUSR)


def newer_home(home: Path) -> None:
    with closing(sqlite3.connect(home / "registry.db")) as database, database:
        database.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "SELECT migration_set, 'm999_future', applied_at FROM _sqlite_migrations LIMIT 1"
        )


def overwrite(name: str, start: int, length: int, home: Path) -> None:
    content = bytearray((home / name).read_bytes())
    start %= len(content)
    content[start : start + length] = b"\xff" * len(content[start : start + length])
    (home / name).write_bytes(content)


def inputs() -> list[Input]:
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    concat = "ffconcat version 1.0\nfile good.wav\n"
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\ngood.wav\n#EXT-X-ENDLIST\n"
    recordings = {
        "0 bytes": partial(write, "empty.wav", b""),
        "text as .wav": partial(write, "text.wav", "this is not audio\n" * 99),
        "truncated FLAC": cut_flac,
        "NaN samples": partial(sound, "nan.wav", np.full(32000, np.nan), 16000, subtype="FLOAT"),
        "silence": partial(sound, "silence.wav", np.zeros(32000), 16000),
        "65 channels": partial(sound, "wide.wav", np.repeat(noise[:, None], 65, axis=1), 16000),
        "1 kHz": partial(sound, "slow.wav", noise, 1000),
        "ffconcat as .m4a": partial(write, "concat.m4a", concat),
        "HLS playlist as .m4a": partial(write, "playlist.m4a", playlist),
        "FIFO": fifo,
        "device": partial(link, "/dev/zero"),
        "symlink loop": partial(link, "link.wav"),
        "empty folder": empty_folder,
        "missing": lambda folder: folder / "missing.wav",
        "mode 000": locked,
        "folder of mode 000": locked_folder,
        "name of 300 characters": lambda folder: folder / ("x" * 300),
        "name with a leading dash": lambda folder: "-x.wav",
        "empty path": lambda folder: "",
    }
    file_names: dict[str, str | bytes] = {
        "newline": "a\nError: b.wav",
        "ANSI": "\x1b[2J\x1b[31m.wav",
        "bidi override": "\u202egnp.wav",
        "bytes that are no UTF-8": b"caf\xe9\x9b31m.wav",
    }
    artists = {"10,000 characters": "x" * 10_000, "nothing": "", "bidi override": "Ada\u202e", "accents": "\u0301"}
    manifests = {
        "broken JSON": ("m.jsonl", '{"path": "good.wav"}\n{"path": \n'),
        "JSON that is no object": ("m.jsonl", '["good.wav"]\n'),
        "NaN": ("m.jsonl", '{"path": "good.wav", "bpm": NaN}\n'),
        "a path that is a number": ("m.jsonl", '{"path": 5}\n'),
        "a path with NUL": ("m.jsonl", '{"path": "a\\u0000b.wav"}\n'),
        "half a character": ("m.jsonl", '{"path": "\\ud83d.wav", "title": "\\ud83d"}\n'),
        "no column path": ("m.csv", "file,title\n\x1b[2Jgood.wav,\u202e\n"),
        "no row": ("m.csv", "path,title\n"),
        "an unclosed quote": ("m.csv", 'path,title\n"good.wav,A\n'),
        "Latin-1": ("m.csv", "path\nM\udcfcller.wav\n"),
        "lists in lists": ("m.jsonl", '{"path": "gone.wav", "x": ' + "[" * 960 + "]" * 960 + "}\n"),
        "a cell of 200 kB": ("m.csv", "path,title\ngood.wav," + "x" * 200_000 + "\n"),
    }
    homes: dict[str, Callable[[Path], None]] = {
        "absent": no_home,
        "a file": file_for_home,
        "newer": newer_home,
        "no database": partial(overwrite, "registry.db", 0, 10**9),
        "a torn page": partial(overwrite, "registry.db", 4096, 4096),
        "read-only": read_only_home,
    }
    return [
        Input("a good recording", good, enrolls=True, decided=True),
        *(Input(name, make) for name, make in recordings.items()),
        Input("0.3 s", partial(sound, "short.wav", noise[:4800], 16000), decided=True),
        *(Input(f"file name: {n}", partial(named, name), enrolls=True, decided=True) for n, name in file_names.items()),
        *(Input(f"artist: {n}", good, ("enroll",), artist=name) for n, name in artists.items()),
        *(Input(f"manifest: {n}", partial(write, *content), ("batch",)) for n, content in manifests.items()),
        Input("manifest: FIFO", partial(fifo, name="m.csv"), ("batch",)),
        *(
            Input(f"home: {n}", partial(with_home, change), enrolls=n == "absent", decided=n == "read-only")
            for n, change in homes.items()
        ),
        Input(
            "home: damaged index",
            partial(with_home, partial(overwrite, "index.faiss", -8, 8)),
            enrolls=True,
            decided=True,
            mends_index=True,
        ),
    ]


# -- commands ----------------------------------------------------------------------------------------------------------


def likeness(*arguments: str, folder: Path, prefix: Sequence[str] = ()) -> tuple[int | None, str, str]:
    """Run a command with the fake encoder in `folder`: (exit code or None where it hung, stdout, stderr)."""
    command = [*prefix, sys.executable, "-m", "tests.cli_fakes", "FakeEncoder", *arguments]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LIKENESS")},
        "PYTHONPATH": str(REPO),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, "", f"killed after {LIMIT_S:.0f} s"
    return process.returncode, stdout.decode("utf-8", "surrogateescape"), stderr.decode("utf-8", "surrogateescape")


def arguments_of(command: str, track: str, artist: str) -> list[str]:
    if command == "enroll":
        return ["enroll", artist, track, "--consent", "release-1", "--json", "--home", "home"]
    options = ["--json"] if command == "query" else ["--workers", "1"]
    return [command, track, *options, "--home", "home"]


def run_cell(case: Input, command: str, template: Path, prefix: Sequence[str]) -> Outcome:
    """Give one input to one command, in a copy of the template folder."""
    with tempfile.TemporaryDirectory(prefix="likeness-matrix-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(template, folder, dirs_exist_ok=True)
        track = os.fspath(case.make(folder))
        left_alone = RUN_TABLES | (SCAN_TABLES if case.decided and command != "enroll" else set())
        before = contents(folder / "home", left_alone)
        code, stdout, stderr = likeness(*arguments_of(command, track, case.artist), folder=folder, prefix=prefix)
        after = contents(folder / "home", left_alone)
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())):
            path.chmod(0o700)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    expected = (case.enrolls and command == "enroll") or (case.mends_index and changed == ["index.faiss"])
    faults = [
        *(["hangs"] if code is None else []),
        *([f"exit code {code}"] if code is not None and code not in EXIT_CODES else []),
        *(["traceback"] if "Traceback" in stderr + stdout else []),
        *(["raw control characters"] if hidden(stdout + stderr) else []),
        *([f"registry changed: {', '.join(changed)}"] if changed and not expected else []),
    ]
    state = "unchanged" if not changed else "changed" if not expected else "written"
    return Outcome(case.name, command, code, state, message_of(stdout, stderr), tuple(faults))


def contents(home: Path, left_alone: set[str]) -> dict[str, str]:
    """Digests of a registry's index and tables (but those left alone), or of the whole file where it is none."""
    if not home.is_dir():
        return {"home": "a file" if home.exists() else "absent"}
    found = {path.name: digest(path.read_bytes()) for path in home.glob("index.faiss")}
    with tempfile.TemporaryDirectory() as folder:  # a copy: reading a database in WAL mode leaves files beside it
        for path in home.glob("registry.db*"):
            shutil.copy(path, folder)
        database = Path(folder, "registry.db")
        if not database.exists():
            return found
        file_digest = digest(database.read_bytes())
        try:
            return found | dict(table_digests(database, left_alone))
        except sqlite3.DatabaseError:
            return found | {"registry.db": file_digest}


def table_digests(database: Path, left_alone: set[str]) -> Iterator[tuple[str, str]]:
    with closing(sqlite3.connect(database)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1").fetchall():
            if table not in left_alone and not table.startswith("sqlite_"):
                rows = sorted(map(repr, connection.execute(f'SELECT * FROM "{table}"')))
                yield table, digest("\n".join(rows).encode("utf-8", "surrogateescape"))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def hidden(text: str) -> bool:
    return any(c not in "\n\u200c\u200d" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


def message_of(stdout: str, stderr: str) -> str:
    """What a person reads first: the error, else the reason of the first result, else the last note."""
    lines = [line for line in stderr.splitlines() if line]
    if errors := [line for line in lines if line.startswith("Error: ")]:
        return errors[0]
    try:
        results = json.loads(stdout) if stdout.startswith("[") else [json.loads(line) for line in stdout.splitlines()]
    except ValueError:
        results = []
    return str(results[0]["reason"]) if results else lines[-1] if lines else ""


# -- everything --------------------------------------------------------------------------------------------------------


def make_template(folder: Path) -> None:
    """A registry with two artists, whose encoder is the fake one of the tests, and a good recording of a third."""
    sys.path.insert(0, str(REPO))
    from tests.cli_fakes import write_model

    def stranger(duration_s: float, f0_hz: float, seed: int) -> np.ndarray:
        """Harmonics of a pitch, shaped at random: the fake encoder hears a spectrum and nothing else."""
        time_s, gains = np.arange(int(duration_s * 16000)) / 16000, np.random.default_rng(seed).uniform(0, 1, 30)
        tones = [gain * np.sin(2 * np.pi * f0_hz * k * time_s) for k, gain in enumerate(gains, start=1)]
        return (0.05 * np.sum(tones, axis=0)).astype(np.float32)

    write_model(folder / "model", stranger)
    for number, singer in enumerate(voices.ENROLLED[:3]):
        rng = np.random.default_rng(number)
        song = voices.render_song(singer, voices.compose(singer, rng, 8.0), rng)
        voices.write_wav(folder / ("good.wav" if number == 2 else f"{singer.name}.wav"), song)
    commands = [
        ["init", "--encoder", "model", "--trust-model", "--home", "home"],
        *(["enroll", s.name, f"{s.name}.wav", "--consent", "release-1", "--home", "home"] for s in voices.ENROLLED[:2]),
    ]
    for command in commands:
        code, stdout, stderr = likeness(*command, folder=folder)
        if code != 0:
            sys.exit(f"{' '.join(command)}: exit code {code}\n{stdout}{stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", help="only inputs whose name holds this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes as a list of rows")
    arguments = parser.parse_args()
    is_root = os.geteuid() == 0
    prefix = UNPRIVILEGED if is_root and shutil.which(UNPRIVILEGED[0]) else []
    left_out = OF_PERMISSIONS if is_root and not prefix else set()
    if left_out:
        print(f"left out, because root may read everything: {', '.join(sorted(left_out))}")
    cases = [case for case in inputs() if (arguments.only or "") in case.name and case.name not in left_out]
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="likeness-matrix-") as name, ThreadPoolExecutor(2) as pool:
        template = Path(name)
        make_template(template)
        cells = [(case, command) for case in cases for command in case.commands]
        outcomes = list(pool.map(lambda cell: run_cell(*cell, template, prefix), cells))
    width = max(len(outcome.input) for outcome in outcomes)
    print(f"{'input':{width}}  command  exit  registry   message")
    for outcome in outcomes:
        code = "-" if outcome.exit_code is None else outcome.exit_code
        shown = outcome.message.encode("unicode_escape").decode("ascii")
        print(f"{outcome.input:{width}}  {outcome.command:7}  {code:>4}  {outcome.state:9}  {shown[:150]}")
    bad = [outcome for outcome in outcomes if outcome.faults]
    for outcome in bad:
        print(f"FAULT: {outcome.input}, {outcome.command}: {'; '.join(outcome.faults)}")
    n_inputs, wall_s = len(cases), time.monotonic() - begun_s
    print(f"{len(bad)} faults in {len(outcomes)} runs of {n_inputs} inputs, {wall_s:.0f} s")
    if arguments.json:
        rows = [
            {"trials": outcome.input, "system": f"likeness {outcome.command}", "metric": metric, "value": value}
            for outcome in outcomes
            for metric, value in (
                ("exit_code", outcome.exit_code),
                ("registry_unchanged", int(outcome.state == "unchanged")),
                ("faults", len(outcome.faults)),
            )
        ]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
