"""`likeness budget` and `likeness decide`: other false-flag budgets for what is on record, without any audio."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import (
    accept_extrapolation_option,
    as_option,
    check_folder,
    format_option,
    home_option,
    note,
    open_registry,
    read_budget,
    write_rows,
)
from registry.cli.outcomes import outcome_file, write_done

if TYPE_CHECKING:
    from registry.calibration import Calibration
    from registry.preview import Preview
    from registry.redecide import DecidedRun
    from registry.store import Store


def _read_since(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """A time as it is stored, of what was typed: some days or hours ago, or a date."""
    if value is None:
        return ""
    ago = re.fullmatch(r"([0-9]{1,6})([dh])", value)
    try:
        if ago:
            at = datetime.now(UTC) - timedelta(hours=int(ago[1]) * (24 if ago[2] == "d" else 1))
        else:
            at = datetime.fromisoformat(value)
            at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value}: neither a time ago such as 7d or 12h, nor a date such as 2026-11-30"
        ) from error
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


@click.group()
def budget() -> None:
    """Show what false-flag budgets would flag; `likeness config set false-flag-budget` chooses one."""


@budget.command()
@click.argument("budgets", nargs=-1, required=True, metavar="BUDGET...")
@click.option(
    "--since",
    metavar="TIME",
    callback=_read_since,
    help="Only tracks examined since then: 7d or 12h ago, or a date (UTC) such as 2026-11-30.",
)
@click.option("--run", "run_id", type=int, metavar="RUN", help="Only tracks of this run, by its number.")
@click.option(
    "--details", is_flag=True, help="List the tracks whose flag comes or goes too; in JSON they always stand."
)
@home_option
@format_option
def preview(
    budgets: tuple[str, ...], since: str, run_id: int | None, details: bool, home: Path, output_format: str
) -> None:
    """Show what each BUDGET would flag of the tracks on record, and what would change. Reads no audio, decides nothing.

    A BUDGET is the share of tracks without an enrolled voice that may be flagged, such as 0.01 or 1%. Of each there is
    the threshold for a song over the artists now enrolled (a log10 likelihood ratio), and how many of the tracks on
    record are flagged with it, how many flags come and how many go against what was decided: each track by its newest
    scan, over the artists that it was matched with then. fpir is the share of tracks without an enrolled voice that get
    a flag, fnir the share of tracks with one that get none, both as the calibration measured it on other recordings;
    fpir lies below the budget by the margin that thresholds are given.

    Tracks that were not examined with the calibration in force do not count. A threshold that is extrapolated lies
    beyond what the strangers of the calibration can show; where it is refused, --accept-extrapolation uses it still.

    \b
    Examples:
      likeness budget preview 0.1% 1% 3%
      likeness budget preview 1% --since 7d --details
      likeness budget preview 0.01 0.03 --run 12 --json
    """
    shares = [read_budget(text) for text in budgets]
    from registry.preview import preview_budgets

    with open_registry(home) as store:
        calibration = _in_force(store)
        found = preview_budgets(store, calibration, shares, note, since=since, run_id=run_id)
    _write_previews(found, output_format, details)
    note(
        f"thresholds over {found[0].n_artists} artists; {found[0].n_scans} tracks on record were examined with the "
        f"calibration in force ({calibration.calibration_id[:12]}: {calibration.source})"
    )


def _in_force(store: Store) -> Calibration:
    """The calibration in force, without loading the encoder, which takes seconds."""
    from dataclasses import replace

    from registry.match import find_calibration
    from registry.standing import read_encoder_files

    files = read_encoder_files(store)
    if files.encoder_id is None and files.calibration is not None:  # nobody is enrolled with it yet
        files = replace(files, encoder_id=files.calibration["encoder_id"])
    return find_calibration(store, files)


def _write_previews(found: list[Preview], output_format: str, details: bool) -> None:
    if output_format in ("json", "jsonl"):
        write_rows([each.as_dict() for each in found], output_format, [])
        return
    hows = list(dict.fromkeys(how for each in found for how in each.fnir))
    changes = [{"budget": each.budget, **vars(change)} for each in found for change in each.changes]
    change_columns = ["budget", "flag", "path", "artist", "llr", "threshold", "threshold_before"]
    if output_format == "csv":
        rows = [{**each.as_dict(), **{f"fnir {how}": each.fnir.get(how) for how in hows}} for each in found]
        columns = ["budget", "threshold", "n_artists", "n_scans", "n_flagged", "n_come", "n_go", "fpir"]
        columns += [*(f"fnir {how}" for how in hows), "decades_beyond", "threshold_source"]
        # One table in one file: the tracks in the place of the counts.
        write_rows(changes if details else rows, output_format, change_columns if details else columns)
        return
    write_rows(
        [_for_people(each, hows) for each in found],
        output_format,
        ["budget", "threshold", "flagged", "come", "go", "fpir", *(f"fnir {how}" for how in hows), "extrapolated"],
    )
    if details and changes:
        click.echo()
        numbers = {"llr": "+.2f", "threshold": ".2f", "threshold_before": ".2f"}
        shown = [
            {
                **row,
                "budget": _percent(row["budget"]),
                **{k: format(row[k], f) for k, f in numbers.items() if row[k] is not None},
            }
            for row in changes
        ]
        write_rows(shown, output_format, change_columns)


def _for_people(found: Preview, hows: list[str]) -> dict[str, Any]:
    beyond = f"{found.decades_beyond:.1f} powers of ten"
    return {
        "budget": _percent(found.budget),
        "threshold": f"{found.threshold:.2f}",
        "flagged": found.n_flagged,
        "come": found.n_come,
        "go": found.n_go,
        "fpir": _percent(found.fpir),
        **{f"fnir {how}": _percent(found.fnir[how]) for how in hows if how in found.fnir},
        "extrapolated": f"{beyond}, refused" if found.is_refused else beyond if found.is_extrapolated else "no",
    }


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


@click.command()
@click.option("--run", "run_id", type=int, required=True, metavar="RUN", help="The finished run, by its number.")
@click.option(
    "--budget",
    "share",
    required=True,
    metavar="SHARE",
    callback=lambda context, parameter, value: read_budget(value),
    help="Share of tracks without an enrolled voice that may be flagged, such as 0.01 or 1%.",
)
@accept_extrapolation_option
@click.option(
    "--output",
    "output_path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=check_folder,
    help="Write the outcomes of the new run to this file, one JSON line per track, as `likeness batch` does.",
)
@home_option
@format_option
@as_option
def decide(
    run_id: int, share: float, accept_extrapolation: bool, output_path: Path | None, home: Path, output_format: str
) -> None:
    """Decide a finished run again with another false-flag budget, from its kept scores; reads no audio.

    The outcome is a new run over the same tracks; the old one stays as it was. Tracks that abstained or failed stay so,
    each with its reason. The budget of later runs is not changed: `likeness config set false-flag-budget` does that.
    `likeness budget preview` shows before what a budget would flag.

    \b
    Examples:
      likeness decide --run 12 --budget 1%
      likeness decide --run 12 --budget 1% --output outcomes.jsonl
      likeness decide --run 12 --budget 1e-3 --accept-extrapolation --json
    """
    from registry import audit
    from registry.redecide import decide_run

    is_new = output_path is not None and not os.path.lexists(output_path)
    with open_registry(home) as store, outcome_file(output_path) as write:
        try:
            found = decide_run(store, run_id, _in_force(store), share, note, accept_extrapolation=accept_extrapolation)
        except BaseException:
            if output_path is not None and is_new:  # nothing is left of what was refused
                output_path.unlink(missing_ok=True)
            raise
        note(
            f"run {found.run_id}: run {found.decided_from} decided again with a budget of {_percent(share)}; "
            f"{found.came} flags come, {found.went} go; threshold {found.threshold:.2f}: {found.threshold_source}"
        )
        if output_path is not None:
            write_done(store, found.run_id, output_path, write)
        head = audit.head_of(store)
    _write_decided(found, output_format)
    note(f"audit head {head.seq} {head.hash}")


def _write_decided(found: DecidedRun, output_format: str) -> None:
    """Counts before and after, as a table or CSV; as JSON the record."""
    if output_format in ("json", "jsonl"):
        write_rows([found.as_dict()], output_format, [])
        return
    rows = [
        {"outcome": name, "before": found.outcomes_before.get(name, 0), "after": found.outcomes.get(name, 0)}
        for name in ("flagged", "clear", "abstained", "failed")
    ]
    write_rows(rows, output_format, ["outcome", "before", "after"])
