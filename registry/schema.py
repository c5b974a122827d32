"""The tables, as numbered migrations. A released migration is never edited: a change is a new one.

For strangers who open `registry.db` with other tools: README, "The database". Vectors are little-endian float32:
``numpy.frombuffer(blob, "<f4").reshape(-1, dim)``. Times are UTC ISO 8601, lengths are seconds.
"""

from __future__ import annotations

import json
import unicodedata

from sqlite_utils import Database, Migrations

migrations = Migrations("likeness")


@migrations()
def m001_registry(db: Database) -> None:
    """Artists and what was enrolled for them; tracks and what was decided about them."""
    db.executescript(
        """
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;   -- revision, encoder_id, ...
        CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;   -- JSON values, set by the owner

        CREATE TABLE encoders (
            encoder_id TEXT PRIMARY KEY, source TEXT NOT NULL, dim INTEGER NOT NULL, rate_hz INTEGER NOT NULL,
            window_s REAL NOT NULL, hop_s REAL NOT NULL, first_used_at TEXT NOT NULL
        ) STRICT;

        CREATE TABLE artists (
            artist_id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL
        ) STRICT;

        CREATE TABLE consents (
            consent_id INTEGER PRIMARY KEY AUTOINCREMENT,
            artist_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            ref TEXT NOT NULL, recorded_at TEXT NOT NULL, expires_at TEXT
        ) STRICT;

        CREATE TABLE artist_references (     -- one enrolled recording; "references" is a word of SQL
            reference_id INTEGER PRIMARY KEY AUTOINCREMENT,
            artist_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            consent_id INTEGER NOT NULL REFERENCES consents ON DELETE CASCADE,
            encoder_id TEXT NOT NULL REFERENCES encoders,
            path TEXT NOT NULL, kept_path TEXT, content_id TEXT NOT NULL,
            duration_s REAL NOT NULL, voiced_s REAL NOT NULL, forced INTEGER NOT NULL, added_at TEXT NOT NULL,
            n_windows INTEGER NOT NULL,
            vectors BLOB NOT NULL,           -- (n_windows, dim) float32: the templates are condensed from these
            times BLOB NOT NULL,             -- (n_windows, 2) float32: start and end of each window in seconds
            UNIQUE (artist_id, content_id)
        ) STRICT;
        CREATE INDEX artist_references_content ON artist_references (content_id);

        CREATE TABLE templates (             -- what tracks are matched with
            template_id INTEGER PRIMARY KEY AUTOINCREMENT,
            artist_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            reference_id INTEGER NOT NULL REFERENCES artist_references ON DELETE CASCADE,  -- of the medoid window
            start_s REAL NOT NULL, end_s REAL NOT NULL,                                     -- of the medoid window
            n_windows INTEGER NOT NULL,      -- windows that it stands for
            vector BLOB NOT NULL             -- (dim,) float32, unit length
        ) STRICT;
        CREATE INDEX templates_artist ON templates (artist_id);

        CREATE TABLE runs (                  -- one batch, pinned to one state of the registry
            run_id INTEGER PRIMARY KEY AUTOINCREMENT,
            inputs_key TEXT NOT NULL,        -- sha256 over what was asked for, to find the run to go on with
            started_at TEXT NOT NULL, finished_at TEXT,
            store_revision INTEGER NOT NULL, encoder_id TEXT NOT NULL, cohort_id TEXT,
            threshold REAL NOT NULL, threshold_source TEXT NOT NULL, version TEXT NOT NULL
        ) STRICT;

        CREATE TABLE tracks (
            track_id INTEGER PRIMARY KEY AUTOINCREMENT,
            content_id TEXT NOT NULL UNIQUE, duration_s REAL NOT NULL, first_seen_at TEXT NOT NULL
        ) STRICT;

        CREATE TABLE scans (                 -- one examination of a track
            scan_id INTEGER PRIMARY KEY AUTOINCREMENT,
            track_id INTEGER NOT NULL REFERENCES tracks ON DELETE CASCADE,
            run_id INTEGER REFERENCES runs ON DELETE CASCADE,
            path TEXT NOT NULL, scanned_at TEXT NOT NULL,
            verdict TEXT NOT NULL CHECK (verdict IN ('clear', 'flagged', 'abstained')), reason TEXT NOT NULL,
            voiced_s REAL NOT NULL, n_windows INTEGER NOT NULL, n_artists INTEGER NOT NULL,
            threshold REAL NOT NULL, threshold_source TEXT NOT NULL,
            store_revision INTEGER NOT NULL, encoder_id TEXT NOT NULL, cohort_id TEXT
        ) STRICT;
        CREATE INDEX scans_track ON scans (track_id);
        CREATE INDEX scans_run ON scans (run_id);

        CREATE TABLE matches (               -- the best artists of a scan, also when it is clear
            scan_id INTEGER NOT NULL REFERENCES scans ON DELETE CASCADE,
            rank INTEGER NOT NULL,
            artist_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            score REAL NOT NULL, norm_score REAL NOT NULL, llr REAL,
            evidence TEXT NOT NULL,          -- JSON: which seconds of the track, which seconds of which reference
            PRIMARY KEY (scan_id, rank)
        ) STRICT;
        CREATE INDEX matches_artist ON matches (artist_id);

        CREATE TABLE run_tracks (            -- what a run is to examine, and what became of it
            run_id INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
            position INTEGER NOT NULL,
            path TEXT NOT NULL, title TEXT, isrc TEXT, uploader TEXT, extra TEXT NOT NULL,
            outcome TEXT, reason TEXT, kind TEXT, scan_id INTEGER REFERENCES scans ON DELETE SET NULL,
            PRIMARY KEY (run_id, position)
        ) STRICT;
        CREATE INDEX run_tracks_open ON run_tracks (run_id) WHERE outcome IS NULL;
        CREATE INDEX run_tracks_scan ON run_tracks (scan_id);

        INSERT INTO meta VALUES ('revision', '0');
        """
    )


