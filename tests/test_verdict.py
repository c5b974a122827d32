from __future__ import annotations

import pytest

from registry.calibration import Threshold
from registry.records import Match
from registry.tail import SAID_BEYOND
from registry.verdict import MIN_VOICE_S, decide, lack_of_voice, likeness_in_words

VOICE = "if the track carries this voice or an imitation of it than if it carries another singer's"
OTHER = "if the track carries another singer's than if it carries this voice or an imitation of it"


THRESHOLD = Threshold(1.65, "made up for tests")


def matches(*llrs: float) -> list[Match]:
    """Matches as `registry.match` gives them, flagged at `THRESHOLD`; by norm_score they would be the other way."""
    return [
        Match(k, k, f"artist {k}", 0.5, -llr, llr, None, llr >= THRESHOLD.llr, ())
        for k, llr in enumerate(llrs, start=1)
    ]


@pytest.mark.parametrize(
    ("llrs", "decision"),
    [
        ((1.65,), ("flagged", "the best of 9 artists has log10 likelihood ratio 1.65, the threshold is 1.65")),
        ((3.0, 2.5, 1.0), ("flagged", "the best of 9 artists has log10 likelihood ratio 3.00, the threshold is 1.65")),
        ((1.64, 1.0), ("clear", "the best of 9 artists has log10 likelihood ratio 1.64, below the threshold 1.65")),
        ((-1.5,), ("clear", "the best of 9 artists has log10 likelihood ratio -1.50, below the threshold 1.65")),
        ((), ("clear", "there is no artist to match with")),
    ],
)
def test_the_best_match_decides(llrs, decision):
    assert decide(matches(*llrs), threshold=THRESHOLD, voiced_s=20.0, n_artists=9) == decision


@pytest.mark.parametrize(
    ("llr", "verdict", "ending"),
    [
        (3.0, "flagged", "the threshold is 1.65 (threshold extrapolated)"),
        (1.0, "clear", "below the threshold 1.65 (threshold extrapolated)"),
    ],
)
def test_a_threshold_beyond_what_strangers_showed_is_said_with_either_verdict(llr, verdict, ending):
    beyond = Threshold(1.65, "made up", 0.001, SAID_BEYOND + 0.01)
    not_beyond = Threshold(1.65, "made up", 0.001, SAID_BEYOND)

    said = decide(matches(llr), threshold=beyond, voiced_s=20.0, n_artists=9)
    not_said = decide(matches(llr), threshold=not_beyond, voiced_s=20.0, n_artists=9)

    best = f"the best of 9 artists has log10 likelihood ratio {llr:.2f}, "
    assert said == (verdict, best + ending)
    assert not_said == (verdict, best + ending.removesuffix(" (threshold extrapolated)"))


@pytest.mark.parametrize(
    ("voiced_s", "verdict"), [(0.0, "abstained"), (MIN_VOICE_S - 1 / 32, "abstained"), (MIN_VOICE_S, "flagged")]
)
def test_with_too_little_voice_nothing_is_said_of_anybody(voiced_s, verdict):
    assert decide(matches(9.0), threshold=THRESHOLD, voiced_s=voiced_s, n_artists=1)[0] == verdict


def test_the_reason_names_nobody():
    """It is stored beside the scan, and outlives an artist's name and an artist."""
    for llr in (9.0, 0.0):
        assert "artist 1" not in decide(matches(llr), threshold=THRESHOLD, voiced_s=9.0, n_artists=3)[1]


@pytest.mark.parametrize(("voiced_s", "found"), [(0.0, "0.0"), (1.4999, "1.4"), (1.46875, "1.4"), (0.3, "0.3")])
def test_what_was_found_never_reads_as_what_is_needed(voiced_s, found):
    assert lack_of_voice(voiced_s) == f"{found} s of voice found, at least 1.5 s is needed"


@pytest.mark.parametrize(
    ("likelihood_ratio_log10", "words"),
    [
        (0.0, f"no more probable {VOICE}"),
        (0.30, f"no more probable {VOICE}"),
        (0.302, f"slightly more probable {VOICE}"),
        (0.99, f"slightly more probable {VOICE}"),
        (1.0, f"more probable {VOICE}"),
        (2.0, f"appreciably more probable {VOICE}"),
        (3.0, f"much more probable {VOICE}"),
        (4.0, f"far more probable {VOICE}"),
        (5.99, f"far more probable {VOICE}"),
        (6.0, f"exceedingly more probable {VOICE}"),
        (-0.30, f"no more probable {VOICE}"),
        (-0.5, f"slightly more probable {OTHER}"),
        (-2.5, f"appreciably more probable {OTHER}"),
        (-7.0, f"exceedingly more probable {OTHER}"),
    ],
)
def test_likelihood_ratios_are_said_in_the_words_of_enfsi(likelihood_ratio_log10, words):
    assert likeness_in_words(likelihood_ratio_log10) == words


def test_no_likelihood_ratio_has_no_words():
    assert likeness_in_words(None) is None
