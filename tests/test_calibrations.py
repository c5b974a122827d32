"""Versions of the registry's own calibration: which one counts, and the way back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry import audit
from registry.calibration import CONSTANTS, Calibration
from registry.calibrations import active_calibration, add_calibration, list_calibrations, misfit_version, roll_back
from registry.errors import RegistryError, StoreDamaged
from registry.store import Store
from tests.fakes import COHORT_ID, ENCODER_ID, fake_calibration, table_counts

OTHER_ENCODER_ID, OTHER_COHORT_ID = "e" * 64, "d" * 64


def calibration(name: str, **changes: Any) -> Calibration:
    """A calibration that was fitted on `name`."""
    return Calibration.from_dict({**fake_calibration(COHORT_ID), "source": name, **changes})


def source(store: Store, encoder_id: str = ENCODER_ID, cohort_id: str = COHORT_ID) -> str | None:
    """What the one that counts was fitted on."""
    found = active_calibration(store, encoder_id, cohort_id)
    return None if found is None else found.source


def audited(store: Store) -> list[tuple[str, dict[str, Any]]]:
    entries = [(entry.action, entry.payload) for entry in audit.entries(store)]
    return [entry for entry in entries if entry[0] != "registry.encrypt"]


@pytest.fixture
def store(any_store) -> Store:
    any_store.actor = "ida"
    return any_store


def test_a_registry_has_no_calibration_of_its_own_at_first(store):
    assert (source(store), list_calibrations(store)) == (None, [])
    with pytest.raises(RegistryError, match="no calibration of this registry's own is in use; the encoder's own count"):
        roll_back(store)
    assert audited(store) == []


def test_a_calibration_comes_back_as_it_was_fitted(store):
    fitted = calibration("our songs", found={"clean": [None, 1.25]}, note=["for", "people"])

    assert add_calibration(store, fitted) == 1

    assert active_calibration(store, ENCODER_ID, COHORT_ID) == fitted


def test_the_newest_one_counts_and_rolling_back_goes_through_the_earlier_ones(store):
    for name in ("first", "second", "third"):
        add_calibration(store, calibration(name))

    went = [source(store)]
    for expected in ((3, 2), (2, 1), (1, None)):
        assert roll_back(store) == expected
        went.append(source(store))

    assert went == ["third", "second", "first", None]
    with pytest.raises(RegistryError, match="no calibration of this registry's own is in use"):
        roll_back(store)


def test_a_version_after_a_rollback_counts_and_does_not_bring_back_what_was_retired(store):
    for name in ("first", "second"):
        add_calibration(store, calibration(name))
    roll_back(store)

    assert add_calibration(store, calibration("third")) == 3

    assert source(store) == "third"
    assert roll_back(store) == (3, 1)
    assert source(store) == "first"


def test_one_of_another_encoder_or_cohort_does_not_count(store):
    add_calibration(store, calibration("ours"))
    add_calibration(store, calibration("of another encoder", encoder_id=OTHER_ENCODER_ID))
    add_calibration(store, calibration("of another cohort", cohort_id=OTHER_COHORT_ID))

    assert source(store) == "ours"
    assert source(store, OTHER_ENCODER_ID) == "of another encoder"
    assert source(store, cohort_id=OTHER_COHORT_ID) == "of another cohort"
    assert source(store, OTHER_ENCODER_ID, OTHER_COHORT_ID) is None


def test_one_of_another_encoder_does_not_count_in_the_place_of_what_is_rolled_back(store):
    add_calibration(store, calibration("ours"))
    add_calibration(store, calibration("of another encoder", encoder_id=OTHER_ENCODER_ID))
    add_calibration(store, calibration("ours again"))

    assert [roll_back(store) for _ in range(3)] == [(3, 1), (2, None), (1, None)]


def test_one_of_another_way_of_scoring_waits(store, monkeypatch):
    """A release that scores in another way must not decide by it; nor does an earlier version then count."""
    add_calibration(store, calibration("first"))
    add_calibration(store, calibration("second"))

    monkeypatch.setattr("registry.calibration.CONSTANTS", {**CONSTANTS, "stretch_windows": 99})
    assert source(store) is None
    assert misfit_version(store, ENCODER_ID, COHORT_ID) == 2
    monkeypatch.undo()

    assert (source(store), misfit_version(store, ENCODER_ID, COHORT_ID)) == ("second", None)


def test_rolling_back_to_one_of_another_way_of_scoring_leads_to_the_encoders_own(store):
    add_calibration(store, calibration("earlier", scoring={"cohort_top": 1}))
    add_calibration(store, calibration("second"))

    assert [row["fits"] for row in list_calibrations(store)] == [True, False]
    assert roll_back(store) == (2, None)
    assert (source(store), misfit_version(store, ENCODER_ID, COHORT_ID)) == (None, 1)


def test_versions_are_listed_newest_first_without_their_content(store):
    first, second = calibration("first"), calibration("second", encoder_id=OTHER_ENCODER_ID)
    add_calibration(store, first)
    store.actor = "max"
    add_calibration(store, second)
    roll_back(store)

    rows = list_calibrations(store)

    assert [{**row, "made_at": row["made_at"][:2]} for row in rows] == [
        {
            **{"version": 2, "calibration_id": second.calibration_id, "encoder_id": OTHER_ENCODER_ID},
            **{"made_at": "20", "made_by": "max", "active": 0, "source": "second", "fits": True},
        },
        {
            **{"version": 1, "calibration_id": first.calibration_id, "encoder_id": ENCODER_ID},
            **{"made_at": "20", "made_by": "ida", "active": 1, "source": "first", "fits": True},
        },
    ]


def test_what_was_fitted_and_rolled_back_is_in_the_audit(store):
    first, second = calibration("first"), calibration("second")
    add_calibration(store, first)
    add_calibration(store, second)
    roll_back(store)
    roll_back(store)

    assert audited(store) == [
        ("calibration.add", {"version": 1, "calibration_id": first.calibration_id, "by": "ida"}),
        ("calibration.add", {"version": 2, "calibration_id": second.calibration_id, "by": "ida"}),
        ("calibration.rollback", {"version": 2, "now": 1, "by": "ida"}),
        ("calibration.rollback", {"version": 1, "now": None, "by": "ida"}),
    ]


def test_a_calibration_changes_nothing_of_what_is_enrolled(store):
    revision = store.revision

    add_calibration(store, calibration("first"))

    assert store.revision == revision
    assert table_counts(store).keys() - {"artist_keys"} == {"calibrations", "audit", "audit_payloads"}


@pytest.mark.parametrize("content", ["{", "[]", '{"encoder_id": "f"}', '{"encoder_id": 1, "tail": 2}', "3"])
def test_a_damaged_version_is_named_with_the_way_out_and_rolling_back_leads_there(store, content):
    add_calibration(store, calibration("first"))
    add_calibration(store, calibration("second"))
    with store.writing():
        store.db.execute("UPDATE calibrations SET content = ? WHERE version = 2", [content])

    with pytest.raises(StoreDamaged, match=r"calibration 2: .*; `likeness calibrate --rollback`"):
        active_calibration(store, ENCODER_ID, COHORT_ID)
    roll_back(store)

    assert source(store) == "first"


def test_a_version_that_could_not_be_written_whole_is_not_there(store, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit, "append", fail)
    with pytest.raises(OSError, match="No space left"):
        add_calibration(store, calibration("first"))
    monkeypatch.undo()

    assert (source(store), list_calibrations(store)) == (None, [])


def test_the_content_is_json_that_a_stranger_can_read(store):
    fitted = calibration("our songs")
    add_calibration(store, fitted)

    (row,) = store.rows("SELECT content FROM calibrations")

    assert json.loads(row["content"]) == fitted.content
