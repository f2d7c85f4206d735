"""Pixels for training: a draw (row of the manifest, window in its span) comes in, a clip with its conditions goes out.

Frames come from `curation.frames`, so they are the pixels that were scored; in 62 files tried, of fixed and variable
rate, they are frame-exact. decord is not used. Of 73 files it read 60 the same way; after a seek it gave other frames
in 3, of which 2 are upright 8-bit 4:2:0 with the right frame count, so that no rule over metadata sets them apart; it
counted frames differently in 2, gave other pixels at 10 bits and could not read 7. Its time was 0.91 of ours in the
median, which its import of 0.4 s uses up.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import torch
from torch import Tensor

from curation.frames import FrameReader, MediaError
from training.config import DataConfig, TrainError, nearest
from training.dit import Conditions
from training.sampler import Draw, Sampler
from training.texts import choose_text, has_texts

Made = TypeVar("Made")


class SkippedClip(Exception):
    """A clip that cannot be trained on; the message is the reason."""


@dataclass(frozen=True)
class Clip:
    """One window of a clip: `pixels` uint8 [T, H, W, 3] RGB at `fps`; `tags` are quantiles, nan where unknown; `text` is its draw's."""

    clip_id: str
    window: int
    pixels: np.ndarray
    fps: float
    tags: tuple[float, ...]
    text: str = ""


@dataclass(frozen=True)
class FrameSpan:
    """Which frames of a source make a window: their increasing `numbers`, and the rate they are at."""

    numbers: np.ndarray
    fps: float


@dataclass(frozen=True)
class Batch:
    """B clips of one shape: `x` [B, C, T, H, W] is their pixels in [-1, 1], or their latents."""

    x: Tensor
    conditions: Conditions
    clip_ids: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """Clips in the order drawn, and the number of the next draw."""

    clips: tuple[Clip, ...]
    next_k: int


class Memory:
    """Values by key, up to so many bytes; the least recently used leave first."""

    def __init__(self, max_bytes: float):
        self._max_bytes, self._bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Made], size: Callable[[Made], int]) -> Made:
        """The value of a key, made where it is not there."""
        if key not in self._values:
            value = make()
            self._values[key] = (value, size(value))
            self._bytes += size(value)
            while self._bytes > self._max_bytes and len(self._values) > 1:
                self._bytes -= self._values.popitem(last=False)[1][1]
        self._values.move_to_end(key)
        return self._values[key][0]  # type: ignore[return-value]


class ClipSource:
    """Reads clips of a manifest. What cannot be read is skipped, and stands in `skipped` as clip_id -> reason."""

    def __init__(self, rows: pa.Table, config: DataConfig, threads: int = 1, say: Callable[[str], None] = print):
        self._rows = rows.to_pylist()
        self._config, self._threads, self._say = config, threads, say
        self._tags = [tag_quantiles(rows, tag) for tag in config.condition_tags]
        if not has_texts(rows, config.caption_lengths):
            say("the manifest holds no captions: every text is empty")
        self._memory = Memory(config.cache_mb * 1e6)
        self._failed: dict[tuple[int, int], str] = {}
        self.skipped: dict[str, str] = {}

    def take(self, sampler: Sampler, k: int, count: int) -> Taken:
        """The next `count` readable clips from draw k on. Raises TrainError where a whole epoch has none."""
        clips: list[Clip] = []
        last_good = k
        while len(clips) < count:
            try:
                clips.append(self.load(sampler.draw(k)))
                last_good = k
            except SkippedClip as reason:
                if k - last_good >= sampler.epoch_length:
                    raise TrainError(f"no clip of the manifest can be trained on; the last one: {reason}") from reason
            k += 1
        return Taken(tuple(clips), k)

    def load(self, draw: Draw) -> Clip:
        """The clip of one draw. Raises SkippedClip, the same way each time."""
        row, window = self._rows[draw.row], int(draw.choice * self._config.windows_per_clip)
        place = (draw.row, window)
        if place not in self._failed:
            try:
                clip = self._memory.get(place, lambda: self._read(draw.row, window), lambda clip: clip.pixels.nbytes)
                return replace(clip, text=choose_text(row, self._config.caption_lengths, draw.text_choice))
            except (MediaError, SkippedClip) as error:
                code = f"{error.code.value}: " if isinstance(error, MediaError) else ""
                self._failed[place] = f"{row['clip_id']} of {row['uri']}: {code}{error}"
                if row["clip_id"] not in self.skipped:
                    self.skipped[row["clip_id"]] = f"{code}{error}"
                    self._say(f"skipped {self._failed[place]}")
        raise SkippedClip(self._failed[place])

    def _read(self, index: int, window: int) -> Clip:
        row, config = self._rows[index], self._config
        rate = row["num_frames"] / (row["end_s"] - row["start_s"]) if row["end_s"] > row["start_s"] else row["fps"]
        position = window / (config.windows_per_clip - 1) if config.windows_per_clip > 1 else 0.5
        span = choose_frames(row["num_frames"], rate, config.num_frames, config.fps, position)
        times_s = row["start_s"] + span.numbers / rate
        numbers = row["start_frame"] + span.numbers
        frames = FrameReader(row["uri"], self._threads).read(numbers.tolist(), times_s.tolist())
        if frames.shape[1:3] != (row["height"], row["width"]):
            raise SkippedClip(f"its frames are {frames.shape[2]}x{frames.shape[1]}, not {row['width']}x{row['height']}")
        x, y, width, height = (row[name] for name in ("crop_x", "crop_y", "crop_w", "crop_h"))
        size = nearest_size(width, height, config.sizes)
        pixels = np.stack([cover(frame, size) for frame in frames[:, y : y + height, x : x + width]])
        return Clip(row["clip_id"], window, pixels, span.fps, tuple(float(tag[index]) for tag in self._tags))


