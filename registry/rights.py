"""Consents: leave to keep and match an artist's voice, from whom, until when. Withdrawal and expiry work at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from registry import audit
from registry.errors import ConsentMissing, RegistryError
from registry.records import Consent, ConsentRecord, storable
from registry.store import Store, now


def check_consent(ref: str | None, expires: str | None) -> Consent:
    """The consent that an enrolment rests on; raises `ConsentMissing` when there is none, or it is over.

    A day as its end is in it, to midnight UTC.
    """
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
        if ":" not in expires:
            end += timedelta(days=1, seconds=-1)
    except (ValueError, OverflowError) as error:
        raise ConsentMissing(f"consent until {expires}: not a date such as 2027-12-31") from error
    if end <= datetime.now(UTC):
        raise ConsentMissing(f"consent until {expires}: that has passed; nothing was recorded")
    return Consent(ref, end.strftime("%Y-%m-%dT%H:%M:%SZ"))


def add_consent(store: Store, artist_id: int, consent: Consent, *, renew: bool = False) -> int:
    """Record a consent, or find the same one again while it is in force; call inside `store.writing`.

    Parameters
    ----------
    renew : bool
        Take a release that was withdrawn again. An enrolment must not, for it may be a script that runs every night.

    Raises
    ------
    ConsentMissing
        The release was withdrawn, and is not to be renewed.
    """
    rows = store.rows("SELECT * FROM consents WHERE artist_id = ? ORDER BY consent_id DESC", [artist_id])
    same = [row for row in rows if store.unseal_text(artist_id, row["ref"], "consent") == consent.ref]
    in_force = [
        row for row in same if row["withdrawn_at"] is None and (row["expires_at"] is None or row["expires_at"] > now())
    ]
    for row in in_force:
        # Named again without an end, it ends when it did.
        if consent.expires_at in (None, row["expires_at"]):
            return int(row["consent_id"])
    if same and not in_force and same[0]["withdrawn_at"] is not None and not renew:
        raise ConsentMissing(
            f"consent {consent.ref}: was withdrawn on {same[0]['withdrawn_at']}; name another release, or record it "
            "again with `likeness consents add`"
        )
    row = {"artist_id": artist_id, "ref": store.seal_text(artist_id, consent.ref, "consent")}
    consent_id = store.insert("consents", {**row, "expires_at": consent.expires_at, "recorded_at": now()})
    audit.append(store, "consent.add", {"ref": consent.ref, "expires_at": consent.expires_at}, artist_id=artist_id)
    return consent_id


def consents(store: Store, artist: str | None = None) -> list[ConsentRecord]:
    """The consents of one artist, or of all, oldest first."""
    artist_id = None if artist is None else store.artist(artist).artist_id
    rows = store.rows(
        "SELECT consent_id, artist_id, ref, recorded_at, expires_at, withdrawn_at, "
        "withdrawn_at IS NULL AND (expires_at IS NULL OR expires_at > ?) AS in_force "
        # Of an artist who was merged into another, that one has copies.
        "FROM consents JOIN artists USING (artist_id) WHERE merged_into IS NULL AND artist_id = COALESCE(?, artist_id) "
        "ORDER BY consent_id",
        [now(), artist_id],
    )
    found = []
    for row in rows:
        artist_id = row.pop("artist_id")
        ref = store.unseal_text(artist_id, row.pop("ref"), "consent")
        found.append(
            ConsentRecord(**{**row, "in_force": bool(row["in_force"])}, ref=ref, artist=store.name_of(artist_id))
        )
    return found


def withdraw_consent(store: Store, artist: str, ref: str | None = None) -> int:
    """Withdraw an artist's consents, or the one called `ref`; from now on they cover nothing. Returns how many.

    Raises
    ------
    RegistryError
        No consent in force, or none called so.
    """
    ref = None if ref is None else storable(ref.strip())  # as it was recorded
    with store.writing():
        summary = store.artist(artist)
        open_ones = [record for record in consents(store, artist) if record.in_force]
        chosen = [record for record in open_ones if ref is None or record.ref == ref]
        if not chosen:
            known = ", ".join(record.ref for record in open_ones) or "none"
            which = "no consent" if ref is None else f"no consent {ref}"
            raise RegistryError(f"{artist}: {which} is in force (in force: {known}); nothing to withdraw")
        for record in chosen:
            store.db.table("consents").update(record.consent_id, {"withdrawn_at": now()})
            _withdraw_originals(store, summary.artist_id, record)
            audit.append(store, "consent.withdraw", {"ref": record.ref}, artist_id=summary.artist_id)
    return len(chosen)


def _withdraw_originals(store: Store, artist_id: int, record: ConsentRecord) -> None:
    """Withdraw what a merge made a copy of, for a backup from before it has only that."""
    for merged_id in store.with_merged(artist_id):
        for row in store.rows(
            "SELECT consent_id, ref FROM consents WHERE artist_id = ? AND recorded_at = ? AND withdrawn_at IS NULL",
            [merged_id, record.recorded_at],
        ):
            if merged_id != artist_id and store.unseal_text(merged_id, row["ref"], "consent") == record.ref:
                store.db.table("consents").update(row["consent_id"], {"withdrawn_at": now()})


def count_matched(store: Store) -> int:
    """How many artists are matched now: those with templates, and a consent in force."""
    rows = store.rows("SELECT DISTINCT artist_id FROM templates")
    return len({row["artist_id"] for row in rows} - store.without_consent().keys())
