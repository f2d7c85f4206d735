"""From boundaries to shots to clips.

In: the boundaries found by `curation.boundaries`. Out: clips, which tile the shots frame by frame. Frames inside a
fade or dissolve belong to no shot and so to no clip; every other frame belongs to exactly one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from curation.boundaries import Boundary, ShotConfig, detect_boundaries
from curation.signals.change import FrameFeatures

__all__ = ["Boundary", "ClipSpan", "Shot", "ShotConfig", "detect_boundaries", "divide", "find_clips", "shots_from"]


@dataclass(frozen=True)
class Shot:
    """Frames start .. end-1, and how the shot begins and ends: start, end, cut, fade or dissolve."""

    start: int
    end: int
    boundary_in: str
    boundary_out: str


@dataclass(frozen=True)
class ClipSpan:
    """A shot, or a piece of a long one: `num_frames` frames from `start_frame` on. `split` marks where a piece ends."""

    start_frame: int
    num_frames: int
    boundary_in: str
    boundary_out: str


def find_clips(features: FrameFeatures, config: ShotConfig) -> list[ClipSpan]:
    """All steps at once: boundaries, shots, clips."""
    shots = shots_from(detect_boundaries(features, config), features.num_frames)
    return divide(shots, features.time_s, config.max_clip_s)


def shots_from(boundaries: Iterable[Boundary], num_frames: int) -> list[Shot]:
    """The shots between `boundaries`, which are in order and do not overlap. Empty shots are left out."""
    shots = []
    start, kind_in = 0, "start"
    for boundary in boundaries:
        if boundary.start > start:
            shots.append(Shot(start, boundary.start, kind_in, boundary.kind))
        start, kind_in = boundary.end, boundary.kind
    if num_frames > start:
        shots.append(Shot(start, num_frames, kind_in, "end"))
    return shots


def divide(shots: Iterable[Shot], time_s: np.ndarray, max_clip_s: float) -> list[ClipSpan]:
    """Clips that tile `shots`; a shot longer than `max_clip_s` becomes the fewest near-equal clips that fit."""
    clips = []
    for shot in shots:
        edges = _edges(shot, time_s, max_clip_s)
        last = len(edges) - 2
        for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            clips.append(
                ClipSpan(
                    start_frame=start,
                    num_frames=end - start,
                    boundary_in=shot.boundary_in if number == 0 else "split",
                    boundary_out=shot.boundary_out if number == last else "split",
                )
            )
    return clips


def frame_ends(time_s: np.ndarray) -> np.ndarray:
    """When each frame leaves the screen, in seconds: as the next one appears; the last lasts as long as is usual."""
    if len(time_s) < 2:
        return time_s.astype(np.float64)
    return np.append(time_s[1:], time_s[-1] + np.median(np.diff(time_s)))


def _edges(shot: Shot, time_s: np.ndarray, max_clip_s: float) -> Sequence[int]:
    """Frame numbers where the clips of `shot` begin, and its end: equal in time, not in frames (the rate may vary).

    One frame that stays longer than `max_clip_s` cannot be divided and becomes a clip of its own.
    """
    appears = time_s[shot.start : shot.end]
    leaves = frame_ends(time_s)[shot.start : shot.end]
    pieces = max(1, int(np.ceil((leaves[-1] - appears[0]) / max_clip_s - 1e-6)))
    while True:
        wanted = np.linspace(appears[0], leaves[-1], pieces + 1)[1:-1]
        inner = np.searchsorted(appears, wanted - 1e-6)
        edges = np.unique(np.concatenate([[0], inner, [len(appears)]]))
        seconds = leaves[edges[1:] - 1] - appears[edges[:-1]]
        if np.all((seconds <= max_clip_s + 1e-6) | (np.diff(edges) == 1)):
            return [int(edge) + shot.start for edge in edges]
        pieces += 1
