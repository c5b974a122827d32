"""A recording to the vectors of its vocal windows: audio, vocals and encoder in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from embeddings.audio import open_audio
from embeddings.errors import InvalidAudio
from embeddings.limits import DEFAULT_LIMITS, Limits
from embeddings.vocals import VocalWindows, Windows


class Encoder(Protocol):
    """What this module needs of an encoder; `SpeechBrainEncoder` is the real one."""

    encoder_id: str
    dim: int
    rate_hz: int  #: 16,000: voice is looked for at no other
    window_s: float
    hop_s: float

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        """Embed (n, n_samples) float32 windows into (n, dim) float32 unit rows."""


@dataclass(frozen=True)
class End:
    """A recording was read to its end: what is known of the whole."""

    duration_s: float
    voiced_s: float
    content_id: str


class Decoder(Protocol):
    """What reads recordings for an encoder; `workers.ChildDecoder` is the one for files of strangers."""

    def read(self, path: Path) -> Iterator[Windows | End]:
        """Give the vocal windows of a recording in time order, and at last its end; raises `InvalidAudio`."""


@dataclass(frozen=True)
class Voiceprint:
    """The voice of one recording.

    Attributes
    ----------
    vectors : (n, dim) float32
        Unit rows, one per window that carries voice, in time order; n may be 0.
    start_s, end_s : (n,) float64
        Where each window lies in the recording, in seconds.
    presence : (n,) float32
        Share of each window in which voice was found, in [0, 1].
    duration_s, voiced_s : float
        Seconds of the recording, and seconds of it in which voice was found.
    content_id : str
        sha256 over the decoded samples: the same sound in another container has the same id.
    """

    vectors: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    presence: np.ndarray
    duration_s: float
    voiced_s: float
    content_id: str


def read_recording(
    path: Path,
    rate_hz: int,
    window_s: float,
    hop_s: float,
    *,
    limits: Limits = DEFAULT_LIMITS,
    on_read: Callable[[float], None] | None = None,
) -> Iterator[Windows | End]:
    """Give the vocal windows of a recording in time order, and at last its end, decoding in this process.

    Parameters
    ----------
    rate_hz, window_s, hop_s
        Of the encoder.
    limits, on_read
        As `open_audio` takes them.

    Raises
    ------
    InvalidAudio
        The file cannot be used as a recording.
    """
    try:
        with open_audio(path, rate_hz, limits=limits, on_read=on_read) as stream:
            selector = VocalWindows(stream, rate_hz, window_s, hop_s)
            yield from selector
            end = End(stream.duration_s, selector.voiced_s, stream.content_id)
    except MemoryError as error:
        allowed = f"decoding it takes more than the {limits.memory_bytes / 2**20:.0f} MiB of memory allowed"
        raise InvalidAudio("limit", f"{allowed}; convert it to WAV or FLAC", path) from error
    yield end


def embed_file(
    path: Path,
    encoder: Encoder,
    *,
    decoder: Decoder | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Voiceprint:
    """Embed the vocal windows of the recording at `path`, in bounded memory whatever its length.

    Parameters
    ----------
    path : Path
        An audio file.
    encoder : Encoder
        What turns windows into vectors.
    decoder : Decoder, optional
        What decodes. Without one it is done in this process, which a hostile file can crash or hold up.
    on_progress : callable, optional
        Called with the seconds of the recording read so far.

    Raises
    ------
    InvalidAudio
        The file cannot be used as a recording.
    """

    def read() -> Iterator[Windows | End]:
        if decoder is not None:
            return decoder.read(path)
        return read_recording(path, encoder.rate_hz, encoder.window_s, encoder.hop_s)

    try:
        return _embed(read(), encoder, on_progress)
    except InvalidAudio as error:
        if error.kind != "crashed":
            raise
    # From the beginning: a process can die for what has nothing to do with the file, which may be another one by now.
    return _embed(read(), encoder, on_progress)


def _embed(
    recording: Iterator[Windows | End], encoder: Encoder, on_progress: Callable[[float], None] | None
) -> Voiceprint:
    vectors: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    presence: list[np.ndarray] = []
    for part in recording:
        if isinstance(part, End):
            return Voiceprint(
                vectors=np.concatenate(vectors) if vectors else np.empty((0, encoder.dim), np.float32),
                start_s=np.concatenate(starts) if starts else np.empty(0),
                end_s=np.concatenate(ends) if ends else np.empty(0),
                presence=np.concatenate(presence) if presence else np.empty(0, np.float32),
                **vars(part),
            )
        vectors.append(encoder.embed_windows(part.samples))
        starts.append(part.start_s)
        ends.append(part.start_s + part.samples.shape[1] / encoder.rate_hz)
        presence.append(part.presence)
        if on_progress is not None:
            on_progress(float(ends[-1][-1]))
    raise ValueError("a recording without an end: the decoder stopped early")
