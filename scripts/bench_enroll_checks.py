"""How well enrolling tells a foreign reference and a second voice from honest recordings: one table, real recordings.

    python scripts/bench_enroll_checks.py             # fold B, to report
    python scripts/bench_enroll_checks.py --fit       # fold A: the floors for `registry.consistency`

references/    the third, fourth or sixth reference of an artist, scored against the artist's others. A reference is one
               recording of a person, or several of one kind (sung or spoken) joined; `short` and `long` as there.
               Foreign ones are another person's: of the same corpus (one studio, one repertoire, one codec, so the
               hard case), and there also of the same kind of voice where person_id tells it (high or low: GTSinger,
               RAVDESS); or of another corpus.
second-voice/  recordings of 24 to 90 s, joined as sound and embedded, so that windows lie across the joints: clips of
               one person, or of two. What is foreign is again of the same corpus unless the row says otherwise.

Refused: share of the recordings, every person counting alike; intervals of 95 % by bootstrap over persons, the exact
binomial one over persons where nobody or everybody is refused. Seconds: of the stretches reported, how much is of one
voice. The first run of a fold embeds some ten hours of sound, about eight minutes on one core; it is kept.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from bench_real import Row, share_estimate
from make_trials import FOLDS
from trial_audio import DEFAULT_AUDIO, RATE_HZ, AudioItem, load_mono
from trial_vectors import DEFAULT_CACHE, House, ItemVectors, embed_items

from embeddings.model_dir import HOUSE
from embeddings.vocals import VocalWindows
from registry import intervals, scoring
from registry.consistency import (
    LONG_WINDOWS,
    REFERENCE_FLOOR,
    SECOND_VOICE_FLOOR,
    Floor,
    find_second_voice,
    own_norm_scores,
    reference_floors,
)

SEED = 1
FIT_FOLD = "A"
#: Share of honest recordings that a floor may refuse; each of them costs somebody a --force.
REFUSED_SHARE = 0.01

N_REFERENCES = (3, 4, 6)
#: Windows that recordings are joined up to, to make references: as they are, just long, and about half a minute.
REFERENCE_WINDOWS = (1, LONG_WINDOWS, 2 * LONG_WINDOWS)
DRAWS = 20  #: of each person, for each number and each length of references

#: Honest recordings: seconds, and how many of each person.
HONEST_S = ((24.0, 3), (40.0, 3), (60.0, 2), (90.0, 1))
#: Recordings of two persons: seconds in order, and whose they are.
PATTERNS = {
    "half": ((20.0, 0), (20.0, 1)),
    "end-20%": ((40.0, 0), (10.0, 1)),
    "middle-20%": ((20.0, 0), (10.0, 1), (20.0, 0)),
    "alternate-10s": ((10.0, 0), (10.0, 1), (10.0, 0), (10.0, 1)),
    "end-15s-of-105s": ((90.0, 0), (15.0, 1)),
}
PAIRS = 2  #: of each person and pattern

QUICK_PERSONS = 8
QUICK_RESAMPLES = 50


@dataclass(frozen=True)
class Clip:
    """A row of the manifest; `kind` is singing, speech or mixes."""

    path: str
    kind: str
    person: str
    recording: str
    duration_s: float

    @property
    def corpus(self) -> str:
        """As `make_trials` has it."""
        return self.person.split("-")[0]


@dataclass(frozen=True)
class Checked:
    """One recording that was checked: in which condition, whose, and what came out."""

    condition: str
    person: str
    n_windows: int
    norm_score: float
    floor: float
    seconds_right: float | None = None

    @property
    def refused(self) -> bool:
        """Whether enrolling refuses it."""
        return self.norm_score < self.floor


Voices = Mapping[str, Sequence[Clip]]
Reference = tuple[np.ndarray, str]  #: windows, and singing or speech


def read_voices(audio_root: Path, fold: str, kinds: Sequence[str] = ("singing", "speech")) -> dict[str, list[Clip]]:
    """The clips of each person of a fold."""
    voices: dict[str, list[Clip]] = defaultdict(list)
    with (audio_root / "dev/voices.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["fold"] == fold and row["kind"] in kinds:
                clip = Clip(row["path"], row["kind"], row["person_id"], row["recording"], float(row["duration_s"]))
                voices[clip.person].append(clip)
    return {person: sorted(clips, key=lambda clip: clip.path) for person, clips in sorted(voices.items())}


def kind_of_voice(person: str) -> str | None:
    """High or low where the person_id tells it, else None: GTSinger's names, RAVDESS's even (women) and odd numbers."""
    corpus, *rest = person.split("-")
    if corpus == "gtsinger":
        return "low" if rest[1] in ("tenor", "bass") else "high"
    if corpus == "ravdess":
        return "low" if int(rest[0]) % 2 else "high"
    return None


def others_of(person: str, persons: Sequence[str]) -> dict[str, list[str]]:
    """Who may be offered as somebody else, by how near: same-corpus, same-kind, other-corpus."""
    corpus, kind = person.split("-")[0], kind_of_voice(person)
    same = [other for other in persons if other != person and other.split("-")[0] == corpus]
    return {
        "same-corpus": same,
        "same-kind": [other for other in same if kind is not None and kind_of_voice(other) == kind],
        "other-corpus": [other for other in persons if other.split("-")[0] != corpus],
    }


def _rng(*labels: object) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(map(str, (SEED, *labels))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


# --- references -------------------------------------------------------------------------------------------------------


def make_references(
    clips: Sequence[Clip], vectors: Mapping[str, ItemVectors], min_windows: int, rng: np.random.Generator
) -> list[Reference]:
    """Join a person's recordings of one kind, in random order, until each reference has `min_windows`.

    No recording is in two references; clips that enrolling would not take, for want of voice, are left out.
    """
    references = []
    for kind in ("singing", "speech"):
        by_recording: dict[str, list[np.ndarray]] = defaultdict(list)
        for clip in clips:
            if clip.kind == kind and not vectors[clip.path].abstains:
                by_recording[clip.recording].append(vectors[clip.path].vectors)
        recordings = [np.concatenate(parts) for parts in by_recording.values()]
        waiting: list[np.ndarray] = []
        for i in rng.permutation(len(recordings)):
            waiting.append(recordings[i])
            if sum(map(len, waiting)) >= min_windows:
                references.append((np.concatenate(waiting), kind))
                waiting = []
    return references


def check_references(voices: Voices, vectors: Mapping[str, ItemVectors], cohort: scoring.CohortModel) -> list[Checked]:
    """Offer every artist honest and foreign references; one `Checked` for each condition it is an instance of."""
    checked: list[Checked] = []
    for min_windows in REFERENCE_WINDOWS:
        of_person = {p: make_references(c, vectors, min_windows, _rng(p, min_windows)) for p, c in voices.items()}
        for person, k in itertools.product(of_person, N_REFERENCES):
            rng = _rng(person, min_windows, k)
            own = of_person[person]
            others = others_of(person, [other for other, references in of_person.items() if references])
            for _ in range(DRAWS if len(own) >= k else 0):
                drawn = [own[i] for i in rng.permutation(len(own))[:k]]
                checked += _honest(person, drawn, cohort)
                for nearness, persons in others.items():
                    if persons and (k == N_REFERENCES[0] or nearness == "same-corpus"):
                        foreign = of_person[persons[rng.integers(len(persons))]]
                        offered = [foreign[rng.integers(len(foreign))], *drawn[1:]]
                        checked += _foreign(person, nearness, offered, cohort)
    return checked


def _honest(person: str, references: Sequence[Reference], cohort: scoring.CohortModel) -> Iterator[Checked]:
    """The first of these references was offered last; its own others are as honest."""
    windows, kinds = zip(*references, strict=True)
    k, scores, floors = len(windows), own_norm_scores(windows, cohort), reference_floors(windows)

    def one(condition: str, at: int = 0) -> Checked:
        return Checked(f"references/{condition}", person, _length(windows, at), float(scores[at]), float(floors[at]))

    yield one(f"honest/{k}/{_size(windows, 0)}")
    if k == N_REFERENCES[0]:
        yield one(f"honest/{k}/any-of-them", int(np.argmin(scores - floors)))
        if kinds[0] not in kinds[1:]:
            yield one(f"honest/{k}/other-style/{_size(windows, 0)}")


def _foreign(
    person: str, nearness: str, references: Sequence[Reference], cohort: scoring.CohortModel
) -> Iterator[Checked]:
    """The first of these references is another person's."""
    windows = [reference for reference, _ in references]
    k, scores, floors = len(windows), own_norm_scores(windows, cohort), reference_floors(windows)
    condition = f"foreign/{k}/{nearness}/{_size(windows, 0)}"
    yield Checked(f"references/{condition}", person, _length(windows, 0), float(scores[0]), float(floors[0]))
    if k == N_REFERENCES[0] and nearness == "same-corpus":
        at = 1 + int(np.argmin((scores - floors)[1:]))
        condition = f"honest/{k}/beside-a-foreign-one"
        yield Checked(f"references/{condition}", person, _length(windows, at), float(scores[at]), float(floors[at]))


