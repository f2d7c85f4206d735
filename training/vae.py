"""The causal 3D autoencoder: video [B, 3, T, H, W] to latents [B, C, 1 + (T - 1) / f, H / s, W / s] and back.

No latent depends on later frames, and the first frame is encoded alone, so an image is a video of one frame. Causal
convolutions as in MAGVIT-v2 (Yu et al. 2024). Normalization is per position, since statistics over time would leak, and
not on the main path, where brightness would be lost. Every change of size or width has a fixed shortcut, as in DC-AE
(Chen et al. 2025), so the whole begins as a coarse copy: of clips it never sees 21.0 dB before the first step, 22.8 after 200.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.autoencoding.critic import Critic, critic_loss
from training.autoencoding.layers import Chain, Moments, Past, Resample, ResidualBlock, Upsample, reach
from training.autoencoding.perceptual import Perceptual
from training.autoencoding.tiling import Span, Way, run_chunks, run_tiled
from training.config import VAEConfig

_SQUARED, _ABSOLUTE = 2.0, 0.2  # weights of the two errors
_PERCEPTUAL_FRAMES = 2  # of each clip, since LPIPS costs more than the autoencoder


@dataclass(frozen=True)
class Posterior:
    """The diagonal Gaussian q(z | x) (Kingma & Welling 2014). `mean` and `log_variance` [B, C, T', H', W']."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """z [B, C, T', H', W'] by reparametrization."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """KL divergence from the standard normal, in nats per latent number: a scalar."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance).mean()


@dataclass(frozen=True)
class VAELoss:
    """`total` is what is minimized; `psnr_db` compares the reconstruction with the input (peak to peak is 2).

    `clip_reconstructions` [B] are the parts of clips in `reconstruction`, their mean. `further` are the losses that the config
    asks for beside: perceptual, adversarial and critic, none of them weighted.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    psnr_db: Tensor
    clip_reconstructions: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict)


class VAE(nn.Module):
    """Encoder, decoder, and the statistics that bring latents to zero mean and unit variance per channel."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        widths, depth, pixels = config.widths, config.blocks_per_width, 3 * config.input_patch**2
        encoder: list[nn.Module] = [Resample(pixels, widths[0])]
        for i, width in enumerate(widths):
            encoder += [Resample(widths[i - 1], width, *config.strides[i - 1])] if i else []
            encoder += [ResidualBlock(width) for _ in range(depth)]
        self.encoder = Chain(*encoder, Moments(widths[-1], config.latent_channels, log_variance=-5))  # little noise to begin with
        decoder: list[nn.Module] = [Resample(config.latent_channels, widths[-1])]
        for i, width in reversed(list(enumerate(widths))):
            decoder += [ResidualBlock(width) for _ in range(depth)]
            decoder += [Upsample(width, widths[i - 1], *config.strides[i - 1])] if i else []
        self.decoder = Chain(*decoder, Resample(widths[0], pixels))
        self.critic = Critic(config.adversarial) if config.adversarial else None
        self.register_load_state_dict_pre_hook(_with_or_without_critic)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1, 1, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1, 1, 1))

    @cached_property
    def perceptual(self) -> Perceptual | None:
        """LPIPS, read when a loss first asks for it. No submodule: its weights are neither trained nor kept in checkpoints."""
        return Perceptual(Path(self.config.perceptual.weights)) if self.config.perceptual else None

    def encode(self, video: Tensor) -> Posterior:
        """Video [B, 3, T, H, W] to the posterior over its latents."""
        return _posterior(self._moments(video))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, T', H', W'] to video [B, 3, T, H, W], not clamped."""
        return self._pictures(latents)

    def encode_tiled(self, video: Tensor, tile_pixels: int | None, chunk_frames: int | None) -> Posterior:
        """`encode` in memory that is bounded by tiles of so many pixels a side and chunks of so many frames; None: whole.

        Both are multiples of the factors; the first chunk holds 1 - time_factor frames more. Without gradients.
        """
        cells, frames = self._cells(tile_pixels, chunk_frames)
        return _posterior(run_tiled(self._encoding, video, cells, frames))

    def decode_tiled(self, latents: Tensor, tile_pixels: int | None, chunk_frames: int | None) -> Tensor:
        """`decode` likewise."""
        return run_tiled(self._decoding, latents, *self._cells(tile_pixels, chunk_frames))

    def decode_chunks(self, latents: Tensor, tile_pixels: int | None, chunk_frames: int) -> Iterator[Tensor]:
        """`decode` likewise, but chunk after chunk [B, 3, n, H, W], to be written away before the next."""
        return run_chunks(self._decoding, latents, *self._cells(tile_pixels, chunk_frames))

    def to_latents(self, video: Tensor) -> Tensor:
        """Normalized posterior means [B, C, T', H', W']: what the DiT learns. By tiles and chunks where the config names them."""
        tiling = self.config.tile_pixels, self.config.chunk_frames
        posterior = self.encode(video) if tiling == (None, None) else self.encode_tiled(video, *tiling)
        return (posterior.mean - self.latent_mean) / self.latent_std

    def to_video(self, latents: Tensor) -> Tensor:
        """Normalized latents to video [B, 3, T, H, W] in [-1, 1], likewise."""
        tiling, latents = (self.config.tile_pixels, self.config.chunk_frames), latents * self.latent_std + self.latent_mean
        video = self.decode(latents) if tiling == (None, None) else self.decode_tiled(latents, *tiling)
        return video.clamp(-1, 1)

    @torch.no_grad()
    def set_statistics(self, means: list[Tensor]) -> None:
        """Take mean and deviation per channel from raw posterior means, each [C, T', H', W'] of any size."""
        values = torch.cat([mean.flatten(1) for mean in means], dim=1).double()
        self.latent_mean.copy_(values.mean(dim=1).view(-1, 1, 1, 1))
        self.latent_std.copy_(values.std(dim=1).clamp_min(1e-4).view(-1, 1, 1, 1))

    def _moments(self, video: Tensor, past: Past | None = None) -> Tensor:
        """Means and log variances [B, 2 C, T', H', W']."""
        return self.encoder(_fold(video, self.config.input_patch), past)

    def _pictures(self, latents: Tensor, past: Past | None = None) -> Tensor:
        return _unfold(self.decoder(latents, past), self.config.input_patch)

    @property
    def _encoding(self) -> Way:
        patches = self.config.space_factor // self.config.input_patch  # cells of the network's input to a latent cell

        def needs(wanted: Span) -> Span:
            first, last = reach(self.encoder, wanted[0], wanted[1] - 1)
            return first // patches, last // patches + 1

        return Way(self._moments, needs, self.config.space_factor, 1, self.config.time_factor, 1)

    @property
    def _decoding(self) -> Way:
        patches = self.config.space_factor // self.config.input_patch

        def needs(wanted: Span) -> Span:
            first, last = reach(self.decoder, wanted[0] * patches, wanted[1] * patches - 1)
            return first, last + 1

        return Way(self._pictures, needs, 1, self.config.space_factor, 1, self.config.time_factor)

    def _cells(self, tile_pixels: int | None, chunk_frames: int | None) -> tuple[int | None, int | None]:
        """A tile's side in latent cells and a chunk's length in latent frames. Raises ValueError where the factors do not divide them."""
        for size, factor in ((tile_pixels, self.config.space_factor), (chunk_frames, self.config.time_factor)):
            if size is not None and (size < factor or size % factor):
                raise ValueError(f"a tile or chunk of {size} is no multiple of {factor}")
        return tile_pixels and tile_pixels // self.config.space_factor, chunk_frames and chunk_frames // self.config.time_factor


