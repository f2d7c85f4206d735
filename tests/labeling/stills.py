"""Clips of real videos as taggers see them, without a dataset."""

from pathlib import Path

import cv2

from curation.frames import FrameReader, rgb
from labeling.tagger import ClipView, Keyframe


def clip_of(video: Path, times_s: list[float], fps: float) -> ClipView:
    """A clip with keyframes of at most 512 pixels from near these times."""
    frames = [round(time_s * fps) for time_s in times_s]
    keyframes = []
    for number, frame in zip(frames, FrameReader(str(video)).frames(frames, [number / fps for number in frames]), strict=True):
        picture = rgb(frame)[..., ::-1]
        scale = min(1.0, 512 / max(picture.shape[:2]))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        keyframes.append(Keyframe(number / fps, number, cv2.imencode(".jpg", small)[1].tobytes()))
    return ClipView({"clip_id": video.name}, {}, tuple(keyframes))
