"""The shape of each clip: its aspect ratio within the stated bound, its length, its tokens, and never a crop."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import ShapesConfig, load_config
from training.settings import TrainError
from training.shapes import Token, elongated, fit_sides, largest, plan_shapes, token_of

TOKEN = Token(8, 4)


def _rows(*sizes: tuple[int, int], **columns: object) -> pa.Table:
    count = len(sizes)
    table = {"crop_w": [w for w, _ in sizes], "crop_h": [h for _, h in sizes], "num_frames": [48] * count}
    table |= {"start_s": [0.0] * count, "end_s": [2.0] * count, "fps": [25.0] * count}
    return pa.table({**table, **columns})


sides = st.integers(16, 8000)


@settings(deadline=None)
@given(sides, sides, st.integers(500, 20_000), st.sampled_from([8, 16, 32]))
def test_the_aspect_ratio_is_kept_within_half_a_token(width: int, height: int, area: int, side: int) -> None:
    rows, config = _rows((width, height)), ShapesConfig(areas=[[area, 64]])
    cells = area * 64 // side**2
    if elongated(rows, [config], Token(side, 4))[0]:
        assert max(width, height) / min(width, height) >= cells + 0.5 - 1e-6
        return
    shape = plan_shapes(rows, config, Token(side, 4)).of(0)
    assert shape.width % side == shape.height % side == 0 and shape.width * shape.height <= area * 64
    shorter, longer = sorted((shape.width // side, shape.height // side))
    aspect = max(width, height) / min(width, height)
    assert abs(longer - shorter * aspect) <= 0.5 + 1e-9
    assert abs(longer / shorter - aspect) <= 1 / (2 * shorter) + 1e-9
    assert (shape.width >= shape.height) == (width >= height) or longer == shorter
    assert (shorter + 1) * math.floor((shorter + 1) * aspect + 0.5) > cells  # no larger picture would do


def test_known_shapes() -> None:
    shapes = plan_shapes(_rows((1920, 1080), (1080, 1920), (640, 480), (500, 500)), ShapesConfig(areas=[[96, 56]]), TOKEN)
    assert list(zip(shapes.widths.tolist(), shapes.heights.tolist(), strict=True)) == [(96, 56), (56, 96), (72, 56), (72, 72)]
    assert shapes.tokens.tolist() == [84 * 4, 84 * 4, 63 * 4, 81 * 4] and len(set(shapes.buckets.tolist())) == 4


def test_the_area_is_the_largest_that_needs_no_enlarging() -> None:
    config = ShapesConfig(areas=[[320, 320], [64, 64], [160, 160]])
    shapes = plan_shapes(_rows((1000, 1000), (320, 320), (319, 320), (20, 20)), config, TOKEN)
    assert shapes.widths.tolist() == [320, 320, 160, 64]


def test_pixels_that_are_not_square_are_made_so() -> None:
    rows = _rows((720, 576), sample_aspect_ratio=[64 / 45])
    shape = plan_shapes(rows, ShapesConfig(areas=[[128, 72]]), TOKEN).of(0)
    assert (shape.width, shape.height) == (128, 72)


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(5, 120), st.integers(1, 3), st.floats(1, 60))
def test_a_clip_has_as_many_frames_as_its_span_gives(frames: int, rate: float, step: int, fps: float) -> None:
    rows = _rows((64, 64), num_frames=[frames], end_s=[frames / rate])
    for wanted in ("native", fps):
        shapes = plan_shapes(rows, ShapesConfig(areas=[[64, 64]], max_frames=1 + 24 * step, frame_step=step, fps=wanted), TOKEN)
        shape, unit = shapes.of(0), 4 * step
        stride = 1 if wanted == "native" else max(rate / fps, 1)
        assert shape.stride == pytest.approx(stride) and shape.fps == pytest.approx(rate / stride)
        assert (shape.frames - 1) % unit == 0 and stride * (shape.frames - 1) <= frames - 1 + 1e-6
        assert shape.frames == 1 + 24 * step or stride * (shape.frames - 1 + unit) > frames - 1 - 1e-6
        assert shapes.tokens[0] == 64 * (1 + (shape.frames - 1) // 4)


def test_a_span_without_duration_has_the_rate_of_its_file() -> None:
    shape = plan_shapes(_rows((64, 64), num_frames=[1], end_s=[0.0]), ShapesConfig(fps="native"), TOKEN).of(0)
    assert (shape.frames, shape.fps) == (1, 25.0)


def test_buckets_are_the_distinct_shapes() -> None:
    rows = _rows((64, 64), (80, 64), (64, 64), (64, 64), num_frames=[48, 48, 48, 8])
    buckets = plan_shapes(rows, ShapesConfig(), TOKEN).buckets
    assert buckets[0] == buckets[2] and len(set(buckets.tolist())) == 3


def test_what_is_too_elongated_is_found_beforehand() -> None:
    rows, config = _rows((64, 64), (6400, 16)), ShapesConfig(areas=[[64, 64]])
    assert elongated(rows, [config], TOKEN).tolist() == [False, True]
    assert elongated(rows, [config, ShapesConfig(areas=[[256, 256]])], TOKEN).tolist() == [False, True]
    with pytest.raises(TrainError, match="1 clips are too elongated"):
        plan_shapes(rows, config, TOKEN)
    assert fit_sides(np.array([64.4, 64.5]), 64).longer.tolist() == [64, 0]


def test_the_largest_shape_is_the_whole_of_the_largest_area() -> None:
    shape = largest(ShapesConfig(areas=[[48, 48], [96, 56]], max_frames=9, fps=8), TOKEN)
    assert (shape.width, shape.height, shape.frames) == (96, 56, 9)
    assert token_of(load_config("tiny")) == TOKEN
