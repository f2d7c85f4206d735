"""What only a sequence shows: repeated frames, freezes, flicker, plain stretches, cuts. Inputs are per-frame arrays of one clip."""

from dataclasses import dataclass

import numpy as np

from curation.signals.change import BLOCK, rms

SAME = 0.15
"""Mean absolute luma difference, in levels, up to which a frame repeats the one before it (coding noise of a skipped block)."""
STILL = 0.5
"""Mean absolute luma difference, in levels, below which nothing much happens: a cursor, a line of text."""
_FREEZE_S = 0.5
_LONGEST_CADENCE = 30  # frames
_NO_COLOR = 10  # distance from neutral, in levels of chroma: noise of an uncolored source
_JUMP_HALF = 4.0  # levels of thumbnail change that count as 0.5 in a clip that stands still


@dataclass(frozen=True, slots=True)
class Repeats:
    """Frames that repeat the one before them, as shares of a clip's frames."""

    frozen: float  # in still stretches of half a second and longer
    duplicate: float  # singly or in short runs: pulldown, dropped frames, raised frame rates
    still: float  # both, and frames that change by less than a viewer sees


def repeats(steps: np.ndarray, fps: float) -> Repeats:
    """steps: [N-1] mean absolute luma differences between neighbors, in levels."""
    if not len(steps):
        return Repeats(0.0, 0.0, 0.0)
    same, frozen = steps <= SAME, _frozen(steps, fps)
    return Repeats(float(frozen.mean()), float((same & ~frozen).mean()), float(np.mean(steps < STILL)))


def cadence(steps: np.ndarray, fps: float) -> float | None:
    """How regularly single frames are repeated, 0-1: 1 for pulldown and raised frame rates, near 0 for dropped frames.

    The lesser of the autocorrelations of the repeats at a period and at twice that, for the best period of 2 to 30 frames. None where
    too few frames are repeated, or all. steps: [N-1] mean absolute luma differences between neighbors, in levels.
    """
    same = (steps <= SAME) & ~_frozen(steps, fps)
    if min(np.count_nonzero(same), np.count_nonzero(~same)) < 4:
        return None
    stray = same - same.mean()

    def alike(lag: int) -> float:
        return float(stray[lag:] @ stray[:-lag] / np.sqrt((stray[lag:] @ stray[lag:]) * (stray[:-lag] @ stray[:-lag]) + 1e-12))

    periods = range(2, min(_LONGEST_CADENCE, len(stray) // 4) + 1)
    return max((max(min(alike(period), alike(2 * period)), 0.0) for period in periods), default=None)


def _frozen(steps: np.ndarray, fps: float) -> np.ndarray:
    """Which steps lie in still stretches of half a second and longer. bool [N-1]"""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], steps <= SAME, [False]]).astype(np.int8)))
    frozen = np.zeros(len(steps), bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        frozen[start:end] = end - start >= max(2, round(_FREEZE_S * fps))
    return frozen


def flicker(means: np.ndarray) -> float:
    """Mean distance of each frame's mean luma from the mean of its neighbors, in levels, without the largest tenth. means: [N].

    The tenth left out are single jumps: lights switched on, plain frames at an end.
    """
    if len(means) < 3:
        return 0.0
    strays = np.sort(np.abs(means[1:-1] - (means[:-2] + means[2:]) / 2))
    return float(strays[: -(-9 * len(strays) // 10)].mean())


def black_share(means: np.ndarray, deviations: np.ndarray) -> float:
    """Share of frames that are plain black: mean luma below 12 levels and hardly any contrast. [N], [N]."""
    return float(np.mean((means < 12) & (deviations < 8)))


def white_share(means: np.ndarray, deviations: np.ndarray) -> float:
    """Share of frames that are plain white: mean luma above 243 levels and hardly any contrast. [N], [N]."""
    return float(np.mean((means > 243) & (deviations < 8)))


def gray_share(chroma: np.ndarray) -> float:
    """Share of frames without color. chroma: uint8 [N, 2, h, w], U then V, 128 is neutral. Tinted pictures have color."""
    blocks = (np.abs(chroma[start : start + BLOCK].astype(np.int16) - 128) for start in range(0, len(chroma), BLOCK))
    return sum(np.count_nonzero(block.sum(axis=1).max(axis=(1, 2)) < _NO_COLOR) for block in blocks) / len(chroma)


def residual_cut(thumbnails: np.ndarray) -> float:
    """How much the sharpest jump of a clip looks like a cut that was missed: change over itself plus that around it. 0-1.

    A jump counts as far as the pictures two frames off on both sides differ as well, so that a flash is none. thumbnails: uint8 [N, D].
    """
    if len(thumbnails) < 7:
        return 0.0
    steps = _changes(thumbnails, 1)
    jump = np.minimum(steps[2:-2], _changes(thumbnails, 5))
    around = np.max([steps[:-4], steps[1:-3], steps[3:-1], steps[4:]], axis=0)
    return float((jump / (jump + 2 * around + _JUMP_HALF)).max())


def _changes(thumbnails: np.ndarray, reach: int) -> np.ndarray:
    """RMS distance of each thumbnail to the one `reach` frames later. [N, D] to [N - reach]."""
    parts = []
    for start in range(0, len(thumbnails) - reach, BLOCK):
        block = thumbnails[start : start + BLOCK + reach].astype(np.float32)
        parts.append(rms(block[reach:] - block[:-reach]))
    return np.concatenate(parts)
