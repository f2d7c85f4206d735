"""What a balance does to the rows: the table that a run prints and keeps, and that `reelmill plan` shows."""

from dataclasses import dataclass

import numpy as np

from training.balancing.cells import NULL, Cells, Facet


@dataclass(frozen=True)
class ValueReport:
    """One value of one target. Shares are of units; `target_share` is None where the value is free, and then so is `residual`.

    `residual` is planned - target before rounding, `realized_share` is that of an epoch in whole repeats.
    """

    target: str
    value: str
    num_rows: int
    natural_share: float
    target_share: float | None
    planned_share: float
    residual: float | None
    realized_share: float
    mean_repeats: float
    max_repeats: int

    def __str__(self) -> str:
        planned = f"{self.planned_share:.1%}" + (" (free)" if self.target_share is None else "")
        natural = f"{self.num_rows} clips, natural {self.natural_share:.1%}"
        return f"{self.target} {self.value}: {natural}, planned {planned}, {self.mean_repeats:.2f}x, at most {self.max_repeats}x"


@dataclass(frozen=True)
class BalanceReport:
    """The whole plan. `effective_rows` is Kish's effective sample size (1965), of the planned repeats.

    `unused_share` are the clips that an epoch leaves out, `excluded_share` those that no epoch shows.
    """

    unit: str
    num_rows: int
    num_cells: int
    epoch_length: int
    effective_rows: float
    mean_repeats: float
    max_repeats: int
    unused_share: float
    excluded_share: float
    values: tuple[ValueReport, ...]

    def __str__(self) -> str:
        repeats = f"repeats {self.mean_repeats:.2f} in the mean and at most {self.max_repeats}"
        unused = f"{self.unused_share:.1%} unused in an epoch, {self.excluded_share:.1%} ever"
        kish = f"effective sample size {self.effective_rows:.0f}"
        return f"{self.num_rows} clips in {self.num_cells} cells, {self.epoch_length} draws an epoch: {repeats}; {unused}; {kish}"


@dataclass(frozen=True)
class Amounts:
    """Of each cell, all [C]: its rows, their units, planned repeats of a row, draws of an epoch in whole numbers, and units of those."""

    members: np.ndarray
    units: np.ndarray
    repeats: np.ndarray
    counts: np.ndarray
    realized: np.ndarray


def make_report(facets: tuple[Facet, ...], cells: Cells, amounts: Amounts, unit: str) -> BalanceReport:
    """From the facets, the cells and what they hold."""
    num_rows, draws = int(amounts.members.sum()), amounts.members * amounts.repeats
    return BalanceReport(
        unit,
        num_rows,
        len(amounts.members),
        int(amounts.counts.sum()),
        float(draws.sum() ** 2 / (draws @ amounts.repeats)),
        float(draws.sum() / num_rows),
        int(_most(amounts).max()),
        float(np.maximum(amounts.members - amounts.counts, 0).sum() / num_rows),
        float(amounts.members[amounts.repeats == 0].sum() / num_rows),
        tuple(value for facet in facets for value in _values(facet, facet.kinds[cells.first_row], amounts)),
    )


def _most(amounts: Amounts) -> np.ndarray:
    """The highest repeats in a cell, whose rows differ by at most 1."""
    return -(-amounts.counts // amounts.members)


def _values(facet: Facet, kinds: np.ndarray, amounts: Amounts) -> list[ValueReport]:
    parts = (amounts.members, amounts.units, amounts.units * amounts.repeats, amounts.realized, amounts.members * amounts.repeats)
    of_kind = [np.bincount(kinds, part, len(facet.member)) for part in parts]
    num_rows, natural, planned, realized, draws = (facet.member.T.astype(np.float64) @ part for part in of_kind)
    most = np.zeros(len(facet.member), np.int64)
    np.maximum.at(most, kinds, _most(amounts))
    totals = [part.sum() for part in parts]
    return [
        ValueReport(
            facet.name,
            value,
            int(num_rows[i]),
            float(natural[i] / totals[1]),
            target := None if np.isnan(facet.shares[i]) else float(facet.shares[i]),
            share := float(planned[i] / totals[2]),
            None if target is None else share - target,
            float(realized[i] / totals[3]),
            float(draws[i] / max(num_rows[i], 1)),
            int(most[facet.member[:, i]].max(initial=0)),
        )
        for i, value in enumerate(facet.values)
        if num_rows[i] or facet.shares[i] > 0 or value == NULL
    ]
