"""CPU and wall time of the whole curate scan beside the bare ffmpeg decode and scenedetect, in one run on the same files.

    python tests/benchmarks/scan_speed.py [VIDEOS...] [--repeat 3] [--min-height 480]

Each tool is a whole process tree, measured by what the kernel charges it (getrusage of children); its start-up, measured on a
video of one frame, is taken off. Short files are first repeated, without re-encoding, until ffmpeg needs --least-s of CPU for one:
otherwise start-up's own noise would decide. Runs are interleaved and the least of `--repeat` counts, since other work on a shared
machine only adds. Reported as ratios to ffmpeg, with the median over files; absolute seconds are of this machine and this hour.
"""

import argparse
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import imageio_ffmpeg
import numpy as np

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("REELMILL_CORPUS", ROOT.parent / "shared"))
sys.path.insert(0, str(ROOT))

from curation.frames import MediaError, decode, open_media, video_stream  # noqa: E402
from tests.video import write_video  # noqa: E402


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    cpu_s: float
    wall_s: float
    peak_mb: float  # of the largest process of the tree


def measure(command: list[str]) -> Cost:
    """Run a command and everything it starts to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-500:]}")
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall_s, after.ru_maxrss / 1024)


def tools(scratch: Path) -> dict[str, Callable[[Path], list[str]]]:
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()

    def curate(path: Path) -> list[str]:
        shutil.rmtree(scratch / "dataset", ignore_errors=True)
        return [sys.executable, "-m", "jobs.cli", "curate", str(path), "--out", str(scratch / "dataset"), "--workers", "1"]

    return {
        "ffmpeg": lambda path: [ffmpeg, "-v", "error", "-i", str(path), "-f", "null", "-"],
        "scenedetect": lambda path: [sys.executable, "-m", "scenedetect", "-i", str(path), "-q", "detect-adaptive"],
        "reelmill": curate,
    }


def best(command: Callable[[Path], list[str]], path: Path, repeat: int) -> Cost:
    costs = [measure(command(path)) for _ in range(repeat)]
    return Cost(min(cost.cpu_s for cost in costs), min(cost.wall_s for cost in costs), max(cost.peak_mb for cost in costs))


def repeated(path: Path, scratch: Path, least_s: float) -> Path:
    """The file's streams, end to end as often as it takes for a decode of at least `least_s` CPU seconds."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    once = best(lambda video: [ffmpeg, "-v", "error", "-i", str(video), "-f", "null", "-"], path, 2).cpu_s
    target = scratch / f"{path.stem}.mkv"
    loops = str(math.ceil(least_s / once) - 1)
    command = [
        ffmpeg,
        "-v",
        "error",
        "-y",
        "-stream_loop",
        loops,
        "-i",
        str(path),
        "-map",
        "0:v:0",
        "-map",
        "0:a:0?",
        "-c",
        "copy",
        str(target),
    ]
    return target if loops != "0" and subprocess.run(command, check=False, capture_output=True).returncode == 0 else path


def shorter_side(path: Path) -> int:
    try:
        with open_media(str(path)) as container:
            frame = next(decode(container, video_stream(container))).frame
            return min(frame.width, frame.height)
    except (MediaError, StopIteration):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path, help="[default: the corpus]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--min-height", type=int, default=480, help="shorter side, in pixels")
    parser.add_argument("--least-s", type=float, default=2.0, help="CPU seconds of ffmpeg to repeat a file up to")
    args = parser.parse_args()
    videos = args.videos or sorted((CORPUS / "videos").iterdir())
    videos = [path for path in videos if shorter_side(path) >= args.min_height]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        commands = tools(scratch)
        nothing = write_video(scratch / "one.mp4", [np.zeros((64, 64, 3), np.uint8)])
        start = {name: best(command, nothing, args.repeat + 2) for name, command in commands.items()}
        print("start-up: " + ", ".join(f"{name} {cost.cpu_s:.2f} s CPU" for name, cost in start.items()))
        print(f"{'file':44} {'ffmpeg CPU':>10} {'scenedetect':>12} {'reelmill':>9} {'reelmill wall':>14} {'peak MB':>8}")
        detect, scan, wall = [], [], []  # ratios to ffmpeg
        bare, paths = Cost(0, 0, 0), []
        for original in videos:
            path = repeated(original, scratch, args.least_s)
            costs = compare(commands, path, args.repeat, start)
            base = costs["ffmpeg"]
            detect.append(costs["scenedetect"].cpu_s / base.cpu_s)
            scan.append(costs["reelmill"].cpu_s / base.cpu_s)
            wall.append(costs["reelmill"].wall_s / base.wall_s)
            bare, paths = Cost(bare.cpu_s + base.cpu_s, bare.wall_s + base.wall_s, 0), [*paths, path]
            figures = f"{base.cpu_s:8.2f} s {detect[-1]:11.2f}x {scan[-1]:8.2f}x {wall[-1]:13.2f}x {costs['reelmill'].peak_mb:8.0f}"
            print(f"{original.name[:44]:44} {figures}", flush=True)
        print(f"{f'median of {len(scan)} files':44} {'1':>8}   {median(detect):11.2f}x {median(scan):8.2f}x {median(wall):13.2f}x")
        job = [sys.executable, "-m", "jobs.cli", "curate", *map(str, paths), "--out", str(scratch / "all"), "--shard-size", "1"]
        whole = measure(job)
        print(f"one job over all of them, start-up included: {whole.cpu_s / bare.cpu_s:.2f}x the CPU of ffmpeg on one after the other,")
        print(f"{whole.wall_s / bare.wall_s:.2f}x its wall time ({whole.wall_s:.1f} s to {bare.wall_s:.1f} s)")


def compare(commands: dict[str, Callable[[Path], list[str]]], path: Path, repeat: int, start: dict[str, Cost]) -> dict[str, Cost]:
    """Least cost of each tool on a file, start-up taken off; the tools take turns."""
    rounds: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            rounds[name].append(measure(command(path)))
    return {
        name: Cost(
            min(cost.cpu_s for cost in costs) - start[name].cpu_s,
            min(cost.wall_s for cost in costs) - start[name].wall_s,
            max(cost.peak_mb for cost in costs),
        )
        for name, costs in rounds.items()
    }


if __name__ == "__main__":
    main()
