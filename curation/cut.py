"""Clips of a manifest to files of their own: all that are wanted of a source come out of one decode of it.

`plan_cut` says, from a clip's row and the settings alone, what will be written, where, and how its columns then read. So a
file that exists is done, other settings have other names, and a manifest of the files needs none of them opened.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from curation.encode import Box, CutError, EncodeSettings, FrameWriter, Shape, SourceFacts
from curation.frames import DecodeLog, MediaError, Picture, decode, open_media, video_stream
from curation.isolate import Crashed, Expired, own_worker, report
from curation.sources import check_content
from schemas.records import RETRYABLE, Failure, FailureCode

STAGE = "materialize"
_VERSION = 1  # of what is written for the same settings; part of every name
_GRID = 4  # pixels: a multiple of every chroma grid there is
_MOST_AT_ONCE = 32  # encoders, each of which holds some 50 frames


@dataclass(frozen=True)
class CutSettings:
    """How clips are cut. Shrinking and FFV1 exclude each other."""

    encode: EncodeSettings = field(default_factory=EncodeSettings)
    short_side: int | None = None  # pixels; pictures are made smaller to this, never larger
    crop: bool = False  # cut off black bars, to the next multiple of four pixels outside the active picture

    def describe(self) -> dict[str, Any]:
        """What matters to the files, by name; quality is nothing to a lossless codec."""
        codec = self.encode.codec.value
        quality = {} if self.encode.lossless else {"crf": self.encode.crf, "preset": self.encode.preset, "short_side": self.short_side}
        return {"version": _VERSION, "codec": codec, "crop": self.crop, **quality}


@dataclass(frozen=True, slots=True)
class Cut:
    """One clip to be written: its span in the source, what becomes of its pictures, and where it goes."""

    clip_id: str
    start_frame: int
    num_frames: int
    shape: Shape
    path: str

    @property
    def name(self) -> str:
        """Name of its file, which no other clip and no other settings give."""
        return Path(self.path).name


@dataclass(frozen=True, slots=True)
class Written:
    """How the columns of a clip read once it is written, in display orientation."""

    width: int
    height: int
    crop: Box


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be written of a clip, and how its columns then read."""

    cut: Cut
    written: Written


@dataclass(frozen=True)
class CutJob:
    """All clips wanted of one source: small, picklable, and with the same outcome wherever it runs."""

    uri: str
    video_id: str
    fingerprint: str  # "" where the source is not to be checked against `video_id`
    cuts: tuple[Cut, ...]
    settings: CutSettings
    limit_s: float


@dataclass(frozen=True)
class CutReport:
    """What came of a source."""

    uri: str
    clips: int
    failures: tuple[Failure, ...]
    seconds: float


def plan_cut(row: Mapping[str, Any], settings: CutSettings, folder: Path) -> Plan:
    """What the settings make of a clip: its file below `folder`, and the columns of what will be in it.

    Lossy pictures have even sides, as 4:2:0 needs: an odd column or row at the coded right or bottom edge is left out, or goes
    in scaling. `row` is a manifest's; `rotation` in it is taken for 0 where it is missing. Raises CutError for a row that
    cannot be right.
    """
    rotation = row.get("rotation") or 0
    display = Box(0, 0, row["width"], row["height"])
    active = Box(row["crop_x"], row["crop_y"], row["crop_w"], row["crop_h"])
    name = row["clip_id"]
    if not (name.isalnum() and name.isascii()):
        raise CutError(f"{name!r} is no clip_id")
    if not _inside(active, display) or rotation % 90 or row["start_frame"] < 0 or row["num_frames"] < 1:
        raise CutError(f"the row of clip {name} cannot be right: look at its size, crop, rotation and span")
    active = _turned(active, display, -rotation)
    whole = _turned(display, display, -rotation)
    box = _outward(active, whole) if settings.crop else whole
    size = (box.width, box.height)
    if not settings.encode.lossless:
        shrink = min(1.0, settings.short_side / min(size)) if settings.short_side else 1.0
        size = (_even(box.width, shrink), _even(box.height, shrink))
        if shrink == 1.0:
            box = Box(box.x, box.y, min(size[0], box.width), min(size[1], box.height))
    shape = Shape(whole.width, whole.height, rotation, box, size)
    turned_size = _turned(Box(0, 0, *size), Box(0, 0, *size), rotation)
    crop = _turned(_scaled(active, box, size), Box(0, 0, *size), rotation)
    facts = [settings.describe(), row["video_id"], row["start_frame"], row["num_frames"], asdict(shape)]
    digest = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    path = folder / name[:2] / f"{name}-{digest}{settings.encode.suffix}"
    return Plan(Cut(name, row["start_frame"], row["num_frames"], shape, str(path)), Written(turned_size.width, turned_size.height, crop))


