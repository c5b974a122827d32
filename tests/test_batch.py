from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from embeddings.extract import embed_file
from embeddings.model_dir import model_digest
from embeddings.vocals import Windows
from embeddings.workers import EncoderProcess, WorkerDied
from registry import scans
from registry.batch import Pipeline, open_run
from registry.errors import ManifestError, RunMismatch
from registry.manifest import list_items
from registry.match import Matcher
from registry.records import BatchItem, Run, Scan, path_of, path_text
from registry.store import Store
from tests.cli_fakes import RATE_HZ, Cli, DyingEncoder, FakeEncoder, SlowEncoder, write_csv

pytest_plugins = ["tests.cli_fixtures"]

# -- what is to be examined --------------------------------------------------------------------------------------------


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_folder_is_searched_to_any_depth_for_what_looks_like_audio(tmp_path):
    for name in ("b.wav", "a.FLAC", "deep/er/c.mp3", "cover.jpg", "notes.txt", "d.wav/e.ogg"):
        touch(tmp_path / name)

    items = list_items([tmp_path])

    assert items == [BatchItem(str(tmp_path / name)) for name in ("a.FLAC", "b.wav", "d.wav/e.ogg", "deep/er/c.mp3")]


def test_a_file_is_listed_whatever_its_name_and_once_however_often_it_is_named(tmp_path):
    odd, song = touch(tmp_path / "vocals.part"), touch(tmp_path / "in/song.wav")

    assert list_items([odd, song, tmp_path / "in", odd]) == [BatchItem(str(odd)), BatchItem(str(song))]


def test_a_csv_manifest_gives_what_is_known_and_keeps_other_columns(tmp_path):
    manifest = write_csv(
        tmp_path / "tonight.csv",
        [
            ["path", "title", "isrc", "uploader", "batch no", "label"],
            ["in/a.wav", "Früh, und spät", "ZZSYN2600001", "", "7", "Blue"],
            ["/srv/b.wav", "", "", "user 9", "", ""],
        ],
        encoding="utf-8-sig",  # as Excel writes it
    )

    assert list_items([manifest]) == [
        BatchItem(
            str(tmp_path / "in/a.wav"), "Früh, und spät", "ZZSYN2600001", None, {"batch no": "7", "label": "Blue"}
        ),
        BatchItem("/srv/b.wav", None, None, "user 9", {"batch no": "", "label": ""}),
    ]


def test_a_json_lines_manifest_gives_the_same(tmp_path):
    manifest = tmp_path / "tonight.jsonl"
    manifest.write_text(
        '\ufeff{"path": "in/a.wav", "title": "A", "isrc": 26, "tags": ["x", {"y": 1.5}]}\n\n{"path": "/srv/b.wav"}\n',
        encoding="utf-8",
    )

    assert list_items([manifest]) == [
        BatchItem(str(tmp_path / "in/a.wav"), "A", "26", None, {"tags": ["x", {"y": 1.5}]}),
        BatchItem("/srv/b.wav", extra={}),
    ]


def test_each_row_of_a_manifest_is_a_track_of_its_own(tmp_path):
    manifest = write_csv(tmp_path / "m.csv", [["path", "title"], ["a.wav", "A"], ["a.wav", "B"]])

    assert [item.title for item in list_items([manifest])] == ["A", "B"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "file,title\na.wav,A\n", r"m\.csv: line 1: no column `path` in the header \(file, title\)"),
        ("m.csv", "path;title\na.wav;A\n", r"line 1: no column `path` in the header \(path;title\)"),
        ("m.csv", "", r"line 1: no column `path`"),
        ("m.csv", "path,title\na.wav,Hello, World\n", r"line 2: more cells than the header has \(2\); quote"),
        ("m.csv", 'path,title\n"a.wav,A\nb.wav,B\n', r"line 2: not CSV \(unexpected end of data\)"),
        ("m.jsonl", '{"path": "a.wav"}\n{"path": \n', r"m\.jsonl: line 2: not JSON"),
        ("m.jsonl", '{"path": "a.wav"}\n\n"b.wav"\n', r"line 3: not a JSON object"),
        ("m.jsonl", '{"path": 5}\n', r"line 1: `path` is 5, not text"),
        ("m.jsonl", '{"path": "a.wav", "bpm": NaN}\n', r"line 1: a number in it is not finite"),
        ("m.ndjson", '{"path": "a.wav", "bpm": 1e999}\n', r"line 1: a number in it is not finite"),
        ("m.jsonl", "[" * 100_000, r"line 1: not JSON"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_by_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")

    with pytest.raises(ManifestError, match=message):
        list_items([path])


def test_a_row_of_commas_is_no_track_and_one_without_a_path_is_a_track_that_fails(tmp_path):
    """A spreadsheet leaves the first kind behind; the second must not hold up a night's deliveries."""
    (tmp_path / "m.csv").write_text("path,title\n,\n,B\n", encoding="utf-8")

    assert list_items([tmp_path / "m.csv"]) == [BatchItem("", title="B", extra={})]


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes("path,title\na.wav,Müller\n".encode("latin-1"))

    with pytest.raises(ManifestError, match=r"not UTF-8 .*save it as UTF-8"):
        list_items([tmp_path / "m.csv"])
    with pytest.raises(ManifestError, match=r"gone\.csv: cannot be read \(No such file or directory\)"):
        list_items([tmp_path / "gone.csv"])


@pytest.mark.parametrize("name", [b"plain.wav", b"caf\xe9.wav", "Łódź.wav".encode(), b"two\nlines.wav", b"50%.wav"])
def test_a_path_comes_back_from_its_text_which_is_always_utf_8(tmp_path, name):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))

    text = path_text(path)

    text.encode("utf-8")
    assert path_of(text) == path
    assert (text == str(path)) == (name != b"caf\xe9.wav")
    assert name != b"caf\xe9.wav" or text.endswith("/caf%E9.wav")


