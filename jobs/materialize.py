"""`reelmill materialize`: the clips of a manifest as files of their own, and a manifest of these."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.engines import EngineName
from jobs.failures import say_failures, write_failures
from jobs.output import by_code, say
from jobs.tag import FAILURES_RECORDED, available_cores

if TYPE_CHECKING:
    from curation.cut import CutJob, CutSettings, Plan
    from schemas.manifest import Manifest
    from schemas.records import Failure

_CLIPS, _MANIFEST, _FAILURES = "clips", "manifest.parquet", "failures.parquet"
_CRF = 18
# Bits per pixel of clips cut from seven of the test videos, at CRF 18 and preset medium. Six steps of CRF halve it, roughly.
_BITS_PER_PIXEL = {"h264": 0.25, "ffv1": 2.6}


class CodecName(StrEnum):
    H264 = "h264"
    FFV1 = "ffv1"


class Preset(StrEnum):
    ULTRAFAST = "ultrafast"
    VERYFAST = "veryfast"
    FAST = "fast"
    MEDIUM = "medium"
    SLOW = "slow"
    VERYSLOW = "veryslow"


def materialize(
    manifest: Annotated[Path, typer.Argument(help="The manifest, as `reelmill manifest` writes it.")],
    out: Annotated[Path, typer.Option(help="Folder for the clips and their manifest; made where it is missing, added to where it exists.")],
    codec: Annotated[CodecName | None, typer.Option(help="How clips are encoded. [default: h264]")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="The decoded frames bit for bit: FFV1 in Matroska.")] = False,
    crf: Annotated[int | None, typer.Option(min=0, max=51, help=f"Quality of h264; lower is better. [default: {_CRF}]")] = None,
    preset: Annotated[Preset | None, typer.Option(help="Effort of h264. [default: medium]")] = None,
    short_side: Annotated[int | None, typer.Option(min=16, help="Shrink pictures to this short side; smaller ones stay.")] = None,
    crop: Annotated[bool, typer.Option("--crop", help="Cut off black bars, to within three pixels.")] = False,
    engine: Annotated[EngineName, typer.Option(help="Where the work runs; all workers must see --out.")] = EngineName.LOCAL,
    workers: Annotated[int | None, typer.Option(min=1, help="Sources cut at once. [default: the number of cores]")] = None,
    address: Annotated[str | None, typer.Option(help="Scheduler to use instead of a cluster on this machine (dask).")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest time one source may take.")] = 3600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run record as JSON on stdout.")] = False,
) -> None:
    """Cut every clip of a manifest, frame by frame exactly, into a file of its own.

    Each source is decoded once for all its clips. A file appears whole or not at all, under a name made of the clip's id and of
    what it was made by, so the command can be killed at any moment and started again, does only what is missing, and never
    mixes settings. DIR/manifest.parquet then lists the clips that are there, with the rows' other columns as they were, and trains
    like any manifest. Clips that could not be cut are in DIR/failures.parquet, and are tried again by the next run.

    Pixel format, colors, rotation (as a flag of the file) and times of frames stay the source's; sound is left out. Black bars stay
    unless --crop is given, as training leaves them out anyway by the crop columns, which hold for what was written in both
    cases. Lossy pictures get even sides. The encoder runs on one thread a source, so that bytes do not depend on the machine.

    Exit status: 0 done; 1 the job could not run; 2 wrong usage; 3 done, with clips in failures.parquet.

    \b
    Examples:
      reelmill materialize train.parquet --out clips
      reelmill materialize train.parquet --out small --short-side 256 --crop --crf 20 --preset veryfast
      reelmill materialize train.parquet --out exact --lossless --engine dask --workers 16
      reelmill train tiny --manifest clips/manifest.parquet --out run
    """
    settings = _settings(codec, lossless, crf, preset, short_side, crop)
    from curation.cut import plan_cut, run_cuts
    from curation.storage import Dataset
    from jobs.engines import engine_for
    from jobs.progress import track
    from jobs.runs import RunRecorder
    from schemas.manifest import read_manifest

    source = read_manifest(manifest)
    origin = {"manifest": source.digest, "settings": json.dumps(settings.describe(), sort_keys=True)}
    _check_origin(out / _MANIFEST, origin)
    folder = out.absolute() / _CLIPS
    rows = source.rows.to_pylist()
    plans = [plan_cut(row, settings, folder) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    dataset = Dataset(str(out))
    with dataset.lock():
        for left in folder.glob("*/.*"):  # of a killed run
            left.unlink()
        recorder = RunRecorder(
            "materialize", manifest=manifest, digest=source.digest, engine=engine, workers=workers, **settings.describe()
        )
        jobs = _jobs(rows, plans, settings, timeout_s)
        pending = sum(len(job.cuts) for job in jobs)
        say(f"{len(rows):,} clips, {len(rows) - pending:,} already there, {pending:,} to cut from {len(jobs):,} sources")
        _say_size(jobs, settings, folder)
        failures: list[Failure] = []
        for report in track(
            engine_for(engine, workers or available_cores(), address).map(run_cuts, jobs), pending, "clips", lambda r: r.clips
        ):
            failures += report.failures
        write_failures(out / _FAILURES, failures)
        digest, num_clips = _write_manifest(out / _MANIFEST, source, plans, origin)
        codes = dict(sorted(Counter(str(failure.code) for failure in failures).items()))
        size = sum(Path(path).stat().st_size for path in {plan.cut.path for plan in plans} if Path(path).exists())
        record = recorder.finish(clips=num_clips, already_there=len(rows) - pending, bytes=size, failures=codes, manifest_digest=digest)
        if jobs:
            dataset.write_run(record["run_id"], record)
    if as_json:
        print(json.dumps(record, indent=1))
    _summarize(record, failures, out)
    if failures:
        raise typer.Exit(FAILURES_RECORDED)


def _settings(
    codec: CodecName | None, lossless: bool, crf: int | None, preset: Preset | None, short_side: int | None, crop: bool
) -> "CutSettings":
    """Options as settings. Raises BadParameter for those that exclude each other."""
    exact = lossless or codec is CodecName.FFV1
    if lossless and codec not in (None, CodecName.FFV1):
        raise typer.BadParameter(f"lossless clips are FFV1, not {codec}: leave one of them out", param_hint="--codec")
    for name, value in (("--crf", crf), ("--preset", preset), ("--short-side", short_side)):
        if exact and value is not None:
            raise typer.BadParameter("lossless clips are the source's frames as they are: leave it out", param_hint=name)
    from curation.cut import CutSettings
    from curation.encode import Codec, EncodeSettings

    chosen = Codec.FFV1 if exact else Codec(codec or CodecName.H264)
    encode = EncodeSettings(chosen, _CRF if crf is None else crf, (preset or Preset.MEDIUM).value)
    return CutSettings(encode, short_side, crop)


def _check_origin(path: Path, origin: dict[str, str]) -> None:
    """Raises ManifestError where the folder's manifest is of another manifest or of other settings: a frozen one is not replaced."""
    from schemas.manifest import ManifestError, read_manifest

    if path.exists() and (there := dict(read_manifest(path, columns=["clip_id"]).facts.made_from)) != origin:
        different = "with other settings" if there.get("manifest") == origin["manifest"] else "of another manifest"
        raise ManifestError(f"{path} was made {different}: choose another --out, or move it away (clips are used again)")


