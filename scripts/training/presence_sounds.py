"""Windows to learn vocal presence from: voices over accompaniment and noise, and all that is no voice, with labels.

    heard = load_pools(audio_root, pools_dir, ["accompaniment", "music"])
    samples, labels = draw_window(heard, rng)

What is drawn depends on the generator and the pools only. A frame has a voice (1), has none (0), or is not asked about
(-1): the edges of a voice, and a voice more than `BURIED_DB` below what plays over it.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.pools import RATE_HZ, Pool

WINDOW = 4 * RATE_HZ
FRAME = 1024  #: samples to a labelled frame: four feature frames of 16 ms
N_FRAMES = WINDOW // FRAME + 1

#: Shares of what is drawn; each adds up to 1.
VOICE_SHARE = 0.5
VOICES = {"sung": 0.2, "voice_sung": 0.4, "voice": 0.4}
UNDER_A_VOICE = {"bed": 0.75, "noise": 0.1, "hiss": 0.1, "tone": 0.05}
WITHOUT_A_VOICE = {"bed": 0.75, "noise": 0.12, "tone": 0.09, "hiss": 0.04}

VOICE_OVER_BED_DB = (-8.0, 16.0)
VOICE_OVER_NOISE_DB = (0.0, 25.0)
VOICE_OVER_HISS_DB = (20.0, 50.0)
ACTIVE_RANGE_DB = 30.0  #: below the voice's loud frames, down to which a frame is voice
BURIED_DB = 10.0
PEAK_DB = (-30.0, -1.0)  #: of a finished window

#: Pieces of train/music left out: works for choir, in renderings of which nobody has said that no choir is in them.
CHORAL = ("RV_610", "Z_339")
#: Notes of train/noise that tell of human sounds: classes of ESC-50 (crying, sneezing, breathing, coughing, laughing,
#: snoring), numbers of Nonspeech-100 (crowds, coughs, laughs, yawns, crying), babies, pauses between spoken words.
HUMAN_NOISE = (
    r"\d-\d+-[A-Z]-(20|21|23|24|26|28)\d\.wav",
    r"Nonspeech/n(\d|1[0-7]|8[3-5]|88|89|9[0-3])\.wav",
    r"baby",
    r"between words",
)


@dataclass(frozen=True)
class Heard:
    """The pools that are drawn from.

    Attributes
    ----------
    voices : dict of str to Pool
        By the names of `VOICES`.
    persons : dict of str to list of list of int
        Clip numbers of each person of each of them.
    beds : list of (Pool, list of int)
        Accompaniment and music alone, clips that may be used; each pool is as likely as the others.
    noise, room : (Pool, list of int)
    """

    voices: dict[str, Pool]
    persons: dict[str, list[list[int]]]
    beds: list[tuple[Pool, list[int]]]
    noise: tuple[Pool, list[int]]
    room: tuple[Pool, list[int]]


def load_pools(audio_root: Path, pools_dir: Path, beds: Sequence[str]) -> Heard:
    """Open the pools; raises `FileNotFoundError` for one that has not been made."""
    with (audio_root / "train/noise.csv").open(encoding="utf-8", newline="") as lines:
        human = {
            row["path"]
            for row in csv.DictReader(lines)
            if any(re.search(pattern, row["notes"] + row["source"]) for pattern in HUMAN_NOISE)
        }

    def usable(name: str) -> tuple[Pool, list[int]]:
        pool = Pool(pools_dir / name)
        left_out = [
            any(clip.path.endswith(path) for path in human) or any(piece in clip.path for piece in CHORAL)
            for clip in pool.clips
        ]
        return pool, [i for i, out in enumerate(left_out) if not out]

    voices = {name: Pool(pools_dir / name) for name in VOICES}
    return Heard(
        voices=voices,
        persons={name: _by_person(pool) for name, pool in voices.items()},
        beds=[usable(name) for name in beds],
        noise=usable("noise"),
        room=usable("rir"),
    )


def _by_person(pool: Pool) -> list[list[int]]:
    clips: defaultdict[str, list[int]] = defaultdict(list)
    for i, clip in enumerate(pool.clips):
        clips[clip.label].append(i)
    return list(clips.values())


def draw_window(heard: Heard, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a window.

    Returns
    -------
    samples : (WINDOW,) float32
        On the grid of 16-bit sound, at most 1.
    labels : (N_FRAMES,) int8
    """
    labels = np.zeros(N_FRAMES, np.int8)
    if rng.random() < VOICE_SHARE:
        samples, labels = _voice_over(heard, rng)
    else:
        samples = _without_voice(heard, _pick(WITHOUT_A_VOICE, rng), rng)
    samples = _channel(samples, heard, 0.2, rng)
    peak = float(np.abs(samples).max()) + 1e-9
    if rng.random() < 0.1:
        peak *= rng.uniform(0.3, 0.9)
        samples = np.clip(samples, -peak, peak)
    samples = samples * (10 ** (rng.uniform(*PEAK_DB) / 20) / peak)
    return (np.round(samples * 32767) / 32768).astype(np.float32), labels


