"""Measurements of quality on pictures and sequences whose truth is known, and on real frames that the test spoils."""

import cv2
import numpy as np
import pytest

from curation.frames import FrameReader
from curation.rows import rows
from curation.scan import ScanConfig, scan_video
from curation.signals.artifacts import Lines, banding, edge_widths, lines, ringing, smear, upscale
from curation.signals.picture import blockiness
from curation.signals.planes import SmallPlanes, full_range_luma
from curation.signals.quality import measure
from curation.signals.scenestats import naturalness_distance, patch_statistics
from curation.signals.temporal import cadence, flicker, gray_share, residual_cut, white_share
from curation.signals.view import View
from curation.sources import Found, identify
from schemas.records import TagRecord
from tests.benchmarks import degrade
from tests.video import texture


def bars(sigma: float = 0.0) -> np.ndarray:
    """Squares of 40 pixels, dark and bright, blurred."""
    dark = (np.indices((400, 640)) // 40).sum(axis=0) % 2 == 0
    picture = np.where(dark, 60.0, 180.0).astype(np.float32)
    return np.rint(cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture).astype(np.uint8)


def natural(height: int = 400, width: int = 640) -> np.ndarray:
    """Random phases under an amplitude that falls as frequency rises, as in natural pictures."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    picture = np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency, (height, width))
    return np.clip(128 + 40 * picture / picture.std(), 0, 255).astype(np.uint8)


def test_runs_of_known_lines():
    both = Lines(np.uint8([[10, 10, 20, 90, 90, 40, 40], [7, 7, 7, 7, 7, 7, 255]]), np.uint8([[200, 160]]))
    # From the first turn on: up by 10 and 70, plateau, down, plateau to the next line's end, up.
    assert both.edges.rise.tolist() == [80, 0, 50, 0, 248, 0, 40]
    assert both.edges.length.tolist() == [2, 1, 1, 7, 1, 1, 1]
    assert both.edges.steepest.tolist() == [70, 50, 248, 40]
    assert both.row_steps[0].tolist() == [0, 10, 70, 0, 50, 0, 0]
    assert both.column_steps.tolist() == [[40, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 300), (300, 3), (16, 16), (719, 1281)])
@pytest.mark.parametrize("value", [0, 255, "noise"])
def test_any_picture_can_be_measured(shape, value):
    luma = np.random.default_rng(0).integers(0, 256, shape, np.uint8) if value == "noise" else np.full(shape, value, np.uint8)
    neutral = np.full((1, 1), 128, np.uint8)
    facts = measure(View(luma, SmallPlanes(luma, neutral, neutral), is_full_range=True))
    assert 0 <= facts.banding <= 1
    if value != "noise":
        assert (facts.edge_width, facts.smear, facts.ringing, facts.upscale, facts.banding, facts.blockiness) == (
            None,
            None,
            None,
            None,
            0,
            0,
        )
    elif luma.size > 10_000:
        assert facts.upscale is not None and 0 <= facts.upscale < 0.1


@pytest.mark.parametrize("sigma", [1.5, 3.0, 6.0])
def test_an_edge_is_as_wide_as_its_blur(sigma):
    widths = edge_widths(lines(bars(sigma)).edges)
    assert np.median(widths) == pytest.approx(np.sqrt(2 * np.pi) * sigma, rel=0.1), "rise over slope of a Gaussian edge"
    assert edge_widths(lines(bars()).edges).mean() == 1


def test_smear_is_blur_in_one_direction():
    sharp = cv2.GaussianBlur(texture(400, 640), (0, 0), 1)
    sharp = cv2.normalize(sharp, None, 0, 255, cv2.NORM_MINMAX)
    smeared = [smear(edge_widths(lines(cv2.blur(sharp, (length, 1))).edges)) for length in (1, 9, 17, 33)]
    assert smeared == sorted(smeared)
    assert smear(edge_widths(lines(cv2.blur(bars(), (9, 1))).edges)) > 3
    assert smear(edge_widths(lines(bars(4)).edges)) == 0, "blur in all directions is none"


def test_overshoot_rings_and_soft_edges_do_not():
    assert ringing(lines(bars(2)).edges) == 0
    sharpened = [ringing(lines(degrade.oversharpen(bars(1.0), amount)).edges) for amount in (0.5, 1, 2)]
    assert 0.02 < sharpened[0] < sharpened[1] < sharpened[2]
    cut_off = [ringing(lines(degrade.ringing(bars(1.0)[..., None], share)[..., 0]).edges) for share in (0.5, 0.3, 0.2)]
    assert 0.02 < cut_off[0] < cut_off[1] < cut_off[2], "the lobes of a sinc get wider"
    assert ringing(lines(np.full((400, 640), 90, np.uint8)).edges) is None


def test_bands_are_steps_between_plateaus():
    ramp = np.tile(np.linspace(20, 230, 640), (400, 1))
    shares = []
    for step in (8, 16, 32):
        shares.append(banding(lines((ramp // step * step).astype(np.uint8)).edges))
    assert min(shares) > 0.95
    noisy = ramp + np.random.default_rng(0).normal(0, 2, ramp.shape)
    assert banding(lines(np.rint(noisy).astype(np.uint8)).edges) < 0.01
    assert banding(lines(bars()).edges) == 0, "a drawn edge is no band"


def test_enlarged_pictures_lack_what_their_size_promises():
    whole = natural()
    missing = []
    for factor in (1, 1.5, 2, 3, 4):
        small = cv2.resize(whole, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        missing.append(upscale(lines(cv2.resize(small, (640, 400), interpolation=cv2.INTER_CUBIC)), 0.0))
    assert missing[0] < 0.1
    assert upscale(lines(bars()), 0.0) == pytest.approx(0, abs=0.05), "the power of an edge falls with the square of frequency"
    assert missing == sorted(missing)
    assert missing[-1] > 0.6
    soft = cv2.resize(cv2.resize(whole, (160, 100), interpolation=cv2.INTER_AREA), (640, 400), interpolation=cv2.INTER_CUBIC)
    grainy = np.clip(np.rint(soft + np.random.default_rng(0).normal(0, 2, soft.shape)), 0, 255).astype(np.uint8)
    assert upscale(lines(grainy), 2.0) > 2 * upscale(lines(grainy), 0.0), "noise is no detail"


def test_blockiness_sees_the_grid():
    def blocks(picture):
        return blockiness(lines(picture).row_steps, lines(picture).column_steps)

    smooth = cv2.GaussianBlur(texture(360, 640), (0, 0), 3)
    tiles = cv2.resize(cv2.resize(smooth, (80, 45), interpolation=cv2.INTER_AREA), (640, 360), interpolation=cv2.INTER_NEAREST)
    mixed = cv2.addWeighted(smooth, 0.7, tiles, 0.3, 0)
    assert blocks(smooth) < 0.1
    assert blocks(mixed) > 0.5
    assert blocks(np.roll(mixed, 4, axis=(0, 1))) < 0.2, "steps off the grid are no blocks"
    framed = smooth.copy()
    framed[:, :80] = framed[:, 560:] = 0
    assert blocks(framed) < 0.1, "a bar that ends on the grid is no block"


def test_statistics_of_known_distributions():
    rng = np.random.default_rng(0)
    noise = np.clip(np.rint(128 + 30 * rng.standard_normal((192, 288))), 0, 255).astype(np.uint8)
    statistics = patch_statistics(noise)
    assert statistics.shape == (6, 16)
    # White noise: neighbors differ from the local mean on opposite sides of it, all directions alike.
    assert statistics[:, 0] == pytest.approx(np.full(6, statistics[0, 0]), rel=0.15)
    assert np.abs(statistics[:, 2:4]).max() < 0.3
    sparse = cv2.GaussianBlur((rng.random((192, 288)) > 0.995).astype(np.float32) * 4000, (0, 0), 1.5)
    assert patch_statistics(np.clip(sparse, 0, 255).astype(np.uint8))[:, 0].max() < statistics[:, 0].min(), "few details have long tails"
    assert naturalness_distance(noise[:95]) is None


def test_statistics_of_bands_are_those_of_the_whole_picture():
    soft = cv2.GaussianBlur(natural(288, 384), (0, 0), 3)
    luma = np.where(np.arange(288)[:, None] // 48 % 2 == 1, soft, natural(288, 384))  # patches differ from top to bottom
    values = luma.astype(np.float64)
    mean, square = cv2.GaussianBlur(values, (7, 7), 7 / 6), cv2.GaussianBlur(values**2, (7, 7), 7 / 6)
    normal = (values - mean) / (np.sqrt(np.maximum(square - mean**2, 0)) + 1)
    planes = [normal[:-1, :-1] ** 2, *(normal[:-1, :-1] * other for other in (normal[:-1, 1:], normal[1:, :-1], normal[1:, 1:]))]
    wanted = [[plane[y : y + 96, x : x + 96].mean() for y in (0, 96, 192) for x in (0, 96, 192, 288)] for plane in planes]
    found = patch_statistics(luma)
    assert found[:, 1] == pytest.approx(np.log(wanted[0]), abs=0.01)
    for column, products in ((2, wanted[1]), (3, wanted[2]), (4, wanted[3])):
        assert found[:, column] == pytest.approx(np.divide(products, wanted[0]), abs=0.01)


def frame_of(path, index, fps):
    return FrameReader(str(path)).read([index], [index / fps])[0]


@pytest.fixture(scope="module")
def pictures(corpus):
    """Frames of camera clips, uint8 [H, W, 3]."""
    clips = (("panda_sample_27JMPcO4byc.33.mp4", 50, 50), ("intel_book.mkv", 30, 30), ("dj_video11.mp4", 48, 24))
    return [frame_of(corpus / name, index, fps) for name, index, fps in clips]


def luma_of(picture):
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _view(picture):
    luma, neutral = luma_of(picture), np.full((1, 1), 128, np.uint8)
    return View(luma, SmallPlanes(full_range_luma(luma, True), neutral, neutral), is_full_range=True)


@pytest.mark.parametrize(
    ("spoil", "levels", "tag"),
    [
        (degrade.blur, (0.7, 2, 6), "edge_width"),
        (degrade.upscale, (1.5, 2, 4), "upscale"),
        (degrade.ringing, (0.6, 0.45, 0.25), "ringing"),
        (degrade.oversharpen, (0.5, 1, 1.75), "ringing"),
        (degrade.banding, (6, 5, 4), "banding"),
        (degrade.motion_blur, (0.008, 0.025, 0.06), "smear"),
        (degrade.jpeg, (50, 25, 5), "blockiness"),
    ],
)
def test_spoiled_frames_of_real_clips(pictures, spoil, levels, tag):
    for picture in pictures:
        values = [getattr(measure(_view(one)), tag) for one in (picture, *(spoil(picture, level) for level in levels))]
        assert values == sorted(values) and values[-1] > 1.15 * values[0], values


def test_spoiled_frames_are_less_natural(pictures):
    rng = np.random.default_rng(0)
    for picture in pictures:
        luma = luma_of(cv2.resize(picture, (512, 288), interpolation=cv2.INTER_AREA))
        noisy = [np.clip(luma + rng.normal(0, sigma, luma.shape), 0, 255).astype(np.uint8) for sigma in (6, 12, 24)]
        soft = [cv2.GaussianBlur(luma, (0, 0), sigma) for sigma in (1.5, 3, 6)]
        assert 0 < naturalness_distance(luma) < 1.2
        for spoiled in (noisy, soft):
            values = [naturalness_distance(one) for one in (luma, *spoiled)]
            assert values == sorted(values), values


def test_white_and_colorless_frames():
    assert white_share(np.array([255.0, 250.0, 250.0, 100.0]), np.array([0.0, 5.0, 60.0, 0.0])) == 0.5
    chroma = np.full((4, 2, 12, 16), 128, np.uint8)
    chroma[2] += np.random.default_rng(0).integers(0, 2, (2, 12, 16), np.uint8)  # coding noise
    chroma[3, 0, 2:4, 5] = 140  # one colored thing
    assert gray_share(chroma) == 0.75


def test_regular_repeats_are_told_from_dropped_frames():
    steps = np.random.default_rng(0).uniform(2, 9, 120)

    def with_repeats(frames):
        repeated = steps.copy()
        repeated[frames] = 0
        return cadence(repeated, 25)

    assert with_repeats(np.arange(0, 120, 2)) == pytest.approx(1)
    assert with_repeats(np.arange(3, 120, 5)) == pytest.approx(1), "24 frames a second shown as 30"
    assert with_repeats(np.flatnonzero(np.isin(np.arange(120) % 5, (0, 1, 3)))) == pytest.approx(1), "and as 60"
    dropped = [with_repeats(np.random.default_rng(seed).choice(120, 20, replace=False)) for seed in range(20)]
    assert np.mean(dropped) < 0.12
    assert with_repeats([5]) is None
    assert cadence(np.zeros(100), 25) is None, "a frozen clip repeats without rhythm"


def test_flicker_is_not_one_jump():
    means = np.r_[np.full(40, 100.0), np.full(20, 255.0)]
    assert flicker(means) == 0
    assert flicker(means + 2 * (-1.0) ** np.arange(60)) == pytest.approx(4, abs=0.5)


def test_a_missed_cut_is_suspected():
    rng = np.random.default_rng(0)
    old, new = rng.integers(0, 256, (2, 1152)).astype(float)

    def clip(strength, back_after=99):
        frames = np.array([old + rng.normal(0, 1, old.shape) for _ in range(40)])
        frames[20 : 20 + back_after] += strength * (new - old)
        return np.clip(frames, 0, 255).astype(np.uint8)

    scores = [residual_cut(clip(strength)) for strength in (0, 0.1, 0.25, 0.5, 1)]
    assert scores == sorted(scores)
    assert scores[0] < 0.3 and scores[-1] > 0.85
    assert residual_cut(clip(1, back_after=2)) < 0.3, "a flash"
    assert residual_cut(clip(1)[:5]) == 0


def test_facts_of_real_files_become_tags(corpus):
    def tags(name):
        config = ScanConfig()
        with scan_video(str(corpus / name), config) as scan:
            found = [row for row in rows(scan, identify(Found(str(corpus / name))), config) if isinstance(row, TagRecord)]
        return [row.values for row in found if row.group == "quality"][0]

    gif, chaplin, deep = tags("imageio_newtonscradle.gif"), tags("moviepy_chaplin.mp4"), tags("torchcodec_h265_10bits.mp4")
    assert (gif["quality_codec"], gif["quality_is_vfr"], gif["quality_gray_ratio"]) == ("gif", True, 1)
    assert (chaplin["quality_codec"], chaplin["quality_gray_ratio"], chaplin["quality_is_vfr"]) == ("h264", 1, False)
    assert (deep["quality_codec"], deep["quality_bit_depth"], deep["quality_is_hdr"]) == ("hevc", 10, False)
    assert deep["quality_is_interlaced"] is False and 0 < deep["quality_keyframe_interval"] <= 1
