"""Recordings of an artist into the registry."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embeddings.audio import SUFFIXES
from embeddings.errors import InvalidAudio
from embeddings.extract import Encoder, Voiceprint, embed_file
from registry.condense import condense_windows
from registry.errors import AlreadyEnrolled, ConsentMissing, RegistryError
from registry.match import Matcher
from registry.records import Consent, NewTemplate, path_text, storable
from registry.store import Store
from registry.verdict import MIN_VOICE_S, lack_of_voice

KEPT_AUDIO = "audio"
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Enrollment:
    """What became of one recording.

    Attributes
    ----------
    outcome : {"enrolled", "already_enrolled", "refused", "too_little_voice", "invalid"}
        Only the first changed what is matched; the second is no fault, and records the consent.
    reason : str
        For a person.
    similar_artist, similar_norm_score : str and float, or None
        Another enrolled artist that this recording scores at or above the threshold with: a warning.
    """

    path: str
    outcome: Literal["enrolled", "already_enrolled", "refused", "too_little_voice", "invalid"]
    reason: str
    duration_s: float | None = None
    voiced_s: float | None = None
    n_windows: int | None = None
    reference_id: int | None = None
    similar_artist: str | None = None
    similar_norm_score: float | None = None


def list_recordings(patterns: Sequence[str]) -> list[Path]:
    """Files that are named, or lie in the folders named, or fit the globs given; each once, in order."""
    paths: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir()]
        elif path.exists() or not (matched := glob(pattern, recursive=True)):  # noqa: PTH207 - patterns may be absolute
            found = [path]
        else:
            found = [Path(p) for p in matched if not Path(p).is_dir()]
        paths.update(dict.fromkeys(sorted(found)))
    return list(paths)


def check_name(name: str) -> str:
    """An artist's name as it is stored (NFC, single spaces); raises `RegistryError` for one that cannot be shown."""
    name = re.sub(" +", " ", unicodedata.normalize("NFC", name).strip())
    if not name:
        raise RegistryError("the artist's name is empty")
    if len(name) > MAX_NAME_CHARACTERS:
        raise RegistryError(f"the artist's name has {len(name)} characters, at most {MAX_NAME_CHARACTERS} are kept")
    if bad := sorted({f"U+{ord(c):04X}" for c in name if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}):
        raise RegistryError(f"the artist's name holds characters that cannot be shown ({', '.join(bad)})")
    return name


