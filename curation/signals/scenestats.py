"""How far a picture's local statistics are from those of good camera pictures. In: luma of a stored keyframe. Out: one distance.

After NIQE (Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE SPL 2013): luma with its local
mean and deviation divided out has a distribution that lenses and scenes hardly change, and that noise, blur and coding do. Here the
reference is ours, eight statistics at each of two scales with their means and deviations, and the distance leaves out covariances.
"""

import math
from functools import cache

import cv2
import numpy as np

PATCH = 96
"""Side of the patches that statistics are taken over, in pixels of the keyframe."""

# Of 354 detailed patches of keyframes of 13 camera clips of the test corpus, none of which the validity benchmark uses, and of
# two photographs that scikit-learn ships; tests/benchmarks/scene_statistics.py makes them. Rows: the picture, and it at half size.
_MEAN = np.array(
    [
        [1.97, -1.75, 0.52, 0.42, 0.18, 0.16, 0.60, 0.62],
        [2.41, -1.45, 0.48, 0.36, 0.11, 0.10, 0.68, 0.71],
    ]
)
_DEVIATION = np.array(
    [
        [0.63, 0.54, 0.16, 0.15, 0.12, 0.12, 0.13, 0.13],
        [0.92, 0.50, 0.19, 0.19, 0.16, 0.14, 0.15, 0.16],
    ]
)
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))


def naturalness_distance(luma: np.ndarray) -> float | None:
    """RMS over 16 statistics of how many standard deviations a picture is from good ones. None below 96 pixels a side. uint8 [H, W]."""
    if min(luma.shape) < PATCH:
        return None
    strays = (patch_statistics(luma).mean(axis=0) - _MEAN.ravel()) / _DEVIATION.ravel()
    return float(np.sqrt((strays**2).mean()))


def patch_statistics(luma: np.ndarray) -> np.ndarray:
    """Statistics of each whole patch of a picture uint8 [H, W], at least 96 a side: [patches, 16], first at full size, then at half.

    Shape and log variance of the normalized luma, its correlation with the neighbor to the right, below and on both diagonals, and
    the shape of its products with the first two.
    """
    rows, columns = luma.shape[0] // PATCH, luma.shape[1] // PATCH
    whole = luma[: rows * PATCH, : columns * PATCH]
    half = cv2.resize(whole, (whole.shape[1] // 2, whole.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return np.concatenate([_statistics(whole.astype(np.float32), PATCH), _statistics(half.astype(np.float32), PATCH // 2)], axis=1)


def patch_contrast(luma: np.ndarray) -> np.ndarray:
    """Mean local deviation of each patch, in levels: how much there is to see in it. [patches]"""
    rows, columns = luma.shape[0] // PATCH, luma.shape[1] // PATCH
    _, deviation = _local(luma[: rows * PATCH, : columns * PATCH].astype(np.float32))
    return _patch_means(deviation, PATCH)


def _local(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation around each pixel, under a Gaussian of 7 x 7 pixels."""
    mean = cv2.GaussianBlur(luma, (7, 7), 7 / 6)
    return mean, np.sqrt(np.maximum(cv2.GaussianBlur(luma * luma, (7, 7), 7 / 6) - mean * mean, 0))


def _statistics(luma: np.ndarray, side: int) -> np.ndarray:
    mean, deviation = _local(luma)
    normal = (luma - mean) / (deviation + 1)
    variance = _patch_means(normal * normal, side)
    products = [normal * np.roll(normal, (-down, -right), axis=(0, 1)) for down, right in _NEIGHBORS]
    return np.stack(
        [
            _shape(normal, side),
            np.log(variance + 1e-4),
            *(_patch_means(product, side) / (variance + 1e-6) for product in products),
            *(_shape(product, side) for product in products[:2]),
        ],
        axis=1,
    )


def _patch_means(values: np.ndarray, side: int) -> np.ndarray:
    size = values.shape[1] // side, values.shape[0] // side
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA).ravel().astype(np.float64)


def _shape(values: np.ndarray, side: int) -> np.ndarray:
    """Shape of a generalized Gaussian by its moments in each patch: 2 for a normal distribution, 1 for Laplace's."""
    ratio = _patch_means(values * values, side) / np.maximum(_patch_means(np.abs(values), side) ** 2, 1e-9)
    shapes, falling = _shapes()
    return np.interp(-ratio, -falling, shapes)


@cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """Shapes 0.2-6 and the ratio of mean square to squared mean size that each has (Sharifi and Leon-Garcia 1995), which falls."""
    shapes = np.arange(20, 601) / 100
    return shapes, np.array([math.gamma(1 / shape) * math.gamma(3 / shape) / math.gamma(2 / shape) ** 2 for shape in shapes])
