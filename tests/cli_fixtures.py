"""Fixtures for the tests of batch and commands; a test module takes them with ``pytest_plugins``.

They are not in `cli_fakes` because pytest wants to be the first to import a module with fixtures, and tests import it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli_fakes import Cli, use_encoder, write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, voice_like: Callable[..., np.ndarray]) -> Path:
    """The directory of the fake encoder."""
    return write_model(tmp_path_factory.mktemp("models") / "fake", voice_like)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory, voice_like: Callable[..., np.ndarray]) -> Path:
    """The directory of another fake encoder."""
    return write_model(tmp_path_factory.mktemp("models") / "other", voice_like)


@pytest.fixture
def cli(tmp_path: Path, model: Path, voice_like: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line with the fake encoder, and a registry with nobody in it."""
    monkeypatch.delenv("LIKENESS_HOME", raising=False)
    use_encoder(monkeypatch, "FakeEncoder")
    cli = Cli(tmp_path, model, voice_like)
    cli.init()
    return cli


@pytest.fixture
def enrolled(cli: Cli) -> Cli:
    """A registry with two artists: Ada (singer 1) and Bo (singer 2)."""
    cli.enroll("Ada", 1)
    cli.enroll("Bo", 2)
    return cli
