"""Brush trajectories as a control: the paths of a few points through a clip, drawn by a user or found in its frames.

DragNUWA (Yin et al. 2023) and MotionCtrl (Wang et al. 2024) sample paths that move rather than ones that rest, so that a
stroke on a thing says where the thing goes. Both blur them by a Gaussian; here a point is spread over the four cells around
it by bilinear weights, which keep where it is within its cell. A clip of 48 pixels has but 6 cells a side.
"""

from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from training.controls.grid import Grid
from training.controls.points import WINDOW, Planes, common_motion, corners, follow, planes_of

CHANNELS = 3  # cells to the right and down, and presence
CELLS_SCALE = 4.0  # a displacement of so many cells is 0.5 on the map
_FLOOR = 0.02  # shares of the shorter side that every point seems to move apart, so that those that rest are chosen sometimes
_WINDOWS = (WINDOW, 2 * WINDOW - 1, 4 * WINDOW - 3)  # the larger ones for flat things, whose outline is straight in the smaller
_LEAST_SEEN = 0.25  # of the frames: less is no path, and noise may be followed for a frame or two


@dataclass(frozen=True, eq=False)
class Tracks:
    """The paths of N points: `positions` float32 [N, T, 2], x and y in pixels with (0, 0) in the middle of the first, and
    `visible` bool [N, T]: positions where it is not are of no meaning."""

    positions: np.ndarray
    visible: np.ndarray


def extract_tracks(pixels: np.ndarray, seed: int, count: int) -> Tracks | None:
    """Up to `count` paths that begin in the first frame of a clip uint8 [T, H, W, 3] RGB; None where nothing can be followed.

    Drawn by `seed`, in proportion to how far each point goes apart from the camera and for how much of the clip it is seen.
    """
    planes = planes_of(pixels)
    parts = [_follow_all(planes, window) for window in _WINDOWS]
    found = Tracks(np.concatenate([part.positions for part in parts]), np.concatenate([part.visible for part in parts]))
    seen = found.visible.mean(axis=1)
    chances = (_apart(found, planes.planes[0].shape) ** 2 + _FLOOR**2) * seen**2
    draws = np.log(np.random.default_rng(seed).random(len(chances))) / chances
    order = np.argsort(-draws, kind="stable")  # drawn without replacement: Efraimidis & Spirakis (2006)
    chosen = order[seen[order] >= _LEAST_SEEN][:count]
    if not len(chosen):
        return None
    return Tracks(planes.to_clip(found.positions[chosen]).astype(np.float32), found.visible[chosen])


def _follow_all(planes: Planes, window: int) -> Tracks:
    """All corners of the first plane, in pixels of the planes. Lost once is lost for good."""
    points = corners(planes.planes[0], planes.textured, window)
    positions, visible = [points], [np.ones(len(points), bool)]
    for before, after in zip(planes.planes, planes.planes[1:], strict=False):
        there, found = follow(before, after, positions[-1], window)
        positions.append(there)
        visible.append(found & visible[-1])
    return Tracks(np.stack(positions, axis=1), np.stack(visible, axis=1))


def _apart(tracks: Tracks, size: tuple[int, ...]) -> np.ndarray:
    """How far each point goes apart from the camera while it is seen, float64 [N], in shares of the shorter side.

    Frames into which the camera cannot be told are passed over; where it never can, it is taken to stand still.
    """
    middle, told = (np.array([size[1], size[0]]) - 1) / 2, False
    apart, moved = (np.zeros((len(tracks.positions), 2)) for _ in range(2))
    for number in range(1, tracks.positions.shape[1]):
        seen = tracks.visible[:, number]
        before, here = tracks.positions[seen, number - 1], tracks.positions[seen, number]
        moved[seen] += here - before
        motion = common_motion(before, here, size)
        if motion is not None:
            told = True
            apart[seen] += here - motion.at(before, middle)
    return np.linalg.norm(apart if told else moved, axis=1) / min(size)


def parse_track(text: str, frames: int, width: int, height: int) -> Tracks:
    """One path as a user writes it, "x,y;x,y;...", in shares of width and height from 0 to 1 and evenly spread over time.

    Between the points it goes in straight lines; one point alone is to stay where it is. Raises ValueError.
    """
    points = np.array([_point(part, text) for part in text.split(";")])
    times, wanted = np.linspace(0, 1, len(points)), np.linspace(0, 1, frames)
    shares = np.stack([np.interp(wanted, times, points[:, axis]) for axis in (0, 1)], axis=1)
    return Tracks((shares * (width, height) - 0.5).astype(np.float32)[None], np.ones((1, frames), bool))


def _point(part: str, text: str) -> tuple[float, float]:
    numbers = part.split(",")
    try:
        x, y = map(float, numbers)
    except ValueError:
        raise ValueError(f"{text!r} is not a track at {part!r}; write it as 'x,y;x,y;...', such as '0.2,0.5;0.8,0.5'") from None
    if not (isfinite(x) and isfinite(y) and 0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"a track goes outside of the picture at {part!r}; give shares of its width and height, from 0 to 1")
    return x, y


def tracks_map(tracks: Tracks, grid: Grid, height: int, width: int) -> Tensor:
    """The map float32 [3, T', H', W']: at each point its way over the frames of that latent frame, and its presence.

    A point lies at the mean of its positions in these frames. Its way d, from the last frame of the latent frame before to the
    last of this one in cells, is d / (|d| + 4): small ways are told finely and no way is out of range; at the first latent
    frame it is 0. Where points meet, ways are their weighted mean and presence is at most 1. Points outside of the picture
    or not visible throughout are left out. Raises ValueError.
    """
    rows, columns = grid.cells(height, width)
    groups = grid.groups(tracks.positions.shape[1])
    values = np.zeros((CHANNELS, len(groups), rows, columns))
    for latent, group in enumerate(groups):
        frames = range(max(group.start - 1, 0), group.stop)
        at = (tracks.positions[:, group].mean(axis=1) + 0.5) / grid.space_factor
        inside = ((at >= 0) & (at <= (columns, rows))).all(axis=1) & tracks.visible[:, frames].all(axis=1)
        way = (tracks.positions[:, frames[-1]] - tracks.positions[:, frames[0]]) / grid.space_factor
        way = way / (np.linalg.norm(way, axis=1, keepdims=True) + CELLS_SCALE)
        _splat(values[:, latent], at[inside], way[inside])
    presence = values[2:]
    values[:2] /= np.where(presence > 1e-6, presence, 1)
    return torch.from_numpy(np.concatenate([values[:2] * np.minimum(presence, 1), np.minimum(presence, 1)]).astype(np.float32))


def _splat(values: np.ndarray, at: np.ndarray, way: np.ndarray) -> None:
    """Add to `values` [3, H', W'] points at `at` [N, 2], in cells from the picture's corner, with bilinear weights.

    Of a point nearer to the border than the middle of a cell all is kept, in the cells along the border.
    """
    _, rows, columns = values.shape
    place = np.clip(at - 0.5, 0, (columns - 1, rows - 1))
    corner = np.floor(place).astype(int)
    share = place - corner
    for right in (0, 1):
        for down in (0, 1):
            weight = (share[:, 0] if right else 1 - share[:, 0]) * (share[:, 1] if down else 1 - share[:, 1])
            column, row = np.minimum(corner[:, 0] + right, columns - 1), np.minimum(corner[:, 1] + down, rows - 1)
            for channel, value in enumerate((way[:, 0], way[:, 1], np.ones(len(at)))):
                np.add.at(values[channel], (row, column), weight * value)
