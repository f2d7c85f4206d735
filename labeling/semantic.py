"""Clips that mean the same, by the embeddings of their keyframes: SemDeDup (Abbas et al. 2023).

In: embeddings of one model. Out: `Links` between clips whose mean embeddings are near in direction. Clips are compared within the
clusters of a k-means only, which keeps the work linear; a pair that a border of clusters divides is missed.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.dedup import NO_LINKS, Links
from curation.storage import Dataset, DatasetError
from schemas.tables import TableSpec

_PER_CLUSTER = 1000  # clips, on average
_BATCH = 1 << 14
_BLOCK = 2048  # clips of a cluster compared at once
_SEED = 0


def mean_embeddings(dataset: Dataset, model: str, clip_ids: pa.Array) -> np.ndarray:
    """The mean of each clip's embeddings, of unit length; zeros for clips without any. clip_ids: string [C]. Returns float16 [C, D].

    Raises DatasetError where the dataset has none of this model.
    """
    spec = _table(dataset, model)
    total: np.ndarray | None = None
    for batch in dataset.scan(spec).to_batches(columns=["clip_id", "embedding"], batch_size=_BATCH):
        place = pc.index_in(batch["clip_id"], value_set=clip_ids)
        known = place.is_valid().to_numpy(zero_copy_only=False)
        rows = batch["embedding"].flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
        if total is None:
            total = np.zeros((len(clip_ids), rows.shape[1]), np.float32)
        np.add.at(total, place.drop_null().to_numpy(), rows[known].astype(np.float32))
    if total is None:
        raise DatasetError(f"{dataset.root} has no rows in embeddings/{model}: run `reelmill tag {dataset.root} --group clip`")
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.divide(total, length, out=total, where=length > 0).astype(np.float16)


def similar(embeddings: np.ndarray, threshold: float) -> Links:
    """Pairs of clips with a cosine of `threshold` and more. embeddings: float16 [C, D], of unit length or zero."""
    there = np.flatnonzero(embeddings.any(axis=1))
    cluster = _clusters(embeddings, there)
    order = there[np.argsort(cluster, kind="stable")]
    parts = [NO_LINKS]
    for members in np.split(order, np.cumsum(np.bincount(cluster))[:-1]) if len(order) else []:
        for begin in range(0, len(members), _BLOCK):
            for other in range(begin, len(members), _BLOCK):
                parts.append(_compare(embeddings, members[begin : begin + _BLOCK], members[other : other + _BLOCK], threshold))
    return Links.join(parts)


def _clusters(embeddings: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Cluster of each of these clips: int [n]."""
    count = max(1, len(there) // _PER_CLUSTER)
    if count == 1:
        return np.zeros(len(there), np.int64)
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, batch_size=_BATCH, n_init=1, random_state=_SEED)
    sample = np.random.default_rng(_SEED).permutation(there)
    for begin in range(0, len(sample) - count + 1, max(_BATCH, count)):
        batch = sample[begin : begin + max(_BATCH, count)]
        if len(batch) >= count or begin == 0:
            means.partial_fit(embeddings[np.sort(batch)].astype(np.float32))
    parts = [means.predict(embeddings[there[begin : begin + _BATCH]].astype(np.float32)) for begin in range(0, len(there), _BATCH)]
    return np.concatenate(parts).astype(np.int64)


def _compare(embeddings: np.ndarray, some: np.ndarray, others: np.ndarray, threshold: float) -> Links:
    """Links between two blocks of clips, or within one; both are in order of number."""
    cosine = embeddings[some].astype(np.float32) @ embeddings[others].astype(np.float32).T
    row, column = np.nonzero(cosine >= threshold)
    row, column = (part[some[row] < others[column]] for part in (row, column))
    ones = np.ones(len(row), np.float32)
    return Links(some[row], others[column], np.zeros(len(row), bool), np.minimum(cosine[row, column], 1), ones, ones)


def _table(dataset: Dataset, model: str) -> TableSpec:
    """The table of a model's embeddings, with the vectors' length as its files have it."""
    path = f"embeddings/{model}"
    bare = TableSpec(path, 1, pa.schema([]))
    shards = list(dataset.files(bare))
    schema = dataset.part_schema(bare, shards[0]) if shards else None
    if schema is None:
        raise DatasetError(f"{dataset.root} has no {path}: run `reelmill tag {dataset.root} --group clip`, or name another model")
    return TableSpec(path, 1, schema)
