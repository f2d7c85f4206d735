"""The critic of reconstructions: a discriminator of patches (Isola et al. 2017) over space and time, with the hinge loss.

Its own loss and what the autoencoder is to gain from it are one sum for one backward pass: each is computed where the other's
weights, or pictures, are constants.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from training.config import AdversarialConfig


@dataclass(frozen=True)
class CriticLoss:
    """`generator` moves the reconstruction alone, and falls as the critic takes it for real; `critic` moves the critic alone."""

    generator: Tensor
    critic: Tensor


class Critic(nn.Sequential):
    """Video [B, 3, T, H, W] to one score for each patch [B, 1, T'', H'', W'']. A single frame is a video too."""

    def __init__(self, config: AdversarialConfig):
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(zip((3, *config.widths), config.widths, strict=False)):
            layers += [nn.Conv3d(inputs, outputs, 3, stride=(1 if i == 0 else 2, 2, 2), padding=1), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv3d(config.widths[-1], 1, 3, padding=1))


def critic_loss(critic: Critic, video: Tensor, reconstruction: Tensor) -> CriticLoss:
    """The hinge losses of Lim & Ye 2017, of video and reconstruction [B, 3, T, H, W]."""
    constants = {name: weight.detach() for name, weight in critic.named_parameters()}
    generator = -functional_call(critic, constants, (reconstruction,)).mean()
    real, made = critic(video), critic(reconstruction.detach())
    return CriticLoss(generator, (torch.relu(1 - real).mean() + torch.relu(1 + made).mean()) / 2)
