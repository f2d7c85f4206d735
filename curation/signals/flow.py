"""Motion between two frames a moment apart: dense flow, and the camera's part in it.

Units: speeds in picture diagonals per second, zoom and roll per second, so that size and frame rate do not matter.
Directions are the camera's in display orientation: pan right is positive, tilt up is positive, zoom in is positive.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from curation.signals.planes import halve

_MOVING = 0.02  # diagonals per second from which a pixel counts as moving
_REFITS = 1
_RIDGE = 1e-6 * np.eye(4, dtype=np.float32)
_DIS_SIDE = 36
_PATCHES = 4  # the picture is 4 x 4 patches
# Least eigenvalue of the structure tensor, in squared levels per pixel of the plane at a quarter of its size, from which flow can be told.
_TEXTURED = 1.0
_EIGEN_LEVELS = 65025 / 4  # to such levels from the scale of OpenCV for 8-bit pictures, windows of 8 and Sobel kernels of 3
_LEAST_TEXTURED = 0.3  # share of the picture that must hold texture before the rest is taken to move with the camera
_POINTS = 40  # along the longer side, for the camera's motion
_BLUR = 5
_STEPS = 2
_SETTLED = 0.05  # pixels
_NOISE = 0.5  # levels
_OUTLYING = 2.0  # standard deviations
_OUTSIDE = 1e5  # a level that makes what lies beyond the picture weigh nothing
_DAMPING = 1e-3 * np.eye(5, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Flow:
    """Motion between one pair of frames."""

    mean: float  # diagonals per second over the whole picture
    p95: float
    moving: float  # share of pixels that move
    foreground: float  # mean speed left after the camera's motion is taken off
    foreground_area: float  # share of pixels that move apart from the camera
    background: float  # mean speed of the camera's motion over the picture
    right: float  # mean velocity of the picture's contents
    down: float
    patches: tuple[float, ...]  # mean speed in each of 4 x 4 patches, by rows
    pan: float
    tilt: float
    zoom: float
    roll: float  # radians per second, clockwise positive


@dataclass(frozen=True, slots=True)
class Similarity:
    """A small similarity motion of the picture: flow = shift + zoom * (x, y) + roll * (-y, x), from the center, in pixels."""

    shift_x: float
    shift_y: float
    zoom: float
    roll: float

    def at(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Its flow at points given from the center."""
        return self.shift_x + self.zoom * x - self.roll * y, self.shift_y + self.zoom * y + self.roll * x


