"""Time and memory of `reelmill dedup` on a dataset of made-up clips, and whether it finds the copies among them.

    python tests/benchmarks/dedup_scale.py [--clips 1000000]

Clips have 8-40 hashes that drift from picture to picture. One in ten copies another: at 0.8-1.25 of its speed, with four bits of each
hash turned, every tenth mirrored. One in fifty begins with one of 50 common pictures, as title cards do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from curation.signals.hashing import MIRROR
from curation.storage import Dataset
from schemas.tables import CLIPS, SIGNATURES, VIDEOS, TableSpec, tag_table

ROOT = Path(__file__).parents[2]
_SHARD = 2000
_STEP_S = 0.25
_ONE = np.uint64(1)


@dataclass(frozen=True)
class Clips:
    """starts: int64 [C + 1]; hashes: uint64 [M]; source: int64 [C], what each clip copies, itself where it copies none; card: bool [C]."""

    starts: np.ndarray
    hashes: np.ndarray
    source: np.ndarray
    card: np.ndarray


def make(count: int, seed: int = 0) -> Clips:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, 41, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    total = int(starts[-1])
    clip_of = np.repeat(np.arange(count), lengths)

    def turned(share: float) -> np.ndarray:
        """One bit or none for each hash."""
        bits = _ONE << rng.integers(0, 64, total, np.uint8).astype(np.uint64)
        bits[rng.random(total) > share] = 0
        return bits

    drift = np.bitwise_xor.accumulate(turned(0.9) ^ turned(0.6))
    first = rng.integers(0, 2**64, count, np.uint64)
    card = rng.random(count) < 0.02
    first[card] = rng.integers(0, 2**64, 50, np.uint64)[rng.integers(0, 50, card.sum())]
    hashes = first[clip_of] ^ drift ^ drift[starts[:-1]][clip_of]
    source = np.arange(count)
    copies = np.flatnonzero(~card & (rng.random(count) < 0.1))
    originals = np.setdiff1d(np.flatnonzero(~card), copies)
    source[copies] = rng.choice(originals, len(copies))
    rates = rng.choice([0.8, 0.9, 1.0, 1.1, 1.25], len(copies))
    flip = np.where(rng.random(len(copies)) < 0.1, MIRROR, np.uint64(0))
    for copy, original, rate, mask in zip(copies.tolist(), source[copies].tolist(), rates.tolist(), flip, strict=True):
        shown = np.floor((np.arange(lengths[copy]) + 0.5) * rate).astype(np.int64)
        shown = shown[shown < lengths[original]]
        hashes[starts[copy] : starts[copy] + len(shown)] = hashes[starts[original] + shown] ^ mask
    noise = np.bitwise_and.reduce([rng.integers(0, 2**64, total, np.uint64) for _ in range(4)])
    noise[source[clip_of] == clip_of] = 0
    return Clips(starts, hashes ^ noise, source, card)


def filled(spec: TableSpec, count: int, **columns: pa.Array) -> pa.Table:
    """A table with these columns; the others are null, zero or empty."""
    for field in spec.schema:
        if field.name not in columns:
            empty = pa.nulls(count, field.type)
            if not field.nullable and pa.types.is_primitive(field.type):
                empty = pa.array(np.zeros(count)).cast(pa.int8()).cast(field.type)
            elif not field.nullable:
                empty = pa.array([[] if pa.types.is_map(field.type) else ""] * count, field.type)
            columns[field.name] = empty
    return pa.table({name: columns[name] for name in spec.schema.names}, schema=spec.schema)


def write(clips: Clips, root: str) -> None:
    """A dataset of these clips; clip c has the id c, and its number is its quality."""
    dataset = Dataset(root)
    dataset.create()
    count = len(clips.source)
    for begin in range(0, count, _SHARD):
        numbers = np.arange(begin, min(begin + _SHARD, count))
        ids = pa.array([f"{number:032d}" for number in numbers.tolist()])
        first, last = clips.starts[numbers[0]], clips.starts[numbers[-1] + 1]
        lists = pa.ListArray.from_arrays(
            pa.array(clips.starts[begin : begin + len(numbers) + 1] - first, pa.int32()), clips.hashes[first:last]
        )
        seconds = pa.array(np.diff(clips.starts)[numbers] * _STEP_S)
        shard, quality = f"{begin:032d}", tag_table("quality")
        size = len(numbers)
        dataset.write_part(
            SIGNATURES,
            shard,
            filled(SIGNATURES, size, clip_id=ids, content_hash=ids, step_s=pa.array(np.full(size, _STEP_S)), hashes=lists),
        )
        dataset.write_part(quality, shard, filled(quality, size, clip_id=ids))
        dataset.write_part(CLIPS, shard, filled(CLIPS, size, clip_id=ids, video_id=ids, end_s=seconds))
        dataset.write_part(VIDEOS, shard, filled(VIDEOS, 1, video_id=ids[:1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clips = make(args.clips)
        write(clips, scratch)
        print(f"{args.clips:,} clips, {len(clips.hashes):,} hashes, {(clips.source != np.arange(args.clips)).sum():,} copies")
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "dedup", scratch, "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout
        record = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        print(
            f"{time.monotonic() - began:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of CPU, peak memory {usage.ru_maxrss / 1e6:.2f} GB"
        )
        print({name: record[name] for name in ("copies", "clusters", "compared_pairs", "skipped_hash_pairs")})
        tags = Dataset(scratch).read(tag_table("dedup"), ["clip_id", "content_duplicate_cluster"]).to_pydict()
        cluster = {
            int(name): int(cluster)
            for name, cluster in zip(tags["clip_id"], tags["content_duplicate_cluster"], strict=True)
            if cluster is not None
        }
    copies = np.flatnonzero(clips.source != np.arange(args.clips)).tolist()
    source = clips.source.tolist()
    together = sum(cluster.get(copy, -1) == cluster.get(source[copy], -2) for copy in copies)
    members = [number for number in cluster if not clips.card[number]]
    right = sum(source[number] == source[cluster[number]] for number in members)
    print(f"in one cluster with what it copies: {together / len(copies):.4f}; of the members of clusters right: {right / len(members):.4f}")


if __name__ == "__main__":
    main()
