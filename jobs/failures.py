"""What could not be done, told by the commands that keep it beside their results instead of in a dataset."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.output import printable, say, write_file

if TYPE_CHECKING:
    from schemas.records import Failure

_MOST_LINES = 20


def write_failures(path: Path, failures: "Sequence[Failure]") -> None:
    """This run's failures as a Parquet file; none where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from schemas.tables import FAILURES, to_arrow

    if not failures:
        path.unlink(missing_ok=True)
        return
    sink = pa.BufferOutputStream()
    pq.write_table(to_arrow(FAILURES, map(asdict, sorted(failures, key=lambda failure: (failure.uri, failure.clip_id or "")))), sink)
    write_file(path, sink.getvalue().to_pybytes())


def say_failures(failures: "Sequence[Failure]") -> None:
    """One line a source, of the first twenty."""
    lines = {failure.uri: f"{printable(failure.uri)}: {failure.code}: {printable(failure.message)}" for failure in reversed(failures)}
    for line in sorted(lines.values())[:_MOST_LINES]:
        say(line)
    if len(lines) > _MOST_LINES:
        say(f"and {len(lines) - _MOST_LINES:,} more sources")
