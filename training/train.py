"""The trainer, top to bottom: set up, take a step, log it, save it; one stage after the other, then a sample.

A step is a pure function of the weights before it, of its number and of the plan's state: which clips it sees comes from
the sampler by way of the plan, the noise of each of its batches from a generator seeded by (seed, stage, step, batch). That
is why a run that was killed and resumed ends bitwise equal. Several ranks share the batches of each step, whose gradients they add up.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.autoencoding.preview import open_preview
from training.checkpoint import Checkpoints, Progress, Training, load_models, load_progress, load_training
from training.config import CarryConfig, StageConfig, TrainConfig, load_config
from training.encoding.text_features import open_text_encoder, open_texts
from training.feed import Feed, Readers, StageData, open_feed, stage_data, take
from training.generate import Generator, default_settings, write_sample
from training.guards import Spikes, check_finite
from training.held_out import held_out_loss
from training.latents import measure_latents, open_latents
from training.log import RunLog, SilentLog
from training.losses import StepLoss, noise_generator
from training.meter import speed, step_flops
from training.optimize import learning_rate, make_optimizer, update_average
from training.packing import PlanState
from training.parallel import Gradients, autocast, clip_gradients, describe_device, device_of, place, use_device
from training.pixels import to_pixels, to_tensor
from training.plan import distinct, prepare
from training.ranks import Ranks, check_ranks, join_ranks
from training.runs import RunFolder, check_run, data_facts, load_manifests, make_models, start_run, take_vae, text_facts, vae_facts
from training.stopping import Stopped, stop_signals
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
    averages: nn.ModuleDict  # of those that are trained
    device: torch.device
    data: tuple[StageData, ...]  # of each stage
    readers: Readers
    ranks: Ranks
    checkpoints: Checkpoints
    log: RunLog | SilentLog
    stop: Callable[[], bool]
    skipped: dict[str, str]  # clip_id -> why it could not be read, of all ranks


@dataclass(frozen=True)
class Carried:
    """What a stage leaves to the next, as far as that takes it over: the weights of its last step, and the optimizer's moments.

    The average of its weights is where all averages are, and is the model.
    """

    last: dict[str, Tensor]
    moments: dict[Tensor, Any]


def train(config_or_preset: str | Path, manifest_path: str | Path | None, out: Path, resume: bool = False) -> TrainResult:
    """Train what the config says into the folder `out`, on the clips of a manifest and of those that stages name. Raises TrainError."""
    began = time.monotonic()
    config = load_config(config_or_preset)
    manifests, encoder = load_manifests(manifest_path, config), open_text_encoder(config)
    of_stages = prepare(manifests, config)
    data = stage_data(config, of_stages)
    facts: dict = {"data": data_facts(manifests, manifest_path, config, of_stages), "text_encoder": text_facts(encoder)}
    device, total_steps = device_of(config.system), sum(stage.steps for stage in config.stages)
    use_device(device, config.threads)
    with join_ranks(device, config.system.sharding) as ranks:
        check_ranks(config, ranks.count)
        folder = RunFolder(out)
        models, checkpoint = make_models(config), folder.newest_checkpoint()
        facts["vae"] = vae_facts(models["vae"])
        check_run(folder, config, facts, resume)
        progress = load_progress(checkpoint) if checkpoint else Progress()
        if not checkpoint:
            take_vae(config, models)
        averages = place(models, config, device)
        if checkpoint:
            load_models(checkpoint, models)
        readers = Readers(models["vae"], open_latents(config, models["vae"], of_stages), open_texts(config, encoder, of_stages))
        ranks.gather("all have looked at the folder as it was")
        if ranks.leads:
            start_run(folder, config, facts)
        log = RunLog(folder.path, total_steps, progress.total_steps, config) if ranks.leads else SilentLog()
        with log, Checkpoints(folder.checkpoints, config.keep_checkpoints, ranks, device) as checkpoints, stop_signals() as stop:
            skipped = dict(progress.skipped)
            run = Run(config, folder, models, averages, device, data, readers, ranks, checkpoints, log, stop, skipped)
            _introduce(run, facts, progress, total_steps)
            carried: Carried | None = None
            for stage in config.stages[progress.stage :]:
                progress, carried = train_stage(run, stage, progress, carried)
            sample = _final_sample(run)
            if run.skipped and ranks.leads:
                (folder.path / "skipped.json").write_text(json.dumps(run.skipped, indent=2) + "\n")
    return TrainResult(progress.total_steps, time.monotonic() - began, sample, run.skipped)


def _introduce(run: Run, facts: dict, progress: Progress, total_steps: int) -> None:
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in run.models.items()}
    models = ", ".join(f"{name} of {size / 1e6:.2f} M weights" for name, size in sizes.items())
    run.log.say(f"{models}; {total_steps} steps")
    run.log.say(f"computing in {run.config.system.precision} on {describe_device(run.device)}; ranks: {run.ranks.count}")
    for told in facts["data"]:
        left_out = f"{told['clips_too_elongated']} of them too elongated, {told['clips_held_out']} held out"
        run.log.say(f"{', '.join(told['stages'])}: {told['clips']} clips, {left_out}")
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
    training = _start_stage(run, stage, progress, carried)
    feed = open_feed(run.config, stage, run.data[progress.stage], run.readers, run.ranks, progress)
    _note_skipped(run, feed.skipped)
    gradients = Gradients(training.model, run.config, run.device, run.ranks)
    with closing(feed.steps):
        while progress.step < stage.steps:
            progress = train_step(run, stage, training, gradients, feed, progress)
            _audit(run, stage, feed, progress)
            if progress.step < stage.steps:  # the end of the stage is saved below
                _between_steps(run, stage, training, feed, progress)
    return _end_stage(run, stage, training, feed, progress)


def _start_stage(run: Run, stage: StageConfig, progress: Progress, carried: Carried | None) -> Training:
    model, average, carry = run.models[stage.model].train(), run.averages[stage.model], stage.carry
    optimizer = make_optimizer(model, stage)
    if carried and carried.last:
        model.load_state_dict(carried.last)
        carried.last.clear()  # as large as the model
    if carried:
        optimizer.state.update(carried.moments)
    if not (carried and carry.average == "keep"):
        average.load_state_dict(model.state_dict())
    training = Training(model, average, optimizer)
    if progress.step:
        load_training(run.folder.newest_checkpoint(), training)
    return training


def _end_stage(run: Run, stage: StageConfig, training: Training, feed: Feed, progress: Progress) -> tuple[Progress, Carried]:
    """Take the average, save it, and keep what the next stage carries over."""
    following = progress.stage + 1
    carry = run.config.stages[following].carry if following < len(run.data) else CarryConfig()
    carries = carry != CarryConfig()
    if carries:  # resumed from here, the stage ends once more, and what is carried is there
        _save(run, training, feed, progress)
    last = deepcopy(training.model.state_dict()) if carry.weights == "last" else {}
    carried = Carried(last, dict(training.optimizer.state) if carry.optimizer == "keep" else {})
    training.model.load_state_dict(training.average.state_dict())
    goes_on = following < len(run.data) and run.data[following].prepared is run.data[progress.stage].prepared
    plan = progress.plan if goes_on else PlanState()
    progress = replace(progress, stage=following, step=0, plan=plan, spikes=Spikes(), audit=(), skipped=run.skipped)
    if stage.model == "vae":
        measure_latents(run.models["vae"], feed.source, feed.order)
        run.ranks.follow(run.models["vae"])
        if run.ranks.leads:
            _write_reconstruction(run, feed, progress)
    if not carries:
        run.checkpoints.save(progress, run.models, None)
    return progress, carried


def _audit(run: Run, stage: StageConfig, feed: Feed, progress: Progress) -> None:
    """Compare what was trained on with the plan where it is time to."""
    every_steps, facets = run.config.audit.every_steps, run.data[progress.stage].audit.facets
    if facets and (progress.step % every_steps == 0 or progress.step == stage.steps):
        run.log.audit(stage.name, progress.total_steps, feed.tally.close_window(feed.waiting(progress)))


def _save(run: Run, training: Training, feed: Feed, progress: Progress) -> None:
    kept = replace(progress, audit=tuple(feed.tally.state.tolist()), skipped=run.skipped)
    run.checkpoints.save(kept, run.models, training)


def _between_steps(run: Run, stage: StageConfig, training: Training, feed: Feed, progress: Progress) -> None:
    """Save and sample where it is time to, and stop where that was asked for."""
    stopping = any(run.ranks.gather(run.stop()))
    if stopping or progress.step % run.config.checkpoint_every_steps == 0:
        _save(run, training, feed, progress)
    if stopping:
        run.checkpoints.wait()
        raise Stopped(f"stopped after step {progress.total_steps}, which is saved; continue with --resume")
    every_steps = run.config.sample.every_steps if stage.model == "dit" else 0
    if every_steps and progress.step % every_steps == 0:
        _sample(run, training.average, run.folder.sample_at(progress.total_steps), open_preview(run.config))


# ---- one step ----


def train_step(run: Run, stage: StageConfig, training: Training, gradients: Gradients, feed: Feed, progress: Progress) -> Progress:
    """Take one step and log it. The gradients of its batches add up to the mean over its tokens, so all tokens count alike."""
    began = time.monotonic()
    taken = take(feed, run.ranks, lambda skipped: _note_skipped(run, skipped), run.skipped)
    loading_seconds = time.monotonic() - began
    training.optimizer.zero_grad()
    losses, batches = list[tuple[float, StepLoss]](), []
    for left, (number, clips) in zip(reversed(range(len(taken.batches))), taken.batches.items(), strict=True):
        share = feed.tokens([clip.row for clip in clips]) / taken.tokens
        generator = noise_generator(run.config.seed, progress.stage, progress.step, number)
        batch = feed.make_batch(clips, run.config.conditions_of(stage), generator) if clips else feed.blank
        step_loss = gradients.add(batch, generator, share, last=left == 0)
        if clips:
            losses.append((share, step_loss))
            batches.append(batch)
    told = _sum_up(feed, run.ranks.gather(_of_rank(losses, taken.rows)))
    grad_norm = clip_gradients(training.model, stage.max_grad_norm)
    clip_ids = (clip.clip_id for clips in taken.batches.values() for clip in clips)
    check_finite(told["loss"], grad_norm, progress.total_steps + 1, run.folder.newest_checkpoint(), clip_ids)
    spikes, lr = progress.spikes.after(grad_norm, stage), learning_rate(stage, progress.step)
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    if not spikes.skip:
        training.optimizer.step()
        update_average(training, stage.ema_decay, run.config.averaged_steps(progress.stage) + progress.step)
    step, plan = progress.step + 1, taken.step.part.plan
    progress = replace(progress, step=step, total_steps=progress.total_steps + 1, plan=plan, spikes=spikes)
    figures = speed(
        time.monotonic() - began, loading_seconds, taken.samples, taken.tokens, step_flops(run.config, stage, batches), run.device
    )
    facts = {"draws_crc32": taken.step.part.draws_crc32, "lr": lr, "grad_norm": grad_norm, "skipped_updates": spikes.skipped}
    if feed.held_out and (step % run.config.held_out.every_steps == 0 or step == stage.steps):
        facts["held_out_loss"] = held_out_loss(training.average, feed.held_out, run.config, run.device, run.ranks)
    counts = {"samples": taken.samples, "carried_samples": len(plan.carried), "skipped_clips": len(run.skipped)}
    run.log.step(stage.name, progress.total_steps, {**told, **facts, **figures, **counts})
    return progress


def _of_rank(losses: Sequence[tuple[float, StepLoss]], rows: list[int]) -> tuple[Counter[str], list[int], list[float]]:
    """Metrics of the batches of this rank, and losses of their clips: asked for when all are under way, since it waits for them."""
    metrics = Counter[str]()
    for share, step_loss in losses:
        metrics.update({name: share * float(value) for name, value in step_loss.metrics.items()})
    return metrics, rows, [loss for _, step_loss in losses for loss in step_loss.clip_losses.tolist()]


def _sum_up(feed: Feed, parts: Sequence[tuple[Counter[str], list[int], list[float]]]) -> Counter[str]:
    """The metrics of all ranks, each of which is its part of a mean; rows and losses of their clips are tallied."""
    metrics = Counter[str]()
    for part, rows, clip_losses in parts:
        metrics.update(part)
        feed.tally.add(rows, clip_losses)
    return metrics


def _note_skipped(run: Run, skipped: Mapping[str, str]) -> None:
    for clip_id, reason in skipped.items():
        if clip_id not in run.skipped:
            run.skipped[clip_id] = reason
            run.log.say(f"skipped {clip_id} of {reason}")


# ---- what a run shows ----


def _sample(run: Run, dit: nn.Module, path: Path, preview: nn.Module | None = None) -> None:
    """All ranks sample, since each may hold a part of the weights; one writes."""
    generator = Generator(run.models["vae"], dit, run.config, run.readers.texts, preview)
    settings = default_settings(run.config)
    with autocast(run.config.system, run.device):
        if run.ranks.leads:
            write_sample(path, generator, settings)
        else:
            list(generator.frames(settings))


def _final_sample(run: Run) -> Path | None:
    if run.config.stages[-1].model != "dit":
        return None
    _sample(run, run.models["dit"], run.folder.sample)
    return run.folder.sample


@torch.no_grad()
def _write_reconstruction(run: Run, feed: Feed, progress: Progress) -> None:
    """A clip beside what the VAE makes of it."""
    clip = feed.source.first(feed.order, 1)[0]
    video = to_tensor(clip.content)
    again = run.models["vae"].to_video(run.models["vae"].to_latents(video[None].to(run.device)))[0].cpu()
    write_mp4(run.folder.sample_at(progress.total_steps, "_reconstruction"), to_pixels(torch.cat([video, again], dim=3)), clip.fps)
