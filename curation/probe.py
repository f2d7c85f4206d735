"""What a container and its first picture say of a video, without decoding the rest."""

from dataclasses import dataclass

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from curation.frames import container_name, is_full_range, rotation_of

_HDR_TRANSFERS = frozenset({16, 18})  # ITU-T H.273 transfer characteristics: SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG)
# Containers whose stated duration is written by the muxer; in the others FFmpeg guesses it.
_STATES_DURATION = frozenset({"mov", "matroska", "avi", "flv"})


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """Facts of one video stream. Width, height and sample aspect ratio are in display orientation."""

    container: str
    codec: str
    width: int
    height: int
    rotation: int
    pix_fmt: str
    bit_depth: int
    has_audio: bool
    is_hdr: bool
    is_full_range: bool
    sample_aspect_ratio: float
    stated_s: float | None  # duration by the container, where that is worth believing


def probe(container: InputContainer, stream: VideoStream, first: av.VideoFrame) -> StreamFacts:
    """Facts of a stream and its first decoded frame."""
    rotation = rotation_of(first)
    width, height = (first.height, first.width) if rotation % 180 else (first.width, first.height)
    ratio = float(stream.sample_aspect_ratio or 1) or 1.0
    return StreamFacts(
        container=container_name(container),
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        rotation=rotation,
        pix_fmt=first.format.name,
        bit_depth=max(component.bits for component in first.format.components),
        has_audio=bool(container.streams.audio),
        is_hdr=int(first.color_trc) in _HDR_TRANSFERS,
        is_full_range=is_full_range(first),
        sample_aspect_ratio=1 / ratio if rotation % 180 else ratio,
        stated_s=_stated_duration(container, stream),
    )


def _stated_duration(container: InputContainer, stream: VideoStream) -> float | None:
    if container_name(container) not in _STATES_DURATION:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None
