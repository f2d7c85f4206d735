"""Tags made from stored keyframes without any model: composition, palette, statistics of natural scenes, drawn pictures.

The arithmetic is in curation/signals/; the modules beside this one bring the pictures of a clip to one value each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2

from curation.signals.still import StillView
from labeling.tagger import ClipView, active_picture
from labeling.taggers import aesthetics, content, quality
from schemas.tags import TAGS, TagSpec

_TAGS = tuple(spec for spec in TAGS if spec.needs == "keyframes")
_ROOMS: tuple[Callable[[Sequence[StillView]], Mapping[str, object]], ...] = (aesthetics.tags, content.tags, quality.tags)
"""One function a dimension: the pictures of a clip, at least one, to tag values."""


@dataclass(frozen=True)
class KeyframeTagger:
    """Group `keyframes`: all weight-free tags of stored pictures."""

    group: str = "keyframes"
    tags: tuple[TagSpec, ...] = _TAGS
    reads: tuple[str, ...] = ()
    embedder: None = None
    captioner: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        cv2.setNumThreads(1)  # the pictures are too small to share
        return lambda clips: (_clip_tags(clip) for clip in clips)


def _clip_tags(clip: ClipView) -> dict[str, object]:
    stills = [StillView(keyframe.bgr, active_picture(keyframe.bgr, clip.clip)) for keyframe in clip.keyframes]
    return {name: value for room in _ROOMS for name, value in room(stills).items()} if stills else {}
