"""What the commands share: options, output, messages, progress."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.progress import Progress

    from registry.records import Scan, Unusable
    from registry.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])

_JSON = "likeness.json"  # in click's context: whether --json was given
_ACTOR = "likeness.actor"  # in click's context: who --as named
LOG_JSON = "likeness.log_json"  # in click's context: whether --log-json was given

EXIT_SKIPPED = 3
EXIT_DAMAGED = 4
EXIT_FLAGGED = 5
EXIT_INTERRUPTED = 130


class _Home(click.Path):
    """A folder; an empty name is refused, which Path takes for the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty; is a variable of the shell not set?", param, ctx)
        return super().convert(value, param, ctx)


def home_option(command: Command) -> Command:
    """Add --home: the registry's folder."""
    return click.option(
        "--home",
        type=_Home(file_okay=False, path_type=Path),
        envvar="LIKENESS_HOME",
        default="~/.likeness",
        show_default=True,
        show_envvar=True,
        callback=_expand_home,
        help="The registry's folder.",
    )(command)


def _expand_home(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    # Also for --home=~/x and LIKENESS_HOME='~/x', in which no shell expands it.
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise click.BadParameter(f"{path}: {error}") from error


def format_option(command: Command) -> Command:
    """Add --format, with --json for short."""
    # Two options for one parameter would do, but click before 8.3 then loses the default.
    command = click.option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=lambda context, _, chosen: context.meta.update({_JSON: chosen}),
        help="Short for --format json.",
    )(command)
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json", "jsonl", "csv"]),
        default="table",
        show_default=True,
        callback=lambda context, _, chosen: "json" if context.meta[_JSON] else chosen,
        help="Results on stdout as a table for people, one JSON value, one JSON object per line, or CSV with a header.",
    )(command)


def _check_finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number that a score can reach")
    return value


def accept_extrapolation_option(command: Command) -> Command:
    """Add --accept-extrapolation, for `registry.calibration.Rule`."""
    return click.option(
        "--accept-extrapolation",
        is_flag=True,
        help="Also use a threshold that lies more than two powers of ten beyond what the calibration can show.",
    )(command)


def threshold_options(command: Command) -> Command:
    """Add --budget, --threshold and --accept-extrapolation; `threshold_choice` reads them."""
    command = accept_extrapolation_option(command)
    command = click.option(
        "--threshold",
        type=float,
        callback=_check_finite,
        metavar="LLR",
        help="Flag at or above this log10 likelihood ratio, whatever the budget.",
    )(command)
    return click.option(
        "--budget",
        metavar="SHARE",
        callback=lambda context, parameter, value: None if value is None else read_budget(value),
        help="Share of tracks without an enrolled voice that may be flagged, such as 0.01 or 1%, instead of the "
        "registry's own false-flag-budget (`likeness config list`).",
    )(command)


def read_budget(text: str) -> float:
    """A false-flag budget as it is typed; anything else is wrong usage."""
    from registry.config import parse_budget

    try:
        return parse_budget(text)
    except ValueError as error:
        raise click.BadParameter(f"a budget {error}, not {text}") from error


def threshold_choice(budget: float | None, threshold: float | None, accept_extrapolation: bool) -> dict[str, Any]:
    """What `threshold_options` gave, as `registry.match.Matcher` takes it; contradictions are refused."""
    if budget is not None and threshold is not None:
        raise click.UsageError("--budget and --threshold both say when to flag; give one of them")
    return {"budget": budget, "threshold": threshold, "accept_extrapolation": accept_extrapolation}


def max_hours_option(command: Command) -> Command:
    """Add --max-hours: how long a recording may be, for `embeddings.limits.Limits`."""
    from embeddings.limits import DEFAULT_LIMITS

    return click.option(
        "--max-hours",
        type=float,
        default=DEFAULT_LIMITS.max_hours,
        show_default=True,
        metavar="HOURS",
        callback=_check_hours,
        help="Refuse recordings that decode to more than this; beyond 8 channels at 48 kHz an hour counts as more.",
    )(command)


def _check_hours(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 < value < math.inf:
        raise click.BadParameter(f"{value} is not a number of hours > 0")
    return value


_PREFIXES = {"info": "", "warning": "warning: ", "error": "Error: "}


def say(level: str, message: str, **more: Any) -> None:
    """Write one line to stderr: for a person, or with --log-json as a JSON object, in which `more` stands too."""
    if logs_json():
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        command = click.get_current_context().find_root().invoked_subcommand
        click.echo(json.dumps({"at": at, "level": level, "command": command, "message": message, **more}), err=True)
        return
    from registry.report import printable

    click.echo(_PREFIXES[level] + printable(message), err=True)


def logs_json() -> bool:
    """Whether stderr is to carry JSON objects and nothing else."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(LOG_JSON))


@contextmanager
def libraries_log_as_asked() -> Iterator[None]:
    """With --log-json, let what Python's own `warnings` and `logging` have to say come as JSON objects too."""
    if not logs_json():
        yield
        return
    import logging

    class JsonLines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.levelname.lower(), record.getMessage())

    handler = JsonLines(logging.WARNING)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)


