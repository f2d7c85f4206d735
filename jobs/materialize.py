"""`reelmill materialize`: the clips of a manifest as files of their own or as bytes in Parquet, and a manifest of these."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.engines import Engine, EngineName
from jobs.failures import say_failures, write_failures
from jobs.output import by_code, say
from jobs.tag import FAILURES_RECORDED, available_cores

if TYPE_CHECKING:
    from curation.cut import CutJob, CutSettings, Plan
    from curation.parts import Form, Packer, Stored
    from schemas.manifest import Manifest
    from schemas.records import Failure

_CLIPS, _MANIFEST, _FAILURES = "clips", "manifest.parquet", "failures.parquet"
_CRF = 18
# Bits per pixel of clips cut from seven of the test videos, at CRF 18 and preset medium. Six steps of CRF halve it, roughly.
_BITS_PER_PIXEL = {"h264": 0.25, "ffv1": 2.6}


class CodecName(StrEnum):
    H264 = "h264"
    FFV1 = "ffv1"


class FormName(StrEnum):
    FILES = "files"
    PARQUET = "parquet"


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
    to: Annotated[FormName, typer.Option(help="A file for each clip, or their bytes in Parquet parts of some 256 MB.")] = FormName.FILES,
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
    """Cut every clip of a manifest, frame by frame exactly, into a file of its own or a row of Parquet.

    Each source is decoded once for all its clips. A file appears whole or not at all, under a name made of the clip's id and of
    what it was made by, so the command can be killed at any moment and started again, does only what is missing, and never
    mixes settings. DIR/manifest.parquet then lists the clips that are there, with the rows' other columns as they were, and trains
    like any manifest. Clips that could not be cut are in DIR/failures.parquet, and are tried again by the next run.

    With --to parquet the same bytes go into DIR/clips/part-*.parquet, a row (clip_id, name, num_bytes, media) and row group a
    clip; addresses in the manifest read parquet:///PATH#OFFSET+BYTES, and every command reads them as it reads files. Parts do
    not depend on the number of workers, and are never changed or removed: a clip that could not be cut before goes into a new one.

    Pixel format, colors, rotation (as a flag of the file) and times of frames stay the source's; sound is left out. Black bars stay
    unless --crop is given, as training leaves them out anyway by the crop columns, which hold for what was written in both
    cases. Lossy pictures get even sides. The encoder runs on one thread a source, so that bytes do not depend on the machine.

    Exit status: 0 done; 1 the job could not run; 2 wrong usage; 3 done, with clips in failures.parquet.

    \b
    Examples:
      reelmill materialize train.parquet --out clips
      reelmill materialize train.parquet --out small --short-side 256 --crop --crf 20 --preset veryfast
      reelmill materialize train.parquet --out exact --lossless --engine dask --workers 16
      reelmill materialize train.parquet --out packed --to parquet
      reelmill train tiny --manifest clips/manifest.parquet --out run
    """
    settings = _settings(codec, lossless, crf, preset, short_side, crop)
    from curation.cut import plan_cut
    from curation.parts import FileForm, ParquetForm
    from curation.storage import Dataset
    from jobs.engines import engine_for
    from jobs.runs import RunRecorder
    from schemas.manifest import read_manifest

    source = read_manifest(manifest)
    origin = {"manifest": source.digest, "settings": json.dumps(settings.describe(), sort_keys=True)}
    _check_origin(out / _MANIFEST, origin)
    folder = out.absolute() / _CLIPS
    form: Form = ParquetForm(folder) if to is FormName.PARQUET else FileForm(folder)
    _check_form(folder, to)
    rows = source.rows.to_pylist()
    plans = [plan_cut(row, settings, form.cut_into) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    dataset = Dataset(str(out))
    with dataset.lock():
        stored = form.stored()
        form.clean(stored)
        recorder = RunRecorder(
            "materialize", manifest=manifest, digest=source.digest, to=to, engine=engine, workers=workers, **settings.describe()
        )
        missing = [(row, plan) for row, plan in zip(rows, plans, strict=True) if plan.cut.name not in stored]
        jobs = _jobs(missing, settings, timeout_s)
        pending = sum(len(job.cuts) for job in jobs)
        say(f"{len(rows):,} clips, {len(rows) - pending:,} already there, {pending:,} to cut from {len(jobs):,} sources")
        _say_size(jobs, settings, folder)
        packer = _packer(folder, rows, plans, stored) if to is FormName.PARQUET else None
        failures = _cut(jobs, engine_for(engine, workers or available_cores(), address), packer)
        failures += _too_large(packer.too_large if packer else (), missing)
        stored = form.stored()
        form.clean(stored)
        write_failures(out / _FAILURES, failures)
        digest, num_clips = _write_manifest(out / _MANIFEST, source, plans, stored, origin)
        codes = dict(sorted(Counter(str(failure.code) for failure in failures).items()))
        size = sum(stored[name].num_bytes for name in {plan.cut.name for plan in plans} & stored.keys())
        record = recorder.finish(clips=num_clips, already_there=len(rows) - pending, bytes=size, failures=codes, manifest_digest=digest)
        if missing:
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


def _check_form(folder: Path, wanted: FormName) -> None:
    """Raises CutError where clips are there in the other form: two copies of everything are what nobody wants."""
    from curation.encode import CutError
    from curation.parts import FileForm, ParquetForm

    forms = {FormName.FILES: FileForm(folder), FormName.PARQUET: ParquetForm(folder)}
    for name, form in forms.items():
        if name is not wanted and form.holds_any():
            raise CutError(f"{folder} holds clips as {name}: go on with --to {name}, or choose another --out")


def _jobs(missing: "Iterable[tuple[dict[str, Any], Plan]]", settings: "CutSettings", limit_s: float) -> "list[CutJob]":
    """One job a source, of the clips that are not there yet; those that decode furthest come first."""
    from curation.cut import CutJob

    sources: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row, plan in missing:
        if not Path(plan.cut.path).exists():
            # Materialized clips have the fingerprint of what they were cut from.
            fingerprint = "" if "source_uri" in row else row.get("fingerprint") or ""
            sources.setdefault((row["uri"], row["video_id"], fingerprint), {})[plan.cut.path] = plan.cut
    jobs = [CutJob(*key, tuple(cuts.values()), settings, limit_s) for key, cuts in sources.items()]
    return sorted(jobs, key=lambda job: (-max(cut.start_frame + cut.num_frames for cut in job.cuts), job.uri))


def _packer(folder: Path, rows: Sequence[dict[str, Any]], plans: "Sequence[Plan]", stored: "Mapping[str, Stored]") -> "Packer":
    """Packs the clips that are in no part yet: by source, in the order in which sources are cut by a run that finds nothing there."""
    from curation.parts import Packer

    ends: dict[str, int] = {}
    for row in rows:
        ends[row["uri"]] = max(ends.get(row["uri"], 0), row["start_frame"] + row["num_frames"])
    wanted = {plan.cut.name: (row["uri"], plan.cut) for row, plan in zip(rows, plans, strict=True) if plan.cut.name not in stored}
    ordered = sorted(wanted.values(), key=lambda clip: (-ends[clip[0]], clip[0], clip[1].start_frame, clip[1].name))
    return Packer(folder, ((uri, cut.clip_id, Path(cut.path)) for uri, cut in ordered))


def _cut(jobs: "Sequence[CutJob]", engine: Engine, packer: "Packer | None") -> "list[Failure]":
    """Run the jobs, and pack what they leave as they end; what could not be cut."""
    from curation.cut import run_cuts
    from jobs.progress import track

    failures: list[Failure] = []
    left = Counter(job.uri for job in jobs)
    if packer:
        packer.advance(left)  # what a killed run had cut
    for report in track(engine.map(run_cuts, jobs), sum(len(job.cuts) for job in jobs), "clips", lambda report: report.clips):
        failures += report.failures
        left[report.uri] -= 1
        if packer:
            packer.advance(left)
    return failures


def _too_large(paths: Iterable[Path], missing: "Iterable[tuple[dict[str, Any], Plan]]") -> "list[Failure]":
    """Clips that were cut and are more than a Parquet value can hold."""
    from curation.cut import STAGE
    from schemas.records import Failure, FailureCode

    found = {str(path) for path in paths}
    text = "its bytes are more than the 2 GiB that a Parquet value can hold: use --to files in another folder"
    return [
        Failure(row["video_id"], row["clip_id"], row["uri"], STAGE, FailureCode.TOO_LARGE, text, retryable=False)
        for row, plan in missing
        if plan.cut.path in found
    ]


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


def _write_manifest(
    path: Path, source: "Manifest", plans: "Sequence[Plan]", stored: "Mapping[str, Stored]", origin: dict[str, str]
) -> tuple[str, int]:
    """The manifest of the clips that are there: its digest, and their number."""
    from labeling.statistics import summarize_tags
    from schemas.manifest import write_manifest

    there = [plan.cut.name in stored for plan in plans]
    kept = [plan for plan, is_there in zip(plans, there, strict=True) if is_there]
    table = _moved(source.rows.filter(there), kept, [stored[plan.cut.name].uri for plan in kept]).combine_chunks()
    facts = source.facts
    statistics = facts.tag_statistics if all(there) else summarize_tags(table, list(facts.tag_statistics))
    digest = write_manifest(path, table, facts.predicate, facts.shards, statistics, facts.captions, origin)
    return digest, table.num_rows


def _moved(rows: Any, plans: "Sequence[Plan]", uris: Sequence[str]) -> Any:
    """The rows of a manifest as they read once its clips are cut."""
    import pyarrow as pa
    import pyarrow.compute as pc

    origins = {name: f"source_{name}" for name in ("uri", "start_frame", "start_s")}
    for name, kept in origins.items():
        if kept in rows.column_names:  # materialized before: what counts is what this was made from
            rows = rows.drop_columns(kept)
        rows = rows.append_column(kept, rows.column(name))
    values = {
        "uri": uris,
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
