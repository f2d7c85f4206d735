"""The trainer, top to bottom: set up, take a step, log it, save it; one stage after the other, then a sample.

A step is a pure function of the weights before it, of its number and of the plan's state: which clips it sees comes from
the sampler by way of the plan, the noise of each of its batches from a generator seeded by (seed, stage, step, batch). That
is why a run that was killed and resumed ends bitwise equal. Several ranks share the batches of each step, whose gradients they add up.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.audit import Audit, Tally, make_audit
from training.checkpoint import Progress, Training, load_models, load_progress, load_training, save_checkpoint
from training.config import CarryConfig, StageConfig, TrainConfig, TrainError, load_config
from training.controls.source import ControlSource
from training.data import BatchMaker, Clip, ClipSource, Contents, Order, Pixels, nothing_readable
from training.encoding.cache import Cache
from training.encoding.text_features import CachedTexts, TextSource, open_text_encoder, open_texts
from training.generate import Generator, default_settings, write_sample
from training.latents import CachedLatents, LatentSource, measure_latents, open_latents
from training.loader import LoadedStep, load_steps
from training.log import RunLog, SilentLog
from training.losses import batch_loss, noise_generator
from training.optimize import learning_rate, update_average
from training.packing import PlanState
from training.pixels import to_pixels, to_tensor
from training.plan import Prepared, distinct, planner_of, prepare, shapes_of
from training.ranks import Ranks, check_ranks, join_ranks
from training.runs import RunFolder, check_run, data_facts, load_manifests, make_models, start_run, take_vae, text_facts
from training.stopping import Stopped, stop_signals
from training.tag_bins import tag_bins
from training.texts import has_texts
from training.videos import write_mp4


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves. `skipped` holds the clips that could not be read, and why."""

    steps: int
    seconds: float
    sample: Path | None
    skipped: dict[str, str]


@dataclass(frozen=True)
class Run:
    """Everything a step needs that no step changes."""

    config: TrainConfig
    folder: RunFolder
    models: nn.ModuleDict
    data: tuple["StageData", ...]  # of each stage
    cache: Cache | None
    texts: TextSource | None  # of features, where a frozen encoder reads them
    ranks: Ranks
    log: RunLog | SilentLog
    stop: Callable[[], bool]
    skipped: dict[str, str]  # clip_id -> why it could not be read, of all ranks


@dataclass(frozen=True)
class StageData:
    """What a stage draws from; `bins` are the tags as the dit is told them, int16 [rows, tags]."""

    prepared: Prepared
    bins: np.ndarray
    audit: Audit


@dataclass(frozen=True)
class Carried:
    """What a stage leaves to the next: the weights of its last step, where these are wanted, their average, the optimizer's state."""

    last: Mapping[str, Tensor]
    average: nn.Module
    optimizer: Mapping[str, Any]


@dataclass(frozen=True)
class Feed:
    """What a stage takes its batches from: steps as they are read, what draws ask for, what makes batches of clips; and its tally."""

    source: ClipSource
    order: Order
    steps: Iterator[LoadedStep]
    make_batch: BatchMaker
    tally: Tally


@dataclass(frozen=True)
class Taken:
    """A step that has clips: those of this rank's batches by their number in it, and how many clips and tokens all ranks have."""

    step: LoadedStep
    batches: dict[int, tuple[Clip, ...]]
    samples: int
    tokens: int


def train(config_or_preset: str | Path, manifest_path: str | Path | None, out: Path, resume: bool = False) -> TrainResult:
    """Train what the config says into the folder `out`, on the clips of a manifest and of those that stages name. Raises TrainError."""
    began = time.monotonic()
    config = load_config(config_or_preset)
    manifests, encoder = load_manifests(manifest_path, config), open_text_encoder(config)
    of_stages = prepare(manifests, config)
    data = _stage_data(config, of_stages)
    facts = {"data": data_facts(manifests, manifest_path, config, of_stages), "text_encoder": text_facts(encoder)}
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    total_steps = sum(stage.steps for stage in config.stages)
    with join_ranks() as ranks:
        check_ranks(config, ranks.count)
        folder = RunFolder(out)
        check_run(folder, config, facts, resume)
        models, checkpoint = make_models(config), folder.newest_checkpoint()
        progress = load_progress(checkpoint) if checkpoint else Progress()
        if checkpoint:
            load_models(checkpoint, models)
        else:
            take_vae(config, models)
        cache, texts = open_latents(config, models["vae"], of_stages), open_texts(config, encoder, of_stages)
        ranks.gather("all have looked at the folder as it was")
        if ranks.leads:
            start_run(folder, config, facts)
        log = RunLog(folder.path, total_steps, progress.total_steps, config.log_every_s) if ranks.leads else SilentLog()
        with log, stop_signals() as stop:
            run = Run(config, folder, models, data, cache, texts, ranks, log, stop, dict(progress.skipped))
            _introduce(run, facts, progress, total_steps)
            carried: Carried | None = None
            for stage in config.stages[progress.stage :]:
                progress, carried = train_stage(run, stage, progress, carried)
            sample = _final_sample(run)
            if run.skipped and ranks.leads:
                (folder.path / "skipped.json").write_text(json.dumps(run.skipped, indent=2) + "\n")
    return TrainResult(progress.total_steps, time.monotonic() - began, sample, run.skipped)


