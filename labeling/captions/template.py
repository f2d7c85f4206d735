"""A captioner without a model: sentences made of measured tags. They say what was measured, not what is seen, and `model` says so."""

from collections.abc import Iterator, Mapping
from typing import Any

from curation.storage import Dataset
from labeling.captions.camera import camera_agrees
from labeling.captions.ledger import Captioner, Pending, merge
from labeling.tagger import ClipView
from labeling.views import clip_views

MODEL = "template: measured tags, no model"
VERSION = "template-1"
LANGUAGE = "en"
_READS = (
    "motion_camera", "motion_level", "aesthetics_key", "aesthetics_warmth", "aesthetics_saturation", "content_dominant_colors",
    "content_scene", "content_subject", "content_shot_size", "content_text",
)  # fmt: skip
_MOTION = ("no movement", "very slow movement", "slow movement", "movement of moderate speed", "fast movement", "very fast movement")
_CAMERA = {
    "static": "the camera is static",
    "pan_left": "the camera pans to the left",
    "pan_right": "the camera pans to the right",
    "tilt_up": "the camera tilts up",
    "tilt_down": "the camera tilts down",
    "zoom_in": "the camera zooms in",
    "zoom_out": "the camera zooms out",
    "roll": "the camera rolls",
    "mixed": "the camera is moving in several ways",
    "handheld": "the camera is handheld",
}
_GRAY = 0.02  # aesthetics_saturation
_TONE, _WARM = 0.3, 0.1  # aesthetics_key, aesthetics_warmth


def captioner_of_tags(name: str) -> Captioner:
    """The template as a captioner, kept under `name`."""
    return Captioner(name, MODEL, VERSION, None)


def write_templates(dataset: Dataset, captioner: Captioner, pending: Pending) -> Iterator[int]:
    """Write the captions of what is pending, a shard at a time; gives the number of clips of each."""
    for shard, clips in pending.shards.items():
        views = (view for view in clip_views(dataset, shard, _READS) if view.clip_id in clips)
        merge(dataset, captioner, shard, {view.clip_id: _row(view) for view in views}, {})
        yield len(clips)


def compose(duration_s: float, tags: Mapping[str, Any]) -> dict[str, str | None]:
    """The texts of a caption; what was not measured is left out, and a text of which nothing was is None."""
    subject, scene = (name.replace("_", " ") if (name := tags.get(f"content_{what}")) else None for what in ("subject", "scene"))
    size = (tags.get("content_shot_size") or "shot").replace("_", " ")
    action = _MOTION[tags["motion_level"]] if "motion_level" in tags else None
    camera, tone, colors = _CAMERA.get(tags.get("motion_camera", "")), _tone(tags), _colors(tags)
    text = f"text on the screen reads {tags['content_text'][:120]!r}" if tags.get("content_text") else None

    head = " ".join(
        filter(
            None, (tone, size, f"of {subject}" if subject else None, f"({scene})" if scene else None, f"in {colors}" if colors else None)
        )
    )
    lasting = f"{head}, {duration_s:.1f} seconds long"
    return {
        "caption_short": _sentence(head),
        "caption_medium": _sentence(", ".join(filter(None, (head, action and f"with {action}"))))
        + (f" {_sentence(camera)}" if camera else ""),
        "caption_dense": " ".join(_sentence(part) for part in (lasting, action and f"there is {action}", camera, text) if part),
        "subject": subject,
        "action": action,
        "scene": scene,
        "camera": camera,
        "style": f"{colors} colors" if colors else None,
        "lighting": f"{tone} tones" if tone else None,
    }


def _row(view: ClipView) -> dict[str, Any]:
    texts = compose(view.clip["end_s"] - view.clip["start_s"], view.tags)
    camera, measured = texts["camera"], view.tags.get("motion_camera")
    facts = {"reason": None, "camera_agrees": camera_agrees(camera, LANGUAGE, measured) if camera else None, "language": LANGUAGE}
    made = {"model": MODEL, "prompt_version": VERSION, "frames": [], "frame_side": 0, "requests": 0}
    used = {"tokens_in": 0, "tokens_out": 0, "seconds": 0.0, "cost": 0.0}
    return {"clip_id": view.clip_id, **texts, **facts, **made, **used}


def _tone(tags: Mapping[str, Any]) -> str | None:
    key, warmth = tags.get("aesthetics_key"), tags.get("aesthetics_warmth")
    light = None if key is None or abs(key) < _TONE else "bright" if key > 0 else "dark"
    heat = None if warmth is None or abs(warmth) < _WARM or _is_gray(tags) else "warm" if warmth > 0 else "cool"
    return ", ".join(filter(None, (light, heat))) or None


def _colors(tags: Mapping[str, Any]) -> str | None:
    if _is_gray(tags):
        return "black and white"
    names = [name.strip() for name in (tags.get("content_dominant_colors") or "").replace("|", ",").split(",") if name.strip()]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:]))) or None


def _is_gray(tags: Mapping[str, Any]) -> bool:
    return tags.get("aesthetics_saturation", 1.0) < _GRAY


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
