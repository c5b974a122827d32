"""A run over made-up tracks, examined without a file: what another budget can be tried on."""

from __future__ import annotations

from dataclasses import replace

from registry import runs
from registry.calibration import Calibration
from registry.match import Matcher
from registry.records import BatchItem, Run
from registry.store import Store
from tests.fakes import COHORT_ID, ENCODER_ID, FakeEncoder, fake_calibration, make_voiceprint, singer

CALIBRATION = Calibration.from_dict(fake_calibration(COHORT_ID))
OWNER = "elsewhere 7 1"

#: Of Ada, who lies along axis 0: a song, another in a mix of three sections, and one that is too short.
TRACKS = {
    "ada.wav": make_voiceprint(singer(0, 10, spread=0.5, seed=5), "ada"),
    "mix.wav": replace(make_voiceprint(singer(0, 10, spread=0.9, seed=6), "mix"), duration_s=900.0),
    "nobody.wav": make_voiceprint(singer(6, 10, seed=7), "nobody"),
    "short.wav": make_voiceprint(singer(0, 10, seed=8), "short", voiced_s=1.0),
}


def examine(
    store: Store, encoder: FakeEncoder, calibration: Calibration = CALIBRATION, *, is_finished: bool = True
) -> Run:
    """A run over `TRACKS` and a file that is no audio, in which one of the tracks is named twice."""
    matcher = Matcher(store, encoder, lambda _: None)
    pins = {
        **{"inputs_key": "k" * 64, "version": "0.1.0", "store_revision": matcher.store_revision},
        **{"encoder_id": ENCODER_ID, "cohort_id": COHORT_ID, "calibration_id": calibration.calibration_id},
        **{"threshold": matcher.threshold.llr, "threshold_source": matcher.threshold.source, "budget": 0.03},
    }
    names = [*TRACKS, "ada.wav", "text.wav", *([] if is_finished else ["left.wav"])]
    items = [BatchItem(name, title=f"title of {name}", extra={"row": name}) for name in names]
    run = runs.start_run(store, pins, items)
    with store.writing():
        for item in runs.take_leases(store, run.run_id, OWNER, len(names), tried=False):
            track = run.run_id, item["position"], OWNER
            if item["path"] in TRACKS:
                scan = matcher.scan(item["path"], TRACKS[item["path"]], run_id=run.run_id)
                runs.finish_track(store, *track, scan=scan)
            elif item["path"] == "text.wav":
                runs.fail_track(store, *track, kind="invalid", reason="not audio", attempts=1)
    assert (runs.finish_run(store, run.run_id) == 0) == is_finished
    return runs.get_run(store, run.run_id)
