"""Every tag of the tag system, in one plain tuple. The tags page of the documentation is made from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Dimension = Literal["quality", "aesthetics", "naturalness", "motion", "content"]
DIMENSIONS: tuple[Dimension, ...] = ("quality", "aesthetics", "naturalness", "motion", "content")


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
        return self.dimension if self.needs == "scan" else self.needs


# Methods name their source; the functions themselves are in curation/signals/. "Frames" are all frames of a clip, "samples"
# those measured at full resolution: one a second, at most every twelfth frame.
TAGS: tuple[TagSpec, ...] = (
    TagSpec("quality_short_side", "quality", "int32", "px", 1, None, "high", "shorter side of the active picture"),
    TagSpec("quality_fps", "quality", "float32", "frames/s", 0, None, "none", "average frame rate of the clip"),
    TagSpec("quality_bit_rate", "quality", "float32", "Mbit/s", 0, None, "high", "size of the source over its duration, sound included"),
    TagSpec("quality_bits_per_pixel", "quality", "float32", "bit/px", 0, None, "high", "bit rate of the source over pixels per second"),
    TagSpec("quality_bit_depth", "quality", "int32", "bit", 1, 16, "high", "bits per sample of the source's pixel format"),
    TagSpec("quality_decode_errors", "quality", "float32", "share", 0, 1, "low", "damaged packets and pictures per frame of the source"),
    TagSpec("quality_sharpness", "quality", "float32", "", 0, 1, "high", "Laplacian energy less noise, x/(x+12 levels); mean of samples"),
    TagSpec("quality_noise", "quality", "float32", "levels", 0, None, "low", "Immerkaer 1996, lower quartile of 16 px tiles; median of samples"),
    TagSpec("quality_blockiness", "quality", "float32", "", 0, None, "low", "excess of steps on the 8 px grid (Wang et al. 2002); mean of samples"),
    TagSpec("quality_combing", "quality", "float32", "", 0, 1, "low", "lines differ more from neighbors than within their field; mean of samples"),
    TagSpec("quality_exposure", "quality", "float32", "", 0, 1, "none", "mean luma; mean of samples"),
    TagSpec("quality_overexposed", "quality", "float32", "share", 0, 1, "low", "pixels with luma of 250 and more; mean of samples"),
    TagSpec("quality_underexposed", "quality", "float32", "share", 0, 1, "low", "pixels with luma of 5 and less; mean of samples"),
    TagSpec("quality_contrast", "quality", "float32", "", 0, 1, "high", "RMS contrast of luma over its maximum; mean of samples"),
    TagSpec("quality_dynamic_range", "quality", "float32", "", 0, 1, "high", "99th less 1st percentile of luma; mean of samples"),
    TagSpec("quality_bar_area", "quality", "float32", "share", 0, 1, "low", "picture lost to black bars, those of the clip's crop"),
    TagSpec("quality_black_ratio", "quality", "float32", "share", 0, 1, "low", "frames with mean luma below 12 and deviation below 8 levels"),
    TagSpec("quality_frozen_ratio", "quality", "float32", "share", 0, 1, "low", "frames in still stretches of 0.5 s and longer"),
    TagSpec("quality_duplicate_ratio", "quality", "float32", "share", 0, 1, "low", "frames that repeat the one before, outside still stretches"),
    TagSpec("quality_flicker", "quality", "float32", "levels", 0, None, "low", "mean luma of a frame against its two neighbors; mean of frames"),
    TagSpec("aesthetics_colorfulness", "aesthetics", "float32", "", 0, None, "high", "Hasler and Suesstrunk 2003, M; mean of samples"),
    TagSpec("aesthetics_saturation", "aesthetics", "float32", "", 0, 1, "none", "mean of largest less smallest color channel; mean of samples"),
    TagSpec("aesthetics_warmth", "aesthetics", "float32", "", -1, 1, "none", "(red - blue)/(red + blue) of the mean color; mean of samples"),
    TagSpec("aesthetics_color_cast", "aesthetics", "float32", "", 0, 1, "low", "spread of the mean color's channels; mean of samples"),
    TagSpec("aesthetics_luma_entropy", "aesthetics", "float32", "", 0, 1, "high", "entropy of the luma histogram over 8 bits; mean of samples"),
    TagSpec("aesthetics_edge_density", "aesthetics", "float32", "share", 0, 1, "none", "pixels on a clear edge (Sobel): clutter; mean of samples"),
    TagSpec("naturalness_static_overlay", "naturalness", "float32", "share", 0, 1, "low", "edges that stay while what is around them changes; null if little does"),
    TagSpec("naturalness_text_area", "naturalness", "float32", "share", 0, 1, "low", "proxy: dense strokes on flat ground; mean of samples"),
    TagSpec("naturalness_flat_area", "naturalness", "float32", "share", 0, 1, "low", "pixels equal to their right neighbor; median of samples"),
    TagSpec("naturalness_axis_edges", "naturalness", "float32", "share", 0, 1, "low", "strong edges exactly along rows or columns; null without edges"),
    TagSpec("naturalness_slideshow", "naturalness", "float32", "", 0, 1, "low", "proxy: share of change in single-frame jumps x share of still frames"),
    TagSpec("naturalness_screen_recording", "naturalness", "float32", "", 0, 1, "low", "proxy: geometric mean of flat area, axis edges, noiselessness, still frames"),
    TagSpec("motion_mean", "motion", "float32", "diag/s", 0, None, "none", "mean DIS flow speed (Kroeger et al. 2016); mean of pairs, 3 a second"),
    TagSpec("motion_p95", "motion", "float32", "diag/s", 0, None, "none", "95th percentile of flow speed in the picture; mean of pairs"),
    TagSpec("motion_moving_area", "motion", "float32", "share", 0, 1, "none", "pixels faster than 0.02 diag/s; mean of pairs"),
    TagSpec("motion_foreground", "motion", "float32", "diag/s", 0, None, "none", "mean speed left after the camera's similarity motion; mean of pairs"),
    TagSpec("motion_shake", "motion", "float32", "diag/s", 0, None, "low", "RMS of camera velocity around its 5-frame mean (phase correlation)"),
    TagSpec("motion_pan", "motion", "float32", "diag/s", None, None, "none", "camera speed to the right, robust similarity fit; median of pairs"),
    TagSpec("motion_tilt", "motion", "float32", "diag/s", None, None, "none", "camera speed upward, likewise"),
    TagSpec("motion_zoom", "motion", "float32", "1/s", None, None, "none", "relative magnification per second, likewise"),
    TagSpec("motion_roll", "motion", "float32", "rad/s", None, None, "none", "camera rotation clockwise, likewise"),
    TagSpec("motion_camera", "motion", "string", "", None, None, "none", "name of the camera motion that dominates, from pan, tilt, zoom, roll and shake"),
    TagSpec("content_dominant_color", "content", "string", "", None, None, "none", "commonest hue by chroma, or gray; most frequent of samples"),
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
