from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.model_dir import CALIBRATION, COHORT, GOLDEN, HOUSE_DIR, load_cohort, model_digest, write_sums
from registry import audit
from registry.status import registry_status
from tests.cli_fakes import ENCODER_ID, OTHER_DIM, OTHER_ENCODER_ID, Cli, check_units, synth_voices
from tests.fakes import files_holding

pytest_plugins = ["tests.cli_fixtures"]


def outcome(result: Any) -> dict[str, Any]:
    (row,) = json.loads(result.stdout)
    check_units(row)
    return row


def encoder_id(cli: Cli) -> str | None:
    with cli.store() as store:
        return store.encoder_id


def test_every_reference_is_made_anew_and_the_registry_goes_over(enrolled, other_model):
    result = enrolled("reembed", "--encoder", other_model, "--trust-model", "--as", "ida")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        f"{enrolled.home}: 4 references are made with {other_model} (bbbbbbbbbbbb), which is the encoder from now on",
        "its calibration: made up for tests",
        "its scores are on another scale than before; calibrations that were fitted here were for the other encoder",
        "what `enroll` asks of recordings of one voice was measured with the built-in encoder",
    ]
    (query,) = json.loads(enrolled("query", enrolled.sing("new.wav", 1, song=7), "--json").stdout)
    assert query["encoder_id"] == OTHER_ENCODER_ID
    assert (query["matches"][0]["artist"], query["n_artists"]) == ("Ada", 2)
    check = enrolled("check")
    assert (check.exit_code, check.stdout) == (0, "")
    with enrolled.store() as store:
        assert store.encoder()["dim"] == OTHER_DIM
        assert registry_status(store).index == "fresh"
        done = [(entry.action, entry.payload["by"]) for entry in audit.entries(store)]
    assert done[-3:-1] == [("encoder.prepare", "ida"), ("encoder.change", "ida")]  # and then the query
    again = enrolled("reembed")
    assert (again.exit_code, again.stdout) == (0, "")
    assert (
        again.stderr
        == f"{enrolled.home}: every reference is made with {other_model} (bbbbbbbbbbbb) already; nothing to do\n"
    )


def test_json_is_the_outcome(enrolled, model, other_model):
    result = enrolled("reembed", "--encoder", other_model, "--trust-model", "--json")

    assert result.exit_code == 0
    assert outcome(result) == {
        **{"from_encoder_id": ENCODER_ID, "source": str(other_model), "encoder_id": OTHER_ENCODER_ID},
        **{"n_references": 4, "changed": True, "lacking": []},
    }


def test_a_model_is_not_run_before_it_is_trusted(enrolled, other_model):
    result = enrolled("reembed", "--encoder", other_model)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {other_model}: a model directory is code and runs when it is loaded.")
    assert encoder_id(enrolled) == ENCODER_ID


def test_a_dry_run_says_what_there_is_to_do(enrolled, other_model):
    path = enrolled.folder / "Ada/song-1.wav"
    path.unlink()

    result = enrolled("reembed", "--encoder", other_model, "--trust-model", "--dry-run")
    as_json = enrolled("reembed", "--encoder", other_model, "--trust-model", "--dry-run", "--json")

    lacking = {"reference_id": 2, "artist": "Ada", "path": str(path), "kind": "missing"}
    lacking |= {"reason": "there is no such file"}
    assert (result.exit_code, as_json.exit_code) == (0, 0)
    assert [line.split() for line in result.stdout.splitlines()[2:]] == [
        ["2", "Ada", str(path), "missing", *["there", "is", "no", "such", "file"]]
    ]
    assert result.stderr == (
        f"4 of 4 references, 0.0 hours, are to be made with {other_model} (bbbbbbbbbbbb): 0 from kept copies, 3 from "
        "where they were enrolled from; 1 recordings are gone. Nothing was changed\n"
    )
    assert outcome(as_json) == {
        **{"from_encoder_id": ENCODER_ID, "source": str(other_model), "encoder_id": OTHER_ENCODER_ID},
        **{"n_references": 4, "n_left": 4, "duration_s": 24.0, "n_kept": 0, "n_paths": 3, "changed": False},
        "lacking": [lacking],
    }
    with enrolled.store() as store:
        assert registry_status(store).preparation is None
        assert store.setting("trusted_models") and len(store.setting("trusted_models")) == 1


