from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from embeddings.model_dir import HOUSE_DIR, HUB_REVISIONS, licence_of, model_digest
from registry import audit
from registry.config import encoder_source
from tests.cli_fakes import ENCODER_ID, OTHER_ENCODER_ID, REPO, check_units

pytest_plugins = ["tests.cli_fixtures"]

ECAPA = "speechbrain/spkrec-ecapa-voxceleb"
COMMIT = HUB_REVISIONS[ECAPA]


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_in_cache(hub: Path, model: Path) -> Path:
    snapshot = hub / f"models--{ECAPA.replace('/', '--')}" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in model.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    return snapshot


def listed(cli) -> dict[str, dict[str, object]]:
    result = cli("models", "list", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = json.loads(result.stdout)
    check_units(rows)
    return {row["model"]: row for row in rows}


# --- list ---


def test_the_list_has_what_is_built_in_known_and_used(enrolled, model):
    rows = listed(enrolled)

    house = json.loads((HOUSE_DIR / "calibration.json").read_text())["encoder_id"]
    assert list(rows) == ["house", ECAPA, str(model)]
    assert rows["house"] == {
        **{"model": "house", "use": None, "is_here": True, "is_trusted": True, "encoder_id": house, "dim": 192},
        **{"size_bytes": rows["house"]["size_bytes"], "licence": "Apache-2.0", "digest": model_digest(HOUSE_DIR)},
        **{"commit": None, "problem": None},
    }
    assert rows[ECAPA] == {
        **{"model": ECAPA, "use": None, "is_here": False, "is_trusted": False, "encoder_id": None, "dim": None},
        **{"size_bytes": None, "licence": None, "digest": None, "commit": COMMIT},
        "problem": f"{ECAPA}: not on this machine; `likeness models fetch {ECAPA}` gets it",
    }
    assert (rows[str(model)]["use"], rows[str(model)]["is_trusted"], rows[str(model)]["encoder_id"]) == (
        *("in use", True),
        ENCODER_ID,
    )


def test_the_list_says_what_is_prepared_and_what_was_used_before(enrolled, model, other_model, tmp_path):
    gone = enrolled.folder / "Ada/song-1.wav"
    gone.rename(tmp_path / "gone.wav")
    enrolled("reembed", "--encoder", other_model, "--trust-model")
    prepared = {name: row["use"] for name, row in listed(enrolled).items()}
    enrolled("reembed", "--leave-out")

    assert prepared == {"house": None, ECAPA: None, str(model): "in use", str(other_model): "prepared"}
    rows = listed(enrolled)
    assert {name: row["use"] for name, row in rows.items()} == {
        **{"house": None, ECAPA: None, str(other_model): "in use", str(model): "used before"},
    }
    assert (rows[str(other_model)]["encoder_id"], rows[str(other_model)]["dim"]) == (OTHER_ENCODER_ID, 12)


def test_a_model_that_was_allowed_and_is_gone_is_listed_by_its_digest(cli, model):
    with cli.store() as store, store.writing():
        store.set_setting("trusted_models", [model_digest(model), "0" * 64])

    rows = json.loads(cli("models", "list", "--json").stdout)

    assert [(row["model"], row["digest"], row["is_trusted"]) for row in rows if row["digest"] == "0" * 64] == [
        (None, "0" * 64, True)
    ]


def test_the_list_needs_no_registry_and_a_person_reads_a_table(cli, tmp_path):
    result = cli("models", "list", "--home", tmp_path / "nowhere")

    head, _, house, ecapa = result.stdout.splitlines()
    assert head.split() == ["model", "use", "is_here", "is_trusted", "encoder_id", "dim", "size", "licence"]
    assert house.split()[:4] == ["house", "yes", "yes", listed(cli)["house"]["encoder_id"][:12]]
    assert ecapa.split() == [ECAPA, "no", "no"]
    assert not (tmp_path / "nowhere").exists()


# --- show ---


def test_show_tells_what_lies_in_the_directory(enrolled, model):
    (found,) = json.loads(enrolled("models", "show", model, "--json").stdout)

    check_units(found)
    calibration = json.loads((model / "calibration.json").read_text())
    assert found == {
        **{"model": str(model), "use": "in use", "is_trusted": True, "encoder_id": ENCODER_ID, "dim": 16},
        **{"size_bytes": found["size_bytes"], "licence": None, "digest": model_digest(model), "commit": None},
        **{"directory": str(model), "cohort_id": calibration["cohort_id"], "n_cohort_vectors": 20},
        **{"n_cohort_persons": 20, "calibration": "made up for tests"},
        **{"has_golden": False, "card": None},
    }


def test_show_prints_the_card_for_a_person(cli):
    result = cli("models", "show", "house")

    assert (result.exit_code, result.stderr) == (0, "")
    card = (HOUSE_DIR / "README.md").read_text(encoding="utf-8")
    table, _, shown = result.stdout.partition("\n\n")
    assert shown.splitlines() == card.rstrip().splitlines()
    values = {line.split()[0]: line.split(maxsplit=1)[1] for line in table.splitlines()[2:]}
    calibration = json.loads((HOUSE_DIR / "calibration.json").read_text())
    assert (values["model"], values["licence"], values["calibration"]) == (
        *("house", "Apache-2.0"),
        calibration["source"],
    )


def test_a_hostile_card_cannot_reach_the_terminal(cli, tmp_path, model):
    copy = tmp_path / "hostile"
    copy.mkdir()
    (copy / "hyperparams.yaml").write_text("")
    (copy / "README.md").write_text("# \x1b[2Jgone\nlicense: \x1b[31mmine\n")

    result = cli("models", "show", copy)

    assert result.exit_code == 0
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ECAPA, f"{ECAPA}: not on this machine; `likeness models fetch {ECAPA}` gets it"),
        ("nowhere", "nowhere: neither a directory nor a hub id such as speechbrain/spkrec-ecapa-voxceleb"),
    ],
)
def test_a_model_that_is_not_here_is_not_shown(cli, source, message):
    result = cli("models", "show", source)

    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_show_and_list_do_not_wait_for_torch(tmp_path):
    code = "import sys; from registry.cli import main; main(sys.argv[1:], standalone_mode=False); "
    code += "sys.exit(', '.join({'torch', 'speechbrain'} & set(sys.modules)) or 0)"
    for words in (["models", "list"], ["models", "show", "house"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *words, "--home", tmp_path],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\nMIT\n", "apache-2.0"),
        ('---\nlicense: "cc-by-4.0"\n---\n', "cc-by-4.0"),
        ("# A model\n\nSmall. Licence: MIT\n", "MIT"),
        ("# A model\n\nSmall and new. MIT.\n\n## Data\nCC-BY-SA-4.0\n", "MIT"),
        ("# A model\n\n## Data\nCC-BY-SA-4.0\n", None),
        ("# A model\nCC-BY-NC-4.0, ask us\n", "CC-BY-NC-4.0"),
        ("", None),
    ],
)
def test_the_licence_is_the_cards_own_not_its_datas(card, licence):
    assert licence_of(card) == licence


