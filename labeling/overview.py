"""What a dataset holds, what failed, and what is left to do: the facts behind `reelmill status` and the head of a report."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage import Dataset
from labeling.catalog import caption_table, tag_tables
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, SIGNATURES, VIDEOS, TableSpec, written_version
from schemas.tags import WEIGHT_FREE


@dataclass(frozen=True)
class TagGroup:
    """One tag group: how many clips have a row, and the share of clips with a value, by tag."""

    name: str
    clips: int
    coverage: Mapping[str, float]
    outdated_shards: int  # written by an older version of the group's methods
    missing_shards: int


@dataclass(frozen=True)
class Pending:
    """What another run would do. `leftovers` are shards that a run wrote part of and did not commit."""

    leftovers: tuple[str, ...]
    outdated_groups: tuple[str, ...]
    incomplete_groups: tuple[str, ...]  # known, and not measured on every shard
    retryable_failures: int
    unknown_groups: tuple[str, ...]  # of a newer Reelmill, or no longer made


@dataclass(frozen=True)
class Overview:
    """A dataset at a glance."""

    root: str
    shards: int
    videos: int
    clips: int
    keyframes: int
    short_clips: int
    video_hours: float
    clip_hours: float
    size_bytes: int
    boundaries: Mapping[str, int]  # how clips begin: kind -> clips
    groups: tuple[TagGroup, ...]
    captions: Mapping[str, int]  # captioner -> clips
    failures: Mapping[str, int]  # code -> items
    runs: tuple[Mapping[str, Any], ...]
    pending: Pending


def overview(dataset: Dataset) -> Overview:
    """Gather the facts of a dataset. Reads no JPEG, and of each table only the columns it counts."""
    clips = dataset.read(CLIPS, ["start_s", "end_s", "boundary_in", "is_short"])
    videos = dataset.read(VIDEOS, ["duration_s", "size_bytes"])
    failures = dataset.read(FAILURES, ["code", "retryable"])
    tables = tag_tables(dataset)
    groups = tuple(_group(dataset, name, spec, clips.num_rows) for name, spec in tables.items())
    shards = len(dataset.shards())
    missing = {group.name: group.missing_shards for group in groups}
    return Overview(
        root=dataset.root,
        shards=shards,
        videos=videos.num_rows,
        clips=clips.num_rows,
        keyframes=dataset.scan(KEYFRAMES).count_rows(),
        short_clips=_sum(clips["is_short"]),
        video_hours=_sum(videos["duration_s"]) / 3600,
        clip_hours=_sum(pc.subtract(clips["end_s"], clips["start_s"])) / 3600,
        size_bytes=_sum(videos["size_bytes"]),
        boundaries=_counts(clips["boundary_in"]),
        groups=groups,
        captions={name: dataset.scan(caption_table(name)).count_rows() for name in dataset.captioners()},
        failures=_counts(failures["code"]),
        runs=tuple(dataset.runs()),
        pending=Pending(
            leftovers=_leftovers(dataset, tables.values()),
            outdated_groups=tuple(group.name for group in groups if group.outdated_shards),
            incomplete_groups=tuple(name for name in dict.fromkeys((*WEIGHT_FREE, *tables)) if missing.get(name, shards)),
            retryable_failures=_sum(failures["retryable"]),
            unknown_groups=tuple(sorted(set(dataset.tag_groups()) - set(tables))),
        ),
    )


def _group(dataset: Dataset, name: str, spec: TableSpec, clips: int) -> TagGroup:
    scanned = dataset.scan(spec)
    tags = [field.name for field in spec.schema if field.name != "clip_id"]
    values: Counter[str] = Counter()
    rows = 0
    for batch in scanned.to_batches(columns=tags):
        rows += batch.num_rows
        values.update({tag: batch.num_rows - batch[tag].null_count for tag in tags})
    coverage = {tag: values[tag] / max(clips, 1) for tag in tags}
    written = [written_version(fragment.physical_schema) for fragment in scanned.get_fragments()] if rows else []
    outdated = sum(version < spec.version for version in written)
    return TagGroup(name, rows, coverage, outdated, len(dataset.shards()) - len(dataset.files(spec)))


def _leftovers(dataset: Dataset, groups: Iterable[TableSpec]) -> tuple[str, ...]:
    return tuple(dataset.uncommitted([CLIPS, KEYFRAMES, SIGNATURES, FAILURES, *groups]))


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    """Value -> count, the most frequent first."""
    return dict(Counter(values.to_pylist()).most_common())


def _sum(values: pa.ChunkedArray) -> Any:
    return pc.sum(values).as_py() or 0
