"""Steps with their clips read, in the order planned, however many processes read them and ahead of when they are needed.

Only reading is spread out. Which draws make a step is planned in one place, and each step comes with the plan's state
after it, so that a run resumes at the step it took last, not at the one read last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import DataLoader, Dataset

from training.config import TrainError
from training.data import ClipSource, Order, Read, Wanted
from training.packing import Planner, PlanState
from training.ranks import Ranks

_AHEAD = 2  # steps that each worker reads before they are asked for


@dataclass(frozen=True)
class StepPart:
    """What this rank reads of a planned step: its batches, of which the first is number `first_batch` of the step.

    `draws` is how many the whole step has, `draws_crc32` tells whether two runs take the same, `plan` is where the plan stands after it.
    """

    wanted: tuple[tuple[Wanted, ...], ...]
    first_batch: int
    draws: int
    draws_crc32: int
    plan: PlanState


@dataclass(frozen=True)
class LoadedStep:
    """A part as it could be read, batch by batch."""

    part: StepPart
    batches: tuple[Read, ...]


class _Reader(Dataset[LoadedStep]):
    """What a worker does: it has no part in what is read when."""

    def __init__(self, source: ClipSource):
        self._source = source

    def __getitem__(self, part: Any) -> LoadedStep:
        return LoadedStep(part, tuple(map(self._source.read, part.wanted)))


def load_steps(source: ClipSource, planner: Planner, order: Order, ranks: Ranks, workers: int) -> Iterator[LoadedStep]:
    """The steps of a plan without end, read by so many processes, or by this one for 0. Close it to end them.

    Raises TrainError where one of the processes dies.
    """
    reader, parts = _Reader(source), _parts(planner, order, ranks)
    if workers == 0:
        yield from map(reader.__getitem__, parts)
        return
    import multiprocessing

    context = multiprocessing.get_context("forkserver")  # forks of a process without threads, which has the imports done
    context.set_forkserver_preload([__name__])
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=parts,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        multiprocessing_context=context,
        collate_fn=_as_it_is,
        worker_init_fn=_one_thread,
    )
    try:
        yield from loader
    except (EOFError, ConnectionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):  # what a worker raised, not its death
            raise
        died = f"a process that reads ahead died ({error or 'while it handed over a clip'})"
        raise TrainError(f"{died}; continue with --resume, perhaps with fewer data.workers") from error


def _parts(planner: Planner, order: Order, ranks: Ranks) -> Iterator[StepPart]:
    while True:
        step = planner.step()
        draws = [k for batch in step.batches for k in batch]
        mine = step.of_rank(ranks.rank, ranks.count)
        wanted = tuple(tuple(map(order.wanted, batch)) for batch in mine)
        yield StepPart(wanted, ranks.rank * len(mine), len(draws), crc32(np.array(draws, "<i8")), planner.state)


def _as_it_is(step: LoadedStep) -> LoadedStep:
    return step


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