def _length(windows: Sequence[np.ndarray], at: int) -> int:
    return min(len(windows[at]), sum(map(len, windows)) - len(windows[at]))


def _size(windows: Sequence[np.ndarray], at: int) -> str:
    return "long" if _length(windows, at) >= LONG_WINDOWS else "short"


# --- two voices in one recording --------------------------------------------------------------------------------------

Piece = tuple[str, float, int]  #: path, seconds from its beginning on, whose: 0 or 1


@dataclass(frozen=True)
class Joined:
    """Sounds one after the other; `person` has the first."""

    condition: str
    person: str
    pieces: tuple[Piece, ...]

    @property
    def key(self) -> str:
        """The same for the same sound."""
        return json.dumps([(path, round(seconds, 3)) for path, seconds, _ in self.pieces])

    @property
    def two_voices(self) -> bool:
        """Whether somebody else is heard after `person`."""
        return any(who for *_, who in self.pieces)


def take_clips(clips: Sequence[Clip], seconds: float, rng: np.random.Generator) -> list[tuple[str, float]] | None:
    """Clips in random order until there are so many seconds, the last one cut; None where there are not so many."""
    taken = []
    for i in rng.permutation(len(clips)):
        length_s = min(clips[i].duration_s, seconds)
        taken.append((clips[i].path, length_s))
        seconds -= length_s
        if seconds < 0.5:
            return taken
    return None


