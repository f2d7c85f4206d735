"""The order in which clips are seen. Sample k of a run is a pure function of (manifest digest, balance, seed, k).

So the state of the data is one integer, and any process that knows k knows the next sample. An epoch is one pass
without replacement over a plan that holds each row a whole number of times; plan and order change with every epoch.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256

import numpy as np

from training.balance import Balance

_ORDER, _WINDOW, _TEXT = 0, 1, 2  # separate random streams of one key


@dataclass(frozen=True)
class Draw:
    """Sample k: the row of the manifest, and numbers in [0, 1) that choose the window within its span and its text."""

    k: int
    row: int
    choice: float
    text_choice: float


@dataclass(frozen=True, eq=False)
class Sampler:
    """`weights` float64 [N] sums to 1 and `cells` int64 [N] groups the rows; both are as `plan_balance` gives them."""

    weights: np.ndarray
    cells: np.ndarray
    key: int  # 128 bits

    @property
    def epoch_length(self) -> int:
        return len(self.weights)

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
        """How often each row is in an epoch, int64 [N], by systematic rounding of its weight.

        The rows of a cell stand side by side under one running sum, so each cell is within 1 of its quota and the rows
        of a cell differ by at most 1. The random offset lets the remainders take turns over the epochs.
        """
        order = np.argsort(self.cells, kind="stable")
        running = np.cumsum(self.weights[order]) * self.epoch_length
        running[-1] = self.epoch_length  # exactly, whatever the rounding of the sum
        # An offset a little off 0 and 1 keeps whole quotas whole in spite of that rounding.
        offset = 1e-6 + self.random(_ORDER, epoch).random() * (1 - 2e-6)
        marks = np.floor(running + offset).astype(np.int64)
        counts = np.empty(self.epoch_length, np.int64)
        counts[order] = np.diff(marks, prepend=0)
        return counts

    def random(self, stream: int, index: int) -> np.random.Generator:
        """Random numbers of one stream and index, by counter-based Philox (Salmon et al. 2011): no state is kept."""
        return np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, index, stream]))


@lru_cache(maxsize=4)
def _epoch_rows(sampler: Sampler, epoch: int) -> np.ndarray:
    random = sampler.random(_ORDER, epoch)
    random.random()  # the offset of `counts`
    return random.permutation(np.repeat(np.arange(sampler.epoch_length), sampler.counts(epoch)))


def make_sampler(balance: Balance, manifest_digest: str, seed: int) -> Sampler:
    """The sampler of a run. Everything that may change the order is hashed into its key."""
    report = [asdict(cell) for cell in balance.report]
    content = json.dumps([manifest_digest, report, seed]).encode() + balance.weights.tobytes() + balance.cells.tobytes()
    return Sampler(balance.weights, balance.cells, int.from_bytes(sha256(content).digest()[:16]))