def test_nothing_changes_while_recordings_are_gone_unless_they_are_left_out(enrolled, other_model, tmp_path):
    path, elsewhere = enrolled.folder / "Ada/song-1.wav", tmp_path / "elsewhere.wav"
    path.rename(elsewhere)

    refused = enrolled("reembed", "--encoder", other_model, "--trust-model", "--json")

    assert refused.exit_code == 3
    assert [each["path"] for each in outcome(refused)["lacking"]] == [str(path)]
    assert refused.stderr == (
        f"{enrolled.home}: goes on with the present encoder; 3 references are prepared and 1 cannot be made anew. Put "
        "their recordings back and give the command again, or go over without them: --leave-out\n"
    )
    assert encoder_id(enrolled) == ENCODER_ID
    (status,) = json.loads(enrolled("status", "--json").stdout)
    assert {name: status["preparation"][name] for name in ("encoder_id", "n_made", "n_left")} == {
        **{"encoder_id": OTHER_ENCODER_ID, "n_made": 3, "n_left": 1},
    }

    done = enrolled("reembed", "--leave-out")  # which encoder is known from before, and that it may run

    assert done.exit_code == 0
    assert "1 references are not matched: they wait for their recordings, and for `likeness reembed`" in done.stderr
    assert encoder_id(enrolled) == OTHER_ENCODER_ID
    shown = enrolled("artists", "show", "Ada")
    references = shown.stdout.partition("\n\n")[0]
    assert [line.split()[:2] for line in references.splitlines()[2:]] == [["1", "active"], ["2", "waiting"]]
    assert shown.stderr.endswith(
        "1 references wait for their recordings, and are not matched: put them back where they were and run `likeness "
        "reembed`, or remove and enroll them\n"
    )
    revision = enrolled.rows("SELECT value FROM meta WHERE key = 'revision'")
    still_gone = enrolled("reembed")
    assert still_gone.exit_code == 3
    assert enrolled.rows("SELECT value FROM meta WHERE key = 'revision'") == revision  # no batch has to care

    elsewhere.rename(path)
    back = enrolled("reembed")

    assert (back.exit_code, back.stdout) == (0, "")
    assert [
        row["status"] for row in json.loads(enrolled("artists", "show", "Ada", "--json").stdout)[0]["references"]
    ] == [
        *("active", "active"),
    ]


def test_what_is_prepared_is_dropped_when_asked_to(enrolled, other_model):
    (enrolled.folder / "Ada/song-1.wav").unlink()
    enrolled("reembed", "--encoder", other_model, "--trust-model")

    dropped, again = enrolled("reembed", "--abandon"), enrolled("reembed", "--abandon")

    assert (dropped.exit_code, again.exit_code) == (0, 0)
    assert dropped.stderr == f"{enrolled.home}: 3 references prepared with {other_model} were dropped\n"
    assert again.stderr == f"{enrolled.home}: nothing is prepared; nothing to do\n"
    assert enrolled.rows("SELECT * FROM staged_references") == []
    assert enrolled("query", enrolled.sing("new.wav", 1, song=7)).exit_code == 0
    nothing = enrolled("reembed")
    assert nothing.stderr.endswith("(aaaaaaaaaaaa) already; nothing to do\n")


