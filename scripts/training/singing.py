"""Speech made into singing, and voices made again by a vocoder: training sound that speech alone does not give.

    python scripts/training/singing.py --pool POOLS/voice --sung POOLS/voice_sung --copies POOLS/voice_copy

A voice is taken apart by the WORLD vocoder into pitch, spectral envelope and aperiodicity, five milliseconds at a time.
The envelope carries the person and stays.

- Sung: a melody is imposed (notes of a scale, leaps, octaves, glides, scoops, vibrato), steady vowels are held for as
  long as the notes last, consonants keep their length; loud and high notes are brighter, some takes are breathy.
- Copies: the voice with its own melody (or up to two semitones away) through a poorer vocoder: an envelope of few
  cepstral coefficients, smoothed in time, coarser frames, no aperiodicity, stepped pitch, or phases guessed from a mel
  spectrogram. Stand-ins for clones, which keep the person and wear a vocoder's marks.

Both come from one analysis of a clip, which costs most of the time, into pools (`pools.py`) with the labels of the pool
they are made from; corpora get ``+sung`` and ``+copy``. Everything drawn for a clip depends on the seed and on the
clip's number in its pool. Persons are taken in a shuffled order, so that what is there of an unfinished pool is fair
to all corpora; cut at any moment, the same command goes on.

References
----------
Morise, Yokomori & Ozawa 2016: WORLD (doi:10.1587/transinf.2015EDP7457); by pyworld.
Saitou, Goto, Unoki & Akagi 2007: Speech-to-singing synthesis (doi:10.1109/ASPAA.2007.4393001): pitch as notes passed
through damped second-order systems, vibrato and fine fluctuation added, vowels stretched, a singing formant.
Perraudin, Balazs & Søndergaard 2013: A fast Griffin-Lim algorithm (doi:10.1109/WASPAA.2013.6701851).
"""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft, rfft
from scipy.ndimage import binary_erosion, uniform_filter1d

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own folder is there and not scripts/

from training.growing import Made, grow
from training.melody import FRAME_MS, FRAME_S, SCALES, hertz, ladder, midi, pitch_curve, wander
from training.pools import PEAK, RATE_HZ, Pool

with warnings.catch_warnings():  # pyworld 0.3.5 asks the deprecated pkg_resources for its own version
    warnings.simplefilter("ignore", UserWarning)
    import pyworld

FFT = 512  #: of what is kept: bins 31 Hz apart. The analysis of low voices needs twice that
BINS = FFT // 2 + 1
BIN_HZ = RATE_HZ / FFT
LOWEST_HZ = 65.0  #: of a voice that is analysed, and of a note
HIGHEST_HZ = 500.0  #: of speech; above, DIO takes harmonics for pitch. `--highest-hz` raises it for a pool of singing
CLIP_S = 6.0  #: taken of a clip
LONGEST_S = 14.0  #: of what is sung
SHORTEST_S = 1.5  #: of a clip, below which no melody fits
LEAST_VOICED = 0.25  #: of a clip's frames


class Voice(NamedTuple):
    """A clip taken apart, a row for each `FRAME_MS`.

    Attributes
    ----------
    f0_hz : (n,) float64
        0 where there is no voicing.
    log_envelope : (n, BINS) float64
        Natural logarithm of power.
    aperiodicity : (n, BINS) float64
        Share of noise in the amplitude, 0 to 1.
    """

    f0_hz: np.ndarray
    log_envelope: np.ndarray
    aperiodicity: np.ndarray


def analyse(samples: np.ndarray, highest_hz: float = HIGHEST_HZ) -> Voice | None:
    """Take a voice apart; None where less than `LEAST_VOICED` of it is voiced.

    Parameters
    ----------
    samples : (n,) int16
        At `RATE_HZ`, `SHORTEST_S` at least.
    highest_hz : float
        Pitch is sought from `LOWEST_HZ` to this.
    """
    sound = samples.astype(np.float64) / 32768
    f0_hz, times_s = pyworld.dio(sound, RATE_HZ, LOWEST_HZ, highest_hz, frame_period=FRAME_MS)
    f0_hz = mend_pitch(pyworld.stonemask(sound, f0_hz, times_s, RATE_HZ))
    if np.mean(f0_hz > 0) < LEAST_VOICED:
        return None
    envelope = pyworld.cheaptrick(sound, f0_hz, times_s, RATE_HZ)[:, ::2]
    # Half of the time goes into D4C, and at 16 kHz it finds one number a frame: every second frame is enough.
    # Threshold 0: DIO's voicing is strict already, and a vowel turned into noise would be held for a whole note.
    slow = pyworld.d4c(sound, f0_hz[::2].copy(), times_s[::2].copy(), RATE_HZ, threshold=0, fft_size=FFT)
    aperiodicity = np.repeat(slow, 2, axis=0)[: len(f0_hz)]
    return Voice(f0_hz, np.log(envelope + 1e-16), aperiodicity)


