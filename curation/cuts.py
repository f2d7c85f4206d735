"""Hard cuts: steps between two frames that stand out from the steps around them, in pixels and in histogram.

In: the thumbnails of a film and their `Changes`. Out: `Found` boundaries of the kind "cut". What makes a cut is
weighed by a logistic regression (`CutMeasures.evidence`); flashes and whip pans are then ruled out by looking at the
pictures, and scenedetect's AdaptiveDetector is asked about the doubtful ones.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from curation.boundaries import Boundary, Found, ShotConfig
from curation.signals.change import PLANE_SIZES, THUMBNAIL_SIZE, Changes, FrameFeatures, distances, is_moved

_NUM_RIVALS = 8  # moving steps looked at on each side of a candidate
_RIVALS_WITHIN_S = 1.2
_PAN_REACH = 3  # pixels of the thumbnail, a tenth of the picture
_UNLIKE = 0.5
_UNLIKE_HISTOGRAM = 0.3
_DOUBT = 0.5
_ANY_RATE = 25.0  # scenedetect wants a frame rate; nothing here depends on it


@dataclass(frozen=True)
class CutMeasures:
    """What is known of the candidates; arrays [C]. Prominence is the log2 of a ratio to nearby rivals, clipped.

    frame: first frame of the new shot, if there is one.
    size: log2 of the step.
    prominence: of the step over the second largest rival; the largest may be another cut.
    calm_prominence: of the step over the largest rival of the calmer side; a calm shot may meet a wild one.
    histogram_prominence: of the histogram step over the second largest rival. Motion moves pixels, not histograms.
    histogram_step: as in `Changes`, at most 1.
    unlikeness: 1 - correlation of the two frames, 0..1.
    """

    frame: np.ndarray
    size: np.ndarray
    prominence: np.ndarray
    calm_prominence: np.ndarray
    histogram_prominence: np.ndarray
    histogram_step: np.ndarray
    unlikeness: np.ndarray

    def evidence(self) -> np.ndarray:
        """Log odds that each candidate is a cut, float [C].

        The weights are those of a logistic regression, rounded. It was fitted to spliced reels of seeds 1 to 4, to
        hand-labeled films and to single shots, each also with frames left out and with frames repeated.
        """
        return (
            1.8 * self.size
            + 1.0 * self.prominence
            + 1.5 * self.calm_prominence
            + 1.5 * self.histogram_prominence
            + 1.8 * self.histogram_step
            + 1.2 * self.unlikeness
            - 15.2
        )


@dataclass(frozen=True)
class _Rivals:
    """The largest steps on one side of each candidate; arrays [C]."""

    largest: np.ndarray
    second: np.ndarray
    histogram_second: np.ndarray


def find_cuts(features: FrameFeatures, changes: Changes, config: ShotConfig) -> list[Found]:
    """Hard cuts in order of time. Some may lie inside fades or dissolves, or close together."""
    measures = measure_cuts(features, changes, config)
    evidence = measures.evidence() - config.cut_evidence
    doubtful = (evidence > -_DOUBT) & (evidence <= 0)
    evidence[doubtful] += _DOUBT * scenedetect_agrees(features, measures.frame[doubtful])
    flash_frames = max(2, round(config.flash_s / features.frame_s))
    found = []
    for number in np.flatnonzero(evidence > 0):
        frame = int(measures.frame[number])
        is_pan = is_moved(features.luma[frame - 1], features.luma[frame], _PAN_REACH)
        if is_pan or is_flash(features.thumbnails, frame, flash_frames):
            continue
        unlike = measures.unlikeness[number] > _UNLIKE and measures.histogram_step[number] > _UNLIKE_HISTOGRAM
        found.append(Found(Boundary("cut", frame, frame), float(evidence[number]), bool(unlike)))
    return found


def measure_cuts(features: FrameFeatures, changes: Changes, config: ShotConfig) -> CutMeasures:
    """Measure all candidates: the steps of some size that are the largest within two frames."""
    step, histogram_step = changes.step, changes.histogram_step
    padded = np.pad(step, 2)
    around = np.max([padded[k : k + len(step)] for k in range(5)], axis=0)
    frame = np.flatnonzero((step >= config.min_cut_step) & (step >= around))
    reach = int(np.clip(round(_RIVALS_WITHIN_S / features.frame_s), _NUM_RIVALS, 60))
    before = _rivals(changes, frame, -np.arange(1, reach + 1))
    after = _rivals(changes, frame, np.arange(1, reach + 1))
    size, histogram_size = step[frame], histogram_step[frame]
    histogram_rival = np.maximum(before.histogram_second, after.histogram_second)
    return CutMeasures(
        frame=frame,
        size=np.log2(np.clip(size, 1, 64)),
        prominence=_prominence(size, np.maximum(before.second, after.second), 0.5, 16),
        calm_prominence=_prominence(size, np.minimum(before.largest, after.largest), 0.5, 16),
        histogram_prominence=_prominence(histogram_size, histogram_rival, 0.02, 8),
        histogram_step=np.minimum(histogram_size, 1),
        unlikeness=1 - np.maximum(_correlation(features.thumbnails, changes, frame - 1, frame), 0),
    )


def _rivals(changes: Changes, frame: np.ndarray, offsets: np.ndarray) -> _Rivals:
    """Look at the nearest moving steps in the direction of `offsets` [R] from each candidate `frame` [C].

    Repeated frames are passed over, so that a film of 8 frames per second played at 24 is judged by its own steps.
    """
    at = frame[:, None] + offsets
    inside = (at >= 1) & (at < len(changes.step))
    at = np.where(inside, at, 0)
    moving = inside & (changes.step[at] > np.maximum(0.15 * changes.step[frame], 0.6)[:, None])
    moving &= np.cumsum(moving, axis=1) <= _NUM_RIVALS
    steps = np.sort(np.where(moving, changes.step[at], 0), axis=1)
    histogram_steps = np.sort(np.where(moving, changes.histogram_step[at], 0), axis=1)
    # Where the film ends before anything moved, the calm of this side means nothing.
    unknown = ~moving.any(axis=1) & (inside.sum(axis=1) < _NUM_RIVALS)
    return _Rivals(np.where(unknown, np.inf, steps[:, -1]), steps[:, -2], histogram_steps[:, -2])


def _prominence(value: np.ndarray, rival: np.ndarray, floor: float, most: float) -> np.ndarray:
    return np.asarray(np.log2(np.clip(value / np.maximum(rival, floor), 0.5, most)))


def _correlation(thumbnails: np.ndarray, changes: Changes, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation of frames `left` [C] with frames `right` [C], each plane about its own mean."""
    product = np.einsum("ij,ij->i", thumbnails[left].astype(np.float32), thumbnails[right].astype(np.float32))
    product -= (changes.means[left] * changes.means[right]) @ PLANE_SIZES
    power = np.maximum(changes.contrast[left] * changes.contrast[right], 1)
    return np.asarray(product / THUMBNAIL_SIZE / power)


