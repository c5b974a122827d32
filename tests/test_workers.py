from __future__ import annotations

import ast
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from embeddings import workers
from embeddings.audio import open_audio
from embeddings.errors import InvalidAudio, ModelError, ModelUntrusted
from embeddings.model_dir import model_digest
from embeddings.vocals import VocalWindows, Windows
from embeddings.workers import DecoderProcess, EncoderProcess, End, WorkerDied
from tests.cli_fakes import DIM, ENCODER_ID, RATE_HZ, FakeEncoder

pytest_plugins = ["tests.cli_fixtures"]


class UnloadableEncoder(FakeEncoder):
    def __init__(self, source: str) -> None:
        raise ModelError(f"{source}: its weights are upside down")


class BrokenEncoder(FakeEncoder):
    def __init__(self, source: str) -> None:
        raise RuntimeError("a bug")


class MoodyEncoder(FakeEncoder):
    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        if not samples.any():
            raise ModelError("silence has no direction")
        return super().embed_windows(samples)


class WideEncoder(FakeEncoder):
    """Answers with more than any pipe holds."""

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        return np.full((len(samples), 100_000), len(samples), np.float32)


def start_encoder(model: Path, encoder_class: type[FakeEncoder] = FakeEncoder) -> EncoderProcess:
    return EncoderProcess(partial(encoder_class, str(model)), str(model), [model_digest(model)])


def decode(decoder: DecoderProcess, path: Path) -> tuple[list[Windows], End]:
    """Everything of one recording, asked for chunk by chunk."""
    chunks = []
    decoder.start(path)
    while not isinstance(received := decoder.receive(), End):
        chunks.append(received)
        decoder.ask()
    return chunks, received


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    decoder = DecoderProcess(RATE_HZ, 4.0, 2.0)
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def encoder(model) -> Iterator[EncoderProcess]:
    encoder = start_encoder(model)
    yield encoder
    encoder.close()


def test_nothing_is_unpickled_from_a_child():
    """A child reads strangers' files: `Connection.recv` would run whatever it sends back."""
    tree = ast.parse(inspect.getsource(workers))
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}

    assert {"loads", "frombuffer"} <= called
    assert not {"send", "recv"} & called
    assert "pickle" not in {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }


def test_what_a_batch_imports_in_the_parent_brings_no_torch():
    code = "import sys, registry.pipeline, embeddings.encoder; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_decoder_gives_the_windows_that_this_process_would(decoder, voice_like, write_wav):
    path = write_wav(np.tile(voice_like(10.0), 9))

    chunks, end = decode(decoder, path)

    with open_audio(path, RATE_HZ) as stream:
        selector = VocalWindows(stream, RATE_HZ, 4.0, 2.0)
        expected = list(selector)
    assert len(chunks) == len(expected) > 1
    for chunk, other in zip(chunks, expected, strict=True):
        assert chunk.samples.dtype == np.float32
        np.testing.assert_array_equal(chunk.samples, other.samples)
        np.testing.assert_array_equal(chunk.start_s, other.start_s)
        np.testing.assert_array_equal(chunk.presence, other.presence)
    assert end == End(stream.duration_s, selector.voiced_s, stream.content_id)
    assert end.duration_s == 90.0