def mend_pitch(f0_hz: np.ndarray, gap: int = 5, island: int = 7) -> np.ndarray:
    """(n,) pitch in Hz: unvoiced gaps of up to `gap` frames filled, voiced bits of fewer than `island` taken out."""
    f0_hz = f0_hz.copy()
    voiced = f0_hz > 0
    for start, end in runs(~voiced):
        if start > 0 and end < len(f0_hz) and end - start <= gap:
            f0_hz[start:end] = np.interp(np.arange(start, end), (start - 1, end), f0_hz[[start - 1, end]])
    for start, end in runs(f0_hz > 0):
        if end - start < island:
            f0_hz[start:end] = 0
    return f0_hz


def speaking(voice: Voice) -> float:
    """The median pitch of a voice, semitones."""
    return float(midi(np.median(voice.f0_hz[voice.f0_hz > 0])))


def runs(flags: np.ndarray) -> np.ndarray:
    """(n_runs, 2) start and end of each stretch of True in (n,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


# --- Singing --------------------------------------------------------------------------------------------------------


class Song(NamedTuple):
    """What a voice is to sing, a row for each frame of what comes out.

    Attributes
    ----------
    source : (m,) float64
        The frame of the voice that is heard, between frames too; never falling.
    midi : (m,) float64
        Pitch in semitones, 69 = 440 Hz; heard where the voice is voiced.
    """

    source: np.ndarray
    midi: np.ndarray


def sing(voice: Voice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A take: (n,) float64 samples; and the pitch asked for, (m,) float64 Hz a frame of `FRAME_MS`, 0 if unvoiced."""
    song = compose(voice, rng)
    f0_hz, envelope, aperiodicity = impose(voice, song, rng)
    return pyworld.synthesize(f0_hz, envelope, aperiodicity, RATE_HZ, FRAME_MS), f0_hz


def compose(voice: Voice, rng: np.random.Generator) -> Song:
    """Give each syllable of a voice a length and notes."""
    nuclei = vowels(voice)
    if not len(nuclei):
        nuclei = runs(voice.f0_hz > 0)
    source, edges, held_s = stretch(len(voice.f0_hz), nuclei, rng)
    starts, ends = _note_times(edges, held_s, len(source), rng)
    notes = _melody(len(starts), speaking(voice), rng)
    return Song(source, pitch_curve(notes, starts, ends, rng))


def vowels(voice: Voice) -> np.ndarray:
    """(n_nuclei, 2) first frame and end of the steady middles of vowels: voiced, the envelope hardly changing.

    Steady is a change of the envelope over 20 ms, in sixteen bands, below the median of the clip's voiced frames.
    """
    bands = voice.log_envelope[:, :-1].reshape(len(voice.f0_hz), 16, -1).mean(axis=2)
    change = np.zeros(len(bands))
    change[2:-2] = np.abs(bands[4:] - bands[:-4]).mean(axis=1)
    change = uniform_filter1d(change, 5)
    voiced = voice.f0_hz > 0
    inner = binary_erosion(voiced, iterations=4)
    steady = inner & (change <= np.median(change[voiced]))
    for start, end in runs(~steady):
        if end - start <= 3 and inner[start:end].all():
            steady[start:end] = True
    nuclei = runs(steady)
    return nuclei[nuclei[:, 1] - nuclei[:, 0] >= 4]


