"""Text of strangers in every command: it comes back exactly as JSON, and steers no terminal, spreadsheet or option."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from registry.cli import main
from tests.cli_fakes import CONSENT, Cli, json_lines

pytest_plugins = ["tests.cli_fixtures"]

#: What a terminal would obey, or hide; some of it also looks like a line of ours.
HOSTILE = {
    "ansi": "\x1b[2J\x1b[31mred",
    "c1": "\x9b31m\x84",
    "title": "\x1b]0;owned\x07",
    "newline": "a\nforged: all is well",
    "return": "a\rforged",
    "backspace": "Bo\b\bAda",
    "override": "\u202egpm.exe",
    "isolates": "\u2066a\u2069\u200f",
    "zero width": "A\u200bd\u200da\ufeff",
    "tags": "Ada\U000e0041\U000e007f",
    "separators": "a\u2028forged\u2029",
}

#: Names that people have, and names that only look like something else: all are kept as they are.
KEPT = {
    "apostrophe": "Sinéad O'Connor",
    "quotes": 'Kay "Kay" Starr',
    "persian": "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
    "hebrew": "\u05e9\u05e8\u05d4",
    "arabic": "\u0641\u064a\u0631\u0648\u0632",
    "bengali": "\u09b0\u200d\u09cd\u09af\u09be\u09aa",
    "japanese": "\u5b87\u591a\u7530\u3000\u30d2\u30ab\u30eb",
    "emoji": "DJ \U0001f469\U0001f3fd\u200d\U0001f3a4",
    "symbols": "!!!",
    "option": "-x",
    "long option": "--help",
    "sql": "Robert'); DROP TABLE artists; --",
    "path": "../../etc/passwd",
    "html": "<script>alert(1)</script>",
    "markup": "[red]Ada[/red]",
    "formula": "=HYPERLINK(A1)",
    "template": "%s%n{0}{name}$HOME`id`",
}


HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def check_harmless(*results: Result) -> None:
    """No command wrote a character that steers a terminal, but its own line ends, nor a line of the stranger's."""
    for result in results:
        for text in (result.stdout, result.stderr):
            found = {c for c in text if unicodedata.category(c) in HIDDEN}
            assert found <= {"\n", "\u200c", "\u200d"}
            assert not [line for line in text.splitlines() if line.startswith("forged")]
        assert "Traceback" not in result.stderr


def on(cli: Cli, *words: object, stdin: str | None = None) -> Result:
    """Run a command; `words` may end with ``--`` and what looks like options."""
    split = words.index("--") if "--" in words else len(words)
    return cli(*words[:split], "--home", cli.home, *words[split:], stdin=stdin)


def each_format(cli: Cli, *words: object) -> list[Result]:
    """What a command gives as JSON, as JSON lines, as a table and as CSV."""
    split = words.index("--") if "--" in words else len(words)
    results = [on(cli, *words[:split], "--format", name, *words[split:]) for name in ("json", "jsonl", "table", "csv")]
    assert results[0].stdout.isascii()
    assert results[1].stdout.isascii()
    check_harmless(*results)
    check_csv(results[3].stdout)
    return results


def check_csv(text: str) -> None:
    """No cell is a formula: text that looks like one has an apostrophe in front, and numbers are numbers."""
    for row in csv.reader(io.StringIO(text), strict=True):
        for cell in row:
            if cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
                float(cell)


def named(rows: list[dict[str, Any]], key: str) -> list[str]:
    return [row[key] for row in rows]


# -- names of artists --------------------------------------------------------------------------------------------------


