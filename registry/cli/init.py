"""`likeness init`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from registry.cli.common import as_option, home_option, note, open_registry, warn


@click.command()
@home_option
@as_option
@click.option(
    "--encoder",
    default="house",
    show_default=True,
    help="house (built in), a SpeechBrain model directory, or a hub id, pinned as ID@COMMIT.",
)
@click.option("--trust-model", is_flag=True, help="Allow that model directory to run: it is code. Recorded by digest.")
@click.option("--encrypt", is_flag=True, help="Encrypt what is kept of artists; the key lies outside the registry.")
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A new file for the key, instead of one in ~/.config/likeness.",
)
@click.option("--key-env", is_flag=True, help="Take the key that the environment variable LIKENESS_KEY holds.")
@click.option("--key-keyring", is_flag=True, help="Keep the key in the system's keyring.")
def init(
    home: Path,
    encoder: str,
    trust_model: bool,
    encrypt: bool,
    key_file: Path | None,
    key_env: bool,
    key_keyring: bool,
) -> None:
    """Make a registry: encrypted, or with another encoder than the built-in one, if you like.

    `likeness enroll` makes one by itself, with the built-in encoder and not encrypted. Encryption is turned on before
    the first artist is enrolled.

    \b
    Examples:
      likeness init --home /srv/likeness
      likeness init --encrypt
      likeness init --encrypt --key-file /etc/likeness/likeness.key
      likeness init --encoder speechbrain/spkrec-ecapa-voxceleb --trust-model
    """
    n_places = (key_file is not None) + key_env + key_keyring
    if n_places > 1:
        raise click.UsageError("--key-file, --key-env and --key-keyring: the key lies in one place; give one of them")
    if n_places and not encrypt:
        raise click.UsageError("the place of a key is for --encrypt; give that too")
    from registry.config import check_may_choose, choose_encoder

    with _nothing_left_on_failure(home), open_registry(home, create=True) as store:
        check_may_choose(store, encoder)
        if not encrypt:
            choose_encoder(store, encoder, trust=trust_model)
            note(f"{home}: a registry with encoder {encoder}")
            return
        from registry.encryption import check_may_encrypt, encrypt_registry, new_home_id

        home_id = new_home_id()
        source = _key_source(home_id, key_file, key_env, key_keyring)
        check_may_encrypt(store, source)
        choose_encoder(store, encoder, trust=trust_model)
        encrypt_registry(store, home_id, source)
    from registry.keys import name_of

    note(f"{home}: a registry with encoder {encoder}, encrypted; its key is in {name_of(source)}")
    warn("BACK UP the key, `likeness key backup FILE`: without it everything enrolled is lost")


def _key_source(home_id: str, key_file: Path | None, key_env: bool, key_keyring: bool) -> str:
    """Where the key is to lie."""
    from registry import keys

    if key_file is not None:
        return keys.key_file(key_file)
    if key_env:
        return keys.ENVIRONMENT
    return keys.key_in_keyring(home_id) if key_keyring else keys.default_source(home_id)


@contextmanager
def _nothing_left_on_failure(home: Path) -> Iterator[None]:
    """Take away again what was made of a registry that could not be made whole."""
    from registry.files import folders_undone_on_failure
    from registry.store import DATABASE

    path = home / DATABASE
    was_there = path.exists()
    with folders_undone_on_failure(path):
        try:
            yield
        except BaseException:
            if not was_there:
                for suffix in ("", "-wal", "-shm"):
                    with suppress(OSError):
                        path.with_name(DATABASE + suffix).unlink()
            raise
