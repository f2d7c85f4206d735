"""The colors of one picture: how many, how they go together, and their names."""

from functools import lru_cache

import cv2
import numpy as np

from curation.signals.color import HUES, hue_index

_LAB_BINS = (4, 8, 8)
_LAB_RANGES = (0, 256, 64, 192, 64, 192)  # chroma beyond is rarer than one pixel in a thousand
_HUES = 90  # of four degrees
_MIN_CHROMA = 6.0  # mean of largest less smallest channel, in levels, below which hue is coding noise
COLORS = ("black", "white", "gray", "brown", *HUES)
_SHADES = 32  # of each channel
_BLACK, _WHITE = 20.0, 85.0  # CIE lightness of colorless tones
_COLORLESS = 11.0  # CIE chroma
_BROWN = 55.0  # CIE lightness below which orange is called brown
_MIN_SHARE = 0.05


def palette_entropy(lab: np.ndarray) -> float:
    """Entropy of the colors of a picture uint8 [h, w, 3] in Lab over 256 of them, 0-1."""
    counts = cv2.calcHist([lab], [0, 1, 2], None, _LAB_BINS, _LAB_RANGES).ravel().astype(np.float64)
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log2(share)).sum()) / 8 + 0.0


# Sectors of Cohen-Or et al.'s templates as (center, width) in degrees; N, for gray pictures, needs none.
_TEMPLATES = (
    ((0, 18),),  # i
    ((0, 93.6),),  # V
    ((0, 18), (90, 79.2)),  # L
    ((0, 18), (180, 18)),  # I
    ((0, 180),),  # T
    ((0, 93.6), (180, 18)),  # Y
    ((0, 93.6), (180, 93.6)),  # X
)


def _template_distances() -> np.ndarray:
    """Distance of each hue to each template at each turn, over that of evenly spread hues: float64 [templates * turns, hues]."""
    hues = (np.arange(_HUES) + 0.5) * 360 / _HUES
    rows = []
    for sectors in _TEMPLATES:
        gaps = [np.maximum(np.abs((hues - center + 180) % 360 - 180) - width / 2, 0) for center, width in sectors]
        distance = np.min(gaps, axis=0)
        rows += [np.roll(distance, turn) / distance.mean() for turn in range(_HUES)]
    return np.array(rows)


_DISTANCES = _template_distances()


def hue_harmony(hue: np.ndarray, chroma: np.ndarray) -> float | None:
    """1 where all hues fit one harmonic template, 0 where they fit none better than evenly spread hues; None for a gray picture.

    Cohen-Or et al., "Color harmonization" (SIGGRAPH 2006), their distance weighted by chroma and taken relative to that of evenly
    spread hues, so that broad templates do not fit more easily. 1 less its root, which spreads the usual values.
    hue in half degrees, chroma: uint8 [h, w].
    """
    counts = cv2.calcHist([hue, chroma], [0, 1], None, [_HUES, 256], [0, 180, 0, 256])
    weights = (counts * np.arange(256, dtype=np.float32)).sum(axis=1, dtype=np.float64)
    if float(weights.sum()) < _MIN_CHROMA * chroma.size:
        return None
    return max(0.0, 1 - float(np.sqrt(np.einsum("th,h->t", _DISTANCES, weights).min() / weights.sum())))


@lru_cache(maxsize=1)
def _names() -> np.ndarray:
    """Position in COLORS of every color of 5 bits a channel, uint8 [32 * 32 * 32], blue first."""
    grid = np.indices((_SHADES,) * 3, np.uint8).reshape(3, -1).T * 8 + 4  # the middle of each cell
    lab = cv2.cvtColor((grid.astype(np.float32) / 255)[None], cv2.COLOR_BGR2Lab)[0]
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    hue = hue_index(cv2.cvtColor(grid[None].astype(np.uint8), cv2.COLOR_BGR2HSV)[0, :, 0])
    named = hue + 4
    named[(hue == HUES.index("orange")) & (lightness < _BROWN)] = COLORS.index("brown")
    named[chroma < _COLORLESS] = COLORS.index("gray")
    named[(chroma < _COLORLESS) & (lightness > _WHITE)] = COLORS.index("white")
    named[(lightness < _BLACK) & (chroma < 2 * _COLORLESS)] = COLORS.index("black")
    return named.astype(np.uint8)


def color_shares(bgr: np.ndarray) -> np.ndarray:
    """Share of a picture uint8 [h, w, 3] that bears each name of COLORS. float64 [12]"""
    blue, green, red = cv2.split(bgr >> 3)
    named = _names()[(blue.astype(np.uint16) << 10) | (green.astype(np.uint16) << 5) | red]
    return cv2.calcHist([named], [0], None, [len(COLORS)], [0, len(COLORS)]).ravel().astype(np.float64) / named.size


def dominant_colors(shares: np.ndarray) -> tuple[str, ...]:
    """The names of up to three colors that cover a twentieth and more, the largest first. shares: as of `color_shares`."""
    order = np.argsort(-shares, kind="stable")[:3]
    return tuple(COLORS[index] for index in order if shares[index] >= _MIN_SHARE)
