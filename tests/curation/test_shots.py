"""Shots: where boundaries are found and where not, and how clips tile the shots between them."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import gradual
from curation.boundaries import Boundary, Found, ShotConfig
from curation.cuts import is_flash, scenedetect_agrees
from curation.gradual import _windows, distance_band, is_overlay, is_pan, mixed_frames, ramp, sag
from curation.shots import ClipSpan, detect_boundaries, divide, find_clips, frame_ends, shots_from
from curation.signals import change
from curation.signals.change import (
    LUMA_SHAPE,
    THUMBNAIL_SIZE,
    Changes,
    FrameFeatures,
    is_moved,
    measure_changes,
    thumbnail,
)

# ------------------------------------------------------------------------------------- films made of arrays


def scene(seed: int, num_frames: int, speed: float = 0.3) -> np.ndarray:
    """A window that glides over a large smooth random picture, `speed` thumbnail pixels a frame, with some noise.

    Returns float32 [num_frames, THUMBNAIL_SIZE].
    """
    rng = np.random.default_rng(seed)
    world = cv2.GaussianBlur(rng.normal(size=(3, 90, 600)).astype(np.float32).transpose(1, 2, 0), (0, 0), 3)
    world = 110 + 40 * rng.random() + world / world.std(axis=(0, 1)) * np.array([60, 15, 15], np.float32)
    frames = np.empty((num_frames, THUMBNAIL_SIZE), np.float32)
    for i in range(num_frames):
        shift = np.float32([[1, 0, -i * speed - 4], [0, 1, -20]])
        view = cv2.warpAffine(world, shift, (32, 24))
        chroma = cv2.resize(view[:, :, 1:], (16, 12), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
        frames[i] = np.concatenate([view[:, :, 0].ravel(), chroma.ravel()])
    return frames + rng.normal(scale=1.0, size=frames.shape).astype(np.float32)


def level(value: float, num_frames: int = 1) -> np.ndarray:
    """Frames of one gray."""
    frame = np.full((num_frames, THUMBNAIL_SIZE), 128, np.float32)
    frame[:, : LUMA_SHAPE[0] * LUMA_SHAPE[1]] = value
    return frame


def film(*parts: np.ndarray, fps: float = 25.0) -> FrameFeatures:
    frames = np.clip(np.round(np.concatenate(parts)), 0, 255).astype(np.uint8)
    return FrameFeatures(np.arange(len(frames)) / fps, frames)


def dissolved(old: np.ndarray, new: np.ndarray, span: int) -> np.ndarray:
    """`old` and `new` with `span` frames of overlap, mixed."""
    share = (np.arange(span, dtype=np.float32)[:, None] + 1) / (span + 1)
    return np.concatenate([old[:-span], (1 - share) * old[-span:] + share * new[:span], new[span:]])


def faded(old: np.ndarray, new: np.ndarray, value: float, half: int, flat: int) -> np.ndarray:
    """`old` fades to a gray of `value` in `half` frames, which stays `flat` frames; then `new` fades in."""
    share = np.arange(1, half + 1, dtype=np.float32)[:, None] / half
    gray = level(value)
    fade_out = (1 - share) * old[-half:] + share * gray
    fade_in = share * new[:half] + (1 - share) * gray
    return np.concatenate([old[:-half], fade_out, np.repeat(gray, flat, axis=0), fade_in, new[half:]])


def found(features: FrameFeatures, **config: float) -> list[Boundary]:
    return detect_boundaries(features, ShotConfig(**config))


def only(boundaries: list[Boundary], kind: str, start: int, end: int, tolerance: int) -> bool:
    """Whether there is one boundary, of this kind, about there."""
    return (
        len(boundaries) == 1
        and boundaries[0].kind == kind
        and abs(boundaries[0].start - start) <= tolerance
        and abs(boundaries[0].end - end) <= tolerance
    )


# ------------------------------------------------------------------------------------------------ boundaries


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("speed", [0.0, 0.4, 2.0])
def test_cuts_are_found_to_the_frame(seed: int, speed: float) -> None:
    features = film(scene(seed, 40, speed), scene(seed + 100, 30, 0.1), scene(seed + 200, 50, speed))
    assert found(features) == [Boundary("cut", 40, 40), Boundary("cut", 70, 70)]


@pytest.mark.parametrize("span", [8, 14, 24, 40, 66])
@pytest.mark.parametrize("seed", range(4))
def test_dissolves_are_found(seed: int, span: int) -> None:
    speed = 4 / span
    features = film(dissolved(scene(seed, 110, speed), scene(seed + 100, 120, speed), span))
    assert only(found(features), "dissolve", 110 - span, 110, tolerance=max(3, span // 7))


def test_a_dissolve_at_60_frames_per_second_is_found() -> None:
    features = film(dissolved(scene(1, 200, 0.03), scene(2, 200, 0.03), 100), fps=60)
    assert only(found(features), "dissolve", 100, 200, tolerance=8)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize(("half", "flat"), [(4, 1), (8, 3), (20, 1), (50, 30)])
def test_fades_are_found_with_their_ramps(value: int, half: int, flat: int) -> None:
    features = film(faded(scene(1, 120), scene(2, 120), value, half, flat))
    start, end = 120 - half, 120 + flat + half
    assert only(found(features), "fade", start, end, tolerance=max(2, half // 8))


def test_a_film_may_begin_and_end_in_black() -> None:
    picture = scene(3, 100)
    features = film(faded(level(0, 12), picture, 0, 10, 1), level(0, 8))
    first, last = found(features)
    assert (first.kind, first.start, last.kind, last.start, last.end) == ("fade", 0, "fade", 113, 121)
    assert abs(first.end - 23) <= 2
    (clip,) = find_clips(features, ShotConfig())
    assert (clip.boundary_in, clip.boundary_out) == ("fade", "fade")


def test_black_between_hard_cuts_is_a_fade_of_exactly_the_black_frames() -> None:
    assert found(film(scene(1, 50), level(4, 12), scene(2, 50))) == [Boundary("fade", 50, 62)]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_flashes_do_not_cut(frames: int, strength: float) -> None:
    lit = scene(4, 120)
    for start in (30, 61, 90):
        lit[start : start + frames] += strength * (level(255) - lit[start : start + frames])
    assert found(film(lit)) == []


@pytest.mark.parametrize("speed", [0.0, 0.5, 1.5, 4.0])
def test_pans_do_not_cut(speed: float) -> None:
    assert found(film(scene(5, 120, speed))) == []


def test_a_pan_that_starts_and_stops_at_once_does_not_cut() -> None:
    place = np.concatenate([np.zeros(40), np.arange(0, 60, 3), np.full(40, 60)]).astype(int)
    assert found(film(scene(6, 61, 1.0)[place])) == []


@pytest.mark.parametrize("repeat", [2, 3, 5])
def test_repeated_frames_do_not_cut(repeat: int) -> None:
    """As when a film of few frames per second is played at more."""
    assert found(film(np.repeat(scene(7, 40, 2.5), repeat, axis=0))) == []
    two = np.concatenate([scene(7, 30, 1.5), scene(8, 30, 1.5)])
    assert found(film(np.repeat(two, repeat, axis=0))) == [Boundary("cut", 30 * repeat, 30 * repeat)]


def test_a_small_change_of_a_still_picture_cuts() -> None:
    """The next slide: a tenth of the picture changes, and nothing else ever moves."""
    slide = level(235)[0]
    slide[30:500:3] = 90
    following = slide.copy()
    following[300:380] = 130
    assert found(film(np.repeat([slide, following], 60, axis=0))) == [Boundary("cut", 60, 60)]


def test_a_title_that_fades_in_is_no_dissolve() -> None:
    picture = scene(9, 120, 0.0)
    titled = picture.copy()
    titled[:, 200:330] = 235
    assert found(film(dissolved(picture, titled, 24))) == []


def test_flicker_does_not_cut() -> None:
    flickering = scene(10, 120) * (1 + 0.15 * np.sin(1.3 * np.arange(120, dtype=np.float32)))[:, None]
    assert found(film(flickering)) == []


def test_a_glitch_is_dropped_and_a_short_shot_of_something_else_is_not() -> None:
    old, new = scene(11, 60, 0.2), scene(12, 60, 0.2)
    similar = scene(11, 95, 0.2)[90:]  # the same place, some pixels on
    assert found(film(old, similar, new)) == [Boundary("cut", 65, 65)]
    assert [one.start for one in found(film(old, 0.4 * scene(14, 5), new))] == [60, 65]


@pytest.mark.parametrize("num_frames", [0, 1, 2, 3])
def test_tiny_films_have_no_boundaries(num_frames: int) -> None:
    assert found(film(scene(1, 3)[:num_frames])) == []


def test_a_film_of_one_color_has_no_boundaries() -> None:
    assert found(film(level(0, 50))) == found(film(level(90, 50))) == []


def test_thresholds_are_respected() -> None:
    features = film(scene(1, 40), scene(101, 40))
    assert found(features, cut_evidence=100) == []
    features = film(dissolved(scene(1, 60), scene(2, 60), 20))
    assert found(features, dissolve_evidence=100, cut_evidence=100) == []


@pytest.mark.parametrize("block", [7, 70, 100])
def test_blocks_leave_no_seams(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long films are worked on in blocks; the same windows and steps are seen wherever the blocks begin."""
    start = np.concatenate([scene(1, 100, 0.1), scene(2, 110, 0.1)])
    features = film(dissolved(dissolved(start, scene(3, 100, 0.1), 20), scene(4, 100, 0.1), 45))

    def look() -> tuple[Changes, list[tuple[int, int]], list[Boundary]]:
        changes = measure_changes(features.thumbnails)
        power = changes.contrast**2
        begins = range(0, features.num_frames, gradual.BLOCK)
        windows = [w[1:] for k in begins for w in _windows(features.thumbnails, changes.means, power, k, ShotConfig())]
        return changes, sorted(windows), detect_boundaries(features)

    changes, windows, boundaries = look()
    assert [one.kind for one in boundaries] == ["cut", "dissolve", "dissolve"] and len(windows) > 10
    monkeypatch.setattr(change, "BLOCK", block)
    monkeypatch.setattr(gradual, "BLOCK", block)
    changes_in_blocks, windows_in_blocks, boundaries_in_blocks = look()
    assert np.array_equal(changes_in_blocks.step, changes.step)
    assert np.array_equal(changes_in_blocks.histogram_step, changes.histogram_step)
    assert (windows_in_blocks, boundaries_in_blocks) == (windows, boundaries)


