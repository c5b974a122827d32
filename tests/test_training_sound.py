"""Speech made into singing, copies by vocoders, accompaniment: as asked, the same each time, cut and gone on with."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mido", reason="pip install -e .[train]")
pytest.importorskip("pyworld", reason="pip install -e .[train]")

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts are no package

from training import accompaniment, melody, singing
from training.accompaniment import (
    BEND_RANGE,
    SOUND_FONT,
    STYLES,
    VOICES,
    check_tools,
    make_song,
    mido,
    treat,
    write_song,
)
from training.growing import grow
from training.pools import PEAK, RATE_HZ, Pool, write_pool
from training.singing import BINS, FRAME_MS, FRAME_S, Voice, analyse, pyworld, sing

needs_fluidsynth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not SOUND_FONT.is_file(),
    reason="apt install fluidsynth fluid-soundfont-gm",
)


@pytest.fixture(scope="module")
def speech(voice_like) -> np.ndarray:
    return np.round(voice_like(4.0, f0_hz=140.0, seed=0) * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def voice(speech) -> Voice:
    return analyse(speech)


@pytest.fixture(scope="module")
def speech_pool(voice_like, tmp_path_factory) -> Path:
    """Three persons: two clips, one clip, and one that is too short for a melody."""
    stem = tmp_path_factory.mktemp("pools") / "voice"
    clips = [("ada", 3.0, 0, "a0"), ("bo", 2.0, 1, "b0"), ("ada", 2.0, 0, "a1"), ("cy", 1.0, 2, "c0")]
    write_pool(
        stem,
        [
            (np.round(voice_like(s, seed=seed) * 32767).astype(np.int16), label, "made", path)
            for label, s, seed, path in clips
        ],
    )
    return stem


def pitch(sound: np.ndarray) -> np.ndarray:
    """Return DIO's pitch of a sound, a frame each `FRAME_MS`."""
    f0_hz, times_s = pyworld.dio(sound, RATE_HZ, 60.0, 1000.0, frame_period=FRAME_MS)
    return pyworld.stonemask(sound, f0_hz, times_s, RATE_HZ)


def off_by(heard_hz: np.ndarray, asked_hz: np.ndarray) -> np.ndarray:
    """Return semitones between two courses of pitch, where both are voiced."""
    n = min(len(heard_hz), len(asked_hz))
    both = (heard_hz[:n] > 0) & (asked_hz[:n] > 0)
    return np.abs(12 * np.log2(heard_hz[:n][both] / asked_hz[:n][both]))


def pool_files(*stems: Path) -> list[bytes]:
    return [stem.with_suffix(suffix).read_bytes() for stem in stems for suffix in (".i16", ".json")]


def test_a_take_is_the_same_for_the_same_seed_and_another_for_another(voice):
    first, second, other = (sing(voice, np.random.default_rng(seed))[0] for seed in (1, 1, 2))

    assert np.array_equal(first, second)
    assert not np.array_equal(first[:16000], other[:16000])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_sung_follows_the_melody_asked_for(voice, seed):
    sound, asked_hz = sing(voice, np.random.default_rng(seed))

    error = off_by(pitch(sound), asked_hz)

    assert len(error) > 0.9 * np.sum(asked_hz > 0)
    assert np.median(error) < 0.15
    assert np.mean(error < 1) > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_what_is_sung_is_finite_not_clipped_and_no_longer_than_asked(voice, seed):
    sound = sing(voice, np.random.default_rng(seed))[0]

    samples = singing.to_int16(sound)

    assert np.isfinite(sound).all()
    assert np.abs(samples).max() == round(PEAK * 32767)
    assert len(samples) <= singing.LONGEST_S * RATE_HZ


def test_the_envelope_of_what_is_sung_is_that_of_its_own_speaker(voice_like):
    def colour(voice: Voice) -> np.ndarray:
        """Give the mean voiced envelope from 300 Hz to 4 kHz, without level and tilt, which effort changes."""
        mean = voice.log_envelope[voice.f0_hz > 0].mean(axis=0)[10:128]
        place = np.arange(len(mean))
        flat = mean - np.polyval(np.polyfit(place, mean, 1), place)
        return flat / np.linalg.norm(flat)

    speakers = [analyse(np.round(voice_like(2.0, seed=seed) * 32767).astype(np.int16)) for seed in range(4)]
    sung = [analyse(singing.to_int16(sing(speaker, np.random.default_rng(7))[0]), 1000) for speaker in speakers]

    likeness = np.array([[colour(one) @ colour(other) for other in speakers] for one in sung])

    assert np.argmax(likeness, axis=1).tolist() == [0, 1, 2, 3]


