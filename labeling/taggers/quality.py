"""Quality tags of a clip from its keyframes."""

from collections.abc import Sequence

import numpy as np

from curation.signals.scenestats import naturalness_distance
from curation.signals.still import StillView


def tags(stills: Sequence[StillView]) -> dict[str, object]:
    """Quality tags of the pictures of a clip by name."""
    distances = [distance for still in stills if (distance := naturalness_distance(still.luma)) is not None]
    return {"quality_naturalness_distance": float(np.mean(distances)) if distances else None}
