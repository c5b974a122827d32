"""The one function that decides, and the words for how strong the evidence is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from registry.calibration import Threshold
from registry.records import KeptMatch, Match, Verdict

#: Seconds of voice that a recording must hold before anything is said of it. The shortest songs in the development
#: recordings (RAVDESS, 2.4 s) pass; `scripts/bench_real.py` reports what abstains.
MIN_VOICE_S = 1.5

#: Verbal scale of the ENFSI guideline for evaluative reporting (2015), table in annex: lower bound of the likelihood
#: ratio, and how much more probable the finding is under the first proposition.
_VERBAL_SCALE = (
    (1e6, "exceedingly more probable"),
    (1e4, "far more probable"),
    (1e3, "much more probable"),
    (1e2, "appreciably more probable"),
    (1e1, "more probable"),
    (2.0, "slightly more probable"),
)


def likeness_in_words(llr: float | None) -> str | None:
    """Say what a log10 likelihood ratio means, in the words of ENFSI 2015; None for None."""
    if llr is None:
        return None
    proposition = "this voice or an imitation of it", "another singer's"
    for bound, words in _VERBAL_SCALE:
        if llr >= math.log10(bound):
            return f"{words} if the track carries {proposition[0]} than if it carries {proposition[1]}"
        if -llr >= math.log10(bound):
            return f"{words} if the track carries {proposition[1]} than if it carries {proposition[0]}"
    return f"no more probable if the track carries {proposition[0]} than if it carries {proposition[1]}"


def lack_of_voice(voiced_s: float) -> str:
    """Say how much voice was found and how much is needed."""
    found_s = math.floor(voiced_s * 10) / 10  # not rounded: 1.47 would read as the 1.5 that is needed
    return f"{found_s:.1f} s of voice found, at least {MIN_VOICE_S:.1f} s is needed"


def decide(
    matches: Sequence[Match | KeptMatch], *, threshold: Threshold, voiced_s: float, n_artists: int
) -> tuple[Verdict, str]:
    """Decide about a track.

    Parameters
    ----------
    matches : sequence of Match or KeptMatch
        Best first; may be empty.
    threshold : Threshold
        A match whose llr is at or above it is flagged.
    voiced_s : float
        Seconds of voice found in the track.
    n_artists : int
        Artists matched against.

    Returns
    -------
    verdict : {"clear", "flagged", "abstained"}
    reason : str
        One sentence for a person. A flag is a lead for a person, never an automatic takedown.
    """
    if voiced_s < MIN_VOICE_S:
        return "abstained", lack_of_voice(voiced_s)
    if not matches:
        return "clear", "there is no artist to match with"
    # Without the artist's name: this sentence is stored, and must say the same after a renaming and nothing of who was
    # removed. The matches beside it have the names.
    best = f"the best of {n_artists} artists has log10 likelihood ratio {matches[0].llr:.2f}"
    extrapolated = " (threshold extrapolated)" if threshold.is_extrapolated else ""
    if matches[0].flagged:
        return "flagged", f"{best}, the threshold is {threshold.llr:.2f}{extrapolated}"
    return "clear", f"{best}, below the threshold {threshold.llr:.2f}{extrapolated}"
