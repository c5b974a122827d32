"""Ideas become options of the training, and a table that says what is more than luck."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import try_ideas
from train_encoder import Config, read_config


def ideas() -> dict[str, dict[str, object]]:
    return tomllib.loads((Path(try_ideas.__file__).parent / "configs" / "ideas.toml").read_text())


def read(tmp_path: Path, *tables: dict[str, object]) -> Config:
    path = tmp_path / "config.toml"
    path.write_text("[recipe]\n")
    options = [option for table in tables for option in try_ideas.settings(table)]
    return read_config(path, options[1::2])


def test_every_idea_is_a_config_that_differs_from_the_base(tmp_path: Path) -> None:
    plan = ideas()

    base = read(tmp_path, plan["base"], plan["each"])

    assert (base.channels, base.steps) == (128, 300)
    for name, changes in plan["ideas"].items():
        changed = read(tmp_path, plan["base"], plan["each"], changes)  # type: ignore[arg-type]
        assert changed != base, name
        assert sum(changed.recipe.voices.values()) == pytest.approx(2), name


def test_a_table_value_of_an_idea_takes_the_place_of_the_whole(tmp_path: Path) -> None:
    config = read(tmp_path, {"recipe": {"voices": {"voice": 1.0, "sung": 1.0}, "beds": {"music": 1.0}}, "mask": 96})

    assert (config.recipe.voices, config.recipe.beds, config.mask) == (
        {"voice": 1.0, "sung": 1.0},
        {"music": 1.0},
        96,
    )


def figures(macro: float) -> dict[str, float]:
    return dict.fromkeys(try_ideas.COLUMNS, macro)


def test_ideas_are_compared_with_the_mean_of_the_base(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"base": [figures(20), figures(20.6)], "worse": [figures(21)], "better": [figures(19), figures(19.2)]}

    table = try_ideas.rows(found)
    try_ideas.print_table(table)

    assert [(row["idea"], row["eer_pct"]["macro"], row["change"]["sung"]) for row in table] == [
        ("better", 19.1, -1.2),
        ("base", 20.3, 0.0),
        ("worse", 21.0, 0.7),
    ]
    assert {row["seeds_apart"] for row in table} == {0.6}
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["better", "2", "19.10", "(-1.20)"]


def test_the_table_is_of_every_run_that_is_there_by_idea_and_seed(tmp_path: Path) -> None:
    for name, macro in (("base-11", 20.0), ("base-12", 21.0), ("long-crops-11", 19.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fold_a.json").write_text(json.dumps(figures(macro)))
    (tmp_path / "margin-11").mkdir()  # not done

    assert try_ideas.done_runs(tmp_path, ["base", "margin", "long-crops", "crops"]) == {
        "base": [figures(20.0), figures(21.0)],
        "long-crops": [figures(19.0)],
    }
