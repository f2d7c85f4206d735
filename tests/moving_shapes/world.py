"""The world: one colored shape moves over a gray ground, on a torus, so that it moves for ever and always the same way.

Positions and speeds are in pixels of the picture as it is rendered; x grows to the right, y downward.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

SHAPES = ("square", "circle", "triangle", "cross")
COLORS = {  # hues at least 45 degrees apart
    "red": (215, 35, 35),
    "yellow": (215, 200, 30),
    "green": (35, 175, 55),
    "cyan": (30, 190, 205),
    "blue": (45, 65, 220),
    "magenta": (205, 45, 200),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CAMERAS = {"static": (0, 0), **DIRECTIONS}  # where the camera pans to; everything in the picture moves the other way
SIZES = ((80, 80), (96, 64), (64, 96))  # width, height; a half of each is whole tokens of 8 pixels, 24 or 25 of them
SPEEDS_PX_S = {"slow": 13.0, "fast": 26.0}
PAN_PX_S = 9.0  # less than any shape's, so that no pan turns a shape's direction round
RADIUS_PX = 12.0
DURATION_S = 4.0
WINDOW_FRAMES = 10  # of a clip which shows the shape within the picture from beginning to end
_MOST_WAVES = 2  # of the ground's texture across the picture


@dataclass(frozen=True)
class Scene:
    """Everything that decides a clip. `start` is where the shape is at time 0; `ground_seed` None is a plain ground."""

    shape: str
    color: str
    direction: str
    speed: str
    camera: str = "static"
    size: tuple[int, int] = SIZES[0]
    fps: int = 8
    start: tuple[float, float] = (0.0, 0.0)
    ground: float = 128.0
    ground_seed: int | None = None
    seconds: float = DURATION_S

    @property
    def caption(self) -> str:
        """What text says of it: all but the camera, which has a control of its own."""
        return f"a {self.color} {self.shape} moves {self.direction} {'slowly' if self.speed == 'slow' else 'fast'}"

    @property
    def ground_velocity(self) -> tuple[float, float]:
        """Of the ground in the picture, in pixels a second."""
        x, y = CAMERAS[self.camera]
        return -PAN_PX_S * x, -PAN_PX_S * y

    @property
    def velocity(self) -> tuple[float, float]:
        """Of the shape in the picture, in pixels a second: its own, and what the camera does."""
        (x, y), (ground_x, ground_y), speed = DIRECTIONS[self.direction], self.ground_velocity, SPEEDS_PX_S[self.speed]
        return speed * x + ground_x, speed * y + ground_y


def is_held_out(shape: str, color: str, direction: str) -> bool:
    """One of eight combinations, never trained on; any two of the three do occur together in training.

    With one of four, each shape in its color lacks one direction, and a model may learn to tell these from the others instead of reading.
    """
    return (2 * SHAPES.index(shape) + 3 * list(COLORS).index(color) + 5 * list(DIRECTIONS).index(direction)) % 8 == 0


def combinations(held_out: bool) -> list[tuple[str, str, str]]:
    """(shape, color, direction) of training, or those held out."""
    return [each for each in product(SHAPES, COLORS, DIRECTIONS) if is_held_out(*each) == held_out]


def inside(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """The scene as a short clip in which the shape stays within the picture; None where its way is too long for that.

    Such clips tell a direction by where shapes are: what moves right begins left. On the torus alone the mean of all clips of a caption
    is the same for left and right, and a model learns their difference last.
    """
    seconds = WINDOW_FRAMES / scene.fps
    way = np.array(scene.velocity) * seconds
    low = RADIUS_PX - np.minimum(way, 0)
    high = np.array(scene.size) - RADIUS_PX - np.maximum(way, 0)
    if (low > high).any():
        return None
    x, y = rng.uniform(low, high).tolist()
    return replace(scene, start=(x, y), seconds=seconds)


def training_scenes(count: int, seed: int = 0) -> Iterator[Scene]:
    """Scenes of all combinations of training, in turn, and otherwise at random: two of three at 8 frames a second, with a static camera.

    Three of four stay within the picture, where their way is short enough; the others go on over its edges.
    """
    rng, known = np.random.default_rng(seed), combinations(held_out=False)
    order = [known[index] for _ in range(-(-count // len(known))) for index in rng.permutation(len(known))]
    for shape, color, direction in order[:count]:
        camera = str(rng.choice(["static"] * 8 + list(DIRECTIONS)))
        plain = camera == "static" and rng.random() < 0.7
        size = SIZES[rng.integers(len(SIZES))]
        scene = Scene(
            shape,
            color,
            direction,
            speed=str(rng.choice(list(SPEEDS_PX_S))),
            camera=camera,
            size=size,
            fps=int(rng.choice([8, 8, 8, 8, 4, 16])),
            start=(float(rng.uniform(0, size[0])), float(rng.uniform(0, size[1]))),
            ground=float(rng.uniform(118, 138)),
            ground_seed=None if plain else int(rng.integers(2**31)),
        )
        yield (inside(scene, rng) if rng.random() < 0.75 else None) or scene


def render(scene: Scene, num_frames: int | None = None, scale: float = 1.0) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] RGB, by default of all its seconds; `scale` is of the picture, drawn anew at that size."""
    times = np.arange(round(scene.seconds * scene.fps) if num_frames is None else num_frames) / scene.fps
    width, height = (round(side * scale) for side in scene.size)
    xs, ys = (np.arange(width) + 0.5) / scale, (np.arange(height) + 0.5) / scale
    gray = scene.ground + texture_at(scene, xs, ys, times)
    x, y = path(scene, times).T
    dx = wrapped(xs[None, None, :] - x[:, None, None], scene.size[0])
    dy = wrapped(ys[None, :, None] - y[:, None, None], scene.size[1])
    cover = np.clip(0.5 - scale * distance(scene.shape, dx, dy), 0, 1)[..., None]
    frames = (1 - cover) * gray[..., None] + cover * np.array(COLORS[scene.color], float)
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)