def note(message: str) -> None:
    """Say something to the person, on stderr."""
    say("info", message)


def warn(message: str) -> None:
    """Say on stderr what a person should look into although the command goes on."""
    say("warning", message)


def confirm(question: str) -> None:
    """Ask on stderr and return after a yes; refuse after anything else, and where nobody can be asked.

    A command that calls this has an option --yes.
    """
    from registry.errors import RegistryError
    from registry.report import printable

    answer = False
    try:
        answer = not logs_json() and click.confirm(printable(question), err=True)
    except click.Abort:
        click.echo(err=True)  # the cursor stands behind the question
    if not answer:
        raise RegistryError("not confirmed, nothing was changed; --yes goes ahead without asking")


def write_rows(rows: Sequence[dict[str, Any]], output_format: str, columns: Sequence[str]) -> None:
    """Write records to stdout: as a table or CSV of `columns` (all, for CSV, if there are none), or whole as JSON."""
    from registry.report import csv_text, table_text

    if output_format == "jsonl":
        for row in rows:
            click.echo(json.dumps(row))
    elif output_format == "json":
        click.echo(json.dumps(rows, indent=2))
    elif output_format == "csv":
        click.echo(csv_text(rows, columns), nl=False)
    elif table := table_text(rows, columns):
        click.echo(table)


def write_scans(scans: Sequence[Scan | Unusable], output_format: str, *, dated: bool = False) -> None:
    """Write scans to stdout: with their evidence for a person, one row each as CSV, or whole as JSON.

    With `dated` a person is also told when each was made, and by what; CSV and JSON always say it.
    """
    from registry.report import SCAN_COLUMNS, scan_row, scan_text

    if output_format == "csv":
        write_rows([scan_row(scan) for scan in scans], output_format, SCAN_COLUMNS)
    elif output_format != "table":
        write_rows([scan.as_dict() for scan in scans], output_format, [])
    elif scans:
        click.echo("\n\n".join(scan_text(scan, dated=dated) for scan in scans))


def as_option(command: Command) -> Command:
    """Add --as: who is at work, for the audit and for approvals."""
    return click.option(
        "--as",
        is_eager=True,
        expose_value=False,
        metavar="NAME",
        envvar="LIKENESS_AS",
        callback=lambda context, _, name: context.meta.update({_ACTOR: name}),
        show_default="your login",
        help="Who is at work, for the record.",
    )(command)


def _actor() -> str:
    """Who is at work: as given by --as, or the login."""
    import getpass

    from registry.records import storable

    context = click.get_current_context(silent=True)
    name = context and context.meta.get(_ACTOR)
    try:
        return storable(name or getpass.getuser())
    except (KeyError, OSError):  # a user without an entry, as in some containers
        return f"uid {os.getuid()}"


@contextmanager
def open_registry(home: Path, *, create: bool = False) -> Iterator[Store]:
    """Open the store in `home`, go on with a removal that was held up, and close it at the end."""
    from registry.store import Store

    with Store(home, create=create, actor=_actor()) as store:
        if store.has_pending_erasures():
            from registry.erasure import finish_pending

            finish_pending(store, note)
        yield store


def check_folder(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that could not be written, before what it is to tell of is done."""
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        reason = "cannot be written to" if path.parent.is_dir() else "is not there"
        raise click.BadParameter(f"folder {path.parent} {reason}")
    return path


def receipt_option(command: Command) -> Command:
    """Add --receipt: where the receipt of a removal goes, beside stdout."""
    return click.option(
        "--receipt",
        "receipt_path",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        callback=check_folder,
        help="Write the receipt to this file too.",
    )(command)


def write_receipt(receipt: dict[str, Any], path: Path | None) -> None:
    """Write the receipt of a removal to stdout, and to a file where asked."""
    from registry.errors import RegistryError

    text = json.dumps(receipt, indent=2)
    click.echo(text)
    if path is not None:
        try:
            path.write_text(text + "\n", encoding="ascii")
        except OSError as error:
            raise RegistryError(
                f"{path}: the receipt could not be written ({error.strerror}); "
                f"`likeness receipts {receipt['erasure_id']}` shows it again"
            ) from error


@contextmanager
def progress_bar(unit: str, *, hidden: bool = False) -> Iterator[Progress]:
    """A bar on stderr with rate and time left; hidden where asked, with --log-json, and where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(max_width=18, no_wrap=True)),
        BarColumn(bar_width=None),  # what the others leave
        MofNCompleteColumn(),
        TextColumn(f"{unit} {{task.fields[note]}}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Left to itself, rich prints on its own console, stderr, also what is meant for stdout.
    disable = hidden or logs_json() or not sys.stderr.isatty()
    with Progress(
        *columns, console=console, disable=disable, transient=True, expand=True, redirect_stdout=False
    ) as progress:
        yield progress
