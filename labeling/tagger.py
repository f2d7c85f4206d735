"""What a tagger is: one tag group, measured from what a dataset already holds, without its videos.

A tagger gets clips with their stored keyframes and gives a value per tag and clip. `labeling.tagging` runs taggers over shards.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np

from schemas.tags import TagSpec


@dataclass(frozen=True)
class Keyframe:
    """One stored keyframe of a clip."""

    time_s: float
    frame: int
    jpeg: bytes

    @cached_property
    def bgr(self) -> np.ndarray:
        """The picture, uint8 [H, W, 3]; its longer side is 512, or that of a smaller source. Raises ValueError for a broken JPEG."""
        picture = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"keyframe at {self.time_s:.3f} s is no JPEG that can be read")
        return picture


@dataclass(frozen=True)
class ClipView:
    """All that a tagger may know of a clip."""

    clip: Mapping[str, Any]  # its row of clips/
    video: Mapping[str, Any]  # its source's row of videos/
    keyframes: tuple[Keyframe, ...]  # in time order
    tags: Mapping[str, Any] = field(default_factory=dict)  # the tags that the tagger `reads`, those not measured left out
    caption: str | None = None  # caption_short of the tagger's `captioner`
    embeddings: np.ndarray | None = None  # float32 [number of keyframes, D], unit length, of the tagger's `embedder`

    @property
    def clip_id(self) -> str:
        return self.clip["clip_id"]


def active_picture(bgr: np.ndarray, clip: Mapping[str, object]) -> np.ndarray:
    """A clip's keyframe uint8 [H, W, 3] without its black bars: the crop of the row of clips/, scaled and rounded inward."""
    sides = []
    for start, size, whole, pixels in (("crop_y", "crop_h", "height", bgr.shape[0]), ("crop_x", "crop_w", "width", bgr.shape[1])):
        first, length, full = (int(str(clip[column])) for column in (start, size, whole))
        low, high = -(-first * pixels // full), (first + length) * pixels // full
        sides.append(slice(low, max(high, low + 1)))
    return bgr[tuple(sides)]


class Embedder(Protocol):
    """An image encoder. A frozen dataclass: its fields are its configuration."""

    name: str  # folder below embeddings/
    version: str  # of weights and preprocessing; another one makes stored embeddings outdated
    size: int  # D

    def open(self) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        """Load the model, in the worker, and return what maps pictures, each uint8 [H, W, 3] BGR, to float32 [N, D] of unit length."""
        ...


class Tagger(Protocol):
    """A tag group. A frozen dataclass: its fields are its configuration."""

    group: str  # folder below tags/
    tags: tuple[TagSpec, ...]  # its columns
    reads: tuple[str, ...]  # tags of other groups that it computes from
    embedder: Embedder | None  # whose embeddings it computes from
    captioner: str | None  # whose captions it computes from

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        """Load what is needed, in the worker, and return what maps a batch of clips to a mapping each, tag name -> value.

        A value that could not be measured is None or left out.
        """
        ...


class TaggerError(Exception):
    """A tagger that cannot run here; the message names what is missing, where to get it and the flag that gives it."""
