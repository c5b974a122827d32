"""Accompaniment without a voice, as much as wanted: random songs, written as MIDI and played by FluidSynth.

    python scripts/training/accompaniment.py --songs 500 --out POOLS/accompaniment

A song has a style (tempo, instruments, drum pattern, way of comping), two chord progressions and a form: intro, verse,
chorus, solo, break, and solo passages where an instrument plays alone. Lead lines are played as singers sing, which is
what a voice is mistaken for: bowed and blown instruments, bent guitar strings and synthesisers that glide, scoop and
vibrate (`melody.pitch_curve`, as pitch bend). The recording is then treated as recordings are: equalised,
compressed, driven, cut at the top as MP3 and karaoke tracks are.

No voice and no choir plays. Sound font: FluidR3_GM (MIT). Song `n` of a seed is always the same song; cut at any
moment, the same command goes on. A pool's rows have label "x" and corpus "gm"; the path is the style's name.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import soundfile as sf
import soxr
from scipy.ndimage import uniform_filter1d

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own folder is there and not scripts/

from training.growing import Made, grow
from training.melody import FRAME_S, ladder, pitch_curve, wander
from training.pools import PEAK, RATE_HZ

SOUND_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
#: FluidSynth plays at this rate and soxr takes it down: straight to 16 kHz, its samples would alias.
RENDER_HZ = 32_000
DRUMS = 9  #: the drum channel of General MIDI
BEND_RANGE = 12  #: semitones to which the lead channels' pitch bend is set
#: Programs (from 0) made of voices, by the names of their samples in FluidR3_GM; and Halo Pad, which sounds so.
VOICES = frozenset({52, 53, 54, 85, 91, 94, 101, 102})

CHORDS = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "maj7": (0, 4, 7, 11),
    "sus4": (0, 5, 7),
    "5": (0, 7),
}
ROOTS = {"C": 0, "Db": 1, "D": 2, "Eb": 3, "E": 4, "F": 5, "Gb": 6, "G": 7, "Ab": 8, "A": 9, "Bb": 10, "B": 11}

#: By character: the note that the key is called by, chords of a bar each in that key, and scales that fit.
PROGRESSIONS = {
    "major": (
        "C",
        ("C F G C", "C Am F G", "C G Am F", "F G C Am", "Am F C G", "C Em F G", "C Bb F C", "Dm F C G", "C F Am Gsus4"),
        ("major", "major pentatonic"),
    ),
    "minor": (
        "A",
        ("Am F C G", "Am G F E7", "Am Dm E7 Am", "Am C G D", "Am Em F G", "Dm Am E7 Am", "Am F Dm E7"),
        ("minor", "harmonic minor", "minor pentatonic"),
    ),
    "jazz": (
        "C",
        ("Dm7 G7 Cmaj7 A7", "Cmaj7 Am7 Dm7 G7", "Em7 A7 Dm7 G7", "Am7 D7 Dm7 G7", "Fmaj7 Em7 Dm7 Cmaj7"),
        ("major", "mixolydian", "blues"),
    ),
    "blues": (
        "C",
        ("C7 C7 C7 C7 F7 F7 C7 C7 G7 F7 C7 G7", "C7 F7 C7 C7 F7 F7 C7 A7 D7 G7 C7 G7", "Cm7 Cm7 Fm7 Cm7 G7 Fm7 Cm7 G7"),
        ("blues", "minor pentatonic", "mixolydian"),
    ),
    "power": (
        "A",
        ("A5 G5 D5 A5", "A5 F5 C5 G5", "A5 C5 D5 F5", "A5 A5 Bb5 A5", "A5 Bb5 A5 G5", "A5 E5 F5 G5"),
        ("minor pentatonic", "blues", "minor"),
    ),
    "hijaz": ("E", ("E F E Dm", "E F G F", "E E Dm E", "Am F E E"), ("hijaz",)),
}


class Style(NamedTuple):
    """What songs of a style have in common.

    Attributes
    ----------
    bpm : (float, float)
        Slowest and fastest.
    harmony : str
        Keys of `PROGRESSIONS`, of which a song has one.
    comping : str
        Ways of playing chords, of which a song has one: see `_comp`.
    chords, bass, pads, leads : tuple of int
        General MIDI programs, from 0.
    kick, snare, hat : str
        Of each sixteenth of a bar, the chance that it is in a song's pattern: digits from 0, never, to 9, always.
    kits : tuple of int
        Drum kits, by program.
    swing : float
        Longest delay of the off-beat, in sixteenths.
    """

    bpm: tuple[float, float]
    harmony: str
    comping: str
    chords: tuple[int, ...]
    bass: tuple[int, ...]
    pads: tuple[int, ...]
    leads: tuple[int, ...]
    kick: str
    snare: str
    hat: str
    kits: tuple[int, ...]
    swing: float = 0.0


_SAXES, _BRASS, _STRINGS = (64, 65, 66, 67), (56, 57, 59, 60), (40, 41, 42, 110)
_WOODS, _GUITARS, _SYNTHS = (68, 69, 71, 73, 74, 75, 77, 78, 79), (26, 27, 29, 30), (80, 81, 82, 83, 84, 86, 87)

STYLES = {
    "pop": Style(
        (84, 132), "major minor", "stabs strum arpeggio", (0, 1, 4, 5, 25, 27), (33, 34, 37), (48, 50, 89, 95),
        (*_SYNTHS, *_GUITARS, *_SAXES, 73), "9120 1040 6130 1020", "0000 9010 0001 9011", "8282 8282 8282 8282",
        (0, 8, 16),
    ),
    "rock": Style(
        (96, 168), "major power", "riff strum", (27, 29, 30, 25, 18), (33, 34), (16, 18, 48),
        (*_GUITARS, *_GUITARS, 22, 65), "9020 2060 8130 1040", "0000 9000 0010 9002", "9090 9090 9090 9090", (0, 8, 16),
    ),
    "metal": Style(
        (110, 190), "power", "riff", (29, 30), (34, 33), (48, 50), (29, 30, 30, 81), "9393 6363 9393 6363",
        "0000 9000 0000 9002", "9090 9090 9090 9090", (16, 17),
    ),
    "ballad": Style(
        (58, 82), "major minor", "arpeggio whole strum", (0, 2, 4, 24, 25), (32, 33, 35), (48, 49, 51, 89),
        (*_STRINGS, *_SAXES, *_WOODS, 27, 29, 22), "9000 0020 6020 0010", "0000 9000 0000 9001", "9090 9090 9090 9090",
        (0, 8, 40),
    ),
    "soul": Style(
        (72, 116), "jazz minor blues", "stabs strum", (4, 5, 7, 16, 17, 27, 28), (33, 36, 37), (48, 61, 16),
        (*_SAXES, *_BRASS, 26, 27, 22), "9030 1250 5240 2140", "0001 9012 0211 9012", "9696 9696 9696 9696",
        (0, 8), 0.5,
    ),
    "jazz": Style(
        (80, 184), "jazz blues", "stabs walk whole", (0, 1, 4, 26, 16), (32,), (11, 48),
        (*_SAXES, *_BRASS, 71, 11, 26, 40, 73), "3010 2010 3010 2010", "0002 1002 0002 1012", "9000 9090 9000 9090",
        (32, 33, 40), 0.7,
    ),
    "bossa": Style(
        (104, 148), "jazz major", "stabs strum", (24, 0, 4, 26), (32, 35), (48, 51),
        (73, 74, 65, 57, 24, 40, 22, 21, 71), "9003 9003 9003 9003", "9009 0090 0090 0900", "8888 8888 8888 8888",
        (0, 40),
    ),
    "reggae": Style(
        (66, 96), "major minor", "offbeat", (16, 17, 27, 28, 0), (33, 38, 37), (16, 18, 61), (57, 56, 22, 80, 73, 27),
        "0000 0000 9010 0000", "0000 0010 9000 0010", "8080 8181 8080 8181", (0, 8), 0.5,
    ),
    "electronic": Style(
        (100, 146), "minor major", "arpeggio stabs whole", (80, 81, 84, 88, 90, 4), (38, 39, 87),
        (50, 51, 89, 90, 92, 95), (*_SYNTHS, *_SYNTHS, 62, 63),
        "9000 9010 9000 9012", "0000 9000 0000 9010", "0292 0292 0292 0292", (24, 25),
    ),
    "folk": Style(
        (76, 144), "major minor", "strum arpeggio", (24, 25, 15, 105, 46), (32, 43, 33), (48, 20, 21),
        (22, 40, 110, 73, 74, 78, 109, 21, 105, 107, 111), "9000 0000 7000 0000", "0000 6000 0000 6010",
        "6060 6060 6060 6060", (0, 40),
    ),
    "orchestral": Style(
        (60, 132), "minor major", "whole arpeggio stabs", (48, 49, 45, 46, 6, 0), (43, 42), (48, 49, 60, 61, 19),
        (*_STRINGS, *_BRASS, *_WOODS, 70), "6000 0000 4000 0000", "0000 1000 0000 2222", "1000 1000 1000 1000", (48,),
    ),
    "eastern": Style(
        (70, 140), "minor hijaz hijaz", "arpeggio riff whole", (104, 106, 107, 24, 15), (32, 35, 43), (20, 48, 109),
        (77, 111, 40, 110, 104, 75, 68, 107, 69), "9003 0090 6030 0090", "0030 6003 0030 6033", "5353 5353 5353 5353",
        (0, 40),
    ),
}  # fmt: skip

#: The chance that a part is heard in a section, and how full its patterns are played. Alone: the lead, little else.
SECTIONS = {
    "intro": {"chords": 0.8, "bass": 0.5, "pad": 0.6, "lead": 0.6, "drums": 0.4, "second": 0.2, "fullness": 0.6},
    "verse": {"chords": 1.0, "bass": 1.0, "pad": 0.4, "lead": 0.15, "drums": 0.9, "second": 0.2, "fullness": 0.75},
    "chorus": {"chords": 1.0, "bass": 1.0, "pad": 0.8, "lead": 0.35, "drums": 1.0, "second": 0.6, "fullness": 1.0},
    "solo": {"chords": 0.8, "bass": 0.9, "pad": 0.4, "lead": 1.0, "drums": 0.9, "second": 0.1, "fullness": 0.8},
    "break": {"chords": 0.4, "bass": 0.4, "pad": 0.7, "lead": 0.3, "drums": 0.5, "second": 0.3, "fullness": 0.4},
    "alone": {"chords": 0.1, "bass": 0.1, "pad": 0.25, "lead": 1.0, "drums": 0.1, "second": 0.0, "fullness": 0.4},
}
FORMS = (
    "intro verse chorus verse chorus solo",
    "verse chorus solo chorus break chorus",
    "solo chorus verse break chorus",
    "alone verse chorus alone chorus",
    "verse verse alone chorus",
    "break alone solo chorus",
)


class Bar(NamedTuple):
    """A bar of a song: when it begins, how long a sixteenth is, the section and the chord."""

    start_s: float
    step_s: float
    section: str
    playing: frozenset[str]
    first: bool  #: of its section
    last: bool
    root: int  #: of the chord, MIDI pitch of 48 to 59
    chord: tuple[int, ...]  #: semitones over the root


class Score:
    """A MIDI file in the making; times in seconds."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int, mido.Message]] = []

    def add(self, at_s: float, kind: str, **fields: int) -> None:
        """Add a message; of messages at one time, notes end before controls move, and controls before notes begin."""
        order = {"note_off": 0, "note_on": 2}.get(kind, 1)
        self.events.append((max(0, round(at_s * 1000)), order, mido.Message(kind, **fields)))

    def note(self, channel: int, at_s: float, length_s: float, pitch: float, loudness: float) -> None:
        """Add a note; pitch and loudness are brought within what MIDI has."""
        pitch, loudness = int(np.clip(pitch, 12, 110)), int(np.clip(loudness, 15, 127))
        self.add(at_s, "note_on", channel=channel, note=pitch, velocity=loudness)
        self.add(at_s + max(length_s, 0.03), "note_off", channel=channel, note=pitch, velocity=0)

    def patch(self, channel: int, program: int, rng: np.random.Generator, loudness: tuple[int, int]) -> None:
        """Set a channel's program, volume, place between the loudspeakers and reverberation."""
        self.add(0, "program_change", channel=channel, program=int(program))
        for control, low, high in ((7, *loudness), (10, 24, 104), (91, 5, 100), (93, 0, 60)):
            self.add(0, "control_change", channel=channel, control=control, value=int(rng.integers(low, high)))

    def write(self, path: Path) -> None:
        """Write a MIDI file of milliseconds: 1,000 ticks a beat, 60 beats a minute."""
        file = mido.MidiFile(type=0, ticks_per_beat=1000)
        track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=1_000_000, time=0)])
        before = 0
        for at, _, message in sorted(self.events, key=lambda event: event[:2]):
            track.append(message.copy(time=at - before))
            before = at
        file.tracks.append(track)
        file.save(path)


