"""Shot boundaries: hard cuts, fades and dissolves, from the thumbnails of one film.

In: `FrameFeatures`. Out: `Boundary` records in order, not overlapping. Everything here runs once, after the decode
pass, over the whole sequence, in blocks, so that memory stays bounded for long films.

Three searches, each after what its boundary looks like:

* a **cut** is a step between two frames that stands out from the steps around it, in pixels and in histogram;
* a **fade** is a run of flat frames (black, white, any even colour) with the ramps that lead into and out of it;
* a **dissolve** is a straight, even walk from one picture to another. While two pictures are mixed the frame loses
  contrast: spatial variance follows a parabola (A. Alattar, "Detecting and compressing dissolve regions in video
  sequences", ISCAS 1993). Camera motion changes pictures along crooked paths and without that dip.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from curation.signals.change import CHROMA_SIZE, LUMA_SIZE, THUMBNAIL_SIZE, FrameFeatures

BoundaryKind = Literal["cut", "fade", "dissolve"]

BLOCK = 2048
DISSOLVE_LENGTHS = (8, 11, 15, 20, 27, 37, 50, 68)
LONGEST = DISSOLVE_LENGTHS[-1]
PLANE_SIZES = (LUMA_SIZE, CHROMA_SIZE, CHROMA_SIZE)
PLANE_SHARES = np.array(PLANE_SIZES, np.float32) / THUMBNAIL_SIZE
LUMA_BINS, CHROMA_BINS = 32, 64


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
    """Thresholds of shot detection and the longest clip. Distances are RMS differences of thumbnails, 0..255."""

    max_clip_s: float = 10.0
    min_cut_step: float = 4.0
    cut_evidence: float = 0.0
    min_dissolve_distance: float = 10.0
    dissolve_evidence: float = 0.0
    flat_contrast: float = 3.0
    max_ramp_s: float = 4.0
    flash_s: float = 0.28
    min_shot_s: float = 0.28


@dataclass(frozen=True)
class Found:
    """A boundary with the evidence for it (log odds above the threshold).

    unlike: the pictures on both sides have little in common.
    """

    boundary: Boundary
    evidence: float
    unlike: bool = True


@dataclass(frozen=True)
class Changes:
    """Per-frame series made from the thumbnails; entry 0 of the steps is 0.

    step: float32 [N], RMS distance to the frame before. histogram_step: float32 [N], distance of histograms, 0..1.5.
    means: float32 [N, 3], mean of each plane. contrast: float32 [N], RMS deviation from the plane's own mean.
    """

    step: np.ndarray
    histogram_step: np.ndarray
    means: np.ndarray
    contrast: np.ndarray


def detect_boundaries(features: FrameFeatures, config: ShotConfig = ShotConfig()) -> list[Boundary]:
    """All boundaries of one film, in order, not overlapping."""
    if features.num_frames < 3:
        return []
    changes = measure_changes(features.thumbnails)
    cuts = find_cuts(features, changes, config)
    fades = find_fades(features, changes, config)
    dissolves = find_dissolves(features, changes, cuts, fades, config)
    return _settle(cuts, fades, dissolves, features, changes, config)


def measure_changes(thumbnails: np.ndarray) -> Changes:
    """The series that all searches share. thumbnails: uint8 [N, THUMBNAIL_SIZE]."""
    num_frames = len(thumbnails)
    step = np.zeros(num_frames, np.float32)
    histogram_step = np.zeros(num_frames, np.float32)
    means = np.empty((num_frames, 3), np.float32)
    contrast = np.empty(num_frames, np.float32)
    for first in range(0, num_frames, BLOCK):
        # One frame of the block before is taken along, to step from.
        begin, end = max(first - 1, 0), min(first + BLOCK, num_frames)
        block = thumbnails[begin:end]
        histograms = _histograms(block)
        step[begin + 1 : end] = _rms(np.diff(block.astype(np.float32), axis=0))
        histogram_step[begin + 1 : end] = 0.5 * np.abs(np.diff(histograms, axis=0)).sum(axis=1)
        means[begin:end], contrast[begin:end] = _means_and_contrast(block)
    return Changes(step, histogram_step, means, contrast)


def _rms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", rows, rows) / rows.shape[1])


def _planes(block: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    for size in PLANE_SIZES:
        yield block[:, start : start + size]
        start += size


def _means_and_contrast(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plane means [n, 3] and the RMS deviation from them [n] of thumbnails uint8 [n, THUMBNAIL_SIZE]."""
    values = block.astype(np.float32)
    means = np.stack([plane.mean(axis=1) for plane in _planes(values)], axis=1)
    power = np.einsum("ij,ij->i", values, values) - (means**2) @ np.array(PLANE_SIZES, np.float32)
    return means, np.sqrt(np.maximum(power, 0) / THUMBNAIL_SIZE)


