"""What other false-flag budgets would decide about the scans on record: counts, and whose flag comes or goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from registry import runs
from registry.calibration import Calibration, Threshold
from registry.kept_scans import latest_scans, tracks_of_others
from registry.records import Decision, KeptScan
from registry.redecide import Redecision, left_out
from registry.rights import count_matched
from registry.store import Store
from registry.tail import REFUSED_BEYOND, share_above


@dataclass(frozen=True)
class Change:
    """A track whose flag a budget would let come, or go.

    Attributes
    ----------
    artist, llr
        Of the artist that it is flagged for, or was; None where that one is not matched any more.
    threshold : float
        Of this track, with the budget; it is longer or was matched with more artists than others, perhaps.
    threshold_before : float
        The one that it was decided with.
    """

    flag: Literal["comes", "goes"]
    path: str
    artist: str | None
    llr: float | None
    threshold: float
    threshold_before: float
    content_id: str
    scan_id: int
    run_id: int | None


@dataclass(frozen=True)
class Preview:
    """What one budget would decide.

    Attributes
    ----------
    threshold, threshold_source
        Of a track of one section, over the artists who are matched now.
    n_artists : int
        Those.
    n_scans, n_flagged : int
        Scans that were looked at, and how many of them the budget flags.
    n_come, n_go : int
        Flags that come, and that go, against what was decided.
    fpir : float
        Share of tracks without an enrolled voice that get a flag at the threshold, as the calibration estimates it;
        below the budget by the margin that thresholds are given.
    fnir : dict of str to float
        Share of tracks with an enrolled voice that stay below it, by how they were heard, as far as was measured.
    decades_beyond : float
        How far the threshold lies beyond what the calibration's strangers can show, in powers of ten.
    is_extrapolated, is_refused : bool
        Whether that is so far that it is said, and that it takes --accept-extrapolation.
    changes : tuple of Change
    """

    budget: float
    threshold: float
    threshold_source: str
    n_artists: int
    n_scans: int
    n_flagged: int
    n_come: int
    n_go: int
    fpir: float
    fnir: dict[str, float]
    decades_beyond: float
    is_extrapolated: bool
    is_refused: bool
    changes: tuple[Change, ...]

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return asdict(self)


def preview_budgets(
    store: Store,
    calibration: Calibration,
    budgets: Sequence[float],
    notify: Callable[[str], None],
    *,
    since: str = "",
    run_id: int | None = None,
) -> list[Preview]:
    """What budgets would decide about the newest scan of each track that was made with a calibration.

    Parameters
    ----------
    calibration : Calibration
        The one in force.
    notify : callable
        Takes a line for stderr (tracks that do not count, an artist left out).
    since, run_id
        Only tracks examined since then (time as it is stored), and only those of one run.

    Raises
    ------
    RegistryError
        There is no such run.
    """
    redecisions = [Redecision(calibration, budget, accept_extrapolation=True) for budget in budgets]
    with store.reading():
        if run_id is not None:
            runs.get_run(store, run_id)
        over = left_out(store, notify, run_id=run_id)
        for line in _not_counted(store, calibration, since, run_id):
            notify(line)
        n_artists, n_scans = count_matched(store), 0
        n_flagged = [0] * len(budgets)
        changes: list[list[Change]] = [[] for _ in budgets]
        for scan in latest_scans(store, calibration.calibration_id, since=since, run_id=run_id, without=over):
            n_scans += 1
            for i, redecision in enumerate(redecisions):
                decision = redecision.decide(scan)
                n_flagged[i] += decision.verdict == "flagged"
                if (decision.verdict == "flagged") != (scan.verdict == "flagged"):
                    changes[i].append(_change(store, scan, decision))
    return [
        _preview(calibration, budget, redecision.threshold(n_artists), n_artists, n_scans, n, changed)
        for budget, redecision, n, changed in zip(budgets, redecisions, n_flagged, changes, strict=True)
    ]


def _preview(
    calibration: Calibration,
    budget: float,
    threshold: Threshold,
    n_artists: int,
    n_scans: int,
    n_flagged: int,
    changes: Sequence[Change],
) -> Preview:
    n_come = sum(change.flag == "comes" for change in changes)
    return Preview(
        budget=budget,
        threshold=threshold.llr,
        threshold_source=threshold.source,
        n_artists=n_artists,
        n_scans=n_scans,
        n_flagged=n_flagged,
        n_come=n_come,
        n_go=len(changes) - n_come,
        fpir=round(share_above(calibration.tail, threshold.llr, max(1, n_artists)), 6),
        fnir={how: round(share, 4) for how, share in calibration.missed(threshold.llr).items()},
        decades_beyond=threshold.decades_beyond,
        is_extrapolated=threshold.is_extrapolated,
        is_refused=threshold.decades_beyond > REFUSED_BEYOND,
        changes=tuple(changes),
    )


def _change(store: Store, scan: KeptScan, decision: Decision) -> Change:
    comes = decision.verdict == "flagged"
    flagged = [match for match in scan.matches if (match.rank in decision.flagged if comes else match.flagged)]
    return Change(
        flag="comes" if comes else "goes",
        path=scan.path,
        artist=store.name_of(flagged[0].artist_id) if flagged else None,
        llr=flagged[0].llr if flagged else None,
        threshold=decision.threshold,
        threshold_before=scan.threshold,
        content_id=scan.content_id,
        scan_id=scan.scan_id,
        run_id=scan.run_id,
    )


def _not_counted(store: Store, calibration: Calibration, since: str, run_id: int | None) -> Iterator[str]:
    others = tracks_of_others(store, calibration.calibration_id, since=since, run_id=run_id)
    for calibration_id, n in others.items():
        how = "before there were calibrations" if calibration_id is None else f"with calibration {calibration_id[:12]}"
        yield (
            f"not counted: {n} tracks, examined {how} only, and not with the one in force "
            f"({calibration.calibration_id[:12]})"
        )
