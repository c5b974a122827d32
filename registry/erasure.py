"""Removal that removes: rows, files, index, written reports, and every page and log that held a copy.

What is to be removed is written down first (table `erasures`, by random and salted ids; what a step still needs, such
as a track's path for cleaning reports, stands there until the step is done), then done step by step; a step that cannot
be done now, because somebody reads, is left and the next command goes on with it. After the last
step there is a receipt: what, when, verified how, and what this program cannot reach.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from registry import audit
from registry.byte_search import find_bytes
from registry.errors import RegistryError, StoreDamaged, UnknownTrack
from registry.kept_audio import audio_locked, delete_orphans
from registry.match import write_store_index
from registry.references import condense_artist
from registry.schema import fold_name
from registry.scratch import SCRATCH, delete_abandoned
from registry.store import Store, now

#: In this order. Rows go before all of them, in the transaction that writes the removal down. The log is emptied before
#: the database is written anew, to which that adds, and after; and once more after reports, which a batch may be
#: writing for hours.
STEPS = ("files", "index", "log", "pages", "log", "reports", "log")
#: What each step is, for whoever waits for it.
STEP_NAMES = {
    "files": "deleting kept audio",
    "index": "writing the index anew",
    "log": "emptying the database's log",
    "pages": "writing the database anew",
    "reports": "taking it out of reports",
}
#: How long the command that removes waits for readers, and how long a later one that finishes its work.
WAIT_S, LATER_WAIT_S = 10.0, 1.0

#: How often, and after how long, a search that found something is done again.
SEARCHES_AGAIN, SEARCH_AGAIN_S = 3, 1.0

Notify = Callable[[str], None]


def erase_artist(store: Store, name: str, notify: Notify) -> dict[str, Any]:
    """Remove an artist, and those merged into it, with everything on record of them.

    Returns
    -------
    dict
        The receipt. Its `finished_at` is None, and `pending` names the steps, where somebody reads the database; any
        later command goes on with it.
    """
    with store.writing():
        artist = store.artist(name)
        marks = _marks(store, artist.artist_id)
        erasure_id = _erase_artist_rows(store, artist.artist_id)
    return _carry_out(store, erasure_id, notify, WAIT_S, marks=marks)


def erase_reference(store: Store, artist: str, reference_id: int, notify: Notify) -> dict[str, Any]:
    """Remove one reference of an artist; its templates are made anew from the others. Returns the receipt."""
    with store.writing():
        artist_id = store.artist(artist).artist_id
        if reference_id not in store.reference_ids(artist_id):
            raise RegistryError(f"reference {reference_id}: is not {artist}'s; `likeness artists show` lists them")
        is_shared = reference_id in _shared(store, artist_id)
        windows = [row for row in store.windows_on_record(artist_id) if row["reference_id"] == reference_id]
        marks = [] if is_shared else [_mark(vector) for row in windows for vector in row["vectors"][:8]]
        erasure_id = _erase_reference_row(store, artist_id, reference_id)
    return _carry_out(store, erasure_id, notify, WAIT_S, marks=marks)


def erase_track(store: Store, track: str, notify: Notify) -> dict[str, Any]:
    """Remove a scanned track, by its path or the beginning of its content_id, with everything on record of it.

    Returns
    -------
    dict
        The receipt, as of `erase_artist`.

    Raises
    ------
    UnknownTrack
        Nothing is on record under that path or content_id, or the beginning fits more than one.
    """
    with store.writing():
        rows = store.rows(
            "SELECT track_id, content_id FROM tracks t WHERE ?1 != '' AND (substr(content_id, 1, length(?1)) = ?1 "
            "OR EXISTS (SELECT 1 FROM scans s WHERE s.track_id = t.track_id AND s.path = ?1))",
            [track],
        )
        if len(rows) > 1:
            ids = ", ".join(row["content_id"][:12] for row in rows[:5])
            raise UnknownTrack(f"{track}: names {len(rows)} tracks ({ids} ...); give one by its content_id")
        failed = store.rows("SELECT COUNT(*) AS n FROM run_tracks WHERE path = ? AND scan_id IS NULL", [track])[0]["n"]
        if not rows and not failed:
            raise UnknownTrack(f"{track}: no track with this path or content_id has been scanned here")
        content_id = rows[0]["content_id"] if rows else _content_of_path(track)
        # A path may be part of another track's, and a track that is enrolled stays on record as a reference.
        marks = [] if not rows or store.holders(content_id) else [content_id.encode()]
        erasure_id = _erase_track_rows(store, rows[0]["track_id"] if rows else None, content_id, track)
    return _carry_out(store, erasure_id, notify, WAIT_S, marks=marks)


def finish_pending(store: Store, notify: Notify) -> None:
    """Go on with removals that a reader or a crash held up; every command that may write does so first."""
    if store.read_only:
        return
    for row in store.rows("SELECT erasure_id FROM erasures WHERE finished_at IS NULL ORDER BY erasure_id"):
        receipt = _carry_out(store, row["erasure_id"], notify, LATER_WAIT_S, marks=[])
        if receipt["finished_at"]:
            notify(f"removal {row['erasure_id']}: finished; `likeness receipts {row['erasure_id']}` shows the receipt")


def receipts(store: Store, erasure_id: int | None = None) -> list[dict[str, Any]]:
    """The receipts of removals, oldest first: all, or one."""
    rows = store.rows(
        "SELECT * FROM erasures WHERE erasure_id = COALESCE(?, erasure_id) ORDER BY erasure_id", [erasure_id]
    )
    return [_receipt(row) for row in rows]


def replay(store: Store, erasures: Iterable[dict[str, Any]]) -> int:
    """Remove again what was removed since a backup was made; returns how many were found and removed.

    Parameters
    ----------
    store : Store
        The restored registry, before anybody else can see it.
    erasures : iterable of dict
        Rows of table `erasures`, or receipts: `kind`, `subject`, `salt`, and what else belongs to them.
    """
    erased: list[int] = []
    for erasure in erasures:
        receipt = json.loads(erasure["receipt"]) if isinstance(erasure["receipt"], str) else erasure
        for each in (erasure, *receipt.get("also", ())):
            with store.writing():
                erased += _erase_again(store, each["kind"], each["subject"], each["salt"])
    for erasure_id in erased:
        (row,) = store.rows("SELECT pending FROM erasures WHERE erasure_id = ?", [erasure_id])
        # Reports were seen to when it was removed first; the last one writes index and pages for all of them.
        steps = [step for step in STEPS if step != "reports"] if erasure_id == erased[-1] else ["files"]
        _save(store, erasure_id, {"pending": json.dumps({**json.loads(row["pending"]), "steps": steps})})
    for erasure_id in erased:
        _carry_out(store, erasure_id, lambda _: None, WAIT_S, marks=[])
    return len(erased)


def _erase_again(store: Store, kind: str, subject: str, salt: str) -> list[int]:
    """Delete the rows of what was removed before; returns the numbers of the removals."""
    if kind == "artist":
        artists = store.rows("SELECT artist_id FROM artists WHERE uid = ?", [subject])
        return [_erase_artist_rows(store, row["artist_id"]) for row in artists]
    if kind in ("reference", "content"):  # an artist's, or whosoever it is
        references = store.rows(
            "SELECT reference_id, artist_id, uid, content_id FROM artist_references JOIN artists USING (artist_id)"
        )
        found = [
            row
            for row in references
            if _subject((row["uid"] if kind == "reference" else "") + row["content_id"], salt) == subject
        ]
        return [_erase_reference_row(store, row["artist_id"], row["reference_id"]) for row in found]
    tracks = store.rows("SELECT track_id, content_id, NULL AS path FROM tracks")
    for row in store.rows("SELECT DISTINCT path FROM run_tracks WHERE scan_id IS NULL"):
        tracks.append({"track_id": None, "content_id": _content_of_path(row["path"]), "path": row["path"]})
    found = [row for row in tracks if _subject(row["content_id"], salt) == subject]
    return [_erase_track_rows(store, row["track_id"], row["content_id"], row["path"]) for row in found]


def _erase_artist_rows(store: Store, artist_id: int) -> int:
    """Delete an artist's rows and write down what is left to do; call inside `store.writing`."""
    ids = store.with_merged(artist_id)
    chosen = "artist_id IN (SELECT value FROM json_each(?))"
    given = json.dumps(ids)
    counted = ("consents", "artist_references", "templates", "matches", "names", "identity_changes", "audit_payloads")
    removed = {
        table: store.rows(f"SELECT COUNT(*) AS n FROM {table} WHERE {chosen}", [given])[0]["n"] for table in counted
    }
    removed = {"references" if table == "artist_references" else table: n for table, n in removed.items()}
    removed["lookalikes"] = store.rows(
        "SELECT COUNT(*) AS n FROM lookalikes WHERE artist_id IN (SELECT value FROM json_each(?1)) "
        "OR other_id IN (SELECT value FROM json_each(?1))",
        [given],
    )[0]["n"]
    kept = store.rows(
        # Of a registry from before copies were each artist's own, one may be shared.
        f"SELECT kept_path FROM artist_references GROUP BY kept_path HAVING kept_path IS NOT NULL AND MIN({chosen})",
        [given],
    )
    uid = store.rows("SELECT uid FROM artists WHERE artist_id = ?", [artist_id])[0]["uid"]
    also = _also_removed(store, ids)
    named = _tracks_named_after(store, [store.artist_name(each_id) for each_id in ids]) + _held_by_others(store, ids)
    store.db.execute(f"DELETE FROM artist_keys WHERE {chosen}", [given])  # what is sealed cannot be opened from here on
    for each_id in ids:
        store.db.execute("DELETE FROM artists WHERE artist_id = ?", [each_id])
        store.forget_key(each_id)
    store.bump_revision()
    work = {
        "artist_ids": ids,
        "kept_paths": [row["kept_path"] for row in kept],
        "reports": _report_paths(store),
    }
    return _write_down(store, "artist", uid, "", work, {**removed, "kept_audio": len(kept)}, named, also)


