from __future__ import annotations

import numpy as np
import pytest

from embeddings.errors import InvalidAudio
from embeddings.extract import embed_file
from tests.fakes import DIM


@pytest.fixture
def two_voices(voice_like, write_wav):
    """16 s: eight of one voice, then eight of another."""
    return write_wav(np.concatenate([voice_like(8.0, seed=1), voice_like(8.0, f0_hz=300.0, seed=2)]))


def test_each_vocal_window_gives_a_vector_and_its_place_in_time_order(encoder, two_voices):
    voiceprint = embed_file(two_voices, encoder)

    n = len(voiceprint.vectors)
    assert voiceprint.start_s.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    np.testing.assert_array_equal(voiceprint.end_s, voiceprint.start_s + 4)
    assert (voiceprint.vectors.dtype, voiceprint.vectors.shape) == (np.float32, (n, DIM))
    assert (voiceprint.presence.shape, voiceprint.duration_s) == ((n,), 16.0)
    assert 0 < voiceprint.presence.min() <= voiceprint.presence.max() <= 1
    assert 12 < voiceprint.voiced_s <= 16
    np.testing.assert_allclose(np.linalg.norm(voiceprint.vectors, axis=1), 1, atol=1e-6)


def test_a_vector_is_that_of_its_seconds(encoder, two_voices, voice_like):
    voiceprint = embed_file(two_voices, encoder)
    alone = [encoder.embed_windows(voice[None, : 4 * 16000]) for voice in (voice_like(8.0, seed=1),)]

    np.testing.assert_allclose(voiceprint.vectors[:1], alone[0], atol=1e-3)
    cosines = voiceprint.vectors @ voiceprint.vectors.T
    assert cosines[:3, :3].min() > cosines[:3, 4:].max()  # windows 0 to 2 lie in one voice, 4 to 6 in the other


def test_a_recording_without_voice_has_no_vectors_and_its_length(encoder, write_wav, tone):
    voiceprint = embed_file(write_wav(tone(6.0, hz=100.0)), encoder)

    assert (voiceprint.vectors.shape, voiceprint.vectors.dtype) == ((0, DIM), np.float32)
    assert (voiceprint.start_s.shape, voiceprint.end_s.shape, voiceprint.presence.shape) == ((0,), (0,), (0,))
    assert (voiceprint.duration_s, voiceprint.voiced_s) == (6.0, 0.0)
    assert encoder.n_embedded == 0


def test_a_recording_shorter_than_a_window_ends_where_it_ends(encoder, write_wav, voice_like):
    voiceprint = embed_file(write_wav(voice_like(2.5)), encoder)

    assert (voiceprint.start_s.tolist(), voiceprint.end_s.tolist()) == ([0.0], [2.5])


def test_progress_rises_to_the_end(encoder, write_wav, voice_like):
    path = write_wav(np.tile(voice_like(10.0), 16))
    read_s: list[float] = []

    voiceprint = embed_file(path, encoder, on_progress=read_s.append)

    assert len(read_s) > 1
    assert read_s == sorted(read_s)
    assert read_s[-1] == voiceprint.end_s[-1] == 160.0


def test_the_content_has_the_same_id_whatever_the_container(encoder, write_wav, voice_like):
    samples = np.rint(voice_like(4.0) * 32767).astype(np.int16)

    wav = embed_file(write_wav(samples), encoder)
    flac = embed_file(write_wav(samples, name="a.flac", audio_format="FLAC"), encoder)

    assert wav.content_id == flac.content_id
    np.testing.assert_array_equal(wav.vectors, flac.vectors)


def test_a_recording_that_turns_out_cut_short_gives_no_voiceprint(encoder, write_wav, voice_like):
    """Whatever was embedded until then."""
    path = write_wav(np.tile(voice_like(10.0), 10), name="a.flac", audio_format="FLAC")
    path.write_bytes(path.read_bytes()[:-20_000])

    with pytest.raises(InvalidAudio, match=r"a\.flac: .*damaged or cut short") as caught:
        embed_file(path, encoder)

    assert caught.value.kind == "truncated"
    assert encoder.n_embedded > 0
