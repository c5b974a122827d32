from __future__ import annotations

import json
import subprocess
import sys

from tests.cli_fakes import REPO


def test_readers_beside_a_writer_see_no_state_that_never_was_and_no_lock(tmp_path):
    """A few seconds of what `scripts/stress_concurrency.py` does for two minutes."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "scripts/stress_concurrency.py", "--readers", "4", "--seconds", "8", "--json", figures]

    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr
    rows = {(row["system"], row["metric"]): row["value"] for row in json.loads(figures.read_text("ascii"))}
    assert rows["reader", "sound"] > 0
    assert sum(n for (who, _), n in rows.items() if who == "writer") > 0
    assert rows["both", "torn, stale or an error"] == 0
    assert rows["both", "removals not finished afterwards"] == 0
