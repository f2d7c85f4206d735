"""Runs on several ranks, sharded or not, in bfloat16, with checkpoints written meanwhile, spikes, and clips that are held out."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.multiprocessing as mp
import yaml
from torch.nn.attention import SDPBackend

from schemas.manifest import write_manifest
from tests.training.checkpoint_files import assert_equal_tensors
from training.attention import Attention
from training.checkpoint import Checkpoints, Progress, list_checkpoints, load_models, load_progress
from training.conditions import Conditions
from training.config import StageConfig, TrainConfig
from training.data import Batch
from training.generate import write_mp4
from training.guards import Spikes
from training.log import RunLog
from training.parallel import Gradients, place
from training.plan import held_out, plan_run, prepare
from training.ranks import Ranks, join_ranks
from training.runs import load_manifest, make_models
from training.settings import TrainError
from training.train import train

FPS, FRAMES, VIDEOS, UNREADABLE = 8.0, 9, 6, 8  # the only clip of its batch
SIZES = {"width": 32, "height": 16}
CONFIG = {
    "threads": 1,
    "data": {"shapes": {"areas": [[32, 16], [16, 16]], "max_frames": 5, "fps": 8}, "condition_tags": ["motion_mean"]},
    "vae": {"latent_channels": 4, "widths": [8, 8, 8]},
    "dit": {"width": 32, "depth": 2, "heads": 2, "text_width": 16},
    "stages": [
        {"name": "vae", "model": "vae", "steps": 2, "max_tokens": 24, "micro_batches": 4, "warmup_steps": 1},
        {"name": "dit", "model": "dit", "steps": 3, "max_tokens": 24, "micro_batches": 4, "warmup_steps": 1},
        {"name": "long", "model": "dit", "steps": 4, "batching": "packed", "max_tokens": 40, "micro_batches": 4, "warmup_steps": 1},
    ],
    "held_out": {"share": 0.5, "every_steps": 2, "clips": 3},
    "sample": {"every_steps": 2, "num_steps": 2},
    "checkpoint_every_steps": 2,
}


@dataclass(frozen=True)
class Given:
    """A folder with videos and a manifest of their clips, and the run of a process alone."""

    folder: Path
    manifest: Path
    alone: Path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    torch.set_num_threads(1)
    folder, before, rows = tmp_path_factory.mktemp("given"), Path.cwd(), []
    os.chdir(folder)  # for paths that are the same each time, and with them the order of clips
    for video in range(VIDEOS):
        path = Path(f"{video}.mp4")
        noise = np.random.default_rng(video).integers(0, 255, (FRAMES, SIZES["height"], SIZES["width"], 3), np.uint8)
        write_mp4(path, noise // 4 + 30 * video, FPS)
        rows += [_row(path, video, clip) for clip in range(2)]
    rows[UNREADABLE]["uri"] = "gone.mp4"
    write_manifest(folder / "m.parquet", pa.Table.from_pylist(rows), "true", {}, {})
    yield Given(folder, folder / "m.parquet", _train(folder, folder / "m.parquet", "alone", {}))
    os.chdir(before)


def _row(path: Path, video: int, clip: int) -> dict[str, object]:
    span = {"start_frame": 4 * clip, "num_frames": 5, "start_s": 4 * clip / FPS, "end_s": (4 * clip + 5) / FPS}
    crop = {"crop_x": 0, "crop_y": 0, "crop_w": 16 if video in (1, 2) else 32, "crop_h": 16}
    facts = {"clip_id": f"{video}-{clip}", "video_id": f"video {video}", "uri": str(path), "fps": FPS, "motion_mean": float(video)}
    return {**facts, **span, **SIZES, **crop, "caption_short": f"number {video}"}


def _train(folder: Path, manifest: Path, name: str, changes: Mapping[str, object], resume: bool = False) -> Path:
    """The run of a config with changes, in folder/name."""
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, **changes}))
    train(config, manifest, folder / name, resume)
    return folder / name


def _train_as_rank(rank: int, ports: list[int], folder: Path, manifest: Path) -> None:
    """Two runs one after the other, by each way to share weights."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for sharding, port in zip(("ddp", "fsdp"), ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        _train(folder, manifest, sharding, {"system": {"sharding": sharding}})


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _metrics(run: Path) -> list[dict]:
    timed = ("tflops", "samples_per_s", "tokens_per_s", "data_share", "memory_gb")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def _assert_close(run: Path, other: Path) -> None:
    """The same steps to 1e-5, in metrics and weights."""
    for ours, theirs in zip(_metrics(run), _metrics(other), strict=True):
        assert ours.keys() == theirs.keys()
        numbers = [name for name, value in ours.items() if not isinstance(value, str)]
        assert [ours[name] for name in numbers] == pytest.approx([theirs[name] for name in numbers], rel=1e-4, abs=1e-5), ours
    loaded = []
    for path in (run, other):
        models = make_models(TrainConfig(**CONFIG))
        load_models(list_checkpoints(path / "checkpoints")[-1], models)
        loaded.append(models.state_dict())
    apart = {name: float((loaded[0][name] - loaded[1][name]).abs().max()) for name in loaded[0]}
    assert {name: by for name, by in apart.items() if by > 1e-5} == {}