# ---------------------------------------------------------------------------------------------- the measures


def test_a_thumbnail_averages_areas() -> None:
    rng = np.random.default_rng(0)
    shapes = (120, 160), (60, 80), (60, 80)
    luma, u, v = (cv2.GaussianBlur(rng.integers(0, 256, shape, np.uint8), (0, 0), 3) for shape in shapes)
    rows = thumbnail(luma, u, v)
    exact = luma.reshape(24, 5, 32, 5).mean(axis=(1, 3))
    assert np.abs(rows[:768].reshape(24, 32) - exact).max() <= 2
    assert np.abs(rows[768:960].reshape(12, 16) - u.reshape(12, 5, 16, 5).mean(axis=(1, 3))).max() <= 2
    assert np.abs(rows[960:].reshape(12, 16) - v.reshape(12, 5, 16, 5).mean(axis=(1, 3))).max() <= 2


@pytest.mark.parametrize("shape", [(20, 10), (24, 32), (97, 131), (455, 255)])
def test_a_thumbnail_of_one_color_keeps_it(shape: tuple[int, int]) -> None:
    half = (shape[0] // 2, shape[1] // 2)
    rows = thumbnail(*(np.full(s, value, np.uint8) for s, value in ((shape, 200), (half, 90), (half, 160))))
    assert set(rows[:768]) == {200} and set(rows[768:960]) == {90} and set(rows[960:]) == {160}


def test_features_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="4 times need"):
        FrameFeatures(np.arange(4.0), np.zeros((5, THUMBNAIL_SIZE), np.uint8))


