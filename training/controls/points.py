"""Points that can be followed through a clip, and the one motion that most of a picture makes: what camera and tracks stand on.

Corners of Shi & Tomasi (1994), followed by the pyramid of Lucas & Kanade (Bouguet 2001) there and back again: what does not
come back where it began is lost. All of it happens on planes of one size, whichever size the clip has: small pictures are
enlarged, since windows of a few pixels hold too little, and large ones reduced, since cost grows and accuracy does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_SIDE = 240  # pixels of the shorter side of a plane
WINDOW = 17  # pixels a side of what is looked for again
_LEVELS = 4  # of the pyramid above the plane: 17 pixels * 2^4 is more than a shorter side
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.003)
_MOST = 400  # points
_APART = _SIDE / 30
_CORNER = 0.4  # side of the window that places a corner, of the one in which it must be told
# Eigenvalues of the structure tensor, the mean products of slopes. The lesser must be so large, in squared levels per pixel of the
# clip, that it is not what coding leaves on plain ground; and so large a part of the greater that a point cannot slide along an edge.
_TEXTURED = 2.0
_ROUND = 0.1
_POINT = 7  # pixels a side of what lies at the point itself: it must be no plainer than its window, or another thing there carries it off
_RETURN = 0.5  # pixels that a point may be off when it is back
_AGREES = 1.0  # pixels from the common motion up to which a point takes part in it
_LEAST_POINTS = 12
_LEAST_SHARE = 0.4  # of points that must take part
_LEAST_REACH = 0.65  # of width and of height that they must reach across
_LEAST_HULL = 0.3  # of the picture that lies within them


@dataclass(frozen=True, eq=False)
class Planes:
    """The frames of a clip as they are followed: T planes uint8 [h, w]; a pixel of the clip is `scale` x, y of theirs."""

    planes: tuple[np.ndarray, ...]
    scale: np.ndarray

    @property
    def textured(self) -> float:
        """The lesser eigenvalue, in squared levels per pixel of the planes, from which there is something to follow."""
        return _TEXTURED / max(1.0, float(self.scale.min())) ** 2

    def to_clip(self, points: np.ndarray) -> np.ndarray:
        """Places [..., 2] in pixels of a plane, where (0, 0) is the middle of the first, to those of the clip."""
        return (points + 0.5) / self.scale - 0.5


@dataclass(frozen=True)
class Similarity:
    """How the contents of a picture move: grow by `scale`, turn by `angle` radians, clockwise as seen, about its middle, and shift.

    Shifts are in the units of the points it was fitted to.
    """

    shift_x: float
    shift_y: float
    scale: float
    angle: float

    def at(self, points: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Where points [N, 2] come to lie."""
        turn = self.scale * np.array([[np.cos(self.angle), -np.sin(self.angle)], [np.sin(self.angle), np.cos(self.angle)]])
        return (points - middle) @ turn.T + middle + (self.shift_x, self.shift_y)


def planes_of(pixels: np.ndarray) -> Planes:
    """The planes of a clip uint8 [T, H, W, 3]: its colors along the line on which they differ most, so that red on green is seen."""
    height, width = pixels.shape[1:3]
    factor = _SIDE / min(height, width)
    size = (round(width * factor), round(height * factor))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    weights = _main_color(pixels)
    planes = tuple(cv2.resize(_project(frame, weights), size, interpolation=way) for frame in pixels)
    return Planes(planes, np.array([size[0] / width, size[1] / height]))


def _main_color(pixels: np.ndarray) -> np.ndarray:
    """The first principal component of the colors, float64 [3], of absolute values that sum to 1."""
    height, width = pixels.shape[1:3]
    step = max(1, min(height, width) // 48)
    colors = pixels[:: max(1, len(pixels) // 4), ::step, ::step].reshape(-1, 3).astype(np.float64)
    direction = np.linalg.eigh(np.cov(colors, rowvar=False))[1][:, -1]
    direction *= np.sign(direction[np.abs(direction).argmax()])
    return direction / np.abs(direction).sum()


def _project(frame: np.ndarray, weights: np.ndarray) -> np.ndarray:
    darkest = 255 * np.minimum(weights, 0).sum()
    return cv2.transform(frame, np.append(weights, -darkest)[None])


def corners(plane: np.ndarray, textured: float, window: int = WINDOW) -> np.ndarray:
    """Points of a plane uint8 [h, w] that windows of `window` pixels tell, spread out: float32 [N, 2], N perhaps 0."""
    dx, dy = (cv2.Sobel(plane, cv2.CV_32F, x, 1 - x, scale=1 / 8) for x in (1, 0))
    slopes = cv2.merge([dx * dx, dy * dy, dx * dy])
    xx, yy, xy = cv2.split(cv2.blur(slopes, (window, window)))
    middle, off = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    here = cv2.blur(slopes, (_POINT, _POINT))
    told = (middle - off > textured) & (middle - off > _ROUND * (middle + off)) & (here[..., 0] + here[..., 1] >= xx + yy)
    settings = {"mask": told.astype(np.uint8), "blockSize": int(_CORNER * window) | 1}
    found = cv2.goodFeaturesToTrack(plane, _MOST, 1e-4, _APART * window / WINDOW, **settings)
    return np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)


def follow(before: np.ndarray, after: np.ndarray, points: np.ndarray, window: int = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Where points float32 [N, 2] of one plane are in the next, and which of them were found, bool [N]."""
    if not len(points):
        return points, np.zeros(0, bool)
    settings = {"winSize": (window, window), "maxLevel": _LEVELS, "criteria": _STOP}
    there, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, **settings)
    back, seen_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **settings)
    height, width = after.shape
    inside = ((there >= -0.5) & (there < (width - 0.5, height - 0.5))).all(axis=1)
    found = seen.ravel().astype(bool) & seen_back.ravel().astype(bool) & (np.linalg.norm(back - points, axis=1) < _RETURN)
    return there, found & inside


def common_motion(before: np.ndarray, after: np.ndarray, size: Sequence[int]) -> Similarity | None:
    """The similarity that most of N points [N, 2] follow, in pixels of planes of `size` height, width.

    None where too few do, or where they are but a part of the picture: that may be a thing that moves before plain ground.
    Found by RANSAC (Fischler & Bolles 1981).
    """
    if len(before) < _LEAST_POINTS:
        return None
    middle = (np.array([size[1], size[0]]) - 1) / 2
    matrix, found = cv2.estimateAffinePartial2D(before - middle, after - middle, ransacReprojThreshold=_AGREES)
    if matrix is None or not np.isfinite(matrix).all():
        return None
    follows = found.ravel().astype(bool)
    if follows.sum() < max(_LEAST_POINTS, _LEAST_SHARE * len(before)) or not _spread(before[follows], size):
        return None
    (a, _, x), (b, _, y) = matrix
    return Similarity(float(x), float(y), float(np.hypot(a, b)), float(np.arctan2(b, a)))


def _spread(points: np.ndarray, size: Sequence[int]) -> bool:
    reach = np.ptp(points, axis=0) >= _LEAST_REACH * np.array([size[1], size[0]])
    hull = cv2.contourArea(cv2.convexHull(points.astype(np.float32)))
    return bool(reach.all()) and hull >= _LEAST_HULL * size[0] * size[1]
