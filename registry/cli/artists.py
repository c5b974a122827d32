"""`likeness artists`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import format_option, home_option, note, open_registry, write_rows


@click.group()
def artists() -> None:
    """List, show, rename and remove artists."""


@artists.command("list")
@home_option
@format_option
def list_artists(home: Path, output_format: str) -> None:
    """List the enrolled artists.

    \b
    Example:
      likeness artists list --json
    """
    from dataclasses import asdict

    with open_registry(home) as store:
        rows = [asdict(artist) for artist in store.artists()]
    write_rows(rows, output_format, ["name", "n_references", "n_templates", "voiced_s", "created_at"])
    if not rows:
        note("nobody is enrolled yet; `likeness enroll` does that")


@artists.command()
@click.argument("artist")
@home_option
@format_option
def show(artist: str, home: Path, output_format: str) -> None:
    """Show ARTIST's references: where each came from, how much voice it holds, the consent it rests on.

    \b
    Example:
      likeness artists show "Ada Vale"
    """
    from dataclasses import asdict

    with open_registry(home) as store:
        summary = store.artist(artist)
        references = [asdict(reference) for reference in store.references(summary.name)]
    if output_format == "table":
        note(f"{summary.name}: enrolled {summary.created_at}, {summary.n_templates} templates")
        write_rows(
            references,
            output_format,
            ["reference_id", "path", "voiced_s", "duration_s", "consent", "consent_expires_at", "added_at"],
        )
    else:
        write_rows([{**asdict(summary), "references": references}], output_format, [])


@artists.command()
@click.argument("artist")
@click.argument("new_name")
@home_option
def rename(artist: str, new_name: str, home: Path) -> None:
    """Give ARTIST another name, NEW_NAME; references, templates and past matches stay.

    \b
    Example:
      likeness artists rename "Ada Vale" "Ada V."
    """
    from registry.enroll import check_name

    new_name = check_name(new_name)
    with open_registry(home) as store:
        store.rename_artist(artist, new_name)
    note(f"{artist}: now {new_name}")


@artists.command()
@click.argument("artist")
@home_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(artist: str, home: Path, yes: bool) -> None:
    """Remove ARTIST: templates, references, kept audio, consents and past matches. There is no way back.

    \b
    Example:
      likeness artists remove "Ada Vale"
    """
    from registry.match import write_store_index

    with open_registry(home) as store:
        summary = store.artist(artist)
        if not yes:
            click.confirm(
                f"Remove {summary.name}, {summary.n_references} references and {summary.n_templates} templates?",
                abort=True,
                err=True,
            )
        for kept_path in store.remove_artist(artist):
            (store.home / kept_path).unlink(missing_ok=True)
        write_store_index(store, note)
    note(f"{artist}: removed")