def check_consent(ref: str | None, expires: str | None) -> Consent:
    """The consent that an enrolment rests on; raises `ConsentMissing` when there is none, or it is over."""
    if not ref or not ref.strip():
        raise ConsentMissing(
            "a voiceprint is biometric data and needs the artist's consent: name the release it rests on, "
            "--consent REF (a contract number, a form's file name)"
        )
    ref = storable(ref.strip())
    if expires is None:
        return Consent(ref)
    try:
        end = datetime.fromisoformat(expires)
        end = (end if end.tzinfo else end.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ConsentMissing(f"--consent-expires {expires}: not a date such as 2027-12-31") from error
    if end <= datetime.now(UTC):
        raise ConsentMissing(f"--consent-expires {expires}: that has passed; nothing is enrolled")
    return Consent(ref, end.strftime("%Y-%m-%dT%H:%M:%SZ"))


def enroll_recording(
    store: Store,
    encoder: Encoder,
    artist: str,
    path: Path,
    consent: Consent,
    *,
    matcher: Matcher | None = None,
    force: bool = False,
    keep_audio: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Enrollment:
    """Enroll one recording for an artist.

    Parameters
    ----------
    artist : str
        As `check_name` gives it; added to the registry with its first recording.
    matcher : Matcher, optional
        The registry before this command, to warn of another artist with this voice.
    force : bool
        Enroll a recording that is enrolled for another artist already.
    keep_audio : bool
        Copy the file into the home.

    Returns
    -------
    Enrollment
        Bad audio is an outcome, not an exception.

    Raises
    ------
    EncoderMismatch
        The registry was enrolled with another encoder.
    RegistryError
        The copy or the database could not be written; nothing of this recording is kept.
    """
    try:
        voiceprint = embed_file(path, encoder, on_progress=on_progress)
    except InvalidAudio as error:
        return Enrollment(path_text(path), "invalid", error.reason)
    measured: dict[str, Any] = {
        "duration_s": round(voiceprint.duration_s, 3),
        "voiced_s": round(voiceprint.voiced_s, 3),
        "n_windows": len(voiceprint.vectors),
    }
    if voiceprint.voiced_s < MIN_VOICE_S or len(voiceprint.vectors) == 0:
        reason = f"{lack_of_voice(voiceprint.voiced_s)}; is this the vocal stem?"
        return Enrollment(path_text(path), "too_little_voice", reason, **measured)
    similar = _similar(matcher, voiceprint, artist)
    try:
        _refuse_known(store, artist, voiceprint.content_id, force)  # before a copy is made
        with ExitStack() as on_failure:
            # The copy comes first: a crash between the two leaves a file too many, which `check` names, not too few.
            kept = _keep(store, path, voiceprint.content_id, on_failure) if keep_audio else None
            with store.writing():
                forced = _refuse_known(store, artist, voiceprint.content_id, force)
                reference_id = _write(store, encoder, artist, path, consent, voiceprint, forced, kept)
            on_failure.pop_all()
    except AlreadyEnrolled as error:
        if artist not in store.holders(voiceprint.content_id):
            return Enrollment(path_text(path), "refused", str(error), **measured)
        with store.writing():  # so that the same recording can renew a consent that has expired
            store.add_consent(store.artist(artist).artist_id, consent)
        return Enrollment(path_text(path), "already_enrolled", str(error), **measured)
    reason = f"{voiceprint.voiced_s:.1f} s of voice in {len(voiceprint.vectors)} windows"
    return Enrollment(path_text(path), "enrolled", reason, reference_id=reference_id, **measured, **similar)


def condense_artist(store: Store, artist_id: int) -> None:
    """Make an artist's templates anew from all its references; call inside `store.writing`."""
    references = store.reference_windows(artist_id)
    if not references:
        store.replace_templates(artist_id, [])
        return
    owner = np.concatenate([np.full(len(vectors), reference_id) for reference_id, vectors, _ in references])
    times = np.concatenate([times for _, _, times in references])
    templates, medoids, counts = condense_windows(np.concatenate([vectors for _, vectors, _ in references]))
    store.replace_templates(
        artist_id,
        [
            NewTemplate(vector, int(owner[row]), float(times[row, 0]), float(times[row, 1]), int(count))
            for vector, row, count in zip(templates, medoids, counts, strict=True)
        ],
    )


def _refuse_known(store: Store, artist: str, content_id: str, force: bool) -> bool:
    """Raise `AlreadyEnrolled` for a recording on record; returns whether it is another artist's and forced."""
    holders = store.holders(content_id)
    if artist in holders:
        raise AlreadyEnrolled(f"this recording is enrolled for {artist} already; nothing to do")
    if holders and not force:
        raise AlreadyEnrolled(
            f"this recording is enrolled for {', '.join(holders)}; --force enrolls it for {artist} too"
        )
    return bool(holders)


def _write(
    store: Store,
    encoder: Encoder,
    artist: str,
    path: Path,
    consent: Consent,
    voiceprint: Voiceprint,
    forced: bool,
    kept: Path | None,
) -> int:
    """Everything of one reference, inside one transaction, so that a crash leaves all of it or nothing."""
    store.bind_encoder(encoder)
    artist_id = store.add_artist(artist)
    reference_id = store.add_reference(
        artist_id,
        store.add_consent(artist_id, consent),
        path=path_text(path.resolve()),
        kept_path=None if kept is None else str(kept.relative_to(store.home)),
        content_id=voiceprint.content_id,
        duration_s=voiceprint.duration_s,
        voiced_s=voiceprint.voiced_s,
        vectors=voiceprint.vectors,
        times=np.column_stack([voiceprint.start_s, voiceprint.end_s]),
        forced=forced,
    )
    condense_artist(store, artist_id)
    return reference_id


def _keep(store: Store, path: Path, content_id: str, on_failure: ExitStack) -> Path:
    """Copy a recording into the home under its content id, private to its owner; `on_failure` deletes the copy."""
    folder = store.home / KEPT_AUDIO
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / storable(f"{content_id}{path.suffix.lower()}")
    if not kept.exists():
        partial = kept.with_name(kept.name + ".part")
        on_failure.callback(partial.unlink, missing_ok=True)
        try:
            with path.open("rb") as source, open(partial, "wb", opener=_private) as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
            on_failure.callback(kept.unlink, missing_ok=True)
            partial.replace(kept)
        except OSError as error:
            raise RegistryError(
                f"{path}: could not be copied into {folder} ({error.strerror}); it is not enrolled. Free some space, "
                "or go without --keep-audio"
            ) from error
    return kept


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _similar(matcher: Matcher | None, voiceprint: Voiceprint, artist: str) -> dict[str, Any]:
    """The other artist that a voice is most like, if it is like one beyond the threshold."""
    if matcher is None:
        return {}
    others = [match for match in matcher.match(voiceprint) if match.artist != artist]
    if not others or others[0].norm_score < matcher.threshold:
        return {}
    return {"similar_artist": others[0].artist, "similar_norm_score": others[0].norm_score}
