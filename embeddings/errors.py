"""What can be wrong with a recording or with a model."""

from __future__ import annotations

from pathlib import Path


class EmbeddingError(Exception):
    """A recording or a model cannot be used; the message names the thing and the next step."""


#: What can be wrong with a recording, and what a person is told it means.
INVALID_AUDIO_KINDS = {
    "missing": "there is no such file",
    "not_a_file": "a folder, FIFO, socket or device, not a regular file",
    "unreadable": "the file system refused to read it",
    "empty": "0 bytes, or a header with no samples",
    "not_audio": "no decoder recognises it",
    "unsupported": "audio of a kind Likeness does not decode, or not without the extra [media]",
    "truncated": "the file ends before its header says, or the decoder fails midway",
    "silent": "no sample above the silence floor",
    "not_finite": "NaN or infinite samples",
    "limit": "longer, or more samples or memory to decode, than is allowed",
    "timeout": "decoding came to no end within the time allowed",
    "crashed": "the process that decoded it died, twice",
}


class InvalidAudio(EmbeddingError):
    """A file that cannot be used as a recording.

    Parameters
    ----------
    kind : str
        One of `INVALID_AUDIO_KINDS`; stable, for machines.
    reason : str
        For people: the value met, the limit, the next step. Without the path.
    path : Path, optional
        The file; put in front of the reason.
    """

    def __init__(self, kind: str, reason: str, path: Path | str | None = None) -> None:
        if kind not in INVALID_AUDIO_KINDS:
            raise ValueError(f"unknown kind of invalid audio: {kind!r}")
        self.kind = kind
        self.reason = reason
        self.path = None if path is None else Path(path)
        super().__init__(kind, reason, path)  # all of it, so that the error survives a pipe between processes

    def __str__(self) -> str:
        return self.reason if self.path is None else f"{self.path}: {self.reason}"


class ModelError(EmbeddingError):
    """An encoder cannot be loaded or does not do what it should."""


class ModelUnavailable(ModelError):
    """The model's files are not here and cannot be fetched."""


class ModelDamaged(ModelError):
    """The model's files differ from what was published or recorded."""


class ModelUntrusted(ModelError):
    """A model directory is code; this one has not been allowed to run."""
