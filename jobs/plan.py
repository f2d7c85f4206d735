"""`reelmill plan`: what training would see of a manifest, before it begins."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.output import by_code, grid, printable

if TYPE_CHECKING:
    from training.balance_report import ValueReport
    from training.plan import RunPlan, StagePlan


def plan(
    manifest: Annotated[Path, typer.Argument(help="The manifest, as `reelmill manifest` writes it.")],
    config: Annotated[str, typer.Option(help="The YAML file of the run, or the name of a preset such as tiny.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a run would see: rows in, samples out, without reading a video.

    What training leaves out is counted, and why. The balance is listed by value: natural, wanted, planned and realized shares, and
    repeats. Each stage tells its samples, epochs, tokens, how full its batches are, and what it hands on to the next.
    Training starts from the same functions, so a plan is what will be, but for clips that turn out to be unreadable.

    \b
    Examples:
      reelmill plan train.parquet --config tiny
      reelmill plan train.parquet --config run.yaml --json | jq .stages
    """
    from training.config import load_config
    from training.plan import plan_run
    from training.runs import load_manifest

    planned = plan_run(load_manifest(manifest), load_config(config))
    if as_json:
        print(json.dumps(asdict(planned), indent=1))
        return
    _show(planned)


def _show(planned: "RunPlan") -> None:
    from rich.console import Console

    captions = "" if planned.has_captions else "; none has a caption: every text is empty"
    print(f"{'clips':<10}{planned.clips:,}; left out: {by_code(planned.left_out) or '0'}{captions}")
    print(f"{'epoch':<10}{planned.balance}")
    for stage in planned.stages:
        print(f"{printable(stage.name):<10}{_stage(stage)}")
    if planned.balance.values:
        headers = ["balance", "clips", "natural", "wanted", "planned", "realized", "repeats"]
        Console().print(grid(headers, map(_value, planned.balance.values), numbers=range(1, 7)))


def _stage(stage: "StagePlan") -> str:
    seen = f"{stage.samples:,} samples, {stage.epochs:.2f} epochs, {stage.clips_seen:,} clips"
    batches = f"{stage.tokens:,} tokens in batches {stage.useful_share:.1%} full, {stage.shapes} shapes; {stage.carried:,} handed on"
    part = f" (planned for the first {stage.planned_steps:,})" if stage.planned_steps < stage.steps else ""
    return f"{stage.model}, {stage.batching}, {stage.steps:,} steps{part}: {seen}; {batches}"


def _value(value: "ValueReport") -> list[str]:
    wanted = "free" if value.target_share is None else f"{value.target_share:.1%}"
    shares = [f"{value.natural_share:.1%}", wanted, f"{value.planned_share:.1%}", f"{value.realized_share:.1%}"]
    return [f"{value.target} {value.value}", f"{value.num_rows:,}", *shares, f"{value.mean_repeats:.2f}, ≤ {value.max_repeats}"]
