"""`reelmill curate`: raw video to a dataset."""

import json
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.engines import EngineName

if TYPE_CHECKING:
    from curation.sources import Found, Source

FAILURES_RECORDED = 3
_HASHERS = 8
_WORTH_A_BAR = 200


class Profile(StrEnum):
    CPU = "cpu"
    FULL = "full"


class ProfileError(Exception):
    """A profile that cannot run here."""


def curate(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, globs, fsspec URLs, or a .csv/.parquet/.jsonl with a uri column.")],
    out: Annotated[str, typer.Option(help="The dataset: a folder or fsspec URL; made where it is missing, added to where it exists.")],
    engine: Annotated[EngineName, typer.Option(help="Where the work runs.")] = EngineName.LOCAL,
    workers: Annotated[int | None, typer.Option(min=1, help="Videos scanned at once. [default: the number of cores]")] = None,
    address: Annotated[str | None, typer.Option(help="Scheduler to use instead of a cluster on this machine (dask).")] = None,
    profile: Annotated[Profile, typer.Option(help="cpu needs no weights; full adds model tags.")] = Profile.CPU,
    min_clip_s: Annotated[float, typer.Option(min=0, help="Shorter clips are kept and marked is_short.")] = 1.0,
    max_clip_s: Annotated[float, typer.Option(min=0.1, help="Longer shots are divided into clips.")] = 10.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest time one video may take.")] = 3600.0,
    shard_size: Annotated[int, typer.Option(min=1, help="Videos written together.")] = 8,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed and may work now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run record as JSON on stdout.")] = False,
) -> None:
    """Scan videos once each and store shots, clips, tags and keyframes.

    Only what is pending is done, so a run can be stopped or killed at any moment and simply be started again.
    A folder means the media files in it, recursively; other files in it are counted as ignored.

    Exit status: 0 done; 1 the job could not run; 2 wrong usage; 3 done, with inputs in failures/.

    \b
    Examples:
      reelmill curate reels/ --out dataset
      reelmill curate 'raw/**/*.mp4' s3://bucket/reels --out dataset --engine dask --workers 16
      reelmill curate list.csv --out dataset --retry-failed
    """
    if profile is Profile.FULL:
        raise ProfileError("profile full (CLIP, OCR and other model tags) is not built yet: use --profile cpu")
    from curation.plan import Ledger, plan
    from curation.scan import ScanConfig
    from curation.shots import ShotConfig
    from curation.sources import find
    from curation.stage import ScanStage, ShardJob, run_shard
    from curation.storage import Dataset
    from jobs.engines import engine_for
    from jobs.progress import track
    from jobs.runs import RunRecorder

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or cores
    dataset = Dataset(out)
    listing = find(sources)
    dataset.create()
    with dataset.lock():
        settings = {"min_clip_s": min_clip_s, "max_clip_s": max_clip_s, "timeout_s": timeout_s, "shard_size": shard_size}
        recorder = RunRecorder("curate", sources=sources, engine=engine, workers=workers, profile=profile, **settings)
        where = engine_for(engine, workers, address)
        ledger = Ledger.read(dataset)
        identified = identify_all(listing.videos, ledger.known)
        if outdated := ledger.outdated(identified, retry_failed):
            dataset.drop_failures(outdated)
            ledger = Ledger.read(dataset)
        todo = plan(identified, ledger, shard_size)
        stage = ScanStage(
            ScanConfig(shots=ShotConfig(max_clip_s=max_clip_s), min_clip_s=min_clip_s),
            threads=max(1, cores // max(1, min(workers, len(todo.shards)))),  # a lone video gets all cores
            limit_s=timeout_s,
        )
        jobs = [ShardJob(out, stage, shard) for shard in todo.shards]
        pending = sum(len(shard.sources) for shard in todo.shards)
        _say(f"{len(listing.videos)} videos found, {listing.ignored} other files ignored, {todo.num_done} already done, {pending} to do")
        reports = list(track(where.map(run_shard, jobs), pending, "videos", lambda report: report.videos + sum(report.failures.values())))
        record = recorder.finish(reports, found=len(listing.videos), ignored=listing.ignored, already_done=todo.num_done)
        if jobs:
            dataset.write_run(record["run_id"], record)
            ledger = Ledger.read(dataset)
        failed = ledger.failures_of(source.uri for source in identified)
    if as_json:
        print(json.dumps(record, indent=1))
    _summarize(record, failed, out)
    if failed:
        raise typer.Exit(FAILURES_RECORDED)


def identify_all(videos: "list[Found]", known: dict[str, tuple[str, str]]) -> "list[Source]":
    """Content ids of all inputs, read by a few threads: hashing is bound by storage, and releases the interpreter lock."""
    from curation.sources import identify
    from jobs.progress import track

    unread = [video for video in videos if video.uri not in known]
    with ThreadPoolExecutor(_HASHERS) as pool:
        sources = pool.map(lambda video: identify(video, known), videos)
        return list(track(sources, len(videos), "files read") if len(unread) > _WORTH_A_BAR else sources)


def _summarize(record: dict[str, Any], failed: Counter[str], out: str) -> None:
    if record["videos"]:
        _say(
            f"{record['videos']} videos, {record['clips']} clips from {record['video_s'] / 60:.1f} min of video "
            f"in {record['seconds']:.1f} s ({record['video_s'] / max(record['seconds'], 1e-3):.0f}x real time)"
        )
    if failed:
        _say(
            f"{failed.total()} of these inputs are in failures/: " + ", ".join(f"{code} {count}" for code, count in sorted(failed.items()))
        )
    _say(f"dataset: {out}   next: reelmill status {out}   reelmill report {out} --out report.html")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
