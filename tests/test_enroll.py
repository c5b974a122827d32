from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest

from embeddings.model_dir import Cohort
from registry import audit, enroll, rights
from registry.check import find_problems
from registry.condense import MAX_TEMPLATES
from registry.config import REQUIRE_TWO_PERSONS, change_setting
from registry.enroll import Enrollment, check_name, enroll_recording, list_recordings
from registry.erasure import erase_artist
from registry.errors import EncoderMismatch, RegistryError, StoreBusy
from registry.identity import add_alias
from registry.kept_audio import KEPT_AUDIO
from registry.match import index_path, write_store_index
from registry.records import Consent
from registry.scans import add_scan, find_scans
from registry.store import Store
from tests.fakes import (
    COHORT_ID,
    CONSENT,
    DIM,
    FakeEncoder,
    Recordings,
    enroll_vectors,
    files_holding,
    make_matcher,
    make_voiceprint,
    singer,
    table_counts,
    unit,
)


def rows_of_one_reference(n_templates: int) -> dict[str, int]:
    """Every table of a registry that holds one reference, with its templates; its consent is in the audit too."""
    rows = {"artists": 1, "names": 1, "consents": 1, "artist_references": 1, "templates": n_templates}
    return {**rows, "audit": 2, "audit_payloads": 2}


@pytest.fixture
def recordings(monkeypatch) -> Recordings:
    recordings = Recordings()
    monkeypatch.setattr(enroll, "embed_file", recordings.embed_file)
    return recordings


@pytest.fixture
def voice(voice_like) -> np.ndarray:
    # 16 bits, so that every lossless container holds the very same numbers.
    return np.rint(voice_like(8.0) * 32767).astype(np.int16)


@pytest.fixture
def voice_path(voice, write_wav) -> Path:
    return write_wav(voice, name="voice.wav")


def outcomes(store, encoder, paths, artist="Ada", **options) -> list[str]:
    return [enroll_recording(store, encoder, artist, path, CONSENT, **options).outcome for path in paths]


# --- real files through the real front end ---


def test_a_recording_is_enrolled_with_what_was_found_in_it(store, encoder, voice_path):
    outcome = enroll_recording(store, encoder, "Ada", voice_path, CONSENT)

    assert outcome == Enrollment(
        path=str(voice_path),
        outcome="enrolled",
        reason=f"{outcome.voiced_s:.1f} s of voice in 3 windows",
        duration_s=8.0,
        voiced_s=outcome.voiced_s,
        n_windows=3,
        reference_id=1,
        status="active",
        own_norm_score=None,
        warnings=(),
        similar_artist=None,
        similar_llr=None,
    )
    assert 6.0 < outcome.voiced_s <= 8.0
    (reference,) = store.references("Ada")
    assert (reference.path, reference.consent, reference.force_reason) == (str(voice_path), "release-2026-014", None)
    assert table_counts(store) == rows_of_one_reference(1)


def test_who_enrolled_what_is_on_record(store, encoder, voice_path):
    store.actor = "ida"

    enroll_recording(store, encoder, "Ada", voice_path, CONSENT)

    (reference,) = store.references()
    assert (reference.enrolled_by, reference.approved_by) == ("ida", None)
    assert [(entry.action, entry.artist, entry.payload) for entry in audit.entries(store)] == [
        ("consent.add", "Ada", {"by": "ida", "ref": CONSENT.ref, "expires_at": None}),
        (
            "reference.enroll",
            "Ada",
            {
                "by": "ida",
                "reference_id": 1,
                "path": str(voice_path),
                "content_id": reference.content_id,
                "status": "active",
                "force_reason": None,
                "own_norm_score": None,
            },
        ),
    ]


def test_an_artist_is_found_by_another_spelling_or_alias(store, encoder):
    enroll_vectors(store, encoder, "Ada Vale", singer(0))
    add_alias(store, "Ada Vale", "DJ Vale")

    names = ["ADA VALE", "dj vale", "Ada Vale"]
    found = [enroll_vectors(store, encoder, name, singer(0, seed=k), content=f"{k}") for k, name in enumerate(names)]

    assert [outcome.outcome for outcome in found] == ["enrolled"] * 3
    assert [(artist.name, artist.n_references) for artist in store.artists()] == [("Ada Vale", 4)]


