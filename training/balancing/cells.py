"""Rows of a manifest grouped into cells: the rows that all targets of a balance see alike.

What is done per row is done by Arrow and numpy, never by a loop in Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from training.balancing.targets import TargetConfig
from training.settings import TrainError, nearest

MAX_VALUES = 3000  # of one target; the dual of raking has as many unknowns
MAX_LABELS = 62
REST, NULL = "*", "null"


@dataclass(frozen=True)
class Facet:
    """One target over the rows.

    `kinds` int32 [N] is a row's kind; `member` bool [P, V] says which of the V `values` a kind counts toward: exactly one, or
    any number where a clip may carry several labels. `shares` float64 [V] are wanted, nan where a value is free.
    """

    name: str
    values: tuple[str, ...]
    shares: np.ndarray
    kinds: np.ndarray
    member: np.ndarray


@dataclass(frozen=True)
class Cells:
    """`of_row` int32 [N] is the cell of a row; `first_row` int64 [C] its first row. They ascend by the first facet, then the next."""

    of_row: np.ndarray
    first_row: np.ndarray


@dataclass(frozen=True)
class _Axis:
    """One column by value: `codes` int32 [N] index `values`, then for text come the values not among them, then null."""

    values: tuple[str, ...]
    codes: np.ndarray
    is_numeric: bool

    @property
    def null(self) -> int:
        return len(self.values) + (not self.is_numeric)


def make_facet(rows: pa.Table, target: TargetConfig, sizes: np.ndarray) -> Facet:
    """Sort the rows by the values of a target. `sizes` float64 [N] are their units, which tempering counts.

    Raises TrainError where a column is unknown or not of the kind that the target speaks of.
    """
    for column in target.columns:
        if column not in rows.column_names:
            raise TrainError(f"balance.tag: the manifest has no column {column!r}; {nearest(column, rows.column_names)}")
    if target.has_labels or (target.temper is not None and is_list(rows.column(target.columns[0]).type)):
        facet = _label_facet(rows.column(target.columns[0]), target, sizes)
    else:
        facet = _value_facet(rows, target, sizes)
    if len(facet.values) > MAX_VALUES:
        raise TrainError(f"balance: {facet.name} has {len(facet.values)} values, over {MAX_VALUES}; name those that matter in shares")
    return facet


def group_cells(kinds: Sequence[np.ndarray], nums: Sequence[int]) -> Cells:
    """Group rows by their kinds, int [N] each, the i-th below nums[i]."""
    key, size = kinds[0].astype(np.int64), nums[0]
    for codes, num in zip(kinds[1:], nums[1:], strict=True):
        if size > 2**62 // max(num, 1):
            uniques, key = _compact(key)
            size = len(uniques)
        key = key * num + codes
        size *= num
    uniques, of_row = _compact(key)
    first_row = np.empty(len(uniques), np.int64)
    first_row[of_row[::-1]] = np.arange(len(of_row) - 1, -1, -1)
    return Cells(of_row.astype(np.int32), first_row)


def text_codes(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Distinct values of a column, and int32 [N] indices into them, -1 for null."""
    if not pt.is_dictionary(column.type):
        column = column.dictionary_encode()
    chunks = column.unify_dictionaries().chunks
    if not chunks:
        return pa.array([], pa.string()), np.empty(0, np.int32)
    codes = np.concatenate([np.asarray(pc.fill_null(chunk.indices.cast(pa.int32()), -1)) for chunk in chunks])
    return chunks[0].dictionary, codes


