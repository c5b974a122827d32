"""The demo's voices: the same bytes each time, in tune, of the level asked for, moving like voices and not alike."""

from __future__ import annotations

import csv
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts are no package

from synth_voices import (
    ENROLLED,
    HOP,
    N_REFERENCES,
    RATE_HZ,
    STRANGERS,
    Melody,
    Note,
    Singer,
    accompany,
    compose,
    render_song,
    write_demo,
)

EVERYBODY = ENROLLED + STRANGERS


@pytest.fixture(scope="module")
def demo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the whole demo, its songs cut short."""
    path = tmp_path_factory.mktemp("demo")
    write_demo(path, song_s=1.5)
    return path


def sing(singer: Singer, seed: int, duration_s: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return render_song(singer, compose(singer, rng, duration_s), rng)


def level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(samples**2) + 1e-12))


def pitch_hz(samples: np.ndarray) -> float:
    """Return the pitch, 60 to 1000 Hz: the autocorrelation's first high peak, found between samples."""
    taper = np.hanning(len(samples))
    own, bias = (np.fft.irfft(np.abs(np.fft.rfft(x, 2 * len(x))) ** 2) for x in (samples * taper, taper))
    own = own[: RATE_HZ // 60 + 2] / bias[: RATE_HZ // 60 + 2]
    lags = np.arange(RATE_HZ // 1000, RATE_HZ // 60)
    peaks = lags[(own[lags] > own[lags - 1]) & (own[lags] >= own[lags + 1])]
    lag = peaks[own[peaks] > 0.9 * own[peaks].max()][0]
    before, at, after = own[lag - 1 : lag + 2]
    return RATE_HZ / (lag + 0.5 * (before - after) / (before - 2 * at + after))


def spectrum_db(samples: np.ndarray) -> np.ndarray:
    """Return the long-term spectrum in thirds of an octave from 100 Hz to 8 kHz, its mean taken away."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    edges_hz = 100 * 2 ** (np.arange(20) / 3)
    edges = np.searchsorted(np.fft.rfftfreq(len(samples), 1 / RATE_HZ), edges_hz)
    bands = 10 * np.log10([power[i:j].mean() for i, j in itertools.pairwise(edges)])
    return bands - bands.mean()


def test_the_same_seed_gives_the_same_files_byte_for_byte(demo_path, tmp_path):
    write_demo(tmp_path, song_s=1.5)

    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (demo_path, tmp_path)
    )

    assert first == second
    assert len(first) == len(set(first.values())) == len(ENROLLED) * N_REFERENCES + 7 + 2


def test_every_recording_is_16_bit_pcm_at_the_level_promised(demo_path):
    recordings = [path for path in demo_path.rglob("*.wav") if path.name != "broken.wav"]
    for path in recordings:
        info = soundfile.info(path)
        samples, _ = soundfile.read(path)
        assert (info.subtype, info.samplerate, info.channels) == ("PCM_16", RATE_HZ, 1), path
        assert -26.0 < level_db(samples) < -19.9, path
        assert np.abs(samples).max() < 0.91, path


def test_the_manifest_names_every_track_and_calls_it_synthetic(demo_path):
    with (demo_path / "tracks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    assert sorted(row["path"] for row in rows) == sorted(
        path.relative_to(demo_path).as_posix() for path in (demo_path / "tracks").iterdir()
    )
    assert list(rows[0]) == ["path", "title", "isrc", "uploader"]
    assert all(row["title"].endswith("(synthetic)") for row in rows)
    with pytest.raises(soundfile.LibsndfileError, match="Format not recognised"):
        soundfile.info(demo_path / "tracks" / "broken.wav")


@pytest.mark.parametrize("singer", EVERYBODY, ids=lambda singer: singer.name)
def test_a_song_lasts_as_long_as_its_notes_and_stays_in_the_compass(singer):
    rng = np.random.default_rng(1)
    melody = compose(singer, rng, duration_s=5.0)
    asked_s = sum(note.duration_s for note in melody.notes)

    assert 5.0 < asked_s < 8.5  # the last note is at most two slow beats
    assert len(render_song(singer, melody, rng)) / RATE_HZ == pytest.approx(asked_s, abs=HOP / RATE_HZ)
    sung = [note.midi for note in melody.notes if note.midi is not None]
    assert singer.low_midi <= min(sung) < max(sung) <= singer.high_midi


@pytest.mark.parametrize("singer", EVERYBODY, ids=lambda singer: singer.name)
def test_a_held_note_has_the_pitch_asked_for_within_1_percent(singer):
    straight = replace(singer, vibrato_cents=0.0)
    asked = np.linspace(singer.low_midi, singer.high_midi, 4).round()
    # On "u", whose formants are low: in an open vowel F1 can favour one harmonic so much that it is heard for the note.
    melody = Melody(tuple(Note(float(midi), 1.2, "m", "u") for midi in asked))

    samples = render_song(straight, melody, np.random.default_rng(2)).reshape(4, -1)

    middle = slice(round(0.3 * RATE_HZ), round(0.9 * RATE_HZ))
    heard_hz = [pitch_hz(note[middle]) for note in samples]
    assert heard_hz == pytest.approx(list(440 * 2 ** ((asked - 69) / 12)), rel=0.01)


def test_vibrato_has_the_rate_and_the_depth_of_the_singer():
    singer = replace(ENROLLED[1], vibrato_hz=5.0, vibrato_cents=100.0, jitter=0.0)
    samples = render_song(singer, Melody((Note(55.0, 4.0, "", "u"),)), np.random.default_rng(3))

    step = RATE_HZ // 100
    track = np.array([pitch_hz(samples[i : i + 6 * step]) for i in range(RATE_HZ, 3 * RATE_HZ, step)])
    cents = 1200 * np.log2(track / np.median(track))

    spectrum = np.abs(np.fft.rfft((cents - cents.mean()) * np.hanning(len(cents)), 4096))
    assert np.fft.rfftfreq(4096, 0.01)[spectrum.argmax()] == pytest.approx(5.0, abs=0.5)
    assert 70 < np.percentile(np.abs(cents), 95) < 130


def test_consonants_shut_the_voice_off_and_hiss():
    singer = ENROLLED[0]
    melody = Melody((Note(62.0, 0.6, "", "a"), Note(62.0, 0.6, "t", "a"), Note(62.0, 0.6, "s", "a")))
    samples = render_song(singer, melody, np.random.default_rng(4))

    def part(start_s: float, end_s: float) -> np.ndarray:
        return samples[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]

    def crossings_per_s(part: np.ndarray) -> float:
        return float(np.mean(np.diff(np.sign(part)) != 0)) * RATE_HZ

    assert level_db(part(0.625, 0.64)) < level_db(part(0.3, 0.5)) - 15
    assert crossings_per_s(part(1.24, 1.29)) > 8000 > 4000 > crossings_per_s(part(1.5, 1.7))


def test_two_songs_of_a_singer_have_more_alike_spectra_than_two_singers():
    first, second = ([spectrum_db(sing(singer, seed)) for singer in EVERYBODY] for seed in (5, 6))

    distance_db = np.array([[np.sqrt(np.mean((a - b) ** 2)) for b in second] for a in first])

    assert distance_db.argmin(axis=1).tolist() == list(range(len(EVERYBODY)))
    assert distance_db[~np.eye(len(EVERYBODY), dtype=bool)].min() > 3.0


def test_an_imitator_is_close_to_the_singer_in_every_measure_but_is_not_the_singer():
    singer = ENROLLED[2]
    imitator = singer.imitated(np.random.default_rng(7), amount=0.02)

    assert imitator.name == "imitator of Imke Sorrel"
    for field in ("tract_cm", "open_quotient", "breath_db", "vibrato_hz", "formant_factors"):
        assert getattr(imitator, field) != getattr(singer, field)
        assert getattr(imitator, field) == pytest.approx(getattr(singer, field), rel=0.1)
    assert singer.imitated(np.random.default_rng(7), amount=0.02) == imitator


def test_an_accompaniment_fills_the_time_asked_for_at_its_level():
    melody = compose(ENROLLED[0], np.random.default_rng(8), duration_s=3.0)

    music = accompany(melody, 3 * RATE_HZ, np.random.default_rng(8))

    assert len(music) == 3 * RATE_HZ
    assert level_db(music) == pytest.approx(-20.0, abs=0.01)
    assert min(level_db(half) for half in np.split(music, 6)) > -26
