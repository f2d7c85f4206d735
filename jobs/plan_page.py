"""A plan as one self-contained HTML page: what goes in, what a run sees of it before and after the balance, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.plan_text import HOW_TO_TIME, NOT_TIMED, fits_text, fuller, memory_parts, models_of, operations, seconds, whose
from labeling.report.page import Card, Fact, card_of
from labeling.report.templates import environment, hours, size, style
from schemas.manifest import Manifest

if TYPE_CHECKING:
    from training.balancing.report import ValueReport
    from training.config import TrainConfig
    from training.forecast.cost import RunCost, StageCost
    from training.forecast.timing import RunTime, StageTime
    from training.plan import DataPlan, Manifests, RunPlan, ShapePlan, StagePlan

_MOST_VALUES, _MOST_SHAPES, _FIRST_SHAPES = 60, 400, 10


@dataclass(frozen=True)
class Target:
    """One target of a balance; bars are drawn up to the share `top`."""

    name: str
    values: Sequence["ValueReport"]
    top: float
    more: int


@dataclass(frozen=True)
class DataView:
    """What some stages draw from: the plan of it, whose it is, and its targets or, without any, cards of the tags that condition.

    `name` is that of the manifest's file.
    """

    plan: "DataPlan"
    name: str
    manifest: Manifest
    whose: str
    targets: Sequence[Target]
    cards: Sequence[Card]
    most_clips: int


@dataclass(frozen=True)
class Part:
    """A part of the memory and its share of the peak."""

    name: str
    size: str
    share: float


@dataclass(frozen=True)
class StageView:
    """One stage: the plan of it and its cost, figures in words, parts of its memory, and its shapes, the rest summed up."""

    plan: "StagePlan"
    figures: Sequence[tuple[str, str, str]]  # name, value, note
    hint: str | None
    parts: Sequence[Part]
    memory: str
    memory_note: str
    too_much: bool
    shapes: Sequence["ShapePlan"]
    rest: Sequence["ShapePlan"]
    num_more: int
    largest_side: int
    top_share: float


def plan_page(
    name: str, manifests: "Manifests", config_name: str, config: "TrainConfig", plan: "RunPlan", cost: "RunCost", took: "RunTime | None"
) -> str:
    """HTML of a plan. `name` is that of the command line's manifest, `took` None where no time is known."""
    template = environment().from_string((files("jobs") / "plan_page.html").read_text("utf-8"))
    times = took.stages if took else [None] * len(plan.stages)
    return template.render(
        style=style(),
        name=name,
        config_name=config_name,
        plan=plan,
        facts=_facts(plan, cost, took),
        basis=f"{took.basis}; {NOT_TIMED}" if took else HOW_TO_TIME,
        models=models_of(cost),
        datas=[_data(data, plan, name, manifests[data.manifest], config) for data in plan.data],
        stages=[_stage(*of_stage, took) for of_stage in zip(plan.stages, cost.stages, times, strict=True)],
        first_shapes=_FIRST_SHAPES,
    )


def _data(data: "DataPlan", plan: "RunPlan", name: str, manifest: Manifest, config: "TrainConfig") -> DataView:
    tags = [] if data.balance.values else [tag for tag in config.data.condition_tags if tag in manifest.rows.column_names]
    cards = [card_of(manifest.rows[tag], tag) for tag in tags]
    name = Path(data.manifest).name if data.manifest else name
    return DataView(data, name, manifest, whose(data, plan), _targets(data.balance.values), cards, max(data.repeats.values()))


