"""Tags made from stored keyframes without any model: composition, palette, statistics of natural scenes, drawn pictures.

The arithmetic is in curation/signals/; here it is applied to the pictures of a clip and brought to one value each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeling.tagger import ClipView
from schemas.tags import TAGS, TagSpec

_TAGS = tuple(spec for spec in TAGS if spec.needs == "keyframes")
_ROOMS: tuple[Callable[[Sequence[np.ndarray]], Mapping[str, object]], ...] = ()
"""One function a dimension: the pictures of a clip, uint8 [H, W, 3] BGR each, to tag values."""


@dataclass(frozen=True)
class KeyframeTagger:
    """Group `keyframes`: all weight-free tags of stored pictures."""

    group: str = "keyframes"
    tags: tuple[TagSpec, ...] = _TAGS
    reads: tuple[str, ...] = ()
    embedder: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        return lambda clips: (_clip_tags(clip) for clip in clips)


def _clip_tags(clip: ClipView) -> dict[str, object]:
    pictures = [keyframe.bgr for keyframe in clip.keyframes]
    return {name: value for room in _ROOMS for name, value in room(pictures).items()} if pictures else {}
