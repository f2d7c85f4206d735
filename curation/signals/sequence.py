"""How a clip's frames follow each other: stills, repetition, speed, uneven timing, remains of a transition.

From thumbnails, the numbers of each frame, and times. Thumbnails are luma, uint8 [N, 24, 32]; differences of thumbnails are RMS, in levels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from curation.signals.change import rms
from curation.signals.temporal import STILL

_HOLD_S = 0.2  # how long a picture stands to count half as a held one
_ROUNDING = 0.5  # energy that rounding three thumbnails to whole levels adds to their second difference
_CLEARLY_REPEATED = 0.25
_LEAST_BEND = 0.03  # energy of second differences above that from which their rhythm can be told
_RHYTHMS = (2, 3, 4, 5, 6)
_FAST = 6.0  # abrupt change of contrast per second that counts as 0.5; 95 % of the corpus's camera clips stay below
_COMPARED = 256  # thumbnails compared with each other, at most
_REPEAT_NOISE = 0.4  # distance of two encodings of one frame, in levels
_AWAY = 2.0  # levels that the picture changes by before it can come back
_RESIDUE_S = 0.3
_TICK_S = 0.0011  # rounding of times in containers that count milliseconds


@dataclass(frozen=True, slots=True)
class Repetition:
    """Frames of a clip that were shown before, as shares of its frames."""

    again: float  # in any direction
    backward: float  # in the opposite order alone


def repetition(thumbnails: np.ndarray, start: int, stop: int) -> Repetition:
    """Frames start ... stop-1 that came before, in the clip or in as many frames of its source before it.

    A frame came before where five frames around it equal five around an earlier one, closer than the clip's own frames follow
    each other, and the picture was another one in between. thumbnails: uint8 [N, 24, 32] of the whole source.
    """
    first = max(0, 2 * start - stop)
    stride = -(-(stop - first) // _COMPARED)
    count = len(range(first, stop, stride))
    own = count - len(range(start, stop, stride))
    if count - own < 6:
        return Repetition(0.0, 0.0)
    points = thumbnails[first:stop:stride].reshape(count, 12, 2, 16, 2).mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)
    products = points @ points.T
    squares = np.diagonal(products)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0) / points.shape[1])
    steps = np.diagonal(apart, 1)
    slowest = np.minimum(np.append(steps, steps[-1]), np.append(steps[0], steps))
    away = np.maximum.accumulate(np.tril(apart, -1)[:, ::-1], axis=1)[:, ::-1]  # [i, j]: the farthest from i of what is in j ... i
    limit = np.where(np.tri(count, k=-2, dtype=bool) & (away > _AWAY), np.minimum(0.2 * away, (_REPEAT_NOISE + 0.6 * slowest)[:, None]), 0)
    along = np.eye(5, dtype=np.float32) / 5
    forward, backward = (cv2.filter2D(apart, -1, way, borderType=cv2.BORDER_REPLICATE) < limit for way in (along, along[::-1]))
    return Repetition(
        again=float((forward | backward)[own:].any(axis=1).mean()),
        backward=float((backward & ~forward)[own:].any(axis=1).mean()),
    )


def speed_up(thumbnails: np.ndarray, seconds: np.ndarray) -> float | None:
    """Suspicion that a clip was sped up: 0-1. None for fewer than 6 frames.

    Change of contrast per second, times how little of a frame's change goes on in the next one: frames left out make motion both
    large and abrupt. Fast action looks the same. seconds: [N-1], frame durations.
    """
    if len(thumbnails) < 6:
        return None
    points = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    change = np.diff(points, axis=0)
    step, turn = rms(change), rms(np.diff(change, axis=0))
    abrupt = float(np.median(turn) / (np.median(step[1:] + step[:-1]) + 0.6))
    rate = float(np.median(step) / np.median(seconds)) / (float(points.std(axis=1).mean()) + 1)
    return (abrupt * rate) ** 2 / ((abrupt * rate) ** 2 + _FAST**2)


def slow_motion(thumbnails: np.ndarray, steps: np.ndarray) -> float | None:
    """Share of frames made up to slow a clip down: repeats of the one before, or blends of their neighbors. 0-1.

    Blends lie half way between their neighbors, so motion bends at true frames alone, in a regular rhythm. Footage of a fast
    camera, and frames interpolated along the motion, are not noticed. None where too little moves.
    steps: [N-1] mean absolute differences of neighbors, in levels.
    """
    if len(thumbnails) < 12:
        return None
    repeated, blended = _repeated(steps), _blended(thumbnails)
    return max(repeated, blended) if blended is not None else repeated if repeated > _CLEARLY_REPEATED else None


def _repeated(steps: np.ndarray) -> float:
    largest = np.lib.stride_tricks.sliding_window_view(np.pad(steps, 4, mode="reflect"), 9).max(axis=1)
    return float(((largest > 0.3) & (steps < 0.15 * largest)).mean())


def _blended(thumbnails: np.ndarray) -> float | None:
    points = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    bend = rms(points[2:] - 2 * points[1:-1] + points[:-2]) ** 2 - _ROUNDING
    if bend.mean() < _LEAST_BEND:
        return None
    share = 0.0
    for rhythm in _RHYTHMS:
        whole = len(bend) // rhythm * rhythm
        if whole < 4 * rhythm:
            break
        around = np.convolve(
            np.pad(np.maximum(bend, 0), rhythm, mode="reflect"), np.full(2 * rhythm + 1, 1 / (2 * rhythm + 1)), mode="valid"
        )
        phases = np.sort(np.median((bend / (around + 0.05))[:whole].reshape(-1, rhythm), axis=0))
        if phases[-1] > 0.3:
            contrast = 1 - max(float(phases[:-1].mean() / phases[-1]), 0.0)
            share = max(share, (rhythm - 1) / rhythm * contrast**2)
    return share


def slideshow(steps: np.ndarray, fps: float) -> float:
    """How much a clip is still pictures that change at once: 0-1. A proxy.

    The share of frames that stand still, weighted by how long, times the share of all change that comes in one frame between
    still ones; a clip that is one still picture counts in full. steps: [N-1] mean absolute differences, in levels.
    """
    if len(steps) < 3:
        return 0.0
    still = steps < STILL
    if still.all():
        return 1.0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]]).astype(np.int8)))
    runs = edges[1::2] - edges[::2]
    held = float((runs * runs / (runs + _HOLD_S * fps)).sum() / len(steps))
    beside = np.maximum(np.append(0, steps[:-1]), np.append(steps[1:], 0))
    alone = ~still & (beside < 0.25 * steps)
    return held * float(steps[alone].sum() / steps[~still].sum())


def uneven(steps: np.ndarray, seconds: np.ndarray) -> float | None:
    """How unevenly a clip runs, 0-1: in time stamps, or in motion that stands for a frame and then makes up for it.

    steps: [N-1] mean absolute differences, in levels; seconds: [N-1] frame durations. None for fewer than 6 frames.
    """
    if len(steps) < 5:
        return None
    usual = float(np.median(seconds))
    timing = float((np.maximum(np.abs(seconds - usual) - _TICK_S, 0) / usual).mean())
    around = cv2.blur(steps[None].astype(np.float32), (9, 1))[0]
    ratio = steps / np.maximum(around, STILL)
    stops, jumps = np.clip(1 - 2 * ratio, 0, 1) * (around > STILL), np.clip(ratio - 1, 0, 1)
    beside = np.maximum(np.append(0, jumps[:-1]), np.append(jumps[1:], 0))
    return min(1.0, timing + float(np.minimum(stops, beside).mean()))


def transition_residue(thumbnails: np.ndarray, seconds: np.ndarray) -> float | None:
    """How much more the clip changes at its beginning or end than within, and straight to another picture, as in a dissolve: 0-1.

    0.5 where it is twice as much as nearly anywhere else in the clip. None for clips shorter than three times 0.3 s.
    seconds: [N-1], frame durations.
    """
    reach = max(2, round(_RESIDUE_S / float(np.median(seconds)))) if len(seconds) else 2
    if len(thumbnails) < 3 * reach:
        return None
    points = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    way = np.append(0, np.cumsum(rms(np.diff(points, axis=0))))
    change, way = rms(points[reach:] - points[:-reach]), way[reach:] - way[:-reach]
    steady = change * (change / (way + 0.5)) ** 2  # what goes straight to another picture; motion takes detours
    usual = float(np.percentile(steady[reach:-reach] if len(steady) > 2 * reach + 2 else steady[1:-1], 90))
    excess = float(max(steady[0], steady[-1])) / (usual + 2.0)
    return excess**2 / (excess**2 + 4)


def start_end_likeness(luma: np.ndarray, chroma: np.ndarray) -> float:
    """How much the first tenth of a clip looks like the last: 0-1, 0.5 where they differ by half their contrast. A proxy.

    luma: uint8 [N, 24, 32]; chroma: uint8 [N, 2, 12, 16].
    """
    part = max(1, len(luma) // 10)
    first, last = (
        np.concatenate([luma[span].mean(axis=0, dtype=np.float32).ravel(), chroma[span].mean(axis=0, dtype=np.float32).ravel()])
        for span in (slice(None, part), slice(-part, None))
    )
    ends = luma[:part].astype(np.float32), luma[-part:].astype(np.float32)
    contrast = float(np.mean([end.std() for end in ends])) + 4
    distance = float(np.sqrt(np.mean((first - last) ** 2))) / contrast
    return 1 / (1 + 4 * distance**2)
