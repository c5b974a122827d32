"""A track's voice against the enrolled artists: candidates, scores, evidence, verdict."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.extract import Voiceprint
from registry import scoring
from registry.calibration import Calibration, Rule, Threshold
from registry.calibrations import active_calibration, misfit_version
from registry.config import false_flag_budget
from registry.crowding import Crowd
from registry.errors import NoThreshold, StoreDamaged
from registry.index import VectorIndex, open_index, write_index
from registry.llr import MEASURES, llr_of, measures
from registry.lookalikes import with_lookalikes
from registry.records import Evidence, Gallery, Match, Scan
from registry.store import Store, now
from registry.verdict import MIN_VOICE_S, decide, likeness_in_words

INDEX = "index.faiss"
#: Templates that the index names for each stretch of a track.
NEIGHBOURS = 64
#: Artists whose exact scores are computed for a track; with fewer enrolled than this the index leaves nobody out.
CANDIDATES = 200
#: Artists that are kept with every scan, and stretches of sound that are given for each.
KEPT_MATCHES = 5
KEPT_EVIDENCE = 3
#: Columns of `registry.llr.MEASURES` in which crowding stands.
_CROWDINGS = [MEASURES.index(name) for name in ("artist_crowding", "track_crowding")]


@dataclass(frozen=True)
class Ranking:
    """The scores of a track with each artist of a gallery, each those of the section that speaks most for the artist.

    Attributes
    ----------
    gallery : Gallery
        Templates of the artists, with at least one row.
    artist_id : (n,) int64
        Rising.
    section : (n,) int64
        Which section of the track it is, from 0.
    edges : (n_sections + 1,) int64
        Where the sections begin and end among the track's windows.
    scores, norm_scores : (n,) float32
    measured : (n, n_measures) float64
        What `registry.llr` weighs.
    llrs : (n,) float64
    order : (n,) int64
        Best llr first.
    """

    gallery: Gallery
    artist_id: np.ndarray
    section: np.ndarray
    edges: np.ndarray
    scores: np.ndarray
    norm_scores: np.ndarray
    measured: np.ndarray
    llrs: np.ndarray
    order: np.ndarray


class Matcher:
    """The registry as it is now, ready to be matched against.

    Parameters
    ----------
    store : Store
        The registry.
    encoder : object
        The encoder that the tracks are embedded with: its `encoder_id`, `cohort` and `calibration` are used.
    notify : callable
        Takes a line for stderr (an index rebuilt, an artist left out).
    threshold : float, optional
        log10 likelihood ratio to flag at, instead of the one that keeps the false-flag budget.
    budget : float, optional
        The false-flag budget, instead of the registry's own.
    accept_extrapolation : bool
        As `registry.calibration.Rule` takes it.

    Raises
    ------
    EncoderMismatch
        The registry was enrolled with another encoder.
    NoThreshold
        There is no calibration for this encoder and its cohort, or the budget asks for more than it can show.
    """

    def __init__(
        self,
        store: Store,
        encoder: Any,
        notify: Callable[[str], None],
        *,
        threshold: float | None = None,
        budget: float | None = None,
        accept_extrapolation: bool = False,
    ) -> None:
        store.check_encoder(encoder.encoder_id)
        self._store = store
        self.encoder_id: str = encoder.encoder_id
        self.calibration = find_calibration(store, encoder)
        self.cohort_id: str = encoder.cohort.cohort_id
        if (version := misfit_version(store, self.encoder_id, self.cohort_id)) is not None:
            notify(
                f"calibration {version}: fitted for another way of scoring, so the encoder's own counts; `likeness "
                "calibrate` fits another"
            )
        self.cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person, encoder.cohort.condition)
        self._notify = notify
        # Revision, templates and names from one moment: a batch that runs for hours is pinned to it.
        with store.reading():
            self.store_revision = store.revision
            self._pinned = store.gallery()
            self._names = store.artist_names()
            # Before the first enrolment there is nothing to index, and no file to miss.
            enrolled = store.encoder_id is not None
            self._index = (
                open_store_index(store, encoder.encoder_id, encoder.dim, notify)
                if enrolled
                else VectorIndex(encoder.dim)
            )
        self._rights, self._next_expiry = -1, ""
        self._left_out: set[int] = set()
        self.refresh()
        # Over the artists of this moment, also in a batch that runs for hours: one threshold for a run.
        self.rule = Rule(
            self.calibration,
            false_flag_budget(store) if budget is None else budget,
            self.n_artists,
            llr=threshold,
            accept_extrapolation=accept_extrapolation,
        )

    @property
    def threshold(self) -> Threshold:
        """That of a track of one section."""
        return self.rule.threshold(1)

    def refresh(self) -> bool:
        """Leave out artists whose consent is over, and what was removed, since this was made; returns if any changed.

        Called with every track, inside the transaction that keeps its scan, so that a withdrawal works at once also in
        a batch that runs for hours. Nobody is added: what is matched stays pinned to one state of the registry
        otherwise. Whoever is left out crowds the others no more, whose llrs may rise from then on; or fall, where so
        few are left that the cohort stands in.
        """
        if self._store.rights == self._rights and not (self._next_expiry and self._next_expiry <= now()):
            return False
        with nullcontext() if self._store.db.conn.in_transaction else self._store.reading():
            self._rights, self._next_expiry = self._store.rights, self._store.next_expiry()
            over = self._store.without_consent()
            owners = self._store.reference_owners()
        left_out = {i: over[i] for i in np.unique(self._pinned.artist_id).tolist() if i in over}
        for artist_id in left_out.keys() - self._left_out:
            name = self._names[artist_id]
            self._notify(f"{name}: not matched, {over[artist_id]}; `likeness consents add` records another")
        self._left_out = set(left_out)
        # Of who or what was removed nothing is said, for nothing is known any more.
        allowed = [reference_id for reference_id, artist_id in owners.items() if artist_id not in over]
        rows = np.isin(self._pinned.reference_id, allowed) & ~np.isin(self._pinned.artist_id, list(left_out))
        self._gallery = self._pinned if rows.all() else self._pinned.select(rows)
        self._by_template = np.argsort(self._gallery.template_id)
        artist_ids = np.unique(self._gallery.artist_id)
        self._crowd = Crowd(self._gallery, self.cohort, self.calibration.llr, self.calibration.near)
        self._crowding: dict[int, float] = {}  # of the artists who were candidates
        self.n_artists = len(artist_ids)
        self.n_not_matched = len(left_out)
        return True

    def match(self, voiceprint: Voiceprint) -> tuple[Match, ...]:
        """The artists that a voice is likest to, best llr first, at most `KEPT_MATCHES`.

        A track longer than `scoring.SECTION_S` is matched by sections; an artist has the scores of its best one.

        Parameters
        ----------
        voiceprint : Voiceprint
            With at least one window, or nothing matches.
        """
        if len(voiceprint.vectors) == 0:
            return ()
        ranking = self.rank(voiceprint, self.candidates(voiceprint.vectors))
        if ranking is None:
            return ()
        best = enumerate(ranking.order[:KEPT_MATCHES], start=1)
        return with_lookalikes(self._store, [self.match_of(voiceprint, ranking, row, rank) for rank, row in best])

    def rank(self, voiceprint: Voiceprint, gallery: Gallery) -> Ranking | None:
        """Score a voice, of at least one window, with the artists of a gallery; None where it has none."""
        if len(gallery.vectors) == 0:
            return None
        starts, artist_ids = scoring.group_starts(gallery.artist_id)
        edges = scoring.section_edges(voiceprint.start_s, voiceprint.duration_s)
        voiced = np.flatnonzero(np.diff(edges))
        crowding = self._artist_crowding(gallery)
        sections = [
            self._scores(voiceprint.vectors[edges[i] : edges[i + 1]], gallery.vectors, starts, artist_ids, crowding)
            for i in voiced
        ]
        scores, norm_scores, measured, llrs = (np.stack(parts) for parts in zip(*sections, strict=True))
        best = llrs.argmax(axis=0), np.arange(len(artist_ids))
        return Ranking(
            gallery=gallery,
            artist_id=artist_ids,
            section=voiced[best[0]],
            edges=edges,
            scores=scores[best],
            norm_scores=norm_scores[best],
            measured=measured[best],
            llrs=llrs[best],
            order=np.lexsort([-norm_scores[best], -llrs[best]]),
        )

    def _scores(
        self,
        windows: np.ndarray,
        templates: np.ndarray,
        starts: np.ndarray,
        artist_ids: np.ndarray,
        artist_crowding: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Score, norm_score, measures and llr of some windows with each artist."""
        scores = scoring.pool_scores(windows, templates, starts)
        norm_scores = scoring.normalise(scores, windows, templates, starts, self.cohort)
        music = scoring.accompaniment(windows, self.cohort)
        track_crowding = self._crowd.around_track(windows, music, artist_ids)
        measured = measures(norm_scores, music, artist_crowding, track_crowding)
        return scores, norm_scores, measured, llr_of(measured, self.calibration.llr)

    def _artist_crowding(self, gallery: Gallery) -> np.ndarray:
        """The crowding of the artists of a gallery: (n_artists,) float64.

        Worked out for each artist when it is a candidate for the first time, and again once somebody is left out.
        """
        artist_ids = np.unique(gallery.artist_id).tolist()
        unknown = [artist_id for artist_id in artist_ids if artist_id not in self._crowding]
        if unknown:
            new = gallery.select(np.isin(gallery.artist_id, unknown))
            self._crowding.update(zip(unknown, self._crowd.around_artists(new).tolist(), strict=True))
        return np.array([self._crowding[artist_id] for artist_id in artist_ids])

    def match_of(self, voiceprint: Voiceprint, ranking: Ranking, row: int, rank: int) -> Match:
        """One artist of a ranking, by its row, as a match with evidence."""
        artist_id, gallery = int(ranking.artist_id[row]), ranking.gallery
        llr = round(float(ranking.llrs[row]), 2)
        crowding = ranking.measured[row, _CROWDINGS] @ np.array(self.calibration.llr.weights)[_CROWDINGS]
        return Match(
            rank=rank,
            artist_id=artist_id,
            artist=self._names[artist_id],
            score=round(float(ranking.scores[row]), 4),
            norm_score=round(float(ranking.norm_scores[row]), 3),
            llr=llr,
            likeness=likeness_in_words(llr),
            flagged=self.threshold_of(voiceprint).is_reached(llr),
            evidence=self._evidence(voiceprint, gallery, np.flatnonzero(gallery.artist_id == artist_id)),
            taken_off=round(abs(float(crowding)), 2),  # no weight of crowding is above 0
        )

    def threshold_of(self, voiceprint: Voiceprint) -> Threshold:
        """What the llr of an artist must reach to be flagged in this track."""
        return self.rule.threshold(scoring.n_sections(voiceprint.duration_s))

    def scan(self, path: str, voiceprint: Voiceprint, *, run_id: int | None = None) -> Scan:
        """Examine a track: match, decide, and write down on what grounds. Stores nothing."""
        matches = self.match(voiceprint) if voiceprint.voiced_s >= MIN_VOICE_S else ()
        threshold = self.threshold_of(voiceprint)
        verdict, reason = decide(matches, threshold=threshold, voiced_s=voiceprint.voiced_s, n_artists=self.n_artists)
        return Scan(
            path=path,
            verdict=verdict,
            reason=reason,
            duration_s=round(voiceprint.duration_s, 3),
            voiced_s=round(voiceprint.voiced_s, 3),
            n_windows=len(voiceprint.vectors),
            n_artists=self.n_artists,
            n_not_matched=self.n_not_matched,
            threshold=threshold.llr,
            threshold_source=threshold.source,
            budget=threshold.budget,
            calibration_id=self.calibration.calibration_id,
            encoder_id=self.encoder_id,
            cohort_id=self.cohort_id,
            store_revision=self.store_revision,
            content_id=voiceprint.content_id,
            scanned_at=now(),
            matches=matches,
            run_id=run_id,
        )

    def candidates(self, vectors: np.ndarray, *, also: int | None = None) -> Gallery:
        """Templates of the artists that the index names for some windows, and of `also`; of all, while they are few."""
        gallery = self._gallery
        chosen = np.unique(gallery.artist_id)
        if self.n_artists > CANDIDATES:
            scores, template_ids = self._index.search(scoring.stretch_vectors(vectors), NEIGHBOURS)
            ranked = template_ids.ravel()[np.argsort(-scores.ravel(), kind="stable")]
            position = np.searchsorted(gallery.template_id, ranked, sorter=self._by_template)
            rows = self._by_template[np.minimum(position, len(self._by_template) - 1)]
            rows = rows[gallery.template_id[rows] == ranked]  # the index also holds artists that are not matched
            chosen = np.array([*dict.fromkeys(gallery.artist_id[rows].tolist())][:CANDIDATES], np.int64)
        if also is not None:
            chosen = np.append(chosen, also)
        return gallery.select(np.isin(gallery.artist_id, chosen))

    def _evidence(self, voiceprint: Voiceprint, gallery: Gallery, rows: np.ndarray) -> tuple[Evidence, ...]:
        """The windows of a track nearest to one artist, each with the reference seconds it is nearest to."""
        similarity = voiceprint.vectors @ gallery.vectors[rows].T
        nearest = similarity.argmax(axis=1)
        value = similarity[np.arange(len(nearest)), nearest]
        chosen: list[int] = []
        for window in np.argsort(-value, kind="stable").tolist():
            apart = all(
                voiceprint.start_s[window] >= voiceprint.end_s[other]
                or voiceprint.end_s[window] <= voiceprint.start_s[other]
                for other in chosen
            )
            if apart:  # overlapping windows hold the same sound
                chosen.append(window)
            if len(chosen) == KEPT_EVIDENCE:
                break
        paths = self._store.reference_paths(int(gallery.reference_id[rows[nearest[window]]]) for window in chosen)
        return tuple(
            Evidence(
                track_start_s=round(float(voiceprint.start_s[window]), 2),
                track_end_s=round(float(voiceprint.end_s[window]), 2),
                reference_id=int(gallery.reference_id[row]),
                reference=paths.get(int(gallery.reference_id[row]), "(removed)"),
                reference_start_s=round(float(gallery.start_s[row]), 2),
                reference_end_s=round(float(gallery.end_s[row]), 2),
                score=round(float(value[window]), 4),
            )
            for window in chosen
            for row in (rows[nearest[window]],)
        )


