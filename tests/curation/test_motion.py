"""Motion on pictures that were moved by a known amount, and over clips made of real stills and real clips."""

import cv2
import numpy as np
import pytest

from curation.frames import decode, open_media, rgb, video_stream
from curation.rows import rows
from curation.scan import ScanConfig, scan_video
from curation.signals.flow import FlowMeter, Similarity, fit_camera, grid_of, register
from curation.signals.motion import acceleration, classify_camera, consistency, global_shifts, jitter, level, sway
from curation.sources import Found, identify
from schemas.records import TagRecord
from schemas.tags import TAGS
from tests.video import texture, write_video

FPS = 25
VIEW = (320, 180)
DIAGONAL = float(np.hypot(*VIEW))


def motion_tags(path):
    with scan_video(str(path), ScanConfig()) as scan:
        found = [
            row for row in rows(scan, identify(Found(str(path))), ScanConfig()) if isinstance(row, TagRecord) and row.group == "motion"
        ]
    assert len(found) == 1, "no cut in it"
    return found[0].values


def real_frames(path, start, count, size=(720, 405)):
    """Frames of a real video, enlarged."""
    with open_media(str(path)) as container:
        shown = (picture for picture in decode(container, video_stream(container)) if picture.index >= start)
        return [
            cv2.resize(rgb(picture.frame), size, interpolation=cv2.INTER_CUBIC) for picture, _ in zip(shown, range(count), strict=False)
        ]


def film(path, frames, pan=0.0, tilt=0.0, zoom=0.0, roll=0.0, hand=0.0, seconds=1.6, crf=24):
    """A camera's move over a still or a clip: rates as in the tags, `hand` the RMS velocity of a sway, all in diagonals."""
    time_s = np.arange(round(seconds * FPS)) / FPS
    middle = time_s - time_s[-1] / 2
    rng = np.random.default_rng(5)
    waves = np.linspace(0.5, 5, 12)[:, None]
    swing = np.stack([np.sin(2 * np.pi * (waves * time_s + rng.random((12, 1)))).sum(0) for _ in range(2)])
    swing *= hand / max(np.sqrt((np.diff(swing) ** 2).sum(0).mean()) * FPS, 1e-9)
    images = []
    for i, t in enumerate(middle):
        image = frames[i % len(frames)]
        cos, sin = np.cos(roll * t) * np.exp(-zoom * t), np.sin(roll * t) * np.exp(-zoom * t)
        center = np.array(image.shape[1::-1]) / 2 + DIAGONAL * (np.array([pan, -tilt]) * t + swing[:, i])
        matrix = np.array([[cos, -sin, 0], [sin, cos, 0]])
        matrix[:, 2] = center - matrix[:, :2] @ (np.array(VIEW) - 1) / 2
        images.append(cv2.warpAffine(image, matrix, VIEW, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT))
    return write_video(path, images, fps=FPS, options={"crf": str(crf), "preset": "veryfast"})


@pytest.fixture(scope="module")
def still(corpus):
    return real_frames(corpus / "imageio_cockatoo.mp4", 40, 1)


@pytest.fixture(scope="module")
def footage(corpus):
    """A camera at rest with something moving before it."""
    return real_frames(corpus / "mimetype_mov.mov", 0, 40)


@pytest.mark.parametrize("over", ["still", "footage"])
@pytest.mark.parametrize(
    ("kind", "move"),
    [
        ("static", {}),
        ("pan_right", {"pan": 0.03}),
        ("pan_left", {"pan": -0.35}),
        ("tilt_up", {"tilt": 0.1}),
        ("tilt_down", {"tilt": -0.03}),
        ("zoom_in", {"zoom": 0.4}),
        ("zoom_out", {"zoom": -0.07}),
        ("roll", {"roll": 0.1}),
        ("roll", {"roll": -0.5}),
        ("handheld", {"hand": 0.1}),
        ("mixed", {"pan": 0.12, "zoom": -0.2}),
    ],
)
def test_the_camera_is_named_and_measured_in_compressed_video(request, tmp_path, over, kind, move):
    tags = motion_tags(film(tmp_path / "move.mp4", request.getfixturevalue(over), **move))
    assert tags["motion_camera"] == kind
    for axis, limit in (("pan", 0.006), ("tilt", 0.006), ("zoom", 0.02), ("roll", 0.02)):
        if kind != "handheld":
            assert tags[f"motion_{axis}"] == pytest.approx(move.get(axis, 0), rel=0.15, abs=limit)
    assert (tags["motion_steadiness"] > 0.6) == (kind != "handheld")