def _inside(box: Box, whole: Box) -> bool:
    return 0 <= box.x < box.x + box.width <= whole.width and 0 <= box.y < box.y + box.height <= whole.height


def _turned(box: Box, whole: Box, degrees: int) -> Box:
    """A box in a picture of the size of `whole`, once that is turned clockwise."""
    width, height = whole.width, whole.height
    for _ in range(degrees // 90 % 4):
        box = Box(height - box.y - box.height, box.x, box.height, box.width)
        width, height = height, width
    return box


def _outward(box: Box, whole: Box) -> Box:
    """The least box around it on the grid, as far as the picture goes."""
    x, width = _reach(box.x, box.width, whole.width)
    y, height = _reach(box.y, box.height, whole.height)
    return Box(x, y, width, height)


def _reach(start: int, length: int, limit: int) -> tuple[int, int]:
    end = min(-(-(start + length) // _GRID) * _GRID, limit)
    first = start // _GRID * _GRID
    if end - first < 2 <= limit:  # a lone odd edge, of which nothing would be left
        first -= _GRID
    return first, end - first


def _even(side: int, scale: float) -> int:
    return max(2, round(side * scale / 2) * 2 if scale < 1 else side // 2 * 2)


def _scaled(active: Box, box: Box, size: tuple[int, int]) -> Box:
    """The active picture in what becomes of `box`, rounded inward so that no bar comes into it."""
    x, width = _inward(active.x - box.x, active.width, box.width, size[0])
    y, height = _inward(active.y - box.y, active.height, box.height, size[1])
    return Box(x, y, width, height)


def _inward(start: int, length: int, before: int, after: int) -> tuple[int, int]:
    first = min(-(-start * after // before), after - 1)
    return first, max(1, min((start + length) * after // before, after) - first)


def run_cuts(job: CutJob) -> CutReport:
    """Write the clips of one source that are not there yet. Raises CutError where nothing can be written."""
    began = time.monotonic()
    todo = [cut for cut in job.cuts if not Path(cut.path).exists()]
    failed: dict[str, MediaError] = {}
    for batch in _batches(todo):
        try:
            failed |= _cut_isolated(job, batch)
        except MediaError as error:
            failed |= {cut.path: error for cut in batch}
    failures = [_failure(job, cut, failed[cut.path]) for cut in todo if not Path(cut.path).exists()]
    return CutReport(job.uri, len(job.cuts), tuple(failures), time.monotonic() - began)


def _batches(cuts: Iterable[Cut]) -> list[list[Cut]]:
    """One pass for all clips, or further ones where very many of them overlap."""
    batches: list[tuple[list[Cut], list[int]]] = []  # clips, and a heap of the ends of those that are not over
    for cut in sorted(cuts, key=lambda cut: (cut.start_frame, cut.num_frames)):
        for _, ends in batches:
            while ends and ends[0] <= cut.start_frame:
                heappop(ends)
        free = next((batch for batch in batches if len(batch[1]) < _MOST_AT_ONCE), None)
        if free is None:
            batches.append(free := ([], []))
        free[0].append(cut)
        heappush(free[1], cut.start_frame + cut.num_frames)
    return [batch for batch, _ in batches]


def _cut_isolated(job: CutJob, cuts: Sequence[Cut]) -> dict[str, MediaError]:
    """`cut_source` in a process of its own. Raises MediaError for what ends all clips that are not there by then."""
    check_content(job.uri, job.video_id, job.fingerprint)
    try:
        return own_worker("curation.cut").run(cut_source, job.uri, cuts, job.settings.encode, limit_s=job.limit_s)
    except Expired as error:
        _sweep(cuts)
        raise MediaError(FailureCode.TIMEOUT, str(error), error.progress.frames, error.progress.seconds) from error
    except Crashed as error:
        _sweep(cuts)
        raise MediaError(FailureCode.CRASHED, str(error), error.progress.frames, error.progress.seconds) from error
    except (MediaError, CutError):
        raise
    except Exception as error:  # one bad file must not end the job; the row carries the exception
        raise MediaError(FailureCode.INTERNAL, f"{type(error).__name__}: {error}") from error


def _sweep(cuts: Iterable[Cut]) -> None:
    """Remove what a process that is no more left half done."""
    for cut in cuts:
        for left in FrameWriter.scratches(Path(cut.path)):
            left.unlink(missing_ok=True)


def _failure(job: CutJob, cut: Cut, error: MediaError) -> Failure:
    return Failure(
        video_id=job.video_id,
        clip_id=cut.clip_id,
        uri=job.uri,
        stage=STAGE,
        code=error.code,
        message=error.message,
        retryable=error.code in RETRYABLE,
        decoded_frames=error.decoded_frames,
        decoded_s=error.decoded_s,
        fingerprint=job.fingerprint,
    )


def cut_source(uri: str, cuts: Sequence[Cut], settings: EncodeSettings) -> dict[str, MediaError]:
    """Decode a source once, up to its last wanted frame, and write these clips of it. In any order; they may overlap.

    Decoding runs on one thread, as a scan of a damaged file does, so that frames are those that were counted. Returns what went
    wrong with a clip, by its path. Raises MediaError where the source breaks down, CutError where nothing can be written; clips
    that were complete by then are there.
    """
    waiting = deque(sorted(cuts, key=lambda cut: cut.start_frame))
    active: list[tuple[Cut, FrameWriter]] = []
    failed: dict[str, MediaError] = {}
    num_frames, last_s = 0, 0.0
    try:
        with open_media(uri) as container:
            stream = video_stream(container)
            facts = SourceFacts.of(stream)
            log = DecodeLog()
            for picture in decode(container, stream, log):
                num_frames, last_s = picture.index + 1, picture.time_s
                report(num_frames, last_s)
                while waiting and waiting[0].start_frame == picture.index:
                    cut = waiting.popleft()
                    active.append((cut, FrameWriter(Path(cut.path), cut.shape, settings, facts)))
                active = [(cut, writer) for cut, writer in active if _goes_on(cut, writer, picture, failed)]
                if not (active or waiting):
                    break
    finally:
        for _, writer in active:
            writer.discard()
    for cut in [*(cut for cut, _ in active), *waiting]:
        if num_frames:
            message = f"the source has {num_frames} frames, and the clip ends with its frame {cut.start_frame + cut.num_frames}"
            failed[cut.path] = MediaError(FailureCode.TRUNCATED, message, num_frames, last_s)
        else:
            message = f"no picture could be decoded ({log.last_error or 'the stream is empty'})"
            failed[cut.path] = MediaError(FailureCode.NO_FRAMES, message, 0, 0.0)
    return failed


def _goes_on(cut: Cut, writer: FrameWriter, picture: Picture, failed: dict[str, MediaError]) -> bool:
    """Add a picture to a clip; False once that is complete, or cannot be written."""
    try:
        writer.write(picture.frame, picture.time_s)
        if writer.num_frames < cut.num_frames:
            return True
        writer.finish()
    except MediaError as error:
        writer.discard()
        failed[cut.path] = error
    return False
