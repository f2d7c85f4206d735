"""Camera moves made over real pictures: a view that travels, turns and magnifies inside a larger still or clip.

Directions are the camera's: one that pans right shows what is further right, so the picture's content moves left.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

VIEW = (180, 320)  # height and width in pixels
SECONDS = 2.5


@dataclass(frozen=True)
class Move:
    """What a camera does, and the name it should get. Speeds as in the motion tags: diagonals/s, 1/s, rad/s."""

    kind: str
    pan: float = 0.0  # to the right
    tilt: float = 0.0  # upward
    zoom: float = 0.0  # in
    roll: float = 0.0  # clockwise
    hand: float = 0.0  # RMS of a hand's sway, in diagonals


def _moves() -> Iterator[Move]:
    """From slow moves, twice what the eye just notices, to fast ones."""
    yield Move("static")
    for speed in (0.05, 0.1, 0.2):
        yield Move("pan_right", pan=speed)
        yield Move("pan_left", pan=-speed)
        yield Move("tilt_up", tilt=speed)
        yield Move("tilt_down", tilt=-speed)
    for speed in (0.07, 0.15, 0.3):
        yield Move("zoom_in", zoom=speed)
        yield Move("zoom_out", zoom=-speed)
    for speed in (0.12, 0.25, 0.5):
        yield Move("roll", roll=speed)
        yield Move("roll", roll=-speed)
    for sway in (0.006, 0.01, 0.016):
        yield Move("handheld", hand=sway)
    yield Move("mixed", pan=0.12, zoom=0.15)
    yield Move("mixed", pan=-0.1, tilt=0.1)
    yield Move("mixed", tilt=0.1, roll=0.25)
    yield Move("mixed", zoom=-0.2, roll=-0.3)
    yield Move("pan_right", pan=0.12, hand=0.002)
    yield Move("tilt_down", tilt=-0.12, hand=0.002)


MOVES = tuple(_moves())


def sway(num_frames: int, fps: float, seed: int) -> np.ndarray:
    """A hand's path, RMS 1, without drift: waves of 0.5 to 6 Hz, the slower the wider (velocity is spread evenly). [T, 2]"""
    rng, time_s = np.random.default_rng(seed), np.arange(num_frames) / fps
    waves = np.arange(0.5, 6.0, 0.35)
    phases = rng.uniform(0, 2 * np.pi, (2, len(waves), 1))
    path = (np.sin(2 * np.pi * waves[:, None] * time_s + phases) / waves[:, None]).sum(axis=1)
    path -= path.mean(axis=1, keepdims=True)
    return (path / np.sqrt((path**2).mean(axis=1, keepdims=True))).T


def film(frames: np.ndarray, fps: float, move: Move, seed: int = 0) -> list[np.ndarray]:
    """The move over a still (one frame) or a clip, uint8 [T, H, W, 3]: uint8 [*VIEW, 3] frames, up to SECONDS long.

    Pictures too small for the way are enlarged first. A still gets a camera's noise, so that it is not a graphic.
    """
    height, width = VIEW
    is_still = len(frames) == 1
    num_frames = round(SECONDS * fps) if is_still else min(len(frames), round(SECONDS * fps))
    time_s = np.arange(num_frames) / fps - (num_frames - 1) / fps / 2  # the middle of the way is the middle of the picture
    diagonal = np.hypot(height, width)
    centers = np.outer(time_s, (move.pan, -move.tilt)) * diagonal + move.hand * diagonal * sway(num_frames, fps, seed)
    angles = move.roll * time_s
    scales = np.exp(move.zoom * time_s + abs(move.zoom) * time_s[-1])  # never below 1
    corners = np.array([(x, y) for x in (-width / 2, width / 2) for y in (-height / 2, height / 2)])
    views = [_turn(angle) / scale for angle, scale in zip(angles, scales, strict=True)]
    reach = np.max([np.abs(center + corners @ view.T).max(axis=0) for center, view in zip(centers, views, strict=True)], axis=0) + 4
    rng = np.random.default_rng(seed)
    enlarge = max(1.0, 2 * reach[0] / frames.shape[2], 2 * reach[1] / frames.shape[1])
    out: list[np.ndarray] = []
    for i in range(num_frames):
        if not (is_still and out):
            source = frames[i] if enlarge == 1 else cv2.resize(frames[i], None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
        middle = np.array([(source.shape[1] - 1) / 2, (source.shape[0] - 1) / 2]) + centers[i]
        shift = middle - views[i] @ ((width - 1) / 2, (height - 1) / 2)
        matrix = np.column_stack([views[i], shift])
        shown = cv2.warpAffine(source, matrix, (width, height), flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP)
        grain = rng.standard_normal((height, width, 1), np.float32) * 1.5 if is_still else 0
        out.append(np.clip(np.rint(shown + grain), 0, 255).astype(np.uint8))
    return out


def _turn(angle: float) -> np.ndarray:
    """Where a view turned clockwise by `angle` looks: [2, 2] from its offsets (x right, y down) to the picture's."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
