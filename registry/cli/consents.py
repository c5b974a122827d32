"""`likeness consents`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import as_option, format_option, home_option, note, open_registry, write_rows


@click.group()
def consents() -> None:
    """List, add and withdraw consents; what is withdrawn or expired is not matched from that moment."""


@consents.command("list")
@click.argument("artist", required=False)
@home_option
@format_option
def list_consents(artist: str | None, home: Path, output_format: str) -> None:
    """List the consents of ARTIST, or of all.

    \b
    Example:
      likeness consents list "Ada Vale"
    """
    from dataclasses import asdict

    from registry.rights import consents as find_consents

    with open_registry(home) as store:
        rows = [asdict(consent) for consent in find_consents(store, artist)]
    write_rows(rows, output_format, ["artist", "ref", "in_force", "recorded_at", "expires_at", "withdrawn_at"])


@consents.command()
@click.argument("artist")
@click.argument("ref")
@click.option("--expires", metavar="DATE", help="When it ends, such as 2027-12-31.")
@home_option
@as_option
def add(artist: str, ref: str, expires: str | None, home: Path) -> None:
    """Record another consent of ARTIST, REF: a contract number, a form's file name.

    An artist is matched while any consent is in force.

    \b
    Example:
      likeness consents add "Ada Vale" release-2027-003 --expires 2029-12-31
    """
    from registry.rights import add_consent, check_consent

    consent = check_consent(ref, expires)
    with open_registry(home) as store, store.writing():
        add_consent(store, store.artist(artist).artist_id, consent, renew=True)
    note(f"{artist}: consent {consent.ref} recorded")


@consents.command()
@click.argument("artist")
@click.argument("ref", required=False)
@home_option
@as_option
def withdraw(artist: str, ref: str | None, home: Path) -> None:
    """Withdraw ARTIST's consent REF, or all: at once, also in a batch that runs, ARTIST is not matched any more.

    What is on record stays until `likeness artists remove` deletes it.

    \b
    Example:
      likeness consents withdraw "Ada Vale"
    """
    from registry.rights import withdraw_consent

    with open_registry(home) as store:
        n = withdraw_consent(store, artist, ref)
        matched = store.artist(artist).status == "active"
    left = "still matched, another consent is in force" if matched else "not matched any more"
    note(f"{artist}: {n} consents withdrawn; {left}. `likeness artists remove` deletes what is on record")
