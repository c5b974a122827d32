from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from registry import erasure, rights
from registry.errors import AlreadyEnrolled, RegistryError, StoreDamaged, UnknownArtist
from registry.records import ArtistSummary, Consent, NewTemplate, Reference
from registry.store import Store, now
from tests.fakes import CONSENT, DIM, add_reference, files_holding, singer, unit

VOICE = singer(1, 2)
TIMES = np.array([[0.0, 4.0], [2.0, 6.0]])


@pytest.fixture
def store(any_store) -> Store:
    """Plain, and encrypted: what comes out is the same."""
    return any_store


@pytest.fixture
def ada(store) -> int:
    with store.writing():
        return add_reference(store, "Ada", VOICE)


# --- artists ---


def test_artists_are_listed_with_what_is_on_record(store, ada):
    with store.writing():
        add_reference(store, "Ada", VOICE, content_id="b" * 64)
        store.add_artist("Aaron")

    aaron, ada_on_record = store.artists()

    assert aaron == ArtistSummary(
        artist_id=ada + 1,
        uid=aaron.uid,
        name="Aaron",
        status="no consent",
        n_references=0,
        n_pending=0,
        n_templates=0,
        voiced_s=0.0,
        created_at=aaron.created_at,
    )
    assert ada_on_record == ArtistSummary(
        artist_id=ada,
        uid=ada_on_record.uid,
        name="Ada",
        status="active",
        n_references=2,
        n_pending=0,
        n_templates=1,
        voiced_s=12.0,
        created_at=ada_on_record.created_at,
    )
    assert store.artist("Ada") == ada_on_record
    assert len(aaron.uid) == len(ada_on_record.uid) == 16
    assert aaron.uid != ada_on_record.uid


def test_an_artist_is_pending_until_a_reference_is_active_and_not_matched_without_consent(store, ada):
    statuses = []
    for change in (
        "UPDATE artist_references SET status = 'pending'",
        "UPDATE consents SET expires_at = '2020-01-01T00:00:00Z'",
        "UPDATE consents SET expires_at = '2999-01-01T00:00:00Z'",
        "UPDATE consents SET withdrawn_at = '2020-01-01T00:00:00Z'",
    ):
        with store.writing():
            store.db.execute(change)
        statuses.append((store.artist("Ada").status, store.artist("Ada").n_pending))

    assert statuses == [("pending", 1), ("no consent", 1), ("pending", 1), ("no consent", 1)]


def test_an_unknown_artist_suggests_the_nearest_names(store, ada):
    with store.writing():
        store.add_artist("Adam Vale")

    with pytest.raises(UnknownArtist, match=r"^Adda: not enrolled; did you mean Ada\?$"):
        store.artist("Adda")
    with pytest.raises(UnknownArtist, match=r"^Zuzu: not enrolled; `likeness artists list` shows who is$"):
        store.artist("Zuzu")


@pytest.mark.parametrize("spelling", ["Jörg Weiß", "JÖRG WEISS", "jörg weiß", "\uff2a\u00f6rg Wei\u00df"])
def test_a_name_is_found_without_regard_to_case_and_width(store, spelling):
    with store.writing():
        artist_id = store.add_artist("Jörg Weiß")
        assert store.add_artist(spelling) == artist_id

    assert store.artist(spelling).name == "Jörg Weiß"
    assert store.find_artist("Jorg Weiss") is None


def test_names_that_differ_in_case_only_are_two_where_both_are_given(store):
    """Bands are called so; whoever types neither spelling is not answered with one of them by chance."""
    with store.writing():
        upper = store.add_artist("MIKA")
        lower = store.insert("artists", {"name": "", "created_at": now(), "uid": "0" * 16})
        store.add_artist_key(lower)
        store.set_name(lower, "Mika")

    assert (store.find_artist("MIKA"), store.find_artist("Mika"), store.find_artist("mika")) == (upper, lower, None)


def test_names_are_never_taken_for_sql(store):
    name = "Robert'); DROP TABLE artists;--%_"
    with store.writing():
        add_reference(store, name, VOICE)

    assert [reference.artist for reference in store.references(name)] == [name]
    assert store.artist(name).n_references == 1
    assert store.find_artist("Robert%") is None


def test_a_name_that_leads_to_somebody_cannot_be_given_to_another(store, ada):
    with store.writing():
        bo = store.add_artist("Bo")
        store.add_name(ada, "DJ Vale", alias="DJ Vale")

    for artist_id, name in ((ada, "Bo"), (bo, "Ada"), (bo, "DJ Vale")):
        refused = pytest.raises(RegistryError, match=f"{name}: is enrolled already; two artists cannot share")
        with refused, store.writing():
            store.set_name(artist_id, name)

    assert [(artist.name, store.aliases(artist.artist_id)) for artist in store.artists()] == [
        ("Ada", ["DJ Vale"]),
        ("Bo", []),
    ]
    assert store.artist_names() == {ada: "Ada", bo: "Bo"}


