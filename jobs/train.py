"""`reelmill train` and `reelmill sample`. Torch is imported only when one of them runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

DONE_WITH_FAILURES = 3


def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a preset such as tiny.")],
    manifest: Annotated[Path, typer.Option(help="The manifest to train on, as `reelmill manifest` writes it.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: checkpoints, metrics and samples.")],
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


def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as `reelmill train` makes it.")],
    out: Annotated[Path, typer.Option(help="The MP4 to write; its settings go beside it as JSON.")],
    prompt: Annotated[str | None, typer.Option(help="What to show.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same video.")] = None,
    size: Annotated[str | None, typer.Option(help="Width and height in pixels, such as 64x40.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Number of frames.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps from noise to video.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="How strongly to follow the prompt.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag as a quantile: motion_mean=0.9. Repeatable.")] = None,
) -> None:
    """Make a video with a trained run. What is not given is as in the run's config.

    Examples:

        reelmill sample runs/dogs --prompt "a dog runs" --out dog.mp4

        reelmill sample runs/dogs --size 40x64 --tag motion_mean=0.9 --seed 3 --out fast.mp4
    """
    wanted = {"prompt": prompt, "seed": seed, "num_frames": frames, "num_steps": steps, "guidance": guidance}
    if size is not None:
        wanted["width"], wanted["height"] = _size(size)
    if tag:
        wanted["tags"] = dict(map(_tag, tag))
    share_the_cores()
    from training.generate import sample_run

    settings = sample_run(run, out, {name: value for name, value in wanted.items() if value is not None})
    typer.echo(f"{settings.num_frames} frames of {settings.width}x{settings.height}, seed {settings.seed}: {out}")


def share_the_cores() -> None:
    """Let OpenMP threads sleep while they wait; must be set before torch is loaded.

    On a machine that does something else besides, two threads that spin were measured 6 times slower than one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a size such as 64x40", param_hint="--size")
    return int(width), int(height)


def _tag(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not like motion_mean=0.9", param_hint="--tag") from error
