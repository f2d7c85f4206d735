"""Clips cut from real files and from made ones: the very frames, in the time of the source, from one decode."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import curation.cut
from curation.cut import Cut, CutJob, CutSettings, _batches, cut_source, plan_cut, run_cuts
from curation.encode import Box, Codec, CutError, EncodeSettings, Shape
from curation.frames import decode, open_media, rgb, rotation_of, video_stream
from tests.video import texture, write_video

LOSSLESS = CutSettings(EncodeSettings(Codec.FFV1))
LOSSY = CutSettings(EncodeSettings(preset="veryfast", crf=12))
# mpeg1, rotated, AV1, gif, MJPEG 4:2:2 full range, odd 4:4:4, rgb24, H.264 full range, 10 bits twice, flv, vp8, 2 fps
REAL = (
    "pygame_blue.mpg", "decord_video_90.mov", "torchcodec_av1_video.mkv", "moviepy_pigs_in_a_polka.gif", "kphotoalbum_movie.avi",
    "screen_gnome_message-board.ogv", "opencv_tree.avi", "intel_book.mkv", "torchcodec_h264_10bits.mp4", "torchcodec_h265_10bits.mp4",
    "mimetype_flv.flv", "decord_flipping_a_pancake.mkv", "katna_codec_error_video.mp4", "nemo_curator_test_video.mp4",
)  # fmt: skip


def read(path, most=70):
    """The first frames of a file as (time, frame), and its sample aspect ratio."""
    with open_media(str(path)) as container:
        stream = video_stream(container)
        found = [(picture.time_s, picture.frame) for _, picture in zip(range(most), decode(container, stream), strict=False)]
        return found, stream.sample_aspect_ratio


def samples(frame):
    """All bytes of a frame's samples at their own depth, without what pads the decoder's rows."""
    found = []
    for number, plane in enumerate(frame.planes):
        members = [part for part in frame.format.components if part.plane == number]
        step = (members[0].bits + 7) // 8 if len(members) == 1 else frame.format.padded_bits_per_pixel // 8
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        found.append(rows[: plane.height, : plane.width * step].tobytes())
    return found


def row(path, start, count, clip_id="c0ffee", **changes):
    """A manifest's row of a span, its picture without bars unless said otherwise."""
    first = read(path, 1)[0][0][1]
    height, width = rgb(first).shape[:2]
    known = {
        "clip_id": clip_id,
        "video_id": "v",
        "uri": str(path),
        "start_frame": start,
        "num_frames": count,
        "rotation": rotation_of(first),
    }
    return known | {"width": width, "height": height, "crop_x": 0, "crop_y": 0, "crop_w": width, "crop_h": height} | changes


def cut(path, spans, settings, folder):
    """Cut spans of a file in one go; what came of each, in their order."""
    plans = [plan_cut(row(path, start, count, f"c{number}"), settings, folder) for number, (start, count) in enumerate(spans)]
    assert cut_source(str(path), [plan.cut for plan in plans], settings.encode) == {}
    assert not list(folder.rglob(".*")), "nothing half done is left"
    return plans


