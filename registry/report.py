"""Results for people: a scan with its evidence, and tables. Strangers' text is escaped before a terminal sees it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from registry.records import Match, Scan, Unusable


def printable(text: str) -> str:
    """`text` with control, bidi and other invisible characters as escapes: a title must not steer a terminal."""
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else c.encode("unicode_escape").decode()
        for c in text
    )


def clock(seconds: float) -> str:
    """Seconds as a person finds them in a player: ``1:02:03.5`` or ``2:03.5``."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def scan_text(scan: Scan | Unusable) -> str:
    """A scan with its evidence, as text for a person who will listen."""
    if isinstance(scan, Unusable):
        return f"FAILED  {printable(scan.path)}\n  {printable(scan.reason)}"
    lines = [
        f"{scan.verdict.upper()}  {printable(scan.path)}",
        f"  {printable(scan.reason)}",
        f"  {scan.voiced_s:.1f} s of voice in {scan.duration_s:.1f} s; {scan.n_artists} artists matched",
    ]
    for match in scan.matches:
        lines += _match_lines(match, above=match.norm_score >= scan.threshold)
    lines.append(
        f"  encoder {scan.encoder_id[:12]}, cohort {(scan.cohort_id or 'none')[:12]}, threshold {scan.threshold:.2f}: "
        f"{printable(scan.threshold_source)}"
    )
    if scan.verdict == "flagged" and any(match.norm_score >= scan.threshold for match in scan.matches):
        lines.append("  A flag is a lead: listen to the stretches above before anything is done about this track.")
    elif scan.verdict == "flagged":
        lines.append("  The artist it was flagged for has been removed from the registry since.")
    return "\n".join(lines)


def _match_lines(match: Match, *, above: bool) -> list[str]:
    """One artist of a scan: whole for the best and for those above the threshold, one line for the others."""
    mark = "*" if above else " "
    llr = "" if match.llr is None else f", log10 likelihood ratio {match.llr:+.2f}"
    scores = f"norm score {match.norm_score:.2f}, cosine {match.score:.3f}{llr}"
    head = f" {mark}{match.rank}. {printable(match.artist)}: {scores}"
    if not above and match.rank > 1:
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


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return printable(str(value))