def _histograms(block: np.ndarray) -> np.ndarray:
    """Smoothed histograms of luma, U and V side by side, float32 [n, 32 + 64 + 64].

    Smoothing over neighbouring bins keeps a small change of exposure from moving whole peaks to other bins. Luma
    sums to 1, each chroma plane to a quarter: chroma tells less, and in grey films nothing.
    """
    parts = []
    for plane, bins, weight in zip(_planes(block), (LUMA_BINS, CHROMA_BINS, CHROMA_BINS), (1, 0.25, 0.25), strict=True):
        bin_of = (plane.astype(np.int32) * bins >> 8) + bins * np.arange(len(plane), dtype=np.int32)[:, None]
        counts = np.bincount(bin_of.ravel(), minlength=bins * len(plane)).reshape(-1, bins)
        padded = np.pad(counts * np.float32(weight / plane.shape[1]), ((0, 0), (1, 1)), mode="edge")
        parts.append(0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:])
    return np.concatenate(parts, axis=1)


# ---------------------------------------------------------------------------------------------------- cuts


@dataclass(frozen=True)
class CutMeasures:
    """What is known of each candidate; arrays [C]. Prominences are log2 of a ratio to rivals nearby, clipped.

    frame: first frame of the would-be new shot. size: log2 of the step. prominence: over the second largest rival
    (one rival may be another cut). one_sided: over the largest rival of the quieter side (a calm shot may meet a
    wild one). histogram_prominence: as prominence, of the histogram step. histogram_step: as is.
    unlikeness: 1 - correlation of the two frames, 0..1.
    """

    frame: np.ndarray
    size: np.ndarray
    prominence: np.ndarray
    one_sided: np.ndarray
    histogram_prominence: np.ndarray
    histogram_step: np.ndarray
    unlikeness: np.ndarray

    def evidence(self) -> np.ndarray:
        """Log odds of a cut, float32 [C]: a logistic regression with rounded weights (see tests/benchmarks)."""
        return (
            1.8 * self.size
            + 1.0 * self.prominence
            + 1.5 * self.one_sided
            + 1.5 * self.histogram_prominence
            + 1.8 * self.histogram_step
            + 1.2 * self.unlikeness
            - 15.2
        )


def measure_cuts(features: FrameFeatures, changes: Changes, config: ShotConfig) -> CutMeasures:
    """Candidates are steps of some size that are the largest within two frames."""
    step, histogram_step = changes.step, changes.histogram_step
    padded = np.pad(step, 2)
    around = np.max([padded[k : k + len(step)] for k in range(5)], axis=0)
    frame = np.flatnonzero((step >= config.min_cut_step) & (step >= around))
    reach = int(np.clip(round(RIVALS_WITHIN_S / _frame_s(features)), NUM_RIVALS, 60))
    before = _rivals(step, histogram_step, frame, -np.arange(1, reach + 1))
    after = _rivals(step, histogram_step, frame, np.arange(1, reach + 1))
    size = step[frame]
    return CutMeasures(
        frame=frame,
        size=np.log2(np.clip(size, 1, 64)),
        prominence=_log_ratio(size, np.maximum(before.second, after.second), 0.5, 16),
        one_sided=_log_ratio(size, np.minimum(before.largest, after.largest), 0.5, 16),
        histogram_prominence=_log_ratio(
            histogram_step[frame], np.maximum(before.histogram_second, after.histogram_second), 0.02, 8
        ),
        histogram_step=np.minimum(histogram_step[frame], 1.0),
        unlikeness=1 - np.maximum(_correlation(features.thumbnails, changes, frame - 1, frame), 0),
    )


