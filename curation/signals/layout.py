"""What lies on the picture instead of in the scene: black bars, lettering, mosaics, straight graphics."""

from dataclasses import dataclass

import cv2
import numpy as np

from curation.signals import lettering
from curation.signals.lettering import Lettering
from curation.signals.view import Gradients, View

_BLACK = 20  # a bar's brightest pixel over black, in levels: coding noise
_SEAM = 6  # how much brighter than the bar the picture beside it must be, in levels
_BLOCK_STEP = 5  # levels by which a mosaic's blocks differ from each other at least
_BLOCK_CLEAN = 3  # and how many times the steps beside that one
_BLOCK_RUN = 4  # pixels that a block is long at least
_BLOCK_EDGES = 0.012  # share of pixels on such steps, along rows and along columns, in the middle of a mosaic of large blocks
_BESIDE = np.array([[1, 1, 0, 1, 1]], np.uint8)


@dataclass(frozen=True, slots=True)
class Layout:
    """What one sampled frame shows of layout."""

    bars: "Bars | None"
    lettering: Lettering
    mosaic: float
    flat: float
    axis_edges: float | None
    edges: float


def measure(view: View) -> Layout:
    """Layout facts of a frame."""
    return Layout(
        bars=black_bars(view.luma, view.small.luma, 0 if view.is_full_range else 16),
        lettering=lettering.measure(view.middle),
        mosaic=mosaic_share(view.strips[::2]),
        flat=flat_share(view.across),
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


def mosaic_share(strips: list[np.ndarray]) -> float:
    """Share of the picture that is pixelated: even blocks with clean straight edges all around, crowded. 0-1. strips: uint8 [h, w] each."""
    strips = [strip for strip in strips if min(strip.shape) > 2 * _BLOCK_RUN]
    found = [np.minimum(*_block_edges(strip)) for strip in strips]
    filled = sum(float(np.clip(edges / _BLOCK_EDGES - 0.5, 0, 1).sum()) for edges in found)
    return filled / max(1, sum(edges.size for edges in found))


def _block_edges(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Density of edges between blocks, upright and level ones: float32 [h - 1, w - 1] each."""
    across, down = cv2.absdiff(luma[:-1, 1:], luma[:-1, :-1]), cv2.absdiff(luma[1:, :-1], luma[:-1, :-1])
    window = (65, min(65, luma.shape[0] | 1))
    upright, level = (
        cv2.blur(cv2.erode(_clean_steps(steps, beside), np.ones(run, np.uint8)), window).astype(np.float32) / 255
        for steps, beside, run in ((across, _BESIDE, (_BLOCK_RUN, 1)), (down, _BESIDE.T, (1, _BLOCK_RUN)))
    )
    return upright, level


def _clean_steps(steps: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Steps between two even places: 255 where true."""
    return cv2.compare(steps, cv2.max(cv2.multiply(cv2.dilate(steps, beside), _BLOCK_CLEAN), _BLOCK_STEP), cv2.CMP_GT)


def flat_share(across: np.ndarray) -> float:
    """Share of pixels equal to their right neighbor: high in drawn, rendered and screen pictures. 0-1."""
    return 1.0 - cv2.countNonZero(across) / across.size if across.size else 0.0


def axis_edge_share(gradients: Gradients) -> float | None:
    """Share of clear edges that run exactly along rows or columns: high for windows, slides and tables. None without edges."""
    count = cv2.countNonZero(gradients.clear)
    if count < gradients.clear.size // 500:
        return None
    smaller = cv2.min(gradients.across, gradients.down)
    along = cv2.compare(cv2.multiply(smaller, 8), gradients.larger, cv2.CMP_LT)  # saturates, and is then no edge along an axis
    return cv2.countNonZero(cv2.bitwise_and(along, gradients.clear)) / count


def edge_density(gradients: Gradients) -> float:
    """Share of pixels on a clear edge: how cluttered a picture is. 0-1."""
    return cv2.countNonZero(gradients.clear) / gradients.clear.size
