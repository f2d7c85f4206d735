"""Engines: where work runs. Each is a `map` and nothing more."""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import cache
from typing import Protocol, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Engine(Protocol):
    """Runs a function over items, somewhere. Results come as they are ready, in any order."""

    def map(self, fn: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]: ...


class EngineName(StrEnum):
    LOCAL = "local"
    DASK = "dask"


class EngineError(Exception):
    """An engine that cannot start; the message says what is missing."""


@cache
def engine_for(name: EngineName, workers: int, address: str | None = None) -> Engine:
    """The engine of that name, the same one for the same arguments, so that its workers are kept. Raises EngineError."""
    if name is EngineName.LOCAL:
        from jobs.engines.local import LocalEngine

        return LocalEngine(workers)
    from jobs.engines.dask import DaskEngine

    return DaskEngine(workers, address)
