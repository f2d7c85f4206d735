"""Flow matching: the straight path between data and noise, the noise levels to train at, and the way back.

Time t runs from 0 (data) to 1 (noise). Rectified flow: Liu et al. 2023, Lipman et al. 2023; logit-normal t and its shift:
Esser et al. 2024 (Stable Diffusion 3); classifier-free guidance: Ho & Salimans 2022.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from training.config import FlowConfig, Solver

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> velocity [B, ...]"""


@dataclass(frozen=True)
class PathPoint:
    """A point on the path and the direction there: `x_t` and `velocity` [B, ...], `t` as it was given."""

    x_t: Tensor
    t: Tensor
    velocity: Tensor


def point_on_path(data: Tensor, noise: Tensor, t: Tensor) -> PathPoint:
    """x_t = (1 - t) data + t noise, of velocity dx/dt = noise - data everywhere; `data`, `noise` [B, ...].

    `t` is [B], or has more axes where parts are at levels of their own: [B, 1, T] for each frame of [B, C, T, H, W].
    """
    along = t.view(*t.shape, *[1] * (data.dim() - t.dim()))
    return PathPoint((1 - along) * data + along * noise, t, noise - data)


# ---- noise levels ----


def shifted(t: Tensor, shift: float | Tensor) -> Tensor:
    """Move times in [0, 1] toward noise (shift > 1) or data (shift < 1); 0 and 1 stay."""
    return shift * t / (1 + (shift - 1) * t)


def shift_of(config: FlowConfig, tokens: int) -> float:
    """The shift for a clip of so many tokens: the more there are, the more noise it takes to hide what they have in common.

    It grows with the square root of their number, which leaves equally unsure what is the same in all tokens, since the noise in a
    mean falls so (Esser et al. 2024, section 5.3.2).
    """
    return config.shift if config.shift_base_tokens is None else config.shift * math.sqrt(tokens / config.shift_base_tokens)


def draw_times(tokens: Sequence[int], config: FlowConfig, generator: torch.Generator) -> Tensor:
    """Noise levels t [S] in (0, 1) of S clips of so many `tokens`: the sigmoid of a normal, then shifted."""
    normal = torch.randn(len(tokens), generator=generator, device=generator.device)
    shifts = torch.tensor([shift_of(config, count) for count in tokens], device=generator.device)
    return shifted(torch.sigmoid(config.logit_mean + config.logit_std * normal), shifts)


def step_times(num_steps: int, shift: float = 1.0) -> Tensor:
    """The times [num_steps + 1] between which a solver steps, from 1 down to 0: evenly spaced, then shifted."""
    return shifted(torch.linspace(1, 0, num_steps + 1), shift)


# ---- the way back ----


@torch.no_grad()
def solve(velocity: Velocity, noise: Tensor, times: Tensor, solver: Solver = "euler") -> Tensor:
    """Follow the velocity from `noise` [B, ...] at the first of `times` [N + 1] to data at the last, in N steps.

    Each step is straight, along the velocity at its start, or along a better one, so that halving all steps divides the error by
    about 2 with euler and by about 4 with the others:
    - heun: the mean of the velocities at both ends, as Karras et al. 2022 (algorithm 1), with euler into t = 0, where no velocity is
      trained. Two evaluations a step.
    - adams_bashforth: the velocity in the middle of the step, on the line through those at its start and at the start of the step
      before; the first step is one of euler. One evaluation a step. (Two-step Adams-Bashforth for steps of any length: Hairer,
      Norsett & Wanner 1993, section III.5; for diffusion Liu et al. 2022, PNDM.)

    Where the velocity is 0, x stays what it is, bit for bit: parts that are known stand in `noise` as they are known, and are held
    by a velocity that is 0 there.
    """

    def at(x: Tensor, t: float) -> Tensor:
        return velocity(x, torch.full((len(x),), t, dtype=times.dtype, device=x.device))

    x, before = noise, None
    for now, after in pairwise(times.tolist()):
        along = start = at(x, now)
        if solver == "heun" and after > 0:
            along = (start + at(x + (after - now) * start, after)) / 2
        if solver == "adams_bashforth" and before is not None:
            slope = (start - before.velocity) / (now - before.t)
            along = start + (after - now) / 2 * slope
        before = _Evaluated(now, start)
        x = x + (after - now) * along
    return x


@dataclass(frozen=True)
class _Evaluated:
    t: float
    velocity: Tensor


# ---- guidance ----


def guided(conditional: Tensor, unconditional: Tensor, guidance: float, rescale: float = 0.0) -> Tensor:
    """Push velocities [B, ...] away from the unconditional ones; guidance 1 changes nothing, 0 ignores the condition.

    A `rescale` from 0 to 1 takes that part of the way back to the standard deviation of the conditional velocity, over all of a
    clip, which strong guidance inflates (Lin et al. 2024, section 3.4).
    """
    pushed = unconditional + guidance * (conditional - unconditional)
    if rescale == 0:
        return pushed
    wanted, found = (_deviation(velocities) for velocities in (conditional, pushed))
    ratio = torch.where(found > 0, wanted / found, 1.0)  # no deviation at all: nothing to scale
    return pushed * (1 + rescale * (ratio - 1))


def guidance_at(t: float, guidance: float, interval: tuple[float, float]) -> float:
    """The guidance at noise level t: as asked for in the interval (low, high], and 1, which needs no unconditional velocity, outside.

    High noise suffers from guidance and low noise has no need of it (Kynkäänniemi et al. 2024).
    """
    low, high = interval
    return guidance if low < t <= high else 1.0


def _deviation(x: Tensor) -> Tensor:
    """The standard deviation of each of x [B, ...], as [B, 1, ...]."""
    return x.std(dim=tuple(range(1, x.dim())), correction=0, keepdim=True)
