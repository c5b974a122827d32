from __future__ import annotations

import json
import re
import stat
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import audit, identity, rights, scans
from registry.config import FLAGGED_RETENTION_DAYS, RETENTION_DAYS, change_setting
from registry.enroll import enroll_recording
from registry.errors import RegistryError, StoreDamaged, UnknownArtist
from registry.identity import add_alias, merge_artists
from registry.lookalikes import note_lookalike
from registry.privacy import inventory, write_artist_archive
from registry.records import Consent
from registry.store import Store
from tests.fakes import ENCODER_ID, enroll_vectors, make_matcher, make_voiceprint, singer

#: Tables that say nothing of anybody: the registry itself, settings, keys, hashes, and paths of the owner's own files,
#: each of which has a line of its own in the inventory.
NOBODYS = {"meta", "settings", "encoders", "artist_keys", "calibrations", "runs", "audit", "reports", "backups"}
NOBODYS |= {"_sqlite_migrations"}

SONG = b"RIFF" + bytes(range(256)) * 9000  # more than two chunks of a sealed stream


@pytest.fixture
def store(any_store) -> Store:
    any_store.actor = "ida"
    return any_store


@pytest.fixture
def full(store, encoder, tmp_path, monkeypatch) -> Store:
    """Ada with all that may be on record of somebody, and Bo."""
    recording = tmp_path / "kept.WAV"
    recording.write_bytes(SONG)
    monkeypatch.setattr("registry.enroll.embed_file", lambda *_, **__: make_voiceprint(singer(0, seed=1), "kept"))
    outcome = enroll_recording(
        store, encoder, "Ada", recording, Consent("release-a", "2999-01-01T00:00:00Z"), keep_audio=True
    )
    assert outcome.outcome == "enrolled"
    enroll_vectors(store, encoder, "A. Vale", singer(0, seed=2), content="2", consent=Consent("release-v"))
    enroll_vectors(store, encoder, "Bo", singer(1, seed=3), content="of Bo", consent=Consent("release-b"))
    save_scan(store, encoder, "before.wav", singer(0, seed=8))
    add_alias(store, "Ada", "DJ Vale")
    merge_artists(store, "Ada", "A. Vale")
    rights.withdraw_consent(store, "Ada", "release-v")
    save_scan(store, encoder, "after.wav", singer(0, seed=9))
    return store


def save_scan(store: Store, encoder, path: str, vectors: np.ndarray) -> None:
    matcher, _ = make_matcher(store, encoder)
    with store.writing():
        scans.add_scan(store, matcher.scan(path, make_voiceprint(vectors, path)))


# --- the inventory ---


def test_every_table_that_holds_anybodys_data_has_a_line(store):
    """A new table must be declared: in the inventory, or above as nobody's."""
    tables = {name for name in store.db.table_names() if not name.startswith("sqlite_")}

    named = {word for line in inventory(store) for word in re.findall(r"\w+", line["where"])}

    assert tables - named == NOBODYS
    assert tables >= NOBODYS


def test_the_inventory_counts_what_is_there(full):
    lines = inventory(full)

    sealed = "" if full.encryption is None else ", sealed"
    n_templates = sum(artist.n_templates for artist in full.artists())
    assert [(line["about"], line["n"], line["where"]) for line in lines] == [
        ("enrolled artists", 4, f"registry.db: artists, names{sealed}"),
        ("enrolled artists", 4, f"registry.db: consents{sealed}"),
        ("enrolled artists", 3, f"registry.db: artist_references{sealed}"),
        ("enrolled artists", 0, f"registry.db: staged_references{sealed}"),
        ("enrolled artists", n_templates, f"registry.db: templates{sealed}"),
        ("enrolled artists", n_templates, f"index.faiss{sealed}"),
        ("enrolled artists", 1, f"audio/{sealed}"),
        ("enrolled artists", 5, "registry.db: matches"),
        ("enrolled artists", 2, f"registry.db: identity_changes{sealed}"),
        ("enrolled artists", 0, f"registry.db: lookalikes{sealed}"),
        ("strangers: makers of scanned tracks", 2, "registry.db: tracks, scans"),
        ("strangers: makers of scanned tracks", 0, "registry.db: run_tracks"),
        (
            "staff",
            len(audit.entries(full)),
            "registry.db: artist_references, identity_changes, audit_payloads, erasures",
        ),
        ("nobody by name", 0, "registry.db: erasures"),
        ("strangers of the cohort", "", "the model's directory"),
    ]
    assert {tuple(line) for line in lines} == {("about", "what", "n", "where", "until")}