def test_text_that_is_no_text_can_be_stored_all_the_same(tmp_path, cli):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"path": "half\\ud83d.wav", "title": "half\\ud83d", "x": "half\\ud83d"}\n', encoding="ascii")

    items = list_items([manifest])

    with cli.store() as store:
        run = scans.start_run(store, run_row(), items)
        (item,) = scans.run_tracks(store, run.run_id, done=False)
    assert (item["path"], item["title"]) == (f"{tmp_path}/half\\ud83d.wav", "half\\ud83d")
    assert item["extra"] == {"x": "half\ud83d"}


def run_row(**changes: Any) -> dict[str, Any]:
    row = {"inputs_key": "k", "store_revision": 1, "encoder_id": "e", "cohort_id": "c", "threshold": 1.0}
    return {**row, "threshold_source": "t", "version": "0", **changes}


def test_a_long_manifest_takes_seconds(tmp_path, cli):
    """100,000 rows take 4 s on one core; these take a third of it, and minutes if time grew as the square."""
    rows = [[f"deliveries/{i:06d}.wav", f"Title {i}", f"ZZSYN26{i:05d}", "user", "x"] for i in range(30_000)]
    manifest = write_csv(tmp_path / "m.csv", [["path", "title", "isrc", "uploader", "other"], *rows])

    begun_s = time.monotonic()
    with cli.store() as store:
        run = scans.start_run(store, run_row(), list_items([manifest]))
        todo = scans.run_tracks(store, run.run_id, done=False)

    assert [item["position"] for item in todo] == list(range(30_000))
    assert time.monotonic() - begun_s < 20


# -- which run ---------------------------------------------------------------------------------------------------------


class Batch:
    """Runs over inputs, as `likeness batch` makes them, on one registry and with one encoder."""

    def __init__(self, cli: Cli, store: Store, encoder: EncoderProcess) -> None:
        self.cli, self.store, self.encoder = cli, store, encoder
        self.said: list[str] = []
        self.outcomes: list[tuple[dict[str, Any], Scan | None]] = []

    def open(self, *inputs: Path, threshold: float | None = None, **choice: bool) -> Run:
        self.matcher = Matcher(self.store, self.encoder, self.said.append, threshold=threshold)
        return open_run(self.store, self.matcher, inputs, list_items(inputs), self.said.append, **choice)

    def examine(self, *inputs: Path, n_workers: int = 1, pipeline: type[Pipeline] = Pipeline) -> Run:
        run = self.open(*inputs)
        self.pipeline = pipeline(self.store, self.matcher, self.encoder, n_workers)
        self.pipeline.run(run, lambda item, scan: self.outcomes.append((item, scan)))
        return run

    def by_name(self) -> dict[str, dict[str, Any]]:
        """What was reported of each track, by file name; each was reported once."""
        assert max(Counter(item["position"] for item, _ in self.outcomes).values()) == 1
        return {Path(item["path"]).name: item for item, _ in self.outcomes}


@pytest.fixture(scope="module")
def encoder(model) -> Iterator[EncoderProcess]:
    encoder = start_encoder(model)
    yield encoder
    encoder.close()