def join_recordings(voices: Voices, mixes: Voices) -> list[Joined]:
    """The recordings to check: of one person, of two, and of one with accompaniment."""
    joined = []
    for person, clips in voices.items():
        for seconds, n in HONEST_S:
            for i in range(n):
                taken = take_clips(clips, seconds, _rng(person, seconds, i))
                if taken is not None:
                    kinds = {path.split("/")[1] for path, _ in taken}
                    style = "sung+spoken" if len(kinds) > 1 else "one-style"
                    joined.append(Joined(f"honest/{style}/{seconds:.0f}s", person, tuple((*t, 0) for t in taken)))
        for nearness, others in others_of(person, list(voices)).items():
            for pattern, i in itertools.product(PATTERNS if nearness == "same-corpus" else ["half"], range(PAIRS)):
                if others:
                    rng = _rng(person, nearness, pattern, i)
                    both = (clips, voices[others[rng.integers(len(others))]])
                    pieces = _interleave(both, PATTERNS[pattern], rng)
                    if pieces is not None:
                        joined.append(Joined(f"two/{pattern}/{nearness}", person, pieces))
    for person, clips in mixes.items():
        taken = take_clips(clips, min(sum(clip.duration_s for clip in clips), 90.0), _rng(person, "mixes"))
        if taken is not None:
            joined.append(Joined("honest/with-accompaniment/90s", person, tuple((*t, 0) for t in taken)))
    return joined


def _interleave(
    both: Sequence[Sequence[Clip]], pattern: Sequence[tuple[float, int]], rng: np.random.Generator
) -> tuple[Piece, ...] | None:
    """Clips of two persons in the order of a pattern, no clip twice; None where somebody has too few seconds."""
    left = [list(clips) for clips in both]
    pieces: list[Piece] = []
    for seconds, who in pattern:
        taken = take_clips(left[who], seconds, rng)
        if taken is None:
            return None
        used = {path for path, _ in taken}
        left[who] = [clip for clip in left[who] if clip.path not in used]
        pieces += [(path, length_s, who) for path, length_s in taken]
    return tuple(pieces)


