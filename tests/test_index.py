from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import faiss
import numpy as np
import pytest

from registry.errors import IndexDamaged, IndexUnusable, StaleIndex, StoreDamaged
from registry.index import (
    BLAS_FROM_VALUES_PER_THREAD,
    MAX_HEADER_BYTES,
    VectorIndex,
    load_index,
    open_index,
    write_index,
)

ENCODER = "e" * 64
DIM = 16
REVISION = 7


def unit_vectors(n: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def expected_neighbours(ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, k: int):
    scores = queries @ vectors.T
    columns = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, columns, axis=1), ids[columns]


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def ids() -> np.ndarray:
    # Neither sorted nor without gaps, so that an id taken for a row number shows.
    return np.random.default_rng(1).permutation(np.arange(100, 220, 3, dtype=np.int64))


@pytest.fixture
def vectors(ids) -> np.ndarray:
    return unit_vectors(len(ids))


@pytest.fixture
def index(ids, vectors) -> VectorIndex:
    index = VectorIndex(DIM)
    index.add(ids, vectors)
    return index


@pytest.fixture
def index_path(tmp_path, index) -> Path:
    path = tmp_path / "index.faiss"
    write_index(index, path, REVISION, ENCODER)
    return path


@pytest.fixture
def reopen(ids, vectors, index_path):
    """Open the index of `index_path` with the store's rows, and return it with what was said."""

    def _reopen(store_revision: int = REVISION, encoder_id: str = ENCODER) -> tuple[VectorIndex, list[str]]:
        said: list[str] = []
        return open_index(index_path, store_revision, encoder_id, lambda: (ids, vectors), said.append), said

    return _reopen


def assert_same_answers(index: VectorIndex, ids: np.ndarray, vectors: np.ndarray) -> None:
    queries = unit_vectors(5, seed=9)
    expected_scores, expected_ids = expected_neighbours(ids, vectors, queries, 4)
    scores, found_ids = index.search(queries, 4)
    np.testing.assert_array_equal(found_ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.sort(index.ids), np.sort(ids))


# --- searching ---


@pytest.mark.parametrize(("n", "n_queries", "k"), [(1, 1, 1), (500, 1, 10), (500, 64, 10), (5, 30, 10), (500, 3, 500)])
def test_search_equals_a_numpy_dot_product(n, n_queries, k):
    ids = np.random.default_rng(2).permutation(np.arange(n, dtype=np.int64) * 7 + 5)
    vectors, queries = unit_vectors(n, dim=192), unit_vectors(n_queries, dim=192, seed=3)
    index = VectorIndex(192)
    index.add(ids, vectors)

    scores, found_ids = index.search(queries, k)

    expected_scores, expected_ids = expected_neighbours(ids, vectors, queries, k)
    assert (scores.dtype, found_ids.dtype) == (np.float32, np.int64)
    assert scores.shape == (n_queries, min(k, n))
    np.testing.assert_array_equal(found_ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-6)


def test_searching_for_more_than_there_is_returns_all_and_no_filler(index, ids):
    scores, found_ids = index.search(unit_vectors(3, seed=3), 10_000)

    for row in found_ids:
        np.testing.assert_array_equal(np.sort(row), np.sort(ids))
    assert scores.min() >= -1.000001


def test_search_of_an_empty_index_has_no_columns():
    scores, found_ids = VectorIndex(DIM).search(unit_vectors(3), 5)

    assert (scores.shape, scores.dtype) == ((3, 0), np.float32)
    assert (found_ids.shape, found_ids.dtype) == ((3, 0), np.int64)


def test_search_for_nothing_has_no_rows(index):
    scores, found_ids = index.search(np.empty((0, DIM), dtype=np.float32), 5)

    assert scores.shape == found_ids.shape == (0, 5)


