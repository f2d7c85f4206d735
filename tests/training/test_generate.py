"""Videos longer than those of training, and what they begin and end with, by models whose answers are known beforehand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.video import write_video
from training.conditions import Conditions
from training.config import TrainConfig
from training.generate import Generator, SampleSettings, check_settings, default_settings, write_sample
from training.settings import TrainError
from training.steering import Steering
from training.videos import read_image, read_video

STEP = 8 / 127.5  # by which each latent frame is brighter than the one before: 8 levels of a pixel
WIDTH, HEIGHT, FPS = 32, 16, 8.0
_CONTROLS = ("last_frame", "camera", "tracks", "edges")
CONFIG = TrainConfig(
    threads=1,
    data={"shapes": {"areas": [[WIDTH, HEIGHT]], "max_frames": 9, "fps": FPS}},
    vae={"latent_channels": 3, "weights": "none is needed"},
    dit={"width": 32, "heads": 2, "text_width": 16},
    conditions={"first_frame": 0.2, "continuation": 0.4, "context_noise": 0.2}
    | dict.fromkeys(("last_frame", "camera", "tracks", "edges"), 0.5),
    stages=[{"name": "dit", "model": "dit", "steps": 1}],
    sample={"num_steps": 2, "guidance": 1.0},
)


class MeanColors(nn.Module):
    """In place of a VAE: a latent cell is the mean color of its last frame, and its frames are of that color."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(1))

    def to_latents(self, video: Tensor) -> Tensor:
        return nn.functional.avg_pool3d(video[:, :, ::4], (1, 8, 8))

    def to_video(self, latents: Tensor) -> Tensor:
        frames = torch.cat([latents[:, :, :1], latents[:, :, 1:].repeat_interleave(4, 2)], dim=2)
        return frames.repeat_interleave(8, 3).repeat_interleave(8, 4)


@dataclass
class Stretch:
    """What a dit is asked as a stretch begins."""

    x_t: Tensor
    levels: Tensor
    conditions: Conditions


