"""Motion: dense flow between two neighboring frames, the camera's part in it, and what both come to over a clip.

Units: speeds in picture diagonals per second, zoom and roll per second, so that size and frame rate do not matter.
Directions are the camera's in display orientation: pan right is positive, tilt up is positive, zoom in is positive.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

_MOVING = 0.02  # diagonals per second from which a pixel counts as moving
_REFITS = 2
_RIDGE = 1e-6 * np.eye(4, dtype=np.float32)
_BLOCK = 2048  # frames worked on at once
_DIS_SIDE = 36
_PAN, _ZOOM, _ROLL = 0.025, 0.03, 0.06  # camera speeds that a viewer notices: diagonals/s, 1/s, rad/s
_SHAKY = 0.05  # diagonals per second of camera jitter


@dataclass(frozen=True, slots=True)
class Flow:
    """Motion between one pair of neighboring frames."""

    mean: float  # diagonals per second over the whole picture
    p95: float
    moving: float  # share of pixels that move
    foreground: float  # mean speed left after the camera's motion is taken off
    pan: float
    tilt: float
    zoom: float
    roll: float  # radians per second, clockwise positive


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
        return summarize(self._dis.calc(np.ascontiguousarray(before), np.ascontiguousarray(after), None), seconds)


def summarize(field: np.ndarray, seconds: float) -> Flow:
    """Facts of a flow field float32 [h, w, 2] (x right, y down, pixels), of frames `seconds` apart."""
    height, width = field.shape[:2]
    step = max(1, max(height, width) // 28)
    per_second = 1.0 / max(seconds, 1e-3)
    scale = per_second / float(np.hypot(height, width))
    u, v = cv2.split(np.ascontiguousarray(field[step // 2 :: step, step // 2 :: step]))
    speed = np.hypot(u, v).ravel() * np.float32(scale)
    camera = fit_camera(u, v, step)
    high = int(0.95 * (len(speed) - 1))
    return Flow(
        mean=float(speed.mean()),
        p95=float(np.partition(speed, high)[high]),
        moving=float(np.count_nonzero(speed > _MOVING) / len(speed)),
        foreground=camera.residual * scale,
        pan=-camera.shift_x * scale,
        tilt=camera.shift_y * scale,
        zoom=camera.zoom * per_second,
        roll=-camera.roll * per_second,
    )


@dataclass(frozen=True, slots=True)
class Similarity:
    """A small similarity motion of the picture: flow = shift + zoom * (x, y) + roll * (-y, x), from the center, in pixels."""

    shift_x: float
    shift_y: float
    zoom: float
    roll: float
    residual: float  # mean length of what it leaves over, in pixels


@lru_cache(maxsize=8)
def _grid(height: int, width: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Design matrix [height * width * 2, 4] of a similarity on a grid of points `step` pixels apart, all u then all v; its inverse."""
    y, x = np.mgrid[:height, :width].astype(np.float32).reshape(2, -1) * step
    x, y = x - x.mean(), y - y.mean()
    one, zero = np.ones_like(x), np.zeros_like(x)
    design = np.concatenate([np.stack([one, zero, x, -y], 1), np.stack([zero, one, y, x], 1)])
    return design, np.linalg.pinv(design)


