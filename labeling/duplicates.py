"""All copies in a dataset: exact, near and, where asked for, semantic. In: its tables. Out: the rows of the tag group `dedup`.

Clips are worked on in order of clip_id, so neither the order of shards nor how they were cut into runs matters.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.alignment import Signatures
from curation.dedup import Links, search, stars
from curation.storage import Dataset, DatasetError
from labeling.semantic import similar
from schemas.tables import CLIPS, SIGNATURES, tag_table
from schemas.tags import tag

GROUP = "dedup"
KINDS = ("exact", "near", "mirrored", "semantic")
_EXACT, _NEAR, _MIRRORED, _SEMANTIC = range(4)
_NONE = -1  # the kind of clips that give way to none; null in the table

# Which of several copies is kept: the best by the first of these that differs, then the one of smallest clip_id. What copying loses is
# pixels and bits. quality_score compares footage, not copies: it ranks copies with a logo or of a lower frame rate above their originals.
_BEST = ("quality_short_side", "quality_bit_rate", "quality_sharpness")


@dataclass(frozen=True)
class ClipSet:
    """All clips of a dataset, C of them, in order of clip_id.

    clip_id: string [C]; shards: shard id -> numbers of its clips, in the order of its rows; duration_s: float64 [C]; content: int64 [C],
    equal where the decoded pictures are; rank: int64 [C], 0 for the best; signatures: of all.
    """

    clip_id: pa.Array
    shards: dict[str, np.ndarray]
    duration_s: np.ndarray
    content: np.ndarray
    rank: np.ndarray
    signatures: Signatures


@dataclass(frozen=True)
class Duplicates:
    """What is a copy of what. All arrays [C].

    parent: int64, the clip that each gives way to, itself where it gives way to none; root: int64, the representative at the end of
    that; kind: int8, index into `KINDS` or -1; similarity: float32, to the parent, NaN where kind is -1.
    """

    parent: np.ndarray
    root: np.ndarray
    kind: np.ndarray
    similarity: np.ndarray
    candidates: int
    skipped: int  # pairs of hashes not compared: see `curation.dedup`

    def counts(self) -> dict[str, int]:
        """Copies by kind."""
        found = Counter(self.kind[self.kind >= 0].tolist())
        return {name: found[index] for index, name in enumerate(KINDS)}

    @property
    def clusters(self) -> int:
        return len(np.unique(self.root[self.kind >= 0]))


def read_clips(dataset: Dataset, shards: Iterable[str]) -> ClipSet:
    """All clips of these shards. Raises DatasetError where some have no signature."""
    parts = {shard: dataset.read_part(CLIPS, shard, ["clip_id", "video_id", "start_s", "end_s"]) for shard in shards}
    clips = pa.concat_tables(parts.values()) if parts else CLIPS.schema.empty_table()
    order = pc.sort_indices(clips["clip_id"]).to_numpy()
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    ends = np.cumsum([part.num_rows for part in parts.values()])
    clips = clips.take(order)
    clip_id = clips["clip_id"].combine_chunks()
    signatures = dataset.read(SIGNATURES)
    place = pc.index_in(clip_id, value_set=signatures["clip_id"].combine_chunks())
    if place.null_count:
        raise DatasetError(f"{place.null_count:,} clips of {dataset.root} were curated by a Reelmill without signatures: curate them anew")
    signatures = signatures.take(place)
    return ClipSet(
        clip_id=clip_id,
        shards=dict(zip(parts, np.split(number, ends[:-1]), strict=True)) if parts else {},
        duration_s=pc.subtract(clips["end_s"], clips["start_s"]).to_numpy(),
        content=_codes(signatures["content_hash"]),
        rank=_rank(dataset, clip_id),
        signatures=_signatures(signatures, _codes(clips["video_id"])),
    )


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    """A number for each distinct value: int64 [C]."""
    return values.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _signatures(table: pa.Table, video: np.ndarray) -> Signatures:
    lists = table["hashes"].combine_chunks()
    flat = lists.flatten()
    return Signatures(
        video=video,
        starts=np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64),
        step_s=table["step_s"].to_numpy(),
        hashes=flat.fill_null(0).to_numpy(),
        told=flat.is_valid().to_numpy(zero_copy_only=False),
    )


def _rank(dataset: Dataset, clip_id: pa.Array) -> np.ndarray:
    """The order in which clips are kept: int64 [C]."""
    keys = [-_tag_values(dataset, name, clip_id) for name in _BEST]
    order = np.lexsort([np.arange(len(clip_id)), *reversed(keys)])  # NaN sorts last
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def _tag_values(dataset: Dataset, name: str, clip_id: pa.Array) -> np.ndarray:
    """A tag of each clip, NaN where it has none: float64 [C]."""
    table = dataset.read(tag_table(tag(name).group), ["clip_id", name])
    values = table[name].take(pc.index_in(clip_id, value_set=table["clip_id"].combine_chunks()))
    return values.cast(pa.float64()).to_numpy()


def find_duplicates(
    clips: ClipSet, embeddings: np.ndarray | None = None, threshold: float = 0.95, done: Callable[[], None] = lambda: None
) -> Duplicates:
    """What is a copy of what. embeddings: float16 [C, D], for semantic copies; `done` is called after each of `curation.dedup.TABLES`
    steps.

    Exact copies follow the best of them, those follow by what is near, and those that are left by what they mean.
    """
    parent = _exact(clips)
    kind = np.where(parent == np.arange(len(parent)), _NONE, _EXACT).astype(np.int8)
    similarity = np.where(kind == _EXACT, 1, np.nan).astype(np.float32)

    def follow(links: Links, among: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> None:
        leader = stars(links, clips.rank[among])
        follows = np.flatnonzero(leader != np.arange(len(among)))
        link = _link_of(links, follows, leader[follows])
        here = among[follows]
        parent[here], kind[here], similarity[here] = among[leader[follows]], of(links.mirrored[link]), links.similarity[link]

    first = np.flatnonzero(kind == _NONE)
    found = search(_only(clips.signatures, first), done)
    follow(found.links, first, lambda mirrored: np.where(mirrored, _MIRRORED, _NEAR))
    # What has the same pictures as a clip is just as near to the one that the clip gives way to.
    exact = np.flatnonzero(kind == _EXACT)
    moved = exact[kind[parent[exact]] != _NONE]
    kind[moved], similarity[moved], parent[moved] = kind[parent[moved]], similarity[parent[moved]], parent[parent[moved]]
    if embeddings is not None:
        left = np.flatnonzero(kind == _NONE)
        follow(similar(embeddings[left], threshold), left, lambda mirrored: np.full(len(mirrored), _SEMANTIC))
    return Duplicates(parent, parent[parent], kind, similarity, found.candidates, found.skipped)


def _exact(clips: ClipSet) -> np.ndarray:
    """The best of the clips with the same pictures at the same speed: int64 [C]."""
    parent = np.arange(len(clips.rank))
    order = np.lexsort((clips.rank, clips.content))
    content = clips.content[order]
    starts = np.flatnonzero(np.diff(content, prepend=-1))
    best = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
    same = np.abs(clips.duration_s[order] - clips.duration_s[best]) <= 0.01 * clips.duration_s[best]
    parent[order[same]] = best[same]
    return parent


def _only(signatures: Signatures, which: np.ndarray) -> Signatures:
    """The signatures of some clips."""
    lengths = np.diff(signatures.starts)
    kept = np.repeat(np.isin(np.arange(len(lengths)), which), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths[which])])
    return Signatures(signatures.video[which], starts, signatures.step_s[which], signatures.hashes[kept], signatures.told[kept])


def _link_of(links: Links, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which link joins each pair of clips: int64, as long as they."""
    size = np.int64(max(links.other.max(initial=0), 0) + 1)
    keys = links.one * size + links.other
    order = np.argsort(keys)
    wanted = np.minimum(one, other) * size + np.maximum(one, other)
    return order[np.searchsorted(keys[order], wanted)]


