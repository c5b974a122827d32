"""Golden vectors: do the front end, the window selection and the model still give what they gave?

A wrong resampler, a changed default or a model left in training mode shows nowhere but in the vectors, as worse scores
that look like scores. So a few seconds of made-up singing go through everything, from a file to vectors, and are
compared with numbers that are kept beside the model.
"""

from __future__ import annotations

import base64
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from embeddings.encoder import SpeechBrainEncoder
from embeddings.extract import Voiceprint, embed_file
from embeddings.model_dir import GOLDEN

#: Cosine with the golden vector that every window must reach. Other CPUs and torch releases differ in the last bits.
MIN_COSINE = 0.9999
_RATE_HZ = 44_100  # not the encoder's, so that the resampler is tested too
_DURATION_S = 9.0


@dataclass(frozen=True)
class SelfTest:
    """How near the present vectors are to the golden ones.

    Attributes
    ----------
    has_golden : bool
        Whether golden vectors lie beside the model at all.
    cosine : float or None
        The lowest cosine over windows; None without golden vectors, or with other windows than then.
    passed : bool
    message : str
    """

    has_golden: bool
    cosine: float | None
    passed: bool
    message: str


def sing() -> np.ndarray:
    """A made-up voice on a rising scale: (n_samples, 2) float64 stereo at 44.1 kHz, the same on every machine."""
    t = np.arange(int(_RATE_HZ * _DURATION_S)) / _RATE_HZ
    step = np.floor(t / 0.75)
    semitones = np.array([0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5])[step.astype(int)]
    f0_hz = 196.0 * 2 ** ((semitones + 0.4 * np.sin(2 * np.pi * 5.5 * t)) / 12)
    phase = 2 * np.pi * np.cumsum(f0_hz) / _RATE_HZ
    voice = np.zeros_like(t)
    openness = 0.5 + 0.5 * np.sin(2 * np.pi * 0.66 * t)  # the mouth opens and closes: formants move
    for harmonic in range(1, 24):
        frequency_hz = harmonic * f0_hz
        gain = sum(
            weight / (1 + ((frequency_hz - centre_hz) / width_hz) ** 2)
            for centre_hz, width_hz, weight in (
                (350 + 400 * openness, 90, 1.0),
                (1150 + 700 * (1 - openness), 110, 0.5),
                (2700 + 0 * t, 160, 0.25),
            )
        )
        voice += np.where(frequency_hz < 7000, gain, 0) / harmonic**0.5 * np.sin(harmonic * phase)
    syllable = np.minimum(1, np.minimum((t % 0.75) / 0.04, (0.75 - t % 0.75) / 0.06))
    voice *= syllable * 0.3 / np.abs(voice).max()
    # Two different channels, so that one that is dropped or swapped for the mean is noticed.
    other = 0.6 * np.roll(voice, round(0.3 * _RATE_HZ))
    return np.column_stack([voice, other])


def embed_golden_audio(encoder: SpeechBrainEncoder) -> Voiceprint:
    """Embed `sing()` by way of a 16-bit file, as any recording."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.wav"
        soundfile.write(path, sing(), _RATE_HZ, subtype="PCM_16")
        return embed_file(path, encoder)


def write_golden(encoder: SpeechBrainEncoder, directory: Path) -> None:
    """Keep the present vectors as the golden ones of the model in `directory`."""
    voiceprint = embed_golden_audio(encoder)
    golden = {
        "what": "vectors of embeddings.selftest.sing(), base64 of little-endian float32 (n, dim)",
        "encoder_id": encoder.encoder_id,
        "start_s": voiceprint.start_s.tolist(),
        "vectors": base64.b64encode(voiceprint.vectors.astype("<f4").tobytes()).decode(),
    }
    (directory / GOLDEN).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


def run_selftest(encoder: SpeechBrainEncoder) -> SelfTest:
    """Compare the present vectors with the golden ones beside the model."""
    voiceprint = embed_golden_audio(encoder)
    path = encoder.directory / GOLDEN
    if not path.is_file():
        return SelfTest(False, None, True, "no golden vectors beside this model; only its shapes were checked")
    try:
        golden = json.loads(path.read_text(encoding="utf-8"))
        golden_id, start_s = golden["encoder_id"], golden["start_s"]
        vectors = np.frombuffer(base64.b64decode(golden["vectors"]), "<f4").reshape(len(start_s), -1)
    except (OSError, ValueError, TypeError, KeyError) as error:
        return SelfTest(True, None, False, f"{path}: not golden vectors ({error!r})")
    if golden_id != encoder.encoder_id:
        return SelfTest(True, None, False, "the golden vectors are of another encoder_id: model or front end changed")
    if voiceprint.start_s.tolist() != start_s:
        return SelfTest(True, None, False, "other windows were chosen than when the golden vectors were made")
    cosine = float((vectors * voiceprint.vectors).sum(axis=1).min())
    passed = cosine >= MIN_COSINE
    return SelfTest(True, cosine, passed, f"lowest cosine with the golden vectors {cosine:.6f}, at least {MIN_COSINE}")
