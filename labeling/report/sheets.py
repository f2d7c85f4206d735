"""Contact sheets: which clips to show, and their pictures small enough to stand in a page."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.storage import Dataset
from labeling.catalog import keyframes
from schemas.tags import tag as tag_spec

_LONG_SIDE, _JPEG_QUALITY = 240, 72
_PER_SHEET, _RANDOM = 6, 24
_LOOK_AT = 2000  # clips at an end of a tag among which one a video is looked for
# Tag, which end of it to show, and what is to be seen there.
_ENDS = (
    ("suitability", "high", "Most suitable"),
    ("suitability", "low", "Least suitable"),
    ("quality_sharpness", "high", "Sharpest"),
    ("quality_sharpness", "low", "Softest"),
    ("motion_mean", "high", "Most motion"),
    ("motion_mean", "low", "Least motion"),
    ("aesthetics_colorfulness", "high", "Most colorful"),
    ("quality_exposure", "low", "Darkest"),
    ("quality_noise", "high", "Noisiest"),
    ("quality_blockiness", "high", "Most blocky"),
    ("naturalness_text_area", "high", "Most text"),
    ("naturalness_static_overlay", "high", "Most overlay"),
    ("naturalness_slideshow", "high", "Most like a slideshow"),
    ("naturalness_screen_recording", "high", "Most like a screen recording"),
)
SHEET_TAGS = tuple(dict.fromkeys(tag for tag, _, _ in _ENDS))
FACT_COLUMNS = ("clip_id", "video_id", "uri", "start_s", "end_s", "width", "height", "fps", "boundary_in", "caption_short")


@dataclass(frozen=True)
class Tile:
    """One clip on a sheet. `picture` is a data URI; it and `caption` are empty where there is none."""

    name: str
    span: str
    value: str
    facts: str
    picture: str
    caption: str


@dataclass(frozen=True)
class Sheet:
    """A row of clips and why they stand together."""

    title: str
    note: str
    tiles: tuple[Tile, ...]


def contact_sheets(rows: pa.Table, dataset: Dataset | None) -> list[Sheet]:
    """Sheets of the ends of key tags and of a random sample; without a dataset to take pictures from, there are none."""
    if dataset is None or not rows.num_rows:
        return []
    picks = [(title, tag, _end(rows, tag, end)) for tag, end, title in _ENDS if tag in rows.column_names]
    # Clip ids are hashes, so the first of them are a fair sample, and the same one each time.
    sample = pc.sort_indices(rows["clip_id"]).slice(0, _RANDOM)
    picks = [("A random sample", None, sample), *picks]
    chosen = {rows["clip_id"][index].as_py() for _, _, indices in picks for index in indices.to_pylist()}
    pictures = {clip_id: _small(jpegs[len(jpegs) // 2]) for clip_id, jpegs in keyframes(dataset, chosen).items()}
    return [_sheet(title, tag, rows.take(indices).to_pylist(), pictures) for title, tag, indices in picks if len(indices)]


def _end(rows: pa.Table, tag: str, end: str) -> pa.UInt64Array:
    """Indices of the clips at one end of a tag, the furthest first, one a video; ties in order of clip id."""
    there = pc.indices_nonzero(pc.is_valid(rows[tag]))
    known = rows.select([tag, "clip_id"]).take(there)
    order = pc.sort_indices(known, sort_keys=[(tag, "descending" if end == "high" else "ascending"), ("clip_id", "ascending")])
    furthest = there.take(order.slice(0, _LOOK_AT))
    chosen: dict[str, int] = {}
    for index, video in zip(furthest.to_pylist(), rows["video_id"].take(furthest).to_pylist(), strict=True):
        chosen.setdefault(video, index)
    return pa.array(list(chosen.values())[:_PER_SHEET], pa.uint64())


def _sheet(title: str, tag: str | None, clips: Sequence[Mapping[str, Any]], pictures: Mapping[str, str]) -> Sheet:
    unit = f", {tag_spec(tag).unit}" if tag and tag_spec(tag).unit else ""
    note = f"by {tag}{unit}; one clip a video" if tag else "the same clips in each report"
    return Sheet(title, note, tuple(_tile(clip, f"{clip[tag]:.3g}" if tag else "", pictures.get(clip["clip_id"], "")) for clip in clips))


def _tile(clip: Mapping[str, Any], value: str, picture: str) -> Tile:
    tags = [f"{tag} {clip[tag]:.3g}" for tag in SHEET_TAGS if clip.get(tag) is not None]
    form = f"{clip['width']}×{clip['height']}, {clip['fps']:.4g} fps, begins with {clip['boundary_in']}"
    facts = [clip["uri"], f"clip {clip['clip_id']}", form, *tags]
    span = f"{clock(clip['start_s'])} – {clock(clip['end_s'])}"
    return Tile(PurePosixPath(clip["uri"]).name, span, value, "\n".join(facts), picture, clip.get("caption_short") or "")


def clock(seconds: float) -> str:
    """A time as 1:02:03.4 or 2:03.4."""
    tenths = round(10 * seconds)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def _small(jpeg: bytes) -> str:
    """A JPEG scaled down, as a data URI; empty where it cannot be read."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return ""
    scale = min(1.0, _LONG_SIDE / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
