"""Control maps of clips, made as batches ask for them and kept in memory while there is room."""

from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.controls.extract import Extractor, control_channels
from training.controls.grid import Grid
from training.data import Clip, Memory
from training.pixels import to_tensor

LAST_FRAME = "last_frame"


def grid_of(config: TrainConfig) -> Grid:
    """The grid of latents of a run."""
    return Grid(config.vae.time_factor, config.vae.space_factor)


def told_channels(config: TrainConfig) -> dict[str, int]:
    """How many channels the map has of each control that some stage tells."""
    return {
        name: config.vae.latent_channels + 1 if name == LAST_FRAME else control_channels(name, grid_of(config))
        for name in config.told_controls
    }


def extractors(config: TrainConfig, names: Iterable[str]) -> dict[str, Extractor]:
    """What measures each of some controls, with the models that the config names. Raises TrainError."""
    folders = {name: Path(folder) for name, folder in config.controls.model_dump().items() if folder is not None}
    return {name: Extractor((name,), grid_of(config), folders) for name in names}


class ControlSource:
    """Control maps by name, of clips that hold pixels. The VAE no longer changes; models are loaded when first needed."""

    def __init__(self, config: TrainConfig, vae: nn.Module):
        self._extractors = extractors(config, [name for name in config.told_controls if name != LAST_FRAME])
        self._vae, self._grid, self._memory = vae, grid_of(config), Memory(config.data.memory_mb * 1e6)

    def __call__(self, clip: Clip, name: str) -> Tensor | None:
        """The map [C, T', H', W'] of one clip; None for a control that no stage tells, or of which the clip has nothing to measure."""
        if name != LAST_FRAME and name not in self._extractors:
            return None
        place = (name, clip.row, clip.window, clip.content.shape)
        return self._memory.get(place, lambda: self._make(clip, name), lambda made: 0 if made is None else made.nbytes)

    def _make(self, clip: Clip, name: str) -> Tensor | None:
        if name == LAST_FRAME:
            return last_frame_map(self._vae, to_tensor(clip.content[-1:])[None], self._grid.latent_frames(len(clip.content)))
        seed = crc32(f"{clip.clip_id}/{clip.window}".encode())
        return self._extractors[name](clip.content, clip.fps, seed)[name]


@torch.no_grad()
def last_frame_map(vae: nn.Module, image: Tensor, latent_frames: int) -> Tensor:
    """Where a video is to end: the latents of one image [1, 3, 1, H, W] in the last of so many frames, and a channel that says so.

    It is on the CPU, wherever the VAE is.
    """
    latents = vae.to_latents(image.to(vae.latent_mean.device))[0].cpu()
    made = latents.new_zeros(len(latents) + 1, latent_frames, *latents.shape[2:])
    made[:-1, -1], made[-1, -1] = latents[:, 0], 1.0
    return made
