"""The text of a draw: which captioner's, and in which length, by weights and one number; and all that there may be."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.types as pt

from training.config import DataConfig
from training.settings import TrainError, nearest

_MIX = "captions"
_LENGTHS = tuple(DataConfig().caption_lengths)
_ROWS_AT_ONCE = 10_000
Item = TypeVar("Item")


@dataclass(frozen=True)
class Picked(Generic[Item]):
    """What was picked, and a number in [0, 1) that says nothing of it: a further choice may be made by it."""

    item: Item
    left: float


def choose_text(row: Mapping[str, Any], lengths: Mapping[str, float], choice: float) -> str:
    """The text of a manifest's row for a `choice` in [0, 1): a captioner of its mix, if it has one, then a length, both by weight.

    `lengths` maps columns to weights. Only what is not null is chosen from; a column that the mix does not hold is the
    row's own whichever captioner was chosen. "" where there is nothing.
    """
    captioners = _weighted_texts(row, lengths)
    if not captioners:
        return ""
    captioner = pick(captioners, choice)
    return pick(captioner.item, captioner.left).item


def all_texts(rows: pa.Table, lengths: Mapping[str, float]) -> Iterator[str]:
    """Every text that may be chosen for some row, row by row; what several rows have comes several times."""
    names = [name for name in (_MIX, *lengths) if name in rows.column_names]
    for batch in rows.select(names).to_batches(_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            texts = [text for weighted, _ in _weighted_texts(row, lengths) for text, _ in weighted]
            yield from texts or [""]


def _weighted_texts(row: Mapping[str, Any], lengths: Mapping[str, float]) -> list[tuple[list[tuple[str, float]], float]]:
    """Texts of each captioner with their weights, and its own weight; without captioners that have none."""
    captioners = []
    for entry in row.get(_MIX) or [{"weight": 1.0}]:
        texts = [(text, lengths[name]) for name in sorted(lengths) if (text := entry.get(name, row.get(name)))]
        if texts:
            captioners.append((texts, entry["weight"]))
    return captioners


def pick(weighted: Sequence[tuple[Item, float]], choice: float) -> Picked[Item]:
    """The item on which `choice` in [0, 1) falls, each having a share of its weight, above 0. At least one."""
    mark = choice * sum(weight for _, weight in weighted)
    for item, weight in weighted[:-1]:
        if mark < weight:
            return Picked(item, mark / weight)
        mark -= weight
    item, weight = weighted[-1]
    return Picked(item, min(mark / weight, 1 - 2**-53))  # a sum of weights may round upward


def has_texts(rows: pa.Table, lengths: Mapping[str, float]) -> bool:
    """Whether a manifest has any of the columns `lengths`; a manifest without captions has not.

    Raises TrainError for a column that is neither there nor a length of captions, and for one that is not text.
    """
    kinds = {column.name: column.type for column in rows.schema}
    texts = [name for name, kind in kinds.items() if pt.is_string(kind)]
    for name in lengths:
        if name not in kinds and name not in _LENGTHS:
            raise TrainError(f"data.caption_lengths: the manifest has no column {name!r}; {nearest(name, [*_LENGTHS, *texts])}")
        if name in kinds and name not in texts and not pt.is_null(kinds[name]):
            raise TrainError(f"data.caption_lengths: {name} is not text but {kinds[name]}")
    return not kinds.keys().isdisjoint(lengths)