def _report_paths(store: Store) -> list[str]:
    """Every outcome file on record: whom its run found may have been purged, and the file not."""
    return [row["path"] for row in store.rows("SELECT path FROM reports ORDER BY path")]


def _also_removed(store: Store, artist_ids: Sequence[int]) -> list[dict[str, str]]:
    """What else a replay has to remove: in an older copy these are artists still, or references of others.

    Not references that another artist has too, as a duet, and keeps.
    """
    given = [json.dumps(artist_ids)]
    mine = "artist_id IN (SELECT value FROM json_each(?1))"
    uids = [row["uid"] for row in store.rows(f"SELECT uid FROM artists WHERE {mine}", given)]
    contents = store.rows(
        f"SELECT content_id FROM artist_references GROUP BY content_id HAVING MIN({mine})",
        given,
    )
    salt = secrets.token_hex(16)
    return [
        *({"kind": "artist", "subject": uid, "salt": ""} for uid in uids),
        *({"kind": "content", "subject": _subject(row["content_id"], salt), "salt": salt} for row in contents),
    ]


def _tracks_named_after(store: Store, names: Sequence[str]) -> list[str]:
    """What is to be said of tracks with an artist's name in their path or title, which are not the artist's data."""
    store.db.register_function(fold_name)
    (row,) = store.rows(
        "WITH called AS (SELECT value AS name FROM json_each(?)), "
        "told AS (SELECT path AS text FROM scans UNION SELECT path || ' ' || COALESCE(title, '') FROM run_tracks) "
        "SELECT COUNT(*) AS n FROM told WHERE EXISTS (SELECT 1 FROM called WHERE instr(fold_name(text), name))",
        [json.dumps([fold_name(name) for name in names])],
    )
    n = row["n"]
    return [f"{n} paths or titles of scanned tracks that have the name in them: `likeness tracks remove`"] if n else []


