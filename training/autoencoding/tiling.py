"""One way through an autoencoder in bounded memory: chunks of frames and tiles of the picture, with the result of the whole.

In time a chunk takes up where the convolutions were at the end of the one before it. In space a tile is run with all the
cells around it that it depends on, and those are cut off again: no seams, nothing to blend. Only the rounding of sums differs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from training.autoencoding.layers import Past

Span = tuple[int, int]
"""First, and one after the last."""


@dataclass(frozen=True)
class Way:
    """Encoding or decoding. Tensors are [B, C, T, H, W]; of pixels and frames, or of latents.

    `run` takes one chunk; `needs` tells which latent cells along a side a span of them depends on, the picture's border aside.
    One latent cell is `side_in` cells a side of the input and `side_out` of the output; `time_in` and `time_out` likewise.
    """

    run: Callable[[Tensor, Past], Tensor]
    needs: Callable[[Span], Span]
    side_in: int
    side_out: int
    time_in: int
    time_out: int


@dataclass(frozen=True)
class _Tile:
    """Spans of latent cells: what is `wanted` of rows and columns, and what is `read` for it."""

    wanted: tuple[Span, Span]
    read: tuple[Span, Span]


def run_tiled(way: Way, x: Tensor, cells: int | None, frames: int | None) -> Tensor:
    """The whole output, made in tiles of so many latent cells a side and chunks of so many latent frames; None: of all.

    One tile after the other, each from its first frame to its last: beside input and output there is one chunk of one tile.
    """
    out: Tensor | None = None
    length, *picture = _latent_size(way, x)
    for tile in _tiles(way, picture, cells):
        rows, columns = (_scaled(span, way.side_out) for span in tile.wanted)
        begin = 0
        for part in _chunks(way, x, tile, frames):
            if out is None:
                sides = (side * way.side_out for side in picture)
                out = x.new_empty(x.shape[0], part.shape[1], (length - 1) * way.time_out + 1, *sides)
            out[:, :, begin : begin + part.shape[2], rows, columns] = part
            begin += part.shape[2]
    assert out is not None
    return out


def run_chunks(way: Way, x: Tensor, cells: int | None, frames: int | None) -> Iterator[Tensor]:
    """The same output chunk by chunk in time, for videos too long to be held.

    Of each tile there are the last frames that its convolutions saw, so that memory grows with the picture but not with time.
    """
    length, *picture = _latent_size(way, x)
    tiles = list(_tiles(way, picture, cells))
    streams = [_chunks(way, x, tile, frames) for tile in tiles]
    for _ in range(-(-length // (frames or length))):
        yield _next_of_all(way, tiles, streams, [side * way.side_out for side in picture])


def _next_of_all(way: Way, tiles: list[_Tile], streams: list[Iterator[Tensor]], sides: list[int]) -> Tensor:
    out: Tensor | None = None
    for tile, stream in zip(tiles, streams, strict=True):
        part = next(stream)
        out = part.new_empty(*part.shape[:3], *sides) if out is None else out
        rows, columns = (_scaled(span, way.side_out) for span in tile.wanted)
        out[..., rows, columns] = part
    assert out is not None
    return out


def _chunks(way: Way, x: Tensor, tile: _Tile, frames: int | None) -> Iterator[Tensor]:
    """The output of one tile, chunk by chunk."""
    past, length = Past(), _latent_size(way, x)[0]
    rows, columns = (_scaled(span, way.side_in) for span in tile.read)
    inner = (_scaled((wanted[0] - read[0], wanted[1] - read[0]), way.side_out) for wanted, read in zip(tile.wanted, tile.read, strict=True))
    place = (..., *inner)
    for first in range(0, length, frames or length):
        times = slice(*(max((at - 1) * way.time_in + 1, 0) for at in (first, min(first + (frames or length), length))))
        yield _run(way, x[:, :, times, rows, columns], past)[place]


@torch.no_grad()  # of each chunk, since others run between two
def _run(way: Way, chunk: Tensor, past: Past) -> Tensor:
    made = way.run(chunk, past)
    past.begun = True
    return made


def _tiles(way: Way, picture: list[int], cells: int | None) -> Iterator[_Tile]:
    sides = []
    for size in picture:
        step = cells or size
        wanted = [(first, min(first + step, size)) for first in range(0, size, step)]
        needed = map(way.needs, wanted)
        sides.append([(span, (max(need[0], 0), min(need[1], size))) for span, need in zip(wanted, needed, strict=True)])
    for (row, row_read), (column, column_read) in product(*sides):
        yield _Tile((row, column), (row_read, column_read))


def _latent_size(way: Way, x: Tensor) -> list[int]:
    """T', H', W'."""
    return [1 + (x.shape[2] - 1) // way.time_in, *(side // way.side_in for side in x.shape[3:])]


def _scaled(span: Span, factor: int) -> slice:
    return slice(span[0] * factor, span[1] * factor)
