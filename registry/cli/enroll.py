"""`likeness enroll`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import (
    EXIT_SKIPPED,
    format_option,
    home_option,
    note,
    open_registry,
    progress_bar,
    write_rows,
)


@click.command()
@click.argument("artist")
@click.argument("recordings", nargs=-1, required=True)
@home_option
@format_option
@click.option("--consent", "consent_ref", help="The release this rests on: a contract number, a form. Required.")
@click.option("--consent-expires", metavar="DATE", help="When the consent ends, such as 2027-12-31.")
@click.option("--force", is_flag=True, help="Enroll a recording that is enrolled for another artist already.")
@click.option("--keep-audio", is_flag=True, help="Copy the recordings into the registry's folder (mode 0600).")
def enroll(
    artist: str,
    recordings: tuple[str, ...],
    home: Path,
    output_format: str,
    consent_ref: str | None,
    consent_expires: str | None,
    force: bool,
    keep_audio: bool,
) -> None:
    """Enroll RECORDINGS of ARTIST: files, folders or quoted globs of that one voice, without accompaniment if possible.

    A minute of voice in three or more recordings is a good start. A recording that cannot be used is reported and
    skipped, and the exit code is then 3.

    \b
    Examples:
      likeness enroll "Ada Vale" ada/*.wav --consent release-2026-014
      likeness enroll "Ada Vale" ada/ --consent form-7.pdf --consent-expires 2027-12-31 --keep-audio
    """
    from dataclasses import asdict

    from registry.config import load_encoder
    from registry.enroll import check_consent, check_name, enroll_recording, list_recordings
    from registry.errors import NoThreshold
    from registry.match import Matcher, write_store_index

    name, consent = check_name(artist), check_consent(consent_ref, consent_expires)
    paths = list_recordings(recordings)
    if not paths:
        raise click.UsageError(f"no recordings in {', '.join(recordings)}; name audio files or folders that hold some")
    outcomes = []
    with open_registry(home, create=True) as store:
        encoder = load_encoder(store)
        store.check_encoder(encoder.encoder_id)
        try:
            matcher = Matcher(store, encoder, note)
        except NoThreshold as error:
            matcher = None
            note(f"likenesses to other artists are not looked for: {error}")
        with progress_bar("recordings") as progress:
            task = progress.add_task(f"enrolling {name}", total=len(paths), note="")

            def show_read(read_s: float) -> None:
                progress.update(task, note=f"({read_s:.0f} s read)")

            for path in paths:
                outcome = enroll_recording(
                    store,
                    encoder,
                    name,
                    path,
                    consent,
                    matcher=matcher,
                    force=force,
                    keep_audio=keep_audio,
                    on_progress=show_read,
                )
                outcomes.append(outcome)
                progress.advance(task)
                if outcome.similar_artist is not None and matcher is not None:
                    note(
                        f"warning: {path}: sounds like {outcome.similar_artist} "
                        f"(norm score {outcome.similar_norm_score:.2f}, threshold {matcher.threshold:.2f}); "
                        "the same person under two names, or two alike voices?"
                    )
        write_store_index(store, note)
        enrolled = [artist for artist in store.artists() if artist.name == name]
    columns = ["outcome", "path", "voiced_s", "duration_s", "n_windows", "reason"]
    write_rows([asdict(outcome) for outcome in outcomes], output_format, columns)
    if enrolled:
        on_record = enrolled[0]
        note(
            f"{name}: {on_record.n_references} references, {on_record.voiced_s:.0f} s of voice, "
            f"{on_record.n_templates} templates on record"
        )
    if any(outcome.outcome not in ("enrolled", "already_enrolled") for outcome in outcomes):
        raise click.exceptions.Exit(EXIT_SKIPPED)