def long_enough(rows: pa.Table, num_frames: int) -> pa.Table:
    """The rows with as many frames as a window needs. Raises TrainError where there are none."""
    kept = rows.filter(pc.greater_equal(rows.column("num_frames"), num_frames))
    if rows.num_rows == 0:
        raise TrainError("the manifest is empty: its predicate selected no clip")
    if kept.num_rows == 0:
        raise TrainError(f"all {rows.num_rows} clips of the manifest have fewer frames than data.num_frames: {num_frames}")
    return kept


def choose_frames(available: int, source_fps: float, count: int, fps: float, position: float) -> FrameSpan:
    """`count` of `available` frames at `fps`; at the source's rate where that is lower, denser where the span is short.

    `position` in [0, 1] places the window in the span. `available` must be at least `count`; see `long_enough`.
    """
    longest = (available - 1) / max(count - 1, 1)
    stride = min(max(source_fps / fps, 1.0), longest)
    start = position * (available - 1 - stride * (count - 1))
    numbers = np.floor(start + stride * np.arange(count) + 1e-9).astype(np.int64)
    return FrameSpan(numbers, source_fps / stride)


def nearest_size(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) of the nearest aspect ratio, by its logarithm; the first of equals."""
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - math.log(width / height)))


def cover(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale uint8 [H, W, 3], in its aspect ratio, to cover (width, height), and cut what stands over on both sides."""
    width, height = size
    scale = max(width / frame.shape[1], height / frame.shape[0])
    scaled = (max(width, round(frame.shape[1] * scale)), max(height, round(frame.shape[0] * scale)))
    frame = cv2.resize(frame, scaled, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return frame[top : top + height, left : left + width]


def tag_quantiles(rows: pa.Table, tag: str) -> np.ndarray:
    """A numeric tag as the share of clips with a lower value, ties in the middle: float64 [N], nan where null."""
    if tag not in rows.column_names:
        raise TrainError(f"data.condition_tags: the manifest has no column {tag!r}; {nearest(tag, rows.column_names)}")
    kind = rows.schema.field(tag).type
    if not (pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_null(kind)):
        raise TrainError(f"data.condition_tags: {tag} is not numeric but {kind}")
    values = np.array([np.nan if value is None else float(value) for value in rows.column(tag).to_pylist()])
    known = np.sort(values[~np.isnan(values)])
    ranks = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2
    return np.where(np.isnan(values), np.nan, ranks / max(len(known), 1))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [T, H, W, 3] to float32 [3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(pixels).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_pixels(video: Tensor) -> np.ndarray:
    """float [3, T, H, W] in [-1, 1] to uint8 [T, H, W, 3]."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().numpy()


def make_batches(clips: Sequence[Clip], x: Callable[[Clip], Tensor], frames_per_latent: int) -> list[Batch]:
    """Clips as one batch per shape, so that a step may mix shapes and still see every clip drawn for it."""
    groups: dict[tuple[int, ...], list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.pixels.shape, []).append(clip)
    return [_batch(group, x, frames_per_latent) for group in groups.values()]


def _batch(clips: Sequence[Clip], x: Callable[[Clip], Tensor], frames_per_latent: int) -> Batch:
    latent_fps = torch.tensor([clip.fps / frames_per_latent for clip in clips], dtype=torch.float32)
    tags = torch.tensor([clip.tags for clip in clips], dtype=torch.float32).reshape(len(clips), -1)
    conditions = Conditions(tuple(clip.text for clip in clips), latent_fps, tags)
    return Batch(torch.stack([x(clip) for clip in clips]), conditions, tuple(clip.clip_id for clip in clips))
