"""README holds what the program says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parent.parent


def test_generated_parts_of_the_readme_are_up_to_date() -> None:
    """Help texts and figures in README are written by cog; `cog -r README.md` mends a difference."""
    checked = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "README.md"], cwd=REPO, capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
