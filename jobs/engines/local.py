"""This machine: a thread per worker, each of which drives a decoder process of its own (curation.isolate)."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class LocalEngine:
    workers: int

    def map(self, fn: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="reelmill")
        try:
            for future in as_completed([pool.submit(fn, item) for item in items]):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
