"""Color of one picture, from its small planes as BGR, and how it holds over a clip."""

from dataclasses import dataclass

import cv2
import numpy as np

_GRAY = "gray"
HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_HUE_EDGES_DEGREES = np.array([15, 45, 70, 160, 200, 260, 300, 345])  # upper ends; red goes on above the last
_SHIFT_S = 0.5
_SHIFT_EVERY_S = 0.125


@dataclass(frozen=True, slots=True)
class Color:
    """Color facts of one picture."""

    colorfulness: float  # Hasler and Suesstrunk's M, 0 (gray) to about 150
    saturation: float  # mean HSV saturation weighted by value, 0-1
    warmth: float  # (red - blue) / (red + blue) of the mean color, -1 to 1
    cast: float  # distance of the mean color from gray in 0-1
    dominant: str  # name of the commonest hue, or gray


def color(bgr: np.ndarray) -> Color:
    """Color facts of a picture uint8 [H, W, 3] BGR.

    Colorfulness after Hasler and Suesstrunk, "Measuring colourfulness in natural images" (SPIE 2003), equation 1.
    """
    blue, green, red = (channel.astype(np.float32) for channel in cv2.split(bgr))
    (red_green, rg_spread), (yellow_blue, yb_spread) = _mean_and_deviation(red - green), _mean_and_deviation((red + green) / 2 - blue)
    means = cv2.mean(bgr)[:3]
    total = means[2] + means[0]
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
    chroma = cv2.multiply(hsv[..., 1], hsv[..., 2], scale=1 / 255)  # saturation times value: max - min of the channels
    return Color(
        colorfulness=float(np.hypot(rg_spread, yb_spread) + 0.3 * np.hypot(red_green, yellow_blue)),
        saturation=cv2.mean(chroma)[0] / 255,
        warmth=(means[2] - means[0]) / total if total else 0.0,
        cast=(max(means) - min(means)) / 255,
        dominant=_dominant(hsv[..., 0], chroma),
    )


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(values)
    return mean.item(), deviation.item()


def _dominant(hue: np.ndarray, chroma: np.ndarray) -> str:
    """Name of the commonest hue; hue in OpenCV's half degrees and chroma, both uint8 [H, W]."""
    colored = chroma > 20
    if np.count_nonzero(colored) < 0.1 * chroma.size:
        return _GRAY
    per_degree = np.bincount(hue[colored], chroma[colored], 180)
    return HUES[int(np.bincount(hue_index(np.arange(180)), per_degree).argmax())]


def hue_index(hue: np.ndarray) -> np.ndarray:
    """Position in HUES of hues in OpenCV's half degrees."""
    return np.searchsorted(_HUE_EDGES_DEGREES, hue.astype(int) * 2, side="right") % len(HUES)


def color_shift(chroma: np.ndarray, time_s: np.ndarray) -> float | None:
    """How far the color of the whole picture moves within half a second, in levels of chroma; mean over a clip, None for a single frame.

    chroma: uint8 [N, 2, h, w], U and V thumbnails; time_s: [N]. Taken at the middle half of the cells, so that what moves
    through the picture does not count.
    """
    if len(time_s) < 2:
        return None
    frame_s = max(float(np.median(np.diff(time_s))), 1e-3)
    lag = min(max(1, round(_SHIFT_S / frame_s)), len(time_s) - 1)
    first = np.arange(0, len(time_s) - lag, max(1, round(_SHIFT_EVERY_S / frame_s)))
    change = (chroma[first + lag].astype(np.int16) - chroma[first]).reshape(len(first), 2, -1)
    quarter = change.shape[2] // 4
    middle = np.sort(change, axis=2)[..., quarter : 3 * quarter].mean(axis=2)
    return float(np.hypot(middle[:, 0], middle[:, 1]).mean())
