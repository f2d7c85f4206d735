"""Statistics and histograms of columns with known content."""

import math

import pyarrow as pa
import pytest

from labeling.statistics import histogram, summarize


def chunked(values, dtype=None):
    return pa.chunked_array([pa.array(values[: len(values) // 2], dtype), pa.array(values[len(values) // 2 :], dtype)])


def test_numbers():
    seen = summarize(chunked([*range(101), None, None], pa.float32()))
    assert (seen.count, seen.nulls, seen.mean) == (101, 2, 50.0)
    assert seen.quantiles == {"min": 0.0, "p05": 5.0, "p25": 25.0, "p50": 50.0, "p75": 75.0, "p95": 95.0, "max": 100.0}
    assert seen.null_share == pytest.approx(2 / 103)


def test_flags_and_text_are_counted_most_frequent_first():
    assert summarize(chunked([True, False, True, None])).as_dict() == {"count": 3, "nulls": 1, "values": {"true": 2, "false": 1}}
    assert list(summarize(chunked(["b", "a", "c", "c"])).values) == ["c", "a", "b"]


def test_no_values_and_no_numbers_are_missing():
    assert summarize(chunked([None, None], pa.float32())).as_dict() == {"count": 0, "nulls": 2}
    assert summarize(chunked([math.nan, math.inf, 1.0])).count == 1


def test_every_value_is_in_a_bar():
    for values in ([0.0] * 5, [0.0] * 99 + [1.0], [1.0, 2.0], [*[x / 100 for x in range(100)], 1e6, -1e6]):
        assert sum(histogram(chunked(values, pa.float32())).counts) == len(values)


def test_an_outlier_does_not_flatten_the_rest():
    bars = histogram(chunked([*[x / 100 for x in range(100)], 1e6], pa.float64()))
    assert bars.open_high and not bars.open_low and bars.edges[-1] < 3


def test_few_integers_get_a_bar_each():
    bars = histogram(chunked([8] * 9 + [10], pa.int32()))
    assert bars.whole and bars.edges == (7.5, 8.5, 9.5, 10.5) and bars.counts == (9, 0, 1)
