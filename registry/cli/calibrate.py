"""`likeness calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from registry.cli.common import (
    as_option,
    format_option,
    home_option,
    max_hours_option,
    note,
    open_registry,
    warn,
    write_rows,
)

if TYPE_CHECKING:
    from registry.calibrate import Effect
    from registry.calibration import Calibration
    from registry.store import Store


@click.command()
@click.argument("recordings", required=False, type=click.Path(exists=True, path_type=Path), metavar="[DIR|MANIFEST]")
@click.option("--dry-run", is_flag=True, help="Only say what would change; nothing is kept.")
@click.option(
    "--only",
    type=click.Choice(["tail", "llr"]),
    help="Fit only how high strangers score (tail: thresholds), or only what scores are worth (llr: slope and "
    "intercept; thresholds move with them and the same tracks are flagged).",
)
@click.option("--list", "list_versions", is_flag=True, help="List the calibrations of this registry's own.")
@click.option("--rollback", is_flag=True, help="Go back to the calibration before the present one.")
@max_hours_option
@home_option
@format_option
@as_option
def calibrate(
    recordings: Path | None,
    dry_run: bool,
    only: Literal["tail", "llr"] | None,
    list_versions: bool,
    rollback: bool,
    max_hours: float,
    home: Path,
    output_format: str,
) -> None:
    """Fit likelihood ratios and thresholds anew to your own recordings, instead of those that come with the encoder.

    DIR and MANIFEST are as for `likeness evaluate`. Half of each person's recordings are enrolled and the others tried
    with them, and everybody is a stranger to all others; clones weigh half where there are any. At least 20 persons
    with two recordings or more each are needed, and 100 recordings in all. Nothing of the recordings is kept.

    What comes of it counts from the next command on; scans on record keep what they were decided with. Printed is what
    it changes: the cost of likelihood ratios (Cllr), the thresholds of some budgets at the present number of artists,
    and what they miss. The values after are of persons left out of the fit of llr, one part of five after the other.

    \b
    Examples:
      likeness calibrate trials.csv --dry-run
      likeness calibrate trials.csv
      likeness calibrate singers/ --only tail
      likeness calibrate --list
      likeness calibrate --rollback
    """
    if sum([recordings is not None, list_versions, rollback]) != 1:
        raise click.UsageError("give DIR or MANIFEST to calibrate on, or --list, or --rollback: one of them")
    if (dry_run or only) and recordings is None:
        raise click.UsageError("--dry-run and --only are for calibrating on DIR or MANIFEST")
    with open_registry(home) as store:
        if list_versions:
            _list(store, output_format)
        elif rollback:
            _roll_back(store, output_format)
        else:
            assert recordings is not None
            _calibrate(store, recordings, only, dry_run, max_hours, output_format)


def _calibrate(
    store: Store,
    recordings: Path,
    only: Literal["tail", "llr"] | None,
    dry_run: bool,
    max_hours: float,
    output_format: str,
) -> None:
    from registry.calibrate import check_listed, check_usable, effects, fit_calibration
    from registry.calibrations import add_calibration
    from registry.cli.evaluate import leave_with_unusable, score_recordings, tell_unusable
    from registry.config import false_flag_budget, load_encoder
    from registry.errors import NoThreshold, RegistryError
    from registry.evaluate import BUDGETS
    from registry.trials import list_trials

    if store.read_only and not dry_run:
        raise RegistryError(f"{store.home}: cannot be written to, so no calibration can be kept; --dry-run only looks")
    listed, unusable = list_trials(recordings)
    check_listed(listed)
    encoder = load_encoder(store)
    before = _present_calibration(store, encoder, only)
    scores, bad = score_recordings(listed, encoder, max_hours)
    unusable += bad
    tell_unusable(unusable)
    after = fit_calibration(scores, encoder.encoder_id, encoder.cohort.cohort_id, before, only)
    own_budget = false_flag_budget(store)
    n_artists = max(1, sum(artist.status == "active" for artist in store.artists()))
    was, becomes = effects(scores, after, before, only, tuple(dict.fromkeys([own_budget, *BUDGETS])), n_artists)
    try:
        check_usable(after, own_budget, n_artists)
    except NoThreshold as error:
        if not dry_run:
            raise
        warn(str(error))
    version = None if dry_run else add_calibration(store, after)
    record = {
        "version": version,
        "calibration_id": after.calibration_id,
        "source": after.source,
        "n_artists": n_artists,
        "n_persons": len(scores.persons),
        "n_recordings": len(scores.paths),
        "before": None if was is None else was.as_dict(),
        "after": becomes.as_dict(),
        "unusable": [each.as_dict() for each in unusable],
    }
    _write(record, was, becomes, output_format)
    _say_outcome(store, after, version)
    leave_with_unusable(unusable, len(scores.paths))


def _present_calibration(store: Store, encoder: Any, only: str | None) -> Calibration | None:
    """The calibration in force, or None where there is none and none is needed."""
    from registry.errors import NoThreshold
    from registry.match import find_calibration

    try:
        return find_calibration(store, encoder)
    except NoThreshold as error:
        if encoder.cohort is None or only is not None:
            raise
        note(f"no calibration is in force: {error}")
        return None


def _write(record: dict[str, Any], was: Effect | None, becomes: Effect, output_format: str) -> None:
    from registry.evaluation_report import CHANGE_COLUMNS, change_rows

    if output_format in ("json", "jsonl"):
        write_rows([record], output_format, [])
    else:
        write_rows(change_rows(was, becomes), output_format, CHANGE_COLUMNS)


def _say_outcome(store: Store, after: Calibration, version: int | None) -> None:
    tail = after.tail
    note(
        f"tail: {tail.n_strangers} strangers, {tail.n_exceedances} of them in the fitted part, shape {tail.shape:.2f} "
        f"({tail.shape_low:.2f} to {tail.shape_high:.2f})"
    )
    if version is None:
        note("nothing was changed (--dry-run)")
    else:
        note(
            f"{store.home}: calibration {version} ({after.calibration_id[:12]}) counts from now on; "
            "`likeness calibrate --rollback` goes back"
        )


def _list(store: Store, output_format: str) -> None:
    from registry.calibrations import list_calibrations

    rows: Sequence[dict[str, Any]] = [{**row, "active": bool(row["active"])} for row in list_calibrations(store)]
    if any(row["active"] and not row["fits"] for row in rows):
        note(f"{store.home}: what was fitted for another way of scoring does not count; fit another")
    if output_format == "table":
        rows = [
            {
                **row,
                "active": "yes" if row["active"] else "no",
                "fits": "yes" if row["fits"] else "no",
                "calibration_id": row["calibration_id"][:12],
                "encoder_id": row["encoder_id"][:12],
            }
            for row in rows
        ]
        if not rows:
            note(f"{store.home}: no calibration of its own; that of the encoder counts")
    columns = ["version", "active", "fits", "made_at", "made_by", "calibration_id", "encoder_id", "source"]
    write_rows(rows, output_format, columns)


def _roll_back(store: Store, output_format: str) -> None:
    from registry.calibrations import roll_back

    version, present = roll_back(store)
    if output_format != "table":
        write_rows([{"retired": version, "version": present}], output_format, ["retired", "version"])
    which = "the encoder's own counts" if present is None else f"calibration {present} counts"
    note(f"{store.home}: calibration {version} is retired, {which} from now on")