class FlowMeter:
    """Dense optical flow by DIS (Kroeger et al., ECCV 2016), with its scratch memory kept between calls."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._dis.setFinestScale(2)  # the preset lowers it for small pictures, at several times the cost

    def measure(self, before: np.ndarray, after: np.ndarray, seconds: float) -> Flow:
        """Flow between two small luma planes uint8 [h, w], `seconds` apart."""
        if min(before.shape) < _DIS_SIDE:  # OpenCV 5.0 reads beyond thinner pictures
            padding = [(0, max(0, _DIS_SIDE - side)) for side in before.shape]
            before, after = np.pad(before, padding, mode="edge"), np.pad(after, padding, mode="edge")
        before, after = np.ascontiguousarray(before), np.ascontiguousarray(after)
        return summarize(self._dis.calc(before, after, None), before, after, seconds)


def summarize(field: np.ndarray, before: np.ndarray, after: np.ndarray, seconds: float) -> Flow:
    """Facts of a flow field float32 [h, w, 2] (x right, y down, pixels) between two planes uint8 [h, w], `seconds` apart.

    Where most of the picture shows texture, what shows none is taken to move with the camera: flow cannot be seen there.
    """
    grid = grid_of(*before.shape)
    u, v = cv2.split(np.ascontiguousarray(field[grid.rows, grid.columns]))
    textured = _textured(before, grid)
    rough = fit_camera(u, v, grid, textured)
    camera_u, camera_v = rough.at(grid.x, grid.y)
    if textured is not None:
        u, v = np.where(textured, u, camera_u), np.where(textured, v, camera_v)
    camera = register(before, after, rough)
    per_second = 1.0 / max(seconds, 1e-3)
    scale = per_second / float(np.hypot(*before.shape))
    speed = np.hypot(u, v) * np.float32(scale)
    apart = np.hypot(u - camera_u, v - camera_v) * np.float32(scale)
    high = int(0.95 * (speed.size - 1))
    return Flow(
        mean=float(speed.mean()),
        p95=float(np.partition(speed, high, axis=None)[high]),
        moving=float(np.count_nonzero(speed > _MOVING) / speed.size),
        foreground=float(apart.mean()),
        foreground_area=float(np.count_nonzero(apart > _MOVING) / apart.size),
        background=float(np.hypot(*camera.at(grid.x, grid.y)).mean()) * scale,
        right=float(u.mean()) * scale,
        down=float(v.mean()) * scale,
        patches=tuple(cv2.resize(speed, (_PATCHES, _PATCHES), interpolation=cv2.INTER_AREA).ravel().tolist()),
        pan=-camera.shift_x * scale,
        tilt=camera.shift_y * scale,
        zoom=camera.zoom * per_second,
        roll=-camera.roll * per_second,
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """Points at which flow is read, spread evenly over a plane: x, y float32 [h, w] in pixels from its center."""

    rows: slice
    columns: slice
    x: np.ndarray
    y: np.ndarray
    design: np.ndarray  # [2 h w, 4] of a similarity at the points, all u then all v
    inverse: np.ndarray
    quarter: tuple[np.ndarray, ...]  # indices of the points in a plane a quarter of the size


@lru_cache(maxsize=8)
def grid_of(height: int, width: int) -> Grid:
    """The points at which flow is read in planes of this size."""
    step = max(1, max(height, width) // 28)
    rows, columns = slice(step // 2, None, step), slice(step // 2, None, step)
    y, x = np.mgrid[:height, :width].astype(np.float32)[:, rows, columns]
    x, y = x - np.float32((width - 1) / 2), y - np.float32((height - 1) / 2)
    design = _similarity_design(x, y)
    quarter = np.ix_(
        np.minimum(np.arange(height)[rows] // 4, max(0, height // 4 - 1)),
        np.minimum(np.arange(width)[columns] // 4, max(0, width // 4 - 1)),
    )
    return Grid(rows, columns, x, y, design, np.linalg.pinv(design), quarter)


def _similarity_design(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Design matrix [2 n, 4] of a similarity at n points given from the center, all u then all v."""
    x, y = x.ravel(), y.ravel()
    one, zero = np.ones_like(x), np.zeros_like(x)
    return np.concatenate([np.stack([one, zero, x, -y], 1), np.stack([zero, one, y, x], 1)])


