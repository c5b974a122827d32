from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soxr

from embeddings import audio
from embeddings.encoder import SpeechBrainEncoder
from embeddings.model_dir import GOLDEN, HOUSE_DIR, model_digest
from embeddings.selftest import MIN_COSINE, SelfTest, run_selftest, sing, write_golden
from tests.fakes import ENCODER_ID, FakeEncoder


@pytest.fixture(scope="module")
def house() -> SpeechBrainEncoder:
    return SpeechBrainEncoder()


@pytest.fixture
def fake(tmp_path) -> FakeEncoder:
    """A fake encoder with a directory, and golden vectors of its own in it."""
    encoder = FakeEncoder()
    encoder.directory = tmp_path
    write_golden(encoder, tmp_path)
    return encoder


def change_golden(encoder: FakeEncoder, **changes: object) -> None:
    path = encoder.directory / GOLDEN
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- the built-in encoder ---


@pytest.mark.model
def test_the_built_in_encoder_gives_its_golden_vectors(house):
    """The numbers were committed by scripts/fit_builtin.py; a change of the front end has to make them anew."""
    assert (HOUSE_DIR / GOLDEN).is_file(), "no golden.json beside the built-in encoder: run scripts/fit_builtin.py"

    test = run_selftest(house)

    assert test.passed, test.message
    assert test.has_golden
    assert test.cosine >= MIN_COSINE == 0.9999


@pytest.mark.model
def test_a_worse_resampler_shows_in_the_golden_vectors(house, monkeypatch):
    """soxr's LQ instead of HQ: cosine 0.9993. Its QQ and MQ do not show; nothing that matters hears them."""
    stream = soxr.ResampleStream
    monkeypatch.setattr(soxr, "ResampleStream", lambda *args, quality, **kwargs: stream(*args, quality="LQ", **kwargs))

    test = run_selftest(house)

    assert (test.passed, test.cosine < 0.9999, test.cosine > 0.99) == (False, True, True)


def test_the_golden_audio_is_the_same_everywhere():
    samples = sing()

    assert samples.shape == (9 * 44_100, 2)
    assert np.abs(samples).max() == pytest.approx(0.3)
    np.testing.assert_allclose(samples[13_230:, 1], 0.6 * samples[:-13_230, 0])  # 0.3 s later in the other channel
    assert np.sqrt(np.mean(samples[:, 0] ** 2)) == pytest.approx(0.119867, abs=1e-5)


# --- what it notices ---


@pytest.mark.model
def test_a_channel_that_is_dropped_is_noticed(house, monkeypatch):
    monkeypatch.setattr(audio, "_mix", lambda piece: piece[:, 0].copy())

    assert not run_selftest(house).passed


def test_the_same_vectors_pass(fake):
    test = run_selftest(fake)

    assert (test.has_golden, test.passed) == (True, True)
    assert test.cosine == pytest.approx(1.0)
    assert test.message == f"lowest cosine with the golden vectors {test.cosine:.6f}, at least 0.9999"


def test_an_encoder_that_hears_otherwise_fails(fake, monkeypatch):
    embed_windows = fake.embed_windows
    monkeypatch.setattr(fake, "embed_windows", lambda samples: np.roll(embed_windows(samples), 1, axis=1))

    test = run_selftest(fake)

    assert (test.has_golden, test.passed) == (True, False)
    assert test.cosine < 0.9


def test_one_vector_that_moved_is_enough_to_fail(fake, monkeypatch):
    embed_windows = fake.embed_windows

    def nudge(samples: np.ndarray) -> np.ndarray:
        vectors = embed_windows(samples)
        vectors[-1, 7] += 0.05
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(fake, "embed_windows", nudge)

    assert not run_selftest(fake).passed


def test_golden_vectors_of_another_encoder_fail(fake):
    change_golden(fake, encoder_id="0" * 64)

    assert run_selftest(fake) == SelfTest(
        True, None, False, "the golden vectors are of another encoder_id: model or front end changed"
    )


def test_other_windows_than_then_fail(fake):
    change_golden(fake, start_s=[0.0, 2.0])

    assert run_selftest(fake) == SelfTest(
        True, None, False, "other windows were chosen than when the golden vectors were made"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"encoder_id": "' + ENCODER_ID + '"}'])
def test_golden_vectors_that_cannot_be_read_fail(fake, content):
    (fake.directory / GOLDEN).write_text(content)

    test = run_selftest(fake)

    assert (test.has_golden, test.passed) == (True, False)
    assert test.message.startswith(f"{fake.directory / GOLDEN}: not golden vectors (")


def test_a_model_without_golden_vectors_is_said_to_have_none(fake):
    (fake.directory / GOLDEN).unlink()

    assert run_selftest(fake) == SelfTest(
        False, None, True, "no golden vectors beside this model; only its shapes were checked"
    )


def test_golden_vectors_hold_what_it_takes_to_make_them_again(fake):
    golden = json.loads((fake.directory / GOLDEN).read_text())

    assert golden["encoder_id"] == ENCODER_ID
    assert golden["start_s"] == [0.0, 2.0, 4.0, 5.0]
    assert golden["what"] == "vectors of embeddings.selftest.sing(), base64 of little-endian float32 (n, dim)"


def test_the_built_in_golden_vectors_are_not_part_of_the_model(tmp_path):
    """Writing them must not make another encoder of it."""
    copy = Path(shutil.copytree(HOUSE_DIR, tmp_path / "copy"))
    before = model_digest(copy)
    (copy / GOLDEN).write_text("{}")

    assert model_digest(copy) == before
