"""Files and children that mean no good: each ends with a name and a reason, and the next recording is read."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from embeddings import workers
from embeddings.errors import INVALID_AUDIO_KINDS, InvalidAudio
from embeddings.extract import embed_file
from embeddings.limits import DEFAULT_LIMITS, PULSE_S, Limits
from embeddings.workers import ChildDecoder, DecoderProcess, End, WorkerDied
from tests import hostile_audio as hostile
from tests.fakes import FakeEncoder
from tests.hostile_audio import WINDOW, message

pytest_plugins = ["tests.cli_fixtures"]

RATE_HZ = 16000
REPO = Path(__file__).parent.parent
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits of address space, and /proc")

Outcome = tuple[str, str]


def outcome(decoder: DecoderProcess, path: Path) -> End | Outcome:
    """How a recording ends: what is known of it, or kind and reason."""
    try:
        decoder.start(path)
        while not isinstance(received := decoder.receive(), End):
            decoder.ask()
        return received
    except (InvalidAudio, WorkerDied) as error:
        return error.kind, str(error)


@pytest.fixture(scope="session")
def song(voice_like: Callable[..., np.ndarray]) -> np.ndarray:
    """90 s that give two chunks."""
    return np.tile(voice_like(10.0), 9)


@pytest.fixture
def good(song, write_wav) -> Path:
    return write_wav(song, name="good.wav")


@pytest.fixture(scope="module")
def one_child() -> Iterator[DecoderProcess]:
    decoder = DecoderProcess(RATE_HZ, 4.0, 2.0)
    yield decoder
    decoder.close()


@pytest.fixture
def decoder(one_child, good) -> Iterator[DecoderProcess]:
    """One child for all tests, which after each of them reads the next recording."""
    pid = one_child.pid
    yield one_child
    after = outcome(one_child, good)
    assert isinstance(after, End)
    assert (one_child.pid, after.duration_s) == (pid, 90.0)


@pytest.fixture
def make_decoder() -> Iterator[Callable[..., DecoderProcess]]:
    """What makes a decoder with limits of its own."""
    made: list[DecoderProcess] = []

    def make(**limits: float) -> DecoderProcess:
        made.append(DecoderProcess(RATE_HZ, 4.0, 2.0, Limits(**limits)))
        return made[-1]

    yield make
    for decoder in made:
        decoder.close()


# --- files that are something else ---


def test_a_script_cannot_make_a_decoder_read_another_file(decoder, tmp_path, good):
    scripts = {
        "concat": f"ffconcat version 1.0\nfile {good.name}\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:90\n#EXTINF:90,\nfile://{good}\n#EXT-X-ENDLIST\n",
        "text": "this is not a recording\n" * 500,
    }
    for name, text in scripts.items():
        path = tmp_path / f"{name}.{'wav' if name == 'text' else 'm4a'}"
        path.write_text(text)

        kind, reason = outcome(decoder, path)

        assert (kind, reason) == (
            "not_audio",
            "not audio, or of a format that Likeness cannot read; no decoder recognises it",
        )


def test_what_is_no_regular_file_is_not_waited_for(decoder, tmp_path):
    os.mkfifo(tmp_path / "fifo.wav")
    (tmp_path / "folder.wav").symlink_to(tmp_path)
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "empty.wav").write_bytes(b"")

    outcomes = [outcome(decoder, tmp_path / name) for name in ("fifo.wav", "folder.wav", "loop.wav", "empty.wav")]

    assert outcomes == [
        ("not_a_file", "a FIFO, not a regular file"),
        ("not_a_file", "a folder, not a regular file"),
        ("unreadable", "cannot be read: Too many levels of symbolic links; give another path to it"),
        ("empty", "0 bytes; copy or download it again"),
    ]
    assert outcome(decoder, Path("/dev/zero")) == ("not_a_file", "a device, not a regular file")


# --- headers that lie ---


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"claims": 3 * 2**30}, "truncated", "promises 3221225472 bytes of samples, 51200 are here"),
        ({"n_channels": 65535}, "not_audio", "no audio in this file"),
        ({"n_channels": 0}, "not_audio", "no audio in this file"),
        ({"n_channels": 65}, "unsupported", "65 channels, at most 64 are read"),
        ({"rate_hz": 2**31}, "not_audio", "no decoder recognises it"),
        ({"rate_hz": 500_000}, "unsupported", "sample rate 500000 Hz, 8000 to 384000 Hz are read"),
    ],
)
def test_a_wav_header_that_lies(decoder, tmp_path, options, kind, reason):
    found_kind, found_reason = outcome(decoder, hostile.wav(tmp_path / "a.wav", **options))

    assert found_kind == kind
    assert reason in found_reason


def test_a_wav_that_says_4_gib_for_unknown_is_read_to_its_end(decoder, tmp_path):
    end = outcome(decoder, hostile.wav(tmp_path / "a.wav", claims=0xFFFFFFFF))

    assert isinstance(end, End)
    assert end.duration_s == 1.6


@pytest.mark.parametrize(
    ("options", "kind", "reason"),
    [
        ({"rate_hz": 655_350}, "unsupported", "sample rate 655350 Hz, 8000 to 384000 Hz are read"),
        (
            {"rate_hz": 48000, "n_channels": 8, "n_frames": 2**36 - 1},
            "limit",
            "397.7 hours or more, at most 12 are read",
        ),
        ({"rate_hz": 48000, "n_channels": 2, "n_frames": 1000}, "truncated", "changed mid stream"),
    ],
)
def test_a_flac_header_that_lies(decoder, tmp_path, options, kind, reason):
    path = hostile.flac_bomb(tmp_path / "a.flac", 0.01)
    path.write_bytes(hostile.flac_header(**options) + path.read_bytes()[len(hostile.flac_header()) :])

    found_kind, found_reason = outcome(decoder, path)

    assert found_kind == kind
    assert reason in found_reason


# --- sound that is odd, and fine ---


def test_odd_but_honest_sound_is_read(decoder, write_wav, voice_like):
    voice = voice_like(2.0, rate_hz=8000)
    wide = np.tile(voice_like(1.0, rate_hz=192_000)[:, None], 8)

    telephone = outcome(decoder, write_wav(voice, 8000))
    surround = outcome(decoder, write_wav(wide, 192_000, audio_format="FLAC", subtype="PCM_24"))
    constant = outcome(decoder, write_wav(np.full(2 * RATE_HZ, 0.5)))

    assert [telephone.duration_s, surround.duration_s, constant.duration_s] == [2.0, 1.0, 2.0]
    assert constant.voiced_s == 0.0


def test_a_silent_channel_makes_the_rest_6_db_quieter(decoder, song, write_wav):
    stereo = np.stack([song, np.zeros_like(song)], axis=1)

    def windows(path: Path) -> np.ndarray:
        decoder.start(path)
        chunks = []
        while not isinstance(part := decoder.receive(), End):
            chunks.append(part.samples)
            decoder.ask()
        return np.concatenate(chunks)

    mono = windows(write_wav(song, subtype="FLOAT"))
    np.testing.assert_array_equal(windows(write_wav(stereo, subtype="FLOAT")), mono / 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(decoder, write_wav, voice_like, value):
    voice = voice_like(2.0)
    voice[20_000] = value

    kind, reason = outcome(decoder, write_wav(voice, subtype="FLOAT"))

    assert kind == "not_finite"
    assert "finite samples up to 2.14748e+09 are read" in reason


# --- files that change while they are read ---


@pytest.mark.parametrize("change", ["deleted", "swapped"])
def test_a_file_that_is_gone_in_the_middle_is_still_the_one_that_was_opened(decoder, song, write_wav, tone, change):
    path = write_wav(song)
    before = outcome(decoder, path)
    decoder.start(path)
    decoder.receive()

    if change == "deleted":
        path.unlink()
    else:
        write_wav(tone(5.0), name="other.wav").replace(path)

    decoder.ask()
    while not isinstance(received := decoder.receive(), End):
        decoder.ask()
    assert received == before


def test_a_file_that_is_cut_in_the_middle_is_refused(decoder, song, write_wav):
    path = write_wav(np.tile(song, 4))
    decoder.start(path)
    decoder.receive()

    os.truncate(path, 4_000_000)

    decoder.ask()
    with pytest.raises(InvalidAudio, match=r"promises 5760000 frames, .* could be decoded; damaged or cut short") as at:
        while not isinstance(decoder.receive(), End):
            decoder.ask()
    assert at.value.kind == "truncated"


# --- limits ---


def test_limits_say_what_they_are_and_must_be_numbers():
    assert Limits(max_hours=12.0, memory_bytes=2**30, cpu_s=60.0, cpu_share=0.5, stall_s=120.0) == DEFAULT_LIMITS
    for name in ("max_hours", "memory_bytes", "cpu_s", "stall_s"):
        for value in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match="every limit must be a finite number > 0"):
                Limits(**{name: value})


@pytest.mark.parametrize("make", [hostile.flac_bomb, hostile.mov_bomb])
def test_a_bomb_ends_at_the_limit_wherever_the_header_puts_it(make_decoder, tmp_path, good, make):
    if make is hostile.mov_bomb:
        pytest.importorskip("av", reason="needs the extra [media]")
    decoder = make_decoder(max_hours=0.1)
    path = make(tmp_path / "bomb", 1.0)

    kind, reason = outcome(decoder, path)

    assert path.stat().st_size < 40_000
    assert kind == "limit"
    assert reason.startswith("1 hours or more, at most 0.1 are read" if make is hostile.mov_bomb else "0.1")
    assert reason.endswith("hours or more, at most 0.1 are read; cut it, or read it with --max-hours 1")
    assert isinstance(outcome(decoder, good), End)


def test_a_header_that_promises_more_than_the_limit_is_believed(make_decoder, tmp_path):
    path = hostile.flac_bomb(tmp_path / "bomb.flac", 1.0, promised=True)

    assert outcome(make_decoder(max_hours=0.2), path) == (
        "limit",
        "0.999 hours or more, at most 0.2 are read; cut it, or read it with --max-hours 1",
    )


def test_what_is_limited_is_samples_not_seconds(make_decoder, write_wav, good):
    """Ten seconds of 64 channels at 96 kHz are as much as 160 s of 8 channels at 48 kHz."""
    path = write_wav(np.full((10 * 96_000, 64), 1000, np.int16), 96_000, name="wide.wav")
    decoder = make_decoder(max_hours=0.03)

    assert outcome(decoder, path) == (
        "limit",
        "6.144e+07 samples or more (64 channels at 96000 Hz), at most 4.147e+07 are read (0.03 hours of 8 channels at "
        "48 kHz); mix it down, cut it, or read it with --max-hours 1",
    )
    assert isinstance(outcome(decoder, good), End)


@linux_only
def test_a_file_that_asks_for_a_gigabyte_gets_none(decoder, tmp_path):
    """Half a kilobyte, for which FFmpeg asks for 2 GiB where nobody stops it."""
    pytest.importorskip("av", reason="needs the extra [media]")
    path = hostile.mov_claiming(tmp_path / "a.m4a", 2**30 - 5000)

    assert path.stat().st_size < 600
    assert outcome(decoder, path) == (
        "limit",
        "decoding it takes more than the 1024 MiB of memory allowed; convert it to WAV or FLAC",
    )


@linux_only
def test_what_the_kernel_limits_in_the_child(decoder):
    lines = Path(f"/proc/{decoder.pid}/limits").read_text().splitlines()
    limits = {line[:26].strip(): line[26:].split() for line in lines}

    assert limits["Max core file size"][:2] == ["0", "0"]
    assert limits["Max file size"][:2] == ["0", "0"]
    assert 2**30 < int(limits["Max address space"][0]) == int(limits["Max address space"][1]) < 1.4 * 2**30


def test_processor_time_is_allowed_anew_for_each_recording_and_with_what_is_decoded(make_decoder, tmp_path, good):
    """This takes some three seconds: more than a recording has to begin with, and than the next one has in all."""
    decoder = make_decoder(cpu_s=0.5, cpu_share=0.1)

    assert isinstance(outcome(decoder, hostile.flac_bomb(tmp_path / "long.flac", 0.7)), End)
    assert isinstance(outcome(decoder, good), End)


def test_a_file_that_takes_too_much_processor_time_is_given_up(make_decoder, tmp_path):
    decoder = make_decoder(cpu_s=0.1, cpu_share=0.0)

    assert outcome(decoder, hostile.flac_bomb(tmp_path / "bomb.flac", 11.0)) == (
        "timeout",
        "decoding it took more than 0.1 s of processor time and 0 s for each second decoded; is it damaged? "
        "Convert it to WAV or FLAC",
    )


# --- children that hang and die ---


def test_a_child_that_hangs_is_given_up(make_decoder, good):
    decoder = make_decoder()
    assert isinstance(outcome(decoder, good), End)
    os.kill(decoder.pid, signal.SIGSTOP)
    decoder._limits = Limits(stall_s=0.3)  # not from the beginning: to start takes longer

    assert outcome(decoder, good) == (
        "timeout",
        "decoding it came no further for 0.3 s, more is not allowed; is it damaged, or its disk slow? "
        "Convert it to WAV or FLAC, or copy it",
    )
    with pytest.raises(ProcessLookupError):
        os.kill(decoder.pid, 0)


def test_the_deadline_is_that_of_what_is_awaited(make_decoder, good):
    decoder = make_decoder()
    assert decoder.deadline_s == math.inf
    with pytest.raises(RuntimeError, match="nothing was asked for"):
        decoder.receive()

    before_s = time.monotonic()
    decoder.start(good)
    assert before_s + 120 <= decoder.deadline_s <= time.monotonic() + 120
    decoder.receive()
    assert decoder.deadline_s == math.inf

    decoder.ask()
    death = decoder.expire()
    assert (type(death), death.kind, decoder.deadline_s) == (WorkerDied, "timeout", math.inf)
    decoder.close()


def test_the_deadline_moves_on_where_there_is_no_voice_to_speak_of(decoder, tmp_path):
    """Hours without a window are no reason to give a recording up."""
    decoder.start(hostile.flac_bomb(tmp_path / "drone.flac", 0.5))
    deadlines_s = {decoder.deadline_s}
    while not decoder.connection.poll(0.01):
        deadlines_s.add(decoder.deadline_s)

    assert isinstance(decoder.receive(), End)
    assert len(deadlines_s) > 3


def test_a_deadline_that_passed_while_we_slept_is_not_held_against_the_child(decoder, good, monkeypatch):
    """Ctrl-Z stops parent and child alike; whoever looks at the clock first must not be the judge."""
    decoder.start(good)
    now_s = time.monotonic()
    assert decoder.connection.poll(60)
    decoder._heard()

    monkeypatch.setattr(workers.time, "monotonic", lambda: now_s + 1000.0)
    assert decoder.deadline_s == now_s + 1005.0
    monkeypatch.setattr(workers.time, "monotonic", lambda: now_s + 2000.0)
    assert decoder.deadline_s == now_s + 1005.0
    monkeypatch.undo()

    while not isinstance(decoder.receive(), End):
        decoder.ask()


def test_what_damages_a_decoder_says_on_stderr_is_not_heard(decoder, song, write_wav, capfd):
    """mpg123 has a line for every frame that it does not understand."""
    path = write_wav(song, name="a.mp3", audio_format="MP3", subtype="MPEG_LAYER_III")
    data = bytearray(path.read_bytes())
    data[5000::700] = bytes(len(data[5000::700]))
    path.write_bytes(data)

    outcome(decoder, path)

    assert capfd.readouterr().err == ""


# --- one recording after the other, as query and enroll read them ---


@pytest.fixture
def child_decoder() -> Iterator[ChildDecoder]:
    decoder = ChildDecoder(FakeEncoder())
    yield decoder
    decoder.close()


def test_a_voiceprint_is_the_same_wherever_its_file_is_decoded(child_decoder, good):
    here, there = embed_file(good, FakeEncoder()), embed_file(good, FakeEncoder(), decoder=child_decoder)

    assert vars(here).keys() == vars(there).keys()
    for name, value in vars(here).items():
        np.testing.assert_array_equal(value, getattr(there, name))


def test_a_child_that_is_killed_once_is_replaced_and_the_recording_read_again(child_decoder, good):
    pids = []

    def kill_the_first(read_s: float) -> None:
        pids.append(child_decoder._process.pid)
        if len(pids) == 1:
            os.kill(pids[0], signal.SIGKILL)

    voiceprint = embed_file(good, FakeEncoder(), decoder=child_decoder, on_progress=kill_the_first)

    np.testing.assert_array_equal(voiceprint.vectors, embed_file(good, FakeEncoder()).vectors)
    assert len(pids) > 2
    assert len(set(pids)) == 2


def test_a_recording_on_which_the_child_dies_twice_has_crashed(child_decoder, good):
    def kill(read_s: float) -> None:
        os.kill(child_decoder._process.pid, signal.SIGSEGV)

    with pytest.raises(
        InvalidAudio, match=r"good\.wav: the process that decoded it was ended by SIGSEGV; .*convert"
    ) as at:
        embed_file(good, FakeEncoder(), decoder=child_decoder, on_progress=kill)

    assert at.value.kind == "crashed"
    assert embed_file(good, FakeEncoder(), decoder=child_decoder).duration_s == 90.0


def test_a_recording_that_takes_too_long_is_not_tried_again(tmp_path, good):
    decoder = ChildDecoder(FakeEncoder(), Limits(cpu_s=0.1, cpu_share=0.0))
    first = decoder._process

    with pytest.raises(InvalidAudio, match=r"more than 0\.1 s of processor time") as at:
        embed_file(hostile.flac_bomb(tmp_path / "bomb.flac", 11.0), FakeEncoder(), decoder=decoder)

    assert at.value.kind == "timeout"
    assert (decoder._process, first._process.exitcode) == (None, -signal.SIGXCPU)
    decoder.close()


def test_a_recording_that_is_left_in_the_middle_does_not_answer_for_the_next(child_decoder, good, write_wav, tone):
    def stop(read_s: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_file(good, FakeEncoder(), decoder=child_decoder, on_progress=stop)

    assert embed_file(write_wav(tone(3.0)), FakeEncoder(), decoder=child_decoder).duration_s == 3.0


# --- children that do not keep to the protocol ---


def lying(monkeypatch: pytest.MonkeyPatch, target: Callable[..., None], *arguments: object, **limits: float):
    monkeypatch.setattr(workers, "_decode_forever", partial(target, *arguments))
    return DecoderProcess(RATE_HZ, 4.0, 2.0, Limits(**limits))


END = {"duration_s": 1.0, "voiced_s": 0.0, "content_id": "0" * 64}
ANSWERS = {
    "no JSON": (message(b"\x80\x04pickle"), "can't decode byte"),
    "no object": (message([1, 2]), "a message of no known form"),
    "an empty object": (message({}), "a message of no known form"),
    "deep": (message(b"[" * 100_000), "recursion"),
    "a header without end": (b"\xff\xff\xff\xff\0\0\0\0", r"4294967295 \+ 0 bytes, at most 1048576"),
    "samples without end": (b"\2\0\0\0\xff\xff\xff\xff{}", r"2 \+ 4294967295 bytes, at most .* \+ 8192000 are read"),
    "no presence": (message({"start_s": [0.0]}, WINDOW), "a message of no known form"),
    "no samples": (message({"start_s": [0.0], "presence": [1.0]}), "1 windows in 0 bytes"),
    "no windows": (message({"start_s": [], "presence": []}), "0 windows in 0 bytes"),
    "half a sample": (message({"start_s": [0.0], "presence": [1.0]}, bytes(63_999)), "1 windows in 63999 bytes"),
    "long windows": (message({"start_s": [0.0], "presence": [1.0]}, np.tile(WINDOW, 2)), "1 windows in 512000 bytes"),
    "one presence too many": (message({"start_s": [0.0], "presence": [1.0, 1.0]}, WINDOW), "1 windows in 256000 bytes"),
    "samples that are not numbers": (message({"start_s": [0.0], "presence": [1.0]}, WINDOW + np.nan), "not finite"),
    "a time that is text": (message({"start_s": ["0"], "presence": [1.0]}, WINDOW), "not a number of 0 to 43201"),
    "a time that is true": (message({"start_s": [True], "presence": [1.0]}, WINDOW), "not a number of 0 to 43201"),
    "a time after the end": (message({"start_s": [1e9], "presence": [1.0]}, WINDOW), "not a number of 0 to 43201"),
    "too much presence": (message({"start_s": [0.0], "presence": [1.5]}, WINDOW), "not a number of 0 to 1"),
    "no duration": (message(END | {"duration_s": None}), "not a number of 0 to 43201"),
    "a duration that is not a number": (message(END | {"duration_s": math.nan}), "not a number of 0 to 43201"),
    "less than no voice": (message(END | {"voiced_s": -1}), "not a number of 0 to 43201"),
    "an id that is none": (message(END | {"content_id": "../" + "0" * 61}), "64 hexadecimal digits"),
    "an unknown fault": (message({"invalid": "boring", "reason": "it is"}), "a fault of no known kind"),
    "its own death": (message({"invalid": "crashed", "reason": "it is"}), "a fault of no known kind"),
    "a reason for the terminal": (message({"invalid": "silent", "reason": "\x1b[2J"}), "cannot be shown"),
    "half a character": (message({"invalid": "silent", "reason": "\udcff"}), "cannot be shown"),
    "a long reason": (message({"invalid": "silent", "reason": "a" * 2000}), "cannot be shown"),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_none_is_the_end_of_the_child(case, monkeypatch, good):
    answer, says = ANSWERS[case]
    decoder = lying(monkeypatch, hostile.answer_with, answer)
    decoder.start(good)

    with pytest.raises(WorkerDied, match=f"^the process that decoded it gave an answer that is none: .*{says}") as at:
        decoder.receive()

    assert at.value.kind == "crashed"
    assert decoder._process.exitcode == -signal.SIGKILL


def test_windows_without_end_are_more_than_the_recording_can_have(monkeypatch, good):
    starts = np.arange(20.0).tolist()
    answer = message({"start_s": starts, "presence": [1.0] * 20}, np.zeros((20, 8000), np.float32))
    decoder = lying(monkeypatch, hostile.answer_with, answer, max_hours=0.01)  # 36 s, 19 windows
    decoder.start(good)

    with pytest.raises(WorkerDied, match="gave an answer that is none: 20 windows"):
        decoder.receive()


def test_windows_come_in_time_order_also_from_chunk_to_chunk(monkeypatch, good):
    decoder = lying(monkeypatch, hostile.answer_with, message({"start_s": [0.0], "presence": [1.0]}, WINDOW))
    decoder.start(good)
    assert decoder.receive().start_s.tolist() == [0.0]
    decoder.ask()

    with pytest.raises(WorkerDied, match="gave an answer that is none: windows that are not in time order"):
        decoder.receive()


def test_half_a_message_is_not_waited_for(monkeypatch, good):
    decoder = lying(monkeypatch, hostile.answer_with, message(END)[:-1], stall_s=1.0)
    decoder.start(good)

    with pytest.raises(WorkerDied, match="came no further for 1 s, more is not allowed") as at:
        decoder.receive()

    assert at.value.kind == "timeout"


def test_signs_of_life_are_worth_no_more_than_the_longest_recording(monkeypatch, good):
    """Otherwise a child could hold up its parent for ever."""
    decoder = lying(monkeypatch, hostile.work_for_ever, max_hours=0.1, stall_s=1.0)
    assert 0.1 * 3600 / PULSE_S == 45
    decoder.start(good)

    with pytest.raises(WorkerDied, match="came no further for 1 s, more is not allowed"):
        decoder.receive()


@pytest.mark.parametrize(
    ("target", "arguments", "says"),
    [
        (hostile.exit_with, (3,), "the process that decoded it ended with code 3; if it plays elsewhere, convert it"),
        (hostile.hang_up, (), "the process that decoded it closed its pipe; if it plays elsewhere"),
    ],
)
def test_a_child_that_goes_away_is_not_waited_for(monkeypatch, good, target, arguments, says):
    monkeypatch.setattr(workers, "_GRACE_S", 1.0)
    decoder = lying(monkeypatch, target, *arguments)
    decoder.start(good)

    with pytest.raises(WorkerDied, match=says) as at:
        decoder.receive()

    assert at.value.kind == "crashed"
    decoder.close()


def test_a_mistake_of_ours_is_named_as_one(monkeypatch, good):
    decoder = lying(monkeypatch, hostile.decode_at_another_rate)
    decoder.start(good)

    with pytest.raises(
        WorkerDied, match=r"by a mistake in Likeness, please report it: ValueError\(.* at vocals.py:\d+ < "
    ):
        decoder.receive()

    decoder.close()


def test_settings_that_no_child_can_work_with_are_refused_at_once():
    with pytest.raises(ValueError, match="rate_hz 8000: voice is looked for at 16000 only"):
        DecoderProcess(8000, 4.0, 2.0)


# --- all of it ---


@pytest.fixture(scope="module")
def fuzz_audio() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_audio", REPO / "scripts" / "fuzz_audio.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_damaged_files_of_every_format_come_to_an_outcome(fuzz_audio, tmp_path):
    n_sound = len(fuzz_audio.sound_files())

    outcomes = fuzz_audio.fuzz(60, 1, tmp_path / "kept")

    assert len(outcomes) == n_sound + 60
    assert {outcome.kind for outcome in outcomes} <= {"decoded", *INVALID_AUDIO_KINDS}
    assert fuzz_audio.failures(outcomes) == []
    assert {outcome.kind for outcome in outcomes[:n_sound]} == {"decoded"}


def test_damage_is_the_same_for_the_same_seed(fuzz_audio):
    files = {"a/b": bytes(range(256)) * 8, "c/d": b"RIFFdata" * 100}

    made = [[fuzz_audio.damage(files, seed, number) for number in range(40)] for seed in (1, 1, 2)]

    assert made[0] == made[1] != made[2]
    assert {name for _, done, _ in made[0] for name in done.split("+")} == {f.__name__ for f in fuzz_audio.DAMAGES}


def test_a_bomb_given_to_query_and_enroll_is_refused_with_its_reason(cli, tmp_path, voice_like):
    bomb, song = hostile.flac_bomb(tmp_path / "bomb.flac", 1.0), cli.sing("song.wav", 1)

    queried = cli("query", bomb, song, "--max-hours", "0.1", "--json")
    enrolled = cli("enroll", "Ada", bomb, song, "--consent", "form-7", "--max-hours", "0.1", "--json")

    assert (queried.exit_code, enrolled.exit_code) == (3, 3)
    refused, scan = json.loads(queried.stdout)
    assert (refused["kind"], scan["verdict"]) == ("limit", "clear")
    assert refused["reason"].endswith("hours or more, at most 0.1 are read; cut it, or read it with --max-hours 1")
    assert [record["outcome"] for record in json.loads(enrolled.stdout)] == ["invalid", "enrolled"]


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_max_hours_must_be_hours(cli, hours):
    result = cli("query", "song.wav", "--max-hours", hours)

    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a number of hours > 0" in result.stderr
