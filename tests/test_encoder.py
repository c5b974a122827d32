"""The built-in encoder, loaded once; the tests that run it are marked `model` (about ten seconds to load)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings import encoder as encoder_module
from embeddings.encoder import MAX_BATCH, SpeechBrainEncoder
from embeddings.errors import ModelDamaged, ModelError, ModelUnavailable, ModelUntrusted
from embeddings.model_dir import HOUSE_DIR, model_digest

model = pytest.mark.model
RATE_HZ = 16000


@pytest.fixture(scope="module")
def house() -> SpeechBrainEncoder:
    return SpeechBrainEncoder()


@pytest.fixture(scope="module")
def stock() -> Any:
    """The built-in model as SpeechBrain has it."""
    return encoder_module._load(HOUSE_DIR)[0]


@pytest.fixture(scope="module")
def windows(voice_like) -> np.ndarray:
    """(6, 2 s) of six made-up voices."""
    return np.stack([voice_like(2.0, f0_hz=110.0 + 40 * k, seed=k) for k in range(6)])


@pytest.fixture
def copy(tmp_path) -> Path:
    """The built-in model as a directory of one's own."""
    return Path(shutil.copytree(HOUSE_DIR, tmp_path / "copy"))


def assert_same_vectors(found: np.ndarray, expected: np.ndarray, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def as_tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def encode_batch(model: Any, samples: np.ndarray) -> np.ndarray:
    """Give what SpeechBrain itself gives, as unit rows."""
    import torch

    with torch.inference_mode():
        vectors = model.encode_batch(as_tensor(samples))[:, 0].numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- what it is ---


@model
def test_the_built_in_encoder_is_what_its_card_says(house):
    assert (house.source, house.dim, house.rate_hz, house.window_s, house.hop_s) == ("house", 192, 16000, 4.0, 2.0)
    assert house.directory == HOUSE_DIR
    assert (house.cohort.vectors.shape[1], len(np.unique(house.cohort.person))) == (192, 150)
    np.testing.assert_allclose(np.linalg.norm(house.cohort.vectors, axis=1), 1, atol=1e-4)


@model
def test_its_threshold_is_of_this_very_encoder_and_cohort(house):
    """Otherwise no command gives a verdict: run scripts/fit_builtin.py."""
    assert house.calibration["encoder_id"] == house.encoder_id
    assert house.calibration["cohort_id"] == house.cohort.cohort_id


# --- vectors ---


@model
def test_vectors_are_unit_rows_one_for_each_window(house, windows):
    vectors = house.embed_windows(windows)

    assert (vectors.dtype, vectors.shape) == (np.float32, (6, 192))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    assert np.abs(cosines[~np.eye(6, dtype=bool)]).max() < 0.99  # and are not all one


@model
def test_a_vector_does_not_depend_on_its_company(house, windows):
    together = house.embed_windows(windows)

    assert_same_vectors(np.concatenate([house.embed_windows(windows[k : k + 1]) for k in range(6)]), together)
    assert_same_vectors(house.embed_windows(windows[::-1])[::-1], together)
    assert_same_vectors(house.embed_windows(np.repeat(windows[:1], 3, axis=0)), together[[0, 0, 0]])


@model
def test_more_windows_than_a_batch_come_back_in_order(house, windows):
    n_windows = 2 * MAX_BATCH + 3
    short = np.tile(windows[:, : RATE_HZ // 2], (n_windows // 6 + 1, 1))[:n_windows]

    vectors = house.embed_windows(short)

    assert len(vectors) == n_windows
    assert_same_vectors(vectors[6:12], vectors[:6])
    assert_same_vectors(vectors[-2:], house.embed_windows(short[-2:]))


@model
def test_what_was_embedded_before_changes_nothing(house, windows):
    """Dropout would make two calls differ, batch norm would follow what it is given."""
    first = house.embed_windows(windows)
    house.embed_windows(np.random.default_rng(0).standard_normal((8, RATE_HZ)).astype(np.float32))

    np.testing.assert_array_equal(house.embed_windows(windows), first)


@model
def test_speechbrain_loads_it_in_eval_mode(stock):
    """What is folded, and what runs where nothing is folded."""
    assert [name for name, module in stock.named_modules() if module.training] == []
    assert [name for name, parameter in stock.named_parameters() if parameter.requires_grad and parameter.grad] == []


@model
def test_how_the_samples_lie_in_memory_changes_nothing(house, windows):
    expected = house.embed_windows(windows)
    read_only = windows.copy()
    read_only.flags.writeable = False

    assert_same_vectors(house.embed_windows(np.asfortranarray(windows)), expected)
    assert_same_vectors(house.embed_windows(np.repeat(windows, 2, axis=0)[::2]), expected)
    assert_same_vectors(house.embed_windows(read_only), expected)


@model
def test_the_samples_given_are_not_changed(house, windows):
    before = windows.copy()

    house.embed_windows(windows)

    np.testing.assert_array_equal(windows, before)


@model
def test_no_windows_give_no_vectors(house):
    vectors = house.embed_windows(np.empty((0, RATE_HZ), np.float32))

    assert (vectors.dtype, vectors.shape) == (np.float32, (0, 192))


@model
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, RATE_HZ)), r"must be \(n, n_samples\) float32, not \(2, 16000\) float64"),
        (np.zeros((2, RATE_HZ), np.int16), r"float32, not \(2, 16000\) int16"),
        (np.zeros(RATE_HZ, np.float32), r"float32, not \(16000,\) float32"),
        (np.zeros((2, 1, RATE_HZ), np.float32), r"float32, not \(2, 1, 16000\) float32"),
        (np.full((2, RATE_HZ), np.nan, np.float32), "samples must be finite"),
        (np.full((2, RATE_HZ), np.inf, np.float32), "samples must be finite"),
    ],
)
def test_samples_that_are_a_mistake_of_the_caller_are_refused(house, samples, message):
    with pytest.raises(ValueError, match=message):
        house.embed_windows(samples)


