"""Tags of the dimension naturalness: what was laid over the scene, and pictures no camera took."""

import numpy as np

from curation.clips import Clip
from curation.scan import Measures
from curation.signals.layout import static_overlay_share
from curation.signals.temporal import repeats, slideshow
from curation.tags.summary import Values, mean, median
from schemas.records import VideoRecord

_OVERLAY_PICTURES = 12


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Naturalness tags of a clip by name."""
    measures, steps = clip.measures, clip.stats.step[1:]
    return {
        "naturalness_static_overlay": _overlay(clip),
        "naturalness_text_area": mean(measures, lambda m: m.layout.text),
        "naturalness_flat_area": median(measures, lambda m: m.layout.flat),
        "naturalness_axis_edges": mean(measures, lambda m: m.layout.axis_edges),
        "naturalness_slideshow": slideshow(steps),
        "naturalness_screen_recording": _screen_recording(measures, repeats(steps, clip.record.fps).still) if measures else None,
    }


def _overlay(clip: Clip) -> float | None:
    samples = clip.samples
    picked = (
        [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, min(len(samples), _OVERLAY_PICTURES)).round().astype(int))]
        if samples
        else []
    )
    return static_overlay_share(np.stack([clip.scan.small_luma(sample) for sample in picked])) if picked else None


def _screen_recording(measures: list[Measures], still: float) -> float:
    """Geometric mean of what screens have in common: flat ground, straight edges, no noise, long stillness. 0-1."""
    flat = float(np.median([m.layout.flat for m in measures]))
    straight = float(np.mean([m.layout.axis_edges or 0.0 for m in measures]))
    clean = float(np.exp(-np.median([m.quality.noise for m in measures])))
    return (flat * straight * clean * still) ** 0.25
