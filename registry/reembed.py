"""Every reference made anew with another encoder, while the registry goes on with the one it has.

What is made is kept beside the references (table `staged_references`, sealed as they are), so that a process that is
killed loses no more than the recording it was at. Once every reference is made, one transaction puts all of it in the
place of what was: until then only the old encoder's vectors are matched, from then on only the new one's.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.errors import InvalidAudio, ModelError
from embeddings.extract import Decoder, Encoder, Voiceprint, embed_file
from registry import audit
from registry.config import ENCODER_SOURCE, TRUSTED_MODELS, encoder_source, trusted_models
from registry.consistency import own_norm_score
from registry.errors import RegistryError, StoreDamaged
from registry.kept_audio import readable_copy
from registry.records import NewTemplate, Reference, path_of
from registry.references import condense_references
from registry.scoring import CohortModel
from registry.store import Store, now
from registry.verdict import MIN_VOICE_S, lack_of_voice

#: Key of table `meta` while another encoder is prepared: `source`, `encoder_id` and `begun_at` as JSON.
_PREPARATION = "preparation"
_LOCK = ".reembed.lock"


@dataclass(frozen=True)
class Preparation:
    """Another encoder that a registry is going over to.

    Attributes
    ----------
    n_made, n_left : int
        References that are made with it, and that are not yet.
    """

    source: str
    encoder_id: str
    begun_at: str
    n_made: int
    n_left: int


@dataclass(frozen=True)
class Lacking:
    """A reference that cannot be made with another encoder.

    Attributes
    ----------
    kind : str
        "changed" (another recording lies there now), "too_little_voice", "model_failed" (the encoder has no vector for
        it), or one of `INVALID_AUDIO_KINDS`.
    reason : str
        For a person.
    """

    reference_id: int
    artist: str
    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What there is to do to go over to an encoder.

    Attributes
    ----------
    n_references : int
        On record.
    n_left : int
        Not made with that encoder yet; `duration_s` is their length in seconds.
    n_kept, n_paths : int
        How many of those can be read from a kept copy, and from the path that they were enrolled from.
    lacking : tuple of Lacking
        The rest, of which there is no file. Whether a file holds what was enrolled is seen when it is read.
    """

    n_references: int
    n_left: int
    duration_s: float
    n_kept: int
    n_paths: int
    lacking: tuple[Lacking, ...]


def preparation(store: Store) -> Preparation | None:
    """The encoder that a registry is going over to, and how far it is; None where it is not."""
    found = _begun(store)
    if found is None:
        return None
    n_made = store.rows("SELECT COUNT(*) AS n FROM staged_references")[0]["n"]
    return Preparation(**found, n_made=n_made, n_left=len(open_references(store, found["encoder_id"])))


def _begun(store: Store) -> dict[str, str] | None:
    rows = store.rows("SELECT value FROM meta WHERE key = ?", [_PREPARATION])
    return json.loads(rows[0]["value"]) if rows else None


def open_references(store: Store, encoder_id: str) -> list[int]:
    """The references that are not made with an encoder, nor prepared, oldest first."""
    rows = store.rows(
        "SELECT reference_id FROM artist_references r WHERE encoder_id != ?1 AND NOT EXISTS "
        "(SELECT 1 FROM staged_references s WHERE s.reference_id = r.reference_id AND s.encoder_id = ?1) ORDER BY 1",
        [encoder_id],
    )
    return [row["reference_id"] for row in rows]


