"""The one function that decides, and the words for how strong the evidence is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from registry.records import Match, Verdict

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


def decide(matches: Sequence[Match], *, threshold: float, voiced_s: float, n_artists: int) -> tuple[Verdict, str]:
    """Decide about a track.

    Parameters
    ----------
    matches : sequence of Match
        Best first; may be empty.
    threshold : float
        On `norm_score`; a match at or above it is flagged.
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
        return "abstained", f"{voiced_s:.1f} s of voice found, at least {MIN_VOICE_S:.1f} s is needed"
    if not matches:
        return "clear", "nobody is enrolled"
    best = matches[0]
    said = f"{best.artist} scores {best.norm_score:.2f}"
    if best.norm_score >= threshold:
        more = sum(match.norm_score >= threshold for match in matches) - 1
        also = f", and {more} more above it" if more else ""
        return "flagged", f"{said}, threshold {threshold:.2f}{also}"
    return "clear", f"best of {n_artists}: {said}, threshold {threshold:.2f}"
