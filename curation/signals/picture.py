"""Quality of one picture, from its luma at full resolution or from a histogram of it."""

from dataclasses import dataclass

import cv2
import numpy as np

_NOISE_ENERGY = 36.0  # sum of squares of Immerkaer's mask: what it multiplies the variance of white noise by
_LAPLACIAN_ENERGY = 20.0  # the same for the 4-neighbor Laplacian
_SHARPNESS_HALF = 12.0  # standard deviation of the Laplacian, in 8-bit levels, that counts as 0.5
_QUARTILE = 0.94  # lower quartile over mean of the tiles of a picture that is noise alone
_TILE = 16
_BANDS = 6


@dataclass(frozen=True, slots=True)
class Exposure:
    """Histogram facts of one picture; all in 0-1."""

    mean: float
    overexposed: float  # share of pixels at 250 or more of 255
    underexposed: float  # share of pixels at 5 or less
    contrast: float  # standard deviation over its largest possible value (RMS contrast)
    dynamic_range: float  # 99th minus 1st percentile
    entropy: float  # of the histogram, over its maximum of 8 bits


def exposure(luma: np.ndarray) -> Exposure:
    """Exposure facts of full-range luma uint8 [H, W]."""
    histogram = cv2.calcHist([luma], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    share = histogram / histogram.sum()
    levels = np.arange(256) / 255
    mean = float(share @ levels)
    cumulative = np.cumsum(share)
    low, high = np.searchsorted(cumulative, (0.01, 0.99))
    used = share[share > 0]
    return Exposure(
        mean=mean,
        overexposed=float(share[250:].sum()),
        underexposed=float(share[:6].sum()),
        contrast=float(np.sqrt(share @ (levels - mean) ** 2) / 0.5),
        dynamic_range=float(min(high, 255) - low) / 255,
        entropy=float(-(used @ np.log2(used))) / 8 + 0.0,
    )


def bands(luma: np.ndarray, pixels: int = 100_000) -> list[np.ndarray]:
    """Evenly spaced horizontal strips of a picture [H, W], about `pixels` in all: enough for statistics of fine detail."""
    height, width = luma.shape
    rows = max(pixels // width // _BANDS // _TILE, 1) * _TILE + 2
    if rows * _BANDS >= height:
        return [luma]
    return [luma[start : start + rows] for start in np.linspace(0, height - rows, _BANDS).astype(int)]


def noise_sigma(strips: list[np.ndarray]) -> float:
    """Standard deviation of sensor-like noise in luma levels. strips: uint8 [h, W] each.

    Immerkaer's fast estimator ("Fast noise variance estimation", CVIU 1996), taken in 16 x 16 tiles and read at their
    lower quartile, so that texture, which fills some tiles, does not count as noise, which fills all.
    """
    tiles = np.concatenate([_noise_tiles(strip) for strip in strips])
    quarter = len(tiles) // 4
    return float(np.partition(tiles, quarter)[quarter] / _QUARTILE * np.sqrt(np.pi / 2 / _NOISE_ENERGY)) if len(tiles) else 0.0


def _noise_tiles(luma: np.ndarray) -> np.ndarray:
    # His mask, a second derivative in both directions, is the Sobel kernel of order (2, 2), which OpenCV runs separably.
    response = cv2.convertScaleAbs(cv2.Sobel(luma, cv2.CV_16S, 2, 2, ksize=3))[1:-1, 1:-1]
    rows, columns = response.shape[0] // _TILE, response.shape[1] // _TILE
    if not (rows and columns):
        return response.mean(keepdims=True).ravel() if response.size else np.zeros(0)
    whole = response[: rows * _TILE, : columns * _TILE].astype(np.float32)  # clean pictures differ below one level
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA).ravel()


def sharpness(strips: list[np.ndarray], sigma: float = 0.0) -> float:
    """Fine detail in 0-1 (0.5 at a Laplacian standard deviation of 12 levels), with noise of `sigma` levels taken off.

    Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000), saturated. strips: uint8 [h, W] each.
    """
    total = sum(cv2.norm(cv2.Laplacian(strip, cv2.CV_16S), cv2.NORM_L2SQR) for strip in strips)  # its mean is 0
    energy = total / sum(strip.size for strip in strips)
    detail = np.sqrt(max(energy - _LAPLACIAN_ENERGY * sigma**2, 0.0))
    return float(detail / (detail + _SHARPNESS_HALF))


def blockiness(row_steps: np.ndarray, column_steps: np.ndarray) -> float:
    """How much larger the steps on an 8 x 8 grid are than those beside it: 0 for none, 1 for twice as large.

    After Wang, Sheikh and Bovik, "No-reference perceptual quality assessment of JPEG compressed images" (ICIP 2002).
    |difference| of neighbors, in levels, along some whole rows [n, W] and columns [m, H] of a picture.
    """
    return (_grid_excess(row_steps.mean(axis=0)) + _grid_excess(column_steps.mean(axis=0))) / 2


def _grid_excess(profile: np.ndarray) -> float:
    whole = profile[: (len(profile) - 1) // 8 * 8].reshape(-1, 8)
    if len(whole) < 2:
        return 0.0
    on_grid = whole[:, 7]
    on_grid = np.minimum(on_grid, 3 * np.median(on_grid) + 0.5).mean().item()  # one straight line on the grid is no block
    inside = whole[:, 1:6].mean().item() + 0.25  # not the columns beside the edge, which deblocking touches
    return max(on_grid / inside - 1.0, 0.0)


def combing(strips: list[np.ndarray]) -> float:
    """Interlace combing in 0-1: how far lines differ more from their neighbors than from the lines of their own field.

    0 for progressive pictures, toward 1 where two fields of a moving picture are woven together. In 16 x 16 tiles, since often just a
    part of the picture moves. strips: uint8 [h, W] each.
    """
    excess = total = 0.0
    for strip in strips:
        height, width = strip.shape
        if height < 3:
            continue
        tiles = max(1, width // _TILE), max(1, (height - 2) // _TILE)
        neighbors, field = (
            cv2.resize(cv2.absdiff(lines, strip[2:]).astype(np.float32), tiles, interpolation=cv2.INTER_AREA)
            for lines in (strip[1:-1], strip[:-2])
        )
        excess += cv2.sumElems(cv2.max(neighbors - field, 0.0))[0]
        total += cv2.sumElems(neighbors + field)[0]
    return excess / total if total else 0.0
