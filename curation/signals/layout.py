"""What lies on the picture instead of in the scene: black bars, overlays, text, straight graphics."""

from dataclasses import dataclass

import cv2
import numpy as np

_BLACK = 20  # a bar's brightest pixel over black, in levels: coding noise
_SEAM = 6  # how much brighter than the bar the picture beside it must be, in levels
_STRONG = 48  # gradient of a clear edge, in levels per two pixels
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


def text_share(luma: np.ndarray) -> float:
    """Share of the picture that looks like lettering: many strong strokes close together, with flat ground between.

    A proxy without a model. `luma`: uint8 [H, W], some 300-640 pixels wide.
    """
    strokes = (np.abs(cv2.Sobel(luma, cv2.CV_16S, 1, 0)) > 4 * _STRONG).astype(np.float32)
    flat = (cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) < 12).astype(np.float32)
    window = (max(9, luma.shape[1] // 24 | 1), max(5, luma.shape[0] // 32 | 1))
    dense = (cv2.blur(strokes, window) > _LETTER_DENSITY) & (cv2.blur(flat, (window[0] * 2 + 1, window[1] * 2 + 1)) > 0.15)
    return float(dense.mean())


def axis_edge_share(luma: np.ndarray) -> float | None:
    """Share of strong edges that run exactly along rows or columns: high for windows, slides and tables. None without edges."""
    across, down = np.abs(cv2.Sobel(luma, cv2.CV_16S, 1, 0)), np.abs(cv2.Sobel(luma, cv2.CV_16S, 0, 1))
    strong = cv2.max(across, down) > 2 * _STRONG
    count = int(np.count_nonzero(strong))
    if count < luma.size // 500:
        return None
    along = cv2.min(across, down) * 8 < cv2.max(across, down)
    return float(np.count_nonzero(along & strong) / count)


def edge_density(luma: np.ndarray) -> float:
    """Share of pixels on a clear edge: how cluttered a picture is. uint8 [H, W] -> 0-1."""
    across, down = cv2.Sobel(luma, cv2.CV_16S, 1, 0), cv2.Sobel(luma, cv2.CV_16S, 0, 1)
    return float(np.count_nonzero(cv2.max(np.abs(across), np.abs(down)) > 2 * _STRONG) / luma.size)


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
    fixed = (lowest > 2 * _STRONG) & (change < 12) & (cv2.blur(moving.astype(np.float32), (31, 31)) > 0.3)
    return float(cv2.dilate(fixed.astype(np.uint8), np.ones((3, 3), np.uint8)).mean())
