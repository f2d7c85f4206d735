"""`reelmill manifest`: freeze a selection for training."""

import json
import math
import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.output import grid, printable, say, short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from labeling.query import FunnelStep


def manifest(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    where: Annotated[str, typer.Option(help="The condition on clips, as in `reelmill query`.")],
    out: Annotated[Path, typer.Option(help="The manifest, a Parquet file. One that is there is never changed.")],
    captions: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=WEIGHT]", help="Whose captions to take; given again with weights, a mix.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Freeze the clips that a predicate keeps into one file that training runs from.

    The file holds the rows with all columns, the predicate, and the SHA-256 of the shards it was cut from. Its digest
    covers all of it and is what a training run records. The same dataset and predicate give the same digest. A manifest
    never changes: to select anew, choose a new name.

    With a mix of captions, training draws a captioner by weight for each sample, of those that have captioned the clip.
    Predicate and caption columns are the first one's; a column `captions` holds those of all.

    \b
    Examples:
      reelmill manifest dataset --where "quality_sharpness >= 0.4 AND motion_mean > 0.05" --out stage1.parquet
      reelmill manifest dataset --where "NOT is_short" --out all.parquet --json
      reelmill manifest dataset --where "NOT is_short" --out mix.parquet --captions qwen=0.7 --captions template=0.3
    """
    mix = _caption_mix(captions or ())
    from labeling.catalog import open_catalog
    from labeling.query import QueryError, funnel, run_query
    from labeling.statistics import summarize_tags
    from schemas.manifest import write_manifest

    catalog = open_catalog(dataset, mix or None)
    if not catalog.captions and (there := catalog.dataset.captioners()):
        say(f"without captions, which are by {', '.join(there)}: choose with --captions")
    rows = run_query(catalog, where).combine_chunks()
    if not rows.num_rows:
        steps = funnel(catalog, where)
        _print_funnel(steps)
        raise QueryError(f"the predicate keeps none of {steps[0].clips:,} clips; no manifest was written")
    statistics = summarize_tags(rows, [tag.name for tag in catalog.tags])
    scratch = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        scratch.touch()  # says best what is wrong with a folder
        digest = write_manifest(scratch, rows, where.strip(), catalog.digests(), statistics, mix if len(mix) > 1 else {})
        was_there = _put(scratch, out, digest)
    except OSError as error:
        raise OSError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    hours = _hours(rows)
    if as_json:
        facts = {"out": str(out), "rows": rows.num_rows, "hours": hours, "digest": digest, "unchanged": was_there}
        print(json.dumps({**facts, "tags": statistics}))
        return
    print(f"{out}{' was there already, and is the same' if was_there else ''}")
    print(f"{rows.num_rows:,} clips, {hours:.4g} hours\ndigest {digest}")
    _print_tags(statistics)


def _caption_mix(options: "Sequence[str]") -> dict[str, float]:
    """Captioner -> weight of NAME or NAME=WEIGHT, in the order given. Raises BadParameter."""
    mix: dict[str, float] = {}
    for option in options:
        name, given, text = option.partition("=")
        try:
            weight = float(text) if given else 1.0
        except ValueError:
            weight = 0.0
        if not (name and 0 < weight < math.inf):
            raise typer.BadParameter(f"{option!r} is not NAME or NAME=WEIGHT with a weight above 0", param_hint="--captions")
        if name in mix:
            raise typer.BadParameter(f"{name} is named twice", param_hint="--captions")
        mix[name] = weight
    return mix


def _put(scratch: Path, out: Path, digest: str) -> bool:
    """Give a written manifest its name; True where the very same one has it. Raises ManifestError where another file does."""
    from schemas.manifest import ManifestError, read_manifest

    try:
        os.link(scratch, out)  # fails where the name is taken, however late
        return False
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not out.exists():
            os.replace(scratch, out)
            return False
    try:
        there = read_manifest(out, columns=["clip_id"])
    except ManifestError as error:
        raise ManifestError(f"{out} exists and is not a manifest that could be kept ({error}); choose another --out") from error
    if there.digest != digest:
        raise ManifestError(
            f"{out} already holds a manifest of {there.facts.num_rows:,} clips with digest {there.digest[:12]}…;"
            f" a frozen manifest never changes, and this one would be {digest[:12]}…: choose another --out"
        )
    return True


def _hours(rows: "pa.Table") -> float:
    return float(rows["duration_s"].to_numpy().sum()) / 3600


def _print_funnel(steps: "Sequence[FunnelStep]") -> None:
    """What each term keeps, on stderr: which of them empties the selection."""
    for step in steps:
        print(f"{step.clips:>10,} left  {step.clips_alone:>10,} alone  {printable(step.term)}", file=sys.stderr)


def _print_tags(statistics: "Mapping[str, Mapping[str, Any]]") -> None:
    from rich.console import Console

    rows = []
    for tag, seen in statistics.items():
        null = seen["nulls"] / max(seen["count"] + seen["nulls"], 1)
        figures = [short(seen[key]) if key in seen else "" for key in ("p05", "p50", "p95")]
        values = ", ".join(f"{value} {count:,}" for value, count in list(seen.get("values", {}).items())[:3])
        rows.append([tag, *figures, f"{100 * null:.0f} %" if null else "", values])
    Console().print(grid(["tag", "5 %", "median", "95 %", "null", "most frequent"], rows, numbers=range(1, 5)))
