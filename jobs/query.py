"""`reelmill query`: the clips that a predicate keeps."""

import json
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.output import grid, short, write_file

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_ROWS = 50


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def query(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    predicate: Annotated[str, typer.Argument(help="A condition on the columns of clips, in SQL; `true` keeps all.")] = "true",
    columns: Annotated[str | None, typer.Option(help="Columns, with commas between. [default: all; in a table the predicate's]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help=f"Show at most so many clips. [default: all; {TABLE_ROWS} in a table]")] = None,
    format: Annotated[Format | None, typer.Option(help="[default: what the name of --out ends with, else table]")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    captions: Annotated[str | None, typer.Option(metavar="NAME", help="Whose captions to use, where a dataset has several.")] = None,
) -> None:
    """Show the clips that a predicate keeps, in order of file and time.

    Columns are those of clips, videos, all tags and captions; README.md lists them, and `reelmill status DATASET` the tags.
    Facts of the whole file that a clip has too are called video_width, video_height, video_fps, video_num_frames and
    video_duration_s. A table is rounded and cut for the eye; csv, json and parquet are exact and whole.

    \b
    Examples:
      reelmill query dataset "motion_mean > 0.1 AND quality_sharpness >= 0.4"
      reelmill query dataset "uri ILIKE '%beach%' AND duration_s BETWEEN 2 AND 8" --columns uri,start_s,motion_camera
      reelmill query dataset "NOT is_short" --out clips.csv
      reelmill query dataset "extra['license'] = 'CC0'" --format json | jq length
      reelmill query dataset "clip_id < '1'"            (a random sixteenth: ids are hashes)
    """
    format = format or _format_of(out)
    if format is Format.PARQUET and out is None and sys.stdout.isatty():
        raise typer.BadParameter("parquet is not text: give --out, or send stdout to a file", param_hint="--format")
    from labeling.catalog import open_catalog
    from labeling.query import count_clips, parse_predicate, run_query

    catalog = open_catalog(dataset, captions)
    names = [name.strip() for name in columns.split(",") if name.strip()] if columns else None
    if format is not Format.TABLE:
        rows = run_query(catalog, predicate, names, limit)
        _deliver(_ENCODERS[format](rows), out)
        print(f"{rows.num_rows:,} clips", file=sys.stderr)
        return
    names = names or list(dict.fromkeys(["uri", "start_s", "duration_s", *sorted(parse_predicate(catalog, predicate).columns)]))
    limit = limit or TABLE_ROWS
    rows = run_query(catalog, predicate, names, limit)
    _deliver(_table(rows).encode(), out)
    total = count_clips(catalog, predicate) if rows.num_rows == limit else rows.num_rows
    print(f"… and {total - rows.num_rows:,} more; --limit shows more" if total > rows.num_rows else f"{total:,} clips", file=sys.stderr)


def _format_of(out: Path | None) -> Format:
    ending = out.suffix.lower().lstrip(".") if out else ""
    return Format(ending) if ending in set(Format) else Format.TABLE


def _deliver(data: bytes, out: Path | None) -> None:
    if out:
        write_file(out, data)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _table(rows: "pa.Table") -> str:
    """Rows as text as wide as the terminal. Of a file's address the end tells most, so its folders are left out."""
    import pyarrow as pa
    from rich.console import Console

    numbers = [index for index, column in enumerate(rows.schema) if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)]
    cells = [[short(value.rsplit("/", 1)[-1] if name == "uri" else value) for name, value in row.items()] for row in rows.to_pylist()]
    console = Console()
    with console.capture() as captured:
        console.print(grid(rows.column_names, cells, numbers))
    return captured.get()


def _csv(rows: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.csv

    for index, column in enumerate(rows.schema):
        if pa.types.is_nested(column.type):
            values = (_plain(value, column.type) for value in rows[column.name].to_pylist())
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            rows = rows.set_column(index, column.name, pa.array(texts, pa.string()))
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(rows, sink)
    return sink.getvalue().to_pybytes()


def _json(rows: "pa.Table") -> bytes:
    """A JSON array with one clip a line."""
    types = {column.name: column.type for column in rows.schema}
    texts = ({name: _plain(value, types[name]) for name, value in row.items()} for row in rows.to_pylist())
    return ("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in texts) + "\n]\n").encode()


def _plain(value: Any, kind: "pa.DataType") -> Any:
    """A value as JSON has it. Arrow gives a map as a list of pairs."""
    import pyarrow as pa

    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return dict(value) if pa.types.is_map(kind) and value is not None else value


def _parquet(rows: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


_ENCODERS = {Format.CSV: _csv, Format.JSON: _json, Format.PARQUET: _parquet}
