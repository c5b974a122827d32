"""The command line with a fake encoder: in this process (`Cli`), or in one of its own (``python -m tests.cli_fakes``).

The encoder hears the mean spectrum of a window and nothing else; that tells the made-up voices of `voice_like` apart.
It is a class of this module, so that the processes of a batch, which are spawned, find it.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from embeddings.model_dir import CALIBRATION, COHORT, load_calibration, load_cohort
from registry import calibration as registry_calibration
from registry.cli import main
from registry.store import Store
from tests.fakes import fake_tail

REPO = Path(__file__).parent.parent
RATE_HZ = 16000
DIM = 16
N_BANDS = 24
ENCODER_ID = "a" * 64
OTHER_DIM = 12
OTHER_ENCODER_ID = "b" * 64
#: On the llr, which is the norm_score here. Other songs of singers 1 and 2 score 1.3 to 2.0 with them, singer 3 below
#: 0.3 with either.
THRESHOLD = 1.0
CONSENT = "release-2026-014"


class FakeEncoder:
    """Takes what `SpeechBrainEncoder` takes; `source` is a directory that `write_model` wrote, or anything else.

    In a directory called "other" it is another encoder, with shorter vectors.
    """

    def __init__(
        self, source: str | Path = "fake", *, trusted: Collection[str] = (), n_threads: int | None = None
    ) -> None:
        self.source = str(source)
        is_other = Path(source).name == "other"
        self.encoder_id, dim = (OTHER_ENCODER_ID, OTHER_DIM) if is_other else (ENCODER_ID, DIM)
        self.dim, self.rate_hz, self.window_s, self.hop_s = dim, RATE_HZ, 4.0, 2.0
        self.directory = Path(source)
        self.cohort = load_cohort(self.directory)
        self.calibration = load_calibration(self.directory)
        self._projection = np.random.default_rng(int(is_other)).standard_normal((N_BANDS, dim))

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        """(n, n_samples) float32 to (n, DIM) float32 unit rows, each by itself: the same in whatever company."""
        return np.stack([self._embed(window) for window in samples])

    def _embed(self, window: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(window.astype(np.float64))) ** 2
        edges = np.linspace(0, len(power) // 2, N_BANDS + 1).astype(int)  # up to 4 kHz
        bands = np.log(np.add.reduceat(power[: edges[-1]], edges[:-1]) + 1e-6)
        vector = (bands - bands.mean()) @ self._projection
        return (vector / np.linalg.norm(vector)).astype(np.float32)


class SlowEncoder(FakeEncoder):
    """Takes its time with every window."""

    delay_s = 0.2

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        time.sleep(self.delay_s * len(samples))
        return super().embed_windows(samples)


class SlowerEncoder(SlowEncoder):
    """Takes longer than a command needs to start, also on a busy machine."""

    delay_s = 1.5


class StuckEncoder(FakeEncoder):
    """Takes longer to load than any test waits."""

    def __init__(self, *_: Any, **__: Any) -> None:
        time.sleep(600)


def write_model(directory: Path, voice_like: Callable[..., np.ndarray], n_strangers: int = 20) -> Path:
    """Write a model directory for `FakeEncoder`, with a cohort of made-up strangers."""
    directory.mkdir(parents=True)
    (directory / "hyperparams.yaml").write_text(f"# The fake encoder {directory.name} needs none.\n", encoding="ascii")
    voices = [voice_like(4.0, f0_hz=110 + 9 * who, seed=1000 + who) for who in range(n_strangers)]
    encoder = FakeEncoder(directory)
    vectors = encoder.embed_windows(np.stack(voices))
    np.savez(directory / COHORT, vectors=vectors, person=np.arange(n_strangers))
    calibration = {
        "encoder_id": encoder.encoder_id,
        "cohort_id": hashlib.sha256((directory / COHORT).read_bytes()).hexdigest(),
        "scoring": registry_calibration.CONSTANTS,
        "source": "made up for tests",
        "llr": {"weights": {"norm_score": 1.0, "accompaniment": 0.0}, "intercept": 0.0},
        "tail": fake_tail(THRESHOLD),
    }
    (directory / CALIBRATION).write_text(json.dumps(calibration), encoding="ascii")
    return directory


@lru_cache(maxsize=64)  # synthesis took half of the tests' time
def _song(voice_like: Callable[..., np.ndarray], who: int, song: int, duration_s: float) -> np.ndarray:
    return voice_like(duration_s, f0_hz=130.0 + 7 * song, seed=who)


class Cli:
    """A registry of its own in a temporary folder, and the commands on it.

    Calling it runs a command: ``cli("artists", "list", "--json")``.
    """

    def __init__(self, folder: Path, model: Path, voice_like: Callable[..., np.ndarray]) -> None:
        self.folder, self.home, self._model, self._voice_like = folder, folder / "home", model, voice_like

    def __call__(self, *arguments: object, stdin: str | None = None) -> Result:
        command = [*map(str, arguments), *self._home(arguments)]
        return CliRunner().invoke(main, command, input=stdin, prog_name="likeness", catch_exceptions=False)

    def _home(self, arguments: Sequence[object]) -> list[str]:
        return [] if "--home" in arguments else ["--home", str(self.home)]

    def init(self) -> None:
        """Make the registry, with the fake encoder."""
        result = self("init", "--encoder", self._model, "--trust-model")
        assert result.exit_code == 0, result.output

    def start(self, *arguments: object, encoder: str = "FakeEncoder", **options: Any) -> subprocess.Popen[str]:
        """Run a command in a process of its own, and a process group, as a terminal does."""
        command = [sys.executable, "-m", "tests.cli_fakes", encoder, *map(str, arguments), *self._home(arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=REPO, text=True, start_new_session=True, **options)

    def sing(self, name: str, who: int, song: int = 0, duration_s: float = 6.0) -> Path:
        """Write a song of the made-up singer `who`; other songs are at another pitch."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, _song(self._voice_like, who, song, duration_s), RATE_HZ, subtype="PCM_16")
        return path

    def enroll(self, artist: str, who: int, n_songs: int = 2) -> list[Path]:
        """Enroll songs 0, 1, ... of `who`."""
        paths = [self.sing(f"{artist}/song-{song}.wav", who, song) for song in range(n_songs)]
        result = self("enroll", artist, *paths, "--consent", CONSENT)
        assert result.exit_code == 0, result.output
        return paths

    def store(self) -> Store:
        return Store(self.home)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with self.store() as store:
            return store.rows(sql)


