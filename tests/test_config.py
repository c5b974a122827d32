from __future__ import annotations

from pathlib import Path

import pytest

from embeddings.errors import ModelDamaged, ModelUnavailable, ModelUntrusted
from embeddings.model_dir import find_model, model_digest
from registry import audit
from registry.calibration import DEFAULT_BUDGET
from registry.config import (
    FALSE_FLAG_BUDGET,
    FLAGGED_RETENTION_DAYS,
    REQUIRE_TWO_PERSONS,
    RETENTION_DAYS,
    SETTINGS,
    change_setting,
    choose_encoder,
    encoder_source,
    false_flag_budget,
    flagged_retention_days,
    parse_budget,
    require_two_persons,
    retention_days,
    trusted_models,
    value_text,
)
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


def test_settings_are_off_until_the_owner_changes_them(store):
    assert (require_two_persons(store), retention_days(store), flagged_retention_days(store)) == (False, None, None)
    assert false_flag_budget(store) == DEFAULT_BUDGET == 0.03


def test_a_setting_stays_as_it_was_set_and_the_audit_says_who_changed_what(store):
    store.actor = "ines"
    change_setting(store, RETENTION_DAYS, 90)
    change_setting(store, RETENTION_DAYS, None)
    change_setting(store, FLAGGED_RETENTION_DAYS, 365)
    change_setting(store, REQUIRE_TWO_PERSONS, True)
    change_setting(store, FALSE_FLAG_BUDGET, 0.001)

    assert false_flag_budget(store) == 0.001
    assert (require_two_persons(store), retention_days(store), flagged_retention_days(store)) == (True, None, 365)
    assert [(entry.action, entry.payload) for entry in audit.entries(store)] == [
        ("config.set", {"key": "retention-days", "from": None, "to": 90, "by": "ines"}),
        ("config.set", {"key": "retention-days", "from": 90, "to": None, "by": "ines"}),
        ("config.set", {"key": "flagged-retention-days", "from": None, "to": 365, "by": "ines"}),
        ("config.set", {"key": "require-two-persons", "from": False, "to": True, "by": "ines"}),
        ("config.set", {"key": "false-flag-budget", "from": 0.03, "to": 0.001, "by": "ines"}),
    ]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("require-two-persons", "on", True),
        ("require-two-persons", "off", False),
        ("retention-days", "1", 1),
        ("retention-days", "36500", 36500),
        ("flagged-retention-days", "none", None),
        ("false-flag-budget", "0.005", 0.005),
        ("false-flag-budget", "1e-05", 0.00001),
    ],
)
def test_a_value_is_shown_as_it_is_typed(key, text, value):
    parsed = SETTINGS[key].parse(text)

    assert (parsed, type(parsed)) == (value, type(value))
    assert value_text(parsed) == text


@pytest.mark.parametrize(
    ("key", "text", "match"),
    [
        ("require-two-persons", "yes", "is either on or off"),
        ("require-two-persons", "", "is either on or off"),
        ("retention-days", "0", "a whole number of days from 1 to 36500, or none"),
        ("retention-days", "36501", "a whole number of days from 1 to 36500, or none"),
        ("retention-days", "-1", "a whole number of days"),
        ("retention-days", "1.5", "a whole number of days"),
        ("retention-days", "\u0661", "a whole number of days"),  # a digit, but not one that everybody reads
        ("flagged-retention-days", "off", "a whole number of days"),
        ("false-flag-budget", "0", "a share above 0 and below 1, such as 0.01, 1e-2 or 1%"),
        ("false-flag-budget", "1", "a share above 0 and below 1"),
        ("false-flag-budget", "100%", "a share above 0 and below 1"),
        ("false-flag-budget", "-1%", "a share above 0 and below 1"),
        ("false-flag-budget", "nan", "a share above 0 and below 1"),
        ("false-flag-budget", "none", "a share above 0 and below 1"),
        ("false-flag-budget", "%", "a share above 0 and below 1"),
        ("false-flag-budget", "", "a share above 0 and below 1"),
    ],
)
def test_a_value_that_is_none_of_the_allowed_is_refused(key, text, match):
    with pytest.raises(ValueError, match=match):
        SETTINGS[key].parse(text)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5%", 0.005), ("1e-2", 0.01), (".25", 0.25)])
def test_a_budget_is_a_share_or_percent(text, share):
    assert parse_budget(text) == pytest.approx(share, rel=1e-12)
