"""Controls measured on frames: where pictures go on the latent grid, edges, camera, tracks, and the entry to them all."""

import pickle
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from tests.training.known_motion import centers, filmed, plain, scene, with_shape
from training.controls.camera import PAN_SCALE, ZOOM_SCALE, Camera, camera_from, camera_map, estimate_camera
from training.controls.edges import edge_frames, edges
from training.controls.extract import CONTROLS, Extractor, control_channels
from training.controls.grid import Grid, as_float, as_levels, fold_frames
from training.controls.tracks import CELLS_SCALE, Tracks, extract_tracks, parse_track, tracks_map
from training.settings import TrainError

GRID = Grid(time_factor=4, space_factor=8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return scene()


@pytest.fixture(scope="module")
def real(corpus: Path) -> Callable[[str, int], np.ndarray]:
    """Some frames of a real clip, uint8 [T, H, W, 3]."""

    def frames(name: str, count: int) -> np.ndarray:
        with av.open(str(corpus / name)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(count), strict=False)])

    return frames


def _errors(camera: Camera, **true: float) -> np.ndarray:
    """How far the mean speeds of a clip are off, [4]."""
    wanted = [true.get(name, 0.0) for name in ("pan", "tilt", "zoom", "roll")]
    return np.abs(np.nanmean(camera.speeds(), axis=1) - wanted)


# ---- the grid ----


@pytest.mark.parametrize(("grid", "frames"), [(Grid(4, 8), 9), (Grid(1, 2), 3), (Grid(2, 4), 1)])
def test_folding_keeps_every_pixel_and_repeats_the_first_frame(grid: Grid, frames: int) -> None:
    pictures = torch.randint(-127, 127, (3, frames, 16, 24), dtype=torch.int8)
    folded = fold_frames(pictures, grid)
    assert folded.shape == (3 * grid.cell, grid.latent_frames(frames), *grid.cells(16, 24)) and folded.dtype == torch.int8
    split = folded.view(3, grid.time_factor, grid.space_factor, grid.space_factor, *folded.shape[1:])
    back = split.permute(0, 4, 1, 5, 2, 6, 3).reshape(3, -1, 16, 24)
    assert torch.equal(back[:, grid.time_factor - 1 :], pictures)
    assert all(torch.equal(back[:, number], pictures[:, 0]) for number in range(grid.time_factor))


def test_frames_are_grouped_as_latents_cover_them() -> None:
    assert GRID.groups(9) == (range(1), range(1, 5), range(5, 9)) and GRID.groups(1) == (range(1),)
    numbers = torch.arange(9, dtype=torch.float32).view(1, 9, 1, 1).expand(1, 9, 8, 8)
    groups = [sorted(set(fold_frames(numbers, GRID)[:, latent].flatten().tolist())) for latent in range(3)]
    assert groups == [[float(number) for number in group] for group in GRID.groups(9)]


def test_a_clip_that_is_not_whole_cells_is_refused() -> None:
    for frames, height, width, message in ((8, 16, 16, "8 frames are not 1"), (5, 12, 16, "16x12 pixels"), (5, 16, 20, "20x16 pixels")):
        with pytest.raises(ValueError, match=message):
            fold_frames(torch.zeros(1, frames, height, width), GRID)


def test_levels_become_the_same_numbers_again() -> None:
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.501, 1.0])
    assert torch.allclose(as_float(as_levels(values)), values.clamp(-1, 1), atol=0.5 / 127) and as_float(values) is values
    assert as_float(as_levels(torch.tensor([-1.0, 0.0, 1.0]))).tolist() == [-1, 0, 1]


# ---- edges ----


@pytest.mark.parametrize("color", [(230, 40, 40), (255, 86, 86), (30, 130, 30)])
def test_edges_are_where_a_shape_ends_and_nowhere_else(color: tuple[int, int, int]) -> None:
    """Of a shape that shines out, of one of the same brightness as its ground, and of one hardly seen."""
    found = edge_frames(with_shape(plain(3, 48, 48), "square", 20, 2.0, color=color))
    for frame, (x, y) in zip(found, centers(3, 48, 48, 2.0), strict=True):
        rows, columns = np.nonzero(frame)
        away = np.maximum(np.abs(columns - x), np.abs(rows - y))
        assert 60 < len(rows) < 110 and (np.abs(away - 10) <= 1.6).all()


