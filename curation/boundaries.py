"""Shot boundaries from thumbnails (first working version; the API stays, the accuracy will grow)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from curation.signals.change import FrameFeatures

BoundaryKind = Literal["cut", "fade", "dissolve"]


@dataclass(frozen=True)
class Boundary:
    """Where one shot ends and the next begins. Frames are counted from 0.

    A cut has start == end: the first frame of the new shot. A fade or dissolve mixes frames start .. end-1;
    `end` is the first frame that shows the new shot alone.
    """

    kind: BoundaryKind
    start: int
    end: int


@dataclass(frozen=True)
class ShotConfig:
    """Thresholds of shot detection and the lengths of clips."""

    max_clip_s: float = 10.0


def detect_boundaries(features: FrameFeatures, config: ShotConfig = ShotConfig()) -> list[Boundary]:
    """All boundaries of one film, in order, not overlapping."""
    thumbs = features.thumbnails
    step = np.zeros(features.num_frames)
    for start in range(1, features.num_frames, 4096):
        block = thumbs[start - 1 : start + 4096].astype(np.int16)
        step[start : start + len(block) - 1] = np.abs(np.diff(block, axis=0)).mean(axis=1)
    found = []
    for i in np.flatnonzero(step > 12):
        rivals = np.concatenate([step[max(0, i - 8) : i], step[i + 1 : i + 9]])
        if step[i] > 2.5 * max(1.0, float(rivals.max(initial=0))):
            found.append(Boundary("cut", int(i), int(i)))
    return found
