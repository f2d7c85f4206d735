"""One value for a clip from the values of its samples."""

from collections.abc import Callable, Iterable

import numpy as np

from curation.scan import Measures

Values = dict[str, object]


def mean(measures: Iterable[Measures], pick: Callable[[Measures], float | None]) -> float | None:
    """Mean over the samples that have a value; None where none has."""
    values = [value for value in map(pick, measures) if value is not None]
    return float(np.mean(values)) if values else None


def median(measures: Iterable[Measures], pick: Callable[[Measures], float | None]) -> float | None:
    """Median over the samples that have a value; None where none has."""
    values = [value for value in map(pick, measures) if value is not None]
    return float(np.median(values)) if values else None
