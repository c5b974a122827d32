"""The nearest templates to a vector, and the one file that keeps the index between runs.

The index is a cache of the store's templates. It may be deleted at any time; `open_index` makes it again. It holds
voiceprints, which are biometric data: files are private to their owner, those of an encrypted registry are sealed
before a byte of a vector is written, and no message here shows a vector.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from registry.errors import IndexDamaged, IndexUnusable, StaleIndex, StoreDamaged
from registry.files import sync_directory

#: First field of the header. The version goes up when an older reader would misread the file.
INDEX_FORMAT = "likeness-index 2"

#: How far a vector's length may lie from 1. Normalising in float32 leaves less than 1e-6 at 192 dimensions (float16
#: about 1e-5); a mean that nobody normalised is off by a tenth and more.
UNIT_TOLERANCE = 1e-4

#: Bytes, newline included. Ours take about 350; a file without a newline must not be read as one line of gigabytes.
MAX_HEADER_BYTES = 4096

#: Bytes that faiss writes beyond the vectors and ids: 90 in faiss 1.15, with room for other releases.
MAX_FAISS_OVERHEAD_BYTES = 1024

#: From this many values in the query matrix (rows times dim) for each thread, faiss shall multiply matrices with BLAS
#: instead of scanning row by row. faiss 1.15 does so from 128,000 on however many threads there are, which suits
#: eighty: for 100 rows on one thread that took 2 to 12 times as long at 10,000 and more templates, depending on BLAS
#: (`scripts/bench_index.py`). Others met it too, at about 800: https://github.com/facebookresearch/faiss/pull/5109
BLAS_FROM_VALUES_PER_THREAD = 1_500

_HEADER_TYPES = {
    "format": str,
    "store_revision": int,
    "encoder_id": str,
    "n": int,
    "dim": int,
    "ids_sha256": str,
    "sealed": bool,
    "body_sha256": str,
}


class VectorIndex:
    """Exact inner-product search over unit vectors, each known by its template id.

    Parameters
    ----------
    dim : int
        Length of every vector, at least 1.
    """

    def __init__(self, dim: int) -> None:
        """Make an empty index."""
        if not _is_integer(dim) or dim < 1:
            raise ValueError(f"dim must be a whole number of at least 1, not {dim!r}")
        import faiss

        # IDMap2 rather than IDMap: it also finds a vector by its id, which `reconstruct` needs.
        self._faiss_index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(int(dim)))
        self._id_set: set[int] = set()

    @classmethod
    def _from_faiss(cls, faiss_index: Any) -> Self:
        index = cls.__new__(cls)
        index._faiss_index = faiss_index
        index._id_set = set(index.ids.tolist())
        return index

    @property
    def dim(self) -> int:
        """Length of every vector."""
        return int(self._faiss_index.d)

    @property
    def ids(self) -> np.ndarray:
        """Template ids in the order in which the index holds them, (n,) int64; a copy."""
        import faiss

        ids: np.ndarray = faiss.vector_to_array(self._faiss_index.id_map)
        return ids

    def __len__(self) -> int:
        """Return how many templates the index holds."""
        return int(self._faiss_index.ntotal)

    def add(self, ids: np.ndarray | Iterable[int], vectors: np.ndarray) -> None:
        """Add templates: all of them, or none when one is refused.

        Parameters
        ----------
        ids : (n,) int64
            Template ids, 0 or more, each new to the index and given once.
        vectors : (n, dim) float32
            Finite unit-length rows, one per id.

        Raises
        ------
        ValueError
            If an id is present, negative or given twice, or a vector has another shape or length, or is not finite.
        TypeError
            If ids are not whole numbers or vectors are not float32.
        """
        ids = _checked_ids(ids)
        _check_shape(vectors, self.dim, "vectors")
        if len(ids) != len(vectors):
            raise ValueError(f"{len(ids)} ids for {len(vectors)} vectors; give one id per vector")
        # faiss says -1 where it found nothing, so no template may be called that.
        if (ids < 0).any():
            raise ValueError(f"template ids must be 0 or more: {_name(ids[ids < 0])}")
        present = [i for i in ids.tolist() if i in self._id_set]
        if present:
            raise ValueError(f"already in the index: template {_name(present)}; remove before adding again")
        _check_unit(vectors, ids, "template")
        if len(ids):
            self._faiss_index.add_with_ids(np.ascontiguousarray(vectors), ids)
            self._id_set.update(ids.tolist())

    def remove(self, ids: np.ndarray | Iterable[int]) -> None:
        """Remove templates: all of them, or none when one is not in the index.

        Parameters
        ----------
        ids : (n,) int64
            Template ids in the index, each given once.

        Raises
        ------
        ValueError
            If an id is not in the index, or is given twice.
        """
        ids = _checked_ids(ids)
        self._check_known(ids)
        if len(ids):
            self._faiss_index.remove_ids(ids)
            self._id_set.difference_update(ids.tolist())

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the templates with the largest dot product with each vector.

        Give all vectors of a track in one call: it is quicker than a call for each (`scripts/bench_index.py`).

        Parameters
        ----------
        vectors : (n, dim) float32
            Finite unit-length rows.
        k : int
            How many templates to name per row, at least 1.

        Returns
        -------
        scores : (n, k') float32
            Cosines, largest first, where k' is the smaller of `k` and the number of templates. The last bits depend
            on how many rows are searched at once, so a score to report is computed from the stored templates.
        ids : (n, k') int64
            Their template ids. The order among equal scores is not defined.

        Raises
        ------
        ValueError
            If `k` is below 1, or a vector has another shape or length, or is not finite.
        TypeError
            If `vectors` are not float32 or `k` is not a whole number.
        """
        if not _is_integer(k):
            raise TypeError(f"k must be a whole number, not {k!r}")
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        _check_shape(vectors, self.dim, "vectors to search for")
        _check_unit(vectors, np.arange(len(vectors)), "row")
        # Asked for more than it holds, faiss fills up with id -1 at a score of -3.4e38.
        n_found = min(int(k), len(self))
        if n_found == 0 or len(vectors) == 0:
            shape = (len(vectors), n_found)
            return np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        _choose_kernel(vectors.size)
        scores, ids = self._faiss_index.search(np.ascontiguousarray(vectors), n_found)
        return scores, ids

    def reconstruct(self, ids: np.ndarray | Iterable[int]) -> np.ndarray:
        """Return the vectors of templates, (n, dim) float32 in the order of `ids`; ValueError names unknown ids."""
        ids = _checked_ids(ids, may_repeat=True)
        self._check_known(ids)
        if not len(ids):
            return np.empty((0, self.dim), dtype=np.float32)
        vectors: np.ndarray = self._faiss_index.reconstruct_batch(ids)
        return vectors

    def _check_known(self, ids: np.ndarray) -> None:
        unknown = [i for i in ids.tolist() if i not in self._id_set]
        if unknown:
            raise ValueError(f"not in the index: template {_name(unknown)}")


