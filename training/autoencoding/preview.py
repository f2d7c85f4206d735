"""Tiny decoders of published latents, for previews: TAEHV (Bohan 2025, github madebyollin/taehv), from its state dict.

One latent frame at a time goes through two-dimensional layers, some of which also see their input of the frame before. They
were distilled on normalized latents, as the DiT learns them: `taehv.pth` on those of HunyuanVideo, `taew2_1.pth` on those of Wan 2.1.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from training.config import TrainConfig
from training.settings import TrainError

_GROWS, _BLOCKS_EACH = (7, 13, 19), 3  # places in `decoder` of the layers that make several frames of one


class _Squash(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _MemoryBlock(nn.Module):
    """A residual block over a frame and the one before it."""

    def __init__(self, channels: int):
        super().__init__()
        ends = (2 * channels, channels, channels)
        convolutions = [nn.Conv2d(inputs, channels, 3, padding=1) for inputs in ends]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C, H, W] keeps its shape; there are zeros before the first frame."""
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return F.relu(_each_frame(self.conv, torch.cat([x, before], dim=2)) + x)


class _Grow(nn.Module):
    """One frame to `stride`: [B, T, C, H, W] to [B, stride T, C, H, W]."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride, self.conv = stride, nn.Conv2d(channels, stride * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _each_frame(self.conv, x).unflatten(2, (self.stride, -1)).flatten(1, 2)


class PreviewDecoder(nn.Module):
    """Normalized latents to video, as a VAE's `to_video`, much faster and less sharp."""

    def __init__(self, state: dict[str, Tensor], time_factor: int):
        """Raises KeyError, ValueError or RuntimeError where `state` is not of such a decoder or cannot make `time_factor` frames of one."""
        super().__init__()
        self._time_factor = time_factor
        widths = [state["decoder.1.weight"].shape[0], *(state[f"decoder.{place + 1}.weight"].shape[0] for place in _GROWS)]
        self._patch = round((state["decoder.22.weight"].shape[0] / 3) ** 0.5)
        self.latent_channels = state["decoder.1.weight"].shape[1]
        self.space_factor = 8 * self._patch
        doublings = time_factor.bit_length() - 1  # by the last layers that grow
        layers: list[nn.Module] = [_Squash(), nn.Conv2d(self.latent_channels, widths[0], 3, padding=1), nn.ReLU()]
        weights = {name: value.float() for name, value in state.items() if name.startswith("decoder.")}
        for number, (width, following) in enumerate(zip(widths, widths[1:], strict=False)):
            stride = 2 if number >= len(_GROWS) - doublings else 1
            layers += [*(_MemoryBlock(width) for _ in range(_BLOCKS_EACH)), nn.Upsample(scale_factor=2), _Grow(width, stride)]
            layers += [nn.Conv2d(width, following, 3, padding=1, bias=False)]
            name = f"decoder.{_GROWS[number]}.conv.weight"
            weights[name] = weights[name][-stride * width :]  # a layer may make more frames than are wanted: the last are those
        self.decoder = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(widths[-1], 3 * self._patch**2, 3, padding=1))
        self.load_state_dict(weights)

    @torch.no_grad()
    def to_video(self, latents: Tensor) -> Tensor:
        """Normalized latents [B, C, T', H', W'] to video [B, 3, 1 + (T' - 1) time_factor, H, W] in [-1, 1]."""
        x = latents.transpose(1, 2)
        for layer in self.decoder:
            x = layer(x) if isinstance(layer, (_MemoryBlock, _Grow)) else _each_frame(layer, x)
        video = F.pixel_shuffle(x, self._patch)[:, self._time_factor - 1 :].transpose(1, 2)
        return video.clamp(0, 1) * 2 - 1


def open_preview(config: TrainConfig) -> PreviewDecoder | None:
    """The decoder that sample.preview_decoder names, if any. Raises TrainError where it cannot be used with the config's vae."""
    if config.sample.preview_decoder is None:
        return None
    path = Path(config.sample.preview_decoder)
    problem = f"sample.preview_decoder: {path}"
    if not path.is_file():
        raise TrainError(f"{problem} is not there; taehv.pth and taew2_1.pth are in github.com/madebyollin/taehv")
    try:
        decoder = PreviewDecoder(_read(path), config.vae.time_factor).eval().requires_grad_(False)
    except Exception as error:  # of reading, of a name that is not there, of a shape that does not fit
        raise TrainError(f"{problem} is not the state dict of a TAEHV ({' '.join(str(error).split())[:200]})") from error
    if (size := (decoder.latent_channels, decoder.space_factor)) != (config.vae.latent_channels, config.vae.space_factor):
        raise TrainError(f"{problem} decodes latents of {size[0]} channels and {size[1]} pixels a side, which those of the vae are not")
    return decoder


def _read(path: Path) -> dict[str, Any]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)


def _each_frame(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
