"""Whom an artist's voice is nearest to among the others enrolled. Pure numpy.

What is on record of an artist is scored as one long track would be that holds its references one after the other: in
sections, of which a neighbour has the scores of the best, and which share the false-flag budget. So llr and threshold
mean here what they mean for a track, and an artist with many references does not have more neighbours beyond the
threshold by chance than one with few. Crowding (`registry.crowding`) is not taken off: one voice that is enrolled under
many names would hide itself. An average of an artist's templates would be steadier than any track is, and score higher
than the calibration was fitted for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from registry import scoring
from registry.calibration import Threshold
from registry.llr import LlrModel, llr_of, measures
from registry.records import Gallery, Neighbour
from registry.verdict import likeness_in_words

#: Neighbours that are named.
N_NEIGHBOURS = 5

#: Artists that are normalised, those with the highest cosines: as many as `registry.match` looks at for a track.
CANDIDATES = 200


def voice_sections(references: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """The windows of an artist by section: one for each reference, more for those longer than `scoring.SECTION_S`.

    Parameters
    ----------
    references : sequence of (reference_id, vectors (n, dim), times_s (n, 2))
        As `Store.reference_windows` gives them.

    Returns
    -------
    list of (n, dim) float32
        At least one window each.
    """
    return [
        vectors[first:end]
        for _, vectors, times_s in references
        if len(vectors)
        for first, end in pairwise(scoring.section_edges(times_s[:, 0], float(times_s[-1, 1])))
        if end > first
    ]


def nearest_neighbours(
    sections: Sequence[np.ndarray],
    others: Gallery,
    cohort: scoring.CohortModel,
    model: LlrModel,
    threshold: Threshold,
    names: Mapping[int, str],
) -> tuple[Neighbour, ...]:
    """The `N_NEIGHBOURS` artists that a voice is likest to, best llr first.

    Parameters
    ----------
    sections : sequence of (n, dim) float32
        From `voice_sections`; none has no neighbours.
    others : Gallery
        Templates of the other artists, grouped by artist.
    cohort, model
        What the scores are normalised with, and made llrs with.
    threshold : Threshold
        That of a track of so many sections.
    names : mapping
        By artist_id.
    """
    if not sections or len(others.vectors) == 0:
        return ()
    starts, artist_ids = scoring.group_starts(others.artist_id)
    scores = np.stack([scoring.pool_scores(section, others.vectors, starts) for section in sections])
    if len(artist_ids) > CANDIDATES:
        chosen = np.sort(np.argpartition(-scores.max(axis=0), CANDIDATES)[:CANDIDATES])
        others = others.select(np.isin(others.artist_id, artist_ids[chosen]))
        starts, artist_ids = scoring.group_starts(others.artist_id)
        scores = scores[:, chosen]
    centres = scoring.artist_centres(others.vectors, starts, cohort)
    norm_scores = np.stack(
        [
            scoring.normalise(own, section, others.vectors, starts, cohort, centres=centres)
            for own, section in zip(scores, sections, strict=True)
        ]
    )
    music = np.array([[scoring.accompaniment(section, cohort)] for section in sections])
    llrs = llr_of(measures(norm_scores, music), model)
    best, every = llrs.argmax(axis=0), np.arange(len(artist_ids))
    scores, norm_scores, llrs = scores[best, every], norm_scores[best, every], llrs[best, every]
    order = np.lexsort([-norm_scores, -llrs])[:N_NEIGHBOURS]
    return tuple(
        Neighbour(
            rank=rank,
            artist_id=int(artist_ids[i]),
            artist=names[int(artist_ids[i])],
            score=round(float(scores[i]), 4),
            norm_score=round(float(norm_scores[i]), 3),
            llr=(llr := round(float(llrs[i]), 2)),
            likeness=likeness_in_words(llr),
            reaches_threshold=threshold.is_reached(llr),
        )
        for rank, i in enumerate(order, start=1)
    )
