"""What a run will see, before any of it is read: rows in, samples out. No torch.

Training starts from the same functions, so that a plan is what will be, but for clips that turn out to be unreadable.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.manifest import Manifest
from training.balance import Balance, plan_balance
from training.balance_report import BalanceReport
from training.config import StageConfig, TrainConfig, TrainError
from training.packing import BucketPlanner, Loads, PackPlanner, Planner, PlanState
from training.sampler import Sampler, make_sampler
from training.shapes import Shapes, elongated, plan_shapes, token_of
from training.texts import has_texts

MOST_DRAWS = 500_000  # of a stage that are planned; what comes after is taken to go on likewise


@dataclass(frozen=True)
class Prepared:
    """A manifest made ready for a run: the rows it trains on, how often each is drawn, and in which order."""

    rows: pa.Table
    num_left_out: int  # too elongated for an area of a stage
    origin: str  # what materialized clips were made with, since their pixels are not the source's; "" for the sources themselves
    balance: Balance
    sampler: Sampler


@dataclass(frozen=True)
class StagePlan:
    """One stage. `useful_share` is the part of `max_tokens` of its batches that holds tokens; there is no other padding.

    `carried` samples are drawn and in no step at its end: the next stage begins with them. `planned_steps` is how many steps
    these figures are of, where a stage is too long to be planned to its end.
    """

    name: str
    model: str
    batching: str
    steps: int
    planned_steps: int
    samples: int
    epochs: float
    tokens: int
    shapes: int
    useful_share: float
    carried: int
    clips_seen: int


@dataclass(frozen=True)
class RunPlan:
    """A whole run."""

    clips: int
    left_out: dict[str, int]  # reason -> clips
    has_captions: bool
    balance: BalanceReport
    stages: tuple[StagePlan, ...]


def prepare(manifest: Manifest, config: TrainConfig) -> Prepared:
    """Rows, balance and order of a run. Raises TrainError where there is nothing to train on, or the balance cannot be met."""
    rows = manifest.rows
    if rows.num_rows == 0:
        raise TrainError("the manifest is empty: its predicate selected no clip")
    kept = rows.filter(pa.array(~elongated(rows, [config.shapes_of(stage) for stage in config.stages], token_of(config))))
    if kept.num_rows == 0:
        raise TrainError(f"all {rows.num_rows} clips of the manifest are too elongated for the areas of the shapes")
    balance = plan_balance(kept, config.balance, _tokens(kept, config))
    origin = manifest.facts.made_from.get("settings", "")
    return Prepared(kept, rows.num_rows - kept.num_rows, origin, balance, make_sampler(balance, manifest.digest, config.seed))


def shapes_of(prepared: Prepared, config: TrainConfig, stage: StageConfig) -> Shapes:
    """The shape of each row in a stage."""
    return plan_shapes(prepared.rows, config.shapes_of(stage), token_of(config))


def planner_of(shapes: Shapes, stage: StageConfig, sampler: Sampler, state: PlanState) -> Planner:
    """What plans the steps of a stage, from `state` on."""
    make = BucketPlanner if stage.batching == "bucketed" else PackPlanner
    return make(Loads(shapes.tokens, shapes.buckets, stage.max_tokens, stage.micro_batches), sampler.rows, state)


def plan_run(manifest: Manifest, config: TrainConfig) -> RunPlan:
    """Everything that a run will see but for clips that turn out to be unreadable. Raises TrainError."""
    prepared = prepare(manifest, config)
    stages, state = [], PlanState()
    for stage in config.stages:
        planned, state = _plan_stage(prepared, config, stage, state)
        stages.append(planned)
    left_out = {"too elongated": prepared.num_left_out} if prepared.num_left_out else {}
    has_captions = has_texts(prepared.rows, config.data.caption_lengths)
    return RunPlan(manifest.rows.num_rows, left_out, has_captions, prepared.balance.report, tuple(stages))


def _plan_stage(prepared: Prepared, config: TrainConfig, stage: StageConfig, state: PlanState) -> tuple[StagePlan, PlanState]:
    shapes = shapes_of(prepared, config, stage)
    planner, sampler = planner_of(shapes, stage, prepared.sampler, state), prepared.sampler
    seen, samples, tokens, steps = np.zeros(prepared.rows.num_rows, bool), 0, 0, 0
    while steps < stage.steps and samples < MOST_DRAWS:
        rows = np.concatenate([[sampler.rows(k, 1)[0] for k in batch] for batch in planner.step().batches]).astype(np.int64)
        seen[rows] = True
        samples, tokens, steps = samples + len(rows), tokens + int(shapes.tokens[rows].sum()), steps + 1
    longer = stage.steps / steps
    useful = tokens / (steps * stage.micro_batches * stage.max_tokens)
    planned = StagePlan(
        name=stage.name,
        model=stage.model,
        batching=stage.batching,
        steps=stage.steps,
        planned_steps=steps,
        samples=round(samples * longer),
        epochs=samples * longer / sampler.epoch_length,
        tokens=round(tokens * longer),
        shapes=len(np.unique(shapes.buckets)),
        useful_share=useful,
        carried=len(planner.state.carried),
        clips_seen=int(seen.sum()),
    )
    return planned, planner.state


def _tokens(rows: pa.Table, config: TrainConfig) -> np.ndarray | None:
    """Tokens of each row in the last stage, where the balance is one of tokens."""
    if config.balance is None or config.balance.unit != "tokens":
        return None
    return plan_shapes(rows, config.shapes_of(config.stages[-1]), token_of(config)).tokens