RIVALS_WITHIN_S = 1.2
NUM_RIVALS = 8
PAN_RESIDUAL = 0.5
MIN_MIXED = 5


@dataclass(frozen=True)
class Rivals:
    """The largest and the second largest step on one side of each candidate; the histogram's second; arrays [C]."""

    largest: np.ndarray
    second: np.ndarray
    histogram_second: np.ndarray


def _rivals(step: np.ndarray, histogram_step: np.ndarray, frame: np.ndarray, offsets: np.ndarray) -> Rivals:
    """Look at the nearest `NUM_RIVALS` moving steps in the direction of `offsets`.

    Repeated frames are passed over, so that film of 8 frames per second played at 24 is judged by its own steps.
    """
    at = frame[:, None] + offsets
    inside = (at >= 1) & (at < len(step))
    at = np.where(inside, at, 0)
    moving = inside & (step[at] > np.maximum(0.15 * step[frame], 0.6)[:, None])
    moving &= np.cumsum(moving, axis=1) <= NUM_RIVALS
    largest = np.sort(np.where(moving, step[at], 0), axis=1)
    # Where the film ends before anything moved, the calm of this side means nothing.
    unknown = ~moving.any(axis=1) & (inside.sum(axis=1) < NUM_RIVALS)
    largest[unknown, -1] = np.inf
    largest_histogram = np.sort(np.where(moving, histogram_step[at], 0), axis=1)
    return Rivals(largest[:, -1], largest[:, -2], largest_histogram[:, -2])


def _log_ratio(value: np.ndarray, rival: np.ndarray, floor: float, most: float) -> np.ndarray:
    return np.log2(np.clip(value / np.maximum(rival, floor), 0.5, most))