def test_changes_are_what_they_say() -> None:
    frames = film(scene(1, 30), scene(2, 30)).thumbnails
    changes = measure_changes(frames)
    values = frames.astype(float)
    assert changes.step[0] == changes.histogram_step[0] == 0
    assert changes.step[30] == pytest.approx(np.sqrt(np.mean((values[30] - values[29]) ** 2)), rel=1e-4)
    assert changes.means[7] == pytest.approx([values[7, :768].mean(), values[7, 768:960].mean(), values[7, 960:].mean()])
    centered = values[7] - np.repeat(changes.means[7], [768, 192, 192])
    assert changes.contrast[7] == pytest.approx(np.sqrt(np.mean(centered**2)), rel=1e-3)
    assert np.argmax(changes.histogram_step) == 30


def test_the_distance_band_holds_distances() -> None:
    frames = film(scene(1, 50), scene(2, 50)).thumbnails
    band = distance_band(frames, 16)
    for i, k in ((0, 1), (10, 16), (45, 9), (83, 16)):
        exact = np.sqrt(np.mean((frames[i].astype(float) - frames[i + k]) ** 2))
        assert band[i, k] == pytest.approx(exact, rel=1e-3)
    assert np.isinf(band[95, 5]) and np.isfinite(band[95, 4])