def test_dim_and_bright_pictures_have_the_same_edges(real: Callable[[str, int], np.ndarray]) -> None:
    frames = real("decord_flipping_a_pancake.mkv", 3)
    found = edge_frames(frames) > 0
    assert 0.03 < found.mean() < 0.25
    for changed in (frames * 0.25, 100 + frames * 0.6):
        other = edge_frames(changed.round().astype(np.uint8)) > 0
        near = cv2.dilate(found.transpose(1, 2, 0).astype(np.uint8), np.ones((3, 3))).transpose(2, 0, 1) > 0
        assert (other & near).sum() > 0.9 * other.sum() and 0.8 < other.sum() / found.sum() < 1.2


def test_noise_on_plain_ground_is_no_edge() -> None:
    grain = np.random.default_rng(0).integers(-2, 3, (5, 48, 48, 3))
    assert not edge_frames((90 + grain).astype(np.uint8)).any()


def test_the_map_of_edges_is_its_pictures_folded(picture: np.ndarray) -> None:
    pixels = filmed(picture, 48, 32, 5, 8, pan=0.3)
    folded = edges(pixels, GRID)
    assert folded.dtype == torch.int8 and folded.shape == (control_channels("edges", GRID), 2, 4, 6)
    assert as_float(folded).unique().tolist() == [0, 1]
    assert torch.equal(folded, fold_frames(torch.from_numpy(edge_frames(pixels) // 2).to(torch.int8)[None], GRID))


# ---- camera ----


@pytest.mark.parametrize(("width", "height"), [(48, 48), (96, 56), (256, 144)])
@pytest.mark.parametrize("fps", [8, 24])
def test_speeds_are_measured_at_any_size_and_rate(picture: np.ndarray, width: int, height: int, fps: int) -> None:
    for moves in ({"pan": 0.05}, {"pan": -0.5, "tilt": 0.2}, {"zoom": 0.3}, {"roll": -0.3}):
        camera = estimate_camera(filmed(picture, width, height, 5, fps, **moves, noise=2), fps)
        assert camera is not None and not np.isnan(camera.pan).any()
        assert (_errors(camera, **moves) < (0.015, 0.015, 0.04, 0.04)).all(), moves


def test_a_thing_in_front_is_not_the_camera(picture: np.ndarray) -> None:
    for pan in (0.0, 0.25):
        pixels = with_shape(filmed(picture, 96, 56, 9, 8, pan=pan), "square", 26, 3.0)
        camera = estimate_camera(pixels, 8)
        assert camera is not None and (_errors(camera, pan=pan) < 0.01).all()


@pytest.mark.parametrize(("side", "shape"), [(10, "circle"), (16, "triangle"), (22, "square")])
def test_before_plain_ground_the_camera_is_not_guessed(side: int, shape: str) -> None:
    assert estimate_camera(with_shape(plain(5, 48, 48), shape, side, 2.0), 8) is None
    assert estimate_camera(plain(5, 48, 48), 8) is None and estimate_camera(plain(1, 48, 48), 8) is None
    grain = np.random.default_rng(0).integers(-2, 3, (5, 48, 48, 3))
    assert estimate_camera((90 + grain).astype(np.uint8), 8) is None


def test_a_textured_thing_before_plain_ground_is_not_the_camera(picture: np.ndarray) -> None:
    """Nor is what coding left on the ground, which stands still; and where both are textured, the camera is the ground's."""
    still = (90 + np.random.default_rng(0).integers(-2, 3, (1, 96, 96, 3))).repeat(5, axis=0).astype(np.uint8)
    assert estimate_camera(still, 8) is None
    ground = filmed(picture, 96, 96, 5, 8, pan=0.2)
    thing = cv2.resize(picture[200:408, 300:508], (52, 52), interpolation=cv2.INTER_AREA)
    for number in range(5):
        for pixels in (still, ground):
            pixels[number, 20:72, 4 + 6 * number : 56 + 6 * number] = thing
    assert estimate_camera(still, 8) is None
    camera = estimate_camera(ground, 8)
    assert camera is not None and (_errors(camera, pan=0.2) < 0.01).all()


def test_a_pan_over_a_real_picture(real: Callable[[str, int], np.ndarray]) -> None:
    """A window that goes 4 pixels a frame across a frame of the Great Wall; and the clip itself, which is of a slow flight."""
    frames = real("dj_video11.mp4", 1)
    pixels = np.stack([cv2.resize(frames[0, :, 4 * i : 4 * i + 360], (96, 96), interpolation=cv2.INTER_AREA) for i in range(9)])
    camera = estimate_camera(pixels, 8)
    assert camera is not None and (_errors(camera, pan=4 * 8 / 360) < (0.003, 0.003, 0.01, 0.01)).all()
    back = estimate_camera(pixels[::-1], 8)
    assert back is not None and (_errors(back, pan=-4 * 8 / 360) < (0.003, 0.003, 0.01, 0.01)).all()


def test_the_map_of_a_camera_has_the_mean_speeds_into_the_frames_of_each_latent() -> None:
    pan = np.array([0.1, 0.2, 0.3, 0.4, np.nan, 0.6, np.nan, np.nan, *[np.nan] * 4], np.float32)
    zoom = np.where(np.isnan(pan), np.nan, np.float32(-0.2))
    values = camera_map(Camera(pan, 0 * zoom, zoom, 0 * zoom), GRID, 32, 48)
    assert values.shape == (5, 4, 4, 6) and values.dtype == torch.float32
    assert (values == values[:, :, :1, :1]).all()
    expected = [np.zeros(5), *[[np.tanh(mean / PAN_SCALE), 0, np.tanh(-0.2 / ZOOM_SCALE), 0, 1] for mean in (0.25, 0.6)], np.zeros(5)]
    assert np.allclose(values[..., 0, 0].T, expected, atol=1e-6)


def test_a_camera_that_is_asked_for_is_like_one_that_is_measured(picture: np.ndarray) -> None:
    asked = camera_map(camera_from(0.2, -0.1, 0.15, 0.1, 9), GRID, 56, 96)
    measured = estimate_camera(filmed(picture, 96, 56, 9, 8, pan=0.2, tilt=-0.1, zoom=0.15, roll=0.1), 8)
    assert measured is not None and torch.allclose(asked, camera_map(measured, GRID, 56, 96), atol=0.03)
    assert camera_map(camera_from(0.2, 0, 0, 0, 1), GRID, 56, 96).abs().max() == 0


# ---- tracks ----


@pytest.mark.parametrize("shape", ["square", "circle", "triangle"])
@pytest.mark.parametrize("color", [(230, 40, 40), (200, 28, 28)])  # of the latter, green and red are equally bright
def test_a_small_shape_is_followed(shape: str, color: tuple[int, int, int]) -> None:
    pixels = with_shape(plain(13, 48, 48), shape, 10, 1.5, 0.5, color=color)
    tracks = extract_tracks(pixels, 0, 4)
    assert tracks is not None and len(tracks.positions) >= 2 and tracks.visible.mean() > 0.9
    path = centers(13, 48, 48, 1.5, 0.5)
    assert (np.abs(tracks.positions[:, 0] - path[0]) < 6.5).all()  # they lie on it
    off = np.linalg.norm(tracks.positions - tracks.positions[:, :1] - (path - path[0]), axis=2)
    assert off[tracks.visible].mean() < 0.5 and off[tracks.visible].max() < 2


def test_no_point_slides_along_a_straight_side() -> None:
    """Of a large triangle, and points lie where the shape has its corners: to a quarter of a pixel."""
    pixels = with_shape(plain(13, 48, 48), "triangle", 22, 1.2)
    tracks = extract_tracks(pixels, 0, 8)
    off = np.abs(tracks.positions[..., 0] - tracks.positions[:, :1, 0] - 1.2 * np.arange(13))
    assert off[tracks.visible].max() < 2
    square = extract_tracks(with_shape(plain(5, 48, 48), "square", 12, 1.0), 0, 20).positions[:, 0]
    assert np.allclose((square.min(axis=0) + square.max(axis=0)) / 2, centers(5, 48, 48, 1.0)[0], atol=0.25)


def test_things_that_move_are_preferred_to_the_ground(picture: np.ndarray) -> None:
    """Of the points on a panning ground and on a shape, which is some hundredths of the picture, half lie on it or more."""
    pixels = with_shape(filmed(picture, 96, 56, 9, 8, pan=0.15), "square", 16, 3.0)
    x, y = centers(9, 96, 56, 3.0)[0]
    on = []
    for seed in range(4):
        tracks = extract_tracks(pixels, seed, 4)
        assert tracks is not None and (tracks.visible.mean(axis=1) >= 0.25).all()
        on += (np.abs(tracks.positions[:, 0] - (x, y)) < 10).all(axis=1).tolist()
        ways = np.where(np.array(on[-len(tracks.positions) :])[:, None], 3.0, -0.15 * 96 / 8) * np.arange(9)
        off = np.abs(tracks.positions[..., 0] - tracks.positions[:, :1, 0] - ways)
        assert np.median(off[tracks.visible]) < 0.5
    assert 0.5 <= np.mean(on) < 1


def test_points_of_a_real_picture_are_followed_to_parts_of_a_pixel(real: Callable[[str, int], np.ndarray]) -> None:
    frame = real("dj_video11.mp4", 1)[0]
    pixels = np.stack([frame[:, 5 * i : 5 * i + 480] for i in range(9)])
    tracks = extract_tracks(pixels, 3, 16)
    assert tracks is not None and tracks.positions.shape == (16, 9, 2) and tracks.positions.dtype == np.float32
    off = np.linalg.norm(tracks.positions - tracks.positions[:, :1] + np.arange(9)[:, None] * (5, 0), axis=2)
    assert np.quantile(off[tracks.visible], 0.95) < 0.5 and off[tracks.visible].mean() < 0.2


def test_tracks_are_chosen_by_the_seed(picture: np.ndarray) -> None:
    pixels = filmed(picture, 48, 48, 5, 8, pan=0.2)
    first, again, other = (extract_tracks(pixels, seed, 3) for seed in (1, 1, 2))
    assert np.array_equal(first.positions, again.positions) and not np.array_equal(first.positions, other.positions)


def test_where_there_is_nothing_to_follow_there_are_no_tracks() -> None:
    grain = np.random.default_rng(0).integers(-2, 3, (9, 48, 48, 3))
    assert extract_tracks(plain(9, 48, 48), 0, 4) is None and extract_tracks((90 + grain).astype(np.uint8), 0, 4) is None


def test_what_another_thing_carries_off_is_no_track(picture: np.ndarray) -> None:
    """A large shape runs over the points of still ground: none of them goes along with it."""
    pixels = with_shape(filmed(picture, 96, 56, 13, 8), "square", 30, 4.0)
    start = centers(13, 96, 56, 4.0)[0]
    for seed in range(3):
        tracks = extract_tracks(pixels, seed, 8)
        ground = tracks.positions[:, 0, 0] > start[0] + 20  # ahead of it
        moved = np.abs(tracks.positions[..., 0] - tracks.positions[:, :1, 0])
        assert (moved[ground][tracks.visible[ground]] < 2).all()


def test_a_point_on_the_map_is_where_it_is_and_goes_where_it_goes() -> None:
    x = np.array([16.5, 17, 18, 19, 20, 22, 24, 26, 28])  # frames 0, 1 to 4 and 5 to 8
    track = Tracks(np.stack([x, np.full(9, 13.5)], axis=1)[None].astype(np.float32), np.ones((1, 9), bool))
    values = tracks_map(track, GRID, 32, 48).numpy()
    assert values.shape == (3, 3, 4, 6) and np.allclose(values[2].sum(axis=(1, 2)), 1)
    rows, columns = (np.mgrid[:4, :6] + 0.5) * 8 - 0.5
    assert np.allclose(
        [(values[2] * columns).sum(axis=(1, 2)), (values[2] * rows).sum(axis=(1, 2))], [[16.5, 18.5, 25], [13.5] * 3], atol=1e-5
    )
    ways = np.array([0, 3.5 / 8, 8 / 8])
    assert np.allclose(values[0].sum(axis=(1, 2)), ways / (ways + CELLS_SCALE)) and not values[1].any()
    assert np.count_nonzero(values[2]) <= 12


def test_points_outside_or_unseen_are_left_out_and_those_that_meet_are_averaged() -> None:
    def still(*places: tuple[float, float]) -> np.ndarray:
        return np.repeat(np.array(places, np.float32)[:, None], 5, axis=1)

    outside = tracks_map(Tracks(still((-2, 5), (50, 5), (5, -1), (5, 33)), np.ones((4, 5), bool)), GRID, 32, 48)
    assert not outside.any()
    seen = np.ones((1, 5), bool)
    seen[0, 3] = False
    assert tracks_map(Tracks(still((11.5, 11.5)), seen), GRID, 32, 48)[2].sum(dim=(1, 2)).tolist() == [1, 0]
    meeting = still((11.5, 11.5), (11.5, 11.5))
    meeting[0, 1:, 0] += np.linspace(0, 8, 4)
    meeting[1, 1:, 0] -= np.linspace(0, 8, 4)
    values = tracks_map(Tracks(meeting, np.ones((2, 5), bool)), GRID, 32, 48)
    assert values[2].max() == 1 and values[0, 0].abs().max() == 0 and values[0, 1].sum().abs() < 1e-6
    corners = tracks_map(parse_track("0,0;1,1", 5, 48, 32), GRID, 32, 48)
    assert corners[2, 0, 0, 0] == 1


def test_a_track_is_read_as_a_user_writes_it() -> None:
    track = parse_track("0.25,0.5; 0.75,0.5;0.75,1", 9, 48, 32)
    assert np.allclose(track.positions[0, [0, 2, 4, 6, 8]] + 0.5, [(12, 16), (24, 16), (36, 16), (36, 24), (36, 32)])
    assert track.visible.all() and track.positions.shape == (1, 9, 2)
    still = parse_track("0.5,0.5", 5, 48, 32)
    assert (still.positions == still.positions[:, :1]).all()


@pytest.mark.parametrize("text", ["", "0.5", "0.5,0.5;", "0.5,0.5,0.5", "a,b", "0.2,0.2;0.4 0.4"])
def test_a_malformed_track_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is not a track at .*; write it as 'x,y;x,y;...'"):
        parse_track(text, 5, 48, 48)


@pytest.mark.parametrize("text", ["10,20", "1.5,0.5", "0.5,-0.1", "nan,0.5", "0.1,0.1;inf,1"])
def test_a_track_outside_of_the_picture_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="outside of the picture at .*; give shares"):
        parse_track(text, 5, 48, 48)


# ---- all of them ----


def test_the_entry_measures_what_is_asked_for(picture: np.ndarray) -> None:
    pixels = with_shape(filmed(picture, 48, 32, 9, 8, pan=0.2), "square", 10, 2.0)
    extractor = pickle.loads(pickle.dumps(Extractor(("edges", "camera", "tracks"), GRID)))
    maps = extractor(torch.from_numpy(pixels), 8, seed=5)
    assert list(maps) == ["edges", "camera", "tracks"] and extractor.digests == {}
    for name, values in maps.items():
        assert values.shape == (control_channels(name, GRID), 3, 4, 6)
        assert as_float(values).abs().max() <= 1
    again = extractor(pixels, 8, seed=5)
    assert all(torch.equal(values, again[name]) for name, values in maps.items())
    drawn = {Extractor(("tracks",), GRID)(pixels, 8, seed)["tracks"].numpy().tobytes() for seed in range(9)}
    assert len(drawn) == 9  # more than there are counts of tracks: which ones are chosen differs, too


def test_what_could_not_be_measured_is_none() -> None:
    maps = Extractor(("camera", "tracks", "edges"), GRID)(plain(5, 48, 48), 8, 0)
    assert maps["camera"] is None and maps["tracks"] is None and maps["edges"] is not None and not maps["edges"].any()


def test_an_image_is_a_clip_of_one_frame(picture: np.ndarray) -> None:
    maps = Extractor(("camera", "tracks", "edges"), GRID)(filmed(picture, 48, 48, 1, 8), 8, 0)
    assert maps["camera"] is None and maps["edges"].shape == (256, 1, 6, 6)
    assert maps["tracks"][2].sum() > 0.9 and not maps["tracks"][:2].any()


def test_wrong_controls_and_clips_are_told() -> None:
    with pytest.raises(TrainError, match="there is no control 'edge'; did you mean 'edges'?"):
        Extractor(("edge",), GRID)
    with pytest.raises(TrainError, match="controls.depth needs a model; give the folder of one"):
        Extractor(("depth",), GRID)
    with pytest.raises(ValueError, match="8 frames are not"):
        Extractor(("camera",), GRID)(plain(8, 48, 48), 8, 0)
    assert {name: control_channels(name, GRID) for name in CONTROLS} == {
        "edges": 256,
        "camera": 5,
        "tracks": 3,
        "depth": 256,
        "keypoints": 768,
    }
