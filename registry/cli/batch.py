"""`likeness batch`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import (
    EXIT_FLAGGED,
    EXIT_SKIPPED,
    home_option,
    note,
    open_registry,
    progress_bar,
    threshold_option,
)

if TYPE_CHECKING:
    from embeddings.workers import EncoderProcess
    from registry.match import Matcher
    from registry.records import Run, Scan
    from registry.store import Store


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@home_option
@threshold_option
@click.option(
    "--output",
    "output_path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the outcomes to this file instead of stdout; when a run goes on, those it has are written first.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=lambda: max(1, (os.cpu_count() or 2) - 1),
    show_default="cores less one",
    help="Processes that decode.",
)
@click.option("--new-run", is_flag=True, help="Forget a stopped run over these inputs and begin again.")
@click.option("--repin", is_flag=True, help="Go on with a stopped run although the registry has changed since.")
@click.option("--fail-on", type=click.Choice(["flagged"]), help="Exit with 5 if a track is flagged.")
def batch(
    inputs: tuple[Path, ...],
    home: Path,
    threshold: float | None,
    output_path: Path | None,
    workers: int,
    new_run: bool,
    repin: bool,
    fail_on: str | None,
) -> None:
    """Examine many tracks: audio files, folders, or manifests (CSV or JSON lines with a column `path`).

    One JSON line per track as it finishes, in the order in which they finish; its `outcome` is clear, flagged,
    abstained or failed, with the reason. Columns of a manifest come out again: title, isrc and uploader by name, others
    under `extra`. Started again with the same inputs, a run that was stopped does what is left, and one that was
    finished begins anew. A summary stands on stderr at the end; the exit code is 3 if a track could not be used.

    \b
    Examples:
      likeness batch deliveries/ --output outcomes.jsonl
      likeness batch tonight.csv --workers 4 --output outcomes.jsonl
    """
    from functools import partial

    from embeddings.encoder import SpeechBrainEncoder
    from embeddings.workers import EncoderProcess
    from registry.batch import open_run
    from registry.config import encoder_source, trusted_models
    from registry.manifest import list_items
    from registry.match import Matcher

    if new_run and repin:
        raise click.UsageError("--new-run forgets the run that --repin would go on with; choose one")
    _check_output(output_path, inputs)
    items = list_items(inputs)
    with open_registry(home) as store:
        if not items:
            note(f"{', '.join(map(str, inputs))}: no tracks, nothing to do")
            return
        source, trusted = encoder_source(store), trusted_models(store)
        with closing(EncoderProcess(partial(SpeechBrainEncoder, source, trusted=trusted), source, trusted)) as encoder:
            matcher = Matcher(store, encoder, note, threshold=threshold)
            run = open_run(store, matcher, inputs, items, note, new_run=new_run, repin=repin)
            _examine(store, matcher, encoder, run, workers, output_path)
        outcomes = _summarise(store, run)
    if fail_on and outcomes.get(fail_on):
        raise click.exceptions.Exit(EXIT_FLAGGED)
    if outcomes.get("failed"):
        raise click.exceptions.Exit(EXIT_SKIPPED)


def _check_output(path: Path | None, inputs: tuple[Path, ...]) -> None:
    """Refuse an --output that would fail after an hour, or write over what it is made from."""
    if path is None:
        return
    if any(path.resolve() == given.resolve() for given in inputs):
        raise click.BadParameter(f"{path} is an input too, and would be overwritten", param_hint="--output")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        reason = "cannot be written to" if path.parent.is_dir() else "is not there"
        raise click.BadParameter(f"folder {path.parent} {reason}", param_hint="--output")


def _examine(
    store: Store, matcher: Matcher, encoder: EncoderProcess, run: Run, workers: int, output_path: Path | None
) -> None:
    """Do what is left of a run; write each outcome, and with `output_path` also those that the run has already."""
    from registry.batch import Pipeline, outcome_line
    from registry.scans import get_scan, run_outcomes, run_tracks

    n_done = run_outcomes(store, run.run_id)
    n_todo = n_done.pop("open", 0)
    if n_done:
        note(f"run {run.run_id}: going on, {sum(n_done.values())} tracks are done and {n_todo} are left")
    # Where the results themselves run over the terminal, a bar between them only gets in their way.
    hidden = output_path is None and sys.stdout.isatty()
    with _outcomes(output_path) as write, progress_bar("tracks", hidden=hidden) as progress:
        task = progress.add_task(f"run {run.run_id}", total=n_todo, note="")

        def report(item: dict[str, Any], scan: Scan | None) -> None:
            write(outcome_line(item, scan))
            progress.advance(task)
            speed = progress.tasks[0].speed
            progress.update(task, note="" if speed is None else _rate(speed))

        try:
            for item in run_tracks(store, run.run_id, done=True) if output_path is not None else ():
                write(outcome_line(item, None if item["scan_id"] is None else get_scan(store, item["scan_id"])))
            Pipeline(store, matcher, encoder, workers).run(run, report)
        except BaseException:
            _summarise(store, run)
            note(f"run {run.run_id}: stopped; what is decided is kept, the same command goes on with what is left")
            raise


def _rate(per_s: float) -> str:
    return f"({per_s:.1f} a second)" if per_s >= 1 else f"({60 * per_s:.1f} a minute)"


@contextmanager
def _outcomes(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes one outcome to the file, or to stdout, at once."""
    from registry.errors import RegistryError

    def to_stdout(line: dict[str, Any]) -> None:
        click.echo(json.dumps(line))

    if path is None:
        yield to_stdout
        return

    def to_file(line: dict[str, Any]) -> None:
        try:
            file.write(json.dumps(line) + "\n")
            file.flush()
        except OSError as error:
            with suppress(OSError):  # closing tries to write the rest once more
                file.close()
            raise RegistryError(f"{path}: cannot be written ({error.strerror}); free some space") from error

    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise RegistryError(f"{path}: cannot be written ({error.strerror}); nothing was examined") from error
    with file:
        yield to_file


def _summarise(store: Store, run: Run) -> dict[str, int]:
    from registry.scans import run_outcomes

    outcomes = run_outcomes(store, run.run_id)
    order = ("flagged", "clear", "abstained", "failed", "open")
    counts = ", ".join(f"{outcomes[name]} {name}" for name in order if name in outcomes)
    pinned = f"threshold {run.threshold:.2f}, registry revision {run.store_revision}"
    note(f"run {run.run_id}: {counts or 'no tracks'}; {pinned}")
    return outcomes
