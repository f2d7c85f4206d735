"""Composite scores: documented monotone combinations of weight-free tags, each with what every input took away.

A score is the product over its terms of 1 - weight * (1 - utility). A term's utility is 1 from `good` on and 0 from `bad` on, and
linear between, so a term can take away at most its weight, and one grave fault is not made up for by ten small virtues. A
tag that could not be measured takes nothing away.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from labeling.tagger import ClipView
from schemas.tags import TAGS, TagSpec


@dataclass(frozen=True, slots=True)
class Term:
    """One input of a score. `bad` above `good` for a tag of which less is better."""

    tag: str
    bad: float
    good: float
    weight: float

    def utility(self, value: float) -> float:
        """0 (at `bad` and beyond) to 1 (at `good` and beyond)."""
        return min(1.0, max(0.0, (float(value) - self.bad) / (self.good - self.bad)))


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one input does to a clip's score: the score is the product of all factors."""

    tag: str
    value: Any
    utility: float | None
    weight: float
    factor: float


SCORES: dict[str, tuple[Term, ...]] = {
    "quality_score": (
        Term("quality_short_side", 120, 720, 0.4),
        Term("quality_sharpness", 0.05, 0.45, 0.4),
        Term("quality_edge_width", 8, 3, 0.3),
        Term("quality_upscale", 0.6, 0.25, 0.25),
        Term("quality_motion_blur", 5, 2.5, 0.2),
        Term("quality_noise", 10, 2.5, 0.3),
        Term("quality_blockiness", 0.6, 0.1, 0.3),
        Term("quality_ringing", 1.2, 0.8, 0.15),
        Term("quality_banding", 0.3, 0.03, 0.2),
        Term("quality_combing", 0.3, 0.02, 0.5),
        Term("quality_overexposed", 0.4, 0.1, 0.3),
        Term("quality_underexposed", 0.7, 0.3, 0.3),
        Term("quality_dynamic_range", 0.2, 0.6, 0.4),
        Term("quality_black_ratio", 0.5, 0.0, 0.9),
        Term("quality_white_ratio", 0.5, 0.0, 0.9),
        Term("quality_frozen_ratio", 1.0, 0.3, 0.5),
        Term("quality_duplicate_ratio", 0.6, 0.3, 0.2),
        Term("quality_flicker", 8, 2, 0.3),
        Term("quality_residual_cut", 1.0, 0.6, 0.5),
        Term("quality_decode_errors", 0.1, 0.0, 0.5),
        Term("quality_bar_area", 0.6, 0.3, 0.2),
        Term("quality_naturalness_distance", 3, 1.5, 0.3),
    ),
    "aesthetics_score": (
        Term("aesthetics_proxy", 0.3, 0.75, 0.6),
        Term("aesthetics_colorfulness", 5, 30, 0.25),
        Term("aesthetics_luma_entropy", 0.5, 0.8, 0.3),
        Term("aesthetics_color_cast", 0.4, 0.2, 0.2),
        Term("aesthetics_vignetting", 0.6, 0.2, 0.15),
        Term("aesthetics_color_stability", 0.3, 0.7, 0.15),
        Term("aesthetics_camera_smoothness", 0.3, 0.7, 0.3),
    ),
    "naturalness_score": (
        Term("naturalness_static_overlay", 0.3, 0.05, 0.4),
        Term("naturalness_corner_logo", 0.3, 0.03, 0.4),
        Term("naturalness_tiled_watermark", 0.3, 0.05, 0.5),
        Term("naturalness_text_area", 0.3, 0.08, 0.4),
        Term("naturalness_subtitle_band", 0.15, 0.03, 0.4),
        Term("naturalness_title_card", 0.6, 0.0, 0.6),
        Term("naturalness_split_screen", 0.8, 0.25, 0.4),
        Term("naturalness_side_fill", 0.5, 0.02, 0.5),
        Term("naturalness_border", 0.4, 0.02, 0.4),
        Term("naturalness_mosaic", 0.2, 0.01, 0.4),
        Term("naturalness_fisheye", 0.5, 0.05, 0.3),
        Term("naturalness_rotated", 1.0, 0.7, 0.2),
        Term("naturalness_flat_area", 1.0, 0.8, 0.3),
        Term("naturalness_cartoon", 0.9, 0.6, 0.2),
        Term("naturalness_screen_recording", 0.9, 0.65, 0.7),
        Term("naturalness_slideshow", 0.9, 0.3, 0.6),
        Term("naturalness_speed_up", 0.8, 0.4, 0.3),
        Term("naturalness_loop", 0.6, 0.2, 0.4),
        Term("naturalness_reverse", 0.6, 0.2, 0.4),
        Term("naturalness_jitter", 0.5, 0.2, 0.3),
        Term("naturalness_transition_residue", 1.0, 0.4, 0.4),
    ),
    "suitability": (
        Term("quality_score", 0.0, 0.9, 0.9),
        Term("aesthetics_score", 0.0, 0.9, 0.6),
        Term("naturalness_score", 0.0, 0.9, 0.9),
        Term("motion_mean", 0.002, 0.01, 0.5),
        Term("motion_shake", 0.3, 0.1, 0.3),
    ),
}
"""By hand, so that ordinary camera footage of the test videos loses little and what is plainly wrong loses much."""


def explain(score: str, tags: Mapping[str, Any]) -> list[Contribution]:
    """What each input of a score does, the most harmful first. `tags`: tag name -> value, with the scores that it builds on."""
    found = []
    for term in SCORES[score]:
        value = tags.get(term.tag)
        utility = None if value is None else term.utility(value)
        factor = 1.0 if utility is None else 1.0 - term.weight * (1.0 - utility)
        found.append(Contribution(term.tag, value, utility, term.weight, factor))
    return sorted(found, key=lambda one: one.factor)


def scores(tags: Mapping[str, Any]) -> dict[str, float | None]:
    """Every score of a clip; None where none of its inputs was measured."""
    known, found = dict(tags), dict[str, float | None]()
    for score in SCORES:
        parts = explain(score, known)
        found[score] = prod(part.factor for part in parts) if any(part.value is not None for part in parts) else None
        known[score] = found[score]
    return found


@dataclass(frozen=True)
class ScoreTagger:
    """Group `scores`."""

    group: str = "scores"
    tags: tuple[TagSpec, ...] = tuple(spec for spec in TAGS if spec.group == "scores")
    reads: tuple[str, ...] = tuple(dict.fromkeys(term.tag for terms in SCORES.values() for term in terms if term.tag not in SCORES))
    embedder: None = None
    captioner: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        return lambda clips: (scores(clip.tags) for clip in clips)