def test_steady_middles_of_vowels_are_found_and_changing_parts_are_not():
    """Voiced from 20 to 100; the envelope moves all the time but for 40 to 70."""
    f0_hz = np.where((np.arange(120) >= 20) & (np.arange(120) < 100), 150.0, 0.0)
    moving = np.concatenate([np.arange(40), np.full(30, 39), np.arange(39, 89)]).astype(float)
    envelope = np.sin(moving[:, None] / 3 + np.arange(BINS) / 20)

    nuclei = singing.vowels(Voice(f0_hz, envelope, np.ones((120, BINS))))

    assert len(nuclei) == 1
    assert abs(nuclei[0] - [40, 70]).max() <= 4


def test_only_vowels_are_stretched():
    nuclei = np.array([[10, 20], [40, 50]])

    source, edges, held_s = singing.stretch(60, nuclei, np.random.default_rng(3))

    inside = ((source > 9) & (source < 20)) | ((source > 39) & (source < 50))
    assert np.diff(source[:10]).tolist() == [1.0] * 9  # what comes before the first vowel
    assert np.sum(~inside) == pytest.approx(60 - 20, abs=3)
    assert (np.diff(source) > 0).all()
    assert (held_s <= 12 * 10 * FRAME_S + 1e-9).all()
    assert held_s == pytest.approx((edges[:, 1] - edges[:, 0]) * FRAME_S)


def test_gaps_in_pitch_are_filled_and_stray_voicing_is_taken_out():
    f0_hz = np.array([0, 100, 100, 100, 100, 0, 0, 160, 160, 160, 160, 0, 0, 0, 0, 0, 0, 200, 200, 0], float)

    mended = singing.mend_pitch(f0_hz)

    assert mended.tolist() == [0, 100, 100, 100, 100, 120, 140, 160, 160, 160, 160, 0, 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("spoken_hz", "least_hz", "most_hz"), [(90, 65, 400), (120, 75, 500), (220, 130, 900)])
def test_melodies_stay_within_the_voice_and_use_its_width(spoken_hz, least_hz, most_hz):
    sung_hz = np.concatenate(
        [
            melody.hertz(singing._melody(30, float(melody.midi(spoken_hz)), np.random.default_rng(seed)))
            for seed in range(200)
        ]
    )

    assert least_hz <= sung_hz.min() < spoken_hz
    assert 2.8 * spoken_hz < sung_hz.max() <= most_hz


def test_a_walk_uses_the_rungs_of_its_scale_and_leaps_and_goes_octaves():
    rungs = melody.ladder("major", 0, 48, 84)

    steps = set()
    for seed in range(40):
        notes = melody.wander(40, rungs, 64, np.random.default_rng(seed))
        assert set(notes) <= set(rungs)
        steps |= set(np.diff(notes))

    assert {0, 1, 2, -2, 5, 7, 12, -12} <= steps


def test_pitch_goes_from_note_to_note_without_a_step_and_vibrates_in_some_takes():
    starts, ends = np.array([0, 200]), np.array([200, 600])

    curves = [
        melody.pitch_curve(np.array([60.0, 67.0]), starts, ends, np.random.default_rng(seed)) for seed in range(60)
    ]

    assert all(np.abs(np.diff(curve)).max() < 3 for curve in curves)
    assert np.median([curve[150:190].mean() for curve in curves]) == pytest.approx(60, abs=0.3)
    assert np.median([curve[400:].mean() for curve in curves]) == pytest.approx(67, abs=0.3)
    late = np.array([np.ptp(curve[500:580]) for curve in curves])  # two periods or more
    assert np.mean(late > 0.8) > 0.2
    assert np.mean(late < 0.5) > 0.1


@pytest.mark.parametrize("seed", range(12))
def test_a_copy_is_as_long_and_within_two_semitones(speech, voice, seed):
    sound = singing.copy(voice, speech, np.random.default_rng(seed))

    assert np.isfinite(sound).all()
    assert abs(len(sound) - len(speech)) <= 0.02 * RATE_HZ
    shift = 12 * np.log2(np.median(pitch(sound)[pitch(sound) > 0]) / np.median(voice.f0_hz[voice.f0_hz > 0]))
    assert abs(shift) < 2.6  # a step of half a semitone comes on top


def test_sound_from_mel_bands_has_the_bands_it_was_made_from(speech):
    sound = singing.from_mel(speech, 80, 16, np.random.default_rng(0))

    window = np.hanning(1025)[:-1].astype(np.float32)
    before, after = (
        np.abs(singing._stft(x.astype(np.float32), window, 256)) ** 2 @ singing._mel_bands(80, 1024).T
        for x in (speech / 32768, sound)
    )
    loud = before > before.max() * 1e-3
    assert np.median(np.abs(10 * np.log10(after[loud] / before[loud]))) < 2


