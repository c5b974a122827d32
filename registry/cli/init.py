"""`likeness init`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import home_option, note, open_registry


@click.command()
@home_option
@click.option(
    "--encoder",
    default="house",
    show_default=True,
    help="house (built in), a SpeechBrain model directory, or a hub id, pinned as ID@COMMIT.",
)
@click.option("--trust-model", is_flag=True, help="Allow that model directory to run: it is code. Recorded by digest.")
def init(home: Path, encoder: str, trust_model: bool) -> None:
    """Make a registry, with another encoder than the built-in one if you like.

    `likeness enroll` makes one by itself with the built-in encoder; this is for choosing another.

    \b
    Examples:
      likeness init --home /srv/likeness
      likeness init --encoder speechbrain/spkrec-ecapa-voxceleb --trust-model
    """
    from registry.config import choose_encoder, encoder_source, source_name
    from registry.errors import RegistryError

    with open_registry(home, create=True) as store:
        if store.encoder_id is not None and encoder_source(store) != source_name(encoder):
            raise RegistryError(
                f"{home}: holds voices enrolled with encoder {encoder_source(store)}; choose another home for {encoder}"
            )
        choose_encoder(store, encoder, trust=trust_model)
    note(f"{home}: a registry with encoder {encoder}")
