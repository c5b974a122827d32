from __future__ import annotations

from pathlib import Path

import pytest

from embeddings.errors import ModelDamaged, ModelUnavailable, ModelUntrusted
from embeddings.model_dir import find_model, model_digest
from registry.config import choose_encoder, encoder_source, trusted_models
from tests.fakes import write_fake_model


@pytest.fixture
def model(tmp_path) -> Path:
    return write_fake_model(tmp_path / "model")


def test_the_built_in_encoder_is_used_unless_another_was_chosen(store):
    assert (encoder_source(store), trusted_models(store)) == ("house", [])


def test_a_directory_that_was_not_allowed_to_run_is_refused_and_nothing_is_recorded(store, model):
    with pytest.raises(ModelUntrusted, match=f"--trust-model. Its digest is {model_digest(model)}"):
        choose_encoder(store, str(model), trust=False)

    assert (encoder_source(store), trusted_models(store)) == ("house", [])


def test_a_trusted_directory_is_recorded_by_digest(store, model):
    choose_encoder(store, str(model), trust=True)

    assert (encoder_source(store), trusted_models(store)) == (str(model), [model_digest(model)])
    assert find_model(encoder_source(store), trusted=trusted_models(store)) == model


def test_a_trusted_directory_that_changed_is_untrusted_again(store, model):
    choose_encoder(store, str(model), trust=True)
    (model / "hyperparams.yaml").write_text("x: !apply:os.system [true]\n")

    with pytest.raises(ModelUntrusted, match="is code and runs when it is loaded"):
        find_model(encoder_source(store), trusted=trusted_models(store))


def test_trust_is_given_once(store, model):
    choose_encoder(store, str(model), trust=True)
    choose_encoder(store, "house", trust=False)
    choose_encoder(store, str(model), trust=False)

    assert (encoder_source(store), trusted_models(store)) == (str(model), [model_digest(model)])


def test_a_relative_directory_is_kept_so_that_it_is_found_from_anywhere(store, model, monkeypatch):
    monkeypatch.chdir(model.parent)

    choose_encoder(store, "model", trust=True)

    assert encoder_source(store) == str(model)


def test_a_folder_that_is_called_house_is_not_taken_for_the_built_in_encoder(store, tmp_path, monkeypatch):
    """Nor the other way round: `house` means the built-in one, wherever the command is run."""
    (tmp_path / "house").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("embeddings.model_dir.check_sums", lambda directory: None)

    choose_encoder(store, "house", trust=False)

    assert encoder_source(store) == "house"


def test_a_directory_without_a_model_is_refused_and_not_trusted(store, tmp_path):
    with pytest.raises(ModelUnavailable, match=r"no hyperparams\.yaml in it; a SpeechBrain model directory is needed"):
        choose_encoder(store, str(tmp_path), trust=True)

    assert trusted_models(store) == []


def test_a_damaged_built_in_encoder_is_refused(store, monkeypatch, model):
    monkeypatch.setattr("embeddings.model_dir.HOUSE_DIR", model)

    with pytest.raises(ModelDamaged, match="reinstall likeness"):
        choose_encoder(store, "house", trust=True)