def test_an_id_is_never_given_twice(store, ada):
    """An old scan or index that names a removed artist must not come to mean another."""
    erasure.erase_artist(store, "Ada", print)
    with store.writing():
        bo = add_reference(store, "Bo", VOICE)

    assert bo > ada
    assert store.template_vectors()[0].tolist() == [2]
    assert store.present([ada, bo, 99]) == {bo}


# --- references and consents ---


def test_a_reference_is_on_record_as_it_was_given(store, ada):
    (reference,) = store.references("Ada")

    assert reference == Reference(
        reference_id=1,
        artist="Ada",
        path="/music/Ada.wav",
        kept_path=None,
        content_id="a" * 64,
        duration_s=8.0,
        voiced_s=6.0,
        n_windows=2,
        consent="release-2026-014",
        consent_expires_at=None,
        status="active",
        enrolled_by="",
        approved_by=None,
        force_reason=None,
        own_norm_score=None,
        added_at=reference.added_at,
    )
    ((reference_id, vectors, times),) = store.reference_windows(ada)
    assert reference_id == 1
    np.testing.assert_array_equal(vectors, VOICE)
    np.testing.assert_array_equal(times, TIMES)
    assert store.reference_paths([1, 2]) == {1: "/music/Ada.wav"}


def test_everything_that_a_reference_may_say_comes_back(store, ada):
    said = {
        "path": "/music/duet.wav",
        "kept_path": "audio/x.wav",
        "content_id": "b" * 64,
        "status": "pending",
        "enrolled_by": "ida",
        "approved_by": "max",
        "force_reason": "a duet, \N{SNOWMAN} 'quoted'",
        "own_norm_score": 1.25,
    }
    with store.writing():
        consent_id = rights.add_consent(store, ada, Consent("form-7", "2999-01-01T00:00:00Z"))
        given = replace(store.references("Ada")[0], **said)
        store.add_reference(given, consent_id, VOICE, TIMES, kept_key=b"k" * 32)

    (_, found) = store.references("Ada")

    assert found == replace(
        given, reference_id=2, consent="form-7", consent_expires_at="2999-01-01T00:00:00Z", added_at=found.added_at
    )
    (row,) = store.rows("SELECT kept_key, forced FROM artist_references WHERE reference_id = 2")
    assert (store.unseal(ada, row["kept_key"], "audio key"), row["forced"]) == (b"k" * 32, 1)
    assert [number for number, _, _ in store.reference_windows(ada)] == [1]
    assert [number for number, _, _ in store.reference_windows(ada, status="pending")] == [2]
    assert [number for number, _, _ in store.reference_windows(ada, status=None)] == [1, 2]


def test_the_same_content_twice_for_one_artist_is_refused_by_the_database_itself(store, ada):
    with pytest.raises(AlreadyEnrolled, match=r"/music/Ada\.wav: enrolled already"), store.writing():
        add_reference(store, "Ada", VOICE)

    assert len(store.references()) == 1


def test_holders_of_a_recording_are_named(store, ada):
    with store.writing():
        add_reference(store, "Bo", VOICE)

    assert (store.holders("a" * 64), store.holders("b" * 64)) == (["Ada", "Bo"], [])


def test_a_reference_can_be_moved_to_another_artist(store, ada):
    before = store.references("Ada")[0]
    with store.writing():
        bo = store.add_artist("Bo")
        consent_id = rights.add_consent(store, bo, Consent("release-9"))
        store.db.execute("UPDATE artist_references SET kept_key = ?", [store.seal(ada, b"k" * 32, "audio key")])
        store.move_reference(1, bo, consent_id)

    assert store.references() == store.references("Bo") == [replace(before, artist="Bo", consent="release-9")]
    ((_, vectors, times),) = store.reference_windows(bo)
    np.testing.assert_array_equal(vectors, VOICE)
    np.testing.assert_array_equal(times, TIMES)
    assert store.unseal(bo, store.rows("SELECT kept_key FROM artist_references")[0]["kept_key"], "audio key")
    assert len(store.gallery().vectors) == 0


