from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from embeddings.errors import ModelError
from embeddings.extract import embed_file
from embeddings.limits import DEFAULT_LIMITS, Limits
from embeddings.vocals import Windows
from embeddings.workers import EncoderProcess
from registry import runs
from registry.erasure import erase_artist
from registry.errors import EncoderMismatch, RegistryError
from registry.match import Matcher
from registry.pipeline import Pipeline, _Track
from registry.records import Scan
from registry.store import Store
from tests.batches import Batch, HopelessEncoder, other_process, start_encoder
from tests.cli_fakes import RATE_HZ, Cli, FakeEncoder, SlowEncoder, write_csv

pytest_plugins = ["tests.cli_fixtures"]


@pytest.fixture(scope="module")
def encoder(model) -> Iterator[EncoderProcess]:
    encoder = start_encoder(model)
    yield encoder
    encoder.close()


@pytest.fixture
def batch(enrolled, encoder) -> Iterator[Batch]:
    with enrolled.store() as store:
        yield Batch(enrolled, store, encoder)


@pytest.fixture
def batch_with(enrolled, model) -> Iterator[Any]:
    """Makes a batch with an encoder of another class."""
    with enrolled.store() as store, ExitStack() as opened:

        def make(encoder_class: type[FakeEncoder]) -> Batch:
            encoder = opened.enter_context(closing(start_encoder(model, encoder_class)))
            return opened.enter_context(closing(Batch(enrolled, store, encoder, encoder_class)))

        yield make


def as_queried(cli: Cli, store: Store, path: Path, matcher: Matcher) -> Scan:
    return matcher.scan(str(path), embed_file(path, FakeEncoder(cli._model)))


