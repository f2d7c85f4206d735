"""Camera motion as a control: pan, tilt, zoom and roll from one frame to the next.

Signs are those of the tags of motion, directions the camera's: pan right, tilt up, zoom in and roll clockwise are positive, so that
the contents move left, down, apart and counterclockwise. Pan and tilt are in picture widths a second, zoom is the logarithm of
scale and roll in radians, both a second: the same move has the same numbers at any size and frame rate.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.controls.grid import Grid
from training.controls.points import common_motion, corners, follow, planes_of

CHANNELS = 5  # pan, tilt, zoom, roll, and whether they are known
# The speeds that are 0.76 on the map, tanh(1): a picture of pan half its width a second. Ten times faster is hardly told from twice.
PAN_SCALE = 0.5
ZOOM_SCALE = 0.5
ROLL_SCALE = 0.5


@dataclass(frozen=True, eq=False)
class Camera:
    """Motion between each frame and the next, each array float32 [T - 1], nan in all four where it cannot be told."""

    pan: np.ndarray
    tilt: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray

    def speeds(self) -> np.ndarray:
        """All four, float32 [4, T - 1]."""
        return np.stack([self.pan, self.tilt, self.zoom, self.roll])


def camera_from(pan: float, tilt: float, zoom: float, roll: float, frames: int) -> Camera:
    """A camera that moves evenly through a clip of `frames` frames, as a user asks for it."""
    return Camera(*(np.full(frames - 1, speed, np.float32) for speed in (pan, tilt, zoom, roll)))


def estimate_camera(pixels: np.ndarray, fps: float) -> Camera | None:
    """The camera of a clip uint8 [T, H, W, 3] RGB at `fps` frames a second; None where no transition tells it, as on plain ground.

    It is the motion that most of the picture makes, so that a thing in front which moves otherwise does not count; one
    that fills most of the picture is taken for the ground. Where too little moves alike the transition stays unknown.
    """
    planes = planes_of(pixels)
    speeds = np.full((4, len(pixels) - 1), np.nan, np.float32)
    for number, (before, after) in enumerate(zip(planes.planes, planes.planes[1:], strict=False)):
        points = corners(before, planes.textured)
        there, found = follow(before, after, points)
        motion = common_motion(points[found], there[found], before.shape)
        if motion is not None:
            width = before.shape[1]
            speeds[:, number] = -motion.shift_x / width, motion.shift_y / width, np.log(motion.scale), -motion.angle
    return None if np.isnan(speeds).all() else Camera(*(speeds * np.float32(fps)))


def camera_map(camera: Camera, grid: Grid, height: int, width: int) -> Tensor:
    """The map float32 [5, T', H', W'] of a camera: mean speeds over the frames of each latent frame as tanh(speed / scale), and 1.

    Where none of its transitions is known all five are 0, and at the first latent frame, into which there is none. Raises ValueError.
    """
    speeds = camera.speeds()
    values = np.zeros((CHANNELS, grid.latent_frames(speeds.shape[1] + 1)), np.float32)
    scales = np.array([PAN_SCALE, PAN_SCALE, ZOOM_SCALE, ROLL_SCALE])
    for latent, group in list(enumerate(grid.groups(speeds.shape[1] + 1)))[1:]:
        into = speeds[:, group.start - 1 : group.stop - 1]  # transition i leads into frame i + 1
        known = into[:, ~np.isnan(into).any(axis=0)]
        if known.size:
            values[:, latent] = *np.tanh(known.mean(axis=1) / scales), 1
    return torch.from_numpy(values)[:, :, None, None].expand(-1, -1, *grid.cells(height, width)).contiguous()
