"""`likeness reembed`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import (
    EXIT_SKIPPED,
    as_option,
    format_option,
    home_option,
    max_hours_option,
    note,
    open_registry,
    progress_bar,
    write_rows,
)

if TYPE_CHECKING:
    from embeddings.limits import Limits
    from registry.calibration import Calibration
    from registry.reembed import Lacking
    from registry.store import Store


@click.command()
@click.option(
    "--encoder",
    "source",
    show_default="the one being prepared, or the registry's own as it is now",
    help="house (built in), a SpeechBrain model directory, or a hub id, pinned as ID@COMMIT.",
)
@click.option("--trust-model", is_flag=True, help="Allow that model directory to run: it is code. Recorded by digest.")
@click.option("--dry-run", is_flag=True, help="Only say what there is to do; read no audio, write nothing.")
@click.option("--leave-out", is_flag=True, help="Go over although some references cannot be made anew; they wait.")
@click.option(
    "--no-calibration",
    is_flag=True,
    help="Go over although the encoder has no calibration; nothing is decided then before `likeness calibrate`.",
)
@click.option("--abandon", is_flag=True, help="Drop what is prepared, and stay with the present encoder.")
@max_hours_option
@home_option
@format_option
@as_option
def reembed(
    source: str | None,
    trust_model: bool,
    dry_run: bool,
    leave_out: bool,
    no_calibration: bool,
    abandon: bool,
    max_hours: float,
    home: Path,
    output_format: str,
) -> None:
    """Go over to another encoder: make every reference anew from its recording, then change over in one step.

    Recordings are read from kept copies (`enroll --keep-audio`), or from where they were enrolled from, if the same
    sound still lies there. Until all are made, queries, batches and enrolments go on with the present encoder. Stopped
    at any moment, the same command goes on; `likeness status` shows how far it is. A batch that was begun before ends
    as it began; one that is gone on with later asks for --repin or --new-run.

    If a recording is gone, nothing changes and the exit code is 3. Put it back and give the command again, or
    --leave-out: those references are kept and not matched, `artists show` says that they wait, and this command takes
    them in once their recordings are back.

    Scores of different encoders are not comparable; each has a calibration of its own, and a registry's own
    (`likeness calibrate`) belongs to the encoder that it was fitted for.

    \b
    Examples:
      likeness reembed --dry-run
      likeness reembed
      likeness reembed --encoder models/ours --trust-model --leave-out
      likeness reembed --abandon
    """
    if abandon and (source or trust_model or dry_run or leave_out or no_calibration):
        raise click.UsageError("--abandon drops what is prepared; the other options are for going on")
    from embeddings.limits import Limits
    from registry.config import allow_model, encoder_source, load_model, source_name
    from registry.errors import RegistryError
    from registry.match import find_calibration
    from registry.reembed import alone, begin, preparation, survey

    with open_registry(home) as store:
        if abandon:
            _abandon(store)
            return
        found = preparation(store)
        source = source_name(source or (encoder_source(store) if found is None else found.source))
        if not store.rows("SELECT 1 FROM artist_references LIMIT 1"):
            raise RegistryError(f"{home}: nobody is enrolled; `likeness models use {source}` is all that it takes")
        trusted = allow_model(store, source, trust=trust_model)
        encoder = load_model(source, trusted)
        encoder_id = encoder.encoder_id
        # None is asked for where none is needed; a cohort is, for without one nothing can be scored.
        needless = no_calibration and encoder.cohort is not None
        calibration = None if needless else find_calibration(store, encoder)
        todo, is_another = survey(store, encoder_id), encoder_id != store.encoder_id
        outcome = {"from_encoder_id": store.encoder_id, "source": source, "encoder_id": encoder_id}
        if dry_run:
            told = {name: value for name, value in asdict(todo).items() if name != "lacking"}
            _write({**outcome, **told, "changed": False}, todo.lacking, output_format)
            note(
                f"{todo.n_left} of {todo.n_references} references, {todo.duration_s / 3600:.1f} hours, are to be made "
                f"with {source} ({encoder_id[:12]}): {todo.n_kept} from kept copies, {todo.n_paths} from where they "
                f"were enrolled from; {len(todo.lacking)} recordings are gone. Nothing was changed"
            )
            return
        if not (is_another or todo.n_left or source != encoder_source(store)):
            note(f"{home}: every reference is made with {source} ({encoder_id[:12]}) already; nothing to do")
            return
        with alone(store):
            begin(store, encoder, source, trusted)
            # Those that wait already are no reason why others of the same encoder should.
            lacking, is_changed = _go_over(store, encoder, Limits(max_hours=max_hours), leave_out or not is_another)
        n_made = len(store.reference_owners()) - len(lacking)
        outcome |= {"n_references": n_made + len(lacking), "changed": is_changed}
        n_runs = store.rows("SELECT COUNT(*) AS n FROM runs WHERE finished_at IS NULL")[0]["n"]
    _write(outcome, lacking, output_format)
    if not is_changed:
        note(
            f"{home}: goes on with the present encoder; {n_made} references are prepared and {len(lacking)} cannot be "
            "made anew. Put their recordings back and give the command again, or go over without them: --leave-out"
        )
        raise click.exceptions.Exit(EXIT_SKIPPED)
    note(f"{home}: {n_made} references are made with {source} ({encoder_id[:12]}), which is the encoder from now on")
    if lacking:
        note(f"{len(lacking)} references are not matched: they wait for their recordings, and for `likeness reembed`")
    if is_another:
        _say_what_else_changes(source, calibration, n_runs)
    if lacking and not leave_out:
        raise click.exceptions.Exit(EXIT_SKIPPED)


def _abandon(store: Store) -> None:
    from registry.reembed import abandon, alone

    with alone(store):
        dropped = abandon(store)
    if dropped is None:
        note(f"{store.home}: nothing is prepared; nothing to do")
    else:
        note(f"{store.home}: {dropped.n_made} references prepared with {dropped.source} were dropped")


def _go_over(store: Store, encoder: Any, limits: Limits, leave_out: bool) -> tuple[tuple[Lacking, ...], bool]:
    """Make what is left and change over; returns what could not be made, and whether the registry changed over."""
    from contextlib import closing

    from embeddings.workers import ChildDecoder
    from registry.match import write_store_index
    from registry.reembed import change_over, make_references, open_references
    from registry.scoring import prepare_cohort

    cohort = prepare_cohort(encoder.cohort.vectors, encoder.cohort.person)
    with closing(ChildDecoder(encoder, limits)) as decoder, progress_bar("references") as progress:
        task = progress.add_task("embedding", total=len(open_references(store, encoder.encoder_id)), note="")
        lacking: tuple[Lacking, ...] = ()
        is_changed = False
        try:
            while not is_changed:
                lacking = make_references(
                    store,
                    encoder,
                    cohort=cohort,
                    decoder=decoder,
                    known=lacking,
                    on_reference=lambda: progress.advance(task),
                    on_progress=lambda read_s: progress.update(task, note=f"({read_s:.0f} s read)"),
                )
                if lacking and not leave_out:
                    return lacking, False
                progress.update(task, note="(changing over)")
                is_changed = change_over(store, encoder.encoder_id, leave_out=lacking)
        except KeyboardInterrupt:
            note("stopped; what is prepared is kept, the same command goes on with what is left")
            raise
    write_store_index(store, note)
    return lacking, True


def _say_what_else_changes(source: str, calibration: Calibration | None, n_runs: int) -> None:
    from embeddings.model_dir import HOUSE

    if calibration is None:
        note("it has no calibration, so nothing is decided before `likeness calibrate`")
    else:
        note(f"its calibration: {calibration.source}")
    note("its scores are on another scale than before; calibrations that were fitted here were for the other encoder")
    if source != HOUSE:
        note("what `enroll` asks of recordings of one voice was measured with the built-in encoder")
    if n_runs:
        note(f"{n_runs} unfinished runs were begun with the encoder before: give --repin or --new-run")


def _write(outcome: dict[str, Any], lacking: Sequence[Lacking], output_format: str) -> None:
    """The references that cannot be made anew, as a table or CSV; as JSON, the outcome with them in it."""
    rows = [asdict(each) for each in lacking]
    if output_format in ("table", "csv"):
        write_rows(rows, output_format, ["reference_id", "artist", "path", "kind", "reason"])
    else:
        write_rows([{**outcome, "lacking": rows}], output_format, [])
