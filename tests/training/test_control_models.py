"""Depth and keypoints by models out of a folder: tiny ones of the real architectures."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from tests.training.known_motion import filmed, plain, scene, with_shape
from tests.training.tiny_picture_models import tiny_depth, tiny_keypoints
from training.controls.depth import DepthModel, depth_map
from training.controls.extract import Extractor, control_channels
from training.controls.grid import Grid, as_float
from training.controls.keypoints import KeypointModel, Poses, keypoint_map, skeletons
from training.encoding.folders import folder_digest
from training.settings import TrainError

GRID = Grid(time_factor=4, space_factor=8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return filmed(scene(), 64, 48, 5, 8, pan=0.3)


@pytest.fixture(scope="module")
def depths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_depth(tmp_path_factory.mktemp("models") / "depth")


@pytest.fixture(scope="module")
def keypoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_keypoints(tmp_path_factory.mktemp("models") / "keypoints")


def _pictures(folded: torch.Tensor, channels: int) -> np.ndarray:
    """A map back as pictures [channels, T, H, W], as floats."""
    split = as_float(folded).view(channels, GRID.time_factor, GRID.space_factor, GRID.space_factor, *folded.shape[1:])
    _, _, _, _, latent_frames, rows, columns = split.shape
    back = split.permute(0, 4, 1, 5, 2, 6, 3).reshape(
        channels, latent_frames * GRID.time_factor, rows * GRID.space_factor, columns * GRID.space_factor
    )
    return back[:, GRID.time_factor - 1 :].numpy()


# ---- depth ----


@pytest.mark.parametrize("family", ["depth_anything", "dpt"])
def test_depth_is_what_transformers_finds_leveled_over_the_clip(family: str, pixels: np.ndarray, tmp_path: Path) -> None:
    folder = tiny_depth(tmp_path / family, family)
    folded = depth_map(pixels, GRID, DepthModel(folder))
    assert folded.dtype == torch.int8 and folded.shape == (control_channels("depth", GRID), 2, 6, 8)
    (ours,) = _pictures(folded, 1)
    processor, network = AutoImageProcessor.from_pretrained(folder), AutoModelForDepthEstimation.from_pretrained(folder)
    with torch.no_grad():
        found = network(**processor(list(map(Image.fromarray, pixels)), return_tensors="pt"))
    sized = processor.post_process_depth_estimation(found, target_sizes=[(48, 64)] * 5)
    theirs = np.stack([frame["predicted_depth"].numpy() for frame in sized])
    assert theirs.std() > 0
    low, high = np.quantile(theirs, [0.01, 0.99])
    expected = (2 * (theirs - low) / (high - low) - 1).clip(-1, 1)
    assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.97 and np.abs(ours - expected).mean() < 0.1
    assert ours.min() == -1 and ours.max() == 1


def test_metric_depth_is_turned_into_nearness(pixels: np.ndarray, tmp_path: Path) -> None:
    relative = DepthModel(tiny_depth(tmp_path / "relative")).inverse_depths(pixels[:1])
    metric = DepthModel(tiny_depth(tmp_path / "metric", depth_estimation_type="metric", max_depth=10))
    assert np.corrcoef(metric.inverse_depths(pixels[:1]).ravel(), relative.ravel())[0, 1] < -0.5


def test_where_all_is_equally_far_the_map_is_empty(tmp_path: Path) -> None:
    folder = tiny_depth(tmp_path / "flat")
    weights = load_file(folder / "model.safetensors")
    weights["head.conv3.weight"].zero_()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with np.errstate(all="raise"):
        assert not depth_map(plain(5, 48, 48), GRID, DepthModel(folder)).any()


# ---- keypoints ----


@pytest.mark.parametrize(("width", "height"), [(48, 64), (128, 72), (72, 128)])
@pytest.mark.parametrize("experts", [1, 2])
def test_joints_are_found_where_they_are_in_the_picture(width: int, height: int, experts: int, tmp_path: Path) -> None:
    model = KeypointModel(tiny_keypoints(tmp_path / "model", experts=experts))
    nobody = model.poses(plain(1, width, height, (0, 0, 0))).scores.max()
    for x, y in ((0.3, 0.3), (0.9, 0.5), (0.5, 0.9)):
        frame = np.zeros((1, height, width, 3), np.uint8)
        side = max(width, height) // 5
        center = round(x * width), round(y * height)
        cv2.rectangle(
            frame[0], (center[0] - side // 2, center[1] - side // 2), (center[0] + side // 2, center[1] + side // 2), (255,) * 3, -1
        )
        poses = model.poses(frame)
        assert poses.joints.shape == (1, 17, 2) and poses.scores.shape == (1, 17)
        assert (np.abs(poses.joints[0] - center) < 0.1 * max(width, height)).all() and (poses.scores > 2 * nobody).all()


def test_the_map_of_keypoints_is_the_skeleton_folded(keypoints: Path) -> None:
    bright = with_shape(plain(5, 48, 64, (0, 0, 0)), "square", 14, 3.0, color=(255, 255, 255))
    folded = keypoint_map(bright, GRID, KeypointModel(keypoints))
    assert folded.dtype == torch.int8 and folded.shape == (control_channels("keypoints", GRID), 2, 8, 6)
    drawn = _pictures(folded, 3)
    assert drawn.min() == 0 and drawn.max() > 0.9
    columns = [np.average(np.arange(48), weights=frame.sum(axis=(0, 1))) for frame in drawn.transpose(1, 0, 2, 3)]
    assert np.all(np.diff(columns) > 0) and abs(columns[2] - 23.5) < 4


def test_where_nobody_is_found_there_is_no_map(keypoints: Path) -> None:
    assert keypoint_map(plain(5, 48, 64, (0, 0, 0)), GRID, KeypointModel(keypoints)) is None


def test_a_skeleton_is_drawn_of_what_is_sure() -> None:
    """Left shoulder, elbow and wrist: two limbs and three joints, in colors of their own; without the elbow, two joints alone."""
    joints = np.full((1, 17, 2), np.nan, np.float32)
    joints[0, [5, 7, 9]] = (8, 8), (24, 8), (24, 24)
    scores = np.where(np.isnan(joints[..., 0]), 0.0, 0.9)
    picture = skeletons(Poses(joints, scores), 32, 32)[0]
    assert picture[8, 16].any() and picture[16, 24].any() and not picture[16, 8].any()
    assert picture.max() <= 127 and picture[8, 16].max() < picture[8, 8].max()
    assert len({tuple(picture[y, x]) for y, x in ((8, 8), (8, 24), (24, 24), (8, 16), (16, 24))}) == 5
    scores[0, 7] = 0.1
    picture = skeletons(Poses(joints, scores), 32, 32)[0]
    assert picture[8, 8].any() and picture[24, 24].any() and not picture[8, 24].any() and not picture[8, 16].any()
    assert not skeletons(Poses(np.full((1, 17, 2), np.nan), np.ones((1, 17))), 32, 32).any()


# ---- folders ----


def test_models_are_opened_by_the_entry_and_told_by_digest(depths: Path, keypoints: Path, pixels: np.ndarray) -> None:
    extractor = Extractor(("depth", "edges", "keypoints"), GRID, {"depth": depths, "keypoints": keypoints})
    assert extractor.digests == {"depth": DepthModel(depths).digest, "keypoints": folder_digest(keypoints, "controls.keypoints")}
    maps = extractor(pixels, 8, 0)
    assert torch.equal(maps["depth"], depth_map(pixels, GRID, DepthModel(depths))) and maps["depth"].any()


def test_the_digest_is_of_what_makes_the_model_and_of_nothing_else(depths: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(depths, tmp_path / "copy")
    (copy / "README.md").write_text("A model.")
    digests = [DepthModel(copy).digest]
    assert digests[0] == DepthModel(depths).digest
    for name in ("config.json", "preprocessor_config.json"):
        (copy / name).write_text((copy / name).read_text() + "\n")
        digests.append(DepthModel(copy).digest)
    weights = load_file(copy / "model.safetensors")
    weights["head.conv3.bias"] += 1e-6
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert len({*digests, DepthModel(copy).digest}) == 4


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _without_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "head.conv3" not in name}, folder / "model.safetensors", {"format": "pt"})


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "controls.depth: there is no folder .*; give that of a downloaded model, such as Depth Anything"),
        (_without("config.json"), "has no config.json; take all files"),
        (_without("preprocessor_config.json"), "has no preprocessor_config.json; take all files"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text("{"),
            "preprocessor_config.json cannot be used .*; take all files",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "t7"}'), "is not that of a model known to transformers"),
        (_pickled, "has no \\*.safetensors; .* \\(pickled ones are not loaded\\)"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 20), "cannot be loaded \\(.*\\); take all files"),
        (_without_weight, "lacks 2 weights, head.conv3.bias first"),
    ],
)
def test_what_is_missing_is_named(depths: Path, tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    copy = shutil.copytree(depths, tmp_path / "copy")
    harm(copy)
    with pytest.raises(TrainError, match=message):
        DepthModel(copy).inverse_depths(plain(1, 48, 48))


def test_a_weight_that_nothing_uses_may_lack(depths: Path, tmp_path: Path) -> None:
    """As it does in published files of DPT."""
    copy = shutil.copytree(depths, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    fewer = {name: value for name, value in weights.items() if "fusion_stage.layers.0.residual_layer1" not in name}
    assert len(fewer) < len(weights)
    save_file(fewer, copy / "model.safetensors", {"format": "pt"})
    frames = plain(1, 48, 48)
    assert np.array_equal(DepthModel(copy).inverse_depths(frames), DepthModel(depths).inverse_depths(frames))


def test_models_of_another_kind_are_refused(depths: Path, keypoints: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="controls.keypoints: .* is of type depth_anything, not vitpose; give a model such as ViTPose"):
        KeypointModel(depths)
    with pytest.raises(TrainError, match="controls.depth: .* is of type vitpose, not depth_anything or dpt"):
        Extractor(("depth",), GRID, {"depth": keypoints})
    with pytest.raises(TrainError, match="finds 21 joints, not the 17 of COCO"):
        KeypointModel(tiny_keypoints(tmp_path / "hands", joints=21))


def test_the_package_that_is_missing_is_named(depths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TrainError, match="controls.depth needs transformers .*; pip install 'reelmill\\[text\\]'"):
        DepthModel(depths)