def write_song(path: Path, seconds: float, rng: np.random.Generator) -> str:
    """Write a random song of at least `seconds` as MIDI; returns the name of its style."""
    name = str(rng.choice(list(STYLES)))
    style, score = STYLES[name], Score()
    bars, tonic, scale = _plan_bars(style, seconds, rng)
    swing = rng.uniform(0, style.swing)
    _drums(score, style, bars, swing, rng)
    _comp(score, style, bars, swing, rng)
    _bass(score, style, bars, swing, rng)
    _pad(score, style, bars, rng)
    _lead(score, "lead", (4, 5), style.leads, bars, (tonic, scale), rng)
    _lead(score, "second", (6, 7), (*style.leads, *style.chords), bars, (tonic, scale), rng)
    score.write(path)
    return name


def _plan_bars(style: Style, seconds: float, rng: np.random.Generator) -> tuple[list[Bar], int, str]:
    """The bars, the key's first note (0 to 11) and its scale. Sections differ a little in tempo and may rise a tone."""
    tonic, progressions, scales = PROGRESSIONS[str(rng.choice(style.harmony.split()))]
    key = int(rng.integers(12))
    form = str(rng.choice(FORMS)).split()
    of_section = {section: str(rng.choice(progressions)).split() for section in SECTIONS}
    of_section["solo"] = of_section["alone"] = of_section["verse"]
    bpm, restless = rng.uniform(*style.bpm), rng.uniform(0, 0.05)
    bars: list[Bar] = []
    start_s, number, rise = 0.0, int(rng.integers(len(form))), 0
    while start_s < seconds:
        section = form[number % len(form)]
        odds, chords = SECTIONS[section], of_section[section]
        playing = {part for part in odds if part != "fullness" and rng.random() < odds[part]}
        if not playing & {"chords", "pad", "lead"}:
            playing.add("chords")
        step_s = 15 / (bpm * np.exp(rng.normal(0, restless)))
        n_bars = 4 if section in ("break", "alone", "intro") else int(rng.choice([4, 8]))
        for bar in range(n_bars):
            symbol = chords[bar % len(chords)]
            letters = 2 if symbol[1:2] == "b" else 1
            root = 48 + (key + rise + ROOTS[symbol[:letters]]) % 12
            chord = CHORDS[symbol[letters:]]
            bars.append(Bar(start_s, step_s, section, frozenset(playing), not bar, bar == n_bars - 1, root, chord))
            start_s += 16 * step_s
        number += 1
        if rng.random() < 0.06:
            rise += int(rng.choice([1, 2]))
    return bars, (key + ROOTS[tonic]) % 12, str(rng.choice(scales))


