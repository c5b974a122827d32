"""A mask over log-mel features that leaves the voice: how far to turn down every band of every frame.

A small network in front of the encoder. It is shown a voice over music, and learns how much of each band's power was
the voice (the ideal ratio mask of Wang, Narayanan & Wang 2014, in dB); `scripts/train_encoder.py` trains it. Imported
only where torch is there already: by a model directory's hyperparams.yaml, through `MaskedFbank`, and by the trainer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR_DB = -20.0  #: dB to which a band can be turned down


class VoiceMask(nn.Module):
    """Convolutions over time, 40 frames to either side of a frame with the usual dilations: 0.64 s.

    Parameters
    ----------
    n_mels : int
        Bands of the features.
    width : int
        Channels within.
    dilations : sequence of int
        Frames between the three taps of each layer after the first.
    """

    def __init__(
        self, n_mels: int = 80, width: int = 192, dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 1, 2, 4)
    ) -> None:
        super().__init__()
        self.dilations = tuple(dilations)
        self.first = nn.Linear(5 * n_mels, width)
        self.layers = nn.ModuleList(nn.Linear(3 * width, width) for _ in self.dilations)
        self.last = nn.Linear(width, n_mels)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, -4.0)  # untrained, it turns nothing down by more than 0.4 dB

    def forward(self, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Say how far to turn down.

        Parameters
        ----------
        features : (n, T, n_mels) float32
            dB, as `Fbank` gives them, not normalised; only levels relative to the loudest of the window count.
        dtype : torch.dtype
            What to compute in.

        Returns
        -------
        (n, T, n_mels) float32
            dB, from `FLOOR_DB` to 0, to be added to the features.
        """
        x = ((features - features.amax((1, 2), keepdim=True)) / 20 + 2).to(dtype)
        x = F.relu(_linear(_reached(x, 5, 1), self.first))
        for dilation, layer in zip(self.dilations, self.layers, strict=True):
            x = x + F.relu(_linear(_reached(x, 3, dilation), layer))
        return FLOOR_DB * torch.sigmoid(_linear(x, self.last).float())


class MaskedFbank(nn.Module):
    """SpeechBrain's `Fbank`, and beside it what a mask leaves of it: twice as many bands, for a network to choose from.

    Parameters
    ----------
    mask : VoiceMask
    n_mels : int
        Bands that the mask works on.
    hop_length : int
        Milliseconds from frame to frame.
    """

    def __init__(self, mask: VoiceMask, n_mels: int = 80, hop_length: int = 16) -> None:
        super().__init__()
        from speechbrain.lobes.features import Fbank

        self.fbank, self.mask = Fbank(n_mels=n_mels, hop_length=hop_length), mask

    def forward(self, samples: Tensor) -> Tensor:
        """(n, n_samples) float32 to (n, T, 2 * n_mels) float32, dB: the features, then the masked ones."""
        features = self.fbank(samples)
        return beside(features, self.mask(features))


def beside(features: Tensor, gain_db: Tensor) -> Tensor:
    """What a network is given of features and of what the mask says: (n, T, n_mels) each to (n, T, 2 * n_mels)."""
    return torch.cat([features, features + gain_db], 2)


def _linear(x: Tensor, layer: Any) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _reached(x: Tensor, kernel: int, dilation: int) -> Tensor:
    """Put side by side the frames that a layer reads, zeros beyond both ends: (n, T, c) to (n, T, kernel * c)."""
    n_frames, zeros = x.shape[1], dilation * (kernel // 2)
    padded = F.pad(x, (0, 0, zeros, zeros))
    return torch.cat([padded[:, i * dilation : i * dilation + n_frames] for i in range(kernel)], 2)
