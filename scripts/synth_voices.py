"""Write the demo's recordings: singers who do not exist, synthesised from fixed seeds.

    python scripts/synth_voices.py OUT

writes OUT/artists/NAME/*.wav (reference songs to enroll), OUT/tracks/*.wav (tracks to examine), OUT/tracks.csv and
OUT/README.txt. No recording of a person goes in. The same command on the same machine writes the same bytes.

How a voice is made (source and filter, Fant 1960): a pulse of air per vibration of the vocal folds, plus breath noise,
goes through a filter whose resonances (formants) belong to the singer's vocal tract and move from vowel to vowel.
A melody says what is sung and when; a `Singer` says who sings it. Everything random comes from the generator given.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf

RATE_HZ = 24_000
HOP = 160  # samples from one control frame to the next: 6.7 ms, finer than any articulation
FFT = 1024  # 43 ms: long enough for the narrowest formant to ring out
SEED = 2026
N_REFERENCES = 3  # songs per artist
SONG_S = 17.0  # a song ends with the first note that passes this
README = """Synthetic recordings for trying Likeness, made by scripts/synth_voices.py. No person sings here:
the voices are computed from fixed seeds, the names are invented, and any likeness to a person is chance.

artists/NAME/*.wav   songs to enroll, one folder per artist
tracks/*.wav         tracks to examine; the file names say what each is
tracks.csv           what an uploader would state: path (from this folder), title, isrc, uploader
"""

#: Formants F1 to F5 in Hz of a 17.5 cm tract, near the men's averages of Peterson & Barney 1952 (F4, F5 by ear).
VOWELS = {
    "a": (730, 1090, 2440, 3400, 4250),
    "e": (510, 1850, 2500, 3450, 4250),
    "i": (300, 2250, 3000, 3600, 4300),
    "o": (510, 850, 2420, 3300, 4150),
    "u": (320, 800, 2250, 3250, 4100),
    "ae": (660, 1700, 2430, 3450, 4250),
    "er": (490, 1350, 1720, 3250, 4150),
}
BANDWIDTHS_HZ = (80.0, 110.0, 200.0, 320.0, 450.0)
#: Spread (relative, one standard deviation) of F1 to F5 of a vowel from one accent to another.
ACCENT_SPREAD = (0.12, 0.12, 0.07, 0.05, 0.03)
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "pentatonic": (0, 2, 4, 7, 9)}


@dataclass(frozen=True)
class Consonant:
    """The start of a syllable: how long, how it is voiced, and the noise it makes."""

    duration_s: float
    voicing: float  # amplitude of the voiced source meanwhile, 1 = that of a vowel
    noise_db: float  # level of its hiss or burst against the vowel; -99 = none
    noise_hz: float  # centre of that noise
    closure: float  # share of the duration that the lips or tongue are shut and no noise leaves, 0 to 1
    formants: tuple[int, ...]  # where the tract heads for, as in VOWELS


CONSONANTS = {
    "m": Consonant(0.08, 0.35, -99, 1000, 0.0, (260, 1000, 2200, 3200, 4100)),
    "n": Consonant(0.07, 0.35, -99, 1000, 0.0, (270, 1500, 2500, 3300, 4200)),
    "l": Consonant(0.07, 0.50, -99, 1000, 0.0, (360, 1150, 2800, 3400, 4200)),
    "r": Consonant(0.07, 0.50, -99, 1000, 0.0, (400, 1200, 1650, 3200, 4100)),
    "d": Consonant(0.06, 0.15, -14, 3600, 0.7, (300, 1700, 2600, 3400, 4200)),
    "b": Consonant(0.06, 0.15, -18, 1100, 0.7, (280, 900, 2200, 3200, 4100)),
    "v": Consonant(0.07, 0.30, -24, 4500, 0.0, (300, 1100, 2200, 3300, 4100)),
    "t": Consonant(0.09, 0.00, -10, 4200, 0.6, (350, 1750, 2650, 3400, 4200)),
    "k": Consonant(0.10, 0.00, -10, 2000, 0.6, (350, 1900, 2250, 3300, 4200)),
    "s": Consonant(0.12, 0.00, -12, 7000, 0.0, (320, 1650, 2600, 3400, 4200)),
    "sh": Consonant(0.12, 0.00, -10, 3300, 0.0, (320, 1800, 2450, 3300, 4200)),
    "h": Consonant(0.07, 0.05, -99, 1500, 0.0, (550, 1400, 2450, 3400, 4200)),
}


@dataclass(frozen=True)
class Singer:
    """One voice: what stays the same whatever is sung."""

    name: str  # also the folder's name
    low_midi: int  # compass, as MIDI note numbers (60 = middle C, 261.6 Hz)
    high_midi: int
    tract_cm: float  # lips to larynx; formants scale with 17.5 / tract_cm. Men 16 to 19, women 13.5 to 16
    open_quotient: float  # share of a period that the glottis is open: 0.45 pressed, 0.6 ordinary, 0.75 soft
    tilt_hz: float  # above this the pulses lose another 6 dB per octave: 500 veiled, 2000 brassy
    breath_db: float  # breath noise against the pulses: -45 clean, -20 husky
    jitter: float  # variation of a period's start, in periods (0.01 = 1 %)
    shimmer: float  # variation of a period's strength, relative
    vibrato_hz: float  # 4.5 to 7
    vibrato_cents: float  # to either side: 0 straight, 100 an opera house
    glide_s: float  # time the pitch takes from note to note (portamento)
    formant_factors: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)  # this mouth and throat: multiplies F1 to F5
    bandwidth_factor: float = 1.0  # damping of the tract: multiplies the formants' bandwidths; more is duller
    ring_db: float = 0.0  # singer's formant: gain around 2.9 kHz; 0 untrained, up to about 12
    nasality: float = 0.0  # 0 to 1: how much the nose shares (a murmur near 270 Hz, a hole near 1 kHz)
    accent: int = 0  # seed of the places of this singer's vowels, see ACCENT_SPREAD
    consonants: str = "m n l r d b v t k s sh h"  # the sounds this singer's language has, keys of CONSONANTS
    vowels: str = "a e i o u ae er"  # and of VOWELS

    @property
    def formant_scale(self) -> np.ndarray:
        """What a sound's formants are multiplied by, (5,)."""
        return np.array(self.formant_factors) * 17.5 / self.tract_cm

    def vowel_hz(self) -> dict[str, np.ndarray]:
        """Return the formants of each vowel as this singer says it, each (5,) Hz."""
        rng = np.random.default_rng([SEED, self.accent])
        spread = {vowel: np.exp(ACCENT_SPREAD * rng.standard_normal(5)) for vowel in VOWELS}
        return {vowel: np.array(hz) * self.formant_scale * spread[vowel] for vowel, hz in VOWELS.items()}

    def imitated(self, rng: np.random.Generator, amount: float = 0.02) -> Singer:
        """Return somebody who sounds like this singer: every measure off by about `amount`, relative."""
        fields = "tract_cm bandwidth_factor open_quotient tilt_hz breath_db jitter shimmer"
        fields += " glide_s vibrato_hz vibrato_cents"
        off = {name: getattr(self, name) * float(np.exp(amount * rng.standard_normal())) for name in fields.split()}
        factors = tuple(float(factor * np.exp(amount * rng.standard_normal())) for factor in self.formant_factors)
        return replace(self, name=f"imitator of {self.name}", formant_factors=factors, **off)


@dataclass(frozen=True)
class Note:
    """One syllable on one pitch; `midi` None is a breath."""

    midi: float | None
    duration_s: float
    consonant: str = ""  # a key of CONSONANTS, or empty for a vowel begun softly
    vowel: str = "a"  # a key of VOWELS


@dataclass(frozen=True)
class Melody:
    """What is sung, and what an accompaniment must know of it."""

    notes: tuple[Note, ...]
    tonic: int = 0  # pitch class, 0 = C
    scale: str = "major"  # a key of SCALES
    beat_s: float = 0.5


# Cast: of 18 random mouths and accents for each of the six parts, those the built-in encoder finds least alike and
# each most like itself. Between them it still finds a little more likeness than between two amateurs really singing.
ENROLLED = (
    Singer("Ada Vale", low_midi=57, high_midi=71, tract_cm=14.6, open_quotient=0.58, tilt_hz=1400, breath_db=-38,
           jitter=0.004, shimmer=0.03, vibrato_hz=5.6, vibrato_cents=45, glide_s=0.07, ring_db=3, bandwidth_factor=0.9,
           formant_factors=(0.99, 0.99, 1.05, 0.95, 0.93), accent=670, consonants="l m n v d s t", vowels="a e i o u"),
    Singer("Bruno Castellane", low_midi=43, high_midi=58, tract_cm=18.6, open_quotient=0.48, tilt_hz=1200,
           breath_db=-44, jitter=0.005, shimmer=0.03, vibrato_hz=5.0, vibrato_cents=80, glide_s=0.11, ring_db=9,
           bandwidth_factor=0.8, nasality=0.1, formant_factors=(0.98, 0.99, 0.97, 1.02, 1.00), accent=150,
           consonants="r d b m n k l", vowels="a e i o"),
    Singer("Imke Sorrel", low_midi=55, high_midi=69, tract_cm=15.8, open_quotient=0.74, tilt_hz=500, breath_db=-22,
           jitter=0.009, shimmer=0.07, vibrato_hz=4.7, vibrato_cents=18, glide_s=0.05, bandwidth_factor=1.4,
           nasality=0.2, formant_factors=(1.02, 0.97, 1.02, 1.03, 0.96), accent=386, consonants="sh s h v m k t n",
           vowels="ae er i u o"),
    Singer("Tam Okoro-Lind", low_midi=50, high_midi=66, tract_cm=16.8, open_quotient=0.52, tilt_hz=1800, breath_db=-34,
           jitter=0.014, shimmer=0.10, vibrato_hz=6.6, vibrato_cents=30, glide_s=0.04, ring_db=4, nasality=0.8,
           formant_factors=(1.03, 0.93, 0.96, 0.99, 1.08), accent=992, consonants="m n b d k l t", vowels="a ae e o u"),
)  # fmt: skip
STRANGERS = (
    Singer("Greta Mistral", low_midi=62, high_midi=79, tract_cm=13.6, open_quotient=0.50, tilt_hz=1500, breath_db=-42,
           jitter=0.004, shimmer=0.02, vibrato_hz=6.2, vibrato_cents=90, glide_s=0.12, ring_db=7, bandwidth_factor=0.8,
           nasality=0.3, formant_factors=(0.99, 0.95, 1.00, 0.99, 1.04), accent=451, consonants="r l d n t s h",
           vowels="a i u er e"),
    Singer("Odd Ferrum", low_midi=46, high_midi=60, tract_cm=17.6, open_quotient=0.68, tilt_hz=700, breath_db=-26,
           jitter=0.012, shimmer=0.09, vibrato_hz=4.9, vibrato_cents=15, glide_s=0.05, bandwidth_factor=1.5,
           nasality=0.5, formant_factors=(1.02, 1.00, 1.06, 0.93, 1.07), accent=895, consonants="b d v sh k h r",
           vowels="o u ae er a"),
)  # fmt: skip


def midi_to_hz(midi: np.ndarray | float) -> np.ndarray | float:
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def compose(singer: Singer, rng: np.random.Generator, duration_s: float) -> Melody:
    """Make up a melody and its syllables within the singer's compass: phrases of 5 to 9 notes, a breath after each."""
    scale = str(rng.choice(list(SCALES)))
    tonic = int(rng.integers(12))
    ladder = [midi for midi in range(singer.low_midi, singer.high_midi + 1) if (midi - tonic) % 12 in SCALES[scale]]
    beat_s = 60.0 / float(rng.uniform(84, 126))
    vowels, consonants = singer.vowels.split(), singer.consonants.split()
    notes: list[Note] = []
    sung_s, step, left = 0.0, len(ladder) // 2, int(rng.integers(5, 10))
    while sung_s < duration_s:
        if left == 0:
            notes.append(Note(None, float(rng.uniform(0.25, 0.5))))
            left = int(rng.integers(5, 10))
        else:
            step = int(np.clip(step + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]), 0, len(ladder) - 1))
            beats = float(rng.choice([0.5, 0.5, 1.0, 1.0, 1.5, 2.0]))
            consonant = "" if rng.random() < 0.1 else str(rng.choice(consonants))
            notes.append(Note(ladder[step], beats * beat_s, consonant, str(rng.choice(vowels))))
            left -= 1
        sung_s += notes[-1].duration_s
    notes.append(Note(None, 0.4))  # lets the last vowel ring out
    return Melody(tuple(notes), tonic, scale, beat_s)


def smooth(values: np.ndarray, span_s: float) -> np.ndarray:
    """Average control curves (n_frames, ...) over `span_s`, the way an inert tract or larynx does."""
    n = max(1, round(span_s * RATE_HZ / HOP)) | 1
    window = np.hanning(n + 2)[1:-1]
    window /= window.sum()
    padded = np.pad(values, [(n // 2, n // 2)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    return np.apply_along_axis(np.convolve, 0, padded, window, "valid")


def wander(rng: np.random.Generator, n_frames: int, span_s: float) -> np.ndarray:
    """Return slow random drift, unit variance."""
    curve = smooth(rng.standard_normal(n_frames), span_s)
    return curve / (curve.std() + 1e-9)


class Controls(NamedTuple):
    """What the voice does, one row per frame of HOP samples."""

    f0_hz: np.ndarray  # (n_frames,)
    voicing: np.ndarray  # (n_frames,) amplitude of the pulses
    breath: np.ndarray  # (n_frames,) amplitude of the breath noise
    noise: np.ndarray  # (n_frames,) amplitude of the consonants' noise
    noise_hz: np.ndarray  # (n_frames,) its centre
    formants_hz: np.ndarray  # (n_frames, 5)


def articulate(singer: Singer, melody: Melody, rng: np.random.Generator) -> Controls:
    """Turn notes and syllables into control curves with this singer's glides, vibrato and formants."""
    edges = np.rint(np.cumsum([0.0] + [note.duration_s for note in melody.notes]) * RATE_HZ / HOP).astype(int)
    n_frames = int(edges[-1])
    vowel_hz = singer.vowel_hz()
    midi, noise_hz = np.zeros(n_frames), np.full(n_frames, 3000.0)
    voicing, breath, noise, depth = (np.zeros(n_frames) for _ in range(4))
    formants = np.zeros((n_frames, 5))
    pitch = next(note.midi for note in melody.notes if note.midi is not None)
    for note, start, end in zip(melody.notes, edges[:-1], edges[1:], strict=True):
        t_s = np.arange(end - start) * HOP / RATE_HZ
        pitch = pitch if note.midi is None else note.midi
        midi[start:end] = pitch
        formants[start:end] = vowel_hz[note.vowel]
        if note.midi is None:
            formants[start:end] = vowel_hz["er"]
            breath[start:end] = 0.3 * np.hanning(end - start)  # a breath taken, before the next phrase
            continue
        # Higher is louder; each syllable swells a little and falls off.
        effort = 10 ** ((8.0 * (pitch - singer.low_midi) / (singer.high_midi - singer.low_midi) - 4.0) / 20)
        x = t_s / note.duration_s
        voicing[start:end] = effort * (0.75 + 0.35 * np.sin(np.pi * np.minimum(x * 1.2, 1.0)))
        breath[start:end] = 1.0
        depth[start:end] = np.clip((t_s - 0.15) / 0.25, 0.0, 1.0)  # vibrato sets in once a note is held
        if note.consonant:
            c = CONSONANTS[note.consonant]
            n = min(round(c.duration_s * RATE_HZ / HOP), (end - start) // 2)
            shut = round(c.closure * n)
            formants[start : start + n] = c.formants * singer.formant_scale
            voicing[start : start + n] *= c.voicing
            breath[start : start + n] = 4.0 if note.consonant == "h" else c.voicing
            noise_hz[start : start + n] = c.noise_hz
            noise[start + shut : start + n] = 10 ** (c.noise_db / 20)
    midi = smooth(midi, singer.glide_s) + 0.05 * wander(rng, n_frames, 0.3)
    rate_hz = singer.vibrato_hz * (1 + 0.04 * wander(rng, n_frames, 0.5))
    vibrato = np.sin(2 * np.pi * np.cumsum(rate_hz) * HOP / RATE_HZ)
    midi += singer.vibrato_cents / 100 * depth * vibrato
    f0_hz = midi_to_hz(midi)
    formants = smooth(formants, 0.07)
    formants *= 1 + 0.01 * np.stack([wander(rng, n_frames, 0.2) for _ in range(5)], axis=1)
    # Singers open the mouth so that F1 does not fall below the note (Sundberg 1975).
    formants[:, 0] = np.maximum(formants[:, 0], 1.02 * f0_hz)
    voicing = smooth(voicing, 0.03) * (1 + 0.06 * depth * vibrato)
    return Controls(f0_hz, voicing, smooth(breath, 0.03), smooth(noise, 0.015), noise_hz, formants)


def glottal_source(singer: Singer, f0_hz: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the pulses and how far the glottis is open, both (n_frames * HOP,).

    The pulse is the derivative of Rosenberg's (1971, type C): a raised cosine up, a quarter cosine down, then shut.
    It is drawn at twice the rate and its upper half cut off, so that its corner does not alias.
    """
    n = len(f0_hz) * HOP * 2
    f0 = np.interp(np.arange(n), np.arange(len(f0_hz)) * HOP * 2, f0_hz)
    phase = np.cumsum(f0) / (2 * RATE_HZ)
    n_periods = int(phase[-1]) + 3
    # Jitter: each period starts a little early or late; shimmer: each has its own strength.
    phase += singer.jitter * np.interp(phase, np.arange(n_periods), rng.standard_normal(n_periods))
    period = np.clip(phase.astype(int), 0, n_periods - 1)
    strength = (1 + singer.shimmer * rng.standard_normal(n_periods))[period]
    x = phase - np.floor(phase)
    rise, fall = 0.68 * singer.open_quotient, 0.32 * singer.open_quotient
    falling = (x >= rise) & (x < rise + fall)
    up, down = np.pi * x / rise, 0.5 * np.pi * (x - rise) / fall
    flow = np.where(x < rise, 0.5 - 0.5 * np.cos(up), np.where(falling, np.cos(down), 0.0))
    slope = np.where(x < rise, np.sin(up) / rise, np.where(falling, -np.sin(down) / fall, 0.0))
    spectrum = np.fft.rfft(slope * strength * 0.15)[: n // 4 + 1]
    tilt = 1 / np.sqrt(1 + (np.fft.rfftfreq(n // 2, 1 / RATE_HZ) / singer.tilt_hz) ** 2)
    return np.fft.irfft(spectrum * tilt, n // 2) / 2, flow[::2]


def resonator(freq_hz: np.ndarray, bandwidth_hz: np.ndarray | float) -> np.ndarray:
    """Return the denominator 1 + a z^-1 + b z^-2 of each resonance, scaled to gain 1 at 0 Hz: (n, 3)."""
    radius = np.exp(-np.pi * np.asarray(bandwidth_hz) / RATE_HZ) * np.ones(len(freq_hz))
    terms = np.stack([np.ones_like(radius), -2 * radius * np.cos(2 * np.pi * freq_hz / RATE_HZ), radius**2], axis=1)
    return terms / terms.sum(axis=1, keepdims=True)


def tract_response(singer: Singer, formants_hz: np.ndarray) -> np.ndarray:
    """Frequency response of the vocal tract in each frame, (n_frames, FFT // 2 + 1) complex."""
    scale = 17.5 / singer.tract_cm
    poles = np.ones((len(formants_hz), 1))  # the five denominators multiplied out, one polynomial per frame
    for k in range(5):
        pole = resonator(formants_hz[:, k], BANDWIDTHS_HZ[k] * singer.bandwidth_factor * scale)
        product = np.zeros((len(poles), poles.shape[1] + 2))
        for j in range(3):
            product[:, j : j + poles.shape[1]] += poles * pole[:, j : j + 1]
        poles = product
    hz = np.fft.rfftfreq(FFT, 1 / RATE_HZ)
    # The tract's resonances go on above F5, one in about 1 kHz; without them the cascade falls away too steeply.
    upper_hz = np.arange(5300.0, 12_000.0 / scale, 1000.0) * scale
    upper = resonator(upper_hz, 0.09 * upper_hz)
    shape = np.prod(1 / np.fft.rfft(upper, FFT), axis=0)
    ring = 10 ** (singer.ring_db / 20 * np.exp(-(((hz - 2900 * scale**0.4) / 600) ** 2)))
    hole = 1 - 0.8 * singer.nasality * np.exp(-(((hz - 1000) / 250) ** 2))
    murmur = 1 + singer.nasality * np.exp(-(((hz - 270) / 90) ** 2))
    return ((shape * ring * hole * murmur) / np.fft.rfft(poles, FFT)).astype(np.complex64)


def filter_frames(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Filter a signal (n_frames * HOP,) with a response per frame (overlap and add, Hann windows of two hops)."""
    n_frames = len(response)
    padded = np.pad(signal.astype(np.float32), (HOP, HOP))
    window = np.hanning(2 * HOP + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[: n_frames * HOP : HOP]
    filtered = np.fft.irfft(np.fft.rfft(frames * window, FFT) * response, FFT)
    n_parts = -(-FFT // HOP)
    filtered = np.pad(filtered, [(0, 0), (0, n_parts * HOP - FFT)]).reshape(n_frames, n_parts, HOP)
    out = np.zeros((n_frames + n_parts, HOP))
    for part in range(n_parts):
        out[part : part + n_frames] += filtered[:, part]
    return out.ravel()[HOP : HOP + n_frames * HOP]


def render_song(singer: Singer, melody: Melody, rng: np.random.Generator) -> np.ndarray:
    """Sing a melody: (n_samples,) float64 at RATE_HZ, RMS 0.1."""
    controls = articulate(singer, melody, rng)
    pulses, opening = glottal_source(singer, controls.f0_hz, rng)
    at, frame = np.arange(len(pulses)) / HOP, np.arange(len(controls.f0_hz))
    hiss, burst = rng.standard_normal((2, len(pulses)))
    hiss *= (0.3 + opening) * 10 ** (singer.breath_db / 20) * np.interp(at, frame, controls.breath)
    source = pulses * np.interp(at, frame, controls.voicing) + hiss
    voice = filter_frames(source, tract_response(singer, controls.formants_hz))
    octaves = np.log2((np.fft.rfftfreq(FFT, 1 / RATE_HZ) + 50) * singer.tract_cm / 17.5 / controls.noise_hz[:, None])
    noise = filter_frames(burst * np.interp(at, frame, controls.noise), np.exp(-((octaves / 0.4) ** 2)))
    return to_rms(to_rms(voice, 0.1) + 0.1 * noise, 0.1)


def to_rms(samples: np.ndarray, rms: float) -> np.ndarray:
    return samples * (rms / np.sqrt(np.mean(samples**2)))


def accompany(melody: Melody, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Play chords, bass and drums in the melody's key and tempo: (n_samples,), RMS 0.1."""
    scale = SCALES["minor" if melody.scale == "minor" else "major"]
    beat = round(melody.beat_s * RATE_HZ)
    t_s = np.arange(2 * beat) / RATE_HZ

    def pluck(midi: float, n_partials: int) -> np.ndarray:
        k = np.arange(1, n_partials + 1)[:, None]
        partials = np.sin(2 * np.pi * k * midi_to_hz(midi) * t_s) * np.exp(-t_s * (0.7 + 0.3 * k) / 0.6) / k**1.3
        return partials.sum(axis=0) * np.minimum(1.0, (2 * melody.beat_s - t_s) / 0.02)

    basses, chords = [], []
    for degree in (0, 5, 3, 4):  # I vi IV V, a bar each
        triad = [36 + melody.tonic + scale[(degree + j) % 7] + 12 * ((degree + j) // 7) for j in (0, 2, 4)]
        basses.append(1.2 * pluck(triad[0], 5))
        chords.append(0.35 * sum(pluck(midi + 12 + 0.03 * rng.standard_normal(), 8) for midi in triad))
    kick = 1.5 * np.sin(2 * np.pi * 50 * t_s + 6 * (1 - np.exp(-t_s / 0.03))) * np.exp(-t_s / 0.12)
    music = np.zeros(n_samples + 3 * beat)
    for i in range(n_samples // beat + 1):
        hiss = rng.standard_normal(2 * beat)
        snare, hat = 0.5 * hiss * np.exp(-t_s / 0.06), 0.15 * np.diff(hiss, append=0.0) * np.exp(-t_s / 0.02)
        bar, start = i // 4 % 4, i * beat
        music[start : start + 2 * beat] += chords[bar] + (basses[bar] + kick if i % 2 == 0 else snare)
        music[start + beat // 2 :][: 2 * beat] += hat
    return to_rms(music[:n_samples], 0.1)


def rng_for(recording: str) -> np.random.Generator:
    """Return a generator of this recording's own: adding one recording leaves the others as they were."""
    return np.random.default_rng([SEED, zlib.crc32(recording.encode())])


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write 16-bit PCM at RATE_HZ; RMS 0.1 (-20 dBFS), less where peaks would pass 0.9."""
    samples = to_rms(samples, 0.1)
    samples = samples * min(1.0, 0.9 / np.abs(samples).max())
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.rint(samples * 32767).astype(np.int16), RATE_HZ, subtype="PCM_16")


def write_demo(out: Path, song_s: float = SONG_S) -> None:
    """Write everything described at the top of this file into `out`."""
    for singer in ENROLLED:
        for number in range(1, N_REFERENCES + 1):
            rng = rng_for(f"{singer.name} {number}")
            song = render_song(singer, compose(singer, rng, song_s), rng)
            write_wav(out / "artists" / singer.name / f"song-{number}.wav", song)

    (ada, bruno, imke, _), (greta, odd) = ENROLLED, STRANGERS
    ada_too, bruno_too = ada.imitated(rng_for("imitator 1")), bruno.imitated(rng_for("imitator 2"))
    band_db = -6.0  # level of the accompaniment against the voice; None = the voice alone
    tracks = (
        ("imitation-of-ada-vale", "Imitation of Ada Vale", ada_too, band_db),
        ("imitation-of-bruno-castellane", "Imitation of Bruno Castellane", bruno_too, band_db),
        ("new-song-by-imke-sorrel", "A new song by Imke Sorrel", imke, None),
        ("stranger-greta-mistral", "A song by Greta Mistral, who is not enrolled", greta, None),
        ("stranger-odd-ferrum", "A song by Odd Ferrum, who is not enrolled", odd, band_db),
        ("instrumental", "Instrumental, nobody sings", None, 0.0),
    )
    rows = [("path", "title", "isrc", "uploader")]
    for number, (name, title, singer, music_db) in enumerate(tracks, start=1):
        rng = rng_for(name)
        melody = compose(singer or ada, rng, song_s)
        mix = render_song(singer, melody, rng) if singer else np.zeros(round(song_s * RATE_HZ))
        if music_db is not None:
            mix = mix + accompany(melody, len(mix), rng) * 10 ** (music_db / 20)
        write_wav(out / "tracks" / f"{name}.wav", mix)
        # ZZ is no country: such a code can never be that of a real recording.
        rows.append((f"tracks/{name}.wav", f"{title} (synthetic)", f"ZZSYN26{number:05d}", "synth_voices.py"))
    (out / "tracks/broken.wav").write_text("Text, not audio: one bad file must not stop a batch.\n", encoding="utf-8")
    rows.append(("tracks/broken.wav", "A damaged file (synthetic)", "", "synth_voices.py"))
    with (out / "tracks.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    (out / "README.txt").write_text(README, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write synthetic singers and tracks for the demo.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; files of the same names are replaced")
    out = parser.parse_args().out
    write_demo(out)
    print(f"Wrote {len(ENROLLED)} artists with {N_REFERENCES} songs each, and tracks to examine, to {out}")


if __name__ == "__main__":
    main()
