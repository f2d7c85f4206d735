"""The only decoder. A video's address comes in; pictures in presentation order, with repaired timestamps, come out.

Media is hostile: only known containers are opened, and FFmpeg may read nothing but the one file it was given.
Everything here raises `MediaError`, whose code is one of the failure codes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
import av.video.plane
import cv2
import fsspec
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from curation.slices import SliceError, parse_slice
from schemas.records import FailureCode

# Containers of video files; no playlists, no image sequences, no text, no devices.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,ogg,mpeg,mpegvideo,mpegts,gif,asf,rm,"
    "h261,h263,h264,hevc,av1,obu,ivf,m4v,mjpeg,vc1,nut,mxf,yuv4mpegpipe,dv,wtv"
)
# In these, a seek by time lands on the random-access point before it; in the others it may not.
_SEEKABLE = frozenset({"mov", "matroska"})
# What a container that FFmpeg could not open begins with, to tell a damaged video from a file that is none.
_SIGNATURES = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"GIF8", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"0&\xb2u")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MAX_SIDE = 16_384
_LIMITED_RANGE, _FULL_RANGE = 1, 2  # AVColorRange: "MPEG" and "JPEG"
# Decoding goes on past damaged packets, but not forever: a stream of nothing else is corrupt.
_MAX_ERRORS_IN_A_ROW = 500


class MediaError(Exception):
    """A source that cannot be decoded. `decoded_frames` and `decoded_s` say how far it got, where it got anywhere."""

    def __init__(self, code: FailureCode, message: str, decoded_frames: int | None = None, decoded_s: float | None = None):
        super().__init__(message)
        self.code, self.message, self.decoded_frames, self.decoded_s = code, message, decoded_frames, decoded_s

    def __reduce__(self) -> tuple[Any, ...]:  # crosses process borders
        return MediaError, (self.code, self.message, self.decoded_frames, self.decoded_s)


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded frame: its number, its time in seconds from the first frame, and the decoder's own buffers."""

    index: int
    time_s: float
    frame: av.VideoFrame


@dataclass
class DecodeLog:
    """What went wrong while decoding, filled as pictures are read."""

    errors: int = 0
    damaged: int = 0
    last_error: str = ""
    reached_s: float = 0.0  # end of the last packet of any stream, by the container's clock
    origin_s: float = 0.0  # time of the first picture, by the container's clock

    @property
    def flaws(self) -> int:
        """Damaged packets and pictures together."""
        return self.errors + self.damaged


def local_path(uri: str) -> Path | None:
    """Path of a URI on the local file system, or None where it is a URL. A name may hold anything; only a scheme makes a URL."""
    scheme, separator, rest = uri.partition("://")
    if scheme == "file" and separator:
        return Path(rest)
    return None if separator and scheme.isalnum() else Path(uri)


def open_bytes(uri: str) -> AbstractContextManager[BinaryIO]:
    """The bytes behind an address: a local path, an fsspec URL, or a part of a Parquet file. Raises OSError, SliceError, ImportError."""
    if path := local_path(uri):
        return path.open("rb")
    if part := parse_slice(uri):
        return part.open()  # type: ignore[return-value]  # raw, and read as BinaryIO is
    return fsspec.open(uri, "rb")


@contextmanager
def open_media(uri: str) -> Iterator[InputContainer]:
    """Open a local path, fsspec URL or address in a Parquet file (`curation.slices`) for reading. Raises MediaError."""
    path = local_path(uri)
    try:
        with open_bytes(uri) as stream:
            head = stream.read(16)
            if not head:
                raise MediaError(FailureCode.EMPTY, "the file has no bytes")
            stream.seek(0)
            options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file" if path else ""}
            try:
                container = av.open(f"file:{path}" if path else stream, "r", container_options=options, metadata_errors="replace")
            except (av.error.FFmpegError, ValueError) as error:
                raise _unopened(head, error) from error
            with container:
                yield container
    except av.error.FFmpegError as error:
        raise MediaError(FailureCode.CORRUPT, _plain(error)) from error
    except FileNotFoundError as error:
        raise MediaError(FailureCode.NOT_FOUND, "there is no such file") from error
    except SliceError as error:
        raise MediaError(error.code, error.message) from error
    except (OSError, ImportError) as error:
        raise MediaError(FailureCode.UNREADABLE, _plain(error)) from error


def _unopened(head: bytes, error: Exception) -> MediaError:
    if head.startswith(_SIGNATURES) or head[4:8] in _MP4_BOXES:
        return MediaError(FailureCode.CORRUPT, f"the container cannot be read: {_plain(error)}")
    return MediaError(FailureCode.NOT_MEDIA, "not a video container that Reelmill knows")


