"""From what a scan measured to the tags of a clip: a module for each dimension, with one function."""

from curation.clips import Clip
from curation.tags import aesthetics, content, motion, naturalness, quality
from curation.tags.summary import Values
from schemas.records import VideoRecord

_ROOMS = (quality, aesthetics, naturalness, motion, content)


def clip_tags(clip: Clip, video: VideoRecord) -> Values:
    """Every scan tag of a clip by name; what cannot be measured on it is None or left out."""
    return {name: value for room in _ROOMS for name, value in room.tags(clip, video).items()}
