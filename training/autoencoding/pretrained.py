"""A video VAE as it was published, out of a folder in the layout of diffusers: Wan 2.1 or HunyuanVideo. It stays as it is.

It stands where the VAE that is trained would, but keeps its weights to itself: no optimizer, average or checkpoint sees them.
"""

from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from training.autoencoding.published import CONFIG, WEIGHTS, published_vae
from training.config import VAEConfig
from training.settings import TrainError
from training.vae import VAE, Posterior

_OVERLAP = 4  # tiles and chunks share a fourth of a side with the next, where diffusers blends them


class PretrainedVAE(nn.Module):
    """A frozen VAE of diffusers. Its network is read when first needed."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig):
        """`config.pretrained` names the folder. Raises TrainError where it cannot be that of a VAE, or not of one with these factors."""
        super().__init__()
        assert config.pretrained is not None
        self.config, self.folder = config, Path(config.pretrained)
        try:
            self._published = published_vae(self.folder)
        except ValueError as error:
            raise TrainError(f"vae.pretrained: {error}") from error
        if not (self.folder / WEIGHTS).is_file():
            raise TrainError(f"vae.pretrained: {self.folder} has no {WEIGHTS}; take all files of the vae as published for diffusers")
        for name in ("time_factor", "space_factor", "latent_channels"):
            if (asked := getattr(config, name)) != (there := getattr(self._published, name)):
                raise TrainError(f"vae.{name}: {asked}, but that of {self.folder} is {there}; leave it out to take that")
        self.register_buffer("latent_mean", torch.tensor(self._published.mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("latent_std", torch.tensor(self._published.std).view(-1, 1, 1, 1), persistent=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over config and weights, wherever they lie."""
        digest = sha256()
        for name in (CONFIG, WEIGHTS):
            with (self.folder / name).open("rb") as stream:
                digest.update(f"{name}\0{file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    @property
    def encoder_digest(self) -> str:
        """SHA-256 over all that makes latents; tiles and chunks are part of it, since diffusers blends them."""
        return sha256(f"{self.digest} {self.config.tile_pixels} {self.config.chunk_frames}".encode()).hexdigest()

    def encode(self, video: Tensor) -> Posterior:
        """Video [B, 3, T, H, W] to the posterior over its latents."""
        found = self._on(video).encode(video).latent_dist
        return Posterior(found.mean, found.logvar)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, T', H', W'] to video [B, 3, T, H, W], not clamped."""
        return self._on(latents).decode(latents).sample

    def to_latents(self, video: Tensor) -> Tensor:
        """Normalized posterior means [B, C, T', H', W']: what the DiT learns."""
        return (self.encode(video).mean - self.latent_mean) / self.latent_std

    def to_video(self, latents: Tensor) -> Tensor:
        """Normalized latents to video [B, 3, T, H, W] in [-1, 1]."""
        return self.decode(latents * self.latent_std + self.latent_mean).clamp(-1, 1)

    def _on(self, x: Tensor) -> Any:
        """The network where `x` is."""
        if next(self._network.parameters()).device != x.device:
            self._network.to(x.device)
        return self._network

    @property
    def num_bytes(self) -> int:
        """Of the network's weights, which are in no state dict."""
        return sum(weight.numel() * weight.element_size() for weight in self._network.parameters())

    @cached_property
    def _network(self) -> Any:  # in the instance's dict, so that it is no submodule
        try:
            import diffusers
        except ImportError as error:
            raise TrainError(f"vae.pretrained needs diffusers ({error}); pip install 'reelmill[vae]'") from error
        kind = getattr(diffusers, self._published.class_name)
        options = {"local_files_only": True, "use_safetensors": True, "torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        try:
            if isinstance(self.latent_mean, FakeTensor):  # a dry run, for which shapes are enough
                network, missing = kind.from_config(kind.load_config(self.folder)), []
            else:
                network, loaded = kind.from_pretrained(self.folder, output_loading_info=True, **options)
                missing = sorted(loaded["missing_keys"])
        except Exception as error:
            raise TrainError(f"vae.pretrained: {self.folder} cannot be loaded ({' '.join(str(error).split())[:300]})") from error
        if missing:  # they would be left random
            raise TrainError(f"vae.pretrained: {self.folder} lacks {len(missing)} weights, {missing[0]} first; take all files as published")
        self._set_tiles(network)
        return network.eval().requires_grad_(False)

    def _set_tiles(self, network: Any) -> None:
        """Those of diffusers, which overlap and are blended, so that they differ a little from the whole."""
        tile, chunk = self.config.tile_pixels, self.config.chunk_frames
        if tile:
            stride = tile - tile // _OVERLAP // self.config.space_factor * self.config.space_factor
            network.enable_tiling(tile, tile, tile_sample_stride_height=stride, tile_sample_stride_width=stride)
        if self._published.class_name == "AutoencoderKLHunyuanVideo":  # Wan always goes frame by frame, with the result of the whole
            network.use_framewise_encoding = network.use_framewise_decoding = chunk is not None
            if chunk:
                stride = chunk - chunk // _OVERLAP // self.config.time_factor * self.config.time_factor
                network.tile_sample_min_num_frames, network.tile_sample_stride_num_frames = chunk, stride


AnyVAE = VAE | PretrainedVAE


def make_vae(config: VAEConfig) -> AnyVAE:
    """The VAE of a configuration: one to be trained, with random weights, or the pretrained one. Raises TrainError."""
    return VAE(config) if config.pretrained is None else PretrainedVAE(config)
