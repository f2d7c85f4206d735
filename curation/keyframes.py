"""Keyframes: a frame as a small JPEG picture, and which frames of a clip to keep."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import av
import cv2
import numpy as np

from curation.frames import FrameReader, MediaError, planes, upright
from curation.probe import StreamFacts
from curation.signals.planes import full_range_chroma, full_range_luma, resize_down, to_bgr

AT_LEAST = 3
"""Keyframes of every clip that has as many frames."""
_SEEK_S = 10.0  # about the distance of two random-access points
_EVERY_S = 4.0  # longer clips get one more for each further stretch of this length


class Candidate(Protocol):
    """Anything that stands for a frame and knows how sharp it is."""

    @property
    def frame(self) -> int: ...
    @property
    def sharpness(self) -> float: ...


Kept = TypeVar("Kept", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Still:
    """An encoded picture."""

    jpeg: bytes
    width: int
    height: int


def encode(frame: av.VideoFrame, facts: StreamFacts, side: int, quality: int) -> Still:
    """A frame as JPEG in display orientation with square pixels, at most `side` pixels long and never enlarged."""
    luma, *chroma = (upright(plane, facts.rotation) for plane in planes(frame))
    height, width = luma.shape
    ratio = facts.sample_aspect_ratio
    wide, high = (width * ratio, float(height)) if ratio >= 1 else (float(width), height / ratio)
    scale = min(1.0, side / max(wide, high))
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    half = max(1, size[0] // 2), max(1, size[1] // 2)
    is_full = facts.is_full_range
    u, v = [full_range_chroma(resize_down(plane, half), is_full) for plane in chroma] or [np.full(half[::-1], 128, np.uint8)] * 2
    done, jpeg = cv2.imencode(".jpg", to_bgr(full_range_luma(resize_down(luma, size), is_full), u, v), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV cannot encode JPEG"
    return Still(jpeg.tobytes(), *size)


def choose(candidates: Sequence[Kept], start_frame: int, num_frames: int, seconds: float) -> list[Kept]:
    """The sharpest candidate in each of at least three equal parts of a clip, in time order.

    Where a part has none, the sharpest left over elsewhere takes its place.
    """
    parts = max(AT_LEAST, int(seconds / _EVERY_S) + 1)
    best: dict[int, Kept] = {}
    for candidate in candidates:
        part = (candidate.frame - start_frame) * parts // num_frames
        if part not in best or candidate.sharpness > best[part].sharpness:
            best[part] = candidate
    taken = {candidate.frame for candidate in best.values()}
    rest = sorted((candidate for candidate in candidates if candidate.frame not in taken), key=lambda candidate: -candidate.sharpness)
    return sorted([*best.values(), *rest[: parts - len(best)]], key=lambda candidate: candidate.frame)


def missing(taken: Sequence[int], start_frame: int, num_frames: int) -> list[int]:
    """Frames to add, evenly spread over a clip, where fewer than three are `taken`."""
    free = [frame for frame in range(start_frame, start_frame + num_frames) if frame not in set(taken)]
    count = min(AT_LEAST - len(taken), len(free))
    return [free[(2 * number + 1) * len(free) // (2 * count)] for number in range(count)]


def read_again(uri: str, frames: Sequence[int], times_s: Sequence[float]) -> dict[int, av.VideoFrame]:
    """Frames by number that the pass did not keep, without those that cannot be reached a second time.

    Frames not far from each other are read together; between distant ones the file is sought.
    """
    found: dict[int, av.VideoFrame] = {}
    starts = [0, *(index for index in range(1, len(frames)) if times_s[index] - times_s[index - 1] > _SEEK_S), len(frames)]
    for start, end in pairwise(starts):
        with suppress(MediaError):
            found |= zip(frames[start:end], FrameReader(uri).frames(frames[start:end], times_s[start:end]), strict=True)
    return found
