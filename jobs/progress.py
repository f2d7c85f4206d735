"""Progress for long commands: a bar with rate and ETA on a terminal, a plain line now and then elsewhere. On stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_LINE_EVERY_S = 10.0


def track(items: Iterable[Item], total: int, what: str, units: Callable[[Item], int] = lambda item: 1) -> Iterator[Item]:
    """Pass `items` on while showing how many `units` of `total` they make up. `what` names the units, such as "videos"."""
    yield from (_bar if sys.stderr.isatty() else _lines)(items, total, what, units)


def _bar(items: Iterable[Item], total: int, what: str, units: Callable[[Item], int]) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, rate="")
        began, done = time.monotonic(), 0
        for item in items:
            done += units(item)
            progress.update(task, completed=done, rate=f"{done / max(time.monotonic() - began, 1e-3):.1f}/s")
            yield item


def _lines(items: Iterable[Item], total: int, what: str, units: Callable[[Item], int]) -> Iterator[Item]:
    began = shown = time.monotonic()
    done = 0
    for item in items:
        done += units(item)
        now = time.monotonic()
        if now - shown >= _LINE_EVERY_S or done >= total:
            shown = now
            rate = done / max(now - began, 1e-3)
            print(f"{done}/{total} {what}, {rate:.1f}/s, about {(total - done) / max(rate, 1e-9):.0f} s left", file=sys.stderr, flush=True)
        yield item
