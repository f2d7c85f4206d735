"""What the config.json of a published video VAE says of its latents. No torch here, since configurations ask it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
ClassName = Literal["AutoencoderKLWan", "AutoencoderKLHunyuanVideo"]


@dataclass(frozen=True)
class PublishedVAE:
    """A VAE in the layout of diffusers. Latents less `mean`, divided by `std`, have zero mean and unit variance in each channel."""

    class_name: ClassName
    time_factor: int
    space_factor: int
    latent_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published_vae(folder: Path) -> PublishedVAE:
    """Read a folder's config.json. Raises ValueError, one line, where there is none or it is of another kind."""
    try:
        content = json.loads((folder / CONFIG).read_text())
        kind = content.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder}/{CONFIG} cannot be read ({' '.join(str(error).split())}); give the folder of a vae of diffusers"
        ) from error
    makers = {"AutoencoderKLWan": _wan, "AutoencoderKLHunyuanVideo": _hunyuan}
    if kind not in makers:
        raise ValueError(f"{folder} holds {kind or 'no vae of diffusers'}; known: {', '.join(makers)}")
    try:
        return makers[kind](content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}/{CONFIG} is not that of {kind}: {type(error).__name__} of {error}") from error


def _wan(content: dict[str, Any]) -> PublishedVAE:
    """Wan 2.1 and 2.2 (Wan Team 2025). Each width but the first halves the picture, and time where it says so."""
    channels, time = content["z_dim"], 2 ** sum(content["temperal_downsample"])  # sic
    space = 2 ** (len(content["dim_mult"]) - 1) * (content.get("patch_size") or 1)
    mean, std = (tuple(map(float, content[name])) for name in ("latents_mean", "latents_std"))
    if not len(mean) == len(std) == channels or not all(map(math.isfinite, (*mean, *std))):
        raise ValueError(f"latents_mean and latents_std, which are not of {channels} channels")
    return PublishedVAE("AutoencoderKLWan", time, space, channels, mean, std)


def _hunyuan(content: dict[str, Any]) -> PublishedVAE:
    """HunyuanVideo (Kong et al. 2024): one factor for all channels."""
    channels, std = content["latent_channels"], 1 / content["scaling_factor"]
    mean = (float(content.get("shift_factor") or 0.0),) * channels
    time, space = content.get("temporal_compression_ratio", 4), content.get("spatial_compression_ratio", 8)
    return PublishedVAE("AutoencoderKLHunyuanVideo", time, space, channels, mean, (std,) * channels)