def write_index(
    index: VectorIndex,
    path: Path,
    store_revision: int,
    encoder_id: str,
    key: bytes | None = None,
    is_current: Callable[[], bool] = lambda: True,
) -> None:
    """Write an index to its file, whole or not at all.

    Parameters
    ----------
    index : VectorIndex
        What to write.
    path : Path
        The file; an existing one is replaced in one step, so readers see the old or the new one.
    store_revision : int
        The revision of the store whose templates the index holds.
    encoder_id : str
        The encoder that made the vectors.
    key : bytes, optional
        Seals the body, in an encrypted registry; 32 bytes.
    is_current : callable
        Whether the store is still at `store_revision`; asked once nobody else can put an index in place, and nothing is
        written where it is not: an index of a moment ago may hold voiceprints of an artist who was removed since.

    Raises
    ------
    OSError
        If the disk is full, the directory is read-only or absent, or a directory is in the way. The file that was
        there before is then as it was.
    """
    if not _is_integer(store_revision):
        raise TypeError(f"store_revision must be a whole number, not {store_revision!r}")
    if not isinstance(encoder_id, str):
        raise TypeError(f"encoder_id must be text, not {encoder_id!r}")
    import faiss

    path = Path(path)
    body: memoryview = faiss.serialize_index(index._faiss_index).data
    header = _header_line(
        {
            "format": INDEX_FORMAT,
            "store_revision": int(store_revision),
            "encoder_id": encoder_id,
            "n": len(index),
            "dim": index.dim,
            "ids_sha256": _ids_sha256(index.ids),
            "sealed": key is not None,
            # What is sealed says by itself whether it is whole, and a hash of the vectors would tell something of them.
            "body_sha256": hashlib.sha256(body).hexdigest() if key is None else "",
        }
    )
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"the header takes {len(header)} bytes, at most {MAX_HEADER_BYTES} fit; shorten encoder_id")

    prefix, suffix = f".{path.name}.", ".tmp"
    _remove_abandoned(path.parent, prefix, suffix)
    descriptor, temporary_path = _make_temporary(path.parent, prefix, suffix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header)
            if key is None:
                file.write(body)
            else:
                from registry.vault import seal_stream

                seal_stream(key, header, io.BytesIO(body), file)
            file.flush()
            os.fsync(file.fileno())
            with _locked(path.parent):
                if is_current():
                    temporary_path.replace(path)
                    sync_directory(path.parent)
                else:
                    temporary_path.unlink()
    except BaseException:
        temporary_path.unlink(missing_ok=True)
        raise


