"""Is a voice heard? A small network on the encoder's log-mel features, in numpy, and what follows from its answer.

It judges every 64 ms from about a second around it. Its weights lie beside the encoder's, in `PRESENCE`, written by
`scripts/train_presence.py`, which also says how it was trained. It reads features only, no weights of the encoder: it
serves every encoder that has the same features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from embeddings.errors import ModelDamaged

PRESENCE = "vocal_presence.npz"
FORMAT = 1

STRIDE = 4  #: feature frames to a judged frame
#: Convolutions over time, in order: kernel in frames, step, dilation. Reflected by nothing: zeros lie beyond both ends.
LAYERS = ((5, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 4), (3, 1, 8))
FIRST_RESIDUAL = 3  #: from this layer on the input is added to the output

MatMul = Callable[[np.ndarray, np.ndarray], np.ndarray]

EVIDENCE_SHARE = 0.2  #: a window's evidence is the logit that this share of its frames reaches
#: Windows in a row whose evidence is averaged, 16 s. One window deceives: at the same instruments left alone, songs at
#: 0 dB missed on fold A are 28 % with 1, 22 % with 5, 19 % with 7; longer, a short verse in a long piece would be lost.
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
    frame_s : float
        Seconds from one judged frame to the next.
    n_mels : int
        Bands of the features.
    trained : dict
        What it was trained with, for the card.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    threshold: float
    frame_s: float
    n_mels: int
    trained: dict[str, Any]

    def __post_init__(self) -> None:
        sizes = [self.n_mels, *(bias.size for bias in self.biases)]
        kernels = [*(kernel for kernel, _, _ in LAYERS), 1]
        expected = [(kernel * n_in, n_out) for kernel, n_in, n_out in zip(kernels, sizes, sizes[1:], strict=False)]
        found = [weight.shape for weight in self.weights]
        if found != expected or len(found) != len(kernels) or sizes[-1] != 1:
            raise ValueError(f"weights are {found}, not {expected} of {len(kernels)} layers with one output")

    def frame_logits(self, features: np.ndarray, matmul: MatMul = np.matmul) -> np.ndarray:
        """Judge every `STRIDE`-th frame of some windows.

        Parameters
        ----------
        features : (n, n_frames, n_mels) float32
            dB, as the encoder's `Fbank` gives them, not normalised. Only levels relative to the loudest of the window
            count.
        matmul : callable
            Multiplies (n, m, k) by (k, l). A process that runs torch had better give torch's: numpy's BLAS has threads
            of its own, which wait by spinning, and both then want the same cores.

        Returns
        -------
        (n, ceil(n_frames / STRIDE)) float32
            The higher, the likelier a voice.
        """
        if features.ndim != 3 or features.shape[2] != self.n_mels or not features.size:
            raise ValueError(f"features must be (n, n_frames, {self.n_mels}), not {features.shape}")
        x = (features - features.max(axis=(1, 2), keepdims=True)) / 20 + 2
        for number, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
            y = matmul(_reached(x, *LAYERS[number]), weight)
            y += bias
            np.maximum(y, 0, out=y)
            x = x + y if number >= FIRST_RESIDUAL else y
        logits: np.ndarray = (matmul(x, self.weights[-1]) + self.biases[-1])[..., 0]
        return logits

    def voiced_frames(self, logits: np.ndarray) -> np.ndarray:
        """(n, n_frames) bool: which frames of windows that are kept are voice; see `FRAME_MARGIN`, `HANGOVER_S`."""
        reach = round(HANGOVER_S / self.frame_s)
        sure = np.pad(logits > self.threshold - FRAME_MARGIN, ((0, 0), (reach, reach)))
        voiced: np.ndarray = np.any(sliding_window_view(sure, 2 * reach + 1, axis=1), axis=-1)
        return voiced


def window_evidence(logits: np.ndarray) -> np.ndarray:
    """Evidence of a voice in each of some windows: (n, n_frames) logits to (n,) of them; see `EVIDENCE_SHARE`."""
    n_frames = logits.shape[1]
    at = n_frames - max(1, int(np.ceil(EVIDENCE_SHARE * n_frames)))
    evidence: np.ndarray = np.partition(logits, at, axis=1)[:, at]
    return evidence


def windows_with_voice(evidence: np.ndarray, threshold: float) -> np.ndarray:
    """Say which windows of a recording have a voice.

    Parameters
    ----------
    evidence : (n,) float
        Of all windows in time order.
    threshold : float

    Returns
    -------
    (n,) bool
        The window's own evidence is at least `threshold`, and so is the mean over some run of `CONTEXT` windows that it
        is in (of all windows where there are fewer). It depends on `CONTEXT` - 1 windows at either side, no others.
    """
    if not len(evidence):
        return np.zeros(0, np.bool_)
    length = min(CONTEXT, len(evidence))
    is_voice = sliding_window_view(evidence, length).mean(axis=1, dtype=np.float64) >= threshold
    near_voice = np.any(sliding_window_view(np.pad(is_voice, length - 1), length), axis=-1)
    found: np.ndarray = near_voice & (evidence >= threshold)
    return found


def track_voice_s(presence: Presence, start_s: np.ndarray, logits: np.ndarray) -> float:
    """Seconds of voice in the windows of a recording that have one, overlaps counted once.

    Parameters
    ----------
    start_s : (n,) float
        Where each window starts, in time order.
    logits : (n, n_frames) float32
        Of `Presence.frame_logits`.
    """
    voiced = presence.voiced_frames(logits)
    first = np.rint(np.asarray(start_s) / presence.frame_s).astype(int)
    track = np.zeros(first.max(initial=0) + logits.shape[1], np.bool_)
    for i in np.flatnonzero(windows_with_voice(window_evidence(logits), presence.threshold)):
        track[first[i] : first[i] + logits.shape[1]] |= voiced[i]
    return float(track.sum()) * presence.frame_s


def load_presence(directory: Path) -> Presence | None:
    """Load the network beside a model, or None where there is none; raises `ModelDamaged` where it is not one."""
    path = directory / PRESENCE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            card = json.loads(str(data["card"]))
            if card["format"] != FORMAT:
                raise ValueError(f"format {card['format']}, {FORMAT} is needed")
            n_layers = len(LAYERS) + 1
            weights = tuple(np.ascontiguousarray(data[f"weight{i}"], np.float32) for i in range(n_layers))
            biases = tuple(np.ascontiguousarray(data[f"bias{i}"], np.float32) for i in range(n_layers))
        if not all(np.isfinite(array).all() for array in (*weights, *biases)):
            raise ValueError("weights are not finite")
        return Presence(
            weights,
            biases,
            float(card["threshold"]),
            float(card["frame_s"]),
            int(card["n_mels"]),
            dict(card["trained"]),
        )
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile) as error:
        raise ModelDamaged(f"{path}: no vocal presence network ({error}); get it again, or delete it") from error


def write_presence(directory: Path, presence: Presence) -> Path:
    """Write `PRESENCE` into `directory`; returns its path. The same network gives the same arrays and card."""
    card = {
        "format": FORMAT,
        "threshold": presence.threshold,
        "frame_s": presence.frame_s,
        "n_mels": presence.n_mels,
        "trained": presence.trained,
    }
    arrays = {f"weight{i}": weight for i, weight in enumerate(presence.weights)}
    arrays |= {f"bias{i}": bias for i, bias in enumerate(presence.biases)}
    path = directory / PRESENCE
    np.savez(path, allow_pickle=False, card=np.array(json.dumps(card, sort_keys=True)), **arrays)
    return path


def _reached(x: np.ndarray, kernel: int, step: int, dilation: int) -> np.ndarray:
    """Put side by side what a layer reads: (n, time, channels) to (n, ceil(time / step), kernel * channels)."""
    n_frames, zeros = x.shape[1], dilation * (kernel // 2)
    x = np.pad(x, ((0, 0), (zeros, zeros), (0, 0)))
    return np.concatenate([x[:, i * dilation : i * dilation + n_frames : step] for i in range(kernel)], axis=2)
