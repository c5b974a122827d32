"""How many other voices come near an artist, or near a track, and what that takes off the evidence. Pure numpy.

Some artists are taken for many others, and some tracks sound like many artists (the lambs and wolves of Doddington et
al. 1998); the artists enrolled beside them tell which. So every artist is scored with the other artists' voices, and
every track with all artists: where more of them than usual come near, a high score is so many times less telling, and
log10 of that many is taken off the llr (`registry.llr.MEASURES`; nearly: slope and intercept are fitted with it).
Nothing is ever added. In effect such artists and tracks have a stricter threshold, and the same false-flag budget is
kept with a lower one for all others. While few artists are enrolled, or one, the voices of the cohort stand in for
others around an artist. What it gives: README, "What each step gives".

References
----------
Doddington et al. 1998, Sheep, goats, lambs and wolves: a statistical analysis of speaker performance, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from registry import scoring
from registry.llr import LlrModel, llr_of, measures
from registry.records import Gallery
from registry.scoring import CohortModel

#: Share of all comparisons with another voice that come near: that reach the levels which a calibration keeps.
NEAR_SHARE = 0.01

#: Near voices that are credited beside those counted and those expected, so that a few say little: where thirty others
#: are enrolled, one takes off 0.1 and two 0.2.
CREDIT = 2.0

#: Voices that an artist or a track is compared with: three are expected to be near.
MOST_VOICES = 300

#: With fewer other artists the cohort's voices count too, the fewer the more: all of them where there is nobody else.
#: They tell less of an artist than others do who are enrolled. With 5 and 20 artists they are a gain on fold A
#: (`scripts/try_scoring.py`); where they should end is by judgement.
ENOUGH_OTHERS = 30

#: Part of what a calibration is of (`registry.calibration.CONSTANTS`).
CONSTANTS = {
    "near_share": NEAR_SHARE,
    "credit": CREDIT,
    "most_voices": MOST_VOICES,
    "enough_others": ENOUGH_OTHERS,
}


@dataclass(frozen=True)
class NearLevels:
    """From where on another voice is near; with inf none is.

    Attributes
    ----------
    artist : float
        norm_score of an artist's voice with another artist.
    track : float
        log10 likelihood ratio of a track with an artist, before crowding is taken off.
    cohort : float
        norm_score of a voice of the cohort with an artist.
    """

    artist: float = math.inf
    track: float = math.inf
    cohort: float = math.inf

    @classmethod
    def of(cls, between: Between, llrs: np.ndarray, weights: np.ndarray | None = None) -> NearLevels:
        """The levels of artists, and of strangers' tracks by their llrs with artists, weighed as in `level_of`."""
        return cls(level_of(between.others), level_of(llrs, weights), level_of(between.cohort))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NearLevels:
        """Read what `as_dict` gave; `ValueError` where it is not that."""
        # One without a level for the cohort is from before it was counted: of another way of scoring, but read.
        levels = {name: math.inf if level is None else level for name, level in {"cohort": None, **values}.items()}
        # At or above NaN nobody is, and at or above -inf are also voices that are not compared.
        if set(levels) != {"artist", "track", "cohort"} or not all(
            isinstance(level, int | float) and level > -math.inf for level in levels.values()
        ):
            raise ValueError(f"near is {dict(values)!r}, not the levels of artist, track and cohort")
        return cls(**{name: float(level) for name, level in levels.items()})

    def as_dict(self) -> dict[str, float | None]:
        """Plain JSON types, which have no inf: None there."""
        return {name: level if math.isfinite(level) else None for name, level in asdict(self).items()}


