from __future__ import annotations

from dataclasses import replace

import pytest

from registry import audit
from registry.errors import ConsentMissing, RegistryError, UnknownArtist
from registry.records import Consent, ConsentRecord
from registry.rights import add_consent, check_consent, consents, withdraw_consent
from registry.store import Store
from tests.fakes import add_reference, enroll_vectors, make_matcher, make_voiceprint, singer

VOICE = singer(1, 2)
FAR, PAST = "2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z"


@pytest.fixture
def store(any_store) -> Store:
    return any_store


@pytest.fixture
def ada(store) -> int:
    with store.writing():
        return add_reference(store, "Ada", VOICE, consent=Consent("release-1"))


def add(store: Store, artist_id: int, *new: Consent) -> list[int]:
    with store.writing():
        return [add_consent(store, artist_id, consent) for consent in new]


# --- what counts as one ---


@pytest.mark.parametrize("ref", [None, "", "  "])
def test_no_consent_no_enrolment(ref):
    with pytest.raises(ConsentMissing, match=r"biometric data and needs the artist's consent.*--consent REF"):
        check_consent(ref, None)


@pytest.mark.parametrize("expires", ["2020-01-01", "2020-01-01T12:00:00+02:00"])
def test_a_consent_that_is_over_is_refused(expires):
    with pytest.raises(ConsentMissing, match="that has passed; nothing was recorded"):
        check_consent("release-1", expires)


@pytest.mark.parametrize("expires", ["soon", "31.12.2999", "2999-13-01", "9999-12-31T23:00:00-05:00"])
def test_a_date_that_is_none_is_refused(expires):
    with pytest.raises(ConsentMissing, match=r"consent until .*: not a date such as 2027-12-31"):
        check_consent("release-1", expires)


@pytest.mark.parametrize(
    ("expires", "stored"),
    [
        (None, None),
        ("2999-12-31", "2999-12-31T23:59:59Z"),
        ("2999-12-31T12:00:00+02:00", "2999-12-31T10:00:00Z"),
    ],
)
def test_a_consent_is_kept_in_utc(expires, stored):
    assert check_consent(" release-1 ", expires) == Consent("release-1", stored)


def test_a_reference_to_a_release_that_is_not_text_is_kept_as_what_can_be_stored():
    assert check_consent("caf\udce9.pdf", None) == Consent("caf\\udce9.pdf")


# --- adding and listing ---


def test_the_same_consent_is_recorded_once(store, ada):
    far, other = Consent("release-1", FAR), Consent("release-2", FAR)

    assert add(store, ada, Consent("release-1"), far, far, other, far) == [1, 2, 2, 3, 2]
    assert [entry.action for entry in audit.entries(store, artist_id=ada)] == ["consent.add"] * 3


def test_one_that_was_withdrawn_is_recorded_anew_only_where_that_is_meant(store, ada):
    """An enrolment, such as of a script that runs every night, must not undo a withdrawal."""
    withdraw_consent(store, "Ada")

    with pytest.raises(ConsentMissing, match=r"release-1: was withdrawn on .*`likeness consents add`"):
        add(store, ada, Consent("release-1"))
    assert [record.in_force for record in consents(store, "Ada")] == [False]

    with store.writing():
        assert add_consent(store, ada, Consent("release-1"), renew=True) == 2
    assert [record.in_force for record in consents(store, "Ada")] == [False, True]


def test_one_that_is_named_again_without_an_end_keeps_its_end(store, ada):
    number = add(store, ada, Consent("release-2", FAR))

    assert add(store, ada, Consent("release-2")) == number


def test_consents_are_listed_oldest_first_with_whether_they_are_in_force(store, ada):
    add(store, ada, Consent("release-2", FAR), Consent("release-3", PAST))
    with store.writing():
        add_reference(store, "Bo", VOICE, content_id="b" * 64, consent=Consent("form-7"))
    withdraw_consent(store, "Ada", "release-1")

    found = consents(store)

    (recorded_at,) = {record.recorded_at[:4] for record in found}
    assert recorded_at.isdigit()
    assert found[0].withdrawn_at is not None
    assert [replace(record, recorded_at="") for record in found] == [
        ConsentRecord(1, "Ada", "release-1", "", None, found[0].withdrawn_at, False),
        ConsentRecord(2, "Ada", "release-2", "", FAR, None, True),
        ConsentRecord(3, "Ada", "release-3", "", PAST, None, False),
        ConsentRecord(4, "Bo", "form-7", "", None, None, True),
    ]
    assert consents(store, "bo") == found[3:]


def test_consents_of_nobody_are_refused(store, ada):
    with pytest.raises(UnknownArtist, match="Zuzu: not enrolled"):
        consents(store, "Zuzu")


# --- withdrawing ---


def test_withdrawing_ends_the_matching_and_keeps_what_is_on_record(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    revision = store.revision

    assert withdraw_consent(store, "Ada") == 1

    matcher, _ = make_matcher(store, encoder)
    assert [match.artist for match in matcher.match(make_voiceprint(singer(0)))] == ["Bo"]
    ada = store.artist("Ada")
    assert (ada.status, ada.n_references, store.revision) == ("no consent", 1, revision)
    assert [artist.status for artist in store.artists()] == ["no consent", "active"]


def test_one_of_several_may_be_withdrawn_and_the_artist_stays_matched(store, ada):
    add(store, ada, Consent("release-2"), Consent("release-2", FAR))

    assert withdraw_consent(store, "Ada", "release-2") == 2

    assert [(record.ref, record.in_force) for record in consents(store, "Ada")] == [
        ("release-1", True),
        ("release-2", False),
        ("release-2", False),
    ]
    assert store.artist("Ada").status == "active"
    assert store.without_consent() == {}


def test_withdrawing_is_in_the_audit_with_who_did_it(store, ada):
    store.actor = "ida"

    withdraw_consent(store, "Ada")

    entry = audit.entries(store)[-1]
    assert (entry.action, entry.artist, entry.payload) == ("consent.withdraw", "Ada", {"ref": "release-1", "by": "ida"})


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (
            "release-9",
            r"^Ada: no consent release-9 is in force \(in force: release-1, release-2\); nothing to withdraw$",
        ),
        (
            "release-3",
            r"^Ada: no consent release-3 is in force \(in force: release-1, release-2\); nothing to withdraw$",
        ),
        ("release", "no consent release is in force"),
    ],
)
def test_what_is_not_in_force_cannot_be_withdrawn(store, ada, ref, message):
    add(store, ada, Consent("release-2", FAR), Consent("release-3", PAST))
    before = consents(store)

    with pytest.raises(RegistryError, match=message):
        withdraw_consent(store, "Ada", ref)

    assert consents(store) == before


def test_withdrawing_twice_is_refused(store, ada):
    withdraw_consent(store, "Ada")

    with pytest.raises(RegistryError, match=r"^Ada: no consent is in force \(in force: none\); nothing to withdraw$"):
        withdraw_consent(store, "Ada")


def test_a_withdrawal_that_is_cut_short_withdraws_nothing(store, ada, monkeypatch):
    add(store, ada, Consent("release-2"))
    real = audit.append

    def fail_at_the_second(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        if len(audit.entries(store)) == len(before) + 2:
            raise KeyboardInterrupt("in the middle")

    before = audit.entries(store)
    monkeypatch.setattr(audit, "append", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt, match="in the middle"):
        withdraw_consent(store, "Ada")

    assert [record.in_force for record in consents(store, "Ada")] == [True, True]
    assert audit.entries(store) == before
