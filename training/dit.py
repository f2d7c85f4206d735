"""The diffusion transformer: noisy latents, their noise levels and what is told of them in; the latents' velocity out.

Full attention over all space-time tokens, after DiT (Peebles & Xie 2023): adaLN-zero modulation, of which blocks share the large
map and have a small table of their own (adaLN-single: Chen et al. 2023, PixArt-alpha), rotary positions in three dimensions with time
in seconds, query-key norm (Dehghani et al. 2023), and cross-attention to text. Each latent frame has a noise level of its own, so that
frames which are given stand clean among noisy ones; controls are maps added to the tokens. Clips of different shapes stand end to end
in one row (NaViT: Dehghani et al. 2023), each with its own levels and conditions, and attend to nothing but themselves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import Attention, Kernels, Rotary, Segments, mlp, numbered, rotary, rotary_angles, segments
from training.conditions import Conditions
from training.config import DiTConfig
from training.controls.grid import as_float
from training.recompute import Recompute, recomputed
from training.text_reader import FeatureMap, TextEncoder

_TIME_UNIT_S = 1 / 8  # one step of the rotary time axis
_NOMINAL_FPS = 2.0  # latent frames a second of a clip of which the rate is not told


@dataclass(frozen=True)
class Layout:
    """How clips stand in the rows of tokens. No sizes are in it: a compiled block is compiled anew for numbers that change.

    Either each clip is a row, all being of one shape, and `frame_of` is None; or they stand end to end, and it is the number
    of the frame of each token, counted over all clips, int64 [L].
    """

    frame_of: Tensor | None

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """x [B, L, width] times 1 + scale, plus shift, each [B, frames, width]."""
        return self._flat(self._by_frame(x, scale) * (1 + self._spread(scale)) + self._spread(shift))

    def gated(self, x: Tensor, gate: Tensor) -> Tensor:
        """x [B, L, width] times gate [B, frames, width]."""
        return self._flat(self._by_frame(x, gate) * self._spread(gate))

    def _by_frame(self, x: Tensor, values: Tensor) -> Tensor:
        return x.unflatten(1, (values.shape[1], -1)) if self.frame_of is None else x

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2) if self.frame_of is None else x

    def _spread(self, values: Tensor) -> Tensor:
        return values.unsqueeze(2) if self.frame_of is None else values.index_select(1, self.frame_of)


def token_positions(shape: tuple[int, int, int], latent_fps: Tensor) -> Tensor:
    """Positions [T H W, 3] of a (T, H, W) grid: time in 1/8 s, for a scalar rate; row and column in tokens from the middle."""
    frames, rows, columns = (torch.arange(size, dtype=torch.float32, device=latent_fps.device) for size in shape)
    times = frames / (latent_fps.nan_to_num(_NOMINAL_FPS) * _TIME_UNIT_S)
    return torch.cartesian_prod(times, rows - rows.mean(), columns - columns.mean()).view(-1, 3)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Numbers in [0, 1], [...], as waves [..., width] (Vaswani et al. 2017)."""
    half = width // 2
    angles = 1000 * t[..., None] * torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Waves(nn.Module):
    """A number in [0, 1] as a vector: [...] to [..., width]."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        first = self.layers[0].weight
        return self.layers(sinusoids(t, first.shape[1]).to(first.dtype))


class Block(nn.Module):
    """Self-attention over space-time, cross-attention to text, MLP; it begins as the identity, its gates being zero."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width = config.width
        self.recompute: Recompute = "none"
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(width, config.heads)
        self.text_norm = nn.LayerNorm(width)
        self.text_attention = Attention(width, config.heads, config.text_width)
        self.mlp = mlp(width, config.mlp_width)
        self.modulation = nn.Parameter(torch.zeros(6, width))
        nn.init.zeros_(self.text_attention.out.weight)
        nn.init.zeros_(self.text_attention.out.bias)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        turn: Rotary,
        text: Tensor,
        text_mask: Tensor | None,
        layout: Layout,
        packed: Segments | None,
        packed_text: Segments | None,
    ) -> Tensor:
        """x [B, L, width], modulation [B, frames, 6, width], text [B, M, text_width] with its mask [B, M] -> like x."""
        return recomputed(self._mix, (x, modulation, turn, text, text_mask, layout, packed, packed_text), self.recompute)

    def _mix(
        self,
        x: Tensor,
        modulation: Tensor,
        turn: Rotary,
        text: Tensor,
        text_mask: Tensor | None,
        layout: Layout,
        packed: Segments | None,
        packed_text: Segments | None,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.modulation).unbind(dim=2)
        attended = self.attention(layout.modulate(self.norms[0](x), shift1, scale1), turn=turn, packed=packed)
        kept = x.dtype  # of what flows from block to block, whatever gates are in
        x = (x + layout.gated(attended, gate1)).to(kept)
        x = x + self.text_attention(self.text_norm(x), text, mask=text_mask, packed=packed_text)
        return (x + layout.gated(self.mlp(layout.modulate(self.norms[1](x), shift2, scale2)), gate2)).to(kept)


