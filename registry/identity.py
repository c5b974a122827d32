"""Which names and references belong to whom: aliases, merges and splits, each of which can be undone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from registry import audit
from registry.errors import RegistryError
from registry.records import IdentityChange
from registry.references import condense_artist
from registry.store import Store, now


def rename_artist(store: Store, artist: str, new_name: str) -> None:
    """Give an artist another name; refused when that one leads to somebody else."""
    with store.writing():
        summary = store.artist(artist)
        if summary.name != new_name:
            store.set_name(summary.artist_id, new_name)
            audit.append(store, "artist.rename", {"from": summary.name, "to": new_name}, artist_id=summary.artist_id)


def add_alias(store: Store, artist: str, alias: str) -> int:
    """Let another name lead to an artist; returns the change_id."""
    with store.writing():
        artist_id = store.artist(artist).artist_id
        store.add_name(artist_id, alias, alias=alias)
        return _record(store, artist_id, "alias", {"alias": alias})


def merge_artists(store: Store, artist: str, other: str) -> int:
    """Make two artists one: what was enrolled for `other` is `artist`'s, and its name leads there.

    Returns
    -------
    int
        The change_id, for `undo_change`.

    Raises
    ------
    RegistryError
        They are the same already.
    """
    with store.writing():
        into, source = store.artist(artist), store.artist(other)
        if into.artist_id == source.artist_id:
            raise RegistryError(f"{other}: is {into.name} already; nothing to merge")
        known = {reference.content_id for reference in store.references(into.name)}
        twice = [ref.path for ref in store.references(source.name) if ref.content_id in known]
        if twice:
            raise RegistryError(
                f"{twice[0]}: is enrolled for both; remove it from one of them first (`likeness artists remove "
                "ARTIST --reference ID`)"
            )
        detail = {"artist_id": source.artist_id, **_move(store, source.artist_id, into.artist_id)}
        store.db.table("artists").update(source.artist_id, {"merged_into": into.artist_id})
        condense_artist(store, source.artist_id)
        condense_artist(store, into.artist_id)
        return _record(store, into.artist_id, "merge", detail)


def split_artist(store: Store, artist: str, reference_ids: Sequence[int], new_name: str) -> int:
    """Make some of an artist's references another, new artist's; consents are copied. Returns the change_id."""
    with store.writing():
        source = store.artist(artist)
        own = [reference.reference_id for reference in store.references(source.name)]
        if strangers := sorted(set(reference_ids) - set(own)):
            raise RegistryError(
                f"reference {strangers[0]}: is not {source.name}'s, whose are {', '.join(map(str, own))}"
            )
        if set(reference_ids) == set(own):
            raise RegistryError(f"{source.name}: all its references would go; rename it instead")
        if store.find_artist(new_name) is not None:
            raise RegistryError(f"{new_name}: is enrolled already; split into a new name, then merge the two")
        new_id = store.add_artist(new_name)
        moved = {reference_id: _consent_of(store, reference_id) for reference_id in reference_ids}
        copies = {consent_id: _copy_consent(store, consent_id, new_id) for consent_id in sorted(set(moved.values()))}
        for reference_id, consent_id in moved.items():
            _move_reference(store, reference_id, new_id, copies[consent_id])
        condense_artist(store, source.artist_id)
        condense_artist(store, new_id)
        detail = {"artist_id": new_id, "references": moved, "consents": copies}
        return _record(store, source.artist_id, "split", detail)


def undo_change(store: Store, change_id: int) -> IdentityChange:
    """Undo an alias, merge or split.

    Raises
    ------
    RegistryError
        There is none of that number, it is undone already, or what it made has changed since.
    """
    with store.writing():
        rows = store.rows("SELECT * FROM identity_changes WHERE change_id = ?", [change_id])
        if not rows:
            raise RegistryError(
                f"change {change_id}: there is none of that number; `likeness artists changes` lists them"
            )
        change = _change(store, rows[0])
        if change.undone_at is not None:
            raise RegistryError(f"change {change_id}: was undone at {change.undone_at}; nothing to do")
        artist_id, detail = rows[0]["artist_id"], change.detail
        if change.action == "alias":
            _drop_alias(store, change_id, artist_id, detail["alias"])
        else:
            _check_untouched(store, change, {artist_id, detail["artist_id"]})
            is_merge = change.action == "merge"
            _move_back(store, detail["references"], detail["artist_id"] if is_merge else artist_id)
            for consent_id, copy_id in detail["consents"].items():
                _take_back(store, int(consent_id), copy_id)
            if is_merge:
                store.db.table("artists").update(detail["artist_id"], {"merged_into": None})
            else:
                _retire(store, change_id, detail["artist_id"], artist_id)
            condense_artist(store, detail["artist_id"])
        condense_artist(store, artist_id)
        store.db.table("identity_changes").update(change_id, {"undone_at": now()})
        audit.append(store, "artist.undo", {"change_id": change_id}, artist_id=artist_id)
        return _change(store, store.rows("SELECT * FROM identity_changes WHERE change_id = ?", [change_id])[0])


def changes(store: Store, artist: str | None = None) -> list[IdentityChange]:
    """Aliases, merges and splits of one artist and those merged into it, or of all, oldest first."""
    rows = store.rows("SELECT * FROM identity_changes ORDER BY change_id")
    if artist is not None:
        ids = store.with_merged(store.artist(artist).artist_id)
        rows = [row for row in rows if row["artist_id"] in ids]
    return [_change(store, row) for row in rows]


def _drop_alias(store: Store, change_id: int, artist_id: int, alias: str) -> None:
    name_key, _ = store.name_keys(alias)
    chosen = "names WHERE artist_id = ? AND name_key = ? AND alias IS NOT NULL"
    if not store.db.execute(f"DELETE FROM {chosen}", [artist_id, name_key]).rowcount:
        raise RegistryError(f"change {change_id}: {alias} is no alias of {store.name_of(artist_id)} any more")


def _check_untouched(store: Store, change: IdentityChange, artist_ids: set[int]) -> None:
    """Raise `RegistryError` where what a merge or split moved was moved on by a later one, or an artist is gone."""
    if store.present(artist_ids) != artist_ids:
        raise RegistryError(f"change {change.change_id}: an artist of it was removed since; it cannot be undone")
    copies = {str(copy) for copy in change.detail["consents"].values()}  # each reference that it moved rests on one
    for row in store.rows(
        "SELECT * FROM identity_changes WHERE change_id > ? AND undone_at IS NULL AND action != 'alias'",
        [change.change_id],
    ):
        later = _change(store, row)
        took_away = later.action == "merge" and later.detail["artist_id"] in artist_ids
        if took_away or copies & set(later.detail["consents"]):
            raise RegistryError(
                f"change {change.change_id}: change {later.change_id}, a {later.action}, moved what it moved on; "
                "undo that one first"
            )


def _retire(store: Store, change_id: int, artist_id: int, into_id: int) -> None:
    """Let an artist who came of a split be the one it was split from, and its name be free again."""
    if store.reference_ids(artist_id):
        raise RegistryError(f"change {change_id}: {store.name_of(artist_id)} has more references since; merge instead")
    # Not deleted: scans of the time between name it.
    name = store.seal_text(artist_id, f"split off in change {change_id}", "name")
    store.db.execute("DELETE FROM names WHERE artist_id = ?", [artist_id])
    store.db.table("artists").update(artist_id, {"merged_into": into_id, "name": name})


def _record(store: Store, artist_id: int, action: str, detail: dict[str, Any]) -> int:
    row = {"artist_id": artist_id, "action": action, "changed_at": now(), "changed_by": store.actor}
    sealed = store.seal_text(artist_id, json.dumps(detail), "change")
    change_id = store.insert("identity_changes", {**row, "detail": sealed})
    audit.append(store, f"artist.{action}", {"change_id": change_id, **detail}, artist_id=artist_id)
    return change_id


def _change(store: Store, row: dict[str, Any]) -> IdentityChange:
    columns = {name: value for name, value in row.items() if name not in ("artist_id", "detail")}
    detail = json.loads(store.unseal_text(row["artist_id"], row["detail"], "change"))
    return IdentityChange(**columns, artist=store.name_of(row["artist_id"]), detail=detail)


def _move(store: Store, artist_id: int, into_id: int) -> dict[str, Any]:
    """Make everything enrolled for one artist another's; returns what is needed to move it back."""
    consents = [
        row["consent_id"] for row in store.rows("SELECT consent_id FROM consents WHERE artist_id = ?", [artist_id])
    ]
    references = {}
    copies = {consent_id: _copy_consent(store, consent_id, into_id) for consent_id in consents}
    for reference_id in store.reference_ids(artist_id):
        references[reference_id] = _consent_of(store, reference_id)
        _move_reference(store, reference_id, into_id, copies[references[reference_id]])
    return {"references": references, "consents": copies}


