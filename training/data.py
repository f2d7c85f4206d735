"""Clips for training: what a draw asks for comes in, a clip with its text goes out. What cannot be read is skipped, with its reason.

Contents are pixels, decoded from the source or from materialized clips, or latents out of a cache, as are features of the texts.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from curation.frames import MediaError
from training.conditions import Conditions, TextFeatures, draw_told
from training.config import ConditionsConfig, DataConfig
from training.pixels import Window, read_windows, window_of
from training.sampler import Sampler
from training.settings import TrainError
from training.shapes import Shape, Shapes
from training.texts import choose_text

Made = TypeVar("Made")
_ROWS = "rows.arrow"
_NEEDED = ("clip_id", "uri", "start_frame", "num_frames", "start_s", "width", "height", "crop_x", "crop_y", "crop_w", "crop_h")


@dataclass(frozen=True)
class Wanted:
    """What a draw asks for: a window of a row in a shape, and a number in [0, 1) to choose its text by."""

    row: int
    window: int
    shape: Shape
    text_choice: float


@dataclass(frozen=True, eq=False)
class Order:
    """What each draw of a stage asks for. `windows` is how many there are of a clip."""

    sampler: Sampler
    shapes: Shapes
    windows: int

    def wanted(self, k: int) -> Wanted:
        """What draw k asks for."""
        draw = self.sampler.draw(k)
        return Wanted(draw.row, int(draw.choice * self.windows), self.shapes.of(draw.row), draw.text_choice)


@dataclass(frozen=True)
class Clip:
    """One window of a clip: `content` is its pixels, uint8 [T, H, W, 3] RGB, or its latents, float [C, T', H', W'].

    `features` are those of its text, [L, W], where they are read with it.
    """

    row: int
    clip_id: str
    window: int
    content: Tensor
    fps: float
    text: str = ""
    features: Tensor | None = None


@dataclass(frozen=True)
class Read:
    """What came of some draws: clips in their order, and those that could not be read, clip_id -> reason."""

    clips: tuple[Clip, ...]
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """B clips: each of `x` [C, T, H, W] is the pixels of one in [-1, 1], or its latents; they may differ in shape.

    Of the latents of each clip the first `known_frames` int64 [B] are given to the dit, at noise level `known_level` [B].
    """

    x: tuple[Tensor, ...]
    conditions: Conditions
    known_frames: Tensor
    known_level: Tensor


class SkippedClip(Exception):
    """A clip that cannot be trained on; the message is the reason."""


class Contents(Protocol):
    """Where contents come from. Raises MediaError or SkippedClip."""

    def __call__(self, row: dict[str, Any], shape: Shape, window: Window) -> Tensor: ...


@dataclass(frozen=True)
class Pixels:
    """Contents out of videos. `threads` decode each."""

    threads: int = 1

    def __call__(self, row: dict[str, Any], shape: Shape, window: Window) -> Tensor:
        return read_windows(row, [(shape, window)], self.threads)[0]


class Rows:
    """Rows of a table, one at a time. Copies in other processes map one file, so that millions of rows are in memory once."""

    def __init__(self, table: pa.Table):
        self._table = table

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._table.slice(index, 1).to_pylist()[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_rows, (Path(self._folder.name) / _ROWS,)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        folder = tempfile.TemporaryDirectory(prefix="reelmill-")
        with pa.ipc.new_file(Path(folder.name) / _ROWS, self._table.schema) as writer:
            writer.write_table(self._table)
        return folder


def _map_rows(path: Path) -> Rows:
    return Rows(pa.ipc.open_file(pa.memory_map(str(path))).read_all())


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
    """Reads clips of a manifest, and features of their texts if told where. May be sent to other processes, whose memories begin empty."""

    def __init__(
        self, rows: pa.Table, config: DataConfig, contents: Contents, memory_mb: float, features: Callable[[str], Tensor] | None = None
    ):
        texts = [name for name in ("captions", *config.caption_lengths) if name in rows.column_names]
        self._rows, self._config, self._contents = Rows(rows.select([*_NEEDED, *texts])), config, contents
        self._features, self._memory_mb, self._failed = features, memory_mb, dict[tuple[int, int, Shape], str]()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_memory"}

    @cached_property
    def _memory(self) -> Memory:
        return Memory(self._memory_mb * 1e6)

    def first(self, order: Order, count: int) -> list[Clip]:
        """The first `count` readable clips of a run, or all of its first epoch. Raises TrainError where that holds none."""
        clips, skipped = list[Clip](), dict[str, str]()
        for k in range(order.sampler.epoch_length):
            read = self.read([order.wanted(k)])
            clips += read.clips
            skipped |= read.skipped
            if len(clips) == count:
                break
        if not clips:
            raise nothing_readable(skipped)
        return clips

    def read(self, wanted: Sequence[Wanted]) -> Read:
        """The clips that are asked for, but those that cannot be read."""
        clips, skipped = [], {}
        for one in wanted:
            try:
                clips.append(self.load(one))
            except SkippedClip as error:
                skipped[self._rows[one.row]["clip_id"]] = str(error)
        return Read(tuple(clips), skipped)

    def load(self, wanted: Wanted) -> Clip:
        """One clip. Raises SkippedClip, the same way each time."""
        row, place = self._rows[wanted.row], (wanted.row, wanted.window, wanted.shape)
        if place not in self._failed:
            try:
                clip = self._memory.get(place, lambda: self._clip(row, wanted), lambda clip: clip.content.nbytes)
                text = choose_text(row, self._config.caption_lengths, wanted.text_choice)
                return replace(clip, text=text, features=self._features(text) if self._features else None)
            except MediaError as error:
                self._failed[place] = f"{row['uri']}: {error.code.value}: {error}"
            except SkippedClip as error:
                self._failed[place] = f"{row['uri']}: {error}"
        raise SkippedClip(self._failed[place])

    def _clip(self, row: dict[str, Any], wanted: Wanted) -> Clip:
        window = window_of(row["num_frames"], wanted.shape, wanted.window, self._config.windows_per_clip)
        return Clip(wanted.row, row["clip_id"], wanted.window, self._contents(row, wanted.shape, window), wanted.shape.fps)


def nothing_readable(skipped: dict[str, str]) -> TrainError:
    """The error of a manifest of which no clip could be read."""
    clip_id, reason = next(iter(skipped.items()))
    return TrainError(f"no clip of the manifest can be trained on; one of them: {clip_id} of {reason}")


@dataclass(frozen=True, eq=False)
class BatchMaker:
    """Makes batches. `inputs` gives a clip's pixels or latents [C, T, H, W]; `bins` [rows, N] are tags.

    `texts` gives features of texts that do not come with their clips, to a dit that reads such. `controls` gives a clip's map of
    a name, [C, T', H', W'], or None where it cannot be made.
    """

    inputs: Callable[[Clip], Tensor]
    bins: np.ndarray
    frames_per_latent: int
    texts: Callable[[str], Tensor] | None = None
    controls: Callable[[Clip, str], Tensor | None] | None = None

    def __call__(self, clips: Sequence[Clip], mix: ConditionsConfig, generator: torch.Generator) -> Batch:
        """One batch of at least one clip, of which is told what `generator` draws from the shares of the mix."""
        x = tuple(map(self.inputs, clips))
        told = draw_told(mix, [each.shape[1] for each in x], self.bins.shape[1], generator)
        tags = torch.from_numpy(self.bins[[clip.row for clip in clips]].astype(np.int64))
        fps = torch.tensor([clip.fps / self.frames_per_latent for clip in clips], dtype=torch.float32)
        features = None
        if self.texts:
            each = tuple(self.texts(clip.text) if clip.features is None else clip.features for clip in clips)
            features = TextFeatures(each, self.texts(""))
        everything = Conditions(tuple(clip.text for clip in clips), fps.where(told.fps, torch.nan), tags, features)
        controls = {
            name: tuple(self.controls(clip, name) if is_told else None for clip, is_told in zip(clips, of_clips.tolist(), strict=True))
            for name, of_clips in (told.controls if self.controls else {}).items()
        }
        conditions = replace(everything.without(~told.text, ~told.tags), controls=controls)
        return Batch(x, conditions, told.known_frames, told.known_level)


def blank_batch(shape: tuple[int, int, int, int], num_tags: int, texts: Callable[[str], Tensor] | None = None) -> Batch:
    """One clip of zeros [C, T, H, W] of which nothing is told, for those who must compute something and have nothing."""
    features = TextFeatures((texts(""),), texts("")) if texts else None
    told = Conditions(("",), torch.ones(1), torch.zeros(1, num_tags, dtype=torch.int64), features)
    return Batch((torch.zeros(shape),), told, torch.zeros(1, dtype=torch.int64), torch.zeros(1))
