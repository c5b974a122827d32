from __future__ import annotations

import csv
import io
import json
import re

import pytest

from tests.cli_fakes import write_csv
from tests.fakes import table_counts
from tests.trial_fakes import Choir, write_choir

pytest_plugins = ["tests.cli_fixtures"]


@pytest.fixture
def choir(monkeypatch) -> Choir:
    choir = Choir()
    monkeypatch.setattr("registry.trials.embed_file", choir.embed_file)
    return choir


@pytest.fixture
def singers(cli, choir):
    return write_choir(cli.folder / "singers", 8, 4)


def state(cli):
    """What is in the registry, and which files it has."""
    with cli.store() as store:
        return table_counts(store), store.revision, sorted(path.name for path in cli.home.iterdir())


def test_a_folder_is_evaluated_without_leaving_a_trace(cli, singers):
    before = state(cli)

    result = cli("evaluate", singers)

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(
        "8 persons, 32 recordings: 8 persons enrolled from 16 recordings, 16 other recordings of theirs tested"
    )
    for words in ("EER %", "Cllr_min, bits", "0.3 %", "With more and more artists", "made up for tests"):
        assert words in result.stdout
    assert state(cli) == before


def test_json_is_one_record_with_counts_beside_every_figure(cli, singers):
    result = cli("evaluate", singers, "--json", "--budget", "2%", "--budget", "0.2%", "--budget", "0.02")

    (record,) = json.loads(result.stdout)
    assert [point["budget"] for point in record["budgets"]] == [0.02, 0.002]
    (genuine,) = record["targets"]
    assert (genuine["kind"], genuine["n_persons"], genuine["n_tracks"]) == ("genuine", 8, 16)
    assert set(genuine["figures"]) == {"eer", "auc", "min_dcf", "cllr", "cllr_min"}
    for figure in genuine["figures"].values():
        assert set(figure) == {"value", "low", "high", "n_persons", "n_tracks"}
    assert record["calibration_source"] == "made up for tests"
    assert (record["unusable"], record["too_few"]) == ([], None)
    assert cli("evaluate", singers, "--budget", "2%", "--budget", "0.2%", "--json").stdout != ""


def test_the_same_recordings_always_give_the_same_figures(cli, singers):
    one, other = (json.loads(cli("evaluate", singers, "--json").stdout)[0] for _ in range(2))

    del one["evaluated_at"], other["evaluated_at"]
    assert one == other


def test_csv_has_a_row_for_every_figure(cli, singers):
    rows = list(csv.DictReader(io.StringIO(cli("evaluate", singers, "--format", "csv").stdout)))

    assert rows[0]["figure"] == "EER %"
    assert (rows[0]["n_persons"], rows[0]["n_tracks"]) == ("8", "16")
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)


def test_bad_files_are_named_and_left_out(cli, singers):
    (singers / "person 00" / "broken.wav").touch()
    (singers / "stray.wav").touch()

    as_table, as_json = cli("evaluate", singers), cli("evaluate", singers, "--json")
    as_csv = cli("evaluate", singers, "--format", "csv")

    assert [result.exit_code for result in (as_table, as_json, as_csv)] == [3, 3, 3]
    assert as_table.stderr == as_json.stderr == "2 of 34 recordings could not be used\n"
    assert f"  {singers / 'person 00' / 'broken.wav'}: no decoder knows it" in as_table.stdout.splitlines()
    assert [each["kind"] for each in json.loads(as_json.stdout)[0]["unusable"]] == ["no_person", "not_audio"]
    assert f"{singers / 'stray.wav'}: lies in no person's folder" in as_csv.stderr
    assert json.loads(as_json.stdout)[0]["n_tracks"] == 32


def test_a_manifest_with_clones_tests_them_with_who_they_imitate(cli, choir):
    rows = [["path", "person", "kind", "source"]]
    for who in range(7):
        rows += [[f"p{who}-{i}.wav", f"P{who}", "voice", "studio" if i % 2 else ""] for i in range(4)]
        rows += [[f"p{who}-clone-{i}.wav", f"P{who}", "clone", ""] for i in range(2)]
    rows += [["x-clone-1.wav", "Nobody", "clone", ""]]
    manifest = write_csv(cli.folder / "trials.csv", rows)

    result = cli("evaluate", manifest, "--json")

    (record,) = json.loads(result.stdout)
    assert {each["kind"]: (each["n_persons"], each["n_tracks"]) for each in record["targets"]} == {
        "genuine": (7, 14),
        "clones": (7, 14),
    }
    assert (record["n_clones"], record["n_stranger_tracks"]) == (15, 28)
    assert result.stderr == "warning: not tested: 1 of the clones, nothing of whom they imitate is enrolled\n"
    genuine, clones = (each["figures"]["auc"]["value"] for each in record["targets"])
    assert genuine > clones > 0.5


