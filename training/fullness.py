"""How full batches would be if they were made otherwise: shapes and a stage come in, another batching goes out. No torch."""

import math
from dataclasses import dataclass

from training.config import StageConfig
from training.packing import Loads, PlanState, RowsOf, make_planner
from training.shapes import Shapes

FULL = 0.98
_LARGER = (1.25, 1.5, 2.0, 3.0, 4.0)  # times max_tokens
_DRAWS = 4096  # that are planned of each


@dataclass(frozen=True)
class Batching:
    """A way to make batches, and the part of `max_tokens` that it fills."""

    batching: str
    max_tokens: int
    useful_share: float


def find_fuller(stage: StageConfig, shapes: Shapes, rows_of: RowsOf, state: PlanState, useful_share: float) -> Batching | None:
    """For bucketed batches of a dit the same budget packed; for packed ones that are not full the least larger budget that is.

    None where there is no other way, or none of 1.25 to 4 times the budget is 98 % full.
    """

    def packed(max_tokens: int) -> Batching:
        return Batching("packed", max_tokens, _packed_share(shapes, max_tokens, rows_of, state))

    if stage.model == "vae":
        return None
    if stage.batching == "bucketed":
        return packed(stage.max_tokens)
    if useful_share >= FULL:
        return None
    larger = (packed(math.ceil(stage.max_tokens * times)) for times in _LARGER)
    return next((found for found in larger if found.useful_share >= FULL), None)


def _packed_share(shapes: Shapes, max_tokens: int, rows_of: RowsOf, state: PlanState) -> float:
    planner = make_planner("packed", Loads(shapes.tokens, shapes.buckets, max_tokens, 1), rows_of, state)
    samples, tokens, steps = 0, 0, 0
    while samples < _DRAWS:
        (batch,) = planner.step().batches
        samples, steps = samples + len(batch), steps + 1
        tokens += sum(int(shapes.tokens[rows_of(k, 1)[0]]) for k in batch)
    return tokens / (steps * max_tokens)