@model
def test_one_spoilt_window_is_noticed_among_good_ones(house, windows):
    spoilt = windows.copy()
    spoilt[3, 1000] = np.nan

    with pytest.raises(ValueError, match="samples must be finite"):
        house.embed_windows(spoilt)


@model
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_vector_without_direction_is_never_handed_out(house, windows, monkeypatch, value):
    def forward(samples: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(samples) - 1, 192)), np.full((1, 192), value)]).astype(np.float32)

    monkeypatch.setattr(house, "_forward", forward)

    with pytest.raises(ModelError, match="house: the model gave a vector without direction; run `likeness doctor`"):
        house.embed_windows(windows)


# --- which forward ---


@model
def test_the_built_in_model_runs_fast_and_gives_what_speechbrain_gives(house, stock, windows):
    assert (house.is_fast, house.precision) == (True, "float32")
    assert_same_vectors(house.embed_windows(windows), encode_batch(stock, windows))


@model
def test_in_bfloat16_it_points_the_same_way_and_is_the_same_encoder(house, stock, windows):
    half = SpeechBrainEncoder(precision="bfloat16")

    cosines = (half.embed_windows(windows) * encode_batch(stock, windows)).sum(axis=1)

    assert (half.is_fast, half.precision, half.encoder_id) == (True, "bfloat16", house.encoder_id)
    assert cosines.min() >= 0.9999


@model
@pytest.mark.parametrize(
    ("has_bfloat16", "speedup", "expected"),
    [(True, 2.0, "bfloat16"), (True, 1.1, "float32"), (True, 0.5, "float32"), (False, 2.0, "float32")],
)
def test_bfloat16_is_taken_where_the_cpu_has_it_and_it_is_clearly_faster(monkeypatch, has_bfloat16, speedup, expected):
    monkeypatch.setattr(encoder_module, "_has_bfloat16", lambda torch: has_bfloat16)
    monkeypatch.setattr(encoder_module, "_speedup", lambda forward, other, probe: speedup)

    assert SpeechBrainEncoder(precision="auto").precision == expected
    assert SpeechBrainEncoder().precision == "float32"


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="precision must be one of auto, float32, bfloat16, not 'float16'"):
        SpeechBrainEncoder(precision="float16")


