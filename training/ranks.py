"""Several processes that train as one, as torchrun starts them. One alone needs no group, and is the same code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from training.config import TrainConfig, TrainError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int = 0
    count: int = 1

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

    def sum_gradients(self, model: nn.Module) -> None:
        """Give every rank the sum of all gradients; a rank without any has zeros."""
        if self.count == 1:
            return
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        for weight, part in zip(weights, flat.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = part.view_as(weight)

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
def join_ranks() -> Iterator[Ranks]:
    """The group that torchrun's environment names, or this process alone. Raises TrainError where it cannot be joined."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    try:
        dist.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        raise TrainError(f"the group of {count} ranks cannot be joined: {error}; start them with torchrun") from error
    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
