"""Quality of one sampled frame at full resolution: what the tags of the dimension quality are made from."""

from dataclasses import dataclass

from curation.signals.picture import Exposure, blockiness, combing, exposure
from curation.signals.view import View


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality measurements of one frame."""

    sharpness: float
    noise: float
    blockiness: float
    combing: float
    exposure: Exposure


def measure(view: View) -> Quality:
    """Quality facts of a frame."""
    return Quality(
        sharpness=view.sharpness,
        noise=view.noise,
        blockiness=blockiness(*view.steps),
        combing=combing(view.luma),
        exposure=exposure(view.small.luma),
    )