def rows(clips: ClipSet, found: Duplicates) -> Iterator[tuple[str, pa.Table]]:
    """Shard by shard, the rows of the tag group."""
    spec = tag_table(GROUP)
    smallest = np.arange(len(found.root))
    np.minimum.at(smallest, found.root, np.arange(len(found.root)))
    cluster = smallest[found.root]
    single = np.bincount(found.root, minlength=len(found.root))[found.root] == 1
    names = pa.array(KINDS)
    for shard, numbers in clips.shards.items():
        kind = found.kind[numbers]
        columns = {
            "clip_id": clips.clip_id.take(pa.array(numbers)),
            "content_duplicate_cluster": clips.clip_id.take(pa.array(cluster[numbers], mask=single[numbers])),
            "content_duplicate_representative": pa.array(kind == _NONE),
            "content_duplicate_kind": names.take(pa.array(kind, mask=kind == _NONE)),
            "content_duplicate_similarity": pa.array(found.similarity[numbers], mask=kind == _NONE),
        }
        yield shard, pa.table({name: columns[name] for name in spec.schema.names}, schema=spec.schema)


def digest(clips: ClipSet, found: Duplicates) -> str:
    """Equal in all files of one outcome: by it a reader sees whether shards belong together."""
    state = blake2b(digest_size=16)
    for part in (found.parent, found.kind, found.similarity):
        state.update(part.tobytes())
    for name in clips.clip_id.to_pylist():
        state.update(name.encode())
    return state.hexdigest()
