"""Where a registry is, and the settings that are kept in it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import audit
from registry.calibration import DEFAULT_BUDGET
from registry.errors import RegistryError
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


def allow_model(store: Store, source: str, *, trust: bool) -> list[str]:
    """Digests of the models that may run, that of `source` among them; with `trust` it is added, and not recorded yet.

    Raises
    ------
    ModelError
        There is no such model, or it is damaged, or may not run.
    """
    from embeddings.model_dir import HOUSE, find_model, locate_model, model_digest

    trusted = trusted_models(store)
    if trust and source != HOUSE:
        trusted = sorted({*trusted, model_digest(locate_model(source))})
    find_model(source, trusted=trusted)
    return trusted


def check_may_choose(store: Store, source: str) -> None:
    """Raise `RegistryError` where voices are enrolled with another encoder than `source`."""
    in_use = encoder_source(store)
    if in_use != source_name(source) and store.rows("SELECT 1 FROM artist_references LIMIT 1"):
        raise RegistryError(
            f"{store.home}: holds voices enrolled with encoder {in_use}; choose another home for {source}, or go over "
            f"to it with `likeness reembed --encoder {source}`, which makes them anew from their recordings"
        )


def choose_encoder(store: Store, source: str, *, trust: bool) -> None:
    """Make `source` the encoder of a registry in which nobody is enrolled, or keep it where it is that.

    Parameters
    ----------
    trust : bool
        Record the digest of its directory as allowed to run.

    Raises
    ------
    RegistryError
        Voices are enrolled with another one.
    ModelError
        As `allow_model` raises it.
    """
    source = source_name(source)
    trusted = allow_model(store, source, trust=trust)
    with store.writing():
        check_may_choose(store, source)
        before = store.setting(ENCODER_SOURCE)
        if encoder_source(store) != source:
            store.set_encoder(None)
            if before is not None:  # the first choice is part of making the registry
                audit.append(store, "config.set", {"key": ENCODER_SOURCE, "from": before, "to": source})
        store.set_setting(ENCODER_SOURCE, source)
        store.set_setting(TRUSTED_MODELS, trusted)


def load_encoder(store: Store, **options: Any) -> Any:
    """Load the registry's encoder; takes a few seconds."""
    return load_model(encoder_source(store), trusted_models(store), **options)


def load_model(source: str, trusted: Collection[str], **options: Any) -> Any:
    """Load an encoder, the registry's or not; takes a few seconds."""
    from embeddings.encoder import SpeechBrainEncoder

    return SpeechBrainEncoder(source, trusted=trusted, **options)


@dataclass(frozen=True)
class Setting:
    """A setting that the owner of a registry may change.

    Attributes
    ----------
    key : str
        On the command line and in table `settings` alike.
    default : bool, int, float or None
        The value while nobody has set one.
    parse : callable
        Makes a value of what was typed; `ValueError` says what is allowed.
    about : str
        For people: what it does.
    """

    key: str
    default: bool | int | float | None
    parse: Callable[[str], bool | int | float | None]
    about: str


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("is either on or off")
    return text == "on"


#: More than a century says "for ever", for which there is none.
MAX_DAYS = 36_500


def _days(text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_DAYS):
        raise ValueError(f"is a whole number of days from 1 to {MAX_DAYS}, or none (kept until you remove it)")
    return int(text)


def parse_budget(text: str) -> float:
    """A false-flag budget as it is typed: a share such as 0.01 or 1e-2, or percent such as 1%; raises `ValueError`."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ValueError("is a share above 0 and below 1, such as 0.01, 1e-2 or 1%")
    return share


REQUIRE_TWO_PERSONS = Setting(
    "require-two-persons", False, _switch, "References that one person enrolls are pending until another approves them."
)
RETENTION_DAYS = Setting(
    "retention-days",
    None,
    _days,
    "Days after which `likeness purge` deletes what is on record of tracks that were clear, abstained or failed.",
)
FLAGGED_RETENTION_DAYS = Setting(
    "flagged-retention-days",
    None,
    _days,
    "Days after which `likeness purge` deletes what is on record of flagged tracks.",
)
FALSE_FLAG_BUDGET = Setting(
    "false-flag-budget",
    DEFAULT_BUDGET,
    parse_budget,
    "Share of tracks without an enrolled voice that may be flagged; the threshold follows from it and from how many "
    "artists are enrolled.",
)
SETTINGS = {
    setting.key: setting for setting in (REQUIRE_TWO_PERSONS, RETENTION_DAYS, FLAGGED_RETENTION_DAYS, FALSE_FLAG_BUDGET)
}


def value_text(value: bool | int | float | None) -> str:
    """A setting's value as it is typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def value_of(store: Store, setting: Setting) -> Any:
    """The value in force."""
    return store.setting(setting.key, setting.default)


def change_setting(store: Store, setting: Setting, value: bool | int | float | None) -> None:
    """Set a value, and write into the audit what it was before."""
    with store.writing():
        change = {"key": setting.key, "from": value_of(store, setting), "to": value}
        store.set_setting(setting.key, value)
        audit.append(store, "config.set", change)


def require_two_persons(store: Store) -> bool:
    """Whether references wait for the approval of somebody other than who enrolled them."""
    return bool(value_of(store, REQUIRE_TWO_PERSONS))


def retention_days(store: Store) -> int | None:
    """Days that tracks that are clear, abstained or failed stay on record; None: until they are removed."""
    days: int | None = value_of(store, RETENTION_DAYS)
    return days


def flagged_retention_days(store: Store) -> int | None:
    """Days that flagged tracks stay on record; None: until they are removed."""
    days: int | None = value_of(store, FLAGGED_RETENTION_DAYS)
    return days


def false_flag_budget(store: Store) -> float:
    """Share of tracks without an enrolled voice that may be flagged."""
    return float(value_of(store, FALSE_FLAG_BUDGET))
