"""How weights move: the optimizer, the learning rate of a step, and the moving average."""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.checkpoint import Training
from training.config import StageConfig


def make_optimizer(model: nn.Module, stage: StageConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), all of whose arithmetic on a weight is one pass over it."""
    return torch.optim.AdamW(model.parameters(), weight_decay=stage.weight_decay, betas=(0.9, 0.98), fused=True)


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warm-up, then half a cosine from `learning_rate` to `final_learning_rate` at the last step."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(stage.steps - 1 - stage.warmup_steps, 1)
    left = (1 + math.cos(math.pi * done)) / 2
    return stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * left


@torch.no_grad()
def update_average(training: Training, decay: float, step: int) -> None:
    """Move the average toward the model; early steps move it further, so that it forgets the random start."""
    decay = min(decay, (1 + step) / (10 + step))
    means, weights = ([_local(weight) for weight in model.parameters()] for model in (training.average, training.model))
    get_ema_multi_avg_fn(decay)(means, weights, 0)


def _local(weight: Tensor) -> Tensor:
    """The part of a weight that this rank holds."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