def _held_by_others(store: Store, artist_ids: Sequence[int]) -> list[str]:
    """What is to be said of recordings that are enrolled for another artist too, and stay with that one."""
    rows = store.rows(
        "SELECT DISTINCT o.reference_id FROM artist_references r JOIN artist_references o USING (content_id) "
        "WHERE r.artist_id IN (SELECT value FROM json_each(?1)) "
        "AND o.artist_id NOT IN (SELECT value FROM json_each(?1)) ORDER BY 1",
        [json.dumps(artist_ids)],
    )
    ids = ", ".join(str(row["reference_id"]) for row in rows)
    return (
        [f"recordings that are enrolled for another artist too, as reference {ids}: that one keeps them"] if ids else []
    )


def _erase_reference_row(store: Store, artist_id: int, reference_id: int) -> int:
    """Delete a reference and write down what is left to do; call inside `store.writing`."""
    (row,) = store.rows(
        "SELECT content_id, kept_path, uid, (SELECT COUNT(*) FROM artist_references o WHERE o.kept_path = r.kept_path) "
        "AS n_kept FROM artist_references r JOIN artists USING (artist_id) WHERE reference_id = ?",
        [reference_id],
    )
    seqs = list(audit.reference_entries(store, artist_id, reference_id))
    kept = [row["kept_path"]] if row["n_kept"] == 1 else []  # of an old registry, one may be shared
    removed = {
        "references": 1,
        "evidence": _drop_evidence(store, reference_id),
        "audit_payloads": len(seqs),
        "kept_audio": len(kept),
    }
    store.db.execute("DELETE FROM audit_payloads WHERE seq IN (SELECT value FROM json_each(?))", [json.dumps(seqs)])
    store.db.execute("DELETE FROM artist_references WHERE reference_id = ?", [reference_id])
    condense_artist(store, artist_id)
    salt = secrets.token_hex(16)
    work = {"kept_paths": kept, "reference_id": reference_id, "reports": _report_paths(store)}
    # Of this artist: another one may have the same recording, and keep it.
    return _write_down(store, "reference", _subject(row["uid"] + row["content_id"], salt), salt, work, removed)


