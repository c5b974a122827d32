"""An evaluation, and what a calibration changes, as text for people and as rows; `evaluation_page` has the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from registry.calibrate import Effect
from registry.evaluate import P_TARGET, Evaluation, Figure, Point, Targets
from registry.records import Unusable
from registry.report import printable, table_text

#: Columns of the rows of figures.
FIGURE_COLUMNS = ("figure", "of", "at", "value", "low", "high", "n_persons", "n_tracks")

#: What the figures of targets are called, and how many of their units are 1.
NAMES = {
    "eer": ("EER %", 100.0),
    "auc": ("AUC %", 100.0),
    "min_dcf": (f"minDCF ({P_TARGET:g})", 1.0),
    "cllr": ("Cllr, bits", 1.0),
    "cllr_min": ("Cllr_min, bits", 1.0),
}


def figure_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every figure as a row of `FIGURE_COLUMNS`, in the units in which people read them."""
    rows = [
        _row(NAMES[name][0], targets.kind, "", figure, NAMES[name][1])
        for targets in evaluation.targets
        for name, figure in targets.figures.items()
    ]
    for point in (*evaluation.budgets, *evaluation.sizes):
        at = f"budget {share_text(point.budget)}, {artists_text(point.n_artists)}, llr {point.threshold:.2f}"
        if point.fpir is not None:
            rows.append(_row("FPIR %", "strangers", at, point.fpir, 100.0))
        rows += [_row("FNIR %", kind, at, figure, 100.0) for kind, figure in point.fnir.items()]
    return rows


def _row(figure: str, of: str, at: str, value: Figure, scale: float) -> dict[str, Any]:
    numbers = {name: scale * getattr(value, name) for name in ("value", "low", "high")}
    finite = {name: round(number, 4) if math.isfinite(number) else None for name, number in numbers.items()}
    return {"figure": figure, "of": of, "at": at, **finite, "n_persons": value.n_persons, "n_tracks": value.n_tracks}


# --- tables -----------------------------------------------------------------------------------------------------------


def summary_lines(evaluation: Evaluation) -> list[str]:
    """What was heard and by what it was judged, as sentences."""
    lines = [
        f"{evaluation.n_persons} persons, {evaluation.n_tracks} recordings: {evaluation.n_models} persons enrolled "
        f"from {evaluation.n_enrolled_tracks} recordings, {evaluation.n_tested} other recordings of theirs tested, "
        f"{evaluation.n_clones} clones; {evaluation.n_stranger_tracks} recordings of {evaluation.n_stranger_persons} "
        "persons tried with everybody else",
        f"{evaluation.n_abstained} recordings have too little voice: never flagged, and left out of Cllr",
        f"encoder {evaluation.encoder_id[:12]}, cohort {evaluation.cohort_id[:12]}, calibration "
        f"{evaluation.calibration_id[:12]} ({printable(evaluation.calibration_source)})",
    ]
    if evaluation.too_few is not None:
        lines.append(f"no rates are given: {evaluation.too_few}")
    return lines