def test_matrices_are_multiplied_for_many_vectors_and_templates_scanned_for_few(index):
    """faiss's own choice is several times slower on few threads."""
    n_threads = faiss.omp_get_max_threads()
    n_rows = -(-BLAS_FROM_VALUES_PER_THREAD * n_threads // DIM)

    index.search(unit_vectors(n_rows), 1)
    assert faiss.cvar.distance_compute_blas_threshold == 0

    index.search(unit_vectors(n_rows - 1), 1)
    assert faiss.cvar.distance_compute_blas_threshold == 2**31 - 1


def test_search_does_not_care_how_the_array_lies_in_memory(index, ids, vectors):
    queries = np.asfortranarray(unit_vectors(8, seed=4))[::2]

    scores, found_ids = index.search(queries, 3)

    expected_scores, expected_ids = expected_neighbours(ids, vectors, queries, 3)
    np.testing.assert_array_equal(found_ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(index, k):
    with pytest.raises(ValueError, match=f"k must be at least 1, not {k}"):
        index.search(unit_vectors(1), k)


@pytest.mark.parametrize("k", [2.0, "3", True, None])
def test_k_that_is_no_whole_number_is_refused(index, k):
    with pytest.raises(TypeError, match="k must be a whole number"):
        index.search(unit_vectors(1), k)


def test_search_with_another_dimension_is_refused_with_both_numbers(index):
    with pytest.raises(ValueError, match="have 8 dimensions, the index has 16"):
        index.search(unit_vectors(1, dim=8), 1)


def test_search_for_a_single_vector_without_rows_is_refused(index):
    with pytest.raises(ValueError, match=r"must have shape \(n, dim\), not \(16,\)"):
        index.search(unit_vectors(1)[0], 1)


def test_search_with_float64_is_refused(index):
    with pytest.raises(TypeError, match="must be a float32 array, not float64"):
        index.search(unit_vectors(1).astype(np.float64), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_search_for_a_vector_that_is_not_finite_is_refused(index, value):
    queries = unit_vectors(3)
    queries[1, 4] = value

    with pytest.raises(ValueError, match="not finite: row 1;"):
        index.search(queries, 1)


def test_search_for_a_vector_that_is_not_of_unit_length_is_refused(index):
    with pytest.raises(ValueError, match=r"not of unit length: row 0, 1, 2, 3, 4 and 2 more; the first has length 0.5"):
        index.search(unit_vectors(7) / 2, 1)


# --- adding and removing ---


def test_an_index_knows_what_was_added(index, ids, vectors):
    assert (len(index), index.dim) == (len(ids), DIM)
    np.testing.assert_array_equal(index.ids, ids)
    np.testing.assert_array_equal(index.reconstruct(ids[::-1]), vectors[::-1])


def test_ids_is_a_copy(index, ids):
    index.ids[:] = 0

    np.testing.assert_array_equal(index.ids, ids)


def test_the_index_keeps_its_own_copy_of_vectors(index, ids, vectors):
    kept = vectors.copy()
    vectors[:] = 0

    np.testing.assert_array_equal(index.reconstruct(ids), kept)


def test_adding_ids_that_are_present_is_refused_and_adds_none(index, ids):
    new_ids = [1, int(ids[3]), 2, int(ids[5])]

    with pytest.raises(ValueError, match=f"already in the index: template {ids[3]}, {ids[5]};"):
        index.add(new_ids, unit_vectors(4))

    np.testing.assert_array_equal(index.ids, ids)


def test_adding_an_id_twice_in_one_call_is_refused_and_adds_none(index, ids):
    with pytest.raises(ValueError, match=r"given more than once: template 1, 2$"):
        index.add([1, 2, 3, 2, 1], unit_vectors(5))

    np.testing.assert_array_equal(index.ids, ids)


def test_a_negative_id_is_refused_because_faiss_says_minus_one_for_nothing(index):
    with pytest.raises(ValueError, match=r"must be 0 or more: -1$"):
        index.add([1, -1], unit_vectors(2))


@pytest.mark.parametrize("bad_ids", [[1.0, 2.0], [True, False], ["a", "b"], np.array([1, 2], dtype=np.uint64)])
def test_ids_that_are_no_int64_are_refused(index, bad_ids):
    with pytest.raises(TypeError, match="template ids must be int64"):
        index.add(bad_ids, unit_vectors(2))


def test_ids_in_columns_are_refused(index):
    with pytest.raises(ValueError, match=r"must have shape \(n,\), not \(2, 1\)"):
        index.add(np.array([[1], [2]]), unit_vectors(2))


def test_another_number_of_ids_than_vectors_is_refused(index):
    with pytest.raises(ValueError, match="3 ids for 2 vectors"):
        index.add([1, 2, 3], unit_vectors(2))


def test_adding_another_dimension_is_refused_with_both_numbers(index):
    with pytest.raises(ValueError, match="have 8 dimensions, the index has 16"):
        index.add([1], unit_vectors(1, dim=8))


def test_adding_float64_is_refused(index):
    with pytest.raises(TypeError, match="must be a float32 array, not float64"):
        index.add([1], unit_vectors(1).astype(np.float64))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_adding_a_vector_that_is_not_finite_is_refused_and_adds_none(index, ids, value):
    bad = unit_vectors(3)
    bad[2, 0] = value

    with pytest.raises(ValueError, match="not finite: template 13;"):
        index.add([11, 12, 13], bad)

    np.testing.assert_array_equal(index.ids, ids)


@pytest.mark.parametrize("factor", [0.0, 0.999, 1.001, 1e30])
def test_adding_a_vector_that_is_not_of_unit_length_is_refused(index, factor):
    bad = unit_vectors(3)
    bad[1] *= np.float32(factor)

    with pytest.raises(ValueError, match="not of unit length: template 12; the first has length"):
        index.add([11, 12, 13], bad)


def test_a_vector_that_went_through_float16_is_still_of_unit_length(index):
    rounded = unit_vectors(50, dim=DIM).astype(np.float16).astype(np.float32)
    rounded /= np.linalg.norm(rounded, axis=1, keepdims=True)

    index.add(np.arange(50), rounded)

    assert len(index) == 90


def test_no_message_shows_a_vector(index):
    bad = unit_vectors(2)
    bad[0, 0] = np.nan

    with pytest.raises(ValueError, match="not finite") as refused:
        index.add([1, 2], bad)

    assert not any(f"{abs(value):.3f}" in str(refused.value) for value in bad[np.isfinite(bad)])


def test_adding_nothing_changes_nothing(index, ids):
    index.add([], np.empty((0, DIM), dtype=np.float32))

    np.testing.assert_array_equal(index.ids, ids)


def test_removed_templates_are_found_no_more(index, ids, vectors):
    gone = ids[[0, 7, 39]]
    kept = ~np.isin(ids, gone)

    index.remove(gone)

    assert len(index) == len(ids) - 3
    assert_same_answers(index, ids[kept], vectors[kept])
    _, found_ids = index.search(vectors, 10_000)
    assert not np.isin(found_ids, gone).any()


def test_a_removed_id_can_be_added_again(index, ids):
    other = unit_vectors(1, seed=8)
    index.remove([ids[4]])

    index.add([ids[4]], other)

    np.testing.assert_array_equal(index.reconstruct([ids[4]]), other)


def test_removing_all_leaves_an_empty_index_of_the_same_dimension(index, ids):
    index.remove(ids)

    assert (len(index), index.dim, index.ids.tolist()) == (0, DIM, [])
    assert index.search(unit_vectors(2), 3)[0].shape == (2, 0)


def test_removing_unknown_ids_is_refused_and_removes_none(index, ids):
    with pytest.raises(ValueError, match=r"not in the index: template 1, 2$"):
        index.remove([1, int(ids[0]), 2])

    np.testing.assert_array_equal(index.ids, ids)


def test_removing_an_id_twice_is_refused(index, ids):
    with pytest.raises(ValueError, match=f"given more than once: template {ids[0]}$"):
        index.remove([ids[0], ids[0]])


def test_reconstructing_unknown_ids_is_refused(index, ids):
    with pytest.raises(ValueError, match=r"not in the index: template 1$"):
        index.reconstruct([int(ids[0]), 1])


def test_reconstructing_nothing_has_no_rows(index):
    assert index.reconstruct([]).shape == (0, DIM)


@pytest.mark.parametrize("dim", [0, -1, 2.0, True])
def test_an_impossible_dimension_is_refused(dim):
    with pytest.raises(ValueError, match="dim must be a whole number of at least 1"):
        VectorIndex(dim)


def test_importing_the_module_does_not_import_faiss():
    """`likeness --help` does not wait for faiss."""
    code = "import sys, registry.index; sys.exit('faiss' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


# --- the file ---


def test_an_index_comes_back_from_its_file(index_path, ids, vectors):
    loaded = load_index(index_path, REVISION, ENCODER)

    np.testing.assert_array_equal(loaded.ids, ids)
    np.testing.assert_array_equal(loaded.reconstruct(ids), vectors)
    assert_same_answers(loaded, ids, vectors)


def test_a_loaded_index_can_be_changed_and_written_again(index_path, ids, vectors):
    loaded = load_index(index_path, REVISION, ENCODER)
    loaded.remove(ids[:1])
    loaded.add([1], vectors[:1])
    with pytest.raises(ValueError, match="already in the index: template 1;"):
        loaded.add([1], vectors[:1])

    write_index(loaded, index_path, REVISION + 1, ENCODER)

    assert_same_answers(load_index(index_path, REVISION + 1, ENCODER), np.append(ids[1:], 1), np.roll(vectors, -1, 0))


def test_an_empty_index_comes_back_empty(tmp_path):
    write_index(VectorIndex(DIM), tmp_path / "index", 0, ENCODER)

    loaded = load_index(tmp_path / "index", 0, ENCODER)

    assert (len(loaded), loaded.dim) == (0, DIM)


def test_the_file_is_a_json_line_and_the_faiss_bytes(index_path, ids, vectors):
    line, _, body = index_path.read_bytes().partition(b"\n")

    assert json.loads(line) == {
        "format": "likeness-index 2",
        "store_revision": REVISION,
        "encoder_id": ENCODER,
        "n": 40,
        "dim": DIM,
        "ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
        "sealed": False,
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    assert faiss.deserialize_index(np.frombuffer(body, dtype=np.uint8)).ntotal == 40
    assert vectors.tobytes() in body


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_file_is_private_whatever_the_umask(tmp_path, index, umask):
    previous = os.umask(umask)
    try:
        write_index(index, tmp_path / "index", REVISION, ENCODER)
    finally:
        os.umask(previous)

    assert stat.S_IMODE((tmp_path / "index").stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["index"]


def test_the_file_is_synced_before_it_replaces_and_its_directory_after(tmp_path, index, monkeypatch):
    steps = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        steps.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        real_fsync(descriptor)

    def replace(source, target):
        steps.append("replace")
        real_replace(source, target)

    monkeypatch.setattr("registry.index.os.fsync", fsync)
    monkeypatch.setattr("registry.index.os.replace", replace)

    write_index(index, tmp_path / "index", REVISION, ENCODER)

    assert steps == ["sync file", "replace", "sync directory"]


def test_a_file_system_that_cannot_sync_directories_is_no_error(tmp_path, index, monkeypatch):
    real_fsync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real_fsync(descriptor)

    monkeypatch.setattr("registry.index.os.fsync", fsync)

    write_index(index, tmp_path / "index", REVISION, ENCODER)

    assert len(load_index(tmp_path / "index", REVISION, ENCODER)) == 40


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("replace", OSError(errno.EIO, "Input/output error")),
        ("fsync", OSError(errno.ENOSPC, "No space left on device")),
        ("fsync", KeyboardInterrupt("Ctrl-C")),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(index_path, monkeypatch, step, error):
    before = index_path.read_bytes()

    def fail(*args):
        raise error

    monkeypatch.setattr(f"registry.index.os.{step}", fail)

    with pytest.raises(type(error), match=error.args[-1]):
        write_index(VectorIndex(DIM), index_path, REVISION + 1, ENCODER)

    assert index_path.read_bytes() == before
    assert names_in(index_path.parent) == [index_path.name]


def test_what_a_killed_writer_left_is_deleted_by_the_next(index_path, index):
    """Half-written files hold voiceprints, so they must not outlive the erasure of an artist."""
    abandoned_path = index_path.with_name(f".{index_path.name}.abc123.tmp")
    other_path = index_path.with_name(".other.abc123.tmp")
    abandoned_path.write_bytes(index_path.read_bytes()[:100])
    other_path.touch()

    write_index(index, index_path, REVISION, ENCODER)

    assert names_in(index_path.parent) == sorted([index_path.name, other_path.name])


def test_what_a_living_writer_is_writing_is_left_alone(index_path, index):
    busy_path = index_path.with_name(f".{index_path.name}.abc123.tmp")
    with busy_path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_index(index, index_path, REVISION, ENCODER)

    assert busy_path.exists()


def test_the_temporary_file_is_locked_while_it_is_written(tmp_path, index, monkeypatch):
    locked = []

    def fsync(descriptor):
        for path in tmp_path.glob(".index.*.tmp"):
            with path.open("rb") as file, pytest.raises(BlockingIOError, match="unavailable"):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked.append(path.name)

    monkeypatch.setattr("registry.index.os.fsync", fsync)

    write_index(index, tmp_path / "index", REVISION, ENCODER)

    assert len(locked) == 1


def test_a_temporary_file_that_another_writer_took_for_abandoned_is_made_again(tmp_path, index, monkeypatch):
    made = []
    real_mkstemp = tempfile.mkstemp

    def mkstemp(**kwargs):
        descriptor, name = real_mkstemp(**kwargs)
        made.append(name)
        if len(made) == 1:
            Path(name).unlink()
        return descriptor, name

    monkeypatch.setattr("registry.index.tempfile.mkstemp", mkstemp)

    write_index(index, tmp_path / "index", REVISION, ENCODER)

    assert len(made) == 2
    assert names_in(tmp_path) == ["index"]
    assert len(load_index(tmp_path / "index", REVISION, ENCODER)) == 40


def test_an_encoder_id_too_long_for_the_header_is_refused_before_writing(tmp_path, index):
    with pytest.raises(ValueError, match=f"at most {MAX_HEADER_BYTES} fit"):
        write_index(index, tmp_path / "index", REVISION, "e" * MAX_HEADER_BYTES)

    assert names_in(tmp_path) == []


@pytest.mark.parametrize(("revision", "encoder_id"), [(1.0, ENCODER), (True, ENCODER), (1, None)])
def test_a_header_field_of_the_wrong_type_is_refused_before_writing(tmp_path, index, revision, encoder_id):
    with pytest.raises(TypeError, match="must be"):
        write_index(index, tmp_path / "index", revision, encoder_id)

    assert names_in(tmp_path) == []


# --- doubt ---


def flip(path: Path, position: int, mask: int) -> bytes:
    original = path.read_bytes()
    damaged = bytearray(original)
    damaged[position] ^= mask
    path.write_bytes(damaged)
    return original


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_no_flipped_byte_is_ever_loaded(index_path, mask):
    n_bytes = index_path.stat().st_size
    n_header_bytes = index_path.read_bytes().index(b"\n") + 1
    positions = {*range(n_header_bytes), *np.linspace(n_header_bytes, n_bytes - 1, 200).astype(int).tolist()}

    for position in sorted(positions):
        original = flip(index_path, position, mask)
        with pytest.raises(IndexUnusable, match=r"index\.faiss: .+; run `likeness rebuild-index`"):
            load_index(index_path, REVISION, ENCODER)
        index_path.write_bytes(original)

    assert len(load_index(index_path, REVISION, ENCODER)) == 40


def test_a_flipped_byte_means_a_rebuild_with_the_right_answers(index_path, reopen, ids, vectors):
    for position in np.linspace(0, index_path.stat().st_size - 1, 40).astype(int):
        original = flip(index_path, int(position), 0x40)

        opened, said = reopen()

        assert_same_answers(opened, ids, vectors)
        assert len(said) == 1 and said[0].endswith("; rebuilding the index from the store")
        assert index_path.read_bytes() == original


def test_a_sound_index_is_opened_without_a_word_and_without_reading_the_store(index_path):
    def load_rows():
        raise AssertionError("the store was read")

    said: list[str] = []

    assert len(open_index(index_path, REVISION, ENCODER, load_rows, said.append)) == 40
    assert said == []


@pytest.mark.parametrize(
    ("damage", "error", "reason"),
    [
        (lambda path: path.unlink(), StaleIndex, "there is no index file yet"),
        (lambda path: path.write_bytes(b""), IndexDamaged, "it is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), IndexDamaged, "does not have the sha256"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), IndexDamaged, "bytes follow its header"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), IndexDamaged, "does not begin with a JSON header"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), IndexDamaged, "does not have the sha256"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(10**6)), IndexDamaged, "1002970 bytes follow"),
        (lambda path: path.write_bytes(b"\x00" * 10**6), IndexDamaged, "does not begin with a JSON header"),
        (lambda path: path.write_bytes(b"[" * 4000 + b"\n"), IndexDamaged, "does not begin with a JSON header"),
        (lambda path: path.write_bytes(b"[1]\n"), IndexDamaged, "does not begin with a JSON header"),
        (lambda path: path.write_bytes(b'{"format": "likeness-index 2"}\n'), IndexDamaged, "not as it was written"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b": ", b":\t", 1)), IndexDamaged, "as it was written"),
        (lambda path: path.write_bytes(b'{"format": "likeness-index 1"}\n'), StaleIndex, "'likeness-index 1', this"),
        (lambda path: path.write_bytes(b'{"format": "\\n\\u001b[2J"}\n'), StaleIndex, r"format is '\\n\\x1b\[2J'"),
        (lambda path: (path.unlink(), path.mkdir()), IndexDamaged, "Is a directory"),
        (lambda path: (path.unlink(), os.mkfifo(path)), IndexDamaged, "it is not a regular file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_right_is_refused_with_the_reason_and_rebuilt(
    index_path, reopen, ids, vectors, damage, error, reason
):
    damage(index_path)

    with pytest.raises(error, match=reason):
        load_index(index_path, REVISION, ENCODER)
    opened, said = reopen()

    assert_same_answers(opened, ids, vectors)
    assert said[0].startswith(f"{index_path}: ")
    assert all("\n" not in line and line.isprintable() for line in said)
    if index_path.is_dir():
        assert said[1:] == [
            f"{index_path}: the index could not be written (Is a directory); going on in memory, the next run rebuilds"
        ]
    else:
        assert len(said) == 1
        assert_same_answers(load_index(index_path, REVISION, ENCODER), ids, vectors)


def test_a_file_without_a_line_end_is_not_read_as_one_header(tmp_path):
    """A sparse file of 64 GiB: reading on to a line end would end the process."""
    path = tmp_path / "index"
    with path.open("wb") as file:
        file.truncate(64 * 2**30)

    with pytest.raises(IndexDamaged, match="does not begin with a JSON header line of at most 4096 bytes"):
        load_index(path, REVISION, ENCODER)


def test_a_sound_header_before_too_much_content_is_not_read_into_memory(index_path):
    with index_path.open("r+b") as file:
        file.truncate(64 * 2**30)

    with pytest.raises(IndexDamaged, match="bytes follow its header, but 40 vectors of 16 dimensions take"):
        load_index(index_path, REVISION, ENCODER)


@pytest.mark.parametrize("store_revision", [REVISION + 1, REVISION - 1])
def test_another_store_revision_is_stale_and_rebuilt(index_path, reopen, store_revision):
    reason = f"it is of store revision 7, the store is at {store_revision}"
    with pytest.raises(StaleIndex, match=reason):
        load_index(index_path, store_revision, ENCODER)

    _, said = reopen(store_revision=store_revision)

    assert said == [f"{index_path}: {reason}; rebuilding the index from the store"]
    assert reopen(store_revision=store_revision)[1] == []


def test_another_encoder_is_stale_and_rebuilt(index_path, reopen):
    with pytest.raises(StaleIndex, match="it is of encoder 'eeeeeeeeeeee', not 'ffffffffffff'"):
        load_index(index_path, REVISION, "f" * 64)

    _, said = reopen(encoder_id="f" * 64)

    assert len(said) == 1 and "it is of encoder 'eeeeeeeeeeee'" in said[0]
    assert reopen(encoder_id="f" * 64)[1] == []


def write_parts(path: Path, body: np.ndarray, **changes: object) -> None:
    """Write a file whose hash is right but whose other fields may not be."""
    header = json.loads(path.read_bytes().partition(b"\n")[0])
    header |= {"body_sha256": hashlib.sha256(body).hexdigest(), **changes}
    path.write_bytes(json.dumps(header).encode() + b"\n" + body.tobytes())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n": 39}, "its header states n 39, its content has 40"),
        ({"dim": 15}, "bytes follow its header|states dim 15, its content has 16"),
        ({"ids_sha256": "0" * 64}, "its header states ids_sha256 '0000"),
        ({"n": 40.0}, "its header is not as it was written"),
        ({"n": -1}, "its header is not as it was written"),
        ({"store_revision": True}, "its header is not as it was written"),
        ({"more": 1}, "its header is not as it was written"),
    ],
)
def test_a_header_that_its_content_contradicts_is_damage(index_path, changes, reason):
    body = np.frombuffer(index_path.read_bytes().partition(b"\n")[2], dtype=np.uint8)
    write_parts(index_path, body, **changes)

    with pytest.raises(IndexDamaged, match=reason):
        load_index(index_path, REVISION, ENCODER)


def test_another_kind_of_faiss_index_is_damage(index_path, ids, vectors):
    other = faiss.IndexIDMap2(faiss.IndexFlatL2(DIM))
    other.add_with_ids(vectors, ids)
    write_parts(index_path, faiss.serialize_index(other))

    with pytest.raises(IndexDamaged, match="it holds another kind of faiss index"):
        load_index(index_path, REVISION, ENCODER)


def test_content_that_faiss_cannot_read_is_damage(index_path):
    n_bytes = 40 * (DIM * 4 + 8)
    write_parts(index_path, np.full(n_bytes, ord("x"), dtype=np.uint8))

    with pytest.raises(IndexDamaged, match="faiss cannot read its content"):
        load_index(index_path, REVISION, ENCODER)


def test_a_file_that_may_not_be_read_is_rebuilt(reopen, ids, vectors, monkeypatch):
    real_open = os.open

    def refuse(path, flags, *args, **kwargs):
        if str(path).endswith("index.faiss"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr("registry.index.os.open", refuse)

    opened, said = reopen()

    assert_same_answers(opened, ids, vectors)
    assert "it cannot be read (Permission denied)" in said[0]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("registry.index.tempfile.mkstemp", OSError(errno.EROFS, "Read-only file system")),
        ("registry.index.os.fsync", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_disk_that_cannot_be_written_is_said_and_the_index_serves_from_memory(
    reopen, index_path, ids, vectors, monkeypatch, call, error
):
    def fail(*args, **kwargs):
        raise error

    index_path.unlink()
    monkeypatch.setattr(call, fail)

    opened, said = reopen()

    assert_same_answers(opened, ids, vectors)
    assert said == [
        f"{index_path}: there is no index file yet; rebuilding the index from the store",
        f"{index_path}: the index could not be written ({error.strerror}); going on in memory, the next run rebuilds",
    ]
    assert names_in(index_path.parent) == []


def test_a_directory_that_is_absent_is_said_and_the_index_serves_from_memory(tmp_path, ids, vectors):
    said: list[str] = []

    opened = open_index(tmp_path / "no" / "index", REVISION, ENCODER, lambda: (ids, vectors), said.append)

    assert_same_answers(opened, ids, vectors)
    assert len(said) == 2 and "No such file or directory" in said[1]


def test_an_empty_store_gives_an_empty_index_of_its_dimension(tmp_path):
    rows = np.empty(0, dtype=np.int64), np.empty((0, DIM), dtype=np.float32)

    opened = open_index(tmp_path / "index", 0, ENCODER, lambda: rows, lambda message: None)

    assert (len(opened), opened.dim) == (0, DIM)
    assert len(load_index(tmp_path / "index", 0, ENCODER)) == 0


@pytest.mark.parametrize(
    ("ids", "vectors", "reason"),
    [
        ([1, 2], unit_vectors(2) * 3, "not of unit length: template 1, 2;"),
        ([1, 1], unit_vectors(2), "given more than once: template 1"),
        ([1], unit_vectors(1)[0], r"must have shape \(n, dim\)"),
    ],
)
def test_templates_that_cannot_be_indexed_mean_a_damaged_store(tmp_path, ids, vectors, reason):
    with pytest.raises(
        StoreDamaged, match=f"the store's templates cannot be indexed: .*{reason}.*run `likeness check`"
    ):
        open_index(tmp_path / "index", 0, ENCODER, lambda: (ids, vectors), lambda message: None)

    assert names_in(tmp_path) == []


@pytest.mark.parametrize("error", [IndexDamaged("why", "a/b"), StaleIndex("why", "a/b"), StoreDamaged("why")])
def test_errors_survive_the_way_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.exit_code) == (type(error), str(error), error.exit_code)


# --- sealed, as in an encrypted registry ---


KEY = bytes(range(32))


@pytest.fixture
def sealed_path(tmp_path, index) -> Path:
    path = tmp_path / "sealed.faiss"
    write_index(index, path, REVISION, ENCODER, KEY)
    return path


def test_a_sealed_index_comes_back_from_its_file(sealed_path, ids, vectors):
    loaded = load_index(sealed_path, REVISION, ENCODER, KEY)

    np.testing.assert_array_equal(loaded.reconstruct(ids), vectors)
    assert_same_answers(loaded, ids, vectors)


def test_a_sealed_file_is_a_json_line_and_bytes_that_show_no_vector(sealed_path, ids, vectors):
    content = sealed_path.read_bytes()

    assert json.loads(content.partition(b"\n")[0]) == {
        "format": "likeness-index 2",
        "store_revision": REVISION,
        "encoder_id": ENCODER,
        "n": 40,
        "dim": DIM,
        "ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
        "sealed": True,
        "body_sha256": "",
    }
    assert not any(vector.tobytes()[:8] in content for vector in vectors)


def test_no_vector_is_written_in_plain_on_the_way(tmp_path, index, vectors, monkeypatch):
    """Seen by whoever looks at the folder just before the file is in its place."""
    seen = []

    def stop(descriptor):
        seen.extend(path.read_bytes() for path in tmp_path.iterdir())
        raise KeyboardInterrupt("Ctrl-C")

    monkeypatch.setattr("registry.index.os.fsync", stop)

    with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
        write_index(index, tmp_path / "index", REVISION, ENCODER, KEY)

    assert [len(content) > vectors.nbytes for content in seen] == [True]
    assert not any(vector.tobytes()[:8] in content for vector in vectors for content in seen)
    assert names_in(tmp_path) == []


def test_a_sealed_index_of_several_chunks_comes_back(tmp_path):
    vectors = unit_vectors(3_000, dim=192)
    index = VectorIndex(192)
    index.add(np.arange(3_000), vectors)
    write_index(index, tmp_path / "index", REVISION, ENCODER, KEY)

    loaded = load_index(tmp_path / "index", REVISION, ENCODER, KEY)

    np.testing.assert_array_equal(loaded.reconstruct(np.arange(3_000)), vectors)


def test_an_empty_sealed_index_comes_back_empty(tmp_path):
    write_index(VectorIndex(DIM), tmp_path / "index", 0, ENCODER, KEY)

    assert len(load_index(tmp_path / "index", 0, ENCODER, KEY)) == 0


@pytest.mark.parametrize(
    ("written_with", "opened_with", "reason"),
    [
        (KEY, None, "it is encrypted, the registry is not encrypted"),
        (None, KEY, "it is not encrypted, the registry is encrypted"),
    ],
)
def test_sealed_where_the_registry_is_not_or_the_other_way_round_is_stale_and_rebuilt(
    tmp_path, index, ids, vectors, written_with, opened_with, reason
):
    path, said = tmp_path / "index", []
    write_index(index, path, REVISION, ENCODER, written_with)

    with pytest.raises(StaleIndex, match=reason):
        load_index(path, REVISION, ENCODER, opened_with)
    opened = open_index(path, REVISION, ENCODER, lambda: (ids, vectors), said.append, opened_with)

    assert_same_answers(opened, ids, vectors)
    assert said == [f"{path}: {reason}; rebuilding the index from the store"]
    assert_same_answers(load_index(path, REVISION, ENCODER, opened_with), ids, vectors)


def test_an_index_sealed_with_another_key_is_damage_and_rebuilt(sealed_path, ids, vectors):
    said: list[str] = []
    with pytest.raises(IndexDamaged, match="its content does not open with the registry's key"):
        load_index(sealed_path, REVISION, ENCODER, bytes(32))

    opened = open_index(sealed_path, REVISION, ENCODER, lambda: (ids, vectors), said.append, bytes(32))

    assert_same_answers(opened, ids, vectors)
    assert said == [
        f"{sealed_path}: its content does not open with the registry's key; rebuilding the index from the store"
    ]
    assert len(load_index(sealed_path, REVISION, ENCODER, bytes(32))) == 40


def test_no_flipped_byte_of_a_sealed_file_is_ever_loaded(sealed_path):
    """Of the header too: the content opens only behind the header that it was written with."""
    n_bytes = sealed_path.stat().st_size
    n_header_bytes = sealed_path.read_bytes().index(b"\n") + 1

    for position in [*range(n_header_bytes), *range(n_header_bytes, n_bytes, 17), n_bytes - 1]:
        original = flip(sealed_path, position, 0x01)
        with pytest.raises(IndexUnusable, match=r"sealed\.faiss: .+; run `likeness rebuild-index`"):
            load_index(sealed_path, REVISION, ENCODER, KEY)
        sealed_path.write_bytes(original)

    assert len(load_index(sealed_path, REVISION, ENCODER, KEY)) == 40


@pytest.mark.parametrize("changes", [{"ids_sha256": "0" * 64}, {"body_sha256": "0" * 64}, {"n": 39}])
def test_a_sealed_index_opens_only_behind_its_own_header(sealed_path, changes):
    line, _, body = sealed_path.read_bytes().partition(b"\n")
    sealed_path.write_bytes(json.dumps(json.loads(line) | changes).encode() + b"\n" + body)

    with pytest.raises(IndexDamaged, match="its content does not open with the registry's key"):
        load_index(sealed_path, REVISION, ENCODER, KEY)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "does not open with the registry's key"),
        (lambda content: content[:500], "bytes follow its header, but 40 vectors of 16 dimensions take 2928 to 3952"),
        (lambda content: content + b"x", "does not open with the registry's key"),
        (lambda content: content + bytes(10**6), "bytes follow its header, but 40 vectors of 16 dimensions take"),
    ],
)
def test_a_sealed_file_of_another_length_is_damage(sealed_path, damage, reason):
    sealed_path.write_bytes(damage(sealed_path.read_bytes()))

    with pytest.raises(IndexDamaged, match=reason):
        load_index(sealed_path, REVISION, ENCODER, KEY)


def test_without_a_key_nothing_of_cryptography_is_imported(index_path):
    code = f"""
import sys
from pathlib import Path
from registry.index import load_index
load_index(Path({str(index_path)!r}), {REVISION}, {ENCODER!r})
sys.exit('cryptography' in sys.modules)"""

    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
