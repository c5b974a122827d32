from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddings.presence import (
    SILENT,
    VoiceClock,
    audible_windows,
    built_in_presence,
    log_mel,
    window_evidence,
    window_levels,
    windows_with_voice,
)
from embeddings.vocals import VocalWindows, Windows

RATE_HZ = 16000
MIN_VOICED_S = 1.5


def seconds(duration_s: float) -> np.ndarray:
    return np.arange(round(duration_s * RATE_HZ)) / RATE_HZ


def sung(duration_s: float, pitch_hz: float = 220.0) -> np.ndarray:
    """Harmonics under two formants, a semitone of vibrato at 5.5 Hz, the vowel changing four times a second."""
    t = seconds(duration_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz * 2 ** (0.5 / 12 * np.sin(2 * np.pi * 5.5 * t))) / RATE_HZ
    vowel = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * t)
    voice = np.zeros_like(t)
    for k in range(1, 16):
        hz = k * pitch_hz
        a, i = (np.exp(-(((hz - f1) / 300) ** 2)) + 0.5 * np.exp(-(((hz - f2) / 400) ** 2)) for f1, f2 in VOWELS)
        voice += (0.02 + vowel * a + (1 - vowel) * i) * np.sin(k * phase)
    return (0.1 * voice).astype(np.float32)


VOWELS = ((700, 1200), (300, 2300))  # Hz, formants of "a" and "i"


def silence(duration_s: float) -> np.ndarray:
    return np.zeros(round(duration_s * RATE_HZ), np.float32)


def noise(duration_s: float, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(7).normal(size=round(duration_s * RATE_HZ))).astype(np.float32)


def cut(samples: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    at = turn = 0
    while at < len(samples):
        yield samples[at : at + sizes[turn % len(sizes)]]
        at, turn = at + sizes[turn % len(sizes)], turn + 1


def collect(selector: VocalWindows) -> Windows:
    found = list(selector)
    if not found:
        return Windows(np.empty((0, 0), np.float32), np.empty(0), np.empty(0, np.float32))
    return Windows(*map(np.concatenate, zip(*found, strict=True)))


def test_singing_gives_a_window_every_two_seconds_and_one_that_ends_with_the_recording():
    samples = sung(11.3)
    selector = VocalWindows([samples])
    windows = collect(selector)
    assert windows.start_s.tolist() == [0.0, 2.0, 4.0, 6.0, 7.3]
    assert (windows.samples.shape, windows.samples.dtype) == ((5, 64000), np.float32)
    assert (windows.start_s.dtype, windows.presence.dtype) == (np.float64, np.float32)
    for row, start_s in zip(windows.samples, windows.start_s, strict=True):
        first = round(start_s * RATE_HZ)
        np.testing.assert_array_equal(row, samples[first : first + 64000])
    np.testing.assert_allclose(windows.presence, 1.0)
    assert selector.duration_s == pytest.approx(11.3)
    assert selector.voiced_s == pytest.approx(11.3, abs=0.15)


@pytest.mark.parametrize("duration_s", [4.0, 8.0, 68.0, 70.0])
def test_no_window_is_repeated_when_the_recording_ends_on_the_grid(duration_s):
    starts = collect(VocalWindows([sung(duration_s)])).start_s
    np.testing.assert_array_equal(starts, np.arange(0, duration_s - 2, 2))


@pytest.mark.parametrize("duration_s", [0.51, 1.7, 3.99])
def test_a_recording_shorter_than_a_window_gives_one_shorter_window(duration_s):
    samples = sung(duration_s)
    selector = VocalWindows([samples])
    windows = collect(selector)
    assert windows.start_s.tolist() == [0.0]
    np.testing.assert_array_equal(windows.samples, samples[None])
    assert selector.voiced_s == pytest.approx(duration_s, abs=0.15)


@pytest.mark.parametrize("blocks", [[], [silence(0)], [sung(0.4)], [sung(0.02)]], ids=["none", "empty", "0.4", "0.02"])
def test_a_recording_too_short_for_the_encoder_gives_none(blocks):
    selector = VocalWindows(blocks)
    assert list(selector) == []
    assert (selector.duration_s, selector.voiced_s) == (sum(map(len, blocks)) / RATE_HZ, 0.0)


@pytest.fixture(scope="module")
def song() -> np.ndarray:
    """Verses of two pitches between a rest, noise, bleed and a hum."""
    hum = (0.1 * np.sin(2 * np.pi * 110 * seconds(25))).astype(np.float32)
    rests = np.concatenate([silence(7), np.float32(0.001) * sung(8)])
    return np.concatenate([sung(9), rests, sung(21.3, 262.0), noise(16), sung(3), hum, sung(14)])


@pytest.mark.parametrize("chunk", [1, 3, 32])
@pytest.mark.parametrize("sizes", [[1001, 7, 40000], [128000], [64000, 1, 31999]])
def test_how_the_stream_is_cut_changes_nothing(song, sizes, chunk):
    one, many = VocalWindows([song], chunk=chunk), VocalWindows(cut(song, sizes), chunk=chunk)
    whole, pieces = collect(one), collect(many)
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.duration_s, one.voiced_s) == (many.duration_s, many.voiced_s)
    assert 0 < len(whole.start_s) < 44