def use_encoder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let every command load this module's encoder of that name."""
    monkeypatch.setattr("embeddings.encoder.SpeechBrainEncoder", getattr(sys.modules["tests.cli_fakes"], name))


#: Numbers that have no unit: cosines, standard deviations, log ratios, shares, and whatever a caller counts them
#: against.
UNITLESS = {
    "score",
    "norm_score",
    "own_norm_score",
    "llr",
    "similar_llr",
    "taken_off",
    "threshold",
    "budget",
    "false-flag-budget",
    "vector",
}


def check_units(value: Any, key: str = "") -> None:
    """Every number that is not a count says its unit in its key: seconds end in `_s`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            check_units(inner, name)
    elif isinstance(value, list):
        for inner in value:
            check_units(inner, key)
    elif isinstance(value, float):
        assert key.endswith("_s") or key in UNITLESS, f"{key}: {value} in which unit?"


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write_csv(path: Path, rows: Sequence[Sequence[str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def synth_voices() -> ModuleType:
    """`scripts/synth_voices.py`: singers who are nobody, computed from fixed seeds."""
    spec = importlib.util.spec_from_file_location("synth_voices", REPO / "scripts" / "synth_voices.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":  # python -m tests.cli_fakes ENCODER COMMAND ...
    import embeddings.encoder
    from tests import cli_fakes

    # As from a terminal: what a shell starts in the background, CI among it, comes with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    embeddings.encoder.SpeechBrainEncoder = getattr(cli_fakes, sys.argv[1])  # type: ignore[misc]
    main(sys.argv[2:], prog_name="likeness")
