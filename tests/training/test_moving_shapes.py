"""The world of moving shapes: what is measured on its frames is what was drawn, also small and after H.264; what is wrong is seen; and
its files come through curation whole."""

import json
from dataclasses import replace
from itertools import combinations as pairs
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.benchmarks.moving_shapes import CONFIG
from tests.command import reelmill
from tests.moving_shapes.files import write_scenes
from tests.moving_shapes.measure import Seen, look
from tests.moving_shapes.world import (
    CAMERAS,
    COLORS,
    DIRECTIONS,
    SHAPES,
    SIZES,
    SPEEDS_PX_S,
    Scene,
    combinations,
    inside,
    path,
    render,
    training_scenes,
)
from tests.video import psnr_db, read_frames, write_video
from training.runs import load_manifest

RED = Scene("square", "red", "right", "slow", start=(20.0, 60.0), ground_seed=3)


def _small(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for frame in frames])


def _assert_seen(seen: Seen, scene: Scene, scale: float = 1.0) -> None:
    assert seen.is_one
    assert (seen.color, seen.shape, seen.direction) == (scene.color, scene.shape, scene.direction), scene
    assert seen.velocity / scale == pytest.approx(np.array(scene.velocity), abs=1)
    assert seen.off_straight_px() < 0.3 and seen.color_drift().max() < 12
    if scene.ground_seed is None:
        assert seen.camera is None
    else:
        assert seen.camera == scene.camera
        assert seen.ground_velocity / scale == pytest.approx(
            np.array(scene.ground_velocity), abs=3.5
        )  # soft waves tell little, and a pan is 9


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_what_is_measured_is_what_was_drawn(scale: float) -> None:
    for scene in training_scenes(72, seed=1):
        frames = render(scene, 9)
        _assert_seen(look(frames if scale == 1 else _small(frames), scene.fps), scene, scale)


