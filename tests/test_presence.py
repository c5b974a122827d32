from threading import Thread

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from embeddings.errors import ModelDamaged
from embeddings.presence import (
    CONTEXT,
    FIRST_RESIDUAL,
    FRAME_S,
    HANGOVER_S,
    LAYERS,
    N_MELS,
    SILENT,
    Presence,
    VoiceClock,
    audible_windows,
    built_in_presence,
    load_presence,
    log_mel,
    window_evidence,
    window_levels,
    windows_with_voice,
    write_presence,
)


def make_presence(seed=0, n_channels=5, threshold=0.5):
    rng = np.random.default_rng(seed)
    sizes = [(kernel * (n_channels if i else N_MELS), n_channels) for i, (kernel, _, _) in enumerate(LAYERS)]
    weights = [rng.normal(0, size[0] ** -0.5, size).astype(np.float32) for size in [*sizes, (n_channels, 1)]]
    biases = [rng.normal(0, 0.1, weight.shape[1]).astype(np.float32) for weight in weights]
    return Presence(tuple(weights), tuple(biases), threshold, {"windows": 3})


def make_features(n, n_frames, seed=1):
    return np.random.default_rng(seed).normal(-40, 15, (n, n_frames, N_MELS)).astype(np.float32)


def plain_logits(presence, features):
    """The network by its definition: one sum for each output."""
    x = ((features - features.max()) / 20 + 2).astype(np.float64)
    for number, (kernel, step, dilation) in enumerate(LAYERS):
        weight, bias = presence.weights[number], presence.biases[number]
        y = []
        for t in range(0, len(x), step):
            at = t + dilation * (np.arange(kernel) - kernel // 2)
            reached = np.concatenate([x[i] if 0 <= i < len(x) else np.zeros(x.shape[1]) for i in at])
            y.append(np.maximum(reached @ weight + bias, 0))
        x = x + np.array(y) if number >= FIRST_RESIDUAL else np.array(y)
    return (x @ presence.weights[-1] + presence.biases[-1])[:, 0]


@pytest.mark.parametrize(("n_frames", "n_judged"), [(251, 63), (32, 8), (33, 9), (5, 2), (1, 1)])
def test_logits_follow_the_definition_whatever_the_length_of_a_window(n_frames, n_judged):
    presence, features = make_presence(), make_features(2, n_frames)

    logits = presence.frame_logits(features)

    assert (logits.shape, logits.dtype) == ((2, n_judged), np.float32)
    for row, window in zip(logits, features, strict=True):
        np.testing.assert_allclose(row, plain_logits(presence, window), atol=1e-4)


def test_loudness_of_a_window_changes_no_logit():
    presence, features = make_presence(), make_features(2, 251)

    np.testing.assert_allclose(presence.frame_logits(features - 20), presence.frame_logits(features), atol=1e-4)


@pytest.mark.parametrize("shape", [(251, 80), (1, 251, 40), (1, 0, 80)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"features must be \(n, n_frames, 80\), not"):
        make_presence().frame_logits(np.zeros(shape, np.float32))


def test_frames_near_a_voice_are_voice_too():
    logits = np.full((1, 63), -1, np.float32)
    logits[0, [0, 30]] = -0.4
    logits[0, 50] = -0.5  # not above the threshold less the margin

    voiced = make_presence(threshold=0.5).voiced_frames(logits)

    reach = round(HANGOVER_S / FRAME_S)
    assert np.flatnonzero(voiced).tolist() == [*range(reach + 1), *range(30 - reach, 31 + reach)]


@pytest.mark.parametrize(("n_frames", "expected"), [(63, 50.0), (10, 8.0), (3, 2.0), (1, 0.0)])
def test_evidence_is_what_a_fifth_of_the_frames_reach(n_frames, expected):
    logits = np.random.default_rng(0).permuted(np.tile(np.arange(n_frames, dtype=np.float32), (2, 1)), axis=1)

    assert window_evidence(logits).tolist() == [expected, expected]


def test_one_window_among_others_without_a_voice_deceives_nobody():
    evidence = np.full(20, -2.0)
    evidence[3] = 5
    assert not windows_with_voice(evidence, 0).any()

    evidence[10 : 10 + CONTEXT] = 0.1
    evidence[12] = -0.1  # a rest: the others are 0.6 together
    assert np.flatnonzero(windows_with_voice(evidence, 0)).tolist() == [10, 11, 13, 14, 15, 16]


@pytest.mark.parametrize(("evidence", "found"), [([], []), ([1.0], [0]), ([-1.0], []), ([2.0, -1.0], [0])])
def test_short_recordings_are_judged_by_what_there_is(evidence, found):
    assert np.flatnonzero(windows_with_voice(np.array(evidence), 0.5)).tolist() == found


def test_a_window_is_judged_by_its_neighbours_alone():
    evidence = np.random.default_rng(0).normal(0, 1, 60)
    reach = CONTEXT - 1

    whole = windows_with_voice(evidence, 0.2)

    assert 0 < whole.sum() < 60
    for at in range(reach, 60 - reach):
        part = windows_with_voice(evidence[at - reach : at + reach + 1], 0.2)
        assert part[reach] == whole[at]


@pytest.mark.parametrize("sizes", [[3], [1, 1, 1], [2, 1], [1, 2]])
def test_overlaps_are_counted_once_however_windows_are_given(sizes):
    voiced = np.zeros((3, 63), np.bool_)
    voiced[:2] = True  # 0 to 4 s, 2 to 6 s
    voiced[2, :10] = voiced[2, 40:] = True  # of 3 to 7 s
    start_s, clock, at = np.array([0.0, 2.0, 3.0]), VoiceClock(), 0

    for size in sizes:
        clock.add(start_s[at : at + size], voiced[at : at + size])
        at += size

    assert clock.seconds == pytest.approx((47 + 63) * FRAME_S)  # frames 0 to 93, and 94 to 109 of the last


def test_no_windows_are_no_time():
    clock = VoiceClock()
    clock.add(np.empty(0), np.empty((0, 63), np.bool_))
    assert clock.seconds == 0


def test_the_level_of_a_window_is_that_of_its_loudest_frame():
    samples = np.zeros((2, 64_000), np.float32)
    samples[0, 2048:3072] = 0.1
    np.testing.assert_allclose(window_levels(samples), [-20, -200], atol=1e-4)


def test_windows_far_below_the_recent_peak_are_silent_until_it_is_forgotten():
    start_s = np.arange(10) * 10.0
    level_db = np.array([-50, -61, -10, -46, -44, -64, -46, -46, -46, -90])

    audible, peak = audible_windows(level_db, start_s)

    assert audible.tolist() == [True, False, True, True, True, False, True, True, True, False]
    first, carried = audible_windows(level_db[:4], start_s[:4])
    rest, last = audible_windows(level_db[4:], start_s[4:], carried)
    assert ([*first, *rest], last) == (audible.tolist(), peak)
    assert not audible_windows(np.array([-10.0, -46.0]), np.array([0.0, 0.5]))[0][1]


def test_silent_windows_say_nothing_of_their_neighbours():
    evidence = np.full(20, SILENT)
    evidence[9] = 0.5

    assert np.flatnonzero(windows_with_voice(evidence, 0.4)).tolist() == [9]
    assert not windows_with_voice(evidence, 0.6).any()
    assert not windows_with_voice(np.full(20, SILENT), -9).any()


@pytest.mark.parametrize("n_samples", [64_000, 27_200, 8000, 300])
def test_features_are_those_of_speechbrain(n_samples):
    from embeddings.torchaudio_compat import import_torchaudio

    import_torchaudio()
    import torch
    from speechbrain.lobes.features import Fbank

    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, (3, n_samples)).astype(np.float32)
    samples[1] *= np.linspace(0, 1, n_samples) ** 8  # silence falls below the range of the loudest
    samples[2] = 0
    with torch.inference_mode():
        expected = Fbank(n_mels=80, hop_length=16)(torch.from_numpy(samples)).numpy()

    features = log_mel(samples)

    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=2e-3)