def _time(bar: Bar, step: float, swing: float, rng: np.random.Generator) -> float:
    late = swing if step % 4 == 2 else 0.0
    return bar.start_s + (step + late) * bar.step_s + rng.normal(0, 0.006)


def _pattern(odds: str, rng: np.random.Generator) -> np.ndarray:
    return rng.random(16) < np.array([int(digit) for digit in odds.replace(" ", "")]) / 9


def _drums(score: Score, style: Style, bars: Sequence[Bar], swing: float, rng: np.random.Generator) -> None:
    score.patch(DRUMS, int(rng.choice(style.kits)), rng, (60, 125))
    patterns = {section: [_pattern(odds, rng) for odds in (style.kick, style.snare, style.hat)] for section in SECTIONS}
    hat = {section: int(rng.choice([42, 42, 44, 46, 51, 53, 59])) for section in SECTIONS}
    snare = int(rng.choice([38, 38, 40, 39, 37]))
    shaker, shakes = int(rng.choice([54, 56, 62, 63, 69, 70, 75, 82])), _pattern("5353 5353 5353 5353", rng)
    with_shaker = rng.random() < 0.35
    for bar in bars:
        if "drums" not in bar.playing:
            continue
        fullness = SECTIONS[bar.section]["fullness"]
        filling = bar.last and rng.random() < 0.7
        kick_on, snare_on, hat_on = patterns[bar.section]
        if bar.first and rng.random() < 0.7:
            score.note(DRUMS, bar.start_s, 0.5, 49, rng.integers(80, 120))
        for step in range(16):
            at_s = _time(bar, step, swing, rng)
            if filling and step >= 8:
                if rng.random() < 0.75:
                    score.note(DRUMS, at_s, 0.1, rng.choice([38, 41, 43, 45, 47, 50]), rng.integers(70, 120))
                continue
            if kick_on[step]:
                score.note(DRUMS, at_s, 0.1, 36, rng.integers(80, 122))
            if snare_on[step]:
                score.note(DRUMS, at_s, 0.1, snare, rng.integers(75, 120))
            if hat_on[step] and rng.random() < fullness + 0.2:
                score.note(DRUMS, at_s, 0.1, hat[bar.section], rng.integers(40, 90) + 15 * (step % 4 == 0))
            if with_shaker and shakes[step]:
                score.note(DRUMS, at_s, 0.1, shaker, rng.integers(40, 90))


