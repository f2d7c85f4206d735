"""Naturalness: real clips are spoiled, and the measurement that should notice rises; on the clips as they are it stays low."""

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.clips import cut_out
from curation.frames import decode, open_media, rgb, video_stream
from curation.rows import video_record
from curation.scan import ScanConfig, scan_video
from curation.shots import find_clips
from curation.signals import framing, lettering, sequence
from curation.signals.layout import mosaic_share
from curation.signals.overlay import Stack, corner_logo, static_overlay_share, tiled_watermark
from curation.sources import Source
from curation.tags import naturalness
from tests.video import texture

CLIP, FRAMES = "panda_sample_27JMPcO4byc.33.mp4", 100  # a panning camera, 50 frames a second
STILL_CLIP = "intel_book.mkv"


def read(path: Path, count: int) -> np.ndarray:
    """The first frames of a video as gray pictures half its size, uint8 [N, h, w]."""
    with open_media(str(path)) as container:
        pictures = (
            cv2.cvtColor(rgb(one.frame), cv2.COLOR_RGB2GRAY)
            for one, _ in zip(decode(container, video_stream(container)), range(count), strict=False)
        )
        return np.stack([cv2.resize(one, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for one in pictures])


@pytest.fixture(scope="module")
def footage(corpus: Path) -> np.ndarray:
    return read(corpus / CLIP, FRAMES)


@pytest.fixture(scope="module")
def other(corpus: Path, footage: np.ndarray) -> np.ndarray:
    frames = read(corpus / STILL_CLIP, FRAMES)
    return np.stack([cv2.resize(frame, footage.shape[:0:-1], interpolation=cv2.INTER_AREA) for frame in frames])


def stack(frames: Iterable[np.ndarray]) -> np.ndarray:
    return np.stack(list(frames)[::20])


def thumbnails(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in frames])


def steps(frames: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2))


def seconds(frames: np.ndarray, fps: float = 50) -> np.ndarray:
    return np.full(len(frames) - 1, 1 / fps)


def rises(values: Iterable[float | None], at_first: float = 0.05) -> None:
    known = [value for value in values if value is not None]
    assert known == sorted(known)
    assert known[0] <= at_first < known[-1]


def drawn(frames: np.ndarray, draw: Callable[[np.ndarray], object]) -> np.ndarray:
    out = frames.copy()
    for frame in out:
        draw(frame)
    return out


def write(frame: np.ndarray, text: str, x: int, y: int, size: float) -> None:
    for tone, thick in ((0, 4), (255, 1)):
        cv2.putText(frame, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, tone, thick, cv2.LINE_AA)


# --- what stays on the screen ------------------------------------------------------------------------------------------------------


