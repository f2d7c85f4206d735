"""Tags of the dimension aesthetics that the scan measures; those of composition are made from keyframes."""

from curation.clips import Clip
from curation.tags.summary import Values, mean
from schemas.records import VideoRecord


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Aesthetics tags of a clip by name."""
    measures = clip.measures
    return {
        "aesthetics_colorfulness": mean(measures, lambda m: m.color.colorfulness),
        "aesthetics_saturation": mean(measures, lambda m: m.color.saturation),
        "aesthetics_warmth": mean(measures, lambda m: m.color.warmth),
        "aesthetics_color_cast": mean(measures, lambda m: m.color.cast),
        "aesthetics_luma_entropy": mean(measures, lambda m: m.quality.exposure.entropy),
        "aesthetics_edge_density": mean(measures, lambda m: m.layout.edges),
    }
