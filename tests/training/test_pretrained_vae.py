"""Published VAEs out of a folder, and tiny decoders for previews: real architectures, with random weights made here."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.training.checkpoint_files import tensors_of
from tests.training.test_training_run import CONFIG, _manifest, _sample
from training.autoencoding.pretrained import make_vae
from training.autoencoding.preview import PreviewDecoder, open_preview
from training.checkpoint import list_checkpoints
from training.config import TrainConfig, VAEConfig, load_config
from training.encoding.cache import Cache
from training.encoding.latents import begin_cache, plan_encoding, run_encoding
from training.forecast.cost import run_cost
from training.latents import encode
from training.pixels import read_windows
from training.plan import plan_run, prepare
from training.runs import load_manifest
from training.settings import TrainError
from training.train import train

FAMILIES = {
    "wan": ("AutoencoderKLWan", {"base_dim": 8, "num_res_blocks": 1}),
    "hunyuan": ("AutoencoderKLHunyuanVideo", {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4}),
}


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _network(family: str) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    kind, sizes = FAMILIES[family]
    return getattr(diffusers, kind)(**sizes).eval()


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    _network("wan").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def manifest(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    videos = ("decord_flipping_a_pancake.mkv", "videoxfun_pose.mp4")
    return _manifest(corpus, tmp_path_factory.mktemp("given") / "m.parquet", videos)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_it_gives_what_diffusers_gives_and_is_no_part_of_checkpoints(family: str, tmp_path: Path) -> None:
    theirs, video = _network(family), 2 * torch.rand(1, 3, 9, 32, 48) - 1
    theirs.save_pretrained(tmp_path)
    config = VAEConfig(pretrained=str(tmp_path))
    assert (config.latent_channels, config.time_factor, config.space_factor) == (16, 4, 8)
    vae = make_vae(config)
    posterior = theirs.encode(video).latent_dist
    assert vae.encode(video).mean.equal(posterior.mean) and vae.encode(video).log_variance.equal(posterior.logvar)
    facts = theirs.config
    if family == "wan":
        mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (facts.latents_mean, facts.latents_std))
        assert torch.allclose(vae.to_latents(video), (posterior.mean - mean) / std)
    else:
        assert torch.allclose(vae.to_latents(video), posterior.mean * facts.scaling_factor)
    latents = vae.to_latents(video)
    assert latents.shape == (1, 16, 3, 4, 6)
    assert torch.allclose(vae.to_video(latents), theirs.decode(posterior.mean).sample.clamp(-1, 1), atol=1e-5)
    assert (
        not vae.state_dict() and not list(vae.parameters()) and vae.num_bytes == sum(4 * weight.numel() for weight in theirs.parameters())
    )


@torch.no_grad()
def test_tiles_are_those_of_diffusers_and_part_of_what_latents_are(wan: Path) -> None:
    whole, tiled = (make_vae(VAEConfig(pretrained=str(wan), tile_pixels=tile)) for tile in (None, 64))
    small, large = (2 * torch.rand(1, 3, 5, side, side) - 1 for side in (64, 96))
    assert tiled.encode(small).mean.equal(whole.encode(small).mean)
    assert tiled.encode(large).mean.shape == whole.encode(large).mean.shape and not tiled.encode(large).mean.equal(whole.encode(large).mean)
    assert tiled.digest == whole.digest and tiled.encoder_digest != whole.encoder_digest


def test_what_cannot_be_used_is_told_in_a_line(wan: Path, tmp_path: Path) -> None:
    stages = [{"name": "dit", "model": "dit", "steps": 1}]
    for vae, problem in (
        ({"pretrained": str(tmp_path)}, "config.json cannot be read"),
        ({"pretrained": str(wan), "weights": "run"}, "pretrained and weights both"),
        ({"pretrained": str(wan), "adversarial": {}}, "stays as it is"),
    ):
        with pytest.raises(ValueError, match=problem):
            TrainConfig(vae=vae, stages=stages)
    with pytest.raises(ValueError, match="leave out the stage that trains the vae"):
        TrainConfig(vae={"pretrained": str(wan)}, stages=[{"name": "vae", "model": "vae", "steps": 1}, *stages])
    with pytest.raises(ValueError, match="sample.preview_decoder is for latents of vae.pretrained"):
        TrainConfig(vae={"weights": "run"}, stages=stages, sample={"preview_decoder": "x.pth"})
    with pytest.raises(TrainError, match="vae.latent_channels: 4, but that of .* is 16"):
        make_vae(VAEConfig(pretrained=str(wan), latent_channels=4))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLMochi"}')
    with pytest.raises(ValueError, match="holds AutoencoderKLMochi; known: AutoencoderKLWan, AutoencoderKLHunyuanVideo"):
        VAEConfig(pretrained=str(tmp_path))
    (tmp_path / "config.json").write_text((wan / "config.json").read_text())
    with pytest.raises(TrainError, match="has no diffusion_pytorch_model.safetensors"):
        make_vae(VAEConfig(pretrained=str(tmp_path)))
    weights = load_file(wan / "diffusion_pytorch_model.safetensors")
    save_file({name: value for name, value in weights.items() if "conv_in" not in name}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(TrainError, match="lacks 4 weights, decoder.conv_in.bias first"):
        make_vae(VAEConfig(pretrained=str(tmp_path))).encode(torch.zeros(1, 3, 1, 16, 16))


def test_a_run_on_its_latents_is_kept_apart_by_its_digest(wan: Path, manifest: Path, tmp_path: Path) -> None:
    decoder = tmp_path / "taehv.pth"
    torch.save(_taehv().state_dict(), decoder)
    config = {name: CONFIG[name] for name in ("threads", "dit")} | {
        "data": {"shapes": {"areas": [[32, 16]], "max_frames": 5, "fps": 8}},
        "vae": {"pretrained": str(wan)},
        "stages": [{"name": "dit", "model": "dit", "steps": 3, "max_tokens": 40}],
        "sample": {"num_steps": 2, "every_steps": 2, "preview_decoder": str(decoder)},
        "checkpoint_every_steps": 2,
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    train(path, manifest, tmp_path / "run")
    facts = json.loads((tmp_path / "run/run.json").read_text())["vae"]
    assert facts == {"folder": str(wan), "digest": make_vae(load_config(path).vae).digest}
    assert (tmp_path / "run/samples/step_00000002.mp4").exists()
    kept = tensors_of(list_checkpoints(tmp_path / "run/checkpoints")[-1])
    assert kept and all(name.startswith("dit.") for name in kept)
    assert run_cost(plan_run({None: load_manifest(manifest)}, load_config(path)), load_config(path)).stages[0].encode_flops > 0

    moved = wan.rename(wan.with_name("moved"))
    path.write_text(yaml.safe_dump({**config, "vae": {"pretrained": str(moved)}}))
    train(path, manifest, tmp_path / "run", resume=True)
    with pytest.raises(TrainError, match="vae.pretrained: .*/config.json cannot be read"):
        _sample(tmp_path / "run", tmp_path / "s.mp4")
    moved.rename(wan)
    _sample(tmp_path / "run", tmp_path / "s.mp4")
    _network("wan").save_pretrained(other := tmp_path / "other")
    path.write_text(yaml.safe_dump({**config, "vae": {"pretrained": str(other)}}))
    with pytest.raises(TrainError, match="was started with another vae.pretrained"):
        train(path, manifest, tmp_path / "run", resume=True)


def test_its_latents_are_cached(wan: Path, manifest: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data={"shapes": {"areas": [[32, 16]], "max_frames": 5, "fps": 8}},
        vae={"pretrained": str(wan)},
        stages=[{"name": "dit", "model": "dit", "steps": 1}],
    )
    vae, prepared = make_vae(config.vae), prepare({None: load_manifest(manifest)}, config)
    folder = begin_cache(tmp_path, vae, "float32")
    plan = plan_encoding(prepared, config, folder, "float32")
    for job in plan.jobs:
        run_encoding(job, read_windows)
    (window, *_), row = plan.jobs[0].clips[0].windows, plan.jobs[0].clips[0].row
    pixels = read_windows(row, [(window.shape, window.window)])[0]
    assert plan.wanted == len(Cache(folder)) == 4 and Cache(folder).read(window.key).equal(encode(vae, pixels))


# ---- previews ----


class _Reference(nn.Module):
    """The published decoder, written the other way: one frame after the other through the layers, with a memory."""

    def __init__(self, layers: nn.Sequential):
        super().__init__()
        self.decoder = layers

    @torch.no_grad()
    def frames(self, latents: Tensor) -> list[Tensor]:
        """Latents [T, C, H, W] to all frames that come, in [0, 1]."""
        memory: dict[int, Tensor] = {}
        out: list[Tensor] = []

        def follow(x: Tensor, place: int) -> None:
            if place == len(self.decoder):
                out.append(x[0].clamp(0, 1))
            elif isinstance(layer := self.decoder[place], _Block):
                made = layer(x, memory.get(place, torch.zeros_like(x)))
                memory[place] = x
                follow(made, place + 1)
            elif isinstance(layer, _Times):
                for part in layer.conv(x).chunk(layer.stride, dim=1):
                    follow(part, place + 1)
            else:
                follow(layer(x), place + 1)

        for latent in latents.split(1):
            follow(latent, 0)
        return out


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        first, *others = (nn.Conv2d(inputs, width, 3, padding=1) for inputs in (2 * width, width, width))
        self.conv = nn.Sequential(first, nn.ReLU(), others[0], nn.ReLU(), others[1])

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.cat([x, before], 1)) + x)


class _Times(nn.Module):
    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride, self.conv = stride, nn.Conv2d(width, width * stride, 1, bias=False)


class _Tanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _taehv() -> _Reference:
    """Layers of the published places, sizes of channels aside."""
    widths, layers = (16, 12, 8, 8), [_Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    for width, following, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
        layers += [_Block(width), _Block(width), _Block(width), nn.Upsample(scale_factor=2), _Times(width, stride)]
        layers += [nn.Conv2d(width, following, 3, padding=1, bias=False)]
    return _Reference(nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)))


def test_a_preview_is_what_the_published_decoder_gives() -> None:
    theirs, latents = _taehv(), torch.randn(1, 16, 3, 4, 6)
    ours = PreviewDecoder(theirs.state_dict(), time_factor=4)
    video = ours.to_video(latents)
    assert video.shape == (1, 3, 9, 32, 48) and video.std() > 0.01
    frames = torch.stack(theirs.frames(latents[0].transpose(0, 1)), dim=1)
    assert frames.shape[1] == 12 and torch.allclose(video[0], 2 * frames[:, 3:] - 1, atol=1e-5)


def test_a_preview_decoder_that_does_not_fit_is_told(wan: Path, tmp_path: Path) -> None:
    def config(file: Path) -> TrainConfig:
        stages = [{"name": "dit", "model": "dit", "steps": 1}]
        return TrainConfig(vae={"pretrained": str(wan)}, stages=stages, sample={"preview_decoder": str(file)})

    state = _taehv().state_dict()
    torch.save(state, tmp_path / "right.pth")
    assert open_preview(config(tmp_path / "right.pth")).latent_channels == 16
    wrong = {**state, "decoder.1.weight": torch.zeros(16, 32, 3, 3)}
    torch.save(wrong, tmp_path / "wide.pth")
    with pytest.raises(TrainError, match="decodes latents of 32 channels"):
        open_preview(config(tmp_path / "wide.pth"))
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(TrainError, match="is not the state dict of a TAEHV"):
        open_preview(config(tmp_path / "other.safetensors"))
    with pytest.raises(TrainError, match="sample.preview_decoder: .* is not there"):
        open_preview(config(tmp_path / "none.pth"))