def test_where_two_persons_are_required_a_reference_waits(store, encoder):
    change_setting(store, REQUIRE_TWO_PERSONS, True)

    outcome = enroll_vectors(store, encoder, "Ada", singer(0))

    assert (outcome.outcome, outcome.status) == ("enrolled", "pending")
    artist = store.artist("Ada")
    assert (artist.status, artist.n_references, artist.n_pending, artist.n_templates) == ("pending", 1, 1, 0)
    assert len(store.gallery().vectors) == 0


def test_the_same_sound_in_another_container_is_reported_and_not_added(store, encoder, voice_path, voice, write_wav):
    copy = write_wav(voice, name="copy.flac", audio_format="FLAC")
    enroll_recording(store, encoder, "Ada", voice_path, CONSENT)

    outcome = enroll_recording(store, encoder, "Ada", copy, CONSENT)

    assert (outcome.outcome, outcome.reference_id) == ("already_enrolled", None)
    assert outcome.reason.startswith("this recording is enrolled for Ada already")
    assert (table_counts(store), store.revision) == (rows_of_one_reference(1), 1)


def test_the_same_sound_under_another_artist_is_refused(store, encoder, voice_path, voice, write_wav):
    copy = write_wav(voice, name="copy.flac", audio_format="FLAC")
    enroll_recording(store, encoder, "Ada", voice_path, CONSENT)

    outcome = enroll_recording(store, encoder, "Bo", copy, CONSENT)

    assert (outcome.outcome, outcome.reason) == (
        "refused",
        "this recording is enrolled for Ada; --force REASON enrolls it for Bo too",
    )
    assert [artist.name for artist in store.artists()] == ["Ada"]


def test_force_enrolls_it_for_both_and_its_reason_is_on_record(store, encoder, voice_path):
    enroll_recording(store, encoder, "Ada", voice_path, CONSENT)

    outcome = enroll_recording(store, encoder, "Bo", voice_path, CONSENT, force_reason="a duet")

    assert outcome.outcome == "enrolled"
    assert [(reference.artist, reference.force_reason) for reference in store.references()] == [
        ("Ada", None),
        ("Bo", "a duet"),
    ]


def test_a_reason_for_force_that_was_not_needed_is_not_on_record(store, encoder, voice_path):
    enroll_recording(store, encoder, "Ada", voice_path, CONSENT, force_reason="just in case")

    assert [reference.force_reason for reference in store.references()] == [None]


def test_files_that_cannot_be_used_are_outcomes_and_change_nothing(store, encoder, tmp_path, write_wav, tone):
    (tmp_path / "text.wav").write_text("not audio")
    os.mkfifo(tmp_path / "fifo.wav")
    silence = write_wav(np.zeros(16000, np.float32), name="silence.wav")
    hum = write_wav(tone(5.0, hz=100.0), name="hum.wav")
    short = write_wav(tone(0.3), name="short.wav")
    paths = [tmp_path / "text.wav", tmp_path / "fifo.wav", tmp_path / "none.wav", tmp_path, silence, hum, short]

    found = [enroll_recording(store, encoder, "Ada", path, CONSENT) for path in paths]

    assert [outcome.outcome for outcome in found] == ["invalid"] * 5 + ["too_little_voice"] * 2
    assert [outcome.path for outcome in found] == [str(path) for path in paths]
    assert found[2].reason == "there is no such file"
    assert found[5].reason == "0.0 s of voice found, at least 1.5 s is needed; is this the vocal stem?"
    assert (table_counts(store), store.encoder_id, store.revision) == ({}, None, 0)


def test_a_file_whose_name_is_not_text_is_enrolled(store, encoder, voice_path):
    path = voice_path.rename(voice_path.parent / os.fsdecode(b"caf\xe9.wav"))

    outcome = enroll_recording(store, encoder, "Ada", path, CONSENT, keep_audio=True)

    assert outcome.outcome == "enrolled"
    assert store.references()[0].path.endswith("caf%E9.wav")


