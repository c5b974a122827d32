"""SpeechBrain's ECAPA-TDNN, from sound to vector, with the same weights and the same answers, faster on a CPU.

What makes it faster:

- Channels lie last, so that a convolution is one matrix product. The rows that it reaches, reflected edges too, are
  gathered by one index.
- BatchNorm follows ReLU in SpeechBrain, and so is a clamp: a relu(z) + b = max(a z + b, b) for a >= 0, and min(a z + b,
  b) for a < 0. The scale and the shift go into the weights in front of it, and one comparison is left.
- Variances are means of squares less squared means: torch's own cost as much as a fifth of the whole.
- The attention is exp and two weighted sums, without the constants that a softmax over time does not see.
- All that is large is written into memory of the batch before. Otherwise the allocator hands the memory back to the
  kernel after each batch, and having it again (2,000 page faults a window) was a third of the time.

Only exactly this stack is taken, see `EcapaForward`; imported by `embeddings.encoder` alone, once torch is there.

References
----------
Desplanques et al. 2020, arXiv:2005.07143; speechbrain 1.1, `lobes/models/ECAPA_TDNN.py`, `processing/features.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from embeddings.voice_mask import MaskedFbank, VoiceMask, beside

#: exp(x), summed over an hour of frames and times a squared activation, is far from float32's end (e^88) below this.
_LARGEST_EXPONENT = 60.0


class NotStock(ValueError):
    """The modules are not the ones that this forward repeats; the message says which is not."""


class _Scratch:
    """Memory by name, kept from batch to batch; what was in it is not."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def __call__(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        size = math.prod(shape)
        kept = self._kept.get((name, dtype))
        if kept is None or len(kept) < size:
            kept = self._kept[name, dtype] = torch.empty(size, dtype=dtype)
        return kept[:size].view(shape)


@dataclass(frozen=True)
class _Layer:
    """A convolution over time, and the clamp that the ReLU and BatchNorm after it are.

    Attributes
    ----------
    weight : (kernel * n_in, n_out)
    bias : (n_out,)
    floor, ceiling : (n_out,) or None
        Bounds of the output; None where there is none.
    kernel, dilation : int
        In frames.
    """

    weight: Tensor
    bias: Tensor
    floor: Tensor | None = None
    ceiling: Tensor | None = None
    kernel: int = 1
    dilation: int = 1

    def __call__(self, x: Tensor, scratch: _Scratch, out: Tensor) -> Tensor:
        """Map (n, T, n_in) into `out`, (n, T, n_out); gives `out`."""
        n, n_frames, n_in = x.shape
        if self.kernel > 1:
            frames = _reached_frames(n_frames, self.kernel, self.dilation)
            x = torch.index_select(x, 1, frames, out=scratch("reached", n, len(frames), n_in, dtype=x.dtype))
        flat = out.view(n * n_frames, -1)
        torch.addmm(self.bias, x.view(n * n_frames, -1), self.weight, out=flat)
        self.clamp(flat)
        return out

    def clamp(self, x: Tensor) -> None:
        """Keep (..., n_out) within the bounds, in place."""
        if self.floor is not None:
            torch.maximum(x, self.floor, out=x)
        if self.ceiling is not None:
            torch.minimum(x, self.ceiling, out=x)


@dataclass(frozen=True)
class _Block:
    """An SE-Res2 block; `squeeze` and `excite` work on the means over time, in float32."""

    tdnn1: _Layer
    res2: tuple[_Layer, ...]
    tdnn2: _Layer
    squeeze: _Layer
    excite: _Layer
    shortcut: _Layer | None

    def __call__(self, x: Tensor, scratch: _Scratch, out: Tensor) -> Tensor:
        """Map (n, T, n_in) into `out`, (n, T, n_out); gives `out`."""
        h = self.tdnn1(x, scratch, scratch("tdnn1", *out.shape, dtype=x.dtype))
        parts = h.chunk(len(self.res2) + 1, dim=2)
        source = scratch("source", *parts[0].shape, dtype=x.dtype)
        for i, layer in enumerate(self.res2):
            # Copied in any case: the result takes the place of the part that it is made from.
            source.copy_(parts[1]) if i == 0 else torch.add(parts[i + 1], parts[i], out=source)
            layer(source, scratch, parts[i + 1])
        h = self.tdnn2(h, scratch, scratch("tdnn2", *out.shape, dtype=x.dtype))
        gain = torch.relu(h.mean(1, dtype=torch.float32) @ self.squeeze.weight + self.squeeze.bias)
        gain = torch.sigmoid(gain @ self.excite.weight + self.excite.bias).to(h.dtype)
        if self.shortcut is not None:
            x = self.shortcut(x, scratch, scratch("shortcut", *out.shape, dtype=x.dtype))
        return torch.addcmul(x, h, gain[:, None], out=out)