def _stage_data(config: TrainConfig, of_stages: Sequence[Prepared]) -> tuple[StageData, ...]:
    everything = [prepared.rows for prepared in distinct(of_stages)]
    made = {}
    for prepared in distinct(of_stages):
        bins = tag_bins(prepared.rows, config.data.condition_tags, config.dit.tag_bins, everything)
        made[id(prepared)] = StageData(prepared, bins, make_audit(prepared.rows, prepared.balance, config))
    return tuple(made[id(prepared)] for prepared in of_stages)


def _introduce(run: Run, facts: dict, progress: Progress, total_steps: int) -> None:
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in run.models.items()}
    models = ", ".join(f"{name} of {size / 1e6:.2f} M weights" for name, size in sizes.items())
    run.log.say(f"{models}; {total_steps} steps")
    for told in facts["data"]:
        run.log.say(f"{', '.join(told['stages'])}: {told['clips']} clips, {told['clips_too_elongated']} of them too elongated")
    for prepared in distinct(data.prepared for data in run.data):
        if not has_texts(prepared.rows, run.config.data.caption_lengths):
            run.log.say("the manifest holds no captions: every text is empty")
        report = prepared.balance.report
        for value in report.values:
            run.log.say(f"balance by {value}")
        if report.values:
            run.log.say(f"balance: {report}")
    if progress.total_steps:
        run.log.say(f"resuming after step {progress.total_steps}")


# ---- one stage ----


def train_stage(run: Run, stage: StageConfig, progress: Progress, carried: Carried | None) -> tuple[Progress, Carried]:
    """Train one model from where `progress` stands to the end of the stage, where it takes its averaged weights."""
    training, feed = _start_stage(run, stage, progress, carried), _start_feed(run, stage, progress)
    with closing(feed.steps):
        while progress.step < stage.steps:
            progress = train_step(run, stage, training, feed, progress)
            _audit(run, stage, feed, progress)
            if progress.step < stage.steps:  # the end of the stage is saved below
                _between_steps(run, stage, training, feed, progress)
    following = run.config.stages[progress.stage + 1 : progress.stage + 2]
    carries = bool(following) and following[0].carry != CarryConfig()
    if carries:  # resumed from here, the stage ends once more, and what is carried is there
        _save(run, training, feed, progress)
    carried = Carried(deepcopy(training.model.state_dict()) if carries else {}, training.average, training.optimizer.state_dict())
    training.model.load_state_dict(training.average.state_dict())
    goes_on = bool(following) and run.data[progress.stage + 1].prepared is run.data[progress.stage].prepared
    plan = progress.plan if goes_on else PlanState()
    progress = replace(progress, stage=progress.stage + 1, step=0, plan=plan, audit=(), skipped=run.skipped)
    if stage.model == "vae":
        measure_latents(run.models["vae"], feed.source, feed.order)
        run.ranks.follow(run.models["vae"])
    if run.ranks.leads:
        if stage.model == "vae":
            _write_reconstruction(run, feed, progress)
        if not carries:
            save_checkpoint(run.folder.checkpoints, progress, run.models, None, run.config.keep_checkpoints)
    return progress, carried


def _start_stage(run: Run, stage: StageConfig, progress: Progress, carried: Carried | None) -> Training:
    model, carry = run.models[stage.model].train(), stage.carry
    if carried and carry.weights == "last":
        model.load_state_dict(carried.last)
    average = carried.average if carried and carry.average == "keep" else deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=stage.weight_decay, betas=(0.9, 0.98))
    if carried and carry.optimizer == "keep":
        optimizer.load_state_dict(carried.optimizer)
        for group in optimizer.param_groups:
            group["weight_decay"] = stage.weight_decay
    training = Training(model, average, optimizer)
    if progress.step:
        load_training(run.folder.newest_checkpoint(), training)
    return training


