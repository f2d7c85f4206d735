"""The pass and what is made of it, on real files and on files whose truth is known."""

import cv2
import numpy as np
import pytest

from curation.isolate import Crashed, Expired, Isolated, report
from curation.rows import rows
from curation.scan import ScanConfig, scan_video
from curation.shots import ShotConfig
from curation.sources import Found, identify
from schemas.records import ClipRecord, KeyframeRecord, TagRecord, VideoRecord
from schemas.tags import TAGS
from tests.video import texture, write_video


def curated(path, config=None):
    config = config or ScanConfig()
    with scan_video(str(path), config) as scan:
        found = list(rows(scan, identify(Found(str(path))), config))

    def of(kind):
        return [row for row in found if isinstance(row, kind)]

    tags: dict[str, dict] = {}
    for row in of(TagRecord):
        tags.setdefault(row.clip_id, {}).update(row.values)
    return of(VideoRecord)[0], of(ClipRecord), of(KeyframeRecord), tags


MOVING = [np.roll(texture(180, 320), 3 * i, axis=1) for i in range(75)]


def color(gray):
    return np.dstack([gray] * 3)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("decord_video_90.mov", {"width": 320, "height": 568, "rotation": 90, "codec": "h264", "container": "mov"}),
        ("torchcodec_h264_10bits.mp4", {"bit_depth": 10, "pix_fmt": "yuv420p10le", "fps": 30.0}),
        ("imageio_newtonscradle.gif", {"container": "gif", "num_frames": 36, "is_vfr": True}),
        ("torchcodec_av1_video.mkv", {"codec": "av1", "has_audio": False, "num_frames": 125}),
        ("torchcodec_bt709_full_range.mp4", {"is_full_range": True}),
        ("screen_gnome_message-board.ogv", {"codec": "theora", "is_vfr": True, "num_frames": 182}),
        ("mimetype_3gp.3gp", {"codec": "h263", "has_audio": True}),
        ("pygame_blue.mpg", {"codec": "mpeg1video", "num_frames": 24, "fps": 30.0}),
    ],
)  # fmt: skip
def test_facts_of_real_files(corpus, name, facts):
    video, clips, _, _ = curated(corpus / name)
    assert (
        {key: getattr(video, key) for key in facts} == pytest.approx(facts)
        if "fps" in facts
        else {key: getattr(video, key) for key in facts} == facts
    )
    assert sum(clip.num_frames for clip in clips) <= video.num_frames


def test_anamorphic_pictures_have_square_keyframes(corpus):
    video, _, keyframes, _ = curated(corpus / "lhotse_bbb_small.mp4")
    assert video.sample_aspect_ratio == pytest.approx(4 / 3)
    assert keyframes[0].width / keyframes[0].height == pytest.approx(video.width * video.sample_aspect_ratio / video.height, rel=0.01)


