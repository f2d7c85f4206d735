"""What a dataset holds, what failed, and what is left to do: the facts behind `reelmill status` and the head of a report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.storage import Dataset
from labeling.catalog import tag_tables
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, SIGNATURES, VIDEOS, TableSpec, caption_stage, caption_table, written_version
from schemas.tags import WEIGHT_FREE

_SPENT = ("requests", "tokens_in", "tokens_out", "cost")  # what the `extra` of such a failure may hold


@dataclass(frozen=True)
class TagGroup:
    """One tag group: how many clips have a row, and the share of clips with a value, by tag."""

    name: str
    clips: int
    coverage: Mapping[str, float]
    outdated_shards: int  # written by an older version of the group's methods
    missing_shards: int


@dataclass(frozen=True)
class CaptionRun:
    """The last run of a captioner that captioned anything. Rates are per second of the whole run; tokens are those in and out."""

    run_id: str
    captioned_clips: int
    seconds: float
    tokens_in: int | None
    tokens_out: int | None
    cost: float | None
    clips_per_s: float | None
    tokens_per_s: float | None


@dataclass(frozen=True)
class Captions:
    """One captioner's captions. Requests, tokens and cost are also those of clips that failed, as far as they were told."""

    captioner: str
    models: Mapping[str, int]  # model -> clips
    prompt_versions: Mapping[str, int]
    clips: int  # that have a row
    captioned: int  # whose row has a text
    null_reasons: Mapping[str, int]
    failures: int
    retryable_failures: int
    missing: int  # clips with neither row nor failure
    journaled: int  # of these, clips that a run which was stopped has done: the next one makes rows of them
    camera_agrees: int
    camera_disagrees: int
    requests: int
    tokens_in: int
    tokens_out: int
    seconds: float  # from asking to answer, summed over clips that have a row
    cost: float | None  # None where no price was given
    last_run: CaptionRun | None


@dataclass(frozen=True)
class Pending:
    """What another run would do. `leftovers` are shards that a run wrote part of and did not commit."""

    leftovers: tuple[str, ...]
    outdated_groups: tuple[str, ...]
    incomplete_groups: tuple[str, ...]  # known, and not measured on every shard
    retryable_failures: int  # but for those of captioners
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
    captions: tuple[Captions, ...]
    failures: Mapping[str, int]  # code -> items
    runs: tuple[Mapping[str, Any], ...]
    pending: Pending


def overview(dataset: Dataset) -> Overview:
    """Gather the facts of a dataset. Reads no JPEG, and of each table only the columns it counts."""
    clips = dataset.read(CLIPS, ["clip_id", "start_s", "end_s", "boundary_in", "is_short"])
    videos = dataset.read(VIDEOS, ["duration_s", "size_bytes"])
    failures = dataset.read(FAILURES, ["clip_id", "stage", "code", "retryable", "extra"])
    runs = tuple(dataset.runs())
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
        captions=tuple(_captions(dataset, name, clips["clip_id"], failures, runs) for name in dataset.captioners()),
        failures=_counts(failures["code"]),
        runs=runs,
        pending=Pending(
            leftovers=_leftovers(dataset, tables.values()),
            outdated_groups=tuple(group.name for group in groups if group.outdated_shards),
            incomplete_groups=tuple(name for name in dict.fromkeys((*WEIGHT_FREE, *tables)) if missing.get(name, shards)),
            retryable_failures=_sum(failures.filter(pc.invert(pc.starts_with(failures["stage"], caption_stage(""))))["retryable"]),
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


def _captions(dataset: Dataset, name: str, clip_ids: pa.ChunkedArray, failures: pa.Table, runs: Sequence[Mapping[str, Any]]) -> Captions:
    texts = ["caption_short", "caption_medium", "caption_dense"]
    facts = ["reason", "camera_agrees", "model", "prompt_version", "requests", "tokens_in", "tokens_out", "seconds", "cost"]
    rows = dataset.read(caption_table(name), ["clip_id", *texts, *facts])
    failed = failures.filter(pc.equal(failures["stage"], caption_stage(name)))
    spent = [{key: float(value) for key, value in extra if key in _SPENT} for extra in failed["extra"].to_pylist()]
    totals = {key: _sum(rows[key]) + sum(one.get(key, 0) for one in spent) for key in _SPENT}
    has_cost = rows["cost"].null_count < rows.num_rows or any("cost" in one for one in spent)
    known = pa.chunked_array([*rows["clip_id"].chunks, *failed["clip_id"].chunks], pa.string())
    captioned_runs = [run for run in runs if (run.get("command"), run.get("captioner")) == ("caption", name) and run.get("captioned_clips")]
    return Captions(
        captioner=name,
        models=_counts(rows["model"]),
        prompt_versions=_counts(rows["prompt_version"]),
        clips=rows.num_rows,
        captioned=_sum(pc.is_valid(pc.coalesce(*(rows[text] for text in texts)))),
        null_reasons=_counts(rows["reason"].drop_null()),
        failures=failed.num_rows,
        retryable_failures=_sum(failed["retryable"]),
        missing=_sum(pc.invert(pc.is_in(clip_ids, value_set=known))),
        journaled=len(_journaled(dataset, name) - set(known.to_pylist())),
        camera_agrees=_sum(rows["camera_agrees"]),
        camera_disagrees=_sum(pc.invert(rows["camera_agrees"])),
        requests=int(totals["requests"]),
        tokens_in=int(totals["tokens_in"]),
        tokens_out=int(totals["tokens_out"]),
        seconds=_sum(rows["seconds"]),
        cost=totals["cost"] if has_cost else None,
        last_run=_caption_run(captioned_runs[-1]) if captioned_runs else None,
    )


def _journaled(dataset: Dataset, name: str) -> set[str]:
    """Ids of the clips that are done in the journals of a captioner."""
    spec = caption_table(name)
    lines = (line for shard in dataset.journaled(spec) for lines in dataset.read_journal(spec, shard).values() for line in lines)
    return {end["clip_id"] for line in lines if (end := line.get("row") or line.get("failure"))}


def _caption_run(record: Mapping[str, Any]) -> CaptionRun:
    clips, seconds = record["captioned_clips"], record["seconds"]
    tokens_in, tokens_out = record.get("tokens_in"), record.get("tokens_out")
    tokens = [count for count in (tokens_in, tokens_out) if count is not None]
    return CaptionRun(
        run_id=record["run_id"],
        captioned_clips=clips,
        seconds=seconds,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=record.get("cost"),
        clips_per_s=clips / seconds if seconds else None,
        tokens_per_s=sum(tokens) / seconds if seconds and tokens else None,
    )


def _leftovers(dataset: Dataset, groups: Iterable[TableSpec]) -> tuple[str, ...]:
    return tuple(dataset.uncommitted([CLIPS, KEYFRAMES, SIGNATURES, FAILURES, *groups]))


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    """Value -> count, the most frequent first."""
    return dict(Counter(values.to_pylist()).most_common())


def _sum(values: pa.ChunkedArray) -> Any:
    return pc.sum(values).as_py() or 0
