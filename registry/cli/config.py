"""`likeness config`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.common import as_option, format_option, home_option, note, open_registry, write_rows

if TYPE_CHECKING:
    from registry.config import Setting
    from registry.store import Store


@click.group()
def config() -> None:
    """List and change the settings that are kept in a registry."""


@config.command("list")
@home_option
@format_option
def list_settings(home: Path, output_format: str) -> None:
    """List every setting: its value, what it is while nobody sets it, what it does.

    \b
    Example:
      likeness config list
    """
    from registry.config import SETTINGS

    with open_registry(home) as store:
        rows = [_row(store, setting, output_format) for setting in SETTINGS.values()]
    write_rows(rows, output_format, ["key", "value", "default", "about"])


@config.command("get")
@click.argument("key")
@home_option
@format_option
def get_setting(key: str, home: Path, output_format: str) -> None:
    """Print the value of KEY.

    \b
    Examples:
      likeness config get retention-days
      likeness config get retention-days --json
    """
    from registry.config import value_of, value_text

    setting = _find(key)
    with open_registry(home) as store:
        if output_format == "table":
            click.echo(value_text(value_of(store, setting)))
        else:
            write_rows([_row(store, setting, output_format)], output_format, ["key", "value", "default", "about"])


@config.command("set")
@click.argument("key")
@click.argument("value")
@home_option
@as_option
def set_setting(key: str, value: str, home: Path) -> None:
    """Set KEY to VALUE; `likeness config list` shows the keys. The change is written into the audit.

    \b
    Examples:
      likeness config set require-two-persons on
      likeness config set retention-days 90
      likeness config set retention-days none
      likeness config set false-flag-budget 1%
    """
    from registry.config import change_setting, value_text

    setting = _find(key)
    try:
        parsed = setting.parse(value)
    except ValueError as error:
        raise click.BadParameter(f"{key} {error}, not {value}", param_hint="VALUE") from error
    with open_registry(home) as store:
        change_setting(store, setting, parsed)
    note(f"{key}: {value_text(parsed)}")


def _find(key: str) -> Setting:
    from registry.config import SETTINGS

    if key not in SETTINGS:
        raise click.BadParameter(f"there is no {key}; the keys are {', '.join(SETTINGS)}", param_hint="KEY")
    return SETTINGS[key]


def _row(store: Store, setting: Setting, output_format: str) -> dict[str, Any]:
    from registry.config import value_of, value_text

    show = value_text if output_format == "table" else lambda value: value
    return {
        "key": setting.key,
        "value": show(value_of(store, setting)),
        "default": show(setting.default),
        "about": setting.about,
    }
