"""Latents of clips as training asks for them, kept in memory. Each clip is encoded alone, so its latents do not depend on its batch."""

import torch
from torch import Tensor

from training.data import Clip, ClipSource, Memory, Order
from training.pixels import to_tensor
from training.vae import VAE

_STATISTICS_CLIPS = 64


class LatentSource:
    """Encodes clips with a VAE that no longer changes."""

    def __init__(self, vae: VAE, cache_mb: float):
        self._vae = vae.eval()
        self._memory = Memory(cache_mb * 1e6)

    def __call__(self, clip: Clip) -> Tensor:
        """Normalized latents [C, T', H', W'] of one clip."""
        place = (clip.row, clip.window, clip.content.shape)
        return self._memory.get(place, lambda: encode(self._vae, clip.content), lambda latents: latents.nbytes)


@torch.no_grad()
def encode(vae: VAE, pixels: Tensor) -> Tensor:
    """Pixels uint8 [T, H, W, 3] to normalized latents [C, T', H', W']."""
    return vae.to_latents(to_tensor(pixels)[None])[0]


@torch.no_grad()
def measure_latents(vae: VAE, source: ClipSource, order: Order) -> None:
    """Set the VAE's latent statistics from the first clips of the run, at most 64."""
    clips = source.first(order, min(_STATISTICS_CLIPS, order.sampler.epoch_length))
    vae.set_statistics([vae.encode(to_tensor(clip.content)[None]).mean[0] for clip in clips])
