from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from registry import audit, rights, scans
from registry.check import find_problems
from registry.erasure import erase_artist, erase_reference
from registry.errors import AlreadyEnrolled, RegistryError, UnknownArtist
from registry.identity import add_alias, changes, merge_artists, rename_artist, split_artist, undo_change
from registry.match import write_store_index
from registry.records import Consent
from registry.store import Store
from tests.fakes import enroll_vectors, make_matcher, make_voiceprint, singer, table_counts

OF_ADA, OF_BO = make_voiceprint(singer(0, seed=70)), make_voiceprint(singer(1, seed=71))


@pytest.fixture
def store(any_store) -> Store:
    any_store.actor = "ida"
    return any_store


@pytest.fixture
def two(store, encoder) -> Store:
    """Ada with references 1 and 2 and two consents, Bo with 3, and Cy, who has nothing to do with it, with 4."""
    enroll_vectors(store, encoder, "Ada", singer(0, 12, seed=1), content="1", consent=Consent("release-a"))
    enroll_vectors(store, encoder, "Ada", singer(0, 12, seed=2), content="2", consent=Consent("form-a"))
    enroll_vectors(store, encoder, "Bo", singer(1, 12, seed=3), content="3", consent=Consent("release-b"))
    enroll_vectors(store, encoder, "Cy", singer(2, 12, seed=4), content="4", consent=Consent("release-c"))
    return store


@pytest.fixture
def mixed(store, encoder) -> Store:
    """Ada with references 1 and 2, and two of Bo's among them, 3 and 4."""
    for number, axis in enumerate((0, 0, 1, 1), start=1):
        vectors = singer(axis, 12, seed=number)
        enroll_vectors(store, encoder, "Ada", vectors, content=f"{number}", consent=Consent("release-a"))
    return store


def state(store: Store) -> dict[str, Any]:
    """All that a change may touch, as whoever uses the registry sees it; templates without their numbers."""
    gallery = store.gallery()
    names = store.artist_names()
    return {
        "artists": [(artist, store.aliases(artist.artist_id)) for artist in store.artists()],
        "references": store.references(),
        "windows": {
            artist.name: [
                (number, vectors.tobytes(), times.tobytes())
                for number, vectors, times in store.reference_windows(artist.artist_id, status=None)
            ]
            for artist in store.artists()
        },
        "gallery": [
            (names[int(gallery.artist_id[i])], gallery.vectors[i].tobytes(), *row)
            for i, row in enumerate(zip(gallery.reference_id, gallery.start_s, gallery.end_s, strict=True))
        ],
        "consents": rights.consents(store),
    }


def owners(store: Store) -> dict[int, str]:
    return {reference.reference_id: reference.artist for reference in store.references()}


def best(store: Store, encoder, voiceprint) -> str:
    return make_matcher(store, encoder)[0].match(voiceprint)[0].artist


def n_templates(store: Store) -> dict[str, int]:
    return {artist.name: artist.n_templates for artist in store.artists()}


# --- rename ---


def test_rename_keeps_everything_else(two, encoder):
    before = state(two)
    revision = two.revision

    rename_artist(two, "Ada", "Ada Vale")

    after = state(two)
    assert after["artists"][0] == (replace(before["artists"][0][0], name="Ada Vale"), [])
    assert after["references"] == [
        replace(reference, artist="Ada Vale") if reference.artist == "Ada" else reference
        for reference in before["references"]
    ]
    assert [row[1:] for row in after["gallery"]] == [row[1:] for row in before["gallery"]]
    assert two.revision == revision
    assert best(two, encoder, OF_ADA) == "Ada Vale"
    assert two.find_artist("Ada") is None


def test_rename_is_in_the_audit(two):
    rename_artist(two, "Ada", "Ada Vale")

    entry = audit.entries(two)[-1]
    assert (entry.action, entry.artist, entry.payload) == (
        "artist.rename",
        "Ada Vale",
        {"from": "Ada", "to": "Ada Vale", "by": "ida"},
    )


def test_rename_to_the_name_it_has_changes_nothing(two):
    before = state(two), len(audit.entries(two))

    rename_artist(two, "ada", "Ada")

    assert (state(two), len(audit.entries(two))) == before


