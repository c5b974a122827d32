"""`likeness batch`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import (
    EXIT_FLAGGED,
    EXIT_SKIPPED,
    home_option,
    max_hours_option,
    note,
    open_registry,
    progress_bar,
    threshold_choice,
    threshold_options,
)
from registry.cli.outcomes import outcome_file, write_done

if TYPE_CHECKING:
    from embeddings.workers import EncoderProcess
    from registry.pipeline import Pipeline
    from registry.records import Run, Scan
    from registry.store import Store


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(exists=True, readable=False, path_type=Path))
@home_option
@threshold_options
@max_hours_option
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
    budget: float | None,
    threshold: float | None,
    accept_extrapolation: bool,
    max_hours: float,
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

    A file that takes a process with it is tried once more, alone, and then fails: its `kind` is crashed, timeout (too
    slow to read) or model_failed (the encoder has no vector for it); other kinds say what is wrong with the file.

    The same command given twice at once shares the work. Give each an --output of its own: it gets what was decided
    before and what that process decides. Every outcome of the run is in the registry.

    \b
    Examples:
      likeness batch deliveries/ --output outcomes.jsonl
      likeness batch tonight.csv --workers 4 --output outcomes.jsonl
      likeness batch tonight.csv --budget 0.5% --output outcomes.jsonl
    """
    choice = threshold_choice(budget, threshold, accept_extrapolation)
    from functools import partial

    from embeddings.encoder import SpeechBrainEncoder
    from embeddings.limits import Limits
    from embeddings.workers import EncoderProcess
    from registry.batch import open_run
    from registry.config import encoder_source, trusted_models
    from registry.manifest import list_items
    from registry.match import Matcher
    from registry.pipeline import Pipeline

    if new_run and repin:
        raise click.UsageError("--new-run forgets the run that --repin would go on with; choose one")
    _check_output(output_path, inputs)
    items = list_items(inputs)
    with open_registry(home) as store:
        if not items:
            note(f"{', '.join(map(str, inputs))}: no tracks, nothing to do")
            return
        source, trusted = encoder_source(store), trusted_models(store)
        with ExitStack() as encoders:  # another is started when one dies

            def start_encoder() -> EncoderProcess:
                make_encoder = partial(SpeechBrainEncoder, source, trusted=trusted)
                return encoders.enter_context(closing(EncoderProcess(make_encoder, source, trusted)))

            encoder = start_encoder()
            matcher = Matcher(store, encoder, note, **choice)
            run = open_run(store, matcher, inputs, items, note, new_run=new_run, repin=repin)
            pipeline = Pipeline(store, matcher, encoder, start_encoder, workers, Limits(max_hours=max_hours))
            _examine(store, pipeline, run, output_path)
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


def _examine(store: Store, pipeline: Pipeline, run: Run, output_path: Path | None) -> None:
    """Do what is left of a run; write each outcome, and with `output_path` also those that the run has already."""
    from registry.batch import outcome_line
    from registry.owner import owner_text
    from registry.runs import lease_owners, run_outcomes

    n_done = run_outcomes(store, run.run_id)
    n_todo = n_done.pop("open", 0)
    if n_done:
        note(f"run {run.run_id}: going on, {sum(n_done.values())} tracks are done and {n_todo} are left")
    # Where the results themselves run over the terminal, a bar between them only gets in their way.
    hidden = output_path is None and sys.stdout.isatty()
    with outcome_file(output_path) as write, progress_bar("tracks", hidden=hidden) as progress:
        task = progress.add_task(f"run {run.run_id}", total=n_todo, note="")

        def report(item: dict[str, Any], scan: Scan | None) -> None:
            write(outcome_line(item, scan))
            progress.advance(task)
            speed = progress.tasks[0].speed
            progress.update(task, note="" if speed is None else _rate(speed))

        try:
            if output_path is not None:
                write_done(store, run.run_id, output_path, write)
            n_left = pipeline.run(run, report)
        except BaseException:
            _summarise(store, run)
            note(f"run {run.run_id}: stopped; what is decided is kept, the same command goes on with what is left")
            raise
    if n_left:
        others = " and ".join(map(owner_text, lease_owners(store, run.run_id))) or "another process"
        note(f"run {run.run_id}: {n_left} tracks are with {others}, which goes on with the run")


def _rate(per_s: float) -> str:
    return f"({per_s:.1f} a second)" if per_s >= 1 else f"({60 * per_s:.1f} a minute)"


def _summarise(store: Store, run: Run) -> dict[str, int]:
    from registry import audit
    from registry.runs import run_outcomes

    outcomes = run_outcomes(store, run.run_id)
    order = ("flagged", "clear", "abstained", "failed", "open")
    counts = ", ".join(f"{outcomes[name]} {name}" for name in order if name in outcomes)
    pinned = f"threshold {run.threshold:.2f}, registry revision {run.store_revision}"
    note(f"run {run.run_id}: {counts or 'no tracks'}; {pinned}")
    head = audit.head_of(store)
    note(f"audit head {head.seq} {head.hash}")
    return outcomes