def embed_joined(
    joined: Sequence[Joined], audio_root: Path, encoder: Any, folder: Path
) -> Iterator[tuple[Joined, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield each recording with its (n, dim) windows, starts and ends in seconds; embedded once and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    load = lru_cache(maxsize=512)(lambda path: load_mono(audio_root / path))
    said = time.perf_counter()
    for n, recording in enumerate(joined, start=1):
        path = folder / f"joined-{hashlib.sha256(recording.key.encode()).hexdigest()[:32]}.npz"
        if not path.is_file():
            sound = np.concatenate([load(name)[: round(s * RATE_HZ)] for name, s, _ in recording.pieces])
            chosen = VocalWindows([sound], RATE_HZ, encoder.window_s, encoder.hop_s)
            kept = [(encoder.embed_windows(w.samples), w.start_s, w.samples.shape[1] / RATE_HZ) for w in chosen]
            body = io.BytesIO()
            np.savez(
                body,
                vectors=np.concatenate([np.empty((0, encoder.dim), np.float32), *(v for v, _, _ in kept)]),
                start_s=np.concatenate([np.empty(0), *(start_s for _, start_s, _ in kept)]),
                end_s=np.concatenate([np.empty(0), *(start_s + length_s for _, start_s, length_s in kept)]),
            )
            partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # two benches may run at once
            partial.write_bytes(body.getvalue())
            partial.replace(path)
        with np.load(path, allow_pickle=False) as stored:
            yield recording, stored["vectors"], stored["start_s"], stored["end_s"]
        if time.perf_counter() - said > 15:
            said = time.perf_counter()
            print(f"joined: {n:,} of {len(joined):,}", file=sys.stderr, flush=True)


def check_joined(
    embedded: Iterator[tuple[Joined, np.ndarray, np.ndarray, np.ndarray]], cohort: scoring.CohortModel
) -> list[Checked]:
    """Look for a second voice; where no two parts are found, the norm_score is infinite and nothing is refused."""
    checked = []
    every_score = Floor(np.inf, np.inf)
    for recording, vectors, start_s, end_s in embedded:
        found = find_second_voice(vectors, start_s, end_s, cohort, every_score)
        condition = f"second-voice/{recording.condition}"
        if found is None:
            checked.append(Checked(condition, recording.person, 0, np.inf, SECOND_VOICE_FLOOR.short))
            continue
        right = seconds_of_one_voice(found.stretches, recording.pieces) if recording.two_voices else None
        floor = SECOND_VOICE_FLOOR.at(found.n_windows)
        checked.append(Checked(condition, recording.person, found.n_windows, found.norm_score, floor, right))
    return checked


def seconds_of_one_voice(stretches: Sequence[tuple[float, float]], pieces: Sequence[Piece]) -> float:
    """Share of the seconds in stretches that is of one person, whichever has more of them."""
    edges = np.cumsum([0.0, *(seconds for _, seconds, _ in pieces)])
    held = np.zeros(2)
    for start_s, end_s in stretches:
        for (_, _, who), begin, end in zip(pieces, edges[:-1], edges[1:], strict=True):
            held[who] += max(0.0, min(end_s, end) - max(start_s, begin))
    return float(held.max() / held.sum())


# --- figures ----------------------------------------------------------------------------------------------------------


def fit_floors(honest: Sequence[Checked], share: float = REFUSED_SHARE) -> Floor:
    """The floors below which `share` of honest recordings lie, short and long ones apart, persons counting alike."""

    def fit(chosen: Sequence[Checked]) -> float:
        scores = np.array([one.norm_score for one in chosen])
        persons, person_of = np.unique([one.person for one in chosen], return_inverse=True)
        weights = 1 / np.bincount(person_of)[person_of] / len(persons)
        order = np.argsort(scores, kind="stable")
        return float(scores[order[np.searchsorted(np.cumsum(weights[order]), share)]])

    is_long = [one.n_windows >= LONG_WINDOWS for one in honest]
    short, long = (fit([one for one, at in zip(honest, is_long, strict=True) if at == which]) for which in (0, 1))
    return Floor(short, long)


def fitted_on(checked: Sequence[Checked]) -> dict[str, list[Checked]]:
    """What each floor is fitted on: third references; clean recordings of one person."""
    k = N_REFERENCES[0]
    return {
        "REFERENCE_FLOOR": [
            one for one in checked if one.condition in (f"references/honest/{k}/short", f"references/honest/{k}/long")
        ],
        "SECOND_VOICE_FLOOR": [
            one
            for one in checked
            if one.condition.startswith(("second-voice/honest/one-style", "second-voice/honest/sung+spoken"))
        ],
    }


def share_rows(checked: Sequence[Checked], n_resamples: int) -> list[Row]:
    """Refused, and seconds right, by condition; conditions of one family also together."""
    by_condition: dict[str, list[Checked]] = defaultdict(list)
    for one in checked:
        by_condition[one.condition].append(one)
        if one.condition.startswith("second-voice/honest/"):
            by_condition[one.condition.rpartition("/")[0]].append(one)
            if "with-accompaniment" not in one.condition:
                by_condition["second-voice/honest"].append(one)
    rows = []
    for condition, some in sorted(by_condition.items()):
        persons = np.array([one.person for one in some])
        refused = np.array([one.refused for one in some])
        estimate = share_estimate(refused, persons, n_resamples, by_person=True)
        rows.append(Row(condition, "house", "refused_pct", *estimate, len(some)))
        right = [one.seconds_right for one in some if one.refused and one.seconds_right is not None]
        if right:
            rows.append(
                Row(
                    condition,
                    "house",
                    "seconds_right_pct",
                    round(100 * float(np.mean(right)), 2),
                    None,
                    None,
                    len(right),
                )
            )
    return rows


def print_table(rows: Sequence[Row], suffix: str) -> None:
    """The table, one line a condition."""
    width = max(len(row.trials) for row in rows) - len(suffix) + 2
    right = {row.trials: row.value for row in rows if row.metric == "seconds_right_pct"}
    print(f"{'':{width}}{'n':>8}  {'refused %':^22}{'seconds right %':>16}")
    for row in rows:
        if row.metric == "refused_pct":
            cell = f"{row.value:5.1f} ({row.low:4.1f} to {row.high:5.1f})"
            seconds = f"{right[row.trials]:.0f}" if row.trials in right else ""
            print(f"{row.trials.removesuffix(suffix):{width}}{row.n:>8,}  {cell:^22}{seconds:>16}".rstrip())


def thin_out(voices: Voices, n_persons: int) -> dict[str, Sequence[Clip]]:
    """A fixed few of the persons, spread over the corpora, with their neighbours: for --quick."""
    names = list(voices)
    at = np.unique(np.linspace(0, len(names) - 2, n_persons // 2).round().astype(int))
    return {names[i]: voices[names[i]] for i in sorted({*at, *(at + 1)})}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder of recordings (%(default)s)")
    parser.add_argument("--fold", choices=FOLDS, help="B to report (the default), A to choose")
    parser.add_argument("--fit", action="store_true", help="fold A, and the floors that follow from it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="a fixed few persons: does it run? a minute")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where vectors are kept (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the encoder (%(default)s)")
    options = parser.parse_args(arguments)
    if options.fit and options.fold not in (None, FIT_FOLD):
        parser.error(f"--fit is on fold {FIT_FOLD}; leave out --fold {options.fold}")
    if not (options.audio / "dev/voices.csv").is_file():
        print(f"skipped: no real recordings, {options.audio} has no dev/voices.csv; set LIKENESS_AUDIO or --audio")
        return 0

    from embeddings.encoder import SpeechBrainEncoder  # slow to import

    started = time.perf_counter()
    fold = FIT_FOLD if options.fit else options.fold or "B"
    encoder = SpeechBrainEncoder(HOUSE, n_threads=options.threads)
    cohort = scoring.prepare_cohort(encoder.cohort.vectors, encoder.cohort.person)
    house = House(encoder)
    voices: Voices = read_voices(options.audio, fold)
    mixes: Voices = read_voices(options.audio, fold, ("mixes",))
    if options.quick:
        voices, mixes = thin_out(voices, QUICK_PERSONS), thin_out(mixes, 2)
    items = {clip.path: AudioItem(clip.path) for clips in voices.values() for clip in clips}
    vectors = embed_items(options.audio, items, house, options.cache, label="clips")
    joined = join_recordings(voices, mixes)
    embedded = embed_joined(joined, options.audio, encoder, options.cache / house.cache_id[:16])
    checked = [*check_references(voices, vectors, cohort), *check_joined(embedded, cohort)]
    suffix = ("" if fold == "B" else f".{fold}") + (".quick" if options.quick else "")
    n_resamples = QUICK_RESAMPLES if options.quick else intervals.DEFAULT_RESAMPLES
    rows = [replace(row, trials=row.trials + suffix) for row in share_rows(checked, n_resamples)]
    print(f"dev fold {fold}" + (", --quick: a few persons, no figures" if options.quick else ""))
    print_table(rows, suffix)
    for name, floor in (("REFERENCE_FLOOR", REFERENCE_FLOOR), ("SECOND_VOICE_FLOOR", SECOND_VOICE_FLOOR)):
        fitted = ""
        if options.fit:
            honest = fitted_on(checked)[name]
            best, n_persons = fit_floors(honest), len({one.person for one in honest})
            fitted = (
                f"; {REFUSED_SHARE:.0%} of {len(honest):,} honest recordings of {n_persons} persons lie below "
                f"{best.short:.2f} and {best.long:.2f}"
            )
        print(f"{name}: short {floor.short}, long {floor.long}{fitted}")
    print(f"95 % intervals, {n_resamples} resamples of persons; {time.perf_counter() - started:,.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