def test_the_spelling_of_a_name_can_be_changed(two):
    rename_artist(two, "Ada", "ADA")

    assert [two.artist(name).name for name in ("ADA", "ada", "Ada")] == ["ADA"] * 3


def test_rename_to_a_name_that_is_taken_is_refused(two):
    add_alias(two, "Bo", "DJ Bo")
    before = state(two)

    for name in ("Bo", "DJ Bo"):
        with pytest.raises(RegistryError, match=f"^{name}: is enrolled already; two artists cannot share a name$"):
            rename_artist(two, "Ada", name)
    with pytest.raises(UnknownArtist, match="Zuzu: not enrolled"):
        rename_artist(two, "Zuzu", "Di")

    assert state(two) == before


# --- alias ---


def test_an_alias_leads_to_the_artist_and_changes_no_match(two, encoder):
    before = state(two)

    change_id = add_alias(two, "Ada", "DJ Vale")

    assert (two.artist("DJ Vale").name, two.artist("dj vale").name, two.aliases(1)) == ("Ada", "Ada", ["DJ Vale"])
    assert {**state(two), "artists": None} == {**before, "artists": None}
    assert best(two, encoder, OF_ADA) == "Ada"
    assert enroll_vectors(two, encoder, "DJ Vale", singer(0, seed=9), content="9").outcome == "enrolled"
    assert two.artist("Ada").n_references == 3
    (change,) = changes(two)
    assert (change.change_id, change.artist, change.action, change.detail) == (
        change_id,
        "Ada",
        "alias",
        {"alias": "DJ Vale"},
    )


def test_an_alias_is_undone(two):
    before = state(two)
    change_id = add_alias(two, "Ada", "DJ Vale")

    change = undo_change(two, change_id)

    assert change.undone_at is not None
    assert state(two) == before
    assert two.find_artist("DJ Vale") is None
    add_alias(two, "Bo", "DJ Vale")  # it is free again


@pytest.mark.parametrize("alias", ["Bo", "Ada", "DJ Bo"])
def test_an_alias_that_leads_to_somebody_is_refused(two, alias):
    add_alias(two, "Bo", "DJ Bo")
    before = state(two)

    with pytest.raises(RegistryError, match=f"^{alias}: is enrolled already; two artists cannot share a name$"):
        add_alias(two, "Ada", alias)

    assert (state(two), len(changes(two))) == (before, 1)


def test_an_alias_can_become_the_name_and_then_cannot_be_undone(two):
    change_id = add_alias(two, "Ada", "DJ Vale")

    rename_artist(two, "Ada", "DJ Vale")

    assert (two.artist("DJ Vale").name, two.aliases(1), two.find_artist("Ada")) == ("DJ Vale", [], None)
    with pytest.raises(RegistryError, match=r"^change 1: DJ Vale is no alias of DJ Vale any more$"):
        undo_change(two, change_id)
    assert two.artist("DJ Vale").artist_id == 1


# --- merge ---


def test_merging_makes_two_artists_one(two, encoder):
    assert [best(two, encoder, voice) for voice in (OF_ADA, OF_BO)] == ["Ada", "Bo"]
    windows = state(two)["windows"]

    change_id = merge_artists(two, "Ada", "Bo")

    assert [best(two, encoder, voice) for voice in (OF_ADA, OF_BO)] == ["Ada", "Ada"]
    assert [artist.name for artist in two.artists()] == ["Ada", "Cy"]
    assert owners(two) == {1: "Ada", 2: "Ada", 3: "Ada", 4: "Cy"}
    assert state(two)["windows"] == {"Ada": windows["Ada"] + windows["Bo"], "Cy": windows["Cy"]}
    assert sum(row["n_windows"] for row in two.rows("SELECT n_windows FROM templates WHERE artist_id = 1")) == 36
    assert [(record.artist, record.ref) for record in rights.consents(two)] == [
        *(("Ada", "release-a"), ("Ada", "form-a"), ("Cy", "release-c"), ("Ada", "release-b")),
    ]
    (change,) = changes(two, "Ada")
    assert (change.change_id, change.artist, change.action, change.changed_by) == (change_id, "Ada", "merge", "ida")
    assert change.undone_at is None