@pytest.mark.parametrize("name", REAL)
def test_lossless_clips_have_the_very_samples_colors_and_times_of_the_source(corpus, tmp_path, name, monkeypatch):
    whole, _ = read(corpus / name)
    last = len(whole)
    spans = [(last // 2, last - last // 2), (0, 3), (1, last // 2 + 1), (0, 1)]  # in no order, overlapping
    opened = []
    monkeypatch.setattr(curation.cut, "open_media", lambda uri: opened.append(uri) or open_media(uri))
    plans = cut(corpus / name, spans, LOSSLESS, tmp_path)
    assert opened == [str(corpus / name)], "one decode for all clips"
    for (start, count), plan in zip(spans, plans, strict=True):
        got, _ = read(plan.cut.path, 999)
        assert len(got) == count
        wanted = whole[start : start + count]
        for (time_s, frame), (source_s, source) in zip(got, wanted, strict=True):
            if frame.format.name == source.format.name.replace("yuvj", "yuv"):
                assert samples(frame) == samples(source)
            else:
                assert (source.format.name, frame.format.name) == ("rgb24", "bgr0")
            np.testing.assert_array_equal(rgb(frame), rgb(source))
            assert abs(time_s - (source_s - wanted[0][0])) <= 0.00051, "Matroska counts milliseconds"
            assert (frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc) == (
                source.color_range, source.colorspace, source.color_primaries, source.color_trc,
            )  # fmt: skip
            assert rotation_of(frame) == rotation_of(source)


@pytest.mark.parametrize(
    "name", ["decord_video_90.mov", "daft_sample_video.mp4", "katna_codec_error_video.mp4", "intel_book.mkv", "opencv_tree.avi"]
)
def test_lossy_clips_have_the_same_frames_at_the_same_times(corpus, tmp_path, name):
    whole, ratio = read(corpus / name, 40)
    start = min(5, len(whole) // 3)
    count = min(12, len(whole) - start)
    (plan,) = cut(corpus / name, [(start, count)], LOSSY, tmp_path)
    got, ratio_got = read(plan.cut.path, 999)
    pictures = np.array([rgb(frame) for _, frame in whole], np.int16)
    assert len(got) == count and (ratio_got or 1) == (ratio or 1)
    for number, (time_s, frame) in enumerate(got):
        assert abs(time_s - (whole[start + number][0] - whole[start][0])) < 1e-6
        distances = np.abs(pictures - rgb(frame)).mean((1, 2, 3))
        assert distances[start + number] < 4 and distances[start + number] <= distances.min() + 0.2, "another frame would be farther"
        assert rotation_of(frame) == rotation_of(whole[0][1])


@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv444p12le", "yuv422p", "yuv411p", "yuv410p", "gray", "gray10le", "bgra", "gbrp10le"],
)
@pytest.mark.parametrize("size", [(64, 48), (63, 45)])
def test_any_pixel_format_and_odd_sizes_come_back_as_they_are(tmp_path, pix_fmt, size):
    picture = np.dstack([texture(size[1], size[0], seed) for seed in range(3)])
    path = write_video(tmp_path / "v.mkv", [np.roll(picture, 3 * shift, 1) for shift in range(6)], "ffv1", pix_fmt)
    (plan,) = cut(path, [(2, 3)], LOSSLESS, tmp_path / "out")
    wanted, got = read(path)[0][2:5], read(plan.cut.path)[0]
    assert [frame.format.name for _, frame in got] == [pix_fmt] * 3
    for (_, frame), (_, source) in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(rgb(frame), rgb(source))
        assert samples(frame) == samples(source)


def test_what_no_lossless_codec_can_keep_is_a_failure(tmp_path):
    path = write_video(tmp_path / "v.nut", [texture(48, 64)[..., None].repeat(3, 2)] * 3, "rawvideo", "rgb565le")
    assert read(path)[0][0][1].format.name == "rgb565le"
    plan = plan_cut(row(path, 0, 2), LOSSLESS, tmp_path / "out")
    (error,) = cut_source(str(path), [plan.cut], LOSSLESS.encode).values()
    assert (error.code, "rgb565le" in error.message) == ("unsupported", True)
    cut(path, [(0, 2)], LOSSY, tmp_path / "out")


def test_clips_of_a_frame_or_two(corpus, tmp_path):
    plans = cut(corpus / "dj_video11.mp4", [(3, 1), (4, 2), (5, 3)], LOSSY, tmp_path)
    assert [len(read(plan.cut.path)[0]) for plan in plans] == [1, 2, 3]


def test_uneven_times_are_kept(tmp_path):
    times = [0, 40, 80, 500, 540, 2000, 2033]
    path = write_video(tmp_path / "v.mkv", [np.full((64, 64, 3), 30 * i, np.uint8) for i in range(7)], "ffv1", times_ms=times)
    for settings in (LOSSLESS, LOSSY):
        (plan,) = cut(path, [(2, 4)], settings, tmp_path / "out")
        np.testing.assert_allclose([time_s for time_s, _ in read(plan.cut.path)[0]], [0, 0.42, 0.46, 1.92], atol=1e-6)


@pytest.mark.parametrize(
    "name", ["decord_video_90.mov", "screen_gnome_message-board.ogv", "kphotoalbum_movie.avi", "moviepy_pigs_in_a_polka.gif"]
)
def test_cut_off_bars_leave_the_active_picture_where_the_columns_say(corpus, tmp_path, name):
    bars = {"crop_x": 9, "crop_y": 22, "crop_w": 101, "crop_h": 63}
    plan = plan_cut(row(corpus / name, 1, 2, **bars), replace(LOSSLESS, crop=True), tmp_path)
    assert cut_source(str(corpus / name), [plan.cut], LOSSLESS.encode) == {}
    box = plan.written.crop
    assert 101 <= plan.written.width <= 107 and 63 <= plan.written.height <= 69 and (box.width, box.height) == (101, 63)
    for (_, frame), (_, source) in zip(read(plan.cut.path)[0], read(corpus / name)[0][1:3], strict=True):
        picture = rgb(frame)
        assert picture.shape[:2] == (plan.written.height, plan.written.width)
        active = picture[box.y : box.y + box.height, box.x : box.x + box.width]
        wanted = rgb(source)[22 : 22 + 63, 9 : 9 + 101]
        if "420" in frame.format.name or "422" in frame.format.name:  # chroma at the edges is interpolated from outside
            active, wanted = active[2:-2, 2:-2], wanted[2:-2, 2:-2]
        np.testing.assert_array_equal(active, wanted)


def test_shrunk_clips_show_the_same_picture_and_their_columns_are_scaled(corpus, tmp_path):
    name, bars = "decord_video_90.mov", {"crop_x": 10, "crop_y": 57, "crop_w": 300, "crop_h": 450}  # 320x568 upright
    plan = plan_cut(row(corpus / name, 0, 1, **bars), replace(LOSSY, short_side=160), tmp_path)
    assert cut_source(str(corpus / name), [plan.cut], LOSSY.encode) == {}
    assert (plan.written.width, plan.written.height, plan.written.crop) == (160, 284, Box(5, 29, 150, 224))
    picture, source = rgb(read(plan.cut.path)[0][0][1]), rgb(read(corpus / name)[0][0][1])
    assert picture.shape == (284, 160, 3)
    assert np.abs(picture.astype(int) - cv2.resize(source, (160, 284), interpolation=cv2.INTER_AREA)).mean() < 4
    larger = plan_cut(row(corpus / name, 0, 1), replace(LOSSY, short_side=2000), tmp_path)
    assert (larger.written.width, larger.written.height) == (320, 568), "never made larger"


@given(st.data())
def test_columns_of_what_is_written_lie_in_the_picture_and_hold_no_bars(data):
    width, height = data.draw(st.integers(2, 300), "width"), data.draw(st.integers(2, 300), "height")
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    crop_w, crop_h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    known = {"clip_id": "c", "video_id": "v", "start_frame": 0, "num_frames": 1, "rotation": data.draw(st.sampled_from([0, 90, 180, 270]))}
    values = known | {"width": width, "height": height, "crop_x": x, "crop_y": y, "crop_w": crop_w, "crop_h": crop_h}
    codec = data.draw(st.sampled_from([Codec.H264, Codec.FFV1]))
    short = data.draw(st.none() | st.integers(16, 200)) if codec is Codec.H264 else None
    settings = CutSettings(EncodeSettings(codec), short, data.draw(st.booleans()))
    plan = plan_cut(values, settings, Path("out"))
    written, shape, box = plan.written, plan.cut.shape, plan.written.crop
    assert 0 <= box.x < box.x + box.width <= written.width and 0 <= box.y < box.y + box.height <= written.height
    assert 0 <= shape.box.x < shape.box.x + shape.box.width <= shape.width
    assert 0 <= shape.box.y < shape.box.y + shape.box.height <= shape.height
    assert codec is Codec.FFV1 or (written.width % 2 == 0 and written.height % 2 == 0)
    if settings.crop:
        assert shape.box.x % 4 == 0 and shape.box.y % 4 == 0
    if shape.size == (shape.box.width, shape.box.height):
        assert box.width >= crop_w - 1 and box.height >= crop_h - 1, "no more than the odd edge is lost"


def test_every_setting_and_span_has_a_name_of_its_own(tmp_path):
    base = {"clip_id": "ab12", "video_id": "v", "start_frame": 3, "num_frames": 9, "rotation": 0}
    base |= {"width": 640, "height": 360, "crop_x": 0, "crop_y": 40, "crop_w": 640, "crop_h": 280}
    encodes = [EncodeSettings(crf=crf, preset=preset) for crf in (18, 23) for preset in ("medium", "fast")]
    settings = [CutSettings(encode, short, crop) for encode in encodes for short in (None, 256) for crop in (False, True)]
    settings += [CutSettings(EncodeSettings(Codec.FFV1), None, crop) for crop in (False, True)]
    rows = [base, base | {"start_frame": 4}, base | {"num_frames": 8}, base | {"video_id": "w"}]
    paths = [plan_cut(one, setting, tmp_path).cut.path for one in rows for setting in settings]
    assert len(set(paths)) == len(paths)
    tagged = plan_cut(base | {"motion_mean": 1.0, "uri": "moved.mp4"}, settings[0], tmp_path)
    assert tagged == plan_cut(base, settings[0], tmp_path), "what does not change the file does not change its name"
    for bad in ({"clip_id": "../../x"}, {"crop_w": 641}, {"num_frames": 0}, {"rotation": 45}, {"width": 0}):
        with pytest.raises(CutError):
            plan_cut(base | bad, settings[0], tmp_path)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 60)), max_size=90))
