"""The plan of steps: nothing lost or doubled, one shape a step in buckets, the same on any ranks, resumed anywhere."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.packing import CASES, plan, synthetic_clips
from training.balance import plan_balance
from training.packing import LOOKAHEAD, BucketPlanner, Loads, PackPlanner, PlannedStep, Planner, PlanState, fill
from training.sampler import Sampler, make_sampler
from training.shapes import plan_shapes

MODES = pytest.mark.parametrize("mode", [BucketPlanner, PackPlanner])
MAX_TOKENS = 100
START = PlanState()
loads_of_rows = st.lists(st.integers(1, MAX_TOKENS), min_size=1, max_size=20)
micro_batches = st.sampled_from([1, 2, 4])


@lru_cache
def _sampler(num_rows: int) -> Sampler:
    return make_sampler(plan_balance(pa.table({"x": range(num_rows)}), None), "m", 0)


def _planner(mode: type, tokens: Sequence[int], parts: int, state: PlanState = START) -> Planner:
    """Rows of equally many tokens have the same shape."""
    loads = Loads(np.array(tokens), np.array(tokens), MAX_TOKENS, parts)
    return mode(loads, _sampler(len(tokens)).rows, state)


def _draws(steps: Sequence[PlannedStep]) -> list[int]:
    return [k for step in steps for batch in step.batches for k in batch]


@MODES
@settings(max_examples=60, deadline=None)
@given(loads_of_rows, micro_batches, st.integers(1, 20))
def test_every_draw_is_in_one_step_or_carried(mode: type, tokens: list[int], parts: int, count: int) -> None:
    planner, sampler = _planner(mode, tokens, parts), _sampler(len(tokens))
    steps = [planner.step() for _ in range(count)]
    assert sorted([*_draws(steps), *planner.state.carried]) == list(range(planner.state.next_k))
    for step in steps:
        assert len(step.batches) == parts
        loads = [[tokens[sampler.draw(k).row] for k in batch] for batch in step.batches]
        assert all(batch and sum(batch) <= MAX_TOKENS for batch in loads)
        if mode is BucketPlanner:
            assert len(set(map(tuple, loads))) == 1 and len(set(loads[0])) == 1
            assert sum(loads[0]) + loads[0][0] > MAX_TOKENS  # the batch is as large as it may be


@MODES
@settings(max_examples=30, deadline=None)
@given(loads_of_rows, micro_batches, st.integers(0, 12))
def test_resumed_after_any_step_the_plan_goes_on_alike(mode: type, tokens: list[int], parts: int, done: int) -> None:
    planner = _planner(mode, tokens, parts)
    for _ in range(done):
        planner.step()
    again = _planner(mode, tokens, parts, planner.state)
    for _ in range(6):
        assert again.step() == planner.step() and again.state == planner.state


@MODES
@settings(max_examples=30, deadline=None)
@given(loads_of_rows)
def test_ranks_share_a_step_that_does_not_depend_on_their_number(mode: type, tokens: list[int]) -> None:
    """Each rank plans by itself, from another moment on, as it would after a restart on another number of ranks."""
    sequences = []
    for num_ranks in (1, 2, 4):
        planners = [_planner(mode, tokens, 4) for _ in range(num_ranks)]
        steps, loads = [], np.array(tokens)
        for _ in range(5):
            shares = [planner.step().of_rank(rank, num_ranks) for rank, planner in enumerate(planners)]
            planners = [_planner(mode, tokens, 4, planner.state) for planner in planners]
            if mode is BucketPlanner:
                rows = [[loads[_sampler(len(tokens)).draw(k).row] for batch in share for k in batch] for share in shares]
                assert len({tuple(row) for row in rows}) == 1
            steps.append(PlannedStep(tuple(batch for share in shares for batch in share)))
        sequences.append(steps)
    assert sequences[0] == sequences[1] == sequences[2]


def test_ranks_that_cannot_share_equally_are_refused() -> None:
    with pytest.raises(ValueError, match="3 micro-batches cannot be shared equally by 2 ranks"):
        PlannedStep(((0,), (1,), (2,))).of_rank(0, 2)


@settings(max_examples=30, deadline=None)
@given(loads_of_rows, micro_batches, st.integers(0, 10))
def test_what_one_stage_leaves_the_next_takes_in_the_order_drawn(tokens: list[int], parts: int, done: int) -> None:
    for first, second in ((BucketPlanner, PackPlanner), (PackPlanner, BucketPlanner), (BucketPlanner, BucketPlanner)):
        before = _planner(first, tokens, parts)
        for _ in range(done):
            before.step()
        after = _planner(second, tokens, 1, before.state)
        steps = [after.step() for _ in range(10)]
        assert sorted([*_draws(steps), *after.state.carried]) == sorted(
            [*before.state.carried, *range(before.state.next_k, after.state.next_k)]
        )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(30, 60))
def test_a_row_is_filled_as_well_as_can_be_with_the_first_in_it(sizes: list[int], budget: int) -> None:
    chosen = fill(sizes, budget)
    assert chosen[0] == 0 and chosen == sorted(set(chosen))
    others = range(1, len(sizes))
    sums = [sizes[0] + sum(sizes[i] for i in some) for n in range(len(sizes)) for some in combinations(others, n)]
    assert sum(sizes[i] for i in chosen) == max(total for total in sums if total <= budget)


def test_early_ones_are_preferred() -> None:
    assert fill([5, 3, 3, 2, 2, 5], 10) == [0, 1, 3]
    assert fill([4, 4, 4, 4], 12) == [0, 1, 2]


@settings(max_examples=20, deadline=None)
@given(loads_of_rows)
def test_no_packed_sample_waits_longer_than_the_lookahead(tokens: list[int]) -> None:
    planner = _planner(PackPlanner, tokens, 1)
    for _ in range(2 * LOOKAHEAD):
        before = planner.state
        taken = planner.step().batches[0]
        assert taken[0] == min([*before.carried, before.next_k]) and len(planner.state.carried) < LOOKAHEAD


@pytest.mark.parametrize("case", ["96x56, 8 fps", "640x360, native fps"])
def test_packed_rows_of_web_video_are_full(case: str) -> None:
    """At four times the commonest shape; other budgets are in the benchmark."""
    rows, (shapes, token) = synthetic_clips(4000), CASES[case]
    planned = plan_shapes(rows, shapes, token)
    max_tokens = 4 * int(np.bincount(planned.tokens).argmax())
    packed, bucketed = (plan(rows, planned, max_tokens, planner, rows.num_rows).useful for planner in (PackPlanner, BucketPlanner))
    assert 0.98 <= packed <= 1 and 0.9 < bucketed < packed


def test_rows_of_many_draws_are_those_of_each() -> None:
    sampler = _sampler(7)
    for start, count in ((0, 7), (5, 2), (8, 3), (20, 1)):
        assert sampler.rows(start, 3).tolist() == [sampler.draw(k).row for k in range(start, start + min(count, 3))]
