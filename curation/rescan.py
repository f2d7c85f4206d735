"""Scan tags measured again on existing clips: the one case in which tag groups need the videos."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from curation.clips import cut_out
from curation.isolate import own_worker
from curation.rows import tag_rows, video_record
from curation.scan import Scan, ScanConfig
from curation.shots import ClipSpan
from curation.sources import Found, Source, identify
from curation.stage import ScanStage, TagReport
from curation.storage import Dataset
from schemas.ids import clip_id
from schemas.records import Failure, FailureCode, TagRecord
from schemas.tables import CLIPS, VIDEOS, tag_table, to_arrow, written_version


@dataclass(frozen=True)
class RescanJob:
    """The scan groups to measure again on one shard."""

    dataset: str
    shard: str
    groups: tuple[str, ...]
    stage: ScanStage
    num_clips: int


def pending_rescans(dataset: Dataset, groups: Sequence[str], stage: ScanStage, force: bool) -> list[RescanJob]:
    """Shards that lack one of these scan groups or have it of an older version. Raises SchemaVersionError."""
    jobs = []
    for shard in dataset.shards():
        schemas = {group: dataset.part_schema(tag_table(group), shard) for group in groups}
        todo = [group for group, schema in schemas.items() if force or schema is None or written_version(schema) < tag_table(group).version]
        if todo:
            jobs.append(RescanJob(dataset.root, shard, tuple(todo), stage, dataset.num_rows(CLIPS, shard)))
    return jobs


def run_rescan(job: RescanJob) -> TagReport:
    """Decode a shard's videos again and write the groups, without touching any other table.

    Where any of the videos cannot be scanned, the groups stay as they were.
    """
    began = time.monotonic()
    dataset, worker, name = Dataset(job.dataset), own_worker("curation.rescan"), job.stage.name
    spans: dict[str, list[ClipSpan]] = {}
    for clip in dataset.read_part(CLIPS, job.shard).to_pylist():
        span = ClipSpan(clip["start_frame"], clip["num_frames"], clip["boundary_in"], clip["boundary_out"])
        spans.setdefault(clip["video_id"], []).append(span)
    found: list[TagRecord] = []
    failures: list[Failure] = []
    for video in dataset.read_part(VIDEOS, job.shard).to_pylist():
        video_id, uri = video["video_id"], video["uri"]
        if video_id not in spans:
            continue
        source = identify(Found(uri, dict(video["extra"])), {uri: (video["fingerprint"], video_id)})
        if not source.problem and source.content_id != video_id:
            source = replace(source, problem=(FailureCode.NOT_FOUND, "the file at this address is another one now"))
        rows = job.stage.scan(worker, source, partial(measure_again, spans=spans[video_id], groups=job.groups))
        found += [row for row in rows if isinstance(row, TagRecord)]
        failed = [row for row in rows if isinstance(row, Failure)]
        failures += [
            Failure(video_id, clip_id(video_id, span.start_frame, span.num_frames), uri, name, row.code, row.message, row.retryable)
            for row in failed
            for span in spans[video_id]
        ]
    if not failures:
        for group in job.groups:
            rows_of_group = ({"clip_id": row.clip_id, **row.values} for row in found if row.group == group)
            dataset.write_part(tag_table(group), job.shard, to_arrow(tag_table(group), rows_of_group))
    dataset.replace_failures(job.shard, name, failures)
    return TagReport(job.shard, job.groups, job.num_clips, time.monotonic() - began, Counter(row.code for row in failures))


def measure_again(scan: Scan, source: Source, config: ScanConfig, spans: Sequence[ClipSpan], groups: Sequence[str]) -> Iterator[TagRecord]:
    """The tags of clips that were cut before, in these groups."""
    video = video_record(scan, source)
    for span in spans:
        yield from tag_rows(cut_out(scan, span, video, config), video, groups)
