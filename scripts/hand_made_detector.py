"""The voice detection that `embeddings.vocals` had before a learned one, kept to be compared with.

A window is kept when enough of it is loud and harmonic, or next to what is (`MIN_PRESENCE`), and when it moves like a
voice (`MIN_EVIDENCE`): voices glide from note to note, scoop and tremble, and shape vowels, where most instruments hold
a pitch and a timbre and then jump. Instruments that glide pass for a voice: bowed and bent strings, saxophone,
synthesisers with vibrato, sirens.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FRAME_S = 0.064  #: seconds of a frame: four periods of 70 Hz, and still short beside a vibrato of 6 Hz
FRAMES_PER_S = 32  #: frame starts per second; windows begin on one
FLOOR_DB = -60.0  #: dBFS (RMS of a frame) below which nothing is loud
RANGE_DB = 35.0  #: dB below the recent peak from which nothing is loud: bleed and hiss (30 and 45: the same figures)
RELEASE_DB_PER_S = 1.0  #: dB per second by which the recent peak is forgotten: a quiet verse follows a loud chorus
PITCH_HZ = (70.0, 1000.0)  #: where a pitch is looked for: a low bass to a high soprano
PITCH_BAND_HZ = (140.0, 4000.0)  #: the spectrum it is heard in: neither bass nor cymbals
MIN_HARMONICITY = 0.5  #: normalised autocorrelation of a frame that has a pitch; noise 0.2, a clean vowel 0.9
GLIDE_HARMONICITY = 0.6  #: the same for comparing pitches: a doubtful one jitters and looks like movement
GLIDE_SEMITONES = (0.08, 1.2)  #: per frame: less is a held note, more a new one (1 semitone of vibrato at 6 Hz: 1.2)
HANGOVER_S = 0.4  #: seconds around harmonic frames that are voice too: consonants, breaths (0.3: 1 % of songs abstain)
TIMBRE_FRAMES = 4  #: frames over which the spectral envelope is compared: an eighth of a second, a syllable's onset
TIMBRE_WEIGHT = 0.05  #: evidence per neper of change of the envelope; pitch alone misses speech (33 % abstain at 0)
MIN_EVIDENCE = 0.2  #: evidence of a voice; from 0.24, over 5 % of the MIR-1K mixes of fold A abstain
MIN_PRESENCE = 0.4  #: share of a window that is voice; up to 0.5 nothing but pauses is lost


class _Tables:
    """What `frame_features` needs at one sample rate."""

    def __init__(self, rate_hz: int, n_bands: int = 20) -> None:
        n = round(FRAME_S * rate_hz) // 2 * 2
        taper = np.hanning(n + 1)[:-1]
        hz = np.fft.rfftfreq(n, 1 / rate_hz)
        self.taper = taper.astype(np.float32)
        self.level_scale = np.float32(
            2 / n / (taper @ taper)
        )  # power of a spectrum, summed -> mean square of the frame
        self.in_band = ((hz >= PITCH_BAND_HZ[0]) & (hz <= PITCH_BAND_HZ[1])).astype(np.float32)
        self.lags = slice(int(rate_hz / PITCH_HZ[1]), int(rate_hz / PITCH_HZ[0]) + 1)
        own = np.fft.irfft(np.abs(np.fft.rfft(taper)) ** 2)
        self.unbias = (own[0] / own[: self.lags.stop + 1]).astype(np.float32)  # undoes the taper's own decay
        top_hz = min(7000.0, rate_hz / 2)
        edges = 700 * np.expm1(np.linspace(np.log1p(100 / 700), np.log1p(top_hz / 700), n_bands + 2))  # mel scale
        rise, fall = (hz[:, None] - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - hz[:, None]) / np.diff(edges)[1:]
        self.mel = np.clip(np.minimum(rise, fall), 0, None).astype(np.float32)
        # The second and third cosine: the balance of formants. The first is brightness, which drums move as well.
        angles = np.pi * np.outer((np.arange(n_bands) + 0.5) / n_bands, [2, 3])
        self.cosines = (np.cos(angles) * np.sqrt(2 / n_bands)).astype(np.float32)


_tables = lru_cache(maxsize=4)(_Tables)


def frame_features(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Measure level, pitch and timbre of every whole frame.

    Parameters
    ----------
    samples : (n,) float32
        Mono, full scale 1; at least one frame.
    rate_hz : int
        A multiple of `FRAMES_PER_S`.

    Returns
    -------
    (n_frames, 5) float32
        Level in dBFS; harmonicity (highest normalised autocorrelation at a lag of `PITCH_HZ`, about 0 to 1); pitch in
        semitones above 55 Hz, of no meaning where the harmonicity is low; two coordinates of the spectral envelope.
    """
    tables = _tables(rate_hz)
    frames = sliding_window_view(samples, len(tables.taper))[:: rate_hz // FRAMES_PER_S]
    # By 128: the arrays stay in the processor's cache, which is several times faster than all at once.
    return np.concatenate([_measure(frames[i : i + 128], tables, rate_hz) for i in range(0, len(frames), 128)])


def _measure(frames: np.ndarray, tables: _Tables, rate_hz: int) -> np.ndarray:
    spectrum = np.fft.rfft(frames * tables.taper)
    power = spectrum.real**2 + spectrum.imag**2
    total = power[:, 2:].sum(axis=1, keepdims=True)  # from the second bin: neither DC nor rumble
    level_db = 10 * np.log10(total * tables.level_scale + 1e-12)

    echo = np.fft.irfft(power * tables.in_band)[:, : len(tables.unbias)]
    echo *= tables.unbias / (echo[:, :1] + 1e-12)
    first, last = tables.lags.start, tables.lags.stop
    inside = echo[:, tables.lags]
    is_peak = (inside > echo[:, first - 1 : last - 1]) & (inside >= echo[:, first + 1 : last + 1])
    peaks = np.where(is_peak, inside, 0)
    harmonicity = peaks.max(axis=1, keepdims=True)
    # The shortest lag nearly as good as the best: multiples of the period are as good where the pitch is steady.
    lag = first + np.argmax(peaks >= 0.9 * harmonicity, axis=1)
    before, at, after = (echo[np.arange(len(echo)), lag + i] for i in (-1, 0, 1))
    vertex = 0.5 * (before - after) / np.minimum(before - 2 * at + after, -1e-6)  # of the parabola through the three
    pitch = 12 * np.log2(rate_hz / (lag + np.clip(vertex, -0.5, 0.5)) / 55)

    # A band 50 dB below the frame counts as empty: what a codec or a synthesiser leaves there is not timbre.
    envelope = np.log(power @ tables.mel + 1e-5 * total + 1e-9) @ tables.cosines
    return np.hstack([level_db, harmonicity, pitch[:, None], envelope], dtype=np.float32)


def recent_peak(level_db: np.ndarray, before_db: float) -> np.ndarray:
    """Follow the peak of (n_frames,) levels, which falls by `RELEASE_DB_PER_S`; `before_db` is where it came from."""
    fallen = (np.arange(len(level_db)) + 1) * (RELEASE_DB_PER_S / FRAMES_PER_S)
    peak: np.ndarray = np.maximum(np.maximum.accumulate(level_db + fallen), before_db) - fallen
    return peak


def score_windows(features: np.ndarray, loud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say which frames of some windows are voice, and how much each window moves like one.

    Parameters
    ----------
    features : (n, n_frames, 5) float32
        Of `frame_features`.
    loud : (n, n_frames) bool

    Returns
    -------
    voiced : (n, n_frames) bool
        Loud and harmonic, or within `HANGOVER_S` of a frame that is.
    evidence : (n,) float32
        Share of loud frames in which the pitch glides, plus `TIMBRE_WEIGHT` times the mean change of the envelope. A
        share is of a quarter of the window at least, so that a few loud frames do not decide.
    """
    harmonicity, pitch, envelope = features[..., 1], features[..., 2], features[..., 3:]
    n_frames = loud.shape[1]
    reach = round(HANGOVER_S * FRAMES_PER_S)
    harmonic = np.pad(loud & (harmonicity > MIN_HARMONICITY), ((0, 0), (reach, reach)))
    voiced: np.ndarray = np.any(sliding_window_view(harmonic, 2 * reach + 1, axis=1), axis=-1)

    sure = loud & (harmonicity > GLIDE_HARMONICITY)
    step = np.diff(pitch, axis=1)
    moves = sure[:, 1:] & sure[:, :-1] & (np.abs(step) > GLIDE_SEMITONES[0]) & (np.abs(step) < GLIDE_SEMITONES[1])
    onward = moves[:, 1:] & moves[:, :-1] & ((step[:, 1:] > 0) == (step[:, :-1] > 0))  # twice the same way: no jitter
    glides = np.pad(onward, ((0, 0), (0, 1))) | np.pad(onward, ((0, 0), (1, 0)))
    glide_share = glides.sum(axis=1) / np.maximum(loud.sum(axis=1), n_frames / 4)

    both = loud[:, TIMBRE_FRAMES:] & loud[:, :-TIMBRE_FRAMES]
    change = np.abs(envelope[:, TIMBRE_FRAMES:] - envelope[:, :-TIMBRE_FRAMES]).sum(axis=-1) * both
    mean_change = change.sum(axis=1) / np.maximum(both.sum(axis=1), n_frames / 4)
    return voiced, (glide_share + TIMBRE_WEIGHT * mean_change).astype(np.float32)


def judge_windows(
    samples: np.ndarray, rate_hz: int, starts: np.ndarray, n_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Judge windows of a recording; returns what `score_windows` does.

    Parameters
    ----------
    samples : (n,) float32
        The whole recording.
    starts : (n_windows,) int
        Where each window begins, in samples.
    n_samples : int
        Length of a window.
    """
    step = rate_hz // FRAMES_PER_S
    features = frame_features(samples, rate_hz)
    peaks_db = recent_peak(features[:, 0], -np.inf)
    loud = features[:, 0] > np.maximum(FLOOR_DB, peaks_db - RANGE_DB)
    n_frames = int((n_samples / rate_hz - FRAME_S) * FRAMES_PER_S) + 1
    first = np.minimum(starts // step, len(features) - n_frames)
    frames = first[:, None] + np.arange(n_frames)
    features, loud = features[frames], loud[frames]
    if starts[-1] % step:  # it ends where the recording ends, between two frames, and has frames of its own
        features[-1] = frame_features(samples[starts[-1] : starts[-1] + n_samples], rate_hz)[:n_frames]
        peaks_db = recent_peak(features[-1, :, 0], float(peaks_db[first[-1] - 1]))
        loud[-1] = features[-1, :, 0] > np.maximum(FLOOR_DB, peaks_db - RANGE_DB)
    return score_windows(features, loud)
