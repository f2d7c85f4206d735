"""What was really trained on, tag by tag, against the plan: rows and losses of each step come in, shares and mean losses go out.

Audited are the targets of the balance, the condition tags and `audit.tags`. Realized and planned shares differ by the order
of the draws, by clips that wait for a batch of their shape, and by clips that could not be read. Only the last is more than
chance, so that is what an audit warns of. Sums are plain arrays: of several ranks, they are added.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from training.balance import Balance
from training.balancing.cells import REST, Facet, is_list, is_text, make_facet, text_codes
from training.balancing.targets import TargetConfig
from training.config import TrainConfig
from training.divergence import chance_of, expected_js_bits, expected_label_js_bits, js_bits, label_js_bits
from training.settings import TrainError, nearest

QUANTILE_BINS, MOST_TEXTS = 5, 20
CHANCE = 1e-4  # one audit of a tag in so many may warn of what was chance
_PAST, _WINDOW, _BROUGHT = range(3)
_SAMPLES, _UNITS, _LOSS = range(3)


@dataclass(frozen=True)
class ValueAudit:
    """One value of a tag. Shares are of units, since the stage began and in the window; `mean_loss` is of the window's samples."""

    value: str
    planned_share: float
    realized_share: float
    window_share: float
    window_samples: int
    mean_loss: float | None


@dataclass(frozen=True)
class FacetAudit:
    """One tag. `js_bits` compares realized with planned shares; in the mean, chance alone gives up to `chance_js_bits`.

    `off` names the furthest of the values that chance does not explain, if there are any. For that question, samples that wait
    for a batch of their shape count as trained on, and those that waited when the stage began do not.
    """

    facet: str
    unit: str
    samples: int
    js_bits: float
    chance_js_bits: float
    window_js_bits: float
    off: str | None
    values: tuple[ValueAudit, ...]


@dataclass(frozen=True, eq=False)
class AuditedFacet:
    """A tag over the rows: `codes` [N], in as few bytes as do, say which of the V values a row has.

    Where a row may have several labels, they say which row of `member` bool [P, V] holds for it; else `member` is None.
    `planned` are the shares of a long run, `variances` those of the shares of one sample drawn by the plan, both float64 [V].
    """

    name: str
    values: tuple[str, ...]
    codes: np.ndarray
    member: np.ndarray | None
    planned: np.ndarray
    variances: np.ndarray