def test_too_few_persons_are_said_and_get_no_rates(cli, choir):
    few = write_choir(cli.folder / "few", 3, 4)
    (cli.folder / "nobody").mkdir()

    table, as_csv = cli("evaluate", few), cli("evaluate", few, "--format", "csv")
    page = cli.folder / "page.html"
    nobody = cli("evaluate", cli.folder / "nobody", "--json", "--html", page)

    assert table.exit_code == as_csv.exit_code == nobody.exit_code == 0
    assert "no rates are given: 3 of at least 5 persons" in table.stdout
    assert "%" not in table.stdout
    assert as_csv.stderr.startswith("no rates are given")
    (record,) = json.loads(nobody.stdout)
    assert (record["n_persons"], record["targets"], record["too_few"][:4]) == (0, [], "0 of")
    assert "no rates are given" in page.read_text()


def test_the_page_is_one_file_and_escapes_names(cli, choir):
    rows = [["path", "person"]]
    rows += [[f"p{who}-{i}.wav", f"<script>P{who}</script>"] for who in range(6) for i in range(4)]
    manifest = write_csv(cli.folder / "<b>.csv", [*rows, ["<img src=x>.wav", "<script>P1</script>"]])
    page = cli.folder / "report.html"

    result = cli("evaluate", manifest, "--html", page)

    text = page.read_text(encoding="utf-8")
    assert result.exit_code == 3
    assert f"{page}: the page, with plots; it names persons and recordings" in result.stderr
    assert text.count("<svg") == 4
    assert "&lt;script&gt;P1&lt;/script&gt;" in text and "&lt;img src=x&gt;.wav" in text
    assert not re.search(r"<script|<img|https?://", text)
    assert "Content-Security-Policy" in text


def test_what_cannot_be_done_is_refused_before_anything_is_heard(cli, choir, singers, monkeypatch):
    def missing() -> None:
        from registry.errors import RegistryError

        raise RegistryError("the page needs matplotlib")

    (cli.folder / "song.wav").touch()
    (bad := cli.folder / "bad.csv").write_text("path\na.wav\n")

    not_a_share = cli("evaluate", singers, "--budget", "7")
    no_folder = cli("evaluate", singers, "--html", cli.folder / "gone" / "page.html")
    neither, no_person = cli("evaluate", cli.folder / "song.wav"), cli("evaluate", bad)
    monkeypatch.setattr("registry.evaluation_page.check_drawing", missing)
    no_matplotlib = cli("evaluate", singers, "--html", cli.folder / "page.html")

    results = (not_a_share, no_folder, neither, no_person, no_matplotlib)
    assert [result.exit_code for result in results] == [2, 2, 1, 1, 1]
    assert "a budget is a share above 0 and below 1" in not_a_share.stderr
    assert f"folder {cli.folder / 'gone'} is not there" in no_folder.stderr
    assert "neither a folder, with one folder per person in it, nor a manifest" in neither.stderr
    assert f"{bad}: line 2: no `person`" in no_person.stderr
    assert choir.n_heard == 0


def test_an_encoder_without_a_calibration_has_nothing_to_evaluate_by(cli, singers, monkeypatch):
    monkeypatch.setattr("tests.cli_fakes.load_calibration", lambda directory: None)

    result = cli("evaluate", singers)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no calibration" in result.stderr and "`likeness calibrate`" in result.stderr


def test_recordings_are_decoded_and_heard_as_a_query_does(cli):
    """From files, by the child decoder: five made-up singers, and a file that is no audio."""
    for who in range(5):
        for song in range(2):
            cli.sing(f"trials/singer {who}/{song}.wav", who + 1, song=song, duration_s=4.0)
    (cli.folder / "trials" / "singer 1" / "noise.wav").write_bytes(b"RIFF no audio")

    result = cli("evaluate", cli.folder / "trials", "--json")

    assert result.exit_code == 3
    (record,) = json.loads(result.stdout)
    assert (record["n_persons"], record["n_models"], record["n_tracks"], record["n_abstained"]) == (5, 5, 10, 0)
    assert [each["kind"] for each in record["unusable"]] == ["not_audio"]
    assert record["targets"][0]["figures"]["auc"]["value"] > 0.5