def test_an_encoder_without_a_calibration_is_refused_unless_one_is_to_be_made(enrolled, other_model, tmp_path):
    bare = tmp_path / "other"
    bare.mkdir()
    for name in ("hyperparams.yaml", "cohort.npz"):
        (bare / name).write_bytes((other_model / name).read_bytes())

    refused = enrolled("reembed", "--encoder", bare, "--trust-model")
    done = enrolled("reembed", "--encoder", bare, "--trust-model", "--no-calibration")

    assert (refused.exit_code, done.exit_code) == (1, 0)
    assert f"encoder {bare}: has no calibration, so its scores are no evidence yet" in refused.stderr
    assert "it has no calibration, so nothing is decided before `likeness calibrate`" in done.stderr
    track = enrolled.sing("new.wav", 1, song=7)
    for threshold in ([], ["--threshold", "1.5"]):
        queried = enrolled("query", track, *threshold)
        assert (queried.exit_code, queried.stdout) == (1, "")
        assert f"encoder {bare}: has no calibration" in queried.stderr
    (bare / "cohort.npz").unlink()
    without = enrolled("reembed", "--encoder", bare, "--trust-model", "--no-calibration")
    assert without.exit_code == 1
    assert "has no cohort to normalise scores with" in without.stderr


def test_an_empty_registry_needs_no_such_thing(cli, other_model):
    result = cli("reembed", "--encoder", other_model, "--trust-model")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {cli.home}: nobody is enrolled; `likeness models use {other_model}` is all that it takes\n"
    )


@pytest.mark.parametrize("option", ["--leave-out", "--dry-run", "--trust-model", "--no-calibration"])
def test_giving_up_and_going_on_contradict_each_other(cli, option):
    result = cli("reembed", "--abandon", option)

    assert result.exit_code == 2
    assert "--abandon drops what is prepared; the other options are for going on" in result.stderr


def test_sealed_copies_of_recordings_are_read_and_none_is_left_open(cli, model, other_model, tmp_path):
    cli.home = tmp_path / "sealed"
    key = ("--encrypt", "--key-file", tmp_path / "likeness.key")
    assert cli("init", "--encoder", model, "--trust-model", *key).exit_code == 0
    song = cli.sing("ada.wav", 1)
    content = song.read_bytes()
    assert cli("enroll", "Ada", song, "--consent", "release", "--keep-audio").exit_code == 0
    song.unlink()

    result = cli("reembed", "--encoder", other_model, "--trust-model")

    assert result.exit_code == 0, result.stderr
    (scan,) = json.loads(cli("query", cli.sing("new.wav", 1, song=7), "--json").stdout)
    assert (scan["encoder_id"], scan["matches"][0]["artist"]) == (OTHER_ENCODER_ID, "Ada")
    assert files_holding(tmp_path, content[44:1044]) == []


def test_a_batch_begun_before_asks_which_way_to_go_on(enrolled, other_model):
    tracks = [enrolled.sing(f"tracks/{who}.wav", who, song=5) for who in (1, 2)]
    enrolled("batch", *tracks, "--threshold", "1.0")
    with enrolled.store() as store, store.writing():
        store.db.execute("UPDATE run_tracks SET outcome = NULL, scan_id = NULL WHERE position = 1")
        store.db.execute("UPDATE runs SET finished_at = NULL")

    result = enrolled("reembed", "--encoder", other_model, "--trust-model")
    refused = enrolled("batch", *tracks, "--threshold", "1.0")

    assert result.stderr.endswith("1 unfinished runs were begun with the encoder before: give --repin or --new-run\n")
    assert refused.exit_code == 1
    changed = "the registry has changed since it was stopped (store_revision, encoder_id, cohort_id, calibration_id)"
    assert changed in refused.stderr