# --- how much voice ---


@pytest.mark.parametrize(("voiced_s", "outcome"), [(1.5, "enrolled"), (1.46875, "too_little_voice")])
def test_the_least_voice_is_a_second_and_a_half(store, encoder, recordings, voiced_s, outcome):
    path = recordings.add("a.wav", singer(0, 1), voiced_s=voiced_s)

    enrollment = enroll_recording(store, encoder, "Ada", path, CONSENT)

    assert enrollment.outcome == outcome
    assert "1.5 s of voice found, at least 1.5 s" not in enrollment.reason


# --- consent ---


def expire_consents(store: Store) -> None:
    with store.writing():
        store.db.execute("UPDATE consents SET expires_at = '2020-01-01T00:00:00Z'")


def test_the_same_recording_again_renews_an_expired_consent(store, encoder):
    """What the matcher advises when it leaves an artist out."""
    enroll_vectors(store, encoder, "Ada", singer(0))
    expire_consents(store)
    assert make_matcher(store, encoder)[0].n_artists == 0

    outcome = enroll_vectors(store, encoder, "Ada", singer(0), consent=Consent("release-2"))

    assert outcome.outcome == "already_enrolled"
    assert make_matcher(store, encoder)[0].n_artists == 1
    assert len(store.references()) == 1


# --- names ---


@pytest.mark.parametrize(
    ("name", "stored"),
    [(" Ada Vale ", "Ada Vale"), ("Zoe\u0301", "Zo\u00e9"), ("李娜", "李娜"), ("x" * 200, "x" * 200)],
)
def test_names_are_trimmed_and_composed(name, stored):
    assert check_name(name) == stored


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the artist's name is empty"),
        (" \t", "the artist's name is empty"),
        ("x" * 201, "has 201 characters, at most 200 are kept"),
        ("Ada\nVale", r"cannot be shown \(U\+000A CONTROL CHARACTER\); leave them out"),
        ("Ada\x1b[31m", r"cannot be shown \(U\+001B CONTROL CHARACTER\); leave them out"),
        ("Ada\u202eelaV", r"cannot be shown \(U\+202E RIGHT-TO-LEFT OVERRIDE\); leave them out"),
        ("Ada\udce9", r"cannot be shown \(U\+DCE9 NOT UTF-8\); leave them out"),
    ],
)
def test_names_that_cannot_be_shown_are_refused(name, message):
    with pytest.raises(RegistryError, match=message):
        check_name(name)


# --- templates ---


def test_templates_are_made_anew_with_each_reference_and_are_at_most_eight(store, encoder):
    counts = []
    for k in range(6):
        enroll_vectors(store, encoder, "Ada", singer(k, 10, spread=0.3, seed=k), content=f"song {k}")
        artist = store.artist("Ada")
        counts.append(artist.n_templates)

    assert counts == [2, 5, 7, 8, 8, 8]
    assert max(counts) == MAX_TEMPLATES
    gallery = store.gallery()
    assert len(gallery.vectors) == 8
    assert gallery.template_id.min() > sum(counts[:-1])  # not one of the old ones is left
    assert sum(row["n_windows"] for row in store.rows("SELECT n_windows FROM templates")) == 60
    assert store.revision == 6


def test_a_template_points_at_the_seconds_of_the_reference_that_it_is_nearest_to(store, encoder):
    """Six voices in three songs: each template is of one voice, and names a window in which that voice is heard."""
    heard: dict[int, list[int]] = {}
    for k in range(3):
        axes = np.repeat([2 * k, 2 * k + 1], 6)
        vectors = np.concatenate([singer(2 * k, 6, spread=0.02, seed=k), singer(2 * k + 1, 6, spread=0.02, seed=9 + k)])
        outcome = enroll_vectors(store, encoder, "Ada", vectors, content=f"song {k}")
        heard[outcome.reference_id] = axes.tolist()

    gallery = store.gallery()

    assert len(gallery.vectors) >= 6
    for vector, reference_id, start_s, end_s in zip(
        gallery.vectors, gallery.reference_id, gallery.start_s, gallery.end_s, strict=True
    ):
        assert end_s == start_s + 4.0
        assert heard[int(reference_id)][round(start_s / 2)] == int(np.argmax(vector))
    assert {int(np.argmax(vector)) for vector in gallery.vectors} == set(range(6))


