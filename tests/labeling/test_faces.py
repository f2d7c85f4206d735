"""Faces of real people, with the real weights."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from labeling.tagger import ClipView, TaggerError
from labeling.taggers.faces import WEIGHTS, FaceTagger
from labeling.weights import Models
from tests.labeling.stills import clip_of


@pytest.fixture(scope="module")
def measure(weights):
    return FaceTagger(Models(str(weights(WEIGHTS)))).open()


WITH_FACE = {  # times in seconds, frame rate, faces seen at most, share of the picture that the largest fills, by eye
    "intel_book.mkv": ([0.5, 1.5, 3.0], 30, 1, (0.005, 0.03)),
    "vgen_ucf_PlayingGuitar_g03_c01.avi": ([1, 5, 9], 25, 1, (0.03, 0.08)),
    "kphotoalbum_movie.avi": ([1, 2, 4], 15, 1, (0.12, 0.25)),
    "moviepy_chaplin.mp4": ([1, 4, 8], 25, 2, (0.002, 0.01)),
    "mmaction2_demo.mp4": ([1, 2, 3], 28, 1, (0.04, 0.1)),
}
WITHOUT = {"dj_video11.mp4": ([1, 5, 10], 24), "intel_bottle-detection.mp4": ([5, 20, 35], 29.833)}


def test_real_faces(measure, corpus: Path) -> None:
    clips = [clip_of(corpus / name, times, fps) for name, (times, fps, *_) in WITH_FACE.items()]
    for clip, values, (*_, count, (low, high)) in zip(clips, measure(clips), WITH_FACE.values(), strict=True):
        assert values["content_face_count"] == count, clip.clip_id
        assert low < values["content_face_area"] < high, (clip.clip_id, values)


def test_none_where_nobody_is(measure, corpus: Path) -> None:
    clips = [clip_of(corpus / name, times, fps) for name, (times, fps) in WITHOUT.items()]
    assert list(measure(clips)) == [{"content_face_count": 0, "content_face_area": 0.0}] * len(clips)
    assert list(measure([ClipView({"clip_id": "x"}, {}, ())])) == [{}]


def test_count_and_area_follow_the_picture(measure, corpus: Path) -> None:
    """A second copy of the man beside himself: two faces, each of half the share. Cut off at the edge, the box ends there."""
    clip = clip_of(corpus / "kphotoalbum_movie.avi", [1], 15)
    picture = clip.keyframes[0].bgr
    both = ClipView({}, {}, (clip.keyframes[0].__class__(0.0, 0, cv2.imencode(".png", np.hstack([picture, picture]))[1].tobytes()),))
    one, two = measure([clip, both])
    assert (one["content_face_count"], two["content_face_count"]) == (1, 2)
    assert two["content_face_area"] == pytest.approx(one["content_face_area"] / 2, rel=0.15)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaggerError, match=f"{WEIGHTS}.*github.com/ShiqiYu"):
        FaceTagger(Models(os.fspath(tmp_path))).open()