def _comp(score: Score, style: Style, bars: Sequence[Bar], swing: float, rng: np.random.Generator) -> None:
    """The chords: struck (stabs), strummed, broken (arpeggio), held (whole), off the beat, or a riff on the root."""
    score.patch(0, rng.choice(style.chords), rng, (60, 120))
    way = str(rng.choice(style.comping.split()))
    steps = {
        section: {
            "stabs": _pattern("8131 3141 4131 3141", rng),
            "strum": _pattern("9072 6062 8072 6072", rng),
            "arpeggio": _pattern("9090 9090 9090 9090" if rng.random() < 0.6 else "9999 9999 9999 9999", rng),
            "offbeat": _pattern("0090 0090 0090 0091", rng),
            "riff": _pattern("9373 7373 8373 7373", rng),
            "walk": _pattern("3000 1040 2000 3030", rng),
            "whole": _pattern("9000 0000 1000 0000", rng),
        }[way]
        for section in SECTIONS
    }
    riff = rng.choice([0, 0, 0, 0, 3, 5, 7, 12, -2], 16)
    single = way == "riff" and rng.random() < 0.5  # one string alone rather than root and fifth
    up = rng.choice([0, 12])
    for bar in bars:
        if "chords" not in bar.playing:
            continue
        order = rng.permutation(8) if rng.random() < 0.2 else np.arange(8)
        number = 0
        for step in np.flatnonzero(steps[bar.section]):
            if step and rng.random() > SECTIONS[bar.section]["fullness"] + 0.25:
                continue
            at_s, loudness = _time(bar, step, swing, rng), rng.integers(55, 105)
            pitches = [bar.root + up + interval for interval in bar.chord]
            if way == "riff":
                root = bar.root - 12 + riff[step]
                for pitch in (root,) if single else (root, root + 7):
                    score.note(0, at_s, bar.step_s * rng.choice([0.6, 1, 2]), pitch, loudness)
            elif way == "arpeggio":
                pitches += [pitch + 12 for pitch in pitches]
                score.note(0, at_s, bar.step_s * 3, pitches[order[number % 8] % len(pitches)], loudness)
            else:
                length = {"whole": 15.5, "strum": 3.0, "offbeat": 1.2}.get(way, rng.uniform(1, 6))
                spread_s = rng.uniform(0.008, 0.02) if way == "strum" else rng.uniform(0, 0.008)
                down = pitches if step % 4 == 0 else pitches[::-1]
                for place, pitch in enumerate(down):
                    score.note(0, at_s + place * spread_s, length * bar.step_s, pitch, loudness)
            number += 1


