"""What a step minimizes: batches of pixels or latents come in, losses come out.

The noise of a batch is a pure function of its place in the run. Nothing here waits for an accelerator: what it computes stays
there, and what goes there is copied while the next is prepared.
"""

from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn

from training.conditions import Conditions
from training.config import FlowConfig, TrainConfig
from training.data import Batch
from training.dit import DiT
from training.flow import draw_times, point_on_path
from training.vae import VAE, vae_loss


@dataclass(frozen=True)
class Noisy:
    """Clips on their way to noise: S latents `x_t` [C, T, H, W], each frame at its noise level of `levels` [T].

    `velocities` are those there, of the shapes of `x_t`; `wanted` bool [T] is false for frames that are given,
    where nothing is to be learned.
    """

    x_t: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]
    conditions: Conditions
    velocities: tuple[Tensor, ...]
    wanted: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepLoss:
    """Loss of one batch, and without gradients what to log of it and `clip_losses` [S] of each of its clips."""

    loss: Tensor
    metrics: dict[str, Tensor]
    clip_losses: Tensor


@dataclass(frozen=True)
class VelocityLoss:
    """Squared error of the velocity: `total` is over all elements of all clips, so that a long clip counts more than a short one.

    Frames that are given have no error; `of_clips` [S], without gradients, are means over the others.
    """

    total: Tensor
    of_clips: Tensor


def batch_loss(model: nn.Module, batch: Batch, config: TrainConfig, generator: torch.Generator) -> StepLoss:
    """Loss of a VAE on pixels or of a DiT on latents."""
    if isinstance(model, VAE):
        loss = vae_loss(model, torch.stack(batch.x), generator)
        metrics = {"loss": loss.total, "reconstruction": loss.reconstruction, "kl": loss.kl, "psnr_db": loss.psnr_db, **loss.further}
        return StepLoss(loss.total, {name: value.detach() for name, value in metrics.items()}, loss.clip_reconstructions)
    velocity = velocity_loss(model, make_noisy(batch, config.flow, config.dit.patch, generator))
    return StepLoss(velocity.total, {"loss": velocity.total.detach()}, velocity.of_clips)


def make_noisy(batch: Batch, flow: FlowConfig, patch: int, generator: torch.Generator) -> Noisy:
    """Each clip of a batch of latents at a noise level of its own, but for the frames of it that are given."""
    device = batch.x[0].device  # random numbers are made on the CPU, the same for any device
    times = draw_times([x[0].numel() // patch**2 for x in batch.x], flow, generator).to(device, non_blocking=True)
    noise = [torch.randn(x.shape, generator=generator).to(device, non_blocking=True) for x in batch.x]
    wanted = tuple(torch.arange(x.shape[1], device=device) >= known for x, known in zip(batch.x, batch.known_frames, strict=True))
    levels = tuple(torch.where(mask, t, known) for mask, t, known in zip(wanted, times, batch.known_level, strict=True))
    points = [point_on_path(x[None], n[None], level[None, None]) for x, n, level in zip(batch.x, noise, levels, strict=True)]
    x_t, velocities = tuple(point.x_t[0] for point in points), tuple(point.velocity[0] for point in points)
    return Noisy(x_t, levels, batch.conditions, velocities, wanted)


def velocity_loss(dit: DiT, noisy: Noisy) -> VelocityLoss:
    """Squared error of the velocity, over all clips and of each."""
    told = dit(noisy.x_t, noisy.levels, noisy.conditions)
    parts = zip(told, noisy.velocities, noisy.wanted, strict=True)
    errors = torch.stack([((ours - true).square() * mask[:, None, None]).sum() for ours, true, mask in parts])
    sizes = [x.numel() for x in noisy.x_t]
    shares = torch.stack([mask.float().mean() for mask in noisy.wanted])
    wanted = torch.tensor(sizes).to(errors, non_blocking=True) * shares.to(errors)
    return VelocityLoss(errors.sum() / sum(sizes), errors.detach() / wanted)


def noise_generator(seed: int, stage: int, step: int, batch: int) -> torch.Generator:
    """The random numbers of one batch of a step."""
    digest = sha256(f"{seed}/{stage}/{step}/{batch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