def test_variance_sags_in_a_dissolve_as_predicted() -> None:
    old, new = (np.repeat(60 + 0.4 * scene(seed, 1), 40, axis=0) for seed in (1, 2))  # 0.4: nothing is clipped
    frames = film(dissolved(old, new, 19))
    power = measure_changes(frames.thumbnails).contrast ** 2
    planes = np.repeat([0, 1, 2], [768, 192, 192])
    difference = new[0] - old[0]
    difference -= np.array([difference[planes == plane].mean() for plane in range(3)])[planes]
    assert sag(power, np.array([20]), 20)[0] == pytest.approx(np.mean(difference**2), rel=0.05)


def test_the_mixed_frames_are_found_from_a_part_of_a_dissolve() -> None:
    frames = film(dissolved(scene(1, 60, 0.1), scene(2, 60, 0.1), 21)).thumbnails
    start, end = mixed_frames(frames, 42, 56, 35, 64)
    assert abs(start - 39) <= 1 and abs(end - 60) <= 1


def test_ramps() -> None:
    picture = np.full(30, 40.0)
    assert ramp(np.concatenate([[0.0], picture])) == 0
    assert ramp(np.concatenate([np.arange(0.0, 40, 4), picture])) == 9
    assert ramp(np.array([0.0])) == 0


def test_flashes_pans_and_overlays_are_told_apart() -> None:
    still = scene(1, 40, 0.0)
    lit = still.copy()
    lit[20:22] = 250
    frames = film(lit).thumbnails
    assert is_flash(frames, 20, 6) and is_flash(frames, 22, 6)
    assert not is_flash(film(still[:20], scene(2, 20)).thumbnails, 20, 6)
    pan, other = film(scene(1, 13, 0.8)), film(dissolved(still[:13], scene(2, 13, 0.0), 13))
    assert is_moved(pan.luma[0], pan.luma[3], 3) and not is_moved(pan.luma[0], other.luma[-1], 3)
    assert is_pan(pan.thumbnails, 0, 12) and not is_pan(other.thumbnails, 0, 12)
    titled = still[0].copy()
    titled[:150] = 250
    assert is_overlay(still[0], titled) and not is_overlay(still[0], scene(2, 1)[0])


def test_scenedetect_is_asked() -> None:
    features = film(scene(1, 30), scene(101, 30))
    assert scenedetect_agrees(features, np.array([15, 30, 45])).tolist() == [False, True, False]


# ------------------------------------------------------------------------------------------- shots and clips


@st.composite
def boundaries_in(draw: st.DrawFn) -> tuple[int, list[Boundary]]:
    num_frames = draw(st.integers(1, 400))
    edges = draw(st.lists(st.integers(0, num_frames), max_size=12).map(sorted))
    boundaries, last = [], 0
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        is_cut = draw(st.booleans())
        if is_cut and 0 < start < num_frames and start >= last:
            boundaries.append(Boundary("cut", start, start))
        elif not is_cut and end > start >= last:
            boundaries.append(Boundary(draw(st.sampled_from(["fade", "dissolve"])), start, end))
        last = boundaries[-1].end if boundaries else 0
    return num_frames, boundaries


GAPS_S = [0.0, 0.001, 0.02, 0.04, 0.1, 0.7, 3.0, 25.0]


@settings(max_examples=120, deadline=None)
@given(boundaries_in(), st.integers(0, 2**32 - 1), st.sampled_from([0.5, 2.0, 10.0]))
def test_clips_tile_the_shots(case: tuple[int, list[Boundary]], seed: int, max_clip_s: float) -> None:
    num_frames, boundaries = case
    time_s = np.cumsum(np.random.default_rng(seed).choice(GAPS_S, num_frames))
    clips = divide(shots_from(boundaries, num_frames), time_s, max_clip_s)
    owners = np.zeros(num_frames, int)
    for clip in clips:
        assert clip.num_frames > 0
        owners[clip.start_frame : clip.start_frame + clip.num_frames] += 1
    for one in boundaries:
        owners[one.start : one.end] += 1
    assert (owners == 1).all()
    ends = frame_ends(time_s)
    for clip in clips:
        seconds = ends[clip.start_frame + clip.num_frames - 1] - time_s[clip.start_frame]
        assert seconds <= max_clip_s + 1e-5 or clip.num_frames == 1
    _check_names(clips, boundaries, num_frames)


