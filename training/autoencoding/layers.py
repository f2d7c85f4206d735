"""Layers of the causal autoencoder, which take a video [B, C, T, H, W] whole or as one chunk of frames after the other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Past:
    """What the convolutions of a network keep of the chunks before, so that the next gives what the whole video would."""

    def __init__(self) -> None:
        self._frames: dict[nn.Module, Tensor] = {}
        self.begun = False  # whether a chunk has been through the whole network

    def before(self, layer: nn.Module) -> Tensor | None:
        """The frames [B, C, n, H, W] that `layer` has seen last; None before the first chunk."""
        return self._frames.get(layer)

    def keep(self, layer: nn.Module, frames: Tensor) -> None:
        self._frames[layer] = frames.clone()  # of a view, which would keep the whole chunk alive


class CausalConv3d(nn.Conv3d):
    """A convolution that sees no later frame: the first frame is repeated in front, zeros surround each picture.

    Weights are kept near one and scaled where they are used (Karras et al. 2018), so that a step of Adam moves the output of a
    wide layer no further than that of a narrow one.
    """

    def __init__(self, inputs: int, outputs: int, time_stride: int = 1, space_stride: int = 1):
        super().__init__(inputs, outputs, 3, stride=(time_stride, space_stride, space_stride), padding=(0, 1, 1))
        self._scale = (inputs * 27) ** -0.5
        with torch.no_grad():
            self.weight /= self._scale

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """[B, inputs, T, H, W] to [B, outputs, T, H, W]; strides of 2 give (T + 1) / 2, H / 2 and W / 2, of later chunks T / 2."""
        before = past.before(self) if past else None
        x = torch.cat([x[:, :, :1].expand(-1, -1, 2, -1, -1) if before is None else before, x], dim=2)
        if past:
            past.keep(self, x[:, :, self.stride[0] - 3 :])
        return self._conv_forward(x, self.weight * self._scale, self.bias)


class ChannelNorm(nn.Module):
    """RMS norm (Zhang & Sennrich 2019) over the channels of each position of [B, C, T, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * self.scale


class Chain(nn.Sequential):
    """Layers one after the other, each told of the past that concerns it."""

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        for layer in self:
            x = layer(x, past) if isinstance(layer, (Chain, CausalConv3d, Resample, Upsample, Moments)) else layer(x)
        return x


class ResidualBlock(Chain):
    """Two convolutions around a skip; [B, C, T, H, W] keeps its shape."""

    def __init__(self, channels: int):
        conv = [CausalConv3d(channels, channels) for _ in range(2)]
        super().__init__(ChannelNorm(channels), nn.SiLU(), conv[0], ChannelNorm(channels), nn.SiLU(), conv[1])
        nn.init.zeros_(conv[1].weight)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        return x + super().forward(x, past)


class Resample(nn.Module):
    """A causal convolution with strides, beside a mean of the same pixels: [B, inputs, T, H, W] to fewer positions."""

    def __init__(self, inputs: int, outputs: int, time_stride: int = 1, space_stride: int = 1):
        super().__init__()
        self.conv = CausalConv3d(inputs, outputs, time_stride, space_stride)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        time_stride, space_stride, _ = self.conv.stride
        first = time_stride - 1 if past and past.begun else 0  # the frame on which a step of the stride ends
        coarse = F.avg_pool3d(x[:, :, first::time_stride], (1, space_stride, space_stride))
        return self.conv(x, past) + to_width(coarse, self.conv.out_channels)


class Upsample(nn.Module):
    """The way back from strides of 2: [B, inputs, T, H, W] to [B, outputs, 2 T - 1, 2 H, 2 W], of later chunks 2 T frames."""

    def __init__(self, inputs: int, outputs: int, time_stride: int, space_stride: int):
        super().__init__()
        self.time_stride, self.space_stride = time_stride, space_stride
        self.resample = Resample(inputs, outputs)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        first = 0 if past and past.begun else self.time_stride - 1
        x = x.repeat_interleave(self.time_stride, dim=2)[:, :, first:]
        return self.resample(x.repeat_interleave(self.space_stride, dim=3).repeat_interleave(self.space_stride, dim=4), past)


class Moments(nn.Module):
    """The end of an encoder: [B, inputs, T, H, W] to means, which begin as the same pixels, and log variances [B, 2 outputs, T, H, W]."""

    def __init__(self, inputs: int, outputs: int, log_variance: float):
        super().__init__()
        self.conv = CausalConv3d(inputs, 2 * outputs)
        nn.init.zeros_(self.conv.weight)
        nn.init.constant_(self.conv.bias[outputs:], log_variance)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        moments = self.conv(x, past)
        means = to_width(x, moments.shape[1] // 2)
        return moments + torch.cat([means, torch.zeros_like(means)], dim=1)


def to_width(x: Tensor, channels: int) -> Tensor:
    """Repeat or average the channels of [B, C, ...] to `channels`, without weights."""
    x = x.repeat_interleave(-(-channels // x.shape[1]), dim=1) if channels > x.shape[1] else x
    share = x.shape[1] / channels
    if share.is_integer():
        return x.unflatten(1, (channels, -1)).mean(dim=2)
    return F.interpolate(x.flatten(2).transpose(1, 2), channels, mode="area").transpose(1, 2).unflatten(2, x.shape[2:])


def reach(network: nn.Module, first: int, last: int) -> tuple[int, int]:
    """The first and last cell along one side of a picture that the cells `first` to `last` of a network's output depend on.

    Followed from the last layer to the first, by kernel and stride of each. Cells outside the picture are the padding's.
    """
    for layer in reversed(list(network.modules())):  # of what a module holds, the last comes first, and then itself
        if isinstance(layer, CausalConv3d):
            first, last = first * layer.stride[1] - 1, last * layer.stride[1] + 1
        elif isinstance(layer, Upsample):
            first, last = first // layer.space_stride, last // layer.space_stride
    return first, last
