"""The diffusion transformer: noisy latents, noise level, text, frame rate and tags in; the latents' velocity out.

Full attention over all space-time tokens, after DiT (Peebles & Xie 2023): adaLN-zero modulation by noise level and
tags, rotary positions (Su et al. 2021) in three dimensions with time in seconds, query-key norm (Dehghani et al. 2023),
and cross-attention to text: read by a byte-level encoder that is trained along, or given as features of a frozen one. Clips of
different shapes stand end to end in one row (NaViT: Dehghani et al. 2023), each with its own noise level and conditions, and
attend to nothing but themselves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.conditions import UNKNOWN
from training.config import DiTConfig

_PAD, _BEGIN = 256, 257  # beside the 256 byte values
_TIME_UNIT_S = 1 / 8  # one step of the rotary time axis


@dataclass(frozen=True)
class TextBytes:
    """UTF-8 text as numbers: `ids` int64 [B, L], and `mask` bool [B, L], true where there is text."""

    ids: Tensor
    mask: Tensor


@dataclass(frozen=True)
class TextFeatures:
    """What a frozen encoder makes of B texts: of `each` its tokens [L, W], and of the `empty` text."""

    each: tuple[Tensor, ...]
    empty: Tensor

    def without(self, hidden: Sequence[bool]) -> "TextFeatures":
        """The same with the empty text in place of those hidden."""
        return TextFeatures(tuple(self.empty if hide else kept for kept, hide in zip(self.each, hidden, strict=True)), self.empty)


@dataclass(frozen=True)
class Conditions:
    """What the DiT is told of B clips; `latent_fps` [B] is latent frames a second, `tags` int64 [B, N] are bins, 0 if unknown.

    `features` are those of the texts, where a frozen encoder reads them.
    """

    texts: tuple[str, ...]
    latent_fps: Tensor
    tags: Tensor
    features: TextFeatures | None = None

    def without(self, text: Tensor, tags: Tensor) -> "Conditions":
        """The same with some hidden: `text` bool [B] and `tags` bool [B, N] are true where the value is dropped."""
        hidden = text.tolist()
        texts = tuple("" if hide else kept for kept, hide in zip(self.texts, hidden, strict=True))
        features = self.features and self.features.without(hidden)
        return Conditions(texts, self.latent_fps, self.tags.masked_fill(tags, UNKNOWN), features)


@dataclass(frozen=True)
class Text:
    """Texts as blocks attend to them: `features` [B, L, text_width], and `mask` bool [B, L], true where there is text."""

    features: Tensor
    mask: Tensor


def to_bytes(texts: Sequence[str], max_bytes: int) -> TextBytes:
    """Texts, cut to `max_bytes`, as ids behind a begin mark; an empty text is the mark alone."""
    rows = [[_BEGIN, *text.encode()[:max_bytes]] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [_PAD] * (longest - len(row)) for row in rows])
    return TextBytes(ids, ids != _PAD)


def rotary_angles(positions: Tensor, head_size: int, theta: float) -> Tensor:
    """Angles [..., L, head_size / 2] of positions [..., L, 3] (time, row, column); time has a quarter of the pairs."""
    pairs = head_size // 2
    spatial = pairs * 3 // 8
    angles = []
    for axis, count in enumerate((pairs - 2 * spatial, spatial, spatial)):
        frequencies = theta ** -(torch.arange(count, dtype=torch.float32) / count)
        angles.append(positions[..., axis, None] * frequencies)
    return torch.cat(angles, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs of x [B, heads, L, head_size] by angles [B, L, head_size / 2]."""
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def token_positions(shape: tuple[int, int, int], latent_fps: Tensor) -> Tensor:
    """Positions [T H W, 3] of a (T, H, W) grid: time in 1/8 s, for a scalar rate; row and column in tokens from the middle."""
    frames, rows, columns = (torch.arange(size, dtype=torch.float32) for size in shape)
    times = frames / (latent_fps * _TIME_UNIT_S)
    return torch.cartesian_prod(times, rows - rows.mean(), columns - columns.mean()).view(-1, 3)


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Numbers in [0, 1], [...], as waves [..., width] (Vaswani et al. 2017)."""
    half = width // 2
    angles = 1000 * t[..., None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Attention(nn.Module):
    """Multi-head attention of x to a context, with normalized queries and keys."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads, head_size = heads, width // heads
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(context_width or width, 2 * width)
        self.query_norm, self.key_norm = nn.RMSNorm(head_size), nn.RMSNorm(head_size)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        angles: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """x [B, L, width], context [B, M, context_width], angles [B, L, head_size / 2], mask bool [B, M] -> like x.

        With the `lengths` of S segments x is one row [1, L, width], each segment of which sees only its own context: itself
        in the context [1, L, ...], or, with a mask [S, M], its row of the context [S, M, ...].
        """
        query = self._split(self.to_query(x))
        key, value = map(self._split, self.to_key_value(context).chunk(2, dim=-1))
        query, key = self.query_norm(query), self.key_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        allowed = None if mask is None else mask[:, None, None, :]
        if lengths is None:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        else:
            size, axis = (lengths, 2) if allowed is None else (1, 0)
            masks = [None] * len(lengths) if allowed is None else allowed.split(1)
            segments = zip(query.split(lengths, 2), key.split(size, axis), value.split(size, axis), masks, strict=True)
            mixed = torch.cat([F.scaled_dot_product_attention(q, k, v, attn_mask=m) for q, k, v, m in segments], dim=2)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


