"""What lies on the picture instead of in the scene: black bars, overlays, text, straight graphics."""

from dataclasses import dataclass

import cv2
import numpy as np

from curation.signals.view import CLEAR, Gradients, View

_BLACK = 20  # a bar's brightest pixel over black, in levels: coding noise
_SEAM = 6  # how much brighter than the bar the picture beside it must be, in levels
_STROKE = 192  # Sobel response of a printed stroke
_LETTER_DENSITY = 0.25  # share of strong vertical strokes in a neighborhood the size of a few letters


@dataclass(frozen=True, slots=True)
class Layout:
    """What one sampled frame shows of layout."""

    bars: "Bars | None"
    text: float
    flat: float
    axis_edges: float | None
    edges: float


def measure(view: View) -> Layout:
    """Layout facts of a frame."""
    return Layout(
        bars=black_bars(view.luma, view.small.luma, 0 if view.is_full_range else 16),
        text=text_share(view.middle, view.gradients),
        flat=flat_share(view.steps[0]),
        axis_edges=axis_edge_share(view.gradients),
        edges=edge_density(view.gradients),
    )


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


def flat_share(across: np.ndarray) -> float:
    """Share of pixels equal to their right neighbor: high in drawn, rendered and screen pictures. 0-1."""
    return 1.0 - cv2.countNonZero(across) / across.size if across.size else 0.0


def axis_edge_share(gradients: Gradients) -> float | None:
    """Share of clear edges that run exactly along rows or columns: high for windows, slides and tables. None without edges."""
    larger, smaller = cv2.max(gradients.across, gradients.down), cv2.min(gradients.across, gradients.down)
    clear = cv2.compare(larger, CLEAR, cv2.CMP_GT)
    count = cv2.countNonZero(clear)
    if count < larger.size // 500:
        return None
    along = cv2.compare(cv2.multiply(smaller, 8), larger, cv2.CMP_LT)  # saturates, and is then no edge along an axis
    return cv2.countNonZero(cv2.bitwise_and(along, clear)) / count


def edge_density(gradients: Gradients) -> float:
    """Share of pixels on a clear edge: how cluttered a picture is. 0-1."""
    return cv2.countNonZero(cv2.compare(cv2.max(gradients.across, gradients.down), CLEAR, cv2.CMP_GT)) / gradients.across.size


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
    fixed = (lowest > CLEAR) & (change < 12) & (cv2.blur(moving.astype(np.float32), (31, 31)) > 0.3)
    return float(cv2.dilate(fixed.astype(np.uint8), np.ones((3, 3), np.uint8)).mean())
