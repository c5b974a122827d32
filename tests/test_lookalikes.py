from __future__ import annotations

from dataclasses import replace

import pytest

from registry import audit, scans
from registry.check import find_problems
from registry.erasure import erase_artist
from registry.errors import RegistryError, UnknownArtist
from registry.identity import add_alias, merge_artists, split_artist, undo_change
from registry.lookalikes import lookalikes_of, note_lookalike, notes_on_record, remove_lookalike, with_lookalikes
from registry.match import write_store_index
from registry.records import Lookalike
from registry.report import scan_text
from registry.store import Store
from tests.fakes import enroll_vectors, files_holding, make_matcher, make_voiceprint, singer, unit

ADA, BO, CY, DI = 1, 2, 3, 4


@pytest.fixture
def store(any_store) -> Store:
    any_store.actor = "ida"
    return any_store


@pytest.fixture
def four(store, encoder) -> Store:
    """Ada, Bo, Cy and Di, each with a voice of her own."""
    for axis, name in enumerate(("Ada", "Bo", "Cy", "Di")):
        enroll_vectors(store, encoder, name, singer(axis, seed=axis))
    write_store_index(store, lambda _: None)
    return store


def alike(store: Store) -> dict[str, list[tuple[str, str]]]:
    """Who is noted to sound like whom, with the note."""
    return {
        artist.name: [(one.artist, one.note) for one in found]
        for artist in store.artists()
        if (found := lookalikes_of(store, artist.artist_id))
    }


# --- noting ---


def test_a_note_is_read_from_either_side(four):
    assert note_lookalike(four, "Cy", "ada", " sisters ")  # whichever way round, by whatever name

    (of_ada,), (of_cy,) = lookalikes_of(four, ADA), lookalikes_of(four, CY)
    assert replace(of_ada, noted_at="") == Lookalike(CY, "Cy", "sisters", "", "ida")
    assert of_cy == replace(of_ada, artist_id=ADA, artist="Ada")
    assert of_ada.noted_at.endswith("Z")
    assert (lookalikes_of(four, BO), find_problems(four)) == ([], [])


def test_more_than_one_are_listed_by_name(four):
    for other in ("Di", "Bo"):
        note_lookalike(four, "Ada", other)

    assert alike(four) == {"Ada": [("Bo", ""), ("Di", "")], "Bo": [("Ada", "")], "Di": [("Ada", "")]}


def test_noting_again_says_so_and_another_note_takes_the_place_of_the_first(four):
    assert note_lookalike(four, "Ada", "Bo", "sisters")

    again = [note_lookalike(four, "Bo", "Ada", note) for note in (None, "sisters", "cousins", "")]

    assert again == [False, False, True, True]
    assert alike(four)["Ada"] == [("Bo", "")]
    assert len(four.rows("SELECT * FROM lookalikes")) == 1
    assert len(audit.entries(four, artist_id=ADA)) == 2 + 3  # of the enrolment, and of what was noted


def test_a_note_is_taken_back(four):
    note_lookalike(four, "Ada", "Bo")
    note_lookalike(four, "Ada", "Cy")

    remove_lookalike(four, "Bo", "Ada")

    assert alike(four) == {"Ada": [("Cy", "")], "Cy": [("Ada", "")]}


@pytest.mark.parametrize("change", [note_lookalike, remove_lookalike])
def test_artists_that_are_none_or_one_are_refused(four, change):
    add_alias(four, "Ada", "DJ Vale")

    with pytest.raises(UnknownArtist, match="Zuzu: not enrolled"):
        change(four, "Ada", "Zuzu")
    with pytest.raises(RegistryError, match=r"^DJ Vale: is Ada itself; lookalikes are two artists$"):
        change(four, "Ada", "DJ Vale")

    assert alike(four) == {}


def test_what_is_not_noted_cannot_be_taken_back(four):
    note_lookalike(four, "Ada", "Bo")
    n_entries = len(audit.entries(four))

    with pytest.raises(RegistryError, match=r"^Ada and Cy are not noted as sounding alike; nothing to take back$"):
        remove_lookalike(four, "Ada", "Cy")

    assert (alike(four)["Ada"], len(audit.entries(four))) == ([("Bo", "")], n_entries)


