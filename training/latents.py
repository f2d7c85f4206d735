"""Latents of clips: encoded as training asks for them, or out of a cache that `reelmill encode` filled.

Each clip is encoded alone, so its latents do not depend on its batch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.autoencoding.pretrained import AnyVAE, PretrainedVAE
from training.config import DataConfig, TrainConfig
from training.data import Clip, ClipSource, Memory, Order, SkippedClip
from training.encoding.cache import Cache, key_of
from training.pixels import Window, to_tensor, window_of
from training.plan import Prepared, shapes_of
from training.settings import TrainError
from training.shapes import Shape, Shapes
from training.vae import VAE

_STATISTICS_CLIPS = 64
NOT_OF_LATENTS = {"kl_weight", "weights", "perceptual", "adversarial", "pretrained", "tile_pixels", "chunk_frames"}
_VERSION = 1  # of how pixels become latents, beside what the encoder's digest tells


class LatentSource:
    """Encodes clips with a VAE that no longer changes."""

    def __init__(self, vae: AnyVAE, memory_mb: float):
        self._vae = vae.eval()
        self._memory = Memory(memory_mb * 1e6)

    def __call__(self, clip: Clip) -> Tensor:
        """Normalized latents [C, T', H', W'] of one clip."""
        place = (clip.row, clip.window, clip.content.shape)
        return self._memory.get(place, lambda: encode(self._vae, clip.content), lambda latents: latents.nbytes)


@dataclass(frozen=True)
class CachedLatents:
    """Contents out of a cache. `origin` is that of the manifest's pixels."""

    cache: Cache
    origin: str

    def __call__(self, row: dict[str, Any], shape: Shape, window: Window) -> Tensor:
        """Normalized latents [C, T', H', W'], float32. Raises SkippedClip for what could not be encoded."""
        key = latent_key(row, shape, window, self.origin)
        if key in self.cache:
            return self.cache.read(key).float()
        raise SkippedClip(self.cache.why_not(key) or "it is not in the cache of latents")


@torch.no_grad()
def encode(vae: AnyVAE, pixels: Tensor) -> Tensor:
    """Pixels uint8 [T, H, W, 3] to normalized latents [C, T', H', W'], on the CPU wherever the VAE is."""
    return vae.to_latents(_on_device(pixels, vae))[0].cpu()


def _on_device(pixels: Tensor, vae: AnyVAE) -> Tensor:
    return to_tensor(pixels)[None].to(vae.latent_mean.device)


def latent_key(row: Mapping[str, Any], shape: Shape, window: Window, origin: str) -> str:
    """The key of a window's latents: everything that decides its pixels. The encoder names the folder."""
    crop = [row[name] for name in ("crop_x", "crop_y", "crop_w", "crop_h")]
    frames = (window.start, window.stride, window.frames)
    return key_of(_VERSION, row["clip_id"], origin, crop, shape.width, shape.height, *frames)


def windows_by_key(row: Mapping[str, Any], shape: Shape, count: int, origin: str) -> dict[str, Window]:
    """The windows that may be drawn of a clip, of which there are fewer than `count` where some hold the same frames."""
    windows = (window_of(row["num_frames"], shape, number, count) for number in range(count))
    return {latent_key(row, shape, window, origin): window for window in windows}


def latents_folder(cache: str | Path, vae: AnyVAE) -> Path:
    """Where a cache keeps the latents of this very encoder."""
    return Path(cache) / "latents" / encoder_digest(vae)[:16]


def encoder_digest(vae: AnyVAE) -> str:
    """SHA-256 over all that makes latents: the encoder's shape, its weights, and the statistics that normalize them."""
    if isinstance(vae, PretrainedVAE):
        return vae.encoder_digest
    digest = sha256(json.dumps(vae.config.model_dump(mode="json", exclude=NOT_OF_LATENTS), sort_keys=True).encode())
    for name, value in sorted(vae.state_dict().items()):
        if not name.startswith(("decoder.", "critic.")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_latents(config: TrainConfig, vae: AnyVAE, of_stages: Sequence[Prepared]) -> Cache | None:
    """The cache of latents, where there is to be one. Raises TrainError where it lacks any that a stage may draw."""
    if config.data.cache is None:
        return None
    cache = Cache(latents_folder(config.data.cache, vae))
    for stage, prepared in zip(config.stages, of_stages, strict=True):
        check_latents(prepared, shapes_of(prepared, config, stage), config.data, cache)
    return cache


def check_latents(prepared: Prepared, shapes: Shapes, data: DataConfig, cache: Cache) -> None:
    """Raises TrainError where a window that may be drawn is not in the cache and was never tried."""
    columns = ("clip_id", "num_frames", "crop_x", "crop_y", "crop_w", "crop_h")
    drawn, count = prepared.sampler.drawn(), data.windows_per_clip
    wanted = set()
    for index, row in enumerate(prepared.rows.select(columns).to_pylist()):
        if drawn[index]:
            wanted |= windows_by_key(row, shapes.of(index), count, prepared.origin).keys()
    if missing := sum(key not in cache and cache.why_not(key) is None for key in wanted):
        lack = f"{cache.folder} lacks {missing:,} of {len(wanted):,} windows"
        raise TrainError(f"data.cache: {lack}; `reelmill encode MANIFEST --config CONFIG` makes them")


@torch.no_grad()
def measure_latents(vae: VAE, source: ClipSource, order: Order) -> None:
    """Set the VAE's latent statistics from the first clips of the run, at most 64."""
    clips = source.first(order, min(_STATISTICS_CLIPS, order.sampler.epoch_length))
    vae.set_statistics([vae.encode(_on_device(clip.content, vae)).mean[0] for clip in clips])
