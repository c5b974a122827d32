"""A recording to the vectors of its vocal windows: audio, vocals and encoder in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from embeddings.audio import open_audio
from embeddings.vocals import VocalWindows


class Encoder(Protocol):
    """What this module needs of an encoder; `SpeechBrainEncoder` is the real one."""

    encoder_id: str
    dim: int
    rate_hz: int
    window_s: float
    hop_s: float

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        """Embed (n, n_samples) float32 windows into (n, dim) float32 unit rows."""


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


def embed_file(path: Path, encoder: Encoder, *, on_progress: Callable[[float], None] | None = None) -> Voiceprint:
    """Embed the vocal windows of the recording at `path`, in bounded memory whatever its length.

    Parameters
    ----------
    path : Path
        An audio file.
    encoder : Encoder
        What turns windows into vectors.
    on_progress : callable, optional
        Called with the seconds of the recording read so far.

    Raises
    ------
    InvalidAudio
        The file cannot be used as a recording.
    """
    vectors, starts, ends, presence = [], [], [], []
    with open_audio(path, encoder.rate_hz) as stream:
        selector = VocalWindows(stream, encoder.rate_hz, encoder.window_s, encoder.hop_s)
        for windows in selector:
            vectors.append(encoder.embed_windows(windows.samples))
            starts.append(windows.start_s)
            ends.append(windows.start_s + windows.samples.shape[1] / encoder.rate_hz)
            presence.append(windows.presence)
            if on_progress is not None:
                on_progress(float(ends[-1][-1]))
        return Voiceprint(
            vectors=np.concatenate(vectors) if vectors else np.empty((0, encoder.dim), np.float32),
            start_s=np.concatenate(starts) if starts else np.empty(0),
            end_s=np.concatenate(ends) if ends else np.empty(0),
            presence=np.concatenate(presence) if presence else np.empty(0, np.float32),
            duration_s=stream.duration_s,
            voiced_s=selector.voiced_s,
            content_id=stream.content_id,
        )
