"""`likeness tracks`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import format_option, home_option, open_registry, write_scans


@click.group()
def tracks() -> None:
    """Show what was decided about a track."""


@tracks.command()
@click.argument("track")
@home_option
@format_option
def show(track: str, home: Path, output_format: str) -> None:
    """Show every examination of TRACK, oldest first: a path as it was given, or the beginning of a content_id.

    \b
    Example:
      likeness tracks show uploads/suspect.mp3
    """
    from registry.records import path_of, path_text
    from registry.scans import find_scans

    with open_registry(home) as store:
        scans = list(find_scans(store, track=path_text(path_of(track))))
    write_scans(scans, output_format)
