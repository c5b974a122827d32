"""The tables, as numbered migrations. A released migration is never edited: a change is a new one.

For strangers who open `registry.db` with other tools: README, "The database". Vectors are little-endian float32:
``numpy.frombuffer(blob, "<f4").reshape(-1, dim)``. Times are UTC ISO 8601, lengths are seconds.
"""

from __future__ import annotations

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


#: What this release can read; a database that has had any other migration is from a newer one.
MIGRATION_NAMES = frozenset({"m001_registry"})
