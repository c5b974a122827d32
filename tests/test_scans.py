from __future__ import annotations

from dataclasses import replace

import pytest

from registry.erasure import erase_artist
from registry.errors import RegistryError, UnknownTrack
from registry.identity import rename_artist
from registry.records import Scan
from registry.scans import add_scan, find_scans, get_scan
from registry.store import Store
from tests.fakes import enroll_vectors, make_matcher, make_voiceprint, singer, table_counts


@pytest.fixture
def matcher(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    return make_matcher(store, encoder)[0]


@pytest.fixture
def scan(matcher):
    return matcher.scan("in/a.wav", make_voiceprint(singer(0, 10, seed=5), "a"))


def save(store: Store, *new: Scan) -> list[Scan]:
    with store.writing():
        return [replace(scan, scan_id=add_scan(store, scan)) for scan in new]


def test_a_scan_comes_back_as_it_was_stored(store, scan):
    (saved,) = save(store, scan)

    assert saved.scan_id == 1
    assert get_scan(store, 1) == saved
    assert list(find_scans(store)) == [saved]


def test_what_crowding_took_off_is_kept_with_each_match(store, scan):
    first, second = scan.matches
    crowded = replace(scan, matches=(replace(first, taken_off=0.29), second))

    (saved,) = save(store, crowded)

    assert get_scan(store, 1) == saved
    assert [match.taken_off for match in saved.matches] == [0.29, 0.0]


def test_a_track_is_known_by_its_content_wherever_it_lies(store, scan):
    saved = save(store, scan, replace(scan, path="elsewhere/b.wav"))

    assert [row["n"] for row in store.rows("SELECT COUNT(*) AS n FROM tracks")] == [1]
    assert list(find_scans(store, track=scan.content_id[:12])) == saved
    assert list(find_scans(store, track="elsewhere/b.wav")) == saved[1:]


@pytest.mark.parametrize("track", ["in/b.wav", "in/%", "in/_.wav", "A.WAV", ""])
def test_an_unknown_track_is_said_to_be(store, scan, track):
    """Neither wildcards nor nothing at all name a track."""
    save(store, scan)

    with pytest.raises(UnknownTrack, match="no track with this path or content_id has been scanned here"):
        list(find_scans(store, track=track))


def test_an_artist_removed_since_the_match_leaves_no_trace_in_a_new_scan(store, scan):
    erase_artist(store, "Ada", print)

    (saved,) = save(store, scan)

    assert [match.artist for match in get_scan(store, saved.scan_id).matches] == ["Bo"]
    assert "Ada" not in "\n".join(store.db.conn.iterdump())


def test_a_renamed_artist_has_the_new_name_in_old_scans(store, scan):
    save(store, scan)
    rename_artist(store, "Ada", "Ada Vale")

    assert [match.artist for match in get_scan(store, 1).matches] == ["Ada Vale", "Bo"]
    assert get_scan(store, 1).reason == scan.reason


def test_a_scan_cut_short_leaves_nothing(store, scan, monkeypatch):
    monkeypatch.setattr(store, "present", lambda _: 1 / 0)

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        save(store, scan)

    assert {"tracks", "scans", "matches"}.isdisjoint(table_counts(store))


def test_there_is_no_verdict_that_nobody_knows(store, scan):
    with pytest.raises(RegistryError, match="CHECK constraint failed"):
        save(store, replace(scan, verdict="guilty"))
