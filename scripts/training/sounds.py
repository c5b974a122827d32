"""Batches of training sound: whose voice, at which speed, in which room, over what, through which channel.

Everything is drawn by a generator seeded with (seed, step): a run that was cut goes on with the very batches that it
would have had, and two recipes that are compared hear the same voices in the same order. Sound is worked on as whole
batches by torch, on whatever device the pools were given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.pools import RATE_HZ, Pool


@dataclass(frozen=True)
class Recipe:
    """How often what is done to a voice. Shares are in [0, 1]; a pair is the range something is drawn from.

    Attributes
    ----------
    voices : mapping of str to float
        Pools of voices, and how often a person who has clips in several is heard from each.
    beds : mapping of str to float
        Pools of accompaniment, and the share of each.
    speeds : sequence of float
        1, and factors by which a voice may be played faster or slower: each makes another person of it.
    speed_share : float
        Of crops at another speed than 1, chosen before the factor (which may be 1 again).
    room, equaliser, noise, music : float
        Shares of crops with a room response, a random equaliser, a noise, an accompaniment.
    loud_music_db, soft_music_db : (low, high)
        Voice over music; half of the crops with music have each.
    two_layers : float
        Of the accompaniments.
    channel : float
        Of crops that are then clipped, made narrow (300 to 3400 Hz), low-passed as lossy codecs do, or coded in 8 bits.
    second_voice : float
        Of crops with another person's voice 3 to 12 dB below; the louder one is whose voice it is.
    """

    voices: Mapping[str, float]
    beds: Mapping[str, float]
    speeds: Sequence[float] = (1.0, 0.9, 1.1)
    speed_share: float = 0.5
    room: float = 0.35
    equaliser: float = 0.3
    noise: float = 0.13
    music: float = 0.62
    loud_music_db: tuple[float, float] = (-6.0, 6.0)
    soft_music_db: tuple[float, float] = (3.0, 18.0)
    two_layers: float = 0.15
    channel: float = 0.0
    second_voice: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Crops ready for the features.

    Attributes
    ----------
    waves : (n, n_samples) float32
        As heard.
    clean : (n, n_samples) float32
        The same voices before room, music and channel.
    alone : (n, n_samples) float32
        The voices as they are within `waves`, in their rooms and at their levels, without noise, music, a second voice
        and the channel.
    classes : (n,) int64
        Person and speed.
    persons : (n,) int64
    source : list of (pool name, clip number, start in samples) or None
        Where a crop lies in its clip; None at another speed.
    """

    waves: Tensor
    clean: Tensor
    alone: Tensor
    classes: Tensor
    persons: Tensor
    source: list[tuple[str, int, int] | None]