def _textured(plane: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Where flow can be told, bool [h, w] at the points of the grid; None where that is too little to tell the camera by."""
    least = cv2.cornerMinEigenVal(halve(halve(plane)), 8, ksize=3)  # DIS works at a quarter of the size
    textured = least[grid.quarter] > _TEXTURED / _EIGEN_LEVELS
    return textured if np.count_nonzero(textured) >= _LEAST_TEXTURED * textured.size else None


def fit_camera(u: np.ndarray, v: np.ndarray, grid: Grid, textured: np.ndarray | None = None) -> Similarity:
    """Similarity that most of a flow agrees with: least squares, then refitted on the better half of the points.

    u, v: float32 [h, w] at the points of the grid; `textured` bool [h, w] leaves out the others.
    """
    target = np.concatenate([u.ravel(), v.ravel()])
    solution = grid.inverse @ target if textured is None else _solve(grid.design, target, textured.ravel())
    for _ in range(_REFITS):
        error = np.hypot(*(target - grid.design @ solution).reshape(2, -1))
        if textured is not None:
            error[~textured.ravel()] = np.inf
        half = (error.size if textured is None else np.count_nonzero(textured)) // 2
        solution = _solve(grid.design, target, error <= np.partition(error, half)[half])
    return Similarity(*(float(value) for value in solution))


def _solve(design: np.ndarray, target: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Least squares over the chosen of n points: design [2n, 4], target [2n], chosen bool [n]."""
    weighted = (design * np.concatenate([chosen, chosen])[:, None]).T
    # The tiny ridge decides for no motion where the points cannot tell, as in a picture of one row.
    return np.asarray(np.linalg.solve(weighted @ design + _RIDGE, weighted @ target))


@dataclass(frozen=True, slots=True)
class Points:
    """Pixels by which two planes are laid over each other: where they are and, float32 [h, w], in pixels from corner and center."""

    rows: slice
    columns: slice
    left: slice
    right: slice
    above: slice
    below: slice
    column: np.ndarray
    row: np.ndarray
    x: np.ndarray
    y: np.ndarray


@lru_cache(maxsize=8)
def _points(height: int, width: int) -> Points:
    step = max(1, max(height, width) // _POINTS)

    def slices(side: int) -> tuple[slice, slice, slice]:
        first = max(1, step // 2)
        return slice(first, side - 1, step), slice(first - 1, side - 2, step), slice(first + 1, side, step)

    (rows, above, below), (columns, left, right) = slices(height), slices(width)
    row, column = np.mgrid[:height, :width].astype(np.float32)[:, rows, columns]
    x, y = column - np.float32((width - 1) / 2), row - np.float32((height - 1) / 2)
    return Points(rows, columns, left, right, above, below, np.ascontiguousarray(column), np.ascontiguousarray(row), x, y)


def register(before: np.ndarray, after: np.ndarray, start: Similarity) -> Similarity:
    """The similarity that lays two planes uint8 [h, w] over each other, from a start within a few pixels.

    Gauss-Newton on the pixels themselves (Bergen et al., ECCV 1992) with a change of brightness as a further unknown and
    outliers weighed down (Geman and McClure), since DIS falls short of slow zoom and roll.
    """
    height, width = before.shape
    points = _points(height, width)
    if points.x.size < 16:
        return start
    old, new = cv2.blur(before, (_BLUR, _BLUR)), cv2.blur(after, (_BLUR, _BLUR)).astype(np.float32)
    dx = (old[points.rows, points.right] * np.float32(0.5) - old[points.rows, points.left] * np.float32(0.5)).ravel()
    dy = (old[points.below, points.columns] * np.float32(0.5) - old[points.above, points.columns] * np.float32(0.5)).ravel()
    x, y = points.x.ravel(), points.y.ravel()
    slopes = np.stack([dx, dy, dx * x + dy * y, dy * x - dx * y, np.ones_like(dx)])
    values = old[points.rows, points.columns].ravel()
    solution = np.array([start.shift_x, start.shift_y, start.zoom, start.roll, 0.0], np.float32)
    for _ in range(_STEPS):
        u, v = Similarity(*solution[:4]).at(points.x, points.y)
        sampled = cv2.remap(new, points.column + u, points.row + v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE)
        error = sampled.ravel() - values + solution[4]
        size = np.abs(error)
        spread = 1.4826 * float(np.partition(size, size.size // 2)[size.size // 2]) + _NOISE
        weight = 1 / np.square(1 + np.square(error * np.float32(1 / (_OUTLYING * spread))))
        weighted = slopes * weight
        change = np.linalg.solve(weighted @ slopes.T + _DAMPING, weighted @ error)
        solution = solution - change
        if abs(change[0]) + abs(change[1]) + (abs(change[2]) + abs(change[3])) * width / 2 < _SETTLED:
            break
    return Similarity(*(float(value) for value in solution[:4]))