# --- copies of the audio ---


def test_keep_audio_copies_the_file_privately(store, encoder, voice_path):
    voice_path.chmod(0o644)
    old = os.umask(0)
    try:
        enroll_recording(store, encoder, "Ada", voice_path, CONSENT, keep_audio=True)
    finally:
        os.umask(old)

    (reference,) = store.references()
    kept = store.home / reference.kept_path
    assert re.fullmatch(rf"{KEPT_AUDIO}/[0-9a-f]{{32}}\.wav", reference.kept_path)  # says nothing of what is in it
    assert kept.read_bytes() == voice_path.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert list(kept.parent.iterdir()) == [kept]


def test_without_keep_audio_nothing_is_copied(store, encoder, voice_path):
    enroll_recording(store, encoder, "Ada", voice_path, CONSENT)

    assert (store.references()[0].kept_path, (store.home / KEPT_AUDIO).exists()) == (None, False)


def kept_names(store: Store) -> list[str]:
    return sorted(path.name for path in (store.home / KEPT_AUDIO).glob("*"))


def test_a_recording_that_is_refused_leaves_no_copy(store, encoder, voice_path, write_wav, tone):
    enroll_recording(store, encoder, "Ada", voice_path, CONSENT)
    hum = write_wav(tone(5.0, hz=100.0), name="hum.wav")

    assert outcomes(store, encoder, [voice_path], keep_audio=True) == ["already_enrolled"]
    assert outcomes(store, encoder, [voice_path], artist="Bo", keep_audio=True) == ["refused"]
    assert outcomes(store, encoder, [hum], keep_audio=True) == ["too_little_voice"]
    assert kept_names(store) == []


