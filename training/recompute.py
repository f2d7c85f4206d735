"""What of a block is computed again in the backward pass, to save the memory of keeping it."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "full"]


def recomputed(function: Callable[..., Tensor], inputs: tuple[Any, ...], recompute: Recompute) -> Tensor:
    """The function of the inputs, which must draw no random numbers.

    "full" keeps the inputs alone (Chen et al. 2016); "selective" also what is dear to compute: attention, and every second
    matrix product, as torchtitan (Liang et al. 2025) does.
    """
    if recompute == "none" or not torch.is_grad_enabled():
        return function(*inputs)
    contexts = {"context_fn": _selective} if recompute == "selective" else {}
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **contexts)  # type: ignore[return-value]


def _selective() -> Any:
    """Contexts of one forward pass and of its recomputation. A plain function, since torch.compile traces where it is handed over."""
    return create_selective_checkpoint_contexts(_keep())


def _keep() -> Callable[..., CheckpointPolicy]:
    """Which results are kept: all attention, and every second matrix product."""
    products = Counter[bool]()  # seen in the forward pass, and again as it is recomputed

    def policy(context: Any, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
        name = str(op)
        if "attention" in name:
            return CheckpointPolicy.MUST_SAVE
        if any(kind in name for kind in ("aten.mm", "aten.addmm", "aten.linear")):
            products[context.is_recompute] += 1
            return CheckpointPolicy.MUST_SAVE if products[context.is_recompute] % 2 else CheckpointPolicy.PREFER_RECOMPUTE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return policy
