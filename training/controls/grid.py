"""The latent grid of a clip, on which all control maps lie, and how pictures get there.

A control map [C, T', H', W'] is float32, or int8 in 127ths where it is made of pictures, of which there are many numbers:
`as_float` turns it into floats when a batch is on its device. Values are within [-1, 1] and 0 says that nothing is there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 127  # of int8 that make 1


@dataclass(frozen=True)
class Grid:
    """What a latent position covers: `space_factor` pixels a side, and `time_factor` frames, but one alone at the beginning."""

    time_factor: int
    space_factor: int

    @property
    def cell(self) -> int:
        """How many pixels a latent position covers."""
        return self.time_factor * self.space_factor**2

    def latent_frames(self, frames: int) -> int:
        """T' of T frames. Raises ValueError where the last of them would not be full."""
        if frames < 1 or (frames - 1) % self.time_factor:
            raise ValueError(f"{frames} frames are not 1 + a multiple of {self.time_factor}")
        return 1 + (frames - 1) // self.time_factor

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """H' and W' of a picture. Raises ValueError where it is not whole cells."""
        if height % self.space_factor or width % self.space_factor or not height * width:
            raise ValueError(f"{width}x{height} pixels are not multiples of {self.space_factor}")
        return height // self.space_factor, width // self.space_factor

    def groups(self, frames: int) -> tuple[range, ...]:
        """The numbers of the frames that each latent frame covers: of the first, frame 0 alone."""
        step = self.time_factor
        return range(1), *(range(1 + j * step, 1 + (j + 1) * step) for j in range(self.latent_frames(frames) - 1))


def fold_frames(frames: Tensor, grid: Grid) -> Tensor:
    """Pictures [C, T, H, W] to [C * grid.cell, T', H', W'], channels in the order of picture channel, frame, row, column.

    Nothing is averaged: each pixel is a number of its own, and those of the first frame stand `time_factor` times. Raises ValueError.
    """
    channels, count, height, width = frames.shape
    latent_frames, (rows, columns), side = grid.latent_frames(count), grid.cells(height, width), grid.space_factor
    full = torch.cat([frames[:, :1].expand(-1, grid.time_factor - 1, -1, -1), frames], dim=1)
    split = full.reshape(channels, latent_frames, grid.time_factor, rows, side, columns, side)
    return split.permute(0, 2, 4, 6, 1, 3, 5).reshape(channels * grid.cell, latent_frames, rows, columns)


def as_levels(pictures: Tensor) -> Tensor:
    """Numbers within [-1, 1] to int8 in 127ths, the nearest."""
    return (pictures * LEVELS).round().clamp(-LEVELS, LEVELS).to(torch.int8)


def as_float(control_map: Tensor) -> Tensor:
    """A control map as float32 in [-1, 1], whichever way it is kept."""
    return control_map.float() / LEVELS if control_map.dtype == torch.int8 else control_map
