"""Rebalancing: rows of a manifest and a wanted distribution of one tag come in, a sampling weight per row goes out.

Pure and in float64. Rows are grouped into cells (one per value or bin of the tag); the rows of a cell share its weight
equally. Cells that would repeat their rows too often are held at the cap, and what they leave goes to the others in
proportion to their targets. Every such departure from the target stands in the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from training.config import BalanceConfig, TrainError, nearest


@dataclass(frozen=True)
class CellReport:
    """One value or bin of the tag. Shares are of the clips seen; `repeats` is the mean per clip and epoch."""

    name: str
    num_rows: int
    natural_share: float
    target_share: float
    planned_share: float
    repeats: float

    def __str__(self) -> str:
        planned = f"{self.planned_share:.1%}"
        if abs(self.planned_share - self.target_share) > 1e-9:
            planned += f" (wanted {self.target_share:.1%}, held by max_repeats)"
        natural = f"{self.num_rows} clips, natural {self.natural_share:.1%}"
        return f"{self.name}: {natural}, planned {planned}, {self.repeats:.2f}x"


@dataclass(frozen=True)
class Balance:
    """`weights` float64 [N] sums to 1; `cells` int64 [N] says to which cell of the report a row belongs."""

    weights: np.ndarray
    cells: np.ndarray
    report: tuple[CellReport, ...]


def plan_balance(rows: pa.Table, config: BalanceConfig | None) -> Balance:
    """Weights for the rows; equal ones where nothing is wanted. An epoch is as many draws as there are rows.

    Raises TrainError where the tag is unknown or a cell that should be seen has no rows.
    """
    num_rows = rows.num_rows
    if config is None:
        whole = CellReport("all", num_rows, 1.0, 1.0, 1.0, 1.0)
        return Balance(np.full(num_rows, 1 / num_rows), np.zeros(num_rows, np.int64), (whole,))
    if config.tag not in rows.column_names:
        help_ = nearest(config.tag, rows.column_names)
        raise TrainError(f"balance.tag: the manifest has no column {config.tag!r}; {help_}")
    names, targets, cells = _cells(rows.column(config.tag).to_pylist(), config)
    counts = np.bincount(cells, minlength=len(names))
    for name, target, count in zip(names, targets, counts, strict=True):
        if target > 0 and count == 0:
            raise TrainError(f"balance: {target:.0%} of {config.tag} should be {name}, but no clip of the manifest is")
    planned = capped_shares(targets, counts * config.max_repeats / num_rows)
    weights = (planned / np.maximum(counts, 1))[cells]
    report = [
        CellReport(name, int(n), float(n / num_rows), float(target), float(share), float(share * num_rows / max(n, 1)))
        for name, n, target, share in zip(names, counts, targets, planned, strict=True)
    ]
    return Balance(weights, cells, tuple(report))


def capped_shares(targets: Sequence[float] | np.ndarray, caps: Sequence[float] | np.ndarray) -> np.ndarray:
    """Shares that sum to 1, none above its cap, and in proportion to `targets` where they are below it.

    This is the distribution of least Kullback-Leibler divergence from `targets` under the caps. Raises TrainError where
    the caps leave no room.
    """
    targets, caps = np.asarray(targets, np.float64), np.asarray(caps, np.float64)
    wanted = targets > 0
    room = caps[wanted].sum()
    if room < 1 - 1e-12:
        more = f"raise max_repeats {1 / room:.2f}-fold"
        raise TrainError(f"balance: the wanted clips fill only {room:.0%} of an epoch; {more}")
    shares, held = targets / targets.sum(), np.zeros(len(targets), bool)
    while (over := wanted & ~held & (shares > caps)).any():
        held |= over
        free = wanted & ~held
        shares[held] = caps[held]
        if not free.any():
            break
        shares[free] = targets[free] / targets[free].sum() * (1 - shares[held].sum())
    return shares / shares.sum()


def _cells(values: list, config: BalanceConfig) -> tuple[list[str], np.ndarray, np.ndarray]:
    if any(isinstance(value, str) for value in values) == (config.edges is not None):
        kind, form = ("numbers", "edges and a list") if config.edges is None else ("text", "a mapping by value")
        raise TrainError(f"balance: {config.tag} holds {kind}; give its shares as {form}")
    if config.edges is None:
        found = {str(value) for value in values if value is not None}
        names = [*config.shares, *sorted(found - set(config.shares))]
        targets = [config.shares.get(name, 0.0) for name in names]
        index = {name: i for i, name in enumerate(names)}
        cells = [len(names) if value is None else index[str(value)] for value in values]
    else:
        limits = ["-inf", *(f"{edge:g}" for edge in config.edges), "inf"]
        names = [f"[{low}, {high})" for low, high in zip(limits, limits[1:], strict=False)]
        targets = list(config.shares)
        known = np.array([np.nan if value is None else float(value) for value in values])
        cells = np.where(np.isnan(known), len(names), np.searchsorted(config.edges, known, side="right"))
    return [*names, "null"], np.array([*targets, config.null_share]), np.asarray(cells, np.int64)
