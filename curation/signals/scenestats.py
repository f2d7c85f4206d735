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
        [2.41, -1.45, 0.48, 0.35, 0.11, 0.10, 0.68, 0.71],
    ]
)
_DEVIATION = np.array(
    [
        [0.63, 0.54, 0.16, 0.15, 0.12, 0.12, 0.13, 0.13],
        [0.92, 0.50, 0.19, 0.19, 0.16, 0.15, 0.15, 0.16],
    ]
)
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows down, columns to the right
_WINDOW, _SIGMA = (7, 7), 7 / 6
_REACH = 4  # rows beside a patch that count: half the window, and a neighbor


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
    whole = _whole_patches(luma)
    half = cv2.resize(whole, (whole.shape[1] // 2, whole.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return np.concatenate([_statistics(whole, PATCH), _statistics(half, PATCH // 2)], axis=1)


def patch_contrast(luma: np.ndarray) -> np.ndarray:
    """Mean local deviation of each patch, in levels: how much there is to see in it. [patches]"""
    whole = _whole_patches(luma).astype(np.float32)
    mean, deviation, spare = np.empty((3, *whole.shape), np.float32)
    _local(whole, mean, deviation, spare)
    rows, columns = whole.shape[0] // PATCH, whole.shape[1] // PATCH
    return np.asarray(deviation.reshape(rows, PATCH, columns, PATCH).mean(axis=(1, 3)).ravel())


def _whole_patches(luma: np.ndarray) -> np.ndarray:
    return luma[: luma.shape[0] // PATCH * PATCH, : luma.shape[1] // PATCH * PATCH]


def _local(luma: np.ndarray, mean: np.ndarray, deviation: np.ndarray, spare: np.ndarray) -> None:
    """Mean and deviation around each pixel of luma float32 [H, W], under a Gaussian of 7 x 7 pixels. All are of its shape and type."""
    np.multiply(luma, luma, out=spare)
    cv2.GaussianBlur(spare, _WINDOW, _SIGMA, dst=deviation)
    cv2.GaussianBlur(luma, _WINDOW, _SIGMA, dst=mean)
    deviation -= np.multiply(mean, mean, out=spare)
    np.maximum(deviation, 0, out=deviation)
    np.sqrt(deviation, out=deviation)


def _statistics(luma: np.ndarray, side: int) -> np.ndarray:
    """The eight statistics of each patch of luma uint8 [H, W], whose sides are multiples of `side`: [patches, 8]."""
    height, width = luma.shape
    # A row of patches at a time, always in the same memory: fresh planes cost more than what is computed in them.
    scratch = np.empty((4, side + 2 * _REACH, width), np.float32)
    rows = [_row_of_patches(luma, top, side, scratch) for top in range(0, height, side)]
    size, square, *moments = np.concatenate(rows, axis=1)
    products, shapes = moments[:4], [_shape(square, size)]
    shapes += [_shape(*moments[4:6]), _shape(*moments[6:])]
    return np.stack([shapes[0], np.log(square + 1e-4), *(product / (square + 1e-6) for product in products), *shapes[1:]], axis=1)


def _row_of_patches(luma: np.ndarray, top: int, side: int, scratch: np.ndarray) -> np.ndarray:
    """Means over each patch from row `top` on, float64 [10, patches]: the size and square of the normalized luma, its product with
    each of four neighbors, and the square and size of the first two of these products.
    """
    above = min(top, _REACH)
    rows = luma[top - above : top + side + _REACH]
    values, mean, deviation = scratch[:3, : len(rows)]
    np.copyto(values, rows)
    _local(values, mean, deviation, scratch[3, : len(rows)])
    deviation += 1
    values -= mean
    np.divide(values, deviation, out=scratch[3, : len(rows)])
    if len(rows) == above + side:  # below the picture, what is above its last row
        scratch[3, len(rows) : len(rows) + 2] = scratch[3, len(rows) - 2 : len(rows) - 4 : -1]

    # In one run of memory each neighbor is a fixed distance away. Beyond the last column follows the next row: too few pairs to tell.
    width = luma.shape[1]
    run, start, length = scratch[3].ravel(), above * width, side * width
    normal, product, other = run[start : start + length], scratch[0].ravel()[:length], scratch[1].ravel()[:length]
    sums = np.empty((10, width), np.float32)
    _add_rows(np.abs(normal, out=other), sums[0])
    _add_rows(np.multiply(normal, normal, out=other), sums[1])
    for index, (down, right) in enumerate(_NEIGHBORS):
        first = start + down * width + right
        np.multiply(normal, run[first : first + length], out=product)
        _add_rows(product, sums[2 + index])
        if index < 2:
            _add_rows(np.multiply(product, product, out=other), sums[6 + 2 * index])
            _add_rows(np.abs(product, out=other), sums[7 + 2 * index])
    return np.asarray(sums.reshape(len(sums), width // side, side).sum(axis=2, dtype=np.float64) / side**2)


def _add_rows(values: np.ndarray, sums: np.ndarray) -> None:
    """Sum of each column of a plane [rows * width] into `sums` [width]."""
    np.add.reduce(values.reshape(-1, len(sums)), axis=0, out=sums)


def _shape(square: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Shape of a generalized Gaussian from its mean square and mean size: 2 for a normal distribution, 1 for Laplace's."""
    shapes, falling = _shapes()
    return np.interp(-square / np.maximum(size**2, 1e-9), -falling, shapes)


@cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """Shapes 0.2-6 and the ratio of mean square to squared mean size that each has (Sharifi and Leon-Garcia 1995), which falls."""
    shapes = np.arange(20, 601) / 100
    return shapes, np.array([math.gamma(1 / shape) * math.gamma(3 / shape) / math.gamma(2 / shape) ** 2 for shape in shapes])
