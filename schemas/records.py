"""The rows of a dataset, one frozen dataclass per table. A field's annotation carries its Arrow type.

Conventions: times are presentation timestamps in seconds from the first frame; widths, heights and crops are in display
orientation (rotation applied) and coded pixels; `None` means not known, and nothing else does.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import pyarrow as pa

Text = Annotated[str, pa.string()]
Count = Annotated[int, pa.int64()]
Pixels = Annotated[int, pa.int32()]
Real = Annotated[float, pa.float64()]
Flag = Annotated[bool, pa.bool_()]
Blob = Annotated[bytes, pa.binary()]
Extra = Annotated[dict[str, str], pa.map_(pa.string(), pa.string())]
Numbers = Annotated[list[int], pa.list_(pa.int64())]
Hashes = Annotated[list[int | None], pa.list_(pa.uint64())]


class FailureCode(StrEnum):
    """Why an item could not be processed: the closed set that failures/ uses."""

    NOT_FOUND = "not_found"  # nothing at this address
    UNREADABLE = "unreadable"  # the storage refused or broke off
    EMPTY = "empty"  # a file of no bytes
    NOT_MEDIA = "not_media"  # no known container
    NO_VIDEO = "no_video"  # a container without a video stream
    UNSUPPORTED = "unsupported"  # a codec or pixel format that this build cannot decode
    NO_FRAMES = "no_frames"  # a video stream from which no picture came
    CORRUPT = "corrupt"  # the stream broke down while decoding
    TRUNCATED = "truncated"  # the file ends well before its stated length
    TOO_LARGE = "too_large"  # frames beyond the configured size limit
    TIMEOUT = "timeout"  # not done at the time limit
    CRASHED = "crashed"  # the decoder process died
    DUPLICATE = "duplicate"  # the same bytes as another input, which holds the row in videos/
    INTERNAL = "internal"  # an error of Reelmill's own, with the exception in the message
    INVALID_ANSWER = "invalid_answer"  # a captioner's answer that is not what was asked for, twice
    REJECTED = "rejected"  # a captioner's server refused the request
    UNAVAILABLE = "unavailable"  # a captioner's server kept failing or did not answer in time


RETRYABLE = frozenset(
    {
        FailureCode.NOT_FOUND,
        FailureCode.UNREADABLE,
        FailureCode.TIMEOUT,
        FailureCode.CRASHED,
        FailureCode.INTERNAL,
        FailureCode.INVALID_ANSWER,
        FailureCode.UNAVAILABLE,
    }
)
"""Failures that another try may cure without the file changing."""


class Boundary(StrEnum):
    """How a clip begins or ends."""

    START = "start"
    END = "end"
    CUT = "cut"
    FADE = "fade"
    DISSOLVE = "dissolve"
    SPLIT = "split"  # a long shot divided into clips


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One source video."""

    video_id: Text
    uri: Text
    size_bytes: Count
    container: Text
    codec: Text
    width: Pixels
    height: Pixels
    rotation: Pixels  # degrees clockwise from the coded to the displayed picture: 0, 90, 180 or 270
    fps: Real  # average rate
    is_vfr: Flag
    num_frames: Count  # decoded, not stated
    duration_s: Real
    pix_fmt: Text
    bit_depth: Pixels
    bit_rate: Count  # of the whole file, bits per second
    has_audio: Flag
    is_hdr: Flag
    is_interlaced: Flag
    is_full_range: Flag
    sample_aspect_ratio: Real  # width / height of one pixel, in display orientation
    keyframe_interval_s: Real | None  # mean distance of the stream's random-access points
    decode_errors: Count  # packets that could not be decoded, and pictures the decoder marked as damaged
    fingerprint: Text  # what the storage says of the file's state (size and time or etag), to skip reading it again
    extra: Extra = field(default_factory=dict)  # further columns of the source list


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip: a shot, or a piece of a long shot. Virtual: a span of its source."""

    clip_id: Text
    video_id: Text
    start_frame: Count  # counts decoded frames in presentation order
    num_frames: Count
    start_s: Real
    end_s: Real  # when the frame after the clip is (or would be) shown
    boundary_in: Text
    boundary_out: Text
    is_short: Flag  # shorter than the run's min_clip_s
    fps: Real
    width: Pixels
    height: Pixels
    crop_x: Pixels  # the active picture without black bars
    crop_y: Pixels
    crop_w: Pixels
    crop_h: Pixels


@dataclass(frozen=True, slots=True)
class KeyframeRecord:
    """One representative frame of a clip. `index` counts from 0 in time order within the clip."""

    clip_id: Text
    index: Pixels
    time_s: Real
    frame: Count  # number of the frame in its video
    width: Pixels
    height: Pixels
    jpeg: Blob


@dataclass(frozen=True, slots=True)
class SignatureRecord:
    """What copies of a clip are found by."""

    clip_id: Text
    content_hash: Text  # of all its thumbnails in order: equal where the decoded pictures are
    step_s: Real
    hashes: Hashes  # of the pictures around (k + 0.5) step_s after its first frame; null where they are flat


class NullReason(StrEnum):
    """Why a captioner's answer was not kept, twice: the closed set of `reason`."""

    REPETITION = "repetition"  # the same words again and again
    REFUSAL = "refusal"  # it would not or could not describe the clip
    BOILERPLATE = "boilerplate"  # it speaks of the video or of its own answer instead of what is seen
    LANGUAGE = "language"  # another language than was asked for
    EMPTY = "empty"  # no words, or the name of the field


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """One captioner's caption of one clip. Its texts are all null where it gave none worth keeping, and `reason` says why."""

    clip_id: Text
    caption_short: Text | None
    caption_medium: Text | None
    caption_dense: Text | None
    subject: Text | None
    action: Text | None
    scene: Text | None
    camera: Text | None
    style: Text | None
    lighting: Text | None
    reason: Text | None
    camera_agrees: Flag | None  # whether the words of `camera` fit motion_camera; null where they say nothing, or it was not measured
    language: Text  # that was asked for: en or zh
    model: Text
    prompt_version: Text
    frames: Numbers  # numbers, in the video, of the keyframes shown
    frame_side: Pixels  # longest side of a picture shown
    requests: Count  # answers asked for
    tokens_in: Count | None  # of all requests; null where the server does not say
    tokens_out: Count | None
    seconds: Real  # from asking to answer, of all requests
    cost: Real | None  # by the prices given to the run


@dataclass(frozen=True, slots=True)
class TagRecord:
    """The tags of one clip in one group, by column name; a tag that could not be measured is absent or None."""

    group: str
    clip_id: str
    values: dict[str, object]


@dataclass(frozen=True, slots=True)
class Failure:
    """One input or clip that could not be processed, and why."""

    video_id: Text
    clip_id: Text | None
    uri: Text
    stage: Text
    code: Text
    message: Text
    retryable: Flag
    decoded_frames: Count | None = None  # how far decoding got
    decoded_s: Real | None = None
    fingerprint: Text = ""
    extra: Extra = field(default_factory=dict)


Row = VideoRecord | ClipRecord | KeyframeRecord | SignatureRecord | TagRecord
