"""Train on moving shapes from random weights, by the command line alone, and measure what comes out.

    python tests/benchmarks/moving_shapes.py --out /tmp/moving_shapes [--json table.json]

Clips are written as H.264 files, curated, selected, trained on (VAE and DiT) and sampled from with the very arguments that a
user would type. Prompts are of combinations of shape, color and direction that no clip of the training shows. What is right
is measured on the frames of the sampled files (`tests/moving_shapes/measure.py`).

By `--part`: `text` is prompts; `image` begins with a picture; `tracks` follows a brush; `camera` pans; `fps` asks for other rates;
`long` is 8 times the length of training; `balance` trains twice on a set in which 95 of 100 clips go right and 5 go left, as it is and
rebalanced, and shows the accuracy of each direction side by side.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image

from tests.moving_shapes.files import write_scenes
from tests.moving_shapes.measure import Seen, color_of, commonest, look, slope
from tests.moving_shapes.world import PAN_PX_S, SIZES, SPEEDS_PX_S, Scene, combinations, inside, path, render, training_scenes
from tests.video import psnr_db, read_frames

ROOT = Path(__file__).parents[2]
FPS, FRAMES = 8, 9
CONFIG = {
    "seed": 0,
    "threads": 2,
    "data": {
        "shapes": {"areas": [[40, 40]], "max_frames": FRAMES, "fps": "native"},
        "windows_per_clip": 2,
        "caption_lengths": {"extra.caption": 1.0},
        "memory_mb": 2000,
    },
    "vae": {"latent_channels": 8, "time_factor": 2, "space_factor": 8, "widths": [24, 48, 64], "kl_weight": 1e-3},
    "dit": {"width": 128, "depth": 4, "heads": 2},
    "flow": {"shift": 6.0},
    "conditions": {"first_frame": 0.3, "continuation": 0.2, "tracks": 0.3, "camera": 0.5},
    "stages": [
        {"name": "vae", "model": "vae", "steps": 250, "max_tokens": 1500, "learning_rate": 5e-3, "warmup_steps": 30, "weight_decay": 0},
        {"name": "dit", "model": "dit", "steps": 3300, "max_tokens": 2000, "learning_rate": 2e-3, "warmup_steps": 100, "ema_decay": 0.995},
    ],
    "sample": {"num_steps": 20, "guidance": 2.0, "fps": FPS},
    "audit": {"every_steps": 0},
    "checkpoint_every_steps": 1000,
}
BALANCE_STEPS = 1500
BALANCE = {"tag": "extra.direction", "shares": {"left": 0.5, "right": 0.5}, "max_repeats": 20}


@dataclass(frozen=True)
class Cost:
    """What a command took, in seconds of the clock and of all cores."""

    seconds: float
    cpu_s: float


@dataclass(frozen=True)
class Accuracy:
    """Shares of samples in which something is right, of `samples`; `straight` are those whose path is straight and one shape's."""

    samples: int
    direction: float
    color: float
    shape: float
    speed: float
    straight: float


