"""What only a sequence shows: repeated frames, freezes, flicker, black stretches. Inputs are per-frame arrays of one clip."""

from dataclasses import dataclass

import numpy as np

SAME = 0.15
"""Mean absolute luma difference, in levels, up to which a frame repeats the one before it (coding noise of a skipped block)."""
STILL = 0.5
"""Mean absolute luma difference, in levels, below which nothing much happens: a cursor, a line of text."""
_FREEZE_S = 0.5


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
    same = steps <= SAME
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    runs = edges[1::2] - edges[::2]
    long = runs >= max(2, round(_FREEZE_S * fps))
    total = len(steps)
    return Repeats(float(runs[long].sum() / total), float(runs[~long].sum() / total), float(np.mean(steps < STILL)))


def flicker(means: np.ndarray) -> float:
    """Mean distance of each frame's mean luma from the mean of its neighbors, in levels. means: [N]."""
    return float(np.abs(means[1:-1] - (means[:-2] + means[2:]) / 2).mean()) if len(means) > 2 else 0.0


def black_share(means: np.ndarray, deviations: np.ndarray) -> float:
    """Share of frames that are plain black: mean luma below 12 levels and hardly any contrast. [N], [N]."""
    return float(np.mean((means < 12) & (deviations < 8)))


def slideshow(steps: np.ndarray) -> float:
    """How much a clip is still pictures that change at once: 0-1. A proxy.

    The share of all change that comes in single-frame jumps, times the share of frames that stand still; a clip that is one
    still picture counts in full. steps: [N-1] mean absolute differences, in levels.
    """
    if len(steps) < 3:
        return 0.0
    still, jumps = float(np.mean(steps < STILL)), steps > 4
    return still * float(steps[jumps].sum() / steps.sum()) if jumps.any() else float(still == 1.0)