def test_two_ranks_equal_one_sharded_or_not_and_any_number_goes_on(given: Given) -> None:
    """Of each step some ranks could not read a batch, which they must pass all the same."""
    ports = [_free_port() for _ in range(2)]
    mp.start_processes(_train_as_rank, args=(ports, given.folder, given.manifest), nprocs=2, start_method="spawn")
    for sharding in ("ddp", "fsdp"):
        run = given.folder / sharding
        _assert_close(run, given.alone)
        newest = list_checkpoints(run / "checkpoints")[-1]
        assert len(list(newest.glob("*.safetensors"))) == 2 and not list((run / "checkpoints").glob(".*"))
        middle = list_checkpoints(run / "checkpoints")[-2]
        assert load_progress(middle).step == 2
        shutil.rmtree(newest)
        _train(given.folder, given.manifest, sharding, {"system": {"sharding": "ddp"}}, resume=True)
        _assert_close(run, given.alone)
        assert (run / "sample.mp4").exists()


def test_a_process_alone_may_shard_too(given: Given) -> None:
    _assert_close(_train(given.folder, given.manifest, "shard_of_one", {"system": {"sharding": "fsdp"}}), given.alone)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_bfloat16_trains_and_is_resumed_bitwise_with_its_spikes(given: Given, sharding: str) -> None:
    stages = [
        {**CONFIG["stages"][0], "steps": 1},
        {**CONFIG["stages"][2], "steps": 18, "max_spike": 1.001, "learning_rate": 1e-4},
    ]
    system = {"precision": "bfloat16", "sharding": sharding}
    each_step = {**CONFIG["held_out"], "every_steps": 1}
    changes = {"stages": stages, "system": system, "sample": {"num_steps": 1}, "held_out": each_step, "checkpoint_every_steps": 12}
    name, exact = f"bfloat16_{sharding}", {**changes, "system": {"sharding": sharding}}
    whole = _train(given.folder, given.manifest, name, changes)
    metrics = _metrics(whole)
    assert metrics[-1]["skipped_updates"] > 0
    for before, after in pairwise(metrics[1:]):  # what is skipped moves no weight
        assert (before["held_out_loss"] == after["held_out_loss"]) == (before["skipped_updates"] < after["skipped_updates"])
    shutil.rmtree(list_checkpoints(shutil.copytree(whole, given.folder / f"{name}_again") / "checkpoints")[-1])
    again = _train(given.folder, given.manifest, f"{name}_again", changes, resume=True)
    assert _metrics(again) == metrics
    assert_equal_tensors(list_checkpoints(again / "checkpoints")[-1], list_checkpoints(whole / "checkpoints")[-1])
    if sharding == "ddp":
        losses = [line["loss"] for line in _metrics(_train(given.folder, given.manifest, "float32", exact))]
        assert losses != [line["loss"] for line in metrics]
        assert losses == pytest.approx([line["loss"] for line in metrics], rel=0.05)


