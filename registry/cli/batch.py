"""`likeness batch`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import (
    EXIT_FLAGGED,
    EXIT_INTERRUPTED,
    EXIT_SKIPPED,
    home_option,
    note,
    open_registry,
    progress_bar,
    threshold_option,
)

if TYPE_CHECKING:
    from registry.records import Run, Scan
    from registry.store import Store


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@home_option
@threshold_option
@click.option(
    "--output",
    "output_path",
    type=click.Path(dir_okay=False, path_type=Path),
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
    under `extra`. Started again with the same inputs, a run that was stopped does what is left. A summary stands on
    stderr at the end; the exit code is 3 if a track could not be used.

    \b
    Examples:
      likeness batch deliveries/ --output outcomes.jsonl
      likeness batch tonight.csv --workers 4 --output outcomes.jsonl
    """
    from functools import partial

    from embeddings.encoder import SpeechBrainEncoder
    from embeddings.workers import EncoderProcess
    from registry.batch import Pipeline, open_run, outcome_line
    from registry.config import encoder_source, trusted_models
    from registry.match import Matcher
    from registry.scans import get_scan, run_tracks

    with open_registry(home) as store:
        source, trusted = encoder_source(store), trusted_models(store)
        encoder = EncoderProcess(partial(SpeechBrainEncoder, source, trusted=trusted), source, trusted)
        try:
            matcher = Matcher(store, encoder, note, threshold=threshold)
            run = open_run(store, matcher, inputs, new_run=new_run, repin=repin)
            done = run_tracks(store, run.run_id, done=True)
            n_todo = len(run_tracks(store, run.run_id, done=False))
            if done:
                note(f"run {run.run_id}: going on, {len(done)} tracks are done and {n_todo} are left")
            with _outcomes(output_path) as output, progress_bar("tracks") as progress:
                if output_path is not None:
                    for item in done:
                        scan = None if item["scan_id"] is None else get_scan(store, item["scan_id"])
                        output.write(json.dumps(outcome_line(item, scan)) + "\n")
                task = progress.add_task(f"run {run.run_id}", total=n_todo, note="")

                def report(item: dict[str, Any], scan: Scan | None) -> None:
                    output.write(json.dumps(outcome_line(item, scan)) + "\n")
                    output.flush()
                    progress.advance(task)
                    speed = progress.tasks[0].speed
                    progress.update(task, note="" if speed is None else f"{speed:.1f} a second")

                Pipeline(store, matcher, encoder, workers).run(run, report)
        except KeyboardInterrupt:
            _summarise(store, run)
            note("stopped; the same command goes on with what is left")
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        finally:
            encoder.close()
        outcomes = _summarise(store, run)
    if outcomes.get("failed"):
        raise click.exceptions.Exit(EXIT_SKIPPED)
    if fail_on and outcomes.get(fail_on):
        raise click.exceptions.Exit(EXIT_FLAGGED)


def _outcomes(path: Path | None) -> Any:
    from contextlib import nullcontext

    return nullcontext(sys.stdout) if path is None else path.open("w", encoding="utf-8")


def _summarise(store: Store, run: Run) -> dict[str, int]:
    from registry.scans import run_outcomes

    outcomes = run_outcomes(store, run.run_id)
    order = ("flagged", "clear", "abstained", "failed", "open")
    counts = ", ".join(f"{outcomes[name]} {name}" for name in order if name in outcomes)
    pinned = f"threshold {run.threshold:.2f}, registry revision {run.store_revision}"
    note(f"run {run.run_id}: {counts or 'no tracks'}; {pinned}")
    return outcomes