class Brightens(nn.Module):
    """In place of a dit: each latent frame is brighter than the one before by a step, from what is known on, or from black.

    On the straight way to x the velocity at x_t is (x_t - x) / t.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device_of = nn.Parameter(torch.zeros(1))
        self.stretches: list[Stretch] = []

    def forward(self, x_t: Sequence[Tensor], levels: Sequence[Tensor], conditions: Conditions) -> tuple[Tensor, ...]:
        if levels[0][-1] == 1:
            self.stretches.append(Stretch(x_t[0], levels[0], conditions))
        return tuple(map(self._velocity, x_t, levels))

    def _velocity(self, x_t: Tensor, levels: Tensor) -> Tensor:
        known = int((levels != levels[-1]).sum())
        before = x_t[:, known - 1] if known else torch.full_like(x_t[:, 0], -1 - STEP)
        ahead = torch.arange(1, x_t.shape[1] + 1)[:, None, None] - known
        return (x_t - (before[:, None] + STEP * ahead)) / levels[-1]


def _generator(config: TrainConfig = CONFIG) -> Generator:
    return Generator(MeanColors(), Brightens(), config)


def _settings(config: TrainConfig = CONFIG, **changes: object) -> SampleSettings:
    return replace(default_settings(config), **{"context_noise": 0.0, **changes})


def _levels(frames: Iterator[np.ndarray]) -> list[int]:
    """The brightness of frames that have one color each."""
    levels = []
    for frame in frames:
        assert frame.shape == (HEIGHT, WIDTH, 3) and frame.min() == frame.max()
        levels.append(int(frame.max()))
    return levels


def _expected(frames: int, first: int = 0) -> list[int]:
    return [first + 8 * (-(-frame // 4)) for frame in range(frames)]


def _picture(path: Path, level: int) -> str:
    Image.new("RGB", (WIDTH, HEIGHT), (level,) * 3).save(path)
    return str(path)


@pytest.mark.parametrize("frames", [1, 5, 9, 13, 25, 37])
@pytest.mark.parametrize("context", [1, 5])
def test_stretches_go_on_from_what_the_one_before_ended_with(frames: int, context: int) -> None:
    generator = _generator()
    assert _levels(generator.frames(_settings(num_frames=frames, context_frames=context))) == _expected(frames)
    stretches, new = generator.dit.stretches, 9 - context
    assert len(stretches) == 1 + max(-(-(frames - 9) // new), 0)
    for number, stretch in enumerate(stretches[1:], 1):
        known = 1 + (context - 1) // 4
        begins = _expected(frames)[9 + (number - 1) * new - context :]
        assert (stretch.levels[:known] == 0).all() and (stretch.levels[known:] == 1).all()
        assert ((stretch.x_t[:, :known].mean((0, 2, 3)) + 1) * 127.5).tolist() == pytest.approx(begins[:context:4], abs=1e-3)


def test_frames_are_made_as_they_are_asked_for() -> None:
    """So a long video needs the memory of one stretch."""
    generator = _generator()
    frames = generator.frames(_settings(num_frames=1 + 4 * 10**6))
    assert _levels(islice(frames, 14)) == _expected(14) and len(generator.dit.stretches) == 3


def test_a_context_is_told_with_noise_and_shown_without(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mkv", [np.full((HEIGHT, WIDTH, 3), 100, np.uint8)] * 12, codec="ffv1", pix_fmt="bgr0", fps=8)
    generator = _generator()
    frames = list(generator.frames(_settings(num_frames=13, context_noise=0.2, continues=str(video))))
    assert [int(frame.min()) for frame in frames[:5]] == [int(frame.max()) for frame in frames[:5]] == [100] * 5
    for stretch in generator.dit.stretches:
        assert stretch.levels.tolist() == pytest.approx([0.2, 0.2, 1.0]) and stretch.x_t[:, :2].std() > 0.05


def test_the_noise_of_a_context_is_at_most_that_of_training() -> None:
    assert default_settings(CONFIG).context_noise == 0.1
    little = CONFIG.model_copy(update={"conditions": CONFIG.conditions.model_copy(update={"context_noise": 0.05})})
    assert default_settings(little).context_noise == 0.05
    images = CONFIG.model_copy(update={"conditions": CONFIG.conditions.model_copy(update={"continuation": 0.0})})
    assert default_settings(images).context_noise == 0.0


def test_same_seed_same_noise_and_each_stretch_has_its_own() -> None:
    def noise(seed: int) -> list[Tensor]:
        generator = _generator()
        list(generator.frames(_settings(num_frames=17, seed=seed)))
        return [stretch.x_t[:, 2] for stretch in generator.dit.stretches]

    first, again, other = noise(1), noise(1), noise(2)
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))
    assert not any(torch.equal(one, two) for one, two in zip(first, first[1:], strict=False))


def test_an_image_is_the_first_frame_and_another_the_last_of_the_last_stretch(tmp_path: Path) -> None:
    first, last = _picture(tmp_path / "first.png", 40), _picture(tmp_path / "last.png", 250)
    generator = _generator()
    assert _levels(generator.frames(_settings(num_frames=17, image=first, last_image=last))) == _expected(17, 40)
    *before, end = generator.dit.stretches
    assert before[0].levels.tolist() == [0, 1, 1]
    assert len(before) == 2 and all("last_frame" not in stretch.conditions.controls for stretch in before)
    told = end.conditions.controls["last_frame"][0]
    assert told.shape == (4, 3, 2, 4) and (told[:, :2] == 0).all() and (told[3, 2] == 1).all()
    assert torch.allclose(told[:3, 2], torch.tensor(250 / 127.5 - 1))


def test_a_video_is_gone_on_from_where_it_ends(tmp_path: Path) -> None:
    pictures = [np.full((HEIGHT, WIDTH, 3), min(10 * number, 110), np.uint8) for number in range(16)]
    video = write_video(tmp_path / "v.mkv", pictures, codec="ffv1", pix_fmt="bgr0", fps=8)
    generator = _generator()
    made = _levels(generator.frames(_settings(num_frames=17, continues=str(video))))
    assert made == _expected(17, 110)[:1] * 5 + [110 + 8 * (1 + number // 4) for number in range(12)]


def test_each_stretch_is_steered_by_its_part(tmp_path: Path) -> None:
    """A point goes to the right throughout; edges are in the second half of a video; the camera is the same all the time."""
    pictures = [np.zeros((HEIGHT, WIDTH, 3), np.uint8) for _ in range(17)]
    for picture in pictures[9:]:
        picture[4:12, 8:24] = 255
    video = write_video(tmp_path / "v.mkv", pictures, codec="ffv1", pix_fmt="bgr0", fps=8)
    steering = Steering({"pan": 0.5}, ("0.1,0.5;0.9,0.5",), {"edges": str(video)})
    generator = _generator()
    list(generator.frames(_settings(num_frames=17, steering=steering)))
    columns, edges = [], []
    for stretch in generator.dit.stretches:
        maps = {name: each[0] for name, each in stretch.conditions.controls.items()}
        assert maps.keys() == {"camera", "tracks", "edges"}
        assert maps["camera"][:, 1:].unique().tolist() == pytest.approx([0.0, np.tanh(1), 1.0]) and (maps["camera"][:, 0] == 0).all()
        presence = maps["tracks"][2].sum(1)
        columns.append(((presence * torch.arange(4)).sum(1) / presence.sum(1)).tolist())
        edges.append([bool(each.any()) for each in maps["edges"].unbind(1)])
    assert edges == [[False, False, False], [False, False, True], [False, True, True]]
    for before, after in zip(columns, columns[1:], strict=False):
        assert before == sorted(before) and after[1:2] == pytest.approx(before[2:], abs=1e-5)  # the last of a stretch is in the next


def test_a_control_that_cannot_be_measured_is_an_error(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mkv", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 9, codec="ffv1", pix_fmt="bgr0", fps=8)
    with pytest.raises(TrainError, match="no camera can be found in the frames that are given for it"):
        list(_generator().frames(_settings(steering=Steering(videos={"camera": str(video)}))))


_SHAPES = CONFIG.data.shapes.model_copy(update={"max_frames": 1})
SINGLE = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"shapes": _SHAPES})})
UNTOLD = CONFIG.model_copy(update={"conditions": CONFIG.conditions.model_copy(update={"text": 0.0, "continuation": 0.0})})


@pytest.mark.parametrize(
    ("config", "changes", "wrong"),
    [
        (CONFIG, {"num_frames": 10}, "frames must be 1 \\+ a multiple of 4, not 10"),
        (CONFIG, {"context_frames": 9}, "context frames must be fewer than the 9 of a stretch, not 9"),
        (CONFIG, {"context_frames": 3}, "context frames must be 1 \\+ a multiple of 4, not 3"),
        (CONFIG, {"image": "a", "continues": "b"}, "begins with an image or continues a video, not both"),
        (CONFIG, {"num_frames": 1, "image": "PICTURE"}, "nothing is left to make of 1 frames beside those that are given"),
        (CONFIG, {"num_frames": 1, "last_image": "PICTURE"}, "nothing is left to make of 1 frames"),
        (CONFIG, {"num_frames": 5, "continues": "PICTURE"}, "nothing is left to make of 5 frames"),
        (CONFIG, {"image": "gone.png"}, "there is no file gone.png, which is given as image"),
        (CONFIG, {"num_steps": 0}, "a sample takes 1 step or more"),
        (CONFIG, {"seed": -1}, "a seed from 0 to"),
        (CONFIG, {"fps": float("nan")}, "from 0.01 to 1000 frames a second, not nan"),
        (CONFIG, {"guidance": float("inf")}, "guidance is a number from 0 on, not inf"),
        (CONFIG, {"steering": Steering(camera={"pan": float("nan")})}, "the speed of the camera's pan is a number, not nan"),
        (CONFIG, {"steering": Steering(camera={"pam": 1.0})}, "a camera does not 'pam'; did you mean 'pan'"),
        (CONFIG, {"steering": Steering(tracks=("0.2,0.5;1.2,0.5",))}, "goes outside of the picture at '1.2,0.5'"),
        (CONFIG, {"steering": Steering(videos={"depth": "x"})}, "not trained with depth \\(conditions.depth\\)"),
        (CONFIG, {"steering": Steering(videos={"last_frame": "x"})}, "give it as last_image"),
        (CONFIG, {"steering": Steering({"pan": 1.0}, (), {"camera": "v.mp4"})}, "camera is given twice: by numbers and by v.mp4"),
        (SINGLE, {"num_frames": 5}, "trained on up to 1 frames"),
        (UNTOLD, {"num_frames": 13}, "not to continue its own"),
        (UNTOLD, {"continues": "PICTURE"}, "not trained to continue a video"),
        (UNTOLD, {"prompt": "a dog"}, "not trained with texts \\(conditions.text\\)"),
    ],
)
def test_samples_that_cannot_be_made(config: TrainConfig, changes: dict, wrong: str, tmp_path: Path) -> None:
    picture = _picture(tmp_path / "p.png", 9)
    given = {name: picture if value == "PICTURE" else value for name, value in changes.items()}
    with pytest.raises(TrainError, match=wrong):
        check_settings(config, _settings(config, **given))


def test_from_single_frames_a_run_that_knows_no_continuation_goes_on() -> None:
    assert _levels(_generator(UNTOLD).frames(_settings(UNTOLD, num_frames=17, context_frames=1))) == _expected(17)


def test_a_video_is_not_written_where_its_settings_go(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="is where the settings of a sample go; name the video otherwise"):
        write_sample(tmp_path / "x.json", _generator(), _settings())


# ---- what is given ----


def test_frames_are_those_shown_at_the_times_of_a_rate(tmp_path: Path) -> None:
    """Also of a video of which one frame is shown for long."""
    times_ms = [0, 100, 200, 3000, 3100, 3200]
    pictures = [np.full((16, 32, 3), 40 * number, np.uint8) for number in range(6)]
    video = write_video(tmp_path / "v.mkv", pictures, codec="ffv1", pix_fmt="bgr0", times_ms=times_ms)

    def shown(frames: int, fps: float, last: bool = False) -> list[int]:
        return read_video(video, 32, 16, fps, frames, last)[:, 0, 0, 0].tolist()

    assert shown(5, 20) == [0, 0, 40, 40, 80]
    assert shown(5, 4) == [0, 80, 80, 80, 80]
    assert shown(4, 10, last=True) == [80, 120, 160, 200]
    assert shown(5, 4, last=True) == [80, 80, 80, 80, 200]
    for last in (False, True):
        with pytest.raises(TrainError, match="v.mkv is too short: 9 frames at 2 a second are 4 s"):
            shown(9, 2, last)


def test_pictures_are_cropped_to_the_aspect_ratio(tmp_path: Path) -> None:
    picture = np.zeros((30, 90, 3), np.uint8)
    picture[:, 30:60] = 200
    Image.fromarray(picture).save(tmp_path / "p.png")
    assert (read_image(tmp_path / "p.png", 16, 16) == 200).all()
    assert read_image(tmp_path / "p.png", 48, 16)[0, 0, :, 0].tolist() == [0] * 16 + [200] * 16 + [0] * 16


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n broken", b""])
def test_what_is_no_picture_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(TrainError, match="p.png cannot be read: "):
        read_image(tmp_path / "p.png", 16, 16)


def test_a_picture_that_ends_early_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "p.png").write_bytes((tmp_path / "p.png").read_bytes()[:2000])
    with pytest.raises(TrainError, match="p.png cannot be read: "):
        read_image(tmp_path / "p.png", 16, 16)
