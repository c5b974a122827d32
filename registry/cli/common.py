"""What the commands share: options, output, progress."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.progress import Progress

    from registry.records import Scan, Unusable
    from registry.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])

_JSON = "likeness.json"  # in click's context: whether --json was given

EXIT_SKIPPED = 3
EXIT_DAMAGED = 4
EXIT_FLAGGED = 5
EXIT_INTERRUPTED = 130


def home_option(command: Command) -> Command:
    """Add --home: the registry's folder."""
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
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
        type=click.Choice(["table", "json", "jsonl"]),
        default="table",
        show_default=True,
        callback=lambda context, _, chosen: "json" if context.meta[_JSON] else chosen,
        help="Results on stdout as a table for people, one JSON value, or one JSON object per line.",
    )(command)


def _check_finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number that a score can reach")
    return value


def threshold_option(command: Command) -> Command:
    """Add --threshold."""
    return click.option(
        "--threshold",
        type=float,
        callback=_check_finite,
        help="Flag at or above this many standard deviations above strangers, instead of the encoder's own threshold.",
    )(command)


def note(message: str) -> None:
    """Say something to the person, on stderr."""
    from registry.report import printable

    click.echo(printable(message), err=True)


def write_rows(rows: Sequence[dict[str, Any]], output_format: str, columns: Sequence[str]) -> None:
    """Write records to stdout: as a table of `columns`, or whole as JSON."""
    from registry.report import table_text

    if output_format == "jsonl":
        for row in rows:
            click.echo(json.dumps(row))
    elif output_format == "json":
        click.echo(json.dumps(rows, indent=2))
    elif table := table_text(rows, columns):
        click.echo(table)


def write_scans(scans: Sequence[Scan | Unusable], output_format: str) -> None:
    """Write scans to stdout: with their evidence for a person, or as JSON."""
    from registry.report import scan_text

    if output_format != "table":
        write_rows([scan.as_dict() for scan in scans], output_format, [])
    elif scans:
        click.echo("\n\n".join(scan_text(scan) for scan in scans))


@contextmanager
def open_registry(home: Path, *, create: bool = False) -> Iterator[Store]:
    """Open the store in `home` and close it at the end."""
    from registry.store import Store

    with Store(home, create=create) as store:
        yield store


@contextmanager
def progress_bar(unit: str, *, hidden: bool = False) -> Iterator[Progress]:
    """A bar on stderr with rate and time left; hidden where asked, and where stderr is not a terminal."""
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
    disable = hidden or not sys.stderr.isatty()
    with Progress(
        *columns, console=console, disable=disable, transient=True, expand=True, redirect_stdout=False
    ) as progress:
        yield progress
