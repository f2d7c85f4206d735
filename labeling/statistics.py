"""What a column of values looks like: counts, moments and quantiles, and the bars of its histogram."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
_MOST_VALUES = 50
_DIGITS = 6  # significant: what is beyond depends on the order of summing


@dataclass(frozen=True)
class Summary:
    """One column over `count` values and `nulls` missing ones: `quantiles` for numbers, `values` (value -> count) for the rest."""

    count: int
    nulls: int
    mean: float | None = None
    std: float | None = None
    quantiles: Mapping[str, float] | None = None
    values: Mapping[str, int] | None = None

    @property
    def null_share(self) -> float:
        return self.nulls / max(self.count + self.nulls, 1)

    def as_dict(self) -> dict[str, Any]:
        """The fields that have a value, with the quantiles beside them: what a manifest stores."""
        plain = {"count": self.count, "nulls": self.nulls, "mean": self.mean, "std": self.std, "values": self.values}
        plain |= self.quantiles or {}
        return {name: value for name, value in plain.items() if value is not None}


@dataclass(frozen=True)
class Histogram:
    """Bars of a numeric column. `edges` has one more entry than `counts`; where `open_*`, the outer bar also holds all beyond it."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    open_low: bool
    open_high: bool
    whole: bool  # one bar for each integer


def summarize(values: pa.ChunkedArray, total: int | None = None) -> Summary:
    """Statistics of a column of numbers, flags or text. `total` is the number of rows where more are missing than the nulls."""
    total = len(values) if total is None else total
    if not _is_number(values.type):
        counted = pc.value_counts(values.drop_null()).to_pylist()
        counted.sort(key=lambda entry: (-entry["counts"], str(entry["values"])))
        count = sum(entry["counts"] for entry in counted)
        return Summary(count, total - count, values={_name(entry["values"]): entry["counts"] for entry in counted[:_MOST_VALUES]})
    numbers = finite(values)
    if not len(numbers):
        return Summary(0, total)
    found = map(_rounded, np.quantile(numbers, list(QUANTILES.values())))
    quantiles = dict(zip(QUANTILES, found, strict=True))
    return Summary(len(numbers), total - len(numbers), _rounded(numbers.mean()), _rounded(numbers.std()), quantiles)


def summarize_tags(rows: pa.Table, tags: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The statistics that a manifest stores: tag -> those of its column."""
    return {tag: summarize(rows[tag]).as_dict() for tag in tags}


def histogram(values: pa.ChunkedArray, most_bins: int = 36) -> Histogram:
    """Bars of at least one value. A long tail is cut off, so that it does not flatten the rest; few integers get a bar each."""
    numbers = finite(values)
    lowest, low, high, highest = map(float, np.quantile(numbers, [0.0, 0.05, 0.95, 1.0]))
    margin = high - low or np.inf
    low, high = max(lowest, low - margin), min(highest, high + margin)
    whole = pa.types.is_integer(values.type) and high - low < most_bins
    if whole:
        edges = np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    elif high > low:
        edges = np.linspace(low, high, int(np.clip(2 * np.sqrt(len(numbers)), 8, most_bins)) + 1)
    else:
        edges = np.array([low - 0.5, low, low + 0.5])
    counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), edges)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), bool(lowest < edges[0]), bool(highest > edges[-1]), whole)


def finite(values: pa.ChunkedArray) -> np.ndarray:
    """The values that are numbers, as float64 [N]."""
    numbers = values.drop_null().to_numpy().astype(np.float64)
    return numbers[np.isfinite(numbers)]


def _is_number(dtype: pa.DataType) -> bool:
    return pa.types.is_floating(dtype) or pa.types.is_integer(dtype)


def _name(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
