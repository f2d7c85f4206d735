"""Text of real videos, read by the real models, and what is made of lines."""

import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from labeling.tagger import ClipView
from labeling.taggers.ocr import Line, OcrTagger, covered_share, distinct, is_same, overlap, printable, script, text_tags
from tests.labeling.stills import clip_of


@pytest.fixture(scope="module")
def measure(corpus: Path):
    """The tagger, opened and used without a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the OCR reaches for the network"))
        yield OcrTagger().open()


def test_subtitles_and_channel_logo_of_a_real_cartoon(measure, corpus: Path) -> None:
    (values,) = measure([clip_of(corpus / "dj_video1.mp4", [1.0, 2.0, 5.3], 24)])
    assert values["content_subtitle_text"] == "我一下就把你们逮住了 | 沸羊羊大人英明神武"
    assert "YOUKU" in values["content_watermark_text"] and "沸羊羊" not in values["content_watermark_text"]
    assert all(word in values["content_text"] for word in ("YOUKU", "大营救", "我一下就把你们逮住了"))
    assert values["content_text_script"] in ("han", "mixed")
    assert 0.03 < values["naturalness_ocr_text_area"] < 0.2


def test_slide_watermark_and_no_text(measure, corpus: Path) -> None:
    slide = clip_of(corpus / "v2d_test_video.mp4", [10.0], 30)
    peppers = clip_of(corpus / "videollava_sample_demo_9.mp4", [6.0], 23.976)
    room = clip_of(corpus / "intel_book.mkv", [0.5], 30)  # which the models take for one large letter
    on_slide, on_peppers, in_room, without = measure([slide, peppers, room, ClipView({}, {}, ())])
    words = on_slide["content_text"].replace(" ", "")  # spaces are read or not from one picture to the next
    assert words.count("Source:CommonCrawl") == 1 and on_slide["content_text_script"] == "latin"
    assert on_slide["content_subtitle_text"] is None and on_slide["content_watermark_text"] is None  # one picture: nothing moves
    assert is_same(on_peppers["content_text"], "shutterstock")
    assert (in_room["content_text"], in_room["content_text_script"], in_room["naturalness_ocr_text_area"]) == ("", None, 0.0)
    assert without == {}


def line(text: str, left: float, top: float, right: float, bottom: float, score: float = 0.95) -> Line:
    return Line(text, score, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))


def test_what_stays_is_a_watermark_and_what_is_low_and_centered_a_subtitle() -> None:
    rng = np.random.default_rng(0)
    moving = [rng.integers(0, 255, (90, 160, 3), np.uint8).repeat(2, 0).repeat(2, 1) for _ in range(3)]
    logo, title = line("LOGO", 0.05, 0.05, 0.2, 0.1), line("Chapter two", 0.3, 0.3, 0.7, 0.5)
    unsure, aside = line("gu ess", 0.4, 0.8, 0.6, 0.85, score=0.6), line("left below", 0.0, 0.8, 0.3, 0.85)
    lines = [
        [logo, title, line("Good morning", 0.3, 0.85, 0.7, 0.9)],
        [logo, unsure, line("Good evening, sir", 0.3, 0.85, 0.7, 0.9)],
        [logo, aside, line("Good evening sir", 0.3, 0.85, 0.7, 0.9)],
    ]
    values = text_tags(moving, lines, 0.8)
    assert values["content_watermark_text"] == "LOGO"
    assert values["content_subtitle_text"] == "Good morning | Good evening, sir"
    assert values["content_text"] == "LOGO | Chapter two | Good morning | Good evening, sir | left below"
    assert values["content_text_script"] == "latin"
    still = text_tags([moving[0]] * 3, lines, 0.8)
    assert still["content_watermark_text"] is None and still["content_subtitle_text"] is None
    moved = text_tags(moving, [[line("LOGO", x, 0.05, x + 0.15, 0.1)] for x in (0.05, 0.4, 0.8)], 0.8)
    assert moved["content_watermark_text"] == ""


def test_readings_of_one_text_count_once() -> None:
    read = [("shotterstsck", 0.91), ("shutterstock", 0.98), ("灰太狼之异国", 0.95), ("Exit", 0.95), ("喜羊羊与灰太狼之异国", 0.9)]
    assert distinct(line(text, 0, 0, 1, 1, score) for text, score in read) == ["shutterstock", "喜羊羊与灰太狼之异国", "Exit"]
    assert not is_same("in", "London in the rain")


def test_script_of_letters() -> None:
    assert script("Hello, world 1") == "latin"
    assert script("我一下就把你们逮住了") == "han"
    assert script("東京に行きます") == "kana"
    assert script("YOUKU 喜羊羊") == "mixed"
    assert script("Καλημέρα") == "greek"
    assert script("00:01 - 24") is None


def test_control_characters_are_stripped() -> None:
    text = printable("one\x00\x1b[31m\ttwo\n\u202ethree\u200b \ue000")
    assert text == "one[31m two three"
    assert not any(unicodedata.category(letter)[0] == "C" for letter in text)


def test_area_counts_overlapping_boxes_once() -> None:
    half = line("a", 0, 0, 0.5, 1)
    assert covered_share([half, half]) == pytest.approx(0.5, abs=0.01)
    assert covered_share([half, line("b", 0.25, 0, 0.75, 1)]) == pytest.approx(0.75, abs=0.01)
    assert covered_share([]) == 0
    assert overlap(half.box, line("b", 0.25, 0, 0.75, 1).box) == pytest.approx(1 / 3)
