"""Fixtures for the tests of keys; a test module takes them with ``pytest_plugins``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring that forgets when the process ends."""

    priority = -2  # never chosen by itself, which the package would do with any class of this kind

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.entries.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError("no such password")


@pytest.fixture
def use_keyring() -> Iterator[Callable[[keyring.backend.KeyringBackend], None]]:
    """Let the package `keyring` use a backend, and the one of before after the test."""
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


@pytest.fixture
def memory_keyring(use_keyring: Callable[[keyring.backend.KeyringBackend], None]) -> MemoryKeyring:
    """Let the package `keyring` use a `MemoryKeyring`."""
    backend = MemoryKeyring()
    use_keyring(backend)
    return backend


@pytest.fixture
def no_key_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the tests from the keys of whoever runs them."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("LIKENESS_KEY", "LIKENESS_KEY_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
