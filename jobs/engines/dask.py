"""Dask: a cluster of processes on this machine, or the scheduler at an address."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from jobs.engines import EngineError

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class DaskEngine:
    workers: int
    address: str | None = None

    def map(self, fn: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        import dask.config
        from distributed import Client, LocalCluster, as_completed

        # Workers start decoder processes, which a daemonic process may not.
        with dask.config.set({"distributed.worker.daemon": False, "distributed.logging.distributed": "error"}):
            try:
                cluster = self.address or LocalCluster(n_workers=self.workers, threads_per_worker=1, dashboard_address=None)
                client = Client(cluster, timeout="10s")
            except (OSError, ValueError) as error:
                raise EngineError(f"no Dask scheduler answers at {self.address}: {error}") from error
        try:
            futures = client.map(fn, list(items), pure=False, key="reelmill", batch_size=1000)
            for future in as_completed(futures):
                yield future.result()
                future.release()
        finally:
            client.close()
            if not self.address:
                cluster.close()
