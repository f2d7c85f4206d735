"""The audit: divergences against scipy, chance against simulation, bins and losses against hand counts, and real plans."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom

from training.audit import Audit, FacetAudit, Tally, describe, make_audit
from training.balance import plan_balance
from training.config import TrainConfig
from training.divergence import chance_of, expected_js_bits, expected_label_js_bits, js_bits, label_js_bits
from training.packing import BucketPlanner, Loads, PlanState
from training.sampler import Sampler, make_sampler
from training.settings import TrainError

STAGES = [{"name": "a", "model": "vae", "steps": 1}]


def _config(**parts: object) -> TrainConfig:
    return TrainConfig(stages=STAGES, **parts)


def _audit(rows: pa.Table, tags: tuple[str, ...] = (), balance: dict | None = None) -> Audit:
    config = _config(audit={"tags": tags}, balance=balance)
    return make_audit(rows, plan_balance(rows, config.balance), config)


def _planned(rows: pa.Table, balance: dict | None, tags: tuple[str, ...] = ()) -> tuple[Audit, Sampler]:
    config = _config(balance=balance, audit={"tags": tags})
    plan = plan_balance(rows, config.balance)
    return make_audit(rows, plan, config), make_sampler(plan, "m", 0)


def _value(audit: FacetAudit, name: str):
    return next(value for value in audit.values if value.value == name)


# ---- divergence ----

_counts = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=12).filter(lambda c: all(np.sum(c, axis=0)))


@settings(deadline=None)
@given(_counts)
def test_divergence_is_that_of_scipy(counts: list[tuple[int, int]]) -> None:
    p, q = np.array(counts, float).T / np.sum(counts, axis=0)[:, None]
    assert js_bits(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)
    each = [jensenshannon([a, 1 - a], [b, 1 - b], base=2) ** 2 for a, b in zip(p, q, strict=True)]
    assert label_js_bits(p, q) == pytest.approx(np.mean(each), abs=1e-12)


def test_divergence_is_0_of_equals_and_1_of_strangers() -> None:
    assert js_bits(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == 0
    assert js_bits(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1


SIZES = np.array([1.0, 1.0, 2.0, 4.0, 9.0])  # of samples of each value


@pytest.mark.parametrize("sizes", [np.ones(5), SIZES])
def test_chance_is_what_random_samples_show(sizes: np.ndarray) -> None:
    """Of clips, and of seconds, where a value's samples are longer than another's: the plan's variances say by how much that adds."""
    weights = np.array([0.1, 0.3, 0.3, 0.2, 0.1])
    counts = np.random.default_rng(0).multinomial(600, weights, 4000)
    shares = counts * sizes / (counts @ sizes)[:, None]
    planned, square = weights * sizes / (weights @ sizes), weights * sizes**2 / (weights @ sizes) ** 2
    rows = pa.table({"t": list("abcde"), "start_s": [0.0] * 5, "end_s": sizes})
    balance = {"targets": [{"tag": "t", "shares": dict(zip("abcde", planned.tolist(), strict=True))}], "unit": "seconds"}
    facet = _audit(rows, balance=balance).facets[0]
    np.testing.assert_allclose(facet.planned, planned, rtol=1e-6)
    np.testing.assert_allclose(facet.variances, square * (1 - 2 * planned) + planned**2 * square.sum(), rtol=1e-5)
    np.testing.assert_allclose(facet.variances / 600, shares.var(axis=0), rtol=0.1)
    seen = np.mean([js_bits(row, planned) for row in shares])
    assert expected_js_bits(facet.planned, facet.variances, 600) == pytest.approx(seen, rel=0.05)
    rare = np.mean([chance_of(row, facet.planned, facet.variances, 600).min() * 5 < 0.01 for row in shares])
    assert rare < 0.02


def test_chance_of_clips_follows_its_formula_down_to_values_that_are_rare() -> None:
    even, random = np.full(4, 0.25), np.random.default_rng(1)
    assert expected_js_bits(even, even * 0.75, 100) == pytest.approx(3 / (8 * 100 * np.log(2)))
    rare = np.full(2000, 1 / 2000)  # 100 samples cannot even show them all
    seen = np.mean([js_bits(random.multinomial(100, rare) / 100, rare) for _ in range(50)])
    assert seen < expected_js_bits(rare, rare * (1 - rare), 100) <= 1 and seen > 0.8
    labels = np.array([0.1, 0.5, 0.7])
    carried = random.binomial(400, labels, (4000, 3)) / 400
    seen = np.mean([label_js_bits(row, labels) for row in carried])
    assert expected_label_js_bits(labels, labels * (1 - labels), 400) == pytest.approx(seen, rel=0.05)


