"""What is trained: SpeechBrain's ECAPA-TDNN (Desplanques et al. 2020) run channels-last, and its losses.

The network is a stock `speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN`, so that its weights load into a stock model
directory; only the way of computing differs. (n, T, channels) in memory turns every convolution into one matrix
product, in bfloat16 where asked for: on two cores 110 crops of 2.56 s a second, forward and backward, against 40.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embeddings.torchaudio_compat import import_torchaudio
from embeddings.voice_mask import VoiceMask, beside

N_MELS = 80


def make_ecapa(channels: int, dim: int, n_bands: int = N_MELS) -> Any:
    """A stock ECAPA-TDNN with `channels` in its blocks and vectors of `dim`, its weights drawn by torch's seed."""
    import_torchaudio()  # SpeechBrain wants it
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    return ECAPA_TDNN(
        n_bands,
        lin_neurons=dim,
        channels=[channels] * 4 + [3 * channels],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=128,
    )


# --- the forward ------------------------------------------------------------------------------------------------------


def _norm(x: Tensor, layer: Any, training: bool) -> Tensor:
    norm, shape = layer.norm, x.shape
    y = F.batch_norm(
        x.reshape(-1, shape[-1]),
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        training,
        norm.momentum,
        norm.eps,
    )
    return y.view(shape)


def _conv(x: Tensor, layer: Any, dtype: torch.dtype) -> Tensor:
    """A 'same' convolution over (n, T, channels), padded by reflection as SpeechBrain's is."""
    weight, bias = layer.conv.weight.to(dtype), layer.conv.bias.to(dtype)
    size, step = weight.shape[2], layer.conv.dilation[0]
    if size == 1:
        return F.linear(x, weight[:, :, 0], bias)
    pad, length = step * (size - 1) // 2, x.shape[1]
    padded = torch.cat([x[:, 1 : pad + 1].flip(1), x, x[:, length - pad - 1 : length - 1].flip(1)], 1)
    taps = torch.cat([padded[:, i * step : i * step + length] for i in range(size)], 2)
    return F.linear(taps, weight.permute(0, 2, 1).reshape(weight.shape[0], -1), bias)


def _block(x: Tensor, layer: Any, training: bool, dtype: torch.dtype) -> Tensor:
    return _norm(F.relu(_conv(x, layer.conv, dtype)), layer.norm, training)


