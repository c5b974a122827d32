"""`likeness evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import (
    EXIT_SKIPPED,
    check_folder,
    format_option,
    home_option,
    max_hours_option,
    note,
    open_registry,
    progress_bar,
    warn,
    write_rows,
)

if TYPE_CHECKING:
    from registry.evaluate import Evaluation
    from registry.records import Unusable
    from registry.trials import Recording, TrialScores


def _read_budgets(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[float, ...]:
    from registry.config import parse_budget

    try:
        return tuple(dict.fromkeys(parse_budget(value) for value in values))
    except ValueError as error:
        raise click.BadParameter(f"a budget {error}, not {', '.join(values)}") from error


@click.command()
@click.argument("recordings", type=click.Path(exists=True, path_type=Path), metavar="DIR|MANIFEST")
@click.option(
    "--html",
    "html_path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=check_folder,
    help="Write a page with tables and plots to this file; it needs matplotlib (pip install 'likeness[report]').",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="SHARE",
    callback=_read_budgets,
    help="False-flag budget to look at, such as 0.01 or 1%, instead of the registry's own and 3, 1 and 0.3 %; give it "
    "several times for several. Persons and growing numbers of artists are looked at with the first.",
)
@max_hours_option
@home_option
@format_option
def evaluate(
    recordings: Path,
    html_path: Path | None,
    budgets: tuple[float, ...],
    max_hours: float,
    home: Path,
    output_format: str,
) -> None:
    """Measure on your own recordings how well voices are told apart, and what thresholds flag and miss.

    DIR has one folder per person with recordings in it. MANIFEST is CSV with a header, or JSON lines, with columns path
    and person and, where you know them, kind (voice or clone: an imitation of the person), recording (clips of one
    recording have the same) and source (the site or label it comes from).

    Half of each person's recordings are enrolled and the others tested, always the same ones; everybody is also a
    stranger to all others. Nobody needs to be enrolled in the registry for it, nothing of these recordings is kept, and
    the registry does not change. What it is judged by is the calibration in force; `likeness calibrate` fits another.

    Below 5 persons no rates are given. Recordings that cannot be used are listed, and the exit code is then 3.

    \b
    Examples:
      likeness evaluate singers/
      likeness evaluate trials.csv --html report.html
      likeness evaluate trials.csv --budget 1% --budget 0.1% --json
    """
    from datetime import UTC, datetime
    from importlib.metadata import version

    from registry.config import false_flag_budget, load_encoder
    from registry.evaluate import BUDGETS
    from registry.evaluate import evaluate as evaluate_trials
    from registry.evaluation_page import check_drawing, evaluation_page
    from registry.match import find_calibration
    from registry.trials import list_trials

    if html_path is not None:
        check_drawing()
    listed, unusable = list_trials(recordings)
    with open_registry(home) as store:
        encoder = load_encoder(store)
        calibration = find_calibration(store, encoder)
        budgets = budgets or tuple(dict.fromkeys([false_flag_budget(store), *BUDGETS]))
    scores, bad = score_recordings(listed, encoder, max_hours)
    unusable += bad
    evaluation = evaluate_trials(scores, calibration, budgets)
    made_at, release = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), version("likeness")
    _write(evaluation, unusable, {"evaluated_at": made_at, "likeness_version": release}, output_format)
    if html_path is not None:
        _write_page(html_path, evaluation_page(evaluation, unusable, made_at=made_at, version=release))
    leave_with_unusable(unusable, len(scores.paths))


def score_recordings(listed: Sequence[Recording], encoder: Any, max_hours: float) -> tuple[TrialScores, list[Unusable]]:
    """Read, embed and score the owner's recordings, with a bar; also for `likeness calibrate`."""
    from contextlib import closing

    from embeddings.limits import Limits
    from embeddings.workers import ChildDecoder
    from registry.scoring import prepare_cohort
    from registry.trials import hear, score_trials

    cohort = prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
    limits = Limits(max_hours=max_hours)
    with closing(ChildDecoder(encoder, limits)) as decoder, progress_bar("recordings") as progress:
        task = progress.add_task("listening", total=len(listed), note="")
        heard, bad = hear(
            listed,
            encoder,
            decoder=decoder,
            on_recording=lambda: progress.advance(task),
            on_progress=lambda read_s: progress.update(task, note=f"({read_s:.0f} s read)"),
        )
        progress.update(task, description="scoring", note="")
        scores = score_trials(heard, cohort)
    without = scores.is_clone & (scores.own_model < 0)
    if n_without := int(without.sum()):
        warn(f"not tested: {n_without} of the clones, nothing of whom they imitate is enrolled")
    return scores, bad


def leave_with_unusable(unusable: Sequence[Unusable], n_used: int) -> None:
    """Say how many recordings could not be used and leave with 3; nothing where all could."""
    if unusable:
        note(f"{len(unusable)} of {len(unusable) + n_used} recordings could not be used")
        raise click.exceptions.Exit(EXIT_SKIPPED)


def tell_unusable(unusable: Sequence[Unusable]) -> None:
    """Name recordings that could not be used on stderr, for formats that have no place for them."""
    for each in unusable:
        note(f"{each.path}: {each.reason}")


def _write(evaluation: Evaluation, unusable: Sequence[Unusable], more: dict[str, Any], output_format: str) -> None:
    from registry.evaluation_report import FIGURE_COLUMNS, evaluation_text, figure_rows

    if output_format in ("json", "jsonl"):
        record = {**more, **evaluation.as_dict(), "unusable": [each.as_dict() for each in unusable]}
        write_rows([record], output_format, [])
        return
    if output_format == "table":
        click.echo(evaluation_text(evaluation, unusable))
        return
    write_rows(figure_rows(evaluation), output_format, FIGURE_COLUMNS)
    if evaluation.too_few is not None:
        note(f"no rates are given: {evaluation.too_few}")
    tell_unusable(unusable)


def _write_page(path: Path, page: str) -> None:
    from registry.errors import RegistryError

    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RegistryError(f"{path}: the page could not be written ({error.strerror})") from error
    note(f"{path}: the page, with plots; it names persons and recordings")
