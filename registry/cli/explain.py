"""`likeness explain`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import (
    format_option,
    home_option,
    max_hours_option,
    note,
    open_registry,
    progress_bar,
    threshold_choice,
    threshold_options,
    write_rows,
)


@click.command()
@click.argument("track", type=click.Path(readable=False, path_type=Path))
@click.option("--artist", required=True, metavar="NAME", help="The enrolled artist, by any name.")
@home_option
@format_option
@threshold_options
@max_hours_option
def explain(
    track: Path,
    artist: str,
    home: Path,
    output_format: str,
    budget: float | None,
    threshold: float | None,
    accept_extrapolation: bool,
    max_hours: float,
) -> None:
    """Say why TRACK did or did not reach the threshold for one artist, step by step. Keeps nothing.

    From the voice that was found, over the stretch of it that is likest to the artist, its cosine and what strangers
    reach, to the log10 likelihood ratio and what is missing to the threshold, or beyond it. The numbers are those of
    `likeness query`.

    \b
    Examples:
      likeness explain suspect.mp3 --artist "Ada Vale"
      likeness explain suspect.mp3 --artist "Ada Vale" --budget 1% --json
    """
    choice = threshold_choice(budget, threshold, accept_extrapolation)
    from contextlib import closing

    from embeddings.extract import embed_file
    from embeddings.limits import Limits
    from embeddings.workers import ChildDecoder
    from registry.config import load_encoder
    from registry.explain import check_matched, explanation_text
    from registry.explain import explain as explain_track
    from registry.match import Matcher
    from registry.records import path_text

    with open_registry(home) as store:
        artist_id = check_matched(store, artist)
        encoder = load_encoder(store)
        matcher = Matcher(store, encoder, note, **choice)
        with closing(ChildDecoder(encoder, Limits(max_hours=max_hours))) as decoder, progress_bar("tracks") as progress:
            task = progress.add_task("reading", total=1, note="")
            voiceprint = embed_file(
                track,
                encoder,
                decoder=decoder,
                on_progress=lambda read_s: progress.update(task, note=f"({read_s:.0f} s read)"),
            )
        found = explain_track(store, matcher, path_text(track), voiceprint, artist_id)
    if output_format == "table":
        click.echo(explanation_text(found))
    else:
        write_rows([found.as_dict()], output_format, [])
