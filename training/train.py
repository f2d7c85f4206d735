"""The trainer, top to bottom: set up, take a step, log it, save it; one stage after the other, then a sample.

A step is a pure function of the weights before it, of its number and of the plan's state: which clips it sees comes from
the sampler by way of the plan, the noise of each of its batches from a generator seeded by (seed, stage, step, batch). That
is why a run that was killed and resumed ends bitwise equal.
"""

import json
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from training.checkpoint import Progress, Training, load_models, load_progress, load_training, save_checkpoint
from training.config import StageConfig, TrainConfig, TrainError, load_config
from training.data import Clip, ClipSource, make_batch, to_pixels, to_tensor
from training.generate import default_settings, generate, write_mp4, write_sample
from training.latents import LatentSource, measure_latents
from training.log import RunLog
from training.losses import batch_loss, noise_generator
from training.packing import Planner
from training.plan import Prepared, planner_of, prepare, shapes_of
from training.runs import RunFolder, load_manifest, make_models, open_run
from training.shapes import Shapes


class Stopped(TrainError):
    """The run was asked to stop (SIGTERM or Ctrl-C), wrote a checkpoint and did."""


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
    prepared: Prepared
    source: ClipSource
    log: RunLog
    stop: Callable[[], bool]


@dataclass(frozen=True)
class Feed:
    """What a stage takes its batches from: the shapes of the rows, the plan of its steps, and a clip's pixels or latents."""

    shapes: Shapes
    planner: Planner
    inputs: Callable[[Clip], Tensor]


def train(config_or_preset: str | Path, manifest_path: str | Path, out: Path, resume: bool = False) -> TrainResult:
    """Train what the config says on the clips of a manifest, into the folder `out`. Raises TrainError."""
    began = time.monotonic()
    config, manifest = load_config(config_or_preset), load_manifest(manifest_path)
    prepared = prepare(manifest, config)
    facts = {
        "manifest": str(manifest_path),
        "manifest_digest": manifest.digest,
        "clips": manifest.rows.num_rows,
        "clips_too_elongated": prepared.num_left_out,
        "balance": asdict(prepared.balance.report),
        "order_key": f"{prepared.sampler.key:032x}",
    }
    folder = open_run(out, config, facts, resume)
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    models, checkpoint = make_models(config), folder.newest_checkpoint()
    progress = load_progress(checkpoint) if checkpoint else Progress()
    if checkpoint:
        load_models(checkpoint, models)
    total_steps = sum(stage.steps for stage in config.stages)
    with RunLog(folder.path, total_steps, progress.total_steps, config.log_every_s) as log, _stop_signals() as stop:
        source = ClipSource(prepared.rows, config.data, config.threads, log.say)
        run = Run(config, folder, models, prepared, source, log, stop)
        _introduce(run, facts, progress, total_steps)
        for stage in config.stages[progress.stage :]:
            progress = train_stage(run, stage, progress)
        sample = _final_sample(run)
        if source.skipped:
            (folder.path / "skipped.json").write_text(json.dumps(source.skipped, indent=2) + "\n")
    return TrainResult(progress.total_steps, time.monotonic() - began, sample, source.skipped)


def _introduce(run: Run, facts: dict, progress: Progress, total_steps: int) -> None:
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in run.models.items()}
    models = ", ".join(f"{name} of {size / 1e6:.2f} M weights" for name, size in sizes.items())
    run.log.say(f"{facts['clips']} clips, {facts['clips_too_elongated']} of them too elongated; {models}; {total_steps} steps")
    if run.config.balance:
        report = run.prepared.balance.report
        for value in report.values:
            run.log.say(f"balance by {value}")
        run.log.say(f"balance: {report}")
    if progress.total_steps:
        run.log.say(f"resuming after step {progress.total_steps}")


# ---- one stage ----


def train_stage(run: Run, stage: StageConfig, progress: Progress) -> Progress:
    """Train one model from where `progress` stands to the end of the stage, where it takes its averaged weights."""
    training, feed = _start_stage(run, stage, progress), _start_feed(run, stage, progress)
    while progress.step < stage.steps:
        progress = train_step(run, stage, training, feed, progress)
        if progress.step < stage.steps:  # the end of the stage is saved below
            _between_steps(run, stage, training, progress)
    training.model.load_state_dict(training.average.state_dict())
    if stage.model == "vae":
        measure_latents(run.models["vae"], run.source, run.prepared.sampler, feed.shapes)
        _write_reconstruction(run, feed.shapes, progress)
    progress = replace(progress, stage=progress.stage + 1, step=0)
    save_checkpoint(run.folder.checkpoints, progress, run.models, None, run.config.keep_checkpoints)
    return progress


def _start_stage(run: Run, stage: StageConfig, progress: Progress) -> Training:
    model = run.models[stage.model].train()
    average = deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=stage.weight_decay, betas=(0.9, 0.98))
    training = Training(model, average, optimizer)
    if progress.step:
        load_training(run.folder.newest_checkpoint(), training)
    return training


def _start_feed(run: Run, stage: StageConfig, progress: Progress) -> Feed:
    shapes = shapes_of(run.prepared, run.config, stage)
    inputs = LatentSource(run.models["vae"], run.config.data.cache_mb) if stage.model == "dit" else _clip_pixels
    return Feed(shapes, planner_of(shapes, stage, run.prepared.sampler, progress.plan), inputs)


