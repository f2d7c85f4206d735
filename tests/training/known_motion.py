"""Clips whose motion is known: a camera that moves over a large picture, and a flat shape that moves over ground."""

import cv2
import numpy as np

from tests.video import texture

_FINE = 8  # shapes are drawn so many times larger, so that they move by parts of a pixel


def scene(seed: int = 0) -> np.ndarray:
    """A colored texture uint8 [H, W, 3], several times larger than what a clip shows of it."""
    return np.stack([texture(800, 1100, seed + channel) for channel in range(3)], axis=-1)


def filmed(
    picture: np.ndarray,
    width: int,
    height: int,
    frames: int,
    fps: float,
    pan: float = 0.0,
    tilt: float = 0.0,
    zoom: float = 0.0,
    roll: float = 0.0,
    noise: float = 0.0,
) -> np.ndarray:
    """A clip uint8 [T, H, W, 3] of a camera over a picture, at speeds as those of training.controls.camera, in the middle halfway."""
    fine = 400 / width  # what is seen is 400 pixels wide
    size, out = (400, round(height * fine)), []
    for number in range(frames):
        time_s = (number - (frames - 1) / 2) / fps
        x, y = picture.shape[1] / 2 + pan * time_s * 400, picture.shape[0] / 2 - tilt * time_s * 400
        turn = cv2.getRotationMatrix2D((x, y), np.degrees(roll * time_s), np.exp(zoom * time_s))  # counterclockwise
        turn[:, 2] += (size[0] - 1) / 2 - x, (size[1] - 1) / 2 - y
        seen = cv2.resize(cv2.warpAffine(picture, turn, size), (width, height), interpolation=cv2.INTER_AREA)
        grain = np.random.default_rng(number).normal(0, noise, seen.shape)
        out.append((seen + grain).round().clip(0, 255).astype(np.uint8))
    return np.stack(out)


def with_shape(
    ground: np.ndarray, shape: str, side: float, step_x: float, step_y: float = 0.0, color: tuple[int, int, int] = (230, 40, 40)
) -> np.ndarray:
    """Put a flat shape of `side` pixels before each frame of uint8 [T, H, W, 3], in the middle halfway, that goes so far a frame."""
    frames, height, width = ground.shape[:3]
    out = []
    for frame, (x, y) in zip(ground, centers(frames, width, height, step_x, step_y), strict=True):
        fine = cv2.resize(frame, None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_CUBIC)
        half, (x, y) = side * _FINE / 2, ((x + 0.5) * _FINE, (y + 0.5) * _FINE)
        corners = {
            "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
            "triangle": [(0, -1), (1, 1), (-1, 1)],
            "circle": [(np.cos(turn), np.sin(turn)) for turn in np.linspace(0, 2 * np.pi, 60)],
        }[shape]
        cv2.fillPoly(fine, [np.array([(x + half * dx, y + half * dy) for dx, dy in corners]).round().astype(np.int32)], color)
        out.append(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(out)


def centers(frames: int, width: int, height: int, step_x: float, step_y: float = 0.0) -> np.ndarray:
    """Where that shape's middle is, float64 [T, 2] in pixels with (0, 0) in the middle of the first."""
    away = np.arange(frames)[:, None] - (frames - 1) / 2
    return (np.array([width, height]) - 1) / 2 + away * (step_x, step_y)


def plain(frames: int, width: int, height: int, color: tuple[int, int, int] = (20, 120, 20)) -> np.ndarray:
    """Ground on which nothing is, uint8 [T, H, W, 3]."""
    return np.full((frames, height, width, 3), color, np.uint8)
