"""What a batch is to examine: files, folders and manifests, as a list of tracks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddings.audio import SUFFIXES
from registry.errors import ManifestError
from registry.records import BatchItem, path_of, path_text, storable

MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson")
#: Columns of a manifest that have a meaning; others are kept and come out again.
COLUMNS = ("path", "title", "isrc", "uploader")


def list_items(inputs: Sequence[Path]) -> list[BatchItem]:
    """What a batch is to examine.

    Parameters
    ----------
    inputs : sequence of Path
        Audio files; folders, searched to any depth for files that look like audio; manifests (CSV with a header, or
        JSON lines) with a column `path` and, where known, `title`, `isrc`, `uploader`. Other columns are kept and
        come out again. A relative path in a manifest is taken from the manifest's folder. A file that is named twice
        is listed once; each row of a manifest is a track of its own.

    Raises
    ------
    ManifestError
        A manifest cannot be read; the message names file and line.
    """
    items: list[BatchItem] = []
    seen: set[Path] = set()
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())
        elif path.suffix.lower() in MANIFEST_SUFFIXES:
            items += _read_manifest(path)
            continue
        else:
            found = [path]
        items += [BatchItem(path_text(p)) for p in found if p not in seen]
        seen.update(found)
    return items


def _read_manifest(path: Path) -> Iterator[BatchItem]:
    read_rows = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in read_rows(file):
                yield _manifest_item(path.parent, number, row)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except _BadRow as error:
        raise ManifestError(f"{path}: line {error.number}: {error.reason}") from error


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
            raise _BadRow(1, f"no column `path` in the header ({', '.join(names)}); a manifest needs that column")
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
        yield number, row


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