def test_a_merged_artist_is_found_by_its_old_names(two, encoder):
    add_alias(two, "Bo", "DJ Bo")
    merge_artists(two, "Ada", "Bo")

    assert [two.artist(name).name for name in ("Bo", "bo", "DJ Bo")] == ["Ada"] * 3
    assert two.aliases(1) == ["Bo", "DJ Bo"]
    outcome = enroll_vectors(two, encoder, "Bo", singer(1, seed=9), content="9")
    assert (outcome.outcome, two.references()[-1].artist) == ("enrolled", "Ada")
    with pytest.raises(RegistryError, match="Bo: is enrolled already"):
        rename_artist(two, "Cy", "Bo")


def test_a_name_in_another_case_leads_to_the_one_that_both_are(store, encoder):
    enroll_vectors(store, encoder, "MIKA", singer(0))
    with store.writing():
        store.set_name(store.add_artist("another"), "Mika")
    assert store.find_artist("mika") is None

    merge_artists(store, "MIKA", "Mika")

    assert store.artist("mika").name == "MIKA"


def test_a_merge_is_undone_exactly(two, encoder):
    before = state(two)
    change_id = merge_artists(two, "Ada", "Bo")

    change = undo_change(two, change_id)

    assert state(two) == before
    assert (change.action, change.undone_at is not None) == ("merge", True)
    assert [best(two, encoder, voice) for voice in (OF_ADA, OF_BO)] == ["Ada", "Bo"]
    assert table_counts(two)["consents"] == 4
    write_store_index(two, print)
    assert find_problems(two) == []


def test_scans_of_before_and_after_a_merge_name_who_it_is_now(two, encoder):
    def scan() -> None:
        matcher, _ = make_matcher(two, encoder)
        with two.writing():
            scans.add_scan(two, matcher.scan("t.wav", OF_BO))

    scan()
    change_id = merge_artists(two, "Ada", "Bo")
    scan()
    merged = [found.matches[0].artist for found in scans.find_scans(two)]
    undo_change(two, change_id)
    undone = [found.matches[0].artist for found in scans.find_scans(two)]

    assert (merged, undone) == (["Ada", "Ada"], ["Bo", "Ada"])


def test_pending_references_stay_pending_through_a_merge(two):
    with two.writing():
        two.db.execute("UPDATE artist_references SET status = 'pending' WHERE reference_id = 3")

    merge_artists(two, "Ada", "Bo")

    assert [(reference.reference_id, reference.status) for reference in two.references("Ada")] == [
        (1, "active"),
        (2, "active"),
        (3, "pending"),
    ]
    assert two.artist("Ada").n_pending == 1


def test_a_consent_withdrawn_while_merged_stays_withdrawn_when_the_merge_is_undone(two, encoder):
    change_id = merge_artists(two, "Ada", "Bo")
    rights.withdraw_consent(two, "Ada", "release-b")

    undo_change(two, change_id)

    assert [(record.artist, record.ref, record.in_force) for record in rights.consents(two)] == [
        ("Ada", "release-a", True),
        ("Ada", "form-a", True),
        ("Bo", "release-b", False),
        ("Cy", "release-c", True),
    ]
    matcher, _ = make_matcher(two, encoder)
    assert (matcher.n_artists, matcher.n_not_matched) == (2, 1)
    assert "Bo" not in [match.artist for match in matcher.match(OF_BO)]


def test_what_was_enrolled_while_merged_stays_with_the_artist_and_keeps_its_consent(two, encoder):
    change_id = merge_artists(two, "Ada", "Bo")
    enroll_vectors(two, encoder, "Ada", singer(0, seed=9), content="9", consent=Consent("release-b"))

    undo_change(two, change_id)

    assert owners(two) == {1: "Ada", 2: "Ada", 3: "Bo", 4: "Cy", 5: "Ada"}
    assert [(reference.reference_id, reference.consent) for reference in two.references("Ada")] == [
        (1, "release-a"),
        (2, "form-a"),
        (5, "release-b"),
    ]
    assert find_problems(two)[0][0] == "index"  # is stale, and that is all
    assert len(find_problems(two)) == 1


def test_what_was_removed_while_merged_does_not_come_back(two):
    change_id = merge_artists(two, "Ada", "Bo")
    erase_reference(two, "Ada", 3, print)

    undo_change(two, change_id)

    assert owners(two) == {1: "Ada", 2: "Ada", 4: "Cy"}
    assert n_templates(two)["Bo"] == 0


