"""What each frame leaves behind for shot detection, and how frames differ.

In: the small planes of one frame (luma, U and V, full range 0..255). Out: a thumbnail, a vector of `THUMBNAIL_SIZE`
bytes. A thumbnail depends on its own frame alone, so chunks of a long film can be scanned in any order, or at once,
and their sequences joined with `np.concatenate`. Frames are compared with each other after the pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from curation.signals.planes import halve

LUMA_SHAPE = (24, 32)
CHROMA_SHAPE = (12, 16)
LUMA_SIZE = LUMA_SHAPE[0] * LUMA_SHAPE[1]
CHROMA_SIZE = CHROMA_SHAPE[0] * CHROMA_SHAPE[1]
THUMBNAIL_SIZE = LUMA_SIZE + 2 * CHROMA_SIZE
PLANE_SIZES = np.array([LUMA_SIZE, CHROMA_SIZE, CHROMA_SIZE], np.float32)

BLOCK = 2048  # frames worked on at once, which bounds memory for long films

# Bins and weight of each plane's histogram. Chroma lies close together and needs fine bins; it weighs less, because
# it tells less, and in a gray film nothing.
_HISTOGRAMS = ((32, 1.0), (64, 0.25), (64, 0.25))

_MOVED_RESIDUAL = 0.5


@dataclass(frozen=True)
class FrameFeatures:
    """The frames of one film in presentation order, as far as shot detection sees them.

    time_s: float64 [N], presentation times in seconds, not decreasing.
    thumbnails: uint8 [N, THUMBNAIL_SIZE], rows made by `thumbnail`.
    """

    time_s: np.ndarray
    thumbnails: np.ndarray

    def __post_init__(self) -> None:
        if self.thumbnails.shape != (len(self.time_s), THUMBNAIL_SIZE):
            raise ValueError(
                f"thumbnails have the shape {self.thumbnails.shape}; {len(self.time_s)} times need ({len(self.time_s)}, {THUMBNAIL_SIZE})"
            )

    @property
    def num_frames(self) -> int:
        return len(self.time_s)

    @property
    def frame_s(self) -> float:
        """The usual time from one frame to the next, in seconds."""
        return max(float(np.median(np.diff(self.time_s))), 1e-3) if self.num_frames > 1 else 1e-3

    @property
    def luma(self) -> np.ndarray:
        """uint8 [N, 24, 32], a view."""
        return self.thumbnails[:, :LUMA_SIZE].reshape(-1, *LUMA_SHAPE)

    @property
    def chroma(self) -> np.ndarray:
        """uint8 [N, 2, 12, 16], U then V, a view."""
        return self.thumbnails[:, LUMA_SIZE:].reshape(-1, 2, *CHROMA_SHAPE)


@dataclass(frozen=True)
class Changes:
    """Series over the frames of a film, made from its thumbnails. The first entry of both steps is 0.

    step: float32 [N], RMS distance to the frame before, 0..255.
    histogram_step: float32 [N], distance of the histograms to those of the frame before, 0..1.5.
    means: float32 [N, 3], mean of each plane.
    contrast: float32 [N], RMS deviation of a thumbnail from the means of its planes.
    """

    step: np.ndarray
    histogram_step: np.ndarray
    means: np.ndarray
    contrast: np.ndarray


def thumbnail(luma: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The thumbnail of one frame: luma 24 x 32, U 12 x 16, V 12 x 16, flattened one after the other.

    luma: uint8 [h, w]; u, v: uint8 [h', w'], of any size. The aspect ratio is given up: shot detection compares
    frames of one film with each other. Returns uint8 [THUMBNAIL_SIZE].
    """
    out = np.empty(THUMBNAIL_SIZE, np.uint8)
    _shrink(luma, out[:LUMA_SIZE].reshape(LUMA_SHAPE))
    _shrink(u, out[LUMA_SIZE : LUMA_SIZE + CHROMA_SIZE].reshape(CHROMA_SHAPE))
    _shrink(v, out[LUMA_SIZE + CHROMA_SIZE :].reshape(CHROMA_SHAPE))
    return out


