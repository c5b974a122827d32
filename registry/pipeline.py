"""The tracks of a run, examined: decoders in processes, one encoder process, and this process, which alone writes.

Every track ends with exactly one outcome in the store, in one transaction: a verdict, or why there is none. What was
under way when a process stops, or is killed, has no outcome, and is begun again by whoever goes on with the run.

A track that takes a decoder or the encoder with it, or may have, is in quarantine: it is tried once more after all
others, alone, and fails if a process dies again.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from embeddings.errors import EmbeddingError, InvalidAudio, ModelError
from embeddings.extract import Voiceprint
from embeddings.limits import Limits
from embeddings.vocals import Windows
from embeddings.workers import DecoderProcess, EncoderProcess, End, WorkerDied
from registry import runs
from registry.errors import EncoderMismatch, RegistryError
from registry.match import Matcher
from registry.owner import this_process
from registry.records import Run, Scan, path_of
from registry.store import Store

#: Windows given to the encoder at once, and how many such batches it may have: one to work on, one to go on with.
BATCH_WINDOWS = 32
BATCHES_AHEAD = 2
#: Windows that may wait for the encoder before decoders are asked for no more: bounds the memory, whatever is decoded.
WAITING_WINDOWS = 4 * BATCH_WINDOWS
#: Tracks that are taken from the queue at once, for each worker: one commit for several, and few kept from others.
LEASES_PER_WORKER = 4
#: Seconds between renewals of the leases: some go by before one is lost.
RENEW_S = runs.LEASE_S / 5
#: Seconds that the encoder may take for a batch: some 2 s on two cores, and far more on a machine that swaps.
ENCODER_S = 600.0
#: Times in a row that the encoder may die without giving any vectors before the run stops: it is hardly the files then.
MAX_ENCODER_DEATHS = 5


@dataclass(eq=False)  # each is itself: a manifest may name a file twice
class _Track:
    """A track under way."""

    item: dict[str, Any]
    decoder: DecoderProcess
    chunks: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    n_waiting: int = 0
    end: End | None = None
    is_dropped: bool = False


class Pipeline:
    """Examines the open tracks of a run.

    Parameters
    ----------
    store, matcher
        The registry, and the state of it that the run is pinned to.
    encoder : EncoderProcess
        The one encoder.
    start_encoder : callable
        Gives another such encoder when that one has died. What it gave last is the caller's to close.
    n_workers : int
        Decoder processes.
    limits : Limits
        What a decoder may take for one recording.
    """

    def __init__(
        self,
        store: Store,
        matcher: Matcher,
        encoder: EncoderProcess,
        start_encoder: Callable[[], EncoderProcess],
        n_workers: int,
        limits: Limits,
    ) -> None:
        self._store, self._matcher, self._encoder = store, matcher, encoder
        self._start_encoder, self._n_workers, self._limits = start_encoder, n_workers, limits
        self._owner = this_process()
        self._todo: deque[dict[str, Any]] = deque()  # leased, not begun
        self._is_drained = False  # the queue has none but those in quarantine
        self._decoders: set[DecoderProcess] = set()
        self._idle: list[DecoderProcess] = []
        self._busy: dict[Any, _Track] = {}  # by the decoder's connection
        self._paused: list[_Track] = []  # decoded a chunk, not asked for the next
        self._ready: deque[tuple[_Track, Windows]] = deque()  # for the encoder
        self._embedding: deque[list[tuple[_Track, Windows]]] = deque()  # with the encoder, oldest first
        self._encoder_due_s = math.inf  # on the monotonic clock
        self._n_encoder_deaths = 0

    def run(self, run: Run, on_outcome: Callable[[dict[str, Any], Scan | None], None]) -> int:
        """Examine every track of `run` that is open and that no other process has.

        Parameters
        ----------
        on_outcome : callable
            Gets each track's row and scan once they are in the store.

        Returns
        -------
        int
            How many tracks other processes have still; the run is finished by the one that does the last of them.

        Raises
        ------
        RegistryError
            The encoder died again and again, or the store cannot be written. What is decided is kept.
        """
        self._run_id, self._on_outcome = run.run_id, on_outcome
        self._renew_at_s = time.monotonic() + RENEW_S
        try:
            self._begin_tracks()
            while self._is_under_way():
                self._feed_encoder()
                self._ask_for_more()
                self._take_answers()
                self._renew_leases()
                self._begin_tracks()
        except BaseException:
            with suppress(RegistryError):  # a full disk, say; once this process has ended, its leases are void anyway
                runs.release_leases(self._store, self._run_id, self._owner)
            raise
        finally:
            for decoder in self._decoders:
                decoder.close()
        return runs.finish_run(self._store, self._run_id)

    def _is_under_way(self) -> bool:
        return bool(self._busy or self._paused or self._ready or self._embedding)

    # -- the queue ---------------------------------------------------------------------------------------------------

    def _begin_tracks(self) -> None:
        while self._idle or len(self._decoders) < self._n_workers:
            if not self._todo and not (self._is_drained and self._is_under_way()):
                with self._store.writing():
                    self._take_tracks()
            if not self._todo:
                return
            self._begin(self._todo.popleft())

    def _take_tracks(self) -> None:
        """Take the next tracks from the queue; last those in quarantine, each when nothing else is under way."""
        is_all = not self._todo and not self._is_under_way()
        if is_all or not self._is_drained:
            self._todo.extend(self._lease(LEASES_PER_WORKER * self._n_workers, tried=False))
            self._is_drained = not self._todo
        if is_all and self._is_drained:
            self._todo.extend(self._lease(1, tried=True))

    def _lease(self, n_tracks: int, *, tried: bool) -> list[dict[str, Any]]:
        return runs.take_leases(self._store, self._run_id, self._owner, n_tracks, tried=tried)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction, in which the next tracks are taken too: it is the commit that takes the time."""
        with self._store.writing():
            yield
            if len(self._todo) < self._n_workers:
                self._take_tracks()

    def _renew_leases(self) -> None:
        if time.monotonic() >= self._renew_at_s:
            runs.renew_leases(self._store, self._run_id, self._owner)
            self._renew_at_s = time.monotonic() + RENEW_S

    # -- decoders ----------------------------------------------------------------------------------------------------

    def _begin(self, item: dict[str, Any]) -> None:
        if not item["path"]:
            self._fail(item, "missing", "this row of the manifest has no `path`")
            return
        is_quarantined = item["attempts"] > 0
        if is_quarantined and self._idle:  # nothing that was decoded before shall have a part in it
            self._end_decoder(self._idle.pop())
        decoder = self._idle.pop() if self._idle and not is_quarantined else self._new_decoder()
        try:
            decoder.start(path_of(item["path"]))
        except WorkerDied:  # while it was idle, so this track has no part in it
            self._end_decoder(decoder)
            self._todo.appendleft(item)
        else:
            self._busy[decoder.connection] = _Track(item, decoder)

    def _new_decoder(self) -> DecoderProcess:
        encoder = self._encoder
        decoder = DecoderProcess(encoder.rate_hz, encoder.window_s, encoder.hop_s, self._limits)
        self._decoders.add(decoder)
        return decoder

    def _end_decoder(self, decoder: DecoderProcess) -> None:
        self._decoders.remove(decoder)
        decoder.close()

    def _ask_for_more(self) -> None:
        while self._paused and sum(len(windows.start_s) for _, windows in self._ready) < WAITING_WINDOWS:
            track = self._paused.pop(0)
            try:
                track.decoder.ask()
                self._busy[track.decoder.connection] = track
            except WorkerDied as error:
                self._bury(track, error)

    def _take_windows(self, track: _Track) -> None:
        try:
            received = track.decoder.receive()
        except InvalidAudio as error:
            self._idle.append(track.decoder)
            self._drop(track)
            self._fail(track.item, error.kind, error.reason)
        except WorkerDied as error:
            self._bury(track, error)
        else:
            if isinstance(received, End):
                track.end = received
                self._idle.append(track.decoder)
                self._finish_if_complete(track)
            else:
                track.n_waiting += 1
                self._ready.append((track, received))
                self._paused.append(track)

    def _bury(self, track: _Track, error: WorkerDied) -> None:
        """See to a track whose decoder is gone."""
        self._end_decoder(track.decoder)
        self._blame(track, error, may_retry=error.kind != "timeout")

    # -- the encoder -------------------------------------------------------------------------------------------------

    def _feed_encoder(self) -> None:
        while self._ready and len(self._embedding) < BATCHES_AHEAD:
            batch = [self._ready.popleft()]
            n_samples, n_windows = batch[0][1].samples.shape[1], len(batch[0][1].samples)
            while self._ready and self._ready[0][1].samples.shape[1] == n_samples and n_windows < BATCH_WINDOWS:
                batch.append(self._ready.popleft())
                n_windows += len(batch[-1][1].samples)
            self._embed(batch)

    def _embed(self, batch: list[tuple[_Track, Windows]]) -> None:
        try:
            self._encoder.start(np.concatenate([windows.samples for _, windows in batch]))
        except WorkerDied as error:
            self._ready.extendleft(reversed(batch))  # it has not seen these
            self._replace_encoder(error)
        else:
            if not self._embedding:
                self._encoder_due_s = time.monotonic() + ENCODER_S
            self._embedding.append(batch)

    def _take_vectors(self) -> None:
        try:
            vectors = self._encoder.receive()
        except WorkerDied as error:
            self._replace_encoder(error)
            return
        except ModelError as error:
            self._isolate(self._next_batch(), error)
            return
        start = 0
        for track, windows in self._next_batch():
            n, n_samples = windows.samples.shape
            end_s = windows.start_s + n_samples / self._encoder.rate_hz
            track.chunks.append((vectors[start : start + n], windows.start_s, end_s, windows.presence))
            track.n_waiting -= 1
            start += n
            self._finish_if_complete(track)

    def _next_batch(self) -> list[tuple[_Track, Windows]]:
        """The windows that the encoder has just answered for."""
        self._n_encoder_deaths = 0
        batch = self._embedding.popleft()
        self._encoder_due_s = time.monotonic() + ENCODER_S if self._embedding else math.inf
        return batch

    def _isolate(self, batch: list[tuple[_Track, Windows]], error: ModelError) -> None:
        """Find out which track of a batch the encoder has no vectors for, and fail it."""
        for track, windows in batch:
            if track.is_dropped:
                continue
            if len(batch) > 1:
                self._embed([(track, windows)])
            else:
                self._drop(track)
                self._fail(track.item, "model_failed", str(error))

    def _replace_encoder(self, error: WorkerDied) -> None:
        """Start another encoder in the place of one that is gone."""
        self._encoder.close()
        had_windows = dict.fromkeys(track for batch in self._embedding for track, _ in batch if not track.is_dropped)
        self._embedding.clear()
        self._encoder_due_s = math.inf
        for track in had_windows:
            self._blame(track, error)
        self._n_encoder_deaths += 1
        if self._n_encoder_deaths == MAX_ENCODER_DEATHS:
            raise RegistryError(
                f"run {self._run_id}: the encoder died {MAX_ENCODER_DEATHS} times in a row ({error}); does the machine "
                "have the memory that it needs?"
            ) from error
        try:
            encoder = self._start_encoder()
        except EmbeddingError as second:
            raise RegistryError(
                f"run {self._run_id}: the encoder died ({error}), and another could not be started: {second}"
            ) from second
        if encoder.encoder_id != self._encoder.encoder_id:
            raise EncoderMismatch(
                f"run {self._run_id}: the encoder died ({error}), and the one in its place is another: "
                f"{encoder.encoder_id[:12]}, not {self._encoder.encoder_id[:12]}. Did its files change?"
            )
        self._encoder = encoder

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def _take_answers(self) -> None:
        """Wait for decoders and encoder, take what they have, and end those that are overdue."""
        waiting_for = [*self._busy, *([self._encoder.connection] if self._embedding else [])]
        if not waiting_for:  # whatever was under way has come to nothing
            return
        decoders_due_s = [track.decoder.deadline_s for track in self._busy.values()]
        due_s = min([self._renew_at_s, self._encoder_due_s, *decoders_due_s])
        for connection in wait(waiting_for, max(0.0, due_s - time.monotonic())):
            if connection in self._busy:
                self._take_windows(self._busy.pop(connection))
            elif connection is self._encoder.connection:  # not that of one that has been replaced meanwhile
                self._take_vectors()
        now_s = time.monotonic()
        for connection, track in list(self._busy.items()):
            # An answer may have come while this process waited for the store.
            if track.decoder.deadline_s <= now_s and not connection.poll():
                del self._busy[connection]
                self._bury(track, track.decoder.expire())
        if self._encoder_due_s <= now_s and not self._encoder.connection.poll():
            reason = f"the process that runs the encoder gave no answer for {ENCODER_S:.0f} s"
            self._replace_encoder(WorkerDied(reason, "timeout"))

    def _finish_if_complete(self, track: _Track) -> None:
        if track.end is None or track.n_waiting or track.is_dropped:
            return
        nothing = (np.empty((0, self._encoder.dim), np.float32), np.empty(0), np.empty(0), np.empty(0, np.float32))
        vectors, start_s, end_s, presence = map(np.concatenate, zip(nothing, *track.chunks, strict=True))
        voiceprint = Voiceprint(vectors, start_s, end_s, presence, **vars(track.end))
        item = track.item
        scan = self._matcher.scan(item["path"], voiceprint, run_id=self._run_id)
        with self._writing():
            if self._matcher.refresh():  # a consent was withdrawn, an artist removed, a moment ago
                scan = self._matcher.scan(item["path"], voiceprint, run_id=self._run_id)
            scan_id = runs.finish_track(self._store, self._run_id, item["position"], self._owner, scan=scan)
        if scan_id is not None:
            item.update(outcome=scan.verdict, reason=scan.reason, scan_id=scan_id)
            self._on_outcome(item, replace(scan, scan_id=scan_id))

    def _fail(self, item: dict[str, Any], kind: str, reason: str) -> None:
        track = self._run_id, item["position"], self._owner
        with self._writing():
            is_ours = runs.fail_track(self._store, *track, kind=kind, reason=reason, attempts=item["attempts"])
        if is_ours:
            item.update(outcome="failed", reason=reason, kind=kind)
            self._on_outcome(item, None)

    def _blame(self, track: _Track, error: WorkerDied, *, may_retry: bool = True) -> None:
        """Put a track that took a process with it, or may have, into quarantine; there, alone, it fails."""
        self._drop(track)
        item = track.item
        item["attempts"] += 1
        if may_retry and item["attempts"] == 1:
            with self._writing():
                runs.retry_track(self._store, self._run_id, item["position"], self._owner, attempts=item["attempts"])
        else:
            self._fail(item, error.kind, str(error))

    def _drop(self, track: _Track) -> None:
        """Let go of a track: what is still under way of it comes to nothing."""
        track.is_dropped = True
        self._ready = deque(part for part in self._ready if part[0] is not track)
        if self._busy.get(track.decoder.connection) is track:
            del self._busy[track.decoder.connection]
            self._end_decoder(track.decoder)
        elif track in self._paused:
            self._paused.remove(track)
            self._end_decoder(track.decoder)