def test_what_lies_outside_is_listed_with_its_path(store):
    with store.writing():
        run = {"inputs_key": "k", "started_at": "t", "store_revision": 1, "encoder_id": "e", "threshold": 1.0}
        run_id = store.insert("runs", {**run, "threshold_source": "s", "version": "0"})
        store.insert("reports", {"path": "/out/run.jsonl", "run_id": run_id, "written_at": "t"})
        store.insert("backups", {"path": "/safe/likeness.backup", "made_at": "2026-05-01T00:00:00Z"})

    assert [(line["what"], line["n"], line["where"], line["until"]) for line in inventory(store)[-2:]] == [
        ("outcomes of a batch", 1, "/out/run.jsonl", "outside the registry: yours to keep or delete"),
        (
            "backup of 2026-05-01T00:00:00Z",
            1,
            "/safe/likeness.backup",
            "outside the registry: yours to keep or delete",
        ),
    ]


def test_the_inventory_says_until_when(store):
    def until() -> list[str]:
        return [line["until"] for line in inventory(store) if "scans" in line["where"] or "run_tracks" in line["where"]]

    none = "until removed or purged (no retention is set)"
    assert until() == [f"clear, abstained, failed: {none}; flagged: {none}"] * 2
    change_setting(store, RETENTION_DAYS, 90)
    change_setting(store, FLAGGED_RETENTION_DAYS, 365)

    assert (
        until() == ["clear, abstained, failed: 90 days after the last scan; flagged: 365 days after the last scan"] * 2
    )


# --- all about one artist ---


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(files.pop("artist.json")), files


def test_the_archive_holds_all_that_is_on_record(full, tmp_path):
    path = tmp_path / "ada.zip"

    counts = write_artist_archive(full, "dj vale", path)

    record, files = read_archive(path)
    ada = full.artist("Ada")
    windows = full.reference_windows(ada.artist_id, status=None)
    references = [
        {
            **asdict(reference),
            "encoder_id": ENCODER_ID,
            "vectors": vectors.round(6).tolist(),
            "times_s": times.round(3).tolist(),
        }
        for reference, (_, vectors, times) in zip(full.references("Ada"), windows, strict=True)
    ]
    gallery = full.gallery()
    entries = audit.entries(full, artist_id=ada.artist_id)
    assert {name: value for name, value in record.items() if name not in ("matches", "references", "templates")} == {
        **asdict(ada),
        "aliases": ["A. Vale", "DJ Vale"],
        "consents": [asdict(consent) for consent in rights.consents(full, "Ada")],
        "prepared_references": [],
        "lookalikes": [],
        "changes": [asdict(change) for change in identity.changes(full, "Ada")],
        "audit": [asdict(entry) for entry in entries],
    }
    assert [consent["ref"] for consent in record["consents"]] == ["release-a", "release-v"]
    assert [entry["action"] for entry in record["audit"]] == [
        *("consent.add", "reference.enroll") * 2,
        *("artist.alias", "artist.merge", "consent.withdraw"),
    ]
    np.testing.assert_allclose(record["templates"], gallery.vectors[gallery.artist_id == ada.artist_id], atol=1e-6)
    for exported, expected in zip(record["references"], references, strict=True):
        np.testing.assert_allclose(exported.pop("vectors"), expected.pop("vectors"), atol=1e-6)
        assert exported == expected
    assert {name: len(content) for name, content in files.items()} == {"audio/1.wav": len(SONG)}
    assert counts == {
        **{"aliases": 2, "consents": 2, "references": 2, "templates": len(record["templates"]), "changes": 2},
        "prepared_references": 0,
        "lookalikes": 0,
        **{"audit": len(entries), "matches": len(record["matches"]), "kept_audio": 1},
    }


