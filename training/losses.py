"""What a step minimizes: batches of pixels or latents come in, losses come out.

The noise of a batch is a pure function of its place in the run.
"""

from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.data import Batch
from training.dit import Conditions, DiT
from training.flow import draw_times, point_on_path
from training.vae import VAE, vae_loss


@dataclass(frozen=True)
class Noisy:
    """Clips on their way to noise: S latents `x_t` [C, T, H, W] at `t` [S], and the velocities there, of the same shapes."""

    x_t: tuple[Tensor, ...]
    t: Tensor
    conditions: Conditions
    velocities: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepLoss:
    """Loss of one batch, what else to log of it, and `clip_losses` [S] of each of its clips, without gradients."""

    loss: Tensor
    metrics: dict[str, float]
    clip_losses: Tensor


@dataclass(frozen=True)
class VelocityLoss:
    """`total` is over all elements of all clips, so that a long clip counts more than a short one; `of_clips` [S] has no gradients."""

    total: Tensor
    of_clips: Tensor


def batch_loss(model: nn.Module, batch: Batch, config: TrainConfig, generator: torch.Generator) -> StepLoss:
    """Loss of a VAE on pixels or of a DiT on latents."""
    if isinstance(model, VAE):
        loss = vae_loss(model, torch.stack(batch.x), generator)
        metrics = {"reconstruction": float(loss.reconstruction), "kl": float(loss.kl), "psnr_db": float(loss.psnr_db)}
        return StepLoss(loss.total, {"loss": float(loss.total.detach()), **metrics}, loss.clip_reconstructions)
    velocity = velocity_loss(model, make_noisy(batch, config, generator))
    return StepLoss(velocity.total, {"loss": float(velocity.total.detach())}, velocity.of_clips)


def make_noisy(batch: Batch, config: TrainConfig, generator: torch.Generator) -> Noisy:
    """Each clip of a batch of latents at a noise level of its own, with conditions dropped at random."""
    count, tags = batch.conditions.tags.shape
    t = draw_times(count, config.flow, generator)
    noise = [torch.randn(x.shape, generator=generator) for x in batch.x]
    points = [point_on_path(x[None], n[None], at) for x, n, at in zip(batch.x, noise, t.split(1), strict=True)]
    drop_text = torch.rand(count, generator=generator) < config.dit.text_dropout
    drop_tags = torch.rand(count, tags, generator=generator) < config.dit.tag_dropout
    x_t, velocities = tuple(point.x_t[0] for point in points), tuple(point.velocity[0] for point in points)
    return Noisy(x_t, t, batch.conditions.without(drop_text, drop_tags), velocities)


def velocity_loss(dit: DiT, noisy: Noisy) -> VelocityLoss:
    """Mean squared error of the velocity, over all clips and of each."""
    told = dit(noisy.x_t, noisy.t, noisy.conditions)
    errors = torch.stack([(ours - true).square().sum() for ours, true in zip(told, noisy.velocities, strict=True)])
    sizes = [x.numel() for x in noisy.x_t]
    return VelocityLoss(errors.sum() / sum(sizes), errors.detach() / errors.new_tensor(sizes))


def noise_generator(seed: int, stage: int, step: int, batch: int) -> torch.Generator:
    """The random numbers of one batch of a step."""
    digest = sha256(f"{seed}/{stage}/{step}/{batch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
