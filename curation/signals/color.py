"""Color of one picture, from its small planes as BGR."""

from dataclasses import dataclass

import cv2
import numpy as np

_GRAY = "gray"
_HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_HUE_EDGES_DEGREES = np.array([15, 45, 70, 160, 200, 260, 300, 345])  # upper ends; red goes on above the last


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
    names = np.searchsorted(_HUE_EDGES_DEGREES, np.arange(180) * 2, side="right") % len(_HUES)
    return _HUES[int(np.bincount(names, per_degree).argmax())]
