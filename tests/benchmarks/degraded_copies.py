"""Degraded copies of corpus clips as files: each is made once and kept."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from curation.frames import decode, open_media, rgb, video_stream
from tests.benchmarks import degrade as d
from tests.benchmarks.validity_cases import CASES, CLIPS
from tests.video import write_video

CORPUS = Path(os.environ.get("REELMILL_CORPUS", Path(__file__).parents[3] / "shared"))
CLIP_S, READ_S, MAX_SIDE = 2.5, 10.0, 480

ORIGINAL = d.Degradation("original", (0.0,))


def read_footage(index: int) -> d.Footage:
    """A piece of a clip of CLIPS, at most MAX_SIDE wide and high, what follows it, and its neighbor in the list for the other clip."""
    name, start_s = CLIPS[index]
    frames, fps = read_frames(name, start_s, READ_S)
    other, _ = read_frames(*CLIPS[(index + 1) % len(CLIPS)], CLIP_S)
    length = min(len(frames), round(CLIP_S * fps))
    shown = np.minimum(np.arange(length), len(other) - 1)  # of a slower one, the last frame stands
    return d.Footage(frames, length, fps, np.stack([_cover(other[i], *frames.shape[1:3]) for i in shown]))


def read_frames(name: str, start_s: float, seconds: float, max_side: int = MAX_SIDE) -> tuple[np.ndarray, int]:
    """Frames of a corpus clip, uint8 [T, H, W, 3], and its rate, rounded."""
    frames: list[np.ndarray] = []
    with open_media(str(CORPUS / "videos" / name)) as container:
        stream = video_stream(container)
        for one in decode(container, stream):
            if one.time_s >= start_s + seconds:
                break
            if one.time_s >= start_s:
                frames.append(_fitted(rgb(one.frame), max_side))
        return np.stack(frames), round(float(stream.average_rate))


def _fitted(image: np.ndarray, max_side: int) -> np.ndarray:
    scale = min(1.0, max_side / max(image.shape[:2]))
    height, width = (round(side * scale / 2) * 2 for side in image.shape[:2])
    return image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    scale = max(height / image.shape[0], width / image.shape[1])
    big = cv2.resize(image, (round(image.shape[1] * scale), round(image.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    top, left = (big.shape[0] - height) // 2, (big.shape[1] - width) // 2
    return big[top : top + height, left : left + width]


def copy_path(cache: Path, clip: str, degradation: d.Degradation, level: int) -> Path:
    return cache / clip / f"{degradation.name}-{level}-{degradation.digest}.mkv"


def numbered(degradation: d.Degradation) -> list[tuple[int, float]]:
    """Its levels with their numbers; the original is level 0."""
    return list(enumerate(degradation.levels, 0 if degradation == ORIGINAL else 1))


def make_copies(cache: Path, wanted: Sequence[str], index: int) -> None:
    """All copies of one clip that are not there yet. `wanted`: names of degradations."""
    cv2.setNumThreads(1)
    name, _ = CLIPS[index]
    ones = [ORIGINAL, *(case.degradation for case in CASES if case.degradation.name in wanted)]
    todo = [(one, level, copy_path(cache, name, one, number)) for one in ones for number, level in numbered(one)]
    todo = [part for part in todo if not part[2].exists()]
    if not todo:
        return
    (cache / name).mkdir(parents=True, exist_ok=True)
    footage = read_footage(index)
    for one, level, path in todo:
        frames = one.frames(footage, level)
        unfinished = path.with_name(f"_{path.name}")
        times_ms = one.times_ms(len(frames), footage.fps, level)
        write_video(unfinished, frames, fps=footage.fps, options=one.encoder(level), times_ms=times_ms)
        unfinished.replace(path)
