"""What a dit is told of its clips, beside their noisy latents: one interface for every kind of condition.

Each of them may be absent, and a dit is trained with each of them left out at random, so that one model does with any of them.
Text and tags hold for the whole clip; known frames are latents that stand in the clip itself, at a noise level of their own
(as in Wan 2.2 and LTX-Video, HaCohen et al. 2024); a control is a map on the grid of the latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from training.config import CONTROLS, ConditionsConfig
from training.tag_bins import UNKNOWN


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
    """What the DiT is told of B clips.

    `latent_fps` [B] is latent frames a second, nan if unknown. `tags` int64 [B, N] are bins, 0 if unknown. `features` are those
    of the texts, where a frozen encoder reads them. `controls` maps names to the map of each clip, [C, T', H', W'] on the grid of
    its latents, or None.
    """

    texts: tuple[str, ...]
    latent_fps: Tensor
    tags: Tensor
    features: TextFeatures | None = None
    controls: Mapping[str, tuple[Tensor | None, ...]] = field(default_factory=dict)

    def without(self, text: Tensor, tags: Tensor) -> "Conditions":
        """The same with some hidden: `text` bool [B] and `tags` bool [B, N] are true where the value is dropped."""
        hidden = text.tolist()
        texts = tuple("" if hide else kept for kept, hide in zip(self.texts, hidden, strict=True))
        features = self.features and self.features.without(hidden)
        return replace(self, texts=texts, tags=self.tags.masked_fill(tags, UNKNOWN), features=features)

    def first(self, count: int) -> "Conditions":
        """Those of the first `count` clips."""
        features = self.features and TextFeatures(self.features.each[:count], self.features.empty)
        controls = {name: maps[:count] for name, maps in self.controls.items()}
        return Conditions(self.texts[:count], self.latent_fps[:count], self.tags[:count], features, controls)


@dataclass(frozen=True)
class Told:
    """What of B clips a batch tells, each as bool [B] unless said otherwise.

    `tags` is bool [B, N]. Of each clip the first `known_frames` int64 [B] latent frames are given, at noise level `known_level` [B].
    """

    text: Tensor
    fps: Tensor
    tags: Tensor
    known_frames: Tensor
    known_level: Tensor
    controls: Mapping[str, Tensor]


def draw_told(mix: ConditionsConfig, latent_frames: Sequence[int], num_tags: int, generator: torch.Generator) -> Told:
    """Draw what is told of clips of so many `latent_frames`, by the shares of a mix.

    Of a clip of one latent frame none is known, neither the first nor the last, since nothing would be left to learn. A continuation
    knows from one frame to all but one.
    """
    count = len(latent_frames)

    def share(value: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) < value

    text, fps, tags = share(mix.text), share(mix.fps), share(mix.tags, num_tags)
    controls = {name: share(getattr(mix, name)) for name in CONTROLS}
    kind, length, level = torch.rand(3, count, generator=generator)
    free = torch.tensor(latent_frames) - 1
    controls["last_frame"] &= free > 0
    first = (kind < mix.first_frame) & (free > 0)
    goes_on = ~first & (kind < mix.first_frame + mix.continuation) & (free > 0)
    known = torch.where(goes_on, 1 + (length * free).long().clamp(max=free - 1), first.long())
    return Told(text, fps, tags, known, torch.where(goes_on, level * mix.context_noise, 0.0), controls)
