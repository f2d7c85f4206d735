"""What it costs to reach a random clip: as a file, as a slice of a Parquet part, and as a row that pyarrow finds by its footer.

    python tests/benchmarks/clip_reads.py OUT [--parts 20] [--rows 850] [--reads 600] [--frames 17]

OUT is a folder that `reelmill materialize` (--to files) has made. Its clips are copied, again and again, into as many files and
parts as asked for, and read in a random order through the page cache. Prints CPU milliseconds a read: open up to the video stream,
and a window of frames. A row read has its bytes in memory, with footers kept for all parts, for four of them, or for none.
"""

import argparse
import io
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import av
import pyarrow.parquet as pq

from curation.frames import CONTAINERS, FrameReader, open_media, video_stream
from curation.parts import ParquetForm, write_part
from curation.slices import parse_slice
from schemas.manifest import read_manifest


def cpu_ms(read: Callable[[int], object], order: Sequence[int]) -> float:
    """The least of three passes."""
    found = []
    for _ in range(3):
        began = time.process_time()
        for number in order:
            read(number)
        found.append((time.process_time() - began) / len(order) * 1e3)
    return min(found)


def open_only(uri: str) -> None:
    with open_media(uri) as container:
        video_stream(container)


def open_row(path: Path, row: int, footer: Callable[[Path], pq.FileMetaData]) -> None:
    """The same through pyarrow, as a reader of rows would do it."""
    with pq.ParquetFile(path, metadata=footer(path)) as file:
        data = file.read_row_group(row, columns=["media"])["media"][0].as_buffer()
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
    with av.open(io.BytesIO(data), "r", container_options=options, metadata_errors="replace") as container:
        video_stream(container)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, value in (("parts", 20), ("rows", 850), ("reads", 600), ("frames", 17)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    clips = read_manifest(asked.out / "manifest.parquet").rows.to_pylist()
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        base, files = Path(folder), []
        for part in range(asked.parts):
            rows = [(f"{part}x{row}", base / "files" / f"{part}x{row}.mp4") for row in range(asked.rows)]
            (base / "files").mkdir(exist_ok=True)
            for _, path in rows:
                shutil.copy(clips[len(files) % len(clips)]["uri"], path)
                files.append(path)
            write_part(base, rows)
        stored = ParquetForm(base).stored()
        slices = [stored[path.name].uri for path in files]
        parts = [parse_slice(uri).path for uri in slices]
        order = random.Random(0).choices(range(len(files)), k=asked.reads)
        size = sum(path.stat().st_size for path in set(parts)) / asked.parts
        print(f"{len(files)} clips in {asked.parts} parts of {size / 1e6:.0f} MB, CPU ms a read")
        print(f"open, file                       {cpu_ms(lambda number: open_only(str(files[number])), order):.3f}")
        print(f"open, slice                      {cpu_ms(lambda number: open_only(slices[number]), order):.3f}")
        for kept in (asked.parts, 4, 0):
            footer = lru_cache(kept)(pq.read_metadata)
            cost = cpu_ms(lambda number: open_row(parts[number], number % asked.rows, footer), order)  # noqa: B023 (called at once)
            print(f"open, row, {kept:4} footers kept     {cost:.3f}")
        for name, uris in (("file", files), ("slice", slices)):

            def window(number: int, uris: Sequence[object] = uris) -> None:
                clip = clips[number % len(clips)]
                count = min(asked.frames, clip["num_frames"])
                numbers = range((clip["num_frames"] - count) // 2, (clip["num_frames"] + count) // 2)
                FrameReader(str(uris[number])).read(numbers, [one / clip["fps"] for one in numbers])

            print(f"{asked.frames} frames, {name:5}                 {cpu_ms(window, order[: asked.reads // 6]):.2f}")


if __name__ == "__main__":
    main()
