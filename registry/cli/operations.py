"""`likeness backup`, `likeness restore` and `likeness status`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.common import (
    as_option,
    confirm,
    format_option,
    home_option,
    note,
    open_registry,
    progress_bar,
    warn,
    write_rows,
)

if TYPE_CHECKING:
    from registry.backup import Comparison
    from registry.store import Store


@click.command()
@click.argument("output_path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--keep",
    type=click.IntRange(1),
    metavar="N",
    help="Afterwards delete this registry's oldest backups in the same folder, so that N are left.",
)
@home_option
@as_option
def backup(output_path: Path, force: bool, keep: int | None, home: Path) -> None:
    """Write the whole registry to FILE, as it is at one moment: database and kept audio. Others may go on writing.

    It holds voiceprints, and is as encrypted as the registry is; the key is not in it. A removal cannot reach into it,
    but its receipt names it, and `likeness restore` removes again what was removed since.

    \b
    Examples:
      likeness backup /backups/likeness-2026-03-01.db
      likeness backup "/backups/likeness-$(date +%F).db" --keep 14
    """
    from registry.backup import back_up

    with open_registry(home) as store, _page_bar("backing up") as show:
        made = back_up(store, output_path, force=force, keep=keep, on_progress=show)
        is_encrypted = store.encryption is not None
    note(
        f"{made.path}: {_size_text(made.n_bytes)}, with {made.n_kept_audio} kept recordings. Removals will name it as "
        "a place that they do not reach"
    )
    for path in made.dropped:
        note(f"{path}: deleted, the newest {keep} are kept")
    if made.n_missing:
        warn(f"{made.n_missing} kept recordings are missing here, and so in it; `likeness check` names them")
    if is_encrypted:
        note("encrypted; the key is not in it and opens nothing else: `likeness key backup` if you have not")
    else:
        note("not encrypted: whoever has the file has the voiceprints")


@click.command()
@click.argument("backup_path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--receipts",
    "receipt_paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Receipts of removals that the registry does not know of, such as those of one that is lost. May be repeated.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
@as_option
def restore(backup_path: Path, receipt_paths: tuple[Path, ...], yes: bool, home: Path) -> None:
    """Put the backup FILE in the place of the registry, or where there is none. Restore only what is yours.

    Artists, references and tracks that were removed since the backup are removed from it before anybody sees it, and
    consents withdrawn since stay withdrawn. Everything else is as it was then: settings too, among them which models
    may run. Make a backup of the present registry first if you may want it back.

    Where registry.db is damaged, move it and its -wal away first. What was removed since the backup is then on record
    in receipts alone: give them with --receipts.

    \b
    Examples:
      likeness restore /backups/likeness-2026-03-01.db
      likeness restore /backups/likeness-2026-03-01.db --receipts receipts/march.json --yes
    """
    from registry import audit
    from registry.backup import prepared_restore, put_in_place, read_receipts
    from registry.match import write_store_index
    from registry.store import DATABASE

    receipts = [receipt for path in receipt_paths for receipt in read_receipts(path)]
    is_new = not (home / DATABASE).exists()
    with _made_if_absent(home) as store, ExitStack() as at_end:
        with _page_bar("preparing") as show:
            prepared = at_end.enter_context(prepared_restore(store, backup_path, receipts, on_progress=show))
        found, replaced = prepared.comparison, audit.head_of(store)
        if not is_new and not yes:
            confirm(f"{home}: {_question(found)}")
        put_in_place(store, prepared)
    with open_registry(home) as store:
        write_store_index(store, note)
        head, encryption = audit.head_of(store), store.encryption
    note(
        f"{home}: restored, with {found.n_artists} artists and {found.n_scans} scans; {found.n_erased_again} removals "
        "made since the backup were repeated"
    )
    if not is_new:
        note(
            f"the audit goes on from the backup's; its entry {head.seq} names the last one of the audit that was "
            f"replaced: {replaced.seq}, {replaced.hash}"
        )
    if is_new and not receipts:
        warn("whoever was removed since the backup is back: no receipts were given; restore again with --receipts")
    if encryption is not None:
        from registry.keys import name_of, source_in_use

        source = encryption["source"]
        note(f"it opens with the key of the backup's time, now in {name_of(source_in_use(source))}")
        if source_in_use(source) != source:
            warn(f"without that variable it is looked for in {name_of(source)}; put it there, or make another backup")
    if found.n_missing_audio:
        warn(f"{found.n_missing_audio} kept recordings are not in the backup; `likeness check` names them")
    if found.loses_encryption:
        warn("the backup was not encrypted, and the registry is not any more")


@contextmanager
def _made_if_absent(home: Path) -> Iterator[Store]:
    """The registry in `home`; one that was made for this is gone again if it fails."""
    from registry.files import folders_undone_on_failure
    from registry.store import DATABASE

    if (home / DATABASE).exists():
        with open_registry(home) as store:
            yield store
        return
    with folders_undone_on_failure(home / DATABASE):
        try:
            with open_registry(home, create=True) as store:
                yield store
        except BaseException:
            for suffix in ("", "-wal", "-shm"):
                (home / f"{DATABASE}{suffix}").unlink(missing_ok=True)
            raise


def _question(found: Comparison) -> str:
    of = "of an unknown time" if found.made_at is None else f"of {found.made_at}"
    losses = f"{found.n_artists_lost} artists and {found.n_scans_lost} scans would be lost"
    gains = f"{found.n_artists_back} artists and {found.n_scans_back} scans would come back"
    plain = " It is not encrypted, the registry is." if found.loses_encryption else ""
    return (
        f"replace the registry with the backup {of}? {losses}, {gains}; {found.n_erased_again} removals made since are "
        f"repeated.{plain}"
    )


@contextmanager
def _page_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    with progress_bar("pages") as progress:
        task = progress.add_task(what, total=None, note="")
        yield lambda done, total: progress.update(task, completed=done, total=total)


@click.command()
@home_option
@format_option
def status(home: Path, output_format: str) -> None:
    """Show how the registry is: who is on record, its index, runs, removals, backups, disk and audit. Quick.

    \b
    Examples:
      likeness status
      likeness status --json | jq '.[0].last_backup.age_s'
    """
    from dataclasses import asdict

    from registry.status import registry_status, status_lines

    with open_registry(home) as store:
        found = registry_status(store)
    if output_format in ("table", "csv"):
        rows = [{"what": what, "state": state} for what, state in status_lines(found)]
        write_rows(rows, output_format, ["what", "state"])
    else:
        write_rows([asdict(found)], output_format, [])


def _size_text(n_bytes: int) -> str:
    from registry.status import size_text

    return size_text(n_bytes)
