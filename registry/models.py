"""The encoders that a registry may use: what is known of each without loading it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from embeddings.errors import ModelError, ModelUnavailable
from embeddings.model_dir import HOUSE, HUB_REVISIONS, ModelCard, describe_model, locate_model
from registry.config import encoder_source, source_name, trusted_models
from registry.reembed import preparation
from registry.store import Store


def list_models(store: Store | None) -> list[dict[str, Any]]:
    """The built-in encoder, those of the hub known by name, and those that a registry uses, used, or allows.

    Returns
    -------
    list of dict
        `model` (as --encoder takes it), `use` ("in use", "prepared", "used before" or None), `is_here`, `is_trusted`,
        `encoder_id`, `dim`, `size_bytes`, `licence`, `digest`, `commit`, `problem`; None where not known.
    """
    sources = [HOUSE, *HUB_REVISIONS]
    if store is not None:
        prepared = preparation(store)
        recorded = [row["source"] for row in store.rows("SELECT source FROM encoders ORDER BY first_used_at")]
        sources += [encoder_source(store), *([prepared.source] if prepared else []), *recorded]
    rows = [_row(store, source) for source in dict.fromkeys(sources)]
    others = set(trusted_models(store) if store else []) - {row["digest"] for row in rows}
    # Of what was allowed only the digest is kept: one that lies elsewhere by now, or was changed.
    return rows + [
        {**dict.fromkeys(rows[0]), "is_here": False, "is_trusted": True, "digest": d} for d in sorted(others)
    ]


def show_model(store: Store | None, source: str) -> dict[str, Any]:
    """What is known of one encoder: as `list_models`, and what its directory says (`ModelCard`).

    Raises
    ------
    ModelError
        It is not on this machine, or damaged.
    """
    source = source_name(source)
    found = describe_model(locate_model(source, fetch=False))
    row = {name: value for name, value in _row(store, source).items() if name not in ("is_here", "problem")}
    return row | {name: value for name, value in asdict(found).items() if name not in row}


def _row(store: Store | None, source: str) -> dict[str, Any]:
    found: ModelCard | None = None
    is_here, problem = True, None
    try:
        found = describe_model(locate_model(source, fetch=False))
    except ModelUnavailable as error:
        is_here, problem = False, str(error)
    except ModelError as error:
        problem = str(error)
    record = _record(store, source)
    digest = found.digest if found else None
    return {
        "model": source,
        "use": _use(store, source),
        "is_here": is_here,
        "is_trusted": source == HOUSE or (store is not None and digest in trusted_models(store)),
        # What the registry made vectors with it is known better than what lies beside the weights says.
        "encoder_id": record.get("encoder_id") or (found.encoder_id if found else None),
        "dim": record.get("dim") or (found.dim if found else None),
        "size_bytes": found.size_bytes if found else None,
        "licence": found.licence if found else None,
        "digest": digest,
        "commit": source.partition("@")[2] or HUB_REVISIONS.get(source),
        "problem": problem,
    }


def _record(store: Store | None, source: str) -> dict[str, Any]:
    """What is on record of the encoder that was last loaded from a source."""
    if store is None:
        return {}
    rows = store.rows(
        "SELECT * FROM encoders WHERE source = ? ORDER BY first_used_at DESC, rowid DESC LIMIT 1", [source]
    )
    return rows[0] if rows else {}


def _use(store: Store | None, source: str) -> str | None:
    if store is None:
        return None
    prepared = preparation(store)
    if source == encoder_source(store):
        return "in use"
    if prepared is not None and source == prepared.source:
        return "prepared"
    return "used before" if _record(store, source) else None
