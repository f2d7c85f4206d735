"""Tags of the dimension quality."""

from curation.clips import Clip
from curation.signals.temporal import black_share, cadence, flicker, gray_share, repeats, residual_cut, white_share
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
        "quality_codec": video.codec,
        "quality_bit_depth": video.bit_depth,
        "quality_is_hdr": video.is_hdr,
        "quality_is_vfr": video.is_vfr,
        "quality_is_interlaced": video.is_interlaced,
        "quality_keyframe_interval": video.keyframe_interval_s,
        "quality_decode_errors": min(1.0, video.decode_errors / video.num_frames),
        "quality_bar_area": 1 - record.crop_w * record.crop_h / (record.width * record.height),
        "quality_perceptual_hash": _middle_hash(clip),
    }


def _middle_hash(clip: Clip) -> str | None:
    middle = len(clip.hashes.hashes) // 2
    return f"{int(clip.hashes.hashes[middle]):016x}" if clip.hashes.told[middle] else None


def _picture_tags(clip: Clip) -> Values:
    measures = clip.measures
    return {
        "quality_sharpness": mean(measures, lambda m: m.quality.sharpness),
        "quality_noise": median(measures, lambda m: m.quality.noise),
        "quality_blockiness": mean(measures, lambda m: m.quality.blockiness),
        "quality_edge_width": mean(measures, lambda m: m.quality.edge_width),
        "quality_upscale": mean(measures, lambda m: m.quality.upscale),
        "quality_motion_blur": mean(measures, lambda m: m.quality.smear),
        "quality_ringing": mean(measures, lambda m: m.quality.ringing),
        "quality_banding": mean(measures, lambda m: m.quality.banding),
        "quality_combing": mean(measures, lambda m: m.quality.combing),
        "quality_exposure": mean(measures, lambda m: m.quality.exposure.mean),
        "quality_overexposed": mean(measures, lambda m: m.quality.exposure.overexposed),
        "quality_underexposed": mean(measures, lambda m: m.quality.exposure.underexposed),
        "quality_contrast": mean(measures, lambda m: m.quality.exposure.contrast),
        "quality_dynamic_range": mean(measures, lambda m: m.quality.exposure.dynamic_range),
    }


def _time_tags(clip: Clip) -> Values:
    stats, features = clip.stats, clip.scan.features
    repeated = repeats(stats.step[1:], clip.record.fps)
    return {
        "quality_black_ratio": black_share(stats.luma_mean, stats.luma_deviation),
        "quality_white_ratio": white_share(stats.luma_mean, stats.luma_deviation),
        "quality_gray_ratio": gray_share(features.chroma[clip.frames]),
        "quality_frozen_ratio": repeated.frozen,
        "quality_duplicate_ratio": repeated.duplicate,
        "quality_duplicate_cadence": cadence(stats.step[1:], clip.record.fps),
        "quality_flicker": flicker(stats.luma_mean),
        "quality_residual_cut": residual_cut(features.thumbnails[clip.frames]),
    }
