"""Runs taggers over the shards of a dataset: what is pending, and one shard at a time.

A tagger works in a process of its own. Where that dies or hangs, the shard is gone through again clip by clip, and the clip
it ended on becomes a row of failures/ with no values in its row of the group.
"""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from curation.isolate import Crashed, Expired, own_worker, report
from curation.stage import TagReport
from curation.storage import Dataset
from labeling.tagger import ClipView, Embedder, Tagger, TaggerError, active_picture
from labeling.views import clip_views
from schemas.records import Failure, FailureCode
from schemas.tables import CLIPS, TableSpec, caption_table, embedding_table, made_from, tag_table, to_arrow, written_version
from schemas.tags import tag

_BATCH = 16  # clips given to a tagger at once


@dataclass(frozen=True)
class TagJob:
    """The groups to measure on one shard, in the order in which they need each other."""

    dataset: str
    shard: str
    taggers: tuple[Tagger, ...]
    num_clips: int
    limit_s: float


def table_of(tagger: Tagger) -> TableSpec:
    """The table that a tagger fills."""
    return tag_table(tagger.group, tagger.tags)


def pending(dataset: Dataset, taggers: Iterable[Tagger], force: bool, limit_s: float) -> list[TagJob]:
    """What there is to do: groups that a shard lacks, has of an older version, or has made from something older.

    Raises SchemaVersionError where a group is of a newer Reelmill.
    """
    ordered = in_order(taggers)
    jobs = []
    for shard in dataset.shards():
        todo: list[Tagger] = []
        for tagger in ordered:
            renewed = {one.group for one in todo} & _groups_read(tagger)
            if force or renewed or _is_outdated(dataset, shard, tagger):
                todo.append(tagger)
        if todo:
            jobs.append(TagJob(dataset.root, shard, tuple(todo), dataset.num_rows(CLIPS, shard), limit_s))
    return jobs


def in_order(taggers: Iterable[Tagger]) -> list[Tagger]:
    """Taggers after those whose tags they read. Raises TaggerError for a circle."""
    waiting, done = list(taggers), []
    while waiting:
        open_groups = {tagger.group for tagger in waiting}
        ready = [tagger for tagger in waiting if not _groups_read(tagger) & open_groups]
        if not ready:
            raise TaggerError(f"tag groups read each other in a circle: {', '.join(sorted(open_groups))}")
        done += ready
        waiting = [tagger for tagger in waiting if tagger not in ready]
    return done


def run_tags(job: TagJob) -> TagReport:
    """Measure the groups of a job and write one file for each."""
    began = time.monotonic()
    dataset, failures = Dataset(job.dataset), Counter[str]()
    for tagger in job.taggers:
        source = made_from_what(dataset, job.shard, tagger)
        if tagger.embedder and not _is_embedded(dataset, job.shard, tagger.embedder):
            spec = embedding_table(tagger.embedder.name, tagger.embedder.size)
            failures += _store(
                dataset, job, spec, tagger.embedder.version, f"embed:{tagger.embedder.name}", _contained(_embed, job, tagger)
            )
        failures += _store(dataset, job, table_of(tagger), source, f"tag:{tagger.group}", _contained(_tag, job, tagger))
    groups = tuple(tagger.group for tagger in job.taggers)
    return TagReport(job.shard, groups, job.num_clips, time.monotonic() - began, dict(failures))


def _store(dataset: Dataset, job: TagJob, spec: TableSpec, source: str, stage: str, part: "_Part") -> Counter[str]:
    """Write a part and its failures; returns these by code."""
    dataset.write_part(spec, job.shard, part.table, source)
    failed = [_failure(clip, stage, code, message) for clip, (code, message) in part.failed.items()]
    dataset.replace_failures(job.shard, stage, failed)
    return Counter(row.code for row in failed)


def made_from_what(dataset: Dataset, shard: str, tagger: Tagger) -> str:
    """What a group's values would be made from now: versions of the model and of the groups it reads, as stored with them."""
    versions: dict[str, object] = {"embedder": f"{tagger.embedder.name} {tagger.embedder.version}"} if tagger.embedder else {}
    for group in sorted(_groups_read(tagger)):
        schema = dataset.part_schema(tag_table(group), shard)
        versions[group] = written_version(schema) if schema else None
    if tagger.captioner:
        versions["captions"] = f"{tagger.captioner} {dataset.digest_part(caption_table(tagger.captioner), shard)}"
    return json.dumps(versions, sort_keys=True) if versions else ""


def _groups_read(tagger: Tagger) -> set[str]:
    return {tag(name).group for name in tagger.reads}


def _is_outdated(dataset: Dataset, shard: str, tagger: Tagger) -> bool:
    spec = table_of(tagger)
    schema = dataset.part_schema(spec, shard)
    return schema is None or written_version(schema) < spec.version or made_from(schema) != made_from_what(dataset, shard, tagger)


def _is_embedded(dataset: Dataset, shard: str, embedder: Embedder) -> bool:
    schema = dataset.part_schema(embedding_table(embedder.name, embedder.size), shard)
    return schema is not None and made_from(schema) == embedder.version


@dataclass(frozen=True)
class _Part:
    """A file's rows, and the clips that have no values."""

    table: pa.Table
    failed: Mapping["Place", tuple[FailureCode, str]]


