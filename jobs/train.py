"""`reelmill train`. Torch is imported only when it runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

DONE_WITH_FAILURES = 3


def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset such as tiny.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints, metrics and samples.")],
    manifest: Annotated[
        Path | None, typer.Option(help="The manifest to train on, as `reelmill manifest` writes it; for stages that name none.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it was saved.")] = False,
) -> None:
    """Train on the clips of a manifest.

    Writes checkpoints, metrics, TensorBoard logs and sample videos into the folder of the run.
    A killed run continues with --resume, and ends as if it had never stopped.

    Examples:

        reelmill train tiny --manifest dogs.parquet --out runs/dogs

        reelmill train my.yaml --manifest dogs.parquet --out runs/dogs --resume
    """
    share_the_cores()
    from training.train import train as run_training

    result = run_training(config, manifest, out, resume)
    made = f"; sample: {result.sample}" if result.sample else ""
    typer.echo(f"{result.steps} steps done, {result.seconds:.0f} s; run: {out}{made}")
    if result.skipped:
        typer.echo(f"{len(result.skipped)} clips could not be read and were skipped")
        raise typer.Exit(DONE_WITH_FAILURES)


def share_the_cores() -> None:
    """Let OpenMP threads sleep while they wait; must be set before torch is loaded.

    On a machine that does something else besides, two threads that spin were measured 6 times slower than one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
