"""Train a speaker encoder for voices that sing, and write it as a model directory.

    python scripts/train_encoder.py scripts/configs/house.toml --out RUN            # again: it goes on
    python scripts/train_encoder.py CONFIG --out RUN --set channels=128 --set steps=1500

From the recordings below LIKENESS_AUDIO/train alone; what is heard of them is made first, once, in --pools
(`training.prepare`). It may be cut at any moment: RUN/checkpoint.pt is written every --save-every minutes, and a step's
batch depends on seed and step alone. RUN/log.jsonl has a line every 50 steps, and now and then the EER of persons held
out from `train/`, clean and over music.

A GPU where there is one. In bfloat16 there and on CPUs that multiply it in tiles (AMX); other CPUs are faster in
float32, also those that have instructions for bfloat16 (Xeon of 2023 without AMX: 53 crops a second and core against
34). The network goes through torch.compile, which wants a C++ compiler and two minutes at the beginning: most of the
time is not in matrix products, and what lies between them is then done in one pass (with AMX 124 crops a second and
core against 58). --no-compile goes without.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from training.network import AngularMargin, Encoder, contrast
from training.package import load_net
from training.pools import RATE_HZ, Pool
from training.prepare import prepare
from training.sounds import Batch, Recipe, Sounds
from training.teachers import Targets
from trial_audio import DEFAULT_AUDIO

from embeddings.voice_mask import FLOOR_DB, beside

DEFAULT_POOLS = Path.home() / ".cache" / "likeness-train" / "pools"

#: Persons of `train/` kept out of training to watch it: how many, clips of each, and the voice over music in dB.
HELD_OUT, HELD_OUT_CLIPS, HELD_OUT_DB = 60, 4, 3.0
LOG_EVERY = 50
#: Batches that classes are imprinted from: about two crops of each of 6,000 classes.
IMPRINT_BATCHES = 150


@dataclass(frozen=True)
class Config:
    """A training, whole: the same config, pools and seed give the same encoder to within rounding.

    Attributes
    ----------
    channels, dim, hop_ms, mask
        Of `training.network.Encoder`.
    mask_weight : float
        Of the mean |difference| in dB between the mask and the share of the voice in what is heard.
    mask_steps : int
        Steps before the others, in which the mask alone learns.
    mask_lr : float
        Learning rate of those steps.
    crop_s : float
        Seconds of a crop.
    batch, steps : int
        Crops of a step; steps of the whole training, over which the learning rate falls as a cosine.
    lr, warmup_steps, weight_decay
        Of AdamW.
    margin, margin_steps, n_centres
        Of `AngularMargin`; the margin grows to its full size over `margin_steps`.
    teacher, teacher_weight
        Name of the targets, and weight of 1 - cosine to them; 0 goes without.
    consistency_weight : float
        Of 1 - cosine between the vector of what is heard and the averaged encoder's vector of the clean voice.
    contrast_weight : float
        Of `contrast` between the vectors of what is heard and of the clean voice, of a quarter of the batch.
    average : float
        Greatest decay of the averaged weights (every 5 steps), which are what is kept in the end.
    start : str
        What to begin from, a checkpoint or a model directory; "" for nothing. Classes that are not those of the
        checkpoint begin where the encoder hears them (`Training.imprint`).
    mask_start : str
        A checkpoint whose mask is taken, beside a `start`; "" for none.
    evaluate_every : int
        Steps between figures of the held-out persons.
    recipe : Recipe
    """

    channels: int = 256
    dim: int = 192
    hop_ms: int = 16
    mask: int = 0
    mask_weight: float = 1.0
    mask_steps: int = 0
    mask_lr: float = 2e-3
    crop_s: float = 2.56
    batch: int = 96
    steps: int = 4000
    lr: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 2e-3
    margin: float = 0.2
    margin_steps: int = 1000
    n_centres: int = 1
    teacher: str = "resemblyzer"
    teacher_weight: float = 30.0
    consistency_weight: float = 0.0
    contrast_weight: float = 0.0
    average: float = 0.995
    start: str = ""
    mask_start: str = ""
    evaluate_every: int = 500
    seed: int = 1
    recipe: Recipe = field(default_factory=lambda: Recipe({}, {}))

    def __post_init__(self) -> None:
        if self.mask_start and not self.start:
            raise ValueError(f"mask_start {self.mask_start}: a mask is taken beside an encoder; name one as start")

    def encoder(self) -> Encoder:
        """A new one."""
        return Encoder(self.channels, self.dim, self.hop_ms, mask=self.mask)

    @property
    def all_steps(self) -> int:
        """Steps of the mask alone, and of everything."""
        return self.mask_steps + self.steps

    @property
    def pools(self) -> set[str]:
        """Names of the pools that are needed."""
        return {*self.recipe.voices, *self.recipe.beds, "voice", "sung", "noise", "rir"}


def read_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """Read a config (TOML), with changes such as ``channels=128`` or ``recipe.music=0.5``; `ValueError` names a key."""
    values = tomllib.loads(path.read_text("utf-8"))
    for change in changes:
        key, _, value = change.partition("=")
        place = values
        *above, last = key.split(".")
        for name in above:
            place = place.setdefault(name, {})
        place[last] = tomllib.loads(f"x = {value}")["x"]
    try:
        return Config(**{**values, "recipe": Recipe(**values["recipe"])})
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def held_out_persons(pool: Pool) -> frozenset[str]:
    """Persons who watch the training: the first by a hash of those with enough clips."""
    import hashlib

    counts: dict[str, int] = {}
    for clip in pool.clips:
        counts[clip.label] = counts.get(clip.label, 0) + (clip.n_samples >= 2 * RATE_HZ)
    able = [person for person, n in counts.items() if n >= HELD_OUT_CLIPS]
    return frozenset(sorted(able, key=lambda person: hashlib.sha256(person.encode()).digest())[:HELD_OUT])


class Watch:
    """Held-out persons, embedded now and then: is the encoder learning voices, or its own training voices?"""

    def __init__(
        self, pools: dict[str, Pool], persons: frozenset[str], beds: Sequence[str], device: torch.device
    ) -> None:
        rng = np.random.default_rng(0)
        waves, music, self._persons = [], [], []
        seen: dict[str, int] = {}
        for number, clip in enumerate(pools["voice"].clips):
            if clip.label in persons and clip.n_samples >= 2 * RATE_HZ and seen.get(clip.label, 0) < HELD_OUT_CLIPS:
                seen[clip.label] = seen.get(clip.label, 0) + 1
                wave = pools["voice"].crop(number, 3 * RATE_HZ, rng)
                bed = pools[beds[len(waves) % len(beds)]]
                under = bed.crop(int(rng.integers(len(bed.clips))), len(wave), rng)
                level = math.sqrt(float((wave**2).mean()) / (float((under**2).mean()) + 1e-9)) * 10 ** (
                    -HELD_OUT_DB / 20
                )
                waves.append(wave)
                music.append(wave + under * level)
                self._persons.append(clip.label)
        self._waves = torch.from_numpy(np.stack(waves + music).astype(np.float32)).to(device)

    def figures(self, encoder: Encoder, dtype: torch.dtype) -> dict[str, float]:
        """EER in percent of all pairs of clips, clean, and with music under one of the two; `encoder` in eval mode."""
        from registry import metrics

        with torch.inference_mode():
            vectors = torch.cat([F.normalize(encoder(some, dtype)) for some in self._waves.split(32)]).cpu().numpy()
        clean, accompanied = np.split(vectors, 2)
        n = len(clean)
        same = np.array(self._persons)[:, None] == np.array(self._persons)[None, :]
        pairs = ~np.eye(n, dtype=bool)
        return {
            name: round(100 * metrics.eer(metrics.roc((clean @ other.T)[pairs], same[pairs])), 2)
            for name, other in (("held_out_eer_pct", clean), ("held_out_music_eer_pct", accompanied))
        }


class Training:
    """A training under way: everything that a checkpoint holds."""

    def __init__(self, config: Config, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        recipe = config.recipe
        pools = {name: Pool(folder / name) for name in config.pools}
        held_out = held_out_persons(pools["voice"])
        self.sounds = Sounds(pools, recipe, round(config.crop_s * RATE_HZ), device, without=held_out)
        self.watch = Watch(pools, held_out, list(recipe.beds), device)
        self.targets = Targets(folder, config.teacher, pools) if config.teacher_weight else None
        torch.manual_seed(config.seed)
        self.encoder = config.encoder().to(device).train()
        self.head = AngularMargin(config.dim, self.sounds.n_classes, n_centres=config.n_centres).to(device)
        self.to_teacher = torch.nn.Linear(config.dim, self.targets.dim if self.targets else 1).to(device)
        self.averaged = copy.deepcopy(self.encoder).eval()
        self.parts = torch.nn.ModuleList([self.encoder, self.head, self.to_teacher])
        self.optimiser = torch.optim.AdamW(self.parts.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.step = 0

    def begin_from(self, path: Path) -> None:
        """Take the encoder of a model directory or of another training, and what else of the latter still fits."""
        if self.config.mask_start:
            self._take("mask", Path(self.config.mask_start))
        if path.is_dir():
            self.encoder.take_net(load_net(path))
            self.averaged.load_state_dict(self.encoder.state_dict())
            self.imprint()
            return
        state = self._take("net", path)
        self.averaged.load_state_dict(self.encoder.state_dict())
        if state["persons"] == self.sounds.persons and state["speeds"] == list(self.config.recipe.speeds):
            self.head.begin_at(state["parts"]["1.centres"][0])
        else:
            self.imprint()
        if state["parts"]["2.weight"].shape == self.to_teacher.weight.shape:
            self.to_teacher.load_state_dict({k: state["parts"][f"2.{k}"] for k in ("weight", "bias")})

    def _take(self, part: str, path: Path) -> dict[str, Any]:
        """Take the averaged net or mask of a checkpoint; returns the checkpoint."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        found = {k.removeprefix(f"{part}."): v for k, v in state["averaged"].items() if k.startswith(f"{part}.")}
        try:
            if part == "net":
                self.encoder.take_net(found)
            else:
                self.encoder.get_submodule("mask").load_state_dict(found)
        except (AttributeError, KeyError, RuntimeError) as error:
            raise ValueError(f"{path}: not of this encoder: {error}") from error
        return state

    @torch.no_grad()
    def imprint(self) -> None:
        """Set the classes to the mean of what the encoder gives for them, and the teacher's layer by least squares.

        Beside random ones the first hundred steps would unlearn what the encoder can (imprinting: Qi, Brown & Lowe
        2018). A class that is not heard in so many batches has its person's mean.
        """
        config, sounds = self.config, self.sounds
        sums = torch.zeros(sounds.n_classes, config.dim, device=self.device)
        heard: list[Tensor] = []
        wanted: list[Tensor] = []
        for step in range(config.all_steps, config.all_steps + IMPRINT_BATCHES):  # sounds that no step will draw
            batch = sounds.draw(config.seed, step, config.batch)
            vectors = self.averaged(batch.waves, self.dtype)
            sums.index_add_(0, batch.classes, F.normalize(vectors))
            rows, targets = self._targets_of(batch)
            heard.append(vectors[rows])
            wanted.append(targets)
        of_persons = sums.view(len(sounds.persons), -1, config.dim)
        filled = torch.where(of_persons.any(2, keepdim=True), of_persons, of_persons.sum(1, keepdim=True))
        means = F.normalize(filled.reshape_as(sums))
        random = self.head.centres[0]
        self.head.begin_at(torch.where(means.any(1, keepdim=True), means * random.norm(dim=1).mean(), random))
        if self.targets is not None:
            inputs = torch.cat(heard).double()
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
            solved = torch.linalg.lstsq(inputs, torch.cat(wanted).double()).solution.T.float()
            self.to_teacher.weight.copy_(solved[:, :-1])
            self.to_teacher.bias.copy_(solved[:, -1])

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "step": self.step,
            "parts": self.parts.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "persons": self.sounds.persons,
            "speeds": list(self.config.recipe.speeds),
        }
        partial = path.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of this very config."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.parts.load_state_dict(state["parts"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def advance(self) -> dict[str, float]:
        """One step; returns its losses."""
        config = self.config
        of_mask = self.step < config.mask_steps
        step, n_steps = (self.step, config.mask_steps) if of_mask else (self.step - config.mask_steps, config.steps)
        warm = min(1, (step + 1) / max(1, config.warmup_steps))
        fall = 0.5 * (1 + math.cos(math.pi * step / n_steps)) * 0.98 + 0.02
        for group in self.optimiser.param_groups:
            group["lr"] = (config.mask_lr if of_mask else config.lr) * warm * fall
        batch = self.sounds.draw(config.seed, self.step, config.batch)
        loss, figures = self._mask_losses(batch) if of_mask else self._losses(batch, step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        if self.step % 5 == 0:
            self._average()
        return {name: float(value.detach()) for name, value in figures.items()}

    def _mask_losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.encoder.features(batch.waves)
        loss = self._mask_loss(features, self.encoder.gain_db(features, self.dtype), batch)
        return loss, {"mask_db": loss}

    def _mask_loss(self, features: Tensor, gain_db: Tensor, batch: Batch) -> Tensor:
        wanted = (self.encoder.features(batch.alone) - features).clamp(FLOOR_DB, 0)
        return (gain_db - wanted).abs().mean()

    def _losses(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        features, figures = self.encoder.features(batch.waves), {}
        loss: Tensor = torch.zeros((), device=self.device)
        if config.mask:
            gain_db = self.encoder.gain_db(features, self.dtype)
            figures["mask_db"] = self._mask_loss(features, gain_db, batch)
            loss = loss + config.mask_weight * figures["mask_db"]
            features = beside(features, gain_db)
        vectors = self.encoder.embed(features, self.dtype)
        margin = config.margin * min(1, step / max(1, config.margin_steps))
        figures["aam"], figures["accuracy"] = self.head(vectors, batch.classes, margin)
        loss = loss + figures["aam"]
        for name, weight, part in (
            ("teacher", config.teacher_weight, self._teacher_loss),
            ("consistency", config.consistency_weight, self._consistency_loss),
            ("contrast", config.contrast_weight, self._contrast_loss),
        ):
            if weight:
                figures[name] = part(vectors, batch)
                loss = loss + weight * figures[name]
        return loss, figures

    def _targets_of(self, batch: Batch) -> tuple[list[int], Tensor]:
        """Rows of the batch for which the teacher says something, and what; none without a teacher."""
        if self.targets is None:
            return [], torch.empty(0, 1, device=self.device)
        persons = batch.persons.tolist()
        found = [self.targets.of(self.sounds.persons[p], s) for p, s in zip(persons, batch.source, strict=True)]
        rows = [i for i, target in enumerate(found) if target is not None]
        return rows, torch.from_numpy(np.stack([found[i] for i in rows])).float().to(self.device)

    def _teacher_loss(self, vectors: Tensor, batch: Batch) -> Tensor:
        rows, wanted = self._targets_of(batch)
        return (1 - F.cosine_similarity(self.to_teacher(vectors[rows]), wanted)).mean()

    def _consistency_loss(self, vectors: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = self.averaged(batch.clean, self.dtype)
        return (1 - F.cosine_similarity(vectors, wanted)).mean()

    def _contrast_loss(self, vectors: Tensor, batch: Batch) -> Tensor:
        some = slice(0, len(vectors) // 4)
        return contrast(vectors[some], self.encoder(batch.clean[some], self.dtype), batch.classes[some])

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.average, self.step / (self.step + 50))
        for kept, new in zip(self.averaged.state_dict().values(), self.encoder.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.mul_(decay).add_(new, alpha=1 - decay)
            else:
                kept.copy_(new)


def train(training: Training, out: Path, *, save_every_s: float, until_s: float = math.inf) -> None:
    """Train to the last step, or for `until_s` seconds; a line of the log every `LOG_EVERY` steps."""
    config, checkpoint = training.config, out / "checkpoint.pt"
    began = saved = time.monotonic()
    began_step = training.step
    sums: dict[str, float] = {}
    n = 0
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        while training.step < config.all_steps and time.monotonic() - began < until_s:
            for name, value in training.advance().items():
                sums[name] = sums.get(name, 0.0) + value
            n += 1
            step, now = training.step, time.monotonic()
            if step % LOG_EVERY == 0 or step == config.all_steps:
                line: dict[str, Any] = {"step": step, **{name: round(total / n, 4) for name, total in sums.items()}}
                line["crops_per_s"] = round((step - began_step) * config.batch / (now - began), 1)
                line["elapsed_s"] = round(now - began)
                if step % config.evaluate_every == 0 or step == config.all_steps:
                    line |= training.watch.figures(training.averaged, training.dtype)
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(json.dumps(line), file=sys.stderr, flush=True)
                sums, n = {}, 0
            if now - saved > save_every_s:
                training.save(checkpoint)
                saved = time.monotonic()
    training.save(checkpoint)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What to compute in; "auto" takes the faster one of the machine."""
    # The question is not of torch's public API.
    has_tiles = device.type == "cuda" or getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    if precision == "bfloat16" or (precision == "auto" and has_tiles):
        return torch.bfloat16
    return torch.float32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, log, model")
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--pools", type=Path, default=DEFAULT_POOLS, help="made once, 3 GB (%(default)s)")
    parser.add_argument("--prepared", action="store_true", help="the pools are there; make none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the config")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; start again to go on")
    parser.add_argument("--save-every", type=float, default=5.0, metavar="MINUTES")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="run the network as it is written")
    parser.add_argument("--fold-a", type=Path, metavar="DIR", help="at the end the figures of training.fold_a")
    options = parser.parse_args(arguments)
    config = read_config(options.config, options.set)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.prepared:
        teacher = config.teacher if config.teacher_weight else None
        prepare(options.pools, options.audio, config.pools, teacher, workers=options.threads)
    training = Training(config, options.pools, device, choose_dtype(options.precision, device))
    if (options.out / "checkpoint.pt").is_file():
        training.resume(options.out / "checkpoint.pt")
    elif config.start:
        training.begin_from(Path(config.start))
    if options.compile:
        training.encoder.run = torch.compile(training.encoder.run, dynamic=False)
        training.encoder.run_mask = torch.compile(training.encoder.run_mask, dynamic=False)
    print(f"{len(training.sounds.persons):,} persons, step {training.step} of {config.all_steps}", file=sys.stderr)
    train(training, options.out, save_every_s=60 * options.save_every, until_s=60 * options.minutes)
    if options.fold_a and training.step == config.all_steps:
        from training.fold_a import evaluate, open_fold

        def embed(samples: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                vectors = training.averaged(torch.from_numpy(samples).to(device), training.dtype)
            return F.normalize(vectors).cpu().numpy()

        figures = evaluate(open_fold(options.fold_a), embed)
        (options.out / "fold_a.json").write_text(json.dumps(figures, indent=1), "utf-8")
        print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
