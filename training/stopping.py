"""A wish to stop, as schedulers and people utter it: after the step that is under way."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from training.settings import TrainError


class Stopped(TrainError):
    """The run was asked to stop (SIGTERM or Ctrl-C), wrote a checkpoint and did."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGTERM or Ctrl-C into a wish to stop after the step; the second acts at once."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, ask)
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
