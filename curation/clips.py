"""A clip's part of a scan: its span, active picture, samples and keyframes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from curation.keyframes import choose
from curation.scan import FrameStats, Measures, Sample, Scan, ScanConfig
from curation.shots import ClipSpan
from curation.signals.flow import Flow
from curation.signals.hashing import HashSequence, hash_sequence, inside_bars
from curation.signals.layout import Bars
from curation.signals.motion import global_shifts
from schemas.ids import clip_id
from schemas.records import ClipRecord, VideoRecord

_MIN_BAR = 0.01  # thinner bars, as a share of the side, are scanning edges and stay


@dataclass(frozen=True)
class Clip:
    """A span of a scanned video, with what was measured in it."""

    scan: Scan
    span: ClipSpan
    record: ClipRecord
    samples: list[Sample]

    @property
    def frames(self) -> slice:
        return slice(self.span.start_frame, self.span.start_frame + self.span.num_frames)

    @cached_property
    def chosen(self) -> list[Sample]:
        """The samples that become keyframes."""
        return choose(self.samples, self.span.start_frame, self.span.num_frames, self.record.end_s - self.record.start_s)

    @property
    def measures(self) -> list[Measures]:
        return [sample.measures for sample in self.samples if sample.measures]

    @property
    def stats(self) -> FrameStats:
        stats, part = self.scan.stats, self.frames
        return FrameStats(stats.luma_mean[part], stats.luma_deviation[part], stats.step[part])

    @property
    def time_s(self) -> np.ndarray:
        """Times of its frames. [N]"""
        return self.scan.features.time_s[self.frames]

    @property
    def luma(self) -> np.ndarray:
        """Luma thumbnails of its frames, uint8 [N, 24, 32]."""
        return self.scan.features.luma[self.frames]

    @cached_property
    def hashes(self) -> HashSequence:
        """Perceptual hashes of its active picture."""
        record = self.record
        region = inside_bars(
            left=record.crop_x / record.width,
            right=1 - (record.crop_x + record.crop_w) / record.width,
            top=record.crop_y / record.height,
            bottom=1 - (record.crop_y + record.crop_h) / record.height,
        )
        return hash_sequence(self.luma, self.time_s, record.end_s, region)

    @cached_property
    def shifts(self) -> np.ndarray:
        """Camera motion from each frame to the next, x right and y down, in diagonals; NaN where it could not be told. [N - 1, 2]"""
        width, height = self.record.width, self.record.height
        return global_shifts(self.luma) * (width, height) / np.hypot(width, height)

    @property
    def flows(self) -> list[Flow]:
        """Motion of the pairs of which both frames lie in the clip."""
        return self.scan.flows[self._pairs]

    @property
    def flow_time_s(self) -> np.ndarray:
        """Time of the later frame of each of these pairs. [K]"""
        return np.asarray(self.scan.features.time_s[self.scan.flow_frames[self._pairs, 1]])

    @cached_property
    def _pairs(self) -> slice:
        earlier, later = self.scan.flow_frames.T
        return slice(int(np.searchsorted(earlier, self.frames.start)), int(np.searchsorted(later, self.frames.stop)))


@dataclass(frozen=True)
class Crop:
    """What lies outside the active picture at each side, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


def cut_out(scan: Scan, span: ClipSpan, video: VideoRecord, config: ScanConfig) -> Clip:
    """The clip that a span of a scanned video is."""
    time_s = scan.features.time_s
    end = span.start_frame + span.num_frames
    start_s, end_s = float(time_s[span.start_frame]), float(scan.frame_ends[end - 1])
    samples = [sample for sample in scan.samples if span.start_frame <= sample.frame < end]
    bars = common_bars([sample.measures.layout.bars for sample in samples if sample.measures], video.width, video.height)
    record = ClipRecord(
        clip_id=clip_id(video.video_id, span.start_frame, span.num_frames),
        video_id=video.video_id,
        start_frame=span.start_frame,
        num_frames=span.num_frames,
        start_s=start_s,
        end_s=end_s,
        boundary_in=span.boundary_in,
        boundary_out=span.boundary_out,
        is_short=end_s - start_s < config.min_clip_s,
        fps=span.num_frames / (end_s - start_s) if end_s > start_s else video.fps,
        width=video.width,
        height=video.height,
        crop_x=bars.left,
        crop_y=bars.top,
        crop_w=video.width - bars.left - bars.right,
        crop_h=video.height - bars.top - bars.bottom,
    )
    return Clip(scan, span, record, samples)


def common_bars(found: Iterable[Bars | None], width: int, height: int) -> Crop:
    """The black bars that all samples of a clip share; samples too dark to tell are left out."""
    seen = [bars for bars in found if bars is not None]
    if not seen:
        return Crop(0, 0, 0, 0)

    def least(side: Callable[[Bars], int | None], length: int) -> int:
        thickness = min((value for value in map(side, seen) if value is not None), default=0)
        return thickness if thickness >= max(2, _MIN_BAR * length) else 0

    return Crop(
        top=least(lambda bars: bars.top, height),
        bottom=least(lambda bars: bars.bottom, height),
        left=least(lambda bars: bars.left, width),
        right=least(lambda bars: bars.right, width),
    )
