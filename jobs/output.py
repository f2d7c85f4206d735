"""What commands print and write: files that appear whole, and text that is safe on a terminal."""

import os
import sys
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def write_file(path: Path, data: bytes) -> None:
    """Write a file at once, in place of any that was there. Raises OSError that says what could not be written."""
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def say(text: str) -> None:
    """A line for the user, beside the results that go to stdout."""
    print(text, file=sys.stderr, flush=True)


def by_code(counts: Mapping[str, int]) -> str:
    """Failures by code, for a line."""
    return ", ".join(f"{code} {count}" for code, count in sorted(counts.items()))


def printable(text: str) -> str:
    """Text without the control characters by which a file's name could take over a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def short(value: object) -> str:
    """A value for the eye: four digits of a number, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return printable(str(value))


def grid(headers: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> "Table":
    """A table without frames. The columns at `numbers` are aligned as such and never cut; text gives way on a narrow terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        if index in numbers:
            widest = max((len(row[index]) for row in rows), default=0)
            table.add_column(header, justify="right", no_wrap=True, min_width=max(widest, min(len(header), 10)))
        else:
            table.add_column(header, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: a name is no markup
    return table