def test_faster_is_more_and_in_proportion(still, tmp_path):
    speeds = (0.04, 0.08, 0.16, 0.32)
    found = [motion_tags(film(tmp_path / f"{speed}.mp4", still, pan=speed, crf=18)) for speed in speeds]
    # The mean also has the borders, where what comes in has nothing to be matched with: 13 % too fast at one of the speeds.
    assert [tags["motion_mean"] for tags in found] == pytest.approx(speeds, rel=0.15)
    assert [tags["motion_background"] for tags in found] == pytest.approx(speeds, rel=0.12)
    assert [tags["motion_min_patch"] for tags in found] == pytest.approx(speeds, rel=0.2)
    assert [tags["motion_level"] for tags in found] == [2, 3, 4, 4]
    assert all(tags["motion_consistency"] > 0.9 and tags["motion_foreground"] < 0.25 * tags["motion_mean"] for tags in found)


def test_shakier_is_more(still, tmp_path):
    found = [motion_tags(film(tmp_path / f"{hand}.mp4", still, hand=hand)) for hand in (0.0, 0.03, 0.06, 0.12, 0.24)]
    for tag, better in (("motion_shake", 1), ("motion_handheld", 1), ("motion_steadiness", -1), ("motion_acceleration", 1)):
        values = [better * tags[tag] for tags in found]
        assert values == sorted(values), tag
        assert values[1] != values[-1]


def test_what_moves_before_a_camera_at_rest_is_foreground(tmp_path):
    ground, ball = np.dstack([texture(180, 320, 1)] * 3), np.dstack([texture(70, 70, 2)] * 3)
    images = []
    for i in range(40):
        image = ground.copy()
        image[50:120, 4 * i : 4 * i + 70] = ball
        images.append(image)
    tags = motion_tags(write_video(tmp_path / "ball.mp4", images, fps=FPS, options={"crf": "20"}))
    speed, share = 4 * FPS / DIAGONAL, 70 * 70 / (180 * 320)
    assert tags["motion_camera"] == "static"
    assert tags["motion_background"] < 0.01
    assert 0.7 < tags["motion_foreground"] / (speed * share) < 2, "DIS spreads motion beyond small objects"
    assert tags["motion_min_patch"] < 0.005, "a part stands still"


def test_an_even_wall_moves_with_the_camera():
    """Half of the picture holds nothing by which its motion could be seen."""
    wide = np.hstack([texture(120, 300, 4), np.full((120, 300), 128, np.uint8)])
    flow = FlowMeter().measure(wide[:, 180:400], wide[:, 184:404], 0.08)
    speed = 4 / np.hypot(120, 220) / 0.08
    assert flow.pan == pytest.approx(speed, rel=0.05)
    assert flow.mean == pytest.approx(speed, rel=0.15)
    assert flow.foreground < 0.15 * speed


def test_every_motion_tag_is_made(still, tmp_path):
    tags = motion_tags(film(tmp_path / "all.mp4", still, pan=0.1))
    assert len(tags) >= 17
    assert {name for name, value in tags.items() if value is not None} == {tag.name for tag in TAGS if tag.dimension == "motion"}


def _moved(x: float = 0, y: float = 0, zoom: float = 0, degrees: float = 0) -> np.ndarray:
    big = cv2.GaussianBlur(texture(300, 500, 3), (0, 0), 1.5)
    matrix = cv2.getRotationMatrix2D((250, 150), degrees, 1 + zoom)
    matrix[:, 2] += (x, y)
    return cv2.warpAffine(big, matrix, (500, 300), borderMode=cv2.BORDER_REFLECT)[60:240, 90:410]


