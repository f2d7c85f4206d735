"""`reelmill status`: what a dataset holds and what is left to do."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.output import grid, printable, short
from schemas.tags import WEIGHT_FREE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from labeling.overview import Overview, Pending, TagGroup


def status(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    all_tags: Annotated[bool, typer.Option("--tags", help="List every tag with the share of clips that have a value.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show videos, clips, hours, tags with their coverage, failures by code, captions, runs, and what is pending.

    \b
    Examples:
      reelmill status dataset --tags
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
    if all_tags:
        tags = [[tag, group.name, _percent(share)] for group in seen.groups for tag, share in group.coverage.items()]
        Console().print(grid(["tag", "group", "clips with a value"], tags, numbers=[2]))
        return
    groups = [[group.name, str(len(group.coverage)), _percent(group.clips / max(seen.clips, 1)), _rarest(group)] for group in seen.groups]
    Console().print(grid(["tag group", "tags", "clips measured", "fewest values"], groups, numbers=[1, 2]))


def _rarest(group: "TagGroup") -> str:
    """The tag of a group that the fewest clips have, where not all of those measured do."""
    tag, share = min(group.coverage.items(), key=lambda entry: entry[1])
    return f"{_percent(share)} {tag}" if share < max(group.coverage.values()) else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _lines(seen: "Overview") -> "Iterator[tuple[str, str]]":
    """Label and text of each fact."""
    shots = sum(count for kind, count in seen.boundaries.items() if kind != "split")
    yield "dataset", f"{seen.root}, {seen.shards:,} shards"
    yield "videos", f"{seen.videos:,}, {seen.video_hours:.4g} hours, {seen.size_bytes / 1e9:,.3g} GB"
    yield "shots", f"{shots:,}; clips begin with {_listed(seen.boundaries) or 'nothing'}"
    yield "clips", f"{seen.clips:,}, {seen.clip_hours:.4g} hours, {seen.short_clips:,} of them short; {seen.keyframes:,} keyframes"
    yield "tags", f"{sum(len(group.coverage) for group in seen.groups)} in {len(seen.groups)} groups"
    yield "captions", _listed(seen.captions) or "none"
    yield "failures", _listed(seen.failures) or "none"
    if seen.runs:
        last = seen.runs[-1]
        engine = last.get("inputs", {}).get("engine")
        counts = {name: last[name] for name in ("videos", "clips") if name in last}
        facts = [last.get("command"), engine, last.get("started"), f"{short(last.get('seconds'))} s", _listed(counts)]
        yield "runs", f"{len(seen.runs):,}; the last: {last.get('run_id', '?')}: {', '.join(fact for fact in facts if fact)}"
    for line in list(_pending(seen.pending, seen.root)) or ["nothing"]:
        yield "pending", line


def _pending(pending: "Pending", root: str) -> "Iterator[str]":
    if pending.leftovers:
        yield f"{len(pending.leftovers):,} shards were begun and not finished: run curate again"
    for what, names in (("of an older version", pending.outdated_groups), ("not measured on every shard", pending.incomplete_groups)):
        ours = [name for name in names if name in WEIGHT_FREE]
        models = [name for name in names if name not in (*WEIGHT_FREE, "dedup")]
        if ours:
            yield f"tag groups {what}: {', '.join(ours)}: run `reelmill tag {root}`"
        if models:
            yield f"tag groups {what}: {', '.join(models)}: run `reelmill tag {root}` with --group or --tagger"
        if "dedup" in names:
            yield f"duplicates were looked for before the last clips came: run `reelmill dedup {root}`"
    if pending.retryable_failures:
        yield f"{pending.retryable_failures:,} failures may work another time: run curate with --retry-failed"
    if pending.unknown_groups:
        yield f"tag groups this Reelmill does not know: {', '.join(pending.unknown_groups)}"


def _listed(counts: "Mapping[str, int]") -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