def forward(net: Any, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Vectors of features, as `net(features)` gives them: (n, T, `N_MELS`) to (n, dim) float32, not normalised.

    In training mode the statistics of batch normalisation are followed as the stock forward does.
    """
    training = net.training
    x = _block(features.to(dtype), net.blocks[0], training, dtype)
    outputs = []
    for block in net.blocks[1:]:
        residual, x = x, _block(x, block.tdnn1, training, dtype)
        res2, parts = block.res2net_block, []
        for i, part in enumerate(torch.chunk(x, res2.scale, 2)):
            if i == 0:
                parts.append(part)
            else:
                parts.append(_block(part if i == 1 else part + parts[-1], res2.blocks[i - 1], training, dtype))
        x = _block(torch.cat(parts, 2), block.tdnn2, training, dtype)
        squeeze, excite = block.se_block.conv1.conv, block.se_block.conv2.conv
        gate = F.relu(F.linear(x.float().mean(1), squeeze.weight[:, :, 0], squeeze.bias))
        gate = torch.sigmoid(F.linear(gate, excite.weight[:, :, 0], excite.bias))
        x = x * gate.to(dtype)[:, None] + residual
        outputs.append(x)
    x = _block(torch.cat(outputs, 2), net.mfa, training, dtype)
    return _pool(net, x, training, dtype)


def _pool(net: Any, x: Tensor, training: bool, dtype: torch.dtype) -> Tensor:
    """Attentive statistics, and the linear layer after them."""
    pool, n_channels, wide = net.asp, x.shape[2], x.float()
    mean, spread = wide.mean(1), wide.var(1, unbiased=False).clamp(pool.eps).sqrt()
    conv = pool.tdnn.conv.conv
    weight, bias = conv.weight[:, :, 0], conv.bias
    # What is the same for all frames goes through its part of the layer once.
    common = F.linear(torch.cat([mean, spread], 1), weight[:, n_channels:], bias)
    hidden = F.relu(F.linear(x, weight[:, :n_channels].to(dtype)) + common.to(dtype)[:, None])
    hidden = torch.tanh(_norm(hidden, pool.tdnn.norm, training))
    last = pool.conv.conv
    attention = torch.softmax(F.linear(hidden, last.weight[:, :, 0].to(dtype), last.bias.to(dtype)).float(), 1)
    mean = (attention * wide).sum(1)
    spread = ((attention * wide * wide).sum(1) - mean * mean).clamp(1e-6).sqrt()
    statistics = _norm(torch.cat([mean, spread], 1), net.asp_bn, training)
    return F.linear(statistics, net.fc.conv.weight[:, :, 0], net.fc.conv.bias)


# --- the whole --------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Sound to vectors, as trained: SpeechBrain's features without gradient, a mask where asked for, ECAPA-TDNN.

    Parameters
    ----------
    channels, dim : int
        Of `make_ecapa`.
    hop_ms : int
        Frame step.
    mask : int
        Width of a `VoiceMask`, whose features the network is given beside those as they are; 0 for none.

    Attributes
    ----------
    run, run_mask : callable
        How the network and the mask are run: as they are, or what a compiler makes of them.
    """

    def __init__(self, channels: int, dim: int, hop_ms: int, *, mask: int = 0) -> None:
        super().__init__()
        self.net = make_ecapa(channels, dim, N_MELS * 2 if mask else N_MELS)
        from speechbrain.lobes.features import Fbank

        self.fbank = Fbank(n_mels=N_MELS, hop_length=hop_ms)
        self.mask = VoiceMask(N_MELS, mask) if mask else None
        self.run: Callable[..., Tensor] = forward
        self.run_mask: Callable[..., Tensor] = VoiceMask.forward

    def features(self, waves: Tensor) -> Tensor:
        """(n, n_samples) float32 to (n, T, `N_MELS`) in dB, not normalised."""
        with torch.no_grad():
            features: Tensor = self.fbank(waves)
            return features

    def gain_db(self, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """What the mask adds to features, dB."""
        return self.run_mask(self.mask, features, dtype)

    def embed(self, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(n, T, n_bands), masked ones beside them where there is a mask, to (n, dim) float32, not normalised."""
        return self.run(self.net, features - features.mean(1, keepdim=True), dtype).float()

    def forward(self, waves: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(n, n_samples) float32 to (n, dim) float32, not normalised."""
        features = self.features(waves)
        if self.mask is not None:
            features = beside(features, self.gain_db(features, dtype))
        return self.embed(features, dtype)

    def take_net(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a network that may know nothing of masked features; they count for nothing at first."""
        key = "blocks.0.conv.conv.weight"
        own = self.net.state_dict()[key]
        weight = torch.zeros_like(own)
        weight[:, : state[key].shape[1]] = state[key]
        self.net.load_state_dict({**state, key: weight})


# --- losses -----------------------------------------------------------------------------------------------------------


class AngularMargin(nn.Module):
    """Additive angular margin softmax (Deng et al. 2019, ArcFace), with sub-centres (Deng et al. 2020) where asked for.

    Parameters
    ----------
    dim, n_classes : int
    n_centres : int
        Of a class; the nearest counts, so that a second style or a bad clip need not spoil the first.
    scale : float
    """

    def __init__(self, dim: int, n_classes: int, *, n_centres: int = 1, scale: float = 30.0) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(n_centres, n_classes, dim) * 0.05)
        self.scale = scale

    @torch.no_grad()
    def begin_at(self, centres: Tensor) -> None:
        """Put the classes at (n_classes, dim); sub-centres around that, for equal ones would stay equal."""
        spread = centres.norm(dim=1, keepdim=True) * 0.1 * torch.randn_like(self.centres)
        self.centres.copy_(centres + spread * (len(self.centres) > 1))

    def forward(self, vectors: Tensor, classes: Tensor, margin: float) -> tuple[Tensor, Tensor]:
        """Mean loss, and the share of vectors nearest to their own class."""
        unit, centres = F.normalize(vectors), F.normalize(self.centres, dim=2)
        cosine = torch.stack([F.linear(unit, some) for some in centres]).amax(0).clamp(-1 + 1e-6, 1 - 1e-6)
        own = cosine.gather(1, classes[:, None])
        harder = torch.cos(torch.acos(own) + margin)
        harder = torch.where(own > math.cos(math.pi - margin), harder, own - margin * math.sin(margin))
        loss = F.cross_entropy(cosine.scatter(1, classes[:, None], harder) * self.scale, classes)
        return loss, (cosine.argmax(1) == classes).float().mean()


def contrast(first: Tensor, second: Tensor, persons: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020) between two views of the same voices.

    Parameters
    ----------
    first, second : (n, dim)
        Row i of both is of one voice, clean in one and accompanied in the other, say.
    persons : (n,)
        Rows of one person are not pushed apart.
    """
    similarity = F.normalize(first) @ F.normalize(second).T / temperature
    same = persons[:, None] == persons[None, :]
    losses = []
    for logits, own in ((similarity, same), (similarity.T, same.T)):
        log_share = F.log_softmax(logits, 1)
        losses.append(-(log_share * own).sum(1) / own.sum(1))
    return torch.cat(losses).mean()
