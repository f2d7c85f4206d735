"""Which keyframes of a clip a model is shown, and how large, so that they fit into a budget of tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from labeling.tagger import Keyframe, active_picture

_FEWEST = 3  # keyframes that are shown, smaller if need be, before any is left out
_SMALLEST_SIDE = 112  # px; a picture is not made smaller than that
_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """One picture as it is shown: JPEG, its black bars cut off."""

    time_s: float  # from the beginning of the clip
    jpeg: bytes


@dataclass(frozen=True)
class Frames:
    """Which keyframes to show, by their place in the clip's sequence of them, how much smaller, and their longest side then."""

    chosen: tuple[int, ...]
    scale: float
    side: int


@dataclass(frozen=True)
class Budget:
    """What pictures may cost. A model makes one token of `pixels_per_token` pixels: 28 x 28 in Qwen2.5-VL."""

    tokens: int = 2048
    pixels_per_token: int = 784

    def tokens_of(self, width: int, height: int) -> int:
        """About how many tokens a picture is."""
        return max(1, math.ceil(width * height / self.pixels_per_token))


def choose_frames(width: int, height: int, count: int, budget: Budget) -> Frames:
    """As many of `count` pictures of width x height (bars cut off) as fit, evenly spread from the first to the last.

    If three do not fit, three are shown smaller; if even they would become too small, fewer.
    """
    for shown in range(count, 0, -1):
        scale = math.sqrt(min(1.0, budget.tokens / (shown * budget.tokens_of(width, height))))
        side = int(max(width, height) * scale)
        if scale == 1.0 or (shown <= _FEWEST and side >= _SMALLEST_SIDE) or shown == 1:
            return Frames(spread(count, shown), scale, side)
    return Frames((), 1.0, 0)


def spread(count: int, shown: int) -> tuple[int, ...]:
    """`shown` of `count` places, evenly from the first to the last; the middle one for one."""
    return tuple(np.linspace(0, count - 1, shown).round().astype(int).tolist()) if shown > 1 else (count // 2,) * shown


def pictures(keyframes: Sequence[Keyframe], frames: Frames, clip: Mapping[str, Any]) -> list[Picture]:
    """The chosen keyframes as they are shown, unchanged where nothing is to change. Raises ValueError for a broken JPEG."""
    return [Picture(keyframes[at].time_s - clip["start_s"], _shown(keyframes[at], frames.scale, clip)) for at in frames.chosen]


def active_size(width: int, height: int, clip: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of a clip's keyframe of width x height when its black bars are cut off."""
    picture = active_picture(np.empty((height, width, 0), np.uint8), clip)
    return picture.shape[1], picture.shape[0]


def _shown(keyframe: Keyframe, scale: float, clip: Mapping[str, Any]) -> bytes:
    has_bars = (clip["crop_w"], clip["crop_h"]) != (clip["width"], clip["height"])
    if not has_bars and scale == 1.0:
        return keyframe.jpeg
    picture = active_picture(keyframe.bgr, clip)
    if scale < 1.0:
        size = tuple(max(1, round(pixels * scale)) for pixels in picture.shape[1::-1])
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
