"""`likeness query`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import (
    EXIT_FLAGGED,
    EXIT_SKIPPED,
    format_option,
    home_option,
    max_hours_option,
    note,
    open_registry,
    progress_bar,
    threshold_choice,
    threshold_options,
    write_scans,
)


@click.command()
@click.argument("tracks", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path))
@home_option
@format_option
@threshold_options
@max_hours_option
@click.option("--no-save", is_flag=True, help="Do not keep the result in the registry.")
@click.option("--fail-on", type=click.Choice(["flagged"]), help="Exit with 5 if a track is flagged.")
def query(
    tracks: tuple[Path, ...],
    home: Path,
    output_format: str,
    budget: float | None,
    threshold: float | None,
    accept_extrapolation: bool,
    max_hours: float,
    no_save: bool,
    fail_on: str | None,
) -> None:
    """Find enrolled artists whose voice TRACKS resemble, with evidence to check by ear.

    The answer is flagged, clear (no enrolled voice: the normal answer) or abstained (too little voice to say). A track
    that cannot be read has no verdict but a reason, and the exit code is then 3.

    \b
    Examples:
      likeness query suspect.mp3
      likeness query uploads/*.flac --json --fail-on flagged
      likeness query suspect.mp3 --budget 1e-3
    """
    choice = threshold_choice(budget, threshold, accept_extrapolation)
    from contextlib import closing

    from embeddings.errors import InvalidAudio
    from embeddings.extract import embed_file
    from embeddings.limits import Limits
    from embeddings.workers import ChildDecoder
    from registry.config import load_encoder
    from registry.errors import RegistryError
    from registry.match import Matcher
    from registry.records import Scan, Unusable, path_text
    from registry.scans import save_query

    scans: list[Scan | Unusable] = []
    with open_registry(home) as store:
        if store.read_only and not no_save:
            raise RegistryError(f"{home}: cannot be written to, so results cannot be kept; --no-save goes without")
        encoder = load_encoder(store)
        matcher = Matcher(store, encoder, note, **choice)
        limits = Limits(max_hours=max_hours)
        with closing(ChildDecoder(encoder, limits)) as decoder, progress_bar("tracks") as progress:
            task = progress.add_task("matching", total=len(tracks), note="")

            def show_read(read_s: float) -> None:
                progress.update(task, note=f"({read_s:.0f} s read)")

            for path in tracks:
                try:
                    voiceprint = embed_file(path, encoder, decoder=decoder, on_progress=show_read)
                except InvalidAudio as error:
                    is_folder = error.kind == "not_a_file" and path.is_dir()
                    hint = "; `likeness batch` examines whole folders" if is_folder else ""
                    scans.append(Unusable(path_text(path), error.kind, error.reason + hint))
                else:
                    scan = matcher.scan(path_text(path), voiceprint)
                    scans.append(scan if no_save else save_query(store, scan))
                progress.advance(task)
    write_scans(scans, output_format)
    n_failed = sum(isinstance(scan, Unusable) for scan in scans)
    if n_failed:
        note(f"{n_failed} of {len(scans)} tracks could not be used")
    if fail_on and any(scan.verdict == fail_on for scan in scans):
        raise click.exceptions.Exit(EXIT_FLAGGED)
    if n_failed:
        raise click.exceptions.Exit(EXIT_SKIPPED)
