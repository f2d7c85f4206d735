"""Rebalancing: rows of a manifest and wanted shares of their tags come in, how often each row is to be seen goes out.

Pure and in float64. Rows that all targets see alike are a cell and share its draws equally. Among all distributions that meet
the targets and the caps, the one nearest to the natural one is taken (training.balancing.raking); where there is none, the error says
which targets conflict and which shares would do (training.balancing.certificate).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, hstack

from training.balancing.cells import Cells, Facet, group_cells, make_facet, text_codes
from training.balancing.certificate import Certificate, find_certificate
from training.balancing.quotas import BITS, cell_counts, draw_quotas, row_counts
from training.balancing.raking import Problem, Raked, rake
from training.balancing.report import Amounts, BalanceReport, make_report
from training.balancing.targets import BalanceConfig
from training.settings import TrainError

MAX_RESIDUAL = 1e-9  # of a share, before rounding
_SOURCE = "video_id"


class InfeasibleBalanceError(TrainError):
    """Wanted shares that cannot be met. `conflict` names them as (tag, value); `nearest` are attainable shares, (tag, value) -> share."""

    def __init__(self, message: str, certificate: Certificate, values: list[tuple[str, str]]):
        super().__init__(message)
        self.conflict = tuple(values[index] for index in certificate.conflict)
        self.nearest = {value: float(share) for value, share in zip(values, certificate.nearest, strict=True)}
        self.needed_max_repeats = certificate.needed_max_repeats
        self.needed_max_source_repeats = certificate.needed_max_source_repeats


@dataclass(frozen=True, eq=False)
class Balance:
    """How often rows are drawn: `cells` int32 [N] says to which cell a row belongs, `quotas` int64 [C] is its part of an epoch.

    Quotas are in draws / 2^32 and sum to `epoch_length` draws, exactly. `sizes` float64 [N] are the units of each row.
    """

    cells: np.ndarray
    quotas: np.ndarray
    epoch_length: int
    report: BalanceReport
    sizes: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """float64 [N], the share of the draws of each row; sums to 1."""
        members = np.bincount(self.cells, minlength=len(self.quotas))
        return (self.quotas / 2.0**BITS / self.epoch_length / np.maximum(members, 1))[self.cells]


def plan_balance(rows: pa.Table, config: BalanceConfig | None, sizes: np.ndarray | None = None) -> Balance:
    """Plan the draws of an epoch, in which as many units (clips, seconds, tokens) are seen as the rows hold.

    `sizes` float64 [N] are the units of each row; they are needed for tokens only. Where nothing is wanted, an epoch is each
    row once. Raises TrainError where a tag is unknown or not of the kind spoken of, and InfeasibleBalanceError.
    """
    if rows.num_rows == 0:
        raise TrainError("balance: there are no rows")
    sizes = _sizes(rows, config.unit if config else "clips", sizes)
    facets = tuple(make_facet(rows, target, sizes) for target in config.targets) if config else ()
    if config is None:
        cells, repeats = Cells(np.zeros(rows.num_rows, np.int32), np.zeros(1, np.int64)), np.ones(1)
    else:
        cells, repeats = _solve(rows, config, facets, sizes)
    members, units = np.bincount(cells.of_row), np.bincount(cells.of_row, sizes)
    quotas = draw_quotas(members, repeats, config.max_repeats if config else 1.0)
    counts = cell_counts(quotas, 1 << (BITS - 1))
    is_even = config is None or config.unit == "clips"
    realized = counts if is_even else np.bincount(cells.of_row, sizes * row_counts(cells.of_row, quotas, 1 << (BITS - 1)))
    report = make_report(facets, cells, Amounts(members, units, repeats, counts, realized), config.unit if config else "clips")
    return Balance(cells.of_row, quotas, int(quotas.sum()) >> BITS, report, sizes)


def _sizes(rows: pa.Table, unit: str, sizes: np.ndarray | None) -> np.ndarray:
    if sizes is None and unit == "clips":
        return np.broadcast_to(1.0, rows.num_rows)
    if sizes is None and unit == "tokens":
        raise TrainError("balance.unit: the tokens of the rows are not known here; use clips or seconds")
    if sizes is None:
        if missing := [name for name in ("start_s", "end_s") if name not in rows.column_names]:
            raise TrainError(f"balance.unit: seconds need the column {missing[0]}, which the manifest lacks")
        sizes = pc.subtract(rows.column("end_s").cast(pa.float64()), rows.column("start_s").cast(pa.float64())).to_numpy()
    sizes = np.asarray(sizes, np.float64)
    if sizes.shape != (rows.num_rows,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise TrainError(f"balance.unit: every row needs its {unit}, above 0; {np.sum(~(sizes > 0))} rows lack them")
    return sizes


def _solve(rows: pa.Table, config: BalanceConfig, facets: tuple[Facet, ...], sizes: np.ndarray) -> tuple[Cells, np.ndarray]:
    """Cells, and their repeats float64 [C]."""
    kinds, nums = [facet.kinds for facet in facets], [len(facet.member) for facet in facets]
    sources = None
    if config.max_source_repeats is not None:
        if _SOURCE not in rows.column_names:
            raise TrainError(f"balance.max_source_repeats: the manifest has no column {_SOURCE!r}")
        sources = text_codes(rows.column(_SOURCE))[1]
        cells = group_cells([*kinds, sources + 1], [*nums, int(sources.max()) + 2])
    else:
        cells = group_cells(kinds, nums)
    amounts = np.bincount(cells.of_row, sizes)
    _check_present(facets, sizes)
    fixed = [np.flatnonzero(~np.isnan(facet.shares)) for facet in facets]
    problem = Problem(
        amounts / amounts.sum(),
        hstack([_member(facet, cells)[:, columns] for facet, columns in zip(facets, fixed, strict=True)], format="csr"),
        np.concatenate([facet.shares[columns] for facet, columns in zip(facets, fixed, strict=True)]),
        config.max_repeats,
        None if sources is None else sources[cells.first_row],
        config.max_source_repeats,
    )
    raked = rake(problem)
    if raked.residual > MAX_RESIDUAL:
        _explain(problem, facets, fixed, config, raked)
    if sources is None:
        return cells, raked.repeats
    # A tag vector is one cell again over all sources below their cap.
    held = np.where(raked.is_held, problem.sources + 1, 0)[cells.of_row]
    merged = group_cells([*kinds, held], [*nums, int(sources.max()) + 2])
    return merged, raked.repeats[cells.of_row[merged.first_row]]


def _member(facet: Facet, cells: Cells) -> csr_matrix:
    return csr_matrix(facet.member.astype(np.float64))[facet.kinds[cells.first_row]]


def _check_present(facets: tuple[Facet, ...], sizes: np.ndarray) -> None:
    for facet in facets:
        carried = facet.member.T @ np.bincount(facet.kinds, sizes, len(facet.member))
        for value, share, amount in zip(facet.values, facet.shares, carried, strict=True):
            if share > 0 and amount == 0:
                raise TrainError(f"balance: {share:.0%} of {facet.name} should be {value}, but no clip of the manifest is")


# ---- what cannot be met ----


def _explain(problem: Problem, facets: tuple[Facet, ...], fixed: list[np.ndarray], config: BalanceConfig, raked: Raked) -> None:
    values = [(facet.name, facet.values[i]) for facet, columns in zip(facets, fixed, strict=True) for i in columns]
    ends = np.cumsum([len(columns) for columns in fixed])
    exclusive = [bool((facet.member.sum(axis=1) == 1).all()) and facet.member.shape[0] == facet.member.shape[1] for facet in facets]

    def round_shares(shares: np.ndarray) -> np.ndarray:
        """To 6 digits, those of a tag still summing to 1."""
        shares = np.clip(np.round(shares, 6), 0, 1)
        for part, is_exclusive in zip(np.split(shares, ends[:-1]), exclusive, strict=True):
            if is_exclusive:
                part[part.argmax()] = round(part[part.argmax()] + 1 - part.sum(), 6)
        return shares

    certificate = find_certificate(problem, round_shares)
    if certificate is None:
        raise TrainError(f"balance: the targets can be met, but only to {raked.residual:.1e} here; move them off their limit a little")
    conflict = ", ".join(f"{name} {value} {problem.shares[i]:.4g}" for i, (name, value) in _named(values, certificate.conflict))
    together = "cannot be met" if len(certificate.conflict) == 1 else "cannot be met together"
    causes = [
        f"{cap} would have to be {_ceil(needed)}, not {limit:g}"
        for cap, needed, limit in (
            ("max_repeats", certificate.needed_max_repeats, config.max_repeats),
            ("max_source_repeats", certificate.needed_max_source_repeats, config.max_source_repeats),
        )
        if needed is not None and limit is not None
    ]
    cause = " or ".join(causes) or "no number of repeats helps: the tags of the clips exclude one another"
    nearest = "; ".join(
        f"{facet.name}: {{{', '.join(f'{facet.values[i]!r}: {share:g}' for i, share in zip(columns, part, strict=True))}}}"
        for facet, columns, part in zip(facets, fixed, np.split(certificate.nearest, ends[:-1]), strict=True)
        if np.abs(part - facet.shares[columns]).max(initial=0) > 1e-6
    )
    raise InfeasibleBalanceError(
        f"balance: {conflict} {together}; {cause}. The nearest that can be, all else as wanted: {nearest}", certificate, values
    )


def _named(values: list[tuple[str, str]], conflict: np.ndarray) -> list[tuple[int, tuple[str, str]]]:
    return [(int(index), values[index]) for index in conflict]


def _ceil(number: float) -> str:
    """Rounded up to three decimals, so that what is written suffices."""
    return f"{np.ceil(number * 1000 - 1e-6) / 1000:g}"
