"""Where and how a run computes: on which device, in which precision, and how ranks share a model and add up its gradients.

With `ddp` every rank holds all weights; with `fsdp` each holds a part of every weight of the dit, whose blocks are put together when
they are needed (ZeRO: Rajbhandari et al. 2020), and all of the vae, which is small. Both average gradients over ranks, so losses are
scaled by the number of ranks to get the sum.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from training.attention import choose_kernels
from training.config import SystemConfig, TrainConfig
from training.data import Batch
from training.losses import StepLoss, batch_loss
from training.ranks import Ranks
from training.settings import TrainError

Value = TypeVar("Value")
# Its outputs are changed by nobody.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def device_of(system: SystemConfig) -> torch.device:
    """The device of this rank. Raises TrainError where there is none."""
    if system.device == "cpu" or (system.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise TrainError(f"system.device: cuda device {number} is asked for, and torch sees {count}; say cpu, or start fewer ranks")
    return torch.device("cuda", number)


def describe_device(device: torch.device) -> str:
    """A device by its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"the CPU, {torch.get_num_threads()} threads"


def use_device(device: torch.device, threads: int) -> None:
    """Settings of torch for the whole process. Sums are made in the same order each time on the CPU alone."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)


def autocast(system: SystemConfig, device: torch.device) -> AbstractContextManager:
    """Products in bfloat16, where that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=system.precision == "bfloat16")


def moved(value: Value, device: torch.device) -> Value:
    """A value with all tensors in it, also those in tuples, dicts and dataclasses, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: moved(getattr(value, field.name), device) for field in fields(value)})
    return value


def place(models: nn.ModuleDict, config: TrainConfig, device: torch.device) -> nn.ModuleDict:
    """Bring the models where they compute; gives a copy of each that a stage trains, for its averaged weights, placed likewise."""
    system = config.system
    averages = nn.ModuleDict({name: deepcopy(models[name]) for name in models if name in {stage.model for stage in config.stages}})
    averages.requires_grad_(False)
    for name, model in (*models.items(), *averages.items()):
        if name == "dit":
            model.use(choose_kernels(system.attention, system.precision, device), system.recompute)
            for block in model.blocks if system.compile else ():
                block.compile()
        if name == "dit" and system.sharding == "fsdp":
            _shard(model, system, device)
        else:
            model.to(device)
    return averages


def _shard(dit: nn.Module, system: SystemConfig, device: torch.device) -> None:
    mesh = torch.distributed.init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if system.precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*dit.blocks, dit):  # the root is not kept whole either: averaged weights change outside of any backward pass
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


class Gradients:
    """Adds up the gradients of a step's batches, here and on all ranks, which must call it equally often."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device, ranks: Ranks):
        self._loss: nn.Module = _BatchLoss(model, config, device)
        self._device, self._count = device, ranks.count
        self._sharded = model if isinstance(model, FSDPModule) else None
        if self._sharded is None and ranks.count > 1:  # a condition that no clip of a batch has leaves its weights unused
            self._loss = DistributedDataParallel(self._loss, broadcast_buffers=False, find_unused_parameters=True)

    def add(self, batch: Batch, generator: torch.Generator, share: float, last: bool) -> StepLoss:
        """Add the gradient of a batch's loss times its share of the step; with the last of this rank, ranks are added up."""
        with self._summed_over_ranks(last):
            step_loss = self._loss(moved(batch, self._device), generator)
            (step_loss.loss * (share * self._count)).backward()
        return step_loss

    @contextmanager
    def _summed_over_ranks(self, last: bool) -> Iterator[None]:
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(last)
        if last or not isinstance(self._loss, DistributedDataParallel):
            yield
        else:
            with self._loss.no_sync():
                yield


class _BatchLoss(nn.Module):
    """One forward for all that a loss asks of its model, since that is what DDP looks at."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device):
        super().__init__()
        self._model, self._config, self._device = model, config, device

    def forward(self, batch: Batch, generator: torch.Generator) -> StepLoss:
        with autocast(self._config.system, self._device):
            return batch_loss(self._model, batch, self._config, generator)


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale all gradients down to at most this norm together; gives the norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
