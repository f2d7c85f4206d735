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
    pixels = bgr.reshape(-1, 3).astype(np.float32)
    blue, green, red = pixels.T
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    center = np.hypot(red_green.mean(), yellow_blue.mean())
    mean_blue, mean_green, mean_red = (float(channel.mean()) for channel in (blue, green, red))
    total = mean_red + mean_blue
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
    return Color(
        colorfulness=float(spread + 0.3 * center),
        saturation=float((pixels.max(1) - pixels.min(1)).mean() / 255),
        warmth=(mean_red - mean_blue) / total if total else 0.0,
        cast=(max(mean_red, mean_green, mean_blue) - min(mean_red, mean_green, mean_blue)) / 255,
        dominant=_dominant(hsv),
    )


def _dominant(hsv: np.ndarray) -> str:
    hue, chroma = hsv[..., 0].ravel() * 2, hsv[..., 1].ravel().astype(np.float64) * hsv[..., 2].ravel() / 255**2
    colored = chroma > 0.08
    if colored.mean() < 0.1:
        return _GRAY
    weights = np.bincount(np.searchsorted(_HUE_EDGES_DEGREES, hue[colored], side="right") % len(_HUES), chroma[colored], len(_HUES))
    return _HUES[int(weights.argmax())]
