"""What an autoencoder may be trained on beside pixels: LPIPS with its real weights, and a critic."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests.training.checkpoint_files import assert_equal_tensors, tensors_of
from tests.training.test_training_run import CONFIG, _manifest, _row
from training.autoencoding.critic import Critic, critic_loss
from training.autoencoding.perceptual import Perceptual, _read
from training.checkpoint import list_checkpoints
from training.config import AdversarialConfig, PerceptualConfig, VAEConfig
from training.latents import encoder_digest
from training.pixels import read_windows, to_tensor, window_of
from training.settings import TrainError
from training.shapes import Shape
from training.train import train
from training.vae import VAE, vae_loss

Weights = Callable[[str], Path]
ADVERSARIAL = AdversarialConfig(weight=0.1, widths=(4, 8))


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _frames(corpus: Path, name: str) -> Tensor:
    """[3, 3, 144, 256]: neighboring frames of a real clip."""
    row = _row(corpus / name, None, 0)
    shape = Shape(256, 144, 3, 1.0, row["fps"])
    return to_tensor(read_windows(row, [(shape, window_of(row["num_frames"], shape, 0, 1))])[0]).transpose(0, 1)


# ---- LPIPS ----


@pytest.mark.parametrize("name", ["alexnet.ckpt", "vgg16.ckpt"])
def test_lpips_tells_the_same_near_and_unlike_pictures(weights: Weights, corpus: Path, name: str) -> None:
    metric = Perceptual(weights(name) / name)
    surfer, pancake = (_frames(corpus, video) for video in ("tuneavideo_man-surfing.mp4", "decord_flipping_a_pancake.mkv"))
    with torch.no_grad():
        assert metric(surfer, surfer) == 0
        near, unlike = metric(surfer[:1], surfer[2:]), metric(surfer[:1], pancake[:1])
    assert 0.02 < near < 0.3 and 0.55 < unlike < 0.9
    assert not list(metric.parameters()) and not metric.state_dict()


def test_lpips_is_read_from_the_names_of_the_lpips_package_too(weights: Weights, corpus: Path, tmp_path: Path) -> None:
    folder = weights("alexnet.ckpt")
    arrays, places = _read(folder / "alexnet.ckpt"), (0, 3, 6, 8, 10)
    tensors = {"scaling_layer.shift": torch.zeros(3)}
    for number, (place, (kernel, bias)) in enumerate(zip(places, arrays.convolutions, strict=True)):
        name = f"net.slice{number + 1}.{place}"
        tensors |= {f"{name}.weight": torch.tensor(kernel), f"{name}.bias": torch.tensor(bias)}
        tensors[f"lin{number}.model.1.weight"] = torch.tensor(arrays.features[number]).view(1, -1, 1, 1)
    save_file(tensors, tmp_path / "lpips.safetensors")
    pictures = _frames(corpus, "decord_flipping_a_pancake.mkv")
    assert Perceptual(tmp_path)(pictures[:1], pictures[1:2]).equal(Perceptual(folder)(pictures[:1], pictures[1:2]))


def test_lpips_refuses_what_is_no_weights(tmp_path: Path, weights: Weights) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps({"AlexNet_0": Evil()}))
    with pytest.raises(TrainError, match="vae.perceptual.weights: .*mkdir, which is no array"):
        Perceptual(tmp_path)
    assert not (tmp_path / "made").exists()
    with pytest.raises(TrainError, match="vae.perceptual.weights: .* is not there"):
        Perceptual(tmp_path / "none")
    with pytest.raises(TrainError, match="needs pictures of 31 pixels a side, not 40x24"):
        Perceptual(weights("alexnet.ckpt"))(torch.zeros(1, 3, 24, 40), torch.zeros(1, 3, 24, 40))


def test_the_perceptual_loss_falls_and_its_weights_stay_outside(weights: Weights, corpus: Path) -> None:
    vae = VAE(VAEConfig(latent_channels=4, widths=(8, 12, 16), perceptual=PerceptualConfig(weights=str(weights("alexnet.ckpt")), weight=1)))
    video = _frames(corpus, "decord_flipping_a_pancake.mkv")[:1, :, :64, :64].transpose(0, 1)[None]
    names, optimizer = set(vae.state_dict()), torch.optim.AdamW(vae.parameters(), lr=3e-3)
    seen = []
    for _ in range(25):
        loss = vae_loss(vae, video, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        seen.append(float(loss.further["perceptual"]))
    assert seen[-1] < 0.8 * seen[0]
    assert set(vae.state_dict()) == names and not any("perceptual" in name for name in names)


# ---- the critic ----


def test_each_side_learns_from_its_own_loss_alone() -> None:
    """One backward pass gives the gradients of two."""
    vae, video = VAE(VAEConfig(latent_channels=4, widths=(8, 8, 8), adversarial=ADVERSARIAL)), torch.rand(2, 3, 5, 16, 16)
    plain = VAE(VAEConfig(latent_channels=4, widths=(8, 8, 8)))
    plain.load_state_dict(vae.state_dict())  # the critic's weights are left out
    loss = vae_loss(vae, video, torch.Generator().manual_seed(0))
    loss.total.backward()
    vae_loss(plain, video, torch.Generator().manual_seed(0)).total.backward()

    output = vae.decode(vae.encode(video).sample(torch.Generator().manual_seed(0)))
    score = vae.critic(output)
    hinge = (torch.relu(1 - vae.critic(video)).mean() + torch.relu(1 + vae.critic(output.detach())).mean()) / 2
    for_critic = torch.autograd.grad(hinge, list(vae.critic.parameters()))
    for_decoder = torch.autograd.grad(-score.mean(), list(vae.decoder.parameters()))
    for weight, expected in zip(vae.critic.parameters(), for_critic, strict=True):
        assert torch.allclose(weight.grad, expected, atol=1e-7)
    for weight, alone, expected in zip(vae.decoder.parameters(), plain.decoder.parameters(), for_decoder, strict=True):
        assert torch.allclose(weight.grad, alone.grad + ADVERSARIAL.weight * expected, atol=1e-6)
    assert loss.further.keys() == {"adversarial", "critic"} and torch.isclose(loss.further["critic"], hinge)


def test_the_critic_learns_to_tell_and_takes_images_too() -> None:
    critic, stripes = Critic(ADVERSARIAL), torch.tensor([-1.0, 1.0]).repeat(8).expand(2, 3, 5, 16, 16)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = critic_loss(critic, stripes, torch.zeros_like(stripes))
        optimizer.zero_grad()
        loss.critic.backward()
        optimizer.step()
        losses.append(loss.critic.item())
    assert losses[0] == pytest.approx(1, abs=0.1) and losses[-1] < 0.1
    assert critic(torch.zeros(1, 3, 1, 8, 8)).shape[2:] == (1, 2, 2)


def test_latents_are_the_same_whatever_the_losses_and_tiles_were() -> None:
    config = VAEConfig(latent_channels=4, widths=(8, 8, 8))
    plain = VAE(config)
    changed = {"adversarial": ADVERSARIAL, "perceptual": PerceptualConfig(weights="x"), "tile_pixels": 64, "chunk_frames": 8}
    other = VAE(config.model_copy(update=changed))
    other.load_state_dict(plain.state_dict())  # which lacks the critic: it stays as drawn
    assert encoder_digest(plain) == encoder_digest(other)
    with torch.no_grad():
        other.encoder[-1].conv.bias += 1
    assert encoder_digest(plain) != encoder_digest(other)


@pytest.fixture(scope="module")
def manifest(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    videos = ("decord_flipping_a_pancake.mkv", "videoxfun_pose.mp4")
    return _manifest(corpus, tmp_path_factory.mktemp("given") / "m.parquet", videos)


def _config(path: Path, **vae: object) -> Path:
    data = {"shapes": {"areas": [[48, 48]], "max_frames": 5, "fps": 8}}
    stage = {"name": "vae", "model": "vae", "steps": 4, "max_tokens": 150, "warmup_steps": 1}
    config = {"threads": 1, "data": data, "stages": [stage], "checkpoint_every_steps": 2, "keep_checkpoints": 5}
    path.write_text(yaml.safe_dump({**config, "vae": {**CONFIG["vae"], **vae}}))
    return path


def test_a_run_with_both_resumes_bitwise_and_gives_its_vae_to_runs_without(manifest: Path, weights: Weights, tmp_path: Path) -> None:
    extras = {"adversarial": {"weight": 0.1, "widths": [4, 8]}, "perceptual": {"weights": str(weights("alexnet.ckpt"))}}
    config = _config(tmp_path / "c.yaml", **extras)
    train(config, manifest, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all({"perceptual", "adversarial", "critic", "reconstruction"} <= line.keys() for line in lines)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(list_checkpoints(tmp_path / "again/checkpoints")[-1])
    train(config, manifest, tmp_path / "again", resume=True)
    ends = [list_checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("run", "again")]
    assert_equal_tensors(*ends)
    trained = tensors_of(ends[0])
    assert any(name.startswith("vae.critic.") for name in trained) and not any("perceptual" in name for name in trained)

    train(_config(tmp_path / "plain.yaml", weights=str(tmp_path / "run")), manifest, tmp_path / "plain")
    train(_config(tmp_path / "back.yaml", weights=str(tmp_path / "plain"), **extras), manifest, tmp_path / "back")
    first = list_checkpoints(tmp_path / "plain/checkpoints")[0]
    assert not any("critic" in name for name in tensors_of(first))


def test_missing_weights_are_told_before_a_run_is_begun(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="vae.perceptual.weights: none is not there"):
        train(_config(tmp_path / "c.yaml", perceptual={"weights": "none"}), manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()
