"""Tags of the dimension naturalness: what was laid over the scene, what was done to its time, and pictures no camera took."""

import numpy as np

from curation.clips import Clip
from curation.scan import Measures
from curation.signals import framing, sequence
from curation.signals.overlay import Stack, corner_logo, static_overlay_share, tiled_watermark
from curation.signals.temporal import repeats
from curation.tags.summary import Values, mean, median
from schemas.records import VideoRecord

_STACK_PICTURES = 12
_TURNED_PICTURES = 3


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Naturalness tags of a clip by name."""
    return _sample_tags(clip) | _stack_tags(clip) | _time_tags(clip)


def _sample_tags(clip: Clip) -> Values:
    measures = clip.measures
    if not measures:
        return {}
    still = repeats(clip.stats.step[1:], clip.record.fps).still
    return {
        "naturalness_text_area": mean(measures, lambda m: m.layout.lettering.area),
        "naturalness_subtitle_band": mean(measures, lambda m: m.layout.lettering.low_lines),
        "naturalness_title_card": mean(measures, lambda m: m.layout.lettering.card),
        "naturalness_mosaic": mean(measures, lambda m: m.layout.mosaic),
        "naturalness_flat_area": median(measures, lambda m: m.layout.flat),
        "naturalness_axis_edges": mean(measures, lambda m: m.layout.axis_edges),
        "naturalness_cartoon": _cartoon(measures),
        "naturalness_screen_recording": _screen_recording(measures, still),
    }


def _stack_tags(clip: Clip) -> Values:
    samples = clip.samples
    if not samples:
        return {}
    picked = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), _STACK_PICTURES)).round().astype(int))
    stack = Stack(np.stack([clip.scan.small_luma(samples[index]) for index in picked]))
    found = framing.measure(_active(stack.pictures, clip))
    return {
        "naturalness_static_overlay": static_overlay_share(stack),
        "naturalness_corner_logo": corner_logo(stack),
        "naturalness_tiled_watermark": tiled_watermark(stack),
        "naturalness_split_screen": found.split_screen,
        "naturalness_side_fill": found.side_fill,
        "naturalness_border": found.border,
        "naturalness_fisheye": found.fisheye,
        "naturalness_rotated": framing.turned_share(stack.slopes[:: max(1, len(picked) // _TURNED_PICTURES)]),
    }


def _active(pictures: np.ndarray, clip: Clip) -> np.ndarray:
    """The part of pictures [K, h, w] inside the clip's black bars, rounded inward."""
    record, (height, width) = clip.record, pictures.shape[1:]
    top, left = -(-record.crop_y * height // record.height), -(-record.crop_x * width // record.width)
    bottom, right = (record.crop_y + record.crop_h) * height // record.height, (record.crop_x + record.crop_w) * width // record.width
    return pictures[:, top : max(bottom, top + 1), left : max(right, left + 1)]


def _time_tags(clip: Clip) -> Values:
    features, frames = clip.scan.features, clip.frames
    thumbnails, steps, seconds = clip.luma, clip.stats.step[1:], np.diff(clip.time_s)
    repetition = sequence.repetition(features.luma, frames.start, frames.stop)
    return {
        "naturalness_slideshow": sequence.slideshow(steps, clip.record.fps),
        "naturalness_speed_up": sequence.speed_up(thumbnails, seconds),
        "naturalness_slow_motion": sequence.slow_motion(thumbnails, steps),
        "naturalness_loop": repetition.again,
        "naturalness_reverse": repetition.backward,
        "naturalness_jitter": sequence.uneven(steps, seconds),
        "naturalness_transition_residue": sequence.transition_residue(thumbnails, seconds),
        "naturalness_start_end_consistency": sequence.start_end_likeness(thumbnails, features.chroma[frames]),
    }


def _cleanness(measures: list[Measures]) -> float:
    return float(np.exp(-np.median([m.quality.noise for m in measures])))


def _cartoon(measures: list[Measures]) -> float:
    """What drawn and rendered pictures have in common: no sensor noise, few tones. 0-1."""
    entropy = float(np.mean([m.quality.exposure.entropy for m in measures]))
    return _cleanness(measures) * float(np.sqrt(max(1 - entropy, 0.0)))


def _screen_recording(measures: list[Measures], still: float) -> float:
    """Geometric mean of what screens have in common: flat ground, straight edges, no noise, long stillness. 0-1."""
    flat = float(np.median([m.layout.flat for m in measures]))
    straight = float(np.mean([m.layout.axis_edges or 0.0 for m in measures]))
    return (flat * straight * _cleanness(measures) * still) ** 0.25
