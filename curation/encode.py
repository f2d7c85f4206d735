"""Decoded frames to a video file that appears whole or not at all.

In: the frames of one clip as the decoder gives them, and what is to be cut off and scaled. Out: an MP4 file, or a Matroska
file of FFV1 where it must be lossless. Frames are encoded as they come; what was said of the picture (rotation, color,
sample aspect ratio) is said of the copy, and every frame keeps its time. With Matroska that is true to a millisecond,
and the sample aspect ratio does not get into the file; it stands in the manifest.
"""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import av
import av.error
import numpy as np
from av.codec.codec import Codec as Encoder
from av.codec.codec import find_best_pix_fmt_of_list
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream

from curation.frames import MediaError, nominal_rate, rgb, rotation_of
from schemas.records import FailureCode

Made = TypeVar("Made")
_KEYFRAME_EVERY = 48  # frames: training reads windows from anywhere in a clip, and decodes from the keyframe before
_SMPTE170M, _LIMITED, _FULL = 6, 1, 2  # ITU-T H.273 matrix coefficients; AVColorRange
_CHROMA_LOCATIONS = ("unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom")
_OUTPUT_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EMFILE}
)
# Pixel formats that FFV1 has under another name or order, with the same samples. A `yuvj` format is full-range `yuv`.
_SAME_SAMPLES = {
    **{name: "bgr0" for name in ("rgb24", "bgr24", "rgb0", "0rgb", "0bgr", "gbrp")},
    **{name: "bgra" for name in ("rgba", "argb", "abgr", "pal8")},
}


class CutError(Exception):
    """The clips cannot be written here, whatever their source; the message says why."""


class Codec(StrEnum):
    """How clips are encoded."""

    H264 = "h264"
    FFV1 = "ffv1"


_ENCODERS = {Codec.H264: "libx264", Codec.FFV1: "ffv1"}


@dataclass(frozen=True)
class EncodeSettings:
    """Codec and quality. `crf` and `preset` mean what they mean to x264, and nothing to FFV1, which is lossless."""

    codec: Codec = Codec.H264
    crf: int = 18
    preset: str = "medium"

    @property
    def lossless(self) -> bool:
        return self.codec is Codec.FFV1

    @property
    def suffix(self) -> str:
        # Of FFV1, Matroska says where chroma samples lie, which deep pictures need for the same colors; MP4 does not.
        return ".mkv" if self.lossless else ".mp4"

    @property
    def options(self) -> dict[str, str]:
        """Options of the encoder: one thread, for the bytes must not depend on the machine.

        With AVX-512, x264 without `cpu-independent` gave other bytes from run to run for pictures of up to 320 pixels a side.
        """
        if self.lossless:
            return {"level": "3", "slicecrc": "1"}
        return {"crf": str(self.crf), "preset": self.preset, "x264-params": "cpu-independent=1"}


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture, in pixels from its top left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What becomes of a coded picture: it must be `width` x `height`, turned by `rotation`; `box` of it is kept, and scaled to `size`."""

    width: int
    height: int
    rotation: int
    box: Box
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What is carried over from a source's stream."""

    rate: Fraction
    tick: Fraction  # seconds
    sample_aspect_ratio: Fraction | None

    @classmethod
    def of(cls, stream: VideoStream) -> "SourceFacts":
        rate = Fraction(nominal_rate(stream)).limit_denominator(10_000)  # 30000/1001 and its like stay exact
        return cls(rate, stream.time_base or 1 / rate, stream.sample_aspect_ratio or None)