def test_silence_and_noise_are_not_voices():
    noise = np.round(np.random.default_rng(0).normal(0, 2000, 32000)).astype(np.int16)

    assert analyse(np.zeros(32000, np.int16)) is None
    assert analyse(noise) is None
    assert singing.to_int16(np.zeros(100)) is None
    assert singing.to_int16(np.array([0.1, np.nan])) is None


def test_singing_and_copies_of_a_pool_keep_its_labels(speech_pool, tmp_path, capsys):
    sung, copies = tmp_path / "sung", tmp_path / "copies"

    stems = ["--pool", str(speech_pool), "--sung", str(sung), "--copies", str(copies)]
    singing.main([*stems, "--sung-seconds", "200", "--takes", "1"])

    assert sorted(clip[2:] for clip in Pool(sung).clips) == [
        ("ada", "made+sung", "a0"),
        ("ada", "made+sung", "a1"),
        ("bo", "made+sung", "b0"),
    ]
    assert sorted(clip[2:] for clip in Pool(copies).clips) == [
        ("ada", "made+copy", "a0"),
        ("ada", "made+copy", "a1"),
        ("bo", "made+copy", "b0"),
    ]
    assert "2 of 2: sung" in capsys.readouterr().err


def test_what_is_made_does_not_depend_on_the_number_of_workers(speech_pool, tmp_path):
    plan = singing.Plan(str(speech_pool), 4.0, 2.0, 1, 500.0, 1)
    make = functools.partial(singing.perform, plan=plan)

    grow([tmp_path / "one", tmp_path / "copies"], plan._asdict(), 2, make)
    grow([tmp_path / "two", tmp_path / "other"], plan._asdict(), 2, make, workers=2)

    assert pool_files(tmp_path / "one", tmp_path / "copies") == pool_files(tmp_path / "two", tmp_path / "other")


def two_pools(number: int, last: int = 100) -> list[list[tuple[np.ndarray, str, str, str]]]:
    """Make a unit of `number` clips for one pool and one for another; no unit beyond the last."""
    if number > last:
        raise KeyboardInterrupt
    clips = [(np.full(10, number, np.int16), f"p{number}", "made", str(k)) for k in range(number)]
    return [clips, [(np.full(5, -number, np.int16), f"p{number}", "made", "")]]


@pytest.mark.parametrize("last", [0, 1, 2, 4, 6])
def test_a_run_that_was_cut_goes_on_to_the_same_bytes(tmp_path, last):
    whole, cut = ([tmp_path / name / "a", tmp_path / name / "b"] for name in ("whole", "cut"))
    grow(whole, {"seed": 1}, 9, two_pools, batch=2)

    with pytest.raises(KeyboardInterrupt):
        grow(cut, {"seed": 1}, 9, functools.partial(two_pools, last=last), batch=2)
    grow(cut, {"seed": 1}, 9, two_pools, batch=2)

    assert pool_files(*cut) == pool_files(*whole)


def test_an_index_written_just_before_the_cut_is_taken_back(tmp_path):
    """The pools' indexes are of a later batch than the progress file: the run was killed between the two."""
    stems = [tmp_path / "a", tmp_path / "b"]
    grow(stems, {"seed": 1}, 9, two_pools, batch=2)
    whole = pool_files(*stems)
    progress_path = tmp_path / "a.progress.json"
    progress = json.loads(progress_path.read_text())
    progress_path.write_text(json.dumps({**progress, "done": 4, "n_clips": [6, 4]}))

    grow(stems, {"seed": 1}, 9, two_pools, batch=2)

    assert pool_files(*stems) == whole
    assert json.loads(progress_path.read_text()) == progress


