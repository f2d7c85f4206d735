"""From a scan to rows: the video's own, then each clip with its tags and keyframes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from curation.keyframes import Still, choose, encode, missing, read_again
from curation.scan import FrameStats, Measures, Sample, Scan, ScanConfig
from curation.shots import ClipSpan, find_clips
from curation.signals.layout import Bars, static_overlay_share
from curation.signals.motion import classify_camera, global_shifts, jitter
from curation.signals.temporal import black_share, flicker, repeats, slideshow
from curation.sources import Source
from schemas.ids import clip_id
from schemas.records import ClipRecord, KeyframeRecord, Row, TagRecord, VideoRecord
from schemas.tags import TAGS, groups

_OVERLAY_PICTURES = 12
_MIN_BAR = 0.01  # thinner bars, as a share of the side, are scanning edges and stay

Values = dict[str, object]


@dataclass(frozen=True)
class _Clip:
    """A clip's part of a scan."""

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


@dataclass(frozen=True)
class Crop:
    """What lies outside the active picture at each side, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


def rows(scan: Scan, source: Source, config: ScanConfig) -> Iterator[Row]:
    """All rows of one scanned video, ready to store."""
    video = video_record(scan, source)
    yield video
    clips = [_cut_out(scan, span, video, config) for span in find_clips(scan.features, config.shots)]
    late = _late_stills(clips, scan, source.uri, config)
    for clip in clips:
        yield clip.record
        yield from keyframes(clip, late)
        values = tags(clip, video)
        for group in groups():
            yield TagRecord(group, clip.record.clip_id, {tag.name: values.get(tag.name) for tag in TAGS if tag.group == group})


def video_record(scan: Scan, source: Source) -> VideoRecord:
    """The row of videos/."""
    facts, time_s = scan.facts, scan.features.time_s
    duration_s = float(scan.frame_ends[-1]) if len(time_s) > 1 else 0.0
    gaps = np.diff(time_s)
    return VideoRecord(
        video_id=source.content_id,
        uri=source.uri,
        size_bytes=source.size_bytes,
        container=facts.container,
        codec=facts.codec,
        width=facts.width,
        height=facts.height,
        rotation=facts.rotation,
        fps=scan.num_frames / duration_s if duration_s else 0.0,
        is_vfr=bool(len(gaps) > 1 and np.percentile(gaps, 95) - np.percentile(gaps, 5) > 0.1 * np.median(gaps)),
        num_frames=scan.num_frames,
        duration_s=duration_s,
        pix_fmt=facts.pix_fmt,
        bit_depth=facts.bit_depth,
        bit_rate=round(source.size_bytes * 8 / duration_s) if duration_s else 0,
        has_audio=facts.has_audio,
        is_hdr=facts.is_hdr,
        is_interlaced=scan.is_interlaced,
        is_full_range=facts.is_full_range,
        sample_aspect_ratio=facts.sample_aspect_ratio,
        keyframe_interval_s=scan.keyframe_interval_s,
        decode_errors=scan.log.flaws,
        fingerprint=source.fingerprint,
        extra=dict(source.extra),
    )


def _cut_out(scan: Scan, span: ClipSpan, video: VideoRecord, config: ScanConfig) -> _Clip:
    time_s = scan.features.time_s
    end = span.start_frame + span.num_frames
    start_s, end_s = float(time_s[span.start_frame]), float(scan.frame_ends[end - 1])
    samples = [sample for sample in scan.samples if span.start_frame <= sample.frame < end]
    bars = common_bars([sample.measures.bars for sample in samples if sample.measures], video.width, video.height)
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
    return _Clip(scan, span, record, samples)


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


def keyframes(clip: _Clip, late: Mapping[int, Still]) -> Iterator[KeyframeRecord]:
    """A clip's keyframes in time order: at least three where it has as many frames."""
    record, scan = clip.record, clip.scan
    stills = {sample.frame: Still(scan.blob(sample.jpeg), sample.width, sample.height) for sample in clip.chosen}
    stills |= {frame: still for frame, still in late.items() if clip.frames.start <= frame < clip.frames.stop}
    for index, (frame, still) in enumerate(sorted(stills.items())):
        yield KeyframeRecord(record.clip_id, index, float(scan.features.time_s[frame]), frame, still.width, still.height, still.jpeg)


def _late_stills(clips: Iterable[_Clip], scan: Scan, uri: str, config: ScanConfig) -> dict[int, Still]:
    """Keyframes of the few short clips that the pass did not foresee, mostly between two gradual transitions."""
    wanted = [
        frame for clip in clips for frame in missing([sample.frame for sample in clip.chosen], clip.span.start_frame, clip.span.num_frames)
    ]
    pictures = read_again(uri, wanted, [float(scan.features.time_s[frame]) for frame in wanted])
    return {frame: encode(picture, scan.facts, config.keyframe_side, config.jpeg_quality) for frame, picture in pictures.items()}