class FrameWriter:
    """Writes one file. `write` the frames in order, then `finish`; or `discard` it."""

    def __init__(self, path: Path, shape: Shape, settings: EncodeSettings, source: SourceFacts):
        self.path, self.shape, self.settings, self.source = path, shape, settings, source
        self.num_frames = 0
        self._scratch = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
        self._sink: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._source_format = self._format = ""
        self._first_s = 0.0
        self._ticks = -1

    @staticmethod
    def scratches(path: Path) -> Iterator[Path]:
        """Unfinished files of a path: there while one is written, or after its process was killed."""
        return path.parent.glob(f".{path.stem}.*{path.suffix}")

    def write(self, frame: av.VideoFrame, time_s: float) -> None:
        """Add a frame shown at `time_s` of its source. Raises MediaError where it does not fit, CutError where it cannot be written."""
        self._check(frame)
        if self._sink is None:
            self._begin(frame, time_s)
        picture = _shaped(frame, self._format, self.shape)
        self._ticks = max(round((time_s - self._first_s) / self.source.tick), self._ticks + 1)
        self._output(lambda: _put(self._sink, self._stream, picture, self._ticks, self.source.tick))
        self.num_frames += 1

    def finish(self) -> None:
        """Complete the file and give it its name. Raises CutError."""
        self._output(lambda: _end(self._sink, self._stream))
        self._sink = None
        self._output(self._commit)

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(av.error.FFmpegError, OSError):  # the file is removed anyway
            if self._sink is not None:
                self._sink.close()
        self._sink = None
        with suppress(OSError):  # where nothing can be written there may be nothing to remove
            self._scratch.unlink()

    def _check(self, frame: av.VideoFrame) -> None:
        shape, rotation = self.shape, rotation_of(frame)
        where = f"frame {self.num_frames} of the clip"
        if (frame.width, frame.height) != (shape.width, shape.height):
            raise MediaError(FailureCode.UNSUPPORTED, f"{where} is {frame.width}x{frame.height}, not {shape.width}x{shape.height}")
        if rotation != shape.rotation:
            raise MediaError(FailureCode.UNSUPPORTED, f"{where} is turned by {rotation} degrees, not by {shape.rotation}")
        if self.settings.lossless and self._source_format not in ("", frame.format.name):
            raise MediaError(FailureCode.UNSUPPORTED, f"{where} is {frame.format.name}, those before it {self._source_format}")

    def _begin(self, frame: av.VideoFrame, time_s: float) -> None:
        self._source_format, self._first_s = frame.format.name, time_s
        self._format = format_for(frame.format.name, self.settings.codec)
        tags = {"chroma_sample_location": _chroma_location(frame, self.settings, self.source)} if self.settings.lossless else {}
        self._output(lambda: self.path.parent.mkdir(parents=True, exist_ok=True))
        # Without bitexact the file would hold a random id.
        options = {"fflags": "+bitexact", **({} if self.settings.lossless else {"movflags": "+faststart+write_colr"})}
        self._sink = self._output(lambda: av.open(str(self._scratch), "w", options=options))
        self._stream = self._output(lambda: _add_stream(self._sink, frame, self._format, self.shape, self.settings, self.source, tags))

    def _commit(self) -> None:
        with self._scratch.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(self._scratch, self.path)

    def _output(self, action: Callable[[], Made]) -> Made:
        """Do something to the file: what goes wrong is the place's fault or the encoder's, never that of the source."""
        try:
            return action()
        except (OSError, av.error.FFmpegError, ValueError) as error:
            number, text = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
            self.discard()
            if number in _OUTPUT_ERRORS:
                raise CutError(f"cannot write {self.path}: {text}") from error
            raise MediaError(FailureCode.UNSUPPORTED, f"{self.settings.codec} cannot encode this clip ({self._format}): {text}") from error


def format_for(source: str, codec: Codec) -> str:
    """The pixel format to encode in: the source's own where the encoder has it, else the nearest. Raises MediaError.

    Nothing but the source's own samples will do for FFV1.
    """
    known = _formats(codec)
    if codec is not Codec.FFV1:
        nearest = find_best_pix_fmt_of_list(list(known), source, False)[0]
        return source if source in known or nearest is None else nearest.name
    name = _SAME_SAMPLES.get(source, source.replace("yuvj", "yuv"))
    if name not in known:
        raise MediaError(FailureCode.UNSUPPORTED, f"no lossless codec here has the pixel format {source}")
    return name


@cache
def _formats(codec: Codec) -> tuple[str, ...]:
    return tuple(layout.name for layout in Encoder(_ENCODERS[codec], "w").video_formats or ())


def _add_stream(
    sink: Any, frame: av.VideoFrame, pix_fmt: str, shape: Shape, settings: EncodeSettings, source: SourceFacts, tags: dict[str, str]
) -> VideoStream:
    stream: VideoStream = sink.add_stream(_ENCODERS[settings.codec], rate=source.rate, options={**settings.options, **tags})
    stream.width, stream.height = shape.size
    stream.pix_fmt = pix_fmt
    context = stream.codec_context
    context.time_base, context.thread_count = source.tick, 1
    context.gop_size = 1 if settings.lossless else _KEYFRAME_EVERY
    if source.sample_aspect_ratio:
        context.sample_aspect_ratio = source.sample_aspect_ratio
    colors = _colors(frame, pix_fmt)
    context.color_range, context.colorspace = colors
    context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
    if shape.rotation:
        stream.set_display_rotation(-shape.rotation)
    return stream


