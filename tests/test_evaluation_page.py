"""The page loads nothing, runs nothing, and shows strangers' text as text."""

from __future__ import annotations

import builtins
import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from registry.errors import RegistryError
from registry.evaluate import evaluate
from registry.evaluation_page import POLICY, check_drawing, evaluation_page
from registry.records import Unusable
from tests.trial_fakes import calibration, make_scores

EVIL = '<script>alert("1")</script><img src=http://evil.example/x onerror=alert(1)>&\u202e'


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def page():
    scores = make_scores(10, 6, 2, own=2.5)
    names = (EVIL, *scores.persons[1:])
    paths = (f"/music/{EVIL}.wav", *scores.paths[1:])
    norm = scores.norm.copy()
    norm[0, 1] = 9.0  # the recording with the evil name is flagged for somebody else
    scores = dataclasses.replace(scores, persons=names, paths=paths, norm=norm)
    evaluation = evaluate(scores, calibration(source=f"made up {EVIL}"))
    unusable = [Unusable(f"{EVIL}.flac", "not_audio", f"no decoder knows {EVIL}")]
    return evaluation_page(evaluation, unusable, made_at="2027-01-02T03:04:05Z", version="0.2.0", title=EVIL)


def test_the_page_loads_and_runs_nothing(page):
    parsed = Elements(page)

    assert parsed.open == []
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "img", "image", "link", "iframe", "object", "embed", "base", "form", "a", "audio"}
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")]
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), tag
    assert set(re.findall(r"url\((.)", page)) == {"#"}
    assert "@import" not in page
    policies = [a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert "default-src 'none'" in POLICY and "script" not in POLICY


def test_what_strangers_wrote_is_text(page):
    words = "".join(Elements(page).words)

    assert "<script" not in page and "\u202e" not in page
    assert words.count(EVIL.replace("\u202e", "\\u202e")) >= 6
    assert page.count("http:") == words.count("http:")  # only as text


def test_the_page_has_tables_plots_and_what_they_stand_on(page):
    parsed = Elements(page)
    words = " ".join(parsed.words)

    plots = [attributes["aria-label"] for tag, attributes in parsed.elements if tag == "svg"]
    assert plots == ["DET", "Tippett", "Reliability", "FNIR against the number of artists"]
    for text in (
        "EER %",
        "Cllr_min, bits",
        "FNIR % clones",
        "FPIR of 10 persons, 60 tracks",
        "false accepts, %",
        "0.3 %",
    ):
        assert text in words
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "2027-01-02T03:04:05Z" in words


def test_the_same_figures_make_the_same_page():
    evaluation = evaluate(make_scores(6, 4), calibration())

    one, other = (evaluation_page(evaluation, [], made_at="now", version="1") for _ in range(2))

    assert one == other


def test_a_page_of_too_few_persons_says_so_and_has_no_plots():
    evaluation = evaluate(make_scores(3, 4), calibration())

    page = evaluation_page(evaluation, [], made_at="now", version="1")

    assert "no rates are given: 3 of at least 5 persons" in page
    assert "<svg" not in page and "<table" not in page


def test_perfect_scores_have_a_page_too():
    scores = make_scores(6, 4, own=50.0, spread=0.1)

    page = evaluation_page(evaluate(scores, calibration()), [], made_at="now", version="1")

    assert page.count("<svg") == 4
    everything = dataclasses.replace(scores, norm=np.full_like(scores.norm, 1.0))  # and scores that say nothing
    assert "<svg" in evaluation_page(evaluate(everything, calibration()), [], made_at="now", version="1")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(RegistryError, match=r"needs matplotlib.*pip install 'likeness\[report\]'"):
        check_drawing()


def test_matplotlib_is_imported_when_a_page_is_drawn_and_not_before():
    code = "import sys, registry.evaluation_page, registry.cli.evaluate; sys.exit('matplotlib' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
