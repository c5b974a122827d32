"""Nobody and nothing of dev/ is trained on: the check itself on planted overlaps, then the real recordings."""

from __future__ import annotations

import csv
import io
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

from training.overlap import (
    GROUPS,
    SAME_SOUND,
    Clip,
    Sketches,
    canonical,
    common_persons,
    common_recordings,
    common_sounds,
    find_overlaps,
    main,
    nearest_persons,
    opaque,
    read_clips,
    sketch_clips,
    sketch_stretch,
)
from trial_vectors import House

from tests.fakes import FakeEncoder

RATE_HZ = 16_000
FIELDS = ["path", "kind", "person_id", "recording", "source_person", "track"]


def babble(seed: int, duration_s: float = 5.0) -> np.ndarray:
    """(n,) float32 that is as unlike another seed's as one person's sentence is unlike another's.

    Noise in twelve bands that come and go by themselves, a few times a second.
    """
    rng = np.random.default_rng(seed)
    n = round(duration_s * RATE_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    edges_hz = np.geomspace(150, 7000, 13)
    sound = np.zeros(n)
    for low_hz, high_hz in itertools.pairwise(edges_hz):
        band = np.fft.irfft(np.where((hz >= low_hz) & (hz < high_hz), spectrum, 0), n)
        level_db = rng.normal(0, 12, round(duration_s * 8) + 2)
        sound += band * 10 ** (
            np.interp(np.arange(n) / n * (len(level_db) - 1), np.arange(len(level_db)), level_db) / 20
        )
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def coded(samples: np.ndarray, rate_hz: int, **form: object) -> tuple[np.ndarray, int]:
    """Samples as a lossy codec leaves them."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, **form)
    file.seek(0)
    decoded, decoded_hz = soundfile.read(file, dtype="float32")
    return decoded, decoded_hz


def telephone(samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, int]:
    """8 kHz and 8 bits, the steps finer where it is quiet."""
    narrow = soxr.resample(samples, rate_hz, 8000)
    steps = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    return (np.sign(steps) * (256 ** np.abs(steps) - 1) / 255).astype(np.float32), 8000


def trimmed(samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, int]:
    return samples[round(0.31 * rate_hz) : -round(0.17 * rate_hz)], rate_hz


def noisy(samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, int]:
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    return samples + noise * np.float32(samples.std() * 10 ** (-25 / 20)), rate_hz


#: What may have become of a recording on its way into another corpus.
COPIES = {
    "the same": lambda samples, rate_hz: (samples, rate_hz),
    "20 dB softer": lambda samples, rate_hz: (samples / 10, rate_hz),
    "trimmed": trimmed,
    "Opus": lambda samples, rate_hz: coded(samples, rate_hz, format="OGG", subtype="OPUS", compression_level=0.95),
    "MP3": lambda samples, rate_hz: coded(
        samples, rate_hz, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9
    ),
    "44.1 kHz": lambda samples, rate_hz: (soxr.resample(samples, rate_hz, 44_100), 44_100),
    "telephone": telephone,
    "noisy": noisy,
    "brighter": lambda samples, rate_hz: (samples - 0.7 * np.append(np.float32(0), samples[:-1]), rate_hz),
}


def write_clip(root: Path, path: str, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Clip:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(root / path, np.clip(samples, -1, 1), rate_hz)
    return Clip(path, (), ())


def write_manifests(root: Path, rows: dict[str, list[dict[str, str]]]) -> None:
    """Write the manifests of all groups; those that are not given have no rows."""
    for name in (name for names in GROUPS.values() for name in names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS, restval="")
            writer.writeheader()
            writer.writerows(rows.get(name, []))


@pytest.fixture
def planted(tmp_path) -> Path:
    """Recordings in which two persons, a song and a sound are in two groups each, and the rest is alone."""
    sounds = {
        "train/voice/libri-7/0.wav": babble(1),
        "train/voice/fsdd-theo/0.wav": babble(2),
        "train/music/march.wav": babble(3),
        "cohort/voice/sc-aa/0.wav": babble(4),
        "dev/voices/p/0.wav": babble(5),
        "dev/voices/q/0.wav": babble(6),
        "dev/voices/r/0.wav": 0.2 * babble(2)[2000:],
        "dev/music/march_b.wav": babble(8),
        "dev/strangers/s/0.wav": babble(9),
    }
    for path, samples in sounds.items():
        write_clip(tmp_path, path, samples)
    write_manifests(
        tmp_path,
        {
            "train/voice": [
                {"path": "train/voice/libri-7/0.wav", "person_id": "libri-7"},
                {"path": "train/voice/fsdd-theo/0.wav", "person_id": "fsdd-theo"},
            ],
            "train/music": [{"path": "train/music/march.wav", "track": "band/march"}],
            "cohort/voice": [{"path": "cohort/voice/sc-aa/0.wav", "person_id": "speech-commands-aa"}],
            "dev/voices": [
                {"path": "dev/voices/p/0.wav", "kind": "speech", "person_id": "LibriSpeech_7"},
                {
                    "path": "dev/voices/q/0.wav",
                    "kind": "clones",
                    "person_id": "q",
                    "source_person": "Speech_Commands_aa",
                },
                {"path": "dev/voices/r/0.wav", "kind": "singing", "person_id": "r", "recording": "take-1"},
            ],
            "dev/strangers": [{"path": "dev/strangers/s/0.wav", "person_id": "s"}],
            "dev/music": [{"path": "dev/music/march_b.wav", "track": "Band/March"}],
        },
    )
    return tmp_path


# --- persons and recordings ---


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("libri-103", "libri-103"),
        ("LibriSpeech_103", "libri-103"),
        ("libritts-103", "libri-103"),
        ("MLS_pt_103", "libri-103"),
        ("mls-103", "libri-103"),
        ("Speech_Commands__00f0 204f", "speech-commands-00f0-204f"),
        ("librivox-103", "librivox-103"),
        ("libri-1031", "libri-1031"),
    ],
)
def test_canonical_spelling(name, spelling):
    assert canonical(name) == spelling


def test_rows_that_are_left_out_are_those_of_train_only(tmp_path):
    rows = [{"path": "a", "person_id": "libri-3050"}, {"path": "b", "person_id": "libri-305"}]
    tracks = [{"path": "c", "track": "Tuxemon/Tuxemon/Come_and_Find_Me"}, {"path": "d", "track": "other"}]
    write_manifests(tmp_path, {"train/voice": rows, "dev/voices": rows, "train/music": tracks})

    assert [clip.path for clip in read_clips(tmp_path, "train")] == ["b", "d"]
    assert [clip.path for clip in read_clips(tmp_path, "dev")] == ["a", "b"]


def test_common_persons_are_found_under_other_spellings_and_as_sources_of_conversions():
    first = [Clip("a", ("libri-7",), ()), Clip("b", ("nus-adiz", ""), ()), Clip("c", ("x-1",), ())]
    second = [Clip("d", ("LIBRITTS_7",), ()), Clip("e", ("clone", "NUS_ADIZ"), ()), Clip("f", ("x-11",), ())]

    assert common_persons(first, second) == [("libri-7", "LIBRITTS_7"), ("nus-adiz", "NUS_ADIZ")]


def test_common_recordings_are_found_by_name_and_by_the_bytes_of_files(tmp_path):
    for path, content in {"a": b"1", "b": b"2", "c": b"3", "d": b"2"}.items():
        (tmp_path / path).write_bytes(content)
    first = [Clip("a", (), ("Take_1",)), Clip("b", (), ())]
    second = [Clip("c", (), ("take-1",)), Clip("d", (), ("take-2",))]

    assert common_recordings(tmp_path, first, second) == [("a", "c"), ("b", "d")]


# --- sound ---


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found_and_nothing_else(tmp_path, copy):
    first = [write_clip(tmp_path, f"first/{seed}.wav", babble(seed)) for seed in range(4)]
    copied = write_clip(tmp_path, "second/copy.wav", *COPIES[copy](babble(2), RATE_HZ))
    second = [write_clip(tmp_path, f"second/{seed}.wav", babble(seed)) for seed in range(10, 14)]

    found = common_sounds(sketch_clips(tmp_path, first), sketch_clips(tmp_path, [*second, copied]))

    assert [(a, b) for _, a, b in found] == [(2, 4)]


def test_a_copy_is_found_by_its_middle_where_the_beginning_is_another(tmp_path):
    first = [write_clip(tmp_path, "first.wav", np.append(babble(1, 3.0), babble(2, 7.0)))]
    second = [write_clip(tmp_path, "second.wav", np.append(babble(3, 3.2), babble(2, 7.0)))]

    assert [(a, b) for _, a, b in common_sounds(*(sketch_clips(tmp_path, clips) for clips in (first, second)))] == [
        (0, 0)
    ]


@pytest.mark.parametrize("duration_s", [0.0, 0.01, 1.4])
def test_a_sound_shorter_than_a_patch_has_no_sketch(duration_s):
    rows, kept = sketch_stretch(babble(1)[: round(duration_s * RATE_HZ)], RATE_HZ)

    assert (rows.shape, kept.shape) == ((0, 216), (0,))


@pytest.mark.parametrize("name", ["silence", "tone", "noise", "one word in silence"])
def test_what_does_not_change_says_nothing(name, tone):
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE_HZ).astype(np.float32)
    silence = np.zeros(3 * RATE_HZ, np.float32)
    word = silence.copy()
    word[20_000:23_000] = babble(1)[:3_000]
    samples = {"silence": silence, "tone": tone(3.0), "noise": noise, "one word in silence": word}[name]

    rows, kept = sketch_stretch(samples, RATE_HZ)

    assert rows.shape == (61, 216)
    assert not kept.any()


# --- the report ---


def test_all_planted_overlaps_are_reported_and_no_others(planted):
    lines = find_overlaps(planted)

    assert [line.partition(" (")[0] for line in lines[:1]] == ["person: libri-7 of train/ is LibriSpeech_7 of dev/"]
    assert lines[1] == "recording: train/music/march.wav and dev/music/march_b.wav"
    assert lines[2].startswith("sound (")
    assert lines[2].endswith("): train/voice/fsdd-theo/0.wav and dev/voices/r/0.wav")
    assert lines[3:] == ["person: speech-commands-aa of cohort/ is Speech_Commands_aa of dev/"]


def test_command_exits_1_where_anything_meets_and_0_where_nothing_does(planted, tmp_path_factory, capsys):
    apart = tmp_path_factory.mktemp("apart")
    write_clip(apart, "train/voice/a.wav", babble(1))
    write_clip(apart, "cohort/voice/b.wav", babble(2))
    write_clip(apart, "dev/voices/c.wav", babble(3))
    write_manifests(
        apart,
        {
            "train/voice": [{"path": "train/voice/a.wav", "person_id": "a"}],
            "cohort/voice": [{"path": "cohort/voice/b.wav", "person_id": "b"}],
            "dev/voices": [{"path": "dev/voices/c.wav", "person_id": "c"}],
        },
    )

    assert main(["--audio", str(planted)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["--audio", str(apart)]) == 0
    assert capsys.readouterr().out == "nothing in common\n"


# --- persons that an encoder takes for one another ---


def test_nearest_persons_are_those_who_sound_alike_to_the_encoder(tmp_path, voice_like):
    """The fake encoder hears spectra: a voice of the same formants is nearest, and clones are not asked."""
    seeds = {"train/voice": {"a-1": 1, "a-2": 2}, "dev/voices": {"b-1": 2, "b-2": 3}}
    rows = {}
    for name, persons in seeds.items():
        rows[name] = [
            {"path": f"{name}/{person}/{i}.wav", "kind": "speech", "person_id": person}
            for person in persons
            for i in range(2)
        ]
        for row, seed in zip(rows[name], np.repeat(list(persons.values()), 2), strict=True):
            write_clip(tmp_path, row["path"], voice_like(5.0, seed=int(seed), f0_hz=140.0))
    write_clip(tmp_path, "dev/voices/clone.wav", voice_like(5.0, seed=1))
    rows["dev/voices"].append({"path": "dev/voices/clone.wav", "kind": "clones", "person_id": "b-3"})
    write_manifests(tmp_path, rows)

    nearest = nearest_persons(tmp_path, House(FakeEncoder()), tmp_path / "cache", n=3)

    assert nearest[0][1:] == ("a-2", "b-1")
    assert nearest[0][0] == pytest.approx(1.0, abs=1e-3)
    assert len(nearest) == 3
    assert {measured for _, _, measured in nearest} <= {"b-1", "b-2"}


@pytest.mark.parametrize(
    ("person_id", "shown"),
    [
        ("libri-103", "libri-103"),
        ("speech-commands-00f0204f", "speech-commands-00f0204f"),
        ("ljspeech", "ljspeech"),
        ("quran-somebody-by-name", "quran-#e79fe6"),
    ],
)
def test_ids_that_are_names_are_not_published(person_id, shown):
    assert opaque(person_id) == shown


# --- the real recordings ---


@pytest.fixture(scope="module")
def real_clips(audio_root) -> dict[str, list[Clip]]:
    return {group: read_clips(audio_root, group) for group in GROUPS}


@pytest.mark.audio
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(GROUPS, 2)))
def test_no_person_and_no_recording_is_in_two_groups(audio_root, real_clips, one, other):
    assert common_persons(real_clips[one], real_clips[other]) == []
    assert common_recordings(audio_root, real_clips[one], real_clips[other]) == []


@pytest.fixture(scope="module")
def real_sketches(audio_root, real_clips) -> dict[str, Sketches]:
    return {group: sketch_clips(audio_root, clips) for group, clips in real_clips.items()}


@pytest.mark.audio
def test_no_sound_is_in_two_groups(real_clips, real_sketches):
    """Nor anywhere near: unrelated sounds stay well below what counts as the same."""
    for one, other in itertools.combinations(GROUPS, 2):
        near = common_sounds(real_sketches[one], real_sketches[other], SAME_SOUND - 0.04)
        assert [(score, real_clips[one][a].path, real_clips[other][b].path) for score, a, b in near] == []


@pytest.mark.audio
def test_copies_of_real_recordings_would_be_found(audio_root, real_clips, real_sketches, tmp_path):
    """Ten voices of train/ for each of `COPIES`, from those that are long enough to be trimmed."""
    wanted = 10 * len(COPIES)
    copies: dict[int, Clip] = {}
    makers = itertools.cycle(COPIES.values())
    for number in np.random.default_rng(0).permutation(np.unique(real_sketches["train"].clip)).tolist():
        clip = real_clips["train"][number]
        samples, rate_hz = soundfile.read(audio_root / clip.path, dtype="float32", always_2d=True)
        if clip.persons and len(samples) >= 2.5 * rate_hz:
            copies[number] = write_clip(tmp_path, f"{number}.wav", *next(makers)(samples.mean(axis=1), rate_hz))
        if len(copies) == wanted:
            break

    found = common_sounds(real_sketches["train"], sketch_clips(tmp_path, list(copies.values())))

    nearest: dict[int, int] = {}
    for _, number, copy in found:  # highest first; further ones may be of the same voice singing the same syllable
        nearest.setdefault(list(copies)[copy], number)
    assert nearest == {number: number for number in copies}
