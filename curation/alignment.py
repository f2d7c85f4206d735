"""How well one clip's hashes fit another's, over all rates and offsets, and what is a copy.

In: the hash sequences of all clips and pairs of clips to try. Out: a `Fit` for each pair that is not hopeless.
"""

from dataclasses import dataclass, fields

import numpy as np

from curation.signals.hashing import BITS, MIRROR, distance

MIN_OVERLAP = 0.6
"""Least share of the shorter clip that must be seen in the other."""
RATES = tuple(1.25 ** (k / 5) for k in sorted(range(-6, 7), key=abs))
"""Speeds at which one clip may play the other, those nearest to 1 first: 0.77-1.31, in steps of 4.6 %."""

# What is a copy, in bits of mean distance. The more a clip changes, the more its hashes prove; a still picture is one proof, however
# often it is shown. On degraded copies of the corpus 10 and 17 would find 1 % more, but a million clips are 5e11 pairs: at 6 bits chance
# gives one false pair in 2e11, at 10 bits one in 1e8.
_STILL_LIMIT = 6.0
_LIMIT = 14.0
_VARIED = 12.0  # variation from which `_LIMIT` holds
_AGREEMENT = 0.35  # least agreement in time from `_AGREEMENT_VARIED` on, and less below in proportion
_AGREEMENT_VARIED = 8.0
# Clips of one video share their background, so there only a replay counts, or the same still picture.
_REPLAY_AGREEMENT = 0.6
_REPLAY_VARIED = 3.0
_SAME_STILL = 3.0
_SAME_VARIED = 1.0

_COMPLETE = 2.0  # bits of mean distance that an alignment may lose to show all of the shorter clip instead of nothing
_VOID = 255  # distance where a picture tells nothing, or there is none


@dataclass(frozen=True)
class Signatures:
    """Hash sequences of C clips end to end.

    video: int64 [C], clips of one video have the same number; starts: int64 [C + 1], clip c has the hashes starts[c]:starts[c + 1];
    step_s: float64 [C], `STEP_S` over a power of 2; hashes: uint64 [M]; told: bool [M], as in `HashSequence`.
    """

    video: np.ndarray
    starts: np.ndarray
    step_s: np.ndarray
    hashes: np.ndarray
    told: np.ndarray

    @property
    def num_clips(self) -> int:
        return len(self.step_s)


@dataclass(frozen=True)
class Fit:
    """How pairs of clips fit where they fit best. All arrays [F].

    pair: int64, which of the pairs asked for; distance: mean distance of the hashes shown together, in bits; varied: mean distance of a
    clip's hashes among each other, in bits, geometric mean of both; agreement: correlation over time of the two clips' bits, -1..1, which a
    lasting difference such as a logo or a crop leaves as it is; covers_short, covers_long: share of each clip that is in the other.
    """

    pair: np.ndarray
    distance: np.ndarray
    varied: np.ndarray
    agreement: np.ndarray
    covers_short: np.ndarray
    covers_long: np.ndarray

    def take(self, which: np.ndarray) -> "Fit":
        """Those that an index or mask picks."""
        return Fit(*(getattr(self, part.name)[which] for part in fields(self)))


def is_copy(found: Fit, same_video: np.ndarray) -> np.ndarray:
    """Which fits are copies: bool [F]. same_video: bool [F]."""
    limit = _STILL_LIMIT + (_LIMIT - _STILL_LIMIT) * np.minimum(found.varied / _VARIED, 1)
    agreement = _AGREEMENT * np.minimum(found.varied / _AGREEMENT_VARIED, 1)
    alike = (found.distance <= limit) & (found.agreement >= np.where(found.varied < _REPLAY_VARIED, -1, agreement))
    replay = (found.varied >= _REPLAY_VARIED) & (found.agreement >= _REPLAY_AGREEMENT)
    still = (found.varied < _SAME_VARIED) & (found.distance <= _SAME_STILL)
    return alike & (~same_video | replay | still)