def test_names_are_kept_as_they_are_by_every_command(cli):
    """One registry with all of them, so that they also stand side by side in the tables."""
    names = list(KEPT.values())
    for song, name in enumerate(names):
        enroll = on(cli, "enroll", "--consent", CONSENT, "--", name, cli.sing(f"{song}.wav", 3, song=song))
        assert (enroll.exit_code, name) == (0, name)
        check_harmless(enroll)
    track = cli.sing("t.wav", 3, song=len(names))

    listed = each_format(cli, "artists", "list")
    queried = each_format(cli, "query", track)
    others = [
        *each_format(cli, "tracks", "show", track),
        *each_format(cli, "consents", "list"),
        *each_format(cli, "audit", "show"),
        *each_format(cli, "privacy"),
    ]
    exported, checked = on(cli, "export"), on(cli, "check")

    check_harmless(exported, checked)
    assert {result.exit_code for result in (*listed, *queried, *others, exported, checked)} == {0}
    assert named(json.loads(listed[0].stdout), "name") == named(json_lines(listed[1].stdout), "name") == sorted(names)
    assert all(name in listed[2].stdout for name in names)
    best = [match["artist"] for match in json.loads(queried[0].stdout)[0]["matches"]]
    assert set(best) <= set(names)
    assert f"1. {best[0]}: log10 likelihood ratio " in queried[2].stdout
    assert sorted(named([r for r in json_lines(exported.stdout) if r["type"] == "artist"], "name")) == sorted(names)

    for name in names:
        shown = on(cli, "artists", "show", "--json", "--", name)
        away, back = on(cli, "artists", "rename", "--", name, "Cy"), on(cli, "artists", "rename", "--", "Cy", name)
        asked, removed = on(cli, "artists", "remove", "--", name), on(cli, "artists", "remove", "--yes", "--", name)
        check_harmless(shown, away, back, asked, removed)
        assert [result.exit_code for result in (shown, away, back, asked, removed)] == [0, 0, 0, 1, 0]
        assert named(json.loads(shown.stdout), "name") == [name]
        assert asked.stderr.startswith(f"Remove {name}, ")
    assert on(cli, "artists", "list", "--json").stdout == "[]\n"


def test_a_name_that_steers_a_terminal_is_refused_by_the_name_of_its_character(enrolled):
    song = enrolled.sing("cy.wav", 3)
    for text in HOSTILE.values():
        hidden = min(c for c in text if unicodedata.category(c) in HIDDEN)
        message = f"(U+{ord(hidden):04X} {unicodedata.name(hidden, 'CONTROL CHARACTER')}"

        results = [
            on(enrolled, "enroll", text, song, "--consent", CONSENT),
            on(enrolled, "artists", "rename", "Ada", text),
            on(enrolled, "artists", "alias", "Ada", text),
            on(enrolled, "artists", "split", "Ada", 1, "--into", text),
        ]

        check_harmless(*results)
        assert [(r.exit_code, r.stdout, message in r.stderr, text) for r in results] == [(1, "", True, text)] * 4
    assert named(json.loads(on(enrolled, "artists", "list", "--json").stdout), "name") == ["Ada", "Bo"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 10_000, "the artist's name has 10000 characters, at most 200 are kept"),
        ("", "the artist's name is empty"),
        (" \u3000\u00a0", "the artist's name is empty"),
        ("\u0301\u0308", "has only accents or blanks"),
        ("\u3164\u3164", "has only accents or blanks"),
        ("\u0301 \u2800", "has only accents or blanks"),
        ("A\udce9", "(U+DCE9 NOT UTF-8)"),
    ],
    ids=["long", "empty", "spaces", "marks", "fillers", "blank", "not utf-8"],
)
def test_a_name_that_says_nothing_is_refused(cli, name, message):
    result = on(cli, "enroll", name, cli.sing("cy.wav", 3), "--consent", CONSENT)

    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


# -- everything else ---------------------------------------------------------------------------------------------------