@pytest.mark.parametrize("chunk", [1, 2, 5, 32])
@pytest.mark.parametrize("duration_s", [3.0, 4.0, 5.0, 16.0, 18.0, 18.1, 60.0, 95.3])
def test_windows_are_those_that_the_whole_recording_gives_at_once(song, duration_s, chunk):
    samples = song[: round(duration_s * RATE_HZ)]
    n = min(len(samples), 4 * RATE_HZ)
    starts = np.union1d(np.arange(0, len(samples) - n + 1, 2 * RATE_HZ), len(samples) - n)
    cuts = np.stack([samples[start : start + n] for start in starts])
    presence = built_in_presence()
    logits = presence.frame_logits(log_mel(cuts))
    audible, _ = audible_windows(window_levels(cuts), starts / RATE_HZ)
    kept = windows_with_voice(np.where(audible, window_evidence(logits), SILENT), presence.threshold)
    voiced = presence.voiced_frames(logits)[kept]
    clock = VoiceClock()
    clock.add(starts[kept] / RATE_HZ, voiced)
    assert kept.any()

    selector = VocalWindows([samples], chunk=chunk)
    found = list(selector)

    assert max(len(some.start_s) for some in found) <= chunk
    windows = Windows(*map(np.concatenate, zip(*found, strict=True)))
    np.testing.assert_array_equal(windows.samples, cuts[kept])
    np.testing.assert_array_equal(windows.start_s, starts[kept] / RATE_HZ)
    np.testing.assert_allclose(windows.presence, voiced.mean(axis=1), atol=1e-6)
    expected_s = min(len(samples) / RATE_HZ, clock.seconds)
    assert (selector.duration_s, selector.voiced_s) == (len(samples) / RATE_HZ, pytest.approx(expected_s))


def test_yielded_windows_stay_as_they_were_while_the_stream_goes_on():
    samples = sung(30)
    kept = list(VocalWindows(cut(samples, [5000]), chunk=2))
    for some in kept:
        for row, start_s in zip(some.samples, some.start_s, strict=True):
            first = round(start_s * RATE_HZ)
            np.testing.assert_array_equal(row, samples[first : first + 64000])


def test_a_verse_between_silences_is_found_where_it_is():
    selector = VocalWindows([np.concatenate([silence(20), sung(6), silence(20)])])
    windows = collect(selector)
    assert windows.start_s.tolist() == [18.0, 20.0, 22.0, 24.0]
    np.testing.assert_allclose(windows.presence, [0.6, 1.0, 1.0, 0.6], atol=0.1)
    assert selector.voiced_s == pytest.approx(6, abs=1)


def clicks(duration_s: float) -> np.ndarray:
    return np.where(np.arange(round(duration_s * RATE_HZ)) % 8000 == 0, 0.9, 0.0).astype(np.float32)


def chord(duration_s: float) -> np.ndarray:
    return np.sum(
        [0.1 * ((seconds(duration_s) * hz) % 1 - 0.5) for hz in (220.0, 277.18, 329.63)], axis=0, dtype=np.float32
    )


def brown(duration_s: float) -> np.ndarray:
    walk = np.cumsum(noise(duration_s))
    return (0.1 * (walk - walk.mean()) / walk.std()).astype(np.float32)


@pytest.mark.parametrize(
    "samples",
    [silence(30), noise(30), noise(30, 1e-4), brown(30), clicks(30), chord(30), np.full(480000, 0.3, np.float32)]
    + [(0.3 * np.sin(2 * np.pi * hz * seconds(30))).astype(np.float32) for hz in (50, 110, 440, 3000)]
    + [(1e-4 * sung(30)).astype(np.float32)],
    ids=["silence", "noise", "hiss", "brown", "clicks", "chord", "dc", "50", "110", "440", "3000", "far-too-quiet"],
)
def test_what_is_no_voice_gives_no_window(samples):
    selector = VocalWindows([samples])
    assert list(selector) == []
    assert (selector.duration_s, selector.voiced_s) == (30.0, 0.0)


