"""`reelmill tag`: add or refresh tag groups on existing clips."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.engines import Engine, EngineName
from jobs.output import by_code, say
from jobs.taggers import Device, GroupError, Profile, Weights, check_groups, plugins, profile_groups, taggers_of
from schemas.tags import SCAN_GROUPS, WEIGHT_FREE, groups

if TYPE_CHECKING:
    from curation.stage import TagReport
    from curation.storage import Dataset
    from labeling.tagger import Tagger

FAILURES_RECORDED = 3
MODELS_HELP = "Folder with weights of models; README lists the files."
DOWNLOAD_HELP = "Fetch missing weights from where they are published."


def tag(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    group: Annotated[list[str] | None, typer.Option(help="Only this group; may be given again. `reelmill tags` lists them.")] = None,
    tagger: Annotated[list[str] | None, typer.Option(help="A Python file with a tag group of your own; may be given again.")] = None,
    profile: Annotated[Profile, typer.Option(help="cpu: all weight-free groups; full: the models' as well.")] = Profile.CPU,
    models: Annotated[str | None, typer.Option(help=MODELS_HELP)] = None,
    allow_download: Annotated[bool, typer.Option("--allow-download", help=DOWNLOAD_HELP)] = False,
    clip_model: Annotated[str | None, typer.Option(help="CLIP model. [default: ViT-L-14-quickgelu/openai]")] = None,
    device: Annotated[Device, typer.Option(help="Where models run.")] = Device.AUTO,
    captions: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose captions clip_captions compares. [default: the only one's]")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="Where the work runs.")] = EngineName.LOCAL,
    workers: Annotated[int | None, typer.Option(min=1, help="Shards at once. [default: the number of cores; 1 with models]")] = None,
    address: Annotated[str | None, typer.Option(help="Scheduler to use instead of a cluster on this machine (dask).")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest time one group may take on a shard.")] = 3600.0,
    force: Annotated[bool, typer.Option("--force", help="Measure these groups again even where they are up to date.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run record as JSON on stdout.")] = False,
) -> None:
    """Measure tag groups that are missing or out of date, from the stored keyframes and tags.

    No video is decoded, unless a group of the scan itself (quality, aesthetics, naturalness, motion, content) is out of date
    or asked for with --force. Every group has a file of its own per shard, so no other group is touched. Only what is pending
    is done, so the command can be stopped at any moment and started again.

    Exit status: 0 done; 1 the job could not run; 2 wrong usage; 3 done, with clips in failures/.

    \b
    Examples:
      reelmill tag dataset                                    what is missing or out of date, without models
      reelmill tag dataset --profile full --models weights/
      reelmill tag dataset --group ocr --group faces --models weights/
      reelmill tag dataset --group clip_captions --models weights/ --captions qwen
      reelmill tag dataset --tagger my_tags.py                 a group of your own
    """
    from labeling.catalog import choose_captioner, open_dataset

    there = open_dataset(dataset)
    weights = Weights(models, allow_download, clip_model, device, choose_captioner(there, captions))
    check_groups(group or ())
    own = plugins(tagger or ())
    left_out: list[str] = []
    names = list(group or ())
    if not names and not own:
        names, left_out = profile_groups(profile, weights)
    elif profile is Profile.FULL:
        raise GroupError("--profile full already says which groups: leave --group and --tagger out")
    from jobs.engines import engine_for
    from jobs.runs import RunRecorder, tag_totals, total_failures

    taggers = [*taggers_of(names, weights), *own]
    for line in left_out:
        say(line)
    with there.lock():
        settings = {"timeout_s": timeout_s, "models": models or "", "clip_model": clip_model or ""}
        recorder = RunRecorder("tag", groups=[*names, *(one.group for one in own)], engine=engine, workers=workers, **settings)
        scan_groups = [name for name in names if name in SCAN_GROUPS]
        reports = measure(there, scan_groups, taggers, partial(engine_for, engine, address=address), workers, timeout_s, force)
        record = recorder.finish(**tag_totals(reports))
        if reports:
            there.write_run(record["run_id"], record)
    if as_json:
        print(json.dumps(record, indent=1))
    failed = total_failures(reports)
    if not reports:
        say(f"nothing to do: {', '.join(dict.fromkeys([*names, *(one.group for one in own)]))} are up to date")
    else:
        done = f"{record['tagged_clips']} clips of {record['tagged_shards']} shards in {record['seconds']:.1f} s"
        say(f"{done}: {', '.join(record['tag_groups'])}")
    if failed:
        say(f"{sum(failed.values())} clips are in failures/: {by_code(failed)}")
        raise typer.Exit(FAILURES_RECORDED)


def measure(
    dataset: "Dataset",
    scan_groups: Sequence[str],
    taggers: "Sequence[Tagger]",
    engine_of: Callable[[int], Engine],
    workers: int | None,
    limit_s: float,
    force: bool = False,
) -> "list[TagReport]":
    """Do what is pending of these groups: those of the scan, which need the videos, then the weight-free ones, then models.

    `engine_of` gives the engine with so many workers. Models run in one, since each uses all cores or the GPU.
    """
    from curation.rescan import pending_rescans, run_rescan
    from curation.scan import ScanConfig
    from curation.stage import ScanStage
    from labeling.tagging import pending, run_tags

    cores = available_cores()
    count = workers or cores
    stage = ScanStage(ScanConfig(), threads=max(1, cores // count), limit_s=limit_s, name="rescan")
    rescans = pending_rescans(dataset, scan_groups, stage, force)
    if rescans:
        again = sorted({group for job in rescans for group in job.groups})
        say(f"{sum(job.num_clips for job in rescans)} clips are measured from their videos again: {', '.join(again)}")
    reports = _run(engine_of(count), run_rescan, rescans)
    models = [tagger for tagger in taggers if tagger.group in groups() and tagger.group not in WEIGHT_FREE]
    others = [tagger for tagger in taggers if tagger not in models]
    reports += _run(engine_of(count), run_tags, pending(dataset, others, force, limit_s))
    return reports + _run(engine_of(workers or 1), run_tags, pending(dataset, models, force, limit_s))


def _run(engine: Engine, function: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
    from jobs.progress import track

    return list(track(engine.map(function, jobs), sum(job.num_clips for job in jobs), "clips", lambda report: report.clips)) if jobs else []


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
