from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from embeddings.extract import embed_file
from registry import audit, reembed
from registry.batch import open_run
from registry.calibration import Calibration
from registry.check import find_problems
from registry.config import encoder_source
from registry.enroll import Enrollment, enroll_recording
from registry.erasure import MARK_BYTES, erase_artist, erase_reference
from registry.errors import EncoderMismatch, RegistryError, RunMismatch
from registry.identity import merge_artists, undo_change
from registry.kept_audio import KEPT_AUDIO
from registry.match import Matcher, open_store_index, write_store_index
from registry.privacy import write_artist_archive
from registry.records import BatchItem, Consent, Scan
from registry.reembed import Lacking, Preparation, Survey, preparation
from registry.references import approve_references
from registry.scoring import prepare_cohort
from registry.status import registry_status, status_lines
from registry.store import Store
from tests.cli_fakes import DIM, ENCODER_ID, OTHER_DIM, OTHER_ENCODER_ID, RATE_HZ, THRESHOLD, FakeEncoder
from tests.fakes import files_holding, table_counts

pytest_plugins = ["tests.cli_fixtures"]

CONSENT = Consent("release-2026-014")


@lru_cache(maxsize=64)  # synthesis took half of the tests' time
def _song(voice_like: Callable[..., np.ndarray], who: int, song: int) -> np.ndarray:
    return voice_like(6.0, f0_hz=130.0 + 7 * song, seed=who)


class Studio:
    """A registry, the encoder it has and the one that it goes over to, and singers to enroll."""

    def __init__(self, store: Store, folder: Path, models: tuple[Path, Path], voice_like: Callable[..., np.ndarray]):
        self.store, self.folder, self._voice_like = store, folder, voice_like
        self.old, self.new = FakeEncoder(models[0]), FakeEncoder(models[1])

    def sing(self, who: int, song: int) -> Path:
        path = self.folder / f"{who}-{song}.wav"
        soundfile.write(path, _song(self._voice_like, who, song), RATE_HZ, subtype="PCM_16")
        return path

    def enroll(self, artist: str, who: int, *songs: int, store: Store | None = None, **options: Any) -> Enrollment:
        """Enroll songs with the encoder that the registry has, by force where a check speaks against it."""
        for song in songs:
            encoder = self.new if (store or self.store).encoder_id == OTHER_ENCODER_ID else self.old
            matcher = Matcher(store or self.store, encoder, lambda _: None)
            outcome = enroll_recording(
                *(store or self.store, encoder, artist, self.sing(who, song), CONSENT),
                **{"matcher": matcher, "force_reason": "made up", **options},
            )
            assert outcome.outcome == "enrolled", outcome
        return outcome

    def begin(self) -> None:
        reembed.begin(self.store, self.new, self.new.source, [])

    def make(self, **options: Any) -> tuple[Lacking, ...]:
        cohort = prepare_cohort(self.new.cohort.vectors, self.new.cohort.person)
        return reembed.make_references(self.store, self.new, cohort=cohort, **options)

    def change(self, **options: Any) -> bool:
        changed = reembed.change_over(self.store, self.new.encoder_id, **options)
        if changed:
            write_store_index(self.store, lambda _: None)
        return changed

    def go_over(self) -> None:
        self.begin()
        assert self.make() == ()
        assert self.change()

    def scan(self, encoder: FakeEncoder, who: int = 1, song: int = 9, store: Store | None = None) -> Scan:
        path = self.sing(who, song)
        return Matcher(store or self.store, encoder, lambda _: None).scan(str(path), embed_file(path, encoder))


@pytest.fixture
def studio(any_store, tmp_path, model, other_model, voice_like) -> Studio:
    """Three artists: Ada, of whom one recording is kept, Bo and Cy."""
    (tmp_path / "music").mkdir()
    studio = Studio(any_store, tmp_path / "music", (model, other_model), voice_like)
    with any_store.writing():
        any_store.bind_encoder(studio.old)
    studio.enroll("Ada", 1, 0, keep_audio=True)
    studio.enroll("Ada", 1, 1, 2)
    studio.enroll("Bo", 2, 0, 1)
    studio.enroll("Cy", 3, 0)
    write_store_index(any_store, lambda _: None)
    return studio