def start_encoder(model: Path, encoder_class: type[FakeEncoder] = FakeEncoder) -> EncoderProcess:
    return EncoderProcess(partial(encoder_class, str(model)), str(model), [model_digest(model)])


@pytest.fixture
def batch(enrolled, encoder) -> Iterator[Batch]:
    with enrolled.store() as store:
        yield Batch(enrolled, store, encoder)


def test_a_stopped_run_is_found_by_the_same_inputs_in_any_order(batch):
    a, b = batch.cli.sing("a.wav", 1), batch.cli.sing("b.wav", 2)

    run = batch.open(a, b)

    assert batch.open(b, a).run_id == run.run_id
    assert batch.open(a).run_id != run.run_id
    assert batch.open(a, b, threshold=2.0).run_id != run.run_id
    assert batch.said == []


def test_relative_inputs_name_the_same_run_only_from_the_same_folder(batch, monkeypatch):
    """The run's tracks are listed relative to it too, and would not be found from elsewhere."""
    batch.cli.sing("in/a.wav", 1)
    batch.cli.sing("other/in/a.wav", 1)
    monkeypatch.chdir(batch.cli.folder)
    run = batch.open(Path("in"))

    assert batch.open(Path("in")).run_id == run.run_id
    monkeypatch.chdir(batch.cli.folder / "other")
    assert batch.open(Path("in")).run_id != run.run_id


def test_a_finished_run_is_not_gone_on_with_and_the_new_one_says_so(batch):
    song = batch.cli.sing("a.wav", 1)
    finished = batch.examine(song)

    run = batch.open(song)

    assert run.run_id == finished.run_id + 1
    assert len(batch.said) == 1
    assert "begins anew; run 1 examined the same inputs" in batch.said[0]


def test_tracks_that_come_after_a_run_began_are_named(batch):
    batch.cli.sing("in/a.wav", 1)
    run = batch.open(batch.cli.folder / "in")
    late = batch.cli.sing("in/late.wav", 2)

    again = batch.open(batch.cli.folder / "in")

    assert again.run_id == run.run_id
    assert len(batch.said) == 1
    assert f"1 tracks have come since it began, such as {late}" in batch.said[0]
    assert len(scans.run_tracks(batch.store, run.run_id, done=False)) == 1


def test_a_run_is_not_gone_on_with_under_another_registry_unless_one_chooses(batch):
    song = batch.cli.sing("a.wav", 1)
    run = batch.open(song)
    batch.cli.enroll("Cy", 3)

    with pytest.raises(RunMismatch, match=r"changed since it was stopped \(store_revision\).*--repin.*--new-run"):
        batch.open(song)

    repinned = batch.open(song, repin=True)
    assert (repinned.run_id, repinned.store_revision) == (run.run_id, batch.store.revision)
    assert batch.open(song).run_id == run.run_id
    batch.cli.enroll("Di", 4)
    begun_anew = batch.open(song, new_run=True)
    assert begun_anew.run_id > run.run_id
    assert [row["run_id"] for row in batch.store.rows("SELECT run_id FROM runs")] == [begun_anew.run_id]


# -- examining ---------------------------------------------------------------------------------------------------------


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
    assert scans.run_outcomes(batch.store, run.run_id) == {"flagged": 6, "clear": 1, "abstained": 1, "failed": 4}
    assert len(batch.store.rows("SELECT * FROM scans WHERE run_id = ?", [run.run_id])) == 8
    assert scans.get_run(batch.store, run.run_id).finished_at is not None


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
    assert scans.get_run(batch.store, run.run_id).finished_at is not None


def test_more_workers_than_tracks_are_not_started(batch, monkeypatch):
    started = []
    monkeypatch.setattr(
        Pipeline, "_new_decoder", lambda self, new=Pipeline._new_decoder: started.append(1) or new(self)
    )

    batch.examine(batch.cli.sing("a.wav", 1), n_workers=50)

    assert batch.by_name()["a.wav"]["outcome"] == "flagged"
    assert len(started) == 1


def murder(track: Any) -> None:
    if Path(track.item["path"]).name == "long.wav" and track.decoder._process.is_alive():
        os.kill(track.decoder._process.pid, signal.SIGKILL)
        track.decoder._process.join()


class Murder(Pipeline):
    """Kills the decoder of `long.wav` after its first chunk, before it is asked for the next."""

    def _take_windows(self, track: Any) -> None:
        super()._take_windows(track)
        murder(track)


