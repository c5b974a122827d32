"""What other encoders say of clean voices, as targets for one in training; made once for each pool.

A clip is cut into windows of `WINDOW_S` every `HOP_S`, as long as the crops of training; a shorter clip is repeated.
STEM.TEACHER.npz holds `vectors` (n_windows, dim) float16 and `first` (n_clips + 1,), where each clip's windows begin.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from training.pools import RATE_HZ, Pool

WINDOW_S, HOP_S = 2.56, 1.28
_WINDOW, _HOP = round(WINDOW_S * RATE_HZ), round(HOP_S * RATE_HZ)
_AT_ONCE = 64

Embed = Callable[[np.ndarray], np.ndarray]  #: (n, n_samples) float32 to (n, dim) unit rows


def resemblyzer() -> Embed:
    """Resemblyzer's GE2E encoder (Wan et al. 2018; Apache-2.0): two partial utterances of 1.6 s a window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from resemblyzer import VoiceEncoder  # type: ignore[import-untyped]
        from resemblyzer.audio import (  # type: ignore[import-untyped]
            normalize_volume,
            wav_to_mel_spectrogram,
        )
    encoder: Any = VoiceEncoder("cpu", verbose=False)

    def embed(windows: np.ndarray) -> np.ndarray:
        parts = []
        for window in windows:
            mel = wav_to_mel_spectrogram(normalize_volume(window, -30, increase_only=True))
            parts += [mel[:160], mel[-160:]]
        with torch.inference_mode():
            vectors: np.ndarray = encoder(torch.from_numpy(np.stack(parts))).numpy()
        return vectors.reshape(len(windows), 2, -1).mean(axis=1)

    return embed


def model_directory(source: str) -> Embed:
    """Any model directory of ours, as in `SpeechBrainEncoder`."""
    from embeddings.encoder import SpeechBrainEncoder
    from embeddings.model_dir import HOUSE, model_digest

    trusted = [] if source == HOUSE else [model_digest(Path(source))]
    return SpeechBrainEncoder(source, trusted=trusted).embed_windows


def make_targets(stem: Path, name: str, embed: Embed) -> None:
    """Write STEM.NAME.npz where it is not there yet; progress on stderr."""
    path = stem.with_name(f"{stem.name}.{name}.npz")
    if path.is_file():
        return
    pool = Pool(stem)
    first, waiting, vectors, began = [0], [], [], time.monotonic()

    def flush() -> None:
        found = embed(np.stack(waiting).astype(np.float32) / 32768)
        vectors.append((found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16))
        waiting.clear()

    for number in range(len(pool.clips)):
        clip = pool.clip(number)
        if len(clip) < _WINDOW:
            clip = np.tile(clip, -(-_WINDOW // len(clip)))
        starts = range(0, len(clip) - _WINDOW + 1, _HOP)
        waiting += [clip[start : start + _WINDOW] for start in starts]
        first.append(first[-1] + len(starts))
        if len(waiting) >= _AT_ONCE:
            flush()
        if number % 500 == 499:
            done = f"{number + 1:,} of {len(pool.clips):,} clips, {time.monotonic() - began:.0f} s"
            print(f"{path.name}: {done}", file=sys.stderr, flush=True)
    if waiting:
        flush()
    partial = path.with_name(f"{path.stem}.part.npz")
    np.savez(partial, vectors=np.concatenate(vectors), first=np.array(first))
    partial.replace(path)


class Targets:
    """Targets of one teacher over several pools.

    Parameters
    ----------
    folder : Path
        Of pools.
    name : str
        Of the teacher.
    pools : mapping of str to Pool
        Those of voices.
    of_windows : str
        The pool whose windows have targets of their own; voices of the others, which are sung or changed by a vocoder
        and which teachers of clean speech hear badly, have their person's mean.
    """

    def __init__(self, folder: Path, name: str, pools: dict[str, Pool], of_windows: str = "voice") -> None:
        self._of_windows = of_windows
        sums: dict[str, np.ndarray] = {}
        for pool_name in (of_windows, "sung"):
            with np.load(folder / f"{pool_name}.{name}.npz") as data:
                vectors, first = data["vectors"].astype(np.float32), data["first"]
            if pool_name == of_windows:
                self._vectors, self._first = vectors, first
            for number, clip in enumerate(pools[pool_name].clips):
                own = vectors[first[number] : first[number + 1]].sum(axis=0)
                sums[clip.label] = sums.get(clip.label, 0) + own
        self.dim = self._vectors.shape[1]
        self._means = {person: total / np.linalg.norm(total) for person, total in sums.items()}

    def of(self, person: str, source: tuple[str, int, int] | None) -> np.ndarray | None:
        """(dim,) float32 for a crop, or None for a voice that is no longer the person's (another speed)."""
        if source is None:
            return None
        pool, number, start = source
        if pool != self._of_windows:
            return self._means.get(person)
        first, end = self._first[number : number + 2]
        target: np.ndarray = self._vectors[min(first + round(start / _HOP), end - 1)]
        return target
