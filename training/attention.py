"""Multi-head attention with normalized queries and keys, the kernels that compute it, and clips end to end in one row.

The kernel is chosen, not left to chance: `Kernels` names those that may be used. Packed rows go through FlexAttention with
a block mask (Dong et al. 2024) on a GPU, or, with the same result, clip by clip through the kernel of everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from training.settings import TrainError

_BLOCK = 128  # tokens a side of a block of FlexAttention's mask
_BY_NAME = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_ANY_CAN = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)  # masks and any precision


@dataclass(frozen=True)
class Kernels:
    """What may compute attention, the first that can: `whole` without a mask, `masked` with one. `flex`: packed rows go
    through FlexAttention."""

    whole: tuple[SDPBackend, ...] = (SDPBackend.FLASH_ATTENTION, *_ANY_CAN)
    masked: tuple[SDPBackend, ...] = (SDPBackend.FLASH_ATTENTION, *_ANY_CAN)
    flex: bool = False


def choose_kernels(name: str, precision: str, device: torch.device) -> Kernels:
    """The kernels of a name: on a CPU flash or math; on a GPU the one named, for masks the best that takes them.

    "auto" is cuDNN's on GPUs of compute capability 9 and above, where it is the fastest, flash on others, and the efficient
    one in float32, which those do not take. Behind the one named stand others for what it does not take of the little that is
    not attention over space-time, such as texts of one token. Raises TrainError.
    """
    if device.type == "cpu":
        if name in ("cudnn", "efficient"):
            raise TrainError(f"system.attention: {name} is for cuda devices; say auto, flash or math")
        return Kernels((SDPBackend.MATH,), (SDPBackend.MATH,)) if name == "math" else Kernels()
    if precision == "float32" and name in ("flash", "cudnn"):
        raise TrainError(f"system.attention: on cuda devices {name} takes bfloat16 alone; say auto, or system.precision: bfloat16")
    if name == "auto" and precision == "float32":
        name = "efficient"
    elif name == "auto":
        name = "cudnn" if torch.cuda.get_device_capability(device) >= (9, 0) else "flash"
    return Kernels(tuple(dict.fromkeys((_BY_NAME[name], *_ANY_CAN))), _ANY_CAN, flex=name != "math")


@dataclass(frozen=True)
class Segments:
    """Rows of S clips end to end: each clip's queries see its own keys alone. `blocks` is the same for FlexAttention."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    blocks: BlockMask | None = None


def segments(queries: Sequence[int], keys: Sequence[int], kernels: Kernels, device: torch.device) -> Segments:
    """Segments of S clips with so many queries and keys each."""
    blocks = block_mask(queries, keys, device) if kernels.flex else None
    return Segments(tuple(queries), tuple(keys), blocks)


def numbered(lengths: Sequence[int]) -> Tensor:
    """The number of the segment of each place, for segments of so many places end to end: int64 [sum of lengths]."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths), output_size=sum(lengths))


def block_mask(queries: Sequence[int], keys: Sequence[int], device: torch.device | str) -> BlockMask:
    """The mask of segments, made of their borders: no matrix of all queries and keys is ever there."""
    q_clip, k_clip = map(numbered, (queries, keys))
    (q_low, q_high), (k_low, k_high) = _first_and_last(q_clip), _first_and_last(k_clip)
    touch = (q_low[:, None] <= k_high) & (q_high[:, None] >= k_low)
    whole = touch & (q_low == q_high)[:, None] & (k_low == k_high) & _full(len(q_clip))[:, None] & _full(len(k_clip))
    partial = touch & ~whole
    lists = [_indices(each, device) for each in (partial, whole)]
    q_clip, k_clip = q_clip.to(device, non_blocking=True), k_clip.to(device, non_blocking=True)

    def same_clip(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q_clip[q] == k_clip[k]

    sizes = (len(q_clip), len(k_clip))
    return BlockMask.from_kv_blocks(*lists[0], *lists[1], BLOCK_SIZE=_BLOCK, mask_mod=same_clip, seq_lengths=sizes)


def _first_and_last(clips: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the first and last clip in each block of tokens."""
    starts = torch.arange(0, len(clips), _BLOCK)
    return clips[starts], clips[(starts + _BLOCK - 1).clamp(max=len(clips) - 1)]


