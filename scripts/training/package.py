"""Make a model directory of a training: what `SpeechBrainEncoder` loads, with a card that says what it was made of.

    python scripts/training/package.py RUN/checkpoint.pt CONFIG --out MODEL_DIR [--set KEY=VALUE ...]

Writes hyperparams.yaml, the averaged weights as safetensors, the card README.md and SHA256SUMS; then loads the
directory as the product does and compares its vectors with the training's own. `scripts/fit_builtin.py MODEL_DIR` comes
next: it adds cohort, threshold, llr, golden vectors and their part of the card.

The data part of the card is read from the manifests below LIKENESS_AUDIO/train.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, its own folder is there and not scripts/

from trial_audio import DEFAULT_AUDIO

from embeddings.model_dir import CARD, model_digest, write_sums
from training.overlap import LEFT_OUT, is_left_out
from training.pools import is_free

WEIGHTS, MASK_WEIGHTS = "embedding_model.safetensors", "voice_mask.safetensors"
#: Files of weights, by what SpeechBrain's directories and ours call them; of the published ones not the classifier.
WEIGHTS_PATTERNS = ("embedding_model.*", "*.safetensors")

HYPERPARAMS = """\
# Compact ECAPA-TDNN (Desplanques et al. 2020), {millions:.1f} M parameters, 16 kHz, frame step {hop_ms} ms.
sample_rate: 16000
pretrained_path: .  # whoever loads this names its folder here; SpeechBrainEncoder does
{features}
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: {n_bands}
    channels: [{channels}, {channels}, {channels}, {channels}, {wide}]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 128
    lin_neurons: {dim}
classifier: !new:torch.nn.Identity
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
{loadables}
    paths:
{paths}
    custom_hooks:
{hooks}
"""

FBANK = """\
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
    hop_length: {hop_ms}"""

MASKED_FBANK = """\
voice_mask: !new:embeddings.voice_mask.VoiceMask
    n_mels: 80
    width: {mask}
compute_features: !new:embeddings.voice_mask.MaskedFbank
    mask: !ref <voice_mask>
    n_mels: 80
    hop_length: {hop_ms}"""

OPENING = """\
# {name}

