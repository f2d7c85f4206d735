"""Quality of one sampled frame at full resolution: what the tags of the dimension quality are made from."""

from dataclasses import dataclass

from curation.signals.artifacts import banding, edge_widths, ringing, smear, upscale
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
    edge_width: float | None
    smear: float | None
    ringing: float | None
    banding: float
    upscale: float | None


def measure(view: View) -> Quality:
    """Quality facts of a frame."""
    edges = view.lines.edges
    widths = edge_widths(edges)
    return Quality(
        sharpness=view.sharpness,
        noise=view.noise,
        blockiness=blockiness(view.lines.row_steps, view.lines.column_steps),
        combing=combing(view.strips),
        exposure=exposure(view.small.luma),
        edge_width=None if widths is None else float(widths.mean()),
        smear=None if widths is None else smear(widths),
        ringing=ringing(edges),
        banding=banding(edges),
        upscale=upscale(view.lines, view.noise),
    )
