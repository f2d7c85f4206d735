"""How smoothly the camera moves."""

import numpy as np

_TREND_S = 0.5
_FELT = 0.02  # diagonals per second of camera speed that are hardly felt


def camera_smoothness(shifts: np.ndarray, seconds: np.ndarray) -> float | None:
    """Steady camera motion over all camera motion, 0-1: 1 for a still or gliding camera, near 0 for a shaken one.

    shifts: [N, 2] camera motion per frame in diagonals, NaN where it could not be told; seconds: [N] frame durations. Steady is the mean
    velocity of half a second, at least 5 frames; medians over frames. None for fewer frames and where most could not be told.
    """
    seconds = np.maximum(seconds, 1e-3)
    window = max(5, int(round(_TREND_S / float(np.median(seconds)))) | 1) if len(seconds) else 5
    window = window if len(seconds) >= 2 * window else 5
    velocity = shifts / seconds[:, None]
    known = ~np.isnan(velocity).any(axis=1)
    if len(seconds) < window or known.mean() < 0.5:
        return None
    kernel = np.ones(window)
    weight = np.maximum(np.convolve(known, kernel, mode="valid"), 1)
    trend = np.stack([np.convolve(np.where(known, axis, 0.0), kernel, mode="valid") / weight for axis in velocity.T], axis=1)
    middle = slice(window // 2, window // 2 + len(trend))
    told = known[middle]
    if not told.any():
        return None
    stray, steady = (float(np.median(np.hypot(*one[told].T))) for one in (velocity[middle] - trend, trend))
    return (steady + _FELT) / (steady + stray + _FELT)