def _facts(plan: "RunPlan", cost: "RunCost", took: "RunTime | None") -> list[Fact]:
    trained_on, left_out = sum(data.balance.num_rows for data in plan.data), sum(sum(data.left_out.values()) for data in plan.data)
    computed = sum((of.step_flops + of.encode_flops) * stage.steps for stage, of in zip(plan.stages, cost.stages, strict=True))
    highest = max(cost.stages, key=lambda stage: stage.memory.peak)
    epochs = sum(stage.epochs for stage in plan.stages)
    useful = sum(stage.useful_share * stage.steps for stage in plan.stages) / sum(stage.steps for stage in plan.stages)
    return [
        Fact("clips in", f"{sum(data.clips for data in plan.data):,}", f"{left_out:,} left out, {trained_on:,} to draw from"),
        Fact("samples out", f"{sum(stage.samples for stage in plan.stages):,}", f"{epochs:,.2f} epochs"),
        Fact("tokens", _large(sum(stage.tokens for stage in plan.stages)), f"batches {useful:.1%} full, no padding"),
        Fact("steps", f"{sum(stage.steps for stage in plan.stages):,}", f"{len(plan.stages)} stages"),
        Fact("operations", operations(computed), "forward, backward and encoding"),
        Fact("memory", size(highest.memory.peak), f"of a rank at most, in {highest.name}"),
        Fact("time", hours(took.hours) if took else "–", took.basis.split(":")[0] if took else "give --device or --measure"),
    ]


def _large(count: int) -> str:
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:,}"


def _targets(values: Sequence["ValueReport"]) -> list[Target]:
    targets = []
    for name, group in groupby(values, key=lambda value: value.target):
        found = list(group)
        top = max(max(value.natural_share, value.planned_share, value.realized_share, value.target_share or 0) for value in found)
        targets.append(Target(name, found[:_MOST_VALUES], top, max(len(found) - _MOST_VALUES, 0)))
    return targets


def _stage(stage: "StagePlan", cost: "StageCost", time: "StageTime | None", took: "RunTime | None") -> StageView:
    memory, shapes = cost.memory, stage.shapes[:_MOST_SHAPES]
    saved = f"highest while {memory.moment}; the backward pass of the largest batch needs {size(memory.saved)} kept"
    fits = f"it {fits_text(time.fits, took.memory_bytes)}; " if time and took and took.memory_bytes and time.fits is not None else ""
    return StageView(
        plan=stage,
        figures=_figures(stage, cost, time),
        hint=fuller(stage),
        parts=[Part(name, size(count), count / memory.peak) for name, count in memory_parts(memory)],
        memory=size(memory.peak),
        memory_note=f"{fits}{saved}",
        too_much=time is not None and time.fits is False,
        shapes=shapes[:_FIRST_SHAPES],
        rest=shapes[_FIRST_SHAPES:],
        num_more=len(stage.shapes) - len(shapes),
        largest_side=max(max(shape.width, shape.height) for shape in stage.shapes),
        top_share=max(shape.token_share for shape in stage.shapes),
    )


def _figures(stage: "StagePlan", cost: "StageCost", time: "StageTime | None") -> list[tuple[str, str, str]]:
    part = f"figures planned for the first {stage.planned_steps:,}" if stage.planned_steps < stage.steps else "all of them planned"
    each = f"{stage.micro_batches} to a step, of up to {stage.max_tokens:,} tokens"
    encoding = f"and {operations(cost.encode_flops)} to encode clips without a data.cache" if cost.encode_flops else ""
    figures = [
        ("steps", f"{stage.steps:,}", part),
        ("samples", f"{stage.samples:,}", f"{stage.clips_seen:,} different clips"),
        ("epochs", f"{stage.epochs:,.2f}", ""),
        ("tokens", _large(stage.tokens), f"{stage.tokens / stage.steps:,.0f} a step"),
        ("batches", stage.batching, each),
        ("full", f"{stage.useful_share:.1%}", f"{1 - stage.useful_share:.1%} of the budget unused; padding 0"),
        ("handed on", f"{stage.carried:,}", "samples drawn, and first in the next stage if that has the same data"),
        ("a step computes", operations(cost.step_flops), encoding),
    ]
    if time:
        encoding = f"{seconds(time.encode_seconds)} of it to encode clips" if time.encode_seconds else ""
        figures += [("a step takes", seconds(time.step_seconds), encoding), ("the stage takes", hours(time.hours), "")]
    return figures
