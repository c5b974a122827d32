"""From a stream of mono blocks to the windows that carry voice.

A hand-made detector; a learned one can take the place of `score_windows`. A window is kept when enough of it is loud
and harmonic, or next to what is (`MIN_PRESENCE`), and when it moves like a voice (`MIN_EVIDENCE`): voices glide from
note to note, scoop and tremble, and shape vowels, where most instruments hold a pitch and a timbre and then jump.

Measured by `scripts/bench_vocals.py` on fold B of the development recordings: of clips of singing and of speech 0.5 %
abstain (less than 1.5 s of voice found), and 99 % of their voice is in windows that are kept; of sung mixes 1.6 %, and
89 %. What it cannot do well is tell instruments: of 116 instrumental clips of both folds 64 % abstain (fold A, on which
the constants were chosen, 58 %; B 79 %).
Instruments that glide (bowed and bent strings, saxophone, synthesisers with vibrato), whistles, sirens and animals pass
for a voice. Below about 5 dB of voice over noise, voice is missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

#: Part of `encoder_id`: changes with whatever can keep, drop or move a window.
WINDOW_SELECTION = "glide-timbre 1"

# `scripts/bench_vocals.py --fold A --try NAME VALUES` compares values of any number here (not of the pairs).
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
CHUNK = 32  #: windows yielded at once at most: 8 MB at 16 kHz
MIN_RECORDING_S = 0.5  #: seconds; a shorter recording gives no window, the encoder could not say anything


class Windows(NamedTuple):
    """Some windows of a recording that carry voice, in time order."""

    samples: np.ndarray  #: (n, n_samples) float32
    start_s: np.ndarray  #: (n,) float64, seconds from the beginning of the recording
    presence: np.ndarray  #: (n,) float32, share of the window's time that is voice, in [0, 1]


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


class VocalWindows:
    """The windows of a recording that carry voice, from a stream, in bounded memory; iterating yields `Windows`.

    A recording shorter than `window_s` gives one shorter window at most; the last window of a longer one ends where the
    recording ends. What is yielded does not depend on how the stream is cut into blocks.

    Parameters
    ----------
    blocks : iterable of (n,) float32
        The recording in order, mono, at `rate_hz`. Held at once: one block and `chunk` * `hop_s` + `window_s` seconds.
    rate_hz : int
        A multiple of `FRAMES_PER_S`.
    window_s, hop_s : float
        Length of a window and time from one to the next; `hop_s` a multiple of 1 / `FRAMES_PER_S`, <= `window_s`.
    chunk : int
        The most windows yielded at once.

    Attributes
    ----------
    duration_s, voiced_s : float
        Length of the recording, and seconds of it that are voice in a kept window. Set once all windows are taken.
    """

    duration_s: float
    voiced_s: float

    def __init__(
        self,
        blocks: Iterable[np.ndarray],
        rate_hz: int = 16000,
        window_s: float = 4.0,
        hop_s: float = 2.0,
        chunk: int = CHUNK,
    ) -> None:
        self._blocks, self._rate_hz, self._chunk = blocks, rate_hz, chunk
        self._step, self._window, self._hop = rate_hz // FRAMES_PER_S, round(window_s * rate_hz), round(hop_s * rate_hz)
        if rate_hz % FRAMES_PER_S or self._hop % self._step:
            raise ValueError(f"rate_hz {rate_hz}, hop_s {hop_s}: {FRAMES_PER_S} frames a second must divide both")
        if not 0 < self._hop <= self._window or window_s < MIN_RECORDING_S or chunk < 1:
            raise ValueError(f"hop_s {hop_s}, window_s {window_s}, chunk {chunk}: 0 < hop_s <= window_s, chunk >= 1")

    def __iter__(self) -> Iterator[Windows]:
        hop, window, step = self._hop, self._window, self._step
        # buffer[:hop] is the hop before the next window: the window that ends with the recording may begin there.
        buffer = np.zeros(self._chunk * hop + window, np.float32)
        voice = np.zeros(len(buffer) // step + 1, np.bool_)  # voiced frames of kept windows, in step with the buffer
        origin, fill, covered = -hop, hop, hop  # samples before the buffer; in it; of these in windows already judged
        voiced_frames, peak_db = 0, -np.inf
        for block in self._blocks:
            if block.ndim != 1 or block.dtype.kind != "f":
                raise ValueError(f"a block is {block.dtype} {block.shape}; mono floats (n,) are needed")
            while len(block):
                taken = block[: len(buffer) - fill]
                buffer[fill : fill + len(taken)] = taken
                fill, block = fill + len(taken), block[len(taken) :]
                if fill == len(buffer):
                    kept, peak_db = self._judge(buffer[hop:], self._chunk, origin + hop, peak_db, voice[hop // step :])
                    yield from kept
                    done = self._chunk * hop
                    buffer[:window] = buffer[done:].copy()
                    origin, fill, covered = origin + done, window, window
                    voiced_frames += int(voice[: done // step].sum())
                    voice = np.append(voice[done // step :], np.zeros(done // step, np.bool_))
        if fill - hop >= window:
            n_windows = (fill - window) // hop
            kept, peak_db = self._judge(buffer[hop:fill], n_windows, origin + hop, peak_db, voice[hop // step :])
            yield from kept
            covered = n_windows * hop + window
        if fill > covered and origin + fill >= MIN_RECORDING_S * self._rate_hz:
            first = max(fill - window, -origin)
            kept, _ = self._judge(buffer[first:fill], 1, origin + first, peak_db, voice[round(first / step) :])
            yield from kept
        self.duration_s = (origin + fill) / self._rate_hz
        self.voiced_s = (voiced_frames + int(voice.sum())) / FRAMES_PER_S

    def _judge(
        self, samples: np.ndarray, n_windows: int, start: int, peak_db: float, voice: np.ndarray
    ) -> tuple[list[Windows], float]:
        """Keep those of `n_windows` that carry voice, mark it on `voice`; also say the recent peak after them."""
        features = frame_features(samples, self._rate_hz)
        peaks_db = recent_peak(features[:, 0], peak_db)
        loud = features[:, 0] > np.maximum(FLOOR_DB, peaks_db - RANGE_DB)
        n_samples, hop_frames = min(len(samples), self._window), self._hop // self._step
        n_frames = (n_samples - len(_tables(self._rate_hz).taper)) // self._step + 1
        frames = np.arange(n_windows)[:, None] * hop_frames + np.arange(n_frames)
        voiced, evidence = score_windows(features[frames], loud[frames])
        presence = voiced.mean(axis=1, dtype=np.float32)
        kept = np.flatnonzero((presence >= MIN_PRESENCE) & (evidence >= MIN_EVIDENCE))
        for i in kept:
            voice[frames[i]] |= voiced[i]
        samples = sliding_window_view(samples, n_samples)[kept * self._hop]  # copies: the buffer goes on changing
        windows = Windows(samples, (start + kept * self._hop) / self._rate_hz, presence[kept])
        after_db = float(peaks_db[min(n_windows * hop_frames, len(peaks_db)) - 1])
        return ([windows] if len(kept) else []), after_db
