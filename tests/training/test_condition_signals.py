"""Each condition is followed: a tiny dit trained on latents that its signals decide, and sampled from as `reelmill sample` does.

Every signal decides a channel of its own of latents [8, 3, 4, 4], so that one training tells them all. What is told of a sample
decides its channel, and what is not told leaves that as open as it is in the data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.known_motion import plain
from tests.training.tiny_picture_models import tiny_depth, tiny_keypoints
from training.config import TrainConfig
from training.controls.camera import camera_from, camera_map
from training.controls.extract import Extractor
from training.controls.source import ControlSource, grid_of, last_frame_map, told_channels
from training.controls.tracks import parse_track, tracks_map
from training.data import Batch, BatchMaker, Clip
from training.dit import DiT
from training.generate import Generator, default_settings
from training.losses import make_noisy, noise_generator, velocity_loss
from training.tag_bins import bin_of

TEXT, TAG, RATE, CAMERA, TRACK, EDGES, FIRST, SECOND = range(8)  # channels, and what decides them
CHANNELS, FRAMES, SIDE = 8, 9, 32  # 3 x 4 x 4 latents
SAMPLES = range(1000, 1020)  # numbers of examples that are not trained on
MIX = {name: 0.5 for name in ("text", "tags", "fps", "last_frame", "camera", "tracks", "edges")} | {
    "first_frame": 0.2,
    "continuation": 0.6,
    "context_noise": 0.1,
}
CONFIG = TrainConfig(
    threads=1,
    data={"shapes": {"areas": [[SIDE, SIDE]], "max_frames": FRAMES, "fps": 8}, "condition_tags": ["motion_mean"]},
    vae={"latent_channels": CHANNELS, "weights": "none is needed"},
    dit={"width": 64, "depth": 2, "heads": 4, "text_width": 32, "rope_theta": 100.0},
    conditions=MIX,
    flow={"shift": 5.0},  # what is the same in many tokens is seen through little noise, and then nothing need be told
    stages=[{"name": "dit", "model": "dit", "steps": 1}],
    sample={"num_steps": 12, "guidance": 1.0},
)
GRID = grid_of(CONFIG)


class LatentsAreGiven(nn.Module):
    """In place of a VAE: an image is its latents."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(1))

    def to_latents(self, image: Tensor) -> Tensor:
        return image


@dataclass(frozen=True)
class Example:
    """A clip by its signals, and what they make of it."""

    text: str
    quantile: float
    fps: float
    pan: float
    row: int  # along which a point goes from left to right
    edges: Tensor  # map
    latents: Tensor

    @property
    def maps(self) -> dict[str, Tensor]:
        track = f"0.1,{(self.row + 0.5) / 4};0.9,{(self.row + 0.5) / 4}"
        return {
            "camera": camera_map(camera_from(self.pan, 0, 0, 0, FRAMES), GRID, SIDE, SIDE),
            "tracks": tracks_map(parse_track(track, FRAMES, SIDE, SIDE), GRID, SIDE, SIDE),
            "edges": self.edges,
            "last_frame": last_frame_map(LatentsAreGiven(), self.latents[None, :, -1:], 3),
        }