def _full(tokens: int) -> Tensor:
    """Which blocks are filled to the end: kernels may not take the last as whole where it is not."""
    return torch.arange(0, tokens, _BLOCK) + _BLOCK <= tokens


def _indices(blocks: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Of bool [Q, K] how many are true in each row, and where, those first: int32 [1, 1, Q] and [1, 1, Q, K]."""
    order = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    count = blocks.sum(dim=1)
    return count.int()[None, None].to(device, non_blocking=True), order.int()[None, None].to(device, non_blocking=True)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)


def _flex(device: torch.device) -> Any:
    """FlexAttention, which on a GPU must be compiled, by itself or with the block around it."""
    return flex_attention if device.type == "cpu" or torch.compiler.is_compiling() else _compiled_flex()


@dataclass(frozen=True)
class Rotary:
    """Turns pairs of numbers by angles (Su et al. 2021): `cos` and `sin` [B, 1, L, head_size / 2]."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, heads, L, head_size], turned, in its own precision."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * self.cos - second * self.sin, first * self.sin + second * self.cos], dim=-1).to(x.dtype)


def rotary_angles(positions: Tensor, head_size: int, theta: float) -> Tensor:
    """Angles [..., L, head_size / 2] of positions [..., L, 3] (time, row, column); time has a quarter of the pairs."""
    pairs = head_size // 2
    spatial = pairs * 3 // 8
    angles = []
    for axis, count in enumerate((pairs - 2 * spatial, spatial, spatial)):
        frequencies = theta ** -(torch.arange(count, dtype=torch.float32, device=positions.device) / count)
        angles.append(positions[..., axis, None] * frequencies)
    return torch.cat(angles, dim=-1)


def rotary(angles: Tensor) -> Rotary:
    """What turns by angles [B, L, head_size / 2]."""
    return Rotary(angles.cos().unsqueeze(1), angles.sin().unsqueeze(1))


class HeadNorm(nn.RMSNorm):
    """Of each head, in the precision of its input, so that it is one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Attention of x to itself, or to a context of another width where that is given."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads, self.kernels = heads, Kernels()
        self.joined = context_width is None  # one product for all three
        if context_width is None:
            self.to_query_key_value = nn.Linear(width, 3 * width)
        else:
            self.to_query, self.to_key_value = nn.Linear(width, width), nn.Linear(context_width, 2 * width)
        self.query_norm, self.key_norm = HeadNorm(width // heads), HeadNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        turn: Rotary | None = None,
        mask: Tensor | None = None,
        packed: Segments | None = None,
    ) -> Tensor:
        """x [B, L, width] and context [B, M, context_width] with mask bool [B, M] -> like x.

        With the segments of clips `packed` end to end both are one row, [1, L, ...] and [1, M, ...], and there is no mask.
        """
        if self.joined:
            query, key, value = map(self._split, self.to_query_key_value(x).chunk(3, dim=-1))
        else:
            query = self._split(self.to_query(x))
            key, value = map(self._split, self.to_key_value(context).chunk(2, dim=-1))
        query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        if turn is not None:
            query, key = turn(query), turn(key)
        if packed is not None:
            mixed = self._each(query, key, value, packed)
        else:
            with sdpa_kernel(list(self.kernels.whole if mask is None else self.kernels.masked), set_priority=True):
                mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=None if mask is None else mask[:, None, None, :])
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _each(self, query: Tensor, key: Tensor, value: Tensor, packed: Segments) -> Tensor:
        if packed.blocks is not None:
            return _flex(query.device)(query, key, value, block_mask=packed.blocks)
        parts = (query.split(packed.queries, 2), key.split(packed.keys, 2), value.split(packed.keys, 2))
        with sdpa_kernel(list(self.kernels.whole), set_priority=True):
            return torch.cat([F.scaled_dot_product_attention(q, k, v) for q, k, v in zip(*parts, strict=True)], dim=2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def mlp(width: int, inner: int) -> nn.Sequential:
    """Two linear maps around a GELU; [..., width] to the same."""
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))
