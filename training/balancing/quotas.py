"""From shares to whole numbers: the draws of an epoch, by systematic rounding (Madow 1949) in exact integers.

Quotas are fixed-point numbers, 2^32 to a draw. Cells stand side by side under one running sum, so each cell, and each run of
neighboring cells, is within 1 draw of its quota.
"""

import numpy as np

BITS = 32
# Multiples of an irrational number spread evenly over the unit interval (Weyl 1916); these two, as one must not know of the other.
_TURN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio
_ROW_TURN = 0x6A09E667F3BCC908  # 2^64 * (square root of 2 - 1)


def draw_quotas(members: np.ndarray, repeats: np.ndarray, max_repeats: float) -> np.ndarray:
    """Quotas int64 [C] that sum to a whole number of draws, for cells of `members` int64 [C] rows wanted `repeats` float64 [C] times.

    The epoch is the whole draws in the sum: of a unit other than clips, up to one draw less than wanted. Cells at max_repeats
    get it to the last bit.
    """
    wanted = members * repeats
    total = wanted.sum()
    epoch_length = int(np.floor(total * (1 + 1e-9)))
    if epoch_length >= 2 ** (63 - BITS):
        raise ValueError(f"an epoch of {epoch_length} draws is too long for its quotas")
    scale = epoch_length / total
    quotas = np.rint(wanted * (scale * 2.0**BITS)).astype(np.int64)
    capped = np.zeros(len(quotas), bool)
    if abs(scale - 1) < 1e-9:
        capped = repeats >= max_repeats * (1 - 1e-12)
        quotas[capped] = members[capped] * round(max_repeats * 2**BITS)
    rest = np.where(capped, -1, quotas).argmax()
    quotas[rest] += (epoch_length << BITS) - quotas.sum()
    return quotas


def turn_of(epoch: int, start: int, step: int = _TURN) -> int:
    """The offset of an epoch in [0, 2^32), from that of epoch 0: remainders take turns over the epochs."""
    return ((start << 32) + epoch * step) % 2**64 >> 32


def cell_counts(quotas: np.ndarray, turn: int) -> np.ndarray:
    """Draws of each cell, int64 [C], each less than 1 from its quota."""
    return np.diff((np.cumsum(quotas) + turn) >> BITS, prepend=0)


def sorted_counts(members: np.ndarray, quotas: np.ndarray, turn: int, epoch: int = 0) -> np.ndarray:
    """Repeats of the rows in the order of their cells, int32 [N]; `members` int64 [C] are the rows of each cell.

    Rows of a cell differ by at most 1. Those that come once more stand side by side (around its end), from a place that
    changes with the epoch.
    """
    counts = cell_counts(quotas, turn)
    base, extra = np.divmod(counts, np.maximum(members, 1))
    start = (members * turn_of(epoch, 0, _ROW_TURN)) >> BITS
    first = np.cumsum(members) - members
    change = np.zeros(int(members.sum()) + 1, np.int32)
    seen = members > 0
    np.add.at(change, first[seen], base[seen] - np.append(0, base[seen][:-1]))
    end = start + extra
    wraps = end > members
    for begins, ends, which in ((start, np.minimum(end, members), seen), (np.zeros_like(start), end - members, seen & wraps)):
        np.add.at(change, (first + begins)[which], 1)
        np.add.at(change, (first + ends)[which], -1)
    return np.cumsum(change[:-1], dtype=np.int32)


def row_counts(cells: np.ndarray, quotas: np.ndarray, turn: int) -> np.ndarray:
    """Repeats int32 [N] of the rows in their own order."""
    order = np.argsort(cells, kind="stable")
    counts = np.empty(len(cells), np.int32)
    counts[order] = sorted_counts(np.bincount(cells, minlength=len(quotas)), quotas, turn)
    return counts
