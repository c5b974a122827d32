from __future__ import annotations

import csv
import errno
import hashlib
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from embeddings import audio
from embeddings.audio import AudioInfo, open_audio
from embeddings.errors import InvalidAudio

RATE_HZ = 44100


def read_all(path, **options):
    with open_audio(path, **options) as stream:
        blocks = list(stream)
    return np.concatenate(blocks), stream


def refuse(path, kind, match):
    """Read to the end, expect InvalidAudio; return it after checking what every such error must have."""
    with pytest.raises(InvalidAudio, match=match) as caught, open_audio(path) as stream:
        for _ in stream:
            pass
    assert kind == caught.value.kind
    assert Path(path) == caught.value.path
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value


def write_media(path, samples, codec, rate_hz=RATE_HZ, sample_format=None, **options):
    """Write (n, 2) float32 with FFmpeg; the extension chooses the container."""
    av = pytest.importorskip("av", reason="needs the extra [media]")
    with av.open(path, "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="stereo")
        if sample_format:
            stream.format = sample_format
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate_hz, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@pytest.fixture
def stereo(voice_like):
    """Give 3 s of one voice in both channels, (n, 2) int16, so that every container can hold exactly this."""
    left = voice_like(3.0, rate_hz=RATE_HZ)
    return np.rint(np.stack([left, 0.5 * left], axis=1) * 32767).astype(np.int16)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audio_format", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAV", "ULAW"),
        ("RF64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_libsndfile_format_is_read_whole(write_wav, stereo, audio_format, subtype):
    rate_hz = 48000 if subtype == "OPUS" else RATE_HZ
    path = write_wav(stereo, rate_hz, "no_extension", audio_format, subtype)

    samples, stream = read_all(path)

    assert AudioInfo(f"{audio_format}/{subtype}", rate_hz, 2) == stream.info
    assert stream.duration_s == pytest.approx(len(stereo) / rate_hz, abs=0.002)
    assert abs(len(samples) / 16000 - stream.duration_s) <= 1 / 16000
    assert samples.dtype == np.float32
    reference, _ = read_all(write_wav(stereo, rate_hz, "reference.wav"))
    n = min(len(samples), len(reference))
    assert np.corrcoef(samples[:n], reference[:n])[0, 1] > 0.98


@pytest.mark.parametrize(
    ("name", "codec", "expected", "options"),
    [
        ("a.m4a", "aac", "MOV/AAC", {}),
        ("faststart.m4a", "aac", "MOV/AAC", {"movflags": "faststart"}),
        ("a.mp4", "aac", "MOV/AAC", {}),
        ("a.aac", "aac", "AAC/AAC", {}),
        ("a.mka", "aac", "MATROSKA/AAC", {}),
    ],
)
def test_ffmpeg_format_is_read_whole(tmp_path, write_wav, stereo, name, codec, expected, options):
    path = write_media(tmp_path / name, stereo.astype(np.float32) / 32768, codec, **options)

    samples, stream = read_all(path)

    assert AudioInfo(expected, RATE_HZ, 2) == stream.info
    # AAC comes in frames of 1024; raw ADTS also has no word for the 1024 frames of encoder delay in front.
    assert 0 <= stream.duration_s - len(stereo) / RATE_HZ < 2 * 1024 / RATE_HZ + 0.001
    reference, _ = read_all(write_wav(stereo, RATE_HZ, "reference.wav"))
    delay = round(16000 * 1024 / RATE_HZ) if name.endswith(".aac") else 0
    n = len(reference) - 800
    assert np.corrcoef(samples[delay : delay + n], reference[:n])[0, 1] > (0.96 if delay else 0.98)  # 371.5 samples


def test_stereo_tone_at_44100_arrives_at_16000_with_its_frequency_and_level(write_wav, tone):
    left = tone(2.0, 1000.0, RATE_HZ, peak=0.5)
    samples, _ = read_all(write_wav(np.stack([left, left], axis=1), RATE_HZ, subtype="FLOAT"))

    assert len(samples) == 32000
    middle = samples[1600:-1600]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.fft.rfftfreq(len(middle), 1 / 16000)[spectrum.argmax()] == pytest.approx(1000.0, abs=0.5)
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, rel=1e-3)
    # In phase as well: nothing is delayed by the resampler.
    assert middle == pytest.approx(tone(2.0, 1000.0, 16000, peak=0.5)[1600:-1600], abs=1e-3)


