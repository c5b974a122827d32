"""Recordings of an artist into the registry."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embeddings.errors import InvalidAudio
from embeddings.extract import Decoder, Encoder, Voiceprint, embed_file
from registry import audit, rights
from registry.config import require_two_persons
from registry.consistency import find_second_voice, own_norm_scores, reference_floors
from registry.errors import AlreadyEnrolled, RegistryError
from registry.kept_audio import RecordingChanged, kept_copy
from registry.manifest import find_recordings
from registry.match import Matcher
from registry.records import Consent, Reference, path_text
from registry.references import condense_artist
from registry.report import clock, hidden_at
from registry.scoring import CohortModel
from registry.store import Store, now
from registry.verdict import MIN_VOICE_S, lack_of_voice

MAX_NAME_CHARACTERS = 200
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol that nobody can see: Hangul fillers, Braille blank


@dataclass(frozen=True)
class Enrollment:
    """What became of one recording.

    Attributes
    ----------
    outcome : {"enrolled", "already_enrolled", "refused", "too_little_voice", "invalid"}
        Only the first changed what is matched; the second is no fault, and records the consent.
    reason : str
        For a person.
    status : {"active", "pending"}, optional
        Of the reference; only active ones are matched.
    own_norm_score : float, optional
        With the artist's other references, from the third on.
    warnings : tuple of str
        What a person should look at.
    similar_artist, similar_llr : str and float, or None
        Another enrolled artist that this recording scores at or above the threshold with: a warning.
    """

    path: str
    outcome: Literal["enrolled", "already_enrolled", "refused", "too_little_voice", "invalid"]
    reason: str
    duration_s: float | None = None
    voiced_s: float | None = None
    n_windows: int | None = None
    reference_id: int | None = None
    status: str | None = None
    own_norm_score: float | None = None
    warnings: tuple[str, ...] = ()
    similar_artist: str | None = None
    similar_llr: float | None = None


def list_recordings(patterns: Sequence[str]) -> list[Path]:
    """Files that are named, or lie in the folders named, or fit the globs given; each once, in order."""
    paths: dict[Path, None] = {}
    for pattern in patterns:
        if not pattern:  # Path takes it for the current folder
            raise RegistryError("a recording's name is empty; is a variable of the shell not set?")
        path = Path(pattern)
        # os.path, because Path's own raise where a folder may not be looked into, or a name is too long.
        if os.path.isdir(path):  # noqa: PTH112
            found = find_recordings(path)
        elif os.path.exists(path) or not (matched := glob(pattern, recursive=True)):  # noqa: PTH110, PTH207
            found = [path]
        else:
            found = [Path(p) for p in matched if not os.path.isdir(p)]  # noqa: PTH112
        paths.update(dict.fromkeys(sorted(found)))
    return list(paths)


def check_name(name: str) -> str:
    """An artist's name as it is stored (NFC, single spaces); raises `RegistryError` for one that cannot be shown."""
    name = re.sub(" +", " ", unicodedata.normalize("NFC", name).strip())
    if not name:
        raise RegistryError("the artist's name is empty")
    if len(name) > MAX_NAME_CHARACTERS:
        raise RegistryError(f"the artist's name has {len(name)} characters, at most {MAX_NAME_CHARACTERS} are kept")
    if hidden := sorted({name[i] for i in hidden_at(name)}):
        unnamed = {"Cc": "CONTROL CHARACTER", "Cs": "NOT UTF-8"}
        names = ", ".join(f"U+{ord(c):04X} {unicodedata.name(c, unnamed.get(unicodedata.category(c)))}" for c in hidden)
        raise RegistryError(f"the artist's name holds characters that cannot be shown ({names}); leave them out")
    if all(unicodedata.category(c)[0] in "MZ" or c in _BLANK for c in name):
        raise RegistryError("the artist's name has only accents or blanks; give it a letter, digit or symbol")
    return name


