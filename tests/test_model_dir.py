from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embeddings import model_dir
from embeddings.errors import ModelDamaged, ModelError, ModelUnavailable, ModelUntrusted
from embeddings.model_dir import (
    CALIBRATION,
    CHECKSUMS,
    COHORT,
    GOLDEN,
    HOUSE_DIR,
    HUB_REVISIONS,
    canonical_sha256,
    check_sums,
    describe_model,
    find_model,
    load_calibration,
    load_cohort,
    model_digest,
    model_files,
    write_sums,
)

ECAPA = "speechbrain/spkrec-ecapa-voxceleb"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def model(tmp_path) -> Path:
    """A directory that looks like a model; nothing here runs it."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "hyperparams.yaml").write_bytes(b"sample_rate: 16000\n")
    (directory / "embedding_model.ckpt").write_bytes(b"weights")
    (directory / "README.md").write_bytes(b"a card")
    write_sums(directory)
    return directory


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """No hub: neither the network nor what was fetched before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


# --- checksums of the built-in encoder ---


def test_the_built_in_encoder_is_as_published():
    check_sums(HOUSE_DIR)

    assert find_model("house") == HOUSE_DIR


def test_checksums_are_those_of_sha256sum(model):
    assert (model / CHECKSUMS).read_text() == (
        f"{sha256(b'a card')}  README.md\n"
        f"{sha256(b'weights')}  embedding_model.ckpt\n"
        f"{sha256(b'sample_rate: 16000' + bytes([10]))}  hyperparams.yaml\n"
    )
    check_sums(model)


@pytest.mark.parametrize("name", ["hyperparams.yaml", "embedding_model.ckpt", "README.md"])
def test_a_file_that_differs_in_one_bit_is_named(model, name):
    content = bytearray((model / name).read_bytes())
    content[0] ^= 1
    (model / name).write_bytes(content)

    with pytest.raises(ModelDamaged, match=rf"{name}: sha256 is {sha256(content)[:12]}\.\.\., published was"):
        check_sums(model)


def test_a_file_too_many_or_too_few_is_named(model):
    (model / "extra.py").touch()
    with pytest.raises(ModelDamaged, match=r"extra\.py: not in SHA256SUMS; reinstall likeness"):
        check_sums(model)

    (model / "extra.py").unlink()
    (model / "embedding_model.ckpt").unlink()
    with pytest.raises(ModelDamaged, match=r"embedding_model\.ckpt: missing; reinstall likeness"):
        check_sums(model)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"garbage\n"])
def test_a_list_of_checksums_that_is_gone_or_spoilt_is_damage(model, content):
    if content is None:
        (model / CHECKSUMS).unlink()
    else:
        (model / CHECKSUMS).write_bytes(content)

    with pytest.raises(ModelDamaged, match="reinstall likeness"):
        check_sums(model)


def test_a_damaged_built_in_encoder_is_refused_before_anything_reads_its_yaml(model, monkeypatch):
    """A model directory is code: a YAML that was tampered with must not be parsed."""
    monkeypatch.setattr(model_dir, "HOUSE_DIR", model)
    (model / "hyperparams.yaml").write_text("x: !apply:os.abort []\n")
    read = []
    monkeypatch.setattr(Path, "read_text", lambda path, **_: read.append(path.name) or (path.read_bytes().decode()))

    with pytest.raises(ModelDamaged, match=r"hyperparams\.yaml: sha256 is"):
        find_model("house", trusted=[model_digest(model)])

    assert read == [CHECKSUMS]


