"""`reelmill status`: what a dataset holds and what is left to do."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.output import grid, printable, short
from schemas.tags import WEIGHT_FREE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from labeling.overview import Captions, Overview, Pending, TagGroup


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
    if not seen.captions:
        yield "captions", "none"
    for one in seen.captions:
        yield from zip(["captions", *[""] * 3], _captions(one, seen.clips), strict=False)
    yield "failures", _listed(seen.failures) or "none"
    if seen.runs:
        last = seen.runs[-1]
        engine = last.get("inputs", {}).get("engine")
        counts = {name: last[name] for name in ("videos", "clips") if name in last}
        facts = [last.get("command"), engine, last.get("started"), f"{short(last.get('seconds'))} s", _listed(counts)]
        yield "runs", f"{len(seen.runs):,}; the last: {last.get('run_id', '?')}: {', '.join(fact for fact in facts if fact)}"
    for line in [*_pending(seen.pending, seen.root), *_captions_pending(seen)] or ["nothing"]:
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


def _captions(seen: "Captions", clips: int) -> "Iterator[str]":
    """A line of what there is, one of what it took, and one of how fast the last run was."""
    nulls = seen.clips - seen.captioned
    facts = [
        f"{seen.captioned:,} of {clips:,} clips captioned",
        f"{nulls:,} null ({_listed(seen.null_reasons)})" if nulls else "",
        f"{seen.failures:,} failed" if seen.failures else "",
        f"camera words agree in {seen.camera_agrees:,} of {judged:,}" if (judged := seen.camera_agrees + seen.camera_disagrees) else "",
    ]
    yield f"{seen.captioner}: {', '.join(filter(None, facts))}"
    versions = f"prompt {', '.join(seen.prompt_versions)}" if seen.prompt_versions else ""
    tokens = f"{seen.tokens_in:,} tokens in, {seen.tokens_out:,} out" if seen.tokens_in or seen.tokens_out else ""
    cost = f"cost {_money(seen.cost)}" if seen.cost is not None else ""
    yield "  " + ", ".join(filter(None, (", ".join(seen.models), versions, f"{seen.requests:,} requests", tokens, cost)))
    if run := seen.last_run:
        rates = [f"{short(rate)} {what}/s" for rate, what in ((run.clips_per_s, "clips"), (run.tokens_per_s, "tokens")) if rate is not None]
        cost = f"cost {_money(run.cost)}" if run.cost is not None else ""
        yield "  " + ", ".join(filter(None, (f"last run: {run.captioned_clips:,} clips in {short(run.seconds)} s", *rates, cost)))


def _money(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.3g}"


def _captions_pending(seen: "Overview") -> "Iterator[str]":
    for one in seen.captions:
        command = f"`reelmill caption {seen.root} --captioner ... --name {one.captioner}`"
        if one.missing:
            kept = f", {one.journaled:,} of which are done and kept from a run that was stopped" if one.journaled else ""
            yield f"captions by {one.captioner} lack {one.missing:,} clips{kept}: run {command} again"
        if one.retryable_failures:
            yield f"{one.retryable_failures:,} failures of {one.captioner} may work another time: run {command} with --retry-failed"


def _listed(counts: "Mapping[str, int]") -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
