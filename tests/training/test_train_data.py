"""From a manifest's rows to clips: which frames, what shape, and what is skipped."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.video import write_video
from training.balance import plan_balance
from training.config import DataConfig, ShapesConfig
from training.data import ClipSource, Order, Pixels, SkippedClip, Wanted
from training.pixels import Window, read_windows, resize, to_pixels, to_tensor, window_of
from training.sampler import make_sampler
from training.settings import TrainError
from training.shapes import Shape, Shapes, Token, plan_shapes


def _row(path: Path, clip_id: str, **changes: object) -> dict[str, object]:
    row = {"clip_id": clip_id, "uri": str(path), "start_frame": 0, "num_frames": 30, "start_s": 0.0, "end_s": 1.2}
    row |= {"fps": 25.0, "width": 96, "height": 64, "crop_x": 0, "crop_y": 0, "crop_w": 96, "crop_h": 64}
    return row | {"motion_mean": 1.0, "caption_dense": None, "caption_short": "a test"} | changes


def _numbered(path: Path, codec: str, **options: str) -> Path:
    """Ninety frames whose gray level is 2 x the frame's number, with black bars of 16 rows."""
    frames = np.zeros((90, 64, 96, 3), np.uint8)
    frames[:, 16:48] = 2 * np.arange(90, dtype=np.uint8)[:, None, None, None]
    return write_video(path, frames, codec, options={"g": "30", **options})


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _numbered(tmp_path_factory.mktemp("video") / "v.mp4", "libx264", crf="4")


@pytest.fixture(scope="module", params=["sought by time", "counted from the start"])
def any_video(request: pytest.FixtureRequest, video: Path) -> Path:
    by_time = request.param == "sought by time"
    return video if by_time else _numbered(video.with_suffix(".avi"), "mpeg4", qmin="1", qmax="2", b="4M")


def _source(rows: list[dict], memory_mb: float = 8, **changes: object) -> ClipSource:
    return ClipSource(pa.Table.from_pylist(rows), DataConfig(**changes), Pixels(), memory_mb)


def _order(rows: list[dict]) -> Order:
    return Order(make_sampler(plan_balance(pa.Table.from_pylist(rows), None), "m", 0), _shapes(rows), 2)


def _shapes(rows: list[dict]) -> Shapes:
    return plan_shapes(pa.Table.from_pylist(rows), ShapesConfig(areas=[[48, 16]], max_frames=5, fps=5), Token(8, 4))


SHAPE = Shape(48, 32, 5, 5.0, 5.0)


@given(st.integers(1, 400), st.floats(1, 20), st.data())
def test_frames_are_distinct_within_the_span_and_evenly_apart(available: int, stride: float, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 1 + int((available - 1) / stride + 1e-9)))
    windows = data.draw(st.integers(1, 5))
    numbers = window_of(available, Shape(8, 8, count, stride, 1.0), data.draw(st.integers(0, windows - 1)), windows).numbers()
    assert len(numbers) == count and numbers[0] >= 0 and numbers[-1] < available
    steps = np.diff(numbers)
    assert not len(steps) or (steps.min() >= 1 and np.ptp(steps) <= 1 and abs(stride - steps.mean()) <= 1 / (count - 1) + 1e-6)


def test_windows_begin_and_end_with_the_span() -> None:
    shape = Shape(8, 8, 3, 3.0, 8.0)
    assert [window_of(100, shape, index, 2).numbers().tolist() for index in range(2)] == [[0, 3, 6], [93, 96, 99]]
    assert window_of(100, shape, 0, 1).numbers().tolist() == [46, 49, 52]
    assert window_of(3, Shape(8, 8, 3, 1.0, 8.0), 1, 3) == Window(0.0, 1.0, 3)


def test_windows_hold_the_frames_of_their_span_and_the_active_picture(any_video: Path) -> None:
    row = _row(any_video, "a", start_frame=30, start_s=1.2, end_s=2.4, crop_y=16, crop_h=32)
    source = _source([row])
    shape = _shapes([row]).of(0)
    first, last = (source.load(Wanted(0, window, shape, 0.0)) for window in range(2))
    assert first.content.shape == (5, 16, 48, 3) and first.fps == 5 and first.text == "a test"
    assert np.abs(first.content.numpy().mean((1, 2, 3)) - 2 * (30 + 5 * np.arange(5))).max() < 3
    assert np.abs(last.content.numpy().mean((1, 2, 3)) - 2 * (39 + 5 * np.arange(5))).max() < 3


