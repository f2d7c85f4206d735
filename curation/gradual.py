"""Fades and dissolves.

In: the thumbnails of a film and their `Changes`. Out: fades as `Boundary`, dissolves as `Found`.

A fade is a run of flat frames (black, white, any even color) with the ramps of contrast on its sides.

A dissolve is a straight, even walk from one picture to another, while camera motion leads along crooked paths. And
while two pictures are mixed the frame loses contrast: for frames (1-a) P + a Q the spatial variance is
(1-a) var P + a var Q - a (1-a) |P-Q|^2, a sagging curve (A. Alattar, "Detecting and compressing dissolve regions in
video sequences with a DVI multimedia image compression algorithm", ISCAS 1993). Both are tested on windows of several
lengths around every frame, from the distances of each frame to those that follow it.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from curation.boundaries import Boundary, Found, ShotConfig
from curation.signals.change import (
    BLOCK,
    LUMA_SHAPE,
    LUMA_SIZE,
    PLANE_SIZES,
    THUMBNAIL_SIZE,
    Changes,
    FrameFeatures,
    distances,
    is_moved,
)

_WINDOWS = (8, 11, 15, 20, 27, 37, 50, 68)  # frames from the last old picture to the first new one
_RATE = 25.0  # frames per second at which dissolves are searched; faster films are thinned out
_MIN_MIXED = 5  # frames; anything shorter is a blurred cut
_CUT_ADVANTAGE = 2.0
_PAN_REACH = 6  # pixels of the thumbnail


def find_flat(changes: Changes, config: ShotConfig) -> np.ndarray:
    """Which frames are one even color: bool [N].

    A sheet of paper or the sky can be quite even too, but is seldom black or white: other levels must be stricter.
    """
    level = changes.means[:, 0]
    limit = np.where((level < 24) | (level > 231), config.flat_contrast, 0.25 * config.flat_contrast)
    return changes.contrast < limit


# --------------------------------------------------------------------------------------------------- fades


def find_fades(features: FrameFeatures, changes: Changes, config: ShotConfig) -> list[Boundary]:
    """Runs of flat frames with their ramps, in order; ramps may overlap. A film that is flat throughout has none."""
    contrast, flat = changes.contrast, find_flat(changes, config)
    if flat.all():
        return []
    longest = int(np.ceil(config.max_ramp_s / features.frame_s))
    flash_frames = max(2, round(config.flash_s / features.frame_s))
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False)).tolist()
    fades = []
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        start = first - ramp(contrast[max(first - longest, 0) : first + 1][::-1])
        stop = end + ramp(contrast[end - 1 : end + longest])
        if end - first > flash_frames or not _is_interruption(features.thumbnails, start - 1, stop):
            fades.append(Boundary("fade", start, stop))
    return fades


def ramp(contrast: np.ndarray) -> int:
    """How many frames next to a flat run belong to the fade.

    contrast: [n], counted away from the run and starting with its last flat frame. In a fade the contrast grows in
    proportion to how much of the picture shows, and levels off where the picture stands. After a hard cut from
    black it has levelled off at once: no frames.
    """
    growth = contrast[1:] - contrast[0]
    if not len(growth):
        return 0
    top = 0
    while top + 1 < len(growth):
        ahead = growth[top + 1 : top + 4]
        speed, usual_speed = (ahead.max() - growth[top]) / len(ahead), growth[top] / (top + 1)
        if speed < 0.25 * usual_speed:
            break
        top += 1
    return int(np.argmax(growth[: top + 1] >= 0.95 * growth[: top + 1].max()))


def _is_interruption(thumbnails: np.ndarray, before: int, after: int) -> bool:
    """Whether frame `after` shows what frame `before` showed: a flash, not a fade. False at the ends of the film."""
    if before < 0 or after >= len(thumbnails):
        return False
    old = thumbnails[before].astype(np.float32)
    return bool(distances(thumbnails[after : after + 1], old)[0] < 0.35 * old[:LUMA_SIZE].std())


# ----------------------------------------------------------------------------------------------- dissolves


def find_dissolves(features: FrameFeatures, changes: Changes, cuts: list[Found], fades: list[Boundary], config: ShotConfig) -> list[Found]:
    """Dissolves in order of time, not overlapping each other, `fades` or the better ones of `cuts`."""
    stride = max(1, round(1 / _RATE / features.frame_s))
    pictures, means, power = features.thumbnails[::stride], changes.means[::stride], changes.contrast[::stride] ** 2
    # What a dissolve has to beat to have a frame.
    claim = np.full(len(pictures), -np.inf)
    for cut in cuts:
        claim[cut.boundary.start // stride] = cut.evidence + _CUT_ADVANTAGE
    for fade in fades:
        claim[max(fade.start // stride - 2, 0) : -(-fade.end // stride) + 2] = np.inf
    windows = [window for first in range(0, len(pictures), BLOCK) for window in _windows(pictures, means, power, first, config)]
    found = []
    for evidence, first, last in sorted(windows, reverse=True):
        if claim[first : last + 1].max() >= evidence:
            continue
        start, end = mixed_frames(pictures, first, last, *_room(claim, first, last))
        claim[start:end] = np.inf
        is_long = end - start >= _MIN_MIXED
        if is_long and not is_pan(pictures, first, last) and not is_overlay(pictures[first], pictures[last]):
            # Between two frames that were looked at there may be mixed ones that were not.
            boundary = Boundary("dissolve", (start - 1) * stride + 1, min(end * stride, features.num_frames))
            found.append(Found(boundary, evidence, unlike=True))
    return sorted(found, key=lambda one: one.boundary.start)


def _windows(
    pictures: np.ndarray, means: np.ndarray, power: np.ndarray, begin: int, config: ShotConfig
) -> Iterator[tuple[float, int, int]]:
    """(evidence, last old frame, first new frame) of each window that starts in one block and looks like a dissolve.

    pictures: uint8 [N, THUMBNAIL_SIZE]; means: [N, 3]; power: [N], the squared contrast.

    The evidence is a logistic regression with rounded weights, fitted to windows with and without a dissolve from
    spliced reels of seeds 1 to 4, and from mixed thumbnails with dissolves of 6 to 72 frames, linear or eased.
    """
    stop = min(begin + BLOCK + _WINDOWS[-1], len(pictures))
    distance = distance_band(pictures[begin:stop], _WINDOWS[-1])
    means, power = means[begin:stop], power[begin:stop]
    for length in _WINDOWS:
        first = np.arange(max(0, min(BLOCK, stop - begin - length)))
        far = distance[first, length]
        quarters = [round(length * k / 4) for k in range(5)]
        legs = np.stack([distance[first + a, b - a] for a, b in itertools.pairwise(quarters)])
        # Most windows fail here, at small cost.
        likely = (far > config.min_dissolve_distance) & (legs.sum(axis=0) < 2.3 * far) & (legs.max(axis=0) < 0.7 * far)
        first, far, legs = first[likely], far[likely], legs[:, likely]
        last = first + length
        apart = np.maximum(far**2 - (means[last] - means[first]) ** 2 @ PLANE_SIZES / THUMBNAIL_SIZE, 1)
        covariance = (power[first] + power[last] - apart) / 2
        likeness = covariance / np.maximum(np.sqrt(power[first] * power[last]), 1)
        evidence = (
            3.0 * np.log2(np.minimum(far, 64))
            - 3.5 * legs.sum(axis=0) / far
            - 5.5 * legs.max(axis=0) / far
            - 5.5 * np.minimum(np.abs(sag(power, first, length) / apart - 1), 1)
            + 5.0 * (1 - np.maximum(likeness, 0))
            - 9.4
            - config.dissolve_evidence
        )
        # One step that goes most of the way is a cut with motion around it; wild shots make short windows uneven.
        largest_step = np.max([distance[first + k, 1] for k in range(length)], axis=0)
        for k in np.flatnonzero((evidence > 0) & (largest_step < (0.4 + 4 / length) * far)):
            yield float(evidence[k]), int(begin + first[k]), int(begin + last[k])


def sag(power: np.ndarray, first: np.ndarray, length: int) -> np.ndarray:
    """How far the variance sags inside each window: the |P-Q|^2 of a dissolve that would sag as much, [W].

    power: [N], spatial variance of the frames; first: [W], where the windows start. Least squares over seven frames.
    """
    inner = np.unique(np.round(np.linspace(0, length, 9)[1:-1]).astype(int))[:, None]
    share = inner / length
    missing = (1 - share) * power[first] + share * power[first + length] - power[first + inner]
    weight = share * (1 - share)
    return np.asarray((weight * missing).sum(axis=0) / (weight**2).sum())


def distance_band(pictures: np.ndarray, reach: int) -> np.ndarray:
    """RMS distance of each frame to itself and the `reach` frames after it: float32 [n, reach + 1], inf past the end.

    pictures: uint8 [n, THUMBNAIL_SIZE]. Made of matrix products, as |p - q|^2 = |p|^2 + |q|^2 - 2 p q.
    """
    values = pictures.astype(np.float32) - 128
    squares = np.einsum("ij,ij->i", values, values)
    band = np.full((len(values), reach + 1), np.inf, np.float32)
    for begin in range(0, len(values), reach + 1):
        rows, columns = slice(begin, begin + reach + 1), slice(begin, begin + 2 * reach + 1)
        tile = squares[rows, None] + squares[None, columns] - 2 * values[rows] @ values[columns].T
        for row in range(len(tile)):
            part = tile[row, row : row + reach + 1]
            band[begin + row, : len(part)] = part
    return np.sqrt(np.maximum(band, 0) / THUMBNAIL_SIZE)


def _room(claim: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The frames begin .. stop-1 around a window that nothing else claims, up to half its length on each side."""
    margin = (last - first) // 2
    begin, stop = max(first - margin, 0), min(last + margin + 1, len(claim))
    before = np.flatnonzero(claim[begin:first] > -np.inf)
    after = np.flatnonzero(claim[last + 1 : stop] > -np.inf)
    return (begin + int(before[-1]) + 1 if len(before) else begin, last + 1 + int(after[0]) if len(after) else stop)


