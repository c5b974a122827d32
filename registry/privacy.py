"""What is kept about anybody, and all of it about one artist to take along."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from registry import audit, identity, lookalikes, rights
from registry.config import flagged_retention_days, retention_days
from registry.errors import RegistryError
from registry.kept_audio import read_copy
from registry.scans import find_scans
from registry.store import Store


def inventory(store: Store) -> list[dict[str, Any]]:
    """Everything that is kept about anybody: about whom, what, how much, where, until when."""

    def count(table: str, condition: str = "1") -> int:
        return int(store.rows(f"SELECT COUNT(*) AS n FROM {table} WHERE {condition}")[0]["n"])

    def until(days: int | None) -> str:
        return "until removed or purged (no retention is set)" if days is None else f"{days} days after the last scan"

    sealed = "" if store.encryption is None else ", sealed"
    removed = "until `artists remove`"
    clear, flagged = until(retention_days(store)), until(flagged_retention_days(store))
    scanned = f"clear, abstained, failed: {clear}; flagged: {flagged}"
    database, files = store.path.name, "audio/"
    rows = [
        ("enrolled artists", "names and aliases", count("names"), f"{database}: artists, names{sealed}", removed),
        ("enrolled artists", "consents", count("consents"), f"{database}: consents{sealed}", removed),
        (
            "enrolled artists",
            "references: path, length, voiceprint of every window",
            count("artist_references"),
            f"{database}: artist_references{sealed}",
            removed,
        ),
        (
            "enrolled artists",
            "references, made with the encoder that the registry is to go over to",
            count("staged_references"),
            f"{database}: staged_references{sealed}",
            f"{removed}, or until `reembed` has gone over to it",
        ),
        ("enrolled artists", "templates (voiceprints)", count("templates"), f"{database}: templates{sealed}", removed),
        ("enrolled artists", "templates (voiceprints)", count("templates"), f"index.faiss{sealed}", removed),
        (
            "enrolled artists",
            "copies of recordings",
            count("artist_references", "kept_path IS NOT NULL"),
            f"{files}{sealed}",
            removed,
        ),
        (
            "enrolled artists",
            "likenesses to tracks, with evidence",
            count("matches"),
            f"{database}: matches",
            f"{removed}, or with the track ({scanned})",
        ),
        (
            "enrolled artists",
            "merges, splits and aliases",
            count("identity_changes"),
            f"{database}: identity_changes{sealed}",
            removed,
        ),
        (
            "enrolled artists",
            "whom they are noted to sound like, and what was said of it",
            count("lookalikes"),
            f"{database}: lookalikes{sealed}",
            removed,
        ),
        (
            "strangers: makers of scanned tracks",
            "tracks: content_id, length, path, verdict; no voiceprint",
            count("scans"),
            f"{database}: tracks, scans",
            scanned,
        ),
        (
            "strangers: makers of scanned tracks",
            "rows of batches: path, title, isrc, uploader, other columns",
            count("run_tracks"),
            f"{database}: run_tracks",
            scanned,
        ),
        (
            "staff",
            "who enrolled, approved, changed (login or --as)",
            count("audit_payloads"),
            f"{database}: artist_references, identity_changes, audit_payloads, erasures",
            "with the artist; the audit's other entries stay",
        ),
        (
            "nobody by name",
            "removals: random ids, counts, times",
            count("erasures"),
            f"{database}: erasures",
            "stays, so that a restore removes again",
        ),
        ("strangers of the cohort", "voiceprints of people in public corpora", "", "the model's directory", "stays"),
    ]
    rows += [
        (
            "artists and makers of tracks",
            "outcomes of a batch",
            1,
            row["path"],
            "outside the registry: yours to keep or delete",
        )
        for row in store.rows("SELECT path FROM reports")
    ]
    rows += [
        (
            "everybody above",
            f"backup of {row['made_at']}",
            1,
            row["path"],
            "outside the registry: yours to keep or delete",
        )
        for row in store.rows("SELECT path, made_at FROM backups")
    ]
    names = ("about", "what", "n", "where", "until")
    return [dict(zip(names, row, strict=True)) for row in rows]


def write_artist_archive(store: Store, artist: str, path: Path) -> dict[str, int]:
    """Write everything on record of an artist into a ZIP file, private to its owner: `artist.json` and kept audio.

    Returns
    -------
    dict
        How many of what it holds.

    Raises
    ------
    RegistryError
        The file is there already or cannot be written; nothing is left of it then.
    """
    with store.reading():
        record = _artist_record(store, artist)
        kept = [reference for reference in store.references(artist) if reference.kept_path is not None]
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError as error:
            raise RegistryError(f"{path}: cannot be written ({error.strerror}); nothing was exported") from error
        try:
            with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("artist.json", json.dumps(record, indent=1))
                for reference in kept:
                    name = f"audio/{reference.reference_id}{Path(reference.kept_path or '').suffix}"
                    with archive.open(name, "w", force_zip64=True) as target:
                        read_copy(store, reference.reference_id, target)  # type: ignore[arg-type]
        except OSError as error:
            path.unlink(missing_ok=True)
            raise RegistryError(f"{path}: cannot be written ({error.strerror}); nothing was exported") from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    counts = {name: len(value) for name, value in record.items() if isinstance(value, list)}
    return {**counts, "kept_audio": len(kept)}


def _artist_record(store: Store, artist: str) -> dict[str, Any]:
    summary = store.artist(artist)
    on_record = store.windows_on_record(summary.artist_id)
    windows = {
        (row["reference_id"], row["is_staged"]): {
            "encoder_id": row["encoder_id"],
            "vectors": row["vectors"].round(6).tolist(),
            "times_s": row["times"].round(3).tolist(),
        }
        for row in on_record
    }
    gallery = store.gallery()
    gallery = gallery.select(gallery.artist_id == summary.artist_id)
    return {
        **asdict(summary),
        "aliases": store.aliases(summary.artist_id),
        "consents": [asdict(consent) for consent in rights.consents(store, artist)],
        "references": [
            {**asdict(reference), **windows[reference.reference_id, 0]} for reference in store.references(artist)
        ],
        "prepared_references": [  # with the encoder that the registry is to go over to
            {"reference_id": reference_id, **prepared}
            for (reference_id, is_staged), prepared in windows.items()
            if is_staged
        ],
        "templates": gallery.vectors.round(6).tolist(),
        "lookalikes": [  # whom: not this one's to know
            {name: row[name] for name in ("note", "noted_at", "noted_by")}
            for row in lookalikes.notes_on_record(store, summary.artist_id)
        ],
        "changes": [asdict(change) for change in identity.changes(store, artist)],
        "audit": [asdict(entry) for entry in audit.entries(store, artist_id=summary.artist_id)],
        "matches": [
            {
                "path": scan.path,
                "scanned_at": scan.scanned_at,
                "verdict": scan.verdict,
                **asdict(replace(match, lookalike_ids=())),
            }
            for artist_id in store.with_merged(summary.artist_id)
            for scan in find_scans(store, artist_id=artist_id)
            for match in scan.matches
            if match.artist_id == artist_id
        ],
    }