class _Flat:
    """Pools end to end as one tensor on a device, clips of fewer than `shortest` samples repeated to that length."""

    def __init__(self, pools: Mapping[str, Pool], shortest: int, device: torch.device) -> None:
        self.first: dict[str, int] = {}
        parts, lengths = [], []
        for name, pool in pools.items():
            self.first[name] = len(parts)
            for number in range(len(pool.clips)):
                clip = pool.clip(number)
                parts.append(clip if len(clip) >= shortest else np.tile(clip, -(-shortest // len(clip)))[:shortest])
                lengths.append(len(parts[-1]))
        self.lengths = np.array(lengths)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self.samples = torch.from_numpy(np.concatenate(parts)).to(device)

    def crop(self, rows: np.ndarray, starts: np.ndarray, n_samples: int, rates: np.ndarray | None = None) -> Tensor:
        """(n, n_samples) float32 from clips `rows`, from `starts`, played `rates` times as fast (by default once)."""
        device = self.samples.device
        first = torch.from_numpy(self.offsets[rows] + starts).to(device)
        if rates is None:
            return self.samples.unfold(0, n_samples, 1)[first].float() / 32768
        crops = torch.empty(len(rows), n_samples, device=device)
        for rate in np.unique(rates):
            chosen = torch.from_numpy(np.flatnonzero(rates == rate)).to(device)
            position = torch.arange(n_samples, device=device, dtype=torch.float64) * float(rate)
            whole = position.long()
            taken = self.samples.unfold(0, int(whole[-1]) + 2, 1)[first[chosen]].float() / 32768
            near = taken[:, whole]
            crops[chosen] = near + (taken[:, whole + 1] - near) * (position - whole).float()
        return crops


class Sounds:
    """Draws batches.

    Parameters
    ----------
    pools : mapping of str to Pool
        All that the recipe names, and ``noise`` and ``rir``.
    recipe : Recipe
    n_samples : int
        Length of a crop.
    device : torch.device
    without : collection of str
        Persons left out (those held out to watch the training).

    Attributes
    ----------
    persons : list of str
        In the order of `Batch.persons`.
    n_classes : int
        Persons times speeds.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        recipe: Recipe,
        n_samples: int,
        device: torch.device,
        *,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self.recipe, self.n_samples, self.device = recipe, n_samples, device
        self._longest = int(n_samples * max(recipe.speeds)) + 3
        self._voices = _Flat({name: pools[name] for name in recipe.voices}, self._longest, device)
        self._beds = _Flat({name: pools[name] for name in recipe.beds}, n_samples, device)
        self._noise = _Flat({"noise": pools["noise"]}, n_samples, device)
        self._rooms = _Flat({"rir": pools["rir"]}, 1, device)
        self._clips: dict[str, dict[str, list[int]]] = {}
        for name in recipe.voices:
            for number, clip in enumerate(pools[name].clips):
                if clip.label not in without:
                    self._clips.setdefault(clip.label, {}).setdefault(name, []).append(number)
        self.persons = sorted(self._clips)
        self.n_classes = len(self.persons) * len(recipe.speeds)
        counts = [sum(map(len, self._clips[person].values())) for person in self.persons]
        weights = np.sqrt(np.minimum(counts, 24)) * [2.0 if "sung" in self._clips[p] else 1.0 for p in self.persons]
        self._weights = weights / weights.sum()

    def draw(self, seed: int, step: int, n: int) -> Batch:
        """The batch of a step: n crops."""
        rng = np.random.default_rng((seed, step))
        recipe = self.recipe
        persons = rng.choice(len(self.persons), n, p=self._weights)
        which = np.where(rng.random(n) < recipe.speed_share, rng.integers(len(recipe.speeds), size=n), 0)
        rates = np.array(recipe.speeds)[which]
        rows, starts, source = np.empty(n, np.int64), np.empty(n, np.int64), []
        for i, person in enumerate(persons):
            of_pool = self._clips[self.persons[person]]
            shares = np.array([recipe.voices[name] for name in of_pool])
            name = list(of_pool)[rng.choice(len(shares), p=shares / shares.sum())]
            number = of_pool[name][rng.integers(len(of_pool[name]))]
            rows[i] = self._voices.first[name] + number
            starts[i] = rng.integers(self._voices.lengths[rows[i]] - self._longest + 1)
            source.append((name, number, int(starts[i])) if which[i] == 0 else None)
        clean = self._voices.crop(rows, starts, self.n_samples, rates)
        waves = alone = self._filter(clean.clone(), rng)
        if recipe.second_voice:
            other = waves.roll(1, 0)
            waves = self._add(waves, other, rng.uniform(3, 12, n), rng.random(n) < recipe.second_voice)
        waves = self._add(waves, self._bed(self._noise, n, rng), rng.uniform(3, 25, n), rng.random(n) < recipe.noise)
        waves = self._accompany(waves, rng)
        waves = self._through_channel(waves, rng)
        peak = waves.abs().amax(1, keepdim=True) + 1e-6
        level = self._column(rng.uniform(0.2, 0.95, n)) / peak
        classes = persons * len(recipe.speeds) + which
        return Batch(waves * level, clean, alone * level, self._put(classes), self._put(persons), source)

    # --- what is done to a voice ----------------------------------------------------------------------------------

    def _put(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _column(self, values: np.ndarray) -> Tensor:
        return self._put(np.asarray(values, np.float32))[:, None]

    def _bed(self, flat: _Flat, n: int, rng: np.random.Generator, rows: np.ndarray | None = None) -> Tensor:
        rows = rng.integers(len(flat.offsets), size=n) if rows is None else rows
        starts = (rng.random(n) * (flat.lengths[rows] - self.n_samples)).astype(np.int64)
        return flat.crop(rows, starts, self.n_samples)

    def _add(self, waves: Tensor, other: Tensor, level_db: np.ndarray, chosen: np.ndarray) -> Tensor:
        """Put `other` that far below the voice where `chosen`."""
        gain = _rms(waves) / _rms(other) * self._column(10 ** (-level_db / 20) * chosen)
        return waves + other * gain

    def _accompany(self, waves: Tensor, rng: np.random.Generator) -> Tensor:
        recipe, n = self.recipe, len(waves)
        names = list(recipe.beds)
        shares = np.array(list(recipe.beds.values()))
        first = np.array([self._beds.first[name] for name in names])
        size = np.diff([*first, len(self._beds.offsets)])

        def layer() -> Tensor:
            pool = rng.choice(len(names), n, p=shares / shares.sum())
            bed = self._bed(self._beds, n, rng, first[pool] + (rng.random(n) * size[pool]).astype(np.int64))
            return bed / _rms(bed)

        beds, second = layer(), layer()
        beds = beds + second * self._column(rng.uniform(0.2, 1, n) * (rng.random(n) < recipe.two_layers))
        is_loud = rng.random(n) < 0.5
        level_db = np.where(is_loud, rng.uniform(*recipe.loud_music_db, n), rng.uniform(*recipe.soft_music_db, n))
        return self._add(waves, beds, level_db, rng.random(n) < recipe.music)

    def _filter(self, waves: Tensor, rng: np.random.Generator) -> Tensor:
        """A room, an equaliser with six random gains and now and then a low-pass: one product of spectra."""
        recipe, n = self.recipe, len(waves)
        in_room, equalised = rng.random(n) < recipe.room, rng.random(n) < recipe.equaliser
        rooms = rng.integers(len(self._rooms.offsets), size=n)
        gains = rng.uniform(-6, 6, (n, 6))
        edge = np.where(rng.random(n) < 0.4, rng.uniform(0.42, 0.95, n), 1.0)
        chosen = np.flatnonzero(in_room | equalised)
        if not len(chosen):
            return waves
        size = 1 << (self.n_samples + RATE_HZ // 2 - 1).bit_length()
        spectrum = torch.fft.rfft(waves[self._put(chosen)], size)
        n_bins = spectrum.shape[1]
        response = torch.zeros(len(chosen), RATE_HZ // 2, device=self.device)
        response[:, 0] = 1
        for k, i in enumerate(chosen):
            if in_room[i]:
                offset, length = self._rooms.offsets[rooms[i]], self._rooms.lengths[rooms[i]]
                room = self._rooms.samples[offset : offset + length].float()
                room = room[int(room.abs().argmax()) :][: RATE_HZ // 2]
                response[k, : len(room)] = room / (room.square().sum().sqrt() + 1e-9)
        at = np.linspace(0, 1, n_bins)
        curve = np.ones((len(chosen), n_bins), np.float32)
        for k, i in enumerate(chosen):
            if equalised[i]:
                curve[k] = 10 ** (np.interp(at, np.linspace(0, 1, 6), gains[i]) / 20) * np.where(at < edge[i], 1, 1e-3)
        spectrum = spectrum * torch.fft.rfft(response, size) * self._put(curve)
        waves[self._put(chosen)] = torch.fft.irfft(spectrum, size)[:, : self.n_samples]
        return waves

    def _through_channel(self, waves: Tensor, rng: np.random.Generator) -> Tensor:
        """Clip, narrow, low-pass or coarsely code some of the crops."""
        kinds = np.where(rng.random(len(waves)) < self.recipe.channel, rng.integers(1, 5, len(waves)), 0)
        levels = rng.uniform(0.2, 0.7, len(waves))
        for i in np.flatnonzero(kinds):
            wave = waves[i] / (waves[i].abs().max() + 1e-6)
            if kinds[i] == 1:
                wave = wave.clamp(-levels[i], levels[i])
            elif kinds[i] == 4:  # mu-law, 8 bits (ITU-T G.711)
                coded = torch.sign(wave) * torch.log1p(255 * wave.abs()) / np.log(256)
                coded = torch.round(coded * 127) / 127
                wave = torch.sign(coded) * torch.expm1(coded.abs() * np.log(256)) / 255
            else:
                spectrum = torch.fft.rfft(wave)
                hz = torch.linspace(0, RATE_HZ / 2, len(spectrum), device=self.device)
                kept = (hz > 300) & (hz < 3400) if kinds[i] == 2 else hz < 3000 + 5000 * levels[i]
                wave = torch.fft.irfft(spectrum * kept, len(wave))
            waves[i] = wave
        return waves


def _rms(waves: Tensor) -> Tensor:
    return waves.square().mean(1, keepdim=True).add(1e-9).sqrt()