def _start_feed(run: Run, stage: StageConfig, progress: Progress) -> Feed:
    data, of_stage = run.config.data, run.data[progress.stage]
    prepared, shapes = of_stage.prepared, shapes_of(of_stage.prepared, run.config, stage)
    inputs: Callable[[Clip], Tensor] = _pixels
    contents: Contents = Pixels(run.config.threads)
    if run.cache:
        contents, inputs = CachedLatents(run.cache, prepared.origin), _content
    elif stage.model == "dit":
        inputs = LatentSource(run.models["vae"], data.memory_mb)
    texts = run.texts if stage.model == "dit" else None
    controls = ControlSource(run.config, run.models["vae"]) if stage.model == "dit" and run.config.told_controls else None
    make_batch = BatchMaker(inputs, of_stage.bins, run.config.vae.time_factor, texts, controls)
    read_texts = texts if isinstance(texts, CachedTexts) else None  # by workers; those to be encoded are by this process
    source = ClipSource(prepared.rows, data, contents, data.memory_mb / max(data.workers, 1), read_texts)
    order = Order(prepared.sampler, shapes, data.windows_per_clip)
    steps = load_steps(source, planner_of(shapes, stage, prepared.sampler, progress.plan), order, run.ranks, data.workers)
    return Feed(source, order, steps, make_batch, Tally(of_stage.audit, _waiting(order, progress), progress.audit))


def _audit(run: Run, stage: StageConfig, feed: Feed, progress: Progress) -> None:
    """Compare what was trained on with the plan where it is time to."""
    every_steps = run.config.audit.every_steps
    if run.data[run.config.stages.index(stage)].audit.facets and (progress.step % every_steps == 0 or progress.step == stage.steps):
        run.log.audit(stage.name, progress.total_steps, feed.tally.close_window(_waiting(feed.order, progress)))


def _waiting(order: Order, progress: Progress) -> list[int]:
    """The rows of what is drawn and in no step yet."""
    return [int(order.sampler.rows(k, 1)[0]) for k in progress.plan.carried]


def _save(run: Run, training: Training, feed: Feed, progress: Progress) -> None:
    if run.ranks.leads:
        kept = replace(progress, audit=tuple(feed.tally.state.tolist()), skipped=run.skipped)
        save_checkpoint(run.folder.checkpoints, kept, run.models, training, run.config.keep_checkpoints)


def _between_steps(run: Run, stage: StageConfig, training: Training, feed: Feed, progress: Progress) -> None:
    """Save and sample where it is time to, and stop where that was asked for."""
    config, stopping = run.config, any(run.ranks.gather(run.stop()))
    if stopping or progress.step % config.checkpoint_every_steps == 0:
        _save(run, training, feed, progress)
    if stopping:
        raise Stopped(f"stopped after step {progress.total_steps}, which is saved; continue with --resume")
    every = config.sample.every_steps if run.ranks.leads and stage.model == "dit" else 0
    if every and progress.step % every == 0:
        generator = Generator(run.models["vae"], training.average, config, run.texts)
        write_sample(run.folder.sample_at(progress.total_steps), generator, default_settings(config))


# ---- one step ----


def train_step(run: Run, stage: StageConfig, training: Training, feed: Feed, progress: Progress) -> Progress:
    """Take one step and log it. The gradients of its batches add up to the mean over its tokens, so all tokens count alike."""
    began = time.monotonic()
    taken = _take(run, feed)
    loaded = time.monotonic()
    training.optimizer.zero_grad()
    metrics, clip_losses = Counter[str](), list[float]()
    for number, clips in taken.batches.items():
        share = _tokens(feed, clips) / taken.tokens
        generator = noise_generator(run.config.seed, progress.stage, progress.step, number)
        batch = feed.make_batch(clips, run.config.conditions_of(stage), generator)
        step_loss = batch_loss(training.model, batch, run.config, generator)
        (step_loss.loss * share).backward()
        clip_losses += step_loss.clip_losses.tolist()
        metrics.update({name: share * value for name, value in step_loss.metrics.items()})
    run.ranks.sum_gradients(training.model)
    rows = [clip.row for read in taken.step.batches for clip in read.clips]
    told = _sum_up(feed.tally, run.ranks.gather((metrics, rows, clip_losses)))
    grad_norm = float(nn.utils.clip_grad_norm_(training.model.parameters(), stage.max_grad_norm))
    _guard(run, told["loss"], grad_norm, progress, taken.step)
    lr = learning_rate(stage, progress.step)
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    training.optimizer.step()
    update_average(training, stage.ema_decay, progress.step)
    progress = replace(progress, step=progress.step + 1, total_steps=progress.total_steps + 1, plan=taken.step.part.plan)
    seconds = time.monotonic() - began
    speed = {"samples_per_s": taken.samples / seconds, "data_share": (loaded - began) / seconds}
    counts = {"samples": taken.samples, "carried_samples": len(progress.plan.carried), "skipped_clips": len(run.skipped)}
    facts = {"draws_crc32": taken.step.part.draws_crc32, "lr": lr, "grad_norm": grad_norm}
    run.log.step(stage.name, progress.total_steps, {**told, **facts, **speed, **counts})
    return progress


