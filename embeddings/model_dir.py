"""Where an encoder's files are, whether they are what they should be, and what lies beside the weights.

Reads no YAML and imports no torch: a model directory is code (HyperPyYAML runs what it names), so everything here
happens before any of it is allowed to run.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from embeddings.errors import ModelDamaged, ModelUnavailable, ModelUntrusted

HOUSE = "house"
HOUSE_DIR = Path(__file__).parent / "models" / "house"

#: Hub models that are known by name: repository -> commit. A branch name would let the weights change under a registry.
HUB_REVISIONS = {"speechbrain/spkrec-ecapa-voxceleb": "0f99f2d0ebe89ac095bcc5903c4dd8f72b367286"}

CHECKSUMS = "SHA256SUMS"
COHORT = "cohort.npz"
CALIBRATION = "calibration.json"
GOLDEN = "golden.json"
CARD = "README.md"
#: What is fetched of a hub's model: what makes it, and what may lie beside it.
HUB_PATTERNS = ["*.yaml", "*.ckpt", "*.safetensors", "*.txt", CARD, COHORT, CALIBRATION, GOLDEN]
#: What lies beside a model without being part of it: another cohort or threshold does not make another encoder.
SIDE_FILES = frozenset({CARD, CHECKSUMS, COHORT, CALIBRATION, GOLDEN})


@dataclass(frozen=True)
class Cohort:
    """Voices of strangers that scores are normalised against (AS-norm).

    Attributes
    ----------
    vectors : (n, dim) float32
        Unit rows.
    person : (n,) int64
        Which stranger each row belongs to; opaque.
    cohort_id : str
        sha256 of the file.
    condition : (n,) str or None
        How each row was heard, ``spoken`` or ``sung+music`` for instance, where the file says so.
    """

    vectors: np.ndarray
    person: np.ndarray
    cohort_id: str
    condition: np.ndarray | None = None


def find_model(source: str | Path, *, trusted: Collection[str] = ()) -> Path:
    """Directory of the model that `source` names, checked and allowed to run.

    Parameters
    ----------
    source : str or Path
        ``"house"`` (the built-in encoder), a directory, or a hub id, optionally ``ID@COMMIT`` with 40
        hexadecimal digits.
    trusted : collection of str
        Digests (`model_digest`) of directories other than the built-in one that may run.

    Raises
    ------
    ModelDamaged
        A file of the built-in encoder differs from its committed sha256.
    ModelUnavailable
        No such directory, or the hub cannot be reached.
    ModelUntrusted
        Not the built-in encoder, and its digest is not in `trusted`; the message holds the digest.
    """
    directory = locate_model(source)
    if source == HOUSE:
        return directory
    digest = model_digest(directory)
    if digest not in trusted:
        raise ModelUntrusted(
            f"{source}: a model directory is code and runs when it is loaded. If you know where this one comes from, "
            f"allow it once with --trust-model. Its digest is {digest}"
        )
    return directory


def locate_model(source: str | Path, *, fetch: bool = True) -> Path:
    """Directory of the model that `source` names, whether it may run or not; nothing in it is run.

    Parameters
    ----------
    source : str or Path
        As `find_model` takes it.
    fetch : bool
        Get it from the hub where it is not on this machine.

    Raises
    ------
    ModelDamaged, ModelUnavailable
        As `find_model` raises them.
    """
    if source == HOUSE:
        check_sums(HOUSE_DIR)
        return HOUSE_DIR
    directory = Path(source) if Path(source).is_dir() else _fetch(str(source), fetch)
    if not (directory / "hyperparams.yaml").is_file():
        raise ModelUnavailable(
            f"{directory}: no hyperparams.yaml in it; a SpeechBrain model directory is needed (one made for "
            "EncoderClassifier.from_hparams)"
        )
    return directory


def copy_model(directory: Path, target: Path) -> None:
    """Copy a model's directory; `target` is there whole or not at all, and must not be there before."""
    if target.exists():
        raise ModelUnavailable(f"{target}: is there already; name a new folder")
    partial = target.with_name(f"{target.name}.part")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        shutil.copytree(directory, partial)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelUnavailable(f"{target}: cannot be written ({error.strerror or error})") from error


@dataclass(frozen=True)
class ModelCard:
    """What a model's directory says of it.

    Attributes
    ----------
    digest : str
        What `--trust-model` records.
    encoder_id : str or None
        Of which the calibration is; known for certain only once the model is loaded.
    dim : int or None
        Length of the cohort's vectors.
    n_cohort_vectors, n_cohort_persons : int or None
        Where it has a cohort.
    calibration : str or None
        What its calibration was fitted on, where it has one that is of this cohort.
    licence : str or None
        As its card has it.
    card : str or None
        Its README.md.
    """

    directory: str
    digest: str
    size_bytes: int
    encoder_id: str | None
    dim: int | None
    cohort_id: str | None
    n_cohort_vectors: int | None
    n_cohort_persons: int | None
    calibration: str | None
    has_golden: bool
    licence: str | None
    card: str | None


def describe_model(directory: Path) -> ModelCard:
    """What lies in a model's directory, read without running any of it; `ModelDamaged` where it cannot be."""
    cohort, calibration = load_cohort(directory), load_calibration(directory)
    card = directory / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    is_of_cohort = cohort is not None and calibration is not None and calibration["cohort_id"] == cohort.cohort_id
    return ModelCard(
        directory=str(directory),
        digest=model_digest(directory),
        size_bytes=sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
        encoder_id=calibration["encoder_id"] if calibration else None,
        dim=cohort.vectors.shape[1] if cohort else None,
        cohort_id=cohort.cohort_id if cohort else None,
        n_cohort_vectors=len(cohort.vectors) if cohort else None,
        n_cohort_persons=len(np.unique(cohort.person)) if cohort else None,
        calibration=str(calibration.get("source", "of another release")) if calibration and is_of_cohort else None,
        has_golden=(directory / GOLDEN).is_file(),
        licence=licence_of(text) if text else None,
        card=text,
    )