def test_a_withdrawal_ends_the_matching_of_one_merged_while_a_batch_runs(two, encoder):
    """The batch still has Bo's templates as Bo's."""
    matcher, _ = make_matcher(two, encoder)
    merge_artists(two, "Ada", "Bo")
    rights.withdraw_consent(two, "Ada")

    matcher.refresh()

    assert [match.artist for match in matcher.match(OF_BO)] == ["Cy"]
    assert (matcher.n_artists, matcher.n_not_matched) == (1, 2)


def test_a_consent_that_goes_with_the_undoing_of_a_merge_ends_the_matching_while_a_batch_runs(two, encoder):
    with two.writing():
        two.db.execute("UPDATE consents SET expires_at = '2020-01-01T00:00:00Z' WHERE artist_id = 1")
    change_id = merge_artists(two, "Ada", "Bo")
    matcher, _ = make_matcher(two, encoder)
    assert matcher.match(OF_ADA)[0].artist == "Ada"

    undo_change(two, change_id)
    matcher.refresh()

    assert [match.artist for match in matcher.match(OF_ADA)] == ["Cy"]


def test_removing_an_artist_takes_those_merged_into_it_along(two, encoder):
    enroll_vectors(two, encoder, "Di", singer(3, seed=5), content="5")
    merge_artists(two, "Bo", "Di")
    merge_artists(two, "Ada", "Bo")

    receipt = erase_artist(two, "di", print)

    assert receipt["finished_at"] is not None
    assert owners(two) == {4: "Cy"}
    assert two.artist_names() == {3: "Cy"}
    assert [two.find_artist(name) for name in ("Ada", "Bo", "Di")] == [None] * 3
    counts = table_counts(two)
    assert {name: counts.get(name, 0) for name in ("artists", "names", "consents", "identity_changes")} == {
        **{"artists": 1, "names": 1, "consents": 1, "identity_changes": 0},
    }
    assert find_problems(two) == []


@pytest.mark.parametrize(
    ("pair", "error", "message"),
    [
        (("Ada", "Ada"), RegistryError, "^Ada: is Ada already; nothing to merge$"),
        (("Ada", "DJ Vale"), RegistryError, "^DJ Vale: is Ada already; nothing to merge$"),
        (("Ada", "Zuzu"), UnknownArtist, "^Zuzu: not enrolled"),
        (("Zuzu", "Ada"), UnknownArtist, "^Zuzu: not enrolled"),
    ],
)
def test_what_is_one_or_nobody_cannot_be_merged(two, pair, error, message):
    add_alias(two, "Ada", "DJ Vale")
    before = state(two)

    with pytest.raises(error, match=message):
        merge_artists(two, *pair)

    assert state(two) == before


def test_artists_who_share_a_recording_cannot_be_merged(two, encoder):
    enroll_vectors(two, encoder, "Bo", singer(0, 12, seed=1), content="1", force_reason="a duet")
    before = state(two)

    with pytest.raises(RegistryError, match=r"^/music/1: is enrolled for both; remove it from one of them first"):
        merge_artists(two, "Ada", "Bo")

    assert state(two) == before


# --- split ---


def test_splitting_makes_references_another_artists(mixed, encoder):
    assert [best(mixed, encoder, voice) for voice in (OF_ADA, OF_BO)] == ["Ada", "Ada"]

    change_id = split_artist(mixed, "Ada", [4, 3, 4], "Bo")

    assert [best(mixed, encoder, voice) for voice in (OF_ADA, OF_BO)] == ["Ada", "Bo"]
    assert owners(mixed) == {1: "Ada", 2: "Ada", 3: "Bo", 4: "Bo"}
    assert [(record.artist, record.ref) for record in rights.consents(mixed)] == [
        ("Ada", "release-a"),
        ("Bo", "release-a"),
    ]
    for name, axis in (("Ada", 0), ("Bo", 1)):
        gallery = mixed.gallery()
        rows = gallery.artist_id == mixed.artist(name).artist_id
        assert set(np.argmax(gallery.vectors[rows], axis=1)) == {axis}
    (change,) = changes(mixed)
    assert (change.change_id, change.artist, change.action) == (change_id, "Ada", "split")