def load_index(path: Path, store_revision: int, encoder_id: str, key: bytes | None = None) -> VectorIndex:
    """Read an index from its file, if it is sound and belongs to this state of the store.

    Parameters
    ----------
    path : Path
        The file that `write_index` wrote.
    store_revision : int
        The store's revision now. Any other in the file, older or newer, is refused.
    encoder_id : str
        The encoder whose vectors are wanted.
    key : bytes, optional
        What the file is sealed with, in an encrypted registry.

    Raises
    ------
    StaleIndex
        If there is no file, it is of another format, store revision or encoder, or it is sealed and there is no key, or
        the other way round.
    IndexDamaged
        If it cannot be read, or is not what was written.
    """
    path = Path(path)
    try:
        header, body = _read_parts(path, store_revision, encoder_id, key)
        return _restore(header, body)
    except FileNotFoundError:
        raise StaleIndex("there is no index file yet", path) from None
    except OSError as error:
        raise IndexDamaged(f"it cannot be read ({error.strerror or error})", path) from error
    except IndexUnusable as error:
        error_of_file = type(error)(error.reason, path)
        raise error_of_file from error.__cause__


def open_index(
    path: Path,
    store_revision: int,
    encoder_id: str,
    load_rows: Callable[[], tuple[np.ndarray, np.ndarray]],
    notify: Callable[[str], None],
    key: bytes | None = None,
    is_current: Callable[[], bool] = lambda: True,
) -> VectorIndex:
    """Load the index, or on any doubt make it again from the store's templates and write it.

    Parameters
    ----------
    path : Path
        The index file. Where it cannot be written, that is said and the index lives in memory alone.
    store_revision : int
        The store's revision.
    encoder_id : str
        The encoder whose vectors are wanted.
    load_rows : callable
        Returns the ids (n,) int64 and vectors (n, dim) float32 of the store at `store_revision`: read both in one
        transaction, or the file will claim a revision that it does not hold. With n = 0, dim still counts.
    notify : callable
        Is given one line of text, for stderr, for each thing that a person should know.
    key : bytes, optional
        What the file is sealed with, in an encrypted registry.
    is_current : callable
        As for `write_index`.

    Raises
    ------
    StoreDamaged
        If the store's templates are not unit vectors under ids of their own.
    """
    path = Path(path)
    try:
        return load_index(path, store_revision, encoder_id, key)
    except IndexUnusable as error:
        notify(f"{path}: {error.reason}; rebuilding the index from the store")
    ids, vectors = load_rows()
    try:
        _check_matrix(vectors, "templates")
        index = VectorIndex(vectors.shape[1])
        index.add(ids, vectors)
    except ValueError as error:
        raise StoreDamaged(f"the store's templates cannot be indexed: {error}") from error
    try:
        write_index(index, path, store_revision, encoder_id, key, is_current)
    except OSError as error:
        reason = error.strerror or error
        notify(f"{path}: the index could not be written ({reason}); going on in memory, the next run rebuilds")
    return index


