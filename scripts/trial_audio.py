"""The sound of a trial: a clip as it is, or with music under it at a stated level.

`render` is the only way a benchmark should hear a trial, so that every encoder is given the same samples.
Decoding here is plain soundfile and soxr on purpose: the front end under test must not shape its own test.

    from trial_audio import render
    samples = render(audio_root, item)          # (n,) float32, mono, 16 kHz
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE_HZ = 16_000

#: A frame of this length is vocal-active when it is at most `ACTIVE_RANGE_DB` below the clip's loud frames. The clips
#: mixed are clean voices, so loudness alone tells singing from pauses.
ACTIVE_FRAME_S = 0.02
ACTIVE_RANGE_DB = 30.0
#: The loud frames are those at this percentile of all; not the maximum, which may be one consonant.
LOUD_PERCENTILE = 95.0

#: Music quieter than this RMS under the voice (-80 dB of full scale) is silence: no gain would bring it to a level.
SILENT_RMS = 1e-4

#: In words, for the header of every file of trials.
MIXING_RULE = (
    f"level_db = RMS of the voice over RMS of the music, both over the {ACTIVE_FRAME_S * 1000:.0f} ms frames in which "
    f"the voice is at most {ACTIVE_RANGE_DB:.0f} dB below the {LOUD_PERCENTILE:.0f}th percentile of its frames; the "
    "music loses, by the same rule, its silent beginning and end, and is looped from its offset; the voice keeps its "
    f"loudness; where the sum exceeds full scale all of it is turned down; mono, {RATE_HZ} Hz"
)


#: The folder of recordings that scripts use unless they are told of another.
DEFAULT_AUDIO = Path(os.environ.get("LIKENESS_AUDIO") or Path(__file__).resolve().parents[2] / "shared" / "audio")


@dataclass(frozen=True)
class AudioItem:
    """One thing to hear: a clip or several, and what is mixed under it.

    Attributes
    ----------
    path : str
        The clip, below the folder of recordings.
    then : tuple of str
        Clips that follow it without a gap.
    length_s : float or None
        Seconds that the clips are repeated to; None for as long as they are.
    music_path : str or None
        The music under it, below the same folder; None for the clip as it is.
    music_offset_s : float
        Where the music starts, in seconds; it is looped.
    level_db : float
        Voice over music; see `MIXING_RULE`. 0 without music.
    """

    path: str
    music_path: str | None = None
    music_offset_s: float = 0.0
    level_db: float = 0.0
    then: tuple[str, ...] = ()
    length_s: float | None = None

    @property
    def key(self) -> str:
        """The same for the same sound, different for different sounds: the name to cache an embedding under."""
        voice = "+".join([self.path, *self.then])
        if self.length_s is not None:
            voice += f"|{self.length_s:.2f}s"
        if self.music_path is None:
            return voice
        return f"{voice}|{self.music_path}@{self.music_offset_s:.2f}s|{self.level_db:+g}dB"


def render(audio_root: Path, item: AudioItem) -> np.ndarray:
    """Decode an item, and mix it if it says so.

    Parameters
    ----------
    audio_root : Path
        Folder of recordings (LIKENESS_AUDIO).
    item : AudioItem

    Returns
    -------
    (n,) float32
        Mono at `RATE_HZ`.
    """
    clips = [load_mono(audio_root / path) for path in (item.path, *item.then)]
    voice = np.concatenate(clips) if item.then else clips[0]
    if item.length_s is not None:
        voice = loop_from(voice, 0, round(item.length_s * RATE_HZ))
    if item.music_path is None:
        return voice
    music = loop_from(_load_music(audio_root / item.music_path), round(item.music_offset_s * RATE_HZ), voice.size)
    try:
        return mix_at_level(voice, music, item.level_db, active_samples(voice))
    except ValueError as error:
        raise ValueError(f"{item.key}: {error}") from error


def load_mono(path: Path) -> np.ndarray:
    """Decode a file to (n,) float32, channels averaged, at `RATE_HZ`."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate_hz != RATE_HZ:
        mono = soxr.resample(mono, rate_hz, RATE_HZ)
    return np.ascontiguousarray(mono, dtype=np.float32)


# All of dev/music at once is about 100 MB; each piece is under many voices.
@functools.lru_cache(maxsize=64)
def _load_music(path: Path) -> np.ndarray:
    # Pieces fade out: an offset in the last second gave music of -75 dB, which was then raised to the voice.
    return trim_silence(load_mono(path))


def trim_silence(samples: np.ndarray, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Cut (n,) samples to the stretch from the first to the last active frame; see `active_samples`."""
    active = np.flatnonzero(active_samples(samples, rate_hz))
    return samples[active[0] : active[-1] + 1] if active.size else samples[:0]


def loop_from(samples: np.ndarray, start: int, n: int) -> np.ndarray:
    """Take n samples from index `start` on, going round as often as needed."""
    if not samples.size:
        raise ValueError("no samples to loop")
    return samples[(start + np.arange(n)) % samples.size]


def active_samples(voice: np.ndarray, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Where a clean voice (or music) is sounding.

    Parameters
    ----------
    voice : (n,) float
    rate_hz : int

    Returns
    -------
    (n,) bool
        By whole frames of `ACTIVE_FRAME_S`, the last one shorter; all False for silence. See `MIXING_RULE`.
    """
    frame = round(ACTIVE_FRAME_S * rate_hz)
    starts = np.arange(0, voice.size, frame)
    if not starts.size:
        return np.zeros(0, dtype=bool)
    lengths = np.diff(starts, append=voice.size)
    power = np.add.reduceat(np.square(voice, dtype=np.float64), starts) / lengths
    loud = np.percentile(power, LOUD_PERCENTILE)
    active = (power > 0) & (power >= loud * 10 ** (-ACTIVE_RANGE_DB / 10))
    return np.repeat(active, lengths)


def mix_at_level(voice: np.ndarray, music: np.ndarray, level_db: float, active: np.ndarray) -> np.ndarray:
    """Put music under a voice so that the voice is `level_db` above it while it sounds.

    Parameters
    ----------
    voice, music : (n,) float
        Mono, one rate.
    level_db : float
        RMS of the voice over RMS of the music, both over the active samples; negative where the music is louder.
    active : (n,) bool
        Samples that are measured, from `active_samples`; all samples are mixed.

    Returns
    -------
    (n,) float32
        The voice unchanged plus the music with one gain; turned down as a whole where the sum exceeds full scale.

    Raises
    ------
    ValueError
        If lengths differ, nothing is active, or the music is silent wherever the voice sounds.
    """
    if not voice.shape == music.shape == active.shape or voice.ndim != 1:
        raise ValueError(f"voice {voice.shape}, music {music.shape} and active {active.shape} must be of one length")
    if not active.any():
        raise ValueError("no active sample of the voice; its level cannot be measured")
    rms_voice, rms_music = _rms(voice[active]), _rms(music[active])
    if rms_music < SILENT_RMS:
        raise ValueError(f"music has RMS {rms_music:.1e} under the voice, at least {SILENT_RMS:.0e} is needed")
    gain = rms_voice / (rms_music * 10 ** (level_db / 20))
    mix = voice.astype(np.float64) + gain * music.astype(np.float64)
    return (mix / max(1.0, float(np.abs(mix).max()))).astype(np.float32)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
