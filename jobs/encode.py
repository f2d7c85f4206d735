"""`reelmill encode`: the latents of a manifest's clips and the features of their texts, once and for all."""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.engines import EngineName
from jobs.failures import say_failures, write_failures
from jobs.output import by_code, say
from jobs.tag import FAILURES_RECORDED, available_cores

if TYPE_CHECKING:
    from torch import Tensor

    from schemas.records import Failure
    from training.config import TrainConfig
    from training.encoding.latents import DTypeName, EncodeJob, EncodeReport, FailedClip
    from training.encoding.texts import TextJob
    from training.pixels import Window
    from training.plan import Prepared
    from training.shapes import Shape

_FAILURES = "failures.parquet"


class DTypeOption(StrEnum):
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def encode(
    manifest: Annotated[Path, typer.Argument(help="The manifest, as `reelmill manifest` writes it.")],
    config: Annotated[str, typer.Option(help="The YAML file of the run to train. Its vae.weights names the run of the VAE.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the cache. [default: data.cache of the config]")] = None,
    dtype: Annotated[DTypeOption, typer.Option(help="How numbers are kept.")] = DTypeOption.FLOAT16,
    engine: Annotated[EngineName, typer.Option(help="Where the work runs; all workers must see the cache.")] = EngineName.LOCAL,
    workers: Annotated[int | None, typer.Option(min=1, help="Shards made at once. [default: the number of cores]")] = None,
    address: Annotated[str | None, typer.Option(help="Scheduler to use instead of a cluster on this machine (dask).")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest time that decoding one clip may take.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run record as JSON on stdout.")] = False,
) -> None:
    """Encode every window that a run may draw into a cache of latents, so that training decodes nothing; and every text.

    A latent is kept under a key made of all that decides it: the clip, its crop, size, rate and window, and the encoder, whose
    digest names the folder. So clips that are added cost only themselves, several manifests and stages share one cache, and
    another encoder finds nothing there that is not its own. Likewise the features of texts, the run's own prompt among them,
    where the config names a frozen encoder (text.encoder). Shards appear whole or not at all: the command can be killed at any
    moment and started again. What could not be read is in OUT/failures.parquet, is skipped in training, and is tried again here.

    Exit status: 0 done; 1 the job could not run; 2 wrong usage; 3 done, with clips in failures.parquet.

    \b
    Examples:
      reelmill train vae.yaml --manifest train.parquet --out runs/vae
      reelmill encode train.parquet --config dit.yaml          with vae: {weights: runs/vae}, data: {cache: cache} in it
      reelmill train dit.yaml --manifest train.parquet --out runs/dit
      reelmill encode train.parquet --config dit.yaml --dtype float32 --engine dask --workers 16
    """
    from curation.storage import Dataset
    from jobs.engines import engine_for
    from jobs.progress import track
    from jobs.runs import RunRecorder
    from training.config import load_config
    from training.encoding.latents import begin_cache, plan_encoding
    from training.plan import prepare
    from training.runs import load_manifests, make_models, take_vae
    from training.settings import TrainError

    settings = load_config(config)
    sources = load_manifests(manifest, settings)
    out = out or (Path(settings.data.cache) if settings.data.cache else None)
    if out is None:
        raise TrainError(f"{config} has no data.cache: name the folder of the cache there, or by --out")
    if not settings.vae.is_given:
        raise TrainError(
            f"{config} has no vae.weights: name the run whose VAE is to encode, or by vae.pretrained the folder of a published one"
        )
    models = make_models(settings)
    take_vae(settings, models)
    workers = workers or available_cores()
    out.mkdir(parents=True, exist_ok=True)
    dataset = Dataset(str(out))
    with dataset.lock():
        folder = begin_cache(out.absolute(), models["vae"], dtype.value)
        _clean(folder)
        inputs = {
            "manifest": manifest,
            "digest": sources[None].digest,
            "engine": engine,
            "workers": workers,
            "cache": folder,
            "dtype": dtype,
        }
        recorder, prepared = RunRecorder("encode", **inputs), prepare(sources, settings)
        map_jobs = engine_for(engine, workers, address).map
        texts = _encode_texts(prepared, settings, out.absolute(), dtype.value, map_jobs)  # first, since they take less time
        plan = plan_encoding(prepared, settings, folder, dtype.value)
        pending, clips = plan.wanted - plan.there, sum(source.rows.num_rows for source in sources.values())
        say(f"{plan.wanted:,} windows of {clips:,} clips, {plan.there:,} already there, {pending:,} to encode")
        failures: list[Failure] = []
        run = partial(_run, limit_s=timeout_s)
        for report in track(map_jobs(run, plan.jobs), pending, "windows", lambda r: r.windows):
            failures += map(_failure, report.failed)
        write_failures(out / _FAILURES, failures)
        codes = dict(sorted(Counter(str(failure.code) for failure in failures).items()))
        outcome = {"windows": plan.wanted, "already_there": plan.there, "bytes": _size(folder), "failures": codes}
        record = recorder.finish(**outcome, **({"texts": texts} if texts else {}))
        if plan.jobs or (texts and texts["already_there"] < texts["wanted"]):
            dataset.write_run(record["run_id"], record)
    if as_json:
        print(json.dumps(record, indent=1))
    _summarize(record, failures, folder, out)
    if failures:
        raise typer.Exit(FAILURES_RECORDED)


def _encode_texts(
    prepared: "Sequence[Prepared]", config: "TrainConfig", out: Path, dtype: "DTypeName", map_jobs: "Callable[..., Iterator[int]]"
) -> dict[str, Any] | None:
    """What came of the texts, where a frozen encoder is to read them."""
    from jobs.progress import track
    from training.encoding.text_features import open_text_encoder
    from training.encoding.texts import begin_text_cache, plan_texts

    encoder = open_text_encoder(config)
    if encoder is None:
        return None
    folder = begin_text_cache(out, encoder, dtype)
    _clean(folder)
    plan = plan_texts(prepared, config, encoder, folder, dtype)
    pending = plan.wanted - plan.there
    say(f"{plan.wanted:,} texts, {plan.there:,} already there, {pending:,} to encode")
    deque(track(map_jobs(_run_texts, plan.jobs), pending, "texts", lambda made: made), maxlen=0)
    return {"wanted": plan.wanted, "already_there": plan.there, "bytes": _size(folder), "cache": str(folder)}


def _clean(folder: Path) -> None:
    for left in folder.glob(".part-*"):  # of a killed run
        left.unlink()


def _run(job: "EncodeJob", limit_s: float) -> "EncodeReport":
    import torch

    from curation.sources import check_content
    from training.encoding.latents import run_encoding

    torch.set_num_threads(1)  # a shard a core; and so the number of workers cannot change how sums are rounded
    return run_encoding(job, partial(_read, check=lru_cache(check_content), limit_s=limit_s))


def _run_texts(job: "TextJob") -> int:
    import torch

    from training.encoding.texts import run_texts

    torch.set_num_threads(1)  # as above
    return run_texts(job)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("part-*"))


