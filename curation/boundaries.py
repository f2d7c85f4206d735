"""What a shot boundary is, and the thresholds for finding one."""

from dataclasses import dataclass
from typing import Literal

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
class Found:
    """A boundary and the evidence for it: log odds, where 0 is the threshold.

    unlike: the pictures on its two sides have little in common.
    """

    boundary: Boundary
    evidence: float
    unlike: bool


@dataclass(frozen=True)
class ShotConfig:
    """Thresholds of shot detection, and how long a clip may be. Distances and contrast are RMS levels, 0..255."""

    max_clip_s: float = 10.0
    min_shot_s: float = 0.28  # cuts closer than this have to be between wholly unlike pictures
    flash_s: float = 0.28  # a picture that is back after this time was never cut away from
    min_cut_step: float = 4.0
    cut_evidence: float = 0.0  # raise for fewer cuts
    min_dissolve_distance: float = 10.0
    dissolve_evidence: float = 0.0  # raise for fewer dissolves
    flat_contrast: float = 3.0  # of what counts as black or white
    max_ramp_s: float = 4.0  # the longest fade, one way
