from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embeddings.workers import EncoderProcess
from registry import runs
from registry.calibration import DEFAULT_BUDGET, Calibration
from registry.calibrations import add_calibration
from registry.errors import ManifestError, RunMismatch
from registry.manifest import list_items
from registry.records import BatchItem, path_of, path_text
from tests.batches import Batch, other_process, start_encoder
from tests.cli_fakes import THRESHOLD, write_csv
from tests.fakes import fake_tail, up

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
        run = runs.start_run(store, run_row(), items)
        (item,) = runs.run_tracks(store, run.run_id, done=False)
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
        run = runs.start_run(store, run_row(), list_items([manifest]))
        todo = runs.run_tracks(store, run.run_id, done=False)

    assert [item["position"] for item in todo] == list(range(30_000))
    assert time.monotonic() - begun_s < 20


# -- which run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(model) -> Iterator[EncoderProcess]:
    encoder = start_encoder(model)
    yield encoder
    encoder.close()


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


def test_a_stopped_run_is_found_by_the_budget_that_was_asked_for_whatever_the_threshold_is(batch):
    """The threshold follows from the budget and from who is enrolled; a threshold by hand is another question."""
    song = batch.cli.sing("a.wav", 1)
    run = batch.open(song)

    assert batch.open(song, budget=DEFAULT_BUDGET).run_id == run.run_id
    assert batch.open(song, budget=0.01).run_id != run.run_id
    assert batch.open(song, threshold=run.threshold).run_id != run.run_id


def test_a_run_says_what_it_decides_by(batch):
    song = batch.cli.sing("a.wav", 1)

    by_budget, by_hand = batch.open(song, budget=0.003), batch.open(song, threshold=2.5)

    calibration_id = batch.matcher.calibration.calibration_id
    source = "false-flag budget 0.3 % over 2 artists; made up for tests"
    assert [
        (run.budget, run.threshold, run.threshold_source, run.calibration_id, run.decided_from)
        for run in (by_budget, by_hand)
    ] == [
        (0.003, up(THRESHOLD + 0.5 * math.log(10)), source, calibration_id, None),
        (None, 2.5, "set by the caller", calibration_id, None),
    ]


def test_a_run_is_not_gone_on_with_under_another_calibration_unless_one_chooses(batch):
    song = batch.cli.sing("a.wav", 1)
    run = batch.open(song)
    stricter = {**batch.encoder.calibration, "tail": fake_tail(THRESHOLD + 1)}
    add_calibration(batch.store, Calibration.from_dict(stricter))

    with pytest.raises(
        RunMismatch, match=r"changed since it was stopped \(calibration_id, threshold\).*--repin.*--new-run"
    ):
        batch.open(song)

    repinned = batch.open(song, repin=True)
    assert (repinned.run_id, repinned.threshold) == (run.run_id, THRESHOLD + 1)
    assert batch.open(song) == repinned


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
    assert len(runs.run_tracks(batch.store, run.run_id, done=False)) == 1


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


def look_too_early(monkeypatch):
    """The next look for a run finds none, as when another process begins it right afterwards."""
    looks = iter([lambda *_: None])
    monkeypatch.setattr(runs, "open_run", lambda *given, find=runs.open_run: next(looks, find)(*given))


def test_two_processes_that_begin_the_same_run_at_once_share_it_if_they_see_the_same_registry(batch, monkeypatch):
    song = batch.cli.sing("a.wav", 1)
    run = batch.open(song)

    look_too_early(monkeypatch)
    assert batch.open(song) == run

    batch.cli.enroll("Cy", 3)
    look_too_early(monkeypatch)
    with pytest.raises(RunMismatch, match=r"run 1: the registry has changed since it was stopped \(store_revision\)"):
        batch.open(song)


def test_a_run_that_somebody_works_on_is_neither_forgotten_nor_pinned_anew(batch):
    song = batch.cli.sing("a.wav", 1)
    run = batch.open(song)
    batch.cli.enroll("Cy", 3)

    with other_process() as (owner, _):
        with batch.store.writing():
            runs.take_leases(batch.store, run.run_id, owner, 1, tried=False)
        with pytest.raises(RunMismatch, match=r"run 1: process \d+ on .* is at work on it, and --new-run would forget"):
            batch.open(song, new_run=True)
        with pytest.raises(RunMismatch, match=r"at work on it, and --repin would .*; stop that first \(Ctrl-C\)"):
            batch.open(song, repin=True)

    assert runs.get_run(batch.store, run.run_id) == run
    assert batch.open(song, repin=True).store_revision == batch.store.revision
