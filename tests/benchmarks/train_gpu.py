"""How much of a GPU training steps use, beside those of diffusers' model of the same size, in one run of under ten minutes.

    python -m tests.benchmarks.train_gpu [--device cuda] [--budget-s 540] [--json OUT.json]

Steps are the trainer's own: a batch goes to the device, noise is drawn, forward and backward pass, gradients are clipped, and AdamW
moves float32 weights; products are in bfloat16. Clips have a text of 512 features of width 4096. Models have the shape of 1.3B; on a CPU
they and their clips are tiny, which shows that everything runs and nothing else.

ours is training.dit, B0 diffusers' WanTransformer3DModel as it comes, eager with full checkpointing, B1 the same with its blocks compiled,
with what may be kept kept and the kernels of attention named. All go through the same step. With fsdp (of one rank) weights are cast to
bfloat16 as a block begins, without it autocast casts them. MFU is the operations of one forward and backward pass of our model in
closed form, nothing counted twice that is computed again, by the median time of a step and by what the device could do by its vendor;
those of Wan by torch's count differ from them by less than 0.01 %. Settings are tried in the order of their promise; those that do
not fit in memory, or for which no time is left, are listed as such.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from training.conditions import Conditions, TextFeatures
from training.config import DiTConfig, TrainConfig
from training.data import Batch
from training.dit import DiT
from training.forecast.flops import dit_flops_of
from training.losses import noise_generator
from training.meter import peak_flops_per_s, peak_memory
from training.optimize import make_optimizer
from training.parallel import Gradients, clip_gradients, describe_device, place, use_device
from training.ranks import Ranks, join_ranks

CHANNELS, FEATURE_WIDTH, WORDS = 16, 4096, 512
GOAL_MFU, GOAL_OVER_B0 = 0.45, 1.5
_MEASURED_STEPS, _MEASURED_SECONDS = 10, 12.0  # at most, but three steps at least
_NAMES_OF_ATTENTION = ("attention", "flash", "fmha", "sdpa", "flex")
_TOP_KERNELS = 8
_LARGE_MEMORY = 100e9  # may hold all activations of 32,760 tokens

Model = Literal["ours", "B0", "B1"]


@dataclass(frozen=True)
class Size:
    """A batch: of each clip its (frames, rows, columns) of tokens and the tokens of its text."""

    name: str
    shapes: tuple[tuple[int, int, int], ...]
    words: tuple[int, ...] = (WORDS,)

    @property
    def tokens(self) -> int:
        return sum(frames * rows * columns for frames, rows, columns in self.shapes)


@dataclass(frozen=True)
class Setting:
    """What is measured: a model, and the keys of `system` that say how it computes."""

    model: Model
    compile: bool
    recompute: str
    attention: str
    sharding: str = "fsdp"

    def __str__(self) -> str:
        how = "compiled" if self.compile else "eager"
        return f"{self.model:4} {how:8} recompute {self.recompute:9} attention {self.attention:9} {self.sharding:4}"


@dataclass(frozen=True)
class Outcome:
    """Of one setting: seconds of each measured step and of all before them, and kernels by their share of the device's time."""

    size: Size
    setting: Setting
    problem: str | None = None  # in place of all below
    step_seconds: tuple[float, ...] = ()
    first_seconds: float = 0.0
    flops: int = 0
    mfu: float | None = None
    memory_gb: float = 0.0
    loss: float = 0.0
    kernels: tuple[tuple[str, float], ...] = ()

    @property
    def seconds(self) -> float:
        return median(self.step_seconds)


@dataclass(frozen=True)
class Bench:
    """What all settings share."""

    config: DiTConfig
    device: torch.device
    ranks: Ranks
    steps: int


# ---- what is measured ----

