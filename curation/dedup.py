"""Near-duplicate clips, found by their hash sequences alone: numpy, one machine, memory in proportion to the hashes.

In: `Signatures`, the hashes of all clips. Out: `Links`, pairs of clips that show the same pictures in the same order, as they are or
mirrored, and `stars`, which makes clusters of them. The search has two steps, the first of which only has to lose nothing:

1. Locality-sensitive hashing (Indyk and Motwani 1998): entries that agree in `_BAND_BITS` bits meet in a bucket, in each of `TABLES`
   tables with other bits. A hash and its mirrored twin share their buckets. Clips with two entries within `_HIT` bits are candidates.
2. Candidates are aligned and judged by `curation.alignment`.

In a bucket of more than `_WINDOW` entries (title cards, test patterns) each entry meets its `_WINDOW` successors in the order of
hashes only, so equal ones first; the pairs not compared are counted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from curation.alignment import MIN_OVERLAP, Signatures, fit, is_copy
from curation.signals.hashing import BITS, MIRROR, distance

TABLES = 24
"""Hash tables, each of which is a step of the search."""
_BAND_BITS = 22
_SEED = 11  # of the choice of bits
_HIT = 12
_WINDOW = 32
_POOL = 1 << 23  # candidate pairs that wait to be aligned
_CHUNK = 1 << 21  # entries or array elements worked on at once


@dataclass(frozen=True)
class Links:
    """Pairs of clips that are copies, one < other, in their order. All arrays [E].

    one, other: int64, numbers of clips; mirrored: bool; similarity: float32, share of equal bits, 0-1; covers_one, covers_other:
    float32, share of each clip that is seen in the other.
    """

    one: np.ndarray
    other: np.ndarray
    mirrored: np.ndarray
    similarity: np.ndarray
    covers_one: np.ndarray
    covers_other: np.ndarray

    def __len__(self) -> int:
        return len(self.one)

    def take(self, which: np.ndarray) -> "Links":
        """Those that an index or mask picks."""
        return Links(*(getattr(self, part.name)[which] for part in fields(self)))

    @staticmethod
    def join(parts: list["Links"]) -> "Links":
        """One after the other."""
        return Links(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Links)))


@dataclass(frozen=True)
class Search:
    """What a search found and how much it looked at."""

    links: Links
    entries: int  # hashes in the tables
    candidates: int  # pairs of clips that met in a bucket
    skipped: int  # pairs of entries not compared, in crowded buckets


NO_LINKS = Links(*(np.empty(0, dtype) for dtype in (np.int64, np.int64, bool, np.float32, np.float32, np.float32)))


def search(signatures: Signatures, done: Callable[[], None] = lambda: None) -> Search:
    """All copies among the clips. The outcome depends on the clips and their order alone. `done` is called after each of `TABLES` steps."""
    clip_of, hashes = _entries(signatures)
    pool: list[np.ndarray] = []
    links = [NO_LINKS]
    skipped = candidates = 0
    for table, mask in enumerate(_masks()):
        for pairs, missed in _meetings(hashes, clip_of, mask):
            pool.append(pairs)
            skipped += missed
        pool = [np.unique(np.concatenate(pool))] if pool else []
        if pool and (len(pool[0]) > _POOL or table == TABLES - 1):
            candidates += len(pool[0])
            links.append(_aligned(signatures, pool[0]))
            pool = []
        done()
    return Search(_tidy(Links.join(links)), len(hashes), candidates, skipped)


def _entries(signatures: Signatures) -> tuple[np.ndarray, np.ndarray]:
    """Clip and hash of what goes into the tables: of a still stretch, where hashes repeat, every fourth."""
    lengths = np.diff(signatures.starts)
    clip_of = np.repeat(np.arange(signatures.num_clips, dtype=np.int32), lengths)
    place = np.arange(len(clip_of)) - np.repeat(signatures.starts[:-1], lengths)
    step = np.full(len(clip_of), BITS, np.uint8)
    step[1:] = distance(signatures.hashes[1:], signatures.hashes[:-1])
    kept = signatures.told & ((step > 2) | (place % 4 == 0))
    return clip_of[kept], signatures.hashes[kept]


def _masks() -> Iterator[np.uint64]:
    """The bits that each table compares."""
    rng = np.random.default_rng(_SEED)
    for _ in range(TABLES):
        yield np.bitwise_or.reduce(np.uint64(1) << rng.permutation(64)[:_BAND_BITS].astype(np.uint64))


def _meetings(hashes: np.ndarray, clip_of: np.ndarray, mask: np.uint64) -> Iterator[tuple[np.ndarray, int]]:
    """Pairs of clips that meet in one table, coded as `_code` does, and the number of pairs of entries not compared."""
    pivot = mask & MIRROR
    pivot &= ~pivot + np.uint64(1)  # its lowest bit: hashes that have it are mirrored, so that twins meet
    flipped = (hashes & pivot) != 0
    canonical = np.where(flipped, hashes ^ MIRROR, hashes)
    bucket = ((canonical & mask) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    order = (bucket << np.uint64(32)) | np.arange(len(hashes), dtype=np.uint64)
    order.sort()
    bucket, order = (order >> np.uint64(32)).astype(np.uint32), (order & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    edges = np.flatnonzero(np.diff(bucket, prepend=~bucket[:1], append=~bucket[-1:]))
    sizes = np.diff(edges)
    crowded = np.repeat(sizes > _WINDOW, sizes)
    if crowded.any():
        there = order[crowded]
        order[crowded] = there[np.lexsort((there, canonical[there], bucket[crowded]))]
    big = sizes[sizes > _WINDOW].astype(np.int64)
    skipped = int((big * (big - 1) // 2 - _WINDOW * big + _WINDOW * (_WINDOW + 1) // 2).sum())
    for begin in range(0, len(order), _CHUNK):
        active = np.arange(begin, min(begin + _CHUNK, len(order)))
        found = []
        for step in range(1, _WINDOW + 1):
            active = active[: np.searchsorted(active, len(order) - step)]
            active = active[bucket[active] == bucket[active + step]]
            if not len(active):
                break
            one, other = order[active], order[active + step]
            near = distance(canonical[one], canonical[other]) <= _HIT
            one, other = one[near], other[near]
            found.append(_code(clip_of[one], clip_of[other], flipped[one] != flipped[other]))
        if found:
            yield np.unique(np.concatenate(found)), 0
    yield np.empty(0, np.uint64), skipped


def _code(one: np.ndarray, other: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Pairs of different clips as one number each: the lower clip, the higher, whether mirrored."""
    low, high = np.minimum(one, other).astype(np.uint64), np.maximum(one, other).astype(np.uint64)
    return ((low << np.uint64(32)) | (high << np.uint64(1)) | mirrored)[low != high]