@migrations()
def m002_trust(db: Database) -> None:
    """Erasure, audit, encryption, approval, aliases and merges; tries and leases of a batch's tracks."""
    db.executescript(
        """
        -- Named in receipts and erasures, where a name must not stand and a number could come again after a restore.
        ALTER TABLE artists ADD COLUMN uid TEXT NOT NULL DEFAULT '';
        UPDATE artists SET uid = lower(hex(randomblob(8)));
        -- The artist whose references took in this one's; its name leads there.
        ALTER TABLE artists ADD COLUMN merged_into INTEGER REFERENCES artists ON DELETE CASCADE;

        CREATE TABLE names (                 -- every name that leads to an artist: its own and its aliases
            name_key TEXT PRIMARY KEY,       -- the name; in an encrypted registry its HMAC-SHA256
            fold_key TEXT NOT NULL,          -- the same without regard to case
            artist_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            alias TEXT                       -- NULL for the artist's own name, which stands in artists
        ) STRICT;
        CREATE INDEX names_fold ON names (fold_key);
        CREATE INDEX names_artist ON names (artist_id);

        CREATE TABLE artist_keys (           -- encrypted registries only: the key of an artist's data, itself encrypted
            artist_id INTEGER PRIMARY KEY REFERENCES artists ON DELETE CASCADE, wrapped BLOB NOT NULL
        ) STRICT;

        CREATE TABLE identity_changes (      -- aliases, merges and splits, with what it takes to undo them
            change_id INTEGER PRIMARY KEY AUTOINCREMENT,
            artist_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            action TEXT NOT NULL, changed_at TEXT NOT NULL, changed_by TEXT NOT NULL, detail TEXT NOT NULL,
            undone_at TEXT
        ) STRICT;
        CREATE INDEX identity_changes_artist ON identity_changes (artist_id);

        ALTER TABLE consents ADD COLUMN withdrawn_at TEXT;

        ALTER TABLE artist_references ADD COLUMN status TEXT NOT NULL DEFAULT 'active'
            CHECK (status IN ('pending', 'active'));     -- templates are made of active ones only
        ALTER TABLE artist_references ADD COLUMN enrolled_by TEXT NOT NULL DEFAULT '';
        ALTER TABLE artist_references ADD COLUMN approved_by TEXT;
        ALTER TABLE artist_references ADD COLUMN force_reason TEXT;
        ALTER TABLE artist_references ADD COLUMN own_norm_score REAL;   -- with the artist's other references
        ALTER TABLE artist_references ADD COLUMN kept_key BLOB;         -- of the kept copy, sealed

        CREATE INDEX consents_artist ON consents (artist_id);
        CREATE INDEX artists_merged ON artists (merged_into) WHERE merged_into IS NOT NULL;
        CREATE INDEX templates_reference ON templates (reference_id);
        CREATE INDEX artist_references_consent ON artist_references (consent_id);
        -- Behind the blobs in a row, so that every look at it would read them.
        CREATE INDEX artist_references_status ON artist_references (artist_id, status);

        ALTER TABLE scans ADD COLUMN n_not_matched INTEGER NOT NULL DEFAULT 0;  -- artists without a consent in force

        ALTER TABLE run_tracks ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;  -- times that it took a process with it
        ALTER TABLE run_tracks ADD COLUMN lease_owner TEXT;     -- the process that has it now
        ALTER TABLE run_tracks ADD COLUMN lease_expires_s REAL; -- Unix time
        CREATE TABLE reports (               -- files that a batch wrote its outcomes to
            path TEXT PRIMARY KEY, run_id INTEGER REFERENCES runs ON DELETE SET NULL, written_at TEXT NOT NULL
        ) STRICT;
        CREATE TABLE backups (path TEXT NOT NULL, made_at TEXT NOT NULL) STRICT;

        CREATE TABLE erasures (              -- what was removed, by ids that name nobody; replayed after a restore
            erasure_id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL CHECK (kind IN ('artist', 'reference', 'track')),
            subject TEXT NOT NULL,           -- an artist's uid, or the sha256 of salt and content_id
            salt TEXT NOT NULL DEFAULT '',
            requested_at TEXT NOT NULL, finished_at TEXT,
            pending TEXT NOT NULL,           -- JSON: steps that are left
            receipt TEXT NOT NULL            -- JSON
        ) STRICT;
        CREATE UNIQUE INDEX erasures_subject ON erasures (kind, subject);
        CREATE INDEX erasures_pending ON erasures (erasure_id) WHERE finished_at IS NULL;

        CREATE TABLE audit (                 -- hash = sha256 of this row's other columns, so the last covers all before
            seq INTEGER PRIMARY KEY, at TEXT NOT NULL, action TEXT NOT NULL,
            commitment TEXT NOT NULL,        -- sha256 of salt and payload
            previous TEXT NOT NULL, hash TEXT NOT NULL
        ) STRICT;
        CREATE TABLE audit_payloads (        -- erasure deletes from here and the chain above still verifies
            seq INTEGER PRIMARY KEY REFERENCES audit,
            artist_id INTEGER REFERENCES artists ON DELETE CASCADE,
            track_id INTEGER REFERENCES tracks ON DELETE CASCADE,
            salt BLOB NOT NULL, payload TEXT NOT NULL
        ) STRICT;
        CREATE INDEX audit_payloads_artist ON audit_payloads (artist_id);
        CREATE INDEX audit_payloads_track ON audit_payloads (track_id);

        -- Counts whatever may end an artist's being matched, so that a batch sees it from one row before each track.
        INSERT INTO meta VALUES ('rights', '0');
        CREATE TRIGGER consents_added AFTER INSERT ON consents BEGIN
            UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'rights'; END;
        CREATE TRIGGER consents_changed AFTER UPDATE ON consents BEGIN
            UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'rights'; END;
        CREATE TRIGGER consents_removed AFTER DELETE ON consents BEGIN
            UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'rights'; END;
        CREATE TRIGGER references_removed AFTER DELETE ON artist_references BEGIN
            UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'rights'; END;
        CREATE TRIGGER references_moved AFTER UPDATE OF artist_id ON artist_references BEGIN
            UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'rights'; END;
        CREATE TRIGGER artists_removed AFTER DELETE ON artists BEGIN
            UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'rights'; END;
        """
    )
    for artist_id, name in db.execute("SELECT artist_id, name FROM artists").fetchall():
        db.execute("INSERT INTO names VALUES (?, ?, ?, NULL)", [name, fold_name(name), artist_id])
    db.execute("UPDATE artist_references SET force_reason = 'none was asked for' WHERE forced")
    # Evidence names references by number from now on: a path says who somebody is, and would stand there in plain.
    ids = dict(db.execute("SELECT artist_id || ' ' || path, reference_id FROM artist_references").fetchall())
    for scan_id, rank, artist_id, text in db.execute(
        "SELECT scan_id, rank, artist_id, evidence FROM matches"
    ).fetchall():
        evidence = json.loads(text)
        for item in evidence:
            item["reference_id"] = ids.get(f"{artist_id} {item.pop('reference')}", 0)
        db.execute(
            "UPDATE matches SET evidence = ? WHERE scan_id = ? AND rank = ?", [json.dumps(evidence), scan_id, rank]
        )


