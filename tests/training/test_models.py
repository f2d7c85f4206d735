"""The autoencoder, the transformer and flow matching."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from training.conditions import UNKNOWN
from training.config import DiTConfig, FlowConfig, TrainConfig, VAEConfig
from training.data import Batch, Clip, make_batch
from training.dit import Conditions, DiT, TextFeatures, _from_tokens, _to_tokens, rotary_angles, rotate, to_bytes, token_positions
from training.flow import draw_times, euler, guided, point_on_path, shifted
from training.losses import Noisy, make_noisy, noise_generator, velocity_loss
from training.vae import VAE, to_width, vae_loss

SMALL_VAE = VAEConfig(latent_channels=4, widths=(8, 12, 16))
SMALL_DIT = DiTConfig(width=32, depth=2, heads=2, text_width=16, max_text_bytes=16)
FEATURE_WIDTH = 24


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _awake(module: torch.nn.Module) -> torch.nn.Module:
    """With random weights where they begin as zeros, so that every path carries something."""
    for weight in module.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return module.eval()


def _conditions(count: int, text: str = "a cat", fps: float = 2.0, tag: int = 5) -> Conditions:
    return Conditions((text,) * count, torch.full((count,), fps), torch.full((count, 1), tag))


def _features(texts: Sequence[str]) -> TextFeatures:
    """As a frozen encoder might give them: of one token more than the text has letters, and the same each time."""

    def of(text: str) -> Tensor:
        return torch.randn(1 + len(text), FEATURE_WIDTH, generator=torch.Generator().manual_seed(sum(text.encode())))

    return TextFeatures(tuple(map(of, texts)), of(""))


# ---- autoencoder ----


@pytest.mark.parametrize("config", [SMALL_VAE, VAEConfig(widths=(8, 8, 8, 8), input_patch=1), VAEConfig(widths=(10, 7, 9))])
@pytest.mark.parametrize("frames", [1, 5, 9])
def test_shapes_go_there_and_back(config: VAEConfig, frames: int) -> None:
    vae, video = VAE(config), torch.rand(2, 3, frames, 16, 24)
    latents = vae.encode(video).mean
    assert latents.shape == (2, config.latent_channels, 1 + (frames - 1) // 4, 2, 3)
    assert vae.decode(latents).shape == video.shape


def test_a_later_frame_cannot_change_an_earlier_latent_or_picture() -> None:
    vae = _awake(VAE(SMALL_VAE))
    video = torch.rand(1, 3, 13, 16, 16)
    changed = video.clone()
    changed[:, :, 5:] = torch.rand(1, 3, 8, 16, 16)
    before, after = vae.encode(video).mean, vae.encode(changed).mean
    assert torch.equal(before[:, :, :2], after[:, :, :2])  # of frame 0, and of frames 1 to 4
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])
    mixed = torch.cat([before[:, :, :2], after[:, :, 2:]], dim=2)
    assert torch.equal(vae.decode(mixed)[:, :, :5], vae.decode(before)[:, :, :5])


def test_the_first_frame_is_encoded_as_an_image() -> None:
    vae, video = _awake(VAE(SMALL_VAE)), torch.rand(1, 3, 9, 16, 16)
    assert torch.allclose(vae.encode(video).mean[:, :, :1], vae.encode(video[:, :, :1]).mean, atol=1e-6)


def test_width_changes_without_weights() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1, 1)
    assert to_width(x, 3).flatten().tolist() == [0.5, 2.5, 4.5]
    assert to_width(x[:, :2], 4).flatten().tolist() == [0, 0, 1, 1]
    assert to_width(torch.ones(2, 6, 3, 4, 5), 4).shape == (2, 4, 3, 4, 5)
    assert to_width(torch.ones(1, 6, 1, 1, 1), 9).flatten().tolist() == [1] * 9


def test_kl_is_zero_for_a_standard_normal_and_grows_with_the_mean() -> None:
    posterior = VAE(SMALL_VAE).encode(torch.zeros(1, 3, 1, 8, 8))
    standard = type(posterior)(torch.zeros(3), torch.zeros(3))
    assert standard.kl() == 0 and type(posterior)(torch.ones(3), torch.zeros(3)).kl() == 0.5


def test_latents_are_brought_to_unit_variance_and_back() -> None:
    vae, video = _awake(VAE(SMALL_VAE)), torch.rand(8, 3, 5, 16, 16)
    means = vae.encode(video).mean.detach()
    vae.set_statistics(list(means))
    latents = vae.to_latents(video)
    assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3, 4)), torch.ones(4), atol=1e-3)
    assert torch.allclose(vae.to_video(latents), vae.decode(means).clamp(-1, 1), atol=1e-4)


def test_autoencoder_overfits_one_batch() -> None:
    ramp = torch.linspace(-1, 1, 16)
    video = torch.stack([ramp.expand(16, 16).roll(i, 1) for i in range(5)])[None, None].expand(2, 3, 5, 16, 16)
    vae, noise = VAE(SMALL_VAE), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    psnr_db = []
    for _ in range(120):
        loss = vae_loss(vae, video, noise)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        psnr_db.append(float(loss.psnr_db))
    assert loss.clip_reconstructions.shape == (2,) and torch.allclose(loss.clip_reconstructions.mean(), loss.reconstruction)
    assert psnr_db[-1] > psnr_db[0] + 6 and psnr_db[-1] > 17


# ---- transformer ----


def test_rotary_attention_depends_on_distance_alone() -> None:
    query, key = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)

    def score(at: list[float], to: list[float]) -> float:
        turned = [rotate(x, rotary_angles(torch.tensor([[p]]), 32, 100.0)) for x, p in ((query, at), (key, to))]
        return float((turned[0] * turned[1]).sum())

    assert score([1.0, 2, 3], [4.0, 0, 1]) == pytest.approx(score([11.0, 5, 13], [14.0, 3, 11]), abs=1e-4)
    assert score([1.0, 2, 3], [4.0, 0, 1]) != pytest.approx(score([1.0, 2, 3], [5.0, 0, 1]), abs=1e-3)
    for axis in range(3):
        moved = [0.0, 0, 0]
        moved[axis] = 2.0
        assert score([0.0, 0, 0], moved) != pytest.approx(score([0.0, 0, 0], [0.0, 0, 0]), abs=1e-3)


def test_positions_are_seconds_whatever_the_rate() -> None:
    slow, fast = (token_positions((3, 1, 2), torch.tensor(rate)) for rate in (2.0, 4.0))
    assert slow[:, 0].tolist() == [0, 0, 4, 4, 8, 8]  # 0, 0.5 and 1 s, in eighths
    assert fast[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert slow[:2, 2].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("patch", [1, 2])
def test_tokens_go_there_and_back(patch: int) -> None:
    x = torch.randn(4, 3, 4, 6)
    tokens = _to_tokens(x, patch)
    assert tokens.shape == (3 * 4 * 6 // patch**2, 4 * patch**2)
    assert torch.equal(_from_tokens(tokens, (3, 4 // patch, 6 // patch), patch), x)


def test_text_is_cut_marked_and_masked() -> None:
    text = to_bytes(["", "abc", "ü" * 20], 4)
    assert text.ids.shape == (3, 5) and text.ids[:, 0].tolist() == [257] * 3
    assert text.mask.sum(1).tolist() == [1, 4, 5]


def test_every_condition_reaches_the_output_and_padding_does_not() -> None:
    dit = _awake(DiT(SMALL_DIT, 4, num_tags=1))
    x, t = [torch.randn(4, 2, 2, 2)] * 2, torch.tensor([0.5, 0.5])

    def ask(t: Tensor, conditions: Conditions) -> Tensor:
        return torch.stack(dit(x, t, conditions))

    plain = ask(t, _conditions(2))
    assert plain.shape == (2, 4, 2, 2, 2)
    for other in (
        _conditions(2, text="a dog"),
        _conditions(2, fps=4.0),
        _conditions(2, tag=9),
        _conditions(2, tag=UNKNOWN),
    ):
        assert not torch.allclose(ask(t, other), plain, atol=1e-4)
    assert not torch.allclose(ask(t / 2, _conditions(2)), plain, atol=1e-4)
    beside_longer = Conditions(("a cat", "a longer text"), torch.full((2,), 2.0), torch.full((2, 1), 5))
    assert torch.allclose(ask(t, beside_longer)[0], plain[0], atol=1e-5)


def test_features_of_a_frozen_encoder_reach_the_output_and_padding_does_not() -> None:
    dit = _awake(DiT(SMALL_DIT, 4, 1, FEATURE_WIDTH))
    x, t = [torch.randn(4, 2, 2, 2)] * 3, torch.full((3,), 0.5)

    def ask(*texts: str) -> tuple[Tensor, ...]:
        return dit(x, t, replace(_conditions(3), texts=texts, features=_features(texts)))

    plain = ask("a cat", "a dog", "")
    assert not any(torch.allclose(plain[i], plain[j], atol=1e-4) for i, j in ((0, 1), (0, 2), (1, 2)))
    beside_longer = ask("a cat", "a dog", "a much longer text")
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(plain[:2], beside_longer[:2], strict=True))
    one_changed = _features(("a cat", "a dog", ""))
    one_changed.each[1][-1] *= -1
    changed = dit(x, t, replace(_conditions(3), features=one_changed))
    assert [torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(plain, changed, strict=True)] == [True, False, True]
    with pytest.raises(ValueError, match="was given none"):
        dit(x, t, _conditions(3))


def test_a_hidden_text_is_the_empty_one_in_features_as_well() -> None:
    texts = ("a cat", "a dog")
    given = replace(_conditions(2), texts=texts, features=_features(texts))
    told = given.without(torch.tensor([False, True]), torch.tensor([[True], [False]]))
    assert told.texts == ("a cat", "") and told.tags.tolist() == [[UNKNOWN], [5]]
    assert all(ours.equal(theirs) for ours, theirs in zip(told.features.each, _features(("a cat", "")).each, strict=True))
    assert told.features.empty.equal(given.features.empty) and given.features.each[1].shape == (6, FEATURE_WIDTH)


def test_attention_is_full_over_space_and_time() -> None:
    dit = _awake(DiT(SMALL_DIT, 4, num_tags=0))
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    conditions = Conditions(("",), torch.tensor([2.0]), torch.empty(1, 0, dtype=torch.int64))
    dit([x], torch.tensor([0.5]), conditions)[0][:, 0, 0, 0].sum().backward()
    assert (x.grad.abs().sum(0) > 0).all()


def _pack(frozen: bool = False) -> Noisy:
    """Clips of four shapes, two of them of equally many tokens, each with a text, rate, tag and noise level of its own."""
    shapes, texts = [(1, 2, 2), (3, 2, 4), (2, 4, 3), (2, 2, 2)], ("", "a cat", "a much longer text", "ü")
    tags = torch.tensor([[1], [UNKNOWN], [10], [5]])
    told = Conditions(texts, torch.tensor([1.0, 2, 4, 6]), tags, _features(texts) if frozen else None)
    batch = Batch(tuple(torch.randn(4, *shape) for shape in shapes), told)
    config = TrainConfig(stages=[{"name": "v", "model": "vae", "steps": 1}], dit=SMALL_DIT.model_copy(update={"text_dropout": 0.3}))
    return make_noisy(batch, config, noise_generator(0, 0, 0, 0))


def _alone(pack: Noisy, i: int) -> Noisy:
    told = pack.conditions
    features = told.features and TextFeatures(told.features.each[i : i + 1], told.features.empty)
    conditions = Conditions(told.texts[i : i + 1], told.latent_fps[i : i + 1], told.tags[i : i + 1], features)
    return Noisy(pack.x_t[i : i + 1], pack.t[i : i + 1], conditions, pack.velocities[i : i + 1])


@pytest.mark.parametrize("frozen", [False, True])
def test_packed_clips_have_the_loss_and_gradients_of_clips_alone(frozen: bool) -> None:
    dit, pack = _awake(DiT(SMALL_DIT, 4, 1, FEATURE_WIDTH if frozen else None)), _pack(frozen)
    sizes = [x.numel() for x in pack.x_t]
    loss = velocity_loss(dit, pack).total
    loss.backward()
    packed = {name: weight.grad.clone() for name, weight in dit.named_parameters()}
    dit.zero_grad()
    alone = sum(velocity_loss(dit, _alone(pack, i)).total * size / sum(sizes) for i, size in enumerate(sizes))
    alone.backward()
    assert torch.allclose(loss, alone, atol=1e-6)
    of_clips = torch.stack([velocity_loss(dit, _alone(pack, i)).total for i in range(len(sizes))])
    assert torch.allclose(velocity_loss(dit, pack).of_clips, of_clips, atol=1e-6)
    for name, weight in dit.named_parameters():
        assert torch.allclose(packed[name], weight.grad, atol=1e-6, rtol=1e-4), name
        assert packed[name].any() or "to_query.bias" in name or "to_key" in name, name


@pytest.mark.parametrize("frozen", [False, True])
def test_a_packed_clip_feels_its_own_conditions_and_nothing_of_its_neighbors(frozen: bool) -> None:
    dit, pack = _awake(DiT(SMALL_DIT, 4, 1, FEATURE_WIDTH if frozen else None)), _pack(frozen)
    told = pack.conditions
    before = dit(pack.x_t, pack.t, told)
    texts = ("", "a cat", "a much longer tale", "ü")
    for changed in (
        dit((*pack.x_t[:2], pack.x_t[2] + 1, pack.x_t[3]), pack.t, told),
        dit(pack.x_t, pack.t * torch.tensor([1, 1, 0.5, 1]), told),
        dit(pack.x_t, pack.t, replace(told, texts=texts, features=_features(texts) if frozen else None)),
        dit(pack.x_t, pack.t, replace(told, latent_fps=told.latent_fps * torch.tensor([1, 1, 2.0, 1]))),
        dit(pack.x_t, pack.t, replace(told, tags=told.tags - torch.tensor([[0], [0], [5], [0]]))),
    ):
        same = [torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(before, changed, strict=True)]
        assert same == [True, True, False, True]


def test_a_batch_is_made_of_clips_of_any_shape() -> None:
    clips = [Clip(row, name, 0, torch.zeros(frames, 8, 16, 3), 8.0, name) for row, name, frames in ((2, "a", 5), (0, "b", 1))]
    bins = np.array([[1], [2], [3]], np.int16)
    batch = make_batch(clips, lambda clip: torch.zeros(4, len(clip.content), 1, 2), bins, 4)
    assert [x.shape for x in batch.x] == [(4, 5, 1, 2), (4, 1, 1, 2)] and batch.conditions.texts == ("a", "b")
    assert batch.conditions.latent_fps.tolist() == [2, 2] and batch.conditions.tags.tolist() == [[3], [1]]


def test_features_come_with_their_clips_or_are_made_for_them() -> None:
    given = torch.randn(3, FEATURE_WIDTH)
    clips = [Clip(0, "a", 0, torch.zeros(5, 8, 16, 3), 8.0, "a"), Clip(1, "b", 0, torch.zeros(1, 8, 16, 3), 8.0, "b", given)]
    bins = np.array([[1], [2]], np.int16)
    features = make_batch(clips, lambda clip: clip.content, bins, 4, lambda text: _features([text]).each[0]).conditions.features
    assert features.each[0].equal(_features("a").each[0]) and features.each[1] is given and features.empty.equal(_features("").empty)
    assert make_batch(clips, lambda clip: clip.content, bins, 4).conditions.features is None


def test_transformer_overfits_one_batch() -> None:
    stages = [{"name": "v", "model": "vae", "steps": 1}]
    config = TrainConfig(stages=stages, dit=SMALL_DIT.model_copy(update={"text_dropout": 0.0}))
    dit = DiT(SMALL_DIT, 4, num_tags=1)
    batch = Batch((torch.randn(4, 2, 3, 3),) * 8, _conditions(8))
    optimizer = torch.optim.AdamW(dit.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        loss = velocity_loss(dit, make_noisy(batch, config, noise_generator(0, 0, step, 0))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


# ---- flow ----


def test_the_path_leads_from_data_to_noise() -> None:
    data, noise = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    point = point_on_path(data, noise, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(point.x_t[0], data[0]) and torch.equal(point.x_t[2], noise[2])
    assert torch.allclose(point.x_t[1] - 0.5 * point.velocity[1], data[1], atol=1e-6)


@pytest.mark.parametrize(("num_steps", "shift"), [(1, 1.0), (7, 3.0)])
def test_sampler_follows_a_straight_path_exactly(num_steps: int, shift: float) -> None:
    data, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.allclose(euler(lambda x, t: noise - data, noise, num_steps, shift), data, atol=1e-5)


def test_sampler_solves_a_linear_equation() -> None:
    """dx/dt = x, from t = 1 back to 0: x(0) = x(1) / e, with the first-order error of Euler."""

    def error(num_steps: int) -> float:
        return abs(float(euler(lambda x, t: x, torch.ones(1, 1), num_steps)) - 1 / math.e)

    assert error(1000) < 1e-3 and error(100) / error(1000) == pytest.approx(10, rel=0.1)


def test_sampler_tells_the_time_at_the_start_of_each_step() -> None:
    times: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t[0]))
        return torch.zeros_like(x)

    euler(velocity, torch.zeros(1, 1), 4)
    assert times == [1.0, 0.75, 0.5, 0.25]


def test_times_are_logit_normal_and_shift_toward_noise() -> None:
    def draw(**changes: float) -> Tensor:
        return draw_times(4000, FlowConfig(**changes), torch.Generator().manual_seed(0))

    plain = torch.logit(draw())
    assert abs(plain.mean()) < 0.06 and abs(plain.std() - 1) < 0.06
    assert draw(shift=3.0).mean() > draw().mean() + 0.1
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == pytest.approx([0, 0.75, 1])


def test_guidance_is_an_extrapolation() -> None:
    with_text, without = torch.tensor([3.0]), torch.tensor([1.0])
    assert [float(guided(with_text, without, g)) for g in (0.0, 1.0, 2.0)] == [1.0, 3.0, 5.0]