def test_at_the_rate_of_the_file_the_samples_are_untouched(write_wav, voice_like):
    voice = voice_like(1.0)

    samples, _ = read_all(write_wav(voice, subtype="FLOAT"))

    np.testing.assert_array_equal(voice, samples)


def test_what_16_khz_cannot_hold_is_filtered_out(write_wav, tone):
    path = write_wav(tone(1.0, 11000.0, RATE_HZ, peak=0.9), RATE_HZ)

    samples, _ = read_all(path)

    assert np.abs(samples[800:-800]).max() < 1e-4


def test_one_silent_channel_halves_the_level(write_wav, voice_like):
    voice = voice_like(1.0)

    samples, _ = read_all(write_wav(np.stack([voice, np.zeros_like(voice)], axis=1), subtype="FLOAT"))

    np.testing.assert_array_equal(voice / 2, samples)


@pytest.mark.parametrize("rate_hz", [8000, 384000])
def test_rates_at_the_limits_are_read(write_wav, tone, rate_hz):
    samples, stream = read_all(write_wav(tone(0.5, 440.0, rate_hz), rate_hz))

    assert (stream.duration_s, len(samples)) == (0.5, 8000)


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audio_format", "subtype"), [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")]
)
def test_blocks_and_whole_are_identical(monkeypatch, write_wav, stereo, audio_format, subtype):
    path = write_wav(stereo, RATE_HZ, "a", audio_format, subtype)
    whole, whole_stream = read_all(path, block_s=1000.0)
    monkeypatch.setattr(audio, "PIECE_SAMPLES", 999)

    with open_audio(path, block_s=0.1) as stream:
        blocks = list(stream)

    assert {1600} == {len(block) for block in blocks[:-1]}
    assert 0 < len(blocks[-1]) <= 1600
    np.testing.assert_array_equal(whole, np.concatenate(blocks))
    assert whole_stream.content_id == stream.content_id


