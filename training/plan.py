"""What a run will see, before any of it is read: rows in, samples out. No torch.

Training starts from the same functions, so that a plan is what will be, but for clips that turn out to be unreadable.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa

from schemas.manifest import Manifest
from training.balance import Balance, plan_balance
from training.balancing.report import BalanceReport
from training.balancing.targets import BalanceConfig
from training.config import StageConfig, TrainConfig
from training.fullness import Batching, find_fuller
from training.packing import Loads, Planner, PlanState, make_planner
from training.sampler import Sampler, make_sampler
from training.settings import TrainError
from training.shapes import Shapes, elongated, plan_shapes, token_of
from training.texts import has_texts

Manifests = Mapping[str | None, Manifest]
"""Manifests by the name that stages give them; that of the command line has none."""

MOST_DRAWS = 500_000  # of a stage that are planned; what comes after is taken to go on likewise
_PROBES = 4  # batches of a stage whose cost is looked at


@dataclass(frozen=True)
class Prepared:
    """A manifest made ready for stages: the rows they train on, how often each is drawn, and in which order."""

    rows: pa.Table
    held_out_rows: pa.Table  # of videos that are not trained on
    num_left_out: int  # too elongated for an area of a stage
    origin: str  # what materialized clips were made with, since their pixels are not the source's; "" for the sources themselves
    balance: Balance
    sampler: Sampler


@dataclass(frozen=True)
class ShapePlan:
    """One shape of a stage, of `width` x `height` pixels and `frames`: `clips` of the manifest, `samples` of the planned steps.

    `token_share` is its part of the tokens of these. A bucketed batch holds `clips_per_batch` and `fill` of its `max_tokens`;
    a packed one mixes shapes, and so both are None.
    """

    width: int
    height: int
    frames: int
    tokens: int
    clips: int
    samples: int
    token_share: float
    clips_per_batch: int | None
    fill: float | None


@dataclass(frozen=True)
class StagePlan:
    """One stage. `useful_share` is the part of `max_tokens` of its batches that holds tokens; there is no other padding.

    `carried` samples are drawn and in no step at its end: the next stage begins with them if it draws from the same.
    `planned_steps` is how many steps these figures are of, where a stage is too long to be planned to its end. `fuller` is
    another batching: of packed batches under 98 % the nearest larger budget that fills them, of bucketed ones of a dit the same
    budget packed.
    """

    name: str
    model: str
    batching: str
    max_tokens: int
    micro_batches: int
    steps: int
    planned_steps: int
    samples: int
    epochs: float
    tokens: int
    useful_share: float
    fuller: Batching | None
    carried: int
    clips_seen: int
    shapes: tuple[ShapePlan, ...]  # the one with most tokens first


@dataclass(frozen=True)
class DataPlan:
    """What some stages draw from: one manifest under one balance.

    `repeats` is how many clips the first epoch shows how often: 0 are those it leaves for another.
    """

    stages: tuple[str, ...]
    manifest: str | None  # as the stages name it; none: that of the command line
    clips: int
    left_out: dict[str, int]  # reason -> clips
    has_captions: bool
    balance: BalanceReport
    repeats: dict[int, int]  # times -> clips


@dataclass(frozen=True)
class RunPlan:
    """A whole run: what it draws from, in the order in which stages come to it, and its stages."""

    data: tuple[DataPlan, ...]
    stages: tuple[StagePlan, ...]


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage with what its cost can be told from: the shapes of the rows, some of its batches evenly spaced, and its largest, as draws."""

    plan: StagePlan
    prepared: Prepared
    shapes: Shapes
    probes: tuple[tuple[int, ...], ...]
    largest: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """The figures of a run, and what they were made from."""

    plan: RunPlan
    stages: tuple[PlannedStage, ...]


