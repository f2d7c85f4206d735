"""A stage turns a shard of sources into rows; `run_shard` stores them. Engines run `run_shard` and know nothing else."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from curation.frames import MediaError
from curation.isolate import Crashed, Expired, Isolated, own_worker
from curation.rows import rows
from curation.scan import Scan, ScanConfig, scan_video
from curation.sources import Source
from curation.storage import Dataset
from schemas.ids import shard_id
from schemas.records import RETRYABLE, ClipRecord, Failure, FailureCode, KeyframeRecord, Row, SignatureRecord, TagRecord, VideoRecord
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, SIGNATURES, VIDEOS, TableSpec, tag_table
from schemas.tags import SCAN_GROUPS


@dataclass(frozen=True)
class Shard:
    """A group of sources that is done as one: written together, found done together."""

    sources: tuple[Source, ...]

    @property
    def shard_id(self) -> str:
        return shard_id(source.key for source in self.sources)


class Stage(Protocol):
    """A step of the pipeline. A frozen dataclass: its fields are its configuration."""

    name: str
    version: str

    def open(self) -> Callable[[Shard], Iterator[Row | Failure]]:
        """Load what the stage needs, in the worker, and return the function that does a shard."""
        ...


@dataclass(frozen=True)
class ShardJob:
    """One unit of work: small, picklable, and with the same outcome wherever it runs."""

    dataset: str
    stage: Stage
    shard: Shard


@dataclass(frozen=True)
class ShardReport:
    """What came of a shard."""

    shard_id: str
    videos: int
    clips: int
    frames: int
    video_s: float
    seconds: float
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TagReport:
    """What came of measuring tag groups on a shard."""

    shard_id: str
    groups: tuple[str, ...]
    clips: int
    seconds: float
    failures: dict[str, int] = field(default_factory=dict)


Make = Callable[[Scan, Source, ScanConfig], Iterable[Row]]
"""From a scan to rows; picklable, for it runs in the decoder's process."""

_opened = threading.local()


def _open(stage: Stage) -> Callable[[Shard], Iterator[Row | Failure]]:
    """The stage's function, kept open by each worker thread."""
    if getattr(_opened, "stage", None) != stage:
        _opened.stage, _opened.process = stage, stage.open()
    return _opened.process


def run_shard(job: ShardJob) -> ShardReport:
    """Do one shard and commit its tables."""
    began = time.monotonic()
    tables: dict[str, list[dict[str, Any]]] = {spec.path: [] for spec in _specs()}
    videos: list[VideoRecord] = []
    failures: Counter[str] = Counter()
    for row in _open(job.stage)(job.shard):
        match row:
            case VideoRecord():
                videos.append(row)
            case Failure():
                failures[row.code] += 1
        path, values = _place(row)
        tables[path].append(values)
    shard = job.shard.shard_id
    Dataset(job.dataset).write_shard(shard, [(spec, tables[spec.path]) for spec in _specs()])
    return ShardReport(
        shard_id=shard,
        videos=len(videos),
        clips=len(tables[CLIPS.path]),
        frames=sum(video.num_frames for video in videos),
        video_s=sum(video.duration_s for video in videos),
        seconds=time.monotonic() - began,
        failures=dict(failures),
    )


def _specs() -> list[TableSpec]:
    """Tables of the scan in the order they are written; videos, the commit, comes last."""
    return [KEYFRAMES, SIGNATURES, *map(tag_table, SCAN_GROUPS), CLIPS, FAILURES, VIDEOS]


def _place(row: Row | Failure) -> tuple[str, dict[str, Any]]:
    """Table and columns of a row."""
    if isinstance(row, TagRecord):
        return f"tags/{row.group}", {"clip_id": row.clip_id, **row.values}
    return _TABLES[type(row)].path, asdict(row)


_TABLES = {VideoRecord: VIDEOS, ClipRecord: CLIPS, KeyframeRecord: KEYFRAMES, SignatureRecord: SIGNATURES, Failure: FAILURES}


@dataclass(frozen=True)
class ScanStage:
    """Decode each source once, in a process of its own, and measure it."""

    config: ScanConfig = field(default_factory=ScanConfig)
    threads: int = 1  # of the decoder
    limit_s: float = 3600.0  # wall-clock seconds per source
    name: str = "scan"
    version: str = "1"

    def open(self) -> Callable[[Shard], Iterator[Row | Failure]]:
        worker = own_worker("curation.stage")

        def process(shard: Shard) -> Iterator[Row | Failure]:
            for source in sorted(shard.sources, key=lambda source: source.key):
                yield from self.scan(worker, source)

        return process

    def scan(self, worker: Isolated, source: Source, make: Make = rows) -> list[Row | Failure]:
        """What `make` makes of a source, scanned in the worker's process, or the one failure that came of it."""
        if source.duplicate_of:
            return [self._failure(source, FailureCode.DUPLICATE, f"the same bytes as {source.duplicate_of}")]
        if source.problem:
            return [self._failure(source, *source.problem)]
        try:
            return list(worker.run(scan_source, source, self.config, self.threads, make, limit_s=self.limit_s))
        except MediaError as error:
            return [self._failure(source, error.code, error.message, error.decoded_frames, error.decoded_s)]
        except Expired as error:
            return [self._failure(source, FailureCode.TIMEOUT, str(error), error.progress.frames, error.progress.seconds)]
        except Crashed as error:
            return [self._failure(source, FailureCode.CRASHED, str(error), error.progress.frames, error.progress.seconds)]
        except Exception as error:  # one bad file must not end the job; the row carries the exception
            return [self._failure(source, FailureCode.INTERNAL, f"{type(error).__name__}: {error}")]

    def _failure(
        self, source: Source, code: FailureCode, message: str, decoded_frames: int | None = None, decoded_s: float | None = None
    ) -> Failure:
        return Failure(
            video_id=source.content_id,
            clip_id=None,
            uri=source.uri,
            stage=self.name,
            code=code,
            message=message,
            retryable=code in RETRYABLE,
            decoded_frames=decoded_frames,
            decoded_s=decoded_s,
            fingerprint=source.fingerprint,
            extra=dict(source.extra),
        )


def scan_source(source: Source, config: ScanConfig, threads: int, make: Make = rows) -> list[Row]:
    """Rows that `make` makes of one scanned source. Raises MediaError.

    A decoder on several threads conceals damage differently from run to run. Damaged files are therefore scanned once more on
    one thread, so that a video's rows do not depend on the machine.
    """
    try:
        with scan_video(source.uri, config, threads) as scan:
            if threads == 1 or not scan.log.flaws:
                return list(make(scan, source, config))
    except MediaError:
        if threads == 1:
            raise
    return scan_source(source, config, 1, make)