def _drop_evidence(store: Store, reference_id: int) -> int:
    """Take a reference out of the evidence of past matches; returns from how many."""
    n_changed = 0
    for row in store.rows(
        "SELECT scan_id, rank, evidence FROM matches m WHERE EXISTS (SELECT 1 FROM json_each(m.evidence) e "
        "WHERE json_extract(e.value, '$.reference_id') = ?)",
        [reference_id],
    ):
        left = [item for item in json.loads(row["evidence"]) if item["reference_id"] != reference_id]
        n_changed += 1
        given = [json.dumps(left), row["scan_id"], row["rank"]]
        store.db.execute("UPDATE matches SET evidence = ? WHERE scan_id = ? AND rank = ?", given)
    return n_changed


def _erase_track_rows(store: Store, track_id: int | None, content_id: str, path: str | None) -> int:
    """Delete a track's rows and write down what is left to do; call inside `store.writing`.

    Parameters
    ----------
    path : str, optional
        A path that was asked for; those that the track was scanned under are taken too.
    """
    scans = store.rows("SELECT scan_id, path FROM scans WHERE track_id = ?", [track_id])
    paths = sorted({*(row["path"] for row in scans), *([] if path is None else [path])})
    given = [json.dumps([row["scan_id"] for row in scans]), json.dumps(paths)]
    chosen = "scan_id IN (SELECT value FROM json_each(?1))"
    removed = {
        "scans": len(scans),
        "matches": store.rows(f"SELECT COUNT(*) AS n FROM matches WHERE {chosen}", given[:1])[0]["n"],
        "run_tracks": store.db.execute(
            f"DELETE FROM run_tracks WHERE {chosen} OR (scan_id IS NULL AND path IN (SELECT value FROM json_each(?2)))",
            given,
        ).rowcount,
        "audit_payloads": store.db.execute("DELETE FROM audit_payloads WHERE track_id = ?", [track_id]).rowcount,
    }
    store.db.execute("DELETE FROM tracks WHERE track_id = ?", [track_id])
    salt = secrets.token_hex(16)
    # Paths and content are needed until the reports are done, and are forgotten then.
    work = {"content_id": content_id, "paths": paths, "reports": _report_paths(store)}
    also = [{"kind": "track", "subject": _subject(_content_of_path(path), salt), "salt": salt} for path in paths]
    return _write_down(store, "track", _subject(content_id, salt), salt, work, removed, also=also)