def prepare(manifests: Manifests, config: TrainConfig) -> tuple[Prepared, ...]:
    """Rows, balance and order of each stage; the same object where stages draw from the same.

    Raises TrainError where a stage has no manifest or nothing to train on, or a balance cannot be met.
    """
    made: list[tuple[list[StageConfig], Prepared]] = []
    for stage in config.stages:
        if not any(stage in stages for stages, _ in made):
            wanted = (stage.manifest, config.balance_of(stage))
            alike = [other for other in config.stages if (other.manifest, config.balance_of(other)) == wanted]
            made.append((alike, _prepare(manifests[stage.manifest], config, alike)))
    return tuple(next(prepared for stages, prepared in made if stage in stages) for stage in config.stages)


def distinct(of_stages: Iterable[Prepared]) -> list[Prepared]:
    """Each of them once, in the order in which stages come to it."""
    return list({id(prepared): prepared for prepared in of_stages}.values())


def _prepare(manifest: Manifest, config: TrainConfig, stages: Sequence[StageConfig]) -> Prepared:
    rows, place = manifest.rows, f"of {stages[0].manifest} " if stages[0].manifest else ""
    if rows.num_rows == 0:
        raise TrainError(f"the manifest {place}is empty: its predicate selected no clip")
    kept = rows.filter(pa.array(~elongated(rows, [config.shapes_of(stage) for stage in stages], token_of(config))))
    if kept.num_rows == 0:
        raise TrainError(f"all {rows.num_rows} clips of the manifest {place}are too elongated for the areas of the shapes")
    is_held_out = held_out(kept, config.held_out.share)
    kept, held_out_rows = kept.filter(pa.array(~is_held_out)), kept.filter(pa.array(is_held_out))
    wanted = config.balance_of(stages[0])
    balance = plan_balance(kept, wanted, _tokens(kept, wanted, config, stages[-1]))
    origin = manifest.facts.made_from.get("settings", "")
    num_left_out = rows.num_rows - kept.num_rows - held_out_rows.num_rows
    return Prepared(kept, held_out_rows, num_left_out, origin, balance, make_sampler(balance, manifest.digest, config.seed))


def held_out(rows: pa.Table, share: float) -> np.ndarray:
    """Which rows are of videos that are not trained on, bool [N]. Raises TrainError where that would be none of them, or all.

    It is told from the id of a video alone, so that no clip of a source leaks, and that a video is held out of all runs or of none.
    """
    if share == 0:
        return np.zeros(rows.num_rows, bool)
    if "video_id" not in rows.column_names:
        raise TrainError("held_out.share: the manifest has no column video_id to tell sources apart; leave held_out out")
    videos = rows.column("video_id").combine_chunks().dictionary_encode()
    digests = (sha256(f"held out/{video}".encode()).digest() for video in videos.dictionary.to_pylist())
    chosen = np.array([int.from_bytes(digest[:8]) < share * 2**64 for digest in digests])
    if chosen.all() or not chosen.any():
        what = "all" if chosen.all() else "none"
        raise TrainError(
            f"held_out.share: {share:g} holds out {what} of the {len(chosen)} videos; {'lower' if chosen.all() else 'raise'} it"
        )
    return chosen[videos.indices.to_numpy()]


def shapes_of(prepared: Prepared, config: TrainConfig, stage: StageConfig) -> Shapes:
    """The shape of each row in a stage."""
    return plan_shapes(prepared.rows, config.shapes_of(stage), token_of(config))


def planner_of(shapes: Shapes, stage: StageConfig, sampler: Sampler, state: PlanState) -> Planner:
    """What plans the steps of a stage, from `state` on."""
    loads = Loads(shapes.tokens, shapes.buckets, stage.max_tokens, stage.micro_batches)
    return make_planner(stage.batching, loads, sampler.rows, state)


def plan_run(manifests: Manifests, config: TrainConfig) -> PlannedRun:
    """Everything that a run will see but for clips that turn out to be unreadable. Raises TrainError."""
    of_stages = prepare(manifests, config)
    stages, state, before = [], PlanState(), None
    for stage, prepared in zip(config.stages, of_stages, strict=True):
        planned, state = _plan_stage(prepared, config, stage, state if prepared is before else PlanState())
        stages.append(planned)
        before = prepared
    data = tuple(_plan_data(manifests, config, each, of_stages) for each in distinct(of_stages))
    plan = RunPlan(data, tuple(stage.plan for stage in stages))
    return PlannedRun(plan, tuple(stages))