def _aligned(signatures: Signatures, pairs: np.ndarray) -> Links:
    """Those of the candidate pairs that are copies."""
    if not len(pairs):
        return NO_LINKS
    low, high = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64) >> 1
    mirrored = (pairs & np.uint64(1)) != 0
    lengths = np.diff(signatures.starts)
    seconds = lengths * signatures.step_s
    swap = seconds[low] > seconds[high]
    short, long = np.where(swap, high, low), np.where(swap, low, high)
    # Pairs of like size are worked on together, in arrays of their size.
    ratio = signatures.step_s[short] / signatures.step_s[long]
    like = np.stack([-(-lengths[short] // 8) * 8, -(-lengths[long] // 8) * 8, np.round(np.log2(ratio)).astype(np.int64)], axis=1)
    shapes, group = np.unique(like, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=len(shapes)))
    parts = [NO_LINKS]
    for (rows, columns, power), members in zip(shapes.tolist(), np.split(order, ends[:-1]), strict=True):
        size = max(1, _CHUNK // (rows * columns))
        for begin in range(0, len(members), size):
            some = members[begin : begin + size]
            found = fit(signatures, short[some], long[some], mirrored[some], (rows, columns), 2.0**power)
            same_video = signatures.video[short[some]] == signatures.video[long[some]]
            found = found.take(is_copy(found, same_video[found.pair]))
            some = some[found.pair]
            flip = swap[some]
            parts.append(
                Links(
                    low[some],
                    high[some],
                    mirrored[some],
                    (1 - found.distance / BITS).astype(np.float32),
                    np.where(flip, found.covers_long, found.covers_short).astype(np.float32),
                    np.where(flip, found.covers_short, found.covers_long).astype(np.float32),
                )
            )
    return Links.join(parts)


def _tidy(links: Links) -> Links:
    """Links in order, each pair of clips once: the better of as it is and mirrored."""
    order = np.lexsort((links.mirrored, -links.similarity, links.other, links.one))
    links = links.take(order)
    first = np.ones(len(links), bool)
    first[1:] = (links.one[1:] != links.one[:-1]) | (links.other[1:] != links.other[:-1])
    return links.take(first)


def stars(links: Links, rank: np.ndarray) -> np.ndarray:
    """Clusters in which every clip is linked to the one that leads it, so that no chain brings unlike clips together.

    rank: int64 [C], 0 for the clip to keep before all others. Returns each clip's leader, itself where it leads: int64 [C]. In the order
    of rank each clip that has no leader takes the free clips that it covers. A clip that is a mere part of another comes after all that
    are not, so that no content is lost for a better piece of it.
    """
    ends = np.concatenate([links.one, links.other])
    mates = np.concatenate([links.other, links.one])
    covered = np.concatenate([links.covers_one, links.covers_other]) >= MIN_OVERLAP
    mate_covered = np.concatenate([links.covers_other, links.covers_one]) >= MIN_OVERLAP
    is_part = np.zeros(len(rank), bool)
    is_part[ends[covered & ~mate_covered]] = True
    ends, mates = ends[mate_covered], mates[mate_covered]
    order = np.lexsort((mates, ends))
    ends, mates = ends[order], mates[order]
    leaders = np.arange(len(rank))
    free = np.ones(len(rank), bool)
    linked = np.unique(ends)
    begins, stops = np.searchsorted(ends, linked, side="left"), np.searchsorted(ends, linked, side="right")
    for place in np.lexsort((rank[linked], is_part[linked])):
        clip = linked[place]
        if free[clip]:
            led = mates[begins[place] : stops[place]]
            led = led[free[led]]
            leaders[led] = clip
            free[led] = free[clip] = False
    return leaders
