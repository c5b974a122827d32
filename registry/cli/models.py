"""`likeness models`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import as_option, format_option, home_option, note, open_registry, write_rows

if TYPE_CHECKING:
    from registry.store import Store


@click.group()
def models() -> None:
    """List, show and fetch encoders; choose the one of a registry."""


@models.command("list")
@home_option
@format_option
def list_models(home: Path, output_format: str) -> None:
    """List encoders: the built-in one, those of the hub known by name, and those that this registry uses or allows.

    Nothing is fetched or loaded.

    \b
    Example:
      likeness models list
    """
    from registry.models import list_models as find_models

    with _registry_if_any(home) as store:
        rows = find_models(store)
    if output_format == "table":
        rows = [_for_people({**row, "encoder_id": (row["encoder_id"] or "")[:12]}) for row in rows]
    write_rows(rows, output_format, ["model", "use", "is_here", "is_trusted", "encoder_id", "dim", "size", "licence"])


@models.command()
@click.argument("source")
@home_option
@format_option
def show(source: str, home: Path, output_format: str) -> None:
    """Show an encoder: its ids, cohort, calibration, licence and card. SOURCE is house, a directory or a hub id.

    Nothing of it is run. Without a network, a hub's model is shown if it was fetched before.

    \b
    Examples:
      likeness models show house
      likeness models show models/ours --json
    """
    from registry.models import show_model

    with _registry_if_any(home) as store:
        found = show_model(store, source)
    if output_format not in ("table", "csv"):
        write_rows([found], output_format, [])
        return
    card = found.pop("card")
    rows = [{"what": name, "value": value} for name, value in _for_people(found).items() if value is not None]
    write_rows(rows, output_format, ["what", "value"])
    if output_format == "table" and card:
        from registry.report import printable

        click.echo("\n" + "\n".join(printable(line) for line in card.rstrip().splitlines()))


@models.command()
@click.argument("hub_id")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Copy it to this new folder, to take it along.")
@home_option
def fetch(hub_id: str, target: Path | None, home: Path) -> None:
    """Fetch an encoder from the Hugging Face hub: HUB_ID, with @COMMIT unless `models list` names one for it.

    It lies in the hub's cache (HF_HOME) and is not run. Where there is no network, fetch it elsewhere with --to, copy
    the folder, and use that.

    \b
    Examples:
      likeness models fetch speechbrain/spkrec-ecapa-voxceleb
      likeness models fetch speechbrain/spkrec-ecapa-voxceleb --to /media/stick/ecapa
    """
    from embeddings.model_dir import HOUSE, copy_model, locate_model, model_digest
    from registry.config import trusted_models
    from registry.errors import RegistryError

    if hub_id == HOUSE or Path(hub_id).is_dir():
        raise RegistryError(f"{hub_id}: is on this machine already; `likeness models show {hub_id}` says what it is")
    directory = locate_model(hub_id)
    if target is not None:
        copy_model(directory, target)
        directory = target
    click.echo(directory)
    digest = model_digest(directory)
    with _registry_if_any(home) as store:
        may_run = store is not None and digest in trusted_models(store)
    trust = "" if may_run else " --trust-model"
    note(
        f"{hub_id}: fetched, digest {digest}. `likeness models use {target or hub_id}{trust}` makes it a registry's "
        "encoder: then its code runs"
    )


@models.command()
@click.argument("source")
@click.option("--trust-model", is_flag=True, help="Allow that model directory to run: it is code. Recorded by digest.")
@home_option
@as_option
def use(source: str, trust_model: bool, home: Path) -> None:
    """Make SOURCE (house, a directory or a hub id) the encoder of a registry in which nobody is enrolled.

    Where somebody is, `likeness reembed --encoder SOURCE` goes over to it.

    \b
    Examples:
      likeness models use speechbrain/spkrec-ecapa-voxceleb --trust-model
      likeness models use house
    """
    from registry.config import check_may_choose, choose_encoder

    with open_registry(home) as store:
        check_may_choose(store, source)
        choose_encoder(store, source, trust=trust_model)
    note(f"{home}: uses encoder {source}")


@contextmanager
def _registry_if_any(home: Path) -> Iterator[Store | None]:
    from registry.store import DATABASE

    if not (home / DATABASE).exists():
        yield None
        return
    with open_registry(home) as store:
        yield store


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    from registry.status import size_text

    def text(value: Any) -> Any:
        return ("yes" if value else "no") if isinstance(value, bool) else str(value) if value is not None else None

    shown = {name: text(value) for name, value in row.items() if name != "size_bytes"}
    size = row["size_bytes"]
    return {**shown, "size": None if size is None else size_text(size)}
