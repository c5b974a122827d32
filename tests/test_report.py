from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import replace

import pytest

from registry.records import Evidence, Match, Scan, Unusable
from registry.report import SCAN_COLUMNS, clock, csv_text, printable, scan_row, scan_text, table_text

SCAN = Scan(
    path="in/suspect.mp3",
    verdict="flagged",
    reason="the best of 12 artists has log10 likelihood ratio 1.75, the threshold is 1.25",
    duration_s=215.31,
    voiced_s=128.0,
    n_windows=70,
    n_artists=12,
    threshold=1.25,
    threshold_source="made up for tests",
    encoder_id="f" * 64,
    cohort_id="c" * 64,
    store_revision=3,
    content_id="0" * 64,
    scanned_at="2026-01-02T03:04:05Z",
    matches=(
        Match(
            *(1, 7, "Ada", 0.714, 4.91, 1.75, "more probable if ...", True),
            (Evidence(61.5, 65.5, 1, "/m/a.wav", 4, 8, 0.81),),
        ),
        Match(
            *(2, 9, "Bo", 0.4, 1.5, -0.5, "slightly more probable if ...", False),
            (Evidence(0, 4, 2, "/m/b.wav", 0, 4, 0.5),),
        ),
    ),
)


def test_a_flagged_scan_shows_what_a_person_needs_to_check_it_by_ear():
    assert scan_text(SCAN) == (
        "FLAGGED  in/suspect.mp3\n"
        "  the best of 12 artists has log10 likelihood ratio 1.75, the threshold is 1.25\n"
        "  128.0 s of voice in 215.3 s; 12 artists matched\n"
        " *1. Ada: log10 likelihood ratio +1.75, norm score 4.91, cosine 0.714\n"
        "     more probable if ...\n"
        "     listen: track 1:01.5 to 1:05.5, /m/a.wav 0:04.0 to 0:08.0 (cosine 0.810)\n"
        "  2. Bo: log10 likelihood ratio -0.50, norm score 1.50, cosine 0.400\n"
        "  encoder ffffffffffff, cohort cccccccccccc, threshold 1.25: made up for tests\n"
        "  A flag is a lead: listen to the stretches above before anything is done about this track."
    )


def test_what_crowding_took_off_stands_behind_the_llr_of_the_best_and_of_who_is_flagged():
    first, second = replace(SCAN.matches[0], taken_off=0.98), replace(SCAN.matches[1], taken_off=0.29)

    def said(*matches: Match) -> list[str]:
        return [line for line in scan_text(replace(SCAN, matches=matches)).splitlines() if line[2:5] in ("1. ", "2. ")]

    assert said(first, second) == [
        " *1. Ada: log10 likelihood ratio +1.75 (0.98 taken off: other voices come near), norm score 4.91, "
        "cosine 0.714",
        "  2. Bo: log10 likelihood ratio -0.50, norm score 1.50, cosine 0.400",
    ]
    assert "(0.29 taken off" in said(first, replace(second, flagged=True))[1]
    assert said(SCAN.matches[0], second)[0] == " *1. Ada: log10 likelihood ratio +1.75, norm score 4.91, cosine 0.714"


@pytest.mark.parametrize(("run_id", "by"), [(None, "by a query"), (3, "run 3")])
def test_a_scan_on_record_says_when_it_was_made_and_by_what(run_id, by):
    scan = replace(SCAN, run_id=run_id)

    lines = scan_text(scan, dated=True).splitlines()

    assert lines.pop(3) == f"  scanned 2026-01-02T03:04:05Z, {by}"
    assert "\n".join(lines) == scan_text(scan)


def test_a_scan_whose_flagged_artist_was_removed_says_so_and_points_at_nothing():
    text = scan_text(replace(SCAN, matches=SCAN.matches[1:]))

    assert text.endswith("The artist it was flagged for has been removed from the registry since.")
    assert "listen" not in text


def test_every_artist_above_the_threshold_comes_with_evidence():
    second = replace(SCAN.matches[1], flagged=True)

    text = scan_text(replace(SCAN, matches=(SCAN.matches[0], second)))

    assert " *2. Bo" in text
    assert "listen: track 0:00.0 to 0:04.0, /m/b.wav" in text


