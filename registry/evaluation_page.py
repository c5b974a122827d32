"""An evaluation as one HTML page that loads nothing: tables, and plots as inline SVG.

The only importer of matplotlib, which is an extra. Names and paths are strangers' text: escaped, under a
Content-Security-Policy that allows no script and no other file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from registry import evaluation_report
from registry.errors import RegistryError
from registry.evaluate import Evaluation, Targets
from registry.evaluation_report import point_rows, share_text, stands_on, summary_lines, target_rows
from registry.records import Unusable
from registry.report import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

#: Of Okabe and Ito's palette, which people who see few colours can tell apart; the dashes too.
_LINES = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", ":"))
_DET_RATES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 68rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { text-align: left; padding: 0.25rem 0.8rem; border-bottom: 1px solid #ccc; vertical-align: top;
  min-width: 3.5rem; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figure svg { width: 100%; max-width: 34rem; height: auto; }
figcaption, .note { color: #444; font-size: 0.9rem; }
"""


def check_drawing() -> None:
    """Raise `RegistryError` where there is no matplotlib, before any slow work."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise RegistryError(
            f"the page needs matplotlib, an extra of Likeness ({error}); pip install 'likeness[report]'"
        ) from error


def evaluation_page(
    evaluation: Evaluation, unusable: Sequence[Unusable], *, made_at: str, version: str, title: str = "Evaluation"
) -> str:
    """The page, as text.

    Parameters
    ----------
    unusable : sequence of Unusable
        Recordings that could not be used.
    made_at, version : str
        When, in UTC, and by which release of Likeness.

    Raises
    ------
    RegistryError
        matplotlib is not installed.
    """
    check_drawing()
    body = [
        f"<h1>{_text(title)}</h1>",
        _paragraph(f"Likeness {version}, {made_at}. Figures have 95 % intervals over persons in brackets.", "note"),
        *(_paragraph(line) for line in summary_lines(evaluation)),
    ]
    drawn = [targets for targets in evaluation.targets if targets.figures]
    if evaluation.targets:
        body += [
            "<h2>How well voices are told apart</h2>",
            _table(*target_rows(evaluation.targets)),
            *(
                _paragraph(f"No figures of {each.kind}: {each.too_few}.", "note")
                for each in evaluation.targets
                if each.too_few
            ),
            _paragraph(
                "Targets are recordings tried with their own person, and clones tried with the person they imitate; "
                "nontargets are genuine recordings tried with everybody else. EER and minDCF (0.01): lower is better. "
                "Cllr: what the likelihood ratios cost whoever decides with them, in bits; 1 is what saying nothing "
                "costs. Cllr_min: what is left of it after the best calibration.",
                "note",
            ),
        ]
    if drawn:
        body += ['<div class="plots">', *_target_plots(drawn), "</div>"]
    if evaluation.budgets:
        body += [
            "<h2>At the thresholds of false-flag budgets</h2>",
            _table(*point_rows(evaluation.budgets)),
            _paragraph(stands_on(evaluation.budgets) + ". " + _BUDGETS, "note"),
        ]
    if evaluation.sizes:
        body += [
            "<h2>With more and more artists</h2>",
            '<div class="plots">',
            _growth_plot(evaluation),
            "</div>",
            _table(*point_rows(evaluation.sizes)),
            _paragraph(
                "FPIR is the mean over random galleries of that many persons; beyond the persons there are, it cannot "
                f"be counted, and FNIR follows from the threshold. {evaluation_report.BEYOND}",
                "note",
            ),
        ]
    if evaluation.persons:
        body += [
            "<h2>Persons</h2>",
            _paragraph(f"With a budget of {share_text(evaluation.budgets[0].budget)}.", "note"),
        ]
        body.append(_table(*_person_rows(evaluation)))
    if evaluation.false_flags:
        flags = [
            {"llr": f"{flag.llr:+.2f}", "person": flag.person, "flagged as": flag.flagged_as, "recording": flag.path}
            for flag in evaluation.false_flags
        ]
        body += [
            "<h2>Flagged for somebody else</h2>",
            _paragraph("Listen first: is the recording whose it is said to be?", "note"),
            _table(flags, ["llr", "person", "flagged as", "recording"]),
        ]
    if unusable:
        rows = [{"recording": each.path, "reason": each.reason} for each in unusable]
        body += [f"<h2>Not used: {len(rows)} recordings</h2>", _table(rows, ["recording", "reason"])]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


_BUDGETS = (
    "FPIR: share of recordings that are flagged for anybody whose voice they do not carry; it should be near the "
    "budget. FNIR: share of recordings, or clones, that are not flagged for their person."
)


def _person_rows(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[str]]:
    rows = [
        {
            "person": row.person,
            "enrolled": row.n_enrolled,
            "missed": f"{row.n_missed} of {row.n_tested}",
            "clones missed": f"{row.n_clones_missed} of {row.n_clones}" if row.n_clones else "",
            "flagged for others": row.n_flagged or "",
            "for whom": ", ".join(row.flagged_as),
        }
        for row in evaluation.persons
    ]
    return rows, ["person", "enrolled", "missed", "clones missed", "flagged for others", "for whom"]


# --- HTML -------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return escape(printable(str(value)))


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{_text(text)}</p>' if kind else f"<p>{_text(text)}</p>"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(row[c])}</td>" for c in columns) + "</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


# --- plots ------------------------------------------------------------------------------------------------------------


def _target_plots(drawn: Sequence[Targets]) -> list[str]:
    return [
        _plot("DET", "Misses against false accepts, all thresholds", lambda axes: _draw_det(axes, drawn)),
        _plot(
            "Tippett",
            "Share of recordings at or above each likelihood ratio: with their own person and with others",
            lambda axes: _draw_tippett(axes, drawn),
        ),
        _plot(
            "Reliability",
            "Likelihood ratios as stated against those observed, in bins; on the line they mean what they say. Small "
            "dots: fewer than 10 of either class",
            lambda axes: _draw_reliability(axes, drawn),
        ),
    ]


def _growth_plot(evaluation: Evaluation) -> str:
    return _plot("FNIR against the number of artists", "Intervals over persons", lambda a: _draw_growth(a, evaluation))


def _plot(title: str, caption: str, draw: Callable[[Axes], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        # The same figure gives the same bytes; text stays text, in whatever font the reader has.
        **{"svg.hashsalt": title, "svg.fonttype": "none", "text.usetex": False, "font.family": "sans-serif"},
        **{"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True},
        **{"grid.color": "#dddddd", "axes.axisbelow": True},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    # Inside HTML the prologue is no XML, and the names of the namespaces are known.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    return f"<figure>\n{svg}<figcaption>{_text(title)}. {_text(caption)}.</figcaption>\n</figure>"


def _draw_det(axes: Axes, drawn: Sequence[Targets]) -> None:
    normal = NormalDist()
    for targets, (colour, dashes) in zip(drawn, _LINES, strict=False):
        if targets.det is not None:
            axes.plot(targets.det.probit_fa, targets.det.probit_miss, dashes, color=colour, label=targets.kind)
    ticks = [normal.inv_cdf(rate) for rate in _DET_RATES]
    labels = [f"{100 * rate:g}" for rate in _DET_RATES]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    ends = normal.inv_cdf(0.0005), normal.inv_cdf(0.9)
    axes.set(xlim=ends, ylim=ends, xlabel="false accepts, %", ylabel="misses, %")
    axes.legend(loc="upper right")


def _draw_tippett(axes: Axes, drawn: Sequence[Targets]) -> None:
    for targets, (colour, dashes) in zip(drawn, _LINES, strict=False):
        if targets.tippett is not None:
            axes.plot(targets.tippett.llr, 100 * targets.tippett.targets, dashes, color=colour, label=targets.kind)
    if drawn[0].tippett is not None:  # the nontargets are the same for all
        axes.plot(drawn[0].tippett.llr, 100 * drawn[0].tippett.nontargets, "-.", color="#555555", label="others")
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set(xlabel="log10 likelihood ratio", ylabel="recordings at or above it, %", ylim=(0, 101))
    axes.legend()


def _draw_reliability(axes: Axes, drawn: Sequence[Targets]) -> None:
    ends = (-4.0, 4.0)
    axes.plot(ends, ends, color="#999999", linewidth=0.8)
    for targets, (colour, dashes) in zip(drawn, _LINES, strict=False):
        bins = targets.reliability
        if bins is None:
            continue
        shown = np.isfinite(bins.observed)
        few = np.minimum(bins.n_targets, bins.n_nontargets)[shown] < 10
        axes.plot(bins.stated[shown], bins.observed[shown], dashes, color=colour, label=targets.kind)
        axes.scatter(bins.stated[shown], bins.observed[shown], np.where(few, 8, 36), color=colour)
    axes.set(xlabel="log10 likelihood ratio, stated", ylabel="observed")
    axes.legend(loc="upper left")


def _draw_growth(axes: Axes, evaluation: Evaluation) -> None:
    for kind, (colour, dashes) in zip(evaluation.sizes[0].fnir, _LINES, strict=False):
        figures = [point.fnir[kind] for point in evaluation.sizes]
        sizes = [point.n_artists for point in evaluation.sizes]
        axes.plot(sizes, [100 * figure.value for figure in figures], dashes, color=colour, label=kind)
        low, high = ([100 * getattr(figure, end) for figure in figures] for end in ("low", "high"))
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(evaluation.n_models, color="#999999", linewidth=0.8)
    axes.set(xscale="log", xlabel="artists enrolled (line: here)", ylabel="FNIR, %", ylim=(0, 101))
    axes.legend()
