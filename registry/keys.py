"""Where the master key of an encrypted registry lies: in a file, the environment or the system's keyring.

A place is one string, its source: ``file:/abs/path``, ``env:LIKENESS_KEY`` or ``keyring:likeness/NAME``. A key is one
line of text there: a word, the key in base64url, and a checksum, by which a key that was mistyped or cut off is told
from another registry's. Keys are never printed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.errors import KeyMissing, RegistryError, StoreTooNew, WrongKey
from registry.files import folders_undone_on_failure, sync_directory, write_private
from registry.vault import KEY_BYTES, Vault

#: Looked at before the place on record: the key itself, and the file it is in.
KEY_VARIABLE = "LIKENESS_KEY"
FILE_VARIABLE = "LIKENESS_KEY_FILE"
ENVIRONMENT = f"env:{KEY_VARIABLE}"
KEYRING_SERVICE = "likeness"

#: What a key's line begins with.
HEADER = "likeness-key-1"
#: A key's line has 67 bytes; a file that is something else is not read whole.
MAX_FILE_BYTES = 4096


def key_file(path: Path) -> str:
    """The source that is this file."""
    return f"file:{path.expanduser().absolute()}"


def key_in_keyring(home_id: str) -> str:
    """The source that is an entry of the system's keyring."""
    return f"keyring:{KEYRING_SERVICE}/{home_id}"


def default_source(home_id: str) -> str:
    """Where a new registry's key goes unless it is said: that of LIKENESS_KEY_FILE, or a file in ~/.config/likeness."""
    if path := os.environ.get(FILE_VARIABLE):
        return key_file(Path(path))
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    return key_file(configuration / "likeness" / f"{home_id}.key")


def source_in_use(recorded: str) -> str:
    """Where the key is looked for: what the environment says goes before the source that is on record."""
    if os.environ.get(KEY_VARIABLE):
        return ENVIRONMENT
    path = os.environ.get(FILE_VARIABLE)
    return key_file(Path(path)) if path else recorded


def staged(source: str) -> str:
    """Where a new key waits, beside the one that it is to replace; nothing is ever there in the environment."""
    return f"{source}.new"


def name_of(source: str) -> str:
    """A source in words."""
    kind, place = source.split(":", 1)
    return {"file": place, "env": f"the environment variable {place}", "keyring": f"the keyring's entry {place}"}[kind]


def open_vault(home: Path, encryption: Mapping[str, Any]) -> Vault:
    """The keys of an encrypted registry; parameters and errors are those of `find_master`."""
    return Vault(find_master(home, encryption), registry_key_of(encryption))


def registry_key_of(encryption: Mapping[str, Any]) -> bytes:
    """The wrapped registry key on record."""
    return base64.b64decode(encryption["registry_key"])


def find_master(home: Path, encryption: Mapping[str, Any]) -> bytes:
    """The master key that opens a registry.

    Where a rotation was cut off after the registry had its new key, that key still lies beside the old one: it is then
    put in its place.

    Parameters
    ----------
    home : Path
        The registry's folder, for messages.
    encryption : mapping
        What the registry has on record: `version`, `source` and `registry_key`.

    Raises
    ------
    KeyMissing
        There is no key, it cannot be read, or it is not whole.
    WrongKey
        The key does not open this registry.
    StoreTooNew
        The registry is encrypted in a way of a later release.
    """
    if encryption["version"] != 1:
        raise StoreTooNew(
            f"{home}: encrypted by a newer Likeness (version {encryption['version']}); upgrade with "
            "`pip install --upgrade likeness`"
        )
    wrapped, source = registry_key_of(encryption), source_in_use(encryption["source"])
    try:
        return _fitting_key(source, wrapped)
    except (KeyMissing, WrongKey) as error:
        try:
            key = _fitting_key(staged(source), wrapped)
        except (KeyMissing, WrongKey):
            raise _refusal(home, source, error) from error
    with suppress(KeyMissing):  # where it cannot be moved, it serves where it is
        move_key(staged(source), source)
    return key