def test_a_split_is_undone_exactly(mixed, encoder):
    before = state(mixed)
    change_id = split_artist(mixed, "Ada", [3, 4], "Bo")

    undo_change(mixed, change_id)

    assert state(mixed) == before
    assert best(mixed, encoder, OF_BO) == "Ada"
    assert mixed.find_artist("Bo") is None
    again = split_artist(mixed, "Ada", [3, 4], "Bo")
    assert owners(mixed) == {1: "Ada", 2: "Ada", 3: "Bo", 4: "Bo"}
    undo_change(mixed, again)
    assert state(mixed) == before


def test_scans_made_while_split_name_the_artist_afterwards(mixed, encoder):
    change_id = split_artist(mixed, "Ada", [3, 4], "Bo")
    matcher, _ = make_matcher(mixed, encoder)
    with mixed.writing():
        scans.add_scan(mixed, matcher.scan("t.wav", OF_BO))
    while_split = [match.artist for match in scans.get_scan(mixed, 1).matches]

    undo_change(mixed, change_id)

    assert (while_split, [match.artist for match in scans.get_scan(mixed, 1).matches]) == (
        ["Bo", "Ada"],
        ["Ada", "Ada"],
    )


def test_a_consent_withdrawn_while_split_stays_withdrawn_when_the_split_is_undone(mixed, encoder):
    change_id = split_artist(mixed, "Ada", [3, 4], "Bo")
    rights.withdraw_consent(mixed, "Bo")
    assert make_matcher(mixed, encoder)[0].n_artists == 1

    undo_change(mixed, change_id)

    assert [(record.artist, record.ref, record.in_force) for record in rights.consents(mixed)] == [
        ("Ada", "release-a", False)
    ]
    assert make_matcher(mixed, encoder)[0].n_artists == 0


def test_a_split_whose_artist_has_more_references_since_is_not_undone(mixed, encoder):
    change_id = split_artist(mixed, "Ada", [3, 4], "Bo")
    enroll_vectors(mixed, encoder, "Bo", singer(1, seed=9), content="9")
    before = state(mixed)

    with pytest.raises(RegistryError, match=r"^change 1: Bo has more references since; merge instead$"):
        undo_change(mixed, change_id)

    assert state(mixed) == before


def test_a_split_is_not_undone_where_the_recording_was_enrolled_anew(mixed, encoder):
    change_id = split_artist(mixed, "Ada", [3, 4], "Bo")
    enroll_vectors(mixed, encoder, "Ada", singer(1, 12, seed=3), content="3", force_reason="both of them")
    before = state(mixed)

    with pytest.raises(
        AlreadyEnrolled, match=r"^reference 3: the same recording is enrolled for Ada too; remove one of the two first"
    ):
        undo_change(mixed, change_id)

    assert state(mixed) == before


@pytest.mark.parametrize("removed", ["Ada", "Bo"])
def test_a_split_is_not_undone_once_one_of_the_two_is_removed(mixed, removed):
    change_id = split_artist(mixed, "Ada", [3, 4], "Bo")
    erase_artist(mixed, removed, print)
    before = state(mixed)
    # With Ada her changes are gone.
    message = "there is none of that number" if removed == "Ada" else "an artist of it was removed since"

    with pytest.raises(RegistryError, match=f"^change 1: {message}"):
        undo_change(mixed, change_id)

    assert state(mixed) == before


@pytest.mark.parametrize(
    ("numbers", "name", "message"),
    [
        ([1, 2, 3, 4], "Bo", "^Ada: all its references would go; rename it instead$"),
        ([3, 9], "Bo", "^reference 9: is not Ada's, whose are 1, 2, 3, 4$"),
        ([3], "Ada", "^Ada: is enrolled already; split into a new name, then merge the two$"),
        ([3], "DJ Vale", "^DJ Vale: is enrolled already; split into a new name, then merge the two$"),
    ],
)
def test_what_cannot_be_split_off_is_refused(mixed, numbers, name, message):
    add_alias(mixed, "Ada", "DJ Vale")
    before = state(mixed)

    with pytest.raises(RegistryError, match=message):
        split_artist(mixed, "Ada", numbers, name)

    assert state(mixed) == before


# --- several changes ---


