"""The causal 3D autoencoder: video [B, 3, T, H, W] to latents [B, C, 1 + (T - 1) / f, H / s, W / s] and back.

No latent depends on later frames, and the first frame is encoded alone, so an image is a video of one frame. Causal
convolutions as in MAGVIT-v2 (Yu et al. 2024). Normalization is per position, since statistics over time would leak, and
not on the main path, where brightness would be lost. Every change of size or width has a fixed shortcut, as in DC-AE
(Chen et al. 2025), so the network begins as a coarse copy: measured, 200 steps reach 19.5 dB instead of 16.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import VAEConfig


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

    `clip_reconstructions` [B] are the parts of clips in `reconstruction`, their mean.
    """

    total: Tensor
    reconstruction: Tensor
    kl: Tensor
    psnr_db: Tensor
    clip_reconstructions: Tensor


class CausalConv3d(nn.Conv3d):
    """A convolution that sees no later frame: the first frame is repeated in front, zeros surround each picture."""

    def __init__(self, inputs: int, outputs: int, time_stride: int = 1, space_stride: int = 1):
        super().__init__(inputs, outputs, 3, stride=(time_stride, space_stride, space_stride), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, T, H, W] to [B, outputs, T, H, W]; strides of 2 give (T + 1) / 2, H / 2 and W / 2."""
        return super().forward(torch.cat([x[:, :, :1].expand(-1, -1, 2, -1, -1), x], dim=2))


class ChannelNorm(nn.Module):
    """RMS norm (Zhang & Sennrich 2019) over the channels of each position of [B, C, T, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * self.scale


class ResidualBlock(nn.Sequential):
    """Two convolutions around a skip; [B, C, T, H, W] keeps its shape."""

    def __init__(self, channels: int):
        conv = [CausalConv3d(channels, channels) for _ in range(2)]
        super().__init__(ChannelNorm(channels), nn.SiLU(), conv[0], ChannelNorm(channels), nn.SiLU(), conv[1])
        nn.init.zeros_(conv[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Resample(nn.Module):
    """A causal convolution with strides, beside a mean of the same pixels: [B, inputs, T, H, W] to fewer positions."""

    def __init__(self, inputs: int, outputs: int, time_stride: int = 1, space_stride: int = 1):
        super().__init__()
        self.conv = CausalConv3d(inputs, outputs, time_stride, space_stride)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        time_stride, space_stride, _ = self.conv.stride
        coarse = F.avg_pool3d(x[:, :, ::time_stride], (1, space_stride, space_stride))
        return self.conv(x) + to_width(coarse, self.conv.out_channels)


class Upsample(nn.Module):
    """The way back from strides of 2: [B, inputs, T, H, W] to [B, outputs, 2 T - 1, 2 H, 2 W]."""

    def __init__(self, inputs: int, outputs: int, time_stride: int, space_stride: int):
        super().__init__()
        self.time_stride, self.space_stride = time_stride, space_stride
        self.resample = Resample(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat_interleave(self.time_stride, dim=2)[:, :, self.time_stride - 1 :]
        return self.resample(x.repeat_interleave(self.space_stride, dim=3).repeat_interleave(self.space_stride, dim=4))


def to_width(x: Tensor, channels: int) -> Tensor:
    """Repeat or average the channels of [B, C, ...] to `channels`, without weights."""
    x = x.repeat_interleave(-(-channels // x.shape[1]), dim=1) if channels > x.shape[1] else x
    share = x.shape[1] / channels
    if share.is_integer():
        return x.unflatten(1, (channels, -1)).mean(dim=2)
    return F.interpolate(x.flatten(2).transpose(1, 2), channels, mode="area").transpose(1, 2).unflatten(2, x.shape[2:])


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
        self.encoder = nn.Sequential(*encoder, CausalConv3d(widths[-1], 2 * config.latent_channels))
        decoder: list[nn.Module] = [Resample(config.latent_channels, widths[-1])]
        for i, width in reversed(list(enumerate(widths))):
            decoder += [ResidualBlock(width) for _ in range(depth)]
            decoder += [Upsample(width, widths[i - 1], *config.strides[i - 1])] if i else []
        self.decoder = nn.Sequential(*decoder, CausalConv3d(widths[0], pixels))
        nn.init.constant_(self.encoder[-1].bias[config.latent_channels :], -5)  # little noise to begin with
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1, 1, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1, 1, 1))

    def encode(self, video: Tensor) -> Posterior:
        """Video [B, 3, T, H, W] to the posterior over its latents."""
        mean, log_variance = self.encoder(_fold(video, self.config.input_patch)).chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-20, 10))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, T', H', W'] to video [B, 3, T, H, W], not clamped."""
        return _unfold(self.decoder(latents), self.config.input_patch)

    def to_latents(self, video: Tensor) -> Tensor:
        """Normalized posterior means [B, C, T', H', W']: what the DiT learns."""
        return (self.encode(video).mean - self.latent_mean) / self.latent_std

    def to_video(self, latents: Tensor) -> Tensor:
        """Normalized latents to video [B, 3, T, H, W] in [-1, 1]."""
        return self.decode(latents * self.latent_std + self.latent_mean).clamp(-1, 1)

    @torch.no_grad()
    def set_statistics(self, means: list[Tensor]) -> None:
        """Take mean and deviation per channel from raw posterior means, each [C, T', H', W'] of any size."""
        values = torch.cat([mean.flatten(1) for mean in means], dim=1).double()
        self.latent_mean.copy_(values.mean(dim=1).view(-1, 1, 1, 1))
        self.latent_std.copy_(values.std(dim=1).clamp_min(1e-4).view(-1, 1, 1, 1))


def vae_loss(vae: VAE, video: Tensor, generator: torch.Generator) -> VAELoss:
    """Mean absolute error of the reconstruction plus the weighted KL, for video [B, 3, T, H, W]."""
    posterior = vae.encode(video)
    output = vae.decode(posterior.sample(generator))
    reconstruction, kl = F.l1_loss(output, video), posterior.kl()
    psnr_db = 10 * torch.log10(4 / F.mse_loss(output.detach(), video).clamp_min(1e-10))
    of_clips = (output.detach() - video).abs().flatten(1).mean(dim=1)
    return VAELoss(reconstruction + vae.config.kl_weight * kl, reconstruction.detach(), kl.detach(), psnr_db, of_clips)


def _fold(video: Tensor, patch: int) -> Tensor:
    """[B, C, T, H, W] to [B, C p p, T, H / p, W / p]: space to depth in each frame."""
    return F.pixel_unshuffle(video.transpose(1, 2), patch).transpose(1, 2)


def _unfold(video: Tensor, patch: int) -> Tensor:
    """The inverse of `_fold`."""
    return F.pixel_shuffle(video.transpose(1, 2), patch).transpose(1, 2)
