"""How fast a step was and what it took: seconds and counts come in, figures for the log go out."""

import resource
from collections.abc import Iterable

import torch

from training.config import StageConfig, TrainConfig
from training.data import Batch
from training.forecast.devices import DEVICES
from training.forecast.flops import dit_flops_of


def step_flops(config: TrainConfig, stage: StageConfig, batches: Iterable[Batch]) -> float | None:
    """Floating point operations of the dit on this rank for its batches of a step, forward and backward; None for a vae, not counted."""
    if stage.model != "dit":
        return None
    return float(sum(dit_flops_of(config.dit, batch.x, batch.conditions).train for batch in batches))


def speed(seconds: float, loading_seconds: float, samples: int, tokens: int, flops: float | None, device: torch.device) -> dict[str, float]:
    """Metrics of a step of all ranks that took `seconds`, of which `loading_seconds` waiting for data; `flops` are of one rank.

    `mfu` is the share of what the device could do in dense bf16, by its vendor.
    """
    figures = {"samples_per_s": samples / seconds, "tokens_per_s": tokens / seconds, "data_share": loading_seconds / seconds}
    if flops is not None:
        figures["tflops"] = flops / seconds / 1e12
        if peak := peak_flops_per_s(device):
            figures["mfu"] = flops / seconds / peak
    return {**figures, "memory_gb": peak_memory(device) / 1e9}


def peak_flops_per_s(device: torch.device) -> float | None:
    """Of a device that is known, in dense bf16."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    return next((known.flops_per_s for key, known in DEVICES.items() if key.partition("-")[0] in name), None)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: of tensors on an accelerator, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
