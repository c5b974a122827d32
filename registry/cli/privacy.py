"""`likeness privacy` and `likeness purge`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import as_option, format_option, home_option, note, open_registry, write_rows


@click.group(invoke_without_command=True)
@click.pass_context
@home_option
@format_option
def privacy(context: click.Context, home: Path, output_format: str) -> None:
    """Print everything that is kept about anybody: what, how much, where, until when.

    \b
    Examples:
      likeness privacy
      likeness privacy export "Ada Vale" ada.zip
    """
    if context.invoked_subcommand is not None:
        if context.get_parameter_source("home") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--home goes behind {context.invoked_subcommand}; here it would not be looked at")
        return
    from registry.privacy import inventory

    with open_registry(home) as store:
        rows = inventory(store)
    write_rows(rows, output_format, ["about", "what", "n", "where", "until"])


@privacy.command("export")
@click.argument("artist")
@click.argument("output_path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@home_option
@as_option
def export_artist(artist: str, output_path: Path, home: Path) -> None:
    """Write all that is on record of ARTIST to FILE, a ZIP: artist.json and the kept audio. It holds voiceprints.

    \b
    Example:
      likeness privacy export "Ada Vale" ada.zip
    """
    from registry import audit
    from registry.privacy import write_artist_archive

    with open_registry(home) as store:
        counts = write_artist_archive(store, artist, output_path)
        if not store.read_only:
            with store.writing():
                audit.append(store, "artist.export", {}, artist_id=store.artist(artist).artist_id)
    note(f"{output_path}: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n))
    if counts["lookalikes"]:
        note("what was noted of lookalikes may name them: read `lookalikes` in artist.json before it is handed over")


@click.command()
@click.option(
    "--older-than", "days", type=click.IntRange(0), metavar="DAYS", help="Instead of the setting retention-days."
)
@click.option(
    "--flagged-older-than",
    "flagged_days",
    type=click.IntRange(0),
    metavar="DAYS",
    help="Instead of the setting flagged-retention-days.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@home_option
@format_option
@as_option
def purge(days: int | None, flagged_days: int | None, dry_run: bool, home: Path, output_format: str) -> None:
    """Delete what is kept of tracks that were examined longer ago than you want it kept.

    \b
    Examples:
      likeness config set retention-days 90
      likeness purge
      likeness purge --older-than 30 --dry-run
    """
    from registry.retention import purge as purge_tracks

    with open_registry(home) as store:
        counts = purge_tracks(store, days=days, flagged_days=flagged_days, dry_run=dry_run)
    write_rows([counts], output_format, ["tracks", "scans", "run_tracks"])
    if dry_run:
        note("nothing was deleted: --dry-run")