def level_of(scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """What `NEAR_SHARE` of scores reach, midway to the next lower one; inf where there are none.

    At a score itself the last bit would decide whether it reaches the level, once llrs are on another scale.

    Parameters
    ----------
    scores : (n, n_artists) float
        -inf where the two are not compared.
    weights : (n,) float, optional
        How much each row counts.
    """
    compared = np.isfinite(scores)
    if not compared.any():
        return math.inf
    counted = np.broadcast_to(1.0 if weights is None else weights[:, None], scores.shape)[compared]
    order = np.argsort(-scores[compared], kind="stable")
    falling, share = scores[compared][order].astype(float), np.cumsum(counted[order]) / counted.sum()
    lowest = falling[min(int(np.searchsorted(share, NEAR_SHARE)), len(order) - 1)]
    lower = falling[falling < lowest][:1]
    return float(np.mean([lowest, *lower]))


def voice_scores(
    voices: np.ndarray,
    voice_starts: np.ndarray,
    templates: np.ndarray,
    starts: np.ndarray,
    cohort: CohortModel,
    *,
    centres: np.ndarray | None = None,
) -> np.ndarray:
    """norm_scores of voices with artists, the templates of each voice taken as the stretches of a track.

    A template is an average of some windows, as a stretch is; the mean of all of a voice's templates would be steadier
    than any track.

    Parameters
    ----------
    voices, templates : (n, dim) float32
        Templates grouped by voice and by artist.
    voice_starts, starts : (n_voices,), (n_artists,) int
        First row of each group, rising, the first 0.
    centres : (n_artists,) float32, optional
        From `registry.scoring.artist_centres`.

    Returns
    -------
    (n_voices, n_artists) float32
    """
    if len(voice_starts) == 0 or len(starts) == 0:
        return np.empty((len(voice_starts), len(starts)), np.float32)
    if centres is None:
        centres = scoring.artist_centres(templates, starts, cohort)
    scores = scoring.best_of_groups(voices, voice_starts, templates, starts)
    own = scoring.mean_of_nearest(scoring.best_of_groups(voices, voice_starts, cohort.vectors, cohort.starts))
    norm_scores: np.ndarray = (scores - (centres[None, :] + own[:, None]) / 2) / cohort.spread
    return norm_scores.astype(np.float32)


@dataclass(frozen=True)
class Between:
    """norm_scores of artists with other voices.

    Attributes
    ----------
    others : (n_voices, n_artists) float
        From `voice_scores`, with the voices of artists; -inf where a voice is the artist's own, or is not to count.
    cohort : (n_cohort, n_artists) float
        With the persons of the cohort.
    """

    others: np.ndarray
    cohort: np.ndarray

    def select(self, voices: np.ndarray, artists: np.ndarray) -> Between:
        """Some artists with some of the voices: both places or (n,) bool."""
        return Between(self.others[np.ix_(voices, artists)], self.cohort[:, artists])


def score_between(
    voices: np.ndarray,
    voice_starts: np.ndarray,
    templates: np.ndarray,
    starts: np.ndarray,
    cohort: CohortModel,
    *,
    centres: np.ndarray | None = None,
) -> Between:
    """Score voices, and the cohort's, with artists; parameters as `voice_scores` takes them.

    Who is whose own it cannot know: that is the caller's to take out of `others`.
    """
    if centres is None:
        centres = scoring.artist_centres(templates, starts, cohort)
    artists = templates, starts, cohort
    return Between(
        others=voice_scores(voices, voice_starts, *artists, centres=centres),
        cohort=voice_scores(cohort.vectors, cohort.starts, *artists, centres=centres),
    )


def artist_crowding(between: Between, near: NearLevels, without: np.ndarray | None = None) -> np.ndarray:
    """log10 of how many times as many voices come near each artist as are expected; 0 where no more do.

    Parameters
    ----------
    between : Between
        With other artists' voices, and with the cohort's, which stand in where there are few.
    near : NearLevels
    without : (n,) int, optional
        One voice that is not counted, -1 for none, for each row of what is returned: where somebody enrolled is heard
        as a stranger, nothing must be known of that voice.

    Returns
    -------
    (n_artists,) or (n, n_artists) float64
        At least 0.
    """
    is_near, is_compared = _is_near(between.others, near.artist), np.isfinite(between.others)
    n_near, n_compared = is_near.sum(axis=0), is_compared.sum(axis=0)
    if without is not None:
        rows = np.flatnonzero(without >= 0)
        n_near, n_compared = (np.tile(counts, (len(without), 1)) for counts in (n_near, n_compared))
        n_near[rows] -= is_near[without[rows]]
        n_compared[rows] -= is_compared[without[rows]]
    stand_in = np.maximum(0.0, 1.0 - n_compared / ENOUGH_OTHERS)
    n_of_cohort = _is_near(between.cohort, near.cohort).sum(axis=0)
    return _log10_times(n_near + stand_in * n_of_cohort, n_compared + stand_in * len(between.cohort))


def track_crowding(
    llrs: np.ndarray, level: float, own: np.ndarray | None = None, without: np.ndarray | None = None
) -> np.ndarray:
    """log10 of how many times as many other artists come near each track as are expected; 0 where no more do.

    Parameters
    ----------
    llrs : (n_tracks, n_voices) float
        log10 likelihood ratios with the voices, before crowding is taken off; -inf where the two are not compared.
    level : float
        `NearLevels.track`.
    own : (n_artists,) int, optional
        Which of the voices is each artist's own, which is not counted for it; -1 for none. By default the voices are
        the artists.
    without : (n_tracks,) int, optional
        One more voice that is not counted, -1 for none: that of an enrolled person who is heard as a stranger.

    Returns
    -------
    (n_tracks, n_artists) float64
        At least 0.
    """
    own = np.arange(llrs.shape[1]) if own is None else own
    is_near, is_compared = _is_near(llrs, level), np.isfinite(llrs)
    if without is not None:
        rows = np.flatnonzero(without >= 0)
        is_near[rows, without[rows]] = is_compared[rows, without[rows]] = False
    if llrs.shape[1] == 0:
        return np.zeros((len(llrs), len(own)))
    counted = (own >= 0)[None, :]
    near = is_near.sum(axis=1, keepdims=True) - (is_near[:, own] & counted)
    compared = is_compared.sum(axis=1, keepdims=True) - (is_compared[:, own] & counted)
    return _log10_times(near, compared)


class Crowd:
    """The voices that artists and tracks are compared with, made ready.

    Parameters
    ----------
    enrolled : Gallery
        Templates of everybody who is matched; `MOST_VOICES` of them are taken.
    cohort : CohortModel
    model : LlrModel
    near : NearLevels
    """

    def __init__(self, enrolled: Gallery, cohort: CohortModel, model: LlrModel, near: NearLevels) -> None:
        voices = enrolled.select(np.isin(enrolled.artist_id, chosen_voices(np.unique(enrolled.artist_id))))
        self._voices = voices.vectors
        self._starts, self._artist_id = scoring.group_starts(voices.artist_id)
        self._cohort, self._model, self._near = cohort, model, near
        self._centres = np.empty(0, np.float32)
        if len(self._voices):
            self._centres = scoring.artist_centres(self._voices, self._starts, cohort)

    def around_artists(self, gallery: Gallery) -> np.ndarray:
        """The `artist_crowding` of the artists of a gallery, by artist_id: (n_artists,) float64."""
        starts, artist_ids = scoring.group_starts(gallery.artist_id)
        between = score_between(self._voices, self._starts, gallery.vectors, starts, self._cohort)
        between.others[self._artist_id[:, None] == artist_ids[None, :]] = -np.inf
        return artist_crowding(between, self._near)

    def around_track(self, windows: np.ndarray, accompaniment: float, artist_ids: np.ndarray) -> np.ndarray:
        """The `track_crowding` of some windows of a track, for each artist: (n_artists,) float64."""
        voices = self._voices, self._starts
        scores = scoring.pool_scores(windows, *voices)
        norm_scores = scoring.normalise(scores, windows, *voices, self._cohort, centres=self._centres)
        llrs = llr_of(measures(norm_scores, accompaniment), self._model)
        place = {artist_id: i for i, artist_id in enumerate(self._artist_id.tolist())}
        own = np.array([place.get(artist_id, -1) for artist_id in artist_ids.tolist()], np.int64)
        found: np.ndarray = track_crowding(llrs[None], self._near.track, own)[0]
        return found


def chosen_voices(artist_ids: np.ndarray) -> np.ndarray:
    """At most `MOST_VOICES` of some artists, rising: the same ones whoever else is among them, as far as can be."""
    # Multiplied by an odd number ids keep apart and come in an order that says nothing (Knuth's multiplicative hash).
    order = np.argsort((artist_ids.astype(np.uint64) * np.uint64(2654435761)) % np.uint64(2**32), kind="stable")
    chosen: np.ndarray = np.sort(artist_ids[order[:MOST_VOICES]])
    return chosen


def _is_near(scores: np.ndarray, level: float) -> np.ndarray:
    # The last bits of a score depend on how many others are computed with it.
    near: np.ndarray = np.round(scores, 4) >= level
    return near


def _log10_times(near: np.ndarray, compared: np.ndarray) -> np.ndarray:
    times: np.ndarray = np.log10(np.maximum(1.0, (near + CREDIT) / (NEAR_SHARE * compared + CREDIT)))
    return times