def _sum_up(tally: Tally, parts: Sequence[tuple[Counter[str], list[int], list[float]]]) -> Counter[str]:
    """The metrics of all ranks, each of which is its part of a mean; rows and losses of their clips are tallied."""
    metrics = Counter[str]()
    for part, rows, clip_losses in parts:
        metrics.update(part)
        tally.add(rows, clip_losses)
    return metrics


def _take(run: Run, feed: Feed) -> Taken:
    """The next planned step of which any rank could read a clip. Raises TrainError where a whole epoch has none.

    What cannot be read leaves a gap in its batch and moves no other clip, since the plan is made from shapes alone.
    """
    unread = 0
    for step in feed.steps:
        batches = {number: read.clips for number, read in enumerate(step.batches, step.part.first_batch) if read.clips}
        samples, tokens = sum(map(len, batches.values())), sum(_tokens(feed, clips) for clips in batches.values())
        skipped = {clip_id: reason for read in step.batches for clip_id, reason in read.skipped.items()}
        parts = run.ranks.gather((samples, tokens, skipped))
        _note_skipped(run, [skipped for _, _, skipped in parts])
        if any(samples for samples, _, _ in parts):
            return Taken(step, batches, sum(samples for samples, _, _ in parts), sum(tokens for _, tokens, _ in parts))
        unread += step.part.draws
        if unread > feed.order.sampler.epoch_length:
            break
    raise nothing_readable(run.skipped)


def _tokens(feed: Feed, clips: Iterable[Clip]) -> int:
    return int(sum(feed.order.shapes.tokens[clip.row] for clip in clips))


def _note_skipped(run: Run, skipped: Iterable[dict[str, str]]) -> None:
    for clip_id, reason in (item for part in skipped for item in part.items()):
        if clip_id not in run.skipped:
            run.skipped[clip_id] = reason
            run.log.say(f"skipped {clip_id} of {reason}")


def _guard(run: Run, loss: float, grad_norm: float, progress: Progress, step: LoadedStep) -> None:
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        kept, ids = run.folder.newest_checkpoint(), ", ".join(clip.clip_id for read in step.batches for clip in read.clips)
        raise TrainError(
            f"step {progress.total_steps + 1} gave loss {loss} and gradient norm {grad_norm}, so it was not taken; "
            f"lower the learning rate. Newest checkpoint: {kept.name if kept else 'none'}; clips: {ids}"
        )


def _pixels(clip: Clip) -> Tensor:
    return to_tensor(clip.content)


def _content(clip: Clip) -> Tensor:
    return clip.content


# ---- what a run shows ----


def _final_sample(run: Run) -> Path | None:
    if run.config.stages[-1].model != "dit":
        return None
    if run.ranks.leads:
        generator = Generator(run.models["vae"], run.models["dit"], run.config, run.texts)
        write_sample(run.folder.sample, generator, default_settings(run.config))
    return run.folder.sample


@torch.no_grad()
def _write_reconstruction(run: Run, feed: Feed, progress: Progress) -> None:
    """A clip beside what the VAE makes of it."""
    clip = feed.source.first(feed.order, 1)[0]
    video = to_tensor(clip.content)
    again = run.models["vae"].to_video(run.models["vae"].to_latents(video[None]))[0]
    frames = to_pixels(torch.cat([video, again], dim=3))
    write_mp4(run.folder.sample_at(progress.total_steps, "_reconstruction"), frames, clip.fps)