ONE_LONG = Size("32,760 tokens", ((21, 30, 52),))  # 81 frames of 480x832
ONE_SHORT = Size("4,352 tokens", ((17, 16, 16),))
PACKED = Size("4,352 packed", ((5, 16, 16), (8, 12, 16), (1, 16, 16), (10, 8, 16)), (WORDS, 77, 230, 333))
TINY = Size("48 tokens", ((3, 4, 4),), (12,))
TINY_PACKED = Size("48 packed", ((1, 4, 4), (2, 2, 4), (4, 2, 2)), (12, 3, 7))


def plan_for_gpu(device: torch.device) -> Iterator[tuple[Size, Setting]]:
    """Every setting at every size, those without which nothing can be said first."""
    best, other = ("cudnn", "flash") if torch.cuda.get_device_capability(device) >= (9, 0) else ("flash", "efficient")
    is_large = torch.cuda.get_device_properties(device).total_memory > _LARGE_MEMORY
    promising = ((ONE_LONG, ("none", "selective") if is_large else ("selective", "none")), (ONE_SHORT, ("none",)))
    for size, recomputes in promising:
        yield size, Setting("B0", False, "full", "auto")
        for recompute, model in product(recomputes, ("ours", "B1")):
            yield size, Setting(model, True, recompute, best)
    yield PACKED, Setting("ours", True, "none", best)
    for attention, sharding in ((best, "ddp"), (other, "fsdp")):
        for size, recomputes in promising:
            for recompute, model in product(recomputes, ("ours", "B1")):
                yield size, Setting(model, True, recompute, attention, sharding)
    for attention, size, recompute, compiled in product((best, other), (ONE_LONG, ONE_SHORT), ("full", "selective", "none"), (False, True)):
        yield size, Setting("ours", compiled, recompute, attention)


def plan_for_cpu(device: torch.device) -> Iterator[tuple[Size, Setting]]:
    """Every path once, compilation last."""
    yield TINY, Setting("B0", False, "full", "auto")
    for sharding, recompute in product(("fsdp", "ddp"), ("none", "selective", "full")):
        yield TINY, Setting("ours", False, recompute, "flash", sharding)
        yield TINY, Setting("B1", False, recompute, "flash", sharding)
    yield TINY_PACKED, Setting("ours", False, "selective", "flash")
    for model in ("ours", "B1"):
        yield TINY, Setting(model, True, "selective", "flash")


def run_all(bench: Bench, plan: Iterator[tuple[Size, Setting]], deadline: float) -> list[Outcome]:
    """Measure what can be before the deadline, each setting once, and say so as it goes."""
    outcomes, costs = dict[tuple[Size, Setting], Outcome](), dict[tuple[int, bool], float]()
    for size, setting in plan:
        kind = (size.tokens, setting.compile)
        if (size, setting) in outcomes:
            continue
        if setting.model != "ours" and find_spec("diffusers") is None:
            outcome = Outcome(size, setting, "the package diffusers is not installed")
        elif (left := deadline - time.monotonic()) < 1.2 * costs.get(kind, max(costs.values(), default=0.0)) or left < 0:
            outcome = Outcome(size, setting, "skipped: no time is left")
        elif _is_hopeless(setting, [done.setting for done in outcomes.values() if done.size == size and done.problem == "out of memory"]):
            outcome = Outcome(size, setting, "skipped: less did not fit in memory")
        else:
            began = time.monotonic()
            outcome = _tried(bench, size, setting)
            costs[kind] = max(costs.get(kind, 0.0), time.monotonic() - began)
        outcomes[size, setting] = outcome
        print(line(outcome), flush=True)
    return list(outcomes.values())


def _is_hopeless(setting: Setting, too_large: list[Setting]) -> bool:
    """Whether it needs no less memory than one that did not fit: eager keeps more than compiled, and another kernel as much."""
    return any(
        (setting.model, setting.recompute, setting.sharding) == (other.model, other.recompute, other.sharding)
        and (other.compile or not setting.compile)
        for other in too_large
    )


