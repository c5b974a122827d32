"""Is a registry sound? Reads everything, changes nothing."""

from __future__ import annotations

from registry.enroll import KEPT_AUDIO
from registry.errors import IndexUnusable, StoreDamaged
from registry.index import load_index
from registry.match import index_path
from registry.store import Store


def find_problems(store: Store) -> list[tuple[str, str]]:
    """What is wrong, as (where, what): nothing for a sound registry."""
    return [
        *(("database", f"{problem}; restore your last backup") for problem in store.problems()),
        *(("index", problem) for problem in _index_problems(store)),
        *(("kept audio", problem) for problem in _audio_problems(store)),
    ]


def _index_problems(store: Store) -> list[str]:
    if store.encoder_id is None:
        return []
    try:
        index = load_index(index_path(store.home), store.revision, store.encoder_id)
    except IndexUnusable as error:
        return [str(error)]
    try:
        ids, vectors = store.template_vectors()
    except StoreDamaged:
        return []  # named among the database's problems
    if sorted(index.ids.tolist()) != ids.tolist() or (index.reconstruct(ids) != vectors).any():
        return ["it does not hold what the database holds; run `likeness rebuild-index`"]
    return []


def _audio_problems(store: Store) -> list[str]:
    kept = {reference.kept_path for reference in store.references() if reference.kept_path}
    present = {str(path.relative_to(store.home)) for path in (store.home / KEPT_AUDIO).glob("*")}
    return [f"{path}: missing" for path in sorted(kept - present)] + [
        f"{path}: belongs to no reference; delete it" for path in sorted(present - kept)
    ]
