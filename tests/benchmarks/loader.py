"""Clips a second out of spans, materialized clips and cached latents, and what loading costs a step of 200 ms; beside other loaders.

    python -m venv bench && bench/bin/pip install . webdataset mosaicml-streaming
    reelmill materialize M.parquet --out CLIPS --short-side 240 --preset veryfast
    bench/bin/python -m tests.benchmarks.loader M.parquet CLIPS/manifest.parquet

A virtual environment of its own, since mosaicml-streaming asks for older versions of numpy and transformers. All loaders give the
same windows of the same clips in the same shapes, with 2 processes that read 2 batches ahead. Pixels: 17 frames at 8 a second
of 320x180 pixels in area, decoded by the same code. Latents: 16 x T x H/8 x W/8 numbers of 16 bits (random ones, since only
reading is measured) of up to 81 frames at 24 a second of 640x360. `rows` is a torch dataset over a Parquet file with 16 rows to
a row group, of which a random one is read for each clip. A step is a sleep; `wait` is the share of the time of steps that the
next batch is waited for, after the first ten. Everything is in the page cache.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from schemas.manifest import read_manifest
from training.balance import plan_balance
from training.config import DataConfig, ShapesConfig
from training.data import ClipSource, Contents, Order, Pixels
from training.encoding.cache import Cache, write_shard
from training.latents import CachedLatents, latent_key
from training.loader import load_steps
from training.packing import Loads, PackPlanner, PlanState
from training.pixels import read_windows, window_of
from training.ranks import Ranks
from training.sampler import make_sampler
from training.shapes import Shape, Shapes, Token, plan_shapes

WORKERS, WARM_UP, ROW_GROUP, CHANNELS = 2, 10, 16, 16
PIXELS = ShapesConfig(areas=[[320, 180]], max_frames=17, fps=8)
LATENTS = ShapesConfig(areas=[[640, 360]], max_frames=81, fps=24)
TOKEN = Token(8, 4)
ORIGIN = ""
Batches = Callable[[int], Iterator[Sequence[Tensor]]]
"""samples a batch -> batches without end"""


@dataclass(frozen=True)
class Sample:
    """A clip as the other loaders keep it: its bytes, and what it takes to make a tensor of them."""

    data: bytes
    row: dict[str, Any]
    shape: Shape


def pixels_of(sample: Sample) -> Tensor:
    """The window by the code that all use, out of a file in memory."""
    handle = os.memfd_create("clip")
    try:
        os.write(handle, sample.data)
        window = window_of(sample.row["num_frames"], sample.shape, 0, 1)
        return read_windows({**sample.row, "uri": f"/proc/self/fd/{handle}"}, [(sample.shape, window)])[0]
    finally:
        os.close(handle)


def latents_of(sample: Sample) -> Tensor:
    """float32 [C, T, H, W] of the bytes."""
    shape = (CHANNELS, 1 + (sample.shape.frames - 1) // 4, sample.shape.height // 8, sample.shape.width // 8)
    return torch.frombuffer(bytearray(sample.data), dtype=torch.float16).reshape(shape).float()


# ---- ours ----


def ours(rows: pa.Table, shapes: Shapes, contents: Contents) -> Batches:
    """Packed batches of a budget that holds so many clips in the mean."""
    config = DataConfig(windows_per_clip=1)

    def batches(count: int) -> Iterator[Sequence[Tensor]]:
        sampler = make_sampler(plan_balance(rows, None), "m", 0)
        budget = max(int(shapes.tokens.mean() * count), int(shapes.tokens.max()))
        planner = PackPlanner(Loads(shapes.tokens, shapes.buckets, budget, 1), sampler.rows, PlanState())
        source = ClipSource(rows, config, contents, 0)
        with closing(load_steps(source, planner, Order(sampler, shapes, 1), Ranks(), WORKERS)) as steps:
            for step in steps:
                yield [clip.content for read in step.batches for clip in read.clips]

    return batches


# ---- the others ----


class Rows(Dataset[Tensor]):
    """One random row of a Parquet file for each sample."""

    def __init__(self, path: Path, samples: Sequence[Sample], make: Callable[[Sample], Tensor]):
        self._path, self._samples, self._make = path, [(sample.row, sample.shape) for sample in samples], make
        table = pa.table({"data": pa.array([sample.data for sample in samples], pa.large_binary())})
        pq.write_table(table, path, row_group_size=ROW_GROUP, compression="none", use_dictionary=False)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Tensor:
        with pq.ParquetFile(self._path) as file:
            data = file.read_row_group(index // ROW_GROUP)["data"][index % ROW_GROUP].as_py()
        return self._make(Sample(data, *self._samples[index]))


def as_list(samples: Sequence[Tensor]) -> list[Tensor]:
    return list(samples)


def from_rows(folder: Path, samples: Sequence[Sample], make: Callable[[Sample], Tensor]) -> Batches:
    dataset = Rows(folder / "rows.parquet", samples, make)

    def batches(count: int) -> Iterator[Sequence[Tensor]]:
        loader = DataLoader(
            dataset, count, True, num_workers=WORKERS, prefetch_factor=2, collate_fn=as_list, multiprocessing_context="fork",
            persistent_workers=True, drop_last=True,
        )  # fmt: skip
        while True:
            yield from loader

    return batches


def from_webdataset(folder: Path, samples: Sequence[Sample], make: Callable[[Sample], Tensor]) -> Batches:
    import webdataset

    facts = [(sample.row, sample.shape) for sample in samples]
    with webdataset.ShardWriter(str(folder / "part-%04d.tar"), maxsize=64e6, verbose=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:08d}", "bin": sample.data})
    shards = sorted(map(str, folder.glob("part-*.tar")))

    def sample_of(item: dict[str, Any]) -> Tensor:
        return make(Sample(item["bin"], *facts[int(item["__key__"])]))

    def batches(count: int) -> Iterator[Sequence[Tensor]]:
        dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), nodesplitter=None, empty_check=False, resampled=True)
        dataset = dataset.shuffle(100).map(sample_of).batched(count, collation_fn=as_list)
        yield from DataLoader(dataset, None, num_workers=WORKERS, prefetch_factor=2, multiprocessing_context="fork")

    return batches


def from_streaming(folder: Path, samples: Sequence[Sample], make: Callable[[Sample], Tensor]) -> Batches:
    from streaming import MDSWriter, StreamingDataset

    facts = [(sample.row, sample.shape) for sample in samples]
    with MDSWriter(out=str(folder / "mds"), columns={"number": "int", "data": "bytes"}) as writer:
        for number, sample in enumerate(samples):
            writer.write({"number": number, "data": sample.data})

    class Stream(StreamingDataset):
        def __getitem__(self, at: int) -> Any:
            item = super().__getitem__(at)
            return make(Sample(item["data"], *facts[item["number"]]))

    def batches(count: int) -> Iterator[Sequence[Tensor]]:
        dataset = Stream(local=str(folder / "mds"), shuffle=True, batch_size=count)
        while True:
            yield from DataLoader(
                dataset, count, num_workers=WORKERS, prefetch_factor=2, collate_fn=as_list, drop_last=True, multiprocessing_context="fork",
            )  # fmt: skip

    return batches


OTHERS = {"rows": from_rows, "webdataset": from_webdataset, "mosaicml-streaming": from_streaming}


# ---- what is measured ----


def throughput(batches: Batches, count: int, seconds: float) -> float:
    """Samples a second, nobody taking time over them."""
    with closing(batches(count)) as source:
        for _ in islice(source, 5):
            pass
        began, samples = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            samples += len(next(source))
        return samples / (time.perf_counter() - began)


def wait_share(batches: Batches, count: int, step_s: float, steps: int) -> tuple[float, float]:
    """The share of the time of steps that the next batch is waited for, and samples a step."""
    waits, samples = [], 0
    with closing(batches(count)) as source:
        for number in range(WARM_UP + steps):
            began = time.perf_counter()
            batch = next(source)
            if number >= WARM_UP:
                waits.append(time.perf_counter() - began)
                samples += len(batch)
            time.sleep(step_s)
    return sum(waits) / (sum(waits) + steps * step_s), samples / steps


def report(kind: str, loaders: dict[str, Batches], counts: Sequence[int], asked: argparse.Namespace) -> None:
    for name, batches in loaders.items():
        rates = f"{throughput(batches, counts[-1], asked.seconds):8.1f} samples/s"
        shares = [wait_share(batches, count, asked.step_ms / 1e3, asked.steps) for count in counts]
        waits = "  ".join(f"{samples:.1f} a step: wait {share:.2%}" for share, samples in shares)
        print(f"{kind:8} {name:20} {rates}   {waits}", flush=True)


def samples_of(rows: pa.Table, shapes: Shapes, data: Callable[[int, dict[str, Any]], bytes]) -> list[Sample]:
    return [Sample(data(number, row), row, shapes.of(number)) for number, row in enumerate(rows.to_pylist())]


def random_latents(number: int, shape: Shape) -> Tensor:
    size = (CHANNELS, 1 + (shape.frames - 1) // 4, shape.height // 8, shape.width // 8)
    return torch.randn(size, generator=torch.Generator().manual_seed(number)).half()


def fill_cache(folder: Path, rows: pa.Table, shapes: Shapes) -> Cache:
    """Shards of 128 clips, as `reelmill encode` writes them."""
    everything = rows.to_pylist()
    for first in range(0, len(everything), 128):
        tensors = {}
        for number in range(first, min(first + 128, len(everything))):
            row, shape = everything[number], shapes.of(number)
            tensors[latent_key(row, shape, window_of(row["num_frames"], shape, 0, 1), ORIGIN)] = random_latents(number, shape)
        write_shard(folder, tensors, {})
    return Cache(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("clips", type=Path, help="the manifest of the same clips, materialized")
    for name, value in (("seconds", 10.0), ("steps", 60), ("step-ms", 200.0)):
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--pixels-a-step", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--latents-a-step", type=int, nargs="+", default=[2, 8, 16])
    asked = parser.parse_args()
    spans, clips = (read_manifest(path).rows for path in (asked.manifest, asked.clips))
    keep = ("clip_id", "uri", "start_frame", "num_frames", "start_s", "end_s", "fps", "width", "height")
    keep = (*keep, "crop_x", "crop_y", "crop_w", "crop_h")
    spans, clips = spans.select(keep), clips.select(keep)
    span_shapes, clip_shapes = (plan_shapes(rows, PIXELS, TOKEN) for rows in (spans, clips))
    report("spans", {"reelmill": ours(spans, span_shapes, Pixels())}, asked.pixels_a_step, asked)
    with tempfile.TemporaryDirectory() as name:
        files = samples_of(clips, clip_shapes, lambda number, row: Path(row["uri"]).read_bytes())
        others = {kind: make(Path(name), files, pixels_of) for kind, make in OTHERS.items()}
        report("clips", {"reelmill": ours(clips, clip_shapes, Pixels()), **others}, asked.pixels_a_step, asked)
    with tempfile.TemporaryDirectory() as name:
        shapes = plan_shapes(spans, LATENTS, TOKEN)
        cached = ours(spans, shapes, CachedLatents(fill_cache(Path(name) / "cache", spans, shapes), ORIGIN))
        kept = samples_of(spans, shapes, lambda number, row: random_latents(number, shapes.of(number)).numpy().tobytes())
        print(f"latents of {np.mean([len(sample.data) for sample in kept]) / 1e6:.2f} MB in the mean")
        others = {kind: make(Path(name), kept, latents_of) for kind, make in OTHERS.items()}
        report("latents", {"reelmill": cached, **others}, asked.latents_a_step, asked)


if __name__ == "__main__":
    main()
