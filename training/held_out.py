"""The loss on clips of videos that are never trained on: it tells learning from remembering.

It is that of training, with the averaged weights, on the same clips, the same noise levels and the same noise each time, so that two
figures of one stage, or of two runs with one config, differ by the weights alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from training.config import StageConfig, TrainConfig
from training.data import Batch, Clip, ClipSource, Wanted
from training.losses import batch_loss, noise_generator
from training.parallel import autocast, moved
from training.plan import Prepared
from training.ranks import Ranks
from training.settings import TrainError
from training.shapes import plan_shapes, token_of

_STAGE = -1  # in place of a stage's number: noise of no step


def held_out_generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of a clip, by its number among those held out."""
    return noise_generator(seed, _STAGE, 0, number)


@dataclass(frozen=True)
class HeldOut:
    """This rank's part of the clips, each a batch of its own, with their numbers among all, and how many `passes` every rank makes."""

    batches: dict[int, Batch]
    passes: int
    blank: Batch


def wanted_of(prepared: Prepared, config: TrainConfig, stage: StageConfig) -> list[Wanted]:
    """What is measured in a stage: clips evenly spread over the held out rows, each in its shape, from its first frame on."""
    rows = prepared.held_out_rows
    shapes, count = plan_shapes(rows, config.shapes_of(stage), token_of(config)), min(config.held_out.clips, rows.num_rows)
    return [Wanted(row, 0, shapes.of(row), 0.0) for row in (i * rows.num_rows // count for i in range(count))]


def read_held_out(
    wanted: Sequence[Wanted], source: ClipSource, to_batch: Callable[[Sequence[Clip], int], Batch], blank: Batch, ranks: Ranks
) -> tuple[HeldOut, dict[str, str]]:
    """Read this rank's part, and keep it in memory as batches, made with their numbers; also gives
    the clips of all ranks that could not be read, and why.

    Raises TrainError where that is all of them.
    """
    batches, skipped = dict[int, Batch](), dict[str, str]()
    for number in range(ranks.rank, len(wanted), ranks.count):
        read = source.read([wanted[number]])
        skipped |= read.skipped
        if read.clips:
            batches[number] = to_batch(read.clips, number)
    parts = ranks.gather((len(batches), skipped))
    passes, skipped = max(count for count, _ in parts), {name: why for _, part in parts for name, why in part.items()}
    if not passes:
        clip_id, reason = next(iter(skipped.items()))
        raise TrainError(f"held_out: none of the {len(wanted)} clips can be read; one of them: {clip_id} of {reason}")
    return HeldOut(batches, passes, blank), skipped


@torch.no_grad()
def held_out_loss(model: nn.Module, held_out: HeldOut, config: TrainConfig, device: torch.device, ranks: Ranks) -> float:
    """The mean over all elements of all clips, on all ranks, which call it together."""
    total, elements = 0.0, 0
    missing = range(-1, len(held_out.batches) - held_out.passes - 1, -1)
    for number, batch in {**held_out.batches, **dict.fromkeys(missing, held_out.blank)}.items():
        with autocast(config.system, device):
            loss = batch_loss(model, moved(batch, device), config, held_out_generator(config.seed, number)).loss
        if number >= 0:
            size = sum(x.numel() for x in batch.x)
            total, elements = total + float(loss) * size, elements + size
    parts = ranks.gather((total, elements))
    return sum(part for part, _ in parts) / sum(size for _, size in parts)