def _bass(score: Score, style: Style, bars: Sequence[Bar], swing: float, rng: np.random.Generator) -> None:
    score.patch(1, rng.choice(style.bass), rng, (70, 125))
    patterns = {section: _pattern("9121 4141 6131 4151", rng) for section in SECTIONS}
    walking = style.swing > 0.6 and rng.random() < 0.8
    for bar in bars:
        if "bass" not in bar.playing:
            continue
        root = bar.root - (24 if bar.root > 52 else 12)
        if walking:
            tones = [root, *(root + int(rng.choice([*bar.chord, 2, 5, 9])) for _ in range(3))]
            for beat, pitch in enumerate(tones):
                score.note(1, _time(bar, beat * 4, swing, rng), bar.step_s * 3.6, pitch, rng.integers(70, 110))
            continue
        for step in np.flatnonzero(patterns[bar.section]):
            pitch = root + int(rng.choice([0, 0, 0, 0, 0, 7, 12, bar.chord[1]]))
            at_s = _time(bar, step, swing, rng)
            score.note(1, at_s, bar.step_s * rng.uniform(0.8, 4), pitch, rng.integers(65, 112))


def _pad(score: Score, style: Style, bars: Sequence[Bar], rng: np.random.Generator) -> None:
    score.patch(2, rng.choice(style.pads), rng, (30, 95))
    up = int(rng.choice([0, 12, 12]))
    for bar in bars:
        if "pad" in bar.playing:
            for interval in bar.chord:
                pitch = bar.root + up + interval
                score.note(2, bar.start_s, bar.step_s * 15.8, pitch, rng.integers(45, 90))


