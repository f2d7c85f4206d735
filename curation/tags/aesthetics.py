"""Tags of the dimension aesthetics that the scan measures; those of composition, light and palette are made from keyframes."""

import numpy as np

from curation.clips import Clip
from curation.signals.color import color_shift
from curation.signals.smoothness import camera_smoothness
from curation.tags.summary import Values, mean
from schemas.records import VideoRecord

_SHIFT_HALF = 4.0  # levels of chroma in half a second that count as 0.5


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Aesthetics tags of a clip by name."""
    measures = clip.measures
    shift = color_shift(clip.scan.features.chroma[clip.frames], clip.time_s)
    return {
        "aesthetics_colorfulness": mean(measures, lambda m: m.color.colorfulness),
        "aesthetics_saturation": mean(measures, lambda m: m.color.saturation),
        "aesthetics_warmth": mean(measures, lambda m: m.color.warmth),
        "aesthetics_color_cast": mean(measures, lambda m: m.color.cast),
        "aesthetics_luma_entropy": mean(measures, lambda m: m.quality.exposure.entropy),
        "aesthetics_edge_density": mean(measures, lambda m: m.layout.edges),
        "aesthetics_color_stability": None if shift is None else _SHIFT_HALF / (_SHIFT_HALF + shift),
        "aesthetics_camera_smoothness": camera_smoothness(clip.shifts, np.diff(clip.time_s)),
    }
