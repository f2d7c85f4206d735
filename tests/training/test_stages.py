"""Runs of several stages of the dit: pictures, small videos, larger ones, each with data, balance and conditions of its own."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

import training.train
from schemas.manifest import write_manifest
from tests.training.checkpoint_files import assert_equal_tensors, tensors_of
from tests.video import write_video
from training.checkpoint import list_checkpoints, load_progress
from training.config import DiTConfig, TrainConfig, dump_config, load_config
from training.controls.source import told_channels
from training.dit import DiT
from training.settings import TrainError
from training.train import train

FRAMES, WIDTH, HEIGHT, FPS = 9, 64, 32, 8
IMAGES = {"areas": [[16, 16]], "max_frames": 1, "fps": FPS}
SMALL = {"areas": [[32, 16]], "max_frames": 5, "fps": FPS}
LARGE = {"areas": [[64, 32]], "max_frames": 9, "fps": FPS}
DIT = {"model": "dit", "max_tokens": 96, "warmup_steps": 1}
CONFIG = {
    "threads": 1,
    "data": {"shapes": SMALL, "condition_tags": ["motion_mean"]},
    "vae": {"latent_channels": 4, "widths": [8, 8, 8]},
    "dit": {"width": 32, "depth": 1, "heads": 2, "text_width": 16},
    "stages": [
        {"name": "vae", "model": "vae", "steps": 2, "max_tokens": 32, "warmup_steps": 1},
        {**DIT, "name": "images", "steps": 3, "shapes": IMAGES},
        {**DIT, "name": "small", "steps": 3, "conditions": {"first_frame": 0.3, "continuation": 0.3, "last_frame": 0.5}},
        {
            **{**DIT, "name": "large", "steps": 4, "shapes": LARGE, "learning_rate": 5e-4, "manifest": "best.parquet"},
            **{"balance": {"tag": "motion_mean", "edges": [2.0], "shares": [0.5, 0.5]}, "batching": "packed"},
            **{"conditions": {"text": 0.5, "camera": 0.5, "tracks": 0.5, "edges": 0.5, "last_frame": 0.2}},
            **{"carry": {"weights": "last", "average": "keep", "optimizer": "keep"}},
        },
    ],
    "sample": {"num_steps": 2},
    "checkpoint_every_steps": 1,
    "keep_checkpoints": 20,
}
TIMED = ("tflops", "samples_per_s", "tokens_per_s", "data_share", "memory_gb")


@dataclass(frozen=True)
class Given:
    """A folder with two manifests, of which a config names one, and the run that nothing disturbed."""

    folder: Path
    run: Path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stages")
    rows = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 200, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
        video = write_video(folder / f"{number}.mkv", noise, codec="ffv1", pix_fmt="bgr0", fps=FPS)
        span = {"start_frame": 0, "num_frames": FRAMES, "start_s": 0.0, "end_s": FRAMES / FPS, "fps": float(FPS)}
        picture = {"width": WIDTH, "height": HEIGHT, "crop_x": 0, "crop_y": 0, "crop_w": WIDTH, "crop_h": HEIGHT}
        facts = {"clip_id": f"clip {number}", "video_id": f"video {number}", "uri": str(video), "motion_mean": float(number)}
        rows.append({**facts, **span, **picture, "caption_short": f"number {number}"})
    write_manifest(folder / "all.parquet", pa.Table.from_pylist(rows), "true", {}, {})
    write_manifest(folder / "best.parquet", pa.Table.from_pylist(rows[1:5]), "motion_mean > 0", {}, {})
    return Given(folder, _train(folder, "whole", {}))


def _config(folder: Path, name: str, changes: Mapping[str, object]) -> Path:
    config = {**CONFIG, **changes}
    named = [{**stage, "manifest": str(folder / stage["manifest"])} if "manifest" in stage else stage for stage in config["stages"]]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "stages": named}))
    return path


def _train(folder: Path, name: str, changes: Mapping[str, object], resume: bool = False) -> Path:
    train(_config(folder, name, changes), folder / "all.parquet", folder / name, resume)
    return folder / name


def _metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def _checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def test_stages_from_pictures_to_large_videos_each_have_data_of_their_own(given: Given) -> None:
    assert [line["stage"] for line in _metrics(given.run)] == ["vae"] * 2 + ["images"] * 3 + ["small"] * 3 + ["large"] * 4
    every, best = json.loads((given.run / "run.json").read_text())["data"]
    assert (every["stages"], every["clips"]) == (["vae", "images", "small"], 6)
    assert (best["stages"], best["clips"], best["manifest"]) == (["large"], 4, str(given.folder / "best.parquet"))
    assert every["manifest_digest"] != best["manifest_digest"] and every["order_key"] != best["order_key"]
    assert not every["balance"]["values"] and [value["target_share"] for value in best["balance"]["values"][:2]] == [0.5, 0.5]
    sample = json.loads((given.run / "sample.json").read_text())
    assert (sample["width"], sample["height"], sample["num_frames"]) == (64, 32, 9)


@pytest.mark.parametrize("step", [1, 2, 4, 5, 7, 8, 10, 12])
def test_stopped_after_any_step_a_run_ends_bitwise_the_same(given: Given, step: int, tmp_path: Path) -> None:
    """A checkpoint is there whole or not at all, so what a killed run leaves are the checkpoints up to some step."""
    name = f"from_{step}"
    run = shutil.copytree(given.run, given.folder / name)
    for later in list_checkpoints(run / "checkpoints")[step:]:
        shutil.rmtree(later)
    (run / "sample.json").unlink()
    _train(given.folder, name, {}, resume=True)
    assert _metrics(run) == _metrics(given.run)
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == [f"step_{n:08d}" for n in range(1, 13)]
    assert_equal_tensors(_checkpoint(run, 12), _checkpoint(given.run, 12))
    assert (run / "sample.json").read_bytes() == (given.run / "sample.json").read_bytes()


def test_a_run_whose_stages_draw_from_something_else_is_not_resumed(given: Given) -> None:
    run = shutil.copytree(given.run, given.folder / "other")
    stages = [*CONFIG["stages"][:3], {**CONFIG["stages"][3], "manifest": "all.parquet"}]
    with pytest.raises(TrainError, match="another manifest"):
        _train(given.folder, "other", {"stages": stages}, resume=True)
    assert run.exists()


def _two_halves(carry: dict[str, str] | None) -> list[dict]:
    """Stages of three steps each that are alike, at an even learning rate."""
    even = {**DIT, "steps": 3, "warmup_steps": 0, "learning_rate": 1e-3, "final_learning_rate": 1e-3, "ema_decay": 0.9}
    return [CONFIG["stages"][0], {**even, "name": "one"}, {**even, "name": "two", **({"carry": carry} if carry else {})}]


def _moments(checkpoint: Path, kind: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tensors_of(checkpoint).items() if name.startswith("optimizer.") and name.endswith(kind)}


def test_two_halves_that_carry_all_are_one_stage(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for noise, which is drawn by stage and step; here it is drawn by the steps of all stages."""
    draw = training.train.noise_generator

    def of_all_steps(seed: int, stage: int, step: int, batch: int) -> torch.Generator:
        return draw(seed, 1, step + (3 if stage == 2 else 0), batch)

    monkeypatch.setattr("training.train.noise_generator", of_all_steps)
    everything = {"weights": "last", "average": "keep", "optimizer": "keep"}
    halves = _train(given.folder, "halves", {"stages": _two_halves(everything)})
    vae, one, _ = _two_halves(None)
    whole = _train(given.folder, "one_stage", {"stages": [vae, {**one, "steps": 6}]})
    ours, theirs = ([{**line, "stage": ""} for line in _metrics(run)] for run in (halves, whole))
    assert ours == theirs
    for step in (6, 7):  # of the second half; the last checkpoint has the average as its weights
        assert_equal_tensors(_checkpoint(halves, step), _checkpoint(whole, step))
    assert_equal_tensors(_checkpoint(halves, 8), _checkpoint(whole, 8))