class EcapaForward:
    """Features and network of a loaded SpeechBrain model, folded for inference.

    Parameters
    ----------
    compute_features, mean_var_norm, embedding_model
        Modules in eval mode: an `Fbank` (any sizes, without deltas and context), an `InputNormalization` by sentence,
        an `ECAPA_TDNN` of any sizes (ReLU, global context, no groups). Their weights are copied.
    dtype : torch.dtype
        Of the network: float32, or bfloat16 (features, means over time and the last layer stay float32).

    Attributes
    ----------
    dim : int
        Length of a vector.
    precision : str
        "float32" or "bfloat16".

    Raises
    ------
    NotStock
        Another class, or a setting that this forward does not know.
    """

    def __init__(
        self, compute_features: Any, mean_var_norm: Any, embedding_model: Any, dtype: torch.dtype = torch.float32
    ) -> None:
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.processing.features import InputNormalization

        self._mask: VoiceMask | None = None
        if type(compute_features) is MaskedFbank:
            compute_features, self._mask = compute_features.fbank, compute_features.mask
        for module, expected in (
            (compute_features, Fbank),
            (mean_var_norm, InputNormalization),
            (embedding_model, ECAPA_TDNN),
        ):
            if type(module) is not expected:
                raise NotStock(f"{type(module).__name__} in the place of {expected.__name__}")
        self._scratch = _Scratch()
        self._lock = Lock()  # two threads would write into one another's scratch
        self._take_features(compute_features)
        _require(mean_var_norm, norm_type="sentence", length_dim=1)
        self._std_norm = bool(mean_var_norm.std_norm)
        self._epsilon = float(mean_var_norm.epsilon)
        with torch.inference_mode():
            self._take_network(embedding_model, dtype)

    def _take_features(self, fbank: Any) -> None:
        _require(fbank, deltas=False, context=False)
        stft, mel = fbank.compute_STFT, fbank.compute_fbanks
        _require(stft, center=True, pad_mode="constant", normalized_stft=False, onesided=True)
        _require(mel, freeze=True, log_mel=True)
        self._n_fft, self._hop = int(stft.n_fft), int(stft.hop_length)
        # torch.stft puts a window shorter than the transform in its middle.
        left = (self._n_fft - stft.win_length) // 2
        right = self._n_fft - stft.win_length - left
        self._window = torch.nn.functional.pad(stft.window.float(), (left, right))
        n_bins = self._n_fft // 2 + 1
        matrix = mel._create_fbank_matrix(
            mel.f_central[:, None].expand(-1, n_bins), mel.band[:, None].expand(-1, n_bins)
        )
        # Squared real and imaginary parts lie beside each other: summing them is left to the matrix.
        self._mel = matrix.float().repeat_interleave(2, dim=0)
        self._amin, self._top_db = float(mel.amin), float(mel.top_db)
        self._multiplier, self._db_multiplier = float(mel.multiplier), float(mel.db_multiplier)

    def _take_network(self, net: Any, dtype: torch.dtype) -> None:
        first, *blocks = net.blocks
        self._first = _tdnn(first, dtype)
        self._blocks = [_se_res2(block, dtype) for block in blocks]
        self._n_block = [block.tdnn2.bias.shape[0] for block in self._blocks]
        asp = net.asp
        _require(asp, global_context=True)
        # Without the shift of its BatchNorm, so that a channel that is always off has variance 0 exactly; what comes
        # after takes the shift into its constants.
        mfa, shift = _tdnn_unshifted(net.mfa)
        self._mfa = _in_dtype(mfa, dtype)
        n_channels = len(shift)
        both = torch.cat([shift, torch.zeros_like(shift)])
        attend = _tdnn(asp.tdnn, torch.float32)
        own, context = attend.weight[:n_channels], attend.weight[n_channels:]
        self._context = _Layer(context, attend.bias + shift @ own + both @ context)
        self._attend = _in_dtype(replace(attend, weight=own), dtype)
        # Its bias is the same at all times, and so nothing to a softmax over time.
        logits = _conv(asp.conv)
        self._logits = logits.weight.to(dtype)
        # tanh gives at most 1.
        self._logits_are_small = float(logits.weight.abs().sum(0).max()) < _LARGEST_EXPONENT
        self._least_variance = float(asp.eps)
        scale, offset = _batch_norm(net.asp_bn)
        last = _conv(net.fc)
        self._last = _Layer(scale[:, None] * last.weight, last.bias + (scale * both + offset) @ last.weight)
        self._dtype = dtype
        self.precision = str(dtype).removeprefix("torch.")
        self.dim = len(last.bias)
        layers = [self._first, self._mfa, *(layer for block in self._blocks for layer in block.res2)]
        self._least_frames = 1 + max((layer.kernel - 1) * layer.dilation // 2 for layer in layers)

    @torch.inference_mode()
    def features(self, samples: Tensor) -> Tensor:
        """Turn sound into log-mel features, as `Fbank` does.

        Parameters
        ----------
        samples : (n, n_samples) float32
            One window a row.

        Returns
        -------
        (n, T, n_bands) float32
            dB, not yet normalised, at most `top_db` below the loudest of the window; masked ones beside them.
        """
        n, n_samples = samples.shape
        half = self._n_fft // 2
        n_frames = (n_samples + 2 * half - self._n_fft) // self._hop + 1
        with self._lock:
            # Zeros on both sides, as torch.stft centres a frame.
            padded = self._scratch("tdnn1", n, n_samples + 2 * half, dtype=torch.float32)
            padded[:, :half], padded[:, half + n_samples :] = 0, 0
            padded[:, half : half + n_samples] = samples
            frames = self._scratch("mfa", n, n_frames, self._n_fft, dtype=torch.float32)
            torch.mul(padded.unfold(1, self._n_fft, self._hop), self._window, out=frames)
            spectrum = self._scratch("spectrum", n, n_frames, half + 1, dtype=torch.complex64)
            torch.fft.rfft(frames, out=spectrum)
            squares = torch.view_as_real(spectrum).square_().flatten(2)
            mel = (squares @ self._mel).clamp_(min=self._amin).log10_().mul_(self._multiplier)
        mel -= self._multiplier * self._db_multiplier
        torch.maximum(mel, mel.amax((1, 2), keepdim=True) - self._top_db, out=mel)
        return mel if self._mask is None else beside(mel, self._mask(mel, self._dtype))

    @torch.inference_mode()
    def forward(self, features: Tensor) -> Tensor:
        """Turn features into vectors.

        Parameters
        ----------
        features : (n, T, n_mels) float32
            As `features` gives them; they stay as they are.

        Returns
        -------
        (n, dim) float32
            Not of unit length.

        Raises
        ------
        ValueError
            Fewer frames than the longest convolution reflects.
        """
        n, n_frames, _ = features.shape
        if n_frames < self._least_frames:
            raise ValueError(f"windows of {n_frames} frames; this model needs {self._least_frames}")
        with self._lock:
            x = features - features.mean(1, keepdim=True)
            if self._std_norm:
                x /= x.square().mean(1, keepdim=True).sqrt_().clamp_(min=self._epsilon)
            x = self._first(x.to(self._dtype), self._scratch, self._take("first", n, n_frames, self._first))
            # The blocks write beside one another into what the next layer reads.
            joined = self._scratch("joined", n, n_frames, sum(self._n_block), dtype=self._dtype)
            for block, out in zip(self._blocks, torch.split(joined, self._n_block, dim=2), strict=True):
                x = block(x, self._scratch, out)
            x = self._mfa(joined, self._scratch, self._take("mfa", n, n_frames, self._mfa))
            return self._pool(x)

    def _take(self, name: str, n: int, n_frames: int, layer: _Layer) -> Tensor:
        """Scratch memory for the output of a layer."""
        return self._scratch(name, n, n_frames, len(layer.bias), dtype=self._dtype)

    def _pool(self, x: Tensor) -> Tensor:
        """Pool (n, T, n_channels) by attention and map to (n, dim)."""
        n, n_frames, _ = x.shape
        # Used three times over: for the squares, the logits and the weights.
        weights = self._scratch("weights", *x.shape, dtype=torch.float32)
        context = torch.cat(_mean_and_std(x, weights, self._least_variance), 1) @ self._context.weight
        h = self._take("tdnn1", n, n_frames, self._attend)
        torch.mm(x.view(n * n_frames, -1), self._attend.weight, out=h.view(n * n_frames, -1))
        h += (context + self._context.bias).to(self._dtype)[:, None]
        self._attend.clamp(h)
        logits = weights if self._dtype == torch.float32 else self._scratch("logits", *x.shape, dtype=self._dtype)
        torch.mm(h.tanh_().view(n * n_frames, -1), self._logits, out=logits.view(n * n_frames, -1))
        if logits is not weights:
            weights.copy_(logits)
        if not self._logits_are_small:
            weights -= weights.amax(1, keepdim=True)
        weights.exp_()
        total = weights.sum(1)
        mean = weights.mul_(x).sum(1) / total
        variance = weights.mul_(x).sum(1) / total - mean.square()
        statistics = torch.cat([mean, variance.clamp_(min=self._least_variance).sqrt_()], 1)
        return statistics @ self._last.weight + self._last.bias


def _mean_and_std(x: Tensor, square: Tensor, least_variance: float) -> tuple[Tensor, Tensor]:
    """Means and standard deviations over time of (n, T, n_channels): (n, n_channels) float32 each.

    `square` is float32 memory of the shape of `x` for its squares.
    """
    mean = x.mean(1, dtype=torch.float32)
    wide = x if x.dtype == torch.float32 else x.float()
    variance = torch.square(wide, out=square).mean(1) - mean.square()
    return mean, variance.clamp_(min=least_variance).sqrt_()


@lru_cache(maxsize=32)
def _reached_frames(n_frames: int, kernel: int, dilation: int) -> Tensor:
    """Frames that a convolution reaches from each frame, reflected at the edges: (n_frames * kernel,) int64."""
    reach = dilation * (kernel - 1) // 2
    frames = (torch.arange(n_frames)[:, None] + torch.arange(-reach, reach + 1, dilation)).abs()
    return torch.minimum(frames, 2 * (n_frames - 1) - frames).flatten()


# --- folding ----------------------------------------------------------------------------------------------------------


def _require(module: Any, **settings: Any) -> None:
    for name, value in settings.items():
        if getattr(module, name) != value:
            raise NotStock(f"{type(module).__name__}.{name} is {getattr(module, name)!r}, not {value!r}")


def _conv(conv: Any) -> _Layer:
    """Take a SpeechBrain Conv1d as a float32 layer without bounds."""
    inner = conv.conv
    if type(inner) is not torch.nn.Conv1d:
        raise NotStock(f"{type(inner).__name__} in the place of Conv1d")
    kernel, dilation = inner.kernel_size[0], inner.dilation[0]
    _require(inner, stride=(1,), groups=1, padding=(0,))
    if kernel > 1:
        _require(conv, padding="same", padding_mode="reflect")
    if kernel % 2 == 0 or inner.bias is None:
        raise NotStock(f"a convolution with a kernel of {kernel}, {'with' if inner.bias is not None else 'no'} bias")
    weight = inner.weight.detach().float().permute(2, 1, 0).flatten(0, 1)
    return _Layer(weight.contiguous(), inner.bias.detach().float(), kernel=kernel, dilation=dilation)


def _batch_norm(norm: Any) -> tuple[Tensor, Tensor]:
    """Give scale and shift of a SpeechBrain BatchNorm1d, in float32."""
    inner = norm.norm
    _require(inner, affine=True, track_running_stats=True)
    scale = inner.weight.detach().double() / (inner.running_var.double() + inner.eps).sqrt()
    shift = inner.bias.detach().double() - inner.running_mean.double() * scale
    return scale.float(), shift.float()


def _tdnn_unshifted(block: Any) -> tuple[_Layer, Tensor]:
    """Fold convolution, ReLU and scale of a TDNNBlock; gives the shift that is left to be added."""
    if type(block.activation) is not torch.nn.ReLU:
        raise NotStock(f"{type(block.activation).__name__} in the place of ReLU")
    conv = _conv(block.conv)
    scale, shift = _batch_norm(block.norm)
    is_falling = scale < 0
    zero, unbounded = torch.zeros_like(shift), torch.full_like(shift, torch.inf)
    layer = replace(
        conv,
        weight=conv.weight * scale,
        bias=conv.bias * scale,
        floor=torch.where(is_falling, -unbounded, zero),
        ceiling=torch.where(is_falling, zero, unbounded) if is_falling.any() else None,
    )
    return layer, shift


def _tdnn(block: Any, dtype: torch.dtype) -> _Layer:
    """Fold a TDNNBlock whole."""
    layer, shift = _tdnn_unshifted(block)
    floor, ceiling = (None if bound is None else bound + shift for bound in (layer.floor, layer.ceiling))
    return _in_dtype(replace(layer, bias=layer.bias + shift, floor=floor, ceiling=ceiling), dtype)


def _se_res2(block: Any, dtype: torch.dtype) -> _Block:
    return _Block(
        _tdnn(block.tdnn1, dtype),
        tuple(_tdnn(layer, dtype) for layer in block.res2net_block.blocks),
        _tdnn(block.tdnn2, dtype),
        _conv(block.se_block.conv1),
        _conv(block.se_block.conv2),
        None if block.shortcut is None else _in_dtype(_conv(block.shortcut), dtype),
    )


def _in_dtype(layer: _Layer, dtype: torch.dtype) -> _Layer:
    tensors = {name: getattr(layer, name) for name in ("weight", "bias", "floor", "ceiling")}
    return replace(layer, **{name: tensor.to(dtype) for name, tensor in tensors.items() if tensor is not None})
