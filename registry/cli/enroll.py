"""`likeness enroll`."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli.common import (
    EXIT_SKIPPED,
    as_option,
    format_option,
    home_option,
    max_hours_option,
    note,
    open_registry,
    progress_bar,
    warn,
    write_rows,
)


def _check_reason(context: click.Context, parameter: click.Parameter, reason: str | None) -> str | None:
    # Where it was forgotten, click takes the option that comes next for it.
    if reason is not None and (not reason.strip() or reason.startswith("-")):
        raise click.BadParameter(f"{reason!r} is no reason; say in a few words why, such as --force 'a duet'")
    return reason


COLUMNS = ("outcome", "path", "voiced_s", "duration_s", "n_windows", "reason")


@click.command()
@click.argument("artist")
@click.argument("recordings", nargs=-1, required=True)
@home_option
@format_option
@max_hours_option
@click.option("--consent", "consent_ref", help="The release this rests on: a contract number, a form. Required.")
@click.option("--consent-expires", metavar="DATE", help="When the consent ends, such as 2027-12-31.")
@click.option(
    "--force",
    "force_reason",
    metavar="REASON",
    callback=_check_reason,
    help="Enroll also what is enrolled for another artist, holds two voices, or is unlike the artist's other "
    "references; REASON is kept with it.",
)
@as_option
@click.option("--keep-audio", is_flag=True, help="Copy the recordings into the registry's folder (mode 0600).")
def enroll(
    artist: str,
    recordings: tuple[str, ...],
    home: Path,
    output_format: str,
    max_hours: float,
    consent_ref: str | None,
    consent_expires: str | None,
    force_reason: str | None,
    keep_audio: bool,
) -> None:
    """Enroll RECORDINGS of ARTIST: files, folders or quoted globs of that one voice, without accompaniment if possible.

    A minute of voice in three or more recordings is a good start. A recording that cannot be used is reported and
    skipped, and the exit code is then 3. Another enrolled artist with such a voice is warned of on stderr.

    \b
    Examples:
      likeness enroll "Ada Vale" ada/*.wav --consent release-2026-014
      likeness enroll "Ada Vale" ada/ --consent form-7.pdf --consent-expires 2027-12-31 --keep-audio
    """
    from contextlib import closing
    from dataclasses import asdict

    from embeddings.limits import Limits
    from embeddings.workers import ChildDecoder
    from registry.config import load_encoder
    from registry.enroll import Enrollment, check_name, enroll_recording, list_recordings
    from registry.errors import NoThreshold, RegistryError
    from registry.lookalikes import lookalikes_of
    from registry.match import Matcher, write_store_index
    from registry.rights import check_consent
    from registry.standing import collision_warnings, expected_text, find_standing

    name, consent = check_name(artist), check_consent(consent_ref, consent_expires)
    paths = list_recordings(recordings)
    if not paths:
        raise click.UsageError(f"no recordings in {', '.join(recordings)}; name audio files or folders that hold some")
    outcomes: list[Enrollment] = []
    standing = None
    with open_registry(home, create=True) as store:
        encoder = load_encoder(store)
        store.check_encoder(encoder.encoder_id)
        known = store.find_artist(name)
        noted = [] if known is None else [lookalike.artist for lookalike in lookalikes_of(store, known)]
        try:
            matcher = Matcher(store, encoder, note)
        except NoThreshold as error:
            matcher = None
            note(f"likenesses to other artists are not looked for: {error}")
        limits = Limits(max_hours=max_hours)
        with closing(ChildDecoder(encoder, limits)) as decoder, progress_bar("recordings") as progress:
            task = progress.add_task(f"enrolling {name}", total=len(paths), note="")

            def show_read(read_s: float) -> None:
                progress.update(task, note=f"({read_s:.0f} s read)")

            for path in paths:
                try:
                    outcome = enroll_recording(
                        store,
                        encoder,
                        name,
                        path,
                        consent,
                        decoder=decoder,
                        matcher=matcher,
                        force_reason=force_reason,
                        keep_audio=keep_audio,
                        on_progress=show_read,
                    )
                except RegistryError:
                    if outcomes:
                        n = sum(done.outcome == "enrolled" for done in outcomes)
                        note(f"{n} of {len(paths)} recordings were enrolled before the next one failed")
                        write_rows([asdict(outcome) for outcome in outcomes], output_format, COLUMNS)
                        write_store_index(store, note)
                    raise
                outcomes.append(outcome)
                progress.advance(task)
                for warning in outcome.warnings:
                    warn(f"{path}: {warning}")
                if outcome.similar_artist is not None and outcome.similar_artist not in noted and matcher is not None:
                    warn(
                        f"{path}: sounds like {outcome.similar_artist} "
                        f"(log10 likelihood ratio {outcome.similar_llr:.2f}, threshold {matcher.threshold.llr:.2f}); "
                        "the same person under two names, or two alike voices?"
                    )
        write_store_index(store, note)
        enrolled = None if store.find_artist(name) is None else store.artist(name)
        if enrolled is not None and any(outcome.outcome == "enrolled" for outcome in outcomes):
            standing = find_standing(store, enrolled, encoder)
    write_rows([asdict(outcome) for outcome in outcomes], output_format, COLUMNS)
    if enrolled is not None:
        note(
            f"{enrolled.name}: {enrolled.n_references} references, {enrolled.voiced_s:.0f} s of voice, "
            f"{enrolled.n_templates} templates on record"
        )
        if standing is not None:
            said = {outcome.similar_artist for outcome in outcomes}
            for warning in collision_warnings(enrolled.name, standing, said):
                warn(warning)
            for line in filter(None, (expected_text(standing), *standing.what_would_help)):
                note(line)
            if standing.missing and matcher is not None:
                note(f"whom {enrolled.name} sounds like was not looked for: {standing.missing}")
        if enrolled.n_pending:
            note(
                f"{enrolled.n_pending} references are pending and not matched until somebody else approves them: "
                f'`likeness artists approve "{enrolled.name}"`'
            )
    if any(outcome.outcome not in ("enrolled", "already_enrolled") for outcome in outcomes):
        raise click.exceptions.Exit(EXIT_SKIPPED)
