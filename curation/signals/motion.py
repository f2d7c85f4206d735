"""Camera motion over a clip, from the thumbnails of all frames and from the flow of a few pairs of frames a second.

Units and directions as in `curation.signals.flow`.
"""

from dataclasses import dataclass

import numpy as np

_BLOCK = 2048  # frames worked on at once
_NOISE = 0.5  # levels
_OUTLYING = 2.0  # standard deviations
_REACH = 2.0  # pixels of a thumbnail
_CORNER = 0.5  # diagonals from the center to a corner, where zoom and roll move the picture fastest
_NAMED = 0.01  # diagonals per second at the corner: the least camera motion that is named
_MIXED = 0.4  # share of the strongest motion from which a second one is named too
_SWAY = 0.018  # diagonals per second of unsteadiness that tell a hand from a tripod
_SHAKE = 0.05
_UNSTEADY = 0.03
_SWAY_OVER_DRIFT = 0.5  # a hand's sway is named where it is at least this share of the motion it goes with
_JITTER_S = 0.2
_LEVELS = (0.005, 0.02, 0.06, 0.15, 0.35)  # mean speeds, diagonals per second, that part the six levels of motion


def global_shifts(thumbnails: np.ndarray) -> np.ndarray:
    """Motion of the whole picture from each frame to the next, in shares of its width and height: float32 [N - 1, 2].

    One step of Lucas and Kanade (IJCAI 1981) with the picture as the window, and another one with what does not follow
    weighed down (Geman and McClure). thumbnails: uint8 [N, h, w], luma. Good for motion of up to about a thumbnail's pixel;
    NaN where that is far exceeded or the thumbnails are too even to tell.
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
    count = len(before)
    dx = ((middle[:, 1:-1, 2:] - middle[:, 1:-1, :-2]) / 2).reshape(count, -1)
    dy = ((middle[:, 2:, 1:-1] - middle[:, :-2, 1:-1]) / 2).reshape(count, -1)
    dt = (after - before).reshape(count, -1)
    shift = _step(dx, dy, dt)
    rest = dt + dx * shift[:, :1] + dy * shift[:, 1:]
    spread = 1.4826 * np.median(np.abs(rest), axis=1, keepdims=True) + _NOISE
    root = 1 / (1 + np.square(rest / (_OUTLYING * spread)))
    robust = _step(dx * root, dy * root, dt * root)
    shift = np.where(np.isnan(robust), shift, robust)
    return np.where(np.abs(shift).max(axis=1, keepdims=True) > _REACH, np.nan, shift)


def _step(dx: np.ndarray, dy: np.ndarray, dt: np.ndarray) -> np.ndarray:
    """Least-squares shift of each row's picture from its slopes and changes [N, n]: float32 [N, 2]; NaN where it cannot be told."""
    xx, yy, xy, xt, yt = (np.einsum("ni,ni->n", a, b) for a, b in ((dx, dx), (dy, dy), (dx, dy), (dx, dt), (dy, dt)))
    determinant = xx * yy - xy * xy
    flat = determinant < 0.01 * (xx + yy) ** 2 / 4 + 1.0
    safe = np.where(flat, 1.0, determinant)
    shift = np.stack([xy * yt - yy * xt, xy * xt - xx * yt], axis=1) / safe[:, None]
    return np.where(flat[:, None], np.nan, shift).astype(np.float32)


