"""What is laid over a scene and stays on the screen: logos, captions, watermarks. From a few pictures spread over a clip."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import cv2
import numpy as np

from curation.signals.view import CLEAR

_STEADY = 12  # deviation in levels up to which a pixel stays as it is
_CHANGED = 6  # and from which it changes
_CORNER = (0.35, 0.3)  # a corner's share of the picture's height and width
_CLOSED = np.ones((7, 7), np.uint8)
_FAINT = 16  # Sobel response from which a faint mark counts as much as a hard edge of the scene
_RULER = np.array([0, 1, 4, 6]) / 6  # pictures of which no two pairs are equally far apart
_WHITENING = 0.25  # exponent of the spectrum's size: 1 gives the correlation, toward 0 what repeats gains on what is strong
_LEAST_SIDE = 16  # pixels
_PEAKS = 4  # copies of a mark at one side of it: a lattice has as many, a pair of like things one
_PLAIN_PEAK, _HALF_PEAK = 5.5, 4.0  # height of peaks in plain scenes, and how far beyond it counts as 0.5; in deviations


@dataclass(frozen=True)
class Stack:
    """Pictures of one clip, spread over its length: full-range luma, uint8 [K, h, w], K >= 1, 160 to 319 pixels on the longer side."""

    pictures: np.ndarray

    @cached_property
    def slopes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Sobel responses of each picture along rows and along columns, int16 [h, w] each."""
        return [(cv2.Sobel(picture, cv2.CV_16S, 1, 0), cv2.Sobel(picture, cv2.CV_16S, 0, 1)) for picture in self.pictures]

    @cached_property
    def change(self) -> np.ndarray:
        """Standard deviation of each pixel over the pictures, in levels: float32 [h, w]."""
        total, squares = np.zeros((2, *self.pictures.shape[1:]), np.float32)
        for picture in self.pictures:
            cv2.accumulate(picture, total)
            cv2.accumulateSquare(picture, squares)
        count = len(self.pictures)
        return np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))

    @cached_property
    def fixed(self) -> np.ndarray | None:
        """Pixels on an edge that stays in place while much of the picture changes: uint8 0 or 1 [h, w].

        None for fewer than three pictures, or where too little changes to tell what is fixed to the screen from what just
        stands still.
        """
        if len(self.pictures) < 3 or np.mean(self.change > _CHANGED) < 0.3:
            return None
        edges = [cv2.add(cv2.convertScaleAbs(across), cv2.convertScaleAbs(down)) for across, down in self.slopes]
        lowest = edges[0]
        for edge in edges[1:]:
            lowest = cv2.min(lowest, edge)
        return ((lowest > CLEAR) & (self.change < _STEADY)).astype(np.uint8)


def static_overlay_share(stack: Stack) -> float | None:
    """Share of the picture under edges that stay while what is around them changes: logos, captions, frames. None as in `Stack.fixed`."""
    if stack.fixed is None:
        return None
    around = cv2.blur((stack.change > _CHANGED).astype(np.float32), (31, 31)) > 0.3
    return float(cv2.dilate(stack.fixed & around, np.ones((3, 3), np.uint8)).mean())


def corner_logo(stack: Stack) -> float | None:
    """Share of a corner of the picture that a mark covers, that of the fullest corner: 0-1. None as in `Stack.fixed`.

    What is as common elsewhere in the picture is taken off thrice: a camera that stands has fixed edges everywhere.
    """
    if stack.fixed is None:
        return None
    marks = cv2.morphologyEx(stack.fixed, cv2.MORPH_CLOSE, _CLOSED)
    height, width = marks.shape
    high, wide = max(1, round(_CORNER[0] * height)), max(1, round(_CORNER[1] * width))
    total, best = int(marks.sum()), 0.0
    for corner in (marks[:high, :wide], marks[:high, -wide:], marks[-high:, :wide], marks[-high:, -wide:]):
        inside = int(corner.sum())
        best = max(best, inside / corner.size - 3 * (total - inside) / (marks.size - corner.size))
    return best


def tiled_watermark(stack: Stack) -> float | None:
    """How plainly marks repeat over the picture, alike in all pictures: 0-1, near 0 for plain scenes.

    None for fewer than three pictures, and for thin ones.

    Gradients that stay are the watermark (Dekel et al., CVPR 2017). Here each two of four pictures are correlated, with a flattened
    spectrum, and the median over the pairs is searched for peaks away from the middle: a mark meets its neighbors at the same
    distances in every pair, a scene in motion meets itself at another one in each, since no two pairs are equally far apart.
    """
    pictures = stack.pictures
    chosen = np.unique(np.rint(_RULER * (len(pictures) - 1)).astype(int))
    height, width = pictures.shape[1:]
    if len(chosen) < 3 or min(height, width) < _LEAST_SIDE:
        return None
    window = np.hanning(height).astype(np.float32)[:, None] * np.hanning(width).astype(np.float32)
    size = cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width)
    spectra = [np.fft.rfft2(np.clip(stack.slopes[index], -_FAINT, _FAINT) * window, s=size) for index in chosen]
    high, wide = height // 2, width // 2
    likeness = []
    for one, two in combinations(spectra, 2):
        product = (one * two.conj()).sum(axis=0)
        surface = np.fft.irfft2(product * (np.abs(product) + 1e-6) ** (_WHITENING - 1), s=size).astype(np.float32)
        surface = np.roll(surface, (high, wide), axis=(0, 1))[: high + 1, : 2 * wide]  # a lattice is alike in the other half
        surface = cv2.GaussianBlur(surface, (0, 0), 0.8)
        surface -= cv2.blur(surface, (11, 11))
        likeness.append(surface / max(float(surface.std()), 1e-9))
    found = np.median(likeness, axis=0)
    y, x = np.ogrid[-high:1, -wide:wide]
    distance = np.hypot(y, x)
    # Level and upright edges look like themselves a little farther on, so both axes are left out.
    wanted = (distance > 0.08 * width) & (distance < 0.45 * width) & (abs(x) > 2) & (abs(y) > 2)
    values, tops = found[wanted], np.sort(found[wanted & (found >= cv2.dilate(found, _CLOSED))])
    if len(tops) < _PEAKS or not values.any():
        return 0.0
    usual = float(values[values <= np.percentile(values, 99)].std())
    excess = max(float(tops[-_PEAKS:].mean()) / max(usual, 1e-9) - _PLAIN_PEAK, 0.0)
    return excess / (excess + _HALF_PEAK)