def test_the_audit_says_it_of_both_without_what_would_name_the_other(four):
    note_lookalike(four, "Ada", "Bo", "as like as two peas to Ada")
    remove_lookalike(four, "Ada", "Bo")

    uids = {artist.name: artist.uid for artist in four.artists()}
    assert [(entry.action, entry.artist, entry.payload) for entry in audit.entries(four, last=4)] == [
        ("lookalike.note", "Ada", {"by": "ida", "other_uid": uids["Bo"]}),
        ("lookalike.note", "Bo", {"by": "ida", "other_uid": uids["Ada"]}),
        ("lookalike.remove", "Ada", {"by": "ida", "other_uid": uids["Bo"]}),
        ("lookalike.remove", "Bo", {"by": "ida", "other_uid": uids["Ada"]}),
    ]
    assert audit.verify(four).problems == ()


def test_a_note_that_is_not_text_is_kept_as_what_can_be_stored(four):
    note_lookalike(four, "Ada", "Bo", "caf\udce9")

    assert alike(four)["Ada"] == [("Bo", "caf\\udce9")]


def test_in_an_encrypted_registry_the_note_is_sealed(four):
    note_lookalike(four, "Ada", "Bo", "Zaubernuss")
    four.db.execute("PRAGMA wal_checkpoint").fetchone()

    assert alike(four)["Bo"] == [("Ada", "Zaubernuss")]
    assert bool(files_holding(four.home, b"Zaubernuss")) == (four.encryption is None)


# --- removal ---


@pytest.mark.parametrize("removed", ["Ada", "Bo"])
def test_nothing_of_a_note_outlives_either_artist(four, removed):
    note_lookalike(four, "Ada", "Bo", "Zaubernuss")
    note_lookalike(four, "Cy", "Di", "stays")

    receipt = erase_artist(four, removed, lambda _: None)

    assert receipt["removed"]["lookalikes"] == 1
    assert alike(four) == {"Cy": [("Di", "stays")], "Di": [("Cy", "stays")]}
    assert len(four.rows("SELECT * FROM lookalikes")) == 1
    assert files_holding(four.home, b"Zaubernuss") == []
    left = [entry for entry in audit.entries(four) if entry.action == "lookalike.note" and entry.payload]
    assert sorted(entry.artist for entry in left) == sorted({"Ada", "Bo", "Cy", "Di"} - {removed})
    assert find_problems(four) == []


# --- merges and splits ---


def test_a_merge_makes_the_notes_those_of_who_is_left_and_is_undone(four):
    note_lookalike(four, "Bo", "Cy", "cousins")
    note_lookalike(four, "Bo", "Ada", "one and the same?")  # as they were
    before = alike(four)

    change_id = merge_artists(four, "Ada", "Bo")
    merged = alike(four)
    undo_change(four, change_id)

    assert merged == {"Ada": [("Cy", "cousins")], "Cy": [("Ada", "cousins")]}
    assert alike(four) == before


def test_of_two_notes_that_say_the_same_after_a_merge_one_is_left(four):
    note_lookalike(four, "Ada", "Cy", "older")
    note_lookalike(four, "Bo", "Cy", "newer")
    with four.writing():
        four.db.execute("UPDATE lookalikes SET noted_at = '2020-01-01T00:00:00Z' WHERE artist_id = ?", [ADA])

    merge_artists(four, "Ada", "Bo")

    assert alike(four) == {"Ada": [("Cy", "newer")], "Cy": [("Ada", "newer")]}
    remove_lookalike(four, "Ada", "Cy")
    assert alike(four) == {}
    assert four.rows("SELECT * FROM lookalikes") == []


def test_notes_that_count_no_more_after_a_merge_are_still_on_record(four):
    note_lookalike(four, "Ada", "Cy", "older")
    note_lookalike(four, "Bo", "Cy", "newer")
    note_lookalike(four, "Ada", "Bo", "one and the same?")
    merge_artists(four, "Ada", "Bo")

    assert [[row["note"] for row in notes_on_record(four, artist_id)] for artist_id in (ADA, CY, DI)] == [
        ["older", "newer", "one and the same?"],
        ["older", "newer"],
        [],
    ]


def test_what_is_noted_after_a_merge_takes_the_place_of_all_before(four):
    note_lookalike(four, "Bo", "Cy", "before")
    merge_artists(four, "Ada", "Bo")
    merge_artists(four, "Cy", "Di")

    assert note_lookalike(four, "Di", "Bo", "after")

    assert alike(four) == {"Ada": [("Cy", "after")], "Cy": [("Ada", "after")]}
    assert len(four.rows("SELECT * FROM lookalikes")) == 1