def fit_camera(u: np.ndarray, v: np.ndarray, step: int) -> Similarity:
    """Similarity that most of a flow agrees with: least squares, then refitted on the better half of the points.

    u, v: float32 [h, w], flow sampled every `step` pixels.
    """
    design, inverse = _grid(*u.shape, step)
    points, target = u.size, np.concatenate([u.ravel(), v.ravel()])
    solution = inverse @ target
    for _ in range(_REFITS):
        good = np.flatnonzero((error := _lengths(target - design @ solution)) <= np.partition(error, points // 2)[points // 2])
        part = np.concatenate([good, good + points])
        chosen = design[part]
        # The tiny ridge decides for no motion where the points cannot tell, as in a picture of one row.
        solution = np.linalg.solve(chosen.T @ chosen + _RIDGE, chosen.T @ target[part])
    shift_x, shift_y, zoom, roll = (float(value) for value in solution)
    return Similarity(shift_x, shift_y, zoom, roll, residual=float(_lengths(target - design @ solution).mean()))


def _lengths(rest: np.ndarray) -> np.ndarray:
    """Lengths of vectors given as all first and then all second components."""
    return np.hypot(*rest.reshape(2, -1))


def global_shifts(thumbnails: np.ndarray) -> np.ndarray:
    """Motion of the whole picture from each frame to the next, in shares of its width and height: float32 [N - 1, 2].

    One step of Lucas and Kanade (IJCAI 1981) with the picture as the window. thumbnails: uint8 [N, h, w], luma. Good for
    motion of up to about a thumbnail's pixel; NaN where the thumbnails are too even to tell.
    """
    height, width = thumbnails.shape[1:]
    parts = [_shifts(thumbnails[start : start + _BLOCK + 1].astype(np.float32)) for start in range(0, max(len(thumbnails) - 1, 0), _BLOCK)]
    return np.concatenate(parts) / (width, height) if parts else np.zeros((0, 2), np.float32)


def _shifts(pictures: np.ndarray) -> np.ndarray:
    # Smoothed, so that differences between neighbors stand for the slope between them.
    pictures = (pictures[:, :-2] + 2 * pictures[:, 1:-1] + pictures[:, 2:]) / 4
    pictures = (pictures[:, :, :-2] + 2 * pictures[:, :, 1:-1] + pictures[:, :, 2:]) / 4
    before, after = pictures[:-1, 1:-1, 1:-1], pictures[1:, 1:-1, 1:-1]
    middle = (pictures[:-1] + pictures[1:]) / 2  # the gradient half way makes the step exact to second order
    dx = (middle[:, 1:-1, 2:] - middle[:, 1:-1, :-2]) / 2
    dy = (middle[:, 2:, 1:-1] - middle[:, :-2, 1:-1]) / 2
    dt = after - before
    xx, yy, xy, xt, yt = (np.einsum("nij,nij->n", a, b) for a, b in ((dx, dx), (dy, dy), (dx, dy), (dx, dt), (dy, dt)))
    determinant = xx * yy - xy * xy
    flat = determinant < 0.01 * (xx + yy) ** 2 / 4 + 1.0
    safe = np.where(flat, 1.0, determinant)
    shift = np.stack([xy * yt - yy * xt, xy * xt - xx * yt], axis=1) / safe[:, None]
    return np.where(flat[:, None], np.nan, shift).astype(np.float32)


def jitter(shifts: np.ndarray, seconds: np.ndarray) -> float:
    """Camera shake: how far camera velocity strays from its 5-frame mean, in diagonals per second; median over frames.

    shifts: [N, 2] camera motion per frame in diagonals, NaN where it could not be told; seconds: [N] frame durations.
    0 for fewer than 5 frames.
    """
    if len(shifts) < 5:
        return 0.0
    velocity = shifts / np.maximum(seconds, 1e-3)[:, None]
    kernel = np.ones(5) / 5
    trend = np.stack([np.convolve(axis, kernel, mode="valid") for axis in velocity.T], axis=1)
    strays = np.hypot(*(velocity[2:-2] - trend).T)
    return float(np.nanmedian(strays)) if not np.isnan(strays).all() else 0.0


@dataclass(frozen=True, slots=True)
class CameraMotion:
    """A clip's camera motion: mean rates and the name of what dominates."""

    pan: float
    tilt: float
    zoom: float
    roll: float
    kind: str


def classify_camera(flows: np.ndarray, shake: float) -> CameraMotion:
    """Camera motion from rows of (pan, tilt, zoom, roll) [K, 4], K >= 1, of one clip, and its shake in diagonals per second."""
    rates = np.median(flows, axis=0)
    strength = np.abs(rates) / (_PAN, _PAN, _ZOOM, _ROLL)
    strongest = int(strength.argmax())
    names = (("pan_left", "pan_right"), ("tilt_down", "tilt_up"), ("zoom_out", "zoom_in"), ("roll", "roll"))
    if strength[strongest] < 1:
        kind = "handheld" if shake > _SHAKY else "static"
    elif np.count_nonzero(strength > max(1.0, 0.5 * strength[strongest])) > 1:
        kind = "mixed"
    else:
        kind = names[strongest][int(rates[strongest] > 0)]
    pan, tilt, zoom, roll = (float(rate) for rate in rates)
    return CameraMotion(pan, tilt, zoom, roll, kind)