def test_unreadable_clips_are_skipped_counted_and_told_once(video: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"not a video, whatever its name")
    rows = [
        _row(video, "a"),
        _row(tmp_path / "bad.mp4", "b"),
        _row(tmp_path / "none.mp4", "c"),
        _row(video, "d", height=60),
    ]
    source, order = _source(rows), _order(rows)
    drawn = [order.sampler.draw(k).row for k in range(8)]
    read = source.read([order.wanted(k) for k in range(8)])
    assert [clip.clip_id for clip in read.clips] == ["a"] * 2
    assert [clip.clip_id for clip in source.first(order, 1)] == ["a"] and sorted(drawn[:4]) == [0, 1, 2, 3]
    for window in range(2):
        with pytest.raises(SkippedClip):
            source.load(Wanted(1, window, SHAPE, 0.0))
    assert read.skipped.keys() == {"b", "c", "d"}
    assert "bad.mp4: not_media: " in read.skipped["b"] and "none.mp4: not_found: " in read.skipped["c"]
    assert "96x64, not 96x60" in read.skipped["d"]


def test_no_readable_clip_at_all_is_an_error(tmp_path: Path) -> None:
    rows = [_row(tmp_path / "none.mp4", "c")]
    with pytest.raises(TrainError, match="no clip of the manifest can be trained on; .*there is no such file"):
        _source(rows).first(_order(rows), 1)


def test_memory_is_bounded_and_changes_nothing(video: Path) -> None:
    rows = [_row(video, "a"), _row(video, "b", start_frame=10, start_s=0.4, end_s=1.6)]
    rich, poor = _source(rows), _source(rows, memory_mb=0)
    for k in (0, 1, 0, 1):
        wanted = Wanted(k, 0, SHAPE, 0.0)
        assert rich.load(wanted).content.equal(poor.load(wanted).content)
    assert len(rich._memory._values) == 2 and len(poor._memory._values) == 1


def test_one_window_comes_with_different_texts_and_is_decoded_once(video: Path) -> None:
    row = _row(video, "a", caption_short="short", caption_dense="dense")
    source = _source([row], caption_lengths={"caption_dense": 1, "caption_short": 3})
    first, second = source.load(Wanted(0, 0, SHAPE, 0.1)), source.load(Wanted(0, 0, SHAPE, 0.9))
    assert (first.text, second.text) == ("dense", "short") and first.content is second.content


def test_a_manifest_without_captions_gives_empty_texts(video: Path) -> None:
    row = {name: value for name, value in _row(video, "a").items() if not name.startswith("caption")}
    assert _source([row]).load(Wanted(0, 0, SHAPE, 0.5)).text == ""


def test_windows_read_together_are_those_read_alone(any_video: Path) -> None:
    row = _row(any_video, "a", start_frame=30, start_s=1.2, end_s=2.4, crop_y=16, crop_h=32)
    small = Shape(24, 16, 3, 2.5, 10.0)
    wanted = [(shape, window_of(30, shape, index, 3)) for shape in (SHAPE, small) for index in range(3)]
    together = read_windows(row, wanted)
    for one, content in zip(wanted, together, strict=True):
        assert content.equal(read_windows(row, [one])[0])


def test_a_source_sent_to_another_process_reads_the_same(video: Path) -> None:
    source = _source([_row(video, name, start_frame=start, start_s=start / 25) for name, start in (("a", 0), ("b", 7))])
    wanted = Wanted(1, 1, SHAPE, 0.3)
    there = ForkingPickler.loads(bytes(ForkingPickler.dumps(source)))
    assert there.load(wanted).content.equal(source.load(wanted).content) and there.load(wanted).clip_id == "b"


def test_the_whole_picture_is_seen_and_one_clip_may_have_several_shapes(video: Path) -> None:
    frame = np.zeros((100, 300, 3), np.uint8)
    frame[:, 100:200] = 255  # the middle square
    small = resize(frame, 48, 16)
    assert small.shape == (16, 48, 3) and small[:, :16].max() == 0 and small[:, 16:32].min() == 255 and small[:, 32:].max() == 0
    source = _source([_row(video, "a")])
    sizes = [tuple(source.load(Wanted(0, 0, shape, 0.0)).content.shape) for shape in (SHAPE, Shape(24, 16, 1, 1.0, 25.0))]
    assert sizes == [(5, 32, 48, 3), (1, 16, 24, 3)]


def test_pixels_go_there_and_back() -> None:
    pixels = torch.arange(2 * 2 * 4 * 3, dtype=torch.uint8).reshape(2, 2, 4, 3)
    assert to_tensor(pixels).shape == (3, 2, 2, 4) and np.array_equal(to_pixels(to_tensor(pixels)), pixels)
