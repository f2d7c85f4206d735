"""Clips as taggers and captioners see them: rows and keyframes of a shard come in, one `ClipView` per clip goes out.

Everything comes from the tables of the dataset; no video is decoded.
"""

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from curation.storage import Dataset
from labeling.tagger import ClipView, Embedder, Keyframe
from schemas.tables import CLIPS, KEYFRAMES, VIDEOS, caption_table, embedding_table, tag_table
from schemas.tags import tag

_KEYFRAMES_READ = 256  # in memory at a time


def clip_views(
    dataset: Dataset, shard: str, reads: Collection[str] = (), captioner: str | None = None, embedder: Embedder | None = None
) -> Iterator[ClipView]:
    """The clips of a shard in their order, with the tags `reads`, the short captions of `captioner` and the vectors of `embedder`.

    What the shard does not hold is left out, but raises FileNotFoundError for embeddings. Keyframes are read as they are needed.
    """
    videos = {row["video_id"]: row for row in dataset.read_part(VIDEOS, shard).to_pylist()}
    tags = _tags(dataset, shard, reads)
    captions = _captions(dataset, shard, captioner) if captioner else {}
    embeddings = _embeddings(dataset, shard, embedder) if embedder else {}
    pictures = itertools.groupby(dataset.stream_part(KEYFRAMES, shard, _KEYFRAMES_READ), lambda row: row["clip_id"])
    coming = next(pictures, None)  # keyframes lie in the order of clips; a clip may have none
    for clip in dataset.read_part(CLIPS, shard).to_pylist():
        keyframes: tuple[Keyframe, ...] = ()
        if coming and coming[0] == clip["clip_id"]:
            keyframes = tuple(Keyframe(row["time_s"], row["frame"], row["jpeg"]) for row in coming[1])
            coming = next(pictures, None)
        name, video = clip["clip_id"], videos[clip["video_id"]]
        yield ClipView(clip, video, keyframes, tags.get(name, {}), captions.get(name), embeddings.get(name))


def _tags(dataset: Dataset, shard: str, reads: Collection[str]) -> dict[str, dict[str, Any]]:
    """clip_id -> tag -> value of the tags `reads`."""
    found: dict[str, dict[str, Any]] = {}
    for group in sorted({tag(name).group for name in reads}):
        spec = tag_table(group)
        if dataset.part_schema(spec, shard) is None:
            continue
        names = [name for name in reads if tag(name).group == group]
        for row in dataset.read_part(spec, shard, ["clip_id", *names]).to_pylist():
            found.setdefault(row.pop("clip_id"), {}).update({name: value for name, value in row.items() if value is not None})
    return found


def _captions(dataset: Dataset, shard: str, captioner: str) -> dict[str, str]:
    """clip_id -> short caption; none where the captioner has not come to this shard."""
    spec = caption_table(captioner)
    if dataset.part_schema(spec, shard) is None:
        return {}
    rows = dataset.read_part(spec, shard, ["clip_id", "caption_short"]).to_pylist()
    return {row["clip_id"]: row["caption_short"] for row in rows if row["caption_short"]}


def _embeddings(dataset: Dataset, shard: str, embedder: Embedder) -> dict[str, np.ndarray]:
    """clip_id -> float32 [number of keyframes, D]."""
    table = dataset.read_part(embedding_table(embedder.name, embedder.size), shard)
    vectors = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, embedder.size)
    ids = np.array(table["clip_id"].to_pylist(), object)
    starts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)]
    return {ids[start]: vectors[start:end] for start, end in itertools.pairwise(starts) if end > start}