@model
def test_a_model_that_the_fast_forward_does_not_fit_runs_as_speechbrain_runs_it(copy, windows):
    """Normalised over the batch: no setting of the published models, and not repeated by the fast forward."""
    yaml = (copy / "hyperparams.yaml").read_text()
    (copy / "hyperparams.yaml").write_text(yaml.replace("norm_type: sentence", "norm_type: batch"))
    trusted = [model_digest(copy)]

    local = SpeechBrainEncoder(copy, trusted=trusted)

    assert (local.is_fast, local.precision) == (False, "float32")
    np.testing.assert_array_equal(local.embed_windows(windows), encode_batch(encoder_module._load(copy)[0], windows))
    with pytest.raises(ModelError, match="this model cannot run in bfloat16; use the precision auto or float32"):
        SpeechBrainEncoder(copy, trusted=trusted, precision="bfloat16")


@model
def test_a_fast_forward_that_gives_something_else_is_not_used(stock, windows, monkeypatch, caplog):
    from embeddings.ecapa import EcapaForward

    pool = EcapaForward._pool
    monkeypatch.setattr(EcapaForward, "_pool", lambda self, x: pool(self, x).roll(1, 1))

    wary = SpeechBrainEncoder()

    assert not wary.is_fast
    np.testing.assert_array_equal(wary.embed_windows(windows), encode_batch(stock, windows))
    said = [record.getMessage() for record in caplog.records if record.name == "embeddings.encoder"]
    assert [re.sub(r"-?\d\.\d+", "_", message) for message in said] == [
        "the fast forward in float32 is off by _ (cosine _) and is not used"
    ]


# --- other directories ---


@model
def test_a_copy_of_the_built_in_model_needs_trust_and_then_gives_the_same(house, windows, copy):
    with pytest.raises(ModelUntrusted, match="allow it once with --trust-model"):
        SpeechBrainEncoder(copy)

    local = SpeechBrainEncoder(copy, trusted=[model_digest(copy)])

    assert_same_vectors(local.embed_windows(windows), house.embed_windows(windows), atol=1e-6)
    assert (local.encoder_id, local.cohort.cohort_id) == (house.encoder_id, house.cohort.cohort_id)
    assert (local.source, local.directory) == (str(copy), copy)