def jitter(shifts: np.ndarray, seconds: np.ndarray) -> float:
    """Camera shake: how far camera velocity strays from its mean over 0.2 s, at least 5 frames, in diagonals per second; median.

    shifts: [N, 2] camera motion per frame in diagonals, NaN where it could not be told; seconds: [N] frame durations.
    0 for fewer than 5 frames.
    """
    if len(shifts) < 5:
        return 0.0
    seconds = np.maximum(seconds, 1e-3)
    reach = min(max(2, round(_JITTER_S / float(np.median(seconds)) / 2)), (len(shifts) - 1) // 2)
    velocity = shifts / seconds[:, None]
    kernel = np.ones(2 * reach + 1) / (2 * reach + 1)
    trend = np.stack([np.convolve(axis, kernel, mode="valid") for axis in velocity.T], axis=1)
    strays = np.hypot(*(velocity[reach:-reach] - trend).T)
    return float(np.nanmedian(strays)) if not np.isnan(strays).all() else 0.0


def sway(rates: np.ndarray) -> float:
    """Unsteadiness of a hand: how far the camera's velocity strays from that of the pairs before and after, in diagonals per second.

    rates: [K, 4] of (pan, tilt, zoom, roll). The median over pairs, scaled to the RMS of a velocity that is independent from pair to
    pair; steady motion and steady acceleration give 0, and so do fewer than 3 pairs.
    """
    if len(rates) < 3:
        return 0.0
    strays = rates[1:-1, :2] - (rates[:-2, :2] + rates[2:, :2]) / 2
    return float(np.median(np.hypot(*strays.T)))


def steadiness(unsteady: float, shake: float) -> float:
    """1 for a camera on a tripod or gliding, 0.5 where sway and shake together reach 0.03 diagonals per second, toward 0 beyond."""
    return _UNSTEADY / (_UNSTEADY + float(np.hypot(unsteady, shake)))


def acceleration(speed: np.ndarray, time_s: np.ndarray) -> float:
    """Mean absolute change of speed over time: diagonals per second, squared. 0 for fewer than 2 pairs. speed, time_s: [K]."""
    return float(np.mean(np.abs(np.diff(speed)) / np.maximum(np.diff(time_s), 1e-3))) if len(speed) > 1 else 0.0


def consistency(velocity: np.ndarray, speed: np.ndarray) -> float | None:
    """How much of all motion goes one way, 0-1: 1 for a pan, 0 for zoom, roll or a crowd; None where hardly anything moves.

    velocity: [K, 2] of the whole picture, pair by pair; speed: [K], mean over the picture.
    """
    mean_speed = float(speed.mean())
    return min(1.0, float(np.hypot(*velocity.mean(axis=0))) / mean_speed) if mean_speed >= _LEVELS[0] else None


def level(mean_speed: float) -> int:
    """Tier of a clip's mean speed: 0 static, 1 very slow, 2 slow, 3 moderate, 4 fast, 5 very fast."""
    return int(np.searchsorted(_LEVELS, mean_speed, side="right"))


@dataclass(frozen=True)
class CameraMotion:
    """A clip's camera motion: rates, the name of what dominates, and how strong that is (diagonals per second at the corner)."""

    pan: float
    tilt: float
    zoom: float
    roll: float
    kind: str
    strength: float


def classify_camera(rates: np.ndarray, shake: float) -> CameraMotion:
    """Camera motion from rows of (pan, tilt, zoom, roll) [K, 4], K >= 1, of one clip, and its shake in diagonals per second.

    Rates are medians. They are compared by the speed they give to a corner of the picture.
    """
    middle = np.median(rates, axis=0)
    strengths = np.abs(middle) * (1, 1, _CORNER, _CORNER)
    strongest = int(strengths.argmax())
    strength = float(strengths[strongest])
    unsteady = sway(rates)
    names = (("pan_left", "pan_right"), ("tilt_down", "tilt_up"), ("zoom_out", "zoom_in"), ("roll", "roll"))
    if unsteady > max(_SWAY, _SWAY_OVER_DRIFT * strength) or shake > max(_SHAKE, strength):
        kind, strength = "handheld", max(unsteady, shake)
    elif strength < _NAMED:
        kind = "static"
    elif np.count_nonzero(strengths > max(_NAMED, _MIXED * strength)) > 1:
        kind, strength = "mixed", float(np.hypot.reduce(strengths))
    else:
        kind = names[strongest][int(middle[strongest] > 0)]
    pan, tilt, zoom, roll = (float(rate) for rate in middle)
    return CameraMotion(pan, tilt, zoom, roll, kind, strength)