def _read(
    row: Mapping[str, Any], wanted: "Sequence[tuple[Shape, Window]]", check: Callable[[str, str, str], None], limit_s: float
) -> "list[Tensor]":
    """`read_windows` in a process of its own, of the very bytes that were curated, as `check` says. Raises MediaError."""
    import torch

    from curation.frames import MediaError
    from curation.isolate import Crashed, Expired, own_worker
    from schemas.records import FailureCode

    if "source_uri" not in row:  # materialized clips have the fingerprint of what they were cut from
        check(row["uri"], row["video_id"], row.get("fingerprint") or "")
    try:
        return [torch.from_numpy(pixels) for pixels in own_worker("training.pixels").run(_read_arrays, row, wanted, limit_s=limit_s)]
    except Expired as error:
        raise MediaError(FailureCode.TIMEOUT, str(error)) from error
    except Crashed as error:
        raise MediaError(FailureCode.CRASHED, str(error)) from error
    except MediaError:
        raise
    except Exception as error:  # one bad file must not end the job; the row carries the exception
        raise MediaError(FailureCode.INTERNAL, f"{type(error).__name__}: {error}") from error


def _read_arrays(row: Mapping[str, Any], wanted: "Sequence[tuple[Shape, Window]]") -> list[Any]:
    from training.pixels import read_windows

    return [pixels.numpy() for pixels in read_windows(row, wanted)]


def _failure(failed: "FailedClip") -> "Failure":
    from schemas.records import RETRYABLE, Failure

    row, error = failed.row, failed.error
    return Failure(
        video_id=row["video_id"],
        clip_id=row["clip_id"],
        uri=row["uri"],
        stage="encode",
        code=error.code,
        message=error.message,
        retryable=error.code in RETRYABLE,
        decoded_frames=error.decoded_frames,
        decoded_s=error.decoded_s,
        fingerprint=row.get("fingerprint") or "",
    )


def _summarize(record: dict[str, Any], failures: "Sequence[Failure]", folder: Path, out: Path) -> None:
    say_failures(failures)
    say(f"{record['windows']:,} windows, {record['bytes'] / 1e9:.3g} GB in {record['seconds']:.1f} s: {folder}")
    if texts := record.get("texts"):
        say(f"{texts['wanted']:,} texts, {texts['bytes'] / 1e9:.3g} GB: {texts['cache']}")
    if failures:
        say(f"{len(failures):,} clips could not be encoded and are in {out / _FAILURES}: {by_code(record['failures'])}")
