"""`likeness doctor`."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import click

from registry.cli.common import format_option, home_option, open_registry, write_rows


@click.command()
@home_option
@format_option
def doctor(home: Path, output_format: str) -> None:
    """Check that this installation gives the numbers it should: packages, model files, golden vectors.

    Exits 1 if something is wrong.

    \b
    Example:
      likeness doctor
    """
    findings = [_python(), *_shadowed(), *_packages(), _media(), *_encoder(home)]
    rows = [{"ok": ok, "what": what, "finding": finding} for ok, what, finding in findings]
    write_rows(
        [{**row, "ok": "yes" if row["ok"] else "NO"} for row in rows] if output_format == "table" else rows,
        output_format,
        ["ok", "what", "finding"],
    )
    if not all(ok for ok, _, _ in findings):
        raise click.exceptions.Exit(1)


Finding = tuple[bool, str, str]


def _python() -> Finding:
    return sys.version_info >= (3, 11), "python", f"{sys.version.split()[0]}, at least 3.11 is needed"


def _shadowed() -> list[Finding]:
    """`registry` and `embeddings` are common names: does another distribution bring a package called so?"""
    owners = metadata.packages_distributions()
    findings = []
    for package in ("registry", "embeddings"):
        others = sorted(set(owners.get(package, [])) - {"likeness"})
        finding = f"also provided by {', '.join(others)}; uninstall it, or install likeness in a venv of its own"
        findings.append((not others, f"package {package}", finding if others else "provided by likeness alone"))
    return findings


def _packages() -> list[Finding]:
    findings = []
    for name in ("speechbrain", "torch", "torchaudio", "faiss-cpu", "numpy", "sqlite-utils", "soundfile", "soxr"):
        try:
            findings.append((True, name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            findings.append((False, name, "not installed; `pip install likeness` brings it"))
    return findings


def _media() -> Finding:
    try:
        return True, "av", f"{metadata.version('av')}: M4A, AAC and MP4 can be read"
    except metadata.PackageNotFoundError:
        return True, "av", "not installed: M4A, AAC and MP4 cannot be read; `pip install 'likeness[media]'` brings it"


def _encoder(home: Path) -> list[Finding]:
    from embeddings.encoder import SpeechBrainEncoder
    from embeddings.errors import EmbeddingError
    from embeddings.selftest import run_selftest
    from registry.config import load_encoder
    from registry.errors import RegistryError
    from registry.store import DATABASE

    try:
        if (home / DATABASE).is_file():
            with open_registry(home) as store:
                encoder = load_encoder(store)
                store.check_encoder(encoder.encoder_id)
        else:
            encoder = SpeechBrainEncoder()
        test = run_selftest(encoder)
    except (EmbeddingError, RegistryError) as error:
        return [(False, "encoder", str(error))]
    return [
        (True, "encoder", f"{encoder.source}, {encoder.encoder_id[:12]}"),
        (test.passed, "golden vectors", test.message),
    ]
