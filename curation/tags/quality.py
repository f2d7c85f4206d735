"""Tags of the dimension quality."""

from curation.clips import Clip
from curation.signals.temporal import black_share, flicker, repeats
from curation.tags.summary import Values, mean, median
from schemas.records import VideoRecord


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Quality tags of a clip by name."""
    return _file_tags(clip, video) | _picture_tags(clip) | _time_tags(clip)


def _file_tags(clip: Clip, video: VideoRecord) -> Values:
    record = clip.record
    pixels_per_s = video.width * video.height * video.fps
    return {
        "quality_short_side": min(record.crop_w, record.crop_h),
        "quality_fps": record.fps,
        "quality_bit_rate": video.bit_rate / 1e6,
        "quality_bits_per_pixel": video.bit_rate / pixels_per_s if pixels_per_s else None,
        "quality_bit_depth": video.bit_depth,
        "quality_decode_errors": min(1.0, video.decode_errors / video.num_frames),
        "quality_bar_area": 1 - record.crop_w * record.crop_h / (record.width * record.height),
    }


def _picture_tags(clip: Clip) -> Values:
    measures = clip.measures
    return {
        "quality_sharpness": mean(measures, lambda m: m.quality.sharpness),
        "quality_noise": median(measures, lambda m: m.quality.noise),
        "quality_blockiness": mean(measures, lambda m: m.quality.blockiness),
        "quality_combing": mean(measures, lambda m: m.quality.combing),
        "quality_exposure": mean(measures, lambda m: m.quality.exposure.mean),
        "quality_overexposed": mean(measures, lambda m: m.quality.exposure.overexposed),
        "quality_underexposed": mean(measures, lambda m: m.quality.exposure.underexposed),
        "quality_contrast": mean(measures, lambda m: m.quality.exposure.contrast),
        "quality_dynamic_range": mean(measures, lambda m: m.quality.exposure.dynamic_range),
    }


def _time_tags(clip: Clip) -> Values:
    stats = clip.stats
    repeated = repeats(stats.step[1:], clip.record.fps)
    return {
        "quality_black_ratio": black_share(stats.luma_mean, stats.luma_deviation),
        "quality_frozen_ratio": repeated.frozen,
        "quality_duplicate_ratio": repeated.duplicate,
        "quality_flicker": flicker(stats.luma_mean),
    }