def encoder_calibration(encoder: Any) -> Calibration:
    """The calibration that comes with an encoder; raises `NoThreshold` where there is none for it and its cohort."""
    if encoder.cohort is None:
        raise NoThreshold(
            f"encoder {encoder.source}: has no cohort to normalise scores with, and a bare cosine says nothing; "
            "make one with scripts/fit_builtin.py"
        )
    if encoder.calibration is None:
        raise NoThreshold(
            f"encoder {encoder.source}: has no calibration, so its scores are no evidence yet; make one with "
            "`likeness calibrate` or scripts/fit_builtin.py"
        )
    try:
        calibration = Calibration.from_dict(encoder.calibration)
    except ValueError as error:
        raise NoThreshold(
            f"encoder {encoder.source}: its calibration cannot be used, {error}; make another with "
            "scripts/fit_builtin.py"
        ) from error
    if misfit := calibration.misfit(encoder.encoder_id, encoder.cohort.cohort_id):
        raise NoThreshold(
            f"encoder {encoder.source}: its calibration was fitted for another {misfit}; "
            "run scripts/fit_builtin.py again"
        )
    return calibration


def find_calibration(store: Store, encoder: Any) -> Calibration:
    """The registry's own calibration for an encoder, or the one that comes with it; raises `NoThreshold`."""
    if encoder.cohort is not None and (own := active_calibration(store, encoder.encoder_id, encoder.cohort.cohort_id)):
        return own
    return encoder_calibration(encoder)