def _contained(function: Callable[..., _Part], job: TagJob, tagger: Tagger) -> _Part:
    """`function` in this thread's worker process, with the clips left out on which it died or hung."""
    batch, left_out = _BATCH, dict[int, tuple[FailureCode, str]]()
    while True:
        try:
            return own_worker(__name__).run(function, job, tagger, batch, left_out, limit_s=job.limit_s)
        except (Crashed, Expired) as error:
            if not error.progress.frames:
                raise TaggerError(f"the tagger {tagger.group} could not be loaded: {error}") from error
            if batch == 1:
                code = FailureCode.CRASHED if isinstance(error, Crashed) else FailureCode.TIMEOUT
                left_out[error.progress.frames - 1] = (code, str(error))
            batch = 1


def _tag(job: TagJob, tagger: Tagger, batch: int, left_out: Mapping[int, tuple[FailureCode, str]]) -> _Part:
    """In the worker: the rows of a group for one shard. `left_out`: numbers of clips not to touch, and why."""
    rows, failed = [], {}
    clips = clip_views(Dataset(job.dataset), job.shard, tagger.reads, tagger.captioner, tagger.embedder)
    for clip, values in _values(_opened(tagger), clips, batch, left_out):
        if isinstance(values, tuple):
            failed[_place(clip)] = values
        rows.append({"clip_id": clip.clip_id, **({} if isinstance(values, tuple) else values)})
    return _Part(to_arrow(table_of(tagger), rows), failed)


Measured = Mapping[str, Any] | tuple[FailureCode, str]
"""What came of a clip: its values, or why there are none."""
Measure = Callable[[Sequence[ClipView]], Iterable[Mapping[str, Any]]]


def _values(
    measure: Measure, clips: Iterator[ClipView], size: int, left_out: Mapping[int, tuple[FailureCode, str]]
) -> Iterator[tuple[ClipView, Measured]]:
    """Each clip with what came of it, `size` of them measured at once."""
    for first in itertools.count(0, size):
        if not (batch := list(itertools.islice(clips, size))):
            return
        report(first + 1, 0.0)  # where to go on should this process die now
        chosen = [clip for number, clip in enumerate(batch, first) if number not in left_out]
        found = dict(zip((clip.clip_id for clip in chosen), _measured(measure, chosen), strict=True))
        yield from ((clip, found[clip.clip_id] if clip.clip_id in found else left_out[number]) for number, clip in enumerate(batch, first))


def _measured(measure: Measure, clips: Sequence[ClipView]) -> Sequence[Measured]:
    """What came of each clip of a batch. One that fails is gone through clip by clip."""
    try:
        found = list(measure(clips)) if clips else []
        if len(found) != len(clips):
            raise ValueError(f"{len(found)} results for {len(clips)} clips")
        return found
    except TaggerError:
        raise
    except Exception as error:  # one clip that a tagger cannot do must not end the job; its row in failures/ carries the exception
        if len(clips) == 1:
            return [(FailureCode.INTERNAL, f"{type(error).__name__}: {error}")]
        return [one for clip in clips for one in _measured(measure, [clip])]


def _embed(job: TagJob, tagger: Tagger, batch: int, left_out: Mapping[int, tuple[FailureCode, str]]) -> _Part:
    """In the worker: the embeddings of one shard's keyframes."""
    assert tagger.embedder
    encode, spec = _opened(tagger.embedder), embedding_table(tagger.embedder.name, tagger.embedder.size)

    def vectors(clips: Sequence[ClipView]) -> Iterator[Mapping[str, np.ndarray]]:
        pictures = [active_picture(keyframe.bgr, clip.clip) for clip in clips for keyframe in clip.keyframes]
        found = encode(pictures).astype(np.float16) if pictures else nothing
        ends = np.cumsum([len(clip.keyframes) for clip in clips])
        return ({"vectors": part} for part in np.split(found, ends[:-1]))

    nothing = np.zeros((0, tagger.embedder.size), np.float16)
    ids, indices, parts, failed = [], [], [nothing], {}
    for clip, values in _values(vectors, clip_views(Dataset(job.dataset), job.shard), batch, left_out):
        if isinstance(values, tuple):
            failed[_place(clip)] = values
            continue
        parts.append(values["vectors"])
        ids += [clip.clip_id] * len(clip.keyframes)
        indices += range(len(clip.keyframes))
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(parts).ravel()), tagger.embedder.size)
    return _Part(pa.table([pa.array(ids, pa.string()), pa.array(indices, pa.int32()), column], schema=spec.schema), failed)


@lru_cache(maxsize=8)
def _opened(one: Any) -> Callable[..., Any]:
    """What a tagger or embedder opened, once in a process. Raises TaggerError."""
    try:
        return one.open()
    except (TaggerError, MemoryError):
        raise
    except Exception as error:
        raise TaggerError(f"the tagger {getattr(one, 'group', one)} could not be loaded: {type(error).__name__}: {error}") from error


Place = tuple[str, str, str]
"""video_id, clip_id and address of a clip."""


def _place(clip: ClipView) -> Place:
    return clip.clip["video_id"], clip.clip_id, clip.video["uri"]


def _failure(place: Place, stage: str, code: FailureCode, message: str) -> Failure:
    video_id, clip_id, uri = place
    return Failure(video_id, clip_id, uri, stage, code, message, retryable=True)
