"""Several processes that train as one, as torchrun starts them. One alone is the same code, and needs a group to shard weights only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from training.config import TrainConfig
from training.settings import TrainError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among all. `saving` is a group of their own for checkpoints, which are written while steps go on."""

    rank: int = 0
    count: int = 1
    saving: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """The small value of each rank, in their order, on all of them."""
        values = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return values

    def follow(self, module: nn.Module) -> None:
        """Take weights and buffers of the leading rank."""
        if self.count > 1:
            for value in module.state_dict().values():
                dist.broadcast(value, 0)


def check_ranks(config: TrainConfig, count: int) -> None:
    """Raises TrainError where so many ranks cannot share the batches of a step equally."""
    for stage in config.stages:
        if stage.micro_batches % count:
            raise TrainError(f"stages: {count} ranks cannot share the {stage.micro_batches} micro_batches of {stage.name} equally")


@contextmanager
def join_ranks(device: torch.device, sharding: str) -> Iterator[Ranks]:
    """The group that torchrun's environment names, or this process alone. Raises TrainError where it cannot be joined."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 and sharding == "ddp":
        yield Ranks()
        return
    alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if count == 1 else {}
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", **alone)
        ranks = Ranks(dist.get_rank(), count, dist.new_group(backend="gloo") if count > 1 else None)
    except (ValueError, RuntimeError) as error:
        raise TrainError(f"the group of {count} ranks cannot be joined: {error}; start them with torchrun") from error
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