def target_rows(targets: Sequence[Targets]) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures whatever the threshold: a row each, a column for each kind of target; and the columns."""
    counts = {"persons": "n_persons", "tracks": "n_tracks", "abstained": "n_abstained"}
    rows = [{"": name, **{each.kind: str(getattr(each, key)) for each in targets}} for name, key in counts.items()]
    for name, (title, scale) in NAMES.items():
        decimals = 1 if scale > 1 else 3
        cells = {each.kind: figure_text(each.figures.get(name), scale, decimals) for each in targets}
        if any(cells.values()):
            rows.append({"": title, **cells})
    return rows, ["", *(each.kind for each in targets)]


def point_rows(points: Sequence[Point]) -> tuple[list[dict[str, Any]], list[str]]:
    """What thresholds do, a row each; and the columns."""
    kinds = list(dict.fromkeys(kind for point in points for kind in point.fnir))
    rows = [
        {
            "budget": share_text(point.budget),
            "artists": f"{point.n_artists:,}",
            "llr": f"{point.threshold:.2f}",
            "beyond": f"{point.decades_beyond:.1f}" if _is_beyond(point) else "",
            "FPIR %": figure_text(point.fpir, 100.0, 1),
            **{f"FNIR % {kind}": figure_text(point.fnir.get(kind), 100.0, 1) for kind in kinds},
        }
        for point in points
    ]
    beyond = ["beyond"] if any(map(_is_beyond, points)) else []
    columns = ["budget", "artists", "llr", *beyond, "FPIR %"]
    return rows, [*columns, *(f"FNIR % {kind}" for kind in kinds)]


def stands_on(points: Sequence[Point]) -> str:
    """Of how many persons and tracks the figures of thresholds are."""
    parts = [f"FPIR of {_counts(point.fpir)}" for point in points if point.fpir is not None][:1]
    fnir: Mapping[str, Figure] = points[0].fnir if points else {}
    parts += [f"FNIR {kind} of {_counts(figure)}" for kind, figure in fnir.items()]
    return "; ".join(parts)


def evaluation_text(evaluation: Evaluation, unusable: Sequence[Unusable] = ()) -> str:
    """An evaluation as tables for a terminal, and the recordings that could not be used."""
    blocks = ["\n".join(summary_lines(evaluation))]
    if evaluation.targets:
        lines = [f"no figures of {each.kind}: {each.too_few}" for each in evaluation.targets if each.too_few]
        blocks.append("\n".join([table_text(*target_rows(evaluation.targets)), *lines]))
    for title, points in (
        ("At the thresholds of budgets, for all persons enrolled", evaluation.budgets),
        ("With more and more artists", evaluation.sizes),
    ):
        if points:
            blocks.append(f"{title} ({stands_on(points)})\n" + table_text(*point_rows(points)))
    if evaluation.false_flags:
        lines = [
            f"  {printable(flag.person)} as {printable(flag.flagged_as)}, llr {flag.llr:+.2f}: {printable(flag.path)}"
            for flag in evaluation.false_flags[:10]
        ]
        more = f" (the first 10 of {len(evaluation.false_flags)})" if len(evaluation.false_flags) > 10 else ""
        blocks.append("\n".join([f"Flagged for somebody else{more}; are they who they are said to be?", *lines]))
    if evaluation.targets:
        points = [*evaluation.budgets, *evaluation.sizes]
        beyond = f" {BEYOND[0].upper()}{BEYOND[1:]}" if any(map(_is_beyond, points)) else ""
        blocks.append(f"In brackets 95 % intervals over persons.{beyond}")
    if unusable:
        blocks.append("\n".join(["Not used:", *(f"  {printable(u.path)}: {printable(u.reason)}" for u in unusable)]))
    return "\n\n".join(blocks)


#: What the column `beyond` is.
BEYOND = (
    "beyond: powers of ten that a threshold lies beyond what the strangers of the calibration can show; above 1 it is "
    "little more than a guess."
)


# --- what a calibration changes ---------------------------------------------------------------------------------------

CHANGE_COLUMNS = ("figure", "of", "before", "after", "persons", "tracks")


def change_rows(was: Effect | None, becomes: Effect) -> list[dict[str, Any]]:
    """Figures before and after a calibration, as rows of `CHANGE_COLUMNS`."""
    old = was or Effect({}, [], [])

    def row(name: str, of: str, before: Figure | None, after: Figure, scale: float, decimals: int) -> dict[str, Any]:
        texts = (figure_text(figure, scale, decimals) for figure in (before, after))
        counts = {"persons": str(after.n_persons), "tracks": str(after.n_tracks)}
        return {"figure": name, "of": of, **dict(zip(("before", "after"), texts, strict=True)), **counts}

    rows = [row("Cllr, bits", kind, old.cllr.get(kind), figure, 1.0, 3) for kind, figure in becomes.cllr.items()]
    for i, point in enumerate(becomes.present):
        before = old.present[i] if old.present else None
        budget = f"budget {share_text(point.budget)}, {artists_text(point.n_artists)}"
        rows.append(
            {"figure": "threshold, llr", "of": budget, "before": _threshold(before), "after": _threshold(point)}
        )
        for kind, figure in point.fnir.items():
            rows.append(row("FNIR %", kind, before.fnir.get(kind) if before else None, figure, 100.0, 1))
    for i, point in enumerate(becomes.here):
        if point.fpir is not None:
            before = old.here[i] if old.here else None
            budget = f"budget {share_text(point.budget)}, {point.n_artists} persons here"
            rows.append(row("FPIR %", budget, before.fpir if before else None, point.fpir, 100.0, 1))
    return rows


def _threshold(point: Point | None) -> str:
    if point is None:
        return ""
    beyond = f" (extrapolated by {point.decades_beyond:.1f} powers of ten)" if _is_beyond(point) else ""
    return f"{point.threshold:.2f}{beyond}"


# --- cells ------------------------------------------------------------------------------------------------------------


def figure_text(figure: Figure | None, scale: float, decimals: int) -> str:
    """A figure with its interval, as ``3.1 (1.2 to 5.0)``."""
    if figure is None:
        return ""
    value, low, high = (f"{scale * number:.{decimals}f}" for number in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})" if math.isfinite(figure.low) else value


def artists_text(n: int) -> str:
    """A number of artists, with its noun."""
    return "1 artist" if n == 1 else f"{n:,} artists"


def _is_beyond(point: Point) -> bool:
    return point.decades_beyond >= 0.05  # less is shown as 0.0


def share_text(share: float) -> str:
    """A share as percent."""
    return f"{100 * share:g} %"


def _counts(figure: Figure) -> str:
    return f"{figure.n_persons} persons, {figure.n_tracks} tracks"
