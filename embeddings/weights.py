"""Weights without pickle, for model directories whose hyperparams.yaml names `load_safetensors` as a loading hook.

    pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
        loadables:
            embedding_model: !ref <embedding_model>
        paths:
            embedding_model: !ref <pretrained_path>/embedding_model.safetensors
        custom_hooks:
            embedding_model: !name:embeddings.weights.load_safetensors

SpeechBrain by itself loads ``.ckpt`` files only, by ``torch.load``; where names differ it logs a warning and goes on
with random weights.
"""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file


def load_safetensors(module: Any, path: str) -> None:
    """Give a torch module the weights of a safetensors file, all of them and no others.

    Parameters
    ----------
    module : torch.nn.Module
    path : str

    Raises
    ------
    RuntimeError
        Tensors are missing, too many or of another shape: torch's, which names each. `SpeechBrainEncoder` makes it a
        `ModelError`.
    """
    module.load_state_dict(load_file(path, device="cpu"), strict=True)
