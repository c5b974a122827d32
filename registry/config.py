"""Where a registry is, and the settings that are kept in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from registry.store import Store

#: Settings: the encoder that the registry uses, and digests of model directories that were allowed with --trust-model.
ENCODER_SOURCE = "encoder_source"
TRUSTED_MODELS = "trusted_models"


def encoder_source(store: Store) -> str:
    """The encoder that this registry uses, as `SpeechBrainEncoder` takes it."""
    return str(store.setting(ENCODER_SOURCE, "house"))


def trusted_models(store: Store) -> list[str]:
    """Digests of the model directories that may run."""
    return list(store.setting(TRUSTED_MODELS, []))


def source_name(source: str) -> str:
    """`source` as it is recorded: a directory by its absolute path."""
    from embeddings.model_dir import HOUSE

    return str(Path(source).resolve()) if source != HOUSE and Path(source).is_dir() else source


def choose_encoder(store: Store, source: str, *, trust: bool) -> None:
    """Make `source` the registry's encoder; with `trust`, record the digest of its directory as allowed to run."""
    from embeddings.model_dir import HOUSE, find_model, locate_model, model_digest

    source = source_name(source)
    trusted = trusted_models(store)
    if trust and source != HOUSE:
        trusted = sorted({*trusted, model_digest(locate_model(source))})
    find_model(source, trusted=trusted)
    with store.writing():
        store.set_setting(ENCODER_SOURCE, source)
        store.set_setting(TRUSTED_MODELS, trusted)


def load_encoder(store: Store, **options: Any) -> Any:
    """Load the registry's encoder; takes a few seconds."""
    from embeddings.encoder import SpeechBrainEncoder

    return SpeechBrainEncoder(encoder_source(store), trusted=trusted_models(store), **options)
