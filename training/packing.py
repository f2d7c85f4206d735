"""Which draws make each step: the draws of the sampler in order and their shapes come in, batches come out. No torch.

A step is `micro_batches` batches of at most `max_tokens` tokens, and any number of ranks that divides `micro_batches`
shares them; so the steps, and the order of draws in them, do not depend on the number of ranks. What is drawn and
does not fit yet is carried to a later step, never dropped. The draws carried and the number of the next one are
all the state there is: unlike a replay from the first draw, they resume a long run at once, and pass from one stage to the next.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

LOOKAHEAD = 64  # samples among which a packed row is chosen, so that none waits longer than for so many rows
_CHUNK = 1024

RowsOf = Callable[[int, int], np.ndarray]
"""(first draw, count) -> the rows of that many draws, or of fewer, but at least one: int64"""


@dataclass(frozen=True)
class PlanState:
    """Where a plan stands: the number of the next draw, and the earlier draws that are in no step yet, ascending."""

    next_k: int = 0
    carried: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlannedStep:
    """The draws of each batch of a step."""

    batches: tuple[tuple[int, ...], ...]

    def of_rank(self, rank: int, num_ranks: int) -> tuple[tuple[int, ...], ...]:
        """The batches of one of several ranks. Raises ValueError where these cannot share them equally."""
        if len(self.batches) % num_ranks:
            raise ValueError(f"{len(self.batches)} micro-batches cannot be shared equally by {num_ranks} ranks")
        each = len(self.batches) // num_ranks
        return self.batches[rank * each : (rank + 1) * each]


@dataclass(frozen=True, eq=False)
class Loads:
    """What a plan knows of the rows: `tokens`, none above `max_tokens`, and `buckets`, both int64 [N]; and the limits of a step."""

    tokens: np.ndarray
    buckets: np.ndarray
    max_tokens: int
    micro_batches: int


class Planner(Protocol):
    """Plans steps one after the other. A planner made from `state` goes on exactly as this one would."""

    def step(self) -> PlannedStep: ...

    @property
    def state(self) -> PlanState: ...


class BucketPlanner:
    """Steps of one shape: as soon as there are as many draws of a shape as fill all batches of a step, they are one."""

    def __init__(self, loads: Loads, rows_of: RowsOf, state: PlanState):
        self._loads, self._draws = loads, _Draws(rows_of, state)
        self._waiting: dict[int, list[int]] = {}

    def step(self) -> PlannedStep:
        """The next step: its batches have the same shape and number of clips."""
        loads = self._loads
        for k, row in self._draws:
            bucket = int(loads.buckets[row])
            waiting = self._waiting.setdefault(bucket, [])
            waiting.append(k)
            size = loads.max_tokens // int(loads.tokens[row])
            if len(waiting) == size * loads.micro_batches:
                del self._waiting[bucket]
                return PlannedStep(tuple(tuple(waiting[i : i + size]) for i in range(0, len(waiting), size)))
        raise AssertionError("draws have no end")

    @property
    def state(self) -> PlanState:
        carried = chain(self._draws.carried, *self._waiting.values())
        return PlanState(self._draws.next_k, tuple(sorted(carried)))


class PackPlanner:
    """Steps of any shapes: each batch is one row of clips end to end, chosen to fill `max_tokens` best."""

    def __init__(self, loads: Loads, rows_of: RowsOf, state: PlanState):
        self._loads, self._draws = loads, _Draws(rows_of, state)
        self._window: list[tuple[int, int]] = []  # (draw, tokens), in the order drawn

    def step(self) -> PlannedStep:
        """The next step: in each of its batches is the oldest draw that was left."""
        return PlannedStep(tuple(self._row() for _ in range(self._loads.micro_batches)))

    @property
    def state(self) -> PlanState:
        return PlanState(self._draws.next_k, (*(k for k, _ in self._window), *self._draws.carried))

    def _row(self) -> tuple[int, ...]:
        while len(self._window) < LOOKAHEAD:
            k, row = next(self._draws)
            self._window.append((k, int(self._loads.tokens[row])))
        chosen = set(fill([tokens for _, tokens in self._window], self._loads.max_tokens))
        taken = tuple(k for i, (k, _) in enumerate(self._window) if i in chosen)
        self._window = [entry for i, entry in enumerate(self._window) if i not in chosen]
        return taken


def make_planner(batching: str, loads: Loads, rows_of: RowsOf, state: PlanState) -> Planner:
    """What plans steps that are "bucketed" or "packed", from `state` on."""
    make = BucketPlanner if batching == "bucketed" else PackPlanner
    return make(loads, rows_of, state)


def fill(sizes: Sequence[int], budget: int) -> list[int]:
    """Which sizes to take, ascending: the first, and of the others those that come nearest to `budget` without passing it.

    Exact subset sum (Bellman 1957), the reachable sums being the bits of one number; no more of the sizes are looked at
    than an exact fit needs, and among equal fits early ones are preferred. The first size must be within the budget.
    """
    room = budget - sizes[0]
    within = (1 << (room + 1)) - 1
    sums, before = 1, []
    for size in sizes[1:]:
        before.append(sums)
        sums |= (sums << size) & within
        if sums >> room:
            break
    left = sums.bit_length() - 1
    chosen = []
    for index in range(len(before), 0, -1):
        if not before[index - 1] >> left & 1:
            chosen.append(index)
            left -= sizes[index]
    return [0, *reversed(chosen)]


class _Draws(Iterator[tuple[int, int]]):
    """Endless (draw, row): first the carried ones, then the new."""

    def __init__(self, rows_of: RowsOf, state: PlanState):
        self._rows_of = rows_of
        self.carried, self.next_k = deque(state.carried), state.next_k
        self._chunk: Iterator[int] = iter(())

    def __next__(self) -> tuple[int, int]:
        if self.carried:
            k = self.carried.popleft()
            return k, int(self._rows_of(k, 1)[0])
        row = next(self._chunk, None)
        if row is None:
            self._chunk = iter(self._rows_of(self.next_k, _CHUNK).tolist())
            row = next(self._chunk)
        self.next_k += 1
        return self.next_k - 1, row
