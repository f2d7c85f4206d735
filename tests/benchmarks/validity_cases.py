"""What tag_validity.py measures: the clips, their degradations, and the tags that each should move."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tests.benchmarks import degrade as d
from tests.benchmarks import degrade_layout as lay

# Single shots of many kinds, the most different first: file and where the piece begins, in seconds.
CLIPS: tuple[tuple[str, float], ...] = (
    ("panda_sample_27JMPcO4byc.33.mp4", 0.0),
    ("intel_book.mkv", 0.5),
    ("tuneavideo_man-surfing.mp4", 0.0),
    ("mimetype_mov.mov", 0.0),
    ("dj_video11.mp4", 0.0),
    ("lhotse_bbb_small.mp4", 1.0),
    ("decord_flipping_a_pancake.mkv", 1.0),
    ("videoxfun_inpaint.mp4", 0.0),
    ("imageio_cockatoo.mp4", 0.0),
    ("llavanext_xU25.mp4", 0.0),
    ("mmaction2_test.avi", 0.5),
    ("fastvideo_crush_027.mp4", 1.0),
    ("vgen_ucf_PlayingGuitar_g03_c01.avi", 0.0),
    ("intel_bottle-detection.mp4", 0.0),
)

# Where camera moves are made over: file, second, and whether one frame is taken. Cameras of the clips stand still, which was
# checked on features of their backgrounds; clips are reduced so that a view shows most of them.
CAMERA_STILLS: tuple[tuple[str, float, bool], ...] = (
    ("imageio_cockatoo.mp4", 0.5, True),
    ("fastvideo_crush_027.mp4", 1.0, True),
    ("videoxfun_inpaint.mp4", 1.0, True),
    ("tuneavideo_man-surfing.mp4", 1.0, True),
    ("cogvideo_in_train.mp4", 1.0, True),
    ("dj_video11.mp4", 2.0, True),
    ("panda_sample_27JMPcO4byc.33.mp4", 0.5, True),
    ("finetrainers_hiker.mp4", 1.0, True),
    ("moviepy_chaplin.mp4", 2.0, True),
    ("decord_flipping_a_pancake.mkv", 2.0, True),
)
CAMERA_CLIPS: tuple[tuple[str, float, bool], ...] = (
    ("intel_book.mkv", 0.5, False),
    ("intel_bottle-detection.mp4", 0.0, False),
    ("mimetype_mov.mov", 0.0, False),
    ("fastvideo_crush_027.mp4", 1.0, False),
    ("panda_sample_0WjR6cSMi2A.3.mp4", 1.0, False),
)


Change = Callable[[d.Footage, float], d.Frames]


@dataclass(frozen=True)
class Case:
    """A degradation, and the tags that should move with it: 1 up, -1 down."""

    degradation: d.Degradation
    moves: Mapping[str, int] = field(default_factory=dict)
    from_original: bool = True  # whether the original is level 0; else the levels are compared with each other alone
    unnoticed: bool = False  # only levels count at which the copy stayed one whole clip: else what was done to it has been cut away


def case(levels: Sequence[float], frames: Change, name: str = "", from_original: bool = True, /, **moves: int) -> Case:
    return Case(d.Degradation(name or frames.__name__, tuple(levels), frames), moves, from_original)


def picture(levels: Sequence[float], function: Callable[[np.ndarray, float], np.ndarray], name: str = "", /, **moves: int) -> Case:
    return case(levels, d.each(function), name, **moves)


def order(levels: Sequence[float], function: Callable[[int, float], np.ndarray], name: str = "", /, **moves: int) -> Case:
    return case(levels, d.reordered(function), name, **moves)


def encoded(levels: Sequence[float], function: Callable[[float], dict[str, str]], name: str = "", /, **moves: int) -> Case:
    return Case(d.Degradation(name or function.__name__, tuple(levels), encoder=function), moves)


def timed(levels: Sequence[float], function: Callable[[int, int, float], list[int]], /, **moves: int) -> Case:
    return Case(d.Degradation(function.__name__, tuple(levels), times_ms=function), moves)


def unnoticed(one: Case) -> Case:
    return replace(one, unnoticed=True)


# fmt: off
CASES: tuple[Case, ...] = (
    # Cases without a tag are there for the cross-talk: no tag says that it sees them.
    # detail
    picture((0.7, 1.2, 2, 3.5, 6), d.blur, quality_sharpness=-1, quality_edge_width=1, aesthetics_edge_density=-1,
            aesthetics_texture=-1, quality_naturalness_distance=1, quality_score=-1),
    case((2, 4, 8, 14, 22), d.noise, quality_noise=1, quality_naturalness_distance=1, quality_score=-1),
    encoded((18, 26, 34, 42, 51), d.crf, "h264_crf", quality_bits_per_pixel=-1, quality_bit_rate=-1, quality_sharpness=-1,
            quality_naturalness_distance=1, quality_score=-1),
    picture((80, 50, 25, 12, 5), d.jpeg, quality_blockiness=1),
    picture((1.3, 1.6, 2, 3, 4), d.upscale, quality_upscale=1, quality_sharpness=-1, quality_edge_width=1),
    picture((7, 6, 5, 4, 3), d.banding, quality_banding=1),
    picture((0.8, 0.6, 0.45, 0.33, 0.25), d.ringing, quality_ringing=1),
    picture((0.5, 1, 1.75, 3, 5), d.oversharpen, quality_sharpness=1, quality_ringing=1),
    picture((0.008, 0.015, 0.025, 0.04, 0.06), d.motion_blur, quality_motion_blur=1, quality_sharpness=-1),
    case((2, 3, 4, 6, 9), d.frame_blend, quality_motion_blur=1),
    case((1, 2, 3, 4, 6), d.interlace, quality_combing=1),
    # light and color
    picture((1.2, 1.5, 2, 2.8, 4), d.gain, "overexposure", quality_overexposed=1, quality_exposure=1),
    picture((0.8, 0.6, 0.4, 0.25, 0.12), d.gain, "underexposure", quality_underexposed=1, quality_exposure=-1, content_daylight=-1),
    picture((0.8, 0.6, 0.45, 0.3, 0.15), d.contrast, "low_contrast", quality_contrast=-1, quality_dynamic_range=-1,
            aesthetics_luma_entropy=-1, aesthetics_contrast_local=-1),
    picture((0.8, 0.6, 0.4, 0.2, 0), d.saturation, "desaturation", aesthetics_saturation=-1, aesthetics_colorfulness=-1,
            aesthetics_palette_entropy=-1),
    picture((1.25, 1.5, 2, 2.6, 3.5), d.saturation, "oversaturation", aesthetics_saturation=1, aesthetics_colorfulness=1),
    picture((0.06, 0.12, 0.2, 0.3, 0.45), d.warmth, aesthetics_warmth=1),
    picture((0.1, 0.2, 0.35, 0.5, 0.7), d.color_cast, aesthetics_color_cast=1),
    picture((1.4, 1.9, 2.6, 3.5, 5), d.gamma, "low_key", aesthetics_key=-1, quality_exposure=-1),
    picture((0.8, 0.65, 0.5, 0.36, 0.25), d.gamma, "high_key", aesthetics_key=1, quality_exposure=1),
    picture((0.2, 0.4, 0.6, 0.8, 0.95), d.light_ramp, aesthetics_lighting_evenness=-1),
    picture((0.15, 0.3, 0.5, 0.7, 0.9), d.vignette, aesthetics_vignetting=1),
    picture((0.15, 0.3, 0.5, 0.7, 0.9), d.backlight, aesthetics_backlight=1),
    case((0.02, 0.04, 0.08, 0.14, 0.22), d.flicker, quality_flicker=1),
    case((0.04, 0.08, 0.14, 0.2, 0.3), d.color_drift, aesthetics_color_stability=-1),
    unnoticed(case((0.08, 0.16, 0.26, 0.38, 0.5), d.color_goes, naturalness_start_end_consistency=-1)),
    # time
    order((0.25, 0.4, 0.55, 0.7, 0.85), d.freeze, quality_frozen_ratio=1, motion_mean=-1),
    order((12, 6, 4, 2, 1), d.repeat_every, quality_duplicate_ratio=1),
    case((1, 1.5, 2, 3, 4), d.speed_up, "", False, naturalness_speed_up=1, motion_mean=1, motion_p95=1, motion_peak=1),
    order((1.5, 2, 3, 4, 5), d.slow_repeat, quality_duplicate_ratio=1, naturalness_slow_motion=1),
    case((1.5, 2, 3, 4, 5), d.slow_blend, naturalness_slow_motion=1, motion_mean=-1),
    order((2, 3, 4, 5, 6), d.loop, naturalness_loop=1),
    order((2, 3, 4, 5, 6), d.boomerang, naturalness_loop=1, naturalness_reverse=1),
    order((1,), d.backward),
    case((0.12, 0.25, 0.4, 0.6, 0.8), d.slideshow, naturalness_slideshow=1),
    unnoticed(order((2, 4, 7, 11, 16), d.jump_cut, quality_residual_cut=1)),
    case((0.03, 0.06, 0.12, 0.2, 0.3), d.black_frames, quality_black_ratio=1),
    case((0.03, 0.06, 0.12, 0.2, 0.3), d.white_frames, quality_white_ratio=1),
    timed((0.1, 0.2, 0.3, 0.4, 0.48), d.uneven_times, naturalness_jitter=1),
    encoded((50, 25, 12, 6, 1), d.keyframe_interval, quality_keyframe_interval=-1),
    # layout
    picture((1, 2, 4, 7, 11), lay.burned_text, naturalness_text_area=1, naturalness_static_overlay=1),
    picture((0.025, 0.035, 0.05, 0.07, 0.1), lay.subtitles, naturalness_subtitle_band=1, naturalness_text_area=1),
    picture((0.06, 0.09, 0.12, 0.16, 0.22), lay.corner_logo, naturalness_corner_logo=1, naturalness_static_overlay=1,
            naturalness_score=-1),
    picture((0.08, 0.16, 0.28, 0.45, 0.7), lay.tiled_watermark, naturalness_tiled_watermark=1,
            naturalness_static_overlay=1, naturalness_score=-1),
    picture((0.04, 0.08, 0.15, 0.25, 0.4), lay.mosaic, naturalness_mosaic=1),
    picture((1, 2, 3.5, 6, 10), lay.depth_of_field, aesthetics_depth_of_field=1),
    case((0.04, 0.08, 0.14, 0.22, 0.35), lay.subject_size, "", False, aesthetics_subject_area=1, aesthetics_negative_space=-1),
    case((0.5, 0.56, 0.63, 0.71, 0.8), lay.subject_offset, "", False, aesthetics_centrality=-1, aesthetics_balance=-1),
    picture((0.2, 0.4, 0.6, 0.8, 1), lay.mirrored, aesthetics_symmetry=1),
    picture((0.05, 0.1, 0.15, 0.22, 0.3), lay.letterbox, quality_bar_area=1, quality_short_side=-1),
    picture((0.1, 0.2, 0.3, 0.45, 0.6), lay.pillarbox, quality_bar_area=1),
    picture((0.85, 0.7, 0.56, 0.45, 0.32), lay.side_fill, naturalness_side_fill=1),
    picture((0.015, 0.03, 0.05, 0.08, 0.12), lay.border, naturalness_border=1, naturalness_score=-1),
    case((0.15, 0.22, 0.3, 0.4, 0.5), lay.split_screen, naturalness_split_screen=1),
    picture((1.5, 3, 5, 8, 12), lay.tilt, aesthetics_horizon_tilt=1),
    picture((4, 6, 8, 10, 13), lay.tilt, "rotated", naturalness_rotated=1),
    picture((1,), lay.quarter_turn),
    picture((0.1, 0.25, 0.45, 0.7, 1), lay.fisheye),
    picture((0.92,), lay.fisheye_circle, naturalness_fisheye=1),
    case((0.1, 0.25, 0.45, 0.7, 1), lay.wander, "", False, motion_pan=1),
    case((0.001, 0.002, 0.004, 0.007, 0.012), lay.shake, motion_shake=1, motion_steadiness=-1, motion_handheld=1,
         aesthetics_camera_smoothness=-1),
    case((0.15, 0.25, 0.4, 0.55, 0.7), lay.title_card, naturalness_title_card=1),
    unnoticed(case((0.08, 0.15, 0.22, 0.3, 0.4), lay.transition_residue, naturalness_transition_residue=1)),
)
# fmt: on
