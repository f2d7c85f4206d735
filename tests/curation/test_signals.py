"""Measurements on pictures whose truth is known."""

import cv2
import numpy as np
import pytest

from curation.signals.color import color
from curation.signals.layout import Bars, axis_edge_share, black_bars, flat_share, static_overlay_share, text_share
from curation.signals.motion import FlowMeter, classify_camera, fit_camera, global_shifts, jitter
from curation.signals.picture import bands, blockiness, combing, exposure, neighbor_steps, noise_sigma, sharpness
from curation.signals.planes import SMALL_SIDE, full_range_luma, match, resize_down, shrink, to_bgr
from curation.signals.temporal import black_share, flicker, repeats, slideshow
from curation.signals.view import edge_gradients
from tests.video import texture

PICTURE = texture(360, 640)


def test_shrinking_keeps_the_mean_and_the_limit():
    for shape in ((720, 1280), (1080, 1920), (479, 853), (100, 100), (64, 1000)):
        plane = texture(*shape)
        small = shrink(plane, SMALL_SIDE)
        assert max(small.shape) < SMALL_SIDE
        assert abs(float(small.mean()) - float(plane.mean())) < 2
    assert match(PICTURE, 90, 100).shape == (90, 160)
    assert resize_down(PICTURE, (512, 288)).shape == (288, 512)


def test_limited_range_is_stretched():
    assert full_range_luma(np.array([[16, 235, 0, 255]], np.uint8), False).tolist() == [[0, 255, 0, 255]]
    assert full_range_luma(np.array([[16, 235]], np.uint8), True).tolist() == [[16, 235]]


def test_planes_to_color():
    red = to_bgr(np.full((8, 8), 76, np.uint8), np.full((4, 4), 85, np.uint8), np.full((4, 4), 255, np.uint8))
    assert red[0, 0].tolist() == pytest.approx([0, 0, 254], abs=3)


def test_sharpness_falls_with_blur_and_ignores_noise():
    blurred = [sharpness(bands(cv2.GaussianBlur(PICTURE, (0, 0), sigma))) for sigma in (0.5, 1, 2, 4, 8)]
    assert blurred == sorted(blurred, reverse=True)
    soft = cv2.GaussianBlur(PICTURE, (0, 0), 3)
    noisy = np.clip(soft + np.random.default_rng(0).normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
    corrected = sharpness(bands(noisy), noise_sigma(bands(noisy)))
    assert corrected < 0.5 * sharpness(bands(noisy))


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0])
def test_noise_sigma_is_what_was_added(sigma):
    soft = cv2.GaussianBlur(PICTURE, (0, 0), 3).astype(float)
    noisy = np.clip(np.rint(soft + np.random.default_rng(1).normal(0, sigma, soft.shape)), 0, 255).astype(np.uint8)
    assert noise_sigma(bands(noisy)) == pytest.approx(sigma, rel=0.2)


def test_blockiness_sees_the_grid():
    smooth = cv2.GaussianBlur(PICTURE, (0, 0), 3)
    blocks = cv2.resize(cv2.resize(smooth, (80, 45), interpolation=cv2.INTER_AREA), (640, 360), interpolation=cv2.INTER_NEAREST)
    mixed = cv2.addWeighted(smooth, 0.7, blocks, 0.3, 0)
    assert blockiness(*neighbor_steps(smooth)) < 0.1
    assert blockiness(*neighbor_steps(mixed)) > 0.5
    shifted = np.roll(mixed, 4, axis=(0, 1))
    assert blockiness(*neighbor_steps(shifted)) < 0.2, "steps off the grid are no blocks"


def test_combing_sees_woven_fields():
    moved = np.roll(PICTURE, 12, axis=1)
    woven = PICTURE.copy()
    woven[1::2] = moved[1::2]
    assert combing(PICTURE) < 0.05
    assert combing(woven) > 0.3