def _move_back(store: Store, references: dict[str, int], artist_id: int) -> None:
    """Make references, by number and the consent they rested on, an artist's again; removed ones stay so."""
    here = {row["reference_id"] for row in store.rows("SELECT reference_id FROM artist_references")}
    for reference_id, consent_id in references.items():
        if int(reference_id) in here:
            _move_reference(store, int(reference_id), artist_id, consent_id)


def _take_back(store: Store, consent_id: int, copy_id: int) -> None:
    """Forget the copy of a consent that a merge made; if it was withdrawn meanwhile, so is the consent."""
    (copy,) = store.rows("SELECT withdrawn_at FROM consents WHERE consent_id = ?", [copy_id])
    if copy["withdrawn_at"] is not None:
        store.db.table("consents").update(consent_id, {"withdrawn_at": copy["withdrawn_at"]})
    if not store.rows("SELECT 1 FROM artist_references WHERE consent_id = ?", [copy_id]):
        store.db.execute("DELETE FROM consents WHERE consent_id = ?", [copy_id])


def _move_reference(store: Store, reference_id: int, artist_id: int, consent_id: int) -> None:
    """Make a reference another artist's, with what the audit says of it."""
    (row,) = store.rows("SELECT artist_id FROM artist_references WHERE reference_id = ?", [reference_id])
    store.move_reference(reference_id, artist_id, consent_id)
    audit.move_reference(store, reference_id, row["artist_id"], artist_id)


def _consent_of(store: Store, reference_id: int) -> int:
    rows = store.rows("SELECT consent_id FROM artist_references WHERE reference_id = ?", [reference_id])
    return int(rows[0]["consent_id"])


def _copy_consent(store: Store, consent_id: int, artist_id: int) -> int:
    """The same consent on another artist's record."""
    (row,) = store.rows("SELECT * FROM consents WHERE consent_id = ?", [consent_id])
    ref = store.unseal_text(row["artist_id"], row["ref"], "consent")
    copy = {name: row[name] for name in ("recorded_at", "expires_at", "withdrawn_at")}
    return store.insert("consents", {**copy, "artist_id": artist_id, "ref": store.seal_text(artist_id, ref, "consent")})