@migrations()
def m003_another_encoder(db: Database) -> None:
    """What is prepared with an encoder that the registry goes over to."""
    db.executescript(
        """
        -- A reference that was made with another encoder than meta's waits for its audio, and is not matched.
        DROP INDEX artist_references_status;
        CREATE INDEX artist_references_status ON artist_references (artist_id, status, encoder_id);

        CREATE TABLE staged_references (     -- what takes the place of a reference's own columns once all are made
            reference_id INTEGER PRIMARY KEY REFERENCES artist_references ON DELETE CASCADE,
            encoder_id TEXT NOT NULL REFERENCES encoders,
            voiced_s REAL NOT NULL, own_norm_score REAL, n_windows INTEGER NOT NULL,
            vectors BLOB NOT NULL, times BLOB NOT NULL
        ) STRICT;
        -- Sealed with the key of the artist it belonged to; for another artist it is made again.
        CREATE TRIGGER staged_reference_moved AFTER UPDATE OF artist_id ON artist_references BEGIN
            DELETE FROM staged_references WHERE reference_id = NEW.reference_id; END;
        """
    )


@migrations()
def m004_calibration(db: Database) -> None:
    """What thresholds come from: false-flag budgets and calibrations; likeness that is known and accepted."""
    db.executescript(
        """
        CREATE TABLE calibrations (          -- by the owner; the newest active one of an encoder counts
            version INTEGER PRIMARY KEY AUTOINCREMENT,
            calibration_id TEXT NOT NULL, encoder_id TEXT NOT NULL, cohort_id TEXT NOT NULL,
            content TEXT NOT NULL,           -- JSON, as calibration.json beside a model
            made_at TEXT NOT NULL, made_by TEXT NOT NULL, active INTEGER NOT NULL
        ) STRICT;

        CREATE TABLE lookalikes (            -- artists whose voices are alike, as somebody noted
            artist_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            other_id INTEGER NOT NULL REFERENCES artists ON DELETE CASCADE,
            note TEXT NOT NULL, noted_at TEXT NOT NULL, noted_by TEXT NOT NULL,
            PRIMARY KEY (artist_id, other_id), CHECK (artist_id < other_id)
        ) STRICT;
        CREATE INDEX lookalikes_other ON lookalikes (other_id);

        -- From here on a threshold is one on llr. Earlier ones, on norm_score, have no calibration_id.
        ALTER TABLE scans ADD COLUMN budget REAL;
        ALTER TABLE scans ADD COLUMN calibration_id TEXT;
        ALTER TABLE runs ADD COLUMN budget REAL;
        ALTER TABLE runs ADD COLUMN calibration_id TEXT;
        ALTER TABLE runs ADD COLUMN decided_from INTEGER REFERENCES runs ON DELETE SET NULL;
        ALTER TABLE matches ADD COLUMN flagged INTEGER NOT NULL DEFAULT 0;
        UPDATE matches SET flagged = 1 WHERE norm_score >= (
            SELECT threshold FROM scans s WHERE s.scan_id = matches.scan_id AND s.verdict = 'flagged');
        """
    )


@migrations()
def m005_crowding(db: Database) -> None:
    """What the llr of a match is lower by where other voices come near."""
    db.executescript(
        """
        -- What crowding took off llr, at least 0 (registry/crowding.py). Scans from before this column say 0.
        ALTER TABLE matches ADD COLUMN taken_off REAL NOT NULL DEFAULT 0;
        """
    )


def fold_name(name: str) -> str:
    """A name without regard to case and width, for finding it however it was typed."""
    return unicodedata.normalize("NFKC", name).casefold()


#: What this release can read; a database that has had any other migration is from a newer one.
MIGRATION_NAMES = frozenset(
    {"m001_registry", "m002_trust", "m003_another_encoder", "m004_calibration", "m005_crowding"}
)
