"""Is a voice heard? A small network on log-mel features, in numpy, and what follows from its answer.

It judges every 64 ms from about a second before and after. Its weights and how they were made:
`scripts/train_presence.py`. It has features of its own, the same as the built-in encoder's, and serves every encoder.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import ThreadpoolController

from embeddings.errors import ModelDamaged

WEIGHTS = Path(__file__).parent / "vocal_presence.npz"
WEIGHTS_SHA256 = "7a7a8ab982d838859d03c6d0f1bd8c1311493e7c7afff34e4e50890f3b3351df"
FORMAT = 1

RATE_HZ = 16_000
N_FFT, HOP, N_MELS = 400, 256, 80  #: samples of a transform and from one to the next; bands up to half of `RATE_HZ`
LEAST_POWER, TOP_DB = 1e-10, 80.0  #: what counts as silence; dB below the loudest of a window that are left of it

STRIDE = 4  #: feature frames to a judged frame
#: Convolutions over time, in order: kernel in frames, step, dilation. Reflected by nothing: zeros lie beyond both ends.
LAYERS = ((5, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 4), (3, 1, 8))
FIRST_RESIDUAL = 3  #: from this layer on the input is added to the output

FRAME_S = STRIDE * HOP / RATE_HZ  #: from one judged frame to the next

FLOOR_DB = -60.0  #: dBFS (RMS of the loudest frame) below which a window is silent
RANGE_DB = 35.0  #: dB below the recent peak from which a window is silent: bleed into a pause is nobody's performance
RELEASE_DB_PER_S = 1.0  #: dB per second by which the recent peak is forgotten: a quiet verse follows a loud chorus
SILENT = -np.inf  #: evidence of a silent window

EVIDENCE_SHARE = 0.2  #: a window's evidence is the logit that this share of its frames reaches
#: Windows in a row whose evidence is averaged, 16 s. One window deceives: instruments now and then sound like a voice
#: for some seconds. Longer, a short verse in a long piece would be lost.
CONTEXT = 7
FRAME_MARGIN = 1.0  #: by which the logit of a voiced frame in a window that is kept may be below the threshold
HANGOVER_S = 0.4  #: seconds around voiced frames that are voice too: consonants, breaths, short pauses


@dataclass(frozen=True)
class Presence:
    """A trained network and its threshold.

    Attributes
    ----------
    weights : tuple of (n_in, n_out) float32
        Of the layers and of the output; rows by frame, then channel.
    biases : tuple of (n_out,) float32
    threshold : float
        Mean evidence of neighbouring windows from which on they have a voice; see `windows_with_voice`.
    trained : dict
        What it was trained with.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    threshold: float
    trained: dict[str, Any]

    def __post_init__(self) -> None:
        sizes = [N_MELS, *(bias.size for bias in self.biases)]
        kernels = [*(kernel for kernel, _, _ in LAYERS), 1]
        expected = [(kernel * n_in, n_out) for kernel, n_in, n_out in zip(kernels, sizes, sizes[1:], strict=False)]
        found = [weight.shape for weight in self.weights]
        if found != expected or len(found) != len(kernels) or sizes[-1] != 1:
            raise ValueError(f"weights are {found}, not {expected} of {len(kernels)} layers with one output")

    def frame_logits(self, features: np.ndarray) -> np.ndarray:
        """Judge every `STRIDE`-th frame of some windows.

        Parameters
        ----------
        features : (n, n_frames, `N_MELS`) float32
            dB, as `log_mel` gives them. Only levels relative to the loudest of the window count.

        Returns
        -------
        (n, ceil(n_frames / STRIDE)) float32
            The higher, the likelier a voice.
        """
        if features.ndim != 3 or features.shape[2] != N_MELS or not features.size:
            raise ValueError(f"features must be (n, n_frames, {N_MELS}), not {features.shape}")
        with _one_thread():
            x = (features - features.max(axis=(1, 2), keepdims=True)) / 20 + 2
            for number, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
                y = _reached(x, *LAYERS[number]) @ weight
                y += bias
                np.maximum(y, 0, out=y)
                x = x + y if number >= FIRST_RESIDUAL else y
            logits: np.ndarray = (x @ self.weights[-1] + self.biases[-1])[..., 0]
        return logits

    def voiced_frames(self, logits: np.ndarray) -> np.ndarray:
        """(n, n_frames) bool: which frames of windows that are kept are voice; see `FRAME_MARGIN`, `HANGOVER_S`."""
        reach = round(HANGOVER_S / FRAME_S)
        sure = np.pad(logits > self.threshold - FRAME_MARGIN, ((0, 0), (reach, reach)))
        voiced: np.ndarray = np.any(sliding_window_view(sure, 2 * reach + 1, axis=1), axis=-1)
        return voiced