def tags(clip: _Clip, video: VideoRecord) -> Values:
    """Every tag of a clip by name; what cannot be measured on it is None or left out."""
    return _file_tags(clip, video) | _picture_tags(clip.measures) | _time_tags(clip) | _motion_tags(clip)


def _file_tags(clip: _Clip, video: VideoRecord) -> Values:
    record = clip.record
    pixels_per_s = video.width * video.height * video.fps
    return {
        "quality_short_side": min(record.crop_w, record.crop_h),
        "quality_fps": record.fps,
        "quality_bit_rate": video.bit_rate / 1e6,
        "quality_bits_per_pixel": video.bit_rate / pixels_per_s if pixels_per_s else None,
        "quality_bit_depth": video.bit_depth,
        "quality_decode_errors": min(1.0, video.decode_errors / video.num_frames),
        "quality_bar_area": 1 - record.crop_w * record.crop_h / (record.width * record.height),
    }


def _picture_tags(measures: list[Measures]) -> Values:
    if not measures:
        return {}

    def mean(pick: Callable[[Measures], float | None]) -> float | None:
        values = [value for value in map(pick, measures) if value is not None]
        return float(np.mean(values)) if values else None

    def median(pick: Callable[[Measures], float]) -> float:
        return float(np.median([pick(one) for one in measures]))

    return {
        "quality_sharpness": mean(lambda m: m.sharpness),
        "quality_noise": median(lambda m: m.noise),
        "quality_blockiness": mean(lambda m: m.blockiness),
        "quality_combing": mean(lambda m: m.combing),
        "quality_exposure": mean(lambda m: m.exposure.mean),
        "quality_overexposed": mean(lambda m: m.exposure.overexposed),
        "quality_underexposed": mean(lambda m: m.exposure.underexposed),
        "quality_contrast": mean(lambda m: m.exposure.contrast),
        "quality_dynamic_range": mean(lambda m: m.exposure.dynamic_range),
        "aesthetics_colorfulness": mean(lambda m: m.color.colorfulness),
        "aesthetics_saturation": mean(lambda m: m.color.saturation),
        "aesthetics_warmth": mean(lambda m: m.color.warmth),
        "aesthetics_color_cast": mean(lambda m: m.color.cast),
        "aesthetics_luma_entropy": mean(lambda m: m.exposure.entropy),
        "aesthetics_edge_density": mean(lambda m: m.edges),
        "naturalness_text_area": mean(lambda m: m.text),
        "naturalness_flat_area": median(lambda m: m.flat),
        "naturalness_axis_edges": mean(lambda m: m.axis_edges),
        "content_dominant_color": Counter(m.color.dominant for m in measures).most_common(1)[0][0],
    }


def _time_tags(clip: _Clip) -> Values:
    stats, record = clip.stats, clip.record
    steps = stats.step[1:]
    repeated = repeats(steps, record.fps)
    measures = clip.measures
    return {
        "quality_black_ratio": black_share(stats.luma_mean, stats.luma_deviation),
        "quality_frozen_ratio": repeated.frozen,
        "quality_duplicate_ratio": repeated.duplicate,
        "quality_flicker": flicker(stats.luma_mean),
        "naturalness_static_overlay": _overlay(clip),
        "naturalness_slideshow": slideshow(steps),
        "naturalness_screen_recording": _screen_recording(measures, repeated.still) if measures else None,
    }


def _overlay(clip: _Clip) -> float | None:
    samples = clip.samples
    picked = (
        [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, min(len(samples), _OVERLAY_PICTURES)).round().astype(int))]
        if samples
        else []
    )
    return static_overlay_share(np.stack([clip.scan.small_luma(sample) for sample in picked])) if picked else None


def _screen_recording(measures: list[Measures], still: float) -> float:
    """Geometric mean of what screens have in common: flat ground, straight edges, no noise, long stillness. 0-1."""
    flat = float(np.median([m.flat for m in measures]))
    straight = float(np.mean([m.axis_edges or 0.0 for m in measures]))
    clean = float(np.exp(-np.median([m.noise for m in measures])))
    return (flat * straight * clean * still) ** 0.25


def _motion_tags(clip: _Clip) -> Values:
    scan, span = clip.scan, clip.span
    # A pair counts where both its frames lie in the clip.
    first, last = np.searchsorted(scan.flow_frames, [span.start_frame + 1, span.start_frame + span.num_frames])
    flows = scan.flows[first:last]
    if not flows:
        return {}
    time_s = scan.features.time_s[clip.frames]
    diagonal = np.hypot(clip.record.width, clip.record.height)
    shifts = global_shifts(scan.features.luma[clip.frames]) * (clip.record.width, clip.record.height) / diagonal
    shake = jitter(shifts, np.diff(time_s))
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
