"""What lies on the picture instead of in the scene: black bars, overlays, text, straight graphics."""

from dataclasses import dataclass

import cv2
import numpy as np

_BLACK = 20  # a bar's brightest pixel over black, in levels: coding noise
_SEAM = 6  # how much brighter than the bar the picture beside it must be, in levels
_CLEAR, _STROKE = 96, 192  # Sobel response, four times the gradient per pixel pair, of a clear edge and of a printed stroke
_LETTER_DENSITY = 0.25  # share of strong vertical strokes in a neighborhood the size of a few letters


@dataclass(frozen=True, slots=True)
class Bars:
    """Rows and columns of black at each side of a picture, in pixels; None where it is too dark beside them to tell."""

    top: int | None
    bottom: int | None
    left: int | None
    right: int | None


def black_bars(luma: np.ndarray, small: np.ndarray, black: int = 0) -> Bars | None:
    """Black bars of luma uint8 [H, W] whose black is at level `black`; None for a picture too dark to tell.

    `small` is the same picture reduced and in full range: where none of its sides is dark, no bar is looked for.
    """
    if min(side.max() for side in (small[0], small[-1], small[:, 0], small[:, -1])) > 2 * _BLACK:
        return Bars(0, 0, 0, 0)
    bright_rows = np.flatnonzero(luma.max(axis=1) > black + _BLACK)
    bright_columns = np.flatnonzero(luma.max(axis=0) > black + _BLACK)
    height, width = luma.shape
    if len(bright_rows) < height // 4 or len(bright_columns) < width // 4:
        return None
    return Bars(
        top=_with_seam(luma, int(bright_rows[0])),
        bottom=_with_seam(luma[::-1], int(height - 1 - bright_rows[-1])),
        left=_with_seam(luma.T, int(bright_columns[0])),
        right=_with_seam(luma.T[::-1], int(width - 1 - bright_columns[-1])),
    )


def _with_seam(luma: np.ndarray, thickness: int) -> int | None:
    """`thickness` where the picture behind it is clearly brighter: a dark sky fades out, a bar ends."""
    if thickness and luma[thickness : thickness + 4].mean() - luma[:thickness].mean() < _SEAM:
        return None
    return thickness


@dataclass(frozen=True, slots=True)
class Gradients:
    """Size of the luma gradient along rows and along columns: Sobel responses, capped at 255."""

    across: np.ndarray  # uint8 [H, W]
    down: np.ndarray


def edge_gradients(luma: np.ndarray) -> Gradients:
    """Gradients of a picture uint8 [H, W], some 300-640 pixels wide."""
    return Gradients(cv2.convertScaleAbs(cv2.Sobel(luma, cv2.CV_16S, 1, 0)), cv2.convertScaleAbs(cv2.Sobel(luma, cv2.CV_16S, 0, 1)))


def text_share(luma: np.ndarray, gradients: Gradients) -> float:
    """Share of the picture that looks like lettering: many strong strokes close together, with flat ground between. 0-1.

    A proxy without a model.
    """
    height, width = luma.shape
    strokes = cv2.compare(gradients.across, _STROKE, cv2.CMP_GT)  # 255 where true
    flat = cv2.compare(cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), 12, cv2.CMP_LT)
    window = (max(9, width // 24 | 1), max(5, height // 32 | 1))
    dense = cv2.compare(cv2.blur(strokes, window), 255 * _LETTER_DENSITY, cv2.CMP_GT)
    ground = cv2.compare(cv2.blur(flat, (window[0] * 2 + 1, window[1] * 2 + 1)), 255 * 0.15, cv2.CMP_GT)
    return cv2.countNonZero(cv2.bitwise_and(dense, ground)) / luma.size


def axis_edge_share(gradients: Gradients) -> float | None:
    """Share of clear edges that run exactly along rows or columns: high for windows, slides and tables. None without edges."""
    larger, smaller = cv2.max(gradients.across, gradients.down), cv2.min(gradients.across, gradients.down)
    clear = cv2.compare(larger, _CLEAR, cv2.CMP_GT)
    count = cv2.countNonZero(clear)
    if count < larger.size // 500:
        return None
    along = cv2.compare(cv2.multiply(smaller, 8), larger, cv2.CMP_LT)  # saturates, and is then no edge along an axis
    return cv2.countNonZero(cv2.bitwise_and(along, clear)) / count


def edge_density(gradients: Gradients) -> float:
    """Share of pixels on a clear edge: how cluttered a picture is. 0-1."""
    return cv2.countNonZero(cv2.compare(cv2.max(gradients.across, gradients.down), _CLEAR, cv2.CMP_GT)) / gradients.across.size


def static_overlay_share(stack: np.ndarray) -> float | None:
    """Share of the picture under edges that stay in place while the picture around them changes: logos, captions, frames.

    `stack`: uint8 [K, H, W], pictures of one clip spread over its length. None where fewer than three are given or too
    little changes to tell what is fixed to the screen from what just stands still.
    """
    if len(stack) < 3:
        return None
    lowest = np.full(stack.shape[1:], np.inf, np.float32)
    for picture in stack:
        across, down = cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1)
        np.minimum(lowest, cv2.magnitude(across, down), out=lowest)
    change = stack.astype(np.float32).std(axis=0)
    moving = change > 6
    if moving.mean() < 0.3:
        return None
    fixed = (lowest > _CLEAR) & (change < 12) & (cv2.blur(moving.astype(np.float32), (31, 31)) > 0.3)
    return float(cv2.dilate(fixed.astype(np.uint8), np.ones((3, 3), np.uint8)).mean())