@dataclass(frozen=True, eq=False)
class Audit:
    """The tags that a run audits, over its N rows; `sizes` float64 [N] are the units of a row."""

    facets: tuple[AuditedFacet, ...]
    sizes: np.ndarray
    unit: str

    @property
    def width(self) -> int:
        """Columns of a sum: all samples, then the values of each facet."""
        return 1 + sum(len(facet.values) for facet in self.facets)

    def amounts(self, rows: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Samples, units and losses, float64 [3, width], of samples that are rows int64 [S] with losses float64 [S]."""
        samples, columns, start = [np.arange(len(rows))], [np.zeros(len(rows), np.int64)], 1
        for facet in self.facets:
            codes = facet.codes[rows]
            which, value = (samples[0], codes) if facet.member is None else np.nonzero(facet.member[codes])
            samples.append(which)
            columns.append(value.astype(np.int64) + start)
            start += len(facet.values)
        which, column = np.concatenate(samples), np.concatenate(columns)
        parts = (np.ones(len(rows)), self.sizes[rows], losses)
        return np.stack([np.bincount(column, part[which], self.width) for part in parts])


class Tally:
    """Running sums of what a stage was trained on.

    It goes on from the `state` of an earlier tally; without one, a stage begins, and `waiting` are the rows of what the stage
    before it drew and did not train on.
    """

    def __init__(self, audit: Audit, waiting: Sequence[int] = (), state: Sequence[float] = ()):
        self._audit = audit
        self._sums = np.zeros((3, 3, audit.width))  # past windows, this one, what was brought
        if state:
            self.state = np.asarray(state)
        else:
            self._sums[_BROUGHT] = self._waiting(waiting)

    @property
    def state(self) -> np.ndarray:
        """Everything there is to keep, float64 [9 * width]. Of ranks, one takes the sum of all and the others zeros."""
        return self._sums.ravel().copy()

    @state.setter
    def state(self, state: np.ndarray) -> None:
        self._sums = state.astype(np.float64).reshape(self._sums.shape)

    def add(self, rows: Sequence[int], losses: Sequence[float]) -> None:
        """Count one step's samples: the row and the loss of each."""
        self._sums[_WINDOW] += self._audit.amounts(np.asarray(rows, np.int64), np.asarray(losses, np.float64))

    def close_window(self, waiting: Sequence[int]) -> tuple[FacetAudit, ...]:
        """The audit of the stage so far and of the window since the last one; a new window begins.

        `waiting` are the rows of what is drawn and in no step yet.
        """
        window, stage = self._sums[_WINDOW].copy(), self._sums[_PAST] + self._sums[_WINDOW]
        drawn = stage + self._waiting(waiting) - self._sums[_BROUGHT]  # but for what could not be read
        self._sums[_PAST], self._sums[_WINDOW] = stage, 0.0
        audits, start = [], 1
        for facet in self._audit.facets:
            columns = slice(start, start + len(facet.values))
            audits.append(_audit_facet(facet, self._audit.unit, *(_Amounts(sums, columns) for sums in (stage, window, drawn))))
            start = columns.stop
        return tuple(audits)

    def _waiting(self, rows: Sequence[int]) -> np.ndarray:
        return self._audit.amounts(np.asarray(rows, np.int64), np.zeros(len(rows)))


class _Amounts:
    """One facet's part of sums: how many samples there are in all, and what each value has of them."""

    def __init__(self, sums: np.ndarray, columns: slice):
        self.num_samples, units = sums[_SAMPLES, 0], sums[_UNITS, 0]
        self.samples, self.losses = sums[_SAMPLES, columns], sums[_LOSS, columns]
        self.shares = np.clip(sums[_UNITS, columns] / units, 0, 1) if self.num_samples > 0 else np.zeros(len(self.samples))


def _audit_facet(facet: AuditedFacet, unit: str, stage: _Amounts, window: _Amounts, drawn: _Amounts) -> FacetAudit:
    divergence, expected = (js_bits, expected_js_bits) if facet.member is None else (label_js_bits, expected_label_js_bits)
    return FacetAudit(
        facet.name,
        unit,
        int(stage.num_samples),
        divergence(stage.shares, facet.planned),
        expected(facet.planned, facet.variances, stage.num_samples),
        divergence(window.shares, facet.planned),
        _furthest_off(facet, drawn),
        tuple(
            ValueAudit(
                value,
                float(facet.planned[i]),
                float(stage.shares[i]),
                float(window.shares[i]),
                int(window.samples[i]),
                float(window.losses[i] / window.samples[i]) if window.samples[i] else None,
            )
            for i, value in enumerate(facet.values)
        ),
    )


def _furthest_off(facet: AuditedFacet, drawn: _Amounts) -> str | None:
    """Of the values off by more than chance, if any: the furthest of those short of their share, as what they lose others gain."""
    if drawn.num_samples <= 0:  # of what was brought, more could not be read than was drawn since
        return None
    chances = chance_of(drawn.shares, facet.planned, facet.variances, drawn.num_samples)
    is_off = chances * len(chances) < CHANCE  # the chance of any of so many values (Bonferroni)
    if not is_off.any():
        return None
    is_short = is_off & (drawn.shares < facet.planned)
    distances = np.abs(drawn.shares - facet.planned)
    return facet.values[np.where(is_short if is_short.any() else is_off, distances, -1).argmax()]


def describe(audits: Sequence[FacetAudit]) -> str:
    """One line: the tags that are off by more than chance, each with its worst value, or that there are none."""
    if off := [audit for audit in audits if audit.off is not None]:
        return f"audit: {'; '.join(map(_describe_off, off))}. Clips that cannot be read are one cause"
    furthest = max(audits, key=lambda audit: audit.js_bits / audit.chance_js_bits if audit.chance_js_bits else 0)
    tags = "1 tag" if len(audits) == 1 else f"{len(audits)} tags"
    return f"audit: {tags} as planned; furthest is {furthest.facet}, {_bits(furthest)}"


def _describe_off(audit: FacetAudit) -> str:
    worst = next(value for value in audit.values if value.value == audit.off)
    shares = f"{worst.realized_share:.1%} of {audit.unit} where {worst.planned_share:.1%} is planned"
    return f"{audit.facet} {worst.value} is {shares}, more than chance explains ({_bits(audit)})"


def _bits(audit: FacetAudit) -> str:
    return f"JS {audit.js_bits:.2g} bits, by chance {audit.chance_js_bits:.2g}"


# ---- what is audited ----


def make_audit(rows: pa.Table, balance: Balance, config: TrainConfig) -> Audit:
    """What the config audits of the rows of a balance, and what their plan says of it. Raises TrainError where a tag is unknown."""
    if not config.audit.every_steps:
        return Audit((), balance.sizes, balance.report.unit)
    targets = list(config.balance.targets) if config.balance else []
    for key, tags in (("data.condition_tags", config.data.condition_tags), ("audit.tags", config.audit.tags)):
        known = {target.tag for target in targets}
        targets += [_bins(rows, tag, key) for tag in dict.fromkeys(tags) if tag not in known]
    units = balance.weights * balance.sizes
    squares = units * balance.sizes
    facets = tuple(_audited(make_facet(rows, target, balance.sizes), units, squares) for target in targets)
    return Audit(facets, balance.sizes, balance.report.unit)


def _bins(rows: pa.Table, tag: str, key: str) -> TargetConfig:
    """A target that sorts rows by a column: numbers by quantile, each number in one bin, text and labels by the most frequent values."""
    if tag not in rows.column_names:
        raise TrainError(f"{key}: the manifest has no column {tag!r}; {nearest(tag, rows.column_names)}")
    column = rows.column(tag)
    kind = column.type
    if is_text(kind):
        return TargetConfig(tag=tag, shares={**dict.fromkeys(_most_frequent(column), 0.0), REST: 1.0})
    if is_list(kind) and is_text(kind.value_type):
        labels = pa.chunked_array([chunk.flatten() for chunk in column.chunks], kind.value_type)
        return TargetConfig(tag=tag, label_shares=dict.fromkeys(_most_frequent(labels), 0.0))
    if not (pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_null(kind)):
        raise TrainError(f"{key}: {tag} holds {kind}; numbers, text and lists of text can be audited")
    return TargetConfig(tag=tag, edges=_quantile_edges(column.cast(pa.float64()).to_numpy()), temper=1.0)


def _most_frequent(column: pa.ChunkedArray) -> list[str]:
    distinct, codes = text_codes(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(distinct))
    most = np.argsort(-counts, kind="stable")[:MOST_TEXTS]
    return [text for text in distinct.take(pa.array(most)).to_pylist() if text is not None]


def _quantile_edges(numbers: np.ndarray) -> tuple[float, ...]:
    """The lowest number of each bin; the bin of a number is that of its rank, ties in the middle."""
    distinct, counts = np.unique(numbers[np.isfinite(numbers)], return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1)
    bins = np.floor(ranks * QUANTILE_BINS)
    return tuple(distinct[np.flatnonzero(np.diff(bins, prepend=-1))].tolist()) or (0.0,)


def _audited(facet: Facet, units: np.ndarray, squares: np.ndarray) -> AuditedFacet:
    """`units` float64 [N] are those of each row times its share of the draws, `squares` the same of units squared."""
    rows_of_kind, *parts = (np.bincount(facet.kinds, part, len(facet.member)) for part in (None, units, squares))
    present = facet.member[rows_of_kind > 0].any(axis=0)
    member, total = facet.member[:, present], units.sum()
    planned, square = (member.T.astype(np.float64) @ part for part in parts)
    planned, square = np.minimum(planned / total, 1.0), square / total**2
    # To first order, a share is off by the mean over samples of s (1 if of the value - planned) / (mean of s), s being their units.
    variances = np.where(planned * (1 - planned) > 1e-12, square * (1 - 2 * planned) + planned**2 * squares.sum() / total**2, 0.0)
    values = tuple(value for value, is_present in zip(facet.values, present, strict=True) if is_present)
    if is_exclusive := bool((facet.member.sum(axis=1) == 1).all()):
        codes = member.argmax(axis=1).astype(np.min_scalar_type(len(values)))[facet.kinds]
    else:
        codes = facet.kinds.astype(np.min_scalar_type(len(member)))
    return AuditedFacet(facet.name, values, codes, None if is_exclusive else member, planned, variances)