def _tried(bench: Bench, size: Size, setting: Setting) -> Outcome:
    torch.compiler.reset()
    try:
        outcome = measure(bench, size, setting)
    except torch.OutOfMemoryError:
        outcome = Outcome(size, setting, "out of memory")
    except Exception as error:  # of one setting; the others go on, and the run ends with an error
        told = " ".join(str(error).split())
        outcome = Outcome(size, setting, "out of memory" if "out of memory" in told else f"failed: {type(error).__name__}: {told[:300]}")
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    return outcome


# ---- one setting ----


def measure(bench: Bench, size: Size, setting: Setting) -> Outcome:
    """Steps of one setting, the first of which compile and warm up."""
    began, device = time.perf_counter(), bench.device
    config, batch = _train_config(bench, setting, size), _batch(size)
    torch.manual_seed(0)
    with device:
        model = _model(bench, setting)
    place(nn.ModuleDict({"dit": model}), config, device)
    stage = config.stages[-1]
    optimizer, gradients = make_optimizer(model, stage), Gradients(model, config, device, bench.ranks)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step(number: int) -> float:
        optimizer.zero_grad()
        told = gradients.add(batch, noise_generator(0, 0, number, 0), 1.0, last=True)
        clip_gradients(model, stage.max_grad_norm)
        optimizer.step()
        return float(told.metrics["loss"])

    for number in range(2):
        step(number)
    _synchronize(device)
    first, seconds, loss = time.perf_counter() - began, list[float](), 0.0
    while len(seconds) < bench.steps and (len(seconds) < 3 or sum(seconds) < _MEASURED_SECONDS):
        now = time.perf_counter()
        loss = step(2 + len(seconds))
        _synchronize(device)
        seconds.append(time.perf_counter() - now)
    flops, peak = dit_flops_of(bench.config, batch.x, batch.conditions).train, peak_flops_per_s(device)
    mfu = flops / median(seconds) / peak if peak else None
    memory = peak_memory(device) / 1e9
    return Outcome(size, setting, None, tuple(seconds), first, flops, mfu, memory, loss, _kernels(device, lambda: step(99)))


def _train_config(bench: Bench, setting: Setting, size: Size) -> TrainConfig:
    system = {name: getattr(setting, name) for name in ("compile", "recompute", "attention", "sharding")}
    stages = [{"name": model, "model": model, "steps": 1, "max_tokens": max(size.tokens, 4096)} for model in ("vae", "dit")]
    system |= {"device": bench.device.type, "precision": "bfloat16"}
    return TrainConfig(dit=bench.config.model_dump(), vae={"latent_channels": CHANNELS}, stages=stages, system=system)


def _model(bench: Bench, setting: Setting) -> nn.Module:
    if setting.model == "ours":
        return DiT(bench.config, CHANNELS, feature_width=FEATURE_WIDTH)
    from tests.benchmarks.diffusers_wan import Wan  # where it is installed

    return Wan(bench.config, CHANNELS, FEATURE_WIDTH, tuned=setting.model == "B1").train()