def _colors(frame: av.VideoFrame, pix_fmt: str) -> tuple[int, int]:
    """Range and matrix of the frame once it is in `pix_fmt`."""
    if frame.format.is_rgb != av.VideoFormat(pix_fmt).is_rgb:
        return _LIMITED, _SMPTE170M
    return (_FULL if frame.format.name.startswith("yuvj") else int(frame.color_range)), int(frame.colorspace)


def _shaped(frame: av.VideoFrame, pix_fmt: str, shape: Shape) -> av.VideoFrame:
    """A frame in the pixel format, cut and scaled as `shape` says; the very frame where nothing is to be done."""
    colors, name = _colors(frame, pix_fmt), frame.format.name
    primaries, transfer = frame.color_primaries, frame.color_trc
    if name not in (pix_fmt, pix_fmt.replace("yuv", "yuvj")):
        made_yuv = frame.format.is_rgb and not av.VideoFormat(pix_fmt).is_rgb
        to_yuv = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG} if made_yuv else {}
        frame = frame.reformat(format=pix_fmt, threads=1, **to_yuv)
    box = shape.box
    if (box.width, box.height) != (frame.width, frame.height) or frame.format.name != pix_fmt:
        frame = _cut(frame, pix_fmt, box)
    if shape.size != (frame.width, frame.height):
        frame.color_range, frame.colorspace = colors
        how = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        frame = frame.reformat(width=shape.size[0], height=shape.size[1], interpolation=how, threads=1)
    frame.color_range, frame.colorspace = colors
    frame.color_primaries, frame.color_trc = primaries, transfer
    return frame


def _cut(frame: av.VideoFrame, pix_fmt: str, box: Box) -> av.VideoFrame:
    """A copy of a part of a frame. The box lies on the chroma grid; `pix_fmt` is the frame's own, or has the same layout."""
    part = av.VideoFrame(box.width, box.height, pix_fmt)
    layout = frame.format
    columns, rows = layout.chroma_width(64), layout.chroma_height(64)
    for index, (source, target) in enumerate(zip(frame.planes, part.planes, strict=True)):
        members = [component for component in layout.components if component.plane == index]
        step = (members[0].bits + 7) // 8 if len(members) == 1 and len(frame.planes) > 1 else layout.padded_bits_per_pixel // 8
        chroma = members[0].is_chroma
        x, y = (box.x * columns // 64, box.y * rows // 64) if chroma else (box.x, box.y)
        pixels = np.frombuffer(memoryview(source), np.uint8).reshape(-1, source.line_size)
        copy = np.frombuffer(memoryview(target), np.uint8).reshape(-1, target.line_size)
        copy[: target.height, : target.width * step] = pixels[y : y + target.height, x * step : (x + target.width) * step]
    return part


def _put(sink: Any, stream: Any, frame: av.VideoFrame, ticks: int, tick: Fraction) -> None:
    frame.pts, frame.time_base = ticks, tick
    frame.pict_type = PictureType.NONE  # the source's choice of keyframes is not the copy's
    sink.mux(stream.encode(frame))


def _end(sink: Any, stream: Any) -> None:
    sink.mux(stream.encode())
    sink.close()


def _chroma_location(frame: av.VideoFrame, settings: EncodeSettings, source: SourceFacts) -> str:
    """Where the chroma samples of a frame lie, as far as it matters to its colors, and proof that it comes back the same.

    PyAV does not tell, and deep pictures get other colors by it. So it is found by trial: the first location for
    which the frame, encoded and decoded again, gives the same RGB. Raises MediaError where none does.
    """
    pix_fmt = format_for(frame.format.name, settings.codec)
    whole = Shape(frame.width, frame.height, 0, Box(0, 0, frame.width, frame.height), (frame.width, frame.height))
    expected = frame.to_ndarray(format="rgb24")
    for location in _CHROMA_LOCATIONS:
        memory = BytesIO()
        with av.open(memory, "w", format="matroska") as sink:
            stream = _add_stream(sink, frame, pix_fmt, whole, settings, source, {"chroma_sample_location": location})
            _put(sink, stream, _shaped(frame, pix_fmt, whole), 0, source.tick)
            sink.mux(stream.encode())
        memory.seek(0)
        with av.open(memory, "r", format="matroska") as container:
            if np.array_equal(rgb(next(container.decode(video=0))), expected):
                return location
    raise MediaError(FailureCode.UNSUPPORTED, f"{frame.format.name} does not come back with the same colors from {settings.codec}")
