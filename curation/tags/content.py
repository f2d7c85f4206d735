"""Tags of the dimension content that the scan measures."""

from collections import Counter

from curation.clips import Clip
from curation.tags.summary import Values
from schemas.records import VideoRecord


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Content tags of a clip by name."""
    colors = Counter(measures.color.dominant for measures in clip.measures)
    return {"content_dominant_color": colors.most_common(1)[0][0] if colors else None}