def example(number: int) -> Example:
    rng = np.random.default_rng(number)
    text, quantile, fps, pan = rng.choice(["up", "down"]), rng.choice([0.05, 0.95]), rng.choice([4.0, 16.0]), rng.choice([-0.6, 0.6])
    row, drawn = int(rng.integers(4)), rng.random((4, 4)) < 0.5
    pixels = plain(FRAMES, SIDE, SIDE)
    pixels[:, np.kron(drawn, np.ones((8, 8), bool)) & (np.indices((SIDE, SIDE)).sum(axis=0) // 2 % 2 == 0)] = 255
    edges = Extractor(("edges",), GRID)(pixels, 8, 0)["edges"]
    x = torch.zeros(CHANNELS, 3, 4, 4)
    x[TEXT] = 1.0 if text == "up" else -1.0
    x[TAG] = 1.0 if quantile > 0.5 else -1.0
    x[RATE] = torch.tensor([-1.0, 0.0, 1.0])[:, None, None] * (8.0 / fps) ** 0.5  # what moves a second moves more a frame
    x[CAMERA] = torch.tensor([0.0, -1.0, 1.0])[:, None, None] * np.sign(pan)
    x[TRACK] = -0.5
    for frame, column in enumerate((0, 1, 3)):
        x[TRACK, frame, row, column] = 2.0
    x[EDGES] = torch.from_numpy(np.where(drawn, 1.0, -1.0)).float()
    before, first, second = torch.from_numpy(rng.choice([-1.0, 1.0], (3, 4, 4))).float()
    x[FIRST] = torch.stack([first, first.roll(1, 1), first.roll(2, 1)])
    x[SECOND] = torch.stack([before, second, second])
    return Example(str(text), float(quantile), float(fps), float(pan), row, edges, x)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A dit that learned from examples, a part of whose signals is told each time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    examples = [example(number) for number in range(400)]
    bins = bin_of(np.array([[one.quantile] for one in examples]), CONFIG.dit.tag_bins).astype(np.int16)
    clips = [Clip(row, str(row), 0, one.latents, one.fps, one.text) for row, one in enumerate(examples)]
    maps = [one.maps for one in examples]
    dit = DiT(CONFIG.dit, CHANNELS, 1, None, told_channels(CONFIG))
    make = BatchMaker(lambda clip: clip.content, bins, GRID.time_factor, None, lambda clip, name: maps[clip.row].get(name))
    _train(dit, CONFIG, lambda rows, noise: make([clips[row] for row in rows], CONFIG.conditions, noise), len(clips), steps=800)
    return Generator(LatentsAreGiven(), dit, CONFIG)


def _train(dit: DiT, config: TrainConfig, batch_of: Callable[[list[int], torch.Generator], Batch], count: int, steps: int) -> None:
    optimizer = torch.optim.AdamW(dit.parameters(), weight_decay=0.0, betas=(0.9, 0.98))
    for step in range(steps):
        noise = noise_generator(0, 0, step, 0)
        batch = batch_of(torch.randint(count, (16,), generator=noise).tolist(), noise)
        loss = velocity_loss(dit, make_noisy(batch, config.flow, config.dit.patch, noise)).total
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 20, 3 * (1 - step / steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _sample(generator: Generator, number: int, one: Example, *told: str, guidance: float = 1.0) -> Tensor:
    """Latents [C, 3, 4, 4] of which so much of an example is told."""
    # A rate is always told of samples; that of 8 stands for none, being between those of the examples.
    settings = replace(
        default_settings(generator.config),
        seed=number,
        guidance=guidance,
        fps=one.fps if "fps" in told else 8.0,
        prompt=one.text if "text" in told else "",
        tags={"motion_mean": one.quantile} if "tags" in told else {},
    )
    known = 1 if "first_frame" in told else 2 if "continuation" in told else 0
    level = settings.context_noise if "continuation" in told else 0.0
    noise = torch.randn(1, CHANNELS, 3, 4, 4, generator=torch.Generator().manual_seed(number))
    maps = {name: each for name, each in one.maps.items() if name in told}
    return generator.latents(settings, noise, one.latents[None, :, :known], level, maps)[0]


def _agreement(found: Tensor, wanted: Tensor) -> float:
    """The cosine of the angle between them."""
    return float(torch.nn.functional.cosine_similarity(found.flatten(), wanted.flatten(), dim=0))


# Of each condition how a sample agrees with the example that it is told of.
FOLLOWED: Mapping[str, Callable[[Tensor, Tensor], float]] = {
    "text": lambda found, wanted: _agreement(found[TEXT], wanted[TEXT]),
    "tags": lambda found, wanted: _agreement(found[TAG], wanted[TAG]),
    "camera": lambda found, wanted: _agreement(found[CAMERA], wanted[CAMERA]),
    "tracks": lambda found, wanted: _agreement(found[TRACK], wanted[TRACK]),
    "edges": lambda found, wanted: _agreement(found[EDGES], wanted[EDGES]),
    "last_frame": lambda found, wanted: _agreement(found[:, -1], wanted[:, -1]),
    "first_frame": lambda found, wanted: _agreement(found[FIRST, 1:], wanted[FIRST, 1:]),
    "continuation": lambda found, wanted: _agreement(found[SECOND, 2], wanted[SECOND, 2]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOWED)
def test_a_sample_follows_what_it_is_told_and_nothing_else(generator: Generator, name: str) -> None:
    follows, apart = [], []
    for number in SAMPLES:
        one = example(number)
        told, untold = _sample(generator, number, one, name), _sample(generator, number, one)
        follows.append(FOLLOWED[name](told, one.latents))
        apart.append(FOLLOWED[name](untold, one.latents))
    closely = 0.4
    assert np.mean(np.array(follows) > closely) >= 0.9, follows
    assert np.mean(np.array(apart) > closely) <= 0.8, apart  # by chance, half of those that are a sign
    assert np.mean(follows) > np.mean(apart) + 0.3


@pytest.mark.slow
def test_a_higher_rate_moves_less_from_frame_to_frame(generator: Generator) -> None:
    def moves(number: int, fps: float) -> float:
        made = _sample(generator, number, replace(example(number), fps=fps), "fps")[RATE]
        return float((made[2] - made[0]).mean()) / 2

    for number in SAMPLES:
        slow, fast = moves(number, 4.0), moves(number, 16.0)
        assert (slow, fast) == pytest.approx((2**0.5, 0.5**0.5), abs=0.35)


@pytest.mark.slow
def test_all_at_once_are_followed_with_and_without_guidance(generator: Generator) -> None:
    told = ("text", "tags", "camera", "tracks", "edges", "last_frame", "first_frame")
    for number in SAMPLES[:6]:
        one = example(number)
        for guidance in (1.0, 2.0):
            made = _sample(generator, number, one, *told, guidance=guidance)
            assert all(FOLLOWED[name](made, one.latents) > 0.4 for name in told)


@pytest.mark.slow
def test_what_is_told_of_no_sample_is_as_in_the_data(generator: Generator) -> None:
    """Told nothing, it still makes one thing or the other and not the mean of both."""
    made = torch.stack([_sample(generator, number, example(number)) for number in SAMPLES])
    for channel in (TEXT, TAG):
        means = made[:, channel].mean((1, 2, 3))
        assert 0.2 < float((means > 0).float().mean()) < 0.8 and float(means.std()) > 0.4
        assert float(made[:, channel].std((1, 2, 3)).max()) < 0.3


@pytest.mark.parametrize("name", ["depth", "keypoints"])
def test_maps_of_models_are_followed(name: str, tmp_path: Path) -> None:
    """From pixels by a model to a map, and by way of a batch to a dit: what is bright is left or right, and so are latents."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = {"depth": tiny_depth, "keypoints": tiny_keypoints}[name](tmp_path / name)
    changes = {"controls": {name: str(folder)}, "conditions": {"text": 0, "tags": 0, "fps": 0, name: 0.6}}
    config = TrainConfig(**CONFIG.model_dump() | {"dit": {"width": 32, "depth": 1, "heads": 2, "text_width": 16}} | changes)
    clips = []
    for side in (0, 1):
        pixels = torch.full((5, SIDE, SIDE, 3), 10, dtype=torch.uint8)
        pixels[:, 8:24, 16 * side : 16 * side + 16] = 250
        clips.append(Clip(side, str(side), 0, pixels, 8.0))
    source = ControlSource(config, LatentsAreGiven())
    sides = [torch.full((CHANNELS, 2, 4, 4), float(2 * clip.row - 1)) for clip in clips]
    maps = [source(clip, name) for clip in clips]
    assert maps[0].shape == (told_channels(config)[name], 2, 4, 4) and not maps[0].equal(maps[1])
    assert source(clips[0], "edges") is None
    make = BatchMaker(lambda clip: sides[clip.row], np.zeros((2, 1), np.int16), GRID.time_factor, None, source)
    dit = DiT(config.dit, CHANNELS, 1, None, told_channels(config))
    _train(dit, config, lambda rows, noise: make([clips[row] for row in rows], config.conditions, noise), len(clips), steps=80)
    generator = Generator(LatentsAreGiven(), dit, config)
    settings, told, untold = default_settings(config), [], []
    for number in range(20):
        noise = torch.randn(1, CHANNELS, 2, 4, 4, generator=torch.Generator().manual_seed(number))
        for found, given in ((told, {name: maps[number % 2]}), (untold, {})):
            made = generator.latents(settings, noise, noise[:, :, :0], 0.0, given)
            found.append(float(made.mean()) * (2 * (number % 2) - 1))
    assert np.mean(np.array(told) > 0.5) >= 0.9, told
    assert np.mean(np.array(untold) > 0.5) <= 0.8, untold
