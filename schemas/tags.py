"""Every tag of the tag system, in one plain tuple. The tags page of the documentation is made from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Dimension = Literal["quality", "aesthetics", "naturalness", "motion", "content", "overall"]
DIMENSIONS: tuple[Dimension, ...] = ("quality", "aesthetics", "naturalness", "motion", "content", "overall")


class UnknownTagError(KeyError):
    """A tag name that is not in the registry; the message names the nearest known tag."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class TagSpec:
    """What one tag column means.

    `low` and `high` bound every value the method can give (None: unbounded). `better` says which end a curator usually
    wants. `needs` is what the tag is measured from: "scan" is the one decode pass, "keyframes" the stored pictures, "tags" other
    tags; others name a model.
    A change of method raises `version`, and with it only the tag's own group is measured again.
    """

    name: str
    dimension: Dimension
    dtype: Literal["float32", "int32", "bool", "string"]
    unit: str
    low: float | None
    high: float | None
    better: Literal["high", "low", "none"]
    method: str
    version: int = 1
    needs: str = "scan"

    @property
    def group(self) -> str:
        """Folder below tags/ that holds the tag: one per dimension for the scan, and one per other thing needed."""
        return {"scan": self.dimension, "tags": "scores"}.get(self.needs, self.needs)


# Methods name their source; the functions themselves are in curation/signals/. "Frames" are all frames of a clip, "samples"
# those measured at full resolution: one a second, at most every twelfth frame.
TAGS: tuple[TagSpec, ...] = (
    TagSpec("quality_short_side", "quality", "int32", "px", 1, None, "high", "shorter side of the active picture"),
    TagSpec("quality_fps", "quality", "float32", "frames/s", 0, None, "none", "average frame rate of the clip"),
    TagSpec("quality_is_vfr", "quality", "bool", "", None, None, "none", "frame durations of the source vary: 5th and 95th percentile by over a tenth of the median"),
    TagSpec("quality_codec", "quality", "string", "", None, None, "none", "codec of the source, by its name in FFmpeg"),
    TagSpec("quality_bit_rate", "quality", "float32", "Mbit/s", 0, None, "high", "size of the source over its duration, sound included"),
    TagSpec("quality_bits_per_pixel", "quality", "float32", "bit/px", 0, None, "high", "bit rate of the source over pixels per second"),
    TagSpec("quality_bit_depth", "quality", "int32", "bit", 1, 16, "high", "bits per sample of the source's pixel format"),
    TagSpec("quality_is_hdr", "quality", "bool", "", None, None, "none", "transfer of the source is PQ or HLG (ITU-T H.273)"),
    TagSpec("quality_is_interlaced", "quality", "bool", "", None, None, "low", "over half of the frames of the source are marked as interlaced"),
    TagSpec("quality_keyframe_interval", "quality", "float32", "s", 0, None, "none", "mean distance of the random-access points of the source; null without any"),
    TagSpec("quality_decode_errors", "quality", "float32", "share", 0, 1, "low", "damaged packets and pictures per frame of the source"),
    TagSpec("quality_sharpness", "quality", "float32", "", 0, 1, "high", "Laplacian energy less noise, x/(x+12 levels); mean of samples"),
    TagSpec("quality_edge_width", "quality", "float32", "px", 1, None, "low", "after Marziliano 2002: rise of monotone runs of 32 levels and more over their steepest step; mean; mean of samples; null without edges"),
    TagSpec("quality_upscale", "quality", "float32", "", 0, 1, "low", "proxy, blur looks the same: what the power of lines lacks of the 1/f^2 law of sharp edges, log scale, noise off; mean of samples"),
    TagSpec("quality_motion_blur", "quality", "float32", "px", 0, None, "low", "proxy: spread of edge widths beyond a fifth of their mean, smeared edges beside sharp ones; mean of samples; null without edges"),
    TagSpec("quality_noise", "quality", "float32", "levels", 0, None, "low", "Immerkaer 1996, lower quartile of 16 px tiles; median of samples"),
    TagSpec("quality_blockiness", "quality", "float32", "", 0, None, "low", "excess of steps on the 8 px grid (Wang et al. 2002); mean of samples", 2),
    TagSpec("quality_ringing", "quality", "float32", "px", 0, None, "low", "after Marziliano 2004: overshoot beside lone edges, relative height x width; mean of samples; null without lone edges"),
    TagSpec("quality_banding", "quality", "float32", "share", 0, 1, "low", "change along lines in steps of up to 32 levels between flat runs, idea of CAMBI (Tandon 2021); mean of samples"),
    TagSpec("quality_combing", "quality", "float32", "", 0, 1, "low", "lines differ more from neighbors than within their field, 16 px tiles; mean of samples", 2),
    TagSpec("quality_exposure", "quality", "float32", "", 0, 1, "none", "mean luma; mean of samples"),
    TagSpec("quality_overexposed", "quality", "float32", "share", 0, 1, "low", "pixels with luma of 250 and more; mean of samples"),
    TagSpec("quality_underexposed", "quality", "float32", "share", 0, 1, "low", "pixels with luma of 5 and less; mean of samples"),
    TagSpec("quality_contrast", "quality", "float32", "", 0, 1, "high", "RMS contrast of luma over its maximum; mean of samples"),
    TagSpec("quality_dynamic_range", "quality", "float32", "", 0, 1, "high", "99th less 1st percentile of luma; mean of samples"),
    TagSpec("quality_bar_area", "quality", "float32", "share", 0, 1, "low", "picture lost to black bars, those of the clip's crop"),
    TagSpec("quality_black_ratio", "quality", "float32", "share", 0, 1, "low", "frames with mean luma below 12 and deviation below 8 levels"),
    TagSpec("quality_white_ratio", "quality", "float32", "share", 0, 1, "low", "frames with mean luma above 243 and deviation below 8 levels"),
    TagSpec("quality_gray_ratio", "quality", "float32", "share", 0, 1, "none", "frames whose chroma, in 12 x 16 cells, is within 10 levels of neutral everywhere"),
    TagSpec("quality_frozen_ratio", "quality", "float32", "share", 0, 1, "low", "frames in still stretches of 0.5 s and longer"),
    TagSpec("quality_duplicate_ratio", "quality", "float32", "share", 0, 1, "low", "frames that repeat the one before, outside still stretches"),
    TagSpec("quality_duplicate_cadence", "quality", "float32", "", 0, 1, "low", "regularity of repeated frames: autocorrelation at the best period of 2-30 frames and twice that, lesser; null for few repeats"),
    TagSpec("quality_flicker", "quality", "float32", "levels", 0, None, "low", "mean luma of a frame against its two neighbors; mean of frames without the largest tenth", 2),
    TagSpec("quality_residual_cut", "quality", "float32", "", 0, 1, "low", "sharpest lasting jump of thumbnails: change/(change + 2 x change around it + 4 levels)"),
    TagSpec("quality_naturalness_distance", "quality", "float32", "", 0, None, "low", "after NIQE (Mittal 2013): RMS z of 16 scene statistics against good patches, without covariances; mean of keyframes", 2, "keyframes"),
    TagSpec("quality_perceptual_hash", "quality", "string", "", None, None, "none", "hex of 64 signs of low cosine coefficients (after Zauner 2010) of the picture in the middle; null if flat; the sequence is in signatures/"),
    TagSpec("aesthetics_colorfulness", "aesthetics", "float32", "", 0, None, "high", "Hasler and Suesstrunk 2003, M; mean of samples"),
    TagSpec("aesthetics_saturation", "aesthetics", "float32", "", 0, 1, "none", "mean of largest less smallest color channel; mean of samples"),
    TagSpec("aesthetics_warmth", "aesthetics", "float32", "", -1, 1, "none", "(red - blue)/(red + blue) of the mean color; mean of samples"),
    TagSpec("aesthetics_color_cast", "aesthetics", "float32", "", 0, 1, "low", "spread of the mean color's channels; mean of samples"),
    TagSpec("aesthetics_luma_entropy", "aesthetics", "float32", "", 0, 1, "high", "entropy of the luma histogram over 8 bits; mean of samples"),
    TagSpec("aesthetics_edge_density", "aesthetics", "float32", "share", 0, 1, "none", "pixels on a clear edge (Sobel): clutter; mean of samples"),
    TagSpec("aesthetics_color_stability", "aesthetics", "float32", "", 0, 1, "high", "4/(4 + levels by which the chroma of the middle half of all cells moves in 0.5 s); all frames"),
    TagSpec("aesthetics_camera_smoothness", "aesthetics", "float32", "", 0, 1, "high", "camera speed over 0.5 s against its strays (Lucas-Kanade shifts of thumbnails); medians; null for few or flat frames"),
    TagSpec("naturalness_static_overlay", "naturalness", "float32", "share", 0, 1, "low", "edges that stay while what is around them changes; 12 samples; null if little does", 2),
    TagSpec("naturalness_corner_logo", "naturalness", "float32", "share", 0, 1, "low", "a corner under edges that stay, less 3 x those elsewhere; fullest corner; null if little changes"),
    TagSpec("naturalness_tiled_watermark", "naturalness", "float32", "", 0, 1, "low", "peaks in the whitened correlation of gradients of 4 samples, median of pairs (after Dekel et al. 2017); null for few samples"),
    TagSpec("naturalness_text_area", "naturalness", "float32", "share", 0, 1, "low", "proxy: dense pairs of rising and falling strokes on flat ground, at three scales; mean of samples", 2),
    TagSpec("naturalness_subtitle_band", "naturalness", "float32", "share", 0, 1, "low", "proxy: lower third in lines of lettering, less 2 x the share of the rest; mean of samples"),
    TagSpec("naturalness_title_card", "naturalness", "float32", "", 0, 1, "low", "proxy: lettering on ground of one tone; mean of samples"),
    TagSpec("naturalness_split_screen", "naturalness", "float32", "", 0, 1, "low", "straight seam all across in all samples, x root of twice the narrower part's share"),
    TagSpec("naturalness_side_fill", "naturalness", "float32", "share", 0, 1, "low", "picture in two soft sides that end in seams and correlate with the enlarged middle"),
    TagSpec("naturalness_border", "naturalness", "float32", "share", 0, 1, "low", "picture in a border of one tone, not black, at two opposite sides at least"),
    TagSpec("naturalness_mosaic", "naturalness", "float32", "share", 0, 1, "low", "picture crowded with even blocks, steps clean on both sides; mean of samples"),
    TagSpec("naturalness_fisheye", "naturalness", "float32", "share", 0, 1, "low", "picture that is black around a bright circle in its middle; bent lines are not seen"),
    TagSpec("naturalness_rotated", "naturalness", "float32", "", 0, 1, "low", "proxy: how far edges, folded to 90 degrees, peak off the axes; 1 from 10 degrees; quarter turns are not seen; null without edges"),
    TagSpec("naturalness_flat_area", "naturalness", "float32", "share", 0, 1, "low", "pixels equal to their right neighbor; median of samples"),
    TagSpec("naturalness_axis_edges", "naturalness", "float32", "share", 0, 1, "low", "strong edges exactly along rows or columns; null without edges"),
    TagSpec("naturalness_cartoon", "naturalness", "float32", "", 0, 1, "low", "weak proxy of drawn and rendered pictures: noiselessness x root of 1 - luma entropy"),
    TagSpec("naturalness_screen_recording", "naturalness", "float32", "", 0, 1, "low", "proxy: geometric mean of flat area, axis edges, noiselessness, still frames"),
    TagSpec("naturalness_slideshow", "naturalness", "float32", "", 0, 1, "low", "proxy: time in still stretches, longer ones more, x share of change in single frames between them", 2),
    TagSpec("naturalness_speed_up", "naturalness", "float32", "", 0, 1, "low", "suspicion: change of contrast per second x abruptness (second over first differences), 0.5 at 6/s"),
    TagSpec("naturalness_slow_motion", "naturalness", "float32", "share", 0, 1, "low", "suspicion: frames that repeat, or in a rhythm blend, their neighbors; null if little moves; fast cameras are not seen"),
    TagSpec("naturalness_loop", "naturalness", "float32", "share", 0, 1, "low", "frames seen before, in the clip or as long before it, with a change between; thumbnails"),
    TagSpec("naturalness_reverse", "naturalness", "float32", "share", 0, 1, "low", "frames seen before in opposite order (boomerang); a clip wholly reversed is not seen"),
    TagSpec("naturalness_jitter", "naturalness", "float32", "", 0, 1, "low", "mean stray of frame times from the usual one, and frames that stand and then jump"),
    TagSpec("naturalness_transition_residue", "naturalness", "float32", "", 0, 1, "low", "straight change over the first or last 0.3 s against the 90th percentile within, 0.5 at twice that; null for short clips"),
    TagSpec("naturalness_start_end_consistency", "naturalness", "float32", "", 0, 1, "high", "proxy: likeness of the mean thumbnails of the first and last tenth, 0.5 at half a contrast apart"),
    TagSpec("motion_mean", "motion", "float32", "diag/s", 0, None, "none", "mean DIS flow speed (Kroeger et al. 2016); mean of pairs of frames about 0.08 s apart, 2 a second", 2),
    TagSpec("motion_p95", "motion", "float32", "diag/s", 0, None, "none", "95th percentile of flow speed in the picture; mean of pairs", 2),
    TagSpec("motion_peak", "motion", "float32", "diag/s", 0, None, "none", "mean flow speed of the fastest pair"),
    TagSpec("motion_min_patch", "motion", "float32", "diag/s", 0, None, "none", "flow speed of the slowest of 4 x 4 patches, each the mean of pairs: 0 where a part stands still"),
    TagSpec("motion_moving_area", "motion", "float32", "share", 0, 1, "none", "pixels faster than 0.02 diag/s; mean of pairs", 2),
    TagSpec("motion_foreground", "motion", "float32", "diag/s", 0, None, "none", "mean speed left after the camera's motion, a similarity fitted to the better half of the flow; mean of pairs", 2),
    TagSpec("motion_foreground_area", "motion", "float32", "share", 0, 1, "none", "pixels faster than 0.02 diag/s apart from the camera's motion; mean of pairs"),
    TagSpec("motion_background", "motion", "float32", "diag/s", 0, None, "none", "mean speed that the camera's motion gives to the picture; mean of pairs"),
    TagSpec("motion_acceleration", "motion", "float32", "diag/s2", 0, None, "none", "mean absolute change of mean flow speed from pair to pair, over time"),
    TagSpec("motion_consistency", "motion", "float32", "", 0, 1, "none", "length of the mean flow over mean flow speed: 1 for a pan, 0 for zoom or a crowd; null where little moves"),
    TagSpec("motion_shake", "motion", "float32", "diag/s", 0, None, "low", "camera velocity around its mean over 0.2 s, at least 5 frames (Lucas and Kanade 1981 on thumbnails); median of frames", 2),
    TagSpec("motion_handheld", "motion", "float32", "diag/s", 0, None, "low", "sway: camera velocity of a pair against the mean of the pairs 1/3 s before and after; median of pairs"),
    TagSpec("motion_steadiness", "motion", "float32", "", 0, 1, "high", "0.03/(0.03 + x) of x the root of squared shake and sway: 1 on a tripod or gliding"),
    TagSpec("motion_pan", "motion", "float32", "diag/s", None, None, "none", "camera speed to the right, planes registered with a robust similarity (Bergen et al. 1992); median of pairs", 2),
    TagSpec("motion_tilt", "motion", "float32", "diag/s", None, None, "none", "camera speed upward, likewise", 2),
    TagSpec("motion_zoom", "motion", "float32", "1/s", None, None, "none", "relative magnification per second, likewise", 2),
    TagSpec("motion_roll", "motion", "float32", "rad/s", None, None, "none", "camera rotation clockwise, likewise", 2),
    TagSpec("motion_camera", "motion", "string", "", None, None, "none", "camera motion that moves the corners fastest; mixed with a second of 40 %; handheld if sway or shake prevail; static below 0.01 diag/s", 2),
    TagSpec("motion_camera_strength", "motion", "float32", "diag/s", 0, None, "none", "speed that what motion_camera names gives to the corners of the picture"),
    TagSpec("motion_level", "motion", "int32", "", 0, 5, "none", "tier of motion_mean, with steps at 0.005, 0.02, 0.06, 0.15 and 0.35 diag/s: 0 static, very slow, slow, moderate, fast, 5 very fast"),
    TagSpec("content_dominant_color", "content", "string", "", None, None, "none", "commonest hue by chroma, or gray; most frequent of samples"),
    TagSpec("content_sound_share", "content", "float32", "share", 0, 1, "none", "clip's time for which sound could be decoded; null without an audio stream"),
    TagSpec("content_speech_share", "content", "float32", "share", 0, 1, "none", "proxy: sound that WebRTC VAD takes for voice, with pauses and syllables (Scheirer and Slaney 1997) over 2 s; null if sound_share < 0.5"),
    TagSpec("content_music_share", "content", "float32", "share", 0, 1, "none", "proxy: sustained tonal sound that is not speech; a hum passes, singing may not; null likewise"),
    TagSpec("content_silence_share", "content", "float32", "share", 0, 1, "none", "sound below -50 dBFS, RMS of 30 ms; null likewise"),
    TagSpec("content_loudness", "content", "float32", "dBFS", -96, 0, "none", "RMS of the sound above -70 dBFS; -96 is digital silence; null likewise"),
    TagSpec("quality_score", "quality", "float32", "", 0, 1, "high", "product of what each input leaves (labeling/scores.py)", needs="tags"),
    TagSpec("aesthetics_score", "aesthetics", "float32", "", 0, 1, "high", "likewise; a proxy without a model", needs="tags"),
    TagSpec("naturalness_score", "naturalness", "float32", "", 0, 1, "high", "likewise", needs="tags"),
    TagSpec("suitability", "overall", "float32", "", 0, 1, "high", "likewise, of the three scores, motion and shake", needs="tags"),
    # Of stored keyframes, without any model (labeling/taggers/keyframes.py); means of keyframes where nothing else is said.
    TagSpec("aesthetics_palette_entropy", "aesthetics", "float32", "", 0, 1, "none", "entropy of colors in 4 x 8 x 8 bins of CIE Lab, over 8 bits", needs="keyframes"),
    TagSpec("aesthetics_hue_harmony", "aesthetics", "float32", "", 0, 1, "high", "1 - root of the relative distance to the nearest template of Cohen-Or et al. 2006; null for gray", needs="keyframes"),
    TagSpec("aesthetics_key", "aesthetics", "float32", "", -1, 1, "none", "share of bright tones less that of dark ones: low key -1, high key 1", needs="keyframes"),
    TagSpec("aesthetics_contrast_local", "aesthetics", "float32", "", 0, 1, "high", "standard deviation of CIE lightness in tiles of a 16th of the width, over its maximum", needs="keyframes"),
    TagSpec("aesthetics_lighting_evenness", "aesthetics", "float32", "", 0, 1, "none", "1/(1 + 2 x relative spread of a quadratic surface fitted to luma); null if dark", needs="keyframes"),
    TagSpec("aesthetics_vignetting", "aesthetics", "float32", "share", 0, 1, "low", "fall-off of luma toward the corners that three of the four reach; null if dark", needs="keyframes"),
    TagSpec("aesthetics_backlight", "aesthetics", "float32", "", 0, 1, "none", "proxy: dark middle before bright sides and top, geometric mean of shares", needs="keyframes"),
    TagSpec("aesthetics_rule_of_thirds", "aesthetics", "float32", "", 0, 1, "high", "spectral-residual saliency (Hou and Zhang 2007) at the four power points; null if flat", needs="keyframes"),
    TagSpec("aesthetics_centrality", "aesthetics", "float32", "", 0, 1, "none", "the same saliency near the center; null if flat", needs="keyframes"),
    TagSpec("aesthetics_subject_area", "aesthetics", "float32", "share", 0, 1, "none", "proxy: participation ratio of saliency x color contrast to the border (Wei et al. 2012); null if flat", needs="keyframes"),
    TagSpec("aesthetics_balance", "aesthetics", "float32", "", 0, 1, "high", "1 - 4 x offset of the same map's centroid from the vertical middle; null if flat", needs="keyframes"),
    TagSpec("aesthetics_symmetry", "aesthetics", "float32", "", 0, 1, "none", "correlation with the mirror image, of Lab colors and of edges; null if flat", needs="keyframes"),
    TagSpec("aesthetics_negative_space", "aesthetics", "float32", "share", 0, 1, "none", "pixels a 64th of the width and further from any clear edge", needs="keyframes"),
    TagSpec("aesthetics_texture", "aesthetics", "float32", "", 0, 1, "none", "smaller eigenvalue of the structure tensor (Shi and Tomasi 1994) of tiles, root x/(x+24)", needs="keyframes"),
    TagSpec("aesthetics_depth_of_field", "aesthetics", "float32", "", 0, 1, "none", "1 - softer over sharpest tiles, 25th over 90th percentile of edge steepness; null if flat", needs="keyframes"),
    TagSpec("aesthetics_horizon_tilt", "aesthetics", "float32", "degrees", -25, 25, "none", "turn counterclockwise that most level and upright lines agree on (LSD, von Gioi et al. 2010); of the middle keyframe that has any", needs="keyframes"),
    TagSpec("aesthetics_proxy", "aesthetics", "float32", "", 0, 1, "high", "proxy: mean of 11 rules of thumb met, after Datta et al. 2006 (labeling/taggers/aesthetics.py)", needs="keyframes"),
    TagSpec("content_dominant_colors", "content", "string", "", None, None, "none", "up to three of 12 color names by area, at least 5 % each, the largest first", needs="keyframes"),
    TagSpec("content_daylight", "content", "float32", "", 0, 1, "none", "proxy: median CIE lightness, 10 and less as night to 40 and more as day; a dark room is night", needs="keyframes"),
    # Of the CLIP embeddings of stored keyframes (labeling/taggers/clip.py); zero-shot classes and prompts: labeling/taggers/prompts.yaml.
    TagSpec("aesthetics_laion", "aesthetics", "float32", "", None, None, "high", "LAION aesthetic head (Schuhmann et al. 2022), about 1 to 10; mean of keyframes; null for other CLIPs than OpenAI's ViT-L/14, ViT-B/32", needs="clip"),
    TagSpec("naturalness_source_class", "naturalness", "string", "", None, None, "none", "CLIP zero-shot (Radford et al. 2021): camera_footage, computer_graphics, game, cartoon, screen, ai_generated or slideshow", needs="clip"),
    TagSpec("naturalness_camera_footage", "naturalness", "float32", "", 0, 1, "high", "probability of camera_footage among the source classes, uncalibrated; mean of keyframes", needs="clip"),
    TagSpec("naturalness_ai_generated", "naturalness", "float32", "", 0, 1, "low", "proxy by style: probability of ai_generated among the source classes, uncalibrated; mean of keyframes", needs="clip"),
    TagSpec("naturalness_start_end_similarity", "naturalness", "float32", "", -1, 1, "high", "cosine of the CLIP embeddings of the first and last keyframe", needs="clip"),
    TagSpec("content_frame_similarity", "content", "float32", "", -1, 1, "none", "cosine of the CLIP embeddings of neighboring keyframes; mean of pairs", needs="clip"),
    TagSpec("content_indoor", "content", "float32", "", 0, 1, "none", "CLIP zero-shot probability of indoors against outdoors, uncalibrated; mean of keyframes", needs="clip"),
    TagSpec("content_scene", "content", "string", "", None, None, "none", "CLIP zero-shot: likeliest of 17 kinds of place, mean of keyframes", needs="clip"),
    TagSpec("content_scene_probability", "content", "float32", "", 0, 1, "none", "its probability, uncalibrated", needs="clip"),
    TagSpec("content_subject", "content", "string", "", None, None, "none", "CLIP zero-shot: likeliest of 13 kinds of main subject, mean of keyframes", needs="clip"),
    TagSpec("content_subject_probability", "content", "float32", "", 0, 1, "none", "its probability, uncalibrated", needs="clip"),
    TagSpec("content_shot_size", "content", "string", "", None, None, "none", "CLIP zero-shot: extreme_close_up, close_up, medium_shot, full_shot, wide_shot or aerial_shot, mean of keyframes", needs="clip"),
    TagSpec("content_shot_size_probability", "content", "float32", "", 0, 1, "none", "its probability, uncalibrated", needs="clip"),
    TagSpec("aesthetics_improved", "aesthetics", "float32", "", None, None, "high", "improved aesthetic predictor (Schuhmann 2022; SAC, Logos, AVA) on OpenAI's ViT-L/14, about 1 to 10; mean of keyframes", needs="clip_mlp"),
    TagSpec("content_caption_similarity", "content", "float32", "", -1, 1, "high", "mean cosine of the CLIP vectors of caption_short and of keyframes (CLIPScore, Hessel et al. 2021, without its factor)", needs="clip_captions"),
    # Text, faces and the rest that small networks find in keyframes (labeling/taggers/ocr.py, faces.py, nsfw.py).
    TagSpec("content_text", "content", "string", "", None, None, "none", "PP-OCRv6 small (rapidocr): distinct lines of all keyframes read at 0.8 and surer, joined by |; reads Latin, Chinese, Japanese, Greek", needs="ocr"),
    TagSpec("content_text_script", "content", "string", "", None, None, "none", "script of 80 % of the letters of content_text: latin, han, kana, greek, other; else mixed; null without letters", needs="ocr"),
    TagSpec("content_subtitle_text", "content", "string", "", None, None, "none", "proxy: lines in the lowest 32 % of the picture, centered, not tall; null if the picture stands still", needs="ocr"),
    TagSpec("content_watermark_text", "content", "string", "", None, None, "none", "lines, not subtitles, that stay in place in all keyframes while a quarter of the picture changes; null if less does", needs="ocr"),
    TagSpec("naturalness_ocr_text_area", "naturalness", "float32", "share", 0, 1, "low", "picture under the boxes of text read at 0.5 and surer (PP-OCRv6 small); mean of keyframes", needs="ocr"),
    TagSpec("content_face_count", "content", "int32", "faces", 0, None, "none", "YuNet (Wu et al. 2023) at 0.75 and surer; most in one keyframe", needs="faces"),
    TagSpec("content_face_area", "content", "float32", "share", 0, 1, "none", "picture under the box of the largest face (YuNet); mean of keyframes with faces, 0 without", needs="faces"),
    TagSpec("content_nsfw", "content", "float32", "", 0, 1, "low", "OpenNSFW (Yahoo 2016), probability; highest of keyframes", needs="nsfw"),
    # Copies among all clips of the dataset (labeling/duplicates.py).
    TagSpec("content_duplicate_cluster", "content", "string", "", None, None, "none", "smallest clip_id among a clip and its copies; null without copies", needs="dedup"),
    TagSpec("content_duplicate_representative", "content", "bool", "", None, None, "none", "whether it is the best of its copies, or has none: the one to keep", needs="dedup"),
    TagSpec("content_duplicate_kind", "content", "string", "", None, None, "none", "how a copy is like the clip it gives way to: exact, near, mirrored or semantic; null for representatives", needs="dedup"),
    TagSpec("content_duplicate_similarity", "content", "float32", "", 0, 1, "none", "to that clip: equal bits of aligned perceptual hashes, or cosine of mean embeddings where semantic; null for representatives", needs="dedup"),
)  # fmt: skip

_BY_NAME = {tag.name: tag for tag in TAGS}


def tag(name: str) -> TagSpec:
    """The spec of a tag. Raises UnknownTagError, which names the nearest known one."""
    if name not in _BY_NAME:
        near = get_close_matches(name, _BY_NAME, n=1, cutoff=0)
        raise UnknownTagError(f"unknown tag {name!r}; did you mean {near[0]!r}? All tags are listed in README.md and in schemas/tags.py")
    return _BY_NAME[name]


def groups(tags: Iterable[TagSpec] = TAGS) -> tuple[str, ...]:
    """Names of the tag groups, in the order of the registry."""
    return tuple(dict.fromkeys(tag.group for tag in tags))


SCAN_GROUPS = groups(spec for spec in TAGS if spec.needs == "scan")
"""The groups that the one decode pass measures; all others are made from what it stored."""
WEIGHT_FREE = groups(spec for spec in TAGS if spec.needs in ("scan", "keyframes", "tags"))
"""The groups that every dataset has: they need no weights."""
