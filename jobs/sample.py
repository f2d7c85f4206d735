"""`reelmill sample`: videos out of a trained run. Torch is imported only when it runs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.train import share_the_cores

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.generate import SampleSettings

# What each key of a JSON line holds.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("prompt", "image", "last_image", "continue", "camera", "size", "solver"), ("text", lambda value: isinstance(value, str))
    ),
    **dict.fromkeys(
        ("track", "control", "tag"),
        ("a list of texts", lambda value: isinstance(value, list) and all(isinstance(part, str) for part in value)),
    ),
    **dict.fromkeys(
        ("seed", "frames", "context", "steps"), ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
    ),
    "two_pass": ("true or false", lambda value: isinstance(value, bool)),
    **dict.fromkeys(("fps", "guidance"), ("a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))),
}
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
    "two_pass": "two_pass",
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
    two_pass: Annotated[bool | None, typer.Option("--two-pass/--one-pass", help="Make the first frame, then the video from it.")] = None,
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
        "two_pass": two_pass,
    }
    share_the_cores()
    from jobs.progress import track as progress
    from training.generate import open_generator, write_sample

    common = {name: value for name, value in given.items() if value is not None}
    lines = [] if from_file is None else _lines(from_file)
    generator = open_generator(run)
    if from_file is None:
        settings = sample_settings(generator.config, common)
        write_sample(out, generator, settings)
        typer.echo(f"{settings.num_frames} frames of {settings.width}x{settings.height}, seed {settings.seed}: {out}")
        return
    many = [(out / f"{line.name}.mp4", _settings_of(line, from_file, generator.config, common)) for line in lines]
    for path, settings in progress(many, len(many), "samples", lambda _: 1):
        write_sample(path, generator, settings)
    typer.echo(f"{len(many)} samples: {out}")


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
    tags = _pairs(given.get("tag", ()), "--tag", "motion_mean=0.9")
    changes["tags"] = {name: _number(name, value, "--tag", "motion_mean=0.9") for name, value in tags.items()}
    moves = _pairs(given["camera"].split(",") if "camera" in given else (), "--camera", "pan=0.2,zoom=-0.1")
    camera = {name: _number(name, value, "--camera", "pan=0.2,zoom=-0.1") for name, value in moves.items()}
    changes["steering"] = Steering(camera, tuple(given.get("track", ())), _pairs(given.get("control", ()), "--control", "edges=V.mp4"))
    settings = replace(default_settings(config, like if "size" not in given else None), **changes)
    check_settings(config, settings)
    return settings


@dataclass(frozen=True)
class _Line:
    """What a line of a file asks for."""

    number: int
    name: str
    options: dict[str, Any]


def _settings_of(line: _Line, path: Path, config: "TrainConfig", common: Mapping[str, Any]) -> "SampleSettings":
    """The settings of one sample of many. Raises TrainError that names the line."""
    from training.settings import TrainError

    try:
        return sample_settings(config, {**common, **line.options})
    except (TrainError, typer.BadParameter) as error:
        raise TrainError(f"{path}, line {line.number}: {error}") from error


def _lines(path: Path) -> list[_Line]:
    """The samples that a file of JSON lines asks for; empty lines are passed over. Raises TrainError."""
    from training.settings import TrainError

    try:
        texts = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainError(f"{path} is not text in UTF-8") from error
    lines, numbers = [], dict[str, int]()
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                lines.append(_line(number, text))
            except ValueError as error:
                raise TrainError(f"{path}, line {number}: {error}") from error
            name = lines[-1].name
            if name in numbers:
                raise TrainError(f"{path}: lines {numbers[name]} and {number} are both named {name!r}")
            numbers[name] = number
    if not lines:
        raise TrainError(f"{path} asks for no sample")
    return lines


def _line(number: int, text: str) -> _Line:
    """One line. Raises ValueError."""
    from training.settings import nearest

    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ValueError(f"this is not a JSON object: {text[:80]}")
    name = options.pop("name", f"{number:04d}")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"a name is the text of a file name, not {name!r}")
    for key, value in options.items():
        if key not in _KINDS:
            raise ValueError(f"unknown key {key!r}; {nearest(key, ['name', *_KINDS])}")
        kind, fits = _KINDS[key]
        if not fits(value):
            raise ValueError(f"{key} is {kind}, not {value!r}")
    return _Line(number, name, options)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a size such as 64x40", param_hint="--size")
    return int(width), int(height)


def _pairs(texts: Sequence[str], option: str, example: str) -> dict[str, str]:
    """Values by name, of texts such as the example."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if not (name and value):
            raise typer.BadParameter(f"{text!r} is not like {example}", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"{name} is given twice", param_hint=option)
        pairs[name] = value
    return pairs


def _number(name: str, value: str, option: str, example: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise typer.BadParameter(f"{name}={value!r} is not like {example}", param_hint=option) from error