@pytest.mark.parametrize("error", [StoreBusy("somebody writes"), KeyboardInterrupt("stop")])
def test_an_enrolment_that_fails_leaves_no_copy(store, encoder, voice_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(store, "replace_templates", fail)
    with pytest.raises(type(error), match=str(error)):
        enroll_recording(store, encoder, "Ada", voice_path, CONSENT, keep_audio=True)

    assert (table_counts(store), kept_names(store)) == ({}, [])


def test_a_copy_that_cannot_be_written_is_said_and_nothing_is_enrolled(store, encoder, voice_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    with pytest.raises(RegistryError, match=r"voice\.wav: could not be copied .*No space left on device"):
        enroll_recording(store, encoder, "Ada", voice_path, CONSENT, keep_audio=True)

    assert (table_counts(store), kept_names(store)) == ({}, [])


# --- warnings ---


def test_another_artist_with_this_voice_is_warned_of(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    enroll_vectors(store, encoder, "Bo", singer(1))
    matcher, _ = make_matcher(store, encoder)

    alike = enroll_vectors(store, encoder, "Ada V.", singer(0, seed=5), matcher=matcher)
    unlike = enroll_vectors(store, encoder, "Cy", singer(2), matcher=matcher)
    own = enroll_vectors(store, encoder, "Ada", singer(0, seed=6), content="another song", matcher=matcher)

    best = matcher.match(make_voiceprint(singer(0, seed=5)))[0]
    assert (alike.outcome, alike.similar_artist, alike.similar_llr) == ("enrolled", "Ada", best.llr)
    assert best.llr >= matcher.threshold.llr
    assert (unlike.similar_artist, unlike.similar_llr) == (None, None)
    assert (own.similar_artist, own.similar_llr) == (None, None)


# --- one voice in a recording, and the artist's ---


@pytest.fixture
def strict_encoder(encoder) -> FakeEncoder:
    """With strangers who are so unlike one another that a voice scores 7 with itself and -1 with another."""
    noise = 0.1 * np.random.default_rng(3).standard_normal((DIM, DIM))
    encoder.cohort = Cohort(unit(np.eye(DIM) + noise), np.arange(DIM), COHORT_ID)
    return encoder


def enroll_song(store, encoder, artist: str, vectors: np.ndarray, song: str, **options) -> Enrollment:
    """As the command does: with the matcher of the registry as it is now."""
    matcher, _ = make_matcher(store, encoder)
    return enroll_vectors(store, encoder, artist, vectors, content=song, matcher=matcher, **options)


def test_references_are_checked_against_one_another_from_the_third_on(store, strict_encoder):
    found = [enroll_song(store, strict_encoder, "Ada", singer(0, seed=k), f"song {k}") for k in range(4)]

    assert [outcome.outcome for outcome in found] == ["enrolled"] * 4
    assert [outcome.own_norm_score is None for outcome in found] == [True, True, False, False]
    assert [outcome.warnings for outcome in found] == [()] * 4
    assert min(outcome.own_norm_score for outcome in found[2:]) > 5
    assert [reference.own_norm_score for reference in store.references()] == [o.own_norm_score for o in found]


def test_a_third_reference_of_another_voice_is_refused(store, strict_encoder):
    for k in range(2):
        enroll_song(store, strict_encoder, "Ada", singer(0, seed=k), f"song {k}")
    before = table_counts(store), store.revision

    outcome = enroll_song(store, strict_encoder, "Ada", singer(1, seed=9), "of Bo")

    assert (outcome.outcome, outcome.reference_id, outcome.n_windows) == ("refused", None, 8)
    assert re.fullmatch(
        r"another voice: norm score -\d\.\d\d with Ada's other references, at least \d\.\d\d is expected of one voice "
        r"\(its other two score \d\.\d\d and \d\.\d\d with the rest\)\. If it is Ada, perhaps in another style "
        r"\(spoken among sung\), give --force REASON",
        outcome.reason,
    )
    assert (table_counts(store), store.revision) == before


def test_with_force_another_voice_is_enrolled_and_marked(store, strict_encoder):
    for k in range(2):
        enroll_song(store, strict_encoder, "Ada", singer(0, seed=k), f"song {k}")
    refused = enroll_song(store, strict_encoder, "Ada", singer(1, seed=9), "of Bo")

    outcome = enroll_song(store, strict_encoder, "Ada", singer(1, seed=9), "of Bo", force_reason="her falsetto")

    assert (outcome.outcome, outcome.reference_id) == ("enrolled", 3)
    assert outcome.own_norm_score < 0
    assert outcome.warnings == (f"enrolled by force although: {refused.reason}",)
    assert [(r.force_reason, r.own_norm_score) for r in store.references()] == [
        (None, None),
        (None, None),
        ("her falsetto", outcome.own_norm_score),
    ]


def test_the_odd_one_of_the_first_two_is_named_when_the_third_comes(store, strict_encoder):
    for k, axis in enumerate((1, 0)):
        enroll_song(store, strict_encoder, "Ada", singer(axis, seed=k), f"song {k}")

    third, fourth = (enroll_song(store, strict_encoder, "Ada", singer(0, seed=k), f"song {k}") for k in (2, 3))

    assert third.outcome == fourth.outcome == "enrolled"
    (warning,) = third.warnings
    assert re.fullmatch(
        r"reference 1: norm score -?\d\.\d\d with Ada's other references, at least \d\.\d\d is expected of one voice; "
        r"listen to it, and if it is somebody else `likeness artists remove` it with --reference 1",
        warning,
    )
    assert fourth.warnings == ()


def test_references_that_wait_for_approval_count_in_the_check(store, strict_encoder):
    change_setting(store, REQUIRE_TWO_PERSONS, True)
    for k in range(2):
        enroll_song(store, strict_encoder, "Ada", singer(0, seed=k), f"song {k}")

    assert enroll_song(store, strict_encoder, "Ada", singer(1), "of Bo").outcome == "refused"


def test_a_recording_of_two_voices_is_refused_with_the_seconds(store, strict_encoder):
    duet = np.concatenate([singer(0, 12, seed=1), singer(1, 8, seed=2), singer(0, 12, seed=3)])

    outcome = enroll_song(store, strict_encoder, "Ada", duet, "duet")

    assert (outcome.outcome, table_counts(store)) == ("refused", {})
    said = re.fullmatch(
        r"two voices: the one at (\S+) to (\S+) has norm score -?\d\.\d\d with the rest, at least \d\.\d\d is expected "
        r"of one voice\. Cut it, or give --force REASON",
        outcome.reason,
    )
    # Windows 12 to 19 are Bo's: seconds 24 to 42, less a window at each end that reaches into Ada's.
    assert said.groups() == ("0:26.0", "0:40.0")


def test_many_stretches_of_a_second_voice_are_counted(store, strict_encoder):
    parts = [part for k in range(7) for part in (singer(0, 6, seed=k), singer(1, 5, seed=50 + k))]

    outcome = enroll_song(store, strict_encoder, "Ada", np.concatenate(parts), "duet")

    assert outcome.reason.count(" to ") == 5
    assert " and 2 more has norm score " in outcome.reason


def test_with_force_a_recording_of_two_voices_is_enrolled_and_marked(store, strict_encoder):
    duet = np.concatenate([singer(0, 12, seed=1), singer(1, 8, seed=2)])

    outcome = enroll_song(store, strict_encoder, "Ada", duet, "duet", force_reason="all of it is hers")

    assert outcome.outcome == "enrolled"
    assert [warning[:45] for warning in outcome.warnings] == ["enrolled by force although: two voices: the o"]
    assert [reference.force_reason for reference in store.references()] == ["all of it is hers"]


def test_a_recording_that_is_enrolled_already_is_not_checked_again(store, strict_encoder):
    """Otherwise what was forced in once could never renew its consent."""
    duet = np.concatenate([singer(0, 12, seed=1), singer(1, 8, seed=2)])
    enroll_song(store, strict_encoder, "Ada", duet, "duet", force_reason="all of it is hers")

    assert enroll_song(store, strict_encoder, "Ada", duet, "duet").outcome == "already_enrolled"
    assert enroll_song(store, strict_encoder, "Bo", duet, "duet").reason == (
        "this recording is enrolled for Ada; --force REASON enrolls it for Bo too"
    )


def test_without_a_matcher_nothing_is_checked(store, encoder):
    duet = np.concatenate([singer(0, 12, seed=1), singer(1, 8, seed=2)])

    found = [enroll_vectors(store, encoder, "Ada", duet if k else singer(5), content=f"{k}") for k in range(3)]

    assert [(outcome.outcome, outcome.own_norm_score) for outcome in found] == [("enrolled", None)] * 3


# --- transactions ---


@pytest.mark.parametrize("artist", ["Ada", "Bo"])
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        *((Store, name) for name in ("bind_encoder", "add_artist", "add_reference", "replace_templates")),
        (Store, "bump_revision"),
        (rights, "add_consent"),
        (audit, "append"),
    ],
)
def test_an_enrolment_cut_short_anywhere_leaves_nothing_of_it(store, encoder, monkeypatch, owner, step, artist):
    enroll_vectors(store, encoder, "Ada", singer(0))
    before = [row for table in table_counts(store) for row in store.rows(f"SELECT * FROM {table}")]
    real = getattr(owner, step)

    def fail_afterwards(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        raise KeyboardInterrupt("in the middle")

    monkeypatch.setattr(owner, step, fail_afterwards)
    with pytest.raises(KeyboardInterrupt, match="in the middle"):
        enroll_vectors(store, encoder, artist, singer(1), content="another song")

    assert [row for table in table_counts(store) for row in store.rows(f"SELECT * FROM {table}")] == before
    assert store.revision == 1


def test_another_encoder_is_refused(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    encoder.encoder_id = "0" * 64

    with pytest.raises(EncoderMismatch, match="cannot be compared"):
        enroll_vectors(store, encoder, "Bo", singer(1))

    assert [artist.name for artist in store.artists()] == ["Ada"]


# --- removal ---


def test_removal_leaves_no_row_and_no_byte(store, encoder, voice_path):
    """Not in any table, the log, the free pages, the index or the kept audio."""
    name, ref = "Quillon Zymurgy", "release-qz-77"
    enroll_recording(store, encoder, name, voice_path, Consent(ref), keep_audio=True)
    enroll_vectors(store, encoder, name, singer(3, 200, seed=3), content="quillon-long.wav", consent=Consent(ref))
    artist_id = store.artist(name).artist_id
    vectors = np.concatenate([vectors for _, vectors, _ in store.reference_windows(artist_id)])
    vectors = np.concatenate([vectors, store.gallery().vectors])
    matcher, _ = make_matcher(store, encoder)
    with store.writing():
        add_scan(store, matcher.scan("suspect.wav", make_voiceprint(singer(3, seed=8))))
    enroll_vectors(store, encoder, "Bo", singer(1, 30, seed=1))
    write_store_index(store, lambda _: None)
    needles = [
        *(row[2:6].tobytes() for row in vectors),  # the middle: a blob may lie across pages
        *(text.encode() for text in (name, ref, "quillon-long.wav", str(voice_path))),
        voice_path.read_bytes()[2000:2064],
    ]
    assert all(files_holding(store.home, needle) for needle in needles)

    erase_artist(store, name, print)

    assert [found for needle in needles for found in files_holding(store.home, needle)] == []
    left = {"tracks": 1, "scans": 1, "audit": 6, "audit_payloads": 3, "erasures": 1}
    assert table_counts(store) == {**rows_of_one_reference(store.artist("Bo").n_templates), **left}
    assert [artist.name for artist in store.artists()] == ["Bo"]
    assert [scan.matches for scan in find_scans(store)] == [()]
    assert find_problems(store) == []


def test_each_artist_has_a_copy_of_its_own_which_goes_with_it(store, encoder, voice_path):
    enroll_recording(store, encoder, "Ada", voice_path, CONSENT, keep_audio=True)
    enroll_recording(store, encoder, "Bo", voice_path, CONSENT, keep_audio=True, force_reason="a duet")
    kept = [reference.kept_path for reference in store.references()]
    assert len(set(kept)) == 2

    erase_artist(store, "Ada", print)

    assert [(store.home / path).exists() for path in kept] == [False, True]
    assert (store.home / kept[1]).read_bytes() == voice_path.read_bytes()
    assert find_problems(store) == []


def test_removal_leaves_no_stale_index_where_a_new_one_cannot_be_written(store, encoder, monkeypatch):
    enroll_vectors(store, encoder, "Ada", singer(3))
    write_store_index(store, lambda _: None)
    said: list[str] = []

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("registry.match.write_index", fail)
    erase_artist(store, "Ada", said.append)

    assert [line for line in said if "not written (No space left on device)" in line] == said != []
    assert not index_path(store.home).exists()


def test_an_artist_can_be_enrolled_again_after_removal(store, encoder):
    enroll_vectors(store, encoder, "Ada", singer(0))
    erase_artist(store, "Ada", print)

    assert enroll_vectors(store, encoder, "Ada", singer(0)).outcome == "enrolled"
    assert table_counts(store) == {**rows_of_one_reference(2), "audit": 5, "audit_payloads": 3, "erasures": 1}


# --- finding recordings ---


def test_recordings_are_found_in_folders_by_globs_and_by_name_each_once(tmp_path, monkeypatch):
    for name in ("b.wav", "a.FLAC", "notes.txt", "sub/c.mp3", "sub/deep/d.m4a", "[live].wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.wav").mkdir()
    monkeypatch.chdir(tmp_path)

    def found(*patterns: str) -> list[str]:
        return [str(path) for path in list_recordings(patterns)]

    assert found(".") == ["[live].wav", "a.FLAC", "b.wav", "sub/c.mp3", "sub/deep/d.m4a"]
    assert found("*.wav") == ["[live].wav", "b.wav"]
    assert found("[live].wav") == ["[live].wav"]
    assert found("sub/**/*.m*") == ["sub/c.mp3", "sub/deep/d.m4a"]
    assert found("notes.txt", "b.wav", "*.wav", "sub") == [
        "notes.txt",
        "b.wav",
        "[live].wav",
        "sub/c.mp3",
        "sub/deep/d.m4a",
    ]
    assert found("missing.wav", "none*.wav") == ["missing.wav", "none*.wav"]
