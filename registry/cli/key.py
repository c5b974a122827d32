"""`likeness key`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from registry.cli.common import as_option, home_option, note, open_registry, warn


@click.group()
def key() -> None:
    """Rotate and back up the key of an encrypted registry.

    The key is looked for in the environment variable LIKENESS_KEY, then in the file that LIKENESS_KEY_FILE names, then
    where `likeness init --encrypt` or `likeness key rotate` put it. Without it nobody can read what is enrolled.
    """


@key.command()
@home_option
@as_option
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="A new file for the new key.")
def rotate(home: Path, to: Path | None) -> None:
    """Give the registry a new key; the old one opens only backups that were made before.

    The new key takes the place of the old one, or goes to the file named with --to. Vectors and audio are not touched:
    only the keys that seal them are sealed anew.

    \b
    Examples:
      likeness key rotate
      likeness key rotate --to /media/safe/likeness.key
    """
    from registry.encryption import rotate_key
    from registry.keys import ENVIRONMENT, FILE_VARIABLE, KEY_VARIABLE, name_of, source_in_use

    with open_registry(home) as store:
        old_place, place = rotate_key(store, to)
    note(f"{home}: has a new key, in {name_of(place)}")
    warn("BACK UP the new key, `likeness key backup FILE`: without it everything enrolled is lost")
    warn("backups that were made before open only with the old key, kept beside the new one (.old-TIME); make new ones")
    file, in_use = shlex.quote(name_of(place)), source_in_use(place)
    if in_use == ENVIRONMENT:
        warn(f'before the next command: export {KEY_VARIABLE}="$(cat {file})"')
    elif in_use != place:
        warn(f"before the next command: export {FILE_VARIABLE}={file}")
    if old_place not in (place, ENVIRONMENT):
        note(f"{name_of(old_place)}: the old key, not needed any more but for those backups")


@key.command()
@click.argument("file", type=click.Path(path_type=Path))
@home_option
def backup(file: Path, home: Path) -> None:
    """Copy the registry's key to FILE, which must not be there yet, nor lie in the registry's folder.

    Keep it elsewhere than the registry and its backups: it opens them. To use it, name it with LIKENESS_KEY_FILE.

    \b
    Example:
      likeness key backup /media/safe/likeness.key
    """
    from registry.encryption import backup_key

    with open_registry(home) as store:
        backup_key(store, file)
    note(f"{file}: a copy of the key of {home}")