def test_a_decoder_names_what_is_wrong_with_a_file_and_goes_on_with_the_next(decoder, tmp_path, voice_like, write_wav):
    text_path = tmp_path / "text.wav"
    text_path.write_text("not audio")

    decoder.start(text_path)
    with pytest.raises(InvalidAudio, match="no decoder recognises it") as caught:
        decoder.receive()
    decoder.start(tmp_path / "nothing.wav")
    with pytest.raises(InvalidAudio, match="no such file"):
        decoder.receive()

    assert caught.value.kind == "not_audio"
    assert decode(decoder, write_wav(voice_like(6.0)))[1].duration_s == 6.0


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"two\nlines.wav", "Łódź \U0001f3a4.wav".encode()])
def test_a_decoder_takes_any_file_name(decoder, tmp_path, voice_like, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    with path.open("wb") as file:
        soundfile.write(file, voice_like(4.0), RATE_HZ, format="WAV")

    assert decode(decoder, path)[1].duration_s == 4.0


def test_a_decoder_that_is_killed_says_by_what(voice_like, write_wav):
    decoder = DecoderProcess(RATE_HZ, 4.0, 2.0)
    path = write_wav(np.tile(voice_like(10.0), 9))
    decoder.start(path)
    decoder.receive()

    os.kill(decoder._process.pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match=r"the process that decoded it was ended by SIGKILL \(out of memory\?\)"):
        decoder.ask()
        decoder.receive()
    decoder.close()


def test_ctrl_c_does_not_reach_a_child_even_while_it_starts(voice_like, write_wav):
    decoder = DecoderProcess(RATE_HZ, 4.0, 2.0)

    os.kill(decoder._process.pid, signal.SIGINT)

    assert decode(decoder, write_wav(voice_like(4.0)))[1].duration_s == 4.0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    decoder.close()


def test_an_encoder_process_is_what_it_runs(encoder, model):
    direct = FakeEncoder(model)

    assert (encoder.encoder_id, encoder.dim, encoder.rate_hz) == (ENCODER_ID, DIM, RATE_HZ)
    assert (encoder.window_s, encoder.hop_s, encoder.source) == (4.0, 2.0, str(model))
    assert encoder.calibration == direct.calibration
    assert encoder.cohort.cohort_id == direct.cohort.cohort_id


def test_vectors_come_back_in_the_order_of_the_windows(encoder, model, voice_like):
    first = np.stack([voice_like(4.0, seed=1), voice_like(4.0, seed=2)])
    second = voice_like(2.5, seed=3)[None]

    encoder.start(first)
    encoder.start(second)

    np.testing.assert_array_equal(encoder.receive(), FakeEncoder(model).embed_windows(first))
    np.testing.assert_array_equal(encoder.receive(), FakeEncoder(model).embed_windows(second))


def test_windows_can_be_sent_while_an_answer_waits_to_be_taken(model):
    """Pipes hold 200 kB on Linux and 8 kB on macOS; two sides that both wait to write would wait for ever."""
    encoder = start_encoder(model, WideEncoder)
    answers = []

    def work() -> None:
        for _ in range(2):
            encoder.start(np.zeros((63, 64000), np.float32))
        answers.extend(encoder.receive() for _ in range(2))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    encoder.close()

    assert [answer.shape for answer in answers] == [(63, 100_000)] * 2


def test_an_error_of_the_model_is_ours_and_the_encoder_goes_on(model, voice_like):
    encoder = start_encoder(model, MoodyEncoder)
    encoder.start(np.zeros((1, 64000), np.float32))
    with pytest.raises(ModelError, match="silence has no direction"):
        encoder.receive()

    encoder.start(voice_like(4.0)[None])

    assert encoder.receive().shape == (1, DIM)
    encoder.close()


def test_a_model_that_does_not_load_says_why(model):
    with pytest.raises(ModelError, match="its weights are upside down"):
        start_encoder(model, UnloadableEncoder)


def test_an_encoder_that_dies_while_it_loads_is_named(model):
    with pytest.raises(WorkerDied, match="the process that runs the encoder ended with code 1"):
        start_encoder(model, BrokenEncoder)


def test_a_model_that_was_not_allowed_starts_no_process(model):
    with pytest.raises(ModelUntrusted, match="--trust-model"):
        EncoderProcess(partial(BrokenEncoder, str(model)), str(model), [])


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_child_whose_parent_is_gone_ends_by_itself(kind, model, capfd):
    child = DecoderProcess(RATE_HZ, 4.0, 2.0) if kind == "decoder" else start_encoder(model)

    child.connection.close()

    child._process.join(30)
    assert child._process.exitcode == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("n_bytes", [10, 3_000_000], ids=["waiting for more", "writing"])
def test_a_decoder_whose_answer_nobody_took_ends_without_a_traceback(n_bytes, voice_like, write_wav, capfd):
    """The kernel has two ways to say that the other side is gone: a broken pipe, and a connection reset."""
    path = write_wav(np.tile(voice_like(10.0), 9))
    path.write_bytes(path.read_bytes()[:n_bytes])
    decoder = DecoderProcess(RATE_HZ, 4.0, 2.0)
    decoder.start(path)
    assert decoder.connection.poll(30)

    decoder.connection.close()

    decoder._process.join(30)
    assert decoder._process.exitcode == 0
    assert capfd.readouterr().err == ""
