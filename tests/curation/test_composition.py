"""Composition, light and palette on pictures whose truth is known, and on real ones that were changed in a known way."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.frames import decode, open_media, rgb, video_stream
from curation.signals import composition, light, palette
from curation.signals.color import color_shift
from curation.signals.motion import global_shifts
from curation.signals.saliency import saliency, spectral_residual
from curation.signals.smoothness import camera_smoothness
from curation.signals.still import SMALL_SIDE, StillView
from tests.video import texture

HEIGHT, WIDTH = 144, 256


def still(bgr: np.ndarray) -> StillView:
    return StillView(bgr, bgr)


def blob(x: float, y: float, radius: int = 14) -> StillView:
    """A red ball before a gray wall, its center in shares of the width and height."""
    picture = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    cv2.circle(picture, (round(x * WIDTH), round(y * HEIGHT)), radius, (40, 40, 220), -1, cv2.LINE_AA)
    return still(picture)


@pytest.fixture(scope="module")
def frame(corpus: Path):
    """A real frame, BGR, 512 pixels long."""

    def read(name: str) -> np.ndarray:
        with open_media(str(corpus / name)) as container:
            picture = rgb(next(iter(decode(container, video_stream(container)))).frame)[..., ::-1]
        scale = 512 / max(picture.shape)
        return cv2.resize(np.ascontiguousarray(picture), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    return read


def test_a_still_is_halved_until_it_is_small():
    for shape in ((288, 512), (512, 288), (200, 200), (90, 500), (1, 512)):
        view = still(np.zeros((*shape, 3), np.uint8))
        assert max(view.small.shape[:2]) < SMALL_SIDE or min(view.small.shape[:2]) == 1
        assert view.small_lab.shape[:2] == view.small_luma.shape == view.slopes[0].shape


def test_saliency_is_where_the_thing_is():
    for x, y in ((0.2, 0.3), (0.5, 0.5), (0.8, 0.7)):
        drawn = saliency(blob(x, y).small_lab)
        assert drawn is not None
        for attention in (drawn.residual, drawn.subject):
            assert attention.sum() == pytest.approx(1, abs=1e-3)
            assert abs(float(attention.sum(axis=0) @ np.linspace(0, 1, attention.shape[1])) - x) < 0.06
            assert abs(float(attention.sum(axis=1) @ np.linspace(0, 1, attention.shape[0])) - y) < 0.06


def test_spectral_residual_finds_the_break_in_a_pattern():
    stripes = np.tile(100 + 60 * np.sin(np.pi / 2 * np.arange(64, dtype=np.float32)), (36, 1))
    stripes[16:20, 40:44] = 100
    residual = spectral_residual(stripes)
    assert residual is not None
    smooth = cv2.GaussianBlur(residual, (0, 0), 2.5)
    assert smooth[18, 42] > 5 * np.median(smooth), "the stripes themselves are stronger, but repeat"


def test_a_flat_picture_has_no_saliency():
    assert saliency(still(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).small_lab) is None


def test_thirds_center_and_balance_tell_where_the_subject_is():
    thirds, center, left = (saliency(blob(*place).small_lab) for place in ((1 / 3, 1 / 3), (0.5, 0.5), (0.1, 0.5)))
    assert thirds and center and left
    assert composition.rule_of_thirds(thirds.residual) > 0.5 > composition.rule_of_thirds(center.residual)
    assert composition.centrality(center.residual) > 0.6 > composition.centrality(thirds.residual) > composition.centrality(left.residual)
    assert composition.balance(center.subject) > 0.95
    assert composition.balance(left.subject) < 0.1


def test_subject_area_grows_with_the_subject():
    areas = [composition.subject_area(drawn.subject) for radius in (5, 15, 30, 50) if (drawn := saliency(blob(0.5, 0.5, radius).small_lab))]
    assert len(areas) == 4
    assert areas == sorted(areas)
    assert areas[0] < 0.05
    assert areas[-1] > 0.15


def test_symmetry_is_one_of_a_mirrored_picture():
    half = cv2.cvtColor(texture(HEIGHT, WIDTH // 2), cv2.COLOR_GRAY2BGR)
    mirrored, plain = still(np.hstack([half, half[:, ::-1]])), still(np.hstack([half, 255 - half[:, ::-1]]))

    def of(view: StillView) -> float:
        drawn = saliency(view.small_lab)
        assert drawn
        found = composition.symmetry(drawn.lab, *view.slopes)
        assert found is not None
        return found

    assert of(mirrored) > 0.98
    assert of(plain) < 0.6


def test_negative_space_is_what_no_edge_is_near():
    empty, half = np.full((HEIGHT, WIDTH), 128, np.uint8), np.full((HEIGHT, WIDTH), 128, np.uint8)
    half[:, : WIDTH // 2] = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH // 2))
    assert [composition.negative_space(*still(cv2.cvtColor(one, cv2.COLOR_GRAY2BGR)).slopes) for one in (empty, half)] == pytest.approx(
        [1, 0.5], abs=0.03
    )


def test_texture_is_not_stripes():
    stripes = np.tile(np.where(np.arange(WIDTH) // 6 % 2, 200, 60).astype(np.uint8), (HEIGHT, 1))
    checks = np.where((np.arange(HEIGHT)[:, None] // 6 + np.arange(WIDTH) // 6) % 2, 200, 60).astype(np.uint8)
    values = [composition.texture(*still(cv2.cvtColor(one, cv2.COLOR_GRAY2BGR)).slopes) for one in (stripes, checks)]
    assert values[0] < 0.05
    assert values[1] > 0.7


def test_depth_of_field_rises_as_the_surroundings_blur(frame):
    picture = frame("tuneavideo_man-surfing.mp4")
    weight = np.zeros(picture.shape[:2], np.float32)
    cv2.circle(weight, (256, 256), 130, 1.0, -1)
    weight = cv2.GaussianBlur(weight, (0, 0), 8)[..., None]
    values = [composition.depth_of_field(still(picture).luma)]
    for sigma in (1.5, 3, 6):
        soft = picture * weight + cv2.GaussianBlur(picture, (0, 0), sigma) * (1 - weight)
        values.append(composition.depth_of_field(still(soft.astype(np.uint8)).luma))
    assert values == sorted(values)
    assert composition.depth_of_field(np.full((288, 512), 99, np.uint8)) is None


@pytest.mark.parametrize("name", ["mmaction2_test_video_structuralize.mp4", "fastvideo_crush_027.mp4", "intel_bottle-detection.mp4"])
def test_horizon_tilt_is_the_turn_of_the_picture(frame, name):
    picture = frame(name)
    height, width = picture.shape[:2]
    level = composition.horizon_tilt(still(picture).small_luma)
    assert level is not None
    assert abs(level) < 4
    for degrees in (-8, -4, 4, 8):
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.35)
        turned = composition.horizon_tilt(still(cv2.warpAffine(picture, matrix, (width, height))).small_luma)
        assert turned is not None
        assert turned - level == pytest.approx(degrees, abs=1.5)


def test_no_horizon_where_no_lines_agree(frame):
    assert composition.horizon_tilt(still(frame("vgen_1066674877.mp4")).small_luma) is None
    assert composition.horizon_tilt(np.full((HEIGHT, WIDTH), 50, np.uint8)) is None


def test_key_rises_with_gamma(frame):
    picture = frame("videoxfun_inpaint.mp4")
    keys = []
    for exponent in (4.0, 2.0, 1.0, 0.6, 0.3):
        curve = (255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
        keys.append(light.key(still(cv2.LUT(picture, curve)).small_lab[..., 0]))
    assert keys == sorted(keys)
    assert [light.key(np.full((9, 9), value, np.uint8)) for value in (0, 128, 255)] == [-1, 0, 1]


def test_evenness_falls_under_a_ramp_of_light():
    flat = np.full((HEIGHT, WIDTH), 120, np.float32)
    values = [light.evenness(light.light_tiles((flat * np.linspace(1 - one, 1, WIDTH)).astype(np.uint8))) for one in (0, 0.2, 0.5, 0.9)]
    assert values[0] == pytest.approx(1, abs=1e-3)
    assert values == sorted(values, reverse=True)
    assert light.evenness(np.zeros((12, 16), np.float32)) is None


def test_vignetting_is_the_fall_off_and_not_a_ramp():
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    radius = (x**2 + y**2) / 2

    def of(factor: np.ndarray) -> float | None:
        return light.vignetting(light.light_tiles((200 * factor).astype(np.uint8)))

    values = [of(1 - amount * radius) for amount in (0, 0.2, 0.4, 0.8)]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[-1] == pytest.approx(0.8 * (0.85**2 - 0.45**2), abs=0.1)
    assert of((x + 1.2) / 2.2) == 0, "light from one side leaves two corners bright"
    assert light.vignetting(np.zeros((12, 16), np.float32)) is None


def test_backlight_is_a_dark_middle_before_brightness():
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[40:, 80:176] = True
    values = [light.backlight(np.where(inside, middle, around).astype(np.uint8)) for middle, around in ((20, 240), (240, 20), (20, 20))]
    assert values[0] > 0.7
    assert values[1] < 0.1
    assert values[2] == 0


def test_local_contrast_scales_with_contrast():
    plane = texture(HEIGHT, WIDTH)
    whole, half = (light.local_contrast(one) for one in (plane, (plane // 2 + 60).astype(np.uint8)))
    assert half == pytest.approx(whole / 2, rel=0.05)


def hues(*degrees: int) -> tuple[np.ndarray, np.ndarray]:
    hue = np.repeat((np.array(degrees) // 2).astype(np.uint8), 100)[None]
    return hue, np.full_like(hue, 200)


def test_harmony_of_known_hues():
    assert palette.hue_harmony(*hues(100)) == 1
    assert palette.hue_harmony(*hues(100, 280)) == 1, "complementary hues: template I"
    assert palette.hue_harmony(*hues(40, 60, 80)) == 1, "neighbors: template V"
    triad, even = palette.hue_harmony(*hues(0, 120, 240)), palette.hue_harmony(*hues(*range(0, 360, 4)))
    assert triad is not None and even is not None
    assert even == pytest.approx(0, abs=0.05)
    assert triad < 0.7
    assert palette.hue_harmony(*hues(0, 40, 80, 120, 160, 200)) == pytest.approx(0.615, abs=0.03), "a little too wide for template T"
    assert palette.hue_harmony(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)) is None


def test_palette_entropy_counts_colors():
    colors = np.random.default_rng(0).integers(0, 256, (64, 1, 3), np.uint8)
    pictures = [np.repeat(np.tile(colors[:count], (64 // count, 1, 1)), 64, axis=1) for count in (1, 4, 16, 64)]
    values = [palette.palette_entropy(still(picture).small_lab) for picture in pictures]
    assert values[0] == 0
    assert values[1] == pytest.approx(0.25, abs=0.01)
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("bgr", "name"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "gray"),
        ((0, 0, 230), "red"),
        ((0, 140, 255), "orange"),
        ((20, 60, 110), "brown"),
        ((0, 230, 240), "yellow"),
        ((40, 160, 30), "green"),
        ((220, 210, 20), "cyan"),
        ((220, 60, 20), "blue"),
        ((180, 30, 130), "purple"),
        ((180, 105, 255), "pink"),
    ],
)
def test_colors_are_named(bgr, name):
    assert palette.dominant_colors(palette.color_shares(np.full((8, 8, 3), bgr, np.uint8))) == (name,)


def test_dominant_colors_are_in_order_and_not_traces():
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[:60] = (220, 60, 20)
    picture[60:90] = 255
    picture[:, :3] = (0, 0, 230)
    assert palette.dominant_colors(palette.color_shares(picture)) == ("blue", "white", "black")


def test_color_shift_is_of_the_whole_picture():
    time_s = np.arange(50) / 25
    rng = np.random.default_rng(0)
    still_color = np.tile(rng.integers(90, 160, (1, 2, 12, 16), np.uint8), (50, 1, 1, 1))
    turns = [np.rint(size * np.sin(np.pi * time_s)[:, None, None, None]) for size in (6, 12)]
    hunting = [color_shift((still_color + turn).astype(np.uint8), time_s) for turn in turns]
    passing = still_color.copy()
    for index in range(50):
        passing[index, :, 4:8, : index // 6] = 200  # comes in and stays
    assert color_shift(still_color, time_s) == 0
    assert color_shift(passing, time_s) == 0
    assert hunting[0] and hunting[0] > 5
    assert hunting[1] == pytest.approx(2 * hunting[0], rel=0.1)
    assert color_shift(still_color[:1], time_s[:1]) is None


def shifts(path: np.ndarray) -> np.ndarray:
    """Camera motion, in diagonals, told from thumbnails of a picture seen along a path [N, 2] in its pixels, x and y."""
    picture = cv2.GaussianBlur(texture(480, 640), (0, 0), 6)
    views = [cv2.warpAffine(picture, np.float32([[1, 0, -x], [0, 1, -y]]), (512, 384)) for x, y in path + 60]
    return global_shifts(np.stack([cv2.resize(view, (32, 24), interpolation=cv2.INTER_AREA) for view in views])) * (0.8, 0.6)


def test_camera_smoothness_tells_a_glide_from_a_shake():
    seconds, rng = np.full(59, 0.04), np.random.default_rng(0)
    glide = np.stack([np.arange(60) * 0.8, np.zeros(60)], 1)
    paths = (np.zeros((60, 2)), glide, glide + rng.normal(0, 1.5, (60, 2)), glide + rng.normal(0, 6, (60, 2)))
    values = [camera_smoothness(shifts(path), seconds) for path in paths]
    assert values[0] == 1
    assert values[1] > 0.85
    assert values[1] > values[2] > values[3]
    assert values[3] < 0.4
    assert camera_smoothness(shifts(glide[:4]), seconds[:3]) is None
    assert camera_smoothness(np.full((59, 2), np.nan), seconds) is None
    assert camera_smoothness(np.zeros((0, 2)), np.zeros(0)) is None
