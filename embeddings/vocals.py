"""From a stream of mono blocks to the windows that carry voice, as `embeddings.presence` judges them.

Measured by `scripts/bench_vocals.py`; its figures, and what it cannot do well, are in README, "Voice or no voice".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from embeddings.presence import (
    CONTEXT,
    RATE_HZ,
    SILENT,
    WEIGHTS_SHA256,
    VoiceClock,
    audible_windows,
    built_in_presence,
    log_mel,
    window_evidence,
    window_levels,
    windows_with_voice,
)

#: Part of `encoder_id`: changes with whatever can keep, drop or move a window.
WINDOW_SELECTION = f"presence 2 {WEIGHTS_SHA256[:16]}"

CHUNK = 32  #: windows yielded at once at most: 8 MB at 16 kHz
MIN_RECORDING_S = 0.5  #: seconds; a shorter recording gives no window, the encoder could not say anything
_BATCH = 8  # windows judged at once: what the network computes stays in the processor's cache


class Windows(NamedTuple):
    """Some windows of a recording that carry voice, in time order."""

    samples: np.ndarray  #: (n, n_samples) float32
    start_s: np.ndarray  #: (n,) float64, seconds from the beginning of the recording
    presence: np.ndarray  #: (n,) float32, share of the window's time that is voice, in [0, 1]


class VocalWindows:
    """The windows of a recording that carry voice, from a stream, in bounded memory; iterating yields `Windows`.

    A recording shorter than `window_s` gives one shorter window at most; the last window of a longer one ends where the
    recording ends. What is yielded does not depend on how the stream is cut into blocks.

    Parameters
    ----------
    blocks : iterable of (n,) float32
        The recording in order, mono, at `rate_hz`, finite. Held at once: one block, and (`chunk` + `CONTEXT`) * `hop_s`
        + `window_s` seconds with what is computed of them, some 40 MB with the defaults, however long it is.
    rate_hz : int
        16,000: the network listens at no other.
    window_s, hop_s : float
        Length of a window, at least `MIN_RECORDING_S`, and time from one to the next, 0 < `hop_s` <= `window_s`.
    chunk : int
        The most windows yielded at once.

    Attributes
    ----------
    duration_s, voiced_s : float
        Length of the recording, and seconds of it that are voice in a kept window. Set once all windows are taken.

    Raises
    ------
    ValueError
        A setting that cannot work; while iterating, a block that is none.
    ModelDamaged
        The network's file is not the one that was released.
    """

    duration_s: float
    voiced_s: float

    def __init__(
        self,
        blocks: Iterable[np.ndarray],
        rate_hz: int = RATE_HZ,
        window_s: float = 4.0,
        hop_s: float = 2.0,
        chunk: int = CHUNK,
    ) -> None:
        self._blocks, self._chunk = blocks, chunk
        self._window, self._hop = round(window_s * RATE_HZ), round(hop_s * RATE_HZ)
        if rate_hz != RATE_HZ:
            raise ValueError(f"rate_hz {rate_hz}: voice is looked for at {RATE_HZ} only")
        if not 0 < self._hop <= self._window or window_s < MIN_RECORDING_S or chunk < 1:
            needed = f"0 < hop_s <= window_s, window_s >= {MIN_RECORDING_S}, chunk >= 1"
            raise ValueError(f"hop_s {hop_s}, window_s {window_s}, chunk {chunk}: {needed}")
        self._presence = built_in_presence()

    def __iter__(self) -> Iterator[Windows]:
        hop, window, presence, clock = self._hop, self._window, self._presence, VoiceClock()
        starts, peak = np.empty(0, np.int64), -np.inf  # where all windows begin; see `audible_windows`
        # From the first window on that is not settled: a later one may still speak for it or against it. Of evidence
        # also that of the windows before it, which speak for it.
        audio, voiced, n_settled, origin = np.empty(0, np.float32), np.empty((0, 0), np.bool_), 0, 0
        evidence = np.empty(0, np.float32)
        for piece, is_last in self._pieces():
            audio = np.concatenate([audio, piece])
            end = origin + len(audio)
            new = np.arange(len(starts) * hop, end - window + 1, hop)
            if is_last and end >= MIN_RECORDING_S * RATE_HZ:
                new = np.setdiff1d(np.append(new, max(0, end - window)), starts[-1:])
            starts = np.append(starts, new)
            if not len(starts):
                continue
            windows = sliding_window_view(audio, min(len(audio), window))
            for some in (new[i : i + _BATCH] for i in range(0, len(new), _BATCH)):
                samples = windows[some - origin]
                logits = presence.frame_logits(log_mel(samples))
                audible, peak = audible_windows(window_levels(samples), some / RATE_HZ, peak)
                evidence = np.append(evidence, np.where(audible, window_evidence(logits), SILENT))
                voiced = np.concatenate([voiced.reshape(-1, logits.shape[1]), presence.voiced_frames(logits)])
            n = len(starts) if is_last else len(starts) - CONTEXT + 1
            if n <= n_settled:
                continue
            first = len(starts) - len(evidence)
            found = np.flatnonzero(windows_with_voice(evidence, presence.threshold)[n_settled - first : n - first])
            for some in (found[i : i + self._chunk] for i in range(0, len(found), self._chunk)):
                at = starts[n_settled + some]
                clock.add(at / RATE_HZ, voiced[some])
                yield Windows(windows[at - origin], at / RATE_HZ, voiced[some].mean(axis=1, dtype=np.float32))
            evidence = evidence[max(0, n - CONTEXT + 1 - first) :]
            voiced, n_settled = voiced[n - n_settled :], n
            if n < len(starts):
                audio, origin = audio[starts[n] - origin :], int(starts[n])
        self.duration_s = end / RATE_HZ
        self.voiced_s = min(self.duration_s, clock.seconds)

    def _pieces(self) -> Iterator[tuple[np.ndarray, bool]]:
        """The blocks, cut anew: `chunk` * `hop_s` seconds each, less in the last one, which may be empty; and if so."""
        piece, fill = np.empty(self._chunk * self._hop, np.float32), 0
        for block in self._blocks:
            if block.ndim != 1 or block.dtype.kind != "f":
                raise ValueError(f"a block is {block.dtype} {block.shape}; mono floats (n,) are needed")
            if not np.isfinite(block).all():
                raise ValueError("a block holds values that are not finite")
            while len(block):
                taken = block[: len(piece) - fill]
                piece[fill : fill + len(taken)] = taken
                fill, block = fill + len(taken), block[len(taken) :]
                if fill == len(piece):
                    yield piece, False
                    fill = 0
        yield piece[:fill], True
