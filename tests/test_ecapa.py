"""The fast forward against SpeechBrain's own modules: many shapes, random weights. Loads torch, so marked `model`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from embeddings.torchaudio_compat import import_torchaudio

pytestmark = pytest.mark.model
RATE_HZ = 16000
TINY = {"channels": [32, 32, 32, 32, 96], "attention_channels": 16, "lin_neurons": 24, "res2net_scale": 4}
#: What is promised. Voices come to 1e-6; silence to 2e-5, because the variance of what is constant is a difference of
#: squares here.
ATOL = 1e-4
Make = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def make() -> Make:
    """Return a function that makes the three modules of a SpeechBrain model in eval mode, with weights of a seed.

    What a trained model need not have is in them: scales below and at 0, channels that are always off.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `embeddings.encoder` does, before torch is there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torchaudio and speechbrain
        import_torchaudio()
        import torch
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.processing.features import InputNormalization

    def make_modules(
        fbank: dict[str, Any] | None = None, norm: dict[str, Any] | None = None, net: dict[str, Any] | None = None
    ) -> SimpleNamespace:
        torch.manual_seed(7)
        ecapa = ECAPA_TDNN(80, **(TINY | {"se_channels": 8} | (net or {})))
        with torch.no_grad():
            for module in ecapa.modules():
                if isinstance(module, torch.nn.BatchNorm1d):
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.3, 2)
                    module.weight.uniform_(-0.3, 1.5)
                    module.weight[0] = 0
                    module.bias.normal_(0, 0.3)
            ecapa.mfa.conv.conv.bias[3] = -1000  # off
        return SimpleNamespace(
            compute_features=Fbank(**({"n_mels": 80, "hop_length": 16} | (fbank or {}))).eval(),
            mean_var_norm=InputNormalization(**({"norm_type": "sentence", "std_norm": False} | (norm or {}))).eval(),
            embedding_model=ecapa.eval(),
        )

    return make_modules


@pytest.fixture(scope="module")
def sounds(voice_like) -> np.ndarray:
    """(5, 1.5 s): three voices, one of them 60 dB softer, a click in silence, silence."""
    rows = [voice_like(1.5, f0_hz=110.0 + 50 * k, seed=k) for k in range(3)]
    rows[1] = rows[1] * np.float32(1e-3)
    click = np.zeros_like(rows[0])
    click[1000] = 0.5
    return np.stack([*rows, click, np.zeros_like(click)])


def fold(modules: SimpleNamespace, **options: Any) -> Any:
    from embeddings.ecapa import EcapaForward

    return EcapaForward(modules.compute_features, modules.mean_var_norm, modules.embedding_model, **options)


def stock_vectors(modules: SimpleNamespace, samples: np.ndarray) -> np.ndarray:
    """Give what `encode_batch` gives, as unit rows."""
    import torch

    lengths = torch.ones(len(samples))
    with torch.inference_mode():
        features = modules.mean_var_norm(modules.compute_features(torch.from_numpy(samples)), lengths)
        return unit(modules.embedding_model(features, lengths)[:, 0])


def fast_vectors(forward: Any, samples: np.ndarray) -> np.ndarray:
    import torch

    return unit(forward.forward(forward.features(torch.from_numpy(samples))))


def unit(vectors: Any) -> np.ndarray:
    rows = vectors.numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- the same answers ---


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hop_length": 10},  # spkrec-ecapa-voxceleb
        {"n_fft": 512, "win_length": 20, "n_mels": 40, "f_min": 60, "f_max": 7000},
        {"filter_shape": "gaussian"},
        {"n_fft": 401},
    ],
)
@pytest.mark.parametrize("n_samples", [24000, 23999, 300])
def test_features_are_those_of_fbank(make, sounds, settings, n_samples):
    import torch

    modules = make(fbank=settings)
    samples = torch.from_numpy(np.ascontiguousarray(sounds[:, :n_samples]))

    found = fold(modules).features(samples)

    np.testing.assert_allclose(found, modules.compute_features(samples), rtol=0, atol=1e-3)  # dB


