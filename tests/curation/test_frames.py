"""The decoder: pictures, times and planes of every kind of file, and the same pixels by random access."""

import av
import numpy as np
import pytest

from curation.frames import DecodeLog, FrameReader, MediaError, decode, is_full_range, open_media, planes, rgb, rotation_of, video_stream
from curation.signals.planes import full_range_chroma, full_range_luma
from tests.video import texture, write_video


def read(path):
    log = DecodeLog()
    with open_media(str(path)) as container:
        found = [(picture, rgb(picture.frame)) for picture in decode(container, video_stream(container), log)]
    return found, log


def test_every_corpus_file_gives_increasing_times_from_zero(corpus, corpus_index):
    for row in corpus_index:
        with open_media(str(corpus / row["file"])) as container:
            times = np.array([picture.time_s for picture in decode(container, video_stream(container))])
        assert times[0] == 0, row["file"]
        assert (np.diff(times) > 0).all(), row["file"]


@pytest.mark.parametrize(
    "name",
    [
        "dj_video11.mp4",
        "decord_flipping_a_pancake.mkv",
        "screen_gnome_message-board.ogv",
        "pygame_blue.mpg",
        "imageio_newtonscradle.gif",
        "mmaction2_test.avi",
        "daft_sample_video.mp4",
        "torchcodec_h264_10bits.mp4",
        "decord_video_90.mov",
        "gen_finetrainers_cogvideox_lora.webm",
    ],
)
def test_random_access_gives_the_very_pixels_of_the_scan(corpus, name):
    found, _ = read(corpus / name)
    wanted = [index for index in (1, 2, 17, 60, 61) if index < len(found)]
    got = FrameReader(str(corpus / name)).read(wanted, [found[index][0].time_s for index in wanted])
    for index, image in zip(wanted, got, strict=True):
        np.testing.assert_array_equal(image, found[index][1])


def test_an_independent_decoder_sees_the_same_frames(corpus):
    import decord

    path = str(corpus / "dj_video1.mp4")
    theirs = decord.VideoReader(path, num_threads=1)
    found, _ = read(path)
    assert len(theirs) == len(found)
    for index in (0, 143, 144, 281):
        np.testing.assert_array_equal(theirs[index].asnumpy(), found[index][1])


def test_random_access_beyond_the_end_is_an_error(corpus):
    with pytest.raises(MediaError):
        FrameReader(str(corpus / "dj_video11.mp4")).read([10_000], [400.0])


def test_variable_frame_rate_keeps_each_time(tmp_path):
    times = [0, 40, 80, 500, 540, 2000, 2033]
    images = [np.full((64, 64, 3), 30 * i, np.uint8) for i in range(len(times))]
    path = write_video(tmp_path / "vfr.mkv", images, "ffv1", "yuv420p", times_ms=times)
    found, _ = read(path)
    np.testing.assert_allclose([picture.time_s for picture, _ in found], np.array(times) / 1000, atol=1e-6)


def test_pictures_come_in_presentation_order(tmp_path):
    images = [np.full((64, 64, 3), 4 * i, np.uint8) for i in range(50)]
    path = write_video(tmp_path / "b.mp4", images, options={"bf": "3", "crf": "10"})
    found, _ = read(path)
    means = [image.mean() for _, image in found]
    assert means == sorted(means)
    assert len(found) == 50


def test_rotation_is_applied(corpus):
    with open_media(str(corpus / "decord_video_90.mov")) as container:
        frame = next(decode(container, video_stream(container))).frame
    assert rotation_of(frame) == 90
    coded = frame.to_ndarray(format="rgb24")
    np.testing.assert_array_equal(rgb(frame), np.rot90(coded, -1))


@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv422p10le", "yuv444p12le", "gray10le", "bgra", "rgb24", "gbrp", "nv12"],
)
def test_planes_of_any_pixel_format_show_the_same_picture(pix_fmt):
    picture = np.dstack([texture(90, 122, seed) for seed in range(3)])
    if pix_fmt.startswith("gray"):
        picture = np.dstack([texture(90, 122)] * 3)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
    luma, *chroma = planes(frame)
    is_full = is_full_range(frame)
    expected = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p", dst_color_range="JPEG").to_ndarray()
    assert luma.shape == (90, 122)
    assert luma.dtype == np.uint8
    assert np.abs(full_range_luma(luma, is_full).astype(int) - expected[0]).mean() < 1.5
    assert len(chroma) == (0 if pix_fmt.startswith("gray") else 2)
    for plane, wanted in zip(chroma, expected[1:], strict=False):
        assert abs(float(full_range_chroma(plane, is_full).mean()) - float(wanted.mean())) < 1.5


def test_damaged_packets_are_skipped_and_counted(corpus, tmp_path):
    data = bytearray((corpus / "mmaction2_test_video_structuralize.mp4").read_bytes())
    start = len(data) // 2
    data[start : start + 3000] = bytes(3000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    found, log = read(tmp_path / "damaged.mp4")
    assert log.flaws > 0
    assert len(found) > 200
