"""A CLIP of the real architecture, small and random, in the folder layout that open_clip publishes: no CLIP weights come with the tests."""

import json
from functools import cache
from pathlib import Path
from typing import Any

NAME = "tiny"
CONFIG = {
    "embed_dim": 768,  # that of ViT-L/14, so that LAION's real heads fit
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@cache
def _state(seed: int) -> dict[str, Any]:
    import torch
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    network = CLIP(**CONFIG)
    network.logit_scale.data.fill_(4.6052)  # 100, that of OpenAI's models
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def write_clip(models: Path, name: str = NAME, seed: int = 0, pickled: bool = False) -> Path:
    """Make the folder `name` below `models`; returns the weight file."""
    import safetensors.torch
    import torch

    folder = models / name
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"interpolation": "bicubic"}}))
    if pickled:
        torch.save(_state(seed), folder / "open_clip_pytorch_model.bin")
        return folder / "open_clip_pytorch_model.bin"
    safetensors.torch.save_file(_state(seed), folder / "open_clip_model.safetensors")
    return folder / "open_clip_model.safetensors"