def test_never_more_than_so_many_encoders_run_at_once(spans):
    shape = Shape(2, 2, 0, Box(0, 0, 2, 2), (2, 2))
    cuts = [Cut(str(number), start, count, shape, str(number)) for number, (start, count) in enumerate(spans)]
    batches = _batches(cuts)
    assert sorted(one.path for batch in batches for one in batch) == sorted(one.path for one in cuts)
    for batch in batches:
        for frame in range(101):
            assert sum(one.start_frame <= frame < one.start_frame + one.num_frames for one in batch) <= 32
    deepest = max((sum(start <= frame < start + count for start, count in spans) for frame in range(101)), default=0)
    assert len(batches) <= 1 or deepest > 32


def test_what_goes_wrong_with_one_clip_leaves_the_others(corpus, tmp_path):
    path = corpus / "nemo_curator_test_video.mp4"  # 7 frames
    spans = {
        "a1": row(path, 0, 4),
        "a2": row(path, 5, 3),
        "a3": row(path, 1, 2, width=640),
        "a4": row(path, 2, 2, rotation=90),
        "a5": row(path, 9, 1),
    }
    plans = {name: plan_cut(values | {"clip_id": name, "crop_w": 10}, LOSSY, tmp_path) for name, values in spans.items()}
    failed = cut_source(str(path), [plan.cut for plan in plans.values()], LOSSY.encode)
    assert {name: failed[plan.cut.path].code for name, plan in plans.items() if plan.cut.path in failed} == {
        "a2": "truncated", "a3": "unsupported", "a4": "unsupported", "a5": "truncated",
    }  # fmt: skip
    assert [path.name[:2] for path in tmp_path.rglob("*.*")] == ["a1"]


