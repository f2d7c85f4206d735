"""What is left to do: from sources and the rows already there to shards of pending work."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curation.sources import Source, mark_duplicates
from curation.stage import Shard
from curation.storage import Dataset
from schemas.records import FailureCode
from schemas.tables import FAILURES, VIDEOS

_COLUMNS = ["video_id", "uri", "fingerprint"]


@dataclass(frozen=True)
class Ledger:
    """Which inputs a dataset accounts for: those with a row in videos/, and those with one in failures/."""

    videos: pa.Table
    failures: pa.Table

    @classmethod
    def read(cls, dataset: Dataset) -> "Ledger":
        failures = dataset.scan(FAILURES).to_table(columns=[*_COLUMNS, "code", "retryable"], filter=pc.field("clip_id").is_null())
        return cls(dataset.read(VIDEOS, _COLUMNS), failures)

    @property
    def known(self) -> dict[str, tuple[str, str]]:
        """Address -> (fingerprint, content id) of every input that has been read; spares reading it again."""
        tables = [table.select(_COLUMNS) for table in (self.failures, self.videos)]
        rows = [row for table in tables for row in table.to_pylist() if row["fingerprint"]]
        return {row["uri"]: (row["fingerprint"], row["video_id"]) for row in rows}

    @property
    def holders(self) -> dict[str, str]:
        """Content id -> address of the input that holds its row."""
        rows = [row for row in self.failures.to_pylist() if row["code"] != FailureCode.DUPLICATE] + self.videos.to_pylist()
        return {row["video_id"]: row["uri"] for row in rows}

    @property
    def done(self) -> set[tuple[str, str]]:
        """(address, content id) of every input that has its row."""
        return {(row["uri"], row["video_id"]) for table in (self.videos, self.failures) for row in table.to_pylist()}

    def failures_of(self, uris: Iterable[str]) -> Counter[str]:
        """How many of these inputs are in failures/, by code."""
        wanted = set(uris)
        return Counter(row["code"] for row in self.failures.to_pylist() if row["uri"] in wanted)

    def outdated(self, sources: Iterable[Source], retry: bool) -> set[str]:
        """Addresses among `sources` whose failure no longer counts: the file is another one now, or it is to be tried again."""
        failed = {row["uri"]: row for row in self.failures.to_pylist()}
        return {
            source.uri
            for source in sources
            if (row := failed.get(source.uri)) and (row["video_id"] != source.content_id or (retry and row["retryable"]))
        }


@dataclass(frozen=True)
class Plan:
    """The work of one run."""

    shards: list[Shard]
    num_done: int


def plan(sources: Iterable[Source], ledger: Ledger, shard_size: int) -> Plan:
    """Shards of the sources that have no row yet.

    Sources are taken in order of their keys, `shard_size` at a time. Whole shards are committed, so what a killed run leaves
    undone falls into the same shards again, and the finished tables are the same as without the kill.
    """
    marked = mark_duplicates(sources, ledger.holders)
    done = ledger.done
    pending = sorted((source for source in marked if (source.uri, source.content_id) not in done), key=lambda source: source.key)
    shards = [Shard(tuple(pending[start : start + shard_size])) for start in range(0, len(pending), shard_size)]
    return Plan(shards, len(marked) - len(pending))
