"""`likeness artists`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    write_rows,
)

if TYPE_CHECKING:
    from registry.records import ArtistSummary
    from registry.store import Store


@click.group()
def artists() -> None:
    """List, show, approve, rename, merge, split and remove artists."""


@artists.command("list")
@home_option
@format_option
def list_artists(home: Path, output_format: str) -> None:
    """List the enrolled artists; only active ones are matched.

    \b
    Example:
      likeness artists list --json
    """
    from dataclasses import asdict

    with open_registry(home) as store:
        rows = [asdict(artist) for artist in store.artists()]
    columns = ["name", "status", "n_references", "n_pending", "n_templates", "voiced_s", "created_at"]
    write_rows(rows, output_format, columns)
    if not rows:
        note("nobody is enrolled yet; `likeness enroll` does that")


@artists.command()
@click.argument("artist")
@home_option
@format_option
def show(artist: str, home: Path, output_format: str) -> None:
    """Show ARTIST's references, whom the voice is nearest to, what share of tracks may be found, and what would help.

    Neighbours are found by scoring what is on record of ARTIST as a track, against every other artist who is matched.
    The share of tracks is what was measured on the recordings of the calibration, and no promise for ARTIST. CSV has
    the references only.

    \b
    Examples:
      likeness artists show "Ada Vale"
      likeness artists show "Ada Vale" --json | jq '.[].neighbours'
    """
    from dataclasses import asdict

    from registry.standing import find_standing, standing_text

    with open_registry(home) as store:
        summary = store.artist(artist)
        aliases = store.aliases(summary.artist_id)
        references = [asdict(reference) for reference in store.references(summary.name)]
        standing = find_standing(store, summary)
    if output_format in ("table", "csv"):
        also = f", also called {', '.join(aliases)}" if aliases else ""
        note(f"{summary.name}{also}: {summary.status}, enrolled {summary.created_at}, {summary.n_templates} templates")
        columns = ["reference_id", "status", "path", "voiced_s", "own_norm_score", "force_reason", "enrolled_by"]
        write_rows(references, output_format, [*columns, "consent", "consent_expires_at", "added_at"])
        if output_format == "table" and (text := standing_text(standing)):
            click.echo(f"\n{text}")
        if n_waiting := sum(reference["status"] == "waiting" for reference in references):
            note(
                f"{n_waiting} references wait for their recordings, and are not matched: put them back where they were "
                "and run `likeness reembed`, or remove and enroll them"
            )
    else:
        record = {**asdict(summary), "aliases": aliases, "references": references, **standing.as_dict()}
        write_rows([record], output_format, [])
    if standing.missing and output_format != "csv":
        note(f"nearest neighbours and what share of tracks may be found are left out: {standing.missing}")


@artists.command()
@click.argument("artist")
@home_option
@as_option
def approve(artist: str, home: Path) -> None:
    """Approve ARTIST's pending references, so that they are matched; by somebody else than who enrolled them.

    References are pending while the setting require-two-persons is on.

    \b
    Example:
      likeness artists approve "Ada Vale" --as maria
    """
    from registry.match import write_store_index
    from registry.references import approve_references

    with open_registry(home) as store:
        approved = approve_references(store, artist)
        write_store_index(store, note)
        summary = store.artist(artist)
    left = f"; {summary.n_pending} wait for somebody else" if summary.n_pending else ""
    note(f"{summary.name}: {len(approved)} references approved{left}")


@artists.command()
@click.argument("artist")
@click.argument("new_name")
@home_option
@as_option
def rename(artist: str, new_name: str, home: Path) -> None:
    """Give ARTIST another name, NEW_NAME; references, templates and past matches stay.

    \b
    Example:
      likeness artists rename "Ada Vale" "Ada V."
    """
    from registry.enroll import check_name
    from registry.identity import rename_artist

    new_name = check_name(new_name)
    with open_registry(home) as store:
        rename_artist(store, artist, new_name)
    note(f"{artist}: now {new_name}")


@artists.command()
@click.argument("artist")
@click.argument("other_name")
@home_option
@as_option
def alias(artist: str, other_name: str, home: Path) -> None:
    """Let OTHER_NAME, such as a stage name, lead to ARTIST too.

    \b
    Example:
      likeness artists alias "Ada Vale" "DJ Vale"
    """
    from registry.enroll import check_name
    from registry.identity import add_alias

    other_name = check_name(other_name)
    with open_registry(home) as store:
        change_id = add_alias(store, artist, other_name)
    note(f"{artist}: also called {other_name}; `likeness artists undo {change_id}` takes it back")


@artists.command()
@click.argument("artist")
@click.argument("other")
@home_option
@as_option
def merge(artist: str, other: str, home: Path) -> None:
    """Make ARTIST and OTHER one: references of both are ARTIST's, and OTHER's name leads there.

    \b
    Example:
      likeness artists merge "Ada Vale" "A. Vale"
    """
    from registry.identity import merge_artists
    from registry.match import write_store_index

    with open_registry(home) as store:
        change_id = merge_artists(store, artist, other)
        write_store_index(store, note)
        summary = store.artist(artist)
    note(
        f"{summary.name}: {summary.n_references} references, {summary.n_templates} templates, {other} among them; "
        f"`likeness artists undo {change_id}` takes it back"
    )


@artists.command("note-lookalike")
@click.argument("artist")
@click.argument("other")
@click.option("--note", "text", metavar="TEXT", help="What is known of it, such as 'brothers'.")
@click.option("--remove", "is_removal", is_flag=True, help="Take it back.")
@home_option
@format_option
@as_option
def note_lookalike(artist: str, other: str, home: Path, output_format: str, text: str | None, is_removal: bool) -> None:
    """Note that ARTIST and OTHER, both enrolled, sound alike; prints all who are noted to sound like ARTIST.

    Enrolling one of them does not warn of the other any more, and where both are flagged in a track the result says
    that they are noted as sounding alike. What is matched and flagged stays the same.

    \b
    Examples:
      likeness artists note-lookalike "Ada Vale" "Bea Vale" --note sisters
      likeness artists note-lookalike "Ada Vale" "Bea Vale" --remove
    """
    if is_removal and text is not None:
        raise click.UsageError("--remove takes back what was noted, --note notes something; give one of them")
    from dataclasses import asdict

    from registry import lookalikes

    with open_registry(home) as store:
        if is_removal:
            lookalikes.remove_lookalike(store, artist, other)
            said = "not noted as sounding alike any more"
        elif lookalikes.note_lookalike(store, artist, other, text):
            said = "noted as sounding alike"
        else:
            said = "noted as sounding alike already; nothing to do"
        rows = [asdict(lookalike) for lookalike in lookalikes.lookalikes_of(store, store.artist(artist).artist_id)]
    write_rows(rows, output_format, ["artist", "note", "noted_at", "noted_by"])
    note(f"{artist} and {other}: {said}")


@artists.command()
@click.argument("artist")
@click.argument("reference_ids", nargs=-1, required=True, type=int)
@click.option("--into", "new_name", required=True, help="The new artist's name.")
@home_option
@as_option
def split(artist: str, reference_ids: tuple[int, ...], new_name: str, home: Path) -> None:
    """Make some of ARTIST's references, given by REFERENCE_IDS, those of a new artist.

    \b
    Example:
      likeness artists split "Ada Vale" 12 14 --into "Bea Vale"
    """
    from registry.enroll import check_name
    from registry.identity import split_artist
    from registry.match import write_store_index

    new_name = check_name(new_name)
    with open_registry(home) as store:
        change_id = split_artist(store, artist, reference_ids, new_name)
        write_store_index(store, note)
    n = len(set(reference_ids))
    note(f"{new_name}: {n} references that were {artist}'s; `likeness artists undo {change_id}` takes it back")


@artists.command()
@click.argument("change_id", type=int)
@home_option
@as_option
def undo(change_id: int, home: Path) -> None:
    """Undo an alias, merge or split by its number.

    \b
    Example:
      likeness artists undo 3
    """
    from registry.identity import undo_change
    from registry.match import write_store_index

    with open_registry(home) as store:
        change = undo_change(store, change_id)
        write_store_index(store, note)
    note(f"change {change_id}: the {change.action} of {change.artist} is undone")


@artists.command()
@click.argument("artist", required=False)
@home_option
@format_option
def changes(artist: str | None, home: Path, output_format: str) -> None:
    """List aliases, merges and splits, of ARTIST or of all, with the numbers that `undo` takes.

    \b
    Example:
      likeness artists changes
    """
    from dataclasses import asdict

    from registry.identity import changes as list_changes

    with open_registry(home) as store:
        rows = [asdict(change) for change in list_changes(store, artist)]
    write_rows(rows, output_format, ["change_id", "artist", "action", "changed_at", "changed_by", "undone_at"])


@artists.command()
@click.argument("artist")
@home_option
@as_option
@click.option("--reference", "reference_id", type=int, help="Only this reference of ARTIST.")
@receipt_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(artist: str, home: Path, reference_id: int | None, receipt_path: Path | None, yes: bool) -> None:
    """Remove ARTIST: templates, references, kept audio, consents, past matches, and what reports and audit say of it.

    There is no way back. A receipt (JSON, on stdout) says what was removed, when, verified how, and what could not be
    reached. Where somebody reads the database, copies stay in its files until then: the exit code is 3, and the next
    command finishes it.

    \b
    Examples:
      likeness artists remove "Ada Vale"
      likeness artists remove "Ada Vale" --reference 12 --yes --receipt removal.json
    """
    from registry.erasure import erase_artist, erase_reference

    with open_registry(home) as store:
        summary = store.artist(artist)
        what = _what_goes(store, summary, reference_id)
        if not yes:
            confirm(f"Remove {what}?")
        if reference_id is None:
            receipt = erase_artist(store, artist, note)
        else:
            receipt = erase_reference(store, artist, reference_id, note)
    write_receipt(receipt, receipt_path)
    note(f"{what}: removed")
    if receipt["pending"]:
        raise click.exceptions.Exit(EXIT_SKIPPED)


def _what_goes(store: Store, artist: ArtistSummary, reference_id: int | None) -> str:
    from registry.errors import RegistryError

    if reference_id is None:
        return f"{artist.name}, {artist.n_references} references and {artist.n_templates} templates"
    paths = {reference.reference_id: reference.path for reference in store.references(artist.name)}
    if reference_id not in paths:
        raise RegistryError(f"reference {reference_id}: is not {artist.name}'s; `likeness artists show` lists them")
    return f"reference {reference_id} of {artist.name} ({paths[reference_id]})"
