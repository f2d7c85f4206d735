"""How one picture is composed: where its subject is and how large, what is empty, sharp, level, alike on both sides."""

import cv2
import numpy as np

_THIRDS_SPREAD = 0.09  # how near a power point counts as on it, as a share of the side
_CENTER_SPREAD = 0.18
_CALM = 40  # Sobel response below which a pixel lies on no edge (5 levels per pixel)
_TEXTURE_HALF = 24.0  # weaker mean gradient of a tile, in Sobel units, that counts as 0.5
_TILES = 16  # along the longer side, for sharpness
_TELLING = 24  # levels of contrast from which a tile tells sharp from soft
_LSD_SCALE = 0.65  # as exact as the 0.8 of the paper on small keyframes, at half the cost
_MAX_TILT = 20.0  # degrees; lines further from level and upright are taken for slopes in the scene
_SAME_ANGLE = 1.5  # degrees, standard deviation
_AGREEING = 0.3  # share of all votes that must be for one angle; lines in all directions give 0.04
_MIN_LINE = 0.06  # shortest line that votes, over the picture's longer side
_MIN_LINES = 0.35  # total length of the lines that agree, over the longer side


def _axes(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Centers of rows [h, 1] and columns [1, w] of a map, in shares of its height and width, 0 in the middle: -0.5 to 0.5."""
    rows, columns = ((np.arange(length, dtype=np.float32) + 0.5) / length - 0.5 for length in shape[:2])
    return rows[:, None], columns[None, :]


def rule_of_thirds(attention: np.ndarray) -> float:
    """Share of attention on the four points that divide both sides in three, 0-1. attention: [h, w] of sum 1."""
    y, x = (np.abs(axis) - 1 / 6 for axis in _axes(attention.shape))
    return float((attention * np.exp(-(x**2 + y**2) / (2 * _THIRDS_SPREAD**2))).sum())


def centrality(attention: np.ndarray) -> float:
    """Share of attention near the center, 0-1. attention: [h, w] of sum 1."""
    y, x = _axes(attention.shape)
    return float((attention * np.exp(-(x**2 + y**2) / (2 * _CENTER_SPREAD**2))).sum())


def balance(attention: np.ndarray) -> float:
    """1 where the halves left and right draw the eye alike, 0 where all attention is on one. attention: [h, w] of sum 1."""
    _, x = _axes(attention.shape)
    return max(0.0, 1 - 4 * abs(float((attention * x).sum())))


def subject_area(subject: np.ndarray) -> float:
    """Share of the picture over which attention is in effect spread, 0-1: its participation ratio. subject: [h, w] of sum 1."""
    return float(1 / (np.square(subject, dtype=np.float64).sum() * subject.size))


def symmetry(cells: np.ndarray, across: np.ndarray, down: np.ndarray) -> float | None:
    """Likeness of the left and right halves, mirrored, 0-1: mean correlation of colors and of edges; None for a flat picture.

    cells: the picture in Lab, float32 [h, w, 3]; across, down: its Sobel responses at a larger size, int16.
    """
    x, y = across.astype(np.float32), down.astype(np.float32)
    slope = np.sqrt(x * x + y * y)
    edges = cv2.resize(slope, cells.shape[1::-1], interpolation=cv2.INTER_AREA)
    colors, lines = _mirror_correlation(cells, 1.0), _mirror_correlation(np.sqrt(edges)[..., None], 0.05)
    return None if colors is None or lines is None else (colors + lines) / 2


def _mirror_correlation(planes: np.ndarray, least: float) -> float | None:
    """Correlation of a picture float32 [h, w, C] with its mirror image, at least 0; None below `least` variance."""
    smooth = cv2.GaussianBlur(planes, (0, 0), 1.5).reshape(planes.shape)
    smooth -= np.array(cv2.mean(smooth)[: smooth.shape[2]], np.float32)
    power = float((smooth * smooth).sum())
    mirrored = cv2.flip(smooth, 1).reshape(smooth.shape)
    return max(0.0, float((smooth * mirrored).sum()) / power) if power > least * planes[..., 0].size else None


def negative_space(across: np.ndarray, down: np.ndarray) -> float:
    """Share of a picture further than a 32nd of its longer side from any edge, 0-1. Sobel responses int16 [h, w]."""
    size = 2 * max(1, round(max(across.shape) / 64)) + 1
    edges = cv2.dilate(cv2.max(cv2.convertScaleAbs(across), cv2.convertScaleAbs(down)), np.ones((size, size), np.uint8))
    return float(np.count_nonzero(edges < _CALM) / edges.size)


def texture(across: np.ndarray, down: np.ndarray) -> float:
    """How much of a picture holds detail in all directions, not single edges: 0-1. Sobel responses int16 [h, w].

    The smaller eigenvalue of the structure tensor (Shi and Tomasi, CVPR 1994) of tiles a 32nd of the longer side wide, as x/(x+24).
    """
    tile = max(1, round(max(across.shape) / 32))
    size = max(1, across.shape[1] // tile), max(1, across.shape[0] // tile)
    x, y = across.astype(np.float32), down.astype(np.float32)
    xx, yy, xy = (cv2.resize(product, size, interpolation=cv2.INTER_AREA) for product in (x * x, y * y, x * y))
    weaker = (xx + yy) / 2 - np.sqrt(np.square((xx - yy) / 2) + np.square(xy))
    gradient = np.sqrt(np.maximum(weaker, 0))
    return float(np.mean(gradient / (gradient + _TEXTURE_HALF)))


def edge_sharpness(luma: np.ndarray) -> np.ndarray:
    """Steepest step within two pixels over the contrast, in 16 tiles along the longer side: near 1 for a hard edge, NaN where too flat.

    luma: uint8 [H, W]. Returns float32 [h, w].
    """
    tile = max(4, max(luma.shape) // _TILES)
    step = cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))

    contrast = (_over_tiles(luma, tile, np.maximum) - _over_tiles(luma, tile, np.minimum)).astype(np.float32)
    return np.where(contrast >= _TELLING, _over_tiles(step, tile, np.maximum) / np.maximum(contrast, 1), np.nan)


def _over_tiles(plane: np.ndarray, tile: int, reduce: np.ufunc) -> np.ndarray:
    """Largest or smallest value in each whole tile of a plane [H, W], rows first, which is several times faster than both axes at once."""
    height, width = (max(1, length // tile) for length in plane.shape)
    part = plane[: height * tile, : width * tile]
    rows = reduce.reduce(part.reshape(height, part.shape[0] // height, part.shape[1]), axis=1)
    return reduce.reduce(rows.reshape(height, width, part.shape[1] // width), axis=2)


def depth_of_field(luma: np.ndarray) -> float | None:
    """How much softer the softer parts of a picture uint8 [H, W] are than the sharpest, 0-1; None where too little of it tells."""
    sharpness = edge_sharpness(luma)
    telling = sharpness[~np.isnan(sharpness)]
    if len(telling) < max(6, sharpness.size // 8):
        return None
    # np.percentile takes as long as all the rest.
    soft, sharp = np.interp(np.array([0.25, 0.9]) * (len(telling) - 1), np.arange(len(telling)), np.sort(telling))
    return float(1 - soft / sharp)


def horizon_tilt(luma: np.ndarray) -> float | None:
    """Angle of the level and upright lines of a picture uint8 [h, w], in degrees; None where too few agree on one.

    Positive where the picture is turned counterclockwise. Line segments by LSD (von Gioi et al., PAMI 2010), voting for their angle
    with the square of their length.
    """
    lines = cv2.createLineSegmentDetector(cv2.LSD_REFINE_NONE, _LSD_SCALE).detect(luma)[0]
    if lines is None:
        return None
    x, y = (lines.reshape(-1, 4)[:, 2:] - lines.reshape(-1, 4)[:, :2]).T
    length = np.hypot(x, y) / max(luma.shape)
    is_long = length >= _MIN_LINE
    # Modulo a right angle, level and upright lines of an upright camera are both at 0.
    degrees, length = ((np.degrees(np.arctan2(-y, x)) + 45) % 90 - 45)[is_long], length[is_long]
    candidates = np.flatnonzero(np.abs(degrees) <= _MAX_TILT)
    if not len(candidates):
        return None
    turn = (degrees - degrees[candidates, None] + 45) % 90 - 45
    votes = np.exp(-np.square(turn / _SAME_ANGLE) / 2) * length**2
    best = int(votes.sum(axis=1).argmax())
    agreeing = votes[best].sum()
    if agreeing < _AGREEING * (length**2).sum() or (votes[best] / length).sum() < _MIN_LINES:
        return None
    return float(degrees[candidates[best]] + (votes[best] * turn[best]).sum() / agreeing)