def fresh(studio: Studio, home: Path) -> Store:
    """A registry of the same recordings, enrolled with the new encoder from the beginning."""
    store = Store(home, create=True)
    with store.writing():
        store.bind_encoder(studio.new)
    studio.enroll("Ada", 1, 0, 1, 2, store=store)
    studio.enroll("Bo", 2, 0, 1, store=store)
    studio.enroll("Cy", 3, 0, store=store)
    return store


def told(store: Store) -> dict[str, Any]:
    """Everything that is on record of voices, but for when and why, and where copies lie."""
    gallery = store.gallery()
    return {
        "references": [replace(r, kept_path=None, force_reason=None, added_at="") for r in store.references()],
        "windows": [
            (reference_id, vectors.tolist(), times.tolist())
            for artist in store.artists()
            for reference_id, vectors, times in store.reference_windows(artist.artist_id)
        ],
        "vectors": gallery.vectors.tolist(),
        "templates": np.column_stack(
            [gallery.artist_id, gallery.reference_id, gallery.start_s, gallery.end_s]
        ).tolist(),
        "encoder": {**(store.encoder() or {}), "first_used_at": ""},
        "artists": [replace(artist, uid="", created_at="") for artist in store.artists()],
    }


def same_scan(scan: Scan) -> Scan:
    return replace(scan, scanned_at="", store_revision=0)


# --- the whole way ---


def test_the_registry_is_then_as_if_it_had_been_enrolled_with_the_new_encoder(studio, tmp_path):
    store = studio.store
    before = told(store)
    calibration_id = Calibration.from_dict(studio.new.calibration).calibration_id

    studio.go_over()

    with fresh(studio, tmp_path / "fresh") as expected:
        assert told(store) == told(expected)
        for who, song in ((1, 9), (2, 9), (4, 0)):
            scan = studio.scan(studio.new, who, song)
            assert same_scan(scan) == same_scan(studio.scan(studio.new, who, song, expected))
            assert (scan.encoder_id, scan.cohort_id) == (OTHER_ENCODER_ID, studio.new.cohort.cohort_id)
            assert (scan.threshold, scan.calibration_id) == (THRESHOLD, calibration_id)
    assert told(store) != before
    assert store.gallery().vectors.shape[1] == store.encoder()["dim"] == OTHER_DIM != DIM
    assert store.references("Ada")[2].own_norm_score is not None
    assert (encoder_source(store), preparation(store)) == (studio.new.source, None)
    assert find_problems(store) == [] and "staged_references" not in table_counts(store)
    entries = [(entry.action, entry.payload) for entry in audit.entries(store)][-2:]
    assert entries == [
        ("encoder.prepare", {"source": studio.new.source, "encoder_id": OTHER_ENCODER_ID, "by": ""}),
        (
            "encoder.change",
            {
                **{"from": "house", "from_encoder_id": ENCODER_ID, "to": studio.new.source},
                **{"encoder_id": OTHER_ENCODER_ID, "n_references": 6, "n_left_out": 0, "by": ""},
            },
        ),
    ]


def test_the_old_encoder_serves_until_all_is_made(studio):
    store, expected = studio.store, same_scan(studio.scan(studio.old))
    before = told(store)

    studio.begin()
    for _ in range(2):
        assert studio.make() == ()  # the second time there is nothing left
        assert told(store) == before
        assert same_scan(studio.scan(studio.old)) == expected
        with pytest.raises(EncoderMismatch, match=r"cannot be compared\. `likeness reembed`"):
            Matcher(store, studio.new, lambda _: None)
    assert find_problems(store) == []
    assert preparation(store) == Preparation(
        studio.new.source, OTHER_ENCODER_ID, preparation(store).begun_at, n_made=6, n_left=0
    )
    assert dict(status_lines(registry_status(store)))["going over to"].endswith(
        "other, bbbbbbbbbbbb: 0 of 6 references left"
    )

    assert studio.change()
    with pytest.raises(EncoderMismatch, match=r"enrolled with encoder bbbbbbbbbbbb .*, this one is aaaaaaaaaaaa"):
        Matcher(store, studio.old, lambda _: None)