@pytest.mark.parametrize("count", [0, 1, 7, 30, 40])
def test_tails_are_those_of_the_binomial(count: int) -> None:
    planned = np.array([0.2])
    ours = chance_of(np.array([count / 40]), planned, planned * 0.8, 40)[0]
    assert ours == pytest.approx(min(2 * min(binom.cdf(count, 40, 0.2), binom.sf(count - 1, 40, 0.2)), 1), rel=1e-9)


def test_what_is_never_or_always_planned_has_no_chance_to_differ() -> None:
    never_always, none = np.array([0.0, 1.0]), np.zeros(2)
    assert chance_of(np.array([0.0, 1.0]), never_always, none, 9).tolist() == [1, 1]
    assert chance_of(np.array([0.1, 0.9]), never_always, none, 9).tolist() == [0, 0]


# ---- bins ----


def _bins(values: list, **types: pa.DataType) -> dict[str, list[int]]:
    """The rows of each value of an audited column."""
    facet = _audit(pa.table({"t": pa.array(values, types.get("type"))}), ("t",)).facets[0]
    member = np.eye(len(facet.values), dtype=bool) if facet.member is None else facet.member
    return {name: np.flatnonzero(member[facet.codes, i]).tolist() for i, name in enumerate(facet.values)}


def test_numbers_are_in_quantiles_with_each_number_in_one_bin() -> None:
    bins = _bins([*range(10), None, float("nan")], type=pa.float32())
    assert bins == {"[0, 2)": [0, 1], "[2, 4)": [2, 3], "[4, 6)": [4, 5], "[6, 8)": [6, 7], "[8, inf)": [8, 9], "null": [10, 11]}
    assert _bins([0] * 18 + [1] * 2) == {"[0, 1)": list(range(18)), "[1, inf)": [18, 19]}
    assert _bins([0] + [1] * 9) == {"[0, 1)": [0], "[1, inf)": [*range(1, 10)]}
    assert _bins([False, True, True]) == {"[0, 1)": [0], "[1, inf)": [1, 2]}
    assert _bins([7.5, 7.5]) == {"[7.5, inf)": [0, 1]} and _bins([None, None]) == {"null": [0, 1]}
    assert _bins([float("-inf"), 1.0, float("inf")]) == {"[-inf, 1)": [0], "[1, inf)": [1, 2]}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.none(), st.integers(-5, 5), st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_quantile_bins_part_the_rows_and_none_is_far_over_its_fifth(values: list[float | None]) -> None:
    bins = _bins(values, type=pa.float64())
    assert sorted(row for rows in bins.values() for row in rows) == list(range(len(values))) and len(bins) <= 6
    known = [value for value in values if value is not None]
    for name, rows in bins.items():
        inside = {values[row] for row in rows}
        if name != "null" and len(inside) > 1:
            assert len(rows) <= len(known) / 5 + max(map(known.count, inside)) + 1


def test_text_is_by_value_and_the_rarest_together() -> None:
    values = [name for i in range(30) for name in [f"v{i:02}"] * (31 - i)]
    bins = _bins([*values, None])
    assert list(bins) == [*(f"v{i:02}" for i in range(20)), "*", "null"]
    assert len(bins["v00"]) == 31 and len(bins["*"]) == sum(31 - i for i in range(20, 30)) and bins["null"] == [len(values)]
    assert _bins(["a", "b", "a"], type=pa.dictionary(pa.int8(), pa.string())) == {"a": [0, 2], "b": [1]}
    assert _bins([["a", "b"], ["b"], [], None]) == {"b": [0, 1], "a": [0], "null": [3]}


