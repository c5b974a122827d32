"""Melodies, and what a voice or a bent string makes of their notes: for `singing.py` and `accompaniment.py`.

Pitch is in semitones, 69 = 440 Hz, in frames of `FRAME_MS`.

References
----------
Saitou, Goto, Unoki & Akagi 2007: Speech-to-singing synthesis (doi:10.1109/ASPAA.2007.4393001): notes are passed through
a damped second-order system; vibrato and fine fluctuation are added.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

FRAME_MS = 5.0
FRAME_S = FRAME_MS / 1000

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "hijaz": (0, 1, 4, 5, 7, 8, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "chromatic": tuple(range(12)),
}


def midi(hz: np.ndarray | float) -> np.ndarray:
    """Semitones, 69 = 440 Hz, of pitch above 0 Hz."""
    semitones: np.ndarray = 12 * np.log2(np.asarray(hz) / 440) + 69
    return semitones


def hertz(semitones: np.ndarray) -> np.ndarray:
    """Hz of semitones, 69 = 440 Hz."""
    hz: np.ndarray = 440 * 2 ** ((semitones - 69) / 12)
    return hz


def ladder(scale: str, tonic: float, lowest: float, highest: float) -> np.ndarray:
    """(n,) float64 rising: the notes of a scale from `lowest` to `highest`; `tonic` is any of its first steps."""
    rungs = np.array([tonic % 12 + 12 * octave + step for octave in range(-1, 12) for step in SCALES[scale]])
    return rungs[(rungs >= lowest) & (rungs <= highest)]


def wander(n_notes: int, rungs: np.ndarray, centre: float, rng: np.random.Generator) -> np.ndarray:
    """(n_notes,) float64: a walk over (n,) `rungs`, drawn back to `centre`.

    How far it goes from there (2 to 10 semitones), how often it leaps (two to five rungs), goes an octave and repeats
    a note are drawn once, so that melodies differ.
    """
    width, leaping = rng.uniform(2, 10), rng.uniform(0.05, 0.4)
    octaves, repeating = rng.choice([0.0, 0.04, 0.12]), rng.uniform(0.05, 0.5)
    octave = int(np.sum(rungs < rungs[0] + 12))
    place = int(np.argmin(np.abs(rungs - centre)))
    notes = np.empty(n_notes)
    for number in range(n_notes):
        notes[number] = rungs[place]
        draw = rng.random()
        if draw < octaves:
            step = octave
        elif draw < octaves + leaping:
            step = int(rng.integers(2, 6))
        elif draw < octaves + leaping + repeating:
            step = 0
        else:
            step = 1
        step *= int(rng.choice([-1, 1]))
        ahead = rungs[np.clip(place + step, 0, len(rungs) - 1)] - centre
        if not 0 <= place + step < len(rungs) or (abs(ahead) > width and ahead * step > 0):
            step = -step
        place = int(np.clip(place + step, 0, len(rungs) - 1))
    return notes


def pitch_curve(notes: np.ndarray, starts: np.ndarray, ends: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(m,) float64 semitones: notes made into what a voice does.

    Detuned a little and by the way they are begun (scoops) and left (falls); passed from one to the next by a damped
    second-order system (Saitou et al.: 0.035 rad/ms and 0.54, a transition of some 90 ms that overshoots; here from
    sluggish to quick); vibrato that begins late and grows; slow drift and jitter.
    """
    m = int(ends[-1])
    seconds = np.arange(m) * FRAME_S
    target, vibrato = np.empty(m), np.zeros(m)
    off_key, scooping, falling = rng.uniform(0.03, 0.25), rng.uniform(0, 0.5), rng.uniform(0, 0.2)
    depth, rate_hz, delay_s = max(0.0, rng.uniform(-0.2, 1.0)), rng.uniform(4.3, 7.2), rng.uniform(0.05, 0.4)
    phase = 0.0
    for note, start, end in zip(notes, starts, ends, strict=True):
        held = seconds[: end - start]
        curve = np.full(end - start, note + rng.normal(0, off_key))
        if rng.random() < scooping:
            curve -= rng.uniform(0.5, 3.5) * np.exp(-held / rng.uniform(0.03, 0.12))
        if rng.random() < falling:
            curve -= rng.uniform(0.5, 4) * np.exp(-held[::-1] / rng.uniform(0.03, 0.15))
        target[start:end] = curve
        own_rate_hz = rate_hz * (1 + rng.normal(0, 0.03))
        grown = np.clip((held - delay_s) / rng.uniform(0.15, 0.5), 0, 1)
        turns = phase + 2 * np.pi * own_rate_hz * held
        vibrato[start:end] = depth * rng.uniform(0.6, 1.2) * grown * np.sin(turns)
        phase = turns[-1]
    quickness, damping = rng.uniform(0.018, 0.07) * FRAME_MS, rng.uniform(0.5, 1.1)
    moved = _second_order(target, quickness, damping)
    drift = lfilter([0.03], [1, -0.97], rng.normal(0, 1, m)) * rng.uniform(0.2, 1.2)  # about 1 Hz, 2 to 15 cents
    jitter = rng.normal(0, rng.uniform(0.01, 0.1), m)
    return moved + vibrato + drift + jitter


def _second_order(target: np.ndarray, quickness: float, damping: float) -> np.ndarray:
    """`target` through a damped second-order system that starts at rest on it; `quickness` in radians a frame."""
    radius, angle = np.exp(-damping * quickness), quickness * np.sqrt(complex(1 - damping**2))
    poles = radius * np.exp(1j * angle), radius * np.exp(-1j * angle)
    a = np.real([1, -(poles[0] + poles[1]), poles[0] * poles[1]])
    moved: np.ndarray = lfilter([a.sum()], a, target - target[0]) + target[0]
    return moved
