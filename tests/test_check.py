from __future__ import annotations

import pytest

from registry.check import database_problems, find_problems
from registry.kept_audio import KEPT_AUDIO
from registry.match import index_path, write_store_index
from registry.records import Consent
from registry.store import Store
from tests.fakes import CONSENT, DIM, add_reference, enroll_vectors, singer


@pytest.fixture
def sound(any_store, encoder) -> Store:
    """Two artists, an index, and one kept recording."""
    store = any_store
    enroll_vectors(store, encoder, "Ada", singer(0, 20, spread=0.5))
    enroll_vectors(store, encoder, "Bo", singer(1))
    folder = store.home / KEPT_AUDIO
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"as it was")
    with store.writing():
        store.db.execute("UPDATE artist_references SET kept_path = ? WHERE reference_id = 1", [f"{KEPT_AUDIO}/a.wav"])
    write_store_index(store, print)
    return store


def test_a_sound_registry_has_no_problems_and_is_not_changed(sound):
    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sound.home.rglob("*") if path.is_file()}

    before = contents()

    assert find_problems(sound) == []
    assert contents() == before


def test_an_empty_registry_is_sound(any_store):
    assert find_problems(any_store) == []


def test_a_missing_index_is_named(sound):
    index_path(sound.home).unlink()

    assert find_problems(sound) == [
        ("index", f"{index_path(sound.home)}: there is no index file yet; run `likeness rebuild-index`")
    ]


@pytest.mark.parametrize("position", [10, 200, -1])
def test_a_flipped_bit_in_the_index_is_named(sound, position):
    content = bytearray(index_path(sound.home).read_bytes())
    content[position] ^= 1
    index_path(sound.home).write_bytes(content)

    ((where, problem),) = find_problems(sound)

    assert where == "index"
    assert problem.endswith("; run `likeness rebuild-index`")


def test_a_stale_index_is_named(sound, encoder):
    enroll_vectors(sound, encoder, "Cy", singer(2))

    ((where, problem),) = find_problems(sound)

    assert (where, "store revision 2, the store is at 3" in problem) == ("index", True)


def test_an_index_of_other_vectors_is_named(sound):
    """The revision fits, so only comparing shows it: a database put back from a backup."""
    with sound.writing():
        other = sound.seal(1, singer(5, 1).tobytes(), "template")
        sound.db.execute("UPDATE templates SET vector = ? WHERE template_id = 1", [other])

    assert find_problems(sound) == [("index", "it does not hold what the database holds; run `likeness rebuild-index`")]


def test_kept_audio_that_is_missing_or_nobodys_is_named(sound):
    folder = sound.home / KEPT_AUDIO
    (folder / "a.wav").rename(folder / "b.wav.part")

    assert find_problems(sound) == [
        ("kept audio", f"{KEPT_AUDIO}/a.wav: missing"),
        ("kept audio", f"{KEPT_AUDIO}/b.wav.part: belongs to no reference; delete it"),
    ]


def test_a_template_of_a_wrong_size_is_named_rather_than_a_traceback(sound):
    with sound.writing():
        sound.db.execute("UPDATE templates SET vector = x'0000' WHERE template_id = 1")

    assert find_problems(sound) == [
        ("database", f"template 1: not a unit vector of {DIM} numbers; restore your last backup")
    ]


def test_consents_that_are_over_are_no_damage(sound, encoder):
    enroll_vectors(sound, encoder, "Cy", singer(2), consent=Consent(CONSENT.ref, "2020-01-01T00:00:00Z"))
    write_store_index(sound, print)

    assert find_problems(sound) == []


# --- the database ---


@pytest.fixture
def ada(store) -> int:
    with store.writing():
        return add_reference(store, "Ada", singer(1, 2))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("UPDATE templates SET vector = zeroblob(32)", "template 1: not a unit vector of 8 numbers"),
        ("UPDATE templates SET vector = x'00'", "template 1: not a unit vector of 8 numbers"),
        (
            "UPDATE templates SET vector = CAST(x'0000c07f' || zeroblob(28) AS BLOB)",
            "template 1: not a unit vector of 8 numbers",
        ),
        ("UPDATE artist_references SET n_windows = 3", "reference 1: its vectors are not 3 windows of 8"),
        ("DELETE FROM templates", "artist Ada: references but no templates"),
        (
            "UPDATE templates SET reference_id = 77",
            "templates row 1: points at a artist_references that is gone",
        ),
    ],
)
def test_what_is_wrong_with_the_database_is_named(store, ada, damage, problem):
    assert database_problems(store) == []
    store.db.execute("PRAGMA foreign_keys = OFF")
    store.db.execute(damage)

    assert database_problems(store) == [problem]
    assert ("database", f"{problem}; restore your last backup") in find_problems(store)


def test_pending_references_need_no_templates(store, ada):
    with store.writing():
        store.db.execute("UPDATE artist_references SET status = 'pending'")
        store.db.execute("DELETE FROM templates")

    assert database_problems(store) == []


def test_sealed_vectors_that_do_not_open_are_named(encrypted_store):
    with encrypted_store.writing():
        add_reference(encrypted_store, "Ada", singer(1, 2))
        for table, column in (("templates", "vector"), ("artist_references", "vectors")):
            encrypted_store.db.execute(f"UPDATE {table} SET {column} = zeroblob(length({column}))")

    assert database_problems(encrypted_store) == [
        f"template 1: not a unit vector of {DIM} numbers",
        f"reference 1: its vectors are not 2 windows of {DIM}",
    ]


def test_a_broken_audit_is_named(sound):
    with sound.writing():
        sound.db.execute("UPDATE audit SET action = 'nothing' WHERE seq = 2")

    assert find_problems(sound) == [("audit", "entry 2 was changed")]
