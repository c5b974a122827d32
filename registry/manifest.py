"""What a batch is to examine: files, folders and manifests, as a list of tracks."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from embeddings.audio import SUFFIXES
from registry.errors import ManifestError
from registry.records import BatchItem, path_of, path_text, storable

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson")
#: Columns of a manifest that have a meaning; others are kept and come out again.
COLUMNS = ("path", "title", "isrc", "uploader")
#: How deep lists and objects of a row may lie in each other. Python reads and writes some 900, fewer the deeper it is
#: called from, so that a row which can be read here could not be written there.
MAX_NESTING = 50


def find_recordings(folder: Path) -> list[Path]:
    """Files in a folder, at any depth, that look like audio, and folders that cannot be listed, in order.

    The latter so that nothing is lost without a word: taken for a recording, such a folder fails with its reason.
    Links to folders are not followed: they may lead in circles, or out of what was named.
    """
    unlisted: list[OSError] = []
    walk = os.walk(folder, onerror=unlisted.append)
    paths = (Path(parent, name) for parent, _, names in walk for name in names)
    found = [path for path in paths if path.suffix.lower() in SUFFIXES]
    return sorted([*found, *(Path(error.filename) for error in unlisted)])


def list_items(inputs: Sequence[Path]) -> list[BatchItem]:
    """What a batch is to examine.

    Parameters
    ----------
    inputs : sequence of Path
        Audio files; folders, in which `find_recordings` looks; manifests (CSV with a header, or JSON lines) with a
        column `path` and, where known, `title`, `isrc`, `uploader`. Other columns are kept and come out again. A
        relative path in a manifest is taken from the manifest's folder. A file that is named twice is listed once;
        each row of a manifest is a track of its own.

    Raises
    ------
    ManifestError
        A manifest cannot be read; the message names file and line.
    """
    items: list[BatchItem] = []
    seen: set[Path] = set()
    for path in inputs:
        if path.is_dir():
            found = find_recordings(path)
        elif path.suffix.lower() in MANIFEST_SUFFIXES:
            items += _read_manifest(path)
            continue
        else:
            found = [path]
        items += [BatchItem(path_text(p)) for p in found if p not in seen]
        seen.update(found)
    return items


def _read_manifest(path: Path) -> Iterator[BatchItem]:
    for number, row in manifest_rows(path):
        try:
            yield _manifest_item(path.parent, number, row)
        except _BadRow as error:
            raise bad_row(path, error.number, error.reason) from error


def manifest_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a manifest as they stand, each with its line; raises `ManifestError`."""
    read_rows = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    try:
        if path.exists() and not path.is_file():  # a FIFO that nobody writes to would be read for ever
            raise ManifestError(f"{path}: not a regular file")
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from read_rows(file)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except _BadRow as error:
        raise bad_row(path, error.number, error.reason) from error


def bad_row(path: Path, number: int, reason: str) -> ManifestError:
    """The error that says which line of a manifest cannot be used."""
    return ManifestError(f"{path}: line {number}: {reason}")


class _BadRow(Exception):
    """A row of a manifest cannot be used; its line is given by `number`."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number, self.reason = number, reason


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    # Strict: a quote that is never closed would swallow every row after it without a word.
    rows = csv.DictReader(lines, strict=True)
    try:
        names = rows.fieldnames or []
        if "path" not in names:
            header = shorten(", ".join(names), 200)
            raise _BadRow(1, f"no column `path` in the header ({header}); a manifest needs that column")
        for row in rows:
            if None in row:
                raise _BadRow(
                    rows.line_num, f"more cells than the header has ({len(names)}); quote a cell with a comma in it"
                )
            if any(row.values()):  # a spreadsheet leaves rows of commas behind
                yield rows.line_num, row
    except csv.Error as error:
        raise _BadRow(rows.line_num + 1, f"not CSV ({error})") from error  # where the row begins that cannot be read


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _BadRow(number, f"not JSON ({error})") from error
        if not isinstance(row, dict):
            raise _BadRow(number, "not a JSON object; one with a `path` is needed on each line")
        if _nests_deeper(row, MAX_NESTING):
            raise _BadRow(number, f"lists or objects in each other, at most {MAX_NESTING} deep are kept")
        yield number, row


def _nests_deeper(value: Any, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_nests_deeper(item, limit - 1) for item in inner)


def _manifest_item(folder: Path, number: int, row: Mapping[str, Any]) -> BatchItem:
    path = row.get("path") or ""  # without one the row is a track that fails: it must not hold up the others
    if not isinstance(path, str):
        raise _BadRow(number, f"`path` is {path!r}, not text")
    known = {name: storable(str(row[name])) for name in COLUMNS[1:] if row.get(name)}
    extra = {name: value for name, value in row.items() if name not in COLUMNS}
    try:
        json.dumps(extra, allow_nan=False)
    except ValueError as error:  # Python reads NaN and 1e999, JSON has no word for them
        raise _BadRow(number, "a number in it is not finite") from error
    return BatchItem(path=path_text(folder / path_of(path)) if path else "", **known, extra=extra)
