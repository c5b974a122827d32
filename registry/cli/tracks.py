"""`likeness tracks`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import (
    EXIT_SKIPPED,
    as_option,
    confirm,
    format_option,
    home_option,
    note,
    open_registry,
    receipt_option,
    write_receipt,
    write_scans,
)


@click.group()
def tracks() -> None:
    """Show what was decided about a track; remove a track."""


@tracks.command()
@click.argument("track")
@home_option
@format_option
def show(track: str, home: Path, output_format: str) -> None:
    """Show every examination of TRACK, oldest first: when it was, by a query or in which run, and what was found.

    TRACK is a path as it was given, or the beginning of a content_id. What `likeness decide` decided again is of the
    time when the track was heard.

    \b
    Example:
      likeness tracks show uploads/suspect.mp3
    """
    from registry.records import path_of, path_text
    from registry.scans import find_scans

    with open_registry(home) as store:
        scans = list(find_scans(store, track=path_text(path_of(track))))
    write_scans(scans, output_format, dated=True)


@tracks.command()
@click.argument("track")
@home_option
@as_option
@receipt_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(track: str, home: Path, receipt_path: Path | None, yes: bool) -> None:
    """Remove TRACK, its scans and matches and what batches and their reports say of it; prints a receipt (JSON).

    TRACK is a path as it was given, or the beginning of a content_id. Where somebody reads the database, copies stay in
    its files until then: the exit code is 3, and the next command finishes it.

    \b
    Example:
      likeness tracks remove uploads/suspect.mp3
    """
    from registry.erasure import erase_track
    from registry.records import path_of, path_text

    with open_registry(home) as store:
        if not yes:
            confirm(f"Remove all that is on record of track {track}?")
        receipt = erase_track(store, path_text(path_of(track)), note)
    write_receipt(receipt, receipt_path)
    note(f"{track}: removed")
    if receipt["pending"]:
        raise click.exceptions.Exit(EXIT_SKIPPED)
