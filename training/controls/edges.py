"""Edges as a control: where brightness or color changes sharply, one picture a frame.

Canny (1986), with thresholds from the clip's own gradients, so that a dim picture has as many edges as a bright one. They
are those of the whole clip and not of each frame, or edges would come and go as something else enters.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from training.controls.grid import LEVELS, Grid, fold_frames

_STRONG = 0.9  # quantile of gradients from which an edge begins
_OF_STRONGEST = 0.2  # at least this part of the 0.999 quantile: where little is to be seen, all else is noise
_NOISE = 24.0  # Sobel's |dx| + |dy| of what coding leaves on plain ground: steps of 6 levels are below
_CONTINUES = 0.5  # of the threshold from which an edge begins, it goes on
_SAMPLES = 8  # frames whose gradients are looked at
_BLUR = 3


def edges(pixels: np.ndarray, grid: Grid) -> Tensor:
    """The map of a clip uint8 [T, H, W, 3], int8 [grid.cell, T', H', W']: 127 on an edge, 0 elsewhere. Raises ValueError."""
    found = torch.from_numpy(edge_frames(pixels)).view(torch.int8) & LEVELS
    return fold_frames(found[None], grid)


def edge_frames(pixels: np.ndarray) -> np.ndarray:
    """The edges of each frame of a clip uint8 [T, H, W, 3] RGB as pictures uint8 [T, H, W], 255 on an edge and 0 elsewhere."""
    strong = _threshold(pixels)
    return np.stack([cv2.Canny(_soft(frame), _CONTINUES * strong, strong) for frame in pixels])


def _threshold(pixels: np.ndarray) -> float:
    chosen = np.unique(np.linspace(0, len(pixels) - 1, _SAMPLES).round().astype(int))
    ordinary, strongest = np.quantile([_gradients(_soft(pixels[number])) for number in chosen], [_STRONG, 0.999])
    return max(float(ordinary), _OF_STRONGEST * float(strongest), _NOISE)


def _soft(frame: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(frame, (_BLUR, _BLUR), 0)


def _gradients(frame: np.ndarray) -> np.ndarray:
    """As Canny measures them: |dx| + |dy| of the color that changes most, int16 [H, W]."""
    return (np.abs(cv2.Sobel(frame, cv2.CV_16S, 1, 0)) + np.abs(cv2.Sobel(frame, cv2.CV_16S, 0, 1))).max(axis=2)
