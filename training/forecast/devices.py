"""Accelerators as their vendors state them: dense bf16 matrix throughput, without the sparsity that doubles it in print, and memory.

NVIDIA data sheets: A100 80 GB (nvidia-1758950), H100 SXM (1,979 TFLOP/s with sparsity), H200 SXM (1,979 with sparsity), HGX B200
(36 PFLOP/s with sparsity and 1.44 TB for eight), L40S (733 with sparsity). AMD data sheets: Instinct MI300X and MI325X (1,307.4 each).
"""

from dataclasses import dataclass

from training.settings import TrainError, nearest


@dataclass(frozen=True)
class Device:
    """One accelerator: `flops_per_s` at its peak in dense bf16, `memory_bytes` by the vendor's decimal gigabytes."""

    name: str
    flops_per_s: float
    memory_bytes: float


DEVICES = {
    name: Device(name, tera_flops * 1e12, memory_gb * 1e9)
    for name, tera_flops, memory_gb in (
        ("a100-80gb", 312, 80),
        ("h100", 989, 80),
        ("h200", 989, 141),
        ("b200", 2250, 180),
        ("l40s", 362, 48),
        ("mi300x", 1307, 192),
        ("mi325x", 1307, 256),
    )
}


def device_of(name: str) -> Device:
    """A device by its name. Raises TrainError."""
    if name.lower() not in DEVICES:
        raise TrainError(f"unknown device {name!r}; {nearest(name.lower(), DEVICES)}")
    return DEVICES[name.lower()]
