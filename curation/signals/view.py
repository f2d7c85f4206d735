"""One sampled frame as measurements see it: its planes, and what several measurements make from them, made once."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from curation.signals.artifacts import Lines, lines
from curation.signals.picture import bands, noise_sigma, sharpness
from curation.signals.planes import SMALL_SIDE, SmallPlanes, full_range_luma, halve, shrink, to_bgr

CLEAR = 96
"""Sobel response, four times the gradient per pixel pair, of a clear edge."""


@dataclass(frozen=True)
class Gradients:
    """Size of the luma gradient along rows and along columns: Sobel responses, capped at 255."""

    across: np.ndarray  # uint8 [H, W]
    down: np.ndarray

    @cached_property
    def larger(self) -> np.ndarray:
        """The larger of both, uint8 [H, W]."""
        return cv2.max(self.across, self.down)

    @cached_property
    def clear(self) -> np.ndarray:
        """Where a clear edge is: 255, else 0. uint8 [H, W]"""
        return cv2.compare(self.larger, CLEAR, cv2.CMP_GT)


def edge_gradients(luma: np.ndarray) -> Gradients:
    """Gradients of a picture uint8 [H, W], some 300-640 pixels wide."""
    return Gradients(cv2.convertScaleAbs(cv2.Sobel(luma, cv2.CV_16S, 1, 0)), cv2.convertScaleAbs(cv2.Sobel(luma, cv2.CV_16S, 0, 1)))


@dataclass(frozen=True)
class View:
    """A frame in display orientation. What is derived from it is computed on first use and kept."""

    luma: np.ndarray  # uint8 [H, W], full resolution, in the source's own range
    small: SmallPlanes
    is_full_range: bool

    @cached_property
    def strips(self) -> list[np.ndarray]:
        """Horizontal strips of the full-resolution luma, some 100,000 pixels: for statistics of fine detail."""
        return bands(self.luma)

    @cached_property
    def lines(self) -> Lines:
        """Some rows and columns of the full-resolution luma, for what happens along a line."""
        return lines(self.luma)

    @cached_property
    def noise(self) -> float:
        """Standard deviation of noise, in levels."""
        return noise_sigma(self.strips)

    @cached_property
    def sharpness(self) -> float:
        """Fine detail, noise taken off, 0-1."""
        return sharpness(self.strips, self.noise)

    @cached_property
    def across(self) -> np.ndarray:
        """|difference| of each pixel of `luma` to its right neighbor, uint8 [H, W-1]."""
        return cv2.absdiff(self.luma[:, 1:], self.luma[:, :-1])

    @cached_property
    def middle(self) -> np.ndarray:
        """Full-range luma of 320 to 639 pixels on the longer side, uint8 [h, w]; smaller where the source is."""
        return full_range_luma(shrink(self.luma, 2 * SMALL_SIDE), self.is_full_range)

    @cached_property
    def gradients(self) -> Gradients:
        """Gradients of `middle`."""
        return edge_gradients(self.middle)

    @cached_property
    def bgr(self) -> np.ndarray:
        """The picture in color at a quarter of the small luma's size, uint8 [h, w, 3]."""
        return to_bgr(halve(halve(self.small.luma)), self.small.u, self.small.v)