def test_an_artist_is_not_matched_once_every_consent_is_over(store):
    past = (datetime.fromisoformat(now()) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    far = "2999-01-01T00:00:00Z"
    with store.writing():
        over = add_reference(store, "Over", VOICE, content_id="a" * 64, consent=Consent("r", past))
        renewed = add_reference(store, "Renewed", VOICE, content_id="b" * 64, consent=Consent("r", past))
        rights.add_consent(store, renewed, Consent("r", far))
        add_reference(store, "Endless", VOICE, content_id="c" * 64)
        both = add_reference(store, "Both", VOICE, content_id="d" * 64, consent=Consent("r", past))
        rights.add_consent(store, both, Consent("r", far))
        withdrawn = add_reference(store, "Withdrawn", VOICE, content_id="e" * 64)
        nobody = store.add_artist("Nobody")
        day = "2026-05-01T00:00:00Z"
        store.db.execute("UPDATE consents SET withdrawn_at = ? WHERE artist_id = ?", [day, withdrawn])
        store.db.execute(
            "UPDATE consents SET withdrawn_at = ? WHERE artist_id = ? AND expires_at = ?", [day, both, far]
        )

    assert store.without_consent() == {
        over: f"the consent on record expired on {past}",
        both: "the consent on record was withdrawn on 2026-05-01T00:00:00Z",
        withdrawn: "the consent on record was withdrawn on 2026-05-01T00:00:00Z",
        nobody: "there is no consent on record",
    }
    assert store.next_expiry() == far


def test_consents_and_removals_are_counted_for_those_who_match_meanwhile(store, ada):
    counts = [store.rights]
    rights.withdraw_consent(store, "Ada")
    counts.append(store.rights)
    with store.writing():
        rights.add_consent(store, ada, Consent("release-2"))
    counts.append(store.rights)
    with store.writing():
        rights.add_consent(store, ada, Consent("release-2"))  # on record
    counts.append(store.rights)
    erasure.erase_artist(store, "Ada", print)
    counts.append(store.rights)

    assert counts == [1, 2, 3, 3, 7]  # the artist, its reference and its two consents
    assert store.next_expiry() == ""


# --- templates ---


def test_templates_are_blobs_that_a_stranger_reads_with_one_line(store, ada):
    blob = store.rows("SELECT vector FROM templates")[0]["vector"]

    if store.encryption is None:
        np.testing.assert_array_equal(np.frombuffer(blob, "<f4"), VOICE[0])
    else:
        assert len(blob) == 4 * DIM + 28
        np.testing.assert_array_equal(np.frombuffer(store.unseal(ada, blob, "template"), "<f4"), VOICE[0])


def test_the_gallery_lies_grouped_by_artist_however_the_rows_came(store):
    with store.writing():
        ada = add_reference(store, "Ada", VOICE)
        bo = add_reference(store, "Bo", VOICE, content_id="b" * 64)
        templates = unit(np.eye(DIM)[:3])
        store.replace_templates(ada, [NewTemplate(v, 1, 1.0 * k, 4.0 + k, 1) for k, v in enumerate(templates)])

    gallery = store.gallery()

    assert gallery.artist_id.tolist() == [ada, ada, ada, bo]
    assert gallery.template_id.tolist() == [3, 4, 5, 2]
    assert (gallery.start_s.tolist(), gallery.end_s.tolist()) == ([0.0, 1.0, 2.0, 0.0], [4.0, 5.0, 6.0, 4.0])
    np.testing.assert_array_equal(gallery.vectors[:3], templates)
    assert store.gallery(without=[ada]).artist_id.tolist() == [bo]
    ids, vectors = store.template_vectors()
    assert ids.tolist() == [2, 3, 4, 5]
    np.testing.assert_array_equal(vectors, gallery.vectors[[3, 0, 1, 2]])


def test_a_store_without_templates_has_an_empty_gallery(store):
    ids, vectors = store.template_vectors()

    assert (ids.shape, vectors.shape, store.gallery().vectors.shape) == ((0,), (0, 0), (0, 0))


def test_templates_of_a_wrong_size_are_damage_to_whoever_reads_them(store, ada):
    with store.writing():
        store.db.execute("UPDATE templates SET vector = ?", [store.seal(ada, b"\0\0", "template")])

    for read in (store.template_vectors, store.gallery):
        with pytest.raises(StoreDamaged, match=r"take 2 bytes, 1 of 8 numbers would take 32; run `likeness check`"):
            read()


# --- encrypted ---


def test_an_encrypted_registry_holds_nothing_of_an_artist_in_plain(encrypted_store):
    store = encrypted_store
    with store.writing():
        ada = add_reference(store, "Quillon Zymurgy", VOICE, consent=Consent("release-qz-77"))
        store.add_name(ada, "DJ Quill", alias="DJ Quill")
        store.db.execute(
            "UPDATE artist_references SET force_reason = ?", [store.seal_text(ada, "why not", "force_reason")]
        )

    needles = [b"Quill", b"quill", b"release-qz", b"why not", b"/music/", *(row[2:6].tobytes() for row in VOICE)]

    assert [found for needle in needles for found in files_holding(store.home, needle)] == []


def test_what_is_sealed_for_one_artist_does_not_open_as_anothers(encrypted_store):
    """Rows that are put elsewhere, by whom ever, are noticed."""
    store = encrypted_store
    with store.writing():
        ada = add_reference(store, "Ada", VOICE)
        bo = add_reference(store, "Bo", VOICE, content_id="b" * 64)
        store.db.execute("UPDATE templates SET artist_id = ? WHERE artist_id = ?", [bo, ada])

    with pytest.raises(StoreDamaged, match=rf"artist {bo}: its template does not open with the artist's key"):
        store.gallery()


def test_an_artist_without_a_key_is_damage(encrypted_store, home):
    with encrypted_store.writing():
        ada = add_reference(encrypted_store, "Ada", VOICE, consent=CONSENT)
        encrypted_store.db.execute("DELETE FROM artist_keys")

    with Store(home) as again, pytest.raises(StoreDamaged, match=rf"registry\.db: artist {ada} has no key"):
        again.artist("Ada")
