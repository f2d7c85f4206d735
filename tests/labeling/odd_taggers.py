"""Taggers that go wrong, each in its own way, and an embedder without weights. Workers import them from here."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from labeling.tagger import ClipView
from schemas.tags import TagSpec

TAGS = (TagSpec("content_odd", "content", "int32", "", 0, None, "none", "number of keyframes"),)


@dataclass(frozen=True)
class ColorEmbedder:
    """Mean colors on a 4 x 4 grid."""

    name: str = "colors"
    version: str = "1"
    size: int = 48

    def open(self) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
        def encode(pictures: Sequence[np.ndarray]) -> np.ndarray:
            small = np.stack([cv2.resize(picture, (4, 4), interpolation=cv2.INTER_AREA) for picture in pictures])
            flat = small.reshape(len(small), -1).astype(np.float32) + 1
            return flat / np.linalg.norm(flat, axis=1, keepdims=True)

        return encode


@dataclass(frozen=True)
class OddTagger:
    """Gives the number of keyframes, but for one clip, where it does what `deed` says."""

    deed: str = ""
    clip_id: str = ""
    group: str = "odd"
    tags: tuple[TagSpec, ...] = TAGS
    reads: tuple[str, ...] = ()
    embedder: ColorEmbedder | None = None
    captioner: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        if self.deed == "die while loading":
            os.abort()
        return lambda clips: [self._measure(clip) for clip in clips]

    def _measure(self, clip: ClipView) -> Mapping[str, object]:
        if clip.clip_id == self.clip_id:
            match self.deed:
                case "raise":
                    raise ArithmeticError("no such number")
                case "die":
                    os.abort()
                case "hang":
                    time.sleep(60)
        if self.embedder:
            assert clip.embeddings.shape == (len(clip.keyframes), self.embedder.size)
            assert np.allclose(np.linalg.norm(clip.embeddings, axis=1), 1, atol=1e-3)
        return {"content_odd": len(clip.keyframes)}