def test_every_track_has_one_outcome_and_the_same_as_a_query(batch):
    """Songs longer than a chunk, shorter than a window and alike are mixed, so that windows travel in company."""
    cli = batch.cli
    good = [
        cli.sing("in/ada.wav", 1, song=3),
        cli.sing("in/bo.wav", 2, song=4),
        cli.sing("in/nobody.wav", 3),
        cli.sing("in/long.wav", 1, song=2, duration_s=80.0),
        cli.sing("in/short.wav", 2, song=1, duration_s=2.5),
        cli.sing("in/again.wav", 1, song=3),
        cli.sing("in/two\nlines.wav", 1, song=5),
    ]
    soundfile.write(cli.folder / "in/noise.wav", np.random.default_rng(0).normal(0, 0.1, 6 * RATE_HZ), RATE_HZ)
    soundfile.write(cli.folder / "in/silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    (cli.folder / "in/text.wav").write_text("not audio")
    (cli.folder / "in/empty.flac").touch()
    os.mkfifo(cli.folder / "in/pipe.wav")

    run = batch.examine(cli.folder / "in", n_workers=2)

    outcomes = batch.by_name()
    assert {name: (item["outcome"], item["kind"]) for name, item in outcomes.items()} == {
        "ada.wav": ("flagged", None),
        "bo.wav": ("flagged", None),
        "nobody.wav": ("clear", None),
        "long.wav": ("flagged", None),
        "short.wav": ("flagged", None),
        "again.wav": ("flagged", None),
        "two\nlines.wav": ("flagged", None),
        "noise.wav": ("abstained", None),
        "silent.wav": ("failed", "silent"),
        "text.wav": ("failed", "not_audio"),
        "empty.flac": ("failed", "empty"),
        "pipe.wav": ("failed", "not_a_file"),
    }
    assert outcomes["pipe.wav"]["reason"] == "a FIFO, not a regular file"
    by_path = {scan.path: scan for _, scan in batch.outcomes if scan is not None}
    for path in good:
        queried = as_queried(cli, batch.store, path, batch.matcher)
        scan = by_path[str(path)]
        assert scan.matches == queried.matches
        assert (scan.verdict, scan.reason, scan.content_id) == (queried.verdict, queried.reason, queried.content_id)
        assert (scan.voiced_s, scan.duration_s, scan.n_windows) == (
            queried.voiced_s,
            queried.duration_s,
            queried.n_windows,
        )
    assert by_path[str(good[0])].matches[0].artist == "Ada"
    assert runs.run_outcomes(batch.store, run.run_id) == {"flagged": 6, "clear": 1, "abstained": 1, "failed": 4}
    assert len(batch.store.rows("SELECT * FROM scans WHERE run_id = ?", [run.run_id])) == 8
    assert runs.get_run(batch.store, run.run_id).finished_at is not None


def test_a_track_whose_name_is_not_utf_8_is_examined(batch):
    song = batch.cli.sing("a.wav", 1)
    folder = batch.cli.folder / "in"
    folder.mkdir()
    song.rename(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")))

    batch.examine(folder)

    ((item, scan),) = batch.outcomes
    assert item["outcome"] == "flagged"
    assert item["path"] == scan.path == f"file://{folder}/caf%E9.wav"
    json.dumps(item, ensure_ascii=False).encode("utf-8")


def test_a_run_whose_last_tracks_have_no_path_ends(batch):
    """No decoder sees them, so there is nothing to wait for."""
    manifest = write_csv(batch.cli.folder / "m.csv", [["path", "title"], ["", "A"], ["", "B"]])

    run = batch.examine(manifest)

    assert [(item["outcome"], item["kind"]) for item, _ in batch.outcomes] == [("failed", "missing")] * 2
    assert runs.get_run(batch.store, run.run_id).finished_at is not None


def test_more_workers_than_tracks_are_not_started(batch, monkeypatch):
    started = []
    monkeypatch.setattr(
        Pipeline, "_new_decoder", lambda self, new=Pipeline._new_decoder: started.append(1) or new(self)
    )

    batch.examine(batch.cli.sing("a.wav", 1), n_workers=50)

    assert batch.by_name()["a.wav"]["outcome"] == "flagged"
    assert len(started) == 1


def test_an_artist_who_is_removed_while_a_batch_runs_is_in_no_later_outcome(batch, monkeypatch):
    for number in range(4):
        batch.cli.sing(f"in/{number}.wav", 1, song=number)

    def remove_ada(item: dict[str, Any], scan: Scan | None) -> None:
        if not batch.outcomes:
            erase_artist(batch.store, "Ada", batch.said.append)
        batch.outcomes.append((item, scan))

    monkeypatch.setattr("registry.pipeline.BATCH_WINDOWS", 1)
    monkeypatch.setattr(batch, "report", remove_ada)
    batch.examine(batch.cli.folder / "in")

    matched = [{match.artist for match in scan.matches} for _, scan in batch.outcomes]
    assert matched == [{"Ada", "Bo"}, {"Bo"}, {"Bo"}, {"Bo"}]


# -- the encoder's share ----------------------------------------------------------------------------------------------


class Inbox:
    """Where an encoder would be; notes what it is given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def start(self, samples: np.ndarray) -> None:
        self.shapes.append(samples.shape)


def some_windows(n_windows: int, n_samples: int) -> Windows:
    return Windows(np.zeros((n_windows, n_samples), np.float32), np.zeros(n_windows), np.zeros(n_windows))


def test_windows_travel_together_up_to_a_batch_and_only_with_others_of_their_length():
    inbox = Inbox()
    pipeline = Pipeline(None, None, inbox, None, 1, DEFAULT_LIMITS)

    for n_windows, n_samples in [(20, 64000), (11, 64000), (20, 64000), (5, 64000), (1, 40000), (32, 64000)]:
        pipeline._ready.append((None, some_windows(n_windows, n_samples)))
    pipeline._feed_encoder()
    pipeline._feed_encoder()
    pipeline._embedding.clear()  # as if it had answered
    pipeline._feed_encoder()

    assert inbox.shapes == [(51, 64000), (5, 64000), (1, 40000), (32, 64000)]
    assert not pipeline._ready


class Counting(Pipeline):
    """Notes how many windows wait for the encoder, and how many are with it."""

    most_waiting = most_embedding = 0

    def _feed_encoder(self) -> None:
        self.most_waiting = max(self.most_waiting, sum(len(windows.start_s) for _, windows in self._ready))
        super()._feed_encoder()
        with_encoder = [len(windows.start_s) for batch in self._embedding for _, windows in batch]
        self.most_embedding = max(self.most_embedding, sum(with_encoder))


class SlowishEncoder(SlowEncoder):
    delay_s = 0.05


def test_a_slow_encoder_does_not_let_windows_pile_up(batch_with, monkeypatch):
    """Memory is bounded by windows, not by recordings: decoders wait for the encoder."""
    monkeypatch.setattr("registry.pipeline.BATCH_WINDOWS", 2)
    monkeypatch.setattr("registry.pipeline.WAITING_WINDOWS", 6)
    batch = batch_with(SlowishEncoder)
    for number in range(12):
        batch.cli.sing(f"in/{number}.wav", 1, song=number % 4, duration_s=10.0)  # 4 windows each

    batch.examine(batch.cli.folder / "in", n_workers=3, pipeline=Counting)

    assert {item["outcome"] for item in batch.by_name().values()} == {"flagged"}
    # Just below the limit all three decoders may be asked once more.
    assert 6 <= batch.pipeline.most_waiting <= 5 + 3 * 4
    # Two batches, each begun with a window and ended by a chunk of four.
    assert batch.pipeline.most_embedding <= 2 * (1 + 4)


# -- what takes a decoder with it --------------------------------------------------------------------------------------


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


class Murder(Pipeline):
    """Kills the decoder of `long.wav`, twice, after its first chunk and before it is asked for the next."""

    n_kills = 2

    def _take_windows(self, track: Any) -> None:
        super()._take_windows(track)
        self._murder(track)

    def _murder(self, track: Any) -> None:
        if Path(track.item["path"]).name == "long.wav" and self.n_kills:
            self.n_kills -= 1
            kill(track.decoder._process)


class EarlyMurder(Murder):
    """Kills it while it works on the first chunk."""

    def _begin(self, item: dict[str, Any]) -> None:
        super()._begin(item)
        for track in self._busy.values():
            self._murder(track)

    def _take_windows(self, track: Any) -> None:
        Pipeline._take_windows(self, track)


def attempts(batch: Batch) -> dict[str, int]:
    rows = batch.store.rows("SELECT path, attempts FROM run_tracks")
    return {Path(row["path"]).name: row["attempts"] for row in rows if row["attempts"]}


@pytest.mark.parametrize("pipeline", [Murder, EarlyMurder])
def test_a_track_whose_decoder_dies_twice_fails_after_all_others_are_done(batch, pipeline):
    batch.cli.sing("in/a.wav", 1)
    batch.cli.sing("in/long.wav", 1, duration_s=80.0)
    batch.cli.sing("in/z.wav", 2)

    run = batch.examine(batch.cli.folder / "in", pipeline=pipeline)

    outcomes = batch.by_name()
    assert {name: item["outcome"] for name, item in outcomes.items()} == {
        "a.wav": "flagged",
        "z.wav": "flagged",
        "long.wav": "failed",
    }
    assert [*outcomes][-1] == "long.wav"
    assert outcomes["long.wav"]["kind"] == "crashed"
    assert outcomes["long.wav"]["reason"].startswith("the process that decoded it was ended by SIGKILL (out of mem")
    assert attempts(batch) == {"long.wav": 2}
    assert runs.get_run(batch.store, run.run_id).finished_at is not None


class Single(Murder):
    """Kills it once, and notes how it is tried again."""

    n_kills = 1

    def _begin(self, item: dict[str, Any]) -> None:
        before = set(self._decoders)
        is_alone = not self._is_under_way()
        super()._begin(item)
        if item["attempts"]:
            (track,) = self._busy.values()
            self.tried_again = is_alone, track.decoder not in before


def test_a_track_whose_decoder_died_once_is_tried_again_alone_in_a_new_one(batch):
    batch.cli.sing("in/a.wav", 1)
    batch.cli.sing("in/long.wav", 1, duration_s=80.0)
    batch.cli.sing("in/z.wav", 2)

    batch.examine(batch.cli.folder / "in", n_workers=2, pipeline=Single)

    assert {item["outcome"] for item in batch.by_name().values()} == {"flagged"}
    assert attempts(batch) == {"long.wav": 1}
    assert batch.pipeline.tried_again == (True, True)


def test_a_run_ends_when_the_decoder_of_its_only_track_is_killed(batch):
    run = batch.examine(batch.cli.sing("long.wav", 1, duration_s=80.0), pipeline=Murder)

    assert batch.by_name()["long.wav"]["kind"] == "crashed"
    assert runs.get_run(batch.store, run.run_id).finished_at is not None


class Stupor(Pipeline):
    """Holds the decoder of `b.wav` in the middle of its work."""

    def _begin(self, item: dict[str, Any]) -> None:
        super()._begin(item)
        if Path(item["path"]).name == "b.wav":
            (track,) = self._busy.values()
            os.kill(track.decoder._process.pid, signal.SIGSTOP)


def test_a_track_that_cannot_be_read_in_time_fails_at_once(batch):
    batch.cli.sing("in/a.wav", 1)
    batch.cli.sing("in/b.wav", 1)
    batch.cli.sing("in/c.wav", 1)

    batch.examine(batch.cli.folder / "in", pipeline=Stupor, limits=Limits(stall_s=2.0))

    outcomes = batch.by_name()
    assert {name: (item["outcome"], item["kind"]) for name, item in outcomes.items()} == {
        "a.wav": ("flagged", None),
        "b.wav": ("failed", "timeout"),
        "c.wav": ("flagged", None),
    }
    assert attempts(batch) == {"b.wav": 1}


class IdleMurder(Pipeline):
    """Kills a decoder when it waits for its second track."""

    def _begin(self, item: dict[str, Any]) -> None:
        if item["position"] == 1 and self._idle:
            kill(self._idle[0]._process)
        super()._begin(item)


def test_a_decoder_that_dies_idle_costs_no_track(batch):
    batch.cli.sing("in/a.wav", 1)
    batch.cli.sing("in/b.wav", 2)

    batch.examine(batch.cli.folder / "in", pipeline=IdleMurder)

    assert {item["outcome"] for item in batch.by_name().values()} == {"flagged"}
    assert attempts(batch) == {}


# -- what takes the encoder with it ------------------------------------------------------------------------------------


class PoisonedEncoder(FakeEncoder):
    """Takes its time, so that windows travel in company, and is killed by one that is too quiet."""

    def embed_windows(self, samples: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        if np.abs(samples).max(axis=1).min() < 0.1:
            self.fall_ill()
        return super().embed_windows(samples)

    def fall_ill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RefusingEncoder(PoisonedEncoder):
    def fall_ill(self) -> None:
        raise ModelError("not finite")


class HangingEncoder(PoisonedEncoder):
    def fall_ill(self) -> None:
        time.sleep(600)


class UnlikeEncoder(FakeEncoder):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.encoder_id = "b" * 64


class Company(Pipeline):
    """Notes with how many chunks each that was poisonous travelled."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.company: list[int] = []

    def _take_vectors(self) -> None:
        if any("poison" in track.item["path"] for track, _ in self._embedding[0]):
            self.company.append(len(self._embedding[0]))
        super()._take_vectors()


def sing_with_poison(cli: Cli, n_songs: int = 10) -> Path:
    """Songs of Ada, and one among them that is 20 dB below the others."""
    for number in range(n_songs):
        cli.sing(f"in/{number}.wav", 1, song=number % 4)
    path = cli.sing("in/4-poison.wav", 1, song=5)
    soundfile.write(path, 0.1 * soundfile.read(path)[0], RATE_HZ, subtype="PCM_16")
    return path.parent


@pytest.mark.parametrize(
    ("encoder_class", "kind", "reason"),
    [
        (PoisonedEncoder, "crashed", "the process that runs the encoder was ended by SIGKILL (out of memory?)"),
        (HangingEncoder, "timeout", "the process that runs the encoder gave no answer for 3 s"),
    ],
)
def test_a_track_that_takes_the_encoder_with_it_fails_and_those_with_it_do_not(
    batch_with, monkeypatch, encoder_class, kind, reason
):
    monkeypatch.setattr("registry.pipeline.ENCODER_S", 3.0)
    batch = batch_with(encoder_class)

    run = batch.examine(sing_with_poison(batch.cli), n_workers=2, pipeline=Company)

    outcomes = batch.by_name()
    poison = outcomes.pop("4-poison.wav")
    assert (poison["outcome"], poison["kind"], poison["reason"]) == ("failed", kind, reason)
    assert len(outcomes) == 10
    assert {item["outcome"] for item in outcomes.values()} == {"flagged"}
    times_blamed = attempts(batch)
    assert times_blamed.pop("4-poison.wav") == 2
    assert set(times_blamed.values()) <= {1}
    assert len(batch.started) == 2
    assert runs.get_run(batch.store, run.run_id).finished_at is not None


def test_a_track_that_the_model_has_no_vectors_for_fails_and_those_with_it_do_not(batch_with):
    batch = batch_with(RefusingEncoder)

    batch.examine(sing_with_poison(batch.cli), n_workers=2, pipeline=Company)

    outcomes = batch.by_name()
    poison = outcomes.pop("4-poison.wav")
    assert (poison["outcome"], poison["kind"], poison["reason"]) == ("failed", "model_failed", "not finite")
    assert len(outcomes) == 10
    assert {item["outcome"] for item in outcomes.values()} == {"flagged"}
    assert max(batch.pipeline.company) > 1
    assert batch.pipeline.company[-1] == 1
    assert (attempts(batch), batch.started) == ({}, [])


def test_an_encoder_that_always_dies_stops_the_run_and_no_track_is_blamed(batch_with, encoder):
    batch = batch_with(HopelessEncoder)
    for number in range(25):
        batch.cli.sing(f"in/{number:02d}.wav", 1, song=number % 4)
    folder = batch.cli.folder / "in"

    with pytest.raises(RegistryError, match=r"run 1: the encoder died 5 times in a row \(.* SIGKILL .*; does"):
        batch.examine(folder)

    assert len(batch.started) == 4
    assert batch.outcomes == []
    assert batch.store.rows("SELECT lease_owner FROM run_tracks WHERE lease_owner IS NOT NULL") == []
    batch.encoder = encoder
    run = batch.examine(folder)
    assert runs.run_outcomes(batch.store, run.run_id) == {"flagged": 25}


def test_a_track_is_not_failed_for_one_that_was_let_go_and_shared_its_batch():
    inbox = Inbox()
    pipeline = Pipeline(None, None, inbox, None, 1, DEFAULT_LIMITS)
    let_go, other = (_Track({"position": i}, None) for i in range(2))
    let_go.is_dropped = True

    pipeline._isolate([(track, some_windows(3, 64000)) for track in (let_go, other)], ModelError("not finite"))

    assert inbox.shapes == [(3, 64000)]
    assert [track for track, _ in pipeline._embedding.popleft()] == [other]
    assert not other.is_dropped


class EncoderMurder(Pipeline):
    """Kills the encoder before it is given anything."""

    def _feed_encoder(self) -> None:
        if self._ready and self._encoder._process.is_alive() and not self._n_encoder_deaths:
            kill(self._encoder._process)
        super()._feed_encoder()


def test_an_encoder_that_dies_idle_is_replaced_and_no_track_is_blamed(batch_with):
    batch = batch_with(FakeEncoder)

    batch.examine(batch.cli.sing("a.wav", 1), pipeline=EncoderMurder)

    assert batch.by_name()["a.wav"]["outcome"] == "flagged"
    assert (attempts(batch), len(batch.started)) == ({}, 1)


def test_a_run_stops_where_no_other_encoder_can_be_started(batch_with, monkeypatch):
    batch = batch_with(HopelessEncoder)

    def start() -> EncoderProcess:
        raise ModelError("its files are gone")

    monkeypatch.setattr(batch, "start_encoder", start)
    with pytest.raises(RegistryError, match=r"run 1: the encoder died \(.*\), and another could not be started: its"):
        batch.examine(batch.cli.sing("a.wav", 1))

    assert runs.run_outcomes(batch.store, 1) == {"open": 1}


def test_a_run_does_not_go_on_with_an_encoder_that_has_become_another(batch_with, model, monkeypatch):
    batch = batch_with(HopelessEncoder)
    with closing(start_encoder(model, UnlikeEncoder)) as unlike:
        monkeypatch.setattr(batch, "start_encoder", lambda: unlike)

        with pytest.raises(EncoderMismatch, match=r"the one in its place is another: bbbbbbbbbbbb, not aaaaaaaaaaaa"):
            batch.examine(batch.cli.sing("a.wav", 1))


# -- the queue that several processes share ----------------------------------------------------------------------------


def leases(batch: Batch) -> dict[int, str]:
    rows = batch.store.rows("SELECT position, lease_owner FROM run_tracks WHERE lease_owner IS NOT NULL")
    return {row["position"]: row["lease_owner"] for row in rows}


def test_what_a_living_process_has_is_left_to_it_and_the_run_with_it(batch):
    a, b = batch.cli.sing("a.wav", 1), batch.cli.sing("b.wav", 2)
    run = batch.open(a, b)
    with other_process() as (owner, _):
        with batch.store.writing():
            runs.take_leases(batch.store, run.run_id, owner, 1, tried=False)

        batch.examine(a, b)

        assert [*batch.by_name()] == ["b.wav"]
        assert batch.n_left == 1
        assert leases(batch) == {0: owner}
        assert runs.get_run(batch.store, run.run_id).finished_at is None
    batch.examine(a, b)  # it has ended, and its lease with it
    assert [*batch.by_name()] == ["b.wav", "a.wav"]
    assert (batch.n_left, leases(batch)) == (0, {})
    assert runs.get_run(batch.store, run.run_id).finished_at is not None


class TakenOver(Pipeline):
    """Loses `a.wav` to another process just before it is decided, as after a long sleep."""

    def _finish_if_complete(self, track: Any) -> None:
        if track.item["position"] == 0:
            self._store.db.execute("UPDATE run_tracks SET lease_owner = 'elsewhere 1 1' WHERE position = 0")
        super()._finish_if_complete(track)


def test_a_track_that_was_taken_over_meanwhile_is_left_to_who_has_it(batch):
    batch.cli.sing("in/a.wav", 1)
    batch.cli.sing("in/b.wav", 2)

    run = batch.examine(batch.cli.folder / "in", pipeline=TakenOver)

    assert [*batch.by_name()] == ["b.wav"]
    assert batch.n_left == 1
    assert leases(batch) == {0: "elsewhere 1 1"}
    assert [row["path"] for row in batch.store.rows("SELECT path FROM scans")] == [str(batch.cli.folder / "in/b.wav")]
    assert runs.get_run(batch.store, run.run_id).finished_at is None


def test_a_run_that_is_stopped_puts_back_what_it_has(batch, monkeypatch):
    for number in range(6):
        batch.cli.sing(f"in/{number}.wav", 1)

    def stop(item: dict[str, Any], scan: Scan | None) -> None:
        before.append(leases(batch))
        raise KeyboardInterrupt("in the middle")

    before: list[dict[int, str]] = []
    monkeypatch.setattr(batch, "report", stop)
    with pytest.raises(KeyboardInterrupt, match="in the middle"):
        batch.examine(batch.cli.folder / "in")

    assert 0 < len(before[0]) < 6
    assert leases(batch) == {}
    assert runs.run_outcomes(batch.store, 1) == {"flagged": 1, "open": 5}


def test_leases_are_renewed_while_tracks_are_under_way(batch_with, monkeypatch):
    monkeypatch.setattr("registry.pipeline.RENEW_S", 0.0)
    batch = batch_with(SlowEncoder)
    for number in range(4):
        batch.cli.sing(f"in/{number}.wav", 1)
    expiries: list[float] = []

    def report(item: dict[str, Any], scan: Scan | None) -> None:
        rows = batch.store.rows("SELECT lease_expires_s AS s FROM run_tracks WHERE lease_owner IS NOT NULL")
        expiries.extend(row["s"] for row in rows)
        batch.store.db.execute("UPDATE run_tracks SET lease_expires_s = 0 WHERE lease_owner IS NOT NULL")

    monkeypatch.setattr(batch, "report", report)
    monkeypatch.setattr("registry.pipeline.BATCH_WINDOWS", 1)
    batch.examine(batch.cli.folder / "in")

    assert len(expiries) == 3 + 2 + 1
    assert min(expiries) > time.time()
