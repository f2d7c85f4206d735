"""From the decoder's full-size planes to the small ones that most measurements use.

Only repeated halving is used: OpenCV averages 2 x 2 blocks at memory speed, ten times faster than any other factor.
"""

from dataclasses import dataclass

import cv2
import numpy as np

TINY_SHAPE = 27, 48, 3
"""Of the pictures that detectors of shots with a network of their own look at."""
SMALL_SIDE = 320
"""A small luma plane's longer side is below this, and at least half of it where the picture is that large."""


@dataclass(frozen=True, slots=True)
class SmallPlanes:
    """One frame, small, in display orientation and full range 0-255; neutral chroma is 128.

    luma: uint8 [h, w]; u, v: uint8, about [h / 4, w / 4].
    """

    luma: np.ndarray
    u: np.ndarray
    v: np.ndarray


def halve(plane: np.ndarray, rows: bool = True, columns: bool = True) -> np.ndarray:
    """Average of 2 x 2 (or 2 x 1, 1 x 2) blocks; an odd last row or column is left out. uint8 [H, W, ...] -> [H/2, W/2, ...]."""
    height, width = plane.shape[:2]
    height, width = height // 2 if rows else height, width // 2 if columns else width
    if not (height and width):
        return plane
    return cv2.resize(plane[: height << rows, : width << columns], (width, height), interpolation=cv2.INTER_AREA)


def shrink(plane: np.ndarray, side: int) -> np.ndarray:
    """Halve until the longer side is below `side`, or the shorter one cannot be halved."""
    while max(plane.shape[:2]) >= side and min(plane.shape[:2]) > 1:
        plane = halve(plane)
    return plane


def match(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Halve rows and columns, each until within a factor of two of `height` and `width`, or of 1, or below."""
    height, width = max(height, 1), max(width, 1)
    while (rows := plane.shape[0] >= 2 * height) | (columns := plane.shape[1] >= 2 * width):
        plane = halve(plane, rows, columns)
    return plane


def resize_down(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A plane scaled to (width, height), not larger than it is: halved while that fits, then interpolated."""
    plane = match(plane, size[1], size[0])
    return cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)


def _table(low: int, span: int, anchor: int) -> np.ndarray:
    codes = np.arange(256, dtype=np.float64)
    return np.clip(np.rint((codes - low) * 255 / span + anchor), 0, 255).astype(np.uint8)


_LUMA_TO_FULL = _table(16, 219, 0)  # ITU-R BT.601 and 709: black is 16, white 235
_CHROMA_TO_FULL = _table(128, 224, 128)  # and chroma spans 16-240


def full_range_luma(plane: np.ndarray, is_full: bool) -> np.ndarray:
    """Luma stretched to 0-255 where it is in the limited range 16-235."""
    return plane if is_full else cv2.LUT(plane, _LUMA_TO_FULL)


def full_range_chroma(plane: np.ndarray, is_full: bool) -> np.ndarray:
    """Chroma stretched to 0-255 around 128 where it is in the limited range 16-240."""
    return plane if is_full else cv2.LUT(plane, _CHROMA_TO_FULL)


def tiny_rgb(small: SmallPlanes) -> np.ndarray:
    """One frame as uint8 RGB [27, 48, 3], whatever its shape."""
    height, width, _ = TINY_SHAPE
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in (small.luma, small.v, small.u)]
    return cv2.cvtColor(cv2.merge(planes), cv2.COLOR_YCrCb2RGB)


def to_bgr(luma: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Full-range planes to uint8 BGR [H, W, 3] at luma's size, with the BT.601 matrix (that of JPEG)."""
    size = (luma.shape[1], luma.shape[0])
    chroma = [plane if plane.shape == luma.shape else cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in (v, u)]
    return cv2.cvtColor(cv2.merge([luma, *chroma]), cv2.COLOR_YCrCb2BGR)
