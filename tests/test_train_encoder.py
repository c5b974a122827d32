"""The training of the encoder: pools, batches, network, losses, and a run that is cut and goes on."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import train_encoder
from training.pools import (
    NOISE_S,
    RATE_HZ,
    SYNTHETIC_NOISES,
    Pool,
    build_recorded,
    cut_silence,
    is_free,
    make_noise,
    write_pool,
)
from training.prepare import prepare

torch = pytest.importorskip("torch")

from training import network, teachers  # noqa: E402 - they import torch
from training.sounds import Recipe, Sounds  # noqa: E402

from embeddings.voice_mask import FLOOR_DB, VoiceMask  # noqa: E402

CPU = torch.device("cpu")


def tone(hz: float, seconds: float, seed: int = 0) -> np.ndarray:
    """int16: a buzz with some noise."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wave = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 8)) + 0.05 * np.random.default_rng(seed).normal(
        size=len(t)
    )
    return np.round(wave / np.abs(wave).max() * 0.9 * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pools of everything, with targets: 24 persons with four clips each, a third of them sung as well."""
    folder = tmp_path_factory.mktemp("pools")
    persons = [f"person{i:02}" for i in range(24)]
    voice = [(tone(90 + 9 * i, 2.0 + c / 3, seed=c), p, "test", "") for i, p in enumerate(persons) for c in range(4)]
    write_pool(folder / "voice", voice)
    write_pool(folder / "voice_sung", [(tone(200 + 9 * i, 3, i), p, "test", "") for i, p in enumerate(persons[:8])])
    write_pool(folder / "sung", [(tone(333, 3), "singer", "test", "")])
    write_pool(folder / "music", [(tone(hz, 5), "x", "test", "") for hz in (55, 70)])
    write_pool(folder / "noise", [(tone(1000, 1), "x", "test", "")])
    write_pool(folder / "rir", [(np.array([0, 20000, 3000, -900, 50] * 200, np.int16), "x", "test", "")])

    def embed(windows: np.ndarray) -> np.ndarray:
        return np.abs(np.fft.rfft(windows)[:, 100:900:50])

    for name in ("voice", "sung"):
        teachers.make_targets(folder / name, "fake", embed)
    return folder


RECIPE = Recipe(
    voices={"voice": 0.5, "voice_sung": 0.5, "sung": 1.0}, beds={"music": 1.0}, channel=0.3, second_voice=0.3
)


def open_sounds(folder: Path, recipe: Recipe = RECIPE, n_samples: int = 12_000, **more: frozenset[str]) -> Sounds:
    names = {*recipe.voices, *recipe.beds, "noise", "rir"}
    return Sounds({name: Pool(folder / name) for name in names}, recipe, n_samples, CPU, **more)


# --- pools ------------------------------------------------------------------------------------------------------------


def test_recordings_become_pools_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = tmp_path / "audio"
    (audio / "train").mkdir(parents=True)
    for name in ("voice", "sung", "music", "noise", "rir"):
        is_voice = name in ("voice", "sung")
        soundfile.write(audio / f"train/{name}.wav", np.tile(tone(150, 1.0), (2, 1)).T, 16_000, subtype="PCM_16")
        with (audio / f"train/{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "licence", *(["person_id", "corpus"] if is_voice else ["source"])])
            rows.writerow([f"train/{name}.wav", "CC BY 4.0", *(["ada", "test"] if is_voice else ["site"])])
            rows.writerow([f"train/{name}-missing.wav", "MIT", *(["bo", "test"] if is_voice else ["site"])])
            rows.writerow([f"train/{name}.wav", "ESC-50 CC BY-NC 3.0", *(["cy", "test"] if is_voice else ["site"])])
            if is_voice:  # who is in dev/ as well
                rows.writerow([f"train/{name}.wav", "MIT", "libri-3050", "librispeech"])

    build_recorded(audio, tmp_path / "pools")
    first = capsys.readouterr().err
    build_recorded(audio, tmp_path / "pools")

    pool = Pool(tmp_path / "pools" / "voice")
    assert [tuple(clip) for clip in pool.clips] == [(0, 16_000, "ada", "test", "train/voice.wav")]
    assert np.abs(pool.clip(0)).max() == round(0.9 * 32767)
    assert "voice: 1 clips, 1 labels" in first and "left out: " in first
    noises = Pool(tmp_path / "pools" / "noise")
    assert [clip.corpus for clip in noises.clips] == ["site", *["synthetic"] * SYNTHETIC_NOISES]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("CC BY-SA 4.0", True),
        ("free commercial+noncommercial (SpeechOcean, see README)", True),
        ("CC BY-SA/CC BY/CC0 per track (see repo ATTRIBUTIONS.md)", True),
        ("ESC-50 CC BY-NC 3.0 + Speech Commands CC BY 4.0", False),
        ("research/study only", False),
        ("no explicit licence", False),
    ],
)
def test_only_what_anybody_may_use_is_trained_on(licence: str, free: bool) -> None:
    assert is_free({"licence": licence}) is free


def test_a_noise_made_here_is_the_same_every_time_and_of_full_scale() -> None:
    first, again, other = (make_noise(np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (round(NOISE_S * RATE_HZ),) and np.abs(first).max() == round(0.9 * 32767)


def test_a_crop_of_a_short_clip_is_the_clip_repeated(folder: Path) -> None:
    pool = Pool(folder / "noise")

    crop = pool.crop(0, 40_000, np.random.default_rng(0))

    assert crop.shape == (40_000,) and crop.dtype == np.float32
    assert np.array_equal(crop[:16_000], crop[16_000:32_000])


def test_long_silence_is_cut_and_short_pauses_stay() -> None:
    voice, pause, silence = tone(120, 1), np.zeros(1_600, np.int16), np.zeros(48_000, np.int16)

    kept = cut_silence(np.concatenate([voice, pause, voice, silence, voice]))

    assert 3 * 16_000 + 1_600 <= len(kept) < 3 * 16_000 + 1_600 + 6_000


def test_a_pool_of_no_known_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="voice_song: no such pool; there are accompaniment, music"):
        prepare(tmp_path, tmp_path, ["voice", "voice_song"], None)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_step_has_the_same_batch_whenever_it_is_drawn(folder: Path) -> None:
    one, other = open_sounds(folder), open_sounds(folder)
    one.draw(1, 0, 16)

    first, again, next_one = one.draw(1, 5, 16), other.draw(1, 5, 16), one.draw(1, 6, 16)

    assert torch.equal(first.waves, again.waves) and first.source == again.source
    assert not torch.equal(first.waves, next_one.waves)


def test_crops_are_finite_and_within_full_scale(folder: Path) -> None:
    batch = open_sounds(folder).draw(1, 0, 64)

    assert batch.waves.shape == batch.clean.shape == (64, 12_000)
    peaks = batch.waves.abs().amax(1)
    assert bool((peaks > 0.15).all()) and bool((peaks <= 0.95 + 1e-4).all())
    assert bool(torch.isfinite(batch.waves).all())


def test_a_class_is_a_person_at_a_speed(folder: Path) -> None:
    batch = open_sounds(folder).draw(1, 0, 200)

    classes, persons = batch.classes.numpy(), batch.persons.numpy()
    assert np.array_equal(classes // 3, persons)
    assert [source is None for source in batch.source] == (classes % 3 > 0).tolist()
    assert set(classes % 3) == {0, 1, 2}


def test_a_faster_voice_is_higher(folder: Path) -> None:
    recipe = Recipe(voices={"sung": 1.0}, beds={"music": 1.0}, speeds=(1.0, 1.5), speed_share=1.0)

    batch = open_sounds(folder, recipe).draw(1, 0, 40)

    peaks = torch.fft.rfft(batch.clean)[:, :900].abs().argmax(1) * RATE_HZ / 12_000
    assert {round(float(hz) / 333, 1) for hz, s in zip(peaks, batch.source, strict=True) if s is None} == {1.5}
    assert {round(float(hz) / 333, 1) for hz, s in zip(peaks, batch.source, strict=True) if s is not None} == {1.0}


def test_music_lies_as_far_below_the_voice_as_asked(folder: Path) -> None:
    plain = {"room": 0.0, "equaliser": 0.0, "noise": 0.0, "two_layers": 0.0}
    recipe = Recipe({"voice": 1.0}, {"music": 1.0}, music=1.0, loud_music_db=(6, 6), soft_music_db=(6, 6), **plain)

    batch = open_sounds(folder, recipe).draw(1, 0, 32)

    # The voice's share of what is heard, by projection: gains differ, their ratio does not.
    gain = (batch.waves * batch.clean).sum(1, keepdim=True) / batch.clean.square().sum(1, keepdim=True)
    voice, music = batch.clean * gain, batch.waves - batch.clean * gain
    level_db = 10 * torch.log10(voice.square().sum(1) / music.square().sum(1))
    assert level_db.mean().item() == pytest.approx(6, abs=0.5)


def test_persons_left_out_are_never_drawn(folder: Path) -> None:
    out = frozenset({"person03", "person17"})

    drawn = open_sounds(folder, without=out)

    assert not out & set(drawn.persons) and len(drawn.persons) == 24 + 1 - 2


def test_a_room_and_a_channel_change_a_voice_and_keep_it_finite(folder: Path) -> None:
    quiet = {"equaliser": 0.0, "noise": 0.0, "music": 0.0, "speed_share": 0.0}
    for change in ({"room": 1.0}, {"room": 0.0, "channel": 1.0}):
        batch = open_sounds(folder, Recipe({"voice": 1.0}, {"music": 1.0}, **quiet, **change)).draw(1, 0, 32)
        likeness = torch.nn.functional.cosine_similarity(batch.waves, batch.clean)
        assert bool(torch.isfinite(batch.waves).all()) and float((likeness < 0.9999).float().mean()) > 0.5
    batch = open_sounds(folder, Recipe({"voice": 1.0}, {"music": 1.0}, **quiet, room=0.0)).draw(1, 0, 32)
    assert torch.nn.functional.cosine_similarity(batch.waves, batch.clean).min().item() == pytest.approx(1, abs=1e-4)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_targets_of_speech_are_of_its_windows_and_of_other_voices_their_persons(folder: Path) -> None:
    pools = {name: Pool(folder / name) for name in ("voice", "sung")}
    targets = teachers.Targets(folder, "fake", pools)
    with np.load(folder / "voice.fake.npz") as data:
        vectors, first = data["vectors"].astype(np.float32), data["first"]

    assert targets.dim == 16
    assert np.array_equal(targets.of("person01", ("voice", 5, 0)), vectors[first[5]])
    own = vectors[first[4] : first[8]].sum(axis=0)
    assert np.allclose(targets.of("person01", ("voice_sung", 1, 0)), own / np.linalg.norm(own))
    assert targets.of("person01", None) is None


# --- network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_forward_is_that_of_speechbrain(training: bool) -> None:
    torch.manual_seed(0)
    net = network.make_ecapa(32, 24)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    other = network.make_ecapa(32, 24)
    other.load_state_dict(net.state_dict())
    features = torch.randn(6, 77, network.N_MELS)

    ours, stock = network.forward(net.train(training), features), other.train(training)(features).squeeze(1)

    assert torch.nn.functional.cosine_similarity(ours, stock).min() > 1 - 1e-5
    followed = zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.allclose(a.float(), b.float(), atol=1e-4) for a, b in followed if a.dtype.is_floating_point)


def test_a_new_mask_lets_everything_through_and_a_trained_one_turns_down_at_most_20_db() -> None:
    mask, features = VoiceMask(width=8), torch.randn(3, 50, network.N_MELS) * 15

    assert mask(features).shape == features.shape
    assert mask(features).min() > -0.4 and mask(features).max() < 0
    mask.last.bias.data.fill_(50)
    assert torch.allclose(mask(features), torch.full_like(features, FLOOR_DB))


def test_a_mask_knows_no_loudness() -> None:
    torch.manual_seed(0)
    mask, features = VoiceMask(width=8), torch.randn(2, 50, network.N_MELS) * 15
    mask.last.weight.data.normal_()

    assert torch.allclose(mask(features - 20), mask(features), atol=1e-4)
    assert mask(features).std() > 0.1


def test_masked_features_count_for_nothing_at_first() -> None:
    torch.manual_seed(0)
    plain, masked = network.Encoder(16, 8, 16).eval(), network.Encoder(16, 8, 16, mask=8).eval()
    masked.take_net(plain.net.state_dict())
    waves = torch.randn(2, 16_000) * 0.1

    with torch.no_grad():
        assert torch.allclose(masked(waves), plain(waves), atol=1e-5)


def test_a_margin_makes_the_loss_greater_and_sub_centres_let_the_nearest_count() -> None:
    torch.manual_seed(0)
    head = network.AngularMargin(8, 4, n_centres=2)
    vectors, classes = torch.randn(16, 8), torch.arange(16) % 4
    with torch.no_grad():
        head.centres[1, 2] = vectors[2]

    without, _ = head(vectors, classes, 0.0)
    with_margin, accuracy = head(vectors[2:3], classes[2:3], 0.2)

    assert head(vectors, classes, 0.3)[0] > without
    assert accuracy == 1 and with_margin < without


def test_contrast_is_least_where_views_of_one_voice_agree() -> None:
    torch.manual_seed(0)
    voices, persons = torch.randn(12, 16), torch.arange(12)

    agree = network.contrast(voices, voices + 0.1 * torch.randn(12, 16), persons)

    assert agree < network.contrast(voices, voices.roll(1, 0), persons)


# --- a run ------------------------------------------------------------------------------------------------------------

CONFIG = """
channels = 16
dim = 24
crop_s = 0.75
batch = 12
steps = 12
warmup_steps = 2
margin_steps = 5
teacher = "fake"
consistency_weight = 1.0
contrast_weight = 0.5
evaluate_every = 6

[recipe]
voices = { voice = 0.5, voice_sung = 0.5, sung = 1.0 }
beds = { music = 1.0 }
channel = 0.2
"""


@pytest.fixture
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_encoder, "HELD_OUT", 4)
    monkeypatch.setattr(train_encoder, "LOG_EVERY", 3)


def run(folder: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    config = out.parent / "config.toml"
    config.write_text(CONFIG)
    arguments = [str(config), "--out", str(out), "--pools", str(folder), "--prepared", "--threads", "1", "--no-compile"]
    assert train_encoder.main([*arguments, *more]) == 0
    state: dict[str, torch.Tensor] = torch.load(out / "checkpoint.pt", weights_only=True)
    return state


@pytest.mark.usefixtures("few_held_out")
def test_a_training_that_is_cut_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(folder, tmp_path / "whole")

    advance = train_encoder.Training.advance

    def cut_at_7(training: train_encoder.Training) -> dict[str, float]:
        if training.step == 7:
            raise KeyboardInterrupt
        return advance(training)

    with monkeypatch.context() as patched:
        patched.setattr(train_encoder.Training, "advance", cut_at_7)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "cut", "--save-every", "0")
    assert torch.load(tmp_path / "cut/checkpoint.pt", weights_only=True)["step"] == 7
    cut = run(folder, tmp_path / "cut")

    assert cut["step"] == whole["step"] == 12
    for name, value in whole["averaged"].items():
        assert torch.allclose(value.float(), cut["averaged"][name].float(), atol=1e-3), name
    lines = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    assert {"aam", "accuracy", "teacher", "consistency", "contrast", "crops_per_s"} <= set(lines[0])
    assert ["held_out_eer_pct" in line for line in lines] == [False, True, False, True]


@pytest.mark.usefixtures("few_held_out")
def test_a_training_may_begin_from_another(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "first")
    config = train_encoder.read_config(tmp_path / "config.toml", ["mask=8", "n_centres=2"])
    training = train_encoder.Training(config, folder, CPU, torch.bfloat16)

    training.begin_from(tmp_path / "first/checkpoint.pt")

    first = torch.load(tmp_path / "first/checkpoint.pt", weights_only=True)
    assert torch.equal(training.encoder.net.state_dict()["fc.conv.weight"], first["averaged"]["net.fc.conv.weight"])
    assert torch.equal(training.to_teacher.weight, first["parts"]["2.weight"])
    centres, begun = first["parts"]["1.centres"][0], training.head.centres
    likeness = torch.nn.functional.cosine_similarity(begun, centres[None], dim=2)
    assert likeness.min() > 0.7 and not torch.equal(begun[0], begun[1])


@pytest.mark.usefixtures("few_held_out")
def test_a_mask_learns_alone_and_is_taken_to_another_training(folder: Path, tmp_path: Path) -> None:
    changes = ("mask=8", "mask_steps=10", "steps=0", "mask_lr=0.01")
    trained = run(folder, tmp_path / "mask", *(word for change in changes for word in ("--set", change)))["averaged"]
    run(folder, tmp_path / "first")

    def begin(*changes: str) -> train_encoder.Training:
        taken = [f'{key}="{tmp_path}/{run}/checkpoint.pt"' for key, run in (("start", "first"), ("mask_start", "mask"))]
        config = train_encoder.read_config(tmp_path / "config.toml", [*changes, *taken])
        training = train_encoder.Training(config, folder, CPU, torch.float32)
        training.begin_from(tmp_path / "first/checkpoint.pt")
        return training

    assert trained["mask.last.weight"].abs().max() > 0
    mask = begin("mask=8").averaged.mask
    assert mask is not None
    for name, value in mask.state_dict().items():
        assert torch.equal(value, trained[f"mask.{name}"])
    line = json.loads((tmp_path / "mask/log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 10 and {"mask_db", "held_out_music_eer_pct"} <= set(line) and "aam" not in line
    with pytest.raises(ValueError, match="a mask is taken beside an encoder; name one as start"):
        train_encoder.read_config(tmp_path / "config.toml", ['mask_start="x"'])
    for other in ("mask=16", "mask=0"):
        with pytest.raises(ValueError, match=r"checkpoint\.pt: not of this encoder"):
            begin(other)


@pytest.mark.usefixtures("few_held_out")
def test_other_classes_than_the_checkpoint_has_are_imprinted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_encoder, "IMPRINT_BATCHES", 12)
    run(folder, tmp_path / "first")
    config = train_encoder.read_config(tmp_path / "config.toml", ["recipe.speeds=[1.0, 0.8]"])
    training = train_encoder.Training(config, folder, CPU, torch.float32)
    batch = training.sounds.draw(config.seed, 0, 64)

    training.begin_from(tmp_path / "first/checkpoint.pt")

    with torch.no_grad():
        vectors = torch.nn.functional.normalize(training.averaged(batch.waves))
    own = torch.nn.functional.normalize(training.head.centres[0][batch.classes])
    assert (vectors * own).sum(1).mean() > 0.5
    first = torch.load(tmp_path / "first/checkpoint.pt", weights_only=True)
    assert torch.equal(training.to_teacher.weight, first["parts"]["2.weight"])


@pytest.mark.usefixtures("few_held_out")
def test_begun_from_a_model_directory_classes_lie_where_the_encoder_hears_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_encoder, "IMPRINT_BATCHES", 12)
    run(folder, tmp_path / "first")
    config = train_encoder.read_config(tmp_path / "config.toml")
    training = train_encoder.Training(config, folder, CPU, torch.float32)
    net = {k.removeprefix("net."): v for k, v in training.encoder.state_dict().items() if k.startswith("net.")}
    changed = {**net, "fc.conv.weight": net["fc.conv.weight"] * 2}
    (tmp_path / "model").mkdir()
    torch.save(changed, tmp_path / "model/embedding_model.ckpt")
    batch = training.sounds.draw(config.seed, 0, 64)

    @torch.no_grad()
    def state() -> tuple[float, float]:
        vectors = training.averaged(batch.waves)
        return float(training.head(vectors, batch.classes, 0.0)[0]), float(training._teacher_loss(vectors, batch))

    aam, teacher = state()
    training.begin_from(tmp_path / "model")
    aam_begun, teacher_begun = state()

    for begun in (training.encoder, training.averaged):
        assert torch.equal(begun.net.state_dict()["fc.conv.weight"], changed["fc.conv.weight"])
    assert aam_begun < 0.9 * aam
    assert teacher_begun < 0.9 * teacher


@pytest.mark.usefixtures("few_held_out")
def test_training_lowers_the_loss(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "run", "--set", "steps=60", "--set", "evaluate_every=60", "--set", "lr=5e-3")

    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[-1]["teacher"] < 0.7 * lines[0]["teacher"]


def test_a_config_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)

    with pytest.raises(ValueError, match=r"config\.toml: .*chanels"):
        train_encoder.read_config(path, ["chanels=3"])
    assert train_encoder.read_config(path, ["recipe.music=0.25"]).recipe.music == 0.25


def test_the_bundled_config_is_read() -> None:
    config = train_encoder.read_config(Path(train_encoder.__file__).parent / "configs" / "house.toml")

    assert config.channels == 256 and set(config.recipe.voices) >= {"voice", "sung"}


def test_persons_are_held_out_by_who_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_encoder, "HELD_OUT", 4)

    held_out = train_encoder.held_out_persons(Pool(folder / "voice"))

    assert len(held_out) == 4 and held_out == train_encoder.held_out_persons(Pool(folder / "voice"))


@pytest.mark.parametrize("has_tiles", [True, False])
def test_bfloat16_is_for_machines_that_multiply_it_in_tiles(has_tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles)

    assert train_encoder.choose_dtype("auto", CPU) == (torch.bfloat16 if has_tiles else torch.float32)
    assert train_encoder.choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert train_encoder.choose_dtype("float32", CPU) == torch.float32
    assert train_encoder.choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
