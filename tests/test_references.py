from __future__ import annotations

import numpy as np
import pytest

from registry import audit
from registry.condense import condense_windows
from registry.config import REQUIRE_TWO_PERSONS, change_setting
from registry.errors import RegistryError, UnknownArtist
from registry.references import approve_references, condense_artist
from registry.store import Store
from tests.fakes import enroll_vectors, singer


@pytest.fixture
def store(any_store) -> Store:
    any_store.actor = "ida"
    return any_store


@pytest.fixture
def two_persons(store) -> None:
    change_setting(store, REQUIRE_TWO_PERSONS, True)


def enroll_as(store: Store, encoder, actor: str, song: str, **options) -> int:
    store.actor = actor
    outcome = enroll_vectors(store, encoder, "Ada", singer(0, 12, seed=len(song)), content=song, **options)
    assert outcome.reference_id is not None
    return outcome.reference_id


# --- templates ---


def test_templates_are_those_of_all_active_references(store, encoder):
    songs = [singer(k, 12, spread=0.3, seed=k) for k in range(3)]
    for k, vectors in enumerate(songs):
        enroll_vectors(store, encoder, "Ada", vectors, content=f"song {k}")
    with store.writing():
        store.db.execute("UPDATE artist_references SET status = 'pending' WHERE reference_id = 2")
        condense_artist(store, 1)

    gallery = store.gallery()
    windows = np.concatenate([songs[0], songs[2]])
    templates, medoids, counts = condense_windows(windows)
    np.testing.assert_array_equal(gallery.vectors, templates)
    assert gallery.reference_id.tolist() == [1 if row < 12 else 3 for row in medoids]
    assert gallery.start_s.tolist() == [2.0 * (row % 12) for row in medoids]
    assert gallery.end_s.tolist() == [2.0 * (row % 12) + 4 for row in medoids]
    rows = store.rows("SELECT n_windows FROM templates ORDER BY template_id")
    assert [row["n_windows"] for row in rows] == counts.tolist()


def test_an_artist_without_active_references_has_no_templates(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    revision = store.revision
    with store.writing():
        store.db.execute("UPDATE artist_references SET status = 'pending'")
        condense_artist(store, 1)

    assert (store.artist("Ada").n_templates, store.revision) == (0, revision + 1)


# --- approval ---


@pytest.mark.usefixtures("two_persons")
def test_approved_references_are_matched_with_and_say_who_approved_them(store, encoder):
    numbers = [enroll_as(store, encoder, "ida", song) for song in ("one", "three")]
    assert len(store.gallery().vectors) == 0
    store.actor = "max"

    approved = approve_references(store, "ada")

    assert [reference.reference_id for reference in approved] == numbers
    assert [(r.status, r.enrolled_by, r.approved_by) for r in store.references()] == [("active", "ida", "max")] * 2
    artist = store.artist("Ada")
    assert (artist.status, artist.n_pending, artist.n_templates) == ("active", 0, len(store.gallery().vectors))
    entries = audit.entries(store)[-2:]
    assert [(entry.action, entry.artist, entry.payload) for entry in entries] == [
        ("reference.approve", "Ada", {"reference_id": number, "by": "max"}) for number in numbers
    ]


@pytest.mark.usefixtures("two_persons")
def test_nobody_approves_what_they_enrolled(store, encoder):
    enroll_as(store, encoder, "ida", "one")

    with pytest.raises(
        RegistryError,
        match=r"^Ada: its 1 pending references were enrolled by ida, who cannot approve them too; somebody else has to",
    ):
        approve_references(store, "Ada")

    assert [reference.status for reference in store.references()] == ["pending"]


@pytest.mark.usefixtures("two_persons")
def test_of_two_who_enrolled_each_approves_the_others(store, encoder):
    of_ida, of_max = enroll_as(store, encoder, "ida", "one"), enroll_as(store, encoder, "max", "three")

    first = [reference.reference_id for reference in approve_references(store, "Ada")]
    status = [reference.status for reference in store.references()]
    store.actor = "ida"
    second = [reference.reference_id for reference in approve_references(store, "Ada")]

    assert (first, status, second) == ([of_ida], ["active", "pending"], [of_max])


def test_there_is_nothing_to_approve_where_one_person_is_enough(store, encoder):
    enroll_as(store, encoder, "ida", "one")
    store.actor = "max"

    with pytest.raises(RegistryError, match=r"^Ada: no reference is pending; nothing to approve$"):
        approve_references(store, "Ada")
    with pytest.raises(UnknownArtist, match="Zuzu: not enrolled"):
        approve_references(store, "Zuzu")


@pytest.mark.usefixtures("two_persons")
def test_an_approval_that_is_cut_short_approves_nothing(store, encoder, monkeypatch):
    enroll_as(store, encoder, "ida", "one")
    before = audit.entries(store)
    store.actor = "max"

    def fail(*_: object) -> None:
        raise KeyboardInterrupt("in the middle")

    monkeypatch.setattr("registry.references.condense_artist", fail)
    with pytest.raises(KeyboardInterrupt, match="in the middle"):
        approve_references(store, "Ada")

    assert [(r.status, r.approved_by) for r in store.references()] == [("pending", None)]
    assert audit.entries(store) == before
