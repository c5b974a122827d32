"""Many tracks in one run: decoders in processes, one encoder process, and this process, which alone writes.

Every track ends with exactly one outcome in the store, in one transaction: a verdict, or why there is none. What was
under way when a run stops has no outcome, and is begun again when the run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.errors import InvalidAudio
from embeddings.extract import Voiceprint
from embeddings.vocals import Windows
from embeddings.workers import DecoderProcess, EncoderProcess, End, WorkerDied
from registry import scans
from registry.errors import RunMismatch
from registry.manifest import COLUMNS
from registry.match import Matcher
from registry.records import BatchItem, Run, Scan, path_of
from registry.store import Store

#: Windows given to the encoder at once, and how many such batches it may have: one to work on, one to go on with.
BATCH_WINDOWS = 32
BATCHES_AHEAD = 2
#: Windows that may wait for the encoder before decoders are asked for no more: bounds the memory, whatever is decoded.
WAITING_WINDOWS = 4 * BATCH_WINDOWS


def open_run(
    store: Store,
    matcher: Matcher,
    inputs: Sequence[Path],
    items: Sequence[BatchItem],
    notify: Callable[[str], None],
    *,
    new_run: bool = False,
    repin: bool = False,
) -> Run:
    """The run to go on with, or a new one.

    The same inputs and threshold name the same run: one that was stopped is gone on with, one that was finished is not.
    A run keeps the list of tracks it began with. It is pinned to the state of the registry it began with; where that
    has changed since, its tracks would not have been matched alike, so the caller chooses: a new run (`new_run`), or
    the rest under the present state (`repin`).

    Parameters
    ----------
    inputs, items
        What was asked for, and what `list_items` gives for it now.
    notify : callable
        Takes a line for stderr (a run that begins anew, tracks that have come too late).

    Raises
    ------
    RunMismatch
        The registry changed since the run was stopped and neither choice was made.
    """
    pins = {
        "store_revision": matcher.store_revision,
        "encoder_id": matcher.encoder_id,
        "cohort_id": matcher.cohort_id,
        "threshold": matcher.threshold,
        "threshold_source": matcher.threshold_source,
        "version": version("likeness"),
    }
    # Paths as they were given, and where that was: what the outcomes say must mean the same when the run goes on.
    folder = "" if all(path.is_absolute() for path in inputs) else str(Path.cwd())
    asked = [sorted(map(str, inputs)), folder, matcher.threshold]
    inputs_key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    run = scans.open_run(store, inputs_key)
    if run is not None and new_run:
        scans.drop_run(store, run.run_id)
        run = None
    if run is None:
        run = scans.start_run(store, {"inputs_key": inputs_key, **pins}, items)
        if earlier := scans.finished_run(store, inputs_key):
            notify(
                f"run {run.run_id}: begins anew; run {earlier.run_id} examined the same inputs and was finished "
                f"at {earlier.finished_at}"
            )
        return run
    known = scans.run_paths(store, run.run_id)
    if new := [item.path for item in items if item.path not in known]:
        notify(
            f"run {run.run_id}: {len(new)} tracks have come since it began, such as {new[0]}; they are not part of it. "
            "The same command examines them too once this run is done, or --new-run begins again with everything"
        )
    if changed := [key for key in ("store_revision", "encoder_id", "cohort_id") if getattr(run, key) != pins[key]]:
        if not repin:
            raise RunMismatch(
                f"run {run.run_id}: the registry has changed since it was stopped ({', '.join(changed)}). Choose: "
                "--repin examines the rest with the registry as it is now, --new-run forgets this run and begins again"
            )
        scans.pin_run(store, run.run_id, pins)
        return scans.get_run(store, run.run_id)
    return run


def outcome_line(item: dict[str, Any], scan: Scan | None) -> dict[str, Any]:
    """One track's outcome as plain JSON types: the manifest's columns, then the outcome, then the scan."""
    line = {name: item[name] for name in ("position", *COLUMNS, "extra")}
    line |= {"outcome": item["outcome"], "kind": item["kind"], "reason": item["reason"]}
    return line | {"scan": None if scan is None else scan.as_dict()}


@dataclass
class _Track:
    """A track under way."""

    item: dict[str, Any]
    decoder: DecoderProcess
    chunks: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    n_waiting: int = 0
    end: End | None = None


class Pipeline:
    """Examines the open tracks of a run.

    Parameters
    ----------
    store, matcher
        The registry, and the state of it that the run is pinned to.
    encoder : EncoderProcess
        The one encoder.
    n_workers : int
        Decoder processes.
    """

    def __init__(self, store: Store, matcher: Matcher, encoder: EncoderProcess, n_workers: int) -> None:
        self._store, self._matcher, self._encoder = store, matcher, encoder
        self._n_workers = n_workers
        self._idle: list[DecoderProcess] = []
        self._busy: dict[Any, _Track] = {}  # by the decoder's connection
        self._paused: list[_Track] = []  # decoded a chunk, not asked for the next
        self._ready: deque[tuple[_Track, Windows]] = deque()  # for the encoder
        self._embedding: deque[list[tuple[_Track, Windows]]] = deque()  # with the encoder, oldest first

    def run(self, run: Run, on_outcome: Callable[[dict[str, Any], Scan | None], None]) -> None:
        """Examine every open track of `run`; `on_outcome` gets each one's row and scan once it is in the store."""
        self._on_outcome = on_outcome
        todo = deque(scans.run_tracks(self._store, run.run_id, done=False))
        try:
            self._idle = [self._new_decoder() for _ in range(min(self._n_workers, len(todo)))]
            while todo or self._busy or self._paused or self._ready or self._embedding:
                while todo and self._idle:
                    self._begin(todo.popleft())
                self._feed_encoder()
                self._ask_for_more()
                waiting_for = [*self._busy, *([self._encoder.connection] if self._embedding else [])]
                # With nothing to wait for (the last tracks failed before any decoder saw them) `wait` never returns.
                for connection in wait(waiting_for) if waiting_for else ():
                    if connection is self._encoder.connection:
                        self._take_vectors()
                    else:
                        self._take_windows(self._busy.pop(connection))
        finally:
            for decoder in [*self._idle, *(track.decoder for track in [*self._busy.values(), *self._paused])]:
                decoder.close()
        scans.finish_run(self._store, run.run_id)

    def _new_decoder(self) -> DecoderProcess:
        return DecoderProcess(self._encoder.rate_hz, self._encoder.window_s, self._encoder.hop_s)

    def _begin(self, item: dict[str, Any]) -> None:
        if not item["path"]:
            self._fail(item, "missing", "this row of the manifest has no `path`")
            return
        decoder = self._idle.pop()
        try:
            decoder.start(path_of(item["path"]))
        except WorkerDied:  # while it was idle, so this track has no part in it
            decoder.close()
            decoder = self._new_decoder()
            decoder.start(path_of(item["path"]))
        self._busy[decoder.connection] = _Track(item, decoder)

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

    def _feed_encoder(self) -> None:
        while self._ready and len(self._embedding) < BATCHES_AHEAD:
            batch = [self._ready.popleft()]
            n_samples, n_windows = batch[0][1].samples.shape[1], len(batch[0][1].samples)
            while self._ready and self._ready[0][1].samples.shape[1] == n_samples and n_windows < BATCH_WINDOWS:
                batch.append(self._ready.popleft())
                n_windows += len(batch[-1][1].samples)
            self._encoder.start(np.concatenate([windows.samples for _, windows in batch]))
            self._embedding.append(batch)

    def _take_vectors(self) -> None:
        vectors = self._encoder.receive()
        start = 0
        for track, windows in self._embedding.popleft():
            n, n_samples = windows.samples.shape
            end_s = windows.start_s + n_samples / self._encoder.rate_hz
            track.chunks.append((vectors[start : start + n], windows.start_s, end_s, windows.presence))
            track.n_waiting -= 1
            start += n
            self._finish_if_complete(track)

    def _finish_if_complete(self, track: _Track) -> None:
        if track.end is None or track.n_waiting or track.item["outcome"]:
            return
        nothing = (np.empty((0, self._encoder.dim), np.float32), np.empty(0), np.empty(0), np.empty(0, np.float32))
        vectors, start_s, end_s, presence = map(np.concatenate, zip(nothing, *track.chunks, strict=True))
        voiceprint = Voiceprint(vectors, start_s, end_s, presence, **vars(track.end))
        item = track.item
        scan = self._matcher.scan(item["path"], voiceprint, run_id=item["run_id"])
        scans.finish_track(self._store, item["run_id"], item["position"], scan=scan)
        item.update(outcome=scan.verdict, reason=scan.reason, kind=None)
        self._on_outcome(item, scan)

    def _bury(self, track: _Track, error: WorkerDied) -> None:
        track.decoder.close()
        self._idle.append(self._new_decoder())
        self._fail(track.item, "crashed", str(error))

    def _fail(self, item: dict[str, Any], kind: str, reason: str) -> None:
        scans.fail_track(self._store, item["run_id"], item["position"], kind=kind, reason=reason)
        item.update(outcome="failed", reason=reason, kind=kind)
        self._on_outcome(item, None)
