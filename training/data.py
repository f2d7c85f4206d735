"""Pixels for training: a draw (row of the manifest, window in its span) and a shape come in, a clip with its conditions goes out.

Frames come from `curation.frames`, so they are the pixels that were scored; in 62 files tried, of fixed and variable
rate, they are frame-exact. decord is not used. Of 73 files it read 60 the same way; after a seek it gave other frames
in 3, of which 2 are upright 8-bit 4:2:0 with the right frame count, so that no rule over metadata sets them apart; it
counted frames differently in 2, gave other pixels at 10 bits and could not read 7. Its time was 0.91 of ours in the
median, which its import of 0.4 s uses up.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.types as pt
import torch
from torch import Tensor

from curation.frames import FrameReader, MediaError
from training.config import DataConfig, TrainError, nearest
from training.dit import Conditions
from training.sampler import Draw, Sampler
from training.shapes import Shape, Shapes
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
class Batch:
    """B clips: each of `x` [C, T, H, W] is the pixels of one in [-1, 1], or its latents; they may differ in shape."""

    x: tuple[Tensor, ...]
    conditions: Conditions


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
        self._failed: dict[tuple[int, int, Shape], str] = {}
        self.skipped: dict[str, str] = {}

    def first(self, sampler: Sampler, shapes: Shapes, count: int) -> list[Clip]:
        """The first `count` readable clips of a run, or all of its first epoch. Raises TrainError where that holds none."""
        clips: list[Clip] = []
        for k in range(sampler.epoch_length):
            clips += self.readable(sampler, shapes, (k,))
            if len(clips) == count:
                break
        if not clips:
            raise self.nothing_readable()
        return clips

    def nothing_readable(self) -> TrainError:
        """The error of a manifest of which no clip could be read."""
        return TrainError(f"no clip of the manifest can be trained on; one of them: {next(iter(self._failed.values()))}")

    def readable(self, sampler: Sampler, shapes: Shapes, draws: Sequence[int]) -> list[Clip]:
        """The clips of these draws, in their order and shapes, without those that cannot be read."""
        clips = []
        for draw in map(sampler.draw, draws):
            with suppress(SkippedClip):
                clips.append(self.load(draw, shapes.of(draw.row)))
        return clips

    def load(self, draw: Draw, shape: Shape) -> Clip:
        """The clip of one draw. Raises SkippedClip, the same way each time."""
        row, window = self._rows[draw.row], int(draw.choice * self._config.windows_per_clip)
        place = (draw.row, window, shape)
        if place not in self._failed:
            try:
                clip = self._memory.get(place, lambda: self._read(draw.row, window, shape), lambda clip: clip.pixels.nbytes)
                return replace(clip, text=choose_text(row, self._config.caption_lengths, draw.text_choice))
            except (MediaError, SkippedClip) as error:
                code = f"{error.code.value}: " if isinstance(error, MediaError) else ""
                self._failed[place] = f"{row['clip_id']} of {row['uri']}: {code}{error}"
                if row["clip_id"] not in self.skipped:
                    self.skipped[row["clip_id"]] = f"{code}{error}"
                    self._say(f"skipped {self._failed[place]}")
        raise SkippedClip(self._failed[place])

    def _read(self, index: int, window: int, shape: Shape) -> Clip:
        row, windows = self._rows[index], self._config.windows_per_clip
        position = window / (windows - 1) if windows > 1 else 0.5
        numbers = choose_frames(row["num_frames"], shape.frames, shape.stride, position)
        times_s = row["start_s"] + numbers / (shape.fps * shape.stride)
        frames = FrameReader(row["uri"], self._threads).read((row["start_frame"] + numbers).tolist(), times_s.tolist())
        if frames.shape[1:3] != (row["height"], row["width"]):
            raise SkippedClip(f"its frames are {frames.shape[2]}x{frames.shape[1]}, not {row['width']}x{row['height']}")
        x, y, width, height = (row[name] for name in ("crop_x", "crop_y", "crop_w", "crop_h"))
        pixels = np.stack([resize(frame, shape.width, shape.height) for frame in frames[:, y : y + height, x : x + width]])
        return Clip(row["clip_id"], window, pixels, shape.fps, tuple(float(tag[index]) for tag in self._tags))


def choose_frames(available: int, count: int, stride: float, position: float) -> np.ndarray:
    """The increasing numbers of `count` of `available` frames, one in `stride` >= 1, int64 [count].

    `position` in [0, 1] places them in the span. `available` must be more than stride * (count - 1).
    """
    start = position * max(available - 1 - stride * (count - 1), 0.0)
    return np.floor(start + stride * np.arange(count) + 1e-9).astype(np.int64)


def resize(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale the whole of uint8 [H, W, 3] to width x height."""
    smaller = width * height < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


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


def make_batch(clips: Sequence[Clip], x: Callable[[Clip], Tensor], frames_per_latent: int) -> Batch:
    """One batch of at least one clip; `x` gives its pixels or latents [C, T, H, W]."""
    latent_fps = torch.tensor([clip.fps / frames_per_latent for clip in clips], dtype=torch.float32)
    tags = torch.tensor([clip.tags for clip in clips], dtype=torch.float32).reshape(len(clips), -1)
    return Batch(tuple(map(x, clips)), Conditions(tuple(clip.text for clip in clips), latent_fps, tags))