def _check_names(clips: list[ClipSpan], boundaries: list[Boundary], num_frames: int) -> None:
    """Each clip says truly what it begins and ends with."""
    begins = {0: {"start"}, **{one.end: set() for one in boundaries}}
    ends = {num_frames: {"end"}, **{one.start: set() for one in boundaries}}
    for one in boundaries:
        begins[one.end].add(one.kind)
        ends.setdefault(one.start, set()).add(one.kind)
    for clip in clips:
        last = clip.start_frame + clip.num_frames
        assert clip.boundary_in in begins.get(clip.start_frame, {"split"})
        assert clip.boundary_out in ends.get(last, {"split"})


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.sampled_from([8.0, 23.976, 25.0, 60.0]))
def test_a_long_shot_is_divided_into_few_near_equal_clips(num_frames: int, fps: float) -> None:
    clips = divide(shots_from([], num_frames), np.arange(num_frames) / fps, 10.0)
    sizes = [clip.num_frames for clip in clips]
    assert max(sizes) - min(sizes) <= 1 or num_frames == 1
    assert len(clips) == -(-num_frames // int(10.0 * fps + 1e-6)) or max(sizes) - min(sizes) <= 1
    assert len(clips) <= num_frames / fps / 10.0 + 1.5
    assert (clips[0].boundary_in, clips[-1].boundary_out) == ("start", "end")
    assert all(clip.boundary_out == "split" for clip in clips[:-1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 45), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_boundaries_of_any_film_are_in_order_and_leave_clips_that_tile_it(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [level(rng.integers(0, 256), n) if rng.random() < 0.3 else scene(int(rng.integers(99)), n) for n in lengths]
    features = film(*parts)
    boundaries = detect_boundaries(features)
    edges = [edge for one in boundaries for edge in (one.start, one.end)]
    assert edges == sorted(edges) and all(0 <= edge <= features.num_frames for edge in edges)
    covered = sum(clip.num_frames for clip in find_clips(features, ShotConfig(max_clip_s=1.0)))
    assert covered + sum(one.end - one.start for one in boundaries) == features.num_frames


def test_found_boundaries_compare_by_value() -> None:
    assert Found(Boundary("cut", 3, 3), 1.0, True) == Found(Boundary("cut", 3, 3), 1.0, True)


# -------------------------------------------------------------------------------------------- real pictures


def features_of(frames: list[np.ndarray], fps: float = 25.0) -> FrameFeatures:
    """Features of gray or BGR pictures [H, W, 3], by way of full-range YCbCr planes."""
    rows = []
    for frame in frames:
        small = cv2.resize(frame, (192, 108), interpolation=cv2.INTER_AREA)
        luma, v, u = cv2.split(cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb))
        rows.append(thumbnail(luma, u, v))
    return FrameFeatures(np.arange(len(rows)) / fps, np.stack(rows))


@cache
def clip_frames(path: Path, limit: int = 90) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        pictures = (frame.to_ndarray(format="bgr24") for frame in container.decode(video=0))
        return [cv2.resize(picture, (320, 180)) for picture, _ in zip(pictures, range(limit), strict=False)]


@cache
def splicer(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_spliced", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SINGLE_SHOTS = [
    "cogvideo_in_horse.mp4",
    "cogvideo_in_train.mp4",
    "decord_flipping_a_pancake.mkv",
    "gem_anim-1.mov",
    "kphotoalbum_movie.avi",
    "lhotse_bbb_small.mp4",
    "mmaction2_demo_spatiotemporal_det.mp4",
    "mmaction2_test.avi",
    "moviepy_chaplin.mp4",
    "panda_sample_27JMPcO4byc.33.mp4",
    "vgen_ucf_PlayingGuitar_g03_c01.avi",
]


@pytest.mark.parametrize("name", SINGLE_SHOTS)
def test_single_shots_are_not_cut(corpus: Path, name: str) -> None:
    frames = clip_frames(corpus / name)
    assert found(features_of(frames)) == []
    assert found(features_of([frame for frame in frames for _ in range(3)])) == []


@pytest.mark.parametrize("seed", [21, 22])
def test_spliced_reels_are_taken_apart(corpus: Path, seed: int) -> None:
    """Reels by the corpus's own splicer, without the codec in between: every cut, and no false one."""
    import random

    rng = random.Random(seed)
    clips = [clip_frames(corpus / name)[: rng.randint(40, 90)] for name in rng.sample(SINGLE_SHOTS, len(SINGLE_SHOTS))]
    reel, truth = splicer(corpus.parent / "make_spliced.py").splice(clips, rng)
    boundaries = found(features_of(reel))
    cuts = [one["start"] for one in truth if one["type"] == "cut"]
    assert [one.start for one in boundaries if one.kind == "cut"] == cuts
    graduals = [one for one in truth if one["type"] != "cut"]
    hits = [any(b.kind != "cut" and b.start < g["end"] and b.end > g["start"] for b in boundaries) for g in graduals]
    assert sum(hits) >= len(graduals) - 1
    assert len(boundaries) - len(cuts) <= len(graduals)