def vae_loss(vae: VAE, video: Tensor, generator: torch.Generator) -> VAELoss:
    """The error of the reconstruction, mostly squared, plus the weighted KL, for video [B, 3, T, H, W].

    The absolute error alone is least where small things are left out, since the median of what is there is the ground: measured on
    small colored shapes, 21.6 dB and all of them gray after 300 steps, and 25.6 dB and all in their colors with this one.

    Where the config asks for it, LPIPS of two frames of each clip, at random, and the losses of a critic. A perceptual and an adversarial
    term beside these two are those of Esser et al. 2021. The critic learns in the same backward pass, and from its own term alone.
    """
    posterior = vae.encode(video)
    output = vae.decode(posterior.sample(generator))
    of_clips = _SQUARED * (output - video).square().flatten(1).mean(dim=1) + _ABSOLUTE * (output - video).abs().flatten(1).mean(dim=1)
    reconstruction, kl = of_clips.mean(), posterior.kl()
    total, further = reconstruction + vae.config.kl_weight * kl, {}
    if vae.config.perceptual and vae.perceptual:
        frames = torch.randperm(video.shape[2], generator=generator, device=generator.device)[:_PERCEPTUAL_FRAMES].to(video.device)
        pictures, made = (x.index_select(2, frames).transpose(1, 2).flatten(0, 1) for x in (video, output))
        further["perceptual"] = vae.perceptual.to(video.device)(made, pictures)
        total = total + vae.config.perceptual.weight * further["perceptual"]
    if vae.config.adversarial and vae.critic is not None:
        judged = critic_loss(vae.critic, video, output)
        further |= {"adversarial": judged.generator, "critic": judged.critic}
        total = total + vae.config.adversarial.weight * judged.generator + judged.critic
    psnr_db = 10 * torch.log10(4 / F.mse_loss(output.detach(), video).clamp_min(1e-10))
    further = {name: value.detach() for name, value in further.items()}
    return VAELoss(total, reconstruction.detach(), kl.detach(), psnr_db, of_clips.detach(), further)


def _with_or_without_critic(vae: VAE, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before weights are loaded: those of a run with a critic fit a vae without one, and the other way, where it begins anew."""
    own = {} if vae.critic is None else vae.critic.state_dict(prefix=f"{prefix}critic.")
    there = [name for name in state if name.startswith(f"{prefix}critic.")]
    if not own:
        for name in there:
            del state[name]
    elif not there:
        state.update(own)


def _posterior(moments: Tensor) -> Posterior:
    mean, log_variance = moments.chunk(2, dim=1)
    return Posterior(mean, log_variance.clamp(-20, 10))


def _fold(video: Tensor, patch: int) -> Tensor:
    """[B, C, T, H, W] to [B, C p p, T, H / p, W / p]: space to depth in each frame."""
    return F.pixel_unshuffle(video.transpose(1, 2), patch).transpose(1, 2)


def _unfold(video: Tensor, patch: int) -> Tensor:
    """The inverse of `_fold`."""
    return F.pixel_shuffle(video.transpose(1, 2), patch).transpose(1, 2)
