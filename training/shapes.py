"""The shape each clip is trained at: its own aspect ratio and its own length, resized and never cropped. No torch.

The shorter side is a whole number n of tokens and the longer one is n times the aspect ratio, rounded: it is off by at
most half a token, so that the aspect ratio is off by at most 1 / (2 n) of its value at the shorter side. n is the
largest for which the picture stays within its area. A clip has as many frames as its span gives, in whole latent frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from training.config import ShapesConfig, TrainConfig, VAEConfig
from training.settings import TrainError


@dataclass(frozen=True)
class Token:
    """What one token covers: `side` x `side` pixels, and `frames` frames, but one alone at the beginning of a clip."""

    side: int
    frames: int


@dataclass(frozen=True)
class Shape:
    """How one clip is trained: its size in pixels, and `frames` frames, one in `stride` of its source, which makes `fps`."""

    width: int
    height: int
    frames: int
    stride: float
    fps: float


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shapes of N rows, each array [N]; `buckets` numbers the distinct (width, height, frames), `tokens` counts."""

    widths: np.ndarray
    heights: np.ndarray
    frames: np.ndarray
    strides: np.ndarray
    fps: np.ndarray
    tokens: np.ndarray
    buckets: np.ndarray

    def of(self, row: int) -> Shape:
        """The shape of one row."""
        size = (int(values[row]) for values in (self.widths, self.heights, self.frames))
        return Shape(*size, float(self.strides[row]), float(self.fps[row]))


@dataclass(frozen=True, eq=False)
class Sides:
    """Shorter and longer sides in tokens, int64 [N]; both are 0 where no picture of that aspect ratio has so few tokens."""

    shorter: np.ndarray
    longer: np.ndarray


def token_of(config: TrainConfig) -> Token:
    """What a token of the DiT covers in this run."""
    return Token(config.vae.space_factor * config.dit.patch, config.vae.time_factor)


def latent_shape(width: int, height: int, frames: int, vae: VAEConfig) -> tuple[int, int, int, int]:
    """(C, T', H', W') of the latents of so many frames of a size in pixels."""
    return vae.latent_channels, 1 + (frames - 1) // vae.time_factor, height // vae.space_factor, width // vae.space_factor


def plan_shapes(rows: pa.Table, config: ShapesConfig, token: Token) -> Shapes:
    """The shape of every row. The largest area that needs no enlarging is taken, or else the smallest.

    Pixels that are not square (`sample_aspect_ratio`, where the manifest has it) are made so. Raises TrainError where a
    clip is so elongated that no picture of its aspect ratio fits its area; `elongated` counts these beforehand.
    """
    aspects, pixels = _pictures(rows)
    sides = _sides(aspects, pixels, config, token)
    if not sides.shorter.all():
        raise TrainError(f"{int((sides.shorter == 0).sum())} clips are too elongated for data.shapes.areas")
    shorter, longer, wide = sides.shorter, sides.longer, aspects >= 1
    widths, heights = np.where(wide, longer, shorter), np.where(wide, shorter, longer)
    available, rates = _numbers(rows, "num_frames"), _rates(rows)
    strides = np.ones(len(rates)) if config.fps == "native" else np.maximum(rates / config.fps, 1.0)
    usable = np.minimum(np.floor((available - 1) / strides + 1e-9), config.max_frames - 1).astype(np.int64)
    latent_frames = 1 + usable // (token.frames * config.frame_step) * config.frame_step
    tokens = latent_frames * shorter * longer
    _, buckets = np.unique(np.stack([widths, heights, latent_frames], axis=1), axis=0, return_inverse=True)
    frames = 1 + token.frames * (latent_frames - 1)
    return Shapes(widths * token.side, heights * token.side, frames, strides, rates / strides, tokens, buckets.reshape(-1))


def elongated(rows: pa.Table, configs: Sequence[ShapesConfig], token: Token) -> np.ndarray:
    """bool [N]: clips for which an area of one of the configurations holds no picture of their aspect ratio."""
    aspects, pixels = _pictures(rows)
    return np.any([_sides(aspects, pixels, config, token).shorter == 0 for config in configs], axis=0)


def fit_sides(aspects: np.ndarray, max_tokens: int) -> Sides:
    """Sides in tokens for ratios of longer to shorter side, float64 [N], all at least 1; see the top of this file."""
    distinct, index = np.unique(aspects, return_inverse=True)
    shorter, longer = (np.zeros(len(distinct), np.int64) for _ in range(2))
    for side in range(1, math.isqrt(max_tokens) + 1):
        other = np.floor(side * distinct + 0.5).astype(np.int64)
        fits = side * other <= max_tokens
        shorter[fits], longer[fits] = side, other[fits]
    return Sides(shorter[index], longer[index])


def largest(config: ShapesConfig, token: Token) -> Shape:
    """The shape of a clip of the largest area, in the aspect ratio in which that area is given, at full length."""
    return fitting(config, token, *max(config.areas, key=math.prod))


def fitting(config: ShapesConfig, token: Token, width: int, height: int) -> Shape:
    """The shape of a clip of that aspect ratio in the largest area, at full length. Raises TrainError where it is too elongated."""
    area = max(config.areas, key=math.prod)
    scale = math.sqrt(math.prod(area) / (width * height))
    fps = 24.0 if config.fps == "native" else config.fps
    table = {"num_frames": [config.max_frames], "start_s": [0.0], "end_s": [config.max_frames / fps], "fps": [fps]}
    only = config.model_copy(update={"areas": (area,)})
    return plan_shapes(pa.table({**table, "crop_w": [width * scale], "crop_h": [height * scale]}), only, token).of(0)


def _sides(aspects: np.ndarray, pixels: np.ndarray, config: ShapesConfig, token: Token) -> Sides:
    chosen = Sides(*(np.zeros(len(aspects), np.int64) for _ in range(2)))
    ratios = np.maximum(aspects, 1 / aspects)
    for index, area in enumerate(sorted(math.prod(size) for size in config.areas)):
        here = pixels >= area if index else np.ones(len(pixels), bool)
        fitted = fit_sides(ratios[here], area // token.side**2)
        chosen.shorter[here], chosen.longer[here] = fitted.shorter, fitted.longer
    return chosen


def _pictures(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Width / height, and the number of pixels, of each row's active picture with square pixels."""
    widths, heights = _numbers(rows, "crop_w"), _numbers(rows, "crop_h")
    if "sample_aspect_ratio" in rows.column_names:
        widths = widths * _numbers(rows, "sample_aspect_ratio")
    return widths / heights, widths * heights


def _rates(rows: pa.Table) -> np.ndarray:
    """Frames a second within each span; those of the file where the span has no duration."""
    seconds = _numbers(rows, "end_s") - _numbers(rows, "start_s")
    return np.where(seconds > 0, _numbers(rows, "num_frames") / np.where(seconds > 0, seconds, 1), _numbers(rows, "fps"))


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    return rows.column(name).to_numpy().astype(np.float64)
