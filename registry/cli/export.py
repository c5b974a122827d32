"""`likeness export`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from registry.cli.common import home_option, open_registry

if TYPE_CHECKING:
    from registry.store import Store


@click.command()
@home_option
@click.option("--vectors", is_flag=True, help="Also the templates. They are biometric data: mind where they go.")
@click.option(
    "--output",
    "output_path",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    default="-",
    help="A file, or - for stdout.",
)
def export(home: Path, vectors: bool, output_path: Path) -> None:
    """Write the registry as JSON lines: one object each for artists, references, scans (and templates), with its type.

    \b
    Examples:
      likeness export > registry.jsonl
      likeness export | jq 'select(.type == "scan" and .verdict == "flagged")'
    """
    with open_registry(home) as store, _output(output_path) as output, store.reading():
        for record in _records(store, vectors):
            output.write(json.dumps(record) + "\n")


@contextmanager
def _output(path: Path) -> Iterator[TextIO]:
    """The file to write, or stdout; a file is there whole or, where the export fails, as it was before."""
    from registry.errors import RegistryError

    if path == Path("-"):
        yield sys.stdout
        return
    try:
        if path.exists() and not path.is_file():  # a device or FIFO is written to, never replaced
            with path.open("w", encoding="utf-8") as file:
                yield file
            return
        partial = path.with_name(path.name + ".part")
        with ExitStack() as stack:
            file = stack.enter_context(open(partial, "w", encoding="utf-8", opener=_private))
            stack.callback(partial.unlink, missing_ok=True)
            yield file
            file.close()
            partial.replace(path)
    except OSError as error:
        raise RegistryError(f"{path}: cannot be written ({error.strerror})") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # templates and paths are nobody else's business


def _records(store: Store, vectors: bool) -> Iterator[dict[str, Any]]:
    from dataclasses import asdict

    from registry.scans import find_scans

    for artist in store.artists():
        yield {"type": "artist", **asdict(artist)}
    for reference in store.references():
        yield {"type": "reference", **asdict(reference)}
    if vectors:
        gallery = store.gallery()
        for i, template_id in enumerate(gallery.template_id.tolist()):
            yield {
                "type": "template",
                "template_id": template_id,
                "artist_id": int(gallery.artist_id[i]),
                "reference_id": int(gallery.reference_id[i]),
                "start_s": float(gallery.start_s[i]),
                "end_s": float(gallery.end_s[i]),
                "vector": gallery.vectors[i].tolist(),
            }
    for scan in find_scans(store):
        yield {"type": "scan", **scan.as_dict()}
