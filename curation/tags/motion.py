"""Tags of the dimension motion."""

import numpy as np

from curation.clips import Clip
from curation.signals.motion import classify_camera, global_shifts, jitter
from curation.tags.summary import Values
from schemas.records import VideoRecord


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Motion tags of a clip by name; none where no pair of frames was measured."""
    flows = clip.flows
    if not flows:
        return {}
    diagonal = np.hypot(clip.record.width, clip.record.height)
    shifts = global_shifts(clip.luma) * (clip.record.width, clip.record.height) / diagonal
    shake = jitter(shifts, np.diff(clip.time_s))
    camera = classify_camera(np.array([(flow.pan, flow.tilt, flow.zoom, flow.roll) for flow in flows]), shake)
    return {
        "motion_mean": float(np.mean([flow.mean for flow in flows])),
        "motion_p95": float(np.mean([flow.p95 for flow in flows])),
        "motion_moving_area": float(np.mean([flow.moving for flow in flows])),
        "motion_foreground": float(np.mean([flow.foreground for flow in flows])),
        "motion_shake": shake,
        "motion_pan": camera.pan,
        "motion_tilt": camera.tilt,
        "motion_zoom": camera.zoom,
        "motion_roll": camera.roll,
        "motion_camera": camera.kind,
    }
