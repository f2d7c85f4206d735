"""The one pass: every picture of a source is decoded once and leaves behind all that later steps need.

In: the address of a video. Out: a `Scan`. For each frame a thumbnail and a few numbers that depend on it and the frame
before it alone; for sampled frames the measurements that need full resolution, a JPEG and a small luma plane. Cuts, clips and
their tags are made from these afterwards, so a long film can be scanned in pieces with the same result.
"""

from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO

import av
import cv2
import numpy as np

from curation.audio import Sound, SoundMeter
from curation.frames import DecodeLog, MediaError, Picture, decode, nominal_rate, open_media, planes, upright, video_stream
from curation.isolate import report
from curation.keyframes import encode, missing
from curation.probe import StreamFacts, probe
from curation.shots import ShotConfig, ShotDetector, frame_ends
from curation.signals import color, layout, quality
from curation.signals.change import FrameFeatures, thumbnail
from curation.signals.flow import Flow, FlowMeter
from curation.signals.planes import SMALL_SIDE, TINY_SHAPE, SmallPlanes, full_range_chroma, full_range_luma, match, shrink, tiny_rgb
from curation.signals.view import View
from schemas.records import FailureCode

_SPOOL_MEMORY = 64 << 20
_RING_BYTES = 48 << 20
_RING_FRAMES = 20
_LOOK_BACK_EVERY = 6
_FLOW_REACH = 5  # frames
_DRIFT = 0.12  # mean absolute difference over eight frames, as a share of the contrast


@dataclass(frozen=True)
class ScanConfig:
    """How densely a video is looked at, and how its shots are cut."""

    shots: ShotConfig = field(default_factory=ShotConfig)
    detector: ShotDetector | None = None  # in place of our own
    min_clip_s: float = 1.0  # shorter clips are marked, not dropped
    sample_interval_s: float = 1.0  # full-resolution measurements and keyframe candidates
    sample_interval_frames: int = 12  # but not more often than this, for low frame rates
    flow_rate: float = 2.0  # pairs of frames a second in which motion is measured
    flow_interval_frames: int = 3  # but not more often than this
    flow_gap_s: float = 0.075  # least time between the two frames of a pair, as far as they are no more than five frames apart
    keyframe_side: int = 512  # longest side of a keyframe, in pixels
    jpeg_quality: int = 90


@dataclass(frozen=True, slots=True)
class Measures:
    """Measurements of one sampled frame, by room."""

    quality: quality.Quality
    color: color.Color
    layout: layout.Layout


@dataclass(frozen=True, slots=True)
class Blob:
    """Where something lies in the scan's spool."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A keyframe candidate; measured where it lies on the sampling grid, or is the first of a stretch without such a frame."""

    frame: int
    time_s: float
    jpeg: Blob
    width: int
    height: int
    small: Blob  # luma uint8 [small_height, small_width]
    small_shape: tuple[int, int]
    sharpness: float
    measures: Measures | None


@dataclass(frozen=True)
class FrameStats:
    """Per-frame arrays [N] beside the thumbnails."""

    luma_mean: np.ndarray  # of the small luma plane, in levels
    luma_deviation: np.ndarray
    step: np.ndarray  # mean absolute luma difference to the frame before, in levels; 0 for the first


@dataclass(frozen=True)
class Scan:
    """What one pass over a video leaves behind. Valid inside `scan_video`, which owns the spool."""

    facts: StreamFacts
    log: DecodeLog
    features: FrameFeatures
    stats: FrameStats
    samples: list[Sample]  # in order of frames
    flow_frames: np.ndarray  # [K, 2] the two frames of each pair
    flows: list[Flow]
    sound: Sound | None  # None without an audio stream that can be decoded
    is_interlaced: bool
    keyframe_interval_s: float | None
    spool: IO[bytes]
    tiny: IO[bytes]

    @property
    def num_frames(self) -> int:
        return self.features.num_frames

    @property
    def pictures(self) -> np.ndarray:
        """Every frame as `ScanConfig.detector` sees it, on disk: uint8 RGB [N, 27, 48, 3]. Kept only where there is a detector."""
        self.tiny.flush()
        return np.memmap(self.tiny, np.uint8, "r", shape=(self.num_frames, *TINY_SHAPE))

    @cached_property
    def frame_ends(self) -> np.ndarray:
        """When each frame leaves the screen, in seconds. [N]"""
        return frame_ends(self.features.time_s)

    def blob(self, blob: Blob) -> bytes:
        """Bytes that the pass put by."""
        self.spool.seek(blob.offset)
        return self.spool.read(blob.size)

    def small_luma(self, sample: Sample) -> np.ndarray:
        """A sample's small luma plane, uint8 [h, w]."""
        return np.frombuffer(self.blob(sample.small), np.uint8).reshape(sample.small_shape)