def test_names_of_files_and_texts_about_them_come_back_from_every_command(enrolled):
    """Consent, reason and person at work too; all in one registry, for a table shows them together."""
    texts = [text for text in (*HOSTILE.values(), *KEPT.values()) if "/" not in text]
    folder = enrolled.folder / "in"
    paths = [enrolled.sing(f"in/{text}.wav", 3, song=song, duration_s=4.0) for song, text in enumerate(texts)]
    (folder / f"{HOSTILE['newline']}.flac").write_text("not audio")
    for text, path in zip(texts, paths, strict=True):
        about = {f"--{option}": f"x{text}x" for option in ("consent", "force", "as")}
        enroll = on(enrolled, "enroll", "Cy", path, *(f"{k}={v}" for k, v in about.items()), "--json")
        check_harmless(enroll)
        assert (enroll.exit_code, json.loads(enroll.stdout)[0]["path"]) == (0, str(path))

    again = each_format(enrolled, "enroll", "Cy", folder, "--consent", CONSENT)
    shown = each_format(enrolled, "artists", "show", "Cy")
    consents = each_format(enrolled, "consents", "list", "Cy")
    queried = each_format(enrolled, "query", *sorted(folder.iterdir()))
    tracked = each_format(enrolled, "tracks", "show", paths[0])
    others = [*each_format(enrolled, "audit", "show", "--last", 500), *each_format(enrolled, "privacy")]
    batch, exported = on(enrolled, "batch", folder, "--workers", "1"), on(enrolled, "export")

    check_harmless(batch, exported)
    assert {result.exit_code for result in (*shown, *consents, *tracked, *others, exported)} == {0}
    assert {result.exit_code for result in (*again, *queried, batch)} == {3}
    references = json.loads(shown[0].stdout)[0]["references"]
    assert [[reference[key] for key in ("path", "consent", "enrolled_by")] for reference in references] == [
        [str(path), f"x{text}x", f"x{text}x"] for path, text in zip(paths, texts, strict=True)
    ]
    assert named(json.loads(consents[0].stdout), "ref")[: len(texts)] == [f"x{text}x" for text in texts]
    everything = sorted(map(str, folder.iterdir()))
    assert named(json.loads(again[0].stdout), "path") == named(json.loads(queried[0].stdout), "path") == everything
    assert sorted(named(json_lines(batch.stdout), "path")) == everything
    evidence = [match["evidence"] for match in json.loads(tracked[0].stdout)[0]["matches"] if match["artist"] == "Cy"]
    assert {item["reference"] for items in evidence for item in items} <= {str(path) for path in paths}
    assert named([r for r in json_lines(exported.stdout) if r["type"] == "reference"], "path")[4:] == list(
        map(str, paths)
    )


def test_a_removed_track_is_named_harmlessly(enrolled):
    track = enrolled.sing(f"{HOSTILE['newline']}{HOSTILE['override']}.wav", 3)
    enrolled("query", track)

    asked, removed = on(enrolled, "tracks", "remove", track), on(enrolled, "tracks", "remove", track, stdin="y\n")

    check_harmless(asked, removed)
    assert (asked.exit_code, removed.exit_code) == (1, 0)
    assert "\\nforged: all is well\\u202egpm.exe.wav? [y/N]: " in asked.stderr


def test_cells_of_a_manifest_come_back_exactly(enrolled):
    song = enrolled.sing("t.wav", 3)
    rows = [
        {"path": f"{text}/gone.wav", "title": f"x{text}", "isrc": text, "uploader": text, text: {text: [text]}}
        for text in (*HOSTILE.values(), *KEPT.values())
    ]
    manifest = enrolled.folder / f"m{HOSTILE['newline']}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in (*rows, {"path": song.name})))

    result = on(enrolled, "batch", manifest, "--workers", "1")

    check_harmless(result)
    assert (result.exit_code, result.stdout.isascii()) == (3, True)
    lines = sorted(json_lines(result.stdout), key=lambda line: line["position"])
    assert [
        {
            "path": line["path"],
            "title": line["title"],
            "isrc": line["isrc"],
            "uploader": line["uploader"],
            **line["extra"],
        }
        for line in lines[:-1]
    ] == [{**row, "path": f"{enrolled.folder / row['path']}"} for row in rows]
    assert {line["kind"] for line in lines} == {"missing", None}


