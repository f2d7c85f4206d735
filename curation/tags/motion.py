"""Tags of the dimension motion."""

import numpy as np

from curation.clips import Clip
from curation.signals.motion import acceleration, classify_camera, consistency, jitter, level, steadiness, sway
from curation.tags.summary import Values
from schemas.records import VideoRecord


def tags(clip: Clip, video: VideoRecord) -> Values:
    """Motion tags of a clip by name; none where no pair of frames was measured."""
    flows = clip.flows
    if not flows:
        return {}
    shake = jitter(clip.shifts, np.diff(clip.time_s))
    rates = np.array([(flow.pan, flow.tilt, flow.zoom, flow.roll) for flow in flows])
    camera = classify_camera(rates, shake)
    speed = np.array([flow.mean for flow in flows])
    return {
        "motion_mean": float(speed.mean()),
        "motion_p95": float(np.mean([flow.p95 for flow in flows])),
        "motion_peak": float(speed.max()),
        "motion_min_patch": float(np.mean([flow.patches for flow in flows], axis=0).min()),
        "motion_moving_area": float(np.mean([flow.moving for flow in flows])),
        "motion_foreground": float(np.mean([flow.foreground for flow in flows])),
        "motion_foreground_area": float(np.mean([flow.foreground_area for flow in flows])),
        "motion_background": float(np.mean([flow.background for flow in flows])),
        "motion_acceleration": acceleration(speed, clip.flow_time_s),
        "motion_consistency": consistency(np.array([(flow.right, flow.down) for flow in flows]), speed),
        "motion_shake": shake,
        "motion_handheld": sway(rates),
        "motion_steadiness": steadiness(sway(rates), shake),
        "motion_pan": camera.pan,
        "motion_tilt": camera.tilt,
        "motion_zoom": camera.zoom,
        "motion_roll": camera.roll,
        "motion_camera": camera.kind,
        "motion_camera_strength": camera.strength,
        "motion_level": level(float(speed.mean())),
    }