def _content_of_path(path: str) -> str:
    """What stands for the content of a track that could not be read."""
    return hashlib.sha256(path.encode()).hexdigest()


def _write_down(
    store: Store,
    kind: str,
    subject: str,
    salt: str,
    work: dict[str, Any],
    removed: dict[str, int],
    not_reached: Sequence[str] = (),
    also: Sequence[dict[str, str]] = (),
) -> int:
    receipt = {"removed": removed, "by": store.actor, "not_reached": [*not_reached, *_not_reached(store)], "also": also}
    # Removed once before, where a restore brought it back.
    store.db.execute("DELETE FROM erasures WHERE kind = ? AND subject = ?", [kind, subject])
    erasure_id = store.insert(
        "erasures",
        {
            "kind": kind,
            "subject": subject,
            "salt": salt,
            "requested_at": now(),
            "pending": json.dumps({"steps": STEPS, **work}),
            "receipt": json.dumps(receipt),
        },
    )
    audit.append(store, f"{kind}.remove", {"erasure_id": erasure_id, "subject": subject, "removed": removed})
    return erasure_id


def _carry_out(
    store: Store, erasure_id: int, notify: Notify, wait_s: float, *, marks: Sequence[bytes]
) -> dict[str, Any]:
    """Do the steps that are left, until one has to wait for somebody."""
    (row,) = store.rows("SELECT * FROM erasures WHERE erasure_id = ?", [erasure_id])
    work, receipt = json.loads(row["pending"]), json.loads(row["receipt"])
    while work["steps"]:
        step = work["steps"][0]
        try:
            whom = _do(store, step, work, receipt, notify, wait_s)
        except RegistryError as error:  # a full disk, say: no reason for other commands not to work
            whom = f"what is wrong to end: {error}"
        if whom:
            notify(
                f"removal {erasure_id}: {STEP_NAMES[step]} waits for {whom}; the rows are gone, copies may stand in "
                f"files until then. The next command goes on with it, and `likeness receipts {erasure_id}` says how far"
            )
            break
        work["steps"].pop(0)
        _save(store, erasure_id, {"pending": json.dumps(work), "receipt": json.dumps(receipt)})
    else:
        receipt["verified"] = _verify(store, row["kind"], work, marks)
        receipt["audit_head"] = vars(audit.head_of(store))
        _save(store, erasure_id, {"finished_at": now(), "pending": "{}", "receipt": json.dumps(receipt)})
        store.empty_log(LATER_WAIT_S)  # of the list of files, which held nothing of the voice
    (row,) = store.rows("SELECT * FROM erasures WHERE erasure_id = ?", [erasure_id])
    return _receipt(row)


def _do(
    store: Store, step: str, work: dict[str, Any], receipt: dict[str, Any], notify: Notify, wait_s: float
) -> str | None:
    """Do one step; returns for whom it has to wait, if so. Each may be done twice."""
    match step:
        case "files":
            delete_abandoned(store.home)
            if any(store.home.glob(f"{SCRATCH}*")):
                return "a restore that is under way"
            with audio_locked(store.home):
                delete_orphans(store)
                _delete_kept(store, work)
        case "reports":
            return _clean_reports(work, receipt)
        case "index":
            write_store_index(store, notify)
        case "log":
            return None if store.empty_log(wait_s) else "somebody who reads the database"
        case "pages":
            store.compact()
    return None


