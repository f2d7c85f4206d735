"""`reelmill caption`: describe clips, by a vision-language model or from measured tags."""

import json
import logging
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.output import by_code, say
from jobs.tag import FAILURES_RECORDED, MODELS_HELP
from jobs.taggers import Device, Weights

if TYPE_CHECKING:
    from curation.storage import Dataset
    from labeling.captions.backends.protocol import Backend
    from labeling.captions.ledger import Captioner, Pending
    from labeling.captions.run import Job

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WARMER = 0.5  # how much is added to the temperature after a degenerate answer
_SIMILARITY_LIMIT_S = 3600.0


class CaptionerKind(StrEnum):
    OPENAI = "openai"
    TRANSFORMERS = "transformers"
    TEMPLATE = "template"


class Language(StrEnum):
    ENGLISH = "en"
    CHINESE = "zh"


def caption(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    captioner: Annotated[
        CaptionerKind, typer.Option(help="openai: any OpenAI-compatible server; transformers: a model here; template: no model.")
    ],
    name: Annotated[str | None, typer.Option(help="Folder below captions/ to keep them in. [default: the captioner]")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of the server, such as http://localhost:8000/v1 (openai).")] = None,
    model: Annotated[
        str | None, typer.Option(help="The server's name of the model, or the model's folder. [default: the only one the server has]")
    ] = None,
    language: Annotated[Language, typer.Option(help="Language of the captions.")] = Language.ENGLISH,
    prompt: Annotated[Path | None, typer.Option(help="A prompt file of your own, made like labeling/captions/prompts/en-1.yaml.")] = None,
    where: Annotated[str | None, typer.Option(help="Only clips that this predicate keeps, as in `reelmill query`.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once (openai).")] = 32,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest time of one request (openai).")] = 120.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in one batch (transformers).")] = 8,
    device: Annotated[Device, typer.Option(help="Where models run (transformers).")] = Device.AUTO,
    image_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the pictures of one clip may take.")] = 2048,
    pixels_per_token: Annotated[int, typer.Option(min=1, help="Pixels that the model makes one token of: 784 for Qwen2.5-VL.")] = 784,
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest answer.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0.0, max=1.5, help="Of the first try; 0.5 more after a degenerate answer.")] = 0.2,
    max_tokens_total: Annotated[int | None, typer.Option(min=1, help="Stop when this run has used so many tokens, in and out.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0.0, help="Stop when this run has cost so much.")] = None,
    price_in: Annotated[float | None, typer.Option(min=0.0, help="Price of a million tokens in, in any currency.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0.0, help="Price of a million tokens out.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again clips that failed in a way that may pass.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Make captions of another model, prompt or other frames anew.")] = False,
    models: Annotated[str | None, typer.Option(help=f"For CLIP similarity: {MODELS_HELP}")] = None,
    clip_model: Annotated[str | None, typer.Option(help="CLIP model of the embeddings. [default: ViT-L-14-quickgelu/openai]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run record as JSON on stdout.")] = False,
) -> None:
    """Caption clips from their stored keyframes and measured tags. No video is decoded.

    Each answer is one JSON object: captions in three lengths, subject, action, scene, camera, style, lighting. It is checked against its
    schema, asked for again once with what is wrong, and then counts as failed; a repetitive, refusing, boilerplate or foreign one is asked
    for again once at another temperature, and is then null with a reason. What it says of the camera is compared with the measured motion.

    Answers are on disk as soon as they come. Stop or kill the command at any moment and start it again: only what was under way is asked
    for again. The key of a server is read from the environment, and neither stored nor shown.

    Exit status: 0 done, or stopped at a limit; 1 the job could not run; 2 wrong usage; 3 done, with clips in failures/.

    \b
    Examples:
      reelmill caption dataset --captioner template                       no model: what the tags say
      vllm serve Qwen/Qwen2.5-VL-7B-Instruct &
      reelmill caption dataset --captioner openai --base-url http://localhost:8000/v1 --name qwen
      reelmill caption dataset --captioner openai --base-url https://api.example.com/v1 --model large \\
          --price-in 0.4 --price-out 1.6 --max-cost 20 --where "suitability > 0.6"
      reelmill caption dataset --captioner transformers --model weights/SmolVLM --language zh --name smol-zh
      reelmill query dataset "NOT camera_agrees" --captions qwen --columns uri,start_s,camera,motion_camera
    """
    name = name or captioner.value
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("letters, digits, dots, dashes and underscores only", param_hint="--name")
    if (price_in is None) != (price_out is None):
        raise typer.BadParameter("give both prices, or none", param_hint="--price-in, --price-out")
    if captioner is CaptionerKind.OPENAI and not base_url:
        raise typer.BadParameter("which server? Give its address, such as http://localhost:8000/v1", param_hint="--base-url")
    if captioner is CaptionerKind.TRANSFORMERS and not model:
        raise typer.BadParameter("which model? Give its folder", param_hint="--model")
    if captioner is CaptionerKind.TEMPLATE and (prompt or language is not Language.ENGLISH):
        raise typer.BadParameter("the template has no prompt, and writes English only", param_hint="--prompt, --language")
    from labeling.captions.ledger import find_pending, fold_all
    from labeling.captions.pictures import Budget
    from labeling.captions.prompt import read_prompt, shipped_prompt
    from labeling.captions.run import Job
    from labeling.captions.spending import Limits, Prices
    from labeling.captions.template import captioner_of_tags
    from labeling.catalog import open_dataset

    there = open_dataset(dataset)
    chosen = _chosen(there, where, name)
    _say_warnings()
    job = None
    if captioner is not CaptionerKind.TEMPLATE:
        backend = (
            _server(base_url or "", model, concurrency, timeout_s, max_tokens)
            if captioner is CaptionerKind.OPENAI
            else _local(model or "", batch_size, max_tokens, device)
        )
        job = Job(
            name,
            backend,
            read_prompt(prompt) if prompt else shipped_prompt(language.value),
            Budget(image_tokens, pixels_per_token),
            (temperature, temperature + _WARMER),
            Prices(price_in, price_out) if price_in is not None and price_out is not None else None,
            Limits(max_tokens_total, max_cost),
            max_tokens,
        )
    maker = job.captioner if job else captioner_of_tags(name)
    with there.lock():
        fold_all(there, maker)
        pending = find_pending(there, maker, chosen, retry_failed)
        if pending.outdated and not replace:
            raise _other_captions(maker, pending)
        record = _record(there, maker, job, pending, {"kind": captioner.value, "where": where or "", "base_url": base_url or ""})
        similar = _measure_similarity(there, name, Weights(models, False, clip_model, device, name))
    if as_json:
        print(json.dumps(record, indent=1))
    _tell(record, pending, similar)
    if record["caption_failures"]:
        raise typer.Exit(FAILURES_RECORDED)


def _chosen(dataset: "Dataset", where: str | None, name: str) -> set[str] | None:
    """Ids of the clips that a predicate keeps; None for all. Columns of captions are those of this captioner, where it has any."""
    if where is None:
        return None
    from labeling.catalog import open_catalog
    from labeling.query import run_query

    catalog = open_catalog(dataset.root, name if name in dataset.captioners() else None)
    return set(run_query(catalog, where, ["clip_id"])["clip_id"].to_pylist())


def _say_warnings() -> None:
    """What a backend warns of is a line for the user."""

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logging.getLogger("labeling.captions").addHandler(Said(logging.WARNING))


def _server(base_url: str, model: str | None, concurrency: int, timeout_s: float, max_tokens: int) -> "Backend":
    from labeling.captions.backends.server import ServerBackend, only_model

    return ServerBackend(base_url, model or only_model(base_url), concurrency, timeout_s, max_tokens=max_tokens)


def _local(folder: str, batch_size: int, max_tokens: int, device: Device) -> "Backend":
    from labeling.captions.backends.local import LocalBackend

    return LocalBackend(folder, batch_size, max_tokens, device.value)


def _other_captions(maker: "Captioner", pending: "Pending") -> Exception:
    from labeling.captions.backends.protocol import CaptionError

    there = pending.outdated[0]
    facts = (("model", there.model, maker.model), ("prompt", there.prompt_version, maker.prompt_version))
    differs = " and ".join(f"{what} {old!r}, not {new!r}" for what, old, new in facts if old != new) or "other frames"
    return CaptionError(
        f"captions/{maker.name} has captions of {len(pending.outdated):,} of these clips made with {differs}: "
        "--name NAME keeps new ones beside them, --replace makes them anew"
    )


def _record(dataset: "Dataset", maker: "Captioner", job: "Job | None", pending: "Pending", inputs: dict[str, Any]) -> dict[str, Any]:
    """Do the work and store the record of the run, if there was any work."""
    from jobs.progress import track
    from jobs.runs import RunRecorder
    from labeling.captions.backends.connection import safe_url
    from labeling.captions.backends.protocol import CaptionError
    from labeling.captions.run import CaptionRun
    from labeling.captions.template import write_templates

    inputs["base_url"] = safe_url(inputs["base_url"]) if inputs["base_url"] else ""
    recorder = RunRecorder("caption", model=maker.model, prompt_version=maker.prompt_version, **inputs)
    if job is None:
        done = sum(track(write_templates(dataset, maker, pending), pending.num_clips, "clips", int))
        outcome = {"captioned_clips": done, "caption_failures": {}, "null_reasons": {}, "requests": 0, "tokens_in": 0, "tokens_out": 0}
        outcome |= {"cost": 0.0, "stopped_at_limit": False}
    else:
        run = CaptionRun(dataset, job, pending)
        try:
            for _ in track(run if pending.num_clips else (), pending.num_clips, "clips"):
                pass
        except CaptionError:
            say(f"{run.captioned:,} captions came before this, and are kept")
            raise
        outcome = run.outcome()
    record = recorder.finish(captioner=maker.name, **outcome)
    if pending.num_clips:
        dataset.write_run(record["run_id"], record)
    return record


def _measure_similarity(dataset: "Dataset", name: str, weights: Weights) -> str:
    """Compare captions with the keyframes' embeddings, where there are any; what came of it, as a line."""
    from functools import partial

    from jobs.engines import EngineName, engine_for
    from jobs.tag import measure
    from jobs.taggers import taggers_of
    from labeling.tagger import TaggerError
    from schemas.tables import embedding_table

    if not dataset.files(embedding_table(weights.embedder().name, 1)):
        return ""
    try:
        reports = measure(
            dataset, [], taggers_of(["clip_captions"], weights), partial(engine_for, EngineName.LOCAL), 1, _SIMILARITY_LIMIT_S
        )
    except TaggerError as error:
        then = f"`reelmill tag {dataset.root} --group clip_captions --captions {name}`"
        return f"content_caption_similarity was not measured: {error}; then run {then}"
    return f"content_caption_similarity was measured on {sum(report.clips for report in reports):,} clips" if reports else ""


def _tell(record: dict[str, Any], pending: "Pending", similar: str) -> None:
    """What came of a run, in lines."""
    name, done = record["captioner"], record["captioned_clips"]
    failed, null = record["caption_failures"], record["null_reasons"]
    if not pending.num_clips:
        say(f"nothing to do: captions/{name} is complete")
    else:
        rate = done / max(record["seconds"], 1e-3)
        say(f"captions/{name}: {done:,} clips in {record['seconds']:.1f} s, {rate:.1f} a second")
    if record["requests"]:
        cost = f", cost {record['cost']:.4g}" if record["cost"] is not None else ""
        say(f"{record['requests']:,} requests, {record['tokens_in']:,} tokens in, {record['tokens_out']:,} out{cost}")
    if null:
        say(f"{sum(null.values()):,} captions are null: {by_code(null)}")
    if pending.failed:
        say(f"{pending.failed:,} clips failed before and were passed over; --retry-failed tries those again that may work now")
    if similar:
        say(similar)
    if record["stopped_at_limit"]:
        left = pending.num_clips - done - sum(failed.values())
        say(f"stopped at the limit with {left:,} clips left: one more might take {record['next_clip_tokens']:,} tokens; run again to go on")
    if failed:
        say(f"{sum(failed.values()):,} clips are in failures/: {by_code(failed)}")