def test_bleed_far_below_the_voice_is_not_voice():
    bleed = 0.05 * sung(8)
    assert len(collect(VocalWindows([bleed])).start_s) == 3
    assert collect(VocalWindows([np.concatenate([10 * sung(8), bleed])])).start_s.tolist() == [0, 2, 4, 6]


def test_a_phrase_is_found_alone_and_in_the_silence_of_a_stem():
    phrase = sung(2.5)
    assert len(collect(VocalWindows([phrase])).start_s) == 1
    assert collect(VocalWindows([np.concatenate([silence(20), phrase, silence(20)])])).start_s.tolist() == [18, 20]


@pytest.mark.parametrize("loudness", [0.05, 1.0, 9.0])
def test_a_voice_is_found_however_loud_it_is(loudness):
    assert len(collect(VocalWindows([(loudness * sung(12)).astype(np.float32)])).start_s) == 5


@pytest.mark.parametrize("material", [silence, sung])
def test_an_hour_is_held_in_the_memory_of_a_minute(material):
    block = material(8)
    selector = VocalWindows(block for _ in range(450))
    tracemalloc.start()
    n_windows = sum(len(some.start_s) for some in selector)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert selector.duration_s == 3600
    assert n_windows == (0 if material is silence else 1799)
    assert peak_bytes < 50e6  # an hour is 230 MB, its windows twice that


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_hz": 22050}, "rate_hz 22050"),
        ({"hop_s": 0.0}, "0 < hop_s <= window_s"),
        ({"hop_s": 5.0}, "0 < hop_s <= window_s"),
        ({"window_s": 0.25, "hop_s": 0.25}, "window_s 0.25.*window_s >= 0.5"),
        ({"chunk": 0}, "chunk 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VocalWindows([], **settings)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        list(VocalWindows([np.append(sung(1), np.float32(value))]))


@pytest.mark.parametrize("block", [np.zeros((10, 2), np.float32), np.zeros(10, np.int16)], ids=["stereo", "int16"])
def test_blocks_that_are_not_mono_floats_are_refused(block):
    with pytest.raises(ValueError, match="mono floats"):
        list(VocalWindows([block]))


def clips(audio_root: Path, manifest: str, every: int, **wanted: str) -> Iterator[np.ndarray]:
    soundfile, soxr = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    with (audio_root / manifest).open() as lines:
        rows = [row for row in csv.DictReader(lines) if all(row[key] == value for key, value in wanted.items())]
    for row in [row for row in rows if float(row["duration_s"]) >= 2][::every]:
        samples, rate_hz = soundfile.read(audio_root / row["path"], dtype="float32")
        yield soxr.resample(samples, rate_hz, RATE_HZ)


def abstaining(samples: Iterator[np.ndarray]) -> tuple[int, int]:
    """How many clips have less than 1.5 s of voice, and how many clips there are."""
    voiced_s = []
    for one in samples:
        selector = VocalWindows([one])
        for _ in selector:
            pass
        voiced_s.append(selector.voiced_s)
    return sum(v < MIN_VOICED_S for v in voiced_s), len(voiced_s)


@pytest.mark.audio
@pytest.mark.parametrize("kind", ["singing", "speech"])
def test_clean_voices_do_not_abstain(audio_root, kind):
    n_abstaining, n = abstaining(clips(audio_root, "dev/voices.csv", 12, kind=kind, fold="A"))
    assert n >= 13
    assert n_abstaining == 0


@pytest.mark.audio
def test_sung_mixes_hardly_abstain(audio_root):
    n_abstaining, n = abstaining(clips(audio_root, "dev/voices.csv", 5, kind="mixes", fold="A"))
    assert n >= 10
    assert n_abstaining <= 1


@pytest.mark.audio
def test_most_instrumental_clips_abstain(audio_root):
    n_abstaining, n = abstaining(clips(audio_root, "dev/instrumental.csv", 8))
    more_abstaining, more = abstaining(clips(audio_root, "dev/music.csv", 8))
    assert n + more >= 15
    assert n_abstaining + more_abstaining >= 0.85 * (n + more)  # measured: 96 % of all 116
