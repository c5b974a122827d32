"""Try ideas for the training at small scale, each against the same start, the same voices in the same order.

    python scripts/try_ideas.py scripts/configs/ideas.toml --out DIR --fold-a CACHE --json FILE
    python scripts/try_ideas.py scripts/configs/ideas.toml --out DIR --fold-a CACHE --only mask copies --seeds 2

A small encoder is trained once (`start`), then goes on for some hundred steps with each idea and without any (`base`).
Figures are EERs in percent of `training.fold_a`; an idea is worth having when it lowers the macro average by more than
seeds move it. What is done is kept in DIR: cut, the same command goes on, and the table is of all that is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from train_encoder import DEFAULT_POOLS

SCRIPT = Path(__file__).with_name("train_encoder.py")
COLUMNS = ("macro", "sung", "sung+0db", "mixes", "clones", "speech")
FIRST_SEED = 11


def settings(values: Mapping[str, Any], above: str = "") -> list[str]:
    """``--set`` options of a TOML table; a table in it that is a value of the config stays whole."""
    options = []
    for key, value in values.items():
        if isinstance(value, dict) and key == "recipe":
            options += settings(value, "recipe.")
        elif isinstance(value, dict):
            options += ["--set", f"{above}{key}={{" + ", ".join(f"{k} = {v}" for k, v in value.items()) + "}"]
        else:
            options += ["--set", f"{above}{key}={json.dumps(value)}"]
    return options


def train(
    config: Path, out: Path, changes: Sequence[str], options: argparse.Namespace, threads: int = 1
) -> dict[str, float]:
    """Train to the end, or read what an earlier run came to; figures of fold A."""
    figures_path = out / "fold_a.json"
    if not figures_path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(SCRIPT), str(config), "--out", str(out), "--pools", str(options.pools)]
        command += ["--threads", str(threads), "--prepared", "--fold-a", str(options.fold_a), *changes]
        with (out / "stderr").open("a") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
        print(f"{out.name}: done", file=sys.stderr, flush=True)
    figures: dict[str, float] = json.loads(figures_path.read_text("utf-8"))
    return figures


def done_runs(out: Path, names: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Figures of every run in `out`, by idea and in the order of its seeds: of this command and of earlier ones."""
    found = {
        name: [json.loads(path.read_text("utf-8")) for path in sorted(out.glob(f"{name}-[0-9]*/fold_a.json"))]
        for name in names
    }
    return {name: runs for name, runs in found.items() if runs}


def rows(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """A row an idea: mean of its seeds, and how far that lies from the mean of ``base``, by column.

    `seeds_apart` is the greatest difference between seeds of one idea, of all ideas that have two: what is smaller than
    that may be luck.
    """
    base = {column: np.mean([figures[column] for figures in found["base"]]) for column in COLUMNS}
    apart = [np.ptp([figures["macro"] for figures in runs]) for runs in found.values() if len(runs) > 1]
    table = []
    for name, runs in found.items():
        mean = {column: float(np.mean([figures[column] for figures in runs])) for column in COLUMNS}
        table.append(
            {
                "idea": name,
                "n_seeds": len(runs),
                "eer_pct": {column: round(value, 2) for column, value in mean.items()},
                "change": {column: round(float(value - base[column]), 2) for column, value in mean.items()},
                "seeds_apart": round(float(max(apart)), 2) if apart else None,
            }
        )
    return sorted(table, key=lambda row: row["eer_pct"]["macro"])


def print_table(table: Sequence[Mapping[str, Any]]) -> None:
    """Figures, and the change against ``base`` in points."""
    print(f"{'idea':24}{'seeds':>6}" + "".join(f"{column:>16}" for column in COLUMNS))
    for row in table:
        cells = (f"{row['eer_pct'][column]:8.2f} ({row['change'][column]:+.2f})" for column in COLUMNS)
        print(f"{row['idea']:24}{row['n_seeds']:>6}" + "".join(f"{cell:>16}" for cell in cells))
    print(f"EER in percent, fold A thinned; seeds of one idea lie up to {table[0]['seeds_apart']} apart in macro")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ideas", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pools", type=Path, default=DEFAULT_POOLS, help="as train_encoder.py makes them")
    parser.add_argument("--fold-a", type=Path, required=True, metavar="DIR", help="cache of training.fold_a")
    parser.add_argument("--only", nargs="+", metavar="IDEA", help="these, besides base")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, of one thread each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    plan = tomllib.loads(options.ideas.read_text("utf-8"))
    config = options.out / "config.toml"
    with config.open("w", encoding="utf-8") as file:
        file.write("[recipe]\n")
    base = settings(plan["base"])
    train(config, options.out / "start", [*base, *settings(plan["start"])], options, threads=options.jobs)
    begun = [*base, *settings(plan["each"]), "--set", f'start="{(options.out / "start/checkpoint.pt").resolve()}"']
    ideas = {"base": {}, **{k: v for k, v in plan["ideas"].items() if options.only is None or k in options.only}}
    with ThreadPoolExecutor(options.jobs) as jobs:
        runs = []
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            for name, changes in ideas.items():
                changes = [*begun, *settings(changes), "--set", f"seed={seed}"]
                runs.append(jobs.submit(train, config, options.out / f"{name}-{seed}", changes, options))
        for run in runs:
            run.result()
    table = rows(done_runs(options.out, ["base", *plan["ideas"]]))
    print_table(table)
    if options.json:
        options.json.write_text(json.dumps({"plan": plan, "rows": table}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
