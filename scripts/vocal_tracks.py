"""The recordings on which voice detection is chosen and measured: those of `make_trials.py`, by what is heard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make_trials import TrialSet, build_trials
from trial_audio import RATE_HZ, AudioItem

from embeddings.presence import SILENT, Presence, audible_windows, log_mel, window_evidence, window_levels

#: Groups without a voice.
SILENT_GROUPS = ("instrumental", "music")
#: Every n-th of the strangers who speak: there are 740 of a fold, more than of all else.
SPOKEN_STRANGERS_STEP = 4

#: As the product cuts.
WINDOW = 4 * RATE_HZ


@dataclass(frozen=True)
class Track:
    """A recording and what it is.

    Attributes
    ----------
    group : str
        instrumental, music (what is under the voices of `sung+...`), sung, sung+6db, sung+0db, mixes mir1k, mixes
        jamendo, speech, strangers-spoken. "sung" is everybody of dev/singing, and chanted recitation.
    corpus : str
    owner : str
        Person or piece of music: what is resampled for intervals.
    item : AudioItem
    """

    group: str
    corpus: str
    owner: str
    item: AudioItem


def list_tracks(audio_root: Path, fold: str) -> list[Track]:
    """All tracks of a fold, each sound once, ordered by group."""
    trials = build_trials(audio_root, fold)
    groups = {"instrumental": _tests(trials["instrumentals"], "instrumental", roles=("instrumental",)), "music": []}
    for suffix in ("", "+6db", "+0db"):
        groups[f"sung{suffix}"] = _tests(trials[f"strangers-sung{suffix}"], f"sung{suffix}")
    music = sorted({track.item.music_path for track in groups["sung+0db"] if track.item.music_path is not None})
    groups["music"] = [Track("music", "music", path.rpartition("_")[0], AudioItem(path)) for path in music]
    for corpus in ("mir1k", "jamendo"):
        mixes = _tests(trials["strangers-mixes"], f"mixes {corpus}")
        groups[f"mixes {corpus}"] = [track for track in mixes if track.corpus == corpus]
    groups["speech"] = _tests(trials["speech"], "speech")
    spoken = _tests(trials["strangers-spoken"], "strangers-spoken", roles=("stranger",))
    groups["strangers-spoken"] = spoken[::SPOKEN_STRANGERS_STEP]
    return [track for group in groups.values() for track in {track.item.key: track for track in group}.values()]


def _tests(trials: TrialSet, group: str, roles: tuple[str, ...] = ("real", "mate", "stranger")) -> list[Track]:
    rows = zip(trials.tests, trials.test_corpora(), trials.test_persons(), strict=True)
    return [Track(group, corpus, person, test.item) for test, corpus, person in rows if test.role in roles]


def cut_windows(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """4 s every 2 s, and the last 4 s; of a shorter track all of it."""
    n = min(len(samples), WINDOW)
    starts = np.unique(np.append(np.arange(0, len(samples) - n + 1, WINDOW // 2), len(samples) - n))
    return starts, np.stack([samples[start : start + n] for start in starts])


def judge_windows(presence: Presence, starts: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and evidence of all windows of a recording, of `cut_windows`, as the product has them."""
    logits = np.concatenate([presence.frame_logits(log_mel(windows[i : i + 8])) for i in range(0, len(windows), 8)])
    audible, _ = audible_windows(window_levels(windows), starts / RATE_HZ)
    return logits, np.where(audible, window_evidence(logits), SILENT)
