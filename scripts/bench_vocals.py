"""Measure voice detection on recordings of voices, songs and instruments: the hand-made detector, the learned one.

    python scripts/bench_vocals.py                               # the figures to report, fold B
    python scripts/bench_vocals.py --fold A                      # the figures to choose by
    python scripts/bench_vocals.py --fold A --presence FILE      # another network, of train_presence.py

The learned one is the product's, `embeddings.presence`; the hand-made one is what it took the place of.

The recordings are those of `vocal_tracks.py`. A track abstains when less than 1.5 s of voice is found, the limit under
which `likeness` says nothing about it; tracks shorter than 2 s are left out. "voice kept" is the voiced time in the
windows that were kept as a share of the voiced time in all windows: what the choice of windows throws away.

Windows: AUC, and the share of windows with a voice that are found at the score that 1, 2 and 5 % of windows without one
exceed (all of instrumental and music). A window has a voice where the clean voice sounds in 30 % of it; of mixes, whose
voices are not known apart, all windows are taken. The score of the hand-made detector is its evidence, 0 where too
little is harmonic; of the learned one its evidence too, without that of its neighbours.

Intervals: 95 %, bootstrap over persons, or over pieces of music, whose clips are cuts of one piece; "0.0 to 0.0" says
only that none was met.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hand_made_detector
import numpy as np
from trial_audio import DEFAULT_AUDIO, RATE_HZ, active_samples, load_mono, render
from vocal_tracks import SILENT_GROUPS, Track, cut_windows, judge_windows, list_tracks

from embeddings.presence import FRAME_S, WEIGHTS, Presence, VoiceClock, load_presence, log_mel, windows_with_voice
from registry.verdict import MIN_VOICE_S

MIN_TRACK_S = 2.0
ACTIVE_SHARE = 0.3
FALSE_SHARES = (0.01, 0.02, 0.05)
QUICK_TRACKS = 30  # per group
TIMED_WINDOWS, TIMED_REPEATS = 32, 7


@dataclass
class Outcome:
    """What a detector made of a track."""

    duration_s: float
    kept: np.ndarray  # (n_windows,) bool
    scores: np.ndarray  # (n_windows,)
    voiced_s: float
    voiced_anyway_s: float  # with every window kept


Detector = Callable[[np.ndarray], Outcome]


def detect_by_hand(samples: np.ndarray) -> Outcome:
    starts, windows = cut_windows(samples)
    voiced, evidence = hand_made_detector.judge_windows(samples, RATE_HZ, starts, windows.shape[1])
    kept = (voiced.mean(axis=1) >= hand_made_detector.MIN_PRESENCE) & (evidence >= hand_made_detector.MIN_EVIDENCE)
    scores = np.where(voiced.mean(axis=1) >= hand_made_detector.MIN_PRESENCE, evidence, 0)
    frames = np.arange(int(windows.shape[1] / RATE_HZ / FRAME_S) + 1) * FRAME_S * hand_made_detector.FRAMES_PER_S
    voiced = voiced[:, np.minimum(frames.astype(int), voiced.shape[1] - 1)]
    return as_outcome(len(samples), starts, kept, scores, voiced)


def learned_detector(presence: Presence) -> Detector:
    def detect(samples: np.ndarray) -> Outcome:
        starts, windows = cut_windows(samples)
        logits, evidence = judge_windows(presence, starts, windows)
        kept = windows_with_voice(evidence, presence.threshold)
        return as_outcome(len(samples), starts, kept, evidence, presence.voiced_frames(logits))

    return detect


def as_outcome(n_samples: int, starts: np.ndarray, kept: np.ndarray, scores: np.ndarray, voiced: np.ndarray) -> Outcome:
    duration_s = n_samples / RATE_HZ
    seconds = []
    for chosen in (kept, np.ones_like(kept)):
        clock = VoiceClock()
        clock.add(starts[chosen] / RATE_HZ, voiced[chosen])
        seconds.append(min(duration_s, clock.seconds))
    return Outcome(duration_s, kept, scores, *seconds)


def figures(outcomes: list[Outcome]) -> dict[str, float]:
    n_windows = sum(len(o.kept) for o in outcomes)
    return {
        "windows kept": sum(int(o.kept.sum()) for o in outcomes) / n_windows,
        "voice kept": sum(o.voiced_s for o in outcomes) / max(1e-9, sum(o.voiced_anyway_s for o in outcomes)),
        "abstaining": float(np.mean([o.voiced_s < MIN_VOICE_S for o in outcomes])),
    }


def report_tracks(tracks: list[Track], outcomes: list[Outcome], trials: str, system: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    print(f"\n{system}, {trials}, tracks")
    print(f"{'':20}{'tracks':>7}{'owners':>7}{'windows kept %':>24}{'voice kept %':>24}{'abstaining %':>24}")
    for group in dict.fromkeys(track.group for track in tracks):
        by_owner: dict[str, list[Outcome]] = {}
        for track, outcome in zip(tracks, outcomes, strict=True):
            if track.group == group:
                by_owner.setdefault(track.owner, []).append(outcome)
        owners = list(by_owner.values())
        n = sum(map(len, owners))
        rng = np.random.default_rng(0)
        draws = [
            figures([o for i in rng.integers(len(owners), size=len(owners)) for o in owners[i]]) for _ in range(300)
        ]
        cells = []
        for metric, value in figures([o for some in owners for o in some]).items():
            low, high = np.quantile([draw[metric] for draw in draws], [0.025, 0.975])
            rows.append({"trials": f"{trials} {group}", "system": system, "metric": metric})
            rows[-1] |= {"value": value, "low": float(low), "high": float(high), "n": n}
            cells.append(f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})")
        print(f"{group:20}{n:>7}{len(owners):>7}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    return rows


def report_windows(
    tracks: list[Track], outcomes: list[Outcome], has_voice: list[np.ndarray], trials: str, system: str
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    of_group: dict[str, list[np.ndarray]] = {}
    for track, outcome, voiced in zip(tracks, outcomes, has_voice, strict=True):
        group = "without" if track.group in SILENT_GROUPS else track.group
        of_group.setdefault(group, []).append(outcome.scores[voiced])
    without = np.sort(np.concatenate(of_group.pop("without")))
    print(f"\n{system}, {trials}, windows ({len(without)} without a voice)")
    heads = [f"found at {100 * share:g} %" for share in FALSE_SHARES]
    print(f"{'':20}{'windows':>8}{'AUC %':>8}" + "".join(f"{head:>16}" for head in heads))
    for group, parts in of_group.items():
        scores = np.concatenate(parts)
        below = np.searchsorted(without, scores, "left") + np.searchsorted(without, scores, "right")
        found = {"AUC": float(below.mean() / 2 / len(without))}
        for head, share in zip(heads, FALSE_SHARES, strict=True):
            found[head] = float(np.mean(scores > np.quantile(without, 1 - share)))
        for metric, value in found.items():
            rows.append({"trials": f"{trials} {group}", "system": system, "metric": f"windows {metric}"})
            rows[-1] |= {"value": value, "n": len(scores)}
        auc, *shares = found.values()
        print(f"{group:20}{len(scores):>8}{100 * auc:>8.2f}" + "".join(f"{100 * share:>16.1f}" for share in shares))
    return rows


def where_voice_sounds(track: Track, samples: np.ndarray) -> np.ndarray:
    """(n_windows,) bool; all True where the voice is not known apart, or there is none."""
    starts, windows = cut_windows(samples)
    if track.group in SILENT_GROUPS or track.group.startswith("mixes"):
        return np.ones(len(starts), np.bool_)
    active = active_samples(load_mono(DEFAULT_AUDIO / track.item.path))
    return np.array([active[start : start + windows.shape[1]].mean() >= ACTIVE_SHARE for start in starts])


def report_cost(presence: Presence, trials: str) -> list[dict[str, object]]:
    """Time of the network and its features as a share of the encoder's own: the best of several, taken in turns."""
    from embeddings.encoder import SpeechBrainEncoder

    encoder = SpeechBrainEncoder(n_threads=1)
    samples = np.random.default_rng(0).normal(0, 0.1, (TIMED_WINDOWS, 4 * RATE_HZ)).astype(np.float32)
    best = [np.inf, np.inf]
    for _ in range(TIMED_REPEATS):
        for i, work in enumerate(
            (lambda: encoder.embed_windows(samples), lambda: presence.frame_logits(log_mel(samples)))
        ):
            started = time.process_time()
            work()
            best[i] = min(best[i], time.process_time() - started)
    share = best[1] / best[0]
    print(
        f"\ncost: {100 * share:.1f} % of the encoder's ({1000 * best[1] / TIMED_WINDOWS:.2f} ms of processor a window)"
    )
    return [{"trials": trials, "system": "learned", "metric": "cost over encoder", "value": share, "n": TIMED_WINDOWS}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", choices=["A", "B"], default="B", help="B to report, A to choose (default: B)")
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_TRACKS} tracks of each group")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--presence", type=Path, default=WEIGHTS, metavar="FILE", help="the learned one (%(default)s)")
    options = parser.parse_args()

    tracks = list_tracks(DEFAULT_AUDIO, options.fold)
    if options.quick:
        rng = np.random.default_rng(0)
        groups = [[t for t in tracks if t.group == group] for group in dict.fromkeys(t.group for t in tracks)]
        tracks = [some[i] for some in groups for i in sorted(rng.permutation(len(some))[:QUICK_TRACKS])]
    audio = [render(DEFAULT_AUDIO, track.item) for track in tracks]
    long_enough = [len(samples) >= MIN_TRACK_S * RATE_HZ for samples in audio]
    tracks = [track for track, long in zip(tracks, long_enough, strict=True) if long]
    audio = [samples for samples, long in zip(audio, long_enough, strict=True) if long]

    trials = f"dev fold {options.fold}" + (" quick" if options.quick else "")
    rows: list[dict[str, object]] = []
    has_voice = [where_voice_sounds(track, samples) for track, samples in zip(tracks, audio, strict=True)]
    presence = load_presence(options.presence)
    detectors: dict[str, Detector] = {"hand-made": detect_by_hand, "learned": learned_detector(presence)}
    for system, detect in detectors.items():
        outcomes = [detect(samples) for samples in audio]
        rows += report_tracks(tracks, outcomes, trials, system)
        rows += report_windows(tracks, outcomes, has_voice, trials, system)
    rows += report_cost(presence, trials)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