def _shrink(plane: np.ndarray, out: np.ndarray) -> None:
    """Area-average `plane` into `out`.

    OpenCV averages 2 x 2 blocks many times faster than areas of fractional size, so planes that are large enough
    are halved first; at most one row and one column at the far edge are left out by it.
    """
    height, width = plane.shape
    if height >= 4 * out.shape[0] and width >= 4 * out.shape[1]:
        plane = halve(plane)
    cv2.resize(plane, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_AREA)


def measure_changes(thumbnails: np.ndarray) -> Changes:
    """The series of a film. thumbnails: uint8 [N, THUMBNAIL_SIZE]."""
    num_frames = len(thumbnails)
    step = np.zeros(num_frames, np.float32)
    histogram_step = np.zeros(num_frames, np.float32)
    means = np.empty((num_frames, 3), np.float32)
    contrast = np.empty(num_frames, np.float32)
    for first in range(0, num_frames, BLOCK):
        # The last frame of the block before is taken along, to step from.
        begin, end = max(first - 1, 0), min(first + BLOCK, num_frames)
        block = thumbnails[begin:end]
        step[begin + 1 : end] = rms(np.diff(block.astype(np.float32), axis=0))
        histogram_step[begin + 1 : end] = 0.5 * np.abs(np.diff(_histograms(block), axis=0)).sum(axis=1)
        means[begin:end], contrast[begin:end] = _means_and_contrast(block)
    return Changes(step, histogram_step, means, contrast)


def rms(rows: np.ndarray) -> np.ndarray:
    """Root mean square of each row: [n, k] to [n]."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows) / rows.shape[1]))


def distances(thumbnails: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """RMS distance of each thumbnail [n, THUMBNAIL_SIZE] to `picture` [THUMBNAIL_SIZE]: float32 [n]."""
    return rms(thumbnails.astype(np.float32) - picture)


def is_moved(old: np.ndarray, new: np.ndarray, reach: int) -> bool:
    """Whether moving the picture by up to `reach` pixels explains most of its change. old, new: uint8 [24, 32]."""
    center = new[reach:-reach, reach:-reach].astype(np.float32)
    moved = np.lib.stride_tricks.sliding_window_view(old.astype(np.float32), center.shape)
    squares = np.mean((moved - center) ** 2, axis=(2, 3))
    return bool(squares.min() < _MOVED_RESIDUAL**2 * squares[reach, reach])


def _planes(block: np.ndarray) -> Iterator[np.ndarray]:
    yield block[:, :LUMA_SIZE]
    yield block[:, LUMA_SIZE : LUMA_SIZE + CHROMA_SIZE]
    yield block[:, LUMA_SIZE + CHROMA_SIZE :]


def _means_and_contrast(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = block.astype(np.float32)
    means = np.stack([plane.mean(axis=1) for plane in _planes(values)], axis=1)
    squares = np.einsum("ij,ij->i", values, values) - means**2 @ PLANE_SIZES
    return means, np.sqrt(np.maximum(squares, 0) / THUMBNAIL_SIZE)


def _histograms(block: np.ndarray) -> np.ndarray:
    """Weighted histograms of the three planes side by side, float32 [n, bins].

    They are smoothed over neighboring bins, so that a small change of exposure does not move peaks from bin to bin.
    """
    parts = []
    for plane, (bins, weight) in zip(_planes(block), _HISTOGRAMS, strict=True):
        bin_of = (plane.astype(np.int32) * bins >> 8) + bins * np.arange(len(plane), dtype=np.int32)[:, None]
        counts = np.bincount(bin_of.ravel(), minlength=bins * len(plane)).reshape(-1, bins)
        shares = np.pad(counts * np.float32(weight / plane.shape[1]), ((0, 0), (1, 1)), mode="edge")
        parts.append(0.25 * shares[:, :-2] + 0.5 * shares[:, 1:-1] + 0.25 * shares[:, 2:])
    return np.concatenate(parts, axis=1)
