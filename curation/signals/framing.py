"""How the picture sits in its frame: split, bordered, filled up at its sides, turned, round. From a few pictures spread over a clip.

All functions take full-range luma of the active picture, without black bars: uint8 [K, h, w], some 160 to 319 pixels on the longer side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from curation.signals.view import CLEAR

_LEAST_SIDE = 32
_STEP = 6.0  # levels by which the two sides of a seam differ at least
_SEGMENTS = 6
_MARGIN = 6  # columns beside the frame in which no seam is looked for
_SAME = 10  # levels up to which a pixel is of the border's color
_LEAST_EDGES = 1e4  # sum of Sobel responses
_BLACK = 24  # luma up to which what surrounds a fisheye's circle is black


@dataclass(frozen=True, slots=True)
class Framing:
    """How the pictures of a clip sit in their frame; all in 0-1."""

    split_screen: float  # how plainly a straight seam divides the picture, all across; less where one part is narrow
    side_fill: float  # share of the picture that is a blurred enlargement of its middle, at two opposite sides
    border: float  # share of the picture in a plain frame that is not black
    fisheye: float  # share of the picture that is black around a circle


def measure(pictures: np.ndarray) -> Framing:
    """Framing of the pictures of a clip, at least one."""
    split, fill = 0.0, 0.0
    if min(pictures.shape[1:]) >= _LEAST_SIDE:
        for turned in (pictures, np.ascontiguousarray(pictures.transpose(0, 2, 1))):
            seams = seam_profile(turned)
            fill = max(fill, _side_fill(turned, seams))
            split = max(split, _split(seams))
    return Framing(split_screen=0.0 if fill else split, side_fill=fill, border=border_share(pictures), fisheye=circle_surround(pictures))


def seam_profile(pictures: np.ndarray) -> np.ndarray:
    """How far each column is a seam, 0-1: in how many rows and pictures its neighbors differ far more than pixels nearby do.

    Half of it is the mean of the column, half its weakest sixth, since a seam runs all across. Float [w].
    """
    height, width = pictures.shape[1:]
    rows = height // max(2, height // 24)
    bands = np.stack([cv2.resize(picture, (width, rows), interpolation=cv2.INTER_AREA) for picture in pictures]).astype(np.float32)
    step = np.abs(bands[:, :, 2:] - bands[:, :, :-2])
    padded, count = np.pad(step, ((0, 0), (0, 0), (7, 7)), mode="edge"), step.shape[2]
    nearby = (padded[:, :, :count] + padded[:, :, 3 : count + 3] + padded[:, :, 11 : count + 11] + padded[:, :, 14:]) / 4
    hits = (step > np.maximum(2 * nearby, _STEP)).mean(axis=0)
    segments = np.stack([part.mean(axis=0) for part in np.array_split(hits, _SEGMENTS)])
    found = (segments.min(axis=0) + segments.mean(axis=0)) / 2
    return np.pad(np.clip((found - 0.25) / 0.75, 0, 1), 1)


def _split(seams: np.ndarray) -> float:
    width = len(seams)
    x = np.arange(_MARGIN, width - _MARGIN)
    narrower = 2 * np.minimum(x, width - x) / width
    return float((seams[x] * np.sqrt(narrower)).max())


def _side_fill(pictures: np.ndarray, seams: np.ndarray) -> float:
    """Share of the width at the left and the right, alike, that is soft, ends in a seam, and resembles the enlarged middle."""
    width, half = len(seams), len(seams) // 2
    detail = sum(cv2.reduce(cv2.absdiff(one, cv2.blur(one, (3, 3))), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)[0] for one in pictures)
    total = np.concatenate([[0.0], np.cumsum((detail + detail[::-1])[:half])])  # up to a column, and to its mirror image
    side = np.arange(max(5, round(0.03 * width)), round(0.45 * width))
    outside, inside = total[side - 2] / (side - 2), (total[-1] - total[side + 2]) / (half - side - 2)
    near = cv2.dilate(seams[None].astype(np.float32), np.ones((1, 5), np.uint8))[0]
    seam = np.minimum(near, near[::-1])[side]
    fits = np.clip((1 - outside / np.maximum(inside, 1e-3) - 0.5) / 0.3, 0, 1) * np.clip(3 * seam, 0, 1)
    best = int(fits.argmax())
    return 2 * int(side[best]) / width * float(fits[best]) * _enlarged(pictures, int(side[best])) if fits[best] > 0 else 0.0


def _enlarged(pictures: np.ndarray, side: int) -> float:
    """How far `side` columns left and right look like the picture between them, enlarged: 0-1, from the median of correlations."""
    height, width = pictures.shape[1:]
    rows = max(1, round(height * (width - 2 * side) / width))
    top, size, edge = (height - rows) // 2, (max(8, width // 4), max(8, height // 4)), max(1, side // 4)
    found = []
    for picture in pictures:
        ends = []
        for part in (picture, picture[top : top + rows, side : width - side]):
            soft = cv2.GaussianBlur(cv2.resize(part, size, interpolation=cv2.INTER_AREA), (0, 0), size[0] / 32)
            ends.append(np.concatenate([soft[:, :edge], soft[:, -edge:]], axis=1).ravel().astype(np.float32))
        found.append(float(np.corrcoef(ends[0], ends[1])[0, 1]) if min(end.std() for end in ends) > 1 else 0.0)
    return float(np.clip((np.median(found) - 0.2) / 0.3, 0, 1))


def border_share(pictures: np.ndarray) -> float:
    """Share of the picture in a border of one color, the same in all pictures, at two opposite sides at least. 0-1.

    A border ends at a straight edge, beyond which most pixels are of another color.
    """
    height, width = pictures.shape[1:]
    if min(height, width) < _LEAST_SIDE:
        return 0.0
    upright = pictures.transpose(0, 2, 1)
    high, wide = (_pair(ways[0], ways[1]) for ways in ((pictures, pictures[:, ::-1]), (upright, upright[:, ::-1])))
    return 1 - (1 - high / height) * (1 - wide / width)


def _pair(first: np.ndarray, second: np.ndarray) -> int:
    """Thickness of the borders at the top of both, together, where both have one and in the same color."""
    (thick, color), (other_thick, other_color) = _border(first), _border(second)
    return thick + other_thick if min(thick, other_thick) > 0 and abs(color - other_color) <= _SAME else 0


def _border(pictures: np.ndarray) -> tuple[int, int]:
    """Rows of one color at the top of all pictures, and its luma."""
    edge = pictures[:, : pictures.shape[1] // 3]
    color = int(np.median(edge[:, 0]))
    other = (cv2.absdiff(np.ascontiguousarray(edge), np.full_like(edge, color)) > _SAME).mean(axis=2)
    uneven = other.max(axis=0) > 0.03
    thick = int(uneven.argmax()) if uneven.any() else 0
    ends = other[:, thick + 1 : thick + 3]
    return (thick, color) if ends.size and ends.mean() > 0.5 else (0, color)


def circle_surround(pictures: np.ndarray) -> float:
    """Share of the picture that is black around a bright circle in its middle, as a fisheye lens leaves it. 0-1."""
    height, width = pictures.shape[1:]
    lit = pictures.max(axis=0) > _BLACK
    y, x = np.ogrid[:height, :width]
    distance = np.hypot(2 * y - height + 1, 2 * x - width + 1).astype(np.int32) // 2
    pixels = np.bincount(distance.ravel())
    bright = np.bincount(distance.ravel(), weights=lit.ravel())
    inner, inner_bright = np.cumsum(pixels), np.cumsum(bright)
    outer, outer_bright = lit.size - inner, inner_bright[-1] - inner_bright
    fits = inner_bright / inner * (1 - outer_bright / np.maximum(outer, 1)) * (outer > 0.03 * lit.size)
    best = int(fits.argmax())
    return float(outer[best] / lit.size * np.clip((fits[best] - 0.85) / 0.1, 0, 1))


def turned_share(slopes: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """How far the picture is turned in its frame: 0 where its straight edges are upright or level, 1 from 10 degrees and without such.

    slopes: Sobel responses along rows and columns, int16 [h, w] each, of some pictures. A picture on its side or upside down is
    not noticed. None without edges.
    """
    counts = np.zeros(90)
    for across, down in slopes:
        x, y = (plane[2:-2, 2:-2].astype(np.float32) for plane in (across, down))
        squares = x * x + y * y
        clear = squares > CLEAR**2
        x, y, size = x[clear], y[clear], np.sqrt(squares[clear])
        # Not cv2.cartToPolar, whose last bit depends on where in memory its input lies. Modulo a right angle, both are positive.
        swapped = (x * y < 0) | (x == 0)
        tangent = np.abs(np.where(swapped, x, y) / np.where(swapped, y, x))
        # The slack takes a diagonal, whose 45 degrees may come out as just less, to the same side everywhere.
        whole = (np.degrees(np.arctan(tangent)) + np.float32(1e-3)).astype(np.int32)
        counts += np.bincount(whole, np.minimum(size, 4 * CLEAR), 90)
    if counts.sum() < _LEAST_EDGES:
        return None
    smooth = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    peaks = np.convolve(np.pad(counts, 5, mode="wrap"), smooth, mode="valid")
    degrees = np.minimum(np.arange(90) + 0.5, 89.5 - np.arange(90))
    strongest = int(peaks.argmax())
    upright = peaks[degrees < 2].max()
    return float((1 - upright / peaks[strongest]) * min(1.0, degrees[strongest] / 10))
