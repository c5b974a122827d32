"""Runs over inputs as `likeness batch` makes them, but in this process, with the encoder in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.limits import DEFAULT_LIMITS, Limits
from embeddings.model_dir import model_digest
from embeddings.workers import EncoderProcess
from registry.batch import open_run
from registry.manifest import list_items
from registry.match import Matcher
from registry.pipeline import Pipeline
from registry.records import Run, Scan
from registry.store import Store
from tests.cli_fakes import REPO, Cli, FakeEncoder, SlowEncoder


class UnhurriedEncoder(SlowEncoder):
    """Leaves some time for things to happen in."""

    delay_s = 0.03


class HopelessEncoder(FakeEncoder):
    """Is killed by whatever it is given, as where there is too little memory."""

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_windows(samples)


@contextmanager
def other_process() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that does nothing but live, and its name as the owner of a lease."""
    code = "from registry.owner import this_process; print(this_process(), flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def start_encoder(model: Path, encoder_class: type[FakeEncoder] = FakeEncoder) -> EncoderProcess:
    return EncoderProcess(partial(encoder_class, str(model)), str(model), [model_digest(model)])


class Batch:
    """Runs over inputs on one registry.

    Parameters
    ----------
    encoder : EncoderProcess
        The caller's; where it dies, others are started with `encoder_class`, and closed by `close`.

    Attributes
    ----------
    outcomes : list
        What was reported: row and scan of each track.
    """

    def __init__(
        self, cli: Cli, store: Store, encoder: EncoderProcess, encoder_class: type[FakeEncoder] = FakeEncoder
    ) -> None:
        self.cli, self.store, self.encoder, self._encoder_class = cli, store, encoder, encoder_class
        self.started: list[EncoderProcess] = []
        self.said: list[str] = []
        self.outcomes: list[tuple[dict[str, Any], Scan | None]] = []

    def start_encoder(self) -> EncoderProcess:
        self.started.append(start_encoder(self.cli._model, self._encoder_class))
        return self.started[-1]

    def close(self) -> None:
        for encoder in self.started:
            encoder.close()

    def open(self, *inputs: Path, threshold: float | None = None, budget: float | None = None, **choice: bool) -> Run:
        self.matcher = Matcher(self.store, self.encoder, self.said.append, threshold=threshold, budget=budget)
        return open_run(self.store, self.matcher, inputs, list_items(inputs), self.said.append, **choice)

    def examine(
        self, *inputs: Path, n_workers: int = 1, limits: Limits = DEFAULT_LIMITS, pipeline: type[Pipeline] = Pipeline
    ) -> Run:
        run = self.open(*inputs)
        self.pipeline = pipeline(self.store, self.matcher, self.encoder, self.start_encoder, n_workers, limits)
        self.n_left = self.pipeline.run(run, self.report)
        return run

    def report(self, item: dict[str, Any], scan: Scan | None) -> None:
        self.outcomes.append((item, scan))

    def by_name(self) -> dict[str, dict[str, Any]]:
        """What was reported of each track, by file name; each was reported once."""
        assert max(Counter(item["position"] for item, _ in self.outcomes).values()) == 1
        return {Path(item["path"]).name: item for item, _ in self.outcomes}
