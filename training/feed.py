"""What a stage takes its steps from: its rows, the order of their draws, clips as they are read, and what makes batches of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from training.audit import Audit, Tally, make_audit
from training.checkpoint import Progress
from training.config import StageConfig, TrainConfig
from training.controls.source import ControlSource
from training.data import Batch, BatchMaker, Clip, ClipSource, Contents, Order, Pixels, blank_batch, nothing_readable
from training.encoding.cache import Cache
from training.encoding.text_features import CachedTexts, TextSource
from training.held_out import HeldOut, held_out_generator, read_held_out, wanted_of
from training.latents import CachedLatents, LatentSource
from training.loader import LoadedStep, load_steps
from training.pixels import to_tensor
from training.plan import Prepared, distinct, planner_of, shapes_of
from training.ranks import Ranks
from training.tag_bins import tag_bins


@dataclass(frozen=True)
class StageData:
    """What a stage draws from; `bins` are the tags as the dit is told them, int16 [rows, tags], of the rows held out last."""

    prepared: Prepared
    bins: np.ndarray
    audit: Audit


@dataclass(frozen=True)
class Readers:
    """What contents and texts are read with, in all stages. `texts` gives features, where a frozen encoder reads them."""

    vae: nn.Module
    cache: Cache | None
    texts: TextSource | None


@dataclass(frozen=True)
class Feed:
    """What a stage takes its batches from, and its tally.

    `blank` stands for a batch of which nothing could be read, where ranks wait for each other; `held_out` is measured beside training,
    and `skipped` are the clips of it that could not be read.
    """

    source: ClipSource
    order: Order
    steps: Iterator[LoadedStep]
    make_batch: BatchMaker
    tally: Tally
    blank: Batch
    held_out: HeldOut | None
    skipped: dict[str, str]

    def tokens(self, rows: Sequence[int]) -> int:
        """How many tokens clips of these rows have together."""
        return int(self.order.shapes.tokens[np.asarray(rows, np.int64)].sum())

    def waiting(self, progress: Progress) -> list[int]:
        """The rows of what is drawn and in no step yet."""
        return _waiting(self.order, progress)


@dataclass(frozen=True)
class Taken:
    """A step that has clips: those of this rank's batches by their number in it, and how many clips and tokens all ranks have."""

    step: LoadedStep
    batches: dict[int, tuple[Clip, ...]]
    samples: int
    tokens: int

    @property
    def rows(self) -> list[int]:
        """Of all clips of this rank."""
        return [clip.row for clips in self.batches.values() for clip in clips]


def stage_data(config: TrainConfig, of_stages: Sequence[Prepared]) -> tuple[StageData, ...]:
    """What each stage draws from. Raises TrainError where a tag is unknown."""
    everything = {id(data): pa.concat_tables([data.rows, data.held_out_rows]) for data in of_stages}
    made = {}
    for data in distinct(of_stages):
        bins = tag_bins(everything[id(data)], config.data.condition_tags, config.dit.tag_bins, list(everything.values()))
        made[id(data)] = StageData(data, bins, make_audit(data.rows, data.balance, config))
    return tuple(made[id(data)] for data in of_stages)


def open_feed(config: TrainConfig, stage: StageConfig, data: StageData, readers: Readers, ranks: Ranks, progress: Progress) -> Feed:
    """Begin to read what a stage draws, from where `progress` stands. Raises TrainError."""
    prepared, shapes = data.prepared, shapes_of(data.prepared, config, stage)
    is_dit, memory_mb = stage.model == "dit", config.data.memory_mb
    inputs: Callable[[Clip], Tensor] = _pixels
    contents: Contents = Pixels(config.threads)
    if readers.cache:
        contents, inputs = CachedLatents(readers.cache, prepared.origin), _content
    elif is_dit:
        inputs = LatentSource(readers.vae, memory_mb)
    texts = readers.texts if is_dit else None
    controls = ControlSource(config, readers.vae) if is_dit and config.told_controls else None
    make_batch = BatchMaker(inputs, data.bins, config.vae.time_factor, texts, controls)
    read_texts = texts if isinstance(texts, CachedTexts) else None  # by workers; those to be encoded are by this process
    source = ClipSource(prepared.rows, config.data, contents, memory_mb / max(config.data.workers, 1), read_texts)
    order = Order(prepared.sampler, shapes, config.data.windows_per_clip)
    steps = load_steps(source, planner_of(shapes, stage, prepared.sampler, progress.plan), order, ranks, config.data.workers)
    channels, side = (config.vae.latent_channels, config.dit.patch) if is_dit else (3, config.vae.space_factor)
    blank = blank_batch((channels, 1, side, side), data.bins.shape[1], texts)
    held_out, skipped = None, dict[str, str]()
    if prepared.held_out_rows.num_rows:
        held_out, skipped = _hold_out(config, stage, data, make_batch, contents, blank, ranks)
    tally = Tally(data.audit, _waiting(order, progress), progress.audit)
    return Feed(source, order, steps, make_batch, tally, blank, held_out, skipped)


def _hold_out(
    config: TrainConfig, stage: StageConfig, data: StageData, make_batch: BatchMaker, contents: Contents, blank: Batch, ranks: Ranks
) -> tuple[HeldOut, dict[str, str]]:
    source = ClipSource(data.prepared.held_out_rows, config.data, contents, memory_mb=0)
    num_rows = data.prepared.rows.num_rows

    def to_batch(clips: Sequence[Clip], number: int) -> Batch:
        placed = [replace(clip, row=num_rows + clip.row) for clip in clips]  # behind the others, as their tags are
        return make_batch(placed, config.conditions_of(stage), held_out_generator(config.seed, number))

    return read_held_out(wanted_of(data.prepared, config, stage), source, to_batch, blank, ranks)


def take(feed: Feed, ranks: Ranks, note_skipped: Callable[[dict[str, str]], None], skipped: dict[str, str]) -> Taken:
    """The next planned step of which any rank could read a clip. Raises TrainError where a whole epoch has none.

    What cannot be read leaves a gap in its batch and moves no other clip, since the plan is made from shapes alone. It is noted
    on all ranks, and is then in `skipped`.
    """
    unread = 0
    for step in feed.steps:
        batches = {number: read.clips for number, read in enumerate(step.batches, step.part.first_batch)}
        rows = [clip.row for clips in batches.values() for clip in clips]
        here = {clip_id: reason for read in step.batches for clip_id, reason in read.skipped.items()}
        parts = ranks.gather((len(rows), feed.tokens(rows), here))
        for _, _, theirs in parts:
            note_skipped(theirs)
        samples, tokens = sum(count for count, _, _ in parts), sum(count for _, count, _ in parts)
        if samples:
            kept = batches if ranks.count > 1 else {number: clips for number, clips in batches.items() if clips}
            return Taken(step, kept, samples, tokens)
        unread += step.part.draws
        if unread > feed.order.sampler.epoch_length:
            break
    raise nothing_readable(skipped)


def _waiting(order: Order, progress: Progress) -> list[int]:
    return [int(order.sampler.rows(k, 1)[0]) for k in progress.plan.carried]


def _pixels(clip: Clip) -> Tensor:
    return to_tensor(clip.content)


def _content(clip: Clip) -> Tensor:
    return clip.content
