"""Tags as conditions: each clip's value as one of some bins of equal frequency, with a bin for what is not known.

Told the scores of its clips, a model learns from all of them and can be asked for the best; filtering by the same scores
was found worse (Koala-36M: Wang et al. 2025). Bins of ranks, not of values, so that no tag needs a scale of its own.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from training.settings import TrainError, nearest

UNKNOWN = 0  # the bin of null, and of a condition that is dropped; the others count from 1


def bin_of(quantiles: np.ndarray, bins: int) -> np.ndarray:
    """Quantiles in [0, 1], float64 of any shape, to bins from 1 to `bins`; nan is UNKNOWN. int64."""
    numbers = 1 + np.minimum(np.floor(np.nan_to_num(quantiles) * bins), bins - 1)
    return np.where(np.isnan(quantiles), UNKNOWN, numbers).astype(np.int64)


def tag_bins(rows: pa.Table, tags: Sequence[str], bins: int, among: Sequence[pa.Table] = ()) -> np.ndarray:
    """The bin of each row for each of N tags, int16 [rows, N], by its rank among the rows, or among those of several tables.

    Raises TrainError for a tag that is not there or not numeric.
    """
    columns = [bin_of(tag_quantiles(rows, tag, among), bins) for tag in tags]
    return np.stack([*columns, np.zeros(rows.num_rows, np.int64)], axis=1)[:, : len(columns)].astype(np.int16)


def tag_quantiles(rows: pa.Table, tag: str, among: Sequence[pa.Table] = ()) -> np.ndarray:
    """A numeric tag as the share of clips with a lower value, ties in the middle: float64 [N], nan where null. TrainError as above."""
    values = _values(rows, tag)
    everything = np.concatenate([_values(table, tag) for table in among]) if among else values
    known = np.sort(everything[~np.isnan(everything)])
    ranks = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / 2
    return np.where(np.isnan(values), np.nan, ranks / max(len(known), 1))


def _values(rows: pa.Table, tag: str) -> np.ndarray:
    if tag not in rows.column_names:
        raise TrainError(f"data.condition_tags: the manifest has no column {tag!r}; {nearest(tag, rows.column_names)}")
    kind = rows.schema.field(tag).type
    if not (pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind) or pt.is_null(kind)):
        raise TrainError(f"data.condition_tags: {tag} is not numeric but {kind}")
    return rows.column(tag).cast(pa.float64()).to_numpy()