def test_and_also_after_h264(tmp_path: Path) -> None:
    for number, scene in enumerate(training_scenes(12, seed=2)):
        file = write_video(tmp_path / f"{number}.mp4", render(scene, 13), fps=scene.fps, options={"crf": "20"})
        frames = read_frames(file)
        _assert_seen(look(frames, scene.fps), scene)
        _assert_seen(look(_small(frames), scene.fps), scene, 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_a_shape_that_goes_over_the_edge_is_one_and_goes_on(size: tuple[int, int]) -> None:
    for direction in DIRECTIONS:
        scene = replace(RED, direction=direction, speed="fast", size=size, start=(size[0] - 3.0, 2.0))
        seen = look(render(scene, 40), scene.fps)
        _assert_seen(seen, scene)
        assert seen.off_path_px(path(scene, np.arange(40) / scene.fps)).max() < 1


def test_no_camera_turns_a_direction_round() -> None:
    for direction in DIRECTIONS:
        for camera in CAMERAS:
            scene = replace(RED, direction=direction, camera=camera)
            assert look(render(scene, 9), scene.fps).direction == direction


def test_what_is_wrong_is_seen() -> None:
    frames = render(RED, 9)
    assert look(frames[::-1], 8).direction == "left"
    assert look(np.repeat(frames[:1], 9, axis=0), 8).direction is None
    assert look(frames.swapaxes(1, 2), 8).direction == "down"
    assert look(frames[..., ::-1], 8).color == "blue" and look(frames, 8).color == "red"
    assert look(render(replace(RED, fps=16), 9), 8).speed_px_s == pytest.approx(SPEEDS_PX_S["slow"] / 2, abs=0.5)
    stretched = np.stack([cv2.resize(frame, (160, 80)) for frame in frames])
    assert look(stretched, 8).speed_px_s == pytest.approx(SPEEDS_PX_S["fast"], abs=1)
    gray = np.repeat(frames.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8)
    nothing = look(gray, 8)
    assert (nothing.color, nothing.shape, nothing.direction, nothing.is_one) == (None, None, None, False)
    assert nothing.counts.sum() == 0 and np.isnan(nothing.path).all()
    half = np.concatenate([frames[:4], gray[4:]])
    assert look(half, 8).counts.tolist() == [1] * 4 + [0] * 5


def test_a_second_shape_a_jump_and_a_change_of_color_are_seen() -> None:
    frames, other = render(replace(RED, ground_seed=None), 9), render(replace(RED, start=(60.0, 20.0), ground_seed=None), 9)
    two = np.where(np.ptp(other.astype(int), axis=-1, keepdims=True) > 30, other, frames)
    assert look(two, 8).counts.tolist() == [2] * 9 and not look(two, 8).is_one
    jumped = look(np.concatenate([frames[:5], other[5:]]), 8)
    places = path(RED, np.arange(9) / 8)
    assert jumped.off_path_px(places)[:5].max() < 1 and jumped.off_path_px(places)[5:].min() > 30 and jumped.off_straight_px() > 5
    green = render(replace(RED, color="green", ground_seed=None), 9)
    changed = look(np.concatenate([frames[:6], green[6:]]), 8)
    assert changed.color == "red" and changed.color_drift()[:6].max() < 3 and changed.color_drift()[6:].min() > 150


def test_held_out_combinations_are_new_and_their_pairs_are_not() -> None:
    trained, held_out = combinations(held_out=False), combinations(held_out=True)
    assert len(held_out) == 12 and len(trained) == 84 and not set(trained) & set(held_out)
    for first, second in pairs(range(3), 2):
        assert {(one[first], one[second]) for one in held_out} <= {(one[first], one[second]) for one in trained}
    scenes = list(training_scenes(168))
    drawn = [(scene.shape, scene.color, scene.direction) for scene in scenes]
    assert all(drawn.count(each) == 2 for each in trained)
    assert {scene.camera for scene in scenes} == set(CAMERAS) and {scene.size for scene in scenes} == set(SIZES)
    assert set(SHAPES) == {scene.shape for scene in scenes} and set(COLORS) == {scene.color for scene in scenes}


def test_curation_keeps_every_file_whole_and_its_tags_reach_training(tmp_path: Path) -> None:
    scenes = [*training_scenes(10, seed=4), replace(RED, speed="fast", camera="up", start=(90.0, 90.0))]
    write_scenes(scenes, tmp_path / "videos", tmp_path / "list.csv")
    assert reelmill("curate", tmp_path / "list.csv", "--out", tmp_path / "dataset").returncode == 0
    made = reelmill("manifest", tmp_path / "dataset", "--where", "true", "--out", tmp_path / "all.parquet")
    assert made.returncode == 0, made.stderr
    rows = load_manifest(tmp_path / "all.parquet").rows.to_pylist()
    assert len(rows) == len(scenes)
    for row in rows:
        scene = scenes[int(Path(row["uri"]).stem)]
        assert row["start_frame"] == 0 and row["num_frames"] == round(scene.seconds * scene.fps) and row["fps"] == scene.fps
        assert (row["crop_w"], row["crop_h"]) == (row["width"], row["height"]) == scene.size
        assert (row["extra.caption"], row["extra.direction"], row["extra.camera"]) == (scene.caption, scene.direction, scene.camera)
    told = "extra['camera'] = 'up' AND extra['color'] = 'red'"
    assert reelmill("manifest", tmp_path / "dataset", "--where", told, "--out", tmp_path / "some.parquet").returncode == 0
    chosen = [scene for scene in scenes if scene.camera == "up" and scene.color == "red"]
    assert load_manifest(tmp_path / "some.parquet").rows.num_rows == len(chosen) > 0


SHORT = {
    **CONFIG,
    "threads": 1,
    "conditions": {"first_frame": 0.5},
    "dit": {"width": 64, "depth": 3, "heads": 2},
    "stages": [
        {**CONFIG["stages"][0], "steps": 60, "max_tokens": 1000, "warmup_steps": 10},
        {**CONFIG["stages"][1], "steps": 160, "max_tokens": 1000, "learning_rate": 4e-3, "warmup_steps": 20},
    ],
    "sample": {"num_steps": 12, "guidance": 2.0, "fps": 8},
}


@pytest.mark.slow
def test_a_short_training_by_the_command_line_reads_colors_and_keeps_the_picture_it_begins_with(tmp_path: Path) -> None:
    """What tests/benchmarks/moving_shapes.py shows at length, on shapes of two colors that go to two sides."""
    rng, scenes = np.random.default_rng(0), []
    for number in range(64):
        color, direction = ("red", "blue")[number % 2], ("left", "right")[number // 2 % 2]
        scene = Scene("square", color, direction, "fast", ground_seed=None)
        scenes.append(inside(scene, rng) or scene)
    write_scenes(scenes, tmp_path / "videos", tmp_path / "list.csv")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(SHORT))
    dataset, manifest, run = tmp_path / "dataset", tmp_path / "m.parquet", tmp_path / "run"
    for command in (
        ("curate", tmp_path / "list.csv", "--out", dataset),
        ("manifest", dataset, "--where", "extra['shape'] = 'square'", "--out", manifest),
        ("train", tmp_path / "c.yaml", "--manifest", manifest, "--out", run),
    ):
        done = reelmill(*command)
        assert done.returncode == 0, done.stderr
    (tmp_path / "first.png").write_bytes(cv2.imencode(".png", render(scenes[1], 1)[0][..., ::-1])[1].tobytes())
    lines = [{"prompt": scene.caption, "seed": number, "size": "40x40"} for number, scene in enumerate(scenes[:8])]
    lines.append({"prompt": scenes[1].caption, "image": str(tmp_path / "first.png"), "size": "40x40"})
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = reelmill("sample", run, "--from", tmp_path / "asked.jsonl", "--out", tmp_path / "samples")
    assert done.returncode == 0, done.stderr
    made = [read_frames(tmp_path / "samples" / f"{number:04d}.mp4") for number in range(1, 10)]
    colors = [look(frames, 8).color for frames in made[:8]]
    assert sum(found == scene.color for found, scene in zip(colors, scenes, strict=False)) >= 7, colors
    given = cv2.resize(render(scenes[1], 1)[0], (40, 40), interpolation=cv2.INTER_AREA)
    assert psnr_db(made[8][0], given) > 24