def prompts(count: int, seed: int, directions: Sequence[str] = ()) -> list[Scene]:
    """Scenes of held-out combinations, in turn, to be asked for."""
    known = [each for each in combinations(held_out=True) if not directions or each[2] in directions]
    order = np.random.default_rng(seed).permutation(len(known))
    chosen = [known[order[number % len(known)]] for number in range(count)]
    speeds = list(SPEEDS_PX_S)
    return [
        Scene(*each, speed=speeds[(number + number // len(known)) % 2], size=SIZES[number % len(SIZES)])
        for number, each in enumerate(chosen)
    ]


def accuracy(asked: Sequence[Scene], seen: Sequence[Seen], scale: float = 0.5) -> Accuracy:
    """How often what was asked for is what is seen, in pictures of `scale`."""
    limit = scale * float(np.mean(list(SPEEDS_PX_S.values())))
    rights = [
        (
            found.direction == scene.direction,
            found.color == scene.color,
            found.shape == scene.shape,
            (found.speed_px_s > limit) == (scene.speed == "fast"),
            found.is_one and found.off_straight_px() < 1.5,
        )
        for scene, found in zip(asked, seen, strict=True)
    ]
    return Accuracy(len(asked), *np.mean(rights, axis=0).tolist())


def by_direction(asked: Sequence[Scene], seen: Sequence[Seen]) -> dict[str, Accuracy]:
    """The accuracy of the prompts of each direction."""
    found = {}
    for direction in sorted({scene.direction for scene in asked}):
        kept = [number for number, scene in enumerate(asked) if scene.direction == direction]
        found[direction] = accuracy([asked[number] for number in kept], [seen[number] for number in kept])
    return found


def say(*arguments: object) -> Cost:
    """Run one command of the command line, showing it first. Raises CalledProcessError where it fails."""
    words = [str(argument) for argument in arguments]
    print("$ reelmill", " ".join(f'"{word}"' if " " in word else word for word in words), file=sys.stderr, flush=True)
    began, cpu = time.monotonic(), _cpu_s()
    subprocess.run([sys.executable, "-m", "jobs.cli", *words], cwd=ROOT, check=True)
    return Cost(time.monotonic() - began, _cpu_s() - cpu)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def make_dataset(scenes: Iterable[Scene], folder: Path) -> Path:
    """Scenes as files, curated; the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scenes(scenes, folder / "videos", folder / "list.csv")
    say("curate", folder / "list.csv", "--out", folder / "dataset")
    return folder / "dataset"


def train(config: dict, manifest: Path, run: Path) -> Cost:
    """Train `config` on a manifest into `run`."""
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return say("train", file, "--manifest", manifest, "--out", run)


def sample(run: Path, asked: Sequence[dict], folder: Path) -> list[Seen]:
    """Sample each of some options of `reelmill sample` from a run, and measure the frames."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"name": f"{number:03d}", "seed": number, **options}) for number, options in enumerate(asked)]
    (folder / "asked.jsonl").write_text("\n".join(lines) + "\n")
    say("sample", run, "--from", folder / "asked.jsonl", "--out", folder)
    return [look(read_frames(folder / f"{number:03d}.mp4"), options.get("fps", FPS)) for number, options in enumerate(asked)]


def options_of(scene: Scene, **more: object) -> dict:
    """What is asked for of a scene: its caption and size."""
    return {"prompt": scene.caption, "size": f"{scene.size[0] // 2}x{scene.size[1] // 2}", **more}


def measure_text(run: Path, folder: Path, count: int) -> dict:
    """Direction and color of prompts that training never showed in that combination, sampled at once and in two passes."""
    asked, table = prompts(count, seed=1), {}
    for name, two_pass in (("one pass", False), ("two passes", True)):
        options = [options_of(scene, two_pass=two_pass) for scene in asked]
        table[name] = asdict(accuracy(asked, sample(run, options, folder / name.replace(" ", "_"))))
    return table


def beginnings(scenes: Sequence[Scene], folder: Path) -> list[str]:
    """The first frame of each scene as a picture; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:03d}.png" for number in range(len(scenes))]
    for file, scene in zip(files, scenes, strict=True):
        Image.fromarray(render(scene, 1)[0]).save(file)
    return list(map(str, files))


def measure_image(run: Path, folder: Path, count: int) -> dict:
    """What a sample makes of the picture it is to begin with, and whether it then moves as the prompt says."""
    asked = [placed(scene, number) for number, scene in enumerate(prompts(count, seed=2))]
    given = [cv2.resize(render(scene, 1)[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for scene in asked]
    options = [options_of(scene, image=file) for scene, file in zip(asked, beginnings(asked, folder), strict=True)]
    seen = sample(run, options, folder / "samples")
    psnr = [psnr_db(read_frames(folder / "samples" / f"{number:03d}.mp4")[0], picture) for number, picture in enumerate(given)]
    found = accuracy(asked, seen)
    return {
        "samples": count,
        "psnr_db": float(np.mean(psnr)),
        "least_psnr_db": min(psnr),
        "direction": found.direction,
        "color": found.color,
    }


def measure_tracks(run: Path, folder: Path, count: int) -> dict:
    """How well a shape in a given picture follows a brush, without a text: the correlation of asked and found ways from the beginning,
    over all frames of all samples, mean of x and y."""
    asked = [placed(scene, number) for number, scene in enumerate(prompts(count, seed=3))]
    files, wanted, options = beginnings(asked, folder), [], []
    for scene, file in zip(asked, files, strict=True):
        way = path(scene, np.arange(FRAMES) / FPS)
        wanted.append(way - way[0])
        track = ";".join(f"{x / scene.size[0]:.4f},{y / scene.size[1]:.4f}" for x, y in way)
        options.append(options_of(scene, prompt="", image=file, track=[track]))
    seen = sample(run, options, folder / "samples")
    found = np.concatenate([2 * (each.path - each.path[0]) for each in seen])
    known, ways = ~np.isnan(found).any(axis=1), np.concatenate(wanted)
    each = [float(np.corrcoef(found[known, axis], ways[known, axis])[0, 1]) for axis in (0, 1)]
    return {"samples": count, "correlation": float(np.mean(each)), "x": each[0], "y": each[1], "frames_seen": float(known.mean())}


def measure_camera(run: Path, folder: Path, count: int) -> dict:
    """By how much the ground of a given picture moves when the camera is told to pan, in widths a second; how often the right way."""
    asked = [replace(placed(scene, number), ground_seed=number) for number, scene in enumerate(prompts(count, seed=4))]
    files, pan, table = beginnings(asked, folder), PAN_PX_S / SIZES[0][0], {}
    for name, move, axis, sign in (("right", "pan", 0, 1), ("left", "pan", 0, -1), ("up", "tilt", 1, 1), ("down", "tilt", 1, -1)):
        options = [options_of(scene, image=file, camera=f"{move}={sign * pan:.4f}") for scene, file in zip(asked, files, strict=True)]
        seen = sample(run, options, folder / name)
        speeds = np.array([each.ground_velocity[axis] / each.size[0] for each in seen]) * (-1 if axis == 0 else 1)
        speeds = speeds[~np.isnan(speeds)]
        table[name] = {"samples": len(speeds), "speed": float(np.mean(speeds)), "right_way": float(np.mean(speeds * sign > 0))}
    return table


def measure_rates(run: Path, folder: Path, count: int) -> dict:
    """Pixels from frame to frame at each rate: a shape of one speed moves the less, the more frames there are a second."""
    asked = [placed(scene, number) for number, scene in enumerate(prompts(count, seed=5))]
    files, table = beginnings(asked, folder), {}
    for fps in (4, 8, 16):
        options = [options_of(scene, image=file, fps=fps) for scene, file in zip(asked, files, strict=True)]
        seen = sample(run, options, folder / str(fps))
        table[f"{fps} fps"] = {"px_a_frame": float(np.nanmedian([each.speed_px_s / fps for each in seen])), "samples": count}
    return table


def measure_long(run: Path, folder: Path, count: int, times: int = 8) -> dict:
    """What becomes of samples of so many times the length of training, stretch by stretch.

    Places are compared with a straight path at the speed of the first stretch, the shortest way round, in pixels.
    """
    asked = [placed(scene, number) for number, scene in enumerate(prompts(count, seed=6))]
    files, frames, table = beginnings(asked, folder), 1 + times * (FRAMES - 1), {}
    options = [options_of(scene, image=file, frames=frames) for scene, file in zip(asked, files, strict=True)]
    seen = sample(run, options, folder / "samples")
    for part in range(times):
        span = slice(part * (FRAMES - 1), (part + 1) * (FRAMES - 1) + 1)
        off = []
        for each in seen:
            first = slope(each.path[:FRAMES], FPS)
            expected = each.path[0] + first * (np.arange(len(each.path)) / FPS)[:, None]
            off.append(float(np.nanmedian(each.off_path_px(expected)[span])))
        table[f"part {part + 1}"] = {
            "one_shape": float(np.mean([(each.counts[span] == 1).mean() for each in seen])),
            "off_px": float(np.nanmedian(off)),
            "color_drift": float(np.nanmedian([np.nanmedian(each.color_drift()[span]) for each in seen])),
            "color": float(
                np.mean([commonest(map(color_of, each.rgb[span])) == scene.color for each, scene in zip(seen, asked, strict=True)])
            ),
        }
    return table


def placed(scene: Scene, number: int) -> Scene:
    """The scene with its shape where it stays within the picture for a whole window."""
    return inside(scene, np.random.default_rng(number)) or scene


def measure_balance(folder: Path, clips: int, count: int, vae: Path) -> dict:
    """The accuracy of each direction, of one set with and without `balance`. `vae` is the run whose VAE is taken."""
    kept = [scene for scene in training_scenes(40 * clips, seed=2) if scene.camera == "static" and scene.direction in ("left", "right")]
    left, right = ([scene for scene in kept if scene.direction == direction] for direction in ("left", "right"))
    rare = round(0.05 * clips)
    dataset = make_dataset([*left[:rare], *right[: clips - rare]], folder)
    say("manifest", dataset, "--where", "true", "--out", folder / "train.parquet")
    asked, table = prompts(count, seed=3, directions=("left", "right")), {}
    for name, balance in (("as it is", None), ("rebalanced", BALANCE)):
        dit = {**CONFIG["stages"][1], "steps": BALANCE_STEPS}
        config = {**CONFIG, "vae": {**CONFIG["vae"], "weights": str(vae)}, "balance": balance, "stages": [dit]}
        run = folder / name.replace(" ", "_")
        train(config, folder / "train.parquet", run)
        seen = sample(run, [options_of(scene) for scene in asked], folder / f"{run.name}_samples")
        table[name] = {way: asdict(found) for way, found in by_direction(asked, seen).items()}
    return table


MEASURED = {
    "text": (measure_text, 48),
    "image": (measure_image, 24),
    "tracks": (measure_tracks, 24),
    "camera": (measure_camera, 12),
    "fps": (measure_rates, 16),
    "long": (measure_long, 6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or that of a run to measure again")
    parser.add_argument("--part", choices=(*MEASURED, "balance"), action="append", help="by default all")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    run, table = args.out / "run", dict[str, dict]()
    if not run.exists():
        dataset = make_dataset(training_scenes(args.clips), args.out)
        say("manifest", dataset, "--where", "quality_decode_errors = 0", "--out", args.out / "train.parquet")
        table["training"] = {"cost": asdict(train(CONFIG, args.out / "train.parquet", run))}
        show("training", table["training"])
    for part in args.part or (*MEASURED, "balance"):
        if part == "balance":
            table[part] = measure_balance(args.out / "balance", args.clips, 48, run)
        else:
            measure, count = MEASURED[part]
            table[part] = measure(run, args.out / part, count)
        show(part, table[part])
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


def show(name: str, table: dict) -> None:
    """Print figures, or a line of them for each kind."""
    print(f"\n{name}", flush=True)
    rows = table.items() if any(isinstance(value, dict) for value in table.values()) else [("", table)]
    for key, figures in rows:
        print(f"  {key:12}", "  ".join(f"{label} {figure:.3g}" for label, figure in figures.items()), flush=True)


if __name__ == "__main__":
    main()
