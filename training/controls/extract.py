"""The controls there are, and one entry that measures any of them on a clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from training.controls import camera, keypoints, tracks
from training.controls.camera import camera_map, estimate_camera
from training.controls.depth import DepthModel, depth_map
from training.controls.edges import edges
from training.controls.grid import Grid
from training.controls.keypoints import KeypointModel, keypoint_map
from training.controls.tracks import extract_tracks, tracks_map
from training.settings import TrainError, nearest

MOST_TRACKS = 8  # of a clip; how many is drawn from 1 on, so that a user's single stroke is as usual as many


@dataclass(frozen=True)
class Control:
    """What a map is made of: `pictures` of so many channels, folded, or so many numbers for each latent position."""

    pictures: int = 0
    numbers: int = 0
    needs_folder: bool = False


CONTROLS: Mapping[str, Control] = {
    "edges": Control(pictures=1),
    "camera": Control(numbers=camera.CHANNELS),
    "tracks": Control(numbers=tracks.CHANNELS),
    "depth": Control(pictures=1, needs_folder=True),
    "keypoints": Control(pictures=keypoints.PICTURE_CHANNELS, needs_folder=True),
}


def control_channels(name: str, grid: Grid) -> int:
    """How many channels the map of a control has. Raises TrainError for one there is not."""
    if name not in CONTROLS:
        raise TrainError(f"there is no control {name!r}; {nearest(name, CONTROLS)}")
    return CONTROLS[name].pictures * grid.cell + CONTROLS[name].numbers


@dataclass(frozen=True)
class Extractor:
    """Measures the controls `names` on clips; `folders` holds where the models of depth and keypoints are, by name.

    It may go to another process: models are opened once in each, when first needed.
    """

    names: tuple[str, ...]
    grid: Grid
    folders: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises TrainError for a control there is not, one without its folder, or a folder that holds no such model."""
        for name in self.names:
            control_channels(name, self.grid)
            if CONTROLS[name].needs_folder:
                if name not in self.folders:
                    raise TrainError(f"controls.{name} needs a model; give the folder of one")
                _OPEN[name](self.folders[name])

    @property
    def digests(self) -> dict[str, str]:
        """What the models are, by the names of the controls that have one: for the facts of a run. Raises TrainError."""
        return {name: _OPEN[name](self.folders[name]).digest for name in self.names if CONTROLS[name].needs_folder}

    def __call__(self, pixels: np.ndarray | Tensor, fps: float, seed: int) -> dict[str, Tensor | None]:
        """The maps of a clip uint8 [T, H, W, 3] RGB, by name, each [C, T', H', W']: see training.controls.grid.

        None where it could not be measured, such as the camera before plain ground. `seed` chooses tracks. Raises TrainError where
        a model cannot be loaded, ValueError where the clip does not fit the grid.
        """
        frames = np.asarray(pixels)
        self.grid.latent_frames(len(frames))
        self.grid.cells(*frames.shape[1:3])
        return {name: self._measure(name, frames, fps, seed) for name in self.names}

    def _measure(self, name: str, frames: np.ndarray, fps: float, seed: int) -> Tensor | None:
        height, width = frames.shape[1:3]
        match name:
            case "edges":
                return edges(frames, self.grid)
            case "camera":
                moves = estimate_camera(frames, fps)
                return moves and camera_map(moves, self.grid, height, width)
            case "tracks":
                count = int(np.random.default_rng((seed, 0)).integers(1, MOST_TRACKS, endpoint=True))
                paths = extract_tracks(frames, seed, count)
                return paths and tracks_map(paths, self.grid, height, width)
            case "depth":
                return depth_map(frames, self.grid, _open_depth(self.folders[name]))
            case _:
                return keypoint_map(frames, self.grid, _open_keypoints(self.folders[name]))


@lru_cache(maxsize=2)
def _open_depth(folder: Path) -> DepthModel:
    return DepthModel(folder)


@lru_cache(maxsize=2)
def _open_keypoints(folder: Path) -> KeypointModel:
    return KeypointModel(folder)


_OPEN: Mapping[str, Callable[[Path], DepthModel | KeypointModel]] = {"depth": _open_depth, "keypoints": _open_keypoints}