def test_threads_leave_no_limit_behind():
    features, before = make_features(2, 251), [pool["num_threads"] for pool in threadpool_info()]
    presence = make_presence()
    threads = [Thread(target=lambda: [presence.frame_logits(features) for _ in range(20)]) for _ in range(3)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_the_built_in_network_is_the_one_that_was_released():
    presence = built_in_presence()

    assert presence.trained["windows"] == 16_000


def test_another_file_in_its_place_is_damaged(tmp_path):
    path = tmp_path / "other.npz"
    write_presence(path, make_presence())
    with pytest.raises(ModelDamaged, match=r"its sha256 is not aa.*install Likeness again"):
        load_presence(path, "aa")


def test_what_is_written_is_read_back(tmp_path):
    presence, path = make_presence(), tmp_path / "x.npz"

    write_presence(path, presence)

    found = load_presence(path)
    for kept, read in zip((*presence.weights, *presence.biases), (*found.weights, *found.biases), strict=True):
        np.testing.assert_array_equal(kept, read)
    assert (found.threshold, found.trained) == (0.5, {"windows": 3})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelDamaged, match=r"gone.npz: no vocal presence network"):
        load_presence(tmp_path / "gone.npz")


def change(path, **values):
    with np.load(path) as data:
        arrays = dict(data)
    arrays |= values
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"card": None}, "card"),
        ({"card": np.array('{"format": 2}')}, "format 2, 1 is needed"),
        ({"weight3": None}, "weight3"),
        ({"weight2": np.zeros((7, 5), np.float32)}, "weights are"),
        ({"bias0": np.full(5, np.nan, np.float32)}, "not finite"),
        ({"bias1": np.array([{}], dtype=object)}, "allow_pickle"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path, values, reason):
    path = tmp_path / "x.npz"
    write_presence(path, make_presence())
    change(path, **values)

    with pytest.raises(ModelDamaged, match=rf"x.npz: no vocal presence network \(.*{reason}"):
        load_presence(path)


def test_a_truncated_file_is_damaged(tmp_path):
    path = tmp_path / "x.npz"
    write_presence(path, make_presence())
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(ModelDamaged, match=r"no vocal presence network"):
        load_presence(path)
