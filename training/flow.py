"""Flow matching: the straight path between data and noise, the noise levels to train at, and the way back.

Time t runs from 0 (data) to 1 (noise). Rectified flow: Liu et al. 2023, Lipman et al. 2023; logit-normal t and its
shift: Esser et al. 2024 (Stable Diffusion 3); classifier-free guidance: Ho & Salimans 2022.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.config import FlowConfig

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> velocity [B, ...]"""


@dataclass(frozen=True)
class PathPoint:
    """A point on the path and the direction there: `x_t` and `velocity` [B, ...], `t` [B]."""

    x_t: Tensor
    t: Tensor
    velocity: Tensor


def point_on_path(data: Tensor, noise: Tensor, t: Tensor) -> PathPoint:
    """x_t = (1 - t) data + t noise, of velocity dx/dt = noise - data everywhere; `data`, `noise` [B, ...], `t` [B]."""
    along = t.view(-1, *[1] * (data.dim() - 1))
    return PathPoint((1 - along) * data + along * noise, t, noise - data)


def shifted(t: Tensor, shift: float) -> Tensor:
    """Move times in [0, 1] toward noise (shift > 1) or data (shift < 1); 0 and 1 stay."""
    return shift * t / (1 + (shift - 1) * t)


def draw_times(count: int, config: FlowConfig, generator: torch.Generator) -> Tensor:
    """Noise levels t [count] in (0, 1): the sigmoid of a normal, then shifted."""
    normal = torch.randn(count, generator=generator, device=generator.device)
    return shifted(torch.sigmoid(config.logit_mean + config.logit_std * normal), config.shift)


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Push a velocity away from the unconditional one; guidance 1 changes nothing, 0 ignores the condition."""
    return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def euler(velocity: Velocity, noise: Tensor, num_steps: int, shift: float = 1.0) -> Tensor:
    """Follow the velocity from `noise` [B, ...] at t = 1 to data at t = 0 in `num_steps` straight steps."""
    times = shifted(torch.linspace(1, 0, num_steps + 1, device=noise.device), shift)
    x = noise
    for now, after in zip(times[:-1], times[1:], strict=True):
        x = x + (after - now) * velocity(x, now.expand(len(x)))
    return x
