"""What makes scores evidence and decisions: the llr model and the tail that were fitted together, and their threshold.

A calibration belongs to one encoder, one cohort and one way of scoring. The encoder's own comes with it
(calibration.json beside the model); the owner of a registry may fit another (`registry.calibrate`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from registry import crowding, scoring
from registry.crowding import Between, NearLevels
from registry.errors import NoThreshold
from registry.llr import MEASURES, LlrModel
from registry.tail import REFUSED_BEYOND, SAID_BEYOND, Tail, Together, decades_beyond, threshold_for

#: What a calibration is of, beside encoder and cohort: with other constants scores mean something else.
CONSTANTS = {**scoring.CONSTANTS, **crowding.CONSTANTS}

#: Nothing is flagged below this log10 likelihood ratio, however few artists there are and however large the budget:
#: a flag must be at least slightly more probable with the artist's voice than without.
LEAST_LLR = math.log10(2)

#: False-flag budget while the owner has set none: the share of strangers' tracks that may be flagged.
DEFAULT_BUDGET = 0.03


@dataclass(frozen=True)
class Calibration:
    """A calibration, read and checked.

    Attributes
    ----------
    calibration_id : str
        sha256 of its content.
    encoder_id, cohort_id : str
        What it belongs to.
    constants : dict
        `CONSTANTS` when it was fitted.
    llr : LlrModel
    near : NearLevels
        From where on other voices crowd an artist or a track; none do where the content does not say.
    tail : Tail
    source : str
        What it was fitted on, for people.
    found : dict of str to tuple of float
        For each way in which enrolled voices were heard (``clean``, ``clones``, ...): the llr of such tracks at evenly
        spread ranks, rising; -inf (in JSON null) for those that abstained.
    content : dict
        All of it, as plain JSON types.
    """

    calibration_id: str
    encoder_id: str
    cohort_id: str
    constants: dict[str, Any]
    llr: LlrModel
    near: NearLevels
    tail: Tail
    source: str
    found: dict[str, tuple[float, ...]]
    content: dict[str, Any]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Read a calibration from plain JSON types; `ValueError` says what is wrong with it."""
        missing = sorted({"encoder_id", "cohort_id", "scoring", "llr", "tail", "source"} - set(content))
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        if not all(isinstance(content.get(name, {}), Mapping) for name in ("scoring", "llr", "near", "found")):
            raise ValueError("scoring, llr, near and found are not objects")
        try:
            tail = Tail.from_dict(content["tail"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"its tail is not one: {error}") from error
        try:
            found = {
                str(how): tuple(-math.inf if llr is None else float(llr) for llr in llrs)
                for how, llrs in content.get("found", {}).items()
            }
        except TypeError as error:
            raise ValueError(f"what it found is not lists of numbers: {error}") from error
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return cls(
            calibration_id=hashlib.sha256(text.encode()).hexdigest(),
            encoder_id=str(content["encoder_id"]),
            cohort_id=str(content["cohort_id"]),
            constants=dict(content["scoring"]),
            llr=LlrModel.from_dict(content["llr"]),
            near=NearLevels.from_dict(content["near"]) if "near" in content else NearLevels(),
            tail=tail,
            source=str(content["source"]),
            found=found,
            content=dict(content),
        )

    def missed(self, threshold: float) -> dict[str, float]:
        """Share of the tracks of each of `found` that stay below a threshold on llr: FNIR, as far as was measured."""
        return {how: sum(llr < threshold for llr in llrs) / len(llrs) for how, llrs in self.found.items() if llrs}

    def misfit(self, encoder_id: str, cohort_id: str) -> str | None:
        """What it was fitted for instead of these and of the present way of scoring; None where it fits."""
        for name, own, present in (
            ("encoder", self.encoder_id, encoder_id),
            ("cohort", self.cohort_id, cohort_id),
        ):
            if own != present:
                return f"{name} ({own[:12]}, this is {present[:12]})"
        if self.constants != CONSTANTS:
            return f"way of scoring ({self.constants}, this is {CONSTANTS})"
        return None


def together(between: Between, model: LlrModel, near: NearLevels) -> Together:
    """What crowding makes of llrs with voices that are enrolled together, as `registry.tail` asks for it.

    Parameters
    ----------
    between : Between
        All voices with one another, -inf with oneself.
    model, near
        Of a calibration.
    """
    of_artist, of_track = _crowding_weights(model)

    def find(llrs: np.ndarray, voices: np.ndarray, own: np.ndarray) -> np.ndarray:
        heard, of = np.unique(own, return_inverse=True)
        artists = crowding.artist_crowding(between.select(voices, voices), near, heard)[of]
        tracks = crowding.track_crowding(llrs, near.track, without=own)
        # In hundredths, as llrs are decided on.
        found: np.ndarray = np.round(llrs + of_artist * artists + of_track * tracks, 2)
        return found

    return find


def beside(llrs: np.ndarray, others: np.ndarray, between: Between, model: LlrModel, near: NearLevels) -> np.ndarray:
    """What crowding makes of the llrs of tracks, each with one artist of a gallery.

    An artist stands in the place of its own voice in the gallery, or of the last voice where it is not among them.

    Parameters
    ----------
    llrs : (n,) float
        Before crowding is taken off.
    others : (n, size) float
        llrs of the tracks with the voices of the gallery, before crowding is taken off; -inf with the artist's own.
    between : Between
        The voices of the gallery with the artist of each track, (size, n); -inf with the artist's own.
    model, near
        Of a calibration.
    """
    of_artist, of_track = _crowding_weights(model)
    is_beside = np.isfinite(others)
    is_beside[is_beside.all(axis=1), -1] = False
    others = np.where(is_beside, others, -np.inf)
    between = replace(between, others=np.where(is_beside.T, between.others, -np.inf))
    tracks = crowding.track_crowding(others, near.track, np.full(1, -1))[:, 0]
    found: np.ndarray = np.round(llrs + of_artist * crowding.artist_crowding(between, near) + of_track * tracks, 2)
    return found


def _crowding_weights(model: LlrModel) -> tuple[float, float]:
    """Of artists, and of tracks."""
    of_artist, of_track = (model.weights[MEASURES.index(name)] for name in ("artist_crowding", "track_crowding"))
    return of_artist, of_track


@dataclass(frozen=True)
class Threshold:
    """What an llr must reach to be flagged, and on what grounds.

    Attributes
    ----------
    llr : float
        log10 likelihood ratio.
    source : str
        One phrase for a person.
    budget : float or None
        The false-flag budget that it keeps; None where the caller set the threshold itself.
    decades_beyond : float
        How far it lies beyond what the strangers it was fitted on can show, in powers of ten.
    """

    llr: float
    source: str
    budget: float | None = None
    decades_beyond: float = 0.0

    @property
    def is_extrapolated(self) -> bool:
        """Whether a verdict must say so."""
        return self.decades_beyond > SAID_BEYOND

    def is_reached(self, llr: float) -> bool:
        """Whether an artist with this log10 likelihood ratio is flagged."""
        return llr >= self.llr


class Rule:
    """How a threshold comes about for each track: set by the caller, or from a budget over some artists.

    Parameters
    ----------
    calibration : Calibration
    budget : float
        False-flag budget, in (0, 1).
    n_artists : int
        Artists that are matched.
    llr : float, optional
        The caller's own threshold, in the place of the budget's.
    accept_extrapolation : bool
        Go on more than `REFUSED_BEYOND` powers of ten beyond what the strangers can show.

    Raises
    ------
    NoThreshold
        The threshold would be extrapolated too far.
    """

    def __init__(
        self,
        calibration: Calibration,
        budget: float,
        n_artists: int,
        *,
        llr: float | None = None,
        accept_extrapolation: bool = False,
    ) -> None:
        if llr is not None and not math.isfinite(llr):
            raise NoThreshold(f"threshold {llr}: a finite number is needed, no llr is at or above this one")
        self._calibration, self._budget, self._llr = calibration, budget, llr
        self._n_artists = max(1, n_artists)
        threshold = self.threshold(1)
        if threshold.decades_beyond > REFUSED_BEYOND and not accept_extrapolation:
            raise NoThreshold(
                f"false-flag budget {budget:g} over {n_artists} artists: the threshold would lie "
                f"{threshold.decades_beyond:.1f} powers of ten beyond what {calibration.tail.n_strangers} strangers "
                "can show; a larger budget, more strangers (`likeness calibrate`), or --accept-extrapolation"
            )

    @property
    def asked(self) -> list[Any]:
        """What was asked for: the same whoever is enrolled."""
        return ["budget", self._budget] if self._llr is None else ["llr", self._llr]

    def threshold(self, n_sections: int) -> Threshold:
        """The threshold of a track of so many sections, which share the budget."""
        if self._llr is not None:
            return Threshold(self._llr, "set by the caller")
        share, tail = self._budget / n_sections, self._calibration.tail
        llr = max(LEAST_LLR, threshold_for(tail, share, self._n_artists))
        beyond = decades_beyond(tail, share, self._n_artists)
        source = f"false-flag budget {100 * self._budget:g} % over {self._n_artists} artists"
        if n_sections > 1:
            source += f", shared by {n_sections} sections"
        if round(beyond, 2) > SAID_BEYOND:  # as `Threshold.is_extrapolated` has it
            source += f"; threshold extrapolated {beyond:.1f} powers of ten beyond {tail.n_strangers} strangers"
        # Up to the hundredth: llrs are reported and compared in hundredths, and none may look equal to it and be below.
        llr = math.ceil(100 * llr - 1e-6) / 100
        return Threshold(llr, f"{source}; {self._calibration.source}", self._budget, round(beyond, 2))
