from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from registry import audit
from registry.audit import GENESIS, Head, Verification
from registry.config import RETENTION_DAYS, change_setting
from registry.erasure import erase_artist
from registry.identity import add_alias, merge_artists, rename_artist
from registry.records import Consent
from registry.rights import withdraw_consent
from registry.store import Store
from tests.fakes import enroll_vectors, files_holding, singer


@pytest.fixture
def store(any_store) -> Store:
    any_store.actor = "ida"
    return any_store


@pytest.fixture
def told(store, encoder) -> Store:
    """Some entries about two artists."""
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    rename_artist(store, "Ada", "Ada Vale")
    change_setting(store, RETENTION_DAYS, 90)
    return store


def n_entries(store: Store) -> int:
    return len(store.rows("SELECT seq FROM audit"))


def change(store: Store, sql: str, *parameters: Any) -> None:
    """Change the database as somebody would who gets at the file."""
    store.db.execute("PRAGMA foreign_keys = OFF")
    with store.writing():
        store.db.execute(sql, parameters)
    store.db.execute("PRAGMA foreign_keys = ON")


# --- what it says ---


def test_an_empty_chain_is_sound(any_store):
    n = 0 if any_store.encryption is None else 1  # that it was encrypted

    found = audit.verify(any_store)

    assert (found.n_entries, found.n_erased, found.problems) == (n, 0, ())
    assert n or found.head == audit.head_of(any_store) == Head(0, GENESIS)


def test_entries_say_what_was_done_by_whom_to_whom(told):
    found = audit.entries(told)

    assert [(entry.action, entry.artist) for entry in found][-6:] == [
        ("consent.add", "Ada Vale"),
        ("reference.enroll", "Ada Vale"),
        ("consent.add", "Bo"),
        ("reference.enroll", "Bo"),
        ("artist.rename", "Ada Vale"),
        ("config.set", None),
    ]
    assert found[-1].payload == {"key": "retention-days", "from": None, "to": 90, "by": "ida"}
    assert {entry.payload["by"] for entry in found[-6:]} == {"ida"}
    assert [entry.seq for entry in found] == list(range(1, n_entries(told) + 1))
    assert audit.entries(told, last=2) == found[-2:]
    of_ada = audit.entries(told, artist_id=1)
    assert of_ada == [entry for entry in found if entry.artist == "Ada Vale"]
    assert audit.entries(told, artist_id=1, last=1) == of_ada[-1:]


def test_entries_about_one_who_was_merged_are_the_others_too(told):
    merge_artists(told, "Bo", "Ada Vale")

    assert [entry.action for entry in audit.entries(told, artist_id=2)] == [
        *("consent.add", "reference.enroll") * 2,
        *("artist.rename", "artist.merge"),
    ]


def test_the_chain_verifies_and_the_head_is_its_last_hash(told):
    found = audit.verify(told)

    last = told.rows("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")[0]
    assert found == Verification(Head(last["seq"], last["hash"]), last["seq"], 0, ())
    assert audit.head_of(told) == found.head


def test_a_stranger_verifies_it_with_sha256_alone(tmp_path):
    with Store(tmp_path / "plain", create=True) as store:
        for payload in ({"a": 1}, {"b": "\u00e4"}):
            with store.writing():
                audit.append(store, "test.add", payload)
        rows = store.rows("SELECT * FROM audit JOIN audit_payloads USING (seq) ORDER BY seq")
    previous = "0" * 64
    for row in rows:
        entry = {name: row[name] for name in ("seq", "at", "action", "commitment", "previous")}
        assert row["previous"] == previous
        assert row["hash"] == hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
        assert row["commitment"] == hashlib.sha256(row["salt"] + row["payload"].encode()).hexdigest()
        previous = row["hash"]
    assert len(rows) == 2


def test_the_same_entry_twice_commits_to_two_things(store):
    """Without salt, who is erased could be found again by hashing guesses."""
    for _ in range(2):
        with store.writing():
            audit.append(store, "test.add", {"name": "Ada"})

    one, two = store.rows("SELECT commitment FROM audit ORDER BY seq DESC LIMIT 2")
    assert one != two


