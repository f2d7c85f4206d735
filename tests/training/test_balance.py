"""Sampling weights from a wanted distribution of one tag."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.balance import capped_shares, plan_balance
from training.config import BalanceConfig, TrainError

ROWS = pa.table({"motion_mean": [0.1] * 8 + [5.0, 6.0], "content_kind": ["real"] * 6 + ["cg"] * 3 + [None]})


def test_numeric_tag_by_edges_reaches_its_target() -> None:
    plan = plan_balance(ROWS, BalanceConfig(tag="motion_mean", edges=[1.0], shares=[0.5, 0.5]))
    assert plan.weights[8:].sum() == pytest.approx(0.5, abs=1e-12)
    low, high, null = plan.report
    assert (low.num_rows, low.natural_share, low.planned_share) == (8, 0.8, 0.5)
    assert high.name == "[1, inf)" and high.repeats == pytest.approx(2.5)
    assert null.num_rows == 0 and null.planned_share == 0


def test_a_value_on_an_edge_belongs_to_the_bin_above() -> None:
    rows = pa.table({"motion_mean": [0.5, 1.0]})
    plan = plan_balance(rows, BalanceConfig(tag="motion_mean", edges=[1.0], shares=[0.25, 0.75]))
    assert plan.weights.tolist() == [0.25, 0.75]


def test_string_tag_by_value_leaves_others_and_null_out_and_says_so() -> None:
    plan = plan_balance(ROWS, BalanceConfig(tag="content_kind", shares={"cg": 1.0}, max_repeats=4))
    assert plan.weights[6:9].sum() == pytest.approx(1.0) and plan.weights[9] == 0
    assert {cell.name: (cell.num_rows, cell.planned_share) for cell in plan.report} == {
        "cg": (3, 1.0),
        "real": (6, 0.0),
        "null": (1, 0.0),
    }


def test_cap_on_repeats_holds_and_stands_in_the_report() -> None:
    plan = plan_balance(ROWS, BalanceConfig(tag="motion_mean", edges=[1.0], shares=[0.2, 0.8], max_repeats=2))
    assert plan.report[1].planned_share == pytest.approx(0.4) and plan.report[1].repeats == pytest.approx(2)
    assert "wanted 80.0%, held by max_repeats" in str(plan.report[1])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tag": "motion_men", "edges": [1.0], "shares": [0.5, 0.5]}, "did you mean 'motion_mean'"),
        ({"tag": "motion_mean", "edges": [99.0], "shares": [0.5, 0.5]}, r"50% of motion_mean should be \[99, inf\)"),
        ({"tag": "motion_mean", "shares": {"a": 1.0}}, "holds numbers"),
        ({"tag": "content_kind", "edges": [1.0], "shares": [0.5, 0.5]}, "holds text"),
        ({"tag": "motion_mean", "edges": [1.0], "shares": [0.0, 1.0]}, "raise max_repeats 1.25-fold"),
    ],
)
def test_what_cannot_be_planned_is_an_error(config: dict, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        plan_balance(ROWS, BalanceConfig(**config))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 2)), min_size=1, max_size=6))
def test_capped_shares_sum_to_one_and_keep_proportions_below_the_caps(cells: list[tuple[float, float]]) -> None:
    targets, caps = np.array([t for t, _ in cells]), np.array([c for _, c in cells])
    targets[targets < 1e-3] = 0
    if not targets.any() or caps[targets > 0].sum() < 1:
        return
    shares = capped_shares(targets, caps)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (shares <= caps + 1e-9).all() and (shares[targets == 0] == 0).all()
    free = (targets > 0) & (shares < caps - 1e-9)
    ratios = shares[free] / targets[free]
    assert np.ptp(ratios) < 1e-9 if free.any() else True
