"""`likeness audit` and `likeness receipts`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from registry.cli.common import EXIT_DAMAGED, format_option, home_option, note, open_registry, write_rows


@click.group()
def audit() -> None:
    """Show and verify the record of what was done to the registry."""


@audit.command()
@click.argument("artist", required=False)
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="How many entries.")
@home_option
@format_option
def show(artist: str | None, last: int, home: Path, output_format: str) -> None:
    """Show the latest entries, of ARTIST or of all, oldest first; what was erased with an artist is empty.

    \b
    Examples:
      likeness audit show --last 10
      likeness audit show "Ada Vale" --json
    """
    from dataclasses import asdict

    from registry.audit import entries

    with open_registry(home) as store:
        artist_id = None if artist is None else store.artist(artist).artist_id
        rows = [asdict(entry) for entry in entries(store, artist_id=artist_id, last=last)]
    if output_format in ("table", "csv"):
        for row in rows:
            payload = row["payload"]
            row["by"] = None if payload is None else payload.pop("by")
            row["what"] = (
                "(erased)" if payload is None else ", ".join(f"{k} {v}" for k, v in payload.items() if v is not None)
            )
    write_rows(rows, output_format, ["seq", "at", "by", "action", "artist", "what"])


@audit.command()
@click.option(
    "--head", "heads", multiple=True, help="A head noted earlier, such as a batch printed: must be in the chain."
)
@home_option
@format_option
def verify(heads: tuple[str, ...], home: Path, output_format: str) -> None:
    """Check that no entry was changed or dropped; exits 4 if one was. Prints the head: note it, away from here.

    Entries cut off from the end are only noticed by a head that somebody noted: give it with --head.

    \b
    Examples:
      likeness audit verify
      likeness audit verify --head 3f9a41c2d07b
    """
    from dataclasses import asdict

    from registry.audit import verify as verify_chain

    for head in heads:
        if len(head) < 8 or set(head.lower()) - set("0123456789abcdef"):
            raise click.BadParameter(
                f"{head}: at least 8 characters of a hash (0-9, a-f) are needed", param_hint="--head"
            )
    with open_registry(home) as store:
        found = verify_chain(store, heads=heads)
    if output_format == "table":
        for problem in found.problems:
            note(problem)
        click.echo(f"{found.head.seq} {found.head.hash}")
        note(
            f"{found.n_entries} entries, {found.n_erased} of them erased in what they say; "
            f"{'BROKEN' if found.problems else 'sound'}"
        )
    else:
        write_rows([asdict(found)], output_format, [])
    if found.problems:
        raise click.exceptions.Exit(EXIT_DAMAGED)


@click.command()
@click.argument("erasure_id", type=int, required=False)
@home_option
def receipts(erasure_id: int | None, home: Path) -> None:
    """Show the receipts of removals, or that of number ERASURE_ID, as JSON. They name nobody.

    \b
    Example:
      likeness receipts 3
    """
    from registry.erasure import receipts as find_receipts
    from registry.errors import RegistryError

    with open_registry(home) as store:
        found = find_receipts(store, erasure_id)
    if erasure_id is not None and not found:
        raise RegistryError(f"removal {erasure_id}: there is none of that number")
    click.echo(json.dumps(found if erasure_id is None else found[0], indent=2))
