"""What several test modules share: synthesised audio from fixed seeds, and the folder of real recordings."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from registry.encryption import encrypt_registry, new_home_id
from registry.keys import ENVIRONMENT, KEY_VARIABLE
from registry.store import Store
from tests.fakes import FakeEncoder

Synth = Callable[..., np.ndarray]
WriteWav = Callable[..., Path]


@pytest.fixture(scope="session")
def audio_root() -> Path:
    """Return the folder of real recordings (see its README.md); skip where there is none.

    CI sets LIKENESS_REQUIRE_AUDIO where the folder is: there a test that is skipped for want of it fails.
    """
    default = Path(__file__).resolve().parents[2] / "shared" / "audio"
    root = Path(os.environ.get("LIKENESS_AUDIO", default))
    if not root.is_dir():
        miss = pytest.fail if os.environ.get("LIKENESS_REQUIRE_AUDIO") else pytest.skip
        miss(f"no real recordings: {root} is not a folder; set LIKENESS_AUDIO")
    return root


@pytest.fixture(scope="session")
def tone() -> Synth:
    """Return a function that makes a sine."""

    def make_tone(duration_s: float = 1.0, hz: float = 1000.0, rate_hz: int = 16000, peak: float = 0.5) -> np.ndarray:
        """Give (n,) float32, starting at phase 0."""
        time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
        return (peak * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)

    return make_tone


@pytest.fixture(scope="session")
def voice_like() -> Synth:
    """Return a function that makes something with the pitch, formants and syllables of a voice, and no words."""

    def make_voice_like(
        duration_s: float = 4.0, f0_hz: float = 140.0, rate_hz: int = 16000, seed: int = 0, peak: float = 0.5
    ) -> np.ndarray:
        """Give (n,) float32; the seed chooses the formants ("who"), the course of the pitch and the breath noise."""
        rng = np.random.default_rng(seed)
        time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
        vibrato = 0.02 * np.sin(2 * np.pi * 5.0 * time_s) + 0.1 * np.sin(2 * np.pi * 0.4 * time_s + rng.uniform(0, 6))
        phase = 2 * np.pi * np.cumsum(f0_hz * (1 + vibrato)) / rate_hz
        formants_hz = np.array([600.0, 1300.0, 2600.0]) * rng.uniform(0.85, 1.15, 3)
        voice = np.zeros_like(time_s)
        for k in range(1, int(min(4000.0, rate_hz / 2.3) / f0_hz) + 1):
            gain = np.sum(1 / (1 + ((k * f0_hz - formants_hz) / 120.0) ** 2)) + 0.02
            voice += gain / k**0.5 * np.sin(k * phase)
        voice *= np.clip(0.55 + 0.6 * np.sin(2 * np.pi * 3.0 * time_s), 0.0, 1.0)  # three syllables a second
        voice += 1e-3 * np.abs(voice).max() * rng.standard_normal(len(voice))
        return (peak * voice / np.abs(voice).max()).astype(np.float32)

    return make_voice_like


@pytest.fixture
def write_wav(tmp_path: Path) -> WriteWav:
    """Return a function that writes samples, (n,) or (n, channels), to a file of this test's folder."""

    def write(
        samples: np.ndarray,
        rate_hz: int = 16000,
        name: str = "audio.wav",
        audio_format: str = "WAV",
        subtype: str = "PCM_16",
    ) -> Path:
        path = tmp_path / name
        if audio_format == "MP3" and samples.dtype == np.int16:
            # libsndfile 1.2 writes noise into half of stereo int16 MP3 (its pull request 1106, open); wider is right.
            samples = samples.astype(np.int32) << 16
        soundfile.write(path, samples, rate_hz, format=audio_format, subtype=subtype)
        return path

    return write


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return where a registry may be made."""
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """Yield a new registry's store, on disk."""
    with Store(home, create=True) as store:
        yield store


def _encrypt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(bytes(range(32))).decode())
    encrypt_registry(store, new_home_id(), ENVIRONMENT)


@pytest.fixture
def encrypted_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Yield a new registry's store, encrypted with a key in the environment."""
    with Store(home, create=True) as store:
        _encrypt(store, monkeypatch)
        yield store


@pytest.fixture(params=["plain", "encrypted"])
def any_store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Yield a new registry's store, plain and then encrypted: who takes this is run with both."""
    with Store(home, create=True) as store:
        if request.param == "encrypted":
            _encrypt(store, monkeypatch)
        yield store


@pytest.fixture
def encoder() -> FakeEncoder:
    """Return the encoder of `tests.fakes`."""
    return FakeEncoder()


# How many tests heard real recordings: a green run without them says much less.


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many real-audio tests ran and how many were skipped, in the last lines of a run."""
    ran = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    n_ran = sum("audio" in report.keywords for report in ran if report.when == "call")
    # A module that is skipped whole has no keywords; none of those is of real recordings.
    skipped = terminalreporter.getreports("skipped")
    n_skipped = sum("audio" in getattr(report, "keywords", ()) for report in skipped)
    terminalreporter.write_line(f"real-audio tests: {n_ran} ran, {n_skipped} skipped")