class DiT(nn.Module):
    """The whole transformer.

    `num_tags` is how many tag conditions it takes, `controls` the channels of each control map, and `feature_width` that
    of a frozen text encoder, if any.
    """

    def __init__(
        self,
        config: DiTConfig,
        latent_channels: int,
        num_tags: int = 0,
        feature_width: int | None = None,
        controls: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self.config, self.kernels = config, Kernels()
        width, token = config.width, latent_channels * config.patch**2
        self.embed = nn.Linear(token, width)
        self.level, self.rate = Waves(width), Waves(width)
        self.tags = nn.ModuleList(nn.Embedding(1 + config.tag_bins, width) for _ in range(num_tags))
        for bins in self.tags:
            nn.init.normal_(bins.weight, std=0.02)
        self.controls = nn.ModuleDict({name: nn.Linear(size * config.patch**2, width) for name, size in (controls or {}).items()})
        self.text = TextEncoder(config) if feature_width is None else FeatureMap(feature_width, config.text_width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, token)
        for layer in (self.modulation, self.last_modulation, self.out, *self.controls.values()):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def use(self, kernels: Kernels, recompute: Recompute = "none") -> None:
        """Choose how it computes: by which kernels of attention, and what of a block is computed again in the backward pass."""
        self.kernels = kernels
        for module in self.modules():
            if isinstance(module, Attention):
                module.kernels = kernels
            elif isinstance(module, Block):
                module.recompute = recompute

    def forward(self, x_t: Sequence[Tensor], levels: Sequence[Tensor], conditions: Conditions) -> tuple[Tensor, ...]:
        """Noisy latents to their velocities, alike: S of [C, T, H, W] that may differ in shape, with noise `levels` [T] of each frame."""
        patch, width, device, dtype = self.config.patch, self.config.width, self.embed.weight.device, self.embed.weight.dtype
        shapes = [(x.shape[1], x.shape[2] // patch, x.shape[3] // patch) for x in x_t]
        frames, cells = tuple(shape[0] for shape in shapes), tuple(shape[1] * shape[2] for shape in shapes)
        lengths = [frame * cell for frame, cell in zip(frames, cells, strict=True)]
        alike = len(set(zip(frames, cells, strict=True))) == 1
        join: Callable[[list[Tensor]], Tensor] = torch.stack if alike else lambda parts: torch.cat(parts)[None]
        layout = Layout(None if alike else _frame_of(frames, cells).to(device, non_blocking=True))
        places = [token_positions(shape, fps) for shape, fps in zip(shapes, conditions.latent_fps, strict=True)]
        turn = rotary(rotary_angles(join(places), width // self.config.heads, self.config.rope_theta))
        of_levels = self.level(torch.cat(tuple(levels))).split(frames)
        condition = join([level + of_clip for level, of_clip in zip(of_levels, self._of_clips(conditions), strict=True)])
        modulation = self.modulation(F.silu(condition)).unflatten(-1, (6, width))
        text = self.text(conditions)
        if alike:
            words, mask, packed, packed_text = text.features, text.mask, None, None
        else:
            words, mask = text.end_to_end(), None
            packed = segments(lengths, lengths, self.kernels, device)
            packed_text = segments(lengths, text.lengths, self.kernels, device)
        x = self.embed(join([_to_tokens(x, patch) for x in x_t]).to(dtype)) + self._controls(conditions, shapes, join)
        for block in self.blocks:
            x = block(x, modulation, turn, words, mask, layout, packed, packed_text)
        shift, scale = self.last_modulation(F.silu(condition)).chunk(2, dim=-1)
        out = self.out(layout.modulate(self.norm(x), shift, scale)).float()
        clips = out.unbind() if alike else out[0].split(lengths)
        return tuple(_from_tokens(clip, shape, patch) for clip, shape in zip(clips, shapes, strict=True))

    def _of_clips(self, conditions: Conditions) -> Tensor:
        """What holds for whole clips, their rate and tags, as one vector each, [B, width]."""
        fps = conditions.latent_fps
        octaves = (fps.nan_to_num(_NOMINAL_FPS).clamp(2**-3, 2**5).log2() + 3) / 8
        total = self.rate(octaves) * fps.isfinite()[:, None]
        for embedding, bins in zip(self.tags, conditions.tags.unbind(dim=1), strict=True):
            total = total + embedding(bins)
        return total

    def _controls(
        self, conditions: Conditions, shapes: Sequence[tuple[int, int, int]], join: Callable[[list[Tensor]], Tensor]
    ) -> Tensor | float:
        """What control maps add to the tokens. One that no clip has still touches its weights, so that all ranks have their gradients."""
        total: Tensor | float = 0.0
        for name, layer in self.controls.items():
            maps = conditions.controls.get(name, (None,) * len(shapes))
            if all(one is None for one in maps):
                total = total + 0.0 * (layer.weight.sum() + layer.bias.sum())
                continue
            told = [0 if one is None else 1 for one in maps]
            tokens = [
                layer.weight.new_zeros(math.prod(shape), layer.in_features) if one is None else _to_tokens(as_float(one), self.config.patch)
                for one, shape in zip(maps, shapes, strict=True)
            ]
            there = join([layer.weight.new_full((len(part), 1), float(is_told)) for part, is_told in zip(tokens, told, strict=True)])
            total = total + layer(join([part.to(layer.weight.dtype) for part in tokens])) * there
        return total


def _frame_of(frames: Sequence[int], cells: Sequence[int]) -> Tensor:
    """The number of the frame of each token of clips end to end, int64 [L]."""
    sizes = [cell for frame, cell in zip(frames, cells, strict=True) for _ in range(frame)]
    return numbered(sizes)


def _to_tokens(x: Tensor, patch: int) -> Tensor:
    """[C, T, H, W] to [T H W / p², C p²]."""
    x = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [C, T, H, p, W, p]
    return x.permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(0, 2)


def _from_tokens(tokens: Tensor, shape: tuple[int, int, int], patch: int) -> Tensor:
    """The inverse of `_to_tokens`, for a grid of `shape` tokens."""
    x = tokens.unflatten(1, (-1, patch, patch)).unflatten(0, shape)  # [T, H, W, C, p, p]
    return x.permute(3, 0, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
