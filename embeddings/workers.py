"""Decoding and embedding in processes of their own.

Each child has its pipes to its parent and nothing else, so that one that dies takes no lock and no other child with it:
its parent sees the end of its pipe. What crosses a pipe is a JSON header and the bytes of one array, never a pickle:
a child that reads strangers' files must not be able to hand its parent code to run, nor to keep it waiting. Whatever a
decoding child says is checked, and one that breaks the rules is as good as dead.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import re
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, current_thread, main_thread
from typing import Any

import numpy as np

from embeddings.errors import INVALID_AUDIO_KINDS, EmbeddingError, InvalidAudio, ModelError
from embeddings.extract import Encoder, read_recording
from embeddings.extract import End as End  # for those who receive it here
from embeddings.limits import DEFAULT_LIMITS, PULSE_S, Limits, allow_processor_s, confine_process
from embeddings.model_dir import find_model, load_calibration, load_cohort
from embeddings.presence import built_in_presence, log_mel
from embeddings.vocals import CHUNK, MIN_RECORDING_S, VocalWindows, Windows

#: `spawn`, never `fork`: a forked child inherits torch's threads and the store's connections half alive.
_SPAWN = multiprocessing.get_context("spawn")

#: Seconds that a child is given to be gone.
_GRACE_S = 5.0

#: In front of every message: bytes of its header and of its array; and the most of each that is ever sent.
_SIZES = struct.Struct("<II")
_MAX_HEADER_BYTES = 2**20
_MAX_ARRAY_BYTES = 2**28

#: Characters of a reason that a child may give.
_MAX_REASON = 1000


class WorkerDied(EmbeddingError):
    """A child process is gone in the middle of its work.

    Parameters
    ----------
    reason : str
        For people.
    kind : {"crashed", "timeout"}
        Whether it died (killed, out of memory, a crash in a decoder, an answer that is none), or took too long.
    """

    def __init__(self, reason: str, kind: str = "crashed") -> None:
        super().__init__(reason)
        self.kind = kind


class _Overdue(Exception):
    """An answer has not come in time."""


class _Child:
    """A child process and the pipe to it."""

    _ROLE: str  #: for messages

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=target, args=(theirs, *args), daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()  # or the end of the child would not be the end of the pipe

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def _send(self, header: dict[str, Any], array: np.ndarray | None = None) -> None:
        try:
            _send(self.connection, header, array)
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> tuple[Any, bytearray]:
        try:
            return _receive(self.connection)
        except (EOFError, OSError) as error:
            raise self._died() from error

    def _died(self) -> WorkerDied:
        self._process.join(_GRACE_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = {number.value: number.name for number in signal.Signals}.get(-code, f"signal {-code}")
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return WorkerDied(f"the process that {self._ROLE} was ended by {name}{hint}")
        end = "closed its pipe" if code is None else f"ended with code {code}"
        return WorkerDied(f"the process that {self._ROLE} {end}")

    def close(self) -> None:
        """End the child; safe to repeat."""
        self.connection.close()
        self._process.kill()  # it has nothing to put in order
        self._process.join(_GRACE_S)  # no longer: one that waits for a dead disk cannot even be killed


class DecoderProcess(_Child):
    """Reads recordings in a child process, one at a time; gives their vocal windows in chunks, each when asked for.

    `start` asks for the first chunk of a recording and `ask` for each next one; `receive` waits for the answer, and
    `connection` can be waited on together with others.

    Parameters
    ----------
    rate_hz, window_s, hop_s
        Of the encoder that the windows are for.
    limits : Limits
        What one recording may cost; set anew for each, apart from the memory.

    Raises
    ------
    ValueError, ModelDamaged
        As `VocalWindows` raises them.
    """

    _ROLE = "decoded it"

    def __init__(self, rate_hz: int, window_s: float, hop_s: float, limits: Limits = DEFAULT_LIMITS) -> None:
        VocalWindows([], rate_hz, window_s, hop_s)  # says here what the child could say of no recording
        self._rate_hz, self._window_s, self._hop_s, self._limits = rate_hz, window_s, hop_s, limits
        self._pulse, theirs = _SPAWN.Pipe(duplex=False)
        os.set_blocking(self._pulse.fileno(), False)
        self._due_s, self._pulses_left, self._windows_left = math.inf, 0, 0
        with theirs, _environment("OPENBLAS_NUM_THREADS", "1"):  # idle threads count as processor time and memory
            super().__init__(_decode_forever, theirs, rate_hz, window_s, hop_s, limits)

    def start(self, path: Path) -> None:
        """Begin with a recording."""
        most_s = 3600 * self._limits.max_hours
        self._heard()  # nothing of the recording before counts for this one
        self._pulses_left = math.ceil(most_s / PULSE_S)
        self._windows_left, self._last_start_s = math.ceil(most_s / self._hop_s) + 1, -1.0
        self._ask({"path": str(path)})

    def ask(self) -> None:
        """Ask for the next chunk."""
        self._ask({})

    def _ask(self, request: dict[str, Any]) -> None:
        self._send(request)
        self._due_s, self._reprieved = time.monotonic() + self._limits.stall_s, False

    @property
    def deadline_s(self) -> float:
        """When the answer that is awaited is overdue, as `time.monotonic` counts; inf where none is.

        It moves on while the child goes on decoding, so look at it again before you call `expire`.
        """
        if self._due_s == math.inf:
            return math.inf
        now_s = time.monotonic()
        if self._heard():
            self._due_s, self._reprieved = now_s + self._limits.stall_s, False
        elif now_s >= self._due_s and not self._reprieved:
            # We may have been stopped ourselves (Ctrl-Z), and the child with us.
            self._due_s, self._reprieved = now_s + min(_GRACE_S, self._limits.stall_s), True
        return self._due_s

    def _heard(self) -> bool:
        """Whether the child gave a sign of life since the last look; no more of them than a recording can be long."""
        try:
            n_pulses = len(os.read(self._pulse.fileno(), 2**16))
        except OSError:  # nothing there, or closed
            return False
        self._pulses_left -= n_pulses
        return n_pulses > 0 and self._pulses_left >= 0

    def expire(self) -> WorkerDied:
        """End a child whose answer is overdue; returns what to say of the recording."""
        self.close()
        return WorkerDied(
            f"decoding it came no further for {self._limits.stall_s:g} s, more is not allowed; is it damaged, or its "
            "disk slow? Convert it to WAV or FLAC, or copy it",
            "timeout",
        )

    def receive(self) -> Windows | End:
        """Return what was asked for: a chunk, or the end of the recording.

        Raises
        ------
        InvalidAudio
            The file cannot be used as a recording; the child is ready for the next one.
        WorkerDied
            The child is gone; make another.
        """
        if self._due_s == math.inf:
            raise RuntimeError("nothing was asked for: start or ask comes first")
        try:
            header, samples = _receive(
                self.connection, lambda: self.deadline_s, 4 * CHUNK * round(self._window_s * self._rate_hz)
            )
            answer = self._checked(header, samples)
        except _Overdue as error:
            raise self.expire() from error
        except (EOFError, OSError) as error:
            raise self._died() from error
        except (ValueError, RecursionError) as error:
            self.close()
            raise WorkerDied(f"the process that decoded it gave an answer that is none: {error}") from error
        finally:
            self._due_s = math.inf
        if isinstance(answer, InvalidAudio):
            raise answer
        return answer

    def _checked(self, header: Any, samples: bytearray) -> Windows | End | InvalidAudio:
        """What a message means; raises `ValueError` where it means nothing that this recording could give."""
        most_s = 3600 * self._limits.max_hours + 1.0
        match header:
            case {"start_s": list(starts), "presence": list(presence)}:
                n_windows = len(starts)
                self._windows_left -= n_windows
                n_samples, rest = divmod(len(samples), 4 * max(1, n_windows))
                fits = MIN_RECORDING_S * self._rate_hz <= n_samples <= round(self._window_s * self._rate_hz)
                if rest or not fits or len(presence) != n_windows or self._windows_left < 0:
                    raise ValueError(f"{n_windows} windows in {len(samples)} bytes")
                windows = np.frombuffer(samples, "<f4").reshape(n_windows, n_samples)
                if not np.isfinite(windows).all():
                    raise ValueError("samples that are not finite")
                start_s = np.array([_number(value, most_s) for value in starts], np.float64)
                if not (np.diff(start_s, prepend=self._last_start_s) > 0).all():
                    raise ValueError("windows that are not in time order")
                self._last_start_s = float(start_s[-1])
                return Windows(windows, start_s, np.array([_number(value, 1.0) for value in presence], np.float32))
            case {"duration_s": duration_s, "voiced_s": voiced_s, "content_id": str(content_id)}:
                if not re.fullmatch("[0-9a-f]{64}", content_id):
                    raise ValueError("a content id that is not 64 hexadecimal digits")
                return End(_number(duration_s, most_s), _number(voiced_s, most_s), content_id)
            case {"invalid": str(kind), "reason": str(reason)}:
                if kind not in INVALID_AUDIO_KINDS.keys() - {"crashed", "timeout"}:
                    raise ValueError("a fault of no known kind")
                if len(reason) > _MAX_REASON or not reason.isprintable():
                    raise ValueError("a reason that cannot be shown")
                return InvalidAudio(kind, reason)
            case {"bug": str(text)} if len(text) <= _MAX_REASON and text.isprintable():
                self.close()
                raise WorkerDied(f"decoding it failed by a mistake in Likeness, please report it: {text}")
            case _:
                raise ValueError("a message of no known form")

    def _died(self) -> WorkerDied:
        death = super()._died()
        if self._process.exitcode == -signal.SIGXCPU:
            return WorkerDied(
                f"decoding it took more than {self._limits.processor_text()}; is it damaged? Convert it to WAV or FLAC",
                "timeout",
            )
        return WorkerDied(f"{death}; if it plays elsewhere, convert it to WAV or FLAC", death.kind)

    def close(self) -> None:
        """End the child; safe to repeat."""
        self._due_s = math.inf
        super().close()
        self._pulse.close()


class ChildDecoder:
    """Reads recordings one after the other in a child process, which is replaced when it has died.

    Parameters
    ----------
    encoder : Encoder
        What the windows are for.
    limits : Limits
        What one recording may cost.
    """

    def __init__(self, encoder: Encoder, limits: Limits = DEFAULT_LIMITS) -> None:
        self._make = partial(DecoderProcess, encoder.rate_hz, encoder.window_s, encoder.hop_s, limits)
        self._process: DecoderProcess | None = self._make()  # now: it takes a moment

    def read(self, path: Path) -> Iterator[Windows | End]:
        """Give the vocal windows of a recording in time order, and at last its end.

        Raises
        ------
        InvalidAudio
            The file cannot be used as a recording, or the child died ("crashed") or took too long ("timeout").
        """
        process = self._process = self._process or self._make()
        is_ready = False
        try:
            process.start(path)
            while not isinstance(part := process.receive(), End):
                yield part
                process.ask()
            is_ready = True
        except InvalidAudio as error:
            is_ready = True
            raise InvalidAudio(error.kind, error.reason, path) from error
        except WorkerDied as error:
            raise InvalidAudio(error.kind, str(error), path) from error
        finally:
            if not is_ready:  # dead, or left in the middle of a recording
                process.close()
                self._process = None
        yield part

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.close()


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
        self._send({"shape": samples.shape}, samples)

    def receive(self) -> np.ndarray:
        """Return the vectors of the windows that were started first, (n, dim) float32; raises `WorkerDied`."""
        header, vectors = self._receive()
        if "error" in header:
            raise ModelError(header["error"])
        return np.frombuffer(vectors, "<f4").reshape(header["shape"])


def _decode_forever(
    connection: Connection, pulse: Connection, rate_hz: int, window_s: float, hop_s: float, limits: Limits
) -> None:
    _leave_interrupts_to_the_parent()
    with Path(os.devnull).open("wb") as nothing:  # decoders grumble there; a mistake of ours goes through the pipe
        os.dup2(nothing.fileno(), 2)
    # Before: what the network needs, and BLAS for its first product, is not the recording's.
    built_in_presence().frame_logits(log_mel(np.zeros((8, 4 * rate_hz), np.float32)))
    confine_process(limits)

    def answers(path: Path) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        began_s, told_s = time.process_time(), 0.0
        allow_processor_s(began_s, limits.cpu_s)

        def go_on(read_s: float) -> None:
            nonlocal told_s
            if read_s >= told_s + PULSE_S:
                told_s = read_s
                allow_processor_s(began_s, limits.cpu_s + limits.cpu_share * read_s)
                os.write(pulse.fileno(), b".")

        try:
            for part in read_recording(path, rate_hz, window_s, hop_s, limits=limits, on_read=go_on):
                if isinstance(part, End):
                    yield vars(part), None
                else:
                    yield {"start_s": part.start_s.tolist(), "presence": part.presence.tolist()}, part.samples
        except InvalidAudio as error:
            yield {"invalid": error.kind, "reason": _printable(error.reason)[:_MAX_REASON]}, None
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
            yield {"bug": _printable(f"{error!r} at {where}")[:_MAX_REASON]}, None

    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            for header, samples in answers(Path(_receive(connection)[0]["path"])):
                _send(connection, header, samples)
                if samples is not None:
                    _receive(connection)  # the parent asks for more when it has room for it


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
                vectors = encoder.embed_windows(samples)
                _send(connection, {"shape": vectors.shape}, vectors)
            except EmbeddingError as error:
                _send(connection, {"error": str(error)})


def _read_windows(connection: Connection, waiting: SimpleQueue[np.ndarray | None]) -> None:
    """Put what arrives into the queue, and None at the end; the parent bounds how much it sends ahead."""
    try:
        while True:
            header, samples = _receive(connection)
            # A bytearray, not bytes: torch wants to be able to write.
            waiting.put(np.frombuffer(samples, "<f4").reshape(header["shape"]))
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


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for what is started meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _number(value: Any, most: float) -> float:
    """A number of [0, most], as JSON gives it."""
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError(f"not a number of 0 to {most:g}")
    return float(value)


def _send(connection: Connection, header: dict[str, Any], array: np.ndarray | None = None) -> None:
    text = json.dumps(header).encode()
    samples = b"" if array is None else np.ascontiguousarray(array, "<f4").tobytes()
    for part in (_SIZES.pack(len(text), len(samples)) + text, samples):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(connection.fileno(), rest) :]


def _receive(
    connection: Connection, deadline_s: Callable[[], float] | None = None, max_bytes: int = _MAX_ARRAY_BYTES
) -> tuple[Any, bytearray]:
    """Read a message, all of it by the deadline: one that has begun to come may still never end.

    Raises
    ------
    ValueError
        It is too long, or its header is not JSON.
    EOFError, OSError, _Overdue
        The other side is gone, or late.
    """
    n_text, n_bytes = _SIZES.unpack(_read(connection, _SIZES.size, deadline_s))
    if n_text > _MAX_HEADER_BYTES or n_bytes > max_bytes:
        raise ValueError(f"a message of {n_text} + {n_bytes} bytes, at most {_MAX_HEADER_BYTES} + {max_bytes} are read")
    header = json.loads(_read(connection, n_text, deadline_s))
    return header, _read(connection, n_bytes, deadline_s)


def _read(connection: Connection, n_bytes: int, deadline_s: Callable[[], float] | None) -> bytearray:
    data = bytearray(n_bytes)
    rest = memoryview(data)
    while rest:
        if deadline_s is not None:
            while not connection.poll(max(0.0, deadline_s() - time.monotonic())):
                if deadline_s() <= time.monotonic():
                    raise _Overdue
        n_read = os.readv(connection.fileno(), [rest])
        if n_read == 0:
            raise EOFError
        rest = rest[n_read:]
    return data