class TextEncoder(nn.Module):
    """A small transformer over bytes: the text encoder that needs no weights."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width = config.text_width
        self.embedding = nn.Embedding(258, width)
        self.position = nn.Parameter(0.02 * torch.randn(1 + config.max_text_bytes, width))
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.LayerNorm(width), Attention(width, width // 16), nn.LayerNorm(width), _mlp(width)])
            for _ in range(config.text_depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, conditions: Conditions) -> Text:
        text = to_bytes(conditions.texts, len(self.position) - 1)
        x = self.embedding(text.ids) + self.position[: text.ids.shape[1]]
        for attention_norm, attention, mlp_norm, mlp in self.blocks:
            normed = attention_norm(x)
            x = x + attention(normed, normed, mask=text.mask)
            x = x + mlp(mlp_norm(x))
        return Text(self.norm(x), text.mask)


class FeatureMap(nn.Module):
    """Features of a frozen text encoder, brought to the width that blocks attend to."""

    def __init__(self, feature_width: int, text_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(feature_width)
        self.out = nn.Linear(feature_width, text_width)

    def forward(self, conditions: Conditions) -> Text:
        if conditions.features is None:
            raise ValueError("this dit reads texts by the features of a frozen encoder, and was given none")
        each = conditions.features.each
        lengths = torch.tensor([len(text) for text in each])
        padded = nn.utils.rnn.pad_sequence(each, batch_first=True)
        return Text(self.out(self.norm(padded)), torch.arange(padded.shape[1]) < lengths[:, None])


class Block(nn.Module):
    """Self-attention over space-time, cross-attention to text, MLP; it begins as the identity, its gates being zero."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width = config.width
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attention = Attention(width, config.heads)
        self.text_norm = nn.LayerNorm(width)
        self.text_attention = Attention(width, config.heads, config.text_width)
        self.mlp = _mlp(width)
        self.modulation = nn.Linear(width, 6 * width)
        for layer in (self.modulation, self.text_attention.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor, angles: Tensor, text: Tensor, mask: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """x [B, L, width], condition [S, width], text [S, M, text_width] with mask [S, M] -> like x.

        Either B is S, the number of clips, or B is 1 and `lengths` are those of the S clips in its row.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = _per_token(self.modulation(F.silu(condition)), lengths).chunk(6, dim=-1)
        normed = self.norms[0](x) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(normed, normed, angles, lengths=lengths)
        x = x + self.text_attention(self.text_norm(x), text, mask=mask, lengths=lengths)
        return x + gate2 * self.mlp(self.norms[1](x) * (1 + scale2) + shift2)


class DiT(nn.Module):
    """The whole transformer. `num_tags` is how many tag conditions it takes, `feature_width` that of a frozen text encoder, if any."""

    def __init__(self, config: DiTConfig, latent_channels: int, num_tags: int, feature_width: int | None = None):
        super().__init__()
        self.config = config
        width, token = config.width, latent_channels * config.patch**2
        self.embed = nn.Linear(token, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.tags = nn.ModuleList(nn.Embedding(1 + config.tag_bins, width) for _ in range(num_tags))
        for bins in self.tags:
            nn.init.normal_(bins.weight, std=0.02)
        self.text = TextEncoder(config) if feature_width is None else FeatureMap(feature_width, config.text_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, token)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_t: Sequence[Tensor], t: Tensor, conditions: Conditions) -> tuple[Tensor, ...]:
        """Noisy latents, S of [C, T, H, W] that may differ in shape, at noise levels t [S] to their velocities, alike."""
        patch = self.config.patch
        shapes = [(x.shape[1], x.shape[2] // patch, x.shape[3] // patch) for x in x_t]
        tokens = [_to_tokens(x, patch) for x in x_t]
        places = [token_positions(shape, fps) for shape, fps in zip(shapes, conditions.latent_fps, strict=True)]
        lengths = [len(clip) for clip in tokens] if len(set(map(len, tokens))) > 1 else None
        join = torch.stack if lengths is None else lambda parts: torch.cat(parts)[None]
        angles = rotary_angles(join(places), self.config.width // self.config.heads, self.config.rope_theta)
        condition = self.time(sinusoids(t, self.config.width)) + self._tag_condition(conditions.tags)
        text = self.text(conditions)
        x = self.embed(join(tokens))
        for block in self.blocks:
            x = block(x, condition, angles, text.features, text.mask, lengths)
        shift, scale = _per_token(self.modulation(F.silu(condition)), lengths).chunk(2, dim=-1)
        out = self.out(self.norm(x) * (1 + scale) + shift)
        clips = out.unbind() if lengths is None else out[0].split(lengths)
        return tuple(_from_tokens(clip, shape, patch) for clip, shape in zip(clips, shapes, strict=True))

    def _tag_condition(self, tags: Tensor) -> Tensor:
        """Bins [B, N] to one vector [B, width]."""
        total = torch.zeros(len(tags), self.config.width)
        for embedding, bins in zip(self.tags, tags.unbind(dim=1), strict=True):
            total = total + embedding(bins)
        return total


def _per_token(values: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Values [S, width] per clip, for x [S, L, width], or for the row [1, L, width] in which clips of `lengths` stand."""
    if lengths is None:
        return values.unsqueeze(1)
    repeats = torch.tensor(lengths, device=values.device)
    return values.repeat_interleave(repeats, dim=0, output_size=sum(lengths)).unsqueeze(0)


def _to_tokens(x: Tensor, patch: int) -> Tensor:
    """[C, T, H, W] to [T H W / p², C p²]."""
    x = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [C, T, H, p, W, p]
    return x.permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(0, 2)


def _from_tokens(tokens: Tensor, shape: tuple[int, int, int], patch: int) -> Tensor:
    """The inverse of `_to_tokens`, for a grid of `shape` tokens."""
    x = tokens.unflatten(1, (-1, patch, patch)).unflatten(0, shape)  # [T, H, W, C, p, p]
    return x.permute(3, 0, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