@model
def test_loading_writes_nothing_anywhere(copy, tmp_path, monkeypatch):
    """SpeechBrain is fond of making `pretrained_models` in the present folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    before = sorted(tmp_path.rglob("*"))

    SpeechBrainEncoder(copy, trusted=[model_digest(copy)])

    assert sorted(tmp_path.rglob("*")) == before


@model
def test_a_model_that_listens_at_another_rate_is_refused(copy):
    yaml = (copy / "hyperparams.yaml").read_text()
    (copy / "hyperparams.yaml").write_text(yaml.replace("sample_rate: 16000", "sample_rate: 8000"))

    with pytest.raises(
        ModelError, match="it listens at 8000 Hz, and voice is looked for at 16000 only; use an encoder for that rate"
    ):
        SpeechBrainEncoder(copy, trusted=[model_digest(copy)])


@model
def test_a_damaged_presence_network_is_said_when_the_encoder_is_loaded(copy, monkeypatch):
    def damaged() -> None:
        raise ModelDamaged("vocal_presence.npz: no vocal presence network")

    monkeypatch.setattr("embeddings.presence.built_in_presence", damaged)

    with pytest.raises(ModelDamaged, match=r"vocal_presence\.npz"):
        SpeechBrainEncoder(copy, trusted=[model_digest(copy)])


@model
def test_a_model_that_names_its_hub_id_loads_offline(house, windows, copy, monkeypatch):
    """As the published models do: without care, a local copy of one still calls the hub."""
    yaml = (copy / "hyperparams.yaml").read_text()
    yaml = yaml.replace("sample_rate: 16000", "pretrained_path: speechbrain/spkrec-ecapa-voxceleb\nsample_rate: 16000")
    yaml += "    paths:\n        embedding_model: !ref <pretrained_path>/embedding_model.ckpt\n"
    (copy / "hyperparams.yaml").write_text(yaml)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    local = SpeechBrainEncoder(copy, trusted=[model_digest(copy)])

    assert_same_vectors(local.embed_windows(windows), house.embed_windows(windows), atol=1e-6)
    assert local.encoder_id != house.encoder_id


@model
def test_the_same_model_behind_another_front_end_is_another_encoder(house, copy, monkeypatch):
    ids = {house.encoder_id}
    for name in ("audio.FRONT_END", "vocals.WINDOW_SELECTION"):
        with monkeypatch.context() as patch:
            patch.setattr(f"embeddings.{name}", "another 2")
            ids.add(SpeechBrainEncoder(copy, trusted=[model_digest(copy)]).encoder_id)

    assert len(ids) == 3


@model
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hyperparams.yaml", b"sample_rate: 16000\n"),
        ("hyperparams.yaml", b"sample_rate: [\n"),
        ("hyperparams.yaml", b"x: !new:no.such.module.Thing\n"),
        ("embedding_model.ckpt", b"no weights"),
    ],
)
def test_a_model_that_does_not_load_is_named(copy, name, content):
    (copy / name).write_bytes(content)

    with pytest.raises(ModelError, match=r"copy: SpeechBrain cannot load it \(\w+"):
        SpeechBrainEncoder(copy, trusted=[model_digest(copy)])


# --- refusals that come before anything is loaded ---


@pytest.fixture
def nothing_loads(monkeypatch) -> None:
    def load(directory: Path) -> None:
        raise AssertionError(f"{directory} was loaded")

    monkeypatch.setattr(encoder_module, "_load", load)


@pytest.mark.usefixtures("nothing_loads")
def test_a_damaged_built_in_model_is_never_loaded(copy, monkeypatch):
    monkeypatch.setattr("embeddings.model_dir.HOUSE_DIR", copy)
    (copy / "hyperparams.yaml").write_text("x: !apply:os.abort []\n")

    with pytest.raises(ModelDamaged, match=r"hyperparams\.yaml: sha256 is"):
        SpeechBrainEncoder()


@pytest.mark.usefixtures("nothing_loads")
def test_an_untrusted_directory_is_never_loaded(copy):
    with pytest.raises(ModelUntrusted, match="is code and runs when it is loaded"):
        SpeechBrainEncoder(str(copy))


@pytest.mark.usefixtures("nothing_loads")
def test_a_hub_id_without_a_network_is_never_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    with pytest.raises(ModelUnavailable, match="the hub could not be reached"):
        SpeechBrainEncoder("speechbrain/spkrec-ecapa-voxceleb")


@model
def test_a_fresh_process_gives_the_same_vectors(house, windows, tmp_path):
    """Nothing hangs on what was loaded or seeded before."""
    np.save(tmp_path / "windows.npy", windows)
    code = (
        "import numpy as np, sys; from embeddings.encoder import SpeechBrainEncoder; "
        "encoder = SpeechBrainEncoder(n_threads=1); windows = np.load(sys.argv[1] + '/windows.npy'); "
        "np.save(sys.argv[1] + '/vectors.npy', encoder.embed_windows(windows)); print(encoder.encoder_id)"
    )

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)

    assert (done.stdout.strip(), done.stderr) == (house.encoder_id, "")
    assert_same_vectors(np.load(tmp_path / "vectors.npy"), house.embed_windows(windows))
