"""`likeness doctor`."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from importlib import metadata
from pathlib import Path

import click

from registry.cli.common import format_option, home_option, open_registry, write_rows


@click.command()
@home_option
@format_option
def doctor(home: Path, output_format: str) -> None:
    """Check that this installation gives the numbers it should: packages, the home's disk, model files, golden vectors.

    Exits 1 if something is wrong.

    \b
    Example:
      likeness doctor
    """
    findings = [_python(), *_shadowed(), *_packages(), _media(), *_home(home), *_encoder(home)]
    rows = [{"ok": ok, "what": what, "finding": finding} for ok, what, finding in findings]
    write_rows(
        [{**row, "ok": "yes" if row["ok"] else "NO"} for row in rows] if output_format == "table" else rows,
        output_format,
        ["ok", "what", "finding"],
    )
    if not all(ok for ok, _, _ in findings):
        raise click.exceptions.Exit(1)


Finding = tuple[bool, str, str]

#: File systems on which SQLite's log and locks do not hold, for they lie on another machine or are shared with one
#: (https://sqlite.org/wal.html: "all processes using a database must be on the same host computer").
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs"),
    *("ocfs2", "gfs2", "davfs", "vboxsf", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.rclone", "fuse.s3fs"),
    *("fuse.gcsfuse", "fuse.juicefs", "fuse.vmhgfs-fuse"),
}
#: Bytes below which a disk is called full; a removal, a purge and a restore write the database anew beside itself.
LEAST_FREE_BYTES = 10**9


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


def _home(home: Path) -> list[Finding]:
    from registry.status import size_text
    from registry.store import DATABASE

    place = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(place).free, LEAST_FREE_BYTES
    if (home / DATABASE).is_file():
        needed = max(needed, 2 * (home / DATABASE).stat().st_size)
    findings = [
        _file_system(place),
        (
            free >= needed,
            "free space",
            f"{size_text(free)} on the disk of {home}"
            + ("" if free >= needed else f", at least {size_text(needed)} is needed; free some"),
        ),
    ]
    if home.is_dir():
        mode = stat.S_IMODE(home.stat().st_mode)
        fix = "" if mode & 0o077 == 0 else f": others get at voiceprints; run `chmod 700 {home}`"
        findings.append((not fix, "home's mode", f"{mode:03o}{fix}"))
    return findings


def _file_system(place: Path) -> Finding:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return True, "file system", "not known on this system; the home must not lie on a network file system"
    mount_point, kind = file_system_of(place, mounts)
    if kind not in NETWORK_FILE_SYSTEMS:
        return True, "file system", kind
    return (
        False,
        "file system",
        f"{kind} at {mount_point}: a network file system, on which SQLite's log does not work and a registry gets "
        "damaged; move the home to a disk of this machine (backups may lie there)",
    )


def file_system_of(path: Path, mounts: str) -> tuple[str, str]:
    """The mount point and type of the file system that a path lies on.

    Parameters
    ----------
    path : Path
        Of something that exists.
    mounts : str
        As /proc/self/mountinfo has it: a line per mount, later ones over earlier ones (proc(5)).
    """
    found = ("/", "unknown")
    real = os.path.realpath(path)
    for line in mounts.splitlines():
        mount, _, system = line.partition(" - ")
        # Blanks, tabs, line ends and backslashes stand there as octal numbers.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split(" ")[4])
        inside = point == "/" or real == point or real.startswith(f"{point}/")
        if inside and len(point) >= len(found[0]):
            found = point, system.split(" ")[0]
    return found


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