def test_spikes_are_those_of_a_stage_that_knows_its_usual_norm_and_not_too_many() -> None:
    stage = StageConfig(name="dit", model="dit", steps=1, max_spike=3.0)
    spikes = Spikes()
    for norm in (5.0, 100.0, *[1.0] * 98):
        spikes = spikes.after(norm, stage)
        assert not spikes.skip
    assert spikes.mean == pytest.approx(1, abs=0.2) and spikes.updates == 100
    calm = spikes.after(2.9, stage)
    assert not calm.skip and calm.mean > spikes.mean
    for count in range(1, 10):
        spikes = spikes.after(50.0, stage)
        assert spikes.skip and (spikes.skipped, spikes.in_a_row) == (count, count)
    assert spikes.after(1.0, stage).in_a_row == 0
    with pytest.raises(
        TrainError, match="gradient norm of dit was more than 3 times its usual .* for 10 steps in a row, now 50; lower its"
    ):
        spikes.after(50.0, stage)
    assert not Spikes(1.0, 100).after(1e9, StageConfig(name="dit", model="dit", steps=1)).skip


def test_held_out_are_whole_videos_that_training_never_sees(given: Given) -> None:
    config, manifest = TrainConfig(**CONFIG), load_manifest(given.manifest)
    prepared = prepare({None: manifest}, config)[0]
    ours, theirs = (set(rows.column("video_id").to_pylist()) for rows in (prepared.rows, prepared.held_out_rows))
    assert ours and theirs and not ours & theirs and prepared.held_out_rows.num_rows == 2 * len(theirs)
    assert plan_run({None: manifest}, config).plan.data[0].left_out == {"held out": 2 * len(theirs)}
    rows = pa.table({"video_id": [f"video {i // 2}" for i in range(4000)]})
    few, more = held_out(rows, 0.1), held_out(rows, 0.2)
    assert few.mean() == pytest.approx(0.1, abs=0.02) and not (few & ~more).any()
    assert (few[::2] == few[1::2]).all()
    for share, wrong in ((1e-9, "holds out none of the 2000 videos; raise it"), (1 - 1e-9, "holds out all of the 2000 videos; lower it")):
        with pytest.raises(TrainError, match=wrong):
            held_out(rows, share)


def test_the_held_out_loss_is_measured_alike_each_time_and_changes_nothing(given: Given) -> None:
    often = _train(given.folder, given.manifest, "often", {"held_out": {**CONFIG["held_out"], "every_steps": 1}})
    rarely, often_told = _metrics(given.alone), _metrics(often)
    assert [line["step"] for line in rarely if "held_out_loss" in line] == [2, 4, 5, 7, 9]
    for ours, theirs in zip(often_told, rarely, strict=True):
        assert ours == {"held_out_loss": ours["held_out_loss"], **theirs}
    losses = [line["held_out_loss"] for line in often_told[2:]]
    assert len(set(losses)) == 7 and losses[-1] < losses[0]


def test_a_process_killed_while_it_writes_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, torch\nfrom pathlib import Path\n"
        "from training.checkpoint import Checkpoints, Progress\nfrom training.ranks import Ranks\n"
        "models = torch.nn.ModuleDict({'vae': torch.nn.Linear(4000, 8000)})\n"
        "with Checkpoints(Path(sys.argv[1]), 2, Ranks(), torch.device('cpu')) as checkpoints:\n"
        "    for step in (1, 2):\n"
        "        models['vae'].weight.data.fill_(step)\n"
        "        checkpoints.save(Progress(total_steps=step), models, None)\n"
        "        models['vae'].weight.data.fill_(9)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    (whole,) = list_checkpoints(tmp_path)
    models = torch.nn.ModuleDict({"vae": torch.nn.Linear(4000, 8000)})
    load_models(whole, models)
    assert load_progress(whole).total_steps == 1 and (models["vae"].weight == 1).all()
    assert {path.name for path in tmp_path.glob(".*")} <= {".step_00000002"}  # as far as it came
    with Checkpoints(tmp_path, 2, Ranks(), torch.device("cpu")) as checkpoints:
        checkpoints.save(Progress(total_steps=2), models, None)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_00000001", "step_00000002"]


def test_a_checkpoint_that_cannot_be_written_or_read_says_so(tmp_path: Path) -> None:
    models = torch.nn.ModuleDict({"vae": torch.nn.Linear(2, 2)})
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file", 2, Ranks(), torch.device("cpu"))
    with pytest.raises(TrainError, match="file cannot be written: "):
        checkpoints.save(Progress(), models, None)
        checkpoints.wait()
    with Checkpoints(tmp_path, 2, Ranks(), torch.device("cpu")) as checkpoints:
        checkpoints.save(Progress(), models, None)
    (whole,) = list_checkpoints(tmp_path)
    with pytest.raises(TrainError, match="1 tensors, such as vae.bias, are only in one of it and the model"):
        load_models(whole, torch.nn.ModuleDict({"vae": torch.nn.Linear(2, 2, bias=False)}))
    with pytest.raises(TrainError, match="cannot be loaded: "):
        load_models(whole, torch.nn.ModuleDict({"vae": torch.nn.Linear(3, 2)}))
    next(whole.glob("*.safetensors")).write_bytes(b"x" * 99)
    with pytest.raises(TrainError, match="cannot be loaded: "):
        load_models(whole, models)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda device")