def test_exposure_of_known_pictures():
    half = np.zeros((100, 100), np.uint8)
    half[50:] = 255
    facts = exposure(half)
    assert (facts.mean, facts.overexposed, facts.underexposed, facts.contrast, facts.dynamic_range) == pytest.approx(
        (0.5, 0.5, 0.5, 1.0, 1.0)
    )
    assert exposure(np.full((10, 10), 128, np.uint8)).entropy == 0
    assert exposure(np.tile(np.arange(256, dtype=np.uint8), (4, 1))).entropy == pytest.approx(1)


def test_flat_share():
    assert flat_share(neighbor_steps(np.full((20, 20), 7, np.uint8))[0]) == 1
    assert flat_share(neighbor_steps(np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8))[0]) < 0.02


def test_color_names_and_measures():
    gray = np.full((40, 40, 3), 120, np.uint8)
    assert color(gray).dominant == "gray"
    assert color(gray).colorfulness == pytest.approx(0)
    for bgr, name in (((0, 0, 220), "red"), ((0, 200, 0), "green"), ((220, 40, 0), "blue"), ((0, 220, 220), "yellow")):
        facts = color(np.full((40, 40, 3), bgr, np.uint8))
        assert facts.dominant == name
        assert facts.saturation > 0.7
    assert color(np.full((4, 4, 3), (20, 100, 200), np.uint8)).warmth > 0.5
    # Hasler and Suesstrunk's M of one saturated red: no spread, 0.3 x the distance of the mean (255, 127.5).
    assert color(np.full((9, 9, 3), (0, 0, 255), np.uint8)).colorfulness == pytest.approx(0.3 * np.hypot(255, 127.5), rel=1e-3)


def test_black_bars_are_exact_to_the_pixel():
    framed = np.zeros((480, 854), np.uint8)
    framed[60:420] = texture(360, 854) // 2 + 60
    assert black_bars(framed, shrink(framed, SMALL_SIDE)) == Bars(60, 60, 0, 0)
    pillars = np.zeros((480, 854), np.uint8)
    pillars[:, 107:747] = texture(480, 640) // 2 + 60
    assert black_bars(pillars, shrink(pillars, SMALL_SIDE)) == Bars(0, 0, 107, 107)
    assert black_bars(np.zeros((90, 160), np.uint8), np.zeros((90, 160), np.uint8)) is None


def test_text_is_told_from_texture():
    page = np.full((360, 640), 245, np.uint8)
    for line in range(8):
        cv2.putText(page, "many words in one more line", (20, 40 + 40 * line), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 10, 2)
    assert text_share(page, edge_gradients(page)) > 0.2
    assert text_share(PICTURE, edge_gradients(PICTURE)) < 0.02


def test_straight_edges():
    window = np.full((360, 640), 200, np.uint8)
    cv2.rectangle(window, (50, 50), (500, 300), 20, 3)
    circle = np.full((360, 640), 200, np.uint8)
    cv2.circle(circle, (300, 180), 120, 20, 3)
    assert axis_edge_share(edge_gradients(window)) > 0.9
    assert axis_edge_share(edge_gradients(circle)) < 0.5
    assert axis_edge_share(edge_gradients(np.full((360, 640), 9, np.uint8))) is None