@pytest.mark.parametrize(
    ("norm", "net"),
    [
        ({}, {}),
        ({"std_norm": True}, {}),
        ({}, {"res2net_scale": 1}),
        ({}, {"channels": [24, 32, 64, 48, 40], "res2net_scale": 8}),  # every block with a shortcut
        ({}, {"channels": [32, 32, 48], "kernel_sizes": [3, 5, 3], "dilations": [2, 3, 2]}),
        ({}, {"kernel_sizes": [1, 1, 1, 1, 1]}),
    ],
)
@pytest.mark.parametrize("hop_length", [16, 10])
def test_vectors_are_those_of_speechbrain(make, sounds, norm, net, hop_length):
    modules = make({"hop_length": hop_length}, norm, net)

    np.testing.assert_allclose(fast_vectors(fold(modules), sounds), stock_vectors(modules, sounds), rtol=0, atol=ATOL)


def test_attention_that_would_overflow_is_brought_down_first(make, sounds):
    """exp of 200 is no float32."""
    modules = make()
    modules.embedding_model.asp.conv.conv.weight.data *= 400

    np.testing.assert_allclose(fast_vectors(fold(modules), sounds), stock_vectors(modules, sounds), rtol=0, atol=ATOL)


def test_bfloat16_points_the_same_way(make, sounds):
    import torch

    modules = make()
    forward = fold(modules, dtype=torch.bfloat16)

    cosines = (fast_vectors(forward, sounds[:3]) * stock_vectors(modules, sounds[:3])).sum(axis=1)

    assert forward.precision == "bfloat16"
    assert cosines.min() > 0.999  # a random network spreads less than a trained one


def test_the_model_that_was_folded_is_not_changed(make, sounds):
    modules = make()
    before = stock_vectors(modules, sounds)

    fast_vectors(fold(modules), sounds)

    np.testing.assert_array_equal(stock_vectors(modules, sounds), before)


# --- inner activations ---


# --- memory that is used again ---


def test_what_was_given_is_not_written_over(make, sounds):
    import torch

    forward = fold(make())
    features = forward.features(torch.from_numpy(sounds[:2]))
    vectors = forward.forward(features)
    kept = [tensor.clone() for tensor in (features, vectors)]

    forward.forward(forward.features(torch.from_numpy(sounds[3:])))

    for tensor, before in zip((features, vectors), kept, strict=True):
        np.testing.assert_array_equal(tensor, before)


def test_batches_of_any_size_may_follow_one_another(make, sounds):
    modules = make()
    forward = fold(modules)

    for part in (sounds[:2], sounds, sounds[:1], sounds[:3, :9000], sounds):
        np.testing.assert_allclose(fast_vectors(forward, part), stock_vectors(modules, part), rtol=0, atol=ATOL)


def test_threads_do_not_write_into_one_another(make, sounds):
    modules = make()
    forward = fold(modules)
    parts = [sounds[k % 3 : k % 3 + 2] for k in range(24)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: fast_vectors(forward, part), parts))

    for part, vectors in zip(parts, found, strict=True):
        np.testing.assert_allclose(vectors, stock_vectors(modules, part), rtol=0, atol=ATOL)


# --- what does not fit ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fbank": {"deltas": True}}, "Fbank.deltas is True, not False"),
        ({"fbank": {"context": True}}, "Fbank.context is True, not False"),
        ({"fbank": {"requires_grad": True}}, "Filterbank.freeze is False, not True"),
        ({"norm": {"norm_type": "batch"}}, "InputNormalization.norm_type is 'batch', not 'sentence'"),
        ({"net": {"global_context": False}}, "AttentiveStatisticsPooling.global_context is False, not True"),
        ({"net": {"groups": [1, 2, 1, 1, 1]}}, "Conv1d.groups is 2, not 1"),
    ],
)
def test_a_setting_that_is_not_repeated_is_refused(make, settings, message):
    from embeddings.ecapa import NotStock

    with pytest.raises(NotStock, match=message):
        fold(make(**settings))


def test_another_activation_is_refused(make):
    import torch

    from embeddings.ecapa import NotStock

    with pytest.raises(NotStock, match="LeakyReLU in the place of ReLU"):
        fold(make(net={"activation": torch.nn.LeakyReLU}))


def test_another_class_is_refused_even_where_it_inherits(make):
    from embeddings.ecapa import NotStock

    modules = make()
    modules.embedding_model.__class__ = type("Mine", (type(modules.embedding_model),), {})

    with pytest.raises(NotStock, match="Mine in the place of ECAPA_TDNN"):
        fold(modules)


def test_windows_too_short_to_reflect_are_refused(make, sounds):
    import torch

    forward = fold(make())

    with pytest.raises(ValueError, match="windows of 4 frames; this model needs 5"):
        forward.forward(forward.features(torch.from_numpy(sounds[:, : 3 * 256])))
