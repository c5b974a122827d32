"""What was done to the registry, by whom, as a hash chain: nothing in it can be changed or dropped unnoticed.

Each entry's hash covers the entry and, through the previous hash, all before it; the last one, the head, covers
everything. What an entry says (its payload) is not in the chain itself but a salted commitment to it: erasure deletes
payload and salt, and the chain still verifies. Cutting off the end is noticed by whoever kept a later head: every batch
prints it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Any

from registry.errors import StoreDamaged
from registry.store import Store, now

#: What the first entry gives as the hash before it.
GENESIS = "0" * 64


@dataclass(frozen=True)
class Head:
    """The last entry of the chain: number and hash; 0 and `GENESIS` of an empty one."""

    seq: int
    hash: str


@dataclass(frozen=True)
class Entry:
    """One entry; `payload` is None where it was erased."""

    seq: int
    at: str
    action: str
    artist: str | None
    payload: dict[str, Any] | None
    hash: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found: the head, entries, payloads that were erased, and what is wrong."""

    head: Head
    n_entries: int
    n_erased: int
    problems: tuple[str, ...]


def append(
    store: Store,
    action: str,
    payload: dict[str, Any],
    *,
    artist_id: int | None = None,
    track_id: int | None = None,
) -> None:
    """Add an entry; call inside `store.writing`, with what it tells of.

    Parameters
    ----------
    action : str
        What was done, as noun and verb: ``artist.rename``.
    payload : dict
        Plain JSON types. Who did it is added. Anything about an artist's or a track's person belongs in here.
    artist_id, track_id : int, optional
        Whom it is about: erased with them, and sealed with the artist's key in an encrypted registry.
    """
    head = head_of(store)
    text = json.dumps({**payload, "by": store.actor}, sort_keys=True)
    salt = secrets.token_bytes(32)
    entry = {
        "seq": head.seq + 1,
        "at": now(),
        "action": action,
        "commitment": _commitment(salt, text),
        "previous": head.hash,
    }
    store.insert("audit", {**entry, "hash": _hash(entry)})
    if artist_id is not None:
        text = store.seal_text(artist_id, text, "audit")
    store.insert(
        "audit_payloads",
        {"seq": entry["seq"], "artist_id": artist_id, "track_id": track_id, "salt": salt, "payload": text},
    )


def move_reference(store: Store, reference_id: int, artist_id: int, into_id: int) -> None:
    """Let what is said of a reference go with it to another artist; call inside `store.writing`."""
    for seq, text in reference_entries(store, artist_id, reference_id).items():
        moved = {"artist_id": into_id, "payload": store.seal_text(into_id, text, "audit")}
        store.db.table("audit_payloads").update(seq, moved)


def reference_entries(store: Store, artist_id: int, reference_id: int) -> dict[int, str]:
    """What is said of one reference of an artist, by number of the entry."""
    rows = store.rows(
        "SELECT seq, artist_id, payload FROM audit_payloads JOIN audit USING (seq) "
        "WHERE artist_id = ? AND action LIKE 'reference.%'",
        [artist_id],
    )
    texts = {row["seq"]: _unseal(store, row) for row in rows}
    return {seq: text for seq, text in texts.items() if json.loads(text).get("reference_id") == reference_id}


def head_of(store: Store) -> Head:
    """The last entry of the chain."""
    rows = store.rows("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    return Head(**rows[0]) if rows else Head(0, GENESIS)


def entries(store: Store, *, artist_id: int | None = None, last: int | None = None) -> list[Entry]:
    """Entries, oldest first: all, those about one artist and who was merged into it, or the last so many."""
    where, parameters = "", list[Any]()
    if artist_id is not None:
        where = " WHERE p.artist_id IN (SELECT value FROM json_each(?))"
        parameters = [json.dumps(store.with_merged(artist_id))]
    rows = store.rows(
        "SELECT a.seq, a.at, a.action, a.hash, p.artist_id, p.payload FROM audit a "
        f"LEFT JOIN audit_payloads p USING (seq){where} ORDER BY a.seq DESC LIMIT ?",
        [*parameters, -1 if last is None else last],
    )
    return [
        Entry(
            seq=row["seq"],
            at=row["at"],
            action=row["action"],
            artist=None if row["artist_id"] is None else store.name_of(row["artist_id"]),
            payload=None if row["payload"] is None else json.loads(_unseal(store, row)),
            hash=row["hash"],
        )
        for row in reversed(rows)
    ]


def verify(store: Store, *, heads: tuple[str, ...] = ()) -> Verification:
    """Check every link and every payload that is still there.

    Parameters
    ----------
    heads : tuple of str
        Heads that were noted earlier (or their beginnings, of 8 characters and more): each must be in the chain.
    """
    problems: list[str] = []
    expected, previous, n_erased = 1, GENESIS, 0
    seen: set[str] = set()
    # Not all at once: a chain grows by an entry with every run and enrolment, for years.
    for entry in store.each(
        "SELECT a.*, p.artist_id, p.salt, p.payload FROM audit a LEFT JOIN audit_payloads p USING (seq) ORDER BY a.seq"
    ):
        seq = entry["seq"]
        if seq != expected:
            problems.append(f"entry {expected} is missing")
        if entry["previous"] != previous:
            problems.append(f"entry {seq} does not follow the one before it")
        columns = ("seq", "at", "action", "commitment", "previous")
        if entry["hash"] != _hash({name: entry[name] for name in columns}):
            problems.append(f"entry {seq} was changed")
        if entry["payload"] is None:
            n_erased += 1
        elif not _fits(store, entry):
            problems.append(f"what entry {seq} says was changed")
        expected, previous = seq + 1, entry["hash"]
        seen.add(previous)
    problems += [
        f"head {head} is not in the chain: entries were cut off, or it is of another registry"
        for head in heads
        if not any(known.startswith(head.lower()) for known in seen)
    ]
    return Verification(Head(expected - 1, previous), len(seen), n_erased, tuple(problems))


def _fits(store: Store, row: dict[str, Any]) -> bool:
    """Whether a payload is the one that its entry commits to."""
    try:
        return bool(row["commitment"] == _commitment(row["salt"], _unseal(store, row)))
    except StoreDamaged:  # it does not even open
        return False


def _unseal(store: Store, row: dict[str, Any]) -> str:
    text: str = row["payload"]
    return text if row["artist_id"] is None else store.unseal_text(row["artist_id"], text, "audit")


def _commitment(salt: bytes, text: str) -> str:
    return hashlib.sha256(salt + text.encode()).hexdigest()


def _hash(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
