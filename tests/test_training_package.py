"""A training's checkpoint becomes a model directory that the product loads, with a card that says of what."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

from training.package import WEIGHTS, data_section, largest_difference, main, training_section, write_model_dir

from embeddings.encoder import SpeechBrainEncoder
from embeddings.errors import ModelError
from embeddings.model_dir import check_sums, licence_of, model_digest, write_sums

SIZES = {"channels": 16, "dim": 8, "hop_ms": 16}
CONFIG = (
    "channels = 16\ndim = 8\nhop_ms = 20\nsteps = 3\n\n[recipe]\nvoices = { voice = 1.0 }\nbeds = { music = 1.0 }\n"
)


def write_csv(path: Path, fields: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([fields.split(), *(row.split(";") for row in rows)])


@pytest.fixture
def manifests(tmp_path) -> Path:
    """Manifests of three speakers, a singer, and what lies under them."""
    voice = "path person_id corpus duration_s licence source"
    write_csv(
        tmp_path / "train/voice.csv",
        voice,
        "a/0.ogg;libri-1;librispeech;60;CC BY 4.0 (as its page says);x/one",
        "a/1.ogg;libri-1;librispeech;30;CC BY 4.0;x/two",
        "b/0.ogg;fsdd-2;fsdd;6;CC BY-SA 4.0;y/digits",
        "c/0.ogg;libri-3;librispeech;60;CC BY 4.0;x/one",
    )
    write_csv(tmp_path / "train/sung.csv", voice, "d/0.ogg;utau-kumi;utau;120;free | with credit (Cubialpha);z/kumi")
    for name in ("music", "noise", "rir"):
        write_csv(tmp_path / f"train/{name}.csv", "path duration_s licence source", f"{name}/0.ogg;12;CC0;w/{name}")
    return tmp_path


@pytest.fixture(scope="module")
def net():
    from embeddings.torchaudio_compat import import_torchaudio

    import_torchaudio()
    import torch
    from training.network import make_ecapa

    torch.manual_seed(0)
    net = make_ecapa(SIZES["channels"], SIZES["dim"]).eval()
    for name, value in net.state_dict().items():  # as after training: statistics that are not those of a new network
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
    return net


def write(directory: Path, state, manifests: Path, **changes) -> Path:
    given = {**SIZES, "name": "tiny", "training": "## Training\nNone.", "audio_root": manifests, **changes}
    write_model_dir(directory, state, **given)
    return directory


def load(directory: Path) -> SpeechBrainEncoder:
    return SpeechBrainEncoder(directory, trusted={model_digest(directory)})


# --- the card ---


def test_data_section_counts_persons_minutes_and_terms(manifests):
    assert data_section(manifests).splitlines()[7:] == [
        "| fsdd | 1 | 0.1 | CC BY-SA 4.0 | y/digits |",
        "| librispeech | 2 | 2.5 | CC BY 4.0 | x/one, x/two |",
        "",
        "| really sung | persons | minutes | terms | from |",
        "| --- | --- | --- | --- | --- |",
        "| utau-kumi | 1 | 2.0 | free / with credit (Cubialpha) | z/kumi |",
        "",
        "Heard under the voices, and rooms that they were put into:",
        "",
        "| sound | pieces | minutes | terms | from |",
        "| --- | --- | --- | --- | --- |",
        "| music | 1 | 0.2 | CC0 | w/music |",
        "| noise | 1 | 0.2 | CC0 | w/noise |",
        "| rir | 1 | 0.2 | CC0 | w/rir |",
    ]


def test_data_section_leaves_out_persons_who_were_not_trained_on(manifests):
    text = data_section(manifests, {"libri-1", "utau-kumi"})

    assert text.splitlines()[1].startswith("2 persons: 0.0 h of speech and 2 min of singing.")
    assert "fsdd" not in text
    assert "| librispeech | 1 | 1.5 | CC BY 4.0 | x/one, x/two |" in text


def test_card_owns_up_to_persons_of_dev_who_were_trained_on(manifests):
    with (manifests / "train/voice.csv").open("a") as file:
        file.write("e/0.ogg,libri-9351,librispeech,60,CC BY 4.0,x/one\n")

    as_it_should_be, as_it_was = data_section(manifests), data_section(manifests, {"libri-1", "libri-9351"})

    assert as_it_should_be.splitlines()[1].startswith("4 persons: ")
    assert "No person is of `dev/`" in as_it_should_be
    assert as_it_was.splitlines()[1].startswith("2 persons: ")
    assert "1 of them are also in `dev/`: figures of these are optimistic." in as_it_was


def test_card_owns_up_to_what_the_weights_it_began_from_had_heard(manifests):
    lines = data_section(manifests, began_from="It began from others, which had heard more.").splitlines()

    assert lines[1].startswith("4 persons: ") and lines[2:5] == ["", "It began from others, which had heard more.", ""]


def test_card_speaks_of_the_children(manifests):
    assert "half of the speakers of speechocean762 are" in data_section(manifests)


def test_training_section_holds_config_changes_and_the_end_of_the_log():
    assert training_section("steps = 3\n", ["channels=16"], 3, {"step": 3, "aam": 9.5}) == (
        "## Training\n`scripts/train_encoder.py`, 3 steps, the weights averaged over the last of them. "
        "The log ends: step 3, aam 9.5.\n\n```toml\nsteps = 3\n# --set channels=16\n```\n"
    )


# --- the directory ---


@pytest.mark.model
def test_safetensors_give_the_very_vectors_of_a_ckpt(tmp_path, net, manifests):
    """The weights arrive bit for bit, whichever way they are kept."""
    import torch

    kept = write(tmp_path / "kept", net.state_dict(), manifests)
    pickled = write(tmp_path / "pickled", net.state_dict(), manifests)
    (pickled / WEIGHTS).unlink()
    torch.save(net.state_dict(), pickled / "embedding_model.ckpt")
    hyperparams = (pickled / "hyperparams.yaml").read_text()
    (pickled / "hyperparams.yaml").write_text(hyperparams.partition("    paths:")[0])

    noise = np.random.default_rng(0).normal(0, 0.1, (2, 32_000)).astype(np.float32)
    vectors = load(kept).embed_windows(noise)

    assert vectors.shape == (2, 8)
    assert np.array_equal(vectors, load(pickled).embed_windows(noise))


@pytest.mark.model
def test_written_directory_is_whole_and_readable_by_all(tmp_path, net, manifests):
    directory = write(tmp_path / "model", net.state_dict(), manifests)

    check_sums(directory)
    assert sorted(path.name for path in directory.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "embedding_model.safetensors",
        "hyperparams.yaml",
    ]
    assert (directory / WEIGHTS).stat().st_mode & 0o444 == 0o444
    card = (directory / "README.md").read_text()
    assert licence_of(card) == "Apache-2.0"
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        "# tiny",
        "## What it may not be used for",
        "## Data",
        "## Training",
        "## Credits",
    ]


@pytest.mark.model
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.conv.bias"), r"Missing key.*\"fc.conv.bias\""),
        (
            lambda state: state.update(more=state["fc.conv.bias"].clone()),
            r"Unexpected key.*\"more\"",
        ),
        (lambda state: state.update({"fc.conv.bias": state["fc.conv.bias"][:7].clone()}), "size mismatch"),
    ],
)
def test_other_weights_than_the_network_has_are_refused(tmp_path, net, manifests, change, message):
    from safetensors.torch import save_file

    directory = write(tmp_path / "model", net.state_dict(), manifests)
    state = dict(net.state_dict())
    change(state)
    save_file(state, directory / WEIGHTS)
    write_sums(directory)

    with pytest.raises(ModelError, match=message):
        load(directory)
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "other", state, manifests)
    assert not (tmp_path / "other").exists()


@pytest.mark.model
def test_missing_weights_are_an_error(tmp_path, net, manifests):
    directory = write(tmp_path / "model", net.state_dict(), manifests)
    (directory / WEIGHTS).unlink()

    with pytest.raises(ModelError, match=f"SpeechBrain cannot load it.*{WEIGHTS}"):
        load(directory)


@pytest.mark.model
def test_a_folder_that_holds_something_is_left_alone(tmp_path, net, manifests):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/letter.txt").write_text("dear")

    with pytest.raises(ValueError, match="is there already; name a new folder"):
        write(tmp_path / "model", net.state_dict(), manifests)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["letter.txt"]


@pytest.mark.model
def test_an_encoder_with_a_mask_is_loaded_and_run_fast_with_the_vectors_of_the_training(tmp_path, manifests):
    import torch
    from training.network import Encoder

    torch.manual_seed(0)
    encoder = Encoder(16, 8, 16, mask=8).eval()
    for parameter in encoder.mask.last.parameters():
        torch.nn.init.normal_(parameter)
    directory = write(
        tmp_path / "model", encoder.net.state_dict(), manifests, mask=8, mask_state=encoder.mask.state_dict()
    )

    loaded = load(directory)

    assert loaded.is_fast
    assert "`embedding_model.safetensors`, `voice_mask.safetensors`: load" in (directory / "README.md").read_text()
    assert largest_difference(directory, encoder) < 1e-4
    with torch.no_grad():
        encoder.mask.last.bias += 3
    assert largest_difference(directory, encoder) > 1e-3  # it counts


@pytest.mark.model
def test_a_mask_without_its_weights_is_refused(tmp_path, net, manifests):
    with pytest.raises(ValueError, match=r"the weights are not of 16 channels, 8 dimensions and a mask 8 wide"):
        write(tmp_path / "model", net.state_dict(), manifests, mask=8)
    assert not (tmp_path / "model").exists()


# --- from a checkpoint ---


@pytest.fixture
def command(tmp_path, net, manifests) -> list[str]:
    """What packs a run of `scripts/train_encoder.py`, whose checkpoint, log and config are there."""
    import torch
    from training.network import Encoder

    torch.manual_seed(1)
    state = {"step": 3, "averaged": Encoder(16, 8, 20).state_dict(), "persons": ["libri-1", "utau-kumi"]}
    torch.save(state, tmp_path / "checkpoint.pt")
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 2}) + "\n" + json.dumps({"step": 3, "aam": 9.5}) + "\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    places = {"--out": tmp_path / "model", "--audio": manifests}
    options = [text for name, path in places.items() for text in (name, str(path))]
    return [str(tmp_path / "checkpoint.pt"), str(tmp_path / "config.toml"), *options]


@pytest.mark.model
def test_command_packs_a_checkpoint_and_compares_the_vectors(tmp_path, command, capsys):
    assert main(command) == 0

    assert f"wrote {tmp_path / 'model'}; its vectors differ from the training's by at most" in capsys.readouterr().err
    card = (tmp_path / "model/README.md").read_text()
    assert "3 steps" in card
    assert "The log ends: step 3, aam 9.5." in card
    assert "2 persons: " in card
    assert load(tmp_path / "model").dim == 8


@pytest.mark.model
def test_command_refuses_a_config_of_another_network(tmp_path, command):
    with pytest.raises(RuntimeError, match="size mismatch"):
        main([*command, "--set", "channels=32"])
    assert not (tmp_path / "model").exists()
