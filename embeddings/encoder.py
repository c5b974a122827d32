"""Windows of sound to unit vectors. The only importer of torch and speechbrain."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import audio, vocals
from embeddings.errors import ModelError
from embeddings.model_dir import (
    HOUSE,
    Cohort,
    canonical_sha256,
    find_model,
    load_calibration,
    load_cohort,
    model_files,
)

#: Windows given to the model at once. Its layers take 15 MiB a window: at 32 the peak is 860 MiB and goes on growing
#: with the pieces that the allocator is left with, at 8 it is 500 MiB and stays (`scripts/bench_memory.py`).
MAX_BATCH = 8

#: Seconds of sound in a window and from one window to the next; the built-in encoder was measured with these.
WINDOW_S = 4.0
HOP_S = 2.0


class SpeechBrainEncoder:
    """A SpeechBrain speaker encoder, loaded, in eval mode.

    Parameters
    ----------
    source : str or Path
        ``"house"`` (built in), a SpeechBrain model directory, or a hub id; see `model_dir.find_model`.
    trusted : collection of str
        Digests of other model directories that may run.
    n_threads : int, optional
        Threads that torch uses; by default what torch chooses.

    Attributes
    ----------
    encoder_id : str
        sha256 over model files, dim, rate, windows, front end and window selection. Vectors with different ids are
        never compared: the same weights behind another resampler are another encoder.
    dim, rate_hz, window_s, hop_s
        Length of a vector; sample rate in Hz; length of a window and step between windows in seconds.
    cohort : Cohort or None
        Strangers to normalise scores with, where the model directory has them.
    calibration : dict or None
        Threshold and how it was found, where the model directory has them.

    Raises
    ------
    ModelError
        What `find_model` raises, or the model does not load or gives no vector.
    """

    def __init__(
        self, source: str | Path = HOUSE, *, trusted: Collection[str] = (), n_threads: int | None = None
    ) -> None:
        self.source = str(source)
        directory = find_model(source, trusted=trusted)
        self._model, self._torch = _load(directory)
        if n_threads is not None:
            self._torch.set_num_threads(n_threads)
        self.directory = directory
        self.rate_hz = int(self._model.hparams.sample_rate)
        self.window_s, self.hop_s = WINDOW_S, HOP_S
        probe = np.random.default_rng(0).normal(0, 0.1, (1, self.rate_hz)).astype(np.float32)
        self.dim = int(self._forward(probe).shape[1])
        self.encoder_id = canonical_sha256(
            {
                "files": model_files(directory),
                "dim": self.dim,
                "rate_hz": self.rate_hz,
                "window_s": self.window_s,
                "hop_s": self.hop_s,
                "front_end": audio.FRONT_END,
                "window_selection": vocals.WINDOW_SELECTION,
            }
        )
        self.cohort: Cohort | None = load_cohort(directory)
        self.calibration: dict[str, Any] | None = load_calibration(directory)

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        """Embed windows of equal length.

        Parameters
        ----------
        samples : (n, n_samples) float32
            Mono sound at `rate_hz`, in [-1, 1]; one window a row.

        Returns
        -------
        (n, dim) float32
            Unit rows.

        Raises
        ------
        ValueError
            Wrong shape or dtype, or values that are not finite.
        ModelError
            The model gave a vector that has no direction.
        """
        if samples.ndim != 2 or samples.dtype != np.float32:
            raise ValueError(f"samples must be (n, n_samples) float32, not {samples.shape} {samples.dtype}")
        if not np.isfinite(samples).all():
            raise ValueError("samples must be finite")
        vectors = np.empty((len(samples), self.dim), np.float32)
        for start in range(0, len(samples), MAX_BATCH):
            vectors[start : start + MAX_BATCH] = self._forward(samples[start : start + MAX_BATCH])
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if len(vectors) and not (np.isfinite(norms).all() and norms.min() > 0):
            raise ModelError(f"{self.source}: the model gave a vector without direction; run `likeness doctor`")
        unit: np.ndarray = vectors / norms
        return unit

    def _forward(self, samples: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            # Writable, because torch warns of memory that it could not write to.
            output = self._model.encode_batch(self._torch.from_numpy(np.require(samples, requirements=["C", "W"])))
        vectors: np.ndarray = output.reshape(len(samples), -1).cpu().numpy()
        return vectors


def _load(directory: Path) -> tuple[Any, Any]:
    """Load a SpeechBrain model from `directory`, writing nothing anywhere; returns (model, torch)."""
    from embeddings.torchaudio_compat import import_torchaudio

    # Read when torch is loaded. Left alone, its threads wait for one another by spinning, which is slow where others
    # want the cores too, as the decoders of a batch do (2 cores, one of them busy: 18 against 120 x real time). On an
    # idle machine it costs about a quarter.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("speechbrain").setLevel(logging.WARNING)  # it announces every file that it opens
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torchaudio and speechbrain, not ours to mend
        import_torchaudio()
        import torch
        from speechbrain.inference.classifiers import EncoderClassifier
        from speechbrain.utils.fetching import FetchConfig, LocalStrategy

        # The published models name their own hub id here, so a local copy of one would still call the hub.
        has_path = "pretrained_path" in (directory / "hyperparams.yaml").read_text(encoding="utf-8")
        try:
            model = EncoderClassifier.from_hparams(
                source=str(directory),
                overrides={"pretrained_path": str(directory)} if has_path else {},
                local_strategy=LocalStrategy.NO_LINK,
                fetch_config=FetchConfig(allow_network=False),
                run_opts={"device": "cpu"},
            )
        except Exception as error:  # whatever a model directory's own YAML and pickle-free weights may raise
            raise ModelError(f"{directory}: SpeechBrain cannot load it ({type(error).__name__}: {error})") from error
    model.eval()
    return model, torch