def test_another_way_back_needs_no_special_case(studio):
    before = told(studio.store)
    studio.go_over()
    there = told(studio.store)

    studio.old, studio.new = studio.new, studio.old
    studio.go_over()

    # Nobody matched when they were enrolled; a third reference is scored with the two before it either way.
    assert told(studio.store) == {**before, "encoder": {**before["encoder"], "first_used_at": ""}}
    assert there != before


def test_what_is_said_before_anything_is_done(studio):
    (studio.folder / "2-1.wav").unlink()
    (studio.folder / "1-0.wav").unlink()  # of which there is a kept copy

    found = reembed.survey(studio.store, OTHER_ENCODER_ID)

    bo = Lacking(5, "Bo", str(studio.folder / "2-1.wav"), "missing", "there is no such file")
    assert found == Survey(n_references=6, n_left=6, duration_s=36.0, n_kept=1, n_paths=4, lacking=(bo,))
    assert reembed.survey(studio.store, ENCODER_ID) == Survey(6, 0, 0, 0, 0, ())


# --- killed ---


def _die(home: Path, models: tuple[Path, Path], place: str) -> None:
    """In a process of its own: go over to the other encoder, and be killed on the way."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with Store(home) as store:
        studio = Studio(store, home, models, lambda *_, **__: np.empty(0))
        append, n_staged = audit.append, 0

        def append_or_die(store: Store, action: str, *arguments: object) -> None:
            append(store, action, *arguments)
            if action == "encoder.change":
                die()

        def count() -> None:
            nonlocal n_staged
            n_staged += 1
            if n_staged == 4:
                die()

        studio.begin()
        if place == "before the change is committed":
            audit.append = append_or_die
        studio.make(on_reference=count if place == "between references" else None)
        reembed.change_over(store, OTHER_ENCODER_ID)
        die()  # before the index is written


@pytest.mark.parametrize(
    ("place", "n_made"),
    [("between references", 4), ("before the change is committed", 6), ("after the change is committed", None)],
)
def test_whoever_is_killed_loses_nothing_and_goes_on(studio, model, other_model, tmp_path, place, n_made):
    store, before = studio.store, told(studio.store)
    process = multiprocessing.get_context("spawn").Process(target=_die, args=(store.home, (model, other_model), place))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL

    with Store(store.home) as again:
        studio.store = again
        if n_made is not None:
            assert told(again) == before
            assert preparation(again).n_made == n_made
            embedded: list[float] = []
            assert studio.make(on_progress=embedded.append) == ()
            assert len(embedded) == 6 - n_made  # nothing is made twice
            assert studio.change()
        else:
            said: list[str] = []
            open_store_index(again, OTHER_ENCODER_ID, OTHER_DIM, said.append)
            assert ["rebuilding" in line or "rebuilt" in line for line in said] == [True], said
        with fresh(studio, tmp_path / "fresh") as expected:
            assert told(again) == told(expected)
        assert find_problems(again) == []


# --- others at work meanwhile ---


def test_what_is_enrolled_meanwhile_is_made_too(studio, tmp_path):
    studio.begin()
    studio.make()
    studio.enroll("Dee", 4, 0)

    assert not studio.change()
    assert studio.store.encoder_id == ENCODER_ID
    assert studio.make() == ()
    assert studio.change()

    with fresh(studio, tmp_path / "fresh") as expected:
        studio.enroll("Dee", 4, 0, store=expected)
        assert told(studio.store) == told(expected)


def test_what_is_enrolled_or_removed_while_templates_are_made_is_taken_into_account(studio, tmp_path, monkeypatch):
    """What was condensed before the transaction is used only for artists who are as they were."""
    condense, store = reembed._condense, studio.store
    calls = []

    def condense_and_meddle(*arguments: Any) -> Any:
        made = condense(*arguments)
        calls.append(arguments)
        if len(calls) == 3:
            erase_reference(store, "Ada", 2, lambda _: None)
            erase_artist(store, "Cy", lambda _: None)
        return made

    studio.begin()
    studio.make()
    monkeypatch.setattr(reembed, "_condense", condense_and_meddle)
    assert studio.change()

    with fresh(studio, tmp_path / "fresh") as expected:
        erase_reference(expected, "Ada", 2, lambda _: None)
        erase_artist(expected, "Cy", lambda _: None)
        assert told(store) == told(expected)
    assert find_problems(store) == []


def every_vector(store: Store, artist: str) -> list[bytes]:
    found = store.windows_on_record(store.artist(artist).artist_id)
    return [row.tobytes()[:MARK_BYTES] for each in found for row in each["vectors"]]


def test_nothing_prepared_of_a_removed_artist_is_left_in_any_byte(studio):
    store = studio.store
    studio.begin()
    studio.make()
    vectors, of_bo = every_vector(store, "Ada"), every_vector(store, "Bo")
    assert len(vectors) == 2 * 6  # of either encoder
    store.db.execute("PRAGMA wal_checkpoint").fetchone()
    if store.encryption is None:
        assert all(files_holding(store.home, vector) for vector in vectors + of_bo)

    receipt = erase_artist(store, "Ada", lambda _: None)

    assert receipt["finished_at"] and receipt["verified"][-1].endswith("none found")
    assert [name for vector in vectors for name in files_holding(store.home, vector)] == []
    assert store.rows("SELECT reference_id FROM staged_references") == [{"reference_id": n} for n in (4, 5, 6)]
    assert studio.make() == () and studio.change()
    assert [artist.name for artist in store.artists()] == ["Bo", "Cy"]
    assert find_problems(store) == []


def test_a_removed_reference_takes_what_is_prepared_of_it_along(studio):
    studio.begin()
    studio.make()

    receipt = erase_reference(studio.store, "Ada", 2, lambda _: None)

    assert receipt["verified"][-1].startswith("4 of its vectors searched for")  # two windows, of either encoder
    assert [row["reference_id"] for row in studio.store.windows_on_record(1) if row["is_staged"]] == [1, 3]


@pytest.mark.parametrize("name", ["Ada", "Bo"])
def test_an_artist_who_is_removed_while_a_recording_is_read_does_not_come_back(studio, name):
    studio.begin()
    was_removed = []

    def remove(_: float) -> None:
        if not was_removed:
            was_removed.append(name)
            with Store(studio.store.home) as other:
                assert erase_artist(other, name, lambda _: None)["finished_at"]

    assert studio.make(on_progress=remove) == ()

    n_left = {"Ada": 3, "Bo": 4}[name]
    assert studio.store.rows("SELECT COUNT(*) AS n FROM staged_references") == [{"n": n_left}]
    assert studio.change()
    assert name not in [artist.name for artist in studio.store.artists()]
    assert len(studio.store.references()) == n_left
    assert find_problems(studio.store) == []


def test_a_reference_that_moves_to_another_artist_is_made_again_for_that_one(studio, tmp_path):
    studio.begin()
    studio.make()

    change_id = merge_artists(studio.store, "Ada", "Cy")

    assert [row["reference_id"] for row in studio.store.rows("SELECT * FROM staged_references")] == [1, 2, 3, 4, 5]
    assert not studio.change()
    assert studio.make() == () and studio.change()
    with fresh(studio, tmp_path / "fresh") as expected:
        merge_artists(expected, "Ada", "Cy")
        undo_change(expected, 1)
        undo_change(studio.store, change_id)
        found, wanted = told(studio.store), told(expected)
        # Merged, it was her fourth.
        assert found["references"][5].own_norm_score is not None
        for each in (found, wanted):
            each["references"] = [replace(reference, own_norm_score=None) for reference in each["references"]]
        assert found == wanted


def test_nothing_is_compared_with_what_another_process_has_changed(studio, tmp_path):
    """Somebody who enrolls or matches at the moment of the change is refused, and compares nothing."""
    store = studio.store
    matcher = Matcher(store, studio.old, lambda _: None)
    pinned = same_scan(matcher.scan("x", embed_file(studio.sing(1, 9), studio.old)))
    with Store(store.home) as other:
        studio.store = other
        studio.go_over()

    with pytest.raises(EncoderMismatch, match="give this command again"):
        enroll_recording(store, studio.old, "Ada", studio.sing(1, 5), CONSENT, matcher=matcher, force_reason="made up")
    for read in (store.gallery, store.template_vectors, lambda: store.reference_windows(1)):
        with pytest.raises(EncoderMismatch, match="cannot be compared"):
            read()
    # A batch is pinned to the registry as it began, its encoder too.
    assert same_scan(matcher.scan("x", embed_file(studio.sing(1, 9), studio.old))) == pinned
    assert len(store.references()) == 6


def test_a_batch_that_was_stopped_is_not_gone_on_with_by_another_encoder(studio, tmp_path):
    store, item = studio.store, BatchItem("a.wav")
    matcher = Matcher(store, studio.old, lambda _: None, threshold=THRESHOLD)
    open_run(store, matcher, [Path("a.wav")], [item], lambda _: None)
    studio.go_over()

    matcher = Matcher(store, studio.new, lambda _: None, threshold=THRESHOLD)
    with pytest.raises(
        RunMismatch, match=r"has changed since .*\(store_revision, encoder_id, cohort_id, calibration_id\)"
    ):
        open_run(store, matcher, [Path("a.wav")], [item], lambda _: None)


def test_only_one_process_goes_over_at_a_time(studio):
    again = reembed.alone(studio.store)
    with reembed.alone(studio.store), pytest.raises(RegistryError, match="another process is going over to another"):
        again.__enter__()

    with reembed.alone(studio.store):
        pass


# --- recordings that are gone ---


def test_what_cannot_be_made_anew_is_named_with_its_reason(studio, write_wav):
    (studio.folder / "1-1.wav").unlink()
    (studio.folder / "2-0.wav").write_bytes((studio.folder / "2-1.wav").read_bytes())
    (studio.folder / "2-1.wav").write_text("no audio\n")
    studio.begin()

    lacking = studio.make()

    assert [(each.reference_id, each.artist, each.path, each.kind) for each in lacking] == [
        (2, "Ada", str(studio.folder / "1-1.wav"), "missing"),
        (4, "Bo", str(studio.folder / "2-0.wav"), "changed"),
        (5, "Bo", str(studio.folder / "2-1.wav"), "not_audio"),
    ]
    assert [each.reason for each in lacking][:2] == [
        "there is no such file",
        "no longer the recording that was enrolled",
    ]
    assert preparation(studio.store).n_left == 3
    assert not studio.change(leave_out=lacking[:2])
    assert studio.store.encoder_id == ENCODER_ID


def test_those_left_out_wait_and_come_in_once_their_recordings_are_back(studio, tmp_path):
    store = studio.store
    away = [(studio.folder / f"{name}.wav", tmp_path / name) for name in ("1-1", "2-0", "2-1")]
    for path, elsewhere in away:
        path.rename(elsewhere)
    studio.begin()
    lacking = studio.make()

    assert studio.change(leave_out=lacking)

    assert [reference.status for reference in store.references()] == [
        *("active", "waiting", "active"),
        *("waiting", "waiting", "active"),
    ]
    assert [(artist.name, artist.status) for artist in store.artists()] == [
        *(("Ada", "active"), ("Bo", "waiting"), ("Cy", "active")),
    ]
    status = registry_status(store)
    assert (status.n_artists_active, status.n_artists_pending, status.n_artists_waiting) == (2, 0, 1)
    lines = dict(status_lines(status))
    assert lines["references"].startswith("6 (3 wait for their recordings), ")
    assert lines["artists"].startswith("2 active, 0 pending, 1 waiting for their recordings, 0 not matched")
    assert set(store.gallery().reference_id.tolist()) <= {1, 3, 6}
    assert sorted(match.artist for match in studio.scan(studio.new, 2).matches) == ["Ada", "Cy"]
    assert find_problems(store) == []
    write_artist_archive(store, "Bo", tmp_path / "bo.zip")  # all that is kept, with its own encoder's vectors

    for path, elsewhere in away[1:]:
        elsewhere.rename(path)
    studio.begin()
    lacking = studio.make()
    assert [each.reference_id for each in lacking] == [2]
    assert studio.change(leave_out=lacking)
    assert [artist.status for artist in store.artists()] == ["active"] * 3

    away[0][1].rename(away[0][0])
    studio.go_over()
    with fresh(studio, tmp_path / "fresh") as expected:
        found, wanted = told(store), told(expected)
        # It came back after the third, which then had only one to be scored with.
        assert found["references"][2].own_norm_score is None
        for each in (found, wanted):
            each["references"] = [replace(reference, own_norm_score=None) for reference in each["references"]]
        assert found == wanted


def test_those_that_wait_can_be_removed_moved_and_enrolled_anew(studio):
    store = studio.store
    (studio.folder / "2-0.wav").unlink()
    (studio.folder / "2-1.wav").unlink()
    studio.begin()
    assert studio.change(leave_out=studio.make())
    vectors = every_vector(store, "Bo")

    merge_artists(store, "Cy", "Bo")
    assert [reference.status for reference in store.references("Cy")] == ["waiting", "waiting", "active"]
    undo_change(store, 1)
    erase_reference(store, "Bo", 4, lambda _: None)
    studio.enroll("Bo", 2, 0)
    assert [(reference.reference_id, reference.status) for reference in store.references("Bo")] == [
        (5, "waiting"),
        (7, "active"),
    ]
    erase_artist(store, "Bo", lambda _: None)

    assert [name for vector in vectors for name in files_holding(store.home, vector)] == []
    assert find_problems(store) == []


def test_where_nothing_could_be_made_the_registry_stays_as_it_is(studio):
    for path in [*studio.folder.iterdir(), *(studio.store.home / KEPT_AUDIO).iterdir()]:
        path.unlink()
    before = told(studio.store)
    studio.begin()
    lacking = studio.make()

    with pytest.raises(RegistryError, match=r"none of its 6 references could be made with encoder bbbbbbbbbbbb"):
        studio.change(leave_out=lacking)

    assert told(studio.store) == before


def test_a_kept_copy_is_read_where_there_is_one(studio):
    (studio.folder / "1-0.wav").unlink()
    before = {path: path.read_bytes() for path in studio.store.home.rglob("*") if path.parent.name == KEPT_AUDIO}

    studio.go_over()

    assert len(before) == 1
    assert all(path.read_bytes() == content for path, content in before.items())


def test_where_the_kept_copy_is_gone_the_recording_itself_is_read(studio):
    (kept,) = (studio.store.home / KEPT_AUDIO).iterdir()
    kept.unlink()

    studio.begin()
    assert studio.make() == ()

    (studio.folder / "1-0.wav").unlink()
    reembed.abandon(studio.store)
    studio.begin()
    (lacking,) = studio.make()
    assert lacking.reference_id == 1
    assert lacking.reason.startswith("its kept copy: ") and lacking.reason.endswith("; there is no such file")


def test_a_recording_in_which_the_new_encoder_finds_no_voice_is_left_to_the_owner(studio, monkeypatch):
    embed = reembed.embed_file

    def embed_less(path: Path, encoder: FakeEncoder, **options: Any) -> Any:
        voice = embed(path, encoder, **options)
        return replace(voice, voiced_s=1.2) if path.name == "3-0.wav" else voice

    monkeypatch.setattr(reembed, "embed_file", embed_less)
    studio.begin()

    assert studio.make() == (
        Lacking(
            *(6, "Cy", str(studio.folder / "3-0.wav"), "too_little_voice"),
            "1.2 s of voice found, at least 1.5 s is needed",
        ),
    )


# --- beginning and giving up ---


def test_what_is_prepared_can_be_dropped(studio):
    before = told(studio.store)
    studio.begin()
    studio.make()
    vectors = [
        row.tobytes()[:MARK_BYTES]
        for each in studio.store.windows_on_record(1)
        if each["is_staged"]
        for row in each["vectors"]
    ]

    dropped = reembed.abandon(studio.store)

    assert (dropped.encoder_id, dropped.n_made) == (OTHER_ENCODER_ID, 6)
    assert told(studio.store) == before and preparation(studio.store) is None
    assert reembed.abandon(studio.store) is None
    assert audit.entries(studio.store)[-1].action == "encoder.abandon"
    studio.store.empty_log(1.0)
    assert [name for vector in vectors for name in files_holding(studio.store.home, vector)] == []
    with pytest.raises(RegistryError, match="was dropped meanwhile"):
        studio.change()


def test_two_encoders_are_not_prepared_at_once(studio):
    studio.begin()
    studio.make()
    third = FakeEncoder(studio.new.source)
    third.encoder_id = "e" * 64

    with pytest.raises(
        RegistryError, match=r"6 references are prepared with encoder bbbbbbbbbbbb \(.*other\), this one"
    ):
        reembed.begin(studio.store, third, "third", [])


def test_who_is_made_by_a_process_while_another_gives_up_is_not_kept(studio):
    studio.begin()

    with pytest.raises(RegistryError, match="what was prepared with encoder bbbbbbbbbbbb was dropped meanwhile"):
        studio.make(on_progress=lambda _: reembed.abandon(studio.store))

    assert studio.store.rows("SELECT * FROM staged_references") == []


def test_a_reference_that_waits_for_approval_still_does(studio):
    with studio.store.writing():
        studio.store.db.execute(
            "UPDATE artist_references SET status = 'pending', enrolled_by = 'ida' WHERE reference_id = 6"
        )
    studio.go_over()

    assert [reference.status for reference in studio.store.references("Cy")] == ["pending"]
    assert studio.store.artist("Cy").n_templates == 0
    assert [reference.reference_id for reference in approve_references(studio.store, "Cy")] == [6]
    assert studio.store.artist("Cy").n_templates == 1


def test_the_archive_of_an_artist_holds_what_is_prepared(studio, tmp_path):
    import zipfile

    studio.begin()
    studio.make()

    write_artist_archive(studio.store, "Cy", tmp_path / "cy.zip")

    with zipfile.ZipFile(tmp_path / "cy.zip") as archive:
        record = json.loads(archive.read("artist.json"))
    (prepared,), (reference,) = record["prepared_references"], record["references"]
    assert (prepared["reference_id"], prepared["encoder_id"]) == (6, OTHER_ENCODER_ID)
    assert (len(prepared["vectors"][0]), len(reference["vectors"][0])) == (OTHER_DIM, DIM)


def test_what_is_prepared_and_damaged_is_found(studio):
    studio.begin()
    studio.make()
    with studio.store.writing():
        studio.store.db.execute("UPDATE staged_references SET n_windows = 5 WHERE reference_id = 4")

    problem = "reference 4 (prepared): its vectors are not 5 windows of 12; restore your last backup"
    assert find_problems(studio.store) == [("database", problem)]
