"""Aesthetics tags of a clip from its keyframes: composition, light and palette."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from curation.signals import composition, light, palette
from curation.signals.saliency import saliency
from curation.signals.still import StillView
from labeling.scores import Term

PROXY: tuple[Term, ...] = (
    Term("aesthetics_palette_entropy", 0.1, 0.55, 1.0),
    Term("aesthetics_hue_harmony", 0.6, 0.95, 0.5),
    Term("aesthetics_contrast_local", 0.03, 0.18, 1.0),
    Term("aesthetics_texture", 0.05, 0.35, 1.0),
    Term("aesthetics_negative_space", 0.02, 0.35, 1.0),
    Term("aesthetics_lighting_evenness", 0.4, 0.8, 0.5),
    Term("aesthetics_depth_of_field", 0.15, 0.6, 1.5),
    Term("aesthetics_subject_area", 0.5, 0.1, 1.0),
    Term("aesthetics_rule_of_thirds", 0.1, 0.35, 0.5),
    Term("aesthetics_balance", 0.4, 0.9, 0.5),
    Term("aesthetics_horizon_tilt", 6.0, 1.5, 0.5),
)
"""Photographers' rules of thumb (after Datta et al., "Studying aesthetics in photographic images", ECCV 2006), not a learned taste."""


def tags(stills: Sequence[StillView]) -> dict[str, object]:
    """Aesthetics tags of the pictures of a clip by name."""
    pictures = [_picture(still) for still in stills]
    values: dict[str, float | None] = {name: _mean([picture[name] for picture in pictures]) for name in pictures[0]}
    # The dearest measurement, and one that a camera seldom changes: the first picture from the middle on that has a horizon tells it.
    from_middle = sorted(range(len(stills)), key=lambda index: abs(2 * index - len(stills) + 1))
    tilts = (composition.horizon_tilt(stills[index].small_luma) for index in from_middle)
    values["aesthetics_horizon_tilt"] = next((tilt for tilt in tilts if tilt is not None), None)
    return {**values, "aesthetics_proxy": proxy(values)}


def proxy(values: Mapping[str, float | None]) -> float | None:
    """Weighted mean of how well a clip meets the rules of `PROXY`, 0-1; those that could not be measured are left out."""
    # The one signed input: a tilt to either side is a tilt.
    met = [(term.utility(abs(value)), term.weight) for term in PROXY if (value := values.get(term.tag)) is not None]
    return sum(utility * weight for utility, weight in met) / sum(weight for _, weight in met) if met else None


def _picture(still: StillView) -> dict[str, float | None]:
    """What is averaged over the pictures of a clip."""
    lightness = np.ascontiguousarray(still.small_lab[..., 0])
    hue, saturation, value = cv2.split(still.small_hsv)
    tiles = light.light_tiles(still.small_luma)
    drawn = saliency(still.small_lab)
    return {
        "aesthetics_palette_entropy": palette.palette_entropy(still.small_lab),
        "aesthetics_hue_harmony": palette.hue_harmony(hue, cv2.multiply(saturation, value, scale=1 / 255)),
        "aesthetics_key": light.key(lightness),
        "aesthetics_contrast_local": light.local_contrast(lightness),
        "aesthetics_lighting_evenness": light.evenness(tiles),
        "aesthetics_vignetting": light.vignetting(tiles),
        "aesthetics_backlight": light.backlight(lightness),
        "aesthetics_rule_of_thirds": composition.rule_of_thirds(drawn.residual) if drawn else None,
        "aesthetics_centrality": composition.centrality(drawn.residual) if drawn else None,
        "aesthetics_subject_area": composition.subject_area(drawn.subject) if drawn else None,
        "aesthetics_balance": composition.balance(drawn.subject) if drawn else None,
        "aesthetics_symmetry": composition.symmetry(drawn.lab, *still.slopes) if drawn else None,
        "aesthetics_negative_space": composition.negative_space(*still.slopes),
        "aesthetics_texture": composition.texture(*still.slopes),
        "aesthetics_depth_of_field": composition.depth_of_field(still.luma),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
