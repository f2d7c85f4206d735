"""What reads texts for the dit: a byte-level transformer that is trained along and needs no weights, or a map of frozen features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.attention import Attention, mlp
from training.conditions import Conditions
from training.config import DiTConfig

_PAD, _BEGIN = 256, 257  # beside the 256 byte values


@dataclass(frozen=True)
class TextBytes:
    """UTF-8 text as numbers: `ids` int64 [B, L], of which each text has the first `lengths`."""

    ids: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Text:
    """B texts as blocks attend to them: `features` [B, M, text_width], of which each text has the first `lengths`."""

    features: Tensor
    lengths: tuple[int, ...]

    @property
    def mask(self) -> Tensor | None:
        """bool [B, M], true where there is text; None where all are of the same length, and so there is nothing else."""
        return mask_of(self.lengths, self.features.device)

    def end_to_end(self) -> Tensor:
        """All texts in one row, [1, sum of lengths, text_width]."""
        return torch.cat([features[:length] for features, length in zip(self.features, self.lengths, strict=True)])[None]


def mask_of(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """bool [B, M], true for the first `lengths` of each row; None where that is all of them."""
    if len(set(lengths)) == 1:
        return None
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths).to(device, non_blocking=True)[:, None]


def to_bytes(texts: Sequence[str], max_bytes: int) -> TextBytes:
    """Texts, cut to `max_bytes`, as ids behind a begin mark; an empty text is the mark alone."""
    rows = [[_BEGIN, *text.encode()[:max_bytes]] for text in texts]
    longest = max(map(len, rows))
    return TextBytes(torch.tensor([row + [_PAD] * (longest - len(row)) for row in rows]), tuple(map(len, rows)))


class TextEncoder(nn.Module):
    """A small transformer over bytes: the text encoder that needs no weights."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        width = config.text_width
        self.embedding = nn.Embedding(258, width)
        self.position = nn.Parameter(0.02 * torch.randn(1 + config.max_text_bytes, width))
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.LayerNorm(width), Attention(width, width // 16), nn.LayerNorm(width), mlp(width, 4 * width)])
            for _ in range(config.text_depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, conditions: Conditions) -> Text:
        text = to_bytes(conditions.texts, len(self.position) - 1)
        x = self.embedding(text.ids.to(self.position.device, non_blocking=True)) + self.position[: text.ids.shape[1]]
        mask = mask_of(text.lengths, x.device)
        for attention_norm, attention, mlp_norm, widen in self.blocks:
            x = x + attention(attention_norm(x), mask=mask)
            x = x + widen(mlp_norm(x))
        return Text(self.norm(x), text.lengths)


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
        padded = nn.utils.rnn.pad_sequence(each, batch_first=True).to(self.out.weight.dtype)
        return Text(self.out(self.norm(padded)), tuple(map(len, each)))