def test_removing_an_artist_removes_the_notes_of_those_merged_into_it(four):
    note_lookalike(four, "Bo", "Cy", "cousins")
    merge_artists(four, "Ada", "Bo")

    receipt = erase_artist(four, "Ada", lambda _: None)

    assert (receipt["removed"]["lookalikes"], alike(four)) == (1, {})


def test_a_split_leaves_the_notes_where_they_are_and_when_undone_brings_the_new_ones(four, encoder):
    enroll_vectors(four, encoder, "Ada", singer(0, seed=9), content="second")
    note_lookalike(four, "Ada", "Cy", "cousins")

    change_id = split_artist(four, "Ada", [5], "Eve")
    split = alike(four)
    note_lookalike(four, "Eve", "Di")
    undo_change(four, change_id)

    assert split == {"Ada": [("Cy", "cousins")], "Cy": [("Ada", "cousins")]}
    assert alike(four)["Ada"] == [("Cy", "cousins"), ("Di", "")]


# --- in results ---

#: As near to Ada as to Bo, and far from the others.
BOTH = make_voiceprint(unit(singer(0, seed=7) + singer(1, seed=8)))


def noted_in(scan) -> dict[str, tuple[int, ...]]:
    return {match.artist: match.lookalike_ids for match in scan.matches if match.lookalike_ids}


def test_a_scan_knows_who_of_its_artists_are_alike_now_and_when_read_again(four, encoder):
    note_lookalike(four, "Ada", "Bo")
    matcher, _ = make_matcher(four, encoder, threshold=0.5)

    scan = scans.save_query(four, matcher.scan("t.wav", BOTH))
    before = noted_in(scan), noted_in(scans.get_scan(four, scan.scan_id))
    remove_lookalike(four, "Ada", "Bo")

    assert before == ({"Ada": (BO,), "Bo": (ADA,)},) * 2
    assert noted_in(scans.get_scan(four, scan.scan_id)) == {}


def test_a_result_says_that_two_who_are_flagged_are_noted(four, encoder):
    note_lookalike(four, "Bo", "Ada")
    note_lookalike(four, "Ada", "Di")
    low, high = (make_matcher(four, encoder, threshold=threshold)[0] for threshold in (0.5, 99.0))

    flagged, clear = low.scan("t.wav", BOTH), high.scan("t.wav", BOTH)

    assert [match.artist for match in flagged.matches if match.flagged] in (["Ada", "Bo"], ["Bo", "Ada"])
    said = [line for line in scan_text(flagged).splitlines() if "alike" in line]
    assert said in (["  Ada and Bo are noted as sounding alike"], ["  Bo and Ada are noted as sounding alike"])
    assert "alike" not in scan_text(clear)


def test_an_older_scan_of_merged_artists_knows_them_under_their_old_numbers(four, encoder):
    note_lookalike(four, "Ada", "Bo")
    matcher, _ = make_matcher(four, encoder, threshold=-99.0)  # everybody
    scan = scans.save_query(four, matcher.scan("t.wav", BOTH))
    merge_artists(four, "Cy", "Bo")

    again = scans.get_scan(four, scan.scan_id)

    # Bo is Cy now, who was matched too.
    assert {match.artist_id: match.lookalike_ids for match in again.matches} == {
        ADA: (BO, CY),
        BO: (ADA,),
        CY: (ADA,),
        DI: (),
    }
    said = [line for line in scan_text(again).splitlines() if "alike" in line]
    assert len(said) == 1 and {"Ada", "Cy"} <= set(said[0].split())


def test_an_artist_and_itself_are_not_alike_in_an_older_scan(four, encoder):
    note_lookalike(four, "Ada", "Bo")
    matcher, _ = make_matcher(four, encoder, threshold=-99.0)
    scan = scans.save_query(four, matcher.scan("t.wav", BOTH))
    merge_artists(four, "Ada", "Bo")

    assert noted_in(scans.get_scan(four, scan.scan_id)) == {}


def test_matches_of_nobody_and_of_one_are_left_as_they_are(four, encoder):
    matches = make_matcher(four, encoder)[0].match(BOTH)

    assert with_lookalikes(four, []) == ()
    assert with_lookalikes(four, matches[:1]) == matches[:1]
