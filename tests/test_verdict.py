from __future__ import annotations

import pytest

from registry.records import Match
from registry.verdict import MIN_VOICE_S, decide, lack_of_voice, likeness_in_words

VOICE = "if the track carries this voice or an imitation of it than if it carries another singer's"
OTHER = "if the track carries another singer's than if it carries this voice or an imitation of it"


def matches(*norm_scores: float) -> list[Match]:
    return [Match(k, k, f"artist {k}", 0.5, score, None, None, ()) for k, score in enumerate(norm_scores, start=1)]


@pytest.mark.parametrize(
    ("norm_scores", "decision"),
    [
        ((4.4,), ("flagged", "the best of 9 artists has norm score 4.400, the threshold is 4.400")),
        ((6.0, 5.0, 1.0), ("flagged", "the best of 9 artists has norm score 6.000, the threshold is 4.400")),
        ((4.399, 4.0), ("clear", "the best of 9 artists has norm score 4.399, below the threshold 4.400")),
        ((-1.5,), ("clear", "the best of 9 artists has norm score -1.500, below the threshold 4.400")),
        ((), ("clear", "there is no artist to match with")),
    ],
)
def test_the_best_match_decides(norm_scores, decision):
    assert decide(matches(*norm_scores), threshold=4.4, voiced_s=20.0, n_artists=9) == decision


@pytest.mark.parametrize(
    ("voiced_s", "verdict"), [(0.0, "abstained"), (MIN_VOICE_S - 1 / 32, "abstained"), (MIN_VOICE_S, "flagged")]
)
def test_with_too_little_voice_nothing_is_said_of_anybody(voiced_s, verdict):
    assert decide(matches(9.0), threshold=4.4, voiced_s=voiced_s, n_artists=1)[0] == verdict


def test_the_reason_names_nobody():
    """It is stored beside the scan, and outlives an artist's name and an artist."""
    for norm_score in (9.0, 0.0):
        assert "artist 1" not in decide(matches(norm_score), threshold=4.4, voiced_s=9.0, n_artists=3)[1]


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