def test_a_pool_can_be_read_while_it_grows(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        grow([tmp_path / "a", tmp_path / "b"], {}, 9, functools.partial(two_pools, last=5), batch=2)

    pool = Pool(tmp_path / "a")

    assert [pool.clip(k).tolist() for k in range(len(pool.clips))] == [
        [number] * 10 for number in range(6) for _ in range(number)
    ]


def test_a_pool_of_another_plan_or_of_unknown_making_is_not_gone_on_with(tmp_path):
    stems = [tmp_path / "a", tmp_path / "b"]
    grow(stems, {"seed": 1}, 3, two_pools)

    with pytest.raises(ValueError, match=r"was begun as \{'seed': 1, 'n_units': 3\}, asked for is \{'seed': 2"):
        grow(stems, {"seed": 2}, 3, two_pools)
    (tmp_path / "a.progress.json").unlink()
    with pytest.raises(ValueError, match=r"a\.json: is there without a\.progress\.json"):
        grow(stems, {"seed": 1}, 3, two_pools)


def test_nothing_to_make_is_wrong_usage(speech_pool, capsys):
    with pytest.raises(SystemExit, match="2"):
        singing.main(["--pool", str(speech_pool)])

    assert "give --sung, --copies or both" in capsys.readouterr().err


def test_no_style_has_a_voice():
    programs = {
        program for style in STYLES.values() for program in (*style.chords, *style.bass, *style.pads, *style.leads)
    }

    assert not programs & VOICES
    assert programs < set(range(112))  # above are sound effects and drums


def test_songs_are_the_same_for_a_seed_and_have_no_voices_and_bend_within_range(tmp_path):
    styles, n_bends = set(), 0
    for seed in range(15):
        path, again = tmp_path / "song.mid", tmp_path / "again.mid"
        styles.add(write_song(path, 8.0, np.random.default_rng(seed)))
        write_song(again, 8.0, np.random.default_rng(seed))

        messages = list(mido.MidiFile(path).tracks[0])
        assert path.read_bytes() == again.read_bytes()
        assert not {message.program for message in messages if message.type == "program_change"} & VOICES
        assert max(itertools.accumulate(message.time for message in messages)) >= 7_000  # milliseconds
        n_bends += sum(message.type == "pitchwheel" for message in messages)

    assert len(styles) > 6
    assert n_bends > 1_000


def test_every_note_that_begins_ends(tmp_path):
    for seed in range(6):
        path = tmp_path / "song.mid"
        write_song(path, 8.0, np.random.default_rng(seed))
        sounding: dict[tuple[int, int], int] = {}
        for message in mido.MidiFile(path).tracks[0]:
            if message.type in ("note_on", "note_off"):
                key = message.channel, message.note
                sounding[key] = sounding.get(key, 0) + (1 if message.type == "note_on" else -1)

        assert set(sounding.values()) == {0}


@pytest.mark.parametrize("tied", [False, True])
def test_a_bent_line_is_at_the_pitch_of_its_notes(tied):
    """Pitch struck and bend together, well into each note."""
    score = accompaniment.Score()
    notes, times_s = np.array([60.0, 64.0, 62.0, 72.0]), np.array([0.0, 1.0, 2.0, 3.0, 4.0])

    accompaniment._play_bent(score, (4, 5), notes, times_s, tied, np.random.default_rng(0))

    struck, bend, heard = {}, {}, {}
    for at_ms, _, message in sorted(score.events, key=lambda event: event[:2]):
        if message.type == "note_on":
            struck = {message.channel: message.note}
        elif message.type == "pitchwheel":
            bend[message.channel] = message.pitch / 8192 * BEND_RANGE
        for channel, note in struck.items():
            heard.setdefault(at_ms // 1000, []).append((at_ms % 1000, note + bend[channel]))
    for second, note in enumerate(notes):
        assert np.median([at for ms, at in heard[second] if ms > 500]) == pytest.approx(note, abs=0.6)
    n_struck = sum(message.type == "note_on" for _, _, message in score.events)
    assert n_struck == (2 if tied else 4)  # an octave is more than is bent


def test_treated_sound_is_finite_and_as_long(tone):
    sound = np.tile(tone(1.0, 440.0), 3)

    for seed in range(20):
        treated = treat(sound, np.random.default_rng(seed))
        assert len(treated) == len(sound)
        assert np.isfinite(treated).all()


@needs_fluidsynth
def test_a_rendered_song_is_heard_all_along_and_the_same_again():
    first, again = (make_song(3, 7, 12.0, SOUND_FONT)[0][0] for _ in range(2))

    assert np.array_equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert first[1:3] == ("x", "gm")
    assert first[3] in STYLES
    assert len(first[0]) == 12 * RATE_HZ
    assert np.abs(first[0]).max() == round(PEAK * 32767)
    levels = np.abs(first[0].reshape(-1, 3 * RATE_HZ).astype(int)).max(axis=1)
    assert (levels > 300).all()


@needs_fluidsynth
def test_a_pool_of_accompaniment(tmp_path, capsys):
    accompaniment.main(["--songs", "2", "--seconds", "4", "--out", str(tmp_path / "gm")])

    pool = Pool(tmp_path / "gm")
    assert [clip.n_samples for clip in pool.clips] == [4 * RATE_HZ] * 2
    assert "2 of 2: gm" in capsys.readouterr().err


def test_missing_tools_are_named_with_their_packages(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"no\.sf2: no such sound font; on Debian: apt install fluid-soundfont-gm"):
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        accompaniment.main(["--songs", "1", "--out", str(tmp_path / "gm"), "--sound-font", str(tmp_path / "no.sf2")])

    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="fluidsynth is not installed; on Debian: apt install fluidsynth"):
        check_tools(SOUND_FONT)
