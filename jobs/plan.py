"""`reelmill plan`: what training would see of a manifest, and what that would cost, before it begins."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jobs.output import say, write_file
from jobs.train import share_the_cores

_MFU = 0.4


def plan(
    manifest: Annotated[Path, typer.Argument(help="The manifest, as `reelmill manifest` writes it.")],
    config: Annotated[str, typer.Option(help="The YAML file of the run, or the name of a preset such as tiny.")],
    html: Annotated[Path | None, typer.Option(metavar="PAGE", help="Write the plan as a self-contained HTML page as well.")] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Estimate the time on such devices: h100, h200, b200, ...")] = None,
    ranks: Annotated[int, typer.Option(min=1, help="How many devices share the batches of a step.")] = 1,
    mfu: Annotated[float | None, typer.Option(help=f"Share of a device's peak that is reached. [default: {_MFU}]")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time two real steps of each stage here, on random pixels.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a run would see and cost: rows in, samples out, tokens, operations, memory, time, without reading a video.

    What training leaves out is counted, and why. The balance is listed by value: natural, wanted, planned and realized shares, and
    repeats. Each stage tells its samples, epochs, tokens, how full its batches are, and what it hands on to the next.
    Training starts from the same functions, so a plan is what will be, but for clips that turn out to be unreadable.

    Operations and memory come from a dry run of the models on tensors without contents. Memory is what the tensors of one rank
    hold at the highest moment, in the float32 that the trainer computes in; each rank holds whole models. Time needs --device, whose
    speed is an assumption, or --measure. Loading and decoding of clips are in neither.

    \b
    Examples:
      reelmill plan train.parquet --config tiny
      reelmill plan train.parquet --config run.yaml --device h100 --ranks 8 --html plan.html
      reelmill plan train.parquet --config tiny --measure
      reelmill plan train.parquet --config run.yaml --json | jq .cost.stages
    """
    _check(device, ranks, mfu, measure)
    share_the_cores()
    from training.config import load_config
    from training.forecast.cost import run_cost
    from training.forecast.devices import device_of
    from training.forecast.timing import estimate_time, measure_time
    from training.plan import plan_run
    from training.runs import load_manifests

    speed = device_of(device) if device else None
    chosen = load_config(config)
    given = load_manifests(manifest, chosen)
    planned = plan_run(given, chosen)
    cost = run_cost(planned, chosen, ranks)
    took = None
    if speed:
        took = estimate_time(planned, cost, speed, _MFU if mfu is None else mfu)
    elif measure:
        took = measure_time(planned, cost, chosen)
    if html:
        from jobs.plan_page import plan_page

        page = plan_page(manifest.name, given, Path(config).name, chosen, planned.plan, cost, took)
        write_file(html, page.encode())
        say(f"{html}: {len(page) / 1e3:.0f} kB")
    if as_json:
        print(json.dumps(asdict(planned.plan) | {"cost": asdict(cost), "time": asdict(took) if took else None}, indent=1))
        return
    from jobs.plan_text import show

    show(planned.plan, cost, took)


def _check(device: str | None, ranks: int, mfu: float | None, measure: bool) -> None:
    if measure and (device or ranks > 1):
        raise typer.BadParameter("it times one process of this machine; leave out --device and --ranks", param_hint="--measure")
    if mfu is not None and not device:
        raise typer.BadParameter("it is a share of the speed of a --device", param_hint="--mfu")
    if mfu is not None and not 0 < mfu <= 1:
        raise typer.BadParameter(f"{mfu:g} is not a share above 0 and up to 1", param_hint="--mfu")
