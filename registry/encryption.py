"""Turning the encryption of a registry on, changing its key, and keeping a copy of that."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import Any

from registry import audit
from registry.errors import KeyMissing, RegistryError
from registry.keys import (
    ENVIRONMENT,
    FILE_VARIABLE,
    KEY_VARIABLE,
    check_outside,
    delete_key,
    find_master,
    key_file,
    move_key,
    name_of,
    new_master,
    read_key,
    registry_key_of,
    source_in_use,
    staged,
    write_key,
)
from registry.store import Store
from registry.vault import Vault

#: How long a rotation waits for readers, so that keys wrapped with the old key do not stay in the database's log.
LOG_WAIT_S = 5.0


def new_home_id() -> str:
    """A name for a registry that its key can be called by."""
    return secrets.token_hex(8)


def check_may_encrypt(store: Store, source: str) -> None:
    """Raise `RegistryError` where encryption cannot be turned on, or not with a key at `source`."""
    if source_in_use(source) != source:
        raise KeyMissing(
            f"{KEY_VARIABLE} or {FILE_VARIABLE} is set, and goes before {name_of(source)}; unset it, or take that place"
        )
    check_outside(store.home, source)
    if store.encryption is not None:
        raise RegistryError(f"{store.home}: encrypted already; `likeness key rotate` gives it another key")
    if store.rows("SELECT 1 FROM artists LIMIT 1"):
        raise RegistryError(
            f"{store.home}: holds artists, and what is on record of them would stay as it is; make an encrypted "
            "registry in another home, and enroll them there"
        )


def encrypt_registry(store: Store, home_id: str, source: str) -> None:
    """Turn encryption on, with a new key at `source`.

    Raises
    ------
    KeyMissing
        There is no place for the key there.
    RegistryError
        As `check_may_encrypt` does.
    """
    with new_master(source) as master, store.writing():
        check_may_encrypt(store, source)
        _, registry_key = Vault.create(master)
        store.set_encryption({"version": 1, "home_id": home_id, "source": source, **_wrapped(registry_key)})
        audit.append(store, "registry.encrypt", {"source": source})


def rotate_key(store: Store, to: Path | None = None) -> tuple[str, str]:
    """Give the registry another key; returns the sources of the old one, which opens nothing any more, and the new.

    At whatever point this is cut off, the registry opens: the new key is written before the registry changes, beside
    the old one, and takes its place after. `registry.keys.find_master` looks in both.

    Parameters
    ----------
    to : Path, optional
        A new file for the new key, instead of the place of the old one.

    Raises
    ------
    KeyMissing, WrongKey
        The present key cannot be found, or there is no place for the new one.
    """
    with store.writing():
        encryption = _encryption_of(store)
        old = find_master(store.home, encryption)
        source = source_in_use(encryption["source"])
        if to is not None:
            new_place = place = key_file(to)
            check_outside(store.home, place)
        else:
            new_place, place = _staged_place(source, old), source
        with new_master(new_place) as master:
            registry_key, wrapped = Vault(old, registry_key_of(encryption)).rewrap(master, store.wrapped_keys())
            store.replace_wrapped_keys(wrapped)
            # Who keeps the key in the environment will put the new one there too.
            recorded = ENVIRONMENT if encryption["source"] == ENVIRONMENT else place
            store.set_encryption({**encryption, "source": recorded, **_wrapped(registry_key)})
            audit.append(store, "key.rotate", {"source": recorded})
    if new_place != place:
        move_key(new_place, place)
    store.empty_log(LOG_WAIT_S)
    return source, place


def backup_key(store: Store, path: Path) -> None:
    """Write the registry's key to a new file outside the home."""
    key = find_master(store.home, _encryption_of(store))
    copy = key_file(path)
    check_outside(store.home, copy)
    write_key(copy, key)


def _staged_place(source: str, key: bytes) -> str:
    """Where the new key is written to take the place of `key` at `source` later."""
    if source == ENVIRONMENT:
        raise KeyMissing(
            f"the key is in {name_of(source)}, where none can be written; name a file for the new one, --to FILE"
        )
    place = staged(source)
    if read_key(source) != key:
        raise KeyMissing(
            f"{name_of(place)}: holds the key in use, which could not be moved to {name_of(source)}; move it there"
        )
    delete_key(place)  # left by a rotation that was cut off before the registry changed
    return place


def _encryption_of(store: Store) -> dict[str, Any]:
    encryption = store.encryption
    if encryption is None:
        raise RegistryError(
            f"{store.home}: not encrypted, so it has no key; `likeness init --encrypt` makes a registry that is"
        )
    return encryption


def _wrapped(registry_key: bytes) -> dict[str, str]:
    return {"registry_key": base64.b64encode(registry_key).decode()}
