"""`reelmill status`: what a dataset holds and what is left to do."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.output import grid, printable, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from labeling.overview import Overview, Pending


def status(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show videos, clips, hours, tags with their coverage, failures by code, captions, runs, and what is pending.

    \b
    Examples:
      reelmill status dataset
      reelmill status s3://bucket/dataset --json | jq .failures
    """
    from dataclasses import asdict

    from rich.console import Console

    from labeling.catalog import open_dataset
    from labeling.overview import overview

    seen = overview(open_dataset(dataset))
    if as_json:
        print(json.dumps(asdict(seen), indent=1))
        return
    for label, text in _lines(seen):
        print(f"{label:<10}{printable(text)}")
    tags = [[tag, group.name, f"{100 * share:.1f} %"] for group in seen.groups for tag, share in group.coverage.items()]
    Console().print(grid(["tag", "group", "clips with a value"], tags, numbers=[2]))


def _lines(seen: "Overview") -> "Iterator[tuple[str, str]]":
    """Label and text of each fact."""
    shots = sum(count for kind, count in seen.boundaries.items() if kind != "split")
    yield "dataset", f"{seen.root}, {seen.shards:,} shards"
    yield "videos", f"{seen.videos:,}, {seen.video_hours:.4g} hours, {seen.size_bytes / 1e9:,.3g} GB"
    yield "shots", f"{shots:,}; clips begin with {_listed(seen.boundaries) or 'nothing'}"
    yield "clips", f"{seen.clips:,}, {seen.clip_hours:.4g} hours, {seen.short_clips:,} of them short; {seen.keyframes:,} keyframes"
    yield "captions", _listed(seen.captions) or "none"
    yield "failures", _listed(seen.failures) or "none"
    if seen.runs:
        last = seen.runs[-1]
        engine = last.get("inputs", {}).get("engine")
        counts = {name: last[name] for name in ("videos", "clips") if name in last}
        facts = [last.get("command"), engine, last.get("started"), f"{short(last.get('seconds'))} s", _listed(counts)]
        yield "runs", f"{len(seen.runs):,}; the last: {last.get('run_id', '?')}: {', '.join(fact for fact in facts if fact)}"
    for line in list(_pending(seen.pending)) or ["nothing"]:
        yield "pending", line


def _pending(pending: "Pending") -> "Iterator[str]":
    if pending.leftovers:
        yield f"{len(pending.leftovers):,} shards were begun and not finished: run curate again"
    if pending.outdated_groups:
        yield f"tag groups of an older version: {', '.join(pending.outdated_groups)}: run `reelmill tag`"
    if pending.incomplete_groups:
        yield f"tag groups not measured on every shard: {', '.join(pending.incomplete_groups)}: run `reelmill tag`"
    if pending.retryable_failures:
        yield f"{pending.retryable_failures:,} failures may work another time: run curate with --retry-failed"
    if pending.unknown_groups:
        yield f"tag groups this Reelmill does not know: {', '.join(pending.unknown_groups)}"


def _listed(counts: "Mapping[str, int]") -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
