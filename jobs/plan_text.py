"""A plan for the terminal, and how its figures are written."""

import sys
from typing import TYPE_CHECKING

from jobs.output import by_code, grid, printable
from labeling.report.templates import hours, size

if TYPE_CHECKING:
    from rich.table import Table

    from training.balancing.report import ValueReport
    from training.forecast.cost import Memory, RunCost, StageCost
    from training.forecast.timing import RunTime, StageTime
    from training.plan import DataPlan, RunPlan, StagePlan

HOW_TO_TIME = "no time: give a --device (and --ranks) to estimate it, or --measure to take it on this machine"
NOT_TIMED = "loading and decoding of clips are not in it"
_MOST_SHAPES = 8
_FILE_WIDTH = 120


def show(plan: "RunPlan", cost: "RunCost", took: "RunTime | None") -> None:
    """Print a plan with its cost."""
    width = max(8, *(len(stage.name) for stage in plan.stages)) + 2

    def line(name: str, text: str) -> None:
        print(f"{printable(name):<{width}}{text}")

    for data in plan.data:
        line("clips", clips_of(data, plan))
        line("epoch", str(data.balance))
    line("models", models_of(cost))
    for index, (stage, of_stage) in enumerate(zip(plan.stages, cost.stages, strict=True)):
        lines = [seen(stage), batches(stage), *filter(None, [fuller(stage)]), operations_of(of_stage), memory_of(of_stage.memory)]
        lines += [time_of(took.stages[index], took)] if took else []
        for number, text in enumerate(lines):
            line("" if number else stage.name, text)
    line("time", f"{hours(took.hours)} in all, {took.basis}; {NOT_TIMED}" if took else HOW_TO_TIME)
    for stage in plan.stages:
        _print(_shapes(stage))
    for data in plan.data:
        if data.balance.values:
            headers = [f"balance{whose(data, plan)}", "clips", "natural", "wanted", "planned", "realized", "repeats"]
            _print(grid(headers, map(_value, data.balance.values), numbers=range(1, 7)))


