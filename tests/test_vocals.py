from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embeddings import vocals
from embeddings.vocals import VocalWindows, Windows, frame_features, recent_peak, score_windows

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


@pytest.mark.parametrize("chunk", [1, 3, 32])
@pytest.mark.parametrize("sizes", [[1001, 7, 40000], [128000], [64000, 1, 31999]])
def test_how_the_stream_is_cut_changes_nothing(sizes, chunk):
    samples = np.concatenate([sung(9), silence(7), sung(21.3, 150.0), noise(6), sung(3)])
    one, many = VocalWindows([samples], chunk=chunk), VocalWindows(cut(samples, sizes), chunk=chunk)
    whole, pieces = collect(one), collect(many)
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.duration_s, one.voiced_s) == (many.duration_s, many.voiced_s)
    assert whole.start_s.tolist() == [0, 2, 4, 6, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 42, 42.3]


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_how_many_windows_are_judged_at_once_changes_nothing_but_the_chunks(chunk):
    samples = np.concatenate([sung(9), silence(7), sung(21.3, 150.0)])
    few, many = VocalWindows([samples], chunk=chunk), VocalWindows([samples])
    chunks = list(few)
    assert max(len(some.start_s) for some in chunks) == chunk
    for a, b in zip(map(np.concatenate, zip(*chunks, strict=True)), collect(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert few.voiced_s == many.voiced_s


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
    np.testing.assert_allclose(windows.presence, [0.6, 1.0, 1.0, 0.6], atol=0.03)
    assert selector.voiced_s == pytest.approx(6 + 2 * vocals.HANGOVER_S, abs=0.1)


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
    bleed = 0.05 * sung(8, 300.0)
    assert len(collect(VocalWindows([bleed])).start_s) == 3
    assert collect(VocalWindows([np.concatenate([10 * sung(8), bleed])])).start_s.tolist() == [0, 2, 4, 6]


def test_a_voice_is_found_in_noise_10_db_below_it():
    voice = sung(20)
    hiss = noise(20, float(np.sqrt(np.mean(voice**2)) * 10 ** (-10 / 20)))
    assert len(collect(VocalWindows([voice + hiss])).start_s) == 9


@pytest.mark.parametrize("material", [silence, sung])
def test_an_hour_is_held_in_the_memory_of_a_minute(material):
    block = material(8)
    selector = VocalWindows(block for _ in range(450))
    held: list[int] = []
    judge = selector._judge

    def watch(samples, *rest):
        held.append(samples.base.nbytes)
        return judge(samples, *rest)

    selector._judge = watch
    n_windows = sum(len(some.start_s) for some in selector)
    assert selector.duration_s == 3600
    assert n_windows == (0 if material is silence else 1799)
    assert set(held) == {4 * RATE_HZ * (32 * 2 + 4)}


def test_frames_tell_level_pitch_and_timbre():
    tone = 0.5 * np.sin(2 * np.pi * 220 * seconds(1))
    tone += 0.25 * np.sin(2 * np.pi * 440 * seconds(1))
    features = frame_features(tone.astype(np.float32), RATE_HZ)
    assert features.shape == (1 + (RATE_HZ - 1024) // 500, 5)
    np.testing.assert_allclose(features[:, 0], 10 * np.log10((0.5**2 + 0.25**2) / 2), atol=0.1)
    assert features[:, 1].min() > 0.9
    np.testing.assert_allclose(features[:, 2], 24, atol=0.1)  # two octaves above 55 Hz
    assert frame_features(noise(2), RATE_HZ)[:, 1].max() < vocals.MIN_HARMONICITY


def test_the_recent_peak_falls_slowly_and_carries_over():
    level_db = np.array([-20.0, -60.0, -10.0, -60.0], np.float32)
    fall = vocals.RELEASE_DB_PER_S / vocals.FRAMES_PER_S
    np.testing.assert_allclose(recent_peak(level_db, -np.inf), [-20, -20 - fall, -10, -10 - fall], atol=1e-5)
    np.testing.assert_allclose(recent_peak(level_db, -5.0), -5 - fall * np.arange(1, 5), atol=1e-5)


def test_evidence_is_the_share_of_gliding_frames():
    features = np.zeros((2, 100, 5), np.float32)
    features[..., 1] = 0.9
    features[0, :50, 2] = 0.5 * np.arange(50)  # half of the time the pitch climbs
    features[1, :, 2] = 0.5 * (np.arange(100) % 2)  # jitter is no glide
    voiced, evidence = score_windows(features, np.ones((2, 100), bool))
    assert voiced.all()
    np.testing.assert_allclose(evidence, [0.5, 0], atol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_hz": 22050}, "rate_hz 22050"),
        ({"hop_s": 0.33}, "hop_s 0.33"),
        ({"hop_s": 0.0}, "0 < hop_s <= window_s"),
        ({"hop_s": 5.0}, "0 < hop_s <= window_s"),
        ({"window_s": 0.25, "hop_s": 0.25}, "window_s 0.25"),
        ({"chunk": 0}, "chunk 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VocalWindows([], **settings)


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
def test_half_of_the_instrumental_clips_abstain(audio_root):
    n_abstaining, n = abstaining(clips(audio_root, "dev/instrumental.csv", 8))
    more_abstaining, more = abstaining(clips(audio_root, "dev/music.csv", 8))
    assert n + more >= 15
    assert n_abstaining + more_abstaining >= 0.5 * (n + more)  # measured: 64 % of all 116