def _jobs(rows: Sequence[dict[str, Any]], plans: "Sequence[Plan]", settings: "CutSettings", limit_s: float) -> "list[CutJob]":
    """One job a source, of the clips that are not there yet; those that decode furthest come first."""
    from curation.cut import CutJob

    sources: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row, plan in zip(rows, plans, strict=True):
        if not Path(plan.cut.path).exists():
            # Materialized clips have the fingerprint of what they were cut from.
            fingerprint = "" if "source_uri" in row else row.get("fingerprint") or ""
            sources.setdefault((row["uri"], row["video_id"], fingerprint), {})[plan.cut.path] = plan.cut
    jobs = [CutJob(*key, tuple(cuts.values()), settings, limit_s) for key, cuts in sources.items()]
    return sorted(jobs, key=lambda job: -max(cut.start_frame + cut.num_frames for cut in job.cuts))


def _say_size(jobs: "Iterable[CutJob]", settings: "CutSettings", folder: Path) -> None:
    """About how much room the clips will take, and whether there is as much."""
    pixels = sum(cut.num_frames * cut.shape.size[0] * cut.shape.size[1] for job in jobs for cut in job.cuts)
    if not pixels:
        return
    encode = settings.encode
    softer = 1.0 if encode.lossless else 2.0 ** ((_CRF - encode.crf) / 6)
    needed, free = pixels * _BITS_PER_PIXEL[encode.codec] * softer / 8, shutil.disk_usage(folder).free
    say(f"they will take about {needed / 1e9:.2g} GB (a guess: it depends on the pictures); {free / 1e9:.3g} GB are free")
    if needed > free:
        say("that may not be enough; what is complete when the disk is full stays, and the same command goes on from there")


def _write_manifest(path: Path, source: "Manifest", plans: "Sequence[Plan]", origin: dict[str, str]) -> tuple[str, int]:
    """The manifest of the clips that are there: its digest, and their number."""
    from labeling.statistics import summarize_tags
    from schemas.manifest import write_manifest

    there = [Path(plan.cut.path).exists() for plan in plans]
    table = _moved(source.rows, plans).filter(there).combine_chunks()
    facts = source.facts
    statistics = facts.tag_statistics if all(there) else summarize_tags(table, list(facts.tag_statistics))
    digest = write_manifest(path, table, facts.predicate, facts.shards, statistics, facts.captions, origin)
    return digest, table.num_rows


def _moved(rows: Any, plans: "Sequence[Plan]") -> Any:
    """The rows of a manifest as they read once its clips have files of their own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    origins = {name: f"source_{name}" for name in ("uri", "start_frame", "start_s")}
    for name, kept in origins.items():
        if kept in rows.column_names:  # materialized before: what counts is what this was made from
            rows = rows.drop_columns(kept)
        rows = rows.append_column(kept, rows.column(name))
    values = {
        "uri": [plan.cut.path for plan in plans],
        "start_frame": [0] * len(plans),
        "start_s": [0.0] * len(plans),
        "end_s": pc.subtract(rows.column("end_s"), rows.column("start_s")),
        "width": [plan.written.width for plan in plans],
        "height": [plan.written.height for plan in plans],
        "crop_x": [plan.written.crop.x for plan in plans],
        "crop_y": [plan.written.crop.y for plan in plans],
        "crop_w": [plan.written.crop.width for plan in plans],
        "crop_h": [plan.written.crop.height for plan in plans],
    }
    for name, column in values.items():
        place, kind = rows.column_names.index(name), rows.schema.field(name)
        rows = rows.set_column(place, kind, column if isinstance(column, pa.ChunkedArray) else pa.array(column, kind.type))
    return rows


def _summarize(record: dict[str, Any], failures: "Sequence[Failure]", out: Path) -> None:
    say_failures(failures)
    say(f"{record['clips']:,} clips, {record['bytes'] / 1e9:.3g} GB in {record['seconds']:.1f} s: {out / _MANIFEST}")
    if record["failures"]:
        say(f"{len(failures):,} clips could not be cut and are in {out / _FAILURES}: {by_code(record['failures'])}")