def _batch(size: Size) -> Batch:
    """Random latents, two cells a side in a token, with features of their texts."""
    generator, count = torch.Generator().manual_seed(0), len(size.shapes)
    x = tuple(torch.randn(CHANNELS, frames, 2 * rows, 2 * columns, generator=generator) for frames, rows, columns in size.shapes)
    words = tuple(torch.randn(length, FEATURE_WIDTH, generator=generator) for length in size.words)
    nothing = torch.zeros(count, 0, dtype=torch.int64)
    conditions = Conditions(("",) * count, torch.full((count,), 4.0), nothing, TextFeatures(words, words[0][:1]))
    return Batch(x, conditions, torch.zeros(count, dtype=torch.int64), torch.zeros(count))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _kernels(device: torch.device, step: Callable[[], object]) -> tuple[tuple[str, float], ...]:
    """Kernels of a step (on a CPU operators) with their share of all its time on the device, the longest first."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        step()
        _synchronize(device)
    here = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [event for event in profiled.key_averages() if event.device_type == here and not event.is_user_annotation]
    spent = {event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events}
    total = sum(spent.values()) or 1.0
    return tuple((name, part / total) for name, part in sorted(spent.items(), key=lambda item: -item[1]) if part)


# ---- what is told ----


def line(outcome: Outcome) -> str:
    """One setting."""
    head = f"{outcome.size.name:14} {outcome.setting}"
    if outcome.problem:
        return f"{head}  {outcome.problem}"
    seconds, mfu = outcome.seconds, "    -" if outcome.mfu is None else f"{outcome.mfu:5.1%}"
    times = f"{1000 * seconds:8.1f} ms ({1000 * min(outcome.step_seconds):.1f} to {1000 * max(outcome.step_seconds):.1f})"
    speed = f"{outcome.size.tokens / seconds:9,.0f} tokens/s {outcome.flops / seconds / 1e12:7.2f} TFLOP/s"
    return f"{head} {times}  {speed}  MFU {mfu}  {outcome.memory_gb:5.1f} GB  first steps {outcome.first_seconds:.0f} s"


def best_of(outcomes: list[Outcome], size: Size, model: Model) -> Outcome | None:
    """The fastest of a model at a size."""
    return min(
        (each for each in outcomes if each.size == size and each.setting.model == model and not each.problem), key=_time, default=None
    )


def _time(outcome: Outcome) -> float:
    return outcome.seconds


def summary(outcomes: list[Outcome]) -> Iterator[str]:
    """The best of each model at each size, what they stand to each other, and their kernels."""
    for size in dict.fromkeys(each.size for each in outcomes):
        best = {model: best_of(outcomes, size, model) for model in ("ours", "B0", "B1")}
        yield f"\n{size.name}, the best of each:"
        yield from (f"  {line(each)}" for each in best.values() if each)
        if ours := best["ours"]:
            yield from (f"  ours is {other.seconds / ours.seconds:.2f} x {name}" for name in ("B0", "B1") if (other := best[name]))
        for name, each in best.items():
            if each:
                yield f"  kernels of {name}, by their share of a step:"
                yield from (f"    {share:6.1%}  {kernel[:150]}" for kernel, share in _shown(each.kernels))
    yield f"\ngoals at {ONE_LONG.name} on an H200: MFU of {GOAL_MFU:.0%} or more, at least {GOAL_OVER_B0} x B0, and no less than B1"


def _shown(kernels: tuple[tuple[str, float], ...]) -> Iterator[tuple[str, float]]:
    """The longest, and those of attention wherever they stand."""
    for rank, (name, share) in enumerate(kernels):
        if rank < _TOP_KERNELS or (share > 0.001 and any(part in name.lower() for part in _NAMES_OF_ATTENTION)):
            yield name, share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget-s", type=float, default=540.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    began, on_gpu = time.monotonic(), args.device == "cuda"
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    use_device(device, threads=2)
    config = DiTConfig(size="1.3B") if on_gpu else DiTConfig(size="tiny", patch=2, depth=2)
    print(f"{describe_device(device)}; torch {torch.__version__}; width {config.width}, depth {config.depth}")
    with join_ranks(device, "fsdp") as ranks:
        bench = Bench(config, device, replace(ranks, saving=None), _MEASURED_STEPS if on_gpu else 3)
        outcomes = run_all(bench, (plan_for_gpu if on_gpu else plan_for_cpu)(device), began + args.budget_s)
    print("\n".join(summary(outcomes)))
    if args.json:
        facts = {"device": describe_device(device), "torch": torch.__version__, "seconds": time.monotonic() - began}
        told = [asdict(replace(each, kernels=tuple(_shown(each.kernels)))) for each in outcomes]
        args.json.write_text(json.dumps({**facts, "outcomes": told}, indent=2) + "\n")
    return int(any((each.problem or "").startswith("failed") for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