def test_what_is_not_carried_begins_anew(given: Given) -> None:
    kept = _train(given.folder, "kept", {"stages": _two_halves({"optimizer": "keep"})})
    anew = _train(given.folder, "anew", {"stages": _two_halves(None)})
    last = _train(given.folder, "last", {"stages": _two_halves({"weights": "last"})})
    assert {float(count) for count in _moments(_checkpoint(kept, 6), "step").values()} == {4}
    assert {float(count) for count in _moments(_checkpoint(anew, 6), "step").values()} == {1}
    # A stage that carries nothing begins with the average, which is saved as the weights between stages.
    between = tensors_of(_checkpoint(anew, 5))
    assert not any(name.startswith(("average.", "optimizer.")) for name in between)
    assert load_progress(_checkpoint(anew, 5)).stage == 2
    ends = tensors_of(_checkpoint(last, 5))
    assert load_progress(_checkpoint(last, 5)).stage == 1 and any(name.startswith("average.") for name in ends)
    for name in (name for name in between if name.startswith("dit.") and name.endswith("weight")):
        assert between[name].equal(ends[name.replace("dit.", "average.", 1)])
    assert any(not between[name].equal(ends[name]) for name in between if name.startswith("dit."))
    first = _metrics(anew)[5]["loss"]
    assert _metrics(kept)[5]["loss"] == first != _metrics(last)[5]["loss"]


def test_what_a_stage_cannot_carry_is_refused(given: Given) -> None:
    stages = [CONFIG["stages"][0], {**CONFIG["stages"][1], "carry": {"weights": "last"}}]
    with pytest.raises(TrainError, match="stages: images has carry, but the stage before it does not train the dit"):
        load_config(_config(given.folder, "carry", {"stages": stages}))


def test_a_prompt_that_no_stage_could_read_is_refused(given: Given) -> None:
    changes = {"sample": {"prompt": "a dog"}, "conditions": {"text": 0}, "stages": CONFIG["stages"][:2]}
    with pytest.raises(TrainError, match="sample.prompt is given, but no stage is told texts"):
        load_config(_config(given.folder, "prompt", changes))


@pytest.mark.parametrize(("size", "billions"), [("150M", 0.15), ("1.3B", 1.3), ("5B", 5.0), ("14B", 14.0)])
def test_sizes_have_as_many_weights_as_their_names_say(size: str, billions: float, tmp_path: Path) -> None:
    config = TrainConfig(dit={"size": size}, vae={"weights": "some run"}, stages=[{**DIT, "name": "dit", "steps": 1, "max_tokens": 999}])
    with torch.device("meta"):
        dit = DiT(config.dit, config.vae.latent_channels, 0, None, told_channels(config))
    assert sum(weight.numel() for weight in dit.parameters()) / 1e9 == pytest.approx(billions, rel=0.15)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["dit"]["mlp_width"] == config.dit.mlp_width > config.dit.width


def test_keys_that_are_given_stand_before_those_of_a_size() -> None:
    config = DiTConfig(size="150M", depth=2, width=384, heads=6)
    assert (config.depth, config.width, config.mlp_width, config.patch, config.text_width) == (2, 384, 1536, 2, 768)
