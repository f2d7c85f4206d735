"""A dataset on disk or in object storage: atomic shard files, what is done, and one writer at a time.

A shard is committed when its file in videos/ exists; that file is written last. Readers see committed shards only.
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from curation.frames import local_path
from schemas.records import Failure
from schemas.tables import FAILURES, MADE_FROM_KEY, VIDEOS, TableSpec, check_version, to_arrow

_PART, _SUFFIX = "part-", ".parquet"
_JOURNAL, _JOURNAL_SUFFIX = ".journal", ".jsonl"  # hidden: readers of a folder of Parquet files pass it over


class DatasetError(Exception):
    """A dataset that cannot be read or written; the message says why and what to do."""


@dataclass(frozen=True)
class Dataset:
    """The tables under one root: a local path or any fsspec URL."""

    root: str

    @cached_property
    def _storage(self) -> tuple[AbstractFileSystem, str]:
        if path := local_path(self.root):
            return url_to_fs("file://" + str(path.absolute()))[0], str(path.absolute())
        filesystem, path_there = url_to_fs(self.root)
        return filesystem, path_there.rstrip("/")

    @property
    def _is_local(self) -> bool:
        return local_path(self.root) is not None

    @cached_property
    def _arrow_fs(self) -> pafs.FileSystem:
        return pafs.LocalFileSystem() if self._is_local else pafs.PyFileSystem(pafs.FSSpecHandler(self._storage[0]))

    def path(self, *parts: str) -> str:
        """Full path of something below the root, as the dataset's own file system names it."""
        return "/".join((self._storage[1], *parts))

    def exists(self) -> bool:
        """Whether there is a dataset here."""
        return self._storage[0].exists(self.path(VIDEOS.path))

    def create(self) -> None:
        """Make the root where it is missing. Raises DatasetError where it cannot be written."""
        try:
            self._storage[0].makedirs(self.path(VIDEOS.path), exist_ok=True)
            self._write_bytes(self.path(f".writable-{uuid.uuid4().hex}"), b"", keep=False)
        except OSError as error:
            raise DatasetError(f"cannot write to {self.root}: {error.strerror or error}") from error

    def shards(self) -> list[str]:
        """Ids of the committed shards, sorted."""
        return sorted(self._parts(VIDEOS))

    def tag_groups(self) -> list[str]:
        """Names of the tag groups that have any file, sorted."""
        return self._folders("tags")

    def captioners(self) -> list[str]:
        """Names of the captioners whose captions are here, sorted."""
        return self._folders("captions")

    def _folders(self, name: str) -> list[str]:
        filesystem = self._storage[0]
        if not filesystem.exists(self.path(name)):
            return []
        return sorted(
            entry["name"].rsplit("/", 1)[-1] for entry in filesystem.ls(self.path(name), detail=True) if entry["type"] == "directory"
        )

    def _part(self, spec: TableSpec, shard: str) -> str:
        """Path of a shard's file of a table."""
        return self.path(spec.path, f"{_PART}{shard}{_SUFFIX}")

    def _parts(self, spec: TableSpec) -> dict[str, str]:
        """Shard id -> path of each file of a table, committed or not."""
        filesystem, folder = self._storage[0], self.path(spec.path)
        if not filesystem.exists(folder):
            return {}
        names = {path: path.rsplit("/", 1)[-1] for path in filesystem.ls(folder, detail=False)}
        return {name[len(_PART) : -len(_SUFFIX)]: path for path, name in names.items() if name.startswith(_PART) and name.endswith(_SUFFIX)}

    def uncommitted(self, specs: Iterable[TableSpec]) -> list[str]:
        """Ids of shards that a killed run began and nobody finished, sorted."""
        return sorted({shard for spec in specs for shard in self._parts(spec)} - set(self.shards()))

    def files(self, spec: TableSpec) -> dict[str, str]:
        """Shard id -> path of each committed file of a table, in order of shard id."""
        committed = set(self.shards())
        return {shard: path for shard, path in sorted(self._parts(spec).items()) if shard in committed}

    def scan(self, spec: TableSpec) -> pads.Dataset:
        """A table as a lazy Arrow dataset over its committed files. Raises SchemaVersionError where it is newer than this code."""
        files = list(self.files(spec).values())
        if files:
            check_version(spec, pq.read_schema(files[0], filesystem=self._arrow_fs))
        return (
            pads.dataset(files, schema=spec.schema, format="parquet", filesystem=self._arrow_fs)
            if files
            else pads.dataset(spec.schema.empty_table())
        )

    def read(self, spec: TableSpec, columns: Sequence[str] | None = None) -> pa.Table:
        """A table's committed rows, in order of shard id."""
        return self.scan(spec).to_table(columns=list(columns) if columns is not None else None)

    def digests(self, specs: Iterable[TableSpec]) -> dict[str, str]:
        """Dataset-relative path -> SHA-256 of every committed file of these tables."""
        return {f"{spec.path}/{_PART}{shard}{_SUFFIX}": self._digest(path) for spec in specs for shard, path in self.files(spec).items()}

    def _digest(self, path: str) -> str:
        return sha256(self._storage[0].cat_file(path)).hexdigest()

    def part_schema(self, spec: TableSpec, shard: str) -> pa.Schema | None:
        """The schema that a shard's file of a table carries; None where there is no such file. Raises SchemaVersionError."""
        path = self._part(spec, shard)
        if not self._storage[0].exists(path):
            return None
        schema = pq.read_schema(path, filesystem=self._arrow_fs)
        check_version(spec, schema)
        return schema

    def num_rows(self, spec: TableSpec, shard: str) -> int:
        """Number of rows in a shard's file of a table."""
        return pq.read_metadata(self._part(spec, shard), filesystem=self._arrow_fs).num_rows

    def read_part(self, spec: TableSpec, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A shard's rows of a table; columns newer than its file are null. Raises FileNotFoundError."""
        part = pads.dataset(self._part(spec, shard), schema=spec.schema, format="parquet", filesystem=self._arrow_fs)
        return part.to_table(columns=list(columns) if columns is not None else None)

    def stream_part(self, spec: TableSpec, shard: str, rows: int) -> Iterator[dict[str, Any]]:
        """A shard's rows of a table one by one, `rows` of them in memory at a time."""
        with pq.ParquetFile(self._part(spec, shard), filesystem=self._arrow_fs) as file:
            for batch in file.iter_batches(rows):
                yield from batch.to_pylist()

    def write_part(self, spec: TableSpec, shard: str, table: pa.Table, made_from: str = "") -> None:
        """Write a shard's file of one table, in place of any that was there, atomically."""
        metadata = {**(spec.schema.metadata or {}), **({MADE_FROM_KEY: made_from.encode()} if made_from else {})}
        self._write_table(self._part(spec, shard), table.replace_schema_metadata(metadata))

    def replace_failures(self, shard: str, stage: str, failures: Sequence[Failure]) -> None:
        """Make `failures` the shard's rows of failures/ for a stage that works on clips, in place of any that were there."""
        table = self.read_part(FAILURES, shard)
        kept = table.filter(pc.not_equal(table["stage"], stage))
        if failures or kept.num_rows < table.num_rows:
            self.write_part(FAILURES, shard, pa.concat_tables([kept, to_arrow(FAILURES, map(asdict, failures))]))

    def digest_part(self, spec: TableSpec, shard: str) -> str | None:
        """SHA-256 of a shard's file of a table; None where there is no such file."""
        path = self._part(spec, shard)
        return self._digest(path) if self._storage[0].exists(path) else None

    def write_shard(self, shard: str, tables: Sequence[tuple[TableSpec, Iterable[Mapping[str, Any]]]]) -> None:
        """Write one file per table, each atomically and in the order given, which must end with videos: the commit."""
        for spec, rows in tables:
            self.write_part(spec, shard, to_arrow(spec, map(dict, rows)))

    def _write_table(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write_bytes(path, sink.getvalue())

    def write_journal(self, spec: TableSpec, shard: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """Keep entries that a shard's file of a table will be made of once they are all there; they are on disk when this returns."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex}{_JOURNAL_SUFFIX}"
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        self._write_bytes(self.path(spec.path, _JOURNAL, shard, name), lines.encode())

    def read_journal(self, spec: TableSpec, shard: str) -> dict[str, list[dict[str, Any]]]:
        """Entries kept for a shard, by the file they are in, the oldest file first."""
        filesystem, folder = self._storage[0], self.path(spec.path, _JOURNAL, shard)
        names = sorted(filesystem.ls(folder, detail=False)) if filesystem.exists(folder) else []
        whole = [name for name in names if name.endswith(_JOURNAL_SUFFIX) and not name.rsplit("/", 1)[-1].startswith(".")]
        return {name: [json.loads(line) for line in filesystem.cat_file(name).splitlines()] for name in whole}

    def drop_journal(self, spec: TableSpec, shard: str, files: Iterable[str] | None = None) -> None:
        """Remove files of a shard's journal, by default all that is left of it."""
        if files is not None:
            for name in files:
                self._storage[0].rm_file(name)
        elif self._storage[0].exists(folder := self.path(spec.path, _JOURNAL, shard)):
            self._storage[0].rm(folder, recursive=True)

    def journaled(self, spec: TableSpec) -> list[str]:
        """Ids of the shards that have a journal, sorted."""
        return self._folders(f"{spec.path}/{_JOURNAL}")

    def drop_failures(self, uris: set[str]) -> None:
        """Remove the rows of these inputs from failures/, so that they count as pending."""
        for path in self.files(FAILURES).values():
            table = pq.read_table(path, schema=FAILURES.schema, filesystem=self._arrow_fs)
            kept = table.filter(pc.invert(pc.is_in(table["uri"], value_set=pa.array(sorted(uris), pa.string()))))
            if kept.num_rows < table.num_rows:
                self._write_table(path, kept)

    def write_run(self, run_id: str, record: Mapping[str, Any]) -> str:
        """Store a run record as runs/<run_id>.json and return its path."""
        path = self.path("runs", f"{run_id}.json")
        self._write_bytes(path, json.dumps(record, indent=1, sort_keys=True, default=str).encode())
        return path

    def runs(self) -> list[dict[str, Any]]:
        """All run records, in order of run id."""
        filesystem, folder = self._storage[0], self.path("runs")
        names = sorted(filesystem.glob(f"{folder}/*.json")) if filesystem.exists(folder) else []
        return [json.loads(filesystem.cat_file(name)) for name in names]

    def _write_bytes(self, path: str, data: Any, keep: bool = True) -> None:
        filesystem = self._storage[0]
        if not self._is_local:  # an object appears whole or not at all
            filesystem.pipe_file(path, bytes(data))
            if not keep:
                filesystem.rm_file(path)
            return
        scratch = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{uuid.uuid4().hex}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(scratch, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if keep:
                os.replace(scratch, path)
        finally:
            if os.path.exists(scratch):
                os.unlink(scratch)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer on this machine. The lock goes with the process, however it ends. Raises DatasetError."""
        if not self._is_local:  # see README: one writer at a time is the caller's care there
            yield
            return
        with open(self.path(".lock"), "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise DatasetError(
                    f"{self.root} is being written by process {handle.read().strip() or '?'}: wait for it to end, then run again"
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield
