"""The order in which clips are seen. Sample k of a run is a pure function of (manifest digest, balance, seed, k).

So the state of the data is one integer, and any process that knows k knows the next sample. An epoch is one pass
without replacement over a plan that holds each row a whole number of times; plan and order change with every epoch.
"""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256

import numpy as np

from training.balance import Balance
from training.balancing.quotas import BITS, sorted_counts, turn_of

_ORDER, _WINDOW, _TEXT, _TURNS = 0, 1, 2, 3  # separate random streams of one key


@dataclass(frozen=True)
class Draw:
    """Sample k: the row of the manifest, and numbers in [0, 1) that choose the window within its span and its text."""

    k: int
    row: int
    choice: float
    text_choice: float


@dataclass(frozen=True, eq=False)
class Sampler:
    """`cells` int32 [N] groups the rows, and `quotas` int64 [C] is each cell's part of an epoch; both are as `plan_balance` gives them."""

    cells: np.ndarray
    quotas: np.ndarray
    epoch_length: int
    key: int  # 128 bits

    def draw(self, k: int) -> Draw:
        """Sample k, in any order, for any k >= 0."""
        epoch, position = divmod(k, self.epoch_length)
        choice, text_choice = (float(self.random(stream, k).random()) for stream in (_WINDOW, _TEXT))
        return Draw(k, int(_epoch_rows(self, epoch)[position]), choice, text_choice)

    def rows(self, k: int, count: int) -> np.ndarray:
        """The rows of `count` draws from draw k on, or of fewer where an epoch ends, int64."""
        epoch, position = divmod(k, self.epoch_length)
        return _epoch_rows(self, epoch)[position : position + count]

    def counts(self, epoch: int) -> np.ndarray:
        """How often each row is in an epoch, int32 [N].

        Each cell is less than 1 from its quota, and so is each value of the first target of a balance, whose cells stand side
        by side. Rows of a cell differ by at most 1; over the epochs they take turns.
        """
        counts = np.empty(len(self.cells), np.int32)
        counts[self._order] = self._sorted_counts(epoch)
        return counts

    def drawn(self) -> np.ndarray:
        """Which rows any epoch draws, bool [N]."""
        return (self.quotas > 0)[self.cells]

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order they are seen, int32 [epoch_length]."""
        rows = np.repeat(self._order, self._sorted_counts(epoch))
        self.random(_ORDER, epoch).shuffle(rows)
        return rows

    def random(self, stream: int, index: int) -> np.random.Generator:
        """Random numbers of one stream and index, by counter-based Philox (Salmon et al. 2011): no state is kept."""
        return np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, index, stream]))

    def _sorted_counts(self, epoch: int) -> np.ndarray:
        start = int(self.random(_TURNS, 0).integers(2**BITS))
        return sorted_counts(self._members, self.quotas, turn_of(epoch, start), epoch)

    @cached_property
    def _members(self) -> np.ndarray:
        return np.bincount(self.cells, minlength=len(self.quotas))

    @cached_property
    def _order(self) -> np.ndarray:
        """Rows by cell, int32 [N], shuffled within a cell, so that those which take turns are not neighbors of one source."""
        shuffled = np.arange(len(self.cells), dtype=np.int32)
        self.random(_TURNS, 1).shuffle(shuffled)
        return shuffled[np.argsort(self.cells[shuffled], kind="stable")]


@lru_cache(maxsize=2)
def _epoch_rows(sampler: Sampler, epoch: int) -> np.ndarray:
    return sampler.epoch_rows(epoch)


def make_sampler(balance: Balance, manifest_digest: str, seed: int) -> Sampler:
    """The sampler of a run. Everything that may change the order is hashed into its key."""
    digest = sha256(json.dumps([manifest_digest, seed, balance.epoch_length, len(balance.quotas)]).encode())
    digest.update(np.ascontiguousarray(balance.quotas, "<i8"))
    digest.update(np.ascontiguousarray(balance.cells, "<i4"))
    return Sampler(balance.cells, balance.quotas, balance.epoch_length, int.from_bytes(digest.digest()[:16]))