def path(scene: Scene, times: np.ndarray) -> np.ndarray:
    """Centers of the shape in the picture [T, 2] at times [T] in seconds, within the picture."""
    return (np.array(scene.start) + times[:, None] * np.array(scene.velocity)) % np.array(scene.size)


def texture_at(scene: Scene, xs: np.ndarray, ys: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Gray levels around 0, [T, H, W]: a few soft waves that close around the torus, moving with the ground."""
    total = np.zeros((len(times), len(ys), len(xs)))
    if scene.ground_seed is None:
        return total
    rng, (width, height), velocity = np.random.default_rng(scene.ground_seed), scene.size, scene.ground_velocity
    more = rng.integers(-_MOST_WAVES, _MOST_WAVES + 1, (2, 2)).tolist()
    for waves_x, waves_y in [(1, 0), (0, 1), *more]:  # with the first two no shift of the picture looks like another
        along_x = waves_x / width * (xs[None, None, :] - velocity[0] * times[:, None, None])
        along_y = waves_y / height * (ys[None, :, None] - velocity[1] * times[:, None, None])
        total += 7 * np.sin(2 * math.pi * (along_x + along_y + rng.random()))
    return total


def wrapped(offset: np.ndarray, period: float) -> np.ndarray:
    """The shortest way round: offsets to [-period / 2, period / 2)."""
    return (offset + period / 2) % period - period / 2


def distance(shape: str, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """About how many pixels outside (inside: negative) of a shape around the origin the offsets are, of equal shapes."""
    r = RADIUS_PX
    match shape:
        case "circle":
            return np.hypot(dx, dy) - 0.95 * r
        case "square":
            return np.maximum(abs(dx), abs(dy)) - 0.85 * r
        case "triangle":  # its middle is where its corners have their mean
            return np.maximum(dy - 0.6 * r, (math.sqrt(3) * abs(dx) - dy) / 2 - 0.6 * r)
        case "cross":
            bars = np.maximum(abs(dx) - r, abs(dy) - 0.36 * r), np.maximum(abs(dx) - 0.36 * r, abs(dy) - r)
            return np.minimum(*bars)
    raise ValueError(f"no shape {shape!r}; known: {', '.join(SHAPES)}")