def test_a_chain_of_merges_is_undone_from_its_end(two, encoder):
    states = [state(two)]
    first = merge_artists(two, "Ada", "Bo")
    states.append(state(two))
    second = merge_artists(two, "Cy", "Ada")

    assert (two.artist("Bo").name, two.aliases(3), best(two, encoder, OF_BO)) == ("Cy", ["Ada", "Bo"], "Cy")
    with pytest.raises(
        RegistryError, match=r"^change 1: change 2, a merge, moved what it moved on; undo that one first$"
    ):
        undo_change(two, first)
    undo_change(two, second)
    assert state(two) == states[1]
    undo_change(two, first)
    assert state(two) == states[0]


def test_a_split_of_what_was_merged_is_undone_first(two):
    states = [state(two)]
    first = merge_artists(two, "Ada", "Bo")
    states.append(state(two))
    second = split_artist(two, "Ada", [3, 1], "Di")

    with pytest.raises(RegistryError, match=r"^change 1: change 2, a split, moved what it moved on"):
        undo_change(two, first)
    undo_change(two, second)
    assert state(two) == states[1]
    undo_change(two, first)
    assert state(two) == states[0]


def test_a_split_from_somebody_who_was_merged_since_is_undone_after_the_merge(mixed, encoder):
    enroll_vectors(mixed, encoder, "Cy", singer(2), content="5")
    states = [state(mixed)]
    first = split_artist(mixed, "Ada", [3, 4], "Bo")
    states.append(state(mixed))
    second = merge_artists(mixed, "Cy", "Ada")

    with pytest.raises(RegistryError, match=r"^change 1: change 2, a merge, moved what it moved on"):
        undo_change(mixed, first)
    undo_change(mixed, second)
    assert state(mixed) == states[1]
    undo_change(mixed, first)
    assert state(mixed) == states[0]


def test_changes_that_have_nothing_to_do_with_each_other_are_undone_in_any_order(mixed, encoder):
    before = state(mixed)
    first = split_artist(mixed, "Ada", [3], "Bo")
    second = split_artist(mixed, "Ada", [4], "Cy")
    enroll_vectors(mixed, encoder, "Di", singer(3), content="5")
    third = merge_artists(mixed, "Ada", "Di")

    for change_id in (first, second, third):
        undo_change(mixed, change_id)
    erase_artist(mixed, "Di", print)

    assert state(mixed) == before


def test_undoing_is_in_the_audit_and_cannot_be_done_twice(two):
    change_id = merge_artists(two, "Ada", "Bo")
    change = undo_change(two, change_id)

    with pytest.raises(RegistryError, match=rf"^change 1: was undone at {change.undone_at}; nothing to do$"):
        undo_change(two, change_id)
    with pytest.raises(RegistryError, match=r"^change 9: there is none of that number; `likeness artists changes`"):
        undo_change(two, 9)

    entries = [(entry.action, entry.payload["change_id"]) for entry in audit.entries(two)[-2:]]
    assert entries == [("artist.merge", 1), ("artist.undo", 1)]
    assert audit.verify(two).problems == ()


@pytest.mark.parametrize("change", ["merge", "split", "undo"])
def test_a_change_that_is_cut_short_leaves_everything_as_it_was(two, monkeypatch, change):
    if change == "undo":
        merge_artists(two, "Ada", "Bo")
    before = state(two), [asdict(each) for each in changes(two)], table_counts(two)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("at the end")

    monkeypatch.setattr(audit, "append", fail)
    with pytest.raises(KeyboardInterrupt, match="at the end"):
        if change == "merge":
            merge_artists(two, "Ada", "Bo")
        elif change == "split":
            split_artist(two, "Ada", [2], "Di")
        else:
            undo_change(two, 1)

    assert (state(two), [asdict(each) for each in changes(two)], table_counts(two)) == before


def test_changes_of_an_artist_are_those_of_whoever_was_merged_into_it_too(two):
    add_alias(two, "Bo", "DJ Bo")
    add_alias(two, "Cy", "DJ Cy")
    merge_artists(two, "Ada", "Bo")

    assert [(change.change_id, change.artist, change.action) for change in changes(two, "Ada")] == [
        (1, "Ada", "alias"),
        (3, "Ada", "merge"),
    ]
    assert len(changes(two)) == 3
