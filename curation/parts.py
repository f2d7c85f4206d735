"""The forms in which cut clips lie in a folder: a file each, or rows of Parquet parts of some 256 MB.

A clip is named by its file's name, which says what is in it. The Parquet form packs the files that cutting leaves, in an order
given beforehand: whatever the number of workers, and however often a run was killed, parts begin and end with the same clips.
A part is never changed or removed again, so that a manifest that names its clips stays true; what failed and came later is
in a further part. On disk, all clips lie there once, and at most one part's twice.
"""

import os
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation.encode import CutError
from curation.slices import Slice

PART_BYTES = 256_000_000
"""A part is complete once it has so many bytes of media."""
_MOST_BYTES = 2**31 - 1024  # of a value: Parquet counts a page in 32 bits with a sign
_VERSION = b"1"  # of the layout, part of every name
_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),  # of the file that it would be
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("media", pa.large_binary(), nullable=False),
    ]
)
_SCRATCH = ".part."


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a clip is, and its size."""

    uri: str
    num_bytes: int


@dataclass(frozen=True)
class FileForm:
    """Every clip a file, in folders by the first two letters of their names."""

    folder: Path

    @property
    def cut_into(self) -> Path:
        """Where files are cut to."""
        return self.folder

    def holds_any(self) -> bool:
        """Whether anything is there in this form."""
        return any(self.folder.glob("[!.]*/[!.]*"))

    def stored(self) -> dict[str, Stored]:
        """What is there, by the name of its file."""
        return {path.name: Stored(str(path), path.stat().st_size) for path in self.folder.glob("[!.]*/[!.]*")}

    def clean(self, stored: Container[str]) -> None:
        """Remove what a killed run left half done. Not while clips are cut."""
        for left in self.folder.glob("[!.]*/.*"):
            left.unlink()


@dataclass(frozen=True)
class ParquetForm:
    """Every clip a row group of its own in a part: clip_id, name, num_bytes, and the bytes as they are."""

    folder: Path

    @property
    def cut_into(self) -> Path:
        """Where files are cut to, before they are packed."""
        return self.folder / ".cut"

    def holds_any(self) -> bool:
        """Whether anything is there in this form."""
        return self.cut_into.exists() or any(self.folder.glob("[!.]*.parquet"))

    def stored(self) -> dict[str, Stored]:
        """What is there, by the name of the file that it would be. Raises CutError for a Parquet file of another layout."""
        return dict(clip for path in sorted(self.folder.glob("[!.]*.parquet")) for clip in _clips_of(path))

    def clean(self, stored: Container[str]) -> None:
        """Remove what a killed run left half done, and files that are `stored` in parts. Not while clips are cut."""
        for left in (*self.folder.glob(f"{_SCRATCH}*"), *self.cut_into.glob("*/.*")):
            left.unlink()
        for file in self.cut_into.glob("*/*"):
            if file.name in stored:
                file.unlink()
        for folder in (*self.cut_into.glob("*"), self.cut_into):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()


Form = FileForm | ParquetForm


def _clips_of(path: Path) -> Iterator[tuple[str, Stored]]:
    """Name and place of each clip of a part, from its footer alone."""
    try:
        metadata = pq.read_metadata(path)
        if not metadata.schema.to_arrow_schema().equals(_SCHEMA):
            raise CutError(f"{path} is none of the parts that Reelmill writes here: move it away")
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            name, num_bytes, media = (group.column(column) for column in (1, 2, 3))
            if group.num_rows != 1 or media.compression != "UNCOMPRESSED" or not (name.is_stats_set and num_bytes.is_stats_set):
                raise CutError(f"{path} was written by another program: move it away")
            size = num_bytes.statistics.min
            # The only value of an uncompressed column chunk is at its end.
            place = Slice(path, media.data_page_offset + media.total_compressed_size - size, size)
            yield name.statistics.min, Stored(place.uri, size)
    except (OSError, pa.ArrowException) as error:
        raise CutError(f"{path} cannot be read: {error}") from error


class Packer:
    """Moves clips from the files that cutting left into parts, as soon as it is known what comes next.

    `clips` are all that are wanted and in no part yet, as (source, clip_id, file), in the order in which they are stored.
    """

    def __init__(self, folder: Path, clips: Iterable[tuple[str, str, Path]]):
        self._folder = folder
        self._waiting = deque(clips)
        self._next: list[tuple[str, Path]] = []
        self._bytes = 0
        self.too_large: list[Path] = []  # files that no Parquet value can hold, left where they are

    def advance(self, jobs_left: Mapping[str, int]) -> None:
        """Pack up to the first clip of a source with jobs left. What is not there by then was not cut. Raises CutError."""
        while self._waiting and not jobs_left.get(self._waiting[0][0]):
            _, clip_id, path = self._waiting.popleft()
            if not path.exists():
                continue
            size = path.stat().st_size
            if size > _MOST_BYTES:
                self.too_large.append(path)
                continue
            self._next.append((clip_id, path))
            self._bytes += size
            if self._bytes >= PART_BYTES:
                self._write()
        if not self._waiting and self._next:
            self._write()

    def _write(self) -> None:
        write_part(self._folder, self._next)
        for _, path in self._next:
            path.unlink()
        self._next, self._bytes = [], 0


def write_part(folder: Path, clips: Sequence[tuple[str, Path]]) -> Path:
    """Files as a part, named by theirs, that appears whole or not at all. Raises CutError where it cannot be written."""
    names = "\0".join(path.name for _, path in clips).encode()
    target = folder / f"part-{blake2b(_VERSION + names, digest_size=16).hexdigest()}.parquet"
    scratch = folder / f"{_SCRATCH}{target.name}"
    try:
        with pa.OSFile(str(scratch), "wb") as sink:
            # Statistics are where `stored` finds names and sizes; others would only make the footer longer.
            options = {"compression": "none", "use_dictionary": False, "write_statistics": ["name", "num_bytes"]}
            with pq.ParquetWriter(sink, _SCHEMA, **options) as writer:
                for clip_id, path in clips:
                    writer.write_table(_row(clip_id, path))
        _sync(scratch)
        os.replace(scratch, target)
        _sync(folder)  # for the clips' own files are removed next
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CutError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _row(clip_id: str, path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        media = source.read_buffer()
    value = pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.array([0, media.size], pa.int64()).buffers()[1], media])
    return pa.Table.from_arrays([pa.array([clip_id]), pa.array([path.name]), pa.array([media.size]), value], schema=_SCHEMA)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
