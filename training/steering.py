"""What a sample is steered by besides text and tags, as a user gives it: maps over the latents of any stretch of it come out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import numpy as np
from torch import Tensor

from training.config import TrainConfig
from training.controls.camera import Camera, camera_from, camera_map
from training.controls.source import extractors, grid_of
from training.controls.tracks import Tracks, parse_track, tracks_map
from training.settings import TrainError, nearest
from training.videos import read_video

MOVES = ("pan", "tilt", "zoom", "roll")


@dataclass(frozen=True)
class Steering:
    """`camera` are speeds by move, `tracks` paths such as "0.2,0.5;0.8,0.5", `videos` those that controls are measured on, by name."""

    camera: Mapping[str, float] = field(default_factory=dict)
    tracks: tuple[str, ...] = ()
    videos: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """The controls that are given."""
        return {*self.videos, *(["camera"] if self.camera else []), *(["tracks"] if self.tracks else [])}


def check_steering(steering: Steering, config: TrainConfig) -> None:
    """Raises TrainError where a run does not know what it is to be steered by, or it is given twice."""
    if "last_frame" in steering.videos:
        raise TrainError("last_frame is no control that is measured on a video; give it as last_image")
    for name in sorted(steering.names):
        if name not in config.told_controls:
            raise TrainError(f"the run was not trained with {name} (conditions.{name}); {nearest(name, config.told_controls)}")
    for name in ("camera", "tracks"):
        if name in steering.videos and getattr(steering, name):
            raise TrainError(f"{name} is given twice: by numbers and by {steering.videos[name]}; leave one of them out")
    _joined(steering.tracks, num_frames=1, width=1, height=1)
    for move, speed in steering.camera.items():
        if move not in MOVES:
            raise TrainError(f"a camera does not {move!r}; {nearest(move, MOVES)}")
        if not isfinite(speed):
            raise TrainError(f"the speed of the camera's {move} is a number, not {speed}")


class Steered:
    """The maps of a sample of so many frames and that size, for any stretch of it. Raises TrainError."""

    def __init__(self, steering: Steering, config: TrainConfig, width: int, height: int, num_frames: int, fps: float):
        check_steering(steering, config)
        self._grid, self._fps, self._size = grid_of(config), fps, (height, width)
        self._camera = camera_from(*(steering.camera.get(move, 0.0) for move in MOVES), num_frames) if steering.camera else None
        self._tracks = _joined(steering.tracks, num_frames, width, height)
        self._videos = {name: read_video(Path(path), width, height, fps, num_frames) for name, path in steering.videos.items()}
        self._extractors = extractors(config, steering.videos)

    def maps(self, start: int, frames: int) -> dict[str, Tensor]:
        """The maps of so many frames from `start` on, by name, [C, T', H', W']. Raises TrainError where one cannot be measured."""
        stretch = slice(start, start + frames)
        made: dict[str, Tensor] = {}
        if self._camera:
            made["camera"] = camera_map(Camera(*self._camera.speeds()[:, start : start + frames - 1]), self._grid, *self._size)
        if self._tracks:
            part = Tracks(self._tracks.positions[:, stretch], self._tracks.visible[:, stretch])
            made["tracks"] = tracks_map(part, self._grid, *self._size)
        for name, video in self._videos.items():
            found = self._extractors[name](np.ascontiguousarray(video[stretch]), self._fps, 0)[name]
            if found is None:
                raise TrainError(f"no {name} can be found in the frames that are given for it")
            made[name] = found
        return made


def _joined(texts: tuple[str, ...], num_frames: int, width: int, height: int) -> Tracks | None:
    try:
        each = [parse_track(text, num_frames, width, height) for text in texts]
    except ValueError as error:
        raise TrainError(str(error)) from error
    if not each:
        return None
    return Tracks(np.concatenate([one.positions for one in each]), np.concatenate([one.visible for one in each]))
