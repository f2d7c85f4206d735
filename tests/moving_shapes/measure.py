"""What frames show, by the frames alone: how many shapes, of what color and form, on what path; and how the ground moves.

A shape is what is colored; the ground is what is gray. All is measured on the torus. Lengths are in pixels of the frames.
"""

import colorsys
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from tests.moving_shapes.world import COLORS, DIRECTIONS, RADIUS_PX, SHAPES, SIZES, distance, wrapped

_COLORED = 60  # the least difference of the largest and the smallest of red, green and blue that is a color
_LEAST_SHARE = 0.012  # of the picture that is counted as a shape: a quarter of the smallest shape
_LEAST_TEXTURE = 2.0  # deviation of gray levels below which a ground is plain
_STILL_SHARE = 0.04  # of the picture's shorter side, a second: slower is no movement


@dataclass(frozen=True, eq=False)
class Seen:
    """What T frames show.

    `counts` int [T]: shapes; `path` float [T, 2]: the middle of what is colored, unwrapped from its first place on, nan where nothing is;
    `rgb` float [T, 3]: its color, nan likewise; `color`, `shape` are the commonest over frames, None where nothing is.
    `velocity` [2] is the slope of the path, `ground_velocity` [2] that of the ground, nan where it is plain, both in pixels a second.
    """

    counts: np.ndarray
    path: np.ndarray
    rgb: np.ndarray
    color: str | None
    shape: str | None
    velocity: np.ndarray
    ground_velocity: np.ndarray
    fps: float
    size: tuple[int, int]

    @property
    def is_one(self) -> bool:
        """Whether every frame shows exactly one shape."""
        return bool((self.counts == 1).all())

    @property
    def speed_px_s(self) -> float:
        return float(np.hypot(*self.velocity))

    @property
    def direction(self) -> str | None:
        """The nearest of the four, None where nothing moves."""
        return direction_of(self.velocity, self.size)

    @property
    def camera(self) -> str | None:
        """Where the camera pans to: the ground moves the other way. None where the ground is plain."""
        return None if np.isnan(self.ground_velocity).any() else direction_of(-self.ground_velocity, self.size) or "static"

    def off_straight_px(self) -> float:
        """Root mean square distance of the path from a straight one at constant speed."""
        times = np.arange(len(self.path)) / self.fps
        straight = self.velocity * times[:, None]
        return float(np.sqrt(np.nanmean(np.sum((self.path - straight - np.nanmean(self.path - straight, axis=0)) ** 2, axis=1))))

    def off_path_px(self, expected: np.ndarray) -> np.ndarray:
        """Distance [T] from expected places [T, 2], the shortest way round."""
        offset = np.stack([wrapped((self.path - expected)[:, axis], self.size[axis]) for axis in (0, 1)])
        return np.hypot(*offset)

    def color_drift(self) -> np.ndarray:
        """Distance [T] of each frame's color from the first's, in levels of 255."""
        return np.linalg.norm(self.rgb - self.rgb[0], axis=1)


def look(frames: np.ndarray, fps: float) -> Seen:
    """Measure frames uint8 [T, H, W, 3] RGB."""
    values = frames.astype(np.float32)
    chroma = values.max(axis=-1) - values.min(axis=-1)
    colored = chroma > _COLORED
    height, width = colored.shape[1:]
    counts = np.array([len(areas(mask)) for mask in colored])
    weights = np.where(colored, chroma, 0)
    path, rgb = unwrapped(middles(weights), (width, height)), mean_colors(values, weights)
    velocity = slope(path, fps)
    ground = ground_velocity(values.mean(axis=-1), colored, fps)
    return Seen(counts, path, rgb, commonest(map(color_of, rgb)), shape_of(colored, path), velocity, ground, fps, (width, height))


def direction_of(velocity: np.ndarray, size: tuple[int, int]) -> str | None:
    """The direction nearest to a velocity in pixels a second; None where it is next to nothing."""
    if not np.hypot(*velocity) > _STILL_SHARE * min(size):
        return None
    return max(DIRECTIONS, key=lambda name: float(np.dot(DIRECTIONS[name], velocity)))


def areas(mask: np.ndarray) -> list[int]:
    """Sizes in pixels of the connected parts of bool [H, W] on the torus, without specks."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    parent = list(range(count))

    def root(label: int) -> int:
        while parent[label] != label:
            label = parent[label]
        return label

    for first, last in ((labels[0], labels[-1]), (labels[:, 0], labels[:, -1])):
        for shift in (-1, 0, 1):
            for a, b in zip(first, np.roll(last, shift), strict=True):
                if a and b:
                    parent[root(a)] = root(b)
    sizes = Counter(root(label) for label in labels[labels > 0].tolist())
    return [size for size in sizes.values() if size >= _LEAST_SHARE * mask.size]


def middles(weights: np.ndarray) -> np.ndarray:
    """Circular means [T, 2] (x, y) of weights [T, H, W], in pixels; nan where all are 0."""
    total = weights.sum(axis=(1, 2))
    found = []
    for axis, other in ((2, 1), (1, 2)):
        size = weights.shape[axis]
        angles = 2 * math.pi * (np.arange(size) + 0.5) / size
        along = weights.sum(axis=other)
        found.append(np.angle(along @ np.exp(1j * angles)) / (2 * math.pi) * size % size)
    return np.where(total[:, None] > 0, np.stack(found, axis=1), np.nan)


def unwrapped(path: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Places [T, 2] on the torus as a path that does not jump: each step is the shortest there is. Gaps stay nan."""
    out, known = path.copy(), np.flatnonzero(~np.isnan(path).any(axis=1))
    for before, now in zip(known[:-1], known[1:], strict=True):
        out[now] = out[before] + [wrapped(path[now, axis] - path[before, axis], size[axis]) for axis in (0, 1)]
    return out