def test_a_device_that_is_not_there_is_an_error(given: Given) -> None:
    with pytest.raises(TrainError, match="system.device: cuda device 0 is asked for, and torch sees 0"):
        _train(given.folder, given.manifest, "cuda", {"system": {"device": "cuda"}})


def test_wandb_that_is_not_there_is_an_error(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainError, match="the package wandb is not installed; `pip install reelmill\\[wandb\\]`"):
        _train(given.folder, given.manifest, "wandb", {"wandb_project": "dogs"})


def test_wandb_is_told_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = TrainConfig(**CONFIG, wandb_project="dogs")
    for done in range(2):  # as if resumed
        with RunLog(tmp_path, 2, done, config) as log:
            log.step("vae", done + 1, {"loss": 1.0})
    started = sorted(path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert started == [(tmp_path / "wandb_id").read_text()] * 2


def test_the_dit_and_its_average_compute_as_the_system_says() -> None:
    config = TrainConfig(**CONFIG, system={"attention": "math", "recompute": "selective", "precision": "bfloat16"})
    models = make_models(config)
    for dit in (models["dit"], place(models, config, torch.device("cpu"))["dit"]):
        assert {block.recompute for block in dit.blocks} == {"selective"}
        assert {module.kernels.whole for module in dit.modules() if isinstance(module, Attention)} == {(SDPBackend.MATH,)}
        assert not any(block._compiled_call_impl for block in dit.blocks)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_bfloat16_is_of_products_alone(sharding: str) -> None:
    """Weights, their gradients and what the dit gives are float32, and as without it but for rounding."""
    batch, device = _latents(), torch.device("cpu")
    gradients = []
    for precision in ("float32", "bfloat16"):
        system = {"precision": precision, "sharding": sharding}
        config = TrainConfig(**{**CONFIG, "data": {"shapes": CONFIG["data"]["shapes"]}}, system=system)
        with join_ranks(device, sharding) as ranks:
            dit = make_models(config)["dit"]
            for weight in dit.parameters():
                torch.nn.init.normal_(weight, std=0.1) if not weight.any() else None
            place(torch.nn.ModuleDict({"dit": dit}), config, device)
            loss = Gradients(dit, config, device, ranks).add(batch, torch.Generator().manual_seed(0), 1.0, last=True).loss
            assert loss.dtype == torch.float32
            found = [weight.grad for weight in dit.parameters()]
            assert all(each.dtype == torch.float32 for each in found)
            gradients.append(torch.cat([getattr(each, "_local_tensor", each).flatten() for each in found]))
    exact, rounded = gradients
    assert 0 < (exact - rounded).norm() < 0.03 * exact.norm()


def _latents() -> Batch:
    told = Conditions(("a cat", ""), torch.tensor([2.0, 24.0]), torch.zeros(2, 0, dtype=torch.int64))
    x = tuple(torch.randn(4, 9, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    return Batch(x, told, torch.zeros(2, dtype=torch.int64), torch.zeros(2))


@pytest.mark.slow
def test_compiled_blocks_are_the_blocks(given: Given) -> None:
    """A block by itself is compiled, with weights that are sharded."""
    stages = [{**stage, "steps": 1} for stage in CONFIG["stages"][:2]]
    changes = {"stages": stages, "held_out": {}, "sample": {"num_steps": 1}, "dit": {**CONFIG["dit"], "depth": 1}}
    runs = [
        _train(given.folder, given.manifest, name, {**changes, "system": {"compile": name == "compiled", "sharding": "fsdp"}})
        for name in ("compiled", "eager")
    ]
    losses, norms = ([[line[key] for line in _metrics(run)] for run in runs] for key in ("loss", "grad_norm"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and norms[0] == pytest.approx(norms[1], rel=1e-4)
