"""Steps with their clips read, in the order planned, however many processes read them and ahead of when they are needed.

Only reading is spread out. Which draws make a step is planned in one place, and each step comes with the plan's state
after it, so that a run resumes at the step it took last, not at the one read last.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import repeat
from queue import Full, Queue
from threading import Event, Thread
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data import Clip, ClipSource, Order, Read, Wanted
from training.packing import Planner, PlanState
from training.ranks import Ranks
from training.settings import TrainError

_ALIGN = 16  # bytes, of the largest number there may be
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


@dataclass(frozen=True)
class _Sent:
    """A step on its way between processes. Its tensors lie end to end in one, since each that is sent costs a millisecond.

    `places` are where each begins, its type and its shape.
    """

    step: LoadedStep
    tensors: Tensor
    places: tuple[tuple[int, torch.dtype, torch.Size], ...]


def _send(step: LoadedStep) -> _Sent:
    tensors = [tensor for read in step.batches for clip in read.clips for tensor in (clip.content, clip.features) if tensor is not None]
    *starts, size = np.cumsum([0, *(-(-tensor.nbytes // _ALIGN) * _ALIGN for tensor in tensors)]).tolist()
    joined = torch.empty(size, dtype=torch.uint8)
    for tensor, start in zip(tensors, starts, strict=True):
        joined[start : start + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
    places = tuple((start, tensor.dtype, tensor.shape) for tensor, start in zip(tensors, starts, strict=True))
    return _Sent(_with_tensors(step, repeat(torch.empty(0))), joined, places)


def _receive(sent: _Sent) -> LoadedStep:
    ends = (start + shape.numel() * dtype.itemsize for start, dtype, shape in sent.places)
    parts = zip(sent.places, ends, strict=True)
    return _with_tensors(sent.step, (sent.tensors[start:end].view(dtype).view(shape) for (start, dtype, shape), end in parts))


def _with_tensors(step: LoadedStep, tensors: Iterator[Tensor]) -> LoadedStep:
    def clip_with(clip: Clip) -> Clip:
        return replace(clip, content=next(tensors), features=None if clip.features is None else next(tensors))

    return replace(step, batches=tuple(replace(read, clips=tuple(map(clip_with, read.clips))) for read in step.batches))


def load_steps(source: ClipSource, planner: Planner, order: Order, ranks: Ranks, workers: int) -> Iterator[LoadedStep]:
    """The steps of a plan without end, read by so many processes, or by this one for 0. Close it to end them.

    Raises TrainError where one of the processes dies.
    """
    reader, parts = _Reader(source), _parts(planner, order, ranks)
    if workers == 0:
        yield from map(reader.__getitem__, parts)
    else:
        yield from _in_thread(_spread(reader, parts, workers))


def _spread(reader: _Reader, parts: Iterator[StepPart], workers: int) -> Generator[LoadedStep]:
    context = multiprocessing.get_context("forkserver")  # forks of a process without threads, which has the imports done
    context.set_forkserver_preload([__name__])
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=parts,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        multiprocessing_context=context,
        collate_fn=_send,
        worker_init_fn=_begin_worker,
    )
    try:
        yield from map(_receive, loader)
    except (EOFError, ConnectionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):  # what a worker raised, not its death
            raise
        died = f"a process that reads ahead died ({error or 'while it handed over a clip'})"
        raise TrainError(f"{died}; continue with --resume, perhaps with fewer data.workers") from error


def _in_thread(steps: Generator[LoadedStep]) -> Iterator[LoadedStep]:
    """The same steps, taken in a thread of their own: planning, receiving, and giving back their memory all take milliseconds."""
    queue, stop = Queue[LoadedStep | BaseException](1), Event()

    def put(item: LoadedStep | BaseException) -> None:
        while not stop.is_set():
            with suppress(Full):
                queue.put(item, timeout=0.1)
                return

    def take() -> None:
        held = deque[LoadedStep](maxlen=4)  # until nobody else does: it is here that their memory is given back
        try:
            while not stop.is_set():
                held.append(next(steps))
                put(held[-1])
        except BaseException as error:
            put(error)
        finally:
            steps.close()

    thread = Thread(target=take, name="loader", daemon=True)
    thread.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            del item
    finally:
        stop.set()
        thread.join()


def _parts(planner: Planner, order: Order, ranks: Ranks) -> Iterator[StepPart]:
    while True:
        step = planner.step()
        draws = [k for batch in step.batches for k in batch]
        mine = step.of_rank(ranks.rank, ranks.count)
        wanted = tuple(tuple(map(order.wanted, batch)) for batch in mine)
        yield StepPart(wanted, ranks.rank * len(mine), len(draws), crc32(np.array(draws, "<i8")), planner.state)


def _begin_worker(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    # A worker's parent is the server that forked it, and that lives as long as its workers do: nobody else would end them.
    Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    trainer = multiprocessing.parent_process()
    if trainer:
        trainer.join()
        os._exit(1)