def _lead(
    score: Score,
    part: str,
    channels: tuple[int, int],
    programs: Sequence[int],
    bars: Sequence[Bar],
    key: tuple[int, str],
    rng: np.random.Generator,
) -> None:
    """A line over the bars in which `part` plays: phrases of one or two bars, with rests between."""
    program = int(rng.choice(programs))
    for channel in channels:
        score.patch(channel, program, np.random.default_rng(int(rng.integers(2**31))), (55, 120))
        for control, value in ((101, 0), (100, 0), (6, BEND_RANGE), (38, 0)):  # registered parameter 0: bend range
            score.add(0, "control_change", channel=channel, control=control, value=value)
    middle = rng.uniform(50, 66) if program in (42, 43, 57, 58, 66, 67, 70) else rng.uniform(57, 79)
    tonic, scale = key
    rungs = ladder(scale, tonic, middle - 14, middle + 14)
    held = program in range(16, 24) or program in range(40, 44) or 56 <= program < 88 or 109 <= program < 112
    gliding = rng.random() < (0.85 if held else 0.5)
    sixteenths = rng.choice([1.0, 2.0, 3.0, 4.0])  # a note's usual length
    playing = [bar for bar in bars if part in bar.playing]
    number = 0
    while number < len(playing):
        phrase = playing[number : number + int(rng.integers(1, 3))]
        if phrase[-1].start_s > phrase[0].start_s + 16.01 * phrase[0].step_s:  # the part rests in between
            phrase = phrase[:1]
        number += len(phrase)
        if rng.random() < 0.15:
            continue
        starts, at = [], float(rng.choice([0, 0, 1, 2, 4]))
        while at < 16 * len(phrase):
            starts.append(at)
            at += max(1.0, float(rng.choice([0.5, 1, 1, 1, 2, 4])) * sixteenths)
        end = min(at, 16 * len(phrase)) - rng.choice([0, 0, 1, 3])
        starts = [start for start in starts if start < end - 0.5] or [0.0]
        end = max(end, starts[-1] + 1)
        notes = wander(len(starts), rungs, middle, rng)
        for place, start in enumerate(starts):
            bar = phrase[int(start // 16)]
            if start % 8 == 0 and rng.random() < 0.6:  # what falls on a strong beat belongs to the chord
                tones = np.add.outer(bar.root % 12 + 12 * np.arange(9), bar.chord).ravel()
                notes[place] = tones[np.argmin(np.abs(tones - notes[place]))]
        times_s = [_time(phrase[int(start // 16)], start % 16, 0, rng) for start in starts]
        end_s = phrase[-1].start_s + (end - 16 * (len(phrase) - 1)) * phrase[-1].step_s
        if gliding:
            _play_bent(score, channels, notes, np.array([*times_s, end_s]), held and rng.random() < 0.6, rng)
        else:
            for pitch, start_s, stop_s in zip(notes, times_s, [*times_s[1:], end_s], strict=True):
                score.note(channels[0], start_s, (stop_s - start_s) * 0.95, round(pitch), rng.integers(60, 118))


def _play_bent(
    score: Score,
    channels: tuple[int, int],
    notes: np.ndarray,
    times_s: np.ndarray,
    tied: bool,
    rng: np.random.Generator,
) -> None:
    """Play a phrase as a singer would: pitch by bend, along `melody.pitch_curve`; swelling and ebbing.

    Parameters
    ----------
    notes : (n,) float64
        Semitones.
    times_s : (n + 1,) float64
        Rising, or nearly: starts of the notes, and the end of the last.
    tied : bool
        Notes as far as the bend reaches are bent out of the first, not struck again.
    """
    frames = np.maximum.accumulate(np.round((times_s - times_s[0]) / FRAME_S).astype(int))
    frames += np.arange(len(frames))  # no note is empty
    curve = pitch_curve(notes, frames[:-1], frames[1:], rng)
    struck = [0]
    for place in range(1, len(notes)):
        if not tied or abs(notes[place] - notes[struck[-1]]) > BEND_RANGE - 4:
            struck.append(place)
    swell = uniform_filter1d(np.repeat(rng.uniform(60, 127, len(curve) // 50 + 2), 50), 51)[: len(curve)]
    for turn, (place, following) in enumerate(zip(struck, [*struck[1:], len(notes)], strict=True)):
        # Two channels in turn: what rings on keeps its bend.
        channel, pitch = channels[turn % 2], int(np.clip(round(notes[place]), 12, 110))
        start, stop = frames[place], frames[following]
        for frame in range(start, stop, 2):
            bend = int(np.clip(round((curve[frame] - pitch) / BEND_RANGE * 8192), -8192, 8191))
            at_s = times_s[0] + frame * FRAME_S
            score.add(at_s, "pitchwheel", channel=channel, pitch=bend)
            if frame % 10 == start % 10:
                score.add(at_s, "control_change", channel=channel, control=11, value=int(swell[frame]))
        length_s = (stop - start) * FRAME_S - 0.005
        score.note(channel, times_s[0] + start * FRAME_S, length_s, pitch, rng.integers(60, 118))


def check_tools(sound_font: Path) -> None:
    """Raise `FileNotFoundError` where FluidSynth or the sound font is missing."""
    if shutil.which("fluidsynth") is None:
        raise FileNotFoundError("fluidsynth is not installed; on Debian: apt install fluidsynth fluid-soundfont-gm")
    if not sound_font.is_file():
        raise FileNotFoundError(
            f"{sound_font}: no such sound font; on Debian: apt install fluid-soundfont-gm, or give --sound-font"
        )


def render_midi(path: Path, seconds: float, sound_font: Path, rng: np.random.Generator) -> np.ndarray:
    """(n,) float32 at `RATE_HZ`, mono: a MIDI file played in a room drawn at random; silence fills up `seconds`."""
    wav_path = path.with_suffix(".wav")
    room = {"room-size": rng.uniform(0.1, 0.9), "damp": rng.uniform(0, 0.8), "level": rng.uniform(0.1, 0.9)}
    options = [part for name, value in room.items() for part in ("-o", f"synth.reverb.{name}={value:.3f}")]
    command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RENDER_HZ), *options, "-F", wav_path, sound_font, path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    stereo, rate_hz = sf.read(wav_path, frames=int(seconds * RENDER_HZ), dtype="float32", always_2d=True)
    sound = soxr.resample(stereo.mean(axis=1), rate_hz, RATE_HZ)
    n_samples = int(seconds * RATE_HZ)
    return np.pad(sound[:n_samples], (0, max(0, n_samples - len(sound))))


def treat(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) float64: compressed, driven and equalised, each with a chance; the top cut off for some."""
    sound = sound / (np.abs(sound).max() + 1e-9)
    if rng.random() < 0.5:
        level = np.sqrt(uniform_filter1d(sound.astype(np.float64) ** 2, int(rng.uniform(0.02, 0.2) * RATE_HZ)) + 1e-8)
        over = np.maximum(level / (np.median(level) * rng.uniform(0.3, 1.5)), 1)
        sound = sound * over ** (1 / rng.uniform(1.5, 6) - 1)
    if rng.random() < 0.3:
        sound = np.tanh(sound / (np.abs(sound).max() + 1e-9) * rng.uniform(1.0, 5.0))
    hz = np.fft.rfftfreq(len(sound), 1 / RATE_HZ)
    points_hz = np.geomspace(60, RATE_HZ / 2, 7)
    gain_db = np.interp(np.log(np.maximum(hz, 20)), np.log(points_hz), rng.normal(0, rng.uniform(0, 5), 7))
    if rng.random() < 0.35:
        gain_db -= 48 * np.maximum(np.log2(np.maximum(hz, 1) / rng.uniform(3000, 7500)), 0)
    if rng.random() < 0.2:
        gain_db -= 24 * np.maximum(np.log2(rng.uniform(80, 300) / np.maximum(hz, 1)), 0)
    treated: np.ndarray = np.fft.irfft(np.fft.rfft(sound) * 10 ** (gain_db / 20), len(sound))
    return treated


def make_song(number: int, seed: int, seconds: float, sound_font: Path) -> list[list[Made]]:
    """The song `number` of a seed, for `grow`: one clip, or none where nothing is heard."""
    rng = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory() as folder:
        midi_path = Path(folder) / "song.mid"
        style = write_song(midi_path, seconds, rng)
        sound = treat(render_midi(midi_path, seconds, sound_font, rng), rng)
    peak = np.abs(sound).max()
    if not peak > 1e-4:
        return [[]]
    return [[(np.round(sound * (PEAK * 32767 / peak)).astype(np.int16), "x", "gm", style)]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="STEM", help="pool to make")
    parser.add_argument("--songs", type=int, required=True, help="how many")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of a song (%(default)s)")
    parser.add_argument("--sound-font", type=Path, default=SOUND_FONT, help="General MIDI (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        check_tools(options.sound_font)
    except FileNotFoundError as error:
        sys.exit(str(error))
    settings = {"seed": options.seed, "seconds": options.seconds, "sound_font": options.sound_font}
    make = functools.partial(make_song, **settings)
    plan = {**settings, "sound_font": str(options.sound_font)}
    grow([options.out], plan, options.songs, make, options.workers)


if __name__ == "__main__":
    main()