def _between_steps(run: Run, stage: StageConfig, training: Training, progress: Progress) -> None:
    """Save and sample where it is time to, and stop where that was asked for."""
    config, stopping = run.config, run.stop()
    if stopping or progress.step % config.checkpoint_every_steps == 0:
        save_checkpoint(run.folder.checkpoints, progress, run.models, training, config.keep_checkpoints)
    if stopping:
        raise Stopped(f"stopped after step {progress.total_steps}, which is saved; continue with --resume")
    if stage.model == "dit" and config.sample.every_steps and progress.step % config.sample.every_steps == 0:
        settings = default_settings(config)
        frames = generate(run.models["vae"], training.average, config, settings)
        write_sample(run.folder.sample_at(progress.total_steps), frames, settings)


# ---- one step ----


def train_step(run: Run, stage: StageConfig, training: Training, feed: Feed, progress: Progress) -> Progress:
    """Take one step and log it. The gradients of its batches add up to the mean over its tokens, so all tokens count alike."""
    began = time.monotonic()
    clips = _next_clips(run, feed)
    batches = [make_batch(part, feed.inputs, run.config.vae.time_factor) if part else None for part in clips]
    sizes = [sum(x.numel() for x in batch.x) if batch else 0 for batch in batches]
    loaded = time.monotonic()
    training.optimizer.zero_grad()
    metrics: Counter[str] = Counter()
    for index, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
        if batch:
            share = size / sum(sizes)
            generator = noise_generator(run.config.seed, progress.stage, progress.step, index)
            step_loss = batch_loss(training.model, batch, run.config, generator)
            (step_loss.loss * share).backward()
            for name, value in step_loss.metrics.items():
                metrics[name] += share * value
    grad_norm = float(nn.utils.clip_grad_norm_(training.model.parameters(), stage.max_grad_norm))
    _guard(run, metrics["loss"], grad_norm, progress, [clip for part in clips for clip in part])
    lr = learning_rate(stage, progress.step)
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    training.optimizer.step()
    update_average(training, stage.ema_decay, progress.step)
    seconds, samples = time.monotonic() - began, sum(map(len, clips))
    speed = {"samples_per_s": samples / seconds, "data_share": (loaded - began) / seconds}
    progress = replace(progress, step=progress.step + 1, total_steps=progress.total_steps + 1, plan=feed.planner.state)
    counts = {"samples": samples, "carried_samples": len(progress.plan.carried), "skipped_clips": len(run.source.skipped)}
    run.log.step(stage.name, progress.total_steps, {**metrics, "lr": lr, "grad_norm": grad_norm, **speed, **counts})
    return progress


def _next_clips(run: Run, feed: Feed) -> list[list[Clip]]:
    """The readable clips of each batch of the next planned step that has any. Raises TrainError where a whole epoch has none.

    What cannot be read leaves a gap in its batch and moves no other clip, since the plan is made from shapes alone.
    """
    unread = 0
    while unread <= run.prepared.sampler.epoch_length:
        planned = feed.planner.step()
        clips = [run.source.readable(run.prepared.sampler, feed.shapes, draws) for draws in planned.batches]
        if any(clips):
            return clips
        unread += sum(map(len, planned.batches))
    raise run.source.nothing_readable()


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warm-up, then half a cosine from `learning_rate` to `final_learning_rate` at the last step."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(stage.steps - 1 - stage.warmup_steps, 1)
    left = (1 + math.cos(math.pi * done)) / 2
    return stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * left


@torch.no_grad()
def update_average(training: Training, decay: float, step: int) -> None:
    """Move the average toward the model; early steps move it further, so that it forgets the random start."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, weight in zip(training.average.parameters(), training.model.parameters(), strict=True):
        mean.lerp_(weight, 1 - decay)


def _guard(run: Run, loss: float, grad_norm: float, progress: Progress, clips: list[Clip]) -> None:
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        kept, ids = run.folder.newest_checkpoint(), ", ".join(clip.clip_id for clip in clips)
        raise TrainError(
            f"step {progress.total_steps + 1} gave loss {loss} and gradient norm {grad_norm}, so it was not taken; "
            f"lower the learning rate. Newest checkpoint: {kept.name if kept else 'none'}; clips: {ids}"
        )


def _clip_pixels(clip: Clip) -> Tensor:
    return to_tensor(clip.pixels)


# ---- what a run shows ----


def _final_sample(run: Run) -> Path | None:
    if run.config.stages[-1].model != "dit":
        return None
    settings = default_settings(run.config)
    write_sample(run.folder.sample, generate(run.models["vae"], run.models["dit"], run.config, settings), settings)
    return run.folder.sample


@torch.no_grad()
def _write_reconstruction(run: Run, shapes: Shapes, progress: Progress) -> None:
    """A clip beside what the VAE makes of it."""
    clip = run.source.first(run.prepared.sampler, shapes, 1)[0]
    video = to_tensor(clip.pixels)
    again = run.models["vae"].to_video(run.models["vae"].to_latents(video[None]))[0]
    frames = to_pixels(torch.cat([video, again], dim=3))
    write_mp4(run.folder.sample_at(progress.total_steps, "_reconstruction"), frames, clip.fps)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGTERM or Ctrl-C into a wish to stop after the step; the second acts at once."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, ask)
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