def _print(table: "Table") -> None:
    """A table, at a width of its own where no terminal has one."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(table)


def whose(data: "DataPlan", plan: "RunPlan") -> str:
    """Which stages draw from this, where it is not all of them."""
    return f" of {', '.join(map(printable, data.stages))}" if len(plan.data) > 1 else ""


def clips_of(data: "DataPlan", plan: "RunPlan") -> str:
    """What goes in."""
    captions = "" if data.has_captions else "; none has a caption: every text is empty"
    place = f" in {printable(data.manifest)}" if data.manifest else ""
    return f"{data.clips:,}{place}{whose(data, plan)}; left out: {by_code(data.left_out) or '0'}{captions}"


# ---- lines of a stage ----


def seen(stage: "StagePlan") -> str:
    """What a stage sees."""
    part = f" (planned for the first {stage.planned_steps:,})" if stage.planned_steps < stage.steps else ""
    count = f"{stage.samples:,} samples, {stage.epochs:,.2f} epochs, {stage.clips_seen:,} clips, {stage.tokens:,} tokens"
    return f"{stage.model}, {stage.batching}, {stage.steps:,} steps{part}: {count}"


def batches(stage: "StagePlan") -> str:
    """How its batches are made."""
    each = f"{stage.micro_batches} batches a step of up to" if stage.micro_batches > 1 else "a batch a step of up to"
    full = f"{stage.useful_share:.1%} full, no padding; {len(stage.shapes)} shapes; {stage.carried:,} samples handed on"
    return f"{each} {stage.max_tokens:,} tokens, {full}"


def fuller(stage: "StagePlan") -> str | None:
    """How its batches would be fuller."""
    from training.fullness import FULL

    other = stage.fuller
    if other is None:
        return (
            f"no max_tokens up to 4 times as large is {FULL:.0%} full" if stage.batching == "packed" and stage.useful_share < FULL else None
        )
    if stage.batching == "bucketed":
        return f"batching: packed would be {other.useful_share:.1%} full at the same max_tokens"
    return f"max_tokens: {other.max_tokens} would be {other.useful_share:.1%} full"


def operations_of(stage: "StageCost") -> str:
    """What a step computes."""
    encoding = f", and {operations(stage.encode_flops)} to encode clips without a data.cache" if stage.encode_flops else ""
    return f"{operations(stage.step_flops)} a step (mean of {stage.probes} planned batches){encoding}"


def memory_of(memory: "Memory") -> str:
    """What a rank holds."""
    parts = ", ".join(f"{name} {size(count)}" for name, count in memory_parts(memory) if count)
    return f"{size(memory.peak)} of memory a rank, while {memory.moment}: {parts}"


def memory_parts(memory: "Memory") -> list[tuple[str, int]]:
    """The parts of the peak by name."""
    names = {"weights": memory.weights, "EMA": memory.average, "optimizer": memory.optimizer, "gradients": memory.gradients}
    return [*names.items(), ("activations", memory.activations)]


def time_of(stage: "StageTime", took: "RunTime") -> str:
    """How long a stage takes, and whether it fits."""
    encoding = f", {seconds(stage.encode_seconds)} of it to encode" if stage.encode_seconds else ""
    fits = "" if stage.fits is None or took.memory_bytes is None else f"; {fits_text(stage.fits, took.memory_bytes)}"
    return f"{seconds(stage.step_seconds)} a step{encoding}, {hours(stage.hours)} in all{fits}"


def fits_text(fits: bool, memory_bytes: float) -> str:
    """Whether a device holds a step."""
    return f"{'fits' if fits else 'DOES NOT FIT'} the {size(memory_bytes)} of the device"


def models_of(cost: "RunCost") -> str:
    """The sizes of the models."""
    names = ", ".join(f"{name} of {count / 1e6:,.2f} M weights" for name, count in cost.weights.items())
    return f"{names}, in float{8 * cost.bytes_per_number}; {cost.num_ranks} rank{'s' if cost.num_ranks > 1 else ''}, each with whole models"


# ---- figures ----


def operations(count: float) -> str:
    """A number of floating point operations in the unit that reads best."""
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} ZFLOP"


def seconds(value: float) -> str:
    """A time in the unit that reads best."""
    if value >= 1:
        return f"{value:,.1f} s" if value < 120 else f"{value / 60:,.1f} min"
    return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"


def _shapes(stage: "StagePlan") -> "Table":
    """The shapes that most of the tokens are of; with their batches, where each has its own."""
    bucketed = stage.batching == "bucketed"
    headers = [f"shapes of {printable(stage.name)}", "clips", "samples", "tokens each", "of all tokens"]
    rows = []
    for shape in stage.shapes[:_MOST_SHAPES]:
        counts = [f"{shape.clips:,}", f"{shape.samples:,}", f"{shape.tokens:,}", f"{shape.token_share:.1%}"]
        batch = [f"{shape.clips_per_batch:,}", f"{shape.fill:.1%}"] if bucketed else []
        rows.append([f"{shape.width}x{shape.height}x{shape.frames}", *counts, *batch])
    if rest := stage.shapes[_MOST_SHAPES:]:
        clips, samples = sum(shape.clips for shape in rest), sum(shape.samples for shape in rest)
        share = sum(shape.token_share for shape in rest)
        rows.append([f"{len(rest)} others", f"{clips:,}", f"{samples:,}", "", f"{share:.1%}", *([""] * 2 * bucketed)])
    return grid([*headers, *(["clips a batch", "fill"] if bucketed else [])], rows, numbers=range(1, 7))


def _value(value: "ValueReport") -> list[str]:
    wanted = "free" if value.target_share is None else f"{value.target_share:.1%}"
    shares = [f"{value.natural_share:.1%}", wanted, f"{value.planned_share:.1%}", f"{value.realized_share:.1%}"]
    return [f"{value.target} {value.value}", f"{value.num_rows:,}", *shares, f"{value.mean_repeats:.2f}, ≤ {value.max_repeats}"]
