"""Light in one picture: how bright, how even, from where."""

import cv2
import numpy as np

_DARK, _BRIGHT, _RAMP = 45.0, 55.0, 25.0  # CIE lightness: tones below and above count, in full from a ramp further on
_NIGHT, _DAY = 10.0, 40.0  # CIE lightness
_TILES = (12, 16)  # rows and columns of light
_LIT = 12.0  # levels; below, light is too little to compare


def _tone_table() -> np.ndarray:
    lightness = np.arange(256) / 2.55
    return (np.clip((lightness - _BRIGHT) / _RAMP, 0, 1) - np.clip((_DARK - lightness) / _RAMP, 0, 1)).astype(np.float64)


_TONES = _tone_table()


def key(lightness: np.ndarray) -> float:
    """Bright tones less dark ones, as shares of the picture: -1 (low key) to 1 (high key). lightness: uint8 [h, w], CIE L over 2.55."""
    return float((_histogram(lightness) * _TONES).sum()) / lightness.size


def light_tiles(luma: np.ndarray) -> np.ndarray:
    """Mean luma of 12 x 16 tiles of a picture uint8 [h, w], in levels: float32."""
    return cv2.resize(luma, _TILES[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)


def _axes() -> tuple[np.ndarray, np.ndarray]:
    """Centers of the tiles from the middle, -1 to 1: y [12, 16], x [12, 16]."""
    y, x = np.meshgrid(*((np.arange(length) + 0.5) / length * 2 - 1 for length in _TILES), indexing="ij")
    return y, x


_Y, _X = _axes()
_CURVE = _X**2 + _Y**2
# A plane and a bowl. The grid is symmetric, so these are at right angles to each other and to a level surface.
_BENDS = [bend / np.sqrt(np.square(bend).sum()) for bend in (_X, _Y, _CURVE - _CURVE.mean())]
_RADIUS = np.sqrt((_X**2 + _Y**2) / 2)  # 1 in the corners
_QUADRANTS = [(right * _X > 0) & (lower * _Y > 0) for right in (-1, 1) for lower in (-1, 1)]
# Positions of tiles, as many in each quadrant: [4, n]
_CORNERS = np.stack([np.flatnonzero(quadrant & (_RADIUS > 0.78)) for quadrant in _QUADRANTS])
_MIDDLES = np.stack([np.flatnonzero(quadrant & (_RADIUS > 0.3) & (_RADIUS < 0.62)) for quadrant in _QUADRANTS])
_CENTER = np.exp(-(_X**2 + (_Y - 0.15) ** 2) / (2 * 0.4**2))
_CENTER /= _CENTER.sum()
_AROUND = ((np.abs(_X) > 0.6) | (_Y < -0.6)) / np.count_nonzero((np.abs(_X) > 0.6) | (_Y < -0.6))  # the sides and above


def evenness(tiles: np.ndarray) -> float | None:
    """How even the light is over the picture, 0-1, from the relative spread of a smooth surface fitted to it. None where too dark to tell.

    tiles: as of `light_tiles`.
    """
    mean = float(tiles.mean())
    if mean < _LIT:
        return None
    spread = np.sqrt(sum(float((bend * tiles).sum()) ** 2 for bend in _BENDS) / tiles.size)
    return float(1 / (1 + 2 * spread / mean))


def vignetting(tiles: np.ndarray) -> float | None:
    """Fall-off of light toward the corners, as a share, 0-1, that three of the four corners reach. None where too dark to tell.

    tiles: as of `light_tiles`. One corner may be bright by chance; three dark ones are the lens's doing.
    """
    corners, middles = (_medians(tiles.ravel()[places]) for places in (_CORNERS, _MIDDLES))
    return max(0.0, float(np.sort(1 - corners / middles)[1])) if middles.min() >= _LIT else None


def _medians(rows: np.ndarray) -> np.ndarray:
    """Median of each row, float64; np.median takes several times as long on so few values."""
    ordered, half = np.sort(rows, axis=1).astype(np.float64), rows.shape[1] // 2
    return np.asarray((ordered[:, half] + ordered[:, -1 - half]) / 2)


def backlight(lightness: np.ndarray) -> float:
    """A dark middle before bright sides and top, 0-1: geometric mean of the shares of both. lightness: uint8 [h, w], CIE L over 2.55."""
    tiles = light_tiles(lightness) / 2.55
    dark, bright = np.clip((35 - tiles) / 20, 0, 1), np.clip((tiles - 60) / 20, 0, 1)
    return float(np.sqrt((_CENTER * dark).sum() * (_AROUND * bright).sum()))


def local_contrast(lightness: np.ndarray) -> float:
    """Mean standard deviation of lightness in tiles a 16th of the width wide, over its largest value. uint8 [h, w] -> 0-1."""
    height, width = lightness.shape
    tile = max(2, round(max(height, width) / 16))
    values = lightness.astype(np.float32)
    size = max(1, width // tile), max(1, height // tile)
    mean, square = (cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in (values, values * values))
    return float(np.sqrt(np.maximum(square - mean * mean, 0)).mean()) / 127.5


def daylight(lightness: np.ndarray) -> float:
    """0 for a picture as dark as a night, 1 for one as bright as a day, by its median lightness. A proxy: a dark room looks like night.

    lightness: uint8 [h, w], CIE L over 2.55.
    """
    upto = np.cumsum(_histogram(lightness[::2, ::2]))
    total = int(upto[-1])
    median = np.searchsorted(upto, [(total + 1) // 2, total // 2 + 1]).mean()
    return float(np.clip((median / 2.55 - _NIGHT) / (_DAY - _NIGHT), 0, 1))


def _histogram(levels: np.ndarray) -> np.ndarray:
    """Number of pixels of each level of a plane uint8: float32 [256]."""
    return np.asarray(cv2.calcHist([np.ascontiguousarray(levels)], [0], None, [256], [0, 256])).ravel()