def _fitting_key(source: str, wrapped_registry_key: bytes) -> bytes:
    key = read_key(source)
    Vault(key, wrapped_registry_key)
    return key


def _refusal(home: Path, source: str, error: RegistryError) -> RegistryError:
    if isinstance(error, KeyMissing):
        return KeyMissing(f"{home}: encrypted, and its key cannot be had: {error}")
    mend = (
        "unset it, or set it to the right one"
        if source == ENVIRONMENT
        else f"put the right one there, or name the file that it is in with {FILE_VARIABLE}"
    )
    return WrongKey(
        f"{home}: encrypted, and not with the key in {name_of(source)}; {mend}. A backup of a registry opens with the "
        "key of its time"
    )


@contextmanager
def new_master(source: str) -> Iterator[bytes]:
    """A new master key, written to its place; on an error inside it is taken away again.

    In the environment nothing can be written: the key that is there is taken.

    Raises
    ------
    KeyMissing
        It cannot be written there, or another key is there already.
    """
    if source == ENVIRONMENT:
        yield read_key(source)
        return
    key = secrets.token_bytes(KEY_BYTES)
    with ExitStack() as on_failure:
        if source.startswith("file:"):
            on_failure.enter_context(folders_undone_on_failure(_path_of(source)))
        write_key(source, key)
        try:
            yield key
        except BaseException:
            delete_key(source)
            raise


def read_key(source: str) -> bytes:
    """The key in a place, 32 bytes; `KeyMissing` says what is wrong with it and what to do."""
    kind, place = source.split(":", 1)
    text = {"file": _read_file, "env": _read_variable, "keyring": _read_keyring}[kind](place)
    words = text.split()
    # In the environment also a bare key, such as `openssl rand -base64 32` makes.
    is_bare = kind == "env" and len(words) == 1
    if not is_bare and (not words or words[0] != HEADER):
        raise KeyMissing(f"{name_of(source)}: holds no key, which would begin with {HEADER}; is it the right place?")
    try:
        key = _decode(words[0] if is_bare else words[1])
        if not is_bare and words[1:] != _line(key).split()[1:]:
            raise ValueError
    except (ValueError, IndexError):
        raise KeyMissing(
            f"{name_of(source)}: the key is not whole, or was mistyped: {KEY_BYTES} bytes in base64 are needed"
            f"{'' if is_bare else ' and their checksum'}; put back the one that you backed up"
        ) from None
    return key


def write_key(source: str, key: bytes) -> None:
    """Put a key where none is; `KeyMissing` if there is one, or it cannot be put there."""
    kind, place = source.split(":", 1)
    if kind == "file":
        _write_file(Path(place), key)
    else:
        if _get_entry(place) is not None:
            raise KeyMissing(f"{name_of(source)}: there already; a key belongs to one registry")
        _set_entry(place, key)


