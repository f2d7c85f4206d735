"""`reelmill curate`: raw video to a dataset."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.engines import EngineName
from jobs.output import by_code, say
from jobs.tag import DOWNLOAD_HELP, FAILURES_RECORDED, MODELS_HELP, available_cores, measure
from jobs.taggers import Device, Profile, Weights, profile_groups, taggers_of

if TYPE_CHECKING:
    from curation.sources import Found, Source

_HASHERS = 8
_WORTH_A_BAR = 200


class Shots(StrEnum):
    NATIVE = "native"
    TRANSNETV2 = "transnetv2"


def curate(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, globs, fsspec URLs, or a .csv/.parquet/.jsonl with a uri column.")],
    out: Annotated[str, typer.Option(help="The dataset: a folder or fsspec URL; made where it is missing, added to where it exists.")],
    engine: Annotated[EngineName, typer.Option(help="Where the work runs.")] = EngineName.LOCAL,
    workers: Annotated[int | None, typer.Option(min=1, help="Videos scanned at once. [default: the number of cores]")] = None,
    address: Annotated[str | None, typer.Option(help="Scheduler to use instead of a cluster on this machine (dask).")] = None,
    profile: Annotated[Profile, typer.Option(help="cpu needs no weights; full adds model tags.")] = Profile.CPU,
    models: Annotated[str | None, typer.Option(help=MODELS_HELP)] = None,
    allow_download: Annotated[bool, typer.Option("--allow-download", help=DOWNLOAD_HELP)] = False,
    clip_model: Annotated[str | None, typer.Option(help="CLIP model. [default: ViT-L-14-quickgelu/openai]")] = None,
    device: Annotated[Device, typer.Option(help="Where models run.")] = Device.AUTO,
    shots: Annotated[
        Shots, typer.Option(help="Who finds cuts and fades: Reelmill itself, or TransNetV2 (slower; needs weights).")
    ] = Shots.NATIVE,
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
    weights = Weights(models, allow_download, clip_model, device)
    groups, left_out = profile_groups(profile, weights)
    taggers = taggers_of(groups, weights)
    for line in left_out:
        say(line)
    from curation.plan import Ledger, plan
    from curation.scan import ScanConfig
    from curation.shots import ShotConfig
    from curation.sources import find
    from curation.stage import ScanStage, ShardJob, run_shard
    from curation.storage import Dataset
    from jobs.engines import engine_for
    from jobs.progress import track
    from jobs.runs import RunRecorder, scan_totals, tag_totals

    detector = None
    if shots is Shots.TRANSNETV2:
        from labeling.transnetv2 import SOURCE, WEIGHTS, TransNetV2

        detector = TransNetV2(str(weights.find_models().file(WEIGHTS, SOURCE)), device=device.value)
        detector.load()  # says at once what is wrong with the file
    cores = available_cores()
    scanners = workers or cores
    dataset = Dataset(out)
    listing = find(sources)
    dataset.create()
    with dataset.lock():
        settings = {"shots": shots, "min_clip_s": min_clip_s, "max_clip_s": max_clip_s, "timeout_s": timeout_s, "shard_size": shard_size}
        recorder = RunRecorder("curate", sources=sources, engine=engine, workers=scanners, profile=profile, **settings)
        engine_of = partial(engine_for, engine, address=address)
        ledger = Ledger.read(dataset)
        identified = identify_all(listing.videos, ledger.known)
        if outdated := ledger.outdated(identified, retry_failed):
            dataset.drop_failures(outdated)
            ledger = Ledger.read(dataset)
        todo = plan(identified, ledger, shard_size)
        stage = ScanStage(
            ScanConfig(shots=ShotConfig(max_clip_s=max_clip_s), detector=detector, min_clip_s=min_clip_s),
            threads=max(1, cores // max(1, min(scanners, len(todo.shards)))),  # a lone video gets all cores
            limit_s=timeout_s,
        )
        jobs = [ShardJob(out, stage, shard) for shard in todo.shards]
        pending = sum(len(shard.sources) for shard in todo.shards)
        say(f"{len(listing.videos)} videos found, {listing.ignored} other files ignored, {todo.num_done} already done, {pending} to do")
        reports = list(
            track(engine_of(scanners).map(run_shard, jobs), pending, "videos", lambda report: report.videos + sum(report.failures.values()))
        )
        tagged = measure(dataset, [], taggers, engine_of, workers, timeout_s)
        counts = {"found": len(listing.videos), "ignored": listing.ignored, "already_done": todo.num_done}
        record = recorder.finish(**counts, **scan_totals(reports), **tag_totals(tagged))
        if jobs or tagged:
            dataset.write_run(record["run_id"], record)
            ledger = Ledger.read(dataset)
        failed = ledger.failures_of(source.uri for source in identified)
    if as_json:
        print(json.dumps(record, indent=1))
    _summarize(record, failed, out)
    if failed or record["tag_failures"]:
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
        say(
            f"{record['videos']} videos, {record['clips']} clips from {record['video_s'] / 60:.1f} min of video "
            f"in {record['seconds']:.1f} s ({record['video_s'] / max(record['seconds'], 1e-3):.0f}x real time)"
        )
    if failed:
        say(f"{failed.total()} of these inputs are in failures/: " + ", ".join(f"{code} {count}" for code, count in sorted(failed.items())))
    if untagged := record["tag_failures"]:
        say(f"clips that could not be tagged are in failures/: {by_code(untagged)}")
    say(f"dataset: {out}   next: reelmill status {out}   reelmill report {out} --out report.html")
