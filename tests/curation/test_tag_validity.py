"""Tags follow what is done to real footage: the surest cases of tests/benchmarks/tag_validity.py, small."""

import cv2
import numpy as np
import pytest

from curation.frames import decode, open_media, rgb, video_stream
from curation.rows import rows
from curation.scan import ScanConfig, scan_video
from curation.sources import Found, identify
from schemas.records import TagRecord
from tests.benchmarks.camera_moves import Move, film
from tests.benchmarks.degrade import LOSSLESS, Footage
from tests.benchmarks.validity_cases import CASES
from tests.video import write_video

FPS, SECONDS, WIDTH = 25, 1.4, 256
CLIPS = ("panda_sample_27JMPcO4byc.33.mp4", "intel_book.mkv")

# Degradation, tag, direction. Of the five levels the second, the third and the last are taken.
SURE = (
    ("blur", "quality_sharpness", -1),
    ("noise", "quality_noise", 1),
    ("h264_crf", "quality_bits_per_pixel", -1),
    ("jpeg", "quality_blockiness", 1),
    ("overexposure", "quality_overexposed", 1),
    ("underexposure", "quality_exposure", -1),
    ("low_contrast", "quality_contrast", -1),
    ("desaturation", "aesthetics_saturation", -1),
    ("warmth", "aesthetics_warmth", 1),
    ("flicker", "quality_flicker", 1),
    ("freeze", "quality_frozen_ratio", 1),
    ("letterbox", "quality_bar_area", 1),
    ("shake", "motion_shake", 1),
)


def measured(path):
    """All tags of a file that is one clip."""
    config = ScanConfig()
    with scan_video(str(path), config) as scan:
        found = [row for row in rows(scan, identify(Found(str(path))), config) if isinstance(row, TagRecord)]
    assert len({row.clip_id for row in found}) == 1
    return {name: value for row in found for name, value in row.values.items()}


def read(path, seconds, width=None):
    frames = []
    with open_media(str(path)) as container:
        for one in decode(container, video_stream(container)):
            if one.time_s >= seconds:
                break
            picture = rgb(one.frame)
            height = round(picture.shape[0] * (width or picture.shape[1]) / picture.shape[1] / 2) * 2
            frames.append(cv2.resize(picture, (width or picture.shape[1], height), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


@pytest.fixture(scope="module")
def originals(corpus, tmp_path_factory):
    """Of each clip: the footage, and the tags of a lossless copy."""
    folder, found = tmp_path_factory.mktemp("originals"), []
    for name in CLIPS:
        frames = read(corpus / name, 2 * SECONDS, WIDTH)
        footage = Footage(frames, round(SECONDS * FPS), FPS, frames[::-1])
        found.append((footage, measured(write_video(folder / f"{name}.mkv", footage.core, fps=FPS, options=LOSSLESS))))
    return found


@pytest.mark.parametrize(("name", "tag", "direction"), SURE, ids=[name for name, _, _ in SURE])
def test_a_tag_follows_its_degradation(originals, tmp_path, name, tag, direction):
    (degradation,) = (case.degradation for case in CASES if case.degradation.name == name)
    for footage, original in originals:
        series = [original[tag]]
        for number in (1, 2, 4):
            level = degradation.levels[number]
            path = tmp_path / f"{number}.mkv"
            write_video(path, degradation.frames(footage, level), fps=FPS, options=degradation.encoder(level))
            series.append(measured(path)[tag])
        assert all(direction * step > 0 for step in np.diff(series)), f"{tag} at the original and three levels: {series}"


@pytest.mark.parametrize(
    "move",
    [
        Move("static"),
        Move("pan_right", pan=0.1),
        Move("pan_left", pan=-0.1),
        Move("tilt_up", tilt=0.1),
        Move("tilt_down", tilt=-0.1),
        Move("zoom_in", zoom=0.2),
        Move("zoom_out", zoom=-0.2),
        Move("roll", roll=0.3),
    ],
    ids=lambda move: move.kind,
)
def test_a_camera_move_gets_its_name(corpus, tmp_path, move):
    still = read(corpus / "fastvideo_crush_027.mp4", 0.01)
    path = write_video(tmp_path / "move.mkv", film(still, FPS, move)[: round(SECONDS * FPS)], fps=FPS, options={"crf": "17"})
    assert measured(path)["motion_camera"] == move.kind