def _save(store: Store, erasure_id: int, values: dict[str, Any]) -> None:
    """Write down how far a removal is, unless another process has finished it meanwhile."""
    columns = ", ".join(f"{name} = ?" for name in values)
    with store.writing():
        given = [*values.values(), erasure_id]
        store.db.execute(f"UPDATE erasures SET {columns} WHERE erasure_id = ? AND finished_at IS NULL", given)


def _receipt(row: dict[str, Any]) -> dict[str, Any]:
    names = ("erasure_id", "kind", "subject", "salt", "requested_at", "finished_at")
    pending = [STEP_NAMES[step] for step in json.loads(row["pending"]).get("steps", [])]
    return {"receipt": 1, **{name: row[name] for name in names}, "pending": pending, **json.loads(row["receipt"])}


def _delete_kept(store: Store, work: dict[str, Any]) -> None:
    for kept_path in work.get("kept_paths", []):
        _overwrite(store.home / kept_path)
        (store.home / kept_path).unlink(missing_ok=True)


def _overwrite(path: Path) -> None:
    """Write zeros over a file before its name goes; on file systems that copy on write the old blocks stay free."""
    with suppress(OSError), path.open("r+b") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.write(b"\0" * min(left, 2**20))
        file.flush()
        os.fsync(file.fileno())


def _clean_reports(work: dict[str, Any], receipt: dict[str, Any]) -> str | None:
    """Take what is removed out of outcome files; returns for whom to wait, if one is being written."""
    while work["reports"]:
        name = work["reports"][0]
        try:
            reason = _clean_report(Path(name), work)
        except BlockingIOError:
            return f"the batch that writes {name}"
        if reason is not None:
            receipt["not_reached"].append(f"{name}: {reason}")
        work["reports"].pop(0)
    work.pop("content_id", None)
    work.pop("paths", None)
    return None


