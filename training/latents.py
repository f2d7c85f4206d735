"""Latents of clips, kept in memory. Each clip is encoded alone, so its latents do not depend on its batch."""

import torch
from torch import Tensor

from training.data import Clip, ClipSource, Memory, to_tensor
from training.sampler import Sampler
from training.shapes import Shapes
from training.vae import VAE

_STATISTICS_CLIPS = 64


class LatentSource:
    """Encodes clips with a VAE that no longer changes."""

    def __init__(self, vae: VAE, cache_mb: float):
        self._vae = vae.eval()
        self._memory = Memory(cache_mb * 1e6)

    def __call__(self, clip: Clip) -> Tensor:
        """Normalized latents [C, T', H', W'] of one clip."""
        place = (clip.clip_id, clip.window, clip.pixels.shape)
        return self._memory.get(place, lambda: self._encode(clip), lambda latents: latents.nbytes)

    @torch.no_grad()
    def _encode(self, clip: Clip) -> Tensor:
        return self._vae.to_latents(to_tensor(clip.pixels)[None])[0]


@torch.no_grad()
def measure_latents(vae: VAE, source: ClipSource, sampler: Sampler, shapes: Shapes) -> None:
    """Set the VAE's latent statistics from the first clips of the run, at most 64."""
    clips = source.first(sampler, shapes, min(_STATISTICS_CLIPS, sampler.epoch_length))
    vae.set_statistics([vae.encode(to_tensor(clip.pixels)[None]).mean[0] for clip in clips])