def _voice_over(heard: Heard, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    voice = _voices(heard, rng)
    if rng.random() < 0.4:
        voice = _channel(voice, heard, 0.5, rng)
    power = _frame_power(voice)
    active = power > max(np.percentile(power, 95) * 10 ** (-ACTIVE_RANGE_DB / 10), 1e-9)
    if not active.any():
        return voice, np.zeros(N_FRAMES, np.int8)
    kind = _pick(UNDER_A_VOICE, rng)
    over_db = {"noise": VOICE_OVER_NOISE_DB, "hiss": VOICE_OVER_HISS_DB}.get(kind, VOICE_OVER_BED_DB)
    bed = _without_voice(heard, kind, rng)
    heard_at = np.repeat(active, FRAME)[:WINDOW]
    bed *= _rms(voice[heard_at]) / (_rms(bed[heard_at]) + 1e-5) * 10 ** (-rng.uniform(*over_db) / 20)

    near = np.convolve(active, np.ones(5), "same") > 0
    joined = np.convolve(np.convolve(active, np.ones(7), "same") > 0, np.ones(7), "same") > 6  # gaps of 0.4 s closed
    labels = np.where(active | joined, 1, np.where(near, -1, 0)).astype(np.int8)
    labels[active & (power < _frame_power(bed) * 10 ** (-BURIED_DB / 10))] = -1
    return voice + bed, labels


def _voices(heard: Heard, rng: np.random.Generator) -> np.ndarray:
    """Clips of one person one after the other, with pauses; at times another speed, or backing voices."""
    name = _pick(VOICES, rng)
    pool, persons = heard.voices[name], heard.persons[name]
    clips = persons[rng.integers(len(persons))]
    is_sparse = rng.random() < 0.3
    voice, at = np.zeros(WINDOW, np.float32), int(rng.uniform(0, 2.5) * RATE_HZ) if is_sparse else 0
    while at < WINDOW:
        number = int(rng.choice(clips))
        n = min(WINDOW - at, int(rng.uniform(0.8, 4.5) * RATE_HZ), pool.clips[number].n_samples)
        crop = pool.crop(number, n, rng)
        voice[at : at + n] = crop * (10 ** (rng.uniform(-6, 0) / 20) / (_rms(crop) + 1e-4))
        at += n
        if is_sparse or rng.random() < 0.4:
            at += int(rng.exponential(1.2 if is_sparse else 0.15) * RATE_HZ)
    if rng.random() < 0.25:
        voice = _played_at(voice, 2 ** (rng.uniform(-3, 4) / 12))
    if name != "voice" and rng.random() < 0.12:
        semitones = rng.choice([-5, -4, -3, 3, 4, 5, 0.1, -0.1])
        backing = _played_at(np.roll(voice, int(rng.integers(-800, 800))), 2 ** (semitones / 12))
        voice = voice + backing * np.float32(rng.uniform(0.3, 1))
    return voice


def _without_voice(heard: Heard, kind: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "bed":
        samples = _bed(heard, rng)
        return samples + rng.uniform(0.2, 1) * _bed(heard, rng) if rng.random() < 0.2 else samples
    if kind == "noise":
        return _joined(*heard.noise, WINDOW, rng)
    if kind == "tone":
        samples = _tone(rng)
        return samples + rng.uniform(0.1, 1) * _bed(heard, rng) if rng.random() < 0.3 else samples
    return rng.normal(0, 1e-3 * 10 ** rng.uniform(-1, 1), WINDOW).astype(np.float32)


def _bed(heard: Heard, rng: np.random.Generator) -> np.ndarray:
    pool, numbers = heard.beds[rng.integers(len(heard.beds))]
    if rng.random() < 0.6:
        return pool.crop(int(rng.choice(numbers)), WINDOW, rng)
    # Instruments that keep their pitch made to glide and tremble.
    speed = _wandering_speed(rng)
    at = np.cumsum(speed)
    source = pool.crop(int(rng.choice(numbers)), int(at[-1]) + 2, rng)
    return np.interp(at, np.arange(len(source)), source).astype(np.float32)


def _wandering_speed(rng: np.random.Generator) -> np.ndarray:
    """(WINDOW,) float64 around a factor of up to four semitones: with vibrato, or drifting, or both."""
    t = np.arange(WINDOW) / RATE_HZ
    semitones, kind = np.zeros(WINDOW), rng.random()
    if kind < 0.5:
        semitones += rng.uniform(0.1, 1) * np.sin(2 * np.pi * rng.uniform(3.5, 7.5) * t + rng.uniform(0, 6))
    if kind > 0.3:
        turns = int(rng.integers(3, 14))
        semitones += np.interp(t, np.linspace(0, t[-1], turns), rng.normal(0, rng.uniform(0.3, 2), turns))
    speed: np.ndarray = 2 ** ((np.clip(semitones, -5, 5) + rng.uniform(-4, 4)) / 12)
    return speed


def _joined(pool: Pool, numbers: list[int], n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) float32: clips one after the other."""
    parts, length = [], 0
    while length < n:
        number = int(rng.choice(numbers))
        parts.append(pool.crop(number, min(n - length, pool.clips[number].n_samples), rng))
        length += len(parts[-1])
    return np.concatenate(parts)


def _tone(rng: np.random.Generator) -> np.ndarray:
    """Sirens, sweeps, whistles, hum, wind, square and saw leads."""
    t = np.arange(WINDOW) / RATE_HZ
    turns = int(rng.integers(2, 16))
    knots = np.linspace(0, t[-1], turns)
    hz = np.exp(np.log(rng.uniform(80, 2500)) + np.interp(t, knots, rng.normal(0, rng.uniform(0.02, 0.5), turns)))
    if rng.random() < 0.5:
        hz *= 2 ** (rng.uniform(0, 1) * np.sin(2 * np.pi * rng.uniform(0.3, 8) * t) / 12)
    kind = rng.integers(6)
    if kind == 1:
        hz = rng.uniform(300, 900) * 2 ** (rng.uniform(0.2, 1.2) * np.abs((t * rng.uniform(0.2, 4)) % 2 - 1))
    if kind <= 1:
        phase, fall = 2 * np.pi * np.cumsum(hz) / RATE_HZ, rng.uniform(0.3, 2)
        harmonics = range(1, int(rng.integers(2, 14)))
        tone = sum(np.sin(h * phase) * (hz * h < 7800) * rng.random() / h**fall for h in harmonics)
    elif kind == 2:
        hz = np.clip(hz * max(1.0, 800 / hz.min()), 0, 7000)
        tone = np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ) + rng.uniform(0, 0.3) * rng.normal(size=WINDOW)
    elif kind == 3:
        mains, fall = rng.choice([50, 60]), rng.uniform(0, 1.5)
        tone = sum(np.sin(2 * np.pi * mains * h * t + h) / h**fall for h in range(1, 20))
    elif kind == 4:
        bins = np.fft.rfftfreq(WINDOW, 1 / RATE_HZ)
        noise = rng.normal(size=WINDOW) * np.interp(t, knots, rng.random(turns) ** 2)
        bump = 1 / (1 + ((bins - rng.uniform(100, 5000)) / rng.uniform(50, 3000)) ** 2)
        tone = np.fft.irfft(np.fft.rfft(noise) * bump, WINDOW)
    else:
        steps = rng.integers(-7, 12, 64)[np.minimum(63, t // rng.uniform(0.08, 0.6)).astype(int)]
        trill = rng.uniform(0, 0.6) * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
        turn = np.cumsum(rng.uniform(100, 500) * 2 ** ((steps + trill) / 12)) / RATE_HZ
        tone = np.sign(np.sin(2 * np.pi * turn)) if rng.random() < 0.5 else 2 * (turn % 1) - 1
        tone = np.convolve(tone, np.ones(int(rng.integers(1, 9))), "same")
    if rng.random() < 0.4:
        tone = tone * (0.55 + 0.45 * np.sign(np.sin(2 * np.pi * rng.uniform(0.3, 4) * t + rng.uniform(0, 6))))
    return (tone * (0.3 / (np.abs(tone).max() + 1e-6))).astype(np.float32)


def _channel(samples: np.ndarray, heard: Heard, p_room: float, rng: np.random.Generator) -> np.ndarray:
    """A random equaliser, low-pass, high-pass and room, each at times, in one transform."""
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    if rng.random() < 0.6:
        knots = np.linspace(np.log(50), np.log(8050), 8)
        spectrum *= 10 ** (np.interp(np.log(hz + 50), knots, rng.normal(0, 4, 8)) / 20)
    if rng.random() < 0.3:
        spectrum /= 1 + (hz / rng.uniform(3200, 7500)) ** int(rng.integers(8, 60))
    if rng.random() < 0.3:
        spectrum /= 1 + (rng.uniform(60, 300) / (hz + 1)) ** 6
    if rng.random() < p_room:
        pool, numbers = heard.room
        number = int(rng.choice(numbers))
        room = pool.crop(number, min(24_000, pool.clips[number].n_samples), rng)
        spectrum *= np.fft.rfft(room / (np.sqrt(np.square(room).sum()) + 1e-6), len(samples))
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def _played_at(samples: np.ndarray, speed: float) -> np.ndarray:
    """The same number of samples, played faster (going round) or slower."""
    at = (np.arange(len(samples)) * speed) % (len(samples) - 1)
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def _pick(shares: dict[str, float], rng: np.random.Generator) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _frame_power(samples: np.ndarray) -> np.ndarray:
    padded = np.pad(samples, (0, N_FRAMES * FRAME - len(samples)))
    power: np.ndarray = np.square(padded).reshape(N_FRAMES, FRAME).mean(axis=1)
    return power


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