def test_finding_a_model_imports_neither_torch_nor_yaml():
    code = (
        "import sys; from embeddings.model_dir import find_model; find_model('house'); "
        "print(sorted({'torch', 'speechbrain', 'yaml', 'hyperpyyaml', 'ruamel'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


# --- trust ---


def test_a_directory_runs_only_once_it_is_trusted(model):
    with pytest.raises(ModelUntrusted, match=rf"code and runs when it is loaded.*--trust-model.*{model_digest(model)}"):
        find_model(model)

    assert find_model(str(model), trusted=["0" * 64, model_digest(model)]) == model


def test_the_digest_is_over_everything_that_can_change_a_vector(model):
    digests = {model_digest(model)}
    (model / "extra").mkdir()
    (model / "extra" / "custom.py").write_text("pass")
    digests.add(model_digest(model))
    (model / "extra" / "custom.py").write_text("import os")
    digests.add(model_digest(model))
    (model / "extra" / "custom.py").rename(model / "extra" / "other.py")
    digests.add(model_digest(model))
    (model / "embedding_model.ckpt").write_bytes(b"other weights")
    digests.add(model_digest(model))

    assert len(digests) == 5


def test_the_digest_does_not_change_with_what_lies_beside_the_model(model):
    before = model_files(model)
    for name in ("README.md", CHECKSUMS, COHORT, CALIBRATION, GOLDEN):
        (model / name).write_bytes(b"another")
    metadata = model / ".cache" / "huggingface" / "download" / "hyperparams.yaml.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("fetched at noon")

    assert (
        model_files(model)
        == before
        == {
            "embedding_model.ckpt": sha256(b"weights"),
            "hyperparams.yaml": sha256(b"sample_rate: 16000\n"),
        }
    )


def test_a_model_below_a_folder_called_cache_has_a_digest_of_its_own(model):
    """The hub keeps what it fetched in ~/.cache/huggingface: one digest for all would be trust in all."""
    cached = model.parent / ".cache" / "huggingface" / "hub" / "model"
    shutil.copytree(model, cached)

    assert model_files(cached) == model_files(model)
    (cached / "hyperparams.yaml").write_text("x: !apply:os.abort []\n")
    assert model_digest(cached) != model_digest(model)


def test_code_cannot_hide_in_a_folder_called_cache(model):
    before = model_digest(model)
    (model / ".cache").mkdir()
    (model / ".cache" / "custom.py").write_text("import os")

    assert model_digest(model) != before


def test_the_digest_is_of_json_that_anybody_can_write():
    assert canonical_sha256({"b": 1, "a": "é"}) == sha256(b'{"a":"\\u00e9","b":1}')


# --- sources ---


def test_a_directory_without_a_model_is_said_to_be(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"no hyperparams\.yaml in it; a SpeechBrain model directory is needed"):
        find_model(tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "/no/such/directory", "a/b/c", "https://huggingface.co/a/b", "../x"])
def test_a_source_that_is_nothing_is_said_to_be(source, tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModelUnavailable, match=r"neither a directory nor a hub id such as|name the commit"):
        find_model(source)


@pytest.mark.parametrize("source", ["someone/model", "someone/model@main", "someone/model@0f99f2d", f"{ECAPA}@main"])
def test_a_hub_id_needs_a_commit(source, offline):
    with pytest.raises(ModelUnavailable, match=r"name the commit, .*@COMMIT with 40 digits, so that it cannot change"):
        find_model(source)


@pytest.mark.parametrize("source", [ECAPA, f"{ECAPA}@{'a' * 40}"])
def test_a_hub_id_without_a_network_says_what_to_do(source, offline):
    commit = source.partition("@")[2] or HUB_REVISIONS[ECAPA]

    with pytest.raises(ModelUnavailable) as caught:
        find_model(source)

    assert str(caught.value) == (
        f"{ECAPA}@{commit}: not on this machine, and the hub could not be reached (LocalEntryNotFoundError). Where "
        f"there is a network, run `hf download {ECAPA} --revision {commit} --local-dir DIR`, then copy DIR here and "
        "name it instead: --encoder DIR"
    )


