"""Keeps entries on disk as they come, many at a time where they come faster than the disk."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from curation.storage import Dataset
from schemas.tables import TableSpec

Entry = Mapping[str, Any]


class Journal:
    """Entries for the shards of one table."""

    def __init__(self, dataset: Dataset, table: TableSpec):
        self._dataset, self._table = dataset, table
        self._waiting: list[tuple[str, Sequence[Entry], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def add(self, shard: str, *entries: Entry) -> None:
        """Returns when the entries are on disk, all of them at once."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((shard, entries, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await written

    async def close(self) -> None:
        """Returns when all entries are on disk, also those whose adder is gone."""
        if self._writer:
            await self._writer

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            error = None
            try:
                await asyncio.to_thread(self._store, [(shard, entries) for shard, entries, _ in batch])
            except Exception as raised:  # whatever a file system can raise goes to those who wait for it
                error = raised
            for _, _, written in batch:
                if not written.done():  # its adder was cancelled
                    written.set_exception(error) if error else written.set_result(None)
        self._writer = None

    def _store(self, batch: Sequence[tuple[str, Sequence[Entry]]]) -> None:
        by_shard: dict[str, list[Entry]] = {}
        for shard, entries in batch:
            by_shard.setdefault(shard, []).extend(entries)
        for shard, together in by_shard.items():
            self._dataset.write_journal(self._table, shard, together)
