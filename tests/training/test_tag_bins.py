"""Tags as conditions: quantiles, bins of equal frequency, and what is unknown."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.settings import TrainError
from training.tag_bins import UNKNOWN, bin_of, tag_bins, tag_quantiles


def test_tags_become_quantiles_and_unknown_stays_unknown() -> None:
    rows = pa.table({"motion_mean": [5.0, None, 1.0, 5.0, 9.0]})
    assert np.array_equal(tag_quantiles(rows, "motion_mean"), [0.5, np.nan, 0.125, 0.5, 0.875], equal_nan=True)
    with pytest.raises(TrainError, match="did you mean 'motion_mean'"):
        tag_quantiles(rows, "motion_meen")
    with pytest.raises(TrainError, match="not numeric"):
        tag_quantiles(pa.table({"content_kind": ["a"]}), "content_kind")


def test_bins_hold_equally_many_clips_whatever_the_scale() -> None:
    rows = pa.table({"quality_sharpness": 10.0 ** np.arange(100), "motion_mean": [None] * 100, "has_audio": [True, False] * 50})
    bins = tag_bins(rows, ("quality_sharpness", "motion_mean", "has_audio"), 10)
    assert bins.dtype == np.int16 and np.array_equal(bins[:, 0], 1 + np.arange(100) // 10)
    assert set(bins[:, 1]) == {UNKNOWN} and bins[:2, 2].tolist() == [8, 3]
    assert tag_bins(rows, (), 10).shape == (100, 0)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=60), st.integers(1, 12))
def test_equal_values_share_a_bin_and_greater_ones_are_in_none_before_it(values: list[int | None], count: int) -> None:
    bins = tag_bins(pa.table({"t": pa.array(values, pa.int64())}), ("t",), count)[:, 0]
    assert all((bin == UNKNOWN) == (value is None) for bin, value in zip(bins, values, strict=True)) and bins.max() <= count
    known = sorted((value, bin) for bin, value in zip(bins, values, strict=True) if value is not None)
    for (before, lower), (after, upper) in zip(known, known[1:], strict=False):
        assert lower <= upper and (before != after or lower == upper)


def test_both_ends_of_the_scale_have_a_bin() -> None:
    assert bin_of(np.array([0.0, 0.1, 0.99, 1.0, np.nan]), 10).tolist() == [1, 2, 10, 10, UNKNOWN]