def test_what_is_audited() -> None:
    rows = pa.table({"m": [0.0, 1.0], "q": [0.0, 1.0], "c": ["x", "y"], "labels": ["a, b", "b"], "when": pa.array([0, 1], pa.date32())})
    balance = {"targets": [{"tag": "m", "edges": [0.5], "shares": [0.5, 0.5]}, {"tag": "labels", "separator": ", ", "temper": 1}]}
    config = _config(data={"condition_tags": ["m", "q"]}, balance=balance, audit={"tags": ["c", "q", "labels"]})
    audit = make_audit(rows, plan_balance(rows, config.balance), config)
    assert [facet.name for facet in audit.facets] == ["m", "labels", "q", "c"]
    assert audit.facets[0].values == ("[-inf, 0.5)", "[0.5, inf)") and audit.facets[2].values == ("[0, 1)", "[1, inf)")
    assert [facet.codes.dtype for facet in audit.facets] == [np.uint8] * 4
    assert make_audit(rows, plan_balance(rows, None), _config(audit={"every_steps": 0, "tags": ["none"]})).facets == ()
    with pytest.raises(TrainError, match="audit.tags: the manifest has no column 'lables'; did you mean 'labels'"):
        _audit(rows, ("lables",))
    with pytest.raises(TrainError, match=r"audit.tags: when holds date32\[day\]; numbers, text"):
        _audit(rows, ("when",))


# ---- what was trained on ----


def test_losses_and_shares_are_by_value_and_by_window() -> None:
    rows = pa.table({"t": ["a", "a", "b", None], "l": [["x"], ["x", "y"], ["y"], None]})
    tally = Tally(_audit(rows, ("t", "l")))
    tally.add([0, 1, 2], [1.0, 2.0, 6.0])
    tally.add([1], [4.0])
    values, labels = tally.close_window([])
    assert [(v.value, v.planned_share, v.realized_share, v.window_samples, v.mean_loss) for v in values.values] == [
        ("a", 0.5, 0.75, 3, 7 / 3),
        ("b", 0.25, 0.25, 1, 6.0),
        ("null", 0.25, 0.0, 0, None),
    ]
    assert values.js_bits == pytest.approx(jensenshannon([0.75, 0.25, 0], [0.5, 0.25, 0.25], base=2) ** 2)
    assert values.chance_js_bits == pytest.approx(2 / (8 * 4 * np.log(2)))
    assert [(v.value, v.planned_share, v.realized_share, v.mean_loss) for v in labels.values] == [
        ("x", 0.5, 0.75, 7 / 3),
        ("y", 0.5, 0.75, 4.0),
        ("null", 0.25, 0.0, None),
    ]
    each = [jensenshannon([p, 1 - p], [q, 1 - q], base=2) ** 2 for p, q in ((0.75, 0.5), (0.75, 0.5), (0, 0.25))]
    assert labels.js_bits == pytest.approx(np.mean(each))
    tally.add([3], [9.0])
    again = tally.close_window([])[0]
    assert again.samples == 5 and _value(again, "a").mean_loss is None and _value(again, "null").mean_loss == 9
    assert [v.window_share for v in again.values] == [0, 0, 1] and [v.realized_share for v in again.values] == [0.6, 0.2, 0.2]


BALANCES = [
    None,
    {"tag": "t", "shares": {"a": 0.25, "b": 0.75}},
    {"targets": [{"tag": "t", "shares": {"a": 0.5, "*": 0.5}}], "unit": "seconds"},
]


@pytest.mark.parametrize("balance", BALANCES)
def test_after_an_epoch_realized_is_planned(balance: dict | None) -> None:
    """Exactly, where the quotas are whole draws."""
    rows = pa.table({"t": ["a"] * 8 + ["b"] * 8, "x": range(16), "start_s": [0.0] * 16, "end_s": [2.0] * 8 + [2.0] * 8})
    audit, sampler = _planned(rows, balance, ("x",))
    tally = Tally(audit)
    for k in range(0, sampler.epoch_length, 4):
        tally.add(sampler.rows(k, 4), np.zeros(4))
    facets = {facet.facet: facet for facet in tally.close_window([])}
    assert sampler.epoch_length == 16 and facets["x"].unit == ("seconds" if balance and "unit" in balance else "clips")
    for facet in facets.values():
        if facet.facet == "t" or balance is None:
            assert facet.js_bits < 1e-15 and facet.off is None
            assert all(value.realized_share == pytest.approx(value.planned_share, abs=1e-12) for value in facet.values)


def _many(num: int) -> pa.Table:
    return pa.table({"t": [float(i % 4) for i in range(num)]})


BINNED = {"tag": "t", "edges": [1.0, 2.0, 3.0], "shares": [0.4, 0.2, 0.2, 0.2]}