def survey(store: Store, encoder_id: str) -> Survey:
    """What there is to do to go over to an encoder; reads no audio."""
    with store.reading():
        chosen = set(open_references(store, encoder_id))
        references = store.references()
    left = [reference for reference in references if reference.reference_id in chosen]
    kept = [reference for reference in left if reference.kept_path and (store.home / reference.kept_path).is_file()]
    others = [reference for reference in left if reference not in kept]
    # os.path, because Path's own raises where a folder may not be looked into.
    gone = [reference for reference in others if not os.path.isfile(path_of(reference.path))]  # noqa: PTH113
    return Survey(
        n_references=len(references),
        n_left=len(left),
        duration_s=round(sum(reference.duration_s for reference in left), 3),
        n_kept=len(kept),
        n_paths=len(others) - len(gone),
        lacking=tuple(_lacking(reference, "missing", "there is no such file") for reference in gone),
    )


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Nobody else goes over to another encoder meanwhile; `RegistryError` where somebody does."""
    try:
        descriptor = os.open(store.home / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RegistryError(f"{store.home}: cannot be written to ({error.strerror})") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RegistryError(
                f"{store.home}: another process is going over to another encoder; wait for it, or stop it (Ctrl-C)"
            ) from None
        except OSError:  # not every file system has locks
            pass
        yield
    finally:
        os.close(descriptor)


def begin(store: Store, encoder: Any, source: str, trusted: Collection[str]) -> None:
    """Write down that the registry goes over to an encoder, unless that is so already; call inside `alone`.

    Parameters
    ----------
    encoder
        An `embeddings` encoder.
    source, trusted
        What it is loaded from, as `registry.config.source_name` gives it, and digests of models that may run.

    Raises
    ------
    RegistryError
        The registry is going over to another one.
    """
    with store.writing():
        found = preparation(store)
        if found is not None and found.encoder_id != encoder.encoder_id:
            raise RegistryError(
                f"{store.home}: {found.n_made} references are prepared with encoder {found.encoder_id[:12]} "
                f"({found.source}), this one is {encoder.encoder_id[:12]} ({source}). Go on with that one, or drop "
                "what is prepared with `likeness reembed --abandon`"
            )
        if found is None:
            store.record_encoder(encoder)
            told = {"source": source, "encoder_id": encoder.encoder_id}
            store.insert("meta", {"key": _PREPARATION, "value": json.dumps({**told, "begun_at": now()})})
            store.set_setting(TRUSTED_MODELS, sorted({*trusted_models(store), *trusted}))
            audit.append(store, "encoder.prepare", told)


def abandon(store: Store) -> Preparation | None:
    """Drop what is prepared, and return what that was; the registry stays with the encoder it has."""
    with store.writing():
        found = preparation(store)
        if found is not None:
            _forget_preparation(store)
            told = {"source": found.source, "encoder_id": found.encoder_id, "n_references": found.n_made}
            audit.append(store, "encoder.abandon", told)
    return found


def make_references(
    store: Store,
    encoder: Encoder,
    *,
    cohort: CohortModel | None,
    decoder: Decoder | None = None,
    known: Collection[Lacking] = (),
    on_reference: Callable[[], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Lacking, ...]:
    """Make every reference that is left with the encoder that the registry goes over to; begin with `begin`.

    Parameters
    ----------
    cohort : CohortModel, optional
        The encoder's, for what each reference scores with the artist's others.
    decoder : Decoder, optional
        What reads recordings, as `embed_file` takes it.
    known : collection of Lacking
        What an earlier call gave; not tried again.
    on_reference, on_progress : callable, optional
        Called after each reference, and with the seconds read of the present one.

    Returns
    -------
    tuple of Lacking
        Those that could not be made, the known ones that are still on record among them.

    Raises
    ------
    RegistryError
        The registry is not going over to this encoder any more, or cannot be written. What is made is kept.
    """
    lacking = {each.reference_id: each for each in known}
    while left := [number for number in open_references(store, encoder.encoder_id) if number not in lacking]:
        for reference_id in left:
            reference = store.reference(reference_id)
            if reference is not None:  # removed meanwhile
                voice = _embed(store, encoder, reference, decoder, on_progress)
                if isinstance(voice, Lacking):
                    lacking[reference_id] = voice
                else:
                    _stage(store, encoder.encoder_id, reference_id, voice, cohort)
            if on_reference is not None:
                on_reference()
    still_open = open_references(store, encoder.encoder_id)
    return tuple(lacking[reference_id] for reference_id in still_open if reference_id in lacking)


def change_over(store: Store, encoder_id: str, leave_out: Collection[Lacking] = ()) -> bool:
    """Put what is prepared in the place of what was, in one transaction.

    Parameters
    ----------
    leave_out : collection of Lacking
        References that stay as they are, and are not matched until they too are made with this encoder.

    Returns
    -------
    bool
        False, and nothing is changed, where others are left to make: somebody has enrolled meanwhile.

    Raises
    ------
    RegistryError
        The registry is not going over to this encoder, or nothing would be left to match with.
    """
    left_out = {each.reference_id for each in leave_out}
    # Most of the work, so that others need not wait for it to write.
    condensed = {artist_id: _condense(store, artist_id, encoder_id) for artist_id in _artist_ids(store)}
    with store.writing():
        source = _check_begun(store, encoder_id)
        still_open = open_references(store, encoder_id)
        if set(still_open) - left_out:
            return False
        n_references, n_left_out = len(store.reference_owners()), len(still_open)
        if n_left_out == n_references > 0:
            raise RegistryError(
                f"{store.home}: none of its {n_references} references could be made with encoder {encoder_id[:12]}, so "
                "nobody would be matched; nothing was changed"
            )
        before = {"from": encoder_source(store), "from_encoder_id": store.encoder_id}
        is_new = before != {"from": source, "from_encoder_id": encoder_id}
        if not is_new and not store.rows("SELECT 1 FROM staged_references LIMIT 1"):
            _forget_preparation(store)  # those that wait still do, and nothing else was to be made
            return True
        artists = {artist_id: _made_ids(store, artist_id, encoder_id) for artist_id in _artist_ids(store)}
        store.db.execute(
            "UPDATE artist_references AS r SET encoder_id = s.encoder_id, voiced_s = s.voiced_s, "
            "own_norm_score = s.own_norm_score, n_windows = s.n_windows, vectors = s.vectors, times = s.times "
            "FROM staged_references s WHERE s.reference_id = r.reference_id"
        )
        _forget_preparation(store)
        store.set_encoder(encoder_id)
        store.set_setting(ENCODER_SOURCE, source)
        for artist_id, made_ids in artists.items():
            of, templates = condensed.get(artist_id, ((), []))
            if of != made_ids:  # enrolled, approved, removed or moved meanwhile
                templates = condense_references(store.reference_windows(artist_id))
            store.replace_templates(artist_id, templates)
        after = {"to": source, "encoder_id": encoder_id, "n_references": n_references, "n_left_out": n_left_out}
        audit.append(store, "encoder.change", before | after)
    return True


def _lacking(reference: Reference, kind: str, reason: str) -> Lacking:
    return Lacking(reference.reference_id, reference.artist, reference.path, kind, reason)


def _embed(
    store: Store,
    encoder: Encoder,
    reference: Reference,
    decoder: Decoder | None,
    on_progress: Callable[[float], None] | None,
) -> Voiceprint | Lacking:
    """The voice of a reference, from its kept copy or else from where it was enrolled from, or why there is none."""
    places: list[tuple[str, AbstractContextManager[Path]]] = [("", nullcontext(path_of(reference.path)))]
    if reference.kept_path is not None:
        places.insert(0, ("its kept copy: ", readable_copy(store, reference.reference_id)))
    kind, reasons = "", []
    for place, opened in places:
        try:
            with opened as path:
                voice = embed_file(path, encoder, decoder=decoder, on_progress=on_progress)
        except InvalidAudio as error:
            kind, reason = error.kind, error.reason
        except StoreDamaged as error:
            kind, reason = "unreadable", str(error)
        except ModelError as error:
            kind, reason = "model_failed", str(error)
        else:
            if voice.content_id != reference.content_id:
                kind, reason = "changed", "no longer the recording that was enrolled"
            elif voice.voiced_s < MIN_VOICE_S or len(voice.vectors) == 0:
                return _lacking(reference, "too_little_voice", lack_of_voice(voice.voiced_s))
            else:
                return voice
        reasons.append(place + reason)
    return _lacking(reference, kind, "; ".join(reasons))


def _stage(store: Store, encoder_id: str, reference_id: int, voice: Voiceprint, cohort: CohortModel | None) -> None:
    """Keep the new vectors of a reference, unless it was removed or moved meanwhile."""

    def owner() -> int | None:
        rows = store.rows("SELECT artist_id FROM artist_references WHERE reference_id = ?", [reference_id])
        return rows[0]["artist_id"] if rows else None

    artist_id = owner()
    if artist_id is None:
        return
    earlier = [
        vectors
        for number, vectors, _ in store.reference_windows(artist_id, status=None, staged_for=encoder_id)
        if number < reference_id
    ]
    own = None  # from the third reference on, as when it was enrolled
    if len(earlier) >= 2 and cohort is not None:
        own = round(own_norm_score(voice.vectors, earlier, cohort), 3)
    times = np.column_stack([voice.start_s, voice.end_s])
    with store.writing():
        _check_begun(store, encoder_id)
        if owner() == artist_id:
            voiced_s = round(voice.voiced_s, 3)
            store.stage_reference(reference_id, encoder_id, voice.vectors, times, voiced_s=voiced_s, own_norm_score=own)


def _check_begun(store: Store, encoder_id: str) -> str:
    """What the encoder that is being prepared is loaded from; `RegistryError` where that is another, or none."""
    found = _begun(store)
    if found is None or found["encoder_id"] != encoder_id:
        raise RegistryError(f"{store.home}: what was prepared with encoder {encoder_id[:12]} was dropped meanwhile")
    return found["source"]


def _forget_preparation(store: Store) -> None:
    store.db.execute("DELETE FROM staged_references")
    store.db.execute("DELETE FROM meta WHERE key = ?", [_PREPARATION])


def _artist_ids(store: Store) -> list[int]:
    rows = store.rows("SELECT DISTINCT artist_id FROM artist_references ORDER BY 1")
    return [row["artist_id"] for row in rows]


def _condense(store: Store, artist_id: int, encoder_id: str) -> tuple[tuple[int, ...], list[NewTemplate]]:
    """An artist's templates with another encoder, and the references that they are made of."""
    windows = store.reference_windows(artist_id, staged_for=encoder_id)
    return tuple(reference_id for reference_id, _, _ in windows), condense_references(windows)


def _made_ids(store: Store, artist_id: int, encoder_id: str) -> tuple[int, ...]:
    """An artist's active references that are made with an encoder, or prepared."""
    rows = store.rows(
        "SELECT reference_id FROM artist_references r WHERE artist_id = ?1 AND status = 'active' AND (encoder_id = ?2 "
        "OR EXISTS (SELECT 1 FROM staged_references s WHERE s.reference_id = r.reference_id)) ORDER BY 1",
        [artist_id, encoder_id],
    )
    return tuple(row["reference_id"] for row in rows)
