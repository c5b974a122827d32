"""What `scripts/bench_scores.py` computes beside the figures of `registry.metrics` and `registry.llr_metrics`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from bench_scores import GROUPS, LOSSES, Fold, Row, own_line_rows, print_table, right_rows

N = 60


def pairs_of(n_tests: int) -> SimpleNamespace:
    """Every model with `n_tests` tracks of each person: what is asked of `make_trials.Pairs`."""
    model, test = (grid.ravel() for grid in np.meshgrid(np.arange(N), np.arange(N * n_tests)))
    return SimpleNamespace(
        enroll_index=model,
        test_index=test,
        is_target=model == test // n_tests,
        enroll_person=model,
        test_person=test // n_tests,
    )


def fold(seed: int, *, slope: float = 1.0, offset: float = 0.0) -> Fold:
    """Llrs of which some line is right; the first track abstains."""
    pairs, rng = pairs_of(2), np.random.default_rng(seed)
    natural = rng.normal(-2, 2, (2 * N, N)) + np.where(pairs.is_target.reshape(2 * N, N), 4.0, 0.0)
    llrs = (natural / np.log(10) - offset) / slope
    llrs[0] = 99.0
    sets = {name: SimpleNamespace(pairs=lambda: pairs) for name in GROUPS.values()}
    abstains = {name: np.arange(2 * N) == 0 for name in sets}
    return Fold(sets, abstains, {"calibrated": dict.fromkeys(sets, llrs)})


def test_a_line_for_one_kind_is_fitted_on_one_fold_and_loses_little_on_another_that_it_is_right_for():
    wrong = {"slope": 0.4, "offset": 1.0}

    rows = own_line_rows(fold(1, **wrong), fold(2, **wrong))
    other = own_line_rows(fold(1, **wrong), fold(2))

    of = {(row.trials, row.system): row for row in rows}
    assert {(row.metric, row.n) for row in rows} == {("cllr_loss", N * (2 * N - 1))}
    assert set(of) == {(group, name) for group in GROUPS for name in ("own line", "own line, fold A")}
    assert of["singing", "own line"].value < 0.06 and of["singing", "own line, fold A"].value < 0.06
    assert next(row.value for row in other if row.system == "own line") > 0.1


def test_right_llrs_lose_what_so_many_targets_let_them_seem_to():
    rows = [Row(group, "calibrated", "eer_pct", 16.0, None, None, 9) for group in GROUPS]

    few = right_rows(rows, fold(1))

    kinds = [group for group in GROUPS if not group.startswith("clones")]
    assert [(row.trials, row.system, row.metric) for row in few] == [(kind, LOSSES[-1], "cllr_loss") for kind in kinds]
    assert all(0.01 < row.low < row.value < row.high < 0.08 for row in few)
    # The made-up llrs are right, with a spread of 2 about means of 2 and -2, which is an EER of 16 %.
    losses = [own.value for own in own_line_rows(fold(1), fold(2)) if own.system == "own line"]
    assert losses[0] == pytest.approx(few[0].value, abs=0.02)


def test_losses_are_printed_where_there_are_any(capsys):
    rows = [Row(group, name, "cllr_loss", 0.125, 0.0625, 0.25, 9) for group in GROUPS for name in LOSSES]

    print_table(rows)

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("clones of speech")]
    assert len(lines) == 1 and lines[0].count("0.125") == len(LOSSES)
    print_table([Row("speed", "loop over artists", "seconds", 2.0, None, None, 100)])
    assert "loses" not in capsys.readouterr().out
