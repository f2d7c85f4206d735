"""Which copies are kept, and clips that mean the same: on made-up clips, through real tables."""

import numpy as np
import pyarrow as pa
import pytest

from curation.alignment import Signatures
from curation.storage import Dataset, DatasetError
from labeling import semantic
from labeling.duplicates import KINDS, ClipSet, find_duplicates, rows
from labeling.semantic import mean_embeddings, similar
from schemas.tables import VIDEOS, embedding_table, to_arrow


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def scattered(count, size=64, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, size)))


def clip_set(hashes, content=None, duration_s=None, rank=None):
    """Clips of 20 hashes each: uint64 [C, 20]."""
    count = len(hashes)
    return ClipSet(
        clip_id=pa.array([f"clip{number:04}" for number in range(count)]),
        shards={"a": np.arange(count // 2)[::-1], "b": np.arange(count // 2, count)},
        duration_s=np.full(count, 5.0) if duration_s is None else np.array(duration_s),
        content=np.arange(count) if content is None else np.array(content),
        rank=np.arange(count) if rank is None else np.array(rank),
        signatures=Signatures(np.arange(count), np.arange(count + 1) * 20, np.full(count, 0.25), hashes.ravel(), np.ones(20 * count, bool)),
    )


def noise(shape, seed, rarity=4):
    """Hashes with one bit in 2 ** rarity set."""
    rng = np.random.default_rng(seed)
    return np.bitwise_and.reduce(rng.integers(0, 2**64, (rarity, *shape), np.uint64, endpoint=False))


def other_pictures(count, seed=0):
    return noise((count, 20), seed, rarity=1)


def test_each_copy_names_its_kind_and_the_best_is_kept():
    hashes = other_pictures(6)
    hashes[1] = hashes[0] ^ noise((20,), 1)  # a near copy, and the best
    hashes[2] = hashes[0]  # the same pictures as 0
    hashes[3] = hashes[5]  # the same pictures as 5 at another speed: not exact
    clips = clip_set(hashes, content=[0, 1, 0, 3, 4, 3], duration_s=[5, 5, 5, 6, 5, 5], rank=[1, 0, 2, 5, 4, 3])
    found = find_duplicates(clips)
    kinds = [KINDS[kind] if kind >= 0 else None for kind in found.kind]
    assert found.root.tolist() == [1, 1, 1, 5, 4, 5]
    assert kinds == ["near", None, "near", "near", None, None]
    assert found.similarity[2] == found.similarity[0] < 1
    assert found.counts() == {"exact": 0, "near": 3, "mirrored": 0, "semantic": 0}
    without = find_duplicates(clip_set(hashes[[0, 2, 4]], content=[7, 7, 1]))
    assert [KINDS[kind] if kind >= 0 else None for kind in without.kind] == [None, "exact", None]


def test_rows_name_the_cluster_and_leave_null_what_is_not():
    hashes = other_pictures(5)
    hashes[3] = hashes[1]
    clips = clip_set(hashes, content=[0, 1, 2, 1, 4], rank=[0, 4, 2, 3, 1])
    written = {shard: table.to_pylist() for shard, table in rows(clips, find_duplicates(clips))}
    assert [row["clip_id"] for row in written["a"]] == ["clip0001", "clip0000"], "in the order of the shard's rows"
    row = {one["clip_id"]: one for part in written.values() for one in part}
    assert row["clip0000"]["content_duplicate_cluster"] is None
    assert row["clip0000"]["content_duplicate_representative"] is True
    assert row["clip0001"]["content_duplicate_cluster"] == row["clip0003"]["content_duplicate_cluster"] == "clip0001"
    assert not row["clip0001"]["content_duplicate_representative"]
    assert (row["clip0001"]["content_duplicate_kind"], row["clip0001"]["content_duplicate_similarity"]) == ("exact", 1.0)
    assert (row["clip0003"]["content_duplicate_kind"], row["clip0003"]["content_duplicate_similarity"]) == (None, None)


def test_what_means_the_same_follows_after_what_looks_the_same():
    hashes = other_pictures(4)
    hashes[1] = hashes[0] ^ noise((20,), 1)
    meaning = scattered(4)
    meaning[2] = unit(meaning[0] + 0.1 * meaning[3])
    clips = clip_set(hashes, rank=[1, 2, 0, 3])
    found = find_duplicates(clips, meaning.astype(np.float16), 0.95)
    assert [KINDS[kind] if kind >= 0 else None for kind in found.kind] == ["semantic", "near", None, None]
    assert found.parent.tolist() == [2, 0, 2, 3]
    assert found.root.tolist() == [2, 2, 2, 3]
    assert found.similarity[0] == pytest.approx(float(meaning[0] @ meaning[2]), abs=0.01)


def test_clips_near_in_direction_are_linked_also_across_blocks(monkeypatch):
    monkeypatch.setattr(semantic, "_BLOCK", 7)
    vectors = scattered(50)
    vectors[40] = unit(vectors[3] + 0.05 * vectors[5])
    vectors[4] = 0
    vectors[44] = 0
    found = similar(vectors.astype(np.float16), 0.95)
    assert (found.one.tolist(), found.other.tolist()) == ([3], [40])


def test_clusters_keep_like_clips_together(monkeypatch):
    monkeypatch.setattr(semantic, "_PER_CLUSTER", 50)
    monkeypatch.setattr(semantic, "_BATCH", 128)
    base = scattered(200)
    vectors = np.concatenate([base, unit(base + 0.05 * scattered(200, seed=1))]).astype(np.float16)
    found = similar(vectors, 0.95)
    linked = set(zip(found.one.tolist(), found.other.tolist(), strict=True))
    assert len(linked & {(k, k + 200) for k in range(200)}) >= 190
    assert linked <= {(k, k + 200) for k in range(200)}


def test_a_clip_has_the_mean_of_its_keyframes(tmp_path):
    dataset = Dataset(str(tmp_path))
    dataset.create()
    dataset.write_part(VIDEOS, "s", VIDEOS.schema.empty_table())
    with pytest.raises(DatasetError, match="embeddings/clip"):
        mean_embeddings(dataset, "clip", pa.array(["a"]))
    frames = scattered(3, 8)
    spec = embedding_table("clip", 8)
    keys = (("b", 0), ("a", 0), ("b", 1))
    table = [{"clip_id": name, "index": index, "embedding": list(frames[k].astype(np.float16))} for k, (name, index) in enumerate(keys)]
    dataset.write_part(spec, "s", to_arrow(spec, table))
    means = mean_embeddings(dataset, "clip", pa.array(["a", "b", "c"]))
    assert means[0] == pytest.approx(frames[1], abs=1e-3)
    assert means[1] == pytest.approx(unit(frames[0] + frames[2]), abs=1e-3)
    assert not means[2].any()
