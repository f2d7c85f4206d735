"""Run a function in a process of its own, so that a decoder that crashes or hangs takes nothing else with it."""

import atexit
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

Out = TypeVar("Out")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
_KEEP_BYTES, _OWN_MAPPING_BYTES = 128 << 20, 32 << 20
_progress: Any = None


@dataclass(frozen=True)
class Progress:
    """How far an isolated call had got when it ended."""

    frames: int
    seconds: float


class Expired(Exception):
    """The call ran past its time limit and its process was killed."""

    def __init__(self, limit_s: float, progress: Progress):
        super().__init__(f"still running after {limit_s:g} s")
        self.progress = progress


class Crashed(Exception):
    """The process died under the call."""

    def __init__(self, cause: str, progress: Progress):
        super().__init__(cause)
        self.progress = progress


class Isolated:
    """One worker process, kept between calls and replaced when it dies. Not for use by several threads at once."""

    def __init__(self, *preload: str) -> None:
        """`preload` names modules to import before the first call, so that its time limit counts work alone."""
        # One thread budget per process: idle threads of a linear algebra library would spin beside the decoder's.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")  # the parent runs threads, which a fork would not survive
        self._progress = context.Array("d", 2, lock=False)
        self._pool = ProcessPool(max_workers=1, context=context, initializer=_start, initargs=(self._progress, preload))
        atexit.register(self.close)

    def run(self, function: Callable[..., Out], *args: Any, limit_s: float | None = None) -> Out:
        """Result of `function(*args)`. Raises Expired, Crashed, or what the function raised."""
        self._progress[0] = self._progress[1] = 0
        try:
            return self._pool.schedule(function, args=args, timeout=limit_s).result()
        except FutureTimeout as error:
            raise Expired(limit_s or 0.0, self._got()) from error
        except ProcessExpired as error:
            raise Crashed(_cause(error.exitcode), self._got()) from error

    def _got(self) -> Progress:
        return Progress(int(self._progress[0]), self._progress[1])

    def close(self) -> None:
        """End the worker process."""
        atexit.unregister(self.close)
        self._pool.stop()
        self._pool.join()


_own = threading.local()


def own_worker(*preload: str) -> Isolated:
    """This thread's worker process, started on first use and kept for all that the thread does."""
    if not hasattr(_own, "worker"):
        _own.worker = Isolated(*preload)
    return _own.worker


def report(frames: int, seconds: float) -> None:
    """Say from within an isolated call how far it is; without effect elsewhere."""
    if _progress is not None:
        _progress[0], _progress[1] = frames, seconds


def _start(progress: Any, preload: tuple[str, ...]) -> None:
    global _progress
    _progress = progress
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # die with the parent, even if it is killed
        if hasattr(libc, "mallopt"):  # keep freed pictures' memory: giving it back and faulting it in again costs a third of a scan
            libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
            libc.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
    for module in preload:
        importlib.import_module(module)


def _cause(exit_code: int) -> str:
    if exit_code < 0:
        return f"the decoder process was killed by {signal.Signals(-exit_code).name}"
    return f"the decoder process ended with status {exit_code}"
