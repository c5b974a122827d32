"""Artists who are noted as sounding alike: the SQL of it, as functions on an open `Store`.

A note stays with the two artists it was made for. Where one of them was merged into another it is read as that one's,
so that a merge moves notes without touching them and an undone merge gives them back; of two notes that thereby say
the same the newer one counts, and one between an artist and itself says nothing. A split moves none: nobody can know
which of the two voices was meant.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from registry import audit
from registry.errors import RegistryError
from registry.records import ArtistSummary, Lookalike, Match, storable
from registry.store import Store, now

#: Rows of `lookalikes` between two lists of artists, given as JSON.
_BETWEEN = (
    "lookalikes WHERE artist_id IN (SELECT value FROM json_each(?1)) AND other_id IN (SELECT value FROM json_each(?2)) "
    "OR artist_id IN (SELECT value FROM json_each(?2)) AND other_id IN (SELECT value FROM json_each(?1))"
)


def note_lookalike(store: Store, artist: str, other: str, note: str | None = None) -> bool:
    """Note that two artists sound alike, or say something else of it; returns whether that is new.

    Parameters
    ----------
    note : str, optional
        For people. Where the two are noted already, None leaves what was said.

    Raises
    ------
    RegistryError
        Both names are one artist's.
    """
    note = None if note is None else storable(note.strip())
    with store.writing():
        one, two = _pair(store, artist, other)
        known = [lookalike for lookalike in lookalikes_of(store, one.artist_id) if lookalike.artist_id == two.artist_id]
        if known and note in (None, known[0].note):
            return False
        store.db.execute(f"DELETE FROM {_BETWEEN}", _families(store, one, two))
        artist_id, other_id = sorted([one.artist_id, two.artist_id])
        row = {"artist_id": artist_id, "other_id": other_id, "noted_at": now(), "noted_by": store.actor}
        store.insert("lookalikes", {**row, "note": store.seal_text(artist_id, note or "", "lookalike")})
        _tell(store, "lookalike.note", one, two)
    return True


def remove_lookalike(store: Store, artist: str, other: str) -> None:
    """Take back that two artists sound alike.

    Raises
    ------
    RegistryError
        It is not noted.
    """
    with store.writing():
        one, two = _pair(store, artist, other)
        if not store.db.execute(f"DELETE FROM {_BETWEEN}", _families(store, one, two)).rowcount:
            raise RegistryError(f"{one.name} and {two.name} are not noted as sounding alike; nothing to take back")
        _tell(store, "lookalike.remove", one, two)


def lookalikes_of(store: Store, artist_id: int) -> list[Lookalike]:
    """Who is noted as sounding like an artist, by name."""
    family = set(store.with_merged(artist_id))
    found: dict[int, Lookalike] = {}
    for row in notes_on_record(store, artist_id):
        outside = {row["artist_id"], row["other_id"]} - family
        for other_id in outside:  # none where both were merged into one
            survivor_id = _survivor(store, other_id)
            name = store.artist_name(survivor_id)
            found[survivor_id] = Lookalike(survivor_id, name, row["note"], row["noted_at"], row["noted_by"])
    return sorted(found.values(), key=lambda lookalike: lookalike.artist)


def notes_on_record(store: Store, artist_id: int) -> list[dict[str, Any]]:
    """Every row of `lookalikes` of an artist and of those merged into it, oldest first; also what counts no more."""
    rows = store.rows(
        "SELECT * FROM lookalikes WHERE artist_id IN (SELECT value FROM json_each(?1)) "
        "OR other_id IN (SELECT value FROM json_each(?1)) ORDER BY noted_at, rowid",
        [json.dumps(store.with_merged(artist_id))],
    )
    return [{**row, "note": store.unseal_text(row["artist_id"], row["note"], "lookalike")} for row in rows]


def with_lookalikes(store: Store, matches: Sequence[Match]) -> tuple[Match, ...]:
    """The matches of one scan, each with those of the others that are noted as sounding like it."""
    if len(matches) < 2:
        return tuple(matches)
    rows = store.rows(_AMONG, [json.dumps([match.artist_id for match in matches])])
    alike: dict[int, set[int]] = {match.artist_id: set() for match in matches}
    for row in rows:
        alike[row["one_id"]].add(row["other_id"])
        alike[row["other_id"]].add(row["one_id"])
    return tuple(replace(match, lookalike_ids=tuple(sorted(alike[match.artist_id]))) for match in matches)


#: Pairs among some artists that are noted, also for those they were merged into or who were merged into them.
_AMONG = """
    WITH RECURSIVE
        upwards (asked_id, artist_id) AS (
            SELECT value, value FROM json_each(?)
            UNION SELECT u.asked_id, a.merged_into FROM upwards u JOIN artists a USING (artist_id)
            WHERE a.merged_into IS NOT NULL),
        family (asked_id, artist_id) AS (
            SELECT * FROM upwards
            UNION SELECT f.asked_id, a.artist_id FROM family f JOIN artists a ON a.merged_into = f.artist_id)
    SELECT DISTINCT one.asked_id AS one_id, other.asked_id AS other_id
    FROM lookalikes l JOIN family one USING (artist_id) JOIN family other ON other.artist_id = l.other_id
    WHERE one.asked_id NOT IN (SELECT asked_id FROM family f WHERE f.artist_id = other.asked_id)"""


def _pair(store: Store, artist: str, other: str) -> tuple[ArtistSummary, ArtistSummary]:
    one, two = store.artist(artist), store.artist(other)
    if one.artist_id == two.artist_id:
        raise RegistryError(f"{other}: is {one.name} itself; lookalikes are two artists")
    return one, two


def _families(store: Store, *artists: ArtistSummary) -> list[Any]:
    return [json.dumps(store.with_merged(artist.artist_id)) for artist in artists]


def _survivor(store: Store, artist_id: int) -> int:
    """The artist that this one was merged into, or itself."""
    (row,) = store.rows(
        "WITH RECURSIVE upwards (artist_id) AS (SELECT ? UNION ALL SELECT a.merged_into FROM upwards "
        "JOIN artists a USING (artist_id) WHERE a.merged_into IS NOT NULL) "
        "SELECT artist_id FROM upwards JOIN artists USING (artist_id) WHERE merged_into IS NULL",
        [artist_id],
    )
    return int(row["artist_id"])


def _tell(store: Store, action: str, one: ArtistSummary, two: ArtistSummary) -> None:
    """Write into the audit of each, without the other's name or the note, which may hold it: either may be removed."""
    for artist, other in ((one, two), (two, one)):
        audit.append(store, action, {"other_uid": other.uid}, artist_id=artist.artist_id)
