"""The last step for an encoder: the cohort that is made for it, and what its card says."""

from __future__ import annotations

import csv
import itertools
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # scripts import each other by bare name

from fit_builtin import (
    CARD_BEGIN,
    CARD_END,
    COHORT_CONDITIONS,
    COHORT_TEMPLATES_PER_CONDITION,
    card_section,
    cohort_line,
    cohort_sounds,
    make_cohort,
    thresholds_table,
    write_card,
)
from trial_audio import RATE_HZ
from trial_vectors import House

from embeddings.model_dir import COHORT, HOUSE_DIR, load_calibration, load_cohort
from registry.condense import MAX_TEMPLATES
from registry.tail import Tail, threshold_for
from tests.fakes import FakeEncoder, fake_tail

SUNG_AND_SPOKEN = ["spoken", "sung", "sung", "spoken+music", "spoken+music", "sung+music", "sung+music"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, voice_like) -> Path:
    """Three persons of a cohort, one with two clips and one who whispers, and two pieces of music."""
    root = tmp_path_factory.mktemp("recordings")
    whisper = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE_HZ).astype(np.float32)
    seconds = np.arange(8 * RATE_HZ) / RATE_HZ
    sounds = {
        "cohort/voice/ann/0.wav": voice_like(3.0, seed=1, f0_hz=210.0),
        "cohort/voice/ben/0.wav": voice_like(3.0, seed=2, f0_hz=120.0),
        "cohort/voice/ben/1.wav": voice_like(2.5, seed=2, f0_hz=130.0),
        "cohort/voice/eve/0.wav": whisper,
        "train/music/major.wav": sum(np.sin(2 * np.pi * hz * seconds) for hz in (220, 277, 330)) / 4,
        "train/music/minor.wav": sum(np.sin(2 * np.pi * hz * seconds) for hz in (220, 262, 330)) / 4,
    }
    for path, samples in sounds.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / path, samples, RATE_HZ)
    for folder in ("cohort/voice", "train/music"):
        with (root / f"{folder}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = [(path, Path(path).parent.name) for path in sounds if path.startswith(folder)]
            csv.writer(file).writerows([("path", "person_id"), *rows])
    return root


@pytest.fixture(scope="module")
def sounds(recordings) -> list[tuple[str, np.ndarray]]:
    pytest.importorskip("pyworld", reason="cohorts are made with pyworld, an extra")
    return list(cohort_sounds(recordings))


@pytest.fixture(scope="module")
def cohort(recordings) -> dict[str, np.ndarray]:
    pytest.importorskip("pyworld", reason="cohorts are made with pyworld, an extra")
    return make_cohort(House(FakeEncoder()), recordings)


# --- the cohort ---


def test_every_clip_is_heard_in_all_conditions_but_whispers_are_not_sung(sounds):
    assert [key for key, _ in sounds] == [
        *(f"ann {condition}" for condition in SUNG_AND_SPOKEN),
        *(f"ben {condition}" for condition in SUNG_AND_SPOKEN * 2),
        *(f"eve {condition}" for condition in ("spoken", "spoken+music", "spoken+music")),
    ]


def test_music_is_0_to_8_db_under_the_voice_and_songs_differ(sounds):
    voice, one, other, first, second, *_ = [samples for _, samples in sounds]

    for mixed in (first, second):
        scale = float(voice @ mixed / (voice @ voice))  # mixes beyond full scale are turned down as a whole
        level_db = 10 * np.log10(np.mean(voice**2) / np.mean((mixed / scale - voice) ** 2))
        assert -1.5 < level_db < 8.5
    assert not np.array_equal(one[:RATE_HZ], other[:RATE_HZ])


def test_sounds_of_a_cohort_are_always_the_same(recordings, sounds):
    again = list(itertools.islice(cohort_sounds(recordings), len(SUNG_AND_SPOKEN)))

    assert [key for key, _ in again] == [key for key, _ in sounds[: len(again)]]
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(sounds, again, strict=False))


def test_cohort_has_a_few_unit_templates_for_each_person_and_condition(cohort):
    assert sorted(cohort) == ["condition", "person", "vectors"]  # and no names
    np.testing.assert_allclose(np.linalg.norm(cohort["vectors"], axis=1), 1, atol=1e-5)
    counts = Counter(zip(cohort["person"].tolist(), cohort["condition"].tolist(), strict=True))
    assert {person for person, _ in counts} <= {0, 1, 2}
    assert set(COHORT_CONDITIONS) == {condition for _, condition in counts}
    assert max(counts.values()) <= COHORT_TEMPLATES_PER_CONDITION
    assert max(Counter(cohort["person"].tolist()).values()) <= MAX_TEMPLATES


