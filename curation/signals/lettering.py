"""Lettering in one picture, found without reading it: strokes side by side, each between two opposite edges. A proxy."""

from dataclasses import dataclass

import cv2
import numpy as np

from curation.signals.planes import halve

_STROKES = (192, 224, 192)  # Sobel response of a stroke's edges, in the picture and in its two halvings: small, medium and large letters
_DENSITY = 0.07  # share of such edges of each sign in a neighborhood the size of a few letters
_GROUND = 0.15  # share of flat ground in a wider one
_FLAT = 12  # levels
_LINE = (0.1, 0.25)  # share of a row under lettering from which it begins to count as a line, and counts in full
_CARD_TEXT = (0.01, 0.04)  # the same for a title's share of the picture
_CARD_GROUND = (0.5, 0.8)  # and for the share of the picture that is of one tone


@dataclass(frozen=True, slots=True)
class Lettering:
    """Lettering in one picture; all in 0-1."""

    area: float  # share of the picture under lettering
    low_lines: float  # share of the lower third in lines of lettering, beyond twice that of the rest
    card: float  # how much the picture is lettering on a ground of one tone


def measure(luma: np.ndarray) -> Lettering:
    """Lettering in full-range luma uint8 [h, w], some 320-639 pixels on the longer side."""
    height, width = luma.shape
    found, part = _lettered(luma, _STROKES[0]), luma
    for stroke in _STROKES[1:]:
        part = halve(part)
        found = cv2.max(found, cv2.resize(_lettered(part, stroke), (width, height), interpolation=cv2.INTER_NEAREST))
    rows = cv2.reduce(found, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel() / 255
    lines = rows * _ramp(rows, _LINE)
    area, third = float(rows.mean()), height * 2 // 3
    tones = cv2.calcHist([luma], [0], None, [256], [0, 256]).ravel() / luma.size
    ground = float(np.convolve(tones, np.ones(9), mode="same").max())
    return Lettering(
        area=area,
        low_lines=max(0.0, float(lines[third:].mean() - 2 * (lines[:third].mean() if third else 0.0))),
        card=float(_ramp(ground, _CARD_GROUND) * _ramp(area, _CARD_TEXT)),
    )


def _ramp(values: np.ndarray | float, ends: tuple[float, float]) -> np.ndarray:
    return np.clip((np.asarray(values) - ends[0]) / (ends[1] - ends[0]), 0, 1)


def _lettered(luma: np.ndarray, stroke: int) -> np.ndarray:
    """Where lettering is: uint8 0 or 255 [h, w]."""
    height, width = luma.shape
    slope = cv2.Sobel(luma, cv2.CV_16S, 1, 0)
    window = (max(9, width // 24 | 1), max(5, height // 32 | 1))
    rising, falling = (cv2.blur(cv2.compare(part, stroke, cv2.CMP_GT), window) for part in (slope, -slope))
    dense = cv2.compare(cv2.min(rising, falling), 255 * _DENSITY, cv2.CMP_GT)
    flat = cv2.compare(cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), _FLAT, cv2.CMP_LT)
    ground = cv2.compare(cv2.blur(flat, (window[0] * 2 + 1, window[1] * 2 + 1)), 255 * _GROUND, cv2.CMP_GT)
    return cv2.bitwise_and(dense, ground)
