"""Measurements on pictures whose truth is known."""

import cv2
import numpy as np
import pytest

from curation.signals.color import color
from curation.signals.layout import Bars, axis_edge_share, black_bars, flat_share
from curation.signals.picture import bands, combing, exposure, noise_sigma, sharpness
from curation.signals.planes import SMALL_SIDE, full_range_luma, match, resize_down, shrink, to_bgr
from curation.signals.temporal import black_share, flicker, repeats
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


def test_combing_sees_woven_fields():
    moved = np.roll(PICTURE, 12, axis=1)
    woven = PICTURE.copy()
    woven[1::2] = moved[1::2]
    assert combing(bands(PICTURE)) < 0.05
    assert combing(bands(woven)) > 0.3
    still = PICTURE.copy()
    still[100:200, 100:300] = woven[100:200, 100:300]
    assert combing([still]) > 0.03, "a part that moves is enough"


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
    assert flat_share(np.zeros((20, 19), np.uint8)) == 1
    assert flat_share(np.repeat(np.uint8([[0, 9], [0, 9], [3, 9], [8, 9]]), 50, axis=1)) == 1 / 4


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


def test_straight_edges():
    window = np.full((360, 640), 200, np.uint8)
    cv2.rectangle(window, (50, 50), (500, 300), 20, 3)
    circle = np.full((360, 640), 200, np.uint8)
    cv2.circle(circle, (300, 180), 120, 20, 3)
    assert axis_edge_share(edge_gradients(window)) > 0.9
    assert axis_edge_share(edge_gradients(circle)) < 0.5
    assert axis_edge_share(edge_gradients(np.full((360, 640), 9, np.uint8))) is None


def test_frozen_and_duplicate_frames_are_told_apart():
    moving = np.full(100, 5.0)
    assert repeats(moving, 25).frozen == repeats(moving, 25).duplicate == 0
    frozen = moving.copy()
    frozen[20:60] = 0
    assert (repeats(frozen, 25).frozen, repeats(frozen, 25).duplicate) == (0.4, 0)
    doubled = moving.copy()
    doubled[::2] = 0
    assert (repeats(doubled, 25).frozen, repeats(doubled, 25).duplicate) == (0, 0.5)


def test_flicker_and_black():
    ramp = np.linspace(50, 150, 50)
    assert flicker(ramp) == pytest.approx(0, abs=1e-9)
    assert flicker(ramp + 3 * (-1.0) ** np.arange(50)) == pytest.approx(6)
    assert black_share(np.array([2.0, 100.0]), np.array([1.0, 30.0])) == 0.5


@pytest.mark.parametrize("shape", [(1, 1000), (2, 1000), (1000, 3), (3, 900, 3)])
def test_shrinking_ends_with_pictures_too_thin_to_be_halved(shape):
    small = shrink(np.zeros(shape, np.uint8), 320)
    assert min(small.shape[:2]) == 1 and small.shape[2:] == shape[2:]