def test_what_is_wrong_in_a_manifest_is_said_harmlessly(cli):
    folder = cli.folder
    for number, text in enumerate(HOSTILE.values()):
        (folder / f"{number}-header.csv").write_text(f'"{text}",title\na,b\n', newline="")
        (folder / f"{number}-cells.csv").write_text(f'path,title\n"{text}",b,c\n', newline="")
        (folder / f"{number}-path.jsonl").write_text(json.dumps({"path": [text]}) + "\n")
        (folder / f"{number}-{text}.csv").write_bytes(b"path\n\xff\n")

    results = [on(cli, "batch", path) for path in sorted(folder.glob("*-*.[cj]s*"))]

    check_harmless(*results)
    assert [(r.exit_code, r.stdout, r.stderr[:7]) for r in results] == [(1, "", "Error: ")] * 4 * len(HOSTILE)


def test_a_file_name_that_is_not_utf_8_is_shown_as_a_uri(enrolled):
    path = Path(os.fsdecode(os.fsencode(enrolled.folder) + b"/caf\xe9\x1b[2J.wav"))
    enrolled.sing("cy.wav", 3).rename(path)

    results = each_format(enrolled, "query", path)

    uri = f"file://{enrolled.folder}/caf%E9%1B%5B2J.wav"
    assert json.loads(results[0].stdout)[0]["path"] == uri
    assert all(uri in result.stdout for result in results)


