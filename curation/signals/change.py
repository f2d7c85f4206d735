"""What one frame leaves behind for shot detection: a thumbnail.

In: the small planes of one frame (luma, U and V, full range 0..255). Out: a vector of `THUMBNAIL_SIZE` bytes.
A thumbnail depends on its own frame alone, so chunks of a long film can be scanned in any order, or at once, and
their sequences joined with `np.concatenate`. All comparisons between frames happen later, in `curation.boundaries`.
"""

from dataclasses import dataclass

import cv2
import numpy as np

LUMA_SHAPE = (24, 32)
CHROMA_SHAPE = (12, 16)
LUMA_SIZE = LUMA_SHAPE[0] * LUMA_SHAPE[1]
CHROMA_SIZE = CHROMA_SHAPE[0] * CHROMA_SHAPE[1]
THUMBNAIL_SIZE = LUMA_SIZE + 2 * CHROMA_SIZE


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
                f"thumbnails have the shape {self.thumbnails.shape}; "
                f"{len(self.time_s)} times need ({len(self.time_s)}, {THUMBNAIL_SIZE})"
            )

    @property
    def num_frames(self) -> int:
        return len(self.time_s)

    @property
    def luma(self) -> np.ndarray:
        """uint8 [N, 24, 32], a view."""
        return self.thumbnails[:, :LUMA_SIZE].reshape(-1, *LUMA_SHAPE)

    @property
    def chroma(self) -> np.ndarray:
        """uint8 [N, 2, 12, 16], U then V, a view."""
        return self.thumbnails[:, LUMA_SIZE:].reshape(-1, 2, *CHROMA_SHAPE)


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
        half = (width // 2, height // 2)
        plane = cv2.resize(plane[: 2 * half[1], : 2 * half[0]], half, interpolation=cv2.INTER_AREA)
    cv2.resize(plane, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_AREA)