def test_a_hub_id_that_was_fetched_before_works_offline_and_needs_trust(model, offline, tmp_path):
    """The hub's own layout: names that link to blobs."""
    commit = HUB_REVISIONS[ECAPA]
    folder = tmp_path / "hub" / f"models--{ECAPA.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for name in ("hyperparams.yaml", "embedding_model.ckpt"):
        blob = folder / "blobs" / sha256((model / name).read_bytes())
        blob.write_bytes((model / name).read_bytes())
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))

    with pytest.raises(ModelUntrusted, match=f"{ECAPA}: a model directory is code"):
        find_model(ECAPA)

    assert find_model(ECAPA, trusted=[model_digest(model)]) == snapshot


# --- what lies beside the weights ---


def test_the_cohort_is_loaded_with_its_hash(model):
    vectors = np.eye(4)[[0, 1, 2]]
    np.savez(model / COHORT, vectors=vectors, person=np.array([5, 5, 9], np.int32))

    cohort = load_cohort(model)

    assert (cohort.vectors.dtype, cohort.person.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(cohort.vectors, vectors)
    assert cohort.person.tolist() == [5, 5, 9]
    assert cohort.cohort_id == sha256((model / COHORT).read_bytes())
    assert cohort.condition is None


def test_a_cohort_says_how_each_row_was_heard_where_the_file_does(model):
    np.savez(model / COHORT, vectors=np.eye(4)[:2], person=np.array([1, 2]), condition=np.array(["spoken", "sung"]))

    assert load_cohort(model).condition.tolist() == ["spoken", "sung"]


def test_the_calibration_is_loaded_as_it_is(model):
    calibration = {
        "encoder_id": "e",
        "cohort_id": "c",
        "scoring": {"cohort_top": 150},
        "source": "made up",
        "llr": {"weights": {"norm_score": 1.0}, "intercept": -2.0},
        "tail": {"start": 1.0},
        "anything": ["else"],
    }
    (model / CALIBRATION).write_text(json.dumps(calibration))

    assert load_calibration(model) == calibration


def test_a_calibration_of_another_release_keeps_no_model_from_loading(model):
    """Whether it can be used is judged where it is used; `models show` must go on working."""
    np.savez(model / COHORT, vectors=np.eye(4), person=np.arange(4))
    cohort_id = sha256((model / COHORT).read_bytes())
    earlier = {"encoder_id": "e", "cohort_id": cohort_id, "threshold": 4.4, "threshold_source": "made up"}
    (model / CALIBRATION).write_text(json.dumps(earlier))

    assert load_calibration(model) == earlier
    card = describe_model(model)
    assert (card.encoder_id, card.cohort_id, card.calibration) == ("e", cohort_id, "of another release")


def test_a_model_may_come_without_either(model):
    assert (load_cohort(model), load_calibration(model)) == (None, None)


def _not_zip(path: Path) -> None:
    path.write_bytes(b"not a zip file")


def _pickled(path: Path) -> None:
    np.savez(path, vectors=np.array([{"a": 1}], object), person=np.zeros(1, int))


def _without_persons(path: Path) -> None:
    np.savez(path, vectors=np.eye(4))


def _persons_too_few(path: Path) -> None:
    np.savez(path, vectors=np.eye(4), person=np.zeros(3, int))


def _not_unit(path: Path) -> None:
    np.savez(path, vectors=2 * np.eye(4), person=np.zeros(4, int))


def _conditions_too_few(path: Path) -> None:
    np.savez(path, vectors=np.eye(4), person=np.arange(4), condition=np.array(["sung"] * 3))


@pytest.mark.parametrize(
    "spoil", [_not_zip, _not_unit, _pickled, _without_persons, _persons_too_few, _conditions_too_few]
)
def test_a_cohort_that_cannot_be_used_is_named(model, spoil):
    spoil(model / COHORT)

    with pytest.raises(ModelError, match=r"cohort\.npz: not a cohort \("):
        load_cohort(model)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"3", b'{"threshold": 4.4}'])
def test_a_calibration_that_cannot_be_used_is_named(model, content):
    (model / CALIBRATION).write_bytes(content)

    with pytest.raises(ModelError, match=r"calibration\.json: not a calibration"):
        load_calibration(model)
