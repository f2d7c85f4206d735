"""Content tags of a clip from its keyframes."""

from collections.abc import Sequence

import numpy as np

from curation.signals.light import daylight
from curation.signals.palette import color_shares, dominant_colors
from curation.signals.still import StillView


def tags(stills: Sequence[StillView]) -> dict[str, object]:
    """Content tags of the pictures of a clip by name."""
    # Every second pixel: names are for areas.
    shares = np.mean([color_shares(still.small[::2, ::2]) for still in stills], axis=0)
    return {
        "content_dominant_colors": ", ".join(dominant_colors(shares)),
        "content_daylight": float(np.mean([daylight(still.small_lab[..., 0]) for still in stills])),
    }