def test_every_clip_has_three_keyframes_in_order_that_show_their_frame(corpus):
    _, clips, keyframes, _ = curated(corpus / "cosmos_curate_test_video_30s.mp4")
    assert len(clips) > 8
    for clip in clips:
        own = [keyframe for keyframe in keyframes if keyframe.clip_id == clip.clip_id]
        assert len(own) >= min(3, clip.num_frames)
        assert [one.index for one in own] == list(range(len(own)))
        times = [one.time_s for one in own]
        assert times == sorted(times)
        assert clip.start_s <= times[0] <= times[-1] < clip.end_s
        for one in own:
            assert clip.start_frame <= one.frame < clip.start_frame + clip.num_frames
            picture = cv2.imdecode(np.frombuffer(one.jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape[:2] == (one.height, one.width)
            assert max(picture.shape) <= 512


def test_keyframes_have_the_colors_of_the_frame(corpus):
    from curation.frames import FrameReader

    path = corpus / "llavanext_xU25.mp4"
    _, _, keyframes, _ = curated(path)
    for one in keyframes:
        picture = cv2.imdecode(np.frombuffer(one.jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        frame = FrameReader(str(path)).read([one.frame], [one.time_s])[0]
        wanted = cv2.resize(frame, (one.width, one.height), interpolation=cv2.INTER_AREA)
        assert np.abs(picture.astype(int) - wanted).mean() < 6


def test_every_tag_is_in_its_range(corpus):
    scanned = [tag for tag in TAGS if tag.needs == "scan"]
    bounds = {tag.name: (tag.low, tag.high) for tag in scanned if tag.dtype in ("float32", "int32")}
    for name in ("dj_video1.mp4", "gen_cogvideo_1.mp4", "v2d_test_video.mp4", "wx_press.mpg", "decord_video_90.mov"):
        *_, tags = curated(corpus / name)
        for values in tags.values():
            assert values.keys() == {tag.name for tag in scanned}
            for tag, (low, high) in bounds.items():
                value = values[tag]
                assert value is None or ((low is None or value >= low) and (high is None or value <= high)), (name, tag, value)
                assert value is None or np.isfinite(value)


def test_frozen_and_doubled_frames(tmp_path):
    still = write_video(tmp_path / "still.mp4", [color(MOVING[0])] * 50)
    doubled = write_video(tmp_path / "doubled.mp4", [color(MOVING[i // 2]) for i in range(60)])
    moving = write_video(tmp_path / "moving.mp4", map(color, MOVING))
    (frozen,), (twice,), (free,) = (list(curated(path)[3].values()) for path in (still, doubled, moving))
    assert frozen["quality_frozen_ratio"] == 1
    assert twice["quality_duplicate_ratio"] == pytest.approx(0.5, abs=0.05)
    assert free["quality_frozen_ratio"] == free["quality_duplicate_ratio"] == 0
    assert free["motion_mean"] > 0.1 > frozen["motion_mean"]
    assert free["motion_camera"] == "pan_left"


def test_letterbox_becomes_the_crop(tmp_path):
    images = []
    for picture in MOVING:
        framed = np.zeros((240, 320), np.uint8)
        framed[30:210] = picture
        images.append(color(framed))
    _, (clip,), _, tags = curated(write_video(tmp_path / "box.mp4", images, options={"crf": "12"}))
    assert (clip.crop_x, clip.crop_y, clip.crop_w, clip.crop_h) == pytest.approx((0, 30, 320, 180), abs=1)
    assert tags[clip.clip_id]["quality_bar_area"] == pytest.approx(0.25, abs=0.02)


def test_short_clips_are_marked_and_long_ones_divided(corpus):
    config = ScanConfig(shots=ShotConfig(max_clip_s=2.5))
    _, clips, _, _ = curated(corpus / "dj_video1.mp4", config)
    assert all(clip.end_s - clip.start_s <= 2.5 + 1e-6 for clip in clips)
    assert {clip.boundary_in for clip in clips} == {"start", "cut", "split"}
    assert all(clip.is_short == (clip.end_s - clip.start_s < 1.0) for clip in clips)


def test_one_picture_is_a_video_too(tmp_path):
    video, (clip,), keyframes, _ = curated(write_video(tmp_path / "one.mp4", [color(MOVING[0])]))
    assert (video.num_frames, clip.num_frames, len(keyframes)) == (1, 1, 1)


def test_scanning_twice_gives_the_same(corpus):
    for name in ("decord_corrupted.mp4", "daft_sample_video.mp4", "imageio_newtonscradle.gif"):
        assert curated(corpus / name) == curated(corpus / name)


def _slow():
    import time

    report(7, 0.25)
    time.sleep(60)


def _die():
    import os

    report(3, 0.1)
    os.abort()


def test_a_crash_or_a_hang_takes_nothing_else_with_it():
    worker = Isolated()
    try:
        with pytest.raises(Crashed, match="SIGABRT") as crash:
            worker.run(_die)
        assert crash.value.progress.frames == 3
        with pytest.raises(Expired) as late:
            worker.run(_slow, limit_s=0.5)
        assert (late.value.progress.frames, late.value.progress.seconds) == (7, 0.25)
        assert worker.run(len, [1, 2]) == 2
    finally:
        worker.close()


@pytest.mark.parametrize("shape", [(2, 1000), (1000, 2)])
def test_pictures_of_two_rows_or_columns_are_scanned(tmp_path, shape):
    noise = np.random.default_rng(1).integers(0, 255, (8, *shape, 3), np.uint8)
    video, clips, *_ = curated(write_video(tmp_path / "thin.mkv", noise))
    assert (video.height, video.width) == shape and sum(clip.num_frames for clip in clips) == 8