def _clean_report(path: Path, work: dict[str, Any]) -> str | None:
    """Write a report anew without what is removed; returns why it was left alone, if so.

    Raises
    ------
    BlockingIOError
        A batch is writing it, or another removal.
    """
    partial: Path | None = None
    try:
        with path.open("r+", encoding="utf-8") as old:
            fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as a batch locks it; held until the new one is in place
            if os.fstat(old.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError  # somebody has just put another in its place
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as new:
                partial = Path(new.name)
                new.writelines(_cleaned(line, work) for line in old)
                new.flush()
                os.fsync(new.fileno())
            partial.chmod(path.stat().st_mode & 0o777)
            partial.replace(path)
    except BlockingIOError:
        raise
    except FileNotFoundError:
        return "is not there any more; copies elsewhere were not reached"
    except (ValueError, KeyError, TypeError):
        return "is not what was written any more, and was left as it is"
    except OSError as error:
        return f"could not be written ({error.strerror})"
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return None


def _cleaned(text: str, work: dict[str, Any]) -> str:
    """A line of a report without what is removed; nothing of it where it is about that alone."""
    if not text.endswith("\n"):  # cut off when the batch was killed; the store has the whole of it
        return ""
    line = json.loads(text)
    scan = line["scan"] or {"content_id": None, "matches": []}
    if "content_id" in work and (scan["content_id"] == work["content_id"] or line["path"] in work["paths"]):
        return ""
    before = json.dumps(scan["matches"])
    scan["matches"] = [match for match in scan["matches"] if match["artist_id"] not in work.get("artist_ids", [])]
    for match in scan["matches"]:
        match["evidence"] = [e for e in match["evidence"] if e["reference_id"] != work.get("reference_id")]
        if "lookalike_ids" in match:  # of releases from 0.2 on
            match["lookalike_ids"] = [i for i in match["lookalike_ids"] if i not in work.get("artist_ids", [])]
    return text if json.dumps(scan["matches"]) == before else json.dumps(line) + "\n"


def _verify(store: Store, kind: str, work: dict[str, Any], marks: Sequence[bytes]) -> list[str]:
    """What was looked at after the last step; raises `StoreDamaged` if something of a removed artist is left.

    Or `RegistryError` where that cannot be searched for.
    """
    ids = json.dumps(work.get("artist_ids", []))
    for table in ("artists", "artist_references", "templates", "matches", "consents", "artist_keys", "audit_payloads"):
        query = f"SELECT COUNT(*) AS n FROM {table} WHERE artist_id IN (SELECT value FROM json_each(?))"
        if store.rows(query, [ids])[0]["n"]:
            raise StoreDamaged(f"{store.path}: {table} still hold what was removed")
    free = store.db.execute("PRAGMA freelist_count").fetchone()[0]
    checked = [f"no row of it in the database, {free} free pages in it, its log empty", "the index written anew"]
    if marks:
        marks = [mark for mark in marks if not _is_others(store, mark)]
        try:
            n_files, n_bytes, found = find_bytes(store.home, marks)
            for _ in range(SEARCHES_AGAIN):
                if found:  # another command may be writing an index of a moment ago, which it will not put in place
                    time.sleep(SEARCH_AGAIN_S)
                    n_files, n_bytes, found = find_bytes(store.home, marks)
        except OSError as error:
            raise RegistryError(
                f"{error}; it is removed, and not verified. The next command ends the removal without this search, as "
                "its receipt will say"
            ) from error
        if found:
            raise StoreDamaged(f"{', '.join(found)}: still hold what was removed")
        what = "content_id" if kind == "track" else "vectors"
        checked.append(f"{len(marks)} of its {what} searched for in {n_files} files, {n_bytes} bytes: none found")
    else:
        checked.append("no search of the files' bytes: what to search for was not kept, or is another's too")
    return checked


def _is_others(store: Store, mark: bytes) -> bool:
    """Whether somebody else's references hold the same vector: a take that was trimmed begins as the whole one."""
    return store.encryption is None and bool(
        store.rows(
            "SELECT 1 FROM (SELECT vectors FROM artist_references UNION ALL SELECT vectors FROM staged_references) "
            "WHERE instr(vectors, ?) LIMIT 1",
            [mark],
        )
    )


#: Bytes of a vector that are searched for, 8 numbers: a longer piece lies more often across two pages of the database,
#: with a page's header between.
MARK_BYTES = 32


def _marks(store: Store, artist_id: int) -> list[bytes]:
    """Bytes that only this artist's records can hold: of every template, and of each reference's first window."""
    marks = []
    for each_id in store.with_merged(artist_id):
        shared = _shared(store, each_id)
        windows = store.windows_on_record(each_id)
        marks += [_mark(row["vectors"][0]) for row in windows if row["reference_id"] not in shared]
        if not shared:
            rows = store.rows("SELECT vector FROM templates WHERE artist_id = ?", [each_id])
            marks += [store.unseal(each_id, row["vector"], "template")[:MARK_BYTES] for row in rows]
    return marks


def _mark(vector: np.ndarray) -> bytes:
    return vector.tobytes()[:MARK_BYTES]


def _shared(store: Store, artist_id: int) -> set[int]:
    """References of an artist that are enrolled for another one too, as a duet: that one keeps the same vectors."""
    rows = store.rows(
        "SELECT r.reference_id FROM artist_references r JOIN artist_references other USING (content_id) "
        "WHERE r.artist_id = ? AND other.artist_id != r.artist_id",
        [artist_id],
    )
    return {row["reference_id"] for row in rows}


def _not_reached(store: Store) -> list[str]:
    backups = store.rows("SELECT path, made_at FROM backups ORDER BY made_at")
    return [
        *(
            f"backup {row['path']} of {row['made_at']}: `likeness restore` removes it again, the file itself keeps it"
            for row in backups
        ),
        "copies that were made by hand, exports, logs, and blocks that the file system has let go of",
    ]


def _subject(content_id: str, salt: str) -> str:
    return hashlib.sha256((salt + content_id).encode()).hexdigest()
