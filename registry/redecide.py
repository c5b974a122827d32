"""What another false-flag budget decides about scans on record: their llrs stay, only the threshold is another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

from registry import runs
from registry.calibration import Calibration, Rule, Threshold
from registry.errors import UndecidableRun
from registry.kept_scans import matched_artists, run_scans
from registry.records import Decision, KeptScan, Run
from registry.scoring import n_sections
from registry.store import Store
from registry.verdict import decide


class Redecision:
    """One budget, for scans that were made with one calibration; each is decided over as many artists as it was then.

    Parameters
    ----------
    calibration : Calibration
        The one that the scans were made with.
    budget : float
        False-flag budget, in (0, 1).
    accept_extrapolation : bool
        As `registry.calibration.Rule` takes it, which raises `NoThreshold` once a threshold is asked for.
    """

    def __init__(self, calibration: Calibration, budget: float, *, accept_extrapolation: bool = False) -> None:
        def find(n_artists: int, sections: int) -> Threshold:
            rule = Rule(calibration, budget, n_artists, accept_extrapolation=accept_extrapolation)
            return rule.threshold(sections)

        self._find = cache(find)  # many scans have few thresholds among them

    def threshold(self, n_artists: int, duration_s: float = 0.0) -> Threshold:
        """That of a track of some length, over some artists."""
        return self._find(n_artists, n_sections(duration_s))

    def decide(self, scan: KeptScan) -> Decision:
        """Decide about a scan; one that abstained stays so."""
        threshold = self.threshold(scan.n_artists, scan.duration_s)
        flagged = frozenset(
            match.rank for match in scan.matches if match.llr is not None and threshold.is_reached(match.llr)
        )
        best = [replace(match, flagged=match.rank in flagged) for match in scan.matches[:1]]
        verdict, reason = decide(best, threshold=threshold, voiced_s=scan.voiced_s, n_artists=scan.n_artists)
        if scan.verdict == "abstained":  # by the seconds of voice as they were, before these were rounded
            verdict, reason = scan.verdict, scan.reason
        return Decision(
            scan_id=scan.scan_id,
            flagged=flagged,
            verdict=verdict,
            reason=reason,
            threshold=threshold.llr,
            threshold_source=threshold.source,
            budget=threshold.budget,
        )


@dataclass(frozen=True)
class DecidedRun:
    """A run that was decided again.

    Attributes
    ----------
    threshold, threshold_source
        Of a track of one section.
    outcomes, outcomes_before : dict
        How many tracks ended how, now and in the run `decided_from`.
    came, went : int
        Tracks that are flagged now and were not, and the reverse.
    """

    run_id: int
    decided_from: int
    budget: float
    threshold: float
    threshold_source: str
    n_tracks: int
    outcomes: dict[str, int]
    outcomes_before: dict[str, int]
    came: int
    went: int

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON types."""
        return asdict(self)


def decide_run(
    store: Store,
    run_id: int,
    calibration: Calibration,
    budget: float,
    notify: Callable[[str], None],
    *,
    accept_extrapolation: bool = False,
) -> DecidedRun:
    """Decide a finished run again, as a new run; no audio is read, and the old run stays as it was.

    The scans of the new run are of the same moment and state of the registry as those they are copies of, so that what
    is kept of a track is not kept for longer. Artists whose consents are over meanwhile are left out.

    Parameters
    ----------
    calibration : Calibration
        The one in force.
    notify : callable
        Takes a line for stderr (an artist left out).

    Raises
    ------
    UndecidableRun
        It is unfinished, or its scores are of another calibration.
    NoThreshold
        The budget asks for more than the calibration can show.
    RegistryError
        There is no such run.
    """
    redecision = Redecision(calibration, budget, accept_extrapolation=accept_extrapolation)
    with store.writing():
        run = runs.get_run(store, run_id)
        if run.finished_at is None:
            n_left = runs.run_outcomes(store, run_id).get("open", 0)
            raise UndecidableRun(
                f"run {run_id}: is not finished, {n_left} tracks are left; start the same `likeness batch` again, and "
                "decide then"
            )
        over = left_out(store, notify, run_id=run_id)
        scans = list(run_scans(store, run_id, without=over))
        _check_calibration(run, scans, calibration)
        threshold = redecision.threshold(max((scan.n_artists for scan in scans), default=0))
        decisions = [redecision.decide(scan) for scan in scans]
        came, went = flags_changed(scans, decisions)
        told: dict[str, Any] = {"decided_from": run_id, "budget": budget, "threshold": threshold.llr}
        told |= {"came": came, "went": went}
        new_id = runs.add_decided_run(store, _columns(run, threshold), decisions, without=over)
        runs.finish_decided_run(store, new_id, told)
        outcomes = runs.run_outcomes(store, new_id)
        before = runs.run_outcomes(store, run_id)
    return DecidedRun(
        run_id=new_id,
        **told,
        threshold_source=threshold.source,
        n_tracks=sum(outcomes.values()),
        outcomes=outcomes,
        outcomes_before=before,
    )


def flags_changed(scans: Iterable[KeptScan], decisions: Iterable[Decision]) -> tuple[int, int]:
    """How many scans are flagged that were not, and how many are not that were."""
    pairs = [
        (scan.verdict == "flagged", decision.verdict == "flagged")
        for scan, decision in zip(scans, decisions, strict=True)
    ]
    return pairs.count((False, True)), pairs.count((True, False))


def left_out(store: Store, notify: Callable[[str], None], *, run_id: int | None = None) -> dict[int, str]:
    """Why by artist_id of those who are not matched any more; it is said of those whom scans on record name."""
    over = store.without_consent()
    names = {store.name_of(artist_id): over[artist_id] for artist_id in matched_artists(store, run_id) & over.keys()}
    for name, why in sorted(names.items()):
        notify(f"{name}: left out, {why}; `likeness consents add` records another")
    if names:
        notify(
            "what crowding took off the scores of others is kept as it was with those who are left out now; `likeness "
            "batch` examines the tracks without them"
        )
    return over


def _check_calibration(run: Run, scans: Iterable[KeptScan], calibration: Calibration) -> None:
    for found in (run.calibration_id, *(scan.calibration_id for scan in scans)):
        if found is None:
            raise UndecidableRun(
                f"run {run.run_id}: its scores are from before there were calibrations, and no likelihood ratios that "
                "a budget could be kept with; examine its tracks again with `likeness batch`"
            )
        if found != calibration.calibration_id:
            raise UndecidableRun(
                f"run {run.run_id}: its likelihood ratios are of calibration {found[:12]}, in force is "
                f"{calibration.calibration_id[:12]}; examine its tracks again with `likeness batch`"
            )


def _columns(run: Run, threshold: Threshold) -> dict[str, Any]:
    """A run decided from another, but for its times and id: pinned to what that was pinned to."""
    # Named after what was asked for, so that no batch over the same inputs takes it for its own.
    asked = json.dumps(["decide", run.run_id, threshold.budget])
    return {
        "inputs_key": hashlib.sha256(asked.encode()).hexdigest(),
        **{name: getattr(run, name) for name in ("store_revision", "encoder_id", "cohort_id", "calibration_id")},
        "threshold": threshold.llr,
        "threshold_source": threshold.source,
        "budget": threshold.budget,
        "decided_from": run.run_id,
        "version": version("likeness"),
    }