# --- fetch ---


def test_without_a_network_fetch_says_what_to_do(cli):
    result = cli("models", "fetch", ECAPA)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {ECAPA}@{COMMIT}: not on this machine, and the hub could not be reached (LocalEntryNotFoundError). "
        f"Where there is a network, run `hf download {ECAPA} --revision {COMMIT} --local-dir DIR`, then copy DIR here "
        "and name it instead: --encoder DIR\n"
    )


def test_what_was_fetched_before_is_there_and_can_be_copied(cli, hub, model, tmp_path):
    snapshot, target = put_in_cache(hub, model), tmp_path / "copy"

    plain = cli("models", "fetch", ECAPA, "--home", tmp_path / "nowhere")
    copied = cli("models", "fetch", ECAPA, "--to", target)
    again = cli("models", "fetch", ECAPA, "--to", target)

    assert (plain.exit_code, plain.stdout) == (0, f"{snapshot}\n")
    assert plain.stderr == (
        f"{ECAPA}: fetched, digest {model_digest(model)}. `likeness models use {ECAPA} --trust-model` makes it a "
        "registry's encoder: then its code runs\n"
    )
    assert (copied.exit_code, copied.stdout) == (0, f"{target}\n")
    assert f"`likeness models use {target}` makes it" in copied.stderr  # this registry has allowed it before
    assert model_digest(target) == model_digest(model)
    assert (again.exit_code, again.stderr) == (1, f"Error: {target}: is there already; name a new folder\n")
    assert not target.with_name("copy.part").exists()


@pytest.mark.parametrize("name", ["someone/model", "someone/model@main"])
def test_what_is_fetched_is_pinned(cli, name):
    result = cli("models", "fetch", name)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "name the commit, someone/model@COMMIT with 40 digits, so that it cannot change" in result.stderr


def test_a_directory_is_not_fetched(cli, model):
    result = cli("models", "fetch", model)

    assert result.stderr == (
        f"Error: {model}: is on this machine already; `likeness models show {model}` says what it is\n"
    )


# --- use ---


def test_an_empty_registry_takes_another_encoder_at_once(cli, model, other_model):
    refused = cli("models", "use", other_model)
    result = cli("models", "use", other_model, "--trust-model", "--as", "ida")

    assert refused.exit_code == 1 and "allow it once with --trust-model" in refused.stderr
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{cli.home}: uses encoder {other_model}\n"
    with cli.store() as store:
        assert encoder_source(store) == str(other_model)
        (entry,) = audit.entries(store)
        assert (entry.action, entry.payload) == (
            "config.set",
            {"key": "encoder_source", "from": str(model), "to": str(other_model), "by": "ida"},
        )
    cli.enroll("Ada", 1)
    assert cli.rows("SELECT DISTINCT encoder_id FROM artist_references") == [{"encoder_id": OTHER_ENCODER_ID}]


def test_with_artists_it_says_what_is_needed(enrolled, model, other_model):
    result = enrolled("models", "use", other_model, "--trust-model")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {enrolled.home}: holds voices enrolled with encoder {model}; choose another home for {other_model}, "
        f"or go over to it with `likeness reembed --encoder {other_model}`, which makes them anew from their "
        "recordings\n"
    )
    same = enrolled("models", "use", model)
    assert (same.exit_code, same.stderr) == (0, f"{enrolled.home}: uses encoder {model}\n")


def test_once_everybody_is_removed_another_encoder_can_be_used(enrolled, other_model):
    for artist in ("Ada", "Bo"):
        enrolled("artists", "remove", artist, "--yes")

    assert enrolled("models", "use", other_model, "--trust-model").exit_code == 0

    enrolled.enroll("Cy", 3)
    (scan,) = json.loads(enrolled("query", enrolled.sing("new.wav", 3, song=5), "--json").stdout)
    assert (scan["encoder_id"], scan["matches"][0]["artist"]) == (OTHER_ENCODER_ID, "Cy")
    assert enrolled("check").exit_code == 0