def _plan_data(manifests: Manifests, config: TrainConfig, prepared: Prepared, of_stages: Sequence[Prepared]) -> DataPlan:
    stages = [stage for stage, theirs in zip(config.stages, of_stages, strict=True) if theirs is prepared]
    times, clips = np.unique(prepared.sampler.counts(0), return_counts=True)
    left_out = {"too elongated": prepared.num_left_out, "held out": prepared.held_out_rows.num_rows}
    return DataPlan(
        stages=tuple(stage.name for stage in stages),
        manifest=stages[0].manifest,
        clips=manifests[stages[0].manifest].rows.num_rows,
        left_out={reason: clips for reason, clips in left_out.items() if clips},
        has_captions=has_texts(prepared.rows, config.data.caption_lengths),
        balance=prepared.balance.report,
        repeats=dict(zip(times.tolist(), clips.tolist(), strict=True)),
    )


def _plan_stage(prepared: Prepared, config: TrainConfig, stage: StageConfig, state: PlanState) -> tuple[PlannedStage, PlanState]:
    shapes, sampler = shapes_of(prepared, config, stage), prepared.sampler
    planner, batches, samples = planner_of(shapes, stage, sampler, state), [], 0
    while len(batches) < stage.steps * stage.micro_batches and samples < MOST_DRAWS:
        batches += planner.step().batches
        samples += sum(map(len, batches[-stage.micro_batches :]))
    of_batch = [np.array([sampler.rows(k, 1)[0] for k in batch]) for batch in batches]
    rows = np.concatenate(of_batch)
    steps, tokens = len(batches) // stage.micro_batches, int(shapes.tokens[rows].sum())
    longer, useful = stage.steps / steps, tokens / (len(batches) * stage.max_tokens)
    planned = StagePlan(
        name=stage.name,
        model=stage.model,
        batching=stage.batching,
        max_tokens=stage.max_tokens,
        micro_batches=stage.micro_batches,
        steps=stage.steps,
        planned_steps=steps,
        samples=round(samples * longer),
        epochs=samples * longer / sampler.epoch_length,
        tokens=round(tokens * longer),
        useful_share=useful,
        fuller=find_fuller(stage, shapes, sampler.rows, state, useful),
        carried=len(planner.state.carried),
        clips_seen=len(np.unique(rows)),
        shapes=_shape_plans(shapes, stage, rows),
    )
    largest = max(range(len(batches)), key=lambda i: (shapes.tokens[of_batch[i]].sum(), len(batches[i])))
    probes = np.unique(np.linspace(0, len(batches) - 1, _PROBES).round().astype(int))
    return PlannedStage(planned, prepared, shapes, tuple(batches[i] for i in probes), batches[largest]), planner.state


def _shape_plans(shapes: Shapes, stage: StageConfig, rows: np.ndarray) -> tuple[ShapePlan, ...]:
    """Every shape of the manifest, and what the draws of `rows` hold of it."""
    _, first = np.unique(shapes.buckets, return_index=True)
    clips, samples = (np.bincount(buckets, minlength=len(first)) for buckets in (shapes.buckets, shapes.buckets[rows]))
    tokens = shapes.tokens[first]
    amounts = samples * tokens
    plans = []
    for i in np.argsort(-amounts, kind="stable"):
        shape, size = shapes.of(int(first[i])), stage.max_tokens // int(tokens[i]) if stage.batching == "bucketed" else None
        fill = None if size is None else size * int(tokens[i]) / stage.max_tokens
        share, counts = float(amounts[i] / amounts.sum()), (int(tokens[i]), int(clips[i]), int(samples[i]))
        plans.append(ShapePlan(shape.width, shape.height, shape.frames, *counts, share, size, fill))
    return tuple(plans)


def _tokens(rows: pa.Table, balance: BalanceConfig | None, config: TrainConfig, stage: StageConfig) -> np.ndarray | None:
    """Tokens of each row in a stage, where the balance is one of tokens."""
    if balance is None or balance.unit != "tokens":
        return None
    return plan_shapes(rows, config.shapes_of(stage), token_of(config)).tokens
