"""Training of vocal presence: what is drawn, how it is varied, and that what is written is what was trained."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

import torch
import train_presence
from train_presence import CHANNELS, Judged, Network, choose_threshold, train
from training.pools import write_pool
from training.presence_sounds import FRAME, N_FRAMES, VOICES, WINDOW, draw_window, load_pools
from vocal_tracks import cut_windows

from embeddings.presence import HOP, LAYERS, N_MELS, STRIDE, Presence


def test_labels_are_made_for_the_frames_that_are_judged():
    assert FRAME == HOP * STRIDE


def test_the_written_network_answers_as_the_trained_one():
    torch.manual_seed(0)
    network = Network(N_MELS)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(-1, 2)
            module.bias.data.normal_(0, 0.2)
    network.eval()
    presence = Presence(*network.folded(), 0.0, {})
    features = np.random.default_rng(0).normal(-40, 15, (3, 251, N_MELS)).astype(np.float32)

    for n_frames in (251, 100, 7):
        with torch.inference_mode():
            trained = network(torch.from_numpy(features[:, :n_frames])).numpy()
        np.testing.assert_allclose(presence.frame_logits(features[:, :n_frames]), trained, atol=1e-4)


def test_a_training_that_was_cut_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    class Cut(Exception):
        pass

    def cut(text):
        raise Cut(text)

    for name, value in (("PIECE", 24), ("BATCH", 8), ("KEPT_EVERY", 2)):
        monkeypatch.setattr(train_presence, name, value)
    rng, networks = np.random.default_rng(0), []
    features = rng.normal(-40, 10, (24, 251, N_MELS)).astype(np.float16)
    labels = np.zeros((24, N_FRAMES), np.int8)
    labels[:12, 10:40] = 1
    for name in ("whole", "cut"):
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "0.features.npy", features)
        np.save(folder / "0.labels.npy", labels)
        torch.manual_seed(0)
        networks.append(Network(N_MELS))
    train(networks[0], tmp_path / "whole", 1, 2, seed=3)
    with monkeypatch.context() as patch, pytest.raises(Cut, match="step 2 of 6"):
        patch.setattr(train_presence, "note", cut)
        train(networks[1], tmp_path / "cut", 1, 2, seed=3)

    resumed = Network(N_MELS)
    train(resumed, tmp_path / "cut", 1, 2, seed=3)

    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


@pytest.fixture
def heard(tmp_path):
    """Pools of tones for voices and of noise for all else."""
    rng, t = np.random.default_rng(0), np.arange(48_000) / 16_000
    tones = [np.round(20_000 * np.sin(2 * np.pi * hz * t)).astype(np.int16) for hz in (200, 300)]
    noises = [rng.integers(-9000, 9000, n).astype(np.int16) for n in (90_000, 20_000)]
    for name in VOICES:
        write_pool(tmp_path / name, [(tone, f"p{i}", "c", f"{i}.ogg") for i, tone in enumerate(tones)])
    for name in ("bed", "noise", "rir"):
        write_pool(tmp_path / name, [(noise, "x", "c", f"train/noise/{i}.ogg") for i, noise in enumerate(noises)])
    (tmp_path / "train").mkdir()
    rows = (
        "path,duration_s,licence,source,notes\ntrain/noise/0.ogg,1,,s,src=1-17-A-204.wav\ntrain/noise/1.ogg,1,,s,rain\n"
    )
    (tmp_path / "train/noise.csv").write_text(rows)
    return load_pools(tmp_path, tmp_path, ["bed"])


def test_human_noises_are_no_noises(heard):
    assert heard.noise[1] == [1]


def test_the_same_generator_draws_the_same_windows_with_voices_and_without(heard):
    drawn = [draw_window(heard, np.random.default_rng(seed)) for seed in range(40)]
    again = [draw_window(heard, np.random.default_rng(seed)) for seed in range(40)]

    for (samples, labels), (same_samples, same_labels) in zip(drawn, again, strict=True):
        np.testing.assert_array_equal(samples, same_samples)
        np.testing.assert_array_equal(labels, same_labels)
        assert (samples.shape, samples.dtype, labels.shape) == ((WINDOW,), np.float32, (N_FRAMES,))
        assert 0 < np.abs(samples).max() <= 1
    n_voiced = sum(bool((labels == 1).any()) for _, labels in drawn)
    assert 10 <= n_voiced <= 30
    assert set(np.unique([labels for _, labels in drawn])) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("n_samples", "starts", "width"),
    [(WINDOW, [0], WINDOW), (3 * WINDOW // 2 + 7, [0, WINDOW // 2, WINDOW // 2 + 7], WINDOW), (99, [0], 99)],
)
def test_windows_reach_the_end_of_a_track(n_samples, starts, width):
    samples = np.arange(n_samples, dtype=np.float32)

    found, windows = cut_windows(samples)

    assert found.tolist() == starts
    np.testing.assert_array_equal(windows, [samples[start : start + width] for start in starts])


def test_the_threshold_is_the_lowest_that_leaves_the_instruments_alone():
    sizes = [(kernel * (CHANNELS if i else N_MELS), CHANNELS) for i, (kernel, _, _) in enumerate(LAYERS)]
    weights = tuple(np.zeros(size, np.float32) for size in [*sizes, (CHANNELS, 1)])
    presence = Presence(weights, tuple(np.zeros(w.shape[1], np.float32) for w in weights), 9.0, {})
    levels = [5.0, 1.1, *[0.3] * 48]  # two of 50 may be taken for voices
    judged = [Judged(np.array([0.0]), np.full((1, 63), level, np.float32), np.array([level])) for level in levels]

    assert choose_threshold(presence, judged).threshold == 0.375
