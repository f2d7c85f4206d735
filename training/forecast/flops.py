"""Floating point operations of the diffusion transformer in closed form: sizes come in, operations by component go out.

For the utilization (MFU) that a run logs: no pass is needed to know them. As in `training.forecast.cost`, which counts those of
a real or dry pass and against which this is checked, they are those of matrix products and attention, 2 to a multiply-add.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from torch import Tensor

from training.conditions import Conditions
from training.config import DiTConfig

TRAIN_PASSES = 3  # a forward pass, and a backward one that costs two: by inputs, and by weights or the other factor


@dataclass(frozen=True)
class DiTFlops:
    """Operations of one forward pass over a batch, all blocks together."""

    ends: int  # latents to tokens and back
    controls: int  # their maps to tokens
    conditioning: int  # noise levels of frames and the rates of clips, and from them the modulation of blocks and of the end
    self_projections: int
    self_attention: int  # of the square of each clip's length
    cross_projections: int
    cross_attention: int
    mlp: int
    text: int  # the encoder over bytes, or the map of the features of a frozen one

    @property
    def forward(self) -> int:
        return sum(astuple(self))

    @property
    def train(self) -> int:
        """Forward and backward, without what is computed anew. Nothing asks for gradients of latents and of control maps."""
        return TRAIN_PASSES * self.forward - self.ends // 2 - self.controls


def dit_flops(
    config: DiTConfig,
    latent_channels: int,
    shapes: Sequence[tuple[int, int]],
    text_lengths: Sequence[int],
    feature_width: int | None = None,
    control_channels: int = 0,
) -> DiTFlops:
    """Of S clips, each of so many latent frames and tokens to a frame, with texts of `text_lengths` tokens.

    Texts are features of a frozen encoder where `feature_width` is given, or else bytes behind a begin mark. Those of clips of one
    shape are padded to the longest. `control_channels` are those of all control maps that any of the clips has.
    """
    clips, frames = len(shapes), sum(frames for frames, _ in shapes)
    lengths = [frames * cells for frames, cells in shapes]
    tokens, squares, longest = sum(lengths), sum(length**2 for length in lengths), max(text_lengths)
    padded = [longest] * clips
    read = padded if len(set(shapes)) == 1 else text_lengths
    pairs = sum(length * words for length, words in zip(lengths, read, strict=True))
    width, text_width, depth, token = config.width, config.text_width, config.depth, latent_channels * config.patch**2
    feature_map = None if feature_width is None else _linear(sum(padded), feature_width, text_width)
    return DiTFlops(
        ends=2 * _linear(tokens, token, width),
        controls=_linear(tokens, control_channels * config.patch**2, width),
        conditioning=2 * _linear(frames + clips, width, width) + _linear(frames, width, 8 * width),
        self_projections=depth * _linear(tokens, width, 4 * width),
        self_attention=depth * _attention(squares, width),
        cross_projections=depth * (_linear(tokens, width, 2 * width) + _linear(sum(read), text_width, 2 * width)),
        cross_attention=depth * _attention(pairs, width),
        mlp=depth * _linear(tokens, width, 2 * config.mlp_width),
        text=_byte_encoder(config, sum(padded), sum(padded) * longest) if feature_map is None else feature_map,
    )


def dit_flops_of(config: DiTConfig, x: Sequence[Tensor], conditions: Conditions) -> DiTFlops:
    """Of a batch as the dit takes it: S latents [C, T, H, W] and what is told of them."""
    shapes = [(clip.shape[1], clip[0, 0].numel() // config.patch**2) for clip in x]
    maps = [next((one for one in each if one is not None), None) for each in conditions.controls.values()]
    channels, control_channels = x[0].shape[0], sum(len(one) for one in maps if one is not None)
    if conditions.features is not None:
        each = conditions.features.each
        return dit_flops(config, channels, shapes, [len(text) for text in each], each[0].shape[1], control_channels)
    lengths = [1 + min(len(text.encode()), config.max_text_bytes) for text in conditions.texts]
    return dit_flops(config, channels, shapes, lengths, None, control_channels)


def _byte_encoder(config: DiTConfig, words: int, pairs: int) -> int:
    width = config.text_width
    return config.text_depth * (_linear(words, width, 4 * width) + _attention(pairs, width) + _linear(words, width, 8 * width))


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _attention(pairs: int, width: int) -> int:
    """Of so many pairs of a query and a key: their products, and the sums of values."""
    return 4 * pairs * width