def slope(path: np.ndarray, fps: float) -> np.ndarray:
    """Pixels a second [2], by least squares over the frames that have a place; nan where fewer than two have."""
    known = ~np.isnan(path).any(axis=1)
    if known.sum() < 2:
        return np.full(2, np.nan)
    return np.polyfit(np.flatnonzero(known) / fps, path[known], 1)[0]


def mean_colors(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The color [T, 3] of what is colored, the most colored pixels counting most; nan where nothing is."""
    weights = weights**2
    total = weights.sum(axis=(1, 2))[:, None]
    return np.where(total > 0, np.einsum("thw,thwc->tc", weights, values) / np.maximum(total, 1e-9), np.nan)


def color_of(rgb: np.ndarray) -> str | None:
    """The palette's color of the nearest hue; None for nan."""
    if np.isnan(rgb).any():
        return None
    return min(COLORS, key=lambda name: abs(wrapped(_hue(rgb) - _hue(np.array(COLORS[name])), 1.0)))


def _hue(rgb: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*(rgb / 255).tolist())[0]


def commonest(names: object) -> str | None:
    """The name found most often, None left aside."""
    found = Counter(name for name in names if name is not None).most_common(1)
    return found[0][0] if found else None


def shape_of(colored: np.ndarray, path: np.ndarray) -> str | None:
    """The shape which, drawn where the frames have one, covers most of what is colored and least of what is not (IoU)."""
    height, width = colored.shape[1:]
    scale = math.sqrt(width * height / math.prod(SIZES[0])) if width == height else min(width, height) / min(SIZES[1])
    known = np.flatnonzero(~np.isnan(path).any(axis=1))
    if not len(known):
        return None
    scores = {}
    for name in SHAPES:
        middle_x, middle_y = _own_middle(name)
        overlaps = []
        for frame in known:
            dx = wrapped(np.arange(width) + 0.5 - path[frame, 0], width)[None, :] / scale + middle_x
            dy = wrapped(np.arange(height) + 0.5 - path[frame, 1], height)[:, None] / scale + middle_y
            drawn = distance(name, dx, dy) < 0
            overlaps.append((drawn & colored[frame]).sum() / max((drawn | colored[frame]).sum(), 1))
        scores[name] = float(np.mean(overlaps))
    return max(scores, key=lambda name: scores[name])


@lru_cache
def _own_middle(shape: str) -> tuple[float, float]:
    """The mean of a shape's own area, which need not be its origin."""
    axis = np.arange(-2 * RADIUS_PX, 2 * RADIUS_PX + 1)
    inside = distance(shape, axis[None, :], axis[:, None]) < 0
    return float((inside.sum(axis=0) * axis).sum() / inside.sum()), float((inside.sum(axis=1) * axis).sum() / inside.sum())


def ground_velocity(gray: np.ndarray, colored: np.ndarray, fps: float) -> np.ndarray:
    """Pixels a second [2] by which the gray part of [T, H, W] moves; nan where it has no texture.

    The step from each frame to one a quarter of a second later is the shift of greatest correlation where both are gray (masked
    correlation: Padfield 2012), to a part of a pixel by a parabola; of all steps the median.
    """
    kernel = np.ones((5, 5), np.uint8)
    free = np.stack([_grown(mask, kernel) for mask in colored]) == 0
    if np.median([frame[here].std() if here.any() else 0 for frame, here in zip(gray, free, strict=True)]) < _LEAST_TEXTURE:
        return np.full(2, np.nan)
    lag = max(1, min(round(fps / 4), len(gray) - 1))
    steps = [_shift(gray[i], gray[i + lag], free[i], free[i + lag]) for i in range(len(gray) - lag)]
    return fps / lag * np.median(steps, axis=0) if steps else np.full(2, np.nan)


def _grown(mask: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    margin = len(kernel)
    wide = cv2.dilate(np.pad(mask.astype(np.uint8), margin, mode="wrap"), kernel)
    return wide[margin:-margin, margin:-margin]


def _shift(before: np.ndarray, after: np.ndarray, free_before: np.ndarray, free_after: np.ndarray) -> np.ndarray:
    """The (x, y) by which `before` [H, W] has to be moved to look like `after`, where both are free."""
    f, g = (np.where(free, image - image[free].mean(), 0) for image, free in ((before, free_before), (after, free_after)))
    both = _correlate(f, g)
    energy = np.sqrt(np.maximum(_correlate(f**2, free_after) * _correlate(free_before, g**2), 1e-6))
    overlap = _correlate(free_before, free_after)
    likeness = np.where(overlap > 0.3 * f.size, both / energy, -1)
    y, x = np.unravel_index(int(likeness.argmax()), likeness.shape)
    height, width = likeness.shape
    part_x = _peak(*(likeness[y, (x + step) % width] for step in (-1, 0, 1)))
    part_y = _peak(*(likeness[(y + step) % height, x] for step in (-1, 0, 1)))
    return np.array([wrapped(x + part_x, width), wrapped(y + part_y, height)])


def _correlate(f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Sum over places p of f(p) g(p + shift), for each shift [H, W] on the torus."""
    return np.fft.ifft2(np.conj(np.fft.fft2(f)) * np.fft.fft2(g)).real


def _peak(left: float, middle: float, right: float) -> float:
    """Where a parabola through three values at -1, 0, 1 is highest."""
    bend = left - 2 * middle + right
    return 0.0 if bend >= 0 else 0.5 * (left - right) / bend
