"""Windows of sound to unit vectors. With `ecapa`, its faster half, the only importer of torch and speechbrain."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embeddings import audio, presence, vocals
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

if TYPE_CHECKING:
    from embeddings.ecapa import EcapaForward

#: Windows given to the model at once. SpeechBrain's own layers take 15 MiB a window: at 32 the peak is 860 MiB and goes
#: on growing with the pieces that the allocator is left with, at 8 it is 500 MiB and stays (`scripts/bench_memory.py`).
#: The fast forward takes 3 MiB a window and gains nothing from more (`scripts/bench_forward.py`).
MAX_BATCH = 8

#: Seconds of sound in a window and from one window to the next; the built-in encoder was measured with these.
WINDOW_S = 4.0
HOP_S = 2.0

PRECISIONS = ("auto", "float32", "bfloat16")

#: How near the fast forward must be to SpeechBrain's own on the probe, or it is not used: |difference| of unit vectors
#: in float32, cosine in bfloat16. Real windows: 1e-6 and 0.99998 at worst (`scripts/bench_forward.py`).
MAX_DIFFERENCE = 1e-4
MIN_COSINE = 0.9999

#: bfloat16 must be this much faster to be taken, so that the noise of a measurement does not choose. A CPU with
#: AVX512_BF16 but without AMX multiplies slower in bfloat16 than in float32 (0.55 times, Xeon of 2023).
MIN_SPEEDUP = 1.25
#: Seconds that the measurement may take.
TRIAL_S = 0.15

_log = logging.getLogger(__name__)


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
    precision : str
        Of the fast forward (`ecapa`): "float32", "bfloat16", or "auto", which is bfloat16 where the CPU has the
        instructions and a short trial says that it is faster, else float32. Not the default: bfloat16 turned 6 of the
        some 1,400 flags on real recordings, float32 none (`scripts/bench_forward.py`).

    Attributes
    ----------
    is_fast : bool
        Whether `ecapa` runs the model, which it does where the modules are SpeechBrain's own `Fbank`,
        `InputNormalization` by sentence and `ECAPA_TDNN` of any sizes, and where it agrees with SpeechBrain's forward
        on a probe (else a warning is logged). All other models run as SpeechBrain's `encode_batch` runs them.
    precision : str
        "float32" or "bfloat16", as it is used.
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
        What `find_model` raises, or the model does not load, listens at another rate than 16 kHz, or gives no vector;
        or bfloat16 is asked of a model that the fast forward does not fit; or the network that finds voice is damaged.
    """

    def __init__(
        self,
        source: str | Path = HOUSE,
        *,
        trusted: Collection[str] = (),
        n_threads: int | None = None,
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        self.source = str(source)
        directory = find_model(source, trusted=trusted)
        model, self._torch = _load(directory)
        if n_threads is not None:
            self._torch.set_num_threads(n_threads)
        self.directory = directory
        self.rate_hz = int(model.hparams.sample_rate)
        if self.rate_hz != presence.RATE_HZ:
            raise ModelError(
                f"{source}: it listens at {self.rate_hz} Hz, and voice is looked for at {presence.RATE_HZ} only; use "
                "an encoder for that rate"
            )
        presence.built_in_presence()  # where its file is damaged, say so now and not at the first recording
        self.window_s, self.hop_s = WINDOW_S, HOP_S
        self._run, self.dim = _choose_forward(model, self.rate_hz, precision)
        self.is_fast = not isinstance(self._run, _StockForward)
        self.precision = self._run.precision
        # Not over the forward and its precision. The fast one gives the stock one's vectors to 1e-6, no more than what
        # another CPU or another torch changes, and with them the same verdicts. bfloat16 stays within a cosine of
        # 0.9999: vectors that may be compared, whoever asked for it on one of the machines that share a registry.
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
        _check_samples(samples)
        return self._unit(self._in_batches(self._forward, samples, self.dim))

    def _forward(self, samples: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            vectors: np.ndarray = self._run.forward(self._run.features(self._tensor(samples))).numpy()
        return vectors

    def _tensor(self, array: np.ndarray) -> Any:
        # Writable, because torch warns of memory that it could not write to.
        return self._torch.from_numpy(np.require(array, requirements=["C", "W"]))

    @staticmethod
    def _in_batches(forward: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, width: int) -> np.ndarray:
        results = np.empty((len(rows), width), np.float32)
        for start in range(0, len(rows), MAX_BATCH):
            results[start : start + MAX_BATCH] = forward(rows[start : start + MAX_BATCH])
        return results

    def _unit(self, vectors: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if len(vectors) and not (np.isfinite(norms).all() and norms.min() > 0):
            raise ModelError(f"{self.source}: the model gave a vector without direction; run `likeness doctor`")
        unit: np.ndarray = vectors / norms
        return unit


def _check_samples(samples: np.ndarray) -> None:
    if samples.ndim != 2 or samples.dtype != np.float32:
        raise ValueError(f"samples must be (n, n_samples) float32, not {samples.shape} {samples.dtype}")
    if not np.isfinite(samples).all():
        raise ValueError("samples must be finite")


# --- which forward ----------------------------------------------------------------------------------------------------


class _StockForward:
    """A model of any kind, by the steps of SpeechBrain's `encode_batch`; the methods of `EcapaForward`."""

    precision = "float32"

    def __init__(self, model: Any) -> None:
        self._mods = model.mods

    def features(self, samples: Any) -> Any:
        """(n, n_samples) to (n, T, n_mels)."""
        return self._mods.compute_features(samples)

    def forward(self, features: Any) -> Any:
        """(n, T, n_mels) to (n, dim)."""
        lengths = features.new_ones(len(features))
        vectors = self._mods.embedding_model(self._mods.mean_var_norm(features, lengths), lengths)
        return vectors.reshape(len(features), -1)


def _choose_forward(model: Any, rate_hz: int, precision: str) -> tuple[EcapaForward | _StockForward, int]:
    """Give the fastest forward that does what SpeechBrain's does, and the length of its vectors."""
    import torch

    from embeddings.ecapa import EcapaForward, NotStock

    stock = _StockForward(model)
    probe = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, rate_hz)).astype(np.float32))
    with torch.inference_mode():
        expected = stock.forward(stock.features(probe))

    def attempt(dtype: torch.dtype) -> EcapaForward | None:
        """The fast forward, where it fits the model and agrees with it."""
        try:
            fast = EcapaForward(
                model.mods.compute_features, model.mods.mean_var_norm, model.mods.embedding_model, dtype
            )
        except NotStock as reason:
            _log.info("SpeechBrain's own forward runs this model: %s", reason)
            return None
        unit, unit_expected = (
            torch.nn.functional.normalize(vectors) for vectors in (fast.forward(fast.features(probe)), expected)
        )
        cosine = float((unit * unit_expected).sum())
        difference = float((unit - unit_expected).abs().max())
        if difference <= MAX_DIFFERENCE or (dtype == torch.bfloat16 and cosine >= MIN_COSINE):
            return fast
        # Some network is too coarse for bfloat16, but float32 must agree: if not, this code no longer fits SpeechBrain.
        _log.log(
            logging.INFO if dtype == torch.bfloat16 else logging.WARNING,
            "the fast forward in %s is off by %.2g (cosine %.6f) and is not used",
            fast.precision,
            difference,
            cosine,
        )
        return None

    dim = int(expected.shape[1])
    single = None if precision == "bfloat16" else attempt(torch.float32)
    half = None
    if precision == "bfloat16" or (precision == "auto" and single is not None and _has_bfloat16(torch)):
        half = attempt(torch.bfloat16)
    if precision == "bfloat16":
        if half is None:
            raise ModelError("this model cannot run in bfloat16; use the precision auto or float32")
        return half, dim
    if single is not None and half is not None and _speedup(half, single, probe) >= MIN_SPEEDUP:
        return half, dim
    return single or stock, dim


def _has_bfloat16(torch: Any) -> bool:
    """Whether the CPU multiplies in bfloat16, as far as this torch can say: the questions are not of its public API."""
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, bool)() for question in questions)


def _speedup(forward: EcapaForward, other: EcapaForward, probe: Any) -> float:
    """How many times faster a forward is than another: best of some turns each, for `TRIAL_S` in all or two turns.

    Seconds of this process on the CPU, which other processes do not change: on a busy machine turns by the clock say
    anything.
    """
    features = other.features(probe).repeat(4, 1, 1)
    best_s = {forward: float("inf"), other: float("inf")}
    start_s, n_turns = time.perf_counter(), 0
    while n_turns < 2 or time.perf_counter() - start_s < TRIAL_S:
        for one in best_s:
            turn_s = time.process_time()
            one.forward(features)
            best_s[one] = min(best_s[one], time.process_time() - turn_s)
        n_turns += 1
    return best_s[other] / best_s[forward]


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