def test_an_entry_belongs_to_what_it_tells_of(store):
    with pytest.raises(KeyboardInterrupt, match="in the middle"), store.writing():
        audit.append(store, "test.add", {})
        raise KeyboardInterrupt("in the middle")

    assert audit.verify(store).problems == ()
    assert [entry.action for entry in audit.entries(store)] in ([], ["registry.encrypt"])


# --- what is noticed ---


@pytest.mark.parametrize("column", ["at", "action", "commitment", "previous", "hash"])
@pytest.mark.parametrize("place", [1, 3, -1], ids=["first", "middle", "last"])
def test_any_changed_column_of_any_entry_is_found(told, column, place):
    seq = place if place > 0 else n_entries(told)
    change(told, f"UPDATE audit SET {column} = substr({column}, 2) || 'x' WHERE seq = ?", seq)

    found = audit.verify(told)

    own = {
        "at": [f"entry {seq} was changed"],
        "action": [f"entry {seq} was changed"],
        "commitment": [f"entry {seq} was changed", f"what entry {seq} says was changed"],
        "previous": [f"entry {seq} does not follow the one before it", f"entry {seq} was changed"],
        "hash": [f"entry {seq} was changed", f"entry {seq + 1} does not follow the one before it"],
    }[column]
    assert list(found.problems) == (own[:1] if column == "hash" and place == -1 else own)


def test_a_change_with_a_new_hash_breaks_the_next_link(told):
    """Whoever changes an entry and hashes it again has to do so with all that follow, and then the head is another."""
    (row,) = told.rows("SELECT seq, at, action, commitment, previous FROM audit WHERE seq = 2")
    row["action"] = "nothing.done"
    change(
        told,
        "UPDATE audit SET action = ?, hash = ? WHERE seq = 2",
        row["action"],
        hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest(),
    )

    assert audit.verify(told).problems == ("entry 3 does not follow the one before it",)


@pytest.mark.parametrize("seq", [1, 3])
def test_a_removed_entry_is_found(told, seq):
    change(told, "DELETE FROM audit_payloads WHERE seq = ?", seq)
    change(told, "DELETE FROM audit WHERE seq = ?", seq)

    assert audit.verify(told).problems == (
        f"entry {seq} is missing",
        f"entry {seq + 1} does not follow the one before it",
    )


def test_swapped_entries_are_found(told):
    change(told, "UPDATE audit SET seq = CASE seq WHEN 2 THEN -3 WHEN 3 THEN -2 END WHERE seq IN (2, 3)")
    change(told, "UPDATE audit SET seq = -seq WHERE seq < 0")

    problems = audit.verify(told).problems

    assert [f"entry {seq} was changed" in problems for seq in (1, 2, 3, 4)] == [False, True, True, False]
    assert [f"what entry {seq} says was changed" in problems for seq in (2, 3)] == [True, True]


def test_an_entry_put_in_between_is_found(told):
    with told.writing():
        audit.append(told, "test.add", {})
    last = n_entries(told)
    change(told, "UPDATE audit SET seq = seq + 1 WHERE seq = ?", last)

    assert f"entry {last} is missing" in audit.verify(told).problems


@pytest.mark.parametrize(
    "how", ["payload = json_set(payload, '$.by', 'nobody')", "payload = '{}'", "salt = zeroblob(32)"]
)
def test_a_changed_payload_is_found(told, how):
    last = n_entries(told)  # about no artist, so that it is not sealed
    change(told, f"UPDATE audit_payloads SET {how} WHERE seq = ?", last)

    assert audit.verify(told).problems == (f"what entry {last} says was changed",)


def test_a_changed_payload_about_an_artist_is_found_also_where_it_is_sealed(told):
    seqs = [row["seq"] for row in told.rows("SELECT seq FROM audit_payloads WHERE artist_id = 1 ORDER BY seq")]
    change(told, "UPDATE audit_payloads SET payload = payload || 'A' WHERE seq = ?", seqs[0])
    (other,) = told.rows("SELECT payload FROM audit_payloads WHERE seq = ?", [seqs[1]])
    change(told, "UPDATE audit_payloads SET payload = ? WHERE seq = ?", other["payload"], seqs[2])

    assert audit.verify(told).problems == (
        f"what entry {seqs[0]} says was changed",
        f"what entry {seqs[2]} says was changed",
    )