def move_key(source: str, target: str) -> None:
    """Put a key in the place of another of the same kind, unless another process did; `KeyMissing` where it cannot."""
    if source.startswith("keyring:"):
        if _get_entry(_place_of(source)) is not None:
            _set_entry(_place_of(target), read_key(source))
            delete_key(source)
        return
    try:
        _keep_old(_path_of(source), _path_of(target))
        _path_of(source).replace(_path_of(target))
        sync_directory(_path_of(target).parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KeyMissing(
            f"{name_of(source)}: could not be moved to {name_of(target)} ({error.strerror}); it serves where it is, "
            "and the next command tries again"
        ) from error


def _keep_old(new: Path, place: Path) -> None:
    """Keep the key that is about to be replaced beside the new one: backups from before open with nothing else."""
    if new.exists() and place.exists():
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        with suppress(FileExistsError):
            write_private(place.with_name(f"{place.name}.old-{stamp}"), place.read_bytes())


def delete_key(source: str) -> None:
    """Take a key away, if it is there and can be."""
    if source.startswith("file:"):
        with suppress(OSError):
            _path_of(source).unlink(missing_ok=True)
    else:
        with suppress(KeyMissing):
            _delete_entry(_place_of(source))


def check_outside(home: Path, source: str) -> None:
    """Raise `KeyMissing` for a key file that would lie in the registry's folder."""
    if source.startswith("file:") and _path_of(source).resolve().is_relative_to(home.resolve()):
        raise KeyMissing(
            f"{name_of(source)}: lies in the registry's folder {home}; a key beside what it opens protects nothing. "
            "Choose a place elsewhere"
        )


def _line(key: bytes) -> str:
    """A key as it is written."""
    checksum = hashlib.sha256(b"likeness key" + key).hexdigest()[:8]
    return f"{HEADER} {base64.urlsafe_b64encode(key).decode().rstrip('=')} {checksum}\n"


def _decode(word: str) -> bytes:
    """The key of base64 in either alphabet; ValueError if it is no base64 of 32 bytes."""
    word = word.rstrip("=").replace("+", "-").replace("/", "_")
    key = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError(f"{len(key)} bytes")
    return key


def _place_of(source: str) -> str:
    return source.split(":", 1)[1]


def _path_of(source: str) -> Path:
    return Path(_place_of(source))


def _read_file(place: str) -> str:
    try:
        with Path(place).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(MAX_FILE_BYTES).decode("ascii", errors="replace")
    except FileNotFoundError as error:
        raise KeyMissing(
            f"{place}: there is no such file; put back the key that you backed up, or name the file that it is in with "
            f"{FILE_VARIABLE}"
        ) from error
    except OSError as error:
        raise KeyMissing(f"{place}: cannot be read ({error.strerror}); is this the user that made it?") from error
    if mode & 0o077:
        raise KeyMissing(f"{place}: others may read this key (its mode is {mode:03o}); run `chmod 600 {place}`")
    return text


def _write_file(path: Path, key: bytes) -> None:
    try:
        write_private(path, _line(key).encode())
    except FileExistsError as error:
        raise KeyMissing(f"{path}: there already, and keys are not written over; choose another file") from error
    except OSError as error:
        raise KeyMissing(f"{path}: the key cannot be written ({error.strerror}); choose another file") from error


def _read_variable(name: str) -> str:
    text = os.environ.get(name)
    if not text:
        raise KeyMissing(
            f"the environment variable {name} is not set; set it to the key, or {FILE_VARIABLE} to the file it is in"
        )
    return text


def _read_keyring(place: str) -> str:
    text = _get_entry(place)
    if text is None:
        raise KeyMissing(
            f"the keyring has no entry {place}; is this the user that made it? A key that you backed up is named with "
            f"{FILE_VARIABLE}"
        )
    return text


@contextmanager
def _keyring() -> Iterator[Any]:
    """The package `keyring`, its errors made ours."""
    try:
        import keyring
        import keyring.errors
    except ImportError as error:
        raise KeyMissing(
            "the system's keyring needs a package that is not installed; run `pip install 'likeness[keyring]'`, or "
            f"keep the key in a file, named with {FILE_VARIABLE}"
        ) from error
    try:
        yield keyring
    except keyring.errors.NoKeyringError as error:
        raise KeyMissing(
            f"there is no keyring on this system; keep the key in a file, named with {FILE_VARIABLE}"
        ) from error
    except keyring.errors.KeyringError as error:
        raise KeyMissing(f"the keyring refused ({type(error).__name__}: {error}); unlock it and try again") from error


def _get_entry(place: str) -> str | None:
    service, name = place.split("/", 1)
    with _keyring() as keyring:
        text: str | None = keyring.get_password(service, name)
        return text


def _set_entry(place: str, key: bytes) -> None:
    service, name = place.split("/", 1)
    with _keyring() as keyring:
        keyring.set_password(service, name, _line(key))
    if _get_entry(place) != _line(key):  # keyring's null backend takes everything and keeps nothing
        raise KeyMissing("the keyring did not keep the key; choose another place for it")


def _delete_entry(place: str) -> None:
    service, name = place.split("/", 1)
    with _keyring() as keyring:
        keyring.delete_password(service, name)