def stretch(n_frames: int, nuclei: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hold vowels for as long as notes last.

    Parameters
    ----------
    n_frames : int
        Of the voice.
    nuclei : (k, 2) int
        What may be stretched, by at most 12 times.

    Returns
    -------
    source : (m,) float64
        The frame of the voice heard at each frame of the song; m is at most `LONGEST_S`.
    edges : (k, 2) float64
        The nuclei in the song's time, frames.
    held_s : (k,) float64
        Their lengths.
    """
    beat_s = rng.uniform(0.14, 0.45)
    beats = rng.choice([1, 1, 2, 3, 4], len(nuclei)) * np.exp(rng.normal(0, 0.12, len(nuclei)))
    long = rng.random(len(nuclei)) < rng.uniform(0.03, 0.25)
    wanted = np.where(long, rng.uniform(0.8, 2.8, len(nuclei)), beats * beat_s) / FRAME_S
    own = nuclei[:, 1] - nuclei[:, 0]
    factor = np.clip(wanted / own, 1, 12)
    pace = np.full(n_frames, 1.0)
    for (start, end), times in zip(nuclei, factor, strict=True):
        pace[start:end] = times
    at = np.concatenate([[0], np.cumsum(pace)])
    m = int(min(at[-1], LONGEST_S / FRAME_S))
    source = np.interp(np.arange(m), at[:-1], np.arange(n_frames))
    edges = at[nuclei]
    return source, edges, (edges[:, 1] - edges[:, 0]) * FRAME_S


def _note_times(
    edges: np.ndarray, held_s: np.ndarray, m: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of notes, frames: a syllable's note begins between its vowel and the one before; long vowels of
    some takes are split among several notes (melisma)."""
    starts = [0.0]
    splitting = rng.uniform(0, 0.6)
    for number, (begin, end) in enumerate(edges):
        if number:
            starts.append((edges[number - 1, 1] + begin) / 2)
        if held_s[number] > 0.4 and rng.random() < splitting:
            n_more = int(rng.integers(1, min(5, 1 + int(held_s[number] / 0.2))))
            cuts = begin + (end - begin) * (np.arange(1, n_more + 1) + rng.uniform(-0.25, 0.25, n_more)) / (n_more + 1)
            starts.extend(cuts)
    times = np.unique(np.clip(np.round(starts), 0, m - 1)).astype(int)
    return times, np.append(times[1:], m)


def _melody(n_notes: int, spoken: float, rng: np.random.Generator) -> np.ndarray:
    """(n_notes,) semitones, from below to far above the `spoken` pitch: low voices (men's, up to some 125 Hz) up to
    500 Hz, higher ones up to 900 Hz; in any scale and, as songs are, in any tuning."""
    lowest = max(spoken - 7, float(midi(LOWEST_HZ * 1.1)))
    highest = float(np.clip(spoken + 24, midi(380), midi(900)))
    centre = np.clip(spoken + rng.triangular(-4, 5, 17), lowest + 3, highest - 5)
    return wander(n_notes, ladder(str(rng.choice(list(SCALES))), rng.uniform(0, 12), lowest, highest), centre, rng)


def impose(voice: Voice, song: Song, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vocoder's input for a song: pitch (m,) Hz, power envelope and aperiodicity (m, BINS), float64.

    With the height of a note over the speaking voice come effort (a flatter spectrum), a formant rise of at most 3 %
    (a larynx that rises; more would be another person), a smoother envelope (whose ripple, 31 Hz bins, was that of
    the speaking pitch) and a level that is held, as singers do. A take has its own effort, singer's formant, breath.
    """
    frame = np.minimum(song.source.astype(int), len(voice.f0_hz) - 2)
    share = (song.source - frame)[:, None]
    log_envelope = voice.log_envelope[frame] * (1 - share) + voice.log_envelope[frame + 1] * share
    aperiodicity = voice.aperiodicity[frame] * (1 - share) + voice.aperiodicity[frame + 1] * share
    voiced = voice.f0_hz[np.round(song.source).astype(int)] > 0
    f0_hz = np.where(voiced, np.clip(hertz(song.midi), LOWEST_HZ, 1000), 0.0)
    height = np.where(voiced, uniform_filter1d(song.midi, 11) - speaking(voice), 0.0)

    hz = np.arange(BINS) * BIN_HZ
    smooth = uniform_filter1d(uniform_filter1d(log_envelope, 5, axis=1), 5, axis=1)
    blend = (np.clip((f0_hz - 200) / 400, 0, 1) * 0.8)[:, None]
    log_envelope += blend * (smooth - log_envelope)
    log_envelope = _raise_formants(log_envelope, 1 + np.clip(height / 18, 0, 1) * rng.uniform(0, 0.03))

    effort_db = rng.uniform(-2.5, 3.0) + np.clip(height, -6, 18) / 12 * rng.uniform(0, 2)  # dB an octave over 500 Hz
    octaves = np.log2(np.maximum(hz, 500) / 500)
    ring_db = max(0.0, rng.uniform(-4, 9)) * np.exp(-0.5 * ((hz - rng.uniform(2400, 3400)) / 450) ** 2)
    voiced_db = effort_db[:, None] * octaves + ring_db
    log_envelope += np.where(voiced[:, None], voiced_db, 0) * (np.log(10) / 10)
    gain_db = _even_level(log_envelope, f0_hz, rng.uniform(0.2, 0.8)) + rng.normal(0, rng.uniform(0, 0.5), len(f0_hz))
    log_envelope += np.where(voiced, gain_db, 0)[:, None] * (np.log(10) / 10)

    # Mostly less than in speech: D4C takes noise of the recording and moving pitch for breath, above 3 kHz most of all.
    breathy = np.clip(aperiodicity * 10 ** (rng.triangular(-20, -8, 6) / 20), 1e-3, 1)
    aperiodicity = np.where(voiced[:, None], breathy, 1.0)
    return f0_hz, np.exp(log_envelope), aperiodicity


def _raise_formants(log_envelope: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """(m, BINS) envelope whose bins are moved up by (m,) `ratio`."""
    place = np.arange(BINS) / ratio[:, None]
    below = np.minimum(place.astype(int), BINS - 2)
    rows = np.arange(len(ratio))[:, None]
    lower = log_envelope[rows, below]
    raised: np.ndarray = lower + (place - below) * (log_envelope[rows, below + 1] - lower)
    return raised


def _even_level(log_envelope: np.ndarray, f0_hz: np.ndarray, share: float) -> np.ndarray:
    """(m,) dB that takes `share` of the unevenness out of the level of voiced frames, slowly (50 ms).

    The level is that of the envelope from a little below the pitch up: nothing below it is heard.
    """
    above = np.cumsum(np.exp(log_envelope)[:, ::-1], axis=1)[:, ::-1]
    first = np.clip(0.7 * f0_hz / BIN_HZ, 0, BINS - 1).astype(int)
    level_db = 10 * np.log10(above[np.arange(len(first)), first] + 1e-16)
    voiced = f0_hz > 0
    target_db = np.percentile(level_db[voiced], 75)
    gain_db = uniform_filter1d(np.where(voiced, np.clip(target_db - level_db, -15, 15), 0), 11)
    even: np.ndarray = share * gain_db
    return even


# --- Copies ---------------------------------------------------------------------------------------------------------


def copy(voice: Voice, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) float64: the voice again, through a vocoder drawn at random; `samples` are those it was taken from."""
    if rng.random() < 0.25:
        return from_mel(samples, n_mels=int(rng.choice([40, 64, 80])), n_rounds=int(rng.integers(4, 25)), rng=rng)
    f0_hz, log_envelope, aperiodicity = voice
    frame_ms = float(rng.choice([5.0, 8.0, 10.0]))
    times = np.arange(0, len(f0_hz) - 1, frame_ms / FRAME_MS)
    nearest = np.round(times).astype(int)
    f0_hz, envelope, aperiodicity = f0_hz[nearest], np.exp(log_envelope[nearest]), aperiodicity[nearest].copy()

    coefficients = int(rng.choice([0, 24, 32, 40, 60]))
    if coefficients:
        coded = pyworld.code_spectral_envelope(envelope, RATE_HZ, coefficients)
        if rng.random() < 0.5:  # as statistical models do, which answer with the mean of what might follow
            coded = uniform_filter1d(coded, int(rng.integers(3, 9)), axis=0)
        envelope = pyworld.decode_spectral_envelope(np.ascontiguousarray(coded), RATE_HZ, FFT)
    voiced = f0_hz > 0
    breath = rng.choice(["kept", "steady", "none", "more"])
    if breath == "steady":
        aperiodicity[voiced] = aperiodicity[voiced].mean(axis=0)
    elif breath == "none":
        aperiodicity[voiced] = 1e-3
    elif breath == "more":
        aperiodicity[voiced] = np.minimum(aperiodicity[voiced] * rng.uniform(1.5, 3), 1)

    notes = midi(np.maximum(f0_hz, LOWEST_HZ))
    pitch = rng.choice(["kept", "smooth", "steps"])
    for start, end in runs(voiced):
        if pitch == "smooth":
            notes[start:end] = uniform_filter1d(notes[start:end], int(100 / frame_ms), mode="nearest")
        elif pitch == "steps":  # of a semitone, as a tuner does
            notes[start:end] = np.round(notes[start:end])
    if rng.random() < 0.5:
        notes += rng.uniform(-2, 2)
    f0_hz = np.where(voiced, hertz(notes), 0.0)
    made: np.ndarray = pyworld.synthesize(f0_hz, envelope, aperiodicity, RATE_HZ, frame_ms)
    return made


def from_mel(samples: np.ndarray, n_mels: int, n_rounds: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) float64 of about the same length from nothing but the magnitudes of `n_mels` bands (fast Griffin-Lim)."""
    window, hop = np.hanning(1025)[:-1].astype(np.float32), 256
    bands = _mel_bands(n_mels, 1024)
    sound = np.pad(samples.astype(np.float32) / 32768, 1024)
    mel = np.abs(_stft(sound, window, hop)) ** 2 @ bands.T
    power = mel @ (bands / (bands.sum(axis=1, keepdims=True) + 1e-9)) + 1e-12
    for _ in range(8):  # towards a spectrum of these bands that is nowhere negative (Lee & Seung 2001)
        power *= (mel @ bands + 1e-12) / (power @ bands.T @ bands + 1e-12)
    magnitude = np.sqrt(power)
    phases = np.exp(2j * np.pi * rng.random(magnitude.shape)).astype(np.complex64)
    before = np.zeros_like(phases)
    for _ in range(n_rounds):
        again = _stft(_overlap_add(magnitude * phases, window, hop), window, hop)
        ahead = again + 0.99 * (again - before)
        phases, before = ahead / (np.abs(ahead) + 1e-9), again
    return _overlap_add(magnitude * phases, window, hop)[1024 : 1024 + len(samples)].astype(np.float64)


def _stft(sound: np.ndarray, window: np.ndarray, hop: int) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(sound, len(window))[::hop]
    spectra: np.ndarray = rfft(frames * window, axis=1)
    return spectra


def _overlap_add(spectra: np.ndarray, window: np.ndarray, hop: int) -> np.ndarray:
    frames = irfft(spectra, axis=1) * window
    parts = len(window) // hop
    blocks = np.zeros((len(frames) + parts - 1, hop), np.float32)
    for part in range(parts):
        blocks[part : part + len(frames)] += frames[:, part * hop : (part + 1) * hop]
    sound: np.ndarray = blocks.reshape(-1) / (1.5 * parts / 4)  # a squared Hann window sums to 1.5 at a quarter's hop
    return sound


@functools.cache
def _mel_bands(n_mels: int, fft: int) -> np.ndarray:
    """(n_mels, fft / 2 + 1) float32 triangles, evenly spaced in mel (O'Shaughnessy 1987) from 0 to 8 kHz."""
    top = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
    hz = np.arange(fft // 2 + 1) * RATE_HZ / fft
    rising = (hz - corners_hz[:-2, None]) / np.diff(corners_hz)[:-1, None]
    falling = (corners_hz[2:, None] - hz) / np.diff(corners_hz)[1:, None]
    return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


# --- Pools ----------------------------------------------------------------------------------------------------------


class Person(NamedTuple):
    """A unit of the work: somebody's clips in a pool, in the order in which they are used."""

    label: str
    clips: tuple[int, ...]
    takes: int


class Plan(NamedTuple):
    """What is made of a pool; with the pool, all that the outcome depends on."""

    pool: str
    sung_s: float
    copies_s: float
    takes: int
    highest_hz: float
    seed: int


def persons(clips: Sequence[Sequence[object]], plan: Plan) -> list[Person]:
    """Who is made to sing, in a shuffled order: every label with a clip of `SHORTEST_S` at least.

    Parameters
    ----------
    clips : sequence of pools.Clip
        Of the pool.
    plan : Plan
        ``takes`` is the most melodies for a clip; fewer where a person's speech, held twice as long, suffices.
    """
    of_label: defaultdict[str, list[int]] = defaultdict(list)
    for number, (_, n_samples, label, *_) in enumerate(clips):
        if n_samples >= SHORTEST_S * RATE_HZ:
            of_label[str(label)].append(number)
    rng = np.random.default_rng([plan.seed, 0])
    labels = sorted(of_label)
    found = []
    for place in rng.permutation(len(labels)):
        label = labels[place]
        numbers = tuple(int(number) for number in rng.permutation(of_label[label]))
        speech_s = sum(min(clips[number][1] / RATE_HZ, CLIP_S) for number in numbers)
        takes = int(np.clip(np.ceil(plan.sung_s / (2 * speech_s)), 1, plan.takes))
        found.append(Person(label, numbers, takes))
    return found


def perform(number: int, plan: Plan) -> list[list[Made]]:
    """What the person `number` of a plan sings, and copies of that voice, for `grow`: those of the two wanted."""
    pool, people = _opened(plan)
    person = people[number]
    sung: list[Made] = []
    copies: list[Made] = []
    left_sung, left_copies = plan.sung_s * RATE_HZ, plan.copies_s * RATE_HZ
    for clip_number in person.clips:
        if left_sung <= 0 and left_copies <= 0:
            break
        rng, copy_rng = (np.random.default_rng([plan.seed, purpose, clip_number]) for purpose in (1, 2))
        clip = pool.clips[clip_number]
        n_used = min(clip.n_samples, int(CLIP_S * RATE_HZ))
        start = int(rng.integers(clip.n_samples - n_used + 1))
        samples = pool.clip(clip_number)[start : start + n_used]
        voice = analyse(samples, plan.highest_hz)
        if voice is None:
            continue
        for _ in range(person.takes):
            if left_sung > 0 and (made := to_int16(sing(voice, rng)[0])) is not None:
                sung.append((made, clip.label, f"{clip.corpus}+sung", clip.path))
                left_sung -= len(made)
        if left_copies > 0 and (made := to_int16(copy(voice, samples, copy_rng))) is not None:
            copies.append((made, clip.label, f"{clip.corpus}+copy", clip.path))
            left_copies -= len(made)
    return [made for made, seconds in ((sung, plan.sung_s), (copies, plan.copies_s)) if seconds]


@functools.cache
def _opened(plan: Plan) -> tuple[Pool, list[Person]]:
    pool = Pool(Path(plan.pool))
    return pool, persons(pool.clips, plan)


def to_int16(sound: np.ndarray) -> np.ndarray | None:
    """(n,) int16 with its peak at `PEAK` of full scale; None where there is nothing, or a vocoder failed."""
    peak = float(np.abs(sound).max(initial=0))
    if not np.isfinite(peak) or peak < 1e-4:
        return None
    return np.round(sound * (PEAK * 32767 / peak)).astype(np.int16)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pool", type=Path, required=True, metavar="STEM", help="the voices")
    parser.add_argument("--sung", type=Path, metavar="STEM", help="pool to make of their singing")
    parser.add_argument("--copies", type=Path, metavar="STEM", help="pool to make of their copies")
    parser.add_argument("--sung-seconds", type=float, default=40.0, help="a person, about (%(default)s)")
    parser.add_argument("--copy-seconds", type=float, default=15.0, help="a person, about (%(default)s)")
    parser.add_argument("--takes", type=int, default=3, help="melodies for one clip at most (%(default)s)")
    parser.add_argument("--highest-hz", type=float, default=HIGHEST_HZ, help="pitch of the voices (500; 1000 for sung)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    if not options.sung and not options.copies:
        parser.error("nothing to make: give --sung, --copies or both")
    plan = Plan(
        str(options.pool),
        options.sung_seconds if options.sung else 0.0,
        options.copy_seconds if options.copies else 0.0,
        options.takes,
        options.highest_hz,
        options.seed,
    )
    n_units = len(persons(Pool(options.pool).clips, plan))
    stems = [stem for stem in (options.sung, options.copies) if stem]
    grow(stems, plan._asdict(), n_units, functools.partial(perform, plan=plan), options.workers)


if __name__ == "__main__":
    main()
