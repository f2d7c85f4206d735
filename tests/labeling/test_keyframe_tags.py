"""The group keyframes: real keyframes of real clips in, all weight-free tags of pictures out."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from labeling.scores import Term
from labeling.tagger import ClipView, Keyframe, active_picture
from labeling.taggers import aesthetics
from labeling.taggers.keyframes import KeyframeTagger
from schemas.tags import TAGS, TagSpec
from tests.video import texture

NAMES = ("tuneavideo_man-surfing.mp4", "fastvideo_crush_027.mp4", "moviepy_chaplin.mp4", "pygame_blue.mpg", "videoxfun_pose.mp4")
SPECS = {spec.name: spec for spec in TAGS if spec.needs == "keyframes"}


def view(pictures: list[np.ndarray], **crop: int) -> ClipView:
    """A clip of the given keyframes, BGR, without black bars where no crop is given."""
    height, width = pictures[0].shape[:2]
    row = {"clip_id": "c", "width": width, "height": height, "crop_x": 0, "crop_y": 0, "crop_w": width, "crop_h": height} | crop
    jpegs = [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for picture in pictures]
    return ClipView(row, {}, tuple(Keyframe(float(index), index, jpeg) for index, jpeg in enumerate(jpegs)))


def tags(*clips: ClipView) -> list[dict[str, object]]:
    return [dict(values) for values in KeyframeTagger().open()(list(clips))]


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[ClipView]:
    found = []
    for name in NAMES:
        capture, pictures = cv2.VideoCapture(str(corpus / name)), []
        for _ in range(3):
            done, picture = capture.read()
            assert done
            scale = 512 / max(picture.shape)
            pictures.append(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        found.append(view(pictures))
    return found


def fits(spec: TagSpec, value: object) -> bool:
    match spec.dtype:
        case "float32":
            return isinstance(value, float) and (spec.low or -math.inf) <= value <= (math.inf if spec.high is None else spec.high)
        case "int32":
            return isinstance(value, int)
        case "bool":
            return isinstance(value, bool)
    return isinstance(value, str)


def test_every_tag_is_measured_within_its_bounds(clips):
    found = tags(*clips)
    for values in found:
        assert set(values) == set(SPECS)
        assert [name for name, value in values.items() if value is not None and not fits(SPECS[name], value)] == []
    seen = {name for values in found for name, value in values.items() if value is not None}
    assert {name for name in SPECS if name.startswith(("aesthetics_", "content_"))} <= seen


def test_values_are_the_same_wherever_pictures_lie_in_memory(clips):
    first, held = tags(*clips), []
    for size in (1_007, 20_011, 3_013, 500_009, 70_001):
        held.append(np.zeros(size, np.uint8))  # moves what is allocated next
        assert tags(*clips) == first


def test_a_clip_without_keyframes_has_no_tags():
    assert tags(ClipView({"clip_id": "c"}, {}, ())) == [{}]


def test_a_flat_picture_is_null_where_nothing_tells(clips):
    values = tags(clips[NAMES.index("pygame_blue.mpg")])[0]
    for name in ("rule_of_thirds", "centrality", "subject_area", "balance", "symmetry", "depth_of_field", "horizon_tilt"):
        assert values[f"aesthetics_{name}"] is None, name
    assert values["aesthetics_negative_space"] == 1
    assert values["content_dominant_colors"] == "blue"


def test_a_gray_film_has_no_harmony(clips):
    values = tags(clips[NAMES.index("moviepy_chaplin.mp4")])[0]
    assert values["aesthetics_hue_harmony"] is None
    assert set(str(values["content_dominant_colors"]).split(", ")) <= {"black", "gray", "white"}


def test_black_bars_are_not_looked_at(clips):
    pictures = [keyframe.bgr for keyframe in clips[0].keyframes]
    height, width = pictures[0].shape[:2]
    barred = [cv2.copyMakeBorder(picture, 96, 96, 0, 0, cv2.BORDER_CONSTANT) for picture in pictures]
    plain, cut = tags(view(pictures), view(barred, crop_y=96, crop_h=height))
    left = tags(view(barred))[0]
    for name in ("aesthetics_key", "aesthetics_lighting_evenness", "aesthetics_rule_of_thirds"):
        assert cut[name] == pytest.approx(plain[name], abs=0.02), name
        assert left[name] != pytest.approx(plain[name], abs=0.04), name


def test_the_active_picture_scales_with_the_keyframe():
    row = {"width": 1920, "height": 1080, "crop_x": 240, "crop_y": 0, "crop_w": 1440, "crop_h": 1080}
    assert active_picture(np.zeros((288, 512, 3), np.uint8), row).shape == (288, 384, 3)
    thin = {**row, "crop_x": 0, "crop_w": 1}
    assert active_picture(np.zeros((288, 512, 3), np.uint8), thin).shape == (288, 1, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 512), (512, 1), (3, 7), (16, 512), (40, 40), (512, 288)])
def test_pictures_of_any_shape(shape):
    values = tags(view([cv2.cvtColor(texture(*shape), cv2.COLOR_GRAY2BGR)]))[0]
    assert [name for name, value in values.items() if value is not None and not fits(SPECS[name], value)] == []


def test_the_proxy_is_monotone_in_every_rule():
    good = {term.tag: term.good for term in aesthetics.PROXY}
    assert aesthetics.proxy(good) == 1
    assert aesthetics.proxy({term.tag: term.bad for term in aesthetics.PROXY}) == pytest.approx(0)
    assert aesthetics.proxy({}) is None
    for term in aesthetics.PROXY:
        steps = [aesthetics.proxy(good | {term.tag: term.bad + share * (term.good - term.bad)}) for share in (0, 0.3, 0.6, 1)]
        assert steps == sorted(steps), term.tag
        assert steps[0] != steps[-1]
    assert aesthetics.proxy({"aesthetics_horizon_tilt": -9.0}) == 0, "a tilt to the other side is a tilt"


def test_the_proxy_reads_known_tags():
    assert {term.tag for term in aesthetics.PROXY} <= set(SPECS)
    assert all(isinstance(term, Term) and term.weight > 0 for term in aesthetics.PROXY)


def test_the_proxy_puts_a_photograph_before_a_void(clips):
    surfer, blue = (tags(clips[NAMES.index(name)])[0]["aesthetics_proxy"] for name in ("tuneavideo_man-surfing.mp4", "pygame_blue.mpg"))
    assert isinstance(surfer, float) and isinstance(blue, float)
    assert surfer > blue + 0.3
