"""Perceptual hashes of a clip's pictures at even steps in time, by which copies of it are found.

In: luma thumbnails of the scan. Out: 64 bits a step. A bit is the sign of one of the lowest coefficients of the picture's
cosine transform (the idea of Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", with zero for
the median). Signs survive recoding, scaling and changes of exposure; and as mirroring a picture from left to right turns the
sign of exactly the coefficients of odd horizontal frequency, the hash of the mirrored picture is the hash with the bits of
`MIRROR` turned, and needs not be stored.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np

BITS = 64
STEP_S = 0.25
"""Time from one hash to the next, in seconds; a half or a quarter of it in clips that have no `_LEAST` steps."""
_LEAST = 4
_CONTENT_BYTES = 16
_MIN_BAR = 0.02
_CONTRAST = 2.0
"""Deviation from its mean, in levels, under which a picture is flat: black, white, a fade's end. Its signs are those of noise."""


def _frequencies() -> np.ndarray:
    """Vertical and horizontal frequency of each bit, the lowest of a picture of 4:3 first: int [BITS, 2]."""
    grid = [(v, u) for v in range(16) for u in range(16) if v or u]
    return np.array(sorted(grid, key=lambda vu: (vu[0] ** 2 + (0.75 * vu[1]) ** 2, vu))[:BITS])


_FREQUENCIES = _frequencies()
MIRROR = np.bitwise_or.reduce(np.uint64(1) << np.flatnonzero(_FREQUENCIES[:, 1] % 2).astype(np.uint64))
"""The bits that mirroring turns: uint64."""


@dataclass(frozen=True)
class Region:
    """The active picture as shares of the whole: 0 <= left < right <= 1, 0 <= top < bottom <= 1."""

    left: float = 0.0
    right: float = 1.0
    top: float = 0.0
    bottom: float = 1.0


WHOLE = Region()


def inside_bars(left: float, right: float, top: float, bottom: float) -> Region:
    """The picture inside black bars of these thicknesses, as shares of the side.

    Bars come in pairs, so what is dark at one side only is taken for picture. Where the bars of a pair differ, one of them has a logo or
    subtitles on it, and both are taken to be as thick as the thicker.
    """
    across, along = _pair(left, right), _pair(top, bottom)
    return Region(across, 1 - across, along, 1 - along)


def _pair(one: float, other: float) -> float:
    thickness = max(one, other)
    return thickness if min(one, other) >= _MIN_BAR and thickness < 0.5 else 0.0


@dataclass(frozen=True)
class HashSequence:
    """Hash k is of the pictures shown around (k + 0.5) * step_s after the clip's first frame.

    hashes: uint64 [n], n >= 1. told: bool [n], False where the picture is flat, and the hash 0 and without meaning.
    """

    step_s: float
    hashes: np.ndarray
    told: np.ndarray


def hash_sequence(luma: np.ndarray, time_s: np.ndarray, end_s: float, region: Region = WHOLE) -> HashSequence:
    """The hashes of one clip.

    luma: uint8 [N, h, w], N >= 1; time_s: float [N], when each is shown; end_s: when the last leaves. A hash is of the mean of the
    pictures at the ends and the middle of its step, so that copies of another rate or start give nearly the same.
    """
    duration_s = max(end_s - float(time_s[0]), 0.0)
    step_s = next((step for step in (STEP_S, STEP_S / 2) if duration_s >= _LEAST * step), STEP_S / 4)
    count = max(int(duration_s / step_s + 0.5), 1)
    at_s = time_s[0] + np.arange(2 * count + 1) * (step_s / 2)
    shown = np.clip(np.searchsorted(time_s, at_s + 1e-6, side="right") - 1, 0, len(luma) - 1)
    halves = luma[shown].astype(np.float32)
    means = (halves[:-2:2] + 2 * halves[1:-1:2] + halves[2::2]) / 4
    hashes, told = hash_pictures(means, region)
    return HashSequence(step_s, hashes, told)


def hash_pictures(pictures: np.ndarray, region: Region = WHOLE) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of luma pictures float32 or uint8 [N, h, w], and whether they tell anything: uint64 [N], bool [N]."""
    height, width = pictures.shape[1:]
    rows = _waves(height, region.top, region.bottom)
    columns = _waves(width, region.left, region.right)
    waves = rows @ pictures.astype(np.float32) @ columns.T  # [N, 16, 16]
    energy = np.einsum("nvu,nvu->n", waves, waves) - waves[:, 0, 0] ** 2
    told = energy > _CONTRAST**2
    positive = np.ascontiguousarray(waves[:, _FREQUENCIES[:, 0], _FREQUENCIES[:, 1]] > 0)
    hashes = np.packbits(positive, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)
    return np.where(told, hashes, np.uint64(0)), told


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """Hashes of the pictures mirrored from left to right."""
    return hashes ^ MIRROR


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits in which hashes differ, 0-64: uint8, broadcast. Unrelated pictures differ in about 32."""
    return np.bitwise_count(one ^ other)


def content_hash(thumbnails: np.ndarray) -> str:
    """32 hex digits by which clips with the same pictures, frame by frame, are told. thumbnails: uint8 [N, ...]."""
    return blake2b(thumbnails.tobytes(), digest_size=_CONTENT_BYTES).hexdigest()


@lru_cache(maxsize=256)
def _waves(size: int, begin: float, end: float) -> np.ndarray:
    """The cosine waves of frequency 0-15 over the part `begin`..`end` of `size` pixels: float32 [16, size].

    A pixel counts by what it shares with the part: each entry is the integral of the wave over that, so no picture is resampled.
    """
    edges = (np.clip(np.arange(size + 1) / size, begin, end) - begin) / (end - begin)
    frequency = np.arange(16)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        integral = np.where(frequency == 0, edges, np.sin(np.pi * frequency * edges) / (np.pi * frequency))
    scale = np.where(frequency == 0, 1.0, np.sqrt(2.0))
    return (scale * np.diff(integral, axis=1)).astype(np.float32)