@contextmanager
def scan_video(uri: str, config: ScanConfig, threads: int = 1) -> Iterator[Scan]:
    """Decode a video once and measure it. Raises MediaError where it cannot be decoded to its end."""
    cv2.setNumThreads(1)  # one thread budget per process; it is the decoder's
    log = DecodeLog()
    with SpooledTemporaryFile(_SPOOL_MEMORY) as spool, TemporaryFile() as tiny, open_media(uri) as container:
        stream = video_stream(container, threads)
        scanner: _Scanner | None = None
        meter = SoundMeter.of(container)
        for picture in decode(container, stream, log, meter.take if meter else None):
            if scanner is None:
                scanner = _Scanner(config, probe(container, stream, picture.frame), nominal_rate(stream), spool, tiny)
            scanner.see(picture)
            report(picture.index + 1, picture.time_s)
        if scanner is None:
            raise MediaError(FailureCode.NO_FRAMES, f"no picture could be decoded ({log.last_error or 'the stream is empty'})")
        scan = scanner.finish(log, meter.finish(log.origin_s) if meter else None)
        _check_whole(scan)
        yield scan


def _check_whole(scan: Scan) -> None:
    """Raises MediaError where the file ends well before it says, or where most of it is damaged."""
    decoded_s = float(scan.features.time_s[-1])
    stated_s = scan.facts.stated_s
    reached_s = max(decoded_s, scan.log.reached_s)
    if stated_s is not None and stated_s - reached_s > max(0.5, 0.05 * stated_s):
        message = f"the file ends after {reached_s:.2f} of {stated_s:.2f} s"
        raise MediaError(FailureCode.TRUNCATED, message, scan.num_frames, decoded_s)
    if scan.log.flaws > max(1, scan.num_frames // 4):
        cause = scan.log.last_error or "damaged pictures"
        message = f"{scan.log.flaws} damaged packets or pictures beside {scan.num_frames} decoded frames ({cause})"
        raise MediaError(FailureCode.CORRUPT, message, scan.num_frames, decoded_s)


class _Scanner:
    """State of a pass in progress. `see` is called for every picture in order; everything it keeps is bounded or tiny."""

    def __init__(self, config: ScanConfig, facts: StreamFacts, rate: float, spool: IO[bytes], tiny: IO[bytes]):
        self.config, self.facts, self.spool, self.tiny = config, facts, spool, tiny
        self.interval_s = max(config.sample_interval_s, config.sample_interval_frames / rate)
        self.flow_stride = max(config.flow_interval_frames, round(rate / config.flow_rate))
        self.flow_meter = FlowMeter()
        self.times, self.means, self.deviations, self.steps = array("d"), array("f"), array("f"), array("f")
        self.thumbnails = bytearray()
        self.flow_frames: list[tuple[int, int]] = []
        self.earlier = deque[tuple[int, float, np.ndarray]](maxlen=_FLOW_REACH)  # frames, their times and small luma planes
        self.flows: list[Flow] = []
        self.samples: list[Sample] = []
        self.ring = deque[Picture](maxlen=max(3, min(_RING_FRAMES, _RING_BYTES // (facts.width * facts.height * 2))))
        self.segment_start = 0
        self.recent_thumbs = deque[np.ndarray](maxlen=8)
        self.drifting = False
        self.recent_steps = (0.0, 0.0, 0.0)
        self.small: SmallPlanes | None = None
        self.interlaced = self.intra = 0
        self.last_time = 0.0

    def see(self, picture: Picture) -> None:
        index, time_s = picture.index, picture.time_s
        small = self._small_planes(picture.frame)
        thumb = thumbnail(small.luma, small.u, small.v)
        mean, deviation = cv2.meanStdDev(small.luma)
        step = 0.0
        before = self.small
        if before is not None and before.luma.shape == small.luma.shape:
            step = cv2.norm(small.luma, before.luma, cv2.NORM_L1) / small.luma.size
        if index and index % self.flow_stride == 0:
            self._measure_flow(picture, small.luma)
        turns = self._drift_turns(thumb, deviation.item())
        if step > 3 + 2 * max(self.recent_steps) or (turns and self.drifting):
            self._look_back(index)
        elif turns:
            self.segment_start = index
        self.ring.append(picture)
        if index == 0 or int(time_s / self.interval_s) > int(self.last_time / self.interval_s):
            self._sample(picture, small, measured=True)
        self.times.append(time_s)
        self.means.append(mean.item())
        self.deviations.append(deviation.item())
        self.steps.append(step)
        self.thumbnails += thumb.tobytes()
        if self.config.detector:
            self.tiny.write(tiny_rgb(small).tobytes())
        self.interlaced += picture.frame.interlaced_frame
        self.intra += picture.frame.key_frame
        self.recent_steps = (*self.recent_steps[1:], step)
        self.earlier.appendleft((index, time_s, small.luma))
        self.small, self.last_time = small, time_s

    def _measure_flow(self, picture: Picture, luma: np.ndarray) -> None:
        """Motion since the last frame that is far enough back for slow motion to show, or since the farthest there is."""
        number, time_s, before = next((one for one in self.earlier if picture.time_s - one[1] >= self.config.flow_gap_s), self.earlier[-1])
        if before.shape == luma.shape:
            self.flow_frames.append((number, picture.index))
            self.flows.append(self.flow_meter.measure(before, luma, picture.time_s - time_s))

    def _drift_turns(self, thumb: np.ndarray, contrast: float) -> bool:
        """Whether the picture has just begun or stopped to differ from the one eight frames ago, as in a dissolve."""
        drift = cv2.norm(thumb, self.recent_thumbs[0], cv2.NORM_L1) / thumb.size if self.recent_thumbs else 0.0
        self.recent_thumbs.append(thumb)
        limit = _DRIFT * (contrast + 10)  # a dark or flat picture fades by fewer levels
        turns = drift < limit / 2 if self.drifting else drift > limit
        self.drifting ^= turns
        return turns

    def finish(self, log: DecodeLog, sound: Sound | None) -> Scan:
        num_frames = len(self.times)
        self._look_back(num_frames)
        time_s = np.array(self.times)
        return Scan(
            facts=self.facts,
            log=log,
            features=FrameFeatures(time_s, np.frombuffer(self.thumbnails, np.uint8).reshape(num_frames, -1)),
            stats=FrameStats(np.array(self.means), np.array(self.deviations), np.array(self.steps)),
            samples=sorted(self.samples, key=lambda sample: sample.frame),
            flow_frames=np.array(self.flow_frames, np.int64).reshape(-1, 2),
            flows=self.flows,
            sound=sound,
            is_interlaced=self.interlaced > num_frames / 2,
            keyframe_interval_s=float(time_s[-1]) / self.intra if self.intra else None,
            spool=self.spool,
            tiny=self.tiny,
        )

    def _small_planes(self, frame: av.VideoFrame) -> SmallPlanes:
        luma, *chroma = planes(frame)
        is_full, rotation = self.facts.is_full_range, self.facts.rotation
        luma = full_range_luma(shrink(luma, SMALL_SIDE), is_full)
        height, width = luma.shape[0] // 4, luma.shape[1] // 4
        u, v = (
            (full_range_chroma(match(plane, height, width), is_full) for plane in chroma)
            if chroma
            else (np.full((1, 1), 128, np.uint8),) * 2
        )
        # A picture that was not shrunk is still the decoder's own buffer, with padded rows.
        return SmallPlanes(*(np.ascontiguousarray(upright(plane, rotation)) for plane in (luma, u, v)))

    def _look_back(self, end: int) -> None:
        """A shot may end here: see to it that its last frames, however few, hold keyframe candidates enough."""
        start, self.segment_start = self.segment_start, end
        held = {picture.index: picture for picture in self.ring if start <= picture.index < end}
        if not held:
            return
        first = min(held)
        taken = [sample.frame for sample in self.samples[-_RING_FRAMES:] if sample.frame >= first]
        wanted = missing(taken, first, end - first)
        wanted += [
            frame
            for frame in range(end - 3, first, -_LOOK_BACK_EVERY)
            if min((abs(frame - other) for other in taken + wanted), default=99) > 2
        ]
        for number, frame in enumerate(sorted(wanted)):
            self._sample(held[frame], self._small_planes(held[frame].frame), measured=not taken and number == 0)

    def _sample(self, picture: Picture, small: SmallPlanes, measured: bool) -> None:
        view = View(upright(planes(picture.frame)[0], self.facts.rotation), small, self.facts.is_full_range)
        still = encode(picture.frame, self.facts, self.config.keyframe_side, self.config.jpeg_quality)
        self.samples.append(
            Sample(
                frame=picture.index,
                time_s=picture.time_s,
                jpeg=self._put(still.jpeg),
                width=still.width,
                height=still.height,
                small=self._put(small.luma.tobytes()),
                small_shape=small.luma.shape,
                sharpness=view.sharpness,
                measures=Measures(quality.measure(view), color.color(view.bgr), layout.measure(view)) if measured else None,
            )
        )

    def _put(self, data: bytes) -> Blob:
        offset = self.spool.seek(0, 2)
        self.spool.write(data)
        return Blob(offset, len(data))