def _compact(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct keys, and int32 [N] indices into them: by hashing, as sorting 10 M keys takes five times as long."""
    encoded = pa.array(key).dictionary_encode()
    uniques, indices = np.asarray(encoded.dictionary), np.asarray(encoded.indices)
    order = np.argsort(uniques)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return uniques[order], rank[indices]


def _tempered(amounts: np.ndarray, temper: float | str) -> np.ndarray:
    """Shares in proportion to natural frequency^(1 / temper), of the values that there are."""
    shares = np.where(amounts > 0, (amounts / amounts.sum()) ** (1 / (2.0 if temper == "sqrt" else float(temper))), 0.0)
    return shares / shares.sum()


# ---- values: single tags and joints ----


def _value_facet(rows: pa.Table, target: TargetConfig, sizes: np.ndarray) -> Facet:
    axes = [_axis(rows.column(column), target, column, depth) for depth, column in enumerate(target.columns)]
    name = " x ".join(target.columns)
    nums = [axis.null + 1 for axis in axes]
    if np.prod([float(num) for num in nums]) > 1e6:
        raise TrainError(f"balance: {name} has over a million combinations; name the few that matter in shares")
    codes = np.zeros(rows.num_rows, np.int32)
    for axis, num in zip(axes, nums, strict=True):
        codes = codes * np.int32(num) + axis.codes
    combos = [
        None if any(index == axis.null for index, axis in zip(combo, axes, strict=True)) else combo
        for combo in product(*(range(num) for num in nums))
    ]
    if target.temper is None:
        found = [(NULL, target.null_share or 0.0) if combo is None else _leaf(target.shares, combo, axes) for combo in combos]
        leaves = dict(_all_leaves(target.shares, axes))
        for leaf, share in found:
            leaves.setdefault(leaf, share)
        leaves[NULL] = leaves.pop(NULL)  # last
        index = {leaf: i for i, leaf in enumerate(leaves)}
        lookup = np.array([index[leaf] for leaf, _ in found], np.int32)
        values, shares = tuple(leaves), np.array([*leaves.values()])
    else:
        amounts = np.bincount(codes, sizes, len(combos))
        present = [i for i, combo in enumerate(combos) if combo is not None and amounts[i] > 0]
        values = (*(_combo_name(combos[i], axes) for i in present), NULL)
        lookup = np.full(len(combos), len(present), np.int32)
        lookup[present] = np.arange(len(present))
        null_share = 1 - amounts[present].sum() / amounts.sum() if target.null_share is None else target.null_share
        tempered = _tempered(amounts[present], target.temper) if present else np.empty(0)
        shares = np.append(tempered * (1 - null_share), null_share)
    return Facet(name, values, shares, lookup[codes], np.eye(len(values), dtype=bool))


def _axis(column: pa.ChunkedArray, target: TargetConfig, name: str, depth: int) -> _Axis:
    edges = target.edges_of(name)
    if is_list(column.type):
        raise TrainError(f"balance: {name} holds lists; give label_shares, and no joint")
    holds_text = is_text(column.type)
    if holds_text == (edges is not None) and not pt.is_null(column.type):
        kind, form = ("numbers", "edges and a list") if edges is None else ("text", "a mapping by value")
        raise TrainError(f"balance: {name} holds {kind}; give its shares as {form}")
    if edges is not None:
        limits = ["-inf", *(f"{edge:g}" for edge in edges), "inf"]
        values = tuple(f"[{low}, {high})" for low, high in zip(limits, limits[1:], strict=False))
        known = column.cast(pa.float64()).to_numpy()
        codes = np.searchsorted(np.asarray(edges, np.float64), known, side="right").astype(np.int32)
        codes[np.isnan(known)] = len(values)
        return _Axis(values, codes, True)
    distinct, codes = text_codes(column)
    if target.temper is None:
        values = tuple(dict.fromkeys(_named(target.shares, depth)))
    else:
        values = tuple(sorted(pc.unique(distinct).drop_null().to_pylist()))
    lookup = np.append(_index_in(distinct, values), len(values) + 1).astype(np.int32)
    return _Axis(values, lookup[codes], False)


def _index_in(distinct: pa.Array, values: tuple[str, ...]) -> np.ndarray:
    """int64 [D]: where a value stands in `values`; one past them where it does not, two past them for null."""
    distinct = distinct.cast(pa.large_string())
    index = pc.fill_null(pc.index_in(distinct, pa.array(values, pa.large_string())), len(values))
    return np.where(np.asarray(pc.is_null(distinct)), len(values) + 1, np.asarray(index))


def _named(shares: Any, depth: int) -> list[str]:
    if not isinstance(shares, (dict, list, tuple)):
        return []
    if depth == 0:
        return [name for name in shares if name != REST]
    return [name for part in (shares.values() if isinstance(shares, dict) else shares) for name in _named(part, depth - 1)]


def _leaf(shares: Any, combo: tuple[int, ...], axes: list[_Axis]) -> tuple[str, float]:
    """The name and share of what a combination falls under."""
    path: list[str] = []
    for index, axis in zip(combo, axes, strict=True):
        if not isinstance(shares, (dict, list, tuple)):
            break
        value = axis.values[index] if index < len(axis.values) else REST
        if axis.is_numeric:
            shares = shares[index]
        else:
            value = value if value in shares else REST
            shares = shares.get(value, 0.0)
        path.append(value)
    return " / ".join(path), float(shares)


def _all_leaves(shares: Any, axes: list[_Axis], path: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    if not isinstance(shares, (dict, list, tuple)):
        return [(" / ".join(path), float(shares))]
    parts = zip(axes[0].values, shares, strict=True) if axes[0].is_numeric else shares.items()
    return [leaf for value, part in parts for leaf in _all_leaves(part, axes[1:], (*path, value))]


def _combo_name(combo: tuple[int, ...] | None, axes: list[_Axis]) -> str:
    return " / ".join(axis.values[index] for index, axis in zip(combo or (), axes, strict=True))


# ---- labels: several to a clip ----


def _label_facet(column: pa.ChunkedArray, target: TargetConfig, sizes: np.ndarray) -> Facet:
    name = target.columns[0]
    if is_list(column.type) == (target.separator is not None) or not (is_list(column.type) or is_text(column.type)):
        raise TrainError(f"balance: {name} holds {column.type}; labels are in lists, or in text with a separator")
    if target.separator is None:
        masks, labels = _list_masks(column, target)
    else:
        distinct, codes = text_codes(column)
        parts = pc.split_pattern(distinct.cast(pa.large_string()), target.separator)
        of_text, labels = _masks(parts, target, _labels_of([parts], target))
        masks = np.append(of_text, -1)[codes]  # the last is for null
    masks[masks < 0] = 1 << len(labels)
    kind_masks, kinds = _compact(masks)
    member = (kind_masks[:, None] >> np.arange(len(labels) + 1) & 1).astype(bool)
    carried = member.T @ np.bincount(kinds, sizes, len(kind_masks)) / sizes.sum()
    if target.temper is None:
        shares = np.array([(target.label_shares or {})[label] for label in labels])
    else:  # as many labels to a clip as before
        shares = _tempered(carried[:-1], target.temper) * carried[:-1].sum() if labels else np.empty(0)
    null_share = np.nan if target.null_share is None else target.null_share
    return Facet(name, (*labels, NULL), np.append(shares, null_share), kinds, member)


def _list_masks(column: pa.ChunkedArray, target: TargetConfig) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = _labels_of(column.chunks, target)
    masks = [_masks(chunk, target, labels)[0] for chunk in column.chunks]
    return (np.concatenate(masks) if masks else np.empty(0, np.int64)), labels


def _labels_of(lists: list[pa.Array], target: TargetConfig) -> tuple[str, ...]:
    if target.label_shares is not None:
        labels = tuple(target.label_shares)
    else:
        found = {label for chunk in lists for label in pc.unique(_flat(chunk)).to_pylist()}
        labels = tuple(sorted(found - {None, ""}))
    if len(labels) > MAX_LABELS:
        advice = "name those that matter in label_shares"
        raise TrainError(f"balance: {target.columns[0]} has {len(labels)} labels, over {MAX_LABELS}; {advice}")
    return labels


def _masks(lists: pa.Array, target: TargetConfig, labels: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 [len(lists)]: bit i is set where a list holds label i; -1 for null."""
    index = _index_in(_flat(lists), labels)
    parents = np.asarray(pc.list_parent_indices(lists))
    masks = np.zeros(len(lists), np.int64)
    for i in range(len(labels)):
        masks[parents[index == i]] |= 1 << i
    masks[np.asarray(pc.is_null(lists))] = -1
    return masks, labels


def _flat(lists: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(pc.list_flatten(lists).cast(pa.large_string()))


def is_list(type_: pa.DataType) -> bool:
    """Whether a column holds lists."""
    return pt.is_list(type_) or pt.is_large_list(type_) or pt.is_fixed_size_list(type_)


def is_text(type_: pa.DataType) -> bool:
    """Whether a column holds text, itself or by a dictionary."""
    kind = type_.value_type if pt.is_dictionary(type_) else type_
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)
