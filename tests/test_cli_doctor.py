from __future__ import annotations

import base64
import json
import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from embeddings.errors import ModelDamaged
from embeddings.selftest import write_golden
from registry.cli.doctor import NETWORK_FILE_SYSTEMS, file_system_of
from tests.cli_fakes import DIM, Cli, FakeEncoder

pytest_plugins = ["tests.cli_fixtures"]


def findings(cli: Cli) -> tuple[int, dict[str, tuple[bool, str]]]:
    result = cli("doctor", "--json")
    assert result.stderr == ""
    return result.exit_code, {row["what"]: (row["ok"], row["finding"]) for row in json.loads(result.stdout)}


def test_doctor_finds_nothing_wrong_here(cli):
    code, found = findings(cli)

    assert code == 0
    assert all(ok for ok, _ in found.values())
    assert found["torch"] == (True, metadata.version("torch"))
    assert found["package registry"] == (True, "provided by likeness alone")
    assert found["golden vectors"][1].startswith("no golden vectors beside this model")
    table = cli("doctor").stdout.splitlines()
    assert table[0].split() == ["ok", "what", "finding"]
    assert {row.split()[0] for row in table[2:]} == {"yes"}


def test_doctor_needs_no_registry(cli):
    assert cli("doctor", "--home", cli.folder / "nowhere").exit_code == 0
    assert not (cli.folder / "nowhere").exists()


@pytest.mark.parametrize("package", ["registry", "embeddings"])
def test_another_distribution_with_our_package_names_is_named(cli, monkeypatch, package):
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {package: ["likeness", "py-registry"]})

    code, found = findings(cli)

    assert code == 1
    ok, finding = found[f"package {package}"]
    assert not ok
    assert "also provided by py-registry; uninstall it" in finding


def test_a_package_that_is_missing_is_named_unless_it_is_optional(cli, monkeypatch):
    def version(name: str, real=metadata.version) -> str:
        if name in ("soxr", "av"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)

    code, found = findings(cli)

    assert code == 1
    assert found["soxr"] == (False, "not installed; `pip install likeness` brings it")
    assert found["av"][0]
    assert "likeness[media]" in found["av"][1]


@pytest.mark.parametrize("harm", [None, "another model", "other numbers"])
def test_golden_vectors_are_compared(cli, model, harm):
    """A wrong resampler or a changed default shows nowhere but here."""
    directory = shutil.copytree(model, cli.folder / "model")
    encoder = FakeEncoder(directory)
    write_golden(encoder, directory)
    golden = json.loads((directory / "golden.json").read_text())
    if harm == "another model":
        golden["encoder_id"] = "b" * 64
    elif harm == "other numbers":
        vectors = np.eye(DIM, dtype="<f4")[np.zeros(len(golden["start_s"]), int)]
        golden["vectors"] = base64.b64encode(vectors.tobytes()).decode()
    (directory / "golden.json").write_text(json.dumps(golden))
    cli("init", "--encoder", directory, "--trust-model")

    code, found = findings(cli)

    assert (code, found["golden vectors"][0]) == ((0, True) if harm is None else (1, False))


def test_an_encoder_that_does_not_load_is_a_finding(cli, monkeypatch):
    def load(*_: object, **__: object) -> None:
        raise ModelDamaged("house/model.ckpt: sha256 is 0, published was 1; reinstall likeness")

    monkeypatch.setattr("registry.config.load_encoder", load)

    code, found = findings(cli)

    assert code == 1
    assert found["encoder"] == (False, "house/model.ckpt: sha256 is 0, published was 1; reinstall likeness")
    assert "golden vectors" not in found


MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
41 27 0:38 / /srv rw,relatime shared:1 master:2 - xfs /dev/vdb rw
42 41 0:39 / /srv/likeness rw,relatime - nfs4 server:/export rw,vers=4.2
43 27 0:40 / /mnt/with\040blank rw - fuse.sshfs user@host: rw
44 27 0:41 / /mnt/twice rw - cifs //server/share rw
45 44 0:42 / /mnt/twice rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/user/.likeness", ("/", "ext4")),
        ("/srv", ("/srv", "xfs")),
        ("/srv/likeness", ("/srv/likeness", "nfs4")),
        ("/srv/likeness/home", ("/srv/likeness", "nfs4")),
        ("/srv/likeness-2", ("/srv", "xfs")),  # begins alike, and lies elsewhere
        ("/mnt/with blank/home", ("/mnt/with blank", "fuse.sshfs")),
        ("/mnt/twice/home", ("/mnt/twice", "tmpfs")),  # the later mount hides the earlier
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_longest_mount_point(path, found):
    assert file_system_of(Path(path), MOUNTS) == found


def test_the_file_system_of_a_link_is_that_of_where_it_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    mounts = f"27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:1 / {tmp_path}/disk rw - nfs server:/ rw\n"

    assert file_system_of(tmp_path / "link", mounts) == (f"{tmp_path}/disk", "nfs")


def test_a_home_on_a_network_file_system_is_named_with_what_to_do(cli, monkeypatch):
    monkeypatch.setattr("registry.cli.doctor.file_system_of", lambda path, mounts: ("/srv", "nfs4"))

    code, found = findings(cli)

    assert code == 1
    assert found["file system"] == (
        False,
        "nfs4 at /srv: a network file system, on which SQLite's log does not work and a registry gets damaged; "
        "move the home to a disk of this machine (backups may lie there)",
    )
    assert "ext4" not in NETWORK_FILE_SYSTEMS


def test_a_disk_that_is_almost_full_is_named(cli, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 5 * 10**8))

    code, found = findings(cli)

    assert code == 1
    assert found["free space"] == (
        False,
        f"500.0 MB on the disk of {cli.home}, at least 1.0 GB is needed; free some",
    )


def test_a_home_that_others_may_read_is_named(cli):
    cli.home.chmod(0o750)

    code, found = findings(cli)

    assert code == 1
    assert found["home's mode"] == (False, f"750: others get at voiceprints; run `chmod 700 {cli.home}`")


@pytest.mark.model
def test_the_built_in_encoder_gives_its_golden_vectors(tmp_path, monkeypatch):
    monkeypatch.delenv("LIKENESS_HOME", raising=False)
    cli = Cli(tmp_path, tmp_path, lambda: np.empty(0))

    code, found = findings(cli)

    assert code == 0
    assert found["encoder"][1].startswith("house, ")
    assert found["golden vectors"][1].startswith("lowest cosine with the golden vectors ")