def test_a_terminal_of_another_alphabet_gets_escapes_and_no_traceback(enrolled):
    on(enrolled, "artists", "rename", "Ada", KEPT["japanese"])

    process = enrolled.start("artists", "list", env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    stdout, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (0, "")
    assert "\\u5b87\\u591a" in stdout


# -- what only looks like a name or a number ---------------------------------------------------------------------------


def test_an_empty_name_is_never_the_current_folder(enrolled, monkeypatch):
    """As a variable of the shell leaves it that is not set: the folder would have been enrolled whole."""
    monkeypatch.chdir(enrolled.folder)

    enroll = on(enrolled, "enroll", "Cy", "", "--consent", CONSENT)
    home = enrolled("artists", "list", "--home", "")

    assert [(result.exit_code, result.stdout) for result in (enroll, home)] == [(1, ""), (2, "")]
    assert enroll.stderr == "Error: a recording's name is empty; is a variable of the shell not set?\n"
    assert home.stderr.endswith("the name is empty; is a variable of the shell not set?\n")


def test_a_file_that_is_named_like_an_option_is_read_behind_two_dashes(enrolled, monkeypatch):
    monkeypatch.chdir(enrolled.folder)
    enrolled.sing("--json.wav", 3)

    refused, read = on(enrolled, "query", "--json.wav"), on(enrolled, "query", "--", "--json.wav")

    assert (refused.exit_code, read.exit_code) == (2, 0)
    assert "goes behind --" in refused.stderr
    assert read.stdout.startswith("CLEAR  --json.wav\n")


def test_scans_as_csv_are_rows_for_a_spreadsheet(enrolled):
    flagged = enrolled.sing("=cmd.wav", 1, song=3).rename(enrolled.folder / "=cmd;=1.wav")
    gone = enrolled.folder / "gone.wav"

    query = enrolled("query", flagged, gone, "--format", "csv")
    show = enrolled("tracks", "show", flagged, "--format", "csv")

    (scan,) = json.loads(enrolled("tracks", "show", flagged, "--json").stdout)
    assert (query.exit_code, show.exit_code) == (3, 0)
    first, second = csv.DictReader(io.StringIO(query.stdout))
    (same,) = csv.DictReader(io.StringIO(show.stdout))
    assert same == first
    best = scan["matches"][0]
    evidence = best["evidence"][0]
    expected = {**evidence, **best, **scan}
    assert first == {
        **{name: "" if expected.get(name) is None else str(expected[name]) for name in first},
        "path": f"{enrolled.folder}/=cmd;'=1.wav",
    }
    assert [second[name] for name in ("path", "verdict", "kind", "reason", "artist")] == [
        *(str(gone), "", "missing", "there is no such file", "")
    ]


def test_an_empty_list_as_csv_is_a_header(cli):
    result = cli("artists", "list", "--format", "csv")

    assert result.stdout.startswith("name,")
    assert result.stdout.count("\n") == 1


def test_a_folder_that_cannot_be_listed_is_a_track_that_fails_and_no_recording(enrolled):
    """Its path is too long, which stops root too; one without permission is met in the same way."""
    song = enrolled.sing("in/cy.wav", 3)
    path, descriptor = song.parent, os.open(song.parent, os.O_DIRECTORY)
    while len(os.fsencode(path)) <= os.pathconf("/", "PC_PATH_MAX"):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        path, descriptor = path / ("d" * 200), inner
    os.close(descriptor)

    enroll = on(enrolled, "enroll", "Cy", song.parent, "--consent", CONSENT, "--json")
    batch = on(enrolled, "batch", song.parent, "--workers", "1")

    assert (enroll.exit_code, batch.exit_code) == (3, 3)
    reason = "cannot be read: File name too long"
    assert [(r["path"], r["outcome"], r["reason"].startswith(reason)) for r in json.loads(enroll.stdout)] == [
        (str(song), "enrolled", False),
        (str(path), "invalid", True),
    ]
    lines = {line["path"]: line for line in json_lines(batch.stdout)}
    assert [(lines[str(p)]["outcome"], lines[str(p)]["kind"]) for p in (song, path)] == [
        ("flagged", None),
        ("failed", "unreadable"),
    ]


# -- every argument and option of every command ------------------------------------------------------------------------


def each_place() -> Iterator[tuple[tuple[str, ...], click.Command, click.Parameter]]:
    """Every argument and option that takes text, of every command: the command's words, it, and the parameter."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        inner = command.commands.items() if isinstance(command, click.Group) else ()
        for words, each in [((name,), command), *(((name, word), it) for word, it in inner)]:
            for parameter in each.params:
                if not getattr(parameter, "is_flag", False):
                    yield words, each, parameter


@pytest.mark.parametrize("text", ["\x1b[2J\u202e\x9b31m\u2028\nforged", "caf\udce9"], ids=["hostile", "not utf-8"])
def test_no_argument_or_option_of_any_command_is_echoed_raw(enrolled, monkeypatch, text):
    """Whatever a command thinks of the text: an exit code of ours, and no character that steers a terminal."""
    monkeypatch.chdir(enrolled.folder)
    monkeypatch.setattr(Cli, "_home", lambda self, arguments: [])
    places = list(each_place())
    for words, command, place in places:
        home = [] if place.name == "home" else ["--home", enrolled.home]
        option = [f"{place.opts[0]}={text}"] if isinstance(place, click.Option) else []
        given = [
            text if it is place else 1 if isinstance(it.type, click.types.IntParamType) else "Ada"
            for it in command.params
            if isinstance(it, click.Argument) and (it.required or it is place)
        ]

        result = enrolled(*words, *home, *option, *given)

        check_harmless(result)
        assert (result.exit_code in (0, 1, 2, 3, 4), words, place.name) == (True, words, place.name)
    assert len(places) > 50


def test_a_command_or_option_that_is_not_there_is_echoed_escaped(cli, monkeypatch):
    monkeypatch.setattr(Cli, "_home", lambda self, arguments: [])
    for text in HOSTILE.values():
        results = [cli(text), cli(f"--{text}"), cli("query", f"--{text}"), cli("artists", text)]

        check_harmless(*results)
        assert [(result.exit_code, text) for result in results] == [(2, text)] * 4
