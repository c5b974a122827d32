"""Kill batches and enrolments, their decoders and encoders, and count what is lost, doubled or unsound afterwards.

    python scripts/kill_test.py --kills 1000      # about half an hour on two cores
    python scripts/kill_test.py --quick           # 40 kills, about two minutes
    python scripts/kill_test.py --kills 0 --real 30      # with the built-in encoder; about ten minutes

Kills are SIGKILL, at moments drawn uniformly in time and at named places of the code (`tests/kills.py`): after vectors
came from the encoder, before an outcome is written, within 2 ms of the beginning of a commit, after a commit, within
2 ms of the beginning of the writing of the index. A killed command is given again until it has done its work. Then
every track must have one outcome, the same as undisturbed, and one scan; every recording whose enrolment was
acknowledged must be on record with templates; `likeness check` must find nothing; no process may be left behind. A
track that two kills hit may fail, as a file that takes two processes with it does: they are counted apart. Tracks and
singers are synthetic (scripts/synth_voices.py). Exits with 1 if anything was lost, doubled or unsound.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the fake encoder, and what kills, are with the tests

from tests.kills import POINTS, Tally, Trial, kill_at_point

COLUMNS = ("n_kills", "n_sequences", "n_lost", "n_doubled", "n_unsound", "n_hit_twice")


def kill(system: str, n_kills: int, n_tracks: int, seed: int, only: str) -> dict[str, Tally]:
    """Make a registry and kill about `n_kills` times; says on stderr how far it is."""

    def show(tally: Tally) -> None:
        n_done = tally.n_kills + sum(tally.n_kills for tally in tallies.values())
        print(f"\r{system}: {n_done} of {n_kills} kills, {time.monotonic() - begun_s:.0f} s", end="", file=sys.stderr)

    begun_s = time.monotonic()
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), n_tracks=n_tracks, seed=seed, is_real=system == "house")
        points = {point: share for point, share in POINTS.items() if point.startswith(only)}
        for point, share in points.items():
            goal = max(1, round(n_kills * share / sum(points.values())))
            tallies[point] = kill_at_point(trial, point, goal, show)
    print(file=sys.stderr)
    return tallies


def print_table(system: str, tallies: dict[str, Tally]) -> None:
    print(f"{system:<42}" + "".join(f"{name.removeprefix('n_').replace('_', ' '):>11}" for name in COLUMNS))
    totals = {name: sum(getattr(tally, name) for tally in tallies.values()) for name in COLUMNS}
    for point, tally in tallies.items():
        print(f"{point:<42}" + "".join(f"{getattr(tally, name):>11}" for name in COLUMNS))
    print(f"{'all':<42}" + "".join(f"{totals[name]:>11}" for name in COLUMNS))
    for point, tally in tallies.items():
        for problem in tally.problems:
            print(f"{point}: {problem}", file=sys.stderr)


def rows(system: str, tallies: dict[str, Tally]) -> list[dict[str, object]]:
    return [
        {"trials": point, "system": system, "metric": name, "value": getattr(tally, name), "n": tally.n_kills}
        for point, tally in tallies.items()
        for name in COLUMNS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, metavar="N", help="kills with the tests' fake encoder (default: 1000)")
    parser.add_argument("--real", type=int, metavar="N", default=0, help="kills with the built-in encoder (default: 0)")
    parser.add_argument("--only", metavar="TEXT", default="", help="only at points that begin so, such as enrolling")
    parser.add_argument("--quick", action="store_true", help="40 kills with the fake encoder")
    parser.add_argument("--seed", type=int, default=2026, help="of the moments (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    arguments = parser.parse_args()
    n_kills = arguments.kills if arguments.kills is not None else (40 if arguments.quick else 1000)
    written: list[dict[str, object]] = []
    is_sound = True
    for system, n, n_tracks in (("fake", n_kills, 40), ("house", arguments.real, 16)):
        if n:
            tallies = kill(system, n, n_tracks, arguments.seed, arguments.only)
            print_table(system, tallies)
            written += rows(system, tallies)
            is_sound = is_sound and not any(tally.problems for tally in tallies.values())
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    sys.exit(not is_sound)


if __name__ == "__main__":
    main()
