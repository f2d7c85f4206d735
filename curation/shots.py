"""From frames to boundaries to shots to clips.

In: the thumbnails of one film. Out: clips, which tile its shots frame by frame. Frames inside a fade or dissolve
belong to no shot and so to no clip; every other frame belongs to exactly one.

All of it is arithmetic on sequences that the scan has left behind, in blocks, so memory stays small for long films.
It needs about 30 microseconds a frame, provided that BLAS runs one thread (OPENBLAS_NUM_THREADS=1): its products are
too small to share, and waiting threads cost more than they save.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from curation.boundaries import Boundary, Found, ShotConfig
from curation.cuts import find_cuts
from curation.gradual import find_dissolves, find_fades
from curation.signals.change import Changes, FrameFeatures, measure_changes

__all__ = [
    "Boundary",
    "ClipSpan",
    "Shot",
    "ShotConfig",
    "ShotDetector",
    "detect_boundaries",
    "divide",
    "find_clips",
    "frame_ends",
    "shots_from",
]

_TICK = 1e-6  # seconds; times closer than this are the same


@dataclass(frozen=True)
class Shot:
    """Frames start .. end-1, and how the shot begins and ends: start, end, cut, fade or dissolve."""

    start: int
    end: int
    boundary_in: str
    boundary_out: str


@dataclass(frozen=True)
class ClipSpan:
    """A shot, or a piece of a long one: `num_frames` frames from `start_frame` on. Pieces meet at a "split"."""

    start_frame: int
    num_frames: int
    boundary_in: str
    boundary_out: str


class ShotDetector(Protocol):
    """Finds boundaries in place of `detect_boundaries`. A frozen dataclass: its fields are its configuration, and it is pickled."""

    def detect(self, pictures: np.ndarray) -> list[Boundary]:
        """All boundaries of one film, in order, not overlapping. pictures: uint8 RGB [N, 27, 48, 3], on disk where N is large."""
        ...


def find_clips(features: FrameFeatures, config: ShotConfig, boundaries: Iterable[Boundary] | None = None) -> list[ClipSpan]:
    """All steps at once: boundaries, where they are not given, shots, clips."""
    found = detect_boundaries(features, config) if boundaries is None else boundaries
    shots = shots_from(found, features.num_frames)
    return divide(shots, features.time_s, config.max_clip_s)


def detect_boundaries(features: FrameFeatures, config: ShotConfig | None = None) -> list[Boundary]:
    """All boundaries of one film, in order, not overlapping."""
    config = config or ShotConfig()
    if features.num_frames < 3:
        return []
    changes = measure_changes(features.thumbnails)
    cuts = find_cuts(features, changes, config)
    fades = find_fades(features, changes, config)
    dissolves = find_dissolves(features, changes, cuts, fades, config)
    gradual = _merge(fades + [_named(one.boundary, changes) for one in dissolves])
    free = [cut for cut in cuts if not any(one.start - 1 <= cut.boundary.start <= one.end + 1 for one in gradual)]
    return sorted(gradual + _without_fragments(free, gradual, features, config), key=lambda one: one.start)


def _named(dissolve: Boundary, changes: Changes) -> Boundary:
    """A dissolve from or to a nearly even picture is a fade that did not get quite flat."""
    sides = changes.contrast[[max(dissolve.start - 1, 0), min(dissolve.end, len(changes.contrast) - 1)]]
    is_fade = sides.min() < 0.15 * sides.max()
    return Boundary("fade" if is_fade else "dissolve", dissolve.start, dissolve.end)


def _merge(gradual: Iterable[Boundary]) -> list[Boundary]:
    """What all but touches a fade becomes one with it. Dissolves do not overlap as they come."""
    merged: list[Boundary] = []
    for one in sorted(gradual, key=lambda one: one.start):
        if merged and one.start <= merged[-1].end + 3 and "fade" in (one.kind, merged[-1].kind):
            last = merged.pop()
            one = Boundary("fade", last.start, max(last.end, one.end))
        merged.append(one)
    return merged


def _without_fragments(cuts: list[Found], gradual: list[Boundary], features: FrameFeatures, config: ShotConfig) -> list[Boundary]:
    """The cuts, less those that leave a fragment shorter than `min_shot_s` on one side.

    Such a fragment is more often a glitch or a stutter than a shot. It stands when the pictures are wholly unlike.
    Gradual boundaries and the ends of the film cannot be dropped; of two cuts the better one stays.
    """
    time_s, last = features.time_s, features.num_frames - 1
    fixed = [time_s[0], time_s[last] + features.frame_s]
    fixed += [time_s[min(frame, last)] for one in gradual for frame in (one.start, one.end)]
    kept: list[Boundary] = []
    for cut in sorted(cuts, key=lambda cut: (not cut.unlike, -cut.evidence)):
        frame = cut.boundary.start
        near = fixed + [time_s[other.start] for other in kept]
        is_fragment = min(abs(time_s[frame] - other) for other in near) < config.min_shot_s - 1e-6
        if not is_fragment or (cut.unlike and 2 <= frame < last):
            kept.append(cut.boundary)
    return kept


def shots_from(boundaries: Iterable[Boundary], num_frames: int) -> list[Shot]:
    """The shots between `boundaries`, which are in order and do not overlap. Empty shots are left out."""
    shots = []
    start, kind = 0, "start"
    for boundary in boundaries:
        if boundary.start > start:
            shots.append(Shot(start, boundary.start, kind, boundary.kind))
        start, kind = boundary.end, boundary.kind
    if num_frames > start:
        shots.append(Shot(start, num_frames, kind, "end"))
    return shots


def divide(shots: Iterable[Shot], time_s: np.ndarray, max_clip_s: float) -> list[ClipSpan]:
    """Clips that tile `shots`; a shot longer than `max_clip_s` becomes the fewest near-equal clips that fit.

    time_s: float64 [N], when each frame appears. Clips are equal in time, not in frames, as the rate may vary. One
    frame that stays for longer than `max_clip_s` cannot be divided and becomes a clip of its own.
    """
    ends = frame_ends(time_s)
    clips = []
    for shot in shots:
        edges = _edges(time_s[shot.start : shot.end], ends[shot.start : shot.end], max_clip_s)
        kinds = [shot.boundary_in, *["split"] * (len(edges) - 2), shot.boundary_out]
        for (begin, kind_in), (end, kind_out) in itertools.pairwise(zip(edges, kinds, strict=True)):
            clips.append(ClipSpan(shot.start + begin, end - begin, kind_in, kind_out))
    return clips


def frame_ends(time_s: np.ndarray) -> np.ndarray:
    """When each frame leaves the screen, in seconds: as the next one appears; the last lasts as long as is usual."""
    if len(time_s) < 2:
        return time_s.astype(np.float64)
    return np.append(time_s[1:], time_s[-1] + np.median(np.diff(time_s)))


def _edges(appears: np.ndarray, leaves: np.ndarray, max_clip_s: float) -> list[int]:
    """Where the clips of a shot begin, counted from its first frame, and at the end its number of frames."""
    long_frames = np.flatnonzero(leaves - appears > max_clip_s + _TICK)
    runs = np.unique(np.concatenate([[0], long_frames, long_frames + 1, [len(appears)]]))
    edges = [0]
    for begin, end in itertools.pairwise(runs.tolist()):
        edges += [begin + edge for edge in _even_edges(appears[begin:end], leaves[begin:end], max_clip_s)]
    return edges


def _even_edges(appears: np.ndarray, leaves: np.ndarray, max_clip_s: float) -> list[int]:
    """Where clips of about the same length end. Frames: [n], none of them longer than a clip unless it is alone."""
    pieces = max(1, int(np.ceil((leaves[-1] - appears[0]) / max_clip_s - _TICK))) if len(appears) > 1 else 1
    while True:
        wanted = np.linspace(appears[0], leaves[-1], pieces + 1)[1:-1]
        edges = np.unique(np.concatenate([[0], np.searchsorted(appears, wanted - _TICK), [len(appears)]]))
        seconds = leaves[edges[1:] - 1] - appears[edges[:-1]]
        if pieces == 1 or seconds.max() <= max_clip_s + _TICK:
            return [int(edge) for edge in edges[1:]]
        pieces += 1
