"""diffusers' WanTransformer3DModel in the place of the dit, so that all around it is the trainer's own: loss, gradients, optimizer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from training.attention import Kernels
from training.conditions import Conditions
from training.config import DiTConfig
from training.recompute import Recompute, recomputed

_BACKENDS = {
    SDPBackend.FLASH_ATTENTION: "_native_flash",
    SDPBackend.CUDNN_ATTENTION: "_native_cudnn",
    SDPBackend.EFFICIENT_ATTENTION: "_native_efficient",
    SDPBackend.MATH: "_native_math",
}


class Wan(nn.Module):
    """Takes what the dit takes, clips of one shape and one noise level each, with features of a frozen text encoder.

    As it comes, it is left to choose the kernels of attention and checkpoints whole blocks by its own method; `tuned`, it has those
    that are named, and what the dit may keep and compute again.
    """

    def __init__(self, config: DiTConfig, latent_channels: int, feature_width: int, tuned: bool):
        super().__init__()
        self._tuned = tuned
        self.model = WanTransformer3DModel(
            patch_size=(1, config.patch, config.patch),
            num_attention_heads=config.heads,
            attention_head_dim=config.width // config.heads,
            in_channels=latent_channels,
            out_channels=latent_channels,
            text_dim=feature_width,
            ffn_dim=config.mlp_width,
            num_layers=config.depth,
        )

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.blocks

    def use(self, kernels: Kernels, recompute: Recompute = "none") -> None:
        """As of the dit."""
        if not self._tuned:
            if recompute == "full":
                self.model.enable_gradient_checkpointing()
            return
        self.model.set_attention_backend(_BACKENDS[kernels.whole[0]])
        if recompute != "none":
            for block in self.blocks:
                block.forward = partial(_again, type(block).forward, block, recompute)

    def forward(self, x_t: Sequence[Tensor], levels: Sequence[Tensor], conditions: Conditions) -> tuple[Tensor, ...]:
        features = torch.stack(conditions.features.each)
        timesteps = 1000 * torch.stack([level[0] for level in levels])
        return self.model(torch.stack(tuple(x_t)), timesteps, features, return_dict=False)[0].float().unbind()


def _again(forward: Callable[..., Tensor], block: nn.Module, recompute: Recompute, *inputs: Any) -> Tensor:
    return recomputed(partial(forward, block), inputs, recompute)