A compact ECAPA-TDNN speaker encoder (SpeechBrain's module, {millions:.1f} M parameters, {channels} channels, {dim} \
dimensions, 80 mel bands, frame step {hop_ms} ms, 16 kHz) for voices that speak and sing, alone and over music. \
Apache-2.0.

- `hyperparams.yaml`, `{weights}`: load with `SpeechBrainEncoder(DIR)` of this project, or with \
`EncoderClassifier.from_hparams(source=DIR, overrides={{"pretrained_path": DIR}})` where this project is installed \
too.
- Windows of 4 s every 2 s; the mean of unit window vectors, normalised, is the vector of a recording. Wants at least \
2.5 s of voice.

## What it may not be used for
Vectors of voices are biometric data. Not for telling who somebody is, or watching them, without their consent or a \
legal ground; not as proof of identity or for logging in; not for judging origin, health, mood or age; not for making \
imitations better. A likeness is a lead for a person to look into, and never by itself a reason to take a recording \
down. Singers of traditions, languages, voices and recordings unlike the data below are less well told apart; how much \
less is not measured.
"""

CHILDREN = (
    "There are children in the training data: half of the speakers of speechocean762 are; those of Speech Commands are "
    "anonymous. It was not made for children's voices and is not measured on them."
)

CREDITS = """\
## Credits
Speech Commands (Warden 2018, arXiv:1804.03209); LibriSpeech (Panayotov et al. 2015) and Multilingual LibriSpeech \
(Pratap et al. 2020), read by volunteers of LibriVox; speechocean762 (Zhang et al. 2021); WUW-Corpus II; Arabic Speech \
Commands (Ghandoura et al. 2021); Free Spoken Digit Dataset (Jackson et al.); voicebanks hitsuboku kumi (Cubialpha), \
Scottpoid, Dorodoro, Erithacus, Torone Rei, Yuki Adios, Minato86; vocadito (Bittner et al. 2021); music of Tuxemon and \
Cytopia by the artists in their lists. Architecture: ECAPA-TDNN (Desplanques et al. 2020), SpeechBrain (Ravanelli et \
al. 2021). Singing and copies are made with WORLD (Morise et al. 2016), accompaniment with FluidSynth and FluidR3_GM \
(MIT).
"""


def write_model_dir(
    directory: Path,
    net_state: Mapping[str, Any],
    *,
    channels: int,
    dim: int,
    hop_ms: int,
    mask: int = 0,
    mask_state: Mapping[str, Any] | None = None,
    name: str,
    training: str,
    audio_root: Path = DEFAULT_AUDIO,
    persons: Collection[str] | None = None,
    began_from: str = "",
) -> None:
    """Write a model directory that lacks only what `scripts/fit_builtin.py` adds.

    Parameters
    ----------
    directory : Path
        Made; must not be there with anything in it.
    net_state : mapping of str to Tensor
        State of the stock ECAPA-TDNN, `training.network.make_ecapa`.
    channels, dim, hop_ms, mask
        Of `training.network.Encoder`.
    mask_state : mapping of str to Tensor, optional
        State of the `VoiceMask`, where there is one.
    name : str
        The card's title.
    training : str
        The card's section on the training, Markdown.
    audio_root : Path
        Folder of recordings; only the manifests of ``train/`` are read.
    persons : collection of str, optional
        Those of the manifests who were trained on; by default all but `overlap.LEFT_OUT`.
    began_from : str
        For the card: what the weights that the training began from were, and had heard besides.

    Raises
    ------
    ValueError
        The directory holds something, or the weights are not those of the networks that are said.
    """
    from safetensors.torch import save

    from training.network import Encoder

    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory}: is there already; name a new folder")
    encoder = Encoder(channels, dim, hop_ms, mask=mask)
    modules = {WEIGHTS: (encoder.net, net_state)}
    if encoder.mask is not None:
        modules[MASK_WEIGHTS] = (encoder.mask, mask_state or {})
    for file, (module, state) in modules.items():
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            sizes = f"{channels} channels, {dim} dimensions" + (f" and a mask {mask} wide" if mask else "")
            raise ValueError(f"{file}: the weights are not of {sizes}: {error}") from error
    directory.mkdir(parents=True, exist_ok=True)
    millions = sum(p.numel() for module, _ in modules.values() for p in module.parameters()) / 1e6
    sizes = {"channels": channels, "wide": 3 * channels, "dim": dim, "hop_ms": hop_ms, "millions": millions}
    (directory / "hyperparams.yaml").write_text(hyperparams(list(modules), mask=mask, **sizes), encoding="utf-8")
    for file, (module, _) in modules.items():
        # Not by save_file, which makes a file that only its owner may read.
        (directory / file).write_bytes(save({key: tensor.contiguous() for key, tensor in module.state_dict().items()}))
    opening = OPENING.format(name=name, weights="`, `".join(modules), **sizes)
    parts = [opening, data_section(audio_root, persons, began_from), training, CREDITS]
    (directory / CARD).write_text("\n".join(part.rstrip("\n") + "\n" for part in parts), encoding="utf-8")
    write_sums(directory)


def hyperparams(files: Sequence[str], *, mask: int, hop_ms: int, **sizes: Any) -> str:
    """Text of hyperparams.yaml; `files` of weights are named as the modules that they are of."""

    def lines(value: str) -> str:
        names = [(file.partition(".")[0], file) for file in files]
        return "\n".join(f"        {name}: {value.format(name=name, file=file)}" for name, file in names)

    return HYPERPARAMS.format(
        features=(MASKED_FBANK if mask else FBANK).format(mask=mask, hop_ms=hop_ms),
        n_bands=160 if mask else 80,
        loadables=lines("!ref <{name}>"),
        paths=lines("!ref <pretrained_path>/{file}"),
        hooks=lines("!name:embeddings.weights.load_safetensors"),
        hop_ms=hop_ms,
        **sizes,
    )


def find_weights(directory: Path) -> Path:
    """The file of weights of a model directory."""
    for pattern in WEIGHTS_PATTERNS:
        if found := sorted(directory.glob(pattern)):
            return found[0]
    raise FileNotFoundError(f"{directory}: no file of weights in it; {' or '.join(WEIGHTS_PATTERNS)} is needed")


def mask_weights(directory: Path) -> list[Path]:
    """The file of weights of a model directory's mask, if it has one."""
    path = directory / MASK_WEIGHTS
    return [path] if path.is_file() else []


def load_net(directory: Path) -> dict[str, Any]:
    """Weights of a model directory's ECAPA-TDNN, by the names of the stock module."""
    path = find_weights(directory)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


# --- the card ---------------------------------------------------------------------------------------------------------


def data_section(audio_root: Path, persons: Collection[str] | None = None, began_from: str = "") -> str:
    """What was heard, from the manifests of ``train/``: corpora, persons, hours, terms, where they come from.

    Parameters
    ----------
    audio_root : Path
    persons : collection of str, optional
        Who was trained on; by default all but `overlap.LEFT_OUT`.
    began_from : str
        As in `write_model_dir`.
    """
    voices = {
        name: [
            row
            for row in _rows(audio_root, name)
            if (not is_left_out(row) if persons is None else row["person_id"] in persons)
        ]
        for name in ("voice", "sung")
    }
    everybody = {row["person_id"] for rows in voices.values() for row in rows}
    met = len(everybody & LEFT_OUT["person_id"])
    hours = {name: sum(float(row["duration_s"]) for row in rows) / 3600 for name, rows in voices.items()}
    lines = [
        "## Data",
        f"{len(everybody):,} persons: {hours['voice']:.1f} h of speech and {60 * hours['sung']:.0f} min of singing. "
        + (f"{met} of them are also in `dev/`: figures of these are optimistic. Nobody else" if met else "No person")
        + " is of `dev/`, on whom it is measured, or of `cohort/`, against whom scores are normalised "
        "(`scripts/training/overlap.py`).",
        *(["", began_from] if began_from else []),
        "",
        CHILDREN,
        "",
        "| speech | persons | minutes | terms | from |",
        "| --- | --- | --- | --- | --- |",
        # Told with where they were read, in brackets.
        *_table_lines([{**row, "licence": row["licence"].split(" (")[0]} for row in voices["voice"]], "corpus"),
        "",
        "| really sung | persons | minutes | terms | from |",
        "| --- | --- | --- | --- | --- |",
        *_table_lines(voices["sung"], "person_id"),
        "",
        "Heard under the voices, and rooms that they were put into:",
        "",
        "| sound | pieces | minutes | terms | from |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in ("music", "noise", "rir"):
        pieces = [
            {**row, "sound": name, "person_id": row["path"]}
            for row in _rows(audio_root, name)
            if met or (is_free(row) and not is_left_out(row))
        ]
        lines += _table_lines(pieces, "sound")
    return "\n".join(lines) + "\n"


def _rows(audio_root: Path, name: str) -> list[dict[str, str]]:
    with (audio_root / f"train/{name}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _table_lines(rows: Sequence[Mapping[str, str]], key: str) -> list[str]:
    """A line for each value of column `key` and each licence: how many persons, minutes, licence, sources."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row[key], row["licence"].replace("|", "/")].append(row)
    lines = []
    for (name, licence), some in sorted(groups.items()):
        n_persons = len({row["person_id"] for row in some})
        minutes = sum(float(row["duration_s"]) for row in some) / 60
        sources = ", ".join(sorted({source for row in some for source in row["source"].split(";")}))
        lines.append(f"| {name} | {n_persons} | {minutes:.1f} | {licence} | {sources} |")
    return lines


def training_section(config_text: str, changes: Sequence[str], step: int, log_line: Mapping[str, Any]) -> str:
    """How it was trained: the config as it was given, and where the log ended."""
    figures = ", ".join(f"{name} {value}" for name, value in log_line.items())
    return "\n".join(
        [
            "## Training",
            f"`scripts/train_encoder.py`, {step:,} steps, the weights averaged over the last of them"
            + (f". The log ends: {figures}." if figures else "."),
            "",
            "```toml",
            config_text.strip(),
            *(f"# --set {change}" for change in changes),
            "```",
            "",
        ]
    )


# --- from a checkpoint ------------------------------------------------------------------------------------------------


def largest_difference(directory: Path, encoder: Any) -> float:
    """Load the directory as the product does; largest |difference| of its unit vectors from the training's own."""
    import torch

    from embeddings.encoder import SpeechBrainEncoder

    noise = np.random.default_rng(0).normal(0, 0.1, (4, 64_000)).astype(np.float32)
    loaded = SpeechBrainEncoder(directory, trusted={model_digest(directory)}).embed_windows(noise)
    with torch.inference_mode():
        trained = torch.nn.functional.normalize(encoder.eval()(torch.from_numpy(noise))).numpy()
    return float(np.abs(loaded - trained).max())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model directory to make")
    parser.add_argument("--name", help="the card's title (the name of DIR)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as the training was given them"
    )
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument(
        "--began-from",
        type=Path,
        metavar="FILE",
        help="text for the card: what the weights that it began from were, and had heard besides",
    )
    options = parser.parse_args(arguments)

    import torch
    from train_encoder import read_config  # brings torchaudio in first, which speechbrain wants

    config = read_config(options.config, options.set)
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    encoder = config.encoder()
    encoder.load_state_dict(state["averaged"])
    log = options.checkpoint.with_name("log.jsonl")
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    write_model_dir(
        options.out,
        encoder.net.state_dict(),
        channels=config.channels,
        dim=config.dim,
        hop_ms=config.hop_ms,
        mask=config.mask,
        mask_state=encoder.mask.state_dict() if encoder.mask is not None else None,
        name=options.name or options.out.name,
        training=training_section(
            options.config.read_text(encoding="utf-8"),
            options.set,
            state["step"],
            json.loads(lines[-1]) if lines else {},
        ),
        audio_root=options.audio,
        persons=set(state["persons"]),
        began_from=options.began_from.read_text(encoding="utf-8").strip() if options.began_from else "",
    )
    difference = largest_difference(options.out, encoder)
    print(f"wrote {options.out}; its vectors differ from the training's by at most {difference:.1e}", file=sys.stderr)
    if difference > 1e-4:
        print(f"{options.out}: more than 1e-4 is more than rounding; is the config the training's?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