def licence_of(card: str) -> str | None:
    """A model's licence by its card: the hub's field, or the first licence that is named before the first section."""
    stated = re.search(r"^licen[cs]e:\s*(\S.*?)\s*$", card, re.MULTILINE | re.IGNORECASE)
    if stated:
        return stated[1].strip("\"'")
    opening = re.split(r"^## ", card, maxsplit=1, flags=re.MULTILINE)[0]
    named = re.search(r"\b(Apache-2\.0|MIT|BSD-[23]-Clause|CC0-1\.0|CC-BY(?:-[A-Z]+)*-[0-9.]+[0-9])\b", opening)
    return named[1] if named else None


def check_sums(directory: Path) -> None:
    """Compare every file of `directory` with its SHA256SUMS; raises `ModelDamaged` naming the first that differs."""
    listed = {}
    try:
        lines = (directory / CHECKSUMS).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelDamaged(f"{directory / CHECKSUMS}: cannot be read ({error}); reinstall likeness") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        listed[name] = digest
    present = {path.name for path in directory.iterdir() if path.is_file() and path.name != CHECKSUMS}
    if extra := sorted(present - set(listed)):
        raise ModelDamaged(f"{directory / extra[0]}: not in {CHECKSUMS}; reinstall likeness")
    for name, digest in listed.items():
        path = directory / name
        if not path.is_file():
            raise ModelDamaged(f"{path}: missing; reinstall likeness")
        if (found := _sha256(path)) != digest:
            raise ModelDamaged(f"{path}: sha256 is {found[:12]}..., published was {digest[:12]}...; reinstall likeness")


def write_sums(directory: Path) -> None:
    """Write SHA256SUMS over every other file of `directory` (sha256sum's own format)."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{_sha256(directory / name)}  {name}\n" for name in names]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="ascii")


def model_files(directory: Path) -> dict[str, str]:
    """sha256 of every file that makes the vectors what they are, by name relative to `directory`; no side files."""
    names = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return {
        name: _sha256(path)
        for name, path in names.items()
        # What `hf download --local-dir` notes down for itself. By the relative name: the hub's own cache lies in
        # ~/.cache, and leaving out all that is below it would give every hub model the same digest.
        if name not in SIDE_FILES and not name.startswith(".cache/huggingface/")
    }


def model_digest(directory: Path) -> str:
    """One sha256 over `model_files`: what `--trust-model` records."""
    return canonical_sha256(model_files(directory))


def canonical_sha256(value: Any) -> str:
    """sha256 of `value` as JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_cohort(directory: Path) -> Cohort | None:
    """Load the cohort beside a model, or None where there is none; raises `ModelDamaged` where it is not one."""
    path = directory / COHORT
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            vectors = np.ascontiguousarray(data["vectors"], dtype=np.float32)
            person = data["person"].astype(np.int64)
            condition = data["condition"].astype(str) if "condition" in data else None
        if vectors.ndim != 2 or person.shape != vectors.shape[:1]:
            raise ValueError(f"vectors {vectors.shape}, person {person.shape}")
        if condition is not None and condition.shape != person.shape:
            raise ValueError(f"condition {condition.shape}, person {person.shape}")
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):
            raise ValueError("vectors are not of length 1")
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise ModelDamaged(f"{path}: not a cohort ({error}); get it again, or delete it") from error
    return Cohort(vectors=vectors, person=person, cohort_id=_sha256(path), condition=condition)


def load_calibration(directory: Path) -> dict[str, Any] | None:
    """Load the calibration beside a model, or None; `ModelDamaged` where it is not one."""
    path = directory / CALIBRATION
    if not path.is_file():
        return None
    try:
        calibration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # What is in it is `registry.calibration`'s to judge: one of another release must not keep a model from loading.
        missing = sorted({"encoder_id", "cohort_id"} - set(calibration))
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
    except (OSError, ValueError, TypeError) as error:
        raise ModelDamaged(f"{path}: not a calibration ({error}); get it again, or delete it") from error
    return calibration


def _fetch(source: str, may_fetch: bool) -> Path:
    repository, _, revision = source.partition("@")
    revision = revision or HUB_REVISIONS.get(repository, "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ModelUnavailable(f"{source}: neither a directory nor a hub id such as speechbrain/spkrec-ecapa-voxceleb")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ModelUnavailable(
            f"{source}: name the commit, {repository}@COMMIT with 40 digits, so that it cannot change"
        )
    from huggingface_hub import snapshot_download

    try:
        # The hub's cache links files to blobs; SpeechBrain is given the directory and makes no links of its own.
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=HUB_PATTERNS, local_files_only=not may_fetch
            )
        )
    except Exception as error:  # any of requests', httpx' and the hub's own errors, which differ between versions
        if not may_fetch:
            raise ModelUnavailable(
                f"{source}: not on this machine; `likeness models fetch {source}` gets it"
            ) from error
        raise ModelUnavailable(
            f"{repository}@{revision}: not on this machine, and the hub could not be reached "
            f"({type(error).__name__}). Where there is a network, run "
            f"`hf download {repository} --revision {revision} --local-dir DIR`, then copy DIR here and name it "
            "instead: --encoder DIR"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