def _plain(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def video_stream(container: InputContainer, threads: int = 1) -> VideoStream:
    """The video stream of a container, ready to decode: the first that is not a cover picture. Raises MediaError."""
    for stream in container.streams.video:
        if Disposition.attached_pic not in stream.disposition:
            context = stream.codec_context
            if context is None:
                raise MediaError(FailureCode.UNSUPPORTED, "its video codec is unknown, or has no decoder here")
            if max(context.width, context.height) > _MAX_SIDE:
                raise MediaError(FailureCode.TOO_LARGE, f"{context.width}x{context.height} pixels; the limit is {_MAX_SIDE} a side")
            context.thread_count = threads
            context.thread_type = "AUTO" if threads > 1 else "NONE"
            return stream
    raise MediaError(FailureCode.NO_VIDEO, "the file has no video stream")


def container_name(container: InputContainer) -> str:
    """Short name of a container's format, such as mov, matroska or avi."""
    return container.format.name.split(",")[0]


def decode(
    container: InputContainer, stream: VideoStream, log: DecodeLog | None = None, on_sound: Callable[["av.Packet[Any]"], None] | None = None
) -> Iterator[Picture]:
    """Decode a whole stream in presentation order; packets of the first audio stream are handed to `on_sound` on the way.

    Times start at 0 with the first frame and strictly increase: where a timestamp is missing or does not go forward, it is
    one nominal frame after the last. Damaged packets are skipped and counted in `log`. Raises MediaError where the
    stream breaks down.
    """
    log = log if log is not None else DecodeLog()
    step, tick = 1.0 / nominal_rate(stream), stream.time_base or Fraction(0)
    origin, last = None, -step
    for index, frame in enumerate(_frames(container, stream, log, on_sound=on_sound)):
        if origin is None and frame.pts is not None:
            origin, log.origin_s = frame.pts, float(frame.pts * tick)
        time_s = (frame.pts - origin) * tick.numerator / tick.denominator if frame.pts is not None and origin is not None else math.nan
        if not time_s > last + 1e-6:
            time_s = last + step
        yield Picture(index, time_s, frame)
        last = time_s


def _frames(
    container: InputContainer,
    stream: VideoStream,
    log: DecodeLog,
    wanted_from: int | None = None,
    on_sound: Callable[["av.Packet[Any]"], None] | None = None,
) -> Iterator[av.VideoFrame]:
    """All frames of a stream, as the decoder gives them; before the tick `wanted_from` only those that others are made from."""
    streams = [stream, *container.streams.audio[:1]]  # packets of sound also tell whether the file is whole
    ends, bases = {part.index: 0 for part in streams}, {part.index: part.time_base or 0 for part in streams}
    context, wanted = stream.codec_context, stream.index
    errors_in_a_row = 0
    try:
        for packet in container.demux(streams):
            index, size, dts = packet.stream.index, packet.size, packet.dts
            if dts is not None:
                ends[index] = max(ends[index], dts + (packet.duration or 0))
            if index != wanted:
                if on_sound:
                    on_sound(packet)
                continue
            if size == 0 and dts is not None:
                continue  # an empty packet with a time repeats the last picture; without one it ends the stream
            if wanted_from is not None:
                context.skip_frame = "NONREF" if packet.pts is not None and packet.pts < wanted_from else "DEFAULT"
            try:
                for frame in context.decode(packet if size else None):
                    log.damaged += frame.is_corrupt
                    yield frame
                errors_in_a_row = 0
            except av.error.FFmpegError as error:
                errors_in_a_row += 1
                log.errors, log.last_error = log.errors + 1, _plain(error)
                if errors_in_a_row > _MAX_ERRORS_IN_A_ROW:
                    raise MediaError(FailureCode.CORRUPT, f"{errors_in_a_row} damaged packets in a row: {_plain(error)}") from error
    except av.error.FFmpegError as error:  # the demuxer gave up
        log.errors, log.last_error = log.errors + 1, _plain(error)
    finally:
        log.reached_s = max(float(end * bases[index]) for index, end in ends.items())


def nominal_rate(stream: VideoStream) -> float:
    """The rate a stream states, in frames per second; 25 where it states none that can be."""
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0 < rate <= 1000 else 25.0


def rotation_of(frame: av.VideoFrame) -> int:
    """Degrees clockwise from the coded to the displayed picture: 0, 90, 180 or 270."""
    return round(-frame.rotation / 90) * 90 % 360


def upright(array: np.ndarray, rotation: int) -> np.ndarray:
    """Turn an array [H, W, ...] clockwise by a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(array, -rotation // 90)) if rotation else array


def is_full_range(frame: av.VideoFrame) -> bool:
    """Whether the luma that `planes` gives uses all of 0-255 instead of 16-235 (8-bit terms)."""
    name, stated = frame.format.name, int(frame.color_range)
    if _planar_bits(name) is None:
        return False  # converted by `planes`, to the limited range
    return stated == _FULL_RANGE or name.startswith("yuvj") or (name.startswith("gray") and stated != _LIMITED_RANGE)


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """A frame as uint8 [H, W, 3] RGB in display orientation."""
    return upright(frame.to_ndarray(format="rgb24"), rotation_of(frame))


class FrameReader:
    """Random access by frame number, with the very pixels that `decode` gives.

    Seeks where the container allows it and decodes from the beginning where it does not.
    """

    def __init__(self, uri: str, threads: int = 1):
        self.uri, self.threads = uri, threads

    def read(self, frames: Sequence[int], times_s: Sequence[float]) -> np.ndarray:
        """Frames by number and time, both as `decode` counts them, as uint8 [T, H, W, 3] RGB. Raises MediaError."""
        return np.stack([rgb(frame) for frame in self.frames(frames, times_s)])

    def frames(self, frames: Sequence[int], times_s: Sequence[float]) -> list[av.VideoFrame]:
        """Frames by number and time, both increasing. Raises MediaError.

        A frame is recognized by its time after a seek, and by its number in a scan from the start.
        """
        if not frames:
            return []
        with open_media(self.uri) as container:
            stream = video_stream(container, self.threads)
            found = self._seek(container, stream, times_s) if container_name(container) in _SEEKABLE else None
        if found is None:
            with open_media(self.uri) as container:
                found = self._scan(container, video_stream(container, self.threads), frames)
        if len(found) != len(frames):
            raise MediaError(FailureCode.TRUNCATED, f"{len(found)} of {len(frames)} frames asked for are there", decoded_frames=len(found))
        return found

    def _seek(self, container: InputContainer, stream: VideoStream, times_s: Sequence[float]) -> list[av.VideoFrame] | None:
        first = next(_frames(container, stream, DecodeLog()), None)
        if first is None or first.pts is None or not stream.time_base:
            return None
        ticks = [first.pts + time_s / stream.time_base for time_s in times_s]
        tolerance = 0.25 / nominal_rate(stream) / stream.time_base
        container.seek(int(ticks[0]), stream=stream, backward=True)
        stream.codec_context.flush_buffers()
        found: list[av.VideoFrame] = []
        for frame in _frames(container, stream, DecodeLog(), wanted_from=int(ticks[0] - tolerance)):
            if frame.pts is None or frame.pts > ticks[len(found)] + tolerance:
                return None  # landed too late, or a time that was repaired in the scan
            if abs(frame.pts - ticks[len(found)]) <= tolerance:
                found.append(frame)
                if len(found) == len(ticks):
                    return found
        return None

    def _scan(self, container: InputContainer, stream: VideoStream, frames: Sequence[int]) -> list[av.VideoFrame]:
        wanted, found = set(frames), []
        for picture in decode(container, stream):
            if picture.index in wanted:
                found.append(picture.frame)
                if len(found) == len(frames):
                    break
        return found


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The decoder's planes as uint8 arrays [H, W]: luma, then U and V where there are any, without a copy for 8-bit YUV.

    Deeper samples keep their top 8 bits; packed, palette and RGB pictures are converted to YUV 4:2:0 first.
    """
    bits = _planar_bits(frame.format.name)
    if bits is None:
        return planes(frame.reformat(format="yuv420p", dst_color_range="MPEG"))
    return [_plane(plane, depth) for plane, depth in zip(frame.planes, bits, strict=False)]


def _plane(plane: av.video.plane.VideoPlane, bits: int) -> np.ndarray:
    height, width, row = plane.height, plane.width, plane.line_size
    if bits == 8:
        return np.frombuffer(memoryview(plane), np.uint8, row * height).reshape(height, row)[:, :width]
    deep = np.frombuffer(memoryview(plane), np.uint16, row // 2 * height).reshape(height, row // 2)[:, :width]
    return cv2.convertScaleAbs(deep, alpha=1 / (1 << (bits - 8)))


@cache
def _planar_bits(name: str) -> tuple[int, ...] | None:
    """Bits per sample of the luma and chroma planes of a pixel format, or None where it is not planar YUV or gray."""
    layout = av.VideoFormat(name)
    parts = layout.components[:3] if name.startswith("yuv") else layout.components[:1]
    planar = name.startswith(("yuv", "gray")) and [part.plane for part in parts] == list(range(len(parts)))
    if not planar or layout.is_big_endian or any(part.bits < 8 for part in parts) or len(parts) != (3 if name.startswith("yuv") else 1):
        return None
    return tuple(part.bits for part in parts)
