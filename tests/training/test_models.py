"""The autoencoder and the transformer."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend

from training.attention import Kernels, block_mask, choose_kernels, rotary, rotary_angles
from training.autoencoding.layers import to_width
from training.conditions import Conditions, TextFeatures, draw_told
from training.config import ConditionsConfig, DiTConfig, FlowConfig, VAEConfig
from training.data import Batch, BatchMaker, Clip
from training.dit import DiT, _from_tokens, _to_tokens, token_positions
from training.losses import Noisy, make_noisy, noise_generator, velocity_loss
from training.settings import TrainError
from training.tag_bins import UNKNOWN
from training.text_reader import to_bytes
from training.vae import VAE, vae_loss

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


@torch.no_grad()
def test_autoencoder_begins_as_a_coarse_copy() -> None:
    """Of colors and shades larger than a latent cell, whatever the seed."""
    across, down = torch.linspace(-1, 1, 96), torch.linspace(1, -1, 64)[:, None]
    picture = torch.stack([across.expand(64, 96), down.expand(64, 96), (across * down)])
    video = picture[None, :, None].expand(-1, -1, 9, -1, -1)
    assert vae_loss(VAE(VAEConfig()), video, torch.Generator().manual_seed(0)).psnr_db > 18
    assert vae_loss(VAE(SMALL_VAE), video, torch.Generator().manual_seed(0)).psnr_db > 12  # with so few channels colors mix


def test_autoencoder_overfits_one_batch() -> None:
    ramp = torch.linspace(-1, 1, 16)
    video = torch.stack([ramp.expand(16, 16).roll(i, 1) for i in range(5)])[None, None].expand(2, 3, 5, 16, 16)
    vae, noise = VAE(SMALL_VAE), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-2)
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
        turned = [rotary(rotary_angles(torch.tensor([[p]]), 32, 100.0))(x) for x, p in ((query, at), (key, to))]
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
    assert list(text.lengths) == [1, 4, 5]


def test_every_condition_reaches_the_output_and_padding_does_not() -> None:
    dit = _awake(DiT(SMALL_DIT, 4, num_tags=1))
    x, t = [torch.randn(4, 2, 2, 2)] * 2, torch.tensor([0.5, 0.5])

    def ask(t: Tensor, conditions: Conditions) -> Tensor:
        return torch.stack(dit(x, [level.expand(2) for level in t], conditions))

    plain = ask(t, _conditions(2))
    assert plain.shape == (2, 4, 2, 2, 2)
    for other in (
        _conditions(2, text="a dog"),
        _conditions(2, fps=math.nan),
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
    x, levels = [torch.randn(4, 2, 2, 2)] * 3, [torch.full((2,), 0.5)] * 3

    def ask(*texts: str) -> tuple[Tensor, ...]:
        return dit(x, levels, replace(_conditions(3), texts=texts, features=_features(texts)))

    plain = ask("a cat", "a dog", "")
    assert not any(torch.allclose(plain[i], plain[j], atol=1e-4) for i, j in ((0, 1), (0, 2), (1, 2)))
    beside_longer = ask("a cat", "a dog", "a much longer text")
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(plain[:2], beside_longer[:2], strict=True))
    one_changed = _features(("a cat", "a dog", ""))
    one_changed.each[1][-1] *= -1
    changed = dit(x, levels, replace(_conditions(3), features=one_changed))
    assert [torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(plain, changed, strict=True)] == [True, False, True]
    with pytest.raises(ValueError, match="was given none"):
        dit(x, levels, _conditions(3))


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
    dit([x], [torch.full((3,), 0.5)], conditions)[0][:, 0, 0, 0].sum().backward()
    assert (x.grad.abs().sum(0) > 0).all()


def _pack(frozen: bool = False) -> Noisy:
    """Clips of four shapes, two of them of equally many tokens, each with everything that a dit may be told, of its own."""
    shapes, texts = [(1, 2, 2), (3, 2, 4), (2, 4, 3), (2, 2, 2)], ("", "a cat", "a much longer text", "ü")
    tags = torch.tensor([[1], [UNKNOWN], [10], [5]])
    x = tuple(torch.randn(4, *shape) for shape in shapes)
    maps = (None, *(torch.randn(3, *shape) for shape in shapes[1:3]), None)
    told = Conditions(texts, torch.tensor([1.0, 2, 4, torch.nan]), tags, _features(texts) if frozen else None, {"edges": maps})
    batch = Batch(x, told, torch.tensor([0, 2, 1, 0]), torch.tensor([0.0, 0.2, 0.0, 0.0]))
    return make_noisy(batch, FlowConfig(), 1, noise_generator(0, 0, 0, 0))


def _dit(frozen: bool = False) -> DiT:
    return _awake(DiT(SMALL_DIT, 4, 1, FEATURE_WIDTH if frozen else None, {"edges": 3}))


def _alone(pack: Noisy, i: int) -> Noisy:
    told, one = pack.conditions, slice(i, i + 1)
    features = told.features and TextFeatures(told.features.each[one], told.features.empty)
    controls = {name: maps[one] for name, maps in told.controls.items()}
    conditions = Conditions(told.texts[one], told.latent_fps[one], told.tags[one], features, controls)
    return Noisy(pack.x_t[one], pack.levels[one], conditions, pack.velocities[one], pack.wanted[one])


@pytest.mark.parametrize("frozen", [False, True])
def test_packed_clips_have_the_loss_and_gradients_of_clips_alone(frozen: bool) -> None:
    dit, pack = _dit(frozen), _pack(frozen)
    sizes = [x.numel() for x in pack.x_t]
    loss = velocity_loss(dit, pack).total
    loss.backward()
    packed = {name: weight.grad.clone() for name, weight in dit.named_parameters()}
    dit.zero_grad()
    alone = sum(velocity_loss(dit, _alone(pack, i)).total * size / sum(sizes) for i, size in enumerate(sizes))
    alone.backward()
    assert torch.allclose(loss, alone, atol=1e-6)
    of_clips = torch.cat([velocity_loss(dit, _alone(pack, i)).of_clips for i in range(len(sizes))])
    assert torch.allclose(velocity_loss(dit, pack).of_clips, of_clips, atol=1e-6)
    for name, weight in dit.named_parameters():
        assert torch.allclose(packed[name], weight.grad, atol=1e-6, rtol=1e-4), name
        assert packed[name].any() or "to_query" in name or "to_key" in name, name


@pytest.mark.parametrize("frozen", [False, True])
def test_a_packed_clip_feels_its_own_conditions_and_nothing_of_its_neighbors(frozen: bool) -> None:
    dit, pack = _dit(frozen), _pack(frozen)
    told = pack.conditions
    before = dit(pack.x_t, pack.levels, told)
    texts, maps = ("", "a cat", "a much longer tale", "ü"), told.controls["edges"]
    for changed in (
        dit((*pack.x_t[:2], pack.x_t[2] + 1, pack.x_t[3]), pack.levels, told),
        dit(pack.x_t, (*pack.levels[:2], pack.levels[2] * torch.tensor([1, 0.5]), pack.levels[3]), told),
        dit(pack.x_t, pack.levels, replace(told, texts=texts, features=_features(texts) if frozen else None)),
        dit(pack.x_t, pack.levels, replace(told, latent_fps=told.latent_fps * torch.tensor([1, 1, 2.0, 1]))),
        dit(pack.x_t, pack.levels, replace(told, latent_fps=told.latent_fps.where(torch.tensor([True, True, False, True]), torch.nan))),
        dit(pack.x_t, pack.levels, replace(told, tags=told.tags - torch.tensor([[0], [0], [5], [0]]))),
        dit(pack.x_t, pack.levels, replace(told, controls={"edges": (*maps[:2], maps[2] + 1, maps[3])})),
        dit(pack.x_t, pack.levels, replace(told, controls={"edges": (*maps[:2], None, maps[3])})),
    ):
        same = [torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(before, changed, strict=True)]
        assert same == [True, True, False, True]


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_what_is_recomputed_changes_no_gradient(recompute: str) -> None:
    dit, pack = _dit(), _pack()

    def gradients(dit: DiT) -> list[Tensor]:
        velocity_loss(dit, pack).total.backward()
        return [weight.grad for weight in dit.parameters() if weight.grad is not None]

    again = deepcopy(dit)
    again.use(Kernels(), recompute)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients(dit), gradients(again), strict=True))


def test_kernels_are_those_named_or_an_error() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_kernels("math", "float32", cpu).whole == (SDPBackend.MATH,)
    assert choose_kernels("auto", "bfloat16", cpu) == choose_kernels("flash", "float32", cpu) == Kernels()
    assert choose_kernels("cudnn", "bfloat16", gpu).whole[0] == SDPBackend.CUDNN_ATTENTION
    assert choose_kernels("auto", "float32", gpu).whole[0] == choose_kernels("efficient", "float32", gpu).whole[0]
    assert choose_kernels("flash", "bfloat16", gpu).flex and not choose_kernels("math", "bfloat16", gpu).flex
    with pytest.raises(TrainError, match="system.attention: cudnn is for cuda devices; say auto, flash or math"):
        choose_kernels("cudnn", "bfloat16", cpu)
    with pytest.raises(TrainError, match="flash takes bfloat16 alone; say auto, or system.precision: bfloat16"):
        choose_kernels("flash", "float32", gpu)


@pytest.mark.slow
def test_compiled_blocks_give_what_blocks_give_and_are_compiled_anew_once() -> None:
    """For all blocks together, and for every further shape, number of clips and length of text."""
    eager = DiT(SMALL_DIT, 4, num_tags=1)
    _awake(eager)
    compiled = deepcopy(eager)
    compiled.use(Kernels(), "selective")
    for block in compiled.blocks:
        block.compile()
    counters.clear()
    graphs = []
    for count, shape, text in ((2, (3, 4, 4), "a cat"), (3, (2, 6, 6), "two cats"), (4, (5, 4, 2), "a dog that runs")):
        x, levels = [torch.randn(4, *shape) for _ in range(count)], [torch.rand(shape[0]) for _ in range(count)]
        both = []
        for dit in (eager, compiled):
            dit.zero_grad()
            told = torch.stack(dit(x, levels, _conditions(count, text)))
            told.square().mean().backward()
            both.append((told, *(weight.grad for weight in dit.parameters())))
        assert all(torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4) for ours, theirs in zip(*both, strict=True))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 2, 2]
    assert not counters["graph_break"]


@torch.no_grad()
def test_flex_attention_gives_what_clips_give_one_by_one() -> None:
    dit, pack = _dit(), _pack()
    each = dit(pack.x_t, pack.levels, pack.conditions)
    dit.use(Kernels(flex=True))
    flexed = dit(pack.x_t, pack.levels, pack.conditions)
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(each, flexed, strict=True))


def test_the_block_mask_lets_clips_see_themselves_alone() -> None:
    queries, keys = (100, 300, 28, 84), (7, 250, 130, 3)
    clips = [torch.repeat_interleave(torch.tensor(lengths)) for lengths in (queries, keys)]
    mask = block_mask(queries, keys, "cpu")
    told = torch.zeros(4, 4, dtype=torch.bool)
    for numbers, indices in ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices)):
        for q in range(4):
            told[q, indices[0, 0, q, : numbers[0, 0, q]]] = True
    wanted = torch.zeros(512, 512, dtype=torch.bool)
    wanted[:512, :390] = clips[0][:, None] == clips[1]
    assert torch.equal(told, wanted.unflatten(0, (4, 128)).unflatten(2, (4, 128)).any(3).any(1))


def _clip(row: int, frames: int, text: str, features: Tensor | None = None) -> Clip:
    return Clip(row, text, 0, torch.zeros(frames, 8, 16, 3), 8.0, text, features)


def _latents(clip: Clip) -> Tensor:
    return torch.zeros(4, 1 + (len(clip.content) - 1) // 4, 1, 2)


EVERYTHING = ConditionsConfig(text=1, tags=1, fps=1)


def test_a_batch_is_made_of_clips_of_any_shape() -> None:
    make = BatchMaker(_latents, np.array([[1], [2], [3]], np.int16), 4)
    batch = make([_clip(2, 5, "a"), _clip(0, 1, "b")], EVERYTHING, torch.Generator())
    assert [x.shape for x in batch.x] == [(4, 2, 1, 2), (4, 1, 1, 2)] and batch.conditions.texts == ("a", "b")
    assert batch.conditions.latent_fps.tolist() == [2, 2] and batch.conditions.tags.tolist() == [[3], [1]]
    assert batch.known_frames.tolist() == [0, 0]


def test_features_come_with_their_clips_or_are_made_for_them() -> None:
    given, bins = torch.randn(3, FEATURE_WIDTH), np.array([[1], [2]], np.int16)
    clips = [_clip(0, 5, "a"), _clip(1, 1, "b", given)]
    make = BatchMaker(_latents, bins, 4, lambda text: _features([text]).each[0])
    features = make(clips, EVERYTHING, torch.Generator()).conditions.features
    assert features.each[0].equal(_features("a").each[0]) and features.each[1] is given and features.empty.equal(_features("").empty)
    assert BatchMaker(_latents, bins, 4)(clips, EVERYTHING, torch.Generator()).conditions.features is None


def test_each_condition_is_told_of_its_share_of_clips() -> None:
    shares = {"text": 0.8, "tags": 0.5, "fps": 0.3, "last_frame": 0.5, "camera": 0.7, "edges": 0.1}
    mix = ConditionsConfig(**shares, first_frame=0.2, continuation=0.4, context_noise=0.5)
    told = draw_told(mix, [3] * 4000 + [1] * 4000, 2, torch.Generator().manual_seed(0))
    shares = {"text": told.text, "fps": told.fps, "tags": told.tags, **told.controls}
    found = {name: float(each.float().mean()) for name, each in shares.items()}
    wanted = {
        "text": 0.8,
        "tags": 0.5,
        "fps": 0.3,
        "camera": 0.7,
        "edges": 0.1,
        "last_frame": 0.25,
        "tracks": 0,
        "depth": 0,
        "keypoints": 0,
    }
    assert found == pytest.approx(wanted, abs=0.02)
    videos, images = told.known_frames.split(4000)
    assert (images == 0).all() and not told.controls["last_frame"][4000:].any()
    assert [float((videos == n).float().mean()) for n in range(3)] == pytest.approx([0.4, 0.4, 0.2], abs=0.03)
    assert (told.known_level[told.known_frames == 0] == 0).all() and 0.4 < told.known_level.max() < 0.5


def test_frames_that_are_given_stand_at_their_own_level_and_cost_nothing() -> None:
    x = tuple(torch.randn(4, 3, 2, 2) for _ in range(3))
    batch = Batch(x, _conditions(3), torch.tensor([0, 1, 2]), torch.tensor([0.0, 0.0, 0.25]))
    noisy = make_noisy(batch, FlowConfig(), 1, torch.Generator().manual_seed(1))
    assert noisy.x_t[1][:, 0].equal(x[1][:, 0]) and not noisy.x_t[1][:, 1].equal(x[1][:, 1])
    assert noisy.levels[1][0] == 0 and noisy.levels[2][:2].tolist() == [0.25, 0.25] and len(set(noisy.levels[0].tolist())) == 1
    dit = _awake(DiT(SMALL_DIT, 4, 1))
    loss, told = velocity_loss(dit, noisy), dit(noisy.x_t, noisy.levels, noisy.conditions)
    errors = [(ours - true).square()[:, known:] for ours, true, known in zip(told, noisy.velocities, (0, 1, 2), strict=True)]
    assert torch.allclose(loss.total, sum(error.sum() for error in errors) / sum(each.numel() for each in x))
    assert torch.allclose(loss.of_clips, torch.stack([error.mean() for error in errors]))


def test_transformer_overfits_one_batch() -> None:
    dit = DiT(SMALL_DIT, 4, num_tags=1)
    batch = Batch((torch.randn(4, 2, 3, 3),) * 8, _conditions(8), torch.zeros(8, dtype=torch.int64), torch.zeros(8))
    optimizer = torch.optim.AdamW(dit.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        loss = velocity_loss(dit, make_noisy(batch, FlowConfig(), 1, noise_generator(0, 0, step, 0))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