def _correlation(thumbnails: np.ndarray, changes: Changes, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation of thumbnails `left` with `right`, frame numbers [C], each plane about its own mean."""
    product = np.einsum("ij,ij->i", thumbnails[left].astype(np.float32), thumbnails[right].astype(np.float32))
    product -= (changes.means[left] * changes.means[right]) @ np.array(PLANE_SIZES, np.float32)
    return product / THUMBNAIL_SIZE / np.maximum(changes.contrast[left] * changes.contrast[right], 1)


def _frame_s(features: FrameFeatures) -> float:
    """The usual time between frames, in seconds."""
    return max(float(np.median(np.diff(features.time_s))), 1e-3)


def find_cuts(features: FrameFeatures, changes: Changes, config: ShotConfig) -> list[Found]:
    """Hard cuts, each with its evidence."""
    measures = measure_cuts(features, changes, config)
    evidence = measures.evidence() - config.cut_evidence
    flash_frames = max(2, round(config.flash_s / _frame_s(features)))
    found = []
    for number in np.flatnonzero(evidence > 0):
        frame = int(measures.frame[number])
        if not _is_flash(features.thumbnails, frame, flash_frames) and not _is_pan(features.luma, frame):
            unlike = measures.unlikeness[number] > 0.5 and measures.histogram_step[number] > 0.3
            found.append(Found(Boundary("cut", frame, frame), float(evidence[number]), bool(unlike)))
    return found


def _is_pan(luma: np.ndarray, frame: int) -> bool:
    """Whether moving the frame before by a few pixels of the thumbnail (a tenth of the picture) explains most of it.

    luma: uint8 [N, 24, 32].
    """
    before, here = luma[frame - 1].astype(np.float32), luma[frame].astype(np.float32)
    reach, (height, width) = 3, here.shape
    center = here[reach : height - reach, reach : width - reach]
    moved = np.lib.stride_tricks.sliding_window_view(before, center.shape)
    squares = np.mean((moved - center) ** 2, axis=(2, 3))
    return bool(squares.min() < PAN_RESIDUAL**2 * squares[reach, reach])


def _is_flash(thumbnails: np.ndarray, frame: int, flash_frames: int) -> bool:
    """Whether the picture of before `frame` is back soon after, or the picture at `frame` was there shortly before.

    The first is where a flash begins, or someone passes close to the lens; the second is where it ends.
    """
    last = len(thumbnails) - 1
    before, here = thumbnails[frame - 1].astype(np.float32), thumbnails[frame].astype(np.float32)
    later = thumbnails[frame + 1 : min(frame + flash_frames, last) + 1].astype(np.float32)
    earlier = thumbnails[max(frame - 1 - flash_frames, 0) : frame - 1].astype(np.float32)
    away = _rms((here - before)[None])[0]
    back = min(_rms(later - before).min(initial=np.inf), _rms(earlier - here).min(initial=np.inf))
    return bool(back < 0.5 * away)


# --------------------------------------------------------------------------------------------------- fades


def find_fades(features: FrameFeatures, changes: Changes, config: ShotConfig) -> list[Boundary]:
    """Runs of flat frames with the ramps on both sides. A film that is flat from end to end has none."""
    contrast, flat = changes.contrast, find_flat(changes, config)
    if flat.all():
        return []
    longest = int(np.ceil(config.max_ramp_s / _frame_s(features)))
    flash_frames = max(2, round(config.flash_s / _frame_s(features)))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]])))
    fades = []
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        start = first - _ramp(contrast[max(first - longest, 0) : first + 1][::-1])
        stop = end + _ramp(contrast[end - 1 : end + longest])
        if end - first > flash_frames or not _comes_back(features.thumbnails, start - 1, stop):
            fades.append(Boundary("fade", start, stop))
    return fades


def find_flat(changes: Changes, config: ShotConfig) -> np.ndarray:
    """Which frames are one even colour: bool [N].

    A sheet of paper or the sky can be quite even too, but is seldom black or white: other levels must be stricter.
    """
    level = changes.means[:, 0]
    limit = np.where((level < 24) | (level > 231), config.flat_contrast, 0.25 * config.flat_contrast)
    return changes.contrast < limit


def _ramp(contrast: np.ndarray) -> int:
    """How many frames next to a flat run still belong to the fade.

    contrast: [n], counted away from the run and starting with its last flat frame. In a fade the contrast grows in
    proportion to how much of the picture shows, and levels off where the picture stands. After a hard cut from
    black it has levelled off at once: no frames.
    """
    growth = contrast[1:] - contrast[0]
    top = 0
    while top + 1 < len(growth):
        ahead = growth[top + 1 : top + 4]
        usual_speed = growth[top] / (top + 1)
        if (ahead.max() - growth[top]) / len(ahead) < 0.25 * usual_speed:
            break
        top += 1
    return int(np.argmax(growth[: top + 1] >= 0.95 * growth[: top + 1].max())) if len(growth) else 0


def _comes_back(thumbnails: np.ndarray, before: int, after: int) -> bool:
    """Whether frame `after` shows what frame `before` showed; False at the ends of the film."""
    if before < 0 or after >= len(thumbnails):
        return False
    left, right = thumbnails[before].astype(np.float32), thumbnails[after].astype(np.float32)
    return bool(_rms((right - left)[None])[0] < 0.35 * _rms((left - left.mean())[None])[0])


# ----------------------------------------------------------------------------------------------- dissolves


def find_dissolves(
    features: FrameFeatures, changes: Changes, cuts: list[Found], fades: list[Boundary], config: ShotConfig
) -> list[Found]:
    """Dissolves, and fades that never get flat, each with its evidence; not overlapping, in order of time."""
    stride = max(1, round(1 / 25 / _frame_s(features)))
    vectors = features.thumbnails[::stride]
    means, contrast = changes.means[::stride], changes.contrast[::stride]
    windows = [
        window
        for first in range(0, len(vectors), BLOCK)
        for window in _dissolve_windows(vectors, means, contrast, first, config)
    ]
    # What a dissolve has to beat to have a frame. Evidence of a cut weighs a little more than that of a dissolve.
    claim = np.full(len(vectors), -np.inf)
    for cut in cuts:
        claim[cut.boundary.start // stride] = cut.evidence + 2
    for fade in fades:
        claim[max(fade.start // stride - 2, 0) : -(-fade.end // stride) + 2] = np.inf
    found = []
    for evidence, first, last in sorted(windows, reverse=True):
        if claim[first : last + 1].max() >= evidence:
            continue
        start, end = _mixed_frames(vectors, first, last)
        while start < first and np.isinf(claim[start : first + 1]).any():
            start += 1
        while end > last and claim[last:end].max() == np.inf:
            end -= 1
        claim[min(start, first + 1) : max(end, last)] = np.inf
        if end - start < MIN_MIXED or _is_overlay(vectors, first, last):
            continue
        found.append(Found(Boundary("dissolve", start * stride, min(end * stride, features.num_frames)), evidence, True))
    return sorted(found, key=lambda one: one.boundary.start)


def _dissolve_windows(
    vectors: np.ndarray, means: np.ndarray, contrast: np.ndarray, first: int, config: ShotConfig
) -> Iterator[tuple[float, int, int]]:
    """(evidence, frame before the dissolve, frame after it) of every window that starts in one block.

    vectors: uint8 [N, THUMBNAIL_SIZE]; means [N, 3]; contrast [N].
    """
    stop = min(first + BLOCK + LONGEST, len(vectors))
    distance = _distance_band(vectors[first:stop], LONGEST)
    means, power = means[first:stop], contrast[first:stop] ** 2
    for length in DISSOLVE_LENGTHS:
        start = np.arange(min(BLOCK, stop - first - length))
        if not len(start):
            continue
        far = distance[start, length]
        quarters = [round(length * k / 4) for k in range(5)]
        legs = np.stack([distance[start + a, b - a] for a, b in zip(quarters, quarters[1:], strict=False)])
        # Most windows fail here, at small cost.
        likely = (far > config.min_dissolve_distance) & (legs.sum(axis=0) < 2.3 * far) & (legs.max(axis=0) < 0.7 * far)
        start, far, legs = start[likely], far[likely], legs[:, likely]
        end = start + length
        largest = np.max([distance[start + k, 1] for k in range(length)], axis=0)
        apart = np.maximum(far**2 - (means[end] - means[start]) ** 2 @ PLANE_SHARES, 1)
        covariance = (power[start] + power[end] - apart) / 2
        unlikeness = 1 - np.maximum(covariance / np.maximum(np.sqrt(power[start] * power[end]), 1), 0)
        evidence = (
            3.0 * np.log2(np.minimum(far, 64))
            - 3.5 * legs.sum(axis=0) / far
            - 5.5 * legs.max(axis=0) / far
            - 5.5 * np.minimum(np.abs(_dip(power, start, length) / apart - 1), 1)
            + 5.0 * unlikeness
            - 9.4
            - config.dissolve_evidence
        )
        for k in np.flatnonzero((evidence > 0) & (largest < (0.4 + 4 / length) * far)):
            yield float(evidence[k]), int(first + start[k]), int(first + end[k])


def _dip(power: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
    """How far the variance sags between the ends of each window, as a fraction of what a dissolve predicts times
    the squared distance of its ends: least squares over seven inner frames. power: [N]; start: [W]; returns [W].

    For frames (1-a) P + a Q the variance is (1-a) var P + a var Q - a (1-a) |P-Q|^2.
    """
    inner = np.unique(np.round(np.linspace(0, length, 9)[1:-1]).astype(int))
    share = (inner / length)[:, None]
    sag = (1 - share) * power[start] + share * power[start + length] - power[start + inner[:, None]]
    weight = share * (1 - share)
    return (weight * sag).sum(axis=0) / (weight**2).sum()


def _distance_band(vectors: np.ndarray, reach: int) -> np.ndarray:
    """RMS distance of each frame to the `reach` frames after it: float32 [n, reach + 1], inf past the end."""
    values = vectors.astype(np.float32) - 128
    squares = np.einsum("ij,ij->i", values, values)
    band = np.full((len(values), reach + 1), np.inf, np.float32)
    tile = reach + 1
    for a in range(0, len(values), tile):
        rows = slice(a, min(a + tile, len(values)))
        columns = slice(a, min(a + tile + reach, len(values)))
        square = squares[rows, None] + squares[None, columns] - 2 * values[rows] @ values[columns].T
        for row in range(square.shape[0]):
            part = square[row, row : row + reach + 1]
            band[a + row, : len(part)] = part
    return np.sqrt(np.maximum(band, 0) / THUMBNAIL_SIZE)


def _is_overlay(vectors: np.ndarray, first: int, last: int) -> bool:
    """Whether most of the picture stays as it is: a title or logo comes or goes, the shot goes on."""
    change = np.abs(vectors[last].astype(np.float32) - vectors[first])[:LUMA_SIZE]
    return bool(np.mean(change > 0.25 * np.sqrt(np.mean(change**2))) < 0.4)


def _mixed_frames(vectors: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """Where the dissolve around the window first .. last truly starts and ends, as in `Boundary`.

    Projects the frames on the line from one picture to the other. The inner part gives the speed; frames outside
    the window belong to the dissolve as long as they keep up a good part of it.
    """
    length = last - first
    begin, stop = max(first - length // 2, 0), min(last + length // 2 + 1, len(vectors))
    values = vectors[begin:stop].astype(np.float32)
    line = values[last - begin] - values[first - begin]
    share = (values - values[first - begin]) @ line / (line @ line)
    inner = np.arange(first - begin, last - begin + 1)
    inner = inner[(share[inner] > 0.15) & (share[inner] < 0.85)]
    if len(inner) < 2:
        return first + 1, last
    speed, offset = np.polyfit(inner, share[inner], 1)
    speed = max(speed, 0.5 / length)
    low = int(np.clip(np.floor(-offset / speed), 0, len(share) - 2))
    high = int(np.clip(np.ceil((1 - offset) / speed), low + 1, len(share) - 1))
    while low >= 2 and (share[low] - share[low - 2]) / 2 > 0.4 * speed:
        low -= 1
    while high + 2 < len(share) and (share[high + 2] - share[high]) / 2 > 0.4 * speed:
        high += 1
    return begin + low + 1, begin + high


# ---------------------------------------------------------------------------------------------- the decision


def _settle(
    cuts: list[Found], fades: list[Boundary], dissolves: list[Found], features: FrameFeatures, changes: Changes,
    config: ShotConfig,
) -> list[Boundary]:
    """One list out of three: what a gradual boundary covers is no cut, and cuts are not too close together."""
    gradual = [
        Boundary("fade" if _is_fade(one.boundary, changes) else "dissolve", one.boundary.start, one.boundary.end)
        for one in dissolves
    ]
    gradual = _merge(fades + gradual)
    free = [cut for cut in cuts if not any(g.start - 1 <= cut.boundary.start <= g.end + 1 for g in gradual)]
    return sorted(gradual + _without_fragments(free, gradual, features, config), key=lambda one: one.start)


def _without_fragments(
    cuts: list[Found], gradual: list[Boundary], features: FrameFeatures, config: ShotConfig
) -> list[Boundary]:
    """The cuts, less those that leave a fragment shorter than `min_shot_s` on one side.

    Such a fragment is more often a glitch or a stutter than a shot. It stands when the pictures are wholly unlike.
    Gradual boundaries and the ends of the film cannot be dropped; of two cuts the better one stays.
    """
    time_s = features.time_s
    fixed = [time_s[0], time_s[-1] + _frame_s(features)]
    fixed += [time_s[min(frame, len(time_s) - 1)] for one in gradual for frame in (one.start, one.end)]
    kept: list[Boundary] = []
    for cut in sorted(cuts, key=lambda cut: (not cut.unlike, -cut.evidence)):
        frame = cut.boundary.start
        near = fixed + [time_s[other.start] for other in kept]
        is_fragment = min(abs(time_s[frame] - other) for other in near) < config.min_shot_s - 1e-6
        if not is_fragment or (cut.unlike and 2 <= frame <= len(time_s) - 2):
            kept.append(cut.boundary)
    return kept


def _is_fade(boundary: Boundary, changes: Changes) -> bool:
    """Whether one side of a dissolve is a nearly even picture, so that it is a fade that did not get quite flat."""
    sides = changes.contrast[[max(boundary.start - 1, 0), min(boundary.end, len(changes.contrast) - 1)]]
    return bool(sides.min() < 0.15 * sides.max())


def _merge(boundaries: list[Boundary]) -> list[Boundary]:
    """What all but touches a fade becomes one with it. Dissolves do not overlap as they come."""
    merged: list[Boundary] = []
    for one in sorted(boundaries, key=lambda one: one.start):
        if merged and one.start <= merged[-1].end + 3 and "fade" in (one.kind, merged[-1].kind):
            last = merged.pop()
            one = Boundary("fade", last.start, max(last.end, one.end))
        merged.append(one)
    return merged
