"""`reelmill sample`: videos out of a trained run. Torch is imported only when it runs."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.train import share_the_cores

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.generate import SampleSettings

# Options that are settings under another name, or under their own.
_KEYS = {
    "prompt": "prompt",
    "image": "image",
    "last_image": "last_image",
    "continue": "continues",
    "seed": "seed",
    "frames": "num_frames",
    "fps": "fps",
    "context": "context_frames",
    "steps": "num_steps",
    "solver": "solver",
    "guidance": "guidance",
}


def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as `reelmill train` makes it.")],
    out: Annotated[Path, typer.Option(help="The MP4 to write; its settings go beside it as JSON. With --from, a folder.")],
    prompt: Annotated[str | None, typer.Option(help="What to show.")] = None,
    image: Annotated[Path | None, typer.Option(help="The picture it begins with.")] = None,
    last_image: Annotated[Path | None, typer.Option(help="The picture it ends with.")] = None,
    continues: Annotated[Path | None, typer.Option("--continue", metavar="VIDEO", help="A video it goes on from.")] = None,
    camera: Annotated[str | None, typer.Option(help="Speeds such as pan=0.2,zoom=-0.1: widths, log scale, radians a second.")] = None,
    track: Annotated[list[str] | None, typer.Option(help="A path x,y;x,y;... in shares of the picture. Repeatable.")] = None,
    control: Annotated[list[str] | None, typer.Option(help="A control measured on a video: edges=V.mp4. Repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag as a quantile: motion_mean=0.9. Repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same video.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Width and height in pixels, such as 64x40. [default: as the image, or as trained]")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Number of frames; more than trained on are made stretch by stretch.")] = None,
    fps: Annotated[float | None, typer.Option(min=0.01, help="Frames a second, of which the run is told.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Frames that a stretch takes over from the one before.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps from noise to video.")] = None,
    solver: Annotated[str | None, typer.Option(help="euler, heun or adams_bashforth.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="How strongly to follow the prompt.")] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Many samples: JSON lines with these options as keys, and name.")
    ] = None,
) -> None:
    """Make a video with a trained run. What is not given is as in the run's config.

    Pictures and videos that are given are cropped to the aspect ratio of the sample and scaled. What a run was not trained with
    (its conditions) is refused. The sidecar holds every setting, and hashes of the frames and of the files given.

    \b
    Examples:
      reelmill sample runs/dogs --prompt "a dog runs" --out dog.mp4
      reelmill sample runs/dogs --size 40x64 --tag motion_mean=0.9 --seed 3 --out fast.mp4
      reelmill sample runs/dogs --image dog.jpg --last-image door.jpg --out goes-to-the-door.mp4
      reelmill sample runs/dogs --continue dog.mp4 --frames 129 --out longer.mp4
      reelmill sample runs/dogs --camera pan=0.2 --track "0.2,0.5;0.8,0.5" --out steered.mp4
      reelmill sample runs/dogs --control edges=drawing.mp4 --prompt "a dog runs" --out traced.mp4
      reelmill sample runs/dogs --from prompts.jsonl --out samples/     lines such as {"name": "1", "prompt": "a dog"}
    """
    given = {
        "prompt": prompt,
        "image": image,
        "last_image": last_image,
        "continue": continues,
        "camera": camera,
        "track": track,
        "control": control,
        "tag": tag,
        "seed": seed,
        "size": size,
        "frames": frames,
        "fps": fps,
        "context": context,
        "steps": steps,
        "solver": solver,
        "guidance": guidance,
    }
    share_the_cores()
    from jobs.progress import track as progress
    from training.generate import open_generator, write_sample

    common = {name: value for name, value in given.items() if value is not None}
    wanted = [(out, common)] if from_file is None else [(out / f"{name}.mp4", common | one) for name, one in _lines(from_file, given)]
    generator = open_generator(run)
    settings = [(path, sample_settings(generator.config, options)) for path, options in wanted]
    for path, setting in progress(settings, len(settings), "samples", lambda _: 1) if from_file else settings:
        write_sample(path, generator, setting)
    last = settings[-1][1]
    typer.echo(
        f"{last.num_frames} frames of {last.width}x{last.height}, seed {last.seed}: {out}" if not from_file else f"{len(settings)}: {out}"
    )


def sample_settings(config: "TrainConfig", options: Mapping[str, Any]) -> "SampleSettings":
    """The settings of a sample by the options of the command line. Raises TrainError, typer.BadParameter."""
    from training.generate import check_settings, default_settings
    from training.steering import Steering

    given = dict(options)
    like = next((str(given[name]) for name in ("image", "continue") if name in given), None)
    changes: dict[str, Any] = {_KEYS[name]: given[name] for name in _KEYS if name in given}
    changes |= {name: str(changes[name]) for name in ("image", "last_image", "continues") if name in changes}
    if "size" in given:
        changes["width"], changes["height"] = _size(given["size"])
    if "tag" in given:
        changes["tags"] = {name: _number(name, value, "--tag", "motion_mean=0.9") for name, value in map(_pair, given["tag"])}
    moves = given["camera"].split(",") if "camera" in given else []
    camera = {name: _number(name, value, "--camera", "pan=0.2,zoom=-0.1") for name, value in map(_pair, moves)}
    changes["steering"] = Steering(camera, tuple(given.get("track", ())), dict(map(_pair, given.get("control", ()))))
    settings = replace(default_settings(config, like if "size" not in given else None), **changes)
    check_settings(config, settings)
    return settings


def _lines(path: Path, known: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The samples that a file of JSON lines asks for: a name and options of each. Raises TrainError."""
    from training.config import TrainError, nearest

    samples = []
    try:
        texts = path.read_text().splitlines()
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}") from error
    for number, text in enumerate(texts, 1):
        try:
            one = json.loads(text)
            name = str(one.pop("name", f"{number:04d}"))
        except (ValueError, AttributeError, TypeError) as error:
            raise TrainError(f"{path}, line {number} is not a JSON object: {text[:80]}") from error
        if Path(name).name != name:
            raise TrainError(f"{path}, line {number}: the name {name!r} would leave the folder")
        if unknown := [key for key in one if key not in known]:
            raise TrainError(f"{path}, line {number}: unknown key {unknown[0]!r}; {nearest(unknown[0], known)}")
        samples.append((name, one))
    if not samples:
        raise TrainError(f"{path} asks for no sample")
    if len({name for name, _ in samples}) < len(samples):
        raise TrainError(f"{path} asks for several samples of one name")
    return samples


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a size such as 64x40", param_hint="--size")
    return int(width), int(height)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value


def _number(name: str, value: str, option: str, example: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise typer.BadParameter(f"{name}={value!r} is not like {example}", param_hint=option) from error
