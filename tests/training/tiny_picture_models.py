"""Tiny models of depth and of keypoints: real classes, processors and file layout, made on the spot."""

from pathlib import Path
from typing import Any

import torch


def tiny_depth(folder: Path, family: str = "depth_anything", **changes: Any) -> Path:
    """Write a checkpoint of random weights into `folder` (made) and return it. `family` is depth_anything or dpt."""
    import transformers

    torch.manual_seed(0)
    layers = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    neck = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
    if family == "dpt":
        config = transformers.DPTConfig(
            **layers | {"patch_size": 8}, **neck, intermediate_size=32, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False, **changes
        )
        network = transformers.DPTForDepthEstimation(config)
    else:
        backbone = transformers.Dinov2Config(**layers, out_indices=[1, 2, 3, 4], reshape_hidden_states=False)
        config = transformers.DepthAnythingConfig(
            backbone_config=backbone, **neck, reassemble_hidden_size=16, head_hidden_size=4, **changes
        )
        network = transformers.DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.2)  # so that the picture matters
        network.head.conv3.bias.fill_(2.0) if family == "depth_anything" else network.head.head[4].bias.fill_(2.0)  # above the ReLU
    network.save_pretrained(folder)
    whole = {"ensure_multiple_of": 14, "keep_aspect_ratio": True} if family == "depth_anything" else {}  # a dpt is for squares
    transformers.DPTImageProcessor(size={"height": 56, "width": 56}, **whole).save_pretrained(folder)
    return folder


def tiny_keypoints(folder: Path, joints: int = 17, experts: int = 1) -> Path:
    """Write a ViTPose whose every joint is where its picture is brightest, sure by its brightness, into `folder` and return it.

    Its weights are set by hand: patches pass through all layers as they are, and the head reads how bright each is.
    """
    import transformers

    backbone = transformers.VitPoseBackboneConfig(
        image_size=(128, 96),
        patch_size=(16, 16),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        out_indices=[1],
        num_experts=experts,
        part_features=4 if experts > 1 else 256,
    )
    network = transformers.VitPoseForPoseEstimation(transformers.VitPoseConfig(backbone_config=backbone, num_labels=joints))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "layernorm" not in name:
                weight.zero_()
        patches = network.backbone.embeddings.patch_embeddings.projection
        patches.weight[0] = 1 / (3 * 16 * 16)
        patches.bias[0] = 2.0  # black is about -2 as the processor gives it
        patches.bias[1], patches.bias[2] = 8.0, -8.0  # a measure that the norm over channels keeps
        network.head.conv.weight[:, 0, 1, 1] = 0.8
    network.save_pretrained(folder)
    transformers.VitPoseImageProcessor(size={"height": 128, "width": 96}).save_pretrained(folder)
    return folder
