"""Scenes as video files and a list for `reelmill curate`."""

import csv
from collections.abc import Iterable
from pathlib import Path

from tests.moving_shapes.world import Scene, render
from tests.video import write_video

COLUMNS = ("uri", "caption", "shape", "color", "direction", "speed", "camera", "aspect")


def write_scenes(scenes: Iterable[Scene], folder: Path, list_file: Path) -> None:
    """Write each scene as an H.264 file below `folder`, and a CSV of them all with their captions and tags."""
    folder.mkdir(parents=True, exist_ok=True)
    with list_file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for index, scene in enumerate(scenes):
            uri = write_video(folder / f"{index:05d}.mp4", render(scene), fps=scene.fps, options={"crf": "14", "preset": "veryfast"})
            width, height = scene.size
            aspect = "square" if width == height else "wide" if width > height else "tall"
            writer.writerow([uri.resolve(), scene.caption, scene.shape, scene.color, scene.direction, scene.speed, scene.camera, aspect])