class EarlyMurder(Pipeline):
    """Kills the decoder of `long.wav` while it works on its first chunk."""

    def _begin(self, item: dict[str, Any]) -> None:
        super()._begin(item)
        for track in self._busy.values():
            murder(track)


@pytest.mark.parametrize("pipeline", [Murder, EarlyMurder])
def test_a_track_whose_decoder_is_killed_fails_and_the_others_go_on(batch, pipeline):
    batch.cli.sing("in/a.wav", 1)
    batch.cli.sing("in/long.wav", 1, duration_s=80.0)
    batch.cli.sing("in/z.wav", 2)

    batch.examine(batch.cli.folder / "in", pipeline=pipeline)

    outcomes = batch.by_name()
    assert {name: item["outcome"] for name, item in outcomes.items()} == {
        "a.wav": "flagged",
        "long.wav": "failed",
        "z.wav": "flagged",
    }
    assert outcomes["long.wav"]["kind"] == "crashed"
    assert outcomes["long.wav"]["reason"] == "the process that decoded it was ended by SIGKILL (out of memory?)"


def test_a_run_ends_when_the_decoder_of_its_only_track_is_killed(batch):
    run = batch.examine(batch.cli.sing("long.wav", 1, duration_s=80.0), pipeline=Murder)

    assert batch.by_name()["long.wav"]["kind"] == "crashed"
    assert scans.get_run(batch.store, run.run_id).finished_at is not None


class IdleMurder(Pipeline):
    """Kills a decoder before it is given its first track."""

    def _begin(self, item: dict[str, Any]) -> None:
        if item["position"] == 0:
            os.kill(self._idle[0]._process.pid, signal.SIGKILL)
            self._idle[0]._process.join()
        super()._begin(item)


def test_a_decoder_that_dies_idle_costs_no_track(batch):
    batch.examine(batch.cli.sing("a.wav", 1), pipeline=IdleMurder)

    assert batch.by_name()["a.wav"]["outcome"] == "flagged"


class Inbox:
    """Where an encoder would be; notes what it is given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def start(self, samples: np.ndarray) -> None:
        self.shapes.append(samples.shape)


def test_windows_travel_together_up_to_a_batch_and_only_with_others_of_their_length():
    inbox = Inbox()
    pipeline = Pipeline(None, None, inbox, n_workers=1)

    for n_windows, n_samples in [(20, 64000), (11, 64000), (20, 64000), (5, 64000), (1, 40000), (32, 64000)]:
        windows = Windows(np.zeros((n_windows, n_samples), np.float32), np.zeros(n_windows), np.zeros(n_windows))
        pipeline._ready.append((None, windows))
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


def test_a_slow_encoder_does_not_let_windows_pile_up(enrolled, model, monkeypatch):
    """Memory is bounded by windows, not by recordings: decoders wait for the encoder."""
    monkeypatch.setattr("registry.batch.BATCH_WINDOWS", 2)
    monkeypatch.setattr("registry.batch.WAITING_WINDOWS", 6)
    encoder = start_encoder(model, SlowishEncoder)
    for number in range(12):
        enrolled.sing(f"in/{number}.wav", 1, song=number % 4, duration_s=10.0)  # 4 windows each

    with enrolled.store() as store:
        batch = Batch(enrolled, store, encoder)
        batch.examine(enrolled.folder / "in", n_workers=3, pipeline=Counting)
    encoder.close()

    assert {item["outcome"] for item in batch.by_name().values()} == {"flagged"}
    # Just below the limit all three decoders may be asked once more.
    assert 6 <= batch.pipeline.most_waiting <= 5 + 3 * 4
    # Two batches, each begun with a window and ended by a chunk of four.
    assert batch.pipeline.most_embedding <= 2 * (1 + 4)


def test_an_encoder_that_dies_stops_the_run_which_can_be_gone_on_with(enrolled, model, encoder):
    for number in range(6):
        enrolled.sing(f"in/{number}.wav", 1 + number % 2, duration_s=4.0 if number % 2 else 2.5)
    dying = start_encoder(model, DyingEncoder)
    with enrolled.store() as store:
        batch = Batch(enrolled, store, dying)

        with pytest.raises(WorkerDied, match="the process that runs the encoder was ended by SIGKILL"):
            batch.examine(enrolled.folder / "in")
        before = len(batch.outcomes)
        batch.encoder = encoder
        run = batch.examine(enrolled.folder / "in")

        assert 0 < before < 6
        assert len(batch.by_name()) == 6
        assert scans.run_outcomes(store, run.run_id) == {"flagged": 6}
    dying.close()
