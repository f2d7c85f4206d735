"""Chunks and tiles give what the whole video at once gives, in memory that does not grow with it."""

from collections import deque
from collections.abc import Callable, Iterator

import pytest
import torch

from training.autoencoding.layers import reach
from training.config import TrainConfig, VAEConfig
from training.forecast.cost import _Alive
from training.vae import VAE

SMALL = VAEConfig(latent_channels=4, widths=(8, 12, 16))
NARROW = VAEConfig(latent_channels=4, widths=(4, 4, 4))


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def _vae(config: VAEConfig) -> VAE:
    """With random weights where they begin as zeros, of a size that keeps numbers near one."""
    vae = VAE(config).eval()
    for weight in vae.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.5)
    return vae


@pytest.mark.parametrize("config", [SMALL, NARROW, VAEConfig(latent_channels=4, widths=(6, 6, 6, 6), input_patch=1)])
@pytest.mark.parametrize("tile, chunk", [(None, 4), (None, 8), (24, None), (40, 8)])
def test_tiles_and_chunks_equal_the_whole(config: VAEConfig, tile: int | None, chunk: int | None) -> None:
    vae = _vae(config)
    video = 2 * torch.rand(1, 3, 17, *((16, 208) if chunk else (208, 16))) - 1  # longer than the reach of a tile
    whole = vae.encode(video)
    parts = vae.encode_tiled(video, tile, chunk)
    assert torch.allclose(parts.mean, whole.mean, atol=1e-5, rtol=0)
    assert torch.allclose(parts.log_variance, whole.log_variance, atol=1e-5, rtol=0)
    pictures = vae.decode(whole.mean)
    assert 0.1 < pictures.std() < 3
    assert torch.allclose(vae.decode_tiled(whole.mean, tile, chunk), pictures, atol=1e-5, rtol=0)
    chunks = list(vae.decode_chunks(whole.mean, tile, chunk or 4))
    assert [part.shape[2] for part in chunks] == ([1, 4, 4, 4, 4] if chunk != 8 else [5, 8, 4])
    assert torch.allclose(torch.cat(chunks, dim=2), pictures, atol=1e-5, rtol=0)


def test_a_single_frame_and_the_config_s_own_tiles() -> None:
    plain = _vae(SMALL)
    tiled = VAE(SMALL.model_copy(update={"tile_pixels": 24, "chunk_frames": 4})).eval()
    tiled.load_state_dict(plain.state_dict())
    for frames in (1, 9):
        video = 2 * torch.rand(1, 3, frames, 40, 56) - 1
        latents = plain.to_latents(video)
        assert torch.allclose(tiled.to_latents(video), latents, atol=1e-5)
        assert torch.allclose(tiled.to_video(latents), plain.to_video(latents), atol=1e-5)
    video = torch.zeros(1, 3, 33, 40, 56)
    assert _peak(lambda: tiled.to_latents(video), 0) < _peak(lambda: plain.to_latents(video), 0) / 2


@pytest.mark.parametrize("config", [SMALL, NARROW])
def test_the_reach_is_what_a_change_reaches(config: VAEConfig) -> None:
    """Neither too little, for which tiles would differ, nor more than a cell of the network too much."""
    vae = _vae(config)
    latents = torch.zeros(1, 4, 1, 1, 41)
    changed = latents.clone()
    changed[..., 20] = 10
    cells = ((vae.decoder(changed) - vae.decoder(latents)).abs().sum((0, 1, 2, 3)) > 0).nonzero().flatten()  # two to a latent cell
    touched = [cell for cell in range(82) if reach(vae.decoder, cell, cell)[0] <= 20 <= reach(vae.decoder, cell, cell)[1]]
    assert touched == cells.tolist()


def _peak(run: Callable[[], object], given_back: int) -> int:
    """Bytes alive at most beside the result."""
    with _Alive() as alive:
        run()
    return alive.peak - given_back


def test_memory_does_not_grow_with_the_video() -> None:
    vae = _vae(NARROW)

    def encode(frames: int, width: int) -> int:
        video, cells = torch.zeros(1, 3, frames, 16, width), (1 + (frames - 1) // 4) * 2 * width // 8
        return _peak(lambda: vae.encode_tiled(video, 32, 8), 4 * 8 * cells)

    def decode(frames: int, width: int) -> int:
        latents = torch.zeros(1, 4, 1 + (frames - 1) // 4, 2, width // 8)
        return _peak(lambda: vae.decode_tiled(latents, 32, 8), 4 * 3 * frames * 16 * width)

    def stream(frames: int) -> int:
        latents = torch.zeros(1, 4, 1 + (frames - 1) // 4, 2, 24)
        return _peak(lambda: deque(vae.decode_chunks(latents, 32, 8), maxlen=0), 0)

    for way in (encode, decode):
        small = way(33, 192)
        assert way(129, 192) <= 1.01 * small and way(33, 768) <= 1.01 * small  # four times as long, and as wide
    assert stream(129) <= 1.01 * stream(33)
    assert _peak(lambda: vae.encode(torch.zeros(1, 3, 129, 16, 192)), 0) > 5 * encode(129, 192)


def test_tiles_must_fit_the_factors() -> None:
    with pytest.raises(ValueError, match="no multiple of 8"):
        _vae(SMALL).encode_tiled(torch.zeros(1, 3, 1, 16, 16), 12, None)
    stages = [{"name": "v", "model": "vae", "steps": 1}]
    with pytest.raises(ValueError, match="chunk_frames must be a multiple of 4"):
        TrainConfig(vae={"chunk_frames": 6}, stages=stages)
    with pytest.raises(ValueError, match="tile_pixels must be a multiple of 8"):
        TrainConfig(vae={"tile_pixels": 100}, stages=stages)


def test_decoded_chunks_leave_gradients_as_they_are_between_them() -> None:
    chunks = _vae(NARROW).decode_chunks(torch.zeros(1, 4, 3, 2, 2), None, 4)
    with torch.enable_grad():
        for part in chunks:
            assert torch.is_grad_enabled() and not part.requires_grad