def test_flagged_artists_who_are_noted_as_sounding_alike_are_said_to_be():
    first, second = replace(SCAN.matches[0], lookalike_ids=(9,)), replace(SCAN.matches[1], lookalike_ids=(7,))
    both = replace(SCAN, matches=(first, replace(second, flagged=True, artist="B\x1bo")))
    one = replace(SCAN, matches=(first, second))

    assert [line for line in scan_text(both).splitlines() if "alike" in line] == [
        "  Ada and B\\x1bo are noted as sounding alike"
    ]
    assert "alike" not in scan_text(one)


def test_a_clear_scan_shows_its_best_artist_and_raises_no_alarm():
    unlike = {"norm_score": 1.0, "llr": None, "likeness": None, "flagged": False}
    clear = replace(SCAN, verdict="clear", matches=tuple(replace(m, **unlike) for m in SCAN.matches))

    assert scan_text(clear).splitlines()[3:] == [
        "  1. Ada: norm score 1.00, cosine 0.714",
        "     listen: track 1:01.5 to 1:05.5, /m/a.wav 0:04.0 to 0:08.0 (cosine 0.810)",
        "  2. Bo: norm score 1.00, cosine 0.400",
        "  encoder ffffffffffff, cohort cccccccccccc, threshold 1.25: made up for tests",
    ]


def test_a_track_that_could_not_be_used_shows_why():
    text = scan_text(Unusable("in/\x1b[2Jsuspect.mp3", "empty", "0 bytes; copy or download it again"))

    assert text == "FAILED  in/\\x1b[2Jsuspect.mp3\n  0 bytes; copy or download it again"


HOSTILE = {
    "\x1b[2J": "\\x1b[2J",
    "a\nFLAGGED b": "a\\nFLAGGED b",
    "a\rb": "a\\rb",
    "a\tb": "a\\tb",
    "\x00": "\\x00",
    "\x7f": "\\x7f",
    "\x9b31m": "\\x9b31m",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066\u2069": "\\u2066\\u2069",
    "\u200b\u200f\ufeff": "\\u200b\\u200f\\ufeff",
    "\u2028\u2029": "\\u2028\\u2029",
    "\U000e0041": "\\U000e0041",
    "caf\udce9": "caf\\udce9",
}


@pytest.mark.parametrize(("text", "escaped"), HOSTILE.items())
def test_text_of_strangers_cannot_steer_a_terminal(text, escaped):
    assert printable(text) == escaped


@pytest.mark.parametrize("text", ["Zoé", "李娜", "Ядвига", "שרה", "🎤 live", "Zoe\u0301", "a b"])
def test_text_in_any_script_is_shown_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",  # a Persian name of two words written as one
        "\u06f1\u06f0\u200c\u0633\u0627\u0644\u0647",  # Persian, behind digits
        "mp3\u200c\u0647\u0627",  # Persian plural of a Latin word
        "\u09b0\u200d\u09cd\u09af\u09be\u09aa",  # Bengali "rap", before a virama
        "\u0d05\u0d35\u0d28\u0d4d\u200d",  # Malayalam, at the end of a word, behind a virama
        "\U0001f469\U0001f3fd\u200d\U0001f3a4",  # the emoji of a singer
    ],
)
def test_joiners_inside_a_word_are_shown_as_they_are(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    "text", ["Ad\u200da", "Ad\u200ca", "\u200cAda", "Ada\u200d", "\u0639 \u200c\u0631", "\u0639\u200c"]
)
def test_joiners_that_join_nothing_are_escaped(text):
    assert printable(text) == text.replace("\u200c", "\\u200c").replace("\u200d", "\\u200d")


def test_every_place_where_strangers_text_is_shown_is_escaped():
    bad = "\x1b]0;\u202e\n"
    evidence = Evidence(0, 4, 2, bad, 0, 4, 0.5)
    scan = replace(
        SCAN,
        path=bad,
        reason=bad,
        threshold_source=bad,
        matches=(replace(SCAN.matches[0], artist=bad, evidence=(evidence,)),),
    )

    text = scan_text(scan) + "\n" + table_text([{"path": bad, "n": 1}], ["path", "n"])

    assert {c for c in text if unicodedata.category(c) in ("Cc", "Cf")} == {"\n"}
    assert text.count("\n") == 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00.0"),
        (3.04, "0:03.0"),
        (59.94, "0:59.9"),
        (59.96, "1:00.0"),
        (125.5, "2:05.5"),
        (3599.99, "1:00:00.0"),
        (36_061.25, "10:01:01.2"),
    ],
)
def test_times_read_as_in_a_player(seconds, text):
    assert clock(seconds) == text


