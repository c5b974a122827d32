"""`likeness export`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import home_option, open_registry

if TYPE_CHECKING:
    from registry.store import Store


@click.command()
@home_option
@click.option("--vectors", is_flag=True, help="Also the templates. They are biometric data: mind where they go.")
@click.option(
    "--output", type=click.File("w", encoding="utf-8", atomic=True), default="-", help="A file, or - for stdout."
)
def export(home: Path, vectors: bool, output: Any) -> None:
    """Write the registry as JSON lines: one object each for artists, references, scans (and templates), with its type.

    \b
    Examples:
      likeness export > registry.jsonl
      likeness export | jq 'select(.type == "scan" and .verdict == "flagged")'
    """
    with open_registry(home) as store, store.reading():
        for record in _records(store, vectors):
            output.write(json.dumps(record) + "\n")


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