def test_half_of_a_bin_unreadable_is_named_and_chance_is_not() -> None:
    audit, sampler = _planned(_many(2000), BINNED)
    whole, broken = Tally(audit), Tally(audit)
    rows = sampler.rows(0, 1000)
    unreadable = (rows % 4 == 2) & (rows // 4 % 2 == 0)
    for part in np.split(np.arange(1000), 50):
        whole.add(rows[part], np.zeros(len(part)))
        read = rows[part][~unreadable[part]]
        broken.add(read, np.zeros(len(read)))
    as_planned, off = whole.close_window([]), broken.close_window([])
    assert as_planned[0].off is None and as_planned[0].js_bits < 3 * as_planned[0].chance_js_bits
    assert off[0].off == "[2, 3)" and off[0].js_bits > 4 * off[0].chance_js_bits
    assert describe(as_planned).startswith("audit: 1 tag as planned; furthest is t, JS ")
    assert describe(off).startswith("audit: t [2, 3) is 11.") and "of clips where 20.0% is planned, more than chance" in describe(off)


def test_what_is_short_is_named_before_what_gained_by_it() -> None:
    audit, sampler = _planned(_many(2000), BINNED)
    rows = sampler.rows(0, 1000)
    read = rows[(rows % 4 < 2) | (rows // 4 % 2 == 0)]
    tally = Tally(audit)
    tally.add(read, np.zeros(len(read)))
    facet = tally.close_window([])[0]
    gained = max(facet.values, key=lambda value: abs(value.realized_share - value.planned_share))
    assert gained.value == "[-inf, 1)" and facet.off in ("[2, 3)", "[3, inf)")


def test_what_waits_for_a_batch_of_its_shape_is_no_drift() -> None:
    """A rare shape waits in a stage for long; the next stage begins with what waited."""
    audit, sampler = _planned(_many(2000), BINNED)
    rare = np.arange(2000) % 4 == 3
    state = PlanState()
    for max_tokens in (400, 10):  # batches of 400 clips, then of 10
        loads = Loads(np.ones(2000, np.int64), rare.astype(np.int64), max_tokens, 1)
        carried = [int(sampler.rows(k, 1)[0]) for k in state.carried]
        tally, planner = Tally(audit, carried), BucketPlanner(loads, sampler.rows, state)
        for _ in range(3 if max_tokens == 400 else 50):
            rows = [int(sampler.rows(k, 1)[0]) for k in planner.step().batches[0]]
            tally.add(rows, np.zeros(len(rows)))
        state = planner.state
        facet = tally.close_window([int(sampler.rows(k, 1)[0]) for k in state.carried])[0]
        realized = _value(facet, "[3, inf)").realized_share
        assert realized == 0 if max_tokens == 400 else realized > 0.5
        assert facet.off is None


def test_a_stage_may_be_brought_more_that_cannot_be_read_than_it_has_trained_on() -> None:
    tally = Tally(_audit(_many(4), ("t",)), [0, 1, 2])
    tally.add([3], [1.0])
    facet = tally.close_window([])[0]
    assert facet.samples == 1 and facet.off is None


def test_a_tally_goes_on_from_its_state_and_adds_up_over_ranks() -> None:
    audit, sampler = _planned(_many(100), BINNED)
    losses = np.random.default_rng(0).random(90)
    whole, state, ranks = Tally(audit, [3, 3]), Tally(audit, [3, 3]).state, [Tally(audit, [3, 3]), Tally(audit)]
    for step in range(9):
        rows, part = sampler.rows(step * 10, 10), losses[step * 10 : step * 10 + 10]
        whole.add(rows, part)
        resumed = Tally(audit, [1, 2], tuple(state.tolist()))
        resumed.add(rows, part)
        for rank in range(2):
            ranks[rank].add(rows[rank::2], part[rank::2])
        if step == 4:
            ranks[0].state, ranks[1].state = ranks[0].state + ranks[1].state, np.zeros(len(state))
            expected = whole.close_window([7])
            assert resumed.close_window([7]) == expected
            ranks[0].close_window([7])
        state = resumed.state
    np.testing.assert_allclose(ranks[0].state + ranks[1].state, whole.state, rtol=1e-12)
    assert state.tolist() == whole.state.tolist() and state.dtype == np.float64
