"""One stored keyframe as measurements see it: what several of them make from it, made once."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from curation.signals.planes import SMALL_SIDE, shrink


@dataclass(frozen=True)
class StillView:
    """A keyframe, decoded. What is derived from it is computed on first use and kept.

    Keyframes are 512 pixels long by default, so the small planes are some 256 x 144.
    """

    whole: np.ndarray  # uint8 [H, W, 3] BGR, black bars included
    bgr: np.ndarray  # uint8 [h, w, 3], a part of it: the active picture

    @cached_property
    def luma(self) -> np.ndarray:
        """Luma of the active picture, uint8 [h, w]."""
        return cv2.cvtColor(self.bgr, cv2.COLOR_BGR2GRAY)

    @cached_property
    def small(self) -> np.ndarray:
        """The active picture, halved until its longer side is below `SMALL_SIDE`: uint8 [h', w', 3] BGR."""
        return np.ascontiguousarray(shrink(self.bgr, SMALL_SIDE))

    @cached_property
    def small_luma(self) -> np.ndarray:
        """uint8 [h', w']"""
        return cv2.cvtColor(self.small, cv2.COLOR_BGR2GRAY)

    @cached_property
    def small_lab(self) -> np.ndarray:
        """CIE Lab, uint8 [h', w', 3]: L scaled to 0-255, a and b around 128."""
        return cv2.cvtColor(self.small, cv2.COLOR_BGR2Lab)

    @cached_property
    def small_hsv(self) -> np.ndarray:
        """uint8 [h', w', 3]: hue in half degrees, saturation, value."""
        return cv2.cvtColor(self.small, cv2.COLOR_BGR2HSV)

    @cached_property
    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """Sobel responses of `small_luma` along rows and along columns, int16 [h', w']: eight times the gradient per pixel."""
        return cv2.Sobel(self.small_luma, cv2.CV_16S, 1, 0), cv2.Sobel(self.small_luma, cv2.CV_16S, 0, 1)