def test_payloads_that_were_swapped_are_found(told):
    one, two = (told.rows("SELECT salt, payload FROM audit_payloads WHERE artist_id = ?", [k])[0] for k in (1, 2))
    for artist_id, row in ((1, two), (2, one)):
        (seq,) = told.rows("SELECT MIN(seq) AS seq FROM audit_payloads WHERE artist_id = ?", [artist_id])
        change(
            told,
            "UPDATE audit_payloads SET salt = ?, payload = ? WHERE seq = ?",
            *(row["salt"], row["payload"], seq["seq"]),
        )

    assert len(audit.verify(told).problems) == 2


def test_an_end_that_was_cut_off_is_found_by_a_head_noted_before_and_by_nothing_else(told):
    head, earlier = audit.head_of(told), told.rows("SELECT hash FROM audit WHERE seq = 2")[0]["hash"]
    change(told, "DELETE FROM audit_payloads WHERE seq > 3")
    change(told, "DELETE FROM audit WHERE seq > 3")

    assert audit.verify(told).problems == ()
    assert audit.verify(told, heads=(earlier,)).problems == ()
    assert audit.verify(told, heads=(earlier[:8], head.hash[:12], head.hash.upper())).problems == tuple(
        f"head {text} is not in the chain: entries were cut off, or it is of another registry"
        for text in (head.hash[:12], head.hash.upper())
    )


def test_heads_noted_earlier_stay_in_the_chain(told):
    heads = []
    for k in range(3):
        heads.append(audit.head_of(told).hash)
        change_setting(told, RETENTION_DAYS, k + 1)

    assert audit.verify(told, heads=tuple(heads)).problems == ()


# --- erasure ---


def test_what_was_erased_with_an_artist_leaves_a_chain_that_verifies(told):
    head = audit.head_of(told)
    n_of_ada = len(audit.entries(told, artist_id=1))

    erase_artist(told, "Ada Vale", print)

    found = audit.verify(told, heads=(head.hash,))
    assert (found.problems, found.n_erased, found.n_entries) == ((), n_of_ada, head.seq + 1)
    erased = [entry for entry in audit.entries(told) if entry.payload is None]
    assert {(entry.artist, entry.action) for entry in erased} == {
        (None, "consent.add"),
        (None, "reference.enroll"),
        (None, "artist.rename"),
    }


def test_nothing_of_a_person_stands_in_the_chain_itself(store, encoder):
    """Table `audit` outlives everybody; whatever says who somebody is stands in `audit_payloads`."""
    mark = "Zaubernuss"
    store.actor = f"{mark} staff"
    enroll_vectors(store, encoder, f"{mark} Ada", singer(0), content=f"{mark}.wav", consent=Consent(f"{mark} release"))
    add_alias(store, f"{mark} Ada", f"{mark} alias")
    rename_artist(store, f"{mark} Ada", f"{mark} Bo")
    withdraw_consent(store, f"{mark} Bo")
    change_setting(store, RETENTION_DAYS, 90)
    said = json.dumps([entry.payload for entry in audit.entries(store)])
    assert said.count(mark) > 8

    erase_artist(store, f"{mark} Bo", print)

    rows = store.rows("SELECT * FROM audit")
    assert len(rows) >= 7
    assert mark not in json.dumps(rows)
    content_id = hashlib.sha256(f"{mark}.wav".encode()).hexdigest()
    assert content_id not in json.dumps(rows)


def test_what_is_said_of_an_artist_is_sealed_with_the_artists_key(encrypted_store, encoder):
    enroll_vectors(encrypted_store, encoder, "Zaubernuss", singer(0), content="Zaubernuss.wav")

    assert files_holding(encrypted_store.home, b"Zaubernuss") == []
    assert audit.verify(encrypted_store).problems == ()
