"""Keypoints as a control: the skeleton of a person, by a model out of a folder, drawn one picture a frame.

ViTPose (Xu et al. 2022), which finds the 17 joints of COCO (Lin et al. 2014) of the one person in a box. The box is the whole
frame: no detector of persons is run, so that of several people one, or a mix of them, is found. Colors tell the limbs apart,
as in the pictures of OpenPose (Cao et al. 2017).
"""

import colorsys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from training.controls.grid import LEVELS, Grid, fold_frames
from training.encoding.folders import check_folder, folder_digest, load_config, load_network, load_processor
from training.settings import TrainError

KEY = "controls.keypoints"
PICTURE_CHANNELS = 3
JOINTS = 17  # nose; left and right eye, ear, shoulder, elbow, wrist, hip, knee, ankle
_EXAMPLE = "ViTPose Base Simple"
_KINDS = ("vitpose",)
_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6)),
    *((5, 7), (6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
_SURE = 0.3  # score of a joint from which it is drawn
_DIM = 0.6  # of limbs, so that joints stand out
_THIN = 1 / 60  # of the shorter side: thickness of limbs
_PARTS = 4  # bits of a pixel's fraction when drawing
_BODY = 0  # of ViTPose+, whose experts are for several sets: COCO's


@dataclass(frozen=True, eq=False)
class Poses:
    """One person in each of T frames: `joints` float32 [T, 17, 2], x and y in pixels, and how sure each is, `scores` [T, 17]."""

    joints: np.ndarray
    scores: np.ndarray


class KeypointModel:
    """A model in a folder, whose weights are loaded when first needed. May be used by several threads at once."""

    def __init__(self, folder: Path):
        """Raises TrainError where transformers or a file is missing, or it is a model of another kind or of other joints."""
        self.folder = folder
        self._lock = Lock()
        check_folder(folder, KEY, _EXAMPLE)
        self._config = load_config(folder, KEY, _KINDS, _EXAMPLE)
        if self._config.num_labels != JOINTS:
            raise TrainError(f"{KEY}: {folder} finds {self._config.num_labels} joints, not the {JOINTS} of COCO; use one trained on COCO")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over configs and weights, by the names of their files."""
        return folder_digest(self.folder, KEY)

    def poses(self, pixels: np.ndarray) -> Poses:
        """Of frames uint8 [T, H, W, 3] RGB, each seen alone. Raises TrainError."""
        with self._lock:  # cached_property holds none of its own
            processor, network = self._processor, self._network
        found = [self._of(frame, processor, network) for frame in pixels]
        return Poses(*(np.stack([pose[name] for pose in found]).astype(np.float32) for name in ("keypoints", "scores")))

    @torch.no_grad()
    def _of(self, frame: np.ndarray, processor: Any, network: Any) -> Any:
        whole = [[[0.0, 0.0, float(frame.shape[1]), float(frame.shape[0])]]]
        inputs = processor(frame, boxes=whole, return_tensors="pt", input_data_format="channels_last")
        expert = {"dataset_index": torch.tensor([_BODY])} if self._config.backbone_config.num_experts > 1 else {}
        return processor.post_process_pose_estimation(network(pixel_values=inputs["pixel_values"], **expert), boxes=whole)[0][0]

    @cached_property
    def _processor(self) -> Any:
        return load_processor(self.folder, KEY)

    @cached_property
    def _network(self) -> Any:
        from transformers import VitPoseForPoseEstimation

        return load_network(VitPoseForPoseEstimation, self.folder, KEY)


def keypoint_map(pixels: np.ndarray, grid: Grid, model: KeypointModel) -> Tensor | None:
    """The map of a clip uint8 [T, H, W, 3] RGB, int8 [3 * grid.cell, T', H', W']: a skeleton on 0; None where no joint is found.

    Raises TrainError where the model cannot be loaded, ValueError.
    """
    poses = model.poses(pixels)
    if not (poses.scores >= _SURE).any():
        return None
    pictures = torch.from_numpy(skeletons(poses, *pixels.shape[1:3])).view(torch.int8)
    return fold_frames(pictures.permute(3, 0, 1, 2), grid)


def skeletons(poses: Poses, height: int, width: int) -> np.ndarray:
    """The sure joints of each pose and the limbs between them as pictures uint8 [T, H, W, 3] of levels up to 127."""
    pictures = np.zeros((len(poses.joints), height, width, PICTURE_CHANNELS), np.uint8)
    thick = max(1, round(_THIN * min(height, width)))
    for picture, joints, scores in zip(pictures, poses.joints, poses.scores, strict=True):
        sure = (scores >= _SURE) & np.isfinite(joints).all(axis=1)
        places = [tuple(place) for place in (np.nan_to_num(joints, posinf=0, neginf=0) * 2**_PARTS).round().astype(int).tolist()]
        for number, (one, other) in enumerate(_LIMBS):
            if sure[one] and sure[other]:
                cv2.line(picture, places[one], places[other], _color(number, len(_LIMBS), _DIM), thick, cv2.LINE_AA, _PARTS)
        for number in np.flatnonzero(sure):
            cv2.circle(picture, places[number], thick << _PARTS, _color(number, JOINTS, 1.0), -1, cv2.LINE_AA, _PARTS)
    return pictures


def _color(number: int, count: int, strength: float) -> tuple[float, ...]:
    return tuple(LEVELS * part for part in colorsys.hsv_to_rgb(number / count, 1.0, strength))
