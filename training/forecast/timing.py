"""How long a plan takes: by the throughput of a device, or by real steps on this machine. Loading and decoding of clips are in neither."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from training.checkpoint import Training
from training.config import StageConfig, TrainConfig
from training.data import Batch
from training.forecast.cost import RunCost, encode, encodes, make_batch, make_pixels
from training.forecast.devices import Device
from training.losses import batch_loss, noise_generator
from training.optimize import make_optimizer, update_average
from training.plan import PlannedRun, PlannedStage
from training.runs import make_models
from training.settings import TrainError

_MEASURED_STEPS = 2  # after one that warms up


@dataclass(frozen=True)
class StageTime:
    """Seconds of one step on each rank, and those of `encode_seconds` that a cache of latents would save; hours of the stage.

    `fits` says whether the memory of the device holds the step; None where it was measured, and so did.
    """

    name: str
    step_seconds: float
    encode_seconds: float
    hours: float
    fits: bool | None


@dataclass(frozen=True)
class RunTime:
    """All stages, their hours together, and on what the figures rest, as a sentence."""

    basis: str
    hours: float
    memory_bytes: float | None  # of the device
    stages: tuple[StageTime, ...]


def estimate_time(run: PlannedRun, cost: RunCost, device: Device, mfu: float) -> RunTime:
    """Time of a run in which each of the ranks of `cost` does the share `mfu` of what its device could."""
    speed = device.flops_per_s * mfu * cost.num_ranks
    stages = []
    for stage, of_stage in zip(run.plan.stages, cost.stages, strict=True):
        seconds, encoding = (of_stage.step_flops + of_stage.encode_flops) / speed, of_stage.encode_flops / speed
        fits = of_stage.memory.peak <= device.memory_bytes
        stages.append(StageTime(stage.name, seconds, encoding, seconds * stage.steps / 3600, fits))
    ranks = "1 rank" if cost.num_ranks == 1 else f"{cost.num_ranks} ranks"
    basis = (
        f"assumed: {ranks} of {device.name}, each at {mfu:.0%} (MFU) of its {device.flops_per_s / 1e12:,.0f} TFLOP/s in dense bf16; "
        f"the trainer computes in float{8 * cost.bytes_per_number}"
    )
    return RunTime(basis, sum(stage.hours for stage in stages), device.memory_bytes, tuple(stages))


def measure_time(run: PlannedRun, cost: RunCost, config: TrainConfig) -> RunTime:
    """Time of a run on this machine, from two real steps of each stage on random tensors of planned shapes.

    Raises TrainError where a step would not fit the memory of the machine.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for of_stage in cost.stages:
        if of_stage.memory.peak > memory:
            needs = f"needs {of_stage.memory.peak / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f}"
            raise TrainError(f"stages: a step of {of_stage.name} {needs}; leave --measure out, or give a --device")
    stages = []
    with _as_the_trainer(config.threads):
        models = make_models(config)
        for index, (planned, stage) in enumerate(zip(run.stages, config.stages, strict=True)):
            seconds, encoding = _measure_stage(run, planned, stage, config, models, index)
            stages.append(StageTime(stage.name, seconds, encoding, seconds * stage.steps / 3600, None))
    basis = f"measured on this machine: the mean of {_MEASURED_STEPS} steps of each stage, on {config.threads} threads"
    return RunTime(basis, sum(stage.hours for stage in stages), None, tuple(stages))


def _measure_stage(
    run: PlannedRun, planned: PlannedStage, stage: StageConfig, config: TrainConfig, models: nn.ModuleDict, index: int
) -> tuple[float, float]:
    """Seconds of a step, and of these the seconds of encoding."""
    model = models[stage.model].train()
    training = Training(model, deepcopy(model).requires_grad_(False), make_optimizer(model, stage))
    seconds, encoding = 0.0, 0.0
    for step in range(1 + _MEASURED_STEPS):
        chosen = [planned.probes[(step * stage.micro_batches + i) % len(planned.probes)] for i in range(stage.micro_batches)]
        batches = [make_batch(planned, config, draws) for draws in chosen]
        clips = [clip for draws in chosen for clip in make_pixels(planned, draws)] if encodes(planned, config) else []
        began = time.perf_counter()
        for clip in clips:
            encode(models["vae"], clip)
        encoded = time.perf_counter() if clips else began
        _take_step(training, batches, config, stage, step)
        if step:
            seconds, encoding = seconds + time.perf_counter() - began, encoding + encoded - began
    return seconds / _MEASURED_STEPS, encoding / _MEASURED_STEPS


def _take_step(training: Training, batches: Sequence[Batch], config: TrainConfig, stage: StageConfig, step: int) -> None:
    """What the trainer does with the batches of a step."""
    training.optimizer.zero_grad()
    for index, batch in enumerate(batches):
        (batch_loss(training.model, batch, config, noise_generator(config.seed, 0, step, index)).loss / len(batches)).backward()
    nn.utils.clip_grad_norm_(training.model.parameters(), stage.max_grad_norm)
    training.optimizer.step()
    update_average(training, stage.ema_decay, step)


@contextmanager
def _as_the_trainer(threads: int) -> Iterator[None]:
    """The settings of torch that a run computes with."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