def test_a_table_has_a_column_for_each_key_asked_for():
    rows = [
        {"name": "Ada", "voiced_s": 12.345, "kept": None, "other": "left out"},
        {"name": "Bo Longname", "voiced_s": 3.0, "kept": True},
    ]

    assert table_text(rows, ["name", "voiced_s", "kept"]) == (
        "name         voiced_s  kept\n-----------  --------  ----\nAda          12.3\nBo Longname  3.0       True"
    )


def test_a_table_without_rows_is_nothing():
    assert table_text([], ["name"]) == ""


# -- CSV ---------------------------------------------------------------------------------------------------------------


def cells(rows: list[dict], columns: list[str] | tuple[str, ...] = ()) -> list[list[str]]:
    return list(csv.reader(io.StringIO(csv_text(rows, columns)), strict=True))


def test_csv_has_a_header_and_keeps_numbers_and_text():
    rows = [
        {"name": 'Ada "V", jr.', "voiced_s": 12.345, "kept": None, "left_out": 1},
        {"name": "Zo\u00e9; \u674e\u5a1c", "voiced_s": -3.0, "kept": True},
    ]

    assert csv_text(rows, ["name", "voiced_s", "kept"]) == (
        'name,voiced_s,kept\n"Ada ""V"", jr.",12.345,\nZo\u00e9; \u674e\u5a1c,-3.0,True\n'
    )


def test_csv_without_columns_has_all_keys_and_nested_values_as_json():
    assert cells([{"a": 1, "b": [{"c": "\u202e"}]}, {"a": 2, "d": {}}]) == [
        ["a", "b", "d"],
        ["1", '[{"c": "\\u202e"}]', ""],
        ["2", "", "{}"],
    ]


def test_csv_of_nothing_is_its_header():
    assert csv_text([], ["a", "b"]) == "a,b\n"
    assert csv_text([]) == ""


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+49 30", "'+49 30"),
        ("-1.5", "'-1.5"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\uff1d1+1", "'\uff1d1+1"),  # full width
        ("a;=1+1", "a;'=1+1"),  # a cell of its own where a semicolon parts them
        ("\t=1+1", "\\t=1+1"),
        ("\r=1+1", "\\r=1+1"),
        ("a\n=1+1", "a\\n=1+1"),
        ("\x1b[2J\u202e", "\\x1b[2J\\u202e"),
        (["=1"], '["=1"]'),
        ("Ada-Vale = 1", "Ada-Vale = 1"),
        ("'=1", "'=1"),
    ],
)
def test_no_cell_of_csv_is_a_formula_or_steers_a_terminal(text, cell):
    assert cells([{"title": text}]) == [["title"], [cell]]


def test_a_scan_as_csv_is_one_row_with_its_best_artist():
    header, flagged, failed = cells([scan_row(SCAN), scan_row(Unusable("in/x.wav", "empty", "0 bytes"))], SCAN_COLUMNS)

    assert dict(zip(header, flagged, strict=True)) == {
        "path": "in/suspect.mp3",
        "verdict": "flagged",
        "kind": "",
        "reason": SCAN.reason,
        "artist": "Ada",
        "norm_score": "4.91",
        "llr": "1.75",
        "likeness": "more probable if ...",
        "threshold": "1.25",
        "track_start_s": "61.5",
        "track_end_s": "65.5",
        "reference": "/m/a.wav",
        "reference_start_s": "4",
        "reference_end_s": "8",
        "voiced_s": "128.0",
        "duration_s": "215.31",
        "n_artists": "12",
        "scanned_at": "2026-01-02T03:04:05Z",
        "scan_id": "",
        "run_id": "",
        "content_id": "0" * 64,
        "encoder_id": "f" * 64,
    }
    assert {name: value for name, value in zip(header, failed, strict=True) if value} == {
        "path": "in/x.wav",
        "kind": "empty",
        "reason": "0 bytes",
    }