def is_flash(thumbnails: np.ndarray, frame: int, flash_frames: int) -> bool:
    """Whether the picture of before `frame` is back soon after, or the picture at `frame` was there shortly before.

    The first is how a flash begins, or something that passes close to the lens; the second is how it ends.
    """
    before, here = thumbnails[frame - 1].astype(np.float32), thumbnails[frame].astype(np.float32)
    later = distances(thumbnails[frame + 1 : frame + 1 + flash_frames], before)
    earlier = distances(thumbnails[max(frame - 1 - flash_frames, 0) : frame - 1], here)
    away = np.sqrt(np.mean((here - before) ** 2))
    return bool(min(later.min(initial=np.inf), earlier.min(initial=np.inf)) < 0.5 * away)


def scenedetect_agrees(features: FrameFeatures, frames: np.ndarray) -> np.ndarray:
    """Whether scenedetect's AdaptiveDetector, at its default thresholds, cuts at each of `frames`: bool [C].

    It is shown the thumbnails as small BGR pictures, and of the film only its window around the frame, so that a
    second opinion costs nothing where there is no doubt.
    """
    agrees = np.zeros(len(frames), bool)
    for number, frame in enumerate(frames.tolist()):
        detector = AdaptiveDetector(min_scene_len=1)
        first = max(frame - 2 * detector.window_width, 0)
        for offset, picture in enumerate(_bgr(features, first, frame + 2 * detector.window_width)):
            cuts = detector.process_frame(FrameTimecode(first + offset, fps=_ANY_RATE), picture)
            agrees[number] |= any(cut.frame_num == frame for cut in cuts)
    return agrees


def _bgr(features: FrameFeatures, first: int, end: int) -> np.ndarray:
    """Thumbnails first .. end-1 as scenedetect wants its frames: uint8 [n, 24, 32, 3]."""
    luma = features.luma[first:end]
    chroma = features.chroma[first:end].repeat(2, axis=2).repeat(2, axis=3)
    ycrcb = np.stack([luma, chroma[:, 1], chroma[:, 0]], axis=-1)
    bgr = cv2.cvtColor(ycrcb.reshape(-1, luma.shape[2], 3), cv2.COLOR_YCrCb2BGR)
    return np.asarray(bgr).reshape(ycrcb.shape)