@pytest.mark.parametrize(
    ("move", "wanted"),
    [
        ({"x": 30}, (30, 0, 0, 0)),
        ({"x": -0.2, "y": 0.1}, (-0.2, 0.1, 0, 0)),
        ({"zoom": 0.01}, (0, 0, 0.01, 0)),
        ({"zoom": -0.05}, (0, 0, -0.05, 0)),
        ({"degrees": 0.5}, (0, 0, 0, -np.deg2rad(0.5))),
        ({"degrees": -3}, (0, 0, 0, np.deg2rad(3))),
    ],
)
def test_flow_and_registration_are_exact_from_slow_to_fast(move, wanted):
    flow = FlowMeter().measure(_moved(), _moved(**move), 1.0)
    diagonal = np.hypot(180, 320)
    got = (-flow.pan * diagonal, flow.tilt * diagonal, flow.zoom, -flow.roll)
    assert np.all(np.abs(np.subtract(got, wanted)) <= np.maximum((0.04, 0.04, 2e-3, 2e-3), 0.05 * np.abs(wanted)))


def test_registration_ignores_a_moving_object_and_a_change_of_light():
    before, after = _moved(), _moved(x=1.5).copy()
    after[40:130, 60:160] = texture(90, 100, 9)
    found = register(before, cv2.convertScaleAbs(after, beta=12), Similarity(0, 0, 0, 0))
    assert (found.shift_x, found.shift_y) == pytest.approx((1.5, 0), abs=0.1)
    assert (found.zoom, found.roll) == pytest.approx((0, 0), abs=2e-3)


def test_the_camera_fit_ignores_a_moving_object():
    grid = grid_of(84, 112)
    u, v = np.full(grid.x.shape, 1.5, np.float32), np.zeros(grid.x.shape, np.float32)
    u[3:9, 4:14] = -6
    fit = fit_camera(u, v, grid)
    assert (fit.shift_x, fit.zoom) == pytest.approx((1.5, 0), abs=1e-3)


@pytest.mark.parametrize("shape", [(2, 2), (16, 300), (319, 8), (36, 36), (120, 213)])
def test_flow_of_any_small_plane(shape):
    flow = FlowMeter().measure(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), 0.04)
    assert (flow.mean, flow.background) == pytest.approx((0, 0))


def test_global_shift_is_exact_to_a_fraction_of_a_pixel():
    big = texture(240, 320, 5)
    small = np.stack(
        [cv2.resize(np.roll(big, (2 * i, 3 * i), (0, 1))[20:-20, 20:-20], (32, 24), interpolation=cv2.INTER_AREA) for i in range(6)]
    )
    shifts = global_shifts(small)
    np.testing.assert_allclose(shifts, np.tile((3 / 280, 2 / 200), (5, 1)), rtol=0.15)
    assert np.isnan(global_shifts(np.full((3, 24, 32), 90, np.uint8))).all()
    small[:, 4:14, 4:12] = small[0, 4:14, 4:12]
    np.testing.assert_allclose(global_shifts(small), shifts, rtol=0.25, err_msg="a part that stands still hardly counts")


def test_shake_is_told_from_a_smooth_pan():
    seconds = np.full(100, 0.04)
    pan = np.tile([0.01, 0.0], (100, 1))
    shaky = pan + np.random.default_rng(0).normal(0, 0.005, (100, 2))
    assert jitter(pan, seconds) == pytest.approx(0)
    assert jitter(shaky, seconds) > 0.05
    assert classify_camera(np.zeros((3, 4)), jitter(shaky, seconds)).kind == "handheld"


def test_sway_is_told_from_speeding_up():
    faster = np.outer(np.linspace(0.1, 0.5, 8), (1.0, 0, 0, 0))
    assert sway(faster) == pytest.approx(0)
    assert classify_camera(faster, 0.0).kind == "pan_right"
    back_and_forth = np.outer((0.1, -0.1, 0.12, -0.1, 0.1, -0.09), (1.0, 0.3, 0, 0))
    assert classify_camera(back_and_forth, 0.0).kind == "handheld"


def test_summaries_over_time():
    time_s = np.array([1.0, 1.5, 2.0])
    assert acceleration(np.array([0.1, 0.2, 0.1]), time_s) == pytest.approx(0.2)
    assert acceleration(np.array([0.1]), time_s[:1]) == 0
    assert consistency(np.array([[0.1, 0], [-0.1, 0]]), np.array([0.1, 0.1])) == 0
    assert consistency(np.zeros((2, 2)), np.zeros(2)) is None
    assert [level(speed) for speed in (0, 0.004, 0.005, 0.03, 0.1, 0.2, 5)] == [0, 0, 1, 2, 3, 4, 5]