def _read_parts(
    path: Path, store_revision: int, encoder_id: str, key: bytes | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the header and the faiss bytes of a file, once both are known to be what was written."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise IndexDamaged("it is not a regular file")
        line = file.readline(MAX_HEADER_BYTES)
        header = _parse_header(line)
        if header["encoder_id"] != encoder_id:
            raise StaleIndex(f"it is of encoder {header['encoder_id'][:12]!a}, not {encoder_id[:12]!a}")
        if header["store_revision"] != store_revision:
            raise StaleIndex(f"it is of store revision {header['store_revision']}, the store is at {store_revision}")
        if header["sealed"] != (key is not None):
            ours, its = ("not encrypted", "encrypted") if key is None else ("encrypted", "not encrypted")
            raise StaleIndex(f"it is {its}, the registry is {ours}")
        least = header["n"] * (header["dim"] * 4 + 8)
        most = least + MAX_FAISS_OVERHEAD_BYTES
        if key is not None:
            from registry.vault import sealed_size

            least, most = sealed_size(least), sealed_size(most)
        n_body_bytes = os.fstat(file.fileno()).st_size - len(line)
        # Before reading, so that a header in front of the wrong thing does not fill the memory.
        if not least <= n_body_bytes <= most:
            raise IndexDamaged(
                f"{n_body_bytes} bytes follow its header, but {header['n']} vectors of {header['dim']} dimensions "
                f"take {least} to {most}"
            )
        body = file.read(n_body_bytes) if key is None else _open_body(key, line, file)
    if key is None and hashlib.sha256(body).hexdigest() != header["body_sha256"]:
        raise IndexDamaged("its content does not have the sha256 that its header states")
    return header, np.frombuffer(body, dtype=np.uint8)


def _open_body(key: bytes, line: bytes, file: BinaryIO) -> memoryview:
    """What was sealed, together with the header line that stands before it."""
    from registry.vault import SealBroken, open_stream

    body = io.BytesIO()
    try:
        open_stream(key, line, file, body)
    except SealBroken:
        raise IndexDamaged("its content does not open with the registry's key") from None
    return body.getbuffer()


def _parse_header(line: bytes) -> dict[str, Any]:
    if not line:
        raise IndexDamaged("it is empty")
    try:
        header = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or "format" not in header:
        raise IndexDamaged(f"it does not begin with a JSON header line of at most {MAX_HEADER_BYTES} bytes")
    if header["format"] != INDEX_FORMAT:
        raise StaleIndex(f"its format is {str(header['format'])[:40]!a}, this release reads {INDEX_FORMAT!a}")
    # The body's hash does not cover the header, so the line itself must be one that `write_index` could have written.
    types = {key: type(value) for key, value in header.items()}
    if types != _HEADER_TYPES or _header_line(header) != line or header["n"] < 0 or header["dim"] < 1:
        raise IndexDamaged("its header is not as it was written")
    return header


def _restore(header: dict[str, Any], body: np.ndarray) -> VectorIndex:
    """Return the index of bytes whose hash is right, if they hold what the header says."""
    import faiss

    try:
        faiss_index = faiss.deserialize_index(body)
    except RuntimeError as error:
        raise IndexDamaged("faiss cannot read its content") from error
    if not isinstance(faiss_index, faiss.IndexIDMap2) or not isinstance(
        faiss.downcast_index(faiss_index.index), faiss.IndexFlatIP
    ):
        raise IndexDamaged("it holds another kind of faiss index")
    index = VectorIndex._from_faiss(faiss_index)
    for field, value in (("n", len(index)), ("dim", index.dim), ("ids_sha256", _ids_sha256(index.ids))):
        if value != header[field]:
            raise IndexDamaged(f"its header states {field} {header[field]!a}, its content has {value!a}")
    return index


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a FIFO that nobody writes to would otherwise wait for ever.
    return os.open(path, flags | os.O_NONBLOCK)


def _header_line(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode("ascii") + b"\n"


def _ids_sha256(ids: np.ndarray) -> str:
    return hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def _make_temporary(directory: Path, prefix: str, suffix: str) -> tuple[int, Path]:
    """Return an open new file, locked so that `_remove_abandoned` of another process sees that its writer lives."""
    while True:
        # mkstemp makes it with mode 0600, whatever the umask.
        descriptor, name = tempfile.mkstemp(dir=directory, prefix=prefix, suffix=suffix)
        # Not every file system has locks; where there are none, nothing is removed either.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another process may have taken it for abandoned before the lock was ours (met with two writers in a loop).
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor, Path(name)
        os.close(descriptor)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory, where its file system has locks."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(directory: Path, prefix: str, suffix: str) -> None:
    """Delete what a killed process left half-written: it holds voiceprints, also of artists erased since."""
    for abandoned_path in directory.iterdir():
        if not (abandoned_path.name.startswith(prefix) and abandoned_path.name.endswith(suffix)):
            continue
        # A lock that is held means that its writer lives; a file that vanished was finished.
        with contextlib.suppress(OSError), abandoned_path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            abandoned_path.unlink()


def _choose_kernel(n_values: int) -> None:
    """Let the next search multiply matrices or scan, for the whole process, as faiss has it; only speed hangs on it."""
    import faiss

    use_blas = n_values >= BLAS_FROM_VALUES_PER_THREAD * faiss.omp_get_max_threads()
    # Releases compare this with rows, or rows times dim, or that per thread; all or nothing means the same to each.
    faiss.cvar.distance_compute_blas_threshold = 0 if use_blas else 2**31 - 1


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _checked_ids(ids: np.ndarray | Iterable[int], *, may_repeat: bool = False) -> np.ndarray:
    array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    # Also keeps out float, which would be truncated, and bool.
    if array.dtype.kind not in "iu" or not np.can_cast(array.dtype, np.int64):
        raise TypeError(f"template ids must be int64, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"template ids must have shape (n,), not {array.shape}")
    if not may_repeat:
        values, counts = np.unique(array, return_counts=True)
        if len(values) != len(array):
            raise ValueError(f"given more than once: template {_name(values[counts > 1])}")
    return np.ascontiguousarray(array, dtype=np.int64)


def _check_matrix(vectors: np.ndarray, what: str) -> None:
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32:
        found = vectors.dtype if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise TypeError(f"{what} must be a float32 array, not {found}")
    if vectors.ndim != 2:
        raise ValueError(f"{what} must have shape (n, dim), not {vectors.shape}")


def _check_shape(vectors: np.ndarray, dim: int, what: str) -> None:
    _check_matrix(vectors, what)
    if vectors.shape[1] != dim:
        # faiss would raise an AssertionError without a message.
        raise ValueError(f"{what} have {vectors.shape[1]} dimensions, the index has {dim}; another encoder's?")


def _check_unit(vectors: np.ndarray, names: np.ndarray, what: str) -> None:
    """Raise ValueError, naming rows but never their values, unless all are finite and of length 1."""
    is_finite = np.isfinite(vectors).all(axis=1)
    if not is_finite.all():
        raise ValueError(f"not finite: {what} {_name(names[~is_finite])}; silence or a failed model?")
    # In float64, because the square of a large float32 is infinite.
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    is_unit = np.abs(lengths - 1.0) <= UNIT_TOLERANCE
    if not is_unit.all():
        raise ValueError(
            f"not of unit length: {what} {_name(names[~is_unit])}; the first has length {lengths[~is_unit][0]:.6g}, "
            f"1 within {UNIT_TOLERANCE:g} is needed; normalise first"
        )


def _name(ids: np.ndarray | Iterable[int]) -> str:
    """Name up to five ids in a message."""
    values = [int(i) for i in ids]
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more
