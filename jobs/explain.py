"""`reelmill explain`: why a clip has its scores."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.output import grid, printable, short


class ClipError(ValueError):
    """A clip that a dataset does not hold."""


def explain(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.")],
    clip: Annotated[str, typer.Argument(metavar="CLIP_ID", help="The clip, or the first digits of its id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what each input of a clip's scores did: its value, how good that is (0-1), and the factor it leaves of the score.

    A score is the product of all factors; one of 0.8 took a fifth away. Inputs that could not be measured take nothing away.

    \b
    Examples:
      reelmill explain dataset 3f2a9c
      reelmill query dataset "suitability < 0.2" --columns clip_id --format csv | tail -n +2 | xargs -n1 reelmill explain dataset
    """
    from labeling.catalog import open_catalog
    from labeling.query import run_query
    from labeling.scores import SCORES
    from labeling.scores import explain as contributions

    if not (clip and all(letter in "0123456789abcdef" for letter in clip)):
        raise ClipError(
            f"{printable(clip)!r} is no clip id: ids are hexadecimal digits; `reelmill query {dataset} --columns clip_id` lists them"
        )
    catalog = open_catalog(dataset)
    rows = run_query(catalog, f"starts_with(clip_id, '{clip}')", limit=2).to_pylist()
    if len(rows) != 1:
        what = "several clips begin" if rows else "no clip begins"
        raise ClipError(f"{what} with {clip}; `reelmill query {dataset} --columns clip_id,uri,start_s` lists clips")
    row = rows[0]
    parts = {score: contributions(score, row) for score in SCORES}
    if as_json:
        found = {score: {"score": row.get(score), "inputs": [asdict(part) for part in inputs]} for score, inputs in parts.items()}
        print(json.dumps({"clip_id": row["clip_id"], "uri": row["uri"], "scores": found}, indent=1))
        return
    from rich.console import Console

    print(f"{row['clip_id']}  {printable(row['uri'])}  {row['start_s']:.2f}-{row['end_s']:.2f} s")
    for score, inputs in parts.items():
        print(f"\n{score} {short(row.get(score))}")
        cells = [[part.tag, short(part.value), short(part.utility), short(part.weight), short(part.factor)] for part in inputs]
        Console().print(grid(["input", "value", "utility", "weight", "factor"], cells, numbers=[1, 2, 3, 4]))
