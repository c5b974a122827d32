"""Which run a batch goes on with, and its outcomes as lines of JSON; `registry.pipeline` examines the tracks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from registry import runs
from registry.errors import RunMismatch
from registry.manifest import COLUMNS
from registry.match import Matcher
from registry.owner import owner_text
from registry.records import BatchItem, Run, Scan
from registry.store import Store


def open_run(
    store: Store,
    matcher: Matcher,
    inputs: Sequence[Path],
    items: Sequence[BatchItem],
    notify: Callable[[str], None],
    *,
    new_run: bool = False,
    repin: bool = False,
) -> Run:
    """The run to go on with, or a new one.

    The same inputs and threshold or budget name the same run: one that was stopped is gone on with, one that was
    finished is not.
    A run keeps the list of tracks it began with. It is pinned to the state of the registry it began with; where that
    has changed since, its tracks would not have been matched alike, so the caller chooses: a new run (`new_run`), or
    the rest under the present state (`repin`).

    Parameters
    ----------
    inputs, items
        What was asked for, and what `list_items` gives for it now.
    notify : callable
        Takes a line for stderr (a run that begins anew, tracks that have come too late).

    Raises
    ------
    RunMismatch
        The registry changed since the run was stopped and neither choice was made.
    """
    pins = {
        "store_revision": matcher.store_revision,
        "encoder_id": matcher.encoder_id,
        "cohort_id": matcher.cohort_id,
        "threshold": matcher.threshold.llr,
        "threshold_source": matcher.threshold.source,
        "budget": matcher.threshold.budget,
        "calibration_id": matcher.calibration.calibration_id,
        "version": version("likeness"),
    }
    # Paths as they were given, and where that was: what the outcomes say must mean the same when the run goes on.
    folder = "" if all(path.is_absolute() for path in inputs) else str(Path.cwd())
    asked = [sorted(map(str, inputs)), folder, matcher.rule.asked]
    inputs_key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    run = runs.open_run(store, inputs_key)
    if run is not None and new_run:
        _check_stopped(store, run, "--new-run would forget what it does")
        runs.drop_run(store, run.run_id)
        run = None
    if run is None:
        run = runs.start_run(store, {"inputs_key": inputs_key, **pins}, items)
        if earlier := runs.finished_run(store, inputs_key):
            notify(
                f"run {run.run_id}: begins anew; run {earlier.run_id} examined the same inputs and was finished "
                f"at {earlier.finished_at}"
            )
    known = runs.run_paths(store, run.run_id)
    if new := [item.path for item in items if item.path not in known]:
        notify(
            f"run {run.run_id}: {len(new)} tracks have come since it began, such as {new[0]}; they are not part of it. "
            "The same command examines them too once this run is done, or --new-run begins again with everything"
        )
    # The threshold beside them: it changes with whose consent has ended meanwhile, which is no new revision.
    pinned = ("store_revision", "encoder_id", "cohort_id", "calibration_id", "threshold")
    if changed := [key for key in pinned if getattr(run, key) != pins[key]]:
        if not repin:
            raise RunMismatch(
                f"run {run.run_id}: the registry has changed since it was stopped ({', '.join(changed)}). Choose: "
                "--repin examines the rest with the registry as it is now, --new-run forgets this run and begins again"
            )
        _check_stopped(store, run, "--repin would have its tracks matched in two ways")
        runs.pin_run(store, run.run_id, pins)
        return runs.get_run(store, run.run_id)
    return run


def _check_stopped(store: Store, run: Run, otherwise: str) -> None:
    """Raise `RunMismatch` if a process is at work on a run."""
    if owners := runs.lease_owners(store, run.run_id):
        raise RunMismatch(
            f"run {run.run_id}: {' and '.join(map(owner_text, owners))} is at work on it, and {otherwise}; "
            "stop that first (Ctrl-C)"
        )


def outcome_line(item: dict[str, Any], scan: Scan | None) -> dict[str, Any]:
    """One track's outcome as plain JSON types: the manifest's columns, then the outcome, then the scan."""
    line = {name: item[name] for name in ("position", *COLUMNS, "extra")}
    line |= {"outcome": item["outcome"], "kind": item["kind"], "reason": item["reason"]}
    return line | {"scan": None if scan is None else scan.as_dict()}
