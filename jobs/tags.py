"""`reelmill tags`: the tag registry, for the terminal, for scripts, and as the documentation page."""

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from jobs.output import grid, short
from jobs.taggers import check_groups
from schemas.tags import DIMENSIONS, TAGS, TagSpec


class TagsFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


_NEEDS = {
    "scan": "the one decode pass",
    "keyframes": "stored keyframes",
    "tags": "other tags",
    "clip": "CLIP embeddings of keyframes",
    "clip_mlp": "CLIP embeddings of keyframes",
    "clip_captions": "CLIP embeddings and captions",
    "ocr": "stored keyframes, read by RapidOCR",
    "faces": "stored keyframes, seen by YuNet",
    "nsfw": "stored keyframes, seen by OpenNSFW",
    "dedup": "all clips, compared by `reelmill dedup`",
}


def tags(
    group: Annotated[list[str] | None, typer.Option(help="Only this group; may be given again.")] = None,
    format: Annotated[TagsFormat, typer.Option(help="How to print them.")] = TagsFormat.TABLE,
) -> None:
    """List all tags: unit, range, which end is better, what they are measured from, and how.

    \b
    Examples:
      reelmill tags --group motion
      reelmill tags --format json | jq '.[] | select(.needs == "clip") | .name'
      reelmill tags --format markdown > schemas/TAGS.md
    """
    check_groups(group or ())
    chosen = [tag for tag in TAGS if not group or tag.group in group]
    if format is TagsFormat.JSON:
        print(json.dumps([{**asdict(tag), "group": tag.group} for tag in chosen], indent=1))
    elif format is TagsFormat.MARKDOWN:
        print(markdown(chosen), end="")
    else:
        from rich.console import Console

        cells = [[tag.name, tag.group, tag.unit, _range(tag), _better(tag), tag.method] for tag in chosen]
        Console().print(grid(["tag", "group", "unit", "range", "better", "how"], cells))
        print(f"{len(chosen)} tags in {len({tag.group for tag in chosen})} groups")


def markdown(tags: list[TagSpec]) -> str:
    """The documentation page of the tags: schemas/TAGS.md."""
    lines = [
        "# Tags",
        "",
        f"All {len(tags)} tags, made from the registry in `schemas/tags.py` by `reelmill tags --format markdown`. A tag's name begins",
        "with its dimension. A change of method raises a tag's version, and with it only the tags of its group are measured again.",
        '"Frames" are all frames of a clip, "samples" those measured at full resolution: one a second, at most every twelfth frame.',
        "Values marked *proxy* stand in for a model. What cannot be measured is null.",
    ]
    for dimension in DIMENSIONS:
        of_it = [tag for tag in tags if tag.dimension == dimension]
        if of_it:
            lines += [
                "",
                f"## {dimension.capitalize()}: {len(of_it)}",
                "",
                "| tag | unit | range | better | measured from | how | version |",
            ]
            lines += ["|---|---|---|---|---|---|---|"]
            lines += [f"| {' | '.join(_row(tag))} |" for tag in of_it]
    return "\n".join([*lines, ""])


def _row(tag: TagSpec) -> list[str]:
    method = tag.method.replace("|", "\\|")
    return [f"`{tag.name}`", tag.unit, _range(tag), _better(tag), _NEEDS[tag.needs], method, str(tag.version)]


def _range(tag: TagSpec) -> str:
    if tag.dtype in ("string", "bool"):
        return {"string": "text", "bool": "yes, no"}[tag.dtype]
    return f"{'−∞' if tag.low is None else short(tag.low)} … {'∞' if tag.high is None else short(tag.high)}"


def _better(tag: TagSpec) -> str:
    return "" if tag.better == "none" else tag.better
