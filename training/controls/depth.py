"""Depth as a control: which parts of the picture are nearer, by a model out of a folder, one picture a frame.

Depth Anything (Yang et al. 2024) and DPT (Ranftl et al. 2021), which see inverse depth up to scale and shift; of a metric
Depth Anything the inverse is taken. Each frame is seen alone. Levels are those of the whole clip, so that what comes nearer grows.
"""

from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from training.controls.grid import Grid, as_levels, fold_frames
from training.encoding.folders import check_folder, folder_digest, load_config, load_network, load_processor

KEY = "controls.depth"
_EXAMPLE = "Depth Anything V2 Small"
_KINDS = ("depth_anything", "dpt")
_UNUSED = ("pooler.", "fusion_stage.layers.0.residual_layer1.")  # the first fusion has nothing to add: published files go without
_ENDS = (0.01, 0.99)  # quantiles of a clip that become -1 and 1
_NEAREST_M = 1e-2  # of a metric model, whose depth may come near to 0


class DepthModel:
    """A model in a folder, whose weights are loaded when first needed. May be used by several threads at once."""

    def __init__(self, folder: Path):
        """Raises TrainError where transformers or a file is missing, or it is a model of another kind."""
        self.folder = folder
        self._lock = Lock()
        check_folder(folder, KEY, _EXAMPLE)
        self._config = load_config(folder, KEY, _KINDS, _EXAMPLE)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over configs and weights, by the names of their files."""
        return folder_digest(self.folder, KEY)

    def inverse_depths(self, pixels: np.ndarray) -> np.ndarray:
        """Of frames uint8 [T, H, W, 3] RGB, float32 [T, h, w] at the size the model works at: more is nearer. Raises TrainError."""
        with self._lock:  # cached_property holds none of its own
            processor, network = self._processor, self._network
        return np.stack([self._of(frame, processor, network) for frame in pixels])

    @torch.no_grad()
    def _of(self, frame: np.ndarray, processor: Any, network: Any) -> np.ndarray:
        inputs = processor(frame, return_tensors="pt", input_data_format="channels_last")
        found = network(pixel_values=inputs["pixel_values"]).predicted_depth[0].numpy()
        is_metric = getattr(self._config, "depth_estimation_type", "relative") == "metric"
        return 1 / np.maximum(found, _NEAREST_M) if is_metric else found

    @cached_property
    def _processor(self) -> Any:
        return load_processor(self.folder, KEY)

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForDepthEstimation

        return load_network(AutoModelForDepthEstimation, self.folder, KEY, _UNUSED)


def depth_map(pixels: np.ndarray, grid: Grid, model: DepthModel) -> Tensor:
    """The map of a clip uint8 [T, H, W, 3] RGB, int8 [grid.cell, T', H', W']: 127 is nearest and -127 farthest within the clip.

    0 everywhere where all is equally far. Raises TrainError where the model cannot be loaded, ValueError.
    """
    near = model.inverse_depths(pixels)
    low, high = np.quantile(near, _ENDS)
    size = pixels.shape[2], pixels.shape[1]
    levels = torch.zeros(pixels.shape[:3], dtype=torch.int8)
    if high > low:
        for place, frame in zip(levels, near, strict=True):
            share = cv2.resize((frame - low) / (high - low), size, interpolation=cv2.INTER_LINEAR)
            place.copy_(as_levels(torch.from_numpy(2 * share - 1)))
    return fold_frames(levels[None], grid)