def window_evidence(logits: np.ndarray) -> np.ndarray:
    """Evidence of a voice in each of some windows: (n, n_frames) logits to (n,) of them; see `EVIDENCE_SHARE`."""
    n_frames = logits.shape[1]
    at = n_frames - max(1, int(np.ceil(EVIDENCE_SHARE * n_frames)))
    evidence: np.ndarray = np.partition(logits, at, axis=1)[:, at]
    return evidence


def window_levels(samples: np.ndarray) -> np.ndarray:
    """Level of the loudest frame of each of some windows: (n, n_samples) float32 to (n,) dBFS (RMS)."""
    n_samples = STRIDE * HOP
    whole = samples[:, : samples.shape[1] // n_samples * n_samples]
    power = np.square(whole.reshape(len(samples), -1, n_samples)).mean(axis=2, dtype=np.float64).max(axis=1)
    levels: np.ndarray = 10 * np.log10(power + 1e-20)
    return levels


def audible_windows(level_db: np.ndarray, start_s: np.ndarray, peak: float = -np.inf) -> tuple[np.ndarray, float]:
    """Say which windows of a recording are not silent, see `FLOOR_DB` and `RANGE_DB`.

    Parameters
    ----------
    level_db : (n,) float
        Of `window_levels`, in time order; not all of the recording need be given at once.
    start_s : (n,) float
    peak : float
        What this gave with the windows before.

    Returns
    -------
    audible : (n,) bool
    peak : float
        Give it with the next windows.
    """
    forgotten_db = RELEASE_DB_PER_S * start_s
    peaks = np.maximum.accumulate(np.append(peak, level_db + forgotten_db))
    return level_db >= np.maximum(FLOOR_DB, peaks[1:] - forgotten_db - RANGE_DB), float(peaks[-1])


def windows_with_voice(evidence: np.ndarray, threshold: float) -> np.ndarray:
    """Say which windows of a recording have a voice.

    Parameters
    ----------
    evidence : (n,) float
        Of all windows in time order, `SILENT` of those.
    threshold : float

    Returns
    -------
    (n,) bool
        The window's own evidence is at least `threshold`, and so is the mean over some run of `CONTEXT` windows that it
        is in (of all windows where there are fewer), silent ones left out. It depends on `CONTEXT` - 1 windows at
        either side, no others.
    """
    if not len(evidence):
        return np.zeros(0, np.bool_)
    length = min(CONTEXT, len(evidence))
    heard = np.isfinite(evidence)
    sums = sliding_window_view(np.where(heard, evidence, 0), length).sum(axis=1, dtype=np.float64)
    counts = sliding_window_view(heard, length).sum(axis=1)
    is_voice = (counts > 0) & (sums >= threshold * counts)
    near_voice = np.any(sliding_window_view(np.pad(is_voice, length - 1), length), axis=-1)
    found: np.ndarray = near_voice & (evidence >= threshold)
    return found


class VoiceClock:
    """Counts the time with voice of windows that are given in time order, overlaps once, in bounded memory."""

    def __init__(self) -> None:
        self._n_frames = 0
        self._recent = np.empty(0, np.int64)  # frames that a later window may count again

    def add(self, start_s: np.ndarray, voiced: np.ndarray) -> None:
        """Take windows that start at (n,) seconds, with (n, n_frames) bool of `Presence.voiced_frames`."""
        if not len(start_s):
            return
        first = np.rint(start_s / FRAME_S).astype(np.int64)
        new = np.setdiff1d((first[:, None] + np.arange(voiced.shape[1]))[voiced], self._recent)
        self._n_frames += len(new)
        recent = np.concatenate([self._recent, new])
        self._recent = recent[recent >= first[-1]]

    @property
    def seconds(self) -> float:
        """Voice heard until now."""
        return self._n_frames * FRAME_S


# --- features ---------------------------------------------------------------------------------------------------------


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log-mel features, as SpeechBrain's `Fbank(n_mels=80, hop_length=16)` gives them.

    Parameters
    ----------
    samples : (n, n_samples) float32
        Windows at `RATE_HZ`.

    Returns
    -------
    (n, 1 + n_samples // `HOP`, `N_MELS`) float32
        dB, at most `TOP_DB` below the loudest of the window.
    """
    taper, mel = _tables()
    padded = np.pad(samples, ((0, 0), (N_FFT // 2, N_FFT // 2)))
    frames = sliding_window_view(padded, N_FFT, axis=1)[:, ::HOP]
    spectrum = np.fft.rfft(frames * taper)
    with _one_thread():
        power = (spectrum.real**2 + spectrum.imag**2) @ mel
    decibels: np.ndarray = 10 * np.log10(np.maximum(power, np.float32(LEAST_POWER)))
    decibels = np.maximum(decibels, decibels.max(axis=(1, 2), keepdims=True) - TOP_DB)
    return decibels


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """(N_FFT,) Hamming window; (N_FFT // 2 + 1, N_MELS) triangles, evenly spaced in mel and of even slopes in Hz."""
    taper = np.hamming(N_FFT + 1)[:-1]
    mels = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), N_MELS + 2)
    hz = 700 * (10 ** (mels / 2595) - 1)
    distance = np.abs(np.linspace(0, RATE_HZ / 2, N_FFT // 2 + 1)[:, None] - hz[1:-1]) / np.diff(hz)[:-1]
    return taper.astype(np.float32), np.maximum(0, 1 - distance).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the BLAS of this process to one thread: OpenBLAS's others wait by spinning, which is slow beside other work.

    One at a time: two that overlapped would leave the limit behind.
    """
    with _lock, _blas().limit(limits=1, user_api="blas"):
        yield


_lock = Lock()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


# --- the file ---------------------------------------------------------------------------------------------------------


@cache
def built_in_presence() -> Presence:
    """The network that comes with Likeness; raises `ModelDamaged` where its file is not the one that was released."""
    return load_presence(WEIGHTS, WEIGHTS_SHA256)


def load_presence(path: Path, sha256: str | None = None) -> Presence:
    """Load a network, whose file has this sha256 if one is named; raises `ModelDamaged` where there is none."""
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"its sha256 is not {sha256}")
        with np.load(io.BytesIO(content), allow_pickle=False) as data:
            card = json.loads(str(data["card"]))
            if card["format"] != FORMAT:
                raise ValueError(f"format {card['format']}, {FORMAT} is needed")
            n_layers = len(LAYERS) + 1
            weights = tuple(np.ascontiguousarray(data[f"weight{i}"], np.float32) for i in range(n_layers))
            biases = tuple(np.ascontiguousarray(data[f"bias{i}"], np.float32) for i in range(n_layers))
        if not all(np.isfinite(array).all() for array in (*weights, *biases)):
            raise ValueError("weights are not finite")
        return Presence(weights, biases, float(card["threshold"]), dict(card["trained"]))
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
        raise ModelDamaged(f"{path}: no vocal presence network ({error}); install Likeness again") from error


def write_presence(path: Path, presence: Presence) -> None:
    """Write a network; the same one gives the same arrays and card."""
    card = {"format": FORMAT, "threshold": presence.threshold, "trained": presence.trained}
    arrays = {f"weight{i}": weight for i, weight in enumerate(presence.weights)}
    arrays |= {f"bias{i}": bias for i, bias in enumerate(presence.biases)}
    with path.open("wb") as file:  # np.savez would add .npz to a path without
        np.savez(file, allow_pickle=False, card=np.array(json.dumps(card, sort_keys=True)), **arrays)


def _reached(x: np.ndarray, kernel: int, step: int, dilation: int) -> np.ndarray:
    """Put side by side what a layer reads: (n, time, channels) to (n, ceil(time / step), kernel * channels)."""
    n_frames, zeros = x.shape[1], dilation * (kernel // 2)
    x = np.pad(x, ((0, 0), (zeros, zeros), (0, 0)))
    return np.concatenate([x[:, i * dilation : i * dilation + n_frames : step] for i in range(kernel)], axis=2)