def test_killed_on_the_way_it_goes_on_and_the_old_encoder_answers_meanwhile(enrolled, other_model):
    track = enrolled.sing("new.wav", 1, song=7)
    (before,) = json.loads(enrolled("query", track, "--json").stdout)
    arguments = ("reembed", "--encoder", other_model, "--trust-model")
    process = enrolled.start(*arguments, encoder="SlowerEncoder")
    try:
        deadline_s = time.monotonic() + 120
        while not enrolled.rows("SELECT * FROM staged_references") and time.monotonic() < deadline_s:
            time.sleep(0.05)
        (meanwhile,) = json.loads(enrolled("query", track, "--json").stdout)
        second = enrolled(*arguments)
        enrolled("enroll", "Cy", enrolled.sing("cy.wav", 3), "--consent", "release")
    finally:
        process.kill()
        process.communicate()
    n_made = enrolled.rows("SELECT COUNT(*) AS n FROM staged_references")[0]["n"]

    assert [meanwhile["matches"], meanwhile["encoder_id"]] == [before["matches"], ENCODER_ID]
    assert second.exit_code == 1
    assert "another process is going over to another encoder; wait for it, or stop it (Ctrl-C)" in second.stderr
    assert 1 <= n_made < 5
    assert encoder_id(enrolled) == ENCODER_ID

    result = enrolled("reembed")

    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(f"{enrolled.home}: 5 references are made with {Path(other_model)} (bbbbbbbbbbbb)")
    assert (enrolled("check").exit_code, encoder_id(enrolled)) == (0, OTHER_ENCODER_ID)


def turned_around(directory: Path) -> Path:
    """The built-in encoder with its dimensions in the opposite order: every cosine is as before, none with the old."""
    import torch

    from embeddings.encoder import SpeechBrainEncoder

    shutil.copytree(HOUSE_DIR, directory)
    (weights,) = directory.glob("embedding_model.*")
    state = torch.load(weights, weights_only=True)
    torch.save({name: value.flip(0) if name.startswith("fc.") else value for name, value in state.items()}, weights)
    with np.load(directory / COHORT) as data:
        cohort = dict(data)
    np.savez(directory / COHORT, **{**cohort, "vectors": np.ascontiguousarray(cohort["vectors"][:, ::-1])})
    encoder_id = SpeechBrainEncoder(directory, trusted={model_digest(directory)}).encoder_id
    calibration = json.loads((directory / CALIBRATION).read_text())
    calibration |= {"encoder_id": encoder_id, "cohort_id": load_cohort(directory).cohort_id}
    (directory / CALIBRATION).write_text(json.dumps(calibration))
    (directory / GOLDEN).unlink()
    write_sums(directory)
    return directory


@pytest.mark.model
def test_the_real_encoder_turned_around_gives_the_same_scores_after_going_over(tmp_path, monkeypatch):
    """A vector that was left behind, in template, cohort or index, would have no likeness to the others."""
    monkeypatch.delenv("LIKENESS_HOME", raising=False)
    voices = synth_voices()
    cli = Cli(tmp_path, tmp_path, lambda: np.empty(0))
    for singer in voices.ENROLLED[:2]:
        for number in range(2):
            rng = np.random.default_rng([1, number])
            song = voices.render_song(singer, voices.compose(singer, rng, 12.0), rng)
            voices.write_wav(tmp_path / singer.name / f"{number}.wav", song)
        assert cli("enroll", singer.name, tmp_path / singer.name, "--consent", "release").exit_code == 0
    rng = np.random.default_rng([2])
    track = tmp_path / "track.wav"
    voices.write_wav(track, voices.render_song(singer, voices.compose(singer, rng, 12.0), rng))
    (before,) = json.loads(cli("query", track, "--json").stdout)

    gone_over = cli("reembed", "--encoder", turned_around(tmp_path / "turned"), "--trust-model")
    (after,) = json.loads(cli("query", track, "--json").stdout)

    assert gone_over.exit_code == 0, gone_over.output
    assert before["encoder_id"] != after["encoder_id"]
    assert [match["artist"] for match in before["matches"]] == [match["artist"] for match in after["matches"]]
    for name in ("score", "norm_score", "llr"):
        assert [match[name] for match in after["matches"]] == pytest.approx(
            [match[name] for match in before["matches"]], abs=2e-3
        )
