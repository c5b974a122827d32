"""Train the network that says whether a voice is heard, `embeddings/vocal_presence.npz`.

    python scripts/train_presence.py --out FILE            # 20 minutes on one thread

It learns from LIKENESS_AUDIO/train alone, through the pools of `scripts/training/` (the recorded ones are made when
they are not there; `voice_sung` comes from `training/singing.py`, the accompaniment from `training/accompaniment.py`).
The threshold is chosen on instruments of fold A of LIKENESS_AUDIO/dev, see `choose_threshold`;
`scripts/bench_vocals.py` measures on fold B.

Windows are drawn first, in pieces; then the network is trained. Both stay in the work folder: the same command goes on
where it was cut. The same pools, seed and options give the same network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from training.pools import Pool, build_recorded
from training.presence_sounds import N_FRAMES, VOICES, WINDOW, Heard, draw_window, load_pools
from trial_audio import DEFAULT_AUDIO, RATE_HZ, render
from vocal_tracks import SILENT_GROUPS, cut_windows, judge_windows, list_tracks

from embeddings.presence import (
    FIRST_RESIDUAL,
    HOP,
    LAYERS,
    N_MELS,
    STRIDE,
    Presence,
    VoiceClock,
    log_mel,
    windows_with_voice,
    write_presence,
)
from embeddings.torchaudio_compat import import_torchaudio
from registry.verdict import MIN_VOICE_S

import_torchaudio()
import torch  # noqa: E402  (torchaudio may need help before torch is used)
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

DEFAULT_POOLS = Path.home() / ".cache/likeness-train/pools"
DEFAULT_WORK = Path.home() / ".cache/likeness-train/presence"
CHANNELS = 96
PIECE = 1000  #: windows drawn at once
BATCH = 64
LEARNING_RATE = 3e-3
WARM_UP_STEPS = 50
KEPT_EVERY = 100  #: steps
MIN_TRACK_S = 2.0
#: Share of fold A's tracks without a voice that must abstain.
LEAST_ABSTAINING = 0.96


class Network(nn.Module):
    """What `embeddings.presence` computes, with BatchNorm in it and for training."""

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for number, (kernel, step, dilation) in enumerate(LAYERS):
            n_in = CHANNELS if number else n_mels
            conv = nn.Conv1d(n_in, CHANNELS, kernel, step, dilation * (kernel // 2), dilation)
            self.layers.append(nn.Sequential(conv, nn.BatchNorm1d(CHANNELS), nn.ReLU()))
        self.drop = nn.Dropout(0.2)
        self.last = nn.Conv1d(CHANNELS, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(n, n_frames, n_mels) dB to (n, ceil(n_frames / STRIDE)) logits."""
        x = ((features - features.amax((1, 2), keepdim=True)) / 20 + 2).transpose(1, 2)
        for number, layer in enumerate(self.layers):
            x = x + self.drop(layer(x)) if number >= FIRST_RESIDUAL else layer(x)
        logits: Tensor = self.last(self.drop(x))[:, 0]
        return logits

    def folded(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Weights and biases of `Presence`, BatchNorm in them."""
        weights, biases = [], []
        with torch.no_grad():
            for conv, norm, _ in self.layers:
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                weights.append((conv.weight * scale[:, None, None]).permute(2, 1, 0).flatten(0, 1))
                biases.append((conv.bias - norm.running_mean) * scale + norm.bias)
            weights.append(self.last.weight[:, :, 0].T)
            biases.append(self.last.bias)
        return tuple(w.detach().numpy().copy() for w in weights), tuple(b.detach().numpy().copy() for b in biases)


def draw_pieces(heard: Heard, n_pieces: int, seed: int, folder: Path) -> None:
    """Draw pieces of PIECE windows that are not in `folder` yet: N.features.npy float16, N.labels.npy int8."""
    for piece in range(n_pieces):
        done = folder / f"{piece}.labels.npy"
        if done.is_file():
            continue
        rng, started = np.random.default_rng([seed, piece]), time.perf_counter()
        drawn: list[np.ndarray] = []
        labels = np.empty((PIECE, N_FRAMES), np.int8)
        for first in range(0, PIECE, 8):
            samples = np.empty((8, WINDOW), np.float32)
            for i in range(8):
                samples[i], labels[first + i] = draw_window(heard, rng)
            drawn.append(log_mel(samples).astype(np.float16))
        np.save(folder / f"{piece}.features.npy", np.concatenate(drawn))
        np.save(done, labels)
        note(f"windows: piece {piece + 1} of {n_pieces}, {time.perf_counter() - started:.0f} s")


def train(network: Network, folder: Path, n_pieces: int, epochs: float, seed: int) -> float:
    """Train in place, going on where a run with the same arguments was cut; returns the last running loss."""
    stored = [np.load(folder / f"{piece}.features.npy", mmap_mode="r") for piece in range(n_pieces)]
    labels = np.concatenate([np.load(folder / f"{piece}.labels.npy") for piece in range(n_pieces)])

    def take(rows: np.ndarray) -> np.ndarray:
        return np.stack([stored[row // PIECE][row % PIECE] for row in rows]).astype(np.float32)

    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-2)
    n_steps, running, first, started = int(len(labels) * epochs / BATCH), 0.7, 0, time.perf_counter()
    kept = folder / f"training-{n_pieces}-{epochs:g}.pt"
    if kept.is_file():
        state = torch.load(kept)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first, running = state["step"], state["running"]
    network.train()
    for step in range(first, n_steps):
        # All that is drawn depends on the seed and the step.
        rng = np.random.default_rng([seed, n_pieces, step])
        torch.manual_seed(seed * 1_000_003 + step)
        rate = min(1, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + np.cos(np.pi * step / n_steps))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * float(rate)  # torch.load takes no numpy
        rows = batch_rows(len(labels), step, seed)
        x, y = take(rows), labels[rows]
        if rng.random() < 0.3:  # the windows of short recordings
            n_frames = int(rng.integers(6, N_FRAMES))
            x, y = x[:, : n_frames * STRIDE - 1], y[:, :n_frames]
        for _ in range(2):  # bands are lost
            band, width = int(rng.integers(0, x.shape[2] - 10)), int(rng.integers(0, 10))
            x[:, :, band : band + width] = x.mean(axis=(1, 2), keepdims=True)
        target = torch.from_numpy(y.astype(np.float32))
        asked = (target >= 0).float()
        losses = functional.binary_cross_entropy_with_logits(network(torch.from_numpy(x)), target.clamp(0), asked)
        loss = losses * asked.numel() / asked.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running += 0.02 * (loss.item() - running)
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == n_steps:
            state = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"step": step + 1, "running": running}, kept.with_suffix(".part"))
            kept.with_suffix(".part").replace(kept)
            note(f"step {step + 1} of {n_steps}, loss {running:.4f}, {time.perf_counter() - started:.0f} s")
    network.eval()
    return running


def batch_rows(n: int, step: int, seed: int) -> np.ndarray:
    """(BATCH,) rows of a step: every row once before any comes again."""
    epoch, number = divmod(step, n // BATCH)
    order = np.random.default_rng([seed, 1, epoch]).permutation(n)
    return np.sort(order[number * BATCH : (number + 1) * BATCH])


@dataclass(frozen=True)
class Judged:
    """A track without a voice: where its windows start in seconds, their logits, their evidence."""

    start_s: np.ndarray
    logits: np.ndarray
    evidence: np.ndarray


def judge_instruments(presence: Presence, audio_root: Path, fold: str) -> list[Judged]:
    """Judge all tracks of a fold that have no voice."""
    judged = []
    for track in list_tracks(audio_root, fold):
        if track.group not in SILENT_GROUPS:
            continue
        samples = render(audio_root, track.item)
        if len(samples) < MIN_TRACK_S * RATE_HZ:
            continue
        starts, windows = cut_windows(samples)
        judged.append(Judged(starts / RATE_HZ, *judge_windows(presence, starts, windows)))
    return judged


def choose_threshold(presence: Presence, judged: list[Judged]) -> Presence:
    """The lowest threshold at which `LEAST_ABSTAINING` of the tracks without a voice abstain: it misses no more."""

    def voiced_s(candidate: Presence, track: Judged) -> float:
        kept, clock = windows_with_voice(track.evidence, candidate.threshold), VoiceClock()
        clock.add(track.start_s[kept], candidate.voiced_frames(track.logits[kept]))
        return clock.seconds

    def abstaining(candidate: Presence) -> float:
        return float(np.mean([voiced_s(candidate, track) < MIN_VOICE_S for track in judged]))

    candidates = [replace(presence, threshold=float(threshold)) for threshold in np.arange(-3, 6, 0.125)]
    return next(c for c in candidates if abstaining(c) >= LEAST_ABSTAINING)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the network to write, .npz")
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO)
    parser.add_argument("--pools", type=Path, default=DEFAULT_POOLS)
    parser.add_argument("--beds", nargs="+", default=["accompaniment", "music"], help="pools without voices")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="drawn windows")
    parser.add_argument("--windows", type=int, default=16_000)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    build_recorded(options.audio, options.pools)
    heard = load_pools(options.audio, options.pools, options.beds)
    n_pieces = -(-options.windows // PIECE)
    drawn_from = {
        "seed": options.seed,
        "beds": {name: len(Pool(options.pools / name).clips) for name in options.beds},
        "voices": {name: len(heard.voices[name].clips) for name in VOICES},
    }
    digest = hashlib.sha256(json.dumps([drawn_from, HOP, N_MELS]).encode()).hexdigest()[:12]
    folder = options.work / f"windows-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    draw_pieces(heard, n_pieces, options.seed, folder)

    network = Network(N_MELS)
    loss = train(network, folder, n_pieces, options.epochs, options.seed)
    trained = drawn_from | {"windows": n_pieces * PIECE, "epochs": options.epochs, "loss": round(loss, 4)}
    presence = Presence(*network.folded(), 0.0, trained)
    write_presence(options.out, presence)  # kept, should what follows be cut
    note("judging the instruments of fold A")
    presence = choose_threshold(presence, judge_instruments(presence, options.audio, "A"))
    write_presence(options.out, presence)
    digest = hashlib.sha256(options.out.read_bytes()).hexdigest()
    print(f"{options.out}: threshold {presence.threshold:g}, sha256 {digest} (WEIGHTS_SHA256 of embeddings.presence)")


if __name__ == "__main__":
    main()