def fit(signatures: Signatures, short: np.ndarray, long: np.ndarray, mirrored: np.ndarray, shape: tuple[int, int], ratio: float) -> Fit:
    """Where pairs of clips fit best; pairs that cannot be copies are left out.

    short, long: int64 [P], the shorter and the longer clip of each pair, of at most shape[0] and shape[1] hashes; mirrored: bool [P];
    ratio: step of the shorter over step of the longer, the same for all pairs.
    """
    ones, told_ones = _padded(signatures, short, shape[0])
    others, told_others = _padded(signatures, long, shape[1])
    ones = np.where(mirrored[:, None], ones ^ MIRROR, ones)
    grid = distance(ones[:, :, None], others[:, None, :])
    grid[~(told_ones[:, :, None] & told_others[:, None, :])] = _VOID
    told = told_ones.sum(axis=1)
    need = np.ceil(MIN_OVERLAP * told).astype(np.int64)
    # No alignment can be better than if each hash met its nearest.
    nearest = np.cumsum(np.sort(grid.min(axis=2), axis=1), axis=1, dtype=np.float32)
    bound = np.take_along_axis(nearest, np.maximum(need - 1, 0)[:, None], axis=1)[:, 0] / np.maximum(need, 1)
    pair = np.flatnonzero((need > 0) & (bound <= _LIMIT))
    ones, others, told_others, grid, told, need = (part[pair] for part in (ones, others, told_others, grid, told, need))
    # Cell k of a row is for moments between hashes k - 1 and k of the longer clip, and takes the nearer of them.
    cells = np.full((len(pair), shape[0], shape[1] + 1), _VOID, np.uint8)
    cells[:, :, 1:] = grid
    cells[:, :, :-1] = np.minimum(cells[:, :, :-1], grid)
    best, cell = _best_alignment(cells, told, need, ratio)
    shown = cell >= 0
    aligned = np.where(shown, _at(cells, np.maximum(cell, 0)), 0)
    earlier = np.maximum(cell - 1, 0)
    column = np.where(_at(grid, earlier) == aligned, earlier, np.minimum(cell, shape[1] - 1))
    count = np.maximum(shown.sum(axis=1), 1)
    weight = shown.astype(np.float32) / count[:, None]
    bits, met = _bits(ones), _bits(np.take_along_axis(others, column, axis=1))
    share, met_share = np.einsum("pnb,pn->pb", bits, weight), np.einsum("pnb,pn->pb", met, weight)
    together = np.einsum("pnb,pnb,pn->p", bits, met, weight) - (share * met_share).sum(axis=1)
    spread = np.sqrt(np.maximum((share * (1 - share)).sum(axis=1) * (met_share * (1 - met_share)).sum(axis=1), 0))
    return Fit(
        pair=pair,
        distance=aligned.sum(axis=1) / count,
        varied=2 * spread * count / np.maximum(count - 1, 1),
        agreement=np.where(spread > 1e-3, together / np.maximum(spread, 1e-3), 0),
        covers_short=shown.sum(axis=1) / told,
        covers_long=np.minimum(count * ratio * np.array(RATES)[best] / np.maximum(told_others.sum(axis=1), 1), 1),
    )


def _padded(signatures: Signatures, clips: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of some clips, and which of them tell anything: uint64 [P, size], bool [P, size]."""
    place = signatures.starts[clips][:, None] + np.arange(size)
    inside = place < signatures.starts[clips + 1][:, None]
    place = np.minimum(place, len(signatures.hashes) - 1)
    return signatures.hashes[place], signatures.told[place] & inside


def _at(cells: np.ndarray, column: np.ndarray) -> np.ndarray:
    """One entry of each row: [P, n, m], [P, n] -> [P, n]."""
    return np.take_along_axis(cells, column[:, :, None], axis=2)[:, :, 0]


def _bits(hashes: np.ndarray) -> np.ndarray:
    """uint64 [P, n] -> float32 [P, n, 64], in one order for all."""
    return np.unpackbits(hashes[:, :, None].view(np.uint8), axis=2, count=BITS).astype(np.float32)


def _best_alignment(cells: np.ndarray, told: np.ndarray, need: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """The rate and offset of each pair at which the hashes shown together are nearest.

    cells: uint8 [P, n, m + 1]; told: hashes of the shorter clip that tell something [P]; need: how many of them must be aligned [P].
    Returns the index of the rate [P] and the cell of each hash of the shorter clip [P, n], -1 where it is not aligned.
    """
    pairs, rows, columns = cells.shape
    known = cells != _VOID
    # Sums of distances and their counts are made at once, in the lower and upper half of a number.
    packed = np.where(known, cells, 0) + (known.astype(np.uint64) << np.uint64(32))
    best = np.full(pairs, np.inf)
    best_rate = np.zeros(pairs, np.int64)
    cell = np.full((pairs, rows), -1, np.int64)
    for number, rate in enumerate(RATES):
        base = np.floor((np.arange(rows) + 0.5) * rate * ratio - 0.5).astype(np.int64) + 1
        reach = int(base[-1])
        wide = np.zeros((pairs, rows, columns + 2 * reach), np.uint64)
        wide[:, :, reach : reach + columns] = packed
        total = np.zeros((pairs, columns + reach), np.uint64)
        for row in range(rows):
            total += wide[:, row, base[row] : base[row] + columns + reach]
        count = (total >> np.uint64(32)).astype(np.int64)
        mean = (total & np.uint64(0xFFFFFFFF)) / np.maximum(count, 1)
        score = np.where((count >= need[:, None]) & (count > 0), mean - _COMPLETE * count / told[:, None], np.inf)
        offset = score.argmin(axis=1)
        found = score[np.arange(pairs), offset]
        better = np.flatnonzero(found < best - 1e-9)
        best[better], best_rate[better] = found[better], number
        column = base[None, :] + offset[better][:, None] - reach
        inside = (column >= 0) & (column < columns)
        inside &= cells[better[:, None], np.arange(rows), np.clip(column, 0, columns - 1)] != _VOID
        cell[better] = np.where(inside, column, -1)
    return best_rate, cell
