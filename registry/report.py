"""Results for people: a scan with its evidence, tables and CSV. Strangers' text is escaped in all of them."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from registry.records import Match, Scan, Unusable

#: A scan as one row of a spreadsheet: what was decided, and the best artist with the first stretch to listen to.
SCAN_COLUMNS = (
    *("path", "verdict", "kind", "reason", "artist", "norm_score", "llr", "likeness", "threshold"),
    *("track_start_s", "track_end_s", "reference", "reference_start_s", "reference_end_s"),
    *("voiced_s", "duration_s", "n_artists", "scanned_at", "scan_id", "run_id", "content_id", "encoder_id"),
)

#: Categories of what a terminal obeys or does not show: controls, formats (bidi, zero width, tags), half characters,
#: ends of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
_VIRAMA = 9  # canonical combining class

#: Where a spreadsheet would take text for a formula (OWASP, "CSV Injection"): at the beginning of a cell, and behind
#: what ends a cell where the comma is a decimal point. Full-width forms count in East Asian settings.
_FORMULA = re.compile("(^|;)(?=[=+@\uff1d\uff0b\uff20\uff0d-])")


def hidden_at(text: str) -> list[int]:
    """Where `text` holds characters that steer a terminal or cannot be seen.

    The joiners U+200C and U+200D are not counted where they change how a word is written: after a virama (RFC 5892,
    appendix A), and between letters, marks, digits or symbols of which one is beyond the Latin, Greek and Cyrillic
    scripts. Persian is misspelt without them, Bengali and joined emoji too. Between Latin letters they would only make
    two names that look the same.
    """
    return [i for i, c in enumerate(text) if unicodedata.category(c) in _HIDDEN and not _joins(text, i)]


def _joins(text: str, i: int) -> bool:
    if text[i] not in _JOINERS or i == 0:
        return False
    if unicodedata.combining(text[i - 1]) == _VIRAMA:
        return True
    around = text[i - 1] + text[i + 1 : i + 2]
    return len(around) == 2 and max(around) >= "\u0590" and all(unicodedata.category(c)[0] in "LMNS" for c in around)


def printable(text: str) -> str:
    """`text` with control, bidi and other invisible characters as escapes: a title must not steer a terminal."""
    hidden = set(hidden_at(text))
    return "".join(c.encode("unicode_escape").decode() if i in hidden else c for i, c in enumerate(text))


def clock(seconds: float) -> str:
    """Seconds as a person finds them in a player: ``1:02:03.5`` or ``2:03.5``."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def scan_text(scan: Scan | Unusable, *, dated: bool = False) -> str:
    """A scan with its evidence, as text for a person who will listen; with `dated` also when it was made, by what."""
    if isinstance(scan, Unusable):
        return f"FAILED  {printable(scan.path)}\n  {printable(scan.reason)}"
    lines = [
        f"{scan.verdict.upper()}  {printable(scan.path)}",
        f"  {printable(scan.reason)}",
        f"  {scan.voiced_s:.1f} s of voice in {scan.duration_s:.1f} s; {scan.n_artists} artists matched",
    ]
    if dated:
        lines.append(f"  scanned {scan.scanned_at}, {'by a query' if scan.run_id is None else f'run {scan.run_id}'}")
    for match in scan.matches:
        lines += _match_lines(match)
    lines += _lookalike_lines(scan.matches)
    lines.append(
        f"  encoder {scan.encoder_id[:12]}, cohort {(scan.cohort_id or 'none')[:12]}, threshold {scan.threshold:.2f}: "
        f"{printable(scan.threshold_source)}"
    )
    if scan.verdict == "flagged" and any(match.flagged for match in scan.matches):
        lines.append("  A flag is a lead: listen to the stretches above before anything is done about this track.")
    elif scan.verdict == "flagged":
        lines.append("  The artist it was flagged for has been removed from the registry since.")
    return "\n".join(lines)


def _match_lines(match: Match) -> list[str]:
    """One artist of a scan: whole for the best and for those above the threshold, one line for the others."""
    mark = "*" if match.flagged else " "
    is_whole = match.flagged or match.rank == 1
    # The others are lower mostly because the first one comes near the track.
    is_told = is_whole and match.taken_off > 0
    off = f" ({match.taken_off:.2f} taken off: other voices come near)" if is_told else ""
    llr = "" if match.llr is None else f"log10 likelihood ratio {match.llr:+.2f}{off}, "
    scores = f"{llr}norm score {match.norm_score:.2f}, cosine {match.score:.3f}"
    head = f" {mark}{match.rank}. {printable(match.artist)}: {scores}"
    if not is_whole:
        return [head]
    words = [] if match.likeness is None else [f"     {match.likeness}"]
    return [
        head,
        *words,
        *(
            f"     listen: track {clock(item.track_start_s)} to {clock(item.track_end_s)}, "
            f"{printable(item.reference)} {clock(item.reference_start_s)} to {clock(item.reference_end_s)} "
            f"(cosine {item.score:.3f})"
            for item in match.evidence
        ),
    ]


def _lookalike_lines(matches: Sequence[Match]) -> list[str]:
    """Which of the flagged artists are noted as sounding alike."""
    flagged = [match for match in matches if match.flagged]
    lines = [
        f"  {printable(one.artist)} and {printable(other.artist)} are noted as sounding alike"
        for one, other in combinations(flagged, 2)
        if other.artist_id in one.lookalike_ids
    ]
    return list(dict.fromkeys(lines))  # artists who were merged since have one name


def table_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as a plain table, one column per key; nothing where there are no rows."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if not cells:
        return ""
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV under a header of `columns`, or of all keys; nothing where there are neither.

    Numbers stay numbers and None is an empty cell. Text is escaped as on a terminal, with an apostrophe in front where
    a spreadsheet would run it; lists and records are JSON. The exact text of a cell is in the JSON formats.
    """
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)
    return file.getvalue()


def scan_row(scan: Scan | Unusable) -> dict[str, Any]:
    """A scan with the `SCAN_COLUMNS` of CSV: its best artist and that one's first stretch beside what was decided."""
    row = scan.as_dict()
    best: dict[str, Any] = next(iter(row.get("matches", ())), {})
    return {**next(iter(best.get("evidence", ())), {}), **best, **row}


def _csv_cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = printable(value) if isinstance(value, str) else json.dumps(value)
    return _FORMULA.sub(r"\1'", text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return printable(str(value))
