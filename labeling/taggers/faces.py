"""Faces in a clip's keyframes, by YuNet (Wu, Peng and Yu 2023, "YuNet: A tiny millisecond-level face detector") in OpenCV."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from labeling.tagger import ClipView
from labeling.weights import Models
from schemas.tags import TAGS, TagSpec

WEIGHTS = "yunet_n_dynamic.onnx"
SOURCE = "https://github.com/ShiqiYu/libfacedetection.train/raw/02246e79b1e976c83d1e135a85e0628120c93769/onnx/yunet_n_dynamic.onnx"

_TAGS = tuple(spec for spec in TAGS if spec.needs == "faces")
_BOX_OVERLAP = 0.3  # boxes of one face overlap by more (OpenCV's default)
_CANDIDATES = 5000


@dataclass(frozen=True)
class FaceTagger:
    """Group `faces`: how many there are and how much of the picture the largest fills."""

    models: Models = Models()
    min_score: float = 0.75  # YuNet's confidence; below it lie drawn, turned and blurred faces, and most false ones
    group: str = "faces"
    tags: tuple[TagSpec, ...] = _TAGS
    reads: tuple[str, ...] = ()
    embedder: None = None
    captioner: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        """Load the detector. Raises TaggerError if its weights are missing."""
        path = self.models.file(WEIGHTS, SOURCE)
        with _quiet():  # OpenCV 5 warns that it ignores the target that is its own default
            detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), self.min_score, _BOX_OVERLAP, _CANDIDATES)
        return lambda clips: (_values([face_shares(detector, keyframe.bgr) for keyframe in clip.keyframes]) for clip in clips)


@contextmanager
def _quiet() -> Iterator[None]:
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def face_shares(detector: cv2.FaceDetectorYN, picture: np.ndarray) -> np.ndarray:
    """Share of the picture under each face's box, [faces]. picture: uint8 [H, W, 3] BGR."""
    height, width = picture.shape[:2]
    detector.setInputSize((width, height))
    found = detector.detect(picture)[1]
    if found is None:
        return np.zeros(0)
    corner = np.clip(found[:, :2], 0, (width, height))
    size = np.clip(found[:, :2] + found[:, 2:4], 0, (width, height)) - corner
    return size.prod(axis=1) / (width * height)


def _values(shares: list[np.ndarray]) -> dict[str, object]:
    """shares: of each keyframe, those of its faces."""
    if not shares:
        return {}
    largest = [found.max() for found in shares if len(found)]
    return {
        "content_face_count": max(map(len, shares)),  # people come and go, and turned faces are missed more often than false ones found
        "content_face_area": float(np.mean(largest)) if largest else 0.0,
    }
