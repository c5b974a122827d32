"""`likeness check` and `likeness rebuild-index`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import EXIT_DAMAGED, format_option, home_option, note, open_registry, write_rows


@click.command()
@home_option
@format_option
def check(home: Path, output_format: str) -> None:
    """Check that the registry is sound: database, vectors, index and kept audio. Changes nothing; exits 4 if not.

    \b
    Example:
      likeness check
    """
    from registry.check import find_problems

    with open_registry(home) as store:
        problems = find_problems(store)
        n_artists, n_templates = len(store.artists()), sum(artist.n_templates for artist in store.artists())
    write_rows(
        [{"where": where, "problem": problem} for where, problem in problems], output_format, ["where", "problem"]
    )
    if problems:
        raise click.exceptions.Exit(EXIT_DAMAGED)
    note(f"{home}: sound; {n_artists} artists, {n_templates} templates")


@click.command()
@home_option
def rebuild_index(home: Path) -> None:
    """Make the index anew from the database. Any command does so by itself when the index is missing or damaged.

    \b
    Example:
      likeness rebuild-index
    """
    from registry.match import write_store_index

    with open_registry(home) as store:
        n = write_store_index(store, note)
    note(f"{home}: index of {n} templates written")