def index_path(home: Path) -> Path:
    """Where the index file of the registry in `home` lies."""
    return home / INDEX


def open_store_index(store: Store, encoder_id: str, dim: int, notify: Callable[[str], None]) -> VectorIndex:
    """The index of the store's templates, rebuilt and said so where the file is missing, stale or damaged."""

    def rows() -> tuple[np.ndarray, np.ndarray]:
        ids, vectors = store.template_vectors()
        return ids, vectors.reshape(len(ids), dim)

    revision = store.revision
    return open_index(
        index_path(store.home),
        revision,
        encoder_id,
        rows,
        notify,
        index_key(store),
        lambda: store.is_still_at(revision),
    )


def index_key(store: Store) -> bytes | None:
    """What the index file is sealed with; None where the registry is not encrypted."""
    return None if store.vault is None else store.vault.index_key


def write_store_index(store: Store, notify: Callable[[str], None]) -> int:
    """Write the index anew from the store and return how many templates it holds; a full disk is said, not raised."""
    encoder = store.encoder()
    if encoder is None:
        return 0
    with store.reading():
        revision = store.revision
        ids, vectors = store.template_vectors()
    index = VectorIndex(encoder["dim"])
    try:
        index.add(ids, vectors.reshape(len(ids), encoder["dim"]))
    except ValueError as error:
        raise StoreDamaged(f"the store's templates cannot be indexed: {error}") from error
    try:
        write_index(
            index,
            index_path(store.home),
            revision,
            encoder["encoder_id"],
            index_key(store),
            lambda: store.is_still_at(revision),
        )
    except OSError as error:
        # The old one may hold voiceprints of an artist who was removed.
        with suppress(OSError):
            index_path(store.home).unlink(missing_ok=True)
        notify(f"{index_path(store.home)}: not written ({error.strerror or error}); the next command makes it")
    return len(ids)