def test_memory_is_bounded_in_samples_not_seconds(write_wav):
    """Reading 64 channels at 384 kHz (66 MB decoded for 0.7 s) must hold only pieces of it."""
    path = write_wav(np.full((2**18, 64), 1000, np.int16), 384000)
    tracemalloc.start()
    try:
        samples, stream = read_all(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (stream.info.channels, stream.duration_s) == (64, 2**18 / 384000)
    assert abs(len(samples) - 16000 * stream.duration_s) <= 1
    assert peak_bytes < 8 * 2**20


def test_results_are_known_only_at_the_end(write_wav, voice_like):
    with open_audio(write_wav(voice_like(1.0)), block_s=0.4) as stream:
        next(stream)
        with pytest.raises(RuntimeError, match=r"duration_s of .*audio.wav is known only once every block"):
            _ = stream.duration_s
        with pytest.raises(RuntimeError, match=r"content_id of .* is known only once"):
            _ = stream.content_id
        assert [len(block) for block in stream] == [6400, 3200]
        assert stream.duration_s == 1.0


@pytest.mark.parametrize("options", [{"rate_hz": 0}, {"block_s": 0.0}, {"block_s": float("nan")}])
def test_nonsense_arguments_are_the_callers_bug(tmp_path, options):
    with pytest.raises(ValueError, match="must be > 0"):
        open_audio(tmp_path / "a.wav", **options)


# --- content id -------------------------------------------------------------------------------------------------------


def test_content_id_is_what_its_description_says(write_wav, voice_like):
    pcm = np.rint(voice_like(1.0) * 32767).astype("<i2")

    _, stream = read_all(write_wav(pcm))

    assert hashlib.sha256(struct.pack("<I", 16000) + pcm.tobytes()).hexdigest() == stream.content_id


def test_content_id_is_of_the_pcm_not_of_the_container(tmp_path, write_wav, stereo):
    paths = [
        write_wav(stereo, RATE_HZ, "a.wav"),
        write_wav(stereo, RATE_HZ, "b.wav", "WAV", "PCM_24"),
        write_wav(stereo, RATE_HZ, "a.flac", "FLAC"),
        write_wav(stereo, RATE_HZ, "a.aiff", "AIFF"),
        write_media(tmp_path / "a.m4a", stereo.astype(np.float32) / 32768, "alac", sample_format="s16p"),
    ]

    assert len({read_all(path)[1].content_id for path in paths}) == 1


def test_content_id_differs_for_other_audio_and_other_rate(write_wav, stereo):
    other = stereo.copy()
    other[1000] += 2
    paths = [
        write_wav(stereo, RATE_HZ, "a.wav"),
        write_wav(other, RATE_HZ, "b.wav"),
        write_wav(stereo, 48000, "c.wav"),
        write_wav(stereo[:-1], RATE_HZ, "d.wav"),
    ]

    assert len({read_all(path)[1].content_id for path in paths}) == 4


# --- not a file, nothing in it ----------------------------------------------------------------------------------------


def test_missing(tmp_path):
    refuse(tmp_path / "a.wav", "missing", "there is no such file")
    (tmp_path / "b").write_bytes(b"x")
    refuse(tmp_path / "b" / "a.wav", "missing", "there is no such file")
    refuse(tmp_path / "a\0.wav", "missing", "no file can have this name")


def test_not_a_file(tmp_path):
    refuse(tmp_path, "not_a_file", "a folder, not a regular file")
    os.mkfifo(tmp_path / "fifo.wav")
    refuse(tmp_path / "fifo.wav", "not_a_file", "a FIFO, not")  # must not wait for a writer
    refuse("/dev/null", "not_a_file", "a device, not")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.wav"))
        refuse(tmp_path / "socket.wav", "not_a_file", "a socket or device, not")


def test_unreadable(monkeypatch, write_wav, tone):
    path = write_wav(tone())

    def refuse_to_open(*_):  # root may read everything, so chmod proves nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse_to_open)
    refuse(path, "unreadable", "Permission denied; check its permissions")


def test_a_disk_that_fails_while_it_is_read(monkeypatch, write_wav, tone):
    path = write_wav(tone())

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    refuse(path, "unreadable", "cannot be read: Input/output error; copy it to another disk")


def test_empty(tmp_path, write_wav):
    (tmp_path / "a.wav").write_bytes(b"")
    refuse(tmp_path / "a.wav", "empty", "0 bytes")
    for audio_format in ("WAV", "AIFF"):
        refuse(write_wav(np.zeros(0), name=audio_format, audio_format=audio_format), "empty", "a header and no samples")


def test_empty_wav_with_tags_does_not_read_its_tags_as_samples(write_wav):
    path = write_wav(np.zeros(0))
    with path.open("ab") as file:
        file.write(b"LIST" + struct.pack("<I", 20000) + b"\x55" * 20000)

    refuse(path, "empty", "a header and no samples")


# --- not audio, not supported -----------------------------------------------------------------------------------------


def test_text_named_wav_is_not_audio(tmp_path):
    (tmp_path / "a.wav").write_text("this is not a recording\n" * 500)
    refuse(tmp_path / "a.wav", "not_audio", "no decoder recognises it")


@pytest.mark.parametrize("seed", range(4))
def test_noise_bytes_are_refused(tmp_path, seed):
    (tmp_path / "a.mp3").write_bytes(np.random.default_rng(seed).bytes(50_000))
    refuse(tmp_path / "a.mp3", "not_audio", "no decoder recognises it")


SCRIPTS = {
    "ffconcat": "ffconcat version 1.0\nfile {}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\nfile://{}\n#EXT-X-ENDLIST\n",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_named_m4a_cannot_read_another_file(tmp_path, write_wav, stereo, script):
    av = pytest.importorskip("av", reason="needs the extra [media]")
    secret_path = write_wav(stereo, RATE_HZ, "secret.wav")
    (tmp_path / "a.m4a").write_text(SCRIPTS[script].format(secret_path.name if script == "ffconcat" else secret_path))

    refuse(tmp_path / "a.m4a", "not_audio", "no decoder recognises it")

    if script == "ffconcat":  # without the whitelist it does: the attack is real, and this test would notice
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            with av.open("a.m4a") as container:
                assert sum(frame.samples for frame in container.decode(audio=0)) == len(stereo)


@pytest.mark.parametrize("option", ["format_whitelist", "protocol_whitelist"])
def test_either_whitelist_alone_stops_a_script(monkeypatch, tmp_path, write_wav, stereo, option):
    pytest.importorskip("av", reason="needs the extra [media]")
    write_wav(stereo, RATE_HZ, "secret.wav")
    (tmp_path / "a.m4a").write_text(SCRIPTS["ffconcat"].format("secret.wav"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audio, "FFMPEG_OPTIONS", {**audio.FFMPEG_OPTIONS})
    del audio.FFMPEG_OPTIONS[option]

    refuse("a.m4a", "not_audio", "no decoder recognises it")


def test_rate_outside_the_limits_is_unsupported(write_wav, tone):
    path = write_wav(tone(1.0, 440.0, 4000), 4000)
    refuse(path, "unsupported", "sample rate 4000 Hz, 8000 to 384000 Hz are read")
    path = write_wav(tone(0.1, 440.0, 500_000), 500_000)
    refuse(path, "unsupported", "sample rate 500000 Hz, 8000 to 384000 Hz are read")


def test_too_many_channels_are_unsupported(write_wav):
    refuse(write_wav(np.ones((100, 65), np.int16)), "unsupported", "65 channels, at most 64 are read")


def test_without_pyav_the_extra_is_named_for_media_only(monkeypatch, tmp_path, stereo):
    path = write_media(tmp_path / "a.m4a", stereo.astype(np.float32) / 32768, "aac")
    (tmp_path / "a.txt").write_text("this is not a recording\n" * 500)
    monkeypatch.setitem(sys.modules, "av", None)

    refuse(path, "unsupported", r"pip install 'likeness\[media\]'")
    refuse(tmp_path / "a.txt", "not_audio", "no decoder recognises it")


def test_pyav_is_not_imported_with_the_module():
    code = "import sys, embeddings.audio; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_video_without_sound_is_not_audio(tmp_path):
    av = pytest.importorskip("av", reason="needs the extra [media]")
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)

    refuse(tmp_path / "a.mp4", "not_audio", r"no audio in this file \(QuickTime / MOV\)")


# --- silent, not finite -----------------------------------------------------------------------------------------------


def test_silence_is_refused_at_the_end_and_its_floor_is_named(write_wav, tone):
    path = write_wav(tone(1.0, peak=0.9e-4), subtype="FLOAT")
    refuse(path, "silent", r"it is silent: peak 9e-05 of full scale in 1.0 s, at least 0.0001 is needed")
    read_all(write_wav(tone(1.0, peak=1.2e-4), subtype="FLOAT"))


def test_antiphase_is_refused_and_says_so(write_wav, voice_like):
    voice = voice_like(1.0)
    refuse(write_wav(np.stack([voice, -voice], axis=1)), "silent", r"the channels \(peak 0.5\) cancel .* antiphase")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_not_finite(write_wav, tone, value):
    samples = np.stack([tone(), tone()], axis=1)
    samples[8000] = value, -value
    refuse(write_wav(samples, subtype="FLOAT"), "not_finite", "finite samples up to .* are read")


# --- cut short --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audio_format", "subtype", "match"),
    [
        ("WAV", "PCM_16", r"the header promises 529200 bytes of samples, \d+ are here"),
        ("WAV", "FLOAT", r"the header promises 1058400 bytes of samples, \d+ are here"),
        ("RF64", "PCM_16", r"the header promises 529200 bytes of samples, \d+ are here"),
        ("AIFF", "PCM_24", r"the header promises \d+ bytes of samples, \d+ are here"),
        ("FLAC", "PCM_16", "decoding fails after .* s|the header promises 132300 frames"),
        ("MP3", "MPEG_LAYER_III", r"the header promises 132300 frames, \d+ could be decoded"),
        ("OGG", "VORBIS", "the last page of this Ogg file is incomplete"),
        ("OGG", "OPUS", "the last page of this Ogg file is incomplete"),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated(write_wav, stereo, audio_format, subtype, match, share):
    path = write_wav(stereo, 48000 if subtype == "OPUS" else RATE_HZ, "a", audio_format, subtype)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    refuse(path, "truncated", match)


@pytest.mark.parametrize(
    ("audio_format", "cut_bytes"), [("WAV", 1), ("AIFF", 1), ("FLAC", 200), ("OGG", 1), ("MP3", 2000)]
)
def test_truncated_by_little(write_wav, stereo, audio_format, cut_bytes):
    """What is the least that is noticed; for MP3 three frames."""
    path = write_wav(stereo, RATE_HZ, "a", audio_format, soundfile.default_subtype(audio_format))
    path.write_bytes(path.read_bytes()[:-cut_bytes])

    refuse(path, "truncated", "the header promises|decoding fails|incomplete")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("index_last.m4a", r"an MP4 whose index \(moov\) is missing"),
        ("index_first.m4a", "decoding fails after|the header promises"),
        ("a.mka", r"the header promises 3.0 s, 1\.\d s could be decoded|decoding fails"),
    ],
)
def test_truncated_media(tmp_path, stereo, name, match):
    options = {"movflags": "faststart"} if name == "index_first.m4a" else {}
    path = write_media(tmp_path / name, stereo.astype(np.float32) / 32768, "aac", **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    refuse(path, "truncated", match)


@pytest.mark.parametrize("audio_format", ["FLAC", "OGG"])
def test_damage_in_the_middle_is_truncated(write_wav, stereo, audio_format):
    path = write_wav(stereo, RATE_HZ, "a", audio_format, soundfile.default_subtype(audio_format))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.write_bytes(content)

    refuse(path, "truncated", "decoding fails after|the header promises")


@pytest.mark.parametrize("declared_bytes", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36, 0xFFFFFFFF])
def test_wav_written_as_a_stream_has_no_length_and_is_read_whole(write_wav, stereo, declared_bytes):
    path = write_wav(stereo, RATE_HZ)
    content = path.read_bytes()
    position = content.index(b"data") + 4
    path.write_bytes(content[:position] + struct.pack("<I", declared_bytes) + content[position + 4 :])

    _, stream = read_all(path)

    assert read_all(write_wav(stereo, RATE_HZ, "reference.wav"))[1].content_id == stream.content_id
    assert stream.duration_s == 3.0


def test_flac_written_as_a_stream_has_no_length_and_is_read_whole(write_wav, stereo):
    path = write_wav(stereo, RATE_HZ, "a.flac", "FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the lowest 36 bits of this field of STREAMINFO: number of frames, 0 is unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)

    assert read_all(path)[1].duration_s == 3.0


# --- never stopping early without a word ------------------------------------------------------------------------------


def mp3_frame_bytes(content):
    """Give the length of the first frame of an MPEG 1 layer III file."""
    kbit_s = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320][content[2] >> 4]
    return 144_000 * kbit_s // [44100, 48000, 32000][content[2] >> 2 & 3] + (content[2] >> 1 & 1)


def test_mp3_of_variable_rate_without_length_header_is_read_whole(write_wav, stereo):
    """libsndfile guesses the length from the first frames and stops there: it lost half of such files."""
    pytest.importorskip("av", reason="needs the extra [media]")
    stereo[: len(stereo) // 2] //= 1000
    path = write_wav(stereo, RATE_HZ)
    with soundfile.SoundFile(
        path, "w", RATE_HZ, 2, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(stereo.astype(np.int32) << 16)  # see write_wav
    content = path.read_bytes()
    path.write_bytes(content[mp3_frame_bytes(content) :])

    _, stream = read_all(path)

    assert stream.info.format == "MP3/MP3FLOAT"
    assert stream.duration_s == pytest.approx(3.0, abs=0.07)  # encoder delay and padding are no longer described


@pytest.mark.parametrize("audio_format", ["MP3", "FLAC", "OGG"])
def test_files_joined_end_to_end_are_refused_not_half_read(write_wav, stereo, audio_format):
    path = write_wav(stereo, RATE_HZ, "a", audio_format, soundfile.default_subtype(audio_format))
    path.write_bytes(2 * path.read_bytes())

    refuse(path, "unsupported", r"the header promises 3.0 s, yet \d+ bytes follow")


def test_chained_ogg_is_read_whole(write_wav, voice_like):
    pytest.importorskip("av", reason="needs the extra [media]")
    contents = [
        write_wav(voice_like(2.0, seed=seed), name=f"{seed}", audio_format="OGG", subtype="VORBIS").read_bytes()
        for seed in (1, 2)
    ]
    assert contents[0][14:18] != contents[1][14:18]  # serial numbers
    path = write_wav(np.zeros(10))
    path.write_bytes(b"".join(contents))

    assert read_all(path)[1].duration_s == pytest.approx(4.0, abs=0.1)


def test_flac_whose_header_says_too_little_is_refused(write_wav, stereo):
    path = write_wav(stereo, RATE_HZ, "a.flac", "FLAC")
    content = bytearray(path.read_bytes())
    content[22:26] = (RATE_HZ // 2).to_bytes(4, "big")
    path.write_bytes(content)

    refuse(path, "unsupported", r"the header promises 0.5 s, yet \d+ bytes follow")


def test_tags_after_the_audio_are_no_audio(write_wav, stereo):
    picture_tag = b"APETAGEX" + struct.pack("<II", 2000, 100_000) + bytes(16) + b"\xff\xfb" * 50_000
    id3v1_tag = b"TAG" + bytes(125)
    for audio_format, tag in (("MP3", picture_tag), ("MP3", id3v1_tag), ("FLAC", id3v1_tag)):
        path = write_wav(stereo, RATE_HZ, "a", audio_format, soundfile.default_subtype(audio_format))
        path.write_bytes(path.read_bytes() + tag)
        assert read_all(path)[1].duration_s == 3.0


# --- descriptors ------------------------------------------------------------------------------------------------------


def open_descriptors():
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 (one name more or less while listing is the same each time)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_descriptor_is_left_open(monkeypatch, tmp_path, write_wav, stereo):
    good_path = write_wav(stereo, RATE_HZ, "a.flac", "FLAC")
    media_path = write_media(tmp_path / "a.m4a", stereo.astype(np.float32) / 32768, "aac")
    (tmp_path / "cut.flac").write_bytes(good_path.read_bytes()[:30_000])
    (tmp_path / "cut.m4a").write_bytes(media_path.read_bytes()[:3000])
    (tmp_path / "text.wav").write_text("no recording\n" * 500)
    os.mkfifo(tmp_path / "fifo")
    silent_path = write_wav(np.zeros(1000), name="silent.wav")
    low_path = write_wav(np.ones(1000), 4000, name="low.wav")
    list(open_audio(media_path))  # what is opened once and for all is open now
    before = open_descriptors()

    list(open_audio(good_path))  # to the end, without `with`
    for path in (good_path, media_path):
        with open_audio(path) as stream:  # given up
            next(stream)
        with open_audio(path):  # never begun
            pass
        stream.close()  # twice
    for name in ("cut.flac", "cut.m4a", "text.wav", "fifo", silent_path.name, low_path.name, "missing", "."):
        with pytest.raises(InvalidAudio, match=str(tmp_path)):
            list(open_audio(tmp_path / name))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidAudio, match="media"):
        open_audio(media_path)

    assert before == open_descriptors()


def test_descriptors_of_others_are_left_alone(tmp_path, write_wav, tone):
    """A second close of our number would hit the file that got it in the meantime."""
    path = write_wav(tone())
    (tmp_path / "other").write_bytes(b"here")
    with open_audio(path) as stream:
        list(stream)
        with (tmp_path / "other").open("rb") as other:
            stream.close()
            del stream
            assert other.read() == b"here"


# --- real recordings --------------------------------------------------------------------------------------------------


@pytest.mark.audio
@pytest.mark.parametrize("manifest", ["dev/voices.csv", "dev/strangers.csv", "dev/instrumental.csv", "train/rir.csv"])
def test_real_recordings_have_the_duration_of_their_manifest(audio_root, manifest):
    with (audio_root / manifest).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:: max(1, len(rows) // 4)]:
        _, stream = read_all(audio_root / row["path"])
        assert stream.duration_s == pytest.approx(float(row["duration_s"]), abs=0.02), row["path"]