def test_a_logo_over_moving_pictures_is_found():
    moving = [texture(120, 213, seed) for seed in range(6)]
    logo = [picture.copy() for picture in moving]
    for picture in logo:
        cv2.putText(picture, "LOGO", (150, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    assert static_overlay_share(np.stack(moving)) < 0.005
    assert static_overlay_share(np.stack(logo)) > 0.01
    assert static_overlay_share(np.stack([moving[0]] * 5)) is None, "in a still clip everything is fixed"


def _moved(x: float = 0, y: float = 0, zoom: float = 0, degrees: float = 0) -> np.ndarray:
    big = cv2.GaussianBlur(texture(300, 500, 3), (0, 0), 1.5)
    matrix = cv2.getRotationMatrix2D((250, 150), degrees, 1 + zoom)
    matrix[:, 2] += (x, y)
    return cv2.warpAffine(big, matrix, (500, 300), borderMode=cv2.BORDER_REFLECT)[60:240, 90:410]


@pytest.mark.parametrize(
    ("move", "rate", "kind"),
    [
        ({"x": -2}, ("pan", 2 / np.hypot(180, 320) * 25), "pan_right"),
        ({"x": 2}, ("pan", -2 / np.hypot(180, 320) * 25), "pan_left"),
        ({"y": 2}, ("tilt", 2 / np.hypot(180, 320) * 25), "tilt_up"),
        ({"y": -2}, ("tilt", -2 / np.hypot(180, 320) * 25), "tilt_down"),
        ({"zoom": 0.01}, ("zoom", 0.25), "zoom_in"),
        ({"zoom": -0.01}, ("zoom", -0.25), "zoom_out"),
        ({"degrees": 0.5}, ("roll", np.deg2rad(0.5) * 25), "roll"),
        ({}, ("pan", 0.0), "static"),
    ],
)
def test_camera_motion_is_measured_and_named(move, rate, kind):
    flow = FlowMeter().measure(_moved(), _moved(**move), 1 / 25)
    assert getattr(flow, rate[0]) == pytest.approx(rate[1], rel=0.15, abs=0.005)
    assert classify_camera(np.array([(flow.pan, flow.tilt, flow.zoom, flow.roll)]), shake=0.0).kind == kind


def test_the_camera_fit_ignores_a_moving_object():
    u, v = np.full((30, 40), 1.5, np.float32), np.zeros((30, 40), np.float32)
    u[5:15, 5:18] = -6
    fit = fit_camera(u, v, 1)
    assert (fit.shift_x, fit.zoom) == pytest.approx((1.5, 0), abs=1e-3)
    assert fit.residual == pytest.approx(7.5 * 130 / 1200, rel=0.02)


@pytest.mark.parametrize("shape", [(2, 2), (16, 300), (319, 8), (36, 36), (120, 213)])
def test_flow_of_any_small_plane(shape):
    flow = FlowMeter().measure(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), 0.04)
    assert flow.mean == pytest.approx(0)


def test_global_shift_is_exact_to_a_fraction_of_a_pixel():
    big = texture(240, 320, 5)
    small = np.stack(
        [cv2.resize(np.roll(big, (2 * i, 3 * i), (0, 1))[20:-20, 20:-20], (32, 24), interpolation=cv2.INTER_AREA) for i in range(6)]
    )
    shifts = global_shifts(small)
    np.testing.assert_allclose(shifts, np.tile((3 / 280, 2 / 200), (5, 1)), rtol=0.15)
    assert np.isnan(global_shifts(np.full((3, 24, 32), 90, np.uint8))).all()


def test_shake_is_told_from_a_smooth_pan():
    seconds = np.full(100, 0.04)
    pan = np.tile([0.01, 0.0], (100, 1))
    shaky = pan + np.random.default_rng(0).normal(0, 0.005, (100, 2))
    assert jitter(pan, seconds) == pytest.approx(0)
    assert jitter(shaky, seconds) > 0.05
    assert classify_camera(np.zeros((3, 4)), jitter(shaky, seconds)).kind == "handheld"


def test_frozen_and_duplicate_frames_are_told_apart():
    moving = np.full(100, 5.0)
    assert repeats(moving, 25).frozen == repeats(moving, 25).duplicate == 0
    frozen = moving.copy()
    frozen[20:60] = 0
    assert (repeats(frozen, 25).frozen, repeats(frozen, 25).duplicate) == (0.4, 0)
    doubled = moving.copy()
    doubled[::2] = 0
    assert (repeats(doubled, 25).frozen, repeats(doubled, 25).duplicate) == (0, 0.5)


def test_flicker_black_and_slideshow():
    ramp = np.linspace(50, 150, 50)
    assert flicker(ramp) == pytest.approx(0, abs=1e-9)
    assert flicker(ramp + 3 * (-1.0) ** np.arange(50)) == pytest.approx(6)
    assert black_share(np.array([2.0, 100.0]), np.array([1.0, 30.0])) == 0.5
    slides = np.zeros(100)
    slides[[30, 60]] = 40
    assert slideshow(slides) > 0.9
    assert slideshow(np.full(100, 5.0)) == 0
    assert slideshow(np.zeros(50)) == 1