def test_the_archive_has_the_matches_also_of_who_was_merged_into_the_artist(full, tmp_path):
    write_artist_archive(full, "Ada", tmp_path / "ada.zip")

    record, _ = read_archive(tmp_path / "ada.zip")

    assert [(match["path"], match["verdict"], match["artist"]) for match in record["matches"]] == [
        ("before.wav", "flagged", "Ada"),
        ("after.wav", "flagged", "Ada"),
        ("before.wav", "flagged", "Ada"),
    ]
    assert {item["reference_id"] for match in record["matches"] for item in match["evidence"]} == {1, 2}


def test_the_archive_has_what_was_noted_of_lookalikes_and_not_of_whom(full, tmp_path):
    note_lookalike(full, "Bo", "Ada", "the higher voice of the two")

    write_artist_archive(full, "Ada", tmp_path / "ada.zip")

    record, _ = read_archive(tmp_path / "ada.zip")
    (noted,) = record["lookalikes"]
    assert noted == {"note": "the higher voice of the two", "noted_at": noted["noted_at"], "noted_by": "ida"}
    assert {tuple(match["lookalike_ids"]) for match in record["matches"]} == {()}
    assert "Bo" not in json.dumps(record)


def test_the_archive_has_notes_that_a_merge_has_made_count_no_more(store, encoder, tmp_path):
    """They are on record, and count again when the merge is undone."""
    for axis, name in enumerate(("Ada", "Bo", "Cy")):
        enroll_vectors(store, encoder, name, singer(axis, seed=axis))
    note_lookalike(store, "Ada", "Cy", "older")
    note_lookalike(store, "Bo", "Cy", "newer")
    note_lookalike(store, "Ada", "Bo", "one and the same?")
    merge_artists(store, "Ada", "Bo")

    for name, notes in {"Ada": ["older", "newer", "one and the same?"], "Cy": ["older", "newer"]}.items():
        counts = write_artist_archive(store, name, tmp_path / f"{name}.zip")
        record, _ = read_archive(tmp_path / f"{name}.zip")
        assert [one["note"] for one in record["lookalikes"]] == notes
        assert counts["lookalikes"] == len(notes)


def test_kept_audio_is_in_the_archive_byte_for_byte(full, tmp_path):
    write_artist_archive(full, "Ada", tmp_path / "ada.zip")

    _, files = read_archive(tmp_path / "ada.zip")

    assert files == {"audio/1.wav": SONG}


def test_the_archive_is_private_and_says_nothing_of_others(full, tmp_path):
    path = tmp_path / "ada.zip"

    write_artist_archive(full, "Ada", path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record, _ = read_archive(path)
    assert "Bo" not in json.dumps(record)
    assert "release-b" not in json.dumps(record)


def test_an_archive_is_never_written_over(full, tmp_path):
    path = tmp_path / "ada.zip"
    path.write_text("something else")

    with pytest.raises(RegistryError, match=r"ada\.zip: cannot be written \(File exists\); nothing was exported"):
        write_artist_archive(full, "Ada", path)

    assert path.read_text() == "something else"


def test_an_archive_that_cannot_be_written_whole_is_not_there(full, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("registry.privacy.read_copy", fail)
    with pytest.raises(RegistryError, match=r"ada\.zip: cannot be written \(No space left on device\); nothing was"):
        write_artist_archive(full, "Ada", tmp_path / "ada.zip")

    assert not (tmp_path / "ada.zip").exists()


def test_kept_audio_that_is_gone_is_named_and_nothing_is_exported(full, tmp_path):
    (kept,) = (full.home / "audio").iterdir()
    kept.unlink()

    with pytest.raises(StoreDamaged, match=f"{kept.name}: the copy of reference 1 cannot be read"):
        write_artist_archive(full, "Ada", tmp_path / "ada.zip")

    assert not (tmp_path / "ada.zip").exists()


def test_nobody_has_no_archive(full, tmp_path):
    with pytest.raises(UnknownArtist, match="Zuzu: not enrolled"):
        write_artist_archive(full, "Zuzu", tmp_path / "zuzu.zip")

    assert not (tmp_path / "zuzu.zip").exists()
