"""Calibrations that the owner fitted: the SQL of their versions, as functions on an open `Store`."""

from __future__ import annotations

import json
from typing import Any

from registry import audit
from registry.calibration import CONSTANTS, Calibration
from registry.errors import RegistryError, StoreDamaged
from registry.store import Store, now


def active_calibration(store: Store, encoder_id: str, cohort_id: str) -> Calibration | None:
    """The registry's own calibration for an encoder and its cohort; None where the encoder's own counts."""
    rows = _newest(store, encoder_id, cohort_id)
    if not rows:
        return None
    try:
        calibration = Calibration.from_dict(json.loads(rows[0]["content"]))
    except (ValueError, TypeError) as error:
        raise StoreDamaged(f"calibration {rows[0]['version']}: {error}; `likeness calibrate --rollback`") from error
    # One of an earlier way of scoring waits until it is fitted anew; `misfit_version` says so.
    return None if calibration.misfit(encoder_id, cohort_id) else calibration


def misfit_version(store: Store, encoder_id: str, cohort_id: str) -> int | None:
    """The version that would count, were it not fitted for another way of scoring; None where there is none."""
    rows = _newest(store, encoder_id, cohort_id)
    if not rows or active_calibration(store, encoder_id, cohort_id):
        return None
    return int(rows[0]["version"])


def _newest(store: Store, encoder_id: str, cohort_id: str) -> list[dict[str, Any]]:
    return store.rows(
        "SELECT version, content FROM calibrations WHERE encoder_id = ? AND cohort_id = ? AND active "
        "ORDER BY version DESC LIMIT 1",
        [encoder_id, cohort_id],
    )


def add_calibration(store: Store, calibration: Calibration) -> int:
    """Keep a calibration as a new version, which counts from now on; returns the version."""
    with store.writing():
        version = store.insert(
            "calibrations",
            {
                "calibration_id": calibration.calibration_id,
                "encoder_id": calibration.encoder_id,
                "cohort_id": calibration.cohort_id,
                "content": json.dumps(calibration.content),
                "made_at": now(),
                "made_by": store.actor,
                "active": 1,
            },
        )
        audit.append(store, "calibration.add", {"version": version, "calibration_id": calibration.calibration_id})
    return version


def roll_back(store: Store) -> tuple[int, int | None]:
    """Retire the newest version that counts; returns it and the one that counts now, None for the encoder's own."""
    with store.writing():
        rows = store.rows("SELECT version, encoder_id, cohort_id FROM calibrations WHERE active ORDER BY version DESC")
        if not rows:
            raise RegistryError("no calibration of this registry's own is in use; the encoder's own counts already")
        version, *belongs_to = rows[0].values()
        # One of another encoder does not count in its place.
        earlier = (row["version"] for row in rows[1:] if [row["encoder_id"], row["cohort_id"]] == belongs_to)
        before = next(earlier, None)
        store.db.table("calibrations").update(version, {"active": 0})
        if before is not None and misfit_version(store, *belongs_to) is not None:
            before = None  # it waits, and the encoder's own counts
        audit.append(store, "calibration.rollback", {"version": version, "now": before})
    return version, before


def list_calibrations(store: Store) -> list[dict[str, Any]]:
    """Versions, newest first, without their content; `fits`: made for the present way of scoring."""
    rows = store.rows(
        "SELECT version, calibration_id, encoder_id, made_at, made_by, active, content ->> '$.source' AS source, "
        "content ->> '$.scoring' AS fits FROM calibrations ORDER BY version DESC"
    )
    return [{**row, "fits": json.loads(row["fits"]) == CONSTANTS} for row in rows]