def enroll_recording(
    store: Store,
    encoder: Encoder,
    artist: str,
    path: Path,
    consent: Consent,
    *,
    decoder: Decoder | None = None,
    matcher: Matcher | None = None,
    force_reason: str | None = None,
    keep_audio: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Enrollment:
    """Enroll one recording for an artist.

    Parameters
    ----------
    artist : str
        As `check_name` gives it; added to the registry with its first recording.
    decoder : Decoder, optional
        What reads the file, as `embed_file` takes it.
    matcher : Matcher, optional
        The registry before this command, to warn of another artist with this voice, and to check that the recording
        holds one voice, and the artist's. Without one neither is done.
    force_reason : str, optional
        Enroll a recording although it is enrolled for another artist, holds two voices or is unlike the artist's other
        references; kept with it.
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
    seen = path.stat() if keep_audio and path.exists() else None
    try:
        voiceprint = embed_file(path, encoder, decoder=decoder, on_progress=on_progress)
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
    known = store.find_artist(artist)
    if known is not None:  # by another of its names, or written otherwise
        artist = store.name_of(known)
    found = _Consistency() if matcher is None else _check_voice(store, artist, voiceprint, matcher.cohort)
    try:
        forced = _refuse_known(store, artist, voiceprint.content_id, force_reason)  # before a copy is made
        if found.refusal is not None and force_reason is None:
            return Enrollment(path_text(path), "refused", found.refusal, **measured)
        with nullcontext((None, None)) if seen is None else kept_copy(store, path, seen) as (kept_path, kept_key):
            reference = Reference(
                reference_id=0,
                artist=artist,
                path=path_text(path.resolve()),
                kept_path=kept_path,
                content_id=voiceprint.content_id,
                **measured,
                consent=consent.ref,
                consent_expires_at=consent.expires_at,
                status="pending" if require_two_persons(store) else "active",
                enrolled_by=store.actor,
                approved_by=None,
                # The reason stands only where it was needed.
                force_reason=force_reason if forced or found.refusal is not None else None,
                own_norm_score=found.own_norm_score,
                added_at=now(),
            )
            with store.writing():
                _refuse_known(store, artist, voiceprint.content_id, force_reason)
                reference_id = _write(store, encoder, artist, consent, reference, kept_key, voiceprint)
    except RecordingChanged as error:
        return Enrollment(path_text(path), "invalid", str(error))
    except AlreadyEnrolled as error:
        if artist not in store.holders(voiceprint.content_id):
            return Enrollment(path_text(path), "refused", str(error), **measured)
        with store.writing():  # so that the same recording can renew a consent that has expired
            rights.add_consent(store, store.artist(artist).artist_id, consent)
        return Enrollment(path_text(path), "already_enrolled", str(error), **measured)
    return Enrollment(
        path_text(path),
        "enrolled",
        f"{voiceprint.voiced_s:.1f} s of voice in {len(voiceprint.vectors)} windows",
        reference_id=reference_id,
        status=reference.status,
        own_norm_score=found.own_norm_score,
        warnings=found.warnings if found.refusal is None else (f"enrolled by force although: {found.refusal}",),
        **measured,
        **_similar(matcher, voiceprint, artist),
    )


def _refuse_known(store: Store, artist: str, content_id: str, force_reason: str | None) -> bool:
    """Raise `AlreadyEnrolled` for a recording on record; returns whether it is another artist's and forced."""
    holders = store.holders(content_id)
    if artist in holders:
        raise AlreadyEnrolled(f"this recording is enrolled for {artist} already; nothing to do")
    if holders and force_reason is None:
        raise AlreadyEnrolled(
            f"this recording is enrolled for {', '.join(holders)}; --force REASON enrolls it for {artist} too"
        )
    return bool(holders)


def _write(
    store: Store,
    encoder: Encoder,
    artist: str,
    consent: Consent,
    reference: Reference,
    kept_key: bytes | None,
    voice: Voiceprint,
) -> int:
    """Everything of one reference, inside one transaction, so that a crash leaves all of it or nothing."""
    store.bind_encoder(encoder)
    artist_id = store.add_artist(artist)
    consent_id = rights.add_consent(store, artist_id, consent)
    times = np.column_stack([voice.start_s, voice.end_s])
    reference_id = store.add_reference(reference, consent_id, voice.vectors, times, kept_key=kept_key)
    payload = {
        name: getattr(reference, name) for name in ("path", "content_id", "status", "force_reason", "own_norm_score")
    }
    audit.append(store, "reference.enroll", {"reference_id": reference_id, **payload}, artist_id=artist_id)
    condense_artist(store, artist_id)
    return reference_id


@dataclass(frozen=True)
class _Consistency:
    """Whether a recording holds one voice, and the artist's: what speaks against it, and what else is to be said."""

    refusal: str | None = None
    warnings: tuple[str, ...] = ()
    own_norm_score: float | None = None


def _check_voice(store: Store, artist: str, voice: Voiceprint, cohort: CohortModel) -> _Consistency:
    """Does a recording hold one voice, and that of the artist's other references?"""
    second = find_second_voice(voice.vectors, voice.start_s, voice.end_s, cohort)
    if second is not None:
        where = ", ".join(f"{clock(start_s)} to {clock(end_s)}" for start_s, end_s in second.stretches[:5])
        more = "" if len(second.stretches) <= 5 else f" and {len(second.stretches) - 5} more"
        return _Consistency(
            f"two voices: the one at {where}{more} has norm score {second.norm_score:.2f} with the rest, at least "
            f"{second.floor:.2f} is expected of one voice. Cut it, or give --force REASON"
        )
    artist_id = store.find_artist(artist)
    others = [] if artist_id is None else store.reference_windows(artist_id, status=None)
    if len(others) < 2:
        return _Consistency()
    references = [*(vectors for _, vectors, _ in others), voice.vectors]
    scores, floors = own_norm_scores(references, cohort), reference_floors(references)
    own = round(float(scores[-1]), 3)
    expected = f"with {artist}'s other references, at least {{:.2f}} is expected of one voice"
    if scores[-1] < floors[-1]:
        # Of three it need not be the newest that is another voice.
        rest = f" (its other two score {scores[0]:.2f} and {scores[1]:.2f} with the rest)" if len(others) == 2 else ""
        why = (
            f"another voice: norm score {own:.2f} {expected.format(floors[-1])}{rest}. If it is {artist}, perhaps in "
            "another style (spoken among sung), give --force REASON"
        )
        return _Consistency(why, own_norm_score=own)
    # The third is the first that the other two can be checked with.
    odd = np.flatnonzero(scores[:-1] < floors[:-1]) if len(others) == 2 else ()
    return _Consistency(
        warnings=tuple(
            f"reference {others[i][0]}: norm score {scores[i]:.2f} {expected.format(floors[i])}; listen to it, and if "
            f"it is somebody else `likeness artists remove` it with --reference {others[i][0]}"
            for i in odd
        ),
        own_norm_score=own,
    )


def _similar(matcher: Matcher | None, voiceprint: Voiceprint, artist: str) -> dict[str, Any]:
    """The other artist that a voice is most like, if it is like one beyond the threshold."""
    if matcher is None:
        return {}
    others = [match for match in matcher.match(voiceprint) if match.artist != artist]
    if not others or not others[0].flagged:
        return {}
    return {"similar_artist": others[0].artist, "similar_llr": others[0].llr}
