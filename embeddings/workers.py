"""Decoding and embedding in processes of their own, for work on many recordings.

Each child has one pipe to its parent and nothing else, so that one that dies takes no lock and no other child with it:
its parent sees the end of its pipe. What crosses a pipe is a JSON header and the bytes of one array, never a pickle:
a child that reads strangers' files must not be able to hand its parent code to run.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, current_thread, main_thread
from typing import Any

import numpy as np

from embeddings.audio import open_audio
from embeddings.errors import EmbeddingError, InvalidAudio, ModelError
from embeddings.extract import Encoder
from embeddings.model_dir import find_model, load_calibration, load_cohort
from embeddings.vocals import VocalWindows, Windows

#: `spawn`, never `fork`: a forked child inherits torch's threads and the store's connections half alive.
_SPAWN = multiprocessing.get_context("spawn")

#: Seconds that a child is given to end by itself once its pipe is closed.
_GRACE_S = 5.0


class WorkerDied(EmbeddingError):
    """A child process ended in the middle of its work: killed, out of memory, or a crash in a decoder."""


@dataclass(frozen=True)
class End:
    """A recording was read to its end."""

    duration_s: float
    voiced_s: float
    content_id: str


class _Child:
    """A child process and the pipe to it."""

    _ROLE: str  #: for messages

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=target, args=(theirs, *args), daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()  # or the end of the child would not be the end of the pipe

    def _send(self, header: dict[str, Any], array: np.ndarray | None = None) -> None:
        try:
            _send(self.connection, header, array)
        except OSError as error:
            raise WorkerDied(self._epitaph()) from error

    def _receive(self) -> tuple[dict[str, Any], np.ndarray]:
        try:
            return _receive(self.connection)
        except (EOFError, OSError) as error:
            raise WorkerDied(self._epitaph()) from error

    def _epitaph(self) -> str:
        self._process.join(_GRACE_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"the process that {self._ROLE} was ended by {signal.Signals(-code).name}{hint}"
        return f"the process that {self._ROLE} ended with code {code}"

    def close(self) -> None:
        """End the child."""
        self.connection.close()
        self._process.terminate()
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class DecoderProcess(_Child):
    """Reads recordings in a child process, one at a time; gives their vocal windows in chunks, each when asked for.

    `start` asks for the first chunk of a recording and `ask` for each next one; `receive` waits for the answer, and
    `connection` can be waited on together with others.
    """

    _ROLE = "decoded it"

    def __init__(self, rate_hz: int, window_s: float, hop_s: float) -> None:
        super().__init__(_decode_forever, rate_hz, window_s, hop_s)

    def start(self, path: Path) -> None:
        """Begin with a recording."""
        self._send({"path": str(path)})

    def ask(self) -> None:
        """Ask for the next chunk."""
        self._send({"next": True})

    def receive(self) -> Windows | End:
        """Return what was asked for: a chunk, or the end of the recording.

        Raises
        ------
        InvalidAudio
            The file cannot be used as a recording.
        WorkerDied
            The child is gone; make another.
        """
        header, samples = self._receive()
        if "invalid" in header:
            raise InvalidAudio(header["invalid"], header["reason"])
        if "end" in header:
            return End(**header["end"])
        return Windows(
            samples=samples,
            start_s=np.array(header["start_s"], np.float64),
            presence=np.array(header["presence"], np.float32),
        )


class EncoderProcess(_Child):
    """An encoder in a child process; the parent needs no torch.

    Parameters
    ----------
    make_encoder : callable
        Called without arguments in the child; importable from there (a class, a function of a module, or a
        `functools.partial` of one).
    source : str
        What `make_encoder` loads, for messages, and for the cohort and calibration beside it.
    trusted : list of str
        Digests of model directories that may run.

    Attributes
    ----------
    encoder_id, dim, rate_hz, window_s, hop_s, cohort, calibration
        As `SpeechBrainEncoder`'s.
    """

    _ROLE = "runs the encoder"

    def __init__(self, make_encoder: Callable[[], Encoder], source: str, trusted: list[str]) -> None:
        directory = find_model(source, trusted=trusted)
        self.source = source
        self.cohort = load_cohort(directory)
        self.calibration = load_calibration(directory)
        super().__init__(_embed_forever, make_encoder)
        try:
            hello, _ = self._receive()
        except BaseException:  # Ctrl-C too: it takes seconds to load
            self.close()
            raise
        if "error" in hello:
            self.close()
            raise ModelError(hello["error"])
        self.encoder_id: str = hello["encoder_id"]
        self.dim: int = hello["dim"]
        self.rate_hz: int = hello["rate_hz"]
        self.window_s: float = hello["window_s"]
        self.hop_s: float = hello["hop_s"]

    def start(self, samples: np.ndarray) -> None:
        """Begin to embed (n, n_samples) float32 windows; does not wait for those that were started before."""
        self._send({}, samples)

    def receive(self) -> np.ndarray:
        """Return the vectors of the windows that were started first, (n, dim) float32; raises `WorkerDied`."""
        header, vectors = self._receive()
        if "error" in header:
            raise ModelError(header["error"])
        return vectors


def _decode_forever(connection: Connection, rate_hz: int, window_s: float, hop_s: float) -> None:
    _leave_interrupts_to_the_parent()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            path = Path(_receive(connection)[0]["path"])
            try:
                with open_audio(path, rate_hz) as stream:
                    selector = VocalWindows(stream, rate_hz, window_s, hop_s)
                    for windows in selector:
                        times = {"start_s": windows.start_s.tolist(), "presence": windows.presence.tolist()}
                        _send(connection, times, windows.samples)
                        _receive(connection)  # the parent asks for more when it has room for it
                    end = End(stream.duration_s, selector.voiced_s, stream.content_id)
                _send(connection, {"end": vars(end)})
            except InvalidAudio as error:
                _send(connection, {"invalid": error.kind, "reason": error.reason})


def _embed_forever(connection: Connection, make_encoder: Callable[[], Encoder]) -> None:
    _leave_interrupts_to_the_parent()
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            encoder = make_encoder()
        except EmbeddingError as error:
            _send(connection, {"error": str(error)})
            return
        _send(connection, {key: getattr(encoder, key) for key in ("encoder_id", "dim", "rate_hz", "window_s", "hop_s")})
        # Read while the model works: a parent that waits in a write for us, and we in ours for it, would wait for ever.
        waiting: SimpleQueue[np.ndarray | None] = SimpleQueue()
        Thread(target=_read_windows, args=(connection, waiting), daemon=True).start()
        while (samples := waiting.get()) is not None:
            try:
                _send(connection, {}, encoder.embed_windows(samples))
            except EmbeddingError as error:
                _send(connection, {"error": str(error)})


def _read_windows(connection: Connection, waiting: SimpleQueue[np.ndarray | None]) -> None:
    """Put what arrives into the queue, and None at the end; the parent bounds how much it sends ahead."""
    try:
        while True:
            waiting.put(_receive(connection)[1])
    except (EOFError, OSError):
        waiting.put(None)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a child is started, and in the child until it ignores it.

    Otherwise a child that is still importing when Ctrl-C comes, or that its parent leaves half started, prints a
    traceback. Ours is delivered afterwards. The child inherits the mask; the parent needs the handler too, because
    numpy's threads, which have no mask, would take the signal for it.
    """
    resource_tracker.ensure_running()  # begun by the first start otherwise, and undoes the mask
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    in_main = current_thread() is main_thread()  # the only one that may set a handler, and that Python interrupts
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if came:
            signal.raise_signal(signal.SIGINT)


def _leave_interrupts_to_the_parent() -> None:
    # Ctrl-C reaches every process of a terminal; the parent decides what becomes of the work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _send(connection: Connection, header: dict[str, Any], array: np.ndarray | None = None) -> None:
    shape = None if array is None else array.shape
    connection.send_bytes(json.dumps({**header, "_shape": shape}).encode())
    if array is not None:
        connection.send_bytes(np.ascontiguousarray(array, "<f4").data)


def _receive(connection: Connection) -> tuple[dict[str, Any], np.ndarray]:
    header = json.loads(connection.recv_bytes())
    shape = header.pop("_shape")
    if shape is None:
        return header, np.empty((0, 0), np.float32)
    # Through a bytearray: torch wants to be able to write.
    return header, np.frombuffer(bytearray(connection.recv_bytes()), "<f4").reshape(shape)
