"""Every tag of the tag system, in one plain tuple. The tags page of the documentation is made from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Dimension = Literal["quality", "aesthetics", "naturalness", "motion", "content"]
DIMENSIONS: tuple[Dimension, ...] = ("quality", "aesthetics", "naturalness", "motion", "content")


class UnknownTagError(KeyError):
    """A tag name that is not in the registry; the message names the nearest known tag."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class TagSpec:
    """What one tag column means.

    `low` and `high` bound every value the method can give (None: unbounded). `better` says which end a curator usually
    wants. `needs` is what the tag is measured from: "scan" is the one decode pass; others name a model or a table.
    A change of method raises `version`, and with it only the tag's own group is measured again.
    """

    name: str
    dimension: Dimension
    dtype: Literal["float32", "int32", "bool", "string"]
    unit: str
    low: float | None
    high: float | None
    better: Literal["high", "low", "none"]
    method: str
    version: int = 1
    needs: str = "scan"

    @property
    def group(self) -> str:
        """Folder below tags/ that holds the tag: one per dimension and per thing needed."""
        return self.dimension if self.needs == "scan" else f"{self.dimension}_{self.needs}"


def _quality(*args: object) -> TagSpec:
    name, *rest = args
    return TagSpec(f"quality_{name}", "quality", *rest)  # type: ignore[arg-type]


TAGS: tuple[TagSpec, ...] = ()