def test_cohort_is_what_the_product_loads(cohort, tmp_path):
    np.savez(tmp_path / COHORT, **cohort)

    loaded = load_cohort(tmp_path)

    assert loaded is not None
    assert np.array_equal(loaded.vectors, cohort["vectors"])
    assert cohort_line(tmp_path).startswith(f"`cohort.npz`: {len(cohort['person'])} unit vectors of ")


def test_cohort_line_counts_conditions(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    conditions = np.array(["spoken", "sung", "spoken", "spoken+music"])
    np.savez(tmp_path / COHORT, vectors=vectors, person=np.array([0, 0, 0, 1]), condition=conditions)

    assert cohort_line(tmp_path) == (
        "`cohort.npz`: 4 unit vectors of 2 persons who were not trained on, at most 3 each (spoken 2, spoken+music 1, "
        "sung 1); the persons are numbers that say nothing."
    )


# --- the card ---


def test_card_holds_every_figure_of_the_calibration():
    calibration = load_calibration(HOUSE_DIR)

    section = card_section(calibration, "A cohort.")

    assert section.startswith(f"{CARD_BEGIN}\n## Cohort\nA cohort.\n\n## Calibration\nBy `scripts/fit_builtin.py` ")
    assert section.endswith(f"```\n{CARD_END}")
    for name, weight in calibration["llr"]["weights"].items():
        assert f"{weight:.3f} {name}" in section
    near = calibration["near"]
    said = f"others near from a norm_score of {near['artist']:.2f} (voices of the cohort: {near['cohort']:.2f}) "
    said += f"and an llr of {near['track']:.2f} on"
    assert f" {calibration['llr']['intercept']:+.3f}, {said}. Positives: {calibration['llr']['positives']}. " in section
    tail = calibration["tail"]
    shape = f"shape {tail['shape']:.2f}, {tail['shape_low']:.2f} to {tail['shape_high']:.2f}"
    assert f"scores of {tail['n_strangers']} strangers ({calibration['tail_population']}; " in section
    assert f"{tail['n_exceedances']} exceedances; {shape})" in section
    for row in calibration["strangers"]:
        (line,) = [line for line in section.splitlines() if line.startswith(f"{row['group']} ")]
        assert f"{row['tracks']}" in line
        assert f"{row['threshold_alone']:.3f}" in line
    for row in calibration["variants"]:
        (line,) = [line for line in section.splitlines() if line.startswith(f"{row['variant']} ")]
        assert f"{row['all strangers']['threshold']:.3f}" in line
    for point in calibration["operating_points"]:
        missed = " | ".join(f"{share:.1f}" for share in point["fnir_pct"].values())
        assert f"| {point['budget']:g} | {point['threshold']:.2f} | {missed} |" in section


def test_card_has_thresholds_by_artists_and_budget_and_how_far_they_lie_beyond_the_strangers():
    """Of a tail that falls by e every half, every voice counting whole."""
    tail = Tail.from_dict({**fake_tail(2.0), "sizes": [1, 100], "galleries": [1.0, 100.0]})

    head, rule, *rows = thresholds_table(tail)

    assert (head, rule) == (
        "| artists | budget 0.003 | budget 0.01 | budget 0.03 | budget 0.1 |",
        "| --- | --- | --- | --- | --- |",
    )
    cells = {row.split(" | ")[0].removeprefix("| "): row.removesuffix(" |").split(" | ")[1:] for row in rows}
    assert list(cells) == ["1", "5", "30", "100", "1,000", "10,000"]
    assert cells["1"][:3] == ["3.15", "2.55", "2.00"]
    assert cells["1"][3] == f"{threshold_for(tail, 0.1, 1):.2f}"
    assert cells["10,000"] == [
        f"{2 + 0.5 * math.log(0.03 / share):.2f} (+{-math.log10(1000 * share):.1f})"
        for share in (-math.expm1(math.log1p(-budget) / 10_000) for budget in (0.003, 0.01, 0.03, 0.1))
    ]


def test_card_lists_the_nearest_persons_and_shows_no_names():
    calibration = load_calibration(HOUSE_DIR)

    section = card_section(calibration, "A cohort.", [(0.87654, "libri-7", "quran-somebody-by-name")])

    assert section.endswith(
        f"| score | trained on | measured on |\n| --- | --- | --- |\n| 0.877 | libri-7 | quran-#e79fe6 |\n{CARD_END}"
    )


def test_card_section_takes_the_place_of_the_last_one(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# Model\nText.\n")

    write_card(card, f"{CARD_BEGIN}\nold\n{CARD_END}")
    card.write_text(card.read_text() + "After.\n")
    write_card(card, f"{CARD_BEGIN}\nnew\n{CARD_END}")

    assert card.read_text() == f"# Model\nText.\n\n{CARD_BEGIN}\nnew\n{CARD_END}\nAfter.\n"