def mixed_frames(pictures: np.ndarray, first: int, last: int, begin: int, stop: int) -> tuple[int, int]:
    """Where the dissolve around the window first .. last starts and ends, as in `Boundary`, within begin .. stop-1.

    The frames are projected on the line from one picture to the other. The inner part of the window gives the speed;
    frames outside belong to the dissolve as long as they keep up a good part of it.
    """
    values = pictures[begin:stop].astype(np.float32)
    line = values[last - begin] - values[first - begin]
    share = (values - values[first - begin]) @ line / (line @ line)
    inner = np.arange(first - begin, last - begin + 1)
    inner = inner[(share[inner] > 0.15) & (share[inner] < 0.85)]
    if len(inner) < 2:
        return first + 1, last
    speed, offset = np.polyfit(inner, share[inner], 1)
    speed = max(speed, 0.5 / (last - first))
    low = int(np.clip(np.floor(-offset / speed), 0, len(share) - 2))
    high = int(np.clip(np.ceil((1 - offset) / speed), low + 1, len(share) - 1))
    while low >= 2 and (share[low] - share[low - 2]) / 2 > 0.4 * speed:
        low -= 1
    while high + 2 < len(share) and (share[high + 2] - share[high]) / 2 > 0.4 * speed:
        high += 1
    return begin + low + 1, begin + high


def is_pan(pictures: np.ndarray, first: int, last: int) -> bool:
    """Whether the window first .. last is mostly one picture that moves; blurred ones can look like a dissolve."""
    looks = np.linspace(first, last, 5).round().astype(int)
    luma = pictures[looks, :LUMA_SIZE].reshape(-1, *LUMA_SHAPE)
    return sum(is_moved(old, new, _PAN_REACH) for old, new in itertools.pairwise(luma)) >= 3


def is_overlay(old: np.ndarray, new: np.ndarray) -> bool:
    """Whether most of the picture stays as it is: a title or logo comes or goes, and the shot goes on."""
    change = np.abs(new[:LUMA_SIZE].astype(np.float32) - old[:LUMA_SIZE])
    return bool(np.mean(change > 0.25 * np.sqrt(np.mean(change**2))) < 0.4)