def test_a_source_that_breaks_off_or_is_another_one_now(corpus, tmp_path):
    whole = (corpus / "decord_flipping_a_pancake.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    cuts = tuple(plan_cut(row(tmp_path / "half.mkv", start, 4, f"c{start}"), LOSSY, tmp_path / "out").cut for start in (0, 50, 9000))
    job = CutJob(str(tmp_path / "half.mkv"), "v", "", cuts, LOSSY, 60.0)
    (failure,) = run_cuts(job).failures
    assert (failure.clip_id, failure.code, failure.stage) == ("c9000", "truncated", "materialize") and failure.decoded_frames > 60
    (again,) = run_cuts(replace(job, cuts=(cuts[2],), fingerprint="1-1")).failures
    assert (again.code, again.message) == ("not_found", "the file at this address is another one now")
    (gone,) = run_cuts(replace(job, uri=str(tmp_path / "none.mkv"))).failures
    assert (gone.code, gone.clip_id) == ("not_found", "c9000")
    long = plan_cut(row(corpus / "v2d_test_video.mp4", 0, 3000), LOSSY, tmp_path / "out").cut
    (late,) = run_cuts(replace(job, uri=str(corpus / "v2d_test_video.mp4"), cuts=(long,), limit_s=1.0)).failures
    assert (late.code, late.retryable) == ("timeout", True) and late.decoded_frames
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_place_that_cannot_be_written_ends_the_job(corpus, tmp_path):
    (tmp_path / "out").write_text("a file")
    path = corpus / "nemo_curator_test_video.mp4"
    with pytest.raises(CutError, match="cannot write"):
        cut_source(str(path), [plan_cut(row(path, 0, 2), LOSSY, tmp_path / "out").cut], LOSSY.encode)
