"""An artist's references once they are on record: approving them, and the templates that are made of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from registry import audit
from registry.condense import condense_windows
from registry.errors import RegistryError
from registry.records import NewTemplate, Reference
from registry.schema import fold_name
from registry.store import Store


def condense_artist(store: Store, artist_id: int) -> None:
    """Make an artist's templates anew from all its active references; call inside `store.writing`."""
    store.replace_templates(artist_id, condense_references(store.reference_windows(artist_id)))


def condense_references(references: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> list[NewTemplate]:
    """Templates of an artist from the windows of references, as `Store.reference_windows` gives them."""
    if not references:
        return []
    owner = np.concatenate([np.full(len(vectors), reference_id) for reference_id, vectors, _ in references])
    times = np.concatenate([times for _, _, times in references])
    templates, medoids, counts = condense_windows(np.concatenate([vectors for _, vectors, _ in references]))
    return [
        NewTemplate(vector, int(owner[row]), float(times[row, 0]), float(times[row, 1]), int(count))
        for vector, row, count in zip(templates, medoids, counts, strict=True)
    ]


def approve_references(store: Store, artist: str) -> list[Reference]:
    """Make an artist's pending references active, those of them that somebody else enrolled; returns them.

    Raises
    ------
    RegistryError
        None is pending, or all that are were enrolled by whoever asks.
    """
    with store.writing():
        summary = store.artist(artist)
        pending = [reference for reference in store.references(summary.name) if reference.status == "pending"]
        approved = [reference for reference in pending if not _same_person(reference.enrolled_by, store.actor)]
        if not pending:
            raise RegistryError(f"{summary.name}: no reference is pending; nothing to approve")
        if not approved:
            raise RegistryError(
                f"{summary.name}: its {len(pending)} pending references were enrolled by {store.actor}, who cannot "
                "approve them too; somebody else has to (--as NAME says who is at work)"
            )
        for reference in approved:
            store.db.table("artist_references").update(
                reference.reference_id, {"status": "active", "approved_by": store.actor}
            )
            payload = {"reference_id": reference.reference_id}
            audit.append(store, "reference.approve", payload, artist_id=summary.artist_id)
        condense_artist(store, summary.artist_id)
    return approved


def _same_person(name: str, other: str) -> bool:
    """Whether two names of people at work are one but for how they are written."""
    return fold_name(name).split() == fold_name(other).split()