def test_a_logo_in_the_corner(footage, other):
    sides = (0, 8, 14, 24, 36)
    logos = [
        Stack(stack(drawn(footage, lambda f, side=side: cv2.circle(f, (280, 30), side // 2, 255, 3) if side else f))) for side in sides
    ]
    rises(map(corner_logo, logos), 0.005)
    rises(map(static_overlay_share, logos), 0.005)
    still = Stack(np.stack([other[0]] * 5))
    assert corner_logo(still) is None, "in a still clip everything is fixed"
    assert static_overlay_share(still) is None


def test_a_watermark_all_over(footage):
    layer = np.zeros(footage.shape[1:], np.uint8)
    for row, y in enumerate(range(15, 180, 30)):
        for x in range(-30 * (row % 2), 320, 60):
            cv2.putText(layer, "stock", (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    marked = [np.stack([np.clip(f + layer * share, 0, 255).astype(np.uint8) for f in stack(footage)]) for share in (0, 0.1, 0.2, 0.4)]
    rises((tiled_watermark(Stack(one)) for one in marked), 0.2)
    assert tiled_watermark(Stack(marked[-1])) > 0.6
    assert tiled_watermark(Stack(np.stack([texture(120, 213, seed) for seed in range(6)]))) < 0.2
    assert tiled_watermark(Stack(np.full((3, 90, 160), 7, np.uint8))) == 0


# --- lettering ---------------------------------------------------------------------------------------------------------------------


def test_lettering_grows_with_its_lines_and_size(footage):
    def page(lines: int) -> np.ndarray:
        out = cv2.resize(footage[0], None, fx=2, fy=2)
        for line in range(lines):
            write(out, "words and more words, line by line", 20, 40 + 40 * line, 1.0)
        return out

    rises(lettering.measure(page(lines)).area for lines in (0, 1, 3, 6))
    assert lettering.measure(page(6)).card == 0, "grass is not of one tone"

    def subtitle(size: float) -> np.ndarray:
        out = cv2.resize(footage[0], None, fx=2, fy=2)
        write(out, "words and more words"[: int(28 / size)], 30, 340, size)
        return out

    rises((lettering.measure(subtitle(size) if size else page(0)).low_lines for size in (0, 0.6, 1.0, 1.6)), 0.02)
    assert lettering.measure(page(4)).low_lines == 0, "lines at the top are no subtitles"


def test_a_title_card():
    card = np.full((360, 640), 30, np.uint8)
    assert lettering.measure(card).card == 0
    write(card, "CHAPTER ONE", 120, 180, 2.0)
    assert lettering.measure(card).card > 0.9


# --- framing -----------------------------------------------------------------------------------------------------------------------


def test_a_split_screen(footage, other):
    def beside(share: float) -> np.ndarray:
        out, seam = footage.copy(), round((1 - share) * footage.shape[2])
        out[:, :, seam:] = other[:, :, : footage.shape[2] - seam]
        return stack(out)

    rises((framing.measure(beside(share)).split_screen for share in (0, 0.2, 0.35, 0.5)), 0.1)
    turned = beside(0.5).transpose(0, 2, 1)
    assert framing.measure(turned).split_screen == framing.measure(beside(0.5)).split_screen


def test_sides_filled_with_a_blurred_copy(footage):
    def filled(core: float) -> np.ndarray:
        height, width = footage.shape[1:]
        left, rows = round((1 - core) * width / 2), round(core * height)
        out = []
        for frame in stack(footage):
            narrow = frame[:, left : width - left]
            wide = cv2.GaussianBlur(cv2.resize(narrow[(height - rows) // 2 :][:rows], (width, height)), (0, 0), width / 32)
            wide[:, left : width - left] = narrow
            out.append(wide)
        return np.stack(out)

    found = [framing.measure(filled(core)) for core in (1.0, 0.7, 0.5, 0.32)]
    rises(one.side_fill for one in found)
    assert found[-1].side_fill == pytest.approx(0.68, abs=0.05)
    assert found[-1].split_screen == 0, "the seams are those of the filling"


def test_a_plain_border(footage):
    def bordered(thick: int) -> np.ndarray:
        return np.stack(
            [
                cv2.copyMakeBorder(f[thick : 180 - thick, thick : 320 - thick], *[thick] * 4, cv2.BORDER_CONSTANT, value=200)
                for f in stack(footage)
            ]
        )

    found = [framing.border_share(bordered(thick)) if thick else framing.border_share(stack(footage)) for thick in (0, 4, 10, 20)]
    rises(found)
    assert found[-1] == pytest.approx(1 - 140 * 280 / (180 * 320), abs=0.03)
    assert framing.border_share(np.full((3, 90, 160), 200, np.uint8)) == 0, "a plain picture has no border"


def test_a_fisheye_circle(footage):
    y, x = np.ogrid[:180, :320]
    found = [
        framing.circle_surround(stack(footage * (np.hypot(y - 89.5, x - 159.5) < radius).astype(np.uint8))) for radius in (400, 110, 90, 70)
    ]
    rises(found)
    assert found[-1] == pytest.approx(1 - np.pi * 70**2 / (180 * 320), abs=0.05)


def test_a_turned_picture(footage):
    found = []
    for degrees in (0, 4, 7, 11):
        matrix = cv2.getRotationMatrix2D((160, 90), degrees, 1.5)
        turned = stack(cv2.warpAffine(frame, matrix, (320, 180), flags=cv2.INTER_CUBIC) for frame in footage)
        found.append(framing.turned_share(Stack(turned).slopes))
    rises(found)
    assert framing.turned_share(Stack(np.full((3, 90, 160), 7, np.uint8)).slopes) is None


def test_a_pixelated_region(footage):
    def pixelated(share: float) -> np.ndarray:
        out = cv2.resize(footage[0], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        height, width = (round(side * share) for side in out.shape)
        if share:
            small = cv2.resize(out[20 : 20 + height, 30 : 30 + width], (width // 14, height // 14), interpolation=cv2.INTER_AREA)
            out[20 : 20 + height, 30 : 30 + width] = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
        return out

    rises((mosaic_share([pixelated(share)]) for share in (0, 0.3, 0.5, 0.7)), 0.01)
    assert mosaic_share([np.full((100, 100), 7, np.uint8)]) == mosaic_share([]) == 0


# --- time --------------------------------------------------------------------------------------------------------------------------


def test_a_loop_and_a_boomerang(footage):
    def repeated(times: int) -> sequence.Repetition:
        return sequence.repetition(thumbnails(footage[np.arange(FRAMES) % (FRAMES // times)]), 0, FRAMES)

    rises((repeated(times).again for times in (1, 2, 4)), 0.0)
    assert repeated(2).backward == 0
    there_and_back = thumbnails(np.concatenate([footage[:50], footage[49::-1]]))
    assert sequence.repetition(there_and_back, 0, FRAMES).backward > 0.4
    assert sequence.repetition(there_and_back, 50, FRAMES).again > 0.8, "what came before the clip counts"
    assert sequence.repetition(thumbnails(np.stack([footage[0]] * 60)), 0, 60).again == 0, "a still picture does not come back"


def test_speed(footage):
    fast = [footage[::factor] for factor in (1, 2, 4)]
    rises((sequence.speed_up(thumbnails(one), seconds(one)) for one in fast), 0.4)
    repeated = [footage[(np.arange(FRAMES) / factor).astype(int)] for factor in (1, 2, 4)]
    rises((sequence.slow_motion(thumbnails(one), steps(one)) for one in repeated), 0.15)
    blended = []
    for factor in (1, 2, 3):
        times = np.arange(FRAMES - 1) / factor
        weight = (times % 1)[:, None, None]
        first = times.astype(int)
        blended.append(np.rint(footage[first] * (1 - weight) + footage[first + 1] * weight).astype(np.uint8))
    rises((sequence.slow_motion(thumbnails(one), steps(one)) for one in blended), 0.15)
    still = np.stack([footage[0]] * 30)
    assert sequence.slow_motion(thumbnails(still), steps(still)) is None
    assert sequence.speed_up(thumbnails(footage[:4]), seconds(footage[:4])) is None


def test_a_slideshow(footage):
    held = [footage[np.arange(FRAMES) // hold * hold] for hold in (1, 8, 20, 40)]
    rises(sequence.slideshow(steps(one), 50) for one in held)
    assert sequence.slideshow(np.zeros(50), 25) == 1
    assert sequence.slideshow(np.full(100, 5.0), 25) == 0


def test_uneven_frames(footage):
    even = seconds(footage)
    rises(sequence.uneven(steps(footage), even + np.resize([share / 50, -share / 50], len(even))) for share in (0, 0.15, 0.4))
    order = np.arange(FRAMES)
    dropped = order.copy()
    dropped[5::7] = dropped[4::7][: len(dropped[5::7])]
    assert sequence.uneven(steps(footage[dropped]), even) > sequence.uneven(steps(footage), even) + 0.05


def test_the_rest_of_a_dissolve(footage, other):
    # On the clip of a camera at rest: where much moves, a faint rest cannot be told.
    def faded(opacity: float) -> float | None:
        out = other.astype(np.float32)
        weight = opacity * (1 - np.arange(10) / 10)[:, None, None]
        out[:10] = out[:10] * (1 - weight) + footage[:10] * weight
        return sequence.transition_residue(thumbnails(np.rint(out).astype(np.uint8)), seconds(other, 30))

    rises(map(faded, (0, 0.2, 0.4, 0.7)))
    assert sequence.transition_residue(thumbnails(other[:10]), seconds(other[:10], 30)) is None


def test_likeness_of_start_and_end(footage, other):
    chroma = np.full((FRAMES, 2, 12, 16), 128, np.uint8)
    same = sequence.start_end_likeness(thumbnails(np.stack([footage[0]] * FRAMES)), chroma)
    cut = sequence.start_end_likeness(thumbnails(np.concatenate([footage[:50], other[:50]])), chroma)
    assert same == 1
    assert cut < 0.3 < sequence.start_end_likeness(thumbnails(other), chroma)


# --- all of it ---------------------------------------------------------------------------------------------------------------------


def tags_of(path: Path) -> list[dict[str, object]]:
    config = ScanConfig()
    with scan_video(str(path), config) as scan:
        video = video_record(scan, Source(str(path), "0" * 16, path.stat().st_size))
        return [naturalness.tags(cut_out(scan, span, video, config), video) for span in find_clips(scan.features, config.shots)]


def test_real_clips_get_what_they_deserve(corpus):
    camera, screen = tags_of(corpus / CLIP)[0], tags_of(corpus / "screen_gnome_message-board.ogv")[0]
    two = tags_of(corpus / "gen_finetrainers_cogvideox_lora.webm")[3]  # two clips side by side
    for name in (
        "corner_logo",
        "tiled_watermark",
        "subtitle_band",
        "title_card",
        "split_screen",
        "side_fill",
        "border",
        "mosaic",
        "loop",
        "reverse",
    ):
        assert camera[f"naturalness_{name}"] < 0.2, name
    for name in ("screen_recording", "cartoon", "flat_area"):
        assert screen[f"naturalness_{name}"] > camera[f"naturalness_{name}"] + 0.2, name
    assert two["naturalness_split_screen"] > 0.8
