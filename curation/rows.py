"""From a scan to rows: the video's own, then each clip with its tags and keyframes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from curation.clips import Clip, cut_out
from curation.keyframes import Still, encode, missing, read_again
from curation.scan import Scan, ScanConfig
from curation.shots import find_clips
from curation.signals.hashing import content_hash
from curation.sources import Source
from curation.tags import clip_tags
from schemas.records import KeyframeRecord, Row, SignatureRecord, TagRecord, VideoRecord
from schemas.tags import SCAN_GROUPS, TAGS


def rows(scan: Scan, source: Source, config: ScanConfig) -> Iterator[Row]:
    """All rows of one scanned video, ready to store."""
    video = video_record(scan, source)
    yield video
    boundaries = config.detector.detect(scan.pictures) if config.detector else None
    clips = [cut_out(scan, span, video, config) for span in find_clips(scan.features, config.shots, boundaries)]
    late = _late_stills(clips, scan, source.uri, config)
    for clip in clips:
        yield clip.record
        yield from keyframes(clip, late)
        yield signature(clip)
        yield from tag_rows(clip, video, SCAN_GROUPS)


def tag_rows(clip: Clip, video: VideoRecord, groups: Sequence[str]) -> Iterator[TagRecord]:
    """A clip's rows of these scan groups."""
    values = clip_tags(clip, video)
    for group in groups:
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


def keyframes(clip: Clip, late: Mapping[int, Still]) -> Iterator[KeyframeRecord]:
    """A clip's keyframes in time order: at least three where it has as many frames."""
    record, scan = clip.record, clip.scan
    stills = {sample.frame: Still(scan.blob(sample.jpeg), sample.width, sample.height) for sample in clip.chosen}
    stills |= {frame: still for frame, still in late.items() if clip.frames.start <= frame < clip.frames.stop}
    for index, (frame, still) in enumerate(sorted(stills.items())):
        yield KeyframeRecord(record.clip_id, index, float(scan.features.time_s[frame]), frame, still.width, still.height, still.jpeg)


def signature(clip: Clip) -> SignatureRecord:
    """What copies of a clip are found by."""
    sequence = clip.hashes
    hashes = [value if told else None for value, told in zip(sequence.hashes.tolist(), sequence.told.tolist(), strict=True)]
    thumbnails = clip.scan.features.thumbnails[clip.frames]
    return SignatureRecord(clip.record.clip_id, content_hash(thumbnails), sequence.step_s, hashes)


def _late_stills(clips: Iterable[Clip], scan: Scan, uri: str, config: ScanConfig) -> dict[int, Still]:
    """Keyframes of the few short clips that the pass did not foresee, mostly between two gradual transitions."""
    wanted = [
        frame for clip in clips for frame in missing([sample.frame for sample in clip.chosen], clip.span.start_frame, clip.span.num_frames)
    ]
    pictures = read_again(uri, wanted, [float(scan.features.time_s[frame]) for frame in wanted])
    return {frame: encode(picture, scan.facts, config.keyframe_side, config.jpeg_quality) for frame, picture in pictures.items()}
